"""A child process that answers one question at a time, and can be killed without harm."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from typing import Any

from medlens.data.dicom_worker import receive, send

Answer = tuple[dict[str, Any], bytes]
# What loading a network may take on a slow and busy computer.
SECONDS_TO_START = 300.0
# How long whoever drives a process waits for work before it looks whether the process is there,
# and after a failure before it tries again.
SECONDS_BETWEEN_LOOKS = 1.0
TOKEN_VARIABLE = "MEDLENS_TOKEN"  # noqa: S105 - its name


class ChildDied(Exception):  # noqa: N818 - it says what happened
    """The process ended before it answered.

    Args:
        status: Its exit status, below 0 for the signal that ended it; None where it was gone.
    """

    def __init__(self, status: int | None = None) -> None:
        super().__init__()
        self.status = status


class ChildTooSlow(Exception):  # noqa: N818 - it says what happened
    """The process took longer than it was given, and was ended."""


class NotAvailable(Exception):  # noqa: N818 - it says what happened
    """A process failed over what it was asked, or is gone and does not start."""


class Child:
    """A Python module that runs as a process of its own and speaks by messages, not by pickles.

    It leads a process group, so that Ctrl-C does not reach it and that killing it ends its own
    children as well. It ends by itself when this process does, as its input is then closed. The
    token of the server is not in its environment.

    Args:
        module: What `python -m` runs. Its first message says what it is; then it answers.
        arguments: Of the command.
    """

    def __init__(self, module: str, arguments: Sequence[str] = ()) -> None:
        self._command = [sys.executable, "-P", "-m", module, *arguments]
        self._process: subprocess.Popen[bytes] | None = None
        self._has_started = False
        # Its own, as it waits most of the time: the event loop's few are soon all waiting.
        self._thread = ThreadPoolExecutor(1)

    @property
    def is_ready(self) -> bool:
        """Whether there is a process that has started and has not ended."""
        return self._has_started and self._process is not None and self._process.poll() is None

    @property
    def pid(self) -> int | None:
        """The number of the process, if there is one."""
        return self._process.pid if self._process else None

    async def start(self) -> Answer:
        """Start the process and wait for its first message.

        Raises:
            ChildDied: If it ends without one.
            ChildTooSlow: If it takes minutes.
            OSError: If the system has no room for another process.
        """
        self.kill()
        pipe = subprocess.PIPE
        self._process = subprocess.Popen(
            self._command,
            stdin=pipe,
            stdout=pipe,
            stderr=subprocess.DEVNULL,
            process_group=0,
            env={name: value for name, value in os.environ.items() if name != TOKEN_VARIABLE},
        )
        said = await self._within(SECONDS_TO_START, None)
        self._has_started = True
        return said

    async def ask(self, head: dict[str, Any], body: bytes = b"", *, seconds: float) -> Answer:
        """Send one question and wait for its answer. Nobody else may ask meanwhile.

        Args:
            head: What is asked.
            body: Bytes that go with it.
            seconds: After how long the process is killed.

        Raises:
            ChildDied: If it ended before it answered; `start` starts it anew.
            ChildTooSlow: If the time was over.
        """
        return await self._within(seconds, (head, body))

    def kill(self) -> None:
        """End the process and its own children at once."""
        process, self._process = self._process, None
        self._has_started = False
        if process is None:
            return
        with suppress(ProcessLookupError, PermissionError):
            if hasattr(os, "killpg"):
                os.killpg(process.pid, signal.SIGKILL)
            else:
                process.kill()
        process.wait()
        for stream in (process.stdin, process.stdout):
            if stream is not None:
                with suppress(OSError):  # what is not sent yet cannot be: the process is gone
                    stream.close()

    async def _within(self, seconds: float, question: Answer | None) -> Answer:
        process = self._process
        if process is None:
            raise ChildDied
        loop = asyncio.get_running_loop()
        exchange = loop.run_in_executor(self._thread, _exchange, process, question)
        exchange.add_done_callback(_look_at)
        # Not cancelled when the time is over: the thread ends by itself once the process is gone.
        done, _ = await asyncio.wait({exchange}, timeout=seconds)
        if not done:
            self.kill()
            raise ChildTooSlow
        try:
            return exchange.result()
        except (OSError, EOFError, ValueError):
            self.kill()
            raise ChildDied(process.returncode) from None


def _look_at(exchange: asyncio.Future[Answer]) -> None:
    """Take note of how it ended, also where nobody waits any more."""
    if not exchange.cancelled():
        exchange.exception()


def _exchange(process: subprocess.Popen[bytes], question: Answer | None) -> Answer:
    if process.stdin is None or process.stdout is None:
        raise OSError
    if question is not None:
        send(process.stdin, *question)
    return receive(process.stdout)
