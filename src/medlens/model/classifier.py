"""The saved classifier: raw pixels in, probabilities out, in a folder that needs nothing else."""

from __future__ import annotations

import dataclasses
import importlib.metadata
import itertools
import json
import os
import zipfile
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from types import MappingProxyType
from typing import Any

import keras
import numpy as np
import pandas as pd
from numpy.typing import NDArray

from medlens.data.images import RESIZE_FILTER, UnreadableImage, fetch, read_image
from medlens.data.remote import REQUESTS_AT_A_TIME, is_url, join_path, open_path
from medlens.data.scan import PIXELS_UNDER_WAY, PictureRule, Room, count_pixels, in_order
from medlens.errors import MedlensError, in_words
from medlens.files import write_json
from medlens.model.calibration import probabilities
from medlens.model.checksums import verify_checksums, verify_if_listed, write_checksums
from medlens.model.classifier_files import (
    CASES_FILE,
    FACTS_FILE,
    FAMILIARITY_FILE,
    MODEL_FILE,
    NEEDED_FILES,
    PICTURES_FILE,
)
from medlens.model.classifier_forward import classifier_forward
from medlens.model.classifier_graph import build_classifier, features_layer
from medlens.model.engine import FrozenPass
from medlens.model.familiarity import Familiarity, load_familiarity, save_familiarity
from medlens.model.forward import Forward
from medlens.model.head import Head
from medlens.model.opened_graph import OpenedGraph, open_graph
from medlens.model.operating_point import OperatingPoint
from medlens.model.prediction_sets import name_sets, prediction_sets
from medlens.model.training_cases import TrainingCases, load_cases, save_cases, write_pictures
from medlens.model.verdict import Verdict, decide_class

# Of an image file: RGB, 0 to 255, of shape (size, size, 3); or the reason why there is none.
Picture = NDArray[np.uint8] | str

FORMAT_VERSION = 3
# Of the prediction sets that are said of new images, as classifier.json names it.
SET_LEVEL = "0.9"
# Why nothing is said of an image over which the network overflows.
NO_NUMBER = "The network gives no finite number for it."
CHECKED_PER_CLASS = 1
CHECKED = 8
# Of a probability, between the saved network in float32 and the features that were cached.
LARGEST_DIFFERENCE = {"float32": 1e-4, "bfloat16": 5e-2}
DICOM_RULE = (
    "modality LUT, then VOI LUT or first window (without one, the frame's own range without "
    "padding), then MONOCHROME1 inverted"
)


