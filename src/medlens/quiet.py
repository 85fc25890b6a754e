"""Warnings of libraries that are reported in another way, left out while any thread is at work."""

from __future__ import annotations

import threading
import warnings


class LibraryWarnings:
    """Leaves out what image libraries and Matplotlib warn about while any thread is inside.

    A damaged or odd file is reported once, by its reason; a letter that no font has is drawn as a
    box, and the SVG keeps it. `warnings.catch_warnings` alone is not safe in threads: of two that
    overlap, the one that ends last leaves its filters behind for good. So the first thread in sets
    the filters and the last one out restores them. Warnings of all other modules are left as they
    are. There is one guard for all, `LIBRARY_WARNINGS`.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._inside = 0
        self._filters = warnings.catch_warnings()

    def __enter__(self) -> None:
        with self._lock:
            if self._inside == 0:
                self._filters = warnings.catch_warnings()
                self._filters.__enter__()
                warnings.filterwarnings("ignore", module=r"(PIL|pydicom|pylibjpeg|openjpeg)(\.|$)")
                warnings.filterwarnings("ignore", "Glyph .* missing from", UserWarning)
            self._inside += 1

    def __exit__(self, *_: object) -> None:
        with self._lock:
            self._inside -= 1
            if self._inside == 0:
                self._filters.__exit__(None, None, None)


LIBRARY_WARNINGS = LibraryWarnings()
