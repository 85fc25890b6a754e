"""A folder, a list or an .npz file -> one table, a row per image: path, label, patient, split."""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from medlens.data.csv_file import ROWS_AT_A_TIME, read_csv_file
from medlens.data.groups import SPLIT_WORDS
from medlens.data.images import is_image_name
from medlens.data.manifest import is_manifest, kind_of, place_of, read_manifest
from medlens.data.medmnist import unpack_medmnist
from medlens.data.remote import is_remote
from medlens.data.remote_listing import remote_image_files
from medlens.errors import MedlensError

# What the scan knows of a file by itself.
FACT_COLUMNS = (
    "sha256",
    "pixels_sha256",
    "width",
    "height",
    "mode",
    "format",
    "bytes",
    "scaling",
    "unreadable",
    "levels",
    "mean",
    "spread",
    "border",
    "sharpness",
    "fingerprint",
)
# Columns that the scan of the files fills in; a user's column of that name gets a prefix.
SCAN_COLUMNS = (*FACT_COLUMNS, "near_copies", "look_alike")
OWN_COLUMNS = ("path", "label", "patient", "split")
# So do columns that later tables add, those of every class among them.
RESERVED_COLUMNS = (
    *SCAN_COLUMNS,
    *("group", "excluded", "fold", "role", "predicted", "decision", "unfamiliar", "distance"),
)
RESERVED_PREFIXES = ("logit_", "prob_")

OUTSIDE = "outside a class folder"
CLOSED = "folder that cannot be opened"
DROPPED = "of a class that --drop-class leaves out"


@dataclass(frozen=True)
class Dataset:
    """What a data set holds, before any file was opened.

    Args:
        root: The folder that the paths of the table are relative to.
        table: One row per image, sorted by path: path, label, patient ("" = unknown), split
            ("" = none given), then the metadata columns.
        kind: "folder", "split folders", "CSV", "Parquet file" or "MedMNIST".
        passed_over: How many files of which kind were not taken as images.
        left_out: The images that a person excluded, with the columns of the table.
    """

    root: Path
    table: pd.DataFrame
    kind: str
    passed_over: Mapping[str, int]
    left_out: pd.DataFrame = field(default_factory=lambda: pd.DataFrame(columns=[*OWN_COLUMNS]))

    @property
    def classes(self) -> tuple[str, ...]:
        """The class names in sorted order: the order of every probability and matrix."""
        return tuple(sorted(map(str, self.table["label"].unique())))


def read_dataset(
    data: Path,
    *,
    cache: Path,
    patient_regex: str = "",
    drop_class: Sequence[str] = (),
    exclude: Path | None = None,
) -> Dataset:
    """List a data set's images without opening them.

    Args:
        data: A folder with one sub-folder per class, the same below train/val/test folders, a CSV
            or Parquet file with a row per image, or a MedMNIST .npz file.
        cache: Where the pictures of an .npz file are unpacked.
        patient_regex: A regular expression whose first group finds the patient in a path.
        drop_class: Classes to leave out.
        exclude: A CSV whose column path lists images to leave out.

    Raises:
        MedlensError: If there is no such data, fewer than two classes, or a column is missing.
    """
    if data.is_dir():
        dataset = _read_folder(data)
    elif is_manifest(data) and data.is_file():
        dataset = _read_list(data)
    elif data.suffix.lower() == ".npz" and data.is_file():
        root, table = unpack_medmnist(data, cache)
        dataset = Dataset(root, table, "MedMNIST", {})
    else:
        raise MedlensError(
            "The data set cannot be found." if not data.exists() else "This is not a data set.",
            got="nothing at that place"
            if not data.exists()
            else f"a {data.suffix or 'plain'} file",
            expected="a folder with one sub-folder per class, or a .csv, .parquet or MedMNIST .npz "
            "file",
            fix="Check the path that was given.",
            names=[str(data)],
        )
    if patient_regex:
        dataset = replace(dataset, table=_find_patients(dataset.table, patient_regex))
    if exclude is not None:
        dataset = _exclude(dataset, exclude)
    dataset = _drop_classes(dataset, drop_class)
    if len(dataset.classes) < 2:
        outside = dataset.passed_over.get(OUTSIDE, 0)
        beside = f", and {outside:,} files in the folder itself" if outside else ""
        raise MedlensError(
            "A classifier needs at least two classes.",
            got=f"{len(dataset.classes)} with images: {', '.join(dataset.classes) or 'none'}"
            + beside,
            expected="one sub-folder of images per class, or a CSV or Parquet file with the "
            "columns path,label",
            fix="Point to the folder whose sub-folders are the classes.",
            names=[str(data)],
        )
    return dataset


