"""Near-duplicates are joined into sets, unless too much of the data set would hang together."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import numpy as np
import pandas as pd
import pytest

from medlens.data.groups import group_images, join_near_copies


def table_of(num_images: int, classes: Sequence[str] = ("a", "b")) -> pd.DataFrame:
    """Different images without patients, the classes in turn."""
    return pd.DataFrame(
        {
            "label": [classes[number % len(classes)] for number in range(num_images)],
            "patient": "",
            "pixels_sha256": [f"{number:04}" for number in range(num_images)],
            "unreadable": "",
        }
    )


def chain(numbers: Sequence[int]) -> list[tuple[str, str]]:
    """Each image a near-duplicate of the next one."""
    return [(f"{a:04}", f"{b:04}") for a, b in pairwise(numbers)]


def is_crowded(table: pd.DataFrame, pairs: list[tuple[str, str]]) -> bool:
    """Which of the two columns holds the sets; the other one must be empty."""
    near_copies, look_alike = join_near_copies(table, pairs)
    assert (near_copies == "").all() != (look_alike == "").all()
    return bool((look_alike != "").any())


def test_chains_are_one_set_named_by_its_smallest_content() -> None:
    table = table_of(8)
    table.loc[7, "pixels_sha256"] = "0003"  # an exact copy of a near-duplicate
    pairs = [("0005", "0003"), ("0006", "0005"), ("0002", "0001")]
    near_copies, look_alike = join_near_copies(table, pairs)
    assert near_copies.tolist() == ["", "0001", "0001", "0003", "", "0003", "0003", "0003"]
    assert set(look_alike) == {""}
    assert group_images(table.assign(near_copies=near_copies)).tolist() == [0, 1, 1, 2, 3, 2, 2, 2]


def test_no_pairs_tie_nothing() -> None:
    for table in (table_of(5), table_of(0), table_of(5).assign(unreadable="cut", pixels_sha256="")):
        near_copies, look_alike = join_near_copies(table, [])
        assert near_copies.tolist() == look_alike.tolist() == [""] * len(table)


def test_the_order_of_rows_and_pairs_does_not_matter() -> None:
    table = table_of(60)
    pairs = [*chain([3, 9, 20]), *chain([50, 41]), *chain([7, 2, 30, 5])]
    near_copies, _ = join_near_copies(table, pairs)
    mixed = table.sample(frac=1, random_state=1)
    again, _ = join_near_copies(mixed, [pair[::-1] for pair in reversed(pairs)])
    pd.testing.assert_series_equal(near_copies, again.sort_index())


@pytest.mark.parametrize(("tied", "crowded"), [(20, False), (21, True)])
def test_more_than_a_fifth_of_all_images_look_alike(tied: int, crowded: bool) -> None:
    assert is_crowded(table_of(100), chain(range(tied))) == crowded


@pytest.mark.parametrize(("tied", "crowded"), [(15, False), (16, True)])
def test_more_than_half_of_a_class_look_alike(tied: int, crowded: bool) -> None:
    table = table_of(300)
    table.loc[:29, "label"] = "rare"
    assert is_crowded(table, chain(range(tied))) == crowded


def test_a_crowd_lets_go_of_all_near_duplicates_whole_sets_kept_apart() -> None:
    table = table_of(100)
    _, look_alike = join_near_copies(table, [*chain(range(40)), *chain([50, 51])])
    assert look_alike.value_counts().to_dict() == {"": 58, "0000": 40, "0050": 2}


def test_some_copies_of_one_picture_in_a_small_data_set_are_no_crowd() -> None:
    assert not is_crowded(table_of(12), chain(range(9)))
    assert is_crowded(table_of(12), chain(range(10)))
    table = table_of(200)
    table.loc[:3, "label"] = "rare"  # three of the four are tied to others
    assert not is_crowded(table, chain(range(1, 13)))


def test_many_sets_of_copies_are_no_crowd() -> None:
    """As where each image was saved ten times on purpose."""
    table = table_of(400)
    pairs = [pair for first in range(0, 400, 10) for pair in chain(range(first, first + 10))]
    assert not is_crowded(table, pairs)


def test_images_that_are_together_anyhow_are_no_crowd() -> None:
    """One patient's images, and equal ones: they were one group before."""
    pairs = chain(range(50))
    table = table_of(100)
    assert is_crowded(table, pairs)
    assert not is_crowded(table.assign(patient=np.where(table.index < 50, "P", "")), pairs)
    table.loc[:45, "pixels_sha256"] = "0000"
    assert not is_crowded(table, [("0000", "0046"), *chain(range(46, 50))])


def test_files_that_cannot_be_read_do_not_count() -> None:
    table = table_of(100)
    pairs = chain(range(20))
    assert not is_crowded(table, pairs)
    table.loc[20:39, ["unreadable", "pixels_sha256"]] = ["cut", ""]
    assert is_crowded(table, pairs)
