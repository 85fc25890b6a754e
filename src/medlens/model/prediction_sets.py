"""Calibrated probabilities -> sets of classes that hold the true one in a stated share of cases."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

# Between the names of a set that is written as one text.
BETWEEN_NAMES = " | "
# Sums of weights that differ by less are equal; 0.95 * 20 is not always 19 to a computer.
ROUNDING = 1e-9


def choose_threshold(
    probabilities: NDArray[np.float64],
    labels: NDArray[np.int64],
    level: float,
    groups: NDArray[np.int64] | None = None,
) -> float | None:
    """Choose how probable a class must be to belong to the set, by split-conformal prediction.

    A set's score is 1 - the probability of the true class, which gives the smallest sets on
    average. The threshold is the quantile of the scores at `level`, with one more image of
    unknown score counted in. A new image's set then holds its true class with a chance of `level`
    or more, over images and calibration images alike, if all are exchangeable: if the new image
    might as well have been one of these. Another hospital's, or another balance of classes, is not.

    Images of one patient are alike, so that many images may be few observations. With `groups`
    each group has the weight of one, shared by its images, and the one more is a group: the
    promise then holds for a random image of a new group, for any sizes of groups and however
    alike the images in them are. With one image per group both are the same.

    Sources: Sadinle, Lei, Wasserman, JASA 114 (2019), 223-234 (the score); Lee, Barber, Willett,
    Distribution-free inference with hierarchical data, 2023, arXiv:2306.06342 (the groups; the
    pooled distribution of Dunn, Wasserman, Ramdas, JASA 118 (2023), 2491-2502, with the further
    group, which makes the promise hold also for few groups).

    Args:
        probabilities: Calibrated, of images the classifier was not fitted on, of shape
            (images, classes).
        labels: Class numbers, 0 to classes - 1, of shape (images,).
        level: Share of sets that shall hold the true class, above 0 and below 1.
        groups: The group (patient) of each image, of shape (images,); None where every image is
            its own.

    Returns:
        The lowest probability, 0 to 1, with which a class belongs to the set. None where there
        are too few groups for the level (under 9 for 0.9, under 19 for 0.95): only the set of all
        classes keeps the promise.

    Raises:
        ValueError: If the level is not above 0 and below 1, or a probability is not a number.
    """
    if not 0 < level < 1:
        raise ValueError("a level is a number above 0 and below 1")
    of_label = np.asarray(probabilities, np.float64)[np.arange(len(labels)), labels]
    if np.isnan(of_label).any():
        raise ValueError("a probability is not a number")
    members = np.arange(len(of_label)) if groups is None else np.asarray(groups)
    _, member, counts = np.unique(members, return_inverse=True, return_counts=True)
    # In units of a group: of all there are and the one to come, so many may be outside.
    allowed = (1 - level) * (len(counts) + 1)
    if allowed < 1 - ROUNDING:
        return None
    order = np.argsort(of_label, kind="stable")
    # The group to come counts as outside of every set, wherever its images may lie.
    outside = 1 + np.concatenate([[0.0], np.cumsum(1 / counts[member[order]])[:-1]])
    last = int(np.flatnonzero(outside <= allowed + ROUNDING)[-1])
    return float(of_label[order[last]])


def prediction_sets(
    probabilities: NDArray[np.float64], threshold: float | None
) -> NDArray[np.bool_]:
    """Say which classes belong to each image's set.

    The class of the highest probability, the prediction, always belongs. Without it a set could
    be empty, which no reader can use. Adding classes can only raise the coverage, so that the
    promise still holds; but where the classifier is right more often than the level asks, the
    coverage is that of the predictions, above the level.

    Args:
        probabilities: Calibrated, of shape (images, classes).
        threshold: From `choose_threshold`; None puts every class into every set.

    Returns:
        Of shape (images, classes).
    """
    values = np.asarray(probabilities, np.float64)
    if threshold is None:
        return np.ones(values.shape, bool)
    sets = np.asarray(values >= threshold)
    sets[np.arange(len(values)), values.argmax(axis=1)] = True
    return sets


def name_sets(sets: NDArray[np.bool_], classes: Sequence[str]) -> list[tuple[str, ...]]:
    """Each image's set as the names of its classes, in their order.

    Args:
        sets: From `prediction_sets`, of shape (images, classes).
        classes: The names.
    """
    return [tuple(name for name, is_in in zip(classes, row, strict=True) if is_in) for row in sets]


def write_set(names: Sequence[str]) -> str:
    """A set as one text, for a person or a CSV; what a name holds is not told from it again."""
    return BETWEEN_NAMES.join(names)
