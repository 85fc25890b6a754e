"""Heat maps: their arithmetic against automatic gradients, and lesions whose place is known."""

from __future__ import annotations

from pathlib import Path

import keras
import numpy as np
import pytest
from numpy.typing import NDArray

from medlens.data.phantom import draw_phantom
from medlens.data.scan import PictureRule
from medlens.model.backbone import BACKBONES, SPREAD_FLOOR
from medlens.model.classifier_graph import build_classifier, read_maps_of_head
from medlens.model.engine import FrozenPass
from medlens.model.head import Head
from medlens.model.opened_graph import open_graph
from medlens.model.weights import Weights
from medlens.report import saliency
from medlens.report.saliency import (
    grad_cam,
    heat_inside,
    occlusion,
    overlay,
    randomisation_check,
)

SIZE = 64
CLASSES = 3


def draw_head(columns: int, units: tuple[int, ...], seed: int = 0) -> Head:
    """A head of random weights: these hidden layers, then the classes."""
    generator = np.random.default_rng(seed)
    layers, inputs = [], columns
    for outputs in (*units, CLASSES):
        kernel = generator.normal(0, 1 / np.sqrt(inputs), (inputs, outputs))
        layers.append((kernel.astype(np.float32), generator.normal(0, 1, outputs)))
        inputs = outputs
    return Head(tuple(layers))


def build(name: str, features: str = "all", units: tuple[int, ...] = (16,)) -> keras.Model:
    backbone = BACKBONES[name]
    columns = len(backbone.columns) if features == "all" else backbone.channels[-1]
    rule = PictureRule(SIZE, "pad")
    frozen_pass = FrozenPass(backbone, Weights("random", None, 0, "random"), rule, "keras")
    return build_classifier(
        frozen_pass, draw_head(columns, units), features=features, temperature=1.3
    )


@pytest.fixture(scope="module", params=["mobilenet_v2", "vgg16"])
def model(request: pytest.FixtureRequest) -> keras.Model:
    return build(request.param)


@pytest.fixture(scope="module")
def pictures() -> NDArray[np.uint8]:
    """Five, so that the last batch is not full."""
    labels = ("mass", "microcalcification", "healthy", "mass", "mass")
    drawn = [draw_phantom(label, patient=number + 1) for number, label in enumerate(labels)]
    return np.stack([np.repeat(one.pixels[..., None], 3, axis=2) for one in drawn])


NUMBERS = np.array([1, 2, 0, 1, 2])


def deepest(model: keras.Model) -> str:
    names = [layer.name for layer in model.layers if isinstance(layer, keras.layers.Flatten)]
    return str(names[-1].rpartition("_")[0])


def test_a_map_per_picture_between_0_and_1(model: keras.Model, pictures: NDArray[np.uint8]) -> None:
    heat = grad_cam(model, pictures, NUMBERS)
    assert heat.shape == (5, SIZE, SIZE)
    assert heat.dtype == np.float32
    assert heat.min() >= 0
    np.testing.assert_allclose(heat.max(axis=(1, 2)), 1, rtol=1e-6)
    np.testing.assert_array_equal(heat, grad_cam(model, pictures, NUMBERS))
    alone = grad_cam(model, pictures[4:], NUMBERS[4:])
    np.testing.assert_allclose(alone[0], heat[4], atol=1e-4)


@pytest.mark.skipif(keras.backend.backend() != "tensorflow", reason="its gradients")
def test_a_layer_asked_for_gives_grad_cam_as_published(
    model: keras.Model, pictures: NDArray[np.uint8]
) -> None:
    import tensorflow

    layer = deepest(model)
    both = keras.Model(
        model.input, [model.get_layer(layer).output, model.get_layer("logits").output]
    )
    with tensorflow.GradientTape() as tape:
        pixels = tensorflow.constant(pictures, "float32")
        tape.watch(pixels)
        maps, logits = both(pixels, training=False)
        logit = tensorflow.reduce_sum(logits * tensorflow.one_hot(NUMBERS, CLASSES))
    weights = np.asarray(tape.gradient(logit, maps)).mean(axis=(1, 2), keepdims=True)
    cells = np.maximum((np.asarray(maps, np.float64) * weights).sum(axis=-1), 0)
    expected = saliency._to_unit(saliency._resample(cells, SIZE))
    assert expected.max() == 1
    np.testing.assert_allclose(grad_cam(model, pictures, NUMBERS, layer), expected, atol=2e-3)


