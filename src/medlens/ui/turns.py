"""Changes of one run, one after the other."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from typing import IO

from medlens.run_dir import RunDir
from medlens.ui.root import Refused

try:
    import fcntl
except ImportError:  # Windows has no such locks
    fcntl = None  # type: ignore[assignment]


@contextmanager
def own_turn(run: RunDir) -> Iterator[None]:
    """Wait until nobody else changes a run: no other request, and no other server.

    What is read inside stays true until it is written. On Windows nobody waits.

    Args:
        run: A run that is there.

    Raises:
        Refused: If it is gone, or has another name, once the turn has come.
    """
    if fcntl is None:
        yield
        return
    with _wait(run):
        yield


def _wait(run: RunDir) -> IO[str]:
    place = run.page / "lock"
    with suppress(FileNotFoundError), ExitStack() as closing:
        run.page.mkdir(exist_ok=True)
        lock = closing.enter_context(place.open("a"))
        with suppress(OSError):  # a file system without locks
            fcntl.flock(lock, fcntl.LOCK_EX)
        if os.path.samestat(os.fstat(lock.fileno()), place.stat()):
            closing.pop_all()
            return lock
    raise Refused(404, "There is no run of that name any more.")
