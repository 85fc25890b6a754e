"""A classifier and a picture -> what speaks for a class, and the training cases most like it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from medlens.files import write_bytes
from medlens.model.classifier import Classifier
from medlens.model.gpu import processor
from medlens.model.training_cases import MOST_SHOWN, SimilarCase
from medlens.model.versions import deciding_versions
from medlens.report.figure_style import short_names
from medlens.report.saliency import heat_maps, overlay
from medlens.serve.explain_folder import TABLE_FILE, check_folder, open_folder, page_name
from medlens.serve.explain_page import draw_page
from medlens.serve.inputs import Inputs
from medlens.serve.only_writer import only_writer
from medlens.serve.predict import (
    Outcome,
    Start,
    Work,
    beside_given,
    list_work,
    read_missing,
    result_columns,
)
from medlens.serve.result_file import ResultFile

# Some seconds of work, which is what a break can cost.
PART_PAGES = 16


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
    digest: str,
    overwrite: bool,
    start: Start,
) -> Outcome:
    """Write a page for each image, named by its number, and explain.csv.

    Goes on where it was interrupted, in memory that does not grow with the images.

    Args:
        classifier: The classifier.
        inputs: The images.
        out: The folder to write.
        class_name: The class to explain; None for that which is predicted, image by image.
        digest: Of the classifier; with another one the work begins anew.
        overwrite: Whether finished explanations may be there.
        start: Told of the work that is to be done; gives what is called with the number of images
            done since the last call.

    Raises:
        MedlensError: If the folder holds something else, or another process writes it.
    """
    with only_writer(out / TABLE_FILE):
        check_folder(out, overwrite=overwrite)
        images, given = list_work(inputs, out / TABLE_FILE)
        state = {
            "class": class_name,
            "inputs": given,
            "classifier": digest,
            "processor": processor(),
            "versions": deciding_versions(),
            "images": images.rows,
        }
        is_anew = open_folder(out, state)
        columns = explain_columns(classifier, inputs.columns)
        result = ResultFile(out / TABLE_FILE, columns, images.rows, state, PART_PAGES)
        parts, _ = result.open()
        finished = frozenset(one for one in parts if _has_pages(result, one, out))
        work = Work(images, result, finished, is_anew)
        with start(work) as progress:
            _explain_all(classifier, work, out, class_name, progress)
        return work.finish(out)


def _has_pages(result: ResultFile, number: int, out: Path) -> bool:
    """Whether every page of a finished part is there."""
    return all((out / page).is_file() for page in result.read(number)["page"] if page)


def _explain_all(
    classifier: Classifier,
    work: Work,
    out: Path,
    class_name: str | None,
    progress: Callable[[int], None],
) -> None:
    """Write the pages of the missing parts, and after those of a part its rows."""
    with closing(read_missing(classifier, work)) as read:
        for part_number, part, found in read:
            rows = []
            for number, (path, picture) in enumerate(found, part_number * PART_PAGES):
                said = classifier.tell([path], [picture])
                row, page = _explain_one(classifier, picture, said, class_name, number)
                if page is not None:
                    write_bytes(out / page_name(number + 1), page)
                rows.append(row)
                progress(1)
            table = beside_given(pd.concat(rows, ignore_index=True), part)
            work.result.add(part_number, table)


def _explain_one(
    classifier: Classifier,
    picture: NDArray[np.uint8] | str,
    said: pd.DataFrame,
    class_name: str | None,
    number: int,
) -> tuple[pd.DataFrame, bytes | None]:
    """The row of one image, or of the reason why it cannot be read, and its page."""
    cells = dict.fromkeys(("page", "explained", *similar_columns()), "")
    page = None
    if not isinstance(picture, str) and not said["unreadable"].iloc[0]:
        explained = class_name or str(said["predicted"].iloc[0])
        found = explain_picture(classifier, picture, classifier.classes.index(explained))
        page = draw_page(picture, found.overlay, found.similar, _title(said.iloc[0], explained))
        cells |= {"page": page_name(number + 1), "explained": explained}
        cells |= _similar_cells(found.similar)
    return said.assign(**cells), page


def explain_columns(classifier: Classifier, given: Sequence[str]) -> tuple[str, ...]:
    """The columns of explain.csv."""
    columns = result_columns(classifier.classes, given)
    said = columns[len(given) :]
    return (*given, "page", "explained", *said, *similar_columns())


def similar_columns() -> list[str]:
    """The columns of explain.csv about similar cases."""
    return [
        f"similar_{place}_{what}"
        for place in range(1, MOST_SHOWN + 1)
        for what in ("row", "label", "distance")
    ]


def _similar_cells(similar: Sequence[SimilarCase]) -> dict[str, str]:
    cells: dict[str, str] = {}
    for place, case in enumerate(similar, 1):
        cells[f"similar_{place}_row"] = str(case.row)
        cells[f"similar_{place}_label"] = case.label
        cells[f"similar_{place}_distance"] = str(round(case.distance, 3))
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
