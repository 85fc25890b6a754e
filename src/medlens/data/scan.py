"""Every file read and decoded once: its facts for the audit, its picture for the network."""

from __future__ import annotations

import hashlib
import importlib.metadata
import json
import math
import os
import sqlite3
import stat
import threading
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from PIL import Image

from medlens.data.dataset import SCAN_COLUMNS, Dataset
from medlens.data.decoded import content_key
from medlens.data.images import (
    MAX_PIXELS,
    RESIZE_FILTER,
    DecodedImage,
    UnreadableImage,
    decode_image,
    read_patient,
    read_size,
    resize_to_square,
    to_pillow,
)
from medlens.data.store import Store

# A colour image takes 10 bytes a pixel while it is read: 2 GB in all, however many cores there are.
PIXELS_UNDER_WAY = 2 * MAX_PIXELS
# Below it no usual image is large enough to matter, and its size is not asked for beforehand. A
# mammogram of 20 million pixels, mostly black, may have less than a megabyte.
LARGE_FILE_BYTES = 1 << 16
IMAGE_SIZES = (64, 96, 128, 160, 224)
SHARD = 256
# Raise it when a change of images.py or of a fact below gives other values for the same file.
FACTS_VERSION = 2

Item = TypeVar("Item")
Result = TypeVar("Result")
Progress = Callable[[int], None]


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
        is_needed: Says for a key whether its picture is still wanted (its features may be known).
    """

    rule: PictureRule
    store: Store
    is_needed: Callable[[str], bool]


def choose_image_size(dataset: Dataset, *, progress: Progress) -> int:
    """The smallest of 64, 96, 128, 160, 224 not below twice the median longer side, at most 224.

    Only the headers are read. Files whose header cannot be read are left out here; the scan
    reports them.
    """

    def longer_side(path: str) -> int:
        try:
            return max(read_size(dataset.root / path))
        except UnreadableImage:
            return 0

    sides = []
    for side in in_order(longer_side, dataset.table["path"]):
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
) -> pd.DataFrame:
    """Read every file of a data set and add its facts to the table.

    Facts are kept in the cache by the content of the file, so that a second scan, or one that
    goes on after a break, decodes nothing twice. Memory does not grow with the data set beyond
    the table itself.

    Args:
        dataset: The images to read.
        cache: The cache folder.
        frame: The frame of multi-frame DICOM files; None for the middle one.
        progress: Called with the number of files done since the last call.
        pictures: What to leave for the network; None where only the facts are wanted.

    Returns:
        The table with the columns of `SCAN_COLUMNS`. `unreadable` is "" or the reason; patients
        that the table does not name are taken from DICOM's PatientID.
    """
    room = Room(PIXELS_UNDER_WAY)
    pending: list[_Scanned] = []
    shards: list[pd.DataFrame] = []
    with closing(FactsCache(cache / "facts" / _reader_name(frame))) as facts:

        def read_one(path: str) -> _Scanned:
            file = dataset.root / path
            with room.take(_count_pixels(file)):
                return _scan_file(file, frame=frame, facts=facts, pictures=pictures)

        with closing(in_order(read_one, dataset.table["path"])) as results:
            for scanned in results:
                pending.append(scanned)
                progress(1)
                if len(pending) == SHARD:
                    shards.append(_keep(pending, facts, pictures))
                    pending = []
        if pending or not shards:
            shards.append(_keep(pending, facts, pictures))
    found = pd.concat(shards).set_axis(dataset.table.index)
    patient = join_patients(dataset.table["patient"], found["patient"])
    return pd.concat(
        [dataset.table.assign(patient=patient), found[list(SCAN_COLUMNS)]], axis="columns"
    )


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
class _Scanned:
    facts: dict[str, Any]
    is_new: bool
    picture: NDArray[np.uint8] | None


def _scan_file(
    path: Path, *, frame: int | None, facts: FactsCache, pictures: Pictures | None
) -> _Scanned:
    try:
        if not stat.S_ISREG(path.stat().st_mode):
            return _Scanned(_unreadable("", 0, "it is not a regular file"), False, None)
        data = path.read_bytes()
    except ValueError:
        return _Scanned(_unreadable("", 0, "its path is not valid"), False, None)
    except OSError as error:
        reason = f"the file cannot be opened: {error.strerror or type(error).__name__}"
        return _Scanned(_unreadable("", 0, reason), False, None)
    digest = hashlib.sha256(data).hexdigest()
    try:
        known = facts.get(digest)
        if known is not None:
            known["patient"] = read_patient(data) if known["format"] == "DICOM" else ""
            if not (pictures and _is_missing(pictures, known["pixels_sha256"])):
                return _Scanned(known, False, None)
        decoded = decode_image(data, frame=frame)
    except UnreadableImage as error:
        return _Scanned(_unreadable(digest, len(data), error.reason), False, None)
    image = to_pillow(decoded.pixels)  # once, for all that follows
    read = known or _facts(digest, len(data), decoded, image)
    wanted = pictures is not None and _is_missing(pictures, read["pixels_sha256"])
    picture = pictures.rule.apply_to_image(image) if pictures and wanted else None
    return _Scanned(read, known is None, picture)


def _count_pixels(path: Path) -> int:
    """Pixels of an image in a large file; 0 for all others, and where its header is damaged."""
    try:
        return math.prod(read_size(path)) if path.stat().st_size > LARGE_FILE_BYTES else 0
    except (OSError, ValueError, UnreadableImage):
        return 0  # the reading will say so


def _is_missing(pictures: Pictures, key: str) -> bool:
    return key not in pictures.store and pictures.is_needed(key)


def _facts(digest: str, size: int, decoded: DecodedImage, image: Image.Image) -> dict[str, Any]:
    luminance = image if image.mode == "L" else image.convert("L")
    shown = np.asarray(luminance)
    counts = np.array(luminance.histogram())
    levels = np.arange(256)
    mean = float(counts @ levels) / shown.size
    frame = np.concatenate([shown[0], shown[-1], shown[:, 0], shown[:, -1]])
    return {
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
        "patient": decoded.patient,
    }


def _unreadable(digest: str, size: int, reason: str) -> dict[str, Any]:
    numbers = dict.fromkeys(("width", "height", "levels"), 0)
    measures = dict.fromkeys(("mean", "spread", "border"), 0.0)
    texts = dict.fromkeys(("pixels_sha256", "mode", "format", "scaling", "patient"), "")
    return {"sha256": digest, "bytes": size, "unreadable": reason, **numbers, **measures, **texts}


def _keep(
    scanned: Sequence[_Scanned], facts: FactsCache, pictures: Pictures | None
) -> pd.DataFrame:
    """Write a shard of pictures, then their facts: known facts mean a picture that was kept.

    Returns the facts of all of them, as rows.
    """
    new = {one.facts["pixels_sha256"]: one.picture for one in scanned if one.picture is not None}
    if pictures and new:
        pictures.store.add(list(new), np.stack([new[key] for key in new]))
    facts.add([one.facts for one in scanned if one.is_new])
    return pd.DataFrame([one.facts for one in scanned], columns=[*SCAN_COLUMNS, "patient"])


def _reader_name(frame: int | None) -> str:
    """Names the facts by what they depend on beside the file: reader versions and the frame."""
    versions = "-".join(importlib.metadata.version(name) for name in ("pillow", "pydicom"))
    return f"v{FACTS_VERSION}-{versions}-{'middle' if frame is None else frame}.sqlite"


def _parse_facts(text: Any) -> dict[str, Any] | None:
    """The facts that one row of the cache holds, or None where it is damaged."""
    try:
        facts = json.loads(text)
    except (ValueError, TypeError):
        return None
    expected = _unreadable("", 0, "").keys() - {"patient"}
    return facts if isinstance(facts, dict) and facts.keys() == expected else None


class FactsCache:
    """Facts of files by the SHA-256 of their content, in one SQLite file that processes may share.

    Nothing of it is held in memory. Safe in threads. The patient is not kept: the folder outlives
    the run, and nobody expects patients in it.

    Args:
        path: The file; made where it is missing.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._lock = threading.Lock()
        try:
            self._connection = self._open()
        except sqlite3.DatabaseError as error:
            self._open_anew(error)

    def _open(self) -> sqlite3.Connection:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        # One connection for all threads: the lock keeps them apart.
        connection = sqlite3.connect(self.path, timeout=60, check_same_thread=False)
        try:
            with connection:
                connection.execute(
                    "CREATE TABLE IF NOT EXISTS facts (key TEXT PRIMARY KEY, value TEXT)"
                )
        except sqlite3.DatabaseError:
            connection.close()
            raise
        return connection

    def _open_anew(self, error: sqlite3.DatabaseError) -> None:
        """Begin again after damage: only a cache, a damaged one is as good as none."""
        code = getattr(error, "sqlite_errorcode", sqlite3.SQLITE_CORRUPT)  # not set: no valid text
        if code & 0xFF in (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB):
            self.path.unlink(missing_ok=True)
        elif code != sqlite3.SQLITE_READONLY_DBMOVED:  # that is: deleted under our hands
            raise error
        self._connection = self._open()

    def get(self, key: str) -> dict[str, Any] | None:
        """The facts of a file, without its patient, or None."""
        with self._lock:
            try:
                select = "SELECT value FROM facts WHERE key = ?"
                row = self._connection.execute(select, (key,)).fetchone()
            except sqlite3.DatabaseError as error:
                self._connection.close()
                self._open_anew(error)
                return None
        return _parse_facts(row[0]) if row else None

    def add(self, facts: Iterable[dict[str, Any]]) -> None:
        """Keep the facts of some files, in one transaction."""
        rows = []
        for one in facts:
            kept = {name: value for name, value in one.items() if name != "patient"}
            rows.append((one["sha256"], json.dumps(kept)))
        with self._lock:
            try:
                self._insert(rows)
            except sqlite3.DatabaseError as error:
                self._connection.close()
                self._open_anew(error)
                self._insert(rows)

    def _insert(self, rows: Sequence[tuple[str, str]]) -> None:
        with self._connection:
            self._connection.executemany("INSERT OR REPLACE INTO facts VALUES (?, ?)", rows)

    def close(self) -> None:
        """Close the file; nothing can be asked or added after that."""
        self._connection.close()


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
    function: Callable[[Item], Result], items: Iterable[Item]
) -> Generator[Result, None, None]:
    """Apply a function in threads and yield the results in order, with few items under way.

    Decoding, hashing and resizing all release Python's lock, so threads are enough.
    """
    workers = os.cpu_count() or 1
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
