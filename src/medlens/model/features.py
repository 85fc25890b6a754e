"""Frozen backbone and pictures -> pooled features, once per image, kept on disk by content."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from medlens.data.scan import in_order
from medlens.data.store import Store
from medlens.model.engine import FrozenPass
from medlens.model.forward import Forward

SHARD_ROWS = 256
SHARD_SECONDS = 30.0
# Features of more bytes are read from disk while the head trains.
MOST_BYTES_IN_MEMORY = 1 << 30


def feature_store(cache: Path, frozen_pass: FrozenPass) -> Store:
    """The features of this pass that are already known."""
    return Store(cache / "features" / frozen_pass.key())


def unknown_keys(keys: Sequence[str], features: Store) -> int:
    """How many different pictures have no features yet."""
    return sum(key not in features for key in set(keys))


def gather_features(
    keys: Sequence[str],
    features: Store,
    columns: slice | NDArray[np.intp],
    path: Path,
) -> NDArray[np.float32]:
    """The features of these pictures as one array: in memory, or above 1 GiB in a file.

    Args:
        keys: Content keys of the pictures, in the order of the rows; may repeat.
        features: Holds the features.
        columns: Which features.
        path: The file, written only where it is needed.

    Returns:
        Of shape (pictures, columns).
    """
    first = features.read(keys[:1])[:, columns]
    if first.nbytes * len(keys) > MOST_BYTES_IN_MEMORY:
        return features.gather(keys, path, columns)
    return np.ascontiguousarray(features.read(keys)[:, columns])


def extract_features(
    keys: Sequence[str],
    load: Callable[[], Forward],
    read: Callable[[Sequence[str]], NDArray[np.uint8]],
    features: Store,
    progress: Callable[[int], None],
    say: Callable[[str], None],
) -> None:
    """Run the frozen network once for every picture whose features are not known yet.

    The next pictures are read and finished shards are written while the network runs. A killed
    run goes on where it was: at most the features of the last half minute are lost.

    Args:
        keys: Content keys of the pictures wanted; may repeat.
        load: Loads the network; called only if there is something to do.
        read: Gives the pictures of some keys, uint8 of shape (pictures, size, size, 3).
        features: Receives the features, float32 of shape (columns,).
        progress: Called with the number of pictures done since the last call.
        say: Receives the expected time of a long pass.
    """
    missing = [key for key in dict.fromkeys(keys) if key not in features]
    if not missing:
        return
    forward = load()
    starts = range(0, len(missing), forward.batch)
    batches = [missing[start : start + forward.batch] for start in starts]
    waiting: list[NDArray[np.float32]] = []
    written = begun = time.monotonic()
    first = 0
    with ThreadPoolExecutor(1) as writer:
        shard: Future[None] | None = None
        for number, batch in enumerate(in_order(read, batches)):
            waiting.append(forward.run(batch))
            progress(len(batch))
            now = time.monotonic()
            done = min((number + 1) * forward.batch, len(missing))
            if number == 1:  # the first batch also compiles the network
                _say_time(len(missing) - done, len(batch) / (now - begun), say)
            begun = now
            is_due = done - first >= SHARD_ROWS or now - written > SHARD_SECONDS
            if is_due or done == len(missing):
                if shard:
                    shard.result()  # one shard waits at most; a full disk is noticed here
                rows = np.concatenate(waiting)
                shard = writer.submit(features.add, missing[first:done], rows)
                waiting, first, written = [], done, now
        if shard:
            shard.result()


def _say_time(images: int, images_per_second: float, say: Callable[[str], None]) -> None:
    minutes = images / images_per_second / 60
    if minutes > 1:
        say(
            f"{images:,} images at {images_per_second:.1f} images/s: about {minutes:.0f} minutes, "
            "once. Interrupted, --resume goes on from here."
        )
