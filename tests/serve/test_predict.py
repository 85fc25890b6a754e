from __future__ import annotations

import json
import math
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from itertools import product
from pathlib import Path
from typing import Any

import httpx
import keras
import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pydicom.data
import pytest
from PIL import Image

import medlens
from medlens.cli import main
from medlens.data.csv_file import ROWS_AT_A_TIME
from medlens.data.remote import open_path
from medlens.errors import MedlensError
from medlens.model.checksums import digest_of, write_checksums
from medlens.model.classifier import NO_NUMBER, load_classifier
from medlens.model.classifier_files import CHECKSUMS_FILE, MODEL_FILE
from medlens.model.prediction_sets import name_sets
from medlens.serve.inputs import Digest, list_inputs
from medlens.serve.only_writer import lock_path, only_writer
from medlens.serve.predict import Work, make_parts, open_work, result_columns
from medlens.serve.result_file import ResultFile, processor_begun

# Some parts of 256.
MANY = 900
# In a process that finds this, a BMP ends whoever decodes it.
ABORTS_AT_BMP = """
import os
import re
from PIL import BmpImagePlugin, Image

def accept(prefix):
    return prefix.startswith(b"BM") and os.abort()

Image.preinit()
Image.register_open("BMP", BmpImagePlugin.BmpImageFile, accept)
"""
LARGEST = float(np.finfo(np.float32).max)


@pytest.fixture(scope="module")
def files(finished_run: medlens.Run, phantoms: Path) -> list[Path]:
    return [phantoms.parent / path for path in finished_run.predictions["path"]][:40]


@pytest.fixture(scope="module")
def expected(finished_run: medlens.Run, files: list[Path]) -> pd.DataFrame:
    return finished_run.classifier().predict(files)


@pytest.fixture
def mixed(files: list[Path], tmp_path: Path) -> Path:
    """A folder with good images, a bad one, DICOM without a suffix, and files that are none."""
    folder = tmp_path / "mixed"
    (folder / "study" / "series").mkdir(parents=True)
    shutil.copy(files[0], folder / "b.png")
    shutil.copy(files[1], folder / "a.png")
    (folder / "bad.png").write_bytes(b"no picture at all")
    (folder / "notes.txt").write_text("read me", encoding="utf-8")
    sample = pydicom.data.get_testdata_file("MR_small.dcm", download=False)
    shutil.copy(sample, folder / "study" / "series" / "IM000001")
    shutil.copy(sample, folder / "study" / "series" / "1.2.840.113619")
    directory = pydicom.data.get_testdata_file("DICOMDIR", download=False)
    shutil.copy(directory, folder / "study" / "DICOMDIR")
    return folder


def read_csv(path: Path) -> pd.DataFrame:
    return pd.read_csv(path, keep_default_na=False, na_values={"distance": "", "unfamiliar": ""})


def test_a_folder_is_answered_in_order_and_bad_files_have_their_reason(
    finished_run: medlens.Run, mixed: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "predictions.csv"
    status = main(["predict", str(finished_run.path), str(mixed), "-o", str(out)])
    table = read_csv(out)
    names = ["a.png", "b.png", "bad.png", "study/series/1.2.840.113619", "study/series/IM000001"]
    assert list(table["path"]) == [str(mixed / name) for name in names]
    assert list(table["unreadable"] != "") == [False, False, True, False, False]
    refused = table.iloc[2]
    assert refused["predicted"] == refused["prediction_set"] == refused["prob_mass"] == ""
    assert np.isnan(refused["unfamiliar"])
    assert set(pd.read_csv(out, dtype=str, keep_default_na=False)["unfamiliar"]) <= {"0", "1", ""}
    assert status == 3
    said = capsys.readouterr().out
    assert "4 of 5 images answered" in said
    assert "2 in the folders passed over" in said  # notes.txt and DICOMDIR
    assert "1 refused" in said
    assert "Not a medical device" in said
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith(".")] == []


