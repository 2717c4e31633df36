"""Digits that float32 does not have: an offset that keeps them, and a notice where they were lost.

Everything that learns computes in float32, which has 24 bits: beside 5 800 000 m, its steps are 0.5 m. What tells two
observations apart there is kept only where a number beside them is subtracted before the cast.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from edgerl.policy.format import LARGEST_OFFSET

Array = npt.NDArray[Any]

LARGEST_WITHOUT_OFFSET = 10_000.0
"""Up to there float32 tells a thousandth."""

FEWEST_STEPS = 4
"""Of float32, that an observation's deviation must have: rounding then adds 7 % to it, as noise."""

ROUNDING = 2.0**-40
"""Of an observation's magnitude: what varies by less is constant, apart from float64's own rounding."""

FEWEST_OBSERVATIONS = 100
"""Before a deviation means anything."""


def offset_for(observation: Array) -> Array | None:
    """What to subtract from observations like this first one [n]: float64 [n], whole numbers; None for nothing.

    Numbers from LARGEST_WITHOUT_OFFSET on have an offset, if they come in a type that float32 can't hold.
    """
    if np.can_cast(observation.dtype, np.float32):
        return None
    values = observation.astype(np.float64)
    is_large = (np.abs(values) >= LARGEST_WITHOUT_OFFSET) & (np.abs(values) <= LARGEST_OFFSET)
    return np.where(is_large, np.rint(values), 0.0) if is_large.any() else None


class DigitWatch:
    """How far each observation varies, as float64 sees it, and whether float32 does."""

    def __init__(self, n_observations: int) -> None:
        self._count, self._is_narrow = 0, False
        self._first: Array = np.zeros(n_observations)
        self._sum, self._squares = np.zeros(n_observations), np.zeros(n_observations)  # of differences from the first
        self._largest = np.zeros(n_observations)

    def observe(self, observation: Array, offset: Array | None) -> None:
        """Count one observation [n], as the environment returned it."""
        self._is_narrow = bool(np.can_cast(observation.dtype, np.float32))
        values = observation.astype(np.float64) if offset is None else observation - offset
        if not self._count:
            self._first = values
        difference = values - self._first
        self._count += 1
        self._sum += difference
        self._squares += difference * difference
        np.maximum(self._largest, np.abs(values), out=self._largest)

    def notice(self, *, normalizes: bool) -> str | None:
        """The line for the user, if any. normalizes: whether the run has an offset where one helps."""
        if self._count < FEWEST_OBSERVATIONS:
            return None
        with np.errstate(over="ignore", invalid="ignore"):
            variance = self._squares / self._count - np.square(self._sum / self._count)
            deviation = np.sqrt(np.maximum(variance, 0))
            steps = np.spacing(self._largest.astype(np.float32)).astype(np.float64)
        lost = (deviation < FEWEST_STEPS * steps) & (deviation > ROUNDING * self._largest)
        if not lost.any():
            return None
        first, others = int(np.argmax(lost)), int(lost.sum()) - 1
        more = f" (and {others} more)" if others else ""
        if self._is_narrow:
            fix = "make the environment return float64, and train with `normalize`"
        elif normalizes:
            fix = "make the environment return it relative to a fixed point"
        else:
            fix = "train with `normalize`, which subtracts an offset in float64"
        return (
            f"observation {first}{more} varies by {deviation[first]:.2g} about {self._largest[first]:.3g}, where "
            f"float32 has steps of {steps[first]:.2g}: the policy can hardly see it; {fix}"
        )
