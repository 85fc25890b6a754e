"""Folders for the page of `medlens ui`, and servers over them that outlast the browser."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import psutil
import pytest

import medlens
from medlens.data.phantom import write_phantoms

RUNS = "medlens-runs"


@pytest.fixture
def start(open_page: Callable[..., Any]) -> Iterator[Callable[..., Any]]:
    """Starts a server over a folder; to be named before `visit`, so that it ends after it."""
    with ExitStack() as stack:
        yield lambda root, port=0: stack.enter_context(open_page(root, port))


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
def ui(open_page: Callable[..., Any], root: Path) -> Iterator[Any]:
    """A server over that folder."""
    with open_page(root) as one:
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
