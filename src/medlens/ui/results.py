"""What a run has come to: the numbers that count most, and the epochs of its training."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pandas as pd

from medlens.report.evaluation import headline
from medlens.run_dir import RunDir

# In the order in which they are read.
TITLES = {
    "accuracy": "accuracy",
    "balanced_accuracy": "balanced accuracy",
    "roc_auc_macro": "ROC AUC",
}
CURVES = ("loss", "accuracy", "val_loss", "val_accuracy")


def describe_evaluation(evaluation: Mapping[str, Any]) -> dict[str, Any] | None:
    """The headline of an evaluation: its numbers with their intervals; None where there is none.

    Args:
        evaluation: The content of evaluation.json; empty before the run is tested.
    """
    tested = headline(evaluation)
    if tested not in evaluation:
        return None
    block = evaluation[tested]
    return {
        "tested": tested,
        "n": block["n"],
        "groups": block["groups"],
        "majority": {"class": block["majority_class"], **block["majority_class_accuracy"]},
        "numbers": [{"title": title, **block[name]} for name, title in TITLES.items()],
        "recall": [
            {"class": name, **block["per_class"][name]["recall"]} for name in evaluation["classes"]
        ],
        "notices": evaluation["notices"],
    }


def read_epochs(run: RunDir) -> list[dict[str, Any]]:
    """Each epoch of training with its loss and accuracy; none before it is over."""
    if not run.history.is_file():
        return []
    table = pd.read_csv(run.history)
    training = pd.Series("head", table.index, dtype=object)
    if "fold" in table:
        training = training.mask(
            table["fold"].notna(), "fold_" + table["fold"].map("{:.0f}".format)
        )
    if "stage" in table:
        training = training.mask(table["stage"] == "fine_tune", "fine_tune")
    rows = table[["epoch", *CURVES]].assign(training=training).astype(object)
    return [
        {str(name): value for name, value in row.items()}
        for row in rows.where(rows.notna(), None).to_dict("records")
    ]
