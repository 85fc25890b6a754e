"""The phantoms: what they must show, and what they must not give away."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from numpy.typing import NDArray
from PIL import Image
from scipy.ndimage import gaussian_filter
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score
from sklearn.model_selection import StratifiedGroupKFold, cross_val_predict
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from medlens.data.phantom import (
    CLASSES,
    COLUMNS,
    MEAN_RANGE,
    SITES,
    SPREAD_RANGE,
    draw_phantom,
    write_phantoms,
)
from medlens.errors import MedlensError

BOX = list(COLUMNS[-4:])


@pytest.fixture(scope="module")
def default_sets(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    folder = tmp_path_factory.mktemp("phantoms")
    return [write_phantoms(folder / str(seed), seed=seed) for seed in range(3)]


@pytest.fixture(params=[0, 1, 2])
def default_set(request: pytest.FixtureRequest, default_sets: list[Path]) -> Path:
    return default_sets[request.param]


def read(labels_file: Path) -> tuple[pd.DataFrame, NDArray[np.float64]]:
    table = pd.read_csv(labels_file)
    pictures = [np.asarray(Image.open(labels_file.parent / path), float) for path in table["path"]]
    return table, np.stack(pictures)


def auc_per_class(table: pd.DataFrame, features: NDArray[np.float64]) -> dict[str, float]:
    """One-vs-rest AUC of a linear model, cross-validated by patient."""
    model = make_pipeline(StandardScaler(), LogisticRegression(max_iter=2000))
    folds = StratifiedGroupKFold(5, shuffle=True, random_state=0)
    labels = table["label"].to_numpy()
    probability = cross_val_predict(
        model, features, labels, groups=table["patient"], cv=folds, method="predict_proba"
    )
    columns = enumerate(sorted(set(labels)))
    return {name: roc_auc_score(labels == name, probability[:, i]) for i, name in columns}


def brightness(pictures: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.stack([pictures.mean(axis=(1, 2)), pictures.std(axis=(1, 2))], axis=1)


def band_energies(pictures: NDArray[np.float64]) -> NDArray[np.float64]:
    """Logarithms of the spread and of the highest point of five frequency bands."""
    blurred = [pictures] + [gaussian_filter(pictures, (0, s, s)) for s in (0.7, 1.4, 2.8, 5.6, 11)]
    bands = [fine - coarse for fine, coarse in pairwise(blurred)]
    spreads = [np.log(band.std(axis=(1, 2))) for band in bands]
    peaks = [np.log(band.max(axis=(1, 2))) for band in bands]
    return np.stack(spreads + peaks, axis=1)


def test_brightness_tells_nothing(default_set: Path) -> None:
    table, pictures = read(default_set)
    aucs = auc_per_class(table, brightness(pictures))
    assert list(aucs) == list(CLASSES)
    assert max(aucs.values()) < 0.6


def test_brightness_tells_nothing_in_a_small_set_either(tmp_path: Path) -> None:
    for seed in range(4):
        table, pictures = read(
            write_phantoms(tmp_path / str(seed), images=60, size=32, seed=seed, classes=CLASSES[:2])
        )
        assert max(auc_per_class(table, brightness(pictures)).values()) < 0.6


def test_texture_tells_the_classes_apart_but_not_perfectly(default_set: Path) -> None:
    table, pictures = read(default_set)
    aucs = auc_per_class(table, band_energies(pictures))
    assert min(aucs.values()) > 0.7
    assert min(aucs.values()) < 0.999


def test_neither_file_nor_patient_data_tell_the_class(default_sets: list[Path]) -> None:
    # Together, since among few patients chance alone makes some site or age go with a class.
    tables = [pd.read_csv(path).assign(seed=str(seed)) for seed, path in enumerate(default_sets)]
    table = pd.concat(tables, ignore_index=True)
    table["patient"] += "/" + table["seed"]
    facts = pd.DataFrame({site: table["site"] == site for site in SITES})
    facts["age"] = table["age"]
    facts["female"] = table["sex"] == "F"
    facts["image"] = table["path"].str.extract(r"_(\d)\.png$")[0]
    assert max(auc_per_class(table, facts.to_numpy(float)).values()) < 0.6
    pictures = [path for file in default_sets for path in file.parent.rglob("*.png")]
    assert len({path.stat().st_size for path in pictures}) == 1


def test_files_and_labels_agree(default_set: Path) -> None:
    table = pd.read_csv(default_set)
    folder = default_set.parent
    assert default_set == folder / "labels.csv"
    assert list(table.columns) == list(COLUMNS)
    on_disk = {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}
    assert on_disk == {*table["path"], "labels.csv"}
    assert len(table) == len(set(table["path"])) == 360
    for row in table.itertuples():
        assert row.path.startswith(f"{row.label}/{row.patient}_")
        with Image.open(folder / row.path) as image:
            assert (image.mode, image.size) == ("L", (64, 64))


def test_counts_of_images_and_patients(default_set: Path) -> None:
    table = pd.read_csv(default_set)
    assert table["label"].value_counts().to_dict() == dict.fromkeys(CLASSES, 120)
    patients = table.groupby("patient")
    assert len(patients) == 144
    assert set(patients.size()) == {1, 2, 3, 4}
    assert (patients[["site", "age", "sex"]].nunique() == 1).all(axis=None)
    labels_per_patient = patients["label"].nunique()
    assert 0.02 < (labels_per_patient > 1).mean() < 0.25


def test_boxes_stand_where_there_is_a_lesion(default_set: Path) -> None:
    table = pd.read_csv(default_set)
    healthy = table["label"] == "healthy"
    assert table.loc[healthy, BOX].isna().all(axis=None)
    boxes = table.loc[~healthy, BOX]
    assert (boxes >= 0).all(axis=None)
    assert (boxes <= 64).all(axis=None)
    area = (boxes["lesion_right"] - boxes["lesion_left"]) * (
        boxes["lesion_bottom"] - boxes["lesion_top"]
    )
    assert area.between(64, 64 * 64 / 3).all()


def test_rows_say_what_draw_phantom_draws(tmp_path: Path) -> None:
    labels_file = write_phantoms(tmp_path, images=12, size=48, seed=5)
    for row in pd.read_csv(labels_file).itertuples():
        patient, image = (int(part) for part in Path(row.path).stem[1:].split("_"))
        phantom = draw_phantom(row.label, size=48, seed=5, patient=patient, image=image)
        assert (phantom.label, phantom.patient) == (row.label, row.patient)
        box = (row.lesion_left, row.lesion_top, row.lesion_right, row.lesion_bottom)
        assert phantom.lesion == (None if row.label == "healthy" else box)
        # Only the brightness differs, and that is a straight line but for rounding.
        written = np.asarray(Image.open(tmp_path / row.path), float)
        assert np.corrcoef(written.ravel(), phantom.pixels.ravel())[0, 1] > 0.999


def test_same_arguments_same_bytes(tmp_path: Path) -> None:
    def contents(name: str, **arguments: int) -> dict[str, bytes]:
        folder = write_phantoms(tmp_path / name, images=24, **arguments).parent
        files = (path for path in sorted(folder.rglob("*")) if path.is_file())
        return {path.relative_to(folder).as_posix(): path.read_bytes() for path in files}

    first = contents("first", seed=3)
    assert contents("second", seed=3) == first
    assert contents("first", seed=3) == first
    other = contents("other", seed=4)
    assert not set(first.values()) & set(other.values())


@pytest.mark.parametrize("label", CLASSES[1:])
@pytest.mark.parametrize("size", [64, 128])
def test_box_holds_the_lesion(label: str, size: int) -> None:
    for image in range(1, 13):
        without = draw_phantom("healthy", size=size, image=image, brightness=(0.5, 0.5))
        with_lesion = draw_phantom(label, size=size, image=image, brightness=(0.5, 0.5))
        assert without.lesion is None
        assert with_lesion.lesion is not None
        left, top, right, bottom = with_lesion.lesion
        inside = np.zeros((size, size), bool)
        inside[top:bottom, left:right] = True
        assert inside.mean() < 0.4
        # Both pictures show the same tissue through different curves of brightness. The curve
        # is fitted outside the box; what is left is the lesion.
        before, after = without.pixels / 255, with_lesion.pixels / 255
        curve = np.polynomial.Polynomial.fit(before[~inside], after[~inside], 3)
        energy = (after - curve(before)) ** 2
        assert energy[inside].sum() > 0.95 * energy.sum()


def test_larger_pictures_show_the_same_lesion_larger() -> None:
    for label in CLASSES[1:]:
        small = draw_phantom(label, size=64).lesion
        large = draw_phantom(label, size=128).lesion
        assert small is not None
        assert large is not None
        assert np.abs(np.array(large) - 2 * np.array(small)).max() <= 1


@pytest.mark.parametrize("label", CLASSES)
@pytest.mark.parametrize("place", [(0.0, 0.0), (0.0, 1.0), (1.0, 0.0), (1.0, 1.0)])
def test_brightness_is_what_was_asked_for_and_nothing_is_clipped(
    label: str, place: tuple[float, float]
) -> None:
    for image in range(1, 9):
        pixels = draw_phantom(label, image=image, brightness=place).pixels
        assert pixels.dtype == np.uint8
        assert pixels.mean() == pytest.approx(MEAN_RANGE[int(place[0])], abs=0.05)
        assert pixels.std() == pytest.approx(SPREAD_RANGE[int(place[1])], abs=0.05)
        assert pixels.min() > 0
        assert pixels.max() < 255


def test_images_of_a_patient_share_their_direction_but_are_not_copies() -> None:
    def direction(patient: int, image: int) -> complex:
        pixels = draw_phantom("healthy", patient=patient, image=image).pixels.astype(float)
        along_y, along_x = np.gradient(gaussian_filter(pixels, 1))
        # Doubled, so that opposite directions are one.
        doubled = np.mean((along_x + 1j * along_y) ** 2)
        return complex(doubled / abs(doubled))

    first, second = (np.array([direction(p, i) for p in range(1, 41)]) for i in (1, 2))
    same_patient = float((first * second.conj()).real.mean())
    next_patient = float((first * np.roll(second, 1).conj()).real.mean())
    assert same_patient > 0.7
    assert abs(next_patient) < 0.4
    one, two = (draw_phantom("healthy", patient=1, image=i).pixels.ravel() for i in (1, 2))
    assert abs(np.corrcoef(one, two)[0, 1]) < 0.8


def test_two_classes_uneven_numbers_and_given_patients(tmp_path: Path) -> None:
    binary = pd.read_csv(
        write_phantoms(tmp_path / "binary", images=9, classes=("mass", "healthy"), patients=9)
    )
    assert binary["label"].value_counts().to_dict() in (
        {"mass": 5, "healthy": 4},
        {"mass": 4, "healthy": 5},
    )
    assert binary["patient"].is_unique
    full = pd.read_csv(write_phantoms(tmp_path / "full", images=8, patients=2))
    assert full["patient"].value_counts().to_dict() == {"P0001": 4, "P0002": 4}
    assert sorted(full["label"].value_counts()) == [2, 3, 3]
    single = pd.read_csv(write_phantoms(tmp_path / "single", images=2, classes=("mass",)))
    assert set(single["label"]) == {"mass"}


@pytest.mark.parametrize(
    ("arguments", "what"),
    [
        ({"size": 31}, "size"),
        ({"classes": ("healthy", "tumour")}, "classes"),
        ({"classes": ("mass", "mass")}, "classes"),
        ({"classes": ()}, "classes"),
        ({"images": 2}, "fewer phantoms"),
        ({"images": 9, "patients": 2}, "patients"),
        ({"images": 9, "patients": 10}, "patients"),
    ],
)
def test_impossible_wishes_write_nothing(
    tmp_path: Path, arguments: dict[str, object], what: str
) -> None:
    with pytest.raises(MedlensError, match=what):
        write_phantoms(tmp_path / "out", **arguments)  # type: ignore[arg-type]
    assert not (tmp_path / "out").exists()


def test_other_pictures_in_the_folder_stop_it(tmp_path: Path) -> None:
    write_phantoms(tmp_path, images=12, seed=0)
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(MedlensError, match="not of this set") as caught:
        write_phantoms(tmp_path, images=6, seed=0)
    assert sorted(tmp_path.rglob("*")) == before
    assert all(name.endswith(".png") for name in caught.value.names)
    assert ".png" not in str(caught.value)


def test_unknown_label_cannot_be_drawn() -> None:
    with pytest.raises(MedlensError, match="classes"):
        draw_phantom("tumour")
