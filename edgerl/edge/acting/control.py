"""ControlLoop: observation → policy → action at a fixed rate, with a fallback action and deadline statistics.

Ticks lie at start + k / rate, computed from k each time, so errors do not add up. One cycle belongs to a tick:

    wait for the tick ▸ read_observation ▸ policy ▸ send_action (the policy's action, or the fallback) ▸ idle

A wait ends awake, for the loop sleeps only until shortly before the tick. Then it rehearses: it calls the policy with
the last observations in turn, and puts its `restorable_state` back. After a sleep, weights and code are no longer in
the processor's caches, and fetching them takes many times as long as the action itself. The guard time from waking to
the tick is learnt: how late sleeps end, and how long a first rehearsal takes. It is at most a twentieth of a period. A
policy whose rehearsal does not fit is not rehearsed, nor is one without a `restorable_state`: only that says that a
call leaves nothing else behind (None, where it leaves nothing at all).

The action is due at the next tick. What is sent, and when:

- The policy answers in time: its action, at once.
- The observation is not finite, or not numbers: the fallback at once; the policy is not called.
- The policy raises, or answers with something not finite or of another length: the fallback at once.
- The policy answers late: its action is discarded, for it answers an observation that is more than a period old; the
  fallback is sent as soon as the policy returns. Until then nothing is sent: one thread cannot interrupt itself, and
  a second one that sends would race with it. A machine that must not keep its last command while the processor hangs
  needs a watchdog in its motor controller.
- After a late cycle, the tick that is due now runs at once with what is left of its period; ticks whose whole period
  has passed are skipped, never made up for in a burst.
- read_observation, send_action or idle raises, or Ctrl-C: the fallback is sent once more, as far as that succeeds, and
  the exception goes to the caller. A loop that ends after its time, or by `stop()`, sends nothing further: its caller
  is in control again.
- SIGTERM, which a service manager sends, ends a Python process without another word: let it call `stop()`, with
  `signal.signal(signal.SIGTERM, lambda *_: loop.stop())`, and send what the machine needs to rest after `run`.

`idle`, where there is one, is called after each cycle that leaves time, with the nanoseconds until the next tick or the
run's end: a learner can use them. Nothing interrupts it: when it overruns, the next cycle starts late, which its
jitter shows, and ticks that pass wholly are skipped; `stop()` counts once it has returned.

One loop in a process at a time: the garbage collector, which a loop holds still, is the whole process's.
"""

from __future__ import annotations

import contextlib
import gc
import itertools
import math
import time
from array import array
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, get_args

import numpy as np
import numpy.typing as npt

from edgerl.errors import ConfigError
from edgerl.policy.compact import Array
from edgerl.policy.contract import UNKNOWN, Contract, check_joints

Cause = Literal["observation_not_finite", "inference_failed", "action_not_finite", "missed_deadline"]
CAUSES: tuple[Cause, ...] = get_args(Cause)
"""Why a fallback action was sent."""

FIRST_LATENESS_NS = 200_000
"""How late a sleep may end, until that was learnt: Linux wakes a sleeper some 100 µs late, and Python has no
clock_nanosleep that could wake at an absolute time."""

GUARD_SHARE = 20
"""A loop is awake for at most this share of a period before its tick: 5 % of a core, which a board with one can spare.
"""

REHEARSED = 16
"""Observations: one alone would fetch only the weights of the units that it makes active."""

FORGETTING_LATENESS, FORGETTING_CALLS = 1024, 64
"""What was learnt of a largest duration falls by this share with each new one. Sleeps that end late are rare, and to be
remembered; a call that another program interrupted is to be forgotten."""

RATE_TOLERANCE = 0.01
"""Contracts are written with three digits."""

LONGEST_SLEEP_NS = 100_000_000
"""The longest sleep before a loop checks whether it was stopped."""

COLLECT_EVERY = 256
"""Cycles between garbage collections, each right after an action was sent. All older objects are frozen, so that one
looks at what these cycles made only; without any, reference cycles that a callback makes would fill the memory within
months."""


@dataclass(frozen=True)
class Spread:
    """How `count` durations are spread, in seconds; all 0 where there is none. Quantiles are at most 1.6 % too high."""

    count: int
    median: float
    p99: float
    p999: float
    maximum: float


