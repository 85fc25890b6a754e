"""Files, folders, CSV files and patterns -> the images to be predicted, in order."""

from __future__ import annotations

import glob
import hashlib
import os
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from medlens.data.csv_file import read_csv_file
from medlens.data.dataset import image_files
from medlens.data.images import is_image_name
from medlens.errors import MedlensError

# Columns of the answers of predict and explain; one of a CSV that is called so is carried along
# under another name.
OWN_COLUMNS = ("predicted", "decision", "prediction_set", "distance", "unfamiliar", "unreadable")
EXPLAIN_COLUMNS = ("page", "explained")
OWN_PREFIXES = ("prob_", "similar_")
CHUNK_ROWS = 4096

PathLike = str | os.PathLike[str]


@dataclass(frozen=True)
class Inputs:
    """The images that are to be predicted.

    Args:
        table: One row per image, in the order given: path (as it was given, in a CSV as it stands
            there), then the further columns of the CSV files, as text.
        folder: The number of the folder that each path is relative to, of shape (images,).
        folders: These folders; "" for the working directory.
        passed_over: How many files of which kind in folders were not taken as images.
    """

    table: pd.DataFrame
    folder: NDArray[np.int32]
    folders: tuple[str, ...]
    passed_over: Mapping[str, int]

    def __len__(self) -> int:
        return len(self.table)

    def files(self, start: int = 0) -> Iterator[str]:
        """The files to be opened, from a row on; memory does not grow with their number."""
        paths = self.table["path"]
        for first in range(start, len(self), CHUNK_ROWS):
            some = slice(first, first + CHUNK_ROWS)
            for path, number in zip(paths.iloc[some], self.folder[some], strict=True):
                yield str(Path(self.folders[number], path))

    def digest(self) -> str:
        """SHA-256 of what was given: paths, further columns, and each file's size and time."""
        found = hashlib.sha256(repr(list(self.table.columns)).encode())
        files = self.files()
        for row in self.table.itertuples(index=False, name=None):
            found.update(repr((row, _state(next(files)))).encode("utf-8", "backslashreplace"))
        return found.hexdigest()


def list_inputs(given: Sequence[PathLike]) -> Inputs:
    """List the images that are meant; none is decoded.

    Args:
        given: Paths of files, of folders (searched to their depths for images of every readable
            kind, DICOM without a suffix among them), of CSV files (with a column `path` or `file`,
            relative to the CSV), or patterns such as `scans/**/*.dcm`.

    Raises:
        MedlensError: If there is nothing at a path, a CSV cannot be read, or no image is found.
    """
    passed_over: Counter[str] = Counter()
    parts = [_list_one(os.fspath(one), passed_over) for one in given]
    folders = tuple(dict.fromkeys(folder for folder, _ in parts))
    tables = [table for _, table in parts]
    counts = [len(table) for table in tables]
    numbers = [folders.index(folder) for folder, _ in parts]
    if sum(counts) == 0:
        raise MedlensError(
            "There is no image in what was given.",
            got=", ".join(f"{n:,} files passed over: {kind}" for kind, n in passed_over.items())
            or "nothing",
            expected="image files, folders with images in them, or a CSV with the column path",
            fix="Check the paths; a file that is named by itself is always tried.",
            names=[os.fspath(one) for one in given],
        )
    table = pd.concat(tables, ignore_index=True) if len(tables) > 1 else tables[0]
    return Inputs(
        table.fillna("").astype(str),
        np.repeat(np.array(numbers, np.int32), counts),
        folders,
        dict(+passed_over),
    )


def _list_one(given: str, passed_over: Counter[str]) -> tuple[str, pd.DataFrame]:
    """The folder that the paths are relative to, and the table of one INPUT."""
    path = Path(given)
    if path.is_dir():
        return "", _as_table(_in_folder(path, passed_over))
    if path.is_file() and path.suffix.lower() == ".csv":
        return str(path.parent), _in_csv(path)
    if path.exists():
        return "", _as_table([given])
    # Path.glob takes no pattern that begins at the root or with a folder above.
    found = sorted(glob.glob(given, recursive=True)) if glob.has_magic(given) else []  # noqa: PTH207
    if not found:
        raise MedlensError(
            "There is nothing at a path that was given.",
            got="no file, no folder, and no file that such a pattern fits",
            expected="image files, folders, CSV files, or patterns in quotes",
            fix="Check the path.",
            names=[given.encode("utf-8", "backslashreplace").decode()],
        )
    return "", _as_table(_in_pattern(given, found, passed_over))


def _as_table(paths: Iterator[str] | Sequence[str]) -> pd.DataFrame:
    return pd.DataFrame({"path": pd.Series(_only_utf8(list(paths)), dtype=str)})


def _only_utf8(paths: list[str]) -> list[str]:
    """The paths, all of which a result file can hold.

    Raises:
        MedlensError: If the name of a file or folder is not UTF-8.
    """
    for path in paths:
        try:
            path.encode()
        except UnicodeEncodeError:
            raise MedlensError(
                "The name of a file or folder is not UTF-8.",
                got="bytes that are no text",
                expected="names in UTF-8, so that the result can hold them",
                fix="Rename it.",
                names=[path.encode("utf-8", "backslashreplace").decode()],
            ) from None
    return paths


def _in_folder(folder: Path, passed_over: Counter[str]) -> Iterator[str]:
    return (str(folder.parent / path) for path in image_files(folder, passed_over))


def _in_pattern(pattern: str, found: Sequence[str], passed_over: Counter[str]) -> Iterator[str]:
    for path in map(Path, found):
        if path.is_dir():
            # With ** the pattern has found what is inside, too.
            if "**" not in pattern:
                yield from _in_folder(path, passed_over)
        elif is_image_name(path):
            yield str(path)
        else:
            passed_over["not an image"] += 1


def _in_csv(file: Path) -> pd.DataFrame:
    given = read_csv_file(file, called="The CSV", needed=("path",))
    is_empty = given["path"].str.strip() == ""
    if is_empty.any():
        raise MedlensError(
            "Rows of the CSV have no path.",
            got=f"{int(is_empty.sum()):,} such rows, first in line {is_empty.argmax() + 2}",
            expected="one row per image, each with its path",
            fix="Mend or remove these rows.",
            names=[str(file)],
        )
    table = given.assign(path=given["path"].str.strip().str.replace("\\", "/", regex=False))
    taken = [
        name
        for name in map(str, table.columns)
        if name in OWN_COLUMNS + EXPLAIN_COLUMNS or name.startswith(OWN_PREFIXES)
    ]
    table = table.rename(columns={name: f"given_{name}" for name in taken})
    others = [name for name in table.columns if name != "path"]
    if len(set(others)) < len(others):
        raise MedlensError(
            "The CSV has two columns of the same name.",
            got="further columns that cannot be told apart",
            expected="each name once",
            fix="Rename one of them.",
            names=[str(file)],
        )
    return table[["path", *others]]


def _state(file: str) -> tuple[int, int]:
    """Size and time of the last change of a file; -1 of one that is not there."""
    try:
        found = Path(file).stat()
    except (OSError, ValueError):
        return -1, -1
    return found.st_size, found.st_mtime_ns
