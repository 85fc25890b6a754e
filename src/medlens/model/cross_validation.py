"""Cross-validation: every development image tested once, by a head that never saw its group."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from medlens.data.division import divide_groups
from medlens.data.roles import TEST, assign_folds
from medlens.errors import MedlensError
from medlens.model.averaging import Symmetric
from medlens.model.choice import CompiledHeads
from medlens.model.development import Choices, Development, develop
from medlens.model.head_plan import HeadSpace
from medlens.model.view_features import Views


@dataclass(frozen=True)
class Fold:
    """One fold: its test images and what was developed on all the others.

    Args:
        number: From 1.
        rows: Places of its test images in the features.
        development: Head, temperature and all choices, made without these.
    """

    number: int
    rows: NDArray[np.intp]
    development: Development


def cross_validate(
    features: NDArray[np.float32],
    images: pd.DataFrame,
    labels: NDArray[np.int64],
    num_classes: int,
    space: HeadSpace,
    choices: Choices,
    count: int,
    ratios: tuple[float, float, float],
    progress: Callable[[int], None],
    views: Views | None = None,
    symmetric: Symmetric | None = None,
) -> list[Fold]:
    """Develop and test once for each fold.

    The images of train and val are divided into folds, in whole groups, stratified by class. What
    is not in a fold is divided by group into train and val, and all fitting, stopping and choosing
    happens there. A given test set takes no part.

    Args:
        features: Of shape (images, columns).
        images: One row per feature row, with `path`, `label`, `group` and `split`.
        labels: Class numbers of shape (images,).
        num_classes: Number of classes.
        space: The heads to choose from; each fold chooses for itself.
        choices: What is chosen in each fold.
        count: How many folds, 2 at least.
        ratios: Shares of train, val and test; only the first two are used.
        progress: Called with 1 after every fold.
        views: Of the images; each fold looks at those of its own training images.
        symmetric: Of the images; averaged over in each fold as by the classifier.

    Raises:
        MedlensError: If a class has too few groups.
    """
    outer = images[images["split"].isin(["train", "val"])]
    _check_groups(outer, count)
    fold_of = pd.Series(assign_folds(outer, count=count, seed=choices.seed), index=outer.index)
    folds: list[Fold] = []
    compiled: CompiledHeads = {}
    for number in range(1, count + 1):
        out = fold_of.index[fold_of == number]
        inner = outer.drop(index=out)
        split = pd.Series("", index=images.index, dtype=str)
        split[inner.index] = divide_development(inner, ratios, seed=choices.seed)
        split[out] = TEST
        _check_inner(inner, split)
        development = develop(
            features,
            images.assign(split=split),
            labels,
            num_classes,
            space,
            choices,
            _ignore,
            always_out_of_fold=False,
            compiled=compiled,
            views=views,
            symmetric=symmetric,
        )
        folds.append(Fold(number, np.flatnonzero(split == TEST), development))
        progress(1)
    return folds


def divide_development(
    images: pd.DataFrame, ratios: tuple[float, float, float], *, seed: int
) -> pd.Series[str]:
    """Divide images into train and val, in whole groups, in the ratio of their shares."""
    train, val, _ = ratios
    shares = {"train": train / (train + val), "val": val / (train + val)}
    return divide_groups(images, images["group"], shares=shares, seed=seed)


def _check_groups(outer: pd.DataFrame, count: int) -> None:
    groups = outer.groupby("label")["group"].nunique()
    # Each fold needs a group of the class; what is left is divided into train and val.
    small = groups[(groups < count) | (groups - -(-groups // count) < 2)]
    if small.empty:
        return
    most = int(small.min())
    raise MedlensError(
        f"A class has too few groups for {count} folds: {', '.join(map(str, small.index))}.",
        got="; ".join(f"{name}: {number} groups" for name, number in small.items()),
        expected=f"at least {max(count, 4)} groups of each class (a group: one patient's images)",
        fix=f"Ask for fewer folds: --folds {most}." if most > 3 else "Add images of this class.",
    )


def _check_inner(inner: pd.DataFrame, split: pd.Series[str]) -> None:
    counts = pd.crosstab(inner["label"], split[inner.index])
    if set(counts.columns) == {"train", "val"} and (counts > 0).all(axis=None):
        return
    raise MedlensError(
        "A fold's images cannot be divided: a class is missing from its train or val.",
        got="groups so few or so unequal that one takes most of a class",
        expected="images of each class in train and in val of each fold",
        fix="Ask for fewer folds, add images, or train without --folds.",
    )


def _ignore(_: int) -> None:
    pass
