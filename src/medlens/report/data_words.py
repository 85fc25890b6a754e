"""The images of a run in the words of a paper: how many, which were left out, in which set."""

from __future__ import annotations

from medlens.report.run_facts import LEAK, RunFacts, count_of, join_words

# The reasons in dataset.csv -> which images these are.
REASONS = {
    "unreadable": "files that cannot be read",
    "conflicting labels": "images with an identical copy of another label",
    "excluded in the file given with --split": "images that the authors' own list excludes",
    "excluded in the file given with --exclude": "images that the authors took out one by one",
    LEAK: "images for training or tuning with a copy, a near-duplicate or another image of the "
    "patient in the tuning or test set",
    "": "images that are in no set",
}


def data_sentences(facts: RunFacts) -> str:
    """How many images there were, of what, and which were left out."""
    found, used = facts.images, facts.used
    said = [f"The data set held {count_of(len(found), 'image')} of {_classes(facts)}."]
    if facts.config.get("drop_class"):
        names = join_words([str(name) for name in facts.config["drop_class"]])
        said.append(f"Images of {names} were left out beforehand.")
    said.append(exclusion_sentence(facts))
    known = used[used["patient"] != ""]
    images, patients = (
        count_of(len(used), "image"),
        count_of(known["patient"].nunique(), "patient"),
    )
    groups = count_of(used["group"].nunique(), "group")
    said.append(
        {
            "all": f"The analysis covers {images} of {patients}, in {groups}.",
            "some": f"The analysis covers {images} in {groups}; the patient is known for "
            f"{len(known):,} of them ({patients}).",
            "none": f"The analysis covers {images} in {groups}; which patients they come from is "
            "not known.",
        }[facts.patients]
    )
    said.append(
        "A group joins all images of a patient, and all identical or nearly identical images."
    )
    return " ".join(said)


def exclusion_sentence(facts: RunFacts) -> str:
    """Which images were left out, and why."""
    left = facts.images[facts.images["split"] == ""]
    if left.empty:
        return "No image was excluded."
    reasons = left["excluded"].map(lambda text: LEAK if text.startswith(LEAK) else text)
    counts = reasons.value_counts().sort_index().sort_values(ascending=False, kind="stable")
    said = [f"{REASONS.get(str(text), text)} ({number:,})" for text, number in counts.items()]
    return f"Left out were {join_words(said)}."


def split_sentence(facts: RunFacts) -> str:
    """How the images came into their sets, and how many are in each."""
    shown = _set_sizes(facts)
    said = {
        "file": f"The authors' own list assigned the images to sets: {shown}.",
        "given": f"The split that the data set brings was used: {shown}.",
        "ratio": "The images were divided at random (seed "
        f"{facts.config.get('seed', 0)}), in whole groups and stratified by class: {shown}.",
    }[facts.splitting]
    given = facts.audit.get("counts", {}).get("given_split", {})
    present = set(facts.used["split"])
    words = {"val": "tuning", "test": "test"}
    carved = [words[one] for one in words if one in present and one not in given]
    if facts.splitting == "given" and carved:
        said += (
            f" The data set brings no {join_words(carved)} set; it was taken out of the training "
            "images in whole groups, stratified by class."
        )
    if facts.removed_for_leaks:
        moved = " or moved from tuning to training" if "val" in given else ""
        said += (
            " Where a copy, a near-duplicate or a patient crossed the split, the images for "
            f"training or tuning were removed ({count_of(facts.removed_for_leaks, 'image')})"
            f"{moved}; the test set was left whole."
        )
    if not facts.folds:
        return said
    folds = f"{facts.folds}-fold cross-validation"
    inner = "all other images were divided by group into images for training and for tuning"
    if "test" in facts.evaluation:
        return (
            f"{said} In addition, {folds} was done on the images for training and tuning, in whole "
            "groups and stratified by class: each fold was tested once by a classifier trained "
            f"without any of its groups, for which {inner}. The test set took no part. Then the "
            "head was fitted anew on all of these images, for as many epochs as before."
        )
    return (
        f"No images were kept apart as a test set. Instead, all were tested in {folds}, in whole "
        "groups and stratified by class: each fold was tested once by a classifier trained "
        f"without any of its groups, for which {inner}. The classifier that was saved is none of "
        "these and was not itself tested. To find its number of epochs and to calibrate it, "
        f"{_lower(said)} Then its head was fitted anew on all images, for as many epochs."
    )


def _set_sizes(facts: RunFacts) -> str:
    """Like 700 for training (300 groups), 150 for tuning (64 groups) and ..."""
    words = {"train": "for training", "val": "for tuning", "test": "for the internal test"}
    sets = {name: facts.used[facts.used["split"] == name] for name in words}
    return join_words(
        [
            f"{len(rows):,} {words[name]} ({count_of(rows['group'].nunique(), 'group')})"
            for name, rows in sets.items()
            if len(rows)
        ]
    )


def _lower(sentence: str) -> str:
    """With a small letter first."""
    return sentence[0].lower() + sentence[1:]


def disjoint_sentence(facts: RunFacts) -> str:
    """At which level the sets, and the folds, are disjoint."""
    if facts.overlaps:
        return (
            f"The sets are not disjoint: {count_of(facts.overlaps, 'group')} of linked images "
            f"{'has' if facts.overlaps == 1 else 'have'} images in more than one."
        )
    one, sets = ("set or fold", "sets and folds") if facts.folds else ("set", "sets")
    return {
        "all": f"No patient and no copy or near-duplicate of an image is in more than one {one}.",
        "some": "No known patient and no copy or near-duplicate of an image is in more than one "
        f"{one}; images of unknown patients are kept apart by image only.",
        "none": f"The {sets} are disjoint at the level of images, their copies and "
        "near-duplicates only: as patients are not known, images of one patient may be in several "
        "of them.",
    }[facts.patients]


def _classes(facts: RunFacts) -> str:
    counts = facts.images["label"].value_counts()
    named = [f"{name} ({int(counts.get(name, 0)):,})" for name in facts.classes]
    return f"{len(named)} classes: {join_words(named)}"
