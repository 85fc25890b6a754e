"""The commands `predict` and `explain`: a finished classifier on new images."""

from __future__ import annotations

import glob
import itertools
import os
from collections.abc import Sequence
from pathlib import Path

import pandas as pd

from medlens.errors import MedlensError
from medlens.model.checksums import CHECKSUMS_FILE, digest_of
from medlens.model.classifier import load_classifier
from medlens.run_dir import classifier_folder
from medlens.screen import Screen
from medlens.serve.explain import explain_to_folder
from medlens.serve.explain_folder import check_folder
from medlens.serve.inputs import Inputs, PathLike, list_inputs
from medlens.serve.only_writer import only_writer
from medlens.serve.predict import Outcome, predict_to_file, screen_lines, tell
from medlens.serve.result_file import check_result_path
from medlens.serve.run_zip import opened_run

MOST_ON_SCREEN = 100
NOTICE = "Not a medical device."


def run_predict(
    run: PathLike, given: Sequence[PathLike], out: Path, *, overwrite: bool, screen: Screen
) -> Outcome:
    """Predict images into a file; an interrupted run goes on.

    Args:
        run: A run folder, its classifier folder alone, or a run as .zip.
        given: As for `list_inputs`.
        out: The file to write: .csv, .json, .jsonl or .parquet.
        overwrite: Whether a file may be there.
        screen: Where it is said what happens.

    Raises:
        MedlensError: If the classifier, the images or the place cannot be used.
    """
    check_result_path(out, overwrite=overwrite)
    _spare_inputs(out, given)
    inputs = _list(given, screen)
    with opened_run(run) as opened:
        folder = classifier_folder(opened)
        classifier = load_classifier(folder)
        with only_writer(out), screen.progress("Predicting", len(inputs), "images") as progress:
            # Another process may have finished meanwhile.
            check_result_path(out, overwrite=overwrite)
            outcome = predict_to_file(
                classifier,
                inputs,
                out,
                digest=digest_of(folder / CHECKSUMS_FILE),
                say=screen.say,
                progress=progress,
            )
    screen.say("\n".join([*outcome.lines, f"Predictions: {out}", NOTICE]))
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
        The lines of a table, and how many images were refused.

    Raises:
        MedlensError: If the classifier or the images cannot be used, or the images are many.
    """
    inputs = _list(given, screen)
    if len(inputs) > MOST_ON_SCREEN:
        raise MedlensError(
            "These are too many images for the screen.",
            got=f"{len(inputs):,} images and no -o",
            expected=f"at most {MOST_ON_SCREEN}, or a file for the result",
            fix="Add -o predictions.csv (or .json, .jsonl, .parquet).",
        )
    with opened_run(run) as opened:
        classifier = load_classifier(classifier_folder(opened))
    table = pd.concat(list(tell(classifier, inputs, 0, lambda _: None)))
    return [*screen_lines(table, classifier.classes), NOTICE], int(
        (table["unreadable"] != "").sum()
    )


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
    inputs = _list(given, screen)
    _keep_apart(out, given, inputs)
    with opened_run(run) as opened:
        folder = classifier_folder(opened)
        classifier = load_classifier(folder)
        _check_class(class_name, classifier.classes)
        with screen.progress("Explaining", len(inputs), "images") as progress:
            outcome = explain_to_folder(
                classifier,
                inputs,
                out,
                class_name=class_name,
                digest=digest_of(folder / CHECKSUMS_FILE),
                overwrite=overwrite,
                say=screen.say,
                progress=progress,
            )
    screen.say("\n".join([*outcome.lines, f"Explanations: {out}", NOTICE]))
    return outcome


def _check_class(class_name: str | None, classes: Sequence[str]) -> None:
    if class_name is not None and class_name not in classes:
        raise MedlensError(
            "The classifier does not know the class that is to be explained.",
            got=class_name,
            expected="one of " + ", ".join(classes),
            fix="Write the name as it stands here, or leave --class out.",
        )


def _list(given: Sequence[PathLike], screen: Screen) -> Inputs:
    inputs = list_inputs(given)
    for kind, count in inputs.passed_over.items():
        screen.say(f"{count:,} in the folders passed over: {kind}.")
    return inputs


def _spare_inputs(out: Path, given: Sequence[PathLike]) -> None:
    """Refuse to write the result over what was given."""
    if out.exists() and any(Path(one).exists() and out.samefile(one) for one in given):
        raise MedlensError(
            "The result would replace a file that was given.",
            got="the same file as INPUT and as -o",
            expected="another name for the result",
            fix="Name another -o.",
            names=[str(out)],
        )


def _keep_apart(out: Path, given: Sequence[PathLike], inputs: Inputs) -> None:
    """Refuse a folder for explanations that is, holds, or lies in what was given.

    Pages would lie among the images, and the next time be taken for some.

    Raises:
        MedlensError: If it does.
    """
    place = out.resolve()
    holds = {Path(folder or ".").resolve() for folder in map(os.path.dirname, inputs.files())}
    files = {Path(one).resolve() for one in given if Path(one).is_file()}
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
    if Path(given).is_dir():
        return Path(given).resolve()
    if Path(given).exists() or "**" not in given:
        return None
    parts = Path(given).parts
    return Path(*itertools.takewhile(lambda part: not glob.has_magic(part), parts)).resolve()
