"""The heads of all folds at once are what each would be alone."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from medlens.model.fold_heads import (
    FoldInputs,
    FoldRows,
    adjust_logits,
    compile_fold_heads,
    fit_fold_inputs,
    train_fold_heads,
)
from medlens.model.head_plan import HeadPlan

PLAN = HeadPlan((16,), 0.0, 12, 32, 1e-2, None, "val", 12, 0)


def draw(count: int = 200, columns: int = 30) -> tuple[np.ndarray, np.ndarray]:
    random = np.random.default_rng(3)
    labels = random.integers(3, size=count)
    features = random.normal(size=(count, columns))
    features[:, :3] += 2.0 * np.eye(3)[labels]
    return features.astype(np.float32), labels.astype(np.int64)


@pytest.mark.parametrize("units", [(), (16,), (16, 8)])
def test_each_fold_is_trained_as_if_it_were_alone(units: tuple[int, ...]) -> None:
    features, labels = draw()
    fold = np.arange(200) % 4 + 1  # folds of one size, so that the batches are the same
    folds = FoldRows(np.arange(200), fold)
    plan = replace(PLAN, units=units)
    together = train_fold_heads(
        fit_fold_inputs(features, folds, None), labels, folds, 3, plan, keep="last"
    )
    inputs = fit_fold_inputs(features, folds, None)
    whole = compile_fold_heads(4, inputs.columns, 3, plan)
    for number in (1, 2, 3, 4):
        place = number - 1
        alone = FoldRows(np.arange(200), (fold == number).astype(np.int64))
        own = FoldInputs(
            inputs.maps[place:number], inputs.fit[place:number], inputs.out[place:number]
        )
        # The same first weights, and the same order of the images as in the network of all folds.
        one = compile_fold_heads(1, inputs.columns, 3, plan)
        first = tuple(
            value[place:number] if value.shape[:1] == (4,) else value for value in whole.first
        )
        one = replace(one, first=first)
        orders = _Orders(plan.seed, count=4, place=place)
        trained = train_fold_heads(own, labels, alone, 3, plan, one, keep="last", random=orders)
        is_out = fold == number
        np.testing.assert_allclose(trained.logits[is_out], together.logits[is_out], atol=2e-3)


class _Orders:
    """Draws for every fold, and gives those of one: what the network of all folds sees."""

    def __init__(self, seed: int, *, count: int, place: int) -> None:
        self.random, self.count, self.place = np.random.default_rng(seed), count, place

    def permutation(self, size: int) -> np.ndarray:
        drawn = [self.random.permutation(size) for _ in range(self.count)]
        return drawn[self.place]


def test_no_fold_sees_its_own_images() -> None:
    features, labels = draw()
    folds = FoldRows(np.arange(200), np.arange(200) % 4 + 1)
    before = train_fold_heads(fit_fold_inputs(features, folds, None), labels, folds, 3, PLAN)
    changed, others = features.copy(), labels.copy()
    out = folds.out(2)
    changed[out], others[out] = 50.0, (labels[out] + 1) % 3
    plan = replace(PLAN, patience=99)
    before, after = (
        train_fold_heads(fit_fold_inputs(x, folds, None), y, folds, 3, plan, keep="last")
        for x, y in ((features, labels), (changed, others))
    )
    for one, other in zip(before.heads[1].layers, after.heads[1].layers, strict=True):
        np.testing.assert_array_equal(one[0], other[0])
    assert not np.array_equal(before.heads[0].layers[0][0], after.heads[0].layers[0][0])


def test_heads_and_logits_are_those_of_the_best_epoch() -> None:
    features, labels = draw()
    folds = FoldRows(np.arange(200), np.arange(200) % 3 + 1)
    plan = replace(PLAN, epochs=60, patience=5)
    trained = train_fold_heads(fit_fold_inputs(features, folds, None), labels, folds, 3, plan)
    assert trained.best_epoch < trained.history["epoch"].max()
    for number in (1, 2, 3):
        own = folds.fold == number
        said = trained.heads[number - 1].logits(features[own])
        np.testing.assert_allclose(said, trained.logits[own], atol=2e-3)
    best = trained.history[trained.history["epoch"] == trained.best_epoch]
    accuracy = (trained.logits.argmax(1) == labels).mean()
    sizes = np.bincount(folds.fold)[1:]
    assert np.average(best["val_accuracy"], weights=sizes) == pytest.approx(accuracy)


def test_adjusted_logits_lack_the_logarithm_of_the_class_shares() -> None:
    features, labels = draw()
    folds = FoldRows(np.arange(200), np.arange(200) % 2 + 1)
    trained = train_fold_heads(fit_fold_inputs(features, folds, None), labels, folds, 3, PLAN)
    adjusted = adjust_logits(trained, labels, folds, 3)
    for number in (1, 2):
        own = folds.fold == number
        shares = np.bincount(labels[folds.fit(number)]) / len(folds.fit(number))
        np.testing.assert_allclose(
            trained.logits[own] - adjusted.logits[own],
            np.tile(np.log(shares), (own.sum(), 1)),
            atol=1e-5,
        )
        np.testing.assert_allclose(
            adjusted.heads[number - 1].logits(features[own]), adjusted.logits[own], atol=2e-3
        )
