"""The command `evaluate`: a finished classifier on the next hospital's images."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd

from medlens.config import Options
from medlens.data.dataset import Dataset
from medlens.data.groups import group_images, has_conflict, readable
from medlens.data.remote import join_path
from medlens.errors import MedlensError
from medlens.files import write_json, write_text
from medlens.intake import (
    dataset_csv,
    list_images,
    metadata_columns,
    prevalence,
    say_images,
    show_findings,
    take_in,
)
from medlens.model.classifier import Classifier, load_classifier
from medlens.report.evaluation import evaluate, headline, headline_rows
from medlens.report.evidence import external_evidence
from medlens.report.facts import SAID_METRICS, measure_text
from medlens.report.predictions import read_predictions, tabulate_predictions, write_predictions
from medlens.report.publish import publish
from medlens.report.run_facts import count_of, is_small_test
from medlens.run import Run
from medlens.run_dir import RunDir
from medlens.screen import Screen

WRITTEN = ("dataset.csv", "audit.json", "predictions.csv", "evaluation.json")
# Findings that are about splitting and training.
OF_TRAINING = ("class_too_small", "imbalance", "balance_shift")
SAME_IMAGE = "the run knows the same image"
SAME_PATIENT = "the run knows a patient of that id"
SAME_GROUP = "belongs with an image or a patient that the run knows"


def evaluate_externally(run: RunDir, options: Options, screen: Screen) -> Run:
    """Test the classifier of a run on other images; nothing is fitted or chosen on them.

    Images that the run already knows, by pixels or by patient, are left out, and their groups with
    them.

    Args:
        run: A finished run.
        options: `data` is the external data set, `out` the folder to write (default:
            RUN/external/NAME).
        screen: Where it is said what happens.

    Returns:
        The folder with predictions.csv and evaluation.json, as a run.

    Raises:
        MedlensError: If the run is not finished, a class is not the classifier's, no image of a
            class is left, or the folder to write is in use or belongs to the run.
    """
    classifier = load_classifier(run.classifier)
    internal = Run(run.root).evaluation
    dataset = list_images(options)
    _check_classes(dataset, classifier)
    out = choose_folder(run, options)
    say_images(dataset, classifier.facts["positive_class"], screen)
    frame = "middle" if classifier.frame is None else classifier.frame
    # All of it is the test set, whatever split it brings.
    options = replace(options, frame=frame, split="0.7,0.15,0.15", min_per_class=3)
    intake = take_in(dataset, options, screen)
    # What is said of splitting and of training does not hold here: nothing is split or trained.
    findings = [one for one in intake.findings if one.code not in OF_TRAINING]
    show_findings(replace(intake, findings=findings), screen, ("error", "warning"))
    table = intake.table.reset_index(drop=True)
    known = pd.read_csv(run.dataset, dtype=str, keep_default_na=False)
    excluded = exclude(table, known)
    counts = excluded[excluded != ""].value_counts().sort_index()
    left_out = {str(reason): int(count) for reason, count in counts.items()}
    for reason, count in left_out.items():
        screen.say(f"Left out: {count_of(count, 'image')}, {reason}.")
    split = pd.Series("test", table.index).where(excluded == "", "")
    table = table.assign(split=split, role=split, group=group_images(table), excluded=excluded)
    tested = table[table["split"] == "test"].reset_index(drop=True)
    _check_tested(tested, classifier)
    with screen.progress("Predicting", len(tested), "images") as progress:
        features, logits = classifier.measure(
            [join_path(dataset.root, path) for path in tested["path"]], progress
        )
    distances = classifier.familiarity.distances(features)
    said = tabulate_predictions(tested, logits, distances, classifier.verdict)
    write_predictions(out / "predictions.csv", said)
    predictions = read_predictions(out / "predictions.csv")
    classes = list(classifier.classes)
    evaluation = evaluate(
        predictions,
        classes=classes,
        positive_class=classifier.facts["positive_class"],
        seed=internal["seed"],
    )
    before = headline_rows(read_predictions(run.predictions))
    metadata = metadata_columns(dataset)
    block = headline(internal)
    evidence = external_evidence(
        predictions,
        tested,
        metadata,
        classifier,
        evaluation,
        before,
        prevalence(options),
        internal_name=block,
    )
    beside = {name: internal[block][name] for name in SAID_METRICS}
    write_text(out / "dataset.csv", dataset_csv(table.drop(columns="role"), dataset.left_out))
    write_json(out / "audit.json", intake.audit_json())
    content = {
        "notices": _notices(tested, left_out, classifier.facts["weights"]["kind"]),
        **evaluation,
        **evidence,
        "excluded": left_out,
        "internal_name": block,
        "internal": beside,
    }
    write_json(out / "evaluation.json", content)
    _say_result(content, beside, block, screen)
    if out.resolve().parent == run.external.resolve():
        publish(run)
        screen.say(f"The report shows it beside the run's own test: {run.report}")
    screen.say(f"External test: {out}")
    screen.say("Not a medical device.")
    return Run(out)


def choose_folder(run: RunDir, options: Options) -> Path:
    """Where the external test is written; nothing is made or changed yet.

    Args:
        run: The run that is tested.
        options: With `data`, `out` and `overwrite`.

    Raises:
        MedlensError: If the folder would lie on the run, or holds anything else.
    """
    data = Path(options.data).resolve()
    if data.suffix.lower() == ".csv":
        name = data.parent.name
    else:
        name = data.stem if data.suffix.lower() == ".npz" else data.name
    out = Path(options.out) if options.out else run.external / (name or "external")
    resolved, root = out.resolve(), run.root.resolve()
    is_inside = resolved.is_relative_to(root) and run.external.resolve() not in resolved.parents
    if is_inside or root.is_relative_to(resolved):
        raise MedlensError(
            "The folder for the external test belongs to the run.",
            got="the run's own folder, one inside it, or one that the run lies in",
            expected="a folder apart, or one below external in the run's folder",
            fix="Name another --out, or leave it away.",
            names=[str(out)],
        )
    foreign = sorted(path.name for path in out.iterdir()) if out.is_dir() else []
    if any(name not in WRITTEN for name in foreign) or (foreign and not options.overwrite):
        raise MedlensError(
            "The folder for the external test is in use.",
            got=f"{len(foreign)} files or folders in it",
            expected="a new or an empty folder",
            fix="Name another --out, or replace an earlier external test with --overwrite.",
            names=[str(out)],
        )
    return out


def _check_classes(dataset: Dataset, classifier: Classifier) -> None:
    unknown = sorted(set(dataset.classes) - set(classifier.classes))
    if unknown:
        raise MedlensError(
            "The external data has classes that the classifier does not know.",
            got=", ".join(unknown),
            expected="only " + ", ".join(classifier.classes),
            fix="Rename the folders or labels, or leave classes out with --drop-class.",
        )


def exclude(table: pd.DataFrame, known: pd.DataFrame) -> pd.Series[str]:
    """Why an image is no part of the external test; "" where it is.

    With an image or a patient that the run knows goes all that belongs with it: the patient's
    other images, copies, and near-duplicates.

    Args:
        table: The external images, with label, patient, pixels_sha256, near_copies, unreadable.
        known: The images of the run, with patient and pixels_sha256.
    """
    is_readable = readable(table)
    same_pixels = table["pixels_sha256"].isin(set(known["pixels_sha256"]) - {""}) & is_readable
    same_patient = table["patient"].isin(set(known["patient"]) - {""}) & is_readable
    groups = group_images(table)
    same_group = groups.isin(set(groups[same_pixels | same_patient]))
    excluded = pd.Series("", table.index, dtype=str)
    for reason, rows in (
        ("unreadable", ~is_readable),
        (SAME_IMAGE, same_pixels),
        (SAME_PATIENT, same_patient),
        (SAME_GROUP, same_group),
        ("conflicting labels", has_conflict(table)),
    ):
        excluded[(excluded == "") & rows] = reason
    return excluded


def _check_tested(tested: pd.DataFrame, classifier: Classifier) -> None:
    if tested["label"].nunique() < min(2, len(classifier.classes)):
        raise MedlensError(
            "The external data cannot test the classifier.",
            got=f"{len(tested)} usable images of {tested['label'].nunique()} class(es)",
            expected="new images of two classes at least",
            fix="Add images; those that the run knows already are left out.",
        )


def _notices(tested: pd.DataFrame, left_out: dict[str, int], weights_kind: str) -> list[str]:
    """What a reader must know before any number."""
    said = []
    if weights_kind == "random":
        said.append(
            "The backbone has random filters, not pretrained weights. "
            "These numbers show that the road works; they are not a result."
        )
    unknown = int((tested["patient"] == "").sum())
    if unknown:
        many = "No patient is known" if unknown == len(tested) else "Not every patient is known"
        said.append(f"{many}: whether a patient of the run is among these cannot be told.")
    if SAME_PATIENT in left_out:
        count = count_of(left_out[SAME_PATIENT], "image")
        said.append(
            f"Left out because the run knows a patient of that id: {count}. The ids of different "
            "hospitals may collide; these may be other people."
        )
    said.append(
        "Near-duplicates of the run's images were not looked for among the external images; only "
        "equal pixels were."
    )
    groups = tested["group"].nunique()
    if is_small_test(len(tested), groups):
        said.append(
            f"The external test is small: {count_of(len(tested), 'image')} of "
            f"{count_of(groups, 'group')}. Read the intervals, not the values."
        )
    return said


def _say_result(
    content: dict[str, Any], beside: dict[str, Any], block: str, screen: Screen
) -> None:
    test = content["test"]
    screen.say(f"External test: {test['n']:,} images, {test['groups']:,} groups")
    inside = "internal test" if block == "test" else "cross-validation"
    for name in SAID_METRICS:
        label = name.replace("_", " ").replace("roc auc", "ROC AUC")
        screen.say(
            f"  {label:18} {measure_text(test[name])}; {inside}: {measure_text(beside[name])}"
        )
    screen.say(content["class_balance_shift"]["text"])
    flagged = content["unfamiliar"]["share"]
    screen.say(f"Unfamiliar images: {measure_text(flagged)}")
