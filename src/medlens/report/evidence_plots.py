"""Blocks of evaluation.json -> figures of the evidence, each with the numbers behind it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from medlens.report.evaluation import headline
from medlens.report.figure_style import (
    BAND,
    COLOURS,
    INK,
    PAPER,
    STROKES,
    WIDTH,
    legend_below,
    new_figure,
    short_names,
)
from medlens.report.plots import MOST_BANDS, area_text, draw_confusion, shown_classes

MOST_LEVELS = 40
ROW = 0.27  # inches of a row of the forest plot

Drawing = tuple[Callable[[], Figure], pd.DataFrame]


def evidence_drawings(evaluation: Mapping[str, Any]) -> dict[str, Drawing]:
    """How to draw each figure of the evidence that there is, and its table.

    Args:
        evaluation: The content of evaluation.json.
    """
    found: dict[str, Drawing] = {}
    if curves := evaluation.get("curves"):
        shares = {name: block for name, block in curves["precision_recall"].items() if block}
        areas = evaluation[headline(evaluation)]["per_class"]
        shown = [name for name in shown_classes(evaluation) if name in shares]
        images = sum(one["n"] for one in areas.values())
        chances = {name: areas[name]["n"] / images for name in shown}
        table = curve_table({name: shares[name] for name in shown}, "recall", "precision")
        found["precision_recall"] = (
            partial(draw_precision_recall, {name: shares[name] for name in shown}, areas, chances),
            table.assign(chance=table.index.map(chances)),
        )
        if curves["decision"]:
            table = pd.DataFrame(curves["decision"]).set_index("threshold")
            found["decision_curve"] = (partial(draw_decision, curves["decision"]), table)
    if evaluation.get("calibration"):
        bins = evaluation["calibration"]["reliability"]
        named = evaluation["positive_class"] if len(evaluation["classes"]) == 2 else None
        found["reliability"] = (partial(draw_reliability, bins, named), _bin_table(bins))
    if rows := evaluation.get("abstention"):
        table = _measure_table(rows, "accuracy").set_index("share_answered")
        found["abstention"] = (partial(draw_abstention, table), table)
    if evaluation.get("subgroups"):
        result = evaluation[headline(evaluation)]
        table = _level_table(evaluation["subgroups"])
        found["subgroups"] = (partial(draw_subgroups, table, result), table.set_index("column"))
    point = evaluation.get("operating_point")
    if point and point["threshold"] is not None:
        counts = np.array(point["test"]["confusion_matrix"], dtype=np.int64)
        names = [f"not {point['class']}", str(point["class"])]
        table = pd.DataFrame(counts, columns=names, index=pd.Index(names, name="label"))
        found["operating_point"] = (partial(draw_confusion, counts, names), table)
    return found


def draw_precision_recall(
    curves: Mapping[str, Mapping[str, Any]],
    areas: Mapping[str, Mapping[str, Any]],
    chances: Mapping[str, float],
) -> Figure:
    """Precision against recall, each class against the rest, with 95 % bands.

    Args:
        curves: By class recall, precision, low and high, 0 to 1.
        areas: By class the measures of the result, average precision among them.
        chances: By class its share of the images, 0 to 1: the precision of a guess.
    """
    figure, axes = new_figure(WIDTH, 4.5 + 0.2 * (len(curves) + 2))
    for number, (name, short) in enumerate(zip(curves, short_names(list(curves)), strict=True)):
        label = f"{short}: {area_text(areas[name]['average_precision'])}"
        _curve(axes, curves[name], "recall", "precision", number, label, len(curves))
        colour = INK if len(curves) == 1 else COLOURS[number % len(COLOURS)]
        axes.axhline(chances[name], color=colour, linewidth=0.8, linestyle=STROKES[2])
    axes.set(xlim=(0, 1), ylim=(0, 1), aspect="equal")
    axes.set_xlabel("Recall (sensitivity)")
    axes.set_ylabel("Precision (positive predictive value)")
    if not curves:
        axes.text(0.5, 0.5, "No curve can be drawn.", ha="center", va="bottom")
        return figure
    only = next(iter(chances.values()))
    words = f"chance: {only:.3f}" if len(chances) == 1 else "chance: the share of each class"
    axes.plot([], [], color=INK, linewidth=0.8, linestyle=STROKES[2], label=words)
    figure.legend(
        loc="outside lower center",
        title="Average precision (95 % interval)",
        title_fontsize=9.5,
        alignment="left",
        handlelength=2.6,
    )
    return figure


def draw_decision(curve: Mapping[str, Any]) -> Figure:
    """Net benefit against the probability from which one would act, with its 95 % band.

    Args:
        curve: threshold, net_benefit, low, high and treat_all.
    """
    figure, axes = new_figure(WIDTH, 4.1)
    threshold = np.asarray(curve["threshold"])
    axes.fill_between(
        threshold, curve["low"], curve["high"], color=COLOURS[0], alpha=BAND, linewidth=0
    )
    axes.plot(threshold, curve["net_benefit"], color=COLOURS[0], label="act on the answer")
    axes.plot(
        threshold, curve["treat_all"], color=COLOURS[1], linestyle=STROKES[1], label="act on all"
    )
    axes.axhline(0, color=INK, linewidth=0.9, linestyle=STROKES[2], label="act on none")
    highest = max(*curve["high"], *curve["treat_all"])
    axes.set(xlim=(0, 1), ylim=(-0.25 * highest, 1.05 * highest))
    axes.set_xlabel("Probability from which one would act")
    axes.set_ylabel("Net benefit (share of images)")
    legend_below(figure, axes)
    return figure


def draw_reliability(bins: Mapping[str, Sequence[Mapping[str, Any]]], named: str | None) -> Figure:
    """Share observed against probability stated, before and after the temperature.

    Args:
        bins: "before" and "after", each with mean_probability and share (with its 95 % interval).
        named: The positive class of two; None where it is the predicted class of more.
    """
    figure, axes = new_figure(WIDTH, 4.7)
    axes.plot([0, 1], [0, 1], color=INK, linewidth=0.8, linestyle=STROKES[2], label="perfect")
    looks = {"before": (COLOURS[1], "s", PAPER), "after": (COLOURS[0], "o", COLOURS[0])}
    for name, (colour, marker, face) in looks.items():
        rows = [one for one in bins[name] if one["share"]["value"] is not None]
        stated = np.array([one["mean_probability"] for one in rows])
        seen = np.array([one["share"]["value"] for one in rows])
        limits = np.array([one["share"]["ci95"] for one in rows]).reshape(-1, 2).T
        if name == "after":
            axes.vlines(stated, *limits, color=colour, linewidth=1.2, alpha=0.6, clip_on=False)
        axes.plot(
            stated, seen, color=colour, marker=marker, markerfacecolor=face, markersize=5,
            linestyle=STROKES[1] if name == "before" else "-", linewidth=1.2, clip_on=False,
            label=f"{name} the temperature",
        )  # fmt: skip
    axes.set(xlim=(0, 1), ylim=(0, 1), aspect="equal")
    short = None if named is None else short_names([named])[0]
    axes.set_xlabel("Probability stated" + ("" if short is None else f" of {short}"))
    axes.set_ylabel("Share right" if short is None else f"Share that is {short}")
    legend_below(figure, axes)
    return figure


def draw_abstention(table: pd.DataFrame) -> Figure:
    """Accuracy against the share of images that is answered, with its 95 % interval.

    Args:
        table: accuracy, low and high by share_answered.
    """
    figure, axes = new_figure(WIDTH, 3.7)
    answered = table.index.to_numpy()
    axes.fill_between(answered, table["low"], table["high"], color=COLOURS[0], alpha=BAND, lw=0)
    axes.plot(answered, table["accuracy"], color=COLOURS[0], marker="o", markersize=3.5)
    axes.set(xlim=(0, 1.02), ylim=(max(0.0, float(table["low"].min()) - 0.03), 1.01))
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_formatter(lambda share, _: f"{100 * share:g}")
    axes.set_xlabel("Images answered (%), the surest first")
    axes.set_ylabel("Accuracy (% of those answered)")
    return figure


def draw_subgroups(table: pd.DataFrame, result: Mapping[str, Any]) -> Figure:
    """Forest plot: the metric of each level with its interval, and of the whole.

    Args:
        table: column, level, n, metric, value, low and high; NaN where there is no value.
        result: The measures of the whole.
    """
    shown = table.head(MOST_LEVELS)
    names = short_names([f"{row.column}: {row.level}" for row in shown.itertuples()])
    labels = [f"{name} (n = {n:,})" for name, n in zip(names, shown["n"], strict=True)]
    places = np.arange(len(shown))[::-1]
    figure, axes = new_figure(1.25 * WIDTH, 1.3 + ROW * (len(shown) + 2))
    for number, metric in enumerate(dict.fromkeys(shown["metric"])):
        rows = (shown["metric"] == metric).to_numpy()
        colour, words = COLOURS[number], METRIC_WORDS[metric]
        values = shown.loc[rows, "value"].to_numpy()
        axes.hlines(
            places[rows], shown.loc[rows, "low"], shown.loc[rows, "high"], color=colour, lw=1.6
        )
        marker = "s" if number == 0 else "o"
        axes.plot(values, places[rows], marker, color=colour, markersize=5, label=words)
        whole = result[metric]["value"]
        if whole is not None:
            label = f"{words} of all: {whole:.3f}"
            stroke = STROKES[number + 1]
            axes.axvline(whole, color=colour, linestyle=stroke, linewidth=1, label=label)
    for place in places[shown["value"].isna().to_numpy()]:
        # Halfway across whatever the values are; its height is that of the row.
        axes.text(
            0.5, place, "not measured", transform=axes.get_yaxis_transform(),
            ha="center", va="center", fontsize=9, bbox={"facecolor": PAPER, "lw": 0, "pad": 1.5},
        )  # fmt: skip
    axes.set_yticks(places, labels)
    axes.set_ylim(-0.7, len(shown) - 0.3)
    axes.grid(visible=False, axis="y")
    if len(table) > len(shown):
        axes.set_title(f"The first {len(shown)} of {len(table)} levels", loc="left", fontsize=10)
    legend_below(figure, axes)
    return figure


METRIC_WORDS: Mapping[str, str] = {"accuracy": "accuracy", "roc_auc_macro": "ROC AUC"}


def _curve(
    axes: Axes,
    curve: Mapping[str, Any],
    across: str,
    up: str,
    number: int,
    label: str,
    count: int,
) -> None:
    """A line in the look of its number, with its band where there are few."""
    colour, stroke = COLOURS[number % len(COLOURS)], STROKES[number // len(COLOURS) % len(STROKES)]
    if count <= MOST_BANDS:
        axes.fill_between(
            curve[across], curve["low"], curve["high"], color=colour, alpha=BAND, linewidth=0
        )
    axes.plot(curve[across], curve[up], color=colour, linestyle=stroke, label=label, clip_on=False)


def curve_table(
    curves: Mapping[str, Mapping[str, Any] | None], across: str, up: str
) -> pd.DataFrame:
    """Curves with their bands, one below the other, by class.

    Args:
        curves: By class, the columns named below with low and high; None where there is no curve.
        across: Name of what is drawn from left to right.
        up: Name of what is drawn upwards.
    """
    tables = [pd.DataFrame({"class": name, **curve}) for name, curve in curves.items() if curve]
    columns = ["class", across, up, "low", "high"]
    table = pd.concat(tables) if tables else pd.DataFrame(columns=columns)
    return table.set_index("class")


def _bin_table(bins: Mapping[str, Sequence[Mapping[str, Any]]]) -> pd.DataFrame:
    tables = [
        _measure_table(rows, "share", {"low": "from", "high": "to"}).assign(temperature=name)
        for name, rows in bins.items()
    ]
    return pd.concat(tables).set_index("temperature")


def _measure_table(
    rows: Sequence[Mapping[str, Any]], measured: str, renamed: Mapping[str, str] | None = None
) -> pd.DataFrame:
    """Rows with one measure each: its value under its name, its limits as low and high."""
    plain = pd.DataFrame([{k: v for k, v in row.items() if k != measured} for row in rows])
    measures = [row[measured] for row in rows]
    limits = [one.get("ci95", (np.nan, np.nan)) for one in measures]
    values = {
        measured: [np.nan if one["value"] is None else one["value"] for one in measures],
        "low": [low for low, _ in limits],
        "high": [high for _, high in limits],
    }
    return plain.rename(columns=dict(renamed or {})).assign(**values)


def _level_table(blocks: Sequence[Mapping[str, Any]]) -> pd.DataFrame:
    tables = [
        _measure_table(block["levels"], "value").assign(
            column=block["column"], metric=block["metric"]
        )
        for block in blocks
    ]
    return pd.concat(tables, ignore_index=True)
