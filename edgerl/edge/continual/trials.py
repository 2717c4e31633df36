"""Trials: when a policy that is still learning may drive, and when it has earned the right to drive.

The proven policy, the champion, drives; the learning one, the challenger, drives in short trials and is watched.

**Windows.** Time is cut into windows, numbered from 0; one ends with its episode, or after `window_steps` steps. A
block is `every` windows, and its last one (number % every == every − 1) is a trial: the champion always goes first. A
window's score is the sum of its rewards, undiscounted. Where episodes end by themselves, `window_steps` should not cut
them: the halves of an episode are not worth the same, and trials may keep meeting the same half.

**Takeover.** At the end of a trial the challenger's last `recent` scores are compared with the champion's scores of the
same period: of all its windows from the first of the block on in which the oldest of those trials took place. What the
champion once scored in better days does not count. Both need `least` scores. Both lists are resampled 2000 times, with
replacement, and the share of draws is taken in which the challenger's mean is at least the champion's. From a share of
`confidence` on, the decision is TAKE_OVER: at 0.9, "not worse at 90 %", by a one-sided bootstrap. The draws follow from
the seed and the window's number only, so that a restart decides the same. Until `took_over()`, the champion drives and
nothing else is decided.

Of few scores the bootstrap is too sure. Of a challenger that is exactly as good, 16 % of the comparisons on 3 normally
distributed scores are TAKE_OVER, and 14 % of those on 5 (where an exponential tail leads down 25 % and 21 %); of one
that is worse by a standard deviation of the scores, 1 % and 0.1 %. And a challenger is compared at each trial: one that
stays as good takes over eventually.

**Cut.** At each eighth of `window_steps`, but not at the window's end, the sum of a trial's rewards so far is compared
with the lowest such sum among the champion's last recent × (every − 1) windows, of which there must be 3; a window that
had ended by then counts with its score. Below that the decision is TRIAL_CUT: the champion drives what is left of the
window, which counts for neither. The trial's score is what it had, plus what that lowest window (the oldest of equals)
still earned from there on, but never more than that window's score. It stands, whatever becomes of the window.
A policy that is exactly as good loses 4 % of its trials this way where whole episodes differ, 15 % where every reward
is a draw of its own; one that is worse by two standard deviations of a score, 55 % and 66 %.

Everything here is arithmetic: no clock, no file, no policy. Scores older than 2 × recent blocks are forgotten, so the
memory is bounded.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum
from itertools import pairwise
from typing import Any, TypeGuard

import numpy as np
import numpy.typing as npt

from edgerl.errors import ConfigError, quoted

PARTS = 8
"""A trial may be cut after each eighth of a window."""

RESAMPLES = 2000
"""Of the bootstrap; a comparison takes 0.3 ms under the default rule on a desktop's core."""

_RESAMPLES_AT_ONCE = 500  # all at once would need 64 MB under the largest rule

LEAST_TO_CUT = 3
"""Windows of the champion; the lowest of fewer says too little."""

LARGEST_REWARD = float(np.finfo(np.float32).max)
LARGEST_COUNT = 1 << 53


class Decision(Enum):
    """What a transition led to."""

    TRIAL_CUT = "trial cut"  # the champion drives the rest of the window
    TAKE_OVER = "take over"  # the challenger is to become the champion; say `took_over()` once it has


@dataclass(frozen=True)
class TrialRule:
    """How a challenger is tried; raises ConfigError for a field out of its range."""

    every: int = 5  # windows per trial, 1 to 50; 1: the challenger always drives and nothing is compared
    window_steps: int = 1000  # steps, in [8, 1e9]; a window ends with its episode, or after this many
    recent: int = 5  # trials that are compared, 1 to 20
    least: int = 3  # scores of either policy that a comparison needs, 1 to recent
    confidence: float = 0.9  # share of resamples, 0.5 to 1

    def __post_init__(self) -> None:
        for name, low, high in (
            ("every", 1, 50),
            ("window_steps", PARTS, 10**9),
            ("recent", 1, 20),
            ("least", 1, self.recent),
        ):
            value = getattr(self, name)
            if type(value) is not int or not low <= value <= high:
                raise ConfigError(f"the trials' {name} is {quoted(value)}; expected an integer in [{low}, {high}]")
        if type(self.confidence) not in (int, float) or not 0.5 <= self.confidence <= 1:
            raise ConfigError(f"the trials' confidence is {quoted(self.confidence)}; expected a number in [0.5, 1]")


@dataclass(frozen=True)
class Window:
    """A window that was driven to its end, or cut; from there on its running sum is its score."""

    number: int
    running: tuple[float, ...]  # [PARTS], the sum of rewards after each eighth of `window_steps`

    @property
    def score(self) -> float:
        """The sum of all its rewards."""
        return self.running[-1]


