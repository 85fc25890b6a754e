"""What may change in augmented views of a picture, by modality."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True)
class Augmentation:
    """How far a view may lie from its picture; all is drawn evenly within these limits.

    Args:
        symmetries: 1: none; 2: left and right may change places; 8: all turns by 90 degrees and
            mirror images.
        turn: Degrees to either side.
        shift: Share of the picture's side, in both directions.
        zoom: Share by which it grows or shrinks.
        brightness: Share of the range of grey levels, up or down.
        contrast: Share by which differences to middle grey grow or shrink.
        colour: Share by which each channel grows or shrinks by itself.
    """

    symmetries: int
    turn: float
    shift: float
    zoom: float
    brightness: float
    contrast: float
    colour: float = 0.0


# Left and right are told apart in the body, so that a mirror image of a chest or an abdomen would
# be another anatomy. Cells, tissue and skin have no upside; nor has a probe or an endoscope a side.
PRESETS: Mapping[str, Augmentation] = {
    "x_ray": Augmentation(1, 7, 0.05, 0.1, 0.1, 0.15),
    "mammography": Augmentation(1, 10, 0.05, 0.1, 0.1, 0.15),
    "mri": Augmentation(1, 10, 0.05, 0.1, 0.1, 0.15),
    "ct": Augmentation(1, 10, 0.05, 0.1, 0.05, 0.1),
    "oct": Augmentation(2, 5, 0.05, 0.1, 0.1, 0.15),
    "ultrasound": Augmentation(2, 10, 0.05, 0.1, 0.1, 0.2),
    "fundus": Augmentation(2, 20, 0.05, 0.1, 0.1, 0.15, 0.05),
    "endoscopy": Augmentation(8, 20, 0.05, 0.1, 0.1, 0.15, 0.05),
    "microscopy": Augmentation(8, 20, 0.05, 0.1, 0.1, 0.15, 0.1),
    "histology": Augmentation(8, 20, 0.05, 0.1, 0.1, 0.15, 0.1),
    "dermatoscopy": Augmentation(8, 20, 0.05, 0.1, 0.1, 0.15, 0.05),
    "unknown": Augmentation(1, 5, 0.05, 0.05, 0.05, 0.1),
}
