"""Figures: what they show, that they agree with their CSV, and that they repeat byte for byte."""

from __future__ import annotations

import io
import json
import re
from collections.abc import Callable
from xml.etree import ElementTree

import matplotlib
import numpy as np
import pandas as pd
import pytest
from matplotlib.figure import Figure
from PIL import Image

from medlens.report.figure_style import STYLE, short_names
from medlens.report.figures import write_figures
from medlens.report.plots import (
    FIGURES,
    Epochs,
    RocCurve,
    curves_left_out,
    draw_accuracy,
    draw_confusion,
    draw_loss,
    draw_roc,
    roc_curves,
    row_per_cent,
)
from medlens.report.predictions import read_predictions
from medlens.run import Run
from medlens.run_dir import RunDir

MakeRun = Callable[..., RunDir]
HISTORY = pd.DataFrame(
    {
        "epoch": [1, 2, 3],
        "loss": [0.9, 0.5, 0.3],
        "accuracy": [0.6, 0.8, 0.9],
        "val_loss": [0.8, 0.6, 0.7],
        "val_accuracy": [0.65, 0.75, 0.7],
    }
)


def legend(figure: Figure) -> list[str]:
    return [text.get_text() for one in figure.legends for text in one.get_texts()]


def texts(figure: Figure) -> list[str]:
    return [text.get_text() for text in figure.axes[0].texts]


def svg_texts(run: RunDir, name: str) -> list[str]:
    root = ElementTree.parse(run.figures / f"{name}.svg").getroot()  # noqa: S314  # our own file
    return [element.text or "" for element in root.iter("{http://www.w3.org/2000/svg}text")]


@pytest.fixture(scope="module")
def binary(make_run: MakeRun) -> RunDir:
    run = make_run()
    write_figures(run, Run(run.root).evaluation)
    return run


@pytest.fixture(scope="module")
def three(make_run: MakeRun) -> RunDir:
    run = make_run(("a", "b", "c"))
    write_figures(run, Run(run.root).evaluation)
    return run


def test_every_figure_is_written_three_times(binary: RunDir) -> None:
    run = binary
    names = {path.name for path in run.figures.iterdir()}
    assert names == {f"{name}.{kind}" for name in FIGURES for kind in ("png", "svg", "csv")}
    for name in FIGURES:
        with Image.open(run.figures / f"{name}.png") as image:
            assert min(image.size) > 500
        assert svg_texts(run, name)


def test_the_same_files_give_the_same_bytes_whatever_the_settings(
    binary: RunDir, make_run: MakeRun
) -> None:
    again = make_run()
    with matplotlib.rc_context({"font.size": 30, "axes.facecolor": "red"}):
        before = dict(matplotlib.rcParams)
        write_figures(again, Run(again.root).evaluation)
        assert dict(matplotlib.rcParams) == before
    for path in binary.figures.iterdir():
        assert path.read_bytes() == (again.figures / path.name).read_bytes(), path.name


def test_files_carry_no_version_and_no_date(binary: RunDir) -> None:
    with Image.open(binary.figures / "loss.png") as image:
        assert set(image.info) <= {"dpi"}
    svg = (binary.figures / "loss.svg").read_text(encoding="utf-8")
    assert "metadata" not in svg
    assert matplotlib.__version__ not in svg


def test_the_matrix_counts_every_test_image(three: RunDir) -> None:
    run = three
    predictions = read_predictions(run.predictions)
    test = predictions[predictions["split"] == "test"]
    counts = pd.read_csv(run.figures / "confusion_matrix.csv", index_col="label")
    assert counts.to_numpy().sum() == len(test) == 60
    expected = pd.crosstab(test["label"], test["predicted"]).reindex(
        index=counts.index, columns=counts.columns, fill_value=0
    )
    assert counts.to_numpy().tolist() == expected.to_numpy().tolist()
    shown = [text for text in svg_texts(run, "confusion_matrix") if text.isdigit()]
    assert sum(map(int, shown)) == 60


