"""Files written whole or not at all."""

from __future__ import annotations

import json
import os
import secrets
import shutil
from pathlib import Path
from typing import Any


def remove(path: Path) -> None:
    """Delete a file, a link, or a folder with all that is in it, where it is there."""
    if not isinstance(path, Path):  # on other storage: a RemotePath
        path.remove_tree()
    elif path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def part_name(name: str) -> str:
    """The name of a file until it is whole; `run_dir.PART` knows such names again.

    No two calls give the same one: threads, processes and computers that share a disk may write
    the same file at once, and it then has the content of one of them.

    Args:
        name: Of the file, without its folder.
    """
    return f".{name}.{secrets.token_hex(8)}.part"


def write_bytes(path: Path, content: bytes | memoryview, *, is_lasting: bool = True) -> None:
    """Write a file so that a reader sees the old content or the new one, never a part.

    Args:
        path: The file; its folder is made where it is missing.
        content: The whole content.
        is_lasting: Whether to wait for the disk, so that it outlives a loss of power.
    """
    if not isinstance(path, Path):  # on other storage: a RemotePath, which does it by itself
        path.write_bytes(content)
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(part_name(path.name))
    try:
        with part.open("wb") as stream:
            stream.write(content)
            if is_lasting:
                stream.flush()
                os.fsync(stream.fileno())
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)


def write_text(path: Path, content: str) -> None:
    """Write a UTF-8 text file atomically, with newlines as they are."""
    write_bytes(path, content.encode("utf-8"))


def write_json(path: Path, content: Any) -> None:
    """Write a JSON file atomically: two spaces of indent, keys in the order given, no NaN.

    Raises:
        ValueError: If `content` holds a NaN or an infinity, which JSON cannot say.
    """
    write_text(path, json.dumps(content, indent=2, ensure_ascii=False, allow_nan=False) + "\n")
