"""Trials against tables written by hand, an oracle that forgets nothing, and policies of known worth."""

from __future__ import annotations

import itertools
import json
import math
from collections.abc import Iterable
from fractions import Fraction
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgerl.edge.continual import trials as trials_module
from edgerl.edge.continual.trials import RESAMPLES, Decision, TrialRule, Trials, share_not_worse
from edgerl.errors import ConfigError

EIGHT = TrialRule(window_steps=8)  # every step of a window ends an eighth


def window(trials: Trials, rewards: Iterable[float]) -> list[Decision | None]:
    """One episode of these rewards."""
    rewards = list(rewards)
    return [trials.step(reward, index == len(rewards) - 1) for index, reward in enumerate(rewards)]


def scores(trials: Trials, values: Iterable[float]) -> list[Decision | None]:
    """Windows of one step each, with these scores."""
    return [decision for value in values for decision in window(trials, [value])]


# Whose turn it is.


@pytest.mark.parametrize(("every", "expected"), [(1, "CCCCCCC"), (2, "-C-C-C-"), (3, "--C--C-"), (5, "----C--")])
def test_the_champion_goes_first_and_one_window_in_so_many_is_a_trial(every: int, expected: str) -> None:
    trials = Trials(TrialRule(every=every), 0)
    driven = ""
    for reward in (3.0, 1.0, 4.0, 1.0, 5.0, 9.0, 2.0):
        driven += "C" if trials.challenger_drives else "-"
        window(trials, [reward])
    assert driven == expected


def test_a_window_ends_with_its_episode_or_after_so_many_steps() -> None:
    trials = Trials(TrialRule(every=50, window_steps=10), 0)
    for over_at in (4, 10, None):
        for step in range(1, over_at or 10):
            trials.step(float(step), False)
        trials.step(100.0, over_at is not None)
    assert trials.status()["champion"]["scores"] == [106.0, 145.0, 145.0]
    assert trials.status()["windows"] == 3


def test_episodes_without_an_end_are_cut_into_windows() -> None:
    trials = Trials(TrialRule(every=2, window_steps=100, least=5), 0)
    driven = []
    for _ in range(1000):
        driven.append(trials.challenger_drives)
        trials.step(0.5, False)
    assert driven == ([False] * 100 + [True] * 100) * 5
    assert trials.status()["challenger"] == {"scores": [50.0] * 5, "mean": 50.0}


def test_where_the_challenger_always_drives_nothing_is_compared() -> None:
    trials = Trials(TrialRule(every=1, window_steps=8), 0)
    for reward in range(100):
        assert set(window(trials, [float(reward)] * 8)) == {None}
        assert trials.challenger_drives
    status = trials.status()
    assert status["challenger"]["scores"] == [760.0, 768.0, 776.0, 784.0, 792.0]
    assert status["champion"] == {"scores": [], "mean": None}
    assert (status["share"], status["takeovers"], status["trials_cut"]) == (None, 0, 0)


@pytest.mark.parametrize("reward", [math.nan, math.inf, -math.inf, 1e39, -1e300])
def test_a_reward_that_is_not_finite_counts_for_nothing(reward: float) -> None:
    trials = Trials(EIGHT, 0)
    with pytest.raises(ValueError, match=r"^the reward is .*; expected a finite float32 number \(refuse the trans"):
        trials.step(reward, True)
    assert trials.status()["windows"] == 0


# The bootstrap.


def exact_share(challenger: list[int], champion: list[int]) -> float:
    """The probability that a drawn mean of the challenger's is at least one of the champion's, from all draws."""
    ours, theirs = (
        [Fraction(sum(draw), len(values)) for draw in itertools.product(values, repeat=len(values))]
        for values in (challenger, champion)
    )
    not_worse = sum(a >= b for a in ours for b in theirs)
    return not_worse / (len(ours) * len(theirs))


@settings(max_examples=40)
@given(
    challenger=st.lists(st.integers(-3, 3), min_size=1, max_size=4),
    champion=st.lists(st.integers(-3, 3), min_size=1, max_size=4),
    seed=st.integers(0, (1 << 64) - 1),
)
def test_the_bootstrap_draws_what_an_enumeration_counts(challenger: list[int], champion: list[int], seed: int) -> None:
    exact = exact_share(challenger, champion)
    five_deviations = 5 * math.sqrt(exact * (1 - exact) / RESAMPLES)
    assert abs(share_not_worse(challenger, champion, seed, 7) - exact) <= five_deviations


