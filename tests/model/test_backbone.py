"""Weights of backbones: found, downloaded, checked, loaded or drawn."""

from __future__ import annotations

import dataclasses
import hashlib
from pathlib import Path

import keras
import numpy as np
import pytest

from medlens.errors import MedlensError
from medlens.model.backbone import BACKBONES, build_backbone
from medlens.model.weights import Weights, find_weights

SIZE = 64
VGG16 = BACKBONES["vgg16"]
# Nothing listens there.
NOWHERE = "http://127.0.0.1:9"


@pytest.fixture(scope="module")
def pictures() -> np.ndarray:
    return np.random.default_rng(1).integers(0, 256, (3, SIZE, SIZE, 3)).astype(np.float32)


@pytest.mark.parametrize("name", ["vgg16", "mobilenet_v2"])
def test_random_filters_follow_the_seed(name: str, pictures: np.ndarray) -> None:
    first, again, other = (
        np.asarray(
            build_backbone(BACKBONES[name], Weights("random", None, seed, ""), size=SIZE)(pictures)
        )
        for seed in (0, 0, 1)
    )
    np.testing.assert_array_equal(first, again)
    assert not np.allclose(first, other)
    # They keep the scale of the signal.
    assert 1e-2 < float(np.median(first[:, -BACKBONES[name].channels[-1] :])) < 1e4


@pytest.mark.parametrize("name", ["vgg16", "convnext_tiny"])
def test_weights_of_another_backbone_are_refused(name: str, tmp_path: Path) -> None:
    small = keras.Sequential([keras.Input((2,)), keras.layers.Dense(1)])
    path = tmp_path / "other.weights.h5"
    small.save_weights(path)
    weights = find_weights(BACKBONES[name], str(path), seed=0)
    with pytest.raises(MedlensError, match="does not fit"):
        build_backbone(BACKBONES[name], weights, size=SIZE)


def test_weights_that_cannot_be_had_say_where_to_get_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("KERAS_HOME", str(tmp_path))
    with pytest.raises(MedlensError) as caught:
        find_weights(dataclasses.replace(VGG16, weights_folder=NOWHERE), "imagenet", seed=0)
    said = str(caught.value)
    assert "vgg16_weights_tf_dim_ordering_tf_kernels_notop.h5" in said
    assert "MD5 6d6bbae143d832006294945121d1f1fc" in said
    assert f"{NOWHERE}/vgg16_weights_tf_dim_ordering_tf_kernels_notop.h5" in said
    assert ".keras/models" in said


@pytest.mark.parametrize("algorithm", ["md5", "sha256"])
def test_a_damaged_file_in_the_cache_of_keras_is_not_used(
    algorithm: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("KERAS_HOME", str(tmp_path))
    path = tmp_path / "models" / "medlens_test_notop.h5"
    path.parent.mkdir()
    path.write_bytes(b"weights")
    row = dataclasses.replace(
        VGG16,
        weights_folder=NOWHERE,
        weights_name=path.name,
        weights_hash=hashlib.new(algorithm, b"weights").hexdigest(),
    )
    assert find_weights(row, "imagenet", seed=0).path == path
    path.write_bytes(b"weight")
    with pytest.raises(MedlensError, match="cannot be downloaded"):
        find_weights(row, "imagenet", seed=0)


def test_a_weights_file_that_is_not_there() -> None:
    with pytest.raises(MedlensError, match="not there"):
        find_weights(VGG16, "no/such.h5", seed=0)


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
