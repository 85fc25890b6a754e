"""What the audit finds about patients: unknown, in several classes, or one that holds most."""

from __future__ import annotations

import re

import pandas as pd

from medlens.data.finding import Finding, each_file, files_by, number_of, percent
from medlens.data.groups import SPLITS

MOST_OF_ONE_PATIENT = 0.5
# What other tables call the column patient.
PATIENT_NAME = re.compile(
    r"(patient|subject|person|participant|case|pat)s?[ _.-]?(id|key|nr|no|num|number|code|name)?",
    re.IGNORECASE,
)


def find_patients(used: pd.DataFrame) -> list[Finding]:
    """Patients that are unknown, and patients in several classes."""
    known = used[used["patient"] != ""]
    fix = (
        "If several images come from one patient, say so with a CSV column patient or with "
        "--patient-regex: else a patient may be in train and in test, and the results look better "
        "than they are."
    )
    if known.empty and (column := _column_of_patients(used)):
        message = f"No patient is known, but the column {column} looks like it: its values repeat."
        fix = f"If it is the patient, name the column patient. {fix}"
        return [Finding("patient_column", "warning", message, fix, len(used))]
    if known.empty:
        message = (
            "Image-level only: no patient is known, so train and test are kept apart by image and "
            "its copies, not by patient."
        )
        return [Finding("no_patient", "note", message, fix, len(used))]
    found = []
    unknown = used[used["patient"] == ""]
    if len(unknown):
        message = (
            f"The patient is unknown for {len(unknown):,} of {len(used):,} images; each of them "
            "counts as a patient of its own."
        )
        found.append(
            Finding("some_patients", "warning", message, fix, len(unknown), each_file(unknown))
        )
    several = known.groupby("patient")["label"].nunique()
    spanning = known[known["patient"].isin(several.index[several > 1])]
    if len(spanning):
        files = files_by(spanning, "patient")
        message = (
            f"{len(files):,} of {number_of(len(several), 'patient')} "
            f"{'has' if len(files) == 1 else 'have'} images in more than one class."
        )
        fix = "Nothing needs to be done if this is right: each patient stays in one split."
        found.append(Finding("patient_in_classes", "note", message, fix, len(files), files))
    return found


def _column_of_patients(used: pd.DataFrame) -> str:
    """A column of the CSV whose name is one of a person's and whose values repeat, or ""."""
    for column in used.columns.difference(["patient"], sort=False):
        if PATIENT_NAME.fullmatch(str(column)):
            values = used[column].astype(str)
            stated = values[values != ""]
            if 1 < stated.nunique() < len(stated):
                return str(column)
    return ""


def find_dominant_patient(used: pd.DataFrame) -> list[Finding]:
    """One patient that holds more than half of the images: mostly no patient but a placeholder."""
    images = used.loc[used["patient"] != "", "patient"].value_counts()
    if images.empty or images.iloc[0] <= MOST_OF_ONE_PATIENT * len(used):
        return []
    own = used[used["patient"] == images.index[0]]
    # The groups of each of the patient's classes: with fewer than three there is no split.
    num_groups = used[used["label"].isin(own["label"])].groupby("label")["group"].nunique()
    is_error = bool((num_groups < len(SPLITS)).any())
    stays = "a patient stays in one split, so"
    so = (
        f"{stays} train, val and test cannot each have every class"
        if is_error
        else f"{stays} the other splits are filled from what is left"
    )
    return [
        Finding(
            code="one_patient",
            severity="error" if is_error else "warning",
            message=f"One patient holds {len(own):,} of {number_of(len(used), 'image')} "
            f"({percent(len(own) / len(used))}); {so}. Often this is no patient but a word that "
            "anonymising left, such as ANONYMOUS in DICOM's PatientID.",
            fix="Say who the patients are, with a CSV column patient or with --patient-regex; it "
            "counts before PatientID. Only if each image is of another patient: "
            "--patient-regex '(.+)' says so.",
            count=len(own),
            files=each_file(own),
            details={"images": len(own), "share": round(len(own) / len(used), 4)},
        )
    ]
