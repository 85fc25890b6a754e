"""What belongs together: images of one patient, copies of an image, and near-duplicates."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from medlens.errors import MedlensError

SPLITS = ("train", "val", "test")
# How people call them, in lower case: folders, and the words of a column split.
SPLIT_WORDS: Mapping[str, str] = {
    "train": "train",
    "training": "train",
    "val": "val",
    "valid": "val",
    "validation": "val",
    "test": "test",
    "testing": "test",
}
GROUPS_ARE = "a group: one patient's images, or all copies and near-duplicates of one image"
# What makes a group before near-duplicates are looked at.
_SURE_TIES = ("patient", "pixels_sha256")
# So many near-duplicates hanging together, one by one, are rather images that all look alike: a
# group of more than a fifth of the images fits neither val nor test, one of more than half a class
# leaves it hardly anything to learn from. Fewer can be copies of one picture in a small data set.
_MOST_OF_ALL = 0.2
_MOST_OF_A_CLASS = 0.5
_FEWEST_IN_CROWD = 10


def group_images(table: pd.DataFrame) -> pd.Series[int]:
    """Number the groups of images that must stay in one split.

    Images of one patient belong together, and so do images with the same pixels, near-duplicates,
    and whatever is linked by a chain of these. An image of unknown patient without a copy is a
    group of its own.

    Args:
        table: One row per image, with the columns `patient`, `pixels_sha256` and `near_copies`
            ("" = unknown, or none).

    Returns:
        The group of each row, numbered from 0 in the order of first appearance.
    """
    return _number_groups(table, (*_SURE_TIES, "near_copies"))


def _number_groups(table: pd.DataFrame, columns: Sequence[str]) -> pd.Series[int]:
    """Number what hangs together by equal values in these columns."""
    images: list[NDArray[np.intp]] = []
    ties: list[NDArray[np.intp]] = []
    num_nodes = len(table)
    for column in columns:
        codes, values = pd.factorize(table[column].where(table[column] != ""))
        known = np.flatnonzero(codes >= 0)
        images.append(known)
        ties.append(codes[known] + num_nodes)
        num_nodes += len(values)
    component = _find_components(np.concatenate(images), np.concatenate(ties), num_nodes)
    numbers = pd.factorize(component[: len(table)])[0].astype(np.int64)
    return pd.Series(numbers, index=table.index, name="group")


def _find_components(
    ones: NDArray[np.integer[Any]], others: NDArray[np.integer[Any]], num_nodes: int
) -> NDArray[np.int32]:
    """The component of each node of a graph with an edge from each of `ones` to one of `others`.

    Where images are tied by a patient or a picture, that is a node, too.
    """
    graph = coo_array((np.ones(len(ones), np.int8), (ones, others)), shape=(num_nodes, num_nodes))
    components: NDArray[np.int32] = connected_components(graph, directed=False)[1]
    return components


def join_near_copies(
    table: pd.DataFrame, pairs: Sequence[tuple[str, str]]
) -> tuple[pd.Series[str], pd.Series[str]]:
    """Join pairs of near-duplicates into sets that stay together, unless too many hang together.

    In a data set whose images all look alike, copies cannot be told from other images. Then pairs
    link up in a chain that holds much of the data, no near-duplicate is trusted, and none ties.

    Args:
        table: One row per image, with `label`, `patient`, `pixels_sha256` and `unreadable`.
        pairs: The `pixels_sha256` of two images each that are near-duplicates.

    Returns:
        Of each row the smallest `pixels_sha256` among its near-duplicates and itself, "" where
        there are none: as `near_copies`, and all "" as `look_alike`. Where too many hang together
        it is the other way round.
    """
    # Sorted, so that the first of each component is its smallest.
    tied = np.unique(np.array(pairs, dtype=object).reshape(-1))
    ends = np.searchsorted(tied, np.array(pairs, dtype=object)).reshape(-1, 2)
    component = _find_components(ends[:, 0], ends[:, 1], len(tied))
    _, first = np.unique(component, return_index=True)
    smallest = dict(zip(tied.tolist(), tied[first][component].tolist(), strict=True))
    near = pd.Series("", index=table.index, dtype=str)
    is_tied = table["pixels_sha256"].isin(list(smallest))
    near[is_tied] = table.loc[is_tied, "pixels_sha256"].map(smallest)
    none = pd.Series("", index=table.index, dtype=str)
    return (none, near) if _is_crowded(table, near) else (near, none)


def _is_crowded(table: pd.DataFrame, near: pd.Series[str]) -> bool:
    """Whether one set of near-duplicates would tie too much of the data set together.

    Counted are the groups that there are without near-duplicates, for images of one patient and
    equal images are together anyhow.
    """
    groups = _number_groups(table, _SURE_TIES)
    used = pd.DataFrame({"group": groups, "label": table["label"], "near": near})[readable(table)]

    def count(*columns: str) -> pd.Series[int]:
        return used[used["near"] != ""].groupby(list(columns))["group"].nunique()

    in_set, in_class = count("near"), count("near", "label")
    share = in_set / used["group"].nunique()
    share_of_class = in_class.div(used.groupby("label")["group"].nunique(), level="label")
    return bool(
        ((share > _MOST_OF_ALL) & (in_set >= _FEWEST_IN_CROWD)).any()
        or ((share_of_class > _MOST_OF_A_CLASS) & (in_class >= _FEWEST_IN_CROWD)).any()
    )


def has_conflict(table: pd.DataFrame) -> pd.Series[bool]:
    """Which rows are readable images with a copy, or copies, of another label."""
    used = table.loc[readable(table), ["pixels_sha256", "label"]]
    num_labels = used.groupby("pixels_sha256")["label"].nunique()
    return table["pixels_sha256"].isin(num_labels.index[num_labels > 1])


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
    check_rows(table, groups)
    used = table.loc[readable(table), ["label"]].assign(group=groups)
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
        ways.append("leave it out with " + drop_class_options(small))
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
        f"({GROUPS_ARE})",
        fix="Ways out: " + ", or ".join(ways) + ".",
    )


def drop_class_options(names: Iterable[str]) -> str:
    """The options that leave classes out, as they are typed."""
    return " ".join(
        f'--drop-class "{name}"' if " " in name else f"--drop-class {name}"
        for name in dict.fromkeys(names)
    )


def readable(table: pd.DataFrame) -> pd.Series[bool]:
    """Whether each row's file could be read."""
    return table["unreadable"] == ""


def check_rows(table: pd.DataFrame, *columns: pd.Series[Any]) -> None:
    """Refuse columns of other rows: pandas would pair them by index without a word."""
    if not table.index.is_unique or not all(one.index.equals(table.index) for one in columns):
        raise ValueError("groups and split must have the index of the table, which must be unique")
