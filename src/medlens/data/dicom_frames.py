"""One compressed DICOM frame -> stored values, and its colour space; safe with damaged frames."""

from __future__ import annotations

import atexit
import io
import os
import queue
import struct
import subprocess
import sys
import threading
from contextlib import suppress
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from PIL.JpegImagePlugin import JpegImageFile
from pydicom.encaps import encapsulate
from pydicom.pixels.decoders.base import get_decoder
from pydicom.uid import (
    HTJ2K,
    JPEG2000,
    UID,
    HTJ2KLossless,
    HTJ2KLosslessRPCL,
    JPEG2000Lossless,
    JPEGBaseline8Bit,
    JPEGExtended12Bit,
    JPEGLossless,
    JPEGLosslessSV1,
    JPEGLSLossless,
    JPEGLSNearLossless,
    RLELossless,
)

from medlens.data import dicom_worker
from medlens.data.decoded import UnreadableImage

# pydicom's name of the one decoder for each compression, so that the values do not depend on what
# else is installed.
_PLUGINS = {
    JPEGBaseline8Bit: "pillow",
    JPEGExtended12Bit: "pillow",
    JPEGLossless: "gdcm",
    JPEGLosslessSV1: "gdcm",
    JPEGLSLossless: "pyjpegls",
    JPEGLSNearLossless: "pyjpegls",
    JPEG2000Lossless: "pylibjpeg",
    JPEG2000: "pylibjpeg",
    HTJ2KLossless: "pylibjpeg",
    HTJ2KLosslessRPCL: "pylibjpeg",
    HTJ2K: "pylibjpeg",
    RLELossless: "pydicom",
}
# Why a frame is refused over which its decoder was ended.
TOO_LONG = "Its compressed frame is damaged: it holds the decoder."
# Far more than a sound frame takes on a slow and busy computer.
_SECONDS_AT_LEAST = 6.0
_SECONDS_PER_PIXEL = 2e-6
# The start of a decoder's process does not depend on the frame.
_SECONDS_TO_START = 60.0


def has_decoder(syntax: UID) -> bool:
    """Whether frames of a transfer syntax, compressed or not, can be decoded here."""
    try:
        decoder = get_decoder(syntax)
    except NotImplementedError:
        return False
    return decoder.is_native or _PLUGINS.get(syntax) in decoder.available_plugins


def decode_compressed(
    frame: bytes, syntax: UID, options: dict[str, Any], *, seconds: float | None = None
) -> tuple[NDArray[Any], str]:
    """Decode one frame.

    Args:
        frame: Its compressed bytes.
        syntax: The transfer syntax, one that `has_decoder`.
        options: The header's values, by the names of pydicom's decoding options.
        seconds: After how long decoding is given up, where a decoder can hang; by default, by the
            size of the frame.

    Returns:
        Stored values, of shape (rows, columns) or (rows, columns, 3), and their colour space.

    Raises:
        UnreadableImage: If the frame is damaged, or does not fit the header. Some damaged frames
            raise what a decoder happens to raise.
    """
    if syntax == JPEGExtended12Bit and options["bits_stored"] > 8:
        raise UnreadableImage("JPEG Extended of more than 8 bits is not supported.")
    shape = options["rows"], options["columns"], options["samples_per_pixel"]
    if syntax != RLELossless and _read_shape(frame) != shape:
        raise UnreadableImage("Its compressed frame is not of the size that its header says.")
    plugin = _PLUGINS[syntax]
    if plugin == "pillow":
        return _decode_jpeg(frame, options["photometric_interpretation"])
    if plugin == "pydicom":
        pixels, properties = get_decoder(syntax).as_array(
            encapsulate([frame]), index=0, decoding_plugin=plugin, **options
        )
        return pixels, str(properties["photometric_interpretation"])
    if seconds is None:
        seconds = _SECONDS_AT_LEAST + _SECONDS_PER_PIXEL * options["rows"] * options["columns"]
    return _decode_apart(frame, {"syntax": syntax, "plugin": plugin, "options": options}, seconds)


def check_fragments(stream: BinaryIO, start: int) -> None:
    """Walk over the fragments of compressed pixel data, whose end some decoders do not miss.

    Raises:
        UnreadableImage: If one is cut short, or is no fragment.
    """
    end = stream.seek(0, io.SEEK_END)
    position = start
    while position != end:
        stream.seek(position)
        item = stream.read(8)
        if len(item) < 8:
            raise UnreadableImage("Its compressed pixel data is cut short.")
        tag, length = item[:4], struct.unpack("<L", item[4:])[0]
        if tag == b"\xfe\xff\xdd\xe0":
            return
        position += 8 + length
        if tag != b"\xfe\xff\x00\xe0" or position > end:
            raise UnreadableImage("Its compressed pixel data is damaged or cut short.")


