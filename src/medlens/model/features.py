"""Frozen backbone and pictures -> pooled features, once per image, kept on disk by content."""

from __future__ import annotations

import hashlib
import importlib.metadata
import json
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from medlens.data.images import RESIZE_FILTER
from medlens.data.scan import PictureRule
from medlens.data.store import Store
from medlens.model.backbone import Backbone, Weights, build_backbone

# One fixed batch, filled up with zeros: batches of 7 and 32 differ by 6e-6 in the same network.
BATCH = 32
PARALLEL_PICTURES = 4
SHARD_ROWS = 256
SHARD_SECONDS = 30.0
# Raise it when the features of the same picture change.
FEATURES_VERSION = 1

if TYPE_CHECKING:
    import keras

Forward = Callable[[NDArray[np.uint8]], NDArray[np.float32]]


@dataclass(frozen=True)
class FrozenPass:
    """Everything that decides the value of a feature, apart from the picture's pixels.

    Args:
        backbone: The network.
        weights: Its weights.
        rule: How an image becomes a picture.
        engine: "keras" or "ncnn".
    """

    backbone: Backbone
    weights: Weights
    rule: PictureRule
    engine: str

    def key(self) -> str:
        """Name of the folder that keeps these features."""
        from keras import backend

        facts = {
            "backend": backend.backend(),
            "backend_version": importlib.metadata.version(backend.backend()),
            "backbone": self.backbone.name,
            "weights": self.weights.sha256,
            "size": self.rule.size,
            "fit": self.rule.fit,
            "resize": RESIZE_FILTER,
            "engine": self.engine,
            "engine_version": importlib.metadata.version(self.engine),
            "batch": BATCH,
            "version": FEATURES_VERSION,
        }
        digest = hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()[:16]
        return f"{self.backbone.name}-{self.rule.name}-{self.engine}-{digest}"

    @property
    def bytes_per_image(self) -> int:
        """Disk space of one image's features."""
        return 4 * len(self.backbone.columns)

    def forward(self) -> Forward:
        """Load the network: pictures (BATCH, size, size, 3) -> features (BATCH, columns)."""
        return keras_forward(build_backbone(self.backbone, self.weights, size=self.rule.size))


def keras_forward(model: keras.Model) -> Forward:
    """The compiled forward pass of a Keras model.

    On a CPU with TensorFlow the pictures of a batch run one by one, some side by side, inside one
    compiled graph: as fast as a batch, and a picture's features do not depend on its place in it.
    (In a batched matrix product they do, in the last digit: the last rows go another way.)
    """
    import keras

    if keras.backend.backend() != "tensorflow":
        return lambda pictures: np.asarray(model.predict_on_batch(pictures.astype(np.float32)))
    import tensorflow

    if tensorflow.config.list_physical_devices("GPU"):
        return lambda pictures: np.asarray(model.predict_on_batch(pictures.astype(np.float32)))

    def one(picture: Any) -> Any:
        return model(picture[None], training=False)[0]

    def all_of_them(pictures: Any) -> Any:
        return tensorflow.map_fn(one, pictures, parallel_iterations=PARALLEL_PICTURES)

    compiled = tensorflow.function(all_of_them)
    return lambda pictures: np.asarray(compiled(pictures.astype(np.float32)))


def feature_store(cache: Path, frozen_pass: FrozenPass) -> Store:
    """The features of this pass that are already known."""
    return Store(cache / "features" / frozen_pass.key())


def choose_engine(backbone: Backbone, engine: str) -> str:
    """The engine by rule, not by timing: features must be the same bytes in every run."""
    return "keras" if engine == "auto" else engine


def unknown_keys(keys: Sequence[str], features: Store) -> int:
    """How many different pictures have no features yet."""
    return sum(key not in features for key in set(keys))


def extract_features(
    keys: Sequence[str],
    frozen_pass: FrozenPass,
    pictures: Store,
    features: Store,
    progress: Callable[[int], None],
    say: Callable[[str], None],
) -> None:
    """Run the frozen network once for every picture whose features are not known yet.

    Shards are written on the way, so that a killed run goes on where it was.

    Args:
        keys: Content keys of the pictures wanted; may repeat.
        frozen_pass: The network.
        pictures: Holds the pictures, uint8 of shape (size, size, 3).
        features: Receives the features, float32 of shape (columns,).
        progress: Called with the number of pictures done since the last call.
        say: Receives the expected time of a long pass.
    """
    missing = [key for key in dict.fromkeys(keys) if key not in features]
    if not missing:
        return
    forward = frozen_pass.forward()
    waiting: list[NDArray[np.float32]] = []
    waiting_keys: list[str] = []
    written = time.monotonic()
    for start in range(0, len(missing), BATCH):
        begun = time.monotonic()
        batch_keys = missing[start : start + BATCH]
        waiting.append(run_batch(forward, pictures.read(batch_keys)))
        waiting_keys += batch_keys
        progress(len(batch_keys))
        if start == BATCH:  # the first batch also compiles the network
            _say_time(len(missing) - start, time.monotonic() - begun, say)
        is_late = time.monotonic() - written > SHARD_SECONDS
        is_last = start + BATCH >= len(missing)
        if len(waiting_keys) >= SHARD_ROWS or is_late or is_last:
            features.add(waiting_keys, np.concatenate(waiting))
            waiting, waiting_keys, written = [], [], time.monotonic()


def _say_time(images: int, seconds_per_batch: float, say: Callable[[str], None]) -> None:
    minutes = images / BATCH * seconds_per_batch / 60
    if minutes > 1:
        rate = BATCH / seconds_per_batch
        say(
            f"{images:,} images at {rate:.1f} images/s: about {minutes:.0f} minutes, once. "
            "Interrupted, --resume goes on from here."
        )


def run_batch(forward: Forward, pictures: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Features of up to BATCH pictures, computed in a batch of exactly BATCH."""
    full = np.zeros((BATCH, *pictures.shape[1:]), np.uint8)
    full[: len(pictures)] = pictures
    return forward(full)[: len(pictures)]
