"""Statistics against arithmetic by hand and scipy's own functions."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import numpy as np
import pytest
from scipy import stats

from edgerl.studies.runs import Curve
from edgerl.studies.statistics import (
    Interval,
    final_return,
    final_success_rate,
    interquartile_mean,
    interquartile_means,
    learning_curve_area,
    probability_of_improvement,
    steps_to_reach,
)


def _curve(*returns: float, start_steps: int = 1, success_rates: Sequence[float] = ()) -> Curve:
    steps = 5000 * np.arange(1, len(returns) + 1)
    rates = np.array(success_rates) if success_rates else np.full(len(returns), np.nan)
    return Curve(steps, np.array(returns, np.float64), rates, steps / 1000, steps / 60_000, start_steps)


def test_the_final_return_is_the_mean_of_the_last_ten_evaluations_since_learning_began() -> None:
    assert final_return(_curve(1000, *range(10))) == 4.5
    assert final_return(_curve(1, 2, 6)) == 3
    flat = [-1000.0] * 5
    assert final_return(_curve(*flat, 1, 2, 6, start_steps=25_000)) == 3, "the first update follows step 25 001"
    assert final_return(_curve(*flat, 1, 2, 6, start_steps=24_999)) == (-1000 + 9) / 4
    assert final_return(_curve(*flat, start_steps=25_000)) is None
    assert final_return(_curve()) is None


def test_what_was_not_evaluated_is_left_out() -> None:
    nan = np.nan
    curve = _curve(nan, 4, nan, 8, nan)
    assert final_return(curve) == 6
    assert learning_curve_area(curve, 10) == 1.2
    assert final_return(_curve(nan, nan)) is None
    assert learning_curve_area(_curve(nan, nan), 10) is None
    ten = _curve(*[nan, 7] * 10, nan)
    assert (final_return(ten), steps_to_reach(ten, 7)) == (7, 100_000)


def test_the_success_rate_is_of_the_same_evaluations() -> None:
    nan = np.nan
    assert final_success_rate(_curve(0, 0, 0, 0, start_steps=10_000, success_rates=[1, 1, 0, 0.5])) == 0.25
    assert final_success_rate(_curve(*[0] * 12, success_rates=[1, 1, *[0.5] * 10])) == 0.5
    assert final_success_rate(_curve(0, 0, success_rates=[nan, 0.5])) == 0.5, "an earlier version did not record it"
    assert final_success_rate(_curve(0, 0)) is None


def test_the_learning_curve_area_is_the_sum_over_the_steps() -> None:
    assert learning_curve_area(_curve(100, 300, 500), 15_000) == pytest.approx(0.06)


def test_a_return_is_reached_by_the_mean_of_ten_evaluations_not_by_a_lucky_one() -> None:
    curve = _curve(*[0] * 9, 500, *[100] * 10)  # means of ten: 50 at the tenth, then 60, 70, …, 140, 100 at the end
    assert steps_to_reach(curve, 50) == 50_000
    assert steps_to_reach(curve, 51) == 55_000
    assert steps_to_reach(curve, 140) == 95_000
    assert steps_to_reach(curve, 141) is None
    assert steps_to_reach(_curve(1, 2, 3), 2) is None, "before ten there is no mean"
    learnt = _curve(*[1e6] * 5, *range(11), start_steps=25_000)
    assert (steps_to_reach(learnt, 4.5), steps_to_reach(learnt, 5.5)) == (75_000, 80_000)
    assert steps_to_reach(learnt, 6) is None, "what came before learning does not count"
    generator = np.random.default_rng(3)
    for _ in range(200):
        rising = _curve(*np.cumsum(generator.random(60)))
        assert steps_to_reach(rising, final_return(rising)) == 300_000, "a run reaches its own, however it is added up"


def test_the_interquartile_mean_leaves_the_outer_quarters_out() -> None:
    assert interquartile_mean([np.array([0.0, 1, 2, 3, 4, 5, 6, 1000])]).value == 3.5
    assert interquartile_mean([np.array([0.0, 1, 2, 3]), np.array([4.0, 5, 6, 1000])]).value == 3.5


def test_an_interval_is_the_percentiles_of_all_resamples_within_each_environment() -> None:
    """Few enough runs to list every resample: 2 environments of 2 runs have 16, equally probable."""
    first, second = np.array([0.0, 8.0]), np.array([100.0, 120.0])
    means = [
        stats.trim_mean([*own, *others], 0.25)
        for own in itertools.product(first, repeat=2)
        for others in itertools.product(second, repeat=2)
    ]
    found = interquartile_mean([first, second])
    assert found.value == (8 + 100) / 2
    assert (found.low, found.high) == (min(means), max(means)) == (50, 64)  # each of probability 1/16 > 2.5 %


def test_the_columns_of_a_curve_are_each_what_their_runs_say() -> None:
    """Of two values the resampled mean is the lower with chance 1/4, the higher with 1/4; a run may end early."""
    nan = np.nan
    middle, low, high = interquartile_means(np.array([[1.0, nan, nan, 1], [3.0, 8.0, 2.0, 3], [nan, nan, 4.0, 5]]))
    assert (middle.tolist(), low.tolist(), high.tolist()) == ([2, 8, 3, 3], [1, 8, 2, 1], [3, 8, 4, 5])
    values = np.random.default_rng(2).normal(size=(9, 1))
    middle, low, high = interquartile_means(values)
    whole = interquartile_mean([values[:, 0]])
    assert whole.low is not None
    assert whole.high is not None
    assert middle[0] == whole.value
    assert (low[0], high[0]) == pytest.approx((whole.low, whole.high), abs=0.05 * (whole.high - whole.low))


def test_a_bootstrap_interval_agrees_with_the_normal_one_where_that_holds() -> None:
    sample = np.random.default_rng(1).normal(10, 2, 400)
    found = interquartile_mean([sample])
    # The trimmed mean's standard error, by winsorising (Tukey and McLaughlin, 1963).
    winsorized = np.clip(sample, *np.quantile(sample, [0.25, 0.75]))
    error = winsorized.std(ddof=1) / (0.5 * np.sqrt(len(sample)))
    assert found.low == pytest.approx(found.value - 1.96 * error, abs=0.2 * error)
    assert found.high == pytest.approx(found.value + 1.96 * error, abs=0.2 * error)


def test_the_probability_of_improvement_is_mann_and_whitneys_u() -> None:
    generator = np.random.default_rng(2)
    x, y = generator.integers(0, 6, 7).astype(float), generator.integers(0, 6, 5).astype(float)
    expected = stats.mannwhitneyu(x, y).statistic / (7 * 5)
    assert probability_of_improvement([(x, y)]).value == pytest.approx(expected)
    assert probability_of_improvement([(y, x)]).value == pytest.approx(1 - expected)
    by_hand = [(np.array([1.0, 3.0]), np.array([2.0, 3.0])), (np.array([5.0]), np.array([4.0]))]
    assert probability_of_improvement(by_hand).value == ((0 + 0 + 1 + 0.5) / 4 + 1) / 2


def test_the_probabilitys_interval_is_that_of_all_resamples() -> None:
    x, y = np.array([1.0, 3.0]), np.array([2.0, 2.0])
    found = probability_of_improvement([(x, y)])
    assert (found.value, found.low, found.high) == (0.5, 0, 1)
    assert probability_of_improvement([(x, x - 10)]) == Interval(1, 1, 1)


def test_one_run_has_no_interval() -> None:
    assert interquartile_mean([np.array([3.0])]) == Interval(3, None, None)
    assert probability_of_improvement([(np.array([3.0, 4.0]), np.array([1.0]))]) == Interval(1, None, None)


def test_the_same_runs_give_the_same_interval() -> None:
    sample = np.random.default_rng(3).normal(size=5)
    assert interquartile_mean([sample]) == interquartile_mean([sample])
