"""Advice where a run calls for it, and none where it does not."""

from __future__ import annotations

import copy
from typing import Any

from medlens.report.advice import advise


def measure(value: float, reach: float = 0.03) -> dict[str, Any]:
    return {"value": value, "ci95": [value - reach, value + reach]}


FINE: dict[str, Any] = {
    "classes": ["ill", "well", "other"],
    "train": {"accuracy": measure(0.93)},
    "test": {
        "accuracy": measure(0.9),
        "confusion_matrix": [[90, 5, 5], [6, 90, 4], [3, 3, 94]],
    },
    "label_suspects": {"n": 3, "share": 0.01, "text": ""},
}
STOPPED = {"stop_reason": "patience", "best_epoch": 20, "epochs_run": 30}


def test_nothing_is_said_of_a_good_run() -> None:
    assert advise(FINE, STOPPED) == []
    assert advise({**FINE, "label_suspects": {"n": None, "reason": "x"}}, STOPPED) == []


def test_a_constant_answer() -> None:
    run = copy.deepcopy(FINE)
    run["test"]["confusion_matrix"] = [[0, 100, 0], [1, 99, 0], [0, 100, 0]]
    (said,) = advise(run, STOPPED)
    assert "answers well nearly always (299 of 300 images)" in said


def test_a_class_that_is_never_answered() -> None:
    run = copy.deepcopy(FINE)
    run["test"]["confusion_matrix"] = [[90, 10, 0], [10, 90, 0], [50, 50, 0]]
    assert advise(run, STOPPED)[0].startswith("It never answers other.")
    run["test"]["confusion_matrix"][2] = [0, 0, 0]  # there is no image of it
    assert advise(run, STOPPED) == []


def test_overfitting_needs_a_gap_beyond_the_intervals() -> None:
    run = copy.deepcopy(FINE)
    run["train"]["accuracy"] = measure(1.0, 0)
    run["test"]["accuracy"] = measure(0.75, 0.3)
    assert advise(run, STOPPED) == []
    run["test"]["accuracy"] = measure(0.75)
    assert "100.0 % of the training images and in 75.0 %" in advise(run, STOPPED)[0]
    folded = {"out_of_fold" if key == "test" else key: value for key, value in run.items()}
    assert len(advise(folded, STOPPED)) == 1


def test_training_that_was_cut_short_or_was_best_at_once() -> None:
    cut = {"stop_reason": "epochs", "best_epoch": 100, "epochs_run": 100}
    assert "limit of 100 epochs" in advise(FINE, cut)[0]
    assert advise(FINE, {**cut, "best_epoch": 60}) == []
    assert "number 1" in advise(FINE, {**STOPPED, "best_epoch": 1})[0]


def test_labels_at_odds() -> None:
    run = {**FINE, "label_suspects": {"n": 50, "share": 0.05, "text": ""}}
    assert "5.0 % of the training labels" in advise(run, STOPPED)[0]