def test_maps_are_enlarged_bilinearly() -> None:
    maps = np.random.default_rng(0).random((2, 4, 4))
    ours = saliency._resample(maps, 16)
    layer = keras.layers.Resizing(16, 16, interpolation="bilinear")
    theirs = keras.ops.convert_to_numpy(layer(maps[..., np.newaxis].astype(np.float32)))[..., 0]
    np.testing.assert_allclose(ours, theirs, atol=1e-5)
    np.testing.assert_allclose(saliency._resample(np.ones((1, 112, 112)), 8), 1)


def test_contributions_of_a_linear_head_add_up_to_the_logits(
    pictures: NDArray[np.uint8],
) -> None:
    # Without the centring, means and spreads are sums over the places of their depths.
    model = build("mobilenet_v2", units=())
    network = open_graph(model)
    *maps, features = network.maps.predict_on_batch(pictures)
    gradient = saliency._head_gradient(network, features, np.eye(CLASSES)[NUMBERS])
    total = np.zeros(len(pictures))
    for depth, values in zip(network.depths, maps, strict=True):
        assert depth.spreads is not None
        mean = values.mean(axis=(1, 2), keepdims=True)
        spread = np.sqrt(values.var(axis=(1, 2)) + SPREAD_FLOOR)
        density = saliency._weigh_channels(values, gradient[:, depth.means])
        squares = (values - mean) ** 2 + SPREAD_FLOOR
        density += saliency._weigh_channels(squares, gradient[:, depth.spreads] / spread)
        total += density.mean(axis=(1, 2))
    kernel, bias = model.get_layer("logits").get_weights()
    logits = (features @ kernel + bias)[np.arange(len(pictures)), NUMBERS]
    np.testing.assert_allclose(total + bias[NUMBERS], logits, rtol=1e-3, atol=1e-3)


def test_the_gradient_of_a_head_with_a_hidden_layer(pictures: NDArray[np.uint8]) -> None:
    network = open_graph(build("mobilenet_v2", units=(16, 8)))
    features = np.asarray(network.maps.predict_on_batch(pictures)[-1])
    layers = [network.model.get_layer(name).get_weights() for name in network.dense]
    head = Head(tuple((kernel, bias) for kernel, bias in layers))
    targets = np.array([[1.0, -0.5, -0.5]] * len(pictures))
    direction = np.random.default_rng(0).normal(0, 1e-4, features.shape)
    moved = ((head.logits(features + direction) - head.logits(features)) * targets).sum(axis=1)
    gradient = saliency._head_gradient(network, features, targets)
    np.testing.assert_allclose((gradient * direction).sum(axis=1), moved, rtol=0.02, atol=1e-6)


def test_heat_follows_what_the_head_reads(pictures: NDArray[np.uint8]) -> None:
    """A head that reads one channel's spread has its heat where that channel deviates most."""
    model = build("vgg16", units=())
    depth = open_graph(model).depths[2]
    assert depth.spreads is not None
    kernel = np.zeros((len(BACKBONES["vgg16"].columns), CLASSES), np.float32)
    column = depth.spreads.start + 7
    kernel[column, 1] = 1
    model.get_layer("logits").set_weights([kernel, np.zeros(CLASSES, np.float32)])
    maps = keras.Model(model.input, model.get_layer(depth.name).output).predict_on_batch(pictures)
    channel = np.asarray(maps)[..., 7]
    squared = (channel - channel.mean(axis=(1, 2), keepdims=True)) ** 2
    step = channel.shape[1] // saliency.GRID
    cells = squared.reshape(len(pictures), saliency.GRID, step, saliency.GRID, step)
    strongest = cells.mean(axis=(2, 4)).reshape(len(pictures), -1).argmax(axis=1)
    heat = grad_cam(model, pictures, np.ones(5, int))
    side = SIZE // saliency.GRID
    for one, cell in zip(heat, strongest, strict=True):
        top, left = (side * int(place) for place in divmod(cell, saliency.GRID))
        assert one[top : top + side, left : left + side].mean() > 2 * one.mean()


