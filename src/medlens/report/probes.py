"""Shortcut probes: can the class be read off the file, or off its brightness, without looking?"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from math import ceil
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from medlens.report.evaluation import as_arrays
from medlens.report.measures import (
    Measure,
    average_over_folds,
    mean_roc_auc_measure,
    missing,
    roc_auc_measure,
    score,
    share_measure,
)
from medlens.report.metrics import FloatArray, SplitPredictions
from medlens.report.paired import Pair, differences

# From this ROC AUC on, the whole interval above it, the class can be read off what the probe sees.
ALARMING_AREA = 0.7
GUESSING_AREA = 0.5
FEWEST_LEAVES = 8
GROUPS_PER_LEAF = 5
# Of all facts of a file, the one that depends on what a picture shows.
SIZE_ON_DISK = "bytes"
# `score` also draws for metrics that are not asked for here.
FEWEST_DRAWS = 2
_FACT_WORDS = {
    "width": "width",
    "height": "height",
    "mode": "colour mode",
    "format": "file format",
    "bytes": "file size",
    "border": "brightness of the border",
    "mean": "mean brightness",
}


@dataclass(frozen=True)
class Probe:
    """What a tree is given in place of the picture.

    Args:
        name: Its name in evaluation.json.
        columns: The facts that it is given.
        can_alarm: Whether such facts should never tell the class; else it is a caution only.
    """

    name: str
    columns: tuple[str, ...]
    can_alarm: bool


PROBES = (
    Probe("file facts", ("width", "height", "mode", "format", "bytes"), can_alarm=True),
    Probe("global pixels", ("border", "mean"), can_alarm=False),
)


def shortcut_probes(
    table: pd.DataFrame,
    classes: Sequence[str],
    positive_class: str | None,
    *,
    seed: int,
    draws: int,
) -> list[dict[str, Any]]:
    """Train small trees on facts of train's files and test them beside the classifier.

    The tree has at most eight leaves (twice the number of classes, if that is more), each of about
    five groups at least; classes count the same. Its intervals are the classifier's: over groups.

    Args:
        table: One row per image: split, fold, group, label, predicted and prob_<class> as in
            predictions.csv, with the facts of the file: width, height, mode, format, bytes, and
            border and mean brightness. Where the test rows have a fold, each fold is tested with a
            tree trained on the other folds, and ROC AUCs are means over the folds.
        classes: Class names.
        positive_class: The class of interest. Of two classes, None means the second.
        seed: Of the tree and the bootstrap, 0 or more.
        draws: How many bootstrap draws.

    Returns:
        For each probe: name, columns (known to it), used (by the tree, the most telling first),
        roc_auc_macro, accuracy, difference (of the ROC AUC, classifier minus probe), alarm,
        severity ("alarm", "caution" or "none") and text; where the tree used the file size also
        without_bytes, the ROC AUC of a tree that does not know it. `alarm` is true where the
        interval of the probe's ROC AUC lies above 0.7, or the classifier is not shown to be
        better; never for "global pixels", which may be the disease itself.
    """
    classes = [str(name) for name in classes]
    table = table.assign(path=table["path"].astype(str)).sort_values("path", kind="stable")
    parts = _train_and_test(table)
    positive = classes.index(positive_class or classes[1]) if len(classes) == 2 else None
    if not parts or any(train["label"].nunique() < 2 for train, _ in parts):
        return []
    test = pd.concat([tested for _, tested in parts])
    found = []
    for probe in PROBES:
        columns = [name for name in probe.columns if name in table]
        if columns:
            probabilities, used = _train_trees(parts, columns, classes, seed)
            measures = _measure(test, probabilities, classes, positive, seed, draws)
            if SIZE_ON_DISK in used:
                others = [name for name in columns if name != SIZE_ON_DISK]
                area = _area_without_size(parts, test, others, classes, positive, seed)
                measures = replace(measures, without_size=area)
            found.append(_judge(probe, columns, used, measures))
    return found


def _train_and_test(table: pd.DataFrame) -> list[tuple[pd.DataFrame, pd.DataFrame]]:
    """Train and test; in cross-validation, for each fold the others and the fold."""
    train, test = (table[table["split"] == name] for name in ("train", "test"))
    if test.empty:
        return []
    if "fold" not in table or (test["fold"] == "").any():
        return [(train, test)]
    return [(test[test["fold"] != name], own) for name, own in test.groupby("fold")]


def _area_without_size(
    parts: Sequence[tuple[pd.DataFrame, pd.DataFrame]],
    test: pd.DataFrame,
    columns: Sequence[str],
    classes: Sequence[str],
    positive: int | None,
    seed: int,
) -> Measure:
    """The ROC AUC of a tree that does not know the file size, which the picture decides too."""
    if not columns:
        return missing("no other fact of the file is known")
    probabilities, _ = _train_trees(parts, columns, classes, seed)
    split = _as_split(as_arrays(test, classes), probabilities)
    return _area(split, _folds(test), classes, positive, seed)


def _train_trees(
    parts: Sequence[tuple[pd.DataFrame, pd.DataFrame]],
    columns: Sequence[str],
    classes: Sequence[str],
    seed: int,
) -> tuple[FloatArray, list[str]]:
    """Probabilities of all test images, of shape (images, classes), and the columns used."""
    found = [_train_tree(train, test, columns, classes, seed) for train, test in parts]
    importance = pd.concat([of_tree for _, of_tree in found]).groupby(level=0).sum()
    used = importance[importance > 0].sort_values(ascending=False, kind="stable")
    return np.concatenate([probable for probable, _ in found]), [str(name) for name in used.index]


def _train_tree(
    train: pd.DataFrame,
    test: pd.DataFrame,
    columns: Sequence[str],
    classes: Sequence[str],
    seed: int,
) -> tuple[FloatArray, pd.Series[float]]:
    """Probabilities of the test images, and how much the tree owes to each column."""
    # Imported here: it takes a second, and other readers of the report do without.
    from sklearn.tree import DecisionTreeClassifier

    known, asked, names = _encode(train, test, columns)
    leaf = ceil(GROUPS_PER_LEAF * len(train) / train["group"].nunique())
    tree = DecisionTreeClassifier(
        max_leaf_nodes=max(FEWEST_LEAVES, 2 * len(classes)),
        min_samples_leaf=leaf,
        class_weight="balanced",
        random_state=seed,
    )
    tree.fit(known, train["label"].astype(str).to_numpy(str))
    probabilities = np.zeros((len(test), len(classes)))
    places = [classes.index(name) for name in tree.classes_]
    probabilities[:, places] = tree.predict_proba(asked)
    importance = pd.Series(tree.feature_importances_, index=names).groupby(level=0).sum()
    return probabilities, importance


def _folds(test: pd.DataFrame) -> NDArray[np.str_]:
    """The fold of each test image, "" where there are none."""
    return np.array(test.get("fold", pd.Series("", test.index)), dtype=str)


def _encode(
    train: pd.DataFrame, test: pd.DataFrame, columns: Sequence[str]
) -> tuple[FloatArray, FloatArray, list[str]]:
    """Numbers as they are, words as one column for each word of train.

    Returns:
        Train and test, of shape (images, encoded columns), and the column that each is of.
    """
    known, asked, names = [], [], []
    for name in columns:
        if pd.api.types.is_numeric_dtype(train[name]):
            # No fact is below 0, so that a missing one is a value of its own.
            known.append(train[name].fillna(-1).to_numpy(np.float64))
            asked.append(test[name].fillna(-1).to_numpy(np.float64))
            names.append(name)
            continue
        words = train[name].astype(str)
        for word in sorted(set(words)):
            known.append((words == word).to_numpy(np.float64))
            asked.append((test[name].astype(str) == word).to_numpy(np.float64))
            names.append(name)
    return np.stack(known, axis=1), np.stack(asked, axis=1), names


@dataclass(frozen=True)
class _Measures:
    """What a probe is judged by.

    Args:
        area: The probe's ROC AUC.
        classifier_area: The classifier's.
        accuracy: The probe's.
        difference: Of the ROC AUC, classifier minus probe.
        without_size: The ROC AUC of a tree that does not know the file size, if the probe used it.
    """

    area: Measure
    classifier_area: Measure
    accuracy: Measure
    difference: Measure
    without_size: Measure | None = None


def _measure(
    test: pd.DataFrame,
    probabilities: FloatArray,
    classes: Sequence[str],
    positive: int | None,
    seed: int,
    draws: int,
) -> _Measures:
    classifier = as_arrays(test, classes)
    probe = _as_split(classifier, probabilities)
    folds = _folds(test)
    areas = [_area(split, folds, classes, positive, seed) for split in (probe, classifier)]
    pair = Pair(probe, classifier, np.stack([folds, folds]))
    right = probe.truth == probe.predicted
    return _Measures(
        area=areas[0],
        classifier_area=areas[1],
        accuracy=share_measure(probe, right, np.ones(len(test), dtype=bool)),
        difference=differences(pair, classes, positive, seed=seed, draws=draws)["roc_auc_macro"],
    )


def _as_split(classifier: SplitPredictions, probabilities: FloatArray) -> SplitPredictions:
    """The probe's answers to the images that the classifier was tested on."""
    predicted = probabilities.argmax(axis=1).astype(np.int64)
    return SplitPredictions(classifier.truth, predicted, probabilities, classifier.groups)


