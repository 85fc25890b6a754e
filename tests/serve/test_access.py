"""Who is let in, and what browsers are told."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import httpx
import psutil
import pytest

from medlens.errors import MedlensError
from medlens.serve.access import host_name, is_loopback
from medlens.serve.launch import Settings, choose_access, serve

TOKEN = "a-secret"  # noqa: S105
BEARER = {"Authorization": f"Bearer {TOKEN}"}
IMAGE = [("images", ("a.png", b"x"))]


@pytest.fixture(scope="module")
def guarded(start: Any, finished_run: Any) -> Iterator[httpx.Client]:
    """A client of a server with a token and a further name."""
    names = ("--allowed-host", "images.example")
    with (
        # As from a file with an end of line.
        start(finished_run.path, *names, MEDLENS_TOKEN=f"{TOKEN}\n") as server,
        httpx.Client(base_url=server.url, timeout=60) as client,
    ):
        assert TOKEN not in server.said()
        for child in psutil.Process(server.process.pid).children():
            assert TOKEN not in child.environ().values()
        yield client


def test_without_the_token_only_the_empty_page_and_the_state_are_open(
    guarded: httpx.Client,
) -> None:
    for path in ("/", "/static/index.html", "/health", "/ready"):
        assert guarded.get(path).status_code == 200
    for path in ("/models", "/metrics", "/openapi.json", "/models/run/report", "/other"):
        refused = guarded.get(path)
        assert (refused.status_code, refused.headers["www-authenticate"]) == (401, "Bearer")
    assert guarded.post("/predict", files=IMAGE).status_code == 401


@pytest.mark.parametrize(
    "given", ["Bearer a-secre", "Bearer a-secret2", "Basic a-secret", "bearer \xff"]
)
def test_a_wrong_token_is_refused(guarded: httpx.Client, given: str) -> None:
    headers = {"Authorization": given.encode("latin-1")}
    assert guarded.get("/models", headers=headers).status_code == 401


def test_with_the_token_all_is_open(guarded: httpx.Client) -> None:
    assert guarded.get("/models", headers=BEARER).status_code == 200
    assert guarded.post("/predict", files=IMAGE, headers=BEARER).status_code == 422


def test_who_has_shown_the_token_can_follow_the_links_to_documents(guarded: httpx.Client) -> None:
    given = guarded.get("/models", headers=BEARER).headers["set-cookie"]
    cookie, _, rules = given.partition("; ")
    assert rules == "Path=/models/; HttpOnly; SameSite=Strict"
    assert TOKEN not in cookie
    headers = {"Cookie": cookie}
    assert guarded.get("/models/run/report", headers=headers).status_code == 200
    assert guarded.get("/metrics", headers=headers).status_code == 401
    assert guarded.post("/predict", files=IMAGE, headers=headers).status_code == 401
    assert guarded.get("/models/run/report", headers={"Cookie": cookie + "0"}).status_code == 401


def test_a_name_that_is_not_the_servers_is_refused(guarded: httpx.Client) -> None:
    for name in ("attacker.example", "127.0.0.1.attacker.example", "", "[::1"):
        assert guarded.get("/health", headers={"Host": name}).status_code in (400, 421)
    for name in ("localhost:9", "LOCALHOST", "127.0.0.1", "[::1]:80", "images.example"):
        assert guarded.get("/health", headers={"Host": name}).status_code == 200


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({"Origin": "http://attacker.example"}, 403),
        ({"Origin": "null"}, 403),
        ({"Origin": "http://localhost:1"}, 403),
        ({"Origin": "http://["}, 403),
        ({"Sec-Fetch-Site": "cross-site"}, 403),
        ({"Sec-Fetch-Site": "same-site"}, 403),
        ({"Origin": "http://images.example", "Host": "images.example"}, 422),
        ({"Sec-Fetch-Site": "same-origin"}, 422),
        # Behind a proxy that does not pass the name on.
        ({"Sec-Fetch-Site": "same-origin", "Origin": "https://images.example"}, 422),
        ({"Sec-Fetch-Site": "same-origin", "Host": "attacker.example"}, 421),
        (
            {
                "Sec-Fetch-Site": "cross-site",
                "Origin": "http://images.example",
                "Host": "images.example",
            },
            403,
        ),
        ({}, 422),
    ],
)
def test_pages_of_other_sites_cannot_send_images(
    guarded: httpx.Client, headers: dict[str, str], status: int
) -> None:
    response = guarded.post("/predict", files=IMAGE, headers={**BEARER, **headers})
    assert response.status_code == status


def test_every_answer_has_the_security_headers(guarded: httpx.Client) -> None:
    missing = guarded.get("/static/other", headers=BEARER)
    refused = guarded.get("/models")
    for answer in (guarded.get("/"), missing, refused, guarded.put("/predict", headers=BEARER)):
        policy = answer.headers["content-security-policy"]
        assert "default-src 'none'" in policy
        assert "unsafe" not in policy
        assert answer.headers["x-content-type-options"] == "nosniff"
        assert answer.headers["referrer-policy"] == "no-referrer"
        assert answer.headers["x-frame-options"] == "DENY"
        assert "access-control-allow-origin" not in answer.headers
        assert "server" not in answer.headers


@pytest.mark.parametrize("host", ["127.0.0.1", "::1", "localhost", "127.0.0.9"])
def test_on_this_computer_alone_no_token_is_needed(host: str) -> None:
    access = choose_access(Settings(host), {})
    assert is_loopback(host)
    assert access.token is None
    assert access.hosts is not None
    assert host in access.hosts


def test_behind_a_proxy_on_this_computer_a_token_is_needed() -> None:
    access = choose_access(Settings(allowed_hosts=("localhost", "images.example")), {})
    assert access.token
    assert access.hosts is not None
    assert "images.example" in access.hosts
    assert "other.example" not in access.hosts
    assert choose_access(Settings(allowed_hosts=("localhost", "::1")), {}).token is None


@pytest.mark.parametrize("given", ["geheim-\u00fc", "two\nlines", "a\tb", "a\x7f", " \n"])
def test_a_token_that_no_request_can_bring_is_refused_and_not_shown(given: str) -> None:
    for settings, environment in (
        (Settings(token=given), {}),
        (Settings(), {"MEDLENS_TOKEN": given}),
    ):
        with pytest.raises(MedlensError, match="No request can bring this token") as caught:
            choose_access(settings, environment)
        assert given.strip() == "" or given not in str(caught.value)


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.168.1.7", "workstation"])  # noqa: S104
def test_anywhere_else_there_is_always_a_token(host: str) -> None:
    made = [choose_access(Settings(host), {}).token for _ in range(2)]
    assert all(token and len(token) > 40 for token in made)
    assert made[0] != made[1]
    assert choose_access(Settings(host, token=TOKEN), {}).token == TOKEN
    assert choose_access(Settings(host), {"MEDLENS_TOKEN": TOKEN}).token == TOKEN
    assert choose_access(Settings(host), {}).hosts is None
    named = choose_access(Settings(host, allowed_hosts=("Images.Example",)), {}).hosts
    assert named is not None
    assert "images.example" in named


def test_names_are_read_from_the_header_as_browsers_write_them() -> None:
    headers = ("LocalHost:80", "[::1]:80", "a.example.", "[::1", "")
    assert [host_name(one) for one in headers] == ["localhost", "::1", "a.example", "", ""]


def test_a_port_that_is_taken_is_an_error_that_can_be_mended(tmp_path: Any) -> None:
    import socket

    with socket.create_server(("127.0.0.1", 0)) as taken:
        settings = Settings(port=taken.getsockname()[1])
        with pytest.raises(MedlensError) as caught:
            serve([tmp_path], settings, lambda _: None)
    assert "--port" in caught.value.fix


def test_a_folder_without_a_classifier_is_named(tmp_path: Any) -> None:
    with pytest.raises(MedlensError) as caught:
        serve([tmp_path], Settings(port=0), lambda _: None)
    assert caught.value.what == "There is no whole classifier in this folder."