def test_a_head_of_the_last_layer_alone(pictures: NDArray[np.uint8]) -> None:
    model = build("mobilenet_v2", features="last")
    assert grad_cam(model, pictures, NUMBERS).shape == (5, SIZE, SIZE)
    assert grad_cam(model, pictures, NUMBERS, "out_relu").shape == (5, SIZE, SIZE)


@pytest.mark.parametrize("features", ["all", "last"])
def test_the_fast_engine_gives_the_same_heat(
    features: str, pictures: NDArray[np.uint8], tmp_path: Path
) -> None:
    model = build("vgg16", features=features)
    rule, random = PictureRule(SIZE, "pad"), Weights("random", None, 0, "random")
    forward = FrozenPass(BACKBONES["vgg16"], random, rule, "ncnn").forward(tmp_path)
    read_maps = read_maps_of_head(forward, BACKBONES["vgg16"], features)
    assert read_maps is not None
    fast = grad_cam(model, pictures, NUMBERS, read_maps=read_maps)
    np.testing.assert_allclose(fast, grad_cam(model, pictures, NUMBERS), atol=2e-3)


def test_a_saved_and_loaded_graph_gives_the_same(
    pictures: NDArray[np.uint8], tmp_path: Path
) -> None:
    model = build("mobilenet_v2")
    model.save(tmp_path / "model.keras")
    again = keras.models.load_model(tmp_path / "model.keras", compile=False)
    np.testing.assert_array_equal(
        grad_cam(model, pictures, NUMBERS), grad_cam(again, pictures, NUMBERS)
    )


def test_another_graph_or_layer_is_refused(pictures: NDArray[np.uint8]) -> None:
    small = keras.Sequential([keras.Input((4,)), keras.layers.Dense(2, name="other")])
    with pytest.raises(ValueError, match="logits"):
        grad_cam(small, pictures, NUMBERS)
    with pytest.raises(ValueError, match=r"block_9.*out_relu"):
        grad_cam(build("mobilenet_v2"), pictures, NUMBERS, "block_9")


def brightness(pictures: NDArray[np.uint8]) -> NDArray[np.float64]:
    """Two classes: how dark, and how bright a place of known position is."""
    value = pictures[:, 20:30, 40:50].mean(axis=(1, 2, 3))
    return np.stack([255 - value, value], axis=1)


def test_occlusion_finds_the_place_that_matters() -> None:
    picture = np.full((SIZE, SIZE, 3), 40, np.uint8)
    picture[20:30, 40:50] = 250
    batches: list[int] = []

    def run(pictures: NDArray[np.uint8]) -> NDArray[np.float64]:
        batches.append(len(pictures))
        return brightness(pictures)

    heat = occlusion(run, picture, 1, patch=10, stride=5)
    assert heat.shape == (SIZE, SIZE)
    assert heat.dtype == np.float32
    assert heat.max() == 1
    assert heat[20:30, 40:50].min() > 0.3
    far = np.ones((SIZE, SIZE), bool)
    far[10:40, 30:60] = False
    assert heat[far].max() < 0.1
    assert max(batches) <= 32
    # For the other class the grey patch is only a gain.
    assert occlusion(run, picture, 0, patch=10, stride=5).max() == 0


def test_occlusion_reaches_the_edges() -> None:
    picture = np.zeros((SIZE, SIZE, 3), np.uint8)
    picture[-3:, -3:] = 255

    def run(pictures: NDArray[np.uint8]) -> NDArray[np.float64]:
        return pictures[:, -3:, -3:].mean(axis=(1, 2, 3))[:, np.newaxis]

    heat = occlusion(run, picture, 0, patch=9, stride=7)
    assert heat[-1, -1] > 0.9
    assert heat[:45, :45].max() == 0


