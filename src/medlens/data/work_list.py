"""The rows of a job in parts of 256, in Parquet files that every node of a cluster can read."""

from __future__ import annotations

import io
import itertools
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pyarrow
import pyarrow.parquet as parquet

from medlens.data.remote import is_remote
from medlens.errors import MedlensError
from medlens.files import remove, write_bytes

PART_ROWS = 256
# On other storage a file is read whole for a part of it: some hundred kilobytes.
PARTS_PER_FILE = 32


@dataclass(frozen=True)
class WorkList:
    """What is to be done, a part at a time: a row group of 256 rows is a part.

    Args:
        folder: Where the files lie; every node sees it under the same name.
        rows: How many rows there are.
    """

    folder: Path
    rows: int

    @property
    def parts(self) -> int:
        """How many parts there are; only the last may have under 256 rows."""
        return -(-self.rows // PART_ROWS)

    def read(self, part: int) -> pyarrow.Table:
        """The rows of a part.

        Raises:
            MedlensError: If this node does not see the folder.
        """
        file, group = divmod(part, PARTS_PER_FILE)
        try:
            path = self.folder / _file_name(file)
            # The whole at once, tried again where need be; a stream would not be.
            with io.BytesIO(path.read_bytes()) if is_remote(path) else path.open("rb") as stream:
                return parquet.ParquetFile(stream).read_row_group(group)
        except FileNotFoundError:
            raise MedlensError(
                "A node of the cluster does not see the list of what is to be done.",
                got="no such file on that node",
                expected="the cache and the result at a place that all nodes see under one name",
                fix="Name a shared folder, or one such as s3://BUCKET/FOLDER, with --cache, --out "
                "or -o.",
                names=[str(self.folder)],
            ) from None


def write_work_list(folder: Path, tables: Iterable[pyarrow.Table]) -> WorkList:
    """Write the rows of some tables as a work list, of which one file is in memory at a time.

    Args:
        folder: Where the files go; made where it is missing, else emptied.
        tables: All of one schema, of any length.
    """
    remove(folder)
    rows = 0
    parts = _in_parts(tables)
    for file, first in enumerate(parts):
        buffer = io.BytesIO()
        with parquet.ParquetWriter(buffer, first.schema) as writer:
            for part in itertools.chain([first], itertools.islice(parts, PARTS_PER_FILE - 1)):
                writer.write_table(part)
                rows += len(part)
        write_bytes(folder / _file_name(file), buffer.getbuffer())
    return WorkList(folder, rows)


def _in_parts(tables: Iterable[pyarrow.Table]) -> Iterator[pyarrow.Table]:
    """The same rows in tables of 256; the last may be shorter."""
    waiting: list[pyarrow.Table] = []
    count = 0
    for table in tables:
        waiting.append(table)
        count += len(table)
        if count < PART_ROWS:
            continue
        joined = pyarrow.concat_tables(waiting)
        last = count - count % PART_ROWS
        for start in range(0, last, PART_ROWS):
            yield joined.slice(start, PART_ROWS)
        waiting, count = [joined.slice(last)], count - last
    if count:
        yield pyarrow.concat_tables(waiting)


def _file_name(number: int) -> str:
    return f"{number:08d}.parquet"