@dataclass(frozen=True)
class Classifier:
    """A trained classifier, ready for new images. Not a medical device.

    Args:
        model: RGB pixels (batch, size, size, 3), 0 to 255 -> probabilities (batch, classes).
        classes: Class names, in the order of the probabilities.
        rule: How an image becomes a picture of that size.
        frame: The frame of multi-frame DICOM files; None for the middle one.
        familiarity: Measures how unlike the training images an image is.
        limit: Images at a larger distance are unfamiliar.
        cases: The training images, so that those similar to an image are found.
        facts: All of classifier.json.
        threads: Pictures that ncnn runs side by side, where it runs; None for one per core.
    """

    model: keras.Model
    classes: tuple[str, ...]
    rule: PictureRule
    frame: int | None
    familiarity: Familiarity
    limit: float
    cases: TrainingCases
    facts: dict[str, Any]
    threads: int | None = None

    @property
    def verdict(self) -> Verdict:
        """What turns logits and distances into what is said of an image."""
        point = self.facts["operating_point"]
        return Verdict(
            self.classes,
            float(self.facts["temperature"]),
            self.facts["positive_class"],
            None if point is None else float(point["threshold"]),
            self.limit,
        )

    @property
    def set_threshold(self) -> float | None:
        """The lowest probability of a class in a prediction set at 90 %; None without sets."""
        value = self.facts["prediction_sets"].get(SET_LEVEL)
        return None if value is None else float(value)

    def predict(
        self, paths: str | os.PathLike[str] | Iterable[str | os.PathLike[str]]
    ) -> pd.DataFrame:
        """Probabilities of new images.

        A file that cannot be read does not stop the others: it gets the reason instead.

        Args:
            paths: Image files; DICOM files as well. One alone needs no list.

        Returns:
            One row per path, in the order given: path, then what `answer` says of it (texts are "",
            the set is empty and probabilities are NaN where it is unreadable), and unreadable (""
            or the reason).
        """
        given = [paths] if isinstance(paths, str | os.PathLike) else paths
        parts = list(self.predict_in_parts(os.fspath(path) for path in given))
        return pd.concat(parts, ignore_index=True) if parts else self.tell([], [])

    def predict_in_parts(self, paths: Iterable[str]) -> Iterator[pd.DataFrame]:
        """What `predict` gives, a batch of images at a time, in memory that does not grow.

        Args:
            paths: Image files; they are asked for as they are needed.

        Yields:
            Tables of `predict`, one or more rows each, the index counting on from 0.
        """
        done = 0
        with closing(self.read_all(paths)) as found:
            for batch in self._batches(found):
                yield self.tell([name for name, _ in batch], [one for _, one in batch], done)
                done += len(batch)

    def tell_as_read(
        self, found: Iterable[tuple[str, Picture]], progress: Callable[[int], None]
    ) -> pd.DataFrame:
        """The table of `tell` for files that are being read; the network runs batch by batch.

        However many pictures a machine takes at a time, the same files give the same numbers.

        Args:
            found: Files and what `read` gives of them, asked for as they are needed.
            progress: Called with the number of files done since the last call.
        """
        names: list[str] = []
        reasons: list[str] = []
        rows: list[NDArray[np.float32]] = []
        for batch in self._batches(found):
            names += [name for name, _ in batch]
            reasons += [one if isinstance(one, str) else "" for _, one in batch]
            rows.append(self._run(self._stack([one for _, one in batch])))
            progress(len(batch))
        return self._beside_reasons(names, reasons, self._say(np.concatenate(rows)))

    def _batches(self, found: Iterable[tuple[str, Picture]]) -> Iterator[list[tuple[str, Picture]]]:
        batches = iter(found)
        while batch := list(itertools.islice(batches, self._forward.batch)):
            yield batch

    def answer(self, pictures: NDArray[np.uint8]) -> pd.DataFrame:
        """What is said of pictures, as `picture` makes them.

        It may be called from any thread, but not from two at once.

        Args:
            pictures: RGB, 0 to 255, of shape (n, size, size, 3); n may be 0.

        Returns:
            One row per picture: predicted (the most probable class), decision (of the operating
            point, "" without one), prediction_set (the names of the classes that hold the true
            one in 90 % of cases; none where there were too few images for it), prob_<class> from 0
            to 1, distance from the training images, unfamiliar (1 where it is above the limit: the
            answer is then worth little), unreadable ("", or that the network gives no finite
            number: then the others are as for a file that cannot be read).
        """
        return self._say(self._run(pictures))

    def _run(self, pictures: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Features and logits of pictures, side by side; n may be 0."""
        starts = range(0, len(pictures), self._forward.batch)
        found = [
            self._forward.run(pictures[start : start + self._forward.batch]) for start in starts
        ]
        columns = len(self.familiarity.mean) + len(self.classes)
        return np.concatenate(found) if found else np.empty((0, columns), np.float32)

    def _say(self, rows: NDArray[np.float32]) -> pd.DataFrame:
        """What `answer` says, from features and logits."""
        num_classes = len(self.classes)
        logits = rows[:, -num_classes:].astype(np.float64)
        is_known = np.asarray(np.isfinite(logits).all(axis=1))
        probable = probabilities(np.where(is_known[:, None], logits, 0), self.verdict.temperature)
        probable[~is_known] = np.nan
        distances = self.familiarity.distances(rows[:, :-num_classes])
        threshold = self.set_threshold
        sets: list[tuple[str, ...]] = [()] * len(rows)
        if threshold is not None:
            named = name_sets(prediction_sets(probable, threshold), self.classes)
            sets = [one if known else () for one, known in zip(named, is_known, strict=True)]
        predicted = np.asarray(self.classes)[np.nan_to_num(probable).argmax(axis=1)]
        return pd.DataFrame(
            {
                "predicted": np.where(is_known, predicted, ""),
                "decision": np.where(is_known, decide_class(probable, self.verdict), ""),
                "prediction_set": pd.Series(sets, dtype=object),
                **{f"prob_{name}": probable[:, i] for i, name in enumerate(self.classes)},
                "distance": np.where(is_known, distances, np.nan),
                "unfamiliar": (is_known & ~(distances <= self.limit)).astype(int),
                "unreadable": np.where(is_known, "", NO_NUMBER),
            }
        )

    def measure(
        self, paths: Sequence[Path], progress: Callable[[int], None]
    ) -> tuple[NDArray[np.float32], NDArray[np.float64]]:
        """Features, and logits before the temperature, of images that are known to be readable.

        Args:
            paths: Image files, one at least.
            progress: Called with the number of images done since the last call.

        Raises:
            UnreadableImage: If one cannot be read after all.
        """
        found: list[NDArray[np.float32]] = []
        waiting: list[NDArray[np.uint8]] = []
        for number, picture in enumerate(in_order(self.picture, paths)):
            waiting.append(picture)
            if len(waiting) == self._forward.batch or number == len(paths) - 1:
                found.append(self._forward.run(np.stack(waiting)))
                progress(len(waiting))
                waiting = []
        rows, classes = np.concatenate(found), len(self.classes)
        return rows[:, :-classes], rows[:, -classes:].astype(np.float64)

    def picture(self, source: Path | bytes) -> NDArray[np.uint8]:
        """What the network sees of an image file, or of its content: RGB, (size, size, 3).

        Raises:
            UnreadableImage: If it cannot be read.
        """
        return self.rule.apply(read_image(source, frame=self.frame).pixels)

    def read_all(
        self,
        paths: Iterable[str],
        *,
        threads: int | None = None,
        refused: Mapping[str, str] = MappingProxyType({}),
    ) -> Generator[tuple[str, Picture], None, None]:
        """Files and what `read` gives of them, in order; memory does not grow with their number.

        Args:
            paths: Image files; they are asked for as they are needed.
            threads: How many read; None for one per core. More read from other storage.
            refused: Files that are not to be read -> the reason; asked for each as it comes.
        """
        room = Room(PIXELS_UNDER_WAY)

        def read(path: str) -> tuple[str, Picture]:
            return path, refused.get(path) or self.read(path, room)

        given = iter(paths)
        first = list(itertools.islice(given, 1))
        threads = REQUESTS_AT_A_TIME if any(map(is_url, first)) else threads
        with closing(in_order(read, itertools.chain(first, given), threads=threads)) as found:
            yield from found

    def read(self, path: str, room: Room | None = None) -> Picture:
        """The picture of an image file, or the reason why there is none.

        Args:
            path: The file, on this machine or on other storage.
            room: Pixels that threads share; None where no other thread reads.
        """
        try:
            source = fetch(open_path(path))
            with (room or Room(PIXELS_UNDER_WAY)).take(count_pixels(source)):
                return self.picture(source)
        except UnreadableImage as error:
            return error.reason

    def tell(
        self, paths: Sequence[str], pictures: Sequence[Picture], first: int = 0
    ) -> pd.DataFrame:
        """The table of `predict` for files that are read already.

        Args:
            paths: The files.
            pictures: The picture of each, as `picture` makes it, or the reason why there is none.
            first: Number of the first row.
        """
        reasons = [one if isinstance(one, str) else "" for one in pictures]
        said = self._beside_reasons(paths, reasons, self.answer(self._stack(pictures)))
        return said.set_axis(range(first, first + len(paths)))

    def _stack(self, pictures: Sequence[Picture]) -> NDArray[np.uint8]:
        """Those that are pictures, of shape (n, size, size, 3)."""
        known = [one for one in pictures if not isinstance(one, str)]
        stacked = np.empty((len(known), self.rule.size, self.rule.size, 3), np.uint8)
        for place, one in enumerate(known):
            stacked[place] = one
        return stacked

    def _beside_reasons(
        self, paths: Sequence[str], reasons: Sequence[str], said: pd.DataFrame
    ) -> pd.DataFrame:
        """What is said of the files that could be read, and why nothing of the others."""
        known = [number for number, reason in enumerate(reasons) if not reason]
        said = said.set_axis(known).reindex(range(len(paths)))
        texts = ["predicted", "decision"]
        said[texts] = said[texts].fillna("")
        sets = [one if isinstance(one, tuple) else () for one in said["prediction_set"]]
        said["prediction_set"] = pd.Series(sets, said.index, object)
        said["unfamiliar"] = said["unfamiliar"].fillna(0).astype(int)
        said.insert(0, "path", list(paths))
        own = iter(said["unreadable"][known])
        said["unreadable"] = [reason or next(own) for reason in reasons]
        return said

    @cached_property
    def graph(self) -> OpenedGraph:
        """The network opened up, for heat maps and for the features of a picture."""
        return open_graph(self.model)

    @cached_property
    def _forward(self) -> Forward:
        """Features and logits of pictures, side by side."""
        return classifier_forward(self.model, self.facts, threads=self.threads)


@dataclass(frozen=True)
class ClassifierFacts:
    """What the saved classifier has to know beside its network.

    Args:
        classes: Class names in the order of the logits.
        features: "all" or "last".
        frame: The frame of multi-frame DICOM files; None for the middle one.
        positive_class: The class that counts as positive, if there is one.
        temperature: Divides the logits before the softmax.
        operating_point: None where there is none.
        set_thresholds: The lowest probability of a class in a prediction set, by level.
        fitted_on: What temperature, operating point, sets and limit were fitted on, in words.
        familiarity: Measures how unlike the training images an image is.
        limit: Images at a larger distance are unfamiliar.
        cases: The training images, so that those similar to an image are found.
        views: Symmetries of a picture whose logits are averaged; 1 for the picture alone.
    """

    classes: tuple[str, ...]
    features: str
    frame: int | None
    positive_class: str | None
    temperature: float
    operating_point: OperatingPoint | None
    set_thresholds: Mapping[float, float | None]
    fitted_on: str
    familiarity: Familiarity
    limit: float
    cases: TrainingCases
    views: int = 1


def save_classifier(
    folder: Path,
    frozen_pass: FrozenPass,
    head: Head,
    facts: ClassifierFacts,
    read_picture: Callable[[int], NDArray[np.uint8] | None] | None = None,
) -> Classifier:
    """Write the classifier's files, each whole or not at all, and last their checksums.

    Args:
        folder: The folder `classifier/` of the run.
        frozen_pass: The backbone, its weights and the picture rule.
        head: The trained head.
        facts: Classes, DICOM frame, and what was chosen on development images.
        read_picture: Row of dataset.csv -> its picture, as for `write_pictures`; None to keep no
            pictures of training images.
    """
    model = build_classifier(
        frozen_pass,
        head,
        features=facts.features,
        temperature=facts.temperature,
        views=facts.views,
    )
    content = {
        "format": FORMAT_VERSION,
        "classes": list(facts.classes),
        "positive_class": facts.positive_class,
        "backbone": frozen_pass.backbone.name,
        "weights": {"kind": frozen_pass.weights.kind, "sha256": frozen_pass.weights.sha256},
        "is_fine_tuned": frozen_pass.tuned is not None,
        "features": facts.features,
        "features_layer": features_layer(frozen_pass.backbone, facts.features),
        "image_size": frozen_pass.rule.size,
        "fit": frozen_pass.rule.fit,
        "resize_filter": RESIZE_FILTER,
        "dicom_rule": DICOM_RULE,
        "frame": "middle" if facts.frame is None else facts.frame,
        "views_averaged": facts.views,
        "temperature": facts.temperature,
        "operating_point": None
        if facts.operating_point is None
        else dataclasses.asdict(facts.operating_point),
        "prediction_sets": {f"{level:g}": value for level, value in facts.set_thresholds.items()},
        "fitted_on": facts.fitted_on,
        "unfamiliar_above": facts.limit,
        "input": "RGB pixels, 0 to 255, of shape (batch, image_size, image_size, 3)",
        "output": "calibrated probabilities in the order of classes",
        "versions": {name: importlib.metadata.version(name) for name in ("medlens", "keras")},
        "notice": "Not a medical device.",
    }
    folder.mkdir(parents=True, exist_ok=True)
    part = folder / f".{os.getpid()}.part.keras"
    try:
        model.save(part)
        part.replace(folder / MODEL_FILE)
    finally:
        part.unlink(missing_ok=True)
    save_familiarity(folder / FAMILIARITY_FILE, facts.familiarity, facts.limit)
    cases, names = facts.cases, list(NEEDED_FILES)
    save_cases(folder / CASES_FILE, cases)
    if read_picture is not None:
        cases = write_pictures(cases, folder / PICTURES_FILE, read_picture)
        names.append(PICTURES_FILE)
    write_json(folder / FACTS_FILE, content)
    write_checksums(folder, names)
    return Classifier(
        model,
        facts.classes,
        frozen_pass.rule,
        facts.frame,
        facts.familiarity,
        facts.limit,
        cases,
        content,
    )


def check_saved(
    classifier: Classifier, predictions: pd.DataFrame, root: Path, precision: str
) -> float:
    """Compare the saved network with the cached features on some test images of each class.

    Where there is no test set, images of val take its place.

    Args:
        classifier: The classifier as saved.
        predictions: The table predictions.csv.
        root: The folder its paths are relative to.
        precision: Of the cached features: "float32" or "bfloat16".

    Returns:
        The largest difference of a probability.

    Raises:
        RuntimeError: If it is above 1e-4 (5e-2 for bfloat16): the saved network would not be the
            one that was tested.
    """
    own = predictions[predictions["fold"] == ""]
    tested = own[own["split"] == ("test" if (own["split"] == "test").any() else "val")]
    tested = tested.groupby("label").head(CHECKED_PER_CLASS).head(CHECKED)
    pictures = np.stack([classifier.picture(join_path(root, path)) for path in tested["path"]])
    # Called once: compiling would take longer than running.
    again = np.asarray(classifier.model(pictures.astype(np.float32), training=False))
    expected = tested[[f"prob_{name}" for name in classifier.classes]].to_numpy()
    difference = float(np.abs(again - expected).max())
    if not difference <= LARGEST_DIFFERENCE[precision]:
        raise RuntimeError(f"saved network and cached features differ by {difference:.2g}")
    return difference


def load_classifier(folder: Path) -> Classifier:
    """Load a classifier folder, with Keras's safe mode on, after its checksums were verified.

    Raises:
        MedlensError: If it is not there, a file was changed, or its format is not this one.
    """
    with _whole(folder):
        facts, verified = _read_facts(folder)
        model = keras.models.load_model(folder / MODEL_FILE, compile=False)
        frame = None if facts["frame"] == "middle" else int(facts["frame"])
        rule = PictureRule(facts["image_size"], facts["fit"])
        familiarity, limit = load_familiarity(folder / FAMILIARITY_FILE)
        pictures = folder / PICTURES_FILE if PICTURES_FILE in verified else None
        cases = load_cases(folder / CASES_FILE, pictures)
        classes = tuple(facts["classes"])
        return Classifier(model, classes, rule, frame, familiarity, limit, cases, facts)


def read_classes(folder: Path) -> tuple[str, ...]:
    """The classes of a classifier folder, in their order, without loading its network.

    Raises:
        MedlensError: As `load_classifier`.
    """
    with _whole(folder):
        return tuple(_read_facts(folder)[0]["classes"])


def _read_facts(folder: Path) -> tuple[dict[str, Any], frozenset[str]]:
    """The content of classifier.json, and the names of all files that were verified."""
    try:
        facts: dict[str, Any] = json.loads((folder / FACTS_FILE).read_text(encoding="utf-8"))
        _check_format(facts, folder)
    except (ValueError, KeyError, TypeError, AttributeError, OverflowError, MedlensError):
        verify_if_listed(folder, FACTS_FILE)  # it may say something else by damage
        raise
    return facts, verify_checksums(folder, NEEDED_FILES)


@contextmanager
def _whole(folder: Path) -> Iterator[None]:
    """Say of whatever a file lacks that the folder is not whole."""
    try:
        yield
    except (OSError, KeyError, ValueError, TypeError, zipfile.BadZipFile) as error:
        raise MedlensError(
            "There is no whole classifier in this folder.",
            got=in_words(error),
            expected=f"{FACTS_FILE} and {MODEL_FILE}, as `medlens train` writes them",
            fix="Check the path; if the run was interrupted, finish it with --resume.",
            names=[str(folder)],
        ) from error


def _check_format(facts: Mapping[str, Any], folder: Path) -> None:
    """Refuse another format than this one; before the checksums, which may have changed with it."""
    version, own = int(facts["format"]), importlib.metadata.version("medlens")
    if version == FORMAT_VERSION:
        return
    writer = facts.get("versions", {}).get("medlens", "an unknown version")
    is_older = version < FORMAT_VERSION
    raise MedlensError(
        f"The classifier was written by {'an older' if is_older else 'a newer'} medlens.",
        got=f"format {version}, written by medlens {writer}",
        expected=f"format {FORMAT_VERSION}, which this medlens {own} reads",
        fix="Train again: kept features make it quick."
        if is_older
        else "Upgrade medlens: pip install --upgrade medlens.",
        names=[str(folder)],
    )
