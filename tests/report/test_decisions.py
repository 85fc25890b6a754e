from __future__ import annotations

import numpy as np
import pytest

from medlens.report.decisions import (
    abstention,
    class_balance_shift,
    decisions_on_test,
    member_classes,
    sets_on_test,
    values_at_prevalence,
)
from medlens.report.metrics import SplitPredictions


def binary(truth: list[int], probability: list[float]) -> SplitPredictions:
    """Every image a group of its own."""
    positive = np.array(probability)
    both = np.stack([1 - positive, positive], axis=1)
    return SplitPredictions(np.array(truth), both.argmax(1), both, np.arange(len(truth)))


def test_decisions_by_hand() -> None:
    split = binary([1, 1, 1, 0, 0, 0, 0, 0], [0.9, 0.4, 0.1, 0.8, 0.35, 0.2, 0.1, 0.0])
    called = split.probabilities[:, 1] >= 0.3
    block = decisions_on_test(split, 1, called, "ill")
    assert block["confusion_matrix"] == [[3, 2], [1, 2]]
    assert block["recall"]["value"] == pytest.approx(2 / 3)
    assert block["specificity"]["value"] == pytest.approx(3 / 5)
    assert block["precision"]["value"] == pytest.approx(2 / 4)
    assert block["npv"]["value"] == pytest.approx(3 / 4)
    assert block["accuracy"]["value"] == pytest.approx(5 / 8)
    assert block["recall"]["ci95"][0] < 2 / 3 < block["recall"]["ci95"][1]


def test_nobody_called_leaves_precision_without_a_value() -> None:
    split = binary([1, 0, 0, 0], [0.1, 0.1, 0.2, 0.3])
    block = decisions_on_test(split, 1, np.zeros(4, bool), "ill")
    assert block["precision"] == {"value": None, "reason": "no image was called ill"}


def test_precision_at_another_prevalence_by_hand() -> None:
    random = np.random.default_rng(0)
    truth = np.repeat([1, 0], 200)
    called = np.where(truth == 1, random.random(400) < 0.8, random.random(400) < 0.1)
    split = binary(truth.tolist(), called.astype(float).tolist())
    recall, alarms = called[truth == 1].mean(), called[truth == 0].mean()
    block = values_at_prevalence(split, 1, called, 0.02, seed=0, draws=400)
    expected = recall * 0.02 / (recall * 0.02 + alarms * 0.98)
    assert block["precision"]["value"] == pytest.approx(expected)
    low, high = block["precision"]["ci95"]
    assert low < expected < high
    assert expected < 0.25 < called[truth == 1].sum() / called.sum()  # rare: most calls are false
    assert block["npv"]["value"] == pytest.approx(
        (1 - alarms) * 0.98 / ((1 - alarms) * 0.98 + (1 - recall) * 0.02)
    )
    again = values_at_prevalence(split, 1, called, 0.02, seed=0, draws=400)
    assert again == block


def test_copies_of_images_do_not_narrow_the_values_at_a_prevalence() -> None:
    truth = np.repeat([1, 0], 60)
    called = np.tile([True, True, True, False], 15).tolist() + np.tile([False, True], 30).tolist()
    once = binary(truth.tolist(), np.array(called, float).tolist())
    copied = SplitPredictions(
        *(one.repeat(5, axis=0) for one in (once.truth, once.predicted, once.probabilities)),
        once.groups.repeat(5),
    )
    apart = SplitPredictions(copied.truth, copied.predicted, copied.probabilities, np.arange(600))
    limits = []
    for split in (once, copied, apart):
        is_called = split.predicted == 1
        found = values_at_prevalence(split, 1, is_called, 0.1, seed=0, draws=400)["precision"]
        assert found["value"] == pytest.approx(0.075 / (0.075 + 0.45))
        limits.append(found["ci95"])
    widths = [high - low for low, high in limits]
    assert widths[1] == pytest.approx(widths[0], rel=1e-6)
    assert widths[2] < 0.6 * widths[0]


def test_perfect_decisions_still_have_an_interval_at_a_prevalence() -> None:
    truth = [1] * 10 + [0] * 10
    split = binary(truth, [float(one) for one in truth])
    block = values_at_prevalence(split, 1, np.array(truth) == 1, 0.1, seed=0, draws=200)
    assert block["precision"]["value"] == 1.0
    assert block["precision"]["ci95"][0] < 0.5


def test_sets_by_hand() -> None:
    split = SplitPredictions(
        np.array([0, 1, 2, 2]),
        np.array([0, 0, 2, 1]),
        np.array([[0.9, 0.1, 0.0], [0.5, 0.4, 0.1], [0.2, 0.2, 0.6], [0.3, 0.6, 0.1]]),
        np.arange(4),
    )
    sets = member_classes(split.probabilities, {0.9: 0.35, 0.95: None})
    blocks = sets_on_test(split, ["a", "b", "c"], sets)
    assert blocks["0.9"]["sizes"] == {"1": 3, "2": 1, "3": 0}
    assert blocks["0.9"]["coverage"]["value"] == pytest.approx(3 / 4)
    assert blocks["0.9"]["mean_size"] == pytest.approx(5 / 4)
    assert blocks["0.9"]["coverage_per_class"]["c"]["value"] == pytest.approx(1 / 2)
    assert blocks["0.95"]["coverage"]["value"] == 1.0
    assert blocks["0.95"]["mean_size"] == 3.0


def test_a_shift_in_class_balance_is_found_and_none_is_not() -> None:
    random = np.random.default_rng(0)
    groups = np.arange(1200)
    first = (random.random(1200) < 0.74).astype(int)
    same = (random.random(1200) < 0.74).astype(int)
    other = (random.random(1200) < 0.62).astype(int)
    classes = ["normal", "pneumonia"]
    assert not class_balance_shift((first, groups), (same, groups), classes)["is_shifted"]
    found = class_balance_shift((first, groups), (other, groups), classes)
    assert found["is_shifted"]
    assert "does not hold" in found["text"]
    # The same images from twenty patients prove nothing.
    few = np.sort(np.arange(1200) % 20)
    block = class_balance_shift((np.sort(first), few), (np.sort(other), few), classes)
    assert block["p"] > found["p"]
    assert not block["is_shifted"]


def test_the_level_of_the_shift_test_is_kept_with_clustered_patients() -> None:
    random = np.random.default_rng(3)
    found = 0
    for _ in range(300):
        sides = []
        for _ in range(2):
            ill = (random.random(60) < 0.4).astype(int)
            sides.append((np.repeat(ill, 5), np.repeat(np.arange(60), 5)))
        found += class_balance_shift(sides[0], sides[1], ["a", "b"])["p"] < 0.05
    assert 3 <= found <= 28  # 15 expected; by image it would be 100 and more


def test_abstention_answers_the_surest_first() -> None:
    random = np.random.default_rng(0)
    probability = random.random(2000)
    truth = (random.random(2000) < probability).astype(int)
    points = abstention(binary(truth.tolist(), probability.tolist()))
    accuracies = [point["accuracy"]["value"] for point in points]
    shares = [point["share_answered"] for point in points]
    assert shares == sorted(shares)
    assert shares[-1] == 1.0
    assert accuracies[0] > 0.95 > accuracies[-1] + 0.1
    assert points[0]["lowest_probability"] > points[-1]["lowest_probability"]
