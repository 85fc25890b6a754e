"""A classifier and a picture -> what speaks for a class, and the training cases most like it."""

from __future__ import annotations

import importlib.metadata
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from medlens.files import write_bytes
from medlens.model.classifier import Classifier
from medlens.model.training_cases import MOST_SHOWN, SimilarCase
from medlens.report.figure_style import short_names
from medlens.report.saliency import heat_maps, overlay
from medlens.serve.explain_folder import TABLE_FILE, check_folder, open_folder, page_name
from medlens.serve.explain_page import draw_page
from medlens.serve.inputs import Inputs
from medlens.serve.only_writer import only_writer
from medlens.serve.predict import Outcome, beside_given, complete, result_columns, say_where
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
    say: Callable[[str], None],
    progress: Callable[[int], None],
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
        say: Told what is gone on with, or begun anew.
        progress: Called with the number of images done since the last call.

    Raises:
        MedlensError: If the folder holds something else, or another process writes it.
    """
    state = {
        "class": class_name,
        "inputs": inputs.digest(),
        "classifier": digest,
        "medlens": importlib.metadata.version("medlens"),
        "images": len(inputs),
    }
    with only_writer(out / TABLE_FILE):
        check_folder(out, overwrite=overwrite)
        is_other = open_folder(out, state)
        result = ResultFile(out / TABLE_FILE, explain_columns(classifier, inputs))
        result.open(state)
        done = _count_done(result, out)
        say_where(done, is_other=is_other, say=say, progress=progress)
        tables = _explain_all(classifier, inputs, out, class_name, done, progress)
        return complete(result, tables, out, done=done, images=len(inputs), part_rows=PART_PAGES)


def _count_done(result: ResultFile, out: Path) -> int:
    """Rows of finished parts, up to the first part of which a page is gone."""
    done = 0
    for table in result.tables():
        if not all((out / page).is_file() for page in table["page"] if page):
            break
        done += len(table)
    return done


def _explain_all(
    classifier: Classifier,
    inputs: Inputs,
    out: Path,
    class_name: str | None,
    start: int,
    progress: Callable[[int], None],
) -> Iterator[pd.DataFrame]:
    """Write the pages from an image on; the row of each, once its page is there."""
    with closing(classifier.read_all(inputs.files(start))) as found:
        for number, (path, picture) in enumerate(found, start):
            said = classifier.tell([path], [picture], number)
            row, page = _explain_one(classifier, picture, said, class_name, number)
            if page is not None:
                write_bytes(out / page_name(number + 1), page)
            yield beside_given(row, inputs)
            progress(1)


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
    if not isinstance(picture, str):
        explained = class_name or str(said["predicted"].iloc[0])
        found = explain_picture(classifier, picture, classifier.classes.index(explained))
        page = draw_page(picture, found.overlay, found.similar, _title(said.iloc[0], explained))
        cells |= {"page": page_name(number + 1), "explained": explained}
        cells |= _similar_cells(found.similar)
    return said.assign(**cells), page


def explain_columns(classifier: Classifier, inputs: Inputs) -> tuple[str, ...]:
    """The columns of explain.csv."""
    given = len(inputs.table.columns)
    columns = result_columns(classifier, inputs)
    return (*columns[:given], "page", "explained", *columns[given:], *similar_columns())


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
