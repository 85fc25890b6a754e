"""Point values: labels, predictions and probabilities in, numbers out (intervals: intervals.py).

Every function of a confusion matrix takes a stack of them, and every function of a ranking takes
many columns of group weights, so that a bootstrap costs a few matrix products. What is not defined
is NaN, never a stand-in.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import sparse

FloatArray = NDArray[np.float64]
IntArray = NDArray[np.int64]
BoolArray = NDArray[np.bool_]
Counts = FloatArray | IntArray

# The logarithm of a probability of zero is cut off here, as in scikit-learn.
SMALLEST_PROBABILITY = float(np.finfo(np.float64).eps)
LARGEST_LOG_LOSS = float(-np.log(SMALLEST_PROBABILITY))


@dataclass(frozen=True)
class SplitPredictions:
    """The predictions of one split.

    Args:
        truth: Class numbers, 0 to `class_count` - 1, of shape (images,).
        predicted: Class numbers, of the same shape.
        probabilities: Of each class, 0 to 1, of shape (images, classes).
        groups: Group numbers, 0 to `group_count` - 1, of shape (images,); every group occurs.
    """

    truth: IntArray
    predicted: IntArray
    probabilities: FloatArray
    groups: IntArray

    @property
    def class_count(self) -> int:
        """How many classes there are, with images or without."""
        return int(self.probabilities.shape[1])

    @property
    def group_count(self) -> int:
        """How many groups there are."""
        return int(self.groups.max()) + 1


def count_confusion(truth: IntArray, predicted: IntArray, class_count: int) -> IntArray:
    """Count the images of each true class (rows) that were predicted as each class (columns).

    Args:
        truth: Class numbers, 0 to `class_count` - 1, of shape (images,).
        predicted: Class numbers, of the same shape.
        class_count: How many classes there are.

    Returns:
        Counts of shape (classes, classes); their sum is the number of images.
    """
    cells = np.bincount(truth * class_count + predicted, minlength=class_count**2)
    return cells.reshape(class_count, class_count).astype(np.int64)


def accuracy(confusion: Counts) -> FloatArray:
    """Share of images on the diagonal.

    Args:
        confusion: Counts of shape (..., classes, classes), true classes in rows.

    Returns:
        Shares, 0 to 1, of shape (...); NaN where there is no image.
    """
    return _divide(np.trace(confusion, axis1=-2, axis2=-1), confusion.sum((-2, -1)))


def recall(confusion: Counts) -> FloatArray:
    """Share of each class's images that were predicted as that class (sensitivity).

    Args:
        confusion: Counts of shape (..., classes, classes), true classes in rows.

    Returns:
        Shares, 0 to 1, of shape (..., classes); NaN for a class without images.
    """
    return _divide(_diagonal(confusion), confusion.sum(-1))


def precision(confusion: Counts) -> FloatArray:
    """Share of the images predicted as each class that are of that class.

    Args:
        confusion: Counts of shape (..., classes, classes), true classes in rows.

    Returns:
        Shares, 0 to 1, of shape (..., classes); NaN for a class that was never predicted.
    """
    return _divide(_diagonal(confusion), confusion.sum(-2))


def specificity(confusion: Counts) -> FloatArray:
    """Share of the images of all other classes that were not predicted as each class.

    Args:
        confusion: Counts of shape (..., classes, classes), true classes in rows.

    Returns:
        Shares, 0 to 1, of shape (..., classes); NaN for a class that is the only one.
    """
    others = confusion.sum((-2, -1))[..., np.newaxis] - confusion.sum(-1)
    false_positives = confusion.sum(-2) - _diagonal(confusion)
    return _divide(others - false_positives, others)


def f1(confusion: Counts) -> FloatArray:
    """Harmonic mean of precision and recall of each class, 2 TP / (2 TP + FP + FN).

    Args:
        confusion: Counts of shape (..., classes, classes), true classes in rows.

    Returns:
        Scores, 0 to 1, of shape (..., classes); NaN for a class without images.
    """
    images = confusion.sum(-1)
    score = _divide(2 * _diagonal(confusion), images + confusion.sum(-2))
    return np.where(images > 0, score, np.nan)


def matthews_correlation(confusion: Counts) -> FloatArray:
    """Correlation of truth and prediction, for two and more classes.

    A classifier that predicts one class for every image has a correlation of 0, by convention.
    Source: Gorodkin, Computational Biology and Chemistry 28 (2004), 367-374.

    Args:
        confusion: Counts of shape (..., classes, classes), true classes in rows.

    Returns:
        Correlations, -1 to 1, of shape (...); NaN where all images are of one class.
    """
    confusion = np.asarray(confusion, dtype=np.float64)  # counts to the fourth overflow integers
    total = confusion.sum((-2, -1))
    true_counts, predicted_counts = confusion.sum(-1), confusion.sum(-2)
    covariance = total * np.trace(confusion, axis1=-2, axis2=-1)
    covariance = covariance - (true_counts * predicted_counts).sum(-1)
    true_spread = np.maximum(total**2 - (true_counts**2).sum(-1), 0)
    predicted_spread = np.maximum(total**2 - (predicted_counts**2).sum(-1), 0)
    value = _divide(covariance, np.sqrt(true_spread * predicted_spread))
    value = np.where(predicted_spread > 0, np.clip(value, -1, 1), 0.0)
    return np.where(true_spread > 0, value, np.nan)


def confusion_scores(confusion: Counts) -> dict[str, FloatArray]:
    """The metrics of confusion matrices whose intervals are drawn, by name.

    Args:
        confusion: Counts of shape (..., classes, classes), true classes in rows.

    Returns:
        recall, precision and f1 of shape (..., classes), mcc of shape (...).
    """
    return {
        "recall": recall(confusion),
        "precision": precision(confusion),
        "f1": f1(confusion),
        "mcc": matthews_correlation(confusion),
    }


def log_losses(truth: IntArray, probabilities: FloatArray) -> FloatArray:
    """Logarithmic loss of each image; their mean is the log loss (cross-entropy).

    Args:
        truth: Class numbers of shape (images,).
        probabilities: Probabilities, 0 to 1, of shape (images, classes).

    Returns:
        Losses in nats, 0 to `LARGEST_LOG_LOSS`, of shape (images,).
    """
    of_truth = np.take_along_axis(probabilities, truth[:, np.newaxis], axis=1)[:, 0]
    return -np.log(np.clip(of_truth, SMALLEST_PROBABILITY, 1.0))


@dataclass(frozen=True)
class Ranking:
    """Images by descending score, gathered into one step for each score that a positive has.

    Rows are steps and columns are groups, so that `matrix @ weights` sums the weight of a step's
    images for every column of group weights at once. Negatives below the last positive are in
    `negatives` alone.

    Args:
        positives: Positive images of each step, sparse (steps, groups).
        tied: Negative images with the very score of the step, sparse (steps, groups).
        between: Negative images above the step and below the one before, sparse (steps, groups).
        negatives: All negative images of each group, of shape (groups,).
    """

    positives: Any
    tied: Any
    between: Any
    negatives: FloatArray


def rank_images(
    positive: BoolArray, scores: FloatArray, groups: IntArray, group_count: int
) -> Ranking:
    """Sort images by score, once for all later weightings.

    Args:
        positive: Whether an image is of the positive class, of shape (images,); one at least.
        scores: Higher means more likely positive, of shape (images,). Equal scores are ties.
        groups: Group numbers, 0 to `group_count` - 1, of shape (images,).
        group_count: How many groups there are.
    """
    steps = np.unique(-scores[positive])
    step = np.searchsorted(steps, -scores)
    in_reach = step < len(steps)
    tied = np.zeros(len(scores), dtype=bool)
    tied[in_reach] = steps[step[in_reach]] == -scores[in_reach]

    def count(chosen: BoolArray) -> Any:
        ones = np.ones(int(chosen.sum()))
        places = (step[chosen], groups[chosen])
        return sparse.csr_array((ones, places), shape=(len(steps), group_count))

    return Ranking(
        positives=count(positive),
        tied=count(tied & ~positive),
        between=count(in_reach & ~tied & ~positive),
        negatives=np.bincount(groups[~positive], minlength=group_count).astype(np.float64),
    )


@dataclass(frozen=True)
class WeightedSteps:
    """A ranking under one or more weightings of the groups.

    Args:
        positives: Weight of the positives of each step, of shape (steps, weightings).
        tied: Weight of the negatives tied with them, of the same shape.
        above: Weight of the negatives with a higher score, of the same shape.
        negatives: Weight of all negatives, of shape (weightings,).
    """

    positives: FloatArray
    tied: FloatArray
    above: FloatArray
    negatives: FloatArray


def weigh(ranking: Ranking, weights: FloatArray) -> WeightedSteps:
    """Apply group weights to a ranking.

    Args:
        ranking: From `rank_images`.
        weights: How often each group counts, 0 or more, of shape (groups, weightings).
    """
    tied = ranking.tied @ weights
    above = np.cumsum(ranking.between @ weights + tied, axis=0) - tied
    return WeightedSteps(
        positives=ranking.positives @ weights,
        tied=tied,
        above=above,
        negatives=(ranking.negatives[:, np.newaxis] * weights).sum(0),
    )


def roc_auc(steps: WeightedSteps) -> FloatArray:
    """Chance that a positive scores higher than a negative, a tie counting one half.

    Returns:
        Areas, 0 to 1, of shape (weightings,); NaN where positives or negatives weigh nothing.
    """
    beaten = steps.negatives - steps.above - steps.tied / 2
    return _divide((steps.positives * beaten).sum(0), steps.positives.sum(0) * steps.negatives)


def average_precision(steps: WeightedSteps) -> FloatArray:
    """Mean of the precision at each positive's score, without interpolation.

    Returns:
        Values, 0 to 1, of shape (weightings,); NaN where positives weigh nothing.
    """
    found = np.cumsum(steps.positives, axis=0)
    selected = found + steps.above + steps.tied
    # A step whose images all weigh nothing selects nothing; it adds nothing either.
    gains = steps.positives * found / np.where(selected > 0, selected, 1.0)
    return _divide(gains.sum(0), found[-1])


def placements(positive: BoolArray, scores: FloatArray) -> FloatArray:
    """Share of the other class that each image ranks correctly against, a tie counting one half.

    The mean over the positives is the ROC AUC, and so is the mean over the negatives.
    Source: DeLong, DeLong, Clarke-Pearson, Biometrics 44 (1988), 837-845.

    Args:
        positive: Whether an image is of the positive class, of shape (images,); both must occur.
        scores: Higher means more likely positive, of shape (images,).

    Returns:
        Shares, 0 to 1, of shape (images,).
    """
    shares = np.empty(len(scores))
    for side in (positive, ~positive):
        others = np.sort(scores[~side])
        below = np.searchsorted(others, scores[side], side="left")
        not_above = np.searchsorted(others, scores[side], side="right")
        shares[side] = (below + not_above) / (2 * len(others))
    shares[~positive] = 1 - shares[~positive]
    return shares


def _diagonal(confusion: Counts) -> FloatArray:
    return np.diagonal(confusion, axis1=-2, axis2=-1).astype(np.float64)


def _divide(numerator: Counts, denominator: Counts) -> FloatArray:
    """Divide, with NaN wherever the denominator is not above zero."""
    defined = denominator > 0
    quotient = np.asarray(numerator, dtype=np.float64) / np.where(defined, denominator, 1.0)
    return np.where(defined, quotient, np.nan)
