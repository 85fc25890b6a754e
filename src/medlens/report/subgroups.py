"""The result in each subgroup that the metadata name, and whether the subgroups differ."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pandas as pd
from scipy import stats

from medlens.report.evaluation import as_arrays
from medlens.report.intervals import (
    FEWEST_OVERLAPPING_GROUPS,
    AucParts,
    design_effect,
    effective_groups,
)
from medlens.report.measures import (
    Measure,
    Scored,
    mean_roc_auc_measure,
    missing,
    roc_auc_measure,
    score,
    share_measure,
)
from medlens.report.metrics import SplitPredictions

FEWEST_IMAGES, FEWEST_GROUPS = 10, 5
MOST_LEVELS = 12
BANDS = 4
NOT_STATED = "not stated"
# Written in a table where something was not recorded.
BLANKS = frozenset({"", "-", "?", "n/a", "na", "nan", "null", "unknown", NOT_STATED})
# Where phantoms have their lesions: truth about the picture, not about the patient.
PLANTED = "lesion_"
# Whole numbers of which so many are different, in so many groups, are identifiers; ages are not.
IDENTIFIER_SHARE = 0.9
IDENTIFIER_GROUPS = 50
# The name of all levels together that are too small to be measured: their own might name a patient.
TOO_FEW = "levels with few cases"
METHOD = "Cochran's Q with a variance pooled over the levels, F distribution; Holm-adjusted"


@dataclass(frozen=True)
class Level:
    """What the test of heterogeneity takes from one level.

    Args:
        value: The metric.
        variance: Its jackknife variance over groups; 0 where nothing in the level is wrong.
        size: How many independent observations it rests on, up to a factor that all levels share.
        groups: Effective number of groups behind the variance.
        informative: Groups that the variance comes from.
    """

    value: float
    variance: float
    size: float
    groups: float
    informative: int


def subgroups_block(
    table: pd.DataFrame,
    classes: Sequence[str],
    positive: int | None,
    seed: int,
    columns: Sequence[str],
) -> list[dict[str, Any]]:
    """Measure the test set in the levels of each metadata column that has enough cases.

    A column has 2 to 12 levels; numbers with more are cut into bands of about equally many images.
    What is not stated is a level of its own. Columns that are constant, identifiers or truths about
    a phantom are left out. The metric is the ROC AUC where every level measured holds all classes,
    else the accuracy.

    Heterogeneity is Cochran's Q (Biometrics 10 (1954), 101-129). If the levels do not differ,
    neither does the variance of a single group; so it is pooled over the levels, weighted by their
    size, and Q over its degrees of freedom follows an F distribution. With variances of their own,
    levels without a mistake would have none. In simulations without a difference 1 to 7 % of the p
    were below 0.05, and up to 4 % below 0.01 where the smallest level had 15 images and expected
    less than one mistake. Levels that share groups count as independent, which errs to the side of
    a larger p. p is adjusted for the number of columns by Holm's method (Scandinavian Journal of
    Statistics 6 (1979), 65-70).

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
        levels = _levels(table[column], table["group"].nunique())
        if levels is not None:
            block = _measure_levels(table, levels, classes, positive, seed)
            if block is not None:
                blocks.append({"column": column, **block})
    _adjust([block["heterogeneity"] for block in blocks])
    return blocks


def _levels(values: pd.Series[str], groups: int) -> pd.Series[str] | None:
    """The level of each row; None for a column that is constant or an identifier."""
    written = values.fillna("").astype(str).str.strip()
    is_stated = ~written.str.lower().isin(BLANKS)
    stated = written.where(is_stated, NOT_STATED)
    known = written[is_stated]
    if stated.nunique() < 2:
        return None
    if known.nunique() <= MOST_LEVELS:
        return stated
    numbers = pd.to_numeric(known, errors="coerce")
    if not np.isfinite(numbers).all() or is_identifier(numbers, groups):
        return None
    bands = pd.qcut(numbers, BANDS, duplicates="drop")
    names = {band: _name_band(numbers[bands == band]) for band in bands.cat.categories}
    return bands.map(names).astype(str).reindex(values.index, fill_value=NOT_STATED)


def is_identifier(numbers: pd.Series[float], groups: int) -> bool:
    """Whether numbers are those of images or patients, like 1, 2, 3 or 20714, 20718."""
    if (numbers % 1 != 0).any():
        return False
    different = numbers.nunique()
    is_running = different == len(numbers) == numbers.max() - numbers.min() + 1
    return bool(
        is_running or (groups >= IDENTIFIER_GROUPS and different >= IDENTIFIER_SHARE * groups)
    )


