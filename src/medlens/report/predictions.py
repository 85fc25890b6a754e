"""Logits and the table of images -> predictions.csv, the only source of every metric."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from medlens.data.roles import FIT, TEST
from medlens.files import write_bytes
from medlens.model.averaging import Symmetric, add_views
from medlens.model.calibration import probabilities
from medlens.model.verdict import Verdict, decide_class

if TYPE_CHECKING:
    from medlens.model.cross_validation import Fold
    from medlens.model.development import Development

_TEXTS = ("path", "split", "fold", "role", "patient", "label", "predicted", "decision")


def tabulate_predictions(
    images: pd.DataFrame,
    logits: NDArray[np.float64],
    distances: NDArray[np.float64],
    verdict: Verdict,
    *,
    fold: str = "",
) -> pd.DataFrame:
    """One row per image with its logits, probabilities, decision and distance.

    Args:
        images: Columns path, split, role, patient, group and label; one row per image.
        logits: Shape (images, classes), before the temperature.
        distances: From the training images, in feature space.
        verdict: Temperature, threshold and limit.
        fold: The fold of cross-validation these rows were tested in; "" for none.

    Returns:
        path, split, fold, role, patient, group, label, predicted (the most probable class),
        decision (of the operating point; "" without one), unfamiliar (0 or 1), distance,
        logit_<class>..., prob_<class>... (calibrated).
    """
    classes = np.asarray(verdict.classes)
    probable = probabilities(logits, verdict.temperature)
    columns = ["path", "split", "role", "patient", "group", "label"]
    table = images[columns].reset_index(drop=True)
    table.insert(2, "fold", fold)
    table["predicted"] = classes[np.argmax(probable, axis=1)]
    table["decision"] = decide_class(probable, verdict)
    table["unfamiliar"] = (~(distances <= verdict.limit)).astype(int)
    table["distance"] = distances
    numbers = {
        **{f"logit_{name}": logits[:, number] for number, name in enumerate(verdict.classes)},
        **{f"prob_{name}": probable[:, number] for number, name in enumerate(verdict.classes)},
    }
    return pd.concat([table, pd.DataFrame(numbers)], axis="columns")


def predict_all(
    features: NDArray[np.float32],
    images: pd.DataFrame,
    development: Development,
    folds: Sequence[Fold],
    classes: Sequence[str],
    positive_class: str | None,
    symmetric: Symmetric | None = None,
) -> pd.DataFrame:
    """The table predictions.csv: every image by the classifier, then the folds' test images.

    Args:
        features: Of shape (images, columns).
        images: One row per feature row: path, split, patient, group, label.
        development: The classifier's head and choices.
        folds: Of cross-validation; their rows have split test, and a fold.
        classes: Class names in the order of the logits.
        positive_class: The class of interest, if there is one.
        symmetric: Of the images; None where logits are not averaged.
    """
    roles = development.roles.where(development.roles != "", images["split"])

    def tabulate(
        table: pd.DataFrame, rows: NDArray[np.intp], by: Development, fold: str
    ) -> pd.DataFrame:
        own = features if len(rows) == len(features) else features[rows]
        head, verdict = by.training.head, by.verdict(classes, positive_class)
        logits = add_views(head.logits(own), head, rows, symmetric)
        distances = by.familiarity.distances(own)
        return tabulate_predictions(table, logits, distances, verdict, fold=fold)

    everything = np.arange(len(images))
    tables = [tabulate(images.assign(role=roles), everything, development, "")]
    for fold in folds:
        table = images.iloc[fold.rows].assign(split=TEST, role=TEST)
        tables.append(tabulate(table, fold.rows, fold.development, str(fold.number)))
    return pd.concat(tables, ignore_index=True)


def tabulate_held_out(
    images: pd.DataFrame,
    development: Development,
    classes: Sequence[str],
    positive_class: str | None,
) -> pd.DataFrame | None:
    """The table out_of_fold.csv: train's images, each by a head that was fitted without it."""
    held_out = development.out_of_fold
    if held_out is None:
        return None
    rows = images.iloc[held_out.rows]
    verdict = development.of_out_of_fold.verdict(classes, positive_class)
    table = tabulate_predictions(
        rows.assign(role=FIT), held_out.logits, held_out.distances, verdict
    )
    return table.assign(fold=held_out.fold.astype(str))


def write_predictions(path: Path, predictions: pd.DataFrame) -> None:
    """Write predictions.csv; nine significant digits hold a float32 exactly."""
    write_bytes(path, predictions.to_csv(index=False, float_format="%.9g").encode())


def read_predictions(path: Path) -> pd.DataFrame:
    """Read predictions.csv as it was written, names and labels as text."""
    texts = dict.fromkeys(_TEXTS, str)
    return pd.read_csv(path, dtype=texts, keep_default_na=False, na_values={})