def _read_folder(folder: Path) -> Dataset:
    passed_over: Counter[str] = Counter()
    names = [entry.name for entry in _subfolders(folder)]
    splits = {name: SPLIT_WORDS[name.lower()] for name in names if name.lower() in SPLIT_WORDS}
    if "train" in splits.values() and len(splits) < len(names):
        raise MedlensError(
            "The folder mixes splits and classes.",
            got=f"{len(splits)} split folders beside {len(names) - len(splits)} others",
            expected="either train/val/test folders with the classes inside, or classes alone",
            fix="Move the other folders out, or list the images in a CSV.",
            names=[name for name in names if name not in splits],
        )
    if splits and len(splits) == len(names) and "train" not in splits.values():
        raise MedlensError(
            "The folder has splits but no train folder.",
            got=f"the folders {', '.join(splits)}",
            expected="a folder train (or training) beside them, or one sub-folder per class",
            fix="Add the train folder, or point to the folder whose sub-folders are the classes.",
            names=[str(folder)],
        )
    is_split = "train" in splits.values()
    tops = [(folder / name, splits[name]) for name in splits] if is_split else [(folder, "")]
    rows = []
    for top, split in tops:
        class_folders = _subfolders(top)
        above = f"{top.name}/" if is_split else ""
        passed_over[OUTSIDE] += sum(entry.is_file() for entry in top.iterdir())
        for class_folder in class_folders:
            for path in image_files(class_folder, passed_over):
                rows.append((f"{above}{path}", class_folder.name, "", split))
    if is_split:
        passed_over[OUTSIDE] += sum(e.is_file() for e in folder.iterdir())
    table = pd.DataFrame(rows, columns=list(OWN_COLUMNS), dtype=str)
    table = table.sort_values("path", ignore_index=True)
    return Dataset(folder, table, "split folders" if is_split else "folder", +passed_over)


def _subfolders(folder: Path) -> list[Path]:
    return sorted(entry for entry in folder.iterdir() if entry.is_dir() and not _is_hidden(entry))


def _is_hidden(path: Path) -> bool:
    """Whether a folder or file is no data: hidden, an archive's leftovers, or a run of medlens."""
    try:
        is_run = (path / "config.toml").exists() and (path / "audit.json").exists()
        is_run |= (path / ".ui" / "choices.json").exists()
    except OSError:  # whoever looks into it next says so
        is_run = False
    return path.name.startswith(".") or path.name in ("__MACOSX", "medlens-runs") or is_run


def image_files(folder: Path, passed_over: Counter[str]) -> Iterator[str]:
    """All image files below a folder, links followed, no folder entered twice.

    Args:
        folder: Where to look.
        passed_over: Counts what is not taken, by kind.

    Yields:
        Their paths with slashes, from the folder's own name on.
    """
    if is_remote(folder):
        for name, _ in remote_image_files(folder, passed_over):
            yield f"{folder.name}/{name}"
        return
    entered: set[str] = set()

    def note(_: OSError) -> None:
        passed_over[CLOSED] += 1

    for here, folders, files in os.walk(folder, onerror=note, followlinks=True):
        real = os.path.realpath(here)
        if real in entered:
            folders.clear()
            continue
        entered.add(real)
        hidden = [name for name in folders if _is_hidden(Path(here, name))]
        if hidden:
            passed_over["hidden folder"] += len(hidden)
        folders[:] = sorted(name for name in folders if name not in hidden)
        inside = Path(here).relative_to(folder.parent).as_posix()
        for name in sorted(files):
            if name.startswith("."):
                passed_over["hidden file"] += 1
            elif not _is_utf8(name):
                passed_over["name that is not UTF-8"] += 1
            elif not is_image_name(Path(here, name)):
                passed_over["not an image"] += 1
            else:
                yield f"{inside}/{name}"


def _is_utf8(name: str) -> bool:
    try:
        name.encode()
    except UnicodeEncodeError:
        return False
    return True


def _read_list(file: Path) -> Dataset:
    given = read_manifest(file, needed=("path", "label"), known=OWN_COLUMNS)
    empty = pd.Series("", index=given.index, dtype=str)
    table = pd.DataFrame(
        {name: given[name].str.strip() if name in given else empty for name in OWN_COLUMNS}
    )
    _check_rows(table, file)
    table["path"] = table["path"].str.replace("\\", "/", regex=False)
    table["split"] = _split_names(table["split"], file)
    for name in [name for name in given.columns if name not in OWN_COLUMNS]:
        is_taken = name in RESERVED_COLUMNS or str(name).startswith(RESERVED_PREFIXES)
        table[f"given_{name}" if is_taken else name] = _typed(given[name])
    return Dataset(file.parent, table.sort_values("path", ignore_index=True), kind_of(file), {})


def _check_rows(table: pd.DataFrame, file: Path) -> None:
    problems = {
        "have no path": table["path"] == "",
        "have no label": table["label"] == "",
        "name a file that stands there before": table["path"].duplicated(),
    }
    for problem, rows in problems.items():
        if rows.any():
            raise MedlensError(
                f"Rows of the {kind_of(file)} {problem}.",
                got=f"{int(rows.sum()):,} such rows, first in {_first_places(rows, file)}",
                expected="one row per image, each with its path and its label",
                fix="Mend or remove these rows.",
                names=[str(file)],
            )


