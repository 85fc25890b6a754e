"""A .keras file as backbone: flat, with its depths; what cannot be used is refused."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest

from medlens.errors import MedlensError
from medlens.model.backbone import BACKBONES, build_backbone
from medlens.model.own_backbone import find_backbone
from medlens.model.weights import find_weights

SIDE = 64


def small_network(side: int | None = SIDE, channels: int = 3) -> keras.Model:
    """Two depths: 8 channels at half the side, 16 at a quarter; then a top."""
    layers = keras.layers
    values = pixels = keras.Input((side, side, channels))
    values = layers.Conv2D(8, 3, strides=2, padding="same", activation="relu", name="one")(values)
    values = layers.MaxPooling2D(name="pool")(values)
    values = layers.Conv2D(16, 3, padding="same", activation="relu", name="two")(values)
    values = layers.BatchNormalization(name="normalised")(values)
    values = layers.Dense(4, name="top")(layers.GlobalAveragePooling2D()(values))
    return keras.Model(pixels, values)


def nested(inner: keras.Model, side: int | None = SIDE) -> keras.Model:
    """A model in a model in a model that prepares its pixels itself."""
    pixels = keras.Input((side, side, 3))
    middle = keras.Sequential(
        [keras.Input((side, side, 3)), keras.layers.Rescaling(1 / 255), inner]
    )
    return keras.Model(pixels, keras.layers.Dense(2)(middle(pixels)))


def pooled(maps: np.ndarray) -> np.ndarray:
    spread = np.sqrt(maps.var(axis=(1, 2)) + 1e-6)
    return np.concatenate([maps.mean(axis=(1, 2)), spread], axis=1)


@pytest.mark.parametrize("side", [SIDE, None])
@pytest.mark.parametrize("is_nested", [False, True])
def test_its_features_are_the_pooled_maps_of_the_file(
    tmp_path: Path, side: int | None, is_nested: bool
) -> None:
    keras.utils.set_random_seed(0)
    inner = small_network(side)
    path = tmp_path / "own.keras"
    (nested(inner, side) if is_nested else inner).save(path)
    backbone = find_backbone(str(path), "auto" if is_nested else "none")
    assert backbone.depths == ("one", "normalised")
    assert backbone.channels == (8, 16)
    assert (backbone.side, backbone.smallest) == ((side, SIDE) if side else (None, 8))
    model = build_backbone(backbone, find_weights(backbone, "imagenet", seed=0), size=SIDE)
    assert not any(isinstance(layer, keras.Model) for layer in model.layers)
    assert not model.trainable_weights
    random = np.random.default_rng(0)
    pictures = random.integers(0, 256, (3, SIDE, SIDE, 3)).astype(np.float32)
    maps = keras.Model(inner.input, [inner.get_layer(name).output for name in backbone.depths])
    seen = pictures / np.float32(255) if is_nested else pictures
    expected = np.concatenate([pooled(np.asarray(one)) for one in maps(seen)], axis=1)
    np.testing.assert_allclose(np.asarray(model(pictures)), expected, rtol=1e-4, atol=1e-5)
    # As the classifier is: written, read, and asked for its layers.
    model.save(tmp_path / "again.keras")
    again = keras.saving.load_model(tmp_path / "again.keras")
    np.testing.assert_array_equal(np.asarray(again(pictures)), np.asarray(model(pictures)))
    assert again.get_layer("normalised_mean").output.shape == (None, 16)


@pytest.mark.parametrize(("name", "preprocessing"), [("vgg16", "caffe"), ("mobilenet_v2", "tf")])
def test_a_network_of_the_table_in_a_file_gives_the_same_features(
    tmp_path: Path, name: str, preprocessing: str
) -> None:
    row = BACKBONES[name]
    weights = find_weights(row, "random", seed=0)
    path = tmp_path / "own.keras"
    network = getattr(keras.applications, row.builder)(include_top=False, weights=None)
    built = build_backbone(row, weights, size=SIDE)
    for layer in network.layers:
        if layer.weights:
            layer.set_weights(built.get_layer(layer.name).get_weights())
    network.save(path)
    own = find_backbone(str(path), preprocessing)
    assert own.depths[-1] == row.depths[-1]
    if name == "vgg16":
        assert own.depths == row.depths
    model = build_backbone(own, find_weights(own, "imagenet", seed=0), size=SIDE)
    pictures = np.random.default_rng(0).integers(0, 256, (2, SIDE, SIDE, 3)).astype(np.float32)
    last = 2 * row.channels[-1]
    np.testing.assert_allclose(
        np.asarray(model(pictures))[:, -last:],
        np.asarray(built(pictures))[:, -last:],
        rtol=1e-4,
        atol=1e-4,
    )


def with_lambda() -> keras.Model:
    pixels = keras.Input((SIDE, SIDE, 3))
    return keras.Model(pixels, keras.layers.Lambda(lambda values: values + 1)(pixels))


def without_maps() -> keras.Model:
    return keras.Sequential(
        [keras.Input((SIDE, SIDE, 3)), keras.layers.Flatten(), keras.layers.Dense(2)]
    )


@pytest.mark.parametrize(
    ("network", "preprocessing", "said"),
    [
        (small_network, "auto", "--preprocessing"),
        (lambda: small_network(channels=1), "none", "three channels"),
        (with_lambda, "none", "Lambda"),
        (without_maps, "none", "map of several channels"),
    ],
)
def test_what_cannot_be_used_is_refused(
    tmp_path: Path, network: Callable[[], keras.Model], preprocessing: str, said: str
) -> None:
    path = tmp_path / "own.keras"
    network().save(path)
    with pytest.raises(MedlensError, match=said):
        find_backbone(str(path), preprocessing)


@pytest.mark.parametrize("content", [None, b"", b"not a model"])
def test_a_file_that_is_none_is_refused(tmp_path: Path, content: bytes | None) -> None:
    path = tmp_path / "own.keras"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(MedlensError, match="cannot be used"):
        find_backbone(str(path), "none")


@pytest.mark.parametrize(
    ("function", "arguments", "said"),
    [
        (find_backbone, ("vgg16", "tf"), "of your own"),
        (find_weights, (BACKBONES["vgg16"], "no.h5"), "not there"),
    ],
)
def test_names_of_the_table_take_no_preprocessing_and_files_no_weights(
    tmp_path: Path, function: Callable[..., Any], arguments: tuple[Any, ...], said: str
) -> None:
    path = tmp_path / "own.keras"
    small_network().save(path)
    own = find_backbone(str(path), "none")
    with pytest.raises(MedlensError, match="exclude"):
        find_weights(own, "other.h5", seed=0)
    with pytest.raises(MedlensError, match=said):
        function(*arguments, **({"seed": 0} if function is find_weights else {}))
