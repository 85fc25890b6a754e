"""A finding of the audit: what is wrong, how bad it is, what to do about it; and its wording."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import pandas as pd

SEVERITIES = ("error", "warning", "note")


@dataclass(frozen=True)
class Finding:
    """One thing that the audit found.

    Args:
        code: Its kind; see the table in audit.py.
        severity: "error" (stops `train`), "warning" or "note".
        message: What was found, with numbers; no file name and no patient.
        fix: What to do, with the option.
        count: How many files (or classes, or facts) it is about.
        files: The files it is about, all of them, in sets that belong together.
        details: Numbers for audit.json.
    """

    code: str
    severity: str
    message: str
    fix: str
    count: int
    files: tuple[tuple[str, ...], ...] = ()
    details: dict[str, Any] = field(default_factory=dict)


def files_by(rows: pd.DataFrame, column: str) -> tuple[tuple[str, ...], ...]:
    """The paths of rows with the same value in a column, in the order of their first path."""
    found: dict[str, list[str]] = {}
    for key, path in zip(rows[column], rows["path"], strict=True):
        found.setdefault(key, []).append(path)
    return tuple(tuple(paths) for paths in found.values())


def each_file(rows: pd.DataFrame) -> tuple[tuple[str, ...], ...]:
    """The path of each row, each a set of its own."""
    return tuple((path,) for path in rows["path"])


def count_values(values: pd.Series[str]) -> dict[str, int]:
    """How often each value stands there, in sorted order."""
    return {str(name): int(count) for name, count in values.value_counts().sort_index().items()}


def number_of(count: int, one: str, many: str = "") -> str:
    """A count with its noun: "1 image", "1,200 images"."""
    return f"{count:,} {one if count == 1 else many or one + 's'}"


def percent(share: float) -> str:
    """A share of 0 to 1 in per cent, with one decimal."""
    return f"{100 * share:.1f} %"
