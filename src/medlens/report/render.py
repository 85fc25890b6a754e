"""Files of a run -> report.html: one file that asks for nothing outside it and runs no script."""

from __future__ import annotations

import json
import re
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

import pandas as pd
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from medlens.files import write_text
from medlens.report.evaluation import headline
from medlens.report.plots import COLOURS, FAINT, FIGURES, INK, PAPER, curves_left_out
from medlens.report.sections import list_sections
from medlens.report.wording import (
    METRICS,
    first_numbers,
    list_limits,
    show_number,
    show_numbers,
    summarise,
)
from medlens.run_dir import RunDir

SPLITS: Mapping[str, str] = {
    "train": "fitted on",
    "val": "chosen on",
    "test": "looked at once",
}
CLASS_METRICS = ("recall", "precision", "specificity", "f1", "roc_auc", "average_precision")
COMPARED = ("accuracy", "balanced_accuracy", "f1_macro", "roc_auc_macro", "log_loss")

# What a screen reader says of each figure.
FIGURE_LABELS: Mapping[str, str] = {
    "loss": "Loss of train and val in each epoch",
    "accuracy": "Accuracy of train and val in each epoch",
    "confusion_matrix": "Confusion matrix, counts",
    "confusion_matrix_percent": "Confusion matrix, per cent of each row",
    "roc": "ROC curves of the test split",
}

# File names shown of a finding; all of them are in audit.json.
MOST_FILES = 20
# A figure wider than this (in pixels) is not shrunk to a phone's screen but moved about in it.
WIDEST_SHRUNK = 480

FACTS: Mapping[str, str] = {
    "backbone": "Backbone, frozen",
    "weights": "Weights of the backbone",
    "weights_sha256": "SHA-256 of the weights",
    "weights_licence": "Licence of the weights",
    "image_size": "Image size (pixels a side)",
    "fit": "Made square by",
    "engine": "Engine of the frozen network",
    "features": "Features pooled from",
    "columns": "Features per image",
    "columns_kept": "Features that vary, used",
    "head": "Head",
    "optimizer": "Optimiser",
    "class_weight": "Class weights",
    "batch_size": "Images per step",
    "stop_text": "Why training stopped",
    "saved_network_difference": "Saved network: largest difference in probability",
    "backend": "Keras backend",
    "gpus": "GPUs",
    "memory_gib": "Memory (GiB)",
    "data_sha256": "SHA-256 of the list of images and labels",
}
FACT_WORDS: Mapping[tuple[str, str], str] = {
    ("weights", "imagenet"): "pretrained on ImageNet",
    ("weights", "file"): "from a file",
    ("weights", "random"): "random filters, not pretrained",
    ("fit", "pad"): "padding with black",
    ("fit", "crop"): "cropping the centre",
    ("fit", "stretch"): "stretching",
    ("features", "all"): "several depths",
    ("features", "last"): "the last layer alone",
    ("class_weight", "balanced"): "balanced: each class weighs the same",
    ("class_weight", "none"): "none: each image weighs the same",
}
# The page says these in other places.
SAID_ELSEWHERE = frozenset({"split_text", "stop_reason", "versions", "machine"})


@dataclass(frozen=True)
class Drawing:
    """A figure as a part of the page.

    Args:
        svg: The SVG element.
        is_wide: Whether it needs a row of its own.
    """

    svg: Markup
    is_wide: bool


def render_report(run: RunDir) -> Path:
    """Write report.html from the files of a run.

    Args:
        run: A run folder that has everything else, the figures included.

    Returns:
        The path of the report.
    """
    templates = Environment(
        loader=FileSystemLoader(Path(__file__).parent / "templates"),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=StrictUndefined,
    )
    page = templates.get_template("report.html").render(**report_content(run))
    write_text(run.report, page)
    return run.report


