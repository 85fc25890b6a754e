"""What an image costs, step by step; a model fitted to it; and what many images then take.

    python benchmarks/scale_costs.py --out scale_costs.json

Measured, with the functions that `medlens predict` and `medlens train` call: reading a file that
the system still has in memory, decoding it into the network's picture, the facts for the audit, the
network's pass, and writing. What is counted is processor time of all threads, which other work on
the machine moves less than the clock. To the times of each step a straight line is fitted:

    read     seconds = a + b * megabytes
    decode   seconds = a + b * megapixels        (for each format; to the network's picture)
    facts    seconds = a + b * megapixels        (hashes, brightness, fingerprint: train and audit)
    forward  seconds = a + b * megapixels        (of the picture; for each backbone)
    write    seconds a row, where it is made, and again where the whole is put together
    dispatch seconds a part of a job on a cluster, in the processes that hand parts out

`--check` then has a classifier predict files of sizes that no line was fitted to, and sets the
processor time of that beside the model's.

`--images N` prints what N images take on the clusters of the table, by `take_hours`. GPUs were not
measured: their rate is an assumption (`--gpu-rate`), marked so in the table.
"""

from __future__ import annotations

import argparse
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import numpy as np
import pandas as pd
import pydicom
from dispatch import measure_dispatch
from extraction import draw_image
from measure import run_child, write_result
from numpy.typing import NDArray
from PIL import Image
from pydicom.uid import ExplicitVRLittleEndian, JPEG2000Lossless, SecondaryCaptureImageStorage
from scipy.optimize import nnls

import medlens
from medlens.data.dataset import Dataset
from medlens.data.images import read_image
from medlens.data.phantom import write_phantoms
from medlens.data.scan import PictureRule, Pictures, scan
from medlens.data.store import Store
from medlens.data.work_list import PART_ROWS
from medlens.model.backbone import BACKBONES
from medlens.model.engine import FrozenPass, choose_engine
from medlens.model.weights import Weights
from medlens.serve.result_file import ResultFile

FORMATS = ("JPEG", "PNG", "DICOM", "DICOM, JPEG 2000")
SIDES = (256, 512, 1024, 2048)
# Sizes that no line is fitted to.
CHECKED_SIDES = (384, 768)
SIZE = 224
FORWARD_SIZES = (64, 128, 224)
FORWARD = ("mobilenet_v2", "vgg16")
RANDOM = Weights("random", None, 0, "random filters, seed 0")
ROUNDS = 3
PARTS = 20
CHECKED = 20
# A job on a cluster may take 1.2 times what the same cores take without one.
EFFICIENCY = 1 / 1.2


@dataclass(frozen=True)
class Line:
    """Seconds of processor time as a straight line.

    Args:
        fixed: Seconds whatever the size.
        slope: Seconds for each megabyte or megapixel.
        worst: Largest deviation of a measurement from the line, as a share of the measurement.
    """

    fixed: float
    slope: float
    worst: float

    def at(self, size: float) -> float:
        """Seconds at a size."""
        return self.fixed + self.slope * size


def fit_line(times: Mapping[float, float]) -> Line:
    """The line, nowhere below 0, whose relative deviations have the least squares.

    Args:
        times: Seconds by size.
    """
    sizes, seconds = np.array(list(times)), np.array(list(times.values()))
    columns = np.stack([np.ones_like(sizes), sizes], axis=1) / seconds[:, np.newaxis]
    fixed, slope = nnls(columns, np.ones(len(sizes)))[0]
    worst = np.abs((fixed + slope * sizes) / seconds - 1).max()
    return Line(float(fixed), float(slope), float(worst))


@dataclass(frozen=True)
class Costs:
    """The fitted model.

    Args:
        read: By megabytes.
        decode: By megapixels, for each format.
        facts: By megapixels: what train and audit do beside it.
        forward: By megapixels of the picture, for each backbone.
        write_row: Seconds for a row of predictions, where it is made.
        finish_row: Seconds for a row of the whole result, which one machine writes.
        write_features: Seconds for a row of features of the first backbone.
        dispatch: Seconds for a part of a job on a cluster, for each process beside the driver.
        megabytes: Of a file of each format, for each megapixel.
    """

    read: Line
    decode: dict[str, Line]
    facts: Line
    forward: dict[str, Line]
    write_row: float
    finish_row: float
    write_features: float
    dispatch: dict[str, float]
    megabytes: dict[str, float]

    def core_seconds(
        self, kind: str, megapixels: float, backbone: str, *, network: bool = True
    ) -> float:
        """Processor time of predicting one image."""
        picture = SIZE**2 / 1e6
        own = self.forward[backbone].at(picture) if network else 0.0
        file = self.megabytes[kind] * megapixels
        return self.read.at(file) + self.decode[kind].at(megapixels) + own + self.write_row


