"""Run all runs of a study, on any pool, until each is finished or the sweep is stopped."""

from __future__ import annotations

import contextlib
import fcntl
import heapq
import os
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Protocol

from edgerl.errors import CheckFailed, Interrupted, OutputError
from edgerl.files.atomic import write_atomically
from edgerl.run_folder import CONFIG
from edgerl.signals import StopRequests
from edgerl.studies.grid import PlannedRun
from edgerl.studies.runs import Progress, inspect, live, prepare
from edgerl.studies.study import RECORD, Study, to_record, with_earlier
from edgerl.studies.worker import Outcome

RESTARTS = 3
"""How often a run that was killed goes on from its checkpoint, within one sweep."""

LOCK = ".sweep.lock"
_POLL_SECONDS = 0.2
_REPORT_SECONDS = 1.0

State = Literal["waiting", "running", "finished", "stopped", "failed"]


class Pool(Protocol):
    """Where runs are executed."""

    capacity: int  # runs that may be started at once

    @property
    def running(self) -> int: ...

    def start(self, name: str, folder: Path, environment: str) -> None: ...

    def poll(self) -> list[tuple[str, Outcome]]: ...

    def stop(self) -> None: ...


@dataclass(frozen=True)
class RunStatus:
    """One run, for a display."""

    name: str
    state: State
    step: int  # of its last evaluation, or where it is over
    steps: int
    evaluation_return: float | None  # of its last evaluation
    seconds_left: float | None  # None while unknown
    message: str  # why it failed, or was started again


@dataclass(frozen=True)
class SweepStatus:
    """The whole sweep, for a display."""

    runs: tuple[RunStatus, ...]
    seconds: float  # since its start
    seconds_left: float | None

    def count(self, state: State) -> int:
        """Runs in that state."""
        return sum(run.state == state for run in self.runs)


Report = Callable[[SweepStatus], None]


