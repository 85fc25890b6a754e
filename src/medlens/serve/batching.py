"""Pictures that wait -> batches for the process that holds the classifier."""

from __future__ import annotations

import asyncio
import logging
import time
from collections import deque
from collections.abc import Callable, Iterable
from contextlib import suppress
from pathlib import Path
from typing import Any

from medlens.errors import MedlensError
from medlens.log import describe_failure
from medlens.serve.child import (
    SECONDS_BETWEEN_LOOKS,
    Answer,
    Child,
    ChildDied,
    ChildTooSlow,
)
from medlens.serve.question import Question

LOG = logging.getLogger("medlens")
MODULE = "medlens.serve.classifier_process"
# How long the first picture waits for others to join it: far less than a forward pass takes.
SECONDS_TO_COLLECT = 0.002
# What one batch or one heat map may take before its process counts as hung.
SECONDS_TO_ANSWER = 120.0


class Batcher:
    """The queue of one classifier, and the process at its end.

    While a batch is in the process, the next one gathers here. The process is started anew when it
    ends; the pictures that it had are tried once more, one by one, so that one of them that ends
    it costs no other its answer.

    Args:
        folder: The classifier folder.
        observe_batch: Told the size of each batch.
    """

    def __init__(self, folder: Path, observe_batch: Callable[[int], None]) -> None:
        self._child = Child(MODULE, [str(folder)])
        self._observe_batch = observe_batch
        self._waiting: deque[Question] = deque()
        self._changed = asyncio.Event()
        self._run: asyncio.Task[None] | None = None
        self._batch = 1
        self.facts: dict[str, Any] = {}
        self.seconds_per_picture = 0.1

    @property
    def is_ready(self) -> bool:
        """Whether its process is there and has loaded the classifier, and somebody asks it."""
        return self._child.is_ready and self._run is not None and not self._run.done()

    @property
    def pid(self) -> int | None:
        """The number of its process."""
        return self._child.pid

    async def start(self) -> None:
        """Start the process and learn what it holds.

        Raises:
            MedlensError: If it cannot load the classifier.
        """
        await self._start_child()
        self._run = asyncio.create_task(self._work())

    async def stop(self) -> None:
        """End the process; whoever still waits is told."""
        if self._run is not None:
            self._run.cancel()
            await asyncio.gather(self._run, return_exceptions=True)
        self._child.kill()
        self._refuse(self._waiting)
        self._waiting.clear()

    async def predict(self, picture: bytes) -> dict[str, Any]:
        """What the classifier says of a picture.

        Args:
            picture: RGB pixels, of the classifier's size.

        Raises:
            NotAvailable: If the process ended twice over it.
        """
        row, _ = await self._ask({"do": "predict"}, picture)
        return row

    async def explain(self, picture: bytes, class_name: str | None) -> Answer:
        """What spoke for a class in a picture; see classifier_process.py.

        Raises:
            NotAvailable: If the process ended twice over it.
        """
        return await self._ask({"do": "explain", "class": class_name}, picture)

    async def _ask(self, head: dict[str, Any], picture: bytes) -> Answer:
        job = Question(head, picture)
        self._waiting.append(job)
        self._changed.set()
        return await job.answer()

    async def _work(self) -> None:
        while True:
            jobs: list[Question] = []
            try:
                if not self._child.is_ready:
                    await self._start_again()
                elif jobs := await self._next_jobs():
                    await self._answer(jobs)
            except asyncio.CancelledError:  # the end of the server
                self._refuse(jobs)
                raise
            except Exception as error:  # ours; whoever comes next may be answered
                LOG.error("A batch failed:\n%s", describe_failure(error))
                self._child.kill()
                self._refuse(jobs)
                await asyncio.sleep(SECONDS_BETWEEN_LOOKS)
            finally:
                for job in jobs:
                    job.end()

    async def _next_jobs(self) -> list[Question]:
        """Predictions as many as fit in a batch, or one heat map; none if none came for a while."""
        if not self._waiting:
            self._changed.clear()
            with suppress(TimeoutError):
                # Not for ever: a process that ends with nothing to do is started anew, too.
                await asyncio.wait_for(self._changed.wait(), SECONDS_BETWEEN_LOOKS)
        if 0 < len(self._waiting) < self._batch:
            await asyncio.sleep(SECONDS_TO_COLLECT)
        jobs: list[Question] = []
        while self._waiting and len(jobs) < self._batch:
            if jobs and not (_is_prediction(jobs[0]) and _is_prediction(self._waiting[0])):
                break
            job = self._waiting.popleft()
            if job.take():  # else whoever asked has gone
                jobs.append(job)
        return jobs

    async def _answer(self, jobs: list[Question]) -> None:
        if await self._is_answered(jobs):
            return
        for number, job in enumerate(jobs):
            if not job.is_wanted:
                continue
            if not self._child.is_ready:
                await self._start_again()
            if not self._child.is_ready:
                self._refuse(jobs[number:])
                return
            if not await self._is_answered([job]):
                self._refuse([job])

    async def _is_answered(self, jobs: list[Question]) -> bool:
        """Ask the process once; whether it answered."""
        pictures = b"".join(job.data for job in jobs)
        started = time.monotonic()
        try:
            head, body = await self._child.ask(jobs[0].head, pictures, seconds=SECONDS_TO_ANSWER)
        except (ChildDied, ChildTooSlow):
            LOG.warning("The process of a classifier ended at work; it is started anew.")
            return False
        if "failure" in head:
            LOG.error("A classifier failed:\n%s", head["failure"])
            return False
        if _is_prediction(jobs[0]):
            self._note(len(jobs), time.monotonic() - started)
            _hand_out(jobs, [(row, b"") for row in head["rows"]])
        else:
            _hand_out(jobs, [(head, body)])
        return True

    def _note(self, count: int, seconds: float) -> None:
        self._observe_batch(count)
        self.seconds_per_picture += 0.2 * (seconds / count - self.seconds_per_picture)

    async def _start_again(self) -> None:
        try:
            await self._start_child()
        except (ChildDied, ChildTooSlow, MedlensError, OSError) as error:
            reason = error.what if isinstance(error, MedlensError) else type(error).__name__
            LOG.error("The process of a classifier does not start again: %s", reason)
            self._refuse(self._waiting)
            self._waiting.clear()
            await asyncio.sleep(SECONDS_BETWEEN_LOOKS)

    async def _start_child(self) -> None:
        facts, _ = await self._child.start()
        if "error" in facts:
            self._child.kill()
            raise MedlensError(**facts["error"])
        if self.facts and facts["digest"] != self.facts["digest"]:
            # What waits was decoded for the other one, and clients were told of that.
            self._child.kill()
            raise MedlensError(
                "The classifier was changed while it was served.",
                got="another one in its folder",
                expected="the one that the server was started with",
                fix="Start the server anew.",
            )
        self.facts = facts
        self._batch = int(facts["batch"])

    def _refuse(self, jobs: Iterable[Question]) -> None:
        for job in jobs:
            job.refuse()


def _is_prediction(job: Question) -> bool:
    return bool(job.head["do"] == "predict")


def _hand_out(jobs: Iterable[Question], answers: Iterable[Answer]) -> None:
    for job, answer in zip(jobs, answers, strict=True):
        job.give(answer)
