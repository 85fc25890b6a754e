"""Predictions written in finished parts beside the result, which appears whole at the end."""

from __future__ import annotations

import hashlib
import io
import json
import math
import os
import tempfile
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping
from contextlib import closing, suppress
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, TextIO

import pandas as pd
import pyarrow
import pyarrow.parquet as parquet

from medlens.data.remote import REQUESTS_AT_A_TIME, hide_secrets, is_remote, remove_files
from medlens.data.scan import in_order
from medlens.data.work_list import PART_ROWS
from medlens.errors import MedlensError
from medlens.files import part_name, remove, write_bytes, write_json
from medlens.model.prediction_sets import write_set

FORMATS = (".csv", ".json", ".jsonl", ".parquet")
STATE_FILE = "state.json"
NOTE = ".begun"


@dataclass(frozen=True)
class ResultFile:
    """Where the predictions go, and the parts of them that are finished.

    A part is a file of its own, written whole or not at all under its number, by whatever process
    has made it; in which order does not matter. Its name also says what decides its content, so
    that a process that is late with a part of another state never gives it to this result.

    Args:
        path: The file that is to appear.
        columns: All columns, in order; those of `NUMBERS` and of probabilities hold numbers.
        rows: How many rows it has in the end.
        state: What decides the content: inputs, classifier, versions.
        part_rows: How many of them are in a part; the last may have fewer.
    """

    path: Path
    columns: tuple[str, ...]
    rows: int
    state: Mapping[str, Any]
    part_rows: int = PART_ROWS

    @property
    def parts(self) -> Path:
        """The folder of the parts, beside the file."""
        return parts_folder(self.path)

    @property
    def numbers(self) -> range:
        """The numbers of all parts."""
        return range(-(-self.rows // self.part_rows))

    def length(self, number: int) -> int:
        """How many rows a part has."""
        return min(self.part_rows, self.rows - number * self.part_rows)

    def open(self) -> tuple[frozenset[int], bool]:
        """Find out what is finished.

        Returns:
            The numbers of the finished parts, and whether parts of another state were thrown away.
        """
        known = _read_state(self.path)
        is_other = known is not None and known != self.state
        own = {self.part(number).name: number for number in self.numbers}
        notes = {self._note(number).name for number in self.numbers}
        finished, left = [], []
        with suppress(FileNotFoundError):
            for path in self.parts.iterdir():
                if path.name in own:
                    finished.append(own[path.name])
                # Of another state, or by a process that was killed while it wrote.
                elif path.suffix in (".parquet", ".part", NOTE) and path.name not in notes:
                    left.append(path)
        remove_files(left)
        write_json(self.parts / STATE_FILE, self.state)
        return frozenset(filter(self._is_whole, finished)), is_other

    def check_processor(self) -> None:
        """Refuse to throw away parts that differ only by the kind of processor.

        Raises:
            MedlensError: If there are such parts.
        """
        known, wanted = _read_state(self.path), self.state["processor"]
        begun_on = _processor_of(known)
        is_other = begun_on not in ("", wanted) and {**known, "processor": wanted} == self.state
        if is_other and any(path.suffix == ".parquet" for path in self.parts.iterdir()):
            raise MedlensError(
                "The result was begun on another kind of processor.",
                got=f"{wanted}, and finished parts that were made on a {begun_on}",
                expected=f"a {begun_on}: the last digits depend on it",
                fix=f"Repeat the command where there is a {begun_on} for it, and it goes on; or "
                "begin anew with --overwrite.",
                names=[hide_secrets(str(self.path))],
            )

    def part(self, number: int) -> Path:
        """The file of a part, which is named by its first row and the digest of the state."""
        return self.parts / f"{number * self.part_rows:012d}-{self._mark}.parquet"

    def begin(self, number: int) -> bool:
        """Note that a part is begun, until it is added.

        Returns:
            Whether it was begun before: then that process was ended meanwhile, perhaps by what is
            in the part. On other storage nothing is noted.
        """
        if is_remote(self.path):
            return False
        note = self._note(number)
        was_begun = note.exists()
        write_bytes(note, b"", is_lasting=False)
        return was_begun

    def add(self, number: int, table: pd.DataFrame) -> None:
        """Keep a finished part.

        Args:
            number: Its number.
            table: Its rows.
        """
        stream = io.BytesIO()
        parquet.write_table(self._to_arrow(table), stream)
        write_bytes(self.part(number), stream.getbuffer())
        if not is_remote(self.path):
            self._note(number).unlink(missing_ok=True)

    def _note(self, number: int) -> Path:
        return self.part(number).with_suffix(NOTE)

    def read(self, number: int) -> pd.DataFrame:
        """The rows of a finished part."""
        return _to_pandas(self._read_arrow(number))

    def finish(self, seen: Callable[[pd.DataFrame], None]) -> None:
        """Write the file from its parts, a part at a time, and remove them.

        Args:
            seen: Given the rows of each part.
        """
        if is_remote(self.path):
            with tempfile.TemporaryDirectory() as folder:
                whole = Path(folder) / self.path.name
                self._write(whole, seen)
                self.path.upload(str(whole))
        else:
            part = self.path.with_name(part_name(self.path.name))
            try:
                self._write(part, seen)
                part.replace(self.path)
            finally:
                part.unlink(missing_ok=True)
        remove(self.parts)

    @cached_property
    def _mark(self) -> str:
        """What tells the parts of one state from those of another."""
        return hashlib.sha256(json.dumps(self.state, sort_keys=True).encode()).hexdigest()[:16]

    def _is_whole(self, number: int) -> bool:
        """Whether a part has all its rows; on other storage a file is whole or not there."""
        if is_remote(self.path):
            return True
        try:
            return bool(parquet.read_metadata(self.part(number)).num_rows == self.length(number))
        except (OSError, pyarrow.ArrowInvalid):
            return False  # it will be made anew

    def _read_arrow(self, number: int) -> pyarrow.Table:
        return parquet.read_table(io.BytesIO(self.part(number).read_bytes()))

    def _arrow_tables(self) -> Generator[pyarrow.Table, None, None]:
        threads = REQUESTS_AT_A_TIME if is_remote(self.path) else None
        return in_order(self._read_arrow, self.numbers, threads=threads)

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

    def _write(self, file: Path, seen: Callable[[pd.DataFrame], None]) -> None:
        kind = self.path.suffix.lower()
        with closing(self._arrow_tables()) as tables:
            if kind == ".parquet":
                self._write_parquet(file, tables, seen)
                return
            with file.open("w", encoding="utf-8", newline="") as stream:
                texts = _seen(map(_to_pandas, tables), seen)
                if kind == ".csv":
                    _write_csv(stream, texts)
                else:
                    _write_records(stream, texts, is_array=kind == ".json")
                _flush(stream)

    def _write_parquet(
        self, file: Path, tables: Iterable[pyarrow.Table], seen: Callable[[pd.DataFrame], None]
    ) -> None:
        with file.open("wb") as stream:
            with parquet.ParquetWriter(stream, self._schema) as writer:
                for table in tables:
                    seen(_to_pandas(table))
                    writer.write_table(table)
            _flush(stream)


def parts_folder(path: Path) -> Path:
    """The folder of a result's parts, beside it."""
    return path.with_name(f".{path.name}.parts")


def processor_begun(path: Path) -> str:
    """The kind of processor that the parts of a result were begun on; "" where none were."""
    return _processor_of(_read_state(path))


def _processor_of(state: Any) -> str:
    return str(state.get("processor", "")) if isinstance(state, dict) else ""


def _read_state(path: Path) -> Any:
    try:
        return json.loads((parts_folder(path) / STATE_FILE).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None


def _to_pandas(table: pyarrow.Table) -> pd.DataFrame:
    found: pd.DataFrame = table.to_pandas()
    # Without it a missing flag would turn the others into 0.0 and 1.0.
    sets = pd.Series([tuple(names) for names in found["prediction_set"]], dtype=object)
    return found.assign(prediction_set=sets, unfamiliar=found["unfamiliar"].astype("Int8"))


def _seen(
    tables: Iterable[pd.DataFrame], seen: Callable[[pd.DataFrame], None]
) -> Iterator[pd.DataFrame]:
    for table in tables:
        seen(table)
        yield table


def _write_csv(stream: TextIO, tables: Iterable[pd.DataFrame]) -> None:
    for number, table in enumerate(tables):
        written = table.assign(prediction_set=table["prediction_set"].map(write_set))
        written.to_csv(stream, index=False, header=number == 0, lineterminator="\n")


def _write_records(stream: TextIO, tables: Iterable[pd.DataFrame], *, is_array: bool) -> None:
    between = ",\n" if is_array else "\n"
    is_first = True
    stream.write("[\n" if is_array else "")
    for table in tables:
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
            names=[hide_secrets(str(path))],
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
            names=[hide_secrets(str(path))],
        )


def _flush(stream: Any) -> None:
    stream.flush()
    os.fsync(stream.fileno())
