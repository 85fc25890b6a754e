"""A data set's fingerprint: what the plan's rules look at, and nothing that names a person."""

from __future__ import annotations

import io
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pydicom
from pydicom.errors import InvalidDicomError

from medlens.data.groups import group_images
from medlens.data.images import UnreadableImage, fetch, read_image
from medlens.data.remote import join_path

# How many images are opened for colour and modality.
SAMPLED = 24
# Channels of a grey picture differ by no more than this, of 255 (JPEG rounds).
GREY_DIFFERENCE = 8

# DICOM's modality code (PS3.3 C.7.3.1.1.1) -> modality.
DICOM_MODALITIES: Mapping[str, str] = {
    "CR": "x_ray",
    "DX": "x_ray",
    "RG": "x_ray",
    "MG": "mammography",
    "CT": "ct",
    "MR": "mri",
    "US": "ultrasound",
    "IVUS": "ultrasound",
    "OP": "fundus",
    "OPT": "oct",
    "SM": "histology",
    "DMS": "dermatoscopy",
    "GM": "microscopy",
    "ES": "endoscopy",
}
# A word in the path of the data set or in a class's name -> modality; the first that fits.
WORDS: Sequence[tuple[str, str]] = (
    (r"chest|cxr|pneumonia|thorax|tubercul|covid|x[-_ ]?ray|radiograph", "x_ray"),
    (r"mammo", "mammography"),
    (r"mri|glioma|meningioma|pituitary", "mri"),
    (r"(?<![a-z])ct(?![a-z])|tomogra", "ct"),
    (r"ultraso|sonogra|(?<![a-z])us(?![a-z])|busi", "ultrasound"),
    (r"(?<![a-z])oct(?![a-z])|drusen|octmnist", "oct"),
    (r"fundus|retin|glaucoma|aptos", "fundus"),
    (r"derm|skin|melanom|nevus|naev|(?<![a-z])ham|isic", "dermatoscopy"),
    (r"histo|patholog|stain|adipose|stroma|(?<![a-z])pcam|(?<![a-z])wsi", "histology"),
    (r"blood|cell|malaria|wbc|cyto|microscop|neutroph|lymphocyt|eosinoph", "microscopy"),
    (r"endosc|polyp|colono|kvasir", "endoscopy"),
)
COLOURED = ("dermatoscopy", "histology", "fundus", "microscopy", "endoscopy")
GREY = ("x_ray", "mammography", "mri", "ct", "oct")


@dataclass(frozen=True)
class Fingerprint:
    """What the rules of a plan look at.

    Args:
        images: Readable images.
        classes: Images of each class.
        groups: Groups of each class; a group holds the images of a patient and copies of an image.
        patients_known: Share of the images whose patient is known.
        imbalance: Images of the largest class for one of the smallest.
        median_side: Median of the longer sides, in pixels.
        sides: The shortest and the longest side, in pixels.
        modes: Images by colour mode and bit depth, as stored.
        formats: Images by file format.
        extra_copies: Images that are a copy of another.
        colour_share: Share of the sampled pictures with colour in them.
        modality: Such as "x_ray"; "unknown" where nothing tells.
        modality_evidence: What it was guessed from.
    """

    images: int
    classes: Mapping[str, int]
    groups: Mapping[str, int]
    patients_known: float
    imbalance: float
    median_side: float
    sides: tuple[int, int]
    modes: Mapping[str, int]
    formats: Mapping[str, int]
    extra_copies: int
    colour_share: float
    modality: str
    modality_evidence: str

    def to_json(self) -> dict[str, Any]:
        """For plan.json."""
        return asdict(self)


def take_fingerprint(table: pd.DataFrame, root: Path, *, frame: int | None) -> Fingerprint:
    """Look at the facts of all images, and at the pixels of a few.

    Args:
        table: One row per image with the facts of the scan.
        root: The folder that the paths are relative to.
        frame: The frame of multi-frame DICOM files; None for the middle one.
    """
    read = table[table["unreadable"] == ""]
    groups = group_images(table)[read.index]
    counts = read["label"].value_counts().sort_index()
    sides = read[["width", "height"]].astype(float)
    paths = list(read["path"].iloc[:: max(1, len(read) // SAMPLED)].iloc[:SAMPLED])
    colours = [_has_colour(join_path(root, path), frame) for path in paths]
    known = [one for one in colours if one is not None]
    share = float(np.mean(known)) if known else 0.0
    modalities = [_dicom_modality(join_path(root, path)) for path in paths]
    modality, evidence = guess_modality(modalities, [root.name, *counts.index], share)
    return Fingerprint(
        images=len(read),
        classes={str(name): int(count) for name, count in counts.items()},
        groups={
            str(name): int(count)
            for name, count in groups.groupby(read["label"]).nunique().sort_index().items()
        },
        patients_known=round(float((read["patient"] != "").mean()), 4) if len(read) else 0.0,
        imbalance=round(float(counts.max() / counts.min()), 3) if len(counts) else 1.0,
        median_side=float(sides.max(axis=1).median()) if len(read) else 0.0,
        sides=(int(sides.to_numpy().min()), int(sides.to_numpy().max())) if len(read) else (0, 0),
        modes=dict(sorted(Counter(read["mode"]).items())),
        formats=dict(sorted(Counter(read["format"]).items())),
        extra_copies=len(read) - int(read["pixels_sha256"].nunique()),
        colour_share=round(share, 4),
        modality=modality,
        modality_evidence=evidence,
    )


def guess_modality(
    codes: Sequence[str], names: Sequence[str], colour_share: float
) -> tuple[str, str]:
    """The modality, and what it was guessed from: DICOM's own word, else names that fit the colour.

    Args:
        codes: DICOM modality of each sampled file, "" where there is none.
        names: Names of the data set's folder and of the classes.
        colour_share: Share of sampled pictures with colour.
    """
    told = Counter(code for code in codes if code)
    if told:
        code, count = told.most_common(1)[0]
        modality = DICOM_MODALITIES.get(code, "unknown")
        return modality, f"DICOM modality {code} in {count} of {len(codes)} files looked at"
    is_coloured = colour_share >= 0.5
    for pattern, modality in WORDS:
        found = next((hit for name in names if (hit := re.search(pattern, name.lower()))), None)
        if found is None or (modality in COLOURED and not is_coloured):
            continue
        if modality in GREY and is_coloured:
            continue
        colour = "in colour" if is_coloured else "grey"
        return modality, f"the name holds '{found.group()}', and the pictures are {colour}"
    return "unknown", "neither DICOM headers nor names tell"


def _has_colour(path: Path, frame: int | None) -> bool | None:
    with suppress(UnreadableImage):
        pixels = read_image(path, frame=frame).pixels.astype(np.int16)
        difference = pixels.max(axis=2) - pixels.min(axis=2)
        return bool(np.percentile(difference, 99) > GREY_DIFFERENCE)
    return None


def _dicom_modality(path: Path) -> str:
    with suppress(
        UnreadableImage, InvalidDicomError, OSError, ValueError, TypeError, AttributeError
    ):
        source = fetch(path)
        opened = io.BytesIO(source) if isinstance(source, bytes) else source
        header = pydicom.dcmread(opened, stop_before_pixels=True, specific_tags=["Modality"])
        return str(header.get("Modality", "") or "")
    return ""
