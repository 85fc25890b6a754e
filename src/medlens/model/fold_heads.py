"""The heads of all folds at once: one network whose layers hold a kernel for each fold.

Each fold's head is trained as if it were alone: Adam and weight decay act on each weight by itself.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Protocol

import keras
import numpy as np
import pandas as pd
from numpy.typing import NDArray

from medlens.model.head import (
    CompiledHead,
    Examples,
    Head,
    class_shares,
    class_weights,
    compile_model,
    cross_entropy,
    fold_inputs,
    forward,
    input_length,
    make_examples,
    prior_of_logits,
)
from medlens.model.head_inputs import MOST_COMPONENTS, HeadInputs, apply_inputs, fit_inputs
from medlens.model.head_plan import HeadPlan
from medlens.model.history import History, Layers
from medlens.model.view_features import Views, views_as_inputs

# The number of inputs is a multiple of this.
INPUTS_STEP = 64
GIVEN_UP = "given_up"


class Shuffler(Protocol):
    """What gives the order of the images, such as a NumPy generator."""

    def permutation(self, size: int, /) -> NDArray[np.int64]:
        """The numbers below the size in a random order."""


@dataclass(frozen=True)
class FoldRows:
    """Which images each fold's head is fitted on, and which it is measured on.

    Args:
        rows: Places of all images in the features, in ascending order.
        fold: The fold of each, from 1: the one whose head does not see it; 0 for none.
    """

    rows: NDArray[np.intp]
    fold: NDArray[np.int64]

    @property
    def count(self) -> int:
        """How many folds."""
        return int(self.fold.max())

    def fit(self, number: int) -> NDArray[np.intp]:
        """What the head of this fold, counted from 1, is fitted on."""
        rows: NDArray[np.intp] = self.rows[self.fold != number]
        return rows

    def out(self, number: int) -> NDArray[np.intp]:
        """What it is measured on."""
        rows: NDArray[np.intp] = self.rows[self.fold == number]
        return rows


@dataclass(frozen=True)
class FoldInputs:
    """The inputs of each fold's head, from components fitted on that fold's images alone.

    Args:
        maps: From features to inputs.
        fit: Inputs of the images it is fitted on.
        out: Inputs of the images it is measured on.
        views: Inputs of the views of the images it is fitted on, and which images they are of.
    """

    maps: tuple[HeadInputs, ...]
    fit: tuple[NDArray[np.float32], ...]
    out: tuple[NDArray[np.float32], ...]
    views: tuple[tuple[NDArray[np.float32], NDArray[np.intp]], ...] = ()

    @property
    def columns(self) -> int:
        """How many inputs an image has."""
        return self.maps[0].columns


@dataclass(frozen=True)
class FoldTraining:
    """The heads of all folds, and what they say of the images they were not fitted on.

    Args:
        layers: Of the head of each fold, from inputs to logits; none where it was given up.
        maps: From features to the inputs of each fold's head.
        length: The length that the inputs had in training, see `HeadInputs.longer`.
        priors: What is taken from the logits of each fold.
        history: One row per epoch and fold: epoch, fold, loss, accuracy, val_loss, val_accuracy,
            seconds. "val" is the fold left out.
        logits: Of shape (images, classes), in the order of the rows.
        best_epoch: The epoch whose weights the heads have.
        stop_reason: "accuracy", "patience", "epochs", or "given_up": others were better by then.
        stop_text: The same in a sentence.
        columns_kept: How many features are used and vary, in the fold with the fewest.
    """

    layers: tuple[Layers, ...]
    maps: tuple[HeadInputs, ...]
    length: float
    priors: tuple[NDArray[np.float32], ...]
    history: pd.DataFrame
    logits: NDArray[np.float64]
    best_epoch: int
    stop_reason: str
    stop_text: str
    columns_kept: int

    @cached_property
    def heads(self) -> tuple[Head, ...]:
        """One per fold, from raw features; made when first asked for, as they are large."""
        return tuple(
            fold_inputs(layers, inputs.longer(self.length), prior)
            for layers, inputs, prior in zip(self.layers, self.maps, self.priors, strict=True)
        )


def fit_fold_inputs(
    features: NDArray[np.float32], folds: FoldRows, within: tuple[int, int] | None
) -> FoldInputs:
    """Fit the inputs of each fold's head on that fold's images.

    Args:
        features: Of shape (images, columns); may lie on disk.
        folds: The images of each fold.
        within: The feature columns used, see `HeadPlan`.

    Raises:
        MedlensError: If no feature varies.
    """
    numbers = range(1, folds.count + 1)
    first, end = within or (0, features.shape[1])
    fewest = min(len(folds.fit(number)) for number in numbers)
    components = max(1, min(MOST_COMPONENTS, fewest - 1, end - first))
    # Filled up with empty ones, so that sets of nearly one size share a compiled network.
    count = INPUTS_STEP * -(-components // INPUTS_STEP)
    maps = tuple(
        fit_inputs(features, folds.fit(number), within=within, inputs=count) for number in numbers
    )
    return FoldInputs(
        maps,
        tuple(apply_inputs(maps[n - 1], features, folds.fit(n)) for n in numbers),
        tuple(apply_inputs(maps[n - 1], features, folds.out(n)) for n in numbers),
    )


def inputs_of_plan(
    features: NDArray[np.float32], folds: FoldRows, plan: HeadPlan, views: Views | None
) -> FoldInputs:
    """What the heads of a plan train on: the images, and their views only where it says so."""
    inputs = fit_fold_inputs(features, folds, plan.within)
    return add_views(inputs, views, folds) if plan.is_augmented and views else inputs


def add_views(inputs: FoldInputs, views: Views, folds: FoldRows) -> FoldInputs:
    """The same with the views of the images that each fold's head is fitted on."""
    added = (
        views_as_inputs(own, views, folds.fit(number))
        for number, own in enumerate(inputs.maps, start=1)
    )
    return replace(inputs, views=tuple(added))


