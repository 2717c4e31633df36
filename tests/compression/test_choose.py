"""What is chosen, from candidates whose returns are known."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from edgerl.compression.candidates import Candidate, Form
from edgerl.compression.choose import Measure, choose, excess
from edgerl.compression.returns import Goal, compare
from edgerl.errors import ConfigError
from edgerl.policy.compact import CompactPolicy, make_layer
from edgerl.policy.loss import ActionDifference
from edgerl.profiling.budgets.report import profile

FIVE_PERCENT = Goal(0.05, None)
EPISODES = np.linspace(-10, 10, 20)


def _candidate(width: int, difference: float, latency_seconds: float = 1) -> Candidate:
    """A dense policy of 4-width-2 on an stm32f405."""
    layers = tuple(
        make_layer(np.ones((m, n), np.float32), np.zeros(m, np.float32), 1) for n, m in ((4, width), (width, 2))
    )
    bound = np.ones(2, np.float32)
    policy = CompactPolicy(layers, -bound, bound)
    loss = ActionDifference(difference, difference, 1, "recorded")
    report = profile(policy, "stm32f405", budget_latency_seconds=latency_seconds)
    return Candidate(policy, report, loss, "fewer units", Form("fp32"), policy)


def _measure(goal: Goal, mean_of: dict[int, float], asked: list[int] | None = None) -> Measure:
    """Returns around the mean that a width has; the reference, of width 100, has 1000."""

    def measure(policy: CompactPolicy):  # type: ignore[no-untyped-def]
        width = policy.layers[0].n_outputs
        if asked is not None:
            asked.append(width)
        return compare(EPISODES + mean_of[width], EPISODES + 1000, goal)

    return measure


CANDIDATES = [_candidate(width, (100 - width) / 100) for width in (100, 80, 60, 40, 20)]
RETURNS = {100: 1000.0, 80: 1010.0, 60: 980.0, 40: 965.0, 20: 400.0}


def test_the_smallest_that_keeps_the_return_is_chosen() -> None:
    asked: list[int] = []
    found = choose(CANDIDATES, _measure(FIVE_PERCENT, RETURNS, asked), _measure(FIVE_PERCENT, RETURNS))
    assert found.chosen is not None
    assert found.confirmed is not None
    assert found.chosen.candidate is CANDIDATES[3]
    assert found.confirmed.returns.mean == pytest.approx(965)
    assert found.confirmed.gain.mean == pytest.approx(-35)
    assert sorted(asked) == sorted(set(asked)), "each is measured once"
    assert [trial.candidate.n_bytes for trial in found.trials] == sorted(c.n_bytes for c in CANDIDATES)
    widths = [trial.candidate.policy.layers[0].n_outputs for trial in found.front]
    assert widths == [20, 40, 60, 80], "100 has a lower return than 80, and more bytes"
    assert found.reference.candidate is CANDIDATES[0]


def test_who_does_not_keep_it_a_second_time_is_passed_over() -> None:
    found = choose(CANDIDATES, _measure(FIVE_PERCENT, RETURNS), _measure(FIVE_PERCENT, {**RETURNS, 40: 900.0}))
    assert found.chosen is not None
    assert found.confirmed is not None
    assert found.chosen.candidate is CANDIDATES[2]
    assert found.confirmed.returns.mean == pytest.approx(980)
    assert [trial.candidate for trial in found.refuted] == [CANDIDATES[3]]


def test_nothing_is_chosen_where_nothing_is_kept_twice() -> None:
    found = choose(CANDIDATES, _measure(FIVE_PERCENT, RETURNS), _measure(FIVE_PERCENT, dict.fromkeys(RETURNS, 1.0)))
    assert (found.chosen, found.confirmed) == (None, None)
    assert [trial.candidate for trial in found.refuted] == CANDIDATES[3::-1]
    assert found.nearest_to_budget is not None
    assert found.nearest_to_budget.candidate.report.fits


def test_nothing_is_chosen_beyond_a_budget() -> None:
    """Only 20 units are fast enough; the nearest of those that keep the return is the one with 40."""
    fast = profile(CANDIDATES[4].policy, "stm32f405").latency.used
    limited = [_candidate(c.policy.layers[0].n_outputs, c.difference.largest, fast * 1e-6) for c in CANDIDATES]
    found = choose(limited, _measure(FIVE_PERCENT, RETURNS), _measure(FIVE_PERCENT, RETURNS))
    assert found.chosen is None
    assert found.confirmed is None
    assert found.best_in_budget is not None
    assert found.best_in_budget.candidate is limited[4]
    assert found.nearest_to_budget is not None
    assert found.nearest_to_budget.candidate is limited[3]
    assert excess(limited[3]) == pytest.approx(limited[3].latency_us / fast)


def test_no_candidate_within_the_budgets() -> None:
    limited = [_candidate(c.policy.layers[0].n_outputs, c.difference.largest, 1e-8) for c in CANDIDATES]
    found = choose(limited, _measure(FIVE_PERCENT, RETURNS), _measure(FIVE_PERCENT, RETURNS))
    assert (found.chosen, found.best_in_budget) == (None, None)
    assert found.nearest_to_budget is not None


def test_a_return_that_nothing_reaches() -> None:
    goal = Goal(None, 2000)
    found = choose(CANDIDATES, _measure(goal, RETURNS), _measure(goal, RETURNS))
    assert (found.chosen, found.nearest_to_budget) == (None, None)
    assert found.best_in_budget is not None
    assert found.best_in_budget.candidate is CANDIDATES[1]


def test_a_goal_is_judged_by_the_low_end() -> None:
    reference = np.full(20, -200.0)
    noisy = reference + 10 * EPISODES  # the same mean, between −300 and −100
    assert not compare(noisy, reference, FIVE_PERCENT).is_kept, "a loss of 5 % cannot be ruled out"
    assert compare(reference - 9, reference, FIVE_PERCENT).is_kept
    assert compare(reference - 10, reference, FIVE_PERCENT).is_kept, "exactly the loss that is allowed"
    assert not compare(reference - 10.5, reference, FIVE_PERCENT).is_kept
    assert FIVE_PERCENT.least_return(-200) == -210
    assert compare(reference, reference, Goal(None, -200)).is_kept
    assert not compare(noisy, reference, Goal(None, -200)).is_kept


def test_students_are_not_ranked_with_others_by_their_differences() -> None:
    """One that differs more than a larger policy is measured all the same, and chosen where it keeps the return."""
    difference = replace(CANDIDATES[4].difference, root_mean_square=2.0)
    student = replace(CANDIDATES[4], difference=difference, is_student=True)
    kept = _measure(FIVE_PERCENT, {**RETURNS, 20: 990.0})
    chosen = choose([*CANDIDATES[:4], student], kept, kept).chosen
    assert chosen is not None
    assert chosen.candidate is student


def test_what_is_fine_tuned_is_measured_and_priced_as_it_then_is() -> None:
    """Beyond the budget afterwards, it is not chosen."""
    fast = profile(CANDIDATES[2].policy, "stm32f405").latency.used * 1.01e-6
    limited = [_candidate(width, (100 - width) / 100, fast) for width in (100, 80, 60, 40)]
    finished = {id(limited[3]): replace(limited[3], report=limited[0].report)}
    measure = _measure(FIVE_PERCENT, RETURNS)
    found = choose(limited, measure, measure, lambda candidate: finished.get(id(candidate), candidate))
    assert found.chosen is not None
    assert found.chosen.candidate is limited[2]


def test_differences_are_paired() -> None:
    """Episodes that differ by thousands, and a policy that loses one in each: the interval of the gain has no width."""
    reference = 1000 * np.arange(20.0)
    found = compare(reference - 1, reference, FIVE_PERCENT)
    assert (found.gain.low, found.gain.mean, found.gain.high) == (-1, -1, -1)
    assert found.returns.high - found.returns.low > 1000
    assert found.is_kept


@pytest.mark.parametrize(
    ("loss", "least", "message"),
    [
        (0.05, 3.0, "both a largest loss and a smallest return were given; expected one of them"),
        (1.0, None, r"the largest loss is 1; expected a share in \(0, 1\), such as 3%"),
        (None, float("nan"), "the smallest return is nan; expected a finite number"),
    ],
)
def test_goals_that_are_refused(loss: float | None, least: float | None, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        Goal(loss, least)
