"""What is too much is refused with a status that says what to do."""

from __future__ import annotations

import io
import re
import select
import shutil
import socket
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx
import numpy as np
import psutil
import pytest
from PIL import Image

from medlens.serve.connections import MOST_PIPELINED
from medlens.serve.limits import KIB, MIB, Full, Limits, Room

SMALL_SECONDS = 4


@pytest.fixture(scope="module")
def small(start: Any, finished_run: Any) -> Iterator[Any]:
    """A server that takes little."""
    limits = "--queue 2 --max-images 2 --max-body 0.25 --max-pixels 0.01 --time-limit"
    with start(finished_run.path, *limits.split(), SMALL_SECONDS) as server:
        yield server


def post(server: Any, *contents: bytes) -> httpx.Response:
    parts = [("images", (f"{number}.png", data)) for number, data in enumerate(contents)]
    return httpx.post(f"{server.url}/predict", files=parts, timeout=60)


def test_too_many_images(small: Any, files: list[Path]) -> None:
    data = files[0].read_bytes()
    assert post(small, data, data).status_code == 200
    refused = post(small, data, data, data)
    assert refused.status_code == 413
    assert "2" in refused.json()["detail"]


def test_too_many_pixels_are_not_decoded(small: Any) -> None:
    stream = io.BytesIO()
    Image.new("L", (101, 100)).save(stream, "PNG")
    (result,) = post(small, stream.getvalue()).json()["results"]
    assert "101 x 100" in result["unreadable"]


def test_a_large_body_is_refused_whether_or_not_it_says_so(small: Any) -> None:
    refused = post(small, bytes(300_000))
    assert refused.status_code == 413

    def stream() -> Iterator[bytes]:
        yield b'--x\r\nContent-Disposition: form-data; name="images"; filename="a"\r\n\r\n'
        for _ in range(1000):
            yield bytes(10_000)

    with connect(small) as connection:
        connection.sendall(
            b"POST /predict HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n"
            b"Content-Type: multipart/form-data; boundary=x\r\n\r\n"
        )
        # The server answers before all of it has come, and closes the connection.
        with suppress(ConnectionError):
            for part in stream():
                connection.sendall(b"%x\r\n%s\r\n" % (len(part), part))
                if select.select([connection], [], [], 0.02)[0]:
                    break
        answer = connection.recv(4096)
    assert answer.startswith(b"HTTP/1.1 413 ")
    assert httpx.get(f"{small.url}/health", timeout=60).status_code == 200
    assert small.process.poll() is None


def test_a_body_that_never_ends_is_given_up(small: Any) -> None:
    with connect(small) as connection:
        connection.sendall(
            b"POST /predict HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1000\r\n"
            b"Content-Type: multipart/form-data; boundary=x\r\n\r\n--x\r\n"
        )
        answer = connection.recv(4096)
    assert answer.startswith(b"HTTP/1.1 408 ")


def connect(server: Any) -> socket.socket:
    address = urlsplit(server.url)
    assert address.hostname and address.port
    return socket.create_connection((address.hostname, address.port), timeout=60)


def is_closed(connection: socket.socket) -> bool:
    """Whether the server closes it, after what it may have sent before; waits for that."""
    with suppress(ConnectionResetError):
        while connection.recv(4096):
            pass
    return True


@pytest.mark.parametrize("part", [b"", b"GET /health HTTP/1.1\r\nHost: local"])
def test_a_connection_without_a_request_is_closed(small: Any, part: bytes) -> None:
    whole = b"GET /health HTTP/1.1\r\nHost: localhost\r\n\r\n"
    with connect(small) as first, connect(small) as next_one:
        first.sendall(part)
        next_one.sendall(whole)
        assert next_one.recv(4096).startswith(b"HTTP/1.1 200 ")
        next_one.sendall(part)
        assert is_closed(first)
        assert is_closed(next_one)


def test_connections_without_a_request_are_bounded(small: Any) -> None:
    with ExitStack() as stack:
        opened = [stack.enter_context(connect(small)) for _ in range(Limits.connections + 20)]
        assert is_closed(opened[-1])
        assert psutil.Process(small.process.pid).num_fds() < Limits.connections + 100
        assert is_closed(opened[0])  # after its time
        small.wait_until(lambda: psutil.Process(small.process.pid).num_fds() < 100)
    assert httpx.get(f"{small.url}/health", timeout=60).status_code == 200


