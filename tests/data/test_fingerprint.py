from __future__ import annotations

from pathlib import Path

import pytest

from medlens.data.dataset import read_dataset
from medlens.data.fingerprint import guess_modality, take_fingerprint
from medlens.data.scan import scan


@pytest.mark.parametrize(
    ("codes", "names", "colour", "modality"),
    [
        (["CT", "CT", ""], ["chest"], 0.0, "ct"),
        (["XX"], ["chest"], 0.0, "unknown"),
        ([""], ["images", "normal", "Pneumonia"], 0.0, "x_ray"),
        ([""], ["HAM10000", "melanoma"], 1.0, "dermatoscopy"),
        ([""], ["HAM10000", "melanoma"], 0.0, "unknown"),  # grey skin is not dermatoscopy
        ([""], ["glioma", "notumor"], 0.0, "mri"),
        ([""], ["glioma", "notumor"], 1.0, "unknown"),
        ([""], ["EOSINOPHIL", "LYMPHOCYTE"], 1.0, "microscopy"),
        ([""], ["Dataset_BUSI", "benign"], 0.0, "ultrasound"),
        ([""], ["doctors", "object", "focus"], 0.0, "unknown"),  # ct, oct and us inside words
        ([""], ["a", "b"], 0.5, "unknown"),
    ],
)
def test_the_modality_is_told_by_dicom_or_by_names_that_fit_the_colour(
    codes: list[str], names: list[str], colour: float, modality: str
) -> None:
    assert guess_modality(codes, names, colour)[0] == modality


def test_a_fingerprint_counts_what_is_there(phantoms: Path, cache: Path) -> None:
    dataset = read_dataset(phantoms, cache=cache, patient_regex="", drop_class=("mass",))
    table = scan(dataset, cache=cache, frame=None, progress=lambda _: None)
    table.loc[table.index[0], "unreadable"] = "damaged"
    found = take_fingerprint(table, dataset.root, frame=None)
    assert found.images == 99
    assert sorted(found.classes.values()) == [49, 50]
    assert found.imbalance == pytest.approx(50 / 49, abs=1e-3)
    assert found.median_side == 64
    assert found.sides == (64, 64)
    assert found.colour_share == 0
    assert found.patients_known == 1
    assert sum(found.modes.values()) == sum(found.formats.values()) == 99


@pytest.mark.shared_data
@pytest.mark.parametrize(
    ("name", "modality", "is_coloured"),
    [
        ("ct_contrast_dicom", "ct", False),
        ("brain_mri_4class/labels.csv", "mri", False),
        ("pneumoniamnist/labels.csv", "x_ray", False),
        ("blood_wbc_original", "microscopy", True),
    ],
)
def test_real_data_are_told_apart(
    shared: Path, cache: Path, name: str, modality: str, is_coloured: bool
) -> None:
    dataset = read_dataset(shared / "data" / name, cache=cache, patient_regex="", drop_class=())
    table = dataset.table.groupby("label").head(12).reset_index(drop=True)
    small = type(dataset)(**{**vars(dataset), "table": table})
    found = take_fingerprint(
        scan(small, cache=cache, frame=None, progress=lambda _: None), dataset.root, frame=None
    )
    assert found.modality == modality
    assert (found.colour_share > 0.5) == is_coloured
