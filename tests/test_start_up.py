"""Nothing of TensorFlow's own start is said to a person."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import medlens


def test_python_starts_as_quietly_as_the_command(finished_run: medlens.Run, phantoms: Path) -> None:
    code = (
        "import medlens, sys\n"
        "classifier = medlens.load(sys.argv[1])\n"
        "print(len(classifier.predict(sys.argv[2])))\n"
    )
    image = next(phantoms.parent.rglob("*.png"))
    ran = subprocess.run(
        [sys.executable, "-c", code, finished_run.path, image],
        capture_output=True,
        text=True,
        check=True,
    )
    assert (ran.stdout.strip(), ran.stderr) == ("1", "")