@pytest.mark.parametrize(
    "begun",
    [
        b"GET /",
        b"GET /health HTTP/1.1\r\nHost: ",
        b"GET /health HTTP/1.1\r\n",
        b"POST /explain HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n"
        b"Content-Type: multipart/form-data; boundary=x\r\n\r\n1\r\n-\r\n0\r\n",
    ],
    ids=["address", "value", "lines", "lines after the body"],
)
def test_a_head_without_end_is_given_up(small: Any, begun: bytes) -> None:
    part = b"name: value\r\n" if begun.endswith(b"\n") else b"x" * 13
    before = psutil.Process(small.process.pid).memory_info().rss
    with connect(small) as connection:
        connection.sendall(begun)
        with pytest.raises(ConnectionError):
            for _ in range(64):
                connection.sendall(part * 80_000)
    assert psutil.Process(small.process.pid).memory_info().rss - before < 16 * MIB
    assert httpx.get(f"{small.url}/health", timeout=60).status_code == 200


def test_a_head_may_be_so_large(small: Any) -> None:
    with httpx.Client(base_url=small.url, timeout=60) as client:
        for _ in range(2):  # also the next one over the same connection
            assert client.get("/health", headers={"name": "x" * 60 * KIB}).status_code == 200
        # The connection is closed; whether what is said before arrives is up to the system.
        with suppress(httpx.TransportError):
            assert client.get("/health", headers={"name": "x" * 80 * KIB}).status_code == 400


ASKED = b"GET /models/run/report HTTP/1.1\r\nHost: localhost\r\n\r\n"
# Of a report: more than the system keeps of an answer that is not taken, some 4 MiB and those that
# the client's side takes by itself.
LARGE = 24 * MIB
HEALTH = b"GET /health HTTP/1.1\r\nHost: localhost\r\n\r\n"


def test_requests_that_wait_on_one_connection_are_bounded(small: Any) -> None:
    with connect(small) as connection:
        connection.sendall(HEALTH * (1 + MOST_PIPELINED))
        said = b""
        while said.count(b"HTTP/1.1 200 ") <= MOST_PIPELINED:
            part = connection.recv(4096)
            assert part
            said += part
    said = b""
    with connect(small) as connection:
        connection.sendall(HEALTH * 20 * MOST_PIPELINED)
        with suppress(ConnectionResetError):
            while part := connection.recv(4096):
                said += part
    # None of them, or those that were answered before too many had come.
    assert said.count(b"HTTP/1.1 200 ") < 20 * MOST_PIPELINED
    assert httpx.get(f"{small.url}/health", timeout=60).status_code == 200


@pytest.mark.slow
def test_a_client_that_takes_no_answer_is_given_up(
    start: Any, finished_run: Any, tmp_path: Path
) -> None:
    run = shutil.copytree(finished_run.path, tmp_path / "run")
    with (run / "report.html").open("a", encoding="ascii") as report:
        report.write(f"<!-- {' ' * LARGE} -->")
    with start(run, "--time-limit", SMALL_SECONDS) as server, ExitStack() as stack:
        process = psutil.Process(server.process.pid)
        before = process.num_fds()
        late, *others = [stack.enter_context(connect(server)) for _ in range(9)]
        for one in others:
            one.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        for one in (late, *others):
            one.sendall(ASKED)
        until = time.monotonic() + 3 * SMALL_SECONDS
        time.sleep(SMALL_SECONDS / 2)
        taken = 0
        while taken < LARGE:
            part = late.recv(1 << 20)
            assert part
            taken += len(part)
        late.close()
        time.sleep(max(0, until - time.monotonic()))
        assert process.num_fds() <= before


def test_a_client_that_goes_away_is_no_failure(small: Any) -> None:
    with connect(small) as connection:
        connection.sendall(
            b"POST /predict HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1000\r\n"
            b"Content-Type: multipart/form-data; boundary=x\r\n\r\n--x\r\n"
        )
    line = 'medlens_requests_total{method="POST",path="/predict",status="499"} 1.0'
    small.wait_until(lambda: line in _metrics(small))
    assert "/predict 499 " not in small.said()
    assert "failed" not in small.said()


