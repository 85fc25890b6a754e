"""The scan of a data set on a Ray cluster: the facts and pictures that one machine would find."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np
import pandas as pd
import pyarrow
from numpy.typing import NDArray

from medlens.data.dataset import FACT_COLUMNS, Dataset
from medlens.data.facts_cache import Facts, FactsCache, Thumbnail, mark
from medlens.data.near_duplicates import THUMBNAIL_SIDE
from medlens.data.remote import REQUESTS_AT_A_TIME, for_all_nodes, is_remote
from medlens.data.scan import (
    CANNOT_BE_OPENED,
    NOT_THERE,
    PictureRule,
    Pictures,
    Progress,
    Scanned,
    Wanted,
    keep_facts,
    new_pictures,
    scan_files,
    unreadable_facts,
)
from medlens.data.store import write_shard
from medlens.data.work_list import PART_ROWS, WorkList, write_work_list
from medlens.files import remove
from medlens.scale.cluster import import_ray
from medlens.scale.parts import beside_driver, run_parts
from medlens.scale.sight import Witness, check_own_sight, check_sight
from medlens.serve.careful import find_deadly

# Columns of what a worker tells beside the facts.
THUMBNAIL, SHARD, HAS_PICTURE = "thumbnail", "shard", "has_picture"
ROWS_AT_A_TIME = 65_536

# The first 8 bytes of SHA-256s, sorted: Ray sends them once to each node.
Marks = NDArray[np.uint64]


class Known:
    """What was known before the scan began. Lives as a Ray actor beside the driver.

    Args:
        facts: The file of the facts.
        pictures: What was to be left for the network; None for nothing.
    """

    def __init__(self, facts: Path, pictures: Pictures | None) -> None:
        self._facts = FactsCache(facts)
        self._pictures = pictures

    def find(self, digest: str) -> tuple[Facts | None, bool]:
        """The facts of a file by its SHA-256, without the patient, or None; and `is_missing`."""
        facts = self._facts.get(digest)
        return facts, facts is None or self.is_missing(facts["pixels_sha256"])

    def is_missing(self, key: str) -> bool:
        """Whether the picture of a `pixels_sha256` is still to be made."""
        return self._pictures is not None and self._pictures.is_missing(key)


@dataclass(frozen=True)
class ScanParts:
    """Makes what a worker scans parts with; Ray carries it to the workers.

    Args:
        work: The paths of the files.
        root: The folder that they are relative to.
        frame: The frame of multi-frame DICOM files; None for the middle one.
        rule: How pictures are made; None where only the facts are wanted.
        pictures: The folder of the pictures.
        known: The actor of what is known; None where nothing is.
        known_files: The marks of the files that it may know, sorted; all others are not asked for.
        known_pictures: The marks of the pictures that it may know, the same.
        witness: The actor that looks for files that a worker cannot open.
    """

    work: WorkList
    root: Path
    frame: int | None
    rule: PictureRule | None
    pictures: Path | None
    known: Any
    known_files: Marks
    known_pictures: Marks
    witness: Any

    def __call__(self, cpus: int) -> PartScanner:
        """Look whether this node sees the list of files.

        Args:
            cpus: How many of them the worker may use.
        """
        self.work.read(0)
        return PartScanner(self, cpus)


class PartScanner:
    """Scans parts.

    Args:
        parts: What is to be done.
        cpus: In how many threads it reads from a disk.
    """

    def __init__(self, parts: ScanParts, cpus: int) -> None:
        self._parts = parts
        self._cpus = cpus
        self._wanted = Wanted(parts.frame, self._find_facts, parts.rule, self._is_missing)
        # Of files whose facts were just found: the answer came with them.
        self._is_missing_of: dict[str, bool] = {}

    def __call__(self, part: int, *, careful: bool, advance: Callable[[], None]) -> pyarrow.Table:
        """Scan the files of a part; write its pictures, and return its facts."""
        root, paths = self._parts.root, self._parts.work.read(part)["path"].to_pylist()
        deadly = find_deadly(root, paths, self._parts.frame, advance) if careful else {}
        safe = [path for path in paths if path not in deadly]
        threads = REQUESTS_AT_A_TIME if is_remote(root) else self._cpus
        found = scan_files(root, safe, self._wanted, threads=threads)
        # In order: those that are left out say why at their place.
        scanned = []
        for path in paths:
            dead = path in deadly
            scanned.append(Scanned(unreadable_facts("", 0, deadly[path])) if dead else next(found))
            advance()
        check_sight(self._parts.witness, root, _unopened(paths, scanned), advance)
        pictures, shard = new_pictures(scanned), ""
        if pictures and self._parts.pictures is not None:
            rows = np.stack(list(pictures.values()))
            shard = write_shard(self._parts.pictures, list(pictures), rows)
        return _to_table(scanned, shard)

    def _find_facts(self, digest: str) -> Facts | None:
        if not _holds(self._parts.known_files, digest):
            return None
        answer = _ask(self._parts.known.find, digest)
        facts, is_missing = cast("tuple[Facts | None, bool]", answer)
        if facts is not None:
            self._is_missing_of[facts["pixels_sha256"]] = is_missing
        return facts

    def _is_missing(self, key: str) -> bool:
        told = self._is_missing_of.pop(key, None)
        if self._parts.rule is None:
            return False
        if told is not None:
            return told
        if not _holds(self._parts.known_pictures, key):
            return True
        return bool(_ask(self._parts.known.is_missing, key))


def _holds(marks: Marks, key: str) -> bool:
    """Whether the key may be among those that the marks are of."""
    own = np.uint64(mark(key))
    place = int(np.searchsorted(marks, own))
    return place < len(marks) and bool(marks[place] == own)


def _ask(method: Any, key: str) -> Any:
    """The answer of an actor's method: one actor for all, so only what it may know is asked."""
    return import_ray().get(method.remote(key))


