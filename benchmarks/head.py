"""Training a head on cached features: time against Keras's `fit`, and memory against the features.

    python benchmarks/head.py --out head.json

Time: 100 epochs on 6,000 images, the default head and a linear one, beside the same layers trained
by `fit` on the same standardised features. Memory: a process of its own trains on features that
lie in a file; its peak less that of a process that only imports what it needs, against the bytes of
the features. At most 1.5 is asked for.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
from measure import run_child, write_result
from numpy.typing import NDArray

CLASSES = 4
COLUMNS = 7264  # MobileNetV2's


def main() -> None:
    """Measure both; print and write the results."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--images", type=int, default=6000)
    parser.add_argument("--epochs", type=int, default=100)
    parser.add_argument("--memory-images", type=int, nargs="+", default=[4000, 8000, 16000])
    parser.add_argument("--out", type=Path)
    parser.add_argument("--features", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--units", type=int, default=0, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.features:
        train_from_file(arguments.features, arguments.units)
        return
    memory = {
        name: measure_memory(arguments.memory_images, units)
        for name, units in (("256 units", 256), ("linear", 0))
    }
    seconds = {
        name: measure_time(arguments.images, arguments.epochs, units)
        for name, units in (("256 units", 256), ("linear", 0))
    }
    result = {
        "images": arguments.images,
        "columns": COLUMNS,
        "epochs": arguments.epochs,
        "time": seconds,
        "memory": memory,
    }
    print(json.dumps(result, indent=2))
    write_result(arguments.out, result)


def draw(images: int, path: Path) -> NDArray[np.float32]:
    """Features of four classes that differ a little in a few directions, in a file."""
    random = np.random.default_rng(0)
    features = np.lib.format.open_memmap(path, "w+", np.float32, (images, COLUMNS))
    directions = random.standard_normal((64, COLUMNS), np.float32)
    for start in range(0, images, 1000):
        rows = slice(start, min(start + 1000, images))
        hidden = random.standard_normal((rows.stop - start, 64), np.float32)
        hidden[:, :CLASSES] += 1.5 * np.eye(CLASSES, dtype=np.float32)[labels(images)[rows]]
        noise = random.standard_normal((rows.stop - start, COLUMNS), np.float32)
        features[rows] = hidden @ directions / 8 + noise
    features.flush()
    return features


def labels(images: int) -> NDArray[np.int64]:
    """Classes in turn."""
    return np.arange(images) % CLASSES


def train(features: NDArray[np.float32], units: int, epochs: int) -> float:
    """Train medlens's head and return the best validation loss."""
    from medlens.model.head import TrainingRows, train_head
    from medlens.model.head_plan import HeadPlan

    plan = HeadPlan(
        units=(units,) if units else (),
        dropout=0.5,
        epochs=epochs,
        batch_size=64,
        learning_rate=1e-3,
        stop_at_accuracy=None,
        stop_on="val",
        patience=epochs,
        seed=0,
    )
    cut = len(features) * 5 // 6
    rows = TrainingRows(np.arange(cut), np.arange(cut, len(features)))
    truth = labels(len(features))
    training = train_head(features, truth, rows, CLASSES, plan, lambda _: None)
    return float(training.history["val_loss"].min())


def measure_time(images: int, epochs: int, units: int) -> dict[str, Any]:
    """Seconds of both sides, one after the other in this process."""
    with tempfile.TemporaryDirectory() as folder:
        features = np.array(draw(images * 6 // 5, Path(folder, "features.npy")))
    train(features[:600], units, 1)  # what is loaded once is no part of either side
    started = time.monotonic()
    loss = train(features, units, epochs)
    seconds = time.monotonic() - started
    started = time.monotonic()
    plain_loss = fit_plainly(features, units, max(2, epochs // 10))
    plain = (time.monotonic() - started) * epochs / max(2, epochs // 10)
    return {
        "seconds": round(seconds, 1),
        "seconds of fit, from a tenth of the epochs": round(plain, 1),
        "times faster": round(plain / seconds, 1),
        "best val loss": round(loss, 4),
        "of fit": round(plain_loss, 4),
    }


def fit_plainly(features: NDArray[np.float32], units: int, epochs: int) -> float:
    """The same layers on all standardised features, by `fit`."""
    import keras

    cut = len(features) * 5 // 6
    mean, spread = features[:cut].mean(0), features[:cut].std(0)
    inputs = (features - mean) / spread / np.sqrt(COLUMNS)
    targets = keras.utils.to_categorical(labels(len(features)), CLASSES)
    layers = [keras.Input((COLUMNS,))]
    layers += [keras.layers.Dense(units, "relu")] if units else []
    layers += [keras.layers.Dropout(0.5, seed=0), keras.layers.Dense(CLASSES)]
    model = keras.Sequential(layers)
    model.compile(
        keras.optimizers.Adam(1e-3, weight_decay=1e-2),
        keras.losses.CategoricalCrossentropy(from_logits=True),
        metrics=["accuracy"],
    )
    val = (inputs[cut:], targets[cut:])
    history = model.fit(
        inputs[:cut], targets[:cut], 64, epochs, verbose=0, validation_data=val
    ).history
    return float(min(history["val_loss"]))


def measure_memory(counts: list[int], units: int) -> dict[str, Any]:
    """Peak above the base, in MiB and against the bytes of the features."""
    result = {}
    for images in counts:
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder, "features.npy")
            draw(images, path)
            command = [sys.executable, __file__, "--units", str(units), "--features"]
            peak = run_child([*command, str(path)]).peak_mib
            draw(64, path)
            base = run_child([*command, str(path)]).peak_mib
        size = images * COLUMNS * 4 / 2**20
        result[str(images)] = {
            "features_mib": round(size),
            "base_mib": round(base),
            "peak_mib": round(peak),
            "above_base_per_byte": round((peak - base) / size, 2),
        }
    return result


def train_from_file(path: Path, units: int) -> None:
    """The child of `measure_memory`."""
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    train(np.load(path, mmap_mode="r"), units, 3)


if __name__ == "__main__":
    main()