@contextlib.contextmanager
def open_study(study: Study, runs: Sequence[PlannedRun], folder: Path) -> Iterator[dict[str, Progress]]:
    """Lock the study's folder for this sweep and record the study in it; yields how far each run is, by name.

    Nothing is written before every existing run folder is known to be the study's own. Raises OutputError, ConfigError,
    FileFormatError.
    """
    with_earlier(study, folder)  # refuses another study's folder
    progress = {run.name: inspect(folder / run.name, run) for run in runs}
    try:
        folder.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(folder / LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
    except OSError as error:
        raise OutputError(f"cannot make {folder}: {error.strerror}; choose another `out`") from error
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            raise OutputError(f"another sweep is running in {folder}; wait for it, or choose another `out`") from error
        record = to_record(with_earlier(study, folder))  # read again: another sweep may just have ended
        write_atomically(folder / RECORD, record.encode())
        yield progress
    finally:
        os.close(descriptor)


class Sweep:
    """The runs of a study in one folder, and the pool that runs them."""

    def __init__(
        self, runs: Sequence[PlannedRun], folder: Path, progress: Mapping[str, Progress], pool: Pool, cores: int
    ) -> None:
        """progress: how far each run is, from `open_study`. cores: runs at the same time, for the time left."""
        self._runs = {run.name: run for run in runs}
        self._folder, self._pool, self._cores = folder, pool, cores
        self._states: dict[str, State] = {
            name: "finished" if progress[name].stage == "finished" else "waiting" for name in self._runs
        }
        self._messages = dict.fromkeys(self._runs, "")
        self._restarts = dict.fromkeys(self._runs, 0)
        self._live = {name: live(folder / name, run.config) for name, run in self._runs.items()}
        self._started = time.monotonic()

    def run(self, report: Report, requests: StopRequests) -> SweepStatus:
        """Run what is not finished. Raises Interrupted after a stop, with every run saved; CheckFailed where runs
        failed, once all others are finished."""
        waiting = deque(name for name, state in self._states.items() if state == "waiting")
        n_requests, reported = 0, 0.0
        while self._pool.running or (waiting and not n_requests):
            while waiting and not n_requests and self._pool.running < self._pool.capacity:
                self._start(waiting.popleft())
            for name, outcome in self._pool.poll():
                if self._restarts_after(name, outcome, is_stopping=n_requests > 0):
                    waiting.appendleft(name)
            if requests.count > n_requests:
                n_requests = requests.count
                self._pool.stop()
            if time.monotonic() - reported >= _REPORT_SECONDS:
                reported = time.monotonic()
                report(self._refreshed())
            time.sleep(_POLL_SECONDS)
        status = self._refreshed()
        report(status)
        if n_requests and status.count("finished") + status.count("failed") < len(status.runs):
            raise Interrupted("stopped; the same command goes on from every run's last checkpoint", requests.signal)
        if failed := [run for run in status.runs if run.state == "failed"]:
            raise CheckFailed(
                f"{len(failed)} of {len(status.runs)} runs failed; the first, {failed[0].name}: {failed[0].message}"
            )
        return status

    def _start(self, name: str) -> None:
        folder = self._folder / name
        if not (folder / CONFIG).exists():
            prepare(folder, self._runs[name])
        self._pool.start(name, folder, self._runs[name].config.environment)
        self._states[name] = "running"

    def _restarts_after(self, name: str, outcome: Outcome, *, is_stopping: bool) -> bool:
        """Note how a run ended; whether to start it again."""
        again = outcome.ending in ("killed", "stopped") and not is_stopping and self._restarts[name] < RESTARTS
        self._messages[name] = "" if outcome.ending == "stopped" and is_stopping else outcome.message
        if again:
            self._restarts[name] += 1
            self._messages[name] = f"{outcome.message or outcome.ending}; started again"
        states: dict[str, State] = {"finished": "finished", "stopped": "stopped", "failed": "failed"}
        self._states[name] = "waiting" if again else states.get(outcome.ending, "stopped" if is_stopping else "failed")
        return again

    def _refreshed(self) -> SweepStatus:
        for name, state in self._states.items():
            if state == "running" or (state == "finished" and self._live[name].step < self._steps(name)):
                self._live[name] = live(self._folder / name, self._runs[name].config)
        paces = self._paces()
        left = {name: self._seconds_left(name, paces) for name in self._runs}
        known = {name: seconds for name, seconds in left.items() if seconds is not None}
        running = sorted(seconds for name, seconds in known.items() if self._states[name] == "running")
        waiting = [seconds for name, seconds in known.items() if self._states[name] == "waiting"]
        return SweepStatus(
            tuple(self._run_status(name, seconds) for name, seconds in left.items()),
            time.monotonic() - self._started,
            makespan([*running, *waiting], self._cores) if len(known) == len(left) else None,
        )

    def _steps(self, name: str) -> int:
        return self._runs[name].config.schedule.steps

    def _run_status(self, name: str, seconds_left: float | None) -> RunStatus:
        latest = self._live[name]
        return RunStatus(
            name=name,
            state=self._states[name],
            step=latest.step,
            steps=self._steps(name),
            evaluation_return=latest.evaluation_return,
            seconds_left=seconds_left,
            message=self._messages[name],
        )

    def _paces(self) -> dict[Any, float]:
        """Seconds per step, where known: the mean of each group of runs, and under None of all."""
        known: dict[Any, list[float]] = {}
        for name, run in self._runs.items():
            if (pace := self._live[name].seconds_per_step) is not None:
                known.setdefault(run.group, []).append(pace)
                known.setdefault(None, []).append(pace)
        return {group: sum(paces) / len(paces) for group, paces in known.items()}

    def _seconds_left(self, name: str, paces: Mapping[Any, float]) -> float | None:
        """By the run's own pace; before it has one, by its group's, or else by that of all."""
        if self._states[name] in ("finished", "failed", "stopped"):
            return 0.0
        own, group = self._live[name].seconds_per_step, self._runs[name].group
        pace = paces.get(group, paces.get(None)) if own is None else own
        return None if pace is None else pace * (self._steps(name) - self._live[name].step)


def makespan(seconds: Sequence[float], cores: int) -> float:
    """How long runs of these durations take in this order, each on the core that is free first."""
    free = [0.0] * max(1, cores)
    for duration in seconds:
        heapq.heappush(free, heapq.heappop(free) + duration)
    return max(free)
