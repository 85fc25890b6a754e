"""What the benchmarks share: child processes with their peak memory, and how results are kept."""

from __future__ import annotations

import json
import os
import platform
import subprocess
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil


@dataclass(frozen=True)
class Finished:
    """A child process that has ended.

    Args:
        seconds: From its start to its end.
        processor_seconds: Of all its threads and children.
        peak_mib: The most memory it held at a time, as the operating system counted it.
        output: What it printed.
    """

    seconds: float
    processor_seconds: float
    peak_mib: float
    output: str


def run_child(command: list[str]) -> Finished:
    """Run a command to its end and measure it (not on Windows); its failure is ours."""
    environment = {**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3"}
    with tempfile.TemporaryFile() as output:
        started = time.monotonic()
        child = subprocess.Popen(command, stdout=output, stderr=output, env=environment)
        _, status, used = os.wait4(child.pid, 0)
        seconds = time.monotonic() - started
        child.returncode = os.waitstatus_to_exitcode(status)
        output.seek(0)
        text = output.read().decode(errors="replace")
    if child.returncode:
        raise SystemExit(f"{' '.join(command)} ended with {child.returncode}:\n{text}")
    return Finished(seconds, used.ru_utime + used.ru_stime, used.ru_maxrss / 2**10, text)


def machine() -> dict[str, Any]:
    """The machine in plain facts."""
    return {
        "processor": _processor(),
        "cores": psutil.cpu_count(logical=False),
        "memory_gib": round(psutil.virtual_memory().total / 2**30, 1),
        "python": platform.python_version(),
        "load_before": round(os.getloadavg()[0], 2) if hasattr(os, "getloadavg") else None,
    }


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor()
    names = (line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    return next(names, platform.machine())


def write_result(path: Path | None, result: dict[str, Any]) -> None:
    """Write a benchmark's result, with the machine, as JSON."""
    if path:
        content = {"machine": machine(), **result}
        path.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
