"""Arrays kept on disk by content: shards that are written atomically and read in any order."""

from __future__ import annotations

import hashlib
import io
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medlens.files import write_bytes

KEYS_SUFFIX = ".keys"


class Store:
    """Rows of one shape and type, each under the key of its content.

    A shard is two files: NAME.npy with the rows and NAME.keys with their keys, one a line. The
    keys are written last, so that a shard without them does not count: a killed writer leaves
    nothing half. Several processes may add at the same time; a row added twice is the same row.

    Args:
        folder: Where the shards lie; made with the first row.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._places: dict[str, tuple[str, int]] = {}
        for keys in sorted(folder.glob(f"*{KEYS_SUFFIX}")):
            self._note(keys.stem, keys.read_text(encoding="ascii").split())

    def __contains__(self, key: str) -> bool:
        return key in self._places

    def __len__(self) -> int:
        return len(self._places)

    def _note(self, shard: str, keys: Sequence[str]) -> None:
        for row, key in enumerate(keys):
            self._places.setdefault(key, (shard, row))

    def add(self, keys: Sequence[str], rows: NDArray[Any]) -> None:
        """Write one shard.

        Args:
            keys: The content keys, without white space, one per row.
            rows: Array of shape (len(keys), ...).
        """
        shard = hashlib.sha256("\n".join(keys).encode("ascii")).hexdigest()[:32]
        buffer = io.BytesIO()
        np.save(buffer, np.ascontiguousarray(rows), allow_pickle=False)
        write_bytes(self.folder / f"{shard}.npy", buffer.getbuffer())
        write_bytes(self.folder / f"{shard}{KEYS_SUFFIX}", "\n".join(keys).encode("ascii"))
        self._note(shard, keys)

    def read(self, keys: Sequence[str]) -> NDArray[Any]:
        """The rows of these keys, in this order; keys may repeat.

        Raises:
            KeyError: If a key is not there.
        """
        places = [self._places[key] for key in keys]
        by_shard: dict[str, list[int]] = {}
        for number, (shard, _) in enumerate(places):
            by_shard.setdefault(shard, []).append(number)
        out: NDArray[Any] | None = None
        for shard, numbers in by_shard.items():
            rows = np.load(self.folder / f"{shard}.npy", mmap_mode="r", allow_pickle=False)
            if out is None:
                out = np.empty((len(keys), *rows.shape[1:]), rows.dtype)
            out[numbers] = rows[[places[number][1] for number in numbers]]
        return out if out is not None else np.empty((0,))

    def remove(self) -> None:
        """Delete the folder and all shards in it, keys first."""
        for keys in self.folder.glob(f"*{KEYS_SUFFIX}"):
            keys.unlink()
        shutil.rmtree(self.folder, ignore_errors=True)
        self._places.clear()
