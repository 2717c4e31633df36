"""Running mean and variance of observations, for `normalize`."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]

SMALLEST_DEVIATION = 1e-6
"""A sensor that never moved farther keeps its unit: dividing by next to nothing would blow up its first movement."""


class Normalizer:
    """Mean and scale of all observations seen, by Welford's recurrence in float64."""

    def __init__(self, n_observations: int) -> None:
        self.count = 0
        self._mean = np.zeros(n_observations)
        self._squares = np.zeros(n_observations)  # Σ (x − mean)²
        self._current: tuple[Array, Array] | None = None  # (mean, scale), once one of them was asked for

    def observe(self, observation: Array) -> None:
        """Count one observation [n]."""
        self.count += 1
        difference = observation - self._mean
        self._mean += difference / self.count
        self._squares += difference * (observation - self._mean)
        self._current = None

    @property
    def mean(self) -> Array:
        """float32 [n]."""
        return self._mean_and_scale()[0]

    @property
    def scale(self) -> Array:
        """1 / standard deviation, float32 [n]."""
        return self._mean_and_scale()[1]

    def _mean_and_scale(self) -> tuple[Array, Array]:
        """Computed once after each observation: acting and learning both need them."""
        if self._current is None:
            deviation = np.sqrt(self._squares / max(self.count, 1))
            inverse = np.where(deviation > SMALLEST_DEVIATION, 1 / np.maximum(deviation, SMALLEST_DEVIATION), 1)
            self._current = self._mean.astype(np.float32), inverse.astype(np.float32)
        return self._current

    def __call__(self, observations: Array) -> Array:
        """(observations − mean) · scale, float32 [..., n]."""
        mean, scale = self._mean_and_scale()
        normalised: Array = (observations - mean) * scale
        return normalised

    def state(self) -> dict[str, Array]:
        """What a resumed run needs, as arrays."""
        return {"count": np.array(self.count, np.int64), "mean": self._mean.copy(), "squares": self._squares.copy()}

    def load_state(self, arrays: dict[str, Array]) -> None:
        """Undo `state`. Raises ValueError where the arrays do not fit."""
        expected = {name: (array.dtype, array.shape) for name, array in self.state().items()}
        if {name: (array.dtype, array.shape) for name, array in arrays.items()} != expected:
            raise ValueError("the normaliser's arrays do not fit the observations")
        mean, squares = arrays["mean"].copy(), arrays["squares"].copy()
        if arrays["count"] < 0 or not (np.isfinite(mean).all() and np.isfinite(squares).all() and (squares >= 0).all()):
            raise ValueError("the normaliser's arrays hold a value that is out of range")
        self.count, self._mean, self._squares, self._current = int(arrays["count"]), mean, squares, None
