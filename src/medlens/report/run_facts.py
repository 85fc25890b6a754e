"""What a run really did, read from its files: the ground of checklists, methods and model card."""

from __future__ import annotations

import json
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import pandas as pd

from medlens.data.groups import SPLITS
from medlens.errors import MedlensError
from medlens.report.evaluation import headline
from medlens.report.wording import show_number
from medlens.run_dir import RunDir

# What stands in dataset.csv of an image that --resolve-leaks took out begins like this.
LEAK = "leak:"
# With less, intervals are wide and what they cover is not promised (docs/benchmarks.md).
FEWEST_IMAGES, FEWEST_GROUPS = 200, 50
RESULT_NAMES = {"test": "on the internal test set", "out_of_fold": "in cross-validation"}


@dataclass(frozen=True)
class RunFacts:
    """The files of a finished run.

    Args:
        config: config.toml; an option that is not there has its default.
        training: training.json.
        evaluation: evaluation.json.
        audit: audit.json.
        environment: environment.json.
        images: dataset.csv as text, with the column `split`: "" for an image that is in none.
        external: evaluation.json of each external test, in the order of their names.
        has_classifier: Whether the classifier was saved.
    """

    config: Mapping[str, Any]
    training: Mapping[str, Any]
    evaluation: Mapping[str, Any]
    audit: Mapping[str, Any]
    environment: Mapping[str, Any]
    images: pd.DataFrame
    external: tuple[Mapping[str, Any], ...]
    has_classifier: bool

    @cached_property
    def used(self) -> pd.DataFrame:
        """The images of the splits."""
        return self.images[self.images["split"] != ""]

    @property
    def classes(self) -> list[str]:
        """Class names."""
        return list(self.evaluation["classes"])

    @property
    def result(self) -> Mapping[str, Any]:
        """The block that the result is: of the test set, or without one of cross-validation."""
        block: Mapping[str, Any] = self.evaluation[headline(self.evaluation)]
        return block

    @property
    def result_name(self) -> str:
        """Where the result was measured, in words."""
        return RESULT_NAMES[headline(self.evaluation)]

    @property
    def patients(self) -> str:
        """Whether the patient is known of "all", "some" or "none" of the images used."""
        known = int((self.used["patient"] != "").sum())
        return "all" if known == len(self.used) else "some" if known else "none"

    @property
    def splitting(self) -> str:
        """Who made the split: "file" (--split), "given" (the data set) or "ratio" (medlens)."""
        asked = str(self.config.get("split", "auto"))
        if asked.lower().endswith(".csv"):
            return "file"
        is_given = asked == "auto" and bool(self.audit.get("counts", {}).get("given_split"))
        return "given" if is_given else "ratio"

    @property
    def folds(self) -> int:
        """How many folds of cross-validation; 0 for none."""
        asked = self.config.get("folds", "none")
        return 0 if asked == "none" else int(asked)

    @property
    def overlaps(self) -> int:
        """How many groups have images in more than one set; none, unless a file was changed."""
        return int((self.used.groupby("group")["split"].nunique() > 1).sum())

    @property
    def removed_for_leaks(self) -> int:
        """How many images --resolve-leaks took out."""
        return int(self.images["excluded"].str.startswith(LEAK).sum())

    def has(self, block: str) -> bool:
        """Whether evaluation.json has this block with something in it."""
        return bool(self.evaluation.get(block))

    @property
    def threshold(self) -> float | None:
        """The operating point's; None without one."""
        value = self.evaluation.get("operating_point", {}).get("threshold")
        return None if value is None else float(value)

    @property
    def subgroups(self) -> list[str]:
        """The columns that the result was divided by."""
        return [str(block["column"]) for block in self.evaluation.get("subgroups", [])]

    @property
    def probes(self) -> list[Mapping[str, Any]]:
        """The shortcut probes."""
        return list(self.evaluation.get("baselines", {}).get("probes", []))

    def versions(self, *names: str) -> list[str]:
        """Like Keras 3.15.1, for each of these that is installed."""
        known = self.environment.get("versions", {})
        return [f"{VERSION_NAMES.get(one, one)} {known[one]}" for one in names if known.get(one)]


VERSION_NAMES = {
    "python": "Python",
    "keras": "Keras",
    "tensorflow": "TensorFlow",
    "numpy": "NumPy",
    "scipy": "SciPy",
    "pandas": "pandas",
    "pillow": "Pillow",
}


def read_facts(run: RunDir) -> RunFacts:
    """Read the files of a run.

    Raises:
        MedlensError: If the run is not finished.
    """
    training, evaluation, audit, environment = (
        json.loads(_read(path))
        for path in (run.training, run.evaluation, run.audit, run.environment)
    )
    config = tomllib.loads(_read(run.config))
    _read(run.dataset), _read(run.splits)
    images, splits = (
        pd.read_csv(path, dtype=str, keep_default_na=False) for path in (run.dataset, run.splits)
    )
    split = images["path"].map(dict(zip(splits["path"], splits["split"], strict=True)))
    images = images.assign(split=split.where(split.isin(list(SPLITS)), ""))
    external = tuple(
        json.loads(path.read_text(encoding="utf-8"))
        for path in sorted(run.external.glob("*/evaluation.json"))
    )
    has_classifier = run.classifier.is_dir()
    return RunFacts(
        config, training, evaluation, audit, environment, images, external, has_classifier
    )


def number_text(name: str, measure: Mapping[str, Any]) -> str:
    """A number as the report shows it with its interval, or why there is none.

    Args:
        name: Its key in evaluation.json.
        measure: value and ci95, or value None and the reason.
    """
    shown = show_number(name, measure)
    if not shown.value:
        return f"not available: {shown.reason}"
    return f"{shown.value} (95 % interval {shown.interval})"


def is_small_test(images: int, groups: int) -> bool:
    """Whether so many images of so many groups are few for a test."""
    return images < FEWEST_IMAGES or groups < FEWEST_GROUPS


def join_words(words: list[str], last: str = "and") -> str:
    """Like a, b and c."""
    return words[0] if len(words) == 1 else f"{', '.join(words[:-1])} {last} {words[-1]}"


def count_of(count: int, one: str, many: str = "") -> str:
    """Like 1 image, or 2,000 images."""
    return f"{count:,} {one if count == 1 else many or one + 's'}"


def _read(path: Path) -> str:
    if not path.is_file():
        raise MedlensError(
            "The run is not finished.",
            got=f"no {path.name} in the run folder",
            expected="a folder that `medlens train` wrote to the end",
            fix="Check the path, or finish the run with --resume.",
            names=[str(path.parent)],
        )
    return path.read_text(encoding="utf-8")
