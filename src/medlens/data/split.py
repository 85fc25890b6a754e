"""Table -> train, val and test, in whole groups: a patient's images and all copies of an image."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from medlens.errors import MedlensError

SPLITS = ("train", "val", "test")
# What splits.csv says of an image that is in no split, for instance a copy of a test image.
EXCLUDED = "excluded"

_GROUPS_ARE = "a group: one patient's images, or all copies of one image"
_SPLIT_ANEW = "split anew with --split 0.7,0.15,0.15"
# Of two equally good places a group takes the first: test before val, for what is measured there.
_FILLING_ORDER = ("train", "test", "val")
# Outweighs every deviation from the ratios: a class should be in each split.
_EMPTY_COST = 1e9
_MOST_PASSES = 5
_MOST_ATTEMPTS = 20


@dataclass(frozen=True)
class GivenSplit:
    """The split that the data set brings, completed.

    Args:
        split: "train", "val" or "test" per row; "" for unreadable files.
        carved: The splits that were missing and were carved out of train.
    """

    split: pd.Series[str]
    carved: tuple[str, ...]


@dataclass(frozen=True)
class Crossing:
    """What is in more than one split, by one tie: the same pixels, or the same patient.

    Args:
        names: The patients; for identical images the hashes of their pixels.
        files: The files of each of them, in all splits.
        test_in_train: Number of test files with such a tie to train.
        test_in_val: Number of test files with such a tie to val.
        val_in_train: Number of val files with such a tie to train.
    """

    names: tuple[str, ...]
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
        groups: The group numbers of these rows.
        removed: Number of images that left, per split and class.
        moved: Number of images that went from val to train, per class.
    """

    table: pd.DataFrame
    groups: pd.Series[int]
    removed: Mapping[str, Mapping[str, int]]
    moved: Mapping[str, int]


def group_images(table: pd.DataFrame) -> pd.Series[int]:
    """Number the groups of images that must stay in one split.

    Images of one patient belong together, and so do images with the same pixels, and whatever is
    linked by a chain of these. An image of unknown patient without a copy is a group of its own.

    Args:
        table: One row per image, with the columns `patient` and `pixels_sha256` ("" = unknown).

    Returns:
        The group of each row, numbered from 0 in the order of first appearance.
    """
    images: list[NDArray[np.intp]] = []
    ties: list[NDArray[np.intp]] = []
    num_nodes = len(table)
    for column in ("patient", "pixels_sha256"):
        codes, values = pd.factorize(table[column].where(table[column] != ""))
        known = np.flatnonzero(codes >= 0)
        images.append(known)
        ties.append(codes[known] + num_nodes)
        num_nodes += len(values)
    ends = (np.concatenate(images), np.concatenate(ties))
    # Nodes are the images, the patients and the pictures; a group is what hangs together.
    graph = coo_array((np.ones(len(ends[0]), np.int8), ends), shape=(num_nodes, num_nodes))
    component = connected_components(graph, directed=False)[1][: len(table)]
    numbers = pd.factorize(component)[0].astype(np.int64)
    return pd.Series(numbers, index=table.index, name="group")


def has_conflict(table: pd.DataFrame) -> pd.Series[bool]:
    """Which rows are readable images with a copy, or copies, of another label."""
    used = table.loc[_readable(table), ["pixels_sha256", "label"]]
    num_labels = used.groupby("pixels_sha256")["label"].nunique()
    return table["pixels_sha256"].isin(num_labels.index[num_labels > 1]) & _readable(table)


