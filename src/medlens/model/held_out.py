"""What heads say of development images held out -> temperature, operating point, sets, limit."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from medlens.model.averaging import Averaged, Symmetric, add_views, measure_averaging
from medlens.model.calibration import fit_temperature, probabilities
from medlens.model.familiarity import Familiarity, choose_limit
from medlens.model.head import Head
from medlens.model.operating_point import OperatingPoint, Rule, choose_operating_point
from medlens.model.prediction_sets import choose_threshold

SET_LEVELS = (0.9, 0.95)
FITTED_ON = {
    "val": "a half of val, by group, that early stopping never saw",
    "out_of_fold": "train's out-of-fold predictions: approximate, because they come from heads "
    "that saw only a part of train",
    "stop": "val, which also stopped the training: approximate and a little too confident, because "
    "train has too few groups of a class for out-of-fold predictions",
    "tuned": "val, which also stopped the training: approximate and a little too confident, "
    "because the fine-tuned network has seen all of train",
}


@dataclass(frozen=True)
class Choices:
    """What is wanted of the choices made on development images.

    Args:
        positive: Number of the class of interest; None for none, and then no operating point.
        rule: Of the operating point.
        prevalence: Of the positive class where it is to be used, 0 to 1; None for as it is here.
        seed: Decides among equally good halves and folds.
    """

    positive: int | None
    rule: Rule
    prevalence: float | None
    seed: int


@dataclass(frozen=True)
class HeldOut:
    """Development images with what heads say of them that were not fitted on them.

    Args:
        rows: Their places in the features.
        logits: Of shape (images, classes); averaged over views where the classifier does so.
        without: Of the pictures as they are.
        distances: From the training images, in feature space.
        fold: The fold each was held out in, from 1; 0 where it was in none.
    """

    rows: NDArray[np.intp]
    logits: NDArray[np.float64]
    without: NDArray[np.float64]
    distances: NDArray[np.float64]
    fold: NDArray[np.int64]


def hold_out(
    features: NDArray[np.float32],
    rows: NDArray[np.intp],
    head: Head,
    familiarity: Familiarity,
    symmetric: Symmetric | None,
) -> HeldOut:
    """Images of val with what the head says of them."""
    without = head.logits(features[rows])
    return HeldOut(
        rows,
        add_views(without, head, rows, symmetric),
        without,
        familiarity.distances(features[rows]),
        np.zeros(len(rows), np.int64),
    )


@dataclass(frozen=True)
class Chosen:
    """What is chosen on images held out; the fields are those of `Development`."""

    held_out: HeldOut
    temperature: float
    operating_point: OperatingPoint | None
    no_operating_point: str
    set_thresholds: dict[float, float | None]
    limit: float
    averaged: Averaged | None


def choose_on(
    held_out: HeldOut,
    images: pd.DataFrame,
    labels: NDArray[np.int64],
    choices: Choices,
    symmetric: Symmetric | None,
) -> Chosen:
    """Choose temperature, operating point, sets and limit on images held out."""
    truth = labels[held_out.rows]
    temperature = fit_temperature(held_out.logits, truth)
    calibrated = probabilities(held_out.logits, temperature)
    groups = images["group"].to_numpy()[held_out.rows]
    point, reason = _choose_point(calibrated, truth, choices)
    return Chosen(
        held_out=held_out,
        temperature=temperature,
        operating_point=point,
        no_operating_point=reason,
        set_thresholds={
            level: choose_threshold(calibrated, truth, level, groups) for level in SET_LEVELS
        },
        limit=choose_limit(held_out.distances, groups),
        averaged=None
        if symmetric is None
        else measure_averaging(held_out.logits, held_out.without, truth, symmetric),
    )


def _choose_point(
    calibrated: NDArray[np.float64], truth: NDArray[np.int64], choices: Choices
) -> tuple[OperatingPoint | None, str]:
    if choices.positive is None:
        return None, "no class of interest is named (--positive-class)"
    try:
        point = choose_operating_point(
            truth == choices.positive,
            calibrated[:, choices.positive],
            choices.rule,
            choices.prevalence,
        )
    except ValueError as error:
        return None, str(error)
    return point, ""
