"""A saved classifier's forward pass by the fastest engine: pictures -> features and logits."""

from __future__ import annotations

import logging
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import keras
import numpy as np
from numpy.typing import NDArray

from medlens.data.symmetries import mirror
from medlens.model import fast_cpu
from medlens.model.backbone import BACKBONES
from medlens.model.engine import choose_engine
from medlens.model.forward import Forward, compile_forward
from medlens.model.symmetric_graph import by_view, picture_input, views_of

LOG = logging.getLogger("medlens")
# Largest difference of a logit or feature from Keras's, relative to the largest of its kind.
LARGEST_DIFFERENCE = 1e-4


def classifier_forward(
    model: keras.Model, facts: Mapping[str, Any], *, threads: int | None = None
) -> Forward:
    """Load a classifier's network for prediction.

    On a processor VGG runs in ncnn, as in training, once the first picture gave the same as Keras.

    Args:
        model: The flat graph of a classifier, from pixels to probabilities.
        facts: The content of classifier.json.
        threads: Pictures side by side in ncnn, which change no digit; None for one per core.

    Returns:
        Pictures -> for each the features that the head reads, of the picture as it is, then the
        logits.
    """
    views, network = views_of(model), features_and_logits(model, facts["features_layer"])
    by_keras = compile_forward(network, views=views)
    backbone = BACKBONES.get(str(facts["backbone"]))
    if backbone is None or choose_engine(backbone, "auto") != "ncnn":
        return by_keras
    is_all = facts["features"] == "all"
    depths = backbone.depths if is_all else backbone.depths[-1:]
    try:
        fast = _load_ncnn(model, depths, int(facts["image_size"]), threads)
    except fast_cpu.UnsupportedLayer as error:
        LOG.info("The classifier runs in Keras, not in ncnn: %s.", error)
        return by_keras
    means = slice(None) if is_all else slice(0, backbone.channels[-1])
    dense = [one for one in model.layers if isinstance(one, keras.layers.Dense)]
    head = [layer.get_weights() for layer in dense]

    def run_once(pictures: NDArray[np.uint8]) -> NDArray[np.float32]:
        features = fast(pictures)[:, means]
        # One by one: in a product of matrices the last digits of a row depend on its neighbours.
        logits = [_run_head(row, head) for row in features]
        return np.concatenate([features, np.stack(logits)], axis=1)

    def run(pictures: NDArray[np.uint8]) -> NDArray[np.float32]:
        found = [run_once(mirror(pictures, number)) for number in range(views)]
        own, columns = found[0], len(head[-1][1])
        own[:, -columns:] = np.mean([one[:, -columns:] for one in found], axis=0)
        return own

    batch = max(by_keras.batch, 8 * fast.threads)
    return Forward(batch, _Checked(run, by_keras, network, len(dense[-1].get_weights()[1])))


def _run_head(
    features: NDArray[np.float32], head: Sequence[Sequence[NDArray[np.float32]]]
) -> NDArray[np.float32]:
    """Logits of one picture: its features through layers of (kernel, bias)."""
    values = features
    for kernel, bias in head[:-1]:
        values = np.maximum(values @ kernel + bias, 0)
    kernel, bias = head[-1]
    return np.asarray(values @ kernel + bias, np.float32)


def features_and_logits(model: keras.Model, features_layer: str) -> keras.Model:
    """A network from pixels to the features of the picture as it is, then the logits.

    Args:
        model: The flat graph of a classifier.
        features_layer: The layer whose output its head reads.
    """
    # What the temperature divides: the logits, averaged where the classifier does so.
    outputs = [model.get_layer(features_layer).output, model.get_layer("temperature").input]
    inner = keras.Model(model.input, outputs)
    # A model in a model: what is added here cannot meet an operation of the same name in it.
    pixels = keras.Input(model.input_shape[1:])
    features, logits = inner(pixels)
    views = views_of(model)
    own = features if views == 1 else by_view(features, views)[0]
    return keras.Model(pixels, keras.layers.Concatenate()([own, logits]))


def _load_ncnn(
    model: keras.Model, depths: tuple[str, ...], size: int, threads: int | None
) -> fast_cpu.Network:
    """The network in ncnn, for one view; its files are in memory once it is loaded."""
    if views_of(model) > 1:
        outputs = [model.get_layer(depth).output for depth in depths]
        model = keras.Model(picture_input(model), outputs)
    with tempfile.TemporaryDirectory(prefix="medlens-", ignore_cleanup_errors=True) as folder:
        files = fast_cpu.write_ncnn(model, depths=depths, size=size, folder=Path(folder))
        return fast_cpu.Network(files, threads=threads)


class _Checked:
    """A fast forward pass that is compared with Keras on the first picture it gets.

    Args:
        run: The fast one.
        by_keras: What takes its place where they differ.
        network: Keras's network, for the one picture.
        classes: Number of logits, the last columns.
    """

    def __init__(self, run: Any, by_keras: Forward, network: keras.Model, classes: int) -> None:
        self._run, self._by_keras = run, by_keras
        self._network, self._classes = network, classes
        self._is_checked = False

    # What overflows is refused later on, in words.
    @np.errstate(over="ignore", invalid="ignore")
    def __call__(self, pictures: NDArray[np.uint8]) -> NDArray[np.float32]:
        if not self._is_checked:
            self._is_checked = True
            one = pictures[:1]
            wanted = np.asarray(self._network(one.astype(np.float32), training=False))
            if not self._agree(self._run(one), wanted):
                LOG.warning("The classifier runs in Keras: ncnn gave other values here.")
                self._run = self._run_keras
        return np.asarray(self._run(pictures), np.float32)

    def _agree(self, found: NDArray[np.float32], wanted: NDArray[np.float32]) -> bool:
        for part in (slice(None, -self._classes), slice(-self._classes, None)):
            largest = float(np.abs(wanted[:, part]).max())
            if not np.abs(found[:, part] - wanted[:, part]).max() <= LARGEST_DIFFERENCE * largest:
                return False
        return True

    def _run_keras(self, pictures: NDArray[np.uint8]) -> NDArray[np.float32]:
        batch = self._by_keras.batch
        starts = range(0, len(pictures), batch)
        return np.concatenate([self._by_keras.run(pictures[s : s + batch]) for s in starts])
