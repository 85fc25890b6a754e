"""Who is let in, and where to: the token, other sites, and nothing outside of the root."""

from __future__ import annotations

import http.client
import io
import shutil
import zipfile
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx
import pytest

from medlens.run_dir import RunDir
from medlens.serve.run_zip import write_run_zip
from medlens.ui.root import Refused, Root

OUTSIDE = "That lies outside of the folder given with --root."


@pytest.mark.parametrize(
    "name",
    ["..", "../", "a/../..", "/", "/etc", "/etc/passwd", "a/../../b", "./..", "\0", "a\0b"],
)
def test_a_name_that_leads_out_is_refused(tmp_path: Path, name: str) -> None:
    (tmp_path / "a").mkdir()
    with pytest.raises(Refused, match="outside") as caught:
        Root(tmp_path).path(name)
    assert caught.value.status == 403


def test_links_are_followed_and_those_that_lead_out_are_refused(tmp_path: Path) -> None:
    root = Root(tmp_path / "root")
    (root.folder / "data").mkdir(parents=True)
    (tmp_path / "secret").mkdir()
    (root.folder / "inside").symlink_to("data")
    (root.folder / "out").symlink_to(tmp_path / "secret")
    (root.folder / "circle").symlink_to("circle")
    assert root.path("inside") == root.folder / "data"
    for name in ("out", "out/deeper", "circle"):
        with pytest.raises(Refused):
            root.path(name)


def test_names_and_paths_are_each_other(tmp_path: Path) -> None:
    root = Root(tmp_path)
    for name in ("", "a", "a/b c/ü.csv"):
        assert root.name(root.path(name)) == name


ROUTES: list[tuple[str, str]] = [
    ("GET", "/api/folders?path={}"),
    ("GET", "/api/run?path={}"),
    ("GET", "/api/run/audit?path={}"),
    ("POST", "/api/run/audit?path={}"),
    ("POST", "/api/run/stop?path={}"),
    ("POST", "/api/run/try?path={}"),
    ("GET", "/api/run/log?path={}"),
    ("GET", "/api/run/thumbnail?image=a.png&path={}"),
    ("GET", "/api/compare?first={0}&second={0}"),
    ("DELETE", "/api/run?confirm=etc&path={}"),
    ("GET", "/runs/report?path={}"),
    ("GET", "/runs/zip?path={}"),
]


@pytest.mark.parametrize(("method", "route"), ROUTES)
@pytest.mark.parametrize("path", ["..", "%2e%2e", "..%2f..%2fetc", "/etc", "%2Fetc", "out"])
def test_no_route_leads_out(page: Any, method: str, route: str, path: str) -> None:
    """Sent as it is written: a client of its own would tidy the address up."""
    link = page.root / "out"
    if not link.is_symlink():
        link.symlink_to("/etc")
    connection = http.client.HTTPConnection(str(page.client.base_url.netloc, "ascii"), timeout=60)
    headers = {"Authorization": f"Bearer {page.token}"}
    connection.request(method, route.format(path), headers=headers)
    answer = connection.getresponse()
    assert (answer.status, OUTSIDE in answer.read().decode()) == (403, True)
    connection.close()


def test_new_runs_and_options_stay_inside_as_well(page: Any) -> None:
    def status(route: str, content: Any) -> int:
        return int(page.client.post(route, json=content).status_code)

    assert status("/api/runs", {"data": "../etc"}) == 403
    assert status("/api/runs", {"data": "/etc"}) == 403
    assert status("/api/runs", {"data": "phantoms", "name": "../up"}) == 422
    assert status("/api/runs", {"data": "phantoms", "name": ".hidden"}) == 422
    for option, value in (
        ("weights", "/etc/passwd"),
        ("split", "../splits.csv"),
        ("plan", "../.."),
        ("backbone", "vgg16,../own.keras"),
    ):
        assert status("/api/runs", {"data": "phantoms", "options": {option: value}}) == 403
    for option in ("out", "data", "cache", "resume", "overwrite", "exclude", "track"):
        assert status("/api/runs", {"data": "phantoms", "options": {option: "x"}}) == 422


def test_a_link_that_leads_out_is_not_listed(page: Any) -> None:
    link = page.root / "phantoms" / "elsewhere"
    link.symlink_to("/etc")
    try:
        names = [one["name"] for one in page.get("/api/folders", path="phantoms")["entries"]]
    finally:
        link.unlink()
    assert names == ["healthy", "labels.csv", "mass", "microcalcification"]


