"""Table -> train, val and test, in whole groups: of patients, copies and near-duplicates."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from medlens.data.csv_file import read_csv_file
from medlens.data.division import divide_groups
from medlens.data.groups import (
    GROUPS_ARE,
    SPLIT_WORDS,
    SPLITS,
    check_rows,
    drop_class_options,
    group_images,
    readable,
)
from medlens.data.leaks import SPLIT_ANEW, check_words, find_leaks, read_given_split, refuse_leaks
from medlens.errors import MedlensError

# What splits.csv says of an image that is in no split, for instance a copy of a test image.
EXCLUDED = "excluded"


@dataclass(frozen=True)
class GivenSplit:
    """The split that the data set brings, completed.

    Args:
        split: "train", "val" or "test" per row; "" for unreadable files.
        carved: The splits that were missing and were carved out of train.
    """

    split: pd.Series[str]
    carved: tuple[str, ...]


def split_by_ratio(
    table: pd.DataFrame,
    groups: pd.Series[int],
    *,
    ratios: tuple[float, float, float],
    seed: int,
) -> pd.Series[str]:
    """Divide whole groups among train, val and test, each class near the given ratios.

    The result depends on paths, labels, groups and the seed, not on the order of the rows.

    Args:
        table: One row per image, with `path`, `label` and `unreadable`.
        groups: The group of each row.
        ratios: Shares of train, val and test; each above 0, together 1.
        seed: Decides among equally good divisions.

    Returns:
        "train", "val" or "test" per row; "" for unreadable files.

    Raises:
        MedlensError: If the ratios are not positive or do not add up to 1.
    """
    _check_ratios(ratios)
    check_rows(table, groups)
    split = pd.Series("", index=table.index, name="split", dtype=str)
    rows = readable(table)
    shares = dict(zip(SPLITS, ratios, strict=True))
    split[rows] = divide_groups(table[rows], groups[rows], shares=shares, seed=seed)
    return split


def use_given_split(
    table: pd.DataFrame,
    groups: pd.Series[int],
    *,
    ratios: tuple[float, float, float],
    seed: int,
) -> GivenSplit:
    """Take the table's own split; carve a missing val or test out of train, in whole groups.

    Args:
        table: One row per image, with `path`, `label`, `split` and `unreadable`.
        groups: The group of each row.
        ratios: Shares of train, val and test. A carved split takes from train what its share is
            of train and carved splits together, such as val / (train + val).
        seed: Decides among equally good divisions of train.

    Raises:
        MedlensError: If a readable image has no split, a word is unknown, train is missing, a
            group is in more than one split, or the ratios are not positive or not 1 together.
    """
    _check_ratios(ratios)
    split = read_given_split(table)
    refuse_leaks(find_leaks(table, groups, split))
    carved = tuple(name for name in SPLITS if not (split == name).any())
    if carved:
        shares = dict(zip(SPLITS, ratios, strict=True))
        shares = {name: shares[name] for name in ("train", *carved)}
        total = math.fsum(shares.values())
        shares = {name: share / total for name, share in shares.items()}
        rows = split == "train"
        split[rows] = divide_groups(table[rows], groups[rows], shares=shares, seed=seed)
    return GivenSplit(split, carved)


def read_splits(path: Path, table: pd.DataFrame) -> pd.Series[str]:
    """Read a splits.csv with the columns path and split, as a run wrote it or a person edited it.

    Args:
        path: The file. Its split is train, val, test (in any case, or a word like training), or
            excluded: in no split, on purpose.
        table: One row per image; every readable image must stand in the file, once.

    Returns:
        "train", "val" or "test" per row; "" where excluded or unreadable.

    Raises:
        MedlensError: If the file cannot be read, images are missing, unknown or listed twice, a
            split is unknown or without an image, or a group is in more than one split.
    """
    given = read_csv_file(path, called="The splits file", needed=("path", "split"))
    listed = given["path"]
    words = {**SPLIT_WORDS, EXCLUDED: ""}
    named = given["split"].str.strip().str.lower()
    odd = given[~named.isin(words)]
    problems = {
        "lacks images": table["path"][readable(table) & ~table["path"].isin(listed)],
        "lists files that are not in the data set": listed[~listed.isin(table["path"])],
        "lists files more than once": listed[listed.duplicated()],
        "holds unknown words in its column split": odd["path"] + ": " + odd["split"],
    }
    for problem, names in problems.items():
        if len(names):
            raise MedlensError(
                f"The splits file {problem}.",
                got=f"{len(names):,} such lines or images",
                expected=f"each readable image once, with {', '.join(SPLITS)} or {EXCLUDED}",
                fix=f"Mend these lines, or {SPLIT_ANEW}.",
                names=list(names),
            )
    places = dict(zip(listed, named.map(words), strict=True))
    split = table["path"].map(places).fillna("").astype(str)
    split = split.where(readable(table), "").rename("split")
    _check_none_empty(split, "in the file given with --split")
    leaks = find_leaks(table, group_images(table), split)
    # --resolve-leaks is for the data set's own split; a file is taken as it is.
    give_way = f"or {EXCLUDED} for those that should give way"
    refuse_leaks(leaks, fix=f"Write one split for these files, {give_way}; or {SPLIT_ANEW}.")
    return split


def _check_none_empty(split: pd.Series[str], where: str) -> None:
    empty = [name for name in SPLITS if not (split == name).any()]
    if empty:
        raise MedlensError(
            f"The split has no {' and no '.join(empty)} images.",
            got=", ".join(f"{int((split == name).sum()):,} {name}" for name in SPLITS),
            expected="images of each class in each of train, val and test",
            fix=f"Put images into {' and '.join(empty)} {where}, or {SPLIT_ANEW}.",
        )


def splits_to_csv(
    table: pd.DataFrame, split: pd.Series[str], fold: pd.Series[str] | None = None
) -> str:
    """The text of splits.csv: each image found, sorted by path, with its split and fold.

    Args:
        table: All images found, with `path`.
        split: The splits, by the table's index. Rows that it lacks, and rows with "", are written
            as excluded, so that the file is complete and can be handed back.
        fold: The fold of cross-validation each image is tested in, by the table's index; None
            writes no such column.
    """
    words = split.reindex(table.index, fill_value="").replace("", EXCLUDED)
    lines = pd.DataFrame({"path": table["path"], "split": words})
    if fold is not None:
        lines["fold"] = fold.reindex(table.index, fill_value="")
    lines = lines.sort_values("path")
    return lines.to_csv(index=False, lineterminator="\n")


def check_split(
    table: pd.DataFrame, groups: pd.Series[int], split: pd.Series[str], classes: Sequence[str]
) -> None:
    """Stop unless no group is in two splits and each class is in train, val and test.

    Args:
        table: One row per image, with `path`, `label`, `patient`, `pixels_sha256`, `near_copies`,
            `unreadable`.
        groups: The group of each row.
        split: The split of each row; "" for rows in none.
        classes: All class names.

    Raises:
        MedlensError: If a word is unknown, a group is in more than one split, or a class is
            missing from a split, or all classes are.
    """
    check_rows(table, groups, split)
    check_words(table, split)
    refuse_leaks(find_leaks(table, groups, split))
    _check_none_empty(split[readable(table)], "of the data set")
    used = table.loc[readable(table), ["label"]].assign(split=split, group=groups)
    counts = used.groupby(["label", "split"]).size()
    absent = [(name, label) for label in classes for name in SPLITS if (label, name) not in counts]
    if not absent:
        return
    short = list(dict.fromkeys(label for _, label in absent))
    num_groups = used.groupby("label")["group"].nunique()
    ways = ["add images"]
    if len(classes) - len(short) >= 2:
        ways.append(f"leave the class out with {drop_class_options(short)}")
    raise MedlensError(
        "A class has no image in a split: "
        + ", ".join(f"{label} in {name}" for name, label in absent)
        + ".",
        got="; ".join(
            f"{label}: "
            + ", ".join(f"{int(counts.get((label, name), 0))} {name}" for name in SPLITS)
            + f", from {int(num_groups.get(label, 0))} groups"
            for label in short
        )
        + f" ({GROUPS_ARE})",
        expected="images of each class in each of train, val and test",
        fix=f"Ways out: {', '.join(ways)}, or {SPLIT_ANEW}.",
    )


def _check_ratios(ratios: tuple[float, float, float]) -> None:
    if not (len(ratios) == 3 and min(ratios) > 0 and abs(math.fsum(ratios) - 1) <= 1e-6):
        raise MedlensError(
            "The shares of train, val and test cannot be used.",
            got=", ".join(f"{ratio:g}" for ratio in ratios),
            expected="three numbers above 0 that add up to 1",
            fix="Give for instance --split 0.7,0.15,0.15.",
        )