def check_class_sizes(table: pd.DataFrame, groups: pd.Series[int], *, min_per_class: int) -> None:
    """Stop where a class is too small to be trained on and tested.

    A class needs a group for each split, and `min_per_class` images: at the default of 10 and
    shares of 0.7, 0.15, 0.15 one or two of them are in the test set, and with fewer its results
    say next to nothing.

    Args:
        table: One row per image, with `label` and `unreadable`.
        groups: The group of each row.
        min_per_class: Fewest readable images of a class, at least 3.

    Raises:
        MedlensError: If a class is too small; the error names it, its counts and the ways out.
    """
    _check_rows(table, groups)
    used = table.loc[_readable(table), ["label"]].assign(group=groups)
    images = used["label"].value_counts()
    num_groups = used.groupby("label")["group"].nunique()
    sizes = {
        name: (int(images.get(name, 0)), int(num_groups.get(name, 0)))
        for name in sorted(set(table["label"]))
    }
    small = {
        name: (count, own_groups)
        for name, (count, own_groups) in sizes.items()
        if count < min_per_class or own_groups < len(SPLITS)
    }
    if not small:
        return
    ways = ["add images"]
    if len(sizes) - len(small) >= 2:
        ways.append("leave it out with " + _drop_class(small))
    if all(own_groups >= len(SPLITS) for _, own_groups in small.values()):
        fewest = min(count for count, _ in small.values())
        ways.append(f"accept a test that says little about it with --min-per-class {fewest}")
    raise MedlensError(
        "A class is too small to be split into train, val and test: " + ", ".join(small) + ".",
        got="; ".join(
            f"{name}: {count} image{'s' * (count != 1)} in {own} group{'s' * (own != 1)}"
            for name, (count, own) in small.items()
        ),
        expected=f"at least {min_per_class} images in {len(SPLITS)} groups for each class "
        f"({_GROUPS_ARE})",
        fix="Ways out: " + ", or ".join(ways) + ".",
    )


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
    _check_rows(table, groups)
    split = pd.Series("", index=table.index, name="split", dtype=str)
    rows = _readable(table)
    shares = dict(zip(SPLITS, ratios, strict=True))
    split[rows] = _divide(table[rows], groups[rows], shares=shares, seed=seed)
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
    split = _read_given(table)
    refuse_leaks(find_leaks(table, groups, split))
    carved = tuple(name for name in SPLITS if not (split == name).any())
    if carved:
        shares = dict(zip(SPLITS, ratios, strict=True))
        shares = {name: shares[name] for name in ("train", *carved)}
        total = math.fsum(shares.values())
        shares = {name: share / total for name, share in shares.items()}
        rows = split == "train"
        split[rows] = _divide(table[rows], groups[rows], shares=shares, seed=seed)
    return GivenSplit(split, carved)


def read_splits(path: Path, table: pd.DataFrame) -> pd.Series[str]:
    """Read a splits.csv with the columns path and split, as a run wrote it or a person edited it.

    Args:
        path: The file. Its split is train, val, test, or excluded: in no split, on purpose.
        table: One row per image; every readable image must stand in the file, once.

    Returns:
        "train", "val" or "test" per row; "" where excluded or unreadable.

    Raises:
        MedlensError: If the file cannot be read, images are missing, unknown or listed twice, a
            split is unknown, or a group is in more than one split.
    """
    given = _read_csv(path)
    listed = given["path"]
    odd = given[~given["split"].isin([*SPLITS, EXCLUDED])]
    problems = {
        "lacks images": table["path"][_readable(table) & ~table["path"].isin(listed)],
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
                fix=f"Mend these lines, or {_SPLIT_ANEW}.",
                names=list(names),
            )
    split = table["path"].map(given.set_index("path")["split"]).fillna("").astype(str)
    split = split.where(_readable(table) & (split != EXCLUDED), "").rename("split")
    refuse_leaks(find_leaks(table, group_images(table), split))
    return split


def splits_to_csv(table: pd.DataFrame, split: pd.Series[str]) -> str:
    """The text of splits.csv: each image found, sorted by path, with its split.

    Args:
        table: All images found, with `path`.
        split: The splits, by the table's index. Rows that it lacks, and rows with "", are written
            as excluded, so that the file is complete and can be handed back.
    """
    words = split.reindex(table.index, fill_value="").replace("", EXCLUDED)
    lines = pd.DataFrame({"path": table["path"], "split": words}).sort_values("path")
    return lines.to_csv(index=False, lineterminator="\n")


