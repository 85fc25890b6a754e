"""Development images -> a trained head and everything chosen with it; the test set is never seen.

Who uses what, so that no image decides twice: the head is fitted on train and stopped on val. The
temperature, the operating point, the prediction sets and the limit of unfamiliar images come from a
half of val that the stopping never saw, or, where that half would be small, from train's images,
each predicted by a head that was fitted without it (out of fold).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

import keras
import numpy as np
import pandas as pd
from numpy.typing import NDArray

from medlens.data.roles import CALIBRATE, FIT, STOP, assign_roles
from medlens.model.averaging import (
    Averaged,
    Symmetric,
    add_views,
    average_logits,
)
from medlens.model.choice import (
    MOST_COMPARED,
    Choice,
    CompiledHeads,
    choose_head,
    divide_for_comparison,
)
from medlens.model.familiarity import Familiarity, fit_familiarity
from medlens.model.fold_heads import FoldRows, FoldTraining, inputs_of_plan, train_fold_heads
from medlens.model.head import Training, TrainingRows, cross_entropy, merge_heads, train_head
from medlens.model.head_plan import HeadPlan, HeadSpace
from medlens.model.held_out import Choices, HeldOut, choose_on, hold_out
from medlens.model.operating_point import OperatingPoint
from medlens.model.verdict import Verdict
from medlens.model.view_features import Views

OUT_OF_FOLD = 5


@dataclass(frozen=True)
class Ensemble:
    """Whether the mean of the fold heads does better than one head fitted on all of train.

    Args:
        is_used: Whether its loss is lower.
        loss: Its mean cross-entropy on the images that stopped the one head; the fold heads never
            saw them, the one head's best epoch was chosen on them.
        loss_of_one: That of the one head.
    """

    is_used: bool
    loss: float
    loss_of_one: float

    @property
    def reason(self) -> str:
        """In a sentence."""
        return (
            f"Cross-entropy on the images that stop the training: mean of the fold heads "
            f"{self.loss:.4f}, one head {self.loss_of_one:.4f}. "
            + ("The mean is used." if self.is_used else "One head is used.")
        )


@dataclass(frozen=True)
class Development:
    """A trained head with its temperature, operating point, sets and limit.

    Args:
        choice: The candidates for the head, and which one was taken.
        training: The head and how it was trained.
        ensemble: Whether the head is the mean of the fold heads (then `training` is theirs, with a
            column `fold` in its history); None where that was not asked.
        roles: The role of each development image; "" for the others.
        out_of_fold: Train's images, each predicted without it; None where that was not done.
        held_out: The images that the choices below were made on.
        fitted_on: "val", "out_of_fold", "stop" or "tuned", see `FITTED_ON`.
        temperature: Divides the logits.
        operating_point: None where there is no positive class or no threshold can be chosen.
        no_operating_point: Why there is none, or "".
        set_thresholds: By level; None where only the set of all classes keeps the promise.
        familiarity: Measures how unlike the training images an image is.
        limit: Images at a larger distance are unfamiliar.
        averaged: What averaging over views changed; None where that was not asked.
        frozen: That of the frozen network, whose fold heads said what is out of fold; None where
            the backbone was not fine-tuned.
    """

    choice: Choice
    training: Training
    ensemble: Ensemble | None
    roles: pd.Series[str]
    out_of_fold: HeldOut | None
    held_out: HeldOut
    fitted_on: str
    temperature: float
    operating_point: OperatingPoint | None
    no_operating_point: str
    set_thresholds: dict[float, float | None]
    familiarity: Familiarity
    limit: float
    averaged: Averaged | None = None
    frozen: Development | None = None

    @property
    def of_out_of_fold(self) -> Development:
        """The development that what was said out of fold belongs to: one network, one verdict."""
        return self.frozen or self

    def verdict(self, classes: Sequence[str], positive_class: str | None) -> Verdict:
        """What turns logits and distances into what is said of an image."""
        threshold = None if self.operating_point is None else self.operating_point.threshold
        return Verdict(tuple(classes), self.temperature, positive_class, threshold, self.limit)


def develop(
    features: NDArray[np.float32],
    images: pd.DataFrame,
    labels: NDArray[np.int64],
    num_classes: int,
    space: HeadSpace,
    choices: Choices,
    progress: Callable[[int], None],
    *,
    always_out_of_fold: bool = True,
    compiled: CompiledHeads | None = None,
    choice: Choice | None = None,
    views: Views | None = None,
    symmetric: Symmetric | None = None,
    callbacks: Sequence[keras.callbacks.Callback] = (),
) -> Development:
    """Choose and train a head, and choose on images that it was not fitted on.

    Args:
        features: Of shape (images, columns); may lie on disk.
        images: One row per feature row, with `path`, `label`, `group` and `split`; only rows of
            train and val are looked at.
        labels: Class numbers of shape (images,).
        num_classes: Number of classes.
        space: The heads to choose from.
        choices: What is to be chosen beside.
        progress: Called with 1 after every candidate.
        always_out_of_fold: Whether to predict train out of fold even if nothing here needs it.
        compiled: Networks compiled before for such a space, to be used again and added to.
        choice: What was chosen before, on the same images with the same seed; None to choose here.
        views: Of the images; only those of the images that heads are fitted on are looked at.
        symmetric: Of the images; what is chosen with a head is chosen on logits that are averaged
            over them. Nothing is fitted on them.
        callbacks: See the head that is fitted on all of train being trained.

    Raises:
        MedlensError: If no feature varies, or the loss is not a number.
    """
    developing = images["split"].isin(["train", "val"])
    roles = assign_roles(images[developing], seed=choices.seed).reindex(images.index, fill_value="")
    rows = TrainingRows(np.flatnonzero(roles == FIT), np.flatnonzero(roles == STOP))
    if choice is None:
        choice = choose_head(
            features, images, labels, rows.fit, num_classes, space, progress, compiled, views=views
        )
    training = train_head(
        features,
        labels,
        rows,
        num_classes,
        choice.plan,
        _ignore,
        views=views,
        callbacks=callbacks,
    )
    training, ensemble = _merge_if_better(
        features, labels, rows, training, choice, space, symmetric
    )
    familiarity = fit_familiarity(features, labels, rows=rows.fit, seed=choices.seed)
    calibrating = np.flatnonzero(roles == CALIBRATE)
    out_of_fold = None
    if always_out_of_fold or not len(calibrating):
        out_of_fold = predict_out_of_fold(
            features, images, labels, rows, training, choice, choices, views, symmetric
        )
    if len(calibrating) or out_of_fold is None:
        chosen_on = calibrating if len(calibrating) else rows.stop
        held_out = hold_out(features, chosen_on, training.head, familiarity, symmetric)
        fitted_on = "val" if len(calibrating) else "stop"
    else:
        held_out, fitted_on = out_of_fold, "out_of_fold"
    return Development(
        choice=choice,
        training=training,
        ensemble=ensemble,
        roles=roles,
        out_of_fold=out_of_fold,
        familiarity=familiarity,
        fitted_on=fitted_on,
        **vars(choose_on(held_out, images, labels, choices, symmetric)),
    )


def develop_tuned(
    development: Development,
    training: Training,
    features: NDArray[np.float32],
    images: pd.DataFrame,
    labels: NDArray[np.int64],
    choices: Choices,
    symmetric: Symmetric | None = None,
) -> Development:
    """The same for a head that was fine-tuned with its backbone.

    What train's images say out of fold stays that of the frozen network: the fine-tuned one has
    seen them all. So where no half of val is left to choose on, the choices are made on the images
    that stopped the training.

    Args:
        development: With the backbone frozen.
        training: The fine-tuned head.
        features: Of the fine-tuned backbone, of shape (images, columns).
        images: As for `develop`.
        labels: As for `develop`.
        choices: As for `develop`.
        symmetric: As for `develop`, of the fine-tuned backbone.
    """
    roles = development.roles
    fit = np.flatnonzero(roles == FIT)
    familiarity = fit_familiarity(features, labels, rows=fit, seed=choices.seed)
    calibrating = np.flatnonzero(roles == CALIBRATE)
    chosen_on = calibrating if len(calibrating) else np.flatnonzero(roles == STOP)
    held_out = hold_out(features, chosen_on, training.head, familiarity, symmetric)
    return replace(
        development,
        frozen=development,
        training=training,
        familiarity=familiarity,
        fitted_on="val" if len(calibrating) else "tuned",
        **vars(choose_on(held_out, images, labels, choices, symmetric)),
    )


def _merge_if_better(
    features: NDArray[np.float32],
    labels: NDArray[np.int64],
    rows: TrainingRows,
    training: Training,
    choice: Choice,
    space: HeadSpace,
    symmetric: Symmetric | None,
) -> tuple[Training, Ensemble | None]:
    """Put the mean of the fold heads in the head's place where it may and has the lower loss."""
    if choice.winner is None or not any(space.ensembles):
        return training, None
    merged = merge_heads(choice.winner.heads)
    truth = labels[rows.stop]
    loss, loss_of_one = (
        float(cross_entropy(average_logits(head, features, rows.stop, symmetric), truth).mean())
        for head in (merged, training.head)
    )
    ensemble = Ensemble(loss < loss_of_one or all(space.ensembles), loss, loss_of_one)
    if not ensemble.is_used:
        return training, ensemble
    winner = choice.winner
    merged_training = Training(
        merged,
        winner.history,
        winner.best_epoch,
        winner.stop_reason,
        winner.stop_text,
        winner.columns_kept,
    )
    return merged_training, ensemble


