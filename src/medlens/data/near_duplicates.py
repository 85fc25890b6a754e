"""Near-duplicates: one picture saved again, resized, brightened or cropped by a hair."""

from __future__ import annotations

import base64
import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from PIL import Image
from scipy.fft import dct
from scipy.ndimage import gaussian_filter

# Raise it when a change below gives other fingerprints or thumbnails for the same image.
FINGERPRINT_VERSION = 1
THUMBNAIL_SIDE = 64
# With less there is too little detail to tell a copy from a similar image.
SMALLEST_SIDE = 32
FLATTEST_SPREAD = 2.0

# Every number below was chosen on real MRI slices, by looking at pairs and at planted copies.
_FREQUENCIES = 8
# Copies cropped by 1 % on each side mostly lie within 0.22; most slices have no neighbour so near.
_RADIUS = 0.28
# So many nearest images are compared with each image, however many lie within the radius.
_MOST_NEIGHBOURS = 8
# Copies 0.2 apart lie on the same side of the first 17 planes, enough for 100,000 images to be
# sorted apart, in a third of the sortings.
_SORTINGS = 24
_PLANES = 32
_APART = 8
# Where all images are alike, pairs are thinned out at so many times the images, to save memory.
_MOST_PAIRS = 60
_PAIRS_AT_A_TIME = 256
# Decoded and laid side by side at a time, so that there is no second copy of all of them.
_ROWS_AT_A_TIME = 1 << 16
# Largest stretch and largest shift of half a side that still count as the same crop.
_MOST_MOVED = 0.045
_ROUNDS = 4
_BLUR = 1.5
_FINE_BLUR = 0.7
_TEXTURE = 2.0
_LEAST_TEXTURED = 0.05
# Registered at half the size, copies agree by 0.92 or more on average.
_COARSE_AGREEMENT = 0.8
# Local correlation that all but a tenth of the picture must reach. Neighbouring slices come up to
# 0.65; where the thumbnails are smooth, as those of images of 32 px are, up to 0.86.
LEAST_SIMILARITY = 0.8
_LEAST_SIMILARITY_IF_SMOOTH = 0.9
_SMOOTH = 0.16

Array = NDArray[np.floating[Any]]
ReadThumbnails = Callable[[Sequence[int]], NDArray[np.uint8]]


@dataclass(frozen=True)
class Fingerprint:
    """What is kept of an image to find its near-duplicates.

    Args:
        text: Its coarse structure, 84 letters; "" where the image is too small or too flat to tell.
        thumbnail: Greys, 0 to 255, of shape (64, 64).
    """

    text: str
    thumbnail: NDArray[np.uint8]


@dataclass(frozen=True)
class NearDuplicate:
    """Two images that show the same picture without being equal.

    Args:
        first: Index of one image.
        second: Index of the other, larger than `first`.
        similarity: Local correlation of their detail, reached by nine tenths of the picture: from
            `LEAST_SIMILARITY` to 1.
    """

    first: int
    second: int
    similarity: float


def fingerprint(image: Image.Image) -> Fingerprint:
    """Take an image's fingerprint: some low frequencies, and a thumbnail.

    The frequencies are those of the discrete cosine transform, as in perceptual hashes (Zauner,
    Implementation and benchmarking of perceptual image hash functions, 2010), but kept as numbers
    rather than signs, and weighted by the frequency, which evens them out: spectra of images fall
    off with it.

    Args:
        image: Of mode L or RGB.
    """
    small = image.resize(
        (THUMBNAIL_SIDE, THUMBNAIL_SIDE), Image.Resampling.BILINEAR, reducing_gap=3.0
    )
    thumbnail = np.array(small.convert("L"))
    if min(image.size) < SMALLEST_SIDE or thumbnail.std() < FLATTEST_SPREAD:
        return Fingerprint("", thumbnail)
    rows = dct(thumbnail.astype(np.float64), axis=0, norm="ortho")[:_FREQUENCIES]
    low = dct(rows, axis=1, norm="ortho")[:, :_FREQUENCIES]
    weights = np.add.outer(np.arange(_FREQUENCIES), np.arange(_FREQUENCIES))
    weighted = (low * weights).ravel()[1:]  # without the mean
    largest = float(np.abs(weighted).max())
    if largest == 0:
        return Fingerprint("", thumbnail)
    steps = np.rint(weighted / largest * 127).astype(np.int8)
    return Fingerprint(base64.b64encode(steps.tobytes()).decode("ascii"), thumbnail)