def _area(
    split: SplitPredictions,
    folds: NDArray[np.str_],
    classes: Sequence[str],
    positive: int | None,
    seed: int,
) -> Measure:
    scored = score(split, classes, (seed, 0), FEWEST_DRAWS)
    if len(set(folds)) > 1:
        scored = average_over_folds(scored, folds)
    return mean_roc_auc_measure(scored) if positive is None else roc_auc_measure(scored, positive)


def _judge(
    probe: Probe, columns: Sequence[str], used: Sequence[str], measures: _Measures
) -> dict[str, Any]:
    """The block of a probe, with its verdict in words."""
    is_told = is_unbeaten = False
    if measures.area["value"] is None:
        reason = measures.area["reason"]
        text = f"Whether {probe.name} tell the class could not be tested: {reason}."
    else:
        is_told = measures.area["ci95"][0] > ALARMING_AREA
        is_unbeaten = measures.difference["ci95"][0] <= 0
        text = _verdict(probe, columns, used, measures)
    alarm = probe.can_alarm and (is_told or is_unbeaten)
    block = {
        "name": probe.name,
        "columns": list(columns),
        "used": list(used),
        "roc_auc_macro": measures.area,
        "accuracy": measures.accuracy,
        "difference": measures.difference,
        "alarm": alarm,
        "severity": "alarm" if alarm else "caution" if is_told or is_unbeaten else "none",
        "text": text,
    }
    if measures.without_size is not None:
        block["without_bytes"] = measures.without_size
    return block