def check_split(
    table: pd.DataFrame, groups: pd.Series[int], split: pd.Series[str], classes: Sequence[str]
) -> None:
    """Stop unless no group is in two splits and each class is in train, val and test.

    Args:
        table: One row per image, with `path`, `label`, `patient`, `pixels_sha256`, `unreadable`.
        groups: The group of each row.
        split: The split of each row; "" for rows in none.
        classes: All class names.

    Raises:
        MedlensError: If a word is unknown, a group is in more than one split, or a class is
            missing from a split.
    """
    _check_rows(table, groups, split)
    _check_words(table, split)
    refuse_leaks(find_leaks(table, groups, split))
    used = table.loc[_readable(table), ["label"]].assign(split=split, group=groups)
    counts = used.groupby(["label", "split"]).size()
    absent = [(name, label) for label in classes for name in SPLITS if (label, name) not in counts]
    if not absent:
        return
    short = list(dict.fromkeys(label for _, label in absent))
    num_groups = used.groupby("label")["group"].nunique()
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
        + f" ({_GROUPS_ARE})",
        expected="images of each class in each of train, val and test",
        fix=f"Add images, leave the class out with {_drop_class(short)}, or {_SPLIT_ANEW}.",
    )


def find_leaks(table: pd.DataFrame, groups: pd.Series[int], split: pd.Series[str]) -> Leaks:
    """Find the groups, identical images and patients that are in more than one split.

    Args:
        table: One row per image, with `path`, `patient`, `pixels_sha256` and `unreadable`.
        groups: The group of each row.
        split: The split of each row; "" for rows in none. Unreadable files do not count.
    """
    _check_rows(table, groups, split)
    used = table[["path", "patient", "pixels_sha256"]].assign(split=split, group=groups)
    used = used[_readable(table) & (split != "")]
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
        names=tuple(files),
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


