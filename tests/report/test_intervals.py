"""Intervals against published numbers, slow definitions and planted faults."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

from medlens.report import intervals
from medlens.report.metrics import placements


@pytest.mark.parametrize(
    ("successes", "images", "low", "high"),
    [  # Newcombe, Statistics in Medicine 17 (1998), table I, method 3
        (81, 263, 0.2553, 0.3662),
        (15, 148, 0.0624, 0.1605),
        (0, 20, 0.0000, 0.1611),
        (1, 29, 0.0061, 0.1718),
    ],
)
def test_wilson_gives_the_published_limits(successes, images, low, high):
    singles = np.ones(images, dtype=int)
    hits = (np.arange(images) < successes).astype(int)
    interval = intervals.proportion_interval(hits, singles)
    assert (interval.low, interval.high) == pytest.approx((low, high), abs=5e-5)
    assert interval.method == "Wilson"


def test_groups_of_one_size_with_one_answer_each_have_that_size_as_design_effect():
    hits = np.array([1, 1, 0, 1, 0, 1, 1, 1, 0, 1] * 5)
    for copies in (2, 5):
        effect = intervals.design_effect(hits * copies, np.full(50, copies))
        assert effect == pytest.approx(copies * 50 / 49)


def test_independent_images_in_groups_have_no_design_effect():
    generator = np.random.default_rng(0)
    hits = generator.binomial(4, 0.7, size=4000)
    assert intervals.design_effect(hits, np.full(4000, 4)) < 1.1


def test_a_share_of_one_takes_the_images_of_a_group_as_one():
    sizes = np.array([1, 1, 8])
    assert intervals.design_effect(sizes, sizes) == pytest.approx(10 / (100 / 66))
    alone = intervals.proportion_interval(np.array([9]), np.array([9]))
    assert (alone.low, alone.high) == pytest.approx(intervals.wilson_limits(1.0, 1.0, 1.959964))


def test_few_groups_make_a_share_less_certain():
    # Forty images with the same share in every group: no design effect, but how sure is that?
    few = intervals.proportion_interval(np.full(4, 8), np.full(4, 10))
    many = intervals.proportion_interval(np.full(20, 8), np.full(20, 10))
    plain = intervals.wilson_limits(0.8, 40, intervals.NORMAL_QUANTILE)
    assert few.low < plain[0] < 0.8 < plain[1] < few.high
    assert few.high - few.low > 2 * (many.high - many.low)


def test_copies_in_a_group_do_not_shrink_the_interval_of_a_share():
    hits = np.random.default_rng(1).binomial(1, 0.8, size=60)
    once = intervals.proportion_interval(hits, np.ones(60, dtype=int))
    copied = intervals.proportion_interval(hits * 6, np.full(60, 6))
    fooled = intervals.wilson_limits(hits.mean(), 360, intervals.NORMAL_QUANTILE)
    assert copied.high - copied.low >= once.high - once.low
    assert fooled[1] - fooled[0] < 0.5 * (once.high - once.low)


def _scored_groups(seed: int, groups: int = 40, images: int = 160):
    generator = np.random.default_rng(seed)
    group = np.r_[np.arange(groups), generator.integers(0, groups, images - groups)]
    positive = generator.random(images) < 0.4
    scores = positive + generator.normal(size=groups)[group] + generator.normal(size=images)
    return positive, np.round(scores, 1), group


def test_the_variance_of_single_images_is_that_of_delong():
    positive, scores, _ = _scored_groups(0)
    images = np.arange(len(scores))
    parts = intervals.auc_parts(positive, scores, images, len(images))
    pairs = scores[positive][:, np.newaxis] - scores[~positive]
    wins = (pairs > 0) + 0.5 * (pairs == 0)
    delong = (
        wins.mean(1).var(ddof=1) / positive.sum() + wins.mean(0).var(ddof=1) / (~positive).sum()
    )
    # The jackknife divides by one less than DeLong's sample variance does.
    assert delong < parts.variance < delong * (1 + 2 / min(positive.sum(), (~positive).sum()))


@pytest.mark.parametrize("seed", range(3))
def test_the_variance_is_that_of_leaving_out_one_group_at_a_time(seed):
    positive, scores, group = _scored_groups(seed)
    parts = intervals.auc_parts(positive, scores, group, 40)

    def area(kept):
        return placements(positive[kept], scores[kept])[positive[kept]].mean()

    areas = np.array([area(group != number) for number in range(40)])
    jackknife = (39 / 40) * ((areas - areas.mean()) ** 2).sum()
    assert parts.variance == pytest.approx(jackknife, rel=0.1)


def test_copies_in_a_group_do_not_shrink_the_interval_of_an_area():
    positive, scores, group = _scored_groups(3)
    value = float(placements(positive, scores)[positive].mean())
    once = intervals.auc_interval(value, intervals.auc_parts(positive, scores, group, 40))
    five = [np.repeat(array, 5) for array in (positive, scores, group)]
    copied = intervals.auc_interval(value, intervals.auc_parts(*five, 40))
    images = np.arange(len(five[0]))
    fooled = intervals.auc_interval(value, intervals.auc_parts(*five[:2], images, len(images)))
    assert (copied.low, copied.high) == pytest.approx((once.low, once.high), abs=1e-9)
    assert fooled.high - fooled.low < 0.6 * (once.high - once.low)


def test_perfect_separation_falls_back_to_newcombe():
    positive = np.repeat([True, False], 20)
    group = np.repeat(np.arange(20), 2)
    parts = intervals.auc_parts(positive, positive * 1.0, group, 20)
    interval = intervals.auc_interval(1.0, parts)
    assert interval.method.startswith("Newcombe")
    assert (interval.low, interval.high) == intervals.newcombe_auc_limits(1.0, 10, 10)
    assert 0.7 < interval.low < 0.9
    assert interval.high == 1


def test_an_area_of_all_ties_has_an_interval():
    positive = np.repeat([True, False], 20)
    parts = intervals.auc_parts(positive, np.zeros(40), np.arange(40), 40)
    interval = intervals.auc_interval(0.5, parts)
    assert 0.2 < interval.low < 0.4
    assert interval.high == pytest.approx(1 - interval.low)


@pytest.mark.parametrize("value", [0.0, 0.3, 0.8, 0.999, 1.0])
@pytest.mark.parametrize(("positives", "negatives"), [(1.0, 1.0), (3.5, 40.0), (500.0, 20.0)])
def test_newcombe_limits_solve_their_equation_and_mirror(value, positives, negatives):
    low, high = intervals.newcombe_auc_limits(value, positives, negatives)
    assert 0 <= low <= value <= high <= 1
    assert low < high
    mean_size = (positives + negatives) / 2 - 1
    for limit in (low, high):
        if limit in (0, 1):
            continue
        shape = 1 + mean_size * ((1 - limit) / (2 - limit) + limit / (1 + limit))
        error = np.sqrt(limit * (1 - limit) * shape / (positives * negatives))
        assert abs(value - limit) == pytest.approx(intervals.NORMAL_QUANTILE * error, rel=1e-4)
    mirrored = intervals.newcombe_auc_limits(1 - value, positives, negatives)
    assert mirrored == pytest.approx((1 - high, 1 - low), abs=1e-9)


def test_one_positive_and_one_negative_are_one_observation():
    limits = intervals.newcombe_auc_limits(1.0, 1.0, 1.0)
    assert limits == pytest.approx(intervals.wilson_limits(1.0, 1.0, 1.959964), abs=1e-6)


def test_the_mean_of_areas_counts_what_the_classes_share():
    positive, scores, group = _scored_groups(5)
    parts = intervals.auc_parts(positive, scores, group, 40)
    value = float(placements(positive, scores)[positive].mean())
    alone = intervals.auc_interval(value, parts)
    # The same class three times over tells no more than once: only Student's t may differ.
    thrice = intervals.mean_auc_interval(np.full(3, value), [parts] * 3)
    assert alone.high - alone.low >= thrice.high - thrice.low > 0.95 * (alone.high - alone.low)


def test_the_mean_of_areas_is_careful_where_a_class_is_separated():
    positive, scores, group = _scored_groups(6)
    value = float(placements(positive, scores)[positive].mean())
    parts = [
        intervals.auc_parts(positive, scores, group, 40),
        intervals.auc_parts(positive, positive * 1.0, group, 40),
    ]
    each = [intervals.auc_interval(value, parts[0]), intervals.auc_interval(1.0, parts[1])]
    mean = intervals.mean_auc_interval(np.array([value, 1.0]), parts)
    assert mean.low == pytest.approx((each[0].low + each[1].low) / 2)
    assert mean.high == pytest.approx((each[0].high + each[1].high) / 2)


def test_satterthwaite_adds_degrees_of_freedom_and_minds_the_largest_variance():
    assert intervals.satterthwaite_groups([2.0, 2.0], [11, 11]) == pytest.approx(21)
    assert intervals.satterthwaite_groups([1.0, 1e-9], [4, 1000]) == pytest.approx(4)
    assert intervals.satterthwaite_groups([0.0, 0.0], [4, 9]) == 4


def test_the_bound_on_unseen_groups():
    low, high = intervals.unseen_groups_limits(0.0, 100, 1.0)
    assert low == 0
    assert (1 - high) ** 100 == pytest.approx(0.025)
    assert intervals.unseen_groups_limits(2.0, 1, 36.0)[0] < 2.0


def test_logit_limits_hold_the_value_and_stay_inside():
    low, high = intervals.logit_limits(0.97, 0.05, 12)
    assert 0 < low < 0.97 < high < 1
    wide = intervals.logit_limits(0.5, 100.0, 2)
    assert 0 <= wide[0] < wide[1] <= 1


@pytest.fixture(scope="module")
def simulation() -> ModuleType:
    """The simulation of benchmarks/coverage.py."""
    path = Path(__file__).parents[2] / "benchmarks" / "coverage.py"
    spec = importlib.util.spec_from_file_location("benchmark_coverage", path)
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


def test_intervals_by_patient_hold_the_truth_where_those_by_image_do_not(simulation):
    setting = simulation.Setting(200, "patients", 0.8, 0.5)
    shares = simulation.coverage(setting, repeats=250, seed=1)["coverage"]
    for name in ("accuracy", "recall", "roc_auc"):
        assert shares[f"{name} by patient"] > 0.91
        assert shares[f"{name} by image"] < 0.89


@pytest.mark.slow
@pytest.mark.parametrize(("auc", "prevalence"), [(0.8, 0.5), (0.95, 0.3)])
@pytest.mark.parametrize("kind", ["independent", "patients", "mixed"])
@pytest.mark.parametrize("images", [200, 500])
def test_intervals_cover_as_they_claim(simulation, images, kind, auc, prevalence):
    setting = simulation.Setting(images, kind, auc, prevalence)
    result = simulation.coverage(setting, repeats=2000, seed=0)
    for name in ("accuracy", "recall", "roc_auc"):
        assert result["computed"][f"{name} by patient"] >= 1990
        assert 0.93 <= result["coverage"][f"{name} by patient"] <= 0.97, name
        if kind == "patients":
            assert result["coverage"][f"{name} by image"] < 0.90, name
