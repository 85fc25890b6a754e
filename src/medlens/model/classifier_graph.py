"""Backbone and head -> the classifier's network, and what of the features its head reads."""

from __future__ import annotations

from functools import partial

import keras
import numpy as np
from numpy.typing import NDArray

from medlens.model.backbone import Backbone, build_backbone
from medlens.model.engine import FrozenPass
from medlens.model.forward import Forward, Maps, ReadMaps
from medlens.model.head import Head
from medlens.model.symmetric_graph import by_view, symmetric_views


def feature_columns(backbone: Backbone, features: str) -> slice | NDArray[np.int64]:
    """Which columns of the cached features a head sees: all, or the means of the last depth."""
    if features == "all":
        return slice(None)
    names = backbone.columns
    last = f"{backbone.depths[-1]}/mean/"
    wanted = [number for number, name in enumerate(names) if name.startswith(last)]
    return np.array(wanted)


def features_layer(backbone: Backbone, features: str) -> str:
    """The layer whose output the head sees."""
    return "features" if features == "all" else f"{backbone.depths[-1]}_mean"


def read_maps_of_head(forward: Forward, backbone: Backbone, features: str) -> ReadMaps | None:
    """Pictures -> the maps of the depths that the head reads, and its features; None if it can't.

    Args:
        forward: The loaded network.
        backbone: Which one it is.
        features: "all" or "last".
    """
    read_all = forward.maps
    if read_all is None:
        return None
    columns = feature_columns(backbone, features)

    def read(pictures: NDArray[np.uint8]) -> Maps:
        maps, found = read_all(pictures)
        return (maps if features == "all" else maps[-1:]), found[:, columns]

    return read


def build_classifier(
    frozen_pass: FrozenPass, head: Head, *, features: str, temperature: float, views: int = 1
) -> keras.Model:
    """Backbone and head as one flat graph from raw pixels to probabilities.

    Args:
        frozen_pass: The backbone, its weights and the picture size.
        head: The trained head, standardisation folded in.
        features: "all" or "last".
        temperature: Divides the logits before the softmax.
        views: Symmetries of a picture whose logits are averaged; 1 for the picture alone.
    """
    backbone = frozen_pass.model if views == 1 else _with_views(frozen_pass, views)
    values = backbone.get_layer(features_layer(frozen_pass.backbone, features)).output
    layers = []
    for number in range(len(head.layers)):
        is_last = number == len(head.layers) - 1
        units = head.layers[number][0].shape[1]
        name = "logits" if is_last else f"hidden_{number + 1}"
        layer = keras.layers.Dense(units, None if is_last else "relu", name=name)
        values = layer(values)
        layers.append(layer)
    if views > 1:
        values = keras.ops.mean(by_view(values, views), axis=0)
    values = keras.layers.Rescaling(1 / temperature, name="temperature")(values)
    probabilities = keras.layers.Softmax(name="probabilities")(values)
    model = keras.Model(backbone.input, probabilities, name="classifier")
    for layer, (kernel, bias) in zip(layers, head.layers, strict=True):
        layer.set_weights([kernel, bias])
    return model


def _with_views(frozen_pass: FrozenPass, views: int) -> keras.Model:
    """The backbone, with the same weights, on each picture in so many symmetries."""
    model = build_backbone(
        frozen_pass.backbone,
        frozen_pass.weights,
        size=frozen_pass.rule.size,
        views=partial(symmetric_views, count=views),
    )
    model.set_weights(frozen_pass.model.get_weights())
    return model
