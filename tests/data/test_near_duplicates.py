"""Near-duplicates: planted copies are found; other patients, similar slices and blanks are not."""

from __future__ import annotations

import io
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from medlens.data.images import read_image, to_pillow
from medlens.data.near_duplicates import (
    LEAST_SIMILARITY,
    SMALLEST_SIDE,
    THUMBNAIL_SIDE,
    NearDuplicate,
    compare,
    find_near_duplicates,
    fingerprint,
)
from medlens.data.phantom import draw_phantom

PATIENTS = 40


def phantom(patient: int, image: int = 1, size: int = 128) -> Image.Image:
    return Image.fromarray(
        draw_phantom("healthy", size=size, patient=patient, image=image, seed=5).pixels
    )


@pytest.fixture(scope="module")
def originals() -> list[Image.Image]:
    return [phantom(patient) for patient in range(1, PATIENTS + 1)]


def find(images: Sequence[Image.Image], keys: Sequence[str] | None = None) -> list[NearDuplicate]:
    taken = [fingerprint(image) for image in images]
    thumbnails = np.stack([one.thumbnail for one in taken])
    return find_near_duplicates(
        [one.text for one in taken],
        keys or [f"{number:04}" for number in range(len(images))],
        lambda indices: thumbnails[list(indices)],
    )


def tied(found: Sequence[NearDuplicate]) -> set[tuple[int, int]]:
    return {(pair.first, pair.second) for pair in found}


def as_jpeg(image: Image.Image, quality: int) -> Image.Image:
    stream = io.BytesIO()
    image.save(stream, "JPEG", quality=quality)
    return Image.open(stream).convert("L")


def scaled(image: Image.Image, scale: float) -> Image.Image:
    size = round(image.width * scale), round(image.height * scale)
    return image.resize(size, Image.Resampling.LANCZOS)


def with_greys(image: Image.Image, change: Callable[[float], float]) -> Image.Image:
    return image.point([min(255, round(change(grey))) for grey in range(256)])


def cropped(image: Image.Image, left: int, top: int, right: int, bottom: int) -> Image.Image:
    return image.crop((left, top, image.width - right, image.height - bottom))


def with_mark(image: Image.Image) -> Image.Image:
    greys = np.array(image)
    greys[4:8, 4:18] = 255
    return Image.fromarray(greys)


CHANGES: dict[str, Callable[[Image.Image], Image.Image]] = {
    "jpeg-50": lambda image: as_jpeg(image, 50),
    "jpeg-90": lambda image: as_jpeg(image, 90),
    "half-size": lambda image: scaled(image, 0.5),
    "three-quarters": lambda image: scaled(image, 0.75),
    "brighter": lambda image: with_greys(image, lambda grey: 1.1 * grey),
    "gamma": lambda image: with_greys(image, lambda grey: 255 * (grey / 255) ** 0.9),
    "cropped-around": lambda image: cropped(image, 1, 1, 1, 1),
    "cropped-left": lambda image: cropped(image, 2, 0, 0, 0),
    "mark": with_mark,
    "as-colour": lambda image: as_jpeg(image, 75).convert("RGB"),
    "all": lambda image: as_jpeg(
        with_greys(scaled(cropped(image, 1, 1, 1, 1), 0.75), lambda grey: 1.1 * grey), 75
    ),
}


@pytest.mark.parametrize("name", CHANGES)
def test_every_planted_copy_is_found_and_nothing_else(
    name: str, originals: list[Image.Image]
) -> None:
    found = find([*originals, *map(CHANGES[name], originals)])
    assert tied(found) == {(number, number + PATIENTS) for number in range(PATIENTS)}
    assert all(LEAST_SIMILARITY <= pair.similarity <= 1 for pair in found)


def test_images_of_one_patient_are_no_copies() -> None:
    images = [phantom(patient, image) for patient in range(1, 16) for image in range(1, 5)]
    assert find(images) == []


def test_a_picture_that_changes_in_a_quarter_is_no_copy() -> None:
    """As a neighbouring slice does: the large shapes stay, the detail is partly another."""
    generator = np.random.default_rng(0)
    first = np.array(phantom(1), np.float64)
    second = first.copy()
    second[:64, :64] += generator.normal(0, 25, (64, 64))
    images = [Image.fromarray(np.clip(greys, 0, 255).astype(np.uint8)) for greys in (first, second)]
    thumbnails = [fingerprint(image).thumbnail[np.newaxis] for image in images]
    assert compare(*thumbnails)[0] < LEAST_SIMILARITY
    assert find(images) == []


def test_blank_dark_and_tiny_images_take_no_part() -> None:
    blank = [Image.new("L", (100, 100), grey) for grey in (0, 0, 1, 200, 255)]
    noise = np.random.default_rng(0).integers(0, 3, (2, 100, 100), np.uint8)
    dark = [Image.fromarray(greys) for greys in noise]
    tiny = [phantom(1).resize((SMALLEST_SIDE - 1, 60)), phantom(1).resize((60, SMALLEST_SIDE - 1))]
    images = [*blank, *dark, *tiny]
    assert [fingerprint(image).text for image in images] == [""] * len(images)
    assert find(images) == []


