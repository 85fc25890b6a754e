"""How far probabilities can be taken at their word: Brier score, calibration error, slope, bins."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy import sparse
from scipy.optimize import brentq
from scipy.special import expit, log_softmax, logsumexp, ndtr, stdtrit

from medlens.report.bootstrap import bootstrap_limits, draw_group_weights
from medlens.report.intervals import (
    FEWEST_OVERLAPPING_GROUPS,
    Interval,
    auc_parts,
    effective_groups,
    unseen_groups_limits,
)
from medlens.report.measures import Measure, measure, missing, share_measure
from medlens.report.metrics import (
    LARGEST_LOG_LOSS,
    BoolArray,
    FloatArray,
    IntArray,
    SplitPredictions,
    log_losses,
)

BINS = 10
_SMALLEST = float(np.finfo(np.float64).tiny)
_MOST_STEPS = 100
# Information per image below this means that the probabilities are as good as 0 and 1.
_LEAST_INFORMATION = 1e-9


@dataclass(frozen=True)
class Forecast:
    """What was said of one event for each image, and whether it came true.

    Args:
        split: The predictions that the event is read from.
        happened: Of shape (images,).
        stated: Probability of the event, 0 to 1, of the same shape.
        logit: The same as log odds; finite.
        scores: Losses of each image, of shape (images,): brier and log_loss.
        largest: The largest value that each of the scores can have.
        bins: Number of the bin of each image, 0 to at most `BINS` - 1, each with an image.
    """

    split: SplitPredictions
    happened: BoolArray
    stated: FloatArray
    logit: FloatArray
    scores: Mapping[str, FloatArray]
    largest: Mapping[str, float]
    bins: IntArray


def calibration_block(
    logits: FloatArray,
    truth: IntArray,
    groups: IntArray,
    classes: Sequence[str],
    positive: int | None,
    calibrated: FloatArray,
    seeds: tuple[int, int],
    draws: int,
) -> dict[str, Any]:
    """Measure the probabilities as the network gives them, and after calibration.

    With a positive class, all but the log loss is about the probability of that class (the Brier
    score only where there are two classes). Without one it is about the confidence: the probability
    of the predicted class, against whether the prediction is right.

    - brier: mean squared error of the probability, 0 to 1, for two classes of which one is
      positive; else summed over the classes, 0 to 2 (Brier, Monthly Weather Review 78 (1950), 1-3).
    - ece: expected calibration error, the mean over images of the distance between the mean
      probability of a bin and the share in it that came true (Naeini, Cooper, Hauskrecht, AAAI
      2015), in 10 bins of equally many images, which are less biased than bins of equal width
      (Roelofs et al., AISTATS 2022, arXiv:2012.08668). It is above 0 by chance alone; its interval
      is corrected for that.
    - log_loss: mean logarithmic loss over all classes, in nats.
    - slope: of the logistic regression of the event on its log odds (Cox, Biometrika 45 (1958),
      562-565); 1 is right, below 1 is too sure.
    - intercept: calibration in the large, with the log odds as offset; 0 is right, below 0 says
      that the probabilities are too high (Van Calster et al., Journal of Clinical Epidemiology 74
      (2016), 167-176).

    Args:
        logits: Before any temperature, of shape (images, classes), one image at least.
        truth: Class numbers of shape (images,).
        groups: Group of each image as a number, of shape (images,).
        classes: Class names, in the order of the columns.
        positive: Number of the positive class; None if there is none.
        calibrated: Probabilities after calibration, 0 to 1, of shape (images, classes).
        seeds: Of the bootstrap over groups, those that `evaluate` has for this split.
        draws: How many bootstrap draws.

    Returns:
        before and after, each with the five measures, and reliability with a list of bins for
        both: low and high (the lowest and highest probability in it), mean_probability, n, share.
    """
    numbers = np.unique(groups, return_inverse=True)[1].astype(np.int64)
    plain = log_softmax(np.asarray(logits, np.float64), axis=1)
    better = np.log(np.clip(calibrated, _SMALLEST, 1.0))
    forecasts = {
        "before": _forecast(plain, np.exp(plain), truth, numbers, positive),
        "after": _forecast(better, np.asarray(calibrated, np.float64), truth, numbers, positive),
    }
    event = "the predicted class" if positive is None else classes[positive]
    drawn = _draw(forecasts, np.random.default_rng([*seeds, 0]), draws)
    blocks: dict[str, Any] = {
        name: _measures(forecast, drawn[name], event) for name, forecast in forecasts.items()
    }
    return blocks | {"reliability": {name: _reliability(one) for name, one in forecasts.items()}}


def equal_mass_bins(probability: FloatArray, count: int = BINS) -> IntArray:
    """Sort images into bins of about equally many, those of one probability together.

    Args:
        probability: Of shape (images,).
        count: How many bins; there are fewer where there are fewer different probabilities.

    Returns:
        Bin numbers from 0 without a gap, rising with the probability, of shape (images,).
    """
    ordered = np.sort(probability)
    starts = np.unique(ordered[np.arange(1, count) * len(ordered) // count])
    bins = np.searchsorted(starts, probability, side="right")
    return np.unique(bins, return_inverse=True)[1].astype(np.int64)


def _forecast(
    logs: FloatArray,
    probabilities: FloatArray,
    truth: IntArray,
    groups: IntArray,
    positive: int | None,
) -> Forecast:
    """Gather what the measures need from probabilities and their logarithms."""
    rows = np.arange(len(truth))
    predicted = probabilities.argmax(axis=1)
    chosen = predicted if positive is None else np.full(len(truth), positive)
    others = logs.copy()
    others[rows, chosen] = -np.inf
    stated, happened = probabilities[rows, chosen], truth == chosen
    if positive is not None and logs.shape[1] == 2:
        brier, largest = np.square(stated - happened), 1.0
    else:
        is_class = truth[:, np.newaxis] == np.arange(logs.shape[1])
        brier, largest = np.square(probabilities - is_class).sum(axis=1), 2.0
    return Forecast(
        split=SplitPredictions(truth, predicted.astype(np.int64), probabilities, groups),
        happened=happened,
        stated=stated,
        logit=logs[rows, chosen] - logsumexp(others, axis=1),
        scores={"brier": brier, "log_loss": log_losses(truth, probabilities)},
        largest={"brier": largest, "log_loss": LARGEST_LOG_LOSS},
        bins=equal_mass_bins(stated),
    )


def _draw(
    forecasts: Mapping[str, Forecast], generator: np.random.Generator, draws: int
) -> dict[str, dict[str, FloatArray]]:
    """Brier score, log loss and calibration error of each bootstrap draw; bins stay as they are.

    Chance is the calibration error that a draw would have if the sample had none.
    """
    sizes = np.bincount(next(iter(forecasts.values())).split.groups)
    sums = [_sums_by_group(forecast, len(sizes)) for forecast in forecasts.values()]
    # Sparse, because a group lies in few bins, and because its sums do not depend on the machine.
    table = sparse.csr_array(np.vstack([*sums, sizes]))
    weighted = draw_group_weights(generator, len(sizes), draws)
    totals = np.concatenate([table @ weights for weights in weighted], axis=1)
    drawn, start = {}, 0
    for name, own in zip(forecasts, sums, strict=True):
        brier, loss, *gaps = totals[start : start + len(own)] / totals[-1]
        observed = own[2:].sum(axis=1, keepdims=True) / sizes.sum()
        drawn[name] = {
            "brier": brier,
            "log_loss": loss,
            "ece": np.abs(gaps).sum(axis=0),
            "chance": np.abs(gaps - observed).sum(axis=0),
        }
        start += len(own)
    return drawn


def _sums_by_group(forecast: Forecast, count: int) -> FloatArray:
    """Brier score, log loss and each bin's excess of probability, summed within groups."""
    groups = forecast.split.groups
    rows = [np.bincount(groups, forecast.scores[name]) for name in ("brier", "log_loss")]
    gap = forecast.stated - forecast.happened
    bin_count = int(forecast.bins.max()) + 1
    cells = np.bincount(forecast.bins * count + groups, gap, minlength=bin_count * count)
    return np.vstack([*rows, cells.reshape(bin_count, count)])


