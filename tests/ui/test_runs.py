"""Runs as a table: made, named, changed, deleted; and what may be chosen for them."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import psutil
import pytest

import medlens
from medlens.cli import _parser
from medlens.config import AUDIT_OPTIONS, FIELDS, config_toml, make_options
from medlens.data.dataset import read_dataset
from medlens.intake import made_with
from medlens.run_dir import RunDir
from medlens.ui import jobs, runs
from medlens.ui.choices import (
    Choices,
    change_options,
    exclude,
    for_step,
    own_values,
    read_choices,
    write_choices,
)
from medlens.ui.commands import command_line
from medlens.ui.jobs import (
    Job,
    exit_file,
    last_error,
    output_file,
    start_job,
    step_at_work,
    stop_job,
)
from medlens.ui.root import Refused, Root
from medlens.ui.runs import find_runs, is_current, new_run, rename, state_of
from medlens.ui.steps import start_step


def test_a_folder_says_whether_it_can_be_data(page: Any) -> None:
    top = page.get("/api/folders")
    assert (top["path"], top["parent"]) == ("", None)
    assert not top["can_be_data"]
    assert "one folder higher" in top["why_not"]
    assert page.client.post("/api/runs", json={"data": ""}).status_code == 422
    (entry,) = [one for one in top["entries"] if one["name"] == "phantoms"]
    assert (entry["kind"], entry["images"]) == ("folder", 150)
    data = page.get("/api/folders", path="phantoms")
    assert data["can_be_data"]
    assert sum(one["images"] for one in data["classes"]) == 150
    assert page.get("/api/folders", path="phantoms/labels.csv")["can_be_data"]


def test_a_run_is_made_named_and_deleted_only_by_its_name(page: Any) -> None:
    run = page.new_run("first name")
    assert run == "medlens-runs/first name"
    said = page.get("/api/run", path=run)
    assert (said["state"], said["data"]) == ("new", "phantoms/labels.csv")
    assert said["options"]["image_size"] == 32
    taken = {"data": "phantoms", "name": "first name"}
    assert page.client.post("/api/runs", json=taken).status_code == 409

    named = page.post("/api/run/rename", {"name": "second"}, path=run)["path"]
    assert named in [one["path"] for one in page.get("/api/runs")["runs"]]
    assert page.client.get("/api/run", params={"path": run}).status_code == 404

    def delete(confirm: str) -> int:
        asked = {"path": named, "confirm": confirm}
        return int(page.client.delete("/api/run", params=asked).status_code)

    assert delete("first name") == 422
    foreign = page.root / named / "thesis.docx"
    foreign.touch()
    assert delete("second") == 409
    foreign.unlink()
    inside = page.root / named / "figures" / "thesis.docx"
    inside.parent.mkdir()
    inside.touch()
    assert delete("second") == 409
    inside.unlink()
    answers = page.root / named / "study.toml"
    answers.write_text('claim_44 = "mine"')
    assert delete("second") == 409
    answers.unlink()
    (page.root / named / "..progress.json.123.part").touch()
    assert delete("second") == 200
    assert not (page.root / named).exists()
    assert page.client.delete(
        "/api/run", params={"path": "phantoms", "confirm": "phantoms"}
    ).is_error
    assert (page.root / "phantoms" / "labels.csv").exists()


def test_what_is_left_out_stays_so_under_another_name(tmp_path: Path) -> None:
    before = RunDir(tmp_path / "runs" / "before")
    write_choices(before, Choices({"data": "x"}))
    choices = exclude(before, images=["a/1.png", "b/ü,2.png"])
    digest = made_with(AUDIT_OPTIONS, choices.options)
    before.audit.write_text(json.dumps({"made_with": digest}))
    assert is_current(before, "audit", choices)
    after = rename(Root(tmp_path), before, "after")
    choices = read_choices(after)
    assert choices.options["exclude"] == str(after.excluded)
    assert choices.excluded == ("a/1.png", "b/ü,2.png")
    assert is_current(after, "audit", choices)
    assert not is_current(after, "audit", exclude(after, images=["c/3.png"]))
    assert is_current(after, "audit", exclude(after, include_images=["c/3.png"]))
    included = exclude(after, include_images=["a/1.png", "b/ü,2.png"])
    assert "exclude" not in included.options
    assert not after.excluded.exists()


def test_of_many_changes_at_once_none_is_lost(tmp_path: Path) -> None:
    run = RunDir(tmp_path / "run")
    write_choices(run, Choices({"data": "x"}))
    images = [f"a/{number}.png" for number in range(30)]

    def change(image: str) -> None:
        exclude(run, images=[image])
        change_options(run, {"epochs": 7})

    with ThreadPoolExecutor(6) as pool:
        list(pool.map(change, images))
    choices = read_choices(run)
    assert set(choices.excluded) == set(images)
    assert choices.options["epochs"] == 7


def test_without_a_name_a_run_is_called_after_its_data(page: Any) -> None:
    made = [page.post("/api/runs", {"data": "phantoms"})["name"] for _ in range(2)]
    assert made == ["phantoms-1", "phantoms-2"]
    for name in made:
        page.client.delete("/api/run", params={"path": f"medlens-runs/{name}", "confirm": name})


def test_options_are_checked_and_null_takes_them_back(page: Any) -> None:
    run = page.new_run("options")

    def change(**changes: Any) -> Any:
        return page.client.patch("/api/run/options", params={"path": run}, json=changes)

    assert change(epochs=7).json()["options"]["epochs"] == 7
    assert "--epochs=7" in change().json()["commands"]["train"]
    assert "epochs" not in change(epochs=None).json()["options"]
    refused = change(epochs="many")
    assert refused.status_code == 422
    assert "a whole number from 1 to 100000" in refused.json()["detail"]
    known = {one["name"]: one for one in page.get("/api/options")}
    assert {"backbone", "epochs", "split", "robustness"} <= set(known)
    assert not {"data", "out", "exclude", "cache", "overwrite"} & set(known)
    assert known["fit"]["choices"] == ["pad", "crop", "stretch"]
    assert (known["epochs"]["kind"], known["robustness"]["kind"]) == ("number", "switch")
    page.client.delete("/api/run", params={"path": run, "confirm": "options"})


@pytest.mark.parametrize("step", ["audit", "plan", "train"])
def test_the_command_line_is_read_back_as_what_was_chosen(tmp_path: Path, step: str) -> None:
    run = RunDir(tmp_path / "-a run")
    options = {
        "data": str(tmp_path / "labels of mine.csv"),
        "drop_class": ["-odd", "other one"],
        "split": "0.6,0.2,0.2",
        "epochs": 3,
        "robustness": True,
        "patient_regex": "-(P[0-9]+) ",
    }
    write_choices(run, Choices(options))
    words = command_line(step, run, options, resume=step == "train")
    read = vars(_parser().parse_args(words[1:]))
    given = own_values({name: value for name, value in read.items() if name in FIELDS})
    ways = {"out": str(run.root), **({"resume": True} if step == "train" else {})}
    assert given == {**for_step(step, options), **ways}


def test_of_two_that_start_at_once_one_is_refused(tmp_path: Path) -> None:
    run = RunDir(tmp_path)
    write_choices(run, Choices({"data": "x"}))

    def start(_: int) -> Job | int:
        try:
            return start_job(run, "audit", ["http.server", "--bind", "127.0.0.1", "0"], tmp_path)
        except Refused as error:
            return error.status

    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(start, range(8)))
    (job,) = [one for one in answers if isinstance(one, Job)]
    assert answers.count(409) == 7
    assert step_at_work(run) == "audit"
    psutil.Process(job.pid).kill()
    while not exit_file(run).exists():
        time.sleep(0.05)
    assert step_at_work(run) is None
    assert (last_error(run) or "").startswith("The process ended without a result (signal 9).")


def test_a_process_that_python_itself_ends_is_said_to_have_failed(tmp_path: Path) -> None:
    run = RunDir(tmp_path)
    write_choices(run, Choices({"data": "x"}))
    start_job(run, "train", ["no_such_module"], tmp_path)
    while not exit_file(run).exists():
        time.sleep(0.05)
    said = last_error(run)
    assert said is not None
    assert "exit status 1" in said.splitlines()[0]
    assert "No module named no_such_module" in said
    assert state_of(run, read_choices(run)) == "failed"


def test_one_damaged_run_and_a_link_in_a_circle_leave_the_others_shown(
    page: Any, tmp_path: Path
) -> None:
    kept, damaged, job = (page.new_run(name) for name in ("kept", "damaged", "job"))
    (page.root / damaged / ".ui" / "choices.json").write_text("{")
    (page.root / job / ".ui" / "job.json").write_text("{")
    (page.root / "circle.csv").symlink_to("circle.csv")
    try:
        answer = page.get("/api/runs")
        states = {one["path"]: one["state"] for one in answer["runs"]}
        reasons = {one["path"]: one.get("reason") for one in answer["runs"]}
        assert reasons[damaged] == "a file of the run is damaged"
        assert (states[kept], states[damaged], states[job]) == (
            "new",
            "cannot be read",
            "cannot be read",
        )
        assert not answer["search_cut_short"]
        names = [one["name"] for one in page.get("/api/folders")["entries"]]
        assert "phantoms" in names
        assert "circle.csv" not in names
    finally:
        (page.root / "circle.csv").unlink()
        for run in (kept, damaged, job):
            shutil.rmtree(page.root / run)


def test_many_other_folders_do_not_hide_the_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(runs, "MOST_FOLDERS", 5)
    for number in range(10):
        (tmp_path / f"a{number}").mkdir()
    run = RunDir(tmp_path / "medlens-runs" / "one")
    write_choices(run, Choices({"data": "x"}))
    assert find_runs(Root(tmp_path)) == ([run], True)


def test_results_are_never_images_to_learn_from(tmp_path: Path) -> None:
    for name in ("cats/1.png", "dogs/2.png", "medlens-runs/x/heat_maps/3.png"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    assert read_dataset(tmp_path, cache=tmp_path).classes == ("cats", "dogs")
    with pytest.raises(Refused, match="one folder higher"):
        new_run(Root(tmp_path), "", None, {})
    with pytest.raises(Refused, match="folder below it"):
        new_run(Root(tmp_path.parent), tmp_path.name, None, {})


def test_what_lies_among_the_data_is_never_run(tmp_path: Path) -> None:
    (tmp_path / "medlens.py").write_text("raise SystemExit('run')")
    run = RunDir(tmp_path / "run")
    job = start_job(run, "audit", ["medlens", "--version"], tmp_path)
    while job.is_at_work:
        time.sleep(0.05)
    assert output_file(run).read_text().strip() == medlens.__version__


def test_a_process_that_got_the_number_of_a_job_is_not_taken_for_it(tmp_path: Path) -> None:
    own = psutil.Process()
    assert Job("train", (), own.pid, own.create_time()).is_at_work
    assert not Job("train", (), own.pid, own.create_time() - 100).is_at_work


def test_what_ends_a_step_is_said_in_its_own_words(page: Any) -> None:
    run = page.new_run("wrong", patient_regex="nobody(x)")
    page.post("/api/run/audit", path=run)
    said = page.finish(run)
    assert said["state"] == "failed"
    assert said["error"].startswith("medlens: --patient-regex does not find a patient")
    assert "how to mend" in said["error"]
    page.client.patch("/api/run/options", params={"path": run}, json={"patient_regex": None})
    page.post("/api/run/audit", path=run)
    said = page.finish(run)
    assert (said["state"], said["error"]) == ("audited", None)
    page.client.delete("/api/run", params={"path": run, "confirm": "wrong"})


def is_at_network(said: Any) -> bool:
    return (said["progress"] or {}).get("stage") == "Frozen network"


def test_a_run_of_a_terminal_is_seen_and_stopped(page: Any) -> None:
    run = page.root / "by-hand"
    data = str(page.root / "phantoms" / "labels.csv")
    # A network that takes its time.
    slow = ["--weights", "random", "--backbone", "densenet121", "--image-size", "224"]
    command = [sys.executable, "-m", "medlens", "train", data, "--out", str(run), *slow]
    with subprocess.Popen(
        [*command, "--cache", str(page.root / ".cache")],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        # As in a terminal, wherever the tests are run.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    ) as process:
        try:
            while page.client.get("/api/run", params={"path": "by-hand"}).status_code == 404:
                assert process.poll() is None
                time.sleep(0.2)
            said = page.wait("by-hand", is_at_network)
            assert said["state"] == "training"
            assert said["progress"]["pid"] == process.pid
            second = page.client.post(
                "/api/run/train", params={"path": "by-hand"}, json={"resume": True}
            )
            assert second.status_code == 409
            page.post("/api/run/stop", path="by-hand")
            _, errors = process.communicate(timeout=120)
        finally:
            process.kill()
    assert (process.returncode, "Interrupted." in errors) in ((130, True), (-15, False))
    said = page.get("/api/run", path="by-hand")
    assert (said["state"], said["progress"]) == ("stopped", None)
    assert said["commands"]["resume"].endswith("--resume")
    assert said["options"]["backbone"] == "densenet121"
    page.client.delete("/api/run", params={"path": "by-hand", "confirm": "by-hand"})


def test_a_process_that_pays_no_attention_to_an_interrupt_is_ended(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(jobs, "SECONDS_TO_STOP", 0.5)
    run = RunDir(tmp_path)
    code = (
        "import signal, time\n"
        "signal.signal(signal.SIGINT, signal.SIG_IGN)\n"
        "print('deaf', flush=True)\n"
        "time.sleep(60)\n"
    )
    (tmp_path / "deaf.py").write_text(code)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path), prepend=os.pathsep)
    job = start_job(run, "train", ["deaf"], tmp_path)
    while not output_file(run).read_text():
        time.sleep(0.05)
    stop_job(run)
    while job.is_at_work:
        time.sleep(0.05)
    assert step_at_work(run) is None


def test_a_run_of_a_terminal_with_relative_paths_is_gone_on_with_there(tmp_path: Path) -> None:
    run = RunDir(tmp_path / "run")
    run.root.mkdir()
    run.config.write_text(config_toml(make_options({"data": "scans", "out": "run"})))
    for path in (run.log, run.splits):
        path.touch()
    with pytest.raises(Refused, match="begun in a terminal"):
        start_step(Root(tmp_path), run, "train", resume=True)
