"""Patients, copies and near-duplicates that cross a split: found, refused, or resolved."""

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
    """What is in more than one split, by one tie: same pixels, near-duplicates, or same patient.

    Args:
        files: The files of each such picture, set of near-duplicates or patient, in all splits.
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
        near_copies: Near-duplicates in more than one split, but for files that have an identical
            twin there as well: those are counted among the copies.
        patients: Patients in more than one split.
        sizes: Number of files in each split.
    """

    groups: tuple[int, ...]
    files: tuple[tuple[tuple[str, str], ...], ...]
    copies: Crossing
    near_copies: Crossing
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
    """Find the groups, identical images, near-duplicates and patients in more than one split.

    Args:
        table: One row per image, with `path`, `patient`, `pixels_sha256`, `near_copies` and
            `unreadable`.
        groups: The group of each row.
        split: The split of each row; "" for rows in none. Unreadable files do not count.
    """
    check_rows(table, groups, split)
    columns = ["path", "patient", "pixels_sha256", "near_copies"]
    used = table[columns].assign(split=split, group=groups)
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
        near_copies=_find_crossing(used, "near_copies", but_not_by="pixels_sha256"),
        patients=_find_crossing(used, "patient"),
        sizes={name: int((used["split"] == name).sum()) for name in SPLITS},
    )


def _rows_that_cross(used: pd.DataFrame, column: str) -> pd.DataFrame:
    """The rows whose value in a column, such as the patient, stands in more than one split."""
    known = used[used[column] != ""]
    pairs = known[[column, "split"]].drop_duplicates()
    return known[known[column].isin(pairs.loc[pairs[column].duplicated(), column])]


def _find_crossing(used: pd.DataFrame, column: str, but_not_by: str = "") -> Crossing:
    """What crosses by a column; files that cross by another one to the same split are not counted.

    What has no file that counts is left out.
    """
    crossing = _rows_that_cross(used, column)
    counted = pd.Series(False, index=crossing.index)

    def count(of: str, tied_to: str) -> int:
        others = crossing[crossing["split"] == tied_to]
        tied = (crossing["split"] == of) & crossing[column].isin(others[column])
        if but_not_by:
            tied &= ~crossing[but_not_by].isin(others[but_not_by])
        counted.loc[tied] = True
        return int(tied.sum())

    counts = (count("test", "train"), count("test", "val"), count("val", "train"))
    shown = crossing[crossing[column].isin(crossing.loc[counted, column])]
    files: dict[str, list[str]] = {}
    for name, path in sorted(zip(shown[column], shown["path"], strict=True)):
        files.setdefault(name, []).append(path)
    return Crossing(tuple(tuple(own) for own in files.values()), *counts)


def copies_in_words(leaks: Leaks) -> str:
    """How many files have a copy in another split, without any file's name."""
    return _in_words(leaks.copies, leaks.sizes, "has an identical twin", "have an identical twin")


def near_copies_in_words(leaks: Leaks) -> str:
    """How many files have a near-duplicate, but no copy, in another split."""
    return _in_words(
        leaks.near_copies, leaks.sizes, "has a near-duplicate", "have a near-duplicate"
    )


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
    words = [copies_in_words(leaks), near_copies_in_words(leaks), patients_in_words(leaks)]
    raise MedlensError(
        "The split leaks: copies or near-duplicates of an image, or images of one patient, are in "
        "several splits.",
        got="; ".join(text for text in words if text)
        or f"{len(leaks.groups):,} groups of linked images in several splits",
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
            expected="images of each class without a copy, a near-duplicate or the same patient in "
            "another split",
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
