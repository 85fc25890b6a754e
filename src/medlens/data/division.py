"""Groups and ratios -> train, val and test: the division itself."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd

# Of two equally good places a group takes the first: test before val, for what is measured there.
_FILLING_ORDER = ("train", "test", "val")
# Outweighs every deviation from the ratios: a class should be in each split.
_EMPTY_COST = 1e9
_MOST_PASSES = 5
_MOST_ATTEMPTS = 20


def divide_groups(
    table: pd.DataFrame, groups: pd.Series[int], *, shares: Mapping[str, float], seed: int
) -> pd.Series[str]:
    """Divide whole groups among splits, so that each class comes near the shares in each.

    Large groups first, each into the split that lacks its classes most for its size; then single
    groups move where that brings the counts nearer. So large and small groups spread over the
    splits in proportion: filling the largest gap first would send all large patients to train.

    Args:
        table: The rows to divide, with `path` and `label`.
        groups: The group of each row.
        shares: Share of each split, together 1. Other names than train, val and test are filled in
            the order given.
        seed: Shuffles groups of one size.
    """
    order = np.argsort(table["path"].to_numpy(), kind="stable")
    codes = pd.factorize(groups.to_numpy()[order])[0]
    labels, classes = pd.factorize(table["label"].to_numpy()[order], sort=True)
    contents: list[dict[int, int]] = [{} for _ in range(codes.max(initial=-1) + 1)]
    for code, label in zip(codes.tolist(), labels.tolist(), strict=True):
        contents[code][label] = contents[code].get(label, 0) + 1
    known = [name for name in _FILLING_ORDER if name in shares]
    names = known or list(shares)
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
