"""One compiled forward pass of a Keras model: a picture's output depends on that picture alone."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from medlens.data.work_list import PART_ROWS
from medlens.model.gpu import gpus, keep_float32

if TYPE_CHECKING:
    import keras

CPU_BATCH = 32
PARALLEL_PICTURES = 4
# On a GPU: as many pixels in a batch as 64 pictures of 224 px have; VGG16 then needs some 3 GiB.
GPU_BATCH_PIXELS = 64 * 224**2
LARGEST_GPU_BATCH = 512

Maps = tuple[list[NDArray[np.float32]], NDArray[np.float32]]
ReadMaps = Callable[[NDArray[np.uint8]], Maps]


@dataclass(frozen=True)
class Forward:
    """A loaded network.

    Args:
        batch: How many pictures it takes at a time.
        run: Pictures, uint8 of shape (up to batch, size, size, 3) -> float32 of shape (as many,
            columns): features, or what the model gives.
        maps: A few pictures -> the maps of all depths, each of shape (as many, height, width,
            channels), and the features; None where the engine gives only the features.
    """

    batch: int
    run: Callable[[NDArray[np.uint8]], NDArray[np.float32]]
    maps: ReadMaps | None = None


def compile_forward(model: keras.Model, *, views: int = 1) -> Forward:
    """The forward pass of a Keras model from pixels, compiled once for one shape.

    On a CPU with TensorFlow the pictures of a batch run one by one, some side by side, inside one
    compiled graph: as fast as a batch, and a picture's output does not depend on its place in it.
    (In a batched matrix product it does, in the last digit: the last rows go another way.)

    Args:
        model: From pixels to whatever it gives.
        views: How often the model sees each picture inside.
    """
    import keras

    keep_float32()
    if gpus():
        batch = max(GPU_BATCH_PIXELS // (views * model.input_shape[1] ** 2), 1)
        return _in_full_batches(model, divide_part(min(batch, LARGEST_GPU_BATCH)))
    if keras.backend.backend() == "tensorflow":
        return _picture_by_picture(model)
    return _in_full_batches(model, CPU_BATCH)


def divide_part(largest: int) -> int:
    """The size of batches that leave little of a part's last one empty, however few there are.

    Args:
        largest: That a batch may have.
    """
    return math.ceil(PART_ROWS / math.ceil(PART_ROWS / largest))


def _in_full_batches(model: keras.Model, batch: int) -> Forward:
    """Batches are filled up with zeros: another shape would be compiled anew."""

    def run(pictures: NDArray[np.uint8]) -> NDArray[np.float32]:
        full = np.zeros((batch, *pictures.shape[1:]), np.uint8)
        full[: len(pictures)] = pictures
        return np.asarray(model.predict_on_batch(full), np.float32)[: len(pictures)]

    return Forward(batch, run)


def _picture_by_picture(model: keras.Model) -> Forward:
    import tensorflow

    def one(picture: Any) -> Any:
        return model(tensorflow.cast(picture[None], "float32"), training=False)[0]

    def all_of_them(pictures: Any) -> Any:
        return tensorflow.map_fn(
            one, pictures, parallel_iterations=PARALLEL_PICTURES, fn_output_signature="float32"
        )

    # One signature for any number of pictures, so that the last batch is not traced anew.
    pictures = tensorflow.TensorSpec((None, *model.input_shape[1:]), "uint8")
    compiled = tensorflow.function(all_of_them, input_signature=[pictures])

    def run(pictures: NDArray[np.uint8]) -> NDArray[np.float32]:
        with without_fusion():
            return np.asarray(compiled(tensorflow.constant(pictures)))

    return Forward(CPU_BATCH, run)


@contextmanager
def without_fusion() -> Iterator[None]:
    """Have TensorFlow join no operations of the graphs that are called in the block.

    What it joins them to (in oneDNN, on CPUs) is now and then wrong where pictures run side by
    side: one in thousands then has features that are not the network's. Seen with TensorFlow 2.21
    and ConvNeXt (docs/benchmarks.md). Without joining nothing is slower.
    """
    import tensorflow

    optimizer = tensorflow.config.optimizer
    before = optimizer.get_experimental_options().get("remapping", True)
    optimizer.set_experimental_options({"remapping": False})
    try:
        yield
    finally:
        optimizer.set_experimental_options({"remapping": before})


def in_bfloat16(model: keras.Model) -> keras.Model:
    """The same network with its convolutions in bfloat16; input and pooling stay in float32."""
    import keras

    layers = keras.layers
    kinds: tuple[type, ...] = (layers.Conv2D, layers.DepthwiseConv2D, layers.BatchNormalization)
    kinds += (layers.Activation, layers.ReLU, layers.MaxPooling2D, layers.AveragePooling2D)

    def recast(layer: Any) -> Any:
        config = layer.get_config()
        # Only what has weights or a large map: neither plain operations nor what pools.
        if isinstance(layer, kinds):
            config["dtype"] = "mixed_bfloat16"
        return type(layer).from_config(config)

    recast_model = keras.models.clone_model(model, clone_function=recast)
    recast_model.set_weights(model.get_weights())
    recast_model.trainable = False
    return recast_model
