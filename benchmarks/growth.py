"""How the times of audit, split and evaluation grow from 1,000 to 100,000 images.

    python benchmarks/growth.py --out growth.json

Every time is that of a process of its own. The audit is measured twice: of a table of facts made
up here, which is the audit alone, and as the command `medlens audit` on small PNG files, first with
an empty cache, then with the facts of the first pass. What was just written to disk is read back
from memory, so the files say nothing about the disk. The exponent between two sizes is
log(t2 / t1) / log(n2 / n1): 1 is linear, 2 is quadratic; below 1 a fixed cost, such as the start of
the command, is still to be seen. It is taken from processor time, for other work on the machine
stretches the seconds on the clock.
"""

from __future__ import annotations

import argparse
import json
import math
import multiprocessing
import os
import platform
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from PIL import Image
from scipy.special import softmax

from medlens.data.audit import audit, findings_to_json
from medlens.data.groups import check_class_sizes, group_images
from medlens.data.leaks import find_leaks, resolve_leaks
from medlens.data.split import check_split, split_by_ratio, use_given_split
from medlens.report.evaluation import evaluate

RATIOS = (0.7, 0.15, 0.15)
IMAGES_PER_PATIENT = 4
# One image in so many is a copy of another, or is in another split than its patient.
ONE_IN = 100
SIDE = 16
BYTES_ON_DISK = 4096


@dataclass(frozen=True)
class Taken:
    """What something took: seconds on the clock, and of processor time."""

    seconds: float
    processor_seconds: float


