"""What every row in the table of backbones must keep, with random weights."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path

import keras
import numpy as np
import pytest
from numpy.typing import NDArray

from medlens.data.scan import PictureRule
from medlens.model.backbone import BACKBONES, Backbone
from medlens.model.calibration import probabilities
from medlens.model.classifier_graph import build_classifier
from medlens.model.engine import LARGEST_DIFFERENCE, FrozenPass, choose_engine, relative_difference
from medlens.model.fast_cpu import Network, UnsupportedLayer, why_not, write_ncnn
from medlens.model.finetune import open_blocks
from medlens.model.forward import Maps
from medlens.model.gpu import gpus
from medlens.model.head import Head
from medlens.model.weights import Weights, find_weights
from medlens.report.saliency import grad_cam

SIZE = 64
CLASSES = 3
TEMPERATURE = 1.3
KERAS_MODULES = {
    "vgg16": keras.applications.vgg16,
    "vgg19": keras.applications.vgg19,
    "resnet50": keras.applications.resnet50,
    "densenet121": keras.applications.densenet,
    "mobilenet_v2": keras.applications.mobilenet_v2,
    "efficientnet_v2b0": keras.applications.efficientnet_v2,
    "convnext_tiny": keras.applications.convnext,
}
# Gains below 1. With gains around 1 the gates of EfficientNetV2 magnify a rounding error until
# nothing else is left.
RANGES = {
    "bias": (-0.5, 0.5),
    "beta": (-0.5, 0.5),
    "moving_mean": (-0.5, 0.5),
    "moving_variance": (1.0, 2.0),
}
FAST_ON_CPUS = {"vgg16", "vgg19"}
TRANSLATED = {*FAST_ON_CPUS, "resnet50", "densenet121"}
WITHOUT_BATCH_NORMALISATION = {*FAST_ON_CPUS, "convnext_tiny"}


def slow_for(*names: str) -> pytest.MarkDecorator:
    """Every backbone, some of them only in the slow tests: those most like another, or tested
    from end to end elsewhere."""
    marked = [
        pytest.param(name, marks=pytest.mark.slow) if name in names else name for name in BACKBONES
    ]
    return pytest.mark.parametrize("backbone", marked, indirect=True, scope="module")


@pytest.fixture(scope="module")
def pictures() -> NDArray[np.uint8]:
    """Noise, a half black picture, and a dark one."""
    drawn = np.random.default_rng(1).integers(0, 256, (3, SIZE, SIZE, 3), np.uint8)
    drawn[1, : SIZE // 2] = 0
    drawn[2] //= 3
    return drawn


@pytest.fixture(scope="module", params=list(BACKBONES))
def backbone(request: pytest.FixtureRequest) -> Backbone:
    return BACKBONES[request.param]


@pytest.fixture(scope="module")
def folder(backbone: Backbone) -> Iterator[Path]:
    """Emptied for each backbone: together their files would take more than a gigabyte."""
    with tempfile.TemporaryDirectory() as name:
        yield Path(name)


@pytest.fixture(scope="module")
def application(backbone: Backbone) -> keras.Model:
    """The network of keras.applications with random weights, biases and statistics."""
    builder = getattr(keras.applications, backbone.builder)
    network = builder(include_top=False, weights=None, input_shape=(SIZE, SIZE, 3))
    generator = np.random.default_rng(2)
    for weight in network.weights:
        shape = weight.shape
        if len(shape) > 1:
            is_depthwise = len(shape) == 4 and shape[-1] == 1
            fan_in = np.prod(shape[:2] if is_depthwise else shape[:-1])
            weight.assign(generator.normal(0, np.sqrt(2 / fan_in), shape))
        else:
            weight.assign(generator.uniform(*RANGES.get(weight.name, (0.5, 1.0)), shape))
    return network


@pytest.fixture(scope="module")
def frozen_pass(backbone: Backbone, application: keras.Model, folder: Path) -> FrozenPass:
    """Ours, with the weights from a file of the format that Keras publishes."""
    application.save(folder / "drawn.h5")
    weights = find_weights(backbone, str(folder / "drawn.h5"), seed=0)
    return FrozenPass(backbone, weights, PictureRule(SIZE, "pad"), "keras")


@pytest.fixture(scope="module")
def cached(
    frozen_pass: FrozenPass, pictures: NDArray[np.uint8], folder: Path
) -> NDArray[np.float32]:
    """The features as the frozen pass gives them."""
    return frozen_pass.forward(folder).run(pictures)


@pytest.fixture(scope="module")
def head(cached: NDArray[np.float32]) -> Head:
    """Logits near 1, whatever the features' size."""
    mean, deviation = cached.mean(axis=0), cached.std(axis=0)
    scale = np.sqrt(len(mean)) * (deviation + 0.01 * np.abs(mean) + 1e-3)
    kernel = np.random.default_rng(3).normal(0, 3, (len(mean), CLASSES)) / scale[:, None]
    return Head(((kernel.astype(np.float32), (-mean @ kernel).astype(np.float32)),))


