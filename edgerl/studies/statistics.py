"""Statistics of returns over seeds and environments, with intervals.

After Agarwal et al. (Deep Reinforcement Learning at the Edge of the Statistical Precipice, NeurIPS 2021): the
interquartile mean, the probability of improvement, and percentile-bootstrap intervals that resample the runs of each
environment separately (stratified). Resampling is scipy's, from a fixed seed: the same runs give the same interval.
With two or three runs an interval is too narrow, whatever the method: it cannot contain what no run showed.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from edgerl.errors import require
from edgerl.studies.runs import Curve
from edgerl.training.returns import FINAL_EVALUATIONS, mean_known

Array = npt.NDArray[Any]

ROUNDING = 1e-9
"""Relative: the difference between two orders of summation."""

LEVEL = 0.95
RESAMPLES = 9999
CURVE_RESAMPLES = 2000
"""Fewer, since a band in a chart shows no third digit."""

_TRIMMED = 0.25
_BATCH_NUMBERS = 10_000_000


@dataclass(frozen=True)
class Interval:
    """A figure with its bootstrap interval; low and high are None where an environment has fewer than two runs."""

    value: float
    low: float | None
    high: float | None


def final_return(curve: Curve) -> float | None:
    """The run's return (edgerl.training.returns); None where nothing was evaluated since learning began."""
    return mean_known(curve.returns[curve.final])


def final_success_rate(curve: Curve) -> float | None:
    """The mean success rate of the same evaluations; None where the environment does not report success."""
    return mean_known(curve.success_rates[curve.final])


def learning_curve_area(curve: Curve, steps: int) -> float | None:
    """The paper's LCA: the sum of all evaluations, one every 5000 steps, divided by the number of training steps; None
    where nothing was evaluated."""
    return None if np.isnan(curve.returns).all() else float(np.nansum(curve.returns)) / steps


def steps_to_reach(curve: Curve, goal: float) -> int | None:
    """The first step at which the mean of the last 10 evaluations is `goal` or more; None where it never is.

    The mean, since the goal is one, too: a single lucky evaluation does not count. Before ten since learning began
    there is no mean. Means that differ only by rounding are equal, so that a run reaches its own final return.
    """
    returns, steps = curve.returns[curve.since_learning], curve.steps[curve.since_learning]
    if len(returns) < FINAL_EVALUATIONS:
        return None
    means = np.convolve(returns, np.full(FINAL_EVALUATIONS, 1 / FINAL_EVALUATIONS), "valid")
    reached = np.flatnonzero(means >= goal - ROUNDING * abs(goal))
    return int(steps[FINAL_EVALUATIONS - 1 :][reached[0]]) if len(reached) else None


def return_after(curve: Curve, spent: Array, mark: float) -> float | None:
    """The last evaluation since learning began for which at most `mark` was spent; None where the run spent less in
    all, or had learnt nothing by then. spent: at each row of the curve, steps or minutes, increasing."""
    by_then = np.flatnonzero(curve.since_learning & (spent <= mark))
    is_over = len(spent) > 0 and spent[-1] >= mark
    return float(curve.returns[by_then[-1]]) if is_over and len(by_then) else None


def interquartile_mean(strata: Sequence[Array]) -> Interval:
    """The mean of the middle half of all runs; strata: per environment, the comparable scores of its runs [runs].

    Raises MissingExtraError without scipy.
    """
    trim_mean = require("scipy.stats", "report").trim_mean

    def statistic(*samples: Array, axis: int = -1) -> Array:
        result: Array = trim_mean(np.concatenate(samples, axis=axis), _TRIMMED, axis=axis)
        return result

    return _interval(strata, statistic)


def interquartile_means(values: Array) -> tuple[Array, Array, Array]:
    """(IQM, low, high) [points] of each column of values [runs, points], over the runs that have a value there.

    NaN where a run has none; every column has at least one. Low and high are the IQM itself where only one run has one.
    Raises MissingExtraError without scipy.
    """
    trim_mean = require("scipy.stats", "report").trim_mean

    def statistic(sample: Array, axis: int = -1) -> Array:
        result: Array = trim_mean(sample, _TRIMMED, axis=axis)
        return result

    mean, low, high = np.empty((3, values.shape[1]))
    present, patterns = np.unique(~np.isnan(values), axis=1, return_inverse=True)
    for index, runs in enumerate(present.T):  # few: runs have the same length, or end one after the other
        chosen = patterns.reshape(-1) == index
        sample = np.ascontiguousarray(values[runs][:, chosen].T)
        mean[chosen] = low[chosen] = high[chosen] = statistic(sample)
        if runs.sum() > 1:
            low[chosen], high[chosen] = _bootstrap([sample], statistic, CURVE_RESAMPLES)
    return mean, low, high


def probability_of_improvement(pairs: Sequence[tuple[Array, Array]]) -> Interval:
    """The probability that a run of X returns more than a run of Y in a random environment; ties count half.
    pairs: per environment, the returns of X's and of Y's runs.

    Raises MissingExtraError without scipy.
    """

    def statistic(*samples: Array, axis: int = -1) -> Array:
        runs = [np.moveaxis(sample, axis, -1) for sample in samples]
        wins = [_win_rate(x, y) for x, y in zip(runs[::2], runs[1::2], strict=True)]
        result: Array = np.mean(wins, axis=0)
        return result

    return _interval([sample for pair in pairs for sample in pair], statistic)


def _win_rate(x: Array, y: Array) -> Array:
    """x [..., m], y [..., n] → [...]: Mann and Whitney's U divided by m · n."""
    difference = x[..., :, None] - y[..., None, :]
    result: Array = (0.5 * (np.sign(difference) + 1)).mean(axis=(-2, -1))
    return result


def _interval(strata: Sequence[Array], statistic: Callable[..., Array]) -> Interval:
    value = float(statistic(*strata))
    if min(len(sample) for sample in strata) < 2:
        return Interval(value, None, None)
    low, high = _bootstrap(strata, statistic, RESAMPLES)
    return Interval(value, float(low), float(high))


def _bootstrap(strata: Sequence[Array], statistic: Callable[..., Array], resamples: int) -> tuple[Array, Array]:
    """(low, high) [...] of samples [..., runs], each of which is resampled separately."""
    # At most what a statistic computes of one resample: with two samples, a number for each pair.
    largest = sum(sample.size for sample in strata) * max(sample.shape[-1] for sample in strata)
    result = require("scipy.stats", "report").bootstrap(
        tuple(strata),
        statistic,
        n_resamples=resamples,
        vectorized=True,
        axis=-1,
        confidence_level=LEVEL,
        method="percentile",
        batch=max(1, _BATCH_NUMBERS // largest),
        rng=np.random.default_rng(0),
    )
    return result.confidence_interval.low, result.confidence_interval.high
