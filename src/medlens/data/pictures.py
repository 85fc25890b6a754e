"""A PNG, JPEG, TIFF, BMP, WebP or GIF file -> RGB pixels, by Pillow."""

from __future__ import annotations

import struct
import sys
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray
from PIL import ExifTags, Image, ImageChops
from PIL.ImageFile import ImageFile
from PIL.TiffImagePlugin import BITSPERSAMPLE, PHOTOMETRIC_INTERPRETATION, TiffImageFile

from medlens.data.decoded import (
    DecodedImage,
    UnreadableImage,
    as_rgb,
    check_pixel_count,
    paint_by_value,
    stretch,
)

_FORMATS = ("PNG", "JPEG", "TIFF", "BMP", "WEBP", "GIF")
_GREY_MODES = ("I;16", "I;16L", "I;16B", "I", "F")
_COLOUR_MODES = ("1", "L", "LA", "La", "P", "PA", "RGB", "RGBA", "RGBa", "RGBX", "CMYK", "YCbCr")
_WIDE_COLOUR = ("RGB;16", "RGBX;16", "RGBA;16")
_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
# A PNG may keep its orientation behind its pixels; it is looked for in so many last bytes.
_PNG_TAIL = 1 << 16


def read_picture_size(stream: BinaryIO) -> tuple[int, int]:
    """Read (width, height), in pixels and after EXIF orientation, without decoding any pixel."""
    with Image.open(stream, formats=_FORMATS) as image:
        width, height = image.size
        if isinstance(image, TiffImageFile):
            return width, height  # turned by Pillow already
        if image.format == "PNG" and "exif" not in image.info:
            start = stream.tell()
            stream.seek(max(0, stream.seek(0, 2) - _PNG_TAIL))
            at_the_end = b"eXIf" in stream.read()
            stream.seek(start)
            if at_the_end:
                image.load()
        return (height, width) if _read_orientation(image) >= 5 else (width, height)


def decode_picture(stream: BinaryIO, *, max_pixels: int) -> DecodedImage:
    """Decode the first frame of a picture.

    Raises:
        UnreadableImage: If it is too large, or of a kind that cannot be shown. Damaged files raise
            what Pillow happens to raise.
    """
    with Image.open(stream, formats=_FORMATS) as image:
        check_pixel_count(*image.size, max_pixels)
        frames = int(getattr(image, "n_frames", 1))
        raw_mode = _read_raw_mode(image)
        inverted = isinstance(image, TiffImageFile) and _is_white_zero(image)
        image.load()
        mode = image.mode
        if mode in _GREY_MODES:
            mode = mode[:4]
            pixels, scaling = _paint_grey(image, raw_mode, inverted)
        elif raw_mode[:-1] in _WIDE_COLOUR:
            mode = f"{mode};16"
            pixels, scaling = _paint_wide_colour(stream, image, raw_mode)
        elif mode in _COLOUR_MODES:
            wide = ";16" in raw_mode  # grey with alpha, CMYK: Pillow keeps the high byte
            mode = f"{mode};16" if wide else mode
            scaling = "high byte of 16 bits" if wide else "none"
            pixels = np.asarray(_drop_equal_colours(_put_on_black(image)))
        else:
            raise UnreadableImage(f"Its colour mode {mode} is not supported.")
        # After loading: Pillow then has turned a TIFF itself, and knows all chunks of a PNG.
        turn = _TURNS.get(_read_orientation(image))
    if turn is not None:
        pixels = np.asarray(Image.fromarray(pixels).transpose(turn))
    return DecodedImage(
        pixels=as_rgb(pixels) if pixels.ndim == 2 else pixels,
        width=pixels.shape[1],
        height=pixels.shape[0],
        mode=mode,
        format="JPEG" if image.format == "MPO" else str(image.format),
        patient="",
        scaling=scaling,
        frames=frames,
    )


def _read_orientation(image: ImageFile) -> int:
    """Return EXIF's orientation, 1 to 8; 1 where it is not given or its block is damaged."""
    try:
        # Not the PNG reader's own `getexif`, which would decode the pixels to look for more.
        value = Image.Image.getexif(image).get(ExifTags.Base.Orientation)
    except (SyntaxError, ValueError, KeyError, TypeError, IndexError, OSError, struct.error):
        return 1  # the pixels are no worse for it
    return value if isinstance(value, int) and 1 <= value <= 8 else 1


