"""What a person chose for a run on the page, kept in its folder beside what the steps write."""

from __future__ import annotations

import csv
import dataclasses
import io
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from medlens.config import (
    AUDIT_OPTIONS,
    FIELDS,
    PLAN_OPTIONS,
    make_options,
    read_config,
)
from medlens.errors import MedlensError
from medlens.files import write_json, write_text
from medlens.run_dir import RunDir, has_begun, list_left_out
from medlens.ui.jobs import step_at_work
from medlens.ui.root import Refused, Root
from medlens.ui.turns import own_turn

Values = Mapping[str, Any]
DAMAGED = "A file of the run is damaged."
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
        excluded: The images that are left out one by one; they stand in excluded.csv.
    """

    options: Values
    excluded: tuple[str, ...] = ()


def for_step(step: str, options: Values) -> dict[str, Any]:
    """The options that a command takes."""
    return {name: value for name, value in options.items() if name in TAKES[step]}


def is_run(folder: Path) -> bool:
    """Whether a folder holds a run, or what was chosen for one."""
    run = RunDir(folder)
    try:
        return choices_file(run).is_file() or (run.config.is_file() and run.log.is_file())
    except OSError:  # not to be looked into
        return False


def choices_file(run: RunDir) -> Path:
    """Where the choices stand."""
    return run.page / "choices.json"


def read_choices(run: RunDir) -> Choices:
    """The choices of a run; of one begun in a terminal, what its config.toml says.

    Raises:
        MedlensError: If the file that holds them is damaged.
    """
    if not choices_file(run).is_file():
        options = own_values(read_config(run.config))
        if "exclude" in options:
            options["exclude"] = list_left_out(run, options["exclude"])
        return Choices(options)
    try:
        content = json.loads(choices_file(run).read_text(encoding="utf-8"))
        options = dict(content["options"])
        excluded = read_excluded(run)
    except (ValueError, KeyError, TypeError):
        raise MedlensError(
            DAMAGED,
            got="choices.json or excluded.csv in another shape",
            expected="the files as medlens wrote them",
            fix="Make a new run; this one can be renamed and deleted.",
        ) from None
    if excluded:
        options["exclude"] = str(run.excluded)
    return Choices(options, excluded)


def reachable_data(root: Root, choices: Choices) -> Path | None:
    """The data of a run; None where it lies outside of the root, which no client may leave."""
    data = Path(choices.options.get("data", ""))
    # A relative path begins in the folder of a terminal, which is not known any more.
    return data if data.is_absolute() and root.holds(data) else None


def write_choices(run: RunDir, choices: Choices) -> None:
    """Keep the options; where the run's own excluded.csv is follows from where the run is."""
    own = ("exclude", str(run.excluded))
    kept = {name: value for name, value in choices.options.items() if (name, value) != own}
    write_json(choices_file(run), {"options": kept})


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
        Refused: If training is at work in it.
    """
    with own_turn(run):
        _require_free(run)
        return _change(run, changes)


def _change(run: RunDir, changes: Values) -> Choices:
    choices = read_choices(run)
    wanted = {**choices.options, **changes}
    wanted = {name: value for name, value in wanted.items() if value is not None}
    choices = dataclasses.replace(choices, options=own_values(wanted))
    write_choices(run, choices)
    return choices


def read_excluded(run: RunDir) -> tuple[str, ...]:
    """The images that were left out one by one."""
    if not run.excluded.is_file():
        return ()
    text = run.excluded.read_text(encoding="utf-8")
    return tuple(row["path"] for row in csv.DictReader(io.StringIO(text)))


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
        Refused: If training is at work in it.
    """
    with own_turn(run):
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
        return _change(run, {"drop_class": sorted(dropped) or None})


def _require_free(run: RunDir) -> None:
    # Asked first: training that has just begun has no split yet, but its options already.
    if step_at_work(run) == "train":
        raise Refused(409, "Training is at work with the options as they are. Stop it first.")
    if has_begun(run):
        raise MedlensError(
            "This run has begun training with its options.",
            got="a run with a split of its own",
            expected="a run that has not begun",
            fix="Make a new run for other options.",
        )
