"""No patient and no copy in two splits, ever; each class near the ratios; leaks found and named."""

from __future__ import annotations

import hashlib
import itertools
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from medlens.data.groups import SPLITS, check_class_sizes, group_images, has_conflict
from medlens.data.leaks import find_leaks, refuse_leaks, resolve_leaks
from medlens.data.split import (
    check_split,
    read_splits,
    split_by_ratio,
    splits_to_csv,
    use_given_split,
)
from medlens.errors import MedlensError

RATIOS = (0.7, 0.15, 0.15)
TIES = ("patient", "pixels_sha256", "near_copies")


def table_of(*rows: tuple[str, str, str, str, str]) -> pd.DataFrame:
    """A table from rows of path, label, patient, pixels, split."""
    columns = ["path", "label", "patient", "pixels_sha256", "split"]
    return pd.DataFrame(rows, columns=columns, dtype=str).assign(near_copies="", unreadable="")


def random_table(seed: int) -> pd.DataFrame:
    """Patients with 1 to 30 images, mostly of one class, some of them copies or near-duplicates."""
    generator = np.random.default_rng(seed)
    num_classes = int(generator.integers(2, 6))
    num_patients = int(generator.integers(8, 30)) * num_classes
    sizes = np.minimum(generator.geometric(generator.uniform(0.05, 0.9), num_patients), 30)
    patient = np.repeat(np.arange(num_patients), sizes)
    label = patient % num_classes
    strays = generator.random(len(patient)) < generator.choice([0, 0.05])
    label = np.where(strays, generator.integers(0, num_classes, len(patient)), label)
    is_known = generator.random(num_patients)[patient] < generator.choice([0, 0.5, 1])
    pixels = np.arange(len(patient))
    for _ in range(int(generator.integers(0, 8))):
        original, copy = generator.integers(0, len(patient), 2)
        pixels[copy] = pixels[original]
    near = np.full(len(patient), "", object)
    for number in range(int(generator.integers(0, 8))):
        shown = generator.choice(pixels, 2)
        near[np.isin(pixels, shown)] = f"near {number}"
    table = pd.DataFrame(
        {
            "path": [f"{number:05}.png" for number in generator.permutation(len(patient))],
            "label": [f"class {number}" for number in label],
            "patient": [f"P{a}" if b else "" for a, b in zip(patient, is_known, strict=True)],
            "pixels_sha256": [f"pixels {number}" for number in pixels],
            "near_copies": near,
            "split": "",
            "unreadable": "",
        }
    )
    return table.sort_values("path", ignore_index=True)


def large_singles(num_images: int, shares: dict[str, float]) -> pd.DataFrame:
    """Images without patients and without copies, with given shares of the classes."""
    rows = []
    for name, share in shares.items():
        for number in range(round(num_images * share)):
            rows.append((f"{name}/{number}.png", name, "", f"{name}{number}", ""))
    return table_of(*rows)


def linked_by_hand(table: pd.DataFrame) -> list[set[int]]:
    """Groups by repeated merging of sets: slow, and nothing like the code under test."""
    groups = [{row} for row in range(len(table))]
    for column in TIES:
        for value in set(table[column]) - {""}:
            rows = set(np.flatnonzero(table[column] == value).tolist())
            touched = [group for group in groups if group & rows]
            groups = [group for group in groups if not group & rows]
            groups.append(set().union(*touched))
    return groups


def crossings(table: pd.DataFrame, split: pd.Series[str]) -> int:
    """How many patients, pictures and near-duplicates are in several splits, counted by hand."""
    found = 0
    for column in TIES:
        seen: dict[str, set[str]] = {}
        for value, name in zip(table[column], split, strict=True):
            if value and name:
                seen.setdefault(value, set()).add(name)
        found += sum(len(names) > 1 for names in seen.values())
    return found


def test_groups_join_copies_and_patients_through_any_chain() -> None:
    table = table_of(
        ("a1", "x", "A", "1", ""),
        ("a2", "x", "A", "2", ""),
        ("b1", "x", "B", "3", ""),
        ("b2", "x", "B", "2", ""),  # a copy of a picture of patient A
        ("c1", "x", "", "3", ""),  # a copy of a picture of patient B
        ("d1", "x", "", "4", ""),
        ("e1", "x", "", "5", ""),
    )
    assert group_images(table).tolist() == [0, 0, 0, 0, 0, 1, 2]


def test_unknown_patients_and_unreadable_files_join_nothing() -> None:
    table = table_of(("a", "x", "", "", ""), ("b", "x", "", "", ""), ("c", "x", "", "1", ""))
    assert group_images(table).tolist() == [0, 1, 2]
    assert group_images(table.iloc[:0]).tolist() == []


