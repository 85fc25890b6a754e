"""A methods section in plain English, made from what a run really did, ready to be pasted."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from medlens.report.interval_words import interval_methods
from medlens.report.references import number_references
from medlens.report.run_facts import LEAK, RunFacts, count_of, join_words, read_facts
from medlens.run_dir import RunDir

BACKBONE_NAMES = {"vgg16": "VGG16", "mobilenet_v2": "MobileNetV2"}
SQUARE = {
    "pad": "padded with black to a square",
    "crop": "cropped to the square in their centre",
    "stretch": "stretched to a square",
}
# The reasons in dataset.csv -> which images these are.
REASONS = {
    "unreadable": "files that cannot be read",
    "conflicting labels": "images with an identical copy of another label",
    "excluded in the file given with --split": "images that the authors' own list excludes",
    LEAK: "images for training or tuning with a copy, a near-duplicate or the patient in a later "
    "set",
    "": "images that are in no set",
}
FITTED_ON = {
    "val": "half of the tuning images, divided by group, that had not been used to stop the "
    "training",
    "out_of_fold": "out-of-fold predictions of the training images, each from a head fitted "
    "without the image's group; as these heads saw only part of the training images, this is "
    "approximate",
    "stop": "the tuning images that had also stopped the training, as there were too few groups "
    "for anything better; this is approximate and somewhat too confident",
}


def methods_paragraphs(run: RunDir) -> list[str]:
    """A methods section: paragraphs, then the references, each with its number.

    Args:
        run: A finished run.

    Raises:
        MedlensError: If the run is not finished.
    """
    facts = read_facts(run)
    said = [
        data_sentences(facts),
        " ".join([split_sentence(facts), disjoint_sentence(facts)]),
        " ".join([network_sentence(facts), initial_sentence(facts), features_sentence(facts)]),
        training_sentences(facts),
        _choices(facts),
        _statistics(facts),
        _further(facts),
        software_sentence(facts),
        " ".join(limit_sentences(facts)),
    ]
    paragraphs, references = number_references([one for one in said if one])
    return [*paragraphs, *references]


def data_sentences(facts: RunFacts) -> str:
    """How many images there were, of what, and which were left out."""
    found, used = facts.images, facts.used
    said = [f"The data set held {count_of(len(found), 'image')} of {_classes(facts)}."]
    if facts.config.get("drop_class"):
        names = join_words([str(name) for name in facts.config["drop_class"]])
        said.append(f"Images of {names} were left out beforehand.")
    said.append(exclusion_sentence(facts))
    known = used[used["patient"] != ""]
    patients = count_of(known["patient"].nunique(), "patient")
    groups = count_of(used["group"].nunique(), "group")
    analysed = f"{count_of(len(used), 'image')} in {groups} were analysed"
    if facts.patients == "none":
        said.append(
            f"{analysed[0].upper()}{analysed[1:]}; which patients they come from is not known."
        )
    elif facts.patients == "some":
        said.append(
            f"{analysed[0].upper()}{analysed[1:]}; the patient is known for {len(known):,} of them "
            f"({patients})."
        )
    else:
        said.append(f"{analysed[0].upper()}{analysed[1:]}, from {patients}.")
    said.append(
        "A group joins all images of a patient, and all identical or nearly identical images."
    )
    return " ".join(said)


def exclusion_sentence(facts: RunFacts) -> str:
    """Which images were left out, and why."""
    left = facts.images[facts.images["split"] == ""]
    if left.empty:
        return "None was excluded."
    reasons = left["excluded"].map(lambda text: LEAK if text.startswith(LEAK) else text)
    counts = reasons.value_counts().sort_index().sort_values(ascending=False, kind="stable")
    said = [f"{REASONS.get(str(text), text)} ({number:,})" for text, number in counts.items()]
    verb = "was" if len(left) == 1 else "were"
    return f"Of these, {len(left):,} {verb} excluded: {join_words(said)}."


def split_sentence(facts: RunFacts) -> str:
    """How the images came into their sets, and how many are in each."""
    sizes = {name: facts.used[facts.used["split"] == name] for name in ("train", "val", "test")}
    words = {"train": "for training", "val": "for tuning", "test": "for the internal test"}
    shown = join_words(
        [
            f"{len(rows):,} {words[name]} ({count_of(rows['group'].nunique(), 'group')})"
            for name, rows in sizes.items()
            if len(rows)
        ]
    )
    said = {
        "file": f"The authors' own list assigned the images to sets: {shown}.",
        "given": f"The split that the data set brings was used: {shown}.",
        "ratio": "The images were divided at random (seed "
        f"{facts.config.get('seed', 0)}), in whole groups and stratified by class: {shown}.",
    }[facts.splitting]
    counts = facts.audit.get("counts", {}).get("given_split", {})
    carved = [one for one in ("val", "test") if one not in counts and len(sizes[one])]
    if facts.splitting == "given" and carved:
        which = join_words([{"val": "tuning", "test": "test"}[one] for one in carved])
        said += (
            f" The data set brings no {which} set; it was taken out of the training images in "
            "whole groups, stratified by class."
        )
    if facts.removed_for_leaks:
        said += (
            " Where a copy, a near-duplicate or a patient crossed the split, the images for "
            f"training or tuning were removed ({count_of(facts.removed_for_leaks, 'image')})"
            f"{' or moved from tuning to training' if 'val' in counts else ''}; the test set was "
            "left whole."
        )
    return f"{said} {_folds(facts)}".strip()


def _folds(facts: RunFacts) -> str:
    if not facts.folds:
        return ""
    kept = "no image was kept apart as a test set"
    if "test" in facts.evaluation:
        kept = "the test set took no part"
    return (
        f"In addition, {facts.folds}-fold cross-validation was done on the images for training and "
        "tuning, in whole groups and stratified by class: each fold was tested once by a "
        "classifier that had not seen any of its groups, and what was left was divided by group "
        f"into training and tuning images; {kept}. The classifier that was saved was made from all "
        "these images, and is none of those tested in the folds."
    )


def disjoint_sentence(facts: RunFacts) -> str:
    """At which level the sets are disjoint."""
    said = {
        "all": "No patient and no copy or near-duplicate of an image is in more than one set.",
        "some": "No known patient and no copy or near-duplicate of an image is in more than one "
        "set; images of unknown patients are kept apart by image only.",
        "none": "The sets are disjoint at the level of images, their copies and near-duplicates "
        "only: patients are not known, so that images of one patient may be in several sets.",
    }
    return said[facts.patients]


def network_sentence(facts: RunFacts) -> str:
    """The frozen network and what it is shown."""
    training = facts.training
    name = BACKBONE_NAMES.get(training["backbone"], training["backbone"])
    cited = training["backbone"].replace("_", "")
    square, size = SQUARE[training["fit"]], training["image_size"]
    dicom = ""
    if "format" in facts.used and (facts.used["format"] == "DICOM").any():
        dicom = (
            " DICOM images were brought to grey levels by their modality and VOI look-up tables or "
            "window (without one, by their own range), and MONOCHROME1 was inverted."
        )
    return (
        f"Images were {square} and scaled to {size} x {size} pixels.{dicom} They were passed once "
        f"through a frozen convolutional network, {name} [@{cited}], without its classification "
        "layers."
    )


def initial_sentence(facts: RunFacts) -> str:
    """Where the network's weights come from."""
    kind, checksum = facts.training["weights"], facts.training.get("weights_sha256")
    with_checksum = f" (SHA-256 {checksum})" if checksum else ""
    said = {
        "imagenet": f"Its weights{with_checksum} were pretrained on ImageNet [@imagenet].",
        "file": f"Its weights{with_checksum} were read from a file; what they were trained on is "
        "for the authors to state.",
        "random": "Its weights were random, not pretrained, so that the results show only that "
        "the software works.",
    }
    return f"{said[kind]} They were not changed."


