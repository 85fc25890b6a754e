from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path

import pytest

import medlens
from medlens.errors import MedlensError
from medlens.model.checksums import verify_checksums, write_checksums
from medlens.model.classifier import FORMAT_VERSION, load_classifier
from medlens.model.classifier_files import CHECKSUMS_FILE, FACTS_FILE, NEEDED_FILES


@pytest.fixture
def folder(finished_run: medlens.Run, tmp_path: Path) -> Path:
    return Path(shutil.copytree(finished_run.path / "classifier", tmp_path / "classifier"))


@pytest.mark.parametrize("name", [*NEEDED_FILES, CHECKSUMS_FILE])
def test_a_changed_byte_is_refused_by_name(folder: Path, name: str) -> None:
    content = bytearray((folder / name).read_bytes())
    content[len(content) // 2] ^= 1
    (folder / name).write_bytes(content)
    with pytest.raises(MedlensError) as refused:
        medlens.load(folder)
    # In the list itself the byte is of another file's line: nobody can tell which was changed.
    assert name in f"{refused.value} {refused.value.names}"
    assert refused.value.got != refused.value.expected


def test_every_changed_byte_of_the_facts_is_said_to_be_a_change(folder: Path) -> None:
    """Also where the content is then no JSON, or that of another format."""
    content = (folder / FACTS_FILE).read_bytes()
    for place in range(len(content)):
        changed = bytearray(content)
        changed[place] ^= 1 << place % 8
        (folder / FACTS_FILE).write_bytes(changed)
        with pytest.raises(MedlensError, match=f"{FACTS_FILE} is not the one that was written"):
            load_classifier(folder)
    at = content.index(b'"format": ') + len(b'"format": ')
    (folder / FACTS_FILE).write_bytes(content[:at] + b"9" + content[at:])
    with pytest.raises(MedlensError, match=f"{FACTS_FILE} is not the one that was written"):
        load_classifier(folder)


@pytest.mark.parametrize("name", [*NEEDED_FILES, CHECKSUMS_FILE])
def test_a_missing_file_is_refused_by_name(folder: Path, name: str) -> None:
    (folder / name).unlink()
    with pytest.raises(MedlensError) as refused:
        medlens.load(folder)
    assert name in str(refused.value)


def test_a_file_that_the_list_leaves_out_is_missed(folder: Path) -> None:
    write_checksums(folder, NEEDED_FILES[1:])
    with pytest.raises(MedlensError, match=CHECKSUMS_FILE) as refused:
        medlens.load(folder)
    assert NEEDED_FILES[0] in refused.value.got


def test_files_that_are_not_listed_are_no_matter(folder: Path) -> None:
    (folder / ".DS_Store").write_bytes(b"of a desktop")
    verify_checksums(folder, NEEDED_FILES)


def test_the_system_verifies_the_folder_by_itself(folder: Path) -> None:
    program = shutil.which("sha256sum")
    if program is None:
        pytest.skip("there is no sha256sum")
    done = subprocess.run(
        [program, "--check", "--strict", CHECKSUMS_FILE], cwd=folder, capture_output=True, text=True
    )
    assert (done.returncode, done.stdout.count(": OK")) == (0, len(NEEDED_FILES))


@pytest.mark.parametrize("step", [-1, 1])
def test_another_format_is_refused_with_both_versions(folder: Path, step: int) -> None:
    facts = json.loads((folder / FACTS_FILE).read_text(encoding="utf-8"))
    facts["format"] += step
    facts["versions"]["medlens"] = "7.8.9"
    (folder / FACTS_FILE).write_text(json.dumps(facts), encoding="utf-8")
    write_checksums(folder, NEEDED_FILES)
    with pytest.raises(MedlensError, match="older" if step < 0 else "newer") as refused:
        medlens.load(folder)
    assert refused.value.got == f"format {FORMAT_VERSION + step}, written by medlens 7.8.9"
    assert f"format {FORMAT_VERSION}" in refused.value.expected
    assert medlens.__version__ in refused.value.expected
