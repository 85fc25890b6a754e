"""What the audit finds about images that show the same: copies, near-duplicates, their labels."""

from __future__ import annotations

import pandas as pd

from medlens.data.finding import Finding, files_by, number_of, percent
from medlens.data.groups import has_conflict


def find_conflicts(used: pd.DataFrame) -> list[Finding]:
    """Identical images with different labels."""
    files = files_by(used[has_conflict(used)], "pixels_sha256")
    if not files:
        return []
    count = sum(map(len, files))
    return [
        Finding(
            code="conflicting_label",
            severity="error",
            message=f"{number_of(len(files), 'image')} with more than one label: {count:,} "
            "identical files lie in different classes.",
            fix="Find out which label is right and remove the other copies; or leave all of them "
            "out with --drop-conflicts.",
            count=count,
            files=files,
        )
    ]


def find_duplicates(used: pd.DataFrame) -> list[Finding]:
    """Identical images, by their decoded pixels."""
    files = files_by(used[used["pixels_sha256"].duplicated(keep=False)], "pixels_sha256")
    if not files:
        return []
    extra = sum(map(len, files)) - len(files)
    copies = number_of(extra, "extra copy", "extra copies")
    return [
        Finding(
            code="duplicate",
            severity="warning",
            message=f"{number_of(len(files), 'group')} of identical images hold"
            f"{'s' if len(files) == 1 else ''} {copies}: there are {len(used) - extra:,} different "
            f"images, not {len(used):,}.",
            fix="Nothing needs to be done: copies stay in one split. Remove them if they are not "
            "meant to be there, for they count several times.",
            count=sum(map(len, files)),
            files=files,
            details={"groups": len(files), "extra_copies": extra},
        )
    ]


def find_near_duplicates(used: pd.DataFrame) -> list[Finding]:
    """Different images that show one picture, and those of them with different labels.

    Of identical images only the first counts here, and none that `find_conflicts` names.
    """
    pictures = used[used["near_copies"] != ""].drop_duplicates("pixels_sha256")
    pictures = pictures[pictures["near_copies"].duplicated(keep=False)]
    if pictures.empty:
        return []
    files = files_by(pictures, "near_copies")
    extra = len(pictures) - len(files)
    found = [
        Finding(
            code="near_duplicate",
            severity="warning",
            message=f"{number_of(len(files), 'group')} of near-duplicates hold"
            f"{'s' if len(files) == 1 else ''} {number_of(extra, 'extra image')}: one picture "
            "saved again, resized, made brighter or cropped by a hair.",
            fix="Nothing needs to be done: near-duplicates stay in one split. Look at some of "
            "them, and remove them if they are not meant to be there, for they count several "
            "times.",
            count=len(pictures),
            files=files,
            details={"groups": len(files), "extra_images": extra},
        )
    ]
    sure = pictures[~has_conflict(used)[pictures.index]]
    num_labels = sure.groupby("near_copies")["label"].nunique()
    torn = sure[sure["near_copies"].isin(num_labels.index[num_labels > 1])]
    if len(torn):
        files = files_by(torn, "near_copies")
        found.append(
            Finding(
                code="near_conflict",
                severity="warning",
                message=f"{number_of(len(files), 'group')} of near-duplicates with more than one "
                f"label: {len(torn):,} images that show the same picture lie in different classes.",
                fix="Look at them. Where they are one picture, find out which label is right and "
                "remove the others.",
                count=len(torn),
                files=files,
            )
        )
    return found


def find_look_alike(used: pd.DataFrame) -> list[Finding]:
    """Images so much alike that near-duplicates were not made use of."""
    alike = used[used["look_alike"] != ""]
    if alike.empty:
        return []
    return [
        Finding(
            code="look_alike",
            severity="warning",
            message=f"{len(alike):,} of {number_of(len(used), 'image')} "
            f"({percent(len(alike) / len(used))}) look so much alike that near-duplicates cannot "
            "be told from other images. Only identical images and patients are kept together.",
            fix="Look at some of them. If they are frames of a video, slices of one patient or "
            "changed copies of a few images, say what belongs together with a CSV column patient "
            "or with --patient-regex.",
            count=len(alike),
            files=files_by(alike, "look_alike"),
        )
    ]