@pytest.fixture(scope="module")
def classifier(frozen_pass: FrozenPass, head: Head, folder: Path) -> keras.Model:
    """Saved and loaded again."""
    model = build_classifier(frozen_pass, head, features="all", temperature=TEMPERATURE)
    model.save(folder / "classifier.keras")
    return keras.models.load_model(folder / "classifier.keras", compile=False, safe_mode=True)


def run(
    model: keras.Model, outputs: object, pixels: NDArray[np.generic]
) -> list[NDArray[np.float64]]:
    """Called, not predicted: compiling would take longer than running."""
    found = keras.Model(model.input, outputs)(pixels.astype(np.float32), training=False)
    return [np.asarray(one, np.float64) for one in (found if isinstance(found, list) else [found])]


def mean_and_spread(values: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.concatenate([values.mean((1, 2)), np.sqrt(values.var((1, 2)) + 1e-6)], axis=1)


def prepare_by_keras(
    backbone: Backbone, application: keras.Model, pictures: NDArray[np.uint8]
) -> NDArray[np.float64]:
    """By preprocess_input, and by what the application itself does before its first weights."""
    prepared = KERAS_MODULES[backbone.name].preprocess_input(pictures.astype(np.float32))
    inside = [one for one in application.layers if isinstance(one, keras.layers.Normalization)]
    assert len(inside) == backbone.prepares_itself
    return run(application, inside[0].output, prepared)[0] if inside else prepared


def test_preprocessing_equals_keras(
    backbone: Backbone,
    application: keras.Model,
    frozen_pass: FrozenPass,
    pictures: NDArray[np.uint8],
) -> None:
    model = frozen_pass.model
    (ours,) = run(model, model.get_layer("preprocessing").output, pictures)
    theirs = prepare_by_keras(backbone, application, pictures)
    np.testing.assert_allclose(ours, theirs, rtol=0, atol=2e-5)


@slow_for("vgg19", "densenet121")
def test_the_deepest_map_is_that_of_keras(
    backbone: Backbone,
    application: keras.Model,
    cached: NDArray[np.float32],
    pictures: NDArray[np.uint8],
) -> None:
    deepest = backbone.depths[-1]
    is_there = any(layer.name == deepest for layer in application.layers)
    output = application.get_layer(deepest).output if is_there else application.output
    pixels = KERAS_MODULES[backbone.name].preprocess_input(pictures.astype(np.float32))
    expected = mean_and_spread(run(application, output, pixels)[0])
    ours = cached[:, -2 * backbone.channels[-1] :]
    assert expected.std() > 0
    assert np.abs(ours - expected).max() < 1e-4 * np.abs(expected).mean()


def test_depths_are_there_from_shallow_to_deep(backbone: Backbone, frozen_pass: FrozenPass) -> None:
    names = [layer.name for layer in frozen_pass.model.layers]
    numbers = [names.index(depth) for depth in backbone.depths]
    assert numbers == sorted(numbers)
    shapes = [frozen_pass.model.get_layer(depth).output.shape for depth in backbone.depths]
    assert tuple(shape[3] for shape in shapes) == backbone.channels
    sides = [shape[1] for shape in shapes]
    assert sides == sorted(sides, reverse=True)
    assert backbone.smallest == 2 * SIZE // sides[-1]


def test_columns_name_depth_statistic_and_channel(backbone: Backbone) -> None:
    columns = backbone.columns
    assert len(set(columns)) == len(columns)
    assert columns[0] == f"{backbone.depths[0]}/mean/0"
    assert columns[-1] == f"{backbone.depths[-1]}/spread/{backbone.channels[-1] - 1}"


@slow_for("vgg19", "densenet121")
def test_features_are_mean_and_spread_of_every_depth(
    backbone: Backbone,
    frozen_pass: FrozenPass,
    cached: NDArray[np.float32],
    pictures: NDArray[np.uint8],
) -> None:
    model = frozen_pass.model
    maps = run(model, [model.get_layer(depth).output for depth in backbone.depths], pictures)
    expected = np.concatenate([mean_and_spread(values) for values in maps], axis=1)
    assert cached.shape == (len(pictures), len(backbone.columns))
    assert relative_difference(cached, expected.astype(np.float32), backbone) < LARGEST_DIFFERENCE


@slow_for("vgg16", "vgg19", "densenet121", "mobilenet_v2")
def test_the_saved_classifier_is_one_flat_graph_of_plain_layers(classifier: keras.Model) -> None:
    assert not any(isinstance(layer, keras.Model) for layer in classifier.layers)
    for entry in classifier.get_config()["layers"]:
        assert entry["class_name"] != "Lambda"
        assert entry["registered_name"] in (None, entry["class_name"])
        assert entry["module"] == "keras.layers" or entry["module"].startswith("keras.src.ops.")


@slow_for("vgg16", "vgg19", "densenet121", "mobilenet_v2")
def test_saved_equals_cached(
    classifier: keras.Model,
    head: Head,
    backbone: Backbone,
    cached: NDArray[np.float32],
    pictures: NDArray[np.uint8],
) -> None:
    outputs = [classifier.get_layer("features").output, classifier.output]
    features, answers = run(classifier, outputs, pictures)
    assert relative_difference(features.astype(np.float32), cached, backbone) < LARGEST_DIFFERENCE
    expected = probabilities(head.logits(cached), TEMPERATURE)
    assert expected.std() > 0.05
    np.testing.assert_allclose(answers, expected, rtol=0, atol=1e-4)


@slow_for("vgg16", "vgg19", "densenet121", "mobilenet_v2")
def test_heat_maps(
    classifier: keras.Model, backbone: Backbone, pictures: NDArray[np.uint8]
) -> None:
    def read_maps(batch: NDArray[np.uint8]) -> Maps:
        layers = [*backbone.depths, "features"]
        outputs = [classifier.get_layer(layer).output for layer in layers]
        *maps, features = (one.astype(np.float32) for one in run(classifier, outputs, batch))
        return maps, features

    numbers = np.array([0, 1, 2])
    heat = grad_cam(classifier, pictures, numbers, read_maps=read_maps)
    assert heat.shape == (3, SIZE, SIZE)
    assert heat.min() >= 0
    np.testing.assert_allclose(heat.max(axis=(1, 2)), 1, rtol=1e-6)
    published = grad_cam(classifier, pictures, numbers, backbone.depths[-2], read_maps)
    assert published.shape == heat.shape
    assert 0 <= published.min() < published.max() == 1


def test_nothing_trains_and_no_statistic_moves(
    backbone: Backbone, frozen_pass: FrozenPass, pictures: NDArray[np.uint8]
) -> None:
    model = frozen_pass.model
    kinds = [type(layer).__name__ for layer in model.layers]
    is_without = backbone.name in WITHOUT_BATCH_NORMALISATION
    assert ("BatchNormalization" not in kinds) == is_without
    assert model.trainable_weights == []
    before = [weight.copy() for weight in model.get_weights()]
    # The shallowest depth only: further up EfficientNet drops out while it trains.
    shallow = keras.Model(model.input, model.get_layer(f"{backbone.depths[0]}_mean").output)
    for batch in (pictures, 255 - pictures[:2]):
        pixels = batch.astype(np.float32)
        model(pixels, training=True)
        trained, frozen = (np.asarray(shallow(pixels, training=flag)) for flag in (True, False))
        np.testing.assert_array_equal(trained, frozen)
    for one, another in zip(before, model.get_weights(), strict=True):
        np.testing.assert_array_equal(one, another)


@pytest.mark.skipif(bool(why_not()), reason="ncnn cannot be used here")
@slow_for("vgg19", "densenet121")
def test_ncnn_gives_the_same_or_says_what_it_does_not_know(
    backbone: Backbone,
    frozen_pass: FrozenPass,
    cached: NDArray[np.float32],
    pictures: NDArray[np.uint8],
    folder: Path,
) -> None:
    def translate() -> Network:
        depths = backbone.depths
        return Network(write_ncnn(frozen_pass.model, depths=depths, size=SIZE, folder=folder))

    if backbone.name in TRANSLATED:
        assert relative_difference(translate()(pictures), cached, backbone) < LARGEST_DIFFERENCE
    else:
        with pytest.raises(UnsupportedLayer):
            translate()


@pytest.mark.skipif(bool(gpus()), reason="auto chooses for a machine without GPU here")
def test_ncnn_is_chosen_by_itself_for_vgg_only(backbone: Backbone) -> None:
    is_fast = backbone.name in FAST_ON_CPUS and not why_not()
    assert choose_engine(backbone, "auto") == ("ncnn" if is_fast else "keras")


@slow_for("vgg16", "vgg19", "resnet50", "densenet121", "mobilenet_v2")
def test_random_filters_keep_the_scale_of_the_signal(
    backbone: Backbone, pictures: NDArray[np.uint8]
) -> None:
    random = Weights("random", None, 0, "random")
    model = FrozenPass(backbone, random, PictureRule(SIZE, "pad"), "keras").model
    features = np.asarray(model(pictures.astype(np.float32), training=False))
    assert np.isfinite(features).all()
    assert 1e-2 < float(np.median(features[:, -backbone.channels[-1] :])) < 1e4


def test_fine_tuning_opens_the_last_blocks_alone(
    backbone: Backbone, frozen_pass: FrozenPass
) -> None:
    model, depths = frozen_pass.model, backbone.depths
    try:
        last, two = (open_blocks(model, depths, blocks) for blocks in (1, 2))
        learning = {layer.name: layer for layer in model.layers if layer.trainable_variables}
    finally:
        model.trainable = False
    assert set(last) < set(two) == set(learning)
    assert not any(isinstance(one, keras.layers.BatchNormalization) for one in learning.values())
    before = keras.Model(model.input, model.get_layer(depths[-2]).output)
    assert set(last).isdisjoint(layer.name for layer in before.layers)
    # Each of them reaches the deepest depth.
    whole = keras.Model(model.input, model.get_layer(depths[-1]).output)
    assert set(two) <= {layer.name for layer in whole.layers}
