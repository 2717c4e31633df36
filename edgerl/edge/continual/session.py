"""Session: a learner drives a robot at a fixed rate, learns in the time that is left, and keeps what it learnt.

    learner = Learner.load("learner.safetensors", state="state")
    robot = Robot("arm", Arm(), learner.n_observations, learner.n_actions)
    Session(learner, robot, Schedule(rate_hz=100)).run(3600, report=print)

Threads:

- The caller's drives the robot: observation ▸ act ▸ step ▸ observe, by ControlLoop's rules, and between two periods it
  learns, with `updates="idle"`.
- With `updates="thread"` another one learns: for a robot whose `step` waits, and where there is a core to spare.
- A keeper calls `sync` and `snapshot` when they are due. A disk that refuses is counted, and no reason to stop.
- A reporter makes and hands out status reports, so that a terminal that nobody reads holds up nothing. At the end it
  is waited for, but not for long.

All but the first have a lower priority than the first, where the system knows one for threads (Linux).
"""

from __future__ import annotations

import contextlib
import mmap
import os
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np

from edgerl.edge.acting.control import CAUSES, ControlLoop, ControlStatistics, Histogram
from edgerl.edge.acting.robot import Robot
from edgerl.edge.continual.learner import Learner
from edgerl.errors import ConfigError, OutputError
from edgerl.policy.compact import Array

Updates = Literal["idle", "thread"]
UPDATES: tuple[Updates, ...] = get_args(Updates)

LONGEST_INTERVAL = 1e7
"""Seconds."""

MARGIN_US = 300
"""Of an idle time, what learning leaves unused: the loop itself waits out the last 200 µs awake."""

LEAST_BUDGET_US = 50
"""A shorter idle time is none."""

LOOK_SECONDS = 0.5
"""How often the keeper looks whether a takeover is due."""

REST_SECONDS = 0.1
"""How long a learning thread sleeps, at most, before it looks for new transitions."""

REPORT_SECONDS = 2.0
"""How long a run waits, at its end, for a report that is being handed out."""

THREAD_BYTES = 16 << 20
"""What a thread may need to begin with, its stack of 8 MiB included; most of it is never touched."""

LOWER_PRIORITY = 10
"""Added to the niceness of the threads beside the one that drives."""

Report = Callable[[dict[str, Any]], object]


@dataclass(frozen=True)
class Schedule:
    """When things happen; raises ConfigError for a field out of its range."""

    rate_hz: float = 100.0  # 1e-6 to 1e6; 0: no pace at all, a step, the updates that it allows, the next step
    updates: Updates = "idle"  # in the idle time of a period, or in a thread of their own
    sync_seconds: float = 10.0  # from one sync to the next, above 0; likewise the two below
    snapshot_seconds: float = 600.0
    status_seconds: float = 10.0

    def __post_init__(self) -> None:
        if self.rate_hz and not 1e-6 <= self.rate_hz <= 1e6:
            raise ConfigError(f"the rate is {self.rate_hz:g} Hz; expected 1e-6 to 1e6, or 0 for no pace")
        if self.updates not in UPDATES:
            raise ConfigError(f"updates are to happen in {str(self.updates)[:40]!r}; expected {' or '.join(UPDATES)}")
        for what in ("sync", "snapshot", "status"):
            seconds = getattr(self, f"{what}_seconds")
            if not 0 < seconds <= LONGEST_INTERVAL:
                raise ConfigError(
                    f"the {what} interval is {seconds:g} s; expected above 0, at most {LONGEST_INTERVAL:g}"
                )


