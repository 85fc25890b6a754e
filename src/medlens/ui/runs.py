"""The runs below the root, as a table; a new one, another name, none."""

from __future__ import annotations

import itertools
import json
import os
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime
from functools import lru_cache
from pathlib import Path
from typing import Any

from medlens.errors import MedlensError
from medlens.files import remove
from medlens.intake import made_with
from medlens.progress_file import read_progress
from medlens.report.study import study_template
from medlens.run_dir import RunDir, has_begun
from medlens.ui.choices import (
    DAMAGED,
    STEPS,
    TAKES,
    Choices,
    choices_file,
    is_run,
    own_values,
    reachable_data,
    read_choices,
    write_choices,
)
from medlens.ui.commands import command_line, name_commands, shown
from medlens.ui.folders import RUNS, WHOLE_ROOT, why_no_data
from medlens.ui.handing_over import describe_exports, hand_over_commands
from medlens.ui.jobs import job_file, last_error, read_job, step_at_work
from medlens.ui.own_files import foreign_files
from medlens.ui.results import describe_evaluation, read_epochs
from medlens.ui.root import Refused, Root
from medlens.ui.turns import own_turn

# How deep below the root, and in how many folders, runs are looked for.
MOST_DEPTH = 4
MOST_FOLDERS = 2_000
# What reading a file raises that is not as medlens wrote it.
DAMAGES = (ValueError, KeyError, TypeError, AttributeError)
AT_WORK = {"audit": "auditing", "plan": "planning", "train": "training"}
NAME = re.compile(r"[^\W_][\w .-]{0,98}")


def find_runs(root: Root) -> tuple[list[RunDir], bool]:
    """The runs below the root; links are not followed, and no run is looked into.

    Returns:
        The runs, those made by the page first; and whether the search was cut short, because too
        many other folders are there.
    """
    found: list[RunDir] = []
    others = 0
    for here, names, _ in os.walk(root.folder):
        depth = len(Path(here).relative_to(root.folder).parts)
        if is_run(Path(here)):
            found.append(RunDir(Path(here)))
            names.clear()
            continue
        others += 1
        if others > MOST_FOLDERS:
            return found, True
        if depth >= MOST_DEPTH:
            names.clear()
        shown = (name for name in names if not name.startswith("."))
        names[:] = sorted(shown, key=lambda name: (name != RUNS, name))
    return found, False


def run_at(root: Root, name: str) -> RunDir:
    """The run that a client names.

    Raises:
        Refused: If there is none, or it lies outside of the root.
    """
    path = root.path(name)
    if not path.is_dir() or not is_run(path):
        raise Refused(404, "There is no run of that name any more.")
    run = RunDir(path)
    require_no_way_out(root, run)
    return run


def require_no_way_out(root: Root, run: RunDir) -> None:
    """Stop at links in a run, which someone else may have made, that would be read or written.

    Raises:
        Refused: If a link leads out of the root, or one is among what the page itself writes.
    """
    links = [path for path in run.root.iterdir() if path.is_symlink()]
    leads_out = not all(root.holds(path) for path in links)
    if leads_out or run.page in links or any(path.is_symlink() for path in run.page.rglob("*")):
        raise Refused(403, "A file of this run is a link. Put the file itself in its place.")


def new_run(root: Root, data: str, name: str | None, options: Mapping[str, Any]) -> RunDir:
    """Make the folder of a run.

    Args:
        root: The root.
        data: The data, as clients call it.
        name: Of the run; None for that of the data.
        options: What is chosen already.

    Raises:
        Refused: If the data is not there, or the name is taken or cannot be used.
        MedlensError: If an option cannot be used.
    """
    path = root.path(data)
    if not path.exists():
        raise Refused(404, "That data is not there any more.")
    why_not = WHOLE_ROOT if path == root.folder else why_no_data(path)
    if why_not:
        raise Refused(422, why_not)
    values = own_values({**options, "data": str(path)})
    if name is None:
        plain = re.sub(r"[^\w.-]+", "-", path.stem if path.is_file() else path.name).strip("-._")
        numbered = (f"{plain or 'run'}-{number}" for number in itertools.count(1))
        name = next(one for one in numbered if not (root.folder / RUNS / one).exists())
    run = RunDir(_free_place(root, root.folder / RUNS, name))
    run.root.mkdir(parents=True)
    write_choices(run, Choices(values))
    return run


