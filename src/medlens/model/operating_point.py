"""Calibrated probabilities of development images -> the threshold from which one is positive."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

YOUDEN, SENSITIVITY, SPECIFICITY, COST = "youden", "sensitivity", "specificity", "cost"
EXPECTED = (
    "youden, sensitivity=0.95 or specificity=0.95 (a share above 0 and below 1), or cost=FN:FP "
    "(what a missed positive and a false alarm cost, such as cost=5:1)"
)
# Shares and costs that differ by less are equal; 0.95 * 20 is not always 19 to a computer.
ROUNDING = 1e-12


@dataclass(frozen=True)
class Rule:
    """What a good operating point is.

    Args:
        text: The rule as it is written in options and files.
        kind: "youden", "sensitivity", "specificity" or "cost".
        target: The sensitivity or specificity wanted, above 0 and below 1; 0 for other kinds.
        cost_ratio: What a false negative costs in false positives; 1 for other kinds.
    """

    text: str
    kind: str
    target: float = 0.0
    cost_ratio: float = 1.0


@dataclass(frozen=True)
class OperatingPoint:
    """A threshold, and what it achieves on the images that it was chosen on.

    Args:
        rule: The text of the rule.
        threshold: An image is called positive from this probability on, 0 to 1.
        recall: Share of the positive images called positive (sensitivity).
        specificity: Share of the other images not called positive.
    """

    rule: str
    threshold: float
    recall: float
    specificity: float


def parse_rule(text: str) -> Rule:
    """Read a rule: `youden`, `sensitivity=0.95`, `specificity=0.95` or `cost=5:1`.

    Raises:
        ValueError: If it is none of these; says what was expected.
    """
    kind, _, value = (part.strip() for part in text.strip().lower().partition("="))
    try:
        if kind == YOUDEN and "=" not in text:
            return Rule(YOUDEN, YOUDEN)
        if kind in (SENSITIVITY, SPECIFICITY) and 0 < (target := float(value)) < 1:
            return Rule(f"{kind}={target:.12g}", kind, target=target)
        if kind == COST:
            missed, alarm = (float(part) for part in value.split(":"))
            if missed > 0 and 0 < (ratio := missed / alarm) < math.inf:
                return Rule(f"{kind}={missed:.12g}:{alarm:.12g}", kind, cost_ratio=ratio)
    except (ValueError, ZeroDivisionError):
        pass
    raise ValueError(f"expected {EXPECTED}")


def choose_operating_point(
    is_positive: NDArray[np.bool_],
    probability: NDArray[np.float64],
    rule: Rule,
    prevalence: float | None = None,
) -> OperatingPoint:
    """Choose the threshold that fits a rule best on development images; never on test images.

    Every threshold lies midway between two neighbouring probabilities, so that rounding does not
    turn an image over; the lowest lies midway between 0 and the lowest probability, the highest
    midway between the highest probability and 1.

    - youden: the largest recall + specificity - 1 (Youden, Cancer 3 (1950), 32-35). Of equals the
      one with the higher recall.
    - sensitivity=S: of the thresholds whose recall is S or more, the highest: the one with the
      best specificity. Calling every image positive may be the only one.
    - specificity=S: of the thresholds whose specificity is S or more, the lowest: the one with
      the best recall. Calling no image positive may be the only one.
    - cost=FN:FP: the least expected cost of an image, FN * prevalence * (1 - recall) +
      FP * (1 - prevalence) * (1 - specificity) (Metz, Seminars in Nuclear Medicine 8 (1978),
      283-298). Of equals the one with the higher recall.

    Args:
        is_positive: Whether an image is of the positive class, of shape (images,).
        probability: Calibrated probability of that class, 0 to 1, of the same shape.
        rule: From `parse_rule`.
        prevalence: Share of positives where the classifier will be used, above 0 and below 1;
            None for that of these images. Only a cost depends on it.

    Raises:
        ValueError: If the images are all positive or all negative, a probability is not a number
            from 0 to 1, or no threshold fits; says why.
    """
    positive = np.asarray(is_positive, bool)
    values = np.asarray(probability, np.float64)
    if not ((values >= 0) & (values <= 1)).all():
        raise ValueError("a probability is not a number from 0 to 1")
    if positive.all() or not positive.any():
        kind = "positive" if positive.any() else "negative"
        raise ValueError(f"all of the images are {kind}; a threshold needs both kinds")
    if prevalence is not None and not 0 < prevalence < 1:
        raise ValueError("a prevalence is a number above 0 and below 1")
    thresholds = _candidates(values)
    recall = _count_from(values[positive], thresholds) / np.count_nonzero(positive)
    negatives = np.count_nonzero(~positive)
    specificity = (negatives - _count_from(values[~positive], thresholds)) / negatives
    share = float(positive.mean()) if prevalence is None else prevalence
    number = _choose(recall, specificity, rule, share)
    return OperatingPoint(
        rule.text, float(thresholds[number]), float(recall[number]), float(specificity[number])
    )


def decide(probability: NDArray[np.float64], threshold: float) -> NDArray[np.bool_]:
    """Call positive every image whose probability reaches the threshold.

    Args:
        probability: Calibrated, 0 to 1, of shape (images,).
        threshold: From an operating point, 0 to 1.

    Returns:
        Of shape (images,). An image without a probability (NaN) is not positive; it has no
        decision, and the caller must say so.
    """
    return np.asarray(np.asarray(probability) >= threshold)


def _candidates(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Thresholds, ascending: one for each way the images can be divided by probability."""
    levels = np.unique(values)
    edges = np.concatenate([[0.0], levels, [1.0]])
    below, above = edges[:-1], edges[1:]
    # Where two probabilities are neighbours in floating point, no number lies between them.
    middles = np.maximum((below + above) / 2, np.nextafter(below, 1.0))
    # Nothing is below 0; and from 1 on an image of probability 1 is positive still.
    middles[0] = levels[0] / 2
    return np.asarray(middles[:-1] if levels[-1] == 1 else middles)


def _count_from(values: NDArray[np.float64], thresholds: NDArray[np.float64]) -> NDArray[np.int64]:
    """How many of the values are at or above each threshold."""
    below = np.searchsorted(np.sort(values), thresholds, side="left")
    return np.asarray(len(values) - below, np.int64)


def _choose(
    recall: NDArray[np.float64], specificity: NDArray[np.float64], rule: Rule, prevalence: float
) -> int:
    """Number of the best threshold; recall falls and specificity rises with the number."""
    if rule.kind == SENSITIVITY:
        # The lowest threshold calls every image positive, so that one fits always.
        return int(np.flatnonzero(recall >= rule.target - ROUNDING)[-1])
    if rule.kind == SPECIFICITY:
        fitting = np.flatnonzero(specificity >= rule.target - ROUNDING)
        if len(fitting) == 0:
            raise ValueError(
                f"no threshold reaches a specificity of {rule.target:g}: too many images that are "
                "not positive have a probability of 1"
            )
        return int(fitting[0])
    missed = (1 - recall) * (rule.cost_ratio * prevalence if rule.kind == COST else 1.0)
    alarms = (1 - specificity) * ((1 - prevalence) if rule.kind == COST else 1.0)
    cost = missed + alarms
    # The first of equals has the highest recall.
    return int(np.flatnonzero(cost <= cost.min() + ROUNDING)[0])
