"""A finished run, read from its folder."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from medlens.errors import MedlensError
from medlens.run_dir import RunDir

if TYPE_CHECKING:
    import pandas as pd

    from medlens.model.classifier import Classifier


@dataclass(frozen=True)
class Run:
    """What `train` left in a run folder. Not a medical device.

    Args:
        path: The run folder.
    """

    path: Path

    @property
    def evaluation(self) -> dict[str, Any]:
        """Every number with its 95 % interval: `run.evaluation["test"]["accuracy"]["value"]`."""
        content: dict[str, Any] = json.loads(self._read(RunDir(self.path).evaluation))
        return content

    @property
    def history(self) -> pd.DataFrame:
        """One row per epoch: epoch, loss, accuracy, val_loss, val_accuracy, seconds."""
        import pandas as pd

        self._read(RunDir(self.path).history)
        return pd.read_csv(RunDir(self.path).history)

    @property
    def predictions(self) -> pd.DataFrame:
        """One row per image: path, split, fold, patient, group, label, predicted, logits, probs."""
        from medlens.report.predictions import read_predictions

        self._read(RunDir(self.path).predictions)
        return read_predictions(RunDir(self.path).predictions)

    @property
    def report(self) -> Path:
        """The report, one HTML file."""
        return RunDir(self.path).report

    @property
    def figures(self) -> Path:
        """The folder of figures, each as PNG and SVG with the CSV behind it."""
        return RunDir(self.path).figures

    def classifier(self) -> Classifier:
        """The trained classifier."""
        from medlens.model.classifier import load_classifier

        return load_classifier(RunDir(self.path).classifier)

    def write_report(self, *, pdf: bool = False) -> Path:
        """Write report.html and model_card.md anew, with the answers in study.toml.

        Args:
            pdf: Whether to print report.pdf, too; needs an installed Chromium, Chrome or Edge.

        Returns:
            The path of report.html.

        Raises:
            MedlensError: If the run is not finished, study.toml cannot be used, or no browser
                prints.
        """
        from medlens.report.publish import publish

        publish(RunDir(self.path), pdf=pdf)
        return self.report

    def _read(self, path: Path) -> str:
        if not path.is_file():
            raise MedlensError(
                "The run is not finished.",
                got=f"no {path.name} in the run folder",
                expected="a folder that `medlens train` wrote to the end",
                fix="Check the path, or finish the run with --resume.",
                names=[str(self.path)],
            )
        return path.read_text(encoding="utf-8")
