"""The table of backbones, and a backbone as one flat graph from raw pixels to features."""

from __future__ import annotations

import hashlib
import os
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from medlens.errors import MedlensError

if TYPE_CHECKING:
    import keras

# Spread is sqrt(variance + this): a plain standard deviation has no gradient on a dead channel.
SPREAD_FLOOR = 1e-6


@dataclass(frozen=True)
class Preprocessing:
    """What a backbone's pixels must look like: `pixels * scale + offset`, in the order of channels.

    Args:
        channels: "RGB" or "BGR": the order after preprocessing.
        scale: Factor for raw pixels of 0 to 255.
        offset: Added to each channel afterwards, in that order.
    """

    channels: str
    scale: float
    offset: tuple[float, float, float]


@dataclass(frozen=True)
class Backbone:
    """One row of the table: all that a backbone demands.

    Args:
        name: The name used in options and files.
        builder: The function of that name in keras.applications.
        preprocessing: Equal to Keras's own preprocess_input (a test compares them).
        depths: The layers whose outputs are pooled, from shallow to deep.
        channels: The number of channels of each depth.
        weights_name: File name of Keras's ImageNet weights without top.
        weights_url: Where Keras downloads them.
        weights_md5: Their MD5, or "" where Keras publishes none.
        licence: Licence of the weights, as far as stated.
        cpu_engine: What runs it on a processor: "ncnn" where it measures at least 1.3 times Keras.
    """

    name: str
    builder: str
    preprocessing: Preprocessing
    depths: tuple[str, ...]
    channels: tuple[int, ...]
    weights_name: str
    weights_url: str
    weights_md5: str
    licence: str
    cpu_engine: str = "keras"

    @property
    def columns(self) -> tuple[str, ...]:
        """Names of the feature columns: means then spreads, depth by depth."""
        return tuple(
            f"{depth}/{statistic}/{channel}"
            for depth, count in zip(self.depths, self.channels, strict=True)
            for statistic in ("mean", "spread")
            for channel in range(count)
        )


_KERAS_FILES = "https://storage.googleapis.com/tensorflow/keras-applications"

BACKBONES: Mapping[str, Backbone] = {
    backbone.name: backbone
    for backbone in (
        Backbone(
            name="vgg16",
            builder="VGG16",
            preprocessing=Preprocessing("BGR", 1.0, (-103.939, -116.779, -123.68)),
            depths=("block1_conv2", "block2_conv2", "block3_conv3", "block4_conv3", "block5_conv3"),
            channels=(64, 128, 256, 512, 512),
            weights_name="vgg16_weights_tf_dim_ordering_tf_kernels_notop.h5",
            weights_url=f"{_KERAS_FILES}/vgg16/vgg16_weights_tf_dim_ordering_tf_kernels_notop.h5",
            weights_md5="6d6bbae143d832006294945121d1f1fc",
            licence="CC BY 4.0 (Visual Geometry Group, Oxford)",
            cpu_engine="ncnn",
        ),
        Backbone(
            name="mobilenet_v2",
            builder="MobileNetV2",
            preprocessing=Preprocessing("RGB", 1 / 127.5, (-1.0, -1.0, -1.0)),
            depths=(
                "block_1_expand_relu",
                "block_3_expand_relu",
                "block_6_expand_relu",
                "block_10_expand_relu",
                "block_13_expand_relu",
                "block_16_expand_relu",
                "out_relu",
            ),
            channels=(96, 144, 192, 384, 576, 960, 1280),
            weights_name="mobilenet_v2_weights_tf_dim_ordering_tf_kernels_1.0_224_no_top.h5",
            weights_url=f"{_KERAS_FILES}/mobilenet_v2/"
            "mobilenet_v2_weights_tf_dim_ordering_tf_kernels_1.0_224_no_top.h5",
            weights_md5="",
            licence="Apache-2.0 (Google)",
        ),
    )
}


