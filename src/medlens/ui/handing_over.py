"""What leaves the page: a run as .zip, exports of its classifier, a comparison of two runs."""

from __future__ import annotations

import json
import subprocess
import tempfile
import zipfile
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import IO, Any

from medlens.run_dir import RunDir
from medlens.serve.export_formats import FORMATS, find_format, missing_packages
from medlens.serve.run_zip import write_run_zip
from medlens.ui.commands import pack_run, shown
from medlens.ui.jobs import process_words, read_job, start_job
from medlens.ui.root import Refused, Root
from medlens.ui.turns import own_turn

SECONDS_TO_COMPARE = 300
CHUNK = 1 << 20
# After the name of a run, where a .zip holds its classifier alone.
ONLY_CLASSIFIER = "-classifier"
# The name of an exported file: a run may get another name, and its exports stay true.
EXPORTED = "classifier"


def zip_run(run: RunDir, *, only_classifier: bool) -> Iterator[bytes]:
    """A finished run as a .zip, in parts.

    Raises:
        Refused: If the run is not finished.
    """
    require_finished(run)
    return _packed(partial(write_run_zip, run, only_classifier=only_classifier))


def _packed(write: Callable[[IO[bytes]], None]) -> Iterator[bytes]:
    """What is written into a file without a name, in parts; the file goes with the last."""
    with tempfile.TemporaryFile() as stream:
        write(stream)
        stream.seek(0)
        while chunk := stream.read(CHUNK):
            yield chunk


def formats_available() -> list[str]:
    """The formats for which all packages are installed."""
    return [name for name, one in FORMATS.items() if not missing_packages(one)]


def start_export(root: Root, run: RunDir, name: str, *, int8: bool) -> str:
    """Start an export.

    Args:
        root: The root.
        run: A finished run.
        name: Of the format.
        int8: Whether convolutions are in 8-bit integers.

    Returns:
        The command line.

    Raises:
        Refused: If the run is not finished or gone, or something is at work in it.
        MedlensError: If there is no such format, or a package is missing.
    """
    command = _export_command(run, name, int8=int8)
    with own_turn(run):
        require_finished(run)
        start_job(run, "export", command, root.folder)
    return shown(command)


def _export_command(run: RunDir, name: str, *, int8: bool) -> list[str]:
    place = export_folder(run, name) / f"{EXPORTED}{find_format(name).suffix}"
    command = ["medlens", "export", str(run.root), "--format", name, "-o", str(place)]
    return [*command, *["--int8"] * int8, "--overwrite"]


def hand_over_commands(run: RunDir) -> dict[str, Any]:
    """The command lines of the last step: what is saved, the exports by format, how it is used."""
    packed = f"{run.root.name}{ONLY_CLASSIFIER}.zip"
    return {
        "zip_classifier": shown(pack_run(run, packed, only_classifier=True)),
        "zip_run": shown(pack_run(run, f"{run.root.name}.zip", only_classifier=False)),
        "use": shown(["medlens", "predict", packed, "IMAGES", "-o", "predictions.csv"]),
        "export": {name: shown(_export_command(run, name, int8=False)) for name in FORMATS},
        "export_int8": {name: shown(_export_command(run, name, int8=True)) for name in FORMATS},
    }


def export_folder(run: RunDir, name: str) -> Path:
    """Where the page keeps an export."""
    return run.page / "exports" / name


def describe_exports(run: RunDir) -> list[dict[str, Any]]:
    """The exports that are there or under way."""
    job = read_job(run)
    at_work = job.command[4] if job is not None and job.step == "export" and job.is_at_work else ""
    return [
        {"format": name, "state": "exporting" if name == at_work else "ready"}
        for name in FORMATS
        if name == at_work or _sidecar(run, name) is not None
    ]


def zip_export(run: RunDir, name: str) -> Iterator[bytes]:
    """The files of an export as a .zip, in parts.

    Raises:
        Refused: If it is not there.
    """
    if name not in FORMATS or _sidecar(run, name) is None:
        raise Refused(404, "There is no such export of this run yet.")
    return _packed(partial(_write_folder, export_folder(run, name)))


def _write_folder(folder: Path, stream: IO[bytes]) -> None:
    with zipfile.ZipFile(stream, "w") as packed:
        for path in sorted(folder.rglob("*")):
            if path.is_file():
                packed.write(path, path.relative_to(folder).as_posix())


def compare_runs(root: Root, first: RunDir, second: RunDir) -> dict[str, Any]:
    """What `medlens compare` says of two runs, as JSON and in lines.

    Raises:
        Refused: If they cannot be compared.
    """
    command = ["medlens", "compare", str(first.root), str(second.root)]
    with tempfile.TemporaryDirectory(prefix="medlens-") as folder:
        output = Path(folder, "compared.json")
        try:
            done = subprocess.run(
                process_words([*command, "-o", str(output)]),
                cwd=root.folder,
                stdin=subprocess.DEVNULL,
                capture_output=True,
                text=True,
                timeout=SECONDS_TO_COMPARE,
                check=False,
            )
        except subprocess.TimeoutExpired:
            raise Refused(504, "The comparison took too long. Use the command line.") from None
        if done.returncode:
            raise Refused(422, done.stderr.removeprefix("medlens: ").strip())
        compared = json.loads(output.read_text(encoding="utf-8"))
    lines = [line for line in done.stdout.splitlines() if str(output) not in line]
    return {"compared": compared, "lines": lines, "command": shown(command)}


def require_finished(run: RunDir) -> None:
    """Stop where there is no whole run.

    Raises:
        Refused: If `train` has not come to its end.
    """
    if not (run.report.is_file() and run.classifier.is_dir()):
        raise Refused(409, "The run is not finished: train it to the end first.")


def _sidecar(run: RunDir, name: str) -> Path | None:
    """The file that an export writes last."""
    return next(export_folder(run, name).glob("*.json"), None)