def features_sentence(facts: RunFacts) -> str:
    """What was made of the network's activations."""
    columns, kept = facts.training["columns"], facts.training["columns_kept"]
    where = {"all": "of several depths of the network", "last": "of its last layer"}
    used = f", of which the {kept:,} that vary were used" if kept < columns else ""
    return (
        "The mean and the standard deviation of each channel "
        f"{where[facts.training['features']]} were taken as features ({columns:,} for each "
        f"image{used})."
    )


def training_sentences(facts: RunFacts) -> str:
    """The head, how it was trained, and why that stopped."""
    training, config = facts.training, facts.config
    has_hidden = str(training["head"]).count("Dense(") > 1
    inputs = "standardised on the training images"
    if has_hidden:
        inputs += " and reduced to at most 512 of their principal components"
    weighted = (
        "each class weighing the same"
        if training["class_weight"] == "balanced"
        else "each image weighing the same"
    )
    return (
        f"On these features, {inputs}, a head was trained: {training['head']} [@dropout], by "
        f"{training['optimizer']} [@adamw], on {training['loss']}, {weighted}, in steps of "
        f"{training['batch_size']} images, without augmentation (seed {training['seed']}). "
        f"{_stopping(config)} Training ran for {count_of(training['epochs_run'], 'epoch')}; the "
        f"weights of epoch {training['best_epoch']} were kept. {training['stop_text']}"
    )


