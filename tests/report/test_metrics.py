"""Point values against scikit-learn and against definitions written out."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn import metrics as reference

from medlens.report import metrics


def _random_predictions(seed: int, classes: int, images: int = 150, digits: int = 1):
    """Labels and probabilities rounded so far that many are tied."""
    generator = np.random.default_rng(seed)
    truth = np.r_[np.arange(classes), generator.integers(0, classes, images - classes)]
    logits = generator.normal(size=(images, classes))
    logits[np.arange(images), truth] += 1
    probabilities = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    probabilities = np.round(probabilities, digits)
    predicted = np.r_[np.arange(classes), probabilities.argmax(1)[classes:]]
    return truth, predicted, probabilities


CASES = [(seed, classes) for seed in range(4) for classes in (2, 3, 5)]


@pytest.mark.parametrize(("seed", "classes"), CASES)
def test_metrics_of_the_confusion_matrix_agree_with_scikit_learn(seed, classes):
    truth, predicted, _ = _random_predictions(seed, classes)
    confusion = metrics.count_confusion(truth, predicted, classes)
    np.testing.assert_array_equal(confusion, reference.confusion_matrix(truth, predicted))
    expected = {
        "recall": reference.recall_score(truth, predicted, average=None),
        "precision": reference.precision_score(truth, predicted, average=None),
        "f1": reference.f1_score(truth, predicted, average=None),
        "mcc": reference.matthews_corrcoef(truth, predicted),
    }
    found = metrics.confusion_scores(confusion)
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        np.testing.assert_allclose(found[name], value, rtol=0, atol=1e-12, err_msg=name)
    assert metrics.accuracy(confusion) == reference.accuracy_score(truth, predicted)
    not_class = [
        reference.recall_score(truth != number, predicted != number) for number in range(classes)
    ]
    np.testing.assert_allclose(metrics.specificity(confusion), not_class, atol=1e-12)


@pytest.mark.parametrize(("seed", "classes"), CASES)
def test_metrics_of_ranks_agree_with_scikit_learn(seed, classes):
    truth, _, probabilities = _random_predictions(seed, classes)
    groups = np.random.default_rng(seed).integers(0, 30, len(truth))
    for number in range(classes):
        positive, scores = truth == number, probabilities[:, number]
        steps = metrics.weigh(metrics.rank_images(positive, scores, groups, 30), np.ones((30, 1)))
        area = reference.roc_auc_score(positive, scores)
        precision = reference.average_precision_score(positive, scores)
        assert metrics.roc_auc(steps)[0] == pytest.approx(area, abs=1e-12)
        assert metrics.average_precision(steps)[0] == pytest.approx(precision, abs=1e-12)


@pytest.mark.parametrize("digits", [1, 2, 12])
@pytest.mark.parametrize("classes", [2, 4])
def test_a_weighted_draw_equals_scikit_learn_with_these_weights(classes, digits):
    truth, _, probabilities = _random_predictions(7, classes, digits=digits)
    generator = np.random.default_rng(5)
    groups = generator.integers(0, 25, len(truth))
    weights = generator.integers(0, 4, size=(25, 6)).astype(float)
    for number in range(classes):
        positive, scores = truth == number, probabilities[:, number]
        steps = metrics.weigh(metrics.rank_images(positive, scores, groups, 25), weights)
        areas, precisions = metrics.roc_auc(steps), metrics.average_precision(steps)
        for draw in range(weights.shape[1]):
            drawn = {"sample_weight": weights[groups, draw]}
            area = reference.roc_auc_score(positive, scores, **drawn)
            precision = reference.average_precision_score(positive, scores, **drawn)
            assert areas[draw] == pytest.approx(area, abs=1e-12)
            assert precisions[draw] == pytest.approx(precision, abs=1e-12)


def test_log_loss_agrees_with_scikit_learn_also_at_zero_and_one():
    truth, _, probabilities = _random_predictions(3, 4, digits=12)
    probabilities[0], probabilities[1] = [0, 1, 0, 0], [0, 1, 0, 0]
    probabilities /= probabilities.sum(1, keepdims=True)
    losses = metrics.log_losses(truth, probabilities)
    assert losses.mean() == pytest.approx(reference.log_loss(truth, probabilities), abs=1e-12)
    assert losses[0] == metrics.LARGEST_LOG_LOSS
    assert losses[1] == 0


def test_a_stack_of_confusion_matrices_is_each_of_them():
    stack = np.random.default_rng(0).integers(0, 9, size=(2, 5, 3, 3)).astype(float)
    for name, values in metrics.confusion_scores(stack).items():
        alone = [[metrics.confusion_scores(one)[name] for one in row] for row in stack]
        np.testing.assert_array_equal(values, alone, err_msg=name)


def test_what_is_not_defined_is_nan():
    absent = np.array([[5, 1, 2], [0, 0, 0], [1, 1, 4]])
    never_predicted = absent.T
    assert np.isnan(metrics.recall(absent)).tolist() == [False, True, False]
    assert np.isnan(metrics.f1(absent)).tolist() == [False, True, False]
    assert np.isnan(metrics.precision(never_predicted)).tolist() == [False, True, False]
    assert metrics.f1(never_predicted)[1] == 0
    one_class = np.array([[3, 2], [0, 0]])
    assert np.isnan(metrics.matthews_correlation(one_class))
    assert np.isnan(metrics.specificity(one_class)).tolist() == [True, False]
    nothing = metrics.weigh(
        metrics.rank_images(np.array([True, False]), np.array([0.2, 0.1]), np.array([0, 1]), 2),
        np.array([[0.0, 1.0, 1.0], [1.0, 0.0, 1.0]]),
    )
    assert np.isnan(metrics.roc_auc(nothing)).tolist() == [True, True, False]
    assert np.isnan(metrics.average_precision(nothing)).tolist() == [True, False, False]


def test_always_the_same_answer_has_no_correlation():
    confusion = np.array([[7, 0], [3, 0]])
    assert metrics.matthews_correlation(confusion) == 0


def test_the_correlation_of_very_many_images_does_not_overflow():
    confusion = np.array([[9, 1], [2, 8]])
    assert metrics.matthews_correlation(confusion * 10**8) == pytest.approx(
        float(metrics.matthews_correlation(confusion)), abs=1e-12
    )


def test_placements_are_the_share_of_correct_pairs():
    truth, _, probabilities = _random_predictions(11, 2)
    positive, scores = truth == 1, probabilities[:, 1]
    shares = metrics.placements(positive, scores)
    for image in range(len(scores)):
        others = scores[positive != positive[image]]
        better = (scores[image] > others) if positive[image] else (scores[image] < others)
        assert shares[image] == pytest.approx(
            (better + 0.5 * (scores[image] == others)).mean(), abs=1e-12
        )


@pytest.mark.parametrize("order", [1, -1])
def test_relabelling_and_reversing_the_scores_mirror_the_area(order):
    truth, _, probabilities = _random_predictions(2, 2)
    groups = np.arange(len(truth))
    ones = np.ones((len(truth), 1))

    def area(positive, scores):
        return metrics.roc_auc(
            metrics.weigh(metrics.rank_images(positive, scores, groups, len(groups)), ones)
        )[0]

    scores = probabilities[:, 1] * order
    assert area(truth == 1, scores) == pytest.approx(1 - area(truth == 1, -scores), abs=1e-12)
    assert area(truth == 1, scores) == pytest.approx(area(truth == 0, -scores), abs=1e-12)
