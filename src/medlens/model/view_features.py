"""Features of augmented views, and which images they are of."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from medlens.model.head_inputs import HeadInputs, apply_inputs


@dataclass(frozen=True)
class Views:
    """Augmented views of some images: heads may be fitted on them, nothing is measured on them.

    Args:
        features: Of shape (views, columns); may lie on disk.
        owner: The place of each view's image among the images, of shape (views,).
        preset: What may change in them.
        count: How many views an image has.
    """

    features: NDArray[np.float32]
    owner: NDArray[np.intp]
    preset: str
    count: int

    def of(self, rows: NDArray[np.intp]) -> NDArray[np.intp]:
        """The places of the views of these images."""
        return np.flatnonzero(np.isin(self.owner, rows))


def views_as_inputs(
    inputs: HeadInputs, views: Views, rows: NDArray[np.intp]
) -> tuple[NDArray[np.float32], NDArray[np.intp]]:
    """The inputs of the views of these images, and which images they are of."""
    places = views.of(rows)
    return apply_inputs(inputs, views.features, places), views.owner[places]
