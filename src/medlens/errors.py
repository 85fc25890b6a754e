"""The errors a person can mend. Only cli.py prints them."""

from __future__ import annotations

from collections.abc import Sequence


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

    def __str__(self) -> str:
        return (
            f"{self.what}\n"
            f"  got:         {self.got}\n"
            f"  expected:    {self.expected}\n"
            f"  how to mend: {self.fix}"
        )
