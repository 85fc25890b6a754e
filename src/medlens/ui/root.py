"""The one folder that the page may see: names from a client -> paths below it, or a refusal."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path, PurePosixPath

# What makes no path of a name: links that lead in a circle; signs that no file system takes.
NO_PATH = (OSError, RuntimeError, ValueError)


class Refused(Exception):  # noqa: N818 - it says what happened
    """What a client asked for is not done.

    Args:
        status: Of HTTP.
        detail: One sentence, with what to do about it.
    """

    def __init__(self, status: int, detail: str) -> None:
        super().__init__(detail)
        self.status = status
        self.detail = detail


@dataclass(frozen=True)
class Root:
    """The folder given with --root.

    Args:
        folder: Its path, links resolved.
    """

    folder: Path

    def path(self, name: str) -> Path:
        """The path that a client names, links resolved.

        Args:
            name: Relative to the root, with slashes; "" is the root itself.

        Raises:
            Refused: If it lies outside of the root, also by way of a link.
        """
        pure = PurePosixPath(name)
        if "\0" in name or ".." in pure.parts or pure.is_absolute():
            raise _outside()
        try:
            path = (self.folder / pure).resolve()
        except NO_PATH:
            raise _outside() from None
        if not path.is_relative_to(self.folder):
            raise _outside()
        return path

    def name(self, path: Path) -> str:
        """How clients call a path below the root: relative, with slashes; "" for the root."""
        relative = path.relative_to(self.folder).as_posix()
        return "" if relative == "." else relative

    def holds(self, path: Path) -> bool:
        """Whether a path lies below the root once all links are followed."""
        try:
            return path.resolve().is_relative_to(self.folder)
        except NO_PATH:
            return False


def _outside() -> Refused:
    return Refused(403, "That lies outside of the folder given with --root.")
