from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from medlens.data.roles import assign_folds, assign_roles


def draw_table(patients: int, seed: int = 0) -> pd.DataFrame:
    """One to four images a patient, two classes, all three splits by patient."""
    random = np.random.default_rng(seed)
    rows = []
    for patient in range(patients):
        split = ("train", "val", "test")[patient % 3]
        label = "ill" if random.random() < 0.3 else "well"
        rows += [
            {"path": f"{patient}-{number}.png", "label": label, "split": split, "group": patient}
            for number in range(random.integers(1, 5))
        ]
    return pd.DataFrame(rows)


def test_half_of_a_large_val_calibrates_and_no_group_has_two_roles() -> None:
    table = draw_table(1500)
    roles = assign_roles(table, seed=0)
    assert roles.groupby(table["group"]).nunique().max() == 1
    by_split = {split: set(roles[table["split"] == split]) for split in ("train", "val", "test")}
    assert by_split == {"train": {"fit"}, "val": {"stop", "calibrate"}, "test": {"test"}}
    halves = [roles == role for role in ("stop", "calibrate")]
    shares = [float((table["label"][half] == "ill").mean()) for half in halves]
    assert shares[0] == pytest.approx(shares[1], abs=0.02)
    assert table["group"][halves[1]].nunique() >= 200


def test_all_of_a_small_val_stops_the_training() -> None:
    table = draw_table(300)
    roles = assign_roles(table, seed=0)
    assert set(roles[table["split"] == "val"]) == {"stop"}


def test_roles_do_not_depend_on_the_order_of_rows() -> None:
    table = draw_table(1500)
    roles = assign_roles(table, seed=1)
    shuffled = table.sample(frac=1, random_state=3)
    again = assign_roles(shuffled, seed=1)
    pd.testing.assert_series_equal(roles, again.sort_index())


def test_folds_keep_groups_whole_and_classes_even() -> None:
    table = draw_table(200)
    folds = assign_folds(table, count=5, seed=0)
    assert set(folds) == {1, 2, 3, 4, 5}
    assert pd.Series(folds).groupby(table["group"]).nunique().max() == 1
    counts = pd.crosstab(folds, table["label"])
    assert (counts.max() - counts.min()).max() <= 4