def test_the_area_under_the_drawn_curve_is_the_area_of_the_evaluation(three: RunDir) -> None:
    run = three
    per_class = json.loads(run.evaluation.read_text(encoding="utf-8"))["test"]["per_class"]
    points = pd.read_csv(run.figures / "roc.csv")
    assert list(points["class"].unique()) == ["a", "b", "c"]
    for name, curve in points.groupby("class"):
        area = np.trapezoid(curve["true_positive_rate"], curve["false_positive_rate"])
        assert area == pytest.approx(per_class[name]["roc_auc"]["value"], abs=1e-9)
    for name in per_class:
        area = per_class[name]["roc_auc"]
        low, high = area["ci95"]
        assert f"{name}: {area['value']:.3f} ({low:.3f} to {high:.3f})" in svg_texts(run, "roc")


def test_of_two_classes_the_positive_one_alone_has_a_curve(binary: RunDir) -> None:
    run = binary
    evaluation = json.loads(run.evaluation.read_text(encoding="utf-8"))
    curves = roc_curves(read_predictions(run.predictions), evaluation)
    assert [curve.name for curve in curves] == ["pneumonia"]


def test_a_class_absent_from_test_is_left_out_and_said(make_run: MakeRun) -> None:
    run = make_run(("a", "b", "gone"), absent_from_test=["gone"])
    write_figures(run, Run(run.root).evaluation)
    evaluation = json.loads(run.evaluation.read_text(encoding="utf-8"))
    assert curves_left_out(evaluation) == {"gone": "no test image"}
    assert set(pd.read_csv(run.figures / "roc.csv")["class"]) == {"a", "b"}
    assert "gone: not drawn, no test image" in svg_texts(run, "roc")
    shares = pd.read_csv(run.figures / "confusion_matrix_percent.csv", index_col="label")
    assert shares.loc["gone"].isna().all()
    assert shares.loc["a"].sum() == pytest.approx(100)
    assert "no test image" in svg_texts(run, "confusion_matrix_percent")


def test_a_test_set_of_one_class_gives_figures_without_a_curve(make_run: MakeRun) -> None:
    run = make_run(("a", "b"), absent_from_test=["b"])
    write_figures(run, Run(run.root).evaluation)
    assert "No curve can be drawn." in svg_texts(run, "roc")
    assert (run.figures / "roc.csv").read_text().splitlines() == [
        "class,threshold,false_positive_rate,true_positive_rate"
    ]


def test_odd_class_names_are_drawn_as_they_are(make_run: MakeRun) -> None:
    names = ("<script>alert(1)</script>", "_hidden & $x_1$", "a\nb\x01c", 'say "so"', "肺炎")
    run = make_run(names)
    write_figures(run, Run(run.root).evaluation)
    for shown in short_names(names):
        assert svg_texts(run, "confusion_matrix").count(shown) == 2
        assert any(text.startswith(f"{shown}: ") for text in svg_texts(run, "roc"))
    assert list(pd.read_csv(run.figures / "confusion_matrix.csv", index_col="label")) == list(names)


def test_best_and_last_epoch_are_marked_and_named() -> None:
    figure = draw_loss(HISTORY, Epochs(best=2, last=3, reason="no more gain"))
    assert legend(figure) == ["train", "val", "best epoch: 2", "stopped after 3 (no more gain)"]
    lines = {line.get_label(): line for line in figure.axes[0].get_lines()}
    assert list(lines["best epoch: 2"].get_xydata()[0]) == [2, 0.6]
    assert set(lines["stopped after 3 (no more gain)"].get_xdata()) == {3}
    assert list(lines["val"].get_ydata()) == [0.8, 0.6, 0.7]


def test_a_best_epoch_that_is_the_last_is_named_once() -> None:
    figure = draw_loss(HISTORY, Epochs(best=3, last=3, reason="accuracy reached"))
    assert legend(figure) == ["train", "val", "best epoch: 3, the last (accuracy reached)"]


