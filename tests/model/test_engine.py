from __future__ import annotations

import json
from pathlib import Path

import keras
import numpy as np
import pytest
from numpy.typing import NDArray

from medlens.data.scan import PictureRule
from medlens.data.work_list import PART_ROWS
from medlens.errors import MedlensError
from medlens.model.backbone import BACKBONES
from medlens.model.engine import (
    LARGEST_DIFFERENCE,
    FrozenPass,
    choose_engine,
    choose_pass,
    relative_difference,
)
from medlens.model.fast_cpu import why_not
from medlens.model.forward import compile_forward, divide_part, in_bfloat16
from medlens.model.gpu import gpus
from medlens.model.weights import Weights

RANDOM = Weights("random", None, 0, "random filters, seed 0")
RULE = PictureRule(32, "pad")
VGG16 = BACKBONES["vgg16"]
MOBILENET = BACKBONES["mobilenet_v2"]

needs_ncnn = pytest.mark.skipif(bool(why_not()), reason="ncnn cannot be used here")


def draw_pictures(count: int) -> NDArray[np.uint8]:
    return np.random.default_rng(0).integers(0, 256, (count, 32, 32, 3)).astype(np.uint8)


@pytest.fixture(scope="module", params=["keras", pytest.param("ncnn", marks=needs_ncnn)])
def frozen_pass(request: pytest.FixtureRequest) -> FrozenPass:
    return FrozenPass(VGG16, RANDOM, RULE, request.param)


def test_a_feature_does_not_depend_on_its_neighbours(
    frozen_pass: FrozenPass, tmp_path: Path
) -> None:
    forward = frozen_pass.forward(tmp_path)
    pictures = draw_pictures(forward.batch)
    together = forward.run(pictures)
    np.testing.assert_array_equal(
        together, np.concatenate([forward.run(one[None]) for one in pictures])
    )
    np.testing.assert_array_equal(together, forward.run(pictures[::-1])[::-1])


@needs_ncnn
def test_both_engines_give_the_same_features(tmp_path: Path) -> None:
    pictures = draw_pictures(9)
    keras, ncnn = (
        FrozenPass(VGG16, RANDOM, RULE, engine).forward(tmp_path).run(pictures)
        for engine in ("keras", "ncnn")
    )
    assert keras.shape == ncnn.shape == (9, len(VGG16.columns))
    assert not np.array_equal(keras, ncnn)  # two engines, not one
    assert relative_difference(ncnn, keras, VGG16) < 3e-5


@needs_ncnn
def test_the_second_time_the_network_comes_from_the_cache(tmp_path: Path) -> None:
    first = FrozenPass(VGG16, RANDOM, RULE, "ncnn")
    expected = first.forward(tmp_path).run(draw_pictures(2))
    files = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("network.*")}
    assert len(files) == 3
    again = FrozenPass(VGG16, RANDOM, RULE, "ncnn").forward(tmp_path).run(draw_pictures(2))
    assert files == {path: path.stat().st_mtime_ns for path in tmp_path.rglob("network.*")}
    np.testing.assert_array_equal(expected, again)
    # A damaged file is written anew.
    weights = next(tmp_path.rglob("network.bin"))
    weights.write_bytes(weights.read_bytes()[:-4])
    mended = FrozenPass(VGG16, RANDOM, RULE, "ncnn").forward(tmp_path).run(draw_pictures(2))
    np.testing.assert_array_equal(expected, mended)


@pytest.mark.skipif(bool(gpus()), reason="auto chooses for a machine without GPU here")
def test_the_engine_is_chosen_by_rule() -> None:
    assert choose_engine(VGG16, "auto") == ("keras" if why_not() else "ncnn")
    assert choose_engine(MOBILENET, "auto") == "keras"
    assert choose_engine(VGG16, "keras") == "keras"


@needs_ncnn
def test_ncnn_is_checked_once_on_real_pictures(tmp_path: Path) -> None:
    asked = 0
    said: list[str] = []

    def read_pictures() -> NDArray[np.uint8]:
        nonlocal asked
        asked += 1
        return draw_pictures(3)

    for _ in range(2):
        chosen = choose_pass(VGG16, RANDOM, RULE, "ncnn", tmp_path, read_pictures, said.append)
        assert chosen.engine == "ncnn"
    assert asked == 1
    assert said == []
    outcome = json.loads(next(tmp_path.rglob("checked-*.json")).read_text())
    assert outcome["pictures"] == 3
    assert 0 < outcome["difference"] < LARGEST_DIFFERENCE


@needs_ncnn
@pytest.mark.skipif(bool(gpus()), reason="auto chooses for a machine without GPU here")
def test_a_network_that_differs_is_not_used(tmp_path: Path) -> None:
    """Weights of another seed stand where those of this one should: a planted difference."""
    other = FrozenPass(VGG16, Weights("random", None, 1, RANDOM.sha256), RULE, "ncnn")
    other.forward(tmp_path)
    said: list[str] = []
    arguments = (tmp_path, lambda: draw_pictures(3), said.append)
    assert choose_pass(VGG16, RANDOM, RULE, "auto", *arguments).engine == "keras"
    assert "differ from Keras's" in said[0]
    with pytest.raises(MedlensError, match="ncnn cannot run vgg16 here"):
        choose_pass(VGG16, RANDOM, RULE, "ncnn", *arguments)