@pytest.mark.parametrize("name", ["report.html", "log.txt", "audit.json", ".ui/output.txt", ".ui"])
def test_a_run_with_links_is_neither_shown_nor_written_to(
    page: Any, tmp_path: Path, name: str
) -> None:
    run = page.new_run("linked")
    secret = tmp_path / "secret"
    link = page.root / run / name
    if name == ".ui":
        link.rename(secret)
        (secret / "output.txt").write_text("secret")
    else:
        secret.write_text("secret")
    link.symlink_to(secret)
    asked = {"path": run}
    try:
        for route in ("/runs/report", "/api/run/log", "/api/run"):
            answer = page.client.get(route, params=asked)
            assert (answer.status_code, "secret" in answer.text) == (403, False)
        for route in ("/api/run/audit", "/api/run/exclude"):
            assert page.client.post(route, params=asked, json={}).status_code == 403
        (row,) = [one for one in page.get("/api/runs")["runs"] if one["path"] == run]
        assert (row["state"], "is a link" in row["reason"]) == ("cannot be read", True)
        assert (secret / "output.txt" if name == ".ui" else secret).read_text() == "secret"
    finally:
        shutil.rmtree(page.root / run)


def test_links_are_not_packed(own_run: RunDir, tmp_path: Path) -> None:
    (tmp_path / "secret").write_text("secret")
    for link in (own_run.dataset, own_run.classifier / "classifier.json"):
        link.unlink()
        link.symlink_to(tmp_path / "secret")
    stream = io.BytesIO()
    write_run_zip(own_run, stream)
    with zipfile.ZipFile(stream) as packed:
        names = {name.partition("/")[2] for name in packed.namelist()}
    assert "report.html" in names
    assert not {"dataset.csv", "classifier/classifier.json"} & names


def test_a_thumbnail_is_of_the_data_and_of_nothing_else(page: Any) -> None:
    run = page.new_run("thumbnails")
    image = next((page.root / "phantoms" / "mass").glob("*.png")).name

    def ask(name: str) -> httpx.Response:
        return page.client.get("/api/run/thumbnail", params={"path": run, "image": name})

    found = ask(f"mass/{image}")
    assert (found.status_code, found.headers["content-type"]) == (200, "image/jpeg")
    assert found.content[:2] == b"\xff\xd8"
    assert ask("../../../../etc/passwd").status_code == 403
    assert ask("/etc/passwd").status_code == 403
    assert ask("mass/\0.png").status_code == 403
    assert ask("mass/" + 1000 * "x" + ".png").status_code in (403, 422)
    assert ask("mass/none.png").status_code == 422
    assert ask("labels.csv").status_code == 422
    shutil.rmtree(page.root / run)


def test_without_the_token_only_the_empty_page_is_open(page: Any) -> None:
    closed = ("/api/about", "/api/folders", "/api/runs", "/runs/report", "/runs/zip", "/x")
    wrong = {"Authorization": "Bearer " + page.token[:-1]}
    with httpx.Client(base_url=page.client.base_url) as bare:
        assert bare.get("/").status_code == 200
        assert bare.get("/static/serve/dom.js").status_code == 200
        for path in closed:
            assert bare.get(path).status_code == 401
        assert bare.get("/api/about", headers=wrong).status_code == 401
        assert bare.post("/api/phantom").status_code == 401


def test_other_sites_and_other_names_are_refused(page: Any) -> None:
    other = page.client.post("/api/phantom", headers={"Origin": "http://other.example"})
    assert other.status_code == 403
    assert page.client.get("/api/about", headers={"Host": "other.example"}).status_code == 421


def test_the_cookie_is_good_for_documents_alone(page: Any) -> None:
    given = page.client.get("/api/about").headers["set-cookie"]
    assert {"HttpOnly", "Path=/runs/"} <= set(given.split("; "))
    assert page.token not in given
    cookie = {"Cookie": given.partition(";")[0]}
    with httpx.Client(base_url=page.client.base_url, headers=cookie) as bare:
        for document in ("report", "model-card"):
            assert bare.get(f"/runs/{document}?path=phantoms").status_code == 404
        for secret in ("zip?path=phantoms", "export?path=phantoms&format=onnx", "other"):
            assert bare.get(f"/runs/{secret}").status_code == 401
        assert bare.get("/api/runs").status_code == 401
        assert bare.post("/api/phantom").status_code == 401
        assert bare.get("/try/x/predict").status_code == 404


def test_it_listens_on_this_computer_alone(page: Any) -> None:
    import psutil

    address = urlsplit(str(page.client.base_url))
    listening = [
        one.laddr
        for one in psutil.Process(page.process.pid).net_connections()
        if one.status == psutil.CONN_LISTEN
    ]
    assert [(one.ip, one.port) for one in listening] == [("127.0.0.1", address.port)]
