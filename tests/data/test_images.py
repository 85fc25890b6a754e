"""One image file -> RGB pixels: formats, modes, orientation, damage, threads, and the square."""

from __future__ import annotations

import errno
import io
import os
import struct
import warnings
import zlib
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import numpy as np
import pydicom.data
import pytest
from numpy.typing import NDArray
from PIL import Image

from medlens.data.decoded import as_rgb, content_key, find_grey, share_grey, stretch
from medlens.data.images import (
    CANNOT_BE_OPENED,
    FITS,
    DecodedImage,
    UnreadableImage,
    decode_image,
    fit_to_square,
    is_image_name,
    read_image,
    read_patient,
    read_size,
    resize_to_square,
    to_pillow,
)

BUNDLED = Path(pydicom.data.__file__).parent / "test_files"
PIXELS = np.random.default_rng(0).integers(0, 256, (5, 7, 3), dtype=np.uint8)


def encode(image: Image.Image, kind: str, **options: Any) -> bytes:
    stream = io.BytesIO()
    image.save(stream, kind, **options)
    return stream.getvalue()


def grey(values: list[list[float]], dtype: str) -> Image.Image:
    return Image.fromarray(np.array(values, dtype))


def png_chunk(kind: bytes, content: bytes) -> bytes:
    checksum = zlib.crc32(kind + content)
    return struct.pack(">L", len(content)) + kind + content + struct.pack(">L", checksum)


def png(values: NDArray[np.uint16], colour: int, *extra: bytes) -> bytes:
    """A PNG of 16 bits per sample; colour 0 grey, 2 RGB, 4 grey with alpha, 6 RGBA."""
    height, width = values.shape[:2]
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in values)
    header = struct.pack(">LLBBBBB", width, height, 16, colour, 0, 0, 0)
    middle = png_chunk(b"IDAT", zlib.compress(rows))
    return b"".join(
        [b"\x89PNG\r\n\x1a\n", png_chunk(b"IHDR", header), *extra, middle, png_chunk(b"IEND", b"")]
    )


def tiff(
    values: NDArray[Any], order: str, *, photometric: int, kind: int = 1, deflated: bool = False
) -> bytes:
    """A TIFF of any sample type; kind 1 unsigned, 2 signed, 3 float."""
    height, width, samples = values.shape if values.ndim == 3 else (*values.shape, 1)
    content = values.astype(values.dtype.newbyteorder(order)).tobytes()
    content = zlib.compress(content) if deflated else content
    content += bytes(len(content) % 2)
    bits = 8 * values.dtype.itemsize
    tags = [
        (256, 4, width),
        (257, 4, height),
        (258, 3, bits),
        (259, 3, 8 if deflated else 1),
        (262, 3, photometric),
        (273, 4, 8),
        (277, 3, samples),
        (278, 4, height),
        (279, 4, len(content)),
        (339, 3, kind),
    ]
    directory = struct.pack(f"{order}H", len(tags))
    for tag, of, value in tags:
        packed = struct.pack(f"{order}{'H' if of == 3 else 'L'}", value).ljust(4, b"\0")
        directory += struct.pack(f"{order}HHL", tag, of, 1) + packed
    head = (b"II\x2a\0" if order == "<" else b"MM\0\x2a") + struct.pack(
        f"{order}L", 8 + len(content)
    )
    return head + content + directory + bytes(4)


def rows(decoded: DecodedImage) -> list[list[int]]:
    """The greys of an image whose three colours must be the same."""
    assert (decoded.pixels == decoded.pixels[:, :, :1]).all()
    return decoded.pixels[:, :, 0].tolist()


def reason(data: bytes, **options: Any) -> str:
    with pytest.raises(UnreadableImage) as caught:
        decode_image(data, **options)
    assert caught.value.reason == str(caught.value)
    assert caught.value.reason.endswith(".")
    return caught.value.reason


