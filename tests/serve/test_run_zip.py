"""Runs as .zip: whole, the same bytes each time, and nothing unpacked on trust."""

from __future__ import annotations

import io
import stat
import zipfile
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest

from medlens.errors import MedlensError
from medlens.run_dir import RunDir
from medlens.serve import run_zip
from medlens.serve.run_zip import opened_run, unpack_run, write_run_zip

if TYPE_CHECKING:
    import medlens

FACTS = "classifier/classifier.json"


@pytest.fixture(scope="module")
def zipped(finished_run: medlens.Run, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("zipped") / "handed-over.zip"
    with path.open("wb") as stream:
        write_run_zip(RunDir(finished_run.path), stream)
    return path


def write_zip(path: Path, members: dict[str, bytes]) -> Path:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as packed:
        for name, content in members.items():
            packed.writestr(name, content)
    return path


def test_all_of_a_run_travels_and_its_bytes_come_back(
    finished_run: medlens.Run, zipped: Path
) -> None:
    with opened_run(zipped) as folder:
        assert folder.name == finished_run.path.name
        for path in finished_run.path.rglob("*"):
            if path.is_file():
                there = folder / path.relative_to(finished_run.path)
                assert there.read_bytes() == path.read_bytes(), path.name
    assert not folder.exists()


def test_what_is_hidden_stays_at_home(own_run: RunDir) -> None:
    own_run.page.mkdir()
    (own_run.page / "job.json").write_text("{}")
    own_run.progress.write_text("{}")
    stream = io.BytesIO()
    write_run_zip(own_run, stream)
    names = zipfile.ZipFile(stream).namelist()
    assert names
    assert not any("/." in name for name in names)


def test_the_same_run_gives_the_same_bytes(own_run: RunDir) -> None:
    packed = [io.BytesIO() for _ in range(2)]
    write_run_zip(own_run, packed[0])
    own_run.report.touch()
    write_run_zip(own_run, packed[1])
    assert packed[0].getvalue() == packed[1].getvalue()


def test_the_classifier_alone_names_no_image_and_no_patient(finished_run: medlens.Run) -> None:
    stream = io.BytesIO()
    write_run_zip(RunDir(finished_run.path), stream, only_classifier=True)
    with zipfile.ZipFile(stream) as packed:
        names = {name.split("/")[1] for name in packed.namelist()}
        content = b"".join(packed.read(name) for name in packed.namelist())
    assert names == {"classifier", "model_card.md"}
    for row in finished_run.predictions.head(20).to_dict("records"):
        assert row["path"].encode() not in content
        assert row["patient"].encode() not in content


def test_predictions_from_the_zip_are_those_from_the_folder(
    finished_run: medlens.Run, zipped: Path, phantoms: Path, tmp_path: Path
) -> None:
    import medlens

    images = sorted((phantoms.parent / "mass").glob("*.png"))[:3]
    for run, name in ((finished_run.path, "folder.csv"), (zipped, "zip.csv")):
        medlens.predict(run, images, out=tmp_path / name, quiet=True)
    assert (tmp_path / "zip.csv").read_bytes() == (tmp_path / "folder.csv").read_bytes()
    said = medlens.load(zipped).predict(images)
    assert list(said["predicted"]) == list(finished_run.classifier().predict(images)["predicted"])


@pytest.mark.parametrize(
    "name",
    ["../outside.txt", "/outside.txt", "a/../../outside.txt", "C:\\outside.txt", "a\\..\\b.txt"],
)
def test_a_name_that_leads_out_of_the_folder_is_refused(tmp_path: Path, name: str) -> None:
    file = write_zip(tmp_path / "slip.zip", {FACTS: b"{}", name: b"out"})
    (tmp_path / "in").mkdir()
    with pytest.raises(MedlensError, match="not a run"):
        unpack_run(file, tmp_path / "in")
    assert [path.name for path in tmp_path.rglob("*.txt")] == []
    assert list((tmp_path / "in").iterdir()) == []


def test_a_link_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "link.zip"
    with zipfile.ZipFile(file, "w") as packed:
        entry = zipfile.ZipInfo("run/classifier")
        entry.external_attr = (stat.S_IFLNK | 0o777) << 16
        packed.writestr(entry, "/etc")
    with pytest.raises(MedlensError, match="not a run") as caught, opened_run(file):
        pass
    assert "a link" in caught.value.got


def test_a_bomb_is_refused_before_a_byte_is_written(tmp_path: Path) -> None:
    file = write_zip(tmp_path / "bomb.zip", {FACTS: b"{}", "zeros": bytes(100 << 20)})
    assert file.stat().st_size < 1 << 20
    (tmp_path / "in").mkdir()
    with pytest.raises(MedlensError) as caught:
        unpack_run(file, tmp_path / "in")
    assert "bytes packed into" in caught.value.got
    assert list((tmp_path / "in").iterdir()) == []


def test_a_size_that_is_a_lie_writes_no_more_than_it_says(tmp_path: Path) -> None:
    """The heads say 10 bytes; behind them are 100 MiB."""
    file = write_zip(tmp_path / "lie.zip", {"zeros": bytes(100 << 20)})
    content, size = file.read_bytes(), (100 << 20).to_bytes(4, "little")
    assert content.count(size) == 2
    file.write_bytes(content.replace(size, (10).to_bytes(4, "little")))
    (tmp_path / "in").mkdir()
    with pytest.raises(MedlensError, match="not a run"):
        unpack_run(file, tmp_path / "in")
    assert sum(path.stat().st_size for path in (tmp_path / "in").rglob("zeros")) <= 10


def test_too_many_files_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(run_zip, "MOST_FILES", 2)
    file = write_zip(tmp_path / "many.zip", {f"{number}.txt": b"" for number in range(3)})
    with pytest.raises(MedlensError) as caught, opened_run(file):
        pass
    assert caught.value.got == "3 files"


def test_the_name_of_the_zip_leads_nowhere(tmp_path: Path) -> None:
    folder = tmp_path / "deep" / "folder"
    folder.mkdir(parents=True)
    file = write_zip(tmp_path / "...zip", {FACTS: b"{}"})
    assert unpack_run(file, folder).is_relative_to(folder)
    assert [one.name for one in folder.parent.iterdir()] == ["folder"]


def test_a_damaged_lzma_member_is_said_to_be_damaged(tmp_path: Path) -> None:
    file = tmp_path / "run.zip"
    with zipfile.ZipFile(file, "w", zipfile.ZIP_LZMA) as packed:
        packed.writestr(FACTS, bytes(range(256)) * 40)
    content = bytearray(file.read_bytes())
    start = 30 + len(FACTS) + 9  # after the headers of the file and of LZMA
    content[start : start + 20] = b"\xff" * 20
    file.write_bytes(content)
    with pytest.raises(MedlensError, match="not a run"):
        unpack_run(file, tmp_path / "folder")


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04 damaged", b"no zip at all"])
def test_what_is_no_zip_is_said_to_be_none(tmp_path: Path, content: bytes) -> None:
    file = tmp_path / "run.zip"
    file.write_bytes(content)
    with pytest.raises(MedlensError, match="not a run"), opened_run(file):
        pass


def test_a_damaged_zip_opens_or_is_refused_and_nothing_else(tmp_path: Path) -> None:
    """Each byte changed in turn, to three other values, some of them beside a second one."""
    chosen = np.random.default_rng(0)
    file = write_zip(tmp_path / "run.zip", {FACTS: b'{"format": 1}', "note.txt": b"hello " * 9})
    content, refused = file.read_bytes(), 0
    for place in range(len(content)):
        for value in (0, 255, int(chosen.integers(256))):
            changed = bytearray(content)
            changed[place] = value
            if chosen.random() < 0.5:
                changed[chosen.integers(len(content))] ^= 1 << int(chosen.integers(8))
            file.write_bytes(changed)
            try:
                unpack_run(file, tmp_path / f"{place}-{value}")
            except MedlensError:
                refused += 1
    assert len(content) < refused < 3 * len(content)


def test_a_zip_without_a_run_and_one_with_a_name_twice_are_refused(tmp_path: Path) -> None:
    other = write_zip(tmp_path / "other.zip", {"notes/readme.txt": b"hello"})
    with pytest.raises(MedlensError) as caught, opened_run(other):
        pass
    assert caught.value.got == "no classifier in it"
    twice = tmp_path / "twice.zip"
    with zipfile.ZipFile(twice, "w") as packed, pytest.warns(UserWarning, match="Duplicate"):
        packed.writestr(FACTS, b"{}")
        packed.writestr(FACTS, b"{}")
    with pytest.raises(MedlensError, match="not a run"), opened_run(twice):
        pass
