"""report.pdf, printed by the Chromium that is installed."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from medlens.errors import MedlensError
from medlens.files import write_text
from medlens.report.pdf import CHROMIUM_VARIABLE, find_chromium, print_pdf
from medlens.run_dir import RunDir

PAGE = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><title>Secret title</title>
<style>section { break-after: page; } section:last-child { break-after: auto; }</style></head>
<body><section><h1>One</h1></section><section><h1>Two</h1></section>
<section><h1>Three</h1></section></body></html>
"""


@pytest.fixture
def run(tmp_path: Path) -> RunDir:
    run = RunDir(tmp_path / "a run # with ü")
    write_text(run.report, PAGE)
    return run


@pytest.fixture
def chromium() -> Path:
    """The installed browser."""
    try:
        return find_chromium()
    except MedlensError:
        pytest.skip("no Chromium, Chrome or Edge is installed on this machine")


def program(path: Path, text: str) -> Path:
    write_text(path, f"#!/bin/sh\n{text}\n")
    path.chmod(0o755)
    return path


def test_the_report_is_printed_whole_and_the_same_twice(run: RunDir, chromium: Path) -> None:
    content = print_pdf(run).read_bytes()
    assert content.startswith(b"%PDF-")
    assert content.rstrip().endswith(b"%%EOF")
    assert len(re.findall(rb"/Type\s*/Page\b", content)) == 3
    assert print_pdf(run).read_bytes() == content
    assert {path.name for path in run.root.iterdir()} == {"report.html", "report.pdf"}


def test_no_moment_of_printing_stands_in_it_and_its_table_of_places_is_right(
    run: RunDir, chromium: Path
) -> None:
    content = print_pdf(run).read_bytes()
    assert not re.search(rb"\(D:\d", content)
    place = int(re.findall(rb"startxref\s+(\d+)", content)[-1])
    assert re.match(rb"xref|\d+ \d+ obj", content[place:])


def test_a_whole_report_is_printed(own_run: RunDir, chromium: Path) -> None:
    content = print_pdf(own_run).read_bytes()
    assert content.startswith(b"%PDF-")
    assert len(re.findall(rb"/Type\s*/Page\b", content)) > 5


def test_a_browser_that_is_not_there_is_named_as_the_mistake(
    run: RunDir, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(CHROMIUM_VARIABLE, "/nowhere/secret-browser")
    with pytest.raises(MedlensError) as caught:
        print_pdf(run)
    assert CHROMIUM_VARIABLE in caught.value.what
    assert "Install Chromium" in caught.value.fix
    assert "secret-browser" not in str(caught.value)
    assert caught.value.names == ("/nowhere/secret-browser",)
    assert not run.report_pdf.exists()


def test_a_machine_without_a_browser_is_told_what_to_install(
    run: RunDir, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.delenv(CHROMIUM_VARIABLE, raising=False)
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr("sys.platform", "linux")
    for variable in ("PROGRAMFILES", "PROGRAMFILES(X86)", "LOCALAPPDATA"):
        monkeypatch.delenv(variable, raising=False)
    with pytest.raises(MedlensError, match="no browser was found") as caught:
        print_pdf(run)
    assert "report.html in any browser" in caught.value.fix


@pytest.mark.skipif("os.name == 'nt'", reason="a shell script stands in for a broken browser")
@pytest.mark.parametrize(
    ("script", "said"),
    [("exit 0", "no file was written"), ("exit 7", "exit status 7")],
)
def test_a_browser_that_fails_leaves_the_earlier_pdf(
    run: RunDir, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, script: str, said: str
) -> None:
    run.report_pdf.write_bytes(b"%PDF-1.4 earlier")
    monkeypatch.setenv(CHROMIUM_VARIABLE, str(program(tmp_path / "broken", script)))
    with pytest.raises(MedlensError, match="did not print") as caught:
        print_pdf(run)
    assert caught.value.got == said
    assert run.report_pdf.read_bytes() == b"%PDF-1.4 earlier"


@pytest.mark.skipif("os.name == 'nt'", reason="a shell script stands in for a browser")
def test_what_is_no_pdf_is_not_taken_for_one(
    run: RunDir, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    script = (
        'for one in "$@"; do case "$one" in --print-to-pdf=*) echo no > "${one#*=}";; esac; done'
    )
    monkeypatch.setenv(CHROMIUM_VARIABLE, str(program(tmp_path / "odd", script)))
    with pytest.raises(MedlensError, match="did not print"):
        print_pdf(run)
    assert not run.report_pdf.exists()


def test_without_a_report_there_is_nothing_to_print(tmp_path: Path) -> None:
    with pytest.raises(MedlensError, match="no report to print"):
        print_pdf(RunDir(tmp_path))
