"""The server's own processes, driven from here: what becomes of them when the system fails them."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
from collections.abc import Callable, Coroutine, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psutil
import pytest

from medlens.model.checksums import CHECKSUMS_FILE, write_checksums
from medlens.serve.batching import Batcher
from medlens.serve.child import NotAvailable
from medlens.serve.decoders import Decoders

if TYPE_CHECKING:
    from medlens.model.classifier import Classifier

resource = pytest.importorskip("resource")
SECONDS = 60
LOOK = {"do": "look", "frame": None, "pixels": 1 << 20}


@contextmanager
def no_descriptors_left() -> Iterator[None]:
    """No file can be opened here, and so no process started."""
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    free = os.dup(0)
    os.close(free)
    resource.setrlimit(resource.RLIMIT_NOFILE, (free, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, before)


async def until(is_so: Callable[[], bool]) -> None:
    async with asyncio.timeout(SECONDS):
        while not is_so():
            await asyncio.sleep(0.05)


def kill(pid: int | None) -> None:
    process = psutil.Process(pid)
    process.kill()
    while process.is_running() and process.status() != psutil.STATUS_ZOMBIE:
        pass


def run(story: Coroutine[Any, Any, None]) -> None:
    asyncio.run(asyncio.wait_for(story, 2 * SECONDS))


def test_a_decoder_that_cannot_be_started_again_costs_one_answer(files: list[Path]) -> None:
    data = files[0].read_bytes()

    async def story() -> None:
        decoders = Decoders(1, SECONDS)
        await decoders.start()
        try:
            assert decoders.is_ready
            kill(decoders.pids[0])
            with no_descriptors_left():
                with pytest.raises(NotAvailable):
                    await decoders.decode(LOOK, data)
                assert not decoders.is_ready
            await until(lambda: decoders.is_ready)  # though nobody asks for anything
            _, png = await decoders.decode(LOOK, data)
            assert png.startswith(b"\x89PNG")
        finally:
            await decoders.stop()

    run(story())


def test_a_classifier_that_cannot_be_started_again_is_told_of(
    finished_run: Any, classifier: Classifier, files: list[Path]
) -> None:
    async def story() -> None:
        batcher = Batcher(finished_run.path / "classifier", lambda _: None)
        await batcher.start()
        try:
            picture = classifier.picture(files[0]).tobytes()
            kill(batcher.pid)
            with no_descriptors_left():
                with pytest.raises(NotAvailable):
                    await batcher.predict(picture)
                assert not batcher.is_ready
            await until(lambda: batcher.is_ready)
            assert (await batcher.predict(picture))["predicted"] in classifier.classes
        finally:
            await batcher.stop()

    run(story())


def test_one_picture_that_fails_costs_no_other_its_answer(
    finished_run: Any, classifier: Classifier, files: list[Path]
) -> None:
    async def story() -> None:
        sizes: list[int] = []
        batcher = Batcher(finished_run.path / "classifier", sizes.append)
        await batcher.start()
        try:
            good = [classifier.picture(path).tobytes() for path in files[:3]]
            asked = [*good[:2], b"no picture", good[2]]
            answers = await asyncio.gather(*map(batcher.predict, asked), return_exceptions=True)
        finally:
            await batcher.stop()
        assert isinstance(answers.pop(2), NotAvailable)
        expected = classifier.predict(files[:3])["predicted"]
        assert [one["predicted"] for one in answers] == list(expected)
        assert sizes == [1, 1, 1]  # all four together failed first

    run(story())


def test_another_classifier_in_the_folder_is_not_served(finished_run: Any, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(finished_run.path / "classifier", tmp_path / "classifier"))
    facts_file = folder / "classifier.json"
    names = [line.split()[1] for line in (folder / CHECKSUMS_FILE).read_text().splitlines()]
    before = facts_file.read_text()

    async def story() -> None:
        batcher = Batcher(folder, lambda _: None)
        await batcher.start()
        try:
            facts_file.write_text(json.dumps({**json.loads(before), "frame": 7}))
            write_checksums(folder, names)
            kill(batcher.pid)
            with pytest.raises(NotAvailable):
                await batcher.predict(b"")
            assert (batcher.is_ready, batcher.facts["frame"]) == (False, None)
            facts_file.write_text(before)
            write_checksums(folder, names)
            await until(lambda: batcher.is_ready)
        finally:
            await batcher.stop()

    run(story())