def test_a_patch_fades_out_at_its_edges_and_covers_the_whole_picture() -> None:
    seen: list[NDArray[np.uint8]] = []

    def run(pictures: NDArray[np.uint8]) -> NDArray[np.float64]:
        seen.extend(pictures)
        return np.zeros((len(pictures), 2))

    picture = np.zeros((SIZE, SIZE, 3), np.uint8)
    picture[::2] = 200
    occlusion(run, picture, 0, patch=16, stride=8)
    whole, *occluded = seen
    np.testing.assert_array_equal(whole, picture)
    assert len(occluded) == 7 * 7
    changed = np.abs(np.stack(occluded).astype(int) - picture).max(axis=(0, 3))
    assert changed.min() > 80  # of the 100 between every row and the mean
    middle = occluded[3 * 7 + 3][32, :, 0].astype(int)  # a white row in the middle of the patch
    assert abs(middle[32] - 100) <= 4
    assert middle[24] == pytest.approx(150, abs=15)
    assert middle[10] == 200


@pytest.mark.parametrize(("patch", "stride"), [(0, 1), (65, 8), (8, 9), (8, 0)])
def test_patches_that_leave_holes_are_refused(patch: int, stride: int) -> None:
    with pytest.raises(ValueError, match="cover"):
        picture = np.zeros((SIZE, SIZE, 3), np.uint8)
        occlusion(brightness, picture, 0, patch=patch, stride=stride)


def test_maps_that_follow_the_weights_are_evidence(pictures: NDArray[np.uint8]) -> None:
    model = build("mobilenet_v2")
    before = model.get_weights()
    found = randomisation_check(model, pictures, NUMBERS)
    assert found["is_evidence"]
    assert found["head"] < 0.5
    assert "depend on what was learned" in found["text"]
    for one, other in zip(before, model.get_weights(), strict=True):
        np.testing.assert_array_equal(one, other)


def test_maps_that_do_not_change_are_no_evidence(pictures: NDArray[np.uint8]) -> None:
    # A head with weights all alike is drawn anew as it was: normal numbers without spread.
    model = build("mobilenet_v2", features="last", units=())
    kernel = np.zeros((1280, CLASSES), np.float32)
    model.get_layer("logits").set_weights([kernel, np.zeros(CLASSES, np.float32)])
    found = randomisation_check(model, pictures, NUMBERS, draws=1)
    assert found["head"] == 1
    assert not found["is_evidence"]
    assert "no evidence" in found["text"]


def test_heat_inside_against_chance() -> None:
    mask = np.zeros((10, 10), bool)
    mask[:2, :5] = True
    heat = np.where(mask, 1.0, 0.0)
    heat[9] = 1
    found = heat_inside(heat, mask)
    assert (found.heat, found.area) == (0.5, 0.1)
    assert found.times_chance == pytest.approx(5)
    assert heat_inside(np.ones((10, 10)), mask).times_chance == pytest.approx(1)
    assert heat_inside(np.zeros((10, 10)), mask).heat == 0
    assert np.isnan(heat_inside(heat, np.zeros((10, 10), bool)).times_chance)


def test_overlay_leaves_cold_places_alone_and_the_picture_visible(
    pictures: NDArray[np.uint8],
) -> None:
    picture = pictures[0]
    heat = np.zeros((SIZE, SIZE), np.float32)
    heat[:, SIZE // 2 :] = 1
    laid = overlay(picture, heat)
    assert laid.dtype == np.uint8
    np.testing.assert_array_equal(laid[:, : SIZE // 2], picture[:, : SIZE // 2])
    hot, under = laid[:, SIZE // 2 :].astype(float), picture[:, SIZE // 2 :].astype(float)
    assert (hot[..., 0] - hot[..., 2]).mean() > 20
    assert np.corrcoef(hot.mean(-1).ravel(), under.mean(-1).ravel())[0, 1] > 0.99
