"""A methods section in plain English, made from what a run really did, ready to be pasted."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from medlens.report.data_words import data_sentences, disjoint_sentence, split_sentence
from medlens.report.interval_words import interval_methods
from medlens.report.references import number_references
from medlens.report.run_facts import RunFacts, count_of, is_small_test, join_words, read_facts
from medlens.run_dir import RunDir

BACKBONE_NAMES = {
    "vgg16": "VGG16",
    "vgg19": "VGG19",
    "resnet50": "ResNet-50",
    "densenet121": "DenseNet-121",
    "mobilenet_v2": "MobileNetV2",
    "efficientnet_v2b0": "EfficientNetV2-B0",
    "convnext_tiny": "ConvNeXt-Tiny",
}
SQUARE = {
    "pad": "padded with black to a square",
    "crop": "cropped to the square in their centre",
    "stretch": "stretched to a square",
}
# Below this many images a test set gives intervals too wide for most claims.
FITTED_ON = {
    "val": "half of the tuning images, divided by group, which had not been used to stop the "
    "training",
    "out_of_fold": "the training images, each predicted by a head that was fitted without its "
    "group; as these heads saw only a part of the training images, this is approximate",
    "stop": "the tuning images that had also stopped the training, as there were too few groups "
    "for anything better; this is approximate and somewhat too confident",
    "tuned": "the tuning images that had also stopped the training, as the fine-tuned network had "
    "seen all others; this is approximate and somewhat too confident",
}
ENGINES = {"keras": "Keras"}
# A hint at an option of medlens, which is nothing for a paper.
OPTION_HINT = re.compile(r"\s*\(--[^)]*\)")


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
        fine_tuning_sentences(facts),
        _choices(facts),
        _statistics(facts),
        _further(facts),
        software_sentence(facts),
        " ".join(limit_sentences(facts)),
    ]
    paragraphs, references = number_references([one for one in said if one])
    return [*paragraphs, *references]


WEIGHTED: Mapping[str, str] = {
    "none": "each image weighing the same",
    "balanced": "each class weighing the same",
    "logit_adjusted": "each image weighing the same (the logarithm of each class's share of the "
    "training images was then taken from its logit)",
}


def backbone_name(facts: RunFacts) -> str:
    """Like VGG16."""
    name = str(facts.training["backbone"])
    return BACKBONE_NAMES.get(name, name)


def network_sentence(facts: RunFacts) -> str:
    """The frozen network and what it is shown."""
    training = facts.training
    name = backbone_name(facts)
    kind = "a convolutional network" if is_fine_tuned(facts) else "a frozen convolutional network"
    network = f"{kind}, {name} [@{training['backbone'].replace('_', '')}]"
    if training["backbone"].endswith(".keras"):
        network = f"{kind} of the authors' own ({name})"
    square, size = SQUARE[training["fit"]], training["image_size"]
    dicom = ""
    if "format" in facts.used and (facts.used["format"] == "DICOM").any():
        dicom = (
            "DICOM images were brought to grey levels by their modality and VOI look-up tables or "
            "window (without one, by their own range), and MONOCHROME1 was inverted. "
        )
    return (
        f"{dicom}All images were {square}, scaled to {size} x {size} pixels and passed once "
        f"through {network}, without its classification layers."
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
    if is_fine_tuned(facts):
        return f"{said[kind]} Those of the last layers were then fine-tuned."
    return f"{said[kind]} They were not changed."


def is_fine_tuned(facts: RunFacts) -> bool:
    """Whether the network that answers is not the frozen one."""
    return bool((facts.training.get("fine_tuning") or {}).get("is_used"))


def fine_tuning_sentences(facts: RunFacts) -> str:
    """How the last blocks were trained, and whether that is used; "" where it was not done."""
    tuned = facts.training.get("fine_tuning")
    if not tuned:
        return ""
    blocks = "block" if tuned["blocks"] == 1 else f"{tuned['blocks']} blocks"
    frozen, after = (tuned["val_loss"][name] for name in ("frozen", "fine_tuned"))
    ended = "The fine-tuned network is used" if tuned["is_used"] else "The frozen network is used"
    return (
        f"Then the last {blocks} of the network were fine-tuned together with the new layers, by "
        f"{tuned['optimizer']}, in steps of {count_of(tuned['batch_size'], 'image')}, on views of "
        f"the training images drawn anew in every epoch, as suits "
        f"{tuned['views'].replace('_', ' ')}; batch normalisation stayed frozen. The weights of "
        f"epoch {tuned['best_epoch']} of {tuned['epochs_run']}, by the loss on one half of the "
        f"tuning images that stop the training, divided by group, were kept. {ended}: on the other "
        f"half the loss was {frozen:.3f} before and {after:.3f} after, and fine-tuning had to be "
        "better in 97.5 % of bootstrap draws by group."
    )


def features_sentence(facts: RunFacts) -> str:
    """What was made of the network's activations."""
    columns, kept = facts.training["columns"], facts.training["columns_kept"]
    where = {
        "all": "The mean and the standard deviation of each channel at several depths of the "
        "network were",
        "deep": "The mean and the standard deviation of each channel in the deeper half of the "
        "network were",
        "last": "The mean of each channel of its last layer was",
    }
    used = f", of which {kept:,} were used" if kept < columns else ""
    return (
        f"{where[facts.training['features']]} taken as features ({columns:,} were computed for "
        f"each image{used}).{_chosen_sentence(facts)}"
    )


