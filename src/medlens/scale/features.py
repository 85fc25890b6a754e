"""Features of many pictures on a Ray cluster: the rows that one machine would write."""

from __future__ import annotations

import dataclasses
import tempfile
import threading
import uuid
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pyarrow

from medlens.data.remote import for_all_nodes
from medlens.data.scan import in_order
from medlens.data.store import Store, write_shard
from medlens.data.symmetries import ReadPictures
from medlens.data.work_list import PART_ROWS, WorkList, write_work_list
from medlens.errors import MedlensError
from medlens.files import remove, write_bytes
from medlens.model.engine import FrozenPass, check_ncnn
from medlens.model.forward import Forward
from medlens.scale.parts import run_parts
from medlens.scale.processor import check_processor
from medlens.scale.sight import not_seen
from medlens.scale.worker import turn

ROWS_AT_A_TIME = 65_536
# Pictures that the engine is checked on, as on one machine.
SAMPLED = 4

# What reads pictures as they are -> what reads them by the keys asked for (as views, or turned).
SeenAs = Callable[[ReadPictures], ReadPictures]


@dataclass(frozen=True)
class CarriedPass:
    """A frozen pass with the content of its files, for a machine that does not have these.

    Args:
        frozen_pass: The pass, not fine-tuned.
        weights: The weights file; None where there is none.
        network: The .keras file of a backbone of the user's; None for one of the table.
    """

    frozen_pass: FrozenPass
    weights: bytes | None = field(repr=False)
    network: bytes | None = field(repr=False)

    def unpack(self, folder: Path) -> FrozenPass:
        """The same pass, with its files in a folder."""
        backbone, weights = self.frozen_pass.backbone, self.frozen_pass.weights
        if self.weights is not None and weights.path is not None:
            path = folder / weights.path.name
            write_bytes(path, self.weights)
            weights = dataclasses.replace(weights, path=path)
        if self.network is not None and backbone.file is not None:
            path = folder / backbone.file.name
            write_bytes(path, self.network)
            backbone = dataclasses.replace(backbone, file=path)
        return dataclasses.replace(self.frozen_pass, backbone=backbone, weights=weights)


def carry(frozen_pass: FrozenPass) -> CarriedPass:
    """Read the files of a pass."""
    weights, network = frozen_pass.weights.path, frozen_pass.backbone.file
    return CarriedPass(
        dataclasses.replace(frozen_pass),  # without the network that it may have built
        weights.read_bytes() if weights else None,
        network.read_bytes() if network else None,
    )


@dataclass(frozen=True)
class FeatureParts:
    """Makes what a worker runs the network with; Ray carries it to the workers.

    Args:
        work: Content keys, and the shard and row of their pictures.
        pictures: The folder of the store of pictures.
        features: The folder of the store of features.
        carried: The network.
        processor: "CPU" or "GPU": what all features are made with.
        seen_as: How pictures are seen.
    """

    work: WorkList
    pictures: Path
    features: Path
    carried: CarriedPass
    processor: str
    seen_as: SeenAs

    def __call__(self, cpus: int) -> PartExtractor:
        """Load the network.

        Args:
            cpus: How many of them the worker may use.

        Raises:
            MedlensError: If this node does not see the pictures, cannot run the engine, or
                computes with something else.
        """
        keys, read = self.open(0)
        if self.carried.frozen_pass.engine == "keras":
            check_processor(self.processor)
        # Of the network nothing is left in files once it is loaded.
        with tempfile.TemporaryDirectory(prefix="medlens-", ignore_cleanup_errors=True) as folder:
            frozen_pass = self.carried.unpack(Path(folder))
            if frozen_pass.engine == "ncnn":
                reason = check_ncnn(frozen_pass, Path(folder), lambda: read(keys[:SAMPLED]))
                if reason:
                    raise _other_engine(reason)
            # A node may have more cores than Ray gives to this worker.
            forward = frozen_pass.forward(Path(folder), threads=cpus)
            return PartExtractor(self, forward, cpus)

    def open(self, part: int) -> tuple[list[str], ReadPictures]:
        """The keys of a part, and what reads their pictures."""
        rows = self.work.read(part)
        keys, shards = rows["key"].to_pylist(), rows["shard"].to_pylist()
        if not (self.pictures / f"{shards[0]}.npy").exists():
            fix = "Name a shared folder with --out."
            raise not_seen("pictures", "a run folder", fix, str(self.pictures))
        places = zip(shards, rows["row"].to_pylist(), strict=True)
        by_key = dict(zip((_of_picture(key) for key in keys), places, strict=True))
        return keys, self.seen_as(Store(self.pictures, by_key, is_brief=True).read)


