"""Files that clients sent -> pixels, in a few processes that a bad file may break or hold."""

from __future__ import annotations

import asyncio
import logging
from dataclasses import dataclass
from typing import Any

from medlens.log import describe_failure
from medlens.serve.child import (
    SECONDS_BETWEEN_LOOKS,
    Answer,
    Child,
    ChildDied,
    ChildTooSlow,
    NotAvailable,
)

LOG = logging.getLogger("medlens")
MODULE = "medlens.serve.decoder_process"
TOO_SLOW = "It takes too long to decode."
TOO_MUCH = "It broke the decoder."


@dataclass(frozen=True)
class _Task:
    head: dict[str, Any]
    data: bytes
    done: asyncio.Future[Answer]


class Decoders:
    """Processes that decode, each one file at a time.

    Args:
        count: How many.
        seconds: What one file may take.
    """

    def __init__(self, count: int, seconds: float) -> None:
        self._children = [Child(MODULE) for _ in range(count)]
        self._seconds = seconds
        self._waiting: asyncio.Queue[_Task] = asyncio.Queue()
        self._runs: list[asyncio.Task[None]] = []

    @property
    def is_ready(self) -> bool:
        """Whether a process is there, and somebody asks each of them."""
        is_any = any(child.is_ready for child in self._children)
        return is_any and bool(self._runs) and not any(run.done() for run in self._runs)

    @property
    def pids(self) -> list[int]:
        """The numbers of its processes."""
        return [child.pid for child in self._children if child.pid is not None]

    async def start(self) -> None:
        """Start the processes.

        Raises:
            ChildDied: If one does not come up.
        """
        await asyncio.gather(*(child.start() for child in self._children))
        self._runs = [asyncio.create_task(self._run(child)) for child in self._children]

    async def stop(self) -> None:
        """End the processes."""
        for run in self._runs:
            run.cancel()
        await asyncio.gather(*self._runs, return_exceptions=True)
        for child in self._children:
            child.kill()

    async def decode(self, head: dict[str, Any], data: bytes) -> Answer:
        """Ask a question of decoder_process.py about a file.

        Returns:
            Its answer; where the file broke or held a process twice, an answer with the reason.

        Raises:
            NotAvailable: If no process can be started for it.
        """
        done: asyncio.Future[Answer] = asyncio.get_running_loop().create_future()
        self._waiting.put_nowait(_Task(head, data, done))
        return await done

    async def _run(self, child: Child) -> None:
        while True:
            task: _Task | None = None
            try:
                task = await self._next_task()
                if task is not None:
                    found = await self._decode(child, task)
                    if not task.done.done():
                        task.done.set_result(found)
                elif not child.is_ready:
                    await child.start()
            except Exception as error:  # no process to be had, or ours; the next file may be read
                LOG.error("A process that decodes failed:\n%s", describe_failure(error))
                child.kill()
                if task is not None and not task.done.done():
                    task.done.set_exception(NotAvailable())
                await asyncio.sleep(SECONDS_BETWEEN_LOOKS)

    async def _next_task(self) -> _Task | None:
        """The next file; none if none came for a while, or whoever asked has gone."""
        try:
            # Not for ever: a process that ends with nothing to do is started anew, too.
            async with asyncio.timeout(SECONDS_BETWEEN_LOOKS):
                task = await self._waiting.get()
        except TimeoutError:
            return None
        return None if task.done.done() else task

    async def _decode(self, child: Child, task: _Task) -> Answer:
        # Once more where the process ended: something else may have ended it.
        for _ in range(2):
            try:
                if not child.is_ready:
                    await child.start()
                return await child.ask(task.head, task.data, seconds=self._seconds)
            except ChildTooSlow:
                LOG.warning("A file was given up: it took more than %g s.", self._seconds)
                return {"unreadable": TOO_SLOW}, b""
            except ChildDied:
                LOG.warning("A process that decodes ended; it is started anew.")
        return {"unreadable": TOO_MUCH}, b""
