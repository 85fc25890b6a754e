"""A classifier's graph, opened up: the maps of its depths, and what its head reads of them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import keras
import numpy as np
from numpy.typing import NDArray

from medlens.model.forward import Maps
from medlens.model.symmetric_graph import picture_input


@dataclass(frozen=True)
class Depth:
    """A depth that the head reads, and which of its columns are which.

    Args:
        name: Of the layer.
        means: Columns of its channels' means.
        spreads: Columns of their spreads; None where the head does not read them.
    """

    name: str
    means: slice
    spreads: slice | None


@dataclass(frozen=True)
class OpenedGraph:
    """A classifier's graph with what lies on the way from pixels to probabilities.

    Args:
        maps: From pixels to the map of each depth, then the features that the head reads.
        depths: In the order of the maps.
        dense: Names of the head's layers, the last being that of the logits.
        model: The classifier.
    """

    maps: keras.Model
    depths: tuple[Depth, ...]
    dense: tuple[str, ...]
    model: keras.Model

    def read_maps(self, pictures: NDArray[np.uint8]) -> Maps:
        """The maps of the depths, and the features that the head reads.

        Args:
            pictures: RGB, 0 to 255, of shape (n, size, size, 3); n is 1 at least, and small, as
                VGG16's maps of one picture of 224 px take 24 MB.
        """
        # One by one: another number of pictures would be compiled anew.
        found = [
            [keras.ops.convert_to_numpy(part) for part in self.maps.predict_on_batch(one)]
            for one in pictures[:, np.newaxis]
        ]
        *maps, features = (np.concatenate(parts) for parts in zip(*found, strict=True))
        return maps, features


def open_graph(model: keras.Model) -> OpenedGraph:
    """Open the flat graph of a classifier, as `Classifier.model` is.

    Raises:
        ValueError: If the graph is not one of medlens's.
    """
    names = {layer.name for layer in model.layers}
    dense = tuple(layer.name for layer in model.layers if isinstance(layer, keras.layers.Dense))
    if not dense or dense[-1] != "logits":
        raise ValueError("heat maps need a graph that medlens saved, with a layer named logits")
    features = model.get_layer(dense[0]).input
    columns: dict[str, dict[str, slice]] = {}
    start = 0
    for name, width in _pooled(model, names, features):
        depth, _, statistic = name.rpartition("_")
        columns.setdefault(depth, {})[statistic] = slice(start, start + width)
        start += width
    depths = tuple(
        Depth(name, found["mean"], found.get("spread")) for name, found in columns.items()
    )
    outputs = [model.get_layer(depth.name).output for depth in depths]
    # The picture as it is, where the classifier averages over several views of it.
    maps = keras.Model(picture_input(model), [*outputs, features])
    return OpenedGraph(maps, depths, dense, model)


def _pooled(model: keras.Model, names: set[str], features: Any) -> list[tuple[str, int]]:
    """Names and widths of the pooling layers that the head reads, in the order of its columns."""
    tensors = model.get_layer("features").input if "features" in names else [features]
    name_of = {id(layer.output): layer.name for layer in model.layers}
    return [(name_of[id(tensor)], int(tensor.shape[-1])) for tensor in tensors]
