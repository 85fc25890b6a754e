"""The table of backbones, and a backbone as one flat graph from raw pixels to features."""

from __future__ import annotations

import warnings
import zipfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from medlens.errors import MedlensError
from medlens.model.convnext import flatten_convnext
from medlens.model.keras_file import copy_graph, maps_of_file

if TYPE_CHECKING:
    import keras

    from medlens.model.weights import Weights

# Spread is sqrt(variance + this): a plain standard deviation has no gradient on a dead channel.
SPREAD_FLOOR = 1e-6


@dataclass(frozen=True)
class Preprocessing:
    """What a backbone's pixels must look like: `pixels * scale + offset`, in the order of channels.

    Args:
        channels: "RGB" or "BGR": the order after preprocessing.
        scale: Factor for raw pixels of 0 to 255: one for all, or one for each channel.
        offset: Added to each channel afterwards, in that order.
    """

    channels: str
    scale: float | tuple[float, float, float]
    offset: tuple[float, float, float]


@dataclass(frozen=True)
class Backbone:
    """One row of the table: all that a backbone demands.

    Args:
        name: The name used in options and files.
        builder: The function of that name in keras.applications.
        preprocessing: Equal to Keras's own, be it in preprocess_input or in the network (a test
            compares them).
        depths: The layers whose outputs are pooled, from shallow to deep.
        channels: The number of channels of each depth.
        smallest: Side in pixels at which the deepest map has 2 x 2 cells. A smaller picture may
            leave it a single cell, whose spread says nothing.
        weights_folder: Where Keras downloads the ImageNet weights without top.
        weights_name: Their file name.
        weights_hash: Their MD5 or SHA-256, or "" where Keras publishes none.
        licence: Licence of the weights, and whose they are.
        cpu_engine: What runs it on a processor: "ncnn" where it measures over 1.3 times Keras.
        file: A .keras file with the network and its weights; None for keras.applications.
        side: The only side in pixels that the network takes; None for any.
        prepares_itself: Whether Keras's network has its preprocessing inside. Then it is built
            without, as the constants of a Normalization layer do not export.
    """

    name: str
    builder: str
    preprocessing: Preprocessing
    depths: tuple[str, ...]
    channels: tuple[int, ...]
    smallest: int
    weights_folder: str
    weights_name: str
    weights_hash: str
    licence: str
    cpu_engine: str = "keras"
    prepares_itself: bool = False
    file: Path | None = None
    side: int | None = None

    @property
    def weights_url(self) -> str:
        """Where Keras downloads the ImageNet weights."""
        return f"{self.weights_folder}/{self.weights_name}"

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
VGG = Preprocessing("BGR", 1.0, (-103.939, -116.779, -123.68))
MINUS_ONE_TO_ONE = Preprocessing("RGB", 1 / 127.5, (-1.0, -1.0, -1.0))
# Less the mean of ImageNet, by its standard deviation.
STANDARDISED = Preprocessing(
    "RGB",
    (1 / (255 * 0.229), 1 / (255 * 0.224), 1 / (255 * 0.225)),
    (-0.485 / 0.229, -0.456 / 0.224, -0.406 / 0.225),
)

BACKBONES: Mapping[str, Backbone] = {
    backbone.name: backbone
    for backbone in (
        Backbone(
            name="vgg16",
            builder="VGG16",
            preprocessing=VGG,
            depths=("block1_conv2", "block2_conv2", "block3_conv3", "block4_conv3", "block5_conv3"),
            channels=(64, 128, 256, 512, 512),
            smallest=32,
            weights_folder=f"{_KERAS_FILES}/vgg16",
            weights_name="vgg16_weights_tf_dim_ordering_tf_kernels_notop.h5",
            weights_hash="6d6bbae143d832006294945121d1f1fc",
            licence="CC BY 4.0 (Visual Geometry Group, Oxford)",
            cpu_engine="ncnn",
        ),
        Backbone(
            name="vgg19",
            builder="VGG19",
            preprocessing=VGG,
            depths=("block1_conv2", "block2_conv2", "block3_conv4", "block4_conv4", "block5_conv4"),
            channels=(64, 128, 256, 512, 512),
            smallest=32,
            weights_folder=f"{_KERAS_FILES}/vgg19",
            weights_name="vgg19_weights_tf_dim_ordering_tf_kernels_notop.h5",
            weights_hash="253f8cb515780f3b799900260a226db6",
            licence="CC BY 4.0 (Visual Geometry Group, Oxford)",
            cpu_engine="ncnn",
        ),
        Backbone(
            name="resnet50",
            builder="ResNet50",
            preprocessing=VGG,
            depths=(
                "conv1_relu",
                "conv2_block3_out",
                "conv3_block4_out",
                "conv4_block6_out",
                "conv5_block3_out",
            ),
            channels=(64, 256, 512, 1024, 2048),
            smallest=64,
            weights_folder=f"{_KERAS_FILES}/resnet",
            weights_name="resnet50_weights_tf_dim_ordering_tf_kernels_notop.h5",
            weights_hash="4d473c1dd8becc155b73f8504c6f6626",
            licence="MIT (Kaiming He, github.com/KaimingHe/deep-residual-networks)",
        ),
        Backbone(
            name="densenet121",
            builder="DenseNet121",
            preprocessing=STANDARDISED,
            # A dense block joins maps of many layers; behind it they are normalised together.
            depths=("conv1_relu", "pool2_relu", "pool3_relu", "pool4_relu", "relu"),
            channels=(64, 256, 512, 1024, 1024),
            smallest=64,
            weights_folder=f"{_KERAS_FILES}/densenet",
            weights_name="densenet121_weights_tf_dim_ordering_tf_kernels_notop.h5",
            weights_hash="30ee3e1110167f948a6b9946edeeb738",
            licence="BSD 3-Clause (Zhuang Liu, github.com/liuzhuang13/DenseNet)",
        ),
        Backbone(
            name="mobilenet_v2",
            builder="MobileNetV2",
            preprocessing=MINUS_ONE_TO_ONE,
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
            smallest=64,
            weights_folder=f"{_KERAS_FILES}/mobilenet_v2",
            weights_name="mobilenet_v2_weights_tf_dim_ordering_tf_kernels_1.0_224_no_top.h5",
            weights_hash="",
            licence="Apache-2.0 (Google)",
        ),
        Backbone(
            name="efficientnet_v2b0",
            builder="EfficientNetV2B0",
            preprocessing=STANDARDISED,
            depths=(
                "block1a_project_activation",
                "block2b_add",
                "block3b_add",
                "block4c_add",
                "block5e_add",
                "block6h_add",
                "top_activation",
            ),
            channels=(16, 32, 48, 96, 112, 192, 1280),
            smallest=64,
            weights_folder=f"{_KERAS_FILES}/efficientnet_v2",
            weights_name="efficientnetv2-b0_notop.h5",
            weights_hash="893217f2bb855e2983157299931e43ff",
            licence="Apache-2.0 (Google, github.com/google/automl)",
            prepares_itself=True,
        ),
        Backbone(
            name="convnext_tiny",
            builder="ConvNeXtTiny",
            preprocessing=STANDARDISED,
            depths=(
                "convnext_tiny_stem_layernorm",
                "convnext_tiny_stage_0_block_2_add",
                "convnext_tiny_stage_1_block_2_add",
                "convnext_tiny_stage_2_block_8_add",
                "convnext_tiny_layernorm",
            ),
            channels=(96, 96, 192, 384, 768),
            smallest=64,
            weights_folder=f"{_KERAS_FILES}/convnext",
            weights_name="convnext_tiny_notop.h5",
            weights_hash="d547c096cabd03329d7be5562c5e14798aa39ed24b474157cef5e85ab9e49ef1",
            licence="MIT (Meta, github.com/facebookresearch/ConvNeXt)",
            prepares_itself=True,
        ),
    )
}


