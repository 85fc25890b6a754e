"""The frozen pass by Winograd convolution on CPUs, with ncnn.

Fast convolution of 3x3 kernels: Lavin and Gray 2015, arXiv:1509.09308.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import psutil
from numpy.typing import NDArray

from medlens.files import write_bytes
from medlens.model.ncnn_graph import FEATURES, PIXELS, UnsupportedLayer, translate

if TYPE_CHECKING:
    import keras

__all__ = [
    "FORMAT_VERSION",
    "DamagedFiles",
    "NcnnFiles",
    "Network",
    "UnsupportedLayer",
    "read_ncnn",
    "usable_cores",
    "why_not",
    "write_ncnn",
]

PARAM_FILE = "network.param"
WEIGHTS_FILE = "network.bin"
FACTS_FILE = "network.json"
# Raise it when the same Keras model gives other files.
FORMAT_VERSION = 2
# The first release (1.0.DATE) that lets other Python threads run during a forward pass.
FIRST_WITHOUT_LOCK = 20261020


class DamagedFiles(Exception):  # noqa: N818 - it says what it is
    """The files are missing, cut or changed since they were written; write them again."""


@dataclass(frozen=True)
class NcnnFiles:
    """A network as ncnn reads it, in one folder.

    Args:
        folder: Holds network.param, network.bin and network.json.
        size: Side of the square pictures, in pixels.
        columns: Number of features.
        maps: Names of the blobs that hold the depths' maps, from shallow to deep.
        digests: Size in bytes and SHA-256 of each file, as it was written.
    """

    folder: Path
    size: int
    columns: int
    maps: tuple[str, ...]
    digests: Mapping[str, tuple[int, str]]


def why_not() -> str:
    """Why ncnn cannot be used here, or "" where it can."""
    try:
        import ncnn
    except (ImportError, OSError) as error:
        return f"ncnn cannot be imported ({type(error).__name__}: {error})"
    if int(ncnn.__version__.rpartition(".")[2]) < FIRST_WITHOUT_LOCK:
        return f"ncnn {ncnn.__version__} holds Python's lock while it runs, so cores stay idle"
    return ""


def write_ncnn(model: keras.Model, *, depths: Sequence[str], size: int, folder: Path) -> NcnnFiles:
    """Write a Keras model, as far as its depths need it, as ncnn's files with float32 weights.

    The network is that of the model as it stands: if pixels are preprocessed in the model, so they
    are in the files. The features are, depth by depth, the mean of each channel over the picture
    and then its spread, sqrt(variance + 1e-6).

    Args:
        model: A functional graph whose input is (batch, size, size, 3), channels last.
        depths: Names of the layers whose outputs are pooled, from shallow to deep.
        size: Side of the square input, in pixels.
        folder: Receives the files. Its name should depend on all that decides their content: the
            hash of the weights, the depths, the size, and FORMAT_VERSION.

    Raises:
        UnsupportedLayer: If ncnn would not compute the same; names the layer.
        ValueError: If the model's input has another size.
    """
    graph = translate(model, depths)
    if graph.input_shape != (size, size, 3):
        raise ValueError(f"the model's input is {graph.input_shape}, not {(size, size, 3)}")
    contents = {PARAM_FILE: graph.param.encode(), WEIGHTS_FILE: graph.weights}
    digests = {name: _digest(content) for name, content in contents.items()}
    facts = {
        "format": FORMAT_VERSION,
        "size": size,
        "columns": graph.columns,
        "maps": list(graph.maps),
        "files": digests,
    }
    for name, content in contents.items():
        write_bytes(folder / name, content)
    # Written last: a folder without it does not count.
    write_bytes(folder / FACTS_FILE, (json.dumps(facts, indent=2) + "\n").encode("ascii"))
    return NcnnFiles(folder, size, graph.columns, graph.maps, digests)


def read_ncnn(folder: Path) -> NcnnFiles:
    """Find the files that `write_ncnn` left in a folder.

    Raises:
        DamagedFiles: If they are not there, or not of this format.
    """
    try:
        facts = json.loads((folder / FACTS_FILE).read_text(encoding="ascii"))
        if facts["format"] != FORMAT_VERSION:
            raise DamagedFiles(f"{FACTS_FILE} is of format {facts['format']}")
        digests = {
            name: (int(facts["files"][name][0]), str(facts["files"][name][1]))
            for name in (PARAM_FILE, WEIGHTS_FILE)
        }
        maps = tuple(map(str, facts["maps"]))
        return NcnnFiles(folder, int(facts["size"]), int(facts["columns"]), maps, digests)
    except (OSError, ValueError, LookupError, TypeError) as error:
        raise DamagedFiles(f"{FACTS_FILE} cannot be read ({type(error).__name__})") from error


class Network:
    """A loaded network: call it with pictures, get their features. Any number of threads may call.

    Every picture runs alone and on one thread, some side by side: nothing waits for another core,
    and a picture's features depend neither on the others nor on the number of cores.

    Args:
        files: From `write_ncnn` or `read_ncnn`.
        threads: Pictures side by side; by default as many as there are physical cores.

    Raises:
        DamagedFiles: If a file is not as it was written.
    """

    def __init__(self, files: NcnnFiles, *, threads: int | None = None) -> None:
        import ncnn

        _check(files)
        self.files = files
        self.threads = threads or usable_cores()
        self._ncnn = ncnn
        self._net = ncnn.Net()
        options = self._net.opt
        options.num_threads = 1
        options.use_vulkan_compute = False
        # float32 only: half precision differs from Keras in the third digit.
        options.use_fp16_packed = options.use_fp16_storage = options.use_fp16_arithmetic = False
        options.use_bf16_storage = options.use_int8_inference = False
        if self._net.load_param(str(files.folder / PARAM_FILE)) != 0:
            raise DamagedFiles(f"ncnn cannot load {PARAM_FILE}")
        if self._net.load_model(str(files.folder / WEIGHTS_FILE)) != 0:
            raise DamagedFiles(f"ncnn cannot load {WEIGHTS_FILE}")

    def __call__(self, pictures: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Features of pictures.

        Args:
            pictures: RGB pixels of 0 to 255, uint8 of shape (n, size, size, 3).

        Returns:
            float32 of shape (n, columns): per depth all means, then all spreads.

        Raises:
            ValueError: If the pictures have another shape or type.
        """
        self._require_pictures(pictures)
        features = np.empty((len(pictures), self.files.columns), np.float32)
        with ThreadPoolExecutor(self.threads) as pool:
            for number, row in enumerate(pool.map(self._run, pictures)):
                features[number] = row
        return features

    def maps(
        self, pictures: NDArray[np.uint8]
    ) -> tuple[list[NDArray[np.float32]], NDArray[np.float32]]:
        """The map of each depth before it is pooled, and the features.

        Args:
            pictures: As for the call; few, as VGG16's maps of a picture of 224 px take 24 MB.

        Returns:
            By depth, from shallow to deep, float32 of shape (n, height, width, channels); and the
            features as the call gives them.

        Raises:
            ValueError: If the pictures have another shape or type.
        """
        self._require_pictures(pictures)
        with ThreadPoolExecutor(self.threads) as pool:
            found = list(pool.map(self._run_to_maps, pictures))
        maps = [np.stack(of_depth) for of_depth in zip(*(maps for maps, _ in found), strict=True)]
        return maps, np.stack([features for _, features in found])

    def _require_pictures(self, pictures: NDArray[np.uint8]) -> None:
        size = self.files.size
        if pictures.dtype != np.uint8 or pictures.shape[1:] != (size, size, 3):
            raise ValueError(
                f"pictures are {pictures.dtype} of shape {pictures.shape}, "
                f"not uint8 of shape (n, {size}, {size}, 3)"
            )

    def _run(self, picture: NDArray[np.uint8]) -> NDArray[np.float32]:
        return self._extract(self._begin(picture), FEATURES)

    def _run_to_maps(
        self, picture: NDArray[np.uint8]
    ) -> tuple[list[NDArray[np.float32]], NDArray[np.float32]]:
        extractor = self._begin(picture)
        extractor.set_light_mode(False)  # what lies on the way is wanted, too
        features = self._extract(extractor, FEATURES)
        maps = [self._extract(extractor, name).transpose(1, 2, 0) for name in self.files.maps]
        return maps, features

    def _begin(self, picture: NDArray[np.uint8]) -> Any:
        # from_pixels copies. ncnn.Mat(array) would not: it holds no reference to the array, and
        # one that is freed too early gives silent garbage.
        size = self.files.size
        pixel_type = self._ncnn.Mat.PixelType.PIXEL_RGB
        pixels = self._ncnn.Mat.from_pixels(np.ascontiguousarray(picture), pixel_type, size, size)
        extractor = self._net.create_extractor()
        extractor.input(PIXELS, pixels)
        return extractor

    def _extract(self, extractor: Any, blob: str) -> NDArray[np.float32]:
        status, values = extractor.extract(blob)
        if status != 0:
            raise RuntimeError(f"ncnn stopped with status {status}; is there memory left?")
        return np.array(values, np.float32)


def usable_cores() -> int:
    """Physical cores that this process may use, at least 1."""
    physical = psutil.cpu_count(logical=False) or os.cpu_count() or 1
    allowed = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else physical
    return max(1, min(physical, allowed))


def _digest(content: bytes) -> tuple[int, str]:
    return len(content), hashlib.sha256(content).hexdigest()


def _check(files: NcnnFiles) -> None:
    """Ncnn does not notice weights that are too long or changed, and only some that are cut."""
    for name, (size, sha256) in files.digests.items():
        path = files.folder / name
        if not path.is_file():
            raise DamagedFiles(f"{name} is missing")
        if path.stat().st_size != size:
            raise DamagedFiles(f"{name} has {path.stat().st_size:,} bytes; {size:,} were written")
        with path.open("rb") as stream:
            if hashlib.file_digest(stream, "sha256").hexdigest() != sha256:
                raise DamagedFiles(f"{name} has changed since it was written")
