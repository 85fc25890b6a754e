"""The commands `predict` and `explain`: a finished classifier on new images."""

from __future__ import annotations

import glob
import itertools
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pandas as pd

from medlens.data.dataset import CLOSED
from medlens.data.remote import hide_secrets, is_remote, open_path
from medlens.errors import MedlensError
from medlens.model.checksums import digest_of
from medlens.model.classifier import load_classifier, read_classes
from medlens.model.classifier_files import CHECKSUMS_FILE
from medlens.model.gpu import processor
from medlens.run_dir import classifier_folder
from medlens.scale.cluster import NONE, connected
from medlens.scale.predict import make_parts_on_cluster
from medlens.scale.processor import find_processor
from medlens.screen import Screen
from medlens.serve.explain import explain_to_folder
from medlens.serve.explain_folder import check_folder
from medlens.serve.inputs import FILE, STATE, Inputs, PathLike, list_inputs
from medlens.serve.only_writer import only_writer
from medlens.serve.predict import (
    Outcome,
    Start,
    Work,
    make_parts,
    open_work,
    result_columns,
    screen_lines,
    tell,
)
from medlens.serve.result_file import check_result_path, processor_begun
from medlens.serve.run_zip import opened_run

MOST_ON_SCREEN = 100
NOTICE = "Not a medical device."


def run_predict(
    run: PathLike,
    given: Sequence[PathLike],
    out: Path,
    *,
    overwrite: bool,
    ray: str,
    screen: Screen,
) -> Outcome:
    """Predict images into a file; an interrupted run goes on.

    Args:
        run: A run folder, its classifier folder alone, or a run as .zip.
        given: As for `list_inputs`.
        out: The file to write: .csv, .json, .jsonl or .parquet.
        overwrite: Whether a file may be there.
        ray: "none", or the Ray cluster to go through the images on, as for `connected`.
        screen: Where it is said what happens.

    Raises:
        MedlensError: If the classifier, the images, the place or the cluster cannot be used.
    """
    out = out.absolute()
    check_result_path(out, overwrite=overwrite)
    _spare_inputs(out, given)
    inputs = list_inputs(given)
    retried: list[str] = []
    with opened_run(run) as opened:
        folder = classifier_folder(opened)
        # A cluster's workers load the network; this process then needs only the names.
        classifier = load_classifier(folder) if ray == NONE else None
        classes = classifier.classes if classifier else read_classes(folder)
        with only_writer(out):
            # Another process may have finished meanwhile.
            check_result_path(out, overwrite=overwrite)
            begun_on = "" if overwrite else processor_begun(out)
            with connected(ray) as is_connected:
                work = open_work(
                    inputs,
                    out,
                    result_columns(classes, inputs.columns),
                    digest_of(folder / CHECKSUMS_FILE),
                    processor=find_processor(begun_on) if is_connected else processor(),
                    overwrite=overwrite,
                )
                with _start("Predicting", inputs, screen)(work) as progress:
                    if classifier:
                        make_parts(classifier, work, progress)
                    elif work.missing:
                        retried = make_parts_on_cluster(folder, work, progress).lines
            closed = inputs.passed_over[CLOSED]
            outcome = replace(work.finish(out), closed=closed, retried=tuple(retried))
    shown = hide_secrets(str(out))
    screen.say("\n".join([*outcome.lines, f"Predictions: {shown}", NOTICE]))
    return outcome


def predict_on_screen(
    run: PathLike, given: Sequence[PathLike], screen: Screen
) -> tuple[list[str], int]:
    """Predict a few images.

    Args:
        run: As for `run_predict`.
        given: As for `list_inputs`.
        screen: Where it is said what happens.

    Returns:
        The lines of a table, and how many images were refused, or folders could not be opened.

    Raises:
        MedlensError: If the classifier or the images cannot be used, or the images are many.
    """
    inputs = list_inputs(given)
    images = pd.concat(list(_first_tables(inputs)), ignore_index=True)
    if len(images) > MOST_ON_SCREEN:
        raise MedlensError(
            "These are too many images for the screen.",
            got=f"more than {MOST_ON_SCREEN} images and no -o",
            expected=f"at most {MOST_ON_SCREEN}, or a file for the result",
            fix="Add -o predictions.csv (or .json, .jsonl, .parquet).",
        )
    with opened_run(run) as opened:
        classifier = load_classifier(classifier_folder(opened))
    _say_passed_over(inputs, screen)
    table = tell(classifier, images, classifier.read_all(images[FILE]), lambda _: None)
    refused = int((table["unreadable"] != "").sum())
    lines = [*screen_lines(table, classifier.classes), NOTICE]
    return lines, refused + inputs.passed_over[CLOSED]


