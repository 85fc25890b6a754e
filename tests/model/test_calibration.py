from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.special import log_softmax
from scipy.special import softmax as scipy_softmax

from medlens.model.calibration import (
    HIGHEST_TEMPERATURE,
    LOWEST_TEMPERATURE,
    fit_temperature,
    probabilities,
)


def sample(
    count: int, temperature: float, seed: int, classes: int = 3
) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """Logits that are right once they are divided by the temperature."""
    random = np.random.default_rng(seed)
    true_logits = random.normal(size=(count, classes)) * 2
    shares = scipy_softmax(true_logits, axis=1)
    labels = (random.random((count, 1)) > shares.cumsum(axis=1)).sum(axis=1)
    return true_logits * temperature, np.minimum(labels, classes - 1)


def log_loss(logits: NDArray[np.float64], labels: NDArray[np.int64], temperature: float) -> float:
    return float(-log_softmax(logits / temperature, axis=1)[np.arange(len(labels)), labels].mean())


@pytest.mark.parametrize("temperature", [0.3, 1.0, 4.0])
def test_the_temperature_that_was_planted_is_found(temperature: float) -> None:
    logits, labels = sample(20_000, temperature, seed=1)
    assert fit_temperature(logits, labels) == pytest.approx(temperature, rel=0.03)


@pytest.mark.parametrize("seed", range(5))
def test_no_other_temperature_has_a_lower_log_loss(seed: int) -> None:
    logits, labels = sample(60, 2.5, seed)
    fitted = fit_temperature(logits, labels)
    others = np.geomspace(LOWEST_TEMPERATURE, HIGHEST_TEMPERATURE, 2000)
    lowest = min(log_loss(logits, labels, float(other)) for other in others)
    assert log_loss(logits, labels, fitted) <= lowest + 1e-12


def test_a_constant_added_to_an_images_logits_changes_nothing() -> None:
    logits, labels = sample(200, 3.0, seed=2)
    shifted = logits + np.linspace(-500, 900, len(logits))[:, np.newaxis]
    assert fit_temperature(shifted, labels) == pytest.approx(fit_temperature(logits, labels))


def test_images_that_are_all_right_do_not_make_the_classifier_sure_of_everything() -> None:
    labels = np.arange(40) % 2
    logits = np.where(np.arange(2) == labels[:, np.newaxis], 3.0, -3.0)
    temperature = fit_temperature(logits, labels)
    # As sure as 40 images without an error allow: one error in 42.
    assert probabilities(logits, temperature).max(axis=1) == pytest.approx(41 / 42)


def test_more_images_without_an_error_make_it_surer() -> None:
    few, many = (
        fit_temperature(np.tile([[2.0, 0.0, -9.0]], (count, 1)), np.zeros(count, np.int64))
        for count in (10, 1000)
    )
    assert LOWEST_TEMPERATURE < many < few


def test_one_image_is_enough_for_a_number_within_bounds() -> None:
    logits = np.array([[1.0, 0.0]])
    right, wrong = (fit_temperature(logits, np.array([label])) for label in (0, 1))
    assert probabilities(logits, right)[0, 0] == pytest.approx(2 / 3)
    assert wrong == HIGHEST_TEMPERATURE


def test_the_lowest_temperature_is_a_bound() -> None:
    logits, labels = sample(5000, 0.01, seed=3)
    assert fit_temperature(logits, labels) == LOWEST_TEMPERATURE


def test_logits_without_differences_leave_the_temperature_at_one() -> None:
    assert fit_temperature(np.full((4, 3), 7.0), np.array([0, 1, 2, 0])) == 1.0


@pytest.mark.parametrize(
    ("logits", "message"),
    [(np.zeros((0, 2)), "one image"), (np.array([[np.nan, 0.0]]), "not a finite number")],
)
def test_logits_that_say_nothing_are_refused(logits: NDArray[np.float64], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        fit_temperature(logits, np.zeros(len(logits), np.int64))


def test_probabilities_are_the_softmax_and_never_overflow() -> None:
    logits, _ = sample(50, 1.0, seed=4)
    np.testing.assert_allclose(
        probabilities(logits, 1.7), scipy_softmax(logits / 1.7, axis=1), rtol=1e-12
    )
    extreme = probabilities(np.array([[1e300, 0.0], [-1e5, -2e5]]), 0.05)
    np.testing.assert_array_equal(extreme, [[1.0, 0.0], [1.0, 0.0]])
