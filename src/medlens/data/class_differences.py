"""Facts of the files that give the class away: size, mode, format, brightness."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy.special import chdtrc

from medlens.data.finding import Finding

# Cohen (1988), Statistical Power Analysis: 0.1 is a small effect and 0.3 a medium one.
DIFFERENCE_WARNING = 0.3
DIFFERENCE_NOTE = 0.1
# Seven facts are tried, so each needs more than the usual 0.05.
DIFFERENCE_P = 0.001
_MOST_BINS = 10
_FEWEST_IN_BIN = 5
# How a fact is named to the user, and its unit.
_FACT_WORDS = {
    "width": ("Width", " px"),
    "height": ("Height", " px"),
    "mode": ("Colour mode (L is grey)", ""),
    "format": ("File format", ""),
    "bytes": ("File size", " bytes"),
    "mean": ("Mean brightness", " of 255"),
    "border": ("Border brightness", " of 255"),
}


def find_class_differences(used: pd.DataFrame) -> list[Finding]:
    """How well simple facts of a file alone tell the classes apart.

    Each fact is cut into at most ten bins; the measure is Cramer's V between bin and class with
    Bergsma's correction for chance (2013, doi 10.1016/j.jkss.2012.10.002): 0 tells nothing, 1
    tells all. The p-value is that of the chi-square test, with chi-square shrunk by the share of
    independent groups among the images.
    """
    if used["label"].nunique() < 2:
        return []
    facts: dict[str, dict[str, float]] = {}
    independent = used["group"].nunique() / len(used)
    labels, classes = pd.factorize(used["label"])
    for column in _FACT_WORDS:
        bins, distinct = pd.factorize(_bins(used[column]))
        cells = np.bincount(bins * len(classes) + labels, minlength=len(distinct) * len(classes))
        counts = cells.reshape(len(distinct), len(classes))
        strength, p_value = _association(counts, independent)
        facts[column] = {"cramers_v": round(strength, 4), "p": float(f"{p_value:.3g}")}
    strong = sorted(
        (
            name
            for name, fact in facts.items()
            if fact["cramers_v"] >= DIFFERENCE_NOTE and fact["p"] < DIFFERENCE_P
        ),
        key=lambda name: -facts[name]["cramers_v"],
    )
    if not strong:
        return []
    is_warning = facts[strong[0]]["cramers_v"] >= DIFFERENCE_WARNING
    shown = " ".join(
        f"{_difference_in_words(used, name)} (V {facts[name]['cramers_v']:.2f})." for name in strong
    )
    return [
        Finding(
            code="class_difference",
            severity="warning" if is_warning else "note",
            message=f"Facts of the file alone tell the classes apart. {shown} (Cramer's V: 0 "
            "where a fact tells nothing, 1 where it tells the class.)",
            fix="Find out why: other scanners, software or sources for each class? A network may "
            "learn that in place of the disease. Export all images the same way, and test on "
            "images from elsewhere. Brightness, and with it file size, can be the disease itself.",
            count=len(strong),
            details={"facts": facts},
        )
    ]


def _difference_in_words(used: pd.DataFrame, column: str) -> str:
    """The two classes that differ most in a fact, with their numbers."""
    word, unit = _FACT_WORDS[column]
    by_class = {str(name): own for name, own in used.groupby("label")[column]}
    values = sorted(set(used[column]))
    if len(values) <= _MOST_BINS:
        shares = {
            value: {name: float((own == value).mean()) for name, own in by_class.items()}
            for value in values
        }
        value = max(shares, key=lambda one: max(shares[one].values()) - min(shares[one].values()))
        numbers = shares[value]
        low, high = min(numbers, key=numbers.__getitem__), max(numbers, key=numbers.__getitem__)
        return (
            f"{word}: {100 * numbers[high]:.1f} % of {high} have {value}{unit}, "
            f"{100 * numbers[low]:.1f} % of {low}"
        )
    numbers = {name: float(own.mean()) for name, own in by_class.items()}
    low, high = min(numbers, key=numbers.__getitem__), max(numbers, key=numbers.__getitem__)
    return f"{word}: on average {numbers[high]:,.0f}{unit} in {high}, {numbers[low]:,.0f} in {low}"


def _bins(values: pd.Series[Any]) -> NDArray[np.intp]:
    """Values as at most ten categories: as they are where they are few, else by quantiles."""
    codes, distinct = pd.factorize(values, sort=True)
    if len(distinct) > _MOST_BINS and pd.api.types.is_numeric_dtype(values):
        shares = np.linspace(0, 1, _MOST_BINS + 1)[1:-1]
        edges = np.unique(np.quantile(codes, shares, method="inverted_cdf"))
        # Where most images share the largest value, the cut is between it and the rest.
        edges = edges[edges < codes.max()] if edges[0] < codes.max() else edges - 1
        codes = np.searchsorted(edges, codes)
    counts = np.bincount(codes)
    rare = counts < _FEWEST_IN_BIN
    return np.where(rare[codes], -1, codes)


def _association(counts: NDArray[np.int64], independent: float) -> tuple[float, float]:
    """Bias-corrected Cramer's V and the p-value of a contingency table.

    Args:
        counts: Images per bin (rows) and class (columns).
        independent: Share of the images that count as independent, 0..1.
    """
    num_rows, num_columns = counts.shape
    total = int(counts.sum())
    if num_rows < 2 or num_columns < 2 or total < 2:
        return 0.0, 1.0
    expected = np.outer(counts.sum(1), counts.sum(0)) / total
    statistic = float(((counts - expected) ** 2 / expected).sum())
    freedom = (num_rows - 1) * (num_columns - 1)
    phi_squared = max(0.0, statistic / total - freedom / (total - 1))
    rows = num_rows - (num_rows - 1) ** 2 / (total - 1)
    columns = num_columns - (num_columns - 1) ** 2 / (total - 1)
    smaller = min(rows, columns) - 1
    strength = float(np.sqrt(phi_squared / smaller)) if smaller > 0 else 0.0
    return min(strength, 1.0), float(chdtrc(freedom, statistic * independent))
