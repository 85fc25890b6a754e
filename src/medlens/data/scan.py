"""Every file read and decoded once: its facts for the audit, its picture for the network."""

from __future__ import annotations

import hashlib
import itertools
import math
import os
import stat
import threading
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TypeVar

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from PIL import Image

from medlens.data.dataset import FACT_COLUMNS, Dataset
from medlens.data.decoded import content_key
from medlens.data.facts_cache import Facts, FactsCache, Thumbnail, name_facts
from medlens.data.groups import join_near_copies
from medlens.data.images import (
    MAX_PIXELS,
    RESIZE_FILTER,
    DecodedImage,
    UnreadableImage,
    decode_image,
    fetch,
    read_image,
    read_longer_side,
    read_patient,
    read_size,
    resize_to_square,
    to_pillow,
)
from medlens.data.near_duplicates import (
    THUMBNAIL_SIDE,
    ReadThumbnails,
    find_near_duplicates,
    fingerprint,
)
from medlens.data.remote import REQUESTS_AT_A_TIME, is_remote, join_path, local_side
from medlens.data.store import Store

# A colour image takes 10 bytes a pixel while it is read: 2 GB in all, however many cores there are.
PIXELS_UNDER_WAY = 2 * MAX_PIXELS
# Below it no usual image is large enough to matter, and its size is not asked for beforehand. A
# mammogram of 20 million pixels, mostly black, may have less than a megabyte.
LARGE_FILE_BYTES = 1 << 16
NOT_THERE = "there is no file at that path"
# So many sizes give the median: on other storage each one is a request.
SIZED_IMAGES = 10_000
CANNOT_BE_OPENED = "the file cannot be opened: "
IMAGE_SIZES = (64, 96, 128, 160, 224)
SHARD = 256
# Sharpness is measured on pictures of this longer side, so that a fine grid does not count more.
SHARPNESS_SIDE = 256

Item = TypeVar("Item")
Result = TypeVar("Result")
Progress = Callable[[int], None]
# Data set, frame, known facts, pictures to leave, progress -> the facts of all files, as rows.
ReadAll = Callable[[Dataset, "int | None", FactsCache, "Pictures | None", Progress], pd.DataFrame]


