"""A CSV or Parquet file that lists images -> a table, read a few thousand rows at a time."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from medlens.data.csv_file import ROWS_AT_A_TIME, csv_batches, name_plainly
from medlens.data.remote import hide_secrets
from medlens.errors import MedlensError, in_words

MANIFEST_SUFFIXES = (".csv", ".parquet")


def is_manifest(file: Path) -> bool:
    """Whether a file's name is that of a list of images."""
    return file.suffix.lower() in MANIFEST_SUFFIXES


def manifest_batches(
    file: Path, *, needed: Sequence[str], known: Sequence[str] = (), keep_numbers: bool = True
) -> Iterator[pd.DataFrame]:
    """The rows of a list of images, some thousands at a time; at least one table.

    The names of needed and known columns may be in any case, with spaces around them, and a column
    `file` is taken for `path`. All values are text, and one that is missing is "". Memory does not
    grow with the file.

    Args:
        file: A .csv or a .parquet file.
        needed: The columns that must be there.
        known: Further columns whose names are read as freely.
        keep_numbers: Whether numbers of a Parquet file in further columns stay numbers. Whole ones
            turn into fractions in a batch that lacks some, and lose digits past 2**53.

    Raises:
        MedlensError: If the file cannot be read, lacks a needed column, has one twice, or holds in
            one of them what is no text.
    """
    called = f"The {kind_of(file)}"
    if kind_of(file) == "CSV":
        yield from csv_batches(file, called=called, needed=needed, known=known)
        return
    try:
        with file.open("rb") as stream:
            parquet = pq.ParquetFile(stream)
            schema = parquet.schema_arrow
            # An empty table first, so that columns are checked where there is no row.
            own = {*needed, *known, "file"}
            names = frozenset(
                name for name in schema.names if keep_numbers and _plain(name) not in own
            )
            yield _as_text(schema.empty_table(), file, names, needed=needed, known=known)
            for batch in parquet.iter_batches(ROWS_AT_A_TIME):
                table = pa.Table.from_batches([batch])
                yield _as_text(table, file, names, needed=needed, known=known)
    except (OSError, pa.ArrowException) as error:
        raise MedlensError(
            f"{called} cannot be read.",
            got=in_words(error),
            expected=f"a Parquet file with the columns {','.join(needed)}",
            fix="Check the path, and write the file anew.",
            names=[hide_secrets(str(file))],
        ) from None


def read_manifest(file: Path, *, needed: Sequence[str], known: Sequence[str] = ()) -> pd.DataFrame:
    """All rows of `manifest_batches` as one table, its texts in Arrow's compact form."""
    batches = list(manifest_batches(file, needed=needed, known=known))
    return pd.concat(batches, ignore_index=True)


def kind_of(file: Path) -> str:
    """How the user is told what kind of list it is."""
    return "Parquet file" if file.suffix.lower() == ".parquet" else "CSV"


def place_of(row: int, file: Path) -> str:
    """Where the user finds a row, numbered from 0: a CSV has its names in line 1."""
    return f"row {row + 1}" if kind_of(file) == "Parquet file" else f"line {row + 2}"


def _plain(name: str) -> str:
    return name.strip().lower()


def _as_text(
    table: pa.Table,
    file: Path,
    numbers: frozenset[str],
    *,
    needed: Sequence[str],
    known: Sequence[str],
) -> pd.DataFrame:
    """A batch of a Parquet file as texts; in the columns named numbers stay what they are."""
    columns = [
        _column_as_text(column, _plain(name), file, keep_numbers=name in numbers)
        for name, column in zip(table.column_names, table.columns, strict=True)
    ]
    frame = pd.concat(columns, axis="columns").set_axis(table.column_names, axis="columns")
    return name_plainly(frame, file, called="The Parquet file", needed=needed, known=known)


def _column_as_text(
    column: pa.ChunkedArray, name: str, file: Path, *, keep_numbers: bool
) -> pd.Series[Any]:
    if pa.types.is_dictionary(column.type):
        column = column.cast(column.type.value_type)
    is_number = pa.types.is_integer(column.type) or pa.types.is_floating(column.type)
    if is_number and keep_numbers:
        numbers: pd.Series[Any] = column.to_pandas()
        return numbers
    try:
        texts: pd.Series[Any] = column.cast(pa.large_string()).to_pandas()
    except (pa.ArrowNotImplementedError, pa.ArrowInvalid):
        raise MedlensError(
            "A column of the Parquet file holds no text.",
            got=f"values of the type {column.type}",
            expected="text, numbers, dates or true and false in every column",
            fix="Leave the column out, or write it as text.",
            names=[hide_secrets(str(file)), name],
        ) from None
    return texts.fillna("").astype(str)