@dataclass(frozen=True)
class Weights:
    """Where a backbone's weights come from.

    Args:
        kind: "imagenet", "file" or "random".
        path: The weights file; None for random filters.
        seed: Seed of random filters.
        sha256: Hash of the file, or a name for the random filters.
    """

    kind: str
    path: Path | None
    seed: int
    sha256: str


def find_weights(backbone: Backbone, weights: str, *, seed: int) -> Weights:
    """Find the weights: Keras's ImageNet file (downloaded once), a file, or random filters.

    Args:
        backbone: The backbone they are for.
        weights: "imagenet", "random", or the path of a weights file.
        seed: Seed of random filters.

    Raises:
        MedlensError: If the file is not there, damaged, or cannot be downloaded; says where to
            get it and where to put it.
    """
    if weights == "random":
        return Weights("random", None, seed, f"random filters, seed {seed}")
    path = _imagenet_file(backbone) if weights == "imagenet" else Path(weights)
    if not path.is_file():
        raise MedlensError(
            "The weights file is not there.",
            got="nothing at that path",
            expected=f"Keras weights of {backbone.name} without top (.weights.h5 or .h5)",
            fix="Check the path given with --weights.",
            names=[str(path)],
        )
    with path.open("rb") as stream:
        digest = hashlib.file_digest(stream, "sha256").hexdigest()
    return Weights("imagenet" if weights == "imagenet" else "file", path, seed, digest)


def keras_models_folder() -> Path:
    """Where Keras keeps downloaded weights."""
    return Path(os.environ.get("KERAS_HOME", Path.home() / ".keras")) / "models"


def _imagenet_file(backbone: Backbone) -> Path:
    """Keras's file in Keras's own cache, downloaded by Keras where it is missing or damaged."""
    folder = keras_models_folder()
    path = folder / backbone.weights_name
    if path.is_file() and _has_md5(path, backbone.weights_md5):
        return path
    from keras.utils import get_file

    try:
        return Path(
            get_file(
                backbone.weights_name,
                backbone.weights_url,
                cache_subdir="models",
                file_hash=backbone.weights_md5 or None,
            )
        )
    except Exception as error:  # Keras raises a plain Exception when a download fails
        md5 = backbone.weights_md5 or "not published"
        raise MedlensError(
            f"The ImageNet weights of {backbone.name} cannot be downloaded.",
            got=f"{type(error).__name__} ({str(error).rsplit('--', 1)[-1].strip()})",
            expected=f"the file {backbone.weights_name} (MD5 {md5})",
            fix=f"On a machine with internet get {backbone.weights_url} and put it, under that "
            "name, into .keras/models in your home folder, or give its path with --weights. "
            "Without it, --weights random runs with untrained filters.",
            names=[str(folder)],
        ) from None


def _has_md5(path: Path, md5: str) -> bool:
    with path.open("rb") as stream:
        return not md5 or hashlib.file_digest(stream, "md5").hexdigest() == md5


def build_backbone(backbone: Backbone, weights: Weights, *, size: int) -> keras.Model:
    """The frozen backbone as one flat graph from raw pixels to pooled features.

    Args:
        backbone: The row of the table.
        weights: What to load into it.
        size: Side of the square input, in pixels.

    Returns:
        A model from RGB pixels of shape (batch, size, size, 3), 0 to 255, to features of shape
        (batch, number of columns), in the order of `backbone.columns`. Nothing in it trains.

    Raises:
        MedlensError: If the weights do not fit the backbone.
    """
    import keras

    pixels = keras.Input((size, size, 3), name="pixels")
    builder = getattr(keras.applications, backbone.builder)
    network = builder(
        include_top=False, weights=None, input_tensor=preprocess(pixels, backbone.preprocessing)
    )
    if weights.path is None:
        _draw_filters(network, weights.seed)
    else:
        _load_weights(network, backbone, weights.path)
    pooled = [
        statistic
        for depth in backbone.depths
        for statistic in pool(network.get_layer(depth).output, depth)
    ]
    features = keras.layers.Concatenate(name="features")(pooled)
    model = keras.Model(pixels, features, name=backbone.name)
    model.trainable = False
    return model


