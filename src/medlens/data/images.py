"""One image file -> RGB pixels, or the reason why not. Nothing else knows file formats."""

from __future__ import annotations

import errno
import io
import os
import stat
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

import numpy as np
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError
from pydicom import dcmread

from medlens.data.decoded import (
    MAX_PIXELS,
    DecodedImage,
    UnreadableImage,
    find_grey,
    share_grey,
)
from medlens.data.dicom import decode_dicom, looks_like_dicom, read_dicom_size
from medlens.data.dicom_display import AskedWindow
from medlens.data.pictures import decode_picture, read_picture_size
from medlens.data.remote import is_remote
from medlens.errors import StorageRefuses
from medlens.quiet import LIBRARY_WARNINGS

if TYPE_CHECKING:
    from medlens.data.remote_path import RemotePath

__all__ = [
    "CANNOT_BE_OPENED",
    "FITS",
    "MAX_PIXELS",
    "RESIZE_FILTER",
    "DecodedImage",
    "UnreadableImage",
    "decode_image",
    "fetch",
    "fit_to_square",
    "is_image_name",
    "read_image",
    "read_longer_side",
    "read_patient",
    "read_size",
    "resize_to_square",
    "to_pillow",
]

FITS = ("pad", "crop", "stretch")
RESIZE_FILTER = "bilinear"
# How the reason begins of a file that is missing, or that storage does not give.
CANNOT_BE_OPENED = "It cannot be opened: "

_DAMAGED = "It is damaged, cut short or of an unknown kind."
# What the system says where a damaged header sends the reader to a place before the file or past
# all files.
_NO_SUCH_PLACE = (errno.EINVAL, errno.EOVERFLOW)
_EXTENSIONS = frozenset(
    (".png", ".jpg", ".jpeg", ".tif", ".tiff", ".bmp", ".webp", ".gif", ".dcm", ".dicom", ".ima")
)
# Of files that often lie beside images, by the thousand; none of these is opened to look for DICOM.
_OTHER_EXTENSIONS = frozenset(
    f".{name}"
    for name in (
        *("csv", "tsv", "txt", "md", "json", "jsonl", "xml", "html", "yaml", "yml", "toml", "log"),
        *("pdf", "doc", "docx", "xls", "xlsx", "npy", "npz", "nii", "mat", "h5", "hdf5", "parquet"),
        *("zip", "gz", "bz2", "xz", "tar", "7z", "py", "ipynb", "db", "mp4", "avi", "svg", "part"),
    )
)
# Bytes asked for, one after the other, until the header of a file on other storage is in them.
_HEADS = (1 << 16, 1 << 20)
_NOTHING_THERE = (FileNotFoundError, IsADirectoryError, NotADirectoryError)
_DICOM_HEAD = 132  # a preamble of 128 bytes and the letters DICM


def decode_image(
    data: bytes,
    *,
    frame: int | None = None,
    max_pixels: int = MAX_PIXELS,
    asked: AskedWindow | None = None,
) -> DecodedImage:
    """Decode the content of an image file; what it is, the content says. Safe in threads.

    EXIF orientation is applied; alpha and transparency go onto black. Grey of more than 8 bits,
    and colour of 16, are scaled by the image's own lowest and highest value (see `stretch` for
    constant images and NaN). Of several frames the first is taken; of DICOM's the middle one.

    Args:
        data: The whole file.
        frame: Which frame of a DICOM file, from 0. Other formats pay no attention to it.
        max_pixels: The largest width x height that is decoded.
        asked: (center, width) to show grey DICOM images in, in place of the file's own window.

    Raises:
        UnreadableImage: Whatever is wrong with it; no other exception.
    """
    return _decode(io.BytesIO(data), frame, max_pixels, asked)


def fetch(path: Path) -> Path | bytes:
    """A file in the form in which reading it again costs nothing.

    Args:
        path: A file of this machine comes back as it is; one on other storage as its content.

    Raises:
        UnreadableImage: If there is no such file on other storage, or it alone is refused.
        MedlensError: If the storage refuses everything, or cannot be used.
    """
    if not is_remote(path):
        return path
    return _ask_storage(path, path.read_bytes)


def read_image(
    source: Path | bytes, *, frame: int | None = None, max_pixels: int = MAX_PIXELS
) -> DecodedImage:
    """Decode an image file; see `decode_image`. Of a large file only what is needed is read.

    Args:
        source: The file, or its whole content.
        frame: As for `decode_image`.
        max_pixels: As for `decode_image`.

    Raises:
        UnreadableImage: Whatever is wrong with it, also a missing or locked file.
    """
    with _open(source) as stream:
        return _decode(stream, frame, max_pixels)


