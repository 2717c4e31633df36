"""What a batch norm does to what a layer is given, once it has learnt: a slope and a level for each input."""

from __future__ import annotations

import numpy as np

from edgerl.policy.compact import Array

EPSILON = 1e-3
"""Is added to variances."""


def as_affine(scale: Array, shift: Array, mean: Array, variance: Array) -> tuple[Array, Array]:
    """(slopes, levels), float64 [inputs]: the norm of x with these running statistics is slope · x + level.

    scale, shift, mean, variance: [inputs].
    """
    slope = scale / np.sqrt(variance.astype(np.float64) + EPSILON)
    return slope, shift - mean * slope