def find_near_duplicates(
    fingerprints: Sequence[str] | pd.Series[str],
    content_keys: Sequence[str] | pd.Series[str],
    read_thumbnails: ReadThumbnails,
) -> list[NearDuplicate]:
    """Find pairs of images that show the same picture without being equal.

    Images with near fingerprints are laid on one another and compared in the detail of their
    thumbnails. Of several exact copies only the first is looked at. Not found: copies that were
    turned, mirrored, or cropped by much more than 2 % of a side. In a crowd of copies each one is
    compared with its nearest only, so not every pair of the crowd is listed.

    Args:
        fingerprints: Of each image, `Fingerprint.text`; "" takes no part.
        content_keys: Of each image; equal keys mean equal pixels.
        read_thumbnails: Gives the thumbnails of some indices, of shape (indices, 64, 64); called in
            threads.

    Returns:
        The pairs, sorted; which pictures they tie does not depend on the order of the images.
    """
    images = pd.DataFrame(
        {"text": pd.Series(fingerprints, dtype=str), "content": pd.Series(content_keys, dtype=str)}
    ).reset_index(drop=True)
    images = images[images["text"] != ""]
    # Sorted by content, so that their order cannot matter.
    images = images.sort_values("content", kind="stable").drop_duplicates("content")
    if len(images) < 2:
        return []
    numbers = images.index.to_numpy()
    pairs = numbers[_find_candidates(_decode(images["text"]))]

    def compare_some(start: int) -> list[NearDuplicate]:
        return _compare_pairs(pairs[start : start + _PAIRS_AT_A_TIME], read_thumbnails)

    # NumPy releases Python's lock, so threads are enough.
    pool = ThreadPoolExecutor(os.cpu_count())
    try:
        parts = list(pool.map(compare_some, range(0, len(pairs), _PAIRS_AT_A_TIME)))
    finally:
        pool.shutdown(cancel_futures=True)
    found = [pair for part in parts for pair in part]
    return sorted(found, key=lambda pair: (pair.first, pair.second))


def _compare_pairs(
    pairs: NDArray[np.int64], read_thumbnails: ReadThumbnails
) -> list[NearDuplicate]:
    """Those of some pairs, of shape (pairs, 2), that are near-duplicates."""
    wanted, places = np.unique(pairs, return_inverse=True)
    thumbnails = read_thumbnails(wanted.tolist())
    firsts, seconds = thumbnails[places.reshape(pairs.shape).T]
    similarity = compare(firsts, seconds)
    is_smooth = np.minimum(_fineness(firsts), _fineness(seconds)) < _SMOOTH
    least = np.where(is_smooth, _LEAST_SIMILARITY_IF_SMOOTH, LEAST_SIMILARITY)
    found = []
    for place in np.flatnonzero(similarity >= least):
        first, second = sorted(pairs[place].tolist())
        found.append(NearDuplicate(first, second, round(float(similarity[place]), 4)))
    return found


def _decode(texts: pd.Series[str]) -> NDArray[np.int8]:
    """The frequencies that fingerprints stand for, of shape (texts, 63)."""
    parts = []
    for start in range(0, len(texts), _ROWS_AT_A_TIME):
        letters = "".join(texts.iloc[start : start + _ROWS_AT_A_TIME])
        parts.append(np.frombuffer(base64.b64decode(letters), np.int8))
    return np.concatenate(parts).reshape(len(texts), -1)


def _find_candidates(codes: NDArray[np.int8]) -> NDArray[np.int64]:
    """Pairs of places whose fingerprints are near, shape (pairs, 2), first < second, sorted.

    Each sorting of the fingerprints puts those beside one another that lie on the same sides of
    the longest row of random planes (LSH forest: Bawa, Condie and Ganesan, WWW 2005). Only images
    a few places apart in a sorting are compared, so the time grows as the number of images does,
    even if all of them are alike.
    """
    directions = codes.astype(np.float32)
    directions /= np.linalg.norm(directions, axis=1, keepdims=True)
    generator = np.random.default_rng(0)
    pairs, cosines = np.empty(0, np.int64), np.empty(0, np.float32)
    for _ in range(_SORTINGS):
        planes = generator.standard_normal((codes.shape[1], _PLANES), np.float32)
        heights = directions @ planes
        sides = np.packbits(heights > np.median(heights, axis=0), axis=1)
        order = np.argsort(sides.view(f">u{sides.shape[1]}").ravel(), kind="stable")
        found, near = _find_neighbours(order, directions)
        pairs, first = np.unique(np.concatenate([pairs, found]), return_index=True)
        cosines = np.concatenate([cosines, near])[first]
        if len(pairs) > _MOST_PAIRS * len(codes):
            pairs, cosines = _keep_nearest(pairs, cosines, len(codes))
    pairs, _ = _keep_nearest(pairs, cosines, len(codes))
    return np.stack(np.divmod(pairs, len(codes)), axis=1)


