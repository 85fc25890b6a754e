from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from medlens.data.dataset import image_files, read_dataset
from medlens.errors import MedlensError


def draw(path: Path, value: int = 0) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.full((4, 4), value, np.uint8)).save(path)


def test_a_folder_per_class(tmp_path: Path) -> None:
    data = tmp_path / "data"
    for path in ("Tumour/b.png", "Tumour/deep/a.JPG", "Healthy/x.tif", "Healthy/.hidden.png"):
        draw(data / path)
    draw(data / "Tumour/.ipynb_checkpoints/a.png")
    (data / "Tumour/notes.txt").write_text("no image")
    (data / "labels.csv").write_text("no image either")
    dataset = read_dataset(data, cache=tmp_path / "cache")
    assert dataset.classes == ("Healthy", "Tumour")
    assert list(dataset.table["path"]) == ["Healthy/x.tif", "Tumour/b.png", "Tumour/deep/a.JPG"]
    assert list(dataset.table["label"]) == ["Healthy", "Tumour", "Tumour"]
    assert set(dataset.table["split"]) == {""}
    assert dataset.passed_over == {
        "hidden file": 1,
        "hidden folder": 1,
        "not an image": 1,
        "outside a class folder": 1,
    }


@pytest.mark.parametrize("mode", [0o000, 0o311])
def test_a_folder_that_cannot_be_opened_is_counted(
    tmp_path: Path, as_owner: Callable[[], AbstractContextManager[None]], mode: int
) -> None:
    for path in ("a/x.png", "a/closed/y.png", "b/z.png"):
        draw(tmp_path / "data" / path)
    (tmp_path / "data/a/closed").chmod(mode)
    with as_owner():
        dataset = read_dataset(tmp_path / "data", cache=tmp_path / "cache")
    assert list(dataset.table["path"]) == ["a/x.png", "b/z.png"]
    assert dataset.passed_over == {"folder that cannot be opened": 1}


def test_dicom_files_without_an_extension_are_taken(tmp_path: Path) -> None:
    for path in ("a/study/IM0001", "b/1.2.840.5"):
        file = tmp_path / "data" / path
        file.parent.mkdir(parents=True)
        file.write_bytes(bytes(128) + b"DICM")
        file.with_name("README").write_text("no image")
    table = read_dataset(tmp_path / "data", cache=tmp_path / "cache").table
    assert list(table["path"]) == ["a/study/IM0001", "b/1.2.840.5"]


@pytest.mark.parametrize(
    "names",
    [("train", "val", "test"), ("Training", "Validation", "Testing"), ("TRAIN", "valid", "Test")],
)
def test_split_folders_by_any_of_their_names(tmp_path: Path, names: tuple[str, str, str]) -> None:
    for name in names:
        for label in ("a", "b"):
            draw(tmp_path / "data" / name / label / "1.png")
    table = read_dataset(tmp_path / "data", cache=tmp_path).table
    assert sorted(table["split"]) == ["test"] * 2 + ["train"] * 2 + ["val"] * 2
    assert set(table["label"]) == {"a", "b"}


def test_splits_beside_classes_are_refused(tmp_path: Path) -> None:
    for folder in ("train/a", "train/b", "test/a", "masks"):
        draw(tmp_path / folder / "1.png")
    with pytest.raises(MedlensError, match="mixes splits and classes"):
        read_dataset(tmp_path, cache=tmp_path)


def test_splits_without_train_are_refused(tmp_path: Path) -> None:
    for folder in ("val/a", "val/b", "test/a"):
        draw(tmp_path / folder / "1.png")
    with pytest.raises(MedlensError, match="no train folder"):
        read_dataset(tmp_path, cache=tmp_path)


def test_a_run_below_the_data_is_no_class(tmp_path: Path) -> None:
    for folder in ("a", "b", "run/figures", "runs/one/figures"):
        draw(tmp_path / folder / "1.png")
    for run in ("run", "runs/one"):
        (tmp_path / run / "config.toml").touch()
        (tmp_path / run / "audit.json").touch()
    assert read_dataset(tmp_path, cache=tmp_path).classes == ("a", "b")


def test_a_comma_at_the_end_of_each_row_moves_no_column(tmp_path: Path) -> None:
    file = write_csv(tmp_path / "l.csv", "Path,Label,\na.png,x,\nb.png,y,\n")
    assert list(read_dataset(file, cache=tmp_path).table["label"]) == ["x", "y"]


def test_codes_stay_text(tmp_path: Path) -> None:
    file = write_csv(tmp_path / "l.csv", "path,label,site,age\na.png,x,007,50\nb.png,y,1E5,60.5\n")
    table = read_dataset(file, cache=tmp_path).table
    assert list(table["site"]) == ["007", "1E5"]
    assert list(table["age"]) == [50, 60.5]


