"""What small changes of the pictures, such as another scanner makes, do to accuracy and ROC AUC."""

from __future__ import annotations

import io
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from scipy.ndimage import gaussian_filter

from medlens.report.bootstrap import bootstrap_limits, draw_group_weights
from medlens.report.intervals import effective_groups
from medlens.report.measures import (
    Measure,
    mean_roc_auc_measure,
    missing,
    roc_auc_measure,
    score,
    share_measure,
)
from medlens.report.metrics import (
    FloatArray,
    IntArray,
    SplitPredictions,
    rank_images,
    roc_auc,
    weigh,
)

Pictures = NDArray[np.uint8]

MOST_IMAGES = 200
BLUR_PIXELS = 1.0
NOISE_LEVELS = 5.0
JPEG_QUALITY = 50
ROTATION_DEGREES = 5.0
# `score` also draws for metrics that are not asked for here.
FEWEST_DRAWS = 2


@dataclass(frozen=True)
class Change:
    """A small change of a picture.

    Args:
        name: One or two words.
        text: What is done, with its exact strength.
        apply: Picture, RGB, 0 to 255, of shape (size, size, 3), and a generator -> the same shape.
    """

    name: str
    text: str
    apply: Callable[[Pictures, np.random.Generator], Pictures]


def _blur(picture: Pictures, _: np.random.Generator) -> Pictures:
    spread = (BLUR_PIXELS, BLUR_PIXELS, 0)
    return _round(gaussian_filter(picture.astype(np.float64), spread, mode="nearest"))


def _add_noise(picture: Pictures, generator: np.random.Generator) -> Pictures:
    # One value for all three channels: a grey picture stays grey.
    noise = generator.normal(0.0, NOISE_LEVELS, (*picture.shape[:2], 1))
    return _round(picture + noise)


def _compress(picture: Pictures, _: np.random.Generator) -> Pictures:
    is_grey = bool((picture == picture[..., :1]).all())
    stream = io.BytesIO()
    image = Image.fromarray(picture[..., 0].copy() if is_grey else picture)
    image.save(stream, format="JPEG", quality=JPEG_QUALITY)
    with Image.open(stream) as compressed:
        return np.array(compressed.convert("RGB"))


def _brighten(picture: Pictures, _: np.random.Generator, *, factor: float) -> Pictures:
    return _round(picture * factor)


def _stretch_contrast(picture: Pictures, _: np.random.Generator, *, factor: float) -> Pictures:
    mean = picture.mean()
    return _round(mean + (picture - mean) * factor)


def _rotate(picture: Pictures, _: np.random.Generator) -> Pictures:
    turned = Image.fromarray(picture).rotate(ROTATION_DEGREES, Image.Resampling.BILINEAR)
    return np.array(turned)


def _round(values: NDArray[np.floating[Any]]) -> Pictures:
    rounded: Pictures = np.clip(np.rint(values), 0, 255).astype(np.uint8)
    return rounded


CHANGES: tuple[Change, ...] = (
    Change(
        "blur",
        f"Gaussian blur with a standard deviation of {BLUR_PIXELS:g} pixel of the network's input",
        _blur,
    ),
    Change(
        "noise",
        f"Gaussian noise with a standard deviation of {NOISE_LEVELS:g} of 255 grey levels",
        _add_noise,
    ),
    Change("JPEG", f"JPEG compression of quality {JPEG_QUALITY}", _compress),
    Change("brighter", "all values times 1.1", partial(_brighten, factor=1.1)),
    Change("darker", "all values times 0.9", partial(_brighten, factor=0.9)),
    Change(
        "more contrast",
        "distance of all values from the picture's mean times 1.1",
        partial(_stretch_contrast, factor=1.1),
    ),
    Change(
        "less contrast",
        "distance of all values from the picture's mean times 0.9",
        partial(_stretch_contrast, factor=0.9),
    ),
    Change(
        "rotation",
        f"turned by {ROTATION_DEGREES:g} degrees to the left, the corners filled with black",
        _rotate,
    ),
)


