from __future__ import annotations

import json
import os
import shutil
import sqlite3
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import numpy as np
import pandas as pd
import pydicom.data
import pytest
from PIL import Image, ImageFilter

from medlens.data.dataset import read_dataset
from medlens.data.facts_cache import FactsCache
from medlens.data.groups import group_images
from medlens.data.images import fit_to_square
from medlens.data.phantom import draw_phantom
from medlens.data.scan import (
    SIZED_IMAGES,
    PictureRule,
    Pictures,
    Room,
    choose_image_size,
    in_order,
    join_patients,
    measure_sharpness,
    scan,
)
from medlens.data.store import Store

BUNDLED = Path(pydicom.data.__file__).parent / "test_files"
WAIT_SECONDS = 20  # for threads that should meet; a test that passes never waits so long


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


def facts_file(tmp_path: Path) -> Path:
    return next((tmp_path / "cache" / "facts").iterdir())


def change_facts(tmp_path: Path, statement: str, *values: str) -> None:
    with sqlite3.connect(facts_file(tmp_path)) as connection:
        assert connection.execute(statement, values).rowcount > 0
    connection.close()


def test_a_second_scan_takes_the_facts_from_the_cache(data: Path, tmp_path: Path) -> None:
    first = read(data, tmp_path)
    change_facts(tmp_path, "UPDATE facts SET value = replace(value, '\"PNG\"', '\"CACHED\"')")
    second = read(data, tmp_path)
    assert set(second["format"]) == {"CACHED", "TIFF", ""}
    pd.testing.assert_frame_equal(first.drop(columns="format"), second.drop(columns="format"))


def phantom(patient: int, seed: int = 5) -> Image.Image:
    return Image.fromarray(
        draw_phantom("healthy", size=96, patient=patient, image=1, seed=seed).pixels
    )


@pytest.fixture()
def copied(tmp_path: Path) -> Path:
    """Twelve pictures; the first two are there again as JPEG, the first one also as TIFF."""
    folder = tmp_path / "copied"
    folder.mkdir()
    rows = ["path,label"]
    for patient in range(12):
        picture = phantom(patient + 1)
        stored = {f"{patient:02}.png": picture}
        if patient < 2:
            stored[f"{patient:02}.jpg"] = picture
        if patient == 0:
            stored["00.tif"] = picture
        for name, image in stored.items():
            image.save(folder / name)
            rows.append(f"{name},{patient % 2}")
    (folder / "blank.png").write_bytes(b"")
    (folder / "labels.csv").write_text("\n".join([*rows, "blank.png,0"]))
    return folder / "labels.csv"


def test_near_duplicates_are_one_set_with_their_exact_copies(copied: Path, tmp_path: Path) -> None:
    table = read(copied, tmp_path)
    keys, near = table["pixels_sha256"], table["near_copies"]
    assert keys["00.png"] == keys["00.tif"] != keys["00.jpg"]
    first, second = (min(keys[f"{name}.png"], keys[f"{name}.jpg"]) for name in ("00", "01"))
    expected = dict.fromkeys(["00.png", "00.jpg", "00.tif"], first)
    expected |= dict.fromkeys(["01.png", "01.jpg"], second)
    assert near[near != ""].to_dict() == expected
    assert set(table["look_alike"]) == {""}
    assert table.loc["blank.png", "fingerprint"] == ""
    assert set(table["fingerprint"].drop("blank.png").str.len()) == {84}


def test_a_second_scan_takes_near_duplicates_from_the_cache(copied: Path, tmp_path: Path) -> None:
    first = read(copied, tmp_path)
    keys = first["pixels_sha256"]
    others = json.dumps([(keys["05.png"], keys["06.png"])])
    change_facts(tmp_path, "UPDATE near_duplicates SET value = ?", others)
    near = read(copied, tmp_path)["near_copies"]
    assert sorted(near.index[near != ""]) == ["05.png", "06.png"]
    # With one image more it is another data set.
    phantom(30).save(copied.parent / "30.png")
    copied.write_text(copied.read_text() + "\n30.png,0")
    near = read(copied, tmp_path)["near_copies"]
    assert sorted(near.index[near != ""]) == sorted(first.index[first["near_copies"] != ""])


