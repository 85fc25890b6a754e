"""Classifier and pictures -> heat maps of what spoke for a class, and how far to trust them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import keras
import matplotlib
import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter1d
from scipy.stats import spearmanr

from medlens.model.backbone import SPREAD_FLOOR
from medlens.model.forward import ReadMaps
from medlens.model.opened_graph import OpenedGraph, open_graph
from medlens.report.metrics import BoolArray, FloatArray

Pictures = NDArray[np.uint8]
Heat = NDArray[np.float32]

# Cells along a side of a heat map before it is enlarged. On phantoms of 64 to 224 px the heat was
# best placed with 8; finer grids follow the noise of the shallow depths.
GRID = 8
# Pictures in one call of the network: VGG16's maps of one picture of 224 px take 24 MB.
BATCH = 4
OCCLUDED_AT_ONCE = 32
# Standard deviation of the blur of a patch's edges, in sides of the patch.
FADING = 1 / 6
# In VGG16 these are block 5, in MobileNetV2 what lies between the last two depths.
LAST_CONVOLUTIONS = 3
# Above this rank correlation with maps of untrained weights a map is no evidence.
UNCHANGED = 0.5
COLOUR_MAP = "inferno"
MOST_COLOUR = 0.65


@dataclass(frozen=True)
class HeatInside:
    """How much of a heat map lies inside a lesion.

    Args:
        heat: Share of all heat that lies inside, 0 to 1; 0 for a map without heat.
        area: Share of the picture that lies inside, 0 to 1: what heat without aim would reach.
    """

    heat: float
    area: float

    @property
    def times_chance(self) -> float:
        """How many times more heat lies inside than without aim; NaN where nothing is inside."""
        return self.heat / self.area if self.area > 0 else float("nan")


def grad_cam(
    model: keras.Model,
    pictures: Pictures,
    class_numbers: NDArray[np.integer[Any]],
    layer: str | None = None,
    read_maps: ReadMaps | None = None,
) -> Heat:
    """Heat maps: where each picture speaks for a class.

    The head reads means and spreads of several depths. So a logit is, to first order, a sum over
    all places of all depths: gradient times activation for a mean, gradient times squared
    deviation over spread for a spread. Summed over depths on one grid, less the picture's average
    and cut at 0, they are the heat. What is summed is the class's logit less the mean of the
    others, since a softmax only sees differences. No gradient has to pass the backbone, so this is
    one forward pass, on any backend of Keras.

    With `layer` it is Grad-CAM as published, of that depth alone: the class's logit, gradients
    averaged over the map. The average gradient of a spread is zero, so that map leaves the spreads
    out. On phantoms its heat was far worse placed (benchmarks/saliency.py).
    Sources: Selvaraju et al., ICCV 2017, 618-626 (Grad-CAM); Zhou et al., CVPR 2016, 2921-2929
    (maps of pooled features); Draelos and Carin, arXiv:2011.08891 (products place by place).

    Args:
        model: The flat graph of a classifier, as `Classifier.model` is.
        pictures: RGB, 0 to 255, of shape (n, size, size, 3).
        class_numbers: The class to explain in each picture, of shape (n,).
        layer: One depth, such as "block5_conv3", for published Grad-CAM; None for all together.
        read_maps: A faster way to the maps of the depths that the head reads, and to its features,
            than the graph itself; it must give the same.

    Returns:
        Heat of shape (n, size, size), 0 to 1, the largest value of each map being 1; a map is 0
        everywhere where nothing spoke for the class.

    Raises:
        ValueError: If the graph is not one of medlens's, or does not read that depth.
    """
    return heat_maps(open_graph(model), pictures, class_numbers, layer, read_maps)


def occlusion(
    run: Callable[[Pictures], NDArray[Any]],
    picture: Pictures,
    class_number: int,
    *,
    patch: int,
    stride: int,
) -> Heat:
    """Heat map from what a grey patch, slid over the picture, takes from a class.

    The patch has the mean colour of the picture and fades out at its edges: a hard edge is a new
    structure, and on phantoms the network answered to it more than to what it hid. A pixel's heat
    is the mean loss over the patches that covered it, each as far as it did; gains count as none.
    Source: Zeiler and Fergus, ECCV 2014, 818-833.

    Args:
        run: Pictures of shape (up to 32, size, size, 3) -> values of shape (as many, classes).
            Logits show more than probabilities, which hardly move near 0 and 1.
        picture: RGB, 0 to 255, of shape (size, size, 3).
        class_number: The class to explain.
        patch: Side of the patch in pixels, 1 to size; a quarter of the size is a good choice.
        stride: Step in pixels, 1 to `patch`; half of the patch is a good choice.

    Returns:
        Heat of shape (size, size), 0 to 1, the largest value being 1 unless there is none.

    Raises:
        ValueError: If patch or stride are out of range.
    """
    size = len(picture)
    if not 1 <= patch <= size or not 1 <= stride <= patch:
        raise ValueError(f"patch {patch} and stride {stride} do not cover a picture of {size}")
    profiles = _patch_profiles(size, patch, stride)
    corners = [(row, column) for row in range(len(profiles)) for column in range(len(profiles))]
    grey = np.rint(picture.mean(axis=(0, 1)))
    losses = np.zeros((size, size))
    covered = np.zeros((size, size))
    whole = float(run(picture[np.newaxis])[0, class_number])
    for first in range(0, len(corners), OCCLUDED_AT_ONCE):
        places = np.array(corners[first : first + OCCLUDED_AT_ONCE])
        masks = profiles[places[:, 0], :, np.newaxis] * profiles[places[:, 1], np.newaxis, :]
        occluded = picture + masks[..., np.newaxis] * (grey - picture)
        values = run(np.rint(occluded).astype(np.uint8))[:, class_number]
        losses += np.tensordot(whole - values.astype(np.float64), masks, 1)
        covered += masks.sum(axis=0)
    heat: Heat = _to_unit((losses / covered)[np.newaxis])[0]
    return heat


def _patch_profiles(size: int, patch: int, stride: int) -> FloatArray:
    """How far a patch at each of its places covers each row or column; (places, size), 0 to 1."""
    starts = [*range(0, size - patch, stride), size - patch]
    profiles = np.zeros((len(starts), size))
    for profile, start in zip(profiles, starts, strict=True):
        profile[start : start + patch] = 1
    return np.asarray(gaussian_filter1d(profiles, FADING * patch, axis=1, mode="nearest"))


def randomisation_check(
    model: keras.Model,
    pictures: Pictures,
    class_numbers: NDArray[np.integer[Any]],
    *,
    layer: str | None = None,
    seed: int = 0,
    draws: int = 5,
) -> dict[str, Any]:
    """Compare heat maps with those of the same network after its learned weights are drawn anew.

    First the head's weights are drawn, then also those of the backbone's last three convolutions.
    A map that stays the same shows the picture, not what was learned.
    Source: Adebayo et al., NeurIPS 2018, 9505-9515.

    Args:
        model: The flat graph of a classifier; it is not changed.
        pictures: RGB, 0 to 255, of shape (n, size, size, 3).
        class_numbers: The class to explain in each picture, of shape (n,).
        layer: As for `grad_cam`.
        seed: Of the weights.
        draws: How often they are drawn.

    Returns:
        pictures (how many), draws, head and head_and_last_convolutions (mean rank correlation with
        the maps before, -1 to 1), is_evidence, and text.
    """
    copy = keras.models.clone_model(model)
    learned = model.get_weights()
    copy.set_weights(learned)
    network = open_graph(copy)
    before = heat_maps(network, pictures, class_numbers, layer)
    head = [copy.get_layer(name) for name in network.dense]
    last = _last_convolutions(copy, network)
    found: dict[str, list[float]] = {"head": [], "head_and_last_convolutions": []}
    for draw in range(draws):
        generator = np.random.default_rng([seed, draw])
        copy.set_weights(learned)
        for name, layers in zip(found, (head, last), strict=True):
            for one in layers:
                one.set_weights([_draw_like(values, generator) for values in one.get_weights()])
            after = heat_maps(network, pictures, class_numbers, layer)
            found[name] += [_rank_correlation(*pair) for pair in zip(before, after, strict=True)]
    means = {name: float(np.mean(values)) for name, values in found.items()}
    is_evidence = max(means.values()) < UNCHANGED
    return {
        "pictures": len(pictures),
        "draws": draws,
        **means,
        "is_evidence": is_evidence,
        "text": _say_randomisation(means, is_evidence),
    }


def heat_inside(heat: NDArray[np.floating[Any]], mask: BoolArray) -> HeatInside:
    """The share of a map's heat inside a lesion, and the share of area to hold against it.

    Args:
        heat: 0 or more, of shape (size, size).
        mask: Whether a pixel is of the lesion, of the same shape.
    """
    total = float(heat.sum(dtype=np.float64))
    inside = float(heat[mask].sum(dtype=np.float64))
    return HeatInside(inside / total if total > 0 else 0.0, float(mask.mean()))


def overlay(picture: Pictures, heat: Heat) -> Pictures:
    """Heat laid over its picture: the more heat, the more colour; where there is none, none.

    Args:
        picture: RGB, 0 to 255, of shape (size, size, 3).
        heat: 0 to 1, of shape (size, size).

    Returns:
        RGB, 0 to 255, of shape (size, size, 3), in a perceptually uniform colour map.
    """
    colours = 255 * matplotlib.colormaps[COLOUR_MAP](heat)[..., :3]
    share = MOST_COLOUR * np.clip(heat, 0, 1)[..., np.newaxis]
    mixed: Pictures = np.rint((1 - share) * picture + share * colours).astype(np.uint8)
    return mixed


def heat_maps(
    network: OpenedGraph,
    pictures: Pictures,
    class_numbers: NDArray[np.integer[Any]],
    layer: str | None = None,
    read_maps: ReadMaps | None = None,
) -> Heat:
    """What `grad_cam` gives, of a graph that was opened once for many calls.

    Args:
        network: The classifier's graph, as `Classifier.graph` is.
        pictures: As for `grad_cam`.
        class_numbers: As for `grad_cam`.
        layer: As for `grad_cam`.
        read_maps: As for `grad_cam`.

    Raises:
        ValueError: As `grad_cam`.
    """
    read = read_maps or network.read_maps
    names = [depth.name for depth in network.depths]
    if layer is not None and layer not in names:
        raise ValueError(f"the head does not read {layer!r}, but {', '.join(names)}")
    size = pictures.shape[1]
    heat = np.zeros(pictures.shape[:3], np.float32)
    for start in range(0, len(pictures), BATCH):
        rows = slice(start, start + BATCH)
        maps, features = read(pictures[rows])
        if layer is None:
            cells = _contributions(network, maps, features, class_numbers[rows])
        else:
            number = names.index(layer)
            cells = _published(network, number, maps[number], features, class_numbers[rows])
        heat[rows] = _to_unit(_resample(cells, size))
    return heat


def _contributions(
    network: OpenedGraph,
    maps: list[NDArray[np.float32]],
    features: NDArray[np.float32],
    class_numbers: NDArray[np.integer[Any]],
) -> FloatArray:
    """What each cell adds to the logit, less the picture's average; (n, GRID, GRID)."""
    targets = _one_hot(network, class_numbers)
    others = targets.shape[1] - 1
    gradient = _head_gradient(network, features, targets - (1 - targets) / max(others, 1))
    total = np.zeros((len(features), GRID, GRID))
    for depth, values in zip(network.depths, maps, strict=True):
        mean = values.mean(axis=(1, 2), keepdims=True, dtype=np.float64)
        deviation = values - mean.astype(np.float32)
        density = _weigh_channels(deviation, gradient[:, depth.means])
        if depth.spreads is not None:
            squared = deviation**2
            spread = np.sqrt(squared.mean(axis=(1, 2), dtype=np.float64) + SPREAD_FLOOR)
            density = density + _weigh_channels(squared, gradient[:, depth.spreads] / spread)
        density = density - density.mean(axis=(1, 2), keepdims=True)
        # A density over the picture's area: means of cells, whatever the size of the map.
        total += _resample(density, GRID)
    return total


