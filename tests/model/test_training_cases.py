from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image

import medlens
from medlens.errors import MedlensError
from medlens.model.classifier import Classifier
from medlens.model.familiarity import Familiarity, fit_familiarity
from medlens.model.training_cases import (
    MOST_CASES,
    PICTURE_SIDE,
    TrainingCases,
    load_cases,
    remember_cases,
    save_cases,
    write_pictures,
)


@pytest.fixture(scope="module")
def features() -> np.ndarray:
    return np.random.default_rng(0).normal(size=(300, 40)).astype(np.float32) ** 3


@pytest.fixture(scope="module")
def familiarity(features: np.ndarray) -> Familiarity:
    return fit_familiarity(features, rows=np.arange(200))


@pytest.fixture(scope="module")
def cases(features: np.ndarray, familiarity: Familiarity) -> TrainingCases:
    labels = np.arange(300) % 3
    numbers = 10 * np.arange(300)
    return remember_cases(features, labels, np.arange(200), numbers, familiarity, seed=0)


def test_the_nearest_is_that_of_the_familiarity(
    features: np.ndarray, familiarity: Familiarity, cases: TrainingCases
) -> None:
    distances = familiarity.distances(features[200:220])
    for row, distance in zip(features[200:220], distances, strict=True):
        found = cases.find_similar(familiarity, row, ("a", "b", "c"))
        assert [case.distance for case in found] == sorted(case.distance for case in found)
        # Places are kept in half precision.
        assert found[0].distance == pytest.approx(distance, rel=2e-3)


def test_a_training_image_finds_itself_with_its_row_and_label(
    features: np.ndarray, familiarity: Familiarity, cases: TrainingCases
) -> None:
    for number in (0, 7, 199):
        nearest = cases.find_similar(familiarity, features[number], ("a", "b", "c"), most=1)[0]
        assert (nearest.row, nearest.label) == (10 * number, "abc"[number % 3])
        assert nearest.picture is None


def test_what_is_not_a_number_is_like_nothing(
    features: np.ndarray, familiarity: Familiarity, cases: TrainingCases
) -> None:
    broken = np.where(np.arange(40) == 3, np.nan, features[0]).astype(np.float32)
    assert cases.find_similar(familiarity, broken, ("a", "b", "c")) == []


def test_of_many_images_a_bounded_number_is_kept(familiarity: Familiarity) -> None:
    count = MOST_CASES + 1000
    many = np.random.default_rng(1).normal(size=(count, 40)).astype(np.float32)
    labels = np.where(np.arange(count) < 50, 1, 0)
    places = np.arange(count)
    kept = remember_cases(many, labels, places, places, familiarity, seed=0)
    assert len(kept.rows) == MOST_CASES
    assert (kept.labels == 1).sum() == 50  # the rare class is whole
    assert (np.diff(kept.rows) > 0).all()


def test_saved_cases_come_back_with_their_pictures(
    features: np.ndarray, familiarity: Familiarity, cases: TrainingCases, tmp_path: Path
) -> None:
    def read(row: int) -> np.ndarray | None:
        return None if row == 0 else np.full((224, 224, 3), row % 251, np.uint8)

    shown = write_pictures(cases, tmp_path / "pictures.zip", read)
    save_cases(tmp_path / "cases.npz", shown)
    again = load_cases(tmp_path / "cases.npz", tmp_path / "pictures.zip")
    for name in ("rows", "labels", "places"):
        assert np.array_equal(getattr(again, name), getattr(cases, name))
    found = {case.row: case for case in again.find_similar(familiarity, features[3], "abc")}
    picture = found[30].picture
    assert picture is not None
    image = np.asarray(Image.open(io.BytesIO(picture)))
    assert image.shape == (PICTURE_SIDE, PICTURE_SIDE, 3)
    assert abs(int(image[0, 0, 0]) - 30) <= 2
    first = again.find_similar(familiarity, features[0], "abc", most=1)[0]
    assert (first.row, first.picture) == (0, None)


def test_the_same_cases_give_the_same_bytes(cases: TrainingCases, tmp_path: Path) -> None:
    for name in ("first.npz", "second.npz"):
        save_cases(tmp_path / name, cases)
    assert (tmp_path / "first.npz").read_bytes() == (tmp_path / "second.npz").read_bytes()


def test_a_damaged_file_is_refused(cases: TrainingCases, tmp_path: Path) -> None:
    save_cases(tmp_path / "cases.npz", cases)
    content = (tmp_path / "cases.npz").read_bytes()
    (tmp_path / "cases.npz").write_bytes(content[: len(content) // 2])
    with pytest.raises(MedlensError, match="remembers"):
        load_cases(tmp_path / "cases.npz", tmp_path / "none.zip")


def test_a_run_remembers_its_training_images_and_nothing_that_names_them(
    finished_run: medlens.Run,
) -> None:
    classifier: Classifier = finished_run.classifier()
    dataset = pd.read_csv(finished_run.path / "dataset.csv", keep_default_na=False)
    splits = pd.read_csv(finished_run.path / "splits.csv").set_index("path")["split"]
    remembered = dataset.iloc[classifier.cases.rows]
    assert set(splits[remembered["path"]]) == {"train"}
    assert len(remembered) == (splits == "train").sum()
    labels = [classifier.classes[number] for number in classifier.cases.labels]
    assert labels == list(remembered["label"])
    for file in (finished_run.path / "classifier").iterdir():
        content = file.read_bytes()
        for name in [*dataset["patient"], *(Path(path).name for path in dataset["path"])]:
            assert name.encode() not in content
