"""ROC, precision-recall and decision curves on a fixed grid, with bands that count groups."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy import sparse

from medlens.report.bootstrap import LARGEST_LOST_SHARE, draw_group_weights
from medlens.report.calibration_measures import expanded_tail
from medlens.report.intervals import (
    FEWEST_OVERLAPPING_GROUPS,
    NORMAL_QUANTILE,
    effective_groups,
    wilson_limits,
)
from medlens.report.metrics import BoolArray, FloatArray, IntArray, SplitPredictions

GRID: FloatArray = np.arange(101) / 100
# At a threshold of 1 a false alarm would weigh infinitely much.
THRESHOLDS = GRID[:-1]
DIGITS = 4

# Thresholds of the draws: so many scores of either side, evenly spread over its ranks.
MOST_STEPS = 1000
# Counts over totals may miss a point of the grid by rounding.
_ROUNDING = 1e-12


@dataclass(frozen=True)
class Steps:
    """Images of each group between one threshold and the one above it.

    Args:
        positives: Sparse, of shape (thresholds, groups), thresholds falling.
        negatives: The same of the images of other classes.
    """

    positives: Any
    negatives: Any

    def found_and_alarms(self, weights: FloatArray) -> tuple[FloatArray, FloatArray]:
        """Positives and negatives at or above each threshold, of shape (draws, thresholds)."""
        found, alarms = (
            np.cumsum((side @ weights).T, axis=1) for side in (self.positives, self.negatives)
        )
        return found, alarms


def curves_block(
    split: SplitPredictions, classes: Sequence[str], positive: int | None, seed: int, draws: int
) -> dict[str, Any]:
    """Compute the curves of each class against the rest and their pointwise 95 % bands.

    The bands are expanded percentiles (see `expanded_tail`) of a bootstrap over groups, stretched
    to hold the curve. Where a curve is at 0 or 1, or too many draws lack a class, Wilson's interval
    with groups as observations stretches them further; where a rate of false positives is less than
    three groups of negatives, the band of the recall reaches down to chance, because the bootstrap
    lay too high there in up to 20 % of simulated samples. The curves are exact; the draws are
    ranked on at most 1,000 scores of the class and 1,000 of the others.

    - roc: recall at each rate of false positives, on straight lines between thresholds.
    - precision_recall: precision at the highest threshold that reaches each recall; not
      interpolated, as straight lines would be too good (Davis and Goadrich, ICML 2006, 233-240).
    - decision: net benefit of acting on probabilities at or above a threshold t, the share of true
      positives less the share of false positives times t / (1 - t) (Vickers and Elkin, Medical
      Decision Making 26 (2006), 565-574), and that of treating all. The band has no width where no
      image reaches the threshold: then nobody is treated, and the net benefit is 0.

    Args:
        split: The predictions.
        classes: Class names.
        positive: Number of the positive class; None if there is none.
        seed: Of the bootstrap, 0 or more.
        draws: How many bootstrap draws.

    Returns:
        roc and precision_recall by class (the positive one alone if there are two; classes that
        are absent or alone are left out), decision (None without a positive class that can be
        told from others) and method, in words. Lists of 101 numbers (100 thresholds), rounded.
    """
    is_binary = positive is not None and len(classes) == 2
    wanted = [positive] if is_binary else range(len(classes))
    present = [n for n in wanted if n is not None and _is_mixed(split.truth == n)]
    steps = {number: _rank(split, number, MOST_STEPS) for number in present}
    rates: dict[int, list[tuple[FloatArray, FloatArray]]] = {number: [] for number in present}
    decision = None
    if positive is not None and _is_mixed(split.truth == positive):
        decision = _count_at_thresholds(split, positive)
    benefits: list[FloatArray] = []
    for weights in draw_group_weights(np.random.default_rng([seed, 9]), split.group_count, draws):
        for number, own in steps.items():
            counts = own.found_and_alarms(weights)
            rates[number].append((recall_at(*counts), precision_at(*counts)))
        if decision is not None:
            benefits.append(net_benefit(*decision.found_and_alarms(weights)))
    block: dict[str, Any] = {"roc": {}, "precision_recall": {}, "decision": None}
    for number in present:
        drawn = tuple(np.concatenate(parts) for parts in zip(*rates[number], strict=True))
        roc, precision_recall = _class_curves(split, number, drawn[0], drawn[1])
        block["roc"][classes[number]] = roc
        block["precision_recall"][classes[number]] = precision_recall
    if decision is not None and positive is not None:
        curve = _decision_curve(split, positive, decision, np.concatenate(benefits))
        block["decision"] = {"class": classes[positive], **curve}
    count = split.group_count
    block["method"] = f"pointwise 95 % bands, bootstrap over {count} groups, {draws} draws"
    return block


def recall_at(found: FloatArray, alarms: FloatArray) -> FloatArray:
    """Recall at each false-positive rate of the grid, the highest where there are several.

    Args:
        found: Positives at or above each threshold, thresholds falling, of shape (draws,
            thresholds); the last threshold calls every image.
        alarms: The same of the images of other classes.

    Returns:
        Of shape (draws, 101); NaN for a draw that lacks positives or negatives.
    """
    curves = np.full((len(found), len(GRID)), np.nan)
    for curve, rises, runs in zip(curves, found, alarms, strict=True):
        if rises[-1] > 0 and runs[-1] > 0:
            rate = np.concatenate([[0.0], runs / runs[-1]])
            share = np.concatenate([[0.0], rises / rises[-1]])
            before = np.searchsorted(rate, GRID + _ROUNDING, side="right") - 1
            after = np.minimum(before + 1, len(rate) - 1)
            run = rate[after] - rate[before]
            part = (GRID - rate[before]) / np.where(run > 0, run, 1.0)
            curve[:] = share[before] + np.clip(part, 0, 1) * (share[after] - share[before])
    return curves


def precision_at(found: FloatArray, alarms: FloatArray) -> FloatArray:
    """Precision at the highest threshold that reaches each recall of the grid.

    At a recall of 0 it is that of the first threshold that finds a positive.

    Args:
        found: As for `recall_at`.
        alarms: As for `recall_at`.

    Returns:
        Of shape (draws, 101); NaN for a draw that lacks positives or negatives.
    """
    curves = np.full((len(found), len(GRID)), np.nan)
    wanted = np.maximum(GRID - _ROUNDING, _ROUNDING)
    for curve, right, wrong in zip(curves, found, alarms, strict=True):
        if right[-1] > 0 and wrong[-1] > 0:
            place = np.searchsorted(right / right[-1], wanted)
            curve[:] = right[place] / (right[place] + wrong[place])
    return curves


def net_benefit(found: FloatArray, alarms: FloatArray) -> FloatArray:
    """Net benefit for each image at the thresholds 0.99, 0.98, ..., 0.

    Args:
        found: Positives at or above each of these thresholds, of shape (draws, 100).
        alarms: The same of the images of other classes.
    """
    falling = THRESHOLDS[::-1]
    images = found[:, -1:] + alarms[:, -1:]
    return np.asarray((found - alarms * falling / (1 - falling)) / images)


def _is_mixed(of_class: BoolArray) -> bool:
    return bool(of_class.any() and not of_class.all())


def _rank(split: SplitPredictions, number: int, most: int | None) -> Steps:
    """Sort images by the probability of a class.

    Args:
        split: The predictions.
        number: The class; some images must be of it and some not.
        most: Thresholds taken from the scores of either side; None for every score there is.
    """
    scores, of_class = split.probabilities[:, number], split.truth == number
    sides = [np.sort(scores[side])[::-1] for side in (of_class, ~of_class)]
    if most is not None:
        ends = [np.arange(1, most + 1) * len(side) / most for side in sides]
        places = [np.ceil(one).astype(np.int64) - 1 for one in ends]
        sides = [side[place] for side, place in zip(sides, places, strict=True)]
    thresholds = np.unique(-np.concatenate(sides))
    return _sort_into(split, of_class, np.searchsorted(thresholds, -scores), len(thresholds))


def _count_at_thresholds(split: SplitPredictions, number: int) -> Steps:
    """Sort images by the highest threshold of the decision curve that their probability reaches."""
    reached = np.searchsorted(THRESHOLDS, split.probabilities[:, number], side="right")
    place = len(THRESHOLDS) - np.maximum(reached, 1)
    return _sort_into(split, split.truth == number, place, len(THRESHOLDS))


def _sort_into(split: SplitPredictions, of_class: BoolArray, place: IntArray, count: int) -> Steps:
    positives, negatives = (
        sparse.csr_array(
            (np.ones(int(side.sum())), (place[side], split.groups[side])),
            shape=(count, split.group_count),
        )
        for side in (of_class, ~of_class)
    )
    return Steps(positives, negatives)


def _class_curves(
    split: SplitPredictions, number: int, recalls: FloatArray, precisions: FloatArray
) -> tuple[dict[str, list[float]], dict[str, list[float]]]:
    """ROC and precision-recall curve of a class from all images, with bands from the draws."""
    exact = _rank(split, number, None).found_and_alarms(np.ones((split.group_count, 1)))
    recall, precision = recall_at(*exact)[0], precision_at(*exact)[0]
    positives, negatives = _groups_of_sides(split, number)
    fewer = min(positives, negatives)
    sizes = np.full(len(GRID), positives)
    # At the end of the curve every image is called positive, whatever the sample.
    sizes[-1] = np.inf
    low, high = _stretch(recall, *_band(recall, recalls, fewer), recalls, sizes)
    # Left of the first few groups of negatives the sample cannot tell thresholds apart.
    is_early = negatives * GRID < FEWEST_OVERLAPPING_GROUPS - _ROUNDING
    low = np.where(is_early, np.minimum(low, GRID), low)
    roc = {
        "false_positive_rate": _listed(GRID),
        "recall": _listed(recall),
        **_listed_band(low, high),
    }
    found = np.maximum(positives * GRID, 1.0)
    precision_recall = {
        "recall": _listed(GRID),
        "precision": _listed(precision),
        **_listed_band(
            *_stretch(precision, *_band(precision, precisions, fewer), precisions, found)
        ),
    }
    return roc, precision_recall


def _decision_curve(
    split: SplitPredictions, positive: int, counts: Steps, drawn: FloatArray
) -> dict[str, list[float]]:
    """Net benefit at rising thresholds, with its band, and that of treating all."""
    benefit = net_benefit(*counts.found_and_alarms(np.ones((split.group_count, 1))))[0]
    low, high = _band(benefit, drawn, effective_groups(np.bincount(split.groups)))
    share = float((split.truth == positive).mean())
    return {
        "threshold": _listed(THRESHOLDS),
        "net_benefit": _listed(benefit[::-1]),
        **_listed_band(low[::-1], high[::-1]),
        "treat_all": _listed(share - (1 - share) * THRESHOLDS / (1 - THRESHOLDS)),
    }


def _groups_of_sides(split: SplitPredictions, number: int) -> tuple[float, float]:
    """Effective numbers of groups with and without images of a class."""
    of_class = split.truth == number
    sizes = (np.bincount(split.groups[side]) for side in (of_class, ~of_class))
    positives, negatives = (effective_groups(size[size > 0]) for size in sizes)
    return positives, negatives


def _band(curve: FloatArray, drawn: FloatArray, groups: float) -> tuple[FloatArray, FloatArray]:
    """Expanded percentiles at each point, stretched to hold the curve."""
    kept = drawn[~np.isnan(drawn).any(axis=1)]
    if not len(kept):
        return curve, curve
    tail = expanded_tail(groups)
    low, high = np.quantile(kept, [tail, 1 - tail], axis=0)
    return np.minimum(low, curve), np.maximum(high, curve)


def _stretch(
    curve: FloatArray, low: FloatArray, high: FloatArray, drawn: FloatArray, sizes: FloatArray
) -> tuple[FloatArray, FloatArray]:
    """Stretch a band of shares where the draws say too little.

    Args:
        curve: Of shape (points,).
        low: Of the band.
        high: Of the band.
        drawn: Of shape (draws, points), NaN for draws that lack a class.
        sizes: How many independent observations each point rests on.
    """
    is_lost = np.isnan(drawn[:, 0]).mean() > LARGEST_LOST_SHARE
    low, high = low.copy(), high.copy()
    for point in np.flatnonzero(is_lost | (curve <= 0) | (curve >= 1)):
        limits = wilson_limits(float(curve[point]), float(sizes[point]), NORMAL_QUANTILE)
        low[point], high[point] = min(low[point], limits[0]), max(high[point], limits[1])
    return low, high


def _listed_band(low: FloatArray, high: FloatArray) -> dict[str, list[float]]:
    return {"low": _listed(low), "high": _listed(high)}


def _listed(values: FloatArray) -> list[float]:
    """Rounded numbers of Python; adding 0 turns a negative zero into a zero."""
    return [float(value) for value in np.round(values, DIGITS) + 0.0]
