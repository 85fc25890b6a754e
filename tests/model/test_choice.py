"""Candidates are compared honestly: known truths win, noise wins nothing."""

from __future__ import annotations

import numpy as np
import pandas as pd

from medlens.model import choice as choosing
from medlens.model.choice import choose_head, divide_for_comparison
from medlens.model.head_plan import HeadForm, HeadPlan, HeadSpace

BASE = HeadPlan((), 0.0, 60, 32, 3e-3, None, "val", 8, 0)
LINEAR, HIDDEN = HeadForm((), 0.0, 1e-2), HeadForm((64,), 0.2, 1e-2)


def quiet(_: int) -> None:
    pass


def table(labels: np.ndarray, groups: np.ndarray) -> pd.DataFrame:
    paths = [f"{number:05d}.png" for number in range(len(labels))]
    return pd.DataFrame({"path": paths, "label": labels.astype(str), "group": groups})


def choose(  # type: ignore[no-untyped-def]
    features: np.ndarray, labels: np.ndarray, space: HeadSpace, groups=None, progress=quiet
) -> choosing.Choice:
    images = table(labels, np.arange(len(labels)) if groups is None else groups)
    rows = np.arange(len(labels))
    classes = int(labels.max()) + 1
    return choose_head(features, images, labels, rows, classes, space, progress)


def test_the_columns_that_tell_the_class_are_found() -> None:
    random = np.random.default_rng(0)
    labels = random.integers(2, size=400)
    features = random.normal(size=(400, 60)).astype(np.float32)
    features[:, 5:9] += labels[:, None]
    space = HeadSpace(BASE, {"all": None, "shallow": (0, 20), "deep": (20, 60)}, (LINEAR,))
    found = choose(features, labels, space)
    assert found.features == "shallow"
    assert found.plan.within == (0, 20)
    assert "shallow" in found.reasons["features"]


def test_a_hidden_layer_is_taken_where_the_classes_need_one() -> None:
    random = np.random.default_rng(1)
    features = random.normal(size=(600, 2)).astype(np.float32)
    labels = (features[:, 0] * features[:, 1] > 0).astype(np.int64)
    found = choose(features, labels, HeadSpace(BASE, {"all": None}, (LINEAR, HIDDEN)))
    assert found.plan.units == (64,)
    losses = found.candidates.set_index("units")["loss"]
    assert losses["64"] < losses["0"] - 0.1


def test_weighting_is_taken_where_it_surely_helps_and_only_there() -> None:
    random = np.random.default_rng(2)
    weights = ("none", "balanced", "logit_adjusted")
    space = HeadSpace(BASE, {"all": None}, (LINEAR,), weights)
    for share, helps in ((0.06, True), (0.5, False)):
        labels = (random.random(900) < share).astype(np.int64)
        features = random.normal(size=(900, 8)).astype(np.float32)
        features[:, 0] += 2.0 * labels
        found = choose(features, labels, space)
        assert (found.plan.class_weight != "none") == helps
        assert len(found.candidates) == 3
        assert found.candidates["chosen"].sum() == 1


def test_images_of_a_group_stay_in_one_fold() -> None:
    random = np.random.default_rng(3)
    groups = np.repeat(np.arange(60), 5)
    labels = np.repeat(random.integers(2, size=60), 5)
    # Every group has a mark of its own: whoever saw its other images would know the answer.
    features = np.repeat(random.normal(size=(60, 40)), 5, axis=0).astype(np.float32)
    found = choose(features, labels, HeadSpace(BASE, {"all": None}, (LINEAR, HIDDEN)), groups)
    assert found.folds is not None
    assert pd.Series(found.folds.fold).groupby(groups).nunique().max() == 1
    assert found.candidates["accuracy"].max() < 0.72


def test_too_few_groups_leave_the_first_of_each_kind() -> None:
    random = np.random.default_rng(4)
    labels = np.repeat([0, 1], 20)
    groups = np.repeat([0, 1, 2, 2], 10)  # one class is a single group
    features = random.normal(size=(40, 6)).astype(np.float32)
    found = choose(features, labels, HeadSpace(BASE, {"all": None}, (HIDDEN, LINEAR)), groups)
    assert found.plan.units == (64,)
    assert found.winner is None
    assert "too few groups" in found.reasons["head"]


def test_a_space_of_one_is_not_compared() -> None:
    labels = np.arange(40) % 2
    features = np.random.default_rng(5).normal(size=(40, 6)).astype(np.float32)
    found = choose(features, labels, HeadSpace(BASE, {"all": None}, (LINEAR,)))
    assert found.winner is None
    assert found.candidates.empty


def test_a_large_set_is_compared_on_whole_groups_of_a_part() -> None:
    labels = np.arange(900) % 3
    groups = np.arange(900) // 9
    rows = np.arange(900)
    folds = divide_for_comparison(table(labels, groups), labels, rows, 3, count=5, seed=0, most=300)
    assert folds is not None
    assert 280 <= len(folds.rows) <= 300
    assert pd.Series(groups[folds.rows]).value_counts().eq(9).all()


def test_every_candidate_leaves_its_curves_and_is_counted() -> None:
    labels = np.arange(120) % 2
    features = np.random.default_rng(6).normal(size=(120, 12)).astype(np.float32)
    space = HeadSpace(BASE, {"all": None, "last": (6, 12)}, (LINEAR, HIDDEN), ("none", "balanced"))
    done: list[int] = []
    found = choose(features, labels, space, progress=done.append)
    assert sum(done) == len(found.candidates) == space.size
    counted = found.curves.groupby("candidate")["epoch"].max()
    np.testing.assert_array_equal(counted, found.candidates["epochs"])
    assert set(found.curves["fold"]) == {1, 2, 3, 4, 5}
