"""Out-of-fold probabilities -> labels to look at again."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
from scipy.special import ndtri

from medlens.report.metrics import BoolArray, FloatArray, IntArray, count_confusion

COLUMNS = ("path", "label", "suggested", "probability")
# The report holds no more; nobody looks through more at once.
MOST_LISTED = 100
# From this share on the flagged images are hard cases rather than slips.
LARGE_SHARE = 0.1
# Mean recall must be so many standard errors above guessing (one-sided 99.9 %): below, a search
# among all images would turn up what chance did.
SURE_QUANTILE = float(ndtri(0.999))


def out_of_fold_suspects(
    paths: Sequence[str],
    labels: Sequence[str],
    probabilities: FloatArray,
    classes: Sequence[str],
) -> pd.DataFrame:
    """Find images whose label the classifier confidently disagrees with.

    Confident learning: an image is suspect where another class is more probable than that class
    is, on average, for the images that carry its label, and where it is among as many of the least
    probable labels as the estimated share of wrong labels allows.
    Source: Northcutt, Jiang, Chuang, Journal of Artificial Intelligence Research 70 (2021),
    1373-1411, by cleanlab.

    Args:
        paths: Of the images.
        labels: Their labels, each one of `classes`.
        probabilities: Of each class, calibrated, by classifiers that were fitted without the
            image, of shape (images, classes); rows add up to 1.
        classes: Class names, in the order of the columns.

    Returns:
        A row for each suspect, the most suspicious first: path, label, suggested (the most
        probable class) and probability (of that class, 0 to 1).
    """
    # Imported here: it takes seconds, and only training needs it.
    from cleanlab.filter import find_label_issues
    from cleanlab.rank import get_label_quality_scores

    numbers = _numbers(labels, classes)
    used = np.unique(numbers)
    if len(used) < 2:
        return pd.DataFrame(columns=list(COLUMNS))
    # Confident learning needs images of each class; of one without, no label can be wrong.
    given = np.searchsorted(used, numbers)
    stated = probabilities[:, used] / probabilities[:, used].sum(axis=1, keepdims=True)
    flagged: BoolArray = np.ones(len(numbers), dtype=bool)
    for rule in ("confident_learning", "both"):
        flagged &= find_label_issues(
            given, stated, filter_by=rule, min_examples_per_class=0, n_jobs=1
        )
    quality = get_label_quality_scores(given, stated, method="normalized_margin")
    best = probabilities.argmax(axis=1)
    table = pd.DataFrame(
        {
            "path": np.asarray(paths, dtype=object),
            "label": np.asarray(classes, dtype=object)[numbers],
            "suggested": np.asarray(classes, dtype=object)[best],
            "probability": probabilities.max(axis=1),
            "quality": quality,
        }
    )
    suspects: pd.DataFrame = table[flagged & (best != numbers)].sort_values(["quality", "path"])
    return suspects.reset_index(drop=True)[list(COLUMNS)]


def suspects_block(
    paths: Sequence[str],
    labels: Sequence[str],
    probabilities: FloatArray,
    classes: Sequence[str],
) -> dict[str, Any]:
    """The block `label_suspects` of evaluation.json.

    Args:
        paths: Of the images.
        labels: Their labels, each one of `classes`.
        probabilities: Calibrated, out of fold, of shape (images, classes); see
            `out_of_fold_suspects`.
        classes: Class names, in the order of the columns.

    Returns:
        n (how many suspects), share (of all images), text, and images: the `MOST_LISTED` most
        suspicious as dictionaries with path, label, suggested and probability. Where the
        classifier is no better than chance, n is None, with a reason.
    """
    probabilities = np.asarray(probabilities, dtype=np.float64)
    if reason := _unfitness(_numbers(labels, classes), probabilities):
        return {
            "n": None,
            "reason": reason,
            "text": f"Labels were not checked: {reason}.",
            "images": [],
        }
    suspects = out_of_fold_suspects(paths, labels, probabilities, classes)
    return {
        "n": len(suspects),
        "share": len(suspects) / len(probabilities),
        "text": _text(len(suspects), len(probabilities)),
        "images": [
            {
                "path": str(row["path"]),
                "label": str(row["label"]),
                "suggested": str(row["suggested"]),
                "probability": float(row["probability"]),
            }
            for row in suspects.head(MOST_LISTED).to_dict("records")
        ],
    }


def _numbers(labels: Sequence[str], classes: Sequence[str]) -> IntArray:
    codes = pd.Categorical([str(label) for label in labels], list(classes)).codes
    return codes.astype(np.int64)


def _unfitness(numbers: IntArray, probabilities: FloatArray) -> str:
    """Why the probabilities cannot judge labels; empty where they can.

    The mean recall over the classes must lie clearly above that of guessing, where as many images
    are given each class but any of them.
    """
    present = np.unique(numbers)
    if len(present) < 2:
        return "the images are of one class alone"
    predicted = probabilities.argmax(axis=1)
    confusion = count_confusion(numbers, predicted, probabilities.shape[1])[present]
    images = confusion.sum(axis=1)
    reached = float((confusion[np.arange(len(present)), present] / images).mean())
    guessed = confusion.sum(axis=0)[present] / images.sum()
    chance = float(guessed.mean())
    error = np.sqrt((guessed * (1 - guessed) / images).sum()) / len(present)
    if reached <= chance + SURE_QUANTILE * float(error):
        return (
            "out of fold, the classifier is not shown to do better than guessing "
            f"(mean recall {reached:.2f}, by guessing {chance:.2f})"
        )
    return ""


def _text(suspects: int, images: int) -> str:
    among = f"{images:,} training images"
    if suspects == 0:
        return f"Among {among} none has a label that heads fitted without it firmly doubt."
    share = suspects / images
    subject = "1 image has a label" if suspects == 1 else f"{suspects:,} images have labels"
    text = (
        f"Of {among}, {subject} that heads fitted without that image "
        "firmly doubt. "
        "Look at them: a doubt is not a proof, and nothing was changed."
    )
    if share > LARGE_SHARE:
        text += (
            f" They are {100 * share:.0f} % of the images, which says more about how hard the "
            "classes are to tell apart than about the labels."
        )
    return text
