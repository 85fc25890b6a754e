"""The errors a person can mend. Only cli.py prints them."""

from __future__ import annotations

import json
import tomllib
from collections.abc import Sequence
from typing import Any


class MedlensError(Exception):
    """A mistake that the user can mend: what is wrong, got, expected, and how to mend it.

    The four sentences go to the screen and to log.txt, so they never hold a file name or a
    patient id; those go into `names`, which is shown on the screen only.

    Args:
        what: One sentence that says what is wrong.
        got: What medlens found.
        expected: What it needs instead.
        fix: What the user can do, with the option or command to use.
        names: File names, or patient ids, that the error is about.
    """

    def __init__(
        self, what: str, *, got: str, expected: str, fix: str, names: Sequence[str] = ()
    ) -> None:
        super().__init__(what)
        self.what = what
        self.got = got
        self.expected = expected
        self.fix = fix
        self.names = tuple(names)

    def as_arguments(self) -> dict[str, Any]:
        """What makes the same error in another process."""
        told = {"what": self.what, "got": self.got, "expected": self.expected, "fix": self.fix}
        return {**told, "names": list(self.names)}

    def __str__(self) -> str:
        return (
            f"{self.what}\n"
            f"  got:         {self.got}\n"
            f"  expected:    {self.expected}\n"
            f"  how to mend: {self.fix}"
        )


class StorageRefuses(MedlensError):  # noqa: N818 - it says what happened
    """Another storage gives no permission: for everything, or for one file."""


def in_words(error: BaseException) -> str:
    """What went wrong with a file, for a user: no name of a Python class, no name of a file."""
    if isinstance(error, OSError):
        return (error.strerror or "it cannot be read").lower()
    if isinstance(error, json.JSONDecodeError | tomllib.TOMLDecodeError):
        return f"a mistake in writing: {error}"
    if isinstance(error, UnicodeError):
        return "something that is not text in UTF-8"
    if isinstance(error, KeyError):
        return f"no entry {error}"
    return f"something else in it ({type(error).__name__})"