def compile_fold_heads(count: int, columns: int, num_classes: int, plan: HeadPlan) -> CompiledHead:
    """Build and compile one network that holds the heads of all folds.

    Each fold's first weights are drawn from a seed of its own.

    Args:
        count: How many folds.
        columns: Inputs of an image.
        num_classes: Number of classes.
        plan: How heads are built and trained.
    """
    keras.utils.set_random_seed(plan.seed)
    sizes = [*plan.units, num_classes]
    values = inputs = keras.Input((count, columns), name="inputs")
    layers = []
    for place, units in enumerate(sizes):
        is_last = place == len(sizes) - 1
        if is_last:
            values = keras.layers.Dropout(plan.dropout, seed=plan.seed, name="dropout")(values)
        layer = keras.layers.EinsumDense(
            "bki,kio->bko",
            output_shape=(count, units),
            bias_axes="ko",
            activation=None if is_last else "relu",
            name="logits" if is_last else f"hidden_{place + 1}",
        )
        values = layer(values)
        layers.append(layer)
    for place, layer in enumerate(layers):
        _, before, units = layer.kernel.shape
        seeds = [plan.seed + 10 * fold + place for fold in range(count)]
        drawn = [keras.initializers.GlorotUniform(seed=seed)((before, units)) for seed in seeds]
        layer.kernel.assign(np.stack([keras.ops.convert_to_numpy(kernel) for kernel in drawn]))
    return compile_model(keras.Model(inputs, values, name="fold_heads"), plan)


