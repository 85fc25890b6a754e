from __future__ import annotations

from typing import Any

from medlens.report.sections import Section, list_sections, picture_caption

M = {"value": 0.8, "ci95": [0.7, 0.9], "n": 10, "groups": 5, "method": "m"}
NONE = {"value": None, "reason": "no image of class ill"}
RESULT = {"n": 10, "groups": 5, "confusion_matrix": [[3, 2], [0, 5]]}
EVALUATION: dict[str, Any] = {"classes": ["ill", "well"], "test": RESULT}


def by_id(evaluation: dict[str, Any], **further: Any) -> dict[str, Section]:
    return {one.id: one for one in list_sections({**EVALUATION, **evaluation}, **further)}


def test_only_blocks_that_are_there_become_sections() -> None:
    assert list(by_id({})) == ["failures"]
    point = {"threshold": None, "reason": "no class of interest is named"}
    found = by_id({"operating_point": point, "robustness": None, "subgroups": []})
    assert list(found) == ["operating-point", "subgroups", "failures"]
    assert "no class of interest" in found["operating-point"].text[0]
    assert "is not known" in found["subgroups"].text[0]


def test_the_most_confused_pairs_are_counted() -> None:
    (table,) = by_id({})["failures"].tables
    assert table.rows == (("ill", "well", "2", "40.0\u00a0%"),)


def test_what_cannot_be_measured_keeps_its_reason() -> None:
    block = {"before": dict.fromkeys(("brier", "ece", "log_loss", "slope", "intercept"), NONE)}
    block["after"] = block["before"]
    content = {"temperature": 1.5, "text": "Fitted on val.", "reliability": {"after": []}, **block}
    (table,) = by_id({"calibration": content})["calibration"].tables
    cell = table.rows[0][1]
    assert not isinstance(cell, str)
    assert cell.reason == "no image of class ill"


def test_probabilities_are_never_certain_by_rounding() -> None:
    block = {"before": dict.fromkeys(("brier", "ece", "log_loss", "slope", "intercept"), M)}
    bins = [{"low": 0.99961, "high": 1 - 1e-9, "mean_probability": 0.9999, "n": 9, "share": M}]
    content = {"temperature": 1.5, "text": "", "reliability": {"after": bins}, **block}
    section = by_id({"calibration": {**content, "after": block["before"]}})["calibration"]
    assert section.tables[1].rows[0][:3] == ("0.9996 to close to 1", "9", "0.9999")


def test_the_words_under_a_picture() -> None:
    image = {"label": "a", "predicted": "b", "probability": 0.9, "why": "worst error"}
    assert picture_caption(image) == (
        "Worst error: labelled a, predicted b with a probability of 0.900."
    )


def test_an_external_test_stands_beside_the_internal_one() -> None:
    measures = {"accuracy": M, "balanced_accuracy": M, "roc_auc_macro": M}
    external = {
        "test": {"n": 20, "groups": 7, **measures, "accuracy": NONE},
        "internal": measures,
        "class_balance_shift": {"text": "The classes are balanced otherwise."},
        "calibration": {"after": {"slope": M, "ece": M}},
        "unfamiliar": {"share": M},
        "prediction_sets": {"levels": {"0.9": {"coverage": M}}},
        "operating_point": None,
    }
    section = by_id({}, external={"clinic": external})["external"]
    assert "20 images of 7 groups" in section.text[0]
    name, inside, outside = section.tables[0].rows[0]
    assert (name, inside.value, outside.reason) == (  # type: ignore[union-attr]
        "Accuracy",
        "80.0\u00a0%",
        "no image of class ill",
    )
    assert section.tables[0].head == ("Metric", "Internal", "External")
    assert "left out" not in section.text[0].lower()
    excluded = {"unreadable": 1, "conflicting labels": 2}
    external = {**external, "internal_name": "out_of_fold", "excluded": excluded}
    section = by_id({}, external={"clinic": external})["external"]
    assert section.tables[0].head == ("Metric", "Cross-validation", "External")
    assert "Left out: 2 (conflicting labels), 1 (unreadable)." in section.text[0]
