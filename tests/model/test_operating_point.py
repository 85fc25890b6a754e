from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from medlens.model.operating_point import (
    OperatingPoint,
    Rule,
    choose_operating_point,
    decide,
    parse_rule,
)

PROBABILITY = np.array([0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95])
IS_POSITIVE = np.array([0, 0, 0, 1, 0, 0, 1, 1, 0, 1], bool)


def choose(rule: str, prevalence: float | None = None) -> OperatingPoint:
    return choose_operating_point(IS_POSITIVE, PROBABILITY, parse_rule(rule), prevalence)


def random_images(seed: int) -> tuple[NDArray[np.bool_], NDArray[np.float64]]:
    random = np.random.default_rng(seed)
    is_positive = random.random(80) < 0.3
    # Rounded, so that many images have the same probability.
    probability = np.round(np.clip(random.normal(0.4 + 0.2 * is_positive, 0.2), 0, 1), 2)
    return is_positive, probability


def achieved(
    is_positive: NDArray[np.bool_], probability: NDArray[np.float64], threshold: float
) -> tuple[float, float]:
    called = decide(probability, threshold)
    return float(called[is_positive].mean()), float((~called[~is_positive]).mean())


@pytest.mark.parametrize(
    ("text", "rule"),
    [
        ("youden", Rule("youden", "youden")),
        (" Youden ", Rule("youden", "youden")),
        ("sensitivity=.950", Rule("sensitivity=0.95", "sensitivity", target=0.95)),
        ("specificity = 0.9", Rule("specificity=0.9", "specificity", target=0.9)),
        ("cost=5:1", Rule("cost=5:1", "cost", cost_ratio=5.0)),
        ("cost=1:4", Rule("cost=1:4", "cost", cost_ratio=0.25)),
    ],
)
def test_rules_are_read(text: str, rule: Rule) -> None:
    assert parse_rule(text) == rule
    assert parse_rule(rule.text) == rule


@pytest.mark.parametrize(
    "text",
    [
        "",
        "best",
        "youden=1",
        "youden=",
        "sensitivity",
        "sensitivity=",
        "sensitivity=95",
        "sensitivity=0",
        "sensitivity=1",
        "specificity=nan",
        "cost=5",
        "cost=5:0",
        "cost=-5:1",
        "cost=1:inf",
        "cost=inf:1",
        "cost=1:2:3",
    ],
)
def test_other_rules_are_refused_with_what_was_expected(text: str) -> None:
    with pytest.raises(ValueError, match=r"expected youden, sensitivity=0\.95 .* cost=FN:FP"):
        parse_rule(text)


def test_youden_takes_the_largest_sum_of_recall_and_specificity() -> None:
    assert choose("youden") == OperatingPoint(
        "youden", pytest.approx(0.65), 0.75, pytest.approx(5 / 6)
    )


def test_a_sensitivity_takes_the_highest_threshold_that_reaches_it() -> None:
    point = choose("sensitivity=0.75")
    assert (point.threshold, point.recall) == (pytest.approx(0.65), 0.75)
    assert choose("sensitivity=0.76").threshold == pytest.approx(0.35)


def test_a_specificity_takes_the_lowest_threshold_that_reaches_it() -> None:
    point = choose("specificity=0.8")
    assert (point.threshold, point.specificity) == (pytest.approx(0.65), pytest.approx(5 / 6))
    assert choose("specificity=0.99").threshold == pytest.approx(0.925)


def test_dear_misses_lower_the_threshold_and_dear_alarms_raise_it() -> None:
    thresholds = [choose(rule).threshold for rule in ("cost=100:1", "cost=3:2", "cost=1:100")]
    assert thresholds == [pytest.approx(0.35), pytest.approx(0.65), pytest.approx(0.925)]


def test_a_rare_disease_raises_the_threshold_of_a_cost() -> None:
    assert choose("cost=5:1", prevalence=0.5).threshold == pytest.approx(0.35)
    assert choose("cost=5:1", prevalence=0.01).threshold == pytest.approx(0.925)
    assert choose("youden", prevalence=0.01) == choose("youden")


