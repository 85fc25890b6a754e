from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
from numpy.typing import NDArray

from medlens.model.prediction_sets import choose_threshold, prediction_sets

CLASSES = 4


def probabilities_of(true: NDArray[np.float64]) -> NDArray[np.float64]:
    """Two classes, of which the first has the probability given."""
    return np.stack([true, 1 - true], axis=-1)


def images(
    random: np.random.Generator, shape: tuple[int, ...]
) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """Probabilities that are not calibrated at all, and labels that have to do with them."""
    logits = random.normal(size=(*shape, CLASSES))
    noise = random.gumbel(size=logits.shape)
    powers = np.exp(3 * logits)
    return powers / powers.sum(axis=-1, keepdims=True), (logits + noise).argmax(axis=-1)


@pytest.mark.parametrize("level", [0.8, 0.9, 0.95])
@pytest.mark.parametrize("count", [19, 40, 199])
def test_sets_hold_the_true_class_as_often_as_promised(level: float, count: int) -> None:
    random = np.random.default_rng(count)
    held = []
    for _ in range(1500):
        values, labels = images(random, (count + 10,))
        threshold = choose_threshold(values[:count], labels[:count], level)
        of_label = np.take_along_axis(values, labels[:, None], axis=1)[count:, 0]
        assert threshold is not None
        held.append((of_label >= threshold).mean())
    # Without the prediction, which may only add: from the level to one image more.
    error = 3 * np.std(held) / np.sqrt(len(held))
    assert level - error <= np.mean(held) <= level + 1 / (count + 1) + error


def test_the_threshold_is_the_quantile_with_one_image_more() -> None:
    true = np.arange(1, 20) / 100
    labels = np.zeros(19, np.int64)
    assert choose_threshold(probabilities_of(true), labels, 0.95) == 0.01
    assert choose_threshold(probabilities_of(true), labels, 0.9) == 0.02
    assert choose_threshold(probabilities_of(true), labels, 0.5) == 0.10
    assert choose_threshold(probabilities_of(true[::-1]), labels, 0.5) == 0.10


@pytest.mark.parametrize(("level", "fewest"), [(0.8, 4), (0.9, 9), (0.95, 19), (0.99, 99)])
def test_too_few_images_give_no_threshold(level: float, fewest: int) -> None:
    values = probabilities_of(np.linspace(0.1, 0.9, fewest))
    labels = np.zeros(fewest, np.int64)
    assert choose_threshold(values, labels, level) == pytest.approx(0.1)
    assert choose_threshold(values[1:], labels[1:], level) is None
    assert choose_threshold(values[:0], labels[:0], level) is None


def test_images_of_one_patient_count_as_one() -> None:
    values = probabilities_of(np.linspace(0.1, 0.9, 40))
    labels = np.zeros(40, np.int64)
    assert choose_threshold(values, labels, 0.9) is not None
    assert choose_threshold(values, labels, 0.9, groups=np.arange(40) // 5) is None


def test_groups_of_one_image_change_nothing() -> None:
    values, labels = images(np.random.default_rng(0), (50,))
    groups = np.random.default_rng(1).permutation(50) + 7
    for level in (0.5, 0.9, 0.95):
        plain = choose_threshold(values, labels, level)
        assert choose_threshold(values, labels, level, groups=groups) == plain


def coverage_of_new_groups(
    random: np.random.Generator, *, grouped: bool, draws: int = 1500
) -> tuple[float, float]:
    """Mean coverage of a random image of a new group, and its standard error.

    Half of the groups are easy and have 30 images, half are hard and have 1.
    """
    held = []
    for _ in range(draws):
        is_hard = random.random(31) < 0.5
        sizes = np.where(is_hard, 1, 30)
        groups = np.repeat(np.arange(31), sizes)
        level_of_group = np.where(is_hard, 0.4, 0.8) + random.normal(0, 0.1, 31)
        true = np.clip(level_of_group[groups] + random.normal(0, 0.02, len(groups)), 0, 1)
        known = groups < 30
        threshold = choose_threshold(
            probabilities_of(true[known]),
            np.zeros(known.sum(), np.int64),
            0.9,
            groups=groups[known] if grouped else None,
        )
        held.append((true[~known] >= (-1 if threshold is None else threshold)).mean())
    return float(np.mean(held)), float(np.std(held) / np.sqrt(draws))


def test_with_groups_the_promise_holds_for_a_new_patient() -> None:
    covered, error = coverage_of_new_groups(np.random.default_rng(5), grouped=True)
    assert covered >= 0.9 - 3 * error
    # Neither is it kept by taking every class.
    assert covered <= 0.9 + 2 / 31 + 3 * error


def test_without_groups_it_does_not() -> None:
    covered, error = coverage_of_new_groups(np.random.default_rng(5), grouped=False)
    assert covered < 0.9 - 5 * error


def test_the_prediction_always_belongs_and_no_set_is_empty() -> None:
    values = np.array([[0.4, 0.35, 0.25], [0.9, 0.06, 0.04], [0.5, 0.5, 0.0]])
    assert prediction_sets(values, 0.95).tolist() == [[True, False, False]] * 3
    assert prediction_sets(values, 0.3).tolist() == [
        [True, True, False],
        [True, False, False],
        [True, True, False],
    ]
    assert prediction_sets(values, None).all()
    assert values.tolist() == [[0.4, 0.35, 0.25], [0.9, 0.06, 0.04], [0.5, 0.5, 0.0]]


def test_a_higher_level_never_takes_a_class_away() -> None:
    values, labels = images(np.random.default_rng(3), (300,))
    sets = [
        prediction_sets(values[150:], choose_threshold(values[:150], labels[:150], level))
        for level in (0.8, 0.9, 0.95, 0.999)
    ]
    for smaller, larger in pairwise(sets):
        assert (smaller <= larger).all()
    assert sets[0].sum() < sets[2].sum() < sets[3].sum() == sets[3].size


@pytest.mark.parametrize("level", [0.0, 1.0, 90.0, np.nan])
def test_a_level_is_a_share(level: float) -> None:
    with pytest.raises(ValueError, match="level"):
        choose_threshold(probabilities_of(np.full(30, 0.5)), np.zeros(30, np.int64), level)


def test_what_is_not_a_probability_is_refused() -> None:
    with pytest.raises(ValueError, match="not a number"):
        choose_threshold(probabilities_of(np.full(30, np.nan)), np.zeros(30, np.int64), 0.9)