def _verdict(probe: Probe, columns: Sequence[str], used: Sequence[str], measures: _Measures) -> str:
    """What the probe shows and what it does not, in two or three plain sentences."""
    lowest = measures.area["ci95"][0]
    is_unbeaten = measures.difference["ci95"][0] <= 0
    facts = "the file" if probe.can_alarm else "the brightness"
    tree = f"a small decision tree that knows only {facts} ({_listed(columns)})"
    probed, gain = _number(measures.area), _number(measures.difference)
    reached = f"{measures.classifier_area['value']:.3f}"
    if is_unbeaten and lowest <= GUESSING_AREA:
        return (
            f"The test does not show that the classifier does better than {tree}: ROC AUC "
            f"{reached} against the tree's {probed}, a difference of {gain}. Nor does it show that "
            "the tree can tell the class. Either the test set is too small to say, or the "
            "classifier too weak."
        )
    if lowest <= GUESSING_AREA:
        return (
            f"{_capital(tree)} reaches a ROC AUC of {probed}, not shown to be better than guessing "
            f"(0.5). The classifier reaches {reached}, a difference of {gain}."
        )
    lead = _capital(tree)
    if lowest > ALARMING_AREA or is_unbeaten:
        what = "The class" if lowest > ALARMING_AREA else "Something of the class"
        lead = f"{what} can be read off {facts}: {tree}"
    return (
        f"{lead} reaches a ROC AUC of {probed}, mostly by {_listed(used[:2])}. "
        f"The classifier reaches {reached}, a difference of {gain}"
        f"{', so it is not shown to see more than that' if is_unbeaten else ''}. "
        f"{_meaning(probe, measures.without_size)}"
    )


def _meaning(probe: Probe, without_size: Measure | None) -> str:
    """What it may mean. Of the facts of a file, the disease itself can change the size alone."""
    if not probe.can_alarm:
        return "Brightness can be the disease itself, or another scanner or source for each class."
    source = (
        "The network may have learned where an image comes from in place of the disease: test it "
        "on images from elsewhere, exported all in one way."
    )
    if without_size is None or without_size["value"] is None:
        return source
    size = (
        "The size of a compressed file also depends on what the picture shows; without it the "
        f"tree reaches {_number(without_size)}"
    )
    if without_size["ci95"][0] > GUESSING_AREA:
        return f"{size}. {source}"
    return (
        f"{size}, not shown to be better than guessing. So it can be the disease itself, or "
        "another source for each class: test the network on images from elsewhere."
    )


def _listed(columns: Sequence[str]) -> str:
    words = [_FACT_WORDS[name] for name in columns]
    return ", ".join(words[:-1]) + (" and " if words[1:] else "") + words[-1]


def _capital(text: str) -> str:
    return text[0].upper() + text[1:]


def _number(measure: Measure) -> str:
    value, low, high = (
        f"{number + 0.0:.3f}".replace("-", "\N{MINUS SIGN}")
        for number in (measure["value"], *measure["ci95"])
    )
    return f"{value} (95 % interval {low} to {high})"
