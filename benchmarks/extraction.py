"""The whole way from files to stored features against the frozen network alone.

    python benchmarks/extraction.py --out extraction.json

For each kind of file: the network runs on half of the pictures in memory; then all files are read
and their features stored, with empty caches; then the network runs on the other half. A ratio is
the rate of the whole way divided by the rate of the network alone, in one process and with the
same loaded network, so that a machine that grows slower does so for both. Beside it stands the
same ratio of processor time, which other programs on the machine hardly move. The processor time
of reading is also given alone, with that of Pillow decoding the same files into greys, which is the
least that reading can take.
"""

from __future__ import annotations

import argparse
import json
import os
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import numpy as np
from measure import write_result
from numpy.typing import NDArray
from PIL import Image

from medlens.data.dataset import Dataset, read_dataset
from medlens.data.images import read_image
from medlens.data.scan import PictureRule, Pictures, scan
from medlens.data.store import Store
from medlens.model.backbone import BACKBONES
from medlens.model.engine import FrozenPass
from medlens.model.features import extract_features, feature_store
from medlens.model.forward import Forward
from medlens.model.weights import Weights

IMAGE_SIZE = 224
RANDOM = Weights("random", None, 0, "random filters, seed 0")


@dataclass(frozen=True)
class Kind:
    """A kind of files.

    Args:
        name: As it is printed.
        side: Of the square images, in pixels.
        suffix: Of the files, which says how they are stored.
    """

    name: str
    side: int
    suffix: str


KINDS = (
    Kind("JPEG, 256 px", 256, ".jpg"),
    Kind("PNG, 1024 px", 1024, ".png"),
    Kind("JPEG, 1024 px", 1024, ".jpg"),
)


def main() -> None:
    """Measure every kind of files; print and write the ratios."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--images", type=int, default=120, help="of each kind, at least 4")
    parser.add_argument("--out", type=Path)
    arguments = parser.parse_args()
    images = max(4, arguments.images)
    frozen_pass = FrozenPass(BACKBONES["vgg16"], RANDOM, PictureRule(IMAGE_SIZE, "pad"), "ncnn")
    result: dict[str, Any] = {"images": images, "size": IMAGE_SIZE}
    with tempfile.TemporaryDirectory() as folder:
        forward = frozen_pass.forward(Path(folder, "network"))
        for kind in KINDS:
            scratch = Path(folder, kind.name)
            draw_images(scratch / "data", kind, images)
            result[kind.name] = compare(frozen_pass, forward, scratch)
            print(kind.name, json.dumps(result[kind.name], indent=2), flush=True)
    write_result(arguments.out, result)


def draw_images(folder: Path, kind: Kind, images: int) -> None:
    """Grey images in two classes whose detail falls with its fineness, as that of photographs."""
    random = np.random.default_rng(0)
    for number in range(images):
        path = folder / f"class-{number % 2}" / f"{number:06d}{kind.suffix}"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(draw_image(kind.side, random)).save(path)


def draw_image(side: int, random: np.random.Generator) -> NDArray[np.uint8]:
    """Smooth noise of every coarseness, all of them as strong, and a little grain.

    So the amplitude falls as one over the spatial frequency: Field, D. J. (1987), Relations
    between the statistics of natural images and the response properties of cortical cells,
    Journal of the Optical Society of America A 4(12).
    """
    image = random.normal(128, 1.5, (side, side)).astype(np.float32)
    coarse = 4
    while coarse < side:
        noise = Image.fromarray(random.normal(0, 16, (coarse, coarse)).astype(np.float32))
        image += np.asarray(noise.resize((side, side), Image.Resampling.BICUBIC))
        coarse *= 2
    return np.clip(image, 0, 255).astype(np.uint8)


def compare(frozen_pass: FrozenPass, forward: Forward, scratch: Path) -> dict[str, Any]:
    """Rates in images/s, their ratio, and the processor time of reading in ms per image."""
    dataset = read_dataset(scratch / "data", cache=scratch)
    files = [dataset.root / path for path in dataset.table["path"]]
    pictures = np.stack([frozen_pass.rule.apply(read_image(path).pixels) for path in files])
    half = len(files) // 2
    forward.run(pictures[:4])  # to warm up
    before, first_half = run_bare(forward, pictures[:half])
    whole, reading, stored = run_whole(frozen_pass, forward, dataset, scratch)
    after, second_half = run_bare(forward, pictures[half:])
    if not np.array_equal(stored, np.concatenate([first_half, second_half])):
        raise SystemExit("the whole way and the network alone gave different features")
    decoding = decode_alone(files)
    bare = before + after
    in_ms = 1000 / len(files)
    return {
        "whole_images_per_second": round(len(files) / whole.seconds, 2),
        "bare_images_per_second": round(len(files) / bare.seconds, 2),
        "bare_first_to_second_half": round(before.seconds / after.seconds, 3),
        "ratio": round(bare.seconds / whole.seconds, 3),
        "ratio_of_processor_time": round(bare.processor / whole.processor, 3),
        "reading_share": round(reading.seconds / whole.seconds, 3),
        "reading_processor_ms_per_image": round(in_ms * reading.processor, 1),
        "decoding_processor_ms_per_image": round(in_ms * decoding.processor, 1),
    }


@dataclass(frozen=True)
class Spent:
    """Time on the clock and processor time of all threads, in seconds."""

    seconds: float
    processor: float

    def __add__(self, other: Spent) -> Spent:
        return Spent(self.seconds + other.seconds, self.processor + other.processor)


def stopwatch() -> Callable[[], Spent]:
    """Start to count; what it returns says how much was spent since then."""
    seconds, processor = time.perf_counter(), time.process_time()
    return lambda: Spent(time.perf_counter() - seconds, time.process_time() - processor)


def decode_alone(files: Sequence[Path]) -> Spent:
    """Every file to greys by Pillow, one after the other."""
    spent = stopwatch()
    for path in files:
        with Image.open(path) as image:
            image.convert("L").load()
    return spent()


def run_bare(forward: Forward, pictures: NDArray[np.uint8]) -> tuple[Spent, NDArray[np.float32]]:
    """Pictures in memory to features, batch by batch."""
    spent = stopwatch()
    starts = range(0, len(pictures), forward.batch)
    features = [forward.run(pictures[start : start + forward.batch]) for start in starts]
    return spent(), np.concatenate(features)


def run_whole(
    frozen_pass: FrozenPass, forward: Forward, dataset: Dataset, scratch: Path
) -> tuple[Spent, Spent, NDArray[np.float32]]:
    """Every file to stored features, with empty caches but for the loaded network.

    Returns:
        What all of it took; what reading took, until every picture was stored; the features in the
        order of the files.
    """
    cache = scratch / "cache"
    spent = stopwatch()
    features = feature_store(cache, frozen_pass)
    store = Store(scratch / "pictures")
    pictures = Pictures(frozen_pass.rule, store, (features,))
    table = scan(dataset, cache=cache, frame=None, progress=_ignore, pictures=pictures)
    reading = spent()
    keys = list(table["pixels_sha256"])
    extract_features(keys, lambda: forward, store.read, features, _ignore, _ignore)
    return spent(), reading, features.read(keys)


def _ignore(_: object) -> None:
    pass


if __name__ == "__main__":
    main()
