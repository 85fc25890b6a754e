"""Text -> a path, on this machine or on any storage that fsspec knows (s3, gs, az, hdfs, http)."""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, TypeGuard, cast
from urllib.parse import unquote_to_bytes
from urllib.request import url2pathname

import platformdirs

from medlens.errors import MedlensError

if TYPE_CHECKING:
    from medlens.data.remote_path import RemotePath

# Two letters at least: C:\ is a drive of Windows.
_URL = re.compile(r"([A-Za-z][A-Za-z0-9+.-]+)://")
# Other storage answers each request late, but many at the same time.
REQUESTS_AT_A_TIME = 16
# What fsspec needs beside itself for a protocol.
PACKAGES = {
    **dict.fromkeys(("s3", "s3a"), "s3fs"),
    **dict.fromkeys(("gs", "gcs"), "gcsfs"),
    **dict.fromkeys(("az", "abfs", "abfss", "adl"), "adlfs"),
    **dict.fromkeys(("http", "https"), "aiohttp"),
    **dict.fromkeys(("sftp", "ssh"), "paramiko"),
    "smb": "smbprotocol",
    "webhdfs": "requests",
}


def is_url(text: str) -> bool:
    """Whether a text names a place by protocol, such as s3://bucket/scan.png."""
    return _URL.match(text) is not None


def open_path(text: str | os.PathLike[str]) -> Path:
    """The path that a text names.

    Args:
        text: A path, or an address such as s3://bucket/folder. file:// is this machine.

    Returns:
        A path of this machine; or a `RemotePath`, which has the methods of a Path that medlens
        uses and therefore goes by its name.

    Raises:
        MedlensError: If the packages for the protocol are not installed, it is not known, or the
            address holds a password.
    """
    given = os.fspath(text) if isinstance(text, os.PathLike) else text
    if not is_url(given):
        return Path(given)
    protocol, _, rest = given.partition("://")
    if "@" in rest.partition("/")[0] and ":" in rest.partition("@")[0]:
        raise MedlensError(
            "An address holds a password.",
            got=f"user and password in an address of {protocol}://",
            expected="an address without them, so that they stand in no result and no log",
            fix="Put them where the storage's client looks for them: the environment, or its "
            "configuration file.",
        )
    if protocol.lower() == "file":
        # As Python has it, so that a name that is not UTF-8 is the same file again.
        return (
            Path(url2pathname(rest))
            if os.name == "nt"
            else Path(os.fsdecode(unquote_to_bytes(rest)))
        )
    try:
        import fsspec

        from medlens.data.remote_path import RemotePath

        fsspec.get_filesystem_class(protocol.lower())
        return cast(Path, RemotePath(given))
    except ImportError:
        raise _missing(protocol.lower()) from None
    except ValueError:
        raise MedlensError(
            "The kind of storage is not known.",
            got=f"{protocol}://",
            expected="s3://, gs://, az://, hdfs://, http:// or another protocol of fsspec",
            fix="Check the address.",
        ) from None


def is_remote(path: Path) -> TypeGuard[RemotePath]:
    """Whether a path is not of this machine's file system."""
    return not isinstance(path, Path)


def join_path(folder: Path, name: str) -> Path:
    """The path of a name that is relative to a folder, or an address or a path of its own."""
    is_alone = is_url(name) or (is_remote(folder) and Path(name).is_absolute())
    return open_path(name) if is_alone else folder / name


def join_texts(folder: Path, names: Iterable[str]) -> Iterator[str]:
    """The texts of what `join_path` gives, quickly: a path object for each would cost more."""
    before = str(folder / "x")[:-1] if is_remote(folder) else None
    for name in names:
        is_plain = name and not is_url(name) and not {"", ".", ".."} & set(name.split("/"))
        yield before + name if before and is_plain else str(join_path(folder, name))


def for_all_nodes(path: Path) -> Path:
    """The same place for a process with another working directory; links are left alone."""
    return path.absolute() if isinstance(path, Path) else path


def local_side(folder: Path) -> Path:
    """Where this machine keeps what belongs to a folder and must lie on a disk.

    Databases and files that are mapped into memory cannot lie on other storage. A folder of this
    machine is its own local side; that of another one is in the user's cache.
    """
    if not is_remote(folder):
        return folder
    name = hashlib.sha256(str(folder).encode()).hexdigest()[:32]
    return platformdirs.user_cache_path("medlens") / "remote" / name


def remove_files(files: Sequence[Path]) -> None:
    """Delete some files of one folder; on other storage as few requests as it allows."""
    first = next(iter(files), None)
    if first is not None and is_remote(first):
        first.remove_with([str(file) for file in files])
        return
    for file in files:
        file.unlink(missing_ok=True)


def hide_secrets(text: str) -> str:
    """An address without the user, password and query in it, fit to be shown."""
    return re.sub(r"(://)[^/@]*@", r"\1", text).partition("?")[0] if is_url(text) else text


def _missing(protocol: str) -> MedlensError:
    also = PACKAGES.get(protocol, "")
    return MedlensError(
        f"Paths on {protocol}:// need packages that are not installed.",
        got="no universal-pathlib and fsspec" + f", or no {also}" * bool(also),
        expected="the extra `ray`" + f" and {also}" * bool(also),
        fix=f"pip install 'medlens[ray]' {also}".rstrip(),
    )
