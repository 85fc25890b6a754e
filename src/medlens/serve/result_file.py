"""Predictions written in finished parts beside the result, which appears whole at the end."""

from __future__ import annotations

import io
import json
import math
import os
import shutil
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TextIO

import pandas as pd
import pyarrow
import pyarrow.parquet as parquet

from medlens.errors import MedlensError
from medlens.files import write_bytes, write_json
from medlens.model.prediction_sets import write_set

FORMATS = (".csv", ".json", ".jsonl", ".parquet")
STATE_FILE = "state.json"


@dataclass(frozen=True)
class ResultFile:
    """Where the predictions go, and the parts of them that are finished.

    Args:
        path: The file that is to appear.
        columns: All columns, in order; those of `NUMBERS` and of probabilities hold numbers.
    """

    path: Path
    columns: tuple[str, ...]

    @property
    def parts(self) -> Path:
        """The folder of the parts, beside the file."""
        return self.path.with_name(f".{self.path.name}.parts")

    def open(self, state: Mapping[str, Any]) -> tuple[int, bool]:
        """Find out what is finished.

        Args:
            state: What decides the content: inputs, classifier, versions.

        Returns:
            How many rows are finished, and whether parts of another state were thrown away.
        """
        known = self._read_state()
        is_other = self.parts.is_dir() and known != state
        if is_other:
            shutil.rmtree(self.parts)
        for left in self.parts.glob(".*.part"):
            left.unlink(missing_ok=True)  # by a process that was killed while it wrote
        write_json(self.parts / STATE_FILE, state)
        return sum(count for _, count in self._finished()), is_other and known is not None

    def add(self, first: int, table: pd.DataFrame) -> None:
        """Keep a finished part.

        Args:
            first: The number of its first row.
            table: Its rows.
        """
        stream = io.BytesIO()
        parquet.write_table(self._to_arrow(table), stream)
        write_bytes(self.parts / _part_name(first), stream.getbuffer())

    def tables(self) -> Iterator[pd.DataFrame]:
        """The finished parts, in order."""
        for path, _ in self._finished():
            table = parquet.read_table(path).to_pandas()
            # Without it a missing flag would turn the others into 0.0 and 1.0.
            sets = pd.Series([tuple(names) for names in table["prediction_set"]], dtype=object)
            yield table.assign(prediction_set=sets, unfamiliar=table["unfamiliar"].astype("Int8"))

    def finish(self) -> None:
        """Write the file from its parts, a part at a time, and remove them."""
        part = self.path.with_name(f".{self.path.name}.{os.getpid()}.part")
        try:
            if self.path.suffix.lower() == ".parquet":
                self._write_parquet(part)
            else:
                self._write_text(part)
            part.replace(self.path)
        finally:
            part.unlink(missing_ok=True)
        shutil.rmtree(self.parts)

    def _read_state(self) -> Any:
        try:
            return json.loads((self.parts / STATE_FILE).read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return None

    def _finished(self) -> Iterator[tuple[Path, int]]:
        """Parts that follow upon each other without a gap, and their numbers of rows."""
        done = 0
        while (path := self.parts / _part_name(done)).is_file():
            try:
                count = parquet.read_metadata(path).num_rows
            except (OSError, pyarrow.ArrowInvalid):
                return  # it will be made anew
            yield path, count
            done += count

    @property
    def _schema(self) -> pyarrow.Schema:
        def kind(name: str) -> pyarrow.DataType:
            if name == "distance" or name.startswith("prob_"):
                return pyarrow.float64()
            if name == "prediction_set":
                return pyarrow.list_(pyarrow.string())
            return pyarrow.int8() if name == "unfamiliar" else pyarrow.string()

        return pyarrow.schema([(name, kind(name)) for name in self.columns])

    def _to_arrow(self, table: pd.DataFrame) -> pyarrow.Table:
        return pyarrow.Table.from_pandas(
            table[list(self.columns)], self._schema, preserve_index=False
        )

    def _write_parquet(self, part: Path) -> None:
        with part.open("wb") as stream:
            with parquet.ParquetWriter(stream, self._schema) as writer:
                for path, _ in self._finished():
                    writer.write_table(parquet.read_table(path))
            _flush(stream)

    def _write_text(self, part: Path) -> None:
        kind = self.path.suffix.lower()
        with part.open("w", encoding="utf-8", newline="") as stream:
            if kind == ".csv":
                for number, table in enumerate(self.tables()):
                    texts = table["prediction_set"].map(write_set)
                    table = table.assign(prediction_set=texts)
                    table.to_csv(stream, index=False, header=number == 0, lineterminator="\n")
            else:
                self._write_records(stream, is_array=kind == ".json")
            _flush(stream)

    def _write_records(self, stream: TextIO, *, is_array: bool) -> None:
        between = ",\n" if is_array else "\n"
        is_first = True
        stream.write("[\n" if is_array else "")
        for table in self.tables():
            for record in records(table):
                stream.write("" if is_first else between)
                stream.write(json.dumps(record, ensure_ascii=False, allow_nan=False))
                is_first = False
        stream.write("\n]\n" if is_array else "\n")


def records(table: pd.DataFrame) -> Iterator[dict[str, Any]]:
    """The rows as JSON has them: the set as a list, null where there is no number."""
    for row in table.to_dict("records"):
        yield {str(name): _or_null(value) for name, value in row.items()}


def _or_null(value: Any) -> Any:
    """None for what JSON cannot say: a number that is missing or not finite."""
    if value is pd.NA or (isinstance(value, float) and not math.isfinite(value)):
        return None
    return value


def check_result_path(path: Path, *, overwrite: bool) -> None:
    """Refuse a place that results cannot or should not be written to.

    Raises:
        MedlensError: If the suffix is none of the formats, it is a folder, or a file is there.
    """
    if path.suffix.lower() not in FORMATS:
        raise MedlensError(
            "The format of the result is not known.",
            got=f"a name that ends in {path.suffix or 'nothing'}",
            expected=f"one of {', '.join(FORMATS)}",
            fix="For example -o predictions.csv.",
            names=[str(path)],
        )
    if path.exists() and (not overwrite or not path.is_file()):
        is_file = path.is_file()
        raise MedlensError(
            "There is a file at the place of the result already."
            if is_file
            else "The place of the result is not a file.",
            got="a file" if is_file else "a folder, or something else",
            expected="a new name",
            fix="Name another -o" + (", or replace it with --overwrite." if is_file else "."),
            names=[str(path)],
        )


def _part_name(first: int) -> str:
    return f"{first:012d}.parquet"


def _flush(stream: Any) -> None:
    stream.flush()
    os.fsync(stream.fileno())