@given(
    score=st.floats(-1e6, 1e6),
    challenger=st.integers(1, 20),
    champion=st.integers(1, 40),
    window=st.integers(0, 1 << 53),
)
@settings(max_examples=30)
def test_of_scores_that_are_all_the_same_no_rounding_makes_one_worse(
    score: float, challenger: int, champion: int, window: int
) -> None:
    assert share_not_worse([score] * challenger, [score] * champion, 1, window) == 1
    below = float(np.nextafter(score, -math.inf))
    assert share_not_worse([below] * challenger, [score] * champion, 1, window) == 0


def test_the_draws_follow_from_seed_and_window() -> None:
    generator = np.random.default_rng(0)
    ours, theirs = generator.normal(size=5).tolist(), generator.normal(size=20).tolist()
    first = share_not_worse(ours, theirs, 3, 14)
    assert share_not_worse(ours, theirs, 3, 14) == first
    assert len({share_not_worse(ours, theirs, seed, n) for seed in range(5) for n in range(5)}) > 5


# Takeover.


@pytest.fixture
def compared(monkeypatch: pytest.MonkeyPatch) -> list[tuple[list[float], list[float], int]]:
    """What was asked of the bootstrap: the scores of challenger and champion, and the window's number."""
    asked = []

    def share(challenger: list[float], champion: list[float], seed: int, window: int) -> float:
        assert seed == 17
        asked.append((challenger, champion, window))
        return 0.0

    monkeypatch.setattr(trials_module, "share_not_worse", share)
    return asked


def test_the_scores_of_one_period_are_compared(compared: list[Any]) -> None:
    """Each score is its window's number: the champion's begin with the block of the oldest trial."""
    scores(Trials(TrialRule(every=3, recent=2, least=2), 17), range(12))
    assert compared == [([2, 5], [0, 1, 3, 4], 5), ([5, 8], [3, 4, 6, 7], 8), ([8, 11], [6, 7, 9, 10], 11)]


def test_a_dropped_trial_makes_the_period_longer_until_it_is_forgotten(compared: list[Any]) -> None:
    trials = Trials(TrialRule(every=3, recent=2, least=2), 17)
    for number in range(27):
        if number in (5, 11, 14, 17, 20):  # trials, but the first and the third
            trials.step(1e6, False)
            trials.abandon()
        else:
            window(trials, [number])
    assert compared == [
        ([2, 8], [0, 1, 3, 4, 6, 7], 8),
        # At 23 the trials of four blocks before still count, at 26 that of 8, in the third block, does not.
        ([23, 26], [21, 22, 24, 25], 26),
    ]


def test_a_comparison_needs_scores_of_both(compared: list[Any]) -> None:
    trials = Trials(TrialRule(every=2, recent=3, least=2), 17)
    for number in range(6):
        if number in (0, 2):
            trials.step(1e6, False)
            trials.abandon()
        else:
            window(trials, [number])
    assert compared == []
    scores(trials, [6, 7])
    assert compared == [([3, 5, 7], [4, 6], 7)]


def test_from_a_takeover_to_its_report_nothing_is_decided() -> None:
    trials = Trials(TrialRule(every=2, recent=2, least=1), 0)
    assert scores(trials, [0.0, 1.0]) == [None, Decision.TAKE_OVER]
    for _ in range(6):
        assert not trials.challenger_drives
        assert scores(trials, [-9.0]) == [None]
    assert trials.status()["challenger"]["scores"] == [1.0]
    assert trials.status()["takeovers"] == 0
    trials.step(0.0, False)
    trials.took_over()
    status = trials.status()
    assert (status["challenger"]["scores"], status["champion"]["scores"], status["share"]) == ([], [], None)
    assert (status["takeovers"], status["windows"], trials.challenger_drives) == (1, 9, True)
    assert scores(trials, [1.0, 0.0, 1.0]) == [None, None, Decision.TAKE_OVER]


def play(
    trials: Trials, champion: float, challenger: float, blocks: int, generator: np.random.Generator
) -> tuple[int, int | None]:
    """(comparisons, the first trial that led to a takeover) of policies with these mean scores, deviation 1."""
    comparisons = 0
    for block in range(blocks):
        for _ in range(trials.rule.every):
            mean = challenger if trials.challenger_drives else champion
            decision = scores(trials, [mean + generator.normal()])[0]
        comparisons += trials.status()["share"] is not None
        if decision is Decision.TAKE_OVER:
            return comparisons, block + 1
    return comparisons, None


