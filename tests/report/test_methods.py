"""The methods paragraph says what was done in this run, and nothing that was not."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from typing import Any

import pandas as pd
import pytest

from medlens.errors import MedlensError
from medlens.files import write_json, write_text
from medlens.report.methods import methods_paragraphs
from medlens.run_dir import RunDir

MakeRun = Callable[..., RunDir]
M = {"value": 0.8, "ci95": [0.7, 0.9], "n": 30, "groups": 12, "method": "Wilson"}


def paragraphs(run: RunDir) -> str:
    return "\n".join(methods_paragraphs(run))


def change(path: Any, **values: Any) -> None:
    """Set keys of a JSON file; None deletes one."""
    content = json.loads(path.read_text(encoding="utf-8")) | values
    kept = {key: value for key, value in content.items() if value is not None}
    write_json(path, kept)


def change_rows(path: Any, edit: Callable[[pd.DataFrame], pd.DataFrame]) -> None:
    table = pd.read_csv(path, dtype=str, keep_default_na=False)
    write_text(path, edit(table).to_csv(index=False))


def test_a_whole_run_is_told_with_its_numbers(own_run: RunDir) -> None:
    said = paragraphs(own_run)
    training = json.loads(own_run.training.read_text(encoding="utf-8"))
    evaluation = json.loads(own_run.evaluation.read_text(encoding="utf-8"))
    test = evaluation["test"]
    point = evaluation["operating_point"]["threshold"]
    for words in (
        "The data set held 150 images of 3 classes: healthy (50), mass (50) and "
        "microcalcification (50). No image was excluded.",
        "divided at random (seed 0), in whole groups and stratified by class",
        f"{test['n']} for the internal test ({test['groups']} groups)",
        "No patient and no copy or near-duplicate of an image is in more than one set.",
        "padded with black to a square, scaled to 32 x 32 pixels",
        "VGG16 [1]",
        "Its weights were random",
        f"the weights of epoch {training['best_epoch']} were kept",
        "15 epochs were done",
        f"An image is called mass where the probability of that class is at least {point:.3g}",
        "the sum of sensitivity and specificity is largest",
        "Robustness was tested on 24 test images, mildly changed: blur (Gaussian blur",
        "trained on file facts and global pixels alone",
        "Heat maps of test images",
        "not a medical device",
    ):
        assert words in said
    for words in ("In cross-validation", "external data set", "DICOM", "It was divided by"):
        assert words not in said


def test_every_citation_has_its_paper_and_every_paper_its_number(own_run: RunDir) -> None:
    parts = methods_paragraphs(own_run)
    text = [one for one in parts if not re.match(r"\[\d+\]", one)]
    papers = parts[len(text) :]
    cited = {
        int(number)
        for found in re.findall(r"\[([\d, ]+)\]", " ".join(text))
        for number in found.split(",")
    }
    assert [int(one[1 : one.index("]")]) for one in papers] == list(range(1, len(papers) + 1))
    assert cited == set(range(1, len(papers) + 1))
    assert "[@" not in " ".join(parts)


def test_nothing_is_told_that_was_not_done(own_run: RunDir) -> None:
    evaluation = json.loads(own_run.evaluation.read_text(encoding="utf-8"))
    kept = ("notices", "classes", "positive_class", "seed", "draws", "test", "train", "val")
    write_json(own_run.evaluation, {name: evaluation[name] for name in kept})
    said = paragraphs(own_run)
    assert "they were not calibrated" in said
    for words in (
        "temperature",
        "Split-conformal",
        "unfamiliar",
        "An image is called",
        "reliability",
        "decision curve",
        "decision trees",
        "Confident learning",
        "confident learning",
        "Heat maps",
        "Robustness",
        "curves were drawn",
        "Cochran",
    ):
        assert words not in said


@pytest.mark.parametrize(
    ("kind", "words"),
    [
        ("imagenet", "were pretrained on ImageNet ["),
        ("file", "what they were trained on is for the authors to state"),
        ("random", "Its weights were random, not pretrained"),
    ],
)
def test_where_the_weights_come_from(own_run: RunDir, kind: str, words: str) -> None:
    change(own_run.training, weights=kind, weights_sha256="ab" * 32 if kind != "random" else None)
    said = paragraphs(own_run)
    assert words in said
    assert ("SHA-256 " + "ab" * 32 in said) == (kind != "random")
    assert ("random weights" in said) == (kind == "random")


@pytest.mark.parametrize(
    ("kind", "words"),
    [
        ("val", "half of the tuning images, divided by group"),
        (
            "out_of_fold",
            "the training images, each predicted by a head that was fitted without its",
        ),
        ("stop", "the tuning images that had also stopped the training"),
    ],
)
def test_on_what_choices_were_fitted(own_run: RunDir, kind: str, words: str) -> None:
    evaluation = json.loads(own_run.evaluation.read_text(encoding="utf-8"))
    change(own_run.evaluation, calibration=evaluation["calibration"] | {"fitted_on": kind})
    said = paragraphs(own_run)
    assert f"chosen without any test image, on {words}" in said
    assert ("approximate" in said) == (kind != "val")


def test_the_head_and_its_training(own_run: RunDir) -> None:
    change(
        own_run.training,
        head="Dropout(0), Dense(softmax)",
        optimizer="Adam, learning rate 0.01, weight decay 0.01",
        class_weight="balanced",
        batch_size=16,
        epochs_run=7,
        best_epoch=7,
        stop_reason="accuracy",
        seed=3,
        backbone="mobilenet_v2",
        fit="crop",
        features="last",
    )
    write_text(
        own_run.config, 'stop_at_accuracy = 0.9\nstop_on = "train"\npatience = 4\nepochs = 50\n'
    )
    said = paragraphs(own_run)
    for words in (
        "standardised on the training images and reduced to at most 512 of their principal "
        "components, new layers were trained: a softmax layer with one",
        "(learning rate 0.01, weight decay 0.01)",
        "each class weighing the same, in steps of 16 images",
        "(seed 3)",
        "once the accuracy on the training images reached 0.9, the loss on the tuning images had "
        "not fallen for 4 epochs or 50 epochs were done",
        "It stopped after 7 epochs, as that accuracy was reached",
        "cropped to the square in their centre",
        "MobileNetV2 [1]",
        "of its last layer",
    ):
        assert words in said
    assert "dropout" not in said.lower().split("[1] sandler")[0]
    write_text(own_run.config, 'stop_at_accuracy = "none"\n')
    change(
        own_run.training,
        stop_reason="epochs",
        epochs_run=100,
        head="Dense(64, relu), Dropout(0.5), Dense(softmax)",
    )
    said = paragraphs(own_run)
    assert "once the loss on the tuning images had not fallen for 10 epochs or 100 epochs" in said
    assert "It ran for 100 epochs, the most that were allowed" in said
    assert "a hidden layer of 64 units (ReLU), dropout of 0.5 [" in said
    assert "principal components" in said
    change(own_run.training, heads=5)
    said = paragraphs(own_run)
    assert "the mean of the logits of 5 such heads" in said
    # These heads were stopped by the fold each was held out from, not by val.
    assert "once the loss on the held-out images had not fallen for 10 epochs" in said


@pytest.mark.parametrize(
    ("rule", "words"),
    [
        ("youden", "the sum of sensitivity and specificity is largest"),
        ("sensitivity=0.95", "the sensitivity is at least 0.95"),
        ("specificity=0.9", "the specificity is at least 0.9"),
        ("cost=5:1", "a missed case counting 5 and a false alarm 1"),
    ],
)
def test_the_rule_of_the_operating_point(own_run: RunDir, rule: str, words: str) -> None:
    evaluation = json.loads(own_run.evaluation.read_text(encoding="utf-8"))
    change(own_run.evaluation, operating_point=evaluation["operating_point"] | {"rule": rule})
    assert words in paragraphs(own_run)


def test_no_threshold_is_told_without_an_option_of_the_program(own_run: RunDir) -> None:
    reason = "no class of interest is named (--positive-class)"
    change(own_run.evaluation, operating_point={"threshold": None, "reason": reason})
    said = paragraphs(own_run)
    assert "no threshold was chosen: no class of interest is named." in said
    assert "--" not in said


def test_patients_known_for_some_or_for_none(own_run: RunDir) -> None:
    change_rows(
        own_run.dataset,
        lambda table: table.assign(patient=table["patient"].where(table.index >= 5, "")),
    )
    said = paragraphs(own_run)
    assert "the patient is known for 145 of them" in said
    assert "No known patient and no copy" in said
    assert "Patients are known for some images only." in said
    change_rows(own_run.dataset, lambda table: table.assign(patient=""))
    said = paragraphs(own_run)
    assert "which patients they come from is not known" in said
    assert "images of one patient may be in several of them" in said
    assert "Patients are not known." in said


def test_a_group_in_two_sets_is_not_called_disjoint(own_run: RunDir) -> None:
    images = pd.read_csv(own_run.dataset)
    twice = images.loc[images["group"].duplicated(keep=False), "path"].iloc[0]
    change_rows(
        own_run.splits,
        lambda table: table.assign(
            split=[
                ("test" if split != "test" else "train") if path == twice else split
                for path, split in zip(table["path"], table["split"], strict=True)
            ]
        ),
    )
    said = paragraphs(own_run)
    assert "The sets are not disjoint: 1 group of linked images has images in more" in said
    assert "No patient and no copy" not in said


def test_what_was_left_out_is_counted_with_its_reason(make_run: MakeRun) -> None:
    run = make_run()
    said = paragraphs(run)
    assert "The data set held 318 images" in said
    assert (
        "Left out were images with an identical copy of another label (2) and files that cannot be "
        "read (1)." in said
    )
    assert "The analysis covers 315 images of 105 patients, in 105 groups." in said


def test_a_given_split_and_resolved_leaks(own_run: RunDir) -> None:
    leak = "leak: a copy, near-duplicate or the patient is in a later split"
    splits = pd.read_csv(own_run.splits)
    gone = list(splits.loc[splits["split"] == "train", "path"][:3])
    change_rows(
        own_run.splits,
        lambda table: table.assign(
            split=table["split"].where(~table["path"].isin(gone), "excluded")
        ),
    )
    change_rows(
        own_run.dataset,
        lambda table: table.assign(
            excluded=table["excluded"].where(~table["path"].isin(gone), leak)
        ),
    )
    audit = json.loads(own_run.audit.read_text(encoding="utf-8"))
    counts = audit["counts"] | {"given_split": {"train": {}, "test": {}}}
    change(own_run.audit, counts=counts)
    said = paragraphs(own_run)
    assert "The split that the data set brings was used" in said
    assert "brings no tuning set; it was taken out of the training images in whole groups" in said
    assert "were removed (3 images); the test set was left whole" in said
    assert "Left out were images for training or tuning with a copy, a near-duplicate" in said
    assert "divided at random" not in said
    change(
        own_run.audit,
        counts=audit["counts"] | {"given_split": {"train": {}, "val": {}, "test": {}}},
    )
    said = paragraphs(own_run)
    assert "brings no" not in said
    assert "or moved from tuning to training" in said


def test_a_split_given_as_a_file(own_run: RunDir) -> None:
    write_text(own_run.config, 'split = "/home/rosalind/Splits.CSV"\n')
    said = paragraphs(own_run)
    assert "The authors' own list assigned the images to sets" in said
    assert "rosalind" not in said


def in_folds(run: RunDir) -> None:
    """Make of a run with a test set one that was cross-validated."""
    evaluation = json.loads(run.evaluation.read_text(encoding="utf-8"))
    evaluation["out_of_fold"] = evaluation.pop("test")
    write_json(run.evaluation, evaluation)
    write_text(run.config, "folds = 5\nseed = 4\n")
    change_rows(
        run.splits, lambda table: table.assign(split=table["split"].replace("test", "train"))
    )


def test_folds_instead_of_a_test_set(own_run: RunDir) -> None:
    in_folds(own_run)
    said = paragraphs(own_run)
    for words in (
        "No images were kept apart as a test set. Instead, all were tested in 5-fold",
        "to calibrate it, the images were divided at random (seed 4)",
        "Then its head was fitted anew on all images",
        "in more than one set or fold",
        "Measured in cross-validation were",
        "ROC AUC was averaged over the folds",
        "given here are those of the classifier that was saved",
        "The classifier that was saved was not itself tested.",
    ):
        assert words in said
    assert "internal test" not in said


def test_folds_beside_a_test_set(own_run: RunDir) -> None:
    evaluation = json.loads(own_run.evaluation.read_text(encoding="utf-8"))
    change(own_run.evaluation, out_of_fold=evaluation["test"])
    write_text(own_run.config, "folds = 10\n")
    said = paragraphs(own_run)
    assert "In addition, 10-fold cross-validation was done" in said
    assert "The test set took no part." in said
    assert "Measured on the internal test set were" in said
    assert "kept apart" not in said


def test_dicom_subgroups_suspects_and_external_tests(own_run: RunDir) -> None:
    change_rows(own_run.dataset, lambda table: table.assign(format="DICOM"))
    suspects = {"n": 2, "text": "", "images": []}
    columns = [{"column": name} for name in ("sex", "site")]
    change(own_run.evaluation, subgroups=columns, label_suspects=suspects)
    write_json(
        own_run.external / "clinic" / "evaluation.json",
        {"test": {"n": 30, "groups": 12, "accuracy": M}},
    )
    said = paragraphs(own_run)
    for words in (
        "DICOM images were brought to grey levels",
        "The result was divided by sex and site",
        "Training labels were screened by confident learning",
        "external data set (30 images, 12 groups), on which nothing was fitted or chosen",
    ):
        assert words in said
    assert "images from elsewhere is not known" not in said
    assert "clinic" not in said


def test_two_classes_have_a_sensitivity(make_run: MakeRun) -> None:
    said = paragraphs(make_run())
    assert "sensitivity, specificity, precision and F1 score of pneumonia" in said
    assert "each class against the rest" not in said


def test_no_file_name_and_no_patient_is_told(own_run: RunDir) -> None:
    said = paragraphs(own_run)
    images = pd.read_csv(own_run.dataset, dtype=str, keep_default_na=False)
    names = {*images["path"], *(path.rpartition("/")[2] for path in images["path"])}
    names |= set(images["patient"])
    assert [name for name in names if name in said] == []


def test_an_unfinished_run_is_refused(own_run: RunDir) -> None:
    own_run.training.unlink()
    with pytest.raises(MedlensError, match="not finished") as caught:
        methods_paragraphs(own_run)
    assert "no training.json" in caught.value.got


def test_a_network_of_the_authors_own_is_not_cited_as_a_known_one(own_run: RunDir) -> None:
    change(
        own_run.training,
        backbone="lungs.keras",
        weights="file",
        choice={"backbone": "Lowest."},
        candidates=14,
    )
    said = paragraphs(own_run)
    assert "a frozen convolutional network of the authors' own (lungs.keras)" in said
    assert "[@" not in said
    assert "The network, depths, form of the head and class weighting were chosen among 14" in said


def test_augmentation_is_told(own_run: RunDir) -> None:
    assert "without augmentation" in paragraphs(own_run)
    change(own_run.training, augmentation="x_ray, 4 views of each image")
    said = paragraphs(own_run)
    assert "also on 4 views of each image of the training set, augmented as suits x ray" in said
    assert "without augmentation" not in said
