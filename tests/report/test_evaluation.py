"""The whole of evaluation.json from tables of predictions, ordinary and odd."""

from __future__ import annotations

import json

import numpy as np
import pandas as pd
import pytest
from sklearn import metrics as reference

from medlens.errors import MedlensError
from medlens.report.evaluation import evaluate, headline, headline_rows

BOUNDS = {"mcc": (-1.0, 1.0), "log_loss": (0.0, 36.1)}


def make_table(
    truth,
    probabilities,
    *,
    groups=None,
    classes=None,
    predicted=None,
    splits="test",
) -> pd.DataFrame:
    """A table like predictions.csv from class numbers and probabilities."""
    probabilities = np.asarray(probabilities, dtype=float)
    names = np.array(classes or [f"class{n}" for n in range(probabilities.shape[1])])
    predicted = probabilities.argmax(1) if predicted is None else np.asarray(predicted)
    table = pd.DataFrame(
        {
            "path": [f"{number:05d}.png" for number in range(len(probabilities))],
            "split": splits,
            "fold": "",
            "patient": "",
            "group": np.arange(len(probabilities)) if groups is None else np.asarray(groups),
            "label": names[np.asarray(truth, dtype=int)],
            "predicted": names[predicted],
        }
    )
    for number, name in enumerate(names):
        table[f"logit_{name}"] = np.log(np.maximum(probabilities[:, number], 1e-300))
    for number, name in enumerate(names):
        table[f"prob_{name}"] = probabilities[:, number]
    return table


def random_table(seed: int, classes: int, images: int = 120, groups: int = 40, digits: int = 2):
    """Predictions of a middling classifier, with ties, of grouped images in three splits."""
    generator = np.random.default_rng(seed)
    group = generator.integers(0, groups, images)
    truth = generator.integers(0, classes, images)
    of_group = generator.normal(size=(groups, classes))
    scores = of_group[group] + generator.normal(size=(images, classes))
    scores[np.arange(images), truth] += 1.5
    weights = np.round(np.exp(scores), digits) + 0.01
    probabilities = weights / weights.sum(1, keepdims=True)
    splits = np.array(["train", "val", "test", "test"])[group % 4]
    return make_table(truth, probabilities, groups=group, splits=splits)


def class_names(table: pd.DataFrame) -> list[str]:
    return [name.removeprefix("prob_") for name in table.columns if name.startswith("prob_")]


def evaluate_table(table: pd.DataFrame, positive_class=None, seed=0, draws=200):
    return evaluate(
        table, classes=class_names(table), positive_class=positive_class, seed=seed, draws=draws
    )


def measures(block, name=""):
    """Every number of a block, with its name."""
    for key, item in block.items():
        if isinstance(item, dict) and "value" in item:
            yield f"{name}{key}", item
        elif isinstance(item, dict):
            yield from measures(item, f"{name}{key}.")


def check_measures(evaluation) -> None:
    """What holds for every number, however odd the table."""
    json.dumps(evaluation, allow_nan=False)
    for split in ("train", "val", "test"):
        for name, measure in measures(evaluation.get(split, {})):
            if measure["value"] is None:
                assert list(measure) == ["value", "reason"], name
                assert measure["reason"], name
                continue
            assert list(measure) == ["value", "ci95", "n", "groups", "method"], name
            low, high = measure["ci95"]
            floor, ceiling = BOUNDS.get(name, (0.0, 1.0))
            assert floor <= low <= measure["value"] <= high <= ceiling, (name, measure)
            assert low < high, (name, measure)
            assert 0 < measure["groups"] <= measure["n"] <= evaluation[split]["n"], name


