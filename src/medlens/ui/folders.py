"""What lies below the root: folders to choose from, and whether one of them can be data."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from medlens.data.dataset import read_dataset
from medlens.data.images import is_image_name
from medlens.data.phantom import holds_phantoms, write_phantoms
from medlens.errors import MedlensError
from medlens.ui.choices import is_run
from medlens.ui.root import Refused, Root

# Beyond so many entries nothing is counted: the page has to stay quick.
MOST_COUNTED = 20_000
MOST_LISTED = 2_000
# The folder of the runs that the page makes.
RUNS = "medlens-runs"
# And that of the data set that it draws.
PHANTOMS = "phantom-data"
WHOLE_ROOT = (
    "Runs are made in this folder, so it cannot be data itself: choose a folder below it, or start "
    "`medlens ui` one folder higher."
)
DATA_FILES = {".csv": "csv", ".npz": "npz"}


@dataclass(frozen=True)
class Data:
    """Whether a place can be data.

    Args:
        why_not: A sentence; "" where it can.
        classes: Images by class; None where they are too many to be counted.
    """

    why_not: str
    classes: dict[str, int | None]


def list_folder(root: Root, name: str, cache: Path) -> dict[str, Any]:
    """A folder, or a file of data, as the page shows it.

    Raises:
        Refused: If there is none.
    """
    path = root.path(name)
    if not path.exists():
        raise Refused(404, "There is no such folder.")
    entries = [_describe(root, entry) for entry in _entries(root, path)] if path.is_dir() else []
    data = Data(WHOLE_ROOT, {}) if path == root.folder else look_at_data(path, cache)
    return {
        "path": root.name(path),
        "parent": None if path == root.folder else root.name(path.parent),
        "entries": entries,
        "can_be_data": not data.why_not,
        "why_not": data.why_not or None,
        "classes": [{"name": one, "images": count} for one, count in data.classes.items()],
    }


def draw_phantoms(root: Root) -> Path:
    """Draw the phantoms below the root, where they are not there; nothing else gives way to them.

    Returns:
        The path of their labels.csv.

    Raises:
        Refused: If other files lie in their place.
    """
    folder = root.path(PHANTOMS)
    labels = folder / "labels.csv"
    if holds_phantoms(folder):
        return labels
    with tempfile.TemporaryDirectory(prefix=f".{PHANTOMS}-", dir=root.folder) as scratch:
        drawn = write_phantoms(Path(scratch, PHANTOMS)).parent
        try:
            if folder.is_dir():
                folder.rmdir()  # only an empty folder goes
            drawn.rename(folder)
        except OSError:
            if not holds_phantoms(folder):  # another request has not just drawn them, either
                raise Refused(
                    409,
                    f"There is something else in the place of {PHANTOMS}. Give it another name "
                    "first.",
                ) from None
    return labels


def look_at_data(path: Path, cache: Path) -> Data:
    """Whether a place can be data, without opening an image."""
    why_not = why_no_data(path)
    if why_not:
        return Data(why_not, {})
    if path.is_dir() and count_images(path) is None:
        names = [entry.name for entry in os.scandir(path) if entry.is_dir()]
        return Data("", dict.fromkeys(sorted(names)))
    try:
        dataset = read_dataset(path, cache=cache)
    except MedlensError as error:
        return Data(f"{error.what} {error.fix}", {})
    except OSError as error:
        return Data(f"This cannot be read: {error.strerror or 'the system refused'}.", {})
    counts = dataset.table["label"].value_counts()
    return Data("", {name: int(counts[name]) for name in dataset.classes})


def why_no_data(path: Path) -> str:
    """Why a folder is never data, whatever images are in it; "" where nothing speaks against it.

    The pictures of results would become images to learn from.
    """
    if not path.is_dir():
        return ""
    if is_run(path) or path.name == RUNS:
        return "This is a run of medlens, or a folder of runs, not a folder of images."
    if (path / RUNS).exists() or (path / PHANTOMS).exists():
        return "Results of medlens lie in this folder: choose a folder below it."
    return ""


def count_images(folder: Path) -> int | None:
    """How many images lie below a folder; None where the files are too many to be counted."""
    count = seen = 0
    for here, folders, files in os.walk(folder):
        seen += len(folders) + len(files)
        if seen > MOST_COUNTED:
            return None
        folders[:] = [name for name in folders if not name.startswith(".")]
        shown = (Path(here, name) for name in files if not name.startswith("."))
        count += sum(is_image_name(path) for path in shown)
    return count


def _entries(root: Root, folder: Path) -> Iterator[Path]:
    """What can be chosen in a folder: no hidden entry, and no link that leads out of the root."""
    paths = [Path(entry.path) for entry in os.scandir(folder) if not entry.name.startswith(".")]
    shown = (path for path in sorted(paths) if root.holds(path) and _kind(path))
    for _, path in zip(range(MOST_LISTED), shown, strict=False):
        yield path


def _kind(path: Path) -> str | None:
    if path.is_dir():
        return "run" if is_run(path) else "folder"
    if path.suffix.lower() == ".zip":
        return "zip"
    return DATA_FILES.get(path.suffix.lower())


def _describe(root: Root, path: Path) -> dict[str, Any]:
    kind = _kind(path)
    is_folder = kind == "folder" and path.name != RUNS
    names, why_not = [], None
    try:
        names = sorted(one.name for one in os.scandir(path) if one.is_dir()) if is_folder else []
    except OSError as error:
        why_not = f"cannot be read: {error.strerror or 'the system refused'}"
    return {
        "name": path.name,
        "path": root.name(path.resolve()),
        "kind": kind,
        "images": count_images(path) if is_folder else None,
        "classes": [name for name in names if not name.startswith(".")],
        "why_not": why_not,
    }