def played(challenger: float, blocks: int, repeats: int) -> tuple[float, list[int]]:
    """(takeovers per comparison, after how many trials) of a challenger that is better by this many deviations."""
    results = [play(Trials(EIGHT, s), 0.0, challenger, blocks, np.random.default_rng(s)) for s in range(repeats)]
    takeovers = [trial for _, trial in results if trial is not None]
    return len(takeovers) / sum(comparisons for comparisons, _ in results), takeovers


def test_an_equal_challenger_rarely_takes_over() -> None:
    """Measured over 3000: 16 % of first comparisons, on three scores each."""
    rate, _ = played(0.0, 3, 400)
    assert 0.10 < rate < 0.22


def test_a_clearly_better_challenger_takes_over_at_once() -> None:
    """Better by two deviations of a window's score: 97 % at the first comparison, which is at the third trial."""
    rate, takeovers = played(2.0, 8, 100)
    assert rate > 0.9
    assert len(takeovers) == 100
    assert np.median(takeovers) == 3
    assert max(takeovers) <= 6


def test_a_clearly_worse_challenger_never_takes_over() -> None:
    """Worse by two deviations of a window's score, asked 28 times in each of 50 runs."""
    assert played(-2.0, 30, 50) == (0.0, [])


def test_a_champion_that_degraded_is_not_saved_by_its_history() -> None:
    generator = np.random.default_rng(5)
    trials = Trials(EIGHT, 5)
    assert play(trials, 10.0, 5.0, 30, generator) == (28, None)
    _, trial = play(trials, 0.0, 5.0, 30, generator)
    assert trial is not None
    assert trial <= EIGHT.recent
    assert trials.status()["champion"]["mean"] < 5


# The cut.

CHAMPION = ([1.0] * 8, [2.0] * 8, [3.0] + [0.0] * 7, [5.0, 5.0])
"""Running sums 1 2 3 … 8; 2 4 6 … 16; 3 3 3 … 3; 5 10 10 … 10."""


def after_champion(*windows: list[float]) -> Trials:
    trials = Trials(EIGHT, 0)
    for rewards in windows:
        window(trials, rewards)
    while not trials.challenger_drives:
        trials.step(0.0, False)
        trials.abandon()
    return trials


@pytest.mark.parametrize(
    ("rewards", "at", "score"),
    [
        ([0.5], 1, 7.5),  # below the first window's 1, which went on to 8
        ([-100], 1, -93),
        ([1, 0.5], 2, 7.5),
        ([1, 1, 0], 3, 7),  # at 3 the first and the third are equally low: the oldest counts
        ([1, 1, 1, -1], 4, 2),  # below the third window's 3, which stayed at it
        ([1, 1, 1, 0, 0, 0, -0.25], 7, 2.75),
        ([1, 1, 1, 0, 0, 0, 0, 0], None, 3),  # never below
        ([1, 1, 1, 0, 0, 0, 0, -5], None, -2),  # at its end there is nothing left to cut
        ([1, 1, -5], None, -3),  # nor at the episode's end
    ],
)
def test_a_trial_that_falls_behind_the_worst_recent_window_is_cut(
    rewards: list[float], at: int | None, score: float
) -> None:
    trials = after_champion(*CHAMPION)
    decisions = [trials.step(reward, False) for reward in rewards[:-1]]
    decisions.append(trials.step(rewards[-1], at is None))
    assert decisions == [None] * (len(rewards) - 1) + [None if at is None else Decision.TRIAL_CUT]
    assert trials.status()["challenger"]["scores"] == [score]
    assert trials.status()["trials_cut"] == (at is not None)


def test_after_a_cut_the_champion_drives_the_rest_which_counts_for_nobody() -> None:
    trials = after_champion(*CHAMPION)
    assert trials.step(0.0, False) is Decision.TRIAL_CUT
    for _ in range(7):
        assert not trials.challenger_drives
        assert trials.step(1000.0, False) is None
    status = trials.status()
    assert (status["windows"], status["challenger"]["scores"]) == (5, [7.0])
    assert status["champion"]["scores"] == [8.0, 16.0, 3.0, 10.0]
    assert scores(trials, [1.0] * 4) == [None] * 4
    assert trials.challenger_drives