@pytest.mark.parametrize("kind", ["PNG", "TIFF", "BMP", "WEBP"])
def test_rgb_comes_back_as_it_was_written(kind: str) -> None:
    options = {"lossless": True} if kind == "WEBP" else {}
    decoded = decode_image(encode(Image.fromarray(PIXELS), kind, **options))
    assert np.array_equal(decoded.pixels, PIXELS)
    assert decoded.pixels.dtype == np.uint8
    assert (decoded.width, decoded.height, decoded.mode) == (7, 5, "RGB")
    assert (decoded.format, decoded.patient, decoded.scaling) == (kind, "", "none")
    assert decoded.frames == 1


def test_jpeg_in_grey_rgb_and_cmyk() -> None:
    colour = Image.new("RGB", (16, 16), (200, 60, 20))
    for mode in ("L", "RGB", "CMYK"):
        data = encode(colour.convert(mode), "JPEG", quality=95)
        decoded = decode_image(data)
        expected = np.asarray(colour.convert(mode).convert("RGB")).astype(int)
        assert np.abs(decoded.pixels - expected).max() <= 3
        assert (decoded.mode, decoded.format) == (mode, "JPEG")


def test_modes_of_up_to_8_bits() -> None:
    two_valued = decode_image(encode(grey([[0, 255]], "u1").convert("1"), "PNG"))
    assert (rows(two_valued), two_valued.mode) == ([[0, 255]], "1")
    eight_bits = decode_image(encode(grey([[3, 7]], "u1"), "PNG"))
    assert (rows(eight_bits), eight_bits.mode) == ([[3, 7]], "L")  # not stretched
    cmyk = decode_image(encode(Image.new("CMYK", (1, 1), (255, 0, 0, 0)), "TIFF"))
    assert (cmyk.pixels.tolist(), cmyk.mode) == ([[[0, 255, 255]]], "CMYK")


def test_palette_with_and_without_transparency() -> None:
    image = Image.new("P", (3, 1))
    image.putpalette([10, 20, 30, 200, 100, 50, 255, 255, 255])
    image.putdata([0, 1, 2])
    plain = decode_image(encode(image, "PNG"))
    assert plain.pixels.tolist() == [[[10, 20, 30], [200, 100, 50], [255, 255, 255]]]
    assert plain.mode == "P"
    see_through = decode_image(encode(image, "PNG", transparency=b"\xff\x80\x00"))
    assert see_through.pixels.tolist() == [[[10, 20, 30], [100, 50, 25], [0, 0, 0]]]


def test_alpha_goes_onto_black() -> None:
    rgba = decode_image(encode(Image.new("RGBA", (2, 1), (200, 100, 50, 128)), "PNG"))
    assert rgba.pixels[0, 0].tolist() == [100, 50, 25]  # 200 * 128 / 255 = 100.4
    assert rgba.mode == "RGBA"
    grey_alpha = decode_image(encode(Image.new("LA", (1, 1), (255, 64)), "PNG"))
    assert (rows(grey_alpha), grey_alpha.mode) == ([[64]], "LA")
    webp = decode_image(encode(Image.new("RGBA", (4, 4), (255, 255, 255, 0)), "WEBP"))
    assert not webp.pixels.any()


def test_the_transparent_colour_of_a_png_becomes_black() -> None:
    eight = decode_image(encode(grey([[9, 200]], "u1"), "PNG", transparency=200))
    assert rows(eight) == [[9, 0]]
    wide = np.array([[100, 300, 60000]], np.uint16)
    decoded = decode_image(png(wide, 0, png_chunk(b"tRNS", struct.pack(">H", 60000))))
    assert rows(decoded) == [[0, 255, 0]]
    assert decoded.scaling == "minimum 100 to maximum 300"


def test_16_bits_are_scaled_by_their_own_range_and_not_clipped() -> None:
    values = [[12, 1036, 2060, 4095]]  # 1024 / 4083 * 255 = 63.95; 2048 / 4083 * 255 = 127.9
    for data in (
        encode(grey(values, "<u2"), "PNG"),
        encode(grey(values, "<u2"), "TIFF"),
        encode(grey(values, "<u2"), "TIFF", compression="tiff_lzw"),
        tiff(np.array(values, np.uint16), "<", photometric=1),
        tiff(np.array(values, np.uint16), ">", photometric=1),
    ):
        decoded = decode_image(data)
        assert rows(decoded) == [[0, 64, 128, 255]]
        assert (decoded.mode, decoded.scaling) == ("I;16", "minimum 12 to maximum 4095")