@needs_ncnn
def test_a_backbone_that_ncnn_does_not_know_is_refused(tmp_path: Path) -> None:
    with pytest.raises(MedlensError, match="does not know the layer"):
        choose_pass(
            MOBILENET, RANDOM, RULE, "ncnn", tmp_path, lambda: draw_pictures(1), lambda _: None
        )


def test_relative_difference_sees_one_wrong_feature() -> None:
    expected = np.random.default_rng(0).random((2, len(VGG16.columns)), np.float32) + 1
    for column in (0, 127, 128, len(VGG16.columns) - 1):
        features = expected.copy()
        features[1, column] *= 1.01
        assert 0.003 < relative_difference(features, expected, VGG16) < 0.02
    features[0, 5] = np.nan
    assert relative_difference(features, expected, VGG16) > 1e6
    assert relative_difference(expected, expected, VGG16) == 0


def test_bfloat16_stays_near_float32_and_pools_in_float32() -> None:
    model = FrozenPass(VGG16, RANDOM, RULE, "keras").model
    recast = in_bfloat16(model)
    assert recast.get_layer("block5_conv3").compute_dtype == "bfloat16"
    pictures = draw_pictures(2).astype(np.float32)
    expected, features = (np.asarray(each(pictures)) for each in (model, recast))
    assert features.dtype == np.float32
    assert 1e-5 < relative_difference(features, expected, VGG16) < 0.1
    # bfloat16 holds three digits: pooled in float32, the values are not all of that kind.
    rounded = (features.view(np.uint32) & 0xFFFF) == 0
    assert rounded.mean() < 0.2


def test_float32_is_not_cut_short_on_gpus() -> None:
    if keras.backend.backend() != "tensorflow":
        pytest.skip("of TensorFlow")
    import tensorflow

    how = tensorflow.config.experimental
    how.enable_tensor_float_32_execution(True)
    compile_forward(keras.Sequential([keras.Input((8, 8, 3)), keras.layers.Flatten()]))
    assert not how.tensor_float_32_execution_enabled()


def test_the_key_changes_with_everything_that_changes_a_feature() -> None:
    first = FrozenPass(MOBILENET, RANDOM, RULE, "keras")
    others = [
        FrozenPass(VGG16, RANDOM, RULE, "keras"),
        FrozenPass(MOBILENET, Weights("random", None, 1, "seed 1"), RULE, "keras"),
        FrozenPass(MOBILENET, RANDOM, PictureRule(64, "pad"), "keras"),
        FrozenPass(MOBILENET, RANDOM, PictureRule(32, "crop"), "keras"),
        FrozenPass(MOBILENET, RANDOM, RULE, "ncnn"),
        FrozenPass(MOBILENET, RANDOM, RULE, "keras", "bfloat16"),
        FrozenPass(MOBILENET, RANDOM, RULE, "keras", processor="GPU"),
    ]
    assert len({one.key() for one in (first, *others)}) == 8


@needs_ncnn
def test_threads_change_no_digit(tmp_path: Path) -> None:
    frozen = FrozenPass(VGG16, RANDOM, RULE, "ncnn")
    pictures = draw_pictures(9)
    one, many = (frozen.forward(tmp_path, threads=count) for count in (1, 5))
    assert (one.batch, many.batch) == (32, 40)
    np.testing.assert_array_equal(one.run(pictures), many.run(pictures))


@pytest.mark.parametrize(
    ("largest", "batch"),
    [(512, 256), (256, 256), (196, 128), (125, 86), (64, 64), (49, 43)],
)
def test_batches_of_a_gpu_divide_a_part(largest: int, batch: int) -> None:
    assert divide_part(largest) == batch
    assert -(-PART_ROWS // batch) == -(-PART_ROWS // largest)  # as many as before


def test_tensorflow_joins_no_operations() -> None:
    """What it joins them to is now and then wrong, and has other digits (here by 0.002)."""
    if keras.backend.backend() != "tensorflow":
        pytest.skip("only TensorFlow does that")
    import tensorflow

    rule = PictureRule(64, "pad")
    network = FrozenPass(BACKBONES["efficientnet_v2b0"], RANDOM, rule, "keras").model
    options, pictures = tensorflow.config.optimizer, draw_pictures(2).repeat(2, 1).repeat(2, 2)
    before = options.get_experimental_options()
    found = compile_forward(network).run(pictures)
    assert options.get_experimental_options().get("remapping", True)
    try:
        options.set_experimental_options({"remapping": False})
        expected = compile_forward(network).run(pictures)
    finally:
        options.set_experimental_options({"remapping": True, **before})
    np.testing.assert_array_equal(found, expected)