def train_fold_heads(
    inputs: FoldInputs,
    labels: NDArray[np.int64],
    folds: FoldRows,
    num_classes: int,
    plan: HeadPlan,
    compiled: CompiledHead | None = None,
    progress: Callable[[int], None] | None = None,
    *,
    keep: str = "best",
    random: Shuffler | None = None,
    give_up: Callable[[int, float], bool] | None = None,
) -> FoldTraining:
    """Train the heads of all folds, each on the images outside its fold.

    All stop together. Loss and accuracy that they are stopped by are those of all images, each
    measured by the head that did not see it.

    Args:
        inputs: What they train on.
        labels: Class numbers of all images in the features.
        folds: The images of each fold.
        num_classes: Number of classes.
        plan: How to train.
        compiled: From `compile_fold_heads`, with the same layers and rates; it starts anew.
        progress: Called with 1 after every epoch.
        keep: "best" or "last" epoch's weights.
        random: Shuffles the images of each fold; None for a generator of the plan's seed.
        give_up: Told each epoch and the lowest loss so far; says whether to train on.

    Raises:
        MedlensError: If the loss is not a number.
    """
    numbers = range(1, folds.count + 1)
    length = input_length(plan)
    train, out = [], []
    for number in numbers:
        weights = class_weights(labels[folds.fit(number)], num_classes, plan)
        of_fit, of_out = labels[folds.fit(number)], labels[folds.out(number)]
        fit = inputs.fit[number - 1]
        if plan.is_augmented:
            views, owner = inputs.views[number - 1]
            fit, of_fit = np.concatenate([fit, views]), np.concatenate([of_fit, labels[owner]])
        train.append(make_examples(fit * np.float32(length), of_fit, weights))
        out.append(make_examples(inputs.out[number - 1] * np.float32(length), of_out, weights))
    compiled = compiled or compile_fold_heads(folds.count, inputs.columns, num_classes, plan)
    compiled.start()
    random = random or np.random.default_rng(plan.seed)
    first: Layers = ()
    history, rows = History(plan, first), []
    while not history.stop_reason:
        started = time.monotonic()
        # A smaller fold's images come round again until each fold has as many.
        loss, right = compiled.steps(*_shuffle(train, random))
        count = max(len(one[0]) for one in train)
        layers = compiled.layers()
        measured = [_measure(_of_fold(layers, n - 1), out[n - 1]) for n in numbers]
        seconds = round(time.monotonic() - started, 4)
        epoch = len(history.rows) + 1
        for n, (val_loss, val_right) in zip(numbers, measured, strict=True):
            size = len(out[n - 1][0])
            rows.append(
                {
                    "epoch": epoch,
                    "fold": n,
                    "loss": loss[n - 1] / count,
                    "accuracy": right[n - 1] / count,
                    "val_loss": val_loss / size,
                    "val_accuracy": val_right / size,
                    "seconds": seconds,
                }
            )
        total = int((folds.fold > 0).sum())
        history.note(
            {
                "loss": float(loss.mean()) / count,
                "accuracy": float(right.mean()) / count,
                "val_loss": sum(one[0] for one in measured) / total,
                "val_accuracy": sum(one[1] for one in measured) / total,
            },
            layers,
        )
        if progress:
            progress(1)
        if give_up and not history.stop_reason and give_up(epoch, float(history.best_loss)):
            history.stop_reason = GIVEN_UP
            history.stop_text = f"Given up after {epoch} epochs: others were better by then."
    kept = compiled.layers() if keep == "last" else history.best_weights
    of_folds = tuple(_of_fold(kept, n - 1) for n in numbers)
    priors = tuple(prior_of_logits(labels[folds.fit(n)], num_classes, plan) for n in numbers)
    logits = np.empty((len(folds.rows), num_classes))
    for n, own, prior in zip(numbers, of_folds, priors, strict=True):
        logits[folds.fold == n] = forward(own, out[n - 1][0]).astype(np.float64) - prior
    return FoldTraining(
        layers=() if history.stop_reason == GIVEN_UP else of_folds,
        maps=inputs.maps,
        length=length,
        priors=priors,
        history=pd.DataFrame(rows),
        logits=logits,
        best_epoch=history.best_epoch,
        stop_reason=history.stop_reason,
        stop_text=history.stop_text,
        columns_kept=min(one.kept for one in inputs.maps),
    )


def adjust_logits(
    training: FoldTraining, labels: NDArray[np.int64], folds: FoldRows, num_classes: int
) -> FoldTraining:
    """The same heads, less the logarithm of each class's share (see `HeadPlan.class_weight`)."""
    numbers, logits = range(1, folds.count + 1), training.logits.copy()
    shares = [class_shares(labels[folds.fit(number)], num_classes) for number in numbers]
    for number, prior in zip(numbers, shares, strict=True):
        logits[folds.fold == number] -= prior
    priors = tuple(one + more for one, more in zip(training.priors, shares, strict=True))
    return replace(training, priors=priors, logits=logits)


def _shuffle(train: list[Examples], random: Shuffler) -> Examples:
    """All folds' images in a random order of each, of shape (images, folds, ...)."""
    count = max(len(inputs) for inputs, _, _ in train)
    shuffled = tuple(
        np.empty((count, len(train), *part.shape[1:]), np.float32) for part in train[0]
    )
    for fold, one in enumerate(train):
        order = np.resize(random.permutation(len(one[0])), count)
        for whole, part in zip(shuffled, one, strict=True):
            whole[:, fold] = part[order]
    return shuffled[0], shuffled[1], shuffled[2]


def _of_fold(layers: Layers, place: int) -> Layers:
    return tuple((kernel[place], bias[place]) for kernel, bias in layers)


def _measure(layers: Layers, examples: Examples) -> tuple[float, int]:
    """Sums of the weighted cross-entropy and of right answers."""
    inputs, targets, weights = examples
    logits, truth = forward(layers, inputs).astype(np.float64), targets.argmax(1)
    return float(cross_entropy(logits, truth) @ weights), int((logits.argmax(1) == truth).sum())
