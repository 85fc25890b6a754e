"""What travels of the training images, so that the most similar ones to a new image are found."""

from __future__ import annotations

import io
import zipfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from medlens.errors import MedlensError, in_words
from medlens.files import write_bytes
from medlens.model.familiarity import CHUNK_ROWS, Familiarity, choose_rows, squared_distances

FORMAT_VERSION = 1
# With 64 components of float16 each: 2.7 MB.
MOST_CASES = 20_000
MOST_SHOWN = 5
# Enough to be recognised; some 3 to 5 KB each.
PICTURE_SIDE = 160
JPEG_QUALITY = 85


@dataclass(frozen=True)
class SimilarCase:
    """A training image that lies near a new one.

    Args:
        row: Of dataset.csv of the run that trained the classifier; its first image is row 0.
        label: Its class.
        distance: In the space of `Familiarity`, to be compared with the limit of unfamiliar images.
        picture: It as a small JPEG; None unless the classifier carries pictures.
    """

    row: int
    label: str
    distance: float
    picture: bytes | None = None


@dataclass(frozen=True)
class TrainingCases:
    """The training images that are remembered one by one: neither paths nor patients.

    Args:
        rows: Rows of dataset.csv, int32 of shape (cases,), ascending.
        labels: Class numbers, int16 of the same shape.
        places: Where they lie along the components of the familiarity, float16 of shape
            (cases, components).
        pictures: The archive of their pictures; None where there is none.
    """

    rows: NDArray[np.int32]
    labels: NDArray[np.int16]
    places: NDArray[np.float16]
    pictures: Path | None = None

    def find_similar(
        self,
        familiarity: Familiarity,
        features: NDArray[np.float32],
        classes: Sequence[str],
        *,
        most: int = MOST_SHOWN,
    ) -> list[SimilarCase]:
        """The training images nearest to an image, the nearest first.

        Args:
            familiarity: The classifier's.
            features: Of the image, of shape (columns,).
            classes: Class names.
            most: How many at most.

        Returns:
            None at all where a feature is not a finite number.
        """
        if not np.isfinite(features).all():
            return []
        along, outside = familiarity.place(features[np.newaxis])
        squares = squared_distances(along, self.places.astype(np.float64))[0] + outside
        nearest = np.argsort(squares, kind="stable")[:most]
        shown = self._read_pictures([int(self.rows[number]) for number in nearest])
        return [
            SimilarCase(
                int(self.rows[number]),
                classes[self.labels[number]],
                float(np.sqrt(squares[number])),
                shown.get(int(self.rows[number])),
            )
            for number in nearest
        ]

    def _read_pictures(self, rows: Sequence[int]) -> Mapping[int, bytes]:
        if self.pictures is None:
            return {}
        try:
            with zipfile.ZipFile(self.pictures) as archive:
                there = set(archive.namelist())
                named = {row: f"{row}.jpg" for row in rows}
                return {row: archive.read(name) for row, name in named.items() if name in there}
        except (OSError, zipfile.BadZipFile) as error:
            raise _cannot_be_read(self.pictures, error) from error


def remember_cases(
    features: NDArray[np.float32],
    labels: NDArray[np.int64],
    rows: NDArray[np.intp],
    dataset_rows: NDArray[np.intp],
    familiarity: Familiarity,
    *,
    seed: int,
) -> TrainingCases:
    """Keep what is needed to find training images again, of at most 20,000.

    Args:
        features: Raw features of shape (images, columns), in memory or mapped from a file.
        labels: Class numbers of shape (images,).
        rows: Which of these are training images.
        dataset_rows: The row of dataset.csv of each image, of shape (images,).
        familiarity: Fitted on them.
        seed: Decides which are kept where there are more; classes share the places evenly.
    """
    generator = np.random.default_rng(seed)
    kept = rows[choose_rows(len(rows), labels[rows], MOST_CASES, generator)]
    places = np.empty((len(kept), familiarity.components.shape[1]), np.float16)
    for start in range(0, len(kept), CHUNK_ROWS):
        some = slice(start, start + CHUNK_ROWS)
        places[some] = familiarity.place(features[kept[some]])[0]
    return TrainingCases(dataset_rows[kept].astype(np.int32), labels[kept].astype(np.int16), places)


def write_pictures(
    cases: TrainingCases, path: Path, read: Callable[[int], NDArray[np.uint8] | None]
) -> TrainingCases:
    """Write small JPEG pictures of the cases, each named by its row of dataset.csv.

    Args:
        cases: Whose pictures.
        path: The archive to write, whole or not at all.
        read: Row of dataset.csv -> RGB picture, 0 to 255, of shape (size, size, 3); None where it
            can be read no more.

    Returns:
        The cases with their pictures.
    """
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", zipfile.ZIP_STORED) as archive:
        for row in cases.rows:
            picture = read(int(row))
            if picture is None:
                continue
            image = Image.fromarray(picture)
            image.thumbnail((PICTURE_SIDE, PICTURE_SIDE))
            one = io.BytesIO()
            image.save(one, "JPEG", quality=JPEG_QUALITY)
            # Without a date the same pictures give the same bytes.
            archive.writestr(zipfile.ZipInfo(f"{int(row)}.jpg"), one.getvalue())
    write_bytes(path, stream.getbuffer())
    return replace(cases, pictures=path)


def save_cases(path: Path, cases: TrainingCases) -> None:
    """Write an .npz file, whole or not at all; the same values give the same bytes."""
    stream = io.BytesIO()
    np.savez(
        stream,
        format=np.int64(FORMAT_VERSION),
        rows=cases.rows,
        labels=cases.labels,
        places=cases.places,
    )
    write_bytes(path, stream.getbuffer())


def load_cases(path: Path, pictures: Path | None) -> TrainingCases:
    """Read the file of `save_cases`; nothing in it is executed.

    Args:
        path: The file.
        pictures: The archive of pictures, whose checksum was verified; None where there is none.

    Raises:
        MedlensError: If it is not there or damaged.
    """
    try:
        with np.load(io.BytesIO(path.read_bytes()), allow_pickle=False) as file:
            return TrainingCases(
                np.asarray(file["rows"], np.int32),
                np.asarray(file["labels"], np.int16),
                np.asarray(file["places"], np.float16),
                pictures,
            )
    except (OSError, EOFError, KeyError, TypeError, ValueError, zipfile.BadZipFile) as error:
        raise _cannot_be_read(path, error) from error


def _cannot_be_read(path: Path, error: BaseException) -> MedlensError:
    return MedlensError(
        "What the classifier remembers of its training images cannot be read.",
        got=in_words(error),
        expected="the whole file, as `medlens train` writes it",
        fix="Copy the classifier's folder again, or train again.",
        names=[str(path)],
    )
