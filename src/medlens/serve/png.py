"""A picture -> a PNG file, in memory."""

from __future__ import annotations

import io

from PIL import Image

# Of zlib: pictures are sent once, so time counts more than a few bytes.
COMPRESSION = 1


def as_png(image: Image.Image) -> bytes:
    """The file."""
    stream = io.BytesIO()
    image.save(stream, "PNG", compress_level=COMPRESSION)
    return stream.getvalue()
