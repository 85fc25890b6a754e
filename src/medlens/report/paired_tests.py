"""Two predictions of the same images: McNemar's test of the answers, DeLong's of the ROC AUC."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.special import ndtr, stdtr
from scipy.stats import binom

from medlens.report.metrics import FloatArray, IntArray, placements
from medlens.report.paired import (
    Pair,
    area_difference,
    compared_classes,
    smaller_side,
    why_unranked,
)

# Differences of ROC AUCs below it are rounding.
ROUNDING = 1e-12


def mcnemar_test(pair: Pair) -> dict[str, Any]:
    """Whether one of the two is right more often, from the images that one alone got right.

    McNemar's test takes images as independent. `clustered` does not: if the two were alike, the
    surplus of each group could as well have been the other's, so all signs are tried. With one
    image in every group the two tests are the same.
    Sources: McNemar, Psychometrika 12 (1947), 153-157, in its exact form; Fisher's randomisation
    test (The Design of Experiments, 1935) on the surpluses of the groups.

    Returns:
        both_right, first_only_right, second_only_right, both_wrong (images), p, method, and
        clustered: p, groups (those with a surplus) and method; None where no group has more than
        one image.
    """
    gained = pair.gained.astype(np.int64)
    right = pair.first.truth == pair.first.predicted
    clustered = None
    if len(gained) > pair.first.group_count:
        surplus = np.bincount(pair.first.groups, gained).astype(np.int64)
        clustered = {
            "p": sign_flip_test(surplus),
            "groups": int((surplus != 0).sum()),
            "method": "randomisation test on the surpluses of whole groups, exact",
        }
    return {
        "both_right": int((right & (gained == 0)).sum()),
        "first_only_right": int((gained < 0).sum()),
        "second_only_right": int((gained > 0).sum()),
        "both_wrong": int((~right & (gained == 0)).sum()),
        "p": sign_flip_test(gained),
        "method": "McNemar, exact; takes images as independent",
        "clustered": clustered,
    }


def sign_flip_test(surplus: NDArray[np.int64]) -> float:
    """Chance of a sum as far from zero as this one if a coin drew each sign.

    All signs are counted, none drawn. Where every surplus is -1, 0 or 1, this is the binomial
    test.

    Args:
        surplus: Whole numbers, of shape (groups,).

    Returns:
        The two-sided p-value.
    """
    sizes, counts = np.unique(np.abs(surplus[surplus != 0]), return_counts=True)
    chances = np.ones(1)  # of each sum of the surpluses with a positive sign
    for size, count in zip(sizes.tolist(), counts.tolist(), strict=True):
        own = np.zeros(size * count + 1)
        own[::size] = binom.pmf(np.arange(count + 1), count, 0.5)
        chances = np.convolve(chances, own)
    total = len(chances) - 1
    is_as_far = np.abs(2 * np.arange(total + 1) - total) >= abs(int(surplus.sum()))
    return min(1.0, float(chances[is_as_far].sum()))


def delong_test(pair: Pair, classes: Sequence[str], positive: int | None) -> dict[str, Any]:
    """Whether the ROC AUCs differ; without a positive class, their means of one against the rest.

    DeLong's variance of paired ROC AUCs. Where a group has more than one image it is clustered by
    group, and Student's t for the groups of the smaller side, less one, takes the place of the
    normal distribution. Sums of a group over classes and sides stay together, which is their
    covariance.
    Sources: DeLong, DeLong, Clarke-Pearson, Biometrics 44 (1988), 837-845; Obuchowski, Biometrics
    53 (1997), 567-578.

    Args:
        pair: Both predictions of each image.
        classes: Class names.
        positive: Number of the class whose ROC AUC alone counts; None for the mean over classes.

    Returns:
        difference (second minus first), standard_error, statistic, p and method; p is None, with a
        reason, where the test is not defined.
    """
    if reason := why_unranked(pair, classes):
        return {"p": None, "reason": reason}
    numbers = compared_classes(classes, positive)
    value = area_difference(pair, numbers)
    influence = np.mean([_influence(pair, 1, n) - _influence(pair, 0, n) for n in numbers], axis=0)
    error = float(np.sqrt((influence**2).sum()))
    found: dict[str, Any] = {"difference": value, "standard_error": error}
    if np.isnan(error):
        reason = "a class, or all others, has images of one group alone"
        return {"difference": value, "p": None, "reason": reason}
    if error <= ROUNDING:
        if abs(value) > ROUNDING:
            return {**found, "p": None, "reason": "the difference is the same in every group"}
        return {**found, "statistic": 0.0, "p": 1.0, "method": "the two rank the images alike"}
    statistic = value / error
    if len(pair.first.truth) == pair.first.group_count:
        p, method = 2 * float(ndtr(-abs(statistic))), "DeLong"
    else:
        groups = min(smaller_side(pair, number) for number in numbers)
        p = 2 * float(stdtr(max(groups - 1, 1), -abs(statistic)))
        method = "DeLong, clustered by group (Obuchowski), Student's t"
    return {**found, "statistic": statistic, "p": p, "method": method}


def _influence(pair: Pair, side: int, number: int) -> FloatArray:
    """What each group adds to the deviation of a ROC AUC averaged over folds, of shape (groups,).

    NaN throughout where a side of a fold has one group alone, whose variance is not known.
    """
    split = pair.sides[side][0]
    folds = pair.folds_of(side, number)
    influence = np.zeros(split.group_count)
    for rows in folds:
        of_class = split.truth[rows] == number
        shares = placements(of_class, split.probabilities[rows, number])
        for chosen in (of_class, ~of_class):
            influence += _deviations(shares[chosen], split.groups[rows][chosen], len(influence))
    return influence / len(folds)


def _deviations(shares: FloatArray, groups: IntArray, group_count: int) -> FloatArray:
    """Sums of the deviations from their mean in each group, scaled to the mean's variance."""
    count = len(np.unique(groups))
    if count < 2:
        return np.full(group_count, np.nan)
    sums = np.bincount(groups, shares - shares.mean(), minlength=group_count)
    return np.asarray(sums / len(shares) * np.sqrt(count / (count - 1)))
