"""Facts and thumbnails come back as they were, or not at all."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from medlens.data.dataset import FACT_COLUMNS
from medlens.data.facts_cache import FactsCache, name_facts


@pytest.fixture()
def cache(tmp_path: Path) -> Iterator[FactsCache]:
    with closing(FactsCache(tmp_path / "facts" / "facts.sqlite")) as cache:
        yield cache


def facts_of(key: str) -> dict[str, Any]:
    return {**dict.fromkeys(FACT_COLUMNS, "x"), "sha256": key, "patient": "Somebody"}


def thumbnail_of(number: int) -> np.ndarray:
    return np.random.default_rng(number).integers(0, 256, (64, 64), np.uint8)


def fill(cache: FactsCache, count: int) -> None:
    cache.add((facts_of(f"key {number}"), thumbnail_of(number)) for number in range(count))


def change(cache: FactsCache, statement: str, value: str | bytes | None) -> None:
    with closing(sqlite3.connect(cache.path)) as connection, connection:
        assert connection.execute(statement, (value,)).rowcount > 0


def test_facts_come_back_without_the_patient(cache: FactsCache) -> None:
    fill(cache, 2)
    expected = facts_of("key 1")
    del expected["patient"]
    assert cache.get("key 1") == expected
    assert cache.get("key 2") is None
    assert b"Somebody" not in cache.path.read_bytes()


def test_thumbnails_come_back_by_key_those_that_are_not_there_left_out(cache: FactsCache) -> None:
    fill(cache, 1200)
    wanted = [f"key {number}" for number in range(0, 2400, 2)]
    found = cache.read_thumbnails([*wanted, wanted[0]])
    assert set(found) == {f"key {number}" for number in range(0, 1200, 2)}
    for number in (0, 600, 1198):
        np.testing.assert_array_equal(found[f"key {number}"], thumbnail_of(number))
    assert cache.read_thumbnails([]) == {}


@pytest.mark.parametrize("damage", [None, "x" * 4096, bytes(4095)])
def test_facts_without_their_whole_thumbnail_do_not_count(
    cache: FactsCache, damage: str | bytes | None
) -> None:
    fill(cache, 3)
    change(cache, "UPDATE facts SET thumbnail = ? WHERE key = 'key 1'", damage)
    assert cache.get("key 1") is None
    assert set(cache.read_thumbnails(["key 0", "key 1", "key 2"])) == {"key 0", "key 2"}
    fill(cache, 3)
    assert cache.get("key 1") is not None


def test_near_duplicates_come_back(cache: FactsCache) -> None:
    assert cache.get_near_duplicates("all images") is None
    cache.add_near_duplicates("all images", [("a", "b"), ("a", "c")])
    cache.add_near_duplicates("no pairs", [])
    assert cache.get_near_duplicates("all images") == [("a", "b"), ("a", "c")]
    assert cache.get_near_duplicates("no pairs") == []
    for damage in ("[[1]]", '[["a"', None, "7"):
        change(cache, "UPDATE near_duplicates SET value = ? WHERE key = 'no pairs'", damage)
        assert cache.get_near_duplicates("no pairs") is None


def test_the_frame_decides_the_file() -> None:
    assert len({name_facts(None), name_facts(0), name_facts(1)}) == 3