def read_size(source: Path | bytes) -> tuple[int, int]:
    """Read an image's (width, height) after EXIF orientation, from the header alone.

    Args:
        source: As for `read_image`.

    Raises:
        UnreadableImage: If the header cannot be read. The pixels may still turn out damaged.
    """
    with _open(source) as stream, _reading():
        if _is_dicom(stream):
            return read_dicom_size(stream)
        return read_picture_size(stream)


def read_longer_side(path: Path) -> int:
    """Read an image's longer side, in pixels, from its header.

    Args:
        path: Of a file on other storage only as much is asked for as is needed.

    Raises:
        UnreadableImage: If the header cannot be read.
    """
    return max(_read_remote_size(path) if is_remote(path) else read_size(path))


def _read_remote_size(path: RemotePath) -> tuple[int, int]:
    for count in _HEADS:
        head = _read_part(path, count)
        try:
            return read_size(head)
        except UnreadableImage:
            if len(head) < count:
                raise
    return read_size(_read_part(path, None))


def _read_part(path: RemotePath, count: int | None) -> bytes:
    return _ask_storage(path, lambda: path.read_part(count))


def _ask_storage(path: RemotePath, read: Callable[[], bytes]) -> bytes:
    """What a file on other storage holds.

    Raises:
        UnreadableImage: If it is not there, or the storage refuses it and gives others.
        MedlensError: If the storage refuses everything, or cannot be used.
    """
    try:
        return read()
    except OSError as error:
        raise _cannot_be_opened(error) from error
    except StorageRefuses as error:
        if not path.is_refused_alone():
            raise
        raise UnreadableImage(f"{CANNOT_BE_OPENED}the storage refuses this file.") from error


def read_patient(data: bytes) -> str:
    """Read DICOM's PatientID, as `decode_image` gives it, from the header alone.

    Args:
        data: A whole file that was decoded before; files of other formats have no patient.

    Raises:
        UnreadableImage: If the header cannot be read after all.
    """
    stream = io.BytesIO(data)
    with _reading():
        if not _is_dicom(stream):
            return ""
        header = dcmread(stream, stop_before_pixels=True, force=True, specific_tags=["PatientID"])
        return str(header.get("PatientID") or "").strip()


def is_image_name(path: Path) -> bool:
    """Whether a file counts as an image by its extension; without a known one, by DICOM's mark.

    DICOM files are often named by their UID, so a last part of digits is no extension. DICOMDIR is
    the list of the files beside it. A file without an extension that may not be read counts, too,
    so that its reader says so. On other storage no file with an extension is opened.
    """
    if path.name.upper() == "DICOMDIR":
        return False
    extension = path.suffix.lower()
    if not extension or extension[1:].isdigit():
        return _bears_mark(path, or_is_closed=True)
    if is_remote(path) or extension in _EXTENSIONS | _OTHER_EXTENSIONS:
        return extension in _EXTENSIONS
    return _bears_mark(path, or_is_closed=False)


def _bears_mark(path: Path, *, or_is_closed: bool) -> bool:
    """Whether a file bears the mark of DICOM, or, where that is asked, may not be opened."""
    try:
        if is_remote(path):
            return _read_part(path, _DICOM_HEAD)[128:] == b"DICM"
        with _open(path) as stream:
            return stream.read(_DICOM_HEAD)[128:] == b"DICM"
    except UnreadableImage as error:
        is_absent = error.__cause__ is None or isinstance(error.__cause__, _NOTHING_THERE)
        return or_is_closed and not is_absent
    except OSError:
        return or_is_closed


def fit_to_square(pixels: NDArray[np.uint8], *, size: int, fit: str) -> NDArray[np.uint8]:
    """Resize an image to a square, once, by Pillow's antialiased bilinear filter.

    An image that is size x size already comes back as it is, pixel for pixel.

    Args:
        pixels: RGB, 0 to 255, of shape (height, width, 3).
        size: The side of the square, in pixels.
        fit: "pad" keeps all of the image and its proportions, centred between black borders;
            "crop" takes the square in its centre; "stretch" keeps all and loses the proportions.

    Returns:
        RGB, 0 to 255, of shape (size, size, 3).
    """
    return resize_to_square(to_pillow(pixels), size=size, fit=fit)


def to_pillow(pixels: NDArray[np.uint8]) -> Image.Image:
    """Turn RGB pixels into a Pillow image: of mode L if they are grey, else RGB."""
    grey = find_grey(pixels)
    return Image.fromarray(pixels if grey is None else grey)


