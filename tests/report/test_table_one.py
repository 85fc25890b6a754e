"""Table 1 against counts made by hand, and that it names nobody."""

from __future__ import annotations

import numpy as np
import pandas as pd

from medlens.report.table_one import TableOne, table_one


def images(**columns: object) -> pd.DataFrame:
    """100 images of 50 patients: 60 in train, 40 in test, a quarter of them ill."""
    table = pd.DataFrame(
        {
            "path": [f"{number}.png" for number in range(100)],
            "label": ["ill" if number % 4 == 0 else "well" for number in range(100)],
            "patient": [f"p{number // 2}" for number in range(100)],
            "group": [str(number // 2) for number in range(100)],
            "split": ["train"] * 60 + ["test"] * 40,
            "width": ["64"] * 60 + ["128"] * 40,
            "height": ["64"] * 100,
            "format": ["PNG"] * 100,
        }
    )
    return table.assign(**columns)


def part(table: TableOne, name: str) -> dict[str, tuple[str, ...]]:
    (found,) = (one for one in table.parts if one.name == name)
    return {row[0]: row[1:] for row in found.rows}


def test_counts_of_each_split() -> None:
    table = table_one(images(), ["ill", "well"])
    assert table.columns == ("train", "test", "all")
    sizes = part(table, "")
    assert sizes["Images"] == ("60", "40", "100")
    assert sizes["Patients known"] == ("30", "20", "50")
    assert part(table, "Class")["ill"] == (
        "15 (25.0\u00a0%)",
        "10 (25.0\u00a0%)",
        "25 (25.0\u00a0%)",
    )
    assert part(table, "File")["Width in pixels, median (quartiles)"] == (
        "64 (64 to 64)",
        "128 (128 to 128)",
        "64 (64 to 128)",
    )


def test_words_are_counted_and_numbers_summarised() -> None:
    ages = [str(20 + number % 41) for number in range(100)]
    sexes = ["f" if number < 30 else "m" if number < 90 else "unknown" for number in range(100)]
    table = table_one(images(age=ages, sex=sexes), ["ill", "well"])
    assert part(table, "sex")["f"] == ("30 (50.0\u00a0%)", "0 (0.0\u00a0%)", "30 (30.0\u00a0%)")
    assert part(table, "sex")["not stated"] == (
        "0 (0.0\u00a0%)",
        "10 (25.0\u00a0%)",
        "10 (10.0\u00a0%)",
    )
    low, middle, high = np.quantile(np.array(ages, float), (0.25, 0.5, 0.75))
    assert part(table, "age")["median (quartiles)"][-1] == f"{middle:g} ({low:g} to {high:g})"


def test_names_and_numbers_of_single_cases_are_not_shown() -> None:
    names = [f"Doe, John {number}" for number in range(100)]
    few = ["A. Smith", "B. Jones", *[""] * 98]
    numbers = [str(5000 + number) for number in range(100)]
    table = table_one(images(name=names, reader=few, accession=numbers), ["ill", "well"])
    assert set(table.left_out) == {"name", "reader", "accession"}
    assert "Doe" not in str(table.parts) and "Smith" not in str(table.parts)


def test_a_value_that_few_patients_share_is_not_shown() -> None:
    ten_a_patient = [f"MRN{number // 10:05d}" for number in range(100)]
    groups = [str(number // 10) for number in range(100)]
    table = table_one(images(mrn=ten_a_patient, group=groups), ["ill", "well"])
    assert table.left_out == ("mrn",)
    assert "MRN" not in str(table.parts)


def test_truths_of_phantoms_and_own_columns_are_no_metadata() -> None:
    table = table_one(images(lesion_x=["1"] * 100, excluded=[""] * 100), ["ill", "well"])
    assert [one.name for one in table.parts] == ["", "Class", "File"]
