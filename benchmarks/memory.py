"""Peak memory of `medlens train` on many large images, as the operating system saw it.

    python benchmarks/memory.py --images 10000 --side 1024 --out memory.json

Draws the images first (bounded, one at a time), then trains MobileNetV2 with random filters in a
process of its own and reads that process's peak resident memory.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from PIL import Image


def draw_images(folder: Path, images: int, side: int) -> None:
    """Noise of two coarsenesses, one class each, as JPEG files."""
    random = np.random.default_rng(0)
    for number in range(images):
        label, coarse = ("coarse", 16) if number % 2 else ("fine", 48)
        small = random.integers(0, 256, (coarse, coarse)).astype(np.uint8)
        path = folder / label / f"{number:06d}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(small).resize((side, side), Image.Resampling.BILINEAR).save(path)


def main() -> None:
    """Draw, train, print the peak."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--images", type=int, default=10_000)
    parser.add_argument("--side", type=int, default=1024)
    parser.add_argument("--image-size", default="auto")
    parser.add_argument("--out", type=Path)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        data = Path(scratch, "data")
        draw_images(data, arguments.images, arguments.side)
        command = [sys.executable, "-m", "medlens", "train", str(data)]
        command += ["--out", str(Path(scratch, "run")), "--cache", str(Path(scratch, "cache"))]
        command += ["--backbone", "mobilenet_v2", "--weights", "random"]
        command += ["--image-size", arguments.image_size]
        started = time.monotonic()
        subprocess.run(command, check=True)
        seconds = time.monotonic() - started
    peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 2**20
    result = {
        "images": arguments.images,
        "side": arguments.side,
        "peak_gib": round(peak, 2),
        "seconds": round(seconds, 1),
    }
    print(json.dumps(result))
    if arguments.out:
        arguments.out.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
