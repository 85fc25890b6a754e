"""The table of export formats: how each is written, what it knows, and how its runtime runs it."""

from __future__ import annotations

import importlib.util
import json
import os
import shutil
import warnings
import zipfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from medlens.errors import MedlensError

if TYPE_CHECKING:
    import keras

INPUT_NAME, OUTPUT_NAME = "pixels", "probabilities"
# Where a format keeps the classifier's facts, as JSON.
FACTS_KEY = "medlens"
FACTS_FILE = "medlens.json"
LABELS_FILE = "labels.txt"
# TensorFlow leaves this folder of a SavedModel to its users and reads nothing in it.
EXTRA_ASSETS = "assets.extra"
OPSET = 17
SIGNATURE = "serve"

# RGB pixels, 0 to 255, float32, of shape (batch, size, size, 3) -> probabilities (batch, classes).
Run = Callable[[NDArray[np.float32]], NDArray[np.float32]]


@dataclass(frozen=True)
class Source:
    """What an export is made of.

    Args:
        model: The classifier's network, from pixels to probabilities.
        facts: What travels along.
        scratch: A folder for what is needed on the way.
    """

    model: keras.Model
    facts: Mapping[str, Any]
    scratch: Path

    @cached_property
    def saved_model(self) -> Path:
        """A folder with the network as a SavedModel, with named input and output."""
        folder = self.scratch / "saved_model"
        write_saved_model(self.model, folder)
        return folder


@dataclass(frozen=True)
class Format:
    """One row of the table.

    Args:
        name: As --format takes it.
        title: As its makers write it.
        suffix: How the file's name must end; "" for a folder.
        packages: Modules that must be there, each with the package that brings it.
        companions: Suffixes of files that the format writes beside the first one.
        write: Writes a source to a path.
        open: Opens a written file in the format's own runtime, on the processor, in float32.
        read: Reads the facts back out of a written file.
        can_int8: Whether medlens can write it in 8-bit integers.
    """

    name: str
    title: str
    suffix: str
    packages: Mapping[str, str]
    companions: tuple[str, ...]
    write: Callable[[Source, Path], None]
    open: Callable[[Path], Run]
    read: Callable[[Path], Any]
    can_int8: bool = False


def find_format(name: str) -> Format:
    """The format of that name, with all it needs installed.

    Raises:
        MedlensError: If there is no such format, or a package is missing.
    """
    if name not in FORMATS:
        raise MedlensError(
            "There is no such export format.",
            got=name,
            expected="one of " + ", ".join(FORMATS),
            fix="Give one of these with --format.",
        )
    chosen = FORMATS[name]
    missing = missing_packages(chosen)
    if missing:
        raise MedlensError(
            f"An export to {chosen.title} needs packages that are not installed.",
            got="no " + ", ".join(missing),
            expected="all of " + ", ".join(chosen.packages.values()),
            fix="pip install 'medlens[export]', or pip install " + " ".join(missing),
        )
    return chosen


def missing_packages(one: Format) -> list[str]:
    """The packages that a format needs and that are not installed."""
    return [
        package
        for module, package in one.packages.items()
        if importlib.util.find_spec(module) is None
    ]


def write_saved_model(model: keras.Model, folder: Path) -> None:
    """Write a network as a SavedModel with one signature, from `pixels` to `probabilities`.

    Args:
        model: From pixels to probabilities; it gets a free batch size.
        folder: Where to write.
    """
    import keras
    import tensorflow

    def serve(pixels: Any) -> dict[str, Any]:
        return {OUTPUT_NAME: model(pixels, training=False)}

    archive = keras.export.ExportArchive()
    archive.track(model)
    archive.add_endpoint(SIGNATURE, serve, input_signature=[_pixels(tensorflow, model)])
    archive.write_out(str(folder), verbose=False)


def _pixels(tensorflow: Any, model: keras.Model) -> Any:
    return tensorflow.TensorSpec((None, *model.input_shape[1:]), "float32", name=INPUT_NAME)


