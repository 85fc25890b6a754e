"""Files, folders, lists of images and patterns -> the images to be predicted, in order."""

from __future__ import annotations

import glob
import hashlib
import itertools
import os
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import pandas as pd

from medlens.data.dataset import image_files
from medlens.data.images import is_image_name
from medlens.data.manifest import is_manifest, kind_of, manifest_batches, place_of
from medlens.data.remote import hide_secrets, is_remote, is_url, join_texts, open_path
from medlens.data.remote_listing import remote_image_files
from medlens.errors import MedlensError

# Columns of the answers of predict and explain; one of a list that is called so is carried along
# under another name.
OWN_COLUMNS = ("predicted", "decision", "prediction_set", "distance", "unfamiliar", "unreadable")
EXPLAIN_COLUMNS = ("page", "explained")
OWN_PREFIXES = ("prob_", "similar_", "medlens_")
# Beside the columns that are given: the file to be opened, and what changes with its content.
FILE, STATE = "medlens_file", "medlens_state"
CHUNK_ROWS = 4096

PathLike = str | os.PathLike[str]
Row = tuple[str, str]


@dataclass(frozen=True)
class Source:
    """One of the things that were given.

    Args:
        columns: path, then the further columns of a list.
        tables: Lists its images: tables with these columns, FILE and STATE. Counts what it does
            not take, by kind.
    """

    columns: tuple[str, ...]
    tables: Callable[[Counter[str]], Iterator[pd.DataFrame]]


@dataclass(frozen=True)
class Inputs:
    """The images that are to be predicted; they are listed as they are asked for.

    Args:
        sources: What was given, in that order.
        columns: path, then the further columns of the lists.
        passed_over: How many files of which kind were not taken as images the last time that
            they were listed.
    """

    sources: tuple[Source, ...]
    columns: tuple[str, ...]
    passed_over: Counter[str]

    def tables(self) -> Iterator[pd.DataFrame]:
        """The images in the order given, some thousands at a time, all values as text.

        Yields:
            path (as it was given, in a list as it stands there), the further columns, FILE and
            STATE.
        """
        self.passed_over.clear()
        for source in self.sources:
            for table in source.tables(self.passed_over):
                whole = table.reindex(columns=[*self.columns, FILE, STATE])
                yield whole.astype(object).where(whole.notna(), "").astype(str)


class Digest:
    """SHA-256 of what was given: paths, further columns, and each file's size and time.

    Of files on other storage only those of folders are asked: it would be a request for each.

    Args:
        inputs: What was given.
    """

    def __init__(self, inputs: Inputs) -> None:
        self._inputs = inputs
        self._found = hashlib.sha256(repr(list(inputs.columns)).encode())

    def tables(self) -> Iterator[pd.DataFrame]:
        """The images as `Inputs.tables` gives them, without STATE; each goes into the digest."""
        for table in self._inputs.tables():
            for row in table.itertuples(index=False, name=None):
                self._found.update(repr(row).encode("utf-8", "backslashreplace"))
            yield table.drop(columns=STATE)

    def text(self) -> str:
        """The digest of the tables that were gone through."""
        return self._found.hexdigest()


def list_inputs(given: Sequence[PathLike]) -> Inputs:
    """Find the images that are meant; none is decoded.

    Args:
        given: Paths or addresses of files, of folders (searched to their depths for images of
            every readable kind, DICOM of any suffix among them), of CSV or Parquet files (with
            a column `path` or `file`, relative to the file), or patterns such as `scans/**/*.dcm`.

    Raises:
        MedlensError: If there is nothing at a path, a list cannot be read, or no image is found.
    """
    texts = [os.fspath(one) for one in given]
    grouped = itertools.groupby(texts, _kind)
    sources = [source for kind, some in grouped for source in _sources(kind, list(some))]
    columns = tuple(dict.fromkeys(name for source in sources for name in source.columns))
    inputs = Inputs(tuple(sources), columns, Counter())
    if not any(len(table) for table in inputs.tables()):
        raise MedlensError(
            "There is no image in what was given.",
            got=", ".join(
                f"{count:,} files passed over: {kind}" for kind, count in inputs.passed_over.items()
            )
            or "nothing",
            expected="image files, folders with images in them, or a CSV or Parquet file with the "
            "column path",
            fix="Check the paths; a file that is named by itself is always tried.",
            names=list(map(hide_secrets, texts)),
        )
    return inputs


def _kind(given: str) -> str:
    path = open_path(given)
    if path.is_dir():
        return "folder"
    if is_manifest(path) and path.is_file():
        return "list"
    return "file" if path.exists() else "pattern"


def _sources(kind: str, given: list[str]) -> Iterator[Source]:
    """What was given, all of one kind."""
    if kind == "file":
        yield Source(("path",), lambda _: _tables((path, _state(path)) for path in given))
        return
    for one in given:
        path = open_path(one)
        if kind == "folder":
            yield Source(("path",), partial(_in_folder, path))
        elif kind == "list":
            yield Source(_columns_of(path), partial(_in_list, path))
        else:
            yield Source(("path",), partial(_in_pattern, one, _matches(one)))


def _tables(rows: Iterable[Row]) -> Iterator[pd.DataFrame]:
    """Paths and states as tables."""
    rows = iter(rows)
    while some := list(itertools.islice(rows, CHUNK_ROWS)):
        paths = [_as_text(path) for path, _ in some]
        states = [state for _, state in some]
        files = [_file(path) for path, _ in some]
        yield pd.DataFrame({"path": paths, FILE: files, STATE: states}, dtype=str)