@pytest.mark.parametrize("seed", range(8))
def test_groups_are_those_of_merging_by_hand(seed: int) -> None:
    table = random_table(seed)
    numbers = group_images(table)
    by_code = [set(rows.tolist()) for rows in table.groupby(numbers).indices.values()]
    assert sorted(by_code, key=min) == sorted(linked_by_hand(table), key=min)
    assert list(dict.fromkeys(numbers)) == list(range(len(by_code)))


@pytest.mark.parametrize("seed", range(40))
def test_no_group_is_ever_in_two_splits_and_each_class_is_in_each(seed: int) -> None:
    table = random_table(seed)
    groups = group_images(table)
    ratios = [(0.7, 0.15, 0.15), (0.5, 0.25, 0.25), (0.8, 0.1, 0.1), (0.2, 0.5, 0.3)][seed % 4]
    split = split_by_ratio(table, groups, ratios=ratios, seed=seed)

    assert set(split) == set(SPLITS)
    assert crossings(table, split) == 0
    assert split.groupby(groups).nunique().max() == 1
    assert set(zip(table["label"], split, strict=True)) == set(
        itertools.product(set(table["label"]), SPLITS)
    )
    check_split(table, groups, split, sorted(set(table["label"])))


@pytest.mark.parametrize("seed", range(40))
def test_each_class_is_as_near_the_ratios_as_its_groups_allow(seed: int) -> None:
    table = random_table(seed)
    groups = group_images(table)
    split = split_by_ratio(table, groups, ratios=RATIOS, seed=seed)
    for name, own in table.groupby("label"):
        largest = groups[own.index].value_counts().max()
        for wanted, split_name in zip(RATIOS, SPLITS, strict=True):
            count = (split[own.index] == split_name).sum()
            assert abs(count - wanted * len(own)) <= max(1, largest), (name, split_name)


def test_single_images_meet_the_ratios_to_one_image() -> None:
    table = large_singles(1000, {"common": 0.617, "rare": 0.05, "other": 0.333})
    split = split_by_ratio(table, group_images(table), ratios=RATIOS, seed=3)
    for name, own in table.groupby("label"):
        for wanted, split_name in zip(RATIOS, SPLITS, strict=True):
            count = (split[own.index] == split_name).sum()
            assert abs(count - wanted * len(own)) < 1, (name, split_name)


def test_the_odd_image_of_a_small_class_goes_to_test() -> None:
    table = large_singles(20, {"a": 0.5, "b": 0.5})
    split = split_by_ratio(table, group_images(table), ratios=RATIOS, seed=0)
    for _, own in split.groupby(table["label"]):
        assert own.value_counts().to_dict() == {"train": 7, "test": 2, "val": 1}


def test_large_patients_are_spread_over_all_splits() -> None:
    rows = []
    for patient in range(400):
        for image in range(10 if patient < 100 else 1):
            rows.append((f"{patient}/{image}", "x", f"P{patient}", f"{patient}.{image}", ""))
    table = table_of(*rows)
    split = split_by_ratio(table, group_images(table), ratios=RATIOS, seed=0)
    large = table["path"].str.endswith("/9")
    assert split[large].value_counts().to_dict() == {"train": 70, "val": 15, "test": 15}


@pytest.mark.parametrize("seed", range(10))
def test_the_order_of_the_rows_does_not_matter(seed: int) -> None:
    table = random_table(seed)
    shuffled = table.sample(frac=1, random_state=seed)
    renumbered = shuffled.reset_index(drop=True)
    by_path = []
    for one in (table, shuffled, renumbered):
        split = split_by_ratio(one, group_images(one), ratios=RATIOS, seed=5)
        by_path.append(dict(zip(one["path"], split, strict=True)))
    assert by_path[0] == by_path[1] == by_path[2]


def test_the_seed_decides() -> None:
    table = random_table(1)
    groups = group_images(table)
    splits = [split_by_ratio(table, groups, ratios=RATIOS, seed=seed) for seed in (1, 1, 2)]
    assert splits[0].equals(splits[1])
    assert not splits[0].equals(splits[2])


def test_three_groups_go_one_to_each_split_the_largest_to_train() -> None:
    sizes = {"A": 50, "B": 30, "C": 20}
    table = table_of(
        *((f"{name}{i}", "x", name, f"{name}{i}", "") for name in sizes for i in range(sizes[name]))
    )
    split = split_by_ratio(table, group_images(table), ratios=RATIOS, seed=0)
    assert {table["patient"][rows.index[0]] for _, rows in split.groupby(split)} == set(sizes)
    assert set(split[table["patient"] == "A"]) == {"train"}


