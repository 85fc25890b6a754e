"""report.html -> report.pdf, printed by a Chromium that is installed."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

from medlens.errors import MedlensError
from medlens.files import write_bytes
from medlens.run_dir import RunDir

# Names the browser's program, where it is in none of the usual places.
CHROMIUM_VARIABLE = "MEDLENS_CHROMIUM"
PROGRAMS = (
    "chromium",
    "chromium-browser",
    "google-chrome",
    "google-chrome-stable",
    "chrome",
    "microsoft-edge",
    "msedge",
)
MAC_PLACES = (
    "/Applications/Google Chrome.app/Contents/MacOS/Google Chrome",
    "/Applications/Chromium.app/Contents/MacOS/Chromium",
    "/Applications/Microsoft Edge.app/Contents/MacOS/Microsoft Edge",
)
WINDOWS_FOLDERS = ("PROGRAMFILES", "PROGRAMFILES(X86)", "LOCALAPPDATA")
WINDOWS_PLACES = (
    "Google/Chrome/Application/chrome.exe",
    "Chromium/Application/chrome.exe",
    "Microsoft/Edge/Application/msedge.exe",
)
TIMEOUT_SECONDS = 120
# The moment of printing; the same report gives the same file.
DATES = re.compile(rb"/(?:Creation|Mod)Date \(D:[^)]*\)")
FIX = (
    f"Install Chromium, Google Chrome or Edge, or name its program in {CHROMIUM_VARIABLE}; "
    "or open report.html in any browser and print it there. The run itself is complete."
)


def print_pdf(run: RunDir) -> Path:
    """Print report.html as report.pdf; an earlier report.pdf stays until the new one is whole.

    The browser runs without a window, without a network, and with a profile of its own that is
    deleted afterwards.

    Args:
        run: A run folder with report.html.

    Returns:
        The path of the PDF.

    Raises:
        MedlensError: If there is no report, no browser, or the browser does not print.
    """
    if not run.report.is_file():
        raise MedlensError(
            "There is no report to print.",
            got="no report.html in the run folder",
            expected="a folder that `medlens train` wrote to the end",
            fix="Finish the run with --resume.",
            names=[str(run.root)],
        )
    chromium = find_chromium()
    # The browser's helpers may still write as it ends: what is left then is not worth a stop.
    with tempfile.TemporaryDirectory(prefix="medlens-", ignore_cleanup_errors=True) as folder:
        made = Path(folder) / "report.pdf"
        said = _print(chromium, run.report, made, Path(folder))
        content = made.read_bytes() if made.is_file() else b""
    if not content.startswith(b"%PDF-"):
        raise MedlensError(
            "The browser did not print the report.", got=said, expected="a PDF", fix=FIX
        )
    # Blanks of the same length: the file's table of places stays right.
    write_bytes(run.report_pdf, DATES.sub(lambda date: b" " * len(date[0]), content))
    return run.report_pdf


def find_chromium() -> Path:
    """The program of an installed Chromium, Chrome or Edge.

    Raises:
        MedlensError: If none is found, or the one named in MEDLENS_CHROMIUM is not there.
    """
    named = os.environ.get(CHROMIUM_VARIABLE)
    if named:
        found = shutil.which(named)
        if found is None:
            raise MedlensError(
                f"The browser named in {CHROMIUM_VARIABLE} is not there.",
                got="a name that is no program",
                expected="the path of Chromium, Google Chrome or Edge",
                fix=FIX,
                names=[named],
            )
        return Path(found)
    for place in _places():
        found = shutil.which(place)
        if found is not None:
            return Path(found)
    raise MedlensError(
        "The report cannot be printed as PDF: no browser was found.",
        got="none of " + ", ".join(PROGRAMS),
        expected="an installed Chromium, Google Chrome or Edge",
        fix=FIX,
    )


def _places() -> Iterator[str]:
    yield from PROGRAMS
    if sys.platform == "darwin":
        yield from MAC_PLACES
    for variable in WINDOWS_FOLDERS:
        if variable in os.environ:
            yield from (str(Path(os.environ[variable]) / place) for place in WINDOWS_PLACES)


def _print(chromium: Path, page: Path, pdf: Path, folder: Path) -> str:
    """Run the browser; returns what went wrong, if no file is there afterwards."""
    command = [
        str(chromium),
        "--headless",
        "--disable-gpu",
        "--no-first-run",
        "--no-default-browser-check",
        "--disable-background-networking",
        "--disable-component-update",
        "--disable-extensions",
        "--disable-sync",
        # Every name resolves to nothing: the page asks for nothing, and the browser shall not.
        "--host-resolver-rules=MAP * ~NOTFOUND",
        f"--user-data-dir={folder / 'profile'}",
        "--no-pdf-header-footer",
        f"--print-to-pdf={pdf}",
        page.resolve().as_uri(),
    ]
    if hasattr(os, "geteuid") and os.geteuid() == 0:
        command.insert(1, "--no-sandbox")  # Chromium's sandbox refuses to run as root
    try:
        done = subprocess.run(
            command,
            check=False,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            timeout=TIMEOUT_SECONDS,
        )
    except subprocess.TimeoutExpired:
        return f"nothing within {TIMEOUT_SECONDS} seconds"
    except OSError as error:
        return f"the browser does not start: {error.strerror}"
    return f"exit status {done.returncode}" if done.returncode else "no file was written"
