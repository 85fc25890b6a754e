"""Stored DICOM values -> RGB: modality, then VOI LUT or window, then inversion; or colour."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydicom.dataset import Dataset
from pydicom.multival import MultiValue
from pydicom.pixels.processing import apply_color_lut, apply_windowing

from medlens.data.decoded import UnreadableImage, Window, paint_by_value, stretch, to_bytes

# (center, width) of a window that is asked for in place of the file's own.
AskedWindow = tuple[float, float]


def paint_grey(
    stored: NDArray[Any],
    dataset: Dataset,
    *,
    index: int,
    photometric: str,
    little_endian: bool,
    asked: AskedWindow | None = None,
) -> tuple[NDArray[np.uint8], str, Window]:
    """Turn the stored values of a grey frame into RGB.

    First the modality LUT or rescale; then the VOI LUT, or the first window, or else the frame's
    own range; then MONOCHROME1 is inverted (DICOM PS3.3, C.11.1, C.11.2 and C.7.6.3.1.2). Padding
    pixels set no range and end black in either, as the background of any other image.

    Args:
        stored: Of shape (rows, columns).
        dataset: The header.
        index: Which frame it is, from 0.
        photometric: MONOCHROME1 or MONOCHROME2.
        little_endian: The byte order of lookup tables.
        asked: A window in place of the file's own window, VOI LUT or range.

    Returns:
        Pixels, 0 to 255, of shape (rows, columns, 3), the scaling in words, and the window; that of
        a VOI LUT is the range of the values in its table.
    """
    modality = _frame_item(dataset, index, "PixelValueTransformationSequence")
    voi = _frame_item(dataset, index, "FrameVOILUTSequence")
    scaling = ""
    window = Window(0, 1, 0, 0)

    def paint(values: NDArray[Any]) -> NDArray[np.uint8]:
        nonlocal scaling, window
        padding = _find_padding(values, dataset, stored.dtype)
        rescaled = _apply_modality(values, modality, little_endian)
        grey, scaling, (center, width) = _apply_voi(rescaled, ~padding, voi, little_endian, asked)
        window = Window(center, width, *_find_ends(rescaled, ~padding))
        if photometric == "MONOCHROME1":
            grey = 255 - grey
        grey[padding] = 0
        return grey

    grey = paint_by_value(stored, paint)
    return np.repeat(grey[:, :, np.newaxis], 3, axis=2), scaling, window


def _find_ends(values: NDArray[np.float64], used: NDArray[np.bool_]) -> tuple[float, float]:
    """Lowest and highest of the finite values that are used; zeros where there is none."""
    counted = values[used & np.isfinite(values)]
    return (float(counted.min()), float(counted.max())) if counted.size else (0.0, 0.0)


def _frame_item(dataset: Dataset, index: int, keyword: str) -> Dataset:
    """Return where a frame's own values stand: enhanced objects keep them in functional groups."""
    own = dataset.get("PerFrameFunctionalGroupsSequence") or []
    shared = dataset.get("SharedFunctionalGroupsSequence") or []
    for group in [*own[index : index + 1], *shared[:1]]:
        if items := group.get(keyword):
            item: Dataset = items[0]
            return item
    return dataset


def _find_padding(
    values: NDArray[Any], dataset: Dataset, dtype: np.dtype[Any]
) -> NDArray[np.bool_]:
    """Find the stored values that stand for "no image here"."""
    padding = dataset.get("PixelPaddingValue")
    if not isinstance(padding, int) or dtype.kind not in "iu":
        return np.zeros(values.shape, bool)
    limit = dataset.get("PixelPaddingRangeLimit")
    ends = np.array([padding, limit if isinstance(limit, int) else padding])
    # Signed padding is often written as if unsigned (63536 for -2000), and the other way round.
    low, high = np.sort(ends.astype(dtype))
    within: NDArray[np.bool_] = (values >= low) & (values <= high)
    return within


def _apply_modality(
    values: NDArray[Any], item: Dataset, little_endian: bool
) -> NDArray[np.float64]:
    """Turn stored values into the modality's own, such as Hounsfield units."""
    if tables := item.get("ModalityLUTSequence"):
        return _look_up(values, tables[0], little_endian)[0]
    slope, intercept = _first_number(item, "RescaleSlope"), _first_number(item, "RescaleIntercept")
    rescaled = values.astype(np.float64)
    if slope is not None:
        rescaled *= slope
    if intercept is not None:
        rescaled += intercept
    return rescaled