def refit_on_all(
    features: NDArray[np.float32],
    images: pd.DataFrame,
    labels: NDArray[np.int64],
    num_classes: int,
    development: Development,
    views: Views | None = None,
) -> Development:
    """The same with its head fitted on all development images, for as many epochs as at its best.

    For the classifier that is saved after cross-validation. What was chosen stays: the form of the
    head, temperature, operating point, prediction sets and limit.

    Args:
        features: As for `develop`.
        images: As for `develop`.
        labels: As for `develop`.
        num_classes: As for `develop`.
        development: Of train and val.
        views: As for `develop`.
    """
    training, roles, choice = development.training, development.roles, development.choice
    rows = TrainingRows(np.flatnonzero(roles != ""), np.flatnonzero(roles == STOP))
    if development.ensemble and development.ensemble.is_used and choice.winner is not None:
        plan = _without_stopping(choice.plan, choice.winner.best_epoch)
        folds = divide_for_comparison(
            images, labels, rows.fit, num_classes, count=OUT_OF_FOLD, seed=plan.seed
        )
        if folds is not None:
            inputs = inputs_of_plan(features, folds, plan, views)
            heads = train_fold_heads(inputs, labels, folds, num_classes, plan, keep="last").heads
            return replace(development, training=replace(training, head=merge_heads(heads)))
    fixed = _without_stopping(choice.plan, training.best_epoch)
    again = train_head(
        features, labels, rows, num_classes, fixed, _ignore, keep="last", views=views
    )
    return replace(development, training=replace(training, head=again.head))


