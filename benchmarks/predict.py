"""Peak memory and speed of `medlens predict` for ever more files, up to 100,000.

    python benchmarks/predict.py --out predict.json
    python benchmarks/predict.py --run RUN --images DATA --out predict.json

The files are hard links with names of their own to a few hundred small images: phantoms, or those
below --images. Without --run a small classifier is trained first (VGG16 of random filters at 32
px, so that reading and bookkeeping weigh more than the network). Each size runs in a process of
its own, and its peak is what the operating system counted. Flat means: the peak for the most files
is within a tenth of the peak for the fewest. After the largest size the result is read back: as
many rows as files, in order.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from pathlib import Path

import pandas as pd
from measure import run_child, write_result

from medlens.data.images import is_image_name
from medlens.data.phantom import write_phantoms


def main() -> None:
    """Measure every size; print and write peaks and speeds."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--files", type=int, nargs="+", default=[1_000, 10_000, 100_000])
    parser.add_argument("--run", type=Path, help="A finished run (default: a small one is trained)")
    parser.add_argument("--images", type=Path, help="A folder of images (default: phantoms)")
    parser.add_argument("--out", type=Path)
    arguments = parser.parse_args()
    measured = {}
    with tempfile.TemporaryDirectory() as folder:
        scratch = Path(folder)
        labels = write_phantoms(scratch / "phantoms", images=150, seed=0)
        images = sorted(
            path
            for path in (arguments.images or labels.parent).rglob("*")
            if path.is_file() and is_image_name(path)
        )
        run = arguments.run or train_small(labels, scratch)
        for count in arguments.files:
            measured[f"{count}"] = measure(run, images, count, scratch)
            print(json.dumps({count: measured[f"{count}"]}), flush=True)
    peaks = [one["peak_mib"] for one in measured.values()]
    result = {"files": measured, "most_to_fewest": round(peaks[-1] / peaks[0], 3)}
    print(json.dumps(result, indent=2))
    write_result(arguments.out, result)


def train_small(labels: Path, scratch: Path) -> Path:
    """A classifier on the phantoms."""
    command = [sys.executable, "-m", "medlens", "train", str(labels), "--out", str(scratch / "run")]
    command += ["--cache", str(scratch / "cache"), "--weights", "random", "--image-size", "32"]
    command += ["--plan", "plain", "--epochs", "2", "--no-saliency", "--quiet"]
    run_child(command)
    return scratch / "run"


def measure(run: Path, images: list[Path], count: int, scratch: Path) -> dict[str, float]:
    """Peak in MiB, and files per second from the start of the command to its end."""
    folder = scratch / f"in-{count}"
    folder.mkdir()
    names = [f"{number:06d}{images[number % len(images)].suffix}" for number in range(count)]
    for number, name in enumerate(names):
        (folder / name).hardlink_to(images[number % len(images)])
    out = scratch / f"{count}.csv"
    command = [sys.executable, "-m", "medlens", "predict", str(run), str(folder), "-o", str(out)]
    done = run_child(command)
    table = pd.read_csv(out, keep_default_na=False)
    if [Path(path).name for path in table["path"]] != names or table["unreadable"].any():
        raise SystemExit("not every file was predicted, or not in order")
    return {
        "peak_mib": round(done.peak_mib),
        "seconds": round(done.seconds, 1),
        "files_per_second": round(count / done.seconds, 1),
        "result_mib": round(out.stat().st_size / 2**20, 2),
    }


if __name__ == "__main__":
    main()
