"""The report with the author's answers, and without what shall not be shown."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from medlens import MedlensError, Run
from medlens.files import write_text
from medlens.report.figures import write_figures
from medlens.report.publish import publish
from medlens.run_dir import RunDir

MakeRun = Callable[..., RunDir]


@pytest.fixture
def run(make_run: MakeRun) -> RunDir:
    made = make_run()
    write_figures(made, Run(made.root).evaluation)
    return made


def test_the_author_is_asked_and_the_answer_is_shown(run: RunDir) -> None:
    publish(run)
    questions = run.study.read_text(encoding="utf-8")
    assert 'claim_44 = ""' in questions
    answered = questions.replace('claim_44 = ""', 'claim_44 = "Paid by <nobody> & co."')
    write_text(run.study, answered)
    assert Run(run.root).write_report() == run.report
    assert "Paid by &lt;nobody&gt; &amp; co." in run.report.read_text(encoding="utf-8")
    assert run.study.read_text(encoding="utf-8") == answered
    assert run.model_card.is_file()


def test_a_report_without_images_names_no_file(run: RunDir) -> None:
    publish(run)
    assert "images/0316.png" in run.report.read_text(encoding="utf-8")
    write_text(run.config, run.config.read_text(encoding="utf-8") + "no_images = true\n")
    publish(run)
    page = run.report.read_text(encoding="utf-8")
    assert ".png<" not in page and "data:image" not in page


def test_the_command_needs_no_network_library(run: RunDir) -> None:
    code = (
        "import sys; from medlens.cli import main; main(['report', sys.argv[1]]); "
        "print('loaded:', *{name.split('.')[0] for name in sys.modules})"
    )
    command = [sys.executable, "-c", code, str(run.root)]
    said = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    assert "report.html" in said
    assert not {"keras", "tensorflow"} & set(said.rpartition("loaded:")[2].split())


def test_a_folder_that_is_no_run_is_refused(tmp_path: Path) -> None:
    with pytest.raises(MedlensError, match="not finished"):
        publish(RunDir(tmp_path))
    assert not list(tmp_path.iterdir())
