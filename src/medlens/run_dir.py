"""Every file name in a run folder, and the one way to write a file. Nobody else joins these paths."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from medlens.data.store import write_bytes


@dataclass(frozen=True)
class RunDir:
    """The names of the files in one run folder.

    Args:
        root: The run folder.
    """

    root: Path

    @property
    def config(self) -> Path:
        return self.root / "config.toml"

    @property
    def environment(self) -> Path:
        return self.root / "environment.json"

    @property
    def dataset(self) -> Path:
        return self.root / "dataset.csv"

    @property
    def audit(self) -> Path:
        return self.root / "audit.json"

    @property
    def splits(self) -> Path:
        return self.root / "splits.csv"

    @property
    def history(self) -> Path:
        return self.root / "history.csv"

    @property
    def training(self) -> Path:
        return self.root / "training.json"

    @property
    def classifier(self) -> Path:
        return self.root / "classifier"

    @property
    def predictions(self) -> Path:
        return self.root / "predictions.csv"

    @property
    def evaluation(self) -> Path:
        return self.root / "evaluation.json"

    @property
    def figures(self) -> Path:
        return self.root / "figures"

    @property
    def report(self) -> Path:
        return self.root / "report.html"

    @property
    def log(self) -> Path:
        return self.root / "log.txt"


def write_text(path: Path, content: str) -> None:
    """Write a UTF-8 text file atomically, with newlines as they are."""
    write_bytes(path, content.encode("utf-8"))


def write_json(path: Path, content: Any) -> None:
    """Write a JSON file atomically: two spaces of indent, keys in the order given, no NaN.

    Raises:
        ValueError: If `content` holds a NaN or an infinity, which JSON cannot say.
    """
    write_text(path, json.dumps(content, indent=2, ensure_ascii=False, allow_nan=False) + "\n")
