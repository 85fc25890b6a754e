"""The chosen classifier against the plain recipe, on real images: same weights, same splits.

    python benchmarks/quality.py DATA --weights WEIGHTS --out quality.json

DATA holds pneumoniamnist, brain_mri_4class, blood_wbc_original and ct_contrast_dicom. Each is
trained with `--plan auto` and with `--plan plain`, for each seed (which moves val, the folds and
the first weights); the two are compared on the same images by the paired bootstrap of
`medlens compare`. Nothing is chosen on what is reported here.
"""

from __future__ import annotations

import argparse
import json
import os
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import numpy as np
from measure import write_result

import medlens


@dataclass(frozen=True)
class Case:
    """One data set and what counts there.

    Args:
        path: Below the data folder.
        metrics: The first is the one the two are compared by.
        options: Of `medlens train`.
    """

    path: str
    metrics: tuple[str, ...]
    options: Mapping[str, Any] = field(default_factory=dict)


CASES = {
    "ct_contrast_dicom": Case("ct_contrast_dicom", ("roc_auc_macro", "accuracy"), {"folds": 5}),
    "blood_wbc_original": Case(
        "blood_wbc_original",
        ("balanced_accuracy", "roc_auc_macro"),
        {"folds": 5, "drop_class": ["BASOPHIL"]},
    ),
    "pneumoniamnist": Case(
        "pneumoniamnist/labels.csv", ("roc_auc_macro", "accuracy"), {"resolve_leaks": True}
    ),
    "brain_mri_4class": Case(
        "brain_mri_4class/labels.csv", ("accuracy", "roc_auc_macro"), {"resolve_leaks": True}
    ),
}
PLANS = ("plain", "auto")


def main() -> None:
    """Train all, compare, print and write the results."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("data", type=Path)
    parser.add_argument("--backbone", default="mobilenet_v2")
    parser.add_argument("--weights", default="imagenet", help="as for medlens train")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--only", nargs="*", choices=list(CASES), default=list(CASES))
    parser.add_argument("--runs", type=Path, required=True, help="where runs and cache are kept")
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    result: dict[str, Any] = {
        "options": {"backbone": options.backbone, "seeds": options.seeds},
        "cases": {},
    }
    for name in options.only:
        result["cases"][name] = measure(name, CASES[name], options)
        print(json.dumps({name: result["cases"][name]}, indent=2), flush=True)
        write_result(options.out, result)


def measure(name: str, case: Case, options: argparse.Namespace) -> dict[str, Any]:
    """Both plans with every seed, and their paired differences."""
    values: dict[str, dict[str, list[float]]] = {
        plan: {metric: [] for metric in case.metrics} for plan in PLANS
    }
    intervals: dict[str, list[list[float]]] = {plan: [] for plan in PLANS}
    seconds: dict[str, list[float]] = {plan: [] for plan in PLANS}
    differences, chosen = [], []
    for seed in range(options.seeds):
        runs = {}
        for plan in PLANS:
            started = time.monotonic()
            runs[plan] = train(name, case, plan, seed, options)
            seconds[plan].append(round(time.monotonic() - started, 1))
            block = result_of(runs[plan])
            for metric in case.metrics:
                values[plan][metric].append(block[metric]["value"])
            intervals[plan].append(block[case.metrics[0]]["ci95"])
        compared = medlens.compare(runs["plain"].path, runs["auto"].path)
        differences.append(compared["difference"][case.metrics[0]])
        training = json.loads((runs["auto"].path / "training.json").read_text(encoding="utf-8"))
        chosen.append({key: training[key] for key in ("features", "head", "class_weight", "heads")})
    return {
        "compared_by": case.metrics[0],
        "mean_and_spread": {
            plan: {
                metric: [round(float(np.mean(found)), 4), round(float(np.std(found, ddof=1)), 4)]
                for metric, found in values[plan].items()
            }
            for plan in PLANS
        },
        "values": values,
        "ci95": intervals,
        "difference": differences,
        "surely_better": sum(one["ci95"][0] > 0 for one in differences),
        "surely_worse": sum(one["ci95"][1] < 0 for one in differences),
        "chosen": chosen,
        "seconds": seconds,
    }


def train(name: str, case: Case, plan: str, seed: int, options: argparse.Namespace) -> medlens.Run:
    """One run; a finished one is kept."""
    return medlens.train(
        options.data / case.path,
        out=options.runs / f"{name}-{plan}-{seed}",
        overwrite=True,
        plan=plan,
        seed=seed,
        backbone=options.backbone,
        weights=options.weights,
        cache=str(options.runs / "cache"),
        no_images=True,
        quiet=True,
        **case.options,
    )


def result_of(run: medlens.Run) -> dict[str, Any]:
    """The test result, or that of cross-validation."""
    evaluation = run.evaluation
    return dict(evaluation.get("test") or evaluation["out_of_fold"])


if __name__ == "__main__":
    main()
