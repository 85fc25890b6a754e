"""Draws: right in distribution, the same in any memory, given up where they say nothing."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn import metrics as reference

from medlens.report import bootstrap
from medlens.report.intervals import effective_groups
from medlens.report.metrics import SplitPredictions, confusion_scores


def _split(seed: int, classes: int = 3, images: int = 90, groups: int = 30) -> SplitPredictions:
    generator = np.random.default_rng(seed)
    truth = generator.integers(0, classes, images)
    logits = np.round(generator.normal(size=(images, classes)), 1)
    logits[np.arange(images), truth] += 1
    probabilities = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    group = np.r_[np.arange(groups), generator.integers(0, groups, images - groups)]
    return SplitPredictions(truth, probabilities.argmax(1), probabilities, group)


def _weights(seed: int, groups: int, draws: int, at_once: int) -> np.ndarray:
    generator = np.random.default_rng(seed)
    return np.concatenate(
        list(bootstrap.draw_group_weights(generator, groups, draws, at_once)), axis=1
    )


def test_every_draw_has_as_many_groups_as_there_are():
    weights = _weights(0, 40, 3000, 10**6)
    assert weights.shape == (40, 3000)
    assert (weights.sum(0) == 40).all()
    np.testing.assert_allclose(weights.mean(1), 1, atol=0.1)
    np.testing.assert_allclose(weights.var(1), 39 / 40, atol=0.15)


@pytest.mark.parametrize("at_once", [1, 41, 999, 10**6])
def test_the_draws_do_not_depend_on_the_memory(at_once):
    np.testing.assert_array_equal(_weights(3, 40, 57, at_once), _weights(3, 40, 57, 400))


def test_each_draw_equals_scikit_learn_on_the_drawn_images():
    split = _split(1)
    found = bootstrap.bootstrap_metrics(split, np.random.default_rng(8), 25)
    weights = _weights(8, split.group_count, 25, 10**6)
    for draw in range(25):
        images = np.repeat(np.arange(90), weights[split.groups, draw].astype(int))
        truth, predicted = split.truth[images], split.predicted[images]
        probabilities = split.probabilities[images]
        assert found["mcc"][draw] == pytest.approx(
            reference.matthews_corrcoef(truth, predicted), abs=1e-12
        )
        assert found["log_loss"][draw] == pytest.approx(
            reference.log_loss(truth, probabilities), abs=1e-12
        )
        for number in range(3):
            f1 = reference.f1_score(truth == number, predicted == number)
            precision = reference.average_precision_score(truth == number, probabilities[:, number])
            assert found["f1"][draw, number] == pytest.approx(f1, abs=1e-12)
            assert found["average_precision"][draw, number] == pytest.approx(precision, abs=1e-12)


def test_a_class_that_a_draw_lost_is_nan():
    truth = np.array([0] * 10 + [1])
    probabilities = np.full((11, 2), 0.5)
    split = SplitPredictions(truth, truth, probabilities, np.arange(11))
    found = bootstrap.bootstrap_metrics(split, np.random.default_rng(0), 400)
    lost = np.isnan(found["recall"][:, 1])
    assert 0.25 < lost.mean() < 0.45
    np.testing.assert_array_equal(lost, np.isnan(found["average_precision"][:, 1]))


def test_the_spread_of_the_draws_gives_the_interval():
    drawn = np.random.default_rng(0).normal(0.8, 0.02, 4000)
    low, high = bootstrap.bootstrap_limits(0.8, drawn, 10**6)
    assert (low, high) == pytest.approx((0.758, 0.837), abs=0.003)
    few = bootstrap.bootstrap_limits(0.8, drawn, 5)
    assert few[0] < low < high < few[1]
    halved = bootstrap.bootstrap_limits(0.6, drawn * 2 - 1, 10**6, (-1.0, 1.0))
    assert halved == pytest.approx((2 * low - 1, 2 * high - 1))


def test_few_groups_widen_by_student_and_by_what_a_bootstrap_lacks():
    drawn = np.random.default_rng(0).normal(0.5, 0.01, 1000)
    low, high = bootstrap.bootstrap_limits(0.5, drawn, 5)
    reach = 2.776445 * np.sqrt(5 / 4) * drawn.std(ddof=1) / 0.25  # Student's t, 4 degrees
    assert np.log(high / (1 - high)) == pytest.approx(reach, rel=1e-6)
    assert low == pytest.approx(1 - high)


@pytest.mark.parametrize(
    ("value", "drawn"),
    [
        (0.7, np.full(100, 0.7)),
        (1.0, np.r_[np.full(50, 1.0), np.full(50, 0.9)]),
        (0.7, np.r_[np.full(10, np.nan), np.linspace(0.6, 0.8, 90)]),
        (0.7, np.full(100, np.nan)),
    ],
    ids=["all equal", "at the bound", "lost", "all lost"],
)
def test_draws_that_say_too_little_give_no_interval(value, drawn):
    assert bootstrap.bootstrap_limits(value, drawn, 50) is None


def test_a_few_lost_draws_are_left_out():
    drawn = np.r_[np.full(4, np.nan), np.linspace(0.6, 0.8, 96)]
    kept = bootstrap.bootstrap_limits(0.7, drawn[4:], 50)
    assert bootstrap.bootstrap_limits(0.7, drawn, 50) == kept


def test_posterior_matrices_are_shares_about_the_observed_ones():
    confusion = np.array([[80, 20, 0], [5, 45, 0], [0, 0, 0]])
    sizes = np.array([100.0, 50.0, 1.0])
    drawn = bootstrap.draw_confusions(np.random.default_rng(0), confusion, sizes, 150.0, 4000)
    assert drawn.shape == (4000, 3, 3)
    np.testing.assert_allclose(drawn.sum((1, 2)), 1)
    assert (drawn[:, 2] == 0).all()
    np.testing.assert_allclose(drawn.mean(0)[:2], confusion[:2] / 150, atol=0.01)
    spread = drawn.sum(2)[:, 0].std()
    assert spread == pytest.approx(np.sqrt(2 / 3 * 1 / 3 / 150), rel=0.1)


def test_fewer_effective_images_widen_the_posterior_of_a_perfect_matrix():
    perfect = np.diag([50, 50])
    widths = []
    for size in (50.0, 10.0, 2.0):
        drawn = bootstrap.draw_confusions(
            np.random.default_rng(0), perfect, np.full(2, size), 2 * size, 2000
        )
        low, high = bootstrap.posterior_limits(1.0, confusion_scores(drawn)["mcc"])
        assert high == 1
        widths.append(high - low)
    assert 0 < widths[0] < widths[1] < widths[2]


def test_effective_groups_of_equal_and_unequal_sizes():
    assert effective_groups(np.full(7, 3)) == pytest.approx(7)
    assert effective_groups(np.array([1, 1, 98])) < 1.1
