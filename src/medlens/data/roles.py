"""Who uses what: what each image may decide, so that nothing is decided twice on the same image."""

from __future__ import annotations

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from medlens.data.division import divide_groups

# The head's weights are fitted on it; it says when to stop; temperature, operating point,
# prediction sets and the unfamiliar limit come from it; it is only measured.
FIT, STOP, CALIBRATE, TEST = "fit", "stop", "calibrate", "test"
ROLES = (FIT, STOP, CALIBRATE, TEST)
# Half of val calibrates from this many groups on; below, train's out-of-fold predictions do.
FEWEST_CALIBRATION_GROUPS = 200


def assign_roles(table: pd.DataFrame, *, seed: int) -> pd.Series[str]:
    """Give every image its role.

    Val is halved by group, stratified by class: one half stops the training, the other calibrates.
    Where that half would have under 200 groups, all of val stops the training.

    Args:
        table: One row per image used, with `path`, `label`, `split` and `group`.
        seed: Decides among equally good halves.

    Returns:
        A role per row.
    """
    roles = table["split"].map({"train": FIT, "val": STOP, "test": TEST}).astype(str)
    val = table[table["split"] == "val"]
    halves = divide_groups(val, val["group"], shares={STOP: 0.5, CALIBRATE: 0.5}, seed=seed)
    if val["group"][halves == CALIBRATE].nunique() >= FEWEST_CALIBRATION_GROUPS:
        roles[val.index] = halves
    return roles.rename("role")


def assign_folds(table: pd.DataFrame, *, count: int, seed: int) -> NDArray[np.int64]:
    """Divide images into folds, in whole groups, stratified by class.

    Args:
        table: One row per image, with `path`, `label` and `group`.
        count: How many folds, 2 at least.
        seed: Decides among equally good divisions.

    Returns:
        The fold of each row, from 1 to `count`.
    """
    shares = {str(number): 1 / count for number in range(1, count + 1)}
    folds = divide_groups(table, table["group"], shares=shares, seed=seed)
    return folds.to_numpy(np.int64)
