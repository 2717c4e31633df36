"""What a run's return is: one rule, for the last line of `edgerl train`, for tables and for reports.

It is the mean of the last ten evaluations since learning began, or of all of them where there are fewer. Those before
evaluate the untrained policy, always the same one.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]

FINAL_EVALUATIONS = 10
"""As in the paper."""

MAY_BE_EMPTY = frozenset(("return_mean", "return_deviation", "success_rate", "training_return_mean", "faults"))
"""Columns of metrics.csv that are empty where nothing was measured; in rows of 0.1.0 the last three are."""


def since_learning(steps: Array, returns: Array, start_steps: int) -> npt.NDArray[np.bool_]:
    """Which rows of metrics [n] evaluate a policy after its first update.

    returns: NaN where nothing was evaluated. start_steps: random steps; the first update follows the one after them.
    """
    rows: npt.NDArray[np.bool_] = (steps > start_steps) & ~np.isnan(returns)
    return rows


def final_evaluations(steps: Array, returns: Array, start_steps: int) -> npt.NDArray[np.intp]:
    """The rows whose mean is the run's return, at most ten."""
    return np.flatnonzero(since_learning(steps, returns, start_steps))[-FINAL_EVALUATIONS:]


def mean_known(values: Array) -> float | None:
    """The mean of the values that are not NaN; None where all are."""
    known = values[~np.isnan(values)]
    return float(known.mean()) if len(known) else None


def mean_of(evaluations: int) -> str:
    """In words: the mean of the last 4 evaluations."""
    return "the last evaluation" if evaluations == 1 else f"the mean of the last {evaluations} evaluations"