def test_32_bits_and_float() -> None:
    signed = decode_image(encode(grey([[-1000, 0, 1000]], "<i4"), "TIFF"))
    assert (rows(signed), signed.mode) == ([[0, 128, 255]], "I")
    assert signed.scaling == "minimum -1000 to maximum 1000"
    high = np.array([[0, 2**31, 2**32 - 1]], np.uint32)  # Pillow's mode I is signed
    assert rows(decode_image(tiff(high, "<", photometric=1))) == [[0, 128, 255]]
    short = np.array([[-300, 0, 300]], np.int16)
    assert rows(decode_image(tiff(short, ">", photometric=1, kind=2))) == [[0, 128, 255]]
    floats = decode_image(encode(grey([[0.25, 0.5, 1.25]], "<f4"), "TIFF"))
    assert (rows(floats), floats.mode) == ([[0, 64, 255]], "F")
    assert floats.scaling == "minimum 0.25 to maximum 1.25"


def test_a_tiff_that_counts_from_white_is_turned_round() -> None:
    values = np.array([[0, 1000, 4000]], np.uint16)
    assert rows(decode_image(tiff(values, "<", photometric=0))) == [[255, 191, 0]]


def test_values_that_are_not_finite_leave_the_range_alone() -> None:
    values = [[np.nan, -np.inf, 1.0, 2.0, 3.0, np.inf]]
    assert rows(decode_image(encode(grey(values, "<f4"), "TIFF"))) == [[0, 0, 0, 128, 255, 255]]
    nothing = encode(grey([[np.nan, np.inf]], "<f4"), "TIFF")
    assert "usable value" in reason(nothing)


def test_a_constant_image_becomes_black() -> None:
    decoded = decode_image(encode(grey([[700, 700]], "<u2"), "PNG"))
    assert (rows(decoded), decoded.scaling) == ([[0, 0]], "minimum 700 to maximum 700")


def test_colour_of_16_bits_is_scaled_by_one_range() -> None:
    """Twelve bits in sixteen: with the high byte alone it would be all but black."""
    values = np.array([[[0, 1000, 4000], [500, 2000, 4000]]], np.uint16)
    expected = [[[0, 64, 255], [32, 128, 255]]]
    for data in (
        png(values, 2),
        tiff(values, "<", photometric=2),
        tiff(values, ">", photometric=2),
        tiff(values, "<", photometric=2, deflated=True),
        tiff(values, ">", photometric=2, deflated=True),
    ):
        decoded = decode_image(data)
        assert decoded.pixels.tolist() == expected
        assert (decoded.mode, decoded.scaling) == ("RGB;16", "minimum 0 to maximum 4000")
    alpha = np.full((1, 2, 1), 65535, np.uint16)
    alpha[0, 1] = 0
    see_through = decode_image(png(np.concatenate([values, alpha], axis=2), 6))
    assert see_through.pixels.tolist() == [[[0, 64, 255], [0, 0, 0]]]
    assert see_through.mode == "RGBA;16"
    both = decode_image(png(np.array([[[0x8000, 65535], [0xFF00, 0]]], np.uint16), 4))
    assert rows(both) == [[128, 0]]
    assert (both.mode, both.scaling) == ("RGBA;16", "high byte of 16 bits")


@pytest.mark.parametrize("kind", ["GIF", "TIFF", "MPO"])
def test_the_first_of_several_frames(kind: str) -> None:
    frames = [Image.new("L", (2, 2), value) for value in (40, 90, 200)]
    data = encode(frames[0], kind, save_all=True, append_images=frames[1:])
    decoded = decode_image(data, frame=2)
    assert rows(decoded) == [[40, 40], [40, 40]]
    assert (decoded.frames, decoded.format) == (3, "JPEG" if kind == "MPO" else kind)


