"""The child process that decodes the frames that dicom_frames.py sends it; a script of its own."""

from __future__ import annotations

import json
import os
import signal
import struct
import sys
from typing import IO, Any


def send(stream: IO[bytes], head: dict[str, Any], body: bytes = b"") -> None:
    """Write one message: two lengths, a JSON head, and bytes."""
    encoded = json.dumps(head).encode()
    stream.write(struct.pack(">LQ", len(encoded), len(body)) + encoded)
    stream.write(body)
    stream.flush()


def receive(stream: IO[bytes]) -> tuple[dict[str, Any], bytes]:
    """Read one message.

    Raises:
        EOFError: If the other side has ended.
    """
    lengths = _read(stream, 12)
    head_length, body_length = struct.unpack(">LQ", lengths)
    return json.loads(_read(stream, head_length)), _read(stream, body_length)


def _read(stream: IO[bytes], length: int) -> bytes:
    content = stream.read(length)
    if len(content) < length:
        raise EOFError
    return content


def _decode(head: dict[str, Any], frame: bytes) -> tuple[dict[str, Any], bytes]:
    from pydicom.encaps import encapsulate
    from pydicom.pixels.decoders.base import get_decoder

    if not head:  # whether the process has started
        return {"started": True}, b""
    pixels, properties = get_decoder(head["syntax"]).as_array(
        encapsulate([frame]), index=0, decoding_plugin=head["plugin"], **head["options"]
    )
    answer = {
        "dtype": pixels.dtype.str,
        "shape": pixels.shape,
        "photometric": str(properties["photometric_interpretation"]),
    }
    return answer, pixels.tobytes()


def _serve() -> None:
    # Ctrl-C is the parent's; this process ends when its input does.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    # Decoders written in C may print: keep the way back to the parent to ourselves.
    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)
    while True:
        try:
            head, frame = receive(sys.stdin.buffer)
        except EOFError:
            return
        try:
            answer, pixels = _decode(head, frame)
        except Exception as error:  # whatever a decoder raises, the next frame may be sound
            answer, pixels = {"error": type(error).__name__}, b""
        send(answers, answer, pixels)


if __name__ == "__main__":
    _serve()