def _file(path: str) -> str:
    """The same file for a process with another working directory; links are left alone.

    A name that is not UTF-8 becomes an address file://, whose letters any table can hold.
    """
    if is_url(path):
        return path
    absolute = os.path.abspath(path)  # noqa: PTH100
    return absolute if _as_text(absolute) == absolute else Path(absolute).as_uri()


def _as_text(path: str) -> str:
    """The path as a result can hold it: bytes that are no UTF-8 are written out."""
    try:
        path.encode()
    except UnicodeEncodeError:
        return os.fsencode(path).decode("utf-8", "backslashreplace")
    return path


def _in_folder(folder: Path, passed_over: Counter[str]) -> Iterator[pd.DataFrame]:
    return _tables(_rows_of_folder(folder, passed_over))


def _rows_of_folder(folder: Path, passed_over: Counter[str]) -> Iterator[Row]:
    if is_remote(folder):
        for name, state in remote_image_files(folder, passed_over):
            yield str(folder / name), state
        return
    for name in image_files(folder, passed_over):
        path = str(folder.parent / name)
        yield path, _state(path)


def _matches(pattern: str) -> list[str]:
    """The files and folders that a pattern fits, in order.

    Raises:
        MedlensError: If there are none.
    """
    found: list[str] = []
    if glob.has_magic(pattern):
        path = open_path(pattern)
        # Path.glob takes no pattern that begins at the root or with a folder above.
        found = path.matches() if is_remote(path) else glob.glob(pattern, recursive=True)  # noqa: PTH207
    if not found:
        raise MedlensError(
            "There is nothing at a path that was given.",
            got="no file, no folder, and no file that such a pattern fits",
            expected="image files, folders, CSV or Parquet files, or patterns in quotes",
            fix="Check the path.",
            names=[hide_secrets(pattern.encode("utf-8", "backslashreplace").decode())],
        )
    return sorted(found)


def _in_pattern(
    pattern: str, found: Sequence[str], passed_over: Counter[str]
) -> Iterator[pd.DataFrame]:
    def rows() -> Iterator[Row]:
        walked: set[str] = set()
        for text in found:  # a folder comes before what is in it
            *above, own = _with_folders_above(text)
            if walked.intersection(above):
                continue
            path = open_path(text)
            if path.is_dir():
                if not _finds_all_below(pattern):
                    walked.add(own)
                    yield from _rows_of_folder(path, passed_over)
            elif is_image_name(path):
                yield str(path), _state(text)
            else:
                passed_over["not an image"] += 1

    return _tables(rows())


def _finds_all_below(pattern: str) -> bool:
    """Whether a pattern finds, beside a folder, everything that is in it."""
    parts = Path(pattern).parts
    is_of_folders = pattern.endswith(("/", os.sep))
    return not is_of_folders and (parts[-1:] == ("**",) or parts[-2:] == ("**", "*"))


def _with_folders_above(path: str) -> list[str]:
    """The folders that a path names, from the first on, and at last itself."""
    parts = path.replace(os.sep, "/").rstrip("/").split("/")
    return ["/".join(parts[:count]) for count in range(1, len(parts) + 1)]


def _in_list(file: Path, _: Counter[str]) -> Iterator[pd.DataFrame]:
    first, folder = 0, file.absolute().parent
    for batch in manifest_batches(file, needed=("path",), keep_numbers=False):
        path = batch["path"].str.strip()
        if (path == "").any():
            place = place_of(first + int((path == "").argmax()), file)
            raise MedlensError(
                f"Rows of the {kind_of(file)} have no path.",
                got=f"such rows, first in {place}",
                expected="one row per image, each with its path",
                fix="Mend or remove these rows.",
                names=[hide_secrets(str(file))],
            )
        first += len(batch)
        path = path.str.replace("\\", "/", regex=False)
        files = list(join_texts(folder, path))
        table = batch.assign(path=path).rename(columns=_carried)
        yield table.assign(**{FILE: files, STATE: list(map(_state, files))})


def _columns_of(file: Path) -> tuple[str, ...]:
    """path, then the further columns of a list, as they are carried along.

    Raises:
        MedlensError: If the list cannot be read, or two of its columns have the same name.
    """
    names = [
        _carried(str(name))
        for name in next(manifest_batches(file, needed=("path",), keep_numbers=False))
    ]
    others = [name for name in names if name != "path"]
    if len(set(others)) < len(others):
        raise MedlensError(
            f"The {kind_of(file)} has two columns of the same name.",
            got="further columns that cannot be told apart",
            expected="each name once",
            fix="Rename one of them.",
            names=[hide_secrets(str(file))],
        )
    return ("path", *others)


def _carried(name: str) -> str:
    """The name of a list's column in the result."""
    is_taken = name in OWN_COLUMNS + EXPLAIN_COLUMNS or name.startswith(OWN_PREFIXES)
    return f"given_{name}" if is_taken else name


def _state(file: str) -> str:
    """Size and time of the last change of a file of this machine; "" of all others."""
    if is_url(file):
        return ""
    try:
        found = Path(file).stat()
    except (OSError, ValueError):
        return ""
    return f"{found.st_size} {found.st_mtime_ns}"