def build_backbone(
    backbone: Backbone,
    weights: Weights,
    *,
    size: int,
    views: Callable[[Any], Any] | None = None,
) -> keras.Model:
    """The frozen backbone as one flat graph from raw pixels to pooled features.

    Args:
        backbone: The row of the table.
        weights: What to load into it.
        size: Side of the square input, in pixels.
        views: Makes of the Keras tensor of pixels the pictures that the network sees; None for
            those alone.

    Returns:
        A model from RGB pixels of shape (batch, size, size, 3), 0 to 255, to features of shape
        (pictures seen, number of columns), in the order of `backbone.columns`. Nothing in it
        trains.

    Raises:
        MedlensError: If the weights do not fit the backbone.
    """
    import keras

    pixels = keras.Input((size, size, 3), name="pixels")
    prepared = preprocess(views(pixels) if views else pixels, backbone.preprocessing)
    if backbone.file is None:
        maps = _maps_of_table(backbone, weights, prepared)
    else:
        maps = maps_of_file(backbone.file, backbone.depths, prepared)
    pooled = [
        statistic
        for depth, values in zip(backbone.depths, maps, strict=True)
        for statistic in pool(values, depth)
    ]
    features = keras.layers.Concatenate(name="features")(pooled)
    model = keras.Model(pixels, features, name="backbone" if backbone.file else backbone.name)
    if backbone.file is not None:
        model = copy_graph(model)
    model.trainable = False
    return model


def _maps_of_table(backbone: Backbone, weights: Weights, prepared: Any) -> list[Any]:
    """The output of each depth of a network of keras.applications with its weights."""
    import keras

    builder = getattr(keras.applications, backbone.builder)
    without = {"include_preprocessing": False} if backbone.prepares_itself else {}
    network = builder(include_top=False, weights=None, input_tensor=prepared, **without)
    if weights.path is not None:
        _load_weights(network, backbone, weights.path)
    if backbone.builder == "ConvNeXtTiny":
        network = flatten_convnext(network, prepared)
    if weights.path is None:
        _draw_filters(network, weights.seed)
    return [network.get_layer(depth).output for depth in backbone.depths]


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
    scale = preprocessing.scale
    scaling = keras.layers.Rescaling(
        list(scale) if isinstance(scale, tuple) else scale,
        list(preprocessing.offset),
        name="preprocessing",
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
        # Normalisation has vectors only; kernels have four axes: (height, width, in, out).
        if values and values[0].ndim == 4:
            is_depthwise = "Depthwise" in type(layer).__name__
            height, width, inputs, _ = values[0].shape
            fan_in = height * width * (1 if is_depthwise else inputs)
            kernel = generator.normal(0, np.sqrt(2 / fan_in), values[0].shape)
            layer.set_weights([kernel.astype(np.float32), *values[1:]])


def _load_weights(network: keras.Model, backbone: Backbone, path: Path) -> None:
    before = _kernel_sums(network)
    try:
        # Keras warns of every layer that is not in the file, and then raises or leaves it random.
        with warnings.catch_warnings(record=True):
            warnings.simplefilter("always")
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
    kernels = [[one for one in layer.get_weights() if one.ndim > 1] for layer in network.layers]
    return [sum(float(one.sum()) for one in found) for found in kernels if found]