def draw_by_group(groups: Sequence[Any] | NDArray[Any], most: int, seed: int) -> NDArray[np.intp]:
    """Draw whole groups of images until one does not fit: small groups are not preferred.

    Args:
        groups: The group of each image.
        most: The most images in all, 1 or more.
        seed: Of the draw.

    Returns:
        Ascending row numbers, at most `most`; all of them where they are no more. Of a first
        group larger than `most`, as many of its images.
    """
    numbers = np.unique(np.asarray(groups), return_inverse=True)[1]
    if len(numbers) <= most:
        return np.arange(len(numbers))
    sizes = np.bincount(numbers)
    order = np.random.default_rng([seed, most]).permutation(len(sizes))
    left, chosen = most, []
    for group in order:
        if sizes[group] > left:
            break
        chosen.append(group)
        left -= sizes[group]
    if not chosen:
        return np.flatnonzero(numbers == order[0])[:most]
    return np.flatnonzero(np.isin(numbers, chosen))


def change_pictures(pictures: Pictures, change: Change, seed: int) -> Pictures:
    """Apply a change to every picture.

    Args:
        pictures: RGB, 0 to 255, of shape (n, size, size, 3).
        change: One of `CHANGES`.
        seed: Of the noise; a picture's noise depends on its place among the pictures.
    """
    changed = np.empty_like(pictures)
    for number, picture in enumerate(pictures):
        changed[number] = change.apply(picture, np.random.default_rng([seed, number]))
    return changed


def robustness_block(
    run: Callable[[Pictures], NDArray[np.floating[Any]]],
    pictures: Pictures,
    truth: IntArray,
    groups: Sequence[Any] | NDArray[Any],
    classes: Sequence[str],
    seed: int,
    draws: int,
) -> list[dict[str, Any]]:
    """Measure the classifier on the pictures as they are, then under each of `CHANGES`.

    Args:
        run: Pictures of shape (n, size, size, 3), uint8 -> probabilities of shape (n, classes).
        pictures: Test pictures at the network's size, at most `MOST_IMAGES` of them as a rule.
        truth: Class numbers of shape (n,).
        groups: The group of each picture.
        classes: Class names, in the order of the probabilities.
        seed: Of noise and bootstrap.
        draws: How many bootstrap draws.

    Returns:
        One entry for the unchanged pictures and one for each change: change, text, accuracy,
        roc_auc_macro, and the paired differences to the unchanged pictures, accuracy_difference
        and roc_auc_macro_difference (below 0 where the change does harm).
    """
    numbers = np.unique(np.asarray(groups), return_inverse=True)[1].astype(np.int64)
    before = _predict(run, pictures, truth, numbers)
    reason = "these are the pictures that the others are compared with"
    block = [
        {
            "change": "unchanged",
            "text": "the pictures as they are",
            **_measures(before, classes),
            "accuracy_difference": missing(reason),
            "roc_auc_macro_difference": missing(reason),
        }
    ]
    for number, change in enumerate(CHANGES):
        after = _predict(run, change_pictures(pictures, change, seed), truth, numbers)
        generator = np.random.default_rng([seed, number])
        block.append(
            {
                "change": change.name,
                "text": change.text,
                **_measures(after, classes),
                **_differences(before, after, classes, generator, draws),
            }
        )
    return block


def _predict(
    run: Callable[[Pictures], NDArray[np.floating[Any]]],
    pictures: Pictures,
    truth: IntArray,
    groups: IntArray,
) -> SplitPredictions:
    probabilities = np.asarray(run(pictures), np.float64)
    predicted = probabilities.argmax(axis=1).astype(np.int64)
    return SplitPredictions(truth, predicted, probabilities, groups)