def preprocess(pixels: Any, preprocessing: Preprocessing) -> Any:
    """Preprocessing as plain layers, which save, load and export: no preprocess_input in the graph.

    Args:
        pixels: Keras tensor of shape (batch, height, width, 3), RGB, 0 to 255.
        preprocessing: The backbone's rule.
    """
    import keras

    if preprocessing.channels == "BGR":
        channels = [pixels[..., 2:3], pixels[..., 1:2], pixels[..., 0:1]]
        pixels = keras.layers.Concatenate(name="channels_bgr")(channels)
    scaling = keras.layers.Rescaling(
        preprocessing.scale, list(preprocessing.offset), name="preprocessing"
    )
    return scaling(pixels)


def pool(activation: Any, depth: str) -> tuple[Any, Any]:
    """Mean and spread of each channel over a picture, as two Keras tensors of (batch, channels).

    Spread is sqrt(variance + 1e-6). The variance is that around the mean, not the difference of
    two squares, which would lose its digits in float32.
    """
    import keras

    activation = keras.ops.cast(activation, "float32")
    mean = _average(activation)
    difference = keras.layers.Subtract(name=f"{depth}_difference")([activation, mean])
    squared = keras.layers.Multiply(name=f"{depth}_squared")([difference, difference])
    spread = keras.ops.sqrt(_average(squared) + SPREAD_FLOOR)
    flatten = keras.layers.Flatten
    return flatten(name=f"{depth}_mean")(mean), flatten(name=f"{depth}_spread")(spread)


def _average(activation: Any) -> Any:
    """Mean over height, then over width; (batch, 1, 1, channels).

    In two steps, because one sum of 224 x 224 float32 values is wrong in the fifth digit.
    """
    import keras

    return keras.ops.mean(keras.ops.mean(activation, axis=1, keepdims=True), axis=2, keepdims=True)


def _draw_filters(network: keras.Model, seed: int) -> None:
    """Random filters that keep the scale of the signal (He et al. 2015, arXiv:1502.01852)."""
    import numpy as np

    generator = np.random.default_rng(seed)
    for layer in network.layers:
        values = layer.get_weights()
        # BatchNormalization has vectors only; kernels have four axes: (height, width, in, out).
        if values and values[0].ndim == 4:
            is_depthwise = "Depthwise" in type(layer).__name__
            height, width, inputs, _ = values[0].shape
            fan_in = height * width * (1 if is_depthwise else inputs)
            kernel = generator.normal(0, np.sqrt(2 / fan_in), values[0].shape)
            layer.set_weights([kernel.astype(np.float32), *values[1:]])


def _load_weights(network: keras.Model, backbone: Backbone, path: Path) -> None:
    before = _kernel_sums(network)
    try:
        network.load_weights(path)
        unchanged = sum(a == b for a, b in zip(before, _kernel_sums(network), strict=True))
        got = f"a file without weights for {unchanged} layers" if unchanged else ""
    except (ValueError, OSError, KeyError, TypeError, zipfile.BadZipFile) as error:
        got = f"{type(error).__name__} while loading"
    if got:
        raise MedlensError(
            f"The weights file does not fit {backbone.name}.",
            got=got,
            expected=f"Keras weights of {backbone.builder} with include_top=False",
            fix="Check that file and --backbone belong together and the file is whole.",
            names=[str(path)],
        )


def _kernel_sums(network: keras.Model) -> list[float]:
    """A number per layer with a kernel that changes with its weights.

    Keras only warns where a file has nothing for a layer, and leaves it random.
    """
    values = [layer.get_weights() for layer in network.layers]
    return [float(arrays[0].sum()) for arrays in values if arrays and arrays[0].ndim == 4]