def _stopping(config: Mapping[str, Any]) -> str:
    accuracy = config.get("stop_at_accuracy", 0.98)
    rules = [
        f"the loss on the tuning images had not fallen for {config.get('patience', 10)} epochs",
        f"{config.get('epochs', 100)} epochs were done",
    ]
    if accuracy != "none":
        whose = {"val": "tuning", "train": "training"}[config.get("stop_on", "val")]
        rules.insert(0, f"the accuracy on the {whose} images reached {float(accuracy):g}")
    return f"It was to stop once {join_words(rules, 'or')}."


def fitted_on(facts: RunFacts) -> str:
    """On what images temperature, threshold, sets and limit were fitted; "" where nothing was."""
    kind = facts.evaluation.get("calibration", {}).get("fitted_on")
    return "" if kind is None else FITTED_ON[kind]


def _choices(facts: RunFacts) -> str:
    """Calibration, operating point, prediction sets and unfamiliar images."""
    if not facts.has("calibration"):
        return "Probabilities are those of the softmax; they were not calibrated."
    said = [
        "What follows was chosen without the test images, on "
        f"{fitted_on(facts)}."
        + (
            " In cross-validation each fold chose its own, on its own development images."
            if "test" not in facts.evaluation
            else ""
        ),
        "Probabilities were calibrated by a temperature "
        f"({facts.evaluation['calibration']['temperature']:.3g}) [@temperature].",
        operating_sentence(facts),
    ]
    if facts.has("prediction_sets"):
        levels = [
            f"{100 * float(level):g} %" for level in facts.evaluation["prediction_sets"]["levels"]
        ]
        said.append(
            f"Split-conformal prediction sets were made for {join_words(levels)} coverage, with "
            "groups as units [@conformal, @conformalgroups]."
        )
    if facts.has("unfamiliar"):
        said.append(
            "An image is flagged as unfamiliar where its features lie further from the nearest of "
            "up to 2,000 training images than the 99th percentile of held-out images [@neighbours]."
        )
    return " ".join(said)


def operating_sentence(facts: RunFacts) -> str:
    """The threshold and its rule, or that there is none."""
    point = facts.evaluation.get("operating_point", {})
    if facts.threshold is None:
        reason = point.get("reason")
        because = f": {reason}" if reason else ""
        return f"The answer is the most probable class; no threshold was chosen{because}."
    rule = str(point["rule"])
    goal, _, value = rule.partition("=")
    words = {
        "youden": "so that sensitivity + specificity is largest [@youden]",
        "sensitivity": f"for a sensitivity of at least {value}",
        "specificity": f"for a specificity of at least {value}",
        "cost": f"for the least cost, a missed case and a false alarm costing {value}",
    }
    return (
        f"An image is called {point['class']} where the probability of that class reaches "
        f"{point['threshold']:.3g}, chosen {words[goal]}."
    )


