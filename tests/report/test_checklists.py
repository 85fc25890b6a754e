"""The checklists are whole, and nothing is called done that the run did not do."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable
from typing import Any

import pandas as pd
import pytest

from medlens.errors import MedlensError
from medlens.files import write_json, write_text
from medlens.report.checklists import (
    AUTHOR,
    AUTHORS_ANSWER,
    DONE,
    NOT_APPLICABLE,
    TOPICS,
    count_answers,
    fill_checklists,
)
from medlens.report.study import read_checklists
from medlens.run_dir import RunDir

Change = Callable[[RunDir], None]
TRIPOD = (
    "1 2 3a 3b 3c 4 5a 5b 6a 6b 6c 7 8a 8b 8c 9a 9b 9c 10 11 12a 12b 12c 12d 12e 12f 12g 13 14 15 "
    "16 17 18a 18b 18c 18d 18e 18f 19 20a 20b 20c 21 22 23a 23b 24 25 26 27a 27b 27c"
)
ANCHORS = {
    *("summary", "flow", "table1", "disjointness", "findings", "training", "performance"),
    *("calibration", "operating-point", "prediction-sets", "unfamiliar", "subgroups", "probes"),
    *("failures", "label-suspects", "robustness", "external", "methods", "checklists"),
    *("environment", ""),
}
M = {"value": 0.8, "ci95": [0.7, 0.9], "n": 30, "groups": 12, "method": "Wilson"}
SHIFT = {"is_shifted": True, "text": "moved", "p": 0.001}


def filled(run: RunDir) -> dict[str, dict[str, Any]]:
    return {item["id"]: item for one in fill_checklists(run) for item in one["items"]}


def change(run: RunDir, **values: Any) -> None:
    """Set blocks of evaluation.json; None deletes one."""
    content = json.loads(run.evaluation.read_text(encoding="utf-8")) | values
    write_json(run.evaluation, {key: value for key, value in content.items() if value is not None})


def change_training(run: RunDir, **values: Any) -> None:
    write_json(run.training, json.loads(run.training.read_text(encoding="utf-8")) | values)


def change_patients(run: RunDir, known: Callable[[pd.DataFrame], Any]) -> None:
    images = pd.read_csv(run.dataset, dtype=str, keep_default_na=False)
    images = images.assign(patient=images["patient"].where(known(images), ""))
    write_text(run.dataset, images.to_csv(index=False))


def write_external(run: RunDir) -> None:
    write_json(
        run.external / "clinic" / "evaluation.json",
        {"test": {"n": 30, "groups": 12, "accuracy": M}, "class_balance_shift": SHIFT},
    )


def fold(run: RunDir) -> None:
    """Make of a run with a test set one that was cross-validated."""
    evaluation = json.loads(run.evaluation.read_text(encoding="utf-8"))
    evaluation["out_of_fold"] = evaluation.pop("test")
    write_json(run.evaluation, evaluation)
    write_text(run.config, "folds = 5\n")
    splits = pd.read_csv(run.splits)
    write_text(run.splits, splits.replace({"split": {"test": "train"}}).to_csv(index=False))


def test_claim_and_tripod_are_complete() -> None:
    claim, tripod = read_checklists()
    assert [item.number for item in claim.items] == [str(number) for number in range(1, 45)]
    assert [item.number for item in tripod.items] == TRIPOD.split()
    assert all(item.id == f"claim_{item.number}" for item in claim.items)
    assert all(item.id == f"tripod_{item.number}" for item in tripod.items)
    assert "2024" in claim.version + tripod.version
    assert all("doi:10." in one.source for one in (claim, tripod))


def test_every_topic_is_known_and_every_question_is_asked_once() -> None:
    items = {item.id: item for one in read_checklists() for item in one.items}
    assert {item.topic for item in items.values()} - {""} == set(TOPICS)
    for item in items.values():
        assert not (item.ask and item.same_as)
        assert item.topic or item.ask or item.same_as
        if item.same_as:
            assert items[item.same_as].ask


def test_every_item_has_an_answer_a_text_and_a_place_that_is_there(own_run: RunDir) -> None:
    for item in filled(own_run).values():
        assert item["answer"] in (DONE, AUTHOR, NOT_APPLICABLE)
        assert item["text"].endswith((".", "?"))
        assert item["anchor"] in ANCHORS
        assert item["anchor"] or item["answer"] != DONE
        assert "[@" not in item["text"]
        assert not re.search(r"\b(None|nan|NaN)\b|\(\)|  |\.\.|: \.", item["text"]), item


def test_the_answers_are_counted(own_run: RunDir) -> None:
    for one in fill_checklists(own_run):
        counts = count_answers(one)
        assert sum(counts.values()) == len(one["items"])
        assert counts[DONE] > 10
        assert counts[AUTHOR] > 20


def test_the_numbers_are_those_of_the_run(own_run: RunDir) -> None:
    items = filled(own_run)
    test = json.loads(own_run.evaluation.read_text(encoding="utf-8"))["test"]
    accuracy = f"{100 * test['accuracy']['value']:.1f}"
    for name in ("claim_32", "claim_37", "tripod_23a"):
        assert accuracy in items[name]["text"]
        assert "95 % interval" in items[name]["text"]
    assert f"{test['n']} images of {test['groups']} groups" in items["claim_32"]["text"]
    assert items["claim_20"]["answer"] == DONE
    assert items["claim_20"]["text"].startswith("No patient and no copy")
    assert "Training: 105 images in 42 groups (healthy 35, mass 35" in items["tripod_21"]["text"]


NOT_DONE: dict[str, tuple[Change, tuple[str, ...]]] = {
    "no robustness": (lambda run: change(run, robustness=None), ("claim_30",)),
    "no heat maps": (lambda run: change(run, saliency=None), ("claim_31", "claim_39")),
    "no external test": (lambda run: None, ("claim_33",)),
    "no patients": (
        lambda run: change_patients(run, lambda table: table.index < 0),
        ("claim_20", "claim_35", "tripod_20a"),
    ),
    "patients of some images": (
        lambda run: change_patients(run, lambda table: table.index > 9),
        ("claim_20", "claim_35", "tripod_20a"),
    ),
    "weights of unknown origin": (
        lambda run: change_training(run, weights="file", weights_sha256="ab" * 32),
        ("claim_24",),
    ),
    "no calibration": (lambda run: change(run, calibration=None), ("tripod_12e",)),
    "no subgroups": (
        lambda run: change(run, subgroups=[]),
        ("tripod_12d", "tripod_14", "tripod_23a", "tripod_23b"),
    ),
    "subgroups that are neither people nor places": (
        lambda run: change(
            run, subgroups=[{"column": name} for name in ("body_site", "contrast_agent", "stage")]
        ),
        ("tripod_12d", "tripod_14", "tripod_23b"),
    ),
    "no limit of the unfamiliar": (
        lambda run: change(run, unfamiliar=None),
        ("tripod_20c", "tripod_27a"),
    ),
    "no class of interest": (
        lambda run: change(run, operating_point={"threshold": None, "reason": "none is named"}),
        ("claim_38",),
    ),
    "no classifier": (lambda run: shutil.rmtree(run.classifier), ("tripod_22",)),
    "an external test of another balance": (write_external, ("tripod_16",)),
}


@pytest.mark.parametrize("what", NOT_DONE)
def test_what_was_not_done_is_for_the_author(own_run: RunDir, what: str) -> None:
    edit, names = NOT_DONE[what]
    edit(own_run)
    items = filled(own_run)
    questions = {item.id: item for one in read_checklists() for item in one.items}
    for name in names:
        assert items[name]["answer"] == AUTHOR, name
        item = questions[name]
        asked = item.ask or questions[item.same_as].ask
        assert items[name]["text"].endswith(asked[1:]), name


DONE_BY: dict[str, tuple[Change, dict[str, str]]] = {
    "robustness": (lambda run: None, {"claim_30": "blur, noise, JPEG"}),
    "heat maps": (lambda run: None, {"claim_31": "heat maps", "claim_39": "confused"}),
    "an external test": (write_external, {"claim_33": "30 images of 12 groups, accuracy 80.0"}),
    "random weights": (lambda run: None, {"claim_24": "were random, not pretrained"}),
    "ImageNet": (
        lambda run: change_training(run, weights="imagenet"),
        {"claim_24": "pretrained on ImageNet"},
    ),
    "subgroups of people": (
        lambda run: change(run, subgroups=[{"column": "sex"}, {"column": "age_years"}]),
        {"tripod_14": "sex and age_years", "tripod_23a": "sex and age_years"},
    ),
    "subgroups by centre": (
        lambda run: change(run, subgroups=[{"column": "Centre_ID"}]),
        {"tripod_12d": "Centre_ID", "tripod_23b": "Centre_ID"},
    ),
    "calibration": (lambda run: None, {"tripod_12e": "reliability diagram"}),
    "an operating point": (lambda run: None, {"claim_38": "operating point for mass"}),
    "folds": (
        fold,
        {"claim_19": "5-fold", "claim_20": "set or fold", "claim_32": "Tested in cross-validation"},
    ),
}


@pytest.mark.parametrize("what", DONE_BY)
def test_what_was_done_is_said(own_run: RunDir, what: str) -> None:
    edit, said = DONE_BY[what]
    edit(own_run)
    items = filled(own_run)
    for name, words in said.items():
        assert items[name]["answer"] == DONE, name
        assert words in items[name]["text"].replace("\N{NO-BREAK SPACE}", " "), name


def test_a_run_in_folds_never_speaks_of_a_test_set(own_run: RunDir) -> None:
    fold(own_run)
    for item in filled(own_run).values():
        assert "internal test" not in item["text"] or item["id"] == "tripod_16", item


def test_without_calibration_no_probability_is_called_calibrated(own_run: RunDir) -> None:
    change(own_run, calibration=None, operating_point=None, prediction_sets=None, unfamiliar=None)
    for item in filled(own_run).values():
        words = re.findall(r"\w*calibrated", item["text"])
        assert "not recalibrated" in item["text"] if words else True, item


def test_sets_that_share_a_group_are_not_called_disjoint(own_run: RunDir) -> None:
    images = pd.read_csv(own_run.dataset)
    several = images.loc[images["group"].duplicated(keep=False), "path"].iloc[0]
    splits = pd.read_csv(own_run.splits)
    row = splits["path"] == several
    splits.loc[row, "split"] = splits.loc[row, "split"].map(
        {"train": "test", "val": "test", "test": "train"}
    )
    write_text(own_run.splits, splits.to_csv(index=False))
    item = filled(own_run)["claim_20"]
    assert item["answer"] == AUTHOR
    assert "not disjoint" in item["text"]


def test_the_authors_answers_stand_in_both_checklists(own_run: RunDir) -> None:
    answers = (
        'claim_44 = "Nobody <b>paid</b>."\nclaim_7 = "Two hospitals."\nclaim_30 = "Also by hand."\n'
    )
    write_text(own_run.study, answers + 'tripod_18d = "NCT0"\nclaim_27 = "No."\n')
    items = filled(own_run)
    for name in ("claim_44", "tripod_18a"):
        assert (items[name]["answer"], items[name]["text"]) == (
            AUTHORS_ANSWER,
            "Nobody <b>paid</b>.",
        )
    for name in ("claim_7", "tripod_5a"):
        assert items[name]["answer"] == AUTHORS_ANSWER
        assert items[name]["text"].startswith("Two hospitals. medlens adds: The data set held 150")
    assert items["claim_30"]["answer"] == DONE
    assert items["claim_30"]["text"].endswith("The author adds: Also by hand.")
    assert items["tripod_18d"]["text"] == "NCT0"
    assert items["claim_34"]["answer"] == AUTHOR
    assert items["claim_27"]["answer"] == AUTHORS_ANSWER


def test_no_file_name_and_no_patient_is_told(own_run: RunDir) -> None:
    said = " ".join(item["text"] for item in filled(own_run).values())
    images = pd.read_csv(own_run.dataset, dtype=str, keep_default_na=False)
    names = {*images["path"], *(path.rpartition("/")[2] for path in images["path"])}
    assert [name for name in names | set(images["patient"]) if name in said] == []


def test_a_wrong_study_file_is_refused(own_run: RunDir) -> None:
    write_text(own_run.study, 'claim_99 = "x"\n')
    with pytest.raises(MedlensError, match="in no checklist"):
        fill_checklists(own_run)


def test_an_unfinished_run_is_refused(own_run: RunDir) -> None:
    own_run.splits.unlink()
    with pytest.raises(MedlensError, match="not finished"):
        fill_checklists(own_run)
