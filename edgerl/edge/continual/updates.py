"""Updates of a learner's networks: as many as its transitions allow, in slices that fit into the time there is."""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Iterator

from edgerl.edge.continual.experience import Experience
from edgerl.edge.engine.arena import WHOLE_UPDATE, LearnerArena

SLICE_US = 50
"""About how long one slice of an update takes, or more on slow machines: after each, the clock is read."""

OVERHEAD = 5
"""A slice takes this many times as long as the shortest one, which is hardly more than the call itself: 2 µs on a
desktop, a hundred on the smallest boards."""

LEAST_SLICE_WORK, LARGEST_SLICE_WORK = 256.0, 1e12
"""Multiply-adds."""


class Pace:
    """How long slices should be on this machine, learnt from those that were run."""

    def __init__(self) -> None:
        self._work, self._longest_us, self._least_us = LEAST_SLICE_WORK, 0.0, math.inf

    def slices(self, budget_us: float) -> Iterator[int]:
        """The work of one slice after the other, each to be run at once, until the next one might take too long, as the
        longest of late did, but no less than half of the budget."""
        end = time.perf_counter_ns() + int(budget_us * 1000)
        while True:
            begin = time.perf_counter_ns()
            if end - begin < 1000 * min(max(self._longest_us, SLICE_US), budget_us / 2):
                return
            yield int(self._work)
            taken_us = (time.perf_counter_ns() - begin) / 1000
            self._longest_us = max(taken_us, self._longest_us * 0.9999)
            self._least_us = min(taken_us, self._least_us)
            aim = max(SLICE_US, OVERHEAD * self._least_us)  # where the call itself takes long, slices are longer
            if taken_us < aim / 2:
                self._work = min(self._work * 1.5, LARGEST_SLICE_WORK)
            elif taken_us > aim:
                self._work = max(self._work / 1.5, LEAST_SLICE_WORK)


class Updates:
    """One update after the other, each in slices.

    Attributes: `lock`, held while the networks are changed.
    """

    def __init__(self, arena: LearnerArena, experience: Experience, per_step: float) -> None:
        """per_step: updates that one transition allows."""
        self._arena, self._experience, self._per_step = arena, experience, per_step
        self._started = 0  # by this process, as are the transitions that allow them
        self._is_under_way = False
        self.lock = threading.RLock()

    @property
    def may_continue(self) -> bool:
        """Whether an update is under way, or may start: there is a batch, and transitions allow it."""
        return self._is_under_way or self.deferred > 0

    @property
    def deferred(self) -> int:
        """Updates that transitions allow, and for which there was no time yet."""
        if self._experience.transitions.size < self._arena.config.batch:
            return 0
        return int(self._experience.observed * self._per_step) - self._started

    def slice(self, work: int) -> bool:
        """About `work` multiply-adds; whether they completed an update."""
        if not self._is_under_way:
            with self._experience.transitions.lock:  # the batch is drawn and copied only here
                self._arena.step(self._experience.structure(), 1)
            self._started += 1
            self._is_under_way = True
        self._is_under_way = not self._arena.step(None, work)
        return not self._is_under_way

    def complete(self) -> bool:
        """What is left of the update that is under way; whether there was one."""
        return self._is_under_way and self.slice(WHOLE_UPDATE)
