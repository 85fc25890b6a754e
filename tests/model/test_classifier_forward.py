"""Prediction through the fast engine is prediction through Keras, or falls back to it."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np
import pytest
from numpy.typing import NDArray

from medlens.data.scan import PictureRule
from medlens.model.backbone import BACKBONES
from medlens.model.classifier_forward import _Checked, classifier_forward
from medlens.model.classifier_graph import build_classifier, features_layer
from medlens.model.engine import FrozenPass
from medlens.model.forward import Forward
from medlens.model.head import Head
from medlens.model.weights import Weights

SIZE, CLASSES = 32, 3


def build(name: str, features: str, units: tuple[int, ...] = (8,)) -> tuple[keras.Model, Any]:
    """A classifier of random weights, and its classifier.json as far as it matters here."""
    backbone = BACKBONES[name]
    inputs = len(backbone.columns) if features == "all" else backbone.channels[-1]
    generator = np.random.default_rng(0)
    layers = []
    for outputs in (*units, CLASSES):
        kernel = generator.normal(0, 1 / np.sqrt(inputs), (inputs, outputs)).astype(np.float32)
        layers.append((kernel, generator.normal(0, 1, outputs).astype(np.float32)))
        inputs = outputs
    random = Weights("random", None, 0, "random")
    frozen_pass = FrozenPass(backbone, random, PictureRule(SIZE, "pad"), "keras")
    model = build_classifier(frozen_pass, Head(tuple(layers)), features=features, temperature=2.0)
    facts = {
        "backbone": name,
        "features": features,
        "features_layer": features_layer(backbone, features),
        "image_size": SIZE,
    }
    return model, facts


@pytest.fixture(scope="module")
def pictures() -> NDArray[np.uint8]:
    generator = np.random.default_rng(1)
    return generator.integers(0, 256, (5, SIZE, SIZE, 3)).astype(np.uint8)


@pytest.mark.parametrize(
    ("name", "features", "units"),
    [
        ("vgg16", "all", (8,)),
        ("vgg16", "all", ()),
        ("vgg16", "last", (8,)),
        ("mobilenet_v2", "all", ()),
    ],
)
def test_features_and_logits_are_those_of_keras(
    name: str, features: str, units: tuple[int, ...], pictures: NDArray[np.uint8]
) -> None:
    model, facts = build(name, features, units)
    forward = classifier_forward(model, facts)
    found = forward.run(pictures)
    outputs = [model.get_layer(layer).output for layer in (facts["features_layer"], "logits")]
    wanted = [
        np.asarray(one) for one in keras.Model(model.input, outputs)(pictures * np.float32(1))
    ]
    assert found.shape == (5, wanted[0].shape[1] + CLASSES)
    for part, values in ((found[:, :-CLASSES], wanted[0]), (found[:, -CLASSES:], wanted[1])):
        np.testing.assert_allclose(part, values, atol=1e-4 * np.abs(values).max())
    assert isinstance(forward.run, _Checked) == (name == "vgg16")


def test_an_engine_that_gives_other_values_is_not_used(pictures: NDArray[np.uint8]) -> None:
    model, facts = build("mobilenet_v2", "all", ())
    names = (facts["features_layer"], "logits")
    both = keras.layers.Concatenate()([model.get_layer(name).output for name in names])
    network = keras.Model(model.input, both)
    right = Forward(2, lambda some: np.asarray(network(some.astype(np.float32)), np.float32))

    def wrong(some: NDArray[np.uint8]) -> NDArray[np.float32]:
        values = right.run(some).copy()
        values[:, -1] += 0.1
        return values

    checked = _Checked(wrong, right, network, CLASSES)
    np.testing.assert_allclose(checked(pictures), right.run(pictures), atol=1e-3)
    trusted = _Checked(right.run, right, network, CLASSES)
    np.testing.assert_allclose(trusted(pictures), right.run(pictures), atol=1e-3)


@pytest.mark.parametrize("name", ["vgg16", "mobilenet_v2"])
def test_what_is_said_of_a_picture_does_not_depend_on_its_neighbours(
    name: str, pictures: NDArray[np.uint8]
) -> None:
    model, facts = build(name, "all", (256,))
    run = classifier_forward(model, facts).run
    run(pictures[:1])
    together = run(pictures)
    alone = np.concatenate([run(pictures[number : number + 1]) for number in range(5)])
    assert np.array_equal(together, alone)


def test_threads_change_no_digit(pictures: NDArray[np.uint8]) -> None:
    model, facts = build("vgg16", "all", (256,))
    one, many = (classifier_forward(model, facts, threads=count) for count in (1, 9))
    assert (one.batch, many.batch) == (32, 72)
    assert np.array_equal(one.run(pictures), many.run(pictures))
