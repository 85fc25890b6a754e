"""Figures of the evidence: their tables say what evaluation.json says, and stale ones go."""

from __future__ import annotations

import io
import json
import re
from collections.abc import Callable
from typing import Any

import numpy as np
import pandas as pd
import pytest

from medlens.files import write_json
from medlens.report.evidence_plots import evidence_drawings
from medlens.report.figures import FIGURE_LABELS, write_figures
from medlens.run import Run
from medlens.run_dir import RunDir

MakeRun = Callable[..., RunDir]


def measure(value: float | None) -> dict[str, Any]:
    if value is None:
        return {"value": None, "reason": "no image"}
    return {"value": value, "ci95": [value - 0.1, value + 0.1], "n": 9, "groups": 4, "method": "m"}


GRID = [0.0, 0.5, 1.0]
BAND = {"low": [0.0, 0.4, 0.8], "high": [0.2, 0.9, 1.0]}
BINS = [
    {"low": 0.1, "high": 0.4, "mean_probability": 0.3, "n": 5, "share": measure(0.2)},
    {"low": 0.4, "high": 0.9, "mean_probability": 0.7, "n": 4, "share": measure(None)},
]
EVIDENCE: dict[str, Any] = {
    "curves": {
        "roc": {"pneumonia": {"false_positive_rate": GRID, "recall": [0.1, 0.8, 1], **BAND}},
        "precision_recall": {"pneumonia": {"recall": GRID, "precision": [1, 0.9, 0.5], **BAND}},
        "decision": {
            "class": "pneumonia",
            "threshold": GRID,
            "net_benefit": [0.1, 0.5, 0.0],
            "treat_all": [0.1, -0.2, -1],
            **BAND,
        },
    },
    "calibration": {"reliability": {"before": BINS, "after": BINS}},
    "abstention": [
        {"share_answered": share, "lowest_probability": 0.9, "accuracy": measure(1 - share / 2)}
        for share in (0.5, 1.0)
    ],
    "subgroups": [
        {
            "column": "sex",
            "metric": "accuracy",
            "levels": [
                {"level": "f", "n": 5, "groups": 3, "value": measure(0.7)},
                {"level": "m", "n": 4, "groups": 3, "value": measure(None)},
            ],
        }
    ],
    "operating_point": {
        "threshold": 0.4,
        "class": "pneumonia",
        "test": {"confusion_matrix": [[30, 3], [2, 25]]},
    },
}


@pytest.fixture(scope="module")
def run(make_run: MakeRun) -> RunDir:
    made = make_run()
    evaluation = json.loads(made.evaluation.read_text(encoding="utf-8"))
    write_json(made.evaluation, {**evaluation, "positive_class": "pneumonia", **EVIDENCE})
    write_figures(made, Run(made.root).evaluation)
    return made


def table(run: RunDir, name: str) -> pd.DataFrame:
    return pd.read_csv(run.figures / f"{name}.csv")


def test_every_figure_is_drawn(run: RunDir) -> None:
    for name in FIGURE_LABELS:
        for kind in ("png", "svg", "csv"):
            assert (run.figures / f"{name}.{kind}").stat().st_size > 0


def test_the_tables_say_what_the_evaluation_says(run: RunDir) -> None:
    curve = table(run, "precision_recall")
    assert list(curve["class"].unique()) == ["pneumonia"]
    np.testing.assert_array_equal(curve["precision"], [1, 0.9, 0.5])
    np.testing.assert_array_equal(curve["low"], BAND["low"])
    np.testing.assert_array_equal(table(run, "roc_bands")["high"], BAND["high"])
    np.testing.assert_array_equal(table(run, "decision_curve")["net_benefit"], [0.1, 0.5, 0.0])
    bins = table(run, "reliability")
    assert list(bins["temperature"]) == ["before", "before", "after", "after"]
    assert bins.loc[0, ["from", "to", "share"]].tolist() == [0.1, 0.4, 0.2]
    np.testing.assert_allclose(bins.loc[0, ["low", "high"]].astype(float), [0.1, 0.3])
    assert np.isnan(bins.loc[1, "share"])
    answered = table(run, "abstention")
    assert list(answered["accuracy"]) == [0.75, 0.5]
    levels = table(run, "subgroups")
    assert levels.loc[0, ["column", "level", "n", "value"]].tolist() == ["sex", "f", 5, 0.7]
    assert np.isnan(levels.loc[1, "value"])
    assert table(run, "operating_point")["pneumonia"].tolist() == [3, 25]


