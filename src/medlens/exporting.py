"""The command `export`: a run's classifier in another format, compared on pictures first."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from medlens.config import read_config
from medlens.data.images import UnreadableImage, is_image_name
from medlens.data.medmnist import unpack_medmnist
from medlens.data.phantom import CLASSES, draw_phantom
from medlens.data.remote import join_path, open_path
from medlens.data.scan import in_order
from medlens.environment import cache_folder
from medlens.errors import MedlensError
from medlens.model.classifier import Classifier, load_classifier
from medlens.model.classifier_files import FACTS_FILE, MODEL_FILE
from medlens.report.predictions import read_predictions
from medlens.run_dir import RunDir
from medlens.screen import Screen
from medlens.serve.export import Compared, Exported, Wanted, check_wanted, export_classifier

# So many pictures an export is compared on, so many int8 is calibrated on, and on so many at most
# it is measured: they are in memory.
COMPARED = 64
CALIBRATED = 200
MEASURED = 2000
SYNTHETIC = 16


def export_run(
    run: Path, wanted: Wanted, *, images: str = "", cache: str = "auto", screen: Screen
) -> Exported:
    """Export the classifier of a run.

    Args:
        run: A run folder, or its classifier folder alone.
        wanted: The format, and where it goes.
        images: A folder of images to compare on; "" for those of the run, if they are still there,
            else synthetic ones.
        cache: Where the pictures of an .npz file are unpacked.
        screen: Where it is said what happens.

    Raises:
        MedlensError: If the export is not possible or not equal; nothing is written then.
    """
    folder = run if (run / FACTS_FILE).exists() else run / "classifier"
    check_wanted(wanted, folder)
    _check_backend()
    classifier = load_classifier(folder)
    root = folder.parent if folder.name == "classifier" else run
    compared = choose_pictures(classifier, RunDir(root), wanted, images, cache)
    count = len(compared.pictures)
    screen.say(f"Comparing on {count:,} pictures: {compared.origin}.")
    with (folder / MODEL_FILE).open("rb") as stream:
        digest = hashlib.file_digest(stream, "sha256").hexdigest()
    with screen.progress("Converting and comparing", count, "pictures") as progress:
        exported = export_classifier(
            classifier, wanted, compared, network_sha256=digest, progress=progress
        )
    for line in _result_lines(exported, wanted):
        screen.say(line)
    return exported


def _check_backend() -> None:
    import keras

    if keras.backend.backend() != "tensorflow":
        raise MedlensError(
            "An export needs Keras on TensorFlow.",
            got=f"the backend {keras.backend.backend()}",
            expected="tensorflow; a classifier trained with another backend loads there as well",
            fix="KERAS_BACKEND=tensorflow medlens export ...",
        )


def _result_lines(exported: Exported, wanted: Wanted) -> list[str]:
    check = exported.facts["check"]
    difference = f"Largest difference of a probability: {check['largest_difference']:.2g}"
    if wanted.int8:
        loss = check["int8"]
        yours = [
            f"Accuracy on {loss['n']:,} labelled images: {loss['accuracy_before']:.4f} before, "
            f"{loss['accuracy_after']:.4f} in 8-bit integers ({-loss['loss']:+.4f}). "
            f"Images with another answer: {loss['other_answers']:,}.",
            difference + ".",
        ]
    else:
        yours = [f"{difference} (less than {check['limit']:g} is asked for)."]
    return [
        *yours,
        f"Export: {exported.path}",
        f"What belongs to it: {exported.sidecar}",
        "Not a medical device.",
    ]


def choose_pictures(
    classifier: Classifier, run: RunDir, wanted: Wanted, images: str, cache: str
) -> Compared:
    """The pictures that an export is compared on, and that int8 is calibrated on.

    Args:
        classifier: It says what a picture looks like.
        run: The run, whose data may be there no more; its folder may hold the classifier alone.
        wanted: With int8, labels and further pictures are needed.
        images: The folder that the user named, or "".
        cache: Where the pictures of an .npz file are unpacked.

    Raises:
        MedlensError: If the folder named has no image, or int8 has no labelled images.
    """
    named = _images_below(Path(images)) if images else None
    most = MEASURED if wanted.int8 else COMPARED
    own = None if named is not None and not wanted.int8 else run_images(run, cache, most)
    if wanted.int8:
        return _for_int8(classifier, named, own)
    if named is not None:
        return Compared(_read(classifier, _evenly(named, COMPARED)), "real images that were named")
    if own is not None:
        pictures = _read(classifier, own.tested)
        return Compared(pictures, f"real images, of the run's {own.split} set")
    drawn = [
        draw_phantom(CLASSES[number % len(CLASSES)], size=64, patient=number + 1).pixels
        for number in range(SYNTHETIC)
    ]
    pictures = np.stack([classifier.rule.apply(np.stack([one] * 3, axis=-1)) for one in drawn])
    origin = "synthetic, as the run's images are not at their place (--images FOLDER names others)"
    return Compared(pictures, origin)


@dataclass(frozen=True)
class RunImages:
    """The images of a run that are still at their place, unchanged.

    Args:
        tested: Of `split`, with the columns file and label.
        trained: Of train.
        split: "test", or "val" where the run has no test set.
    """

    tested: pd.DataFrame
    trained: pd.DataFrame
    split: str


def run_images(run: RunDir, cache: str, most: int) -> RunImages | None:
    """Images of a run, if its data is still where it was; None if not.

    Args:
        run: The run.
        cache: Where the pictures of an .npz file are unpacked.
        most: How many of those tested are taken, evenly.
    """
    if not all(path.is_file() for path in (run.config, run.dataset, run.predictions)):
        return None
    root = _find_root(read_config(run.config).get("data", ""), cache)
    if root is None:
        return None
    known = pd.read_csv(run.dataset, dtype=str, keep_default_na=False).set_index("path")["sha256"]
    rows = read_predictions(run.predictions).query("fold == ''")
    split = "test" if (rows["split"] == "test").any() else "val"
    files = pd.Series([join_path(root, path) for path in rows["path"]], rows.index, object)
    rows = rows.assign(file=files, sha256=rows["path"].map(known))
    tested, trained = (rows[rows["split"] == name] for name in (split, "train"))
    tested, trained = _unchanged(_evenly(tested, most)), _unchanged(_evenly(trained, CALIBRATED))
    return RunImages(tested, trained, split) if len(tested) and len(trained) else None


def _find_root(data: str, cache: str) -> Path | None:
    """The folder that a run's paths are relative to; None where its data cannot be had.

    It may lie where this machine has no access to, or no package for.
    """
    try:
        place = open_path(data)
        if not place.exists():
            return None
        if place.suffix.lower() == ".npz":
            return unpack_medmnist(place, cache_folder(cache))[0]
        return place if place.is_dir() else place.parent
    except (MedlensError, OSError):
        return None


def _unchanged(rows: pd.DataFrame) -> pd.DataFrame:
    """The rows whose file has the content that the run saw."""
    return rows[list(map(_has_content, rows["file"], rows["sha256"]))]


def _has_content(file: Path, digest: str) -> bool:
    try:
        return hashlib.sha256(file.read_bytes()).hexdigest() == digest
    except (MedlensError, OSError):
        return False


def _for_int8(
    classifier: Classifier, named: pd.DataFrame | None, own: RunImages | None
) -> Compared:
    """Calibration on the images named, else on train's; accuracy on the run's test images.

    Where these are gone, and the images named lie in folders of the classes, every other one
    calibrates, and the rest is measured.
    """
    if own is not None:
        calibration = own.trained if named is None else _evenly(named, CALIBRATED)
        measured, origin = own.tested, f"real images, of the run's {own.split} set"
    elif named is not None and set(named["label"]) <= set(classifier.classes):
        calibration = _evenly(named.iloc[::2], CALIBRATED)
        measured = _evenly(named.iloc[1::2], MEASURED)
        origin = "real images that were named, every other one"
    else:
        raise MedlensError(
            "--int8 needs labelled images, to measure what it costs.",
            got="no image of the run at its place"
            + ("" if named is None else ", and images that are not in folders of the classes"),
            expected="the data that the run was trained on, or a folder with one sub-folder per "
            "class: " + ", ".join(classifier.classes),
            fix="Name such a folder with --images, or leave --int8 out.",
        )
    if not len(measured):
        raise _no_images("one image alone")
    readable, labels = _read_labelled(classifier, measured)
    return Compared(readable, origin, labels, _read(classifier, calibration))


def _images_below(folder: Path) -> pd.DataFrame:
    """All images in a folder, sorted; the label is the first folder's name below it."""
    if not folder.is_dir():
        raise _no_images("nothing at that place" if not folder.exists() else "not a folder")
    files = sorted(path for path in folder.rglob("*") if path.is_file() and is_image_name(path))
    if not files:
        raise _no_images("a folder without images")
    parts = [path.relative_to(folder).parts for path in files]
    return pd.DataFrame({"file": files, "label": [one[0] if one[1:] else "" for one in parts]})


