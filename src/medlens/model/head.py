"""Features and labels -> a trained head, with its history: Dense layers, Adam, cross-entropy."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import keras
import numpy as np
import pandas as pd
from numpy.typing import NDArray

from medlens.model.head_epoch import Steps, compile_steps
from medlens.model.head_inputs import (
    LENGTH_BEFORE_HIDDEN,
    LENGTH_BEFORE_LOGITS,
    HeadInputs,
    apply_inputs,
    chunk_rows,
    fit_inputs,
)
from medlens.model.head_plan import HeadPlan
from medlens.model.history import History, Layers
from medlens.model.view_features import Views, views_as_inputs


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
            out[start : start + step] = forward(precise, chunk)
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
        return int(self.model.inputs[0].shape[-1])

    def start(self) -> None:
        """Go back to the first weights."""
        for variable, value in zip(_variables(self.model), self.first, strict=True):
            variable.assign(value)

    def layers(self) -> Layers:
        """Kernel and bias of each Dense layer."""
        values = [layer.get_weights() for layer in self.model.layers]
        return tuple((kernel, bias) for kernel, bias in (two for two in values if two))


def _variables(model: keras.Model) -> list[keras.Variable]:
    return [*model.variables, *model.optimizer.variables]


def compile_model(model: keras.Model, plan: HeadPlan) -> CompiledHead:
    """Compile a head's model as the plan says: Adam and categorical cross-entropy from logits."""
    model.compile(
        keras.optimizers.Adam(plan.learning_rate, weight_decay=plan.weight_decay),
        keras.losses.CategoricalCrossentropy(from_logits=True),
    )
    model.optimizer.build(model.trainable_variables)
    first = tuple(keras.ops.convert_to_numpy(value) for value in _variables(model))
    return CompiledHead(model, compile_steps(model, batch_size=plan.batch_size), first)


def compile_head(columns: int, num_classes: int, plan: HeadPlan) -> CompiledHead:
    """Build and compile a head; its first weights are drawn from the plan's seed."""
    keras.utils.set_random_seed(plan.seed)
    seeds = iter(range(plan.seed, plan.seed + 10))

    def dense(units: int, name: str, activation: str | None) -> keras.layers.Layer:
        start = keras.initializers.GlorotUniform(seed=next(seeds))
        return keras.layers.Dense(units, activation, kernel_initializer=start, name=name)

    layers = [keras.Input((columns,), name="inputs")]
    layers += [dense(units, f"hidden_{n + 1}", "relu") for n, units in enumerate(plan.units)]
    layers.append(keras.layers.Dropout(plan.dropout, seed=next(seeds), name="dropout"))
    layers.append(dense(num_classes, "logits", None))
    return compile_model(keras.Sequential(layers, name="head"), plan)


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
        stop_reason: "accuracy", "patience", "epochs" or "callback".
        stop_text: The same in a sentence.
        columns_kept: How many features are used and vary.
    """

    head: Head
    history: pd.DataFrame
    best_epoch: int
    stop_reason: str
    stop_text: str
    columns_kept: int


def train_head(
    features: NDArray[np.float32],
    labels: NDArray[np.int64],
    rows: TrainingRows,
    num_classes: int,
    plan: HeadPlan,
    progress: Callable[[int], None],
    *,
    keep: str = "best",
    views: Views | None = None,
    callbacks: Sequence[keras.callbacks.Callback] = (),
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
        keep: "best": the weights of the epoch with the lowest validation loss, or of the one that
            reached the accuracy asked for; "last": those of the last epoch.
        views: Of the images, which it is also fitted on where the plan says so.
        callbacks: Of Keras; told each epoch's loss, accuracy, val_loss and val_accuracy. They may
            stop training.

    Raises:
        MedlensError: If no feature varies, or the loss is not a number.
    """
    inputs = fit_inputs(features, rows.fit, within=plan.within).longer(input_length(plan))
    weights = class_weights(labels[rows.fit], num_classes, plan)
    fit, of_fit = apply_inputs(inputs, features, rows.fit), labels[rows.fit]
    if plan.is_augmented and views is not None:
        more, owner = views_as_inputs(inputs, views, rows.fit)
        fit, of_fit = np.concatenate([fit, more]), np.concatenate([of_fit, labels[owner]])
    train = make_examples(fit, of_fit, weights)
    val = make_examples(apply_inputs(inputs, features, rows.stop), labels[rows.stop], weights)
    compiled = compile_head(inputs.columns, num_classes, plan)
    random = np.random.default_rng(plan.seed)
    first: Layers = ()
    history, count = History(plan, first), len(of_fit)
    watching = keras.callbacks.CallbackList(
        list(callbacks), model=compiled.model, epochs=plan.epochs, verbose=0
    )
    compiled.model.stop_training = False
    watching.on_train_begin()
    while not history.stop_reason:
        epoch = len(history.rows)
        watching.on_epoch_begin(epoch)
        started = time.monotonic()
        order = random.permutation(count)
        loss, right = compiled.steps(*(values[order] for values in train))
        layers = compiled.layers()
        val_loss, val_accuracy = measure(layers, val)
        figures = {
            "loss": float(loss) / count,
            "accuracy": float(right) / count,
            "val_loss": val_loss,
            "val_accuracy": val_accuracy,
        }
        seconds = round(time.monotonic() - started, 4)
        history.note({**figures, "seconds": seconds}, layers)
        watching.on_epoch_end(epoch, dict(figures))
        if compiled.model.stop_training and not history.stop_reason:
            history.stop_reason = "callback"
            history.stop_text = "A callback of Keras stopped the training."
        progress(1)
    watching.on_train_end()
    return Training(
        head=fold_inputs(
            compiled.layers() if keep == "last" else history.best_weights,
            inputs,
            prior_of_logits(labels[rows.fit], num_classes, plan),
        ),
        history=pd.DataFrame(history.rows),
        best_epoch=history.best_epoch,
        stop_reason=history.stop_reason,
        stop_text=history.stop_text,
        columns_kept=inputs.kept,
    )


