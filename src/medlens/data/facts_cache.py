"""What is known of files, kept by content: facts, thumbnails, and which are near-duplicates."""

from __future__ import annotations

import importlib.metadata
import json
import sqlite3
import threading
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from medlens.data.dataset import FACT_COLUMNS
from medlens.data.near_duplicates import FINGERPRINT_VERSION, THUMBNAIL_SIDE

# Raise it when a change of images.py, of a fact in scan.py, or of the search for near-duplicates
# gives other values for the same files.
FACTS_VERSION = 3

_TABLES = (
    "CREATE TABLE IF NOT EXISTS facts (key TEXT PRIMARY KEY, value TEXT, thumbnail BLOB)",
    "CREATE TABLE IF NOT EXISTS near_duplicates (key TEXT PRIMARY KEY, value TEXT)",
)
_MARK_DIGITS = 16
_THUMBNAIL_BYTES = THUMBNAIL_SIDE**2

Answer = TypeVar("Answer")
Facts = dict[str, Any]
Thumbnail = NDArray[np.uint8]
Pairs = list[tuple[str, str]]


def name_facts(frame: int | None) -> str:
    """The file of the facts; its name has what they depend on beside the image files.

    Args:
        frame: The frame of multi-frame DICOM files; None for the middle one.
    """
    versions = "-".join(importlib.metadata.version(name) for name in ("pillow", "pydicom"))
    own = f"v{FACTS_VERSION}.{FINGERPRINT_VERSION}"
    return f"{own}-{versions}-{'middle' if frame is None else frame}.sqlite"


def mark(key: str) -> int:
    """The first 8 bytes of a SHA-256."""
    return int(key[:_MARK_DIGITS], 16)


class FactsCache:
    """Facts of files by the SHA-256 of their content, in one SQLite file that processes may share.

    Nothing of it is held in memory. Safe in threads. The patient is not kept: the folder outlives
    the run, and nobody expects patients in it. The thumbnail stands in the same row, so that there
    are no facts without it.

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
                for table in _TABLES:
                    connection.execute(table)
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

    def _try(self, action: Callable[[], Answer]) -> Answer:
        """Do something with the file; if it is damaged, begin it anew and do that again."""
        with self._lock:
            try:
                return action()
            except sqlite3.DatabaseError as error:
                self._connection.close()
                self._open_anew(error)
                return action()

    def __len__(self) -> int:
        count: int = self._try(
            lambda: self._connection.execute("SELECT count(*) FROM facts").fetchone()
        )[0]
        return count

    def marks(self) -> NDArray[np.uint64]:
        """The first 8 bytes of each known SHA-256, sorted: little enough to send to many."""
        # What damage left in place of a key is none.
        select = "SELECT key FROM facts WHERE length(key) = 64 AND key NOT GLOB '*[^0-9a-f]*'"
        found = self._try(
            lambda: np.fromiter(
                (mark(key) for (key,) in self._connection.execute(select)), np.uint64
            )
        )
        return np.sort(found)

    def get(self, key: str) -> Facts | None:
        """The facts of a file, without its patient, or None."""
        select = "SELECT value, typeof(thumbnail), length(thumbnail) FROM facts WHERE key = ?"
        row = self._try(lambda: self._connection.execute(select, (key,)).fetchone())
        is_whole = row is not None and row[1:] == ("blob", _THUMBNAIL_BYTES)
        return _parse_facts(row[0]) if is_whole else None

    def read_thumbnails(self, keys: Iterable[str]) -> dict[str, Thumbnail]:
        """The thumbnails of some files, of shape (64, 64) each; those that are not there left out.

        Args:
            keys: SHA-256 of their contents; may repeat.
        """
        wanted = json.dumps(list(keys))
        select = "SELECT key, thumbnail FROM facts WHERE key IN (SELECT value FROM json_each(?))"
        rows = self._try(lambda: self._connection.execute(select, (wanted,)).fetchall())
        return {
            key: np.frombuffer(content, np.uint8).reshape(THUMBNAIL_SIDE, THUMBNAIL_SIDE)
            for key, content in rows
            if isinstance(content, bytes) and len(content) == _THUMBNAIL_BYTES
        }

    def add(self, known: Iterable[tuple[Facts, Thumbnail]]) -> None:
        """Keep the facts and thumbnails of some files, in one transaction."""
        rows = []
        for facts, thumbnail in known:
            kept = {name: value for name, value in facts.items() if name != "patient"}
            rows.append((facts["sha256"], json.dumps(kept), thumbnail.tobytes()))
        self._try(lambda: self._write("INSERT OR REPLACE INTO facts VALUES (?, ?, ?)", rows))

    def _write(self, statement: str, rows: Sequence[tuple[str | bytes, ...]]) -> None:
        with self._connection:
            self._connection.executemany(statement, rows)

    def get_near_duplicates(self, key: str) -> Pairs | None:
        """The near-duplicates of a data set that was searched before, or None."""
        select = "SELECT value FROM near_duplicates WHERE key = ?"
        row = self._try(lambda: self._connection.execute(select, (key,)).fetchone())
        return _parse_pairs(row[0]) if row else None

    def add_near_duplicates(self, key: str, pairs: Pairs) -> None:
        """Keep the near-duplicates of a data set.

        Args:
            key: What the search depends on, as a hash.
            pairs: The `pixels_sha256` of two images each.
        """
        insert = "INSERT OR REPLACE INTO near_duplicates VALUES (?, ?)"
        self._try(lambda: self._write(insert, [(key, json.dumps(pairs))]))

    def close(self) -> None:
        """Close the file; nothing can be asked or added after that."""
        self._connection.close()


def _parse_facts(text: Any) -> Facts | None:
    """The facts that one row holds, or None where it is damaged."""
    try:
        facts = json.loads(text)
    except (ValueError, TypeError):
        return None
    return facts if isinstance(facts, dict) and facts.keys() == set(FACT_COLUMNS) else None


def _parse_pairs(text: Any) -> Pairs | None:
    """The pairs that one row holds, or None where it is damaged."""
    try:
        return [(str(first), str(second)) for first, second in json.loads(text)]
    except (ValueError, TypeError):
        return None
