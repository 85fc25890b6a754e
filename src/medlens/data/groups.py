"""What belongs together: the images of a patient, and all copies of an image."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
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
GROUPS_ARE = "a group: one patient's images, or all copies of one image"


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
