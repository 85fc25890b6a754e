"""How figures look, and how they are written: PNG, SVG and the CSV behind each."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import matplotlib
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.font_manager import fontManager

from medlens.files import write_bytes
from medlens.quiet import LIBRARY_WARNINGS
from medlens.run_dir import RunDir

# The report exchanges these three for colours of a dark page; nothing else may have them.
INK = "#1b2733"
FAINT = "#d3dae0"
PAPER = "#fefefe"

# Told apart by the colour-blind (Wong, Nature Methods 8 (2011), 441) and, by the strokes, in print.
COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9")
STROKES = ("-", (0, (6, 2)), (0, (1.5, 1.5)), (0, (6, 2, 1.5, 2)))

# Scripts that Matplotlib's own font lacks; taken where the system has the font.
FURTHER_FONTS = (
    "Noto Sans CJK SC",
    "Noto Sans CJK JP",
    "Microsoft YaHei",
    "PingFang SC",
    "Hiragino Sans",
    "Malgun Gothic",
    "Noto Sans Devanagari",
    "Arial Unicode MS",
)

WIDTH = 4.3  # inches; at this size the letters stay legible on a phone
LONGEST_NAME = 28
BAND = 0.18  # how much of its colour a 95 % band has
STYLE: dict[Any, Any] = {
    "axes.edgecolor": INK,
    "axes.facecolor": "none",
    "axes.grid": True,
    "axes.labelcolor": INK,
    "axes.labelpad": 6.0,
    "axes.linewidth": 0.8,
    "axes.spines.right": False,
    "axes.spines.top": False,
    "figure.constrained_layout.h_pad": 0.08,
    "figure.facecolor": PAPER,
    "font.size": 10.5,
    "grid.color": FAINT,
    "grid.linewidth": 0.6,
    "legend.columnspacing": 1.4,
    "legend.fontsize": 9.5,
    "legend.frameon": False,
    "lines.linewidth": 1.8,
    "savefig.dpi": 200.0,
    "svg.fonttype": "none",
    "text.color": INK,
    # Class names are names: a dollar sign in one starts no formula.
    "text.parse_math": False,
    "xtick.color": INK,
    "ytick.color": INK,
}


def short_names(names: Sequence[str]) -> list[str]:
    """Class names for a figure: printable, on one line, cut in the middle, still all different."""
    short = []
    for number, name in enumerate(names):
        text = " ".join("".join(sign if sign.isprintable() else " " for sign in name).split())
        if len(text) > LONGEST_NAME:
            text = f"{text[: LONGEST_NAME - 13]}\N{HORIZONTAL ELLIPSIS}{text[-12:]}"
        if text in short or not text:
            text = f"{text[: LONGEST_NAME - 5]} ({number + 1})".strip()
        short.append(text)
    return short


def new_figure(width: float, height: float) -> tuple[Figure, Axes]:
    """A figure of so many inches with one pair of axes."""
    figure = Figure(figsize=(width, height), layout="constrained")
    return figure, figure.add_subplot()


def legend_below(figure: Figure, axes: Axes) -> None:
    """Put the legend of the axes below them, in two columns."""
    handles, labels = axes.get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=2, alignment="left")


@contextmanager
def figure_style(**more: Any) -> Iterator[None]:
    """Draw in the style of medlens, whatever the user's own settings are; quietly.

    Args:
        more: Further settings of Matplotlib, with _ in the place of the dot.
    """
    installed = set(fontManager.get_font_names())
    fonts = ["DejaVu Sans", *(font for font in FURTHER_FONTS if font in installed)]
    own: dict[Any, Any] = {name.replace("_", ".", 1): value for name, value in more.items()}
    with matplotlib.rc_context(), LIBRARY_WARNINGS:
        matplotlib.rcdefaults()
        matplotlib.rcParams.update({**STYLE, "font.family": fonts, **own})
        yield


def save_figure(run: RunDir, name: str, draw: Callable[[], Figure], table: pd.DataFrame) -> None:
    """Draw a figure and write it as PNG and SVG, and the numbers in it as CSV."""
    png, svg = io.BytesIO(), io.BytesIO()
    with figure_style(svg_hashsalt=name):
        figure = draw()
        layout = figure.get_layout_engine()
        if layout is not None:
            layout.execute(figure)
            figure.set_layout_engine("none")  # once is enough: drawing would do it again each time
        figure.savefig(png, format="png", metadata={"Software": None})
        nothing = dict.fromkeys(("Creator", "Date", "Format", "Type"))
        figure.savefig(svg, format="svg", metadata=nothing)
    write_bytes(run.figures / f"{name}.png", png.getvalue())
    write_bytes(run.figures / f"{name}.svg", svg.getvalue())
    write_bytes(run.figures / f"{name}.csv", table.to_csv().encode())
