"""DICOM -> RGB pixels: each rule by numbers worked out by hand, each compression, odd files."""

from __future__ import annotations

import io
import os
import struct
import subprocess
import sys
import tracemalloc
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pydicom.data
import pytest
from numpy.typing import NDArray
from PIL import Image
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.encaps import encapsulate, get_frame
from pydicom.pixels.processing import apply_modality_lut, apply_voi_lut
from pydicom.sequence import Sequence
from pydicom.uid import (
    MPEG2MPML,
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGBaseline8Bit,
    JPEGLosslessSV1,
    JPEGLSLossless,
    RLELossless,
)

from medlens.data import dicom
from medlens.data.decoded import DecodedImage, Window
from medlens.data.dicom_frames import decode_compressed
from medlens.data.images import UnreadableImage, decode_image, read_image, read_size

BUNDLED = Path(pydicom.data.__file__).parent / "test_files"


def make(stored: Any, dtype: str = "u2", syntax: str = ExplicitVRLittleEndian, **tags: Any) -> Any:
    """A DICOM object with these stored values, of shape (rows, columns[, 3])."""
    values = np.asarray(stored, dtype)
    dataset = Dataset()
    dataset.file_meta = FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = syntax
    dataset.file_meta.MediaStorageSOPClassUID = dataset.SOPClassUID = "1.2.840.10008.5.1.4.1.1.7"
    dataset.file_meta.MediaStorageSOPInstanceUID = dataset.SOPInstanceUID = "1.2.3"
    dataset.PatientID = "P-4711"
    dataset.Rows, dataset.Columns = values.shape[:2]
    dataset.SamplesPerPixel = 3 if values.ndim == 3 else 1
    dataset.PhotometricInterpretation = "RGB" if values.ndim == 3 else "MONOCHROME2"
    if values.ndim == 3:
        dataset.PlanarConfiguration = 0
    dataset.BitsAllocated = dataset.BitsStored = 8 * values.dtype.itemsize
    dataset.PixelRepresentation = int(values.dtype.kind == "i")
    content = values.tobytes()
    dataset.PixelData = content + bytes(len(content) % 2)
    dataset["PixelData"].VR = "OW" if values.dtype.itemsize > 1 else "OB"
    for keyword, value in tags.items():
        setattr(dataset, keyword, value)
    dataset.HighBit = dataset.BitsStored - 1
    return dataset


def written(dataset: Any, **options: Any) -> bytes:
    stream = io.BytesIO()
    dataset.save_as(stream, enforce_file_format=True, **options)
    return stream.getvalue()


def decode(stored: Any, dtype: str = "u2", **tags: Any) -> DecodedImage:
    return decode_image(written(make(stored, dtype, **tags)))


def row(decoded: DecodedImage) -> list[int]:
    """The first row of an image whose three colours must be the same."""
    assert (decoded.pixels == decoded.pixels[:, :, :1]).all()
    return decoded.pixels[0, :, 0].tolist()


def reason(data: bytes, **options: Any) -> str:
    with pytest.raises(UnreadableImage) as caught:
        decode_image(data, **options)
    assert "4711" not in caught.value.reason
    return caught.value.reason


def table(first: int, bits: int, entries: list[int], representation: str = "US") -> Sequence:
    item = Dataset()
    item.add_new("LUTDescriptor", representation, [len(entries) % 65536, first, bits])
    item.add_new("LUTData", "US", entries)
    return Sequence([item])


RESCALE: dict[str, Any] = {"RescaleSlope": 2, "RescaleIntercept": -10}
WINDOW: dict[str, Any] = {"WindowCenter": 20.5, "WindowWidth": 41}


def test_what_is_told_of_the_file() -> None:
    decoded = decode([[0, 1], [2, 3], [4, 4095]], BitsStored=12)
    assert (decoded.width, decoded.height, decoded.frames) == (2, 3, 1)
    assert (decoded.mode, decoded.format) == ("MONOCHROME2 12-bit", "DICOM")
    assert (decoded.patient, decoded.scaling) == ("P-4711", "range 0 to 4095")


