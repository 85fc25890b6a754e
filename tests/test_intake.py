"""From files to a split: near-duplicates across a given split stop it, and are mended."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from PIL import Image

from medlens.api import new_screen
from medlens.config import Options, make_options
from medlens.data.phantom import draw_phantom
from medlens.errors import MedlensError
from medlens.intake import (
    choose_positive_class,
    dataset_csv,
    divide,
    list_images,
    stop_at_errors,
    take_in,
)

KINDS = ("healthy", "mass")
SPLITS = ("train", "train", "train", "val", "test")
PATIENTS = 40


@pytest.fixture()
def data(tmp_path: Path) -> Path:
    """A given split of two classes; one test image lies in train as well, resized, as JPEG."""
    rows = ["path,label,split"]
    for patient in range(PATIENTS):
        kind = KINDS[patient // 5 % 2]
        picture = draw_phantom(kind, size=96, patient=patient + 1, image=1, seed=3).pixels
        Image.fromarray(picture).save(tmp_path / f"{patient:02}.png")
        rows.append(f"{patient:02}.png,{kind},{SPLITS[patient % 5]}")
    with Image.open(tmp_path / "04.png") as image:
        image.resize((80, 80)).save(tmp_path / "copy.jpg")
    rows.append(f"copy.jpg,{KINDS[0]},train")
    (tmp_path / "labels.csv").write_text("\n".join(rows))
    return tmp_path / "labels.csv"


def options_of(data: Path, **options: Any) -> Options:
    cache = str(data.parent / "cache")
    return make_options({"data": str(data), "cache": cache, "quiet": True, **options})


def test_a_near_duplicate_in_train_stops_until_leaks_are_resolved(data: Path) -> None:
    screen = new_screen(quiet=True)
    options = options_of(data)
    intake = take_in(list_images(options), options, screen)
    # Of a cluster alone, and only where it began something again.
    assert "retried" not in intake.audit_json()
    errors = [one for one in intake.findings if one.severity == "error"]
    assert [one.code for one in errors] == ["leak_near_duplicate"]
    assert errors[0].files == (("04.png", "copy.jpg"),)
    with pytest.raises(MedlensError, match="1 of 8 test files has a near-duplicate in train"):
        stop_at_errors(intake, options)

    options = options_of(data, resolve_leaks=True)
    stop_at_errors(intake, options)
    table = divide(intake, options, screen).set_index("path")
    assert table.loc["04.png", "split"] == "test"
    assert table.loc["copy.jpg", "split"] == ""
    assert "near-duplicate" in table.loc["copy.jpg", "excluded"]
    assert (table["split"] == "").sum() == 1


def test_a_split_by_ratio_keeps_near_duplicates_together(data: Path) -> None:
    screen = new_screen(quiet=True)
    options = options_of(data, split="0.6,0.2,0.2")
    intake = take_in(list_images(options), options, screen)
    stop_at_errors(intake, options)
    table = divide(intake, options, screen).set_index("path")
    assert table.loc["04.png", "group"] == table.loc["copy.jpg", "group"]
    assert table.loc["04.png", "split"] == table.loc["copy.jpg", "split"] != ""


def test_dataset_csv_says_which_are_near_duplicates_but_keeps_no_fingerprint(data: Path) -> None:
    options = options_of(data, split="0.6,0.2,0.2")
    intake = take_in(list_images(options), options, new_screen(quiet=True))
    text = dataset_csv(divide(intake, options, new_screen(quiet=True)), intake.dataset.left_out)
    table = pd.read_csv(io.StringIO(text), keep_default_na=False).set_index("path")
    assert "fingerprint" not in table
    near = table["near_copies"]
    assert sorted(near.index[near != ""]) == ["04.png", "copy.jpg"]
    assert near["04.png"] == min(table.loc[["04.png", "copy.jpg"], "pixels_sha256"])


def test_an_operating_point_needs_a_positive_class() -> None:
    classes = ("a", "b", "c")
    asked = make_options({"data": "x", "operating_point": "sensitivity=0.9"})
    with pytest.raises(MedlensError, match="--operating-point needs a positive class"):
        choose_positive_class(classes, asked)
    named = make_options({"data": "x", "operating_point": "sensitivity=0.9", "positive_class": "b"})
    assert choose_positive_class(classes, named) == "b"
    assert choose_positive_class(classes, make_options({"data": "x"})) is None
    assert choose_positive_class(classes[:2], asked) == "b"
