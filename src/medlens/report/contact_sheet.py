"""Pictures by class -> one sheet of what the network really sees, without file names."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.font_manager import fontManager
from matplotlib.ft2font import FT2Font
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from medlens.report.figure_style import FURTHER_FONTS, INK, PAPER, short_names

MOST_PER_CLASS = 16
GAP = 4
FONT_SIZE = 16
TITLE_HEIGHT = 28


def choose_pictures(
    labels: Sequence[str], *, seed: int, most: int = MOST_PER_CLASS
) -> dict[str, NDArray[np.intp]]:
    """Draw which pictures stand on the sheet, so that only those need be read.

    Args:
        labels: The class of each image.
        seed: Of the draw.
        most: The most pictures of a class.

    Returns:
        For each class, in sorted order, the ascending row numbers of its pictures.
    """
    values = np.asarray(labels, dtype=str)
    chosen = {}
    for number, name in enumerate(np.unique(values)):
        rows = np.flatnonzero(values == name)
        generator = np.random.default_rng([seed, number])
        chosen[str(name)] = np.sort(generator.permutation(rows)[:most])
    return chosen


def contact_sheet(
    pictures: Mapping[str, NDArray[np.uint8]],
    *,
    columns: int = 8,
    counts: Mapping[str, int] | None = None,
) -> NDArray[np.uint8]:
    """Draw the pictures of each class, pixel for pixel, below the class's name.

    Args:
        pictures: RGB pictures of each class, 0 to 255, of shape (n, size, size, 3), all of one
            size; the classes are drawn in this order.
        columns: Pictures in a row.
        counts: How many images each class has in all, to be told in the titles.

    Returns:
        RGB, 0 to 255, of shape (height, width, 3).

    Raises:
        ValueError: If there is no class, no column, or more than one size.
    """
    sizes = {shown.shape[1:] for shown in pictures.values()}
    if len(sizes) != 1 or columns < 1:
        raise ValueError(f"a contact sheet of {len(sizes)} sizes and {columns} columns")
    step = sizes.pop()[0] + GAP
    rows = [-(-len(shown) // columns) for shown in pictures.values()]
    width = columns * step + GAP
    height = sum(TITLE_HEIGHT + count * step for count in rows) + GAP
    sheet = Image.new("RGB", (width, height), PAPER)
    pen = ImageDraw.Draw(sheet)
    titles = _titles(pictures, counts)
    top = GAP
    for title, shown, count in zip(titles, pictures.values(), rows, strict=True):
        font = _font(title)
        middle = top + (TITLE_HEIGHT - GAP) // 2
        pen.text((GAP, middle), _shorten(title, font, width - 2 * GAP), INK, font, anchor="lm")
        top += TITLE_HEIGHT
        for number, picture in enumerate(shown):
            row, column = divmod(number, columns)
            sheet.paste(Image.fromarray(picture), (GAP + column * step, top + row * step))
        top += count * step
    return np.array(sheet)


def png_bytes(pixels: NDArray[np.uint8]) -> bytes:
    """RGB pixels, of shape (height, width, 3), as a PNG file without any metadata."""
    stream = io.BytesIO()
    # The strongest compression takes ten times as long and saves a tenth of the bytes.
    Image.fromarray(pixels).save(stream, format="PNG", compress_level=3)
    return stream.getvalue()


def _titles(
    pictures: Mapping[str, NDArray[np.uint8]], counts: Mapping[str, int] | None
) -> list[str]:
    titles = []
    for (name, shown), short in zip(pictures.items(), short_names(list(pictures)), strict=True):
        total = len(shown) if counts is None else counts[name]
        of = f"{len(shown)} of {total:,}" if total > len(shown) else f"{total:,}"
        titles.append(f"{short}: {of} {'image' if total == 1 else 'images'}")
    return titles


def _font(text: str) -> ImageFont.FreeTypeFont:
    """Matplotlib's own font, or the first one installed that has all of the letters."""
    installed = set(fontManager.get_font_names())
    names = ["DejaVu Sans", *(name for name in FURTHER_FONTS if name in installed)]
    paths = [fontManager.findfont(name) for name in names]
    for path in paths:
        known = FT2Font(path)
        if all(known.get_char_index(ord(sign)) for sign in text):
            return ImageFont.truetype(path, FONT_SIZE)
    return ImageFont.truetype(paths[0], FONT_SIZE)


def _shorten(title: str, font: ImageFont.FreeTypeFont, width: int) -> str:
    """The beginning of a title that is as wide as the sheet, where the whole is wider."""
    kept = title
    while len(kept) > 1 and font.getlength(kept) > width:
        kept = kept.rstrip("\N{HORIZONTAL ELLIPSIS}")[:-1] + "\N{HORIZONTAL ELLIPSIS}"
    return kept
