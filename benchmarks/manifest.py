"""A list of a million images: reading it, looking for copies, auditing, grouping and splitting it.

    python benchmarks/manifest.py --out manifest.json

There are no files of images: the facts that the scan would have read of each are made up here, as
are the thumbnails that the search for near-duplicates asks for. All that follows the scan is what
`medlens audit` and `medlens train` call. The list stands in a CSV and in a Parquet file, which must
read as the same table. It is gone through twice, each time in a process of its own: once to be
split by ratio, and once with a split that it brings, whose leaks are to be found and resolved.

Images are of patients, four each on average, and look like one of twenty kinds; the finer a detail
is the fainter it is, as in photographs. One image in a hundred is an exact copy of another one, one
in a hundred a near copy, darker and with some noise, both of other patients' images and with the
label of their original. Every one of these must end in the group of its original, and every leak
that they make must be found. The peak of memory is that of each step alone, as Linux counts it; on
other systems that of all steps until then.
"""

from __future__ import annotations

import argparse
import base64
import json
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass, fields
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from measure import machine
from rich.console import Console
from scipy.fft import idctn

from medlens.config import Options
from medlens.data.dataset import FACT_COLUMNS, Dataset, read_dataset
from medlens.data.facts_cache import FactsCache
from medlens.data.finding import Finding
from medlens.data.fingerprint import take_fingerprint
from medlens.data.near_duplicates import THUMBNAIL_SIDE
from medlens.data.roles import assign_folds, assign_roles
from medlens.data.scan import add_near_copies
from medlens.data.split import splits_to_csv
from medlens.files import write_json, write_text
from medlens.intake import audit_table, dataset_csv, divide
from medlens.model.plan import Wishes, make_plan
from medlens.screen import Screen

IMAGES_PER_PATIENT = 4
CLASSES = 4
KINDS = 20
# One image in so many is an exact copy, and one in so many a near copy.
ONE_IN = 100
DARKER = 0.9
NOISE = 0.1
LOW = 8
ROWS_AT_A_TIME = 1 << 16
SPREAD = 30.0
# Half waves across the picture, of the largest shapes.
COARSEST = 4
IMAGE_SIZE = 224
NO_WISHES = Wishes(*[None] * len(fields(Wishes)))


@dataclass(frozen=True)
class Drawn:
    """Images that are made up: number by number, what each is a copy of and what it looks like.

    Args:
        kind: The kind of each; copies are of the kind of their original.
        original: The image that each one is a copy of; itself where it is none.
        is_near: Whether it is a near copy.
        low: The lowest frequencies of each, those that its fingerprint is taken of.
    """

    kind: np.ndarray
    original: np.ndarray
    is_near: np.ndarray
    low: np.ndarray

    def thumbnails(self, numbers: Sequence[int]) -> np.ndarray:
        """The thumbnails of some images, uint8 of shape (numbers, 64, 64)."""
        return np.stack([self._thumbnail(number) for number in numbers])

    def _thumbnail(self, number: int) -> np.ndarray:
        field = _draw_kind(int(self.kind[number])) + _draw_own(1, int(self.original[number]))
        if self.is_near[number]:
            field = DARKER * field + NOISE * _draw_own(2, number)
        field[_LOW_PLACES] = self.low[number].reshape(LOW, LOW)
        greys = 128 + SPREAD * idctn(field, norm="ortho")
        return np.asarray(np.rint(np.clip(greys, 0, 255)), np.uint8)

    def fingerprints(self) -> Iterator[list[str]]:
        """The texts of `near_duplicates.fingerprint`, some thousands at a time."""
        weights = np.add.outer(np.arange(LOW), np.arange(LOW)).ravel()[1:]
        for start in range(0, len(self.low), ROWS_AT_A_TIME):
            weighted = self.low[start : start + ROWS_AT_A_TIME, 1:] * weights
            largest = np.abs(weighted).max(axis=1, keepdims=True)
            steps = np.rint(weighted / largest * 127).astype(np.int8)
            text = base64.b64encode(steps.tobytes()).decode("ascii")
            letters = len(text) // len(steps)  # 63 bytes are 84 letters, without a remainder
            yield [text[one : one + letters] for one in range(0, len(text), letters)]

    def save(self, folder: Path) -> None:
        """Write it, so that another process can open it."""
        for name, values in vars(self).items():
            np.save(folder / f"{name}.npy", values)


