"""Raw features -> what a head trains on: standardised; for a hidden layer, principal components."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from medlens.errors import MedlensError
from medlens.model.principal_components import principal_components

# A feature that varies less than this, against its mean, is rounding noise made large.
NEAR_CONSTANT = 3e-3
# A hidden layer sees this many principal components at most. On the validation sets of four data
# sets they did as well as all 7,264 features of MobileNetV2, at a tenth of the time.
MOST_COMPONENTS = 512
# How long the input of an image is, on average, for a hidden layer (chosen on the same sets).
LENGTH_OF_COMPONENTS = 4.0
# Features are read by this many bytes at a time; a head's memory does not grow beyond it.
CHUNK_BYTES = 1 << 24

Features = NDArray[np.float32]


@dataclass(frozen=True)
class HeadInputs:
    """A linear map from features to a head's inputs; it can be folded into the first layer.

    Args:
        mean: Of each feature, in the images it was fitted on, of shape (columns,).
        factor: What it is multiplied by, less its mean; 0 where it does not vary.
        components: Of shape (columns, inputs); None where the features are the inputs.
    """

    mean: NDArray[np.float32]
    factor: NDArray[np.float32]
    components: NDArray[np.float32] | None

    @property
    def kept(self) -> int:
        """How many features vary."""
        return int(np.count_nonzero(self.factor))

    @property
    def columns(self) -> int:
        """How many inputs an image has."""
        return len(self.mean) if self.components is None else self.components.shape[1]

    def apply(self, features: Features) -> Features:
        """Inputs of shape (images, columns) from features of shape (images, all features)."""
        inputs: Features = features - self.mean
        inputs *= self.factor
        return inputs if self.components is None else inputs @ self.components

    def fold(
        self, kernel: NDArray[np.float32], bias: NDArray[np.float32]
    ) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """The layer that gives for raw features what this layer gives for the inputs."""
        wide = kernel.astype(np.float64)
        if self.components is not None:
            wide = self.components.astype(np.float64) @ wide
        wide *= self.factor[:, None]
        return wide.astype(np.float32), (bias - self.mean @ wide).astype(np.float32)


def fit_inputs(
    features: Features, rows: NDArray[np.intp], *, hidden: bool, columns: int = 0
) -> HeadInputs:
    """Learn from some images how features become inputs.

    The inputs of an image have a length of about 1 (4 for a hidden layer), however many there are.
    Otherwise a step of Adam, which moves every weight by the learning rate, would move the logits
    of a wide head by far too much.

    Args:
        features: Of shape (images, columns); may lie on disk.
        rows: The images to learn from, in ascending order.
        hidden: Whether a hidden layer follows.
        columns: How many inputs a hidden layer shall have, whatever the images; empty ones fill
            up. 0: as many as there are components.

    Raises:
        MedlensError: If no feature varies.
    """
    chunks = list(_chunks(features, rows))
    mean = sum(features[chunk].sum(axis=0, dtype=np.float64) for chunk in chunks) / len(rows)
    squares = sum(
        np.square(features[chunk] - mean.astype(np.float32)).sum(axis=0, dtype=np.float64)
        for chunk in chunks
    )
    scale = np.sqrt(squares / len(rows))
    kept = scale > NEAR_CONSTANT * np.abs(mean) + 1e-6
    if not kept.any():
        raise MedlensError(
            "No feature differs from image to image.",
            got="the same features for every training image",
            expected="images that differ",
            fix="Look at the images: are they blank? Run `medlens audit`.",
        )
    factor = np.zeros_like(scale)
    factor[kept] = 1 / (scale[kept] * np.sqrt(np.count_nonzero(kept)))
    plain = HeadInputs(mean.astype(np.float32), factor.astype(np.float32), components=None)
    if not hidden:
        return plain
    wanted = max(1, min(MOST_COMPONENTS, len(rows) - 1, plain.kept, columns or MOST_COMPONENTS))
    components = principal_components(
        lambda: (plain.apply(features[chunk]) for chunk in chunks), len(rows), len(mean), wanted
    )
    filled = np.pad(components, ((0, 0), (0, max(0, columns - components.shape[1]))))
    return HeadInputs(plain.mean, plain.factor, filled * np.float32(LENGTH_OF_COMPONENTS))


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
