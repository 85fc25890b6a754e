"""study.toml: what only the author of a study knows, asked for and read."""

from __future__ import annotations

import difflib
import textwrap
import tomllib
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from medlens.errors import MedlensError
from medlens.files import write_text
from medlens.run_dir import RunDir

ITEMS_FILE = Path(__file__).parent / "checklist_items.toml"
HEADER = """\
# What only the author knows, for the checklists in the report.
# Write each answer between the quotes; an empty answer counts as none. For long ones use three
# quotes: claim_3 = \"\"\"...\"\"\". medlens never writes over this file. An answer to any other
# item of the checklists may be added under its name, such as claim_19.
"""


@dataclass(frozen=True)
class Item:
    """One item of a checklist.

    Args:
        id: Its name in study.toml, such as "claim_19".
        number: In the paper, such as "12a".
        item: What it asks for, in medlens's own short words.
        topic: What medlens knows about it; "" where only the author does.
        ask: The question to the author; "" where another item asks it or nothing is to be asked.
        same_as: The item whose answer answers this one too, or "".
    """

    id: str
    number: str
    item: str
    topic: str = ""
    ask: str = ""
    same_as: str = ""


@dataclass(frozen=True)
class Checklist:
    """A published checklist.

    Args:
        name: Its short name.
        version: Its version.
        source: The paper.
        items: In the paper's order.
    """

    name: str
    version: str
    source: str
    items: tuple[Item, ...]


@cache
def read_checklists() -> tuple[Checklist, ...]:
    """The checklists that medlens fills in."""
    content = tomllib.loads(ITEMS_FILE.read_text(encoding="utf-8"))
    return tuple(
        Checklist(
            one["name"], one["version"], one["source"], tuple(Item(**i) for i in one["items"])
        )
        for one in content["checklist"]
    )


def read_study(run: RunDir) -> dict[str, str]:
    """The author's answers from study.toml in the run folder.

    Returns:
        Answers by item, such as "claim_44"; items without an answer are left out. Empty where
        there is no study.toml.

    Raises:
        MedlensError: If the file cannot be read, names an item that does not exist, or an answer
            is no text.
    """
    if not run.study.is_file():
        return {}
    try:
        content = tomllib.loads(run.study.read_text(encoding="utf-8-sig"))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        # The decoder's own words hold the line and column, and nothing of the text.
        reason = str(error) if isinstance(error, tomllib.TOMLDecodeError) else type(error).__name__
        raise _refuse(run, "study.toml cannot be read.", reason, "a TOML file in UTF-8") from None
    known = {item.id for checklist in read_checklists() for item in checklist.items}
    for name, value in content.items():
        if name not in known:
            near = difflib.get_close_matches(name, sorted(known), n=1)
            hint = f"; did you mean {near[0]}?" if near else ""
            what = "study.toml answers an item that is in no checklist."
            raise _refuse(run, what, name, f"items like claim_44 or tripod_18a{hint}")
        if not isinstance(value, str):
            what = "An answer in study.toml is no text."
            raise _refuse(run, what, f"{name}: {_kind(value)}", "a text in quotes")
    return {name: " ".join(value.split()) for name, value in content.items() if value.strip()}


def study_template() -> str:
    """study.toml with a question, and an empty answer, for every item that asks the author."""
    lines = [HEADER.rstrip()]
    for checklist in read_checklists():
        lines += ["", f"# {checklist.name} ({checklist.version})", *_wrap(checklist.source)]
        for item in checklist.items:
            if item.ask:
                also = _also_answers(item.id)
                said = f"{item.number}. {item.item}." + (f" Also answers {also}." if also else "")
                lines += ["", *_wrap(said), *_wrap(item.ask), f'{item.id} = ""']
    return "\n".join(lines) + "\n"


def write_study_template(run: RunDir) -> Path:
    """Write study.toml for the author to fill in, unless there is one."""
    if not run.study.exists():
        write_text(run.study, study_template())
    return run.study


def _also_answers(name: str) -> str:
    """Like TRIPOD+AI 18e, 18f: the items that this one's answer answers too."""
    found = [
        f"{checklist.name} {item.number}"
        for checklist in read_checklists()
        for item in checklist.items
        if item.same_as == name
    ]
    return ", ".join(found)


def _wrap(text: str) -> list[str]:
    """Text as lines of comment."""
    return [
        f"# {line}"
        for line in textwrap.wrap(text, 96, break_long_words=False, break_on_hyphens=False)
    ]


def _kind(value: Any) -> str:
    kinds = {"dict": "a table", "list": "a list", "bool": "true or false", "int": "a number"}
    return (kinds | {"float": "a number"}).get(type(value).__name__, "a date or time")


def _refuse(run: RunDir, what: str, got: str, expected: str) -> MedlensError:
    fix = (
        "Mend study.toml in the run folder. Or move it away: the next report writes a new template."
    )
    return MedlensError(what, got=got, expected=expected, fix=fix, names=[str(run.study)])
