"""The folder of explanations: what in it is medlens's own, and may be replaced."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from medlens.errors import MedlensError
from medlens.files import write_json

TABLE_FILE = "explain.csv"
# Written first; a folder without it holds no explanation, whatever its files are called.
MANIFEST_FILE = "explanation.json"
WHAT = "Explanations of images by medlens explain. Not a medical device."
_PAGE = re.compile(r"(\d{5,})\.png")
# Of the table that is being written, and what a killed process was writing.
_HIDDEN = re.compile(rf"\.{re.escape(TABLE_FILE)}\.(parts|lock)|\..+\.[0-9a-f]+\.part")


def page_name(number: int) -> str:
    """The file of an image's page.

    Args:
        number: Of the image, from 1.
    """
    return f"{number:05d}.png"


def check_folder(out: Path, *, overwrite: bool) -> None:
    """Refuse a folder with anything that may not be replaced; nothing is changed.

    Args:
        out: The folder.
        overwrite: Whether finished explanations may be in it.

    Raises:
        MedlensError: If it is a file, or holds files that its manifest does not name, or
            finished explanations.
    """
    is_file = out.exists() and not out.is_dir()
    entries = sorted(out.iterdir()) if out.is_dir() else []
    manifest = _read_manifest(out)
    foreign = [path for path in entries if not _is_own(path, manifest)]
    is_finished = (out / TABLE_FILE).exists()
    if not (is_file or foreign or (is_finished and not overwrite)):
        return
    raise MedlensError(
        "The folder for the explanations is in use.",
        got="a file of that name"
        if is_file
        else f"{len(foreign):,} files that are none of an explanation's"
        if foreign
        else "finished explanations in it",
        expected="a new or an empty folder",
        fix="Name another -o."
        if is_file or foreign
        else "Name another -o, or replace what is there with --overwrite.",
        names=[str(out), *map(str, foreign)],
    )


def open_folder(out: Path, state: Mapping[str, Any]) -> bool:
    """Make the folder ready: what was interrupted stays if it is of the same state.

    Else what its manifest names is deleted. `check_folder` must have passed.

    Args:
        out: The folder.
        state: What decides the content, and `images`, their number.

    Returns:
        Whether what an interrupted run left was of another state, and is deleted.
    """
    manifest, wanted = _read_manifest(out), {"what": WHAT, **state}
    table = out / TABLE_FILE
    was_finished = table.exists()
    # First, so that what a break leaves here does not look finished.
    table.unlink(missing_ok=True)
    for path in sorted(out.iterdir()) if out.is_dir() else []:
        is_left = path.name.endswith(".part")
        is_page = _PAGE.fullmatch(path.name) and (was_finished or manifest != wanted)
        if _is_own(path, manifest) and (is_left or is_page):
            path.unlink()
    write_json(out / MANIFEST_FILE, wanted)
    return manifest is not None and manifest != wanted and not was_finished


def _read_manifest(out: Path) -> dict[str, Any] | None:
    """What was written of the explanations in a folder; None where there are none."""
    try:
        found = json.loads((out / MANIFEST_FILE).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    is_ours = isinstance(found, dict) and found.get("what") == WHAT
    return found if is_ours and isinstance(found.get("images"), int) else None


def _is_own(path: Path, manifest: Mapping[str, Any] | None) -> bool:
    """Whether an entry of the folder belongs to the explanations."""
    if _HIDDEN.fullmatch(path.name):
        return True
    if manifest is None or path.is_dir():
        return False
    page = _PAGE.fullmatch(path.name)
    if page is None:
        return path.name in (TABLE_FILE, MANIFEST_FILE)
    number = int(page.group(1))
    return 1 <= number <= manifest["images"] and path.name == page_name(number)
