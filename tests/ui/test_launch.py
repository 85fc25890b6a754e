"""The browser that `medlens ui` opens, and what it says where there is none."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from medlens.config import UiOptions
from medlens.errors import MedlensError
from medlens.run_dir import RunDir
from medlens.ui.choices import Choices, write_choices
from medlens.ui.launch import run_ui

ADDRESS = re.compile(r"http://127\.0\.0\.1:\d+/#\S+")


@pytest.mark.skipif(os.name != "posix", reason="the browser of this test is a shell script")
@pytest.mark.parametrize("is_there", [True, False])
def test_the_browser_is_led_to_the_address_or_its_lack_is_said(
    tmp_path: Path, is_there: bool
) -> None:
    browser = tmp_path / "browser"
    browser.write_text(f"#!/bin/sh\necho opens $1 {'' if is_there else '; exit 1'}\n")
    browser.chmod(0o755)
    # No other browser is found.
    surroundings = {**os.environ, "BROWSER": str(browser), "PATH": "", "HOME": str(tmp_path)}
    surroundings.pop("DISPLAY", None)
    command = [sys.executable, "-m", "medlens", "ui", "--root", str(tmp_path), "--port", "0"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=surroundings) as process:
        try:
            assert process.stdout is not None
            address = ADDRESS.search(process.stdout.readline())
            assert address is not None
            process.stdout.readline()
            opens = process.stdout.readline().split()[-1]
            page = Path(opens.removeprefix("file://"))
            assert address[0] in page.read_text(encoding="utf-8")
            assert address[0] not in opens
            assert page.is_relative_to(tmp_path)
            assert page.parent.stat().st_mode & 0o077 == 0
            if not is_there:
                assert "No browser could be opened" in process.stdout.readline()
        finally:
            process.send_signal(signal.SIGINT)
            process.wait(60)
    assert not page.exists()


def test_a_run_is_no_folder_to_open_the_page_for(tmp_path: Path) -> None:
    write_choices(RunDir(tmp_path / "run"), Choices({"data": "x"}))
    with pytest.raises(MedlensError, match="is a run itself") as caught:
        run_ui(UiOptions(root=str(tmp_path / "run"), port=0, no_browser=True), print)
    assert "folder that the run lies in" in caught.value.fix