def test_thumbnails_that_left_the_cache_are_taken_anew(
    copied: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As where somebody empties the cache between the reading and the search."""
    expected = read(copied, tmp_path)["near_copies"]

    def forget(self: FactsCache, known: object) -> None:
        del known

    monkeypatch.setattr(FactsCache, "add", forget)
    shutil.rmtree(tmp_path / "cache")
    pd.testing.assert_series_equal(read(copied, tmp_path)["near_copies"], expected)


def test_images_that_all_look_alike_tie_nothing(tmp_path: Path) -> None:
    """Thirty pictures of one phantom, a dot in another place in each: who could tell?"""
    folder = tmp_path / "alike"
    folder.mkdir()
    rows = ["path,label"]
    for number in range(30):
        picture = np.array(phantom(1))
        picture[3 * number : 3 * number + 3, 2:5] = 255
        Image.fromarray(picture).save(folder / f"{number:02}.png")
        rows.append(f"{number:02}.png,{number % 2}")
    (folder / "labels.csv").write_text("\n".join(rows))
    table = read(folder / "labels.csv", tmp_path)
    assert set(table["near_copies"]) == {""}
    assert (table["look_alike"] != "").sum() >= 16
    assert group_images(table).nunique() == 30


def test_sharpness_is_that_of_noise_and_falls_with_blur() -> None:
    noise = np.random.default_rng(0).normal(128, 20, (200, 200))
    image = Image.fromarray(np.clip(np.rint(noise), 0, 255).astype(np.uint8))
    assert measure_sharpness(image) == pytest.approx(20, rel=0.03)
    darker = image.point([level // 2 for level in range(256)])
    assert measure_sharpness(darker) == pytest.approx(measure_sharpness(image), rel=0.03)
    picture = phantom(1)
    values = [
        measure_sharpness(picture.filter(ImageFilter.GaussianBlur(width))) for width in (0, 1, 2)
    ]
    assert all(more > 2 * less for more, less in pairwise(values)), values


@pytest.mark.parametrize("size", [(1, 1), (1, 500), (500, 2), (2, 2)])
def test_what_is_too_small_or_flat_has_no_sharpness(size: tuple[int, int]) -> None:
    assert measure_sharpness(Image.new("L", size, 9)) == 0
    assert measure_sharpness(Image.new("L", (300, 300), 9)) == 0


def test_pictures_are_left_once_for_each_content_and_only_where_needed(
    data: Path, tmp_path: Path
) -> None:
    rule = PictureRule(16, "pad")
    keys = read(data, tmp_path)["pixels_sha256"]
    unwanted = keys["b.png"]
    store, features = Store(tmp_path / "pictures"), Store(tmp_path / "features")
    features.add([unwanted], np.zeros((1, 3), np.float32))
    read(data, tmp_path, Pictures(rule, store, (features,)))
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


def test_of_many_images_some_decide_on_the_size_evenly(tmp_path: Path) -> None:
    for name, side in (("first", 28), ("last", 80)):
        Image.new("L", (side, side)).save(tmp_path / f"{name}.png")
    (tmp_path / "labels.csv").write_text("path,label\nfirst.png,0\nlast.png,1\n")
    dataset = read_dataset(tmp_path / "labels.csv", cache=tmp_path)
    # The last two thirds are large: neither the first 10,000 nor all of them are asked.
    rows = dataset.table.loc[[0] * 10_000 + [1] * 20_000].reset_index(drop=True)
    dataset = replace(dataset, table=rows)
    done: list[int] = []
    assert choose_image_size(dataset, progress=done.append) == 160
    assert sum(done) == SIZED_IMAGES


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


def test_the_patient_is_found_again_but_not_kept_in_the_cache(tmp_path: Path) -> None:
    folder = tmp_path / "data"
    folder.mkdir()
    rows = ["path,label"]
    for number, name in enumerate(("CT_small", "MR_small")):
        dicom = pydicom.dcmread(BUNDLED / f"{name}.dcm")
        dicom.PatientID, dicom.PatientName = f" Hidden-{number}", "Hidden^Person"
        dicom.save_as(folder / f"{number}.dcm")
        rows.append(f"{number}.dcm,{number}")
    (folder / "labels.csv").write_text("\n".join(rows))
    first = read(folder / "labels.csv", tmp_path)
    assert list(first["patient"]) == ["Hidden-0", "Hidden-1"]
    kept = {path: path.read_bytes() for path in (tmp_path / "cache").rglob("*") if path.is_file()}
    assert facts_file(tmp_path) in kept
    for content in kept.values():
        assert b"hidden" not in content.lower()
    change_facts(tmp_path, "UPDATE facts SET value = json_set(value, '$.scaling', 'CACHED')")
    second = read(folder / "labels.csv", tmp_path)
    assert set(second["scaling"]) == {"CACHED"}  # so nothing was decoded
    assert list(second["patient"]) == ["Hidden-0", "Hidden-1"]


def overwrite(file: Path) -> None:
    file.write_bytes(b"no database" * 100)


def cut_short(file: Path) -> None:
    os.truncate(file, file.stat().st_size // 2)


def empty(file: Path) -> None:
    os.truncate(file, 0)


def spoil_the_pages(file: Path) -> None:
    """The header says that it is a database; nothing behind it is."""
    content = file.read_bytes()
    file.write_bytes(content[:100] + b"\xa5" * (len(content) - 100))


def spoil_the_text(file: Path) -> None:
    content = file.read_bytes()
    assert content.count(b'"pixels_sha256"') == 3
    file.write_bytes(content.replace(b'"pixels_sha256"', b'"pixels\xff\xfeha256"'))


def spoil_the_json(file: Path) -> None:
    file.write_bytes(file.read_bytes().replace(b'"pixels_sha256"', b'"pixels_sha256,'))


def rename_a_fact(file: Path) -> None:
    file.write_bytes(file.read_bytes().replace(b'"pixels_sha256"', b'"pixels_shb256"'))


@pytest.mark.parametrize(
    "damage",
    [
        overwrite,
        cut_short,
        empty,
        spoil_the_pages,
        spoil_the_text,
        spoil_the_json,
        rename_a_fact,
        Path.unlink,
    ],
)
def test_a_damaged_facts_cache_is_begun_anew(
    data: Path, tmp_path: Path, damage: Callable[[Path], None]
) -> None:
    first = read(data, tmp_path)
    damage(facts_file(tmp_path))
    pd.testing.assert_frame_equal(first, read(data, tmp_path))
    # Whole again: what it holds now is used.
    change_facts(tmp_path, "UPDATE facts SET value = json_set(value, '$.format', 'CACHED')")
    assert list(read(data, tmp_path)["format"]) == ["CACHED"] * 3 + [""] * 2


@pytest.mark.parametrize("pairs", [True, False])
def test_room_is_shared_and_never_overdrawn(pairs: bool) -> None:
    room = Room(100)
    lock = threading.Lock()
    meeting = threading.Barrier(2, timeout=WAIT_SECONDS)
    under_way, most = 0, 0

    def work(pixels: int) -> None:
        nonlocal under_way, most
        with room.take(pixels):
            with lock:
                under_way += pixels
                most = max(most, under_way)
            if pairs:
                meeting.wait()  # gets on only if two of them are let in together
            with lock:
                under_way -= pixels

    amounts = np.random.default_rng(0).integers(0, 101, 2000).tolist()
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(work, [50] * 200 if pairs else amounts))
    assert under_way == 0
    assert most == 100 if pairs else 0 < most <= 100


def test_room_is_given_back_after_an_error() -> None:
    room = Room(10)
    for _ in range(3):
        with pytest.raises(ZeroDivisionError), room.take(10):
            raise ZeroDivisionError


def test_what_needs_more_than_all_the_room_goes_alone() -> None:
    room = Room(10)
    order = []
    may_leave, small_is_in = threading.Event(), threading.Event()

    def small() -> None:
        with room.take(1):
            small_is_in.set()
            assert may_leave.wait(WAIT_SECONDS)
            order.append("small")

    def large() -> None:
        assert small_is_in.wait(WAIT_SECONDS)
        threading.Timer(0.05, may_leave.set).start()
        with room.take(1000):
            order.append("large")

    threads = [threading.Thread(target=one, daemon=True) for one in (small, large)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(WAIT_SECONDS)
    assert order == ["small", "large"]


def test_a_picture_that_is_lost_is_made_again(data: Path, tmp_path: Path) -> None:
    rule = PictureRule(16, "pad")
    folder = tmp_path / "pictures"
    keys = read(data, tmp_path, Pictures(rule, Store(folder)))["pixels_sha256"]
    wanted = [keys["a.png"], keys["b.png"]]
    before = Store(folder).read(wanted)
    cut_short(next(folder.glob("*.npy")))
    store = Store(folder)
    assert len(store) == 0
    read(data, tmp_path, Pictures(rule, store))
    for again in (store, Store(folder)):
        np.testing.assert_array_equal(again.read(wanted), before)


def test_grey_images_have_the_same_key_and_picture_however_they_are_stored(tmp_path: Path) -> None:
    random = np.random.default_rng(3)
    grey = Image.fromarray(random.integers(0, 256, (31, 44)).astype(np.uint8))
    palette = grey.copy()
    palette.putpalette([level for level in range(256) for _ in range(3)])
    stored = {
        "grey.png": grey,
        "rgb.png": grey.convert("RGB"),
        "rgba.png": grey.convert("RGBA"),
        "palette.png": palette,
        "rgb.tif": grey.convert("RGB"),
        "rgb.bmp": grey.convert("RGB"),
    }
    colour = np.array(grey.convert("RGB"))
    colour[30, 43, 2] ^= 1  # one pixel, one level of blue, in the last place
    stored["colour.png"] = Image.fromarray(colour)
    rows = ["path,label"]
    for number, (name, image) in enumerate(stored.items()):
        image.save(tmp_path / name)
        rows.append(f"{name},{number % 2}")
    (tmp_path / "labels.csv").write_text("\n".join(rows))
    store = Store(tmp_path / "pictures")
    rule = PictureRule(44, "pad")
    table = read(tmp_path / "labels.csv", tmp_path, Pictures(rule, store))
    keys = table["pixels_sha256"]
    assert set(table["mode"]) == {"L", "RGB", "RGBA", "P"}
    assert set(keys.drop("colour.png")) == {keys["grey.png"]}
    assert keys["colour.png"] != keys["grey.png"]
    facts = table.drop("colour.png")[["mean", "spread", "levels", "border"]]
    assert len(facts.drop_duplicates()) == 1
    pictures = store.read([keys["grey.png"], keys["colour.png"]])
    np.testing.assert_array_equal(pictures[0, 6:37], np.array(grey.convert("RGB")))
    np.testing.assert_array_equal(pictures[1, 6:37], colour)


@pytest.mark.shared_data
def test_patients_of_real_dicom_files_and_their_copies(shared: Path, tmp_path: Path) -> None:
    folder = shared / "data" / "ct_contrast_dicom"
    bare = read_dataset(folder, cache=tmp_path)
    table = scan(bare, cache=tmp_path, frame=None, progress=quiet)
    labels = pd.read_csv(folder / "labels.csv").set_index("file")["patient"]
    assert table.set_index("path")["patient"].to_dict() == labels.to_dict()
    assert table["patient"].nunique() == 54
    assert len(table) - table["pixels_sha256"].nunique() == 6