def draw_facts(rows: int) -> pd.DataFrame:
    """A table as the scan leaves it: four classes, patients, and some copies of images."""
    generator = np.random.default_rng(0)
    patient = draw_patients(rows, generator)
    label = np.char.add("class ", (patient % 4).astype(str))
    pixels = np.arange(rows)
    copies = generator.choice(rows - 4, rows // ONE_IN, replace=False)
    pixels[copies] = pixels[copies + 4]
    # Copies of one image have one label.
    label[copies] = label[copies + 4]
    names = [f"{number:064x}" for number in range(rows)]
    table = pd.DataFrame(
        {
            "path": [f"{one}/{number:07}.png" for number, one in enumerate(label)],
            "label": label,
            "patient": [f"P{number}" for number in patient],
            "split": "",
            "sha256": names,
            "pixels_sha256": [names[number] for number in pixels],
            "width": generator.integers(300, 600, rows),
            "height": generator.integers(300, 600, rows),
            "mode": generator.choice(["L", "RGB"], rows),
            "format": "PNG",
            "bytes": generator.integers(10_000, 900_000, rows),
            "scaling": "none",
            "unreadable": "",
            "levels": generator.integers(100, 256, rows),
            "mean": generator.normal(120, 20, rows).round(3),
            "spread": generator.normal(40, 5, rows).round(3),
            "border": generator.normal(10, 3, rows).round(3),
            "sharpness": generator.lognormal(-1, 0.4, rows).round(6),
            "near_copies": "",
            "look_alike": "",
        }
    )
    return table.sort_values("path", ignore_index=True)


def draw_patients(rows: int, generator: np.random.Generator) -> np.ndarray:
    """The patient of each image: one to many images, four on average."""
    sizes = generator.geometric(1 / IMAGES_PER_PATIENT, rows)
    return np.repeat(np.arange(rows), sizes)[:rows]


def draw_predictions(rows: int, classes: int) -> pd.DataFrame:
    """A table like predictions.csv, all of it the test set."""
    generator = np.random.default_rng(0)
    patient = draw_patients(rows, generator)
    truth = generator.integers(0, classes, rows)
    logits = generator.normal(size=(rows, classes))
    logits[np.arange(rows), truth] += 1.5
    probabilities = softmax(logits, axis=1)
    names = np.array([f"class {number}" for number in range(classes)])
    table = pd.DataFrame(
        {
            "path": [f"{number:07}.png" for number in range(rows)],
            "split": "test",
            "group": patient,
            "label": names[truth],
            "predicted": names[probabilities.argmax(1)],
        }
    )
    columns = {f"prob_{name}": probabilities[:, number] for number, name in enumerate(names)}
    return pd.concat([table, pd.DataFrame(columns)], axis="columns")


def draw_files(folder: Path, rows: int) -> None:
    """Small noisy PNG files of two classes, the patient in the name, some of them copies."""
    needed = os.statvfs(folder)
    if needed.f_bavail * needed.f_frsize < 3 * rows * BYTES_ON_DISK or needed.f_favail < 2 * rows:
        raise SystemExit(f"not enough room for {rows:,} files in {folder}")
    for label in ("class 0", "class 1"):
        (folder / label).mkdir()
    for number in range(rows):
        drawn = number - 2 if number % ONE_IN == ONE_IN - 1 else number
        pixels = np.random.default_rng(drawn).integers(0, 256, (SIDE, SIDE), np.uint8)
        name = f"P{number // (2 * IMAGES_PER_PATIENT)}_{number}.png"
        Image.fromarray(pixels).save(folder / f"class {number % 2}" / name, compress_level=1)


def measure_tables(rows: int) -> dict[str, Taken]:
    """The audit of a table of facts, the split by ratio, and the mending of a given split."""
    table = draw_facts(rows)
    groups = group_images(table)
    classes = sorted(set(table["label"]))
    split = split_by_ratio(table, groups, ratios=RATIOS, seed=0)
    stray = np.random.default_rng(1).random(rows) < 1 / ONE_IN
    leaking = table.assign(split=split.mask(stray, "train"))

    def audit_table() -> None:
        findings_to_json(audit(table, min_per_class=10, ratios=RATIOS), table)

    def split_table() -> None:
        groups = group_images(table)
        check_class_sizes(table, groups, min_per_class=10)
        split = split_by_ratio(table, groups, ratios=RATIOS, seed=0)
        check_split(table, groups, split, classes)

    def mend_split() -> None:
        groups = group_images(leaking)
        leaks = find_leaks(leaking, groups, leaking["split"])
        if not leaks.groups:
            raise SystemExit("nothing leaks, so there is nothing to measure")
        kept = resolve_leaks(leaking, groups).table
        given = use_given_split(kept, groups[kept.index], ratios=RATIOS, seed=0)
        check_split(kept, groups[kept.index], given.split, classes)

    return {
        "audit of a table": shortest(audit_table),
        "split by ratio, in groups": shortest(split_table),
        "given split, leaks resolved": shortest(mend_split),
    }


def measure_evaluation(rows: int) -> dict[str, Taken]:
    """Every number with its interval, for 2 and 10 classes."""
    taken = {}
    for count in (2, 10):
        table = draw_predictions(rows, count)
        columns = [str(name) for name in table if str(name).startswith("prob_")]
        classes = [name.removeprefix("prob_") for name in columns]

        def evaluate_table(table: pd.DataFrame = table, classes: list[str] = classes) -> None:
            evaluate(table, classes=classes, positive_class=None, seed=0)

        taken[f"evaluation, {count} classes"] = shortest(evaluate_table)
    return taken


def shortest(action: Callable[[], None]) -> Taken:
    """The shortest of up to ten calls, or of those that fit into two seconds."""
    taken: list[Taken] = []
    while not taken or (len(taken) < 10 and sum(one.seconds for one in taken) < 2):
        clock, processor = time.perf_counter(), time.process_time()
        action()
        taken.append(Taken(time.perf_counter() - clock, time.process_time() - processor))
    return min(taken, key=lambda one: one.processor_seconds)


def measure_files(rows: int) -> dict[str, Taken]:
    """The command `medlens audit` on files, twice, with its start."""
    with tempfile.TemporaryDirectory() as scratch:
        folder, cache = Path(scratch, "data"), Path(scratch, "cache")
        folder.mkdir()
        draw_files(folder, rows)
        return {
            "audit of files, first pass": audit_files(folder, cache),
            "audit of files, second pass": audit_files(folder, cache),
        }


def audit_files(folder: Path, cache: Path) -> Taken:
    """One run of the command."""
    command = [sys.executable, "-m", "medlens", "audit", str(folder), "--cache", str(cache)]
    command += ["--patient-regex", r"(P\d+)_", "--quiet"]
    clock, processor = time.perf_counter(), processor_time_of_children()
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    return Taken(time.perf_counter() - clock, processor_time_of_children() - processor)


def processor_time_of_children() -> float:
    """Seconds that ended child processes have spent so far."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def measure(sizes: list[int]) -> Iterator[dict[str, Any]]:
    """Each size in turn; what needs Python alone runs in a fresh process."""
    before: dict[str, tuple[int, float]] = {}
    fresh = multiprocessing.get_context("spawn")
    for rows in sizes:
        for part in (measure_tables, measure_evaluation, measure_files):
            if part is measure_files:
                measured = part(rows)
            else:
                with ProcessPoolExecutor(1, mp_context=fresh) as process:
                    measured = process.submit(part, rows).result()
            for what, taken in measured.items():
                exponent = None
                if what in before:
                    last_rows, last_taken = before[what]
                    growth = math.log(taken.processor_seconds / last_taken)
                    exponent = growth / math.log(rows / last_rows)
                before[what] = rows, taken.processor_seconds
                yield {"what": what, "rows": rows, **asdict(taken), "exponent": exponent}


def main() -> None:
    """Measure, print the table, write it."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, help="where to write the results as JSON")
    parser.add_argument("--sizes", type=int, nargs="+", default=[1_000, 10_000, 100_000])
    options = parser.parse_args()
    results = []
    print(f"{'rows':>8}  {'':28} {'seconds':>9} {'processor':>9}  {'us a row':>9}  exponent")
    for result in measure(sorted(options.sizes)):
        results.append(result)
        exponent = "" if result["exponent"] is None else f"{result['exponent']:.2f}"
        print(
            f"{result['rows']:8,}  {result['what']:28} {result['seconds']:9.3f} "
            f"{result['processor_seconds']:9.3f}  "
            f"{1e6 * result['processor_seconds'] / result['rows']:9.1f}  {exponent:>8}",
            flush=True,
        )
    if options.out:
        machine = {
            "cores": os.cpu_count(),
            "python": platform.python_version(),
            "numpy": np.__version__,
            "pandas": pd.__version__,
        }
        text = json.dumps({"machine": machine, "results": results}, indent=2) + "\n"
        options.out.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