def test_every_format_says_the_same_as_python(
    finished_run: medlens.Run, files: list[Path], expected: pd.DataFrame, tmp_path: Path
) -> None:
    classes = finished_run.evaluation["classes"]
    numbers = [*(f"prob_{name}" for name in classes), "distance"]
    for name in ("a.csv", "a.json", "a.jsonl", "a.parquet"):
        outcome = medlens.predict(finished_run.path, files, out=tmp_path / name, quiet=True)
        assert (outcome.images, outcome.refused) == (40, 0)
        text = (tmp_path / name).read_bytes()
        if name.endswith("csv"):
            table = read_csv(tmp_path / name)
        elif name.endswith("json"):
            table = pd.DataFrame(json.loads(text))
        elif name.endswith("jsonl"):
            table = pd.DataFrame([json.loads(line) for line in text.splitlines()])
        else:
            table = pd.read_parquet(tmp_path / name)
        assert list(table.columns) == list(expected.columns)
        # Batches are not cut alike, and matrix products of other sizes are rounded otherwise.
        assert np.allclose(table[numbers].astype(float), expected[numbers], rtol=1e-5)
        for column in ("path", "predicted", "decision", "unfamiliar", "unreadable"):
            assert list(table[column]) == list(expected[column]), column
        written = table["prediction_set"]
        sets = written.str.split(" | ", regex=False) if name.endswith("csv") else written
        assert list(map(tuple, sets)) == list(expected["prediction_set"])


def test_a_set_is_written_whatever_its_classes_are_called(tmp_path: Path) -> None:
    classes = ("a", "a | b", "b", "b | a", " | ")
    members = np.array(list(product([False, True], repeat=len(classes))))
    sets = name_sets(members, classes)
    table = pd.DataFrame({"prediction_set": sets, "unfamiliar": 0})
    found = {}
    for name in ("a.json", "a.parquet"):
        result = ResultFile(tmp_path / name, tuple(table.columns), len(table), {})
        result.open()
        result.add(0, table)
        result.finish(lambda _: None)
        found[name] = (tmp_path / name).read_bytes()
    assert [tuple(row["prediction_set"]) for row in json.loads(found["a.json"])] == sets
    assert list(map(tuple, pd.read_parquet(tmp_path / "a.parquet")["prediction_set"])) == sets


def test_a_part_of_another_state_is_never_taken(bucket: str, tmp_path: Path) -> None:
    tables = [
        pd.DataFrame({"path": [name], "prediction_set": [()], "unfamiliar": [0]})
        for name in ("late", "own")
    ]
    for folder in (tmp_path, open_path(f"{bucket}/states")):
        late, own = (
            ResultFile(folder / "a.json", tuple(tables[0].columns), 1, {"classifier": name})
            for name in ("late", "own")
        )
        late.open()
        late.add(0, tables[0])
        assert late.open() == ({0}, False)
        assert own.open() == (frozenset(), True)
        assert not late.part(0).exists()
        own.add(0, tables[1])
        late.add(0, tables[0])  # by a process that lives on
        assert own.open() == ({0}, False)
        late.add(0, tables[0])
        own.finish(lambda _: None)
        assert json.loads((folder / "a.json").read_text())[0]["path"] == "own"


def test_a_csv_holds_names_and_values_as_they_are(
    finished_run: medlens.Run, mixed: Path, tmp_path: Path
) -> None:
    shutil.copy(mixed / "a.png", mixed / "=1+1.png")
    given = "path,change,=note\n=1+1.png,-3.5,@home\n"
    (mixed / "list.csv").write_text(given, encoding="utf-8")
    out = tmp_path / "out.csv"
    medlens.predict(finished_run.path, mixed / "list.csv", out=out, quiet=True)
    table = pd.read_csv(out, dtype=str, keep_default_na=False)
    assert table.iloc[:, :3].to_csv(index=False, lineterminator="\n") == given