TURNED = {
    1: [[1, 2, 3], [4, 5, 6]],
    2: [[3, 2, 1], [6, 5, 4]],
    3: [[6, 5, 4], [3, 2, 1]],
    4: [[4, 5, 6], [1, 2, 3]],
    5: [[1, 4], [2, 5], [3, 6]],
    6: [[4, 1], [5, 2], [6, 3]],
    7: [[6, 3], [5, 2], [4, 1]],
    8: [[3, 6], [2, 5], [1, 4]],
}


@pytest.mark.parametrize("orientation", sorted(TURNED))
@pytest.mark.parametrize("kind", ["PNG", "TIFF", "WEBP", "JPEG"])
def test_exif_orientation_is_applied(tmp_path: Path, kind: str, orientation: int) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    blocks = np.kron(np.array(TURNED[1]) * 40, np.ones((8, 8))).astype(np.uint8)
    options = {"lossless": True} if kind == "WEBP" else {}
    path = tmp_path / "turned"
    path.write_bytes(encode(Image.fromarray(blocks).convert("RGB"), kind, exif=exif, **options))
    decoded = read_image(path)
    assert np.abs(decoded.pixels[3::8, 3::8, 0] / 40 - TURNED[orientation]).max() < 0.1
    assert read_size(path) == (decoded.width, decoded.height) == decoded.pixels.shape[1::-1]


def test_an_orientation_behind_the_pixels_of_a_png(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    data = png(np.array([[1, 2, 3], [4, 5, 6]], np.uint16), 0)
    path = tmp_path / "late.png"
    path.write_bytes(data[:-12] + png_chunk(b"eXIf", exif.tobytes()[6:]) + data[-12:])
    assert read_size(path) == (2, 3)
    assert rows(read_image(path)) == [[153, 0], [204, 51], [255, 102]]


def test_a_damaged_exif_block_does_not_cost_the_image() -> None:
    data = encode(Image.fromarray(PIXELS), "JPEG", exif=b"Exif\0\0not a directory")
    assert decode_image(data).pixels.shape == (5, 7, 3)


def test_the_content_decides_and_not_the_extension(tmp_path: Path) -> None:
    path = tmp_path / "really_a_png.jpg"
    path.write_bytes(encode(Image.fromarray(PIXELS), "PNG"))
    assert read_image(path).format == "PNG"
    path.write_bytes((BUNDLED / "CT_small.dcm").read_bytes())
    assert read_image(path).format == "DICOM"


def test_what_is_no_image_says_so() -> None:
    assert "empty" in reason(b"")
    for data in (b"hello, I am text", b"<html><body>404</body></html>" * 20, bytes(5000)):
        assert "It is not a PNG" in reason(data)
    # Begins as a data set without a preamble does.
    assert reason(b"\x08\x00\x05\x00CS\x00\x00 not a data set at all " * 20)
    assert reason(b"\x08\x00\x05\x00" + bytes(range(256)) * 10)


def test_files_that_cannot_be_opened(tmp_path: Path) -> None:
    with pytest.raises(UnreadableImage, match="No such file") as caught:
        read_image(tmp_path / "patient-4711.png")
    assert "4711" not in caught.value.reason
    with pytest.raises(UnreadableImage, match="not a file"):
        read_image(tmp_path)
    with pytest.raises(UnreadableImage):
        read_size(tmp_path / "no\0name.png")
    if hasattr(os, "mkfifo"):  # opening it would wait for a writer
        os.mkfifo(tmp_path / "pipe.png")
        with pytest.raises(UnreadableImage, match="not a file"):
            read_image(tmp_path / "pipe.png")
    (tmp_path / "text.png").write_text("no picture")
    with pytest.raises(UnreadableImage):
        read_size(tmp_path / "text.png")


def test_too_many_pixels_are_refused_before_decoding() -> None:
    data = encode(Image.fromarray(PIXELS), "PNG")
    assert decode_image(data, max_pixels=35).width == 7
    assert reason(data, max_pixels=34) == "It has 7 x 5 pixels, more than the limit of 34."
    for side in (12_000, 60_000):  # a header without the pixels: 144 and 3,600 million of them
        header = struct.pack(">LLBBBBB", side, side, 8, 2, 0, 0, 0)
        bomb = b"\x89PNG\r\n\x1a\n" + png_chunk(b"IHDR", header) + png_chunk(b"IDAT", b"x")
        assert "pixels" in reason(bomb)


def test_no_warning_leaks_and_no_filter_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 60_000)  # both images have more: Pillow warns
    picture = encode(Image.new("L", (300, 300)), "PNG")
    dicom = (BUNDLED / "SC_rgb_jpeg.dcm").read_bytes()  # pydicom warns of its encoding
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        filters = list(warnings.filters)
        with ThreadPoolExecutor(8) as pool:
            list(pool.map(decode_image, [picture, dicom] * 20))
        assert warnings.filters == filters
        warnings.warn("of another module", stacklevel=1)
    assert [str(warning.message) for warning in caught] == ["of another module"]