def test_tangled_classes_reach_each_split_where_any_division_allows_it() -> None:
    """Few patients, most in several classes: compared with trying every division."""
    solvable = 0
    for seed in range(60):
        generator = np.random.default_rng(seed)
        members = [
            set(generator.choice(3, size=generator.integers(1, 4), replace=False).tolist())
            for _ in range(6)
        ]
        rows = [
            (f"{patient}/{label}/{image}", f"class {label}", f"P{patient}", "", "")
            for patient, labels in enumerate(members)
            for label in labels
            for image in range(generator.integers(1, 12))
        ]
        everywhere = set(itertools.product(set().union(*members), range(3)))
        is_possible = any(
            everywhere
            == {
                (label, place)
                for labels, place in zip(members, places, strict=True)
                for label in labels
            }
            for places in itertools.product(range(3), repeat=len(members))
        )
        table = table_of(*rows)
        split = split_by_ratio(table, group_images(table), ratios=RATIOS, seed=seed)
        found = set(zip(table["label"], split, strict=True))
        assert (len(found) == len(everywhere)) == is_possible, seed
        assert crossings(table, split) == 0
        solvable += is_possible
    assert 10 < solvable < 50  # both kinds are there


def test_a_division_that_only_another_order_of_the_patients_finds() -> None:
    """Class d is in three patients and class c in three, two of them the same."""
    patients = ["bbbbccd", "acccccddddd", "bbbbbccccddd", "aaaaabbb", "bbdd", "aaaaaa"]
    table = table_of(
        *(
            (f"{number}/{image}", label, f"P{number}", "", "")
            for number, labels in enumerate(patients)
            for image, label in enumerate(labels)
        )
    )
    for seed in range(10):
        split = split_by_ratio(table, group_images(table), ratios=RATIOS, seed=seed)
        check_split(table, group_images(table), split, ["a", "b", "c", "d"])


def test_unreadable_files_are_in_no_split() -> None:
    table = large_singles(100, {"a": 0.5, "b": 0.5})
    table.loc[[3, 70], ["unreadable", "pixels_sha256"]] = ["It is cut short.", ""]
    split = split_by_ratio(table, group_images(table), ratios=RATIOS, seed=0)
    assert list(split.index[split == ""]) == [3, 70]
    check_split(table, group_images(table), split, ["a", "b"])


def test_thirty_thousand_images_of_nine_thousand_patients_meet_the_ratios() -> None:
    generator = np.random.default_rng(0)
    patients = np.repeat(np.arange(9000), generator.geometric(0.3, 9000))
    names = [f"{number:06}" for number in range(len(patients))]
    label = generator.choice(["a", "b", "c"], len(patients))
    rows = zip(names, label, map(str, patients), names, [""] * len(names), strict=True)
    table = table_of(*rows)
    groups = group_images(table)
    split = split_by_ratio(table, groups, ratios=RATIOS, seed=0)
    counts = pd.crosstab(table["label"], split, normalize="index")
    assert np.abs(counts[list(SPLITS)].to_numpy() - RATIOS).max() < 0.001
    assert crossings(table, split) == 0


@pytest.mark.parametrize(
    "ratios",
    [(0.7, 0.2, 0.2), (0.7, 0.3, 0.0), (1.2, -0.1, -0.1), (0.7, 0.15, float("nan")), (0.5, 0.5)],
)
def test_ratios_must_be_positive_and_one_together(ratios: tuple[float, float, float]) -> None:
    table = random_table(0)
    with pytest.raises(MedlensError, match="shares of train, val and test"):
        split_by_ratio(table, group_images(table), ratios=ratios, seed=0)


def test_columns_of_other_rows_are_refused() -> None:
    table = random_table(0)
    groups = group_images(table)
    with pytest.raises(ValueError, match="index"):
        split_by_ratio(table.iloc[5:], groups, ratios=RATIOS, seed=0)
    with pytest.raises(ValueError, match="index"):
        find_leaks(table.iloc[::-1], groups, table["split"])


