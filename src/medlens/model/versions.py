"""Versions of packages: results of different ones are not mixed."""

from __future__ import annotations

import importlib.metadata
from collections.abc import Iterable

# What decides the bytes of pixels, features and predictions; with the decoders of DICOM.
DECIDING_PACKAGES = (
    "medlens",
    "keras",
    "tensorflow",
    "ncnn",
    "numpy",
    "scipy",
    "pillow",
    "pydicom",
    "pyjpegls",
    "pylibjpeg",
    "pylibjpeg-openjpeg",
    "python-gdcm",
)


def installed_versions(packages: Iterable[str]) -> dict[str, str]:
    """Package -> version; "" where it is missing."""
    found = {}
    for name in packages:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            found[name] = ""
    return found


def deciding_versions() -> dict[str, str]:
    """Versions of the packages that decide the bytes of a prediction."""
    return installed_versions(DECIDING_PACKAGES)
