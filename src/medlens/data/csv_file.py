"""A CSV file of a person -> a table of texts, its known columns by their plain names."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from pathlib import Path

import pandas as pd

from medlens.data.remote import hide_secrets
from medlens.errors import MedlensError, in_words

# The parser makes a Python object of every value it holds; so many rows of them are a few dozen
# megabytes, and what is kept of them is compact.
ROWS_AT_A_TIME = 1 << 16

_TOO_MANY_VALUES = re.compile(r"Expected (\d+) fields in line (\d+), saw (\d+)")
_OPEN_QUOTE = re.compile(r"EOF inside string starting at row (\d+)")


def read_csv_file(
    file: Path, *, called: str, needed: Sequence[str], known: Sequence[str] = ()
) -> pd.DataFrame:
    """Read a comma-separated UTF-8 file; every value is text, and an empty one is "".

    The names of needed and known columns may be in any case, with spaces around them. A column
    `file` is taken for `path`.

    Args:
        file: The file; its first line names the columns.
        called: How errors call it, such as "The splits file".
        needed: The columns that must be there.
        known: Further columns whose names are read as freely.

    Raises:
        MedlensError: If the file cannot be read, or lacks a needed column, or has it twice.
    """
    batches = csv_batches(file, called=called, needed=needed, known=known)
    return pd.concat(list(batches), ignore_index=True)


def csv_batches(
    file: Path, *, called: str, needed: Sequence[str], known: Sequence[str] = ()
) -> Iterator[pd.DataFrame]:
    """The rows of `read_csv_file`, some thousands at a time; at least one table, if an empty one.

    Memory does not grow with the file.
    """
    try:
        with pd.read_csv(
            file,
            sep=_separator(file),
            dtype=str,
            keep_default_na=False,
            encoding="utf-8-sig",
            index_col=False,
            chunksize=ROWS_AT_A_TIME,
        ) as batches:
            for batch in batches:
                yield name_plainly(batch, file, called=called, needed=needed, known=known)
    except (OSError, UnicodeDecodeError, pd.errors.ParserError, pd.errors.EmptyDataError) as error:
        raise MedlensError(
            f"{called} cannot be read.",
            got=_where_wrong(file, error),
            expected=f"a comma-separated UTF-8 file with the columns {','.join(needed)}",
            fix="Check the path, and save the file as CSV (UTF-8).",
            names=[hide_secrets(str(file))],
        ) from None


def name_plainly(
    given: pd.DataFrame, file: Path, *, called: str, needed: Sequence[str], known: Sequence[str]
) -> pd.DataFrame:
    """Give the needed and the known columns of a table their plain names.

    Args:
        given: The table, with the columns as the file names them.
        file: Where it comes from.
        called: How errors call the file.
        needed: The columns that must be there.
        known: Further columns whose names are read as freely.

    Raises:
        MedlensError: If a needed column is missing, or one of them is there twice.
    """
    plain = {name: str(name).strip().lower() for name in given.columns}
    wanted = {*needed, *known, "file"}
    given = given.rename(columns={name: word for name, word in plain.items() if word in wanted})
    given = given.rename(columns={"file": "path"} if "path" not in given else {})
    missing = [name for name in needed if name not in given]
    twice = [name for name in (*needed, *known) if list(given.columns).count(name) > 1]
    if missing or twice:
        what = "lacks" if missing else "has twice"
        named = list(dict.fromkeys(missing or twice))
        where = "columns" if file.suffix.lower() == ".parquet" else "columns in its first line"
        raise MedlensError(
            f"{called} {what} the column{'s' * (len(named) > 1)} {' and '.join(named)}.",
            # A file without a header has a path in its first line, so its columns are names.
            got=f"{len(given.columns)} {where}",
            expected=f"the columns {','.join(needed)}, each once",
            fix="Name the columns of the file so.",
            names=[hide_secrets(str(file)), *map(str, plain)],
        )
    return given


def _separator(file: Path) -> str:
    """A semicolon where the first line has no comma: so spreadsheets write where 0,5 is a half."""
    with file.open(encoding="utf-8-sig") as stream:
        first = stream.readline()
    return ";" if ";" in first and "," not in first else ","


def _where_wrong(file: Path, error: Exception) -> str:
    """What is wrong with a CSV file and in which line, without a word of what stands there."""
    if found := _TOO_MANY_VALUES.search(str(error)):
        return f"{found[3]} values in line {found[2]}, where the lines before have {found[1]}"
    if found := _OPEN_QUOTE.search(str(error)):
        return f"a quotation mark in line {int(found[1]) + 1} that is never closed"
    if isinstance(error, UnicodeDecodeError):
        return f"something that is not text in UTF-8, in line {_first_line_not_utf8(file)}"
    return in_words(error)


def _first_line_not_utf8(file: Path) -> int:
    with file.open("rb") as stream:
        for number, line in enumerate(stream, start=1):
            try:
                line.decode("utf-8")
            except UnicodeDecodeError:
                return number
    raise ValueError("every line of the file is text in UTF-8")