@dataclass(frozen=True)
class PictureRule:
    """How an image becomes what the network sees.

    Args:
        size: Side of the square, in pixels.
        fit: "pad", "crop" or "stretch".
    """

    size: int
    fit: str

    @property
    def name(self) -> str:
        """The rule as part of a folder's name."""
        return f"{self.size}px-{self.fit}-{RESIZE_FILTER}"

    @property
    def bytes_per_picture(self) -> int:
        """Disk space of one picture."""
        return 3 * self.size**2

    def apply(self, pixels: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """Picture of shape (size, size, 3) from pixels of shape (height, width, 3)."""
        return self.apply_to_image(to_pillow(pixels))

    def apply_to_image(self, image: Image.Image) -> NDArray[np.uint8]:
        """Picture of shape (size, size, 3) from a Pillow image of mode L or RGB."""
        return resize_to_square(image, size=self.size, fit=self.fit)


@dataclass(frozen=True)
class Pictures:
    """Which pictures the scan leaves for the network, and where.

    Args:
        rule: How they are made.
        store: Where they go, keyed by `pixels_sha256`.
        features: Where a key is in all of these, its picture is not wanted; empty: each is.
    """

    rule: PictureRule
    store: Store
    features: tuple[Store, ...] = ()

    def is_missing(self, key: str) -> bool:
        """Whether the picture of this key is still to be made."""
        is_known = bool(self.features) and all(key in one for one in self.features)
        return key not in self.store and not is_known


@dataclass(frozen=True)
class Wanted:
    """What a scan wants of each file.

    Args:
        frame: The frame of multi-frame DICOM files; None for the middle one.
        find_facts: SHA-256 of a file -> its facts without the patient, where they are known.
        rule: How its picture is made; None where only the facts are wanted.
        is_missing: Says for a `pixels_sha256` whether its picture is still to be made.
    """

    frame: int | None
    find_facts: Callable[[str], Facts | None]
    rule: PictureRule | None
    is_missing: Callable[[str], bool]


def choose_image_size(dataset: Dataset, *, progress: Progress) -> int:
    """The smallest of 64, 96, 128, 160, 224 not below twice the median longer side, at most 224.

    Only the headers are read, and of more than 10,000 images those of 10,000, evenly by their
    order. Files whose header cannot be read are left out here; the scan reports them.
    """

    def longer_side(path: str) -> int:
        try:
            return read_longer_side(join_path(dataset.root, path))
        except UnreadableImage:
            return 0

    count = len(dataset.table)
    asked = min(count, SIZED_IMAGES)
    paths = dataset.table["path"].iloc[[number * count // asked for number in range(asked)]]
    threads = REQUESTS_AT_A_TIME if is_remote(dataset.root) else None
    sides = []
    for side in in_order(longer_side, paths, threads=threads):
        sides.append(side)
        progress(1)
    known = [side for side in sides if side > 0]
    wanted = 2 * float(np.median(known)) if known else IMAGE_SIZES[-1]
    return next((size for size in IMAGE_SIZES if size >= wanted), IMAGE_SIZES[-1])


def scan(
    dataset: Dataset,
    *,
    cache: Path,
    frame: int | None,
    progress: Progress,
    pictures: Pictures | None = None,
    read_all: ReadAll | None = None,
) -> pd.DataFrame:
    """Read every file of a data set and add its facts to the table.

    Facts are kept in the cache by the content of the file, so that a second scan, or one that
    goes on after a break, decodes nothing twice. Then near-duplicates are looked for among all of
    them. Memory does not grow with the data set beyond the table itself.

    Args:
        dataset: The images to read.
        cache: The cache folder.
        frame: The frame of multi-frame DICOM files; None for the middle one.
        progress: Called with the number of files done since the last call.
        pictures: What to leave for the network; None where only the facts are wanted.
        read_all: What reads the files; `read_here` by default.

    Returns:
        The table with the columns of `SCAN_COLUMNS`. `unreadable` is "" or the reason; patients
        that the table does not name are taken from DICOM's PatientID; `near_copies` and
        `look_alike` are those of `join_near_copies`.
    """
    with closing(FactsCache(local_side(cache) / "facts" / name_facts(frame))) as facts:
        found = (read_all or read_here)(dataset, frame, facts, pictures, progress)
        found = found.set_axis(dataset.table.index)
        patient = join_patients(dataset.table["patient"], found["patient"])
        table = pd.concat(
            [dataset.table.assign(patient=patient), found.drop(columns="patient")], axis="columns"
        )
        read_thumbnails = partial(_read_thumbnails, table, dataset.root, frame, facts)
        return add_near_copies(table, read_thumbnails, facts)


def read_here(
    dataset: Dataset,
    frame: int | None,
    facts: FactsCache,
    pictures: Pictures | None,
    progress: Progress,
) -> pd.DataFrame:
    """Read every file of a data set on this machine.

    Args:
        dataset: The images to read.
        frame: As for `scan`.
        facts: Those that are known; the others are added.
        pictures: As for `scan`; its store receives those that are missing.
        progress: As for `scan`.

    Returns:
        The facts of the files and `patient`, in the order of the data set.
    """
    wanted = Wanted(
        frame,
        facts.get,
        pictures.rule if pictures else None,
        pictures.is_missing if pictures else lambda _: False,
    )
    tables = []

    def count(scanned: Scanned) -> Scanned:
        progress(1)
        return scanned

    threads = REQUESTS_AT_A_TIME if is_remote(dataset.root) else None
    files = scan_files(dataset.root, dataset.table["path"], wanted, threads=threads)
    with closing(files) as results:
        while scanned := list(map(count, itertools.islice(results, SHARD))):
            new = new_pictures(scanned)
            # First the pictures: known facts mean a picture that was kept.
            if pictures and new:
                pictures.store.add(list(new), np.stack(list(new.values())))
            tables.append(keep_facts(scanned, facts))
    return pd.concat(tables) if tables else keep_facts([], facts)


def scan_files(
    root: Path, paths: Iterable[str], wanted: Wanted, *, threads: int | None = None
) -> Generator[Scanned, None, None]:
    """Read some files, a few at a time, and say what is in them, in order.

    Args:
        root: The folder that the paths are relative to.
        paths: The files.
        wanted: What is asked of each.
        threads: As for `in_order`.
    """
    room = Room(PIXELS_UNDER_WAY)

    def read_one(path: str) -> Scanned:
        try:
            file = fetch(join_path(root, path))
        except UnreadableImage:
            return Scanned(unreadable_facts("", 0, NOT_THERE))
        with room.take(count_pixels(file)):
            return _scan_file(file, wanted)

    return in_order(read_one, paths, threads=threads)


def add_near_copies(
    table: pd.DataFrame, read_thumbnails: ReadThumbnails, facts: FactsCache
) -> pd.DataFrame:
    """Look for near-duplicates, unless the cache knows those of the same images.

    Args:
        table: One row per image with its facts.
        read_thumbnails: Gives the thumbnails of some rows, uint8 of shape (rows, 64, 64); called in
            threads.
        facts: The cache.

    Returns:
        The table with `near_copies` and `look_alike`, which are those of `join_near_copies`.
    """
    columns = ["pixels_sha256", "fingerprint"]
    images = table[columns].drop_duplicates().sort_values(columns)
    searched = hashlib.sha256()
    for one in zip(images["pixels_sha256"], images["fingerprint"], strict=True):
        searched.update(repr(one).encode("ascii"))
    key = searched.hexdigest()
    pairs = facts.get_near_duplicates(key)
    if pairs is None:
        contents = table["pixels_sha256"]
        found = find_near_duplicates(table["fingerprint"], contents, read_thumbnails)
        firsts = contents.iloc[[pair.first for pair in found]]
        seconds = contents.iloc[[pair.second for pair in found]]
        pairs = list(zip(firsts, seconds, strict=True))
        facts.add_near_duplicates(key, pairs)
    near_copies, look_alike = join_near_copies(table, pairs)
    return table.assign(near_copies=near_copies, look_alike=look_alike)


def _read_thumbnails(
    table: pd.DataFrame, root: Path, frame: int | None, facts: FactsCache, rows: Sequence[int]
) -> Thumbnail:
    """The thumbnails of some rows, from the cache; those that left it since, from their files."""
    some = table.iloc[list(rows)]
    known = facts.read_thumbnails(some["sha256"])
    thumbnails = [
        known[digest] if digest in known else _take_thumbnail(join_path(root, path), frame)
        for digest, path in zip(some["sha256"], some["path"], strict=True)
    ]
    return np.stack(thumbnails)


def _take_thumbnail(path: Path, frame: int | None) -> Thumbnail:
    """The thumbnail of a file; blank where it can be read no more."""
    try:
        return fingerprint(to_pillow(read_image(path, frame=frame).pixels)).thumbnail
    except UnreadableImage:
        return np.zeros((THUMBNAIL_SIDE, THUMBNAIL_SIDE), np.uint8)


def join_patients(named: pd.Series[str], tagged: pd.Series[str]) -> pd.Series[str]:
    """One patient per image, from what the user named and from DICOM's PatientID.

    What the user named counts. An image without a name takes the name that its PatientID has on
    other images, or the PatientID itself. A PatientID that stands beside several names tells no
    patients apart (such as ANONYMOUS) and is not used.

    Args:
        named: The patient of each image by CSV or path, "" where not named.
        tagged: PatientID of each image, "" where there is none.
    """
    known = pd.DataFrame({"named": named, "tagged": tagged})
    known = known[(named != "") & (tagged != "")].drop_duplicates()
    names = known.groupby("tagged")["named"].agg(["first", "size"])
    patients = {
        str(tag): str(row["first"]) if row["size"] == 1 else "" for tag, row in names.iterrows()
    }
    return named.where(named != "", tagged.map(lambda tag: patients.get(tag, tag)))


@dataclass(frozen=True)
class Scanned:
    """What was read of a file.

    Args:
        facts: Its facts, and its patient.
        thumbnail: Where the facts were not known before.
        picture: Where it was missing.
    """

    facts: Facts
    thumbnail: Thumbnail | None = None
    picture: NDArray[np.uint8] | None = None


def _scan_file(file: Path | bytes, wanted: Wanted) -> Scanned:
    try:
        if isinstance(file, Path) and not stat.S_ISREG(file.stat().st_mode):
            return Scanned(unreadable_facts("", 0, "it is not a regular file"))
        data = file if isinstance(file, bytes) else file.read_bytes()
    except ValueError:
        return Scanned(unreadable_facts("", 0, "its path is not valid"))
    except FileNotFoundError:
        return Scanned(unreadable_facts("", 0, NOT_THERE))
    except OSError as error:
        reason = CANNOT_BE_OPENED + (error.strerror or type(error).__name__)
        return Scanned(unreadable_facts("", 0, reason))
    digest = hashlib.sha256(data).hexdigest()
    try:
        known = wanted.find_facts(digest)
        if known is not None:
            known["patient"] = read_patient(data) if known["format"] == "DICOM" else ""
            if not wanted.is_missing(known["pixels_sha256"]):
                return Scanned(known)
        decoded = decode_image(data, frame=wanted.frame)
    except UnreadableImage as error:
        return Scanned(unreadable_facts(digest, len(data), error.reason))
    image = to_pillow(decoded.pixels)  # once, for all that follows
    thumbnail = None
    if known is None:
        known, thumbnail = _measure(digest, len(data), decoded, image)
    is_missing = wanted.rule is not None and wanted.is_missing(known["pixels_sha256"])
    picture = wanted.rule.apply_to_image(image) if wanted.rule and is_missing else None
    return Scanned(known, thumbnail, picture)


def count_pixels(source: Path | bytes) -> int:
    """Pixels of an image in a large file; 0 for all others, and where its header is damaged."""
    try:
        size = len(source) if isinstance(source, bytes) else source.stat().st_size
        return math.prod(read_size(source)) if size > LARGE_FILE_BYTES else 0
    except (OSError, ValueError, UnreadableImage):
        return 0  # the reading will say so


def _measure(
    digest: str, size: int, decoded: DecodedImage, image: Image.Image
) -> tuple[Facts, Thumbnail]:
    luminance = image if image.mode == "L" else image.convert("L")
    shown = np.asarray(luminance)
    counts = np.array(luminance.histogram())
    levels = np.arange(256)
    mean = float(counts @ levels) / shown.size
    frame = np.concatenate([shown[0], shown[-1], shown[:, 0], shown[:, -1]])
    taken = fingerprint(image)
    facts = {
        "sha256": digest,
        "pixels_sha256": content_key(decoded.pixels),
        "width": decoded.width,
        "height": decoded.height,
        "mode": decoded.mode,
        "format": decoded.format,
        "bytes": size,
        "scaling": decoded.scaling,
        "unreadable": "",
        "levels": int(np.count_nonzero(counts)),
        "mean": round(mean, 3),
        "spread": round(float(np.sqrt(counts @ (levels - mean) ** 2 / shown.size)), 3),
        "border": round(float(frame.mean()), 3),
        "sharpness": measure_sharpness(luminance),
        "fingerprint": taken.text,
        "patient": decoded.patient,
    }
    return facts, taken.thumbnail


def measure_sharpness(image: Image.Image) -> float:
    """How much fine detail a picture has for its contrast: variance of the Laplacian over variance.

    The variance of the Laplacian is a measure of focus (Pech-Pacheco et al., ICPR 2000); divided by
    the picture's own variance it does not depend on brightness and contrast. White noise has 20, a
    smooth picture nearly 0, and so has a flat one.

    Args:
        image: Of mode L; first reduced to a longer side of 256 px, where it is larger.
    """
    scale = min(1.0, SHARPNESS_SIDE / max(image.size))
    if scale < 1:
        size = (max(1, round(image.width * scale)), max(1, round(image.height * scale)))
        image = image.resize(size, Image.Resampling.BILINEAR, reducing_gap=2.0)
    greys = np.asarray(image, np.float32)
    variance = float(greys.var())
    if min(greys.shape) < 3 or variance < 1:
        return 0.0
    sides = greys[:-2, 1:-1] + greys[2:, 1:-1] + greys[1:-1, :-2] + greys[1:-1, 2:]
    return round(float((sides - 4 * greys[1:-1, 1:-1]).var()) / variance, 6)


def unreadable_facts(digest: str, size: int, reason: str) -> Facts:
    """The facts of a file that cannot be used.

    Args:
        digest: SHA-256 of its content, "" where that cannot be read.
        size: Its bytes.
        reason: Why it cannot be used.
    """
    numbers = dict.fromkeys(("width", "height", "levels"), 0)
    measures = dict.fromkeys(("mean", "spread", "border", "sharpness"), 0.0)
    words = ("pixels_sha256", "mode", "format", "scaling", "fingerprint", "patient")
    texts = dict.fromkeys(words, "")
    return {"sha256": digest, "bytes": size, "unreadable": reason, **numbers, **measures, **texts}


def new_pictures(scanned: Sequence[Scanned]) -> dict[str, NDArray[np.uint8]]:
    """The pictures that were made, by their content keys, each once."""
    return {one.facts["pixels_sha256"]: one.picture for one in scanned if one.picture is not None}


def keep_facts(scanned: Sequence[Scanned], facts: FactsCache) -> pd.DataFrame:
    """Add what was not known to the cache; return the facts and patients of all, as rows."""
    facts.add((one.facts, one.thumbnail) for one in scanned if one.thumbnail is not None)
    return pd.DataFrame([one.facts for one in scanned], columns=[*FACT_COLUMNS, "patient"])


class Room:
    """A number of pixels that threads share: who needs more than is left waits.

    Args:
        pixels: How many. Who needs more than all of them gets all of them.
    """

    def __init__(self, pixels: int) -> None:
        self._all = self._left = pixels
        self._changed = threading.Condition()

    @contextmanager
    def take(self, pixels: int) -> Iterator[None]:
        """Hold so many pixels while the block runs."""
        wanted = min(pixels, self._all)
        with self._changed:
            self._changed.wait_for(lambda: self._left >= wanted)
            self._left -= wanted
        try:
            yield
        finally:
            with self._changed:
                self._left += wanted
                self._changed.notify_all()


def in_order(
    function: Callable[[Item], Result], items: Iterable[Item], *, threads: int | None = None
) -> Generator[Result, None, None]:
    """Apply a function in threads and yield the results in order, with few items under way.

    Decoding, hashing and resizing all release Python's lock, so threads are enough.

    Args:
        function: What is done with an item.
        items: They are asked for as they are needed.
        threads: How many; None for one per core.
    """
    workers = threads or os.cpu_count() or 1
    under_way: deque[Future[Result]] = deque()
    with ThreadPoolExecutor(workers) as pool:
        try:
            for item in items:
                under_way.append(pool.submit(function, item))
                if len(under_way) >= 4 * workers:
                    yield under_way.popleft().result()
            while under_way:
                yield under_way.popleft().result()
        finally:
            for future in under_way:
                future.cancel()
