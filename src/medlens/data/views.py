"""Augmented views of pictures: what may change in a modality, the same for the same picture."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import asdict

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from medlens.data.augmentation import PRESETS, Augmentation
from medlens.data.symmetries import ReadPictures, mirror

# Raise it when the view of the same picture changes.
VIEWS_VERSION = 1
GREY_LEVEL = 128.0


def view_keys(keys: Sequence[str], preset: str, count: int) -> list[str]:
    """The content keys of the views of pictures: those of the first picture, of the second ...

    Args:
        keys: Content keys of the pictures.
        preset: A name in `PRESETS`.
        count: Views of each picture.
    """
    facts = [VIEWS_VERSION, asdict(PRESETS[preset])]
    digest = hashlib.sha256(json.dumps(facts).encode()).hexdigest()[:12]
    return [f"{key}.{digest}.{number}" for key in keys for number in range(1, count + 1)]


def read_views(read: ReadPictures, preset: str) -> ReadPictures:
    """What reads views by their keys, from what reads pictures by theirs."""

    def read_them(keys: Sequence[str]) -> NDArray[np.uint8]:
        pictures = read([key.split(".")[0] for key in keys])
        views = [draw_view(one, preset, key) for one, key in zip(pictures, keys, strict=True)]
        return np.stack(views)

    return read_them


def draw_view(picture: NDArray[np.uint8], preset: str, key: str) -> NDArray[np.uint8]:
    """One view of a picture; its key decides which.

    Args:
        picture: RGB, 0 to 255, of shape (size, size, 3).
        preset: A name in `PRESETS`.
        key: From `view_keys`.

    Returns:
        Of the same shape; what comes in from outside is black.
    """
    limits = PRESETS[preset]
    seed = int.from_bytes(hashlib.sha256(key.encode()).digest()[:8], "big")
    random = np.random.default_rng(seed)
    symmetry = int(random.integers(limits.symmetries))
    moved = _move(mirror(picture, symmetry), limits, random)
    brightness = random.uniform(-limits.brightness, limits.brightness) * 255
    contrast = 1 + random.uniform(-limits.contrast, limits.contrast)
    colour = 1 + random.uniform(-limits.colour, limits.colour, 3)
    changed = ((moved - GREY_LEVEL) * contrast + GREY_LEVEL + brightness) * colour
    # Black stays black: around a padded picture, and where the body ends.
    changed *= moved > 0
    return np.asarray(np.clip(np.rint(changed), 0, 255), np.uint8)


def _move(
    picture: NDArray[np.uint8], limits: Augmentation, random: np.random.Generator
) -> NDArray[np.float64]:
    """Turn, zoom and shift, all at once, so that the picture is resampled once."""
    size = picture.shape[0]
    angle = np.deg2rad(random.uniform(-limits.turn, limits.turn))
    scale = 1 + random.uniform(-limits.zoom, limits.zoom)
    shift = random.uniform(-limits.shift, limits.shift, 2) * size
    # From a place in the view to one in the picture, as Pillow asks for it.
    cosine, sine = np.cos(angle) / scale, np.sin(angle) / scale
    middle = size / 2
    x, y = middle + shift[0], middle + shift[1]
    place = (
        cosine, sine, middle - cosine * x - sine * y,
        -sine, cosine, middle + sine * x - cosine * y,
    )  # fmt: skip
    image = Image.fromarray(np.ascontiguousarray(picture))
    moved = image.transform(image.size, Image.Transform.AFFINE, place, Image.Resampling.BILINEAR)
    return np.asarray(moved, np.float64)
