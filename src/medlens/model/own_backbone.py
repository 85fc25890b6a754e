"""A backbone of the user's own: a .keras file as one flat graph, with the depths found in it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from medlens.errors import MedlensError
from medlens.model.backbone import (
    BACKBONES,
    MINUS_ONE_TO_ONE,
    STANDARDISED,
    VGG,
    Backbone,
    Preprocessing,
)
from medlens.model.keras_file import load_flat, unusable

if TYPE_CHECKING:
    import keras

SUFFIX = ".keras"
# The names of the modes are those of keras.applications.imagenet_utils.preprocess_input.
PREPROCESSING: Mapping[str, Preprocessing] = {
    "none": Preprocessing("RGB", 1.0, (0.0, 0.0, 0.0)),
    "tf": MINUS_ONE_TO_ONE,
    "torch": STANDARDISED,
    "caffe": VGG,
}
# Layers that say that the file prepares its pixels itself.
PREPARING = ("Rescaling", "Normalization")
# Layers whose maps say nothing beyond those before them.
REPEATING = ("Pooling", "Padding", "Dropout", "Cropping")
# The side at which a network that takes any size is looked at.
LOOKED_AT = 224


def is_own(backbone: str) -> bool:
    """Whether that is a file and not a name of the table."""
    return backbone.endswith(SUFFIX)


def are_backbones(value: Any) -> bool:
    """Whether that names backbones: of the table or .keras files, with commas, none twice."""
    names = value.split(",") if isinstance(value, str) else []
    are_known = all(name in BACKBONES or is_own(name) for name in names)
    return bool(names) and are_known and len(set(names)) == len(names)


def find_backbone(backbone: str, preprocessing: str) -> Backbone:
    """The backbone of that name, or in that .keras file.

    Args:
        backbone: A name of the table or the path of a file.
        preprocessing: A key of `PREPROCESSING`, or "auto".

    Raises:
        MedlensError: If the file cannot be used, or --preprocessing was given with a name.
    """
    if is_own(backbone):
        return read_own_backbone(Path(backbone), preprocessing)
    if preprocessing != "auto":
        raise MedlensError(
            "--preprocessing is for a backbone of your own.",
            got=f"--preprocessing {preprocessing} with --backbone {backbone}",
            expected="auto: how the pixels of this backbone are prepared is known",
            fix="Leave --preprocessing out, or give a .keras file with --backbone.",
        )
    return BACKBONES[backbone]


def read_own_backbone(path: Path, preprocessing: str) -> Backbone:
    """Look into a .keras file: where its depths lie, and what pixels it wants.

    The depths are the last map of each size, the deepest first narrowed; a top is left out.

    Args:
        path: A Keras model from pictures of three channels, channels last.
        preprocessing: A key of `PREPROCESSING`, or "auto": none, if the file itself begins with it.

    Raises:
        MedlensError: If it cannot be used; nothing is guessed.
    """
    network = load_flat(path)
    if preprocessing == "auto":
        if not any(type(layer).__name__ in PREPARING for layer in network.layers[:4]):
            raise unusable(
                "nothing in the file or the options says how its pixels are prepared",
                "a network that begins with Rescaling or Normalization, or --preprocessing",
                "Say --preprocessing none, tf, torch or caffe: as it was done in its training.",
                path,
            )
        preprocessing = "none"
    fixed = network.input_shape[1]
    side = fixed or LOOKED_AT
    maps = _maps_by_side(_outputs_at(network, side))
    if not maps:
        raise unusable(
            "no layer with weights gives a map of several channels",
            "a convolutional network, channels last",
            "Save the network without its top, or choose another.",
            path,
        )
    deepest = min(maps)
    return Backbone(
        name=path.name,
        builder="",
        preprocessing=PREPROCESSING[preprocessing],
        depths=tuple(name for name, _ in maps.values()),
        channels=tuple(channels for _, channels in maps.values()),
        smallest=fixed or 2 * -(-side // deepest),
        weights_folder="",
        weights_name="",
        weights_hash="",
        licence="",
        file=path,
        side=fixed,
    )


def _outputs_at(network: keras.Model, side: int) -> dict[str, tuple[int, ...]]:
    """The shape of each layer's map for pictures of that side, from the first with weights on."""
    import keras

    mapping, has_weights = [], False
    for layer in network.layers:
        has_weights = has_weights or bool(layer.weights)
        is_repeating = any(word in type(layer).__name__ for word in REPEATING)
        is_map = len(getattr(layer.output, "shape", ())) == 4
        if has_weights and is_map and not is_repeating:
            mapping.append(layer)
    if not mapping:
        return {}
    maps = keras.Model(network.input, [layer.output for layer in mapping])
    shapes = maps.compute_output_shape((1, side, side, 3))
    return {layer.name: shape for layer, shape in zip(mapping, shapes, strict=True)}


def _maps_by_side(shapes: Mapping[str, tuple[int, ...]]) -> dict[int, tuple[str, int]]:
    """The last square map of each side from large to small: layer and channels."""
    found: dict[int, tuple[str, int]] = {}
    for name, (_, height, width, channels) in shapes.items():
        if height == width > 1:
            found[height] = (name, channels)
    return dict(sorted(found.items(), reverse=True))
