"""The page that explains one picture: the picture, its heat with the scale, similar cases."""

from __future__ import annotations

import io
from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.figure import Figure, SubFigure
from numpy.typing import NDArray
from PIL import Image

from medlens.model.training_cases import SimilarCase
from medlens.report.figure_style import INK, figure_style, short_names
from medlens.report.saliency import COLOUR_MAP

CAVEAT = (
    "The heat shows what spoke for this class. It does not show that the finding is the disease, "
    "nor that the answer is right. Not a medical device."
)
WIDTH, PICTURES_HEIGHT, SIMILAR_HEIGHT = 8.0, 4.6, 2.1  # inches
DOTS_PER_INCH = 120
SIMILAR_SHOWN = 5


def draw_page(
    picture: NDArray[np.uint8],
    heat_over: NDArray[np.uint8],
    similar: Sequence[SimilarCase],
    title: str,
) -> bytes:
    """Draw the page.

    Args:
        picture: RGB of shape (size, size, 3), as the network sees it.
        heat_over: The heat laid over it, of the same shape.
        similar: Training cases; those with a picture are shown.
        title: Says which class is explained.

    Returns:
        A PNG file.
    """
    shown = [case for case in similar if case.picture is not None][:SIMILAR_SHOWN]
    heights = [PICTURES_HEIGHT, *[SIMILAR_HEIGHT] * bool(shown)]
    stream = io.BytesIO()
    with figure_style(font_size=9.0):
        size = (WIDTH, sum(heights))
        figure = Figure(figsize=size, dpi=DOTS_PER_INCH, layout="constrained")
        figure.suptitle(title, fontsize=11, ha="left", x=0.02)
        figure.supxlabel(CAVEAT, fontsize=7.5, ha="left", x=0.02)
        rows = figure.subfigures(len(heights), 1, height_ratios=heights, squeeze=False)[:, 0]
        _draw_heat(rows[0], picture, heat_over)
        if shown:
            _draw_similar(rows[1], shown)
        figure.savefig(stream, format="png", dpi=DOTS_PER_INCH, metadata={"Software": None})
    return stream.getvalue()


def _draw_heat(part: SubFigure, picture: NDArray[np.uint8], heat_over: NDArray[np.uint8]) -> None:
    left, right = part.subplots(1, 2)
    _show(left, picture, "As the network sees it")
    _show(right, heat_over, "Heat laid over it")
    scale = part.colorbar(ScalarMappable(cmap=COLOUR_MAP), ax=right, shrink=0.85, ticks=[0, 0.5, 1])
    scale.set_label("Heat: 1 is the most in this picture, 0 is nothing")
    scale.outline.set_edgecolor(INK)


def _draw_similar(part: SubFigure, cases: Sequence[SimilarCase]) -> None:
    part.suptitle("The most similar training cases", fontsize=9, ha="left", x=0.02)
    all_axes = np.atleast_1d(part.subplots(1, SIMILAR_SHOWN))
    for axes in all_axes:
        axes.set_axis_off()
    for axes, case in zip(all_axes, cases, strict=False):
        if case.picture is not None:
            image = np.asarray(Image.open(io.BytesIO(case.picture)).convert("RGB"))
            (label,) = short_names([case.label])
            _show(axes, image, f"{label}\nrow {case.row}, distance {case.distance:.1f}")


def _show(axes: Axes, image: NDArray[np.uint8], title: str) -> None:
    axes.imshow(image)
    axes.set_title(title, fontsize=8.5)
    axes.set_axis_off()
