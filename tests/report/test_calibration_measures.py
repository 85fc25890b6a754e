"""Calibration measures against simulations whose calibration is known, and against sums by hand."""

from __future__ import annotations

import json
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.special import expit, logit, softmax
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import brier_score_loss, log_loss

from medlens.report.calibration_measures import (
    BINS,
    calibration_block,
    equal_mass_bins,
    expanded_tail,
)

NAMES = ("brier", "ece", "log_loss", "slope", "intercept")
TWO = ("normal", "pneumonia")


def draw_two(images: int, seed: int = 0) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """Logits of two classes that are exactly right, and labels drawn by them."""
    generator = np.random.default_rng(seed)
    odds = generator.normal(0.3, 1.5, images)
    truth = (generator.random(images) < expit(odds)).astype(np.int64)
    # Only the difference of the logits counts.
    return np.stack([-odds / 3, 2 * odds / 3], axis=1), truth


def measure_two(
    logits: NDArray[np.float64],
    truth: NDArray[np.int64],
    *,
    groups: NDArray[np.int64] | None = None,
    temperature: float = 1.0,
    positive: int | None = 1,
    draws: int = 200,
) -> dict[str, Any]:
    own = np.arange(len(truth)) if groups is None else groups
    calibrated = softmax(logits / temperature, axis=1)
    return calibration_block(logits, truth, own, TWO, positive, calibrated, (0, 2), draws)


def holds(measure: dict[str, Any], truth: float) -> bool:
    return bool(measure["ci95"][0] <= truth <= measure["ci95"][1])


def width(measure: dict[str, Any]) -> float:
    return float(measure["ci95"][1] - measure["ci95"][0])


def from_probabilities(
    stated: list[float], happened: list[int], groups: list[int] | None = None
) -> dict[str, Any]:
    """Measure stated probabilities of the second class."""
    odds = logit(np.array(stated))
    logits = np.stack([np.zeros(len(odds)), odds], axis=1)
    own = None if groups is None else np.array(groups)
    return measure_two(logits, np.array(happened), groups=own)


def test_right_probabilities_are_found_right() -> None:
    block = measure_two(*draw_two(4000))["before"]
    assert holds(block["slope"], 1.0)
    assert holds(block["intercept"], 0.0)
    assert block["ece"]["ci95"][0] == 0.0
    assert block["ece"]["value"] < 0.03
    assert width(block["slope"]) < 0.25


def test_too_sure_logits_have_a_flat_slope_and_the_temperature_mends_them() -> None:
    logits, truth = draw_two(4000)
    block = measure_two(2 * logits, truth, temperature=2.0)
    before, after = block["before"], block["after"]
    assert before["slope"]["ci95"][1] < 1
    assert holds(before["slope"], 0.5)
    assert holds(after["slope"], 1.0)
    assert after["slope"]["value"] == pytest.approx(2 * before["slope"]["value"], rel=1e-6)
    assert before["ece"]["ci95"][0] > 0.03
    for name in ("brier", "ece", "log_loss"):
        assert after[name]["value"] < before[name]["value"]


def test_probabilities_that_are_all_too_high_have_a_negative_intercept() -> None:
    logits, truth = draw_two(4000)
    block = measure_two(logits + np.array([0.0, 0.8]), truth)["before"]
    assert holds(block["intercept"], -0.8)
    assert block["intercept"]["ci95"][1] < 0
    assert holds(block["slope"], 1.0)


def test_point_values_agree_with_scikit_learn() -> None:
    logits, truth = draw_two(500, seed=3)
    block = measure_two(1.7 * logits, truth)["before"]
    stated = softmax(1.7 * logits, axis=1)
    assert block["brier"]["value"] == pytest.approx(brier_score_loss(truth, stated[:, 1]))
    assert block["log_loss"]["value"] == pytest.approx(log_loss(truth, stated))
    odds = 1.7 * (logits[:, 1] - logits[:, 0])
    fitted = LogisticRegression(C=np.inf, tol=1e-10).fit(odds[:, np.newaxis], truth)
    assert block["slope"]["value"] == pytest.approx(float(fitted.coef_[0, 0]), rel=1e-4)
    shift = block["intercept"]["value"]
    assert expit(odds + shift).mean() == pytest.approx(truth.mean(), abs=1e-8)


