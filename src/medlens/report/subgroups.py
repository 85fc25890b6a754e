"""The result in each subgroup that the metadata name, and whether the subgroups differ."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
from scipy import stats

from medlens.report.evaluation import as_arrays
from medlens.report.measures import mean_roc_auc_measure, roc_auc_measure, score, share_measure

FEWEST_IMAGES, FEWEST_GROUPS = 10, 5
MOST_LEVELS = 12
BANDS = 4
NOT_STATED = "not stated"
# Where phantoms have their lesions: truth about the picture, not about the patient.
PLANTED = "lesion_"
NORMAL_QUANTILE = 1.959963984540054


def subgroups_block(
    table: pd.DataFrame,
    classes: Sequence[str],
    positive: int | None,
    seed: int,
    columns: Sequence[str],
) -> list[dict[str, Any]]:
    """Measure the test set in the levels of each metadata column that has enough cases.

    The metric is the ROC AUC where every level measured holds all classes, else the accuracy.
    Heterogeneity is Cochran's Q (1954, Biometrics 10) with the variances that the intervals imply;
    p is adjusted for the number of columns by Holm's method (1979).

    Args:
        table: The test rows of predictions.csv with the metadata columns beside them, as text.
        classes: Class names.
        positive: Number of the positive class of two; None for the mean over classes.
        seed: Of the intervals.
        columns: Names of the metadata columns.

    Returns:
        A block for each column used: column, metric, levels and heterogeneity.
    """
    blocks = []
    for column in columns:
        if column.startswith(PLANTED):
            continue
        levels = _levels(table[column])
        if levels is not None:
            block = _measure_levels(table, levels, classes, positive, seed)
            if block is not None:
                blocks.append({"column": column, **block})
    _adjust([block["heterogeneity"] for block in blocks])
    return blocks


def _levels(values: pd.Series[str]) -> pd.Series[str] | None:
    """The level of each row; None for a column that is constant or an identifier."""
    stated = values.fillna("").astype(str).str.strip()
    known = stated[stated != ""]
    if known.nunique() < 2:
        return None
    if known.nunique() <= MOST_LEVELS:
        return stated.where(stated != "", NOT_STATED)
    numbers = pd.to_numeric(known, errors="coerce")
    if numbers.isna().any() or not np.isfinite(numbers).all():
        return None
    if known.nunique() == len(known) and (numbers % 1 == 0).all() and len(known) > MOST_LEVELS:
        is_running = numbers.max() - numbers.min() == len(numbers) - 1
        if is_running:
            return None  # a running number
    bands = pd.qcut(numbers, BANDS, duplicates="drop")
    names = {
        band: f"{numbers[bands == band].min():g} to {numbers[bands == band].max():g}"
        for band in bands.cat.categories
    }
    return bands.map(names).astype(str).reindex(values.index, fill_value=NOT_STATED)


def _measure_levels(
    table: pd.DataFrame,
    levels: pd.Series[str],
    classes: Sequence[str],
    positive: int | None,
    seed: int,
) -> dict[str, Any] | None:
    rows = {name: table[levels == name] for name in _ordered(levels)}
    large = {
        name: own
        for name, own in rows.items()
        if len(own) >= FEWEST_IMAGES and own["group"].nunique() >= FEWEST_GROUPS
    }
    if len(large) < 2:
        return None
    has_all = all(own["label"].nunique() == len(classes) for own in large.values())
    found = []
    for name, own in rows.items():
        entry: dict[str, Any] = {"level": name, "n": len(own), "groups": own["group"].nunique()}
        if name in large:
            split = as_arrays(own, classes)
            if has_all:
                scored = score(split, classes, (seed, 8), 2)
                entry["value"] = (
                    mean_roc_auc_measure(scored)
                    if positive is None
                    else roc_auc_measure(scored, positive)
                )
            else:
                everything = np.ones(len(own), bool)
                entry["value"] = share_measure(split, split.truth == split.predicted, everything)
        else:
            reason = f"fewer than {FEWEST_IMAGES} images or {FEWEST_GROUPS} groups"
            entry["value"] = {"value": None, "reason": reason}
        found.append(entry)
    measured = [entry["value"] for entry in found if entry["value"]["value"] is not None]
    return {
        "metric": "roc_auc_macro" if has_all else "accuracy",
        "levels": found,
        "heterogeneity": _heterogeneity(measured),
    }


def _ordered(levels: pd.Series[str]) -> list[str]:
    """Bands and numbers by their first number, words by the alphabet, what is not stated last."""

    def place(name: str) -> tuple[bool, float, str]:
        first = pd.to_numeric(name.split(" to ")[0], errors="coerce")
        return name == NOT_STATED, float(np.inf if pd.isna(first) else first), name

    return sorted(map(str, levels.unique()), key=place)


def _heterogeneity(measured: Sequence[dict[str, Any]]) -> dict[str, Any]:
    values = np.array([one["value"] for one in measured])
    widths = np.array([one["ci95"][1] - one["ci95"][0] for one in measured])
    if len(values) < 2 or (widths <= 0).any():
        return {"p": None, "reason": "fewer than two levels can be compared"}
    weights = 1 / np.square(widths / (2 * NORMAL_QUANTILE))
    mean = float(weights @ values / weights.sum())
    statistic = float(weights @ np.square(values - mean))
    p = float(stats.chi2.sf(statistic, len(values) - 1))
    return {"p": p, "method": "Cochran's Q, variances from the intervals; Holm-adjusted"}


def _adjust(tests: Sequence[dict[str, Any]]) -> None:
    """Holm's step-down adjustment of the p values, in place."""
    known = sorted((one for one in tests if one["p"] is not None), key=lambda one: one["p"])
    largest = 0.0
    for number, one in enumerate(known):
        largest = max(largest, min(1.0, one["p"] * (len(known) - number)))
        one["p"] = largest
