"""Peak memory of the audit, the extraction of features and prediction, for ever more images.

    python benchmarks/memory.py --out memory.json

Each stage runs in a process of its own, with empty caches but for what the stage before it must
have left, and its peak is what the operating system counted. Flat means: the peak for the most
images is within a tenth of the peak for the fewest.
"""

from __future__ import annotations

import argparse
import json
import shutil
import sys
import tempfile
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from measure import run_child, write_result
from PIL import Image

from medlens.data.dataset import read_dataset
from medlens.data.scan import PictureRule, Pictures, scan
from medlens.data.store import Store
from medlens.model.backbone import BACKBONES
from medlens.model.engine import FrozenPass
from medlens.model.features import extract_features, feature_store
from medlens.model.weights import Weights

STAGES = ("audit", "extract", "predict")
IMAGE_SIZE = 64
RANDOM = Weights("random", None, 0, "random filters, seed 0")


def main() -> None:
    """Measure every stage at every size; print and write the peaks."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--images", type=int, nargs="+", default=[1000, 4000, 16000])
    parser.add_argument("--side", type=int, default=256)
    parser.add_argument("--out", type=Path)
    parser.add_argument("--stage", choices=STAGES, help=argparse.SUPPRESS)
    parser.add_argument("--scratch", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.stage:
        {"extract": extract, "predict": predict}[arguments.stage](arguments.scratch)
        return
    peaks: dict[str, dict[str, int]] = {stage: {} for stage in STAGES}
    for images in arguments.images:
        for stage, peak in measure(images, arguments.side).items():
            peaks[stage][f"{images}"] = round(peak)
        print(json.dumps(peaks), flush=True)
    growth = {
        stage: round(list(values.values())[-1] / next(iter(values.values())), 3)
        for stage, values in peaks.items()
    }
    result: dict[str, Any] = {"side": arguments.side, "peak_mib": peaks, "most_to_fewest": growth}
    print(json.dumps(result, indent=2))
    write_result(arguments.out, result)


def measure(images: int, side: int) -> dict[str, float]:
    """Peak of every stage in MiB."""
    with tempfile.TemporaryDirectory() as folder:
        scratch = Path(folder)
        draw_images(scratch / "data", images, side)
        train_small(scratch, side)
        audit = [sys.executable, "-m", "medlens", "audit", str(scratch / "data")]
        commands = {"audit": [*audit, "--cache", str(scratch / "audit-cache")]}
        for stage in ("extract", "predict"):
            commands[stage] = [sys.executable, __file__, "--stage", stage]
            commands[stage] += ["--scratch", str(scratch)]
        return {stage: run_child(command).peak_mib for stage, command in commands.items()}


def draw_images(folder: Path, images: int, side: int) -> None:
    """Noise of two coarsenesses, one class each, as JPEG files."""
    random = np.random.default_rng(0)
    for number in range(images):
        label, coarse = ("coarse", 16) if number % 2 else ("fine", 48)
        small = random.integers(0, 256, (coarse, coarse)).astype(np.uint8)
        path = folder / label / f"{number:06d}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(small).resize((side, side), Image.Resampling.BILINEAR).save(path)


def train_small(scratch: Path, side: int) -> None:
    """A classifier for the stage predict, from 100 images of its own."""
    draw_images(scratch / "small", 100, side)
    command = [sys.executable, "-m", "medlens", "train", str(scratch / "small")]
    command += ["--out", str(scratch / "run"), "--cache", str(scratch / "small-cache")]
    command += ["--weights", "random", "--image-size", str(IMAGE_SIZE), "--epochs", "2"]
    run_child(command)
    shutil.rmtree(scratch / "small")


def extract(scratch: Path) -> None:
    """Every file to stored features, by the default engine."""
    rule = PictureRule(IMAGE_SIZE, "pad")
    frozen_pass = FrozenPass(BACKBONES["vgg16"], RANDOM, rule, "ncnn")
    cache = scratch / "cache"
    dataset = read_dataset(scratch / "data", cache=cache)
    features = feature_store(cache, frozen_pass)
    pictures = Pictures(rule, Store(scratch / "pictures"), (features,))
    table = scan(dataset, cache=cache, frame=None, progress=_ignore, pictures=pictures)
    load = partial(frozen_pass.forward, cache)
    keys = list(table["pixels_sha256"])
    extract_features(keys, load, pictures.store.read, features, _ignore, _ignore)


def predict(scratch: Path) -> None:
    """Every file to probabilities, by the saved classifier."""
    import medlens

    files = sorted((scratch / "data").rglob("*.jpg"))
    predictions = medlens.load(scratch / "run").predict(files)
    if len(predictions) != len(files) or predictions["unreadable"].any():
        raise SystemExit("not every file was predicted")


def _ignore(_: object) -> None:
    pass


if __name__ == "__main__":
    main()
