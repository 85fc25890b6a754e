"""What reading one image file gives, or why it cannot be used: shared by images.py and dicom.py."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

# Four times the largest mammogram, and 300 MB as RGB. A frame above it is taken for an attack.
MAX_PIXELS = 100_000_000
_ROWS_AT_A_TIME = 64
# Stored values that are looked up at a time: their indices, of 8 bytes each, take 8 MB.
_VALUES_AT_A_TIME = 1 << 20


class UnreadableImage(Exception):  # noqa: N818 (it says what is wrong with a file, not with us)
    """A file that cannot be used.

    Args:
        reason: One short sentence, without any file name or patient id.
    """

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


@dataclass(frozen=True)
class Window:
    """The range of grey values that is shown from black to white, in the image's own unit.

    Args:
        center: Its middle.
        width: From black to white, above 0.
        lowest: The lowest finite value in the image, padding aside.
        highest: The highest.
    """

    center: float
    width: float
    lowest: float
    highest: float


@dataclass(frozen=True)
class DecodedImage:
    """One image, ready for a network, and how it was stored.

    Args:
        pixels: RGB, 0 to 255, of shape (height, width, 3); not to be written to. The colours of a
            grey image share the memory of one channel, see `as_rgb`.
        width: Of the stored image, in pixels, after its EXIF orientation was applied.
        height: The same.
        mode: As stored: "1", "L", "LA", "P", "RGB", "RGBA", "CMYK", "I;16", "I", "F"; colour of 16
            bits per sample is "RGB;16" or "RGBA;16"; of DICOM, "MONOCHROME2 12-bit" and the like.
        format: "PNG", "JPEG", "TIFF", "BMP", "WEBP", "GIF" or "DICOM".
        patient: DICOM's PatientID; "" where there is none.
        scaling: How stored values became 0 to 255: "none", "minimum 12 to maximum 4095",
            "window 40/400", "VOI LUT", "range -1024 to 1500", "palette".
        frames: How many the file holds; 1 for a single image.
        window: Of a grey DICOM image.
    """

    pixels: NDArray[np.uint8]
    width: int
    height: int
    mode: str
    format: str
    patient: str
    scaling: str
    frames: int
    window: Window | None = None


def as_rgb(grey: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Show a channel of shape (height, width) as RGB: a view that cannot be written to."""
    return np.broadcast_to(grey[:, :, np.newaxis], (*grey.shape, 3))


def find_grey(pixels: NDArray[np.uint8]) -> NDArray[np.uint8] | None:
    """Find the one channel of an RGB image whose colours are the same in every pixel.

    Args:
        pixels: RGB, of shape (height, width, 3).

    Returns:
        The channel, of shape (height, width), in one piece of memory; None for a colour image.
    """
    if pixels.strides[2] == 0:  # from `as_rgb`
        return np.ascontiguousarray(pixels[:, :, 0])
    # A few rows at a time: a colour image mostly shows itself in the first.
    for start in range(0, len(pixels), _ROWS_AT_A_TIME):
        rows = pixels[start : start + _ROWS_AT_A_TIME]
        red = rows[:, :, 0]
        if not (np.array_equal(red, rows[:, :, 1]) and np.array_equal(red, rows[:, :, 2])):
            return None
    return np.ascontiguousarray(pixels[:, :, 0])


