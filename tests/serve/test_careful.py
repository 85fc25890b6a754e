"""How much memory a decoder may take where images are gone through with care."""

from __future__ import annotations

from pathlib import Path

import psutil

from medlens.serve.careful import find_memory


def test_the_memory_is_that_of_the_container_where_it_has_a_limit(tmp_path: Path) -> None:
    limit, none = tmp_path / "memory.max", tmp_path / "none"
    limit.write_text("1048576\n", encoding="ascii")
    assert find_memory([none, limit]) == 2**20
    limit.write_text("max\n", encoding="ascii")
    assert find_memory([none, limit]) == psutil.virtual_memory().total
