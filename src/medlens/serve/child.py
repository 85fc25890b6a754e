"""A child process that answers one question at a time, and can be killed without harm."""

from __future__ import annotations

import asyncio
import math
import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from typing import Any

import psutil

from medlens.data.dicom_worker import receive, send

Answer = tuple[dict[str, Any], bytes]
# What loading a network may take on a slow and busy computer.
SECONDS_TO_START = 300.0
# How long whoever drives a process waits for work before it looks whether the process is there,
# and after a failure before it tries again.
SECONDS_BETWEEN_LOOKS = 1.0
LEAST_BETWEEN_LOOKS = 0.1
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
    """The process took longer than it was given, and was ended.

    Args:
        has_worked: Whether it took too much of a processor; else it may have had none to work on.
    """

    def __init__(self, *, has_worked: bool = False) -> None:
        super().__init__()
        self.has_worked = has_worked


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
        # Seconds that the last question took of a processor, at most.
        self.worked = 0.0
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

    async def ask(
        self,
        head: dict[str, Any],
        body: bytes = b"",
        *,
        seconds: float,
        work_seconds: float = math.inf,
    ) -> Answer:
        """Send one question and wait for its answer. Nobody else may ask meanwhile.

        Args:
            head: What is asked.
            body: Bytes that go with it.
            seconds: After how long the process is killed.
            work_seconds: After how much time of a processor, of it and its own children.

        Raises:
            ChildDied: If it ended before it answered; `start` starts it anew.
            ChildTooSlow: If the time was over.
        """
        return await self._within(seconds, (head, body), work_seconds)

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

    async def _within(
        self, seconds: float, question: Answer | None, work_seconds: float = math.inf
    ) -> Answer:
        process = self._process
        if process is None:
            raise ChildDied
        loop = asyncio.get_running_loop()
        exchange = loop.run_in_executor(self._thread, _exchange, process, question)
        exchange.add_done_callback(_look_at)
        # Not cancelled when the time is over: the thread ends by itself once the process is gone.
        watch = _Watch(process.pid)
        try:
            while True:
                pause = watch.pause(seconds, work_seconds)
                done, _ = await asyncio.wait({exchange}, timeout=pause)
                if done:
                    return exchange.result()
                watch.look()
                # Both: a process that works in several threads does so faster than time goes by.
                has_worked = min(watch.worked, watch.elapsed) >= work_seconds
                if has_worked or watch.elapsed >= seconds:
                    raise ChildTooSlow(has_worked=has_worked)
        except ChildTooSlow:
            self.kill()
            raise
        except (OSError, EOFError, ValueError):
            self.kill()
            raise ChildDied(process.returncode) from None
        finally:
            self.worked = watch.most


def _look_at(exchange: asyncio.Future[Answer]) -> None:
    """Take note of how it ended, also where nobody waits any more."""
    if not exchange.cancelled():
        exchange.exception()


class _Watch:
    """How much a process and its own children work on a question, as looks now and then tell.

    Most answers come before the first look, for which the children are searched; until then these
    are taken to have worked all the time, and after the last look all of them.

    Args:
        pid: The number of the process.
    """

    def __init__(self, pid: int) -> None:
        self._pid = pid
        self._began = self._looked = time.monotonic()
        self._before, self._has_looked = _work_of(pid, with_children=False), False
        self.worked = 0.0

    @property
    def elapsed(self) -> float:
        """Seconds since the question."""
        return time.monotonic() - self._began

    @property
    def most(self) -> float:
        """Seconds of a processor that they may have taken until now."""
        return self.worked + time.monotonic() - self._looked

    def pause(self, seconds: float, work_seconds: float) -> float:
        """Seconds until the next look, where so many are given to the question in all."""
        to_work = max(LEAST_BETWEEN_LOOKS, work_seconds - self.worked)
        return max(0.0, min(SECONDS_BETWEEN_LOOKS, to_work, seconds - self.elapsed))

    def look(self) -> None:
        """Take note of what they have worked."""
        work, self._looked = _work_of(self._pid, with_children=True), time.monotonic()
        if not self._has_looked:
            children = work - _work_of(self._pid, with_children=False)
            self._before += max(0.0, children - self.elapsed)
            self._has_looked = True
        self.worked = max(self.worked, work - self._before)


def _work_of(pid: int, *, with_children: bool) -> float:
    """Seconds that a process has had a processor; 0 where it has ended."""
    try:
        process = psutil.Process(pid)
        children = process.children(recursive=True) if with_children else []
        times = [one.cpu_times() for one in (process, *children)]
    except psutil.Error:
        return 0.0
    return float(sum(one.user + one.system for one in times))


def _exchange(process: subprocess.Popen[bytes], question: Answer | None) -> Answer:
    if process.stdin is None or process.stdout is None:
        raise OSError
    if question is not None:
        send(process.stdin, *question)
    return receive(process.stdout)