@dataclass(frozen=True)
class Cluster:
    """Machines of one kind.

    Args:
        nodes: How many.
        cores: Of each.
        gpus: Of each.
        gigabits: Network of each, to where the images lie, in gigabits a second.
    """

    nodes: int
    cores: int
    gpus: int
    gigabits: float

    @property
    def name(self) -> str:
        """In words."""
        gpus = f", {self.gpus} GPU{'s' * (self.gpus > 1)}" if self.gpus else ""
        plural = "s" * (self.nodes > 1)
        return f"{self.nodes} node{plural}, {self.cores} cores{gpus}, {self.gigabits:g} Gbit/s"


CLUSTERS = (
    Cluster(1, 32, 0, 10),
    Cluster(10, 32, 0, 10),
    Cluster(100, 32, 0, 10),
    Cluster(4, 32, 4, 25),
    Cluster(10, 64, 8, 100),
)
# What lies in archives: format, megapixels, and how it is called.
ARCHIVES = (
    ("DICOM", 512**2 / 1e6, "CT slices, DICOM, 512 px"),
    ("DICOM", 2048**2 / 1e6, "X-rays, DICOM, 2,048 px"),
    ("JPEG", 1024**2 / 1e6, "photographs, JPEG, 1,024 px"),
)


def take_hours(
    costs: Costs,
    images: float,
    kind: str,
    megapixels: float,
    backbone: str,
    cluster: Cluster,
    gpu_rate: float,
) -> tuple[float, str]:
    """Hours of a prediction, and what it waits for."""
    cores = cluster.nodes * cluster.cores * EFFICIENCY
    seconds = costs.core_seconds(kind, megapixels, backbone, network=not cluster.gpus)
    bytes_ = images * costs.megabytes[kind] * megapixels * 1e6
    waits = {
        "processors": images * seconds / cores,
        "network": bytes_ / (cluster.nodes * cluster.gigabits * 1e9 / 8),
        "the driver": images * costs.finish_row,
        # Each of its processes has one thread that counts.
        "dispatch": images / PART_ROWS * max(costs.dispatch.values()),
    }
    if cluster.gpus:
        waits["GPUs"] = images / (cluster.nodes * cluster.gpus * gpu_rate * EFFICIENCY)
    slowest = max(waits, key=waits.__getitem__)
    return waits[slowest] / 3600, slowest