@dataclass(frozen=True)
class ControlStatistics:
    """What a ControlLoop did; durations in seconds."""

    rate_hz: float
    seconds: float
    cycles: int
    latency: Spread  # observation read → action computed
    cold: Spread  # the same of the first rehearsal before each tick, after the sleep
    hot: Spread  # of those that follow it at once
    jitter: Spread  # tick → start of its cycle
    missed_deadlines: int  # cycles whose action was late for the next tick, whatever was sent
    skipped_ticks: int  # ticks that passed wholly while an earlier cycle ran
    fallbacks: Mapping[Cause, int]
    last_error: str  # of the policy; empty where it never raised


class ControlLoop:
    """Runs `policy` at `rate_hz` between `read_observation` and `send_action`; the module says what is sent when."""

    def __init__(
        self,
        policy: Callable[[Array], Array],
        read_observation: Callable[[], npt.ArrayLike],
        send_action: Callable[[Array], object],
        rate_hz: float,
        fallback_action: npt.ArrayLike,
        *,
        joint_names: Sequence[str] = (),
        idle: Callable[[int], object] | None = None,
        warm: bool = True,
        clock: Callable[[], int] = time.monotonic_ns,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        """The policy gets what was read in float32; one whose `observation_dtype` is float64, as it was read.

        `joint_names` are the robot's, in the order of its actions, to be compared with the policy's contract. `idle`
        gets the ns that a cycle left; `warm`: rehearse before each tick, where the policy can; `clock` (ns, monotonic)
        and `sleep` (s) are there for tests.

        Raises ConfigError, also where the policy's contract states another rate, to a hundredth, or other joints.
        """
        if not 1e-6 <= rate_hz <= 1e6:
            raise ConfigError(f"the rate is {rate_hz:g} Hz; expected a number in [1e-6, 1e6]")
        self._fallback = np.array(fallback_action, np.float32)
        if self._fallback.ndim != 1 or not np.isfinite(self._fallback).all():
            raise ConfigError(
                f"the fallback action is {str(fallback_action)[:60]}; expected a vector of finite numbers"
            )
        self._policy: Any = policy
        self._rehearses = warm and hasattr(policy, "restorable_state")
        _check_contract(policy, rate_hz, len(self._fallback), joint_names)
        is_wide = getattr(policy, "observation_dtype", np.float32) is np.float64
        self._dtype = None if is_wide else np.float32  # None: as it was read, so that the policy sees lost digits
        self._read_observation = read_observation
        self._send_action = send_action
        self._idle = idle
        self._rate_hz = float(rate_hz)
        self._clock = clock
        self._sleep = sleep
        self._longest_guard = int(1e9 / rate_hz) // GUARD_SHARE
        self._stopping = False
        self._reset(clock())

    def _reset(self, start: int) -> None:
        self._start = start
        self._end: int | None = None
        self._cycles = 0
        self._missed_deadlines = 0
        self._skipped_ticks = 0
        self._fallbacks: dict[Cause, int] = dict.fromkeys(CAUSES, 0)
        self._last_error = ""
        self._latency, self._cold, self._hot = Histogram(), Histogram(), Histogram()
        self._jitter = Histogram()
        self._lateness = Peak(min(FIRST_LATENESS_NS, self._longest_guard), FORGETTING_LATENESS)
        self._first_call = Peak(0, FORGETTING_CALLS)  # how long the first call after a wait takes
        self._next_call = Peak(0, FORGETTING_CALLS)  # and one that follows it
        self._recent: deque[Array] = deque(maxlen=REHEARSED)  # observations, the last one first
        self._is_cold = True

    def run(self, seconds: float | None = None) -> ControlStatistics:
        """Run for `seconds`, or until `stop()`; each run starts its statistics over. Raises ConfigError.

        A policy that has a `reset`, as recurrent ones do, is reset first; where an episode begins inside a run, whoever
        ends it calls that.
        """
        if seconds is not None and not 0 < seconds <= 1e9:
            raise ConfigError(f"`seconds` is {seconds:g}; expected a number in (0, 1e9]")
        n_ticks = math.inf if seconds is None else max(1, math.ceil(round(seconds * self._rate_hz, 6)))
        with _quiet_garbage_collector():
            self._reset(self._clock())
            getattr(self._policy, "reset", lambda: None)()
            try:
                self._run(n_ticks, math.inf if seconds is None else seconds)
            except BaseException:
                with contextlib.suppress(Exception):  # the first exception is the one that explains
                    self._send_action(self._fallback.copy())
                raise
            finally:
                self._end = self._clock()
                self._stopping = False  # not at the start: a stop() that came before run() counts
        return self.statistics()

    def stop(self) -> None:
        """End the run after the present cycle; for another thread, a signal handler or a callback."""
        self._stopping = True

    def statistics(self) -> ControlStatistics:
        """Of the present or the last run; cheap enough (some 50 µs) for a callback to call every second."""
        end = self._clock() if self._end is None else self._end
        return ControlStatistics(
            rate_hz=self._rate_hz,
            seconds=(end - self._start) / 1e9,
            cycles=self._cycles,
            latency=self._latency.spread(),
            cold=self._cold.spread(),
            hot=self._hot.spread(),
            jitter=self._jitter.spread(),
            missed_deadlines=self._missed_deadlines,
            skipped_ticks=self._skipped_ticks,
            fallbacks=dict(self._fallbacks),
            last_error=self._last_error,
        )

    def _run(self, n_ticks: float, seconds: float) -> None:
        tick, end = 0, self._start + seconds * 1e9
        while tick < n_ticks:
            self._sleep_until(self._time_of(tick) - self._guard())
            self._rehearse_until(self._time_of(tick))
            self._stay_awake_until(self._time_of(tick))
            if self._stopping:  # set in the wait as well: nothing is sent after it
                return
            self._cycle(tick)
            if self._cycles % COLLECT_EVERY == 0:
                gc.collect()
                gc.freeze()  # what callbacks keep, such as a log, is not traversed again and again
            idle_until = min(self._time_of(tick + 1), end)
            if self._idle is not None and not self._stopping and (left := int(idle_until - self._clock())) > 0:
                self._idle(left)
            due = int((self._clock() - self._start) * self._rate_hz / 1e9)
            following = max(tick + 1, due)
            self._skipped_ticks += int(min(following, n_ticks)) - tick - 1
            tick = following
        # The last action gets its period, as far as `seconds` allows.
        last = min(self._time_of(tick), end)
        self._sleep_until(last - self._guard())
        self._stay_awake_until(last)

    def _time_of(self, tick: int) -> int:
        """When a tick is due, ns. Exact to a nanosecond for the first hundred days, to some after that."""
        return self._start + int(tick * 1e9 / self._rate_hz)

    def _guard(self) -> int:
        """How long before a tick the loop is to be awake, ns."""
        rehearsal = self._first_call.value if self._rehearses else 0
        return min(self._lateness.value + 2 * rehearsal, self._longest_guard)  # 2: then those that are hot

    def _sleep_until(self, moment: float) -> None:
        """Sleep, until a moment or `stop()`, and learn how late a sleep ends."""
        while (left := moment - (begin := self._clock())) > 0 and not self._stopping:
            duration = min(int(left) + 1, LONGEST_SLEEP_NS)
            self._sleep(duration / 1e9)
            self._lateness.add(min(self._clock() - begin - duration, self._longest_guard))

    def _rehearse_until(self, moment: int) -> None:
        """Rehearse as long as another time fits: the first finds the caches cold, the others hot."""
        n = len(self._recent) if self._rehearses else 0
        for turn in itertools.count():
            takes = self._first_call if self._is_cold else self._next_call
            if n == 0 or self._stopping or self._clock() + takes.value >= moment:
                return
            state = self._policy.restorable_state
            try:
                self._answer(self._recent[turn % n], self._cold if self._is_cold else self._hot)
            finally:  # also where Ctrl-C ends it
                self._policy.restorable_state = state

    def _stay_awake_until(self, moment: float) -> None:
        """Wait for a moment, or for `stop()`: no sleep is as exact."""
        while self._clock() < moment and not self._stopping:
            pass

    def _cycle(self, tick: int) -> None:
        self._jitter.add(self._clock() - self._time_of(tick))
        action, cause = self._decide()
        if self._clock() > self._time_of(tick + 1):
            self._missed_deadlines += 1
            cause = cause or "missed_deadline"
        if cause is not None:
            self._fallbacks[cause] += 1
            action = self._fallback.copy()
        self._send_action(action)
        self._cycles += 1
        self._is_cold = True

    def _decide(self) -> tuple[Array, Cause | None]:
        """The policy's action, or why it cannot be sent."""
        read = self._read_observation()
        try:
            with np.errstate(over="ignore"):
                observation = np.asarray(read, self._dtype)
            is_finite = np.isfinite(observation).all()
        except (TypeError, ValueError):  # a ragged list, a text: no number is finite there
            return self._fallback, "observation_not_finite"
        if not is_finite:
            return self._fallback, "observation_not_finite"
        self._recent.appendleft(observation.copy())  # what was read may be a buffer that is filled again
        return self._answer(observation, self._latency)

    @np.errstate(over="ignore", invalid="ignore")
    def _answer(self, observation: Array, latency: Histogram) -> tuple[Array, Cause | None]:
        """The policy's action, or why it cannot be sent. What overflows becomes inf or NaN, which the checks find."""
        begin = self._clock()
        try:
            action = np.asarray(self._policy(observation), np.float32)
        except Exception as error:
            self._last_error = f"{type(error).__name__}: {error}"[:200]
            return self._fallback, "inference_failed"
        finally:
            took = self._clock() - begin
            latency.add(took)
            (self._first_call if self._is_cold else self._next_call).add(took)
            self._is_cold = False
        if action.shape != self._fallback.shape:
            self._last_error = f"the action has shape {action.shape}; expected {self._fallback.shape}"
            return self._fallback, "inference_failed"
        if not np.isfinite(action).all():
            return self._fallback, "action_not_finite"
        return action, None


def _check_contract(
    policy: Callable[[Array], Array], rate_hz: float, n_fallback: int, joint_names: Sequence[str]
) -> None:
    """Raise ConfigError where a loop would run a policy otherwise than what that says of itself."""
    contract: Contract = getattr(policy, "contract", UNKNOWN)
    expected, n_actions = contract.rate_hz, getattr(policy, "n_actions", n_fallback)
    if expected is not None and not math.isclose(rate_hz, expected, rel_tol=RATE_TOLERANCE):
        raise ConfigError(
            f"the rate is {rate_hz:g} Hz, and the policy's contract says {expected:g} Hz (step_dt "
            f"{contract.step_dt[0]:g} s); expected that `rate`"
        )
    if n_actions != n_fallback:
        raise ConfigError(f"the fallback action has {n_fallback} numbers; expected {n_actions}, like the policy's")
    if joint_names:
        check_joints(contract, joint_names, "the robot")


class Peak:
    """The largest of the latest durations, ns: it falls by a share with each that is smaller."""

    def __init__(self, value: int, share: int) -> None:
        self.value, self._share = value, share

    def add(self, nanoseconds: int) -> None:
        """Take one duration into account."""
        self.value = max(nanoseconds, self.value - self.value // self._share)


class Histogram:
    """Durations in ns, counted in bins of equal ratio: its size never grows, a quantile is exact to 1.6 %.

    Below 64 a bin is one wide; above, each octave has 64 bins.
    """

    _BITS = 6

    def __init__(self) -> None:
        self._counts = array("Q", bytes(8 * (64 - self._BITS + 1 << self._BITS)))
        self._count = 0
        self._maximum = 0

    def add(self, nanoseconds: int) -> None:
        """Count one duration; a negative one, as a clock that was set back may give, counts as 0."""
        value = min(max(nanoseconds, 0), (1 << 63) - 1)
        shift = max(value.bit_length() - self._BITS - 1, 0)
        self._counts[(shift << self._BITS) + (value >> shift)] += 1
        self._count += 1
        self._maximum = max(self._maximum, value)

    def quantile(self, share: float) -> int:
        """The upper end of the bin, ns, that holds the given share of all durations, in rank order."""
        rank = max(1, math.ceil(share * self._count))
        index = int(np.frombuffer(self._counts, np.int64).cumsum().searchsorted(rank))
        shift = max((index >> self._BITS) - 1, 0)
        upper = ((index - (shift << self._BITS) + 1) << shift) - 1
        return min(upper, self._maximum)  # which is 0 where nothing was counted

    def spread(self) -> Spread:
        """Median, 99th and 99.9th percentile and maximum, in seconds."""
        median, p99, p999 = (self.quantile(share) / 1e9 for share in (0.5, 0.99, 0.999))
        return Spread(self._count, median, p99, p999, self._maximum / 1e9)


@contextlib.contextmanager
def _quiet_garbage_collector() -> Iterator[None]:
    """Collect, freeze what is left and switch automatic collection off; restore all of it at the end."""
    was_enabled, was_frozen = gc.isenabled(), gc.get_freeze_count() > 0
    gc.collect()
    gc.freeze()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()
        if not was_frozen:  # it cannot be told apart from what the application froze: all stays frozen
            gc.unfreeze()