def _name_band(numbers: pd.Series[float]) -> str:
    """Like 40 to 59."""
    low, high = (
        str(int(number)) if number % 1 == 0 else f"{number:g}"
        for number in (numbers.min(), numbers.max())
    )
    return low if low == high else f"{low} to {high}"


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
    small = [own for name, own in rows.items() if name not in large]
    rows = large | ({TOO_FEW: pd.concat(small)} if small else {})
    has_all = all(own["label"].nunique() == len(classes) for own in large.values())
    reason = f"fewer than {FEWEST_IMAGES} images or {FEWEST_GROUPS} groups"
    found, compared = [], []
    for name, own in rows.items():
        value = missing(reason)
        if name in large:
            split = as_arrays(own, classes)
            if has_all:
                value, level = _measure_auc(score(split, classes, (seed, 8), 2), positive)
            else:
                value, level = _measure_accuracy(split)
            compared.append(level)
        groups = int(own["group"].nunique())
        found.append({"level": name, "n": len(own), "groups": groups, "value": value})
    return {
        "metric": "roc_auc_macro" if has_all else "accuracy",
        "levels": found,
        "heterogeneity": _heterogeneity(compared),
    }


def _ordered(levels: pd.Series[str]) -> list[str]:
    """Bands and numbers by their first number, words by the alphabet, what is not stated last."""

    def place(name: str) -> tuple[bool, float, str]:
        first = pd.to_numeric(name.split(" to ")[0], errors="coerce")
        return name == NOT_STATED, float(np.inf if pd.isna(first) else first), name

    return sorted(map(str, levels.unique()), key=place)


def _measure_auc(scored: Scored, positive: int | None) -> tuple[Measure, Level]:
    """The ROC AUC of one class, or its mean over all of them."""
    if positive is None:
        value = mean_roc_auc_measure(scored)
        parts = [ranking.parts for ranking in scored.rankings if ranking is not None]
    else:
        value = roc_auc_measure(scored, positive)
        ranking = scored.rankings[positive]
        parts = [] if ranking is None else [ranking.parts]
    return value, Level(
        value=value["value"],
        variance=_mean_parts(parts).variance,
        size=1 / float(np.mean([1 / part.positives + 1 / part.negatives for part in parts])),
        groups=min(part.groups for part in parts),
        informative=sum(part.overlapping for part in parts),
    )


def _mean_parts(parts: Sequence[AucParts]) -> AucParts:
    """Influences averaged group by group: an image counts for several classes."""
    return replace(parts[0], influence=np.mean([part.influence for part in parts], axis=0))


def _measure_accuracy(split: SplitPredictions) -> tuple[Measure, Level]:
    is_right = split.truth == split.predicted
    value = share_measure(split, is_right, np.ones(len(is_right), bool))
    sizes, right = np.bincount(split.groups), np.bincount(split.groups[is_right])
    right = np.pad(right, (0, len(sizes) - len(right)))
    share, groups = float(value["value"]), effective_groups(sizes)
    return value, Level(
        value=share,
        variance=share * (1 - share) * design_effect(right, sizes) / len(is_right),
        size=groups,
        groups=groups,
        informative=min(int((right < sizes).sum()), int((right > 0).sum())),
    )


def _heterogeneity(levels: Sequence[Level]) -> dict[str, Any]:
    """Cochran's Q with one variance for all levels."""
    sizes = np.array([level.size for level in levels])
    variances = np.array([level.variance for level in levels])
    if sum(level.informative for level in levels) < FEWEST_OVERLAPPING_GROUPS:
        reason = f"fewer than {FEWEST_OVERLAPPING_GROUPS} groups with a mistake (or without one)"
        return {"p": None, "reason": reason}
    pooled = float(sizes**2 @ variances / sizes.sum())
    if not pooled > 0:
        return {"p": None, "reason": "no group differs from another"}
    values = np.array([level.value for level in levels])
    mean = float(sizes @ values / sizes.sum())
    freedom = len(levels) - 1
    statistic = float(sizes @ np.square(values - mean)) / pooled / freedom
    left = max(sum(level.groups for level in levels) - len(levels), 1.0)
    return {"p": float(stats.f.sf(statistic, freedom, left)), "method": METHOD}


def _adjust(tests: Sequence[dict[str, Any]]) -> None:
    """Holm's step-down adjustment of the p values, in place."""
    known = sorted((one for one in tests if one["p"] is not None), key=lambda one: one["p"])
    largest = 0.0
    for number, one in enumerate(known):
        largest = max(largest, min(1.0, one["p"] * (len(known) - number)))
        one["p"] = largest
