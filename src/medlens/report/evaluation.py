"""predictions.csv -> every number with its 95 % interval: the content of evaluation.json."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from medlens.data.groups import SPLITS
from medlens.errors import MedlensError
from medlens.report.measures import (
    Scored,
    average_over_folds,
    average_precision_measure,
    f1_measure,
    log_loss_measure,
    matthews_measure,
    mean_average_precision_measure,
    mean_measure,
    mean_roc_auc_measure,
    missing,
    roc_auc_measure,
    score,
    share_measure,
)
from medlens.report.metrics import FloatArray, SplitPredictions

# Probabilities of an image may miss a sum of 1 by this much (they are written with nine digits).
SUM_TOLERANCE = 1e-3

FEWEST_DRAWS = 100
OUT_OF_FOLD = "out_of_fold"


def evaluate(
    predictions: pd.DataFrame,
    *,
    classes: Sequence[str],
    positive_class: str | None,
    seed: int,
    draws: int = 1000,
) -> dict[str, Any]:
    """Compute every number of evaluation.json from a table of predictions.

    A number is `{"value", "ci95", "n", "groups", "method"}`, where n and groups count the images
    and groups that it rests on; one that cannot be computed is `{"value": None, "reason"}`. A mean
    over classes is not computed where a class has no image. Numbers are not rounded. The order of
    the rows does not matter, and the same rows and seed give the same numbers.

    Args:
        predictions: One row per image with the columns path, split (train, val or test), group,
            label, predicted and prob_<class> for every class, as in predictions.csv.
        classes: Class names in the order of the classifier, two at least.
        positive_class: The class of interest. Of two classes, None means the second.
        seed: Of the bootstrap, 0 or more.
        draws: How many bootstrap draws, 100 at least.

    Returns:
        classes, positive_class, seed, draws and one block for each split that has rows, and
        out_of_fold for rows with a fold, made of lists, dictionaries, strings and numbers of
        Python alone. In out_of_fold the ROC AUC is the mean over folds, each ranked by itself;
        the rest is pooled, on probabilities that each fold calibrated by itself.

    Raises:
        MedlensError: If the table lacks a column, is empty, or holds an unknown class or split,
            a missing group, or probabilities that are none.
        ValueError: If there are fewer than 100 draws.
    """
    if draws < FEWEST_DRAWS:
        raise ValueError(f"draws is {draws}; an interval needs {FEWEST_DRAWS} at least")
    classes = [str(name) for name in classes]
    positive_class = _choose_positive_class(classes, positive_class)
    _check_table(predictions, classes)
    table = predictions.assign(path=predictions["path"].astype(str))
    table = table.sort_values("path", kind="stable")
    trained = table.loc[table["split"] == "train", "label"].astype(str)
    counts = [int((trained == name).sum()) for name in classes]
    majority = int(np.argmax(counts)) if len(trained) else None
    positive = None if positive_class is None else classes.index(positive_class)
    evaluation: dict[str, Any] = {
        "classes": classes,
        "positive_class": positive_class,
        "seed": int(seed),
        "draws": int(draws),
    }
    fold = _fold(table)
    for name in (*SPLITS, OUT_OF_FOLD):
        rows = table[
            (fold != "") if name == OUT_OF_FOLD else (table["split"] == name) & (fold == "")
        ]
        if len(rows):
            scored = score(as_arrays(rows, classes), classes, draw_seeds(seed, name), draws)
            if name == OUT_OF_FOLD:
                scored = average_over_folds(scored, fold[rows.index].to_numpy(str))
            block = _evaluate_split(scored, majority, positive if len(classes) == 2 else None)
            evaluation[name] = {"fitted": name == "train", **block}
    return evaluation


def headline(evaluation: Mapping[str, Any]) -> str:
    """Which block is the result: the test set, or without one the folds of cross-validation."""
    return "test" if "test" in evaluation else OUT_OF_FOLD


def headline_rows(predictions: pd.DataFrame) -> pd.DataFrame:
    """The rows of predictions.csv that the result is about."""
    fold = _fold(predictions)
    tested = predictions[(predictions["split"] == "test") & (fold == "")]
    return tested if len(tested) else predictions[fold != ""]


def _fold(table: pd.DataFrame) -> pd.Series[str]:
    """The fold of each row, "" for none, however the table was read."""
    if "fold" not in table:
        return pd.Series("", table.index, dtype=str)
    return table["fold"].astype(str).where(table["fold"].notna(), "")


def _choose_positive_class(classes: Sequence[str], positive_class: str | None) -> str | None:
    if len(set(classes)) < max(2, len(classes)):
        raise MedlensError(
            "The classes of an evaluation are not usable.",
            got=", ".join(classes) or "no class",
            expected="two or more different class names",
            fix="Give the class names of the classifier, in its order.",
        )
    if positive_class is None:
        return classes[1] if len(classes) == 2 else None
    if positive_class not in classes:
        raise MedlensError(
            "The positive class is not one of the classes.",
            got=positive_class,
            expected="one of " + ", ".join(classes),
            fix="Name one of the classes with --positive-class.",
        )
    return positive_class


def _check_table(predictions: pd.DataFrame, classes: Sequence[str]) -> None:
    """Refuse a table from which no honest number can be computed."""

    def refuse(what: str, got: str, expected: str, bad: pd.Series | None = None) -> None:
        names = () if bad is None else tuple(predictions.loc[bad, "path"].astype(str))[:20]
        fix = "Make predictions.csv again with medlens, or mend the rows."
        raise MedlensError(what, got=got, expected=expected, fix=fix, names=names)

    columns = ["path", "split", "group", "label", "predicted", *(f"prob_{c}" for c in classes)]
    missing = [name for name in columns if name not in predictions.columns]
    if missing:
        refuse("The predictions lack columns.", "no " + ", ".join(missing), ", ".join(columns))
    if predictions.empty:
        refuse("The predictions are empty.", "no row", "one row for each image")
    for column, allowed in (("split", SPLITS), ("label", classes), ("predicted", classes)):
        unknown = ~predictions[column].astype(str).isin(allowed)
        if unknown.any():
            found = sorted(set(predictions.loc[unknown, column].astype(str)))[:5]
            what = f"The column {column} of the predictions holds unknown names."
            refuse(what, ", ".join(found), "one of " + ", ".join(allowed), unknown)
    groupless = predictions["group"].isna() | (predictions["group"].astype(str) == "")
    if groupless.any():
        what = "Images without a group are among the predictions."
        refuse(what, f"{int(groupless.sum())} rows", "a group for each image", groupless)
    values = _probabilities(predictions, classes)
    good = np.isfinite(values).all(1) & (values >= 0).all(1) & (values <= 1).all(1)
    good &= np.abs(values.sum(1) - 1) <= SUM_TOLERANCE
    if not good.all():
        what = "The predictions hold values that are no probabilities."
        expected = "for each image, numbers from 0 to 1 that add up to 1"
        refuse(what, f"{int((~good).sum())} rows", expected, pd.Series(~good, predictions.index))


def _probabilities(rows: pd.DataFrame, classes: Sequence[str]) -> FloatArray:
    """Of shape (images, classes); NaN for what is no number."""
    columns = [pd.to_numeric(rows[f"prob_{name}"], errors="coerce") for name in classes]
    return np.stack([column.to_numpy(dtype=np.float64) for column in columns], axis=1)


def draw_seeds(seed: int, name: str) -> tuple[int, int]:
    """The seeds of a split's bootstrap: the same draws wherever a number of it is given again."""
    return seed, [*SPLITS, OUT_OF_FOLD].index(name)