def test_modality_comes_before_the_window_and_inversion_last() -> None:
    # 0 10 20 30 -> -10 10 30 50 by the rescale. The window runs from 0 to 40, so that 10 is at
    # 1/4 and 30 at 3/4 of 255. Windowed before the rescale, the four would be 0 64 128 191.
    decoded = decode([[0, 10, 20, 30]], **RESCALE, **WINDOW)
    assert row(decoded) == [0, 64, 191, 255]
    assert decoded.scaling == "window 20.5/41"
    # Inverted before the window, all four would lie above it.
    inverted = decode(
        [[0, 10, 20, 30]], PhotometricInterpretation="MONOCHROME1", **RESCALE, **WINDOW
    )
    assert row(inverted) == [255, 191, 64, 0]


def test_a_window_that_is_asked_for_takes_the_place_of_the_files_own() -> None:
    own = written(make([[0, 10, 20, 30]], **RESCALE, **WINDOW))
    assert decode_image(own).window == Window(20.5, 41, -10, 50)
    same = decode_image(own, asked=(20.5, 41))
    assert (same.pixels == decode_image(own).pixels).all()
    # From -10 to 50: 0, 1/3, 2/3 and 1 of 255.
    wider = decode_image(own, asked=(20.5, 61))
    assert (row(wider), wider.scaling) == ([0, 85, 170, 255], "window 20.5/61")
    # As narrow as can be, and far away.
    assert row(decode_image(own, asked=(10, 1e-300))) == [0, 0, 255, 255]
    assert row(decode_image(own, asked=(-1.23456789e-100, 0.5))) == [0, 255, 255, 255]
    assert row(decode_image(own, asked=(1e300, 1e300))) == [0, 0, 0, 0]
    lut = written(make([[8, 11]], VOILUTSequence=table(10, 8, [0, 50, 200, 255])))
    assert decode_image(lut).window == Window(12, 4, 8, 11)
    # (8 - 9.5) / 4 + 1/2 and (11 - 9.5) / 4 + 1/2 of 255, as LINEAR is said to be.
    assert row(decode_image(lut, asked=(10, 5))) == [32, 223]
    unknown = written(make([[4, 9]]))
    assert decode_image(unknown).window == Window(6.5, 5, 4, 9)


def test_the_first_of_several_windows() -> None:
    several = {"WindowCenter": [20.5, 500], "WindowWidth": [41, 2]}
    assert row(decode([[0, 10, 20, 30]], **RESCALE, **several)) == [0, 64, 191, 255]


def test_the_other_window_functions() -> None:
    exact = decode(
        [[0, 10, 20, 30]], **RESCALE, WindowCenter=20, WindowWidth=40, VOILUTFunction="LINEAR_EXACT"
    )
    assert row(exact) == [0, 64, 191, 255]
    assert exact.scaling == "window 20/40 LINEAR_EXACT"
    # 255 / (1 + exp(-4 (x - 20) / 40)) at -10, 10, 30 and 50: 12.1, 68.6, 186.4, 242.9.
    sigmoid = decode(
        [[0, 10, 20, 30]], **RESCALE, WindowCenter=20, WindowWidth=40, VOILUTFunction="SIGMOID"
    )
    assert row(sigmoid) == [12, 69, 186, 243]


def test_a_negative_slope_does_not_turn_the_window_round() -> None:
    decoded = decode([[50, 30, 10, 0]], RescaleSlope=-1, RescaleIntercept=40, **WINDOW)
    assert row(decoded) == [0, 64, 191, 255]


@pytest.mark.parametrize(
    "window", [{"WindowWidth": 0}, {"WindowWidth": 0.5}, {"WindowWidth": None}, {}]
)
def test_a_window_without_a_width_counts_as_none(window: dict[str, Any]) -> None:
    decoded = decode([[0, 10, 20, 30]], **RESCALE, WindowCenter=20, **window)
    assert row(decoded) == [0, 85, 170, 255]
    assert decoded.scaling == "range -10 to 50"


