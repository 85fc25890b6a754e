"""A path on other storage: the methods of pathlib.Path, tried again, with errors for a person."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from typing import Any, TypeVar

from upath.extensions import ProxyUPath

from medlens.data.remote import hide_secrets
from medlens.errors import MedlensError, StorageRefuses
from medlens.files import part_name

# Seconds before another attempt. The clients try again by themselves within each of ours.
PAUSES = (1.0, 4.0)
# Here a file appears whole, once all of it has come; elsewhere it is written beside and moved.
OBJECT_STORES = frozenset(("s3", "s3a", "gs", "gcs", "az", "abfs", "abfss", "adl", "oss", "oci"))
# Whose exceptions tell of a network or a storage, beside those that are OSError.
CLIENTS = frozenset(
    (
        *("adlfs", "aiobotocore", "aiohttp", "asyncio", "azure", "botocore", "fsspec", "gcsfs"),
        *("google", "paramiko", "pyarrow", "requests", "s3fs", "smbclient", "smbprotocol"),
        "urllib3",
    )
)
_OF_THE_FILE = (FileNotFoundError, FileExistsError, IsADirectoryError, NotADirectoryError)

# The file of each bucket that was read last. A hint only, so that there is one to be asked for
# again: the clients are one per thread, and could not keep it.
_LAST_READ: dict[str, str] = {}

Answer = TypeVar("Answer")


class RemotePath(ProxyUPath):
    """A path of universal-pathlib that tries again and says what went wrong.

    Nothing that was listed is remembered: other processes write there as well.

    Raises (all methods):
        FileNotFoundError: If there is no such file.
        MedlensError: If the storage refuses, or cannot be reached in a few attempts.
    """

    __slots__ = ()

    def __init__(self, address: str) -> None:
        super().__init__(address, use_listings_cache=False)

    def __fspath__(self) -> str:
        return str(self)

    def read_bytes(self) -> bytes:
        """The whole content, by one request."""
        return self._given(lambda: self.fs.cat_file(self.path))

    def read_part(self, count: int | None) -> bytes:
        """The first bytes, or all."""
        return self._given(lambda: self.fs.cat_file(self.path, start=0, end=count))

    def is_refused_alone(self) -> bool:
        """Whether the storage, which refused this file, gives another, or tells of the folder.

        S3 refuses what is not there, too, where the keys may not list.
        """
        last = _LAST_READ.get(self._bucket)
        if last is not None and last != self.path:
            with suppress(MedlensError, OSError):
                self.try_to(lambda: self.fs.cat_file(last, start=0, end=1))
                return True
        with suppress(MedlensError):
            self.parent.describe()
            return True
        return False

    def read_text(self, encoding: str | None = None, *_: Any) -> str:
        """The content as text."""
        return self.read_bytes().decode(encoding or "utf-8")

    def write_bytes(self, data: bytes | memoryview) -> int:
        """Write the file so that a reader never sees a part of it."""
        content = bytes(data)
        self._put(lambda path: self.fs.pipe_file(path, content))
        return len(content)

    def upload(self, file: str) -> None:
        """Write what a file of this machine holds; it appears whole, as by `write_bytes`."""
        self._put(lambda path: self.fs.put_file(file, path))

    def entries(self) -> list[dict[str, Any]]:
        """What is in the folder, by name: dictionaries of fsspec, `name` being the last part."""
        found = self.try_to(lambda: self.fs.ls(self.path, detail=True))
        own = self.path.rstrip("/")
        entries = [
            {**entry, "name": entry["name"].rstrip("/").rpartition("/")[2]}
            for entry in found
            # Some stores list an empty object for the folder itself.
            if entry["name"].rstrip("/") != own
        ]
        return sorted(entries, key=lambda entry: str(entry["name"]))

    def iterdir(self) -> Iterator[RemotePath]:
        """The paths in the folder."""
        return (self / entry["name"] for entry in self.entries())

    def glob(self, pattern: str, **_: Any) -> Iterator[RemotePath]:
        """The paths below the folder that fit a pattern, in order; none where it is missing."""
        found = list(self.try_to(lambda: list(super(RemotePath, self).glob(pattern))))
        return iter(sorted(found, key=str))

    def matches(self) -> list[str]:
        """The addresses of the files and folders that this path fits as a pattern."""
        found = self.try_to(lambda: self.fs.glob(self.path))
        return [str(self.fs.unstrip_protocol(name)) for name in found]

    def describe(self) -> dict[str, Any] | None:
        """What fsspec knows of the file or folder: type, size and more; None without one."""
        try:
            return dict(self.try_to(lambda: self.fs.info(self.path)))
        except FileNotFoundError:
            return None

    def exists(self, **_: Any) -> bool:
        """Whether there is something."""
        return self.describe() is not None

    def is_file(self) -> bool:
        """Whether there is a file."""
        return (self.describe() or {}).get("type") == "file"

    def is_dir(self) -> bool:
        """Whether there is a folder, or something below this name."""
        return (self.describe() or {}).get("type") == "directory"

    def mkdir(self, mode: int = 0o777, parents: bool = False, exist_ok: bool = False) -> None:
        """Nothing: folders appear with their first file, and a bucket is never made."""

    def unlink(self, missing_ok: bool = False) -> None:
        """Remove the file."""
        try:
            self.try_to(lambda: self.fs.rm_file(self.path))
        except FileNotFoundError:
            if not missing_ok:
                raise

    def remove_with(self, files: Sequence[str]) -> None:
        """Remove some files of the same storage by as few requests as it allows."""
        try:
            self.try_to(lambda: self.fs.rm(list(files)))
        except FileNotFoundError:  # another process was faster with one of them
            for file in files:
                RemotePath(file).unlink(missing_ok=True)

    def remove_tree(self) -> None:
        """Remove the folder with all that is in it, where it is there."""
        try:
            self.try_to(lambda: self.fs.rm(self.path, recursive=True))
        except FileNotFoundError:
            return

    @property
    def _bucket(self) -> str:
        return f"{self.protocol}://{self.path.lstrip('/').partition('/')[0]}"

    def _given(self, read: Callable[[], Any]) -> bytes:
        content = bytes(self.try_to(read))
        _LAST_READ[self._bucket] = self.path
        return content

    def _put(self, write: Callable[[str], None]) -> None:
        if self.protocol in ("http", "https"):
            raise MedlensError(
                f"Nothing can be written to {self.protocol}://.",
                got="an address of a web server",
                expected="a folder of this machine, or a storage such as s3://",
                fix="Name another place.",
                names=[hide_secrets(str(self))],
            )
        part = self.with_name(part_name(self.name))

        def put() -> None:
            if self.protocol in OBJECT_STORES:
                write(self.path)
                return
            self.fs.makedirs(self.parent.path, exist_ok=True)
            write(part.path)
            self._replace_by(part.path)

        try:
            self.try_to(put)
        except FileNotFoundError:
            raise MedlensError(
                "The place to write to is not there.",
                got=f"no such bucket or share on {self.protocol}://",
                expected="one that exists: medlens makes folders, but no buckets",
                fix="Check its name, or make it.",
                names=[hide_secrets(str(self))],
            ) from None

    def _replace_by(self, part: str) -> None:
        """Move a file to this place; what stood here goes first, as not every storage replaces.

        For a moment there is neither the old file nor the new one. Another process may write the
        same file meanwhile.
        """
        size = self.fs.info(part)["size"]
        with suppress(FileNotFoundError):
            self.fs.rm_file(self.path)
        self.fs.mv(part, self.path)
        # Some say nothing when they have not moved it.
        if self.fs.exists(part) or self.fs.info(self.path)["size"] != size:
            raise OSError("The storage has not moved the file to its place.")

    def try_to(self, action: Callable[[], Answer]) -> Answer:
        """Do something with the storage, some times if need be.

        Args:
            action: Calls fsspec, and nothing else.
        """
        failed = 0
        while True:
            try:
                return action()
            except _OF_THE_FILE:
                raise
            except PermissionError:
                raise self._refused() from None
            # Every client has exceptions of its own for a network that fails.
            except Exception as error:
                if not _is_of_the_storage(error):
                    raise
                if failed == len(PAUSES):
                    raise self._unreachable(error) from None
            time.sleep(PAUSES[failed])
            failed += 1

    def _refused(self) -> MedlensError:
        return StorageRefuses(
            f"The storage {self.protocol}:// refuses access.",
            got="no permission: keys that are wrong, have expired, or do not reach so far",
            expected="keys that may read the images and write the results",
            fix="Check the keys where the storage's client looks for them (environment or its "
            "configuration file). What is finished is kept: the same command goes on.",
            names=[hide_secrets(str(self))],
        )

    def _unreachable(self, error: Exception) -> MedlensError:
        return MedlensError(
            f"The storage {self.protocol}:// cannot be used.",
            got=f"{type(error).__name__} at each of {len(PAUSES) + 1} attempts",
            expected="a storage that answers, and keys for it",
            fix="Check address, keys and network. What is finished is kept: the same command "
            "goes on.",
            names=[hide_secrets(str(self))],
        )


def _is_of_the_storage(error: Exception) -> bool:
    """Whether an exception may tell of the network or the storage; else a mistake in a program."""
    packages = {kind.__module__.partition(".")[0] for kind in type(error).__mro__}
    return isinstance(error, OSError) or bool(packages & CLIENTS)