def _chosen_sentence(facts: RunFacts) -> str:
    """That depth set, head and weighting were compared, and how."""
    count = facts.training.get("candidates", 0)
    if not count:
        return ""
    return (
        f" {_what_was_chosen(facts)} were chosen among {count} candidates by "
        "grouped cross-validation inside the training images, by the lowest cross-entropy (class "
        "weighting by balanced accuracy); test images took no part."
    )


def _what_was_chosen(facts: RunFacts) -> str:
    several = "backbone" in facts.training.get("choice", {})
    return (
        "The network, depths" if several else "Depths"
    ) + ", form of the head and class weighting"


def head_sentence(facts: RunFacts) -> str:
    """The layers that were trained on the features."""
    head = str(facts.training["head"])
    units, dropout = re.findall(r"Dense\((\d+)", head), re.search(r"Dropout\(([\d.]+)\)", head)
    layers = [f"a hidden layer of {int(one):,} units (ReLU)" for one in units]
    if dropout and float(dropout[1]):
        layers.append(f"dropout of {dropout[1]} [@dropout]")
    layers.append("a softmax layer with one output for each class")
    inputs = (
        "standardised on the training images and reduced to at most 512 of their principal "
        "components"
    )
    heads = facts.training.get("heads", 1)
    merged = ""
    if heads > 1:
        merged = (
            f" The classifier is the mean of the logits of {heads} such heads, each fitted without "
            "one fold of the training images."
        )
    return (
        f"On these features, {inputs}, new layers were trained: {join_words(layers)}.{merged}"
        f"{_averaging_sentence(facts)}"
    )


def _averaging_sentence(facts: RunFacts) -> str:
    """That what is said of an image is a mean over symmetric views of it."""
    views = facts.training.get("views_averaged", 1)
    if views == 1:
        return ""
    which = "as it is and mirrored" if views == 2 else f"in its {views} mirror images and turns"
    return (
        f" In testing, as in use, each image was seen {which}, and the logits were averaged before "
        "any temperature; the layers were trained without this."
    )


def training_sentences(facts: RunFacts) -> str:
    """The head, how it was trained, and why that stopped."""
    training = facts.training
    weighted = WEIGHTED[training["class_weight"]]
    optimizer, _, settings = str(training["optimizer"]).partition(", ")
    epochs = count_of(training["epochs_run"], "epoch")
    ended = {
        "accuracy": f"It stopped after {epochs}, as that accuracy was reached",
        "patience": f"It stopped after {epochs}, as the loss had not fallen any further",
        "epochs": f"It ran for {epochs}, the most that were allowed",
        "callback": f"It stopped after {epochs}, by a rule of the authors",
    }[training["stop_reason"]]
    folds = " In cross-validation every fold was trained in this way." if facts.folds else ""
    return (
        f"{head_sentence(facts)} They were fitted by {optimizer} with decoupled weight decay "
        f"[@adamw] ({settings}) to the {training['loss']}, {weighted}, in steps of "
        f"{count_of(training['batch_size'], 'image')}, {_augmented(training)} (seed "
        f"{training['seed']}). {_stopping(facts)} {ended}; the weights of epoch "
        f"{training['best_epoch']} were kept.{folds}"
    )


def _augmented(training: Mapping[str, Any]) -> str:
    augmentation = training.get("augmentation", "none")
    if augmentation == "none":
        return "without augmentation"
    preset, _, count = augmentation.partition(", ")
    name = preset.replace("_", " ")
    return (
        f"also on {count} of the training set, augmented as suits {name} and put through the "
        "network once"
    )


def _stopping(facts: RunFacts) -> str:
    config = facts.config
    accuracy = config.get("stop_at_accuracy", 0.98)
    held_out = "held-out" if facts.training.get("heads", 1) > 1 else "tuning"
    rules = [
        f"the loss on the {held_out} images had not fallen for {config.get('patience', 10)} epochs",
        f"{config.get('epochs', 100)} epochs were done",
    ]
    if accuracy != "none":
        whose = {"val": held_out, "train": "training"}[config.get("stop_on", "val")]
        rules.insert(0, f"the accuracy on the {whose} images reached {float(accuracy):g}")
    return f"Training was to stop once {join_words(rules, 'or')}."


