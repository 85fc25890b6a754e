from __future__ import annotations

import os
import sqlite3
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from medlens.data.dataset import read_dataset
from medlens.data.images import fit_to_square
from medlens.data.scan import (
    PictureRule,
    Pictures,
    choose_image_size,
    in_order,
    join_patients,
    scan,
)
from medlens.data.store import Store


def quiet(_: int) -> None:
    pass


@pytest.fixture()
def data(tmp_path: Path) -> Path:
    """Four images: two with the same pixels in two formats, one damaged, one missing."""
    random = np.random.default_rng(0)
    first = random.integers(0, 256, (20, 30)).astype(np.uint8)
    other = random.integers(0, 256, (12, 10, 3)).astype(np.uint8)
    folder = tmp_path / "data"
    folder.mkdir()
    Image.fromarray(first).save(folder / "a.png")
    Image.fromarray(first).save(folder / "a.tif")
    Image.fromarray(other).save(folder / "b.png")
    (folder / "c.png").write_bytes((folder / "b.png").read_bytes()[:60])
    rows = ["path,label", "a.png,x", "a.tif,y", "b.png,x", "c.png,y", "d.png,y"]
    (folder / "labels.csv").write_text("\n".join(rows))
    return folder / "labels.csv"


def read(data: Path, tmp_path: Path, pictures: Pictures | None = None) -> pd.DataFrame:
    cache = tmp_path / "cache"
    dataset = read_dataset(data, cache=cache)
    table = scan(dataset, cache=cache, frame=None, progress=quiet, pictures=pictures)
    return table.set_index("path")


def test_facts_of_every_file(data: Path, tmp_path: Path) -> None:
    table = read(data, tmp_path)
    pixels = np.asarray(Image.open(data.parent / "a.png")).astype(float)
    row = table.loc["a.png"]
    assert (row["width"], row["height"], row["mode"], row["format"]) == (30, 20, "L", "PNG")
    assert row["bytes"] == (data.parent / "a.png").stat().st_size
    assert row["mean"] == pytest.approx(pixels.mean(), abs=1e-3)
    assert row["spread"] == pytest.approx(pixels.std(), abs=1e-3)
    assert row["levels"] == len(np.unique(pixels))
    edge = np.concatenate([pixels[0], pixels[-1], pixels[:, 0], pixels[:, -1]])
    assert row["border"] == pytest.approx(edge.mean(), abs=1e-3)


def test_copies_are_known_by_their_pixels_not_their_bytes(data: Path, tmp_path: Path) -> None:
    table = read(data, tmp_path)
    assert table.loc["a.png", "sha256"] != table.loc["a.tif", "sha256"]
    assert table.loc["a.png", "pixels_sha256"] == table.loc["a.tif", "pixels_sha256"]
    assert table.loc["a.png", "pixels_sha256"] != table.loc["b.png", "pixels_sha256"]


def test_files_that_cannot_be_read_have_a_reason_without_their_name(
    data: Path, tmp_path: Path
) -> None:
    reasons = read(data, tmp_path)["unreadable"]
    assert list(reasons[reasons == ""].index) == ["a.png", "a.tif", "b.png"]
    assert all(reasons[["c.png", "d.png"]] != "")
    assert not reasons.str.contains(r"\.png").any()


def test_a_second_scan_takes_the_facts_from_the_cache(data: Path, tmp_path: Path) -> None:
    first = read(data, tmp_path)
    file = next((tmp_path / "cache" / "facts").iterdir())
    with sqlite3.connect(file) as connection:
        connection.execute("UPDATE facts SET value = replace(value, '\"PNG\"', '\"CACHED\"')")
    connection.close()
    second = read(data, tmp_path)
    assert set(second["format"]) == {"CACHED", "TIFF", ""}
    pd.testing.assert_frame_equal(first.drop(columns="format"), second.drop(columns="format"))


def test_pictures_are_left_once_for_each_content_and_only_where_needed(
    data: Path, tmp_path: Path
) -> None:
    rule = PictureRule(16, "pad")
    keys = read(data, tmp_path)["pixels_sha256"]
    unwanted = keys["b.png"]
    store = Store(tmp_path / "pictures")
    read(data, tmp_path, Pictures(rule, store, lambda key: key != unwanted))
    assert len(store) == 1
    pixels = np.asarray(Image.open(data.parent / "a.png").convert("RGB"))
    expected = fit_to_square(pixels, size=16, fit="pad")
    np.testing.assert_array_equal(store.read([keys["a.tif"]])[0], expected)


@pytest.mark.parametrize(
    ("sides", "size"),
    [
        ((28, 28, 28), 64),
        ((32, 33, 33), 96),
        ((48, 10, 400), 96),
        ((64, 64, 64), 128),
        ((80, 80, 80), 160),
        ((81, 81, 81), 224),
        ((3000, 2000, 10), 224),
    ],
)
def test_the_image_size_follows_the_median_longer_side(
    tmp_path: Path, sides: tuple[int, ...], size: int
) -> None:
    rows = ["path,label"]
    for number, side in enumerate(sides):
        Image.new("L", (side, 5)).save(tmp_path / f"{number}.png")
        rows.append(f"{number}.png,{number % 2}")
    (tmp_path / "damaged.png").write_bytes(b"\x89PNG")
    rows.append("damaged.png,0")
    (tmp_path / "labels.csv").write_text("\n".join(rows))
    dataset = read_dataset(tmp_path / "labels.csv", cache=tmp_path)
    assert choose_image_size(dataset, progress=quiet) == size


def test_results_come_in_order_and_an_error_ends_the_work() -> None:
    assert list(in_order(lambda number: number * 2, range(200))) == list(range(0, 400, 2))
    with pytest.raises(ZeroDivisionError):
        list(in_order(lambda number: 1 // number, [1, 1, 0, 1]))


def test_a_patient_named_for_some_images_is_known_on_the_others_by_the_tag() -> None:
    named = pd.Series(["Ann", "", "", "Bob", "Cem", ""])
    tagged = pd.Series(["1", "1", "2", "ANON", "ANON", "ANON"])
    # The third has only its tag; ANON stands beside two names and tells nobody apart.
    assert list(join_patients(named, tagged)) == ["Ann", "Ann", "2", "Bob", "Cem", ""]


def test_a_pipe_among_the_files_does_not_hang(data: Path, tmp_path: Path) -> None:
    (data.parent / "b.png").unlink()
    os.mkfifo(data.parent / "b.png")
    assert read(data, tmp_path).loc["b.png", "unreadable"] != ""


def test_a_damaged_facts_cache_is_made_anew(data: Path, tmp_path: Path) -> None:
    first = read(data, tmp_path)
    next((tmp_path / "cache" / "facts").iterdir()).write_bytes(b"no database" * 100)
    pd.testing.assert_frame_equal(first, read(data, tmp_path))


@pytest.mark.shared_data
def test_patients_of_real_dicom_files_and_their_copies(shared: Path, tmp_path: Path) -> None:
    folder = shared / "data" / "ct_contrast_dicom"
    bare = read_dataset(folder, cache=tmp_path)
    table = scan(bare, cache=tmp_path, frame=None, progress=quiet)
    labels = pd.read_csv(folder / "labels.csv").set_index("file")["patient"]
    assert table.set_index("path")["patient"].to_dict() == labels.to_dict()
    assert table["patient"].nunique() == 54
    assert len(table) - table["pixels_sha256"].nunique() == 6
