"""What a run ran on: versions, machine, backend, weights. Also the answer of `medlens doctor`."""

from __future__ import annotations

import hashlib
import importlib.util
import os
import platform
import shutil
from pathlib import Path
from typing import Any

import pandas as pd
import platformdirs
import psutil

from medlens.data.remote import is_remote, open_path
from medlens.errors import MedlensError
from medlens.model.backbone import BACKBONES
from medlens.model.fast_cpu import why_not
from medlens.model.gpu import gpus
from medlens.model.versions import DECIDING_PACKAGES, installed_versions
from medlens.model.weights import keras_models_folder
from medlens.serve.export_formats import FORMATS, missing_packages

PACKAGES = (*DECIDING_PACKAGES, "pandas", "scikit-learn", "matplotlib", "seaborn")


def cache_folder(cache: str) -> Path:
    """The folder that keeps pictures and features between runs; "auto" is the user's cache."""
    return platformdirs.user_cache_path("medlens") if cache == "auto" else open_path(cache)


def versions() -> dict[str, str]:
    """Versions of Python and of the packages that results depend on; "" where one is missing."""
    return {"python": platform.python_version(), **installed_versions(PACKAGES)}


def machine() -> dict[str, Any]:
    """The machine in plain facts; no host name and no user name."""
    return {
        "system": platform.system(),
        "architecture": platform.machine(),
        "cores": os.cpu_count(),
        "memory_gib": round(psutil.virtual_memory().total / 2**30, 1),
    }


def check_disk_space(folder: Path, needed: int, what: str) -> None:
    """Stop before a long stage that the disk could not hold.

    Args:
        folder: Where the files will go; it need not exist yet.
        needed: Bytes.
        what: What they are, in the plural.

    Raises:
        MedlensError: If less is free. Other storage is not asked.
    """
    if is_remote(folder):
        return
    place = next(path for path in (folder.absolute(), *folder.absolute().parents) if path.exists())
    free = shutil.disk_usage(place).free
    if needed > free:
        raise MedlensError(
            f"The disk has no room for the {what}.",
            got=f"{free / 2**30:.1f} GiB free",
            expected=f"{needed / 2**30:.1f} GiB",
            fix="Make room, or choose another disk with --out and --cache.",
            names=[str(folder)],
        )


def environment_json(seed: int, table: pd.DataFrame, weights_sha256: str) -> dict[str, Any]:
    """The content of environment.json: what a result depends on beside config.toml.

    Args:
        seed: The run's seed.
        table: The images found, with path, label and sha256.
        weights_sha256: Hash of the backbone's weights file.
    """
    import keras

    listing = table[["path", "label", "sha256"]].to_csv(index=False).encode()
    return {
        "versions": versions(),
        "machine": machine(),
        "backend": keras.backend.backend(),
        "gpus": [gpu.name for gpu in gpus()],
        "seed": seed,
        "data_sha256": hashlib.sha256(listing).hexdigest(),
        "weights_sha256": weights_sha256,
    }


def describe_machine() -> list[str]:
    """Lines for `medlens doctor`."""
    import keras

    lines = [f"{name:14} {number or 'missing'}" for name, number in versions().items()]
    facts = machine()
    found = ", ".join(gpu.name for gpu in gpus())
    lines += [
        "",
        f"machine        {facts['system']} {facts['architecture']}, {facts['cores']} cores, "
        f"{facts['memory_gib']} GiB memory",
        f"backend        {keras.backend.backend()}",
        f"GPU            {found or 'none: the frozen network runs on the CPU'}",
        f"fast CPU       {'Keras: ' + why_not() if why_not() else 'ncnn'}",
    ]
    cache = cache_folder("auto")
    free = shutil.disk_usage(next(p for p in (cache, *cache.parents) if p.exists())).free
    lines.append(f"cache          {cache} ({free / 2**30:.1f} GiB free)")
    lines += ["", *_extras(), ""]
    for backbone in BACKBONES.values():
        path = keras_models_folder() / backbone.weights_name
        state = "there" if path.is_file() else "not here; downloaded on first use"
        lines.append(f"weights        {backbone.name}: ImageNet {state} ({path})")
    return lines


def _extras() -> list[str]:
    """Lines on what the optional packages bring."""
    modules = {
        "--ray": ("ray", "upath", "fsspec"),
        "--search": ("optuna",),
        "--track tensorboard": ("tensorboard",),
        "--track mlflow": ("mlflow", "alembic", "sqlalchemy"),
        "serve": ("fastapi", "uvicorn", "httptools", "prometheus_client", "python_multipart"),
    }
    needed = {
        name: [one for one in wanted if importlib.util.find_spec(one) is None]
        for name, wanted in modules.items()
    }
    needed |= {f"export {one.name}": missing_packages(one) for one in FORMATS.values()}
    return [
        f"extra          {name}: " + (f"needs {', '.join(missing)}" if missing else "there")
        for name, missing in needed.items()
    ]
