"""Every export format beside Keras: size of the file, largest difference, images per second.

    python benchmarks/export.py RUN [RUN...] --images DATA --out export.json

RUN is a finished run, for example one of MobileNetV2 and one of VGG16.
DATA is a folder with real images. All runtimes get the same pictures one at a time, on all cores,
in turn, several rounds; the rate is the median round's.
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

import numpy as np
from measure import write_result
from numpy.typing import NDArray

import medlens
from medlens.model.classifier import Classifier
from medlens.model.forward import compile_forward
from medlens.serve.export import Compared, Wanted, export_classifier
from medlens.serve.export_formats import FORMATS

NAMES = {"savedmodel": "model", "onnx": "model.onnx", "litert": "model.tflite"}
NAMES |= {"openvino": "model.xml", "litert int8": "int8.tflite"}
CALIBRATED = 200


def main() -> None:
    """Export, compare and time; print and write the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("runs", metavar="RUN", type=Path, nargs="+")
    parser.add_argument("--images", type=Path, required=True)
    parser.add_argument("--count", type=int, default=200)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--timed", type=int, default=32, help="pictures in a round")
    parser.add_argument("--out", type=Path)
    arguments = parser.parse_args()
    files = sorted(path for path in arguments.images.rglob("*.*") if path.suffix in SUFFIXES)
    result: dict[str, Any] = {}
    for run in arguments.runs:
        one = medlens.load(run)
        name = one.facts["backbone"]
        chosen = np.linspace(0, len(files) - 1, 2 * arguments.count).round().astype(int)
        pictures = np.stack([one.picture(files[number]) for number in chosen])
        result[name] = measure(one, pictures, arguments.rounds, arguments.timed)
        print(name, f"{one.rule.size} px, {arguments.count} images")
        for row, values in result[name].items():
            print(f"  {row:12}", values)
    write_result(arguments.out, result)


SUFFIXES = (".png", ".jpg", ".jpeg", ".dcm")


def measure(
    classifier: Classifier, pictures: NDArray[np.uint8], rounds: int, timed: int
) -> dict[str, Any]:
    """Size, difference and rate of every format. The second half of `pictures` calibrates int8."""
    compared, calibration = pictures[: len(pictures) // 2], pictures[len(pictures) // 2 :]
    labels = [classifier.classes[0]] * len(compared)
    forward = compile_forward(classifier.model)
    sides: dict[str, Callable[[NDArray[np.float32]], object]] = {
        "keras": lambda one: forward.run(one.astype(np.uint8))
    }
    result: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as folder:
        for name, file in NAMES.items():
            is_int8 = name.endswith("int8")
            wanted = Wanted(FORMATS[name.split()[0]], Path(folder, file), is_int8)
            images = Compared(compared, "", labels, calibration[:CALIBRATED] if is_int8 else None)
            exported = export_classifier(
                classifier, wanted, images, network_sha256="", progress=lambda _: None
            )
            size = sum(Path(folder, one).stat().st_size for one in exported.facts["sha256"])
            difference = exported.facts["check"]["largest_difference"]
            result[name] = {"mib": round(size / 2**20, 1), "difference": float(f"{difference:.2g}")}
            sides[name] = wanted.format.open(exported.path)
        rates = rate(sides, compared[:timed].astype(np.float32), rounds)
    return {name: {**result.get(name, {}), "images_per_second": rates[name]} for name in sides}


def rate(
    sides: dict[str, Callable[[NDArray[np.float32]], object]],
    pixels: NDArray[np.float32],
    rounds: int,
) -> dict[str, float]:
    """Pictures per second, one at a time, the sides in turn."""
    seconds: dict[str, list[float]] = {name: [] for name in sides}
    for side in sides.values():
        side(pixels[:1])
    for _ in range(rounds):
        for name, side in sides.items():
            started = time.perf_counter()
            for number in range(len(pixels)):
                side(pixels[number : number + 1])
            seconds[name].append(time.perf_counter() - started)
    return {
        name: round(len(pixels) / statistics.median(values), 1) for name, values in seconds.items()
    }


if __name__ == "__main__":
    main()
