"""Probabilities and distances -> what is said of an image: one rule for testing and for use."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from medlens.model.operating_point import decide


@dataclass(frozen=True)
class Verdict:
    """What turns logits and distances into what is said of an image.

    Args:
        classes: Class names in the order of the logits.
        temperature: Divides the logits before the softmax.
        positive_class: The class of interest, if there is one.
        threshold: From this probability of it on, the decision is that class; None for none.
        limit: Images at a larger distance are unfamiliar.
    """

    classes: tuple[str, ...]
    temperature: float
    positive_class: str | None
    threshold: float | None
    limit: float


def decide_class(probable: NDArray[np.float64], verdict: Verdict) -> NDArray[np.str_]:
    """What the operating point decides: the positive class, or that it is not; "" without one.

    Args:
        probable: Calibrated probabilities of shape (images, classes).
        verdict: Its threshold and positive class are used.
    """
    if verdict.positive_class is None or verdict.threshold is None:
        return np.full(len(probable), "")
    number = verdict.classes.index(verdict.positive_class)
    others = [name for name in verdict.classes if name != verdict.positive_class]
    negative = others[0] if len(others) == 1 else f"not {verdict.positive_class}"
    is_positive = decide(probable[:, number], verdict.threshold)
    return np.where(is_positive, verdict.positive_class, negative)
