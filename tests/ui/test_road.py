"""The whole road by the page's own requests: real commands, a killed server, a run resumed."""

from __future__ import annotations

import io
import os
import shutil
import signal
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pandas as pd
import psutil
import pytest

import medlens
from medlens.run_dir import RunDir
from medlens.serve.run_zip import opened_run
from medlens.ui.own_files import foreign_files
from medlens.ui.trial import key_of

# What two runs with the same options must have in common, to the last byte.
SAME = ("splits.csv", "predictions.csv", "evaluation.json", "plan.json", "label_suspects.csv")


@pytest.fixture(scope="module")
def left_out(root: Path) -> str:
    return (
        next((root / "phantoms" / "healthy").glob("*.png"))
        .relative_to(root / "phantoms")
        .as_posix()
    )


@pytest.fixture(scope="module")
def trained(page: Any, left_out: str) -> Iterator[str]:
    """A run that went the whole road without a break, an image left out."""
    run = page.new_run("whole")
    page.post("/api/run/exclude", {"images": [left_out]}, path=run)
    page.post("/api/run/train", {}, path=run)
    stages, epochs = set(), 0

    def is_done(said: dict[str, Any]) -> bool:
        nonlocal epochs
        progress = said["progress"] or {}
        stages.add(progress.get("stage"))
        epochs = max(epochs, len(progress.get("epochs", [])))
        return not said["state"].endswith("ing")

    said = page.wait(run, is_done)
    assert (said["state"], said["error"]) == ("done", None)
    assert {"Training heads", "Testing", "Writing the report"} <= stages
    history = medlens.Run(page.root / run).history
    assert 0 < epochs <= len(history)
    yield run


def test_audit_and_plan_come_first_and_say_when_they_are_out_of_date(
    page: Any, left_out: str
) -> None:
    run = page.new_run("looked at")
    out = {"images": [left_out], "classes": ["microcalcification"]}
    said = page.post("/api/run/exclude", out, path=run)
    assert "--drop-class=microcalcification" in said["commands"]["audit"]
    command = page.post("/api/run/audit", path=run)["command"]
    assert command == said["commands"]["audit"]
    assert page.finish(run)["state"] == "audited"
    found = page.get("/api/run/audit", path=run)
    assert (found["would_train"], found["current"]) == (True, True)
    assert (found["excluded"], found["dropped"]) == ([left_out], ["microcalcification"])
    assert found["classes"] == [{"name": "healthy", "images": 49}, {"name": "mass", "images": 50}]

    # An audit of other options that fails leaves the old one, which does not become theirs.
    page.client.patch("/api/run/options", params={"path": run}, json={"patient_regex": "no(x)"})
    page.post("/api/run/audit", path=run)
    assert page.finish(run)["state"] == "failed"
    assert not page.get("/api/run/audit", path=run)["current"]
    page.client.patch("/api/run/options", params={"path": run}, json={"patient_regex": None})
    assert page.get("/api/run/audit", path=run)["current"]

    page.post("/api/run/exclude", {"include_classes": ["microcalcification"]}, path=run)
    assert not page.get("/api/run/audit", path=run)["current"]
    page.client.patch("/api/run/options", params={"path": run}, json={"fit": "crop"})
    RunDir(page.root / run).plan.write_text("{}")  # one that is there gives way
    command = page.post("/api/run/plan", path=run)["command"]
    assert command.endswith("--overwrite")
    assert page.finish(run)["state"] == "planned"
    plan = page.get("/api/run/plan", path=run)
    decided = {one["name"]: one for one in plan["decisions"]}
    assert (decided["fit"]["value"], decided["fit"]["changed"]) == ("crop", True)
    assert (decided["backbone"]["changed"], plan["current"]) == (False, True)
    assert all(one["reason"] for one in decided.values())
    page.client.delete("/api/run", params={"path": run, "confirm": "looked at"})


def test_the_run_is_as_if_typed_and_names_the_image_left_out(
    page: Any, trained: str, left_out: str
) -> None:
    run = RunDir(page.root / trained)
    rows = pd.read_csv(run.dataset, keep_default_na=False, dtype=str).set_index("path")
    assert rows.loc[left_out, "excluded"] == "excluded in the file given with --exclude"
    assert (rows["excluded"] != "").sum() == 1
    assert list(rows["width"].unique()) == ["64", ""]
    assert left_out not in set(medlens.Run(run.root).predictions["path"])
    assert "images that the authors took out one by one (1)" in run.report.read_text()
    row = next(one for one in page.get("/api/runs")["runs"] if one["path"] == trained)
    accuracy = medlens.Run(run.root).evaluation["test"]["accuracy"]
    assert row["accuracy"] == {"value": accuracy["value"], "ci95": accuracy["ci95"]}
    assert not any(path.exists() for path in run.passing())
    lines = page.get("/api/run/log", path=trained)["lines"]
    assert lines[-1] == "Not a medical device."


