"""Who began which part of a job, and how often: what tells a lost worker from a slow one."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

# A part that two workers died of is gone through with care, file by file.
CAREFUL_AFTER = 2
MOST_TRIES = 5


@dataclass(frozen=True)
class Progress:
    """What the workers of a job have said.

    Args:
        silence: Seconds since a worker last said that it loads or computes.
        begun: How many parts were begun, each time counted.
        starts: How many workers have started since a part was last finished.
        refusal: The error of a worker that the user can mend, as the arguments of MedlensError.
    """

    silence: float
    begun: int
    starts: int
    refusal: Mapping[str, Any] | None


@dataclass(frozen=True)
class Retried:
    """What was begun again, because a worker, a node or a result was lost.

    Args:
        parts: How many parts.
        nodes: The Ray nodes that had begun them, and how often one did not finish.
        careful: How many parts were gone through file by file.
    """

    parts: int
    nodes: Mapping[str, int]
    careful: int

    @property
    def lines(self) -> list[str]:
        """It in words; nothing where nothing was begun again."""
        if not self.parts:
            return []
        nodes = ", ".join(f"{name} {count:,}" for name, count in self.nodes.items())
        plural = "s" if self.parts > 1 else ""
        said = [
            f"Retried: {self.parts:,} part{plural} of 256 images, begun on nodes that lost a "
            f"worker or a result: {nodes}."
        ]
        if self.careful:
            said.append(
                f"{self.careful:,} of them went file by file, as more than one worker had died."
            )
        return said


class Ledger:
    """Told by the workers what they do. Lives as a Ray actor beside the driver.

    Args:
        parts: How many parts the work list has.
    """

    def __init__(self, parts: int) -> None:
        self._heard = time.monotonic()
        self._begun = self._starts = 0
        # Small arrays: a hundred million images are 400,000 parts.
        self._tries = np.zeros(parts, np.uint8)
        self._is_retried = np.zeros(parts, bool)
        self._is_careful = np.zeros(parts, bool)
        self._node = np.full(parts, -1, np.int32)
        self._nodes: dict[str, int] = {}
        self._lost: Counter[str] = Counter()
        self._refusal: Mapping[str, Any] | None = None

    def start(self) -> None:
        """A worker has started and will load what it needs."""
        self._heard = time.monotonic()
        self._starts += 1

    def beat(self) -> None:
        """A worker is at work."""
        self._heard = time.monotonic()

    def begin(self, part: int, node: str) -> int:
        """A worker begins a part.

        Returns:
            How many workers have begun it before and not come to its end.
        """
        self._heard = time.monotonic()
        self._begun += 1
        number = self._nodes.setdefault(node, len(self._nodes))
        if self._node[part] >= 0:
            self._is_retried[part] = True
            self._lost[list(self._nodes)[self._node[part]]] += 1
        self._node[part] = number
        tries = int(self._tries[part])
        self._tries[part] += 1
        self._is_careful[part] |= tries >= CAREFUL_AFTER
        return tries

    def finish(self, part: int) -> None:
        """A worker has finished a part."""
        self._heard = time.monotonic()
        self._starts = 0
        self._tries[part] = 0

    def refuse(self, error: Mapping[str, Any]) -> None:
        """A worker met an error that the user can mend."""
        self._refusal = self._refusal or error

    def progress(self) -> Progress:
        """What was said until now."""
        silence = time.monotonic() - self._heard
        return Progress(silence, self._begun, self._starts, self._refusal)

    def retried(self) -> Retried:
        """What was begun again."""
        nodes = dict(self._lost.most_common())
        return Retried(int(self._is_retried.sum()), nodes, int(self._is_careful.sum()))
