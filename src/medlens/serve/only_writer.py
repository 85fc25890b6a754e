"""One process at a time writes a result."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path

from medlens.data.remote import is_remote
from medlens.errors import MedlensError

try:
    import fcntl
except ImportError:  # Windows has no such locks
    fcntl = None  # type: ignore[assignment]


def lock_path(path: Path) -> Path:
    """The file beside a result that holds the number of the process that writes it."""
    return path.with_name(f".{path.name}.lock")


@contextlib.contextmanager
def only_writer(path: Path) -> Iterator[None]:
    """Let no other process write a result at the same time.

    The system gives the lock of a process that died free, so that its file is no obstacle. On
    Windows and on other storage two writers are not noticed.

    Args:
        path: The result; its folder is made where it is missing.

    Raises:
        MedlensError: If another process writes it.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    if fcntl is None or is_remote(path):
        yield
        return
    lock = lock_path(path)
    descriptor = _take(lock, path)
    try:
        os.ftruncate(descriptor, 0)
        os.write(descriptor, str(os.getpid()).encode())
        yield
    finally:
        # While it is held: afterwards it might be another's.
        lock.unlink(missing_ok=True)
        os.close(descriptor)


def _take(lock: Path, path: Path) -> int:
    while True:
        descriptor = os.open(lock, os.O_RDWR | os.O_CREAT, 0o644)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if lock.stat().st_ino == os.fstat(descriptor).st_ino:
                return descriptor
        except BlockingIOError:
            writer = os.read(descriptor, 20).decode("ascii", "replace") or "just started"
            os.close(descriptor)
            raise MedlensError(
                "Another process writes this result.",
                got=f"process {writer} at work",
                expected="one at a time",
                fix="Wait until it has ended, or name another -o.",
                names=[str(path)],
            ) from None
        except FileNotFoundError:
            pass  # its writer has just ended and removed it
        except OSError:
            return descriptor  # a file system without locks
        os.close(descriptor)
