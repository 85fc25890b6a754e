"""The commands at work: child processes that outlive the server and are found again by a new one.

A job is the very command line that the page shows. It leads a session of its own, so that neither
Ctrl-C nor the end of the server reaches it. Its number and the time of its start stand in the
run folder.
"""

from __future__ import annotations

import dataclasses
import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import psutil

from medlens.errors import MedlensError
from medlens.files import write_json
from medlens.progress_file import SECONDS_OF_ROUNDING, is_running, read_progress
from medlens.run_dir import RunDir
from medlens.serve.child import TOKEN_VARIABLE
from medlens.serve.only_writer import only_writer
from medlens.ui.root import Refused

# What `medlens` begins its last words with.
ERROR_MARKS = ("medlens: ", "medlens failed")
BUSY = "Something is at work in this run. Wait until it ends, or stop it."
MOST_LINES = 200
MOST_LAST_WORDS = 20
COLUMNS = "100"
# How `medlens` ends after Ctrl-C.
INTERRUPTED = 130
# What a step writes last.
RESULTS: Mapping[str, Callable[[RunDir], Path]] = {
    "audit": lambda run: run.audit,
    "plan": lambda run: run.plan,
    "train": lambda run: run.report,
}
# Which word of an export's command names its file.
OUTPUT = 6
# Begun in the background of a script, a process pays no attention to an interrupt.
SECONDS_TO_STOP = 30.0
TAIL_BYTES = 65_536


@dataclass(frozen=True)
class Job:
    """A command that was started for a run.

    Args:
        step: "audit", "plan", "train" or "export".
        command: Its words.
        pid: The number of its process.
        started: When that began, in seconds since 1970, as the system says.
        is_stopped: Whether the page was asked to interrupt it.
    """

    step: str
    command: tuple[str, ...]
    pid: int
    started: float
    is_stopped: bool = False

    @property
    def is_at_work(self) -> bool:
        """Whether its process is there."""
        return is_running(self.pid, self.started)


def job_file(run: RunDir) -> Path:
    """Where the last job of a run stands."""
    return run.page / "job.json"


def output_file(run: RunDir) -> Path:
    """What the last job said."""
    return run.page / "output.txt"


def errors_file(run: RunDir) -> Path:
    """What the last job said on its standard error."""
    return run.page / "errors.txt"


def exit_file(run: RunDir) -> Path:
    """The number that the last job ended with, where the server was there to see it."""
    return run.page / "exit.txt"


def read_job(run: RunDir) -> Job | None:
    """The last job of a run; None where there was none, or its file is damaged."""
    try:
        content = json.loads(job_file(run).read_text(encoding="utf-8"))
        job = Job(
            str(content["step"]),
            tuple(map(str, content["command"])),
            int(content["pid"]),
            float(content["started"]),
            bool(content["is_stopped"]),
        )
        return job if job.step in RESULTS or len(job.command) > OUTPUT else None
    except (FileNotFoundError, ValueError, KeyError, TypeError):
        return None


def step_at_work(run: RunDir) -> str | None:
    """What is going on in a run, also where a terminal began it; None for nothing."""
    progress = read_progress(run.progress)
    if progress is not None:
        return str(progress["command"])
    job = read_job(run)
    return job.step if job is not None and job.is_at_work else None


def last_error(run: RunDir) -> str | None:
    """What ended the last job; None where it was stopped, went well, or was made good since."""
    job = read_job(run)
    if job is None or job.is_at_work or job.is_stopped:
        return None
    if _written(_result(run, job)) > _written(errors_file(run)):
        return None
    lines = tail(errors_file(run))
    begins = [number for number, line in enumerate(lines) if line.startswith(ERROR_MARKS)]
    if begins:
        return "\n".join(lines[begins[-1] :])
    code = _exit_code(run)
    if code in (0, INTERRUPTED) or _has_result(run, job):
        return None
    how = "" if code is None else f" (signal {-code})" if code < 0 else f" (exit status {code})"
    return "\n".join([f"The process ended without a result{how}.", *lines[-MOST_LAST_WORDS:]])


