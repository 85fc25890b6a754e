"""The process that makes pixels of what clients send; run by decoders.py with `python -m`.

It holds no network and no secret, and where the system has limits (Linux) it takes no more memory
than it is given, so that a file that breaks or holds it breaks nothing else.
"""

from __future__ import annotations

import os
import signal
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any

import psutil
from PIL import Image

from medlens.data.dicom_worker import receive, send
from medlens.data.images import (
    UnreadableImage,
    decode_image,
    fit_to_square,
    read_image,
    to_pillow,
)
from medlens.serve.png import as_png

# Of a picture that is only looked at.
LONGEST_SIDE = 1024
NO_MEMORY = "It needs more memory to decode than this server gives to one file."


# An argument of the command, after the memory; without it no question opens any file.
OPENS_FILES = "opens-files"


def answer(
    head: dict[str, Any], data: bytes, *, opens_files: bool = False
) -> tuple[dict[str, Any], bytes]:
    """Answer one question about a file.

    Args:
        head: `do` is "fit", for what the network sees, or "look", for a PNG to look at; `frame` and
            `pixels` as `decode_image` takes them; `size` and `fit` of the picture; `window` to look
            at it in, or None.
        data: The whole file.
        opens_files: Whether `data` is the path of a file of this machine where `head` says
            `is_path`. Never where clients of a server ask: whoever starts the process decides.

    Returns:
        Facts and bytes; or the reason why it is unreadable.
    """
    try:
        frame, pixels = head["frame"], head["pixels"]
        if opens_files and head.get("is_path"):
            decoded = read_image(Path(os.fsdecode(data)), frame=frame, max_pixels=pixels)
        else:
            asked = head.get("window")
            decoded = decode_image(data, frame=frame, max_pixels=pixels, asked=asked)
        if head["do"] == "look":
            image = to_pillow(decoded.pixels)
            image.thumbnail((LONGEST_SIDE, LONGEST_SIDE), Image.Resampling.BILINEAR)
            return {}, as_png(image)
        picture = fit_to_square(decoded.pixels, size=head["size"], fit=head["fit"])
    except UnreadableImage as error:
        no_memory = isinstance(error.__cause__, MemoryError)
        return {"unreadable": NO_MEMORY if no_memory else error.reason}, b""
    window = decoded.window
    return {"window": None if window is None else asdict(window)}, picture.tobytes()


def _bound_memory(more: int) -> None:
    """Let this process and its children take so many bytes each beyond what this one has now."""
    if sys.platform == "linux":
        import resource

        most = psutil.Process().memory_info().vms + more
        resource.setrlimit(resource.RLIMIT_AS, (most, most))


def main() -> None:
    """Answer questions until the input ends.

    The command names the bytes of memory for one, and whether paths are taken.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    # Libraries written in C may print: keep the way back to ourselves.
    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)
    _bound_memory(int(sys.argv[1]))
    opens_files = sys.argv[2:] == [OPENS_FILES]
    send(answers, {"ready": True})
    while True:
        try:
            head, data = receive(sys.stdin.buffer)
        except EOFError:
            return
        send(answers, *answer(head, data, opens_files=opens_files))


if __name__ == "__main__":
    main()