def test_shapes_without_texture_are_not_judged() -> None:
    """Two smooth blots are alike, but there is nothing to know a copy by."""
    y, x = np.mgrid[:128, :128]
    blots = [
        Image.fromarray(np.rint(99 * np.exp(-((x - 64) ** 2 + (y - 64) ** 2) / width)).astype("u1"))
        for width in (4000, 4200)
    ]
    assert all(fingerprint(blot).text for blot in blots)
    assert find(blots) == []


def test_exact_copies_are_left_out_and_one_stands_for_all(originals: list[Image.Image]) -> None:
    changed = as_jpeg(originals[0], 75)
    images = [originals[0], originals[1], originals[0], changed, changed]
    assert tied(find(images, ["a", "b", "a", "c", "c"])) == {(0, 3)}


def test_the_order_of_the_images_does_not_matter(originals: list[Image.Image]) -> None:
    images = [*originals, *(as_jpeg(image, 60) for image in originals[:20])]
    keys = [f"{(7 * number) % 101:03}" for number in range(len(images))]
    found = find(images, keys)
    assert len(found) == 20
    order = np.random.default_rng(3).permutation(len(images))
    mixed = find([images[one] for one in order], [keys[one] for one in order])

    def by_keys(pairs: Sequence[NearDuplicate], names: Sequence[str]) -> set[tuple[str, ...]]:
        return {
            (*sorted((names[pair.first], names[pair.second])), str(pair.similarity))
            for pair in pairs
        }

    assert by_keys(mixed, [keys[one] for one in order]) == by_keys(found, keys)


def test_a_crowd_of_alike_images_is_not_compared_pair_by_pair() -> None:
    """300 images with one fingerprint: not 44,850 pairs are looked at, yet all hang together."""
    crowd = 300
    text = fingerprint(phantom(1)).text
    shape = (2, THUMBNAIL_SIDE, THUMBNAIL_SIDE)
    pictures = np.random.default_rng(0).integers(0, 256, shape).astype(np.uint8)
    asked = []

    def read(indices: Sequence[int]) -> NDArray[np.uint8]:
        asked.extend(indices)
        return pictures[np.asarray(indices) % 2]

    keys = [f"{number:05}" for number in range(crowd)]
    found = find_near_duplicates([text] * crowd, keys, read)
    assert len(asked) < 20 * crowd
    # Even and odd numbers show two pictures: each hangs together, and they stay apart.
    ends = np.array(sorted(tied(found))).T
    graph = coo_array((np.ones(len(found)), ends), shape=(crowd, crowd))
    assert connected_components(graph, directed=False)[0] == 2
    assert (ends[0] % 2 == ends[1] % 2).all()


def test_a_single_image_and_none_have_no_copies(originals: list[Image.Image]) -> None:
    assert find(originals[:1]) == []
    assert find_near_duplicates([], [], lambda indices: np.empty((0, 64, 64), np.uint8)) == []


def test_the_fingerprint_is_short_and_repeats(originals: list[Image.Image]) -> None:
    one, again = fingerprint(originals[0]), fingerprint(originals[0].copy())
    assert one.text == again.text
    assert len(one.text) == 84
    assert one.thumbnail.shape == (THUMBNAIL_SIDE, THUMBNAIL_SIDE)
    assert np.array_equal(one.thumbnail, again.thumbnail)


@pytest.mark.shared_data
def test_neighbouring_slices_are_no_copies(shared: Path) -> None:
    """400 slices of gliomas, neighbours among them, of which no two show the same picture."""
    folder = shared / "data" / "brain_mri_4class" / "glioma"
    paths = sorted(folder.iterdir())[:400]
    images = [to_pillow(read_image(path).pixels) for path in paths]
    taken = [fingerprint(image) for image in images]
    keys = [image.tobytes().hex() for image in images]
    thumbnails = np.stack([one.thumbnail for one in taken])
    found = find_near_duplicates(
        [one.text for one in taken], keys, lambda indices: thumbnails[list(indices)]
    )
    assert found == []


def test_blocks_of_rows_change_nothing(
    originals: list[Image.Image], monkeypatch: pytest.MonkeyPatch
) -> None:
    images = [*originals, *[as_jpeg(image, 80) for image in originals]]
    at_once = find(images)
    monkeypatch.setattr("medlens.data.near_duplicates._ROWS_AT_A_TIME", 7)
    monkeypatch.setattr("medlens.data.near_duplicates._PAIRS_AT_A_TIME", 3)
    in_blocks = find(images)
    assert tied(at_once) >= {(one, one + PATIENTS) for one in range(PATIENTS)}
    assert tied(in_blocks) == tied(at_once)
