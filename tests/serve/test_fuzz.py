"""Thousands of damaged images through `predict`: no crash, no hang, an answer or a reason."""

from __future__ import annotations

import io
import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pydicom.data
import pytest
from PIL import Image

import medlens
from medlens.cli import NOT_WHOLE, main

BUNDLED = Path(pydicom.data.__file__).parent / "test_files"
LARGEST_SEED = 60_000
AT_ONCE = 1000
# Reads each file under a watch of 10 s, and says what came of it. It runs by itself, so that a
# crash of the process is seen and not suffered.
CHILD = """
import faulthandler, json, sys
from pathlib import Path
import numpy as np
import medlens

classifier = medlens.load(sys.argv[1])
files = [line for line in Path(sys.argv[2]).read_text().splitlines()]
classifier.read(files[0])  # the decoders' own process has started after these
log = open(sys.argv[3], "w", buffering=1)
pictures = []
for file in files:
    print("begins", Path(file).name, file=log)
    faulthandler.dump_traceback_later(10, exit=True)
    pictures.append(classifier.read(file))
    faulthandler.cancel_dump_traceback_later()
table = classifier.tell(files, pictures)
table.to_json(log, orient="records", lines=True)
"""


def pillow_files() -> Iterator[tuple[str, bytes]]:
    """Small files of the formats and modes that Pillow writes."""
    noise = np.random.default_rng(0).integers(0, 256, (40, 56, 4), np.uint8)
    noise[8:30] //= 8
    colour = Image.fromarray(noise[..., :3])
    deep = Image.fromarray(noise[..., 0].astype(np.uint16) * 200)
    for mode in ("1", "L", "P", "RGB", "RGBA", "LA"):
        yield from written(f"{mode}.png", colour.convert(mode), "PNG")
    yield from written("deep.png", deep, "PNG")
    yield from written("plain.jpg", colour, "JPEG")
    yield from written("progressive.jpg", colour, "JPEG", progressive=True, quality=60)
    yield from written("grey.jpg", colour.convert("L"), "JPEG")
    yield from written("cmyk.jpg", colour.convert("CMYK"), "JPEG")
    for compression in ("raw", "tiff_lzw", "tiff_adobe_deflate", "packbits", "jpeg"):
        yield from written(f"{compression}.tif", colour, "TIFF", compression=compression)
    yield from written("deep.tif", deep, "TIFF", compression="tiff_lzw")
    yield from written("float.tif", colour.convert("F"), "TIFF")
    yield from written("group4.tif", colour.convert("1"), "TIFF", compression="group4")
    yield from written("plain.bmp", colour, "BMP")
    yield from written("palette.bmp", colour.convert("P"), "BMP")
    more = [colour.rotate(angle) for angle in (90, 180)]
    yield from written("moving.gif", colour, "GIF", save_all=True, append_images=more)
    yield from written("lossy.webp", colour, "WEBP")
    yield from written("lossless.webp", colour, "WEBP", lossless=True)


def written(name: str, image: Image.Image, kind: str, **how: object) -> Iterator[tuple[str, bytes]]:
    stream = io.BytesIO()
    image.save(stream, kind, **how)  # type: ignore[arg-type]
    yield name, stream.getvalue()