def test_three_basophils_are_refused_with_the_ways_out() -> None:
    table = large_singles(300, {"BASOPHIL": 0.01, "EOSINOPHIL": 0.4, "NEUTROPHIL": 0.59})
    groups = group_images(table)
    with pytest.raises(MedlensError) as caught:
        check_class_sizes(table, groups, min_per_class=10)
    error = caught.value
    assert "BASOPHIL" in error.what
    assert "NEUTROPHIL" not in str(error)
    assert "3 images in 3 groups" in error.got
    assert "--drop-class BASOPHIL" in error.fix
    assert "--min-per-class 3" in error.fix
    check_class_sizes(table, groups, min_per_class=3)
    split = split_by_ratio(table, groups, ratios=RATIOS, seed=0)
    assert sorted(split[table["label"] == "BASOPHIL"]) == ["test", "train", "val"]


def test_many_images_of_two_patients_are_too_few() -> None:
    rows = [(f"{i}", "x", f"P{i % 2}", f"{i}", "") for i in range(40)]
    rows += [(f"n{i}", "y", "", f"n{i}", "") for i in range(40)]
    table = table_of(*rows)
    with pytest.raises(MedlensError) as caught:
        check_class_sizes(table, group_images(table), min_per_class=10)
    assert "x: 40 images in 2 groups" in caught.value.got
    # Neither a lower limit nor one class left would help.
    assert "--min-per-class" not in caught.value.fix
    assert "--drop-class" not in caught.value.fix


def test_a_class_of_unreadable_files_only_is_too_small() -> None:
    table = large_singles(90, {"a": 0.4, "b": 0.4, "broken one": 0.2})
    table.loc[table["label"] == "broken one", "unreadable"] = "It is cut short."
    with pytest.raises(MedlensError) as caught:
        check_class_sizes(table, group_images(table), min_per_class=10)
    assert "broken one: 0 images in 0 groups" in caught.value.got
    assert '--drop-class "broken one"' in caught.value.fix


def given_table() -> pd.DataFrame:
    """A clean given split: 40 train, 10 val, 10 test images in each of two classes."""
    rows = []
    for label in ("sick", "well"):
        for number in range(60):
            split = "train" if number < 40 else "val" if number < 50 else "test"
            path = f"{split}/{label}/{number:02}.png"
            rows.append((path, label, f"{label}{number // 2}", f"{label}{number}", split))
    return table_of(*rows).sort_values("path", ignore_index=True)


def row(table: pd.DataFrame, path: str) -> int:
    return int(table.index[table["path"] == path][0])


def leaky_table() -> pd.DataFrame:
    """The given split with one leak of each kind planted."""
    table = given_table()
    copies = {"test/sick/50.png": "train/sick/00.png", "val/well/40.png": "train/well/06.png"}
    for copy, original in copies.items():
        table.loc[row(table, copy), "pixels_sha256"] = table["pixels_sha256"][row(table, original)]
    table.loc[row(table, "test/well/59.png"), "patient"] = "well21"  # whose images are in val
    return table


def test_a_clean_given_split_is_taken_as_it_is() -> None:
    table = given_table()
    groups = group_images(table)
    given = use_given_split(table, groups, ratios=RATIOS, seed=0)
    assert given.carved == ()
    assert given.split.tolist() == table["split"].tolist()
    assert find_leaks(table, groups, table["split"]).groups == ()
    check_split(table, groups, given.split, ["sick", "well"])


def test_planted_leaks_are_found_counted_and_named() -> None:
    table = leaky_table()
    leaks = find_leaks(table, group_images(table), table["split"])
    assert len(leaks.groups) == 3
    assert leaks.copies.files == (
        ("test/sick/50.png", "train/sick/00.png"),
        ("train/well/06.png", "val/well/40.png"),
    )
    assert (leaks.copies.test_in_train, leaks.copies.val_in_train) == (1, 1)
    assert leaks.patients.files == (("test/well/59.png", "val/well/42.png", "val/well/43.png"),)
    assert (leaks.patients.test_in_train, leaks.patients.test_in_val) == (0, 1)
    assert leaks.sizes == {"train": 80, "val": 20, "test": 20}

    with pytest.raises(MedlensError) as caught:
        use_given_split(table, group_images(table), ratios=RATIOS, seed=0)
    error = caught.value
    assert "1 of 20 test files has an identical twin in train" in error.got
    assert "1 of 20 test files is of a patient also in val" in error.got
    assert "--resolve-leaks" in error.fix
    assert "test/sick/50.png (test)" in " ".join(error.names)
    assert ".png" not in str(error)
    assert "well21" not in str(error)


