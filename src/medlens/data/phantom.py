"""The synthetic data set of the demo and the tests: breast tissue, with and without a lesion."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from medlens.errors import MedlensError
from medlens.files import write_bytes

Array = NDArray[np.float64]
Box = tuple[int, int, int, int]

CLASSES = ("healthy", "mass", "microcalcification")
COLUMNS = (
    *("path", "label", "patient", "site", "age", "sex"),
    *("lesion_left", "lesion_top", "lesion_right", "lesion_bottom"),
)
SITES = ("Eastfield", "Northgate", "Westbrook")
SMALLEST_SIZE = 32
MOST_IMAGES_PER_PATIENT = 4
# Lengths below are in pixels of an image of this size; others are drawn to scale.
REFERENCE_SIZE = 64
# Of the patients with several images, the share of which one shows the other, healthy side.
HEALTHY_SIDE = 0.2
# Grey levels, drawn per image whatever its class. With the extremes bent in towards BEND spreads,
# no pixel reaches black or white, so that nothing is clipped and the drawn values hold.
MEAN_RANGE = (116.0, 136.0)
SPREAD_RANGE = (28.0, 34.0)
BEND = 2.8
# The dark halo round a mass takes back this share of its brightness, so that the edges of the
# image are hardly darker for it.
HALO = 0.3


@dataclass(frozen=True)
class Phantom:
    """One synthetic image.

    Args:
        pixels: Grey levels, shape (size, size).
        label: One of `CLASSES`.
        patient: Such as "P0012".
        lesion: The lesion's box in pixels: left, top, right, bottom, the last two exclusive;
            None where the tissue is healthy.
    """

    pixels: NDArray[np.uint8]
    label: str
    patient: str
    lesion: Box | None


def write_phantoms(
    folder: Path,
    *,
    images: int = 360,
    size: int = 64,
    seed: int = 0,
    patients: int | None = None,
    classes: Sequence[str] = CLASSES,
) -> Path:
    """Write the data set: a folder of PNG files per class, and labels.csv beside them.

    The same arguments give the same bytes. The classes have the same number of images, give or
    take one. A patient has one to four images and mostly one label. Site, age and sex are drawn per
    patient whatever the label, and all files have the same number of bytes, so that only the
    picture tells the classes apart.

    Args:
        folder: Where to write; PNG files that are there must be of the same set.
        images: Number of images, at least one per class.
        size: Side of the square images in pixels, at least 32.
        seed: Seed of everything random.
        patients: Number of patients, between a quarter of `images` and all of it; None for two in
            five.
        classes: Which of `CLASSES` to draw.

    Returns:
        The path of labels.csv. Lesion boxes stand in it as `Phantom` has them.

    Raises:
        MedlensError: If an argument is out of range, or the folder holds other PNG files.
    """
    patients = -(-2 * images // 5) if patients is None else patients
    _check_picture(size, classes)
    _check_numbers(images=images, classes=len(classes), patients=patients)
    generator = np.random.default_rng([seed])
    counts = _images_per_patient(images, patients, generator)
    labels = _labels(counts, sorted(classes), generator)
    brightness = _spread_evenly(labels, generator)
    people = _people(patients, generator)
    places = [(patient, image) for patient in range(patients) for image in range(counts[patient])]
    paths = [
        f"{label}/{_patient_name(patient + 1)}_{image + 1}.png"
        for (patient, image), label in zip(places, labels, strict=True)
    ]
    _check_folder(folder, paths)
    rows: list[Sequence[object]] = [COLUMNS]
    for number, (patient, image) in enumerate(places):
        phantom = draw_phantom(
            labels[number],
            size=size,
            seed=seed,
            patient=patient + 1,
            image=image + 1,
            brightness=brightness[number],
        )
        write_bytes(folder / paths[number], _png(phantom.pixels))
        box = phantom.lesion or ("",) * 4
        rows.append((paths[number], phantom.label, phantom.patient, *people[patient], *box))
    labels_file = folder / "labels.csv"
    write_bytes(labels_file, _csv(rows))
    return labels_file


def holds_phantoms(folder: Path, images: int = 360) -> bool:
    """Whether a folder holds a set that `write_phantoms` wrote, with all its pictures.

    Args:
        folder: The folder.
        images: Number of images of the set.
    """
    try:
        with (folder / "labels.csv").open(encoding="utf-8", newline="") as stream:
            header, *rows = csv.reader(stream)
    except (OSError, ValueError, csv.Error):  # no such file, an empty one, or no text
        return False
    is_own = tuple(header) == COLUMNS and len(rows) == images
    return is_own and all((folder / row[0]).is_file() for row in rows if row)


def draw_phantom(
    label: str,
    *,
    size: int = 64,
    seed: int = 0,
    patient: int = 1,
    image: int = 1,
    brightness: tuple[float, float] | None = None,
) -> Phantom:
    """Draw one image; the same arguments but for the label give the same tissue.

    After the lesion is drawn, the image is brought to a mean and a spread that have nothing to do
    with the label.

    Args:
        label: One of `CLASSES`.
        size: Side of the square image in pixels, at least 32.
        seed: Seed of the data set.
        patient: Number of the patient, from 1. Images of a patient share the tissue's character.
        image: Number of the image among the patient's, from 1.
        brightness: Where the mean and the spread lie in their ranges, 0 to 1 each; None to draw
            them.

    Raises:
        MedlensError: If the label or the size cannot be drawn.
    """
    _check_picture(size, [label])
    character = _draw_character(np.random.default_rng([seed, patient]))
    tissue_generator = np.random.default_rng([seed, patient, image, 1])
    lesion_generator = np.random.default_rng([seed, patient, image, 2])
    picture = _tissue(character, size, tissue_generator)
    box = None
    if label != "healthy":
        draw = _mass if label == "mass" else _microcalcification
        lesion, box = draw(size, lesion_generator)
        picture += lesion
    picture += character.grain * tissue_generator.standard_normal((size, size))
    if brightness is None:
        brightness = (tissue_generator.random(), tissue_generator.random())
    return Phantom(_grey_levels(picture, brightness), label, _patient_name(patient), box)


@dataclass(frozen=True)
class _Character:
    """What the images of one patient share.

    Args:
        steepness: Exponent of the lumps' power spectrum.
        angle: Direction of the fibres in radians.
        stretch: How many times longer than wide the structures are.
        fibres: Height of the fibres, in spreads of the lumps.
        grain: Spread of the detector's noise, in spreads of the lumps.
    """

    steepness: float
    angle: float
    stretch: float
    fibres: float
    grain: float


def _draw_character(generator: np.random.Generator) -> _Character:
    # Mammograms have power spectra near 1 / f ** 3 (Burgess, Jacobson and Judy, Medical Physics
    # 28:419, 2001).
    return _Character(
        steepness=generator.uniform(3.1, 3.4),
        angle=generator.uniform(0.0, np.pi),
        stretch=generator.uniform(1.2, 1.7),
        fibres=generator.uniform(0.3, 0.9),
        grain=generator.uniform(0.1, 0.16),
    )


def _tissue(character: _Character, size: int, generator: np.random.Generator) -> Array:
    """Lumps, fibres, a slow gradient and a few single bright specks, in spreads of the lumps."""
    along, across = _frequencies(size, character.angle)
    frequency = np.hypot(along * character.stretch, across)
    lumps = _noise(size, generator, (frequency**2 + 0.02**2) ** (-character.steepness / 4))
    # Fibres follow the lines on which a smooth field is zero, and fade in and out.
    field = _noise(size, generator, np.exp(-(((frequency - 0.03) / 0.012) ** 2)))
    fading = _noise(size, generator, np.exp(-((frequency / 0.03) ** 2)))
    fibres = np.exp(-((field / 0.16) ** 2)) / (1 + np.exp(-2 * fading))
    specks = generator.uniform(2.0, REFERENCE_SIZE - 2.0, (generator.poisson(1.0), 2))
    picture: Array = lumps + character.fibres * fibres
    return picture + _thickness(size, generator) + _specks(specks, size, generator)


def _thickness(size: int, generator: np.random.Generator) -> Array:
    """The slow change of brightness with the thickness of the tissue: a plane and a bowl."""
    y, x = (2 * centres / REFERENCE_SIZE - 1 for centres in _coordinates(size))
    slope = generator.uniform(-0.5, 0.5, 2)
    bowl = generator.uniform(-0.8, 0.8)
    thickness: Array = slope[0] * x + slope[1] * y + bowl * (x**2 + y**2)
    return thickness


def _mass(size: int, generator: np.random.Generator) -> tuple[Array, Box]:
    """A round or oval lesion with a smooth edge."""
    radius = generator.uniform(8.0, 14.0)
    flatness = generator.uniform(0.75, 1.0)
    edge = generator.uniform(0.7, 1.4)
    angle = generator.uniform(0.0, np.pi)
    reach = radius + 2 * edge
    centre = generator.uniform(reach, REFERENCE_SIZE - reach, 2)
    y, x = _coordinates(size)
    along = np.cos(angle) * (x - centre[0]) + np.sin(angle) * (y - centre[1])
    across = np.cos(angle) * (y - centre[1]) - np.sin(angle) * (x - centre[0])
    distance = np.hypot(along, across / flatness) - radius
    contrast = generator.uniform(2.2, 3.6)
    # The extent of a turned ellipse.
    turned = np.array([[np.cos(angle), np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    half = radius * np.hypot(turned[:, 0], flatness * turned[:, 1]) + 2 * edge
    core = 1 / (1 + np.exp(distance / edge))
    halo = np.exp(-(((distance - 5.0) / 4.0) ** 2))
    lesion = contrast * (core - HALO * halo * core.sum() / halo.sum())
    return lesion, _box(centre - half, centre + half, size)


def _microcalcification(size: int, generator: np.random.Generator) -> tuple[Array, Box]:
    """A cluster of small bright specks."""
    spread = generator.uniform(3.0, 5.0)
    centre = generator.uniform(2.5 * spread, REFERENCE_SIZE - 2.5 * spread, 2)
    offsets = generator.normal(0.0, spread, (generator.integers(10, 20), 2))
    centres = centre + np.clip(offsets, -2 * spread, 2 * spread)
    box = _box(centres.min(axis=0) - 2, centres.max(axis=0) + 2, size)
    return _specks(centres, size, generator), box


def _specks(centres: Array, size: int, generator: np.random.Generator) -> Array:
    """Small bright dots at these places (x, y)."""
    width = generator.uniform(0.6, 1.0, len(centres))
    peak = generator.uniform(2.2, 5.0, len(centres))
    y, x = _coordinates(size)
    columns = np.exp(-(((x.T - centres[:, 0]) / width) ** 2) / 2)
    rows = np.exp(-(((y - centres[:, 1]) / width) ** 2) / 2)
    return np.asarray((rows * peak) @ columns.T)


def _box(low: Array, high: Array, size: int) -> Box:
    """The pixels between two corners (x, y) given at the reference size."""
    scale = size / REFERENCE_SIZE
    left, top = (max(0, int(value)) for value in np.floor(low * scale))
    right, bottom = (min(size, int(value)) for value in np.ceil(high * scale))
    return left, top, right, bottom


def _coordinates(size: int) -> tuple[Array, Array]:
    """The centres of the rows and columns, in pixels of the reference size."""
    centres = (np.arange(size) + 0.5) * REFERENCE_SIZE / size
    return centres[:, None], centres[None, :]


def _frequencies(size: int, angle: float) -> tuple[Array, Array]:
    """Frequencies along a direction and across it, in cycles per pixel of the reference size."""
    scale = size / REFERENCE_SIZE
    canvas = size + size // 2
    y = np.fft.fftfreq(canvas)[:, None] * scale
    x = np.fft.rfftfreq(canvas)[None, :] * scale
    return np.cos(angle) * x + np.sin(angle) * y, np.cos(angle) * y - np.sin(angle) * x


def _noise(size: int, generator: np.random.Generator, amplitude: Array) -> Array:
    """Gaussian noise with a given spectrum, mean 0 and spread 1.

    More than the image is drawn, so that opposite edges do not continue each other.

    Args:
        size: Side of the square.
        generator: Where the noise comes from.
        amplitude: The spectrum's amplitude over the grid of `_frequencies`.
    """
    canvas = amplitude.shape[0]
    real, imaginary = generator.standard_normal((2, *amplitude.shape))
    spectrum = (real + 1j * imaginary) * amplitude
    field = np.fft.irfft2(spectrum, s=(canvas, canvas))[:size, :size]
    return np.asarray((field - field.mean()) / field.std())


def _grey_levels(picture: Array, brightness: tuple[float, float]) -> NDArray[np.uint8]:
    """Bend the extremes in, then set the mean and the spread."""
    picture = (picture - picture.mean()) / picture.std()
    picture = BEND * np.tanh(picture / BEND)
    picture = (picture - picture.mean()) / picture.std()
    mean = np.interp(brightness[0], (0, 1), MEAN_RANGE)
    spread = np.interp(brightness[1], (0, 1), SPREAD_RANGE)
    return np.clip(np.rint(mean + spread * picture), 0, 255).astype(np.uint8)


def _check_picture(size: int, classes: Sequence[str]) -> None:
    if size < SMALLEST_SIZE:
        raise MedlensError(
            "Phantoms of this size would not show their lesions.",
            got=f"{size} pixels",
            expected=f"a side of at least {SMALLEST_SIZE} pixels",
            fix="Ask for larger images.",
        )
    if not classes or len(set(classes)) < len(classes) or not set(classes) <= set(CLASSES):
        raise MedlensError(
            "These classes of phantoms cannot be drawn.",
            got=", ".join(classes) or "none",
            expected="each once, out of " + ", ".join(CLASSES),
            fix="Write the names as they stand above.",
        )


def _check_numbers(*, images: int, classes: int, patients: int) -> None:
    if images < classes:
        raise MedlensError(
            "There are fewer phantoms than classes.",
            got=f"{images} images of {classes} classes",
            expected="at least an image of each class",
            fix="Ask for more images, or for fewer classes.",
        )
    if not patients <= images <= MOST_IMAGES_PER_PATIENT * patients:
        raise MedlensError(
            "The images cannot be shared out among the patients.",
            got=f"{images} images of {patients} patients",
            expected=f"one to {MOST_IMAGES_PER_PATIENT} images per patient",
            fix="Change the number of patients, or leave it out.",
        )


def _check_folder(folder: Path, paths: Sequence[str]) -> None:
    there = {path.relative_to(folder).as_posix() for path in folder.rglob("*.png")}
    others = sorted(there - set(paths))
    if others:
        raise MedlensError(
            "The folder holds pictures that are not of this set of phantoms.",
            got=f"{len(others)} other PNG files",
            expected="a new or an empty folder, or the same set from an earlier call",
            fix="Choose another folder, or empty this one.",
            names=others,
        )


def _images_per_patient(images: int, patients: int, generator: np.random.Generator) -> list[int]:
    """One image each, and the rest at random, up to four."""
    places = np.repeat(np.arange(patients), MOST_IMAGES_PER_PATIENT - 1)
    extra = generator.choice(places, images - patients, replace=False)
    return [int(count) for count in 1 + np.bincount(extra, minlength=patients)]


def _labels(
    counts: Sequence[int], classes: Sequence[str], generator: np.random.Generator
) -> list[str]:
    """A label per image, patient after patient: each class as often, a patient mostly one."""
    images = sum(counts)
    left = {name: (images + i) // len(classes) for i, name in enumerate(reversed(classes))}
    labels = []
    for count in counts:
        shares = np.array([left[name] for name in classes])
        label = classes[int(generator.choice(len(classes), p=shares / shares.sum()))]
        has_healthy_side = count > 1 and generator.random() < HEALTHY_SIDE
        healthy_side = int(generator.integers(count)) if has_healthy_side else None
        for image in range(count):
            wanted = "healthy" if image == healthy_side else label
            if not left.get(wanted):
                wanted = label if left[label] else max(left, key=lambda name: left[name])
            left[wanted] -= 1
            labels.append(wanted)
    return labels


def _spread_evenly(
    labels: Sequence[str], generator: np.random.Generator
) -> list[tuple[float, float]]:
    """A brightness (mean, spread) per image, 0 to 1 each, alike in every class.

    Each class walks the same evenly spread sequence of points (Kronecker's, with powers of the
    plastic number), so that no class is brighter by chance in a small set either.
    """
    start = generator.random(2)
    steps = np.array([0.7548776662466927, 0.5698402909980532])
    walked = dict.fromkeys(labels, 0)
    points = []
    for label in labels:
        walked[label] += 1
        mean, spread = (start + walked[label] * steps) % 1.0
        points.append((float(mean), float(spread)))
    return points


def _people(patients: int, generator: np.random.Generator) -> list[tuple[str, int, str]]:
    """Site, age and sex of each patient."""
    sites = generator.integers(len(SITES), size=patients)
    ages = generator.integers(40, 80, size=patients)
    sexes = generator.integers(2, size=patients)
    return [(SITES[sites[i]], int(ages[i]), "FM"[sexes[i]]) for i in range(patients)]


def _patient_name(patient: int) -> str:
    return f"P{patient:04d}"


def _png(pixels: NDArray[np.uint8]) -> bytes:
    # Not compressed: the size of the file would tell of the picture, and other builds of zlib
    # compress to other bytes.
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, format="PNG", compress_level=0)
    return buffer.getvalue()


def _csv(rows: Sequence[Sequence[object]]) -> bytes:
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows(rows)
    return text.getvalue().encode("utf-8")
