"""SHA-256 of each file of a folder, so that a changed one is refused by name."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence
from pathlib import Path

from medlens.errors import MedlensError, in_words
from medlens.files import write_text
from medlens.model.classifier_files import CHECKSUMS_FILE

_LINE = re.compile(r"([0-9a-f]{64})  ([^/\\\n]+)")
_SHOWN = 12
_MEND = "Copy the whole folder again from where it was trained, or train again."


def write_checksums(folder: Path, names: Sequence[str]) -> None:
    """Write the checksums of files that are finished.

    Args:
        folder: The folder they are in.
        names: Their names.
    """
    lines = [f"{digest_of(folder / name)}  {name}\n" for name in sorted(names)]
    write_text(folder / CHECKSUMS_FILE, "".join(lines))


def verify_checksums(folder: Path, needed: Sequence[str]) -> frozenset[str]:
    """Make sure that a folder holds the files that were written, as they were written.

    Args:
        folder: The folder.
        needed: Files that must be among them.

    Returns:
        The names of the files that were verified; another file in the folder is not to be used.

    Raises:
        MedlensError: If the checksums or a file are missing, or a file was changed; it is named.
    """
    expected = _read_checksums(folder, needed)
    for name, digest in expected.items():
        _verify(folder, name, digest)
    return frozenset(expected)


def verify_if_listed(folder: Path, name: str) -> None:
    """Refuse a file that differs from its line in the list, whatever else is there.

    Args:
        folder: The folder; there may be no list in it, or one of another format.
        name: The file. Where there is no line for it, nothing is said.

    Raises:
        MedlensError: If the file was changed, or cannot be read.
    """
    try:
        lines = (folder / CHECKSUMS_FILE).read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError):
        return
    for match in filter(None, map(_LINE.fullmatch, lines)):
        if match.group(2) == name:
            _verify(folder, name, match.group(1))


def _verify(folder: Path, name: str, digest: str) -> None:
    try:
        got = digest_of(folder / name)
    except OSError as error:
        raise MedlensError(
            f"The classifier's file {name} cannot be read.",
            got=in_words(error),
            expected=f"every file that {CHECKSUMS_FILE} lists",
            fix=_MEND,
            names=[str(folder / name)],
        ) from None
    if got != digest:
        raise MedlensError(
            f"The classifier's file {name} is not the one that was written.",
            got=f"SHA-256 {got[:_SHOWN]}...",
            expected=f"SHA-256 {digest[:_SHOWN]}..., as {CHECKSUMS_FILE} has it",
            fix=_MEND,
            names=[str(folder / name)],
        )


def _read_checksums(folder: Path, needed: Sequence[str]) -> dict[str, str]:
    """The checksum of each file, by its name."""
    try:
        lines = (folder / CHECKSUMS_FILE).read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise _bad_list(folder, in_words(error)) from None
    found = [_LINE.fullmatch(line) for line in lines]
    expected = {match.group(2): match.group(1) for match in found if match}
    missing = [name for name in needed if name not in expected]
    if not all(found) or missing:
        got = f"no line for {missing[0]}" if missing else "a line that is not one"
        raise _bad_list(folder, got)
    return expected


def _bad_list(folder: Path, got: str) -> MedlensError:
    return MedlensError(
        f"The classifier's file {CHECKSUMS_FILE} cannot be used.",
        got=got,
        expected="the checksum and the name of each file of the classifier, as they were written",
        fix=_MEND,
        names=[str(folder / CHECKSUMS_FILE)],
    )


def digest_of(file: Path) -> str:
    """SHA-256 of a file, as hexadecimal digits; a part of it is in memory at a time."""
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
