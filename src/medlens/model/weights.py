"""Where a backbone's weights come from: Keras's ImageNet file, a file, or random filters."""

from __future__ import annotations

import hashlib
import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from medlens.errors import MedlensError

if TYPE_CHECKING:
    from medlens.model.backbone import Backbone


@dataclass(frozen=True)
class Weights:
    """Where a backbone's weights come from.

    Args:
        kind: "imagenet", "file" or "random".
        path: The weights file; None for random filters.
        seed: Seed of random filters.
        sha256: Hash of the file, or a name for the random filters.
    """

    kind: str
    path: Path | None
    seed: int
    sha256: str


def find_weights(backbone: Backbone, weights: str, *, seed: int) -> Weights:
    """Find the weights: Keras's ImageNet file (downloaded once), a file, or random filters.

    Args:
        backbone: The backbone they are for.
        weights: "imagenet", "random", or the path of a weights file.
        seed: Seed of random filters.

    Raises:
        MedlensError: If the file is not there, damaged, or cannot be downloaded; says where to
            get it and where to put it.
    """
    if backbone.file is not None:
        return _own_weights(backbone.file, weights, seed)
    if weights == "random":
        return Weights("random", None, seed, f"random filters, seed {seed}")
    path = _imagenet_file(backbone) if weights == "imagenet" else Path(weights)
    if not path.is_file():
        raise MedlensError(
            "The weights file is not there.",
            got="nothing at that path",
            expected=f"Keras weights of {backbone.name} without top (.weights.h5 or .h5)",
            fix="Check the path given with --weights.",
            names=[str(path)],
        )
    return Weights("imagenet" if weights == "imagenet" else "file", path, seed, _sha256(path))


def _own_weights(file: Path, weights: str, seed: int) -> Weights:
    """Those in the file of the backbone itself."""
    if weights != "imagenet":
        raise MedlensError(
            "--weights and a .keras file with --backbone exclude each other.",
            got="both",
            expected="the weights that are in the .keras file",
            fix="Leave --weights out.",
        )
    return Weights("file", file, seed, _sha256(file))


def _sha256(path: Path) -> str:
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def keras_models_folder() -> Path:
    """Where Keras keeps downloaded weights."""
    return Path(os.environ.get("KERAS_HOME", Path.home() / ".keras")) / "models"


def _imagenet_file(backbone: Backbone) -> Path:
    """Keras's file in Keras's own cache, downloaded by Keras where it is missing or damaged."""
    folder = keras_models_folder()
    path = folder / backbone.weights_name
    if path.is_file() and _is_whole(path, backbone.weights_hash):
        return path
    from keras.utils import get_file

    try:
        return Path(
            get_file(
                backbone.weights_name,
                backbone.weights_url,
                cache_subdir="models",
                file_hash=backbone.weights_hash or None,
            )
        )
    except Exception as error:  # Keras raises a plain Exception when a download fails
        known = backbone.weights_hash
        checksum = f"{_algorithm(known).upper()} {known}" if known else "no checksum published"
        raise MedlensError(
            f"The ImageNet weights of {backbone.name} cannot be downloaded.",
            got=f"{type(error).__name__} ({str(error).rsplit('--', 1)[-1].strip()})",
            expected=f"the file {backbone.weights_name} ({checksum})",
            fix=f"On a machine with internet get {backbone.weights_url} and put it, under that "
            "name, into .keras/models in your home folder, or give its path with --weights. "
            "Without it, --weights random runs with untrained filters.",
            names=[str(folder)],
        ) from None


def _is_whole(path: Path, known: str) -> bool:
    with path.open("rb") as stream:
        return not known or hashlib.file_digest(stream, _algorithm(known)).hexdigest() == known


def _algorithm(known: str) -> str:
    return "sha256" if len(known) == 64 else "md5"
