from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from medlens.report.subgroups import TOO_FEW, subgroups_block


def draw(count: int, seed: int, worse: str = "") -> pd.DataFrame:
    """A test set of two classes with metadata; the classifier is blind at one site, if any."""
    random = np.random.default_rng(seed)
    truth = random.random(count) < 0.5
    site = random.choice(["north", "south", "west"], count)
    score = random.normal(size=count) + np.where(site == worse, 0.0, 1.6) * (2 * truth - 1)
    probability = 1 / (1 + np.exp(-score))
    return pd.DataFrame(
        {
            "path": [f"{number:05d}.png" for number in range(count)],
            "label": np.where(truth, "ill", "well"),
            "predicted": np.where(probability >= 0.5, "ill", "well"),
            "group": np.arange(count) // 2,
            "prob_ill": probability,
            "prob_well": 1 - probability,
            "site": site,
            "age": random.integers(20, 90, count).astype(str),
            "id": [f"X{number}" for number in range(count)],
            "running": np.arange(count).astype(str),
            "constant": "one",
            "lesion_x": random.integers(0, 5, count).astype(str),
        }
    )


COLUMNS = ["site", "age", "id", "running", "constant", "lesion_x"]


def blocks(table: pd.DataFrame) -> dict[str, dict]:
    found = subgroups_block(table, ["ill", "well"], 0, 0, COLUMNS)
    return {block["column"]: block for block in found}


def test_ids_constants_and_planted_columns_are_no_subgroups() -> None:
    assert set(blocks(draw(600, 0))) == {"site", "age"}


def test_a_site_where_the_classifier_is_blind_is_seen() -> None:
    site = blocks(draw(600, 1, worse="south"))["site"]
    values = {level["level"]: level["value"] for level in site["levels"]}
    assert site["metric"] == "roc_auc_macro"
    assert values["south"]["value"] == pytest.approx(0.5, abs=0.12)
    assert values["north"]["value"] > 0.9
    assert site["heterogeneity"]["p"] < 0.001


def test_without_a_difference_p_is_rarely_small() -> None:
    small = [
        block["heterogeneity"]["p"] < 0.05
        for seed in range(60)
        for block in blocks(draw(300, seed)).values()
    ]
    assert np.mean(small) < 0.07  # Holm's adjustment makes it less than one in twenty


def p_of_site(table: pd.DataFrame) -> float:
    found = subgroups_block(table, ["ill", "well"], 0, 0, ["site"])
    return float(found[0]["heterogeneity"]["p"])


def test_without_a_difference_p_is_about_uniform() -> None:
    # The classifier errs on one image in twenty: a test on the intervals would say 1 each time.
    found = np.array([p_of_site(draw(240, seed)) for seed in range(100)])
    assert 0.35 <= (found < 0.5).mean() <= 0.65
    assert (found < 0.05).mean() <= 0.12


def test_a_patient_with_many_copies_counts_once() -> None:
    table = draw(200, 12, worse="west")
    table["group"] = np.arange(200)
    copied = table.loc[table.index.repeat(5)].reset_index(drop=True)
    copied["path"] = [f"{number:05d}.png" for number in range(len(copied))]
    once = p_of_site(table)
    assert 0 < once < 0.2
    assert p_of_site(copied) == pytest.approx(once, rel=0.05)
    copied["group"] = np.arange(len(copied))
    assert p_of_site(copied) < once / 10


def test_a_classifier_without_mistakes_leaves_nothing_to_compare() -> None:
    table = draw(200, 6)
    table["prob_ill"] = np.where(table["label"] == "ill", 0.9, 0.1) + np.arange(200) / 1e4
    table["prob_well"] = 1 - table["prob_ill"]
    heterogeneity = blocks(table)["site"]["heterogeneity"]
    assert heterogeneity["p"] is None
    assert "fewer than 3 groups" in heterogeneity["reason"]


def test_p_values_are_adjusted_for_the_number_of_columns() -> None:
    table = draw(600, 1, worse="south")
    alone = p_of_site(table)
    both = blocks(table)
    assert both["site"]["heterogeneity"]["p"] == pytest.approx(2 * alone)
    assert both["age"]["heterogeneity"]["p"] >= both["site"]["heterogeneity"]["p"]


def test_numbers_of_patients_with_gaps_are_no_subgroups_but_ages_of_few_patients_are() -> None:
    table = draw(600, 7)
    table["id"] = (20_000 + 7 * table["group"]).astype(str)
    few = table[:60].assign(age=(20 + table["group"][:60]).astype(str))
    few.loc[0, "age"] = "77"
    assert set(blocks(table)) == {"site", "age"}
    assert "age" in blocks(few)


def test_bands_are_named_as_people_write_numbers() -> None:
    table = draw(600, 8)
    table["age"] = (20_190_101 + np.arange(600) // 30).astype(str)
    names = [level["level"] for level in blocks(table)["age"]["levels"]]
    assert names[0] == "20190101 to 20190105"
    table["age"] = (np.arange(600) // 30 / 4).astype(str)
    assert blocks(table)["age"]["levels"][0]["level"] == "0 to 1"


def test_words_for_not_known_are_one_level_and_do_not_spoil_numbers() -> None:
    table = draw(600, 9)
    table.loc[:29, "age"] = "unknown"
    table.loc[30:59, "age"] = "N/A"
    table.loc[60:89, "site"] = "-"
    found = blocks(table)
    assert [level["n"] for level in found["age"]["levels"] if level["level"] == "not stated"] == [
        60
    ]
    assert [level["n"] for level in found["site"]["levels"] if level["level"] == "not stated"] == [
        30
    ]


def test_what_is_stated_for_some_alone_is_a_subgroup() -> None:
    table = draw(600, 10)
    table["constant"] = np.where(np.arange(600) % 4 < 2, "implant", "")
    names = [level["level"] for level in blocks(table)["constant"]["levels"]]
    assert names == ["implant", "not stated"]


def test_ages_become_bands_in_their_order_and_blanks_a_level_of_their_own() -> None:
    table = draw(600, 2)
    table.loc[:59, "age"] = ""
    age = blocks(table)["age"]
    names = [level["level"] for level in age["levels"]]
    assert len(names) == 5
    assert names[-1] == "not stated"
    starts = [int(name.split(" to ")[0]) for name in names[:-1]]
    assert starts == sorted(starts)
    assert age["levels"][-1]["n"] == 60


def test_small_levels_are_counted_but_not_measured() -> None:
    table = draw(600, 3)
    table.loc[:7, "site"] = "islet"
    site = blocks(table)["site"]
    # Their own names might be those of patients.
    assert "islet" not in str(site)
    few = next(level for level in site["levels"] if level["level"] == TOO_FEW)
    assert few["n"] == 8
    assert few["value"]["value"] is None
    assert site["metric"] == "roc_auc_macro"


def test_levels_of_one_class_are_measured_by_accuracy() -> None:
    table = draw(600, 4)
    table["site"] = np.where(table["label"] == "ill", "hospital", "screening")
    site = blocks(table)["site"]
    assert site["metric"] == "accuracy"
    assert site["heterogeneity"]["p"] > 0.001


def test_a_difference_in_accuracy_is_found() -> None:
    table = draw(600, 11)
    table["site"] = np.where(table["label"] == "ill", "hospital", "screening")
    # The classifier never finds the ill; nobody ill is screened.
    is_wrong = (table["label"] == "ill") & (np.arange(600) % 5 < 3)
    table.loc[is_wrong, "predicted"] = "well"
    site = blocks(table)["site"]
    assert site["metric"] == "accuracy"
    assert site["heterogeneity"]["p"] < 0.001
