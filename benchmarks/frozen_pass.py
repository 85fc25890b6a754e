"""The frozen pass of VGG16 in ncnn, in Keras and in ONNX Runtime, and the matrix-product ceiling.

    python benchmarks/frozen_pass.py --out frozen_pass.json

All sides run in turn in one process, several rounds, on the same pictures; a ratio is the median
of the rounds' ratios. ncnn's side does more than the others: it pools five depths, the others only
the last. The ceiling is what the machine could do at most with convolutions as matrix products:
its rate of float32 matrix products divided by the operations of the network.
"""

from __future__ import annotations

import argparse
import os
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import keras
import numpy as np
import onnxruntime
from measure import write_result
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from medlens.data.scan import PictureRule
from medlens.model.backbone import BACKBONES
from medlens.model.engine import FrozenPass, relative_difference
from medlens.model.fast_cpu import Network, usable_cores, write_ncnn
from medlens.model.forward import compile_forward
from medlens.model.weights import Weights

MATRIX = 4096
# Backbones that ncnn_graph can translate but that Keras runs by default, and where they are pooled.
OTHERS = {
    "VGG19": ("block1_conv2", "block2_conv2", "block3_conv4", "block4_conv4", "block5_conv4"),
    "ResNet50": ("conv1_relu", "conv2_block3_out", "conv3_block4_out", "conv5_block3_out"),
    "DenseNet121": ("conv1_relu", "pool2_relu", "pool3_relu", "pool4_relu", "relu"),
}

Side = Callable[[], object]


def main() -> None:
    """Time the sides, print and write the ratios."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--images", type=int, default=32)
    parser.add_argument("--size", type=int, default=224)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--others", action="store_true", help="also VGG19, ResNet50, DenseNet121")
    parser.add_argument("--out", type=Path)
    arguments = parser.parse_args()
    shape = (arguments.images, arguments.size, arguments.size, 3)
    pictures = np.random.default_rng(0).integers(0, 256, shape).astype(np.uint8)
    result: dict[str, Any] = {"images": arguments.images, "size": arguments.size}
    with tempfile.TemporaryDirectory() as scratch:
        result |= compare_vgg16(pictures, Path(scratch), arguments.rounds)
        if arguments.others:
            for name, depths in OTHERS.items():
                folder = Path(scratch, name)
                result[name] = compare_other(name, depths, pictures, folder, arguments.rounds)
                print(name, result[name])
    for name, value in result.items():
        print(f"{name}: {value}")
    write_result(arguments.out, result)


def compare_vgg16(pictures: NDArray[np.uint8], scratch: Path, rounds: int) -> dict[str, Any]:
    """Rates of all sides in images/s, and ncnn's ratio to each."""
    backbone = BACKBONES["vgg16"]
    rule = PictureRule(pictures.shape[1], "pad")
    weights = Weights("random", None, 0, "random filters, seed 0")
    frozen_pass = FrozenPass(backbone, weights, rule, "ncnn")
    ncnn = frozen_pass.forward(scratch)
    every_depth = compile_forward(frozen_pass.model)
    last_depth = keras.Model(
        frozen_pass.model.input,
        keras.layers.GlobalAveragePooling2D()(frozen_pass.model.get_layer("block5_conv3").output),
    )
    runtime = open_onnx(frozen_pass.model, backbone.depths[-1], rule.size)
    pixels = pictures.astype(np.float32)
    planes = np.ascontiguousarray(
        (pixels[..., ::-1] + np.array(backbone.preprocessing.offset)).transpose(0, 3, 1, 2),
        np.float32,
    )
    matrix = np.random.default_rng(0).random((MATRIX, MATRIX), np.float32)
    check_equal(runtime, planes[:2], ncnn.run(pictures[:2]), pixels[:2], last_depth)
    features, expected = ncnn.run(pictures[:4]), every_depth.run(pictures[:4])
    sides: dict[str, Side] = {
        "ncnn": lambda: ncnn.run(pictures),
        "keras": lambda: last_depth.predict_on_batch(pixels),
        "keras, all depths": lambda: [
            every_depth.run(pictures[start : start + every_depth.batch])
            for start in range(0, len(pictures), every_depth.batch)
        ],
        "onnxruntime": lambda: runtime.run(None, {"pixels": planes}),
        "matrix product": lambda: matrix @ matrix,
    }
    seconds = take_turns(sides, rounds)
    rates = {name: [len(pictures) / one for one in seconds[name]] for name in sides}
    operations = 2 * count_multiplications(frozen_pass.model)
    rates["matrix product"] = [
        2 * MATRIX**3 / one / operations for one in seconds["matrix product"]
    ]
    median = {name: round(statistics.median(values), 2) for name, values in rates.items()}
    ratios = {
        name: round(
            statistics.median(a / b for a, b in zip(rates["ncnn"], rates[name], strict=True)), 2
        )
        for name in sides
        if name != "ncnn"
    }
    return {
        "gflop_per_image": round(operations / 1e9, 2),
        "relative_difference": relative_difference(features, expected, backbone),
        "images_per_second": median,
        "ncnn_times_faster_than": ratios,
    }


