"""Frozen backbone and pictures -> pooled features, once per image, kept on disk by content."""

from __future__ import annotations

import hashlib
import importlib.metadata
import json
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from medlens.data.images import RESIZE_FILTER
from medlens.data.scan import PictureRule
from medlens.data.store import Store
from medlens.model.backbone import Backbone, Weights, build_backbone

# One fixed batch, filled up with zeros: a feature must not depend on its neighbours, on a break
# or on a cluster (batches of 7 and 32 differ by 6e-6 in the same network).
BATCH = 32
SHARD_ROWS = 256
SHARD_SECONDS = 30.0
# Raise it when the features of the same picture change.
FEATURES_VERSION = 1

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
        facts = {
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

    def forward(self) -> Forward:
        """Load the network: pictures (BATCH, size, size, 3) -> features (BATCH, columns)."""
        model = build_backbone(self.backbone, self.weights, size=self.rule.size)

        def run(pictures: NDArray[np.uint8]) -> NDArray[np.float32]:
            return np.asarray(model.predict_on_batch(pictures.astype(np.float32)))

        return run


def feature_store(cache: Path, frozen_pass: FrozenPass) -> Store:
    """The features of this pass that are already known."""
    return Store(cache / "features" / frozen_pass.key())


def extract_features(
    keys: Sequence[str],
    *,
    frozen_pass: FrozenPass,
    pictures: Store,
    features: Store,
    progress: Callable[[int], None],
) -> None:
    """Run the frozen network once for every picture whose features are not known yet.

    Shards are written on the way, so that a killed run goes on where it was.

    Args:
        keys: Content keys of the pictures wanted; may repeat.
        frozen_pass: The network.
        pictures: Holds the pictures, uint8 of shape (size, size, 3).
        features: Receives the features, float32 of shape (columns,).
        progress: Called with the number of pictures done since the last call.
    """
    missing = [key for key in dict.fromkeys(keys) if key not in features]
    if not missing:
        return
    forward = frozen_pass.forward()
    waiting: list[NDArray[np.float32]] = []
    waiting_keys: list[str] = []
    started = time.monotonic()
    for start in range(0, len(missing), BATCH):
        batch_keys = missing[start : start + BATCH]
        waiting.append(run_batch(forward, pictures.read(batch_keys)))
        waiting_keys += batch_keys
        progress(len(batch_keys))
        is_late = time.monotonic() - started > SHARD_SECONDS
        if len(waiting_keys) >= SHARD_ROWS or is_late:
            features.add(waiting_keys, np.concatenate(waiting))
            waiting, waiting_keys, started = [], [], time.monotonic()
    if waiting_keys:
        features.add(waiting_keys, np.concatenate(waiting))


def run_batch(forward: Forward, pictures: NDArray[np.generic]) -> NDArray[np.float32]:
    """Features of up to BATCH pictures, computed in a batch of exactly BATCH."""
    full = np.zeros((BATCH, *pictures.shape[1:]), np.uint8)
    full[: len(pictures)] = pictures
    return forward(full)[: len(pictures)]