def fitted_on(facts: RunFacts) -> str:
    """On what images temperature, threshold, sets and limit were fitted; "" where nothing was."""
    kind = facts.evaluation.get("calibration", {}).get("fitted_on")
    return "" if kind is None else FITTED_ON[kind]


def _choices(facts: RunFacts) -> str:
    """Calibration, operating point, prediction sets and unfamiliar images."""
    if not facts.has("calibration"):
        return "Probabilities are those of the softmax; they were not calibrated."
    folds = ""
    if facts.folds:
        folds = " In cross-validation every fold chose its own, on its own images; given here "
        folds += "are those of the classifier that was saved."
    said = [
        f"What follows was chosen without any test image, on {fitted_on(facts)}.{folds}",
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
        because = f": {OPTION_HINT.sub('', str(reason))}" if reason else ""
        return f"The answer is the most probable class; no threshold was chosen{because}."
    goal, _, value = str(point["rule"]).partition("=")
    missed, _, alarm = value.partition(":")
    words = {
        "youden": "the sum of sensitivity and specificity is largest [@youden]",
        "sensitivity": f"the sensitivity is at least {value}",
        "specificity": f"the specificity is at least {value}",
        "cost": f"the cost is least, a missed case counting {missed} and a false alarm {alarm}",
    }
    return (
        f"An image is called {point['class']} where the probability of that class is at least "
        f"{point['threshold']:.3g}, chosen so that {words[goal]}."
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
    curves = facts.evaluation.get("curves", {})
    said = [f"Measured {facts.result_name} were {measure_words(facts)}."]
    if "test" not in facts.evaluation:
        said.append(
            "ROC AUC was averaged over the folds; all else was computed on all images together."
        )
    if curves.get("roc"):
        said.append("ROC and precision-recall curves were drawn.")
    if facts.has("calibration"):
        said.append(
            "Calibration was assessed by a reliability diagram, the Brier score [@brier], the "
            "expected calibration error, and calibration slope and intercept [@cox], before and "
            "after the temperature."
        )
    if curves.get("decision"):
        said.append("Usefulness was assessed by a decision curve [@decision].")
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
        which = (
            "test images" if "test" in facts.evaluation else "images, from the saved classifier,"
        )
        said.append(f"Heat maps of {which} were made from activations and gradients [@cam].")
    if facts.evaluation.get("robustness"):
        changes = facts.evaluation["robustness"]
        listed = "; ".join(f"{one['change']} ({one['text']})" for one in changes[1:])
        images = count_of(changes[0]["accuracy"]["n"], "test image")
        said.append(f"Robustness was tested on {images}, mildly changed: {listed}.")
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
    engine, precision = facts.training.get("engine"), facts.training.get("precision")
    in_precision = f" in {precision}" if precision else ""
    ran = ""
    if engine:
        ran = f"The frozen network was run by {ENGINES.get(engine, engine)}{in_precision}."
    return f"{ran}{listed}".strip()


def limit_sentences(facts: RunFacts) -> list[str]:
    """What limits the result, the gravest first."""
    said = []
    if facts.training["weights"] == "random":
        said.append(
            "The frozen network had random weights: the numbers show that the software works, and "
            "are not a result."
        )
    if facts.overlaps:
        said.append(disjoint_sentence(facts))
    elif facts.patients != "all":
        known = "are not known" if facts.patients == "none" else "are known for some images only"
        said.append(
            f"Patients {known}. If images of one patient were trained and tested on, the results "
            "are too good."
        )
    if "test" not in facts.evaluation:
        said.append("The classifier that was saved was not itself tested.")
    elif is_small_test(facts.result["n"], facts.result["groups"]):
        said.append(
            f"The test set is small ({count_of(facts.result['n'], 'image')} of "
            f"{count_of(facts.result['groups'], 'group')}), and the intervals are wide."
        )
    said += [str(probe["text"]) for probe in facts.probes if probe.get("severity") == "alarm"]
    shift = facts.evaluation.get("prediction_sets", {}).get("class_balance_shift", {})
    if shift.get("is_shifted"):
        said.append(str(shift["text"]))
    if not facts.external:
        said.append(
            "All test images come from the same data set as the training images; how the "
            "classifier does on images from elsewhere is not known."
        )
    return [
        *said,
        "The labels were taken as the data set gives them.",
        "The classifier is for research; it is not a medical device.",
    ]
