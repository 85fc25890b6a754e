"""A server under load against the forward pass alone, on the same cores in the same run.

    python benchmarks/serve.py --backbone vgg16 --seconds 60 --out serve.json
    python benchmarks/serve.py --run runs/one --seconds 600

A classifier is trained on a few synthetic images (or --run names one). Its forward pass runs on
pictures in memory; then a server of its own process, on this computer alone, answers clients that
send one file each and wait; then the forward pass runs again. Every answer is compared with
`Classifier.predict` on the same file. The ratio is the server's rate divided by that of the forward
pass alone. Beside it stands the same ratio of processor time, clients included, which other
programs on the machine hardly move. Memory is that of the server and all its processes.
"""

from __future__ import annotations

import argparse
import http.client
import itertools
import json
import os
import secrets
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import numpy as np
import psutil
from extraction import draw_image
from measure import write_result
from PIL import Image

import medlens
from medlens.model.classifier import Classifier

IMAGE_SIZE = 224
FILES = 64
# Largest difference of a probability from `predict`, and of a distance, relative.
LARGEST_DIFFERENCE, LARGEST_RELATIVE = 1e-6, 1e-4
SECONDS_TO_ANSWER = 120
SECONDS_TO_START = 180


def main() -> None:
    """Measure; print and write the result; fail where an answer was lost or wrong."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--run", type=Path, help="a finished run; by default one is made")
    parser.add_argument("--backbone", default="vgg16", help="of the run that is made")
    parser.add_argument("--clients", type=int, default=32)
    parser.add_argument("--seconds", type=float, default=60, help="of load")
    parser.add_argument("--bare-seconds", type=float, default=15, help="before, and after it")
    parser.add_argument("--out", type=Path)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        run = arguments.run or make_run(arguments.backbone, Path(folder))
        files = draw_files(Path(folder, "images"))
        result = compare(run, files, arguments.clients, arguments.seconds, arguments.bare_seconds)
    print(json.dumps(result, indent=2))
    write_result(arguments.out, {"clients": arguments.clients, **result})
    if result["wrong"] or result["refused"]:
        raise SystemExit("an answer was wrong or missing")


def make_run(backbone: str, folder: Path) -> Path:
    """A run of a network with random weights; what it answers does not matter here."""
    from medlens.data.phantom import write_phantoms

    data = write_phantoms(folder / "phantoms", images=60, seed=0)
    options: dict[str, Any] = {"backbone": backbone, "weights": "random", "plan": "plain"}
    medlens.train(
        data,
        out=folder / "run",
        image_size=IMAGE_SIZE,
        epochs=5,
        cache=str(folder / "cache"),
        no_saliency=True,
        quiet=True,
        **options,
    )
    return folder / "run"


def draw_files(folder: Path) -> list[Path]:
    """JPEG files of 256 px, all of them different."""
    folder.mkdir()
    random = np.random.default_rng(0)
    files = [folder / f"{number:03d}.jpg" for number in range(FILES)]
    for path in files:
        Image.fromarray(draw_image(256, random)).save(path, quality=92)
    return files


def compare(
    run: Path, files: list[Path], clients: int, seconds: float, bare_seconds: float
) -> dict[str, Any]:
    """Rates in images/s and their ratio; latency in ms; memory in MiB."""
    classifier = medlens.load(run)
    expected = classifier.predict(files)
    pictures = np.stack([classifier.picture(path) for path in files])
    before = run_bare(classifier, pictures, bare_seconds)
    with running_server(run) as (server, port):
        load = put_under_load(server, port, Clients(files, expected, clients), seconds)
    after = run_bare(classifier, pictures, bare_seconds)
    bare = Spent(before.images + after.images, before.seconds + after.seconds, 0.0)
    bare = Spent(bare.images, bare.seconds, before.processor + after.processor)
    return {
        "images": load.spent.images,
        "wrong": load.wrong,
        "refused": load.refused,
        "largest_difference_of_a_probability": load.apart[0],
        "largest_relative_difference_of_a_distance": load.apart[1],
        "images_per_second": round(load.spent.rate, 2),
        "bare_images_per_second": round(bare.rate, 2),
        "bare_before_to_after": round(before.rate / after.rate, 3),
        "ratio": round(load.spent.rate / bare.rate, 3),
        "processor_ms_per_image": round(1000 * load.spent.processor / load.spent.images, 2),
        "bare_processor_ms_per_image": round(1000 * bare.processor / bare.images, 2),
        "ratio_of_processor_time": round(
            bare.processor / bare.images / (load.spent.processor / load.spent.images), 3
        ),
        "p50_ms": round(float(np.percentile(load.milliseconds, 50)), 1),
        "p99_ms": round(float(np.percentile(load.milliseconds, 99)), 1),
        "largest_ms": round(max(load.milliseconds), 1),
        "memory_mib": summarise(load.memory),
    }


@dataclass(frozen=True)
class Spent:
    """Images, seconds on the clock, and seconds of processor time of all processes."""

    images: int
    seconds: float
    processor: float

    @property
    def rate(self) -> float:
        """Images per second."""
        return self.images / self.seconds


def run_bare(classifier: Classifier, pictures: np.ndarray, seconds: float) -> Spent:
    """The forward pass alone, batch by batch, for a while."""
    forward = classifier._forward
    forward.run(pictures[: forward.batch])
    images, started, processor = 0, time.perf_counter(), time.process_time()
    for start in itertools.cycle(range(0, len(pictures), forward.batch)):
        images += len(forward.run(pictures[start : start + forward.batch]))
        if time.perf_counter() - started >= seconds:
            break
    return Spent(images, time.perf_counter() - started, time.process_time() - processor)


@contextmanager
def running_server(run: Path) -> Iterator[tuple[psutil.Process, int]]:
    """A server on a free port of this computer alone; ended, and waited for, afterwards."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = int(probe.getsockname()[1])
    command = [sys.executable, "-m", "medlens", "serve", str(run), "--port", str(port)]
    nowhere = subprocess.DEVNULL
    with subprocess.Popen(command, stdout=nowhere, stderr=nowhere) as server:
        try:
            wait_until_ready(server, port)
            yield psutil.Process(server.pid), port
        finally:
            server.send_signal(signal.SIGTERM)
            server.wait(SECONDS_TO_ANSWER)


