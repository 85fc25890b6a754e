from __future__ import annotations

from pathlib import Path

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from medlens.data.csv_file import ROWS_AT_A_TIME
from medlens.data.dataset import read_dataset
from medlens.data.manifest import manifest_batches
from medlens.errors import MedlensError


def draw_rows(rows: int) -> pd.DataFrame:
    """A list with every kind of column: texts with gaps, codes, whole and broken numbers."""
    number = pd.Series(range(rows))
    return pd.DataFrame(
        {
            "File": number.map("scans\\{:07d}.png".format),
            " Label ": number.map(lambda one: ("mass", "nodule", "Köln, \n none")[one % 3]),
            "patient": number.map(lambda one: f"P{one // 4}" if one % 5 else ""),
            "split": number.map(lambda one: ("Training", "", "test")[one % 3]),
            "site": number.map(lambda one: f"{one % 7:03d}"),
            "age": number.map(lambda one: one % 90 if one % 11 else None),
            "dose": number / 8,
            "width": number % 2,
        }
    )


def write_parquet(path: Path, columns: dict[str, object]) -> Path:
    pq.write_table(pa.table(columns), path)
    return path


def test_a_parquet_file_reads_as_the_csv_of_the_same_rows(tmp_path: Path) -> None:
    rows = draw_rows(ROWS_AT_A_TIME + 70).sample(frac=1, random_state=0)
    rows.astype({"age": "Int64"}).to_csv(tmp_path / "list.csv", index=False)
    rows.to_parquet(tmp_path / "list.parquet", index=False)
    from_csv = read_dataset(tmp_path / "list.csv", cache=tmp_path).table
    from_parquet = read_dataset(tmp_path / "list.parquet", cache=tmp_path).table
    pd.testing.assert_frame_equal(from_csv, from_parquet)
    assert len(from_csv) == len(rows)
    assert from_csv["path"].is_monotonic_increasing
    assert from_csv.loc[0].to_dict() == {
        "path": "scans/0000000.png",
        "label": "mass",
        "patient": "",
        "split": "train",
        "site": "000",
        "age": pytest.approx(float("nan"), nan_ok=True),
        "dose": 0.0,
        "given_width": 0,
    }


def test_the_texts_of_a_table_are_compact(tmp_path: Path) -> None:
    rows = draw_rows(1000)
    rows.to_csv(tmp_path / "list.csv", index=False)
    table = read_dataset(tmp_path / "list.csv", cache=tmp_path).table
    texts = table[["path", "label", "patient", "split", "site"]]
    letters = sum(len(str(text).encode()) for column in texts for text in texts[column])
    # A Python text of its own would take 49 bytes and more beside its letters.
    assert texts.memory_usage(index=False, deep=True).sum() < letters + 5 * 1000 * 10


def test_a_parquet_file_of_other_types(tmp_path: Path) -> None:
    file = write_parquet(
        tmp_path / "list.parquet",
        {
            "path": pa.array(["b.dcm", "a.dcm"]).dictionary_encode(),
            "label": [1, 0],
            "patient": [17, None],
            "seen": pa.array([0, 1], pa.date32()),
            "smoker": [True, None],
        },
    )
    table = read_dataset(file, cache=tmp_path).table
    assert table.to_dict("list") == {
        "path": ["a.dcm", "b.dcm"],
        "label": ["0", "1"],
        "patient": ["", "17"],
        "split": ["", ""],
        "seen": ["1970-01-02", "1970-01-01"],
        "smoker": ["", "true"],
    }


@pytest.mark.parametrize(
    ("columns", "what", "got"),
    [
        ({"path": ["a", "b"]}, "lacks the column label", "1 columns"),
        ({"path": ["a", None], "label": ["x", "y"]}, "have no path", "first in row 2"),
        ({"path": ["a", "b"], "label": ["x", None]}, "have no label", "first in row 2"),
        ({"path": ["a", "b", "a"], "label": ["x", "y", "x"]}, "stands there before", "in row 3"),
        (
            {"path": ["a", "b"], "label": ["x", "y"], "split": ["train", "later"]},
            "unknown word",
            "later in row 2",
        ),
        ({"path": ["a", "b"], "label": ["x", "y"], "box": [[1], [2]]}, "no text", "list"),
        ({"path": [], "label": []}, "two classes", "0 with images"),
    ],
)
def test_a_parquet_file_that_cannot_be_used_says_why(
    tmp_path: Path, columns: dict[str, object], what: str, got: str
) -> None:
    file = write_parquet(tmp_path / "list.parquet", columns)
    with pytest.raises(MedlensError, match=what) as caught:
        read_dataset(file, cache=tmp_path)
    assert got in caught.value.got


@pytest.mark.parametrize(
    ("content", "got"),
    [
        (b"path,label\na.png,x\nSmith.png,y,z\n", "3 values in line 3, where the lines before"),
        (b'path,label\na.png,x\nSmith.png,"y\nb.png,x\n', "a quotation mark in line 3"),
        (b"path,label\na.png,x\nSmith\xff.png,y\n", "not text in UTF-8, in line 3"),
    ],
)
def test_a_damaged_csv_names_the_line_and_no_file(tmp_path: Path, content: bytes, got: str) -> None:
    # Far from the first row, too: rows are read some thousands at a time.
    first, second, rest = content.split(b"\n", 2)
    more = ROWS_AT_A_TIME + 5
    for number, filler in ((0, b""), (more, b"".join(b"%d.png,x\n" % one for one in range(more)))):
        file = tmp_path / "list.csv"
        file.write_bytes(first + b"\n" + filler + second + b"\n" + rest)
        with pytest.raises(MedlensError, match="cannot be read") as caught:
            read_dataset(file, cache=tmp_path)
        assert got.replace("line 3", f"line {number + 3}") in caught.value.got
        assert "Smith" not in str(caught.value)


def test_a_file_that_is_no_parquet_file(tmp_path: Path) -> None:
    (tmp_path / "list.parquet").write_bytes(b"path,label\na.png,x\n")
    with pytest.raises(MedlensError, match="The Parquet file cannot be read"):
        read_dataset(tmp_path / "list.parquet", cache=tmp_path)


def test_batches_are_small(tmp_path: Path) -> None:
    draw_rows(2 * ROWS_AT_A_TIME + 1).to_parquet(tmp_path / "list.parquet", row_group_size=1 << 20)
    sizes = [len(batch) for batch in manifest_batches(tmp_path / "list.parquet", needed=("path",))]
    assert sum(sizes) == 2 * ROWS_AT_A_TIME + 1
    assert max(sizes) <= ROWS_AT_A_TIME


def test_patients_are_found_in_more_paths_than_one_batch(tmp_path: Path) -> None:
    draw_rows(ROWS_AT_A_TIME + 3).to_csv(tmp_path / "list.csv", index=False)
    table = read_dataset(tmp_path / "list.csv", cache=tmp_path, patient_regex=r"/(\d{5})").table
    assert table["patient"].equals(table["path"].str.slice(6, 11).rename("patient"))
    with pytest.raises(MedlensError, match="every path") as caught:
        read_dataset(tmp_path / "list.csv", cache=tmp_path, patient_regex=r"/(000)")
    assert len(caught.value.names) == ROWS_AT_A_TIME + 3 - 10_000