def _measures(split: SplitPredictions, classes: Sequence[str]) -> dict[str, Measure]:
    scored = score(split, classes, (0, 0), FEWEST_DRAWS)
    everything = np.ones(len(split.truth), dtype=bool)
    area = roc_auc_measure(scored, 1) if len(classes) == 2 else mean_roc_auc_measure(scored)
    right = split.truth == split.predicted
    return {"accuracy": share_measure(split, right, everything), "roc_auc_macro": area}


def _differences(
    before: SplitPredictions,
    after: SplitPredictions,
    classes: Sequence[str],
    generator: np.random.Generator,
    draws: int,
) -> dict[str, Measure]:
    """After less before, both on the same groups in every draw."""
    count = before.group_count
    counts = np.bincount(before.groups, minlength=count).astype(np.float64)
    gains = np.bincount(before.groups, _is_right(after) - _is_right(before), minlength=count)
    ones = np.ones((count, 1))
    pairs = [_rankings(split) for split in (before, after)]
    shares, areas = [], []
    for weights in draw_group_weights(generator, count, draws):
        shares.append((gains @ weights) / (counts @ weights))
        areas.append(_mean_area(pairs[1], weights) - _mean_area(pairs[0], weights))
    value = float(gains.sum() / counts.sum())
    accuracy = _difference(value, np.concatenate(shares), before, effective_groups(counts), 1)
    absent = [name for number, name in enumerate(classes) if not (before.truth == number).any()]
    if absent:
        return {
            "accuracy_difference": accuracy,
            "roc_auc_macro_difference": missing("no image of class " + ", ".join(absent)),
        }
    area = float((_mean_area(pairs[1], ones) - _mean_area(pairs[0], ones))[0])
    sides = _fewest_groups(before)
    return {
        "accuracy_difference": accuracy,
        "roc_auc_macro_difference": _difference(area, np.concatenate(areas), before, sides, 2),
    }


def _difference(
    value: float, drawn: FloatArray, split: SplitPredictions, groups: float, sides: int
) -> Measure:
    """A paired difference with its interval.

    Where no draw differs, the interval says which share of groups may be unlike those seen
    (Hanley and Lippman-Hand, JAMA 249 (1983), 1743-1745): an accuracy can differ by that share, an
    AUC, whose pairs have two sides, by twice as much.
    """
    limits = bootstrap_limits(value, drawn, groups, (-1.0, 1.0))
    method = f"paired bootstrap over {split.group_count} groups, {len(drawn)} draws"
    if limits is None and not np.nan_to_num(drawn).any():
        reach = min(1.0, sides * (1 - 0.025 ** (1 / groups)))
        limits = (value - reach, value + reach)
        method = "bound on the share of groups unlike those seen"
    if limits is None:
        return missing("too few groups of a class for an interval")
    return {
        "value": value,
        "ci95": [float(limits[0]), float(limits[1])],
        "n": len(split.truth),
        "groups": split.group_count,
        "method": method,
    }


def _is_right(split: SplitPredictions) -> FloatArray:
    return np.asarray(split.truth == split.predicted, np.float64)


def _rankings(split: SplitPredictions) -> list[Any]:
    """Of each class with images; of two classes one says it all."""
    numbers = range(1, 2) if split.class_count == 2 else range(split.class_count)
    return [
        rank_images(
            split.truth == number, split.probabilities[:, number], split.groups, split.group_count
        )
        for number in numbers
        if (split.truth == number).any()
    ]


def _mean_area(rankings: Sequence[Any], weights: FloatArray) -> FloatArray:
    if not rankings:
        return np.full(weights.shape[1], np.nan)
    return np.asarray(np.mean([roc_auc(weigh(one, weights)) for one in rankings], axis=0))


def _fewest_groups(split: SplitPredictions) -> float:
    """Effective number of groups of the class, or of its opposite, that has the fewest."""
    found = []
    for number in range(split.class_count):
        for side in (split.truth == number, split.truth != number):
            sizes = np.bincount(split.groups[side])
            found.append(effective_groups(sizes[sizes > 0]))
    return min(found)
