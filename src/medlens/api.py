"""The Python interface: the verbs of the command line. Heavy imports wait until they are used."""

from __future__ import annotations

import os
import tempfile
import weakref
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from medlens.config import make_options
from medlens.data.remote import open_path
from medlens.run import Run
from medlens.start_up import without_start_up_noise

if TYPE_CHECKING:
    from medlens.data.finding import Finding
    from medlens.model.classifier import Classifier
    from medlens.screen import Screen
    from medlens.serve.export import Exported
    from medlens.serve.predict import Outcome

PathLike = str | os.PathLike[str]


def train(data: PathLike, *, out: PathLike, **options: Any) -> Run:
    """Train a classifier: audit, split, features, head, evaluation, report. Not a medical device.

    Args:
        data: A folder with one sub-folder per class (also below train/val/test folders), a CSV
            with the columns path,label, or a MedMNIST .npz file.
        out: The run folder to write.
        **options: The options of `medlens train` by name, such as `backbone="mobilenet_v2"`,
            `stop_at_accuracy=0.98`, `split=(0.7, 0.15, 0.15)`, `quiet=True`.

    Returns:
        The run: `run.evaluation`, `run.history`, `run.predictions`, `run.report`.

    Raises:
        MedlensError: If an option or the data cannot be used; says how to mend it.
    """
    with without_start_up_noise():
        from medlens.pipeline import run_training

    chosen = make_options({"data": os.fspath(data), "out": os.fspath(out), **options})
    return run_training(chosen, new_screen(chosen.quiet))


def audit(data: PathLike, **options: Any) -> list[Finding]:
    """Say what is wrong with a data set, without training.

    Args:
        data: As for `train`.
        **options: The options of `medlens audit` by name, such as `patient_regex`.

    Returns:
        The findings, errors first; each has code, severity, message, fix and files.

    Raises:
        MedlensError: If the data set cannot be read at all.
    """
    from medlens.intake import list_images, take_in

    chosen = make_options({"data": os.fspath(data), "quiet": True, **options})
    screen = new_screen(chosen.quiet)
    return take_in(list_images(chosen), chosen, screen).findings


def evaluate(run: PathLike, data: PathLike, **options: Any) -> Run:
    """Test the classifier of a run on other, external images. Nothing is fitted on them.

    Args:
        run: The folder of a finished run.
        data: As for `train`; its classes must be the classifier's.
        **options: patient_regex, drop_class, prevalence, out (default: RUN/external/NAME),
            overwrite, quiet.

    Returns:
        The external test: `.evaluation` has the shape of a run's, with the run's own result under
        "internal"; `.predictions`.

    Raises:
        MedlensError: If the data cannot test this classifier; says how to mend it.
    """
    with without_start_up_noise():
        from medlens.external import evaluate_externally
    from medlens.run_dir import RunDir

    chosen = make_options({"data": os.fspath(data), **options})
    return evaluate_externally(RunDir(Path(run)), chosen, new_screen(chosen.quiet))


def compare(first: PathLike, second: PathLike) -> dict[str, Any]:
    """Compare two runs on the same test set, paired: differences are second minus first.

    Raises:
        MedlensError: If a run is not finished, both are the same, or the test sets differ.
    """
    from medlens.errors import MedlensError
    from medlens.report.compare import compare_predictions

    if Path(first).resolve() == Path(second).resolve():
        raise MedlensError(
            "There is nothing to compare.",
            got="the same run twice",
            expected="two runs with the same test set",
            fix="Name another run.",
            names=[str(first)],
        )
    runs = [Run(Path(path)) for path in (first, second)]
    before, after = (run.evaluation for run in runs)
    return compare_predictions(
        runs[0].predictions,
        runs[1].predictions,
        before["classes"],
        before["positive_class"],
        seed=before["seed"],
        draws=before["draws"],
        second_classes=after["classes"],
    )


