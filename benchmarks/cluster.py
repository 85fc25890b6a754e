"""A Ray cluster on this machine against one process on the same cores: seconds, and memory by role.

    python benchmarks/cluster.py --images 5000 50000 --out cluster.json

For every number of images `medlens audit` and `medlens predict` run as they are and with `--ray
local`, one after the other, with empty caches; the predictions must be the same bytes. Seconds are
those of the whole command, with the start of the cluster; the ratio without the start is that of
what the last number of images takes more than the first. Processor seconds are those of all
processes, which other work on the machine changes less. Memory is the largest resident set of each
kind of process, looked at twice a second; pages that processes share count in each. Flat means: the
peak for the most images is within a tenth of the peak for the fewest.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from contextlib import suppress
from pathlib import Path
from typing import Any

import psutil
from measure import machine, write_result
from memory import draw_images

SECONDS_BETWEEN_LOOKS = 0.5
STAGES = ("audit", "predict")
KINDS = ("seconds", "processor_seconds")
ROLES = ("driver", "pipeline", "worker")


def main() -> None:
    """Measure both commands at every size; print and write what was found."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--images", type=int, nargs="+", default=[5000, 50000])
    parser.add_argument("--side", type=int, default=128, help="of the images, in pixels")
    parser.add_argument("--backbone", default="mobilenet_v2")
    parser.add_argument("--image-size", type=int, default=96, help="of the network's pictures")
    parser.add_argument("--stages", nargs="+", choices=STAGES, default=STAGES)
    parser.add_argument("--out", type=Path)
    arguments = parser.parse_args()
    result: dict[str, Any] = {"machine": machine(), "side": arguments.side}
    for images in arguments.images:
        with tempfile.TemporaryDirectory() as folder:
            result[str(images)] = measure(Path(folder), images, arguments)
        print(json.dumps({images: result[str(images)]}), flush=True)
    if len(arguments.images) > 1:
        few, many = (result[str(arguments.images[place])] for place in (0, -1))
        result["growth"] = {stage: growth(few[stage], many[stage]) for stage in arguments.stages}
    print(json.dumps(result, indent=2))
    write_result(arguments.out, result)


def growth(few: dict[str, Any], many: dict[str, Any]) -> dict[str, Any]:
    """What more images change: the ratios without the start, and the peaks."""
    found: dict[str, Any] = {}
    for kind in KINDS:
        here, there = (many[place][kind] - few[place][kind] for place in ("local", "cluster"))
        found[f"ratio_of_{kind}_without_start"] = round(there / here, 3)
    peaks = [one["cluster"]["peak_mib"] for one in (few, many)]
    found["most_to_fewest"] = {role: round(peaks[1][role] / peaks[0][role], 3) for role in ROLES}
    return found


def measure(scratch: Path, images: int, arguments: argparse.Namespace) -> dict[str, Any]:
    """Seconds and peaks of each command, here and on a cluster, and the ratio of the seconds."""
    draw_images(scratch / "data", images, arguments.side)
    commands = {"audit": ["audit", str(scratch / "data")]}
    if "predict" in arguments.stages:
        train(scratch, arguments)
        commands["predict"] = ["predict", str(scratch / "run"), str(scratch / "data")]
    found: dict[str, Any] = {}
    for stage in arguments.stages:
        found[stage] = {}
        for place, ray in (("local", "none"), ("cluster", "local")):
            more = ["--cache", str(scratch / f"{place}-cache")]
            if stage == "predict":
                more = ["-o", str(scratch / f"{place}.csv")]
            found[stage][place] = watch([*commands[stage], *more, "--ray", ray])
        for kind in KINDS:
            here, there = (found[stage][place][kind] for place in ("local", "cluster"))
            found[stage][f"ratio_of_{kind}"] = round(there / here, 3)
    if "predict" in arguments.stages:
        written = [(scratch / f"{place}.csv").read_bytes() for place in ("local", "cluster")]
        if written[0] != written[1]:
            raise SystemExit("the cluster says something else than one process")
    return found


def train(scratch: Path, arguments: argparse.Namespace) -> None:
    """A classifier from 100 images of its own."""
    draw_images(scratch / "small", 100, arguments.side)
    given = ["--out", str(scratch / "run"), "--cache", str(scratch / "small-cache")]
    given += ["--backbone", arguments.backbone, "--weights", "random", "--plan", "plain"]
    given += ["--image-size", str(arguments.image_size), "--epochs", "2", "--no-images"]
    watch(["train", str(scratch / "small"), *given])


def watch(arguments: list[str]) -> dict[str, Any]:
    """Run a command of medlens; its seconds, and the peak of each role in MiB."""
    peaks: dict[str, float] = defaultdict(float)
    used: dict[int, tuple[str, float]] = {}
    with tempfile.TemporaryFile() as output:
        started = time.monotonic()
        child = subprocess.Popen(
            [sys.executable, "-m", "medlens", *arguments], stdout=output, stderr=output
        )
        process = psutil.Process(child.pid)
        while child.poll() is None:
            for one in [process, *process.children(recursive=True)]:
                with suppress(psutil.NoSuchProcess):
                    role, times = role_of(one, child.pid), one.cpu_times()
                    peaks[role] = max(peaks[role], one.memory_info().rss / 2**20)
                    used[one.pid] = role, times.user + times.system
            time.sleep(SECONDS_BETWEEN_LOOKS)
        seconds = time.monotonic() - started
        output.seek(0)
        if child.returncode:
            raise SystemExit(f"{arguments[0]}:\n{output.read().decode(errors='replace')}")
    rounded = {role: round(peak) for role, peak in sorted(peaks.items())}
    by_role: dict[str, float] = defaultdict(float)
    for role, processor in used.values():
        by_role[role] += processor
    spent = {"seconds": round(seconds, 1), "processor_seconds": round(sum(by_role.values()), 1)}
    by = {role: round(one, 1) for role, one in sorted(by_role.items())}
    return {**spent, "processor_seconds_of": by, "peak_mib": rounded}


def role_of(process: psutil.Process, driver: int) -> str:
    """What a process is for: Ray writes it into the command line of its own."""
    if process.pid == driver:
        return "driver"
    command = " ".join(process.cmdline())
    for sign, role in (("ray::MapWorker", "worker"), ("ray::_Runner", "pipeline")):
        if command.startswith(sign):
            return role
    return "others"


if __name__ == "__main__":
    main()
