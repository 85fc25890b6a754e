"""Curves against scikit-learn and sums by hand; their bands against what groups are worth."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.special import expit, softmax
from sklearn.metrics import average_precision_score, roc_auc_score

from medlens.report.curves import GRID, curves_block
from medlens.report.metrics import SplitPredictions

TWO = ("normal", "pneumonia")


def make_split(
    stated: NDArray[np.float64] | Sequence[float],
    truth: NDArray[np.int64] | Sequence[int],
    groups: NDArray[np.int64] | None = None,
) -> SplitPredictions:
    """Two classes; `stated` is the probability of the second."""
    positive = np.asarray(stated, np.float64)
    own = np.arange(len(positive)) if groups is None else groups
    probabilities = np.stack([1 - positive, positive], axis=1)
    return SplitPredictions(
        np.asarray(truth, np.int64), probabilities.argmax(axis=1), probabilities, own
    )


def draw_split(images: int, seed: int = 0, copies: int = 1) -> SplitPredictions:
    """Calibrated probabilities; each image `copies` times in its own group."""
    generator = np.random.default_rng(seed)
    stated = expit(generator.normal(0, 1.5, images))
    truth = (generator.random(images) < stated).astype(np.int64)
    groups = np.arange(images).repeat(copies)
    return make_split(stated.repeat(copies), truth.repeat(copies), groups)


def area(values: Sequence[float]) -> float:
    return float(np.trapezoid(values, GRID))


def widths(curve: dict[str, Any]) -> NDArray[np.float64]:
    return np.array(curve["high"]) - np.array(curve["low"])


def all_curves(block: dict[str, Any]) -> list[tuple[dict[str, Any], str]]:
    found = [(curve, "recall") for curve in block["roc"].values()]
    found += [(curve, "precision") for curve in block["precision_recall"].values()]
    return found + ([(block["decision"], "net_benefit")] if block["decision"] else [])


@pytest.mark.parametrize("images", [300, 5000])
def test_areas_agree_with_scikit_learn(images: int) -> None:
    split = draw_split(images)
    block = curves_block(split, TWO, 1, seed=0, draws=100)
    scores = split.probabilities[:, 1]
    assert list(block["roc"]) == list(block["precision_recall"]) == ["pneumonia"]
    roc = block["roc"]["pneumonia"]
    assert roc["false_positive_rate"] == GRID.tolist()
    assert area(roc["recall"]) == pytest.approx(roc_auc_score(split.truth, scores), abs=0.005)
    precision = block["precision_recall"]["pneumonia"]["precision"]
    expected = average_precision_score(split.truth, scores)
    assert area(precision) == pytest.approx(expected, abs=0.01)


@pytest.mark.parametrize("images", [40, 3000])
def test_bands_hold_the_curves(images: int) -> None:
    block = curves_block(draw_split(images), TWO, 1, seed=0, draws=200)
    for curve, name in all_curves(block):
        values = [np.array(curve[key]) for key in ("low", name, "high")]
        assert all(len(one) == len(GRID) - (name == "net_benefit") for one in values)
        assert (values[0] <= values[1]).all()
        assert (values[1] <= values[2]).all()
        assert np.mean(values[2] - values[0] > 0) > 0.9
    roc = block["roc"]["pneumonia"]
    assert (np.diff(roc["recall"]) >= 0).all()
    assert roc["low"][-1] == roc["recall"][-1] == 1.0


def test_copies_of_images_in_a_group_tell_nothing_new() -> None:
    once, copied = draw_split(400), draw_split(400, copies=4)
    apart = make_split(copied.probabilities[:, 1], copied.truth)
    blocks = [curves_block(one, TWO, 1, seed=0, draws=300) for one in (once, copied, apart)]
    for (first, name), (second, _), (third, _) in zip(*map(all_curves, blocks), strict=True):
        assert second[name] == first[name] == third[name]
        assert widths(second).mean() == pytest.approx(widths(first).mean(), rel=0.05)
        assert widths(third).mean() < 0.65 * widths(first).mean()


def test_most_curves_of_samples_hold_the_true_recall() -> None:
    # Normal scores, the positives one higher: the ROC curve is known.
    hits, at = [], 20
    for seed in range(60):
        generator = np.random.default_rng(seed)
        truth = np.arange(160) % 2
        scores = expit(generator.normal(0, 1, 160) + truth)
        curve = curves_block(make_split(scores, truth), TWO, 1, seed, 200)["roc"]["pneumonia"]
        true_recall = 0.5628  # 1 - Phi(Phi^-1(0.8) - 1)
        hits.append(curve["low"][at] <= true_recall <= curve["high"][at])
    assert 53 <= sum(hits) <= 60


def test_the_steep_start_holds_the_true_recall_with_few_patients() -> None:
    # 40 patients with four copies each: at a rate of 0.05 one patient's false alarm.
    misses, at = [], 5
    for seed in range(60):
        generator = np.random.default_rng(seed)
        truth = np.arange(40) % 2
        scores = expit(generator.normal(0, 1, 40) + 2 * truth)
        groups = np.arange(40).repeat(4)
        split = make_split(scores.repeat(4), truth.repeat(4), groups)
        curve = curves_block(split, TWO, 1, seed, 100)["roc"]["pneumonia"]
        true_recall = 0.6388  # 1 - Phi(Phi^-1(0.95) - 2)
        misses.append(not curve["low"][at] <= true_recall <= curve["high"][at])
    assert sum(misses) <= 5


def test_roc_and_precision_by_hand() -> None:
    split = make_split([0.9, 0.8, 0.7, 0.6, 0.5, 0.4], [1, 0, 1, 1, 0, 0])
    block = curves_block(split, TWO, 1, seed=0, draws=100)
    recall = block["roc"]["pneumonia"]["recall"]
    # The first false alarm comes after one of three positives, the second after all of them.
    assert [recall[at] for at in (0, 33, 34, 66, 67, 100)] == [0.3333, 0.3333, 1.0, 1.0, 1.0, 1.0]
    precision = block["precision_recall"]["pneumonia"]["precision"]
    assert [precision[at] for at in (0, 33, 34, 66, 67, 100)] == [
        1.0,
        1.0,
        0.6667,
        0.6667,
        0.75,
        0.75,
    ]


def test_ties_make_straight_lines() -> None:
    block = curves_block(make_split([0.5] * 8, [0, 1] * 4), TWO, 1, seed=0, draws=100)
    assert block["roc"]["pneumonia"]["recall"] == GRID.tolist()
    assert set(block["precision_recall"]["pneumonia"]["precision"]) == {0.5}


def test_decision_curve_by_hand() -> None:
    split = make_split([0.1, 0.3, 0.3, 0.5, 0.9], [0, 0, 1, 1, 1])
    decision = curves_block(split, TWO, 1, seed=0, draws=100)["decision"]
    assert decision["class"] == "pneumonia"
    assert decision["threshold"] == GRID[:-1].tolist()
    benefit = dict(zip(decision["threshold"], decision["net_benefit"], strict=True))
    assert benefit[0.0] == 0.6
    assert benefit[0.1] == pytest.approx((3 - 2 / 9) / 5, abs=1e-4)
    # A probability at the threshold is treated.
    assert benefit[0.3] == pytest.approx((3 - 3 / 7) / 5, abs=1e-4)
    assert benefit[0.31] == benefit[0.5] == 0.4
    assert benefit[0.9] == 0.2
    assert benefit[0.91] == 0.0
    treat_all = dict(zip(decision["threshold"], decision["treat_all"], strict=True))
    assert treat_all[0.0] == 0.6
    assert treat_all[0.6] == pytest.approx(0.0, abs=1e-4)
    assert treat_all[0.75] == pytest.approx(0.6 - 0.4 * 3, abs=1e-4)


def test_perfect_separation_keeps_a_band() -> None:
    truth = np.arange(30) % 2
    block = curves_block(make_split(0.2 + 0.6 * truth, truth), TWO, 1, seed=0, draws=100)
    roc = block["roc"]["pneumonia"]
    assert set(roc["recall"]) == {1.0}
    # Wilson's lower limit of 15 of 15.
    assert roc["low"][20] == pytest.approx(0.7961, abs=1e-4)
    # Fewer than three of 15 negatives: no sample of this size can tell.
    assert roc["low"][:20] == GRID[:20].tolist()
    precision = block["precision_recall"]["pneumonia"]
    assert set(precision["precision"]) == {1.0}
    assert max(precision["low"]) < 0.8


def test_one_positive_patient_says_little() -> None:
    generator = np.random.default_rng(1)
    groups = np.repeat(np.arange(20), 3)
    truth = (groups == 0).astype(np.int64)
    scores = expit(generator.normal(0, 1, 60) + truth)
    roc = curves_block(make_split(scores, truth, groups), TWO, 1, 0, 200)["roc"]["pneumonia"]
    assert widths(roc)[:-1].min() > 0.5


def draw_three(images: int = 400, absent: int | None = None) -> SplitPredictions:
    generator = np.random.default_rng(2)
    logits = generator.normal(0, 1.5, (images, 3))
    stated = softmax(logits, axis=1)
    truth = (stated.cumsum(axis=1) > generator.random((images, 1))).argmax(axis=1)
    if absent is not None:
        truth[truth == absent] = (absent + 1) % 3
    return SplitPredictions(truth, stated.argmax(axis=1), stated, np.arange(images) // 2)


def test_more_classes_each_have_curves() -> None:
    split = draw_three()
    block = curves_block(split, "abc", None, seed=0, draws=100)
    assert list(block["roc"]) == list(block["precision_recall"]) == ["a", "b", "c"]
    assert block["decision"] is None
    assert "200 groups" in block["method"]
    for number, name in enumerate("abc"):
        expected = roc_auc_score(split.truth == number, split.probabilities[:, number])
        assert area(block["roc"][name]["recall"]) == pytest.approx(expected, abs=0.005)


def test_a_named_class_of_several_has_a_decision_curve_too() -> None:
    block = curves_block(draw_three(), "abc", 1, seed=0, draws=100)
    assert list(block["roc"]) == ["a", "b", "c"]
    assert block["decision"]["class"] == "b"


def test_classes_that_are_absent_or_alone_are_left_out() -> None:
    block = curves_block(draw_three(absent=1), "abc", 1, seed=0, draws=100)
    assert list(block["roc"]) == list(block["precision_recall"]) == ["a", "c"]
    assert block["decision"] is None
    alone = curves_block(make_split([0.2, 0.7], [1, 1]), TWO, None, seed=0, draws=100)
    assert alone["roc"] == alone["precision_recall"] == {}


def test_same_seed_same_numbers_and_all_of_them_can_be_written() -> None:
    split = draw_three(2500)
    first = json.dumps(curves_block(split, "abc", 0, seed=4, draws=100), allow_nan=False)
    assert json.dumps(curves_block(split, "abc", 0, seed=4, draws=100)) == first
    assert json.dumps(curves_block(split, "abc", 0, seed=5, draws=100)) != first
    assert "-0.0," not in first


def test_coarse_draws_have_the_bands_of_exact_ones(monkeypatch: pytest.MonkeyPatch) -> None:
    split = draw_split(3000, seed=8)
    exact = curves_block(split, TWO, 1, seed=0, draws=100)
    monkeypatch.setattr("medlens.report.curves.MOST_STEPS", 300)
    coarse = curves_block(split, TWO, 1, seed=0, draws=100)
    for (one, name), (other, _) in zip(all_curves(exact), all_curves(coarse), strict=True):
        assert other[name] == one[name]
        # The steep start is where a coarse ranking shows.
        for limit in ("low", "high"):
            np.testing.assert_allclose(other[limit][3:], one[limit][3:], atol=0.02)