def _find_neighbours(order: NDArray[np.intp], directions: Array) -> tuple[NDArray[np.int64], Array]:
    """Pairs within the radius a few places apart, as first * images + second; their cosines."""
    found: list[NDArray[np.int64]] = []
    cosines: list[Array] = []
    for start in range(0, len(order), _ROWS_AT_A_TIME):
        some = order[start : start + _ROWS_AT_A_TIME + _APART]
        ordered = directions[some]
        for apart in range(1, min(_APART, len(some) - 1) + 1):
            count = min(_ROWS_AT_A_TIME, len(some) - apart)
            cosine = np.einsum("ij,ij->i", ordered[:count], ordered[apart : apart + count])
            near = np.flatnonzero(cosine >= 1 - _RADIUS**2 / 2)
            one, other = some[near], some[near + apart]
            found.append(np.minimum(one, other) * len(order) + np.maximum(one, other))
            cosines.append(cosine[near])
    return np.concatenate(found), np.concatenate(cosines)


def _keep_nearest(
    pairs: NDArray[np.int64], cosines: Array, images: int
) -> tuple[NDArray[np.int64], Array]:
    """The pairs that are among the nearest of one of their two images."""
    first, second = np.divmod(pairs, images)
    is_kept = _is_among_nearest(first, cosines) | _is_among_nearest(second, cosines)
    return pairs[is_kept], cosines[is_kept]


def _is_among_nearest(image: NDArray[np.int64], cosine: Array) -> NDArray[np.bool_]:
    """Which pairs are among the nearest of this image of theirs."""
    order = np.lexsort((-cosine, image))
    ordered = image[order]
    rank = np.arange(len(order)) - np.searchsorted(ordered, ordered)
    is_near = np.zeros(len(order), np.bool_)
    is_near[order[rank < _MOST_NEIGHBOURS]] = True
    return is_near


def compare(firsts: NDArray[np.uint8], seconds: NDArray[np.uint8]) -> NDArray[np.float64]:
    """Say how well pairs of pictures agree in their detail, once laid on one another.

    Large shapes are alike in all slices of a head and in all chests, so they do not count: what is
    compared is what a blur takes away, place by place, by the correlation in a small window. A
    neighbouring slice agrees in many places, a copy in all; therefore the result is what all but
    the worst tenth of the places with any texture reach.

    Args:
        firsts: Thumbnails, 0 to 255, of shape (pairs, 64, 64).
        seconds: The same of the other images.

    Returns:
        Similarity of each pair, -1 to 1; 0 where there is too little texture to judge by, or where
        the pictures differ coarsely.
    """
    first, second = firsts.astype(np.float32), seconds.astype(np.float32)
    small_first, small_second = _halve(first), _halve(second)
    moves = _register(small_first, small_second)
    agreement, textured = _agreement(small_first, _move(small_second, moves))
    coarse = (agreement * textured).sum(axis=(1, 2)) / np.maximum(textured.sum(axis=(1, 2)), 1)
    similarity = np.zeros(len(first))
    left = np.flatnonzero(coarse >= _COARSE_AGREEMENT)
    if len(left) == 0:
        return similarity
    agreement, textured = _agreement(first[left], _move(second[left], moves[left]))
    for pair, one, counts in zip(left, agreement, textured, strict=True):
        if counts.mean() >= _LEAST_TEXTURED:
            similarity[pair] = np.quantile(one[counts], 0.1)
    return similarity


def _halve(pictures: Array) -> Array:
    """Means of 2 x 2 pixels."""
    rows = pictures[:, ::2] + pictures[:, 1::2]
    halved: Array = (rows[:, :, ::2] + rows[:, :, 1::2]) / 4
    return halved


