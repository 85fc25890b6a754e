"""Files of a run -> report.html: one file that asks for nothing outside it and runs no script."""

from __future__ import annotations

import base64
import csv
import io
import json
import re
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup, escape
from PIL import Image

from medlens.files import write_text
from medlens.report.advice import advise
from medlens.report.checklists import (
    AUTHOR,
    AUTHORS_ANSWER,
    DONE,
    NOT_APPLICABLE,
    count_answers,
    fill_checklists,
)
from medlens.report.data_facts import (
    SPLITS,
    count_overlaps,
    data_flow,
    describe_finding,
    describe_split,
)
from medlens.report.figure_style import COLOURS, FAINT, INK, PAPER
from medlens.report.figures import FIGURE_LABELS
from medlens.report.methods import methods_paragraphs
from medlens.report.plots import curves_left_out
from medlens.report.run_facts import read_facts
from medlens.report.sections import list_sections, picture_caption
from medlens.report.table_one import table_one
from medlens.report.wording import (
    METRICS,
    first_numbers,
    list_limits,
    show_number,
    show_numbers,
    summarise,
)
from medlens.run_dir import RunDir

CLASS_METRICS = ("recall", "precision", "specificity", "f1", "roc_auc", "average_precision")
COMPARED = ("accuracy", "balanced_accuracy", "f1_macro", "roc_auc_macro", "log_loss")

# Pictures in the page are made no larger than this, in pixels.
WIDEST_PICTURE, HIGHEST_PICTURE = 1200, 4000
# A figure wider than this (in pixels) is not shrunk to a phone's screen but moved about in it.
WIDEST_SHRUNK = 480

FACTS: Mapping[str, str] = {
    "backbone": "Backbone",
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
    "heads": "Heads whose mean answers",
    "candidates": "Candidates compared",
    "optimizer": "Optimiser",
    "class_weight": "Class weights",
    "augmentation": "Augmentation",
    "views_averaged": "Symmetric views averaged over in testing and use",
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
    ("features", "deep"): "the deeper half",
    ("features", "last"): "the last layer alone",
    ("class_weight", "balanced"): "balanced: each class weighs the same",
    ("class_weight", "logit_adjusted"): "logit adjustment: rare classes are favoured afterwards",
    ("class_weight", "none"): "none: each image weighs the same",
}
OPTION = re.compile(r"(?<![\w-])--[a-z][a-z-]*")
ANSWER_WORDS: Mapping[str, str] = {
    DONE: "done by medlens",
    AUTHORS_ANSWER: "answered by the author",
    AUTHOR: "for the author",
    NOT_APPLICABLE: "not applicable",
}
# By whether the classifier is the mean of several heads.
WHOSE_CURVES: Mapping[bool, str] = {
    False: "on train and val",
    True: "on the folds of train that a head was fitted on and on the one held out, mean of all "
    "heads",
}
FLATTERED: Mapping[bool, str] = {
    False: "The head was fitted on train, and training was stopped and chosen on val: both "
    "flatter it.",
    True: "Each head was fitted and stopped on folds of train, and val decided that their mean "
    "answers: both flatter it, val a little.",
}
# The page says these in other places.
SAID_ELSEWHERE = frozenset(
    {
        "choice",
        "ensemble",
        "averaged",
        "fine_tuning",
        "split_text",
        "stop_reason",
        "versions",
        "machine",
        "retried",
    }
)


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
    templates.filters["mark_options"] = mark_options
    page = templates.get_template("report.html").render(**report_content(run))
    write_text(run.report, page)
    return run.report


def mark_options(text: str) -> Markup:
    """A text whose options, such as --folds, are shown as code and not broken at a line's end."""
    return Markup(OPTION.sub(r"<code>\g<0></code>", str(escape(text))))  # noqa: S704  # escaped


