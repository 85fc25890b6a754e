"""Arrays kept on disk by content: shards that are written atomically and read in any order."""

from __future__ import annotations

import hashlib
import io
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from medlens.data.remote import REQUESTS_AT_A_TIME, is_remote, local_side
from medlens.files import part_name, remove, write_bytes

KEYS_SUFFIX = ".keys"
ROWS_AT_A_TIME = 256
MOST_TRIES = 10

# The name of a shard, and a row of it.
Place = tuple[str, int]


class Store:
    """Rows of one shape and type, each under the key of its content.

    A shard is two files: NAME.npy with the rows and NAME.keys with their keys, one a line. The
    keys are written last, so that a shard without them does not count: a killed writer leaves
    nothing half. A shard that is cut short, empty or has lost its keys does not count either; its
    keys are missing and can be added again. Several processes may add at the same time; a row
    added twice is the same row.

    Shards on other storage are copied to this machine when their rows are first read, or kept in
    memory for as long as the store.

    Args:
        folder: Where the shards lie; made with the first row.
        places: The shard and row of the keys that will be asked for, as another store told them
            by `places`; None to look for all that are in the folder.
        is_brief: Whether it is read for a moment by a machine that will not ask again; then nothing
            is left on its disk.
    """

    def __init__(
        self, folder: Path, places: Mapping[str, Place] | None = None, *, is_brief: bool = False
    ) -> None:
        self.folder = folder
        self._in_memory: dict[str, NDArray[Any]] | None = (
            {} if is_brief and is_remote(folder) else None
        )
        self._copies = local_side(folder)
        self._places: dict[str, Place] = dict(places or {})
        if places is not None:
            return
        for path, keys in self._read_all_remote() if is_remote(folder) else self._read_all():
            if keys is not None:
                self.note(path.stem, keys)

    def __contains__(self, key: str) -> bool:
        return key in self._places

    def __len__(self) -> int:
        return len(self._places)

    def __iter__(self) -> Iterator[str]:
        return iter(self._places)

    def places(self, keys: Iterable[str]) -> list[Place]:
        """The shard of each key, and its row there.

        Raises:
            KeyError: If a key is not there.
        """
        return [self._places[key] for key in keys]

    def note(self, shard: str, keys: Sequence[str]) -> None:
        """Take up a shard that another process has written by `write_shard`."""
        for row, key in enumerate(keys):
            self._places.setdefault(key, (shard, row))

    def _read_all(self) -> Iterator[tuple[Path, list[str] | None]]:
        for path in sorted(self.folder.glob(f"*{KEYS_SUFFIX}")):
            yield path, self._read_keys(path)

    def _read_all_remote(self) -> Iterator[tuple[Path, list[str] | None]]:
        """The keys of all shards on other storage, where a file is whole or not there."""
        there = sorted(self.folder.glob("*"))
        with_rows = {path.stem for path in there if path.suffix == ".npy"}
        paths = [path for path in there if path.suffix == KEYS_SUFFIX and path.stem in with_rows]
        with ThreadPoolExecutor(REQUESTS_AT_A_TIME) as pool:
            contents = pool.map(lambda path: path.read_bytes(), paths)
            for path, content in zip(paths, contents, strict=True):
                is_own = _name_shard(content) == path.stem
                yield path, content.decode("ascii").split() if is_own else None

    def _read_keys(self, path: Path) -> list[str] | None:
        """The keys of a shard, or None where it is damaged: seen without reading its rows."""
        try:
            content = path.read_bytes()
            if _name_shard(content) != path.stem:
                return None
            file = path.with_suffix(".npy")
            rows = _map(file)
            whole = rows.offset + rows.nbytes == file.stat().st_size
        # NumPy's parser raises many things at a damaged header: OSError, ValueError, TypeError and
        # tokenize.TokenError were seen.
        except Exception:
            return None
        keys = content.decode("ascii").split()
        return keys if whole and rows.shape[:1] == (len(keys),) else None

    def _open(self, shard: str) -> NDArray[Any]:
        if self._in_memory is not None:
            if shard not in self._in_memory:
                content = (self.folder / f"{shard}.npy").read_bytes()
                self._in_memory[shard] = np.load(io.BytesIO(content), allow_pickle=False)
            return self._in_memory[shard]
        path = self._copies / f"{shard}.npy"
        if is_remote(self.folder) and not path.exists():
            write_bytes(path, (self.folder / path.name).read_bytes())
        return _map(path)

    def add(self, keys: Sequence[str], rows: NDArray[Any]) -> None:
        """Write one shard.

        Args:
            keys: The content keys, without white space, one per row.
            rows: Array of shape (len(keys), ...).
        """
        self.note(write_shard(self.folder, keys, rows), keys)

    def read(self, keys: Sequence[str]) -> NDArray[Any]:
        """The rows of these keys, in this order; keys may repeat.

        Raises:
            KeyError: If a key is not there.
        """
        out: NDArray[Any] | None = None
        for shard, numbers in self._by_shard(keys).items():
            rows = self._open(shard)
            if out is None:
                out = np.empty((len(keys), *rows.shape[1:]), rows.dtype)
            out[numbers] = rows[[self._places[keys[number]][1] for number in numbers]]
        return out if out is not None else np.empty((0,))

    def gather(
        self, keys: Sequence[str], path: Path, columns: slice | NDArray[np.intp] | None = None
    ) -> NDArray[Any]:
        """Write the rows of these keys, in this order, into one file, and open it.

        The file appears whole or not at all. Only a few rows are in memory at a time, however many
        keys there are.

        Args:
            keys: Content keys; may repeat. At least one.
            path: The .npy file; its folder is made where it is missing, an old file is replaced.
            columns: Which entries of a row's first axis to take, in which order; None for all.

        Returns:
            Array of shape (len(keys), columns, ...), mapped from the file, not to be written to.

        Raises:
            KeyError: If a key is not there; nothing is written then.
        """
        if not keys:
            raise ValueError("There is nothing to gather: no keys are given.")
        by_shard = self._by_shard(keys)
        path.parent.mkdir(parents=True, exist_ok=True)
        part = path.with_name(part_name(path.name))
        try:
            # Written as a stream, not through a map: a full disk is then an error, not the end of
            # the process, and what is written does not count as its memory.
            with part.open("wb") as stream:
                start = 0
                for shard, numbers in by_shard.items():
                    rows = self._open(shard)
                    for first in range(0, len(numbers), ROWS_AT_A_TIME):
                        some = numbers[first : first + ROWS_AT_A_TIME]
                        taken = rows[[self._places[keys[number]][1] for number in some]]
                        taken = taken if columns is None else taken[:, columns]
                        start = start or _write_header(stream, len(keys), taken)
                        _write_rows(stream, start, some, np.ascontiguousarray(taken))
                stream.flush()
                os.fsync(stream.fileno())
            part.replace(path)
        finally:
            part.unlink(missing_ok=True)
        return np.lib.format.open_memmap(path, mode="r")

    def _by_shard(self, keys: Sequence[str]) -> dict[str, list[int]]:
        """The numbers of the keys that lie in each shard."""
        by_shard: dict[str, list[int]] = {}
        for number, key in enumerate(keys):
            by_shard.setdefault(self._places[key][0], []).append(number)
        return by_shard

    def remove(self) -> None:
        """Delete the folder and all shards in it, keys first."""
        for keys in self.folder.glob(f"*{KEYS_SUFFIX}"):
            keys.unlink()
        with suppress(OSError):
            remove(self.folder)
        self._places.clear()


