"""A classifier -> SavedModel, ONNX, LiteRT or OpenVINO, run there and proved equal."""

from __future__ import annotations

import hashlib
import importlib.metadata
import json
import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from medlens.errors import MedlensError
from medlens.files import write_json
from medlens.serve.export_formats import (
    FORMATS,
    INPUT_NAME,
    OUTPUT_NAME,
    Format,
    Run,
    Source,
    converting,
)
from medlens.serve.export_int8 import measure_loss, write_int8

if TYPE_CHECKING:
    import keras

    from medlens.model.classifier import Classifier

# Of a probability, between the original and the export in its own runtime.
LARGEST_DIFFERENCE = 1e-4
BATCH = 16
# Needs the network's features, and an export gives probabilities alone.
LEFT_BEHIND = ("unfamiliar_above",)

Progress = Callable[[int], None]


@dataclass(frozen=True)
class Wanted:
    """What to export to.

    Args:
        format: The format.
        out: The file to write, or the folder of a SavedModel.
        int8: Whether to quantise.
        overwrite: Whether an earlier export there is replaced.
    """

    format: Format
    out: Path
    int8: bool = False
    overwrite: bool = False

    @property
    def sidecar(self) -> Path:
        """The JSON file beside the export."""
        return self.out.with_name(self.out.name + ".json")

    @property
    def title(self) -> str:
        """The format in words."""
        return f"{self.format.title} in 8-bit integers" if self.int8 else self.format.title


@dataclass(frozen=True)
class Compared:
    """The pictures that an export is compared on.

    Args:
        pictures: RGB, 0 to 255, of shape (n, size, size, 3).
        origin: What they are, in words, without a name or a path.
        labels: Their classes, for the accuracy of int8; empty where unknown.
        calibration: Other pictures, which int8 is calibrated on; None without int8.
    """

    pictures: NDArray[np.uint8]
    origin: str
    labels: Sequence[str] = ()
    calibration: NDArray[np.uint8] | None = None


@dataclass(frozen=True)
class Exported:
    """A finished export. Not a medical device.

    Args:
        path: The file, or the folder of a SavedModel.
        sidecar: The JSON file beside it.
        facts: The content of that file: classes, preprocessing, temperature, operating point,
            and in "check" what the comparison found.
    """

    path: Path
    sidecar: Path
    facts: dict[str, Any]


def export_classifier(
    classifier: Classifier,
    wanted: Wanted,
    compared: Compared,
    *,
    network_sha256: str,
    progress: Progress,
) -> Exported:
    """Write a classifier in another format, if it answers there as it does here.

    Everything is written under a hidden name first, and run there. What is refused leaves nothing
    behind.

    Args:
        classifier: What to export.
        wanted: The format, and where it goes.
        compared: The pictures to compare on.
        network_sha256: Of the file classifier.keras, so that an export can be traced to it.
        progress: Called with the number of pictures compared since the last call.

    Raises:
        MedlensError: If the format cannot hold the network, or the largest difference of a
            probability is not below 1e-4 (without int8).
    """
    facts = facts_of(classifier, wanted, network_sha256)
    with _parts_beside(wanted.out) as parts, tempfile.TemporaryDirectory() as scratch:
        path = parts / wanted.out.name
        with converting(wanted.title):
            source = Source(classifier.model, facts, Path(scratch))
            if compared.calibration is not None:
                write_int8(source, compared.calibration, path)
            else:
                wanted.format.write(source, path)
            run = wanted.format.open(path)
            before, after = answers(classifier.model, run, compared.pictures, progress)
            travelled = wanted.format.read(path)
        check = check_equal(before, after, wanted) | {"images": compared.origin}
        if travelled != json.loads(json.dumps(facts)):
            raise RuntimeError(f"the facts in the {wanted.format.title} are not those written")
        if wanted.int8:
            check["int8"] = measure_loss(before, after, compared.labels, classifier.classes)
        content = {**facts, "check": check, "sha256": _digests(parts)}
        write_json(parts / wanted.sidecar.name, content)
        _place(parts, wanted.out.parent, last=wanted.out.name)
    return Exported(wanted.out, wanted.sidecar, content)


