"""Which files in the folder of a run medlens wrote, as far as their names tell."""

from __future__ import annotations

from collections.abc import Mapping
from fnmatch import fnmatchcase
from pathlib import Path

from medlens.model.classifier_files import ALL_FILES
from medlens.run_dir import PART, RunDir

EXTERNAL = ("dataset.csv", "audit.json", "predictions.csv", "evaluation.json")
# What the system itself leaves in folders that were looked at.
OF_THE_SYSTEM = (".DS_Store", "Thumbs.db", "desktop.ini")
STORE = ("*.npy", "*.keys")
EXPORTS = (
    *("*.onnx", "*.tflite", "*.xml", "*.bin", "*.json"),
    *("*.pb", "*/variables/variables.*", "*/.*.lock"),
)


def foreign_files(run: RunDir) -> list[Path]:
    """What lies in a run and is not of medlens; a link never is."""
    own = {*run.own(), *run.chosen()}
    inside = _names_inside(run)
    found = []
    for path in run.root.iterdir():
        if path not in own or path.is_symlink():
            found.append(path)
        elif path.is_dir():
            found += [one for one in _files(path) if not _is_named(one, path, inside.get(path, ()))]
    return [one for one in found if not PART.fullmatch(one.name) and one.name not in OF_THE_SYSTEM]


def _names_inside(run: RunDir) -> Mapping[Path, tuple[str, ...]]:
    """How the files in each folder of a run are called, with "*" for what differs."""
    return {
        run.classifier: ALL_FILES,
        run.figures: ("*.png", "*.svg", "*.csv", "*.json"),
        run.heat_maps: ("*.png",),
        run.external: tuple(f"*/{name}" for name in EXTERNAL),
        run.tensorboard: ("*/events.out.tfevents.*",),
        run.mlflow: ("mlflow.db", "mlflow.db-*"),
        run.pictures: STORE,
        run.tuned: (*STORE, "*.npz", "*.json"),
        run.page: (
            *("choices.json", "job.json", ".job.json.lock", "lock"),
            *("output.txt", "errors.txt", "exit.txt"),
            *(f"exports/{name}" for name in EXPORTS),
        ),
    }


def _files(folder: Path) -> list[Path]:
    return [path for path in folder.rglob("*") if path.is_symlink() or not path.is_dir()]


def _is_named(path: Path, folder: Path, names: tuple[str, ...]) -> bool:
    name = path.relative_to(folder).as_posix()
    return not path.is_symlink() and any(fnmatchcase(name, one) for one in names)