def rename(root: Root, run: RunDir, name: str) -> RunDir:
    """Give a run another name, in the folder it is in.

    Raises:
        Refused: If something is at work in it, or the name is taken or cannot be used.
    """
    with own_turn(run):
        _require_idle(run)
        place = _free_place(root, run.root.parent, name)
        run.root.rename(place)
    return RunDir(place)


def delete(run: RunDir, confirm: str) -> None:
    """Delete a run.

    Args:
        run: The run.
        confirm: Its name, once more.

    Raises:
        Refused: If the name is another, something is at work in it, or other files are in it.
    """
    if confirm != run.root.name:
        raise Refused(422, "To delete a run, repeat its name.")
    with own_turn(run):
        _require_idle(run)
        if run.study.is_file() and run.study.read_bytes() != study_template().encode():
            raise Refused(409, "study.toml holds answers of yours. Move it away first.")
        foreign = foreign_files(run)
        if foreign:
            raise Refused(
                409,
                f"{len(foreign)} files in that folder are not of medlens. Move them away first.",
            )
        remove(run.root)


def row_of(root: Root, run: RunDir) -> dict[str, Any]:
    """A run as a row of the table; one that is damaged says so, and the others are shown."""
    try:
        require_no_way_out(root, run)
        return describe_row(root, run)
    except Refused as error:
        reason = error.detail
    except MedlensError as error:
        reason = error.what
    except OSError as error:
        reason = error.strerror or "the system refused"
    except DAMAGES:
        reason = DAMAGED
    blank = ("data", "data_name", "images", "accuracy", "roc_auc", "backbone")
    return {
        "name": run.root.name,
        "path": root.name(run.root),
        "state": "cannot be read",
        "reason": reason,
        "changed": "",
        "classes": [],
        "report": False,
        "commands": name_commands(run),
        **dict.fromkeys(blank),
    }


def describe_row(root: Root, run: RunDir) -> dict[str, Any]:
    """A run as a row of the table."""
    choices = read_choices(run)
    evaluation = _evaluation(run)
    audit = _read(run.audit) if run.audit.is_file() else {}
    counts = audit.get("counts", {}).get("classes", {})
    result = evaluation.get("test") or evaluation.get("out_of_fold") or {}
    return {
        "name": run.root.name,
        "path": root.name(run.root),
        **_data_names(root, choices),
        "state": state_of(run, choices),
        "changed": _changed(run),
        "classes": evaluation.get("classes") or list(counts),
        "images": sum(counts.values()) or None,
        "accuracy": _measure(result.get("accuracy")),
        "roc_auc": _measure(result.get("roc_auc_macro")),
        "backbone": choices.options.get("backbone"),
        "report": run.report.is_file(),
        "commands": name_commands(run),
    }


@contextmanager
def damage_said() -> Iterator[None]:
    """Turn what a damaged file of a run raises into a refusal.

    Raises:
        Refused: If one is damaged.
    """
    try:
        yield
    except DAMAGES:
        raise Refused(422, f"{DAMAGED} Make a new run, or run that step again.") from None


def describe_run(root: Root, run: RunDir) -> dict[str, Any]:
    """All that the page of a run needs.

    Raises:
        Refused: If a file of the run is damaged.
    """
    with damage_said():
        return _describe_run(root, run)


