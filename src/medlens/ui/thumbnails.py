"""An image of a run's data -> a small JPEG."""

from __future__ import annotations

import io
from pathlib import Path
from threading import BoundedSemaphore

from medlens.data.images import UnreadableImage, read_image, to_pillow
from medlens.data.medmnist import unpack_medmnist
from medlens.run_dir import RunDir
from medlens.ui.choices import reachable_data, read_choices
from medlens.ui.root import Refused, Root

MOST_PIXELS = 40_000_000
QUALITY = 85


class Thumbnails:
    """Small pictures, few at a time: large files need memory while they are read.

    Args:
        root: Images outside of it are refused.
        cache: Where the pictures of .npz files are.
        most_at_once: How many are made at a time.
    """

    def __init__(self, root: Root, cache: Path, most_at_once: int = 2) -> None:
        self._root = root
        self._cache = cache
        self._places = BoundedSemaphore(most_at_once)

    def make(self, run: RunDir, image: str, size: int) -> bytes:
        """A JPEG of an image of a run's data.

        Args:
            run: The run.
            image: The path as in audit.json.
            size: The longer side, in pixels.

        Raises:
            Refused: If it is not there, lies elsewhere, or cannot be read.
        """
        path = self._find(run, image)
        with self._places:
            try:
                pixels = read_image(path, max_pixels=MOST_PIXELS).pixels
            except UnreadableImage as error:
                raise Refused(422, str(error)) from None
            picture = to_pillow(pixels)
        picture.thumbnail((size, size))
        stream = io.BytesIO()
        picture.save(stream, "JPEG", quality=QUALITY)
        return stream.getvalue()

    def _find(self, run: RunDir, image: str) -> Path:
        data = reachable_data(self._root, read_choices(run))
        if data is None:
            raise Refused(403, "The data of this run lies outside of the folder given with --root.")
        if data.suffix.lower() == ".npz":
            # Its pictures lie in the cache, in a folder that holds nothing else.
            place, _ = unpack_medmnist(data, self._cache)
            return Root(place.resolve()).path(image)
        # A list of images may name those beside its own folder.
        path = (data if data.is_dir() else data.parent) / image
        if not self._root.holds(path):
            raise Refused(403, "That image lies outside of the folder given with --root.")
        return path
