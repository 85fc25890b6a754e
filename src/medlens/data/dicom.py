"""A DICOM file -> one frame of it, as RGB pixels."""

from __future__ import annotations

import io
import math
import struct
import zlib
from dataclasses import dataclass
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray
from pydicom import dcmread
from pydicom.dataset import Dataset
from pydicom.encaps import get_frame
from pydicom.filereader import read_dataset
from pydicom.pixels.decoders.base import get_decoder
from pydicom.tag import Tag
from pydicom.uid import (
    UID,
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
)

from medlens.data.decoded import (
    DecodedImage,
    UnreadableImage,
    Window,
    check_pixel_count,
)
from medlens.data.dicom_display import AskedWindow, paint_colour, paint_grey, paint_palette
from medlens.data.dicom_frames import check_fragments, decode_compressed, has_decoder

# Everything that decides how a frame looks, and the patient; nothing else is kept in memory.
_TAGS = [
    Tag(keyword)
    for keyword in (
        "PatientID",
        "SamplesPerPixel",
        "PhotometricInterpretation",
        "PlanarConfiguration",
        "NumberOfFrames",
        "Rows",
        "Columns",
        "BitsAllocated",
        "BitsStored",
        "PixelRepresentation",
        "PixelPaddingValue",
        "PixelPaddingRangeLimit",
        "ModalityLUTSequence",
        "RescaleSlope",
        "RescaleIntercept",
        "VOILUTSequence",
        "VOILUTFunction",
        "WindowCenter",
        "WindowWidth",
        "SharedFunctionalGroupsSequence",
        "PerFrameFunctionalGroupsSequence",
        "ExtendedOffsetTable",
        "ExtendedOffsetTableLengths",
        *(f"{colour}PaletteColorLookupTableDescriptor" for colour in ("Red", "Green", "Blue")),
        *(f"{colour}PaletteColorLookupTableData" for colour in ("Red", "Green", "Blue")),
        *(f"Segmented{colour}PaletteColorLookupTableData" for colour in ("Red", "Green", "Blue")),
    )
]
_PIXEL_KEYWORDS = {
    0x7FE00008: "FloatPixelData",
    0x7FE00009: "DoubleFloatPixelData",
    0x7FE00010: "PixelData",
}
_UNDEFINED_LENGTH = 0xFFFFFFFF
# The largest data set that a deflated file may unfold to.
_MAX_INFLATED_BYTES = 1 << 28


@dataclass(frozen=True)
class _Frames:
    """The frames of a file: how they are stored, and where. Lengths in bytes, sizes in pixels."""

    dataset: Dataset
    stream: BinaryIO
    syntax: UID
    keyword: str
    representation: str  # the VR of the pixel data
    start: int
    length: int
    rows: int
    columns: int
    samples: int
    count: int
    bits_allocated: int
    bits_stored: int
    signed: bool
    photometric: str


def looks_like_dicom(head: bytes) -> bool:
    """Whether a file is DICOM, from its first 132 bytes.

    Without the DICOM prefix a file counts only if it begins with an element of the groups 0002
    or 0008, as every data set does, with a known kind of value or a short length: two bytes below
    32 that no text begins with.
    """
    if head[128:132] == b"DICM":
        return True
    if len(head) < 16:
        return False
    if head[:2] in (b"\x02\x00", b"\x08\x00"):
        return head[4:6] in _FIRST_KINDS or head[6:8] == b"\x00\x00"
    return head[:2] == b"\x00\x08" and head[4:6] in _FIRST_KINDS


# The value representations of the elements that a data set can begin with.
_FIRST_KINDS = (b"UL", b"OB", b"UI", b"CS", b"DA", b"TM", b"DT", b"SQ", b"LO", b"SH", b"ST")


def read_dicom_size(stream: BinaryIO) -> tuple[int, int]:
    """Read (width, height), in pixels, without touching the pixel data."""
    _, dataset = _read_data_set(stream)
    _require_pixels(dataset)
    return _integer(dataset, "Columns"), _integer(dataset, "Rows")


