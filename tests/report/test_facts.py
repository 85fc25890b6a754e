"""What must be read first is said where the evidence calls for it, and nowhere else."""

from __future__ import annotations

import copy
from typing import Any

import pandas as pd

from medlens.report.facts import evidence_notices, notices


def measure(value: float, low: float, high: float) -> dict[str, Any]:
    return {"value": value, "ci95": [low, high], "n": 200, "groups": 200, "method": "m"}


FINE: dict[str, Any] = {
    "baselines": {"probes": [{"severity": "caution", "text": "Brightness."}]},
    "calibration": {
        "after": {"slope": measure(0.9, 0.7, 1.1), "intercept": measure(0.1, -0.2, 0.4)}
    },
    "operating_point": {
        "threshold": 0.4,
        "development": {"recall": 0.9, "specificity": 0.95},
        "test": {"recall": measure(0.85, 0.75, 0.92), "specificity": measure(0.96, 0.9, 0.98)},
    },
    "unfamiliar": {"test_false_alarms": measure(0.01, 0.002, 0.04)},
    "prediction_sets": {"class_balance_shift": {"is_shifted": False, "text": "No shift."}},
}


def test_nothing_is_said_where_all_is_as_meant() -> None:
    assert evidence_notices(FINE) == []
    none = copy.deepcopy(FINE)
    none["operating_point"] = {"threshold": None, "reason": "no class of interest is named"}
    assert evidence_notices(none) == []


def test_what_is_surely_not_as_meant_is_said() -> None:
    evidence = copy.deepcopy(FINE)
    evidence["calibration"]["after"]["slope"] = measure(0.6, 0.5, 0.8)
    evidence["operating_point"]["test"]["specificity"] = measure(0.8, 0.7, 0.9)
    evidence["unfamiliar"]["test_false_alarms"] = measure(0.07, 0.05, 0.09)
    said = " ".join(evidence_notices(evidence))
    assert "slope 0.600 (95 % interval 0.500 to 0.800), where 1 is meant" in said
    assert "in the large" not in said
    assert "the specificity is 0.800" in said and "it was 0.950" in said
    assert "sensitivity" not in said
    assert "7.0 % of the images tested" in said


def images(count: int, groups: int) -> pd.DataFrame:
    return pd.DataFrame(
        {
            "split": ["test"] * count,
            "patient": [f"p{number % groups}" for number in range(count)],
            "group": [number % groups for number in range(count)],
        }
    )


def test_many_images_of_few_patients_are_a_small_test_set() -> None:
    assert notices(images(600, 100), "imagenet") == []
    (said,) = notices(images(600, 6), "imagenet")
    assert "600 images of 6 groups" in said