def run_explain(
    run: PathLike,
    given: Sequence[PathLike],
    out: Path,
    *,
    class_name: str | None,
    overwrite: bool,
    screen: Screen,
) -> Outcome:
    """Explain images: a page for each, and explain.csv; an interrupted run goes on.

    Args:
        run: As for `run_predict`.
        given: As for `list_inputs`.
        out: The folder to write.
        class_name: The class to explain; None for that which is predicted, image by image.
        overwrite: Whether an earlier explanation may be there.
        screen: Where it is said what happens.

    Raises:
        MedlensError: If the classifier, the images, the class or the place cannot be used.
    """
    check_folder(out, overwrite=overwrite)
    inputs = list_inputs(given)
    _keep_apart(out, given, inputs)
    with opened_run(run) as opened:
        folder = classifier_folder(opened)
        classifier = load_classifier(folder)
        _check_class(class_name, classifier.classes)
        outcome = explain_to_folder(
            classifier,
            inputs,
            out,
            class_name=class_name,
            digest=digest_of(folder / CHECKSUMS_FILE),
            overwrite=overwrite,
            start=_start("Explaining", inputs, screen),
        )
    outcome = replace(outcome, closed=inputs.passed_over[CLOSED])
    screen.say("\n".join([*outcome.lines, f"Explanations: {hide_secrets(str(out))}", NOTICE]))
    return outcome


def _check_class(class_name: str | None, classes: Sequence[str]) -> None:
    if class_name is not None and class_name not in classes:
        raise MedlensError(
            "The classifier does not know the class that is to be explained.",
            got=class_name,
            expected="one of " + ", ".join(classes),
            fix="Write the name as it stands here, or leave --class out.",
        )


def _start(label: str, inputs: Inputs, screen: Screen) -> Start:
    """Says what was found and what an interrupted run left, and then shows the progress."""

    @contextmanager
    def start(work: Work) -> Iterator[Callable[[int], None]]:
        _say_passed_over(inputs, screen)
        if work.is_anew:
            screen.say(
                "What an interrupted run left is of other images, another classifier or class, or "
                "of other packages or another kind of processor: begun anew."
            )
        if work.done:
            screen.say(f"Going on after {work.done:,} images that are finished.")
        with screen.progress(label, work.images.rows, "images") as progress:
            progress(work.done)
            yield progress

    return start


def _say_passed_over(inputs: Inputs, screen: Screen) -> None:
    for kind, count in inputs.passed_over.items():
        if count:
            screen.say(f"{count:,} in the folders passed over: {kind}.")


def _first_tables(inputs: Inputs) -> Iterator[pd.DataFrame]:
    """The first images, a few more than the screen takes if there are so many."""
    count = 0
    for table in inputs.tables():
        yield table.drop(columns=STATE)
        count += len(table)
        if count > MOST_ON_SCREEN:
            return


def _spare_inputs(out: Path, given: Sequence[PathLike]) -> None:
    """Refuse to write the result over what was given."""
    if out.exists() and any(_is_same(out, open_path(one)) for one in given):
        raise MedlensError(
            "The result would replace a file that was given.",
            got="the same file as INPUT and as -o",
            expected="another name for the result",
            fix="Name another -o.",
            names=[hide_secrets(str(out))],
        )


def _is_same(one: Path, other: Path) -> bool:
    if is_remote(one) or is_remote(other):
        return str(one) == str(other)
    return other.exists() and one.samefile(other)


def _keep_apart(out: Path, given: Sequence[PathLike], inputs: Inputs) -> None:
    """Refuse a folder for explanations that is, holds, or lies in what was given.

    Pages would lie among the images, and the next time be taken for some.

    Raises:
        MedlensError: If it does.
    """
    place = out.resolve()
    names = (name for table in inputs.tables() for name in table[FILE].map(os.path.dirname))
    holds = {open_path(folder or ".").resolve() for folder in set(names)}
    files = {open_path(one).resolve() for one in given if open_path(one).is_file()}
    above = [place, *place.parents]
    is_inside = any(_searched(os.fspath(one)) in above for one in given)
    if is_inside or any(place in (one, *one.parents) for one in holds | files):
        raise MedlensError(
            "The explanations would lie among the images.",
            got="an -o that is, holds, or lies in an INPUT",
            expected="a folder apart from the images",
            fix="Name another -o.",
            names=[str(out)],
        )


def _searched(given: str) -> Path | None:
    """The folder that is searched to its depths for an INPUT; None where there is none."""
    path = open_path(given)
    if path.is_dir():
        return path.resolve()
    if is_remote(path) or path.exists() or "**" not in given:
        return None
    parts = Path(given).parts
    return Path(*itertools.takewhile(lambda part: not glob.has_magic(part), parts)).resolve()
