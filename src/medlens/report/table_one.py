"""Table 1: the images of each split side by side, by class, by file and by what the CSV says."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from medlens.data.dataset import OWN_COLUMNS, RESERVED_COLUMNS
from medlens.report.subgroups import BLANKS, MOST_LEVELS, PLANTED, is_identifier

SHOWN_SPLITS = ("train", "val", "test")
# A value that images of fewer groups share might name a patient.
FEWEST_GROUPS = 3
THIN = "\N{NO-BREAK SPACE}"


@dataclass(frozen=True)
class Rows:
    """One part of the table.

    Args:
        name: Of the part, such as "sex"; "" for the first.
        rows: Each the row's name and one text for each column of the table.
    """

    name: str
    rows: tuple[tuple[str, ...], ...]


@dataclass(frozen=True)
class TableOne:
    """The whole table.

    Args:
        columns: Splits that have images, then "all".
        parts: Its parts.
        left_out: Columns of the CSV that are not shown, as their values look like names or
            identifiers.
    """

    columns: tuple[str, ...]
    parts: tuple[Rows, ...]
    left_out: tuple[str, ...]


def table_one(used: pd.DataFrame, classes: Sequence[str]) -> TableOne:
    """Count the images of each split by class, by file, and by each column of the user's CSV.

    Everything is counted by image. Numbers are shown as median and quartiles; a column that would
    show values of single patients is left out.

    Args:
        used: The images of all splits as text, with the column `split`.
        classes: Class names.
    """
    present = [name for name in SHOWN_SPLITS if (used["split"] == name).any()]
    columns = {name: used[used["split"] == name] for name in present} | {"all": used}
    frames = list(columns.values())
    parts = [_sizes(frames), Rows("Class", _counted(frames, "label", list(classes)))]
    if "width" in used:
        parts.append(_files(frames))
    left_out = []
    own = {*OWN_COLUMNS, *RESERVED_COLUMNS}
    for column in (name for name in used if name not in own and not str(name).startswith(PLANTED)):
        rows = _column(frames, used, str(column))
        if rows is None:
            left_out.append(str(column))
        else:
            parts.append(Rows(str(column), rows))
    return TableOne(tuple(columns), tuple(parts), tuple(left_out))


def _sizes(frames: Sequence[pd.DataFrame]) -> Rows:
    known = [frame.loc[frame["patient"] != "", "patient"] for frame in frames]
    return Rows(
        "",
        (
            ("Images", *(f"{len(frame):,}" for frame in frames)),
            ("Groups", *(f"{frame['group'].nunique():,}" for frame in frames)),
            ("Patients known", *(f"{one.nunique():,}" for one in known)),
            (
                "Images without a patient",
                *(f"{len(f) - len(k):,}" for f, k in zip(frames, known, strict=True)),
            ),
        ),
    )


def _files(frames: Sequence[pd.DataFrame]) -> Rows:
    rows = [
        (f"{label}, median (quartiles)", *(_quartiles(frame[name]) for frame in frames))
        for name, label in (("width", "Width in pixels"), ("height", "Height in pixels"))
    ]
    formats = sorted(set(frames[-1].get("format", pd.Series(dtype=str))) - {""})
    return Rows("File", (*rows, *_counted(frames, "format", formats)))


def _column(
    frames: Sequence[pd.DataFrame], used: pd.DataFrame, column: str
) -> tuple[tuple[str, ...], ...] | None:
    """The rows of a column of the CSV; None where its values are names or identifiers."""
    frames = [frame.assign(**{column: _stated(frame[column])}) for frame in frames]
    known = _stated(used[column])
    known = known[known != ""]
    levels = sorted(set(known))
    numbers = pd.to_numeric(known, errors="coerce")
    is_missing = any((frame[column] == "").any() for frame in frames)
    missing = _counted(frames, column, [""], ["not stated"]) if is_missing else ()
    if np.isfinite(numbers).all() and len(levels) > MOST_LEVELS:
        if is_identifier(numbers, used["group"].nunique()):
            return None
        rows = (("median (quartiles)", *(_quartiles(frame[column]) for frame in frames)),)
        return (*rows, *missing)
    groups = used.loc[known.index, "group"].groupby(known).nunique()
    if len(levels) > MOST_LEVELS or (groups < FEWEST_GROUPS).any():
        return None
    return (*_counted(frames, column, levels), *missing)


def _stated(values: pd.Series[str]) -> pd.Series[str]:
    """The values, "" where nothing is stated."""
    written = values.fillna("").astype(str).str.strip()
    return written.where(~written.str.lower().isin(BLANKS), "")


def _counted(
    frames: Sequence[pd.DataFrame],
    column: str,
    levels: Sequence[str],
    names: Sequence[str] | None = None,
) -> tuple[tuple[str, ...], ...]:
    """Images of each level, with their share of the split."""
    rows = []
    for level, name in zip(levels, names or levels, strict=True):
        counts = [int((frame[column] == level).sum()) for frame in frames]
        shares = [100 * count / max(len(f), 1) for count, f in zip(counts, frames, strict=True)]
        cells = (
            f"{count:,} ({share:.1f}{THIN}%)" for count, share in zip(counts, shares, strict=True)
        )
        rows.append((str(name), *cells))
    return tuple(rows)


def _quartiles(values: pd.Series[str]) -> str:
    numbers = pd.to_numeric(values, errors="coerce").dropna()
    if numbers.empty:
        return "not stated"
    low, middle, high = np.quantile(numbers, (0.25, 0.5, 0.75))
    return f"{middle:.4g} ({low:.4g} to {high:.4g})"
