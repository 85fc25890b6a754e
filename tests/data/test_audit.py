"""Planted faults are found with their numbers and files; clean data gives no false alarm."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pandas as pd
import pytest

from medlens.data.audit import audit, findings_to_json
from medlens.data.finding import SEVERITIES, Finding
from medlens.data.groups import check_class_sizes, group_images
from medlens.data.scan import NOT_THERE
from medlens.data.split import use_given_split
from medlens.errors import MedlensError

RATIOS = (0.7, 0.15, 0.15)


def clean_table(*, num_images: int = 200, classes: tuple[str, ...] = ("sick", "well")) -> Any:
    """Images of two per patient that differ in nothing but their pixels."""
    generator = np.random.default_rng(0)
    number = np.arange(num_images)
    label = [classes[one // 2 % len(classes)] for one in number]
    return pd.DataFrame(
        {
            "path": [f"{name}/{one:04}.png" for name, one in zip(label, number, strict=True)],
            "label": label,
            "patient": [f"P{one // 2}" for one in number],
            "split": "",
            "sha256": [f"bytes {one}" for one in number],
            "pixels_sha256": [f"pixels {one}" for one in number],
            "width": 512,
            "height": 512,
            "mode": "L",
            "format": "PNG",
            "bytes": generator.integers(90_000, 110_000, num_images),
            "scaling": "none",
            "unreadable": "",
            "levels": 200,
            "mean": generator.normal(120, 10, num_images),
            "spread": generator.normal(40, 5, num_images),
            "border": generator.normal(5, 1, num_images),
            "sharpness": generator.lognormal(-1, 0.4, num_images),
            "near_copies": "",
            "look_alike": "",
            "site": "Eastfield",
        }
    ).sort_values("path", ignore_index=True)


def run(table: pd.DataFrame, *, min_per_class: int = 10) -> dict[str, Finding]:
    """The findings by code, each code once at most."""
    found = audit(table, min_per_class=min_per_class, ratios=RATIOS)
    by_code = {finding.code: finding for finding in found}
    assert len(by_code) == len(found)
    ranks = [SEVERITIES.index(finding.severity) for finding in found]
    assert ranks == sorted(ranks)
    names = [*table["path"], *(one for one in table["patient"] if one)]
    for finding in found:
        said = finding.message + finding.fix
        assert not [name for name in names if name in said.replace(",", " ").split()]
        assert ".png" not in said
        assert set(sum(finding.files, ())) <= set(table["path"])
    json.dumps(findings_to_json(found, table), allow_nan=False)
    return by_code


def broken(table: pd.DataFrame, rows: list[int]) -> pd.DataFrame:
    """The table with some files unreadable, as the scan leaves them."""
    table = table.copy()
    table.loc[rows, "unreadable"] = "It is cut short."
    table.loc[rows, ["pixels_sha256", "patient", "mode", "format"]] = ""
    table.loc[rows, ["width", "height", "levels"]] = 0
    table.loc[rows, ["mean", "border", "sharpness"]] = 0.0
    return table


def test_clean_data_gives_no_finding() -> None:
    assert run(clean_table()) == {}


def test_the_table_is_left_as_it_was() -> None:
    table = clean_table()
    before = table.copy(deep=True)
    audit(table, min_per_class=10, ratios=RATIOS)
    pd.testing.assert_frame_equal(table, before)


def test_up_to_five_per_cent_unreadable_is_a_warning() -> None:
    found = run(broken(clean_table(), list(range(10))))
    finding = found["unreadable"]
    assert finding.severity == "warning"
    assert finding.count == 10
    assert "10 of 200 files (5.0 %) cannot be read: It is cut short (10)" in finding.message
    assert finding.files == tuple((path,) for path in clean_table()["path"][:10])
    assert set(found) == {"unreadable"}


def test_more_than_five_per_cent_unreadable_is_an_error() -> None:
    finding = run(broken(clean_table(), list(range(11))))["too_many_unreadable"]
    assert finding.severity == "error"
    assert "11 of 200" in finding.message


def test_nothing_readable_gives_that_one_error() -> None:
    found = run(broken(clean_table(), list(range(200))))
    assert set(found) == {"too_many_unreadable"}


def test_duplicates_are_counted_by_pixels() -> None:
    table = clean_table()
    table.loc[[1, 2], "pixels_sha256"] = table["pixels_sha256"][0]
    table.loc[11, "pixels_sha256"] = table["pixels_sha256"][10]
    finding = run(table)["duplicate"]
    assert finding.message.startswith("2 groups of identical images hold 3 extra copies")
    assert "197 different images, not 200" in finding.message
    paths = table["path"].tolist()
    assert finding.files == (tuple(paths[:3]), tuple(paths[10:12]))
    assert finding.details == {"groups": 2, "extra_copies": 3}


def test_one_copy_is_said_in_the_singular() -> None:
    table = clean_table()
    table.loc[1, "pixels_sha256"] = table["pixels_sha256"][0]
    message = run(table)["duplicate"].message
    assert message.startswith("1 group of identical images holds 1 extra copy:")


def test_the_same_image_with_two_labels_is_an_error() -> None:
    table = clean_table()
    sick, well = table["path"][0], table["path"][150]
    table.loc[150, "pixels_sha256"] = table["pixels_sha256"][0]
    found = run(broken(table, [99]))
    assert list(found) == ["conflicting_label", "unreadable", "duplicate"]
    finding = found["conflicting_label"]
    assert finding.severity == "error"
    assert finding.files == ((sick, well),)
    assert "1 image with more than one label: 2 identical files" in finding.message
    assert "--drop-conflicts" in finding.fix


def with_near_copies(table: pd.DataFrame, *sets: list[int]) -> pd.DataFrame:
    table = table.copy()
    for rows in sets:
        table.loc[rows, "near_copies"] = table["pixels_sha256"][rows[0]]
    return table


def test_near_duplicates_are_counted_by_picture_not_by_file() -> None:
    table = clean_table()
    table.loc[2, "pixels_sha256"] = table["pixels_sha256"][1]
    table = with_near_copies(table, [0, 1, 2], [10, 11, 12])
    found = run(table)
    assert set(found) == {"duplicate", "near_duplicate"}
    finding = found["near_duplicate"]
    assert finding.severity == "warning"
    assert finding.message.startswith("2 groups of near-duplicates hold 3 extra images:")
    paths = table["path"].tolist()
    assert finding.files == (tuple(paths[:2]), tuple(paths[10:13]))
    assert finding.count == 5
    counts = findings_to_json([], table)["counts"]
    assert (counts["near_duplicate_groups"], counts["extra_near_duplicates"]) == (2, 3)


def test_what_equal_pixels_say_is_not_said_again() -> None:
    """The other near-duplicates were dropped; what is left of the set is one picture, twice."""
    table = clean_table()
    table.loc[1, "pixels_sha256"] = table["pixels_sha256"][0]
    assert set(run(with_near_copies(table, [0, 1]))) == {"duplicate"}


def test_near_duplicates_with_two_labels_are_a_warning() -> None:
    table = with_near_copies(clean_table(), [0, 150], [20, 21])
    finding = run(table)["near_conflict"]
    assert finding.severity == "warning"
    assert finding.files == ((table["path"][0], table["path"][150]),)
    assert "1 group of near-duplicates with more than one label: 2 images" in finding.message


def test_a_label_that_equal_pixels_contradict_is_no_second_conflict() -> None:
    table = clean_table()
    table.loc[150, "pixels_sha256"] = table["pixels_sha256"][0]
    found = run(with_near_copies(table, [0, 1, 150]))
    assert set(found) == {"conflicting_label", "duplicate", "near_duplicate"}


def test_images_that_all_look_alike_are_a_warning_and_tie_nothing() -> None:
    table = clean_table()
    table.loc[:149, "look_alike"] = table["pixels_sha256"][0]
    found = run(table)
    assert set(found) == {"look_alike"}
    finding = found["look_alike"]
    assert finding.severity == "warning"
    assert "150 of 200 images (75.0 %)" in finding.message
    assert finding.files == (tuple(table["path"][:150]),)


def given(table: pd.DataFrame) -> pd.DataFrame:
    """The table with a clean given split, by patient, the same in both classes."""
    place = table.groupby("label").cumcount() // 2 % 10
    return table.assign(
        split=place.map(lambda one: "train" if one < 6 else "val" if one < 8 else "test")
    )


def test_a_clean_given_split_gives_no_finding() -> None:
    table = given(clean_table())
    assert set(table["split"]) == {"train", "val", "test"}
    assert run(table) == {}


def test_copies_and_patients_that_cross_the_given_split_are_errors() -> None:
    table = given(clean_table())
    train, val, test = (table.index[table["split"] == name] for name in ("train", "val", "test"))
    table.loc[test[:3], "pixels_sha256"] = table["pixels_sha256"][train[0]]
    table.loc[val[0], "patient"] = table["patient"][train[4]]
    found = run(table)
    copies = found["leak_duplicate"]
    assert copies.message.startswith("3 of 40 test files have an identical twin in train.")
    assert copies.files == (tuple(sorted(table["path"][[train[0], *test[:3]]])),)
    assert copies.details["test_in_train"] == 3
    patients = found["leak_patient"]
    assert patients.message.startswith("1 of 40 val files is of a patient also in train.")
    assert "1 patient crosses the given split" in patients.message
    for finding in (copies, patients):
        assert finding.severity == "error"
        assert "--resolve-leaks" in finding.fix
    with pytest.raises(MedlensError):
        use_given_split(table, group_images(table), ratios=RATIOS, seed=0)


def test_near_duplicates_that_cross_the_given_split_are_an_error() -> None:
    table = given(clean_table())
    train, test = (table.index[table["split"] == name] for name in ("train", "test"))
    table = with_near_copies(table, [train[0], test[0], test[1]], [train[4], train[5]])
    found = run(table)
    assert set(found) == {"leak_near_duplicate", "near_duplicate"}
    finding = found["leak_near_duplicate"]
    assert finding.severity == "error"
    assert finding.message.startswith("2 of 40 test files have a near-duplicate in train.")
    assert "1 group of near-duplicates crosses the given split" in finding.message
    assert "--resolve-leaks" in finding.fix
    assert finding.count == 3


def test_a_too_small_class_is_the_error_that_stops_the_split() -> None:
    table = clean_table()
    kept = table[(table["label"] == "sick") | (table.index >= 194)].reset_index(drop=True)
    finding = run(kept)["class_too_small"]
    assert finding.severity == "error"
    with pytest.raises(MedlensError) as caught:
        check_class_sizes(kept, group_images(kept), min_per_class=10)
    assert caught.value.got in finding.message
    assert "well: 6 images in 3 groups" in finding.message
    assert finding.fix == caught.value.fix
    assert "class_too_small" not in run(kept, min_per_class=6)


def test_an_incomplete_given_split_is_an_error() -> None:
    table = given(clean_table())
    table.loc[5, "split"] = ""
    finding = run(table)["split_impossible"]
    assert "1 of 200 images without one" in finding.message
    assert finding.files == ((table["path"][5],),)


def test_a_class_missing_from_a_given_split_is_an_error() -> None:
    table = given(clean_table())
    table.loc[(table["split"] == "val") & (table["label"] == "sick"), "split"] = "train"
    finding = run(table)["split_impossible"]
    assert finding.severity == "error"
    assert "sick in val" in finding.message


def test_imbalance_states_the_ratio_and_the_majority_accuracy() -> None:
    table = clean_table(num_images=400)
    rare = table.index[table["label"] == "sick"][:50]
    found = run(table.loc[[*rare, *table.index[table["label"] == "well"]]])
    finding = found["imbalance"]
    assert finding.severity == "warning"
    assert "well has 4.0 times as many images as sick (200 and 50)" in finding.message
    assert "right in 80.0 %" in finding.message
    common = table.index[table["label"] == "sick"][:100]
    note = run(table.loc[[*common, *table.index[table["label"] == "well"]]])["imbalance"]
    assert note.severity == "note"
    assert note.details == {"ratio": 2.0, "majority_accuracy": 0.6667}


@pytest.mark.parametrize(
    ("column", "value", "words"),
    [
        ("mode", "RGB", "Colour mode"),
        ("format", "JPEG", "File format"),
        ("width", 640, "Width"),
        ("bytes", 150_000, "File size"),
        ("mean", 170.0, "Mean brightness"),
        ("border", 90.0, "Border brightness"),
    ],
)
def test_a_fact_that_gives_the_class_away_is_named(column: str, value: Any, words: str) -> None:
    table = clean_table()
    sick = table.index[table["label"] == "sick"]
    changed = sick[:80]
    if pd.api.types.is_numeric_dtype(table[column]) and column != "width":
        generator = np.random.default_rng(1)
        value = value + generator.normal(0, 1, len(changed)).astype(table[column].dtype)
    table.loc[changed, column] = value
    finding = run(table)["class_difference"]
    assert finding.severity == "warning"
    assert f"classes apart. {words}" in finding.message
    assert finding.count == 1
    facts = finding.details["facts"]
    assert max(facts, key=lambda name: facts[name]["cramers_v"]) == column


def test_the_numbers_of_a_difference_are_right() -> None:
    table = clean_table()
    table.loc[table.index[table["label"] == "sick"][:80], "mode"] = "RGB"
    finding = run(table)["class_difference"]
    # 80 of 100 against 0 of 100: chi-square 400/3, so V squared is 2/3 less 1/199 for chance.
    chance = 1 / 199
    expected = np.sqrt((2 / 3 - chance) / (1 - chance))
    assert finding.details["facts"]["mode"]["cramers_v"] == pytest.approx(expected, abs=1e-4)
    assert "100.0 % of well have L, 20.0 % of sick (V 0.82)" in finding.message


def test_a_fact_of_a_few_images_only_counts_though_most_share_one_value() -> None:
    table = clean_table(num_images=1000)
    sick = table.index[table["label"] == "sick"]
    table["border"] = 255.0
    table.loc[sick[:60], "border"] = np.random.default_rng(0).uniform(0, 100, 60)
    note = run(table)["class_difference"]
    assert note.severity == "note"
    assert "Border brightness" in note.message


def test_chance_gives_no_class_difference() -> None:
    """Facts drawn alike for all classes, in tables small and large."""
    alarms = 0
    for seed in range(20):
        generator = np.random.default_rng(seed)
        num_images = int(generator.choice([60, 200, 1000]))
        table = clean_table(num_images=num_images, classes=("a", "b", "c"))
        table["mode"] = generator.choice(["L", "RGB"], num_images)
        table["width"] = generator.integers(300, 900, num_images)
        table["bytes"] = generator.lognormal(10, 1, num_images).astype(int)
        alarms += "class_difference" in run(table)
    assert alarms == 0


def test_facts_that_only_follow_the_patient_are_not_taken_for_more_than_they_are() -> None:
    """Six patients, one mode each: many images, yet hardly more than six draws."""
    table = clean_table(num_images=120)
    patient = table.groupby("label").cumcount() // 20
    table["patient"] = table["label"] + patient.astype(str)
    table["mode"] = np.where((table["label"] == "sick") | (patient == 0), "RGB", "L")
    assert "class_difference" not in run(table)


def test_masks_are_found_by_name_and_by_two_values() -> None:
    table = clean_table()
    table.loc[[4, 120], "path"] = ["sick/a_mask.png", "well/b_mask_1.PNG"]
    table.loc[[4, 7, 8, 9], "levels"] = 2
    found = run(table)
    assert set(found) == {"mask"}
    finding = found["mask"]
    assert finding.severity == "warning"
    assert finding.details == {"by_name": 2, "two_valued": 3}
    assert {path for (path,) in finding.files} == set(table["path"][[4, 120, 7, 8, 9]])


def test_masks_are_found_where_they_are_most_of_the_files() -> None:
    table = clean_table()
    names = [f"{name[:-4]}_mask.png" for name in table["path"][:120]]
    table.loc[:119, "path"] = names
    table.loc[:119, "levels"] = 2
    assert run(table)["mask"].details == {"by_name": 120, "two_valued": 0}


def test_what_all_images_have_in_common_makes_no_mask() -> None:
    table = clean_table().assign(levels=2)
    assert "mask" not in run(table)
    table["path"] = [name.replace(".png", "_mask.png") for name in table["path"]]
    assert "mask" not in run(table)
    table = clean_table()
    table.loc[4, "path"] = "sick/unmasked_man.png"
    assert "mask" not in run(table)


def test_blank_images_are_found() -> None:
    table = clean_table()
    table.loc[[3, 4], "levels"] = 1
    finding = run(table)["blank"]
    assert finding.details == {"classes": {"sick": 2}}
    assert finding.count == 2


def test_unknown_patients_are_said() -> None:
    note = run(clean_table().assign(patient=""))["no_patient"]
    assert note.severity == "note"
    assert "Image-level only" in note.message
    assert "--patient-regex" in note.fix
    table = clean_table()
    table.loc[[5, 6, 7], "patient"] = ""
    some = run(table)["some_patients"]
    assert some.severity == "warning"
    assert "unknown for 3 of 200 images" in some.message


@pytest.mark.parametrize("name", ["PatientID", "subject_id", "Case number", "patient id"])
def test_a_column_that_looks_like_the_patient_is_pointed_to(name: str) -> None:
    table = clean_table()
    ids = table["patient"]
    warning = run(table.assign(patient="", **{name: ids}))["patient_column"]
    assert warning.severity == "warning"
    assert name in warning.message and "name the column patient" in warning.fix
    # Not where the patient is known, where no value repeats, or where it is about something else.
    assert "patient_column" not in run(table.assign(**{name: ids}))
    unique = [str(number) for number in range(len(table))]
    assert "patient_column" not in run(table.assign(patient="", **{name: unique}))
    assert "patient_column" not in run(table.assign(patient="", patient_age=ids))


def test_class_names_that_differ_in_capitals_only_are_pointed_to() -> None:
    table = clean_table()
    assert "alike_classes" not in run(table)
    label = table["label"].iloc[0]
    table.loc[table.index[:60:2], "label"] = f"{label.upper()} "
    warning = run(table)["alike_classes"]
    assert warning.count == 2
    assert f"{label.upper()}  and {label}" in warning.message


def test_files_that_are_not_there_say_from_where_paths_count() -> None:
    table = clean_table()
    table.loc[table.index[:50], "unreadable"] = NOT_THERE
    assert "folder of the CSV" in run(table)["too_many_unreadable"].fix
    table.loc[table.index[:50], "unreadable"] = "it is damaged"
    assert "folder of the CSV" not in run(table)["too_many_unreadable"].fix


def test_one_patient_for_all_images_is_the_cause_that_is_named() -> None:
    """As where anonymising gave all files one PatientID."""
    table = clean_table().assign(patient="removed")
    found = run(table)
    assert next(iter(found)) == "one_patient"
    finding = found["one_patient"]
    assert finding.severity == "error"
    assert "200 of 200 images (100.0 %)" in finding.message
    assert "column patient" in finding.fix
    assert "--patient-regex" in finding.fix
    assert len(finding.files) == 200
    assert "one_patient" not in run(table.assign(patient=clean_table()["path"]))


def test_one_patient_with_most_images_is_a_warning_where_a_split_is_possible() -> None:
    table = clean_table()
    table.loc[table.index % 20 < 11, "patient"] = "P0"
    found = run(table)
    assert found["one_patient"].severity == "warning"
    assert "110 of 200 images (55.0 %)" in found["one_patient"].message
    table.loc[table.index % 20 == 10, "patient"] = "P1"  # half of the images, not more
    assert "one_patient" not in run(table)


def test_patients_in_several_classes_are_a_note() -> None:
    table = clean_table()
    table.loc[150, "patient"] = table["patient"][0]
    finding = run(table)["patient_in_classes"]
    assert finding.severity == "note"
    assert "1 of 100 patients has images in more than one class" in finding.message
    assert len(finding.files) == 1


def test_a_shift_in_class_balance_is_a_note() -> None:
    table = given(clean_table())
    table = table[
        ~((table["split"] == "test") & (table["label"] == "sick") & (table.index % 4 < 2))
    ]
    finding = run(table)["balance_shift"]
    assert finding.severity == "note"
    assert finding.details == {"train": 0.5, "test": 0.3333}


def test_audit_json_counts_the_data_set() -> None:
    table = broken(given(clean_table()), [0])
    table.loc[2, "pixels_sha256"] = table["pixels_sha256"][1]
    content = findings_to_json(audit(table, min_per_class=10, ratios=RATIOS), table)
    counts = content["counts"]
    assert counts["found"] == 200
    assert counts["readable"] == 199
    assert counts["classes"] == {"sick": 99, "well": 100}
    assert counts["patients"] == 100
    assert counts["groups"] == 99  # a copy joins two patients
    assert (counts["duplicate_groups"], counts["extra_copies"]) == (1, 1)
    assert counts["given_split"]["train"] == {"sick": 59, "well": 60}
    assert [one["code"] for one in content["findings"]] == ["unreadable", "duplicate"]
    keys = ["code", "severity", "message", "fix", "count", "details", "files"]
    assert all(list(one) == keys for one in content["findings"])
