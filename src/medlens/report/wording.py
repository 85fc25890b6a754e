"""evaluation.json -> numbers as a reader sees them, and the summary and its limits in sentences."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd

from medlens.report.evaluation import headline

# Shown in this order; other numbers of evaluation.json follow under their own names.
METRICS: Mapping[str, str] = {
    "accuracy": "Accuracy",
    "majority_class_accuracy": "Baseline: always the same answer",
    "balanced_accuracy": "Balanced accuracy (macro recall)",
    "recall": "Sensitivity (recall)",
    "specificity": "Specificity",
    "precision": "Precision (positive predictive value)",
    "f1": "F1 score",
    "roc_auc": "ROC AUC",
    "average_precision": "Average precision",
    "mcc": "Matthews correlation",
    "precision_macro": "Macro precision",
    "f1_macro": "Macro F1 score",
    "roc_auc_macro": "Macro ROC AUC",
    "average_precision_macro": "Macro average precision",
    "log_loss": "Log loss",
}
SHARES = frozenset(
    {
        "accuracy",
        "majority_class_accuracy",
        "balanced_accuracy",
        "recall",
        "recall_macro",
        "specificity",
        "precision",
        "precision_macro",
        "npv",
        "share",
    }
)
# Their scale is not 0 to 1, so no bar is drawn for them.
OTHER_SCALES = frozenset({"mcc", "log_loss", "brier", "ece", "slope", "intercept"})

# Half an interval of accuracy from which a test set is called small.
WIDE_INTERVAL = 0.05
# Test images of a class below which its recall is hardly known.
FEW_IMAGES = 20


@dataclass(frozen=True)
class Number:
    """One number as the page shows it; texts are "" where there is nothing to show.

    Args:
        label: Its name in words.
        value: The value.
        interval: The 95 % interval.
        reason: Why there is no value.
        images: How many images it rests on.
        groups: How many groups it rests on.
        method: How the interval was computed.
        bar: Low end, value and high end, in per cent of the scale from 0 to 1; or None.
    """

    label: str
    value: str = ""
    interval: str = ""
    reason: str = ""
    images: str = ""
    groups: str = ""
    method: str = ""
    bar: tuple[str, str, str] | None = None


@dataclass(frozen=True)
class Limit:
    """One limit of the results.

    Args:
        lead: What it is, in a few words.
        text: What follows from it.
    """

    lead: str
    text: str


def show_number(name: str, measure: Mapping[str, Any]) -> Number:
    """A number of evaluation.json as the page shows it.

    Args:
        name: Its key, which says whether it is shown in per cent.
        measure: value, ci95, n, groups and method; or value None and the reason.
    """
    label = METRICS.get(name, name.replace("_", " ").capitalize())
    value, interval = measure["value"], measure.get("ci95")
    if value is None:
        return Number(label, reason=measure["reason"])
    bar = None
    if interval and name not in OTHER_SCALES:
        low, at, high = (f"{100 * end:.1f}%" for end in (interval[0], value, interval[1]))
        bar = (low, at, high)
    return Number(
        label=label,
        value=per_cent(value) if name in SHARES else _decimal(value),
        interval=_limits_text(interval, name in SHARES) if interval else "",
        images=f"{measure['n']:,}" if "n" in measure else "",
        groups=f"{measure['groups']:,}" if "groups" in measure else "",
        method=measure.get("method", ""),
        bar=bar,
    )


def show_numbers(block: Mapping[str, Any]) -> list[Number]:
    """All single numbers of a split: the known ones in their order, then any others."""
    measured = [name for name, value in block.items() if _is_measure(value)]
    # What is the same number under two names is shown once.
    double = {"recall_macro"} | ({"roc_auc_macro"} if "roc_auc" in measured else set())
    known = [name for name in METRICS if name in measured]
    others = [name for name in measured if name not in METRICS]
    return [show_number(name, block[name]) for name in (*known, *others) if name not in double]


def first_numbers(evaluation: Mapping[str, Any]) -> list[Number]:
    """The four numbers that a reader looks for first."""
    test = evaluation[headline(evaluation)]
    names = ("accuracy", "balanced_accuracy", "roc_auc_macro", "mcc")
    if "recall" in test:
        names = ("accuracy", "recall", "specificity", "roc_auc")
    return [show_number(name, test[name]) for name in names]


def per_cent(share: float) -> str:
    """A share in per cent; never 0 or 100 by rounding alone."""
    digits = 1
    while 0 < share < 1 and round(100 * share, digits) in (0, 100) and digits < 4:
        digits += 1
    return f"{100 * share:.{digits}f}\N{NO-BREAK SPACE}%"


def summarise(evaluation: Mapping[str, Any], used: pd.DataFrame) -> list[str]:
    """The test result in a few plain sentences.

    Args:
        evaluation: The content of evaluation.json.
        used: The images of the splits, with `patient` ("" where not known).
    """
    test = evaluation[headline(evaluation)]
    group = "all images of a patient, and all copies of an image, are one group"
    if (used["patient"] == "").all():
        group = "copies of an image are one group; no patient is known"
    who = f"On {test['n']:,} test images of {test['groups']:,} groups ({group}) the classifier was"
    if headline(evaluation) == "out_of_fold":
        who = (
            f"In cross-validation on {test['n']:,} images of {test['groups']:,} groups ({group}) "
            "classifiers that had not seen the group were"
        )
    sentences = [
        f"{who} right in {_with_interval(test['accuracy'])}. "
        f"{_compare_with_baseline(test)}".rstrip(),
    ]
    positive = str(evaluation["positive_class"])
    sentences.append(_say_binary(test, positive) if "recall" in test else _say_classes(test))
    point = evaluation.get("operating_point")
    if "recall" in test and point:
        sentences.append(_say_operating_point(point))
    return [*sentences, _say_ranking(test, positive)]


def _say_operating_point(point: Mapping[str, Any]) -> str:
    """What the threshold achieves, beside the more probable class that the numbers above are of."""
    found = point["test"]
    return (
        "These are of the more probable class. At the operating point, a probability of "
        f"{point['threshold']:.3f} or more, sensitivity is {_with_interval(found['recall'])} and "
        f"specificity {_with_interval(found['specificity'])}."
    )


def list_limits(
    evaluation: Mapping[str, Any], used: pd.DataFrame, findings: Sequence[Mapping[str, Any]]
) -> list[Limit]:
    """What the results do not show, the gravest first.

    Args:
        evaluation: The content of evaluation.json.
        used: The images of the splits, with `patient` ("" where not known).
        findings: Those of audit.json.
    """
    test = evaluation[headline(evaluation)]
    limits = []
    unknown = int((used["patient"] == "").sum())
    if unknown == len(used):
        limits.append(
            Limit(
                "Image-level split only.",
                "No patient is known, so images of one patient may lie in training and in test. "
                "If they do, the results are too good.",
            )
        )
    elif unknown:
        limits.append(
            Limit(
                f"The patient is unknown for {unknown:,} of {len(used):,} images.",
                "These are kept apart by image and its copies only.",
            )
        )
    (low, high), value = test["accuracy"]["ci95"], test["accuracy"]["value"]
    known = (
        f"With {test['n']:,} images of {test['groups']:,} groups the accuracy is known to within "
        f"about {100 * max(high - value, value - low):.0f} percentage points."
        if high - low >= 0.02
        else "The accuracy is known to within a percentage point."
    )
    small = high - low > 2 * WIDE_INTERVAL
    limits.append(Limit("A small test set." if small else "Size of the test set.", known))
    if headline(evaluation) == "out_of_fold":
        limits.append(
            Limit(
                "Cross-validation.",
                "The classifiers of the folds share training images, which the intervals do not "
                "count: they are somewhat too narrow (Bengio and Grandvalet 2004), and none of the "
                "numbers is of the classifier that is saved.",
            )
        )
    limits += _limits_of_classes(test)
    limits += [
        Limit(
            "One source.",
            "The test images come from the same data set as the training images. How the "
            "classifier does with other patients, scanners or hospitals is not known from them.",
        ),
        Limit(
            "Labels as given.",
            "The reference standard is the label that the data set brings; nobody checked it here.",
        ),
        *_limits_of_choices(evaluation),
    ]
    grave = sum(finding["severity"] in ("error", "warning") for finding in findings)
    if grave:
        things = "one thing" if grave == 1 else f"{grave} things"
        limits.append(
            Limit("The data.", f"The audit found {things} to look at; see the findings below.")
        )
    return limits


def _limits_of_choices(evaluation: Mapping[str, Any]) -> list[Limit]:
    """What limits probabilities and threshold."""
    calibration = evaluation.get("calibration")
    if not calibration:
        return [
            Limit(
                "No calibration, no threshold.",
                "The answer is the class with the highest probability. The probabilities are not "
                "calibrated: 0.9 need not mean nine in ten.",
            )
        ]
    limits = []
    if calibration["approximate"]:
        limits.append(
            Limit(
                "Calibration, threshold and prediction sets are approximate.",
                f"There were too few images to keep some for this alone. {calibration['text']}",
            )
        )
    if evaluation["operating_point"]["threshold"] is None:
        limits.append(
            Limit(
                "No threshold.",
                "The answer is the class with the highest probability: "
                f"{evaluation['operating_point']['reason']}.",
            )
        )
    return limits


def _limits_of_classes(test: Mapping[str, Any]) -> list[Limit]:
    counts = test["class_counts"]
    absent = [name for name, count in counts.items() if count == 0]
    few = [f"{name} ({count})" for name, count in counts.items() if 0 < count < FEW_IMAGES]
    limits = []
    if absent:
        limits.append(
            Limit(
                f"No test image of {', '.join(absent)}.",
                "Nothing is known about how this is recognised, and means over all classes are "
                "not available.",
            )
        )
    if few:
        limits.append(
            Limit(
                f"Few test images of {', '.join(few)}.",
                "How often these are recognised is hardly known: read the intervals.",
            )
        )
    return limits


def _compare_with_baseline(test: Mapping[str, Any]) -> str:
    """What always giving the commonest answer would reach, and whether that is surely beaten."""
    baseline, name = test["majority_class_accuracy"]["value"], test["majority_class"]
    if baseline is None:
        return ""
    said = (
        f"Always answering {_quote(name)}, "
        f"the commonest class in training, would be right in {per_cent(baseline)}."
    )
    if test["accuracy"]["value"] <= baseline:
        return f"{said} The classifier did no better than that."
    if test["accuracy"]["ci95"][0] <= baseline:
        return (
            f"{said} The interval reaches down to that: this test does not show that it is beaten."
        )
    return said


def _say_binary(test: Mapping[str, Any], positive: str) -> str:
    """Sensitivity and specificity, and what they are shares of."""
    said = []
    for name, measure, meaning in (
        ("Sensitivity", test["recall"], f"share of the images of {_quote(positive)} that it found"),
        ("Specificity", test["specificity"], "share of the others that it did not take for that"),
    ):
        if measure["value"] is None:
            said.append(f"{name} is not available: {measure['reason']}.")
        else:
            said.append(f"{name}, the {meaning}: {_with_interval(measure)}.")
    return " ".join(said)


def _say_classes(test: Mapping[str, Any]) -> str:
    """The mean over the classes, and the class that is recognised worst."""
    mean = test["balanced_accuracy"]
    said = (
        f"Each class counting the same, it was right in {_with_interval(mean)} (balanced accuracy)."
        if mean["value"] is not None
        else f"Balanced accuracy is not available: {mean['reason']}."
    )
    recalls = {
        name: block["recall"]
        for name, block in test["per_class"].items()
        if block["recall"]["value"] is not None
    }
    worst = min(recalls, key=lambda name: recalls[name]["value"])
    return (
        f"{said} It was weakest on {_quote(worst)}: of its {recalls[worst]['n']:,} images it "
        f"recognised {_with_interval(recalls[worst])}."
    )


def _say_ranking(test: Mapping[str, Any], positive: str) -> str:
    area = test["roc_auc_macro"]
    if area["value"] is None:
        return f"ROC AUC is not available: {area['reason']}."
    over, image = ", mean over the classes, each against the rest", "an image of a class"
    if "roc_auc" in test:
        over, image = "", f"an image of {_quote(positive)}"
    return (
        f"ROC AUC{over}: {_decimal(area['value'])} (95 % interval "
        f"{_limits_text(area['ci95'], False)}). That is the chance that {image} gets a higher "
        "probability of it than another image does; 0.5 is guessing."
    )


def _quote(name: str) -> str:
    return f"\N{LEFT DOUBLE QUOTATION MARK}{name}\N{RIGHT DOUBLE QUOTATION MARK}"


def _with_interval(measure: Mapping[str, Any]) -> str:
    return f"{per_cent(measure['value'])} (95 % interval {_limits_text(measure['ci95'], True)})"


def _limits_text(interval: Sequence[float], is_share: bool) -> str:
    low, high = interval
    if is_share:
        return f"{100 * low:.1f} to {100 * high:.1f}\N{NO-BREAK SPACE}%"
    return f"{_decimal(low)} to {_decimal(high)}"


def _decimal(value: float) -> str:
    return f"{value:.3f}".replace("-", "\N{MINUS SIGN}")


def _is_measure(value: Any) -> bool:
    return isinstance(value, dict) and "value" in value
