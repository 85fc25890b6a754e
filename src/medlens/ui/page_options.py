"""The options that can be set on the page: those of `train` that say what is computed."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

from medlens.config import FIELDS, Kind, flag_name
from medlens.errors import MedlensError
from medlens.model.backbone import BACKBONES
from medlens.ui.root import Root

# What the page asks in another way: the data, and the images that are left out.
ELSEWHERE = ("data", "exclude", "drop_class")
# Of the options that name files, the words that are no file.
FILES: Mapping[str, tuple[str, ...]] = {
    "plan": ("auto", "plain"),
    "weights": ("imagenet", "random"),
}
# Of others, how a value ends that is a file.
ENDINGS: Mapping[str, str] = {"split": ".csv", "backbone": ".keras"}
WORDS: Mapping[str, tuple[str, ...]] = {"backbone": tuple(BACKBONES), **FILES}


def page_options() -> list[str]:
    """Their names."""
    return [
        name for name, field in FIELDS.items() if field.metadata["what"] and name not in ELSEWHERE
    ]


def describe_options() -> list[dict[str, Any]]:
    """Each option with what it takes, as the page asks for it."""
    return [_describe(FIELDS[name]) for name in page_options()]


def take_options(root: Root, given: Mapping[str, Any]) -> dict[str, Any]:
    """Options from the page, paths in them made whole.

    Args:
        root: Files are below it.
        given: By name; None takes an option back to its default.

    Raises:
        MedlensError: If an option is not for the page.
        Refused: If a file lies outside of the root.
    """
    unknown = sorted(set(given) - set(page_options()))
    if unknown:
        raise MedlensError(
            "That option cannot be set on the page.",
            got=", ".join(unknown),
            expected="one of " + ", ".join(page_options()),
            fix="Use the command line for others.",
        )
    return {name: _place(root, name, value) for name, value in given.items()}


def _describe(field: dataclasses.Field[Any]) -> dict[str, Any]:
    kind: Kind = field.metadata["kind"]
    choices = kind.words or WORDS.get(field.name, ())
    is_number = isinstance(field.default, int | float) or kind.metavar.endswith(("N", "X"))
    shape = "switch" if not kind.metavar else "choice" if choices else "number" if is_number else ""
    return {
        "name": field.name,
        "flag": flag_name(field.name),
        "kind": shape or "text",
        "choices": list(choices) or None,
        "open": bool(choices) and not kind.words,
        "expected": kind.expected,
        "default": field.default,
        "help": field.metadata["help"],
        "group": field.metadata["group"],
    }


def _place(root: Root, name: str, value: Any) -> Any:
    if not isinstance(value, str):
        return value
    parts = [_place_one(root, name, part) for part in value.split(",")]
    return ",".join(parts)


def _place_one(root: Root, name: str, part: str) -> str:
    is_file = name in FILES and part not in FILES[name]
    is_file |= name in ENDINGS and part.lower().endswith(ENDINGS[name])
    return str(root.path(part)) if is_file else part
