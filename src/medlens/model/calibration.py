"""Logits of development images -> the temperature that makes softmax outputs probabilities."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import brentq

LOWEST_TEMPERATURE = 0.05
HIGHEST_TEMPERATURE = 20.0


def fit_temperature(logits: NDArray[np.float64], labels: NDArray[np.int64]) -> float:
    """Find the temperature whose probabilities have the lowest log loss.

    One number for all classes: it changes how sure the classifier is, never what it predicts.
    The loss is convex in the inverse temperature, so its derivative has one zero.

    Where every image is right, the loss falls without end as the temperature goes to 0, and would
    call the classifier surer than any number of images can show. Then the fit goes on as if
    one image in n + 2 belonged to its runner-up class, which is Laplace's estimate of an error
    rate after n images without an error; Platt smooths his targets in the same way.

    Sources: Guo et al., On calibration of modern neural networks, ICML 2017, arXiv:1706.04599;
    Platt, Probabilistic outputs for support vector machines, 1999.

    Args:
        logits: Of images that the classifier was not fitted on, of shape (images, classes).
        labels: Class numbers, 0 to classes - 1, of shape (images,).

    Returns:
        A temperature from 0.05 to 20; above 1 where the classifier was too sure of itself. It is
        1 where the logits of no image differ: no temperature changes them.

    Raises:
        ValueError: If there is no image, or a logit is not finite.
    """
    values = np.asarray(logits, np.float64)
    if len(values) == 0:
        raise ValueError("a temperature needs one image at least")
    if not np.isfinite(values).all():
        raise ValueError("a logit is not a finite number")
    # The largest logit becomes 0, which changes no probability.
    values = values - values.max(axis=1, keepdims=True)
    if not values.any():
        return 1.0
    wanted = _expected_logit(values, np.asarray(labels, np.int64))

    def slope(inverse: float) -> float:
        """Derivative of the log loss by the inverse temperature; it never falls."""
        return float(((probabilities(values, 1 / inverse) * values).sum(axis=1) - wanted).mean())

    lowest, highest = 1 / HIGHEST_TEMPERATURE, 1 / LOWEST_TEMPERATURE
    if slope(lowest) >= 0:
        return HIGHEST_TEMPERATURE
    if slope(highest) <= 0:
        return LOWEST_TEMPERATURE
    return 1 / float(brentq(slope, lowest, highest, xtol=1e-10))


def probabilities(logits: NDArray[np.float64], temperature: float) -> NDArray[np.float64]:
    """Softmax of the logits over the temperature; large logits do not overflow.

    Args:
        logits: Of shape (images, classes).
        temperature: Above 0; from `fit_temperature`.

    Returns:
        Probabilities, 0 to 1, of shape (images, classes); each row adds up to 1.
    """
    scaled = np.asarray(logits, np.float64)
    scaled = (scaled - scaled.max(axis=1, keepdims=True)) / temperature
    powers = np.exp(scaled)
    return np.asarray(powers / powers.sum(axis=1, keepdims=True))


def _expected_logit(values: NDArray[np.float64], labels: NDArray[np.int64]) -> NDArray[np.float64]:
    """Each image's logit under the labels: that of its class, softened where all are right.

    Args:
        values: Logits whose largest is 0 in every row, of shape (images, classes).
        labels: Class numbers of shape (images,).
    """
    of_label = np.take_along_axis(values, labels[:, np.newaxis], axis=1)[:, 0]
    if of_label.any():
        return np.asarray(of_label)
    runner_up = np.sort(values, axis=1)[:, -2]
    return np.asarray(runner_up / (len(values) + 2))
