from __future__ import annotations

from functools import partial
from pathlib import Path

import numpy as np
import pytest

from medlens.data.scan import PictureRule
from medlens.data.store import Store
from medlens.model.backbone import BACKBONES
from medlens.model.engine import FrozenPass
from medlens.model.features import extract_features, feature_store, unknown_keys
from medlens.model.weights import Weights

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


def test_each_picture_goes_through_the_network_once(
    frozen_pass: FrozenPass, pictures: Store, tmp_path: Path
) -> None:
    features = feature_store(tmp_path, frozen_pass)
    load = partial(frozen_pass.forward, tmp_path)
    done: list[int] = []
    keys = [f"key{number}" for number in (3, 1, 3, 39)]
    extract_features(keys, load, pictures.read, features, done.append, quiet)
    assert sum(done) == 3
    again = feature_store(tmp_path, frozen_pass)
    assert unknown_keys([*keys, "key0"], again) == 1
    extract_features([*keys, "key0"], load, pictures.read, again, done.append, quiet)
    assert sum(done) == 4
    assert again.read(["key3"]).shape == (1, len(frozen_pass.backbone.columns))


def test_a_broken_off_pass_goes_on_and_ends_with_the_same_bytes(
    frozen_pass: FrozenPass, pictures: Store, tmp_path: Path
) -> None:
    keys = [f"key{number}" for number in range(40)]
    load = partial(frozen_pass.forward, tmp_path)
    whole = feature_store(tmp_path / "whole", frozen_pass)
    extract_features(keys, load, pictures.read, whole, quiet, quiet)
    parts = feature_store(tmp_path / "parts", frozen_pass)
    extract_features(keys[:7], load, pictures.read, parts, quiet, quiet)
    extract_features(keys, load, pictures.read, parts, quiet, quiet)
    np.testing.assert_array_equal(whole.read(keys), parts.read(keys))


def test_a_failure_while_writing_is_not_lost(
    frozen_pass: FrozenPass, pictures: Store, tmp_path: Path
) -> None:
    (tmp_path / "features").write_text("a file where a folder is needed")
    with pytest.raises(OSError):
        extract_features(
            [f"key{number}" for number in range(40)],
            partial(frozen_pass.forward, tmp_path),
            pictures.read,
            feature_store(tmp_path, frozen_pass),
            quiet,
            quiet,
        )