class Session:
    """One robot, driven and learnt from by one learner; the module says how."""

    def __init__(
        self,
        learner: Learner,
        robot: Robot,
        schedule: Schedule,
        *,
        explore: bool = True,
        seed: int = 0,
        clock: Callable[[], int] = time.monotonic_ns,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        """explore: act with the noise that training had. seed: of the first episode; each next one adds 1, those of
        earlier sessions counted. clock (ns, monotonic) and sleep (s) are there for tests."""
        self._learner, self._robot, self._schedule = learner, robot, schedule
        self._seed, self._clock = seed, clock
        self._arrived = threading.Event()  # a transition, of which a learning thread has not heard
        robot.observation_dtype = learner.observation_dtype
        self._loop = self._make_loop(_Acting(learner, explore), sleep)
        self._nowhere = np.full(learner.n_observations, np.nan, learner.observation_dtype)
        self._observation = self._nowhere
        self._return, self._steps = 0.0, 0
        self._last_episode: dict[str, float] | None = None
        self._start, self._seconds_before = clock(), learner.counters.seconds
        self._connections = learner.connections()
        self._marked = self._mark(learner.status())
        self._failure: BaseException | None = None

    def _make_loop(self, policy: Callable[[Array], Array], sleep: Callable[[float], None]) -> ControlLoop | _FreeLoop:
        learns = self._schedule.updates == "idle"
        if self._schedule.rate_hz == 0:
            learn = self._learner.update if learns else None
            return _FreeLoop(policy, self._observe, self._act, learn, self._clock)
        return ControlLoop(
            policy,
            self._observe,
            self._act,
            self._schedule.rate_hz,
            np.clip(np.float32(0), self._learner.action_low, self._learner.action_high),
            idle=self._learn_until if learns else None,
            clock=self._clock,
            sleep=sleep,
        )

    # ---------------------------------------------------------------------------------------------------- running

    def run(
        self,
        seconds: float | None = None,
        *,
        report: Report | None = None,
        at_rest: Callable[[], object] = lambda: None,
    ) -> dict[str, Any]:
        """Drive for `seconds`, or until `stop()`; the status at the end, with the updates per second of the whole run.

        A snapshot is taken at the end, also where an exception ends it. report: called with `status()` now and then, in
        a thread of its own. at_rest: called as soon as nothing drives the robot any more, before anything else is done.

        Raises ConfigError, EnvironmentError, and OutputError where the last snapshot fails.
        """
        self._failure = None
        began = self._mark(self._learner.status())
        with contextlib.ExitStack() as stack:
            if report is not None:
                stack.enter_context(self._beside("reports", partial(self._report_to, report), REPORT_SECONDS))
            stack.enter_context(_finally(self._snapshot))
            if self._learner.folder is not None:
                stack.enter_context(self._with_keeper())
            if self._schedule.updates == "thread":
                stack.enter_context(self._beside("updates", self._learn_beside))
            with _finally(at_rest):
                self._drive(seconds)
        if self._failure is not None:
            raise self._failure
        self._marked = began
        return self.status()

    def stop(self) -> None:
        """End the run after the present cycle; for another thread, a signal handler or a callback."""
        self._loop.stop()  # sets a flag: a signal handler must take no lock

    def _drive(self, seconds: float | None) -> None:
        self._start, self._seconds_before = self._clock(), self._learner.counters.seconds
        try:
            self._begin_episode()
            self._loop.run(seconds)
        finally:
            self._count_time()

    def _count_time(self) -> None:
        self._learner.counters.seconds = self._seconds_before + (self._clock() - self._start) / 1e9

    # -------------------------------------------------------------------------------------------------- the robot

    def _observe(self) -> Array:
        return self._observation

    def _act(self, action: Array) -> None:
        """Send what is to be sent, the policy's action or a fallback, and learn from what came of it."""
        before = self._observation
        self._observation, reward, terminated, truncated = self._robot.step(action)
        is_over = terminated or truncated
        if self._learner.observe(before, action, reward, self._observation, terminated, truncated):
            self._return += reward
        self._steps += 1
        self._arrived.set()
        self._count_time()
        if is_over:
            self._last_episode = {"return": self._return, "steps": self._steps}
            self._begin_episode()

    def _begin_episode(self) -> None:
        self._observation = self._nowhere  # where `reset` fails, what is sent next leads from nowhere
        self._return, self._steps = 0.0, 0
        self._observation = self._robot.reset(self._seed + self._learner.counters.episodes)

    # ------------------------------------------------------------------------------------------------- learning

    def _learn_until(self, left_ns: int) -> None:
        """Learn in the idle time of a period."""
        left = left_ns / 1000
        budget = max(left - MARGIN_US, left / 2)
        if budget >= LEAST_BUDGET_US:
            self._learner.update(budget_us=budget)

    def _learn_beside(self, ending: threading.Event) -> None:
        while not ending.is_set():
            self._arrived.clear()
            if not self._learner.update():
                self._arrived.wait(REST_SECONDS)

    # -------------------------------------------------------------------------------------------------- keeping

    @contextlib.contextmanager
    def _with_keeper(self) -> Iterator[None]:
        self._learner.has_keeper = True
        try:
            with self._beside("keeper", Keeper(self._learner, self._schedule).keep):
                yield
        finally:
            self._learner.has_keeper = False

    def _snapshot(self) -> None:
        if self._learner.folder is not None:
            self._learner.snapshot()

    @contextlib.contextmanager
    def _beside(
        self, name: str, work: Callable[[threading.Event], object], patience: float | None = None
    ) -> Iterator[None]:
        """Let `work` go on in a thread of lower priority; it returns once the event that it is given is set, or is left
        behind after so many seconds. What it raises before that ends the run."""
        ending, is_left = threading.Event(), threading.Event()

        def run() -> None:
            _step_back()
            try:
                work(ending)
            except BaseException as error:
                if not is_left.is_set():
                    self._failure = self._failure or error
                    self.stop()

        thread = threading.Thread(target=run, name=f"edgerl-{name}", daemon=True)
        _expect_room_for_a_thread()
        thread.start()
        try:
            yield
        finally:
            ending.set()
            self._arrived.set()
            thread.join(patience)
            is_left.set()

    # ------------------------------------------------------------------------------------------------- reporting

    def _report_to(self, report: Report, ending: threading.Event) -> None:
        while not ending.wait(self._schedule.status_seconds):
            report(self.status())

    def _mark(self, status: dict[str, Any]) -> tuple[int, int]:
        """(ns, updates) of this moment."""
        return self._clock(), int(status["updates"])

    def status(self) -> dict[str, Any]:
        """The learner's status, and the session's, as JSON; `updates_per_second` is since the status before."""
        status = self._learner.status()
        (before, updates_before), self._marked = self._marked, self._mark(status)
        now, updates = self._marked
        resident, peak = resident_memory()
        return {
            **status,
            "connections": self._connections,
            "updates_per_second": (updates - updates_before) * 1e9 / max(now - before, 1),
            "last_episode": self._last_episode,
            "control": _as_json(self._loop.statistics()),
            "resident_bytes": resident,
            "peak_resident_bytes": peak,
        }


class _Acting:
    """A learner as a loop's policy."""

    def __init__(self, learner: Learner, explore: bool) -> None:
        self.observation_dtype = learner.observation_dtype
        self._learner, self._explore = learner, explore

    def __call__(self, observation: Array) -> Array:
        return self._learner.act(observation, explore=self._explore)


class Keeper:
    """Calls a learner's `sync` and `snapshot` when they are due, and `snapshot` soon after a takeover is."""

    def __init__(self, learner: Learner, schedule: Schedule, clock: Callable[[], float] = time.monotonic) -> None:
        self._learner, self._schedule, self._clock = learner, schedule, clock
        self._takeover_from = clock()
        self._sync_at, self._snapshot_at = clock() + schedule.sync_seconds, clock() + schedule.snapshot_seconds

    def keep(self, ending: threading.Event) -> None:
        """Look again and again, until `ending` is set."""
        while not ending.wait(min(max(self._sync_at - self._clock(), 0), LOOK_SECONDS)):
            self.look()

    def look(self) -> None:
        """Do what is due now. Where the disk refuses, it is due again after as long as ever."""
        now = self._clock()
        is_taking_over = self._learner.takeover_is_due and now >= self._takeover_from
        if is_taking_over or now >= self._snapshot_at:
            with contextlib.suppress(OutputError):
                self._learner.snapshot()
            # A takeover is no reason for one snapshot after the other: each wears the flash.
            self._takeover_from = self._sync_at = self._clock() + self._schedule.sync_seconds
            self._snapshot_at = self._clock() + self._schedule.snapshot_seconds
        elif now >= self._sync_at:
            with contextlib.suppress(OutputError):
                self._learner.sync()
            self._sync_at = self._clock() + self._schedule.sync_seconds


class _FreeLoop:
    """A ControlLoop without a pace: after each step all the updates that it allows; nothing is ever late."""

    def __init__(
        self,
        policy: Callable[[Array], Array],
        read_observation: Callable[[], Array],
        send_action: Callable[[Array], object],
        learn: Callable[[], int] | None,
        clock: Callable[[], int],
    ) -> None:
        self._policy, self._read_observation, self._send_action = policy, read_observation, send_action
        self._learn, self._clock = learn, clock
        self._stopping = False
        self._reset()

    def _reset(self) -> None:
        self._start, self._end = self._clock(), 0
        self._latency = Histogram()

    def run(self, seconds: float | None = None) -> ControlStatistics:
        self._reset()
        try:
            while not self._stopping and (seconds is None or self._elapsed() < seconds):
                self._cycle()
        finally:
            self._end = self._clock()
            self._stopping = False
        return self.statistics()

    def stop(self) -> None:
        self._stopping = True

    def _cycle(self) -> None:
        observation, begin = self._read_observation(), self._clock()
        action = self._policy(observation)
        self._latency.add(self._clock() - begin)
        self._send_action(action)
        while self._learn is not None and not self._stopping and self._learn():
            pass

    def _elapsed(self) -> float:
        return ((self._end or self._clock()) - self._start) / 1e9

    def statistics(self) -> ControlStatistics:
        latency = self._latency.spread()
        return ControlStatistics(
            rate_hz=0.0,
            seconds=self._elapsed(),
            cycles=latency.count,
            latency=latency,
            jitter=Histogram().spread(),
            missed_deadlines=0,
            skipped_ticks=0,
            fallbacks=dict.fromkeys(CAUSES, 0),
            last_error="",
        )


def _as_json(statistics: ControlStatistics) -> dict[str, Any]:
    """What dataclasses.asdict makes of it, without the thousands of tuples that Python would keep: memory does
    not grow with the number of reports."""
    spreads = {name: dict(vars(getattr(statistics, name))) for name in ("latency", "jitter")}
    return {**vars(statistics), **spreads}


def resident_memory() -> tuple[int | None, int | None]:
    """(bytes of this process in memory now, the most there ever were); None where the system has no /proc."""
    try:
        lines = Path("/proc/self/status").read_text().splitlines()
    except OSError:
        return None, None
    fields = dict(line.split(":", 1) for line in lines)
    return _kibibytes(fields.get("VmRSS")), _kibibytes(fields.get("VmHWM"))


def _kibibytes(text: str | None) -> int | None:
    return None if text is None else int(text.split()[0]) * 1024


@contextlib.contextmanager
def _finally(action: Callable[[], object]) -> Iterator[None]:
    """Do it at the end, also where an exception ends it, which is then the one that explains."""
    try:
        yield
    except BaseException:
        with contextlib.suppress(Exception):
            action()
        raise
    action()


def _expect_room_for_a_thread() -> None:
    """Raise MemoryError where there is none: Python would wait for ever for a thread that could not begin."""
    try:
        mmap.mmap(-1, THREAD_BYTES, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS).close()
    except OSError as error:
        raise MemoryError(f"no room for the {THREAD_BYTES} bytes of another thread") from error


def _step_back() -> None:
    """Let this thread run where the one that drives does not."""
    if sys.platform == "linux":  # where each thread has a niceness of its own
        own = threading.get_native_id()
        with contextlib.suppress(OSError):
            os.setpriority(os.PRIO_PROCESS, own, os.getpriority(os.PRIO_PROCESS, own) + LOWER_PRIORITY)
