"""Features and labels -> a trained head, with its history: Dense layers, Adam, cross-entropy."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import keras
import numpy as np
import pandas as pd
from numpy.typing import NDArray

from medlens.errors import MedlensError
from medlens.model.head_epoch import Steps, compile_steps
from medlens.model.head_inputs import HeadInputs, apply_inputs, chunk_rows, fit_inputs

# Decoupled weight decay of Adam (Loshchilov & Hutter 2019, arXiv:1711.05101), for each step.
WEIGHT_DECAY = 1e-2

# (kernel, bias) of each Dense layer, float32.
Layers = tuple[tuple[NDArray[np.float32], NDArray[np.float32]], ...]


@dataclass(frozen=True)
class HeadPlan:
    """How a head is built and trained.

    Args:
        units: Units of the hidden layer; 0 for none.
        dropout: Share of the inputs of the last layer dropped in training, 0 to 0.95.
        epochs: Most epochs.
        batch_size: Images per step.
        learning_rate: Adam's.
        stop_at_accuracy: Stop once this accuracy is reached, 0 to 1; None for never.
        stop_on: "val" or "train": whose accuracy that is.
        patience: Epochs without a lower validation loss before training stops.
        balanced: Whether each class weighs the same in the loss.
        seed: Seed of the weights, of dropout and of the order of images.
    """

    units: int
    dropout: float
    epochs: int
    batch_size: int
    learning_rate: float
    stop_at_accuracy: float | None
    stop_on: str
    patience: int
    balanced: bool
    seed: int


@dataclass(frozen=True)
class Head:
    """Dense layers from raw features to logits; what came before them is folded into the first.

    Args:
        layers: (kernel, bias) of each Dense layer, float32; all but the last are followed by ReLU.
    """

    layers: Layers

    def logits(self, features: NDArray[np.float32]) -> NDArray[np.float64]:
        """Logits of shape (images, classes) from features of shape (images, columns)."""
        precise = tuple((kernel.astype(float), bias.astype(float)) for kernel, bias in self.layers)
        out = np.empty((len(features), len(self.layers[-1][1])))
        step = chunk_rows(features.shape[1])
        for start in range(0, len(out), step):
            chunk = features[start : start + step].astype(np.float64)
            out[start : start + step] = _logits(precise, chunk)
        return out


@dataclass(frozen=True)
class CompiledHead:
    """A head's network, ready to be trained from its first weights any number of times.

    Args:
        model: The Keras model, from inputs to logits.
        steps: Trains it, see `compile_steps`.
        first: The values of all its variables, and of its optimizer's, before the first step.
    """

    model: keras.Model
    steps: Steps
    first: tuple[NDArray[Any], ...]

    @property
    def columns(self) -> int:
        """How many inputs it takes."""
        return int(self.model.inputs[0].shape[1])

    def start(self) -> None:
        """Go back to the first weights."""
        for variable, value in zip(_variables(self.model), self.first, strict=True):
            variable.assign(value)


def _variables(model: keras.Model) -> list[keras.Variable]:
    return [*model.variables, *model.optimizer.variables]


def compile_head(columns: int, num_classes: int, plan: HeadPlan) -> CompiledHead:
    """Build and compile a head; its first weights are drawn from the plan's seed."""
    keras.utils.set_random_seed(plan.seed)
    model = _build(columns, num_classes, plan)
    model.optimizer.build(model.trainable_variables)
    first = tuple(keras.ops.convert_to_numpy(value) for value in _variables(model))
    return CompiledHead(model, compile_steps(model, batch_size=plan.batch_size), first)


@dataclass(frozen=True)
class TrainingRows:
    """Which images a head learns from, each kind in ascending order.

    Args:
        fit: Its weights are fitted on these.
        stop: These say when to stop, and which epoch was the best.
    """

    fit: NDArray[np.intp]
    stop: NDArray[np.intp]


@dataclass(frozen=True)
class Training:
    """What came of training.

    Args:
        head: The head with the weights of the best epoch.
        history: One row per epoch: epoch, loss, accuracy, val_loss, val_accuracy, seconds.
        best_epoch: The epoch whose weights the head has, counted from 1.
        stop_reason: "accuracy", "patience" or "epochs".
        stop_text: The same in a sentence.
        columns_kept: How many features vary enough to be used.
        compiled: What it was trained with, to train another on other images.
    """

    head: Head
    history: pd.DataFrame
    best_epoch: int
    stop_reason: str
    stop_text: str
    columns_kept: int
    compiled: CompiledHead