def test_calibration_error_by_hand() -> None:
    # Ten bins of two: in nine the shares are 0 or 1, in the fifth one of two came true.
    stated = [0.05, 0.05, 0.1, 0.1, 0.15, 0.15, 0.2, 0.2, 0.3, 0.3]
    stated += [0.6, 0.6, 0.7, 0.7, 0.8, 0.8, 0.9, 0.9, 0.95, 0.95]
    happened = [0] * 8 + [1, 0] + [1] * 10
    gaps = [0.05, 0.1, 0.15, 0.2, 0.5 - 0.3, 0.4, 0.3, 0.2, 0.1, 0.05]
    block = from_probabilities(stated, happened)
    assert block["before"]["ece"]["value"] == pytest.approx(np.mean(gaps))
    bins = block["reliability"]["before"]
    assert [row["n"] for row in bins] == [2] * 10
    assert bins[4]["mean_probability"] == pytest.approx(0.3)
    assert bins[4]["share"]["value"] == 0.5


def test_reliability_adds_up_to_the_calibration_error() -> None:
    logits, truth = draw_two(1003)
    block = measure_two(3 * logits, truth, temperature=2.0)
    for name in ("before", "after"):
        bins = block["reliability"][name]
        assert len(bins) == BINS
        assert sum(row["n"] for row in bins) == 1003
        assert max(row["n"] for row in bins) - min(row["n"] for row in bins) <= 1
        gaps = [row["n"] * abs(row["share"]["value"] - row["mean_probability"]) for row in bins]
        assert sum(gaps) / 1003 == pytest.approx(block[name]["ece"]["value"])
        for row, following in pairwise(bins):
            assert row["low"] <= row["mean_probability"] <= row["high"] < following["low"]


def test_ties_stay_in_one_bin() -> None:
    probability = np.array([0.2] * 15 + [0.5] + [0.9] * 4)
    bins = equal_mass_bins(probability)
    # The tenths of the 20 images begin at 0.2 or at 0.9, never at the lonely 0.5.
    assert bins.tolist() == [0] * 16 + [1] * 4
    assert set(equal_mass_bins(np.array([0.4]))) == {0}


def test_copies_of_images_in_a_group_tell_nothing_new() -> None:
    logits, truth = draw_two(300)
    once = measure_two(logits, truth, draws=500)["before"]
    groups = np.repeat(np.arange(300), 4)
    copied = measure_two(logits.repeat(4, axis=0), truth.repeat(4), groups=groups, draws=500)
    apart = measure_two(logits.repeat(4, axis=0), truth.repeat(4), draws=500)["before"]
    for name in NAMES:
        assert copied["before"][name]["value"] == pytest.approx(once[name]["value"])
        assert copied["before"][name]["groups"] == 300
        assert copied["before"][name]["n"] == 1200
    for name in ("brier", "log_loss", "slope", "intercept"):
        assert width(copied["before"][name]) == pytest.approx(width(once[name]), rel=0.02)
        assert width(apart[name]) == pytest.approx(width(once[name]) / 2, rel=0.1)
    spread = [width(row["share"]) for row in copied["reliability"]["before"]]
    assert min(spread) > 0.1


def test_more_classes_are_measured_by_their_confidence() -> None:
    generator = np.random.default_rng(5)
    logits = generator.normal(0, 1.5, (5000, 4))
    right = softmax(logits, axis=1)
    truth = (right.cumsum(axis=1) > generator.random((5000, 1))).argmax(axis=1)
    block = calibration_block(
        2 * logits, truth, np.arange(5000), "abcd", None, right, seeds=(0, 2), draws=200
    )
    stated = softmax(2 * logits, axis=1)
    brier = np.square(stated - np.eye(4)[truth]).sum(axis=1).mean()
    assert block["before"]["brier"]["value"] == pytest.approx(brier)
    assert holds(block["after"]["slope"], 1.0)
    assert holds(block["after"]["intercept"], 0.0)
    assert block["before"]["slope"]["ci95"][1] < 1
    assert block["before"]["intercept"]["ci95"][1] < 0
    first, last = block["reliability"]["after"][0], block["reliability"]["after"][-1]
    assert 0.25 <= first["low"] < last["high"] <= 1
    correct = (stated.argmax(axis=1) == truth).mean()
    rows = block["reliability"]["before"]
    assert sum(row["n"] * row["share"]["value"] for row in rows) / 5000 == pytest.approx(correct)