class Trials:
    """Who drives, the scores of both, and the decisions; the module says by which rules."""

    def __init__(self, rule: TrialRule, seed: int) -> None:
        """`seed`: 0 to 2**64 − 1, of the bootstrap. Raises ConfigError."""
        if type(seed) is not int or not 0 <= seed < 1 << 64:
            raise ConfigError(f"the trials' seed is {quoted(seed)}; expected an integer in [0, 18446744073709551615]")
        self.rule = rule
        self._seed = seed
        self._champion: list[Window] = []  # oldest first, as below
        self._challenger: list[Window] = []  # at most `recent`
        self._share: float | None = None  # of the last comparison with this challenger
        self._takeover_due = False
        self._trials_cut = self._takeovers = self._divergences = 0
        self._begin_window(0)

    @property
    def challenger_drives(self) -> bool:
        """Who drives the next step: the challenger, or else the champion."""
        return self._on_trial

    def step(self, reward: float, episode_over: bool) -> Decision | None:
        """Count one transition. Raises ValueError for a reward that is not finite as float32."""
        if not abs(reward) <= LARGEST_REWARD:
            raise ValueError(f"the reward is {reward}; expected a finite float32 number (refuse the transition)")
        self._steps += 1
        self._sum += float(reward)
        ends_part = self._steps * PARTS % self.rule.window_steps < PARTS
        if ends_part:
            self._running.append(self._sum)
        if episode_over or self._steps == self.rule.window_steps:
            return self._end_window()
        return self._cut_where_behind() if ends_part and self._on_trial else None

    def took_over(self) -> None:
        """The challenger is the champion now: nothing is known of either, and a new window starts."""
        self._takeovers += 1
        self._champion, self._challenger = [], []
        self._forget_comparison()
        self.abandon()

    def abandon(self) -> None:
        """Drop the present window without a score, after a gap say, and begin the next; one without a step stays."""
        self._begin_window(self._number + (self._steps > 0))

    def restart_challenger(self) -> None:
        """The challenger diverged and restarted."""
        self._divergences += 1
        self.forget_challenger()

    def forget_challenger(self) -> None:
        """Its scores, a takeover that is due and a trial under way are lost."""
        self._challenger = []
        self._forget_comparison()
        if self._is_trial(self._number):
            self.abandon()

    def state(self) -> dict[str, Any]:
        """Everything but the present window, as JSON: what `from_state` takes up at the beginning of the next one.

        A window that has no step yet is the next one. A takeover that is due is not in it: where it was not done before
        the restart, the next trial decides again.
        """
        restarted = copy.copy(self)
        restarted.abandon()
        return {
            "rule": dict(vars(self.rule)),
            "window": restarted._number,
            "champion": [[window.number, list(window.running)] for window in restarted._champion],
            "challenger": [[window.number, list(window.running)] for window in restarted._challenger],
            "share": self._share,
            "trials_cut": self._trials_cut,
            "takeovers": self._takeovers,
            "divergences": self._divergences,
        }

    @classmethod
    def from_state(cls, rule: TrialRule, seed: int, state: object) -> Trials:
        """Trials as `state` left them; nothing in it is trusted.

        Raises ValueError, with the reason, for what `state` cannot have written under this very rule.
        """
        trials = cls(rule, seed)
        if not isinstance(state, dict) or set(state) != set(trials.state()):
            raise ValueError(f"the trials' state does not have the keys {', '.join(trials.state())}")
        if state["rule"] != vars(rule):
            raise ValueError(f"the trials' rule is {quoted(state['rule'], 120)}; expected {vars(rule)}")
        trials._begin_window(_count(state, "window"))
        trials._champion = trials._read_windows(state, "champion")
        trials._challenger = trials._read_windows(state, "challenger")
        trials._share = share = state["share"]
        if share is not None and not (isinstance(share, float) and 0 <= share <= 1):
            raise ValueError(f"the trials' share is {quoted(share)}; expected a number in [0, 1], or none")
        trials._trials_cut = _count(state, "trials_cut")
        trials._takeovers = _count(state, "takeovers")
        trials._divergences = _count(state, "divergences")
        return trials

    def status(self) -> dict[str, Any]:
        """A summary for people; means and the share are None where there is no score."""
        return {
            "rule": dict(vars(self.rule)),
            "windows": self._number,  # ended or dropped
            "challenger_drives": self.challenger_drives,
            "challenger": _summary(self._challenger),
            "champion": _summary(self._recent_of_champion()),
            "share": self._share,
            "trials_cut": self._trials_cut,
            "takeovers": self._takeovers,
            "divergences": self._divergences,
        }

    # Windows.

    def _begin_window(self, number: int) -> None:
        self._number = number
        self._steps = 0
        self._sum = 0.0
        self._running: list[float] = []
        self._on_trial = self._is_trial(number) and not self._takeover_due
        self._champion = [window for window in self._champion if self._is_remembered(window.number)]
        self._challenger = [window for window in self._challenger if self._is_remembered(window.number)]

    def _end_window(self) -> Decision | None:
        number = self._number
        if self._on_trial:
            self._add_trial(self._sum)
        elif not self._is_trial(number):
            self._champion.append(self._finished(self._sum))
        decision = self._judge() if self._is_trial(number) and not self._takeover_due else None
        self._begin_window(number + 1)
        return decision

    def _finished(self, score: float) -> Window:
        return Window(self._number, (*self._running, *[score] * PARTS)[:PARTS])

    def _add_trial(self, score: float) -> None:
        self._challenger = [*self._challenger, self._finished(score)][-self.rule.recent :]

    def _is_trial(self, number: int) -> bool:
        return number % self.rule.every == self.rule.every - 1

    def _is_remembered(self, number: int) -> bool:
        return self._block(number) >= self._block(self._number) - 2 * self.rule.recent

    def _block(self, number: int) -> int:
        return number // self.rule.every

    # Decisions.

    def _judge(self) -> Decision | None:
        """After a trial: the takeover."""
        first_block = self._block(self._challenger[0].number)
        champion = [window for window in self._champion if self._block(window.number) >= first_block]
        if min(len(self._challenger), len(champion)) < self.rule.least:
            return None
        self._share = share_not_worse(_scores(self._challenger), _scores(champion), self._seed, self._number)
        self._takeover_due = self._share >= self.rule.confidence
        return Decision.TAKE_OVER if self._takeover_due else None

    def _cut_where_behind(self) -> Decision | None:
        champion, part = self._recent_of_champion(), len(self._running) - 1
        if len(champion) < LEAST_TO_CUT:
            return None
        worst = min(champion, key=lambda window: window.running[part])
        if self._sum >= worst.running[part]:
            return None
        self._add_trial(min(self._sum + (worst.score - worst.running[part]), worst.score))
        self._on_trial = False
        self._trials_cut += 1
        return Decision.TRIAL_CUT

    def _recent_of_champion(self) -> list[Window]:
        return self._champion[max(len(self._champion) - self.rule.recent * (self.rule.every - 1), 0) :]

    def _forget_comparison(self) -> None:
        self._share, self._takeover_due = None, False

    # Hostile input.

    def _read_windows(self, state: dict[str, Any], whose: str) -> list[Window]:
        rule, listed, of_trials = self.rule, state[whose], whose == "challenger"
        longest = rule.recent if of_trials else (2 * rule.recent + 1) * (rule.every - 1)
        if not isinstance(listed, list) or len(listed) > longest:
            raise ValueError(f"the trials' {whose} is not a list of at most {longest} windows")
        windows = [_read_window(entry, whose, rule.window_steps * LARGEST_REWARD) for entry in listed]
        numbers = [window.number for window in windows]
        in_order = all(a < b for a, b in pairwise([*numbers, self._number]))
        if not in_order or not all(self._is_trial(n) == of_trials and self._is_remembered(n) for n in numbers):
            raise ValueError(f"the trials' {whose} has windows that cannot be its own, {quoted(numbers)}")
        return windows


