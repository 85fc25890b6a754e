"""The images that the classifier got most wrong, with heat maps of where it looked."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from medlens.data.images import UnreadableImage, read_image
from medlens.data.remote import join_path
from medlens.data.scan import PictureRule
from medlens.data.symmetries import ReadPictures
from medlens.data.views import read_views, view_keys
from medlens.files import write_bytes
from medlens.model.classifier import Classifier
from medlens.model.forward import ReadMaps
from medlens.report.contact_sheet import choose_pictures, contact_sheet, png_bytes
from medlens.report.saliency import grad_cam, overlay

WORST, CONFUSED, PER_PAIR, RIGHT = 6, 2, 2, 2
METHOD = (
    "Class activation of all depths that the head reads: where the picture speaks for the class "
    "that was predicted, rather than for the others."
)
CAVEAT = (
    "A heat map shows where the network found what it answered with. It does not show that the "
    "finding is the disease, and it is no evidence that the answer is right."
)

# Of one image, on the sheet of views.
MOST_VIEWS_SHOWN = 7


def choose_cases(tested: pd.DataFrame, classes: Sequence[str]) -> pd.DataFrame:
    """Choose about a dozen images to look at.

    Args:
        tested: The rows of predictions.csv that the result is about.
        classes: Class names.

    Returns:
        The worst errors (most probable for a wrong class), some of the most confused pairs of
        classes, and the surest right answers, with the columns path, label, predicted, probability
        (of the class predicted) and why.
    """
    probable = tested[[f"prob_{name}" for name in classes]].to_numpy()
    rows = tested[["path", "label", "predicted"]].assign(probability=probable.max(axis=1))
    rows = rows.sort_values(["probability", "path"], ascending=[False, True], kind="stable")
    wrong = rows[rows["label"] != rows["predicted"]]
    chosen = [wrong.head(WORST).assign(why="worst error")]
    left = wrong.iloc[WORST:]
    for label, predicted in wrong.value_counts(["label", "predicted"]).index[:CONFUSED]:
        pair = left[(left["label"] == label) & (left["predicted"] == predicted)]
        chosen.append(pair.head(PER_PAIR).assign(why="most confused pair"))
    right = rows[rows["label"] == rows["predicted"]].head(RIGHT)
    chosen.append(right.assign(why="surest right answer"))
    return pd.concat(chosen).drop_duplicates("path").reset_index(drop=True)


def draw_heat_maps(
    cases: pd.DataFrame,
    classifier: Classifier,
    root: Path,
    folder: Path,
    read_maps: ReadMaps | None = None,
) -> dict[str, Any]:
    """Write each picture beside its heat map, as the network sees it, named by its number.

    Args:
        cases: From `choose_cases`.
        classifier: The classifier.
        root: The folder that the paths are relative to.
        folder: Where the pictures go.
        read_maps: As for `grad_cam`.

    Returns:
        The block `saliency` of evaluation.json.
    """
    pictures, kept = [], []
    for number, path in enumerate(cases["path"]):
        try:
            pictures.append(classifier.picture(join_path(root, path)))
            kept.append(number)
        except UnreadableImage:
            continue  # it could be read before; the others are still worth a look
    block: dict[str, Any] = {"method": METHOD, "text": CAVEAT, "images": []}
    if not pictures:
        return block
    cases = cases.iloc[kept].reset_index(drop=True)
    predicted = np.array([classifier.classes.index(name) for name in cases["predicted"]])
    heats = grad_cam(classifier.model, np.stack(pictures), predicted, read_maps=read_maps)
    for number, (picture, heat) in enumerate(zip(pictures, heats, strict=True), 1):
        name = f"{number:02d}.png"
        both = np.concatenate([picture, overlay(picture, heat)], axis=1)
        write_bytes(folder / name, png_bytes(both))
        case = cases.iloc[number - 1]
        facts = {key: case[key] for key in ("label", "predicted", "why")}
        probability = round(float(case["probability"]), 4)
        block["images"].append({"file": name, **facts, "probability": probability})
    return block


def draw_view_sheet(
    images: pd.DataFrame, read: ReadPictures, preset: str, count: int, path: Path, seed: int
) -> None:
    """Write a sheet of a few images of each class, each with its augmented views behind it.

    Args:
        images: label and pixels_sha256 of images of train.
        read: Gives their pictures.
        preset: Of the augmentation.
        count: Views of each image.
        path: The file to write.
        seed: Of the draw of the images.
    """
    see_views = read_views(read, preset)
    shown = min(count, MOST_VIEWS_SHOWN)
    pictures = {}
    for name, places in choose_pictures(list(images["label"]), seed=seed, most=2).items():
        keys = list(images["pixels_sha256"].iloc[places])
        rows = [
            np.concatenate([read([key]), see_views(view_keys([key], preset, count)[:shown])])
            for key in keys
        ]
        pictures[name] = np.concatenate(rows)
    write_bytes(path, png_bytes(contact_sheet(pictures, columns=shown + 1)))


def draw_contact_sheet(
    images: pd.DataFrame,
    root: Path,
    frame: int | None,
    rule: PictureRule,
    path: Path,
    seed: int,
) -> None:
    """Write a sheet of what the network really sees of each class.

    Args:
        images: path and label of each image.
        root: The folder that the paths are relative to.
        frame: The frame of multi-frame DICOM files; None for the middle one.
        rule: How an image becomes what the network sees.
        path: The file to write.
        seed: Of the draw of the images.
    """
    chosen = choose_pictures(list(images["label"]), seed=seed)
    pictures = {}
    for name, places in chosen.items():
        own = []
        for file in images["path"].iloc[places]:
            try:
                own.append(rule.apply(read_image(join_path(root, file), frame=frame).pixels))
            except UnreadableImage:
                continue  # it could be read before; a sheet shows only some anyway
        if own:
            pictures[name] = np.stack(own)
    counts = {str(name): int(count) for name, count in images["label"].value_counts().items()}
    write_bytes(path, png_bytes(contact_sheet(pictures, counts=counts)))
