"""A classifier and many images -> a file of predictions, in memory that does not grow with them."""

from __future__ import annotations

import itertools
import uuid
from collections import Counter, deque
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, closing
from dataclasses import dataclass
from pathlib import Path

import pandas as pd
import pyarrow

from medlens.data.remote import is_remote
from medlens.data.work_list import PART_ROWS, WorkList, write_work_list
from medlens.files import remove, write_text
from medlens.model.classifier import Classifier, Picture
from medlens.model.prediction_sets import write_set
from medlens.model.versions import deciding_versions
from medlens.serve.careful import find_deadly
from medlens.serve.inputs import FILE, Digest, Inputs
from medlens.serve.result_file import ResultFile, parts_folder

LIST_FOLDER = "images"
NOTE_FILE = "note.txt"
NOTE = "What is done of the result beside this folder; it goes when all of it is.\n"
NAMES_SHOWN = 60


@dataclass(frozen=True)
class Outcome:
    """What came of a command that went through images.

    Args:
        out: Where the result lies.
        images: How many there were.
        refused: How many of them could not be used; the result has the reason of each.
        unfamiliar: How many are unlike the training images.
        predicted: How many were given each class.
        closed: How many folders could not be opened; images in them are not counted anywhere.
        retried: What is said of parts that a cluster began again.
    """

    out: Path
    images: int
    refused: int
    unfamiliar: int
    predicted: Mapping[str, int]
    closed: int = 0
    retried: tuple[str, ...] = ()

    @property
    def is_whole(self) -> bool:
        """Whether all that was given is answered."""
        return not self.refused and not self.closed

    @property
    def lines(self) -> list[str]:
        """It in words, without a file name."""
        answered = self.images - self.refused
        classes = ", ".join(f"{name} {count:,}" for name, count in self.predicted.items())
        said = [
            f"{answered:,} of {self.images:,} images answered" + (f": {classes}." * bool(classes))
        ]
        if self.unfamiliar:
            said.append(
                f"{self.unfamiliar:,} are unlike the training images (unfamiliar): "
                "what is said of them is worth little."
            )
        if self.refused:
            said.append(f"{self.refused:,} refused; the column unreadable says why.")
        if self.closed:
            folders = "1 folder" if self.closed == 1 else f"{self.closed:,} folders"
            said.append(f"{folders} could not be opened: what is inside is missing.")
        return [*said, *self.retried]


class Tally:
    """Counts what is said of images."""

    def __init__(self) -> None:
        self._images = self._refused = self._unfamiliar = 0
        self._predicted: Counter[str] = Counter()

    def add(self, table: pd.DataFrame) -> None:
        """Count the rows of a table of `tell`."""
        is_refused = table["unreadable"] != ""
        self._images += len(table)
        self._refused += int(is_refused.sum())
        self._unfamiliar += int((table["unfamiliar"] == 1).sum())
        self._predicted.update(table.loc[~is_refused, "predicted"])

    def outcome(self, out: Path) -> Outcome:
        """What was counted."""
        predicted = dict(self._predicted.most_common())
        return Outcome(out, self._images, self._refused, self._unfamiliar, predicted)


def read_missing(
    classifier: Classifier, work: Work
) -> Generator[tuple[int, pd.DataFrame, Iterator[tuple[str, Picture]]], None, None]:
    """Read the images of the missing parts; while one is worked on, the next are read.

    A part that an earlier process began and did not finish may hold a file that ends whoever
    decodes it: of such a part each file is first decoded in a process of its own.

    Args:
        classifier: Says how pictures are made.
        work: What is to be made.

    Yields:
        The number of each part, its rows of the work list, and its files with their pictures, or
        with the reasons why there are none. All of them must be taken before the next part is.
    """
    ahead: deque[tuple[int, pd.DataFrame]] = deque()
    deadly: dict[str, str] = {}

    def files() -> Iterator[str]:
        for number in work.missing:
            part = work.part(number)
            paths = part[FILE].tolist()
            if work.result.begin(number):
                deadly.update(find_deadly(Path(), paths, classifier.frame, lambda: None))
            ahead.append((number, part))
            yield from paths

    with closing(classifier.read_all(files(), refused=deadly)) as found:
        for first in found:
            number, part = ahead.popleft()
            yield number, part, itertools.chain([first], itertools.islice(found, len(part) - 1))


def tell(
    classifier: Classifier,
    part: pd.DataFrame,
    found: Iterable[tuple[str, Picture]],
    progress: Callable[[int], None],
) -> pd.DataFrame:
    """What is said of the images of a part.

    Args:
        classifier: Says it.
        part: Rows of a work list.
        found: Their files, and the picture of each or the reason why there is none.
        progress: Called with the number of images done since the last call.

    Returns:
        The columns of `result_columns`. Where an image is refused, texts and sets are empty and
        numbers are missing.
    """
    return beside_given(classifier.tell_as_read(found, progress), part)


def beside_given(said: pd.DataFrame, part: pd.DataFrame) -> pd.DataFrame:
    """What `Classifier.tell` says of the images of a part, beside what was given of them.

    Args:
        said: One row per image.
        part: As many rows of a work list.
    """
    given = part.drop(columns=FILE).reset_index(drop=True)
    is_read = said["unreadable"] == ""
    said = said.assign(unfamiliar=said["unfamiliar"].astype("Int8").where(is_read))
    return pd.concat([given, said.drop(columns="path")], axis="columns")


