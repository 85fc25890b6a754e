"""Every citation has its paper, and papers are numbered as they appear."""

from __future__ import annotations

import re
from pathlib import Path

from medlens.report import references
from medlens.report.methods import BACKBONE_NAMES
from medlens.report.references import CITED, REFERENCES, number_references


def cited_in_source() -> set[str]:
    folder = Path(references.__file__).parent
    texts = [path.read_text(encoding="utf-8") for path in sorted(folder.glob("*.py"))]
    groups = [found[1] for text in texts for found in CITED.finditer(text)]
    return {key.strip().removeprefix("@") for group in groups for key in group.split(",")}


def test_every_key_in_the_code_is_a_paper_and_every_paper_is_used() -> None:
    backbones = {name.replace("_", "") for name in BACKBONE_NAMES}
    written_out = {"modelcards"}
    papers = cited_in_source()
    assert {"wilson", "delong", "temperature"} <= papers
    assert papers | backbones | written_out == set(REFERENCES)


def test_papers_have_authors_a_title_and_a_year() -> None:
    for text in REFERENCES.values():
        assert re.match(r"[A-Z][\w'-]+ [A-Z]+[,. ]", text), text
        assert re.search(r"\b(19|20)\d\d\b", text), text
        assert text.endswith(".")


def test_numbers_follow_the_order_of_appearance() -> None:
    texts, papers = number_references(
        ["Intervals by Wilson [@wilson], areas [@delong, @wilson].", "Again [@delong]; none here."]
    )
    assert texts == ["Intervals by Wilson [1], areas [1, 2].", "Again [2]; none here."]
    assert papers == [f"[1] {REFERENCES['wilson']}", f"[2] {REFERENCES['delong']}"]


def test_brackets_that_cite_nothing_stay() -> None:
    assert number_references(["a [b] [1] (c)"]) == (["a [b] [1] (c)"], [])
