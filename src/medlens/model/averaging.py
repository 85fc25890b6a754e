"""Test-time averaging: logits are means over the exact symmetries that a modality allows.

It happens alike on kept features and inside the saved network. Heads are fitted on pictures as they
are; everything that is chosen with a head is chosen on averaged logits, as they are what it is for.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from scipy.special import log_softmax

from medlens.data.symmetries import mirror
from medlens.model.calibration import fit_temperature

if TYPE_CHECKING:
    from medlens.model.head import Head


@dataclass(frozen=True)
class Symmetric:
    """Features of all images seen in the symmetries of their modality; nothing is fitted on them.

    Args:
        features: Of shape (images * (count - 1), columns), image by image, in the order of
            `symmetric_keys`; may lie on disk.
        preset: The modality.
        count: 2 or 8: how many symmetries, the picture as it is being one.
    """

    features: NDArray[np.float32]
    preset: str
    count: int


@dataclass(frozen=True)
class Averaged:
    """What averaging changed on development images, each answered by a head that never saw it.

    Args:
        count: Views that were averaged over.
        preset: The modality whose symmetries they are.
        images: How many images that was measured on.
        loss: Mean cross-entropy; that of either after a temperature of its own.
        loss_without: The same of the pictures as they are.
        accuracy: Share of right answers.
        accuracy_without: The same of the pictures as they are.
    """

    count: int
    preset: str
    images: int
    loss: float
    loss_without: float
    accuracy: float
    accuracy_without: float

    @property
    def text(self) -> str:
        """In a sentence or two."""
        return (
            f"Logits are means over {self.count} symmetric views of a picture "
            f"({self.preset.replace('_', ' ')}). On {self.images:,} development images held out: "
            f"cross-entropy {self.loss:.4f}, without averaging {self.loss_without:.4f}; accuracy "
            f"{self.accuracy:.4f}, without {self.accuracy_without:.4f}."
        )


def average_logits(
    head: Head,
    features: NDArray[np.float32],
    rows: NDArray[np.intp],
    symmetric: Symmetric | None,
) -> NDArray[np.float64]:
    """Logits of some images, of shape (rows, classes): the mean over all views, if there are any.

    Args:
        head: The head.
        features: Of all images as they are, of shape (images, columns); may lie on disk.
        rows: Places of the images.
        symmetric: Of all images; None for no averaging.
    """
    return add_views(head.logits(features[rows]), head, rows, symmetric)


def add_views(
    logits: NDArray[np.float64],
    head: Head,
    rows: NDArray[np.intp],
    symmetric: Symmetric | None,
) -> NDArray[np.float64]:
    """The mean of what a head says of pictures as they are, known already, and of their views.

    Args:
        logits: Of the pictures as they are, of shape (rows, classes).
        head: The head that said it.
        rows: Places of the images.
        symmetric: Of all images; None leaves the logits as they are.
    """
    if symmetric is None:
        return logits
    total, others = logits.copy(), symmetric.count - 1
    for view in range(others):
        total += head.logits(symmetric.features[rows * others + view])
    return total / symmetric.count


def measure_averaging(
    logits: NDArray[np.float64],
    without: NDArray[np.float64],
    truth: NDArray[np.int64],
    symmetric: Symmetric,
) -> Averaged:
    """What averaging changed on images held out.

    Args:
        logits: Averaged, of shape (images, classes).
        without: Of the pictures as they are.
        truth: Class numbers of shape (images,).
        symmetric: What was averaged over.
    """
    places, losses, shares = np.arange(len(truth)), [], []
    for said in (logits, without):
        calibrated = log_softmax(said / fit_temperature(said, truth), axis=1)
        losses.append(-float(calibrated[places, truth].mean()))
        shares.append(float((said.argmax(axis=1) == truth).mean()))
    return Averaged(symmetric.count, symmetric.preset, len(truth), *losses, *shares)


def average_over_views(
    run: Callable[[NDArray[np.uint8]], NDArray[Any]], pictures: NDArray[np.uint8], count: int
) -> NDArray[Any]:
    """The mean of what a function says of pictures in each of these symmetries.

    Args:
        run: Pictures of shape (n, size, size, 3) -> an array of as many rows.
        pictures: As they are.
        count: 1, 2 or 8.
    """
    views = [run(mirror(pictures, number)) for number in range(count)]
    return np.asarray(np.mean(views, axis=0))