def scan_on_cluster(
    dataset: Dataset,
    frame: int | None,
    facts: FactsCache,
    pictures: Pictures | None,
    progress: Progress,
    *,
    cache: Path,
    say: Callable[[str], None],
) -> pd.DataFrame:
    """Read every file of a data set on the connected cluster; as `read_here` otherwise.

    Args:
        dataset: The images to read.
        frame: As for `read_here`.
        facts: As for `read_here`; only this machine writes them.
        pictures: As for `read_here`; their folder must be one that all nodes see.
        progress: As for `read_here`.
        cache: The cache folder, which all nodes see; the list of files is there while this runs, in
            a folder of this call's own.
        say: Told what was begun again.

    Raises:
        MedlensError: If a node does not see what it needs, or there is no room for the job.
    """
    cache = for_all_nodes(cache)
    work = write_work_list(cache / "work" / f"scan-{uuid.uuid4().hex}", _paths(dataset))
    tables: dict[int, pd.DataFrame] = {}

    def keep(part: int, told: pyarrow.Table) -> None:
        scanned, shard, keys = _from_table(told)
        paths = dataset.table["path"].iloc[part * PART_ROWS : (part + 1) * PART_ROWS]
        check_own_sight(dataset.root, _unopened(paths, scanned))
        if pictures and shard:
            pictures.store.note(shard, keys)
        tables[part] = keep_facts(scanned, facts)
        progress(len(scanned))

    known_files, known_pictures = facts.marks(), _mark_pictures(pictures)
    is_known = bool(len(known_files) or len(known_pictures))
    make = ScanParts(
        work,
        for_all_nodes(dataset.root),
        frame,
        pictures.rule if pictures else None,
        for_all_nodes(pictures.store.folder) if pictures else None,
        beside_driver(Known).remote(facts.path.absolute(), pictures) if is_known else None,
        known_files,
        known_pictures,
        beside_driver(Witness).remote(),
    )
    try:
        retried = run_parts(np.arange(work.parts), make, keep, gpus=0)
    finally:
        remove(work.folder)
    for line in retried.lines:
        say(line)
    return pd.concat([tables[part] for part in sorted(tables)])


def _mark_pictures(pictures: Pictures | None) -> Marks:
    """The marks of all pictures that may not be missing: see `Pictures.is_missing`."""
    # What is in all stores of features is in the first.
    stores = (pictures.store, *pictures.features[:1]) if pictures else ()
    marks = np.fromiter((mark(key) for store in stores for key in store), np.uint64)
    return np.unique(marks)


def _unopened(paths: Iterable[str], scanned: Sequence[Scanned]) -> dict[str, str]:
    """Path -> the reason, of files that are missing here or that storage does not give."""
    reasons = [str(one.facts["unreadable"]) for one in scanned]
    return {
        path: reason
        for path, reason in zip(paths, reasons, strict=True)
        if reason.startswith((NOT_THERE, CANNOT_BE_OPENED))
    }


def _paths(dataset: Dataset) -> Iterator[pyarrow.Table]:
    paths = dataset.table["path"]
    for start in range(0, len(paths), ROWS_AT_A_TIME):
        some = pyarrow.array(paths.iloc[start : start + ROWS_AT_A_TIME], pyarrow.string())
        yield pyarrow.table({"path": some})


def _to_table(scanned: Sequence[Scanned], shard: str) -> pyarrow.Table:
    """What a worker tells of the files of a part."""
    columns = {name: [one.facts[name] for one in scanned] for name in (*FACT_COLUMNS, "patient")}
    thumbnails = [None if one.thumbnail is None else one.thumbnail.tobytes() for one in scanned]
    return pyarrow.table(
        {
            **columns,
            THUMBNAIL: pyarrow.array(thumbnails, pyarrow.binary()),
            HAS_PICTURE: [one.picture is not None for one in scanned],
            SHARD: [shard] * len(scanned),
        }
    )


def _from_table(told: pyarrow.Table) -> tuple[list[Scanned], str, list[str]]:
    """The same again: the files without their pictures, the shard of these, and its keys."""
    facts = told.select([*FACT_COLUMNS, "patient"]).to_pylist()
    scanned = [
        Scanned(one, None if content is None else _to_thumbnail(content))
        for one, content in zip(facts, told[THUMBNAIL].to_pylist(), strict=True)
    ]
    with_picture = told.filter(told[HAS_PICTURE])["pixels_sha256"].to_pylist()
    # In the order of `new_pictures`, each once.
    return scanned, told[SHARD][0].as_py(), list(dict.fromkeys(with_picture))


def _to_thumbnail(content: bytes) -> Thumbnail:
    return np.frombuffer(content, np.uint8).reshape(THUMBNAIL_SIDE, THUMBNAIL_SIDE)
