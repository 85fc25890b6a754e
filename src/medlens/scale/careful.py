"""Files that break whoever decodes them: found by decoding each in a process of its own."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from pathlib import Path

import psutil

from medlens.data.images import MAX_PIXELS, UnreadableImage, fetch
from medlens.data.remote import join_path
from medlens.serve.child import Child, ChildDied, ChildTooSlow
from medlens.serve.decoder_process import NO_MEMORY
from medlens.serve.decoders import MODULE, TOO_MUCH, TOO_SLOW

SECONDS = 120.0
NO_MEMORY_HERE = "It needs more memory to decode than half of what a node has."


def find_deadly(root: Path, paths: Sequence[str], frame: int | None) -> dict[str, str]:
    """Find the files that no worker survives.

    Args:
        root: The folder that the paths are relative to.
        paths: The files.
        frame: The frame of multi-frame DICOM files; None for the middle one.

    Returns:
        Path -> reason, of those that end the process that decodes them, hold it for two minutes,
        or want more than half of the node's memory.
    """
    return asyncio.run(_try_each(root, paths, frame))


async def _try_each(root: Path, paths: Sequence[str], frame: int | None) -> dict[str, str]:
    asked = {"do": "fit", "frame": frame, "pixels": MAX_PIXELS, "size": 32, "fit": "pad"}
    child = Child(MODULE, [str(psutil.virtual_memory().total // 2)])
    deadly = {}
    try:
        for path in paths:
            content = _read(join_path(root, path))
            if content is None:
                continue  # whoever reads it next says why
            if not child.is_ready:
                await child.start()
            try:
                answer, _ = await child.ask({**asked, "window": None}, content, seconds=SECONDS)
            except ChildDied:
                deadly[path] = TOO_MUCH
            except ChildTooSlow:
                deadly[path] = TOO_SLOW
            else:
                if answer.get("unreadable") == NO_MEMORY:
                    deadly[path] = NO_MEMORY_HERE
    finally:
        child.kill()
    return deadly


def _read(path: Path) -> bytes | None:
    """The content of a file; None where it cannot be read, or is none."""
    try:
        source = fetch(path)
        if isinstance(source, bytes):
            return source
        return source.read_bytes() if source.is_file() else None
    except (OSError, ValueError, UnreadableImage):
        return None
