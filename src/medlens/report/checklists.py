"""CLAIM and TRIPOD+AI, filled in as far as a run can answer them; the rest asks the author."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from medlens.report.interval_words import interval_methods
from medlens.report.methods import (
    backbone_name,
    data_sentences,
    disjoint_sentence,
    exclusion_sentence,
    features_sentence,
    fitted_on,
    head_sentence,
    initial_sentence,
    measure_words,
    network_sentence,
    operating_sentence,
    software_sentence,
    split_sentence,
    training_sentences,
)
from medlens.report.references import CITED
from medlens.report.run_facts import RunFacts, count_of, join_words, number_text, read_facts
from medlens.report.study import Item, read_checklists, read_study
from medlens.run_dir import RunDir

DONE, AUTHOR, AUTHORS_ANSWER = "done", "author", "author's answer"
NOT_APPLICABLE = "not applicable"
# Columns of a CSV that can be taken for the place an image comes from, and for facts of people.
PLACE = re.compile(
    r"^((study|clinical|imaging|acquisition)[_ -])?(site|cent(er|re))([_ -]?(id|name|code|no))?$"
    r"|hospital|institut|scanner|vendor|manufacturer",
    re.IGNORECASE,
)
PEOPLE = re.compile(
    r"(^|[^a-z])(sex|gender|age|race|ethnicity|insurance|income)([^a-z]|$)", re.IGNORECASE
)


@dataclass(frozen=True)
class Known:
    """What a run knows about an item.

    Args:
        answer: DONE, AUTHOR or NOT_APPLICABLE.
        text: What was really done, or why not; for the author's items, what medlens can add.
        anchor: The section of the report that shows it, or "".
    """

    answer: str
    text: str = ""
    anchor: str = ""


def fill_checklists(run: RunDir) -> list[dict[str, Any]]:
    """Fill in the checklists from the files of a run and the author's study.toml.

    Args:
        run: A finished run.

    Returns:
        For each checklist name, version, source and items, each with id, number, item, answer
        ("done", "author", "author's answer" or "not applicable"), text, and anchor: the id of the
        section of the report that shows it, or "".

    Raises:
        MedlensError: If the run is not finished, or study.toml cannot be used.
    """
    facts, study = read_facts(run), read_study(run)
    checklists = read_checklists()
    questions = {item.id: item.ask for one in checklists for item in one.items}
    return [
        {
            "name": one.name,
            "version": one.version,
            "source": one.source,
            "items": [_fill(item, facts, study, questions) for item in one.items],
        }
        for one in checklists
    ]


def count_answers(checklist: Mapping[str, Any]) -> dict[str, int]:
    """How many items of a filled checklist have each answer."""
    answers = [item["answer"] for item in checklist["items"]]
    return {name: answers.count(name) for name in (DONE, AUTHORS_ANSWER, AUTHOR, NOT_APPLICABLE)}


def _fill(
    item: Item, facts: RunFacts, study: Mapping[str, str], questions: Mapping[str, str]
) -> dict[str, Any]:
    known = TOPICS[item.topic](facts) if item.topic else Known(AUTHOR)
    said = study.get(item.id) or study.get(item.same_as, "")
    answer, text = known.answer, known.text
    if said and answer == DONE:
        text = f"{text} The author adds: {said}"
    elif said:
        text = f"{said} medlens adds: {text}" if text and answer == AUTHOR else said
        answer = AUTHORS_ANSWER
    elif answer == AUTHOR:
        asked = item.ask or questions.get(item.same_as) or item.item
        text = f"{text} To be added: {asked[0].lower()}{asked[1:]}" if text else asked
    return {
        "id": item.id,
        "number": item.number,
        "item": item.item,
        "answer": answer,
        "text": CITED.sub("", text),
        "anchor": known.anchor,
    }


def _author(text: str, anchor: str = "") -> Known:
    return Known(AUTHOR, text, anchor)


def _done(text: str, anchor: str) -> Known:
    return Known(DONE, text, anchor)


def _abstract(facts: RunFacts) -> Known:
    return _author("The report's summary has the result with its intervals.", "summary")


def _goal(facts: RunFacts) -> Known:
    outside = ""
    if facts.external:
        outside = f" and on {count_of(len(facts.external), 'external data set')}"
    return _author(
        f"A classifier was developed, and tested {facts.result_name}{outside}.", "summary"
    )


def _sources(facts: RunFacts) -> Known:
    return _author(data_sentences(facts), "flow")


def _exclusions(facts: RunFacts) -> Known:
    return _author(
        f"Images given to medlens: {len(facts.images):,}. {exclusion_sentence(facts)}", "flow"
    )


def _preprocessing(facts: RunFacts) -> Known:
    return _done(f"{network_sentence(facts)} {features_sentence(facts)}", "methods")


def _transformation(facts: RunFacts) -> Known:
    return _done(f"{features_sentence(facts)} {head_sentence(facts)}", "methods")


def _selection(facts: RunFacts) -> Known:
    cut = {
        "pad": "medlens used whole images.",
        "stretch": "medlens used whole images.",
        "crop": "medlens cropped each image to the square in its centre.",
    }[facts.training["fit"]]
    return _author(cut, "training")


def _missing(facts: RunFacts) -> Known:
    unreadable = int((facts.images["unreadable"] != "").sum())
    unknown = int((facts.used["patient"] == "").sum())
    images = count_of(len(facts.used), "image")
    said = [
        f"{count_of(unreadable, 'image')} could not be read and {_was(unreadable)} left out."
        if unreadable
        else "Every image could be read.",
        f"The patient is unknown for {unknown:,} of {images}."
        if unknown
        else "The patient is known for every image.",
        "No value was imputed: the classifier reads the image alone.",
    ]
    return _author(" ".join(said), "flow")


def _was(count: int) -> str:
    return "was" if count == 1 else "were"


def _acquisition(facts: RunFacts) -> Known:
    if "format" not in facts.used:
        return _author("")
    counts = facts.used["format"].value_counts().sort_index()
    named = join_words([f"{name} ({number:,})" for name, number in counts.items()])
    return _author(f"Formats of the files: {named}.", "flow")


def _reference_standard(facts: RunFacts) -> Known:
    text = f"medlens took the labels as given: {join_words(facts.classes)}."
    count = facts.evaluation.get("label_suspects", {}).get("n")
    if count is None:
        return _author(text)
    return _author(
        f"{text} Confident learning doubts the labels of {count_of(count, 'training image')}; none "
        "was changed.",
        "label-suspects",
    )


def _partition(facts: RunFacts) -> Known:
    return _done(split_sentence(facts), "disjointness")


def _disjointness(facts: RunFacts) -> Known:
    answer = DONE if facts.patients == "all" and not facts.overlaps else AUTHOR
    return Known(answer, disjoint_sentence(facts), "disjointness")


def _sample_size(facts: RunFacts) -> Known:
    return _author(
        f"medlens plans no sample size; the data were used as they are. {_tested(facts)}",
        "performance",
    )


def _tested(facts: RunFacts) -> str:
    """How many images the result is of, and the accuracy."""
    result = facts.result
    return (
        f"Tested {facts.result_name}: {count_of(result['n'], 'image')} of "
        f"{count_of(result['groups'], 'group')}; accuracy "
        f"{number_text('accuracy', result['accuracy'])}."
    )


def _model(facts: RunFacts) -> Known:
    said = [network_sentence(facts), features_sentence(facts), head_sentence(facts)]
    classes = f"There are {count_of(len(facts.classes), 'class', 'classes')}."
    return _done(" ".join([*said, classes]), "training")


def _software(facts: RunFacts) -> Known:
    return _done(software_sentence(facts), "environment")


def _initialisation(facts: RunFacts) -> Known:
    answer = AUTHOR if facts.training["weights"] == "file" else DONE
    text = (
        f"The frozen network is {backbone_name(facts)}. {initial_sentence(facts)} The new layers "
        f"began with random weights (seed {facts.training['seed']})."
    )
    return Known(answer, text, "training")


def _training(facts: RunFacts) -> Known:
    return _done(training_sentences(facts), "training")


def _final_model(facts: RunFacts) -> Known:
    training = facts.training
    why = "with which the accuracy asked for was reached"
    if training["stop_reason"] != "accuracy":
        why = "after which the loss on the tuning images was lowest"
    return _done(
        f"Of {count_of(training['epochs_run'], 'epoch')} the weights of epoch "
        f"{training['best_epoch']} were kept, {why}. Nothing was chosen on test images.",
        "training",
    )


def _ensemble(facts: RunFacts) -> Known:
    return Known(NOT_APPLICABLE, "One network with one head answers; nothing is combined.")


def _measures(facts: RunFacts) -> Known:
    return _done(f"Measured: {measure_words(facts)}.", "performance")


def _measures_and_plots(facts: RunFacts) -> Known:
    discrimination = f"Measured: {measure_words(facts)}; ROC curves."
    if not facts.has("calibration"):
        return _author(f"{discrimination} Calibration was not measured in this run.", "performance")
    useful = facts.evaluation.get("curves", {}).get("decision")
    return _done(
        f"{discrimination} Calibration: reliability diagram, Brier score, expected calibration "
        "error, slope and intercept. "
        + ("Usefulness: decision curve." if useful else "No decision curve was drawn."),
        "calibration",
    )


def _uncertainty(facts: RunFacts) -> Known:
    return _done(
        "Measures of performance have 95 % intervals with the group as unit: "
        f"{'; '.join(interval_methods(facts))}.",
        "performance",
    )


def _robustness(facts: RunFacts) -> Known:
    changes = facts.evaluation.get("robustness")
    if not changes:
        return _author("Robustness was not tested in this run.")
    named = join_words([str(one["change"]) for one in changes[1:]])
    return _done(f"Tested on mildly changed images: {named}.", "robustness")


def _saliency(facts: RunFacts) -> Known:
    block = facts.evaluation.get("saliency") or {}
    if not block.get("images"):
        return _author("No heat maps were drawn in this run.")
    images = count_of(len(block["images"]), "heat map")
    return _done(f"The report has {images} of test images. {block['text']}", "failures")


def _internal_test(facts: RunFacts) -> Known:
    return _done(_tested(facts), "performance")


def _external_test(facts: RunFacts) -> Known:
    if not facts.external:
        return _author("No external test was made.")
    said = [
        f"{count_of(one['test']['n'], 'image')} of {count_of(one['test']['groups'], 'group')}, "
        f"accuracy {number_text('accuracy', one['test']['accuracy'])}"
        for one in facts.external
    ]
    return _done(f"External test: {'; '.join(said)}.", "external")


def _flow(facts: RunFacts) -> Known:
    answer = DONE if facts.patients == "all" else AUTHOR
    return Known(answer, data_sentences(facts), "flow")


def _characteristics(facts: RunFacts) -> Known:
    return _author("Table 1 counts images, patients and classes of each split.", "table1")


def _performance(facts: RunFacts) -> Known:
    result = facts.result
    named = {
        "Accuracy": "accuracy",
        "balanced accuracy": "balanced_accuracy",
        "ROC AUC": "roc_auc_macro",
    }
    said = "; ".join(f"{words} {number_text(name, result[name])}" for words, name in named.items())
    return _done(f"{said}.", "performance")


def _diagnostic(facts: RunFacts) -> Known:
    if facts.threshold is not None:
        point = facts.evaluation["operating_point"]
        where = f"At the operating point for {point['class']}"
        return _done(f"{where}: {_sensitivity(point['test'])}.", "operating-point")
    if "recall" in facts.result:
        where = f"For {facts.evaluation['positive_class']}, by the most probable class"
        return _done(f"{where}: {_sensitivity(facts.result)}.", "performance")
    return _author("Sensitivity and specificity of each class are in the report.", "performance")


def _sensitivity(block: Mapping[str, Any]) -> str:
    named = {"sensitivity": "recall", "specificity": "specificity"}
    return "; ".join(f"{words} {number_text(name, block[name])}" for words, name in named.items())


def _failures(facts: RunFacts) -> Known:
    if not (facts.evaluation.get("saliency") or {}).get("images"):
        return _author("The report counts the errors and the most confused classes.", "failures")
    return _done(
        "The worst errors and the most confused pairs of classes are shown with heat maps.",
        "failures",
    )


def _limitations(facts: RunFacts) -> Known:
    return _author(
        "What medlens itself knows to limit the result stands in the summary.", "summary"
    )


def _technical_details(facts: RunFacts) -> Known:
    return _done(
        "The methods are written out in the report; config.toml holds every option and repeats "
        "the run.",
        "methods",
    )


def _availability(facts: RunFacts) -> Known:
    versions = facts.versions("medlens")
    return _author(
        f"The software is {versions[0] if versions else 'medlens'}, under the MIT licence; the "
        "classifier and the checksums of data and weights lie in the run folder.",
        "environment",
    )


def _quality(facts: RunFacts) -> Known:
    findings = facts.audit["findings"]
    grave = sum(one["severity"] in ("error", "warning") for one in findings)
    return _done(
        "Every file was read and looked at for damage, copies, near-duplicates and contradicting "
        f"labels; the audit has {count_of(len(findings), 'finding')}, {grave} of them graver than "
        f"a note. All images were treated alike. {network_sentence(facts)}",
        "findings",
    )


def _predictors(facts: RunFacts) -> Known:
    return _done(f"The image is the only predictor. {features_sentence(facts)}", "training")


def _subjective_predictors(facts: RunFacts) -> Known:
    return Known(NOT_APPLICABLE, "The network reads pixels; no person assessed a predictor.")


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
        return _author("The data set brings no column by which the result could be divided.")
    text = f"The result was divided by {join_words(facts.subgroups)}, with a test of heterogeneity."
    if any(pattern.search(column) for column in facts.subgroups):
        return _done(text, "subgroups")
    return _author(f"{text} By its name, no column is a fact of {kind}.", "subgroups")


def _updating(facts: RunFacts) -> Known:
    return Known(NOT_APPLICABLE, "The classifier was not changed after its evaluation.")


def _computing(facts: RunFacts) -> Known:
    how = "calibrated " if facts.has("calibration") else ""
    return _done(
        f"Predictions are the network's {how}probabilities for each image; predictions.csv holds "
        "all of them, and the result is computed from it.",
        "methods",
    )


def _imbalance(facts: RunFacts) -> Known:
    rows = facts.used[facts.used["split"] == "train"]
    counts = rows["label"].value_counts()
    named = join_words([f"{name} ({int(counts.get(name, 0)):,})" for name in facts.classes])
    weighted = "no method against imbalance was used, each image weighs the same"
    if facts.training["class_weight"] == "balanced":
        weighted = "each class weighs the same in the loss"
    text = f"Training images: {named}; {weighted}."
    if not facts.has("calibration"):
        return _done(f"{text} Probabilities were not recalibrated.", "training")
    return _done(f"{text} Probabilities were recalibrated on {fitted_on(facts)}.", "calibration")


def _output(facts: RunFacts) -> Known:
    calibrated = "Calibrated probabilities" if facts.has("calibration") else "Probabilities"
    text = f"{calibrated} of each class. {operating_sentence(facts)}"
    return _done(text, "performance" if facts.threshold is None else "operating-point")


def _differences(facts: RunFacts) -> Known:
    shift = facts.evaluation.get("prediction_sets", {}).get("class_balance_shift")
    said = [_say_shift(shift, "development and internal test images")] if shift else []
    said += [
        _say_shift(one["class_balance_shift"], "internal and external test images")
        for one in facts.external
    ]
    anchor = "prediction-sets" if shift else ""
    if facts.splitting == "ratio" and not facts.external:
        drawn = "The sets were drawn at random, in whole groups, from one data set."
        return _done(" ".join([drawn, *said]), anchor or "disjointness")
    return _author(" ".join(said), anchor)


def _say_shift(shift: Mapping[str, Any], between: str) -> str:
    if shift["is_shifted"]:
        return f"The balance of classes differs between {between} (chi-squared test)."
    return f"No difference in the balance of classes was found between {between}."


def _compared_splits(facts: RunFacts) -> Known:
    text = "Table 1 has the classes of each set side by side."
    if not facts.has("unfamiliar"):
        return _author(text, "table1")
    share = number_text("share", facts.evaluation["unfamiliar"]["test_false_alarms"])
    return _done(f"{text} Of the images tested {share} were flagged as unfamiliar.", "unfamiliar")


def _events(facts: RunFacts) -> Known:
    said = []
    names = {"train": "Training", "val": "tuning", "test": "internal test"}
    for split, name in names.items():
        rows = facts.used[facts.used["split"] == split]
        counts = rows["label"].value_counts()
        named = ", ".join(f"{one} {int(counts.get(one, 0)):,}" for one in facts.classes)
        if len(rows):
            groups = count_of(rows["group"].nunique(), "group")
            said.append(f"{name}: {count_of(len(rows), 'image')} in {groups} ({named})")
    if "test" not in facts.evaluation:
        result = facts.result
        groups = count_of(result["groups"], "group")
        named = ", ".join(f"{one} {count:,}" for one, count in result["class_counts"].items())
        said.append(f"cross-validation: {count_of(result['n'], 'image')} in {groups} ({named})")
    return _done(f"{'; '.join(said)}.", "table1")


def _whole_model(facts: RunFacts) -> Known:
    if not facts.has_classifier:
        return _author("No classifier lies in the run folder.")
    return _done(
        "The folder classifier/ holds the whole network in Keras's format, from raw pixels to "
        "probabilities, with its classes, threshold and limits.",
        "environment",
    )


def _performance_in_subgroups(facts: RunFacts) -> Known:
    if not facts.subgroups:
        return _author(f"{_performance(facts).text} There are no subgroups.", "performance")
    return _done(
        f"{_performance(facts).text} Subgroups: {join_words(facts.subgroups)}.", "subgroups"
    )


def _poor_input(facts: RunFacts) -> Known:
    if not facts.has("unfamiliar"):
        return _author("A file that cannot be read gets no answer.")
    return _done(
        "A file that cannot be read gets no answer; an image unlike the training images is flagged "
        "as unfamiliar.",
        "unfamiliar",
    )


TOPICS: Mapping[str, Callable[[RunFacts], Known]] = {
    name.removeprefix("_"): function
    for name, function in (
        (one.__name__, one)
        for one in (
            _abstract,
            _goal,
            _sources,
            _exclusions,
            _preprocessing,
            _transformation,
            _selection,
            _missing,
            _acquisition,
            _reference_standard,
            _partition,
            _disjointness,
            _sample_size,
            _model,
            _software,
            _initialisation,
            _training,
            _final_model,
            _ensemble,
            _measures,
            _measures_and_plots,
            _uncertainty,
            _robustness,
            _saliency,
            _internal_test,
            _external_test,
            _flow,
            _characteristics,
            _performance,
            _diagnostic,
            _failures,
            _limitations,
            _technical_details,
            _availability,
            _quality,
            _predictors,
            _subjective_predictors,
            _heterogeneity,
            _fairness,
            _updating,
            _computing,
            _imbalance,
            _output,
            _differences,
            _compared_splits,
            _events,
            _whole_model,
            _performance_in_subgroups,
            _poor_input,
        )
    )
}
