"""Two predictions of the same images: paired differences of all metrics, with intervals."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.special import stdtrit

from medlens.report.bootstrap import bootstrap_limits, draw_group_weights
from medlens.report.intervals import (
    FEWEST_OVERLAPPING_GROUPS,
    Interval,
    effective_groups,
    satterthwaite_groups,
)
from medlens.report.measures import Measure, measure, missing
from medlens.report.metrics import (
    LARGEST_LOG_LOSS,
    BoolArray,
    FloatArray,
    Ranking,
    SplitPredictions,
    log_losses,
    placements,
    rank_images,
    roc_auc,
    weigh,
)

UNSEEN_METHOD = "bound on the share of groups unlike those seen"


@dataclass(frozen=True)
class Pair:
    """Two predictions of each image.

    Args:
        first: Of one classifier.
        second: Of the other; truth and groups are those of `first`.
        folds: The fold of each image for the first and for the second, of shape (2, images); ROC
            AUCs are means over folds. One name throughout for a test set.
    """

    first: SplitPredictions
    second: SplitPredictions
    folds: NDArray[np.str_]

    @property
    def sides(self) -> tuple[tuple[SplitPredictions, NDArray[np.str_]], ...]:
        """Each with its folds, the first before the second."""
        return (self.first, self.folds[0]), (self.second, self.folds[1])

    @property
    def gained(self) -> FloatArray:
        """1 where the second alone is right, -1 where the first alone is, else 0."""
        first, second = (side.truth == side.predicted for side, _ in self.sides)
        return np.asarray(second, np.float64) - np.asarray(first, np.float64)

    def folds_of(self, side: int, number: int) -> list[BoolArray]:
        """The images of each fold that has both the class and others."""
        of_class = self.first.truth == number
        rows = [self.folds[side] == name for name in np.unique(self.folds[side])]
        return [own for own in rows if of_class[own].any() and not of_class[own].all()]


def compared_classes(classes: Sequence[str], positive: int | None) -> list[int]:
    """Numbers of the classes whose ROC AUCs are averaged.

    Args:
        classes: Class names.
        positive: Number of the class whose ROC AUC alone counts; None for all.
    """
    return list(range(len(classes))) if positive is None else [positive]


def differences(
    pair: Pair, classes: Sequence[str], positive: int | None, *, seed: int, draws: int
) -> dict[str, Any]:
    """Second minus first, both on the same groups in every draw of a bootstrap.

    Args:
        pair: Both predictions of each image.
        classes: Class names.
        positive: Number of the class whose ROC AUC alone counts; None for the mean over classes.
        seed: Of the bootstrap, 0 or more.
        draws: How many bootstrap draws, 2 at least.

    Returns:
        accuracy, balanced_accuracy, roc_auc_macro and log_loss, and recall by class name.
    """
    numbers = compared_classes(classes, positive)
    drawn = _draw(pair, numbers, np.random.default_rng([seed, 20]), draws)
    everything = np.ones(len(pair.first.truth), dtype=bool)
    recalls = [
        _share(pair, pair.first.truth == number, drawn.recalls[:, number])
        for number in range(len(classes))
    ]
    present = [share for share in recalls if share is not None]
    accuracy = _share(pair, everything, drawn.accuracy)
    found: dict[str, Any] = {
        "accuracy": missing("no image") if accuracy is None else _measure_share(accuracy, draws),
        "log_loss": _loss_measure(pair, drawn.log_loss),
        "recall": {
            name: missing(f"no image of class {name}")
            if share is None
            else _measure_share(share, draws)
            for name, share in zip(classes, recalls, strict=True)
        },
    }
    reason = why_unranked(pair, classes)
    found["roc_auc_macro"] = (
        missing(reason) if reason else _area_measure(pair, numbers, drawn.areas)
    )
    found["balanced_accuracy"] = (
        missing(reason)
        if len(present) < len(classes)
        else _measure_share(_mean_share(pair, present, drawn.recalls), draws)
    )
    return found


def why_unranked(pair: Pair, classes: Sequence[str]) -> str:
    """Why the mean ROC AUC over classes cannot be computed; empty where it can."""
    counts = np.bincount(pair.first.truth, minlength=len(classes))
    absent = [name for name, count in zip(classes, counts, strict=True) if count == 0]
    if absent:
        return "no image of class " + ", ".join(absent)
    for side in (0, 1):
        for number, name in enumerate(classes):
            if not pair.folds_of(side, number):
                return f"no fold has images of class {name} and of others"
    return ""


def area_difference(pair: Pair, numbers: Sequence[int]) -> float:
    """Second minus first of the ROC AUC, averaged over classes and folds.

    Args:
        pair: Both predictions of each image.
        numbers: Of the classes; each with images, and others too.
    """
    first, second = (
        float(np.mean([np.mean(_areas_by_fold(pair, side, number)) for number in numbers]))
        for side in (0, 1)
    )
    return second - first


def smaller_side(pair: Pair, number: int) -> float:
    """Effective number of groups of a class or of all others, whichever has fewer."""
    of_class = pair.first.truth == number
    sizes = [np.bincount(pair.first.groups[side]) for side in (of_class, ~of_class)]
    return min(effective_groups(own[own > 0]) for own in sizes)


@dataclass(frozen=True)
class _Drawn:
    """Differences in each draw, NaN where undefined.

    Args:
        accuracy: Of shape (draws,).
        log_loss: Of shape (draws,).
        recalls: Of shape (draws, classes).
        areas: ROC AUCs of the classes compared, of shape (draws, classes compared).
    """

    accuracy: FloatArray
    log_loss: FloatArray
    recalls: FloatArray
    areas: FloatArray


def _draw(pair: Pair, numbers: Sequence[int], generator: np.random.Generator, draws: int) -> _Drawn:
    truth, groups, count = pair.first.truth, pair.first.groups, pair.first.group_count
    everything = np.ones(len(truth), dtype=bool)
    of_class = [truth == number for number in range(pair.first.class_count)]
    rows = [(pair.gained, everything), (_loss_changes(pair), everything)]
    rows += [(pair.gained, among) for among in of_class]
    sums = np.stack([np.bincount(groups, one * among, minlength=count) for one, among in rows])
    sizes = np.stack([np.bincount(groups, among, minlength=count) for _, among in rows])
    rankings = [[_rankings(pair, side, number) for number in numbers] for side in (0, 1)]
    ratios, areas = [], []
    for weights in draw_group_weights(generator, count, draws):
        ratios.append(_divide(sums @ weights, sizes @ weights).T)
        first, second = (
            np.stack([_mean_area(of_folds, weights) for of_folds in own], axis=1)
            for own in rankings
        )
        areas.append(second - first)
    drawn = np.concatenate(ratios)
    return _Drawn(drawn[:, 0], drawn[:, 1], drawn[:, 2:], np.concatenate(areas))


@dataclass(frozen=True)
class _Share:
    """The difference of two shares of the same images.

    Args:
        value: Second minus first.
        centre: The same with an image more that either side alone gets right.
        variance: Of the bootstrap.
        added: Variance of the two images more.
        groups: Effective number of groups.
        images: Images that it rests on.
        group_count: Groups that these are of.
    """

    value: float
    centre: float
    variance: float
    added: float
    groups: float
    images: int
    group_count: int


def _share(pair: Pair, among: BoolArray, drawn: FloatArray) -> _Share | None:
    """The difference of the shares of right answers among some images; None if there are none.

    The bootstrap alone covers too little (87 % in simulations) where few answers differ. So one
    image more that either side alone gets right is added, where as many images count as the design
    effect leaves; that covered 94 % and more.
    Source: Bonett and Price, Journal of Educational and Behavioral Statistics 37 (2012), 479-488.
    """
    images = int(among.sum())
    if images == 0:
        return None
    gained = pair.gained[among]
    sizes = np.bincount(pair.first.groups[among])
    groups = effective_groups(sizes[sizes > 0])
    value, variance = float(gained.mean()), _variance(drawn, groups)
    as_independent = float(gained.var()) / images
    effect = max(1.0, variance / as_independent) if as_independent > 0 else images / groups
    size = images / effect
    centre, added = value * size / (size + 2), 2 / (size + 2) ** 2
    return _Share(value, centre, variance, added, groups, images, int((sizes > 0).sum()))


def _mean_share(pair: Pair, shares: Sequence[_Share], drawn: FloatArray) -> _Share:
    groups = satterthwaite_groups([one.variance for one in shares], [one.groups for one in shares])
    return _Share(
        value=float(np.mean([one.value for one in shares])),
        centre=float(np.mean([one.centre for one in shares])),
        variance=_variance(drawn.mean(axis=1), groups),
        added=float(np.sum([one.added for one in shares])) / len(shares) ** 2,
        groups=groups,
        images=len(pair.first.truth),
        group_count=pair.first.group_count,
    )


def _measure_share(share: _Share, draws: int) -> Measure:
    quantile = float(stdtrit(max(share.groups - 1, 1), 0.975))
    reach = quantile * float(np.sqrt(share.variance + share.added))
    low, high = max(share.centre - reach, -1.0), min(share.centre + reach, 1.0)
    method = f"{_bootstrap_words(share.group_count, draws)}, Bonett and Price's adjustment"
    interval = Interval(min(low, share.value), max(high, share.value), method)
    return measure(share.value, interval, share.images, share.group_count)


def _loss_measure(pair: Pair, drawn: FloatArray) -> Measure:
    value = float(_loss_changes(pair).mean())
    groups = effective_groups(np.bincount(pair.first.groups))
    bounds = (-LARGEST_LOG_LOSS, LARGEST_LOG_LOSS)
    limits = bootstrap_limits(value, drawn, groups, bounds)
    method = _bootstrap_words(pair.first.group_count, len(drawn))
    if limits is None:
        limits, method = _unseen(value, _unseen_share(groups), bounds), UNSEEN_METHOD
    interval = Interval(*limits, method)
    return measure(value, interval, len(pair.first.truth), pair.first.group_count)


def _area_measure(pair: Pair, numbers: Sequence[int], drawn: FloatArray) -> Measure:
    """The difference of ROC AUCs.

    Where hardly a group ranks differently, the spread of the draws says too little; then a share
    of groups that differ may be unseen among the class and among the others.
    """
    value = area_difference(pair, numbers)
    sides = [smaller_side(pair, number) for number in numbers]
    spreads = [0.0 if np.isnan(own).all() else float(np.nanvar(own)) for own in drawn.T]
    limits = None
    if min(_reranked_groups(pair, number) for number in numbers) >= FEWEST_OVERLAPPING_GROUPS:
        groups = satterthwaite_groups(spreads, sides)
        limits = bootstrap_limits(value, drawn.mean(axis=1), groups, (-1.0, 1.0))
    method = _bootstrap_words(pair.first.group_count, len(drawn))
    if limits is None:
        unseen = float(np.mean([min(1.0, 2 * _unseen_share(groups)) for groups in sides]))
        limits, method = _unseen(value, unseen, (-1.0, 1.0)), UNSEEN_METHOD
    interval = Interval(*limits, method)
    return measure(value, interval, len(pair.first.truth), pair.first.group_count)


def _reranked_groups(pair: Pair, number: int) -> int:
    """Groups that the two place differently, of a class or of all others, whichever are fewer."""
    of_class = pair.first.truth == number
    first, second = (placements(of_class, side.probabilities[:, number]) for side, _ in pair.sides)
    differs = np.abs(second - first) > 1e-12
    return min(len(np.unique(pair.first.groups[differs & side])) for side in (of_class, ~of_class))


def _unseen_share(groups: float) -> float:
    """The share of differing groups that all of `groups` miss with a chance of 2.5 %.

    Source: Hanley and Lippman-Hand, JAMA 249 (1983), 1743-1745.
    """
    return float(1 - 0.025 ** (1 / groups))


def _unseen(value: float, share: float, bounds: tuple[float, float]) -> tuple[float, float]:
    """Limits of a difference of which a share may be anything within the bounds."""
    low, high = (value * (1 - share) + share * bound for bound in bounds)
    return min(low, value), max(high, value)


def _areas_by_fold(pair: Pair, side: int, number: int) -> list[float]:
    scores = pair.sides[side][0].probabilities[:, number]
    found = []
    for rows in pair.folds_of(side, number):
        of_class = pair.first.truth[rows] == number
        found.append(float(placements(of_class, scores[rows])[of_class].mean()))
    return found


def _rankings(pair: Pair, side: int, number: int) -> list[Ranking]:
    """The ranking of each fold by the probability of a class."""
    split = pair.sides[side][0]
    return [
        rank_images(
            split.truth[rows] == number,
            split.probabilities[rows, number],
            split.groups[rows],
            split.group_count,
        )
        for rows in pair.folds_of(side, number)
    ]


def _mean_area(rankings: Sequence[Ranking], weights: FloatArray) -> FloatArray:
    """Mean over the folds that a draw leaves both sides, of shape (weightings,)."""
    if not rankings:
        return np.full(weights.shape[1], np.nan)
    areas = np.stack([roc_auc(weigh(ranking, weights)) for ranking in rankings])
    return _divide(np.nansum(areas, axis=0), (~np.isnan(areas)).sum(axis=0))


def _loss_changes(pair: Pair) -> FloatArray:
    first, second = (log_losses(side.truth, side.probabilities) for side, _ in pair.sides)
    return second - first


def _variance(drawn: FloatArray, groups: float) -> float:
    """Variance of draws, widened as bootstraps of few groups need (Hesterberg 2015)."""
    kept = drawn[~np.isnan(drawn)]
    return float(kept.var()) * groups / max(groups - 1, 1) if len(kept) else 0.0


def _bootstrap_words(groups: int, draws: int) -> str:
    return f"paired bootstrap over {groups} groups, {draws} draws"


def _divide(numerator: FloatArray, denominator: Any) -> FloatArray:
    """Divide, with NaN where the denominator is zero."""
    defined = np.asarray(denominator) > 0
    return np.where(defined, numerator / np.where(defined, denominator, 1.0), np.nan)
