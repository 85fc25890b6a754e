"""Runs as a table: made, named, changed, deleted; and what may be chosen for them."""

from __future__ import annotations

import json
import os
import shlex
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
from medlens.errors import MedlensError
from medlens.external import WRITTEN
from medlens.intake import made_with
from medlens.run_dir import RunDir, open_run
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
from medlens.ui.folders import draw_phantoms, look_at_data
from medlens.ui.handing_over import hand_over_commands, start_export
from medlens.ui.jobs import (
    Job,
    exit_file,
    last_error,
    output_file,
    start_job,
    step_at_work,
    stop_job,
)
from medlens.ui.own_files import EXTERNAL, foreign_files
from medlens.ui.root import Refused, Root
from medlens.ui.runs import (
    delete,
    describe_run,
    find_runs,
    is_current,
    new_run,
    rename,
    state_of,
)
from medlens.ui.steps import start_step
from medlens.ui.thumbnails import Thumbnails
from medlens.ui.turns import own_turn


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


def test_a_run_is_moved_by_a_shell_as_by_the_page(page: Any) -> None:
    run, taken = page.new_run("from here"), page.new_run("taken")
    image = next((page.root / "phantoms" / "healthy").glob("*.png"))
    left_out = image.relative_to(page.root / "phantoms").as_posix()
    said = page.post("/api/run/exclude", {"images": [left_out]}, path=run)

    def move(name: str) -> None:
        command = "".join(part + shlex.quote(name) for part in said["commands"]["rename"])
        subprocess.run(["sh", "-c", command], check=True)

    move("taken")  # never into a folder that is there
    assert (page.root / run).is_dir()
    assert [path.name for path in (page.root / taken).iterdir()] == [".ui"]
    move("to there")
    moved = "medlens-runs/to there"
    assert not (page.root / run).exists()
    command = page.post("/api/run/audit", path=moved)["command"]
    assert f"--exclude={page.root / moved / 'excluded.csv'}" in shlex.split(command)
    assert page.finish(moved)["state"] == "audited"
    found = page.get("/api/run/audit", path=moved)
    assert (found["excluded"], found["current"]) == ([left_out], True)
    assert found["counts"]["classes"]["healthy"] == 49
    for one in (moved, taken):
        deletes = page.get("/api/run", path=one)["commands"]["delete"]
        subprocess.run(["sh", "-c", deletes], check=True)
        assert not (page.root / one).exists()


def test_a_run_that_was_moved_is_gone_on_with(tmp_path: Path) -> None:
    run = RunDir(tmp_path / "before")
    write_choices(run, Choices({"data": "x"}))
    options = exclude(run, images=["a/1.png"]).options
    run.config.write_text(config_toml(make_options(options)))
    for path in (run.log, run.splits):
        path.touch()
    moved = RunDir(tmp_path / "after")
    subprocess.run(["mv", str(run.root), str(moved.root)], check=True)
    chosen = read_choices(moved).options
    again = {**chosen, "out": str(moved.root), "resume": True}
    open_run(make_options(again))
    # As of a run that a terminal began, whose own words say what it was.
    shutil.rmtree(moved.page)
    assert read_choices(moved).options == chosen
    moved.config.write_text(config_toml(make_options(options)))
    assert read_choices(moved).options == chosen
    words = command_line("train", moved, chosen, resume=True)
    assert f"--exclude={moved.excluded}" in words
    open_run(make_options(again))

    other = tmp_path / "excluded.csv"
    other.write_text("path\nb/2.png\n")
    moved.config.write_text(config_toml(make_options({**options, "exclude": str(other)})))
    with pytest.raises(MedlensError, match="--resume needs the options"):
        open_run(make_options(again))


def wait_for_end(run: RunDir) -> None:
    while not exit_file(run).exists():
        time.sleep(0.05)


