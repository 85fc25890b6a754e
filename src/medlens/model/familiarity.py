"""How unlike the training images an image is: a distance between features, and its limit."""

from __future__ import annotations

import io
import zipfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from medlens.errors import MedlensError, in_words
from medlens.files import write_bytes
from medlens.model.principal_components import principal_components

FORMAT_VERSION = 1
# Training images that are kept to compare with; the whole fit rests on them.
MOST_ROWS = 2000
MOST_COMPONENTS = 64
# Images whose features are in memory at a time: 40 MiB with 10,000 columns.
CHUNK_ROWS = 1024
# Of the median spread of all columns. A filter that hardly ever fires in training is not dropped:
# that it fires now is a sign. But its own spread would make a sign of the slightest tremor.
SMALLEST_SPREAD = 0.2
LIMIT_QUANTILE = 0.99


@dataclass(frozen=True)
class Familiarity:
    """What is remembered of the training images.

    Features are standardised and put through arcsinh, which leaves small values as they are and
    takes the logarithm of large ones: the features of medical images have tails so long that a
    few odd training images would otherwise hide everything unfamiliar. The distance of an image is
    that to the nearest training image kept (Sun et al., Out-of-distribution detection with deep
    nearest neighbors, ICML 2022, arXiv:2204.06507), along the principal components of the training
    images, joined at a right angle with what lies outside of the components altogether. One
    nearest image, and no mean or covariance of a class, so that a class of few images is familiar
    too.

    Args:
        mean: Of each feature, float32 of shape (columns,).
        spread: By which each feature is divided, above 0, of the same shape.
        centre: Mean after arcsinh, of the same shape.
        components: Orthonormal, float32 of shape (columns, components).
        rows: The training images kept, along the components, float32 of shape (rows, components).
    """

    mean: NDArray[np.float32]
    spread: NDArray[np.float32]
    centre: NDArray[np.float32]
    components: NDArray[np.float32]
    rows: NDArray[np.float32]

    def distances(self, features: NDArray[np.float32]) -> NDArray[np.float64]:
        """Distance of each image to the training images.

        Args:
            features: Raw features of shape (images, columns), in memory or mapped from a file.

        Returns:
            0 or more, of shape (images,); no unit, to be compared with the limit only. Infinite
            where a feature is not a finite number: nothing like that was in training.

        Raises:
            ValueError: If there are other columns than in training.
        """
        if features.ndim != 2 or features.shape[1] != len(self.mean):
            raise ValueError(f"expected {len(self.mean)} columns, got shape {features.shape}")
        found = np.empty(len(features))
        for start in range(0, len(features), CHUNK_ROWS):
            chunk = np.array(features[start : start + CHUNK_ROWS], np.float32)
            is_finite = np.isfinite(chunk).all(axis=1)
            chunk[~is_finite] = 0
            distances = self._distances(chunk)
            found[start : start + CHUNK_ROWS] = np.where(is_finite, distances, np.inf)
        return found

    def place(
        self, features: NDArray[np.float32]
    ) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Where images lie in the space in which distances are measured.

        Args:
            features: Finite, of shape (images, columns); few enough for memory.

        Returns:
            Along the components, of shape (images, components); and the square of what lies
            outside of them altogether, 0 or more, of shape (images,).
        """
        return self._place(np.array(features, np.float32))

    def _place(self, chunk: NDArray[np.float32]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Where a few images lie; their features are overwritten."""
        _compress(chunk, self.mean, self.spread)
        chunk -= self.centre
        # Small differences of large squares: in float64.
        along = (chunk @ self.components).astype(np.float64)
        outside = np.einsum("ij,ij->i", chunk, chunk, dtype=np.float64) - (along**2).sum(axis=1)
        return along, np.maximum(outside, 0)

    def _distances(self, chunk: NDArray[np.float32]) -> NDArray[np.float64]:
        """Distances of a few images; their features are overwritten."""
        along, outside = self._place(chunk)
        rows = self.rows.astype(np.float64)
        return np.asarray(np.sqrt(squared_distances(along, rows).min(axis=1) + outside))


