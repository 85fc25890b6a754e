"""Whether choosing overfits: with shuffled labels the test result must stay at chance.

    python benchmarks/choosing_noise.py --weights random --out choosing_noise.json

Phantoms go through the frozen network once. In each repeat the labels are shuffled among the
patients, the images split anew, and head, depths, class weighting and ensemble chosen as `train`
does by default; then the test images are predicted. The share of 95 % intervals of the accuracy
that lie wholly above chance should be 2.5 %.
"""

from __future__ import annotations

import argparse
import json
import os
import tempfile
from pathlib import Path
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import numpy as np
import pandas as pd
from measure import write_result
from numpy.typing import NDArray

from medlens.data.division import divide_groups
from medlens.data.images import read_image
from medlens.data.phantom import write_phantoms
from medlens.data.scan import PictureRule
from medlens.model.backbone import BACKBONES, build_backbone
from medlens.model.calibration import probabilities
from medlens.model.choice import CompiledHeads
from medlens.model.development import develop
from medlens.model.head_plan import HeadPlan, HeadSpace
from medlens.model.held_out import Choices
from medlens.model.operating_point import parse_rule
from medlens.model.plan import CANDIDATES, depth_sets
from medlens.model.weights import find_weights
from medlens.report.evaluation import evaluate
from medlens.report.predictions import predict_all

RATIOS = {"train": 0.6, "val": 0.2, "test": 0.2}


def main() -> None:
    """Repeat, print and write the results."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--backbone", default="mobilenet_v2")
    parser.add_argument("--weights", default="imagenet", help="as for medlens train")
    parser.add_argument("--images", type=int, default=120)
    parser.add_argument("--repeats", type=int, default=200)
    parser.add_argument("--epochs", type=int, default=20)
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    features, images = take_features(options)
    found = []
    compiled: CompiledHeads = {}
    for repeat in range(options.repeats):
        found.append(one_repeat(features, images, options, repeat, compiled))
        if repeat % 20 == 19:
            print(repeat + 1, summarise(found), flush=True)
    result = {"options": {k: v for k, v in vars(options).items() if k not in ("out", "weights")}}
    result.update(summarise(found))
    print(json.dumps(result, indent=2))
    write_result(options.out, result)


def take_features(options: argparse.Namespace) -> tuple[NDArray[np.float32], pd.DataFrame]:
    """Features of phantoms of three classes, and their table with one group for each patient."""
    backbone = BACKBONES[options.backbone]
    with tempfile.TemporaryDirectory() as name:
        labels = write_phantoms(Path(name) / "data", images=options.images, size=64, seed=0)
        table = pd.read_csv(labels)
        rule = PictureRule(64, "pad")
        pictures = [
            rule.apply(read_image(labels.parent / path, frame=None).pixels)
            for path in table["path"]
        ]
    network = build_backbone(backbone, find_weights(backbone, options.weights, seed=0), size=64)
    features = network.predict(np.stack(pictures).astype(np.float32), verbose=0)
    return np.asarray(features), table.assign(group=pd.factorize(table["patient"])[0])


def one_repeat(
    features: NDArray[np.float32],
    images: pd.DataFrame,
    options: argparse.Namespace,
    seed: int,
    compiled: CompiledHeads,
) -> dict[str, Any]:
    """Shuffle, split, choose, test."""
    random = np.random.default_rng(seed)
    patients = images["group"].nunique()
    of_patient = random.permutation(np.arange(patients) % 3)
    numbers = of_patient[images["group"]]
    classes = ("a", "b", "c")
    shuffled = images.assign(label=np.array(classes)[numbers])
    split = divide_groups(shuffled, shuffled["group"], shares=RATIOS, seed=seed)
    used = shuffled.assign(split=split, patient=shuffled["patient"].astype(str))
    base = HeadPlan((), 0.0, options.epochs, 64, 1e-3, 0.98, "val", 10, 0)
    space = HeadSpace(
        base,
        depth_sets(BACKBONES[options.backbone]),
        CANDIDATES,
        ("none", "balanced", "logit_adjusted"),
        (False, True),
    )
    choices = Choices(positive=None, rule=parse_rule("youden"), prevalence=None, seed=seed)
    labels = numbers.astype(np.int64)
    development = develop(
        features, used, labels, 3, space, choices, lambda _: None, compiled=compiled
    )
    said = predict_all(features, used, development, [], classes, None)
    block = evaluate(said, classes=classes, positive_class=None, seed=seed)["test"]
    tested = (used["split"] == "test").to_numpy()
    logits = development.training.head.logits(features[tested])
    right = probabilities(logits, development.temperature).argmax(1) == labels[tested]
    return {
        "n": int(tested.sum()),
        "accuracy": float(right.mean()),
        "ci95": block["accuracy"]["ci95"],
        "roc_auc": block["roc_auc_macro"]["value"],
        "chosen_oof_accuracy": float(
            development.choice.candidates.query("chosen == 1")["accuracy"].iloc[0]
        ),
    }


def summarise(found: list[dict[str, Any]]) -> dict[str, Any]:
    """Means with their 95 % intervals over the repeats."""

    def mean(name: str) -> dict[str, Any]:
        values = np.array([one[name] for one in found if one[name] is not None])
        error = 1.96 * float(values.std(ddof=1)) / np.sqrt(len(values))
        centre = float(values.mean())
        return {
            "mean": round(centre, 4),
            "ci95": [round(float(centre - error), 4), round(float(centre + error), 4)],
        }

    return {
        "repeats": len(found),
        "test_images": float(np.mean([one["n"] for one in found])),
        "test_accuracy": mean("accuracy"),
        "test_roc_auc": mean("roc_auc"),
        "out_of_fold_accuracy_of_the_winner": mean("chosen_oof_accuracy"),
        "intervals_wholly_above_chance": float(np.mean([one["ci95"][0] > 1 / 3 for one in found])),
    }


if __name__ == "__main__":
    main()
