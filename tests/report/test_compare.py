"""Pairs of runs with known differences; tests against counting by hand and other formulas."""

from __future__ import annotations

import json
from itertools import product
from typing import Any

import numpy as np
import pandas as pd
import pytest
from numpy.typing import NDArray
from scipy.special import ndtr, softmax
from scipy.stats import binomtest

from medlens.errors import MedlensError
from medlens.report.compare import compare_lines, compare_predictions
from medlens.report.evaluation import evaluate
from medlens.report.metrics import SplitPredictions
from medlens.report.paired import Pair, differences
from medlens.report.paired_tests import delong_test, mcnemar_test, sign_flip_test

TWO = ["normal", "pneumonia"]
THREE = ["a", "b", "c"]


def predict(
    classes: list[str], images: int, group_size: int, skill: float, seed: int
) -> pd.DataFrame:
    """Test rows of a run; the same images whatever the skill and the seed."""
    truth = np.arange(images) // group_size % len(classes)
    shared = np.random.default_rng(99).normal(0, 1, (images, len(classes)))
    logits = shared + np.random.default_rng(seed).normal(0, 0.7, (images, len(classes)))
    logits[np.arange(images), truth] += skill
    probabilities = softmax(logits, axis=1)
    names = np.array(classes)
    table = pd.DataFrame(
        {
            "path": [f"{number:04d}.png" for number in range(images)],
            "split": "test",
            "fold": "",
            "group": [f"g{number // group_size}" for number in range(images)],
            "label": names[truth],
            "predicted": names[probabilities.argmax(1)],
        }
    )
    table[[f"prob_{name}" for name in classes]] = probabilities
    return table


def compare(
    first: pd.DataFrame, second: pd.DataFrame, classes: list[str], **changes: Any
) -> dict[str, Any]:
    options: dict[str, Any] = {"seed": 0, "draws": 400, **changes}
    return compare_predictions(first, second, classes, None, **options)


def as_pair(first: pd.DataFrame, second: pd.DataFrame, classes: list[str]) -> Pair:
    splits = []
    for table in (first, second):
        truth, predicted = (
            np.array([classes.index(name) for name in table[column]])
            for column in ("label", "predicted")
        )
        probabilities = table[[f"prob_{name}" for name in classes]].to_numpy()
        groups = pd.factorize(table["group"])[0].astype(np.int64)
        splits.append(SplitPredictions(truth, predicted, probabilities, groups))
    return Pair(splits[0], splits[1], np.full((2, len(first)), ""))


def test_values_are_those_of_the_evaluations_and_their_differences() -> None:
    first, second = predict(THREE, 300, 3, 1.0, 1), predict(THREE, 300, 3, 2.0, 2)
    compared = compare(first, second, THREE)
    assert (compared["tested"], compared["n"], compared["groups"]) == ("test", 300, 100)
    for name, table in (("first", first), ("second", second)):
        own = evaluate(table, classes=THREE, positive_class=None, seed=0, draws=400)["test"]
        assert compared[name]["accuracy"] == own["accuracy"]
        assert compared[name]["roc_auc_macro"] == own["roc_auc_macro"]
        assert compared[name]["recall"]["b"] == own["per_class"]["b"]["recall"]
    for metric in ("accuracy", "balanced_accuracy", "roc_auc_macro", "log_loss"):
        change = compared["second"][metric]["value"] - compared["first"][metric]["value"]
        difference = compared["difference"][metric]
        assert difference["value"] == pytest.approx(change, abs=1e-12)
        assert difference["ci95"][0] < difference["value"] < difference["ci95"][1]
        assert difference["groups"] == 100
    recall = compared["difference"]["recall"]["b"]
    assert (recall["n"], recall["groups"]) == (99, 33)
    assert json.loads(json.dumps(compared)) == compared


def test_a_better_run_is_found_better_and_by_pairing_more_surely() -> None:
    first, second = predict(TWO, 400, 1, 1.0, 1), predict(TWO, 400, 1, 2.0, 2)
    compared = compare(first, second, TWO)
    for metric in ("accuracy", "balanced_accuracy", "roc_auc_macro"):
        assert compared["difference"][metric]["ci95"][0] > 0
    assert compared["difference"]["log_loss"]["ci95"][1] < 0
    assert compared["mcnemar"]["p"] < 0.001
    assert compared["delong"]["p"] < 0.001
    low, high = compared["difference"]["roc_auc_macro"]["ci95"]
    widths = [
        compared[name]["roc_auc_macro"]["ci95"][1] - compared[name]["roc_auc_macro"]["ci95"][0]
        for name in ("first", "second")
    ]
    assert high - low < 0.9 * np.hypot(*widths)


