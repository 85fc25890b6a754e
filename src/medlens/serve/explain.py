"""A classifier and a picture -> what speaks for a class, and the training cases most like it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from medlens.data.scan import in_order
from medlens.files import write_bytes, write_text
from medlens.model.classifier import Classifier
from medlens.model.training_cases import MOST_SHOWN, SimilarCase
from medlens.report.figure_style import short_names
from medlens.report.saliency import heat_maps, overlay
from medlens.serve.explain_page import draw_page
from medlens.serve.inputs import Inputs
from medlens.serve.predict import Outcome, Tally

TABLE_FILE = "explain.csv"


@dataclass(frozen=True)
class Explanation:
    """Why a picture was given a class.

    Args:
        heat: Where it speaks for the class, float32 of shape (size, size), 0 to 1; 0 everywhere
            where nothing does.
        overlay: The heat laid over the picture, RGB of shape (size, size, 3).
        similar: The training cases nearest to it, the nearest first.
    """

    heat: NDArray[np.float32]
    overlay: NDArray[np.uint8]
    similar: Sequence[SimilarCase]


def explain_picture(
    classifier: Classifier, picture: NDArray[np.uint8], class_number: int
) -> Explanation:
    """Explain a picture; one pass through the network gives all of it.

    It may be called from any thread, but not from two at once.

    Args:
        classifier: The classifier.
        picture: RGB, 0 to 255, of shape (size, size, 3), as `Classifier.picture` makes it.
        class_number: The class to explain, in the order of the classes.
    """
    maps, features = classifier.graph.read_maps(picture[np.newaxis])
    heat = heat_maps(
        classifier.graph,
        picture[np.newaxis],
        np.array([class_number]),
        read_maps=lambda _: (maps, features),
    )[0]
    similar = classifier.cases.find_similar(classifier.familiarity, features[0], classifier.classes)
    return Explanation(heat, overlay(picture, heat), similar)


def explain_to_folder(
    classifier: Classifier,
    inputs: Inputs,
    out: Path,
    *,
    class_name: str | None,
    progress: Callable[[int], None],
) -> Outcome:
    """Write a page for each image, named by its number, and explain.csv.

    Args:
        classifier: The classifier.
        inputs: The images.
        out: The folder to write.
        class_name: The class to explain; None for that which is predicted, image by image.
        progress: Called with the number of images done since the last call.
    """
    tally, rows = Tally(), []
    with closing(in_order(classifier.read, inputs.files())) as pictures:
        for number, picture in enumerate(pictures, 1):
            row, page = _explain_one(classifier, picture, class_name, f"{number:05d}.png")
            if page is not None:
                write_bytes(out / f"{number:05d}.png", page)
            tally.add(row)
            rows.append(row)
            progress(1)
    table = pd.concat([inputs.table, pd.concat(rows, ignore_index=True)], axis="columns")
    write_text(out / TABLE_FILE, table.to_csv(index=False, lineterminator="\n"))
    return tally.outcome(out)


def _explain_one(
    classifier: Classifier, picture: NDArray[np.uint8] | str, class_name: str | None, name: str
) -> tuple[pd.DataFrame, bytes | None]:
    """The row of one image, or of the reason why it cannot be read, and its page."""
    said = classifier.tell([""], [picture]).drop(columns="path")
    cells: dict[str, Any] = dict.fromkeys(("page", "explained", *similar_columns()), "")
    page = None
    if not isinstance(picture, str):
        explained = class_name or str(said["predicted"].iloc[0])
        found = explain_picture(classifier, picture, classifier.classes.index(explained))
        page = draw_page(picture, found.overlay, found.similar, _title(said.iloc[0], explained))
        cells |= {"page": name, "explained": explained, **_similar_cells(found.similar)}
    first, last = ["page", "explained"], similar_columns()
    return said.assign(**cells)[[*first, *said.columns, *last]], page


def similar_columns() -> list[str]:
    """The columns of explain.csv about similar cases."""
    return [
        f"similar_{place}_{what}"
        for place in range(1, MOST_SHOWN + 1)
        for what in ("row", "label", "distance")
    ]


def _similar_cells(similar: Sequence[SimilarCase]) -> dict[str, Any]:
    cells: dict[str, Any] = {}
    for place, case in enumerate(similar, 1):
        cells[f"similar_{place}_row"] = case.row
        cells[f"similar_{place}_label"] = case.label
        cells[f"similar_{place}_distance"] = round(case.distance, 3)
    return cells


def _title(said: pd.Series, explained: str) -> str:
    probability = f"{said[f'prob_{explained}']:.3f}"
    named, predicted = short_names([explained, str(said["predicted"])])
    title = f"What speaks for {named} (probability {probability})"
    if explained != said["predicted"]:
        title += f"; predicted is {predicted}"
    if said["unfamiliar"] == 1:
        title += "\nUnfamiliar: unlike the training images, so that this is worth little"
    return title