def _describe_run(root: Root, run: RunDir) -> dict[str, Any]:
    choices = read_choices(run)
    options = {name: value for name, value in choices.options.items() if name != "data"}
    row = describe_row(root, run)
    commands: dict[str, Any] = row["commands"]
    commands |= {step: shown(command_line(step, run, choices.options)) for step in STEPS}
    commands["resume"] = shown(command_line("train", run, choices.options, resume=True))
    commands["serve"] = shown(["medlens", "serve", str(run.root)])
    commands |= hand_over_commands(run)
    return {
        **row,
        "options": options,
        "excluded": choices.excluded,
        "commands": commands,
        "is_fixed": has_begun(run),
        "current": {
            "audit": is_current(run, "audit", choices),
            "plan": is_current(run, "plan", choices),
        },
        "error": (error := last_error(run)),
        "failed_step": None if error is None or (job := read_job(run)) is None else job.step,
        "progress": read_progress(run.progress),
        "exports": describe_exports(run),
        "epochs": read_epochs(run),
        "evaluation": describe_evaluation(_evaluation(run)),
    }


def state_of(run: RunDir, choices: Choices) -> str:
    """How far a run is, in a word; an audit or a plan of other options does not count."""
    step = step_at_work(run)
    if step in AT_WORK:
        return AT_WORK[step]
    job = read_job(run)
    if run.report.is_file() and run.evaluation.is_file():
        return "done"
    if job is not None and job.step in STEPS and last_error(run) is not None:
        return "failed"
    if run.config.is_file():
        return "stopped"
    if is_current(run, "plan", choices):
        return "planned"
    return "audited" if is_current(run, "audit", choices) else "new"


def is_current(run: RunDir, step: str, choices: Choices) -> bool:
    """Whether there is an audit or a plan of what is chosen now, whoever asked for it."""
    path = {"audit": run.audit, "plan": run.plan}[step]
    if has_begun(run) or not path.is_file():
        return path.is_file()  # a run that has begun wrote its own, and keeps its options
    return bool(_read(path).get("made_with") == made_with(TAKES[step], choices.options))


def _require_idle(run: RunDir) -> None:
    if step_at_work(run) is not None:
        raise Refused(409, "Something is at work in this run. Stop it first.")


def _free_place(root: Root, folder: Path, name: str) -> Path:
    if not NAME.fullmatch(name) or name != name.strip(" ."):
        raise Refused(422, "A name is up to 99 letters, digits, spaces, dots and dashes.")
    place = root.path(root.name(folder / name))
    if place.exists():
        raise Refused(409, "That name is taken.")
    return place


def _data_names(root: Root, choices: Choices) -> dict[str, str | None]:
    """The data as clients call it, None where they cannot reach it; and as it is shown."""
    data = reachable_data(root, choices)
    if data is None:
        return {"data": None, "data_name": Path(choices.options.get("data", "")).name}
    name = root.name(data.resolve())
    return {"data": name, "data_name": name}


def _changed(run: RunDir) -> str:
    files = (choices_file(run), job_file(run), run.audit, run.plan, run.config, run.report)
    times = [path.stat().st_mtime for path in (*files, run.progress) if path.exists()]
    return datetime.fromtimestamp(max(times), UTC).isoformat(timespec="seconds")


def _measure(measure: Mapping[str, Any] | None) -> dict[str, Any] | None:
    if not measure or measure.get("value") is None:
        return None
    return {"value": measure["value"], "ci95": measure.get("ci95")}


def _evaluation(run: RunDir) -> dict[str, Any]:
    return _read(run.evaluation) if run.evaluation.is_file() else {}


def _read(path: Path) -> dict[str, Any]:
    return read_json(path, path.stat().st_mtime_ns)


@lru_cache(maxsize=64)
def read_json(path: Path, _changed: int) -> dict[str, Any]:
    """A JSON file of a run, read again when it has changed.

    Raises:
        MedlensError: If it is damaged.
    """
    try:
        content: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        raise MedlensError(
            f"The run's {path.name} cannot be read.",
            got="a damaged file",
            expected="the file as medlens wrote it",
            fix="Run that step again.",
        ) from None
    return content