def test_near_duplicates_that_cross_are_counted_without_those_that_have_a_twin() -> None:
    table = given_table()
    near = ("train/sick/00.png", "val/sick/40.png", "test/sick/50.png", "test/well/50.png")
    table.loc[table["path"].isin(near), "near_copies"] = "one picture"
    leaks = find_leaks(table, group_images(table), table["split"])
    crossing = leaks.near_copies
    assert crossing.files == (tuple(sorted(near)),)
    assert (crossing.test_in_train, crossing.test_in_val, crossing.val_in_train) == (2, 2, 1)
    assert leaks.copies.files == leaks.patients.files == ()
    with pytest.raises(MedlensError) as caught:
        refuse_leaks(leaks)
    assert "2 of 20 test files have a near-duplicate in train" in caught.value.got
    assert "--resolve-leaks" in caught.value.fix

    # Twins of the train image: what crosses from train to them is said of copies already.
    original = table["pixels_sha256"][row(table, near[0])]
    for path in near[2:]:
        table.loc[row(table, path), "pixels_sha256"] = original
    crossing = find_leaks(table, group_images(table), table["split"]).near_copies
    assert (crossing.test_in_train, crossing.test_in_val, crossing.val_in_train) == (0, 2, 1)
    table.loc[row(table, near[1]), "pixels_sha256"] = original
    crossing = find_leaks(table, group_images(table), table["split"]).near_copies
    assert crossing.files == ()


def test_resolving_leaks_takes_out_near_duplicates_too() -> None:
    table = given_table()
    table.loc[table["path"].isin(["train/sick/00.png", "test/sick/50.png"]), "near_copies"] = "one"
    table.loc[table["path"].isin(["train/sick/04.png", "val/sick/40.png"]), "near_copies"] = "two"
    groups = group_images(table)
    resolved = resolve_leaks(table, groups)
    assert resolved.removed == {"train": {"sick": 2}, "val": {}}  # with the patient's other image
    assert resolved.moved == {"sick": 2}
    kept = resolved.table
    check_split(kept, groups[kept.index], kept["split"], ["sick", "well"])


def test_unknown_patients_are_no_leak() -> None:
    table = given_table().assign(patient="")
    leaks = find_leaks(table, group_images(table), table["split"])
    assert leaks.groups == leaks.patients.files == leaks.copies.files == ()


def test_a_patient_in_all_three_splits_stays_in_test_alone() -> None:
    table = given_table()
    for path in ("train/sick/00.png", "val/sick/40.png", "test/sick/50.png"):
        table.loc[row(table, path), "patient"] = "everywhere"
    resolved = resolve_leaks(table, group_images(table))
    assert resolved.removed == {"train": {"sick": 1}, "val": {"sick": 1}}
    assert resolved.moved == {}
    left = resolved.table[resolved.table["patient"] == "everywhere"]
    assert left["path"].tolist() == ["test/sick/50.png"]


def test_a_leak_through_a_chain_is_found() -> None:
    """The test image's patient has a copy in train of another patient's image."""
    table = given_table()
    table.loc[row(table, "train/sick/00.png"), "pixels_sha256"] = "twin"
    table.loc[row(table, "test/sick/50.png"), "pixels_sha256"] = "twin"
    leaks = find_leaks(table, group_images(table), table["split"])
    assert {path for path, _ in leaks.files[0]} == {
        "train/sick/00.png",
        "train/sick/01.png",
        "test/sick/50.png",
        "test/sick/51.png",
    }


def test_resolving_leaks_keeps_test_whole_and_moves_val_to_train() -> None:
    table = leaky_table()
    groups = group_images(table)
    resolved = resolve_leaks(table, groups)
    kept = resolved.table
    gone = set(table["path"]) - set(kept["path"])
    # The copy and the other image of its patient; the val images of the patient in test.
    assert gone == {
        *("train/sick/00.png", "train/sick/01.png", "val/well/42.png", "val/well/43.png")
    }
    assert resolved.removed == {"train": {"sick": 2}, "val": {"well": 2}}
    assert resolved.moved == {"well": 2}
    moved = kept["path"].isin(["val/well/40.png", "val/well/41.png"])
    assert set(kept["split"][moved]) == {"train"}
    assert (kept["split"] == "test").sum() == 20
    assert crossings(kept, kept["split"]) == 0
    given = use_given_split(kept, groups[kept.index], ratios=RATIOS, seed=0)
    check_split(kept, groups[kept.index], given.split, ["sick", "well"])
    assert kept["path"].tolist() == table["path"][kept.index].tolist()