def decode_dicom(
    stream: BinaryIO, *, frame: int | None, max_pixels: int, asked: AskedWindow | None = None
) -> DecodedImage:
    """Decode one frame; the others are neither decoded nor, where it can be helped, read.

    Args:
        stream: The file, at any position.
        frame: Counted from 0; the middle one by default.
        max_pixels: The largest rows x columns that is decoded.
        asked: (center, width) to show grey images in, in place of the file's own window.

    Raises:
        UnreadableImage: If there is no such frame, or it cannot be shown. Damaged files raise
            what pydicom and its decoders happen to raise.
    """
    frames = _find_frames(stream)
    check_pixel_count(frames.columns, frames.rows, max_pixels)
    index = frames.count // 2 if frame is None else frame
    if not 0 <= index < frames.count:
        raise UnreadableImage(
            f"Frame {index} was asked for, but its frames are 0 to {frames.count - 1}."
        )
    stored, photometric = _decode_frame(frames, index)
    window: Window | None = None
    if frames.photometric in ("MONOCHROME1", "MONOCHROME2") and frames.samples == 1:
        pixels, scaling, window = paint_grey(
            stored,
            frames.dataset,
            index=index,
            photometric=frames.photometric,
            little_endian=frames.syntax.is_little_endian,
            asked=asked,
        )
    elif frames.photometric == "PALETTE COLOR" and frames.samples == 1:
        pixels, scaling = paint_palette(stored, frames.dataset), "palette"
    elif photometric == "RGB" and frames.samples == 3:
        pixels, scaling = paint_colour(stored, frames.bits_stored)
    else:
        raise UnreadableImage("Its DICOM colour space is not supported.")
    kind = "bit" if frames.keyword == "PixelData" else "bit float"
    return DecodedImage(
        pixels=np.require(pixels, np.uint8, ["C", "W"]),
        width=frames.columns,
        height=frames.rows,
        mode=f"{frames.photometric} {frames.bits_stored}-{kind}",
        format="DICOM",
        patient=str(frames.dataset.get("PatientID") or "").strip(),
        scaling=scaling,
        frames=frames.count,
        window=window,
    )


def _read_data_set(stream: BinaryIO) -> tuple[BinaryIO, Dataset]:
    """Read what stands before the pixel data; the stream that is returned stands at its tag."""
    stream.seek(128)
    stream.seek(132 if stream.read(4) == b"DICM" else 0)
    meta = read_dataset(stream, False, True, stop_when=lambda tag, *_: tag >> 16 != 2)
    if meta.get("TransferSyntaxUID") == DeflatedExplicitVRLittleEndian:
        # pydicom would inflate it all, however large, and hand back no stream to read on from.
        inflater = zlib.decompressobj(-zlib.MAX_WBITS)
        inflated = inflater.decompress(stream.read(), _MAX_INFLATED_BYTES)
        if inflater.unconsumed_tail:
            raise UnreadableImage("Its deflated data set is too large.")
        if not inflater.eof:
            raise UnreadableImage("Its deflated data set is cut short.")
        stream = io.BytesIO(inflated)
    stream.seek(0)
    return stream, dcmread(stream, stop_before_pixels=True, force=True, specific_tags=_TAGS)


def _require_pixels(dataset: Dataset) -> None:
    if "Rows" not in dataset or "Columns" not in dataset:
        raise UnreadableImage("The DICOM object has no pixel data.")


def _find_frames(stream: BinaryIO) -> _Frames:
    stream, dataset = _read_data_set(stream)
    syntax = _transfer_syntax(dataset)
    keyword, representation, length = _read_pixel_tag(stream, syntax)
    _require_pixels(dataset)
    bits_allocated = _integer(dataset, "BitsAllocated")
    if bits_allocated not in (1, 8, 16, 32, 64):
        raise UnreadableImage(f"Its {bits_allocated} bits per sample are not supported.")
    count = _integer(dataset, "NumberOfFrames", default=1) or 1  # 0 is a common slip for 1
    if count < 0:
        raise UnreadableImage("Its number of frames is negative.")
    return _Frames(
        dataset=dataset,
        stream=stream,
        syntax=syntax,
        keyword=keyword,
        representation=representation,
        start=stream.tell(),
        length=length,
        rows=_integer(dataset, "Rows"),
        columns=_integer(dataset, "Columns"),
        samples=_integer(dataset, "SamplesPerPixel", default=1),
        count=count,
        bits_allocated=bits_allocated,
        bits_stored=_integer(dataset, "BitsStored", default=bits_allocated),
        signed=_integer(dataset, "PixelRepresentation", default=0) == 1,
        photometric=str(dataset.get("PhotometricInterpretation") or "").strip().upper(),
    )


