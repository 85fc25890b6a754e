from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path


def test_the_demo_goes_on_without_weights_and_says_so(tmp_path: Path) -> None:
    # No weights in Keras's folder, and a proxy that nobody answers: they cannot be had.
    nobody = dict.fromkeys(("http_proxy", "https_proxy"), "http://127.0.0.1:9")
    environment = {**os.environ, **nobody, "KERAS_HOME": str(tmp_path / "keras")}
    command = [sys.executable, "-m", "medlens", "demo", "--out", str(tmp_path / "demo")]
    result = subprocess.run(
        [*command, "--cache", str(tmp_path / "cache")],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 0, result.stderr
    assert "random filters" in result.stdout
    assert str(tmp_path / "demo" / "report.html") in result.stdout.replace("\n", "")
    evaluation = json.loads((tmp_path / "demo" / "evaluation.json").read_text(encoding="utf-8"))
    assert "random filters" in evaluation["notices"][0]
    assert "random filters" in (tmp_path / "demo" / "report.html").read_text(encoding="utf-8")
    # Random filters tell textures apart, if not well: far above the chance of one in three.
    assert evaluation["test"]["roc_auc_macro"]["value"] > 0.7