def test_two_at_once_do_not_write_the_same_result(
    finished_run: medlens.Run, files: list[Path], tmp_path: Path
) -> None:
    out = tmp_path / "out.csv"
    with only_writer(out):
        process = start(finished_run.path, files[0], out)
        with pytest.raises(MedlensError, match=f"process {os.getpid()} at work"):
            medlens.predict(finished_run.path, files[:2], out=out, quiet=True)
        process.communicate()
    assert process.returncode == 2
    assert not list(tmp_path.iterdir())
    lock_path(out).write_text("12345", encoding="utf-8")  # its process was killed
    medlens.predict(finished_run.path, files[:2], out=out, quiet=True)
    assert list(tmp_path.iterdir()) == [out]


def test_json_has_null_where_there_is_no_number(
    finished_run: medlens.Run, mixed: Path, tmp_path: Path
) -> None:
    out = tmp_path / "predictions.json"
    medlens.predict(finished_run.path, mixed / "bad.png", out=out, quiet=True)
    (record,) = json.loads(out.read_text(encoding="utf-8"))
    assert record["prob_mass"] is record["distance"] is record["unfamiliar"] is None
    assert record["prediction_set"] == []
    assert record["predicted"] == ""


def test_a_whole_number_of_a_list_keeps_its_digits_where_others_are_missing(
    tmp_path: Path,
) -> None:
    """With one missing in the second batch that is read."""
    rows = ROWS_AT_A_TIME + 9
    study: list[int | None] = [2**53 + 1] * rows
    study[-1] = None
    paths = [f"{number}.png" for number in range(rows)]
    table = pa.table({"path": paths, "study": pa.array(study, pa.int64())})
    pq.write_table(table, tmp_path / "list.parquet")
    tables = list(list_inputs([tmp_path / "list.parquet"]).tables())
    texts = pd.concat(tables)["study"]
    assert set(texts.iloc[:-1]) == {"9007199254740993"}
    assert texts.iloc[-1] == ""


def test_a_csv_brings_its_columns_and_its_own_folder(
    finished_run: medlens.Run, mixed: Path, tmp_path: Path
) -> None:
    listed = mixed / "list.csv"
    listed.write_text(
        "site,File,predicted\nnorth,b.png,yes\n007,missing.png,\nsouth,study/series/IM000001,no\n",
        encoding="utf-8",
    )
    out = tmp_path / "predictions.csv"
    given = [mixed / "a.png", listed]
    outcome = medlens.predict(finished_run.path / "classifier", given, out=out, quiet=True)
    assert (outcome.images, outcome.refused) == (4, 1)
    table = pd.read_csv(out, dtype=str, keep_default_na=False)
    assert list(table.columns[:4]) == ["path", "site", "given_predicted", "predicted"]
    paths = [str(mixed / "a.png"), "b.png", "missing.png", "study/series/IM000001"]
    assert list(table["path"]) == paths
    assert list(table["site"]) == ["", "north", "007", "south"]
    assert list(table["given_predicted"]) == ["", "yes", "", "no"]
    assert table["unreadable"].iloc[2] == "It cannot be opened: No such file or directory."


def listed(given: list[str]) -> list[str]:
    return [path for table in list_inputs(given).tables() for path in table["path"]]


def digest(folder: Path) -> str:
    found = Digest(list_inputs([folder]))
    assert sum(map(len, found.tables())) == 1
    return found.text()


