"""ncnn computes what Keras computes, whatever runs beside it."""

from __future__ import annotations

import gc
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import keras
import numpy as np
import psutil
import pytest
from numpy.typing import NDArray

from medlens.model.backbone import Preprocessing, preprocess
from medlens.model.fast_cpu import (
    DamagedFiles,
    Network,
    UnsupportedLayer,
    read_ncnn,
    usable_cores,
    why_not,
    write_ncnn,
)

pytest.importorskip("ncnn")

BGR = Preprocessing("BGR", 1.0, (-103.939, -116.779, -123.68))
RGB = Preprocessing("RGB", 1 / 127.5, (-1.0, -1.1, -0.9))
DEPTHS = {
    "VGG16": ["block1_conv2", "block2_conv2", "block3_conv3", "block4_conv3", "block5_conv3"],
    "VGG19": ["block1_conv2", "block2_conv2", "block3_conv4", "block4_conv4", "block5_conv4"],
    "ResNet50": ["conv1_relu", "conv2_block3_out", "conv3_block4_out", "conv5_block3_out"],
    "DenseNet121": ["conv1_relu", "pool2_relu", "pool3_conv", "pool4_relu", "relu"],
}


POSITIVE = ("gamma", "moving_variance")


def pictures(count: int, size: int, seed: int = 0) -> NDArray[np.uint8]:
    """Noise, a flat picture, a half flat one, black and white."""
    images = np.random.default_rng(seed).integers(0, 256, (count, size, size, 3), np.uint8)
    images[1 % count] = 7
    images[2 % count, :, size // 2 :] = 200
    images[3 % count, : size // 2] = (0, 0, 0)
    images[3 % count, size // 2 :] = (255, 255, 255)
    return images


def draw_weights(model: keras.Model, seed: int) -> None:
    """Weights that keep the scale of the signal, with biases and statistics that matter."""
    generator = np.random.default_rng(seed)
    for layer in model.layers:
        values = layer.get_weights()
        if not values:
            continue
        if isinstance(layer, keras.layers.BatchNormalization):
            values = [
                generator.uniform(*((0.5, 1.5) if weight.name in POSITIVE else (-0.5, 0.5)), shape)
                for weight in layer.weights
                for shape in [weight.shape]
            ]
        else:
            kernel = generator.normal(0, np.sqrt(2 / values[0][..., 0].size), values[0].shape)
            values = [kernel, *(generator.normal(0, 0.5, value.shape) for value in values[1:])]
        layer.set_weights(values)


def backbone(name: str, size: int, preprocessing: Preprocessing = BGR) -> keras.Model:
    pixels = keras.Input((size, size, 3))
    builder = getattr(keras.applications, name)
    network = builder(
        include_top=False, weights=None, input_tensor=preprocess(pixels, preprocessing)
    )
    draw_weights(network, seed=1)
    return network


def two_paths(pixels: Any) -> dict[str, Any]:
    """One layer of every kind, with odd sizes, strides and paddings. The depths by name."""
    layers = keras.layers
    first = layers.Conv2D(10, 3, activation="relu", padding="same", name="first")(pixels)
    strided = layers.Conv2D(12, (5, 4), (2, 3), padding="same", use_bias=False)(first)
    normal = layers.BatchNormalization(name="normal", epsilon=0.01, scale=False)(strided)
    relu = layers.Activation("relu", name="relu")(normal)
    wide = layers.Conv2D(12, 1, name="wide")(relu)
    added = layers.Add(name="added")([wide, relu])
    joined = layers.Concatenate(name="joined")([added, wide, relu])
    before = layers.ReLU()(layers.BatchNormalization(center=False)(joined))
    padded = layers.ZeroPadding2D(((1, 2), (3, 0)))(before)
    largest = layers.MaxPooling2D((3, 2), (2, 1), padding="same", name="largest")(padded)
    average = layers.AveragePooling2D((2, 3), 2, name="average")(largest)
    last = layers.Conv2D(17, 3, activation="relu", name="last")(average)
    return {
        name: tensor
        for name, tensor in locals().items()
        if name in ("first", "normal", "relu", "added", "joined", "largest", "average", "last")
    }


def small(size: int = 37, preprocessing: Preprocessing = BGR) -> tuple[keras.Model, list[str]]:
    pixels = keras.Input((size, size, 3))
    depths = two_paths(preprocess(pixels, preprocessing))
    model = keras.Model(pixels, list(depths.values()))
    draw_weights(model, seed=2)
    return model, list(depths)


def keras_features(
    model: keras.Model, depths: list[str], images: NDArray[np.uint8]
) -> list[NDArray[np.float64]]:
    """Means and spreads from Keras's activations, depth by depth, in float64."""
    outputs = [model.get_layer(depth).output for depth in depths]
    network = keras.Model(model.inputs[0], outputs)
    activations = network(images.astype(np.float32), training=False)
    found = []
    for activation in activations:
        values = np.asarray(activation, np.float64)
        found.append(values.mean((1, 2)))
        found.append(np.sqrt(values.var((1, 2)) + 1e-6))
    return found


def assert_close(found: NDArray[np.float32], expected: list[NDArray[np.float64]]) -> None:
    assert found.shape[1] == sum(block.shape[1] for block in expected)
    start = 0
    for block in expected:
        part = found[:, start : start + block.shape[1]]
        assert np.linalg.norm(part - block) <= 1e-5 * np.linalg.norm(block)
        # Also no single feature far off: it would drown in the norm.
        assert np.abs(part - block).max() <= 2e-5 * np.abs(block).max()
        start += block.shape[1]


@pytest.fixture(scope="module")
def network(tmp_path_factory: pytest.TempPathFactory) -> Network:
    model, depths = small()
    folder = tmp_path_factory.mktemp("ncnn")
    return Network(write_ncnn(model, depths=depths, size=37, folder=folder), threads=2)


@pytest.mark.parametrize(
    ("name", "size"), [("VGG16", 64), ("VGG19", 96), ("ResNet50", 75), ("DenseNet121", 64)]
)
def test_backbones_equal_keras(name: str, size: int, tmp_path: Path) -> None:
    model, depths, images = backbone(name, size), DEPTHS[name], pictures(4, size)

    found = Network(write_ncnn(model, depths=depths, size=size, folder=tmp_path))(images)

    expected = keras_features(model, depths, images)
    assert min(block.std() for block in expected) > 0
    assert_close(found, expected)


@pytest.mark.parametrize("size", [37, 48])
@pytest.mark.parametrize("preprocessing", [BGR, RGB], ids=["BGR", "RGB"])
def test_every_kind_of_layer_equals_keras(
    preprocessing: Preprocessing, size: int, tmp_path: Path
) -> None:
    model, depths = small(size, preprocessing)
    images = pictures(5, size)

    found = Network(write_ncnn(model, depths=depths, size=size, folder=tmp_path))(images)

    assert_close(found, keras_features(model, depths, images))


def test_a_flat_picture_has_its_colour_as_mean_and_no_spread(tmp_path: Path) -> None:
    pixels = keras.Input((224, 224, 3))
    layer = keras.layers.Conv2D(3, 1, name="colours", use_bias=False)
    model = keras.Model(pixels, layer(pixels))
    layer.set_weights([np.diag([1.0, 2.0, -3.0]).reshape(1, 1, 3, 3)])
    image = np.broadcast_to(np.array([10, 101, 255], np.uint8), (1, 224, 224, 3))

    files = write_ncnn(model, depths=["colours"], size=224, folder=tmp_path)

    found = Network(files)(image)[0]
    np.testing.assert_allclose(found[:3], [10, 202, -765], rtol=1e-6)
    np.testing.assert_allclose(found[3:], 1e-3, atol=2e-5)  # the last digit of -765 is 6e-5


def test_large_sums_keep_their_digits(tmp_path: Path) -> None:
    pixels = keras.Input((224, 224, 3))
    layer = keras.layers.Conv2D(3, 1, name="colours", use_bias=False)
    model = keras.Model(pixels, layer(pixels))
    layer.set_weights([np.eye(3).reshape(1, 1, 3, 3)])
    image = np.random.default_rng(0).integers(200, 256, (1, 224, 224, 3), np.uint8)

    files = write_ncnn(model, depths=["colours"], size=224, folder=tmp_path)

    values = image[0].astype(np.float64)
    expected = [*values.mean((0, 1)), *np.sqrt(values.var((0, 1)) + 1e-6)]
    np.testing.assert_allclose(Network(files)(image)[0], expected, rtol=1e-6)


def test_the_maps_before_pooling_equal_keras(tmp_path: Path) -> None:
    model, depths = small()
    own = Network(write_ncnn(model, depths=depths, size=37, folder=tmp_path), threads=2)
    images = pictures(3, 37)

    maps, features = own.maps(images)

    outputs = [model.get_layer(depth).output for depth in depths]
    expected = keras.Model(model.inputs[0], outputs)(images.astype(np.float32), training=False)
    assert len(maps) == len(depths)
    for found, wanted in zip(maps, expected, strict=True):
        values = np.asarray(wanted)
        assert found.shape == values.shape
        assert np.linalg.norm(found - values) <= 1e-5 * np.linalg.norm(values)
    np.testing.assert_allclose(features, own(images), rtol=1e-6)


def test_a_picture_does_not_depend_on_the_others(network: Network) -> None:
    images = pictures(9, 37)
    together = network(images)

    assert network(images[::-1])[::-1].tobytes() == together.tobytes()
    alone = np.concatenate([network(images[number : number + 1]) for number in range(9)])
    assert alone.tobytes() == together.tobytes()
    assert len(np.unique(together, axis=0)) == 9


def test_the_number_of_threads_does_not_matter(network: Network) -> None:
    images = pictures(6, 37)

    found = {Network(network.files, threads=count)(images).tobytes() for count in (1, 2, 5)}

    assert found == {network(images).tobytes()}


def test_nothing_depends_on_freed_arrays(network: Network) -> None:
    images = pictures(4, 37)
    expected = network(images).tobytes()
    generator = np.random.default_rng(0)

    for _ in range(6):
        # The copies are freed at once, and their memory is filled with something else.
        assert network(images.copy()).tobytes() == expected
        gc.collect()
        filling = [generator.normal(size=images[0].size) for _ in range(20)]
        assert network(np.asfortranarray(images)).tobytes() == expected
        del filling


def test_two_callers_at_once(network: Network) -> None:
    batches = [pictures(5, 37, seed) for seed in range(2)]
    expected = [network(batch).tobytes() for batch in batches]
    wrong: list[int] = []

    def call(number: int) -> None:
        for _ in range(20):
            if network(batches[number]).tobytes() != expected[number]:
                wrong.append(number)

    threads = [threading.Thread(target=call, args=(number,)) for number in (0, 1, 0)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert wrong == []


def test_memory_does_not_grow(network: Network) -> None:
    images = pictures(50, 37)
    process = psutil.Process()
    for _ in range(4):
        network(images)
    before = process.memory_info().rss

    for _ in range(40):
        network(images)

    # Keeping the activations of 2,000 pictures would take more than 200 MB.
    assert process.memory_info().rss - before < 30e6


def test_no_pictures_give_no_rows(network: Network) -> None:
    found = network(pictures(1, 37)[:0])

    assert found.shape == (0, network.files.columns)


def test_files_are_found_again_and_are_the_same_bytes(network: Network, tmp_path: Path) -> None:
    model, depths = small()
    write_ncnn(model, depths=depths, size=37, folder=tmp_path)

    names = sorted(path.name for path in tmp_path.iterdir())
    assert names == ["network.bin", "network.json", "network.param"]
    for name in names:
        again = (network.files.folder / name).read_bytes()
        assert again == (tmp_path / name).read_bytes()
    images = pictures(3, 37)
    assert Network(read_ncnn(tmp_path))(images).tobytes() == network(images).tobytes()


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-40])


def lengthen(path: Path) -> None:
    path.write_bytes(path.read_bytes() + b"\0" * 4)


def change(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


@pytest.mark.parametrize("harm", [cut, lengthen, change, Path.unlink])
@pytest.mark.parametrize("name", ["network.bin", "network.param"])
def test_damaged_files_are_noticed(harm: Callable[[Path], None], name: str, tmp_path: Path) -> None:
    model, depths = small()
    files = write_ncnn(model, depths=depths, size=37, folder=tmp_path)
    harm(tmp_path / name)

    with pytest.raises(DamagedFiles, match=name):
        Network(files)
    with pytest.raises(DamagedFiles, match=name):
        Network(read_ncnn(tmp_path))


@pytest.mark.parametrize("content", [None, "", "{}", "[]", '{"format": 0}', '{"format": 1}'])
def test_an_unfinished_folder_does_not_count(content: str | None, tmp_path: Path) -> None:
    if content is not None:
        (tmp_path / "network.json").write_text(content)

    with pytest.raises(DamagedFiles, match=r"network\.json"):
        read_ncnn(tmp_path)


def depthwise(pixels: Any) -> Any:
    return keras.layers.DepthwiseConv2D(3, name="odd_one")(pixels)


def swish(pixels: Any) -> Any:
    return keras.layers.Conv2D(8, 3, activation="swish", name="odd_one")(pixels)


def dilated(pixels: Any) -> Any:
    return keras.layers.Conv2D(8, 3, dilation_rate=2, name="odd_one")(pixels)


def capped(pixels: Any) -> Any:
    return keras.layers.ReLU(6, name="odd_one")(pixels)


def across_rows(pixels: Any) -> Any:
    return keras.layers.BatchNormalization(axis=1, name="odd_one")(pixels)


def padded_average(pixels: Any) -> Any:
    return keras.layers.AveragePooling2D(3, 1, padding="same", name="odd_one")(pixels)


def stacked(pixels: Any) -> Any:
    return keras.layers.Concatenate(axis=1, name="odd_one")([pixels, pixels])


def flipped(pixels: Any) -> Any:
    return pixels[..., ::-1]


@pytest.mark.parametrize(
    "build",
    [depthwise, swish, dilated, capped, across_rows, padded_average, stacked, flipped],
)
def test_what_is_not_translated_is_named(build: Callable[[Any], Any], tmp_path: Path) -> None:
    pixels = keras.Input((32, 32, 3))
    middle = build(pixels)
    model = keras.Model(pixels, keras.layers.Conv2D(4, 3, name="depth")(middle))

    with pytest.raises(UnsupportedLayer, match=r"odd_one|get_item"):
        write_ncnn(model, depths=["depth"], size=32, folder=tmp_path)
    assert not list(tmp_path.iterdir())


def test_two_inputs_are_not_translated(tmp_path: Path) -> None:
    left, right = keras.Input((32, 32, 3)), keras.Input((32, 32, 3))
    model = keras.Model([left, right], keras.layers.Add(name="depth")([left, right]))

    with pytest.raises(UnsupportedLayer, match="input"):
        write_ncnn(model, depths=["depth"], size=32, folder=tmp_path)


def test_a_layer_used_twice_is_not_translated(tmp_path: Path) -> None:
    pixels = keras.Input((32, 32, 3))
    shared = keras.layers.Conv2D(3, 3, padding="same", name="shared")
    model = keras.Model(pixels, keras.layers.ReLU(name="depth")(shared(shared(pixels))))

    with pytest.raises(UnsupportedLayer, match="shared"):
        write_ncnn(model, depths=["depth"], size=32, folder=tmp_path)


def test_a_layer_behind_the_last_depth_does_not_matter(tmp_path: Path) -> None:
    pixels = keras.Input((32, 32, 3))
    depth = keras.layers.Conv2D(4, 3, name="depth")(pixels)
    model = keras.Model(pixels, keras.layers.Flatten()(swish(depth)))

    assert write_ncnn(model, depths=["depth"], size=32, folder=tmp_path).columns == 8


def test_wrong_sizes_are_refused(network: Network, tmp_path: Path) -> None:
    model, depths = small()

    with pytest.raises(ValueError, match="37"):
        write_ncnn(model, depths=depths, size=38, folder=tmp_path)
    with pytest.raises(ValueError, match="no_such"):
        write_ncnn(model, depths=["no_such"], size=37, folder=tmp_path)
    for wrong in (pictures(2, 36), pictures(2, 37).astype(np.float32), pictures(2, 37)[0]):
        with pytest.raises(ValueError, match="uint8 of shape"):
            network(wrong)


def test_this_machine_can_use_it() -> None:
    assert why_not() == ""
    assert 1 <= usable_cores() <= psutil.cpu_count()