def _published(
    network: OpenedGraph,
    number: int,
    values: NDArray[np.float32],
    features: NDArray[np.float32],
    class_numbers: NDArray[np.integer[Any]],
) -> FloatArray:
    """Grad-CAM of one depth as published, of shape (n, height, width)."""
    gradient = _head_gradient(network, features, _one_hot(network, class_numbers))
    return np.maximum(_weigh_channels(values, gradient[:, network.depths[number].means]), 0)


def _weigh_channels(values: NDArray[Any], weights: FloatArray) -> FloatArray:
    """Sum over channels: (n, height, width, channels) by (n, channels) -> (n, height, width)."""
    n, height, width, channels = values.shape
    columns = weights[:, :, np.newaxis].astype(np.float32)
    flat = values.reshape(n, height * width, channels) @ columns
    return np.asarray(flat.reshape(n, height, width), np.float64)


def _one_hot(network: OpenedGraph, class_numbers: NDArray[np.integer[Any]]) -> FloatArray:
    return np.asarray(np.eye(network.model.get_layer("logits").units)[class_numbers])


def _head_gradient(
    network: OpenedGraph, features: NDArray[np.float32], targets: FloatArray
) -> FloatArray:
    """Gradient of a weighted sum of logits by the features: (n, columns) for (n, classes)."""
    layers = [network.model.get_layer(name).get_weights() for name in network.dense]
    values = features.astype(np.float64)
    active = []
    for kernel, bias in layers[:-1]:
        values = values @ kernel + bias
        active.append(values > 0)
        values = np.maximum(values, 0)
    gradient = targets @ layers[-1][0].T
    for (kernel, _), is_on in zip(layers[-2::-1], active[::-1], strict=True):
        gradient = (gradient * is_on) @ kernel.T
    return np.asarray(gradient)