def _facts_text(facts: Mapping[str, Any]) -> str:
    return json.dumps(facts, ensure_ascii=False, allow_nan=False)


def _copy_saved_model(source: Source, path: Path) -> None:
    shutil.copytree(source.saved_model, path)
    extra = path / EXTRA_ASSETS / FACTS_FILE
    extra.parent.mkdir()
    extra.write_text(_facts_text(source.facts), encoding="utf-8")


def _open_saved_model(path: Path) -> Run:
    import tensorflow

    with tensorflow.device("CPU"):
        loaded = tensorflow.saved_model.load(str(path))

    def run(pixels: NDArray[np.float32]) -> NDArray[np.float32]:
        return np.asarray(getattr(loaded, SIGNATURE)(pixels)[OUTPUT_NAME])

    return run


def _read_saved_model(path: Path) -> Any:
    return json.loads((path / EXTRA_ASSETS / FACTS_FILE).read_text(encoding="utf-8"))


def _write_onnx(source: Source, path: Path) -> None:
    import onnx
    import tensorflow
    import tf2onnx

    def serve(pixels: Any) -> dict[str, Any]:
        return {OUTPUT_NAME: source.model(pixels, training=False)}

    signature = [_pixels(tensorflow, source.model)]
    content, _ = tf2onnx.convert.from_function(tensorflow.function(serve), signature, opset=OPSET)
    _spell_out_erfc(content.graph)
    for value in (*content.graph.input, *content.graph.output):
        value.type.tensor_type.shape.dim[0].dim_param = "batch"
    onnx.helper.set_model_props(content, {FACTS_KEY: _facts_text(source.facts)})
    onnx.save(content, str(path))


def _spell_out_erfc(graph: Any) -> None:
    """Write TensorFlow's Erfc (in GELU), which tf2onnx hands on as it is, as ONNX's 1 - Erf."""
    import onnx

    one = "medlens/one"
    nodes = []
    for node in graph.node:
        if node.op_type == "Erfc":
            erf = f"{node.output[0]}/erf"
            nodes.append(onnx.helper.make_node("Erf", node.input, [erf]))
            nodes.append(onnx.helper.make_node("Sub", [one, erf], node.output))
        else:
            nodes.append(node)
    if len(nodes) > len(graph.node):
        graph.initializer.append(onnx.numpy_helper.from_array(np.array(1, np.float32), one))
        del graph.node[:]
        graph.node.extend(nodes)


def _open_onnx(path: Path) -> Run:
    import onnxruntime

    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])

    def run(pixels: NDArray[np.float32]) -> NDArray[np.float32]:
        return np.asarray(session.run([OUTPUT_NAME], {INPUT_NAME: pixels})[0])

    return run


def _read_onnx(path: Path) -> Any:
    import onnx

    content = onnx.load(str(path))
    return json.loads({one.key: one.value for one in content.metadata_props}[FACTS_KEY])


def write_litert_file(content: bytes, source: Source, path: Path) -> None:
    """Write a .tflite file; the facts and the class names follow it as an archive of files.

    That is where TensorFlow Lite's metadata keep associated files: the file is also a .zip.

    Args:
        content: The flat buffer.
        source: With the facts.
        path: Where to write.
    """
    path.write_bytes(content)
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr(zipfile.ZipInfo(FACTS_FILE), _facts_text(source.facts))
        archive.writestr(zipfile.ZipInfo(LABELS_FILE), "\n".join(source.facts["classes"]) + "\n")


def _write_litert(source: Source, path: Path) -> None:
    import tensorflow

    converter = tensorflow.lite.TFLiteConverter.from_saved_model(str(source.saved_model))
    write_litert_file(converter.convert(), source, path)