def test_a_folder_that_links_to_itself_ends(tmp_path: Path) -> None:
    draw(tmp_path / "data/a/1.png")
    draw(tmp_path / "data/b/1.png")
    (tmp_path / "data/a/again").symlink_to(tmp_path / "data/a")
    assert len(read_dataset(tmp_path / "data", cache=tmp_path).table) == 2


def write_csv(path: Path, text: str) -> Path:
    path.write_text(text, encoding="utf-8")
    return path


def test_a_csv_with_metadata(tmp_path: Path) -> None:
    file = write_csv(
        tmp_path / "labels.csv",
        "file,label,patient,split,age,site,width\n"
        "b.png,x,P2,Testing,70,Köln,3\n"
        "a.png,y,P1,train,,Bern,4\n",
    )
    table = read_dataset(file, cache=tmp_path).table
    assert list(table["path"]) == ["a.png", "b.png"]
    assert list(table["patient"]) == ["P1", "P2"]
    assert list(table["split"]) == ["train", "test"]
    assert list(table["site"]) == ["Bern", "Köln"]
    assert table["age"].isna().tolist() == [True, False]
    assert "given_width" in table


@pytest.mark.parametrize(
    ("text", "what"),
    [
        ("path,class\na.png,x\n", "lacks the column label"),
        ("path,label\na.png,x\na.png,y\n", "stands there before"),
        ("path,label\na.png,x\nb.png,\n", "have no label"),
        ("path,label,split\na.png,x,holdout\nb.png,y,train\n", "unknown word"),
        ("path,label\na.png,x\n", "at least two classes"),
        ("", "cannot be read"),
        ("path,label,Label\na.png,x,y\n", "has twice the column label"),
    ],
)
def test_a_csv_that_cannot_be_used_says_why(tmp_path: Path, text: str, what: str) -> None:
    with pytest.raises(MedlensError, match=what):
        read_dataset(write_csv(tmp_path / "labels.csv", text), cache=tmp_path)


def test_a_csv_without_a_first_line_of_names_keeps_its_paths_out_of_the_log(tmp_path: Path) -> None:
    file = write_csv(tmp_path / "labels.csv", "Smith_Anna.png,x\nb.png,y\n")
    with pytest.raises(MedlensError, match="lacks the columns path and label") as caught:
        read_dataset(file, cache=tmp_path)
    assert "Smith" not in str(caught.value)
    assert "Smith_Anna.png" in caught.value.names


def test_patients_from_the_path(tmp_path: Path) -> None:
    file = write_csv(tmp_path / "l.csv", "path,label\nx/P01_1.png,x\nx/P01_2.png,y\nP7_1.png,y\n")
    table = read_dataset(file, cache=tmp_path, patient_regex=r"(P\d+)_").table
    assert dict(zip(table["path"], table["patient"], strict=True)) == {
        "P7_1.png": "P7",
        "x/P01_1.png": "P01",
        "x/P01_2.png": "P01",
    }


def test_a_path_without_a_patient_is_named(tmp_path: Path) -> None:
    file = write_csv(tmp_path / "l.csv", "path,label\nP1_1.png,x\nother.png,y\n")
    with pytest.raises(MedlensError) as caught:
        read_dataset(file, cache=tmp_path, patient_regex=r"(P\d+)_")
    assert caught.value.names == ("other.png",)
    assert "other.png" not in str(caught.value)


@pytest.mark.parametrize("regex", ["(", "P[0-9]+"])
def test_a_regular_expression_that_cannot_be_used(tmp_path: Path, regex: str) -> None:
    file = write_csv(tmp_path / "l.csv", "path,label\na.png,x\nb.png,y\n")
    with pytest.raises(MedlensError, match="--patient-regex"):
        read_dataset(file, cache=tmp_path, patient_regex=regex)


def test_dropping_a_class(tmp_path: Path) -> None:
    file = write_csv(tmp_path / "l.csv", "path,label\na.png,x\nb.png,y\nc.png,z\n")
    kept = read_dataset(file, cache=tmp_path, drop_class=["z"])
    assert kept.classes == ("x", "y")
    assert kept.passed_over == {"of a class that --drop-class leaves out": 1}
    with pytest.raises(MedlensError, match="not there"):
        read_dataset(file, cache=tmp_path, drop_class=["q"])


def test_nothing_there(tmp_path: Path) -> None:
    with pytest.raises(MedlensError, match="cannot be found"):
        read_dataset(tmp_path / "nothing", cache=tmp_path)


def write_medmnist(file: Path, channels: int, counts: dict[str, int]) -> dict[str, np.ndarray]:
    random = np.random.default_rng(0)
    arrays = {}
    for split, count in counts.items():
        shape = (count, 28, 28) if channels == 1 else (count, 28, 28, channels)
        arrays[f"{split}_images"] = random.integers(0, 256, shape).astype(np.uint8)
        arrays[f"{split}_labels"] = (np.arange(count) % 11)[:, None].astype(np.uint8)
    np.savez(file, **arrays)
    return arrays