def _resample(maps: FloatArray, size: int) -> FloatArray:
    """Maps of shape (n, side, side) at another side: bilinear, with antialiasing if smaller."""
    side = maps.shape[1]
    centres = (np.arange(size) + 0.5) * side / size - 0.5
    reach = max(1.0, side / size)
    distances = np.abs(np.arange(side) - centres[:, np.newaxis])
    weights = np.maximum(0.0, 1 - distances / reach)
    weights /= weights.sum(axis=1, keepdims=True)
    return np.asarray(weights @ maps @ weights.T)


def _to_unit(maps: FloatArray) -> Heat:
    """Cut at 0 and divide by the largest value of each map."""
    positive = np.maximum(maps, 0)
    largest = positive.max(axis=(1, 2), keepdims=True)
    return (positive / np.where(largest > 0, largest, 1)).astype(np.float32)


def _last_convolutions(model: keras.Model, network: OpenedGraph) -> list[keras.layers.Layer]:
    """The last layers before the deepest map whose kernels have four axes."""
    names = [layer.name for layer in model.layers]
    before = model.layers[: names.index(network.depths[-1].name) + 1]
    with_kernel = [layer for layer in before if layer.get_weights()]
    return [layer for layer in with_kernel if layer.get_weights()[0].ndim == 4][-LAST_CONVOLUTIONS:]


def _draw_like(values: NDArray[np.float32], generator: np.random.Generator) -> NDArray[np.float32]:
    """Normal numbers of the same mean and spread."""
    return generator.normal(values.mean(), values.std(), values.shape).astype(np.float32)


def _rank_correlation(before: Heat, after: Heat) -> float:
    """Spearman's; a flat map has no ranks: 1 beside another flat one, else 0."""
    flat = [float(np.ptp(heat)) == 0 for heat in (before, after)]
    if any(flat):
        return float(all(flat))
    return float(spearmanr(before.ravel(), after.ravel()).statistic)


def _say_randomisation(means: dict[str, float], is_evidence: bool) -> str:
    figures = (
        f"With the head's weights drawn anew the heat maps have a rank correlation of "
        f"{means['head']:.2f} with those of the trained classifier, with those of the last "
        f"convolutions as well {means['head_and_last_convolutions']:.2f} (1: unchanged). "
    )
    if is_evidence:
        return figures + "They depend on what was learned."
    return figures + "They hardly depend on what was learned, and are no evidence of it."
