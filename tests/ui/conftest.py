"""`medlens ui` as a process of its own, below a folder of phantoms."""

from __future__ import annotations

import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest

SECONDS_TO_START = 120
SECONDS_FOR_A_STEP = 300
# As in the session's finished run, so that its features are there already.
OPTIONS = {
    "weights": "random",
    "image_size": 32,
    "epochs": 15,
    "positive_class": "mass",
    "no_saliency": True,
}


@dataclass(frozen=True)
class Page:
    """A server that runs, and a client that has its token.

    Args:
        client: Brings the token with every request.
        token: It.
        process: The server.
        root: The folder that it may see.
    """

    client: httpx.Client
    token: str
    process: subprocess.Popen[str]
    root: Path

    @property
    def address(self) -> str:
        """Where the page is, with the token, as a browser opens it."""
        return f"{self.client.base_url}#{self.token}"

    @property
    def port(self) -> int:
        """Where the server listens."""
        return self.client.base_url.port or 0

    def get(self, route: str, **parameters: Any) -> Any:
        """The JSON of an answer that went well."""
        answer = self.client.get(route, params=parameters)
        assert answer.status_code == 200, answer.text
        return answer.json()

    def post(self, route: str, content: Any = None, **parameters: Any) -> Any:
        """The same for what changes something."""
        answer = self.client.post(route, params=parameters, json=content)
        assert answer.status_code == 200, answer.text
        return answer.json()

    def new_run(self, name: str, **options: Any) -> str:
        """A run on the phantoms."""
        asked = {"data": "phantoms/labels.csv", "name": name, "options": {**OPTIONS, **options}}
        return str(self.post("/api/runs", asked)["path"])

    def wait(self, run: str, is_so: Callable[[dict[str, Any]], bool]) -> dict[str, Any]:
        """Ask until something is so, but not for ever."""
        until = time.monotonic() + SECONDS_FOR_A_STEP
        while True:
            said: dict[str, Any] = self.get("/api/run", path=run)
            if is_so(said):
                return said
            assert time.monotonic() < until, said
            time.sleep(0.1)

    def finish(self, run: str) -> dict[str, Any]:
        """Wait until nothing is at work in a run."""
        return self.wait(run, lambda said: not said["state"].endswith("ing"))


@pytest.fixture(scope="session")
def root(phantoms: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the phantoms below it."""
    folder = tmp_path_factory.mktemp("root").resolve()
    shutil.copytree(phantoms.parent, folder / "phantoms")
    return folder


Open = Callable[..., AbstractContextManager[Page]]


@pytest.fixture(scope="session")
def open_page(cache: Path) -> Open:
    """Starts a server for a folder, on any port that is free unless one is named, and ends it."""

    @contextmanager
    def start(root: Path, port: int = 0) -> Iterator[Page]:
        command = [sys.executable, "-m", "medlens", "ui", "--root", str(root), "--port", str(port)]
        command += ["--no-browser", "--cache", str(cache)]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
            try:
                assert process.stdout is not None
                said = process.stdout.readline()
                found = re.search(r"(http://127\.0\.0\.1:\d+)/#(\S+)", said)
                assert found, said
                address, token = found.groups()
                headers = {"Authorization": f"Bearer {token}"}
                with httpx.Client(base_url=address, headers=headers, timeout=120) as client:
                    yield Page(client, token, process, root)
            finally:
                process.send_signal(signal.SIGINT)
                process.wait(60)

    return start


@pytest.fixture(scope="session")
def page(open_page: Open, root: Path) -> Iterator[Page]:
    """One server for the tests that leave it as it is."""
    with open_page(root) as opened:
        yield opened