def test_patterns_find_files_and_folders(mixed: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(mixed)
    assert listed(["*.png"]) == ["a.png", "b.png", "bad.png"]
    assert listed(["stu*"]) == [
        "study/series/1.2.840.113619",
        "study/series/IM000001",
    ]
    assert listed(["**/*"]) == sorted(
        ["a.png", "b.png", "bad.png", "study/series/1.2.840.113619", "study/series/IM000001"]
    )
    assert listed(["b.png", "."])[:3] == ["b.png", "a.png", "b.png"]
    shutil.copy("a.png", "a[1].png")
    assert listed(["a[1].png"]) == ["a[1].png"]


def test_a_pattern_of_any_kind_goes_into_the_folders_it_finds(
    mixed: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(mixed)
    shutil.copy("a.png", "study/series.png")
    everything = [
        "study/series.png",
        "study/series/1.2.840.113619",
        "study/series/IM000001",
    ]
    assert sorted(listed(["*/series*"])) == everything
    for pattern in ("**/series*", "**/s*", "./**/s*", "**/study/", "**/[si]*"):
        found = listed([pattern])
        assert sorted(map(os.path.normpath, found)) == everything, pattern
    found = listed([f"{mixed}/**/series*"])
    assert sorted(found) == [f"{mixed}/{path}" for path in everything]


def test_patterns_on_other_storage_go_into_folders(bucket: str, mixed: Path) -> None:
    for name in ("one/series/a.png", "one/series.png", "two/b.png"):
        (open_path(f"{bucket}/patterns") / name).write_bytes((mixed / "a.png").read_bytes())
    for pattern in ("*/series*", "**/series*"):
        found = listed([f"{bucket}/patterns/{pattern}"])
        there = f"{bucket}/patterns/one/series"
        assert sorted(found) == [f"{there}.png", f"{there}/a.png"], pattern


def test_a_named_file_whose_name_is_not_utf_8_is_answered(
    finished_run: medlens.Run, files: list[Path], tmp_path: Path
) -> None:
    odd = os.fsdecode(os.fsencode(tmp_path) + b"/b\xffd 1%20#.png")
    try:
        shutil.copy(files[0], odd)
    except OSError:
        pytest.skip("this file system takes no such name")
    out = tmp_path / "out.csv"
    medlens.predict(finished_run.path, [files[0], odd, files[1]], out=out, quiet=True)
    said = read_csv(out)
    assert list(said["path"])[1] == f"{tmp_path}/b\\xffd 1%20#.png"
    assert list(said["unreadable"]) == ["", "", ""]
    assert said["predicted"][1] == said["predicted"][0]
    assert said["distance"][1] == said["distance"][0]
    assert listed([f"{tmp_path}/b*.png"]) == [f"{tmp_path}/b\\xffd 1%20#.png"]


def test_a_folder_that_cannot_be_opened_is_said_and_seen_by_a_script(
    finished_run: medlens.Run,
    files: list[Path],
    tmp_path: Path,
    as_owner: Callable[[], AbstractContextManager[None]],
    capsys: pytest.CaptureFixture[str],
) -> None:
    for name in ("a.png", "closed/b.png"):
        (tmp_path / "in" / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(files[0], tmp_path / "in" / name)
    (tmp_path / "in/closed").chmod(0o311)
    command = ["predict", str(finished_run.path), str(tmp_path / "in")]
    explain = ["explain", str(finished_run.path), str(tmp_path / "in"), "-o", str(tmp_path / "ex")]
    with as_owner():
        for given in ([*command, "-o", str(tmp_path / "out.csv")], command, explain):
            assert main(given) == 3
            said = capsys.readouterr()
            assert "1 in the folders passed over: folder that cannot be opened." in said.out
    assert len(read_csv(tmp_path / "out.csv")) == 1


def test_what_cannot_be_meant_is_an_error(
    finished_run: medlens.Run, mixed: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run, image = str(finished_run.path), str(mixed / "a.png")
    (tmp_path / "empty").mkdir()
    (tmp_path / "there.csv").write_text("path\n", encoding="utf-8")
    (tmp_path / "twice.csv").write_text("path,a,a\nx.png,1,2\n", encoding="utf-8")
    wrong = {
        "nothing at a path": [run, str(mixed / "none.png"), "-o", str(tmp_path / "a.csv")],
        "no image in what was given": [run, str(tmp_path / "empty"), "-o", str(tmp_path / "a.csv")],
        "format of the result is not known": [run, image, "-o", str(tmp_path / "a.xlsx")],
        "There is a file at the place": [run, image, "-o", str(tmp_path / "there.csv")],
        "not a file": [run, image, "-o", str(mixed.parent / "folder.csv")],
        "no whole classifier": [str(tmp_path), image, "-o", str(tmp_path / "a.csv")],
        "would replace": [
            *(run, str(tmp_path / "there.csv"), "--overwrite"),
            *("-o", str(tmp_path / "there.csv")),
        ],
    }
    (mixed.parent / "folder.csv").mkdir()
    for message, arguments in wrong.items():
        assert main(["predict", *arguments]) == 2
        assert message in capsys.readouterr().err, message
    assert not (tmp_path / "a.csv").exists()


def test_few_images_are_answered_on_the_screen(
    finished_run: medlens.Run, mixed: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["predict", str(finished_run.path), str(mixed)]) == 3
    said = capsys.readouterr().out
    assert "It is not a PNG" in said
    assert "Not a medical device" in said
    listed = mixed / "many.csv"
    listed.write_text("path\n" + "a.png\n" * 101, encoding="utf-8")
    assert main(["predict", str(finished_run.path), str(listed)]) == 2
    assert "too many images for the screen" in capsys.readouterr().err


@pytest.fixture
def many(files: list[Path], tmp_path: Path) -> Path:
    """A CSV of many images, every twentieth of them bad."""
    (tmp_path / "bad.png").write_bytes(b"no picture")
    lines = [
        "bad.png" if number % 20 == 7 else str(files[number % len(files)]) for number in range(MANY)
    ]
    path = tmp_path / "many.csv"
    rows = [f"{line},{number}" for number, line in enumerate(lines)]
    path.write_text("\n".join(["path,number", *rows, ""]), encoding="utf-8")
    return path


def start(run: Path, given: Path, out: Path) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "medlens", "predict", str(run), str(given), "-o", str(out)]
    environment = {**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3"}
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment)


@pytest.mark.slow
def test_after_kill_9_the_same_command_goes_on_to_the_same_bytes(
    finished_run: medlens.Run, many: Path, tmp_path: Path
) -> None:
    whole, out = tmp_path / "whole.csv", tmp_path / "out.csv"
    outcome = medlens.predict(finished_run.path, many, out=whole, quiet=True)
    assert (outcome.images, outcome.refused) == (MANY, MANY // 20)
    parts = tmp_path / ".out.csv.parts"
    process = start(finished_run.path, many, out)
    while process.poll() is None and len(list(parts.glob("*.parquet"))) < 2:
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert process.returncode == -signal.SIGKILL
    assert not out.exists()
    finished = len(list(parts.glob("0*.parquet")))
    assert finished >= 2
    # What a killed process was writing, and a part that the disk lost, are no obstacle.
    last = sorted(parts.glob("0*.parquet"))[-1]
    last.write_bytes(last.read_bytes()[:100])
    (parts / ".000000000256.parquet.1.part").write_bytes(b"half")
    again = start(finished_run.path, many, out)
    said = again.communicate()[0]
    assert again.returncode == 3
    assert "Going on after" in said
    assert out.read_bytes() == whole.read_bytes()
    assert not parts.exists()
    assert list(pd.read_csv(out)["number"]) == list(range(MANY))


def test_a_file_that_ends_the_process_is_refused_when_the_command_is_repeated(
    finished_run: medlens.Run, files: list[Path], tmp_path: Path
) -> None:
    (tmp_path / "path" / "sitecustomize.py").parent.mkdir()
    (tmp_path / "path" / "sitecustomize.py").write_text(ABORTS_AT_BMP)
    images = tmp_path / "images"
    images.mkdir()
    for number, path in enumerate(files[:3]):
        shutil.copy(path, images / f"{number}.png")
    Image.new("RGB", (40, 30)).save(images / "1a.bmp")
    out = tmp_path / "out.csv"
    command = [sys.executable, "-m", "medlens", "predict", str(finished_run.path), str(images)]
    environment = {
        **os.environ,
        "PYTHONPATH": f"{tmp_path}/path:{os.environ.get('PYTHONPATH', '')}",
    }
    ended = [
        subprocess.run([*command, "-o", str(out)], env=environment, check=False).returncode
        for _ in range(2)
    ]
    assert ended == [-signal.SIGABRT, 3]
    assert list(pd.read_csv(out, keep_default_na=False)["unreadable"]) == [
        *("", ""),
        "It broke the decoder.",
        "",
    ]


def test_with_other_images_an_interrupted_run_begins_anew(
    finished_run: medlens.Run,
    files: list[Path],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    parts = tmp_path / ".out.csv.parts"
    parts.mkdir()
    (parts / "state.json").write_text('{"inputs": "others"}', encoding="utf-8")
    (parts / "000000000000.parquet").write_bytes(b"of another run")
    medlens.predict(finished_run.path, files[:3], out=tmp_path / "out.csv")
    assert "begun anew" in capsys.readouterr().out
    assert len(pd.read_csv(tmp_path / "out.csv")) == 3


def test_parts_of_another_processor_are_not_mixed_in(
    finished_run: medlens.Run, files: list[Path], tmp_path: Path
) -> None:
    classifier = medlens.load(finished_run.path)
    inputs = list_inputs(files[:3])
    columns = result_columns(classifier.classes, inputs.columns)

    out = tmp_path / "out.csv"

    def opened(processor: str, overwrite: bool = False, classifier: str = "digest") -> Work:
        return open_work(inputs, out, columns, classifier, processor, overwrite=overwrite)

    assert opened("GPU").finished == set()
    assert processor_begun(out) == "GPU"
    # Nothing was finished, and nothing is lost.
    make_parts(classifier, opened("CPU"), lambda _: None)
    assert opened("CPU").finished == {0}
    with pytest.raises(MedlensError, match="another kind of processor") as raised:
        opened("GPU")
    assert "--overwrite" in raised.value.fix
    assert opened("CPU").finished == {0}
    other = opened("GPU", overwrite=True)
    assert other.is_anew
    assert other.finished == set()


def test_parts_of_another_processor_and_another_classifier_are_of_no_use(
    finished_run: medlens.Run, files: list[Path], tmp_path: Path
) -> None:
    classifier, inputs = finished_run.classifier(), list_inputs(files[:3])
    columns, out = result_columns(classifier.classes, inputs.columns), tmp_path / "out.csv"
    work = open_work(inputs, out, columns, "digest", "GPU")
    make_parts(classifier, work, lambda _: None)
    assert open_work(inputs, out, columns, "another", "CPU").is_anew


def test_a_command_without_a_gpu_keeps_what_was_made_on_one(
    finished_run: medlens.Run, files: list[Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    classifier, inputs = finished_run.classifier(), list_inputs(files[:3])
    digest = digest_of(finished_run.path / "classifier" / CHECKSUMS_FILE)
    columns, out = result_columns(classifier.classes, inputs.columns), tmp_path / "out.csv"
    make_parts(classifier, open_work(inputs, out, columns, digest, "GPU"), lambda _: None)
    (part,) = (tmp_path / ".out.csv.parts").glob("0*.parquet")
    command = ["predict", str(finished_run.path), *map(str, files[:3]), "-o", str(out)]
    assert main(command) == 2
    assert "another kind of processor" in capsys.readouterr().err
    assert part.exists()
    assert main([*command, "--overwrite"]) == 0
    assert len(pd.read_csv(out)) == 3


def test_a_changed_file_is_noticed(files: list[Path], tmp_path: Path) -> None:
    shutil.copy(files[0], tmp_path / "a.png")
    before = digest(tmp_path)
    assert digest(tmp_path) == before
    shutil.copy(files[1], tmp_path / "a.png")
    assert digest(tmp_path) != before


@pytest.mark.slow
def test_a_full_disk_ends_it_in_words_and_with_room_it_goes_on(
    finished_run: medlens.Run, many: Path, tmp_path: Path
) -> None:
    """On a real file system of 64 KiB, which is then made larger."""
    disk = tmp_path / "disk"
    disk.mkdir()
    unshare = ["unshare", "--user", "--map-root-user", "--mount", "sh", "-c"]
    mount = f"mount -t tmpfs -o size=64k tmpfs {disk}"
    if shutil.which("unshare") is None or subprocess.run([*unshare, mount]).returncode:
        pytest.skip("this system lets nobody mount a small disk")
    predict = f"{sys.executable} -m medlens predict {finished_run.path} {many} -o {disk}/out.csv"
    steps = [
        mount,
        f"{predict}; echo status $? >&2; ls -A {disk}; echo now with room",
        f"mount -o remount,size=10m {disk}; {predict}; echo status $? >&2",
        f"cp {disk}/out.csv {tmp_path}; ls -A {disk}",
    ]
    environment = {**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3"}
    done = subprocess.run(
        [*unshare, "\n".join(steps)], capture_output=True, text=True, env=environment
    )
    full, _, roomy = done.stdout.partition("now with room")
    assert re.findall(r"status (\d)", done.stderr) == ["2", "3"]  # some images are refused
    assert done.stderr.count("No space left on device") == 1, done.stderr
    assert "the same command goes on" in done.stderr
    assert "Traceback" not in done.stderr
    assert "out.csv.parts" in full.splitlines()[-1]
    assert "Going on after" in roomy
    assert roomy.splitlines()[-1] == "out.csv"
    assert list(pd.read_csv(tmp_path / "out.csv")["number"]) == list(range(MANY))


def test_the_python_verb_refuses_like_the_command(
    finished_run: medlens.Run, tmp_path: Path
) -> None:
    with pytest.raises(MedlensError, match="nothing at a path"):
        medlens.predict(finished_run.path, [tmp_path / "none"], out=tmp_path / "a.csv")


@pytest.fixture
def overflowing(finished_run: Any, files: list[Path], tmp_path: Path) -> tuple[Path, Path]:
    """A classifier whose network overflows over one of six images, and that image."""
    folder = Path(shutil.copytree(finished_run.path / "classifier", tmp_path / "classifier"))
    one = load_classifier(folder)
    last = [layer for layer in one.model.layers if isinstance(layer, keras.layers.Dense)][-1]
    pictures = np.stack([one.picture(path) for path in files[:6]]).astype(np.float32)
    below = np.asarray(keras.Model(one.model.inputs[0], last.input)(pictures, training=False))
    ordered = np.sort(below, axis=0)
    feature = int(np.argmax(ordered[-1] - ordered[-2]))
    between = float(ordered[-2:, feature].mean())
    kernel, bias = np.zeros_like(last.kernel), np.zeros_like(last.bias)
    kernel[feature, 0], bias[0] = 0.001 * LARGEST / between, 0.999 * LARGEST
    last.kernel.assign(kernel)
    last.bias.assign(bias)
    one.model.save(folder / MODEL_FILE)
    names = [line.split()[1] for line in (folder / CHECKSUMS_FILE).read_text().splitlines()]
    write_checksums(folder, names)
    return folder, files[int(below[:, feature].argmax())]


@pytest.mark.slow
def test_an_image_without_a_finite_answer_is_refused_everywhere(
    overflowing: tuple[Path, Path], files: list[Path], start: Any, tmp_path: Path
) -> None:
    folder, image = overflowing
    table = load_classifier(folder).predict(files[:6])
    refused = table[table["unreadable"] != ""]
    assert list(refused["path"]) == [str(image)]
    (row,) = refused.to_dict("records")
    assert row["unreadable"] == NO_NUMBER
    assert (row["predicted"], row["decision"], row["prediction_set"]) == ("", "", ())
    assert math.isnan(row["distance"])
    assert row["unfamiliar"] == 0
    out = tmp_path / "pages"
    command = [sys.executable, "-m", "medlens", "explain", folder, image, files[7], "-o", out]
    assert subprocess.run(command, check=False).returncode == 3
    told = pd.read_csv(out / "explain.csv", keep_default_na=False)
    assert told["unreadable"][0] == NO_NUMBER
    assert told["page"][0] == ""
    with start(folder) as server:
        parts = [("images", (path.name, path.read_bytes())) for path in files[:6]]
        answer = httpx.post(f"{server.url}/predict", files=parts, timeout=60)
        assert answer.status_code == 200
        reasons = [one["unreadable"] for one in answer.json()["results"]]
        assert reasons == [NO_NUMBER if path == image else None for path in files[:6]]
        part = [("image", (image.name, image.read_bytes()))]
        answer = httpx.post(f"{server.url}/explain", files=part, timeout=60)
        assert (answer.status_code, answer.json()["detail"]) == (422, NO_NUMBER)