def _agreement(first: Array, second: Array) -> tuple[Array, NDArray[np.bool_]]:
    """Local correlation of detail, and where either picture has texture; edges left out."""
    edge = max(2, round(_MOST_MOVED * first.shape[1]))
    inner = (slice(None), slice(edge, -edge), slice(edge, -edge))
    one, other = first - _blur(first), second - _blur(second)
    spread_of_one, spread_of_other = _blur(one * one), _blur(other * other)
    shared = _blur(one * other)
    product = np.sqrt((spread_of_one + 1e-3) * (spread_of_other + 1e-3))
    textured = np.sqrt(np.maximum(spread_of_one, spread_of_other)) > _TEXTURE
    agreement: Array = shared / product
    return agreement[inner], textured[inner]


def _fineness(thumbnails: NDArray[np.uint8]) -> Array:
    """Share of the detail's energy that lies in its finest half, of each thumbnail."""
    pictures = thumbnails.astype(np.float32)
    fine, detail = pictures - _blur(pictures, _FINE_BLUR), pictures - _blur(pictures)
    share: Array = (fine**2).mean(axis=(1, 2)) / ((detail**2).mean(axis=(1, 2)) + 1e-3)
    return share


def _blur(pictures: Array, width: float = _BLUR) -> Array:
    blurred: Array = gaussian_filter(pictures, (0, width, width), truncate=2.5)
    return blurred


def _register(first: Array, second: Array) -> Array:
    """Find how the second pictures must be stretched and shifted to lie on the first.

    Gauss-Newton steps on the squared difference, brightness and contrast being fitted along
    (Lucas and Kanade, IJCAI 1981), with Cauchy's weights against outliers.

    Returns:
        Stretch and shift in x, then in y, in halves of the side; shape (pairs, 4).
    """
    pairs, side, _ = first.shape
    centred = _centred(side)
    inner = (slice(None), slice(1, -1), slice(1, -1))
    wanted = first[inner].reshape(pairs, -1, 1)
    moves = np.zeros((pairs, 4), np.float32)
    trust: Array = np.ones_like(wanted)
    for _ in range(_ROUNDS):
        moved = _move(second, moves)
        down, right = (slope * (side / 2) for slope in np.gradient(moved, axis=(1, 2)))
        parts = (right * centred, right, down * centred[:, np.newaxis], down, moved)
        columns = np.stack([*parts, np.ones_like(moved)], axis=-1)[inner].reshape(pairs, -1, 6)
        turned = (columns * trust).transpose(0, 2, 1)
        squares = (turned @ columns).astype(np.float64)
        # A trace of damping, so that pictures without slopes in one direction can be solved.
        damping = 1e-5 * np.trace(squares, axis1=1, axis2=2) + 1e-6
        squares += damping[:, np.newaxis, np.newaxis] * np.eye(6)
        solved = np.linalg.solve(squares, (turned @ wanted).astype(np.float64))[:, :, 0]
        # What does not fit, such as a text in one of them, shall not pull at the rest.
        left = np.abs(wanted - columns @ solved[:, :, np.newaxis].astype(np.float32))
        trust = 1 / (1 + (left / (2 * left.mean(axis=1, keepdims=True) + 1e-3)) ** 2)
        contrast = np.maximum(solved[:, 4:5], 0.2)
        step = (solved[:, :4] / contrast).astype(np.float32)
        moves = np.clip(moves + step, -_MOST_MOVED, _MOST_MOVED)
    return moves


def _move(pictures: Array, moves: Array) -> Array:
    """Stretch and shift pictures; what comes from outside repeats the edge."""
    side = pictures.shape[1]
    across = _weights(moves[:, 0], moves[:, 1], side)
    down = _weights(moves[:, 2], moves[:, 3], side)
    moved: Array = down @ pictures @ across.transpose(0, 2, 1)
    return moved


def _weights(stretch: Array, shift: Array, side: int) -> Array:
    """Which share each pixel has in each moved one, by cubic convolution (Keys, 1981)."""
    places = _centred(side) * (1 + stretch[:, np.newaxis]) + shift[:, np.newaxis]
    pixels = np.clip(places * (side / 2) + (side - 1) / 2, 0, side - 1)
    distance = np.abs(pixels[:, :, np.newaxis] - np.arange(side, dtype=np.float32))
    near = (1.5 * distance - 2.5) * distance**2 + 1
    far = ((-0.5 * distance + 2.5) * distance - 4) * distance + 2
    weights = np.where(distance < 1, near, np.where(distance < 2, far, 0))
    shares: Array = (weights / weights.sum(axis=2, keepdims=True)).astype(np.float32)
    return shares


def _centred(side: int) -> Array:
    """The middles of a row's pixels on a scale from -1 to 1."""
    return ((np.arange(side) - (side - 1) / 2) / (side / 2)).astype(np.float32)