def resize_to_square(image: Image.Image, *, size: int, fit: str) -> NDArray[np.uint8]:
    """Do what `fit_to_square` does, with an image of Pillow's.

    The greys of mode L come out as those of RGB would, for a third of the work.

    Args:
        image: Of mode L or RGB.
        size: The side of the square, in pixels.
        fit: "pad", "crop" or "stretch".

    Returns:
        RGB, 0 to 255, of shape (size, size, 3).
    """
    width, height = image.size
    if fit == "stretch":
        square = _resize(image, size, size)
    elif fit == "crop":
        side = min(height, width)
        top, left = (height - side) // 2, (width - side) // 2
        square = _resize(image.crop((left, top, left + side, top + side)), size, size)
    elif fit == "pad":
        longer = max(height, width)
        inner_height = max(1, round(height * size / longer))
        inner_width = max(1, round(width * size / longer))
        top, left = (size - inner_height) // 2, (size - inner_width) // 2
        square = Image.new(image.mode, (size, size))
        square.paste(_resize(image, inner_width, inner_height), (left, top))
    else:
        raise ValueError(f"fit must be one of {', '.join(FITS)}, but is {fit!r}.")
    return np.array(square.convert("RGB"))


def _resize(image: Image.Image, width: int, height: int) -> Image.Image:
    return image.resize((width, height), Image.Resampling.BILINEAR)


@contextmanager
def _reading() -> Iterator[None]:
    """Turn everything that goes wrong with a file into UnreadableImage, quietly."""
    with LIBRARY_WARNINGS, np.errstate(all="ignore"):  # absurd values overflow
        try:
            yield
        except UnreadableImage:
            raise
        except UnidentifiedImageError as error:
            raise UnreadableImage(
                "It is not a PNG, JPEG, TIFF, BMP, WebP, GIF or DICOM image that can be read."
            ) from error
        except Image.DecompressionBombError as error:
            raise UnreadableImage("It has more pixels than Pillow decodes.") from error
        except MemoryError as error:
            raise UnreadableImage("It needs more memory than there is.") from error
        except OSError as error:
            # Only the system gives a number: a lost disk says nothing about the image. What is not
            # a fault of the disk is a place in the file that no file can have.
            if error.errno is None or error.errno in _NO_SUCH_PLACE:
                raise UnreadableImage(_DAMAGED) from error
            raise _cannot_be_opened(error) from error
        # Pillow, pydicom and their decoders raise almost any exception at a damaged file: OSError,
        # SyntaxError, struct.error, AttributeError, RuntimeError, zlib.error and more were seen.
        except Exception as error:
            raise UnreadableImage(_DAMAGED) from error


@contextmanager
def _open(source: Path | bytes) -> Iterator[BinaryIO]:
    source = source if isinstance(source, bytes) else fetch(source)
    if isinstance(source, bytes):
        yield io.BytesIO(source)
        return
    try:
        # Opening a pipe, or reading a device, might never end.
        if not stat.S_ISREG(source.stat().st_mode):
            raise UnreadableImage("It is not a file.")
        stream = source.open("rb")
    except ValueError:  # a name that no file can have
        raise UnreadableImage("It cannot be opened: its name is not valid.") from None
    except OSError as error:
        raise _cannot_be_opened(error) from error
    with stream:
        yield stream


def _cannot_be_opened(error: OSError) -> UnreadableImage:
    # Clients of other storage leave the words of the system out.
    is_missing = isinstance(error, FileNotFoundError)
    cause = os.strerror(errno.ENOENT) if is_missing else error.strerror or "it cannot be read"
    return UnreadableImage(f"{CANNOT_BE_OPENED}{cause}.")


def _is_dicom(stream: BinaryIO) -> bool:
    head = stream.read(_DICOM_HEAD)
    if not head:
        raise UnreadableImage("The file is empty.")
    stream.seek(0)
    return looks_like_dicom(head)


def _decode(
    stream: BinaryIO, frame: int | None, max_pixels: int, asked: AskedWindow | None = None
) -> DecodedImage:
    with _reading():
        if _is_dicom(stream):
            decoded = decode_dicom(stream, frame=frame, max_pixels=max_pixels, asked=asked)
        else:
            decoded = decode_picture(stream, max_pixels=max_pixels)
        # Most medical images are grey, however they are stored: one channel is enough to keep.
        pixels = share_grey(decoded.pixels)
        return decoded if pixels is decoded.pixels else replace(decoded, pixels=pixels)