def test_the_other_way_round_all_signs_turn() -> None:
    first, second = predict(THREE, 150, 2, 1.0, 1), predict(THREE, 150, 2, 1.4, 2)
    there, back = compare(first, second, THREE), compare(second, first, THREE)
    for metric in ("accuracy", "balanced_accuracy", "roc_auc_macro", "log_loss"):
        one, other = there["difference"][metric], back["difference"][metric]
        assert one["value"] == pytest.approx(-other["value"])
        assert one["ci95"] == pytest.approx([-other["ci95"][1], -other["ci95"][0]])
    assert there["mcnemar"]["p"] == back["mcnemar"]["p"]
    assert there["delong"]["statistic"] == pytest.approx(-back["delong"]["statistic"])


def test_a_run_and_itself_do_not_differ_but_might() -> None:
    table = predict(TWO, 120, 2, 1.0, 1)
    compared = compare(table, table, TWO)
    for metric in ("accuracy", "balanced_accuracy", "roc_auc_macro", "log_loss"):
        difference = compared["difference"][metric]
        assert difference["value"] == 0
        assert difference["ci95"][0] < 0 < difference["ci95"][1]
    assert compared["mcnemar"]["p"] == compared["delong"]["p"] == 1
    assert all("does better" not in line for line in compare_lines(compared))


def test_order_of_rows_and_of_classes_change_nothing() -> None:
    first, second = predict(TWO, 120, 2, 1.0, 1), predict(TWO, 120, 2, 1.5, 2)
    shuffled = second.sample(frac=1.0, random_state=3)
    assert compare(first, second, TWO) == compare(first, shuffled, TWO, second_classes=TWO[::-1])


def test_only_test_images_count() -> None:
    first, second = predict(TWO, 120, 2, 1.0, 1), predict(TWO, 120, 2, 1.5, 2)
    train = first.assign(path="train/" + first["path"], split="train")
    folds = first.assign(fold="1")
    more = pd.concat([train, first, folds], ignore_index=True)
    assert compare(more, second, TWO) == compare(first, second, TWO)


def test_copies_of_images_in_their_groups_add_no_evidence() -> None:
    first, second = predict(TWO, 100, 1, 1.0, 1), predict(TWO, 100, 1, 1.6, 2)
    single = as_pair(first, second, TWO)
    copies = [
        pd.concat([table.assign(path=f"{copy}/" + table["path"]) for copy in range(4)])
        for table in (first, second)
    ]
    copied = as_pair(copies[0], copies[1], TWO)
    of_single, of_copied = mcnemar_test(single), mcnemar_test(copied)
    assert of_single["clustered"] is None
    assert of_copied["clustered"]["p"] == pytest.approx(of_single["p"])
    assert of_copied["p"] < of_single["p"] / 2
    one, four = delong_test(single, TWO, 1), delong_test(copied, TWO, 1)
    assert four["standard_error"] == pytest.approx(one["standard_error"])
    alone, together = (differences(pair, TWO, 1, seed=0, draws=300) for pair in (single, copied))
    for metric in ("accuracy", "balanced_accuracy", "roc_auc_macro", "log_loss"):
        assert together[metric]["ci95"] == pytest.approx(alone[metric]["ci95"], abs=2e-3)


@pytest.mark.parametrize(("lost", "won"), [(5, 12), (0, 4), (7, 7), (0, 0), (1, 30)])
def test_mcnemar_is_the_binomial_test_of_the_discordant_images(lost: int, won: int) -> None:
    surplus = np.array([-1] * lost + [1] * won + [0] * 20)
    expected = binomtest(won, lost + won).pvalue if lost + won else 1.0
    assert sign_flip_test(surplus) == pytest.approx(expected)


def test_sign_flips_are_all_counted() -> None:
    surplus = np.array([3, -1, 2, 2, -4, 1, 0, 5, 1])
    sums = [abs(np.dot(signs, surplus)) for signs in product((-1, 1), repeat=len(surplus))]
    expected = np.mean(np.array(sums) >= abs(surplus.sum()))
    assert sign_flip_test(surplus) == pytest.approx(expected)


def test_the_table_of_answers_adds_up() -> None:
    first, second = predict(THREE, 90, 1, 1.0, 1), predict(THREE, 90, 1, 1.6, 2)
    test = mcnemar_test(as_pair(first, second, THREE))
    right = [table["label"] == table["predicted"] for table in (first, second)]
    assert test["both_right"] == (right[0] & right[1]).sum()
    assert test["first_only_right"] == (right[0] & ~right[1]).sum()
    assert test["second_only_right"] == (~right[0] & right[1]).sum()
    assert test["both_wrong"] == (~right[0] & ~right[1]).sum()