def _measures(forecast: Forecast, drawn: Mapping[str, FloatArray], event: str) -> dict[str, Any]:
    slope, intercept = _recalibration(forecast, event)
    return {
        "brier": _mean_measure(forecast, "brier", drawn["brier"]),
        "ece": _ece_measure(forecast, drawn["ece"], drawn["chance"]),
        "log_loss": _mean_measure(forecast, "log_loss", drawn["log_loss"]),
        "slope": slope,
        "intercept": intercept,
    }


def _mean_measure(forecast: Forecast, name: str, drawn: FloatArray) -> Measure:
    """A mean over images with the interval that evaluation.json gives the log loss."""
    groups, largest = forecast.split.groups, forecast.largest[name]
    sizes = np.bincount(groups)
    value = float(forecast.scores[name].mean())
    limits = bootstrap_limits(value, drawn, effective_groups(sizes), (0.0, largest))
    method = f"bootstrap over {len(sizes)} groups, {len(drawn)} draws, logit scale"
    if limits is None:
        limits = unseen_groups_limits(value, len(sizes), largest)
        method = "bound on the share of groups unlike those seen"
    return measure(value, Interval(*limits, method), len(groups), len(sizes))


def _ece_measure(forecast: Forecast, drawn: FloatArray, chance: FloatArray) -> Measure:
    """The calibration error, with the limits mirrored at the value.

    The error of a sample is larger than that of the population, and that of a bootstrap draw
    larger again; mirroring the draws at the value takes both away (basic bootstrap: Davison and
    Hinkley, Bootstrap Methods and their Application (1997), section 5.2). An error that chance
    alone could make has 0 as its lower limit.
    """
    groups = forecast.split.groups
    sizes = np.bincount(groups)
    gaps = np.bincount(forecast.bins, forecast.stated - forecast.happened)
    value = float(np.abs(gaps).sum() / len(groups))
    tail = expanded_tail(effective_groups(sizes))
    low, high = (float(2 * value - end) for end in np.quantile(drawn, [1 - tail, tail]))
    if value <= np.quantile(chance, 1 - tail):
        low = 0.0
    method = f"basic bootstrap over {len(sizes)} groups, {len(drawn)} draws"
    limits = min(max(low, 0.0), value), max(min(high, 1.0), value)
    if np.ptp(drawn) < 1e-12:
        limits = unseen_groups_limits(value, len(sizes), 1.0)
        method = "bound on the share of groups unlike those seen"
    return measure(value, Interval(*limits, method), len(groups), len(sizes))


