"""Nothing of TensorFlow's own start is said to a person."""

from __future__ import annotations

import os
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
    # The tests set this; a person does not.
    own = {name: one for name, one in os.environ.items() if name != "TF_CPP_MIN_LOG_LEVEL"}
    ran = subprocess.run(
        [sys.executable, "-c", code, finished_run.path, image],
        capture_output=True,
        text=True,
        check=True,
        env=own,
    )
    assert (ran.stdout.strip(), ran.stderr) == ("1", "")