def report_content(run: RunDir) -> dict[str, Any]:
    """All that the template shows, by name, read from the files of a run."""
    evaluation, audit, training, environment = (
        json.loads(path.read_text(encoding="utf-8"))
        for path in (run.evaluation, run.audit, run.training, run.environment)
    )
    images = read_images(run)
    used = images[images["split"] != ""]
    test, classes = evaluation[headline(evaluation)], evaluation["classes"]
    return {
        "name": data_set_name(run),
        "evaluation": evaluation,
        "test": test,
        "training": training,
        "first_numbers": first_numbers(evaluation),
        "summary": summarise(evaluation, used),
        "limits": list_limits(evaluation, used, audit["findings"]),
        "flow": data_flow(images, audit.get("passed_over", {})),
        "splits": [describe_split(used, name, classes) for name in (*SPLITS, "all")],
        "overlaps": count_overlaps(used),
        "findings": [describe_finding(finding) for finding in audit["findings"]],
        "training_facts": list_facts(training),
        "environment_facts": list_facts({**environment.get("machine", {}), **environment}),
        "versions": {
            name: version or "not installed"
            for name, version in environment.get("versions", {}).items()
        },
        "numbers": show_numbers(test),
        "class_numbers": {
            name: [show_number(metric, block[metric]) for metric in CLASS_METRICS]
            for name, block in test["per_class"].items()
        },
        "class_metrics": [METRICS[metric] for metric in CLASS_METRICS],
        "compared": {
            METRICS[metric]: [
                show_number(metric, evaluation[split][metric])
                for split in SPLITS
                if split in evaluation
            ]
            for metric in COMPARED
        },
        "evidence": list_sections(evaluation, run.heat_maps),
        "left_out_curves": curves_left_out(evaluation),
        "figures": {
            name: inline_figure((run.figures / f"{name}.svg").read_text(encoding="utf-8"), name)
            for name in FIGURES
        },
    }


def read_images(run: RunDir) -> pd.DataFrame:
    """dataset.csv, all as text, with the column `split`: "" for an image that is in none."""
    images, splits = (
        pd.read_csv(path, dtype=str, keep_default_na=False) for path in (run.dataset, run.splits)
    )
    split = images["path"].map(dict(zip(splits["path"], splits["split"], strict=True)))
    return images.assign(split=split.where(split.isin(list(SPLITS)), ""))


def data_set_name(run: RunDir) -> str:
    """The folder or file that the images came from, without its path; else the run's own name."""
    if not run.config.is_file():
        return run.root.name
    data = str(tomllib.loads(run.config.read_text(encoding="utf-8")).get("data", ""))
    path = PurePosixPath(data.replace("\\", "/"))
    is_list = path.suffix.lower() == ".csv"
    return (path.parent.name if is_list else "") or path.stem or run.root.name


def data_flow(images: pd.DataFrame, passed_over: Mapping[str, int]) -> dict[str, Any]:
    """What became of every file: passed over, left out with the reason, or used.

    Args:
        images: From `read_images`.
        passed_over: Files that were not taken for images, by kind.
    """
    left_out = images[images["split"] == ""]
    reasons = left_out["excluded"].where(left_out["excluded"] != "", "in no split")
    unreadable = left_out.loc[left_out["unreadable"] != "", "unreadable"]
    return {
        "files": len(images) + sum(passed_over.values()),
        "passed_over": dict(passed_over),
        "found": len(images),
        "left_out": _counts(reasons),
        "unreadable": _counts(unreadable),
        "used": len(images) - len(left_out),
    }


def describe_split(used: pd.DataFrame, name: str, classes: Sequence[str]) -> dict[str, Any]:
    """Images, patients, groups and class counts of a split.

    Args:
        used: The images of all splits, from `read_images`.
        name: "train", "val", "test", or "all" for the three together.
        classes: Class names.
    """
    rows = used if name == "all" else used[used["split"] == name]
    patients = rows.loc[rows["patient"] != "", "patient"]
    return {
        "name": name,
        "purpose": SPLITS.get(name, "the three together"),
        "images": len(rows),
        "patients": patients.nunique(),
        "without_patient": len(rows) - len(patients),
        "groups": rows["group"].nunique(),
        "classes": {
            one: (count, f"{100 * count / max(len(rows), 1):.1f}\N{NO-BREAK SPACE}%")
            for one in classes
            for count in [int((rows["label"] == one).sum())]
        },
    }