def test_what_is_drawn_follows_the_blocks_and_stale_figures_go(run: RunDir) -> None:
    evaluation = json.loads(run.evaluation.read_text(encoding="utf-8"))
    fewer = {**evaluation, "subgroups": [], "operating_point": {"threshold": None, "reason": "x"}}
    fewer["curves"] = {**evaluation["curves"], "decision": None}
    assert set(evidence_drawings(fewer)) == {"precision_recall", "reliability", "abstention"}
    write_json(run.evaluation, fewer)
    write_figures(run, Run(run.root).evaluation)
    assert not list(run.figures.glob("subgroups.*"))
    assert not list(run.figures.glob("decision_curve.*"))
    write_json(run.evaluation, evaluation)
    write_figures(run, Run(run.root).evaluation)


def test_the_same_numbers_give_the_same_bytes(run: RunDir) -> None:
    before = {path.name: path.read_bytes() for path in run.figures.iterdir()}
    write_figures(run, Run(run.root).evaluation)
    assert before == {path.name: path.read_bytes() for path in run.figures.iterdir()}


def test_levels_beyond_forty_are_left_out_of_the_figure_not_of_the_table(run: RunDir) -> None:
    levels = [
        {"level": f"l{number}", "n": 5, "groups": 3, "value": measure(0.5)} for number in range(12)
    ]
    blocks = [
        {"column": f"c{number}", "metric": "accuracy", "levels": levels} for number in range(5)
    ]
    evaluation = json.loads(run.evaluation.read_text(encoding="utf-8"))
    draw, listed = evidence_drawings({**evaluation, "subgroups": blocks})["subgroups"]
    assert len(listed) == 60
    axes = draw().axes[0]
    assert len(axes.get_yticks()) == 40
    assert axes.get_title(loc="left") == "The first 40 of 60 levels"


def test_the_precision_of_a_guess_is_drawn_and_listed(run: RunDir) -> None:
    per_class = json.loads(run.evaluation.read_text(encoding="utf-8"))["test"]["per_class"]
    share = per_class["pneumonia"]["n"] / sum(one["n"] for one in per_class.values())
    assert 0 < share < 1
    np.testing.assert_allclose(table(run, "precision_recall")["chance"], share)
    svg = (run.figures / "precision_recall.svg").read_text(encoding="utf-8")
    assert f"chance: {share:.3f}" in svg


def test_a_test_set_of_one_class_has_no_precision_recall_curve_and_says_so(run: RunDir) -> None:
    evaluation = json.loads(run.evaluation.read_text(encoding="utf-8"))
    empty = {"roc": {}, "precision_recall": {}, "decision": None}
    draw, listed = evidence_drawings({**evaluation, "curves": empty})["precision_recall"]
    figure = draw()
    assert listed.empty
    assert [text.get_text() for text in figure.axes[0].texts] == ["No curve can be drawn."]
    assert not figure.legends


def test_a_level_without_a_value_says_so_in_its_row(run: RunDir) -> None:
    evaluation = json.loads(run.evaluation.read_text(encoding="utf-8"))
    axes = evidence_drawings(evaluation)["subgroups"][0]().axes[0]
    (text,) = axes.texts
    assert text.get_text() == "not measured"
    place = [label.get_text() for label in axes.get_yticklabels()].index("sex: m (n = 4)")
    assert text.get_position()[1] == axes.get_yticks()[place]


def test_two_metrics_are_told_apart_without_colour(run: RunDir) -> None:
    evaluation = json.loads(run.evaluation.read_text(encoding="utf-8"))
    levels = [{"level": name, "n": 5, "groups": 3, "value": measure(0.7)} for name in "fm"]
    blocks = [
        {"column": metric, "metric": metric, "levels": levels}
        for metric in ("accuracy", "roc_auc_macro")
    ]
    draw, _ = evidence_drawings({**evaluation, "subgroups": blocks})["subgroups"]
    figure = draw()
    points = {line.get_label(): line.get_marker() for line in figure.axes[0].get_lines()}
    assert points["accuracy"] != points["ROC AUC"]
    svg = io.BytesIO()
    figure.savefig(svg, format="svg")
    assert len(set(re.findall(r"stroke-dasharray: ([\d., ]+)", svg.getvalue().decode()))) == 2