def test_a_finished_run_keeps_its_options(page: Any, trained: str) -> None:
    said = page.get("/api/run", path=trained)
    assert said["is_fixed"]
    changed = page.client.patch("/api/run/options", params={"path": trained}, json={"epochs": 1})
    assert changed.status_code == 422
    again = page.client.post("/api/run/train", params={"path": trained}, json={})
    assert again.status_code == 409


@pytest.mark.slow
def test_the_server_is_killed_the_job_goes_on_is_stopped_and_resumed_to_the_same_bytes(
    page: Any, open_page: Any, root: Path, trained: str, left_out: str
) -> None:
    with open_page(root) as first:
        run = first.new_run("broken")
        first.post("/api/run/exclude", {"images": [left_out]}, path=run)
        first.post("/api/run/train", {}, path=run)
        said = first.wait(run, lambda one: (one["progress"] or {}).get("total") is not None)
        os.kill(first.process.pid, signal.SIGKILL)
        first.process.wait()
    job = psutil.Process(said["progress"]["pid"])
    with open_page(root) as second:
        said = second.wait(
            run, lambda one: (one["progress"] or {}).get("stage") == "Training heads"
        )
        assert said["progress"]["pid"] == job.pid
        assert said["state"] == "training"
        refused = second.client.post("/api/run/train", params={"path": run}, json={})
        assert refused.status_code == 409
        second.post("/api/run/stop", path=run)
        said = second.finish(run)
        assert (said["state"], said["error"]) == ("stopped", None)
        assert not (root / run / "evaluation.json").exists()
        command = second.post("/api/run/train", {"resume": True}, path=run)["command"]
        assert command == said["commands"]["resume"]
        assert second.finish(run)["state"] == "done"
    for name in SAME:
        assert (root / run / name).read_bytes() == (root / trained / name).read_bytes(), name

    compared = page.get("/api/compare", first=trained, second=run)
    assert compared["command"].startswith("medlens compare ")
    assert compared["lines"]
    row = {"path": trained, "second": trained}
    assert page.client.get("/api/compare", params={"first": trained, **row}).status_code == 422


def test_the_report_is_shown_as_serve_shows_it(page: Any, trained: str) -> None:
    report = page.client.get("/runs/report", params={"path": trained})
    assert report.content == (page.root / trained / "report.html").read_bytes()
    assert "style-src 'unsafe-inline'" in report.headers["content-security-policy"]
    assert "script-src" not in report.headers["content-security-policy"]
    card = page.client.get("/runs/model-card", params={"path": trained})
    assert card.text == (page.root / trained / "model_card.md").read_text()


def test_the_zip_that_is_handed_over_is_the_run(page: Any, trained: str, tmp_path: Path) -> None:
    answer = page.client.get("/runs/zip", params={"path": trained})
    assert "filename*=UTF-8''whole.zip" in answer.headers["content-disposition"]
    file = tmp_path / "whole.zip"
    file.write_bytes(answer.content)
    with opened_run(file) as run:
        for name in ("classifier/classifier.keras", "report.html", "predictions.csv"):
            assert (run / name).read_bytes() == (page.root / trained / name).read_bytes()
        assert not list(run.rglob(".*"))
    alone = {"path": trained, "only_classifier": True}
    with zipfile.ZipFile(io.BytesIO(page.client.get("/runs/zip", params=alone).content)) as packed:
        parts = {name.split("/")[1] for name in packed.namelist()}
    assert parts == {"classifier", "model_card.md"}


def test_what_is_not_finished_is_neither_handed_over_nor_tried(page: Any) -> None:
    run = page.new_run("early")
    early = {"path": run}
    assert page.client.get("/runs/zip", params=early).status_code == 409
    assert page.client.get("/runs/report", params=early).status_code == 404
    assert page.client.get("/runs/export", params={**early, "format": "onnx"}).status_code == 404
    assert page.client.post("/api/run/try", params=early).status_code == 409
    asked = {"format": "onnx"}
    assert page.client.post("/api/run/export", params=early, json=asked).status_code == 409
    page.client.delete("/api/run", params={**early, "confirm": "early"})


def trial(page: Any, opened: dict[str, str]) -> httpx.Client:
    """A client with the token of a trial."""
    headers = {"Authorization": f"Bearer {opened['token']}"}
    return httpx.Client(base_url=page.client.base_url, headers=headers, timeout=120)