def measure_words(facts: RunFacts) -> str:
    """The measures of the result."""
    if "recall" in facts.result:
        positive = facts.evaluation["positive_class"]
        named = f"sensitivity, specificity, precision and F1 score of {positive}"
    else:
        named = (
            "sensitivity (recall), specificity, precision and F1 score of each class against the "
            "rest and their means"
        )
    return (
        f"accuracy, balanced accuracy, {named}, Matthews correlation, ROC AUC, average precision "
        "and log loss"
    )


def _statistics(facts: RunFacts) -> str:
    where = "On the internal test set" if "test" in facts.evaluation else "In cross-validation"
    said = [f"{where} these were measured: {measure_words(facts)}."]
    if facts.has("calibration"):
        said.append(
            "Calibration was assessed by a reliability diagram, the Brier score [@brier], the "
            "expected calibration error, and calibration slope and intercept [@cox], before and "
            "after the temperature."
        )
    if facts.evaluation.get("curves", {}).get("decision"):
        said.append("Usefulness was assessed by a decision curve [@decision].")
    if "test" not in facts.evaluation:
        said.append("ROC AUC was averaged over the folds.")
    said.append(
        "All intervals are 95 % intervals with the group, not the image, as unit: "
        f"{'; '.join(interval_methods(facts))}."
    )
    return " ".join(said)


def _further(facts: RunFacts) -> str:
    """What else was done: subgroups, probes, label suspects, robustness, external tests."""
    said = []
    if facts.subgroups:
        said.append(
            f"The result was divided by {join_words(facts.subgroups)}; heterogeneity was tested by "
            "Cochran's Q [@cochran], adjusted by Holm's method [@holm]."
        )
    if facts.probes:
        names = join_words([str(probe["name"]) for probe in facts.probes])
        said.append(
            f"To detect shortcuts, small decision trees were trained on {names} alone, without the "
            "picture, and tested on the same images."
        )
    if facts.evaluation.get("label_suspects", {}).get("n") is not None:
        said.append(
            "Training labels were screened by confident learning on out-of-fold predictions "
            "[@northcutt]; none was changed."
        )
    if facts.evaluation.get("saliency"):
        said.append("Heat maps of test images were made from activations and gradients [@cam].")
    if facts.evaluation.get("robustness"):
        changes = [str(one["change"]) for one in facts.evaluation["robustness"]][1:]
        said.append(f"Robustness was tested on mildly changed test images ({', '.join(changes)}).")
    for external in facts.external:
        test = external["test"]
        said.append(
            "The classifier was also tested on an external data set "
            f"({count_of(test['n'], 'image')}, {count_of(test['groups'], 'group')}), on which "
            "nothing was fitted or chosen."
        )
    return " ".join(said)


def software_sentence(facts: RunFacts) -> str:
    """The versions of the software."""
    names = ("medlens", "python", "keras", "tensorflow", "ncnn", "scikit-learn", "scipy", "numpy")
    versions = facts.versions(*names)
    listed = f" The software was {join_words(versions)}." if versions else ""
    engine = facts.training.get("engine")
    precision = facts.training.get("precision")
    in_precision = f" in {precision}" if precision else ""
    ran = f"The frozen network was run by {engine}{in_precision}." if engine else ""
    return f"{ran}{listed}".strip()


def limit_sentences(facts: RunFacts) -> list[str]:
    """What limits the result, the run's own notices first."""
    said = list(facts.evaluation.get("notices", []))
    if not facts.external:
        said.append(
            "All test images come from the same data set as the training images; other patients, "
            "scanners and hospitals were not tested."
        )
    said += [
        "The labels were taken as the data set gives them.",
        "The classifier is for research; it is not a medical device.",
    ]
    return said


def _classes(facts: RunFacts) -> str:
    counts = facts.images["label"].value_counts()
    named = [f"{name} ({int(counts.get(name, 0)):,})" for name in facts.classes]
    return f"{len(named)} classes: {join_words(named)}"
