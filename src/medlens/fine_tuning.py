"""The stage of `train` that fine-tunes the backbone, and says whether that is used."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from medlens.config import Options
from medlens.data.division import divide_groups
from medlens.data.roles import FIT, STOP
from medlens.data.store import Store
from medlens.environment import check_disk_space
from medlens.errors import MedlensError
from medlens.model.averaging import average_logits
from medlens.model.classifier_graph import feature_columns
from medlens.model.development import Development, develop_tuned
from medlens.model.engine import choose_pass, write_tuned
from medlens.model.features import feature_store, gather_features
from medlens.model.finetune import FineTuned, fine_tune
from medlens.model.finetune_checkpoint import BATCH, FineTuningPlan, Pictures
from medlens.model.head import Training, TrainingRows, cross_entropy
from medlens.model.head_plan import WEIGHT_DECAY, HeadPlan
from medlens.model.held_out import Choices
from medlens.model.paired_bootstrap import BOOTSTRAP_DRAWS, SURE, share_of_draws_lower
from medlens.model.plan import Decisions
from medlens.network import Extracted, Gathered, as_they_are, run_once, run_symmetric
from medlens.report.evaluation import evaluate
from medlens.report.predictions import predict_all, write_predictions
from medlens.run_dir import RunDir
from medlens.scale.cluster import NONE
from medlens.screen import Screen

COMPARED = ("accuracy", "balanced_accuracy", "roc_auc_macro", "log_loss")
NAMES = ("frozen", "fine_tuned")


@dataclass(frozen=True)
class Candidate:
    """A network with its head: frozen or fine-tuned.

    Args:
        network: With its features.
        development: The head and all that was chosen with it.
    """

    network: Gathered
    development: Development


@dataclass(frozen=True)
class FineTuning:
    """Both networks, and which one is used.

    Args:
        used: The one that goes on.
        other: The one that does not.
        is_used: Whether the fine-tuned one goes on.
        reason: Why, in words.
        plan: How it was trained.
        tuned: What came of it.
        losses: Mean cross-entropy on the images that judge: frozen, fine-tuned.
        accuracies: Accuracy on them: frozen, fine-tuned.
    """

    used: Candidate
    other: Candidate
    is_used: bool
    reason: str
    plan: FineTuningPlan
    tuned: FineTuned
    losses: tuple[float, float]
    accuracies: tuple[float, float]

    def facts(self) -> dict[str, Any]:
        """What training.json says of it."""
        plan, tuned = self.plan, self.tuned
        return {
            "is_used": self.is_used,
            "reason": self.reason,
            "blocks": plan.blocks,
            "layers": list(tuned.layers),
            "views": plan.preset,
            "optimizer": f"Adam, learning rate up to {plan.head.learning_rate:g} after the first "
            f"epoch, then falling to 0, weight decay {plan.head.weight_decay:g}",
            "batch_size": plan.batch_size,
            "epochs_run": len(tuned.history),
            "best_epoch": tuned.best_epoch,
            "stop_reason": tuned.stop_reason,
            "stop_text": tuned.stop_text,
            "val_loss": dict(zip(NAMES, self.losses, strict=True)),
            "val_accuracy": dict(zip(NAMES, self.accuracies, strict=True)),
        }


def write_other_predictions(
    run: RunDir,
    fine_tuning: FineTuning,
    used: pd.DataFrame,
    classes: tuple[str, ...],
    positive_class: str | None,
) -> None:
    """Write what the network says that is not used, in the form of predictions.csv."""
    other = fine_tuning.other
    matrix, symmetric = other.network.matrix, other.network.symmetric
    said = predict_all(matrix, used, other.development, [], classes, positive_class, symmetric)
    write_predictions(run.other_predictions, said)


def compare_on_test(
    fine_tuning: FineTuning,
    evaluation: Mapping[str, Any],
    other: pd.DataFrame,
) -> dict[str, Any]:
    """What frozen and fine-tuned networks come to on the images tested, for the report alone.

    Args:
        fine_tuning: Both networks.
        evaluation: Of the network that is used.
        other: Predictions of the network that is not.

    Returns:
        By "frozen" and "fine_tuned" the headline measures.
    """
    again = evaluate(
        other[other["split"] == "test"],
        classes=evaluation["classes"],
        positive_class=evaluation["positive_class"],
        seed=evaluation["seed"],
    )
    both = [again, evaluation] if fine_tuning.is_used else [evaluation, again]
    return {
        name: {measure: one["test"][measure] for measure in COMPARED}
        for name, one in zip(NAMES, both, strict=True)
    }


def tune_network(
    frozen: Candidate,
    used: pd.DataFrame,
    labels: NDArray[np.int64],
    decisions: Decisions,
    modality: str,
    choices: Choices,
    pictures: Store,
    run: RunDir,
    options: Options,
    cache: Path,
    screen: Screen,
) -> FineTuning | None:
    """Fine-tune as the plan says; the fine-tuned network is used only where it is surely better.

    Args:
        frozen: The frozen network and its head.
        used: One row per image.
        labels: Class numbers of shape (images,).
        decisions: Of the plan.
        modality: As the fingerprint guesses it; says what may change in a view.
        choices: What is wanted of the choices on development images.
        pictures: Holds the pictures.
        run: What is needed to go on after a break is put there.
        options: Rate and epochs.
        cache: The cache folder.
        screen: Shows the progress.

    Returns:
        None where the plan does not ask for it.
    """
    blocks = int(decisions["fine_tune"].value)
    if not blocks:
        return None
    development, network = frozen.development, frozen.network
    preset = str(decisions["augmentation"].value)
    plan = FineTuningPlan(
        plan_training(development, options),
        blocks,
        modality if preset == "none" else preset,
        network.features,
    )
    stop, judge = divide_stop(used, development.roles, seed=plan.head.seed)
    rows = TrainingRows(np.flatnonzero(development.roles == FIT), stop)
    keys = list(used["pixels_sha256"])
    steps = plan.head.epochs * -(-len(rows.fit) // BATCH)
    with screen.progress("Fine-tuning", steps, "steps") as progress:
        tuned = fine_tune(
            network.frozen_pass,
            development.training.head,
            network.matrix,
            Pictures(pictures.read, keys),
            labels,
            rows,
            plan,
            run.fine_tuning,
            progress,
            [screen.watched.callback("fine_tune")] if screen.watched else [],
        )
    own = pass_of_tuned(network, tuned, used, pictures, run, options, screen)
    head_history = development.training.history
    training = Training(
        tuned.head,
        _join_histories(head_history, tuned.history),
        tuned.best_epoch + int(head_history["epoch"].max()),
        tuned.stop_reason,
        tuned.stop_text,
        development.training.columns_kept,
    )
    candidate = Candidate(
        own,
        develop_tuned(development, training, own.matrix, used, labels, choices, own.symmetric),
    )
    as_before = replace(development.training, history=training.history)
    frozen = replace(frozen, development=replace(development, training=as_before))
    return _judge(frozen, candidate, labels, used, judge, plan, tuned, screen)


def plan_training(development: Development, options: Options) -> HeadPlan:
    """How both are trained: as the head was, but for epochs, rate and decay.

    The accuracy at which training stops is asked for only where the head alone did not reach it:
    otherwise fine-tuning would end before it had begun.
    """
    plan = development.choice.plan
    is_reached = development.training.stop_reason == "accuracy"
    return replace(
        plan,
        epochs=options.fine_tune_epochs,
        learning_rate=options.fine_tune_learning_rate,
        # What suits a head may be far too much for the backbone.
        weight_decay=WEIGHT_DECAY,
        stop_at_accuracy=None if is_reached else plan.stop_at_accuracy,
    )


def divide_stop(
    used: pd.DataFrame, roles: pd.Series[str], *, seed: int
) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    """The images that stopped the head, in two halves of whole groups.

    One stops the fine-tuning and says which epoch was the best. The other judges whether it is
    better than the frozen network: on the first the best of many epochs would flatter itself.

    Args:
        used: One row per image, with `path`, `label` and `group`.
        roles: The role of each.
        seed: Decides among equally good halves.

    Returns:
        Rows that stop, and rows that judge.

    Raises:
        MedlensError: If they are all of one group.
    """
    rows = np.flatnonzero(roles == STOP)
    images = used.iloc[rows]
    half = divide_groups(images, images["group"], shares={"stop": 0.5, "judge": 0.5}, seed=seed)
    is_stop = (half == "stop").to_numpy()
    if is_stop.all() or not is_stop.any():
        raise MedlensError(
            "There is too little val to fine-tune.",
            got=f"{len(rows)} images of one group that stop the training",
            expected="two groups at least: one stops the fine-tuning, one judges it",
            fix="Give val a larger share with --split, or leave --fine-tune out.",
        )
    return rows[is_stop], rows[~is_stop]


def pass_of_tuned(
    network: Gathered,
    tuned: FineTuned,
    used: pd.DataFrame,
    pictures: Store,
    run: RunDir,
    options: Options,
    screen: Screen,
) -> Gathered:
    """Run the fine-tuned network once per image, as the frozen one was.

    Its weights are those of this run alone, so nothing of it goes into the cache.

    Args:
        network: The frozen one.
        tuned: What came of fine-tuning.
        used: One row per image.
        pictures: Holds the pictures.
        run: All of it is put there.
        options: Name the engine.
        screen: Shows the progress.

    Raises:
        MedlensError: If the disk has too little room.
    """
    before, keys, cache = network.frozen_pass, list(used["pixels_sha256"]), run.tuned
    passes = network.symmetric.count if network.symmetric else 1
    check_disk_space(run.root, passes * len(keys) * before.bytes_per_image, "features")
    frozen_pass = choose_pass(
        before.backbone,
        before.weights,
        before.rule,
        options.engine,
        cache,
        lambda: pictures.read(keys[:4]),
        screen.say,
        write_tuned(cache / "weights.npz", tuned.weights),
    )
    extracted = Extracted(frozen_pass, feature_store(cache, frozen_pass))
    run_once(
        "Fine-tuned network", "images", keys, extracted, pictures, as_they_are, NONE, cache, screen
    )
    columns = feature_columns(before.backbone, network.features)
    matrix = gather_features(keys, extracted.features, columns, cache / "features.npy")
    symmetric = None
    if network.symmetric is not None:
        modality, path = network.symmetric.preset, cache / "symmetric_features.npy"
        symmetric = run_symmetric(
            used, modality, extracted, columns, pictures, path, NONE, cache, screen
        )
    return replace(network, frozen_pass=frozen_pass, matrix=matrix, symmetric=symmetric)


def _join_histories(head: pd.DataFrame, tuned: pd.DataFrame) -> pd.DataFrame:
    """The epochs of fine-tuning go on where those of the head end; `stage` tells them apart."""
    later = tuned.assign(epoch=tuned["epoch"] + int(head["epoch"].max()), stage="fine_tune")
    return pd.concat([head.assign(stage="head"), later], ignore_index=True)


def _judge(
    frozen: Candidate,
    tuned: Candidate,
    labels: NDArray[np.int64],
    used: pd.DataFrame,
    rows: NDArray[np.intp],
    plan: FineTuningPlan,
    result: FineTuned,
    screen: Screen,
) -> FineTuning:
    """Take the fine-tuned network where it is surely better on images held out."""
    truth, groups = labels[rows], used["group"].to_numpy()[rows]
    logits = [
        average_logits(
            one.development.training.head, one.network.matrix, rows, one.network.symmetric
        )
        for one in (frozen, tuned)
    ]
    losses = [cross_entropy(one, truth) for one in logits]
    share = share_of_draws_lower(losses[1], losses[0], groups, seed=plan.head.seed)
    means = float(losses[0].mean()), float(losses[1].mean())
    is_used = share >= SURE
    reason = (
        f"Cross-entropy on {len(rows):,} images of val that stopped no fine-tuning: "
        f"{means[0]:.4f} with the backbone frozen, {means[1]:.4f} fine-tuned; lower in "
        f"{100 * share:.1f} % of {BOOTSTRAP_DRAWS:,} draws by group, where {100 * SURE:g} % are "
        "asked. "
        + ("The fine-tuned network is used." if is_used else "The frozen network is used.")
    )
    screen.say(reason)
    if is_used and tuned.development.averaged:
        screen.say(tuned.development.averaged.text)
    accuracies = tuple(float((one.argmax(1) == truth).mean()) for one in logits)
    return FineTuning(
        used=tuned if is_used else frozen,
        other=frozen if is_used else tuned,
        is_used=is_used,
        reason=reason,
        plan=plan,
        tuned=result,
        losses=means,
        accuracies=(accuracies[0], accuracies[1]),
    )
