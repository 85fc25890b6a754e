"""Whether a picture's features are the network's where pictures run side by side.

    python benchmarks/side_by_side.py --seconds 120 --out side_by_side.json

Pictures go through a part of a network in Keras again and again, many side by side, and are
compared with what the network says of each alone: as medlens runs it, or with `--joined` as
TensorFlow would by itself, which joins operations. A wrong picture is one of which a feature is off
by more than a thousandth of the features' mean. It is rare: start several beside each other, so
that the machine is busy.
"""

from __future__ import annotations

import argparse
import dataclasses
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from measure import machine, write_result
from numpy.typing import NDArray

from medlens.data.scan import PictureRule
from medlens.model import forward
from medlens.model.backbone import BACKBONES
from medlens.model.engine import FrozenPass
from medlens.model.weights import Weights

SIZE = 64
RUNS_PER_GRAPH = 40
ROUNDS = 10


def main() -> None:
    """Run for some time; print and write how many pictures were wrong."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--backbone", default="convnext_tiny")
    parser.add_argument("--depths", type=int, default=2, help="so many of the network's")
    parser.add_argument("--pictures", type=int, default=8, help="in a run")
    parser.add_argument("--side-by-side", type=int, default=16)
    parser.add_argument("--seconds", type=float, default=120)
    parser.add_argument("--joined", action="store_true")
    parser.add_argument("--out", type=Path)
    arguments = parser.parse_args()
    forward.PARALLEL_PICTURES = arguments.side_by_side
    network = first_depths(arguments.backbone, arguments.depths)
    shape = (arguments.pictures, SIZE, SIZE, 3)
    pictures = np.random.default_rng(0).integers(0, 256, shape, np.uint8)
    result: dict[str, Any] = {"machine": machine(), "joined": arguments.joined}
    result["milliseconds_a_picture"] = measure(network, pictures)
    if arguments.joined:
        forward.without_fusion = left_alone
    result |= count_wrong(network, pictures, arguments.seconds)
    print(result)
    write_result(arguments.out, result)


@contextmanager
def left_alone() -> Iterator[None]:
    """In place of `without_fusion`."""
    yield


def first_depths(name: str, depths: int) -> Any:
    """The first depths of a network with random filters."""
    whole = BACKBONES[name]
    part = dataclasses.replace(
        whole, depths=whole.depths[:depths], channels=whole.channels[:depths]
    )
    filters = Weights("random", None, 0, "random filters, seed 0")
    return FrozenPass(part, filters, PictureRule(SIZE, "pad"), "keras").model


def measure(network: Any, pictures: NDArray[np.uint8]) -> dict[str, float]:
    """Least processor time of a picture, joined and not, in turn."""
    run, ways = forward.compile_forward(network).run, (forward.without_fusion, left_alone)
    best = [float("inf")] * 2
    for _ in range(ROUNDS):
        for number, way in enumerate(ways):
            forward.without_fusion = way
            before = time.process_time()
            run(pictures)
            best[number] = min(best[number], time.process_time() - before)
    forward.without_fusion = ways[0]
    names = ("as medlens runs it", "joined")
    return {
        name: round(1000 * one / len(pictures), 2) for name, one in zip(names, best, strict=True)
    }


def count_wrong(network: Any, pictures: NDArray[np.uint8], seconds: float) -> dict[str, int]:
    """Pictures that were looked at, and how many of them were wrong."""
    alone = [network(one[None].astype(np.float32), training=False) for one in pictures]
    expected = np.concatenate([np.asarray(one) for one in alone])
    seen = wrong = 0
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        run = forward.compile_forward(network).run
        for _ in range(RUNS_PER_GRAPH):
            off = np.abs(run(pictures) - expected).max(axis=1)
            wrong += int((~(off < 1e-3 * np.abs(expected).mean())).sum())
            seen += len(pictures)
    return {"pictures": seen, "wrong": wrong}


if __name__ == "__main__":
    main()