def _apply_voi(
    values: NDArray[np.float64],
    used: NDArray[np.bool_],
    item: Dataset,
    little_endian: bool,
    asked: AskedWindow | None,
) -> tuple[NDArray[np.uint8], str, AskedWindow]:
    """Apply the window asked for, the VOI LUT, the first window, or the range of `used` values.

    A window that its function does not allow (no width, for one) counts as none.
    """
    tables = item.get("VOILUTSequence")
    if asked is None and tables and "LUTDescriptor" in tables[0] and "LUTData" in tables[0]:
        looked_up, highest = _look_up(np.rint(values), tables[0], little_endian)
        count, first, _ = (int(number) for number in tables[0].LUTDescriptor)
        span = float(count % 65536 or 65536)
        return to_bytes(looked_up / highest * 255), "VOI LUT", (first + span / 2, span)
    function = str(item.get("VOILUTFunction") or "").strip().upper()
    if function not in ("LINEAR_EXACT", "SIGMOID"):
        function = "LINEAR"
    own = _first_number(item, "WindowCenter"), _first_number(item, "WindowWidth")
    center, width = own if asked is None else asked
    if asked is not None and function == "LINEAR" and asked[1] < 1:
        function = "LINEAR_EXACT"
    if center is None or width is None or width <= 0 or (function == "LINEAR" and width < 1):
        grey, lowest, highest = stretch(values, used)
        shown = ((lowest + highest) / 2, highest - lowest or 1.0)
        return grey, f"range {lowest:.10g} to {highest:.10g}", shown
    # pydicom scales to the range of the stored type. Said to be 8-bit, it scales to 0 to 255,
    # and does not turn the window round where the rescale slope is negative.
    window = Dataset()
    window.PhotometricInterpretation = "MONOCHROME2"
    window.BitsStored = 8
    window.PixelRepresentation = 0
    window.VOILUTFunction = function
    if asked is None:
        window.add(item["WindowCenter"])
        window.add(item["WindowWidth"])
    else:  # as decimal strings, which have 16 characters at most
        window.WindowCenter, window.WindowWidth = f"{center:.8g}", f"{width:.8g}"
    grey = to_bytes(apply_windowing(values, window))
    named = "" if function == "LINEAR" else f" {function}"
    return grey, f"window {center:.10g}/{width:.10g}{named}", (center, width)


def _look_up(
    values: NDArray[Any], item: Dataset, little_endian: bool
) -> tuple[NDArray[np.float64], float]:
    """Look values up in a modality or VOI LUT; return also the highest value it may give.

    Not pydicom's `apply_voi`: its index has the type of the table, so a table of 8 bits with more
    than 256 entries wraps round.
    """
    count, first, bits = (int(number) for number in item.LUTDescriptor)
    count = count % 65536 or 65536  # written as 0; or as negative, where it is taken for signed
    data = item.LUTData or b""
    if isinstance(data, bytes):
        order = "<" if little_endian else ">"
        packed = len(data) < 2 * count  # tables of 8 bits may have two entries in a word
        table = np.frombuffer(
            data[: count if packed else 2 * count], "u1" if packed else f"{order}u2"
        )
    else:
        table = np.atleast_1d(np.asarray(data, dtype=np.int64))[:count]
    if table.size == 0 or not 1 <= bits <= 16:
        raise UnreadableImage("Its lookup table is empty or damaged.")
    positions = np.clip(np.nan_to_num(values) - first, 0, table.size - 1).astype(np.int64)
    return table[positions].astype(np.float64), float(max(2**bits - 1, table.max()))


def paint_palette(stored: NDArray[Any], dataset: Dataset) -> NDArray[np.uint8]:
    """Turn indices of shape (rows, columns) into the RGB of the header's palette."""
    colours = apply_color_lut(stored, dataset)[:, :, :3]
    if colours.dtype.itemsize == 1:
        return np.asarray(colours, np.uint8)
    # Entries of 16 bits; some writers keep 8 bits in them, and say so in the descriptor.
    bits = dataset.RedPaletteColorLookupTableDescriptor[2]
    return (colours >> (8 if bits == 16 or colours.max() > 255 else 0)).astype(np.uint8)


def paint_colour(stored: NDArray[Any], bits_stored: int) -> tuple[NDArray[np.uint8], str]:
    """Scale RGB of any depth, of shape (rows, columns, 3), to 0..255; return the scaling too."""
    highest = 2**bits_stored - 1
    if stored.dtype == np.uint8 and highest == 255:
        return stored, "none"
    greys = paint_by_value(stored, lambda values: to_bytes(values / highest * 255))
    return greys, f"range 0 to {highest}"


def _first_number(dataset: Dataset, keyword: str) -> float | None:
    """Return the first finite value of an element that holds numbers; None where there is none."""
    value = dataset.get(keyword)
    if isinstance(value, MultiValue):
        value = value[0] if value else None
    number = math.nan if value in (None, "") else float(value)
    return number if math.isfinite(number) else None
