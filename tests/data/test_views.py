"""Views: within their limits, the same for the same key, and no mirror image where none may be."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest
from numpy.typing import NDArray

from medlens.data.augmentation import PRESETS
from medlens.data.fingerprint import DICOM_MODALITIES, WORDS
from medlens.data.views import draw_view, read_views, view_keys

SIZE = 64
KEYS = ("a" * 64, "b" * 64)


def arrow() -> NDArray[np.uint8]:
    """A bright block left of the middle, somewhat above it: no symmetry leaves it where it is."""
    picture = np.full((SIZE, SIZE, 3), 20, np.uint8)
    picture[16:26, 8:18] = 200
    return picture


def centre(view: NDArray[np.uint8]) -> tuple[float, float]:
    """Where the bright block lies, from the middle, in pixels."""
    rows, columns = np.nonzero(view[..., 0] > 120)
    return float(rows.mean() - SIZE / 2), float(columns.mean() - SIZE / 2)


def views(preset: str, count: int = 200) -> list[NDArray[np.uint8]]:
    return [draw_view(arrow(), preset, key) for key in view_keys(KEYS[:1], preset, count)]


def test_every_modality_has_a_preset() -> None:
    modalities = {*DICOM_MODALITIES.values(), *(modality for _, modality in WORDS), "unknown"}
    assert modalities == set(PRESETS)


@pytest.mark.parametrize("preset", [name for name, one in PRESETS.items() if one.symmetries == 1])
def test_left_stays_left_where_the_body_has_sides(preset: str) -> None:
    places = [centre(view) for view in views(preset)]
    assert all(column < -5 and row < 0 for row, column in places)


@pytest.mark.parametrize("preset", ["ultrasound", "fundus", "oct"])
def test_left_and_right_change_places_but_up_stays_up(preset: str) -> None:
    places = [centre(view) for view in views(preset)]
    left = np.mean([column < 0 for _, column in places])
    assert 0.35 < left < 0.65
    assert all(row < 5 for row, _ in places)


@pytest.mark.parametrize("preset", ["histology", "dermatoscopy", "microscopy"])
def test_all_eight_symmetries_come_up(preset: str) -> None:
    found = {
        (row < 0, column < 0, abs(row) < abs(column))
        for row, column in (centre(view) for view in views(preset))
    }
    assert len(found) == 8


@pytest.mark.parametrize("preset", PRESETS)
def test_views_differ_stay_near_and_keep_their_background(preset: str) -> None:
    drawn = np.stack(views(preset, 40)).astype(float)
    assert len({view.tobytes() for view in drawn}) == 40
    grey = abs(drawn[..., 0] - drawn[..., 1]).max()
    assert (grey > 1) == (PRESETS[preset].colour > 0)
    # The block is neither lost nor spread over the picture.
    share = (drawn[..., 0] > 120).mean(axis=(1, 2))
    assert (share > 0.4 * 100 / SIZE**2).all() and (share < 2.2 * 100 / SIZE**2).all()
    padded = arrow()
    padded[:, -12:] = 0
    black = draw_view(np.zeros_like(padded), preset, view_keys(KEYS, preset, 1)[0])
    assert black.max() == 0


def test_a_turn_turns_about_the_middle() -> None:
    dot = np.zeros((SIZE, SIZE, 3), np.uint8)
    dot[SIZE // 2 - 2 : SIZE // 2 + 2, SIZE // 2 - 2 : SIZE // 2 + 2] = 255
    far = 0.05 * SIZE + 2
    for key in view_keys(KEYS[:1], "mri", 60):
        row, column = centre(draw_view(dot, "mri", key))
        assert abs(row) < far and abs(column) < far


def test_the_key_decides_alone() -> None:
    first = view_keys(KEYS, "mri", 3)
    assert len(set(first)) == 6
    assert first[:3] == view_keys(KEYS[:1], "mri", 3)
    assert view_keys(KEYS, "mri", 4)[:3] == first[:3]
    assert not set(first) & set(view_keys(KEYS, "ct", 3))

    def read(keys: Sequence[str]) -> NDArray[np.uint8]:
        return np.stack([arrow() + np.uint8(KEYS.index(key)) for key in keys])

    together = read_views(read, "mri")(first)
    alone = np.concatenate([read_views(read, "mri")([key]) for key in reversed(first)])
    np.testing.assert_array_equal(together, alone[::-1])