class PartExtractor:
    """Runs the network for parts, two at a time: one is read while it runs for the other.

    Args:
        parts: What is to be done.
        forward: The network.
        cpus: In how many threads pictures are read.
    """

    def __init__(self, parts: FeatureParts, forward: Forward, cpus: int) -> None:
        self._parts = parts
        self._forward = forward
        self._cpus = cpus
        self._network = threading.Lock()

    def __call__(self, part: int, *, careful: bool, advance: Callable[[], None]) -> pyarrow.Table:
        """Write the features of a part. Pictures break no decoder, so care makes no difference."""
        keys, read = self._parts.open(part)
        size = self._forward.batch
        batches = [keys[start : start + size] for start in range(0, len(keys), size)]
        found = []
        for pictures in in_order(read, batches, threads=self._cpus):
            with turn(self._network, advance):
                found.append(self._forward.run(pictures))
            advance()
        shard = write_shard(self._parts.features, keys, np.concatenate(found))
        return pyarrow.table({"shard": [shard]})


def extract_on_cluster(
    keys: Sequence[str],
    frozen_pass: FrozenPass,
    features: Store,
    pictures: Store,
    seen_as: SeenAs,
    *,
    cache: Path,
    progress: Callable[[int], None],
    say: Callable[[str], None],
) -> None:
    """Run the frozen network on the connected cluster for what has no features yet.

    Args:
        keys: Content keys of the pictures wanted; may repeat.
        frozen_pass: The network.
        features: Receives the features; its folder must be one that all nodes see.
        pictures: Holds the pictures; the same.
        seen_as: How pictures are seen, for keys of views.
        cache: The cache folder, which all nodes see; the list of pictures is there while this
            runs, in a folder of this call's own.
        progress: Called with the number of pictures done since the last call.
        say: Told what was begun again.

    Raises:
        MedlensError: If a node lacks what it needs, or there is no room for the job.
    """
    missing = [key for key in dict.fromkeys(keys) if key not in features]
    if not missing:
        return
    name = f"features-{uuid.uuid4().hex}"
    work = write_work_list(for_all_nodes(cache) / "work" / name, _rows(missing, pictures))

    def note(part: int, told: pyarrow.Table) -> None:
        done = missing[part * PART_ROWS : (part + 1) * PART_ROWS]
        features.note(told["shard"][0].as_py(), done)
        progress(len(done))

    carried = carry(frozen_pass)
    try:
        made_with = frozen_pass.processor
        folders = for_all_nodes(pictures.folder), for_all_nodes(features.folder)
        make = FeatureParts(work, *folders, carried, made_with, seen_as)
        gpus = int(made_with == "GPU")
        retried = run_parts(np.arange(work.parts), make, note, gpus=gpus)
    finally:
        remove(work.folder)
    for line in retried.lines:
        say(line)


def _rows(keys: Sequence[str], pictures: Store) -> Iterator[pyarrow.Table]:
    for start in range(0, len(keys), ROWS_AT_A_TIME):
        some = keys[start : start + ROWS_AT_A_TIME]
        places = pictures.places(map(_of_picture, some))
        shards, rows = [shard for shard, _ in places], [row for _, row in places]
        yield pyarrow.table({"key": some, "shard": shards, "row": rows})


def _of_picture(key: str) -> str:
    """The key of the picture that a key of `view_keys` or `symmetric_keys` is about."""
    return key.partition(".")[0]


def _other_engine(reason: str) -> MedlensError:
    return MedlensError(
        "The engine that was chosen cannot run on a node of the cluster.",
        got=f"ncnn: {reason}",
        expected="features within 1e-4 of Keras's, as on this machine",
        fix="Add --engine keras.",
    )
