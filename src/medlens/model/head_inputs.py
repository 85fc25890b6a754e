"""Raw features -> what a head trains on: principal components of the standardised features."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from medlens.errors import MedlensError
from medlens.model.principal_components import principal_components

# A feature that varies less than this, against its mean, is rounding noise made large.
NEAR_CONSTANT = 3e-3
# A feature that departs from its usual value in fewer images than this share, or than this count,
# teaches nothing, but on a new image it may stand a hundred standard deviations away and drown all
# others. Such features have a kurtosis above one over that share.
RAREST_SHARE = 0.01
RAREST_COUNT = 4
# A head sees this many principal components at most. On the validation sets of four data sets they
# did as well as all 7,264 features of MobileNetV2, at a tenth of the time or less.
MOST_COMPONENTS = 512
# How long the input of an image is, on average: before a hidden layer, and before the logits
# (chosen on the same sets).
LENGTH_BEFORE_HIDDEN = 4.0
LENGTH_BEFORE_LOGITS = 10.0
# Features are read by this many bytes at a time; a head's memory does not grow beyond it.
CHUNK_BYTES = 1 << 24

Features = NDArray[np.float32]


@dataclass(frozen=True)
class HeadInputs:
    """A linear map from features to a head's inputs; it can be folded into the first layer.

    Args:
        mean: Of each feature, in the images it was fitted on, of shape (columns,).
        factor: What it is multiplied by, less its mean; 0 where it is not used.
        components: Of shape (columns used, inputs).
        first: The first column used; the others used follow it.
    """

    mean: NDArray[np.float32]
    factor: NDArray[np.float32]
    components: NDArray[np.float32]
    first: int

    @property
    def kept(self) -> int:
        """How many features are used and vary."""
        return int(np.count_nonzero(self.factor))

    @property
    def columns(self) -> int:
        """How many inputs an image has."""
        return int(self.components.shape[1])

    @property
    def used(self) -> slice:
        """The columns used."""
        return slice(self.first, self.first + len(self.components))

    def apply(self, features: Features) -> Features:
        """Inputs of shape (images, columns) from features of shape (images, all features)."""
        used = self.used
        standardised: Features = features[:, used] - self.mean[used]
        standardised *= self.factor[used]
        return standardised @ self.components

    def longer(self, factor: float) -> HeadInputs:
        """The same map with inputs of another length."""
        return replace(self, components=self.components * np.float32(factor))

    def fold(
        self, kernel: NDArray[np.float32], bias: NDArray[np.float32]
    ) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """The layer that gives for raw features what this layer gives for the inputs."""
        wide = np.zeros((len(self.mean), kernel.shape[1]))
        wide[self.used] = self.components.astype(np.float64) @ kernel.astype(np.float64)
        wide *= self.factor[:, None]
        return wide.astype(np.float32), (bias - self.mean @ wide).astype(np.float32)


def fit_inputs(
    features: Features,
    rows: NDArray[np.intp],
    *,
    within: tuple[int, int] | None = None,
    inputs: int = 0,
) -> HeadInputs:
    """Learn from some images how features become inputs.

    The inputs of an image have a length of about 1, however many features there are. Otherwise a
    step of Adam, which moves every weight by the learning rate, would move the logits by far too
    much.

    Args:
        features: Of shape (images, columns); may lie on disk.
        rows: The images to learn from, in ascending order.
        within: The first column to use and the one behind the last; None for all.
        inputs: How many inputs there shall be, whatever the images; empty ones fill up. 0: as many
            as there are components.

    Raises:
        MedlensError: If no feature varies.
    """
    first, end = within or (0, features.shape[1])
    mean, factor = standardisation(features, rows, within=within)
    chunks = list(_chunks(features, rows))

    def read() -> Iterator[Features]:
        for chunk in chunks:
            values: Features = features[chunk, first:end] - mean[first:end]
            values *= factor[first:end]
            yield values

    kept_count = int(np.count_nonzero(factor))
    wanted = max(1, min(MOST_COMPONENTS, len(rows) - 1, kept_count, inputs or MOST_COMPONENTS))
    components = principal_components(read, len(rows), end - first, wanted)
    filled = np.pad(components, ((0, 0), (0, max(0, inputs - components.shape[1]))))
    return HeadInputs(mean, factor, filled, first)


def standardisation(
    features: Features, rows: NDArray[np.intp], *, within: tuple[int, int] | None = None
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """The mean of each feature, and what brings it to one length with all others.

    Args:
        features: Of shape (images, columns); may lie on disk.
        rows: The images to learn from, in ascending order.
        within: The first column to use and the one behind the last; None for all.

    Returns:
        Mean and factor, each of shape (columns,): the standardised features of an image have a
        length of about 1. The factor is 0 where a feature is not used, hardly varies, or is rare.

    Raises:
        MedlensError: If no feature varies.
    """
    first, end = within or (0, features.shape[1])
    chunks = list(_chunks(features, rows))
    total = np.zeros(features.shape[1])
    for chunk in chunks:
        total += features[chunk].sum(axis=0, dtype=np.float64)
    precise = total / len(rows)
    mean = precise.astype(np.float32)
    squares, fourths = np.zeros_like(total), np.zeros_like(total)
    for chunk in chunks:
        squared = np.square(features[chunk] - mean, dtype=np.float64)
        squares += squared.sum(axis=0)
        fourths += np.square(squared).sum(axis=0)
    scale = np.sqrt(squares / len(rows))
    kept = scale > NEAR_CONSTANT * np.abs(precise) + 1e-6
    # With few images any feature is far from its mean in one of them: not below a kurtosis of 10.
    rarest = min(0.1, max(RAREST_SHARE, RAREST_COUNT / len(rows)))
    kept &= fourths * rarest <= squares * squares / len(rows)
    kept[:first] = kept[end:] = False
    if not kept.any():
        raise MedlensError(
            "No feature differs from image to image.",
            got="the same features for every training image",
            expected="images that differ",
            fix="Look at the images: are they blank? Run `medlens audit`.",
        )
    factor = np.zeros_like(mean)
    factor[kept] = 1 / (scale[kept] * np.sqrt(np.count_nonzero(kept)))
    return mean, factor


def apply_inputs(inputs: HeadInputs, features: Features, rows: NDArray[np.intp]) -> Features:
    """Inputs of some images, in the order of the rows, read in chunks."""
    out = np.empty((len(rows), inputs.columns), np.float32)
    start = 0
    for chunk in _chunks(features, rows):
        out[start : start + len(chunk)] = inputs.apply(features[chunk])
        start += len(chunk)
    return out


def chunk_rows(columns: int) -> int:
    """How many images are read at a time."""
    return max(1, CHUNK_BYTES // (4 * columns))


def _chunks(features: Features, rows: NDArray[np.intp]) -> Iterator[NDArray[np.intp]]:
    step = chunk_rows(features.shape[1])
    return (rows[start : start + step] for start in range(0, len(rows), step))
