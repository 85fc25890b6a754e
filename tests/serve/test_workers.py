"""The server's own processes, driven from here: what becomes of them when the system fails them."""

from __future__ import annotations

import asyncio
import io
import json
import os
import re
import shutil
import sys
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import psutil
import pytest
from PIL import Image
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import DeflatedExplicitVRLittleEndian

from medlens.model.checksums import write_checksums
from medlens.model.classifier_files import CHECKSUMS_FILE
from medlens.serve.batching import Batcher
from medlens.serve.child import NotAvailable
from medlens.serve.decoders import TOO_SLOW, USUAL_BYTES, Decoders
from medlens.serve.limits import Limits
from medlens.serve.metrics import Metrics
from medlens.serve.service import FAILED, Service
from medlens.serve.uploads import Upload

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
        decoders = Decoders(1, SECONDS, 1 << 20)
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


def large_png() -> bytes:
    """An image that takes its time."""
    stream = io.BytesIO()
    noise = np.random.default_rng(0).integers(0, 256, (4000, 4000, 3), np.uint8)
    Image.fromarray(noise).save(stream, "PNG", compress_level=1)
    return stream.getvalue()


@asynccontextmanager
async def decoders_for(seconds: float) -> AsyncIterator[Decoders]:
    """One process, and so many seconds of a processor for a file."""
    decoders = Decoders(1, seconds, 1 << 24)
    await decoders.start()
    try:
        yield decoders
    finally:
        await decoders.stop()


def test_a_file_may_take_so_much_of_a_processor() -> None:
    async def story() -> None:
        async with decoders_for(0.1) as decoders:
            asked = {"do": "look", "frame": None, "pixels": 1 << 24}
            assert await decoders.decode(asked, large_png()) == ({"unreadable": TOO_SLOW}, b"")

    run(story())


def test_a_file_that_gets_no_processor_is_not_called_unreadable(files: list[Path]) -> None:
    data = files[0].read_bytes()

    async def story() -> None:
        async with decoders_for(1) as decoders:
            # Held longer than that second, and not as long as it is waited for.
            held = psutil.Process(decoders.pids[0])
            held.suspend()
            asyncio.get_running_loop().call_later(1.5, held.resume)
            _, png = await decoders.decode(LOOK, data)
            assert png.startswith(b"\x89PNG")
            psutil.Process(decoders.pids[0]).suspend()
            with pytest.raises(NotAvailable):
                await decoders.decode(LOOK, data)
            _, png = await decoders.decode(LOOK, data)
            assert png.startswith(b"\x89PNG")

    run(story())


def deflated(side: int) -> bytes:
    """A DICOM file of side x side pixels of 32 bits, the upper half black, packed small."""
    header = FileMetaDataset()
    header.TransferSyntaxUID = DeflatedExplicitVRLittleEndian
    header.MediaStorageSOPClassUID = header.MediaStorageSOPInstanceUID = "1.2.3"
    one = Dataset()
    one.file_meta = header
    one.Rows = one.Columns = side
    one.SamplesPerPixel, one.PhotometricInterpretation = 1, "MONOCHROME2"
    one.BitsAllocated = one.BitsStored = 32
    one.HighBit, one.PixelRepresentation = 31, 0
    one.PixelData = bytes(2 * side * side) + b"\1\0\0\0" * (side * side // 2)
    stream = io.BytesIO()
    one.save_as(stream, enforce_file_format=True)
    return stream.getvalue()


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux limits the memory of a process")
def test_a_small_file_that_grows_is_decoded_alone_or_refused() -> None:
    async def story() -> None:
        decoders = Decoders(1, SECONDS, 3600 * 3600)
        await decoders.start()
        try:
            usual, large = map(psutil.Process, decoders.pids)
            before = usual.memory_info().rss
            data = deflated(3600)
            assert len(data) < 100_000
            look = {**LOOK, "pixels": 3600 * 3600}
            _, png = await decoders.decode(look, data)
            assert png.startswith(b"\x89PNG")
            assert peak(usual) - before < USUAL_BYTES < peak(large) - before
            # What is allowed here, but more than there is memory for.
            facts, _ = await decoders.decode({**LOOK, "pixels": 5000 * 5000}, deflated(5000))
            assert "more memory" in facts["unreadable"]
            assert [usual.pid, large.pid] == decoders.pids
        finally:
            await decoders.stop()

    run(story())


def peak(process: psutil.Process) -> int:
    """The most memory that a process has had so far, in bytes."""
    found = re.search(r"VmHWM:\s+(\d+) kB", Path(f"/proc/{process.pid}/status").read_text())
    assert found
    return 1024 * int(found[1])


@pytest.mark.slow
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


@pytest.mark.slow
def test_who_waits_when_the_processes_are_ended_is_told(
    finished_run: Any, files: list[Path], classifier: Classifier
) -> None:
    picture = classifier.picture(files[0]).tobytes()

    async def story() -> None:
        batcher = Batcher(finished_run.path / "classifier", lambda _: None)
        decoders = Decoders(1, SECONDS, 1 << 20)
        await asyncio.gather(batcher.start(), decoders.start())
        try:
            for pid in (batcher.pid, *decoders.pids):
                psutil.Process(pid).suspend()
            asked = [batcher.predict(picture) for _ in range(2)]
            looked = [decoders.decode(LOOK, files[0].read_bytes()) for _ in range(2)]
            waiting = [asyncio.create_task(one) for one in (*asked, *looked)]
            await asyncio.sleep(0.5)  # the first of each is under way
        finally:
            await asyncio.gather(batcher.stop(), decoders.stop())
        async with asyncio.timeout(SECONDS / 4):
            told = await asyncio.gather(*waiting, return_exceptions=True)
        assert [type(one) for one in told] == [NotAvailable] * 4

    run(story())


def test_an_image_that_fails_costs_no_other_its_answer(
    finished_run: Any, files: list[Path]
) -> None:
    async def story() -> None:
        service = Service({"run": finished_run.path}, Limits(), Metrics())
        await service.start()
        try:
            model, broken = service.models["run"], Upload("b", cast("bytes", None))
            good = [Upload(path.name, path.read_bytes()) for path in files[:2]]
            first, failed, last = await service.predict(model, [good[0], broken, good[1]])
            assert (first.unreadable, failed.unreadable, last.unreadable) == (None, FAILED, None)
            assert (first.failed, failed.failed, last.failed) == (False, True, False)
            count = service.metrics.registry.get_sample_value
            assert count("medlens_images_total", {"outcome": "failed"}) == 1
            assert count("medlens_images_total", {"outcome": "unreadable"}) is None
            with pytest.raises(NotAvailable):
                await service.predict(model, [broken])
            left = [one.get_coro().__qualname__ for one in asyncio.all_tasks()]
            assert "Service._predict" not in left
            assert service.images.taken == 0
        finally:
            await service.stop()

    run(story())


@pytest.mark.slow
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
