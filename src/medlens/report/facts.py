"""What a report says beside the numbers: how it was trained, and what limits the result."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pandas as pd

from medlens.model.engine import FrozenPass
from medlens.model.head import WEIGHT_DECAY, HeadPlan, Training

# Below this many images a test set gives intervals too wide for most claims.
SMALL_TEST = 100


def training_facts(
    frozen_pass: FrozenPass, plan: HeadPlan, training: Training, features: str
) -> dict[str, Any]:
    """The content of training.json: backbone, features, head, and why training stopped."""
    hidden = f"Dense({plan.units}, relu), " if plan.units else ""
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
        "features": features,
        "columns": int(training.head.layers[0][0].shape[0]),
        "columns_kept": training.columns_kept,
        "head": f"{hidden}Dropout({plan.dropout:g}), Dense(softmax)",
        "optimizer": f"Adam, learning rate {plan.learning_rate:g}, weight decay {WEIGHT_DECAY:g}",
        "loss": "categorical cross-entropy",
        "class_weight": "balanced" if plan.balanced else "none",
        "batch_size": plan.batch_size,
        "epochs_run": len(training.history),
        "best_epoch": training.best_epoch,
        "stop_reason": training.stop_reason,
        "stop_text": training.stop_text,
        "seed": plan.seed,
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
            "classifier that is saved was trained on all of them and was not itself tested."
        )
    elif len(tested) < SMALL_TEST:
        said.append(
            f"The test set is small: {len(tested):,} images of {tested['group'].nunique():,} "
            "groups. Read the intervals, not the values."
        )
    return said


def evidence_notices(evidence: Mapping[str, Any]) -> list[str]:
    """What the evidence adds to that: shortcuts, and promises that do not hold here."""
    said = [
        probe["text"]
        for probe in evidence["baselines"]["probes"]
        if probe.get("severity") == "alarm"
    ]
    shift = evidence["prediction_sets"]["class_balance_shift"]
    return [*said, shift["text"]] if shift["is_shifted"] else said


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
