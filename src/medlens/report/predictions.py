"""Logits and the table of images -> predictions.csv, the only source of every metric."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from medlens.files import write_bytes


def tabulate_predictions(
    images: pd.DataFrame,
    logits: NDArray[np.float64],
    classes: Sequence[str],
    *,
    temperature: float = 1.0,
) -> pd.DataFrame:
    """One row per image with its logits and probabilities.

    Args:
        images: Columns path, split, patient, group and label; one row per image.
        logits: Shape (images, classes), before the temperature.
        classes: Class names in the order of the logits.
        temperature: Divides the logits before the softmax.

    Returns:
        path, split, fold, patient, group, label, predicted, logit_<class>..., prob_<class>...
    """
    probabilities = softmax(logits / temperature)
    table = images[["path", "split", "patient", "group", "label"]].reset_index(drop=True)
    table.insert(2, "fold", "")
    table["predicted"] = np.asarray(classes)[np.argmax(probabilities, axis=1)]
    columns = {
        **{f"logit_{name}": logits[:, number] for number, name in enumerate(classes)},
        **{f"prob_{name}": probabilities[:, number] for number, name in enumerate(classes)},
    }
    return pd.concat([table, pd.DataFrame(columns)], axis="columns")


def softmax(logits: NDArray[np.float64]) -> NDArray[np.float64]:
    """Probabilities of shape (images, classes) that add up to 1 in each row."""
    powers = np.exp(logits - logits.max(axis=1, keepdims=True))
    return np.asarray(powers / powers.sum(axis=1, keepdims=True))


def write_predictions(path: Path, predictions: pd.DataFrame) -> None:
    """Write predictions.csv; nine significant digits hold a float32 exactly."""
    write_bytes(path, predictions.to_csv(index=False, float_format="%.9g").encode())


def read_predictions(path: Path) -> pd.DataFrame:
    """Read predictions.csv as it was written, names and labels as text."""
    texts = dict.fromkeys(("path", "split", "fold", "patient", "label", "predicted"), str)
    return pd.read_csv(path, dtype=texts, keep_default_na=False, na_values={})