@pytest.mark.parametrize("seed", range(20))
def test_resolving_a_random_split_leaves_no_leak_and_all_of_test(seed: int) -> None:
    table = random_table(seed)
    generator = np.random.default_rng(seed)
    groups = group_images(table)
    # Whole groups first, then strays: some groups cross, none of the classes is emptied.
    split = split_by_ratio(table, groups, ratios=RATIOS, seed=seed)
    strays = generator.random(len(table)) < 0.02
    table["split"] = split.mask(strays, "train")
    resolved = resolve_leaks(table, groups)
    kept = resolved.table
    assert crossings(kept, kept["split"]) == 0
    assert set(table["path"][table["split"] == "test"]) == set(
        kept["path"][kept["split"] == "test"]
    )
    removed = sum(sum(counts.values()) for counts in resolved.removed.values())
    assert len(kept) == len(table) - removed
    # Nothing is taken that was not tied to test.
    tied = groups.isin(groups[table["split"] == "test"]) & (table["split"] != "test")
    assert removed == tied.sum()


def test_a_class_emptied_by_resolving_is_an_error() -> None:
    table = given_table()
    in_val = (table["split"] == "val") & (table["label"] == "well")
    table.loc[in_val, "patient"] = table["patient"][row(table, "test/well/50.png")]
    with pytest.raises(MedlensError) as caught:
        resolve_leaks(table, group_images(table))
    assert "well from val" in caught.value.what
    assert "all 10 val images of well" in caught.value.got
    assert "sick" not in str(caught.value)


@pytest.mark.parametrize(
    ("missing", "shares"),
    [
        ("val", {"train": 0.7 / 0.85, "val": 0.15 / 0.85}),
        ("test", {"train": 0.7 / 0.85, "test": 0.15 / 0.85}),
        ("val and test", {"train": 0.7, "val": 0.15, "test": 0.15}),
    ],
)
def test_missing_splits_are_carved_out_of_train(missing: str, shares: dict[str, float]) -> None:
    table = given_table()
    table = table[~table["split"].isin(missing.split(" and "))].reset_index(drop=True)
    groups = group_images(table)
    given = use_given_split(table, groups, ratios=RATIOS, seed=0)
    assert given.carved == tuple(missing.split(" and "))
    kept = table["split"] != "train"
    assert given.split[kept].tolist() == table["split"][kept].tolist()
    for label in ("sick", "well"):
        carved = given.split[(table["split"] == "train") & (table["label"] == label)]
        for name, share in shares.items():
            assert abs((carved == name).sum() - 40 * share) <= 2  # patients of two images
    check_split(table, groups, given.split, ["sick", "well"])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda table: table.assign(split=table["split"].where(table.index != 7, "")), "no split"),
        (lambda table: table.assign(split=table["split"].replace("val", "dev")), "unknown words"),
        (lambda table: table.assign(split=table["split"].replace("train", "val")), "to train on"),
        (lambda table: table.assign(split=""), "no split"),
    ],
)
def test_an_incomplete_given_split_is_refused(
    change: Callable[[pd.DataFrame], pd.DataFrame], message: str
) -> None:
    table = change(given_table())
    with pytest.raises(MedlensError, match=message):
        use_given_split(table, group_images(table), ratios=RATIOS, seed=0)


def test_an_unreadable_file_needs_no_split_and_leaks_nothing() -> None:
    table = leaky_table()
    broken = table["path"].isin(["test/sick/50.png", "val/well/40.png", "test/well/59.png"])
    table.loc[broken, "unreadable"] = "It is cut short."
    table.loc[broken, "pixels_sha256"] = ""
    table.loc[row(table, "test/sick/50.png"), "split"] = ""
    groups = group_images(table)
    assert find_leaks(table, groups, table["split"]).groups == ()
    given = use_given_split(table, groups, ratios=RATIOS, seed=0)
    assert (given.split == "").sum() == 3


def test_a_class_missing_from_a_split_is_named() -> None:
    table = given_table()
    table = table[~((table["split"] == "val") & (table["label"] == "sick"))]
    groups = group_images(table)
    given = use_given_split(table, groups, ratios=RATIOS, seed=0)
    with pytest.raises(MedlensError) as caught:
        check_split(table, groups, given.split, ["sick", "well"])
    assert "sick in val" in caught.value.what
    assert "40 train, 0 val, 10 test, from 25 groups" in caught.value.got
    # With one class left there is nothing to learn.
    assert "--drop-class" not in caught.value.fix


def test_a_class_missing_from_a_split_can_be_dropped_where_two_are_left() -> None:
    table = large_singles(90, {"a": 1 / 3, "b": 1 / 3, "c": 1 / 3})
    split = pd.Series([SPLITS[number % 3] for number in range(90)], index=table.index)
    split = split.mask((table["label"] == "b") & (split == "test"), "train")
    with pytest.raises(MedlensError, match="b in test") as caught:
        check_split(table, group_images(table), split, ["a", "b", "c"])
    assert "--drop-class b," in caught.value.fix


