"""The files of the page, read once: no address that a client sends ever becomes a path."""

from __future__ import annotations

import mimetypes
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

FOLDER = Path(__file__).parent / "web"
INDEX = "index.html"


@dataclass(frozen=True)
class WebFile:
    """A file of the page.

    Args:
        content: All of it.
        kind: Its media type.
    """

    content: bytes
    kind: str


def read_web_files(folder: Path = FOLDER) -> Mapping[str, WebFile]:
    """Read the page: each file by its name below the folder, with forward slashes."""
    return {
        path.relative_to(folder).as_posix(): WebFile(path.read_bytes(), _media_type(path))
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def _media_type(path: Path) -> str:
    if path.suffix in (".js", ".mjs"):
        return "text/javascript; charset=utf-8"  # Windows may know another one
    kind = mimetypes.guess_type(path.name)[0] or "application/octet-stream"
    return f"{kind}; charset=utf-8" if kind.startswith("text/") else kind