def facts_of(classifier: Classifier, wanted: Wanted, network_sha256: str) -> dict[str, Any]:
    """What travels along: classifier.json, less what needs features, and how to call the export."""
    known = {name: value for name, value in classifier.facts.items() if name not in LEFT_BEHIND}
    versions = {**known.get("versions", {})}
    for package in dict.fromkeys(wanted.format.packages.values()):
        versions[package] = importlib.metadata.version(package)
    return {
        **known,
        "versions": versions,
        "export": {
            "format": wanted.format.name,
            "int8": wanted.int8,
            "input_name": INPUT_NAME,
            "input_type": "float32",
            "output_name": OUTPUT_NAME,
            "output_type": "float32",
            "classifier_sha256": network_sha256,
        },
    }


def answers(
    model: keras.Model, run: Run, pictures: NDArray[np.uint8], progress: Progress
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """What the original and an export say of the same pictures.

    Args:
        model: The original.
        run: The export, opened in its runtime.
        pictures: RGB, 0 to 255, of shape (n, size, size, 3).
        progress: Called with the number of pictures done since the last call.

    Returns:
        Two arrays of probabilities, of shape (n, classes).
    """
    import tensorflow

    before, after = [], []
    for start in range(0, len(pictures), BATCH):
        pixels = pictures[start : start + BATCH].astype(np.float32)
        # A GPU rounds the factors of its products to 10 bits unless it is told not to.
        with tensorflow.device("CPU"):
            before.append(np.asarray(model(pixels, training=False)))
            after.append(run(pixels))
        progress(len(pixels))
    return np.concatenate(before), np.concatenate(after)


def check_equal(
    before: NDArray[np.float32], after: NDArray[np.float32], wanted: Wanted
) -> dict[str, Any]:
    """Compare probabilities of the original with those of an export.

    Args:
        before: Of the original, of shape (pictures, classes).
        after: Of the export.
        wanted: With int8 the difference is told, not judged.

    Returns:
        n, largest_difference, and limit: None where the difference is not judged.

    Raises:
        MedlensError: If the largest difference is not below 1e-4.
    """
    difference = float(np.abs(after - before).max())
    if not np.isfinite(difference) or (not wanted.int8 and not difference < LARGEST_DIFFERENCE):
        raise MedlensError(
            f"The {wanted.format.title} export does not answer as the classifier does. "
            "It is refused; nothing was written.",
            got=f"probabilities that differ by up to {difference:.2g} on {len(before):,} pictures",
            expected=f"less than {LARGEST_DIFFERENCE:g}",
            fix="Choose another --format, and please report this with the output of "
            "`medlens doctor`.",
        )
    limit = None if wanted.int8 else LARGEST_DIFFERENCE
    return {"n": len(before), "largest_difference": difference, "limit": limit}


def check_wanted(wanted: Wanted, classifier_folder: Path) -> None:
    """Stop before anything is read or written, if the export could not be placed.

    Raises:
        MedlensError: If the format cannot do int8, the name does not fit the format, something is
            there already, or the place belongs to the classifier.
    """
    title, suffix, out = wanted.format.title, wanted.format.suffix, wanted.out
    if wanted.int8 and not wanted.format.can_int8:
        raise MedlensError(
            f"medlens cannot write {title} in 8-bit integers.",
            got=f"--int8 with --format {wanted.format.name}",
            expected="--int8 with --format litert",
            fix="Leave --int8 out, or choose litert.",
        )
    others = {one.suffix for one in FORMATS.values()} - {suffix, ""}
    if (suffix and out.suffix != suffix) or out.suffix in others or not out.name:
        raise MedlensError(
            f"The name given with -o does not fit {title}.",
            got=f"a name that ends in {out.suffix or 'nothing'}",
            expected=f"a file that ends in {suffix}" if suffix else "a folder, such as exported",
            fix=f"Write -o {out.stem or 'exported'}{suffix}.",
            names=[str(out)],
        )
    if classifier_folder.resolve() in (out.resolve(), *out.resolve().parents):
        raise MedlensError(
            "An export cannot lie in the classifier's folder.",
            got="a place inside it",
            expected="any other place: the files of that folder belong together",
            fix="Name another file with -o.",
            names=[str(out)],
        )
    _check_free(wanted)


def _check_free(wanted: Wanted) -> None:
    companions = [wanted.out.with_suffix(one) for one in wanted.format.companions]
    there = [one for one in (wanted.out, *companions, wanted.sidecar) if one.exists()]
    if there and not wanted.overwrite:
        raise MedlensError(
            "There is something at the place of the export already.",
            got=f"{len(there)} of the files it would write",
            expected="a new name",
            fix="Name another file with -o, or replace an earlier export with --overwrite.",
            names=[str(path) for path in there],
        )
    if not there:
        return
    written = _read_sidecar(wanted.sidecar)
    if not written:
        raise MedlensError(
            "--overwrite replaces only an export of medlens.",
            got=f"no {wanted.sidecar.name} of an export beside it",
            expected="what `medlens export` wrote, with its .json file",
            fix="Move it away, or name another file with -o.",
            names=[str(path) for path in there],
        )
    foreign = _foreign_files(wanted.out, written["sha256"])
    if foreign:
        raise MedlensError(
            "--overwrite replaces only what `medlens export` wrote.",
            got=f"{len(foreign):,} files in the folder that {wanted.sidecar.name} does not list",
            expected="the files of the earlier export alone",
            fix="Move them away, or name another folder with -o.",
            names=[str(path) for path in foreign],
        )


def _foreign_files(out: Path, listed: Mapping[str, str]) -> list[Path]:
    """What is in the folder of an earlier export, and none of it."""
    inside = sorted(out.rglob("*")) if out.is_dir() else []
    return [
        path
        for path in inside
        if (path.is_symlink() or not path.is_dir())
        and path.relative_to(out.parent).as_posix() not in listed
    ]


def _read_sidecar(sidecar: Path) -> Mapping[str, Any]:
    """What stands beside an export; nothing where it is none's."""
    try:
        content = json.loads(sidecar.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    is_whole = isinstance(content, Mapping) and {"export", "check", "sha256"} <= set(content)
    return content if is_whole and isinstance(content["sha256"], Mapping) else {}


@contextmanager
def _parts_beside(out: Path) -> Iterator[Path]:
    """A hidden folder on the same disk as `out`, which is gone at the end."""
    near = next(path for path in out.absolute().parents if path.is_dir())
    with tempfile.TemporaryDirectory(
        prefix=f".{out.name}.", suffix=".export", dir=near, ignore_cleanup_errors=True
    ) as folder:
        yield Path(folder)


def _digests(folder: Path) -> dict[str, str]:
    """The SHA-256 of every file below a folder, by its path there."""
    found = {}
    for path in sorted(folder.rglob("*")):
        if path.is_file():
            with path.open("rb") as stream:
                digest = hashlib.file_digest(stream, "sha256").hexdigest()
            found[path.relative_to(folder).as_posix()] = digest
    return found


def _place(parts: Path, folder: Path, *, last: str) -> None:
    """Move everything in `parts` into `folder`; where one cannot be moved, none is.

    Args:
        parts: What was written, under its final names.
        folder: Where it goes; it is made where it is missing.
        last: The entry that is moved last, so that whoever sees it finds the others.
    """
    names = sorted((path.name for path in parts.iterdir()), key=lambda name: (name == last, name))
    replaced = parts / ".replaced"
    replaced.mkdir()
    folder.mkdir(parents=True, exist_ok=True)
    placed: list[str] = []
    try:
        for name in names:
            if (folder / name).exists():
                (folder / name).rename(replaced / name)
            (parts / name).rename(folder / name)
            placed.append(name)
    except BaseException:  # also Ctrl-C
        for name in placed:
            _remove(folder / name)
        for earlier in replaced.iterdir():
            earlier.rename(folder / earlier.name)
        raise


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink()
