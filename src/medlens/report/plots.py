"""Files of a run -> figures: PNG, SVG and the CSV behind each; the same files, the same bytes."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import pandas as pd
import seaborn
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from numpy.typing import NDArray
from sklearn.metrics import roc_curve

from medlens.report.evaluation import headline, headline_rows
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
from medlens.report.metrics import FloatArray, IntArray
from medlens.report.predictions import read_predictions
from medlens.run_dir import RunDir

FIGURES = ("loss", "accuracy", "confusion_matrix", "confusion_matrix_percent", "roc")
# Bands of more classes than that lie over one another; their limits are in the CSV.
MOST_BANDS = 2

LONGEST_IN_PAIR = 14  # of a legend with two columns
MOST_CLASSES_WITH_DECIMALS = 8

STOP_WORDS: Mapping[str, str] = {
    "accuracy": "accuracy reached",
    "patience": "no more gain",
    "epochs": "epoch limit",
}


@dataclass(frozen=True)
class Epochs:
    """The epochs that are marked in a curve, counted from 1.

    Args:
        best: The epoch whose weights were kept.
        last: The epoch after which training stopped.
        reason: Why it stopped, in two or three words.
        images: Whose curves these are: those fitted on and those that stop the training.
        frozen: The last epoch of the head alone, where fine-tuning came after it; else 0.
    """

    best: int
    last: int
    reason: str
    images: tuple[str, str] = ("train", "val")
    frozen: int = 0


@dataclass(frozen=True)
class RocCurve:
    """The ROC curve of one class against the rest.

    Args:
        name: The class.
        false_positive_rate: 0 to 1, ascending, of shape (thresholds,).
        true_positive_rate: 0 to 1, ascending, of the same shape.
        thresholds: The probability from which an image counts as the class; starts with infinity.
        area: The number of evaluation.json, with its value and interval.
    """

    name: str
    false_positive_rate: FloatArray
    true_positive_rate: FloatArray
    thresholds: FloatArray
    area: Mapping[str, Any]


def main_drawings(
    run: RunDir, evaluation: Mapping[str, Any]
) -> dict[str, tuple[Callable[[], Figure], pd.DataFrame]]:
    """How to draw each figure of training and test, and its table.

    Args:
        run: A run folder with history.csv, training.json and predictions.csv.
        evaluation: The content of evaluation.json.
    """
    training = json.loads(run.training.read_text(encoding="utf-8"))
    history = pd.read_csv(run.history)
    images = ("train", "val")
    if "fold" in history:
        # The classifier is the mean of the fold heads, which stopped together.
        history = history.groupby("epoch", as_index=False).mean(numeric_only=True)
        images = ("folds fitted on (mean)", "folds held out (mean)")
    if "stage" in history:
        images = ("images fitted on", "images held out")
    epochs = _epochs(training, int(history["epoch"].max()), images)
    loss = history[["epoch", "loss", "val_loss"]]
    accuracy = history[["epoch", "accuracy", "val_accuracy"]]
    # The folds that are held out are together the whole of train.
    baseline, majority_class = _baseline(evaluation, "val" if images[1] == "val" else "train")
    classes = evaluation["classes"]
    counts = np.array(evaluation[headline(evaluation)]["confusion_matrix"], dtype=np.int64)
    bands = evaluation.get("curves", {}).get("roc", {})
    curves = roc_curves(read_predictions(run.predictions), evaluation)

    # Only here do the names meet the functions; FIGURES is their order.
    drawings: tuple[tuple[Callable[[], Figure], pd.DataFrame], ...] = (
        (partial(draw_loss, loss, epochs), loss.set_index("epoch")),
        (
            partial(draw_accuracy, accuracy, epochs, baseline, majority_class),
            accuracy.assign(majority_class=baseline).set_index("epoch"),
        ),
        (partial(draw_confusion, counts, classes), _confusion_table(counts, classes)),
        (
            partial(draw_confusion, counts, classes, per_cent=True),
            _confusion_table(row_per_cent(counts), classes),
        ),
        (partial(draw_roc, curves, curves_left_out(evaluation), bands), _roc_table(curves)),
    )
    return dict(zip(FIGURES, drawings, strict=True))


def _epochs(training: Mapping[str, Any], last: int, images: tuple[str, str]) -> Epochs:
    """What is marked in the curves; where the backbone was fine-tuned, its epochs follow."""
    best, reason = training["best_epoch"], training["stop_reason"]
    tuned = training.get("fine_tuning")
    if tuned and tuned["is_used"]:
        best, reason = training["epochs_run"] + tuned["best_epoch"], tuned["stop_reason"]
    frozen = training["epochs_run"] if tuned else 0
    return Epochs(best, last, STOP_WORDS.get(reason, reason), images, frozen)


def draw_loss(history: pd.DataFrame, epochs: Epochs) -> Figure:
    """Loss of train and val over the epochs, best and last epoch marked.

    Args:
        history: Columns epoch, loss and val_loss; one row per epoch.
        epochs: What to mark.
    """
    figure, axes = new_figure(WIDTH, 3.8)
    _draw_curves(axes, history, "loss", "val_loss", epochs)
    axes.set_ylabel("Loss (cross-entropy, nats)")
    axes.set_ylim(bottom=0)
    legend_below(figure, axes)
    return figure


def draw_accuracy(
    history: pd.DataFrame, epochs: Epochs, baseline: float | None, majority_class: str
) -> Figure:
    """Accuracy of train and val over the epochs, with what always giving one answer reaches.

    Args:
        history: Columns epoch, accuracy and val_accuracy (shares, 0 to 1); one row per epoch.
        epochs: What to mark.
        baseline: Share of the val images that are of the majority class; None where not known.
        majority_class: The most frequent class of train.
    """
    # One more line of legend than that of the loss, so that the two stand level side by side.
    figure, axes = new_figure(WIDTH, 4.0)
    _draw_curves(axes, history, "accuracy", "val_accuracy", epochs)
    if baseline is not None:
        name = short_names([majority_class])[0]
        where = "val" if epochs.images[1] == "val" else "train"
        label = f"always {name if len(name) <= LONGEST_IN_PAIR else 'the same'} ({where})"
        axes.axhline(baseline, color=INK, linestyle=STROKES[1], linewidth=1.2, label=label)
    axes.set_ylabel("Accuracy (% of images)")
    axes.yaxis.set_major_formatter(lambda share, _: f"{100 * share:g}")
    low = min([*history[["accuracy", "val_accuracy"]].min(), 1 if baseline is None else baseline])
    axes.set_ylim(max(0.0, low - 0.05), 1.02)
    legend_below(figure, axes)
    return figure


def draw_confusion(counts: IntArray, classes: Sequence[str], *, per_cent: bool = False) -> Figure:
    """Heatmap of a confusion matrix.

    Args:
        counts: Images of each class (rows) predicted as each class (columns), of shape
            (classes, classes).
        classes: Their names.
        per_cent: Whether to show each row as per cent of its sum in place of counts.
    """
    number = len(classes)
    shares = row_per_cent(counts)
    texts = np.array(
        [[_share_text(share, number) for share in row] for row in shares]
        if per_cent
        else [[f"{count:,}" for count in row] for row in counts]
    )
    letters = 12.0 if number <= 4 else 10.0 if number <= 10 else 8.0
    cell = max(np.interp(number, (2, 5, 10, 20), (1.0, 0.72, 0.52, 0.42)), _cell(texts, letters))
    names = short_names(classes)
    longest = max(map(len, names)) * 0.085  # inches, about
    turned = longest > cell
    height = number * cell + (0.72 * longest + 0.3 if turned else 0.25) + 0.75
    figure, axes = new_figure(max(3.6, number * cell + longest + 0.75), height)
    seaborn.heatmap(
        shares if per_cent else counts,
        mask=np.isnan(shares) if per_cent else None,
        vmin=0,
        vmax=100 if per_cent else max(1, counts.max()),
        cmap=seaborn.light_palette(COLOURS[0], as_cmap=True),
        annot=texts,
        fmt="",
        annot_kws={"fontsize": letters},
        cbar=False,
        square=True,
        linewidths=1,
        linecolor=PAPER,
        xticklabels=names,
        yticklabels=names,
        ax=axes,
    )
    for row in np.flatnonzero(counts.sum(axis=1) == 0) if per_cent else ():
        axes.text(number / 2, row + 0.5, "no test image", ha="center", va="center", fontsize=9)
    for text in axes.texts:
        text.set_in_layout(False)  # they lie inside the cells; measuring them is slow
    axes.grid(visible=False)
    axes.tick_params(length=0, pad=4)
    # Turned about an anchor, SVG viewers with another font keep the labels in place.
    for label in axes.get_xticklabels():
        label.set(rotation=45 if turned else 0, ha="right" if turned else "center")
        label.set_rotation_mode("anchor")
    axes.tick_params(axis="y", rotation=0)
    axes.set_title(
        "Test images, % of each row" if per_cent else "Test images", loc="left", fontsize=10
    )
    axes.set_xlabel("Predicted class")
    axes.set_ylabel("Label (reference standard)")
    return figure


def draw_roc(
    curves: Sequence[RocCurve],
    left_out: Mapping[str, str],
    bands: Mapping[str, Mapping[str, Any]] | None = None,
) -> Figure:
    """ROC curves, each class against the rest, with their areas in the legend.

    Args:
        curves: The curves; none gives an empty pair of axes that says so.
        left_out: Classes without a curve, with the reason in a few words.
        bands: By class false_positive_rate, low and high of the 95 % band.
    """
    rows = len(curves) + len(left_out) + 1
    figure, axes = new_figure(WIDTH, 4.5 + 0.2 * rows)
    names = short_names([*(curve.name for curve in curves), *left_out])
    axes.plot([0, 1], [0, 1], color=INK, linewidth=0.8, linestyle=STROKES[2], label="chance: 0.500")
    for number, (curve, name) in enumerate(zip(curves, names, strict=False)):
        band = (bands or {}).get(curve.name)
        if band and len(curves) <= MOST_BANDS:
            axes.fill_between(
                band["false_positive_rate"], band["low"], band["high"],
                color=COLOURS[number], alpha=BAND, linewidth=0,
            )  # fmt: skip
        axes.plot(
            curve.false_positive_rate,
            curve.true_positive_rate,
            color=COLOURS[number % len(COLOURS)],
            linestyle=STROKES[number // len(COLOURS) % len(STROKES)],
            label=f"{name}: {area_text(curve.area)}",
            clip_on=False,
        )
    for name, reason in zip(names[len(curves) :], left_out.values(), strict=True):
        axes.plot([], [], linestyle="none", label=f"{name}: not drawn, {reason}")
    if not curves:
        axes.text(0.5, 0.5, "No curve can be drawn.", ha="center", va="bottom")
    axes.set(xlim=(0, 1), ylim=(0, 1), aspect="equal")
    axes.set_xlabel("1 \N{MINUS SIGN} specificity (false positive rate)")
    axes.set_ylabel("Sensitivity (true positive rate)")
    chance, *drawn = axes.get_lines()
    figure.legend(
        handles=[*drawn, chance],
        labels=[str(line.get_label()) for line in (*drawn, chance)],
        loc="outside lower center",
        title="Area under the curve (95 % interval)",
        title_fontsize=9.5,
        alignment="left",
        handlelength=2.6,
    )
    return figure


def row_per_cent(counts: IntArray) -> FloatArray:
    """Each row of a confusion matrix in per cent of its sum; NaN in a row without images.

    Args:
        counts: Of shape (classes, classes).
    """
    sums = counts.sum(axis=1, keepdims=True)
    shares: FloatArray = 100 * counts / np.where(sums > 0, sums, 1)
    return np.where(sums > 0, shares, np.nan)


def shown_classes(evaluation: Mapping[str, Any]) -> list[str]:
    """The classes that get a ROC curve: of two, the positive class alone."""
    classes = [str(name) for name in evaluation["classes"]]
    positive = evaluation.get("positive_class")
    return [positive] if len(classes) == 2 and positive else classes


def roc_curves(predictions: pd.DataFrame, evaluation: Mapping[str, Any]) -> list[RocCurve]:
    """The ROC curves of the test split; classes whose area is not defined are left out.

    Args:
        predictions: The content of predictions.csv.
        evaluation: The content of evaluation.json.
    """
    test = headline_rows(predictions)
    curves = []
    for name in shown_classes(evaluation):
        area = evaluation[headline(evaluation)]["per_class"][name]["roc_auc"]
        if area["value"] is None:
            continue
        scores = test[f"prob_{name}"].to_numpy(dtype=np.float64)
        false_rate, true_rate, thresholds = roc_curve(test["label"] == name, scores)
        curves.append(RocCurve(name, false_rate, true_rate, thresholds, area))
    return curves


def curves_left_out(evaluation: Mapping[str, Any]) -> dict[str, str]:
    """The classes whose ROC curve cannot be drawn, with the reason in a few words."""
    test = evaluation[headline(evaluation)]
    return {
        name: "no other class" if test["per_class"][name]["n"] else "no test image"
        for name in shown_classes(evaluation)
        if test["per_class"][name]["roc_auc"]["value"] is None
    }


def _draw_curves(axes: Axes, history: pd.DataFrame, train: str, val: str, epochs: Epochs) -> None:
    """Two curves over the epochs, and vertical lines at the best and the last epoch."""
    marker = "o" if len(history) == 1 else ""
    names = zip((train, val), epochs.images, COLOURS, strict=False)
    for column, label, colour in names:
        axes.plot(
            history["epoch"], history[column], color=colour, marker=marker, markersize=5,
            label=label,
        )  # fmt: skip
    best = history[history["epoch"] == epochs.best]
    is_last = epochs.best == epochs.last
    label = f"best epoch: {epochs.best}" + (f", the last ({epochs.reason})" if is_last else "")
    axes.axvline(epochs.best, color=INK, linewidth=0.9, linestyle=STROKES[2])
    axes.plot(
        best["epoch"], best[val], color=INK, marker="o", markersize=6, markerfacecolor=PAPER,
        linestyle=STROKES[2], linewidth=0.9, label=label,
    )  # fmt: skip
    if not is_last:
        # With fine-tuning the reason would be that of one of two trainings.
        label = f"stopped after {epochs.last}" + ("" if epochs.frozen else f" ({epochs.reason})")
        axes.axvline(epochs.last, color=INK, linewidth=0.9, label=label)
    if epochs.frozen:
        axes.axvspan(
            epochs.frozen + 0.5, epochs.last + 0.5, color=INK, alpha=0.06, label="fine-tuning"
        )
    axes.set_xlabel("Epoch (passes over the training images)")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.set_xlim(0.5, epochs.last + 0.5)


def _baseline(evaluation: Mapping[str, Any], split: str) -> tuple[float | None, str]:
    """What always giving the most frequent class of train reaches on a split, and that class."""
    block = evaluation.get(split, {})
    measure = block.get("majority_class_accuracy", {"value": None})
    return measure["value"], block.get("majority_class") or ""


def _share_text(share: float, classes: int) -> str:
    """A share in per cent, without a digit too many for its cell."""
    if np.isnan(share):
        return ""
    if share == 0 or classes <= MOST_CLASSES_WITH_DECIMALS:
        return f"{share:.1f}" if share else "0"
    return "<1" if share < 1 else f"{share:.0f}"


def _cell(texts: NDArray[np.str_], letters: float) -> float:
    """The side of a cell, in inches, that holds its longest text."""
    return float(max(map(len, texts.ravel()))) * letters * 0.64 / 72 + 0.1


def area_text(area: Mapping[str, Any]) -> str:
    """Like 0.912 (0.880 to 0.941); or why there is none."""
    if area["value"] is None:
        return str(area["reason"])
    low, high = area["ci95"]
    return f"{area['value']:.3f} ({low:.3f} to {high:.3f})"


def _confusion_table(values: IntArray | FloatArray, classes: Sequence[str]) -> pd.DataFrame:
    """True classes in rows, the first column their names; predicted classes in columns."""
    return pd.DataFrame(values, columns=list(classes), index=pd.Index(classes, name="label"))


def _roc_table(curves: Sequence[RocCurve]) -> pd.DataFrame:
    columns = ["threshold", "false_positive_rate", "true_positive_rate"]
    tables = [
        pd.DataFrame(
            zip(curve.thresholds, curve.false_positive_rate, curve.true_positive_rate, strict=True),
            columns=columns,
            index=pd.Index([curve.name] * len(curve.thresholds), name="class"),
        )
        for curve in curves
    ]
    empty = pd.DataFrame(columns=columns, index=pd.Index([], name="class"))
    return pd.concat(tables) if tables else empty
