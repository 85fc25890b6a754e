"""What a person chose for a run on the page, kept in its folder beside what the steps write."""

from __future__ import annotations

import csv
import dataclasses
import io
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from medlens.config import AUDIT_OPTIONS, FIELDS, PLAN_OPTIONS, make_options, read_config
from medlens.errors import MedlensError
from medlens.files import write_json, write_text
from medlens.run_dir import RunDir, has_begun

Values = Mapping[str, Any]
STEPS = ("audit", "plan", "train")
TAKES: Mapping[str, tuple[str, ...]] = {
    "audit": AUDIT_OPTIONS,
    "plan": PLAN_OPTIONS,
    "train": tuple(FIELDS),
}


@dataclass(frozen=True)
class Choices:
    """What was chosen so far.

    Args:
        options: The options that are not left at their default, by name, with the data.
        looked_at: For "audit" and "plan", the options they were last made with.
    """

    options: Values
    looked_at: Mapping[str, Values] = field(default_factory=dict)

    def is_current(self, step: str) -> bool:
        """Whether the result of a step is that of the options as they are now."""
        return self.looked_at.get(step) in (None, for_step(step, self.options))


def for_step(step: str, options: Values) -> dict[str, Any]:
    """The options that a command takes."""
    return {name: value for name, value in options.items() if name in TAKES[step]}


def is_run(folder: Path) -> bool:
    """Whether a folder holds a run, or what was chosen for one."""
    run = RunDir(folder)
    return choices_file(run).is_file() or (run.config.is_file() and run.log.is_file())


def choices_file(run: RunDir) -> Path:
    """Where the choices stand."""
    return run.page / "choices.json"


def read_choices(run: RunDir) -> Choices:
    """The choices of a run; of one begun in a terminal, what its config.toml says."""
    if choices_file(run).is_file():
        content = json.loads(choices_file(run).read_text(encoding="utf-8"))
        return Choices(content["options"], content["looked_at"])
    return Choices(own_values(read_config(run.config)))


def write_choices(run: RunDir, choices: Choices) -> None:
    """Keep them."""
    write_json(choices_file(run), dataclasses.asdict(choices))


def own_values(given: Values) -> dict[str, Any]:
    """Checked options, those at their default left out.

    Raises:
        MedlensError: If a name is unknown or a value is not allowed.
    """
    options = make_options(given)
    values = {name: getattr(options, name) for name in FIELDS}
    return {
        name: list(value) if isinstance(value, tuple) else value
        for name, value in values.items()
        if value != FIELDS[name].default
    }


def change_options(run: RunDir, changes: Values) -> Choices:
    """Change options; None takes one back to its default.

    Raises:
        MedlensError: If a value is not allowed, or the run has begun with its options.
    """
    _require_free(run)
    choices = read_choices(run)
    wanted = {**choices.options, **changes}
    wanted = {name: value for name, value in wanted.items() if value is not None}
    choices = dataclasses.replace(choices, options=own_values(wanted))
    write_choices(run, choices)
    return choices


def read_excluded(run: RunDir) -> list[str]:
    """The images that were left out one by one."""
    if not run.excluded.is_file():
        return []
    text = run.excluded.read_text(encoding="utf-8")
    return [row["path"] for row in csv.DictReader(io.StringIO(text))]


def exclude(
    run: RunDir,
    *,
    images: Iterable[str] = (),
    classes: Iterable[str] = (),
    include_images: Iterable[str] = (),
    include_classes: Iterable[str] = (),
) -> Choices:
    """Leave images and classes out, or take them in again.

    Raises:
        MedlensError: If the run has begun.
    """
    _require_free(run)
    left = (set(read_excluded(run)) | set(images)) - set(include_images)
    dropped = set(read_choices(run).options.get("drop_class", ()))
    dropped = (dropped | set(classes)) - set(include_classes)
    if left:
        text = io.StringIO()
        csv.writer(text, lineterminator="\n").writerows(
            [("path",), *((one,) for one in sorted(left))]
        )
        write_text(run.excluded, text.getvalue())
    else:
        run.excluded.unlink(missing_ok=True)
    return change_options(
        run,
        {
            "exclude": str(run.excluded) if left else None,
            "drop_class": sorted(dropped) or None,
        },
    )


def _require_free(run: RunDir) -> None:
    if has_begun(run):
        raise MedlensError(
            "This run has begun training with its options.",
            got="a run with a split of its own",
            expected="a run that has not begun",
            fix="Make a new run for other options.",
        )