@pytest.mark.parametrize("seed", range(20))
@pytest.mark.parametrize(
    "text", ["youden", "sensitivity=0.9", "specificity=0.9", "cost=5:1", "cost=1:3"]
)
def test_no_threshold_fits_the_rule_better(text: str, seed: int) -> None:
    is_positive, probability = random_images(seed)
    rule = parse_rule(text)
    point = choose_operating_point(is_positive, probability, rule)
    assert achieved(is_positive, probability, point.threshold) == pytest.approx(
        (point.recall, point.specificity)
    )
    share = is_positive.mean()
    for threshold in np.linspace(0, 1, 1001):
        recall, specificity = achieved(is_positive, probability, float(threshold))
        if rule.kind == "sensitivity":
            assert point.recall >= 0.9
            assert specificity <= point.specificity or recall < 0.9
        elif rule.kind == "specificity":
            assert point.specificity >= 0.9
            assert recall <= point.recall or specificity < 0.9
        else:
            is_cost = rule.kind == "cost"
            miss, alarm = (rule.cost_ratio * share, 1 - share) if is_cost else (1.0, 1.0)
            cost = miss * (1 - recall) + alarm * (1 - specificity)
            chosen = miss * (1 - point.recall) + alarm * (1 - point.specificity)
            assert chosen <= cost + 1e-9


@pytest.mark.parametrize("seed", range(20))
def test_rounding_turns_no_image_over(seed: int) -> None:
    is_positive, probability = random_images(seed)
    for text in ("youden", "sensitivity=0.95", "specificity=0.95"):
        threshold = choose_operating_point(is_positive, probability, parse_rule(text)).threshold
        # Probabilities have two digits, so that a midpoint is half a hundredth away.
        for shift in (-0.004, 0.004):
            np.testing.assert_array_equal(
                decide(probability, threshold), decide(probability + shift, threshold)
            )


def test_of_equals_the_one_that_misses_less_is_taken() -> None:
    # 0.2: everything found, two false alarms of four; 0.8: half found, no false alarm.
    is_positive = np.array([0, 0, 1, 0, 0, 1], bool)
    probability = np.array([0.1, 0.1, 0.3, 0.5, 0.5, 0.9])
    point = choose_operating_point(is_positive, probability, parse_rule("youden"))
    assert (point.threshold, point.recall) == (pytest.approx(0.2), 1.0)


def test_costs_that_are_equal_but_for_rounding_are_equals() -> None:
    # 0.65 misses one at 2 and has one false alarm; 0.35 has three false alarms.
    assert choose("cost=2:1").threshold == pytest.approx(0.35)


def test_probabilities_of_zero_and_one_leave_thresholds_in_between() -> None:
    is_positive = np.array([0, 0, 1, 1], bool)
    point = choose_operating_point(is_positive, is_positive.astype(float), parse_rule("youden"))
    assert point == OperatingPoint("youden", 0.5, 1.0, 1.0)


def test_neighbours_in_floating_point_are_told_apart() -> None:
    low = 0.5
    high = float(np.nextafter(low, 1))
    point = choose_operating_point(
        np.array([False, True]), np.array([low, high]), parse_rule("youden")
    )
    assert (point.recall, point.specificity) == (1.0, 1.0)
    assert low < point.threshold <= high


def test_a_specificity_that_no_threshold_reaches_is_refused() -> None:
    is_positive = np.array([0, 0, 1], bool)
    with pytest.raises(ValueError, match=r"no threshold reaches a specificity of 0\.9"):
        choose_operating_point(
            is_positive, np.array([0.1, 1.0, 1.0]), parse_rule("specificity=0.9")
        )


@pytest.mark.parametrize("kind", ["positive", "negative"])
def test_images_of_one_kind_are_refused(kind: str) -> None:
    is_positive = np.full(3, kind == "positive")
    with pytest.raises(ValueError, match=f"all of the images are {kind}"):
        choose_operating_point(is_positive, np.array([0.1, 0.5, 0.9]), parse_rule("youden"))


@pytest.mark.parametrize("wrong", [np.nan, -0.1, 1.1])
def test_what_is_not_a_probability_is_refused(wrong: float) -> None:
    with pytest.raises(ValueError, match="from 0 to 1"):
        choose_operating_point(
            np.array([True, False]), np.array([0.5, wrong]), parse_rule("youden")
        )


def test_an_image_without_a_probability_is_not_called_positive() -> None:
    assert decide(np.array([np.nan, 0.3, 0.29]), 0.3).tolist() == [False, True, False]
