"""What the audit finds in single pictures: blank, dark and blurred ones."""

from __future__ import annotations

import math

import numpy as np
import pandas as pd

from medlens.data.finding import Finding, count_values, each_file, number_of

# With fewer images there is no telling what is usual.
_FEWEST_IMAGES = 20
# Far below the others is below a quarter of their median, and by so many robust standard
# deviations: neither a small head nor a smooth slice is. Blur by 2 of 256 px mostly is.
_FAR_BELOW = 0.25
_DEVIATIONS = 5.5
# Where the others hardly differ, chance differences shall not count for much.
_LEAST_DEVIATION = 0.1


def find_blank(used: pd.DataFrame) -> list[Finding]:
    """Pictures of one flat colour."""
    found = used[used["levels"] <= 1]
    if found.empty:
        return []
    return [
        Finding(
            code="blank",
            severity="warning",
            message=f"{number_of(len(found), 'image')} of one flat colour: nothing is to be seen.",
            fix="Look at them; take out what was exported wrongly.",
            count=len(found),
            files=each_file(found),
            details={"classes": count_values(found["label"])},
        )
    ]


def find_dark_and_blurred(used: pd.DataFrame) -> list[Finding]:
    """Pictures that are nearly black, or without fine detail, beside the rest of the data set.

    Dark is judged by mean grey plus one standard deviation, which stays high where something
    bright lies on much black; blurred by the sharpness, which does not depend on brightness.
    Blank pictures are left out, and dark ones are not called blurred.
    """
    seen = used[used["levels"] > 1]
    if len(seen) < _FEWEST_IMAGES:
        return []
    is_dark = _is_far_below(seen["mean"] + seen["spread"])
    is_blurred = _is_far_below(seen["sharpness"]) & ~is_dark
    kinds = (
        (
            "dark",
            seen[is_dark],
            ("is nearly black", "are nearly black"),
            "Look at them: a wrong window, or an exposure that failed? Export them again, or take "
            "out what shows nothing.",
        ),
        (
            "blurred",
            seen[is_blurred],
            ("has hardly any fine detail", "have hardly any fine detail"),
            "Look at them: out of focus, moved, enlarged from small pictures, or compressed too "
            "far? Take out what shows too little.",
        ),
    )
    return [
        Finding(
            code=code,
            severity="note",
            message=f"{number_of(len(found), 'image')} {one if len(found) == 1 else many} beside "
            "the rest of the data set.",
            fix=fix,
            count=len(found),
            files=each_file(found),
            details={"classes": count_values(found["label"])},
        )
        for code, found, (one, many), fix in kinds
        if len(found)
    ]


def _is_far_below(values: pd.Series[float]) -> pd.Series[bool]:
    """Which values lie far below their median, judged on a logarithmic scale.

    Deviations are counted in median absolute deviations, times 1.4826 to be comparable to the
    standard deviation of a normal distribution (Iglewicz and Hoaglin, How to Detect and Handle
    Outliers, 1993): outliers do not hide each other.
    """
    logarithms = pd.Series(np.log(values + 1e-6), index=values.index)
    below = logarithms.median() - logarithms
    deviation = max(1.4826 * float(below.abs().median()), _LEAST_DEVIATION)
    return below.gt(max(-math.log(_FAR_BELOW), _DEVIATIONS * deviation))
