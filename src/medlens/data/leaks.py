"""Patients and copies that cross a split: found, refused, or resolved."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import pandas as pd

from medlens.data.groups import GROUPS_ARE, SPLITS, check_rows, drop_class_options, readable
from medlens.errors import MedlensError

SPLIT_ANEW = "split anew with --split 0.7,0.15,0.15"
RESOLVE_LEAKS = (
    "--resolve-leaks mends a given split: test stays whole, the other copies give way. "
    f"Or {SPLIT_ANEW}."
)


@dataclass(frozen=True)
class Crossing:
    """What is in more than one split, by one tie: the same pixels, or the same patient.

    Args:
        files: The files of each such picture or patient, in all splits.
        test_in_train: Number of test files with such a tie to train.
        test_in_val: Number of test files with such a tie to val.
        val_in_train: Number of val files with such a tie to train.
    """

    files: tuple[tuple[str, ...], ...]
    test_in_train: int
    test_in_val: int
    val_in_train: int


@dataclass(frozen=True)
class Leaks:
    """Groups that are in more than one split.

    Args:
        groups: Their numbers; empty where nothing leaks.
        files: The files of each of these groups, each as (path, split).
        copies: Identical images in more than one split.
        patients: Patients in more than one split.
        sizes: Number of files in each split.
    """

    groups: tuple[int, ...]
    files: tuple[tuple[tuple[str, str], ...], ...]
    copies: Crossing
    patients: Crossing
    sizes: Mapping[str, int]


@dataclass(frozen=True)
class Resolved:
    """A table whose given split no group crosses any more.

    Args:
        table: The rows that are left, with the new `split` and the index they had.
        removed: Number of images that left, per split and class.
        moved: Number of images that went from val to train, per class.
    """

    table: pd.DataFrame
    removed: Mapping[str, Mapping[str, int]]
    moved: Mapping[str, int]


def find_leaks(table: pd.DataFrame, groups: pd.Series[int], split: pd.Series[str]) -> Leaks:
    """Find the groups, identical images and patients that are in more than one split.

    Args:
        table: One row per image, with `path`, `patient`, `pixels_sha256` and `unreadable`.
        groups: The group of each row.
        split: The split of each row; "" for rows in none. Unreadable files do not count.
    """
    check_rows(table, groups, split)
    used = table[["path", "patient", "pixels_sha256"]].assign(split=split, group=groups)
    used = used[readable(table) & (split != "")]
    crossing = _rows_that_cross(used, "group")
    rows = zip(crossing["group"], crossing["path"], crossing["split"], strict=True)
    files: dict[int, list[tuple[str, str]]] = {}
    for group, path, name in sorted(rows):
        files.setdefault(group, []).append((path, name))
    return Leaks(
        groups=tuple(files),
        files=tuple(tuple(own) for own in files.values()),
        copies=_find_crossing(used, "pixels_sha256"),
        patients=_find_crossing(used, "patient"),
        sizes={name: int((used["split"] == name).sum()) for name in SPLITS},
    )


def _rows_that_cross(used: pd.DataFrame, column: str) -> pd.DataFrame:
    """The rows whose value in a column, such as the patient, stands in more than one split."""
    known = used[used[column] != ""]
    pairs = known[[column, "split"]].drop_duplicates()
    return known[known[column].isin(pairs.loc[pairs[column].duplicated(), column])]


def _find_crossing(used: pd.DataFrame, column: str) -> Crossing:
    crossing = _rows_that_cross(used, column)

    def count(of: str, tied_to: str) -> int:
        keys = crossing.loc[crossing["split"] == tied_to, column]
        return int(((crossing["split"] == of) & crossing[column].isin(keys)).sum())

    files: dict[str, list[str]] = {}
    for name, path in sorted(zip(crossing[column], crossing["path"], strict=True)):
        files.setdefault(name, []).append(path)
    return Crossing(
        files=tuple(tuple(own) for own in files.values()),
        test_in_train=count("test", "train"),
        test_in_val=count("test", "val"),
        val_in_train=count("val", "train"),
    )


def copies_in_words(leaks: Leaks) -> str:
    """How many files have a copy in another split, without any file's name."""
    return _in_words(leaks.copies, leaks.sizes, "has an identical twin", "have an identical twin")


def patients_in_words(leaks: Leaks) -> str:
    """How many files show a patient of another split, without any file's or patient's name."""
    return _in_words(leaks.patients, leaks.sizes, "is of a patient also", "are of patients also")


def _in_words(crossing: Crossing, sizes: Mapping[str, int], one: str, many: str) -> str:
    counts = (
        (crossing.test_in_train, "test", "train"),
        (crossing.test_in_val, "test", "val"),
        (crossing.val_in_train, "val", "train"),
    )
    return "; ".join(
        f"{count:,} of {sizes[of]:,} {of} files {one if count == 1 else many} in {tied_to}"
        for count, of, tied_to in counts
        if count
    )