def open_drawn(folder: Path) -> Drawn:
    """What `Drawn.save` wrote, mapped from the files: it is no memory of the steps measured."""
    names = ("kind", "original", "is_near", "low")
    return Drawn(*(np.load(folder / f"{name}.npy", mmap_mode="r") for name in names))


def draw(rows: int) -> Drawn:
    """Make up so many images."""
    generator = np.random.default_rng(0)
    kind = generator.integers(0, KINDS, rows)
    order = generator.permutation(rows)
    copies, originals = order[: 2 * (rows // ONE_IN)], order[2 * (rows // ONE_IN) :]
    original = np.arange(rows)
    original[copies] = generator.choice(originals, len(copies))
    is_near = np.zeros(rows, np.bool_)
    is_near[copies[::2]] = True
    low = np.empty((rows, LOW * LOW), np.float32)
    kinds = np.stack([_draw_kind(one)[_LOW_PLACES].ravel() for one in range(KINDS)])
    own = _OWN_AMPLITUDE[_LOW_PLACES].ravel().astype(np.float32)
    for start in range(0, rows, ROWS_AT_A_TIME):
        part = low[start : start + ROWS_AT_A_TIME]
        part[:] = own * generator.standard_normal(part.shape, np.float32)
        part += kinds[kind[start : start + ROWS_AT_A_TIME]]
    low[copies], kind[copies] = low[original[copies]], kind[original[copies]]
    near = np.flatnonzero(is_near)
    noise = own * generator.standard_normal((len(near), LOW * LOW), np.float32)
    low[near] = DARKER * low[near] + NOISE * noise
    return Drawn(kind, original, is_near, low)


def _spectrum(steepness: float) -> np.ndarray:
    """Amplitude of each frequency of a field of thumbnail size, of spread 1 in all."""
    frequency = np.hypot(*np.indices((THUMBNAIL_SIDE, THUMBNAIL_SIDE)))
    amplitude = np.where(frequency > 0, np.maximum(frequency, COARSEST) ** -steepness, 0)
    return np.asarray(amplitude * THUMBNAIL_SIDE / np.linalg.norm(amplitude))


_LOW_PLACES = (slice(LOW), slice(LOW))
_KIND_AMPLITUDE = _spectrum(2.0)
_OWN_AMPLITUDE = 0.7 * _spectrum(1.0)


@cache
def _draw_kind(kind: int) -> np.ndarray:
    """What all images of a kind have in common, as frequencies of shape (64, 64)."""
    noise = np.random.default_rng([0, kind]).standard_normal(_KIND_AMPLITUDE.shape)
    return _KIND_AMPLITUDE * noise


def _draw_own(stream: int, number: int) -> np.ndarray:
    """What an image has of its own, as frequencies of shape (64, 64)."""
    noise = np.random.default_rng([stream, number]).standard_normal(_OWN_AMPLITUDE.shape)
    return _OWN_AMPLITUDE * noise


def write_lists(scratch: Path, rows: int) -> None:
    """Draw the images, and write the lists and the facts that the scan would find."""
    drawn = draw(rows)
    drawn.save(scratch)
    generator = np.random.default_rng(1)
    sizes = generator.geometric(1 / IMAGES_PER_PATIENT, rows)
    patient = np.repeat(np.arange(rows), sizes)[:rows]
    label = (patient % CLASSES)[drawn.original]
    patients = generator.choice(3, rows, p=(0.7, 0.15, 0.15))
    table = pd.DataFrame(
        {
            "path": [f"archive/{one // 1000:04d}/image-{one:08d}.dcm" for one in range(rows)],
            "label": [f"class {one}" for one in label],
            "patient": [f"P{one:07d}" for one in patient],
            "site": generator.choice(["north", "south", "east"], rows),
            "age": generator.integers(18, 95, rows),
        }
    )
    table.to_csv(scratch / "list.csv", index=False)
    table.to_parquet(scratch / "list.parquet", index=False)
    given = np.array(["train", "val", "test"])[patients[patient]]
    table.assign(split=given).to_parquet(scratch / "given.parquet", index=False)
    content = np.where(drawn.is_near, np.arange(rows), drawn.original)
    facts = {
        "sha256": [f"{one:064x}" for one in range(rows)],
        "pixels_sha256": [f"{one * 2_654_435_761 % 2**64:064x}" for one in content.tolist()],
        "width": generator.integers(300, 600, rows)[content],
        "height": generator.integers(300, 600, rows)[content],
        "mode": "L",
        "format": "DICOM",
        "bytes": generator.integers(10_000, 900_000, rows),
        "scaling": "none",
        "unreadable": "",
        "levels": generator.integers(100, 256, rows)[content],
        "mean": generator.normal(120, 20, rows).round(3)[content],
        "spread": generator.normal(40, 5, rows).round(3)[content],
        "border": generator.normal(10, 3, rows).round(3)[content],
        "sharpness": generator.lognormal(-1, 0.4, rows).round(6)[content],
        "fingerprint": [text for texts in drawn.fingerprints() for text in texts],
    }
    pd.DataFrame(facts, columns=list(FACT_COLUMNS)).to_parquet(scratch / "facts.parquet")


def main() -> None:
    """Draw the list, go through it, print and write what each step took."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--out", type=Path, help="where to write the results as JSON")
    parser.add_argument("--step", choices=STEPS, help=argparse.SUPPRESS)
    parser.add_argument("--scratch", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.step:
        STEPS[options.step](options.scratch, options.rows)
        return
    result: dict[str, Any] = {"machine": machine(), "rows": options.rows}
    with tempfile.TemporaryDirectory() as scratch:
        for step in STEPS:
            command = [sys.executable, __file__, "--step", step, "--scratch", scratch]
            subprocess.run([*command, "--rows", str(options.rows)], check=True)
            written = Path(scratch, f"{step}.json")
            if written.exists():
                result[step] = json.loads(written.read_text(encoding="utf-8"))
    if options.out:
        options.out.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")


@dataclass(frozen=True)
class Clock:
    """What each step took, by its name, printed as it ends."""

    steps: dict[str, dict[str, float]]

    @contextmanager
    def step(self, name: str) -> Iterator[None]:
        """Measure what happens inside."""
        _forget_peak()
        seconds, processor = time.perf_counter(), time.process_time()
        yield
        self.steps[name] = {
            "seconds": round(time.perf_counter() - seconds, 2),
            "processor_seconds": round(time.process_time() - processor, 2),
            "peak_mib": round(_peak_mib()),
        }
        print(f"{name:32} {self.steps[name]}", flush=True)


def _forget_peak() -> None:
    """Let Linux count the peak of memory anew (proc(5), /proc/pid/clear_refs)."""
    with suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5", encoding="ascii")


def _peak_mib() -> float:
    try:
        lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
    except OSError:
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**10
    return next(int(line.split()[1]) / 2**10 for line in lines if line.startswith("VmHWM"))


def split_by_ratio(scratch: Path, rows: int) -> None:
    """A list without a split."""
    clock = Clock({})
    with clock.step("start"):
        pass
    with clock.step("read the CSV"):
        from_csv = read_dataset(scratch / "list.csv", cache=scratch).table
    with clock.step("read the Parquet file"):
        dataset = read_dataset(scratch / "list.parquet", cache=scratch)
    if not from_csv.equals(dataset.table):
        raise SystemExit("the CSV and the Parquet file read as different tables")
    del from_csv
    follow(dataset, clock, scratch, Options(data=str(scratch)), "split_by_ratio")


def use_given_split(scratch: Path, rows: int) -> None:
    """A list with a split that copies cross."""
    clock = Clock({})
    dataset = read_dataset(scratch / "given.parquet", cache=scratch)
    options = Options(data=str(scratch), resolve_leaks=True)
    follow(dataset, clock, scratch, options, "given_split")


def follow(dataset: Dataset, clock: Clock, scratch: Path, options: Options, name: str) -> None:
    """All that follows the scan, step by step; what it took and found goes into a file."""
    screen = Screen(Console(), quiet=True)
    drawn = open_drawn(scratch)
    facts = pd.read_parquet(scratch / "facts.parquet")
    table = pd.concat([dataset.table, facts], axis="columns")
    del facts
    compared = Counted(drawn)
    with clock.step("near-duplicates"), closing(FactsCache(scratch / f"{name}.sqlite")) as cache:
        table = add_near_copies(table, compared.thumbnails, cache)
    with clock.step("audit"):
        intake = audit_table(dataset, table, options)
    with clock.step("audit.json"):
        write_json(scratch / "audit.json", intake.audit_json())
    with clock.step("plan"):
        fingerprint = take_fingerprint(table, dataset.root, frame=None)
        make_plan(fingerprint, NO_WISHES, IMAGE_SIZE, is_plain=False)
    with clock.step("group and split"):
        divided = divide(intake, options, screen)
    with clock.step("dataset.csv and splits.csv"):
        write_text(scratch / "dataset.csv", dataset_csv(divided, dataset.left_out))
        write_text(scratch / "splits.csv", splits_to_csv(divided, divided["split"]))
    used = divided[divided["split"] != ""]
    with clock.step("roles and five folds"):
        assign_roles(used, seed=0)
        assign_folds(used, count=5, seed=0)
    checked = check(drawn, divided, dataset.table["split"], intake.findings)
    result = {"steps": clock.steps, "thumbnails_read": compared.count, **checked}
    print(json.dumps(checked, indent=2), flush=True)
    (scratch / f"{name}.json").write_text(json.dumps(result), encoding="utf-8")


class Counted:
    """Draws thumbnails and counts them."""

    def __init__(self, drawn: Drawn) -> None:
        self._drawn = drawn
        self.count = 0

    def thumbnails(self, numbers: Sequence[int]) -> np.ndarray:
        """As `Drawn.thumbnails`."""
        self.count += len(numbers)
        return self._drawn.thumbnails(numbers)


def check(
    drawn: Drawn, divided: pd.DataFrame, given: pd.Series[str], findings: Sequence[Finding]
) -> dict[str, Any]:
    """What was found of what was planted; an exact copy that was not found is a failure."""
    rows = np.arange(len(divided))
    groups, splits = divided["group"].to_numpy(), divided["split"].to_numpy()
    is_copy = drawn.original != rows
    is_tied = groups == groups[drawn.original]
    is_exact = is_copy & ~drawn.is_near
    if not is_tied[is_exact].all():
        raise SystemExit("an exact copy is not in the group of its original")
    is_used = (splits != "") & (splits[drawn.original] != "")
    is_torn = is_used & (splits != splits[drawn.original])
    leaks = [one for one in findings if one.code in ("leak_duplicate", "leak_near_duplicate")]
    named = {path for one in leaks for files in one.files for path in files}
    crossing = is_copy & is_tied & (given.to_numpy() != given.to_numpy()[drawn.original])
    # Of a near copy whose original has a twin in the copy's split, too, the twins are named.
    is_named = divided["path"].isin(named).to_numpy()
    if not (is_named | is_named[drawn.original])[crossing].all():
        raise SystemExit("a copy in another split than its original is not named by the audit")
    return {
        "exact_copies": int(is_exact.sum()),
        "near_copies": int(drawn.is_near.sum()),
        "near_copies_tied": int(is_tied[drawn.is_near].sum()),
        "copies_in_another_split_after": int((is_torn & is_tied).sum()),
        "groups": int(divided["group"].nunique()),
        "copies_in_another_split_given": int(crossing.sum()),
        "files_named_as_leaks": len(named),
    }


STEPS: dict[str, Callable[[Path, int], None]] = {
    "write_lists": write_lists,
    "split_by_ratio": split_by_ratio,
    "given_split": use_given_split,
}


if __name__ == "__main__":
    main()
