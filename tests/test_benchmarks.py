"""Benchmarks that drive what changes most still run, at their smallest size."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"


def run(*command: str) -> list[str]:
    """The lines that a command prints beside the benchmarks."""
    done = subprocess.run(
        [sys.executable, *command], cwd=BENCHMARKS, capture_output=True, check=True, text=True
    )
    return done.stdout.splitlines()


@pytest.mark.slow
def test_handing_out_parts_is_measured_for_each_process() -> None:
    lines = run("dispatch.py", "--parts", "8")
    assert [line.split()[0] for line in lines] == ["driver", "runner", "ledger"]


@pytest.mark.slow
def test_writing_rows_is_measured(tmp_path: Path) -> None:
    script = "import pathlib, sys, scale_costs; scale_costs.PARTS = 2; "
    script += "print(*scale_costs.measure_rows(pathlib.Path(sys.argv[1])))"
    (line,) = run("-c", script, str(tmp_path))
    assert len(line.split()) == 2