def kernel(truth: NDArray[Any], scores: NDArray[Any]) -> NDArray[np.float64]:
    """Of shape (positives, negatives): 1 where the positive scores higher, one half for a tie."""
    difference = scores[truth == 1][:, np.newaxis] - scores[truth == 0]
    return np.asarray((np.sign(difference) + 1) / 2)


def test_delong_is_the_published_formula() -> None:
    first, second = predict(TWO, 90, 1, 0.8, 1).round(1), predict(TWO, 90, 1, 1.4, 2).round(1)
    pair = as_pair(first, second, TWO)
    kernels = [kernel(pair.first.truth, side.probabilities[:, 1]) for side, _ in pair.sides]
    positives, negatives = kernels[0].shape
    rows, columns = (np.cov([one.mean(axis) for one in kernels]) for axis in (1, 0))
    covariance = rows / positives + columns / negatives
    contrast = np.array([-1, 1])
    error = np.sqrt(contrast @ covariance @ contrast)
    value = kernels[1].mean() - kernels[0].mean()
    test = delong_test(pair, TWO, 1)
    assert test["difference"] == pytest.approx(value)
    assert test["standard_error"] == pytest.approx(error)
    assert test["p"] == pytest.approx(2 * ndtr(-abs(value / error)))
    assert test["method"] == "DeLong"


def test_delong_clustered_is_obuchowskis_formula() -> None:
    first, second = predict(TWO, 160, 4, 0.8, 1), predict(TWO, 160, 4, 1.2, 2)
    # Every fourth image is of the other class, so that groups have both.
    for table in (first, second):
        other = np.arange(160) % 4 == 0
        table.loc[other, "label"] = np.where(table.loc[other, "label"] == "normal", *TWO[::-1])
    pair = as_pair(first, second, TWO)
    truth, groups = pair.first.truth, pair.first.groups
    kernels = [kernel(truth, side.probabilities[:, 1]) for side, _ in pair.sides]
    change = kernels[1] - kernels[0]
    value, (positives, negatives), count = change.mean(), change.shape, 40
    sums = np.stack(
        [
            np.bincount(groups[truth == 1], change.mean(1) - value, minlength=count) / positives,
            np.bincount(groups[truth == 0], change.mean(0) - value, minlength=count) / negatives,
        ]
    )
    assert (np.bincount(groups[truth == 1], minlength=count) > 0).all()
    error = np.sqrt((sums.sum(0) ** 2).sum() * count / (count - 1))
    test = delong_test(pair, TWO, 1)
    assert test["standard_error"] == pytest.approx(error)
    assert "Obuchowski" in test["method"]


def test_delong_of_several_classes_agrees_with_the_bootstrap() -> None:
    first, second = predict(THREE, 300, 3, 1.0, 1), predict(THREE, 300, 3, 1.3, 2)
    compared = compare(first, second, THREE, draws=1000)
    low, high = compared["difference"]["roc_auc_macro"]["ci95"]
    assert (high - low) / 4 == pytest.approx(compared["delong"]["standard_error"], rel=0.1)


def test_groups_of_either_run_are_joined() -> None:
    first, second = predict(TWO, 120, 1, 1.0, 1), predict(TWO, 120, 1, 1.5, 2)
    first["group"] = [f"p{number // 2}" for number in range(120)]
    second["group"] = [f"q{(number + 1) // 2}" for number in range(120)]
    # Pairs that overlap make one chain of all.
    assert compare(first, second, TWO)["groups"] == 1
    second["group"] = first["group"].str.upper()
    assert compare(first, second, TWO)["groups"] == 60