def compare_other(
    name: str, depths: tuple[str, ...], pictures: NDArray[np.uint8], folder: Path, rounds: int
) -> dict[str, float]:
    """ncnn against Keras's compiled pass for a backbone that is not in the table for ncnn."""
    size = pictures.shape[1]
    model = getattr(keras.applications, name)(
        include_top=False, weights=None, input_shape=(size, size, 3)
    )
    network = Network(write_ncnn(model, depths=depths, size=size, folder=folder))
    pixels = pictures.astype(np.float32)
    pooled = keras.Model(model.input, keras.layers.GlobalAveragePooling2D()(model.output))
    sides: dict[str, Side] = {
        "ncnn": lambda: network(pictures),
        "keras": lambda: pooled.predict_on_batch(pixels),
    }
    seconds = take_turns(sides, rounds)
    pairs = zip(seconds["keras"], seconds["ncnn"], strict=True)
    return {
        "ncnn": round(len(pictures) / statistics.median(seconds["ncnn"]), 2),
        "keras": round(len(pictures) / statistics.median(seconds["keras"]), 2),
        "ratio": round(statistics.median(a / b for a, b in pairs), 2),
    }


def take_turns(sides: dict[str, Side], rounds: int) -> dict[str, list[float]]:
    """Run every side once to warm up, then all in turn; seconds of each round."""
    for side in sides.values():
        side()
    seconds: dict[str, list[float]] = {name: [] for name in sides}
    for _ in range(rounds):
        for name, side in sides.items():
            started = time.perf_counter()
            side()
            seconds[name].append(time.perf_counter() - started)
    return seconds


def open_onnx(model: keras.Model, last: str, size: int) -> onnxruntime.InferenceSession:
    """VGG16's convolutions with the same weights in ONNX Runtime, float32, on all cores."""
    nodes, weights, source = [], [], "pixels"
    for layer in model.layers:
        kind = type(layer).__name__
        if kind == "Conv2D":
            kernel, bias = layer.get_weights()
            for name, values in (("kernel", kernel.transpose(3, 2, 0, 1)), ("bias", bias)):
                weights.append(
                    numpy_helper.from_array(np.ascontiguousarray(values), f"{layer.name}/{name}")
                )
            inputs = [source, f"{layer.name}/kernel", f"{layer.name}/bias"]
            linear = f"{layer.name}/linear"
            nodes.append(helper.make_node("Conv", inputs, [linear], pads=[1, 1, 1, 1]))
            nodes.append(helper.make_node("Relu", [linear], [layer.name]))
            source = layer.name
            if layer.name == last:
                break
        elif kind == "MaxPooling2D":
            pooling: dict[str, Any] = {"kernel_shape": [2, 2], "strides": [2, 2]}
            nodes.append(helper.make_node("MaxPool", [source], [layer.name], **pooling))
            source = layer.name
    nodes.append(helper.make_node("GlobalAveragePool", [source], ["features"]))
    pixels = helper.make_tensor_value_info("pixels", TensorProto.FLOAT, [None, 3, size, size])
    features = helper.make_tensor_value_info("features", TensorProto.FLOAT, None)
    graph = helper.make_graph(nodes, "vgg16", [pixels], [features], weights)
    content = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = usable_cores()
    return onnxruntime.InferenceSession(
        content.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )


def check_equal(
    runtime: onnxruntime.InferenceSession,
    planes: NDArray[np.float32],
    features: NDArray[np.float32],
    pixels: NDArray[np.float32],
    last_depth: keras.Model,
) -> None:
    """Stop if the sides do not compute the same: a wrong network may be fast."""
    expected = np.asarray(last_depth.predict_on_batch(pixels))
    count = expected.shape[1]
    by_onnx = np.asarray(runtime.run(None, {"pixels": planes})[0]).reshape(-1, count)
    by_ncnn = features[:, -2 * count : -count]
    for one in (by_onnx, by_ncnn):
        np.testing.assert_allclose(one, expected, rtol=1e-3, atol=1e-4 * expected.mean())


def count_multiplications(model: keras.Model) -> int:
    """Multiplications of one picture's convolutions, done as matrix products."""
    total = 0
    for layer in model.layers:
        if type(layer).__name__ == "Conv2D":
            _, height, width, _ = layer.output.shape
            total += height * width * layer.get_weights()[0].size
    return total


if __name__ == "__main__":
    main()