def _open_litert(path: Path) -> Run:
    from ai_edge_litert.interpreter import Interpreter

    runtime = Interpreter(str(path), num_threads=os.cpu_count())
    pixels_in, probabilities_out = runtime.get_input_details()[0], runtime.get_output_details()[0]

    def run(pixels: NDArray[np.float32]) -> NDArray[np.float32]:
        if tuple(runtime.get_input_details()[0]["shape"]) != pixels.shape:
            runtime.resize_tensor_input(pixels_in["index"], pixels.shape)
        runtime.allocate_tensors()
        runtime.set_tensor(pixels_in["index"], pixels)
        runtime.invoke()
        return np.array(runtime.get_tensor(probabilities_out["index"]))

    return run


def _read_litert(path: Path) -> Any:
    with zipfile.ZipFile(path) as archive:
        return json.loads(archive.read(FACTS_FILE))


def _write_openvino(source: Source, path: Path) -> None:
    import openvino

    # Not convert_model: that would send how it is used to OpenVINO's makers, where they are let.
    content = openvino.Core().read_model(str(source.saved_model))
    content.set_rt_info(_facts_text(source.facts), FACTS_KEY)
    openvino.save_model(content, str(path), compress_to_fp16=False)


def _open_openvino(path: Path) -> Run:
    import openvino

    # By itself OpenVINO computes in bfloat16 where a processor can: off in the second digit.
    precise = {"INFERENCE_PRECISION_HINT": "f32"}
    compiled = openvino.Core().compile_model(str(path), "CPU", precise)

    def run(pixels: NDArray[np.float32]) -> NDArray[np.float32]:
        return np.array(compiled(pixels)[OUTPUT_NAME])

    return run


def _read_openvino(path: Path) -> Any:
    import openvino

    return json.loads(openvino.Core().read_model(str(path)).get_rt_info(FACTS_KEY).astype(str))


FORMATS: Mapping[str, Format] = {
    one.name: one
    for one in (
        Format(
            name="savedmodel",
            title="SavedModel",
            suffix="",
            packages={"tensorflow": "tensorflow"},
            companions=(),
            write=_copy_saved_model,
            open=_open_saved_model,
            read=_read_saved_model,
        ),
        Format(
            name="onnx",
            title="ONNX",
            suffix=".onnx",
            packages={
                "tensorflow": "tensorflow",
                "onnx": "onnx",
                "tf2onnx": "tf2onnx",
                "onnxruntime": "onnxruntime",
            },
            companions=(),
            write=_write_onnx,
            open=_open_onnx,
            read=_read_onnx,
        ),
        Format(
            name="litert",
            title="LiteRT",
            suffix=".tflite",
            packages={"tensorflow": "tensorflow", "ai_edge_litert": "ai-edge-litert"},
            companions=(),
            write=_write_litert,
            open=_open_litert,
            read=_read_litert,
            can_int8=True,
        ),
        Format(
            name="openvino",
            title="OpenVINO",
            suffix=".xml",
            packages={"tensorflow": "tensorflow", "openvino": "openvino"},
            companions=(".bin",),
            write=_write_openvino,
            open=_open_openvino,
            read=_read_openvino,
        ),
    )
}


@contextmanager
def converting(title: str) -> Iterator[None]:
    """Turn what a converter raises into an error for the user; what it warns of is its makers'.

    Args:
        title: What the network is converted to.

    Raises:
        MedlensError: If the network holds what the format cannot do.
    """
    with warnings.catch_warnings(record=True):
        warnings.simplefilter("always")
        try:
            yield
        except (OSError, MemoryError, MedlensError):
            raise
        # Converters raise almost anything at an operation they do not know: ValueError,
        # RuntimeError, AttributeError and classes of their own were seen.
        except Exception as error:
            lines = str(error).strip().splitlines() or [""]
            raise MedlensError(
                f"This network cannot be written as {title}.",
                got=f"{type(error).__name__}: {lines[0][:200]}",
                expected="a network of operations that the format and its runtime know",
                fix="Choose another --format; every backbone of medlens's table works in each.",
            ) from error