def _no_images(got: str) -> MedlensError:
    return MedlensError(
        "There are no images to compare on.",
        got=got,
        expected="a folder with images that can be read, in it or in folders below",
        fix="Check the path given with --images.",
    )


def _evenly(rows: pd.DataFrame, count: int) -> pd.DataFrame:
    """At most `count` rows, from all over the table."""
    if len(rows) <= count:
        return rows
    return rows.iloc[np.linspace(0, len(rows) - 1, count).round().astype(int)]


def _read(classifier: Classifier, rows: pd.DataFrame) -> NDArray[np.uint8]:
    return _read_labelled(classifier, rows)[0]


def _read_labelled(
    classifier: Classifier, rows: pd.DataFrame
) -> tuple[NDArray[np.uint8], list[str]]:
    """The pictures of the rows that can be read, and their labels."""

    def picture(file: Path) -> NDArray[np.uint8] | None:
        try:
            return classifier.picture(file)
        except UnreadableImage:
            return None

    files: Iterable[Path] = list(rows["file"])
    found = zip(in_order(picture, files), rows["label"], strict=True)
    readable = [(one, str(label)) for one, label in found if one is not None]
    if not readable:
        raise _no_images("no image that can be read")
    return np.stack([one for one, _ in readable]), [label for _, label in readable]
