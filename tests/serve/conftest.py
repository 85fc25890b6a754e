"""Servers of their own process, on free ports of this computer alone."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

import httpx
import psutil
import pytest

if TYPE_CHECKING:
    import pandas as pd

    import medlens
    from medlens.model.classifier import Classifier

SECONDS_TO_START = 180
SECONDS_TO_END = 60


@dataclass(frozen=True)
class Server:
    """A server that runs.

    Args:
        url: Where it is.
        process: It.
        output: What it says on both streams.
    """

    url: str
    process: subprocess.Popen[bytes]
    output: IO[bytes]

    def said(self) -> str:
        """Everything it has said so far."""
        self.output.seek(0)
        return self.output.read().decode()

    def child(self, module: str) -> psutil.Process:
        """One of its processes, by the module that it runs."""
        children = psutil.Process(self.process.pid).children()
        return next(one for one in children if f"medlens.serve.{module}" in one.cmdline())

    def wait_until(self, is_so: Callable[[], bool]) -> None:
        """Wait, but not for ever."""
        until = time.monotonic() + SECONDS_TO_START
        while not is_so():
            assert time.monotonic() < until, self.said()
            assert self.process.poll() is None, self.said()
            time.sleep(0.05)


def is_ready(server: Server) -> bool:
    """Whether every model is loaded."""
    try:
        return httpx.get(f"{server.url}/ready", timeout=SECONDS_TO_START).status_code == 200
    except httpx.TransportError:
        return False


@contextmanager
def running(*arguments: Any, **environment: str) -> Iterator[Server]:
    """`medlens serve` with these arguments, on a free port, once it is ready; ended afterwards."""
    command = [sys.executable, "-m", "medlens", "serve", *map(str, arguments), "--port", "0"]
    with tempfile.TemporaryFile() as output:
        process = subprocess.Popen(
            command, stdout=output, stderr=output, env={**os.environ, **environment}
        )
        try:
            waiting = Server("", process, output)
            waiting.wait_until(lambda: " at http://" in waiting.said())
            found = re.search(r" at (http://\S+)", waiting.said())
            assert found
            yield Server(found[1], process, output)
        finally:
            process.send_signal(signal.SIGTERM)
            try:
                process.wait(SECONDS_TO_END)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


@pytest.fixture(scope="session")
def start() -> Callable[..., AbstractContextManager[Server]]:
    """Starts a server with the arguments given."""
    return running


@pytest.fixture(scope="session")
def server(finished_run: medlens.Run) -> Iterator[Server]:
    """A server of one run, with the default limits."""
    with running(finished_run.path) as one:
        yield one


@pytest.fixture
def client(server: Server) -> Iterator[httpx.Client]:
    """A client of that server."""
    with httpx.Client(base_url=server.url, timeout=SECONDS_TO_START) as one:
        yield one


@pytest.fixture(scope="session")
def classifier(finished_run: medlens.Run) -> Classifier:
    """The classifier that the server holds, here as well."""
    import medlens

    return medlens.load(finished_run.path)


@pytest.fixture(scope="session")
def files(phantoms: Path) -> list[Path]:
    """Some image files."""
    return sorted(phantoms.parent.rglob("*.png"))[:48]


@pytest.fixture(scope="session")
def expected(classifier: Classifier, files: list[Path]) -> pd.DataFrame:
    """What `Classifier.predict` says of them."""
    return classifier.predict(files)
