"""What a checklist's item can be answered with, and the topics of the data and the classifier."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from medlens.report.data_words import (
    data_sentences,
    disjoint_sentence,
    exclusion_sentence,
    split_sentence,
)
from medlens.report.methods import (
    backbone_name,
    features_sentence,
    fine_tuning_sentences,
    fitted_on,
    head_sentence,
    initial_sentence,
    is_fine_tuned,
    network_sentence,
    software_sentence,
    training_sentences,
)
from medlens.report.run_facts import RunFacts, count_of, join_words, number_text

DONE, AUTHOR, AUTHORS_ANSWER = "done", "author", "author's answer"
NOT_APPLICABLE = "not applicable"


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


Topic = Callable[[RunFacts], Known]


def for_author(text: str, anchor: str = "") -> Known:
    """What medlens can add to what only the author knows."""
    return Known(AUTHOR, text, anchor)


def is_done(text: str, anchor: str) -> Known:
    """What was done in the run, and where the report shows it."""
    return Known(DONE, text, anchor)


def tested_sentence(facts: RunFacts) -> str:
    """How many images the result is of, and the accuracy."""
    result = facts.result
    return (
        f"Tested {facts.result_name}: {count_of(result['n'], 'image')} of "
        f"{count_of(result['groups'], 'group')}; accuracy "
        f"{number_text('accuracy', result['accuracy'])}."
    )


def _abstract(facts: RunFacts) -> Known:
    return for_author("The report's summary has the result with its intervals.", "summary")


def _goal(facts: RunFacts) -> Known:
    outside = ""
    if facts.external:
        outside = f" and on {count_of(len(facts.external), 'external data set')}"
    return for_author(
        f"A classifier was developed, and tested {facts.result_name}{outside}.", "summary"
    )


def _sources(facts: RunFacts) -> Known:
    return for_author(data_sentences(facts), "flow")


def _exclusions(facts: RunFacts) -> Known:
    return for_author(
        f"Images given to medlens: {len(facts.images):,}. {exclusion_sentence(facts)}", "flow"
    )


def _preprocessing(facts: RunFacts) -> Known:
    return is_done(f"{network_sentence(facts)} {features_sentence(facts)}", "methods")


def _transformation(facts: RunFacts) -> Known:
    return is_done(f"{features_sentence(facts)} {head_sentence(facts)}", "methods")


def _selection(facts: RunFacts) -> Known:
    cut = {
        "pad": "medlens used whole images.",
        "stretch": "medlens used whole images.",
        "crop": "medlens cropped each image to the square in its centre.",
    }[facts.training["fit"]]
    return for_author(cut, "training")


def _missing(facts: RunFacts) -> Known:
    unreadable = int((facts.images["unreadable"] != "").sum())
    unknown = int((facts.used["patient"] == "").sum())
    images = count_of(len(facts.used), "image")
    said = [
        f"{count_of(unreadable, 'image')} could not be read and {_was(unreadable)} left out."
        if unreadable
        else "Every image could be read.",
        {
            "all": "The patient is known for every image.",
            "some": f"The patient is unknown for {unknown:,} of {images}.",
            "none": "The patient is known for no image.",
        }[facts.patients],
        "No value was imputed: the classifier reads the image alone.",
    ]
    return for_author(" ".join(said), "flow")


def _was(count: int) -> str:
    return "was" if count == 1 else "were"


def _acquisition(facts: RunFacts) -> Known:
    if "format" not in facts.used:
        return for_author("")
    counts = facts.used["format"].value_counts().sort_index()
    named = join_words([f"{name} ({number:,})" for name, number in counts.items()])
    return for_author(f"Formats of the files: {named}.", "flow")


def _reference_standard(facts: RunFacts) -> Known:
    text = f"medlens took the labels as given: {join_words(facts.classes)}."
    count = facts.evaluation.get("label_suspects", {}).get("n")
    if count is None:
        return for_author(text)
    return for_author(
        f"{text} Confident learning doubts the labels of {count_of(count, 'training image')}; none "
        "was changed.",
        "label-suspects",
    )


def _partition(facts: RunFacts) -> Known:
    return is_done(split_sentence(facts), "disjointness")


def _disjointness(facts: RunFacts) -> Known:
    answer = DONE if facts.patients == "all" and not facts.overlaps else AUTHOR
    return Known(answer, disjoint_sentence(facts), "disjointness")


def _sample_size(facts: RunFacts) -> Known:
    return for_author(
        f"medlens plans no sample size; the data were used as they are. {tested_sentence(facts)}",
        "performance",
    )


def _model(facts: RunFacts) -> Known:
    said = [network_sentence(facts), features_sentence(facts), head_sentence(facts)]
    classes = f"There are {count_of(len(facts.classes), 'class', 'classes')}."
    return is_done(" ".join([*said, classes]), "training")


def _software(facts: RunFacts) -> Known:
    return is_done(software_sentence(facts), "environment")


def _initialisation(facts: RunFacts) -> Known:
    answer = AUTHOR if facts.training["weights"] == "file" else DONE
    network = "network" if is_fine_tuned(facts) else "frozen network"
    text = (
        f"The {network} is {backbone_name(facts)}. {initial_sentence(facts)} The new layers "
        f"began with random weights (seed {facts.training['seed']})."
    )
    return Known(answer, text, "training")


def _training(facts: RunFacts) -> Known:
    said = [training_sentences(facts), fine_tuning_sentences(facts)]
    return is_done(" ".join(one for one in said if one), "training")


def _final_model(facts: RunFacts) -> Known:
    training = facts.training
    why = "with which the accuracy asked for was reached"
    if training["stop_reason"] != "accuracy":
        whose = "held-out" if training.get("heads", 1) > 1 else "tuning"
        why = f"after which the loss on the {whose} images was lowest"
    return is_done(
        f"Of {count_of(training['epochs_run'], 'epoch')} the weights of epoch "
        f"{training['best_epoch']} were kept, {why}. Nothing was chosen on test images.",
        "training",
    )


def _ensemble(facts: RunFacts) -> Known:
    heads, views = (facts.training.get(name, 1) for name in ("heads", "views_averaged"))
    said = []
    if heads > 1:
        said.append(
            f"The mean of the logits of {heads} heads on one network answers, each fitted without "
            "one fold of the training images."
        )
    if views > 1:
        said.append(f"Logits are averaged over {views} symmetric views of each image.")
    if said:
        return is_done(" ".join(said), "training")
    return Known(NOT_APPLICABLE, "One network with one head answers; nothing is combined.")


def _flow(facts: RunFacts) -> Known:
    answer = DONE if facts.patients == "all" else AUTHOR
    return Known(answer, data_sentences(facts), "flow")


def _characteristics(facts: RunFacts) -> Known:
    return for_author("Table 1 counts images, patients and classes of each split.", "table1")


def _quality(facts: RunFacts) -> Known:
    findings = facts.audit["findings"]
    grave = sum(one["severity"] in ("error", "warning") for one in findings)
    return is_done(
        "Every file was read and looked at for damage, copies, near-duplicates and contradicting "
        f"labels; the audit has {count_of(len(findings), 'finding')}, {grave} of them graver than "
        f"a note. All images were treated alike. {network_sentence(facts)}",
        "findings",
    )


def _predictors(facts: RunFacts) -> Known:
    return is_done(f"The image is the only predictor. {features_sentence(facts)}", "training")


def _subjective_predictors(facts: RunFacts) -> Known:
    return Known(NOT_APPLICABLE, "The network reads pixels; no person assessed a predictor.")


def _imbalance(facts: RunFacts) -> Known:
    rows = facts.used[facts.used["split"] == "train"]
    counts = rows["label"].value_counts()
    named = join_words([f"{name} ({int(counts.get(name, 0)):,})" for name in facts.classes])
    weighted = "no method against imbalance was used, each image weighs the same"
    if facts.training["class_weight"] == "balanced":
        weighted = "each class weighs the same in the loss"
    elif facts.training["class_weight"] == "logit_adjusted":
        weighted = "rare classes are favoured by logit adjustment"
    text = f"Training images: {named}; {weighted}."
    if not facts.has("calibration"):
        return is_done(f"{text} Probabilities were not recalibrated.", "training")
    return is_done(f"{text} Probabilities were recalibrated on {fitted_on(facts)}.", "calibration")


def _differences(facts: RunFacts) -> Known:
    shift = facts.evaluation.get("prediction_sets", {}).get("class_balance_shift")
    is_known = bool(shift) and shift["p"] is not None
    said = [_say_shift(shift, "development and internal test images")] if is_known else []
    said += [
        _say_shift(
            one["class_balance_shift"],
            "the images tested in the run and those of the external test",
        )
        for one in facts.external
    ]
    anchor = "prediction-sets" if shift else ""
    if facts.splitting == "ratio" and not facts.external:
        drawn = "The sets were drawn at random, in whole groups, from one data set."
        return is_done(" ".join([drawn, *said]), anchor or "disjointness")
    return for_author(" ".join(said), anchor)


def _say_shift(shift: Mapping[str, Any], between: str) -> str:
    if shift["is_shifted"]:
        return f"The balance of classes differs between {between} (chi-squared test)."
    return f"No difference in the balance of classes was found between {between}."


def _compared_splits(facts: RunFacts) -> Known:
    text = "Table 1 has the classes of each set side by side."
    if not facts.has("unfamiliar"):
        return for_author(text, "table1")
    share = number_text("share", facts.evaluation["unfamiliar"]["test_false_alarms"])
    return is_done(f"{text} Of the images tested {share} were flagged as unfamiliar.", "unfamiliar")


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
    return is_done(f"{'; '.join(said)}.", "table1")


def _technical_details(facts: RunFacts) -> Known:
    return is_done(
        "The methods are written out in the report; config.toml holds every option and repeats "
        "the run.",
        "methods",
    )


def _availability(facts: RunFacts) -> Known:
    versions = facts.versions("medlens")
    return for_author(
        f"The software is {versions[0] if versions else 'medlens'}, under the MIT licence; the "
        "classifier and the checksums of data and weights lie in the run folder.",
        "environment",
    )


def _whole_model(facts: RunFacts) -> Known:
    if not facts.has_classifier:
        return for_author("No classifier lies in the run folder.")
    return is_done(
        "The folder classifier/ holds the whole network in Keras's format, from raw pixels to "
        "probabilities, with its classes and all that was chosen with it.",
        "environment",
    )


def _updating(facts: RunFacts) -> Known:
    return Known(NOT_APPLICABLE, "The classifier was not changed after its evaluation.")


def _limitations(facts: RunFacts) -> Known:
    return for_author(
        "What medlens itself knows to limit the result stands in the summary.", "summary"
    )


TOPICS: Mapping[str, Topic] = {
    function.__name__.removeprefix("_"): function
    for function in (
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
        _flow,
        _characteristics,
        _limitations,
        _technical_details,
        _availability,
        _quality,
        _predictors,
        _subjective_predictors,
        _updating,
        _imbalance,
        _differences,
        _compared_splits,
        _events,
        _whole_model,
    )
}
