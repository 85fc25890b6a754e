"""The stages of `train` that are more than a call: options into plans, folds, evidence."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from medlens.config import Options
from medlens.data.dataset import Dataset
from medlens.data.fingerprint import Fingerprint
from medlens.data.images import UnreadableImage, read_image
from medlens.data.remote import join_path
from medlens.data.scan import PictureRule
from medlens.environment import cache_folder
from medlens.files import write_json, write_text
from medlens.fine_tuning import FineTuning, compare_on_test
from medlens.intake import frame, metadata_columns, prevalence, ratios
from medlens.model.averaging import Symmetric, average_over_views
from medlens.model.backbone_choice import BackboneChoice
from medlens.model.calibration import probabilities
from medlens.model.choice import Choice
from medlens.model.classifier import Classifier, ClassifierFacts, check_saved, save_classifier
from medlens.model.classifier_graph import feature_columns, read_maps_of_head
from medlens.model.cross_validation import Fold, cross_validate
from medlens.model.development import Development, refit_on_all
from medlens.model.engine import FrozenPass
from medlens.model.forward import Forward
from medlens.model.head_plan import HeadPlan, HeadSpace
from medlens.model.held_out import FITTED_ON, Choices
from medlens.model.operating_point import parse_rule
from medlens.model.plan import Decisions, plan_json
from medlens.model.training_cases import remember_cases
from medlens.model.view_features import Views
from medlens.report.evaluation import as_arrays, evaluate, headline_rows
from medlens.report.evidence import gather_evidence
from medlens.report.facts import evidence_notices, notices
from medlens.report.failures import choose_cases, draw_contact_sheet, draw_heat_maps
from medlens.report.figures import write_figures
from medlens.report.predictions import read_predictions, tabulate_held_out, write_predictions
from medlens.report.robustness import MOST_IMAGES, draw_by_group, robustness_block
from medlens.run_dir import RunDir
from medlens.screen import Screen


def run_folds(
    features: NDArray[np.float32],
    used: pd.DataFrame,
    labels: NDArray[np.int64],
    space: HeadSpace,
    choices: Choices,
    development: Development,
    views: Views | None,
    symmetric: Symmetric | None,
    options: Options,
    screen: Screen,
) -> tuple[list[Fold], Development]:
    """Cross-validate as --folds says, and refit the head on all development images.

    Returns:
        The folds, and the development with that head; without --folds none, and it as it is.
    """
    if options.folds == "none":
        return [], development
    count, num_classes = int(options.folds), int(used["label"].nunique())
    with screen.progress("Cross-validation", count, "folds") as progress:
        folds = cross_validate(
            features,
            used,
            labels,
            num_classes,
            space,
            choices,
            count,
            ratios(options),
            progress,
            views,
            symmetric,
        )
    return folds, refit_on_all(features, used, labels, num_classes, development, views)


def describe_classifier(
    development: Development,
    classes: tuple[str, ...],
    positive_class: str | None,
    features: str,
    options: Options,
    matrix: NDArray[np.float32],
    used: pd.DataFrame,
) -> ClassifierFacts:
    """What the saved classifier has to know beside its network.

    Args:
        development: What was chosen and trained.
        classes: Class names.
        positive_class: The class of interest, if there is one.
        features: "all" or "last".
        options: Say which frame, and the seed.
        matrix: The features, of shape (images, columns).
        used: One row per image, with its row of dataset.csv.
    """
    familiarity = development.familiarity
    cases = remember_cases(
        matrix,
        np.searchsorted(classes, used["label"]),
        np.flatnonzero(used["split"] == "train"),
        used["dataset_row"].to_numpy(),
        familiarity,
        seed=options.seed,
    )
    return ClassifierFacts(
        classes,
        features,
        frame(options),
        positive_class,
        development.temperature,
        development.operating_point,
        development.set_thresholds,
        FITTED_ON[development.fitted_on],
        familiarity,
        development.limit,
        cases,
        development.averaged.count if development.averaged else 1,
    )


def read_picture_of(
    used: pd.DataFrame, root: Path, rule: PictureRule, frame: int | None
) -> Callable[[int], NDArray[np.uint8] | None]:
    """Row of dataset.csv -> its picture; None where it can be read no more."""
    path_of = dict(zip(used["dataset_row"], used["path"], strict=True))

    def read(row: int) -> NDArray[np.uint8] | None:
        try:
            return rule.apply(read_image(join_path(root, path_of[row]), frame=frame).pixels)
        except UnreadableImage:
            return None

    return read


def write_evidence(
    run: RunDir,
    predictions: pd.DataFrame,
    used: pd.DataFrame,
    dataset: Dataset,
    development: Development,
    folds: Sequence[Fold],
    described: ClassifierFacts,
    frozen_pass: FrozenPass,
    options: Options,
    fine_tuning: FineTuning | None,
) -> dict[str, Any]:
    """Save the classifier, compute all numbers, and write what a reviewer looks at.

    Returns:
        The content of evaluation.json.
    """
    classes, positive_class = described.classes, described.positive_class

    def save_and_draw() -> tuple[Classifier, float, dict[str, Any] | None]:
        classifier = save_classifier(
            run.classifier,
            frozen_pass,
            development.training.head,
            described,
            read_picture_of(used, dataset.root, frozen_pass.rule, described.frame)
            if options.with_images
            else None,
        )
        difference = check_saved(classifier, predictions, dataset.root, frozen_pass.precision)
        maps = explain_cases(run, predictions, classifier, frozen_pass, dataset.root, options)
        return classifier, difference, maps

    # The network is saved, checked and explained while the numbers are computed and the figures
    # drawn: the one computes in TensorFlow, the other in NumPy.
    with ThreadPoolExecutor(1) as beside:
        saving = beside.submit(save_and_draw)
        evaluation = evaluate(
            predictions, classes=classes, positive_class=positive_class, seed=options.seed
        )
        evidence = gather_evidence(
            predictions,
            used,
            metadata_columns(dataset),
            development,
            folds,
            evaluation,
            prevalence=prevalence(options),
        )
        suspects = evidence["label_suspects"]
        # File names stand in label_suspects.csv alone.
        evidence["label_suspects"] = {k: v for k, v in suspects.items() if k != "images"}
        write_held_out(run, used, development, suspects, classes, positive_class)
        compared = None
        if fine_tuning:
            other = read_predictions(run.other_predictions)
            compared = compare_on_test(fine_tuning, evaluation, other)
        said = [*notices(used, frozen_pass.weights.kind), *evidence_notices(evidence)]
        if options.robustness and "test" not in evaluation:
            said.append(
                "Robustness was not measured: there is no test set that the saved classifier "
                "was not trained on."
            )
        content = {"notices": said, **evaluation, **evidence, "robustness": None, "saliency": None}
        content["fine_tuning"] = compared
        write_figures(run, content)
        if not options.no_images:
            frame = described.frame
            draw_contact_sheet(
                used, dataset.root, frame, frozen_pass.rule, run.contact_sheet, options.seed
            )
        classifier, difference, content["saliency"] = saving.result()
    training = json.loads(run.training.read_text(encoding="utf-8"))
    write_json(run.training, {**training, "saved_network_difference": difference})
    # Without a test set apart, the classifier that is saved was trained on every image.
    if options.robustness and "test" in evaluation:
        forward = frozen_pass.forward(cache_of(frozen_pass, run, options))
        content["robustness"] = measure_robustness(
            predictions, classifier, forward, development, frozen_pass, options, dataset.root
        )
    write_json(run.evaluation, content)
    return content


def explain_cases(
    run: RunDir,
    predictions: pd.DataFrame,
    classifier: Classifier,
    frozen_pass: FrozenPass,
    root: Path,
    options: Options,
) -> dict[str, Any] | None:
    """Draw heat maps of the failures, unless an option forbids it.

    Returns:
        The block `saliency` of evaluation.json; None where there are no heat maps.
    """
    if options.no_images or options.no_saliency:
        return None
    cases = choose_cases(headline_rows(predictions), classifier.classes)
    read_maps = None
    if frozen_pass.engine == "ncnn":
        forward = frozen_pass.forward(cache_of(frozen_pass, run, options))
        read_maps = read_maps_of_head(
            forward, frozen_pass.backbone, str(classifier.facts["features"])
        )
    return draw_heat_maps(cases, classifier, root, run.heat_maps, read_maps)


def cache_of(frozen_pass: FrozenPass, run: RunDir, options: Options) -> Path:
    """Where the network's own files are: those of a fine-tuned one lie in the run."""
    return run.tuned if frozen_pass.tuned else cache_folder(options.cache)


