"""Table -> findings: what is wrong with the data, in plain words, and what to do about it.

| code                | severity        | what it says                                             |
| ------------------- | --------------- | -------------------------------------------------------- |
| too_many_unreadable | error           | more than 5 % of the files cannot be read                |
| conflicting_label   | error           | the same image has two labels                            |
| leak_duplicate      | error           | copies of an image are in several given splits           |
| leak_near_duplicate | error           | near-duplicates are in several given splits              |
| leak_patient        | error           | a patient is in several given splits                     |
| class_too_small     | error           | a class has too few images or groups                     |
| split_impossible    | error           | train, val and test cannot each have every class         |
| unreadable          | warning         | some files cannot be read; train goes on without them    |
| duplicate           | warning         | identical images, counted by their pixels                |
| near_duplicate      | warning         | one picture saved again, resized, brightened or cropped  |
| near_conflict       | warning         | near-duplicates have two labels                          |
| look_alike          | warning         | images too much alike to tell which are near-duplicates  |
| mask                | warning         | segmentation masks lie among the images                  |
| blank               | warning         | images of one flat colour                                |
| some_patients       | warning         | the patient is known for a part of the images only       |
| one_patient         | error, warning  | one patient holds more than half of the images           |
| imbalance           | warning or note | the largest class is several times the smallest          |
| class_difference    | warning or note | size, mode, format or brightness tells the classes apart |
| balance_shift       | note            | a class is rarer or commoner in test than in train       |
| no_patient          | note            | no patient is known: disjoint by image only              |
| patient_column      | warning         | no patient is known, but a column looks like it          |
| alike_classes       | warning         | names of classes differ in capitals or dashes only       |
| patient_in_classes  | note            | patients with images in several classes                  |
| dark                | note            | images that are nearly black beside the others           |
| blurred             | note            | images with hardly any fine detail beside the others     |

An error stops `train`; for conflicting_label and the leaks an option mends it.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from posixpath import basename, splitext
from typing import Any

import pandas as pd

from medlens.data.class_differences import find_class_differences
from medlens.data.copy_findings import (
    find_conflicts,
    find_duplicates,
    find_look_alike,
    find_near_duplicates,
)
from medlens.data.finding import (
    SEVERITIES,
    Finding,
    count_values,
    each_file,
    number_of,
    percent,
)
from medlens.data.groups import SPLITS, check_class_sizes, group_images
from medlens.data.leaks import (
    copies_in_words,
    find_leaks,
    near_copies_in_words,
    patients_in_words,
)
from medlens.data.patient_findings import find_dominant_patient, find_patients
from medlens.data.picture_findings import find_blank, find_dark_and_blurred
from medlens.data.scan import NOT_THERE
from medlens.data.split import check_split, split_by_ratio, use_given_split
from medlens.errors import MedlensError

# A run goes on without a few broken files; more mean that the data set itself arrived broken.
MOST_UNREADABLE = 0.05
# 4 to 1 is a rarest class of one image in five, for two classes: from there accuracy misleads.
IMBALANCE_WARNING = 4.0
IMBALANCE_NOTE = 1.5
SHIFT_NOTE = 0.1

_MASK_NAME = re.compile(r"[_-]masks?(?![a-z])", re.IGNORECASE)


def audit(
    table: pd.DataFrame, *, min_per_class: int, ratios: tuple[float, float, float]
) -> list[Finding]:
    """Say what is wrong with a data set.

    Args:
        table: One row per image with the facts of the scan; `split` is the given split, or "".
        min_per_class: Fewest images of a class.
        ratios: Shares of train, val and test, where the data brings no split.

    Returns:
        The findings, errors first.
    """
    unreadable = find_unreadable(table)
    used = table[table["unreadable"] == ""]
    if used.empty:
        return unreadable
    used = used.assign(group=group_images(used))
    checks: tuple[Callable[[pd.DataFrame], list[Finding]], ...] = (
        # First, for it is the cause of leaks and of classes too small.
        find_dominant_patient,
        find_conflicts,
        find_split_leaks,
        lambda used: find_small_classes(table, min_per_class=min_per_class),
        find_duplicates,
        find_near_duplicates,
        find_look_alike,
        find_masks,
        find_blank,
        find_dark_and_blurred,
        find_patients,
        find_alike_classes,
        find_imbalance,
        find_class_differences,
        find_balance_shift,
    )
    found = [*unreadable, *(finding for check in checks for finding in check(used))]
    if not any(finding.severity == "error" for finding in found):
        found += find_impossible_split(used, ratios=ratios)
    return sorted(found, key=lambda finding: SEVERITIES.index(finding.severity))


def findings_to_json(findings: list[Finding], table: pd.DataFrame) -> dict[str, Any]:
    """The content of audit.json: the counts of the data set, then the findings."""
    used = table[table["unreadable"] == ""]
    copies = used["pixels_sha256"].value_counts()
    near = used.loc[used["near_copies"] != "", ["near_copies", "pixels_sha256"]].drop_duplicates()
    near_copies = near["near_copies"].value_counts()
    counts = {
        "found": len(table),
        "readable": len(used),
        "unreadable": len(table) - len(used),
        "classes": count_values(used["label"]),
        "patients": int(used.loc[used["patient"] != "", "patient"].nunique()),
        "images_without_patient": int((used["patient"] == "").sum()),
        "groups": int(group_images(used).nunique()),
        "duplicate_groups": int((copies > 1).sum()),
        "extra_copies": len(used) - len(copies),
        "near_duplicate_groups": int((near_copies > 1).sum()),
        "extra_near_duplicates": int((near_copies - 1).sum()),
        "given_split": {
            name: count_values(used.loc[used["split"] == name, "label"])
            for name in SPLITS
            if (used["split"] == name).any()
        },
    }
    return {
        "counts": counts,
        "findings": [
            {
                "code": finding.code,
                "severity": finding.severity,
                "message": finding.message,
                "fix": finding.fix,
                "count": finding.count,
                "details": finding.details,
                "files": [list(files) for files in finding.files],
            }
            for finding in findings
        ],
    }


def find_unreadable(table: pd.DataFrame) -> list[Finding]:
    """Files that cannot be read, with their reasons; too many of them are an error."""
    broken = table[table["unreadable"] != ""]
    if broken.empty:
        return []
    reasons = count_values(broken["unreadable"])
    share = len(broken) / len(table)
    is_too_many = share > MOST_UNREADABLE
    most = sorted(reasons.items(), key=lambda reason: -reason[1])
    others = f", and {len(most) - 3} more reasons" if len(most) > 3 else ""
    message = (
        f"{len(broken):,} of {len(table):,} files ({percent(share)}) cannot be read: "
        + ", ".join(f"{reason.rstrip('.')} ({count:,})" for reason, count in most[:3])
        + others
    )
    fix = (
        f"More than {MOST_UNREADABLE:.0%} are too many to pass over: fetch or export the files "
        "again, or take them out."
        if is_too_many
        else "Training goes on without them. Fetch them again if you want them in."
    )
    if NOT_THERE in most[0][0]:
        fix += " Paths in a CSV count from the folder of the CSV."
    return [
        Finding(
            code="too_many_unreadable" if is_too_many else "unreadable",
            severity="error" if is_too_many else "warning",
            message=message,
            fix=fix,
            count=len(broken),
            files=each_file(broken),
            details={
                "reasons": reasons,
                "classes": count_values(broken["label"]),
                "reason_of_file": dict(zip(broken["path"], broken["unreadable"], strict=True)),
            },
        )
    ]


def find_alike_classes(used: pd.DataFrame) -> list[Finding]:
    """Classes whose names differ in capitals, blanks or dashes only."""
    alike: dict[str, list[str]] = {}
    for name in sorted(used["label"].unique()):
        alike.setdefault(re.sub(r"[\W_]+", "", name.lower()) or name, []).append(name)
    several = [names for names in alike.values() if len(names) > 1]
    if not several:
        return []
    said = "; ".join(" and ".join(names) for names in several)
    return [
        Finding(
            code="alike_classes",
            severity="warning",
            message=f"Names of classes are almost the same: {said}. Each counts as a class.",
            fix="If they are one class, give them one name.",
            count=sum(map(len, several)),
        )
    ]


def find_split_leaks(used: pd.DataFrame) -> list[Finding]:
    """Copies, near-duplicates and patients that cross the given split."""
    leaks = find_leaks(used, used["group"], used["split"])
    fix = (
        "--resolve-leaks keeps the given test set whole and takes the other copies out of train "
        "and val; or split anew with --split 0.7,0.15,0.15."
    )
    kinds = (
        ("leak_duplicate", leaks.copies, copies_in_words(leaks), "group", "of identical images"),
        (
            "leak_near_duplicate",
            leaks.near_copies,
            near_copies_in_words(leaks),
            "group",
            "of near-duplicates",
        ),
        ("leak_patient", leaks.patients, patients_in_words(leaks), "patient", ""),
    )
    return [
        Finding(
            code=code,
            severity="error",
            message=f"{words}. In all, {number_of(len(crossing.files), noun)}"
            f"{' ' + of if of else ''} cross{'es' if len(crossing.files) == 1 else ''} the given "
            "split: the results would look better than they are.",
            fix=fix,
            count=sum(map(len, crossing.files)),
            files=crossing.files,
            details={
                "groups": len(crossing.files),
                "test_in_train": crossing.test_in_train,
                "test_in_val": crossing.test_in_val,
                "val_in_train": crossing.val_in_train,
            },
        )
        for code, crossing, words, noun, of in kinds
        if crossing.files
    ]


def find_small_classes(table: pd.DataFrame, *, min_per_class: int) -> list[Finding]:
    """Classes that `check_class_sizes` refuses."""
    try:
        check_class_sizes(table, group_images(table), min_per_class=min_per_class)
    except MedlensError as error:
        return [_from_error("class_too_small", error)]
    return []


def find_impossible_split(
    used: pd.DataFrame, *, ratios: tuple[float, float, float]
) -> list[Finding]:
    """What would stop `train` when it splits: it is tried here with the same functions."""
    groups = used["group"]
    try:
        if (used["split"] != "").any():
            split = use_given_split(used, groups, ratios=ratios, seed=0).split
        else:
            split = split_by_ratio(used, groups, ratios=ratios, seed=0)
        check_split(used, groups, split, sorted(set(used["label"])))
    except MedlensError as error:
        return [_from_error("split_impossible", error)]
    return []


def find_masks(used: pd.DataFrame) -> list[Finding]:
    """Files named as masks, and pictures of two values while most have more."""
    stems = [splitext(basename(path))[0] for path in used["path"]]
    named = pd.Series([bool(_MASK_NAME.search(stem)) for stem in stems], index=used.index)
    named &= not named.all()
    two_valued = (used["levels"] == 2) & ~named
    two_valued &= two_valued.sum() < (~named).sum() / 2
    found = used[named | two_valued]
    if found.empty:
        return []
    return [
        Finding(
            code="mask",
            severity="warning",
            message=f"{number_of(len(found), 'file')} may be segmentation masks, not images: "
            f"{named.sum():,} by name, {two_valued.sum():,} more with only two grey values.",
            fix="Look at them. Move masks out of the data set, or list the images without them in "
            "a CSV: a mask gives its class away.",
            count=len(found),
            files=each_file(found),
            details={"by_name": int(named.sum()), "two_valued": int(two_valued.sum())},
        )
    ]


def find_imbalance(used: pd.DataFrame) -> list[Finding]:
    """How much larger the largest class is than the smallest."""
    counts = count_values(used["label"])
    largest, smallest = max(counts, key=counts.__getitem__), min(counts, key=counts.__getitem__)
    ratio = counts[largest] / counts[smallest]
    if ratio < IMBALANCE_NOTE:
        return []
    baseline = counts[largest] / len(used)
    return [
        Finding(
            code="imbalance",
            severity="warning" if ratio >= IMBALANCE_WARNING else "note",
            message=f"{largest} has {ratio:.1f} times as many images as {smallest} "
            f"({counts[largest]:,} and {counts[smallest]:,}). Always answering {largest} would be "
            f"right in {percent(baseline)}: an accuracy below that means nothing.",
            fix="Judge by balanced accuracy and by the recall of each class; --class-weight "
            "balanced makes rare classes count as much in training.",
            count=len(counts),
            details={"ratio": round(ratio, 4), "majority_accuracy": round(baseline, 4)},
        )
    ]


def find_balance_shift(used: pd.DataFrame) -> list[Finding]:
    """A class whose share of the given test set differs from its share of train."""
    shares = {
        name: used.loc[used["split"] == name, "label"].value_counts(normalize=True)
        for name in ("train", "test")
    }
    if any(own.empty for own in shares.values()):
        return []

    def share(split: str, class_name: str) -> float:
        return float(shares[split].get(class_name, 0.0))

    classes = sorted(set(used["label"]))
    name = max(classes, key=lambda one: abs(share("test", one) - share("train", one)))
    train, test = share("train", name), share("test", name)
    if abs(test - train) < SHIFT_NOTE:
        return []
    return [
        Finding(
            code="balance_shift",
            severity="note",
            message=f"{name} makes up {percent(train)} of the given train split and "
            f"{percent(test)} of test.",
            fix="Expect probabilities learnt in train to be off in test; recall per class and "
            "ROC AUC are not affected by the balance itself.",
            count=1,
            details={"train": round(train, 4), "test": round(test, 4)},
        )
    ]


def _from_error(code: str, error: MedlensError) -> Finding:
    """An error that `train` would stop with, as a finding."""
    files = tuple((name,) for name in error.names)
    message = f"{error.what} {error.got}; needed: {error.expected}."
    return Finding(code, "error", message, error.fix, len(files), files)
