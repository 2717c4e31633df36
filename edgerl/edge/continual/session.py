"""Session: a learner drives a robot at a fixed rate, learns in the time that is left, and saves what it learnt.

    learner = Learner.load("learner.safetensors", state="state")
    robot = Robot("arm", Arm(), learner.n_observations, learner.n_actions)
    Session(learner, robot, Schedule(rate_hz=100)).run(3600, report=print)

Threads:

- The caller's drives the robot: observation ▸ act ▸ step ▸ observe, by ControlLoop's rules, and between two periods it
  learns, with `updates="idle"`.
- With `updates="thread"` another one learns: for a robot whose `step` waits, and where there is a core to spare.
- A keeper calls `sync` and `snapshot` when they are due. A disk that refuses is counted; it does not stop the session.
- A reporter makes and hands out status reports, so that a terminal that nobody reads holds up nothing. At the end
  the session waits for it, but not for long.

All but the first have a lower priority than the first, where the system knows one for threads (Linux).
"""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Literal, get_args

import numpy as np

from edgerl.edge.acting.control import ControlLoop
from edgerl.edge.acting.robot import Robot
from edgerl.edge.acting.unpaced import UnpacedLoop
from edgerl.edge.continual.companions import Companions
from edgerl.edge.continual.learner import Learner
from edgerl.edge.continual.memory import resident_memory
from edgerl.edge.continual.status import LearnerStatus, SessionStatus
from edgerl.errors import ConfigError, OutputError, quoted
from edgerl.policy.compact import Array

Updates = Literal["idle", "thread"]
UPDATES: tuple[Updates, ...] = get_args(Updates)

LONGEST_INTERVAL = 1e7
"""Seconds."""

MARGIN_US = 300
"""Of an idle time, what learning leaves unused: the loop itself waits out the last 200 µs awake."""

LEAST_BUDGET_US = 50
"""A shorter idle time is not used."""

LOOK_SECONDS = 0.5
"""How often the keeper checks whether a takeover is due."""

REST_SECONDS = 0.1
"""How long a learning thread sleeps, at most, before it checks for new transitions."""

REPORT_SECONDS = 2.0
"""How long a run waits, at its end, for a report that is being handed out."""

Report = Callable[[SessionStatus], object]


