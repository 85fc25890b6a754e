"""The model card: complete, true to the run, and Markdown that shows names as they are."""

from __future__ import annotations

import json
from collections.abc import Callable

import pandas as pd
import pytest
from markdown_it import MarkdownIt

from medlens.errors import MedlensError
from medlens.files import write_json, write_text
from medlens.report.model_card import escape, write_model_card
from medlens.run_dir import RunDir

MakeRun = Callable[..., RunDir]
HEADINGS = (
    "What it is",
    "Intended use",
    "Data",
    "Performance",
    "Limits",
    "Ethical considerations",
    "How to use it",
    "Versions and checksums",
)
HOSTILE = ("<script>alert(1)</script>", "*a* | _b_ `c`", "# 1. [x](http://y) & $z$")
NARROW, MINUS = "\N{NO-BREAK SPACE}", "\N{MINUS SIGN}"


def card(run: RunDir) -> str:
    return write_model_card(run).read_text(encoding="utf-8")


def shown(text: str) -> str:
    """What a reader of the rendered Markdown sees, tags stripped by a parser of its own."""
    seen = []
    for token in MarkdownIt("commonmark").enable("table").parse(text):
        for one in token.children or [token]:
            assert one.type not in ("html_block", "html_inline", "image", "link_open"), one.content
            if one.type in ("text", "code_inline", "fence", "softbreak"):
                seen.append(one.content or " ")
        seen.append(" ")
    return " ".join("".join(seen).replace(NARROW, " ").split())


def test_the_headings_of_a_model_card_in_their_order(own_run: RunDir) -> None:
    text = card(own_run)
    assert text.startswith("# Model card: image classifier for healthy, mass and microcalc")
    places = [text.index(f"\n## {heading}\n") for heading in HEADINGS]
    assert places == sorted(places)
    assert text.index("**Not a medical device.**") < text.index("random filters") < places[0]
    assert "Mitchell M" in text


def test_the_numbers_of_the_run_stand_in_it(own_run: RunDir) -> None:
    evaluation = json.loads(own_run.evaluation.read_text(encoding="utf-8"))
    text = card(own_run).replace(NARROW, " ")
    for name in ("accuracy", "balanced_accuracy"):
        measure = evaluation["test"][name]
        low, high = (100 * end for end in measure["ci95"])
        row = f"{100 * measure['value']:.1f} % | {low:.1f} to {high:.1f} % | {measure['n']} | "
        assert f"{row}{measure['groups']} |" in text
    point = evaluation["operating_point"]
    assert f"at least {point['threshold']:.3g}" in text
    assert f"{100 * point['test']['recall']['value']:.1f} %" in text
    for heading in ("Calibration", "Operating point", "Unfamiliar images", "Robustness"):
        assert f"\n## {heading}" in text
    environment = json.loads(own_run.environment.read_text(encoding="utf-8"))
    assert environment["data_sha256"] in text
    assert f"| tensorflow | {environment['versions']['tensorflow']} |" in text


def test_what_is_not_there_has_no_section(make_run: MakeRun) -> None:
    text = card(make_run())
    for heading in ("Calibration", "Operating point", "Robustness", "External"):
        assert f"## {heading}" not in text
    assert "No classifier lies in the run folder." in text
    assert [one for one in HEADINGS if f"\n## {one}\n" not in text] == []


def test_every_row_of_a_table_has_the_cells_of_its_head(make_run: MakeRun, own_run: RunDir) -> None:
    for run in (own_run, make_run(HOSTILE)):
        rows = [line for line in card(run).splitlines() if line.startswith("|")]
        assert len(rows) > 20
        tables = MarkdownIt("commonmark").enable("table").parse(card(run))
        cells = sum(token.type in ("td_open", "th_open") for token in tables)
        plain = [row.replace("\\|", "") for row in rows if not row.startswith("| ---")]
        assert cells == sum(row.count("|") - 1 for row in plain)


def test_names_are_shown_as_they_are_and_do_nothing(make_run: MakeRun) -> None:
    text = card(make_run(HOSTILE, notices=["<b>Read</b> *this*"]))
    assert "<script" not in text.lower().replace("\\<script", "")
    seen = shown(text)
    for name in HOSTILE:
        assert name in seen
    assert "<b>Read</b> *this*" in seen


@pytest.mark.parametrize(
    "text",
    [
        *HOSTILE,
        "1. first",
        "12) second",
        "- item",
        "+ item",
        "# heading",
        "=====",
        "---",
        "> quote",
        "~~gone~~",
        "a\\b",
        "&lt;",
        "![x](y)",
        "<http://a.b>",
        "0.5 to 1.0",
    ],
)
def test_any_text_is_shown_as_it_is(text: str) -> None:
    assert shown(escape(text)) == text
    assert "\n" not in escape(f"{text}\n\n{text}")


def test_plain_numbers_and_words_are_left_alone() -> None:
    for text in ("0.5 (0.4 to 0.6)", f"{MINUS}0.25", "95 % interval", "Brier score (0 is best)"):
        assert escape(text) == text
    assert escape("by Wilson [@wilson].") == "by Wilson."


def test_the_author_is_asked_and_then_quoted(own_run: RunDir) -> None:
    asked = "*to be filled in by the author (`claim_3` in study.toml):* The clinical question"
    assert asked in card(own_run)
    write_text(own_run.study, 'tripod_3a = "To sort *urgent* scans."\nclaim_40 = "One centre."\n')
    text = card(own_run)
    assert asked not in text
    assert "To sort \\*urgent\\* scans." in text
    assert "**Limitations:** One centre." in text
    assert "(`claim_7` in study.toml)" in text


def test_folds_and_external_tests_are_told(own_run: RunDir) -> None:
    evaluation = json.loads(own_run.evaluation.read_text(encoding="utf-8"))
    evaluation["out_of_fold"] = evaluation.pop("test")
    write_json(own_run.evaluation, evaluation)
    write_text(own_run.config, "folds = 5\n")
    splits = pd.read_csv(own_run.splits)
    write_text(own_run.splits, splits.replace({"split": {"test": "train"}}).to_csv(index=False))
    text = card(own_run)
    assert "In cross-validation: 24 images of 10 groups." in text
    assert "The classifier that was saved was not itself tested." in text
    assert "On the internal test set" not in text
    assert "| internal test |" not in text


def test_no_file_name_and_no_patient_stands_in_it(own_run: RunDir) -> None:
    text = card(own_run)
    images = pd.read_csv(own_run.dataset, dtype=str, keep_default_na=False)
    names = {*images["path"], *(path.rpartition("/")[2] for path in images["path"])}
    assert [name for name in names | set(images["patient"]) if name in text] == []
    assert str(own_run.root) not in text


def test_the_same_run_gives_the_same_bytes(own_run: RunDir) -> None:
    first = write_model_card(own_run).read_bytes()
    assert write_model_card(own_run).read_bytes() == first
    assert own_run.model_card.read_bytes() == first


def test_a_wrong_answer_stops_it_and_leaves_the_old_card(own_run: RunDir) -> None:
    before = card(own_run)
    write_text(own_run.study, "claim_3 = 1\n")
    with pytest.raises(MedlensError, match="is no text"):
        write_model_card(own_run)
    assert own_run.model_card.read_text(encoding="utf-8") == before
