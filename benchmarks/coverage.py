"""How often the 95 % intervals hold the truth, in simulations in which the truth is known.

Test sets are drawn of 50 to 500 images, one image or four of a patient. A score is a patient's part
plus an image's part, both normal, shifted for positives, so that accuracy, recall and ROC AUC have
a true value. Beside medlens stands what one gets by counting images instead of patients: Wilson's
interval and DeLong's (without t, on the logit scale).

    python benchmarks/coverage.py --out coverage.json
"""

from __future__ import annotations

import argparse
import json
import os
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from scipy.special import expit
from scipy.stats import norm

from medlens.report.bootstrap import bootstrap_limits, bootstrap_metrics
from medlens.report.intervals import (
    NORMAL_QUANTILE,
    auc_interval,
    auc_parts,
    logit_limits,
    wilson_limits,
)
from medlens.report.measures import share_measure
from medlens.report.metrics import (
    SplitPredictions,
    confusion_scores,
    count_confusion,
    placements,
)

WITHIN_PATIENT_CORRELATION = 0.5
IMAGES_PER_PATIENT = 4


@dataclass(frozen=True)
class Setting:
    """A population of test sets.

    Args:
        images: Images in a test set.
        kind: "independent" (a patient for each image), "patients" (four images each on average,
            of one label) or "mixed" (likewise, but each image has its own label).
        auc: True ROC AUC.
        prevalence: Share of positives in the population.
    """

    images: int
    kind: str
    auc: float
    prevalence: float

    @property
    def patients(self) -> int:
        return self.images if self.kind == "independent" else self.images // IMAGES_PER_PATIENT

    @property
    def shift(self) -> float:
        """Distance of the two classes in standard deviations of the score."""
        return float(np.sqrt(2) * norm.ppf(self.auc))

    @property
    def truths(self) -> dict[str, float]:
        correct = float(norm.cdf(self.shift / 2))
        return {"accuracy": correct, "recall": correct, "roc_auc": self.auc, "f1": self.true_f1}

    @property
    def true_f1(self) -> float:
        correct = float(norm.cdf(self.shift / 2))
        hits, false_alarms = self.prevalence * correct, (1 - self.prevalence) * (1 - correct)
        return 2 * hits / (hits + self.prevalence + false_alarms)


def draw_test_set(setting: Setting, generator: np.random.Generator) -> SplitPredictions:
    """Draw one test set; class 1 is the positive class and the threshold is the right one."""
    patients, images = setting.patients, setting.images
    further = generator.multinomial(images - patients, np.full(patients, 1 / patients))
    groups = np.repeat(np.arange(patients), 1 + further)
    own_label = setting.kind != "patients"
    labels = generator.random(images if own_label else patients) < setting.prevalence
    truth = (labels if own_label else labels[groups]).astype(np.int64)
    shared = generator.standard_normal(patients)[groups] * np.sqrt(WITHIN_PATIENT_CORRELATION)
    own = generator.standard_normal(images) * np.sqrt(1 - WITHIN_PATIENT_CORRELATION)
    scores = setting.shift * (truth - 0.5) + shared + own
    positive = expit(scores)
    probabilities = np.stack([1 - positive, positive], axis=1)
    return SplitPredictions(truth, (scores > 0).astype(np.int64), probabilities, groups)


def intervals_by_patient(split: SplitPredictions) -> dict[str, tuple[float, float]]:
    """The intervals of medlens."""
    everything = np.ones(len(split.truth), dtype=bool)
    found = {"accuracy": share_measure(split, split.truth == split.predicted, everything)["ci95"]}
    positive, scores = split.truth == 1, split.probabilities[:, 1]
    if positive.any():
        found["recall"] = share_measure(split, split.predicted == 1, positive)["ci95"]
    if positive.any() and not positive.all():
        value = float(placements(positive, scores)[positive].mean())
        parts = auc_parts(positive, scores, split.groups, split.group_count)
        interval = auc_interval(value, parts)
        found["roc_auc"] = (interval.low, interval.high)
    return found


