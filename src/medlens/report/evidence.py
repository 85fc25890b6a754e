"""What a reviewer asks beyond the metrics: calibration, decisions, sets, subgroups, shortcuts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from medlens.model.calibration import probabilities
from medlens.model.classifier import Classifier
from medlens.model.cross_validation import Fold
from medlens.model.development import Development
from medlens.model.held_out import FITTED_ON
from medlens.report.calibration_measures import calibration_block
from medlens.report.curves import curves_block
from medlens.report.decisions import (
    abstention,
    class_balance_shift,
    decisions_on_test,
    member_classes,
    sets_on_test,
    values_at_prevalence,
)
from medlens.report.evaluation import OUT_OF_FOLD, as_arrays, draw_seeds, headline_rows
from medlens.report.label_suspects import suspects_block
from medlens.report.measures import share_measure
from medlens.report.metrics import SplitPredictions
from medlens.report.probes import shortcut_probes
from medlens.report.subgroups import subgroups_block

SETS_METHOD = (
    "Split-conformal sets: a class belongs where its calibrated probability reaches the threshold; "
    "the most probable class always does. The promise is for a random image of a new group."
)
UNFAMILIAR_METHOD = (
    "Distance to the nearest training image in the space of the features; the limit is the 99th "
    "percentile of the distances of held-out images."
)
NO_OTHER_SET = {
    "p": None,
    "is_shifted": False,
    "text": "In cross-validation each fold is drawn from the same images as those it is chosen on: "
    "what coverage there is elsewhere is not known from it.",
}
FILE_FACTS = ("width", "height", "mode", "format", "bytes", "border", "mean")


@dataclass(frozen=True)
class Tested:
    """The rows that the result is about, and what they were tested with.

    Args:
        rows: Of predictions.csv.
        split: The same as arrays.
        classes: Class names.
        named: The positive class, if there is one.
        positive: Its number.
        development: The classifier's head and choices.
        folds: Of cross-validation, by name; empty where there is a test set.
        seed: Of all draws.
        draws: How many bootstrap draws.
    """

    rows: pd.DataFrame
    split: SplitPredictions
    classes: Sequence[str]
    named: str | None
    positive: int | None
    development: Development
    folds: Mapping[str, Development]
    seed: int
    draws: int


def gather_evidence(
    predictions: pd.DataFrame,
    images: pd.DataFrame,
    metadata: Sequence[str],
    development: Development,
    folds: Sequence[Fold],
    evaluation: Mapping[str, Any],
    *,
    prevalence: float | None,
    draws: int = 1000,
) -> dict[str, Any]:
    """Compute what evaluation.json holds beside the metrics of the splits.

    Args:
        predictions: predictions.csv.
        images: One row per image used, with its file facts and metadata, in the order in which the
            development knows them.
        metadata: Columns of `images` that may be subgroups.
        development: The head and what was chosen with it.
        folds: Of cross-validation.
        evaluation: From `evaluate`.
        prevalence: Of the positive class where the classifier is to be used; None if not stated.
        draws: How many bootstrap draws.

    Returns:
        The blocks by name, see docs/reference/run-folder.md.
    """
    classes, named = evaluation["classes"], evaluation["positive_class"]
    rows = headline_rows(predictions).sort_values(["path", "fold"], kind="stable")
    is_folded = "test" not in evaluation
    tested = Tested(
        rows=rows,
        split=as_arrays(rows, classes),
        classes=classes,
        named=named,
        positive=None if named is None else classes.index(named),
        development=development,
        folds={str(one.number): one.development for one in folds} if is_folded else {},
        seed=evaluation["seed"],
        draws=draws,
    )
    curved = tested.positive if len(classes) == 2 else None
    joined = rows.merge(images[["path", *metadata]], on="path", how="left", validate="m:1")
    return {
        "calibration": _calibration(tested, curved),
        "operating_point": _operating_point(tested, prevalence),
        "prediction_sets": _prediction_sets(tested, images),
        "abstention": abstention(tested.split),
        "curves": curves_block(tested.split, classes, tested.positive, tested.seed, draws),
        "unfamiliar": _unfamiliar(tested),
        "subgroups": subgroups_block(joined, classes, curved, tested.seed, metadata),
        "baselines": {"probes": _probes(predictions, images, tested)},
        "label_suspects": find_suspects(images, development, classes),
    }


def find_suspects(
    images: pd.DataFrame, development: Development, classes: Sequence[str]
) -> dict[str, Any]:
    """Images of train whose label the out-of-fold heads disagree with."""
    held_out = development.out_of_fold
    if held_out is None:
        return {"n": None, "reason": "train was not predicted out of fold", "images": []}
    rows = images.iloc[held_out.rows]
    temperature = development.of_out_of_fold.temperature
    calibrated = probabilities(held_out.logits, temperature)
    return suspects_block(list(rows["path"]), list(rows["label"]), calibrated, classes)


def _said_of(tested: Tested) -> dict[str, Any]:
    """On what the choices were fitted, in the words of the report."""
    if not tested.folds:
        kind = tested.development.fitted_on
        text = f"Fitted on {FITTED_ON[kind]}."
        return {"fitted_on": kind, "approximate": kind != "val", "text": text}
    kinds = {one.fitted_on for one in tested.folds.values()}
    found = [kind for kind in FITTED_ON if kind in kinds]
    ways = "; or on ".join(FITTED_ON[kind] for kind in found)
    text = f"Each fold of the cross-validation chose its own, on {ways}."
    # The last of the ways is the weakest.
    return {"fitted_on": found[-1], "approximate": found != ["val"], "text": text}


def _calibration(tested: Tested, positive: int | None) -> dict[str, Any]:
    logits = tested.rows[[f"logit_{name}" for name in tested.classes]].to_numpy(np.float64)
    split, held_out = tested.split, tested.development.held_out
    return {
        "temperature": tested.development.temperature,
        "n": len(held_out.rows),
        **_said_of(tested),
        **calibration_block(
            logits,
            split.truth,
            split.groups,
            tested.classes,
            positive,
            split.probabilities,
            draw_seeds(tested.seed, OUT_OF_FOLD if tested.folds else "test"),
            tested.draws,
        ),
    }


def _operating_point(tested: Tested, prevalence: float | None) -> dict[str, Any]:
    point = tested.development.operating_point
    if point is None or tested.positive is None or tested.named is None:
        return {"threshold": None, "reason": tested.development.no_operating_point}
    without = [one for one in tested.folds.values() if one.operating_point is None]
    if without:
        reason = f"in {len(without)} of {len(tested.folds)} folds {without[0].no_operating_point}"
        return {"threshold": None, "reason": reason}
    called = tested.rows["decision"].to_numpy(str) == tested.named
    block = decisions_on_test(tested.split, tested.positive, called, tested.named)
    at_prevalence = None
    if prevalence is not None:
        at_prevalence = values_at_prevalence(
            tested.split, tested.positive, called, prevalence, tested.seed, tested.draws
        )
    return {
        "rule": point.rule,
        "class": tested.named,
        "threshold": point.threshold,
        **_said_of(tested),
        "development": {"recall": point.recall, "specificity": point.specificity},
        "test": block,
        "at_prevalence": at_prevalence,
    }


def _prediction_sets(tested: Tested, images: pd.DataFrame) -> dict[str, Any]:
    split, development = tested.split, tested.development
    sets = member_classes(split.probabilities, development.set_thresholds)
    fold = tested.rows["fold"].to_numpy(str)
    for name, own in tested.folds.items():
        rows = fold == name
        of_fold = member_classes(split.probabilities[rows], own.set_thresholds)
        for level, member in of_fold.items():
            sets[level][rows] = member
    held_out = images.iloc[development.held_out.rows]
    fitted_on = [pd.Categorical(held_out["label"], list(tested.classes)).codes.astype(np.int64)]
    fitted_on.append(np.unique(held_out["group"], return_inverse=True)[1])
    shift = (
        NO_OTHER_SET
        if tested.folds
        else class_balance_shift(
            (fitted_on[0], fitted_on[1]), (split.truth, split.groups), tested.classes
        )
    )
    levels = sets_on_test(split, tested.classes, sets)
    for level, threshold in development.set_thresholds.items():
        levels[f"{level:g}"]["threshold"] = threshold
    return {
        "method": SETS_METHOD,
        **_said_of(tested),
        "levels": levels,
        "class_balance_shift": shift,
    }


def _unfamiliar(tested: Tested) -> dict[str, Any]:
    flagged = tested.rows["unfamiliar"].to_numpy().astype(bool)
    return {
        "method": UNFAMILIAR_METHOD,
        "limit": tested.development.limit,
        **_said_of(tested),
        "test_false_alarms": share_measure(tested.split, flagged, np.ones(len(flagged), bool)),
    }


def _probes(
    predictions: pd.DataFrame, images: pd.DataFrame, tested: Tested
) -> list[dict[str, Any]]:
    """Shortcut probes: trained on train, tested on the test set, or fold by fold."""
    columns = [name for name in FILE_FACTS if name in images]
    rows = tested.rows if tested.folds else predictions[predictions["fold"] == ""]
    table = rows.merge(images[["path", *columns]], on="path", how="left", validate="1:1")
    return shortcut_probes(
        table, tested.classes, tested.named, seed=tested.seed, draws=tested.draws
    )


def external_evidence(
    predictions: pd.DataFrame,
    images: pd.DataFrame,
    metadata: Sequence[str],
    classifier: Classifier,
    evaluation: Mapping[str, Any],
    internal: pd.DataFrame,
    prevalence: float | None,
    *,
    internal_name: str = "test",
) -> dict[str, Any]:
    """What an external test shows beside its metrics; nothing is fitted on it.

    Args:
        predictions: predictions.csv of the external test.
        images: One row per image tested, with its metadata.
        metadata: Columns of `images` that may be subgroups.
        classifier: The classifier tested.
        evaluation: From `evaluate`.
        internal: The rows of the run's predictions.csv that its own result is about.
        prevalence: Of the positive class; None if not stated.
        internal_name: "test" or "out_of_fold": which result of the run that is.

    Returns:
        calibration, operating_point, prediction_sets, class_balance_shift against the run's own
        result, curves, unfamiliar and subgroups.
    """
    classes, named, seed = evaluation["classes"], evaluation["positive_class"], evaluation["seed"]
    rows = predictions.sort_values("path", kind="stable")
    split = as_arrays(rows, classes)
    before = as_arrays(internal, classes)
    positive = None if named is None else classes.index(named)
    curved = positive if len(classes) == 2 else None
    logits = rows[[f"logit_{name}" for name in classes]].to_numpy(np.float64)
    draws = evaluation["draws"]
    point = None
    if positive is not None and named is not None and classifier.facts["operating_point"]:
        called = rows["decision"].to_numpy(str) == named
        point = {
            **classifier.facts["operating_point"],
            "class": named,
            "test": decisions_on_test(split, positive, called, named),
            "at_prevalence": None
            if prevalence is None
            else values_at_prevalence(split, positive, called, prevalence, seed, draws),
        }
    thresholds = {
        float(level): value for level, value in classifier.facts["prediction_sets"].items()
    }
    inside = "the internal test set" if internal_name == "test" else "the cross-validated images"
    shift = class_balance_shift(
        (before.truth, before.groups),
        (split.truth, split.groups),
        classes,
        (inside, "the external test"),
    )
    if not shift["is_shifted"]:
        # Balanced alike is not exchangeable: scanners and patients are others.
        shift["text"] += (
            " That does not mean that the promise of the prediction sets holds on external images: "
            "their coverage is only what was measured."
        )
    flagged = rows["unfamiliar"].to_numpy().astype(bool)
    joined = rows.merge(images[["path", *metadata]], on="path", how="left", validate="1:1")
    return {
        "calibration": calibration_block(
            logits,
            split.truth,
            split.groups,
            classes,
            curved,
            split.probabilities,
            draw_seeds(seed, "test"),
            draws,
        ),
        "operating_point": point,
        "prediction_sets": {
            "method": SETS_METHOD,
            "levels": sets_on_test(split, classes, member_classes(split.probabilities, thresholds)),
        },
        "class_balance_shift": shift,
        "curves": curves_block(split, classes, positive, seed, draws),
        "unfamiliar": {
            "method": UNFAMILIAR_METHOD,
            "limit": classifier.limit,
            "share": share_measure(split, flagged, np.ones(len(flagged), bool)),
        },
        "subgroups": subgroups_block(joined, classes, curved, seed, metadata),
    }
