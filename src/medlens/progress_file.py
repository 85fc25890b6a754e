"""The hidden file that says how far a run is, for whoever watches it from another process."""

from __future__ import annotations

import json
import math
import os
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psutil

from medlens.files import write_bytes

if TYPE_CHECKING:
    import keras

SECONDS_BETWEEN_WRITES = 0.5
# A process is known again by its number and its start; clocks round that differently.
SECONDS_OF_ROUNDING = 2.0


@dataclass
class ProgressFile:
    """What a run is doing, written so that a reader never sees a part of it.

    It holds no file name and no patient.

    Args:
        path: The file.
        command: "audit", "plan" or "train".
    """

    path: Path
    command: str
    _stages: list[dict[str, Any]] = field(default_factory=list)
    _epochs: list[dict[str, Any]] = field(default_factory=list)
    _now: dict[str, Any] = field(default_factory=dict)
    _written: float = 0.0

    @contextmanager
    def stage(self, label: str, total: int, unit: str) -> Iterator[Callable[[int], None]]:
        """Keep the file true while one stage goes on.

        Args:
            label: What is being done.
            total: How many steps it has.
            unit: What a step is, in the plural.

        Yields:
            A function to be called with the number of steps done since the last call.
        """
        before, started = self._now, time.monotonic()
        self._now = {"stage": label, "done": 0, "total": total, "unit": unit, "seconds_left": None}
        self._write()

        def advance(steps: int) -> None:
            seconds, done = time.monotonic() - started, self._now["done"] + steps
            left = seconds * (total - done) / done if done else None
            self._now |= {"done": done, "seconds_left": None if left is None else round(left, 1)}
            self._write_now_and_then()

        yield advance
        self._stages.append({"stage": label, "seconds": round(time.monotonic() - started, 3)})
        self._now = before
        self._write()

    def begin(self, label: str) -> None:
        """Say what is being done now, where its steps are not counted."""
        self._now = {"stage": label, "done": None, "total": None, "unit": None}
        self._now["seconds_left"] = None
        self._write()

    def callback(self, name: str) -> keras.callbacks.Callback:
        """Notes the epochs of one training: "head" or "fine_tune"."""
        import keras

        def on_epoch_end(epoch: int, logs: Mapping[str, float] | None) -> None:
            figures = {key: _rounded(float(value)) for key, value in (logs or {}).items()}
            self._epochs.append({"training": name, "epoch": epoch + 1, **figures})
            self._write_now_and_then()

        return keras.callbacks.LambdaCallback(on_epoch_end=on_epoch_end)

    def _write_now_and_then(self) -> None:
        if time.monotonic() - self._written >= SECONDS_BETWEEN_WRITES:
            self._write()

    def _write(self) -> None:
        self._written = time.monotonic()
        content = {
            "command": self.command,
            "pid": os.getpid(),
            "started": psutil.Process().create_time(),
            **self._now,
            "stages": self._stages,
            "epochs": self._epochs,
        }
        # Nothing is lost with it: a full disk must not end a training because of it.
        with suppress(OSError):
            told = json.dumps(content, allow_nan=False).encode("utf-8")
            write_bytes(self.path, told, is_lasting=False)


def _rounded(value: float) -> float | None:
    """A figure for JSON, which has no word for infinity."""
    return round(value, 6) if math.isfinite(value) else None


@contextmanager
def kept_progress(path: Path, command: str) -> Iterator[ProgressFile]:
    """A progress file for as long as the block runs; what a killed process left is replaced."""
    progress = ProgressFile(path, command)
    try:
        yield progress
    finally:
        with suppress(OSError):
            path.unlink(missing_ok=True)


def read_progress(path: Path) -> dict[str, Any] | None:
    """What a process that is at work says of itself; None where none is."""
    try:
        content: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        is_at_work = is_running(int(content["pid"]), float(content["started"]))
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return content if is_at_work else None


def is_running(pid: int, started: float) -> bool:
    """Whether a process is still there, and is not another one that got its number.

    Args:
        pid: Its number.
        started: When it began, in seconds since 1970, as the system says.
    """
    try:
        process = psutil.Process(pid)
        is_same = bool(abs(process.create_time() - started) < SECONDS_OF_ROUNDING)
        return is_same and bool(process.status() != psutil.STATUS_ZOMBIE)
    except psutil.Error:
        return False