def test_the_token_of_a_trial_and_its_cookie_are_good_for_it_alone(page: Any, trained: str) -> None:
    opened = page.post("/api/run/try", path=trained)
    models = opened["address"] + "models"
    assert page.client.get(models).status_code == 401
    with trial(page, opened) as client:
        answer = client.get(models)
        assert answer.status_code == 200
        assert f"Path={models}/" in answer.headers["set-cookie"]
        for path in ("/api/runs", "/api/about", f"/runs/report?path={trained}"):
            assert client.get(path).status_code == 401
    cookie = {"Cookie": answer.headers["set-cookie"].partition(";")[0]}
    (model,) = answer.json()["models"]
    with httpx.Client(base_url=page.client.base_url, headers=cookie) as bare:
        assert bare.get(model["report"]).status_code == 200
        assert bare.get(models).status_code == 401
        assert bare.get(f"/runs/report?path={trained}").status_code == 401


def test_images_are_tried_on_the_page_of_serve(page: Any, trained: str) -> None:
    image = next((page.root / "phantoms" / "mass").glob("*.png"))
    opened = page.post("/api/run/try", path=trained)
    address = opened["address"]
    assert page.post("/api/run/try", path=trained) == opened
    with trial(page, opened) as client:
        assert "Not a medical device" in client.get(address).text
        (model,) = client.get(address + "models").json()["models"]
        assert client.get(model["report"]).status_code == 200
        files = {"images": (image.name, image.read_bytes())}
        said = client.post(address + "predict", files=files).json()["results"][0]
    told = medlens.load(page.root / trained).predict([image])
    assert said["predicted"] == told["predicted"][0]


@pytest.mark.slow
def test_a_page_that_is_still_open_never_gets_the_answers_of_another_run(
    page: Any, trained: str
) -> None:
    twin = page.root / "elsewhere" / "whole"
    shutil.copytree(page.root / trained, twin)
    image = next((page.root / "phantoms" / "mass").glob("*.png"))
    files = {"images": (image.name, image.read_bytes())}
    first = page.post("/api/run/try", path=trained)
    children = psutil.Process(page.process.pid).children()
    second = page.post("/api/run/try", path="elsewhere/whole")
    with trial(page, first) as client:
        refused = client.post(first["address"] + "predict", files=files)
        assert (refused.status_code, "no longer open" in refused.json()["detail"]) == (404, True)
        assert client.get(second["address"] + "models").status_code == 401
    with trial(page, second) as client:
        assert client.post(second["address"] + "predict", files=files).status_code == 200
    gone, alive = psutil.wait_procs(children, timeout=20)
    assert (len(gone), alive) == (len(children), [])
    shutil.rmtree(twin.parent)


@pytest.mark.slow
def test_a_run_that_takes_the_name_of_another_is_not_answered_by_its_classifier(
    page: Any, trained: str
) -> None:
    first = page.root / "swapped" / "first"
    for name in ("first", "second"):
        shutil.copytree(page.root / trained, first.with_name(name))
    before = page.post("/api/run/try", path="swapped/first")
    page.post("/api/run/rename", {"name": "old"}, path="swapped/first")
    page.post("/api/run/rename", {"name": "first"}, path="swapped/second")
    after = page.post("/api/run/try", path="swapped/first")
    assert after["address"] != before["address"]
    with trial(page, before) as client:
        assert client.get(before["address"] + "models").status_code == 404
    with trial(page, after) as client:
        assert client.get(after["address"] + "models").status_code == 200
    shutil.rmtree(first.parent)


@pytest.mark.parametrize("way", ["swap", "delete"])
def test_each_classifier_that_has_the_name_of_a_run_has_a_key_of_its_own(
    own_run: RunDir, way: str
) -> None:
    place, other = own_run.root, own_run.root.with_name("other")
    shutil.copytree(place, other)
    key = key_of(own_run)
    assert key_of(own_run) == key
    if way == "swap":
        place.rename(place.with_name("old"))
    else:
        shutil.rmtree(place)
    other.rename(place)
    assert key_of(own_run) != key


@pytest.mark.slow
def test_an_export_is_made_and_handed_over(page: Any, trained: str) -> None:
    asked = {"path": trained, "format": "onnx"}
    page.post("/api/run/export", {"format": "onnx", "int8": True}, path=trained)
    said = page.wait(trained, lambda one: one["error"] is not None)
    assert "cannot write ONNX in 8-bit integers" in said["error"]
    assert (said["state"], said["exports"]) == ("done", [])
    page.post("/api/run/export", {"format": "onnx"}, path=trained)
    ready = [{"format": "onnx", "state": "ready"}]
    page.wait(trained, lambda one: one["exports"] == ready)
    answer = page.client.get("/runs/export", params=asked)
    with zipfile.ZipFile(io.BytesIO(answer.content)) as packed:
        assert packed.namelist() == ["classifier.onnx", "classifier.onnx.json"]
    assert foreign_files(RunDir(page.root / trained)) == []