def share_not_worse(challenger: Sequence[float], champion: Sequence[float], seed: int, window: int) -> float:
    """The share, 0 to 1, of RESAMPLES bootstrap draws of both lists in which mean(challenger) >= mean(champion)."""
    generator = np.random.default_rng([seed, window])
    centre = champion[0]  # where all scores are the same, all means are exactly 0: rounding decides nothing
    ours, theirs = (_resampled_means(np.array(scores) - centre, generator) for scores in (challenger, champion))
    return float(np.mean(ours >= theirs))


def _resampled_means(scores: npt.NDArray[np.float64], generator: np.random.Generator) -> npt.NDArray[np.float64]:
    """[RESAMPLES] means of as many scores as there are, drawn with replacement."""
    n = len(scores)
    draws = (generator.integers(n, size=(_RESAMPLES_AT_ONCE, n)) for _ in range(RESAMPLES // _RESAMPLES_AT_ONCE))
    return np.concatenate([scores[indices].mean(axis=1) for indices in draws])


def _scores(windows: Sequence[Window]) -> list[float]:
    return [window.score for window in windows]


def _summary(windows: Sequence[Window]) -> dict[str, Any]:
    scores = _scores(windows)
    return {"scores": scores, "mean": math.fsum(scores) / len(scores) if scores else None}


def _read_window(entry: object, whose: str, largest: float) -> Window:
    problem = f"a window of the trials' {whose} is {quoted(entry)}; expected a number and {PARTS} finite sums"
    if not isinstance(entry, list) or len(entry) != 2:
        raise ValueError(problem)
    number, running = entry
    if not _is_count(number) or not isinstance(running, list) or len(running) != PARTS:
        raise ValueError(problem)
    if not all(type(value) is float and abs(value) <= largest for value in running):
        raise ValueError(problem)
    return Window(number, tuple(running))


def _count(state: dict[str, Any], name: str) -> int:
    value: object = state[name]
    if not _is_count(value):
        raise ValueError(f"the trials' {name} is {quoted(value)}; expected an integer in [0, {LARGEST_COUNT}]")
    return value


def _is_count(value: object) -> TypeGuard[int]:
    return type(value) is int and 0 <= value <= LARGEST_COUNT