def test_the_score_of_a_cut_stands_where_the_rest_is_dropped() -> None:
    trials = after_champion(*CHAMPION)
    trials.step(0.0, False)
    trials.abandon()
    assert trials.status()["challenger"]["scores"] == [7.0]
    assert trials.status()["windows"] == 5


def test_a_takeover_comes_at_the_end_of_a_cut_trial_too() -> None:
    trials = Trials(TrialRule(every=4, window_steps=8, least=2, confidence=0.5), 0)
    for last in (100.0, 0.0):
        scores(trials, [1.0] * 3)
        decisions = window(trials, [last, last])
    assert decisions == [Decision.TRIAL_CUT, Decision.TAKE_OVER]
    assert trials.status()["challenger"]["scores"] == [200.0, 0.0]


def test_a_window_that_had_ended_counts_with_its_score() -> None:
    trials = after_champion([1.0] * 8, *[[2.0, 0.0]] * 3)
    assert [trials.step(reward, False) for reward in (2.0, 0.0, -0.5)] == [None, None, Decision.TRIAL_CUT]
    assert trials.status()["challenger"]["scores"] == [1.5]


def test_a_cut_is_never_worth_more_than_the_window_it_fell_below() -> None:
    """These three float64 add up to more than the score: 0.1678… + (−0.4512… − 0.1678…)."""
    behind, running, score = 0.16782596972241445, 0.16782596972241448, -0.4512001448560466
    assert behind + (score - running) > score
    trials = after_champion(*[[running, -running, score]] * 4)
    assert trials.step(behind, False) is Decision.TRIAL_CUT
    assert trials.status()["challenger"]["scores"] == [score]


def test_a_trial_is_not_cut_before_the_champion_has_three_windows() -> None:
    assert after_champion([1.0], [1.0]).step(-9.0, False) is None
    assert after_champion([1.0], [1.0], [1.0]).step(-9.0, False) is Decision.TRIAL_CUT


def test_eighths_of_a_length_that_is_no_multiple_of_eight() -> None:
    rule = TrialRule(every=4, window_steps=20)
    cut_at = []
    for start in range(20):
        trials = Trials(rule, 0)
        for _ in range(60):
            trials.step(0.0, False)
        decisions = [trials.step(-1.0 if step >= start else 0.0, False) for step in range(20)]
        cut_at += [step + 1 for step, decision in enumerate(decisions) if decision is Decision.TRIAL_CUT]
    assert sorted(set(cut_at)) == [3, 5, 8, 10, 13, 15, 18]


def test_only_recent_windows_of_the_champion_count() -> None:
    trials = Trials(TrialRule(every=4, window_steps=8, recent=1, least=1, confidence=1.0), 0)
    scores(trials, [-5.0, -5.0, -5.0, -5.5, 1.0, 1.0, 1.0])
    assert trials.step(0.0, False) is Decision.TRIAL_CUT


# What is dropped.


def test_a_dropped_window_has_no_score_and_uses_its_number() -> None:
    trials = Trials(TrialRule(every=2, window_steps=8), 0)
    trials.abandon()  # has no step: the same window begins
    assert (trials.status()["windows"], trials.challenger_drives) == (0, False)
    trials.step(9.0, False)
    trials.abandon()
    assert (trials.status()["windows"], trials.challenger_drives) == (1, True)
    trials.step(9.0, False)
    trials.abandon()
    scores(trials, [1.0, 2.0])
    assert trials.status()["champion"]["scores"] == [1.0]
    assert trials.status()["challenger"]["scores"] == [2.0]


def test_a_challenger_that_began_anew_has_no_scores_and_no_takeover_due() -> None:
    trials = Trials(TrialRule(every=2, least=1, recent=1, window_steps=8), 0)
    assert scores(trials, [0.0, 1.0]) == [None, Decision.TAKE_OVER]
    trials.step(2.0, False)  # the champion's window goes on
    trials.restart_challenger()
    trials.step(3.0, True)
    status = trials.status()
    assert (status["divergences"], status["share"], status["challenger"]["scores"]) == (1, None, [])
    assert status["champion"]["scores"] == [5.0]
    assert trials.challenger_drives
    trials.step(9.0, False)
    trials.restart_challenger()  # its own window does not
    assert trials.status()["windows"] == 4
    assert trials.status()["divergences"] == 2


# An oracle that keeps every reward.