@dataclass(frozen=True)
class Schedule:
    """When things happen; raises ConfigError for a field out of its range."""

    rate_hz: float = 100.0  # in [1e-6, 1e6]; 0: no pace, a step and the updates that it allows, then the next step
    updates: Updates = "idle"  # in the idle time of a period, or in a thread of their own
    sync_seconds: float = 10.0  # from one sync to the next; above 0, as the two below
    snapshot_seconds: float = 600.0
    status_seconds: float = 10.0

    def __post_init__(self) -> None:
        if self.rate_hz and not 1e-6 <= self.rate_hz <= 1e6:
            raise ConfigError(f"the rate is {self.rate_hz:g} Hz; expected a number in [1e-6, 1e6], or 0 for no pace")
        if self.updates not in UPDATES:
            raise ConfigError(f"`updates` is {quoted(self.updates)}; expected {' or '.join(UPDATES)}")
        for what in ("sync", "snapshot", "status"):
            seconds = getattr(self, f"{what}_seconds")
            if not 0 < seconds <= LONGEST_INTERVAL:
                raise ConfigError(
                    f"the {what} interval is {seconds:g} s; expected a number in (0, {LONGEST_INTERVAL:g}]"
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
        self._learner, self._schedule, self._clock = learner, schedule, clock
        self._episodes = Episodes(learner, robot, seed)
        self._arrived = threading.Event()  # a transition that the learning thread has not seen
        self._loop = self._make_loop(LearnerPolicy(learner, explore), sleep)
        self._start, self._seconds_before = clock(), learner.counters.seconds
        self._connections = learner.connections()
        self._marked = self._mark(learner.status())

    def _make_loop(self, policy: Callable[[Array], Array], sleep: Callable[[float], None]) -> ControlLoop | UnpacedLoop:
        learns = self._schedule.updates == "idle"
        if self._schedule.rate_hz == 0:
            learn = self._learner.update if learns else None
            return UnpacedLoop(policy, self._episodes.observe, self._act, learn, self._clock)
        return ControlLoop(
            policy,
            self._episodes.observe,
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
    ) -> SessionStatus:
        """Drive for `seconds`, or until `stop()`; the status at the end, with the updates per second of the whole run.

        A snapshot is taken at the end, also where an exception ends it. report: called with `status()` now and then, in
        a thread of its own. at_rest: called as soon as nothing drives the robot any more, before anything is saved.

        Raises ConfigError, EnvironmentError, and OutputError where the last snapshot fails.
        """
        start, companions = self._mark(self._learner.status()), Companions(self.stop)
        with contextlib.ExitStack() as stack:
            if report is not None:
                report_to = partial(self._report_to, report)
                stack.enter_context(companions.beside("reports", report_to, patience=REPORT_SECONDS))
            if self._learner.folder is not None:
                stack.enter_context(_finally(self._learner.snapshot))
                stack.callback(setattr, self._learner, "has_keeper", False)
                self._learner.has_keeper = True
                stack.enter_context(companions.beside("keeper", Keeper(self._learner, self._schedule).keep))
            if self._schedule.updates == "thread":
                stack.enter_context(companions.beside("updates", self._learn_beside, wake=self._arrived.set))
            with _finally(at_rest):
                self._drive(seconds)
        companions.raise_failure()
        self._marked = start
        return self.status()

    def stop(self) -> None:
        """End the run after the present cycle; for another thread, a signal handler or a callback."""
        self._loop.stop()  # sets a flag: a signal handler must take no lock

    def _drive(self, seconds: float | None) -> None:
        self._start, self._seconds_before = self._clock(), self._learner.counters.seconds
        try:
            self._episodes.begin()
            self._loop.run(seconds)
        finally:
            self._count_time()

    def _count_time(self) -> None:
        self._learner.counters.seconds = self._seconds_before + (self._clock() - self._start) / 1e9

    # -------------------------------------------------------------------------------------- acting and learning

    def _act(self, action: Array) -> None:
        is_over = self._episodes.step(action)
        self._arrived.set()
        self._count_time()
        if is_over:
            self._episodes.begin()

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

    # ------------------------------------------------------------------------------------------------- reporting

    def _report_to(self, report: Report, ending: threading.Event) -> None:
        while not ending.wait(self._schedule.status_seconds):
            report(self.status())

    def _mark(self, status: LearnerStatus) -> tuple[int, int]:
        """(ns, updates) of this moment."""
        return self._clock(), int(status["updates"])

    def status(self) -> SessionStatus:
        """The learner's status and the session's, as plain data; `updates_per_second` is since the status before."""
        status = self._learner.status()
        (before, updates_before), self._marked = self._marked, self._mark(status)
        now, updates = self._marked
        statistics, (resident, peak) = self._loop.statistics(), resident_memory()
        spreads = {name: dict(vars(getattr(statistics, name))) for name in ("latency", "cold", "hot", "jitter")}
        return {
            **status,
            "connections": self._connections,
            "updates_per_second": (updates - updates_before) * 1e9 / max(now - before, 1),
            "last_episode": self._episodes.last,
            # What dataclasses.asdict makes of them, without the thousands of tuples that Python would keep: memory does
            # not grow with the number of reports.
            "control": {**vars(statistics), **spreads},
            "resident_bytes": resident,
            "peak_resident_bytes": peak,
        }


class LearnerPolicy:
    """A learner as a loop's policy."""

    def __init__(self, learner: Learner, explore: bool) -> None:
        self.observation_dtype = learner.observation_dtype
        self._learner, self._explore = learner, explore

    def __call__(self, observation: Array) -> Array:
        return self._learner.act(observation, explore=self._explore)


class Episodes:
    """A robot, step by step and episode after episode, and what its learner observes.

    Attributes: `last`, return and steps of the last episode that ended.
    """

    def __init__(self, learner: Learner, robot: Robot, seed: int) -> None:
        """seed: of the first episode that the learner ever had."""
        self._learner, self._robot, self._seed = learner, robot, seed
        robot.observation_dtype = learner.observation_dtype
        self._nowhere = np.full(learner.n_observations, np.nan, learner.observation_dtype)
        self._observation = self._nowhere
        self._return, self._steps = 0.0, 0
        self.last: dict[str, float] | None = None

    def begin(self) -> None:
        """The next episode."""
        self._observation = self._nowhere  # where `reset` fails, the next action has no observation
        self._return, self._steps = 0.0, 0
        self._observation = self._robot.reset(self._seed + self._learner.counters.episodes)

    def observe(self) -> Array:
        """Where the robot is."""
        return self._observation

    def step(self, action: Array) -> bool:
        """Send an action, the policy's or the fallback, and let the learner observe what came of it; whether it ended
        the episode."""
        before = self._observation
        self._observation, reward, terminated, truncated = self._robot.step(action)
        if self._learner.observe(before, action, reward, self._observation, terminated, truncated):
            self._return += reward
        self._steps += 1
        is_over = terminated or truncated
        if is_over:
            self.last = {"return": self._return, "steps": self._steps}
        return is_over


class Keeper:
    """Calls a learner's `sync` and `snapshot` when they are due, and `snapshot` soon after a takeover is."""

    def __init__(self, learner: Learner, schedule: Schedule, clock: Callable[[], float] = time.monotonic) -> None:
        self._learner, self._schedule, self._clock = learner, schedule, clock
        self._takeover_from = clock()
        self._sync_at, self._snapshot_at = clock() + schedule.sync_seconds, clock() + schedule.snapshot_seconds

    def keep(self, ending: threading.Event) -> None:
        """Check again and again, until `ending` is set."""
        while not ending.wait(min(max(self._sync_at - self._clock(), 0), LOOK_SECONDS)):
            self.look()

    def look(self) -> None:
        """Do what is due now. Where the disk refuses, it is due again after the usual time."""
        now = self._clock()
        is_taking_over = self._learner.takeover_is_due and now >= self._takeover_from
        if is_taking_over or now >= self._snapshot_at:
            with contextlib.suppress(OutputError):
                self._learner.snapshot()
            # A takeover must not cause one snapshot after the other: each wears the flash.
            self._takeover_from = self._sync_at = self._clock() + self._schedule.sync_seconds
            self._snapshot_at = self._clock() + self._schedule.snapshot_seconds
        elif now >= self._sync_at:
            with contextlib.suppress(OutputError):
                self._learner.sync()
            self._sync_at = self._clock() + self._schedule.sync_seconds


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