def wait_until_ready(server: subprocess.Popen[bytes], port: int) -> None:
    """Ask until every model is loaded."""
    until = time.monotonic() + SECONDS_TO_START
    while server.poll() is None and time.monotonic() < until:
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=SECONDS_TO_START)
        try:
            connection.request("GET", "/ready")
            if connection.getresponse().status == 200:
                return
        except OSError:
            pass
        finally:
            connection.close()
        time.sleep(0.2)
    raise SystemExit("the server did not start")


class Clients:
    """What the clients send, and what they must get for it.

    Args:
        files: Sent in turn, each client beginning elsewhere.
        expected: The table of `Classifier.predict` for them.
        count: How many clients there are.
    """

    def __init__(self, files: list[Path], expected: Any, count: int) -> None:
        boundary = secrets.token_hex(16)
        self.headers = {"Content-Type": f"multipart/form-data; boundary={boundary}"}
        self.names = [path.name for path in files]
        self.bodies = [_multipart(path, boundary) for path in files]
        columns = [name for name in expected if name.startswith("prob_")]
        self.classes = [name.removeprefix("prob_") for name in columns]
        self.probabilities = expected[columns].to_numpy()
        self.distances = expected["distance"].to_numpy()
        self.count = count

    def compare(self, number: int, answer: dict[str, Any]) -> tuple[float, float]:
        """How far an answer is from what `predict` says of that file.

        Returns:
            The largest difference of a probability, infinite in the answer for another file; and
            that of the distance, relative.
        """
        (result,) = answer["results"]
        if result["name"] != self.names[number]:
            return float("inf"), float("inf")
        found = np.array([result["probabilities"][name] for name in self.classes])
        distance = float(self.distances[number])
        apart = float(np.abs(found - self.probabilities[number]).max())
        return apart, abs(result["distance"] - distance) / distance