def squared_distances(
    first: NDArray[np.float64], second: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Squared distances between all rows of (n, columns) and (m, columns): 0 or more, (n, m)."""
    squares = (first**2).sum(axis=1)[:, np.newaxis] + (second**2).sum(axis=1)
    return np.asarray(np.maximum(squares - 2 * first @ second.T, 0))


def fit_familiarity(
    features: NDArray[np.float32],
    labels: NDArray[np.int64] | None = None,
    *,
    rows: NDArray[np.intp] | None = None,
    seed: int = 0,
) -> Familiarity:
    """Remember what training images look like to the backbone.

    At most 2,000 images are read and kept. Classes share this number evenly as far as they reach,
    so that none is left out for being rare.

    Args:
        features: Raw features of the training images, of shape (images, columns), two images at
            least, in memory or mapped from a file.
        labels: Class numbers of shape (images,); None draws from all images alike.
        rows: Which of these are the training images; None for all.
        seed: Decides which images are kept where there are more, and where components start from.

    Raises:
        ValueError: If there are fewer than two images, or a feature is not a finite number.
    """
    places = np.arange(len(features)) if rows is None else rows
    if len(places) < 2:
        raise ValueError("familiarity needs two training images at least")
    generator = np.random.default_rng(seed)
    own_labels = None if labels is None else labels[places]
    kept = places[choose_rows(len(places), own_labels, MOST_ROWS, generator)]
    values = np.array(features[kept], np.float32)
    if not np.isfinite(values).all():
        raise ValueError("a feature is not a finite number")
    mean = values.mean(axis=0, dtype=np.float64).astype(np.float32)
    spread = _spread(values, mean)
    _compress(values, mean, spread)
    centre = values.mean(axis=0, dtype=np.float64).astype(np.float32)
    values -= centre
    wanted = min(MOST_COMPONENTS, len(values) - 1, values.shape[1])
    components = principal_components(
        lambda: [values], len(values), values.shape[1], wanted, seed=seed
    )
    return Familiarity(mean, spread, centre, components, values @ components)


def choose_limit(
    held_out_distances: NDArray[np.float64], groups: NDArray[np.int64] | None = None
) -> float:
    """The distance above which an image is unfamiliar: the 99th percentile of held-out images.

    It is the smallest held-out distance at or below which lie 99 % of these distances and the one
    of a further image, which counts as the largest (split-conformal). So a further image of the
    same kind is flagged with a chance of at most 1 %. With fewer than 99 images no distance does
    that; the limit is then the largest, and the chance at most 1 / (images + 1). With `groups` each
    group weighs as one, shared by its images, and the further image is one of a further group (as
    in `choose_threshold`).

    Args:
        held_out_distances: Of images that the familiarity was not fitted on, of shape (images,),
            one at least. Distances of training images are too small.
        groups: The group of each image, of the same shape; None where every image is its own.

    Raises:
        ValueError: If there is no distance, or one is not a finite number.
    """
    distances = np.asarray(held_out_distances, np.float64)
    if len(distances) == 0 or not np.isfinite(distances).all():
        raise ValueError("a limit needs one distance at least, and finite ones")
    own = np.arange(len(distances)) if groups is None else np.asarray(groups)
    _, group, sizes = np.unique(own, return_inverse=True, return_counts=True)
    order = np.argsort(distances, kind="stable")
    weight = np.cumsum(1 / sizes[group[order]])
    place = int(np.searchsorted(weight, LIMIT_QUANTILE * (len(sizes) + 1) - 1e-9))
    return float(distances[order[min(place, len(distances) - 1)]])


def save_familiarity(path: Path, familiarity: Familiarity, limit: float) -> None:
    """Write an .npz file, whole or not at all; the same values give the same bytes.

    Args:
        path: The file.
        familiarity: From `fit_familiarity`.
        limit: From `choose_limit`.
    """
    stream = io.BytesIO()
    np.savez(
        stream,
        format=np.int64(FORMAT_VERSION),
        limit=np.float64(limit),
        mean=familiarity.mean,
        spread=familiarity.spread,
        centre=familiarity.centre,
        components=familiarity.components,
        rows=familiarity.rows,
    )
    write_bytes(path, stream.getbuffer())


def load_familiarity(path: Path) -> tuple[Familiarity, float]:
    """Read the file of `save_familiarity`; nothing in it is executed.

    Returns:
        The familiarity and its limit.

    Raises:
        MedlensError: If it is not there, damaged, or written by a newer medlens.
    """
    try:
        # Read first: NumPy leaves a file open that it cannot make out.
        with np.load(io.BytesIO(path.read_bytes()), allow_pickle=False) as file:
            version = int(file["format"])
            if version > FORMAT_VERSION:
                raise MedlensError(
                    "What is familiar to the classifier was written by a newer medlens.",
                    got=f"format {version}",
                    expected=f"format {FORMAT_VERSION} or older",
                    fix="Upgrade medlens: pip install --upgrade medlens.",
                    names=[str(path)],
                )
            names = ("mean", "spread", "centre", "components", "rows")
            arrays = {name: np.asarray(file[name], np.float32) for name in names}
            return Familiarity(**arrays), float(file["limit"])
    except (OSError, EOFError, KeyError, TypeError, ValueError, zipfile.BadZipFile) as error:
        raise MedlensError(
            "What is familiar to the classifier cannot be read.",
            got=in_words(error),
            expected="the whole file, as `medlens train` writes it",
            fix="Copy the classifier's folder again, or train again.",
            names=[str(path)],
        ) from error


def choose_rows(
    count: int, labels: NDArray[np.int64] | None, most: int, generator: np.random.Generator
) -> NDArray[np.int64]:
    """Draw images to keep; classes share the places evenly as far as they reach.

    Args:
        count: How many images there are.
        labels: Class numbers of shape (count,); None draws from all alike.
        most: How many are kept at most.
        generator: Draws.

    Returns:
        Their places, ascending, which is faster from a file.
    """
    order = generator.permutation(count)
    if labels is not None and count > most:
        # Dealt out like cards: first one image of each class, then a second of each, and so on.
        classes = np.asarray(labels)[order]
        by_class = np.argsort(classes, kind="stable")
        _, first, sizes = np.unique(classes[by_class], return_index=True, return_counts=True)
        turn = np.empty(count, np.int64)
        turn[by_class] = np.arange(count) - np.repeat(first, sizes)
        order = order[np.argsort(turn, kind="stable")]
    return np.sort(order[:most])


def _spread(values: NDArray[np.float32], mean: NDArray[np.float32]) -> NDArray[np.float32]:
    """Standard deviation of each column, the smallest ones raised."""
    total = np.zeros(len(mean))
    for start in range(0, len(values), CHUNK_ROWS // 8):
        differences = values[start : start + CHUNK_ROWS // 8] - mean
        total += np.square(differences, dtype=np.float64).sum(axis=0)
    spread = np.sqrt(total / len(values))
    varying = spread[spread > 0]
    if len(varying) == 0:
        return np.ones(len(spread), np.float32)
    return np.asarray(np.maximum(spread, SMALLEST_SPREAD * np.median(varying)), np.float32)


def _compress(
    values: NDArray[np.float32], mean: NDArray[np.float32], spread: NDArray[np.float32]
) -> None:
    """Standardise in place, and shorten the tails."""
    values -= mean
    values /= spread
    np.arcsinh(values, out=values)
