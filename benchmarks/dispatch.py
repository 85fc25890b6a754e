"""What handing out the parts of a job on a cluster costs, whatever they hold.

    python benchmarks/dispatch.py --parts 3000

Parts without any work go through a cluster of this machine alone. Counted is the processor time of
the command itself, of the process that drives the pipeline, and of that which writes down who began
what. Each has one thread that counts, so the slowest of them is a limit of every cluster.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import numpy as np
import psutil
import pyarrow
from measure import write_result

from medlens.data.work_list import PART_ROWS
from medlens.scale.cluster import LOCAL, connected
from medlens.scale.parts import run_parts
from medlens.scale.worker import Make

PARTS = 2000
# How Ray names the processes of a job beside the driver.
ROLES = {"ray::_Runner": "runner", "ray::Ledger": "ledger"}


def main() -> None:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--parts", type=int, default=PARTS)
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    found = measure_dispatch(options.parts)
    for name, seconds in found.items():
        print(f"{name:10}{1e3 * seconds:9.3f} ms a part")
    write_result(options.out, {"parts": options.parts, "seconds": found})


def measure_dispatch(parts: int = PARTS) -> dict[str, float]:
    """Seconds for a part of a job on a cluster, whatever it holds, of the processes by the driver.

    Args:
        parts: How many there are; those that come while the workers start are not counted.
    """
    spent: list[dict[str, float]] = []

    def take(part: int, table: pyarrow.Table) -> None:
        done.append(part)
        if len(done) in (parts // 4, parts):
            spent.append(spend_by_process())

    done: list[int] = []
    with connected(LOCAL):
        run_parts(np.arange(parts), make_nothing(), take, gpus=0)
    first, last = spent
    return {name: (last[name] - first[name]) / (parts - parts // 4) for name in last}


def make_nothing() -> Make:
    """Makes work without any; made here, so that it travels to workers that lack this file."""

    def work(part: int, *, careful: bool, advance: Callable[[], None]) -> pyarrow.Table:
        return pyarrow.table({"rows": [PART_ROWS]})

    return lambda cpus: work


def spend_by_process() -> dict[str, float]:
    """Processor time until now of this process, and of what stands beside it in a job."""
    spent = {"driver": time.process_time()}
    for one in psutil.Process().children(recursive=True):
        with suppress(psutil.NoSuchProcess):
            name = " ".join(one.cmdline())
            for sign, role in ROLES.items():
                if name.startswith(sign):
                    times = one.cpu_times()
                    spent[role] = times.user + times.system
    return spent


if __name__ == "__main__":
    main()
