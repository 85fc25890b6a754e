"""The topics of the checklists that are about results: what was measured, tested and shown."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from medlens.report.checklist_topics import (
    Known,
    Topic,
    for_author,
    is_done,
    tested_sentence,
)
from medlens.report.interval_words import interval_methods
from medlens.report.methods import measure_words, operating_sentence
from medlens.report.run_facts import RunFacts, count_of, join_words, number_text

# Columns of a CSV that can be taken for the place an image comes from, and for facts of people.
PLACE = re.compile(
    r"^((study|clinical|imaging|acquisition)[_ -])?(site|cent(er|re))([_ -]?(id|name|code|no))?$"
    r"|hospital|institut|scanner|vendor|manufacturer",
    re.IGNORECASE,
)
PEOPLE = re.compile(
    r"(^|[^a-z])(sex|gender|age|race|ethnicity|insurance|income)([^a-z]|$)", re.IGNORECASE
)


def _measures(facts: RunFacts) -> Known:
    return is_done(f"Measured: {measure_words(facts)}.", "performance")


def _measures_and_plots(facts: RunFacts) -> Known:
    discrimination = f"Measured: {measure_words(facts)}; ROC curves."
    if not facts.has("calibration"):
        return for_author(
            f"{discrimination} Calibration was not measured in this run.", "performance"
        )
    useful = facts.evaluation.get("curves", {}).get("decision")
    return is_done(
        f"{discrimination} Calibration: reliability diagram, Brier score, expected calibration "
        "error, slope and intercept. "
        + ("Usefulness: decision curve." if useful else "No decision curve was drawn."),
        "calibration",
    )


def _uncertainty(facts: RunFacts) -> Known:
    return is_done(
        "Measures of performance have 95 % intervals with the group as unit: "
        f"{'; '.join(interval_methods(facts))}.",
        "performance",
    )


def _robustness(facts: RunFacts) -> Known:
    changes = facts.evaluation.get("robustness")
    if not changes:
        return for_author("Robustness was not tested in this run.")
    named = join_words([str(one["change"]) for one in changes[1:]])
    return is_done(f"Tested on mildly changed images: {named}.", "robustness")


def _saliency(facts: RunFacts) -> Known:
    block = facts.evaluation.get("saliency") or {}
    if not block.get("images"):
        return for_author("No heat maps were drawn in this run.")
    images = count_of(len(block["images"]), "heat map")
    return is_done(f"The report has {images} of test images. {block['text']}", "failures")


def _internal_test(facts: RunFacts) -> Known:
    return is_done(tested_sentence(facts), "performance")


def _external_test(facts: RunFacts) -> Known:
    if not facts.external:
        return for_author("No external test was made.")
    said = [
        f"{count_of(one['test']['n'], 'image')} of {count_of(one['test']['groups'], 'group')}, "
        f"accuracy {number_text('accuracy', one['test']['accuracy'])}"
        for one in facts.external
    ]
    return is_done(f"External test: {'; '.join(said)}.", "external")


def _performance(facts: RunFacts) -> Known:
    result = facts.result
    named = {
        "Accuracy": "accuracy",
        "balanced accuracy": "balanced_accuracy",
        "ROC AUC": "roc_auc_macro",
    }
    said = "; ".join(f"{words} {number_text(name, result[name])}" for words, name in named.items())
    return is_done(f"{said}.", "performance")


def _diagnostic(facts: RunFacts) -> Known:
    if facts.threshold is not None:
        point = facts.evaluation["operating_point"]
        where = f"At the operating point for {point['class']}"
        return is_done(f"{where}: {_sensitivity(point['test'])}.", "operating-point")
    if "recall" in facts.result:
        where = f"For {facts.evaluation['positive_class']}, by the most probable class"
        return is_done(f"{where}: {_sensitivity(facts.result)}.", "performance")
    return for_author("Sensitivity and specificity of each class are in the report.", "performance")


def _sensitivity(block: Mapping[str, Any]) -> str:
    named = {"sensitivity": "recall", "specificity": "specificity"}
    return "; ".join(f"{words} {number_text(name, block[name])}" for words, name in named.items())


def _failures(facts: RunFacts) -> Known:
    if not (facts.evaluation.get("saliency") or {}).get("images"):
        return for_author("The report counts the errors and the most confused classes.", "failures")
    return is_done(
        "The worst errors and the most confused pairs of classes are shown with heat maps.",
        "failures",
    )


def _heterogeneity(facts: RunFacts) -> Known:
    return _by_column(facts, PLACE, "place")


def _fairness(facts: RunFacts) -> Known:
    known = _by_column(facts, PEOPLE, "people")
    return Known(
        known.answer, f"{known.text} Nothing was changed for the sake of fairness.", known.anchor
    )


def _by_column(facts: RunFacts, pattern: re.Pattern[str], kind: str) -> Known:
    """Done where a subgroup column can be taken for what the item is about, by its name."""
    if not facts.subgroups:
        return for_author("The data set brings no column by which the result could be divided.")
    text = f"The result was divided by {join_words(facts.subgroups)}, with a test of heterogeneity."
    if any(pattern.search(column) for column in facts.subgroups):
        return is_done(text, "subgroups")
    return for_author(f"{text} By its name, no column is a fact of {kind}.", "subgroups")


def _computing(facts: RunFacts) -> Known:
    how = "calibrated " if facts.has("calibration") else ""
    return is_done(
        f"Predictions are the network's {how}probabilities for each image; predictions.csv holds "
        "all of them, and the result is computed from it.",
        "methods",
    )


def _output(facts: RunFacts) -> Known:
    calibrated = "Calibrated probabilities" if facts.has("calibration") else "Probabilities"
    text = f"{calibrated} of each class. {operating_sentence(facts)}"
    return is_done(text, "performance" if facts.threshold is None else "operating-point")


def _performance_in_subgroups(facts: RunFacts) -> Known:
    if not facts.subgroups:
        return for_author(f"{_performance(facts).text} There are no subgroups.", "performance")
    return is_done(
        f"{_performance(facts).text} Subgroups: {join_words(facts.subgroups)}.", "subgroups"
    )


def _poor_input(facts: RunFacts) -> Known:
    if not facts.has("unfamiliar"):
        return for_author("A file that cannot be read gets no answer.")
    return is_done(
        "A file that cannot be read gets no answer; an image unlike the training images is flagged "
        "as unfamiliar.",
        "unfamiliar",
    )


TOPICS: Mapping[str, Topic] = {
    function.__name__.removeprefix("_"): function
    for function in (
        _measures,
        _measures_and_plots,
        _uncertainty,
        _robustness,
        _saliency,
        _internal_test,
        _external_test,
        _performance,
        _diagnostic,
        _failures,
        _heterogeneity,
        _fairness,
        _computing,
        _output,
        _performance_in_subgroups,
        _poor_input,
    )
}
