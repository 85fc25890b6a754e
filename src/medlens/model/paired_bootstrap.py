"""How sure it is that one thing is better than another on the same images."""

from __future__ import annotations

import numpy as np
import pandas as pd
from numpy.typing import NDArray

# What changes more than a head must be better in this share of the bootstrap draws.
SURE = 0.975
BOOTSTRAP_DRAWS = 1000


def share_of_draws_lower(
    one: NDArray[np.float64], other: NDArray[np.float64], groups: NDArray[np.str_], *, seed: int
) -> float:
    """Share of bootstrap draws of groups in which the first has the lower mean.

    Args:
        one: A value of each image, such as its loss.
        other: The other value of each image.
        groups: The group of each image.
        seed: Of the draws.
    """
    codes, names = pd.factorize(groups)
    gain = np.bincount(codes, weights=other - one, minlength=len(names))
    random = np.random.default_rng(seed)
    draws = (random.integers(len(names), size=len(names)) for _ in range(BOOTSTRAP_DRAWS))
    return float(np.mean([gain[drawn].sum() > 0 for drawn in draws]))
