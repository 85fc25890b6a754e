"""The layer that draws views in the training graph."""

from __future__ import annotations

import keras
import numpy as np
import pytest

from medlens.data.augmentation import PRESETS, Augmentation
from medlens.model.random_view import RandomView

STILL = Augmentation(1, 0, 0, 0, 0, 0)


def pictures(count: int = 64, size: int = 9) -> np.ndarray:
    random = np.random.default_rng(0)
    one = random.integers(1, 255, (size, size, 3))
    return np.repeat(one[None], count, axis=0).astype(np.float32)


def draw(limits: Augmentation, given: np.ndarray, seed: int = 0) -> np.ndarray:
    return keras.ops.convert_to_numpy(RandomView(limits, seed)(given, training=True))


def symmetries(picture: np.ndarray) -> list[np.ndarray]:
    turned = [np.rot90(picture, turns) for turns in range(4)]
    return turned + [one[:, ::-1] for one in turned]


def test_nothing_changes_outside_training_or_without_limits() -> None:
    given = pictures(4)
    still = RandomView(PRESETS["histology"], 0)(given, training=False)
    assert np.array_equal(keras.ops.convert_to_numpy(still), given)
    assert np.allclose(draw(STILL, given), given, atol=1e-3)


@pytest.mark.parametrize("allowed", [2, 8])
def test_all_symmetries_that_are_allowed_come_up_exactly_and_no_other(allowed: int) -> None:
    given = pictures()
    drawn = draw(Augmentation(allowed, 0, 0, 0, 0, 0), given)
    known = symmetries(given[0])
    if allowed == 2:
        known = [given[0], given[0][:, ::-1]]
    found = set()
    for view in drawn:
        near = [number for number, one in enumerate(known) if np.allclose(view, one, atol=1e-2)]
        assert len(near) == 1
        found.add(near[0])
    assert found == set(range(allowed))


def test_a_chest_is_never_mirrored() -> None:
    size = 32
    given = np.zeros((64, size, size, 3), np.float32)
    given[:, :, : size // 4] = 200
    drawn = draw(PRESETS["x_ray"], given)
    assert (drawn[:, :, : size // 2].sum((1, 2, 3)) > drawn[:, :, size // 2 :].sum((1, 2, 3))).all()


def test_views_stay_within_their_limits() -> None:
    grey = np.full((256, 5, 5, 3), 128, np.float32)
    drawn = draw(Augmentation(1, 0, 0, 0, 0.1, 0, 0), grey)[:, 2, 2, 0]
    assert drawn.min() >= 128 - 25.6 and drawn.max() <= 128 + 25.6
    assert drawn.min() < 128 - 20 and drawn.max() > 128 + 20


def test_a_shift_moves_as_far_as_it_says() -> None:
    size = 41
    given = np.zeros((256, size, size, 3), np.float32)
    given[:, 20, 20] = 255
    drawn = draw(Augmentation(1, 0, 0.2, 0, 0, 0), given)[..., 0]
    places = np.arange(size)
    across = (drawn.sum(1) * places).sum(1) / drawn.sum((1, 2)) - 20
    down = (drawn.sum(2) * places).sum(1) / drawn.sum((1, 2)) - 20
    for moved in (across, down):
        assert np.abs(moved).max() <= 0.2 * size + 0.01
        assert np.abs(moved).max() > 0.18 * size
    assert abs(np.corrcoef(across, down)[0, 1]) < 0.2


def test_half_of_the_views_are_as_sharp_as_their_picture() -> None:
    given = pictures(256, 32)
    given[:, :8] = given[:, -8:] = given[:, :, :8] = given[:, :, -8:] = 0
    drawn = draw(Augmentation(1, 10, 0.1, 0.1, 0, 0), given)
    levels = set(np.unique(given))
    # Without resampling no grey level is new.
    is_sharp = [set(np.unique(np.round(view, 2))) <= levels for view in drawn]
    assert 0.35 < np.mean(is_sharp) < 0.65


def test_black_stays_black_and_each_picture_has_its_own_view() -> None:
    given = pictures(8, 16)
    given[:, :4] = 0
    drawn = draw(Augmentation(1, 0, 0, 0, 0.1, 0.2, 0.1), given)
    assert (drawn[:, :4] == 0).all()
    assert len(np.unique(drawn[:, 8, 8, 0])) == 8


def test_the_same_seed_draws_the_same_views() -> None:
    given = pictures(4, 16)
    one, other = (draw(PRESETS["histology"], given, seed=3) for _ in range(2))
    assert np.array_equal(one, other)
    assert not np.array_equal(one, draw(PRESETS["histology"], given, seed=4))