def test_threads_give_what_one_thread_gives() -> None:
    files = sorted(path for path in BUNDLED.glob("*.dcm") if path.stat().st_size < 60_000)
    contents = [path.read_bytes() for path in files]
    contents += [encode(Image.fromarray(PIXELS), kind) for kind in ("PNG", "JPEG", "TIFF", "GIF")]

    def outcome(data: bytes) -> Any:
        try:
            return decode_image(data).pixels.tobytes()
        except UnreadableImage as error:
            return error.reason

    alone = [outcome(data) for data in contents]
    assert sum(isinstance(of_one, bytes) for of_one in alone) > 30
    with ThreadPoolExecutor(4) as pool:
        assert list(pool.map(outcome, contents * 2)) == alone * 2


def samples() -> dict[str, bytes]:
    image = Image.fromarray(np.kron(PIXELS, np.ones((6, 6, 1), np.uint8)))
    exif = Image.Exif()
    exif[0x0112] = 6
    found = {kind: encode(image, kind) for kind in ("PNG", "JPEG", "WEBP", "GIF", "BMP")}
    found["PNG with EXIF"] = encode(image, "PNG", exif=exif)
    found["JPEG with EXIF"] = encode(image, "JPEG", exif=exif, progressive=True)
    found["TIFF"] = encode(image, "TIFF", compression="tiff_deflate")
    found["16-bit"] = encode(grey([[1, 2], [3, 4]], "<u2"), "PNG")
    names = """CT_small MR_small_RLE MR_small_jpeg_ls_lossless MR_small_jp2klossless
        MR_small_bigendian SC_rgb_jpeg_dcmtk SC_rgb_jpeg_gdcm SC_rgb_small_odd examples_palette
        liver_1frame rtdose"""
    found.update({name: (BUNDLED / f"{name}.dcm").read_bytes() for name in names.split()})
    return found


