from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from medlens.data.scan import PictureRule
from medlens.data.store import Store
from medlens.model.backbone import BACKBONES, Weights
from medlens.model.features import (
    BATCH,
    FrozenPass,
    extract_features,
    feature_store,
    run_batch,
    unknown_keys,
)

RANDOM = Weights("random", None, 0, "random filters, seed 0")


def quiet(_: object) -> None:
    pass


@pytest.fixture(scope="module")
def frozen_pass() -> FrozenPass:
    return FrozenPass(BACKBONES["mobilenet_v2"], RANDOM, PictureRule(32, "pad"), "keras")


@pytest.fixture()
def pictures(tmp_path: Path) -> Store:
    store = Store(tmp_path / "pictures")
    random = np.random.default_rng(0)
    store.add(
        [f"key{number}" for number in range(40)],
        random.integers(0, 256, (40, 32, 32, 3)).astype(np.uint8),
    )
    return store


def test_a_feature_does_not_depend_on_its_neighbours(frozen_pass: FrozenPass) -> None:
    forward = frozen_pass.forward()
    pictures = np.random.default_rng(0).integers(0, 256, (BATCH, 32, 32, 3)).astype(np.uint8)
    together = run_batch(forward, pictures)
    alone = np.concatenate([run_batch(forward, picture[None]) for picture in pictures])
    backwards = run_batch(forward, pictures[::-1])[::-1]
    np.testing.assert_array_equal(together, alone)
    np.testing.assert_array_equal(together, backwards)


def test_each_picture_goes_through_the_network_once(
    frozen_pass: FrozenPass, pictures: Store, tmp_path: Path
) -> None:
    features = feature_store(tmp_path, frozen_pass)
    done: list[int] = []
    keys = [f"key{number}" for number in (3, 1, 3, 39)]
    extract_features(keys, frozen_pass, pictures, features, done.append, quiet)
    assert sum(done) == 3
    again = feature_store(tmp_path, frozen_pass)
    assert unknown_keys([*keys, "key0"], again) == 1
    extract_features([*keys, "key0"], frozen_pass, pictures, again, done.append, quiet)
    assert sum(done) == 4
    assert again.read(["key3"]).shape == (1, len(frozen_pass.backbone.columns))


def test_a_broken_off_pass_goes_on_and_ends_with_the_same_bytes(
    frozen_pass: FrozenPass, pictures: Store, tmp_path: Path
) -> None:
    keys = [f"key{number}" for number in range(40)]
    whole = feature_store(tmp_path / "whole", frozen_pass)
    extract_features(keys, frozen_pass, pictures, whole, quiet, quiet)
    parts = feature_store(tmp_path / "parts", frozen_pass)
    extract_features(keys[:7], frozen_pass, pictures, parts, quiet, quiet)
    extract_features(keys, frozen_pass, pictures, parts, quiet, quiet)
    np.testing.assert_array_equal(whole.read(keys), parts.read(keys))


def test_the_key_changes_with_everything_that_changes_a_feature(frozen_pass: FrozenPass) -> None:
    rule = frozen_pass.rule
    others = [
        FrozenPass(BACKBONES["vgg16"], RANDOM, rule, "keras"),
        FrozenPass(frozen_pass.backbone, Weights("random", None, 1, "seed 1"), rule, "keras"),
        FrozenPass(frozen_pass.backbone, RANDOM, PictureRule(64, "pad"), "keras"),
        FrozenPass(frozen_pass.backbone, RANDOM, PictureRule(32, "crop"), "keras"),
        FrozenPass(frozen_pass.backbone, RANDOM, rule, "ncnn"),
    ]
    assert len({one.key() for one in (frozen_pass, *others)}) == 6
