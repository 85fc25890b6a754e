"""The exact symmetries of a square picture: mirror images and turns, without resampling."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

MOST_SYMMETRIES = 8

ReadPictures = Callable[[Sequence[str]], NDArray[np.uint8]]


def mirror(pictures: NDArray[np.uint8], symmetry: int) -> NDArray[np.uint8]:
    """One of the eight symmetries: first left and right change places, then it is turned.

    Args:
        pictures: One or several, of shape (..., size, size, 3).
        symmetry: 0 to 7. 0 leaves it as it is, 1 changes left and right; each two more turn it by
            90 degrees, against the clock.
    """
    mirrored = pictures[..., ::-1, :] if symmetry % 2 else pictures
    return np.rot90(mirrored, symmetry // 2, axes=(-3, -2))


def symmetric_keys(keys: Sequence[str], count: int) -> list[str]:
    """The content keys of pictures seen in these symmetries but the first, picture by picture.

    Args:
        keys: Content keys of the pictures.
        count: 1, 2 or 8: how many symmetries, the picture as it is being the first.
    """
    return [f"{key}.symmetry.{number}" for key in keys for number in range(1, count)]


def read_symmetric(read: ReadPictures) -> ReadPictures:
    """What reads pictures by `symmetric_keys`, from what reads them as they are."""

    def read_them(keys: Sequence[str]) -> NDArray[np.uint8]:
        parts = [key.split(".") for key in keys]
        pictures = read([key for key, *_ in parts])
        return np.stack(
            [mirror(one, int(part[-1])) for one, part in zip(pictures, parts, strict=True)]
        )

    return read_them
