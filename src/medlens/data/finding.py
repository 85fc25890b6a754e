"""A finding of the audit: what is wrong, how bad it is, and what to do about it."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

SEVERITIES = ("error", "warning", "note")


@dataclass(frozen=True)
class Finding:
    """One thing that the audit found.

    Args:
        code: Its kind; see the table above.
        severity: "error" (stops `train`), "warning" or "note".
        message: What was found, with numbers; no file name and no patient.
        fix: What to do, with the option.
        count: How many files (or classes, or facts) it is about.
        files: The files it is about, all of them, in sets that belong together.
        details: Numbers for audit.json.
    """

    code: str
    severity: str
    message: str
    fix: str
    count: int
    files: tuple[tuple[str, ...], ...] = ()
    details: dict[str, Any] = field(default_factory=dict)