def expanded_tail(groups: float) -> float:
    """Share of the bootstrap draws to cut off at either end for a 95 % interval.

    Smaller than 2.5 %, because a bootstrap of few groups is too narrow.
    Source: the expanded percentile interval of Hesterberg, The American Statistician 69 (2015),
    371-386.

    Args:
        groups: The effective number of groups, 1 or more.
    """
    freedom = max(groups - 1, 1.0)
    return float(ndtr(-np.sqrt(groups / freedom) * stdtrit(freedom, 0.975)))


def _recalibration(forecast: Forecast, event: str) -> tuple[Measure, Measure]:
    """Slope and intercept of the logistic recalibration, or why there is none."""
    happened, logit, groups = forecast.happened, forecast.logit, forecast.split.groups
    subject = "is right" if event == "the predicted class" else f"is {event}"
    if happened.all() or not happened.any():
        return (missing(f"{'every' if happened.all() else 'no'} image {subject}"),) * 2
    count = int(groups.max()) + 1
    parts = auc_parts(happened, logit, groups, count)
    sides = [np.unique(groups[side]).size for side in (happened, ~happened)]
    if min(sides) < FEWEST_OVERLAPPING_GROUPS:
        rarer = "" if sides[0] < sides[1] else "not "
        words = subject.replace("is ", f"is {rarer}", 1)
        reason = f"an image {words} in fewer than {FEWEST_OVERLAPPING_GROUPS} groups"
        return missing(reason), missing(reason)
    intercept = _fit_intercept(forecast, parts.groups)
    if np.ptp(logit) < 1e-9:
        return missing("the probability of every image is the same"), intercept
    if parts.overlapping < FEWEST_OVERLAPPING_GROUPS:
        reason = f"the probabilities of fewer than {FEWEST_OVERLAPPING_GROUPS} groups overlap"
        return missing(f"{reason}: too few to fit a slope"), intercept
    return _fit_slope(forecast, parts.groups), intercept


