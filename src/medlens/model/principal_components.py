"""Directions of largest variance of features that may be too many for memory."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import numpy as np
from numpy.typing import NDArray
from threadpoolctl import threadpool_limits

# Up to so many images the directions are exact, from the products of images with each other.
MOST_EXACT = 600
# Directions beyond those wanted, and passes that sharpen them.
OVERSAMPLED = 32
SHARPENING_PASSES = 1
# Variances below this share of the largest are rounding.
SMALLEST_VARIANCE = 1e-7

Rows = NDArray[np.float32]


def principal_components(
    read: Callable[[], Iterable[Rows]], count: int, columns: int, wanted: int, *, seed: int = 0
) -> Rows:
    """Orthonormal directions of the largest variance, the largest first.

    From `MOST_EXACT` images on by subspace iteration from a random start, nearly exact. Source:
    Halko, Martinsson, Tropp, SIAM Review 53 (2011), 217-288, algorithm 4.4.

    Args:
        read: Gives all images in chunks of shape (some, columns), centred; called several times.
        count: How many images there are.
        columns: How many features an image has.
        wanted: How many directions, below `count` and not above `columns`.
        seed: Of the random start.

    Returns:
        Of shape (columns, wanted); a direction without variance may be all zeros.
    """
    if count <= MOST_EXACT:
        values = np.concatenate(list(read()))
        variances, vectors = _eigh(values @ values.T)
        variances, vectors = variances[:wanted], vectors[:, :wanted]
        real = variances > SMALLEST_VARIANCE * max(float(variances[0]), np.finfo(float).tiny)
        factors = np.where(real, 1 / np.sqrt(np.where(real, variances, 1)), 0)
        return np.asarray(values.T @ (vectors * factors).astype(np.float32))

    def times_covariance(directions: Rows) -> Rows:
        product = np.zeros((columns, directions.shape[1]), np.float32)
        for values in read():
            product += values.T @ (values @ directions)
        return product

    start = np.random.default_rng(seed)
    width = min(wanted + OVERSAMPLED, columns)
    directions = start.standard_normal((columns, width), np.float32)
    for _ in range(1 + SHARPENING_PASSES):
        directions = _orthonormal(times_covariance(directions))
    small = directions.T @ times_covariance(directions)
    vectors = _eigh((small + small.T) / 2)[1]
    return directions @ vectors[:, :wanted].astype(np.float32)


def _eigh(matrix: NDArray[Any]) -> tuple[NDArray[Any], NDArray[Any]]:
    """Eigenvalues, the largest first, and their vectors."""
    # On a busy machine LAPACK's threads wait for each other a hundred times longer than they work.
    with threadpool_limits(1, user_api="blas"):
        values, vectors = np.linalg.eigh(matrix.astype(np.float64))
    return values[::-1], vectors[:, ::-1]


def _orthonormal(directions: Rows) -> Rows:
    with threadpool_limits(1, user_api="blas"):
        return np.linalg.qr(directions)[0]
