"""The metrics of 1,000 bootstrap draws: medlens, and scikit-learn called in a loop.

    python benchmarks/statistics_speed.py --out statistics_speed.json

Both sides get the same predictions and the same draws of patients, in one process, one after the
other; the numbers of every draw must agree. The bootstrap of the ROC AUC is made of the functions
that rank and weigh; the interval in a report rests on DeLong's variance, which needs no draws.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import sklearn
from sklearn import metrics as reference

from medlens.report.bootstrap import bootstrap_metrics, draw_group_weights
from medlens.report.metrics import SplitPredictions, rank_images, roc_auc, weigh

IMAGES_PER_PATIENT = 4
LARGEST_DIFFERENCE = 1e-12

Drawn = dict[str, np.ndarray]


def draw_predictions(images: int, classes: int, seed: int) -> SplitPredictions:
    """Predictions of a middling classifier; about four images of each patient."""
    generator = np.random.default_rng(seed)
    patients = images // IMAGES_PER_PATIENT
    groups = np.r_[np.arange(patients), generator.integers(0, patients, images - patients)]
    truth = generator.integers(0, classes, images)
    logits = generator.normal(size=(images, classes)) + generator.normal(size=(patients, 1))[groups]
    logits[np.arange(images), truth] += 1.5
    powers = np.exp(logits)
    probabilities = powers / powers.sum(1, keepdims=True)
    return SplitPredictions(truth, probabilities.argmax(1), probabilities, groups)


def areas_by_medlens(split: SplitPredictions, seed: int, draws: int) -> Drawn:
    """The ROC AUC of the second of two classes, or of each of several against the rest."""
    numbers = [1] if split.class_count == 2 else range(split.class_count)
    rankings = [
        rank_images(
            split.truth == number, split.probabilities[:, number], split.groups, split.group_count
        )
        for number in numbers
    ]
    pieces = [
        np.stack([roc_auc(weigh(ranking, weights)) for ranking in rankings], axis=1)
        for weights in draw_group_weights(np.random.default_rng(seed), split.group_count, draws)
    ]
    return {"roc_auc": np.concatenate(pieces)}


def metrics_by_medlens(split: SplitPredictions, seed: int, draws: int) -> Drawn:
    """What the bootstrap of a report holds, and the balanced accuracy."""
    drawn = bootstrap_metrics(split, np.random.default_rng(seed), draws)
    return {**drawn, "balanced_accuracy": drawn["recall"].mean(1)}


def in_a_loop(
    of_draw: Callable[[SplitPredictions], dict[str, Any]],
) -> Callable[[SplitPredictions, int, int], Drawn]:
    """The images of each draw, one draw after the other."""

    def loop(split: SplitPredictions, seed: int, draws: int) -> Drawn:
        rows: list[dict[str, Any]] = []
        generator = np.random.default_rng(seed)
        for weights in draw_group_weights(generator, split.group_count, draws):
            for counts in weights.astype(np.int64).T:
                images = np.repeat(np.arange(len(split.truth)), counts[split.groups])
                rows.append(
                    of_draw(
                        SplitPredictions(
                            split.truth[images],
                            split.predicted[images],
                            split.probabilities[images],
                            split.groups[images],
                        )
                    )
                )
        return {name: np.stack([row[name] for row in rows]) for name in rows[0]}

    return loop


def areas_by_scikit_learn(drawn: SplitPredictions) -> dict[str, Any]:
    """The same areas."""
    if drawn.class_count == 2:
        areas = [reference.roc_auc_score(drawn.truth, drawn.probabilities[:, 1])]
    else:
        areas = reference.roc_auc_score(
            drawn.truth, drawn.probabilities, multi_class="ovr", average=None
        )
    return {"roc_auc": np.asarray(areas)}


def metrics_by_scikit_learn(drawn: SplitPredictions) -> dict[str, Any]:
    """The other metrics; recall, precision and F1 in one call, which is the quickest way."""
    truth, predicted = drawn.truth, drawn.predicted
    precision, recall, f1, _ = reference.precision_recall_fscore_support(truth, predicted)
    return {
        "recall": recall,
        "precision": precision,
        "f1": f1,
        "balanced_accuracy": reference.balanced_accuracy_score(truth, predicted),
        "mcc": reference.matthews_corrcoef(truth, predicted),
        "log_loss": reference.log_loss(truth, drawn.probabilities),
        "average_precision": np.array(
            [
                reference.average_precision_score(truth == number, drawn.probabilities[:, number])
                for number in range(drawn.class_count)
            ]
        ),
    }


def compare(
    what: str,
    split: SplitPredictions,
    sides: tuple[Callable[..., Drawn], Callable[..., Drawn]],
    draws: int,
) -> dict[str, Any]:
    """Run both sides in turn; medlens three times, for it is soon over."""
    ours, theirs = sides
    own_seconds = []
    for _ in range(3):
        found, seconds = timed(ours, split, draws)
        own_seconds.append(seconds)
    expected, their_seconds = timed(theirs, split, draws)
    if found.keys() != expected.keys():
        raise SystemExit(f"not the same metrics: {sorted(found)} and {sorted(expected)}")
    difference = max(float(np.abs(found[name] - expected[name]).max()) for name in found)
    if not difference <= LARGEST_DIFFERENCE:
        raise SystemExit(f"{what}: the two sides differ by {difference:.1e}")
    own = statistics.median(own_seconds)
    return {
        "what": what,
        "images": len(split.truth),
        "classes": split.class_count,
        "draws": draws,
        "metrics": sorted(found),
        "medlens_seconds": own,
        "scikit_learn_seconds": their_seconds,
        "times_faster": their_seconds / own,
        "largest_difference": difference,
    }


def timed(side: Callable[..., Drawn], split: SplitPredictions, draws: int) -> tuple[Drawn, float]:
    """The numbers of one side and the seconds it took."""
    started = time.perf_counter()
    found = side(split, 1, draws)
    return found, time.perf_counter() - started


def main() -> None:
    """Measure each setting, print the ratios, write them."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, help="where to write the results as JSON")
    parser.add_argument("--images", type=int, nargs="+", default=[600, 5000])
    parser.add_argument("--classes", type=int, nargs="+", default=[2, 4])
    parser.add_argument("--draws", type=int, default=1000)
    options = parser.parse_args()
    kinds = {
        "ROC AUC": (areas_by_medlens, in_a_loop(areas_by_scikit_learn)),
        "other metrics": (metrics_by_medlens, in_a_loop(metrics_by_scikit_learn)),
    }
    print(
        f"{'':14} {'images':>7} {'classes':>7} {'medlens':>9} {'sklearn':>9} {'faster':>9}  differ"
    )
    results = []
    for images in options.images:
        for classes in options.classes:
            split = draw_predictions(images, classes, seed=0)
            for what, sides in kinds.items():
                one = compare(what, split, sides, options.draws)
                results.append(one)
                print(
                    f"{what:14} {images:7,} {classes:7} {one['medlens_seconds']:7.3f} s "
                    f"{one['scikit_learn_seconds']:7.2f} s {one['times_faster']:7.1f} x  "
                    f"{one['largest_difference']:.0e}",
                    flush=True,
                )
    print(f"least: {min(one['times_faster'] for one in results):.1f} times")
    if options.out:
        machine = {
            "cores": os.cpu_count(),
            "python": platform.python_version(),
            "numpy": np.__version__,
            "scikit-learn": sklearn.__version__,
        }
        text = json.dumps({"machine": machine, "results": results}, indent=2) + "\n"
        options.out.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
