"""Files that clients sent -> pixels, in a few processes that a bad file may break or hold."""

from __future__ import annotations

import asyncio
import logging
import time
from dataclasses import dataclass
from typing import Any

from medlens.data.dicom_frames import TOO_LONG
from medlens.log import describe_failure
from medlens.serve.child import (
    SECONDS_BETWEEN_LOOKS,
    Answer,
    Child,
    ChildDied,
    ChildTooSlow,
    NotAvailable,
)
from medlens.serve.limits import MIB
from medlens.serve.question import Question

LOG = logging.getLogger("medlens")
MODULE = "medlens.serve.decoder_process"
TOO_SLOW = "It takes too long to decode."
TOO_MUCH = "It broke the decoder."
# So many times what a file may take of a processor is waited for, where other work has them all.
PATIENCE = 3.0
# Enough for a colour image of 40 million pixels (10 bytes each). 32-bit DICOM takes 50 a pixel.
USUAL_BYTES = 512 * MIB
BYTES_PER_PIXEL = 64


@dataclass
class _Clock:
    """The seconds that a file is still waited for, and that processes may still work on it."""

    seconds: float
    work_seconds: float


@dataclass(eq=False, kw_only=True)
class _Task(Question):
    """A file for one group of processes."""

    clock: _Clock


class Decoders:
    """Processes that decode: some for usual files, one for those that need more memory.

    So what all of them can take together is bounded, however small the files are that grow in them.

    Args:
        count: How many for usual files.
        seconds: What one file may take of a processor, however often it is tried.
        pixels: The largest image.
    """

    def __init__(self, count: int, seconds: float, pixels: int) -> None:
        self._seconds = seconds
        self._usual = _Group(count, USUAL_BYTES)
        self._large = _Group(1, max(USUAL_BYTES, BYTES_PER_PIXEL * pixels))

    @property
    def is_ready(self) -> bool:
        """Whether processes are there, and somebody asks each of them."""
        return self._usual.is_ready and self._large.is_ready

    @property
    def pids(self) -> list[int]:
        """The numbers of the processes, that for large files last."""
        return [*self._usual.pids, *self._large.pids]

    async def start(self) -> None:
        """Start the processes.

        Raises:
            ChildDied: If one does not come up.
        """
        await asyncio.gather(self._usual.start(), self._large.start())

    async def stop(self) -> None:
        """End the processes; whoever still waits is told."""
        await asyncio.gather(self._usual.stop(), self._large.stop())

    async def decode(self, head: dict[str, Any], data: bytes) -> Answer:
        """Ask a question of decoder_process.py about a file.

        Returns:
            Its answer; where the file broke or held a process twice, an answer with the reason.

        Raises:
            NotAvailable: If no process can be started for it, or it gets no processor.
        """
        clock = _Clock(PATIENCE * self._seconds, self._seconds)
        facts, body = await self._usual.decode(_Task(head, data, clock=clock))
        # Decoders in C do not say whether it was for want of memory that they failed.
        if "unreadable" in facts and facts["unreadable"] not in (TOO_SLOW, TOO_LONG):
            facts, body = await self._large.decode(_Task(head, data, clock=clock))
        return facts, body


class _Group:
    """Processes of one kind, each with one file at a time.

    Args:
        count: How many.
        memory: What one process may take for it, in bytes.
    """

    def __init__(self, count: int, memory: int) -> None:
        self._children = [Child(MODULE, [str(memory)]) for _ in range(count)]
        self._waiting: asyncio.Queue[_Task] = asyncio.Queue()
        self._runs: list[asyncio.Task[None]] = []

    @property
    def is_ready(self) -> bool:
        is_any = any(child.is_ready for child in self._children)
        return is_any and bool(self._runs) and not any(run.done() for run in self._runs)

    @property
    def pids(self) -> list[int]:
        return [child.pid for child in self._children if child.pid is not None]

    async def start(self) -> None:
        await asyncio.gather(*(child.start() for child in self._children))
        self._runs = [asyncio.create_task(self._run(child)) for child in self._children]

    async def stop(self) -> None:
        for run in self._runs:
            run.cancel()
        await asyncio.gather(*self._runs, return_exceptions=True)
        for child in self._children:
            child.kill()
        while not self._waiting.empty():
            _refuse(self._waiting.get_nowait())

    async def decode(self, task: _Task) -> Answer:
        self._waiting.put_nowait(task)
        return await task.answer()

    async def _run(self, child: Child) -> None:
        while True:
            task: _Task | None = None
            try:
                task = await self._next_task()
                if task is not None:
                    task.give(await self._decode(child, task))
                elif not child.is_ready:
                    await child.start()
            except asyncio.CancelledError:  # the end of the server
                _refuse(task)
                raise
            except NotAvailable:
                LOG.warning("A file was given up: the computer has too much to do.")
                _refuse(task)
            except Exception as error:  # no process to be had, or ours; the next file may be read
                LOG.error("A process that decodes failed:\n%s", describe_failure(error))
                child.kill()
                _refuse(task)
                await asyncio.sleep(SECONDS_BETWEEN_LOOKS)
            finally:
                if task is not None:
                    task.end()

    async def _next_task(self) -> _Task | None:
        """The next file; none if none came for a while, or whoever asked has gone."""
        try:
            # Not for ever: a process that ends with nothing to do is started anew, too.
            async with asyncio.timeout(SECONDS_BETWEEN_LOOKS):
                task = await self._waiting.get()
        except TimeoutError:
            return None
        return task if task.take() else None

    async def _decode(self, child: Child, task: _Task) -> Answer:
        # Once more where the process ended: something else may have ended it.
        for _ in range(2):
            if not child.is_ready:
                await child.start()
            started, clock = time.monotonic(), task.clock
            try:
                return await child.ask(
                    task.head,
                    task.data,
                    seconds=max(0, clock.seconds),
                    work_seconds=max(0, clock.work_seconds),
                )
            except ChildTooSlow as error:
                if not error.has_worked:  # no fault of the file
                    raise NotAvailable from None
                LOG.warning("A file was given up: it took too long.")
                return {"unreadable": TOO_SLOW}, b""
            except ChildDied:
                LOG.warning("A process that decodes ended; it is started anew.")
            finally:
                clock.seconds -= time.monotonic() - started
                clock.work_seconds -= child.worked
        return {"unreadable": TOO_MUCH}, b""


def _refuse(task: _Task | None) -> None:
    if task is not None:
        task.refuse()
