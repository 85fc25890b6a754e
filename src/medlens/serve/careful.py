"""Files that break whoever decodes them: found by decoding each in a process of its own."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

import psutil

from medlens.data.images import MAX_PIXELS, UnreadableImage, fetch
from medlens.data.remote import join_path
from medlens.serve.child import Child, ChildDied, ChildTooSlow
from medlens.serve.decoder_process import NO_MEMORY, OPENS_FILES
from medlens.serve.decoders import MODULE, TOO_MUCH, TOO_SLOW

SECONDS = 120.0
# Of control groups, version 2 and version 1, as a container sees its own.
MEMORY_LIMITS = (
    Path("/sys/fs/cgroup/memory.max"),
    Path("/sys/fs/cgroup/memory/memory.limit_in_bytes"),
)
NO_MEMORY_HERE = "It needs more memory to decode than half of what a node has."


def find_deadly(
    root: Path,
    paths: Sequence[str],
    frame: int | None,
    advance: Callable[[], None],
    *,
    memory: int | None = None,
) -> dict[str, str]:
    """Find the files that no worker survives.

    Args:
        root: The folder that the paths are relative to.
        paths: The files.
        frame: The frame of multi-frame DICOM files; None for the middle one.
        advance: Called before each file.
        memory: Bytes that one file may take; None for half of the node's.

    Returns:
        Path -> reason, of those that end the process that decodes them, hold it for two minutes,
        or want more than half of the node's memory.
    """
    # In a thread: where this runs, in a notebook, there may be an event loop already.
    with ThreadPoolExecutor(1) as pool:
        allowed = find_memory() // 2 if memory is None else memory
        tried = _try_each(root, paths, frame, advance, allowed)
        return pool.submit(asyncio.run, tried).result()


def find_memory(limits: Sequence[Path] = MEMORY_LIMITS) -> int:
    """Bytes of memory that this process may have: of the machine, or of its container.

    Args:
        limits: Files that hold the limit of a container, where there is one.
    """
    found: list[int] = [psutil.virtual_memory().total]
    for path in limits:
        with suppress(OSError, ValueError):  # "max" is no limit, and no number
            found.append(int(path.read_text(encoding="ascii")))
    return min(found)


async def _try_each(
    root: Path,
    paths: Sequence[str],
    frame: int | None,
    advance: Callable[[], None],
    memory: int,
) -> dict[str, str]:
    asked = {"do": "fit", "frame": frame, "pixels": MAX_PIXELS, "size": 32, "fit": "pad"}
    child = Child(MODULE, [str(memory), OPENS_FILES])
    deadly = {}
    try:
        for path in paths:
            advance()
            try:
                source = fetch(join_path(root, path))
                # A file of this machine is opened there: of a large one only a part may be read.
                content = os.fsencode(source) if isinstance(source, Path) else source
            except (ValueError, UnreadableImage):
                continue  # whoever reads it next says why
            is_path = isinstance(source, Path)
            if not child.is_ready:
                await child.start()
            try:
                answer, _ = await child.ask({**asked, "is_path": is_path}, content, seconds=SECONDS)
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