def _multipart(path: Path, boundary: str) -> bytes:
    head = (
        f'--{boundary}\r\nContent-Disposition: form-data; name="images"; filename="{path.name}"'
        "\r\nContent-Type: application/octet-stream\r\n\r\n"
    )
    return head.encode() + path.read_bytes() + f"\r\n--{boundary}--\r\n".encode()


@dataclass
class Load:
    """What came of the load: what was spent, and of each answer how long it took."""

    spent: Spent = field(default_factory=lambda: Spent(0, 1.0, 0.0))
    milliseconds: list[float] = field(default_factory=list)
    memory: list[tuple[float, float]] = field(default_factory=list)
    wrong: int = 0
    refused: int = 0
    apart: tuple[float, float] = (0.0, 0.0)


def put_under_load(server: psutil.Process, port: int, clients: Clients, seconds: float) -> Load:
    """Send as long as the time lasts, every client one file at a time; then wait for the rest."""
    load, lock = Load(), threading.Lock()
    before, started = _processor_seconds(server), time.perf_counter()
    until = started + seconds

    def send(client: int) -> None:
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=SECONDS_TO_ANSWER)
        for turn in itertools.count(client * len(clients.bodies) // clients.count):
            if time.perf_counter() >= until:
                break
            number = turn % len(clients.bodies)
            sent = time.perf_counter()
            connection.request("POST", "/predict", clients.bodies[number], clients.headers)
            response = connection.getresponse()
            content = response.read()
            took = 1000 * (time.perf_counter() - sent)
            is_answer = response.status == 200
            apart = clients.compare(number, json.loads(content)) if is_answer else (0.0, 0.0)
            with lock:
                load.milliseconds.append(took)
                load.refused += not is_answer
                load.wrong += apart[0] > LARGEST_DIFFERENCE or apart[1] > LARGEST_RELATIVE
                load.apart = max(load.apart[0], apart[0]), max(load.apart[1], apart[1])
        connection.close()

    threads = [threading.Thread(target=send, args=(one,)) for one in range(clients.count)]
    for thread in threads:
        thread.start()
    while any(thread.is_alive() for thread in threads):
        load.memory.append((time.perf_counter() - started, _memory_mib(server)))
        time.sleep(min(1.0, seconds / 20))
    took = time.perf_counter() - started
    load.spent = Spent(len(load.milliseconds), took, _processor_seconds(server) - before)
    return load


def _family(server: psutil.Process) -> list[psutil.Process]:
    return [server, *server.children(recursive=True)]


def _processor_seconds(server: psutil.Process) -> float:
    """Of the server, its processes, and the clients in this one."""
    times = [process.cpu_times() for process in _family(server)]
    return float(sum(one.user + one.system for one in times)) + time.process_time()


def _memory_mib(server: psutil.Process) -> float:
    return float(sum(process.memory_info().rss for process in _family(server))) / 2**20


def summarise(memory: list[tuple[float, float]]) -> dict[str, float]:
    """First and last tenth, the most, and the growth in MiB a minute over the second half."""
    seconds, values = np.array(memory).T
    tenth = max(1, len(values) // 10)
    half = len(values) // 2
    slope = np.polyfit(seconds[half:], values[half:], 1)[0] if len(values) - half > 2 else 0.0
    return {
        "first_tenth": round(float(values[:tenth].mean()), 1),
        "last_tenth": round(float(values[-tenth:].mean()), 1),
        "most": round(float(values.max()), 1),
        "growth_per_minute": round(60 * float(slope), 2),
    }


if __name__ == "__main__":
    main()