def main() -> None:
    """Measure, fit, print, write."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--files", type=int, default=8, help="of each format and size")
    parser.add_argument("--images", type=float, default=100e6, help="of the table")
    parser.add_argument("--gpu-rate", type=float, default=1000, help="assumed images/s of a GPU")
    parser.add_argument("--check", action="store_true", help="set the model beside a whole command")
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        scratch = Path(folder)
        costs = measure_costs(scratch, options.files)
        result: dict[str, Any] = {"costs": asdict(costs)}
        print_costs(costs)
        if options.check:
            result["check"] = check(costs, scratch)
    table = []
    print(f"\n{options.images:,.0f} images, {FORWARD[0]} at {SIZE} px: hours (what it waits for)")
    for kind, megapixels, name in ARCHIVES:
        for cluster in CLUSTERS:
            wanted = (kind, megapixels, FORWARD[0], cluster, options.gpu_rate)
            hours, slowest = take_hours(costs, options.images, *wanted)
            assumed = " with the GPU rate assumed" if slowest == "GPUs" else ""
            row = {"archive": name, "cluster": cluster.name, "hours": hours, "waits_for": slowest}
            table.append(row)
            print(f"{name:30} {cluster.name:42} {hours:9,.1f}  {slowest}{assumed}")
    result |= {"images": options.images, "gpu_rate_assumed": options.gpu_rate, "table": table}
    write_result(options.out, result)


def measure_costs(scratch: Path, count: int) -> Costs:
    """Measure every step and fit the model."""
    rule = PictureRule(SIZE, "pad")
    decode, megabytes = {}, {}
    reads: dict[float, float] = {}
    facts: dict[float, float] = {}
    for kind in FORMATS:
        times = {}
        for side in SIDES:
            files = draw_files(scratch / f"{kind}-{side}", kind, side, count)
            size = statistics.mean(file.stat().st_size for file in files) / 1e6
            reads[size] = spend(partial(read_files, files)) / count
            contents = [file.read_bytes() for file in files]
            times[side**2 / 1e6] = spend(partial(make_pictures, contents, rule)) / count
            if kind == "DICOM":
                facts[side**2 / 1e6] = max(
                    1e-6, scan_file(files, scratch) - reads[size] - times[side**2 / 1e6]
                )
            megabytes[kind] = size / (side**2 / 1e6)
            print(
                f"{kind:18}{side:6} px{size:8.2f} MB{1e3 * times[side**2 / 1e6]:9.2f} ms to decode"
            )
        decode[kind] = fit_line(times)
    return Costs(
        fit_line(reads),
        decode,
        fit_line(facts),
        {name: measure_forward(name, scratch) for name in FORWARD},
        *measure_rows(scratch),
        measure_features(scratch),
        measure_dispatch(),
        megabytes,
    )


def spend(work: Callable[[], object]) -> float:
    """Seconds of processor time, the median of some rounds."""
    taken = []
    for _ in range(ROUNDS):
        before = time.process_time()
        work()
        taken.append(time.process_time() - before)
    return statistics.median(taken)


def read_files(files: Sequence[Path]) -> None:
    """Every file read to its end."""
    for file in files:
        file.read_bytes()


def make_pictures(contents: Sequence[bytes], rule: PictureRule) -> None:
    """Every file made into the picture that the network sees."""
    for content in contents:
        rule.apply(read_image(content, frame=None).pixels)


def scan_file(files: Sequence[Path], scratch: Path) -> float:
    """Seconds for a file more in a scan."""
    half = len(files) // 2
    whole = spend(partial(scan_files, files, scratch))
    return (whole - spend(partial(scan_files, files[:half], scratch))) / (len(files) - half)


def scan_files(files: Sequence[Path], scratch: Path) -> None:
    """Every file scanned, with an empty cache, as train does before the network's pass."""
    names = pd.Series([file.name for file in files], dtype=str)
    texts = dict.fromkeys(("label", "patient", "split"), "")
    dataset = Dataset(files[0].parent, pd.DataFrame({"path": names, **texts}, dtype=str), "", {})
    with tempfile.TemporaryDirectory(dir=scratch) as cache:
        pictures = Pictures(PictureRule(SIZE, "pad"), Store(Path(cache, "pictures")), ())
        scan(dataset, cache=Path(cache), frame=None, progress=lambda _: None, pictures=pictures)


def measure_forward(name: str, scratch: Path) -> Line:
    """A backbone's pass over pictures of several sizes, by the default engine."""
    backbone, times = BACKBONES[name], {}
    for size in FORWARD_SIZES:
        rule = PictureRule(size, "pad")
        frozen_pass = FrozenPass(backbone, RANDOM, rule, choose_engine(backbone, "auto"))
        forward = frozen_pass.forward(scratch)
        shape = (forward.batch, size, size, 3)
        pictures = np.random.default_rng(0).integers(0, 256, shape).astype(np.uint8)
        forward.run(pictures)  # to warm up
        times[size**2 / 1e6] = spend(partial(forward.run, pictures)) / forward.batch
        print(f"{name:18}{size:6} px{'':11}{1e3 * times[size**2 / 1e6]:9.2f} ms forward")
    return fit_line(times)


def measure_rows(scratch: Path) -> tuple[float, float]:
    """Seconds for a row of predictions: its part written, and the whole made of the parts."""
    columns: tuple[str, ...] = ("path", "predicted", "decision", "prediction_set")
    columns += ("prob_a", "prob_b", "distance", "unfamiliar", "unreadable")
    rows = pd.DataFrame(
        {
            "path": [f"archive/0000/image-{number:08d}.dcm" for number in range(PART_ROWS)],
            **{"predicted": "a", "decision": "a", "prediction_set": [("a",)] * PART_ROWS},
            **{"prob_a": 0.75, "prob_b": 0.25, "distance": 1.0, "unfamiliar": 0, "unreadable": ""},
        }
    ).astype({"unfamiliar": "Int8"})

    result = ResultFile(scratch / "predictions.parquet", columns, PARTS * PART_ROWS, state={})

    def write() -> None:
        result.open()
        for part in range(PARTS):
            result.add(part, rows)

    def write_whole() -> None:
        write()
        result.finish(lambda _: None)

    parts = spend(write)
    return parts / (PARTS * PART_ROWS), (spend(write_whole) - parts) / (PARTS * PART_ROWS)


