"""Predictions of many images on a Ray cluster: the same parts as on one machine, the same bytes."""

from __future__ import annotations

import dataclasses
import tempfile
import threading
from collections.abc import Callable, Mapping
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow

from medlens.data.images import CANNOT_BE_OPENED
from medlens.data.remote import is_url
from medlens.files import write_bytes
from medlens.model.classifier import Classifier, load_classifier
from medlens.scale.ledger import Retried
from medlens.scale.parts import beside_driver, run_parts
from medlens.scale.processor import check_processor
from medlens.scale.sight import Witness, check_sight, not_seen
from medlens.scale.worker import turn
from medlens.serve.careful import find_deadly
from medlens.serve.inputs import FILE
from medlens.serve.predict import Work, tell

ROWS = "rows"


@dataclass(frozen=True)
class PredictParts:
    """Makes what a worker predicts parts with; Ray carries it to the workers.

    Args:
        classifier: The files of the classifier, by name.
        work: What is to be made.
        processor: "CPU" or "GPU": what all parts of the result are made with.
        seen: A file that every node must see, or "" where there is none to look for.
        witness: The actor that looks for files that a worker cannot open.
    """

    classifier: Mapping[str, bytes] = field(repr=False)
    work: Work
    processor: str
    seen: str
    witness: Any

    def __call__(self, cpus: int) -> PartPredictor:
        """Load the classifier.

        Args:
            cpus: How many of them the worker may use.

        Raises:
            MedlensError: If this node does not see the images, or computes with something else.
        """
        if self.seen and not Path(self.seen).exists():
            fix = "Put them into a shared folder or a bucket, and name that as INPUT."
            raise not_seen("images", "images at a place", fix, self.seen)
        check_processor(self.processor)
        with tempfile.TemporaryDirectory(prefix="medlens-") as folder:
            for name, content in self.classifier.items():
                write_bytes(Path(folder) / name, content)
            # A node may have more cores than Ray gives to this worker.
            classifier = dataclasses.replace(load_classifier(Path(folder)), threads=cpus)
            return PartPredictor(classifier, self.work, self.witness, cpus)


class PartPredictor:
    """Predicts parts, two at a time: one is read while the network runs for the other.

    Args:
        classifier: Says what it sees.
        work: What is to be made.
        witness: The actor that looks for files that cannot be opened here.
        cpus: In how many threads it reads.
    """

    def __init__(self, classifier: Classifier, work: Work, witness: Any, cpus: int) -> None:
        self._classifier = classifier
        self._work = work
        self._witness = witness
        self._cpus = cpus
        self._network = threading.Lock()

    def __call__(self, part: int, *, careful: bool, advance: Callable[[], None]) -> pyarrow.Table:
        """Predict a part, and write it where the result keeps its parts."""
        images = self._work.part(part)
        files = images[FILE].tolist()
        deadly = find_deadly(Path(), files, self._classifier.frame, advance) if careful else {}
        found = []
        with closing(self._classifier.read_all(files, threads=self._cpus, refused=deadly)) as read:
            for one in read:
                found.append(one)
                advance()
        unopened = {
            file: picture
            for file, picture in found
            if isinstance(picture, str) and picture.startswith(CANNOT_BE_OPENED)
        }
        check_sight(self._witness, Path(), unopened, advance)
        with turn(self._network, advance):
            told = tell(self._classifier, images, found, lambda _: advance())
        # Written while the network runs for the other part.
        self._work.result.add(part, told)
        return pyarrow.table({ROWS: [len(images)]})


def make_parts_on_cluster(classifier: Path, work: Work, progress: Callable[[int], None]) -> Retried:
    """Make the missing parts of a result on the connected cluster.

    Args:
        classifier: The folder of the classifier; it is sent to the nodes.
        work: What is to be made, one part at least; its result at a place that all nodes see.
        progress: Called with the number of images done since the last call.

    Returns:
        What was begun again.

    Raises:
        MedlensError: If the cluster has no room, or a node lacks what it needs.
    """
    made_with = str(work.result.state["processor"])
    files = {path.name: path.read_bytes() for path in classifier.iterdir() if path.is_file()}
    return run_parts(
        np.array(work.missing, np.int64),
        PredictParts(files, work, made_with, _file_to_see(work), beside_driver(Witness).remote()),
        lambda _, rows: progress(sum(rows[ROWS].to_pylist())),
        gpus=int(made_with == "GPU"),
    )


def _file_to_see(work: Work) -> str:
    """The first image of the first missing part that is there for this machine; "" for none."""
    files = work.part(work.missing[0])[FILE]
    return next((file for file in files if not is_url(file) and Path(file).exists()), "")
