"""Whatever ends: the server's own processes, or the server."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import httpx
import psutil
import pytest

if TYPE_CHECKING:
    import pandas as pd

CLASSIFIER = "medlens.serve.classifier_process"


def ask(server: Any, path: Path) -> httpx.Response:
    files = [("images", (path.name, path.read_bytes()))]
    return httpx.post(f"{server.url}/predict", files=files, timeout=120)


def is_right(response: httpx.Response, path: Path, row: pd.Series) -> bool:
    (result,) = response.json()["results"]
    apart = [
        abs(result["probabilities"][name.removeprefix("prob_")] - row[name])
        for name in row.index
        if name.startswith("prob_")
    ]
    return result["name"] == path.name and max(apart) <= 1e-6


def test_a_worker_killed_during_load_costs_no_answer(
    server: Any, files: list[Path], expected: pd.DataFrame
) -> None:
    wrong, answered, done = [], [], threading.Event()

    def keep_asking(client: int) -> None:
        turn = client
        while not done.is_set():
            place = turn % len(files)
            response = ask(server, files[place])
            answered.append(response.status_code)
            if response.status_code != 200 or not is_right(
                response, files[place], expected.iloc[place]
            ):
                wrong.append(response.status_code)
            turn += 8

    with ThreadPoolExecutor(8) as pool:
        clients = [pool.submit(keep_asking, number) for number in range(8)]
        try:
            for module in ("classifier_process", "decoder_process"):
                server.wait_until(lambda: len(answered) > 30)
                killed = server.child(module)
                killed.kill()
                killed.wait(60)
                if module == "classifier_process":
                    assert httpx.get(f"{server.url}/ready", timeout=60).status_code == 503
                    assert httpx.get(f"{server.url}/health", timeout=60).status_code == 200
                    server.wait_until(lambda: is_ready(server))
                answered.clear()
            server.wait_until(lambda: len(answered) > 30)
        finally:
            done.set()
        for one in clients:
            one.result()
    assert wrong == []


def is_ready(server: Any) -> bool:
    return httpx.get(f"{server.url}/ready", timeout=60).status_code == 200


def test_a_worker_that_dies_with_nothing_to_do_is_there_again(server: Any) -> None:
    before = server.child("classifier_process")
    before.kill()
    before.wait(60)
    server.wait_until(lambda: is_ready(server))
    assert server.child("classifier_process").pid != before.pid


def test_sigterm_finishes_what_was_taken(
    start: Any, finished_run: Any, files: list[Path], expected: pd.DataFrame
) -> None:
    with start(finished_run.path) as server:
        children = psutil.Process(server.process.pid).children(recursive=True)
        assert len(children) >= 2
        held = server.child("classifier_process")
        held.suspend()
        with ThreadPoolExecutor(4) as pool:
            waiting = [pool.submit(ask, server, path) for path in files[:4]]
            server.wait_until(lambda: in_queue(server) == 4)
            server.process.terminate()
            # No new connection from now on.
            server.wait_until(lambda: not is_open(server))
            held.resume()
            answers = [one.result() for one in waiting]
        for answer, path, (_, row) in zip(answers, files, expected.iterrows(), strict=False):
            assert is_right(answer, path, row)
        assert server.process.wait(60) == 0
        gone, alive = psutil.wait_procs(children, timeout=20)
        assert (len(gone), alive) == (len(children), [])


def in_queue(server: Any) -> float:
    text = httpx.get(f"{server.url}/metrics", timeout=60).text
    (line,) = [one for one in text.splitlines() if one.startswith("medlens_queue_images ")]
    return float(line.rpartition(" ")[2])


def is_open(server: Any) -> bool:
    try:
        httpx.get(f"{server.url}/health", timeout=60)
    except httpx.TransportError:
        return False
    return True


def test_its_processes_end_with_a_server_that_is_killed(start: Any, finished_run: Any) -> None:
    with start(finished_run.path) as server:
        children = psutil.Process(server.process.pid).children(recursive=True)
        server.process.kill()
        server.process.wait(60)
        _, alive = psutil.wait_procs(children, timeout=60)
        assert alive == []


@pytest.mark.parametrize("seconds", [60, pytest.param(600, marks=pytest.mark.slow)])
def test_memory_is_flat_under_load(finished_run: Any, tmp_path: Path, seconds: int) -> None:
    script = Path(__file__).parents[2] / "benchmarks" / "serve.py"
    result = tmp_path / "serve.json"
    command = [sys.executable, script, "--run", finished_run.path, "--seconds", str(seconds)]
    subprocess.run([*command, "--bare-seconds", "2", "--out", result], check=True)
    memory = json.loads(result.read_text(encoding="utf-8"))["memory_mib"]
    # Caches fill in the first half.
    grown = memory["growth_per_minute"] * seconds / 120
    assert grown < 0.05 * memory["first_tenth"]


@pytest.mark.slow
def test_the_end_waits_for_a_request_that_takes_all_its_time(
    start: Any, finished_run: Any, files: list[Path]
) -> None:
    seconds = 8
    with start(finished_run.path, "--time-limit", seconds) as server:
        held = server.child("classifier_process")
        held.suspend()

        def body() -> Iterator[bytes]:
            yield b'--x\r\nContent-Disposition: form-data; name="images"; filename="a"\r\n\r\n'
            server.process.terminate()
            time.sleep(seconds - 1)
            yield files[0].read_bytes() + b"\r\n--x--\r\n"

        kind = {"Content-Type": "multipart/form-data; boundary=x"}
        answer = httpx.post(f"{server.url}/predict", content=body(), headers=kind, timeout=60)
        assert answer.status_code == 504
        assert server.process.wait(60) == 0


def test_a_process_that_ends_while_it_starts_is_told_of(finished_run: Any) -> None:
    command = [sys.executable, "-m", "medlens", "serve", finished_run.path, "--port", "0"]
    with subprocess.Popen(command, stderr=subprocess.PIPE) as started:
        found: list[psutil.Process] = []
        while not found:
            assert started.poll() is None
            children = psutil.Process(started.pid).children()
            with suppress(psutil.Error):  # one that just ended
                found = [one for one in children if CLASSIFIER in one.cmdline()]
            time.sleep(0.01)
        found[0].kill()  # as the system does for want of memory
        _, said = started.communicate(timeout=60)
    assert started.returncode == 2
    assert b"signal 9" in said
    assert b"memory" in said
    assert b"log.txt" not in said