def _first_places(rows: pd.Series[bool], file: Path) -> str:
    """Where the first few of these rows stand."""
    return ", ".join(place_of(row, file) for row in np.flatnonzero(rows)[:5].tolist())


def _split_names(words: pd.Series[str], file: Path) -> pd.Series[str]:
    """The splits that the words of a column mean: train, val, test or ""."""
    names = {word: SPLIT_WORDS.get(word.lower(), "") for word in map(str, words.unique())}
    unknown = words.isin([word for word, name in names.items() if word and not name])
    if unknown.any():
        first = int(unknown.argmax())
        raise MedlensError(
            f"The column split of the {kind_of(file)} holds an unknown word.",
            got=f"{words.iloc[first]} in {place_of(first, file)}; {int(unknown.sum()):,} such rows",
            expected="train, val or test (also training, valid, validation, testing), or nothing",
            fix="Mend the word, or rename the column if it means something else.",
            names=[str(file)],
        )
    return words.map(names).astype(str)


def _typed(column: pd.Series[Any]) -> pd.Series[Any]:
    """A column of plain numbers as numbers, for subgroups by range; else as text.

    `007` and `1E5` stay text: they are codes more often than numbers.
    """
    if pd.api.types.is_numeric_dtype(column):
        return column
    filled = column[column != ""]
    is_number = len(filled) > 0 and filled.str.fullmatch(r"-?(0|[1-9]\d*)(\.\d+)?").all()
    return pd.to_numeric(column.where(column != "")) if is_number else column


def _find_patients(table: pd.DataFrame, patient_regex: str) -> pd.DataFrame:
    try:
        pattern = re.compile(patient_regex)
    except re.error as error:
        raise _bad_regex(f"not a regular expression: {error}") from None
    if pattern.groups < 1:
        raise _bad_regex("a regular expression without a group")

    def find(path: str) -> str:
        match = pattern.search(path)
        return (match.group(1) or "") if match else ""

    patients = _map_texts(table["path"], find)
    without = table["path"][patients == ""]
    if len(without):
        raise MedlensError(
            "--patient-regex does not find a patient in every path.",
            got=f"{len(without):,} of {len(table):,} paths without a match",
            expected="a patient for every image, or leaks could hide among the others",
            fix="Widen the expression, or list path,label,patient in a CSV.",
            names=list(without),
        )
    return table.assign(patient=patients)


def _map_texts(texts: pd.Series[str], function: Callable[[str], str]) -> pd.Series[str]:
    """A function of each text; only some thousand results at a time are Python's own."""
    starts = range(0, max(1, len(texts)), ROWS_AT_A_TIME)
    parts = [texts.iloc[start : start + ROWS_AT_A_TIME] for start in starts]
    return pd.concat(
        [
            pd.Series([function(text) for text in part], index=part.index, dtype=str)
            for part in parts
        ]
    )


def _bad_regex(got: str) -> MedlensError:
    return MedlensError(
        "--patient-regex cannot be used.",
        got=got,
        expected="a regular expression whose first group is the patient, such as (P[0-9]+)_",
        fix="Put the part of the path that names the patient into parentheses.",
    )


def _exclude(dataset: Dataset, file: Path) -> Dataset:
    listed = read_csv_file(file, called="The file given with --exclude", needed=("path",))["path"]
    paths = set(listed.str.strip().str.replace("\\", "/", regex=False)) - {""}
    unknown = sorted(paths - set(dataset.table["path"]))
    if unknown:
        raise MedlensError(
            "The file given with --exclude lists images that are not there.",
            got=f"{len(unknown):,} of {len(paths):,} paths without an image",
            expected="paths as they stand in dataset.csv and audit.json",
            fix="Mend or remove these rows.",
            names=unknown,
        )
    is_out = dataset.table["path"].isin(paths)
    kept, out = (dataset.table[rows].reset_index(drop=True) for rows in (~is_out, is_out))
    return replace(dataset, table=kept, left_out=out)


def _drop_classes(dataset: Dataset, drop_class: Sequence[str]) -> Dataset:
    unknown = [name for name in drop_class if name not in dataset.classes]
    if unknown:
        raise MedlensError(
            "--drop-class names a class that is not there.",
            got=", ".join(unknown),
            expected="one of " + ", ".join(dataset.classes),
            fix="Write the name as the folder or the CSV has it.",
        )
    if not drop_class:
        return dataset

    def kept(table: pd.DataFrame) -> pd.DataFrame:
        return table[~table["label"].isin(list(drop_class))].reset_index(drop=True)

    table = kept(dataset.table)
    passed_over = {**dataset.passed_over, DROPPED: len(dataset.table) - len(table)}
    return replace(dataset, table=table, passed_over=passed_over, left_out=kept(dataset.left_out))