def _read_shape(frame: bytes) -> tuple[int, int, int] | None:
    """Read (rows, columns, samples) from the head of a JPEG, JPEG-LS or JPEG 2000 frame."""
    if not frame.startswith(b"\xff\xd8"):
        # The size marker of JPEG 2000 directly follows the start of the codestream, which a
        # wrongly kept JP2 header may precede.
        size = frame.find(b"\xff\x4f\xff\x51", 0, 4096)
        if size < 0 or len(frame) < size + 42:
            return None
        right, bottom, left, top = struct.unpack(">4L", frame[size + 8 : size + 24])
        (samples,) = struct.unpack(">H", frame[size + 40 : size + 42])
        return bottom - top, right - left, samples
    position = 2
    while position + 10 <= len(frame) and frame[position] == 0xFF:
        marker = frame[position + 1]
        # The frame headers SOF0 to SOF15 (but for DHT, JPG and DAC among them) and JPEG-LS's.
        if marker == 0xF7 or (0xC0 <= marker <= 0xCF and marker not in (0xC4, 0xC8, 0xCC)):
            rows, columns, samples = struct.unpack(">HHB", frame[position + 5 : position + 10])
            return rows, columns, samples
        length = struct.unpack(">H", frame[position + 2 : position + 4])[0]
        position += 1 if marker == 0xFF else 2 + length
    return None


def _decode_jpeg(frame: bytes, photometric: str) -> tuple[NDArray[Any], str]:
    """Decode a JPEG frame of 8 bits.

    Not through pydicom, which takes the colours for YBR even where the Adobe marker made Pillow
    turn them into RGB. The frame's markers and the names of its components decide; the header
    only where there are none.
    """
    with Image.open(io.BytesIO(frame), formats=("JPEG",)) as image:
        if image.mode == "L":
            return np.array(image), photometric
        named = (
            isinstance(image, JpegImageFile) and bytes(part[0] for part in image.layer) == b"RGB"
        )
        marked = bool({"jfif", "adobe_transform"} & image.info.keys())
        if photometric == "RGB" and not named and not marked:
            image.draft("YCbCr", image.size)  # no conversion: the three components are R, G and B
            return np.array(image), "RGB"
        return np.array(image.convert("RGB")), "RGB"


# The decoders below are written in C, and damaged frames can end the process they run in (GDCM:
# a stray byte before a marker) or hold it for ever (CharLS). So they run in child processes, which
# serve one frame at a time and wait here in between; each with the process that started it, since
# a fork must not share them.
_IDLE: queue.SimpleQueue[tuple[int, subprocess.Popen[bytes]]] = queue.SimpleQueue()


def _decode_apart(
    frame: bytes, request: dict[str, Any], seconds: float
) -> tuple[NDArray[Any], str]:
    worker = _take_worker()
    head, body = _ask(worker, request, frame, seconds)
    _IDLE.put((os.getpid(), worker))
    if "error" in head:
        raise UnreadableImage("Its compressed frame is damaged.")
    pixels = np.frombuffer(body, np.dtype(head["dtype"])).reshape(head["shape"])
    return pixels, head["photometric"]


def _ask(
    worker: subprocess.Popen[bytes], request: dict[str, Any], body: bytes, seconds: float
) -> tuple[dict[str, Any], bytes]:
    """Send a message and wait for the answer; the process is ended if none comes."""
    is_over = threading.Event()

    def end() -> None:
        is_over.set()
        worker.kill()

    alarm = threading.Timer(seconds, end)
    alarm.start()
    try:
        if worker.stdin is None or worker.stdout is None:
            raise OSError
        dicom_worker.send(worker.stdin, request, body)
        return dicom_worker.receive(worker.stdout)
    except BaseException as error:
        _stop(worker)
        if isinstance(error, (OSError, EOFError)):
            broke = "Its compressed frame is damaged: it broke the decoder."
            raise UnreadableImage(TOO_LONG if is_over.is_set() else broke) from None
        raise
    finally:
        alarm.cancel()


def _take_worker() -> subprocess.Popen[bytes]:
    """Return a child process that is idle, or a new one that has started."""
    with suppress(queue.Empty):
        while True:
            owner, worker = _IDLE.get_nowait()
            if owner == os.getpid():
                if worker.poll() is None:
                    return worker
                _stop(worker)
    # By its path, and -P, so that it imports neither medlens nor this folder's other files.
    command = [sys.executable, "-P", str(Path(dicom_worker.__file__))]
    pipe = subprocess.PIPE
    worker = subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=subprocess.DEVNULL)
    _ask(worker, {}, b"", _SECONDS_TO_START)
    return worker


def _stop(worker: subprocess.Popen[bytes]) -> None:
    worker.kill()
    worker.wait()
    for stream in (worker.stdin, worker.stdout):
        if stream is not None:
            with suppress(OSError):  # what is not sent yet cannot be: the process is gone
                stream.close()


@atexit.register
def _stop_idle_workers() -> None:
    with suppress(queue.Empty):
        while True:
            owner, worker = _IDLE.get_nowait()
            if owner == os.getpid():
                _stop(worker)
