"""The sheet shows the very pixels, class by class, and nothing of the files."""

from __future__ import annotations

import io

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from medlens.report.contact_sheet import (
    GAP,
    TITLE_HEIGHT,
    choose_pictures,
    contact_sheet,
    png_bytes,
)

SIZE = 32


def draw(count: int, seed: int) -> NDArray[np.uint8]:
    return np.random.default_rng(seed).integers(0, 256, (count, SIZE, SIZE, 3), dtype=np.uint8)


def test_every_picture_stands_at_its_place_pixel_for_pixel() -> None:
    pictures = {"mass": draw(5, 0), "healthy": draw(2, 1)}
    sheet = contact_sheet(pictures, columns=4)
    step = SIZE + GAP
    assert sheet.shape == (2 * TITLE_HEIGHT + 3 * step + GAP, 4 * step + GAP, 3)
    top = GAP + TITLE_HEIGHT
    places = [(top, column) for column in range(4)] + [(top + step, 0)]
    second = top + 2 * step + TITLE_HEIGHT
    places += [(second, 0), (second, 1)]
    for picture, (row, column) in zip(
        [*pictures["mass"], *pictures["healthy"]], places, strict=True
    ):
        left = GAP + column * step
        np.testing.assert_array_equal(sheet[row : row + SIZE, left : left + SIZE], picture)


def has_ink(sheet: NDArray[np.uint8]) -> bool:
    return bool((sheet[GAP : GAP + TITLE_HEIGHT] < 120).any())


@pytest.mark.parametrize("name", ["mass", "Größe", "опухоль", "x" * 300, "a\nb", ""])
def test_titles_are_drawn(name: str) -> None:
    assert has_ink(contact_sheet({name: draw(1, 0)}, columns=4))


def test_titles_tell_how_many_there_are() -> None:
    pictures = {"mass": draw(3, 0)}
    all_shown, some = (
        contact_sheet(pictures, counts={"mass": count}, columns=8) for count in (3, 4000)
    )
    assert not np.array_equal(all_shown, some)
    np.testing.assert_array_equal(all_shown, contact_sheet(pictures, columns=8))


def test_a_class_without_a_picture_keeps_its_title() -> None:
    sheet = contact_sheet({"mass": draw(0, 0), "healthy": draw(1, 0)})
    assert has_ink(sheet)


def test_the_draw_is_seeded_and_bounded() -> None:
    labels = ["b"] * 40 + ["a"] * 3 + ["b"] * 10
    chosen = choose_pictures(labels, seed=0)
    assert list(chosen) == ["a", "b"]
    assert list(chosen["a"]) == [40, 41, 42]
    assert len(set(chosen["b"])) == 16
    assert all(labels[row] == "b" for row in chosen["b"])
    assert list(chosen["b"]) == sorted(chosen["b"])
    np.testing.assert_array_equal(chosen["b"], choose_pictures(labels, seed=0)["b"])
    assert not np.array_equal(chosen["b"], choose_pictures(labels, seed=1)["b"])


def test_sizes_that_differ_are_refused() -> None:
    with pytest.raises(ValueError, match="2 sizes"):
        contact_sheet({"a": draw(1, 0), "b": np.zeros((1, 16, 16, 3), np.uint8)})
    with pytest.raises(ValueError, match="0 sizes"):
        contact_sheet({})


def test_the_png_holds_the_pixels_and_nothing_else() -> None:
    sheet = contact_sheet({"a": draw(2, 0)})
    content = png_bytes(sheet)
    assert content == png_bytes(sheet)
    with Image.open(io.BytesIO(content)) as image:
        np.testing.assert_array_equal(np.array(image), sheet)
        assert image.info == {}