@pytest.mark.parametrize("channels", [1, 3])
def test_a_medmnist_file_keeps_its_split_and_pixels(tmp_path: Path, channels: int) -> None:
    counts = {"train": 22, "val": 11, "test": 11}
    arrays = write_medmnist(tmp_path / "mnist.npz", channels, counts)
    dataset = read_dataset(tmp_path / "mnist.npz", cache=tmp_path / "cache")
    assert dataset.table["split"].value_counts().to_dict() == counts
    assert dataset.classes == tuple(f"{number:02d}" for number in range(11))
    row = dataset.table[dataset.table["path"] == "test/03/000003.png"].iloc[0]
    assert row["label"] == "03"
    pixels = np.asarray(Image.open(dataset.root / row["path"]))
    np.testing.assert_array_equal(pixels, arrays["test_images"][3])


def test_an_npz_of_another_kind_is_refused(tmp_path: Path) -> None:
    np.savez(tmp_path / "other.npz", numbers=np.zeros(3))
    with pytest.raises(MedlensError, match="MedMNIST"):
        read_dataset(tmp_path / "other.npz", cache=tmp_path / "cache")


@pytest.mark.shared_data
def test_the_real_npz_and_the_real_folder_hold_the_same_images(
    shared: Path, tmp_path: Path
) -> None:
    folder = shared / "data" / "pneumoniamnist"
    packed = read_dataset(folder / "pneumoniamnist.npz", cache=tmp_path).table
    listed = read_dataset(folder / "labels.csv", cache=tmp_path).table
    assert len(packed) == len(listed) == 5856
    names = {"0": "normal", "1": "pneumonia"}
    counts = pd.crosstab(packed["split"], packed["label"].map(names))
    pd.testing.assert_frame_equal(
        counts, pd.crosstab(listed["split"], listed["label"]), check_names=False
    )


def test_columns_that_later_tables_add_get_a_prefix(tmp_path: Path) -> None:
    for name in ("a.png", "b.png"):
        Image.new("L", (8, 8)).save(tmp_path / name)
    text = (
        "path,label,decision,prob_x,site,group\na.png,x,yes,0.5,north,1\nb.png,y,no,0.1,south,2\n"
    )
    (tmp_path / "labels.csv").write_text(text)
    table = read_dataset(tmp_path / "labels.csv", cache=tmp_path / "cache").table
    metadata = list(table.columns[4:])
    assert metadata == ["given_decision", "given_prob_x", "site", "given_group"]


def test_a_csv_with_semicolons_is_read(tmp_path: Path) -> None:
    rows = [f"{kind}{number}.png;{kind}" for kind in "ab" for number in range(3)]
    (tmp_path / "labels.csv").write_text("\n".join(["path;label", *rows]))
    dataset = read_dataset(tmp_path / "labels.csv", cache=tmp_path / "cache")
    assert dataset.classes == ("a", "b")
    assert list(dataset.table["path"]) == [row.split(";")[0] for row in rows]


def test_a_folder_too_deep_says_that_its_files_lie_in_itself(tmp_path: Path) -> None:
    for number in range(4):
        (tmp_path / f"{number}.png").write_bytes(b"")
    with pytest.raises(MedlensError, match="4 files in the folder itself"):
        read_dataset(tmp_path, cache=tmp_path / "cache")


def test_images_of_a_list_are_left_out_and_never_opened(tmp_path: Path) -> None:
    data, listed = tmp_path / "data", tmp_path / "out.csv"
    for path in ("a/1.png", "a/2.png", "b/1.png", "c/1.png"):
        draw(data / path)
    (data / "a/1.png").write_bytes(b"not to be opened")
    listed.write_text("path,why\na\\1.png,blurred\nc/1.png,of an animal\n")
    dataset = read_dataset(data, cache=tmp_path, exclude=listed)
    assert list(dataset.table["path"]) == ["a/2.png", "b/1.png"]
    assert list(dataset.left_out["path"]) == ["a/1.png", "c/1.png"]
    assert list(dataset.left_out["label"]) == ["a", "c"]


def test_what_is_left_out_and_is_not_there_is_an_error(tmp_path: Path) -> None:
    for path in ("a/1.png", "b/1.png"):
        draw(tmp_path / "data" / path)
    listed = tmp_path / "out.csv"
    listed.write_text("path\na/1.png\na/9.png\n")
    with pytest.raises(MedlensError, match="images that are not there") as caught:
        read_dataset(tmp_path / "data", cache=tmp_path, exclude=listed)
    assert caught.value.names == ("a/9.png",)
    listed.write_text("file\n")
    assert read_dataset(tmp_path / "data", cache=tmp_path, exclude=listed).left_out.empty


def test_nothing_is_passed_over_in_an_empty_folder(tmp_path: Path) -> None:
    passed_over: Counter[str] = Counter()
    assert list(image_files(tmp_path, passed_over)) == []
    assert not passed_over
