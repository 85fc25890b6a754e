"""A CSV file of a person -> a table of texts, its known columns by their plain names."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pandas as pd

from medlens.errors import MedlensError, in_words


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
    names = ",".join(needed)
    try:
        given = pd.read_csv(
            file,
            sep=_separator(file),
            dtype=str,
            keep_default_na=False,
            encoding="utf-8-sig",
            index_col=False,
        )
    except (OSError, UnicodeDecodeError, pd.errors.ParserError, pd.errors.EmptyDataError) as error:
        raise MedlensError(
            f"{called} cannot be read.",
            got=in_words(error),
            expected=f"a comma-separated UTF-8 file with the columns {names}",
            fix="Check the path, and save the file as CSV (UTF-8).",
            names=[str(file)],
        ) from None
    plain = {name: str(name).strip().lower() for name in given.columns}
    wanted = {*needed, *known, "file"}
    given = given.rename(columns={name: word for name, word in plain.items() if word in wanted})
    given = given.rename(columns={"file": "path"} if "path" not in given else {})
    missing = [name for name in needed if name not in given]
    twice = [name for name in (*needed, *known) if list(given.columns).count(name) > 1]
    if missing or twice:
        what = "lacks" if missing else "has twice"
        named = list(dict.fromkeys(missing or twice))
        raise MedlensError(
            f"{called} {what} the column{'s' * (len(named) > 1)} {' and '.join(named)}.",
            # A file without a header has a path in its first line, so its columns are names.
            got=f"{len(given.columns)} columns in its first line",
            expected=f"{names} in the first line, each once",
            fix="Name the columns so in the first line of the file.",
            names=[str(file), *map(str, plain)],
        )
    return given


def _separator(file: Path) -> str:
    """A semicolon where the first line has no comma: so spreadsheets write where 0,5 is a half."""
    with file.open(encoding="utf-8-sig") as stream:
        first = stream.readline()
    return ";" if ";" in first and "," not in first else ","
