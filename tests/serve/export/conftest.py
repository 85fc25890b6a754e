"""A classifier that is saved in a moment."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import keras
import numpy as np
import pytest

import medlens
from medlens.data.phantom import write_phantoms
from medlens.data.scan import PictureRule
from medlens.model.backbone import Backbone
from medlens.model.classifier import ClassifierFacts, save_classifier
from medlens.model.classifier_graph import features_layer
from medlens.model.engine import FrozenPass
from medlens.model.familiarity import fit_familiarity
from medlens.model.head import Head
from medlens.model.operating_point import OperatingPoint
from medlens.model.own_backbone import find_backbone
from medlens.model.training_cases import remember_cases
from medlens.model.weights import find_weights

CLASSES = ("gesund", 'mass "II" <b>', "Übriges")
SIDE = 64

Save = Callable[..., Path]


@pytest.fixture(scope="session")
def save() -> Save:
    """Saves a classifier folder: a backbone, its weights, "all" or "last", a head's units, and
    how many symmetries of a picture are averaged.

    The head is drawn at random, for features of mean 0 and spread 1: its probabilities differ from
    picture to picture and are never all 0 and 1, which would hide a difference.
    """

    def save_one(
        folder: Path,
        backbone: Backbone,
        weights: str,
        features: str,
        units: tuple[int, ...],
        views: int = 1,
    ) -> Path:
        found = find_weights(backbone, weights, seed=0)
        frozen_pass = FrozenPass(backbone, found, PictureRule(SIDE, "pad"), "keras")
        network = frozen_pass.model
        named = network.get_layer(features_layer(backbone, features)).output
        random = np.random.default_rng(1)
        pictures = random.integers(0, 256, (8, SIDE, SIDE, 3)).astype(np.float32)
        pictures *= np.linspace(0.2, 1, 8, dtype=np.float32)[:, None, None, None]
        seen = np.asarray(keras.Model(network.input, named)(pictures))
        mean, spread = seen.mean(axis=0), seen.std(axis=0) + 1e-2 * np.abs(seen).max(axis=0) + 1e-3
        inputs, layers = seen.shape[1], []
        for outputs in (*units, len(CLASSES)):
            kernel = random.normal(0, 1 / np.sqrt(inputs), (inputs, outputs))
            bias = np.zeros(outputs)
            if not layers:
                kernel = kernel / spread[:, None]
                bias = -mean @ kernel
            layers.append((kernel.astype(np.float32), bias.astype(np.float32)))
            inputs = outputs
        familiarity, rows = fit_familiarity(seen), np.arange(len(seen))
        facts = ClassifierFacts(
            classes=CLASSES,
            features=features,
            frame=None,
            positive_class=CLASSES[1],
            temperature=1.5,
            operating_point=OperatingPoint("youden", 0.25, 0.9, 0.8),
            set_thresholds={0.9: 0.1, 0.95: None},
            fitted_on="val",
            familiarity=familiarity,
            limit=10.0,
            cases=remember_cases(seen, rows % 3, rows, rows, familiarity, seed=0),
            views=views,
        )
        save_classifier(folder, frozen_pass, Head(tuple(layers)), facts)
        return folder

    return save_one


@pytest.fixture(scope="session")
def own_network(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small network of a user's own, with random weights."""
    keras.utils.set_random_seed(0)
    layers = keras.layers
    values = pixels = keras.Input((None, None, 3))
    values = layers.Rescaling(1 / 255)(values)
    values = layers.Conv2D(8, 3, strides=2, padding="same", activation="gelu")(values)
    values = layers.Conv2D(16, 3, strides=2, padding="same")(values)
    values = layers.BatchNormalization()(values)
    path = tmp_path_factory.mktemp("own") / "own.keras"
    keras.Model(pixels, values).save(path)
    return path


@pytest.fixture(scope="session")
def classifier_folder(
    own_network: Path, save: Save, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """A classifier folder without a run: a network of the user's own, one hidden layer."""
    backbone = find_backbone(str(own_network), "auto")
    folder = tmp_path_factory.mktemp("classifier") / "classifier"
    return save(folder, backbone, "imagenet", "all", (8,))


@pytest.fixture(scope="session")
def small_run(
    phantoms: Path, own_network: Path, cache: Path, tmp_path_factory: pytest.TempPathFactory
) -> medlens.Run:
    """A run whose images are at their place; its network is a small one of the user's own."""
    return medlens.train(
        phantoms,
        out=tmp_path_factory.mktemp("small_run") / "run",
        backbone=str(own_network),
        plan="plain",
        features="all",
        head="linear",
        image_size=SIDE,
        epochs=30,
        cache=str(cache),
        no_saliency=True,
        quiet=True,
    )


@pytest.fixture(scope="session")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of pictures that the classifier was not made from."""
    return write_phantoms(tmp_path_factory.mktemp("images") / "new", images=20, seed=7).parent