def as_arrays(rows: pd.DataFrame, classes: Sequence[str]) -> SplitPredictions:
    """Rows of predictions.csv as arrays, groups numbered anew from 0."""
    truth, predicted = (
        pd.Categorical(rows[column].astype(str), list(classes)).codes.astype(np.int64)
        for column in ("label", "predicted")
    )
    groups = np.unique(rows["group"].astype(str).to_numpy(), return_inverse=True)[1]
    return SplitPredictions(truth, predicted, _probabilities(rows, classes), groups)


def _evaluate_split(scored: Scored, majority: int | None, positive: int | None) -> dict[str, Any]:
    """All numbers of one split, in the order in which they are written."""
    split, classes = scored.split, scored.classes
    everything = np.ones(len(split.truth), dtype=bool)
    if majority is None:
        baseline = missing("no training image among the predictions")
    else:
        baseline = share_measure(split, split.truth == majority, everything)
    per_class = {name: _evaluate_class(scored, number) for number, name in enumerate(classes)}
    recall_macro = mean_measure(scored, "recall")
    block: dict[str, Any] = {
        "n": len(split.truth),
        "groups": split.group_count,
        "class_counts": dict(zip(classes, scored.confusion.sum(1).tolist(), strict=True)),
        "majority_class": None if majority is None else classes[majority],
        "majority_class_accuracy": baseline,
        "accuracy": share_measure(split, split.truth == split.predicted, everything),
        "balanced_accuracy": recall_macro,
        "recall_macro": dict(recall_macro),
        "precision_macro": mean_measure(scored, "precision"),
        "f1_macro": mean_measure(scored, "f1"),
        "mcc": matthews_measure(scored),
        "roc_auc_macro": mean_roc_auc_measure(scored),
        "average_precision_macro": mean_average_precision_measure(scored),
        "log_loss": log_loss_measure(scored),
    }
    if positive is not None:
        of_positive = per_class[classes[positive]]
        block["roc_auc_macro"] = dict(of_positive["roc_auc"])
        names = ("roc_auc", "average_precision", "recall", "specificity", "precision", "f1")
        block |= {name: dict(of_positive[name]) for name in names}
    block["per_class"] = per_class
    block["confusion_matrix"] = scored.confusion.tolist()
    return block


def _evaluate_class(scored: Scored, number: int) -> dict[str, Any]:
    """The numbers of one class against the rest."""
    split, name = scored.split, scored.classes[number]
    of_class, called = split.truth == number, split.predicted == number
    absent, never = f"no image of class {name}", f"no image was predicted as {name}"
    return {
        "recall": share_measure(split, called, of_class, absent),
        "precision": share_measure(split, of_class, called, never),
        "specificity": share_measure(split, ~called, ~of_class, f"every image is of class {name}"),
        "f1": f1_measure(scored, number),
        "roc_auc": roc_auc_measure(scored, number),
        "average_precision": average_precision_measure(scored, number),
        "n": int(of_class.sum()),
    }
