"""Features and labels -> a trained head, with its history: Dense layers, Adam, cross-entropy."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import keras
import numpy as np
import pandas as pd
from numpy.typing import NDArray

from medlens.errors import MedlensError

# Decoupled weight decay of Adam (Loshchilov & Hutter 2019, arXiv:1711.05101), for each step.
WEIGHT_DECAY = 1e-2
# A feature that varies less than this, against its mean, is rounding noise made large.
NEAR_CONSTANT = 3e-3


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
    """Dense layers from raw features to logits; standardisation is folded into the first.

    Args:
        layers: (kernel, bias) of each Dense layer, float32; all but the last are followed by ReLU.
    """

    layers: tuple[tuple[NDArray[np.float32], NDArray[np.float32]], ...]

    def logits(self, features: NDArray[np.float32]) -> NDArray[np.float64]:
        """Logits of shape (images, classes) from features of shape (images, columns)."""
        values = features.astype(np.float64)
        for number, (kernel, bias) in enumerate(self.layers):
            values = values @ kernel.astype(np.float64) + bias
            if number < len(self.layers) - 1:
                values = np.maximum(values, 0)
        return values


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
    """

    head: Head
    history: pd.DataFrame
    best_epoch: int
    stop_reason: str
    stop_text: str
    columns_kept: int


Examples = tuple[NDArray[np.float32], NDArray[np.int64]]


def train_head(
    train: Examples,
    val: Examples,
    num_classes: int,
    plan: HeadPlan,
    progress: Callable[[int], None],
) -> Training:
    """Train a head on cached features, with early stopping on val.

    Keras's global seed is set, so that the same plan and features give the same head.

    Args:
        train: Features of shape (images, columns) and class numbers of shape (images,).
        val: The same for the validation set.
        num_classes: Number of classes.
        plan: How to train.
        progress: Called with 1 after every epoch.

    Raises:
        MedlensError: If no feature varies, or the loss is not a number.
    """
    keras.utils.set_random_seed(plan.seed)
    mean, scale, kept = _standardisation(train[0])
    class_weights = _class_weights(train[1], num_classes, balanced=plan.balanced)

    def ready(examples: Examples) -> tuple[NDArray[np.float32], ...]:
        """Standardised inputs, one-hot targets, and each image's weight in the loss."""
        features, labels = examples
        inputs = features[:, kept]
        inputs -= mean
        inputs /= scale
        return inputs, keras.utils.to_categorical(labels, num_classes), class_weights[labels]

    inputs, targets, weights = ready(train)
    model = _build(int(kept.sum()), num_classes, plan)
    stop = _Stop(plan, progress)
    model.fit(
        inputs,
        targets,
        sample_weight=weights,
        validation_data=ready(val),
        batch_size=plan.batch_size,
        validation_batch_size=1024,
        epochs=plan.epochs,
        callbacks=[stop],
        verbose=0,
    )
    model.set_weights(stop.best_weights)
    return Training(
        head=_fold(model, mean, scale, kept),
        history=pd.DataFrame(stop.rows),
        best_epoch=stop.best_epoch,
        stop_reason=stop.reason,
        stop_text=stop.text,
        columns_kept=int(kept.sum()),
    )


def _standardisation(
    features: NDArray[np.float32],
) -> tuple[NDArray[np.float32], NDArray[np.float32], NDArray[np.bool_]]:
    """Mean and scale of the columns that vary, and which these are.

    The scale is the spread times the square root of the number of columns: an image's inputs then
    have length 1 or so, however many features there are. Otherwise a step of Adam, which moves
    every weight by the learning rate, would move the logits of a wide head by far too much, and
    its random starting weights would add noise that training never takes away.
    """
    mean = features.mean(axis=0, dtype=np.float64)
    scale = features.std(axis=0, dtype=np.float64)
    kept = scale > NEAR_CONSTANT * np.abs(mean) + 1e-6
    if not kept.any():
        raise MedlensError(
            "No feature differs from image to image.",
            got="the same features for every training image",
            expected="images that differ",
            fix="Look at the images: are they blank? Run `medlens audit`.",
        )
    scale *= np.sqrt(np.count_nonzero(kept))
    return mean[kept].astype(np.float32), scale[kept].astype(np.float32), kept


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


class _Stop(keras.callbacks.Callback):  # type: ignore[misc]  # Keras has no types
    """Keeps the history and the best weights, and says when to stop and why."""

    def __init__(self, plan: HeadPlan, progress: Callable[[int], None]) -> None:
        super().__init__()
        self.plan = plan
        self.progress = progress
        self.rows: list[dict[str, float]] = []
        self.best_epoch = 0
        self.best_loss = np.inf
        self.best_weights: list[NDArray[np.float32]] = []
        self.reason = "epochs"
        self.text = f"The most epochs allowed, {plan.epochs}, were trained."
        self.started = 0.0

    def on_epoch_begin(self, epoch: int, logs: Mapping[str, Any] | None = None) -> None:
        self.started = time.monotonic()

    def on_epoch_end(self, epoch: int, logs: Mapping[str, Any] | None = None) -> None:
        row = {name: float((logs or {})[name]) for name in _HISTORY}
        seconds = round(time.monotonic() - self.started, 4)
        self.rows.append({"epoch": epoch + 1, **row, "seconds": seconds})
        self.progress(1)
        if not np.isfinite([row["loss"], row["val_loss"]]).all():
            raise MedlensError(
                "Training went astray: the loss is not a number.",
                got=f"loss {row['loss']}, validation loss {row['val_loss']} in epoch {epoch + 1}",
                expected="a finite loss",
                fix="Lower --learning-rate.",
            )
        target = self.plan.stop_at_accuracy
        watched = row["val_accuracy" if self.plan.stop_on == "val" else "accuracy"]
        is_reached = target is not None and watched >= target
        if row["val_loss"] < self.best_loss or is_reached:
            # The network that reached the accuracy asked for is the one that is kept.
            self.best_loss, self.best_epoch = row["val_loss"], epoch + 1
            self.best_weights = self.model.get_weights()
        if is_reached:
            split = "Validation" if self.plan.stop_on == "val" else "Training"
            self._stop("accuracy", f"{split} accuracy {watched:.3f} reached {target:g}.")
        elif epoch + 1 - self.best_epoch >= self.plan.patience:
            text = f"The validation loss did not fall for {self.plan.patience} epochs."
            self._stop("patience", text)

    def _stop(self, reason: str, text: str) -> None:
        self.reason, self.text = reason, text
        self.model.stop_training = True


_HISTORY = ("loss", "accuracy", "val_loss", "val_accuracy")


def _fold(
    model: keras.Model,
    mean: NDArray[np.float32],
    scale: NDArray[np.float32],
    kept: NDArray[np.bool_],
) -> Head:
    """Put the standardisation into the first Dense layer; unused columns get weight zero."""
    values = [layer.get_weights() for layer in model.layers if layer.get_weights()]
    kernel, bias = (array.astype(np.float64) for array in values[0])
    folded = np.zeros((len(kept), kernel.shape[1]))
    folded[kept] = kernel / scale[:, None]
    first = (folded.astype(np.float32), (bias - mean @ folded[kept]).astype(np.float32))
    return Head((first, *((kernel, bias) for kernel, bias in values[1:])))