def share_grey(pixels: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Return RGB pixels as they are or, if they are grey, as a view of one channel."""
    if pixels.strides[2] == 0:
        return pixels
    grey = find_grey(pixels)
    return pixels if grey is None else as_rgb(grey)


def content_key(pixels: NDArray[np.uint8]) -> str:
    """SHA-256 of an image's shape and pixels; of one channel where the three are the same.

    A grey image has the same key however it was stored. The number of channels is part of what is
    hashed, so that no grey image has the key of a colour image.

    Args:
        pixels: RGB, of shape (height, width, 3).
    """
    grey = find_grey(pixels)
    channels = np.ascontiguousarray(pixels) if grey is None else grey
    height, width = channels.shape[:2]
    key = hashlib.sha256(f"{height}x{width}x{3 if grey is None else 1}:".encode("ascii"))
    key.update(channels.data)
    return key.hexdigest()


def check_pixel_count(width: int, height: int, max_pixels: int) -> None:
    """Refuse a frame that is empty or too large, before anything of it is decoded.

    Raises:
        UnreadableImage: If it has no pixels, or more than `max_pixels`.
    """
    if width < 1 or height < 1:
        raise UnreadableImage("It has no pixels.")
    if width * height > max_pixels:
        raise UnreadableImage(
            f"It has {width} x {height} pixels, more than the limit of {max_pixels:,}."
        )


def paint_by_value(
    stored: NDArray[Any], paint: Callable[[NDArray[Any]], NDArray[np.uint8]]
) -> NDArray[np.uint8]:
    """Give every stored value its grey.

    Integers of up to 16 bits go through a table of the values that occur: the same result as
    painting every pixel, in a fraction of the time and memory.

    Args:
        stored: Stored values, of any shape and type.
        paint: Turns a vector (or array) of stored values into greys of the same shape. A grey
            depends on its own value and on which values there are, never on their places.

    Returns:
        Greys, 0 to 255, in the shape of `stored`.
    """
    if stored.dtype.kind not in "iu" or stored.dtype.itemsize > 2:
        return paint(stored)
    native = np.ascontiguousarray(stored, stored.dtype.newbyteorder("="))
    # Negative values as the unsigned ones of the same bits: places in a table.
    places = native.view(f"u{native.itemsize}").ravel()
    counts = np.zeros(1 << 8 * native.itemsize, np.int64)
    parts = [
        slice(start, start + _VALUES_AT_A_TIME)
        for start in range(0, places.size, _VALUES_AT_A_TIME)
    ]
    for part in parts:
        counts += np.bincount(places[part], minlength=counts.size)
    present = np.flatnonzero(counts)
    table = np.zeros(counts.size, np.uint8)
    values = present.astype(places.dtype).view(native.dtype).astype(np.int64)
    table[present] = paint(values)
    greys = np.empty(places.size, np.uint8)
    for part in parts:
        # No index can lie outside; "clip" only spares NumPy a copy.
        np.take(table, places[part], out=greys[part], mode="clip")
    return greys.reshape(stored.shape)


def to_bytes(values: NDArray[np.floating[Any]]) -> NDArray[np.uint8]:
    """Round values on the scale 0 to 255; what lies outside goes to its end, NaN to 0."""
    greys: NDArray[np.uint8] = np.rint(np.clip(np.nan_to_num(values), 0, 255)).astype(np.uint8)
    return greys


def stretch(
    values: NDArray[Any], used: NDArray[np.bool_] | None = None
) -> tuple[NDArray[np.uint8], float, float]:
    """Scale values linearly so that the lowest becomes 0 and the highest 255.

    A constant image becomes 0 throughout. NaN becomes 0; an infinity lies beyond the range, so
    minus infinity becomes 0 and plus infinity 255; none of them moves the range.

    Args:
        values: Of any shape and real type.
        used: Which of them set the range, in the same shape; all of them by default.

    Returns:
        Greys, 0 to 255, in the shape of `values`; the lowest value; the highest.

    Raises:
        UnreadableImage: If no value is left to set the range.
    """
    finite = np.isfinite(values)
    candidates = values[finite if used is None else finite & used]
    if candidates.size == 0:
        raise UnreadableImage("It has no pixel with a usable value.")
    lowest, highest = float(candidates.min()), float(candidates.max())
    if lowest == highest:
        return np.zeros(values.shape, np.uint8), lowest, highest
    scaled = (values.astype(np.float64) - lowest) / (highest - lowest) * 255
    return to_bytes(scaled), lowest, highest
