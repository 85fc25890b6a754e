"""What a person sees while a run goes on: lines and progress bars; all lines also go to the log."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    Task,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.text import Text

if TYPE_CHECKING:
    from medlens.progress_file import ProgressFile

LOG = logging.getLogger("medlens")
PLAIN_LINE_SECONDS = 10.0


@dataclass(frozen=True)
class Screen:
    """Where a run speaks.

    Args:
        console: A rich console; it knows whether it is a terminal, a notebook or a file.
        quiet: Whether nothing but errors is shown. The log gets every line all the same.
        watched: The file by which other processes see how far the run is; None for none.
        retried: What was said of parts that a cluster began again.
    """

    console: Console
    quiet: bool = False
    watched: ProgressFile | None = None
    retried: list[str] = field(default_factory=list)

    def say(self, text: str) -> None:
        """One line, or a few, for the person and the log. Holds no file name and no patient id."""
        LOG.info(text)
        if not self.quiet:
            self.console.print(text, markup=False, highlight=False, soft_wrap=True)

    def say_retried(self, text: str) -> None:
        """A line on what a cluster began again; kept, for it belongs into the result as well."""
        self.retried.append(text)
        self.say(text)

    @contextmanager
    def progress(self, label: str, total: int, unit: str) -> Iterator[Callable[[int], None]]:
        """A bar with rate and time left on a terminal, a plain line now and then elsewhere.

        Args:
            label: What is being done.
            total: How many steps it has.
            unit: What a step is, in the plural: "images", "epochs".

        Yields:
            A function to be called with the number of steps done since the last call.
        """
        with ExitStack() as ways:
            advances = [ways.enter_context(self._shown(label, total, unit))]
            if self.watched is not None:
                advances.append(ways.enter_context(self.watched.stage(label, total, unit)))

            def advance(steps: int) -> None:
                for one in advances:
                    one(steps)

            yield advance

    @contextmanager
    def _shown(self, label: str, total: int, unit: str) -> Iterator[Callable[[int], None]]:
        started = time.monotonic()
        done = 0
        if self.quiet or not (self.console.is_terminal or self.console.is_jupyter):
            last_line = started

            def advance(steps: int) -> None:
                nonlocal done, last_line
                done += steps
                now = time.monotonic()
                if not self.quiet and now - last_line >= PLAIN_LINE_SECONDS:
                    last_line = now
                    self.console.print(_plain_line(label, done, total, unit, now - started))

            yield advance
        else:
            columns = (
                TextColumn("{task.description}"),
                BarColumn(),
                MofNCompleteColumn(),
                _Rate(unit),
                TimeElapsedColumn(),
                TextColumn("left"),
                TimeRemainingColumn(),
            )
            with Progress(*columns, console=self.console, transient=True) as bar:
                task = bar.add_task(label, total=total)

                def advance_bar(steps: int) -> None:
                    nonlocal done
                    done += steps
                    bar.advance(task, steps)

                yield advance_bar
        seconds = time.monotonic() - started
        if done:
            self.say(f"{label}: {done:,} {unit} in {_duration(seconds)}")


class _Rate(ProgressColumn):
    """Steps per second."""

    def __init__(self, unit: str) -> None:
        super().__init__()
        self.unit = unit

    def render(self, task: Task) -> Text:
        speed = task.finished_speed or task.speed or 0.0
        return Text(f"{speed:,.1f} {self.unit}/s")


def _plain_line(label: str, done: int, total: int, unit: str, seconds: float) -> str:
    rate = done / seconds if seconds else 0.0
    left = _duration((total - done) / rate) if rate else "unknown"
    return f"{label}: {done:,} of {total:,} {unit}, {rate:,.1f} {unit}/s, {left} left"


def _duration(seconds: float) -> str:
    if seconds < 90:
        return f"{seconds:.1f} s"
    minutes = seconds / 60
    return f"{minutes:.1f} min" if minutes < 90 else f"{minutes / 60:.1f} h"