def test_a_single_epoch_can_be_seen() -> None:
    figure = draw_loss(HISTORY[:1], Epochs(best=1, last=1, reason="epoch limit"))
    train = figure.axes[0].get_lines()[0]
    assert train.get_marker() == "o"


def test_the_baseline_is_a_dashed_line_at_its_height() -> None:
    epochs = Epochs(best=2, last=3, reason="no more gain")
    figure = draw_accuracy(HISTORY, epochs, 0.25, "normal")
    lines = {line.get_label(): line for line in figure.axes[0].get_lines()}
    baseline = lines["always normal (val)"]
    assert set(baseline.get_ydata()) == {0.25}
    assert baseline.is_dashed()
    low, high = figure.axes[0].get_ylim()
    assert low < 0.25 < 0.9 < high
    assert not any("always" in text for text in legend(draw_accuracy(HISTORY, epochs, None, "")))


def test_the_legend_of_the_accuracy_fits_whatever_the_class_is_called() -> None:
    epochs = Epochs(best=2, last=3, reason="accuracy reached")
    for name in ("normal", "fourteen signs", "adenocarcinoma of the lung"):
        with matplotlib.rc_context(STYLE):
            figure = draw_accuracy(HISTORY, epochs, 0.25, name)
            figure.draw_without_rendering()
        box, frame = figure.legends[0].get_window_extent(), figure.bbox
        assert frame.x0 <= box.x0 and box.x1 <= frame.x1, (name, box.width, frame.width)


@pytest.mark.parametrize("number", [2, 7, 20])
def test_every_cell_is_annotated_and_wide_enough(number: int) -> None:
    generator = np.random.default_rng(number)
    counts = generator.integers(0, 20_000, (number, number))
    names = [f"a rather long name of a finding, number {place}" for place in range(number)]
    for per_cent in (False, True):
        figure = draw_confusion(counts, names, per_cent=per_cent)
        figure.draw_without_rendering()
        cells = figure.axes[0].texts
        assert len(cells) == number**2
        side = figure.axes[0].get_window_extent().width / number
        assert max(text.get_window_extent().width for text in cells) < side
        frame = figure.get_window_extent()
        for label in (*figure.axes[0].get_xticklabels(), *figure.axes[0].get_yticklabels()):
            box = label.get_window_extent()
            assert box.x0 >= -1 and box.y0 >= -1 and box.x1 <= frame.x1 + 1, label.get_text()


def test_shares_are_of_the_row_and_small_ones_are_not_shown_as_nothing() -> None:
    counts = np.array([[3, 1], [0, 0]])
    assert row_per_cent(counts)[0].tolist() == [75, 25]
    assert np.isnan(row_per_cent(counts)[1]).all()
    many = np.eye(9, dtype=np.int64) * 999
    many[0, 1] = 1
    shown = texts(draw_confusion(many, list("abcdefghi"), per_cent=True))
    assert shown[:3] == ["100", "<1", "0"]


def test_twenty_curves_are_told_apart() -> None:
    ends = np.array([0.0, 1.0])
    area = {"value": 0.5, "ci95": [0.4, 0.6]}
    curves = [RocCurve(f"class {place}", ends, ends, ends, area) for place in range(20)]
    figure = draw_roc(curves, {})
    svg = io.BytesIO()
    figure.savefig(svg, format="svg")
    styles = re.findall(
        r'style="(fill: none; [^"]*stroke-width: 1.5[^"]*)"', svg.getvalue().decode()
    )
    assert len(set(styles)) == 20
    figure.draw_without_rendering()
    axis_label = figure.axes[0].xaxis.label.get_window_extent()
    assert figure.legends[0].get_window_extent().y1 < axis_label.y0


def test_short_names_are_short_and_differ() -> None:
    names = ["adenocarcinoma of the left upper lobe, stage I", "ok"]
    names.append(names[0].replace("the left upper", "a right lower"))
    short = short_names(names)
    assert short[1] == "ok"
    assert len(set(short)) == 3
    assert max(map(len, short)) <= 28
    assert short_names(["\n", " "]) == ["(1)", "(2)"]
