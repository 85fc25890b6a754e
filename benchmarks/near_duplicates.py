"""The search for near-duplicates: how its time grows, and which copies it finds.

    python benchmarks/near_duplicates.py --out near_duplicates.json

The time is that of `find_near_duplicates` on pictures made up here: twenty coarse shapes, as images
of few kinds are alike, and fine structure of each picture's own. One picture in a hundred is a
darker copy of another, and all of these must be found and nothing else. The exponent between two
sizes is log(t2 / t1) / log(n2 / n1): 1 is linear, 2 is quadratic.

The recall is that of phantoms and their changed copies, or of the images of a folder (--images).
"""

from __future__ import annotations

import argparse
import io
import math
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from measure import write_result
from PIL import Image, ImageDraw

from medlens.data.images import is_image_name, read_image, to_pillow
from medlens.data.near_duplicates import THUMBNAIL_SIDE, find_near_duplicates, fingerprint
from medlens.data.phantom import draw_phantom

SHAPES = 20
# One picture in so many is a copy of the one before.
ONE_IN = 100
DARKER = 0.9


def main() -> None:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, help="where to write the results as JSON")
    parser.add_argument("--sizes", type=int, nargs="+", default=[1_000, 10_000, 100_000])
    parser.add_argument("--images", type=Path, help="a folder of images for the recall")
    parser.add_argument("--most-images", type=int, default=200, help="how many of them to take")
    options = parser.parse_args()
    times = measure_times(sorted(options.sizes))
    recall = measure_recall(draw_originals(options.images, options.most_images))
    write_result(options.out, {"times": times, "recall": recall})


def measure_times(sizes: Sequence[int]) -> list[dict[str, Any]]:
    """Seconds of the search for each size."""
    spectrum = draw_spectrum(2.0), draw_spectrum(1.0)
    shapes = [draw_field(np.random.default_rng([0, one]), spectrum[0]) for one in range(SHAPES)]

    def draw(number: int) -> np.ndarray:
        is_copy = number % ONE_IN == ONE_IN - 1
        generator = np.random.default_rng([1, number - is_copy])
        shape = shapes[generator.integers(SHAPES)]
        field = shape + 0.7 * draw_field(generator, spectrum[1])
        greys = np.clip(128 + 30 * field, 0, 255)
        return np.rint(greys * DARKER if is_copy else greys).astype(np.uint8)

    results: list[dict[str, Any]] = []
    for size in sizes:
        texts = [fingerprint(Image.fromarray(draw(number))).text for number in range(size)]
        keys = [f"{number:064x}" for number in range(size)]
        clock, processor = time.perf_counter(), time.process_time()
        found = find_near_duplicates(texts, keys, lambda some: np.stack([*map(draw, some)]))
        seconds, spent = time.perf_counter() - clock, time.process_time() - processor
        planted = {(one - 1, one) for one in range(ONE_IN - 1, size, ONE_IN)}
        pairs = {(pair.first, pair.second) for pair in found}
        exponent = None
        if results:
            growth = math.log(spent / results[-1]["processor_seconds"])
            exponent = growth / math.log(size / results[-1]["images"])
        results.append(
            {
                "images": size,
                "seconds": seconds,
                "processor_seconds": spent,
                "exponent": exponent,
                "planted": len(planted),
                "found": len(planted & pairs),
                "false": len(pairs - planted),
            }
        )
        print(
            f"{size:8,} images {seconds:8.2f} s  {spent:8.2f} s of processor  exponent "
            f"{'' if exponent is None else f'{exponent:.2f}':>5}  {len(planted & pairs):,} of "
            f"{len(planted):,} copies found, {len(pairs - planted):,} false",
            flush=True,
        )
    return results


def draw_spectrum(steepness: float) -> np.ndarray:
    """Amplitude of each frequency of a field of thumbnail size."""
    side = THUMBNAIL_SIDE
    frequency = np.hypot(np.fft.fftfreq(side)[:, None], np.fft.rfftfreq(side)[None])
    return np.where(frequency > 0, np.maximum(frequency, 1 / side) ** -steepness, 0)


def draw_field(generator: np.random.Generator, spectrum: np.ndarray) -> np.ndarray:
    """A random field of mean 0 and spread 1."""
    noise = generator.standard_normal((THUMBNAIL_SIDE, THUMBNAIL_SIDE))
    field = np.fft.irfft2(np.fft.rfft2(noise) * spectrum, s=noise.shape)
    return np.asarray(field / field.std())


