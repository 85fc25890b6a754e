"""A Keras graph as ncnn's layers: the text of its param file and the bytes of its weights."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from medlens.model.backbone import SPREAD_FLOOR

if TYPE_CHECKING:
    import keras

# First line of every param file.
NCNN_MAGIC = 7767517
# Names of the first and the last blob.
PIXELS, FEATURES = "pixels", "features"
# Values of ncnn's BinaryOp, UnaryOp, Reduction and layer mask (its parameter 31).
ADD, SUBTRACT, DIVIDE = 0, 1, 3
SQUARE_ROOT = 5
SUM_OF_SQUARES, MEAN = 2, 3
NO_MATRIX_PRODUCT, NO_WINOGRAD = 32, 64
# With so few channels a direct 3x3 convolution is faster than Winograd's.
FEW_CHANNELS = 8
# On maps of so few pixels reading Winograd's larger weights takes longer than it saves.
SMALL_MAP = 6 * 6

Shape = tuple[int, int, int]
Value = int | float | tuple[int, ...]


class UnsupportedLayer(Exception):  # noqa: N818 - it says what it is
    """The model holds something that is not translated; run it with Keras instead."""


@dataclass(frozen=True)
class NcnnGraph:
    """A network as ncnn reads it.

    Args:
        param: The layers, one a line.
        weights: Their weights, float32, in the order of the lines.
        input_shape: (height, width, channels) of a picture.
        columns: Number of features.
        maps: Names of the blobs that hold the depths' maps, in the order of the depths.
    """

    param: str
    weights: bytes
    input_shape: Shape
    columns: int
    maps: tuple[str, ...]


def translate(model: keras.Model, depths: Sequence[str]) -> NcnnGraph:
    """Translate a Keras model, as far as its depths need it, and pool its depths.

    Args:
        model: A functional graph with one input, channels last.
        depths: Names of the layers whose outputs are pooled.

    Raises:
        UnsupportedLayer: If ncnn would not compute the same; names the layer.
        ValueError: If a depth is not in the model.
    """
    nodes = _read_graph(model, depths)
    shapes = {node.name: node.shape for node in nodes}
    lines = _fuse([_TRANSLATORS[node.kind](node) for node in nodes], depths)
    for depth in depths:
        lines += _statistics(depth, height=shapes[depth][0])
    statistics = tuple(f"{depth}/{name}" for depth in depths for name in ("mean", "spread"))
    lines.append(_Line("Concat", statistics, "/joined", {0: 0}))
    lines.append(_Line("Flatten", ("/joined",), "/flat", {}))
    return NcnnGraph(
        param=_param_text(lines),
        weights=b"".join(chunk for line in lines for chunk in line.weights),
        input_shape=nodes[0].shape,
        columns=2 * sum(shapes[depth][2] for depth in depths),
        maps=tuple(_blob_names(lines)[depth] for depth in depths),
    )


@dataclass(frozen=True)
class _Node:
    """One operation of the Keras graph.

    Args:
        name: Its name, and that of its output.
        kind: Its class in Keras.
        config: Its settings, as Keras saves them.
        arguments: What it is called with, as Keras saves it.
        inputs: Names of the nodes before it.
        input_shapes: Their (height, width, channels).
        shape: (height, width, channels) of its output.
        weights: As Keras's get_weights gives them.
    """

    name: str
    kind: str
    config: Mapping[str, Any]
    arguments: Sequence[Any]
    inputs: tuple[str, ...]
    input_shapes: tuple[Shape, ...]
    shape: Shape
    weights: tuple[NDArray[np.float32], ...]


@dataclass(frozen=True)
class _Line:
    """One layer of ncnn: a line of the param file, and its part of the bin file.

    Args:
        kind: ncnn's name of the layer.
        inputs: Names of the blobs it reads.
        output: Name of the layer and of the blob it writes.
        values: Its parameters, by ncnn's numbers.
        arrays: Its weights, float32, in ncnn's order.
    """

    kind: str
    inputs: tuple[str, ...]
    output: str
    values: Mapping[int, Value]
    arrays: tuple[NDArray[np.float32], ...] = ()

    @property
    def weights(self) -> Iterator[bytes]:
        """Its part of the bin file."""
        if self.kind == "Convolution":
            yield b"\0\0\0\0"  # the kernel follows as float32
        for array in self.arrays:
            yield array.astype("<f4").tobytes()


def _read_graph(model: keras.Model, depths: Sequence[str]) -> list[_Node]:
    """The operations that the depths need, inputs first, as Keras saves them."""
    config = model.get_config()
    if "input_layers" not in config:
        raise UnsupportedLayer("the model is not a functional graph")
    entries = {entry["name"]: entry for entry in config["layers"]}
    missing = [depth for depth in depths if depth not in entries]
    if missing or not depths:
        raise ValueError(f"the model has no layer {', '.join(missing) or 'to pool'}")
    operations = {operation.name: operation for operation in model.operations}
    nodes: dict[str, _Node] = {}
    waiting = list(depths)
    while waiting:
        name = waiting.pop()
        if name not in nodes:
            nodes[name] = _read_node(entries[name], operations[name])
            waiting += nodes[name].inputs
    if sum(node.kind == "InputLayer" for node in nodes.values()) != 1:
        raise UnsupportedLayer("the model has more than one input")
    return [nodes[name] for name in entries if name in nodes]  # Keras saves inputs first


def _read_node(entry: Mapping[str, Any], operation: Any) -> _Node:
    name, kind = entry["name"], entry["class_name"]
    calls = entry["inbound_nodes"]
    if kind not in _TRANSLATORS or not entry["module"].startswith(
        ("keras.layers", "keras.src.ops")
    ):
        raise UnsupportedLayer(f"{name} ({kind})")
    if len(calls) > 1:
        raise UnsupportedLayer(f"{name} ({kind}): used more than once")
    arguments = calls[0]["args"] if calls else []
    tensors = [tensor["config"] for tensor in _tensors(arguments)]
    shapes = [tuple(tensor["shape"][1:]) for tensor in tensors]
    shape = tuple(operation.output.shape[1:])
    for each in (shape, *shapes):
        if len(each) != 3 or None in each:
            raise UnsupportedLayer(f"{name} ({kind}): not of one fixed image shape")
    return _Node(
        name=name,
        kind=kind,
        config=entry["config"],
        arguments=arguments,
        inputs=tuple(tensor["keras_history"][0] for tensor in tensors),
        input_shapes=tuple(shapes),
        shape=shape,
        weights=tuple(np.asarray(value, np.float32) for value in _weights(operation)),
    )


def _weights(operation: Any) -> list[NDArray[np.float32]]:
    return operation.get_weights() if hasattr(operation, "get_weights") else []


def _tensors(arguments: Any) -> Iterator[Mapping[str, Any]]:
    if isinstance(arguments, Mapping) and arguments.get("class_name") == "__keras_tensor__":
        yield arguments
    elif isinstance(arguments, Sequence) and not isinstance(arguments, str):
        for argument in arguments:
            yield from _tensors(argument)


def _require(node: _Node, **settings: Any) -> None:
    """Refuse a layer whose settings are not these."""
    for setting, expected in settings.items():
        value = node.config.get(setting, expected)
        value = list(value) if isinstance(value, tuple) else value
        if value != expected:
            raise UnsupportedLayer(f"{node.name} ({node.kind}): {setting} is {value}")


def _input(node: _Node) -> _Line:
    height, width, channels = node.shape
    return _Line("Input", (), node.name, {0: width, 1: height, 2: channels})


def _convolution(node: _Node) -> _Line:
    _require(node, data_format="channels_last", dilation_rate=[1, 1], groups=1)
    activation = node.config["activation"]
    if activation not in ("linear", "relu"):
        raise UnsupportedLayer(f"{node.name} (Conv2D): activation is {activation}")
    kernel = node.weights[0].transpose(3, 2, 0, 1)
    outputs, inputs, kernel_height, kernel_width = kernel.shape
    bias = node.weights[1] if node.config["use_bias"] else np.zeros(outputs, np.float32)
    stride_height, stride_width = node.config["strides"]
    top, bottom, left, right = _padding(node, (kernel_height, kernel_width))
    height, width, _ = node.shape
    # ncnn chooses between its Winograd tiles by the shape of the output, if it is told.
    values: dict[int, Value] = {0: outputs, 5: 1, 6: kernel.size, 30: (3, width, height, outputs)}
    values |= {1: kernel_width, 11: kernel_height, 3: stride_width, 13: stride_height}
    values |= {4: left, 15: right, 14: top, 16: bottom}
    if activation == "relu":
        values[9] = 1
    if inputs < FEW_CHANNELS and (kernel_height, kernel_width, stride_height) == (3, 3, 1):
        values[31] = NO_MATRIX_PRODUCT + NO_WINOGRAD
    elif height * width <= SMALL_MAP:
        values[31] = NO_WINOGRAD
    return _Line("Convolution", node.inputs, node.name, values, (kernel, bias))


def _padding(node: _Node, kernel: Sequence[int]) -> tuple[int, int, int, int]:
    """Top, bottom, left, right. "same" gives the odd pixel to the bottom and the right."""
    sides: list[int] = []
    for length, extent, stride in zip(
        node.input_shapes[0][:2], kernel, node.config["strides"], strict=True
    ):
        missing = max((-(-length // stride) - 1) * stride + extent - length, 0)
        total = missing if node.config["padding"] == "same" else 0
        sides += [total // 2, total - total // 2]
    return sides[0], sides[1], sides[2], sides[3]


def _pooling(node: _Node) -> _Line:
    is_average = node.kind == "AveragePooling2D"
    _require(node, data_format="channels_last")
    if is_average:
        _require(node, padding="valid")  # Keras leaves the padding out of the average
    height, width = node.config["pool_size"]
    stride_height, stride_width = node.config["strides"]
    top, bottom, left, right = _padding(node, (height, width))
    values: dict[int, Value] = {0: int(is_average), 5: 1}
    values |= {1: width, 11: height, 2: stride_width, 12: stride_height}
    values |= {3: left, 14: right, 13: top, 15: bottom}
    return _Line("Pooling", node.inputs, node.name, values)


def _zero_padding(node: _Node) -> _Line:
    _require(node, data_format="channels_last")
    (top, bottom), (left, right) = node.config["padding"]
    values: dict[int, Value] = {0: top, 1: bottom, 2: left, 3: right, 4: 0, 5: 0.0}
    return _Line("Padding", node.inputs, node.name, values)


def _scale(node: _Node, scale: Any, offset: Any) -> _Line:
    channels = node.shape[2]
    arrays = [np.broadcast_to(np.asarray(value, np.float32), channels) for value in (scale, offset)]
    return _Line("Scale", node.inputs, node.name, {0: channels, 1: 1}, tuple(arrays))


def _rescaling(node: _Node) -> _Line:
    return _scale(node, node.config["scale"], node.config["offset"])


def _batch_normalization(node: _Node) -> _Line:
    if node.config["axis"] not in (-1, 3, [3]):
        raise UnsupportedLayer(f"{node.name} (BatchNormalization): not over channels")
    weights = [value.astype(np.float64) for value in node.weights]
    variance, mean = weights.pop(), weights.pop()
    beta = weights.pop() if node.config["center"] else np.zeros_like(mean)
    gamma = weights.pop() if node.config["scale"] else np.ones_like(mean)
    scale = gamma / np.sqrt(variance + node.config["epsilon"])
    return _scale(node, scale, beta - mean * scale)


def _relu(node: _Node) -> _Line:
    _require(node, activation="relu", max_value=None, negative_slope=0.0, threshold=0.0)
    return _Line("ReLU", node.inputs, node.name, {})


def _addition(node: _Node) -> _Line:
    if len(node.inputs) != 2 or node.input_shapes[0] != node.input_shapes[1]:
        raise UnsupportedLayer(f"{node.name} (Add): not two outputs of one shape")
    return _Line("BinaryOp", node.inputs, node.name, {0: ADD})


def _concatenation(node: _Node) -> _Line:
    if node.config["axis"] not in (-1, 3):
        raise UnsupportedLayer(f"{node.name} (Concatenate): not along channels")
    return _Line("Concat", node.inputs, node.name, {0: 0})


def _channel_slice(node: _Node) -> _Line:
    """`pixels[..., start:stop]`, with which channels are put into another order."""
    match node.arguments[1:]:
        case [[{"class_name": "__ellipsis__"}, {"class_name": "__slice__", "config": channels}]]:
            start, stop, step = (channels[name] for name in ("start", "stop", "step"))
        case _:
            start, stop, step = None, None, None
    if not (isinstance(start, int) and isinstance(stop, int) and step in (None, 1)):
        raise UnsupportedLayer(f"{node.name} (GetItem): not a slice of channels")
    return _Line("Crop", node.inputs, node.name, {9: (start,), 10: (stop,), 11: (0,)})


_TRANSLATORS: Mapping[str, Callable[[_Node], _Line]] = {
    "InputLayer": _input,
    "Conv2D": _convolution,
    "MaxPooling2D": _pooling,
    "AveragePooling2D": _pooling,
    "ZeroPadding2D": _zero_padding,
    "Rescaling": _rescaling,
    "BatchNormalization": _batch_normalization,
    "Activation": _relu,
    "ReLU": _relu,
    "Add": _addition,
    "Concatenate": _concatenation,
    "GetItem": _channel_slice,
}


def _fuse(lines: Sequence[_Line], depths: Sequence[str]) -> list[_Line]:
    """Take scales and ReLUs into the convolution before them, where nothing else reads it."""
    readers = Counter(blob for line in lines for blob in line.inputs) + Counter(depths)
    fused: dict[str, _Line] = {}
    for each in lines:
        line = each
        before = fused.get(line.inputs[0]) if line.inputs else None
        if before and before.kind == "Convolution" and readers[before.output] == 1:
            is_linear = 9 not in before.values
            if line.kind == "ReLU":
                del fused[before.output]
                line = replace(before, output=line.output, values={**before.values, 9: 1})
            elif line.kind == "Scale" and is_linear:
                del fused[before.output]
                scale, offset = (array.astype(np.float64) for array in line.arrays)
                kernel = (before.arrays[0] * scale[:, None, None, None]).astype(np.float32)
                bias = (before.arrays[1] * scale + offset).astype(np.float32)
                line = replace(before, output=line.output, arrays=(kernel, bias))
        fused[line.output] = line
    return list(fused.values())


def _statistics(depth: str, *, height: int) -> list[_Line]:
    """Mean and spread of each channel, in two passes.

    Sums go first along columns and then along rows: one sum of 224 x 224 float32 values would be
    wrong in the sixth digit. Ncnn's axes are 0 for channels, 1 for height, 2 for width; its
    Reduction takes 1=0: not over all axes, 3: the axes, 4=1: keep them.
    """

    def reduce(operation: int, axis: int, source: str, output: str) -> _Line:
        values: dict[int, Value] = {0: operation, 1: 0, 3: (axis,), 4: 1, 5: 1}
        return _Line("Reduction", (source,), f"{depth}/{output}", values)

    def scalar(operation: int, value: float, source: str, output: str) -> _Line:
        values: dict[int, Value] = {0: operation, 1: 1, 2: value}
        return _Line("BinaryOp", (f"{depth}/{source}",), f"{depth}/{output}", values)

    difference = _Line("BinaryOp", (depth, f"{depth}/mean"), f"{depth}/difference", {0: SUBTRACT})
    return [
        reduce(MEAN, 1, depth, "mean_columns"),
        reduce(MEAN, 2, f"{depth}/mean_columns", "mean"),
        difference,
        reduce(SUM_OF_SQUARES, 1, f"{depth}/difference", "squares"),
        reduce(MEAN, 2, f"{depth}/squares", "squares_mean"),
        scalar(DIVIDE, float(height), "squares_mean", "variance"),
        scalar(ADD, SPREAD_FLOOR, "variance", "raised_variance"),
        _Line("UnaryOp", (f"{depth}/raised_variance",), f"{depth}/spread", {0: SQUARE_ROOT}),
    ]


def _param_text(lines: Sequence[_Line]) -> str:
    """The param file: a blob with several readers goes through a Split layer.

    Blobs are numbered: the names that Keras makes up differ from process to process.
    """
    names = _blob_names(lines)
    readers = Counter(blob for line in lines for blob in line.inputs)
    unread: dict[str, Iterator[str]] = {}
    rows: list[str] = []
    blobs = 0
    for line in lines:
        inputs = [next(unread[blob]) for blob in line.inputs]
        output = names[line.output]
        rows.append(_row(line.kind, output, inputs, [output], line.values))
        copies = [output]
        if readers[line.output] > 1:
            copies = [f"{output}/{number}" for number in range(readers[line.output])]
            rows.append(_row("Split", f"{output}/split", [output], copies, {}))
            blobs += len(copies)
        unread[line.output] = iter(copies)
        blobs += 1
    return "\n".join([str(NCNN_MAGIC), f"{len(rows)} {blobs}", *rows]) + "\n"


def _blob_names(lines: Sequence[_Line]) -> dict[str, str]:
    """The name of each line's blob in the param file."""
    names = {line.output: f"{line.kind}{number}" for number, line in enumerate(lines)}
    return names | {lines[0].output: PIXELS, lines[-1].output: FEATURES}


def _row(
    kind: str,
    name: str,
    inputs: Sequence[str],
    outputs: Sequence[str],
    values: Mapping[int, Value],
) -> str:
    parts = [kind, name, str(len(inputs)), str(len(outputs)), *inputs, *outputs]
    for number, value in values.items():
        if isinstance(value, tuple):
            parts.append(f"{-23300 - number}={','.join(map(str, (len(value), *value)))}")
        else:
            parts.append(f"{number}={value!r}")
    return " ".join(parts)
