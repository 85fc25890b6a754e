"""Rows in parts of 256, which any node can read one by one."""

from __future__ import annotations

import itertools
from pathlib import Path

import pyarrow
import pyarrow.parquet as parquet
import pytest

from medlens.data.remote import open_path
from medlens.data.work_list import PART_ROWS, PARTS_PER_FILE, WorkList, write_work_list
from medlens.errors import MedlensError

SCHEMA = pyarrow.schema([("row", pyarrow.int64()), ("path", pyarrow.string())])


def rows(first: int, last: int) -> pyarrow.Table:
    numbers = range(first, last)
    return pyarrow.table({"row": numbers, "path": [f"{n}.png" for n in numbers]}, SCHEMA)


def test_tables_of_any_length_become_parts_of_256_rows(tmp_path: Path) -> None:
    ends = [0, 1, 1, 300, 1500, 1537]
    tables = (rows(first, last) for first, last in itertools.pairwise(ends))
    work = write_work_list(tmp_path / "work", tables)
    assert (work.rows, work.parts) == (1537, 7)
    parts = [work.read(part) for part in range(work.parts)]
    assert [len(part) for part in parts] == [*[PART_ROWS] * 6, 1]
    assert pyarrow.concat_tables(parts).equals(rows(0, 1537))


def test_many_parts_take_several_files(tmp_path: Path) -> None:
    count = PART_ROWS * (PARTS_PER_FILE + 1) + 3
    work = write_work_list(tmp_path, [rows(0, count)])
    files = sorted(tmp_path.iterdir())
    assert [parquet.ParquetFile(file).num_row_groups for file in files] == [PARTS_PER_FILE, 2]
    assert work.read(PARTS_PER_FILE)["row"][0].as_py() == PART_ROWS * PARTS_PER_FILE
    assert work.read(work.parts - 1)["row"].to_pylist() == list(range(count - 3, count))


def test_on_other_storage_the_parts_are_the_same(bucket: str) -> None:
    count = PART_ROWS * PARTS_PER_FILE + 1
    work = write_work_list(open_path(f"{bucket}/work"), [rows(0, count)])
    parts = [work.read(part) for part in (0, PARTS_PER_FILE - 1, PARTS_PER_FILE)]
    assert [part["row"][-1].as_py() for part in parts] == [PART_ROWS - 1, count - 2, count - 1]


def test_no_rows_are_no_parts(tmp_path: Path) -> None:
    assert write_work_list(tmp_path, []).parts == 0


def test_a_node_that_does_not_see_the_folder_says_so(tmp_path: Path) -> None:
    with pytest.raises(MedlensError, match="does not see") as raised:
        WorkList(tmp_path / "elsewhere", 10).read(0)
    assert raised.value.names == (str(tmp_path / "elsewhere"),)