def _exit_code(run: RunDir) -> int | None:
    try:
        return int(exit_file(run).read_text(encoding="ascii"))
    except (OSError, ValueError):
        return None


def _has_result(run: RunDir, job: Job) -> bool:
    """Whether what a job writes last was written since it began."""
    return _written(_result(run, job)) > job.started - SECONDS_OF_ROUNDING


def _result(run: RunDir, job: Job) -> Path:
    return RESULTS[job.step](run) if job.step in RESULTS else Path(job.command[OUTPUT])


def _written(path: Path) -> float:
    """When a file was written, in seconds since 1970; 0 where there is none."""
    try:
        return path.stat().st_mtime
    except OSError:
        return 0.0


def tail(path: Path, most: int = MOST_LINES) -> list[str]:
    """The last lines of a text file; none where there is no file."""
    try:
        with path.open("rb") as stream:
            stream.seek(max(0, path.stat().st_size - TAIL_BYTES))
            return stream.read().decode("utf-8", "replace").splitlines()[-most:]
    except FileNotFoundError:
        return []


def start_job(run: RunDir, step: str, command: Sequence[str], folder: Path) -> Job:
    """Start a command for a run.

    Args:
        run: Its run folder.
        step: What it does.
        command: Its words, "medlens" first.
        folder: Where relative paths in it begin.

    Raises:
        Refused: If one is at work there already.
    """
    try:
        with only_writer(job_file(run)):
            if step_at_work(run) is not None:
                raise Refused(409, BUSY)
            return _start(run, step, command, folder)
    except MedlensError:  # another request is here at the same moment
        raise Refused(409, BUSY) from None


def process_words(command: Sequence[str]) -> list[str]:
    """The words by which a command line of medlens is run as a process.

    With -P, what lies in the current folder is never taken for a module of Python's.
    """
    return [sys.executable, "-P", "-m", *command]


def _start(run: RunDir, step: str, command: Sequence[str], folder: Path) -> Job:
    exit_file(run).unlink(missing_ok=True)
    with output_file(run).open("wb") as output, errors_file(run).open("wb") as errors:
        process = subprocess.Popen(
            process_words(command),
            cwd=folder,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=errors,
            start_new_session=True,
            env={**_environment(), "COLUMNS": COLUMNS, "PYTHONUNBUFFERED": "1"},
        )
    job = Job(step, tuple(command), process.pid, psutil.Process(process.pid).create_time())
    write_json(job_file(run), dataclasses.asdict(job))
    # Whoever started a process has to take note of its end.
    threading.Thread(target=_note_end, args=(run, process), daemon=True).start()
    return job


def _note_end(run: RunDir, process: subprocess.Popen[bytes]) -> None:
    code = process.wait()
    with suppress(OSError):  # the run may be gone by now
        exit_file(run).write_text(str(code), encoding="ascii")


def stop_job(run: RunDir) -> None:
    """Interrupt what is at work in a run, as Ctrl-C does; what is finished is kept.

    Raises:
        Refused: If nothing is.
    """
    progress, job = read_progress(run.progress), read_job(run)
    if progress is not None:
        pid = int(progress["pid"])
    elif job is not None and job.is_at_work:
        pid = job.pid
    else:
        raise Refused(409, "Nothing is at work in this run.")
    if job is not None and job.pid == pid:
        write_json(job_file(run), dataclasses.asdict(dataclasses.replace(job, is_stopped=True)))
    with suppress(psutil.NoSuchProcess):  # it has ended meanwhile
        threading.Thread(target=_end, args=(psutil.Process(pid),), daemon=True).start()


def _end(process: psutil.Process) -> None:
    """Interrupt a process; one that does not listen is ended: a run goes on from there as well."""
    with suppress(psutil.NoSuchProcess):
        if os.name == "posix":  # Windows cannot interrupt a process of another session
            process.send_signal(signal.SIGINT)
            with suppress(psutil.TimeoutExpired):
                process.wait(SECONDS_TO_STOP)
        process.terminate()


def _environment() -> dict[str, str]:
    return {name: value for name, value in os.environ.items() if name != TOKEN_VARIABLE}