class Oracle:
    """The module's rules once more, read off a list of all windows; sums are of whole numbers and so exact."""

    def __init__(self, rule: TrialRule, seed: int) -> None:
        self.rule, self.seed, self.number, self.due = rule, seed, 0, False
        self.champion: dict[int, list[float]] = {}  # number → rewards
        self.challenger: dict[int, float] = {}  # number → score
        self.rewards: list[float] = []
        self.cut = False

    def drives(self) -> bool:
        return (self.number + 1) % self.rule.every == 0 and not self.cut and not self.due

    def known(self, windows: dict[int, Any]) -> dict[int, Any]:
        oldest = (self.number // self.rule.every - 2 * self.rule.recent) * self.rule.every
        return {n: window for n, window in sorted(windows.items()) if n >= oldest}

    def last(self, windows: dict[int, Any], count: int) -> dict[int, Any]:
        known = self.known(windows)
        return {n: known[n] for n in list(known)[len(known) - min(count, len(known)) :]}

    def step(self, reward: float, over: bool) -> Decision | None:
        self.rewards.append(reward)
        steps = len(self.rewards)
        if over or steps == self.rule.window_steps:
            return self.end()
        if self.drives() and steps in [math.ceil(part * self.rule.window_steps / 8) for part in range(1, 8)]:
            return self.look(steps)
        return None

    def look(self, steps: int) -> Decision | None:
        recent = self.last(self.champion, self.rule.recent * (self.rule.every - 1)).values()
        if len(recent) < 3:
            return None
        worst = min(recent, key=lambda rewards: sum(rewards[:steps]))
        if sum(self.rewards) >= sum(worst[:steps]):
            return None
        self.challenger[self.number] = sum(self.rewards) + sum(worst[steps:])
        self.cut = True
        return Decision.TRIAL_CUT

    def end(self) -> Decision | None:
        is_trial, decision = (self.number + 1) % self.rule.every == 0, None
        if self.drives():
            self.challenger[self.number] = sum(self.rewards)
        if not is_trial:
            self.champion[self.number] = self.rewards
        elif not self.due:
            decision = self.judge()
        self.begin(self.number + 1)
        return decision

    def judge(self) -> Decision | None:
        ours = self.last(self.challenger, self.rule.recent)
        theirs = {n: r for n, r in self.champion.items() if n >= min(ours) - (self.rule.every - 1)}
        if len(ours) < self.rule.least or len(theirs) < self.rule.least:
            return None
        share = share_not_worse(list(ours.values()), [sum(r) for r in theirs.values()], self.seed, self.number)
        self.due = share >= self.rule.confidence
        return Decision.TAKE_OVER if self.due else None

    def begin(self, number: int) -> None:
        self.number, self.rewards, self.cut = number, [], False

    def abandon(self) -> None:
        self.begin(self.number + bool(self.rewards))

    def took_over(self) -> None:
        self.champion, self.challenger, self.due = {}, {}, False
        self.abandon()

    def restart_challenger(self) -> None:
        self.challenger, self.due = {}, False
        if (self.number + 1) % self.rule.every == 0:
            self.abandon()

    def restart(self) -> None:
        self.due = False
        self.abandon()


def restored(trials: Trials, seed: int) -> Trials:
    text = json.dumps(trials.state(), allow_nan=False)
    again = Trials.from_state(trials.rule, seed, json.loads(text))
    assert json.dumps(again.state(), allow_nan=False) == text
    return again


@settings(max_examples=60)
@given(
    every=st.integers(1, 4),
    window_steps=st.integers(8, 20),
    recent=st.integers(1, 4),
    confidence=st.sampled_from([0.5, 0.9, 1.0]),
    seed=st.integers(0, 1 << 32),
    data=st.data(),
)
def test_every_decision_is_the_oracles(
    every: int, window_steps: int, recent: int, confidence: float, seed: int, data: st.DataObject
) -> None:
    rule = TrialRule(every, window_steps, recent, data.draw(st.integers(1, recent)), confidence)
    trials, oracle = Trials(rule, seed), Oracle(rule, seed)
    generator = np.random.default_rng(seed)
    for _ in range(600):
        assert trials.challenger_drives == oracle.drives()
        event = generator.random()
        if event < 0.97:
            reward, over = float(generator.integers(-3, 4)), bool(generator.random() < 0.1)
            assert trials.step(reward, over) == oracle.step(reward, over)
        elif event < 0.98:
            trials.abandon()
            oracle.abandon()
        elif event < 0.985:
            trials.restart_challenger()
            oracle.restart_challenger()
        elif event < 0.99:
            trials = restored(trials, seed)
            oracle.restart()
        elif oracle.due:
            trials.took_over()
            oracle.took_over()


# Its state.


def busy(steps: int, rule: TrialRule = EIGHT, seed: int = 3) -> Trials:
    trials, generator = Trials(rule, seed), np.random.default_rng(seed)
    for _ in range(steps):
        if trials.step(float(generator.normal()), bool(generator.random() < 0.05)) is Decision.TAKE_OVER:
            trials.took_over()
    return trials


@pytest.mark.parametrize("steps", [0, 1, 7, 8, 100, 333, 1500])
def test_a_restored_object_decides_the_same_from_a_windows_beginning_on(steps: int) -> None:
    trials = busy(steps)
    again = restored(trials, 3)
    trials.abandon()
    generator, decided = np.random.default_rng(steps), []
    for _ in range(3000):
        assert again.challenger_drives == trials.challenger_drives
        reward, over = float(generator.normal()), bool(generator.random() < 0.05)
        decision = trials.step(reward, over)
        assert again.step(reward, over) is decision
        decided.append(decision)
        if decision is Decision.TAKE_OVER:
            trials.took_over()
            again.took_over()
    assert again.state() == trials.state()
    assert {Decision.TAKE_OVER, Decision.TRIAL_CUT} <= set(decided)


def test_a_takeover_that_was_due_is_decided_anew_after_a_restart() -> None:
    trials = Trials(TrialRule(every=2, least=1), 0)
    assert scores(trials, [0.0, 1.0]) == [None, Decision.TAKE_OVER]
    again = restored(trials, 0)
    assert scores(again, [0.0]) == [None]
    assert again.challenger_drives
    assert scores(again, [1.0]) == [Decision.TAKE_OVER]


def test_the_state_and_the_status_do_not_grow() -> None:
    trials, longest = Trials(TrialRule(every=3, window_steps=8, recent=2, least=2, confidence=1.0), 0), 0
    generator = np.random.default_rng(0)
    for step in range(20_000):
        if trials.step(float(generator.integers(0, 10)), False) is Decision.TAKE_OVER or generator.random() < 0.01:
            trials.restart_challenger()
        longest = max(longest, len(trials._champion))
        assert len(trials._challenger) <= 2
        assert len(trials._running) <= 8
        if step % 1000 == 0:
            restored(trials, 0)
    assert longest <= 10
    assert len(trials.status()["champion"]["scores"]) == 4


BUSY = busy(400).state()


def changed(**parts: Any) -> dict[str, Any]:
    return {**BUSY, **parts}


def taken_or_refused(state: object) -> Trials | str:
    try:
        return Trials.from_state(EIGHT, 3, state)
    except ValueError as error:
        return str(error)


ZEROS = [0.0] * 8


@pytest.mark.parametrize(
    ("state", "problem"),
    [
        (None, "the trials' state does not have the keys rule, window, champion"),
        ([], "does not have the keys"),
        ({}, "does not have the keys"),
        (changed(more=1), "does not have the keys"),
        (changed(rule={"every": 5}), r"the trials' rule is {'every': 5}; expected {'every': 5, 'window_steps': 8"),
        (changed(rule=None), "the trials' rule is None"),
        (changed(window=-1), r"the trials' window is -1; expected an integer in \[0, "),
        (changed(window=True), "the trials' window is True"),
        (changed(window=1.0), r"the trials' window is 1\.0"),
        (changed(window=10**5000), "the trials' window is a number of thousands of digits"),
        (changed(takeovers="3"), "the trials' takeovers is '3'"),
        (changed(divergences=None), "the trials' divergences is None"),
        (changed(trials_cut=-3), "the trials' trials_cut is -3"),
        (changed(share=1.5), r"the trials' share is 1\.5; expected a number in "),
        (changed(share=math.nan), "the trials' share is nan"),
        (changed(share=1), "the trials' share is 1;"),
        (changed(champion={}), "the trials' champion is not a list of at most 44 windows"),
        (changed(champion=[[0, ZEROS]] * 45), "the trials' champion is not a list of at most 44 windows"),
        (changed(challenger=[[4, ZEROS]] * 6), "the trials' challenger is not a list of at most 5 windows"),
        (changed(champion=[3]), "a window of the trials' champion is 3; expected a number and 8 finite sums"),
        (changed(champion=[[0, ZEROS, 1]]), "expected a number and 8 finite sums"),
        (changed(champion=[[0, ZEROS[:7]]]), "expected a number and 8 finite sums"),
        (changed(champion=[["0", ZEROS]]), "expected a number and 8 finite sums"),
        (changed(champion=[[0, "00000000"]]), "expected a number and 8 finite sums"),
        (changed(champion=[[0, [0.0] * 7 + [math.inf]]]), "expected a number and 8 finite sums"),
        (changed(champion=[[0, [math.nan] + [0.0] * 7]]), "expected a number and 8 finite sums"),
        (changed(champion=[[0, [1e300] + [0.0] * 7]]), "expected a number and 8 finite sums"),
        (changed(champion=[[0, [0] + [0.0] * 7]]), "expected a number and 8 finite sums"),
        (changed(window=3, champion=[[0, ZEROS], [3, ZEROS]]), "champion has windows that cannot be its own"),
        (changed(window=9, champion=[[1, ZEROS], [0, ZEROS]]), "champion has windows that cannot be its own"),
        (changed(window=9, champion=[[1, ZEROS], [1, ZEROS]]), "champion has windows that cannot be its own"),
        (changed(window=9, champion=[[4, ZEROS]]), "champion has windows that cannot be its own"),
        (changed(window=90, champion=[[0, ZEROS]]), "champion has windows that cannot be its own"),
        (changed(window=9, champion=[], challenger=[[3, ZEROS]]), "challenger has windows that cannot be its own"),
    ],
)  # fmt: skip
def test_a_state_that_trials_did_not_write_is_refused(state: object, problem: str) -> None:
    with pytest.raises(ValueError, match=rf"^[^\n]*{problem}[^\n]*$"):
        Trials.from_state(EIGHT, 3, state)


def test_a_state_under_another_rule_is_refused() -> None:
    with pytest.raises(ValueError, match=r"the trials' rule is .*; expected {'every': 4"):
        Trials.from_state(TrialRule(every=4, window_steps=8), 3, busy(100).state())


@settings(max_examples=100)
@given(key=st.sampled_from(list(Trials(EIGHT, 0).state())), data=st.data())
def test_whatever_a_state_holds_it_is_taken_or_refused_with_a_reason(key: str, data: st.DataObject) -> None:
    leaves = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=3)
    anything = st.recursive(leaves, lambda inner: st.lists(inner, max_size=8) | st.dictionaries(st.text(), inner))
    answer = taken_or_refused(changed(**{key: data.draw(anything)}))
    if isinstance(answer, str):
        assert answer.startswith(("the trials' ", "a window of the trials' "))
        assert "\n" not in answer
    else:
        assert len(scores(answer, range(30))) == 30