def _transfer_syntax(dataset: Dataset) -> UID:
    """Return the stated transfer syntax, or else the one that the data set was found to have."""
    stated = dataset.file_meta.get("TransferSyntaxUID")
    if stated:
        syntax = UID(stated)
        if not has_decoder(syntax):
            # An unknown UID is its own name, and may be anything.
            name = "" if syntax.name == stated else f" ({syntax.name})"
            raise UnreadableImage(f"Its transfer syntax{name} cannot be decoded.")
        return syntax
    implicit, little_endian = dataset.original_encoding
    if implicit:
        return ImplicitVRLittleEndian
    return ExplicitVRLittleEndian if little_endian else ExplicitVRBigEndian


def _read_pixel_tag(stream: BinaryIO, syntax: UID) -> tuple[str, str, int]:
    """Read the pixel data's tag, VR and length; the stream then stands at its value."""
    order = "<" if syntax.is_little_endian else ">"
    head = stream.read(8)
    if len(head) < 8:
        raise UnreadableImage("The DICOM object has no pixel data.")
    group, element = struct.unpack(f"{order}HH", head[:4])
    # Some files are explicit where they say implicit, or the other way round. A VR cannot be
    # taken for a length: its first letter, O or U, is odd, and lengths are even.
    representation = head[4:6].decode("latin-1")
    explicit = representation in ("OB", "OW", "OF", "OD", "UN")
    (length,) = struct.unpack(f"{order}L", stream.read(4) if explicit else head[4:])
    return _PIXEL_KEYWORDS[group << 16 | element], representation if explicit else "", length


def _decode_frame(frames: _Frames, index: int) -> tuple[NDArray[Any], str]:
    """Decode one frame; return it with its colour space, in which YBR has become RGB."""
    options: Any = {
        "rows": frames.rows,
        "columns": frames.columns,
        "samples_per_pixel": frames.samples,
        "number_of_frames": frames.count,
        "bits_allocated": frames.bits_allocated,
        "bits_stored": frames.bits_stored,
        "pixel_representation": int(frames.signed and frames.samples == 1),
        "photometric_interpretation": frames.photometric,
        "planar_configuration": _integer(frames.dataset, "PlanarConfiguration", default=0),
        "pixel_keyword": frames.keyword,
        "pixel_vr": frames.representation,
    }
    if frames.syntax.is_encapsulated:
        frame = _read_compressed(frames, index)
        return decode_compressed(frame, frames.syntax, {**options, "number_of_frames": 1})
    _check_length(frames)
    frames.stream.seek(frames.start)
    pixels, properties = get_decoder(frames.syntax).as_array(frames.stream, index=index, **options)
    return pixels, str(properties["photometric_interpretation"])


def _check_length(frames: _Frames) -> None:
    """Refuse uncompressed pixel data that is shorter than the header says."""
    bits = frames.rows * frames.columns * frames.samples * frames.bits_allocated
    if frames.photometric == "YBR_FULL_422":
        bits = bits // 3 * 2
    end = frames.stream.seek(0, io.SEEK_END)
    if min(frames.length, end - frames.start) < math.ceil(bits * frames.count / 8):
        raise UnreadableImage("Its pixel data is shorter than its header says.")


def _read_compressed(frames: _Frames, index: int) -> bytes:
    if frames.length != _UNDEFINED_LENGTH:
        raise UnreadableImage("Its pixel data is not compressed as its header says.")
    check_fragments(frames.stream, frames.start)
    frames.stream.seek(frames.start)
    offsets = frames.dataset.get("ExtendedOffsetTable")
    lengths = frames.dataset.get("ExtendedOffsetTableLengths")
    return get_frame(
        frames.stream,
        index,
        number_of_frames=frames.count,
        extended_offsets=(offsets, lengths) if offsets and lengths else None,
    )


def _integer(dataset: Dataset, keyword: str, default: int | None = None) -> int:
    value = dataset.get(keyword)
    if value is None and default is not None:
        return default
    if not isinstance(value, int):
        raise UnreadableImage(f"Its DICOM header has no usable {keyword}.")
    return int(value)
