from __future__ import annotations

import shutil
import zipfile
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

import medlens
from medlens.data.images import read_image
from medlens.model.classifier import Classifier, load_classifier
from medlens.model.classifier_files import PICTURES_FILE
from medlens.model.prediction_sets import name_sets, prediction_sets


@pytest.fixture(scope="module")
def classifier(finished_run: medlens.Run) -> Classifier:
    return finished_run.classifier()


@pytest.fixture(scope="module")
def files(finished_run: medlens.Run, phantoms: Path) -> list[Path]:
    table = finished_run.predictions
    return [phantoms.parent / path for path in table[table["split"] == "test"]["path"]]


def test_what_is_said_of_pictures_is_what_is_said_of_their_files(
    classifier: Classifier, files: list[Path]
) -> None:
    pictures = np.stack([classifier.picture(file) for file in files])
    said = classifier.answer(pictures)
    told = classifier.predict(files)
    assert list(told.columns) == ["path", *said.columns]
    pd.testing.assert_frame_equal(said, told[list(said.columns)])
    assert list(said.columns) == [
        *("predicted", "decision", "prediction_set"),
        *(f"prob_{name}" for name in classifier.classes),
        *("distance", "unfamiliar", "unreadable"),
    ]
    probable = said[[f"prob_{name}" for name in classifier.classes]].to_numpy()
    assert list(said["predicted"]) == [classifier.classes[i] for i in probable.argmax(axis=1)]


def test_more_pictures_than_a_batch_and_none_at_all(
    classifier: Classifier, files: list[Path]
) -> None:
    one = classifier.picture(files[0])
    many = classifier.answer(np.stack([one] * 70))
    assert len(many) == 70
    assert many["predicted"].nunique() == 1
    # Matrix products of other sizes are rounded otherwise.
    numbers = many.select_dtypes("number").to_numpy()
    assert np.allclose(numbers, numbers[0], rtol=1e-5, atol=1e-6)
    none = classifier.answer(np.empty((0, *one.shape), np.uint8))
    assert (none.dtypes == many.dtypes).all()
    assert len(none) == 0
    assert list(classifier.predict([]).columns) == list(classifier.predict(files[0]).columns)


def test_another_thread_gets_the_same_answer(classifier: Classifier, files: list[Path]) -> None:
    pictures = np.stack([classifier.picture(file) for file in files[:3]])
    with ThreadPoolExecutor(1) as beside:
        there = beside.submit(classifier.answer, pictures).result()
    pd.testing.assert_frame_equal(there, classifier.answer(pictures))


def test_the_prediction_set_holds_what_the_threshold_says(
    classifier: Classifier, files: list[Path]
) -> None:
    said = classifier.predict(files)
    threshold = classifier.set_threshold
    assert threshold is not None
    probable = said[[f"prob_{name}" for name in classifier.classes]].to_numpy()
    sets = prediction_sets(probable, threshold)
    assert list(said["prediction_set"]) == name_sets(sets, classifier.classes)
    for named, predicted in zip(said["prediction_set"], said["predicted"], strict=True):
        assert predicted in named


def test_without_a_threshold_there_is_no_prediction_set(
    classifier: Classifier, files: list[Path]
) -> None:
    without = replace(classifier, facts={**classifier.facts, "prediction_sets": {"0.9": None}})
    assert set(without.predict(files[:2])["prediction_set"]) == {()}


def test_pictures_that_no_checksum_covers_are_not_used(
    finished_run: medlens.Run, tmp_path: Path
) -> None:
    folder = tmp_path / "classifier"
    shutil.copytree(finished_run.path / "classifier", folder)
    with zipfile.ZipFile(folder / PICTURES_FILE, "w") as archive:
        archive.writestr("0.jpg", b"from elsewhere")
    assert load_classifier(folder).cases.pictures is None


def test_an_image_is_read_from_its_content_as_from_its_file(
    classifier: Classifier, files: list[Path]
) -> None:
    content = files[0].read_bytes()
    assert np.array_equal(read_image(content).pixels, read_image(files[0]).pixels)
    assert np.array_equal(classifier.picture(content), classifier.picture(files[0]))