def test_a_split_without_an_image_is_said_plainly() -> None:
    table = given_table()
    with pytest.raises(MedlensError, match="split has no test images") as caught:
        split = table["split"].replace("test", "train")
        check_split(table, group_images(table), split, ["sick", "well"])
    assert caught.value.got == "100 train, 20 val, 0 test"
    assert "--drop-class" not in caught.value.fix


def test_check_split_refuses_a_group_in_two_splits() -> None:
    table = random_table(2)
    groups = group_images(table)
    split = split_by_ratio(table, groups, ratios=RATIOS, seed=0)
    largest = groups.value_counts().index[0]
    first = groups.index[groups == largest][0]
    split[first] = "val" if split[first] != "val" else "test"
    with pytest.raises(MedlensError, match="leaks"):
        check_split(table, groups, split, sorted(set(table["label"])))
    with pytest.raises(MedlensError, match="unknown words"):
        check_split(table, groups, split.replace("val", "dev"), sorted(set(table["label"])))


def test_splits_csv_comes_back_as_it_went(tmp_path: Path) -> None:
    table = random_table(3)
    table["path"] = [f'dir/{i:04}, "odd" ä.png' for i in range(len(table))]
    table.loc[4, ["unreadable", "pixels_sha256"]] = ["It is cut short.", ""]
    split = split_by_ratio(table, group_images(table), ratios=RATIOS, seed=0)
    path = tmp_path / "splits.csv"
    path.write_text(splits_to_csv(table, split), encoding="utf-8")
    assert read_splits(path, table).tolist() == split.tolist()
    again = table.sample(frac=1, random_state=0)
    assert read_splits(path, again).to_dict() == split.to_dict()
    assert path.read_text(encoding="utf-8") == splits_to_csv(again, split)


def test_splits_csv_after_resolving_leaks_can_be_handed_back(tmp_path: Path) -> None:
    table = leaky_table()
    resolved = resolve_leaks(table, group_images(table))
    text = splits_to_csv(table, resolved.table["split"])
    assert text.count(",excluded\n") == 4
    path = tmp_path / "splits.csv"
    path.write_text(text, encoding="utf-8")
    split = read_splits(path, table)
    assert split[split != ""].to_dict() == resolved.table["split"].to_dict()


def edited(text: str, old: str, new: str) -> str:
    assert old in text
    return text.replace(old, new)


@pytest.mark.parametrize(
    ("edit", "message", "name"),
    [
        (lambda t: edited(t, "test/sick/50.png,test\n", ""), "lacks images", "test/sick/50.png"),
        (lambda t: t + "other.png,train\n", "not in the data set", "other.png"),
        (lambda t: t + "test/sick/50.png,test\n", "more than once", "test/sick/50.png"),
        (lambda t: edited(t, "50.png,test", "50.png,dev"), "unknown words", "50.png: dev"),
        (lambda t: edited(t, "50.png,test", "50.png,"), "unknown words", "50.png: "),
        (lambda t: edited(t, "sick/50.png,test", "sick/50.png,train"), "leaks", "50.png (train)"),
        (lambda t: t.removeprefix("path,split\n"), "lacks the columns", "splits.csv"),
        (lambda t: "", "cannot be read", "splits.csv"),
        (lambda t: 'path,split\n"a.png,train\n', "cannot be read", "splits.csv"),
    ],
)
def test_a_wrong_splits_csv_is_refused_and_its_lines_named(
    edit: Callable[[str], str], message: str, name: str, tmp_path: Path
) -> None:
    table = given_table()
    path = tmp_path / "splits.csv"
    path.write_text(edit(splits_to_csv(table, table["split"])), encoding="utf-8")
    with pytest.raises(MedlensError, match=message) as caught:
        read_splits(path, table)
    assert any(name in one for one in caught.value.names)
    assert ".png" not in str(caught.value)


def test_a_splits_csv_that_is_not_there_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(MedlensError, match="cannot be read"):
        read_splits(tmp_path / "splits.csv", given_table())


@pytest.mark.parametrize("missing", ["test", "val"])
def test_a_splits_csv_without_a_split_says_so(missing: str, tmp_path: Path) -> None:
    table = given_table()
    path = tmp_path / "splits.csv"
    path.write_text(splits_to_csv(table, table["split"].replace(missing, "train")))
    with pytest.raises(MedlensError, match=f"The split has no {missing} images") as caught:
        read_splits(path, table)
    assert "--drop-class" not in caught.value.fix
    assert missing in caught.value.fix


