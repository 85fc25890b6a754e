"""Files are written whole or not at all, whoever else writes them."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from medlens.files import part_name, write_bytes
from medlens.run_dir import PART


def test_of_two_threads_that_write_one_file_one_content_stays(tmp_path: Path) -> None:
    path = tmp_path / "one.bin"
    contents = [bytes([number]) * 300_000 for number in (1, 2)]
    for _ in range(20):
        with ThreadPoolExecutor(2) as pool:
            list(pool.map(lambda content: write_bytes(path, content), contents))
        assert path.read_bytes() in contents
    assert [one.name for one in tmp_path.iterdir()] == ["one.bin"]


@pytest.mark.parametrize(
    ("name", "is_part"),
    [
        (".splits.csv.8163f36d0c91eab6.part", True),
        ("..progress.json.0d5bf176038bffa7.part", True),
        (".splits.csv.99.part", True),
        (".99.part.keras", True),
        (".movie.beef.part", False),
        ("splits.csv.99.part", False),
    ],
)
def test_names_of_what_is_being_written_are_known_again(name: str, is_part: bool) -> None:
    assert bool(PART.fullmatch(name)) is is_part
    assert PART.fullmatch(part_name(name))
