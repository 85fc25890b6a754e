"""The contract of every row in the table of backbones, with random filters."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest

from medlens.errors import MedlensError
from medlens.model.backbone import BACKBONES, Weights, build_backbone, find_weights, preprocess

RANDOM = Weights("random", None, 0, "random")
SIZE = 64


@pytest.fixture(scope="module", params=sorted(BACKBONES))
def name(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="module")
def model(name: str) -> keras.Model:
    return build_backbone(BACKBONES[name], RANDOM, size=SIZE)


@pytest.fixture(scope="module")
def pictures() -> np.ndarray:
    return np.random.default_rng(1).integers(0, 256, (3, SIZE, SIZE, 3)).astype(np.float32)


KERAS_MODULES = {
    "vgg16": keras.applications.vgg16,
    "mobilenet_v2": keras.applications.mobilenet_v2,
}


def test_preprocessing_equals_keras(name: str, pictures: np.ndarray) -> None:
    pixels = keras.Input((SIZE, SIZE, 3))
    ours = keras.Model(pixels, preprocess(pixels, BACKBONES[name].preprocessing))
    theirs = KERAS_MODULES[name].preprocess_input(pictures.copy())
    np.testing.assert_allclose(ours.predict_on_batch(pictures), theirs, rtol=0, atol=2e-5)


def test_features_are_mean_and_spread_of_every_depth(
    name: str, model: keras.Model, pictures: np.ndarray
) -> None:
    backbone = BACKBONES[name]
    outputs = [model.get_layer(depth).output for depth in backbone.depths]
    maps = keras.Model(model.input, outputs).predict_on_batch(pictures)
    expected = []
    for activation in maps:
        values = np.asarray(activation, np.float64)
        expected += [values.mean((1, 2)), np.sqrt(values.var((1, 2)) + 1e-6)]
    features = np.asarray(model.predict_on_batch(pictures))
    assert features.shape == (3, len(backbone.columns))
    np.testing.assert_allclose(features, np.concatenate(expected, axis=1), rtol=1e-4, atol=1e-4)


def test_columns_name_depth_statistic_and_channel(name: str) -> None:
    columns = BACKBONES[name].columns
    assert len(set(columns)) == len(columns)
    assert columns[0] == f"{BACKBONES[name].depths[0]}/mean/0"
    assert columns[-1].startswith(f"{BACKBONES[name].depths[-1]}/spread/")


def test_nothing_trains(model: keras.Model) -> None:
    assert model.trainable_weights == []


def test_the_graph_is_flat_and_saves_without_custom_objects(
    model: keras.Model, pictures: np.ndarray, tmp_path: Path
) -> None:
    assert not any(isinstance(layer, keras.Model | keras.layers.Lambda) for layer in model.layers)
    model.save(tmp_path / "model.keras")
    again = keras.models.load_model(tmp_path / "model.keras", safe_mode=True)
    before, after = (np.asarray(m.predict_on_batch(pictures)) for m in (model, again))
    np.testing.assert_array_equal(before, after)


def test_random_filters_keep_the_scale_of_the_signal(
    name: str, model: keras.Model, pictures: np.ndarray
) -> None:
    features = np.asarray(model.predict_on_batch(pictures))
    deepest = features[:, -BACKBONES[name].channels[-1] :]
    assert 1e-2 < float(np.median(deepest)) < 1e4


def test_random_filters_follow_the_seed(name: str, pictures: np.ndarray) -> None:
    backbone = BACKBONES[name]
    same, other = (
        np.asarray(
            build_backbone(backbone, Weights("random", None, seed, ""), size=SIZE).predict_on_batch(
                pictures
            )
        )
        for seed in (0, 1)
    )
    again = build_backbone(backbone, RANDOM, size=SIZE).predict_on_batch(pictures)
    np.testing.assert_array_equal(same, again)
    assert not np.allclose(same, other)


@pytest.mark.filterwarnings("ignore:Skipping nested container")
def test_weights_of_another_backbone_are_refused(tmp_path: Path) -> None:
    small = keras.Sequential([keras.Input((2,)), keras.layers.Dense(1)])
    path = tmp_path / "other.weights.h5"
    small.save_weights(path)
    weights = find_weights(BACKBONES["vgg16"], str(path), seed=0)
    with pytest.raises(MedlensError, match="does not fit"):
        build_backbone(BACKBONES["vgg16"], weights, size=SIZE)


def test_weights_that_cannot_be_had_say_where_to_get_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("KERAS_HOME", str(tmp_path))
    row: dict[str, Any] = {**vars(BACKBONES["vgg16"]), "weights_url": "http://127.0.0.1:9/none.h5"}
    with pytest.raises(MedlensError) as caught:
        find_weights(type(BACKBONES["vgg16"])(**row), "imagenet", seed=0)
    said = str(caught.value)
    assert "vgg16_weights_tf_dim_ordering_tf_kernels_notop.h5" in said
    assert "6d6bbae143d832006294945121d1f1fc" in said
    assert "http://127.0.0.1:9/none.h5" in said
    assert ".keras/models" in said


def test_a_weights_file_that_is_not_there() -> None:
    with pytest.raises(MedlensError, match="not there"):
        find_weights(BACKBONES["vgg16"], "no/such.h5", seed=0)


@pytest.mark.shared_data
def test_real_weights_load_and_differ_from_random(shared: Path, pictures: np.ndarray) -> None:
    path = shared / "weights" / "mobilenet_v2_imagenet_notop.weights.h5"
    backbone = BACKBONES["mobilenet_v2"]
    real = build_backbone(backbone, find_weights(backbone, str(path), seed=0), size=SIZE)
    plain = keras.applications.MobileNetV2(
        include_top=False, weights=str(path), input_shape=(SIZE, SIZE, 3)
    )
    last = plain.predict_on_batch(pictures / 127.5 - 1).mean((1, 2))
    ours = real.predict_on_batch(pictures)[:, -2 * 1280 : -1280]
    np.testing.assert_allclose(ours, last, rtol=1e-3, atol=1e-4)