def sound_files(shared: Path | None) -> list[tuple[str, bytes]]:
    """What is damaged: files of pydicom, of Pillow and, where there are any, real ones."""
    found = list(pillow_files())
    for path in sorted(BUNDLED.glob("*.dcm")):
        if path.stat().st_size <= LARGEST_SEED:
            found.append((path.name, path.read_bytes()))
    if shared is not None:
        for folder in sorted((shared / "data").iterdir()):
            paths = (
                sorted(path for path in folder.rglob("*") if path.is_file())
                if folder.is_dir()
                else []
            )
            images = [path for path in paths if path.suffix.lower() in (".jpg", ".png", ".dcm")]
            for path in images[:: max(1, len(images) // 4)][:4]:
                if path.stat().st_size <= 10 * LARGEST_SEED:
                    found.append((path.name, path.read_bytes()))
    return found


def damage(content: bytes, other: bytes, random: np.random.Generator) -> bytes:
    """Damage a file in one to three of many ways; the same numbers damage alike."""
    data = bytearray(content)
    for _ in range(int(random.integers(1, 4))):
        if not data:
            break
        # Half of all damage is near the beginning, where the headers are.
        near = min(len(data), 600) if random.random() < 0.5 else len(data)
        start = int(random.integers(near))
        length = int(random.integers(1, 1 + min(64, len(data) - start)))
        kind = int(random.integers(8))
        if kind == 0:
            for place in random.integers(near, size=int(random.integers(1, 33))):
                data[place] ^= 1 << int(random.integers(8))
        elif kind == 1:
            data[start : start + length] = random.bytes(length)
        elif kind == 2:
            del data[start:]
        elif kind == 3:
            del data[start : start + length]
        elif kind == 4:
            data[start:start] = data[start : start + length]
        elif kind == 5:
            where = int(random.integers(len(other)))
            data[start : start + length] = other[where : where + int(random.integers(1, 512))]
        elif kind == 6:
            value = (b"\x00", b"\xff", b"\x7f", b"\x80")[int(random.integers(4))]
            data[start : start + 4] = value * 4
        else:
            data = data[:start] + bytearray(other[start:])
    return bytes(data)


def write_damaged(
    folder: Path, seeds: list[tuple[str, bytes]], numbers: range, seed: int
) -> list[Path]:
    folder.mkdir(parents=True)
    files = []
    for number in numbers:
        random = np.random.default_rng([seed, number])
        name, content = seeds[number % len(seeds)]
        other = seeds[int(random.integers(len(seeds)))][1]
        path = folder / f"{number:05d}-{name}"
        path.write_bytes(damage(content, other, random))
        files.append(path)
    return files


def fuzz(
    run: medlens.Run, folder: Path, seeds: list[tuple[str, bytes]], count: int, seed: int
) -> tuple[int, int]:
    """Send damaged files through the classifier; returns how many were answered and refused."""
    classes = run.evaluation["classes"]
    answered = refused = 0
    for first in range(0, count, AT_ONCE):
        here = folder / str(first)
        files = write_damaged(here, seeds, range(first, min(first + AT_ONCE, count)), seed)
        listed, log = here / "list.txt", here / "log.txt"
        listed.write_text("\n".join(map(str, files)), encoding="utf-8")
        command = [sys.executable, "-c", CHILD, str(run.path), str(listed), str(log)]
        done = subprocess.run(command, capture_output=True, text=True)
        lines = log.read_text(encoding="utf-8").splitlines()
        assert done.returncode == 0, f"{lines[-1]}: {done.stderr[-3000:]}"
        said = [json.loads(line) for line in lines if line.startswith("{")]
        assert [row["path"] for row in said] == [str(path) for path in files]
        for row, path in zip(said, files, strict=True):
            probable = [row[f"prob_{name}"] for name in classes]
            if row["unreadable"]:
                refused += 1
                assert row["predicted"] == ""
                assert probable == [None] * len(classes)
                assert path.stem not in row["unreadable"]
                assert 5 < len(row["unreadable"]) < 200
            else:
                answered += 1
                assert row["predicted"] in classes
                assert sum(probable) == pytest.approx(1)
            path.unlink()
    return answered, refused


def test_some_damaged_files_go_through_the_command(
    finished_run: medlens.Run, tmp_path: Path
) -> None:
    seeds = sound_files(None)
    write_damaged(tmp_path / "in", seeds, range(2 * len(seeds)), seed=1)
    out = tmp_path / "out.json"
    status = main(["predict", str(finished_run.path), str(tmp_path / "in"), "-o", str(out)])
    said = json.loads(out.read_text(encoding="utf-8"))
    assert len(said) == 2 * len(seeds)
    refused = [row for row in said if row["unreadable"]]
    assert len(said) // 5 < len(refused) < len(said)
    assert status == NOT_WHOLE


def test_a_few_hundred_damaged_files(finished_run: medlens.Run, tmp_path: Path) -> None:
    answered, refused = fuzz(finished_run, tmp_path, sound_files(None), count=400, seed=0)
    assert min(answered, refused) > 40


@pytest.mark.slow
@pytest.mark.shared_data
def test_thousands_of_damaged_files(
    finished_run: medlens.Run, shared: Path, tmp_path: Path
) -> None:
    answered, refused = fuzz(finished_run, tmp_path, sound_files(shared), count=6000, seed=2)
    assert answered + refused == 6000
    assert min(answered, refused) > 600
