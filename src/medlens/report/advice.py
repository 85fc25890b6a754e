"""What a user should look at next, in words: from the numbers of a finished run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from medlens.report.evaluation import headline

# From this share of the answers on, a classifier says nearly always the same.
CONSTANT_SHARE = 0.98
# So much better on train than on the images tested, beyond both intervals, is overfitting.
OVERFITTING = 0.1
MANY_SUSPECTS = 0.02
EARLY_EPOCHS = 2


def advise(evaluation: Mapping[str, Any], training: Mapping[str, Any]) -> list[str]:
    """Say what stands out, and what to try: a few sentences, often none.

    Args:
        evaluation: The content of evaluation.json.
        training: The content of training.json.
    """
    result = evaluation[headline(evaluation)]
    said = [
        *_answers(result, evaluation["classes"]),
        *_overfitting(evaluation, result),
        *_stopping(training),
        *_labels(evaluation.get("label_suspects") or {}),
    ]
    return [one for one in said if one]


def _answers(result: Mapping[str, Any], classes: Sequence[str]) -> list[str]:
    """Whether it answers nearly always the same, or one class never."""
    matrix = result["confusion_matrix"]
    answers = [sum(row[number] for row in matrix) for number in range(len(classes))]
    most = max(range(len(classes)), key=lambda number: answers[number])
    if answers[most] >= CONSTANT_SHARE * sum(answers):
        return [
            f"It answers {classes[most]} nearly always ({answers[most]:,} of {sum(answers):,} "
            "images): it has learned hardly more than which class is the largest. Look at the "
            "contact sheet, and try --class-weight balanced."
        ]
    never = [
        name
        for name, count, row in zip(classes, answers, matrix, strict=True)
        if count == 0 and sum(row) > 0
    ]
    if never:
        return [
            f"It never answers {', '.join(never)}. Try --class-weight balanced, or more images."
        ]
    return []


def _overfitting(evaluation: Mapping[str, Any], result: Mapping[str, Any]) -> list[str]:
    """Whether train is known far better than the images tested."""
    train, tested = evaluation.get("train", {}).get("accuracy"), result["accuracy"]
    if not train or train["value"] is None or tested["value"] is None:
        return []
    gap = train["value"] - tested["value"]
    if gap <= OVERFITTING or train["ci95"][0] <= tested["ci95"][1]:
        return []
    return [
        f"It is right in {100 * train['value']:.1f} % of the training images and in "
        f"{100 * tested['value']:.1f} % of those tested: it knows many by heart, or those tested "
        "are of another kind. More patients help most; a simpler head (--head linear) may."
    ]


def _stopping(training: Mapping[str, Any]) -> list[str]:
    """Whether training ended for a reason that calls for another try."""
    if training["stop_reason"] == "epochs" and training["best_epoch"] == training["epochs_run"]:
        return [
            f"Training ended at the limit of {training['epochs_run']} epochs while it still got "
            "better: try more with --epochs; the frozen network does not run again."
        ]
    if training["stop_reason"] == "patience" and training["best_epoch"] <= EARLY_EPOCHS:
        return [
            f"The best epoch was already number {training['best_epoch']}: a lower --learning-rate "
            "may do better; the frozen network does not run again."
        ]
    return []


def _labels(suspects: Mapping[str, Any]) -> list[str]:
    """Whether many labels are at odds with the features."""
    share = suspects.get("share")
    if not suspects.get("n") or share is None or share < MANY_SUSPECTS:
        return []
    return [
        f"{100 * share:.1f} % of the training labels are at odds with what the network sees: wrong "
        "labels, or classes that it cannot tell apart. label_suspects.csv lists them, the surest "
        "first."
    ]
