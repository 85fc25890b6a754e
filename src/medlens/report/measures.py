"""One number with its interval: `{"value", "ci95", "n", "groups", "method"}`, or a reason."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medlens.report.bootstrap import (
    bootstrap_limits,
    bootstrap_metrics,
    draw_confusions,
    posterior_limits,
)
from medlens.report.intervals import (
    AucParts,
    Interval,
    auc_interval,
    auc_parts,
    design_effect,
    effective_groups,
    mean_auc_interval,
    precision_recall_limits,
    proportion_interval,
    satterthwaite_groups,
    unseen_groups_limits,
)
from medlens.report.metrics import (
    LARGEST_LOG_LOSS,
    BoolArray,
    FloatArray,
    IntArray,
    SplitPredictions,
    average_precision,
    confusion_scores,
    count_confusion,
    log_losses,
    placements,
    rank_images,
    roc_auc,
    weigh,
)

Measure = dict[str, Any]


@dataclass(frozen=True)
class ClassRanking:
    """How well the probability of one class ranks its images above all others.

    Args:
        roc_auc: Area under the ROC curve, 0 to 1.
        average_precision: 0 to 1.
        parts: What the interval of the area rests on.
    """

    roc_auc: float
    average_precision: float
    parts: AucParts


@dataclass(frozen=True)
class Scored:
    """One split with its counts and draws, from which all its measures are made.

    Args:
        split: The predictions.
        classes: Class names.
        confusion: Counts of shape (classes, classes), true classes in rows.
        values: Point values of the metrics of the confusion matrix, by name.
        rankings: Of each class; None where the split lacks the class or all others.
        boot: Metrics of the bootstrap draws, by name.
        posterior: Metrics of the draws of `draw_confusions`, by name.
    """

    split: SplitPredictions
    classes: Sequence[str]
    confusion: IntArray
    values: dict[str, FloatArray]
    rankings: Sequence[ClassRanking | None]
    boot: dict[str, FloatArray]
    posterior: dict[str, FloatArray]


def score(
    split: SplitPredictions, classes: Sequence[str], seeds: tuple[int, int], draws: int
) -> Scored:
    """Count, rank and draw once for all measures of a split.

    Args:
        split: The predictions of one split, one image at least.
        classes: Class names, in the order of the class numbers.
        seeds: The seed of the run and the number of the split.
        draws: How many bootstrap draws.
    """
    confusion = count_confusion(split.truth, split.predicted, len(classes))
    sizes = [_effective_images(split, number) for number in range(len(classes))]
    drawn = draw_confusions(
        np.random.default_rng([*seeds, 1]),
        confusion,
        np.array(sizes),
        effective_groups(np.bincount(split.groups)),
        draws,
    )
    return Scored(
        split=split,
        classes=classes,
        confusion=confusion,
        values=confusion_scores(confusion),
        rankings=[_rank_class(split, number) for number in range(len(classes))],
        boot=bootstrap_metrics(split, np.random.default_rng([*seeds, 0]), draws),
        posterior=confusion_scores(drawn),
    )


def average_over_folds(scored: Scored, fold: NDArray[np.str_]) -> Scored:
    """Rank each fold by itself: ROC AUCs become their mean over folds.

    Classifiers of different folds need not agree on what a high probability is, so that images of
    two folds are not ranked against each other. No group lies in two folds; the influences of the
    groups on their own folds' AUCs therefore add up to that on the mean.

    Args:
        scored: All folds together.
        fold: The fold of each image, of shape (images,).
    """
    split = scored.split
    rankings: list[ClassRanking | None] = []
    for number, pooled in enumerate(scored.rankings):
        of_class, scores = split.truth == number, split.probabilities[:, number]
        values, parts = [], []
        for rows in (fold == name for name in np.unique(fold)):
            positive = of_class[rows]
            if positive.any() and not positive.all():
                values.append(float(placements(positive, scores[rows])[positive].mean()))
                own = (positive, scores[rows], split.groups[rows], split.group_count)
                parts.append(auc_parts(*own))
        if pooled is None or not values:
            rankings.append(pooled)  # no fold holds both sides: all are ranked together
            continue
        together = AucParts(
            np.sum([part.influence for part in parts], axis=0) / len(parts),
            sum(part.overlapping for part in parts),
            sum(part.positives for part in parts),
            sum(part.negatives for part in parts),
        )
        rankings.append(replace(pooled, roc_auc=float(np.mean(values)), parts=together))
    return replace(scored, rankings=rankings)


def missing(reason: str) -> Measure:
    """A number that cannot be computed, with the reason."""
    return {"value": None, "reason": reason}


def share_measure(
    split: SplitPredictions, successes: BoolArray, among: BoolArray, reason: str = ""
) -> Measure:
    """The share of `successes` among the images in `among`.

    Args:
        split: The predictions.
        successes: Of shape (images,).
        among: Of shape (images,).
        reason: Said where `among` is empty.
    """
    sizes = _group_sizes(split, among)
    if not sizes.any():
        return missing(reason)
    hits = _group_sizes(split, successes & among)
    value = float(hits.sum() / sizes.sum())
    interval = proportion_interval(hits, sizes)
    return measure(value, interval, int(sizes.sum()), int((sizes > 0).sum()))


def f1_measure(scored: Scored, number: int) -> Measure:
    """F1 of one class."""
    value = float(scored.values["f1"][number])
    if np.isnan(value):
        return missing(f"no image of class {scored.classes[number]}")
    ranking = scored.rankings[number]
    groups = ranking.parts.groups if ranking else _all_groups(scored)
    boot, posterior = (draws["f1"][:, number] for draws in (scored.boot, scored.posterior))
    return _drawn(scored, value, boot, posterior, groups)


def mean_measure(scored: Scored, name: str) -> Measure:
    """The mean over classes of recall, precision or f1."""
    if reason := _absence(scored):
        return missing(reason)
    values = scored.values[name]
    if np.isnan(values).any():
        pairs = zip(scored.classes, np.isnan(values), strict=True)
        never = [class_name for class_name, undefined in pairs if undefined]
        return missing("no image was predicted as " + ", ".join(never))
    boot, posterior = (draws[name].mean(1) for draws in (scored.boot, scored.posterior))
    groups = _groups_of_mean(scored, scored.boot[name])
    return _drawn(scored, float(values.mean()), boot, posterior, groups)


def matthews_measure(scored: Scored) -> Measure:
    """Matthews correlation coefficient."""
    value = float(scored.values["mcc"])
    if np.isnan(value):
        return missing("every image is of one class")
    boot, posterior = scored.boot["mcc"], scored.posterior["mcc"]
    return _drawn(scored, value, boot, posterior, _all_groups(scored), (-1.0, 1.0))


def log_loss_measure(scored: Scored) -> Measure:
    """Mean logarithmic loss."""
    split, bounds = scored.split, (0.0, LARGEST_LOG_LOSS)
    value = float(log_losses(split.truth, split.probabilities).mean())
    limits = bootstrap_limits(value, scored.boot["log_loss"], _all_groups(scored), bounds)
    method = _bootstrap_words(scored)
    if limits is None:
        limits = unseen_groups_limits(value, split.group_count, LARGEST_LOG_LOSS)
        method = "bound on the share of groups unlike those seen"
    return _measure_all(scored, value, Interval(*limits, method))


def roc_auc_measure(scored: Scored, number: int) -> Measure:
    """ROC AUC of one class against all others."""
    ranking = scored.rankings[number]
    if ranking is None:
        return missing(_one_sidedness(scored, number))
    return _measure_all(scored, ranking.roc_auc, auc_interval(ranking.roc_auc, ranking.parts))


def mean_roc_auc_measure(scored: Scored) -> Measure:
    """The mean of the one-vs-rest ROC AUCs."""
    if reason := _absence(scored):
        return missing(reason)
    rankings = [ranking for ranking in scored.rankings if ranking is not None]
    values = np.array([ranking.roc_auc for ranking in rankings])
    interval = mean_auc_interval(values, [ranking.parts for ranking in rankings])
    return _measure_all(scored, float(values.mean()), interval)


def average_precision_measure(scored: Scored, number: int) -> Measure:
    """Average precision of one class against all others."""
    ranking = scored.rankings[number]
    if ranking is None:
        return missing(_one_sidedness(scored, number))
    interval = _average_precision_interval(scored, number, ranking)
    return _measure_all(scored, ranking.average_precision, interval)


def mean_average_precision_measure(scored: Scored) -> Measure:
    """The mean of the one-vs-rest average precisions."""
    if reason := _absence(scored):
        return missing(reason)
    rankings = [ranking for ranking in scored.rankings if ranking is not None]
    value = float(np.mean([ranking.average_precision for ranking in rankings]))
    boot = scored.boot["average_precision"]
    limits = bootstrap_limits(value, boot.mean(1), _groups_of_mean(scored, boot))
    if limits is not None:
        return _measure_all(scored, value, Interval(*limits, _bootstrap_words(scored)))
    each = [_average_precision_interval(scored, *one) for one in enumerate(rankings)]
    low, high = np.mean([(one.low, one.high) for one in each], axis=0)
    limits = (min(float(low), value), max(float(high), value))
    return _measure_all(scored, value, Interval(*limits, "mean of class intervals"))


def _average_precision_interval(scored: Scored, number: int, ranking: ClassRanking) -> Interval:
    value, boot = ranking.average_precision, scored.boot["average_precision"][:, number]
    limits = bootstrap_limits(value, boot, ranking.parts.groups)
    if limits is not None:
        return Interval(*limits, _bootstrap_words(scored))
    limits = precision_recall_limits(value, ranking.parts.positives)
    return Interval(*limits, "Wilson, positive groups as observations")


def _rank_class(split: SplitPredictions, number: int) -> ClassRanking | None:
    of_class, scores = split.truth == number, split.probabilities[:, number]
    if of_class.all() or not of_class.any():
        return None
    ranking = rank_images(of_class, scores, split.groups, split.group_count)
    steps = weigh(ranking, np.ones((split.group_count, 1)))
    return ClassRanking(
        roc_auc=float(roc_auc(steps)[0]),
        average_precision=float(average_precision(steps)[0]),
        parts=auc_parts(of_class, scores, split.groups, split.group_count),
    )


def _effective_images(split: SplitPredictions, number: int) -> float:
    """Images of a class over the design effect of its recall; 1 for a class without images."""
    of_class = split.truth == number
    sizes = _group_sizes(split, of_class)
    if not sizes.any():
        return 1.0
    hits = _group_sizes(split, of_class & (split.predicted == number))
    return float(sizes.sum()) / design_effect(hits[sizes > 0], sizes[sizes > 0])


def _drawn(
    scored: Scored,
    value: float,
    boot: FloatArray,
    posterior: FloatArray,
    groups: float,
    bounds: tuple[float, float] = (0.0, 1.0),
) -> Measure:
    """A metric of the confusion matrix with its interval from the draws that say most."""
    limits = bootstrap_limits(value, boot, groups, bounds)
    if limits is not None:
        return _measure_all(scored, value, Interval(*limits, _bootstrap_words(scored)))
    method = f"Dirichlet posterior of the confusion matrix, {len(posterior)} draws"
    return _measure_all(scored, value, Interval(*posterior_limits(value, posterior), method))


def _measure_all(scored: Scored, value: float, interval: Interval) -> Measure:
    return measure(value, interval, len(scored.split.truth), scored.split.group_count)


def measure(value: float, interval: Interval, images: int, groups: int) -> Measure:
    """A number with its interval, and how many images and groups it rests on."""
    return {
        "value": value,
        "ci95": [float(interval.low), float(interval.high)],
        "n": images,
        "groups": groups,
        "method": interval.method,
    }


def _bootstrap_words(scored: Scored) -> str:
    draws = len(scored.boot["mcc"])
    return f"bootstrap over {scored.split.group_count} groups, {draws} draws, logit scale"


def _absence(scored: Scored) -> str:
    """Why a mean over classes cannot be computed; empty where it can."""
    images = scored.confusion.sum(1)
    absent = [name for name, count in zip(scored.classes, images, strict=True) if count == 0]
    return "no image of class " + ", ".join(absent) if absent else ""


def _one_sidedness(scored: Scored, number: int) -> str:
    """Why a class cannot be ranked against the others."""
    name = scored.classes[number]
    present = scored.confusion.sum(1)[number] > 0
    return f"every image is of class {name}" if present else f"no image of class {name}"


def _groups_of_mean(scored: Scored, boot: FloatArray) -> float:
    """Effective number of groups behind a mean over classes, none of them absent."""
    groups = [ranking.parts.groups for ranking in scored.rankings if ranking is not None]
    defined = np.where(np.isnan(boot), np.nanmean(boot, axis=0), boot)
    return satterthwaite_groups(list(defined.var(axis=0)), groups)


def _all_groups(scored: Scored) -> float:
    return effective_groups(np.bincount(scored.split.groups))


def _group_sizes(split: SplitPredictions, chosen: BoolArray) -> IntArray:
    return np.bincount(split.groups[chosen], minlength=split.group_count)