def refuse_leaks(leaks: Leaks, fix: str = RESOLVE_LEAKS) -> None:
    """Stop where a group is in more than one split.

    Args:
        leaks: What was found.
        fix: How to mend it.

    Raises:
        MedlensError: If there is a leak; its names list the files of each leak with their splits.
    """
    if not leaks.groups:
        return
    words = [text for text in (copies_in_words(leaks), patients_in_words(leaks)) if text]
    raise MedlensError(
        "The split leaks: copies of one image, or images of one patient, are in several splits.",
        got="; ".join(words) or f"{len(leaks.groups):,} groups of linked images in several splits",
        expected=f"every group in one split ({GROUPS_ARE}); else the network is tested on images "
        "it learnt from, and the results look better than they are",
        fix=fix,
        names=[", ".join(f"{path} ({split})" for path, split in files) for files in leaks.files],
    )


def resolve_leaks(table: pd.DataFrame, groups: pd.Series[int]) -> Resolved:
    """Mend a given split that groups cross.

    The given test set stays whole: the other rows of its groups leave train and val. A group in
    both train and val goes to train: its val rows are moved, not dropped.

    Args:
        table: One row per image, with `path`, `label`, `split` and `unreadable`.
        groups: The group of each row.

    Raises:
        MedlensError: If the given split is incomplete, or a class that was in a split is in it no
            more.
    """
    check_rows(table, groups)
    before = read_given_split(table)
    in_test = groups.isin(groups[before == "test"])
    removed = in_test & before.isin(["train", "val"])
    moved = (before == "val") & ~removed & groups.isin(groups[before == "train"])
    after = before.mask(moved, "train").mask(removed, "")
    _check_emptied(table["label"], before, after)
    return Resolved(
        table=table.assign(split=table["split"].mask(moved, "train"))[~removed],
        removed={
            name: class_counts(table["label"][removed & (before == name)])
            for name in ("train", "val")
        },
        moved=class_counts(table["label"][moved]),
    )


def _check_emptied(label: pd.Series[str], before: pd.Series[str], after: pd.Series[str]) -> None:
    kept = set(zip(label, after, strict=True))
    emptied = [
        (name, class_name, count)
        for name in SPLITS
        for class_name, count in class_counts(label[before == name]).items()
        if (class_name, name) not in kept
    ]
    if emptied:
        gone = sorted({class_name for _, class_name, _ in emptied})
        # Two classes must be left.
        can_drop = label.nunique() - len(gone) >= 2
        other_way = f"leave the class out with {drop_class_options(gone)}"
        other_way = other_way if can_drop else "add images that are tied to no other split"
        raise MedlensError(
            "Once the leaks are mended, a class is gone from a split: "
            + ", ".join(f"{class_name} from {name}" for name, class_name, _ in emptied)
            + ".",
            got="; ".join(
                f"all {count:,} {name} images of {class_name} are tied to another split"
                for name, class_name, count in emptied
            ),
            expected="images of each class without a copy or the same patient in another split",
            fix=f"Either {SPLIT_ANEW}, or {other_way}.",
        )


def class_counts(label: pd.Series[str]) -> dict[str, int]:
    """Images per class, in sorted order."""
    return {str(name): int(count) for name, count in label.value_counts().sort_index().items()}


def read_given_split(table: pd.DataFrame) -> pd.Series[str]:
    """The table's own split, "" for unreadable files, checked to be complete."""
    split = table["split"].where(readable(table), "")
    check_words(table, split)
    without = readable(table) & (split == "")
    if without.any():
        raise MedlensError(
            "Some images have no split.",
            got=f"{int(without.sum()):,} of {int(readable(table).sum()):,} images without one",
            expected="train, val or test for every image, or for none",
            fix=f"Complete the column split, or {SPLIT_ANEW}.",
            names=list(table["path"][without]),
        )
    if not (split == "train").any():
        raise MedlensError(
            "The given split has no images to train on.",
            got=", ".join(f"{int((split == name).sum()):,} {name}" for name in SPLITS),
            expected="readable images in train",
            fix=f"Mend the column split or the folders, or {SPLIT_ANEW}.",
        )
    return split


def check_words(table: pd.DataFrame, split: pd.Series[str]) -> None:
    """Stop where a split is none of train, val, test and "".

    Raises:
        MedlensError: If there is such a word; names the files.
    """
    unknown = ~split.isin([*SPLITS, ""])
    if unknown.any():
        raise MedlensError(
            "The split holds unknown words.",
            got=f"{int(unknown.sum()):,} images with such a word",
            expected="train, val or test",
            fix=f"Mend the column split, or {SPLIT_ANEW}.",
            names=list(table["path"][unknown] + ": " + split[unknown]),
        )