def test_a_splits_csv_that_leaks_is_not_sent_to_an_option_that_passes_it_over(
    tmp_path: Path,
) -> None:
    table = leaky_table()
    path = tmp_path / "splits.csv"
    path.write_text(splits_to_csv(table, table["split"]))
    with pytest.raises(MedlensError, match="leaks") as caught:
        read_splits(path, table)
    assert "--resolve-leaks" not in caught.value.fix
    assert "excluded" in caught.value.fix


def test_a_splits_csv_may_call_the_splits_as_people_do(tmp_path: Path) -> None:
    table = given_table()
    text = splits_to_csv(table, table["split"]).replace("path,split", "File, Split ")
    for old, new in ((",train\n", ",Training\n"), (",val\n", ",VALID\n"), (",test\n", ", Test\n")):
        text = edited(text, old, new)
    text = edited(text, "test/sick/51.png, Test", "test/sick/51.png,Excluded")
    path = tmp_path / "splits.csv"
    path.write_text(text)
    split = read_splits(path, table)
    assert split[row(table, "test/sick/51.png")] == ""
    assert split[split != ""].to_dict() == table["split"][split != ""].to_dict()


def test_a_splits_csv_of_excel_is_read(tmp_path: Path) -> None:
    table = given_table()
    path = tmp_path / "splits.csv"
    text = splits_to_csv(table, table["split"]).replace("\n", "\r\n")
    path.write_bytes(text.encode("utf-8-sig"))
    assert read_splits(path, table).tolist() == table["split"].tolist()


def test_conflicting_labels_are_marked_on_all_copies() -> None:
    table = table_of(
        ("a", "x", "", "1", ""),
        ("b", "y", "", "1", ""),
        ("c", "x", "", "2", ""),
        ("d", "x", "", "2", ""),
        ("e", "x", "", "", ""),
        ("f", "y", "", "", ""),
    )
    table.loc[[4, 5], "unreadable"] = "It is cut short."
    assert has_conflict(table).tolist() == [True, True, False, False, False, False]


def decoded_table(folder: Path) -> pd.DataFrame:
    """The table of a folder of pictures with a labels.csv, pixels hashed by Pillow alone."""
    table = pd.read_csv(folder / "labels.csv").rename(columns={"file": "path"})
    hashes = []
    for path in table["path"]:
        with Image.open(folder / path) as picture:
            pixels = picture.convert("RGB")
        hashes.append(hashlib.sha256(f"{pixels.size}".encode() + pixels.tobytes()).hexdigest())
    return table.assign(pixels_sha256=hashes, near_copies="", patient="", unreadable="")


@pytest.mark.shared_data
def test_the_known_leaks_of_pneumoniamnist(shared: Path) -> None:
    table = decoded_table(shared / "data" / "pneumoniamnist")
    groups = group_images(table)
    assert (table["pixels_sha256"].value_counts() > 1).sum() == 27
    leaks = find_leaks(table, groups, table["split"])
    assert len(leaks.copies.files) == 8
    assert leaks.copies.val_in_train == 8
    assert leaks.copies.test_in_train == leaks.copies.test_in_val == 0
    resolved = resolve_leaks(table, groups)
    assert resolved.moved == {"pneumonia": 8}
    assert resolved.removed == {"train": {}, "val": {}}
    kept = resolved.table
    given = use_given_split(kept, groups[kept.index], ratios=RATIOS, seed=0)
    assert given.split.value_counts().to_dict() == {"train": 4716, "test": 624, "val": 516}


@pytest.mark.slow
@pytest.mark.shared_data
def test_the_known_leaks_of_brain_mri(shared: Path) -> None:
    table = decoded_table(shared / "data" / "brain_mri_4class")
    groups = group_images(table)
    copies = table["pixels_sha256"].value_counts()
    assert ((copies > 1).sum(), len(table) - len(copies)) == (300, 426)
    leaks = find_leaks(table, groups, table["split"])
    assert len(leaks.groups) == 189
    assert (leaks.copies.test_in_train, leaks.sizes["test"]) == (216, 1311)
    with pytest.raises(MedlensError, match="leaks"):
        refuse_leaks(leaks)
    resolved = resolve_leaks(table, groups)
    kept = resolved.table
    assert (kept["split"] == "test").sum() == 1311
    given = use_given_split(kept, groups[kept.index], ratios=RATIOS, seed=0)
    assert given.carved == ("val",)
    check_split(kept, groups[kept.index], given.split, sorted(set(table["label"])))