def measure_features(scratch: Path) -> float:
    """Seconds for a row of features of the first backbone."""
    rows = np.zeros((PART_ROWS, len(BACKBONES[FORWARD[0]].columns)), np.float32)

    def write() -> None:
        store = Store(scratch / "features")
        for part in range(PARTS):
            store.add([f"{part}-{row}" for row in range(PART_ROWS)], rows)
        store.remove()

    return spend(write) / (PARTS * PART_ROWS)


def draw_files(folder: Path, kind: str, side: int, count: int) -> list[Path]:
    """Grey images whose detail falls with its fineness, as that of photographs."""
    folder.mkdir()
    random = np.random.default_rng(0)
    files = []
    for number in range(count):
        pixels = draw_image(side, random)
        files.append(folder / f"{number:04d}{'.dcm' if 'DICOM' in kind else '.' + kind.lower()}")
        if "DICOM" in kind:
            save_dicom(files[-1], pixels, is_compressed=kind != "DICOM")
        else:
            Image.fromarray(pixels).save(files[-1])
    return files


def save_dicom(file: Path, pixels: NDArray[np.uint8], *, is_compressed: bool) -> None:
    """A DICOM file of 12 bits, as scanners write it."""
    dataset = pydicom.Dataset()
    dataset.file_meta = pydicom.dataset.FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    dataset.SOPClassUID = SecondaryCaptureImageStorage
    dataset.SOPInstanceUID = pydicom.uid.generate_uid()
    dataset.Rows, dataset.Columns = pixels.shape
    dataset.SamplesPerPixel, dataset.PhotometricInterpretation = 1, "MONOCHROME2"
    dataset.BitsAllocated, dataset.BitsStored, dataset.HighBit = 16, 12, 11
    dataset.PixelRepresentation = 0
    dataset.PixelData = (pixels.astype("<u2") * 16).tobytes()
    dataset["PixelData"].VR = "OW"
    if is_compressed:
        dataset.compress(JPEG2000Lossless)
    dataset.save_as(file, enforce_file_format=True)


def check(costs: Costs, scratch: Path) -> dict[str, float]:
    """Processor time of a classifier on files of sizes that were not fitted, beside the model's."""
    labels = write_phantoms(scratch / "phantoms", images=150, seed=0)
    train = [sys.executable, "-m", "medlens", "train", str(labels), "--out", str(scratch / "run")]
    train += ["--backbone", FORWARD[0], "--weights", "random", "--image-size", str(SIZE)]
    train += ["--plan", "plain", "--epochs", "2", "--no-saliency", "--quiet"]
    run_child([*train, "--cache", str(scratch / "cache")])
    modelled, files = 0.0, []
    for kind in FORMATS:
        for side in CHECKED_SIDES:
            files += draw_files(scratch / f"check-{kind}-{side}", kind, side, CHECKED)
            modelled += CHECKED * costs.core_seconds(kind, side**2 / 1e6, FORWARD[0])
    classifier = medlens.load(scratch / "run")
    classifier.predict(files[:2])  # to load and compile the network
    measured = spend(partial(classifier.predict, files))
    print(f"\npredicting {len(files)} files: {measured:.1f} s measured, {modelled:.1f} s modelled")
    return {"measured": measured, "modelled": modelled, "ratio": modelled / measured}


def print_costs(costs: Costs) -> None:
    """The fitted lines."""
    lines = {
        "read, by MB": costs.read,
        **{f"decode {kind}, by Mpx": line for kind, line in costs.decode.items()},
        "facts, by Mpx": costs.facts,
        **{f"forward {name}, by Mpx": line for name, line in costs.forward.items()},
    }
    print()
    for name, line in lines.items():
        fixed, slope = 1e3 * line.fixed, 1e3 * line.slope
        print(f"{name:32}{fixed:9.3f} ms +{slope:9.3f} ms, worst {line.worst:.0%}")
    print(f"{'write a row of predictions':32}{1e3 * costs.write_row:9.3f} ms")
    print(f"{'finish a row of predictions':32}{1e3 * costs.finish_row:9.3f} ms")
    print(f"{'write a row of features':32}{1e3 * costs.write_features:9.3f} ms")
    for name, seconds in costs.dispatch.items():
        print(f"{f'hand out a part, {name}':32}{1e3 * seconds:9.3f} ms")


if __name__ == "__main__":
    main()
