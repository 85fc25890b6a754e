"""A folder on other storage -> the images in it, folder by folder."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

from medlens.data.images import is_image_name
from medlens.data.remote import REQUESTS_AT_A_TIME

if TYPE_CHECKING:
    from medlens.data.remote_path import RemotePath

# What a run of medlens has in it; a run is no data.
_RUN = {"config.toml", "audit.json"}


def remote_image_files(folder: RemotePath, passed_over: Counter[str]) -> Iterator[tuple[str, str]]:
    """All image files below a folder, as `image_files` finds them on this machine.

    Args:
        folder: Where to look.
        passed_over: Counts what is not taken, by kind.

    Yields:
        Their paths with slashes, relative to the folder; and what changes with their content:
        size, and the storage's own mark or the time.
    """
    waiting = [""]
    while waiting:
        inside = waiting.pop()
        here = folder / inside if inside else folder
        entries = here.entries()
        if inside and {str(entry["name"]) for entry in entries} >= _RUN:
            passed_over["hidden folder"] += 1
            continue
        for entry in _images(here, entries, passed_over):
            yield f"{inside}{entry['name']}", _state(entry)
        folders = [str(entry["name"]) for entry in entries if entry["type"] == "directory"]
        hidden = [name for name in folders if name.startswith(".") or name == "__MACOSX"]
        if hidden:
            passed_over["hidden folder"] += len(hidden)
        # The last that is put there is the next to be taken.
        waiting.extend(f"{inside}{name}/" for name in reversed(folders) if name not in hidden)


def _images(
    here: RemotePath, entries: list[dict[str, Any]], passed_over: Counter[str]
) -> Iterator[dict[str, Any]]:
    """The entries of a folder that are images."""
    files = [entry for entry in entries if entry["type"] == "file"]
    seen = [entry for entry in files if not str(entry["name"]).startswith(".")]
    passed_over["hidden file"] += len(files) - len(seen)
    # A name without an extension has the storage asked for the file's first bytes.
    with ThreadPoolExecutor(REQUESTS_AT_A_TIME) as pool:
        are_images = list(pool.map(lambda entry: is_image_name(here / entry["name"]), seen))
    passed_over["not an image"] += are_images.count(False)
    for entry, is_image in zip(seen, are_images, strict=True):
        if is_image:
            yield entry


def _state(entry: dict[str, Any]) -> str:
    mark = entry.get("ETag") or entry.get("etag") or entry.get("LastModified") or entry.get("mtime")
    return f"{entry['size']} {mark or ''}"
