"""The steps of a run, as the page shows them: what they found, and how they are started."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from medlens.config import FIELDS, PLANNED, flag_name, make_options
from medlens.data.finding import Finding
from medlens.data.remote import is_url
from medlens.intake import stopping
from medlens.run_dir import RunDir, has_begun
from medlens.ui.choices import Values, choices_file, read_choices
from medlens.ui.commands import command_line, shown
from medlens.ui.jobs import start_job
from medlens.ui.page_options import ENDINGS, FILES
from medlens.ui.root import Refused, Root
from medlens.ui.runs import damage_said, is_current, read_json
from medlens.ui.turns import own_turn

MOST_SETS = 50
# Decisions of a plan that have another name than the option that makes them.
DECIDED_BY = {"heads": "head"}


def start_step(root: Root, run: RunDir, step: str, *, resume: bool = False) -> str:
    """Start a step of a run, with what is chosen.

    Returns:
        The command line.

    Raises:
        Refused: If something is at work in the run, or it has begun and shall not go on.
    """
    with own_turn(run):
        if has_begun(run) and not resume:
            raise Refused(409, "This run has begun training. Go on with it, or make a new run.")
        if resume:
            _require_whole_paths(run)
        command = command_line(step, run, read_choices(run).options, resume=resume)
        start_job(run, step, command, root.folder)
    return shown(command)


def _require_whole_paths(run: RunDir) -> None:
    """Stop where a run of a terminal names files from a folder that is not known any more."""
    if choices_file(run).is_file():
        return
    options = read_choices(run).options
    files = [options["data"], options.get("exclude", "")]
    files += [options[name] for name, end in ENDINGS.items() if options.get(name, "").endswith(end)]
    files += [value for name in FILES if (value := options.get(name, "")) not in FILES[name]]
    if any(one and not is_url(one) and not Path(one).is_absolute() for one in files):
        raise Refused(
            409,
            "This run was begun in a terminal, with paths that begin in the folder it was in. Go "
            "on with it there: medlens train --config RUN/config.toml --out RUN --resume",
        )


def describe_audit(run: RunDir) -> dict[str, Any]:
    """What the audit found, and what was left out since.

    Raises:
        Refused: If there is none, or a file of the run is damaged.
    """
    with damage_said():
        return _describe_audit(run)


def _describe_audit(run: RunDir) -> dict[str, Any]:
    content = _result(run, "audit")
    choices = read_choices(run)
    findings = [Finding(**{**one, "files": one["files"]}) for one in content["findings"]]
    return {
        "findings": [
            {
                "code": one.code,
                "severity": one.severity,
                "message": one.message,
                "fix": one.fix,
                "count": one.count,
                "sets": len(one.files),
                "files": one.files[:MOST_SETS],
            }
            for one in findings
        ],
        "would_train": not stopping(findings, make_options(choices.options)),
        "current": is_current(run, "audit", choices),
        "excluded": choices.excluded,
        "dropped": list(choices.options.get("drop_class", ())),
        "classes": [
            {"name": name, "images": count} for name, count in content["counts"]["classes"].items()
        ],
        "counts": content["counts"],
        "passed_over": content["passed_over"],
    }


def describe_plan(run: RunDir) -> dict[str, Any]:
    """What was planned, why, and what can be asked for instead.

    Raises:
        Refused: If there is none, or a file of the run is damaged.
    """
    with damage_said():
        return _describe_plan(run)


def _describe_plan(run: RunDir) -> dict[str, Any]:
    content = _result(run, "plan")
    choices = read_choices(run)
    return {
        "decisions": [
            {
                "name": name,
                "value": one["value"],
                "kind": one["kind"],
                "reason": one["reason"],
                **_asked_with(DECIDED_BY.get(name, name), choices.options),
            }
            for name, one in content["decisions"].items()
        ],
        "fingerprint": content["fingerprint"],
        "current": is_current(run, "plan", choices),
    }


def _asked_with(name: str, options: Values) -> dict[str, Any]:
    """The option by which a decision is made by hand, if there is one."""
    if name not in PLANNED:
        return {"option": None, "flag": None, "choices": None, "changed": False}
    words: tuple[str, ...] = FIELDS[name].metadata["kind"].words
    return {
        "option": name,
        "flag": flag_name(name),
        "choices": list(words) or None,
        "changed": name in options,
    }


def _result(run: RunDir, step: str) -> dict[str, Any]:
    path = {"audit": run.audit, "plan": run.plan}[step]
    if not path.is_file():
        raise Refused(404, f"This run has no {step} yet.")
    return read_json(path, path.stat().st_mtime_ns)
