from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

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


def spoil(change: Callable[[bytes], bytes]) -> Callable[[Path], None]:
    return lambda path: write_bytes(path, change(path.read_bytes()))


def fewer_rows(path: Path) -> None:
    np.save(path, np.load(path)[:-1])


DAMAGES: dict[str, tuple[str, Callable[[Path], None]]] = {
    "rows missing": (".npy", Path.unlink),
    "rows empty": (".npy", spoil(lambda content: b"")),
    "rows cut in the header": (".npy", spoil(lambda content: content[:50])),
    "rows cut to the header": (".npy", spoil(lambda content: content[:128])),
    "rows cut by a byte": (".npy", spoil(lambda content: content[:-1])),
    "rows with more behind": (".npy", spoil(lambda content: content + b"x")),
    "rows all zero bytes": (".npy", spoil(lambda content: bytes(len(content)))),
    "fewer rows": (".npy", fewer_rows),
    "no rows but a zip": (".npy", spoil(lambda content: b"PK\x03\x04" + content[4:])),
    "header not closed": (".npy", spoil(lambda content: content.replace(b"}", b"("))),
    "header of no type": (".npy", spoil(lambda content: content.replace(b"<f4", b"<q9"))),
    "keys empty": (".keys", spoil(lambda content: b"")),
    "keys cut": (".keys", spoil(lambda content: content[:-1])),
    "keys garbage": (".keys", spoil(lambda content: b"\xff\x00\x80 garbage")),
    "keys all zero bytes": (".keys", spoil(lambda content: bytes(len(content)))),
    "another key": (".keys", spoil(lambda content: content.replace(b"b", b"x"))),
}


@pytest.mark.parametrize("name", DAMAGES)
def test_a_damaged_shard_is_missing_and_can_be_added_again(tmp_path: Path, name: str) -> None:
    suffix, damage = DAMAGES[name]
    rows = np.arange(15, dtype=np.float32).reshape(5, 3)
    store = Store(tmp_path)
    store.add(["a", "b", "c"], rows[:3])
    damage(next(tmp_path.glob(f"*{suffix}")))
    store.add(["d", "e"], rows[3:])
    damaged = Store(tmp_path)
    assert [key in damaged for key in "abcdex"] == [False, False, False, True, True, False]
    np.testing.assert_array_equal(damaged.read(["e", "d"]), rows[[4, 3]])
    damaged.add(["a", "b", "c"], rows[:3])
    for whole in (damaged, Store(tmp_path)):
        np.testing.assert_array_equal(whole.read(list("abcde")), rows)


def test_no_change_of_the_header_stops_the_store(tmp_path: Path) -> None:
    Store(tmp_path).add(["a", "b", "c"], np.zeros((3, 2), np.float32))
    path = next(tmp_path.glob("*.npy"))
    content = path.read_bytes()
    random = np.random.default_rng(0)
    counts = set()
    for _ in range(300):
        changed = bytearray(content)
        for place in random.integers(0, 128, 3):
            changed[place] = random.integers(256)
        path.write_bytes(changed)
        counts.add(len(Store(tmp_path)))
    assert 0 in counts


@pytest.mark.parametrize(
    "columns",
    [None, slice(1, 4), slice(None, None, 2), np.array([5, 0, 0, 3]), np.array([2])],
)
def test_gather_writes_rows_in_the_order_asked_for(
    tmp_path: Path, columns: slice | NDArray[np.intp] | None
) -> None:
    random = np.random.default_rng(0)
    rows = random.normal(size=(700, 6)).astype(np.float32)
    names = [f"key-{number}" for number in range(len(rows))]
    store = Store(tmp_path / "store")
    for first in range(0, len(rows), 97):
        store.add(names[first : first + 97], rows[first : first + 97])
    order = np.concatenate([random.integers(0, 700, 900), np.full(600, 5), np.arange(700)])
    path = tmp_path / "new" / "features.npy"
    gathered = store.gather([names[number] for number in order], path, columns)
    expected = rows[order] if columns is None else rows[order][:, columns]
    np.testing.assert_array_equal(gathered, expected)
    assert isinstance(gathered, np.memmap)
    assert not gathered.flags.writeable
    assert gathered.dtype == rows.dtype
    # A plain file, whole and alone in its folder.
    np.testing.assert_array_equal(np.load(path), expected)
    assert [entry.name for entry in path.parent.iterdir()] == ["features.npy"]


def test_gather_takes_pictures_and_single_numbers(tmp_path: Path) -> None:
    pictures = np.arange(2 * 4 * 4 * 3, dtype=np.uint8).reshape(2, 4, 4, 3)
    store = Store(tmp_path / "pictures")
    store.add(["a", "b"], pictures)
    gathered = store.gather(["b", "a", "b"], tmp_path / "pictures.npy")
    np.testing.assert_array_equal(gathered, pictures[[1, 0, 1]])
    numbers = Store(tmp_path / "numbers")
    numbers.add(["a", "b"], np.array([3, 4]))
    assert numbers.gather(["b", "a"], tmp_path / "numbers.npy").tolist() == [4, 3]


def test_gather_of_what_is_not_there_leaves_the_old_file(tmp_path: Path) -> None:
    store = Store(tmp_path / "store")
    store.add(["a", "b"], np.ones((2, 3)))
    path = tmp_path / "out.npy"
    path.write_bytes(b"old")
    with pytest.raises(KeyError):
        store.gather(["a", "nothing"], path)
    with pytest.raises(ValueError, match="no keys"):
        store.gather([], path)
    with pytest.raises(IndexError):
        store.gather(["a", "b"], path, np.array([3]))
    assert path.read_bytes() == b"old"
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["out.npy", "store"]
    assert store.gather(["a"], path).tolist() == [[1, 1, 1]]


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