def _read_raw_mode(image: ImageFile) -> str:
    """Return Pillow's name of the stored layout, such as "RGB;16B"; "" where it has none."""
    if not image.tile:
        return ""
    arguments = image.tile[0].args
    raw_mode = arguments[0] if isinstance(arguments, tuple) and arguments else arguments
    raw_mode = raw_mode if isinstance(raw_mode, str) else ""
    if isinstance(image, TiffImageFile):
        bits = max(image.tag_v2.get(BITSPERSAMPLE, (1,)))
        if bits == 16 and image.mode not in _GREY_MODES and ";16" not in raw_mode:
            # Pillow would take every byte of it for a pixel.
            raise UnreadableImage("Its 16-bit colours stand in separate planes: not supported.")
    return raw_mode


def _is_white_zero(image: TiffImageFile) -> bool:
    """Whether a grey TIFF counts from white. Pillow inverts those of up to 8 bits only."""
    return image.mode in _GREY_MODES and image.tag_v2.get(PHOTOMETRIC_INTERPRETATION) == 0


def _paint_grey(image: ImageFile, raw_mode: str, inverted: bool) -> tuple[NDArray[np.uint8], str]:
    """Scale grey of 16 or 32 bits, or float, by the image's own range; return one channel."""
    stored: NDArray[Any] = np.asarray(image)
    if raw_mode == "I;32N":
        stored = stored.view(np.uint32)  # unsigned, where Pillow's mode I is signed
    transparent = image.info.get("transparency")
    scaling = ""

    def paint(values: NDArray[Any]) -> NDArray[np.uint8]:
        nonlocal scaling
        used = np.ones(values.shape, bool)
        if isinstance(transparent, int):
            used = np.not_equal(values, transparent)
        grey, lowest, highest = stretch(values, used)
        scaling = f"minimum {lowest:.10g} to maximum {highest:.10g}"
        if inverted:
            grey = 255 - grey
        grey[~used] = 0
        return grey

    return paint_by_value(stored, paint), scaling


def _paint_wide_colour(
    stream: BinaryIO, image: ImageFile, raw_mode: str
) -> tuple[NDArray[np.uint8], str]:
    """Scale colour of 16 bits by its own range, the same for the three colours.

    Pillow keeps the high byte of every sample: a picture of 12 bits would be all but black. So it
    decodes the file once more, as if the bytes stood the other way round, for the low bytes.
    """
    native = "L" if sys.byteorder == "little" else "B"
    order = native if raw_mode[-1] == "N" else raw_mode[-1]
    other = raw_mode[:-1] + ("B" if order == "L" else "L")
    with Image.open(stream, formats=_FORMATS) as again:
        again.tile = [
            tile._replace(args=(other, *tile.args[1:]) if isinstance(tile.args, tuple) else other)
            for tile in again.tile
        ]
        low = np.asarray(again)
    values = np.asarray(image).astype(np.uint16) << 8 | low
    colour, alpha = values[:, :, :3], values[:, :, 3:]
    visible = np.broadcast_to(alpha > 0, colour.shape) if alpha.size else None
    pixels, lowest, highest = stretch(colour, visible)
    if alpha.size:
        pixels = np.rint(pixels * (alpha / 65535)).astype(np.uint8)
    return pixels, f"minimum {lowest:.10g} to maximum {highest:.10g}"


def _put_on_black(image: Image.Image) -> Image.Image:
    """Return the image as L, if its mode is grey, or RGB.

    What is transparent becomes black, by as much as it is so.
    """
    if image.mode in ("La", "RGBa"):
        image = image.convert(image.mode.upper())
    plain = "L" if image.mode in ("1", "L", "LA") else "RGB"
    if not image.has_transparency_data:
        return image if image.mode == plain else image.convert(plain)
    with_alpha = f"{plain}A"
    layered = image if image.mode == with_alpha else image.convert(with_alpha)
    colours, alpha = layered.convert(plain), layered.getchannel("A")
    if alpha.getextrema() == (255, 255):
        return colours
    black = Image.new(plain, layered.size)
    black.paste(colours, mask=alpha)
    return black


def _drop_equal_colours(image: Image.Image) -> Image.Image:
    """Return an RGB image whose three colours are the same everywhere as L, others as they are.

    Many grey images are stored in colour; nothing after this need carry three copies of them.
    """
    middle = image.height // 2
    row = image.crop((0, middle, image.width, middle + 1))  # nearly every colour image shows here
    is_grey = image.mode == "RGB" and _has_equal_colours(row) and _has_equal_colours(image)
    return image.getchannel(0) if is_grey else image


def _has_equal_colours(image: Image.Image) -> bool:
    red, green, blue = image.split()
    differences = (ImageChops.difference(red, green), ImageChops.difference(green, blue))
    return not any(difference.getbbox() for difference in differences)