def test_a_named_class_of_several_is_measured_against_the_rest() -> None:
    generator = np.random.default_rng(6)
    logits = generator.normal(0, 1.5, (5000, 3))
    right = softmax(logits, axis=1)
    truth = (right.cumsum(axis=1) > generator.random((5000, 1))).argmax(axis=1)
    block = calibration_block(
        logits, truth, np.arange(5000), "abc", 2, right, seeds=(0, 2), draws=200
    )
    assert holds(block["before"]["slope"], 1.0)
    assert holds(block["before"]["intercept"], 0.0)
    rows = block["reliability"]["before"]
    share = sum(row["n"] * row["share"]["value"] for row in rows) / 5000
    assert share == pytest.approx((truth == 2).mean())


def test_perfect_separation_has_no_slope() -> None:
    truth = np.arange(40) % 2
    odds = np.where(truth == 1, 4.0, -4.0) + np.linspace(-1, 1, 40)
    block = measure_two(np.stack([np.zeros(40), odds], axis=1), truth)["before"]
    assert block["slope"]["value"] is None
    assert "overlap" in block["slope"]["reason"]
    assert block["intercept"]["value"] is not None
    assert block["brier"]["value"] < 0.01


def test_extreme_logits_leave_only_finite_numbers() -> None:
    truth = np.arange(40) % 2
    odds = np.where(truth == 1, 900.0, -900.0)
    odds[:6] *= -1
    block = measure_two(np.stack([np.zeros(40), odds], axis=1), truth, temperature=0.05)
    json.dumps(block, allow_nan=False)  # refuses what is not finite
    assert block["before"]["brier"]["value"] == pytest.approx(6 / 40)
    assert block["before"]["intercept"]["value"] is None


@pytest.mark.parametrize(
    ("positive", "truth", "words"),
    [
        (1, [0] * 8, "no image is pneumonia"),
        (1, [1] * 8, "every image is pneumonia"),
        (None, [0, 0, 0, 0, 1, 1, 1, 1], "every image is right"),
        (1, [0, 0, 0, 0, 0, 1, 0, 1], "an image is pneumonia in fewer than 3 groups"),
        (1, [1, 1, 0, 1, 1, 1, 0, 1], "an image is not pneumonia in fewer than 3 groups"),
    ],
)
def test_what_cannot_be_fitted_says_why(positive: int | None, truth: list[int], words: str) -> None:
    odds = np.array([-3.0, -2, -1.5, -1, 1, 1.2, 2, 4])
    logits = np.stack([np.zeros(8), odds], axis=1)
    block = measure_two(logits, np.array(truth), positive=positive)["before"]
    assert block["slope"] == block["intercept"] == {"value": None, "reason": words}
    for name in ("brier", "ece", "log_loss"):
        assert width(block[name]) > 0
        assert holds(block[name], block[name]["value"])


def test_one_probability_for_all_has_an_intercept_but_no_slope() -> None:
    block = from_probabilities([0.5] * 40, [1, 0, 0, 0] * 10)["before"]
    assert block["slope"]["reason"] == "the probability of every image is the same"
    assert block["intercept"]["value"] == pytest.approx(logit(0.25))
    assert block["ece"]["value"] == pytest.approx(0.25)


def test_one_image_is_enough_for_an_answer() -> None:
    block = from_probabilities([0.8], [1])
    json.dumps(block, allow_nan=False)  # refuses what is not finite
    assert block["before"]["ece"]["value"] == pytest.approx(0.2)
    assert block["before"]["brier"]["value"] == pytest.approx(0.04)


def test_group_numbers_need_no_order_and_the_seed_decides() -> None:
    logits, truth = draw_two(200)
    groups = np.arange(200) // 2
    plain = measure_two(logits, truth, groups=groups)
    assert measure_two(logits, truth, groups=groups) == plain
    assert measure_two(logits, truth, groups=7 * groups + 3) == plain


def test_few_groups_cut_off_smaller_tails() -> None:
    tails = [expanded_tail(groups) for groups in (1, 5, 30, 1e9)]
    assert tails == sorted(tails)
    assert tails[-1] == pytest.approx(0.025)
    assert tails[1] < 0.002