def test_what_nobody_waits_for_is_not_worked_on(server: Any, files: list[Path]) -> None:
    image = {"image": ("a.png", files[0].read_bytes())}
    asked = httpx.Request("POST", f"{server.url}/explain", files=image)
    lines = [b"POST /explain HTTP/1.1", *(b"%s: %s" % one for one in asked.headers.raw)]
    content = b"\r\n".join([*lines, b"", asked.read()])
    held = server.child("classifier_process")
    before = _explained(server)
    with ExitStack() as stack, ThreadPoolExecutor(1) as pool:
        held.suspend()
        try:
            for _ in range(8):
                stack.enter_context(connect(server)).sendall(content)
            server.wait_until(lambda: _queue(server) == 8)
            waiting = pool.submit(post, server, files[0].read_bytes())
            server.wait_until(lambda: _queue(server) == 9)
            stack.close()
            server.wait_until(lambda: _explained(server)["499"] == before["499"] + 8)
            # The process has one of them, which keeps its room; and somebody waits for another.
            assert _queue(server) == 2
        finally:
            held.resume()
        assert waiting.result().status_code == 200
    assert _queue(server) == 0
    assert _explained(server)["200"] == before["200"]
    assert "failed" not in server.said()


def _explained(server: Any) -> Counter[str]:
    """How often each status was the answer to /explain."""
    line = r'_requests_total{method="POST",path="/explain",status="(\d+)"} (\d+)'
    found = re.findall(line, _metrics(server))
    return Counter({status: int(count) for status, count in found})


def test_a_full_queue_says_when_to_come_back(small: Any, files: list[Path]) -> None:
    data = files[0].read_bytes()
    held = small.child("classifier_process")
    with ThreadPoolExecutor(2) as pool:
        held.suspend()
        try:
            waiting = [pool.submit(post, small, data) for _ in range(2)]
            small.wait_until(lambda: _queue(small) == 2)
            refused = post(small, data)
        finally:
            held.resume()
        assert refused.status_code == 429
        assert 1 <= int(refused.headers["retry-after"]) <= 60
        # Nobody who was let in is lost for it.
        assert [one.result().status_code for one in waiting] == [200, 200]
    assert 'medlens_refused_total{reason="full"}' in _metrics(small)


def test_a_request_that_takes_too_long_is_told_so(small: Any, files: list[Path]) -> None:
    held = small.child("classifier_process")
    held.suspend()
    try:
        assert post(small, files[0].read_bytes()).status_code == 504
        # Meanwhile the server answers.
        assert httpx.get(f"{small.url}/health", timeout=60).status_code == 200
    finally:
        held.resume()
    assert post(small, files[0].read_bytes()).status_code == 200


@pytest.mark.slow
def test_a_decoder_that_hangs_is_replaced(server: Any, client: httpx.Client, files: Any) -> None:
    def names() -> set[int]:
        children = psutil.Process(server.process.pid).children()
        return {one.pid for one in children if "medlens.serve.decoder_process" in one.cmdline()}

    before = names()
    for pid in before:
        psutil.Process(pid).suspend()
    one = [("images", ("a", files[0].read_bytes()))]
    try:
        # One after the other is met and replaced. Nothing is said against the file: nobody has
        # looked at it.
        answers = [client.post("/predict", files=one) for _ in before]
    finally:
        for pid in names() & before:
            psutil.Process(pid).resume()
    assert {answer.status_code for answer in answers} == {200, 503}
    assert answers[-1].json()["results"][0]["predicted"]
    assert names() != before


def test_no_image_is_kept_on_the_disk(server: Any, client: httpx.Client) -> None:
    stream = io.BytesIO()
    noise = np.random.default_rng(0).integers(0, 256, (1500, 1500, 3), np.uint8)
    Image.fromarray(noise).save(stream, "PNG")  # 6 MB: more than parsers like to keep in memory
    one = psutil.Process(server.process.pid)
    # Neither the server nor its children can write a file larger than its log from now on.
    before = {each: each.rlimit(psutil.RLIMIT_FSIZE) for each in [one, *one.children(True)]}
    try:
        for each, (_, hard) in before.items():
            each.rlimit(psutil.RLIMIT_FSIZE, (len(server.said()) + 10_000, hard))
        response = client.post("/predict", files=[("images", ("a", stream.getvalue()))])
    finally:
        for each, limits in before.items():
            each.rlimit(psutil.RLIMIT_FSIZE, limits)
    assert response.status_code == 200
    # None of them was ended for it; a decoder that an earlier test ended may have come back.
    assert {each.pid for each in before} - {one.pid} <= {each.pid for each in one.children(True)}


def test_room_is_never_overdrawn() -> None:
    room = Room(3)
    with room.held(2):
        with pytest.raises(Full), room.held(2):
            pass
        with room.held(1):
            assert room.taken == 3
    assert room.taken == 0


def _queue(server: Any) -> float:
    lines = [one for one in _metrics(server).splitlines() if one.startswith("medlens_queue_images")]
    return float(lines[0].rpartition(" ")[2])


def _metrics(server: Any) -> str:
    return httpx.get(f"{server.url}/metrics", timeout=60).text