def export(
    run: PathLike,
    *,
    format: str,  # noqa: A002 -- the word of the command line, as in keras.Model.export
    out: PathLike,
    images: PathLike = "",
    int8: bool = False,
    overwrite: bool = False,
    cache: str = "auto",
    quiet: bool = False,
) -> Exported:
    """Write a classifier for another runtime, if it answers there as it does here.

    Args:
        run: A run folder, its `classifier` folder alone, or a run as .zip.
        format: "savedmodel", "onnx", "litert" or "openvino".
        out: The file to write (.onnx, .tflite, .xml), or the folder of a SavedModel.
        images: A folder of images to compare on; "": some of the run's test images, if they are
            still at their place, else synthetic ones.
        int8: LiteRT only: convolutions in 8-bit integers, with the loss in accuracy measured.
        overwrite: Whether an earlier export is replaced.
        cache: Where the pictures of an .npz file are unpacked; "auto" for the user's cache.
        quiet: Whether nothing is printed.

    Returns:
        `.path`, `.sidecar` and `.facts`, with the largest difference in `.facts["check"]`.

    Raises:
        MedlensError: If the export is not possible, or not equal; nothing is written then.
    """
    with without_start_up_noise():
        from medlens.exporting import export_run
    from medlens.serve.export import Wanted
    from medlens.serve.export_formats import find_format
    from medlens.serve.run_zip import opened_run

    wanted = Wanted(find_format(format), Path(out), int8, overwrite)
    screen = new_screen(quiet)
    with opened_run(run) as opened:
        return export_run(opened, wanted, images=os.fspath(images), cache=cache, screen=screen)


def predict(
    run: PathLike,
    inputs: PathLike | Iterable[PathLike],
    *,
    out: PathLike,
    overwrite: bool = False,
    ray: str = "none",
    quiet: bool = False,
) -> Outcome:
    """Write what a classifier says of many images, in memory that does not grow with them.

    For a few images, `medlens.load(run).predict(paths)` gives the table itself.

    Args:
        run: A run folder, its classifier folder alone, or a run as .zip.
        inputs: Images, folders, CSV or Parquet files with a column path or file, or patterns; one
            or several, here or on other storage (s3://BUCKET/FOLDER).
        out: The file to write: .csv, .json, .jsonl or .parquet. If this is interrupted, the same
            call goes on.
        overwrite: Whether a file may be there.
        ray: "local", "auto" or HOST:PORT: a Ray cluster that goes through the images.
        quiet: Whether nothing is printed.

    Returns:
        How many images were answered and refused (the reasons stand in the file), and what a
        cluster began again.

    Raises:
        MedlensError: If the classifier, the images or the place cannot be used.
    """
    with without_start_up_noise():
        from medlens.prediction import run_predict

    screen = new_screen(quiet)
    place = open_path(out)
    return run_predict(run, _several(inputs), place, overwrite=overwrite, ray=ray, screen=screen)


def explain(
    run: PathLike,
    inputs: PathLike | Iterable[PathLike],
    *,
    out: PathLike,
    class_name: str | None = None,
    overwrite: bool = False,
    quiet: bool = False,
) -> Outcome:
    """Show where images speak for a class, and which training cases are most like them.

    An interrupted call goes on, as `predict` does.

    Args:
        run: As for `predict`.
        inputs: As for `predict`.
        out: The folder to write, new or empty: a page for each image, and explain.csv.
        class_name: The class to explain; None for that which is predicted, image by image.
        overwrite: Whether an earlier explanation may be there.
        quiet: Whether nothing is printed.

    Raises:
        MedlensError: If the classifier, the images, the class or the place cannot be used.
    """
    with without_start_up_noise():
        from medlens.prediction import run_explain

    return run_explain(
        run,
        _several(inputs),
        open_path(out),
        class_name=class_name,
        overwrite=overwrite,
        screen=new_screen(quiet),
    )


def _several(inputs: PathLike | Iterable[PathLike]) -> list[PathLike]:
    return [inputs] if isinstance(inputs, str | os.PathLike) else list(inputs)


def load(path: PathLike) -> Classifier:
    """Load the classifier of a run, ready for `predict`.

    Args:
        path: A run folder, its `classifier` folder alone, or a run as .zip.

    Raises:
        MedlensError: If there is no whole classifier.
    """
    with without_start_up_noise():
        from medlens.model.classifier import load_classifier
    from medlens.run_dir import classifier_folder
    from medlens.serve.run_zip import is_zip, unpack_run

    if not is_zip(Path(path)):
        return load_classifier(classifier_folder(path))
    folder = tempfile.TemporaryDirectory(prefix="medlens-")
    classifier = load_classifier(classifier_folder(unpack_run(Path(path), Path(folder.name))))
    # It reads from there when it is asked for pictures of training cases.
    weakref.finalize(classifier, folder.cleanup)
    return classifier


def new_screen(quiet: bool) -> Screen:
    """A screen on standard output, or in the notebook."""
    from rich.console import Console

    from medlens.screen import Screen

    return Screen(Console(), quiet)
