"""Uploads -> what the classifiers say of them; knows decoders and batches, and nothing of HTTP."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Coroutine, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

from medlens.model.fast_cpu import usable_cores
from medlens.run_dir import RunDir
from medlens.serve.answers import Prediction
from medlens.serve.batching import Batcher
from medlens.serve.child import Answer, NotAvailable
from medlens.serve.decoders import Decoders
from medlens.serve.limits import Limits, Room
from medlens.serve.metrics import Metrics
from medlens.serve.uploads import Upload

MOST_DECODERS = 8
FAILED = "The server failed over this image. Send it again."
MOST_SECONDS_TO_WAIT = 60
T = TypeVar("T")


class Unreadable(Exception):  # noqa: N818 - it says what is the matter
    """The one image that was sent cannot be read."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


@dataclass(frozen=True)
class Served:
    """A classifier at work.

    Args:
        name: As clients call it.
        run: Its run folder; where the classifier's folder alone was given, that one.
        batcher: Its queue and its process.
    """

    name: str
    run: RunDir
    batcher: Batcher

    @property
    def facts(self) -> Mapping[str, Any]:
        """What its process said of it."""
        return self.batcher.facts


class Service:
    """All classifiers that are served, and the processes that decode for them.

    Args:
        folders: Run folders, or classifier folders, by name.
        limits: Of what may be under way.
        metrics: Where it is counted.
    """

    def __init__(self, folders: Mapping[str, Path], limits: Limits, metrics: Metrics) -> None:
        self.limits = limits
        self.metrics = metrics
        self.images = Room(limits.queue)
        self.bytes = Room(limits.bodies)
        self._at_work: set[asyncio.Task[Any]] = set()
        count = min(usable_cores(), MOST_DECODERS)
        self._decoders = Decoders(count, limits.decode_seconds, limits.pixels)
        self.models = {name: self._place(name, folder) for name, folder in folders.items()}
        metrics.queue.set_function(lambda: self.images.taken)
        for one in self.models.values():
            metrics.ready.labels(one.name).set_function(partial(_is_ready, one.batcher))

    async def start(self) -> None:
        """Start all processes.

        Raises:
            MedlensError: If a classifier cannot be loaded.
            ChildDied: If a process does not come up.
        """
        await self._decoders.start()
        # One after the other: side by side they would need the memory of all at once to load.
        for one in self.models.values():
            await one.batcher.start()

    async def stop(self) -> None:
        """End all processes."""
        await asyncio.gather(*(one.batcher.stop() for one in self.models.values()))
        await self._decoders.stop()

    @property
    def is_ready(self) -> bool:
        """Whether every classifier is loaded, and files can be decoded for them."""
        loaded = all(one.batcher.is_ready for one in self.models.values())
        return loaded and self._decoders.is_ready

    @property
    def seconds_to_wait(self) -> int:
        """How long what is under way may take, in whole seconds, 1 to 60."""
        slowest = max(one.batcher.seconds_per_picture for one in self.models.values())
        return min(max(1, math.ceil(slowest * self.images.taken)), MOST_SECONDS_TO_WAIT)

    def begin(self, work: Coroutine[Any, Any, T]) -> asyncio.Task[T]:
        """Work as a task, which is kept until it ends, also where nobody waits for it any more."""
        task = asyncio.create_task(work)
        self._at_work.add(task)
        task.add_done_callback(self._let_go)
        return task

    def _let_go(self, task: asyncio.Task[Any]) -> None:
        self._at_work.discard(task)
        if not task.cancelled():
            task.exception()  # looked at, or else asyncio writes it to the log

    async def predict(self, model: Served, uploads: Sequence[Upload]) -> list[Prediction]:
        """What a classifier says of each upload, in their order; others have a reason.

        Raises:
            Full: If too many images are under way.
            NotAvailable: If the processes failed over every one of them.
        """
        with self.images.held(len(uploads)):
            # All are waited for, also where one fails: what is under way keeps its room.
            found = await asyncio.gather(
                *(self._predict(model, one) for one in uploads), return_exceptions=True
            )
        if all(isinstance(one, NotAvailable) for one in found):
            raise NotAvailable
        answers = []
        for upload, one in zip(uploads, found, strict=True):
            if isinstance(one, NotAvailable):
                one = _prediction(upload.name, {"unreadable": FAILED, "failed": True}, model)
            if isinstance(one, BaseException):
                raise one
            self.metrics.images.labels(_outcome(one)).inc()
            answers.append(one)
        return answers

    async def explain(
        self, model: Served, upload: Upload, class_name: str | None
    ) -> tuple[Prediction, Answer, dict[str, float] | None]:
        """What spoke for a class in an image.

        Returns:
            The prediction; what the classifier's process answered; the window in which the network
            saw a grey DICOM image.

        Raises:
            Unreadable: If it cannot be read.
            Full: If too many images are under way.
            NotAvailable: If the classifier's process failed twice.
        """
        with self.images.held(1):
            head, picture = await self._decode(model, upload)
            if "unreadable" in head:
                raise Unreadable(head["unreadable"])
            answer = await model.batcher.explain(picture, class_name)
            if "unreadable" in answer[0]:
                raise Unreadable(answer[0]["unreadable"])
        prediction = _prediction(upload.name, answer[0]["row"], model)
        return prediction, answer, head["window"]

    async def look(
        self, model: Served, upload: Upload, window: tuple[float, float] | None
    ) -> bytes:
        """A PNG of how a file looks.

        Args:
            model: Of several frames, the one that it sees is shown.
            upload: The file.
            window: (center, width) for grey DICOM images, in their unit; None for the file's own.

        Raises:
            Unreadable: If it cannot be read.
            Full: If too many images are under way.
            NotAvailable: If no process can be started for it.
        """
        head = {
            "do": "look",
            "frame": model.facts["frame"],
            "pixels": self.limits.pixels,
            "window": window,
        }
        with self.images.held(1):
            facts, png = await self._decoders.decode(head, upload.data)
        if "unreadable" in facts:
            raise Unreadable(facts["unreadable"])
        return png

    async def _predict(self, model: Served, upload: Upload) -> Prediction:
        head, picture = await self._decode(model, upload)
        if "unreadable" in head:
            return _prediction(upload.name, {"unreadable": head["unreadable"]}, model)
        return _prediction(upload.name, await model.batcher.predict(picture), model)

    async def _decode(self, model: Served, upload: Upload) -> Answer:
        facts = model.facts
        head = {
            "do": "fit",
            "frame": facts["frame"],
            "pixels": self.limits.pixels,
            "size": facts["size"],
            "fit": facts["fit"],
        }
        return await self._decoders.decode(head, upload.data)

    def _place(self, name: str, folder: Path) -> Served:
        run = RunDir(folder)
        classifier = run.classifier if run.classifier.is_dir() else folder
        observe = self.metrics.batches.labels(name).observe
        return Served(name, run, Batcher(classifier, observe))


def _prediction(name: str, row: Mapping[str, Any], model: Served) -> Prediction:
    return Prediction(
        name=name,
        predicted=row.get("predicted"),
        probabilities=row.get("probabilities"),
        decision=row.get("decision"),
        prediction_set=row.get("prediction_set"),
        unfamiliar=row.get("unfamiliar"),
        distance=row.get("distance"),
        limit=model.facts["limit"],
        unreadable=row.get("unreadable"),
        failed=row.get("failed", False),
    )


def _outcome(one: Prediction) -> str:
    """What came of an image, as it is counted."""
    if one.failed:
        return "failed"
    return "unreadable" if one.unreadable else "answered"


def _is_ready(batcher: Batcher) -> float:
    return float(batcher.is_ready)
