"""Schemathesis sends what the OpenAPI document allows, and what it does not."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

# Not checked: that any bytes are welcome as an image; nearly all are unreadable (422).
LEFT_OUT = "positive_data_acceptance"


def run_schemathesis(server: Any, folder: Path, examples: int) -> None:
    command = [sys.executable, "-m", "schemathesis.cli", "run", f"{server.url}/openapi.json"]
    options = f"--max-examples {examples} --exclude-checks {LEFT_OUT} --seed 0 --workers 2"
    limits = "--request-timeout 30 --phases examples,coverage,fuzzing --no-color"
    done = subprocess.run(
        [*command, *options.split(), *limits.split()], cwd=folder, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout[-6000:] + done.stderr[-2000:]


def test_the_server_keeps_to_its_document(server: Any, tmp_path: Path) -> None:
    run_schemathesis(server, tmp_path, examples=5)


@pytest.mark.slow
def test_the_server_keeps_to_its_document_at_length(server: Any, tmp_path: Path) -> None:
    run_schemathesis(server, tmp_path, examples=300)