def input_length(plan: HeadPlan) -> float:
    """The mean length of an image's inputs."""
    return LENGTH_BEFORE_HIDDEN if plan.units else LENGTH_BEFORE_LOGITS


# Inputs, one-hot targets, and each image's weight in the loss.
Examples = tuple[NDArray[np.float32], NDArray[np.float32], NDArray[np.float32]]


def make_examples(
    inputs: NDArray[np.float32], labels: NDArray[np.int64], weights: NDArray[np.float32]
) -> Examples:
    """Images as a head trains on them.

    Args:
        inputs: Of shape (images, inputs).
        labels: Class numbers of shape (images,).
        weights: Of each class in the loss.
    """
    return inputs, np.eye(len(weights), dtype=np.float32)[labels], weights[labels]


def class_weights(
    labels: NDArray[np.int64], num_classes: int, plan: HeadPlan
) -> NDArray[np.float32]:
    """Weight of an image of each class in the loss: 1, or inverse to the class counts of train."""
    counts = np.bincount(labels, minlength=num_classes)
    is_balanced = plan.class_weight == "balanced"
    weights = counts.sum() / (num_classes * counts) if is_balanced else np.ones(num_classes)
    return np.asarray(weights, np.float32)


def prior_of_logits(
    labels: NDArray[np.int64], num_classes: int, plan: HeadPlan
) -> NDArray[np.float32]:
    """What is taken from the logits once trained: the logarithms of the class shares, or zeros."""
    if plan.class_weight != "logit_adjusted":
        return np.zeros(num_classes, np.float32)
    return class_shares(labels, num_classes)


def class_shares(labels: NDArray[np.int64], num_classes: int) -> NDArray[np.float32]:
    """Logarithms of the classes' shares of these images."""
    counts = np.bincount(labels, minlength=num_classes)
    return np.asarray(np.log(counts / counts.sum()), np.float32)


def forward(layers: Layers, inputs: NDArray[Any]) -> NDArray[Any]:
    """Logits of shape (images, classes) from the inputs of the first of these layers."""
    for kernel, bias in layers[:-1]:
        inputs = np.maximum(inputs @ kernel + bias, 0)
    kernel, bias = layers[-1]
    return inputs @ kernel + bias


def measure(layers: Layers, examples: Examples) -> tuple[float, float]:
    """Mean weighted cross-entropy, and accuracy."""
    inputs, targets, weights = examples
    logits = forward(layers, inputs).astype(np.float64)
    right = int((logits.argmax(1) == targets.argmax(1)).sum())
    return float(cross_entropy(logits, targets.argmax(1)) @ weights) / len(inputs), right / len(
        inputs
    )


def cross_entropy(logits: NDArray[np.float64], labels: NDArray[np.int64]) -> NDArray[np.float64]:
    """Of each image, in nats."""
    shifted = logits - logits.max(axis=1, keepdims=True)
    losses: NDArray[np.float64] = np.log(np.exp(shifted).sum(1))
    losses -= shifted[np.arange(len(labels)), labels]
    return losses


def fold_inputs(layers: Layers, inputs: HeadInputs, prior: NDArray[np.float32]) -> Head:
    """Put standardisation and components into the first Dense layer, the prior into the last."""
    whole = [inputs.fold(*layers[0]), *layers[1:]]
    kernel, bias = whole[-1]
    whole[-1] = (kernel, bias - prior)
    return Head(tuple(whole))


def merge_heads(heads: Sequence[Head]) -> Head:
    """One head whose logits are the mean of those of several heads of the same layers.

    Hidden layers stand side by side, so that it is again a chain of Dense layers.
    """
    if len(heads[0].layers) == 1:
        kernels, biases = zip(*(head.layers[0] for head in heads), strict=True)
        return Head(((np.mean(kernels, axis=0), np.mean(biases, axis=0)),))
    merged = []
    for place in range(len(heads[0].layers)):
        kernels, biases = zip(*(head.layers[place] for head in heads), strict=True)
        if place == 0:
            merged.append((np.concatenate(kernels, axis=1), np.concatenate(biases)))
        elif place == len(heads[0].layers) - 1:
            mean = np.concatenate(kernels) / np.float32(len(heads)), np.mean(biases, axis=0)
            merged.append(mean)
        else:
            merged.append((_block_diagonal(kernels), np.concatenate(biases)))
    return Head(tuple(merged))


def _block_diagonal(kernels: Sequence[NDArray[np.float32]]) -> NDArray[np.float32]:
    rows, columns = kernels[0].shape
    whole = np.zeros((len(kernels) * rows, len(kernels) * columns), np.float32)
    for number, kernel in enumerate(kernels):
        whole[number * rows : (number + 1) * rows, number * columns : (number + 1) * columns] = (
            kernel
        )
    return whole