def _map(path: Path) -> np.memmap[Any, Any]:
    """Map an .npy file into memory.

    NumPy lets Python parse its header, and Python 3.11 now and then fails at that by a SystemError
    where another thread parses at the same moment (CPython's issue 106905): then once more.
    """
    for _ in range(MOST_TRIES):
        with suppress(SystemError):
            return np.lib.format.open_memmap(path, mode="r")
    return np.lib.format.open_memmap(path, mode="r")


def write_shard(folder: Path, keys: Sequence[str], rows: NDArray[Any]) -> str:
    """Write a shard of a `Store` without opening the store; return its name.

    Args:
        folder: Of the store.
        keys: As for `Store.add`.
        rows: As for `Store.add`.
    """
    content = "\n".join(keys).encode("ascii")
    shard = _name_shard(content)
    buffer = io.BytesIO()
    np.save(buffer, np.ascontiguousarray(rows), allow_pickle=False)
    write_bytes(folder / f"{shard}.npy", buffer.getbuffer())
    write_bytes(folder / f"{shard}{KEYS_SUFFIX}", content)
    return shard


def _name_shard(content: bytes) -> str:
    """A shard's name says which keys it has, so that damaged ones are noticed."""
    return hashlib.sha256(content).hexdigest()[:32]


def _write_header(stream: BinaryIO, count: int, rows: NDArray[Any]) -> int:
    """Begin an .npy file of `count` rows such as these; return where the first one starts."""
    header = {
        "descr": np.lib.format.dtype_to_descr(rows.dtype),
        "fortran_order": False,
        "shape": (count, *rows.shape[1:]),
    }
    np.lib.format.write_array_header_1_0(stream, header)
    return stream.tell()


def _write_rows(stream: BinaryIO, start: int, numbers: Sequence[int], rows: NDArray[Any]) -> None:
    """Write rows to their places in an .npy file; neighbours in one go."""
    size = rows[0].nbytes
    jumps = np.flatnonzero(np.diff(numbers) != 1) + 1
    for first, last in zip([0, *jumps], [*jumps, len(numbers)], strict=True):
        stream.seek(start + numbers[first] * size)
        stream.write(rows[first:last].data)
