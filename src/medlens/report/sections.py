"""The evidence of evaluation.json as sections of the report: words, tables, pictures."""

from __future__ import annotations

import base64
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class Section:
    """A section of the report.

    Args:
        id: Its anchor.
        title: Its heading.
        text: Paragraphs.
        head: Names of the table's columns; the first is that of the row names.
        rows: The table's cells, as text.
        pictures: Each as a data: URI, with its caption.
    """

    id: str
    title: str
    text: tuple[str, ...]
    head: tuple[str, ...] = ()
    rows: tuple[tuple[str, ...], ...] = ()
    pictures: tuple[tuple[str, str], ...] = ()


def list_sections(evaluation: Mapping[str, Any], heat_maps: Path) -> list[Section]:
    """One section for each block that is there.

    Args:
        evaluation: The content of evaluation.json.
        heat_maps: The run's folder of heat maps.
    """
    makers: dict[str, Callable[[Any], Section]] = {
        "calibration": _calibration,
        "operating_point": _operating_point,
        "prediction_sets": _prediction_sets,
        "unfamiliar": _unfamiliar,
        "subgroups": _subgroups,
        "baselines": _probes,
        "label_suspects": _label_suspects,
        "robustness": _robustness,
    }
    found = [make(evaluation[name]) for name, make in makers.items() if evaluation.get(name)]
    if evaluation.get("saliency"):
        found.append(_failures(evaluation["saliency"], heat_maps))
    return [section for section in found if section.rows or section.text]


def number(measure: Mapping[str, Any]) -> str:
    """A measure as the report shows it, or why there is none."""
    if measure["value"] is None:
        return f"not available: {measure['reason']}"
    low, high = measure["ci95"]
    return f"{measure['value']:.3f} ({low:.3f} to {high:.3f})"


def _calibration(block: Mapping[str, Any]) -> Section:
    names = {
        "brier": "Brier score",
        "ece": "Expected calibration error",
        "log_loss": "Log loss",
        "slope": "Calibration slope (1 is best)",
        "intercept": "Calibration in the large (0 is best)",
    }
    rows = [
        (label, number(block["before"][name]), number(block["after"][name]))
        for name, label in names.items()
    ]
    said = f"Logits are divided by a temperature of {block['temperature']:.3f}. {block['text']}"
    bins = [
        (
            f"{one['low']:.2f} to {one['high']:.2f}",
            f"{one['mean_probability']:.3f}",
            number(one["share"]),
        )
        for one in block["reliability"]["after"]
    ]
    head = ("Test set", "Before", "After")
    if bins:
        rows += [("Reliability: probability from", "mean probability", "share observed"), *bins]
    return Section("calibration", "Calibration", (said,), head, tuple(rows))


def _operating_point(block: Mapping[str, Any]) -> Section:
    title = "Operating point"
    if block["threshold"] is None:
        return Section("operating-point", title, (f"There is none: {block['reason']}.",))
    test, chosen = block["test"], block["development"]
    said = (
        f"An image is called {block['class']} from a probability of {block['threshold']:.3f} on "
        f"(rule: {block['rule']}). {block['text']} There the sensitivity was "
        f"{chosen['recall']:.3f} and the specificity {chosen['specificity']:.3f}."
    )
    names = {
        "recall": "Sensitivity",
        "specificity": "Specificity",
        "precision": "Positive predictive value",
        "npv": "Negative predictive value",
        "accuracy": "Accuracy",
    }
    rows = [(label, number(test[name])) for name, label in names.items()]
    (right, alarms), (missed, found) = test["confusion_matrix"]
    counts = f"{found:,}, {missed:,}, {alarms:,}, {right:,}"
    rows.append(("Found, missed, false alarms, rightly negative", counts))
    if block["at_prevalence"]:
        share = block["at_prevalence"]["prevalence"]
        for name in ("precision", "npv"):
            label = f"{names[name]} where {share:.1%} are positive"
            rows.append((label, number(block["at_prevalence"][name])))
    return Section("operating-point", title, (said,), ("Test set", "Value"), tuple(rows))


def _prediction_sets(block: Mapping[str, Any]) -> Section:
    rows = [
        (
            f"{float(level):.0%}",
            number(one["coverage"]),
            f"{one['mean_size']:.2f}",
            ", ".join(f"{count:,} of {size}" for size, count in one["sizes"].items() if count),
        )
        for level, one in block["levels"].items()
    ]
    said = (block["class_balance_shift"]["text"], f"{block['method']} {block['text']}")
    head = ("Promised", "Coverage on the test set", "Mean size", "Sets by number of classes")
    return Section("prediction-sets", "Prediction sets", said, head, tuple(rows))


def _unfamiliar(block: Mapping[str, Any]) -> Section:
    rows = (("Test images flagged, all of them false alarms", number(block["test_false_alarms"])),)
    said = (f"{block['method']} {block['text']}",)
    return Section("unfamiliar", "Unfamiliar images", said, ("Test set", "Share"), rows)


def _subgroups(blocks: Sequence[Mapping[str, Any]]) -> Section:
    rows = []
    for block in blocks:
        p = block["heterogeneity"]["p"]
        said = "not tested" if p is None else f"p = {p:.3f}"
        metric = "ROC AUC" if block["metric"] == "roc_auc_macro" else "accuracy"
        for level in block["levels"]:
            name = f"{block['column']}: {level['level']}"
            rows.append((name, f"{level['n']:,}", metric, number(level["value"]), said))
    head = ("Subgroup", "Images", "Metric", "Value", "Do the levels differ?")
    return Section("subgroups", "Subgroups", (), head, tuple(rows))


def _probes(block: Mapping[str, Any]) -> Section:
    rows = [
        (
            probe["name"],
            number(probe["roc_auc_macro"]),
            number(probe["difference"]),
        )
        for probe in block["probes"]
    ]
    said = tuple(f"{probe['name'].capitalize()}: {probe['text']}" for probe in block["probes"])
    head = ("Small tree that sees only", "Its ROC AUC", "Classifier minus tree")
    return Section("probes", "Shortcut probes", said, head, tuple(rows))


def _label_suspects(block: Mapping[str, Any]) -> Section:
    said = block["text"] if block["n"] is not None else f"Not looked for: {block['reason']}."
    more = " They are listed in label_suspects.csv." if block["n"] else ""
    return Section("label-suspects", "Labels to look at again", (said + more,))


def _robustness(block: Sequence[Mapping[str, Any]]) -> Section:
    rows = [
        (
            one["change"],
            number(one["accuracy"]),
            number(one["accuracy_difference"]) if one["change"] != "unchanged" else "",
            number(one["roc_auc_macro"]),
        )
        for one in block
    ]
    said = tuple(f"{one['change'].capitalize()}: {one['text']}." for one in block)
    head = ("Change", "Accuracy", "Difference", "ROC AUC")
    return Section("robustness", "Robustness", said, head, tuple(rows))


def _failures(block: Mapping[str, Any], folder: Path) -> Section:
    pictures = []
    for one in block["images"]:
        file = folder / one["file"]
        if file.is_file():
            uri = "data:image/png;base64," + base64.b64encode(file.read_bytes()).decode("ascii")
            caption = (
                f"{one['why'].capitalize()}: labelled {one['label']}, predicted {one['predicted']} "
                f"with {one['probability']:.3f}."
            )
            pictures.append((uri, caption))
    said = (f"{block['method']} {block['text']}",)
    return Section("failures", "Failures and heat maps", said, pictures=tuple(pictures))
