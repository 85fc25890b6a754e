"""Fine-tuning: what learns, what stays, and going on after a break."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import keras
import numpy as np
import pandas as pd
import pytest
from numpy.typing import NDArray

from medlens.data.scan import PictureRule
from medlens.model.engine import FrozenPass, write_tuned
from medlens.model.finetune import (
    FineTuned,
    build_trainee,
    feature_scale,
    fine_tune,
    open_blocks,
    warm_up_and_decay,
)
from medlens.model.finetune_checkpoint import FineTuningPlan, Pictures
from medlens.model.head import Head, TrainingRows, train_head
from medlens.model.head_plan import HeadPlan
from medlens.model.own_backbone import find_backbone
from medlens.model.weights import find_weights

SIDE, IMAGES = 16, 160
ROWS = TrainingRows(np.arange(0, 120), np.arange(120, IMAGES))
PLAN = HeadPlan((8,), 0.25, 5, 64, 1e-3, None, "val", 5, 0)
TUNING = FineTuningPlan(replace(PLAN, learning_rate=3e-3), 1, "unknown", "all", batch_size=16)


class Case:
    """Stripes that lie or stand: hard to tell for pooled random filters."""

    def __init__(self, folder: Path) -> None:
        random = np.random.default_rng(0)
        self.labels = np.arange(IMAGES) % 2
        self.pictures = np.empty((IMAGES, SIDE, SIDE, 3), np.uint8)
        for picture, label in zip(self.pictures, self.labels, strict=True):
            stripes = 60 * np.sin(np.arange(SIDE) * 2 + random.uniform(0, 6))[:, None, None]
            picture[:] = 128 + (stripes if label else stripes.transpose(1, 0, 2))
            picture[:] += random.integers(0, 60, picture.shape).astype(np.uint8)
        keras.utils.set_random_seed(1)
        layers = keras.layers
        values = pixels = keras.Input((SIDE, SIDE, 3))
        values = layers.Rescaling(1 / 128, -1)(values)
        values = layers.Conv2D(4, 3, padding="same", activation="relu", name="one")(values)
        values = layers.MaxPooling2D()(values)
        values = layers.Conv2D(8, 3, padding="same", name="two")(values)
        values = layers.ReLU()(layers.BatchNormalization(name="norm")(values))
        keras.Model(pixels, values).save(folder / "own.keras")
        backbone = find_backbone(str(folder / "own.keras"), "auto")
        self.frozen = FrozenPass(
            backbone, find_weights(backbone, "imagenet", seed=0), PictureRule(SIDE, "pad"), "keras"
        )
        self.features = self.frozen.forward(folder).run(self.pictures)
        trained = train_head(self.features, self.labels, ROWS, 2, PLAN, lambda _: None)
        self.head, self.history = trained.head, trained.history

    def tune(
        self,
        checkpoint: Path,
        plan: FineTuningPlan = TUNING,
        progress: Callable[[int], None] = lambda _: None,
        head: Head | None = None,
        callbacks: Sequence[keras.callbacks.Callback] = (),
    ) -> FineTuned:
        def read(keys: object) -> NDArray[np.uint8]:
            return self.pictures[[int(key) for key in keys]]  # type: ignore[attr-defined]

        pictures = Pictures(read, [str(number) for number in range(IMAGES)])
        own = head or self.head
        return fine_tune(
            self.frozen,
            own,
            self.features,
            pictures,
            self.labels,
            ROWS,
            plan,
            checkpoint,
            progress,
            callbacks,
        )


@pytest.fixture(scope="module")
def case(tmp_path_factory: pytest.TempPathFactory) -> Case:
    return Case(tmp_path_factory.mktemp("case"))


@pytest.fixture(scope="module")
def told() -> list[dict[str, float]]:
    """What a callback is told while the fixture `tuned` is made."""
    return []


@pytest.fixture(scope="module")
def tuned(
    case: Case, told: list[dict[str, float]], tmp_path_factory: pytest.TempPathFactory
) -> FineTuned:
    listening = keras.callbacks.LambdaCallback(on_epoch_end=lambda _, logs: told.append({**logs}))
    return case.tune(tmp_path_factory.mktemp("tuned") / "checkpoint.npz", callbacks=[listening])


def test_callbacks_are_told_what_stands_in_the_history(
    tuned: FineTuned, told: list[dict[str, float]]
) -> None:
    names = ["loss", "accuracy", "val_loss", "val_accuracy"]
    pd.testing.assert_frame_equal(pd.DataFrame(told)[names], tuned.history[names])


@pytest.mark.parametrize("class_weight", ["none", "logit_adjusted"])
def test_it_begins_with_the_logits_of_the_head(case: Case, class_weight: str) -> None:
    plan = replace(TUNING, head=replace(PLAN, class_weight=class_weight))
    prior = np.array([0.5, -2], np.float32) * (class_weight != "none")
    # Among them one that the standardisation leaves out, but a head may read all the same.
    kernel, bias = case.head.layers[0]
    kernel = kernel.copy()
    kernel[3] = 0.1
    head = Head(((kernel, bias), *case.head.layers[1:]))
    features = case.features.copy()
    features[:, 3] = 7
    mean, factor = feature_scale(features, ROWS.fit, head, plan.head)
    assert factor[3] > 0
    trainee = build_trainee(case.frozen, head, mean, factor, prior, plan)
    given = case.pictures[:9].astype(np.float32)
    logits = keras.ops.convert_to_numpy(trainee.network(given))
    expected = head.logits(case.features[:9]) + prior
    assert np.allclose(logits, expected, atol=1e-3)
    assert np.allclose(
        trainee.read_head().logits(case.features), head.logits(case.features), atol=1e-3
    )


def test_the_last_block_learns_and_the_rest_stays(case: Case, tuned: FineTuned) -> None:
    before = case.frozen.model
    names = [(layer.name, one.path) for layer in before.layers for one in layer.weights]
    changed = {
        path.split("/", 1)[1]
        for (_, path), was, now in zip(names, before.get_weights(), tuned.weights, strict=True)
        if not np.array_equal(was, now)
    }
    assert changed == {"kernel", "bias"}
    assert tuned.layers == ("two",)
    learnt = {
        name
        for (name, _), was, now in zip(names, before.get_weights(), tuned.weights, strict=True)
        if not np.array_equal(was, now)
    }
    assert learnt == {"two"}


def test_it_learns_what_the_frozen_network_does_not_tell(case: Case, tuned: FineTuned) -> None:
    assert tuned.history["val_loss"].min() < 0.8 * case.history["val_loss"].min()


def test_the_tuned_network_with_its_head_gives_what_was_measured(
    case: Case, tuned: FineTuned, tmp_path: Path
) -> None:
    own = replace(case.frozen, tuned=write_tuned(tmp_path / "tuned.npz", tuned.weights))
    assert own.key() != case.frozen.key()
    logits = tuned.head.logits(own.forward(tmp_path).run(case.pictures))[ROWS.stop]
    right = (logits.argmax(1) == case.labels[ROWS.stop]).mean()
    best = tuned.history.set_index("epoch").loc[tuned.best_epoch]
    assert right == best["val_accuracy"]
    shifted = logits - logits.max(1, keepdims=True)
    loss = np.log(np.exp(shifted).sum(1)) - shifted[np.arange(len(logits)), case.labels[ROWS.stop]]
    assert loss.mean() == pytest.approx(best["val_loss"], abs=1e-4)


class KilledError(Exception):
    """Stands for a break in the middle of an epoch."""


def test_after_a_break_it_goes_on_to_the_same_end(
    case: Case, tuned: FineTuned, tmp_path: Path
) -> None:
    steps = 0

    def kill(count: int) -> None:
        nonlocal steps
        steps += count
        if steps == 20:  # in the third epoch of eight steps
            raise KilledError

    checkpoint = tmp_path / "checkpoint.npz"
    with pytest.raises(KilledError):
        case.tune(checkpoint, progress=kill)
    made: list[int] = []
    again = case.tune(checkpoint, progress=made.append)
    assert made[0] == 16
    assert sum(made) == 8 * len(tuned.history)
    columns = ["epoch", "loss", "accuracy", "val_loss", "val_accuracy"]
    assert again.history[columns].equals(tuned.history[columns])
    for one, other in zip(again.weights, tuned.weights, strict=True):
        assert np.array_equal(one, other)
    # Finished, it is not trained again.
    finished = case.tune(checkpoint)
    assert finished.history.equals(again.history)
    assert np.array_equal(finished.head.layers[0][0], again.head.layers[0][0])


def test_what_another_training_left_is_not_gone_on_with(case: Case, tmp_path: Path) -> None:
    checkpoint = tmp_path / "checkpoint.npz"
    short = replace(TUNING, head=replace(TUNING.head, epochs=1))
    case.tune(checkpoint, short)
    other = replace(short, head=replace(short.head, seed=1))
    made: list[int] = []
    case.tune(checkpoint, other, made.append)
    assert made[0] == 0


def test_it_stops_at_the_accuracy_asked_for(case: Case, tmp_path: Path) -> None:
    plan = replace(TUNING, head=replace(TUNING.head, stop_at_accuracy=0.4))
    stopped = case.tune(tmp_path / "checkpoint.npz", plan)
    assert (stopped.stop_reason, len(stopped.history)) == ("accuracy", 1)


def test_the_rate_rises_over_the_first_epoch_and_falls_to_nothing() -> None:
    schedule = warm_up_and_decay(replace(PLAN, epochs=5, learning_rate=1e-3), steps=10)
    rates = [float(schedule(step)) for step in range(51)]
    assert rates[0] == 0 and max(rates) == pytest.approx(1e-3) == rates[10]
    assert rates[5] == pytest.approx(5e-4)
    assert rates[30] == pytest.approx(5e-4)
    assert rates[50] == pytest.approx(0, abs=1e-9)


def test_more_blocks_than_there_are_open_all(case: Case) -> None:
    assert open_blocks(case.frozen.model, case.frozen.backbone.depths, 2) == ("one", "two")
    case.frozen.model.trainable = False