def _without_stopping(plan: HeadPlan, epochs: int) -> HeadPlan:
    return replace(plan, epochs=epochs, patience=epochs, stop_at_accuracy=None)


def predict_out_of_fold(
    features: NDArray[np.float32],
    images: pd.DataFrame,
    labels: NDArray[np.int64],
    rows: TrainingRows,
    training: Training,
    choice: Choice,
    choices: Choices,
    views: Views | None = None,
    symmetric: Symmetric | None = None,
) -> HeldOut | None:
    """Predict every image of train by a head that was fitted without its fold.

    Where the candidates were compared on all of train, by the winner's fold heads; else each of
    these heads is trained for as many epochs as the head itself had at its best.

    Returns:
        In the order of `rows.fit`; None where a class has fewer than two groups in train.
    """
    folds = choice.folds
    if choice.winner is not None and folds is not None and len(folds.rows) == len(rows.fit):
        without = choice.winner.logits
        logits = _average_folds(choice.winner, folds, symmetric)
    else:
        num_classes = len(training.head.layers[-1][1])
        folds = divide_for_comparison(
            images, labels, rows.fit, num_classes, count=OUT_OF_FOLD, seed=choices.seed, most=np.inf
        )
        if folds is None:
            return None
        fixed = _without_stopping(choice.plan, training.best_epoch)
        logits, without = np.empty((2, len(rows.fit), num_classes))
        for part, fold in _parts(folds):
            inputs = inputs_of_plan(features, part, fixed, views)
            # All epochs are trained and the last is kept: nothing is chosen a second time.
            trained = train_fold_heads(inputs, labels, part, num_classes, fixed, keep="last")
            without[fold] = trained.logits[fold]
            logits[fold] = _average_folds(trained, part, symmetric)[fold]
    distances = np.empty(len(folds.rows))
    for number in range(1, folds.count + 1):
        own = fit_familiarity(features, labels, rows=folds.fit(number), seed=choices.seed)
        distances[folds.fold == number] = own.distances(features[folds.out(number)])
    return HeldOut(rows.fit, logits, without, distances, folds.fold)


def _average_folds(
    trained: FoldTraining, folds: FoldRows, symmetric: Symmetric | None
) -> NDArray[np.float64]:
    """What each fold's head says of the images it did not see, averaged over their views."""
    logits = trained.logits.copy()
    for number, head in enumerate(trained.heads, start=1):
        is_out = folds.fold == number
        logits[is_out] = add_views(logits[is_out], head, folds.out(number), symmetric)
    return logits


def _parts(folds: FoldRows) -> Iterator[tuple[FoldRows, NDArray[np.bool_]]]:
    """All folds at once, or one after the other where their inputs would be too many for memory."""
    if len(folds.rows) <= MOST_COMPARED:
        yield folds, folds.fold > 0
        return
    for number in range(1, folds.count + 1):
        is_out = folds.fold == number
        yield FoldRows(folds.rows, is_out.astype(np.int64)), is_out


def _ignore(_: int) -> None:
    pass