def test_what_training_begins_with_is_not_changed_meanwhile(tmp_path: Path) -> None:
    run = RunDir(tmp_path)
    write_choices(run, Choices({"data": "x", "epochs": 5}))
    # Before it has a split of its own.
    job = start_job(run, "train", ["http.server", "--bind", "127.0.0.1", "0"], tmp_path)
    try:
        for change in (
            lambda: change_options(run, {"epochs": 7}),
            lambda: exclude(run, images=["a/1.png"]),
            lambda: exclude(run, classes=["a"]),
        ):
            with pytest.raises(Refused, match="Training is at work") as caught:
                change()
            assert caught.value.status == 409
    finally:
        psutil.Process(job.pid).kill()
    wait_for_end(run)
    assert read_choices(run) == Choices({"data": "x", "epochs": 5})
    assert change_options(run, {"epochs": 7}).options["epochs"] == 7


def test_an_error_that_was_made_good_elsewhere_is_forgotten(tmp_path: Path) -> None:
    run = RunDir(tmp_path)
    write_choices(run, Choices({"data": "x"}))
    for step, result in (("audit", run.audit), ("train", run.report)):
        for _ in range(2):
            start_job(run, step, ["no_such_module"], tmp_path)
            wait_for_end(run)
            assert "No module named" in (last_error(run) or "")
            result.write_text("{}")
            assert last_error(run) is None
            assert state_of(run, read_choices(run)) != "failed"
            os.utime(result, (0, 0))  # of long before the next job


def test_an_export_waits_for_its_turn_and_makes_no_folder_anew(own_run: RunDir) -> None:
    write_choices(own_run, Choices({"data": "x"}))
    root = Root(own_run.root.parent)
    with ThreadPoolExecutor(1) as pool:
        with own_turn(own_run):
            export = pool.submit(start_export, root, own_run, "savedmodel", int8=False)
            time.sleep(0.5)
            assert not export.done()
            own_run.root.rename(own_run.root.with_name("other"))
        with pytest.raises(Refused) as caught:
            export.result()
    assert caught.value.status == 404
    assert not own_run.root.exists()


def test_an_export_is_called_the_same_whatever_the_run_is_called(own_run: RunDir) -> None:
    (words,) = {
        shlex.split(hand_over_commands(RunDir(place))["export"]["onnx"])[6].removeprefix(str(place))
        for place in (own_run.root, own_run.root.with_name("other"))
    }
    assert words.endswith("/classifier.onnx")


@pytest.mark.parametrize(
    "name",
    [
        "external/hospital-b/notes.docx",
        "external/predictions.csv",
        "classifier/notes.docx",
        "figures/notes.docx",
        "heat_maps/notes.csv",
        "tensorboard/head/notes.docx",
        "mlflow/notes.docx",
        ".ui/notes.docx",
        ".ui/exports/onnx/notes.docx",
        ".tuned/notes.docx",
        ".pictures/notes.docx",
        "notes/notes.docx",
    ],
)
def test_files_of_others_are_never_deleted_with_a_run(own_run: RunDir, name: str) -> None:
    foreign = own_run.root / name
    foreign.parent.mkdir(parents=True, exist_ok=True)
    foreign.touch()
    with pytest.raises(Refused, match="not of medlens") as caught:
        delete(own_run, own_run.root.name)
    assert caught.value.status == 409
    assert foreign.exists()
    foreign.unlink()
    if not any(foreign.parent.iterdir()) and name.startswith("notes"):
        foreign.parent.rmdir()
    delete(own_run, own_run.root.name)
    assert not own_run.root.exists()


def test_all_that_medlens_writes_is_known_as_its_own(
    finished_run: medlens.Run, tmp_path: Path
) -> None:
    assert foreign_files(RunDir(finished_run.path)) == []
    assert EXTERNAL == WRITTEN
    run = RunDir(shutil.copytree(finished_run.path, tmp_path / "run"))
    mine = tmp_path / "mine.png"
    mine.touch()
    (run.figures / "link.png").symlink_to(mine)
    assert foreign_files(run) == [run.figures / "link.png"]


