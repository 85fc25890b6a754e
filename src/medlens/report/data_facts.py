"""The images of a run as the report tells of them: flow, splits, overlaps, findings."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd

SPLITS: Mapping[str, str] = {
    "train": "fitted on",
    "val": "chosen on",
    "test": "only measured on",
}
# File names shown of a finding; all of them are in audit.json.
MOST_FILES = 20


def data_flow(images: pd.DataFrame, passed_over: Mapping[str, int]) -> dict[str, Any]:
    """What became of every file: passed over, left out with the reason, or used.

    Args:
        images: From `read_images`.
        passed_over: Files that were not taken for images, by kind.
    """
    left_out = images[images["split"] == ""]
    reasons = left_out["excluded"].where(left_out["excluded"] != "", "in no split")
    unreadable = left_out.loc[left_out["unreadable"] != "", "unreadable"]
    return {
        "files": len(images) + sum(passed_over.values()),
        "passed_over": dict(passed_over),
        "found": len(images),
        "left_out": _counts(reasons),
        "unreadable": _counts(unreadable),
        "used": len(images) - len(left_out),
    }


def describe_split(used: pd.DataFrame, name: str, classes: Sequence[str]) -> dict[str, Any]:
    """Images, patients, groups and class counts of a split.

    Args:
        used: The images of all splits, from `read_images`.
        name: "train", "val", "test", or "all" for the three together.
        classes: Class names.
    """
    rows = used if name == "all" else used[used["split"] == name]
    patients = rows.loc[rows["patient"] != "", "patient"]
    return {
        "name": name,
        "purpose": SPLITS.get(name, "the three together"),
        "images": len(rows),
        "patients": patients.nunique(),
        "without_patient": len(rows) - len(patients),
        "groups": rows["group"].nunique(),
        "classes": {
            one: (count, f"{100 * count / max(len(rows), 1):.1f}\N{NO-BREAK SPACE}%")
            for one in classes
            for count in [int((rows["label"] == one).sum())]
        },
    }


def count_overlaps(used: pd.DataFrame) -> dict[str, int]:
    """How many patients, identical images and groups lie in more than one split."""
    columns = {"patients": "patient", "identical images": "pixels_sha256", "groups": "group"}
    found = {}
    for what, column in columns.items():
        known = used[used[column] != ""]
        found[what] = int((known.groupby(column)["split"].nunique() > 1).sum())
    return found


def describe_finding(finding: Mapping[str, Any]) -> dict[str, Any]:
    """A finding with the first of its files, in the sets in which they belong together."""
    shown: list[list[str]] = []
    left = MOST_FILES
    for files in finding.get("files", []):
        if left > 0:
            shown.append(list(files[:left]))
            left -= len(shown[-1])
    total = sum(map(len, finding.get("files", [])))
    return {**finding, "shown": shown, "shown_count": MOST_FILES - left, "total": total}


def _counts(values: pd.Series[str]) -> dict[str, int]:
    """How often each value occurs, the commonest first."""
    counts = values.value_counts().sort_index().sort_values(ascending=False, kind="stable")
    return {str(name): int(count) for name, count in counts.items()}
