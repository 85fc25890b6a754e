"""The process that makes pixels of what clients send; run by decoders.py with `python -m`.

It holds no network and no secret, so that a file that breaks or holds it breaks nothing else.
"""

from __future__ import annotations

import io
import os
import signal
import sys
from dataclasses import asdict
from typing import Any

from PIL import Image

from medlens.data.dicom_worker import receive, send
from medlens.data.images import UnreadableImage, decode_image, fit_to_square, to_pillow

# Of a picture that is only looked at.
LONGEST_SIDE = 1024


def answer(head: dict[str, Any], data: bytes) -> tuple[dict[str, Any], bytes]:
    """Answer one question about a file.

    Args:
        head: `do` is "fit", for what the network sees, or "look", for a PNG to look at; `frame` and
            `pixels` as `decode_image` takes them; `size` and `fit` of the picture; `window` to look
            at it in, or None.
        data: The whole file.

    Returns:
        Facts and bytes; or the reason why it is unreadable.
    """
    try:
        asked = head.get("window")
        decoded = decode_image(data, frame=head["frame"], max_pixels=head["pixels"], asked=asked)
        if head["do"] == "look":
            return {}, _as_png(to_pillow(decoded.pixels))
        picture = fit_to_square(decoded.pixels, size=head["size"], fit=head["fit"])
    except UnreadableImage as error:
        return {"unreadable": error.reason}, b""
    window = decoded.window
    return {"window": None if window is None else asdict(window)}, picture.tobytes()


def _as_png(image: Image.Image) -> bytes:
    image.thumbnail((LONGEST_SIDE, LONGEST_SIDE), Image.Resampling.BILINEAR)
    stream = io.BytesIO()
    image.save(stream, "PNG", compress_level=1)
    return stream.getvalue()


def main() -> None:
    """Answer questions until the input ends."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    # Libraries written in C may print: keep the way back to ourselves.
    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)
    send(answers, {"ready": True})
    while True:
        try:
            head, data = receive(sys.stdin.buffer)
        except EOFError:
            return
        send(answers, *answer(head, data))


if __name__ == "__main__":
    main()
