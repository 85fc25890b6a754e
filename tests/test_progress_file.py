"""The hidden file by which other processes see how far a run is."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import psutil
import pytest

from medlens import progress_file
from medlens.api import new_screen
from medlens.progress_file import kept_progress, read_progress
from medlens.screen import Screen


def test_it_says_what_is_done_and_goes_with_the_run(tmp_path: Path) -> None:
    path = tmp_path / "run" / ".progress.json"
    with kept_progress(path, "train") as watched:
        screen = Screen(new_screen(quiet=True).console, quiet=True, watched=watched)
        with screen.progress("Reading the images", 40, "images"):
            said = read_progress(path)
            assert said is not None
            assert said["pid"] == psutil.Process().pid
            assert (said["command"], said["stage"]) == ("train", "Reading the images")
            assert (said["done"], said["total"], said["unit"]) == (0, 40, "images")
        watched.begin("Testing")
        said = read_progress(path)
        assert said is not None
        assert (said["stage"], said["total"]) == ("Testing", None)
        assert [one["stage"] for one in said["stages"]] == ["Reading the images"]
    assert read_progress(path) is None
    assert not path.exists()


def test_steps_and_time_left(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(progress_file, "SECONDS_BETWEEN_WRITES", 0.0)
    path = tmp_path / ".progress.json"
    with kept_progress(path, "audit") as watched, watched.stage("Reading", 4, "images") as advance:
        said: list[dict[str, Any] | None] = []
        for steps in (1, 3):
            advance(steps)
            said.append(read_progress(path))
        assert [one and one["done"] for one in said] == [1, 4]
        assert said[1] and said[1]["seconds_left"] == 0.0


def test_where_it_cannot_be_written_the_work_goes_on(tmp_path: Path) -> None:
    (tmp_path / "run").write_text("a file where a folder should be")
    with (
        kept_progress(tmp_path / "run" / ".progress.json", "train") as watched,
        watched.stage("Reading", 1, "images") as advance,
    ):
        advance(1)
    assert len(watched._stages) == 1


def test_it_is_not_written_at_every_step(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(progress_file, "SECONDS_BETWEEN_WRITES", 3600.0)
    path = tmp_path / ".progress.json"
    with kept_progress(path, "train") as watched, watched.stage("Reading", 9, "images") as advance:
        before = path.stat()
        advance(9)
        assert (path.stat().st_ino, path.stat().st_mtime_ns) == (before.st_ino, before.st_mtime_ns)


def test_epochs_are_told_as_keras_tells_them(tmp_path: Path) -> None:
    import keras

    path = tmp_path / ".progress.json"
    with kept_progress(path, "train") as watched:
        model = keras.Sequential()
        watching = keras.callbacks.CallbackList([watched.callback("head")], model=model)
        watching.on_train_begin()
        watching.on_epoch_end(0, {"loss": 0.5, "accuracy": 0.75})
        watching.on_epoch_end(1, {"loss": float("nan"), "accuracy": 1.0})
        watched.begin("Testing")
        said = json.loads(path.read_text())["epochs"]
    assert said == [
        {"training": "head", "epoch": 1, "loss": 0.5, "accuracy": 0.75},
        {"training": "head", "epoch": 2, "loss": None, "accuracy": 1.0},
    ]


def test_a_killed_process_is_not_taken_to_be_at_work(tmp_path: Path) -> None:
    path = tmp_path / ".progress.json"
    code = (
        "import sys, time\n"
        "from pathlib import Path\n"
        "from medlens.progress_file import kept_progress\n"
        "with kept_progress(Path(sys.argv[1]), 'train') as watched:\n"
        "    watched.begin('Testing')\n"
        "    print('ready', flush=True)\n"
        "    time.sleep(60)\n"
    )
    command = [sys.executable, "-c", code, str(path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        process.stdout.readline()
        assert read_progress(path) is not None
        process.send_signal(signal.SIGKILL)
    assert path.exists()
    assert read_progress(path) is None


@pytest.mark.parametrize("content", ["", "{", "[]", '{"pid": "x"}', '{"pid": 1}', "null"])
def test_a_damaged_file_is_none(tmp_path: Path, content: str) -> None:
    path = tmp_path / ".progress.json"
    path.write_text(content)
    assert read_progress(path) is None