def write_held_out(
    run: RunDir,
    used: pd.DataFrame,
    development: Development,
    suspects: Mapping[str, Any],
    classes: Sequence[str],
    positive_class: str | None,
) -> None:
    """Write what was said of train's images out of fold, and which labels may be wrong."""
    table = tabulate_held_out(used, development, classes, positive_class)
    if table is not None:
        write_predictions(run.out_of_fold, table)
    columns = ["path", "label", "suggested", "probability"]
    listed = pd.DataFrame(suspects["images"], columns=columns)
    write_text(run.label_suspects, listed.to_csv(index=False))


def measure_robustness(
    predictions: pd.DataFrame,
    classifier: Classifier,
    forward: Forward,
    development: Development,
    frozen_pass: FrozenPass,
    options: Options,
    root: Path,
) -> list[dict[str, Any]]:
    """How much worse the test result is on mildly changed pictures."""
    tested = headline_rows(predictions)
    chosen = tested.iloc[draw_by_group(list(tested["group"]), MOST_IMAGES, options.seed)]
    pictures = np.stack([classifier.picture(join_path(root, path)) for path in chosen["path"]])
    columns = feature_columns(frozen_pass.backbone, str(classifier.facts["features"]))

    def logits_of(view: NDArray[np.uint8]) -> NDArray[np.float64]:
        starts = range(0, len(view), forward.batch)
        found = [forward.run(view[start : start + forward.batch]) for start in starts]
        return development.training.head.logits(np.concatenate(found)[:, columns])

    def run(changed: NDArray[np.uint8]) -> NDArray[np.float64]:
        count = development.averaged.count if development.averaged else 1
        return probabilities(average_over_views(logits_of, changed, count), development.temperature)

    split = as_arrays(chosen, classifier.classes)
    return robustness_block(
        run,
        pictures,
        split.truth,
        split.groups,
        list(classifier.classes),
        seed=options.seed,
        draws=1000,
    )


