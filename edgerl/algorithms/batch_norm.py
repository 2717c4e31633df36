"""Batch renormalisation (Ioffe 2017): its constants, and how it folds into the layer behind it. The norm itself is in
`networks.py`, and in C in `batch_norm.c`.

It stands before an affine layer: each of the layer's inputs has a scale, a shift, and a running mean and variance.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]

EPSILON = 1e-3
"""Is added to variances."""

FOLLOWING = 0.01
"""Share of a batch's mean and variance in the running ones."""

WARM_UP = 100_000
"""Passes in training over a network during which the norm is a plain batch norm: r is 1 and d is 0."""

LARGEST_RATIO, LARGEST_SHIFT = 3.0, 5.0
"""Bounds of r, whose least is 1/3, and of |d|, from then on."""


def folded(
    weight: Array, bias: Array, *, scale: Array, shift: Array, mean: Array, variance: Array
) -> tuple[Array, Array]:
    """(weights [outputs, inputs], bias [outputs]) that do what they do behind a norm with these running statistics.

    scale, shift, mean, variance: [inputs]. An absent connection stays absent.
    """
    slope = scale / np.sqrt(variance.astype(np.float64) + EPSILON)
    new_bias = bias + weight.astype(np.float64) @ (shift - mean * slope)
    return (weight * slope).astype(weight.dtype), new_bias.astype(bias.dtype)
