"""Test-time averaging inside a network: a batch in several symmetries, along its first axis."""

from __future__ import annotations

from typing import Any

import keras

# The layer of a saved network that holds a batch once in each symmetry, one after the other.
SYMMETRIC_LAYER = "symmetric_views"


def symmetric_views(pixels: Any, count: int) -> Any:
    """A Keras tensor of pictures, once in each symmetry along the batch, as `mirror` makes them.

    Slicing, transposing and joining alone, which save, load and export.

    Args:
        pixels: Of shape (batch, size, size, 3).
        count: 2 or 8.

    Returns:
        Of shape (count * batch, size, size, 3): all pictures as they are, all in the next ...
    """
    views = []
    for number in range(count):
        view = pixels[:, :, ::-1, :] if number % 2 else pixels
        turns = number // 2
        if turns % 2:
            view = keras.ops.transpose(view, (0, 2, 1, 3))
        if turns in (1, 2):
            view = view[:, ::-1, :, :]
        if turns in (2, 3):
            view = view[:, :, ::-1, :]
        views.append(view)
    return keras.layers.Concatenate(axis=0, name=SYMMETRIC_LAYER)(views)


def by_view(values: Any, count: int) -> Any:
    """A Keras tensor of shape (count * batch, columns) as (count, batch, columns)."""
    return keras.ops.reshape(values, (count, -1, values.shape[-1]))


def views_of(model: keras.Model) -> int:
    """How many views of a picture the network averages over; 1 for the picture alone."""
    if all(layer.name != SYMMETRIC_LAYER for layer in model.layers):
        return 1
    return len(model.get_layer(SYMMETRIC_LAYER).input)


def picture_input(model: keras.Model) -> Any:
    """Where pictures enter the part of a network that sees each view by itself.

    A model from here sees pictures as they are and averages nothing.
    """
    return model.input if views_of(model) == 1 else model.get_layer(SYMMETRIC_LAYER).output
