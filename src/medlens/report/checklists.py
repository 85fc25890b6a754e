"""CLAIM and TRIPOD+AI, filled in as far as a run can answer them; the rest asks the author."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from medlens.report import checklist_results, checklist_topics
from medlens.report.checklist_topics import (
    AUTHOR,
    AUTHORS_ANSWER,
    DONE,
    NOT_APPLICABLE,
    Known,
    Topic,
)
from medlens.report.references import CITED
from medlens.report.run_facts import RunFacts, read_facts
from medlens.report.study import Item, read_checklists, read_study
from medlens.run_dir import RunDir

__all__ = [
    "AUTHOR",
    "AUTHORS_ANSWER",
    "DONE",
    "NOT_APPLICABLE",
    "TOPICS",
    "count_answers",
    "fill_checklists",
]

# What medlens knows of an item, by the item's topic.
TOPICS: Mapping[str, Topic] = {**checklist_topics.TOPICS, **checklist_results.TOPICS}


def fill_checklists(run: RunDir) -> list[dict[str, Any]]:
    """Fill in the checklists from the files of a run and the author's study.toml.

    Args:
        run: A finished run.

    Returns:
        For each checklist name, version, source and items, each with id, number, item, answer
        ("done", "author", "author's answer" or "not applicable"), text, and anchor: the id of the
        section of the report that shows it, or "".

    Raises:
        MedlensError: If the run is not finished, or study.toml cannot be used.
    """
    facts, study = read_facts(run), read_study(run)
    checklists = read_checklists()
    questions = {item.id: item.ask for one in checklists for item in one.items}
    return [
        {
            "name": one.name,
            "version": one.version,
            "source": one.source,
            "items": [_fill(item, facts, study, questions) for item in one.items],
        }
        for one in checklists
    ]


def count_answers(checklist: Mapping[str, Any]) -> dict[str, int]:
    """How many items of a filled checklist have each answer."""
    answers = [item["answer"] for item in checklist["items"]]
    return {name: answers.count(name) for name in (DONE, AUTHORS_ANSWER, AUTHOR, NOT_APPLICABLE)}


def _fill(
    item: Item, facts: RunFacts, study: Mapping[str, str], questions: Mapping[str, str]
) -> dict[str, Any]:
    known = TOPICS[item.topic](facts) if item.topic else Known(AUTHOR)
    said = study.get(item.id) or study.get(item.same_as, "")
    answer, text = known.answer, known.text
    if said and answer == DONE:
        text = f"{text} The author adds: {said}"
    elif said:
        text = f"{said} medlens adds: {text}" if text and answer == AUTHOR else said
        answer = AUTHORS_ANSWER
    elif answer == AUTHOR:
        asked = item.ask or questions.get(item.same_as) or item.item
        text = f"{text} To be added: {asked[0].lower()}{asked[1:]}" if text else asked
    return {
        "id": item.id,
        "number": item.number,
        "item": item.item,
        "answer": answer,
        "text": CITED.sub("", text),
        "anchor": known.anchor,
    }
