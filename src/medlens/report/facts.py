"""What a report says beside the numbers: how it was trained, and what limits the result."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pandas as pd

from medlens.model.backbone_choice import BackboneChoice
from medlens.model.development import Development
from medlens.model.engine import FrozenPass
from medlens.model.familiarity import LIMIT_QUANTILE
from medlens.model.view_features import Views
from medlens.report.run_facts import is_small_test


def training_facts(
    frozen_pass: FrozenPass,
    development: Development,
    among: BackboneChoice | None,
    views: Views | None,
) -> dict[str, Any]:
    """The content of training.json: backbone, features, head, and why training stopped.

    Args:
        frozen_pass: The network as it was before any fine-tuning.
        development: Its head, and what was chosen with it.
        among: Why this backbone, where there were several.
        views: Of train's images, where there were some.
    """
    training, choice = development.training, development.choice
    plan, winner = choice.plan, choice.winner
    is_ensemble = development.ensemble is not None and development.ensemble.is_used
    return {
        "backbone": frozen_pass.backbone.name,
        "weights": frozen_pass.weights.kind,
        "weights_sha256": frozen_pass.weights.sha256,
        "weights_licence": frozen_pass.backbone.licence
        if frozen_pass.weights.kind == "imagenet"
        else "not known to medlens",
        "image_size": frozen_pass.rule.size,
        "fit": frozen_pass.rule.fit,
        "engine": frozen_pass.engine,
        "precision": frozen_pass.precision,
        "features": choice.features,
        "columns": int(training.head.layers[0][0].shape[0]),
        "columns_kept": training.columns_kept,
        "head": plan.layers_text,
        "heads": len(winner.heads) if is_ensemble and winner else 1,
        "candidates": len(choice.candidates if among is None else among.candidates),
        "choice": {**({"backbone": among.reason} if among else {}), **choice.reasons},
        "ensemble": development.ensemble.reason if development.ensemble else "",
        "optimizer": f"Adam, learning rate {plan.learning_rate:g}, "
        f"weight decay {plan.weight_decay:g}",
        "loss": "categorical cross-entropy",
        "class_weight": plan.class_weight,
        "augmentation": f"{views.preset}, {views.count} views of each image"
        if views and plan.is_augmented
        else "none",
        **averaging_facts(development),
        "batch_size": plan.batch_size,
        "epochs_run": int(training.history["epoch"].max()),
        "best_epoch": training.best_epoch,
        "stop_reason": training.stop_reason,
        "stop_text": training.stop_text,
        "seed": plan.seed,
    }


def averaging_facts(development: Development) -> dict[str, Any]:
    """What training.json says of test-time averaging, that of the network that is used."""
    averaged = development.averaged
    return {
        "averaged": averaged.text if averaged else "",
        "views_averaged": averaged.count if averaged else 1,
    }


def notices(used: pd.DataFrame, weights_kind: str) -> list[str]:
    """What a reader must know before any number, in plain sentences.

    Args:
        used: The images of the three splits, with split, patient and group.
        weights_kind: "imagenet", "file" or "random".
    """
    said = []
    if weights_kind == "random":
        said.append(
            "The backbone has random filters, not pretrained weights. "
            "These numbers show that the road works; they are not a result."
        )
    unknown = int((used["patient"] == "").sum())
    if unknown == len(used):
        said.append(
            "No patient is known: the splits are disjoint by image and its copies only. If several "
            "images come from one patient, the results are too good."
        )
    elif unknown:
        said.append(
            f"The patient is unknown for {unknown:,} of {len(used):,} images; these are kept apart "
            "by image and its copies only."
        )
    tested = used[used["split"] == "test"]
    if tested.empty:
        said.append(
            "There is no test set apart: every image was tested once in cross-validation. The "
            "classifier that is saved was fitted on all of them and was not itself tested."
        )
    what, rows = ("test set", tested) if len(tested) else ("data set", used)
    groups = rows["group"].nunique()
    if is_small_test(len(rows), groups):
        said.append(
            f"The {what} is small: {len(rows):,} images of {groups:,} groups. Read the intervals, "
            "not the values."
        )
    return said


def evidence_notices(evidence: Mapping[str, Any]) -> list[str]:
    """What the evidence adds to that: shortcuts, and promises that do not hold here."""
    said = [
        probe["text"]
        for probe in evidence["baselines"]["probes"]
        if probe.get("severity") == "alarm"
    ]
    said += _miscalibration(evidence["calibration"]["after"])
    said += _missed_operating_point(evidence["operating_point"])
    flagged = evidence["unfamiliar"]["test_false_alarms"]
    if flagged["value"] is not None and flagged["ci95"][0] > 1 - LIMIT_QUANTILE:
        said.append(
            f"Flagged as unfamiliar are {100 * flagged['value']:.1f} % of the images tested, where "
            "1 % was meant: they differ from those that the limit was chosen on."
        )
    shift = evidence["prediction_sets"]["class_balance_shift"]
    return [*said, shift["text"]] if shift["is_shifted"] else said


def _miscalibration(after: Mapping[str, Any]) -> list[str]:
    """Said where slope or intercept are surely not what calibrated probabilities have."""
    wrong = []
    for name, ideal, label in (("slope", 1, "slope"), ("intercept", 0, "calibration in the large")):
        measure = after[name]
        if measure["value"] is not None and not measure["ci95"][0] <= ideal <= measure["ci95"][1]:
            wrong.append(f"{label} {measure_text(measure)}, where {ideal} is meant")
    if not wrong:
        return []
    return [
        f"The probabilities do not mean what they say on the images tested: {'; '.join(wrong)}. "
        "Do not read 0.9 as nine in ten."
    ]


def _missed_operating_point(point: Mapping[str, Any]) -> list[str]:
    """Said where the test surely does not reach what was seen where the threshold was chosen."""
    if point["threshold"] is None:
        return []
    said = []
    for name, label in (("recall", "sensitivity"), ("specificity", "specificity")):
        reached, chosen = point["test"][name], point["development"][name]
        if reached["value"] is not None and reached["ci95"][1] < chosen:
            said.append(
                f"At the operating point the {label} is {measure_text(reached)} on the images "
                f"tested; it was {chosen:.3f} where the threshold was chosen."
            )
    return said


SAID_METRICS = ("accuracy", "balanced_accuracy", "recall_macro", "roc_auc_macro")


def result_lines(evaluation: Mapping[str, Any]) -> list[str]:
    """The test result in a few lines for the screen.

    Args:
        evaluation: The content of evaluation.json.
    """
    block = evaluation.get("test") or evaluation["out_of_fold"]
    name = "Test set" if "test" in evaluation else "Cross-validation"
    lines = [f"{name}: {block['n']:,} images, {block['groups']:,} groups"]
    for name in SAID_METRICS:
        label = name.replace("_", " ").replace("roc auc", "ROC AUC")
        lines.append(f"  {label:18} {measure_text(block[name])}")
    return lines


def measure_text(measure: Mapping[str, Any]) -> str:
    """A number with its interval, or why there is none."""
    if measure["value"] is None:
        return f"not available: {measure['reason']}"
    low, high = measure["ci95"]
    return f"{measure['value']:.3f} (95 % interval {low:.3f} to {high:.3f})"
