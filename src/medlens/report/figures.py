"""Files of a run -> its figures: PNG, SVG and CSV; the same files, the same bytes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from medlens.files import write_text
from medlens.report.evidence_plots import curve_table, evidence_drawings
from medlens.report.figure_style import save_figure
from medlens.report.plots import main_drawings
from medlens.run_dir import RunDir

# What a screen reader says of each figure, in the order of the report.
FIGURE_LABELS: Mapping[str, str] = {
    "loss": "Loss of train and val in each epoch",
    "accuracy": "Accuracy of train and val in each epoch",
    "confusion_matrix": "Confusion matrix, counts",
    "confusion_matrix_percent": "Confusion matrix, per cent of each row",
    "roc": "ROC curves of the images tested",
    "precision_recall": "Precision-recall curves of the images tested",
    "reliability": "Reliability diagram: share observed against probability stated",
    "operating_point": "Confusion matrix at the operating point",
    "decision_curve": "Decision curve: net benefit against the probability from which one acts",
    "abstention": "Accuracy against the share of images answered",
    "subgroups": "Forest plot: the result in each subgroup",
}


def write_figures(run: RunDir, evaluation: Mapping[str, Any]) -> None:
    """Draw every figure of a run into its folder of figures.

    A figure of an earlier evaluation that this one has not is taken away.

    Args:
        run: A run folder with history.csv, training.json and predictions.csv.
        evaluation: The content of evaluation.json, written or about to be.
    """
    drawings = {**main_drawings(run, evaluation), **evidence_drawings(evaluation)}
    for name, (draw, table) in drawings.items():
        save_figure(run, name, draw, table)
    bands = curve_table(
        evaluation.get("curves", {}).get("roc", {}), "false_positive_rate", "recall"
    )
    (run.figures / "roc_bands.csv").unlink(missing_ok=True)
    if not bands.empty:
        write_text(run.figures / "roc_bands.csv", bands.to_csv())
    for name in FIGURE_LABELS.keys() - drawings.keys():
        for kind in ("png", "svg", "csv"):
            (run.figures / f"{name}.{kind}").unlink(missing_ok=True)