def test_cross_validations_are_compared_fold_by_fold() -> None:
    tables = [predict(TWO, 200, 2, skill, seed) for skill, seed in ((1.0, 1), (1.5, 2))]
    for number, table in enumerate(tables):
        table["fold"] = [str(image // 4 % (4 + number) + 1) for image in range(200)]
    # A fold with other probabilities throughout ranks as before.
    shifted = tables[1]["fold"] == "2"
    tables[1].loc[shifted, "prob_pneumonia"] /= 100
    tables[1]["prob_normal"] = 1 - tables[1]["prob_pneumonia"]
    compared = compare(tables[0], tables[1], TWO)
    assert compared["tested"] == "out_of_fold"
    difference = compared["difference"]["roc_auc_macro"]
    change = [compared[name]["roc_auc_macro"]["value"] for name in ("first", "second")]
    assert difference["value"] == pytest.approx(change[1] - change[0])
    assert compared["delong"]["difference"] == pytest.approx(difference["value"])
    assert difference["ci95"][1] > 0
    assert "the same cross-validation" in compare_lines(compared)[0]


def test_an_absent_class_is_named() -> None:
    first, second = predict(THREE, 90, 1, 1.0, 1), predict(THREE, 90, 1, 1.5, 2)
    kept = (first["label"] != "c").to_numpy()
    compared = compare(first[kept], second[kept], THREE)
    assert compared["difference"]["roc_auc_macro"]["value"] is None
    assert compared["difference"]["recall"]["c"] == {"value": None, "reason": "no image of class c"}
    assert compared["delong"]["reason"] == "no image of class c"
    assert compared["difference"]["accuracy"]["value"] is not None
    text = "\n".join(compare_lines(compared))
    assert "not available: no image of class c" in text


def test_unequal_test_sets_are_refused_with_how_many_differ() -> None:
    first, second = predict(TWO, 120, 2, 1.0, 1), predict(TWO, 120, 2, 1.5, 2)
    changed = second.iloc[3:].copy()
    changed.loc[changed.index[0], "label"] = "normal"
    changed.loc[changed.index[1], "path"] = "elsewhere.png"
    with pytest.raises(MedlensError) as caught:
        compare(first, changed, TWO)
    error = caught.value
    assert "6 images differ: 4 only in the first" in error.got
    assert "1 only in the second's, 1 with another label (116 are in both)" in error.got
    assert "elsewhere.png" in error.names
    assert ".png" not in str(error)


def test_other_classes_no_images_and_repeated_images_are_refused() -> None:
    first, second = predict(TWO, 120, 2, 1.0, 1), predict(TWO, 120, 2, 1.5, 2)
    with pytest.raises(MedlensError, match="different classes"):
        compare(first, second, TWO, second_classes=["normal", "viral"])
    with pytest.raises(MedlensError, match="second run's test images cannot be paired"):
        compare(first, second.assign(split="train"), TWO)
    with pytest.raises(MedlensError, match="first run's test images cannot be paired"):
        compare(pd.concat([first, first.iloc[:2]]), second, TWO)


def test_lines_are_plain_sentences() -> None:
    first, second = predict(TWO, 200, 2, 1.0, 1), predict(TWO, 200, 2, 2.2, 2)
    compared = compare(first, second, TWO)
    lines = compare_lines(compared)
    assert lines[0] == "Both runs on the same test set: 200 images, 100 groups."
    accuracy = compared["difference"]["accuracy"]
    assert lines[1].startswith(f"The second run's accuracy is {accuracy['value']:.3f} higher (")
    assert lines[1].endswith(": the second does better.")
    log_loss = next(line for line in lines if "log loss" in line)
    assert "lower (" in log_loss
    assert log_loss.endswith("the second does better (lower is better).")
    assert any("takes images as independent; with whole groups, p" in line for line in lines)
    back = compare_lines(compare(second, first, TWO))
    assert back[1].endswith(": the first does better.")


@pytest.mark.slow
def test_intervals_of_the_difference_of_accuracies_cover() -> None:
    generator = np.random.default_rng(0)
    probabilities = np.full((200, 2), 0.5)
    truth, groups = np.zeros(200, dtype=np.int64), np.arange(200) // 4
    covered = 0
    for number in range(1000):
        # The share of images that the first alone gets right differs between groups, 4 % in all.
        share = generator.beta(0.5, 12, 50)[groups]
        second = (generator.random(200) < share).astype(np.int64)
        splits = [SplitPredictions(truth, one, probabilities, groups) for one in (truth, second)]
        pair = Pair(splits[0], splits[1], np.full((2, 200), ""))
        found = differences(pair, TWO, 1, seed=number, draws=200)["accuracy"]
        covered += found["ci95"][0] <= -0.04 <= found["ci95"][1]
    assert 0.93 <= covered / 1000 <= 0.98


def test_two_runs_that_say_the_same_have_no_interval_around_nothing() -> None:
    first = predict(TWO, 60, 1, 1.0, 1)
    compared = compare(first, first.sample(frac=1, random_state=0), TWO)
    assert compared["is_same"]
    lines = compare_lines(compared)
    assert len(lines) == 2 and "exactly the same" in lines[1]
    assert not compare(first, predict(TWO, 60, 1, 1.0, 2), TWO)["is_same"]
