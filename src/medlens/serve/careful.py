"""Files that break whoever decodes them: found by decoding each in a process of its own."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

import psutil

from medlens.data.images import MAX_PIXELS, UnreadableImage, fetch
from medlens.data.remote import join_path
from medlens.serve.child import Child, ChildDied, ChildTooSlow
from medlens.serve.decoder_process import NO_MEMORY
from medlens.serve.decoders import MODULE, TOO_MUCH, TOO_SLOW

SECONDS = 120.0
# Of control groups, version 2 and version 1, as a container sees its own.
MEMORY_LIMITS = (
    Path("/sys/fs/cgroup/memory.max"),
    Path("/sys/fs/cgroup/memory/memory.limit_in_bytes"),
)
NO_MEMORY_HERE = "It needs more memory to decode than half of what a node has."


def find_deadly(
    root: Path, paths: Sequence[str], frame: int | None, advance: Callable[[], None]
) -> dict[str, str]:
    """Find the files that no worker survives.

    Args:
        root: The folder that the paths are relative to.
        paths: The files.
        frame: The frame of multi-frame DICOM files; None for the middle one.
        advance: Called before each file.

    Returns:
        Path -> reason, of those that end the process that decodes them, hold it for two minutes,
        or want more than half of the node's memory.
    """
    # In a thread: where this runs, in a notebook, there may be an event loop already.
    with ThreadPoolExecutor(1) as pool:
        return pool.submit(asyncio.run, _try_each(root, paths, frame, advance)).result()


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
    root: Path, paths: Sequence[str], frame: int | None, advance: Callable[[], None]
) -> dict[str, str]:
    asked = {"do": "fit", "frame": frame, "pixels": MAX_PIXELS, "size": 32, "fit": "pad"}
    child = Child(MODULE, [str(find_memory() // 2)])
    deadly = {}
    try:
        for path in paths:
            advance()
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
