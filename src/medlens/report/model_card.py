"""What a classifier is, in a page: model_card.md, after Mitchell et al. 2019 ("modelcards")."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from medlens.files import write_text
from medlens.report.data_words import data_sentences, disjoint_sentence, split_sentence
from medlens.report.methods import (
    features_sentence,
    fine_tuning_sentences,
    head_sentence,
    initial_sentence,
    limit_sentences,
    network_sentence,
    operating_sentence,
)
from medlens.report.references import CITED, REFERENCES
from medlens.report.run_facts import RunFacts, count_of, join_words, read_facts
from medlens.report.sections import Section, list_sections
from medlens.report.study import read_checklists, read_study
from medlens.report.wording import METRICS, Number, show_number, show_numbers
from medlens.run_dir import RunDir

# What Markdown, HTML in Markdown and formulas are made of; a backslash takes their meaning away.
SPECIAL = re.compile(r"[\\`*_\[\]<>|~&$]")
# What makes a line a heading or a list.
LINE_START = re.compile(r"^(\d*)(?=[.)](?:\s|$)|[#+=-])")
# Sections of the report that are part of the card.
SECTIONS = (
    "calibration",
    "operating-point",
    "prediction-sets",
    "unfamiliar",
    "subgroups",
    "probes",
    "robustness",
    "external",
)
CLASS_METRICS = ("recall", "precision", "specificity", "roc_auc")
# More classes than this are counted in the title, and not named.
MOST_NAMED = 8


def write_model_card(run: RunDir) -> Path:
    """Write model_card.md: what the classifier is, what it is for, how good it is, its limits.

    The headings are those of Mitchell et al. 2019 (see `REFERENCES`), with what the author says in
    study.toml where only the author knows.

    Args:
        run: A finished run.

    Returns:
        The path of the card.

    Raises:
        MedlensError: If the run is not finished, or study.toml cannot be used.
    """
    facts, study = read_facts(run), read_study(run)
    parts = [
        *_head(facts),
        *_what_it_is(facts),
        *_use(study),
        *_data(facts, study),
        *_performance(facts),
        *_evidence(facts),
        *_limits(facts, study),
        *_how_to_use(facts),
        *_versions(facts),
    ]
    write_text(run.model_card, "\n\n".join(parts) + "\n")
    return run.model_card


def escape(text: str) -> str:
    """Text that Markdown shows as it is, on one line."""
    line = SPECIAL.sub(lambda found: f"\\{found[0]}", " ".join(CITED.sub("", text).split()))
    return LINE_START.sub(r"\1\\", line)


def _head(facts: RunFacts) -> list[str]:
    classes = facts.classes
    named = join_words(classes) if len(classes) <= MOST_NAMED else f"{len(classes)} classes"
    return [
        f"# Model card: image classifier for {escape(named)}",
        "**Not a medical device.** For research. Not for the diagnosis or treatment of any "
        "patient.",
        *_list(facts.evaluation.get("notices", [])),
    ]


def _what_it_is(facts: RunFacts) -> list[str]:
    licence = facts.training.get("weights_licence")
    said = [
        "A network that gives an image a probability for each of "
        f"{count_of(len(facts.classes), 'class', 'classes')}: {join_words(facts.classes)}.",
        operating_sentence(facts),
        " ".join([network_sentence(facts), initial_sentence(facts), features_sentence(facts)]),
        " ".join(one for one in (head_sentence(facts), fine_tuning_sentences(facts)) if one),
    ]
    if licence:
        said.append(f"Licence of the pretrained network's weights: {licence}.")
    return ["## What it is", *map(escape, said)]


def _use(study: Mapping[str, str]) -> list[str]:
    not_for = [
        "The diagnosis or treatment of patients.",
        "Images of another kind, body part or device than those trained on.",
        "Findings that are none of its classes: every image gets one of them as its answer.",
    ]
    return [
        "## Intended use",
        *_answers(study, "claim_3", "tripod_3b"),
        "It is not for:",
        *_list(not_for),
        *_answers(study, "tripod_27b"),
    ]


def _data(facts: RunFacts, study: Mapping[str, str]) -> list[str]:
    said = (data_sentences(facts), split_sentence(facts), disjoint_sentence(facts))
    names = {"train": "training", "val": "tuning", "test": "internal test"}
    rows = []
    for split, name in names.items():
        images = facts.used[facts.used["split"] == split]
        if len(images):
            patients = images.loc[images["patient"] != "", "patient"].nunique()
            counts = [int((images["label"] == one).sum()) for one in facts.classes]
            cells = [len(images), images["group"].nunique(), patients, *counts]
            rows.append([name, *(f"{count:,}" for count in cells)])
    head = ["set", "images", "groups", "patients known", *facts.classes]
    return [
        "## Data",
        *map(escape, said),
        _table(head, rows),
        *_answers(study, "claim_7", "claim_14", "claim_16"),
    ]


def _performance(facts: RunFacts) -> list[str]:
    result = facts.result
    where = f"{facts.result_name[0].upper()}{facts.result_name[1:]}"
    said = (
        f"{where}: {count_of(result['n'], 'image')} of {count_of(result['groups'], 'group')}. "
        "Intervals are 95 % intervals with the group, not the image, as unit; the methods in the "
        "report say how they were computed."
    )
    head = ["measure", "value", "95 % interval", "images", "groups"]
    rows = [
        [number.label, *_value(number), number.images, number.groups]
        for number in show_numbers(result)
    ]
    per_class = [
        [name, *(_cell(show_number(metric, block[metric])) for metric in CLASS_METRICS)]
        for name, block in result["per_class"].items()
    ]
    return [
        "## Performance",
        escape(said),
        _table(head, rows),
        "Each class against the rest:",
        _table(["class", *(METRICS[metric] for metric in CLASS_METRICS)], per_class),
    ]


def _evidence(facts: RunFacts) -> list[str]:
    """The sections of the report that a card needs, each with its text and its first table."""
    external = {
        f"External test {number}": one for number, one in enumerate(facts.external, 1)
    }  # under numbers: a folder's name may be anything
    sections = {one.id: one for one in list_sections(facts.evaluation, external=external)}
    said = facts.evaluation.get("notices", [])
    return [
        part
        for name in SECTIONS
        if name in sections
        for part in (f"## {escape(sections[name].title)}", *_section(sections[name], said))
    ]


def _section(section: Section, said: Sequence[str]) -> list[str]:
    """Its text, what the notices at the top have said excepted, and its first table."""
    tables = section.tables if section.id == "external" else section.tables[:1]
    return [
        *(escape(text) for text in section.text if not any(one in text for one in said)),
        *(_table(one.head, [[_cell(cell) for cell in row] for row in one.rows]) for one in tables),
    ]


def _limits(facts: RunFacts, study: Mapping[str, str]) -> list[str]:
    shown_first = set(facts.evaluation.get("notices", []))
    said = [one for one in limit_sentences(facts) if one not in shown_first]
    suspects = facts.evaluation.get("label_suspects", {}).get("n")
    if suspects:
        said.append(
            f"Confident learning doubts the labels of {count_of(suspects, 'training image')}."
        )
    return [
        "## Limits",
        *_list(said),
        *_answers(study, "claim_40"),
        "## Ethical considerations",
        *_answers(study, "tripod_17", "tripod_3c", "tripod_14"),
    ]


def _how_to_use(facts: RunFacts) -> list[str]:
    if not facts.has_classifier:
        return ["## How to use it", "No classifier lies in the run folder."]
    size = facts.training["image_size"]
    code = (
        "import medlens\n\n"
        'classifier = medlens.load("RUN")\n'
        'table = classifier.predict(["image.png"])'
    )
    return [
        "## How to use it",
        "The folder `classifier/` is all that is needed. With medlens, RUN being the run folder:",
        f"```python\n{code}\n```",
        f"Or without it: `classifier/classifier.keras` is a plain Keras model. It takes raw RGB "
        f"pixels from 0 to 255 of shape (batch, {size}, {size}, 3), made square and scaled as "
        'described under "What it is", and gives probabilities in the order of the classes in '
        "`classifier/classifier.json`.",
        "An image that is flagged as unfamiliar should not be answered by the classifier but "
        "looked at by a person.",
    ]


def _versions(facts: RunFacts) -> list[str]:
    environment, training = facts.environment, facts.training
    rows = [[name, said] for name, said in environment.get("versions", {}).items() if said]
    checksums = {
        "list of images and labels": environment.get("data_sha256"),
        "pretrained weights of the network": training.get("weights_sha256"),
    }
    rows += [[f"SHA-256, {name}", str(said)] for name, said in checksums.items() if said]
    rows.append(["seed", str(training["seed"])])
    return [
        "## Versions and checksums",
        _table(["what", "value"], rows),
        "`config.toml` holds every option and repeats the run; `report.html` has all numbers, "
        "figures and methods.",
        f"This card follows {escape(REFERENCES['modelcards'])}",
    ]


def _answers(study: Mapping[str, str], *names: str) -> list[str]:
    """What the author says to each of these items, or what is still to be said."""
    items = {item.id: item for checklist in read_checklists() for item in checklist.items}
    parts = []
    for name in names:
        same = [item.id for item in items.values() if item.same_as == name]
        said = next((study[one] for one in (name, *same) if one in study), "")
        title = escape(items[name].item)
        asked = f"*to be filled in by the author (`{name}` in study.toml):* "
        parts.append(f"**{title}:** {escape(said) or asked + escape(items[name].ask)}")
    return parts


def _value(number: Number) -> tuple[str, str]:
    if number.value:
        return number.value, number.interval
    return f"not available: {number.reason}", ""


def _cell(cell: str | Number) -> str:
    """A cell as text: the value with its interval."""
    if isinstance(cell, str):
        return cell
    value, interval = _value(cell)
    return f"{value} ({interval})" if interval else value


def _list(lines: Iterable[str]) -> list[str]:
    """A list as one part; nothing where there is nothing to say."""
    said = "\n".join(f"- {escape(line)}" for line in lines)
    return [said] if said else []


def _table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A table of Markdown."""
    shown = [[escape(cell) for cell in row] for row in (head, *rows)]
    shown.insert(1, ["---"] * len(head))
    return "\n".join(f"| {' | '.join(row)} |" for row in shown)
