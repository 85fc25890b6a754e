from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from medlens.data.store import Store
from medlens.files import write_bytes


def test_rows_come_back_in_the_order_asked_for_and_from_a_new_store(tmp_path: Path) -> None:
    rows = np.arange(12, dtype=np.float32).reshape(6, 2)
    store = Store(tmp_path)
    store.add(["a", "b", "c"], rows[:3])
    store.add(["d", "e", "f"], rows[3:])
    for again in (store, Store(tmp_path)):
        assert len(again) == 6
        np.testing.assert_array_equal(again.read(["f", "a", "a", "d"]), rows[[5, 0, 0, 3]])


def test_a_shard_without_its_keys_does_not_count(tmp_path: Path) -> None:
    store = Store(tmp_path)
    store.add(["a"], np.zeros((1, 2)))
    next(tmp_path.glob("*.keys")).unlink()
    assert "a" not in Store(tmp_path)


def test_an_unknown_key_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(KeyError):
        Store(tmp_path).read(["nothing"])


def test_remove_leaves_nothing(tmp_path: Path) -> None:
    store = Store(tmp_path / "shards")
    store.add(["a"], np.zeros((1, 2)))
    store.remove()
    assert "a" not in store
    assert not list(tmp_path.rglob("*.npy"))


def test_a_write_that_fails_leaves_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "file.txt"
    write_bytes(path, b"old")
    with pytest.raises(TypeError):
        write_bytes(path, 7)  # type: ignore[arg-type]
    assert path.read_bytes() == b"old"
    assert [entry.name for entry in tmp_path.iterdir()] == ["file.txt"]
