"""A quiet start: what TensorFlow says of itself while it is imported is nothing for a person."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def without_start_up_noise() -> Iterator[None]:
    """Keep what TensorFlow's C++ code writes while it is imported (GPU libraries it misses) away.

    It goes to file descriptor 2, past Python, before any of its settings are read.
    """
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    sys.stderr.flush()
    kept = os.dup(2)
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 2)
    try:
        yield
    finally:
        os.dup2(kept, 2)
        os.close(nowhere)
        os.close(kept)
