"""A trained head and the last blocks of its backbone -> both fine-tuned together.

The head comes first: its weights are where fine-tuning begins. Then the last blocks learn with it
at a low rate, on new views of the training images in every epoch. BatchNormalization stays frozen:
statistics of small batches would undo what was learnt on millions of images.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pandas as pd
from numpy.typing import NDArray

from medlens.data.augmentation import PRESETS
from medlens.model.backbone import build_backbone
from medlens.model.classifier_graph import features_layer
from medlens.model.engine import FrozenPass, choose_precision
from medlens.model.finetune_checkpoint import (
    BATCH,
    Arrays,
    FineTuningPlan,
    Pictures,
    read_checkpoint,
    settings_digest,
    write_checkpoint,
)
from medlens.model.forward import in_bfloat16
from medlens.model.head import (
    Head,
    TrainingRows,
    class_weights,
    cross_entropy,
    input_length,
    prior_of_logits,
)
from medlens.model.head_inputs import standardisation
from medlens.model.head_plan import HeadPlan
from medlens.model.history import History
from medlens.model.random_view import RandomView


@dataclass(frozen=True)
class FineTuned:
    """What came of fine-tuning.

    Args:
        head: From raw features of the fine-tuned backbone to logits.
        weights: All weights of the fine-tuned backbone, in Keras's order.
        history: One row per epoch: epoch, loss, accuracy, val_loss, val_accuracy, seconds.
            "loss" and "accuracy" are those on augmented views.
        best_epoch: The epoch whose weights these are.
        stop_reason: "accuracy", "patience" or "epochs".
        stop_text: The same in a sentence.
        layers: Names of the layers of the backbone that learnt.
    """

    head: Head
    weights: Arrays
    history: pd.DataFrame
    best_epoch: int
    stop_reason: str
    stop_text: str
    layers: tuple[str, ...]


def fine_tune(
    frozen_pass: FrozenPass,
    head: Head,
    features: NDArray[np.float32],
    pictures: Pictures,
    labels: NDArray[np.int64],
    rows: TrainingRows,
    plan: FineTuningPlan,
    checkpoint: Path,
    progress: Callable[[int], None],
    callbacks: Sequence[keras.callbacks.Callback] = (),
) -> FineTuned:
    """Train the head and the last blocks of its backbone, with early stopping.

    After every epoch all that is needed to go on is written into one file; a killed run goes on
    from there and ends with the same weights.

    Args:
        frozen_pass: The backbone as it was; it is not changed.
        head: Trained on its features.
        features: The features that the head was trained on, of shape (images, columns).
        pictures: All images.
        labels: Class numbers of shape (images,).
        rows: Which images are fitted on, and which stop the training.
        plan: How to train.
        checkpoint: The file to go on from.
        progress: Called with 1 after every step.
        callbacks: Of Keras; told each epoch's loss, accuracy, val_loss and val_accuracy.

    Raises:
        MedlensError: If the loss is not a number.
    """
    num_classes = len(head.layers[-1][1])
    weights = class_weights(labels[rows.fit], num_classes, plan.head)
    # A head that adjusts its logits by class shares learns without that: Menon et al. 2021, 4.2.
    prior = prior_of_logits(labels[rows.fit], num_classes, plan.head)
    mean, factor = feature_scale(features, rows.fit, head, plan.head)
    trainee = build_trainee(frozen_pass, head, mean, factor, prior, plan)
    learning = open_blocks(trainee.backbone, frozen_pass.backbone.depths, plan.blocks)
    pixels = keras.Input(trainee.backbone.input_shape[1:], name="pixels")
    view = RandomView(PRESETS[plan.preset], plan.head.seed)(pixels)
    model = keras.Model(pixels, trainee.network(view), name="fine_tuning")
    batches = Batches(pictures, labels, rows.fit, weights, plan)
    model.compile(
        keras.optimizers.Adam(
            warm_up_and_decay(plan.head, len(batches)), weight_decay=plan.head.weight_decay
        ),
        keras.losses.CategoricalCrossentropy(from_logits=True),
        metrics=["accuracy"],
    )
    model.optimizer.build(model.trainable_variables)
    first: Arrays = ()
    history = History(plan.head, first, "--fine-tune-learning-rate")
    facts = settings_digest(frozen_pass, head, pictures, labels, rows, plan)
    draws = [one for one in model.variables if "seed" in one.path]
    state = [*model.trainable_variables, *model.optimizer.variables, *draws]
    done = read_checkpoint(checkpoint, facts, state, history)
    batches.epoch = done
    end = _EndOfEpoch(trainee.network, pictures, labels, rows.stop, weights, history, progress)
    end.keep = lambda: write_checkpoint(checkpoint, facts, state, history)
    progress(done * len(batches))
    if not history.stop_reason:
        # The batches have an order of their own.
        model.fit(
            batches,
            initial_epoch=done,
            epochs=plan.head.epochs,
            callbacks=[end, *callbacks],
            shuffle=False,
            verbose=0,
        )
    for variable, value in zip(model.trainable_variables, history.best_weights, strict=True):
        variable.assign(value)
    return FineTuned(
        head=trainee.read_head(),
        weights=tuple(trainee.backbone.get_weights()),
        history=pd.DataFrame(history.rows),
        best_epoch=history.best_epoch,
        stop_reason=history.stop_reason,
        stop_text=history.stop_text,
        layers=learning,
    )


def warm_up_and_decay(
    plan: HeadPlan, steps: int
) -> keras.optimizers.schedules.LearningRateSchedule:
    """The rate rises evenly over the first epoch and then falls to 0 along a cosine.

    Source: Loshchilov & Hutter 2017, arXiv:1608.03983 (without restarts).

    Args:
        plan: Of epochs and rate.
        steps: Of an epoch.
    """
    return keras.optimizers.schedules.CosineDecay(
        initial_learning_rate=0.0,
        decay_steps=max(1, steps * (plan.epochs - 1)),
        warmup_target=plan.learning_rate,
        warmup_steps=steps,
    )


def feature_scale(
    features: NDArray[np.float32], rows: NDArray[np.intp], head: Head, plan: HeadPlan
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """What features are centred by and multiplied with before the head's first layer.

    Without it a step of Adam, the same for every weight, would throw the head off.
    """
    mean, factor = standardisation(features, rows, within=plan.within)
    factor = factor * np.float32(input_length(plan))
    # A fold head may read a feature that is too rare among all: it goes on, but hardly learns.
    is_read = np.abs(head.layers[0][0]).max(axis=1) > 0
    factor[is_read & (factor == 0)] = factor[factor > 0].min()
    return mean, factor


@dataclass(frozen=True)
class Trainee:
    """A backbone and a head that learn together.

    Args:
        backbone: From raw pixels to features; its last blocks learn.
        network: From raw pixels to logits.
        dense: The layers of the head.
        mean: What features are centred by before the first of them, of shape (columns,).
        factor: What they are then multiplied by.
        prior: What is taken from the logits once trained, of shape (classes,).
    """

    backbone: keras.Model
    network: keras.Model
    dense: tuple[keras.layers.Dense, ...]
    mean: NDArray[np.float32]
    factor: NDArray[np.float32]
    prior: NDArray[np.float32]

    def write_head(self, head: Head) -> None:
        """Begin with the weights of a head that reads raw features."""
        layers = [list(one) for one in head.layers]
        kernel, bias = layers[0]
        scaled = np.zeros_like(kernel)
        np.divide(kernel, self.factor[:, None], out=scaled, where=self.factor[:, None] > 0)
        layers[0] = [scaled, (bias + self.mean.astype(np.float64) @ kernel).astype(np.float32)]
        layers[-1][1] = layers[-1][1] + self.prior
        for layer, weights in zip(self.dense, layers, strict=True):
            layer.set_weights(weights)

    def read_head(self) -> Head:
        """The head as it is now, reading raw features again."""
        layers = [list(layer.get_weights()) for layer in self.dense]
        kernel = (layers[0][0] * self.factor[:, None]).astype(np.float32)
        bias = (layers[0][1] - self.mean.astype(np.float64) @ kernel).astype(np.float32)
        layers[0] = [kernel, bias]
        layers[-1][1] = layers[-1][1] - self.prior
        return Head(tuple((kernel, bias) for kernel, bias in layers))


def build_trainee(
    frozen_pass: FrozenPass,
    head: Head,
    mean: NDArray[np.float32],
    factor: NDArray[np.float32],
    prior: NDArray[np.float32],
    plan: FineTuningPlan,
) -> Trainee:
    """A backbone of its own with a head on it.

    On GPUs with bfloat16 the convolutions are mixed precision; weights and head are float32.
    """
    backbone = build_backbone(frozen_pass.backbone, frozen_pass.weights, size=frozen_pass.rule.size)
    if choose_precision("keras") == "bfloat16":
        backbone = in_bfloat16(backbone)
    values = backbone.get_layer(features_layer(frozen_pass.backbone, plan.features)).output
    # Named, because a backbone from a file may hold any name that Keras would give.
    scaling = keras.layers.Rescaling(
        factor.tolist(), (-mean * factor).tolist(), dtype="float32", name="medlens_scale"
    )
    values, dense = scaling(values), []
    for number, (kernel, _) in enumerate(head.layers, start=1):
        is_last = number == len(head.layers)
        if is_last:
            share, seed = plan.head.dropout, plan.head.seed
            values = keras.layers.Dropout(share, seed=seed, name="medlens_dropout")(values)
        activation, name = None if is_last else "relu", f"medlens_dense_{number}"
        layer = keras.layers.Dense(kernel.shape[1], activation, dtype="float32", name=name)
        values = layer(values)
        dense.append(layer)
    network = keras.Model(backbone.input, values, name="network")
    trainee = Trainee(backbone, network, tuple(dense), mean, factor, prior)
    trainee.write_head(head)
    return trainee


def open_blocks(backbone: keras.Model, depths: Sequence[str], blocks: int) -> tuple[str, ...]:
    """Let the last blocks learn, and nothing else; BatchNormalization never.

    Args:
        backbone: The flat graph, from pixels to features.
        depths: Its depths from shallow to deep.
        blocks: How many; all of them where there are not more depths.

    Returns:
        Names of the layers with weights that learn.
    """
    whole = keras.Model(backbone.input, backbone.get_layer(depths[-1]).output)
    frozen: set[str] = set()
    if blocks < len(depths):
        before = keras.Model(backbone.input, backbone.get_layer(depths[-1 - blocks]).output)
        frozen = {layer.name for layer in before.layers}
    backbone.trainable = True
    learning = []
    for layer in backbone.layers:
        is_norm = isinstance(layer, keras.layers.BatchNormalization)
        layer.trainable = not is_norm and layer.name not in frozen
    for layer in whole.layers:
        if layer.trainable_variables:
            learning.append(layer.name)
    return tuple(learning)


class Batches(keras.utils.PyDataset):  # type: ignore[misc]
    """The training images in an order that follows from seed and epoch.

    Args:
        pictures: All images.
        labels: Class numbers of shape (images,).
        rows: Those to train on.
        weights: Of each class in the loss.
        plan: Says how many make a step.
    """

    def __init__(
        self,
        pictures: Pictures,
        labels: NDArray[np.int64],
        rows: NDArray[np.intp],
        weights: NDArray[np.float32],
        plan: FineTuningPlan,
    ) -> None:
        super().__init__()
        self.pictures, self.labels, self.rows = pictures, labels, rows
        self.weights, self.plan = weights, plan
        self.epoch = 0

    def __len__(self) -> int:
        return -(-len(self.rows) // self.plan.batch_size)

    def __getitem__(self, step: int) -> tuple[Any, Any, Any]:
        random = np.random.default_rng([self.plan.head.seed, self.epoch])
        order = random.permutation(self.rows)
        rows = order[step * self.plan.batch_size :][: self.plan.batch_size]
        targets = np.eye(len(self.weights), dtype=np.float32)[self.labels[rows]]
        return self.pictures.of(rows), targets, self.weights[self.labels[rows]]

    def on_epoch_end(self) -> None:
        """The next epoch has another order."""
        self.epoch += 1


class _EndOfEpoch(keras.callbacks.Callback):  # type: ignore[misc]
    """Measures on the images that stop the training, keeps the best weights, and stops."""

    def __init__(
        self,
        network: keras.Model,
        pictures: Pictures,
        labels: NDArray[np.int64],
        rows: NDArray[np.intp],
        weights: NDArray[np.float32],
        history: History[Arrays],
        progress: Callable[[int], None],
    ) -> None:
        super().__init__()
        self.network, self.pictures, self.labels = network, pictures, labels
        self.rows, self.weights = rows, weights
        self.history, self.progress = history, progress
        self.keep: Callable[[], None] = lambda: None
        self.started = 0.0

    def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
        """Note the time."""
        self.started = time.monotonic()

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        """Tell of a step."""
        self.progress(1)

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        """Note what the epoch came to."""
        logits = np.concatenate(
            [
                np.asarray(self.network.predict_on_batch(self.pictures.of(rows)), np.float64)
                for rows in np.array_split(self.rows, -(-len(self.rows) // BATCH))
            ]
        )
        truth = self.labels[self.rows]
        losses = cross_entropy(logits, truth) * self.weights[truth]
        figures = {
            "loss": float(logs["loss"]),
            "accuracy": float(logs["accuracy"]),
            "val_loss": float(losses.mean()),
            "val_accuracy": float((logits.argmax(1) == truth).mean()),
        }
        logs.update(figures)  # for the callbacks that come after this one
        figures["seconds"] = round(time.monotonic() - self.started, 4)
        learnt = self.model.trainable_variables
        self.history.note(figures, tuple(keras.ops.convert_to_numpy(one) for one in learnt))
        self.keep()
        if self.history.stop_reason:
            self.model.stop_training = True