def train_head(
    features: NDArray[np.float32],
    labels: NDArray[np.int64],
    rows: TrainingRows,
    num_classes: int,
    plan: HeadPlan,
    progress: Callable[[int], None],
    compiled: CompiledHead | None = None,
    *,
    keep: str = "best",
) -> Training:
    """Train a head on cached features, with early stopping on images of its own.

    The features may lie on disk; they are read in chunks. The weights of the layers and the order
    of the images are drawn from the plan's seed.

    Args:
        features: Features of shape (images, columns).
        labels: Class numbers of shape (images,).
        rows: Which of these images are for what.
        num_classes: Number of classes.
        plan: How to train.
        progress: Called with 1 after every epoch.
        compiled: A head of this plan that was compiled before; it starts anew.
        keep: "best": the weights of the epoch with the lowest validation loss, or of the one that
            reached the accuracy asked for; "last": those of the last epoch.

    Raises:
        MedlensError: If no feature varies, or the loss is not a number.
    """
    columns = compiled.columns if compiled else 0
    inputs = fit_inputs(features, rows.fit, hidden=bool(plan.units), columns=columns)
    weight_of_class = _class_weights(labels[rows.fit], num_classes, balanced=plan.balanced)
    train = _Examples(inputs, features, labels, rows.fit, weight_of_class)
    val = _Examples(inputs, features, labels, rows.stop, weight_of_class)
    compiled = compiled or compile_head(inputs.columns, num_classes, plan)
    compiled.start()
    random = np.random.default_rng(plan.seed)
    # As many whole batches as one reading holds.
    reading = plan.batch_size * max(1, chunk_rows(inputs.columns) // plan.batch_size)
    history = _History(plan)
    while not history.stop_reason:
        started = time.monotonic()
        loss = right = 0.0
        order = random.permutation(len(rows.fit))
        for start in range(0, len(order), reading):
            more = compiled.steps(*train.read(order[start : start + reading]))
            loss, right = loss + more[0], right + more[1]
        val_loss, val_accuracy = _measure(_dense_layers(compiled.model), val, reading)
        count = len(rows.fit)
        figures = {
            "loss": loss / count,
            "accuracy": right / count,
            "val_loss": val_loss,
            "val_accuracy": val_accuracy,
        }
        seconds = round(time.monotonic() - started, 4)
        history.note({**figures, "seconds": seconds}, compiled.model)
        progress(1)
    return Training(
        head=_fold(
            _dense_layers(compiled.model) if keep == "last" else history.best_layers, inputs
        ),
        history=pd.DataFrame(history.rows),
        best_epoch=history.best_epoch,
        stop_reason=history.stop_reason,
        stop_text=history.stop_text,
        columns_kept=inputs.kept,
        compiled=compiled,
    )


@dataclass(frozen=True)
class _Examples:
    """Images as a head trains on them: made in memory where components are few, else when read."""

    inputs: HeadInputs
    features: NDArray[np.float32]
    labels: NDArray[np.int64]
    rows: NDArray[np.intp]
    weight_of_class: NDArray[np.float32]

    @cached_property
    def _components(self) -> NDArray[np.float32]:
        return apply_inputs(self.inputs, self.features, self.rows)

    def read(self, places: NDArray[np.intp]) -> tuple[NDArray[np.float32], ...]:
        """Inputs, one-hot targets, and each image's weight in the loss."""
        if self.inputs.components is None:
            values = self.inputs.apply(self.features[self.rows[places]])
        else:
            values = self._components[places]
        labels = self.labels[self.rows[places]]
        targets = np.eye(len(self.weight_of_class), dtype=np.float32)[labels]
        return values, targets, self.weight_of_class[labels]


def _class_weights(
    labels: NDArray[np.int64], num_classes: int, *, balanced: bool
) -> NDArray[np.float32]:
    """Weight of an image of each class in the loss: 1, or inverse to the class counts of train."""
    counts = np.bincount(labels, minlength=num_classes)
    weights = counts.sum() / (num_classes * counts) if balanced else np.ones(num_classes)
    return np.asarray(weights, np.float32)


def _build(columns: int, classes: int, plan: HeadPlan) -> keras.Model:
    seeds = iter(range(plan.seed, plan.seed + 10))

    def dense(units: int, name: str, activation: str | None) -> keras.layers.Layer:
        start = keras.initializers.GlorotUniform(seed=next(seeds))
        return keras.layers.Dense(units, activation, kernel_initializer=start, name=name)

    layers = [keras.Input((columns,), name="features")]
    if plan.units:
        layers.append(dense(plan.units, "hidden", "relu"))
    layers.append(keras.layers.Dropout(plan.dropout, seed=next(seeds), name="dropout"))
    layers.append(dense(classes, "logits", None))
    model = keras.Sequential(layers, name="head")
    model.compile(
        keras.optimizers.Adam(plan.learning_rate, weight_decay=WEIGHT_DECAY),
        keras.losses.CategoricalCrossentropy(from_logits=True),
        metrics=["accuracy"],
    )
    return model


def _dense_layers(model: keras.Model) -> Layers:
    values = [layer.get_weights() for layer in model.layers]
    return tuple((kernel, bias) for kernel, bias in (two for two in values if two))


def _logits(layers: Layers, inputs: NDArray[Any]) -> NDArray[Any]:
    for kernel, bias in layers[:-1]:
        inputs = np.maximum(inputs @ kernel + bias, 0)
    kernel, bias = layers[-1]
    return inputs @ kernel + bias


def _measure(layers: Layers, examples: _Examples, reading: int) -> tuple[float, float]:
    """Mean weighted cross-entropy, and accuracy."""
    loss = right = 0.0
    count = len(examples.rows)
    for start in range(0, count, reading):
        places = np.arange(start, min(start + reading, count))
        inputs, targets, weights = examples.read(places)
        logits = _logits(layers, inputs).astype(np.float64)
        logits -= logits.max(axis=1, keepdims=True)
        of_truth = (logits * targets).sum(1) - np.log(np.exp(logits).sum(1))
        loss -= float(of_truth @ weights)
        right += int((logits.argmax(1) == targets.argmax(1)).sum())
    return loss / count, right / count


class _History:
    """Keeps the history and the best weights, and says when to stop and why."""

    def __init__(self, plan: HeadPlan) -> None:
        self.plan = plan
        self.rows: list[dict[str, float]] = []
        self.best_epoch = 0
        self.best_loss = np.inf
        self.best_layers: Layers = ()
        self.stop_reason = ""
        self.stop_text = ""

    def note(self, figures: Mapping[str, float], model: keras.Model) -> None:
        """Note what an epoch came to."""
        epoch = len(self.rows) + 1
        self.rows.append({"epoch": epoch, **figures})
        if not np.isfinite([figures["loss"], figures["val_loss"]]).all():
            loss, val_loss = figures["loss"], figures["val_loss"]
            raise MedlensError(
                "Training went astray: the loss is not a number.",
                got=f"loss {loss}, validation loss {val_loss} in epoch {epoch}",
                expected="a finite loss",
                fix="Lower --learning-rate.",
            )
        plan = self.plan
        watched = figures["val_accuracy" if plan.stop_on == "val" else "accuracy"]
        is_reached = plan.stop_at_accuracy is not None and watched >= plan.stop_at_accuracy
        if figures["val_loss"] < self.best_loss or is_reached:
            # The network that reached the accuracy asked for is the one that is kept.
            self.best_loss, self.best_epoch = figures["val_loss"], epoch
            self.best_layers = _dense_layers(model)
        if is_reached:
            split = "Validation" if plan.stop_on == "val" else "Training"
            self.stop_reason = "accuracy"
            self.stop_text = f"{split} accuracy {watched:.3f} reached {plan.stop_at_accuracy:g}."
        elif epoch - self.best_epoch >= plan.patience:
            self.stop_reason = "patience"
            self.stop_text = f"The validation loss did not fall for {plan.patience} epochs."
        elif epoch == plan.epochs:
            self.stop_reason = "epochs"
            self.stop_text = f"The most epochs allowed, {plan.epochs}, were trained."


def _fold(layers: Layers, inputs: HeadInputs) -> Head:
    """Put standardisation and components into the first Dense layer."""
    return Head((inputs.fold(*layers[0]), *layers[1:]))
