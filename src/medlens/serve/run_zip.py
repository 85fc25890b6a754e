"""A run as one .zip file: packed to be handed over, and unpacked with nothing taken on trust."""

from __future__ import annotations

import errno
import lzma
import os
import shutil
import stat
import struct
import tempfile
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from typing import IO

from medlens.errors import MedlensError
from medlens.run_dir import RunDir, holds_classifier

# More than any run has. Its texts shrink to a tenth, its network hardly at all; what shrinks far
# more was made to fill a disk.
MOST_FILES = 50_000
MOST_BYTES = 16 << 30
MOST_RATIO = 100
BYTES_OF_ANY_RATIO = 64 << 20
TEXTS = (".csv", ".html", ".json", ".md", ".svg", ".toml", ".txt")
# Always the same, so that the same run gives the same bytes.
DATE = (1980, 1, 1, 0, 0, 0)
UNPACKED = "run"
MODE = (stat.S_IFREG | 0o644) << 16
# What reading a damaged file raises, and unpacking one whose names were damaged.
DAMAGED = (
    zipfile.BadZipFile,
    zlib.error,
    lzma.LZMAError,
    struct.error,
    NotImplementedError,
    EOFError,
    ValueError,
    IndexError,
    OverflowError,
    FileExistsError,
    IsADirectoryError,
    NotADirectoryError,
)
# A place before the file's beginning, a name that no file can have; bz2 gives no number at all.
DAMAGED_ERRNOS = (None, errno.EINVAL, errno.EILSEQ, errno.ENAMETOOLONG)


@contextmanager
def opened_run(path: str | os.PathLike[str]) -> Iterator[Path]:
    """A run's folder: the path itself, or what a .zip file holds, in a folder that goes afterwards.

    Raises:
        MedlensError: If the .zip is damaged, holds no run, or more than a run has.
    """
    file = Path(path)
    if not is_zip(file):
        yield file
        return
    with tempfile.TemporaryDirectory(prefix="medlens-") as folder:
        yield unpack_run(file, Path(folder))


def is_zip(path: Path) -> bool:
    """Whether a path is that of a run in a .zip file."""
    return path.suffix.lower() == ".zip" and path.is_file()


def unpack_run(file: Path, folder: Path) -> Path:
    """Unpack a run.

    Args:
        file: The .zip file; the run lies at its top, or in the one folder that is there.
        folder: An empty folder.

    Returns:
        The folder of the run.

    Raises:
        MedlensError: If the .zip is damaged, holds no run, or more than a run has.
    """
    # Never by the file's own name: that of `...zip` would lead out of the folder.
    top = folder / UNPACKED
    try:
        with zipfile.ZipFile(file) as packed:
            members = [one for one in packed.infolist() if not one.is_dir()]
            reason = _why_not(members, file.stat().st_size)
            if reason:
                raise _refusal(file, reason)
            for member in members:
                place = top / member.filename
                place.parent.mkdir(parents=True, exist_ok=True)
                with packed.open(member) as source, place.open("xb") as target:
                    shutil.copyfileobj(source, target)
    except (*DAMAGED, OSError) as error:
        if not isinstance(error, DAMAGED) and getattr(error, "errno", None) not in DAMAGED_ERRNOS:
            raise  # of the disk, not of the file
        raise _refusal(file, "a damaged file, or one packed in another way") from error
    below = [path for path in top.iterdir() if path.is_dir()] if top.is_dir() else []
    found = next((path for path in (top, *below) if holds_classifier(path)), None)
    if found is None:
        raise _refusal(file, "no classifier in it")
    return found


def write_run_zip(run: RunDir, stream: IO[bytes], *, only_classifier: bool = False) -> None:
    """Pack a run, without what is there only while it goes on.

    Args:
        run: A finished run.
        stream: Receives the .zip file.
        only_classifier: Packs the classifier and its card alone: no file name, no patient and no
            result of an image is in them.
    """
    alone = (run.classifier, run.model_card)
    whole = (*run.own(), run.study, run.excluded)
    with zipfile.ZipFile(stream, "w") as packed:
        for part in alone if only_classifier else whole:
            if part not in run.passing():
                for path in _files(part):
                    name = path.relative_to(run.root.parent).as_posix()
                    entry = zipfile.ZipInfo(name, DATE)
                    entry.external_attr = MODE
                    is_text = path.suffix in TEXTS
                    entry.compress_type = zipfile.ZIP_DEFLATED if is_text else zipfile.ZIP_STORED
                    with path.open("rb") as source, packed.open(entry, "w", force_zip64=True) as to:
                        shutil.copyfileobj(source, to)


def _files(path: Path) -> list[Path]:
    """The files of a part of a run; none that a link leads to, wherever that is."""
    if path.is_symlink():
        return []
    if path.is_file():
        return [path]
    return sorted(one for one in path.rglob("*") if one.is_file() and not one.is_symlink())


def _why_not(members: list[zipfile.ZipInfo], size: int) -> str:
    """Why these members are not unpacked; "" where nothing speaks against it."""
    total = sum(one.file_size for one in members)
    if len(members) > MOST_FILES:
        return f"{len(members):,} files"
    if total > MOST_BYTES or total > BYTES_OF_ANY_RATIO + MOST_RATIO * size:
        return f"{total:,} bytes packed into {size:,}"
    if any(one.flag_bits & 1 for one in members):
        return "files that ask for a password"
    if not all(_is_plain(one) for one in members):
        return "a link, or a name that leads out of the folder"
    return ""


def _is_plain(member: zipfile.ZipInfo) -> bool:
    """Whether a member is a file that stays in its folder, on every system."""
    path = PurePosixPath(member.filename)
    kind = stat.S_IFMT(member.external_attr >> 16)
    stays = not path.is_absolute() and not {"..", ""} & set(path.parts)
    return stays and not set(member.filename) & set("\\:\0") and kind in (0, stat.S_IFREG)


def _refusal(file: Path, got: str) -> MedlensError:
    return MedlensError(
        "This .zip file is not a run that can be opened.",
        got=got,
        expected="a run in a .zip file, as `medlens ui` hands it over",
        fix="Fetch it again, or unpack it by hand and name the folder.",
        names=[str(file)],
    )
