"""Dark and blurred pictures are found among good ones; data dark or smooth as a whole is left."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pandas as pd
import pytest
from PIL import Image, ImageFilter

from medlens.data.dataset import read_dataset
from medlens.data.phantom import draw_phantom
from medlens.data.picture_findings import find_blank, find_dark_and_blurred
from medlens.data.scan import scan

GOOD = 40


def phantom(patient: int) -> Image.Image:
    return Image.fromarray(
        draw_phantom("healthy", size=128, patient=patient, image=1, seed=7).pixels
    )


def darkened(image: Image.Image) -> Image.Image:
    return image.point([round(level / 8) for level in range(256)])


def blurred(image: Image.Image) -> Image.Image:
    return image.filter(ImageFilter.GaussianBlur(2))


def unchanged(image: Image.Image) -> Image.Image:
    return image


def scan_images(
    folder: Path, of_all: Callable[[Image.Image], Image.Image] = unchanged
) -> pd.DataFrame:
    """The facts of good pictures and of the planted ones, all of them changed by one function."""
    images = {f"good-{number}": phantom(number + 1) for number in range(GOOD)}
    for number in range(2):
        images[f"dark-{number}"] = darkened(phantom(100 + number))
        images[f"blurred-{number}"] = blurred(phantom(200 + number))
    images["black"] = Image.new("L", (128, 128))
    rows = ["path,label"]
    for number, (name, image) in enumerate(images.items()):
        of_all(image).save(folder / f"{name}.png")
        rows.append(f"{name}.png,{number % 2}")
    (folder / "labels.csv").write_text("\n".join(rows))
    dataset = read_dataset(folder / "labels.csv", cache=folder)
    return scan(dataset, cache=folder, frame=None, progress=lambda _: None)


def found_files(table: pd.DataFrame) -> dict[str, list[str]]:
    findings = find_blank(table) + find_dark_and_blurred(table)
    return {one.code: [path for (path,) in one.files] for one in findings}


def test_the_planted_ones_are_found_and_nothing_else(tmp_path: Path) -> None:
    table = scan_images(tmp_path)
    assert found_files(table) == {
        "blank": ["black.png"],
        "dark": ["dark-0.png", "dark-1.png"],
        "blurred": ["blurred-0.png", "blurred-1.png"],
    }
    dark, blurred = find_dark_and_blurred(table)
    assert dark.severity == blurred.severity == "note"
    assert dark.message.startswith("2 images are nearly black")
    assert blurred.message.startswith("2 images have hardly any fine detail")


def test_a_data_set_dark_as_a_whole_has_only_its_own_dark_ones(tmp_path: Path) -> None:
    table = scan_images(tmp_path, lambda image: image.point([level // 4 for level in range(256)]))
    assert table["mean"].median() < 32
    assert found_files(table)["dark"] == ["dark-0.png", "dark-1.png"]


def test_a_data_set_smooth_as_a_whole_has_no_blurred_ones(tmp_path: Path) -> None:
    table = scan_images(tmp_path, lambda image: image.filter(ImageFilter.GaussianBlur(3)))
    assert set(found_files(table)) == {"blank", "dark"}


def test_few_images_say_nothing(tmp_path: Path) -> None:
    table = scan_images(tmp_path)
    few = pd.concat([table[~table["path"].str.startswith("good")], table.head(10)])
    assert find_dark_and_blurred(few) == []


def test_wide_spread_makes_nothing_an_outlier() -> None:
    """Half of the images smooth, half of them sharp, as from two sources."""
    table = pd.DataFrame(
        {
            "path": [f"{number}.png" for number in range(100)],
            "label": "a",
            "levels": 200,
            "mean": 50.0,
            "spread": 50.0,
            "sharpness": [0.05 if number % 2 else 0.8 for number in range(100)],
        }
    )
    assert find_dark_and_blurred(table) == []


@pytest.mark.shared_data
def test_good_images_are_not_called_dark_or_blurred(shared: Path, tmp_path: Path) -> None:
    """100 CT slices and 351 smears; no eye would take one of them out."""
    for name in ("ct_contrast_dicom", "blood_wbc_original"):
        dataset = read_dataset(shared / "data" / name, cache=tmp_path)
        table = scan(dataset, cache=tmp_path, frame=None, progress=lambda _: None)
        assert find_dark_and_blurred(table) == []