def fold_column(
    table: pd.DataFrame, used: pd.DataFrame, folds: list[Fold]
) -> pd.Series[str] | None:
    """The fold each image is tested in, "" for none; None without cross-validation."""
    if not folds:
        return None
    fold_of = {path: str(fold.number) for fold in folds for path in used["path"].iloc[fold.rows]}
    return table["path"].map(lambda path: fold_of.get(path, ""))


def plan_choices(options: Options, classes: Sequence[str], positive_class: str | None) -> Choices:
    """What is to be chosen on development images, as the options say it."""
    return Choices(
        positive=None if positive_class is None else list(classes).index(positive_class),
        rule=parse_rule(options.operating_point),
        prevalence=None if options.prevalence == "none" else float(options.prevalence),
        seed=options.seed,
    )


def base_head(options: Options) -> HeadPlan:
    """How heads are trained, as the options say it; their form is the plan's."""
    stop = options.stop_at_accuracy
    return HeadPlan(
        units=(),
        dropout=0.0,
        epochs=options.epochs,
        batch_size=options.batch_size,
        learning_rate=options.learning_rate,
        stop_at_accuracy=None if isinstance(stop, str) else stop,
        stop_on=options.stop_on,
        patience=options.patience,
        seed=options.seed,
    )


def say_choice(development: Development, screen: Screen) -> None:
    """Say what was chosen and why, and why the training stopped."""
    choice, ensemble = development.choice, development.ensemble
    for what, reason in choice.reasons.items():
        name = what.replace("_", " ")
        chosen = _chosen(choice).get(what)
        screen.say(f"Chosen {name}: {chosen}. {reason}" if chosen else f"{name.title()}: {reason}")
    if ensemble:
        screen.say(ensemble.reason)
    if development.averaged:
        screen.say(development.averaged.text)
    training = development.training
    screen.say(f"{training.stop_text} Best epoch: {training.best_epoch}.")


def _chosen(choice: Choice) -> dict[str, str]:
    return {
        "features": choice.features,
        "head": choice.plan.form.text,
        "class_weight": choice.plan.class_weight,
    }


def write_plan(
    run: RunDir,
    decisions: Decisions,
    fingerprint: Fingerprint,
    development: Development,
    among: BackboneChoice | None,
) -> None:
    """Write the plan with what was measured and chosen, and the curves of all candidates."""
    choice, ensemble = development.choice, development.ensemble
    chosen: dict[str, Any] = {
        what: {"value": value, "reason": choice.reasons.get(what, "Nothing was to be measured.")}
        for what, value in _chosen(choice).items()
    }
    if "augmentation" in choice.reasons:
        chosen["augmentation"] = {
            "value": choice.plan.is_augmented,
            "reason": choice.reasons["augmentation"],
        }
    if "search" in choice.reasons:
        chosen["search"] = {"value": choice.plan.form.text, "reason": choice.reasons["search"]}
    if among is not None:
        chosen["backbone"] = {"value": among.name, "reason": among.reason}
    chosen["ensemble"] = {
        "value": bool(ensemble and ensemble.is_used),
        "reason": ensemble.reason if ensemble else "Nothing was to be measured.",
    }
    write_json(run.plan, {**plan_json(decisions, fingerprint), "chosen": chosen})
    compared = choice if among is None else among
    if len(compared.candidates):
        write_text(run.candidates, compared.candidates.to_csv(index=False))
        write_text(run.candidate_curves, compared.curves.to_csv(index=False))