def refuse_leaks(leaks: Leaks) -> None:
    """Stop where a group is in more than one split.

    Raises:
        MedlensError: If there is a leak; its names list the files of each leak with their splits.
    """
    if not leaks.groups:
        return
    words = [text for text in (copies_in_words(leaks), patients_in_words(leaks)) if text]
    raise MedlensError(
        "The split leaks: copies of one image, or images of one patient, are in several splits.",
        got="; ".join(words) or f"{len(leaks.groups):,} groups of linked images in several splits",
        expected=f"every group in one split ({_GROUPS_ARE}); else the network is tested on images "
        "it learnt from, and the results look better than they are",
        fix="--resolve-leaks mends a given split: test stays whole, the other copies give way. "
        f"Or {_SPLIT_ANEW}.",
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
    _check_rows(table, groups)
    before = _read_given(table)
    in_test = groups.isin(groups[before == "test"])
    removed = in_test & before.isin(["train", "val"])
    moved = (before == "val") & ~removed & groups.isin(groups[before == "train"])
    after = before.mask(moved, "train").mask(removed, "")
    _check_emptied(table["label"], before, after)
    return Resolved(
        table=table.assign(split=table["split"].mask(moved, "train"))[~removed],
        groups=groups[~removed],
        removed={
            name: _class_counts(table["label"][removed & (before == name)])
            for name in ("train", "val")
        },
        moved=_class_counts(table["label"][moved]),
    )


def _check_emptied(label: pd.Series[str], before: pd.Series[str], after: pd.Series[str]) -> None:
    emptied = [
        (name, class_name, count)
        for name in SPLITS
        for class_name, count in _class_counts(label[before == name]).items()
        if not ((label == class_name) & (after == name)).any()
    ]
    if emptied:
        raise MedlensError(
            "Once the leaks are mended, a class is gone from a split: "
            + ", ".join(f"{class_name} from {name}" for name, class_name, _ in emptied)
            + ".",
            got="; ".join(
                f"all {count:,} {name} images of {class_name} are tied to another split"
                for name, class_name, count in emptied
            ),
            expected="images of each class without a copy or the same patient in another split",
            fix=f"Either {_SPLIT_ANEW}, or leave the class out with "
            + _drop_class(class_name for _, class_name, _ in emptied)
            + ".",
        )


def _class_counts(label: pd.Series[str]) -> dict[str, int]:
    return {str(name): int(count) for name, count in label.value_counts().sort_index().items()}


def _drop_class(names: Iterable[str]) -> str:
    """The options that leave classes out, as they are typed."""
    return " ".join(
        f'--drop-class "{name}"' if " " in name else f"--drop-class {name}"
        for name in dict.fromkeys(names)
    )


def _readable(table: pd.DataFrame) -> pd.Series[bool]:
    return table["unreadable"] == ""


def _check_rows(table: pd.DataFrame, *columns: pd.Series[Any]) -> None:
    """Refuse columns of other rows: pandas would pair them by index without a word."""
    if not table.index.is_unique or not all(one.index.equals(table.index) for one in columns):
        raise ValueError("groups and split must have the index of the table, which must be unique")


def _check_ratios(ratios: tuple[float, float, float]) -> None:
    if not (len(ratios) == 3 and min(ratios) > 0 and abs(math.fsum(ratios) - 1) <= 1e-6):
        raise MedlensError(
            "The shares of train, val and test cannot be used.",
            got=", ".join(f"{ratio:g}" for ratio in ratios),
            expected="three numbers above 0 that add up to 1",
            fix="Give for instance --split 0.7,0.15,0.15.",
        )


def _read_given(table: pd.DataFrame) -> pd.Series[str]:
    """The table's own split, "" for unreadable files, checked to be complete."""
    split = table["split"].where(_readable(table), "")
    _check_words(table, split)
    without = _readable(table) & (split == "")
    if without.any():
        raise MedlensError(
            "Some images have no split.",
            got=f"{int(without.sum()):,} of {int(_readable(table).sum()):,} images without one",
            expected="train, val or test for every image, or for none",
            fix=f"Complete the column split, or {_SPLIT_ANEW}.",
            names=list(table["path"][without]),
        )
    if not (split == "train").any():
        raise MedlensError(
            "The given split has no images to train on.",
            got=", ".join(f"{int((split == name).sum()):,} {name}" for name in SPLITS),
            expected="readable images in train",
            fix=f"Mend the column split or the folders, or {_SPLIT_ANEW}.",
        )
    return split


def _check_words(table: pd.DataFrame, split: pd.Series[str]) -> None:
    unknown = ~split.isin([*SPLITS, ""])
    if unknown.any():
        raise MedlensError(
            "The split holds unknown words.",
            got=f"{int(unknown.sum()):,} images with such a word",
            expected="train, val or test",
            fix=f"Mend the column split, or {_SPLIT_ANEW}.",
            names=list(table["path"][unknown] + ": " + split[unknown]),
        )


def _read_csv(path: Path) -> pd.DataFrame:
    try:
        given = pd.read_csv(path, dtype=str, keep_default_na=False, encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError, pd.errors.ParserError, pd.errors.EmptyDataError) as error:
        raise MedlensError(
            "The splits file cannot be read.",
            got=type(error).__name__,
            expected="a comma-separated UTF-8 file with the columns path,split",
            fix="Check the path, and save the file as CSV (UTF-8).",
            names=[str(path)],
        ) from None
    if not {"path", "split"} <= set(given.columns):
        raise MedlensError(
            "The splits file lacks the columns path and split.",
            # A file without a header has a path there, so its columns are names.
            got=f"{len(given.columns)} columns with other names",
            expected="path,split in the first line",
            fix="Name the columns so in the first line of the file.",
            names=[str(path), *given.columns],
        )
    return given


def _divide(
    table: pd.DataFrame, groups: pd.Series[int], *, shares: Mapping[str, float], seed: int
) -> pd.Series[str]:
    """Divide whole groups among splits, so that each class comes near the shares in each.

    Large groups first, each into the split that lacks its classes most for its size; then single
    groups move where that brings the counts nearer. So large and small groups spread over the
    splits in proportion: filling the largest gap first would send all large patients to train.

    Args:
        table: The rows to divide, with `path` and `label`.
        groups: The group of each row.
        shares: Share of each split, together 1.
        seed: Shuffles groups of one size.
    """
    order = np.argsort(table["path"].to_numpy(), kind="stable")
    codes = pd.factorize(groups.to_numpy()[order])[0]
    labels, classes = pd.factorize(table["label"].to_numpy()[order], sort=True)
    contents: list[dict[int, int]] = [{} for _ in range(codes.max(initial=-1) + 1)]
    for code, label in zip(codes.tolist(), labels.tolist(), strict=True):
        contents[code][label] = contents[code].get(label, 0) + 1
    names = [name for name in _FILLING_ORDER if name in shares]
    totals = np.bincount(labels, minlength=len(classes))
    targets = [(shares[name] * totals).tolist() for name in names]
    places = _best_places(contents, targets, np.random.default_rng(seed))
    split = np.empty(len(order), dtype=object)
    split[order] = np.array(names, dtype=object)[places][codes] if len(order) else []
    return pd.Series(split, index=table.index, dtype=str)


def _best_places(
    contents: Sequence[Mapping[int, int]],
    targets: Sequence[Sequence[float]],
    generator: np.random.Generator,
) -> list[int]:
    """Place groups until each class is in each split, as far as its number of groups allows.

    Args:
        contents: Images per class of each group.
        targets: Wanted images per class of each split.
        generator: Shuffles the groups before each attempt.
    """
    num_groups = np.zeros(len(targets[0]), int)
    for content in contents:
        num_groups[list(content)] += 1
    unavoidable = int(np.maximum(len(targets) - num_groups, 0).sum())
    best: list[int] = []
    fewest = math.inf
    for attempt in range(_MOST_ATTEMPTS):
        order: list[int] = generator.permutation(len(contents)).tolist()
        if attempt == 0:
            # Groups of several classes are the least free, so they come before all others.
            order.sort(key=lambda one: (len(contents[one]) == 1, -sum(contents[one].values())))
        places, counts = _place(contents, targets, order)
        empty = sum(row.count(0) for row in counts)
        if empty < fewest:
            best, fewest = places, empty
        if fewest <= unavoidable:
            break
    return best


def _place(
    contents: Sequence[Mapping[int, int]],
    targets: Sequence[Sequence[float]],
    order: Sequence[int],
) -> tuple[list[int], list[list[int]]]:
    """One division: the split of each group, and the images per split and class."""
    counts = [[0] * len(target) for target in targets]
    places = [-1] * len(contents)

    def cost(split: int, group: int, empty_cost: float) -> float:
        """Change of the squared deviations, each over its target, if the group enters the split."""
        total = 0.0
        for label, size in contents[group].items():
            count, target = counts[split][label], targets[split][label]
            total += size * (size + 2 * (count - target)) / target - empty_cost * (count == 0)
        return total

    # First all groups, the largest first, by the ratios alone. Then each, the smallest first, goes
    # where it serves best, which above all is a split without its class.
    for turn in range(1 + _MOST_PASSES):
        before = list(places)
        for group in reversed(order) if turn else order:
            for label, size in contents[group].items() if turn else ():
                counts[places[group]][label] -= size
            costs = [cost(split, group, _EMPTY_COST * turn) for split in range(len(targets))]
            places[group] = costs.index(min(costs))
            for label, size in contents[group].items():
                counts[places[group]][label] += size
        if places == before:
            break
    return places, counts