def draw_originals(folder: Path | None, most: int) -> list[Image.Image]:
    """Grey images of a folder, evenly taken; phantoms without one."""
    if folder is None:
        return [
            Image.fromarray(draw_phantom("healthy", size=224, patient=one + 1).pixels)
            for one in range(most)
        ]
    paths = sorted(path for path in folder.rglob("*") if path.is_file() and is_image_name(path))
    step = max(1, len(paths) // most)
    return [to_pillow(read_image(path).pixels).convert("L") for path in paths[::step][:most]]


def measure_recall(originals: Sequence[Image.Image]) -> list[dict[str, Any]]:
    """Share of the originals that are found to be tied to their changed copy."""
    results = []

    def read(thumbnails: np.ndarray, some: Sequence[int]) -> np.ndarray:
        return np.asarray(thumbnails[list(some)])

    for name, change in CHANGES.items():
        images = [*originals, *map(change, originals)]
        taken = [fingerprint(image) for image in images]
        thumbnails = np.stack([one.thumbnail for one in taken])
        # Real images may be exact copies of one another, so each is a content of its own here.
        keys = [f"{number:064x}" for number in range(len(images))]
        texts = [one.text for one in taken]
        found = find_near_duplicates(texts, keys, partial(read, thumbnails))
        pairs = {(pair.first, pair.second) for pair in found}
        count = sum((one, one + len(originals)) in pairs for one in range(len(originals)))
        recall = count / len(originals)
        results.append({"change": name, "images": len(originals), "recall": recall})
        print(f"{name:32} {recall:6.1%} of {len(originals):,}", flush=True)
    return results


def as_jpeg(image: Image.Image, quality: int) -> Image.Image:
    """Saved as JPEG and opened again."""
    stream = io.BytesIO()
    image.save(stream, "JPEG", quality=quality)
    return Image.open(stream).convert("L")


def resized(image: Image.Image, scale: float) -> Image.Image:
    """Resized by a good filter."""
    size = round(image.width * scale), round(image.height * scale)
    return image.resize(size, Image.Resampling.LANCZOS)


def cropped(
    image: Image.Image, *, left: float, top: float, right: float, bottom: float
) -> Image.Image:
    """Cut off shares of the width and the height."""
    width, height = image.size
    ends = round((1 - right) * width), round((1 - bottom) * height)
    return image.crop((round(left * width), round(top * height), *ends))


def lettered(image: Image.Image) -> Image.Image:
    """A short text in a corner."""
    image = image.copy()
    ImageDraw.Draw(image).text((6, 6), "L 12:30", fill=255)
    return image


def all_at_once(image: Image.Image) -> Image.Image:
    """Cropped, resized, brightened and saved as JPEG."""
    small = resized(cropped(image, left=0.01, top=0.01, right=0.01, bottom=0.01), 0.75)
    return as_jpeg(small.point([min(255, round(1.1 * grey)) for grey in range(256)]), 75)


CHANGES: dict[str, Callable[[Image.Image], Image.Image]] = {
    "JPEG, quality 90": lambda image: as_jpeg(image, 90),
    "JPEG, quality 75": lambda image: as_jpeg(image, 75),
    "JPEG, quality 50": lambda image: as_jpeg(image, 50),
    "resized to 75 %": lambda image: resized(image, 0.75),
    "resized to 50 %": lambda image: resized(image, 0.5),
    "brightness + 10 %": lambda image: image.point([min(255, round(1.1 * g)) for g in range(256)]),
    "gamma 0.9": lambda image: image.point([round(255 * (g / 255) ** 0.9) for g in range(256)]),
    "cropped, 1 % on each side": lambda image: cropped(
        image, left=0.01, top=0.01, right=0.01, bottom=0.01
    ),
    "cropped, 2 % on the left": lambda image: cropped(image, left=0.02, top=0, right=0, bottom=0),
    "cropped, 2 % on each side": lambda image: cropped(
        image, left=0.02, top=0.02, right=0.02, bottom=0.02
    ),
    "a text in the corner": lettered,
    "cropped, 75 %, + 10 %, JPEG 75": all_at_once,
}


if __name__ == "__main__":
    main()