def intervals_by_image(split: SplitPredictions) -> dict[str, tuple[float, float]]:
    """What one gets by taking every image for a patient of its own."""
    right, positive = split.truth == split.predicted, split.truth == 1
    found = {"accuracy": wilson_limits(float(right.mean()), len(right), NORMAL_QUANTILE)}
    if positive.any():
        share = float(right[positive].mean())
        found["recall"] = wilson_limits(share, int(positive.sum()), NORMAL_QUANTILE)
    if min(positive.sum(), (~positive).sum()) > 1:
        shares = placements(positive, split.probabilities[:, 1])
        value = float(shares[positive].mean())
        sides = [shares[side] for side in (positive, ~positive)]
        error = float(np.sqrt(sum(side.var(ddof=1) / len(side) for side in sides)))
        inside = 0 < value < 1
        found["roc_auc"] = logit_limits(value, error, 10**6) if inside else (value, value)
    return found


def f1_interval(split: SplitPredictions, draws: int) -> dict[str, tuple[float, float]]:
    """The bootstrap interval of F1, where the bootstrap gives one."""
    drawn = bootstrap_metrics(split, np.random.default_rng(0), draws)["f1"][:, 1]
    value = float(confusion_scores(count_confusion(split.truth, split.predicted, 2))["f1"][1])
    parts = auc_parts(split.truth == 1, split.probabilities[:, 1], split.groups, split.group_count)
    limits = bootstrap_limits(value, drawn, parts.groups)
    return {} if limits is None else {"f1": limits}


def coverage(setting: Setting, repeats: int, seed: int, draws: int = 0) -> dict[str, object]:
    """Simulate one setting.

    Args:
        setting: The population.
        repeats: How many test sets to draw.
        seed: Of the simulation.
        draws: Bootstrap draws for F1; 0 leaves it out.

    Returns:
        The setting and, for each metric, the share of intervals that hold the truth, by patient
        and by image, the mean width by patient, and how many intervals there were.
    """
    generator = np.random.default_rng([seed, setting.images, round(1000 * setting.auc)])
    held: dict[str, list[bool]] = {}
    widths: dict[str, list[float]] = {}
    for _ in range(repeats):
        split = draw_test_set(setting, generator)
        by_patient = intervals_by_patient(split)
        if draws and "roc_auc" in by_patient:
            by_patient |= f1_interval(split, draws)
        for kind, found in (("patient", by_patient), ("image", intervals_by_image(split))):
            for name, (low, high) in found.items():
                held.setdefault(f"{name} by {kind}", []).append(low <= setting.truths[name] <= high)
                widths.setdefault(f"{name} by {kind}", []).append(high - low)
    return {
        **asdict(setting),
        "patients": setting.patients,
        "repeats": repeats,
        "coverage": {name: float(np.mean(values)) for name, values in held.items()},
        "width": {name: float(np.mean(values)) for name, values in widths.items()},
        "computed": {name: len(values) for name, values in held.items()},
    }


COLUMNS = (
    "accuracy by patient",
    "recall by patient",
    "roc_auc by patient",
    "f1 by patient",
    "accuracy by image",
    "recall by image",
    "roc_auc by image",
)


def table(results: list[dict[str, Any]]) -> str:
    """The coverages in per cent, as a Markdown table."""
    columns = [name for name in COLUMNS if any(name in result["coverage"] for result in results)]
    head = ["images", "patients", "kind", "AUC", "prevalence", *columns]
    lines = ["| " + " | ".join(head) + " |", "|" + " --- |" * len(head)]
    for result in results:
        cells = [result[name] for name in ("images", "patients", "kind", "auc", "prevalence")]
        shares = [f"{100 * result['coverage'].get(name, np.nan):.1f}" for name in columns]
        lines.append("| " + " | ".join([*map(str, cells), *shares]) + " |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, help="where to write the results as JSON")
    parser.add_argument("--repeats", type=int, default=1000, help="test sets in each setting")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--draws", type=int, default=0, help="bootstrap draws for F1, 0: no F1")
    options = parser.parse_args()
    started = time.perf_counter()
    results = [
        coverage(
            Setting(images, kind, auc, prevalence), options.repeats, options.seed, options.draws
        )
        for kind in ("independent", "patients", "mixed")
        for images in (50, 100, 200, 500)
        for auc, prevalence in ((0.8, 0.5), (0.95, 0.3))
    ]
    print(table(results))
    seconds = time.perf_counter() - started
    print(f"\n{options.repeats} test sets in each row, {seconds:.0f} s")
    if options.out:
        machine = {"seconds": seconds, "cores": os.cpu_count(), "numpy": np.__version__}
        content = {"machine": machine, "results": results}
        options.out.write_text(json.dumps(content, indent=2) + "\n")


if __name__ == "__main__":
    main()
