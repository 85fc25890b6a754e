"""What the classifier's decisions are worth on the test set: operating point, sets, abstention."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from scipy import stats

from medlens.model.prediction_sets import prediction_sets
from medlens.report.bootstrap import bootstrap_limits, draw_group_weights
from medlens.report.intervals import Interval, design_effect, effective_groups
from medlens.report.measures import measure, missing, share_measure
from medlens.report.metrics import BoolArray, FloatArray, IntArray, SplitPredictions

SHIFT_LEVEL = 0.01
ABSTENTION_POINTS = 20


def decisions_on_test(
    split: SplitPredictions, positive: int, called: BoolArray, name: str
) -> dict[str, Any]:
    """How good the decisions of an operating point are: a class against the rest.

    Args:
        split: The predictions.
        positive: Number of the positive class.
        called: Whether each image was decided to be positive, of shape (images,).
        name: The positive class.

    Returns:
        recall, specificity, precision, npv, accuracy, each a measure, and confusion_matrix:
        [[true negatives, false alarms], [missed, found]].
    """
    truth = split.truth == positive
    everything = np.ones(len(truth), bool)
    counts = [[int((~called & ~truth).sum()), int((called & ~truth).sum())]]
    counts += [[int((~called & truth).sum()), int((called & truth).sum())]]
    return {
        "recall": share_measure(split, called, truth, f"no image of class {name}"),
        "specificity": share_measure(split, ~called, ~truth, f"every image is of class {name}"),
        "precision": share_measure(split, truth, called, f"no image was called {name}"),
        "npv": share_measure(split, ~truth, ~called, f"every image was called {name}"),
        "accuracy": share_measure(split, called == truth, everything),
        "confusion_matrix": counts,
    }


def values_at_prevalence(
    split: SplitPredictions,
    positive: int,
    called: BoolArray,
    prevalence: float,
    seed: int,
    draws: int,
) -> dict[str, Any]:
    """Precision and negative predictive value where a stated share of cases is positive.

    By Bayes' rule from recall and specificity, which do not depend on how common the class is.

    Args:
        split: The predictions.
        positive: Number of the positive class.
        called: Whether each image was decided to be positive, of shape (images,).
        prevalence: Share of positive cases, above 0 and below 1.
        seed: Of the bootstrap over groups.
        draws: How many draws.
    """
    truth = split.truth == positive
    groups, count = split.groups, split.group_count
    sizes, found = (
        np.stack([np.bincount(groups[among & hits], minlength=count) for among, hits in pairs])
        for pairs in (((truth, True), (~truth, True)), ((truth, called), (~truth, ~called)))
    )
    generator = np.random.default_rng([seed, 7])
    with np.errstate(invalid="ignore"):
        point = _by_bayes(found.sum(axis=1) / sizes.sum(axis=1), prevalence)
        drawn = [
            _by_bayes((found @ weights) / (sizes @ weights), prevalence)
            for weights in draw_group_weights(generator, count, draws)
        ]
    block: dict[str, Any] = {"prevalence": prevalence}
    rates = [
        share_measure(split, called, truth, "no positive image"),
        share_measure(split, ~called, ~truth, "no negative image"),
    ]
    for number, name in enumerate(("precision", "npv")):
        value = float(point[number])
        if np.isnan(value):
            block[name] = missing("a class is absent, or no image was called so")
            continue
        boot = np.concatenate([one[number] for one in drawn])
        limits = bootstrap_limits(value, boot, effective_groups(np.bincount(groups)))
        method = f"Bayes' rule; bootstrap over {count} groups, {draws} draws, logit scale"
        if limits is None:
            # The draws say too little: both rates at their lowest, and both at their highest.
            ends = [np.array([rate["ci95"][end] for rate in rates]) for end in (0, 1)]
            low, high = (float(_by_bayes(end, prevalence)[number]) for end in ends)
            limits, method = (low, high), "Bayes' rule on the limits of recall and specificity"
        block[name] = measure(value, Interval(*limits, method), len(truth), count)
    return block


def _by_bayes(rates: FloatArray, prevalence: float) -> FloatArray:
    """Precision and negative predictive value from recall and specificity, stacked."""
    recall, specificity = rates
    found, alarms = recall * prevalence, (1 - specificity) * (1 - prevalence)
    cleared, missed = specificity * (1 - prevalence), (1 - recall) * prevalence
    with np.errstate(invalid="ignore"):
        return np.stack([found / (found + alarms), cleared / (cleared + missed)])


def sets_on_test(
    split: SplitPredictions, classes: Sequence[str], sets: Mapping[float, BoolArray]
) -> dict[str, Any]:
    """Coverage and size of the prediction sets on the test set.

    Args:
        split: The predictions.
        classes: Class names.
        sets: By level, which classes belong to each image's set, of shape (images, classes).

    Returns:
        By level: coverage (a measure), coverage_per_class, mean_size, one_class (the share of
        sets that name one class), and how many sets have each size.
    """
    everything = np.ones(len(split.truth), bool)
    blocks = {}
    for level, member in sets.items():
        covered = member[np.arange(len(member)), split.truth]
        sizes = member.sum(axis=1)
        blocks[f"{level:g}"] = {
            "coverage": share_measure(split, covered, everything),
            "mean_size": float(sizes.mean()),
            "one_class": share_measure(split, sizes == 1, everything),
            "sizes": {str(size): int((sizes == size).sum()) for size in range(1, len(classes) + 1)},
            "coverage_per_class": {
                name: share_measure(
                    split, covered, split.truth == number, f"no image of class {name}"
                )
                for number, name in enumerate(classes)
            },
        }
    return blocks


def class_balance_shift(
    first: tuple[IntArray, IntArray],
    second: tuple[IntArray, IntArray],
    classes: Sequence[str],
    names: tuple[str, str] = ("the images they were fitted on", "the test set"),
) -> dict[str, Any]:
    """Whether the classes are balanced otherwise in the test set than where sets were fitted.

    Pearson's chi-squared test, its statistic divided by the mean design effect of the class
    shares (Rao & Scott 1981, JASA 76), so that many images of few patients do not count as many.

    Args:
        first: Class numbers and group numbers of the images that the sets were fitted on.
        second: The same of the test set.
        classes: Class names.
        names: What the two are called.

    Returns:
        p, is_shifted (p below 0.01), shares of both, and a text.
    """
    counts = np.stack([np.bincount(one[0], minlength=len(classes)) for one in (first, second)])
    shares = counts / counts.sum(axis=1, keepdims=True)
    present = counts.sum(axis=0) > 0
    effect = float(np.mean([_mean_design_effect(*one) for one in (first, second)]))
    if present.sum() < 2:
        p = 1.0
    else:
        table = counts[:, present]
        expected = np.outer(table.sum(axis=1), table.sum(axis=0)) / table.sum()
        statistic = float((np.square(table - expected) / expected).sum()) / effect
        p = float(stats.chi2.sf(statistic, int(present.sum()) - 1))
    is_shifted = p < SHIFT_LEVEL
    most = int(np.abs(shares[1] - shares[0]).argmax())
    said = f"{classes[most]} makes up {100 * shares[0][most]:.1f} % of {names[0]}"
    said += f" and {100 * shares[1][most]:.1f} % of {names[1]}"
    text = (
        f"The promise of the prediction sets does not hold here: {said}. The two are not "
        "exchangeable, so that the coverage is only what was measured."
        if is_shifted
        else f"No shift in the balance of classes was found ({said})."
    )
    return {
        "p": p,
        "is_shifted": is_shifted,
        "fitted_on": dict(zip(classes, shares[0].tolist(), strict=True)),
        "test": dict(zip(classes, shares[1].tolist(), strict=True)),
        "text": text,
    }


def _mean_design_effect(truth: IntArray, groups: IntArray) -> float:
    numbers = np.unique(groups, return_inverse=True)[1]
    sizes = np.bincount(numbers)
    effects = [
        design_effect(np.bincount(numbers[truth == one], minlength=len(sizes)), sizes)
        for one in np.unique(truth)
    ]
    return float(np.mean(effects))


def abstention(split: SplitPredictions) -> list[dict[str, Any]]:
    """Accuracy if only the images of highest probability are answered.

    Returns:
        About 20 points from few to all images: share_answered, lowest_probability answered, and
        the accuracy, a measure. Images of equal probability are answered together.
    """
    confidence = split.probabilities.max(axis=1)
    right = split.truth == split.predicted
    ordered = np.sort(confidence)[::-1]
    points: list[dict[str, Any]] = []
    for step in range(1, ABSTENTION_POINTS + 1):
        lowest = float(ordered[math.ceil(step * len(ordered) / ABSTENTION_POINTS) - 1])
        answered = confidence >= lowest
        share = float(answered.mean())
        if not points or share > float(points[-1]["share_answered"]):
            accuracy = share_measure(split, right, answered)
            point = {"share_answered": share, "lowest_probability": lowest, "accuracy": accuracy}
            points.append(point)
    return points


def member_classes(
    probabilities: FloatArray, thresholds: Mapping[float, float | None]
) -> dict[float, BoolArray]:
    """The prediction sets of each level."""
    return {
        level: prediction_sets(probabilities, threshold) for level, threshold in thresholds.items()
    }
