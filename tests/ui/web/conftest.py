"""A server of `medlens ui` over a folder of its own, and its page in a real Chromium."""

from __future__ import annotations

import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import pytest

import medlens
from medlens.data.phantom import write_phantoms

SECONDS_TO_START = 180
SECONDS_TO_END = 60
RUNS = "medlens-runs"
# A network that is small and of random filters, so that a run takes seconds.
SMALL = {
    "backbone": "mobilenet_v2",
    "weights": "random",
    "image_size": "32",
    "plan": "plain",
    "no_saliency": "yes",
}


@dataclass(frozen=True)
class Ui:
    """A server that runs.

    Args:
        address: Of its page, with the token.
        process: It.
        root: The folder that it shows.
    """

    address: str
    process: subprocess.Popen[bytes]
    root: Path

    @property
    def base(self) -> str:
        """The address without the token."""
        return self.address.partition("#")[0]

    @property
    def port(self) -> int:
        """Where it listens."""
        return int(self.base.rstrip("/").rpartition(":")[2])

    def kill(self) -> None:
        """End it at once, as a crash would."""
        self.process.kill()
        self.process.wait()


@contextmanager
def running(root: Path, cache: Path, port: int = 0) -> Iterator[Ui]:
    """`medlens ui` over a folder, once it listens; ended afterwards, and what it began as well."""
    command = [sys.executable, "-m", "medlens", "ui", "--root", str(root), "--no-browser"]
    with tempfile.TemporaryFile() as output:
        process = subprocess.Popen(
            [*command, "--port", str(port), "--cache", str(cache)], stdout=output, stderr=output
        )
        try:
            yield Ui(_address(process, output), process, root)
        finally:
            process.send_signal(signal.SIGTERM)
            try:
                process.wait(SECONDS_TO_END)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def _address(process: subprocess.Popen[bytes], output: Any) -> str:
    until = time.monotonic() + SECONDS_TO_START
    while True:
        output.seek(0)
        said = output.read().decode()
        found = re.search(r"http://127\.0\.0\.1:\d+/#\S+", said)
        if found:
            return found[0]
        assert process.poll() is None, said
        assert time.monotonic() < until, said
        time.sleep(0.05)


@pytest.fixture(scope="session")
def start(cache: Path) -> Callable[..., AbstractContextManager[Ui]]:
    """Starts a server over a folder."""

    def started(root: Path, port: int = 0) -> AbstractContextManager[Ui]:
        return running(root, cache, port)

    return started


@pytest.fixture(scope="module")
def root(finished_run: medlens.Run, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with two finished runs, images in good order, and images in none."""
    folder = tmp_path_factory.mktemp("hospital")
    for name in ("first", "second"):
        shutil.copytree(finished_run.path, folder / RUNS / name)
    write_phantoms(folder / "tidy", images=90, seed=1)
    messy = write_phantoms(folder / "messy", images=90, seed=2).parent
    (messy / "labels.csv").unlink()
    healthy = sorted((messy / "healthy").glob("*.png"))
    shutil.copy(healthy[0], messy / "mass" / "the-same.png")
    shutil.copy(healthy[1], messy / "healthy" / "copy.png")
    (messy / "mass" / "broken.png").write_bytes(b"no picture")
    (folder / "notes").mkdir()
    return folder


@pytest.fixture(scope="module")
def ui(start: Callable[..., AbstractContextManager[Ui]], root: Path) -> Iterator[Ui]:
    """A server over that folder."""
    with start(root) as one:
        yield one


@pytest.fixture
def nobody_works_on() -> Iterator[Callable[[Path], None]]:
    """Ends what still works below a folder when the test is over, by its number."""
    folders: list[Path] = []
    yield folders.append
    for folder in folders:
        for process in psutil.process_iter(["cmdline"]):
            if any(part.startswith(str(folder)) for part in process.info["cmdline"] or ()):
                process.kill()
