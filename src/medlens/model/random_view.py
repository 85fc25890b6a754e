"""Augmentation inside the training graph: a layer that draws a new view of each picture."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np

from medlens.data.augmentation import Augmentation
from medlens.data.views import GREY_LEVEL


class RandomView(keras.layers.Layer):  # type: ignore[misc]
    """A random view of each picture while training, as `data.views.draw_view` draws them.

    Symmetry, turn, zoom and shift are one map from places in the view to places in the picture, so
    that it is resampled once. Resampling blurs, and the spread of a channel tells blurred from
    sharp: so half of the views are moved by whole pixels only, which blurs nothing. The layer
    stands in training graphs only, never in what is saved.

    Args:
        limits: How far a view may lie from its picture.
        seed: Of the draws.
    """

    def __init__(self, limits: Augmentation, seed: int) -> None:
        super().__init__(name="random_view")
        self.limits = limits
        self.draws = keras.random.SeedGenerator(seed)

    def call(self, pictures: Any, training: bool = False) -> Any:
        """Pictures (batch, size, size, 3), 0 to 255, as they are or, in training, changed."""
        return self._draw(pictures) if training else pictures

    def compute_output_shape(self, input_shape: Any) -> Any:
        """The shape of its input."""
        return input_shape

    def _draw(self, pictures: Any) -> Any:
        limits, ops = self.limits, keras.ops
        count = ops.shape(pictures)[0]
        moved = ops.image.affine_transform(
            pictures, self._places(count, pictures.shape[1]), "bilinear", "constant", 0
        )
        brightness = 255 * self._even((count, 1, 1, 1), limits.brightness)
        contrast = 1 + self._even((count, 1, 1, 1), limits.contrast)
        colour = 1 + self._even((count, 1, 1, 3), limits.colour)
        changed = ((moved - GREY_LEVEL) * contrast + GREY_LEVEL + brightness) * colour
        # Black stays black: around a padded picture, and where the body ends.
        return ops.where(moved > 0, ops.clip(changed, 0, 255), 0.0)

    def _places(self, count: Any, size: int) -> Any:
        """Of each view the map that `affine_transform` asks for, of shape (count, 8)."""
        limits, ops = self.limits, keras.ops
        mirrored = self._sign(count, limits.symmetries >= 2)
        upended = self._sign(count, limits.symmetries == 8)
        is_turned = self._sign(count, limits.symmetries == 8) < 0
        is_sharp = self._sign(count, True) < 0
        angle = ops.where(is_sharp, 0.0, self._even((count,), np.deg2rad(limits.turn)))
        scale = ops.where(is_sharp, 1.0, 1 + self._even((count,), limits.zoom))
        cosine, sine = ops.cos(angle) / scale, ops.sin(angle) / scale
        shift = size * self._even((2, count), limits.shift)
        shift = ops.where(is_sharp, ops.round(shift), shift)
        along = mirrored * cosine, mirrored * sine
        across = -upended * sine, upended * cosine
        # A quarter turn and a mirror image: the two axes change places.
        x, y = (
            [ops.where(is_turned, one, other) for one, other in zip(*pair, strict=True)]
            for pair in ((across, along), (along, across))
        )
        middle = (size - 1) / 2
        right, down = middle + shift[0], middle + shift[1]
        zeros = ops.zeros_like(cosine)
        rows = [
            *(x[0], x[1], middle - x[0] * right - x[1] * down),
            *(y[0], y[1], middle - y[0] * right - y[1] * down),
            *(zeros, zeros),
        ]
        return ops.stack(rows, axis=1)

    def _even(self, shape: Any, limit: float) -> Any:
        """Drawn evenly between minus the limit and the limit."""
        return (
            keras.random.uniform(shape, -limit, limit, seed=self.draws)
            if limit
            else 0.0 * (keras.ops.ones(shape))
        )

    def _sign(self, count: Any, may_change: bool) -> Any:
        """1 or, as often where that is allowed, -1."""
        if not may_change:
            return keras.ops.ones((count,))
        return keras.ops.where(keras.random.uniform((count,), seed=self.draws) < 0.5, -1.0, 1.0)
