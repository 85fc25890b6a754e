"""Choices -> the command line that does the same."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from medlens.config import FIELDS, flag_name
from medlens.run_dir import RunDir
from medlens.ui.choices import Values, choices_file, for_step


def command_line(step: str, run: RunDir, options: Values, *, resume: bool = False) -> list[str]:
    """The words of a command, "medlens" first.

    Args:
        step: "audit", "plan" or "train".
        run: The run folder.
        options: Those that are not left at their default.
        resume: Whether `train` goes on with an interrupted run.
    """
    if resume and not choices_file(run).is_file():
        # Begun in a terminal: its own options, to the letter.
        config = ["--config", str(run.config)]
        own = [f"--exclude={run.excluded}"] * (options.get("exclude") == str(run.excluded))
        return ["medlens", step, *config, *own, "--out", str(run.root), "--resume"]
    words = ["medlens", step, str(options["data"]), "--out", str(run.root)]
    for name, value in for_step(step, options).items():
        if name not in ("data", "out"):
            words += _option(name, value)
    if step == "plan" and run.plan.exists():
        words.append("--overwrite")
    return [*words, "--resume"] if resume else words


def phantoms_command(folder: Path) -> list[str]:
    """The words of a command that draws the phantoms into a folder."""
    code = f"write_phantoms(pathlib.Path({str(folder)!r}))"
    return [
        "python",
        "-c",
        f"import pathlib; from medlens.data.phantom import write_phantoms; {code}",
    ]


def pack_run(run: RunDir, name: str, *, only_classifier: bool) -> list[str]:
    """The words of a command that writes the .zip that the page saves, in the current folder."""
    what = ", only_classifier=True" if only_classifier else ""
    modules = (
        "import pathlib, sys",
        "from medlens.run_dir import RunDir",
        "from medlens.serve.run_zip import write_run_zip",
    )
    code = f'write_run_zip(RunDir(pathlib.Path(sys.argv[1])), open(sys.argv[2], "wb"){what})'
    return ["python", "-c", "; ".join([*modules, code]), str(run.root), name]


def name_commands(run: RunDir) -> dict[str, Any]:
    """What renames and what deletes a run in a shell.

    The page puts the new name behind each of the parts of "rename". `mv` alone would move the run
    into a folder that has the new name already.
    """
    place = f"{shown([str(run.root.parent)])}/"
    return {
        "rename": [f"test -e {place}", f" || mv {shown([str(run.root)])} {place}"],
        "delete": shown(["rm", "-r", str(run.root)]),
    }


def shown(words: Sequence[str]) -> str:
    """A command line ready to be pasted into a shell."""
    return shlex.join(words)


def _option(name: str, value: Any) -> list[str]:
    if not FIELDS[name].metadata["kind"].metavar:
        return [flag_name(name)]
    values = value if isinstance(value, list | tuple) else [value]
    # Written as one word, a value may begin with a dash.
    return [f"{flag_name(name)}={one}" for one in values]
