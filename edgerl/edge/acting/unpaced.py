"""UnpacedLoop: observation → policy → action as fast as they go, with what a ControlLoop has but for its pace."""

from __future__ import annotations

from collections.abc import Callable

from edgerl.edge.acting.control import CAUSES, ControlStatistics, Histogram
from edgerl.policy.compact import Array


class UnpacedLoop:
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
        """Act for `seconds`, or until `stop()`."""
        self._reset()
        try:
            while not self._stopping and (seconds is None or self._elapsed() < seconds):
                observation, begin = self._read_observation(), self._clock()
                action = self._policy(observation)
                self._latency.add(self._clock() - begin)
                self._send_action(action)
                while self._learn is not None and not self._stopping and self._learn():
                    pass
        finally:
            self._end = self._clock()
            self._stopping = False
        return self.statistics()

    def stop(self) -> None:
        """End the run after the present cycle."""
        self._stopping = True

    def _elapsed(self) -> float:
        return ((self._end or self._clock()) - self._start) / 1e9

    def statistics(self) -> ControlStatistics:
        """Of the run that is under way, or of the last one."""
        latency = self._latency.spread()
        return ControlStatistics(
            rate_hz=0.0,
            seconds=self._elapsed(),
            cycles=latency.count,
            latency=latency,
            cold=Histogram().spread(),
            hot=Histogram().spread(),
            jitter=Histogram().spread(),
            missed_deadlines=0,
            skipped_ticks=0,
            fallbacks=dict.fromkeys(CAUSES, 0),
            last_error="",
        )