@pytest.mark.parametrize("classes", [2, 3, 5])
@pytest.mark.parametrize("seed", range(3))
def test_every_value_agrees_with_scikit_learn(seed, classes):
    table = random_table(seed, classes, images=300)
    evaluation = evaluate_table(table)
    check_measures(evaluation)
    for split in ("train", "val", "test"):
        rows = table[table["split"] == split]
        names = class_names(table)
        truth, predicted = rows["label"].to_numpy(str), rows["predicted"].to_numpy(str)
        probabilities = rows[[f"prob_{name}" for name in names]].to_numpy()
        block = evaluation[split]
        hot = (truth[:, None] == np.array(names)).astype(int)
        expected = {
            "accuracy": reference.accuracy_score(truth, predicted),
            "balanced_accuracy": reference.balanced_accuracy_score(truth, predicted),
            "recall_macro": reference.recall_score(truth, predicted, average="macro"),
            "precision_macro": reference.precision_score(truth, predicted, average="macro"),
            "f1_macro": reference.f1_score(truth, predicted, average="macro"),
            "mcc": reference.matthews_corrcoef(truth, predicted),
            "roc_auc_macro": reference.roc_auc_score(hot, probabilities, average="macro"),
            "average_precision_macro": reference.average_precision_score(hot, probabilities),
            "log_loss": reference.log_loss(truth, probabilities, labels=names),
        }
        for name, value in expected.items():
            assert block[name]["value"] == pytest.approx(value, abs=1e-12), name
        for number, name in enumerate(names):
            found = block["per_class"][name]
            area = reference.roc_auc_score(hot[:, number], probabilities[:, number])
            precision = reference.average_precision_score(hot[:, number], probabilities[:, number])
            assert found["roc_auc"]["value"] == pytest.approx(area, abs=1e-12)
            assert found["average_precision"]["value"] == pytest.approx(precision, abs=1e-12)
            assert found["n"] == block["class_counts"][name] == hot[:, number].sum()
        matrix = reference.confusion_matrix(truth, predicted, labels=names)
        assert block["confusion_matrix"] == matrix.tolist()
        assert block["n"] == len(rows) == np.sum(block["confusion_matrix"])
        assert block["groups"] == rows["group"].nunique()


def test_the_order_of_keys_and_the_facts_of_a_binary_run():
    table = random_table(1, 2)
    evaluation = evaluate_table(table)
    assert list(evaluation) == [
        "classes", "positive_class", "seed", "draws", "train", "val", "test",
    ]  # fmt: skip
    assert list(evaluation["test"]) == [
        "fitted", "n", "groups", "class_counts", "majority_class", "majority_class_accuracy",
        "accuracy", "balanced_accuracy", "recall_macro", "precision_macro", "f1_macro", "mcc",
        "roc_auc_macro", "average_precision_macro", "log_loss", "roc_auc", "average_precision",
        "recall", "specificity", "precision", "f1", "per_class", "confusion_matrix",
    ]  # fmt: skip
    assert [evaluation[split]["fitted"] for split in ("train", "val", "test")] == [
        True, False, False,
    ]  # fmt: skip
    assert evaluation["positive_class"] == "class1"
    test = evaluation["test"]
    for name in ("roc_auc", "average_precision", "recall", "specificity", "precision", "f1"):
        assert test[name] == test["per_class"]["class1"][name]
    assert test["roc_auc_macro"] == test["roc_auc"]


def test_the_positive_class_that_is_named_is_taken():
    table = random_table(1, 2)
    first = evaluate_table(table, positive_class="class0")["test"]
    second = evaluate_table(table, positive_class="class1")["test"]
    assert first["recall"] == second["specificity"] != second["recall"]
    assert first["recall"] == first["per_class"]["class0"]["recall"]
    assert "recall" not in evaluate_table(random_table(1, 3), positive_class="class0")["test"]


def test_the_baseline_is_the_most_frequent_class_of_train():
    truth = [0, 0, 1, 1, 1, 0]
    table = make_table(truth, np.eye(2)[truth], splits=["train"] * 3 + ["test"] * 3)
    test = evaluate_table(table)["test"]
    assert test["majority_class"] == "class0"
    assert test["majority_class_accuracy"]["value"] == pytest.approx(1 / 3)
    alone = evaluate_table(table[table["split"] == "test"])
    assert "train" not in alone
    assert alone["test"]["majority_class"] is None
    assert alone["test"]["majority_class_accuracy"]["value"] is None


