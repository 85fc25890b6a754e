from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from medlens.report.subgroups import subgroups_block


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
    islet = next(level for level in site["levels"] if level["level"] == "islet")
    assert islet["n"] == 8
    assert islet["value"]["value"] is None
    assert site["metric"] == "roc_auc_macro"


def test_levels_of_one_class_are_measured_by_accuracy() -> None:
    table = draw(600, 4)
    table["site"] = np.where(table["label"] == "ill", "hospital", "screening")
    assert blocks(table)["site"]["metric"] == "accuracy"