@pytest.mark.parametrize("name", sorted(samples()))
def test_damaged_files_give_a_picture_or_a_reason(name: str) -> None:
    sound = samples()[name]
    decode_image(sound)
    generator = np.random.default_rng([1, len(sound)])
    for turn in range(24):
        data = bytearray(sound)
        if turn % 3 == 0:
            data = data[: generator.integers(len(data))]
        else:
            reach = len(data) if turn % 3 == 1 else min(len(data), 1500)
            for position in generator.integers(0, reach, generator.integers(1, 8)):
                data[position] = generator.integers(256)
        try:
            decoded = decode_image(bytes(data))
        except UnreadableImage as error:
            assert 10 < len(error.reason) < 120
        else:
            assert decoded.pixels.shape == (decoded.height, decoded.width, 3)


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "TIFF", "BMP", "WEBP"])
def test_a_file_cut_in_half_is_unreadable(kind: str) -> None:
    data = encode(Image.fromarray(np.kron(PIXELS, np.ones((9, 9, 1), np.uint8))), kind)
    reason(data[: len(data) // 2])


def test_image_names(tmp_path: Path) -> None:
    for name in ("a.png", "b.JPG", "c.jpeg", "d.TIF", "e.tiff", "f.bmp", "g.WebP", "h.gif"):
        assert is_image_name(tmp_path / name)
    assert is_image_name(tmp_path / "i.dcm")
    assert is_image_name(tmp_path / "j.DICOM")
    for name in ("k.txt", "l.csv", "m.npz", "n.png.part", "none"):
        assert not is_image_name(tmp_path / name)
    dicom = (BUNDLED / "CT_small.dcm").read_bytes()
    for name in ("IM0001", "1.2.840.113619.2.55.3"):  # named by number, or by UID
        (tmp_path / name).write_bytes(dicom)
        assert is_image_name(tmp_path / name)
    (tmp_path / "README").write_text("DICM " * 100)
    assert not is_image_name(tmp_path / "README")
    assert not is_image_name(tmp_path)


def test_a_dicom_file_of_any_extension_is_an_image(tmp_path: Path) -> None:
    dicom = (BUNDLED / "CT_small.dcm").read_bytes()
    for name in ("a.IMA", "b.mr", "c.v2"):
        (tmp_path / name).write_bytes(dicom)
        assert is_image_name(tmp_path / name)
    (tmp_path / "d.mr").write_bytes(b"something else")
    assert not is_image_name(tmp_path / "d.mr")


def test_a_file_that_may_not_be_read_is_left_to_its_reader(
    tmp_path: Path, as_owner: Callable[[], AbstractContextManager[None]]
) -> None:
    for name in ("IM0001", "1.2.840", "notes.txt", "other.abc"):
        (tmp_path / name).touch(mode=0)
    with as_owner():
        found = {path.name for path in tmp_path.iterdir() if is_image_name(path)}
        with pytest.raises(UnreadableImage, match="Permission denied"):
            read_image(tmp_path / "IM0001")
    assert found == {"IM0001", "1.2.840"}


def test_a_square_of_the_right_size_stays_as_it_is() -> None:
    square = PIXELS[:5, :5]
    for fit in FITS:
        assert np.array_equal(fit_to_square(square, size=5, fit=fit), square)


def test_pad_resizes_once_and_centres() -> None:
    wide = np.random.default_rng(1).integers(1, 256, (16, 32, 3), dtype=np.uint8)
    fitted = fit_to_square(wide, size=8, fit="pad")
    assert not fitted[:2].any()
    assert not fitted[6:].any()
    expected = Image.fromarray(wide).resize((8, 4), Image.Resampling.BILINEAR)
    assert np.array_equal(fitted[2:6], np.asarray(expected))
    exact = fit_to_square(wide[:, :8], size=16, fit="pad")  # nothing to resize: pixels stay
    assert np.array_equal(exact[:, 4:12], wide[:, :8])
    line = fit_to_square(np.full((100, 1, 3), 9, np.uint8), size=10, fit="pad")
    assert (line[:, 4] == 9).all()
    assert line.sum() == 9 * 10 * 3


def test_crop_and_stretch() -> None:
    image = np.zeros((4, 8, 3), np.uint8)
    image[:, 2:6] = 200
    assert (fit_to_square(image, size=4, fit="crop") == 200).all()
    assert fit_to_square(image, size=2, fit="crop").shape == (2, 2, 3)
    stretched = fit_to_square(image, size=8, fit="stretch")
    assert np.array_equal(stretched[0], image[0])
    line = fit_to_square(np.full((100, 1, 3), 9, np.uint8), size=10, fit="crop")
    assert (line == 9).all()
    with pytest.raises(ValueError, match="pad, crop, stretch"):
        fit_to_square(image, size=4, fit="squeeze")


def test_grey_takes_one_channel_and_cannot_be_written_to() -> None:
    grey = Image.fromarray(PIXELS[:, :, 0])
    for image in (grey, grey.convert("RGB"), grey.convert("RGBA"), grey.convert("LA")):
        pixels = decode_image(encode(image, "PNG")).pixels
        assert (pixels.shape, pixels.strides[2]) == ((5, 7, 3), 0)
        assert np.array_equal(pixels, np.asarray(grey.convert("RGB")))
        assert not pixels.flags.writeable
        assert to_pillow(pixels).mode == "L"


@pytest.mark.parametrize("channel", [0, 1, 2])
@pytest.mark.parametrize("row", [0, 63, 64, 100, 149])
def test_one_pixel_of_colour_is_enough(row: int, channel: int) -> None:
    grey = np.random.default_rng(2).integers(0, 256, (150, 9), dtype=np.uint8)
    colour = np.array(as_rgb(grey))
    colour[row, 8, channel] ^= 1
    for pixels in (colour, decode_image(encode(Image.fromarray(colour), "PNG")).pixels):
        assert find_grey(pixels) is None
        assert share_grey(pixels) is pixels
        assert to_pillow(pixels).mode == "RGB"
        assert np.array_equal(pixels, colour)
        assert content_key(pixels) == content_key(colour) != content_key(as_rgb(grey))


def test_the_key_tells_shapes_and_channels_apart() -> None:
    row = np.arange(12, dtype=np.uint8)
    shapes = [as_rgb(row.reshape(shape)) for shape in ((1, 12), (12, 1), (3, 4), (4, 3))]
    shapes.append(row.reshape(2, 2, 3))
    shapes.append(row.reshape(1, 4, 3))
    assert len({content_key(pixels) for pixels in shapes}) == len(shapes)
    for pixels in shapes:  # nor does it matter how they lie in memory
        assert content_key(np.asfortranarray(pixels)) == content_key(np.array(pixels))
        assert content_key(pixels) == content_key(np.array(pixels))


@pytest.mark.parametrize("fit", FITS)
@pytest.mark.parametrize("shape", [(40, 61), (61, 40), (3, 50), (24, 24), (1, 1)])
def test_grey_fits_the_square_as_colour_does(shape: tuple[int, int], fit: str) -> None:
    grey = np.random.default_rng(4).integers(0, 256, shape, dtype=np.uint8)
    one_channel = resize_to_square(Image.fromarray(grey), size=24, fit=fit)
    colour = np.array(as_rgb(grey))
    three_channels = resize_to_square(Image.fromarray(colour), size=24, fit=fit)
    assert one_channel.shape == (24, 24, 3)
    assert np.array_equal(one_channel, three_channels)
    for pixels in (colour, as_rgb(grey)):
        assert np.array_equal(fit_to_square(pixels, size=24, fit=fit), three_channels)


def test_the_patient_is_the_same_from_the_header_alone() -> None:
    patients = set()
    for path in sorted(BUNDLED.glob("*.dcm")):
        data = path.read_bytes()
        try:
            patient = decode_image(data).patient
        except UnreadableImage:
            continue
        assert read_patient(data) == patient
        patients.add(patient)
    assert len(patients) > 10
    assert read_patient(encode(Image.fromarray(PIXELS), "PNG")) == ""


def test_stretch_leaves_out_what_is_not_used() -> None:
    values = np.array([-2000, 0, 50, 100])
    greys, lowest, highest = stretch(values, values > -2000)
    assert (greys.tolist(), lowest, highest) == ([0, 0, 128, 255], 0, 100)


@pytest.mark.shared_data
def test_the_real_images_are_read(shared: Path) -> None:
    names = [
        *sorted((shared / "data" / "pneumoniamnist").rglob("*.png"))[::500],
        *sorted((shared / "data" / "brain_mri_4class").rglob("*.jpg"))[::500],
        *sorted((shared / "data" / "blood_wbc_original").rglob("*.jp*g"))[::50],
    ]
    assert len(names) > 20
    for name in names:
        decoded = read_image(name)
        assert decoded.mode in ("L", "RGB")
        assert read_size(name) == (decoded.width, decoded.height)
        assert np.ptp(decoded.pixels) > 50


@pytest.mark.skipif(not Path("/proc/self/mem").exists(), reason="no file that cannot be read")
def test_a_disk_that_fails_in_the_middle_is_not_damage() -> None:
    with pytest.raises(UnreadableImage) as raised:
        read_image(Path("/proc/self/mem"))  # opens, and then gives EIO
    assert raised.value.reason == f"{CANNOT_BE_OPENED}{os.strerror(errno.EIO)}."


def test_a_header_that_points_past_all_files_is_damage(tmp_path: Path) -> None:
    path = tmp_path / "far.tif"
    for place in (2**63 - 1, 2**64 - 1):
        path.write_bytes(b"II+\0\x08\0\0\0" + struct.pack("<Q", place) + bytes(100))
        with pytest.raises(UnreadableImage, match="damaged"):
            read_image(path)