def report_content(run: RunDir) -> dict[str, Any]:
    """All that the template shows, by name, read from the files of a run."""
    facts = read_facts(run)
    evaluation, audit, training = facts.evaluation, facts.audit, facts.training
    environment, images, used = facts.environment, facts.images, facts.used
    test, classes = facts.result, facts.classes
    no_images = bool(facts.config.get("no_images", False))
    checklists = fill_checklists(run)
    beside = [*SPLITS, "out_of_fold"]
    return {
        "name": data_set_name(run),
        "evaluation": evaluation,
        "test": test,
        "training": training,
        "first_numbers": first_numbers(evaluation),
        "summary": summarise(evaluation, used),
        "advice": advise(evaluation, training),
        "limits": list_limits(evaluation, used, audit["findings"]),
        "retried": {
            "the images were read": audit.get("retried", []),
            "the network ran": training.get("retried", []),
        },
        "flow": data_flow(images, audit.get("passed_over", {})),
        "splits": [describe_split(used, name, classes) for name in (*SPLITS, "all")],
        "table_one": table_one(used, classes),
        "overlaps": count_overlaps(used),
        "findings": [describe_finding(finding) for finding in audit["findings"]],
        "no_images": no_images,
        "view_sheet": None
        if no_images or not run.view_sheet.exists()
        else small_picture(run.view_sheet),
        "contact_sheet": None if no_images else small_picture(run.contact_sheet),
        "whose_curves": WHOSE_CURVES[training.get("heads", 1) > 1],
        "flattered": FLATTERED[training.get("heads", 1) > 1],
        "training_facts": list_facts(training),
        "fine_tuning": compare_fine_tuning(evaluation, training),
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
                for split in beside
                if split in evaluation
            ]
            for metric in COMPARED
        },
        "compared_splits": [
            (name, SPLITS.get(name, "each tested once")) for name in beside if name in evaluation
        ],
        "evidence": list_sections(
            evaluation,
            pictures=[] if no_images else list_heat_maps(run, evaluation),
            suspects=[] if no_images else read_suspects(run),
            external=read_external(run),
        ),
        "methods": methods_paragraphs(run),
        "answer_words": ANSWER_WORDS,
        "checklists": [{**one, "counts": count_answers(one)} for one in checklists],
        "left_out_curves": curves_left_out(evaluation),
        "figures": {
            name: inline_figure((run.figures / f"{name}.svg").read_text(encoding="utf-8"), name)
            for name in FIGURE_LABELS
            if (run.figures / f"{name}.svg").is_file()
        },
    }


def compare_fine_tuning(
    evaluation: Mapping[str, Any], training: Mapping[str, Any]
) -> list[list[Any]]:
    """A row of the frozen and one of the fine-tuned network; none where nothing was fine-tuned."""
    tuned = training.get("fine_tuning")
    if not tuned:
        return []
    names = {"frozen": "Backbone frozen", "fine_tuned": "Fine-tuned"}
    return [
        [
            label + (", used" if tuned["is_used"] == (name == "fine_tuned") else ""),
            f"{tuned['val_loss'][name]:.3f}",
            f"{100 * tuned['val_accuracy'][name]:.1f} %",
            *(
                show_number(measure, one)
                for measure, one in evaluation["fine_tuning"][name].items()
            ),
        ]
        for name, label in names.items()
    ]


def read_options(run: RunDir) -> dict[str, Any]:
    """The options of a run; none where there is no config.toml."""
    if not run.config.is_file():
        return {}
    return tomllib.loads(run.config.read_text(encoding="utf-8"))


def read_external(run: RunDir) -> dict[str, Any]:
    """evaluation.json of each external test, by the name of its folder."""
    return {
        path.parent.name: json.loads(path.read_text(encoding="utf-8"))
        for path in sorted(run.external.glob("*/evaluation.json"))
    }


def read_suspects(run: RunDir) -> list[dict[str, str]]:
    """The rows of label_suspects.csv, as text."""
    if not run.label_suspects.is_file():
        return []
    with run.label_suspects.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def list_heat_maps(run: RunDir, evaluation: Mapping[str, Any]) -> list[tuple[str, str]]:
    """The heat maps as parts of the page, each with its caption."""
    listed = (evaluation.get("saliency") or {}).get("images", [])
    found = [(small_picture(run.heat_maps / image["file"]), image) for image in listed]
    return [(uri, picture_caption(image)) for uri, image in found if uri is not None]


def small_picture(path: Path) -> str | None:
    """A picture as a data: URI, small enough for a page; None where there is none."""
    if not path.is_file():
        return None
    with Image.open(path) as picture:
        shown = picture.convert("RGB")
    shown.thumbnail((WIDEST_PICTURE, HIGHEST_PICTURE))
    packed = io.BytesIO()
    shown.save(packed, "JPEG", quality=85)
    return "data:image/jpeg;base64," + base64.b64encode(packed.getvalue()).decode("ascii")


def data_set_name(run: RunDir) -> str:
    """The folder or file that the images came from, without its path; else the run's own name."""
    data = str(read_options(run).get("data", ""))
    path = PurePosixPath(data.replace("\\", "/"))
    is_list = path.suffix.lower() == ".csv"
    return (path.parent.name if is_list else "") or path.stem or run.root.name


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