def count_overlaps(used: pd.DataFrame) -> dict[str, int]:
    """How many patients, identical images and groups lie in more than one split."""
    columns = {"patients": "patient", "identical images": "pixels_sha256", "groups": "group"}
    found = {}
    for what, column in columns.items():
        known = used[used[column] != ""]
        found[what] = int((known.groupby(column)["split"].nunique() > 1).sum())
    return found


def describe_finding(finding: Mapping[str, Any]) -> dict[str, Any]:
    """A finding with the first of its files, in the sets in which they belong together."""
    shown: list[list[str]] = []
    left = MOST_FILES
    for files in finding.get("files", []):
        if left > 0:
            shown.append(list(files[:left]))
            left -= len(shown[-1])
    total = sum(map(len, finding.get("files", [])))
    return {**finding, "shown": shown, "shown_count": MOST_FILES - left, "total": total}


def list_facts(content: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Facts in words, those without words of their own under their plain names."""
    return [
        (FACTS.get(name, name.replace("_", " ").capitalize()), _fact_text(name, value))
        for name, value in content.items()
        if name not in SAID_ELSEWHERE
    ]


def _fact_text(name: str, value: Any) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:.3g}"
    if isinstance(value, Mapping):
        return "; ".join(f"{key}: {_fact_text(name, one)}" for key, one in value.items()) or "none"
    if isinstance(value, list):
        return ", ".join(_fact_text(name, one) for one in value) or "none"
    return FACT_WORDS.get((name, str(value)), "none" if value in (None, "") else str(value))


def inline_figure(svg: str, name: str) -> Drawing:
    """An SVG of Matplotlib as a part of the page, in the page's colours and letters.

    Args:
        svg: The content of the file.
        name: Put before every id, so that the ids of several figures differ.
    """
    colours = {
        INK: "var(--ink)",
        FAINT: "var(--line)",
        PAPER: "var(--card)",
        f"stroke: {COLOURS[0]}": "stroke: var(--first)",  # a line; a cell of this colour stays
    }

    def adapt(tag: re.Match[str]) -> str:
        text = re.sub(r' xmlns(:xlink)?="[^"]*"', "", tag[0]).replace("xlink:href=", "href=")
        text = re.sub(r'( id="| href="#|url\(#)', rf"\g<1>{name}-", text)
        text = re.sub(r"font-family: [^;\"]*", "font-family: inherit", text)
        for colour, variable in colours.items():
            text = text.replace(colour, variable)
        return text

    start = svg.index("<svg")
    drawing = re.sub(r"<style.*?</style>", "", svg[start:], flags=re.DOTALL)
    # In text, < and > are escaped, so this meets tags and nothing else.
    drawing = re.sub(r"<[^>]+>", adapt, drawing)
    size = re.search(r'width="([\d.]+)pt" height="([\d.]+)pt"', drawing)
    if size is None:
        raise ValueError(f"the figure {name} has no width and height in points")
    width = float(size[1]) * 4 / 3
    is_wide = width > WIDEST_SHRUNK
    style = f"max-width: {width if is_wide else 1.15 * width:.0f}px"
    style += f"; min-width: {0.8 * width:.0f}px" if is_wide else ""
    shown = Markup('role="img" aria-label="{}" style="{}"').format(FIGURE_LABELS[name], style)
    return Drawing(
        svg=Markup(drawing.replace(size[0], shown, 1)),  # noqa: S704  # escaped by Matplotlib
        is_wide=is_wide,
    )


def _counts(values: pd.Series[str]) -> dict[str, int]:
    """How often each value occurs, the commonest first."""
    counts = values.value_counts().sort_index().sort_values(ascending=False, kind="stable")
    return {str(name): int(count) for name, count in counts.items()}
