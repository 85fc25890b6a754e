"""A classifier and many images -> a file of predictions, in memory that does not grow with them."""

from __future__ import annotations

import importlib.metadata
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from medlens.model.classifier import Classifier
from medlens.model.prediction_sets import write_set
from medlens.serve.inputs import Inputs
from medlens.serve.result_file import ResultFile

# A part is some seconds to a minute of work, which is what a break can cost.
PART_ROWS = 256
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
    """

    out: Path
    images: int
    refused: int
    unfamiliar: int
    predicted: Mapping[str, int]

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
        return said


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


def tell(
    classifier: Classifier, inputs: Inputs, start: int, progress: Callable[[int], None]
) -> Iterator[pd.DataFrame]:
    """What is said of the images, a batch at a time.

    Args:
        classifier: Says it.
        inputs: The images.
        start: The first of them.
        progress: Called with the number of images done since the last call.

    Yields:
        The columns of `result_columns`; the index is the number of the image. Where an image is
        refused, texts and sets are empty and numbers are missing.
    """
    for table in classifier.predict_in_parts(inputs.files(start)):
        yield beside_given(table.set_axis(table.index + start), inputs)
        progress(len(table))


def beside_given(said: pd.DataFrame, inputs: Inputs) -> pd.DataFrame:
    """What `Classifier.tell` says of some of the images, beside what was given of them.

    Args:
        said: The index is the number of the image.
        inputs: The images.
    """
    given = inputs.table.iloc[said.index[0] : said.index[-1] + 1]
    is_read = said["unreadable"] == ""
    said = said.assign(unfamiliar=said["unfamiliar"].astype("Int8").where(is_read))
    return pd.concat([given, said.drop(columns="path")], axis="columns")


def result_columns(classifier: Classifier, inputs: Inputs) -> tuple[str, ...]:
    """Path, the further columns that were given, what is said, and why not."""
    return (
        *map(str, inputs.table.columns),
        *("predicted", "decision", "prediction_set"),
        *(f"prob_{name}" for name in classifier.classes),
        *("distance", "unfamiliar", "unreadable"),
    )


def predict_to_file(
    classifier: Classifier,
    inputs: Inputs,
    out: Path,
    *,
    digest: str,
    say: Callable[[str], None],
    progress: Callable[[int], None],
) -> Outcome:
    """Write what is said of every image, in their order; goes on where it was interrupted.

    Args:
        classifier: Says it.
        inputs: The images.
        out: The file to write: .csv, .json, .jsonl or .parquet. It appears whole at the end.
        digest: Of the classifier; with another one the work begins anew.
        say: Told what is gone on with, or begun anew.
        progress: Called with the number of images done since the last call.
    """
    result = ResultFile(out, result_columns(classifier, inputs))
    state = {
        "inputs": inputs.digest(),
        "classifier": digest,
        "medlens": importlib.metadata.version("medlens"),
        "images": len(inputs),
    }
    done, is_other = result.open(state)
    say_where(done, is_other=is_other, say=say, progress=progress)
    tables = tell(classifier, inputs, done, progress)
    return complete(result, tables, out, done=done, images=len(inputs))


def say_where(
    done: int, *, is_other: bool, say: Callable[[str], None], progress: Callable[[int], None]
) -> None:
    """Say what an interrupted run left.

    Args:
        done: How many images are finished.
        is_other: Whether what was left was of other images or another classifier.
        say: Told so.
        progress: As for `predict_to_file`.
    """
    if is_other:
        say("What an interrupted run left is of other images, classifier or class: begun anew.")
    if done:
        say(f"Going on after {done:,} images that are finished.")
        progress(done)


def complete(
    result: ResultFile,
    tables: Iterable[pd.DataFrame],
    out: Path,
    *,
    done: int,
    images: int,
    part_rows: int = PART_ROWS,
) -> Outcome:
    """Finish a result, part by part.

    Args:
        result: The result.
        tables: Its rows from `done` on.
        out: What the outcome names as the result.
        done: How many rows are finished.
        images: How many rows there are in the end.
        part_rows: Rows of a part, at least.
    """
    waiting: list[pd.DataFrame] = []
    for table in tables:
        waiting.append(table)
        count = sum(map(len, waiting))
        if count >= part_rows or done + count == images:
            result.add(done, pd.concat(waiting))
            done += count
            waiting = []
    tally = Tally()
    for finished in result.tables():
        tally.add(finished)
    result.finish()
    return tally.outcome(out)


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