# Its rule.


@pytest.mark.parametrize(
    ("options", "problem"),
    [
        ({"every": 0}, r"the trials' every is 0; expected an integer in \[1, 50\]"),
        ({"every": 51}, "the trials' every is 51"),
        ({"every": 2.0}, r"the trials' every is 2\.0"),
        ({"every": True}, "the trials' every is True"),
        ({"window_steps": 7}, r"the trials' window_steps is 7; expected an integer in \[8, 1000000000\]"),
        ({"recent": 0}, r"the trials' recent is 0; expected an integer in \[1, 20\]"),
        ({"recent": "5"}, "the trials' recent is '5'"),
        ({"least": 0}, r"the trials' least is 0; expected an integer in \[1, 5\]"),
        ({"recent": 2}, r"the trials' least is 3; expected an integer in \[1, 2\]"),
        ({"confidence": 0.4}, r"the trials' confidence is 0\.4; expected a number in \[0\.5, 1\]"),
        ({"confidence": math.nan}, "the trials' confidence is nan"),
        ({"confidence": None}, "the trials' confidence is None"),
        ({"confidence": True}, "the trials' confidence is True"),
    ],
)
def test_an_impossible_rule_is_refused(options: dict[str, Any], problem: str) -> None:
    with pytest.raises(ConfigError, match=f"^{problem}"):
        TrialRule(**options)


@pytest.mark.parametrize("seed", [-1, 1 << 64, 1.0, None])
def test_an_impossible_seed_is_refused(seed: Any) -> None:
    with pytest.raises(ConfigError, match=r"^the trials' seed is .*; expected an integer in "):
        Trials(EIGHT, seed)