def test_phantoms_are_drawn_once_and_take_the_place_of_nothing(tmp_path: Path) -> None:
    root = Root(tmp_path)
    (tmp_path / "phantom-data").mkdir()
    with ThreadPoolExecutor(3) as pool:
        (labels,) = {one.result() for one in [pool.submit(draw_phantoms, root) for _ in range(3)]}
    assert [path.name for path in tmp_path.iterdir()] == ["phantom-data"]
    assert sum(look_at_data(labels, tmp_path).classes.values()) == 360
    before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")}
    assert draw_phantoms(root) == labels
    assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")} == before
    lines = labels.read_text().splitlines(keepends=True)
    labels.write_text("".join(lines[:-1]))  # someone took an image out
    with pytest.raises(Refused) as caught:
        draw_phantoms(root)
    assert caught.value.status == 409
    assert labels.read_text() == "".join(lines[:-1])


def test_a_folder_of_others_is_not_taken_for_that_of_the_phantoms(tmp_path: Path) -> None:
    labels = tmp_path / "phantom-data" / "labels.csv"
    labels.parent.mkdir()
    labels.write_text("path,label\nscan.dcm,mass\n")
    (labels.parent / "scan.dcm").touch()
    with pytest.raises(Refused) as caught:
        draw_phantoms(Root(tmp_path))
    assert caught.value.status == 409
    assert labels.read_text() == "path,label\nscan.dcm,mass\n"
    assert {path.name for path in tmp_path.rglob("*")} == {"phantom-data", "labels.csv", "scan.dcm"}


@pytest.mark.parametrize("data", ["elsewhere/scans", "scans", "s3://bucket/scans"])
def test_data_outside_are_not_taken_for_a_folder_of_the_same_name(
    tmp_path: Path, data: str
) -> None:
    root = Root(tmp_path / "root")
    (root.folder / "scans" / "cats").mkdir(parents=True)
    run = RunDir(root.folder / "run")
    run.root.mkdir()
    place = str(tmp_path / data) if data.startswith("elsewhere") else data
    run.config.write_text(config_toml(make_options({"data": place})))
    run.log.touch()
    said = describe_run(root, run)
    assert (said["data"], said["data_name"]) == (None, "scans")
    (root.folder / "scans" / "cats" / "1.png").touch()
    with pytest.raises(Refused, match="outside"):
        Thumbnails(root, tmp_path).make(run, "cats/1.png", 64)


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
    (page.root / job / ".ui" / "job.json").write_text('{"step": "export"')
    (page.root / "circle.csv").symlink_to("circle.csv")
    try:
        answer = page.get("/api/runs")
        states = {one["path"]: one["state"] for one in answer["runs"]}
        reasons = {one["path"]: one.get("reason") for one in answer["runs"]}
        assert reasons[damaged] == "A file of the run is damaged."
        assert (states[kept], states[damaged], states[job]) == ("new", "cannot be read", "new")
        assert not answer["search_cut_short"]
        names = [one["name"] for one in page.get("/api/folders")["entries"]]
        assert "phantoms" in names
        assert "circle.csv" not in names
    finally:
        (page.root / "circle.csv").unlink()
        for run in (kept, damaged, job):
            shutil.rmtree(page.root / run)


@pytest.mark.parametrize(
    ("file", "content", "status"),
    [
        (".ui/choices.json", b"{", 422),
        (".ui/choices.json", b'{"options": 3}', 422),
        (".ui/job.json", b"[1]", 200),
        (".ui/job.json", b'{"step": "export", "command": ["medlens"]}', 200),
        ("evaluation.json", b"[1]", 422),
        ("evaluation.json", b"{", 422),
        ("excluded.csv", b"\xff", 422),
        ("history.csv", b"\xff\x00", 422),
    ],
)
def test_a_damaged_run_says_so_and_can_be_renamed_and_deleted(
    page: Any, file: str, content: bytes, status: int
) -> None:
    run = page.new_run("whole name")
    (page.root / run / file).write_bytes(content)
    answer = page.client.get("/api/run", params={"path": run})
    assert answer.status_code == status, answer.text
    if status == 422:
        assert "cannot be read" in answer.text or "damaged" in answer.text
    named = page.post("/api/run/rename", {"name": "damaged name"}, path=run)["path"]
    assert not (page.root / run).exists()
    asked = {"path": named, "confirm": "damaged name"}
    assert page.client.delete("/api/run", params=asked).status_code == 200
    assert not (page.root / named).exists()


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