def result_columns(classes: Sequence[str], given: Sequence[str]) -> tuple[str, ...]:
    """Path and the further columns that were given, what is said, and why not."""
    return (
        *given,
        *("predicted", "decision", "prediction_set"),
        *(f"prob_{name}" for name in classes),
        *("distance", "unfamiliar", "unreadable"),
    )


@dataclass(frozen=True)
class Work:
    """A result that is to be made, and what it is made of.

    Args:
        images: One row per image: what was given of it, and FILE.
        result: Where finished parts go.
        finished: The numbers of the parts that are there.
        is_anew: Whether parts were there that were made of other images or by other means.
    """

    images: WorkList
    result: ResultFile
    finished: frozenset[int]
    is_anew: bool

    @property
    def missing(self) -> list[int]:
        """The numbers of the parts that are still to be made."""
        return [number for number in self.result.numbers if number not in self.finished]

    @property
    def done(self) -> int:
        """How many images are in finished parts."""
        return sum(map(self.result.length, self.finished))

    def part(self, number: int) -> pd.DataFrame:
        """The images of a part."""
        listed, first = divmod(number * self.result.part_rows, PART_ROWS)
        rows = self.images.read(listed).slice(first, self.result.length(number))
        table: pd.DataFrame = rows.to_pandas()
        return table

    def finish(self, out: Path) -> Outcome:
        """Write the whole result from its parts.

        Args:
            out: What the outcome names as the result.
        """
        tally = Tally()
        self.result.finish(tally.add)
        return tally.outcome(out)


# Told of the work that is to be done; gives what is called with the number of images done.
Start = Callable[[Work], AbstractContextManager[Callable[[int], None]]]


def list_work(inputs: Inputs, path: Path) -> tuple[WorkList, str]:
    """Write down the images of a result, so that every process means the same by a number.

    Args:
        inputs: The images.
        path: The result; the list goes beside it.

    Returns:
        The list, and the SHA-256 of what was given.
    """
    parts = parts_folder(path)
    # First, so that a place that cannot be written to is known before the images are listed.
    write_text(parts / NOTE_FILE, NOTE)
    if not is_remote(path):  # here nobody else writes this result
        for old in parts.glob(f"{LIST_FOLDER}-*"):
            remove(old)
    digest = Digest(inputs)
    schema = pyarrow.schema([(name, pyarrow.string()) for name in (*inputs.columns, FILE)])
    tables = (
        pyarrow.Table.from_pandas(table, schema, preserve_index=False) for table in digest.tables()
    )
    # Under a name of its own: on other storage a second driver may be at work with its list.
    return write_work_list(parts / f"{LIST_FOLDER}-{uuid.uuid4().hex}", tables), digest.text()


def open_work(
    inputs: Inputs,
    path: Path,
    columns: tuple[str, ...],
    digest: str,
    processor: str,
    *,
    overwrite: bool = False,
) -> Work:
    """List the images, and find out which parts of the result are finished.

    Args:
        inputs: The images.
        path: The result.
        columns: Of the result.
        digest: Of the classifier; with another one the work begins anew.
        processor: "CPU" or "GPU": what the network runs on decides the last digits, as do the
            versions of packages; parts of one result are all made with the same.
        overwrite: Whether parts that were made on another kind of processor may be thrown away.

    Raises:
        MedlensError: If there are such parts, and they may not.
    """
    images, given = list_work(inputs, path)
    state = {
        "inputs": given,
        "classifier": digest,
        "processor": processor,
        "versions": deciding_versions(),
        "images": images.rows,
    }
    result = ResultFile(path, columns, images.rows, state)
    if not overwrite:
        result.check_processor()
    finished, is_anew = result.open()
    return Work(images, result, finished, is_anew)


def make_parts(classifier: Classifier, work: Work, progress: Callable[[int], None]) -> None:
    """Make the missing parts of a result in this process.

    Args:
        classifier: Says what it sees.
        work: What is to be made.
        progress: Called with the number of images done since the last call.
    """
    with closing(read_missing(classifier, work)) as read:
        for number, part, found in read:
            work.result.add(number, tell(classifier, part, found, progress))


def screen_lines(table: pd.DataFrame, classes: tuple[str, ...]) -> list[str]:
    """A few predictions as aligned lines for a person.

    Args:
        table: Of `tell`.
        classes: Class names.
    """
    probable = table[[f"prob_{name}" for name in classes]].max(axis=1)
    shown = pd.DataFrame(
        {
            "image": [_shorten(path) for path in table["path"]],
            "predicted": table["predicted"],
            "probability": ["" if pd.isna(value) else f"{value:.3f}" for value in probable],
            "set": [write_set(names) for names in table["prediction_set"]],
            "decision": table["decision"],
            "remark": [
                reason or ("unfamiliar" if flag == 1 else "")
                for reason, flag in zip(
                    table["unreadable"], table["unfamiliar"].fillna(0), strict=True
                )
            ],
        }
    )
    kept = shown.loc[:, (shown != "").any()]
    rows = [list(kept.columns), *kept.to_numpy().tolist()]
    widths = [max(len(row[place]) for row in rows) for place in range(len(rows[0]))]
    return [
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in rows
    ]


def _shorten(path: str) -> str:
    return path if len(path) <= NAMES_SHOWN else "..." + path[3 - NAMES_SHOWN :]
