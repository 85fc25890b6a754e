"""The fine-tuned network against the frozen one it grew from: one run, both networks.

    python benchmarks/fine_tuning.py DATA --weights WEIGHTS --runs RUNS --only pneumoniamnist

Each run trains a head on the frozen network, fine-tunes the last blocks with it, and decides on
images held out which one is used. Here both are looked at on the test set, paired, for each seed;
nothing is chosen on that.
"""

from __future__ import annotations

import argparse
import json
import os
from pathlib import Path
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import numpy as np
from measure import write_result

import medlens
from medlens.report.compare import compare_predictions
from medlens.report.predictions import read_predictions

CASES: dict[str, dict[str, Any]] = {
    "pneumoniamnist": {"data": "pneumoniamnist/labels.csv", "resolve_leaks": True},
    "brain_mri_4class": {"data": "brain_mri_4class/labels.csv", "resolve_leaks": True},
    "blood_wbc_original": {"data": "blood_wbc_original", "drop_class": ["BASOPHIL"]},
}
METRICS = ("accuracy", "balanced_accuracy", "roc_auc_macro", "log_loss")


def main() -> None:
    """Train, compare, print and write the results."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("data", type=Path)
    parser.add_argument("--backbone", default="mobilenet_v2")
    parser.add_argument("--weights", default="imagenet", help="as for medlens train")
    parser.add_argument("--image-size", default="auto", help="as for medlens train")
    parser.add_argument("--blocks", type=int, default=2)
    parser.add_argument("--epochs", type=int, default=20)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--only", nargs="*", choices=list(CASES), default=list(CASES))
    parser.add_argument("--runs", type=Path, required=True, help="where runs and cache are kept")
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    result: dict[str, Any] = {
        name: getattr(options, name)
        for name in ("backbone", "image_size", "blocks", "epochs", "seeds")
    }
    for name in options.only:
        result[name] = [measure(name, seed, options) for seed in range(options.seeds)]
        print(json.dumps({name: result[name], "mean": summarise(result[name])}, indent=2))
        write_result(options.out, result)


def measure(name: str, seed: int, options: argparse.Namespace) -> dict[str, Any]:
    """One run: what both networks come to, and which one was used."""
    case = dict(CASES[name])
    run = medlens.train(
        options.data / case.pop("data"),
        out=options.runs / f"{name}-tuned-{seed}",
        overwrite=True,
        seed=seed,
        backbone=options.backbone,
        weights=options.weights,
        image_size=options.image_size,
        fine_tune=options.blocks,
        fine_tune_epochs=options.epochs,
        cache=str(options.runs / "cache"),
        no_images=True,
        quiet=True,
        **case,
    )
    facts = json.loads((run.path / "training.json").read_text(encoding="utf-8"))["fine_tuning"]
    evaluation = run.evaluation
    used, other = run.predictions, read_predictions(run.path / "other_predictions.csv")
    frozen, tuned = (other, used) if facts["is_used"] else (used, other)
    compared = compare_predictions(
        frozen,
        tuned,
        evaluation["classes"],
        evaluation["positive_class"],
        seed=seed,
        draws=1000,
    )
    seconds = run.history.query("stage == 'fine_tune'")["seconds"]
    return {
        "seed": seed,
        "is_used": facts["is_used"],
        "val_loss": facts["val_loss"],
        "epochs": facts["epochs_run"],
        "seconds_an_epoch": round(float(seconds.median()), 1),
        **{
            network: {metric: round(block[metric]["value"], 4) for metric in METRICS}
            for network, block in evaluation["fine_tuning"].items()
        },
        "difference": {
            metric: {key: np.round(compared["difference"][metric][key], 4).tolist() for key in keys}
            for metric in METRICS
            if metric in compared["difference"]
            for keys in [("value", "ci95")]
        },
    }


def summarise(seeds: list[dict[str, Any]]) -> dict[str, Any]:
    """Mean and standard deviation over the seeds."""
    found: dict[str, Any] = {"used": sum(one["is_used"] for one in seeds)}
    for network in ("frozen", "fine_tuned"):
        for metric in METRICS:
            values = [one[network][metric] for one in seeds]
            spread = float(np.std(values, ddof=1)) if len(values) > 1 else 0.0
            found[f"{network} {metric}"] = [round(float(np.mean(values)), 4), round(spread, 4)]
    return found


if __name__ == "__main__":
    main()
