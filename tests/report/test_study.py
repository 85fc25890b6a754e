"""study.toml: every question is asked once, every answer is read, and nothing is written over."""

from __future__ import annotations

import tomllib
from pathlib import Path

import pytest

from medlens.errors import MedlensError
from medlens.files import write_text
from medlens.report.study import (
    read_checklists,
    read_study,
    study_template,
    write_study_template,
)
from medlens.run_dir import RunDir


@pytest.fixture
def run(tmp_path: Path) -> RunDir:
    return RunDir(tmp_path / "secret-name")


def test_the_template_asks_everything_that_only_the_author_knows() -> None:
    asked = {item.id for one in read_checklists() for item in one.items if item.ask}
    answers = tomllib.loads(study_template())
    assert set(answers) == asked
    assert set(answers.values()) == {""}
    assert {"claim_3", "claim_44", "tripod_17"} <= asked


def test_the_template_is_readable_and_says_what_an_answer_is_good_for() -> None:
    lines = study_template().splitlines()
    assert max(map(len, lines)) <= 100
    place = lines.index('claim_44 = ""')
    assert lines[place - 2].startswith("# 44. Funding")
    assert "Also answers TRIPOD+AI 18a." in lines[place - 2]
    assert lines[place - 1].startswith("# Who paid for the study")


def test_an_untouched_template_answers_nothing(run: RunDir) -> None:
    assert read_study(run) == {}
    assert write_study_template(run) == run.study
    assert read_study(run) == {}


def test_what_the_author_wrote_is_never_written_over(run: RunDir) -> None:
    write_text(run.study, 'claim_3 = "mine"\n')
    write_study_template(run)
    assert run.study.read_text(encoding="utf-8") == 'claim_3 = "mine"\n'


def test_answers_are_read_as_one_line_each(run: RunDir) -> None:
    long = '\ufeffclaim_3 = """\n  To sort  scans,\n  quickly. """\n'
    write_text(run.study, long + 'tripod_17 = " "\ntripod_5b = "2019"\n')
    assert read_study(run) == {"claim_3": "To sort scans, quickly.", "tripod_5b": "2019"}


def test_an_item_that_the_template_does_not_ask_may_be_answered(run: RunDir) -> None:
    write_text(run.study, 'claim_19 = "By year."\ntripod_18a = "Nobody paid."\n')
    assert set(read_study(run)) == {"claim_19", "tripod_18a"}


@pytest.mark.parametrize(
    ("content", "what", "words"),
    [
        ('claim_445 = "x"\n', "in no checklist", ("claim_445", "did you mean claim_44?")),
        ('zebra = "x"\n', "in no checklist", ("zebra", "items like claim_44 or tripod_18a")),
        ("claim_3 = 7\n", "is no text", ("claim_3: a number", "a text in quotes")),
        ("claim_3 = true\n", "is no text", ("claim_3: true or false",)),
        ("claim_3 = 2020-01-01\n", "is no text", ("claim_3: a date or time",)),
        ("claim_3 = []\n", "is no text", ("claim_3: a list",)),
        ("[claim_3]\na = 1\n", "is no text", ("claim_3: a table",)),
        ('claim_3 = "unfinished\n', "cannot be read", ("line 1", "a TOML file in UTF-8")),
        ('claim_3 = "a"\nclaim_3 = "b"\n', "cannot be read", ("line 2",)),
    ],
)
def test_a_mistake_is_named_with_the_way_out(
    run: RunDir, content: str, what: str, words: tuple[str, ...]
) -> None:
    write_text(run.study, content)
    with pytest.raises(MedlensError) as caught:
        read_study(run)
    said = str(caught.value)
    assert what in caught.value.what
    assert all(word in said for word in words)
    assert "Mend study.toml" in caught.value.fix
    # Where it lies is shown on the screen, and goes into no log.
    assert "secret-name" not in said
    assert caught.value.names == (str(run.study),)


def test_a_file_in_another_encoding_is_refused(run: RunDir) -> None:
    run.root.mkdir()
    run.study.write_bytes('claim_3 = "Müller"\n'.encode("latin-1"))
    with pytest.raises(MedlensError, match=r"study\.toml cannot be read"):
        read_study(run)