def test_a_voi_table_goes_before_a_window_and_after_the_modality() -> None:
    lut = table(10, 8, [0, 50, 200, 255])
    stored = [[18, 20, 21, 22, 23, 24]]  # less 10: 8 10 11 12 13 14; the table begins at 10
    decoded = decode(stored, RescaleSlope=1, RescaleIntercept=-10, VOILUTSequence=lut, **WINDOW)
    assert (row(decoded), decoded.scaling) == ([0, 0, 50, 200, 255, 255], "VOI LUT")
    inverted = decode([[10, 12]], VOILUTSequence=lut, PhotometricInterpretation="MONOCHROME1")
    assert row(inverted) == [255, 55]
    # Twelve bits: 1000 / 4095 * 255 = 62.3, 3000 / 4095 * 255 = 186.8.
    twelve = decode([[0, 1, 2, 3]], VOILUTSequence=table(0, 12, [0, 1000, 3000, 4095]))
    assert row(twelve) == [0, 62, 187, 255]


def test_a_voi_table_of_8_bits_may_have_more_than_256_entries() -> None:
    lut = table(0, 8, [value // 16 for value in range(4096)])
    assert row(decode([[0, 160, 2048, 4095]], VOILUTSequence=lut)) == [0, 10, 128, 255]


def test_tables_of_words_and_of_bytes() -> None:
    words = table(0, 16, [0])
    words[0].LUTDescriptor = [0, 0, 16]  # 0 stands for 65536 entries
    words[0].add_new("LUTData", "OW", np.arange(65536, dtype="<u2").tobytes())
    assert row(decode([[0, 32768, 65535]], VOILUTSequence=words)) == [0, 128, 255]
    packed = table(10, 8, [0])
    packed[0].LUTDescriptor = [4, 10, 8]
    packed[0].add_new("LUTData", "OW", bytes([0, 50, 200, 255]))
    assert row(decode([[9, 11, 12, 99]], VOILUTSequence=packed)) == [0, 50, 200, 255]
    packed[0].LUTData = b""
    assert "lookup table" in reason(written(make([[1, 2]], VOILUTSequence=packed)))


def test_a_modality_table_goes_before_the_window() -> None:
    lut = table(-1, 8, [0, 10, 30, 40], "SS")
    decoded = decode([[-5, -1, 0, 1, 9]], "i2", ModalityLUTSequence=lut, **WINDOW)
    assert row(decoded) == [0, 0, 64, 191, 255]


@pytest.mark.parametrize("photometric", ["MONOCHROME1", "MONOCHROME2"])
@pytest.mark.parametrize("voi", [{}, {"WindowCenter": 50.5, "WindowWidth": 101}])
def test_padding_sets_no_range_and_ends_black(photometric: str, voi: dict[str, Any]) -> None:
    dataset = make([[-2000, 0, 50, 100]], "i2", PhotometricInterpretation=photometric, **voi)
    dataset.add_new("PixelPaddingValue", "SS", -2000)
    expected = [0, 0, 128, 255] if photometric == "MONOCHROME2" else [0, 255, 127, 0]
    assert row(decode_image(written(dataset))) == expected
    # The same, written as if it were unsigned.
    dataset.add_new("PixelPaddingValue", "US", 63536)
    assert row(decode_image(written(dataset))) == expected


def test_values_beyond_all_measure_give_no_warning() -> None:
    decoded = decode([[0, 1, 65535]], RescaleSlope="1e308", RescaleIntercept="1e308")
    assert row(decoded) == [0, 0, 0]  # all but the first overflow: one value sets no range
    steep = decode([[0, 1000]], WindowCenter=500, WindowWidth="1e-300", VOILUTFunction="SIGMOID")
    assert row(steep) == [0, 255]


def test_a_range_of_padding() -> None:
    dataset = make([[4000, 4050, 4095, 0, 100]])
    dataset.add_new("PixelPaddingValue", "US", 4095)
    dataset.add_new("PixelPaddingRangeLimit", "US", 4000)
    decoded = decode_image(written(dataset))
    assert (row(decoded), decoded.scaling) == ([0, 0, 0, 0, 255], "range 0 to 100")
    dataset.PixelPaddingRangeLimit = 0
    assert "usable value" in reason(written(dataset))


@pytest.mark.parametrize(
    ("dtype", "stored"),
    [
        ("u1", [0, 64, 128, 255]),
        ("i2", [-512, -256, 0, 508]),
        ("u4", [0, 1 << 29, 1 << 30, 2139095040]),
    ],
)
def test_without_a_window_the_range_of_the_frame(dtype: str, stored: list[int]) -> None:
    decoded = decode([stored], dtype)
    assert row(decoded) == [0, 64, 128, 255]
    assert decoded.scaling == f"range {stored[0]} to {stored[-1]}"


def test_bits_that_are_not_stored_do_not_count() -> None:
    decoded = decode([[0x0000, 0xF040, 0x00FF]], BitsStored=12)  # an overlay in the high bits
    assert row(decoded) == [0, 64, 255]


def test_single_bits_and_floats() -> None:
    bits = make([[0b10101010]], "u1", Columns=8, BitsAllocated=1, BitsStored=1)
    assert row(decode_image(written(bits))) == [0, 255] * 4
    values = np.array([[np.nan, -1.0, 0.0, 1.0]], "<f4")
    floats = make([[0, 0, 0, 0]], "u4")
    del floats.PixelData
    floats.FloatPixelData = values.tobytes()
    decoded = decode_image(written(floats))
    assert (row(decoded), decoded.mode) == ([0, 0, 128, 255], "MONOCHROME2 32-bit float")


def test_colour_by_pixel_and_by_plane() -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (4, 6, 3), dtype=np.uint8)
    decoded = decode(pixels, "u1")
    assert np.array_equal(decoded.pixels, pixels)
    assert (decoded.mode, decoded.scaling) == ("RGB 8-bit", "none")
    planes = make(pixels, "u1", PlanarConfiguration=1)
    planes.PixelData = pixels.transpose(2, 0, 1).tobytes()
    assert np.array_equal(decode_image(written(planes)).pixels, pixels)


def test_colour_of_16_bits_is_scaled_by_its_stored_bits() -> None:
    decoded = decode([[[0, 1024, 4095]]], BitsStored=12)
    assert decoded.pixels.tolist() == [[[0, 64, 255]]]
    assert (decoded.mode, decoded.scaling) == ("RGB 12-bit", "range 0 to 4095")


def test_ybr_full_and_422() -> None:
    # ITU-T T.871: R = Y + 1.402 (Cr - 128), B = Y + 1.772 (Cb - 128),
    # G = Y - 0.3441 (Cb - 128) - 0.7141 (Cr - 128): 76 85 255 is a pure red, near enough.
    full = decode([[[76, 85, 255], [200, 128, 128]]], "u1", PhotometricInterpretation="YBR_FULL")
    assert np.abs(full.pixels[0].astype(int) - [[254, 0, 0], [200, 200, 200]]).max() <= 1
    assert full.mode == "YBR_FULL 8-bit"
    half = make([[[0, 0, 0], [0, 0, 0]]], "u1", PhotometricInterpretation="YBR_FULL_422")
    half.PixelData = bytes([76, 76, 85, 255])  # two brightnesses share their colour
    assert np.abs(decode_image(written(half)).pixels[0].astype(int) - [254, 0, 0]).max() <= 1


@pytest.mark.parametrize("bits", [8, 16])
def test_palette(bits: int) -> None:
    dataset = make([[0, 1, 2]], "u1", PhotometricInterpretation="PALETTE COLOR")
    for colour, entries in {"Red": [0, 255, 10], "Green": [0, 0, 20], "Blue": [9, 0, 30]}.items():
        name = f"{colour}PaletteColorLookupTable"
        values = np.array([*entries, 0], "u1" if bits == 8 else "<u2") * (1 if bits == 8 else 257)
        dataset.add_new(f"{name}Descriptor", "US", [4, 0, bits])
        dataset.add_new(f"{name}Data", "OW", values.astype("u1" if bits == 8 else "<u2").tobytes())
    decoded = decode_image(written(dataset))
    assert decoded.pixels.tolist() == [[[0, 0, 9], [255, 0, 0], [10, 20, 30]]]
    assert (decoded.mode, decoded.scaling) == ("PALETTE COLOR 8-bit", "palette")


def frames(count: int, **tags: Any) -> Any:
    stored = np.arange(count * 4, dtype="u2").reshape(count * 2, 2)
    return make(stored, Rows=2, NumberOfFrames=count, **tags)


def test_one_of_several_frames() -> None:
    data = written(frames(5))
    middle = decode_image(data)
    assert (middle.scaling, middle.frames, middle.height) == ("range 8 to 11", 5, 2)
    assert decode_image(data, frame=0).scaling == "range 0 to 3"
    assert decode_image(data, frame=4).scaling == "range 16 to 19"
    for outside in (5, -1):
        assert "frames are 0 to 4" in reason(data, frame=outside)
    assert "frames are 0 to 0" in reason(written(make([[1, 2]])), frame=1)
    assert decode_image(written(make([[1, 2]], NumberOfFrames=0))).frames == 1


def test_a_frame_has_its_own_window_and_rescale() -> None:
    """Enhanced CT and MR keep them in functional groups, per frame or shared by all."""
    shared, rescale = Dataset(), Dataset()
    rescale.RescaleSlope, rescale.RescaleIntercept = 2, -10
    shared.PixelValueTransformationSequence = Sequence([rescale])
    groups = []
    for center in (500, 20.5):
        group, voi = Dataset(), Dataset()
        voi.WindowCenter, voi.WindowWidth = center, 41
        group.FrameVOILUTSequence = Sequence([voi])
        groups.append(group)
    dataset = make([[0, 10, 20, 30], [0, 10, 20, 30]], Rows=1, NumberOfFrames=2)
    dataset.SharedFunctionalGroupsSequence = Sequence([shared])
    dataset.PerFrameFunctionalGroupsSequence = Sequence(groups)
    data = written(dataset)
    assert row(decode_image(data, frame=1)) == [0, 64, 191, 255]
    assert row(decode_image(data, frame=0)) == [0, 0, 0, 0]


def test_of_a_large_file_only_one_frame_is_read(tmp_path: Path) -> None:
    path = tmp_path / "many.dcm"
    count = 400
    dataset = make(np.zeros((count * 128, 128)), Rows=128, NumberOfFrames=count)
    path.write_bytes(written(dataset))
    del dataset
    assert path.stat().st_size > 13_000_000
    tracemalloc.start()
    try:
        read_image(path)
        assert tracemalloc.get_traced_memory()[1] < 3_000_000
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("syntax", [RLELossless, JPEGLSLossless, JPEG2000Lossless])
@pytest.mark.parametrize("kind", ["grey", "signed", "colour"])
def test_lossless_compression_changes_nothing(syntax: str, kind: str) -> None:
    generator = np.random.default_rng(0)
    stored: NDArray[Any] = {
        "grey": generator.integers(0, 4096, (70, 65)).astype("u2"),
        "signed": generator.integers(-1000, 3000, (70, 65)).astype("i2"),
        "colour": generator.integers(0, 256, (70, 65, 3)).astype("u1"),
    }[kind]
    dataset = make(
        stored, str(stored.dtype), BitsStored=12 if kind == "grey" else 8 * stored.itemsize
    )
    dataset.RescaleIntercept, dataset.RescaleSlope = -24, 1
    plain = decode_image(written(dataset))
    dataset.compress(syntax)
    packed = decode_image(written(dataset))
    assert np.array_equal(packed.pixels, plain.pixels)
    assert packed.scaling == plain.scaling


def jpeg(markers: str) -> bytes:
    """A JPEG of one colour, whose markers say of it what `markers` says."""
    raw = markers in ("named", "raw")  # stored as R, G and B
    stream = io.BytesIO()
    image = Image.new("RGB", (16, 16), (200, 60, 20))
    image.save(stream, "JPEG", quality=95, keep_rgb=raw)
    start, rest = stream.getvalue()[:2], stream.getvalue()[2:]
    bare = rest[2 + struct.unpack(">H", rest[2:4])[0] :]
    if markers == "raw":
        for number, name in enumerate(b"RGB", 1):  # in the frame header and in the scan header
            bare = bare.replace(bytes([name, 0x11]), bytes([number, 0x11]), 1)
            scan = bare.index(b"\xff\xda") + 3 + 2 * number
            bare = bare[:scan] + bytes([number]) + bare[scan + 1 :]
    adobe = b"\xff\xee\x00\x0eAdobe\x00\x64\x00\x00\x00\x00\x01"
    return start + {"jfif": rest, "adobe": adobe + bare}.get(markers, bare)


@pytest.mark.parametrize(
    ("markers", "photometric"),
    [
        ("jfif", "YBR_FULL_422"),
        ("jfif", "RGB"),
        ("none", "YBR_FULL_422"),
        ("adobe", "YBR_FULL_422"),
        ("adobe", "RGB"),
        ("named", "RGB"),
        ("raw", "RGB"),
    ],
)
def test_the_colours_of_a_jpeg_frame(markers: str, photometric: str) -> None:
    dataset = make(
        np.zeros((16, 16, 3)), "u1", JPEGBaseline8Bit, PhotometricInterpretation=photometric
    )
    dataset.PixelData = encapsulate([jpeg(markers)])
    dataset["PixelData"].is_undefined_length = True
    decoded = decode_image(written(dataset))
    assert np.abs(decoded.pixels.astype(int) - [200, 60, 20]).max() <= 3


def test_bundled_compressed_colour_files_agree() -> None:
    expected = read_image(BUNDLED / "SC_rgb_rle.dcm").pixels.astype(int)
    for name, tolerance in {
        "SC_rgb_jpeg_gdcm.dcm": 0.0,  # lossless JPEG
        "SC_rgb_gdcm_KY.dcm": 0.0,  # JPEG 2000
        "SC_rgb_rle_16bit.dcm": 0.0,
        "SC_rgb_rle_32bit.dcm": 0.0,
        "SC_rgb_jls_lossy_line.dcm": 1.0,
        "SC_rgb_jls_lossy_sample.dcm": 1.0,
        "SC_rgb_dcmtk_+eb+cr.dcm": 1.0,
        "SC_rgb_jpeg_dcmtk.dcm": 1.0,
        "SC_rgb_dcmtk_+eb+cy+n1.dcm": 3.0,
        "SC_rgb_jpeg_lossy_gdcm.dcm": 3.0,
        "SC_ybr_full_422_uncompressed.dcm": 1.0,
    }.items():
        pixels = read_image(BUNDLED / name).pixels
        assert np.abs(pixels - expected).mean() <= tolerance, name


def test_bundled_encodings_of_one_scan_agree() -> None:
    expected = read_image(BUNDLED / "MR_small.dcm").pixels
    for name in ("RLE", "bigendian", "expb", "implicit", "jp2klossless", "jpeg_ls_lossless"):
        assert np.array_equal(read_image(BUNDLED / f"MR_small_{name}.dcm").pixels, expected), name
    dose = read_image(BUNDLED / "rtdose.dcm", frame=3).pixels
    assert np.array_equal(read_image(BUNDLED / "rtdose_rle.dcm", frame=3).pixels, dose)
    assert np.array_equal(read_image(BUNDLED / "rtdose_expb.dcm", frame=3).pixels, dose)


def test_every_bundled_file_gives_a_picture_or_a_reason() -> None:
    pictures = 0
    for path in sorted(BUNDLED.parent.rglob("*")):
        if not path.is_file():
            continue
        try:
            decoded = read_image(path)
        except UnreadableImage as error:
            assert error.reason
            continue
        pictures += 1
        assert decoded.pixels.shape == (decoded.height, decoded.width, 3)
        assert read_size(path) == (decoded.width, decoded.height)
    assert pictures > 90


def test_objects_without_pixels() -> None:
    for name in ("rtstruct.dcm", "rtplan.dcm", "test-SR.dcm", "waveform_ecg.dcm"):
        with pytest.raises(UnreadableImage, match="has no pixel data"):
            read_image(BUNDLED / name)
        with pytest.raises(UnreadableImage, match="has no pixel data"):
            read_size(BUNDLED / name)
    dataset = make([[1, 2]])
    del dataset.PixelData
    assert "has no pixel data" in reason(written(dataset))


@pytest.mark.parametrize(("implicit", "little"), [(True, True), (False, True), (False, False)])
def test_files_without_a_preamble(implicit: bool, little: bool) -> None:
    dataset = make([[0, 64, 255]])
    dataset.file_meta = FileMetaDataset()
    if not little:
        dataset.PixelData = np.array([[0, 64, 255]], ">u2").tobytes()
    stream = io.BytesIO()
    dataset.save_as(stream, implicit_vr=implicit, little_endian=little)
    assert stream.getvalue()[128:132] != b"DICM"
    decoded = decode_image(stream.getvalue())
    assert (row(decoded), decoded.format) == ([0, 64, 255], "DICOM")


@pytest.mark.parametrize("syntax", [ImplicitVRLittleEndian, ExplicitVRBigEndian])
def test_the_other_uncompressed_encodings(syntax: str) -> None:
    dataset = make([[0, 64, 255]], "<u2" if syntax == ImplicitVRLittleEndian else ">u2", syntax)
    dataset.VOILUTSequence = table(0, 8, list(range(255, -1, -1)))
    assert row(decode_image(written(dataset))) == [255, 191, 0]


@pytest.mark.parametrize(
    "tags",
    [
        {"Rows": 0},
        {"Rows": 65535, "Columns": 65535},
        {"Rows": 3},
        {"NumberOfFrames": 1_000_000_000},
        {"NumberOfFrames": -5},
        {"BitsAllocated": 7},
        {"BitsAllocated": 12, "BitsStored": 12},
        {"BitsAllocated": 4096},
        {"BitsAllocated": 64},
        {"BitsStored": 40},
        {"SamplesPerPixel": 3},
        {"SamplesPerPixel": 2},
        {"PhotometricInterpretation": "HSV"},
        {"PhotometricInterpretation": "PALETTE COLOR"},
    ],
)
def test_absurd_headers_are_unreadable(tags: dict[str, Any]) -> None:
    assert reason(written(make([[1, 2], [3, 4]], **tags)))


def test_transfer_syntaxes_that_do_not_fit() -> None:
    unknown = make([[1, 2]])
    unknown.file_meta.TransferSyntaxUID = "1.2.3.4711"
    stream = io.BytesIO()
    unknown.save_as(stream, implicit_vr=False, little_endian=True)
    assert reason(stream.getvalue()) == "Its transfer syntax cannot be decoded."
    video = make([[1, 2]], syntax=MPEG2MPML)
    video.PixelData = encapsulate([bytes(100)])
    video["PixelData"].is_undefined_length = True
    assert "(MPEG2 Main Profile / Main Level)" in reason(written(video))
    data = written(make([[1, 2]]))
    said = data.replace(ExplicitVRLittleEndian.encode(), RLELossless.encode())
    assert "not compressed as its header says" in reason(said)
    with pytest.raises(UnreadableImage, match="more than 8 bits"):
        read_image(BUNDLED / "JPGExtended.dcm")


@pytest.mark.parametrize("syntax", [ExplicitVRLittleEndian, RLELossless, JPEG2000Lossless])
def test_a_file_cut_short_is_unreadable(syntax: str) -> None:
    dataset = make(np.random.default_rng(0).integers(0, 4096, (70, 65)))
    if syntax != ExplicitVRLittleEndian:
        dataset.compress(syntax)
    data = written(dataset)
    decode_image(data)
    for length in (200, len(data) // 2, len(data) - 30):
        reason(data[:length])


def test_pixel_data_shorter_than_its_header_says() -> None:
    dataset = make([[1, 2], [3, 4]], Rows=3)
    dataset.add_new("DataSetTrailingPadding", "OB", bytes(100))  # not to be taken for pixels
    assert "shorter than its header" in reason(written(dataset))
    several = make(np.zeros((60, 65)), Rows=20, NumberOfFrames=3)
    several.compress(RLELossless)
    cut = written(several)[:-30]  # in the last frame: the middle one is whole
    assert "cut short" in reason(cut)


def test_a_frame_that_unfolds_to_more_than_the_header_says() -> None:
    small = make(np.zeros((64, 64)), "u2")
    small.compress(JPEG2000Lossless)
    large = make(np.zeros((128, 128)), "u2")
    large.compress(JPEG2000Lossless)
    small.PixelData = large.PixelData
    assert "not of the size" in reason(written(small))


def test_a_deflated_file(monkeypatch: pytest.MonkeyPatch) -> None:
    data = written(make(np.zeros((100, 100)), syntax=DeflatedExplicitVRLittleEndian))
    assert len(data) < 2000
    assert decode_image(data).width == 100
    reason(data[:-10])
    monkeypatch.setattr(dicom, "_MAX_INFLATED_BYTES", 10_000)
    assert "too large" in reason(data)


def test_max_pixels_counts_one_frame() -> None:
    data = written(frames(5))
    assert decode_image(data, max_pixels=4).frames == 5
    assert "more than the limit of 3" in reason(data, max_pixels=3)


LOSSLESS: dict[str, Any] = {
    "rows": 100,
    "columns": 100,
    "samples_per_pixel": 3,
    "number_of_frames": 1,
    "bits_allocated": 8,
    "bits_stored": 8,
    "pixel_representation": 0,
    "photometric_interpretation": "RGB",
    "planar_configuration": 0,
    "pixel_keyword": "PixelData",
    "pixel_vr": "OB",
}


def lossless_frame() -> bytes:
    return get_frame(pydicom.dcmread(BUNDLED / "SC_rgb_jpeg_gdcm.dcm").PixelData, 0)


def test_a_decoder_that_ends_its_process_does_not_end_ours() -> None:
    frame = lossless_frame()
    expected, _ = decode_compressed(frame, JPEGLosslessSV1, LOSSLESS)
    position = frame.index(b"\xff\xc4")
    stray = frame[:position] + b"\x11" + frame[position:]  # GDCM 3 aborts at it
    for _ in range(2):
        with pytest.raises(UnreadableImage, match="damaged"):
            decode_compressed(stray, JPEGLosslessSV1, LOSSLESS)
        again, photometric = decode_compressed(frame, JPEGLosslessSV1, LOSSLESS)
        assert np.array_equal(again, expected)
        assert photometric == "RGB"


def test_a_decoder_that_does_not_end_is_given_up() -> None:
    with pytest.raises(UnreadableImage, match="damaged"):
        decode_compressed(lossless_frame(), JPEGLosslessSV1, LOSSLESS, seconds=0.0)
    pixels, _ = decode_compressed(lossless_frame(), JPEGLosslessSV1, LOSSLESS)
    assert pixels.shape == (100, 100, 3)


@pytest.mark.skipif(not hasattr(os, "waitid"), reason="this system cannot wait without reaping")
def test_a_decoder_that_was_killed_while_idle_costs_no_image() -> None:
    decode_compressed(lossless_frame(), JPEGLosslessSV1, LOSSLESS)
    idle = [
        child
        for child in psutil.Process().children()
        if any(part.endswith("dicom_worker.py") for part in child.cmdline())
    ]
    assert idle
    for child in idle:
        child.kill()
        os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)  # it is gone, and not yet reaped
    assert decode_compressed(lossless_frame(), JPEGLosslessSV1, LOSSLESS)[1] == "RGB"


def test_the_child_processes_end_with_the_program() -> None:
    """Also when warnings are errors, and without any word on the screen."""
    program = (
        "import sys\nfrom pathlib import Path\nfrom medlens.data.images import read_image\n"
        "print(read_image(Path(sys.argv[1])).pixels.shape)"
    )
    command = [sys.executable, "-W", "error", "-c", program, BUNDLED / "SC_rgb_jpeg_gdcm.dcm"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert (done.returncode, done.stdout, done.stderr) == (0, "(100, 100, 3)\n", "")


@pytest.mark.shared_data
def test_real_ct_slices(shared: Path) -> None:
    paths = sorted((shared / "data" / "ct_contrast_dicom").rglob("*.dcm"))
    contents: Counter[bytes] = Counter()
    patients = set()
    for path in paths:
        decoded = read_image(path)
        assert read_size(path) == (512, 512) == (decoded.width, decoded.height)
        assert decoded.scaling.startswith("window ")
        # By another way: pydicom's two functions, scaled from the ends of its own output range.
        dataset = pydicom.dcmread(path)
        values = apply_voi_lut(apply_modality_lut(dataset.pixel_array, dataset), dataset)
        ends = np.array([0, 2**dataset.BitsStored - 1], float) - 2 ** (
            dataset.BitsStored - 1
        ) * int(dataset.PixelRepresentation)
        low, high = ends * dataset.RescaleSlope + dataset.RescaleIntercept
        used = dataset.pixel_array != dataset.get("PixelPaddingValue")
        greys = (values - low) / (high - low) * 255
        assert np.abs(decoded.pixels[:, :, 0] - greys)[used].max() < 0.51
        contents[decoded.pixels.tobytes()] += 1
        patients.add(decoded.patient)
    assert Counter(contents.values()) == {1: 88, 2: 6}
    assert len(patients) == 54