def _fit_intercept(forecast: Forecast, groups: float) -> Measure:
    """The shift of all log odds at which as many events are expected as there were."""
    logit, wanted = forecast.logit, float(forecast.happened.mean())

    def excess(shift: float) -> float:
        return float(expit(logit + shift).mean()) - wanted

    reach = float(np.abs(logit).max()) + 50.0
    shift = float(brentq(excess, -reach, reach, xtol=1e-10))
    return _cluster_measure(forecast, np.ones((len(logit), 1)), logit + shift, shift, groups)


def _fit_slope(forecast: Forecast, groups: float) -> Measure:
    """Logistic regression of the event on its log odds, by Newton's method."""
    logit, happened = forecast.logit, forecast.happened
    spread = float(logit.std())
    design = np.stack([(logit - logit.mean()) / spread, np.ones(len(logit))], axis=1)

    def loss(weights: FloatArray) -> float:
        odds = design @ weights
        return float((np.logaddexp(0.0, odds) - happened * odds).sum())

    weights = np.array([0.0, np.log(happened.mean() / (1 - happened.mean()))])
    current = loss(weights)
    for _ in range(_MOST_STEPS):
        chance = expit(design @ weights)
        information = (design * (chance * (1 - chance))[:, np.newaxis]).T @ design
        step = np.linalg.lstsq(information, design.T @ (happened - chance), rcond=None)[0]
        # The loss is convex: half a step, or a half of that, always lowers it.
        while loss(weights + step) > current and np.abs(step).max() > 1e-10:
            step = step / 2
        weights = weights + step
        current = loss(weights)
        if np.abs(step).max() <= 1e-10:
            break
    slope = float(weights[0]) / spread
    own = np.stack([logit - logit.mean(), np.ones(len(logit))], axis=1)
    return _cluster_measure(forecast, own, design @ weights, slope, groups)


def _cluster_measure(
    forecast: Forecast, design: FloatArray, odds: FloatArray, value: float, groups: float
) -> Measure:
    """A coefficient of a logistic regression with a variance that counts groups.

    One group at a time is left out, each time with one Newton step from the estimate, which is the
    sandwich variance CV3 (Bell and McCaffrey, Survey Methodology 28 (2002), 169-181).

    Args:
        forecast: The event.
        design: Of shape (images, coefficients); the measure is of the first.
        odds: Fitted log odds of each image.
        value: The coefficient.
        groups: Effective number of groups of the rarer outcome.
    """
    numbers = forecast.split.groups
    count, width = int(numbers.max()) + 1, design.shape[1]
    chance = expit(odds)

    def by_group(values: FloatArray) -> FloatArray:
        return np.asarray(np.bincount(numbers, values, minlength=count), np.float64)

    pairs = [(row, column) for row in range(width) for column in range(width)]
    weight = chance * (1 - chance)
    products = [by_group(weight * design[:, one] * design[:, two]) for one, two in pairs]
    information = np.stack(products, axis=1).reshape(count, width, width)
    residual = forecast.happened - chance
    scores = np.stack([by_group(residual * column) for column in design.T], axis=1)
    rest = information.sum(axis=0) - information
    scale = np.sqrt(np.diagonal(information.sum(axis=0)))
    if scale[-1] ** 2 < _LEAST_INFORMATION * len(odds):
        return missing("the probabilities are all but 0 and 1")
    standard = rest / np.outer(scale, scale)
    if (np.linalg.det(standard) < _LEAST_INFORMATION).any():
        return missing("one group alone decides it")
    changes = np.linalg.solve(standard, (scores / scale)[:, :, np.newaxis])[:, 0, 0] / scale[0]
    error = float(np.sqrt(np.square(changes).sum() * (count - 1) / count))
    reach = float(stdtrit(max(groups - 1, 1.0), 0.975)) * error
    method = f"Wald, jackknife over {count} groups"
    return measure(value, Interval(value - reach, value + reach, method), len(odds), count)


def _reliability(forecast: Forecast) -> list[dict[str, Any]]:
    """Each bin with the share of its images that came true."""
    rows = []
    for number in range(int(forecast.bins.max()) + 1):
        inside = forecast.bins == number
        stated = forecast.stated[inside]
        rows.append(
            {
                "low": float(stated.min()),
                "high": float(stated.max()),
                "mean_probability": float(stated.mean()),
                "n": int(inside.sum()),
                "share": share_measure(forecast.split, forecast.happened, inside),
            }
        )
    return rows