UNSURE = np.full((30, 2), 0.5)
MIXED = [0, 1, 1] * 10
ODD_TABLES = {
    "one image": make_table([1], [[0.3, 0.7]]),
    "one wrong image": make_table([0], [[0.3, 0.7]]),
    "two images": make_table([0, 1], [[0.6, 0.4], [0.3, 0.7]]),
    "one group": make_table(MIXED, np.eye(2)[MIXED] * 0.8 + 0.1, groups=[7] * 30),
    "one group, always wrong": make_table(MIXED, 1 - np.eye(2)[MIXED], groups=[7] * 30),
    "two groups": make_table(MIXED, np.eye(2)[MIXED] * 0.8 + 0.1, groups=[3, 4] * 15),
    "one class": make_table([1] * 30, UNSURE),
    "one class, always right": make_table([1] * 30, np.tile([0.1, 0.9], (30, 1))),
    "perfect": make_table(MIXED, np.eye(2)[MIXED]),
    "perfect by patient": make_table(MIXED, np.eye(2)[MIXED], groups=np.arange(30) // 3),
    "perfect, three classes": make_table([0, 1, 2] * 9, np.eye(3)[[0, 1, 2] * 9]),
    "always wrong": make_table(MIXED, 1 - np.eye(2)[MIXED]),
    "all tied": make_table(MIXED, UNSURE),
    "all tied, three classes": make_table([0, 1, 2] * 9, np.full((27, 3), 1 / 3)),
    "one image of a class": make_table([0] * 29 + [1], np.tile([0.9, 0.1], (30, 1))),
    "absent class": make_table(MIXED, np.tile([0.5, 0.3, 0.2], (30, 1))),
    "absent class, predicted": make_table(MIXED, np.tile([0.2, 0.3, 0.5], (30, 1))),
    "two absent classes": make_table([2] * 30, np.tile([0.5, 0.3, 0.2], (30, 1))),
    "one wrong of many": make_table([0, 1] * 200, np.eye(2)[[0, 1] * 199 + [1, 1]]),
    "certain and wrong once": make_table([0] * 15 + [1] * 15, np.eye(2)[[0] * 15 + [1] * 14 + [0]]),
}


@pytest.mark.parametrize("name", ODD_TABLES)
def test_odd_tables_give_numbers_with_width_or_reasons(name):
    evaluation = evaluate_table(ODD_TABLES[name])
    check_measures(evaluation)
    assert evaluation["test"]["accuracy"]["value"] is not None
    assert evaluation["test"]["log_loss"]["value"] is not None


@pytest.mark.parametrize("seed", range(40))
def test_small_random_tables_give_numbers_with_width_or_reasons(seed):
    generator = np.random.default_rng(seed)
    classes, images = int(generator.integers(2, 5)), int(generator.integers(1, 25))
    truth = generator.integers(0, generator.integers(1, classes + 1), images)
    probabilities = generator.dirichlet(np.full(classes, 0.3), images).round(1)
    probabilities[:, 0] = 1 - probabilities[:, 1:].sum(1)
    groups = generator.integers(0, generator.integers(1, images + 1), images)
    splits = generator.choice(["train", "val", "test"], images)
    probabilities = np.abs(probabilities) / np.abs(probabilities).sum(1, keepdims=True)
    check_measures(evaluate_table(make_table(truth, probabilities, groups=groups, splits=splits)))


def test_an_absent_class_is_named_and_no_mean_is_taken_over_the_rest():
    test = evaluate_table(ODD_TABLES["absent class"])["test"]
    for name in (
        "balanced_accuracy", "recall_macro", "precision_macro", "f1_macro", "roc_auc_macro",
        "average_precision_macro",
    ):  # fmt: skip
        assert test[name] == {"value": None, "reason": "no image of class class2"}
    absent = test["per_class"]["class2"]
    assert absent["n"] == 0
    for name in ("recall", "f1", "roc_auc", "average_precision"):
        assert absent[name]["reason"] == "no image of class class2"
    assert absent["specificity"]["value"] == 1
    assert test["per_class"]["class1"]["precision"]["reason"] == "no image was predicted as class1"
    assert test["mcc"]["value"] == 0


def test_a_split_of_one_class_has_reasons():
    test = evaluate_table(ODD_TABLES["one class"])["test"]
    assert test["mcc"]["reason"] == "every image is of one class"
    assert test["per_class"]["class1"]["roc_auc"]["reason"] == "every image is of class class1"
    assert test["per_class"]["class1"]["specificity"]["value"] is None
    assert test["roc_auc_macro"]["value"] is None
    assert test["recall"]["value"] == 0


def test_perfect_predictions_of_few_patients_are_not_taken_for_many():
    by_image = evaluate_table(ODD_TABLES["perfect"])["test"]
    by_patient = evaluate_table(ODD_TABLES["perfect by patient"])["test"]
    for name in ("accuracy", "mcc", "f1", "f1_macro", "average_precision", "log_loss"):
        widths = [np.diff(block[name]["ci95"])[0] for block in (by_image, by_patient)]
        assert widths[1] > 1.4 * widths[0], name
    # The negatives are one of a patient in both tables.
    assert by_patient["roc_auc"]["ci95"][0] < by_image["roc_auc"]["ci95"][0] - 0.03


def test_copies_in_a_group_do_not_shrink_any_interval_but_as_groups_of_their_own_they_do():
    table = random_table(4, 3, images=160, groups=160).assign(split="test")
    copied = pd.concat([table] * 6, ignore_index=True)
    copied["path"] = [f"{number:05d}.png" for number in range(len(copied))]
    fooled = copied.assign(group=np.arange(len(copied)))
    once, six, images = (
        dict(measures(evaluate_table(one, draws=1000)["test"])) for one in (table, copied, fooled)
    )
    assert once.keys() == six.keys()
    for name, measure in once.items():
        if measure["value"] is None:
            continue
        width, width_copied, width_fooled = (
            np.diff(one[name]["ci95"])[0] for one in (once, six, images)
        )
        assert six[name]["value"] == pytest.approx(measure["value"], abs=1e-12)
        assert width_copied > 0.9 * width, name
        assert width_fooled < 0.6 * width, name


def test_the_same_seed_gives_the_same_bytes_in_any_order_of_rows():
    table = random_table(5, 3)
    expected = json.dumps(evaluate_table(table, seed=3))
    shuffled = table.sample(frac=1, random_state=1)
    assert json.dumps(evaluate_table(table, seed=3)) == expected
    assert json.dumps(evaluate_table(shuffled, seed=3)) == expected
    assert json.dumps(evaluate_table(table.assign(group=table["group"].astype(str)), seed=3)) == (
        expected
    )
    assert json.dumps(evaluate_table(table, seed=4)) != expected


def test_a_table_that_was_written_and_read_again_gives_the_same(tmp_path):
    table = random_table(7, 2)
    digits = {"class0": "0", "class1": "1"}
    table = table.replace({"label": digits, "predicted": digits})
    table.columns = [name.replace("_class", "_") for name in table.columns]
    table["prob_1"] = np.round(table["prob_1"] * 64) / 64  # exact in few decimal digits
    table["prob_0"] = 1 - table["prob_1"]
    table.to_csv(tmp_path / "predictions.csv", index=False)
    again = pd.read_csv(tmp_path / "predictions.csv")
    assert again["label"].dtype != table["label"].dtype
    assert evaluate_table(again) == evaluate_table(table)


def test_other_names_and_another_order_of_the_classes_change_no_value():
    table = random_table(6, 3)
    new = {"class0": "zebra", "class1": "apple", "class2": "mango"}
    renamed = table.rename(columns=lambda name: name.replace(*next(
        ((f"_{old}", f"_{to}") for old, to in new.items() if name.endswith(f"_{old}")), ("", "")
    )))  # fmt: skip
    renamed = renamed.assign(label=table["label"].map(new), predicted=table["predicted"].map(new))
    before = evaluate_table(table)["test"]
    after = evaluate(
        renamed, classes=["apple", "mango", "zebra"], positive_class=None, seed=0, draws=200
    )["test"]
    for name, measure in measures({key: before[key] for key in before if key != "per_class"}):
        assert after[name]["value"] == pytest.approx(measure["value"], abs=1e-12), name
    for old, to in new.items():
        for name, measure in measures(before["per_class"][old]):
            other = after["per_class"][to][name]
            assert other["value"] == pytest.approx(measure["value"], abs=1e-12), name
            if not measure["method"].startswith("Dirichlet"):
                assert other["ci95"] == pytest.approx(measure["ci95"], abs=1e-9), name


def test_shuffled_labels_give_areas_that_are_no_better_than_chance():
    generator = np.random.default_rng(0)
    held = 0
    for _ in range(60):
        table = random_table(int(generator.integers(10**6)), 2, images=100).assign(split="test")
        table["label"] = generator.permutation(table["label"])
        low, high = evaluate_table(table, draws=100)["test"]["roc_auc"]["ci95"]
        held += low <= 0.5 <= high
    assert held >= 51


def test_an_ordinary_split_is_drawn_by_bootstrap_and_an_area_by_delong():
    test = evaluate_table(random_table(2, 3, images=400))["test"]
    for name in ("f1_macro", "mcc", "log_loss", "average_precision_macro", "balanced_accuracy"):
        assert test[name]["method"] == "bootstrap over 20 groups, 200 draws, logit scale"
    assert test["roc_auc_macro"]["method"] == "DeLong over 20 groups, logit scale"
    assert test["accuracy"]["method"].startswith("Wilson, design effect")


def _refused(table, **changes) -> MedlensError:
    arguments = {"classes": ["class0", "class1"], "positive_class": None, "seed": 0} | changes
    with pytest.raises(MedlensError) as caught:
        evaluate(table, **arguments)
    return caught.value


@pytest.mark.parametrize("bad", [np.nan, np.inf, -0.2, 1.5, 0.9, "many"])
def test_what_is_no_probability_is_refused(bad):
    table = random_table(1, 2)
    table["prob_class0"] = table["prob_class0"].astype(object)
    table.loc[4, ["prob_class0", "prob_class1"]] = [bad, 0.5]
    error = _refused(table)
    assert error.got == "1 rows"
    assert error.names == ("00004.png",)
    assert "00004" not in str(error)


def test_tables_that_cannot_be_evaluated_are_refused():
    table = random_table(1, 2)
    assert "prob_class1" in _refused(table.drop(columns="prob_class1")).got
    assert "empty" in _refused(table.iloc[:0]).what
    assert "holdout" in _refused(table.replace({"split": {"val": "holdout"}})).got
    assert "class1" in _refused(table.replace({"label": {"class1": "other"}})).expected
    assert "predicted" in _refused(table.replace({"predicted": {"class1": "other"}})).what
    assert "group" in _refused(table.assign(group=table["group"].where(table.index > 3))).what
    assert "positive" in _refused(table, positive_class="class9").what
    assert "classes" in _refused(table, classes=["class0"]).what
    with pytest.raises(ValueError, match="draws is 5"):
        evaluate_table(table, draws=5)


def test_folds_are_ranked_each_by_itself():
    """A fold whose probabilities are all higher spoils a pooled ranking, not the mean of folds."""
    random = np.random.default_rng(0)
    tables = []
    for number, shift in (("1", -3.0), ("2", 0.0), ("3", 3.0)):
        truth = random.integers(0, 2, 60)
        score = random.normal(size=60) + 2 * truth + shift
        probability = 1 / (1 + np.exp(-score))
        table = pd.DataFrame(
            {
                "path": [f"{number}-{place}.png" for place in range(60)],
                "split": "test",
                "fold": number,
                "group": [f"{number}-{place // 2}" for place in range(60)],
                "label": np.array(["class0", "class1"])[truth],
                "predicted": np.where(probability >= 0.5, "class1", "class0"),
                "prob_class0": 1 - probability,
                "prob_class1": probability,
            }
        )
        tables.append(table)
    table = pd.concat(tables, ignore_index=True)
    evaluation = evaluate(table, classes=["class0", "class1"], positive_class=None, seed=0)
    assert "test" not in evaluation
    block = evaluation["out_of_fold"]
    assert block["n"] == 180
    truth = table["label"] == "class1"
    each = [
        reference.roc_auc_score(
            truth[table["fold"] == number], table["prob_class1"][table["fold"] == number]
        )
        for number in ("1", "2", "3")
    ]
    assert block["roc_auc"]["value"] == pytest.approx(np.mean(each), abs=1e-12)
    assert reference.roc_auc_score(truth, table["prob_class1"]) < np.mean(each) - 0.1
    low, high = block["roc_auc"]["ci95"]
    assert low < np.mean(each) < high
    assert block["roc_auc_macro"] == block["roc_auc"]


def test_a_given_test_set_stays_outside_of_the_folds():
    table = random_table(30, 2).assign(fold="")
    table["split"] = "test"
    folds = random_table(30, 2).assign(fold="1", split="test")
    folds["path"] = "other-" + folds["path"]
    alone = evaluate_table(table)
    both = evaluate_table(pd.concat([table, folds], ignore_index=True))
    assert both["test"] == alone["test"]
    assert both["out_of_fold"]["n"] == len(folds)
    assert headline(both) == "test"
    assert set(headline_rows(pd.concat([table, folds]))["fold"]) == {""}
