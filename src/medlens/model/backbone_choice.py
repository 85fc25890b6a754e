"""Several backbones -> the one whose features say most of images that heads were not fitted on.

As `choice` does for heads: inside the images that heads are fitted on, in the same folds for all.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from medlens.data.roles import FIT, assign_roles
from medlens.errors import MedlensError
from medlens.model.choice import Choice, choose_head
from medlens.model.head import cross_entropy
from medlens.model.head_plan import HeadSpace
from medlens.model.paired_bootstrap import BOOTSTRAP_DRAWS, share_of_draws_lower

# The features of one backbone, and the heads to choose from on them.
Contender = tuple[NDArray[np.float32], HeadSpace]


@dataclass(frozen=True)
class BackboneChoice:
    """Which backbone was taken.

    Args:
        name: Its name.
        place: Its place among the names.
        choice: Of its head.
        reason: Why, in a sentence.
        candidates: The candidates of all backbones, with a column `backbone`.
        curves: Their curves, with the same column.
    """

    name: str
    place: int
    choice: Choice
    reason: str
    candidates: pd.DataFrame
    curves: pd.DataFrame


def choose_backbone(
    names: Sequence[str],
    load: Callable[[int], Contender],
    images: pd.DataFrame,
    labels: NDArray[np.int64],
    num_classes: int,
    seed: int,
    progress: Callable[[int], None],
) -> BackboneChoice:
    """Choose a head for each backbone and take the one with the lowest cross-entropy out of fold.

    Class weighting, which moves the probabilities on purpose, plays no part in this comparison.

    Args:
        names: Of the backbones.
        load: Gives what belongs to a place of `names`; called once for each, in turn.
        images: One row per feature row, with `path`, `label`, `group` and `split`.
        labels: Class numbers of shape (images,).
        num_classes: Number of classes.
        seed: Decides among equally good halves and folds.
        progress: Called with 1 after every candidate.

    Raises:
        MedlensError: If a class has too few groups to compare anything.
    """
    developing = images["split"].isin(["train", "val"])
    roles = assign_roles(images[developing], seed=seed).reindex(images.index, fill_value="")
    rows = np.flatnonzero(roles == FIT)
    choices: list[Choice] = []
    said: list[NDArray[np.float64]] = []
    for place in range(len(names)):
        features, space = load(place)
        choice = choose_head(
            features, images, labels, rows, num_classes, space, progress, is_forced=True
        )
        if choice.folds is None or choice.unweighted is None:
            raise MedlensError(
                "The backbones cannot be compared.",
                got="a class with fewer than two groups in train",
                expected="two groups of each class at least, to hold some out",
                fix="Name one backbone.",
            )
        choices.append(choice)
        truth = labels[choice.folds.rows]
        said.append(cross_entropy(choice.unweighted.logits, truth))
    order = np.argsort([one.mean() for one in said], kind="stable")
    folds = choices[0].folds
    groups = images["group"].to_numpy()[folds.rows] if folds is not None else np.array([])
    share = share_of_draws_lower(said[order[0]], said[order[1]], groups, seed=seed)
    figures = "; ".join(f"{names[place]} {said[place].mean():.4f}" for place in order)
    reason = (
        f"Lowest mean cross-entropy out of fold, each with its best head: {figures}. "
        f"{names[order[0]]} is better than {names[order[1]]} in {100 * share:.1f} % of "
        f"{BOOTSTRAP_DRAWS:,} draws by group."
    )
    place = int(order[0])
    return BackboneChoice(
        names[place],
        place,
        choices[place],
        reason,
        _stack(names, [one.candidates for one in choices], place),
        _stack(names, [one.curves for one in choices], None),
    )


def _stack(names: Sequence[str], tables: list[pd.DataFrame], winner: int | None) -> pd.DataFrame:
    """The tables one below the other, each with the name of its backbone in front."""
    stacked = []
    for place, (name, table) in enumerate(zip(names, tables, strict=True)):
        named = table.copy()
        named.insert(0, "backbone", name)
        if winner is not None and place != winner:
            named["chosen"] = 0
        stacked.append(named)
    return pd.concat(stacked, ignore_index=True)
