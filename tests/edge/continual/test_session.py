"""Session: who is driven by what, what is learnt from it, and what is kept, on a clock that the tests own where time
matters."""

from __future__ import annotations

import contextlib
import json
import math
import os
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from edgerl.edge.acting.robot import Robot
from edgerl.edge.continual import memory as memory_module
from edgerl.edge.continual import session as session_module
from edgerl.edge.continual.learner import Learner
from edgerl.edge.continual.memory import resident_memory
from edgerl.edge.continual.session import Keeper, Schedule, Session
from edgerl.errors import ConfigError, EdgerlError, EnvironmentError, OutputError
from tests.edge import learners
from tests.edge.acting.test_control import PERIOD, FakeClock
from tests.edge.test_import import HEAVY, loaded_by

FALLBACK = [0.0, 0.0]  # zero is inside of the bounds
PATIENCE = 300  # s that a test waits for another thread


class Arm:
    """A robot with episodes of five steps, whose reward is its step's number; each step can be made to misbehave."""

    def __init__(self) -> None:
        self.seeds: list[int] = []
        self.sent: list[list[float]] = []
        self.on_step: dict[int, Callable[[], Any]] = {}
        self.on_reset: dict[int, Callable[[], Any]] = {}
        self.age = 0

    def reset(self, seed: int) -> Any:
        self.seeds.append(seed)
        self.age = 0
        self.on_reset.get(len(self.seeds), lambda: None)()
        return [float(seed), 0.0, 0.0]

    def step(self, action: npt.NDArray[np.float32]) -> Any:
        self.sent.append(action.tolist())
        self.age += 1
        observation = self.on_step.get(len(self.sent), lambda: None)() or [float(self.age), 1.0, 2.0]
        return observation, float(self.age), False, self.age == 5, {}


class Spy:
    """A learner's `observe`, and what it was given."""

    def __init__(self, learner: Learner) -> None:
        self.observe, self.seen = learner.observe, []
        learner.observe = self  # type: ignore[method-assign]

    def __call__(self, *transition: Any) -> bool:
        self.seen.append([np.asarray(part).tolist() for part in transition])
        return self.observe(*transition)


@contextlib.contextmanager
def learning(*, state: str | None = "state", **options: Any) -> Iterator[Learner]:
    if not Path("learner.safetensors").exists():
        learners.write_bundle()
    with contextlib.closing(Learner.load("learner.safetensors", state=state, **options)) as learner:
        yield learner


def made(learner: Learner, arm: Arm, **options: Any) -> Session:
    """With any field of the schedule among the options."""
    robot = Robot("arm", arm, learner.n_observations, learner.n_actions)
    times = {field.name: options.pop(field.name) for field in fields(Schedule) if field.name in options}
    return Session(learner, robot, Schedule(**times), **options)


def paced(learner: Learner, arm: Arm, clock: FakeClock | None = None, **options: Any) -> Session:
    clock = clock or FakeClock()
    return made(learner, arm, clock=clock, sleep=clock.sleep, **options)


def wait_for(condition: Callable[[], bool]) -> None:
    end = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < end, "nothing happens"
        time.sleep(1e-3)


# What is driven, and what is learnt from it.


def test_a_paced_session_acts_at_every_tick_and_learns_in_between() -> None:
    arm = Arm()
    with learning() as learner:
        spy = Spy(learner)
        status = paced(learner, arm).run(2)
        assert (status["control"]["cycles"], status["control"]["missed_deadlines"], status["steps"]) == (200, 0, 200)
        assert len(arm.sent) == 200
        assert 0 < status["updates"] <= 200
    assert [action for _, action, *_ in spy.seen] == arm.sent
    first, second, *_, fifth, sixth = spy.seen[:6]
    assert first[0] == [0, 0, 0]
    assert first[2:] == [1.0, [1, 1, 2], False, False]
    assert second[0] == [1, 1, 2]
    assert fifth[2:] == [5.0, [5, 1, 2], False, True]
    assert sixth[0] == [1, 0, 0]  # of the next episode's reset


@pytest.mark.parametrize("rate", [0, 100])
def test_a_robot_whose_numbers_need_float64_is_driven_like_one_beside_the_origin(rate: float) -> None:
    offset = np.array([5_800_000.0, 0.0, -4e12])
    seen = []
    for name, shift in (("plain", None), ("shifting", offset)):
        learners.write_bundle(offset=shift)
        arm, far = Arm(), np.zeros(3) if shift is None else shift
        for step in range(1, 50):  # quarters, which float32 has not out there
            arm.on_step[step] = lambda step=step, far=far: np.add(far, [step % 7 / 4, 0.5, -step % 5 / 4]).tolist()
        arm.reset = lambda seed, far=far: np.add(far, [0.25, 0, seed]).tolist()  # type: ignore[assignment, method-assign]
        with learning(state=name) as learner:
            session = paced(learner, arm, rate_hz=rate) if rate else made(learner, arm, rate_hz=0)
            arm.on_step[50] = lambda session=session, far=far: (session.stop(), far.tolist())[1]
            status = session.run()
            seen.append((arm.sent, status["steps"], learner.counters.refused_observations, learner.experience.observed))
            assert not any(status["control"]["fallbacks"].values())
    assert seen[0] == seen[1]
    assert seen[0][1:] == (50, 0, 50)


def test_every_episode_has_the_next_seed_also_after_a_restart() -> None:
    arm = Arm()
    for _ in range(2):
        with learning() as learner:
            paced(learner, arm, seed=40).run(0.12)
    assert arm.seeds == [40, 41, 42, 42, 43, 44]


def test_without_a_pace_each_step_is_followed_by_the_updates_that_it_allows() -> None:
    arm = Arm()
    with learning(updates_per_step=0.5) as learner:
        made_updates = []
        arm.on_step = {step: lambda: made_updates.append(learner.status()["updates"]) for step in range(1, 42)}
        session = made(learner, arm, rate_hz=0)
        arm.on_step[41] = session.stop
        status = session.run()
        assert learner.counters.steps == 41
    assert made_updates == [0] * 8 + [step // 2 for step in range(8, 40)]  # a batch has 8 transitions
    assert status["control"]["rate_hz"] == 0
    assert status["control"]["latency"]["count"] == 41


@pytest.mark.parametrize("rate", [0, 100])
def test_a_thread_learns_while_the_robot_waits(rate: float) -> None:
    arm = Arm()
    with learning() as learner:
        session = made(learner, arm, rate_hz=rate, updates="thread")

        def wait() -> None:
            wait_for(lambda: learner.status()["updates"] >= 29)
            session.stop()

        arm.on_step[30] = wait
        status = session.run()
    assert status["steps"] == 30
    assert status["updates"] in (29, 30)


@pytest.mark.parametrize("explore", [True, False])
def test_noise_is_added_where_it_is_wanted(explore: bool) -> None:
    arm = Arm()
    with learning() as learner:
        expected = learner.act([0.0, 0.0, 0.0], explore=explore).tolist()
        other = learner.act([0.0, 0.0, 0.0], explore=not explore).tolist()
        paced(learner, arm, explore=explore).run(0.01)
    assert arm.sent == [expected]
    assert expected != other


def test_where_the_fallback_was_sent_it_is_learnt_from() -> None:
    arm, clock = Arm(), FakeClock()
    with learning() as learner:
        act, spy = learner.act, Spy(learner)
        delays = iter([0, 2 * PERIOD, 0, 0])

        def late(*arguments: Any, **options: Any) -> Any:
            clock.work(next(delays))
            return act(*arguments, **options)

        learner.act = late  # type: ignore[method-assign]
        status = paced(learner, arm, clock).run(0.05)
    assert status["control"]["fallbacks"]["missed_deadline"] == 1
    assert (status["control"]["missed_deadlines"], status["control"]["skipped_ticks"]) == (1, 1)
    assert [action == FALLBACK for action in arm.sent] == [False, True, False, False]
    assert [action for _, action, *_ in spy.seen] == arm.sent


def test_a_sensor_that_drops_out_is_not_learnt_from_and_the_fallback_is_sent() -> None:
    arm = Arm()
    arm.on_step[2] = lambda: [math.nan, 0.0, 0.0]
    with learning() as learner:
        status = paced(learner, arm).run(0.05)
    assert [action == FALLBACK for action in arm.sent] == [False, False, True, False, False]
    assert status["refused_transitions"] == 2  # into it, and out of it
    assert status["last_episode"] == {"return": 1 + 4 + 5, "steps": 5}


@pytest.mark.parametrize("rate", [0, 100])
def test_a_session_can_be_stopped_and_run_again(rate: float) -> None:
    arm = Arm()
    with learning() as learner:
        session = paced(learner, arm, rate_hz=rate)
        arm.on_step[7] = session.stop
        session.run()
        assert len(arm.sent) == 7
        session.stop()
        session.run()
        assert len(arm.sent) == 7  # a stop that came before counts
        arm.on_step[9] = session.stop
        session.run()
        assert len(arm.sent) == 9


# What goes wrong.


def test_a_robot_that_fails_ends_the_session_with_a_snapshot() -> None:
    def fail() -> None:
        raise RuntimeError("motor 3 is hot")

    for rate, sent in ((100, 4), (0, 3)):  # a loop with a pace sends its fallback once more
        arm = Arm()
        arm.on_step[3] = fail
        with learning() as learner:
            before = learner.counters.snapshots
            with pytest.raises(
                EnvironmentError, match=r"^arm failed at step 3 \(seed \d+\) \(RuntimeError: motor 3 is hot\)$"
            ):
                paced(learner, arm, rate_hz=rate).run(1)
            assert learner.counters.snapshots == before + 1
        assert len(arm.sent) == sent


def test_nothing_leads_from_one_episode_into_the_next_where_a_reset_fails() -> None:
    def fail() -> None:
        raise RuntimeError("still falling")

    arm = Arm()
    arm.on_reset[2] = fail
    with learning() as learner:
        spy = Spy(learner)
        with pytest.raises(
            EnvironmentError, match=r"^arm failed at step 0 \(seed \d+\) \(RuntimeError: still falling\)$"
        ):
            paced(learner, arm).run(1)
        assert learner.counters.refused_transitions == 1
    assert arm.sent[5:] == [FALLBACK]
    assert np.isnan(spy.seen[5][0]).all()


@pytest.mark.parametrize("part", ["keeper", "updates", "reports"])
def test_what_a_thread_raises_ends_the_session(part: str) -> None:
    def fail(*_: Any, **__: Any) -> None:
        raise ZeroDivisionError(part)

    with learning() as learner:
        options: dict[str, Any] = {"updates": "thread"} if part == "updates" else {}
        if part == "updates":
            learner.update = fail  # type: ignore[assignment]
        if part == "keeper":
            learner.sync = fail  # type: ignore[method-assign]
        session = made(learner, Arm(), sync_seconds=0.01, status_seconds=0.01, **options)
        with pytest.raises(ZeroDivisionError, match=part):
            session.run(PATIENCE, report=fail if part == "reports" else None)
        assert not learner.has_keeper


def test_a_last_snapshot_that_fails_is_told_unless_something_else_went_wrong_first() -> None:
    def full() -> int:
        raise OutputError("cannot write snapshot: No space left on device")

    arm = Arm()
    with learning() as learner:
        learner.snapshot = full  # type: ignore[method-assign]
        with pytest.raises(OutputError, match="No space left"):
            paced(learner, arm).run(0.02)
        arm.on_step[3] = lambda: "nonsense"
        with pytest.raises(EnvironmentError, match="arm returned a str as observation"):
            paced(learner, arm).run(1)


@pytest.mark.parametrize(
    ("options", "problem"),
    [
        ({"rate_hz": -1}, r"the rate is -1 Hz; expected a number in \[1e-6, 1e6\], or 0 for no pace"),
        ({"rate_hz": math.nan}, "the rate is nan Hz; expected a number in"),
        ({"updates": "never"}, "`updates` is 'never'; expected idle or thread"),
        ({"sync_seconds": 0}, "the sync interval is 0 s; expected a number in"),
        ({"snapshot_seconds": math.nan}, "the snapshot interval is nan s; expected a number in"),
        ({"status_seconds": 1e8}, r"the status interval is 1e\+08 s; expected a number in \(0, 1e\+07\]"),
    ],
)
def test_schedules_that_are_refused(options: dict[str, Any], problem: str) -> None:
    with pytest.raises(ConfigError, match=f"^{problem}"):
        Schedule(**options)


# What is kept.


class Kept:
    """Stands for a learner that is to be kept, and records how."""

    def __init__(self) -> None:
        self.calls: list[str] = []
        self.takeover_is_due = False
        self.error: EdgerlError | None = None

    def sync(self) -> None:
        self._call("sync")

    def snapshot(self) -> None:
        self._call("snapshot")
        self.takeover_is_due = False

    def _call(self, name: str) -> None:
        self.calls.append(name)
        if self.error is not None:
            raise self.error


def looks(keeper: Keeper, kept: Kept, clock: list[float], until: float, events: dict[float, Any]) -> list[Any]:
    """(time, call) of what a keeper does that looks each second."""
    done: list[Any] = []
    while clock[0] < until:
        clock[0] += 1
        for name, value in events.get(clock[0], {}).items():
            setattr(kept, name, value)
        keeper.look()
        done += [(clock[0], call) for call in kept.calls]
        kept.calls.clear()
    return done


def keep(until: float, events: dict[float, Any] | None = None) -> list[Any]:
    clock, kept = [0.0], Kept()
    schedule = Schedule(sync_seconds=10, snapshot_seconds=25)
    keeper = Keeper(kept, schedule, clock=lambda: clock[0])  # type: ignore[arg-type]
    return looks(keeper, kept, clock, until, events or {})


def test_a_keeper_syncs_and_takes_snapshots_when_they_are_due() -> None:
    assert keep(60) == [
        *((10, "sync"), (20, "sync"), (25, "snapshot")),
        *((35, "sync"), (45, "sync"), (50, "snapshot"), (60, "sync")),
    ]


def test_a_keeper_takes_a_snapshot_soon_after_a_takeover_is_due_but_not_one_after_the_other() -> None:
    due = {"takeover_is_due": True}
    assert keep(30, {3: due, 5: due}) == [(3, "snapshot"), (13, "snapshot"), (23, "sync")]


def test_a_disk_that_refuses_does_not_stop_a_keeper() -> None:
    failing, well = {"error": OutputError("full"), "takeover_is_due": True}, {"error": None}
    done = keep(40, {3: failing, 20: well})
    assert done == [(3, "snapshot"), (13, "snapshot"), (23, "snapshot"), (33, "sync")]


def test_a_session_keeps_its_learner_while_it_runs() -> None:
    arm = Arm()
    with learning() as learner:
        sync, syncs, had_keeper = learner.sync, [], []
        learner.sync = lambda: (syncs.append(1), sync())[0]  # type: ignore
        session = made(learner, arm, rate_hz=0, sync_seconds=0.01, snapshot_seconds=0.05)
        before = learner.counters.snapshots

        def wait() -> None:
            had_keeper.append(learner.has_keeper)
            wait_for(lambda: learner.counters.snapshots >= before + 3 and len(syncs) >= 3)
            session.stop()

        arm.on_step[20] = wait
        session.run()
        assert had_keeper == [True]
        assert not learner.has_keeper
        assert learner.counters.snapshots >= before + 4  # with the last one
    with learning() as learner:
        assert (learner.is_new, learner.counters.steps) == (False, 20)


def test_a_takeover_happens_while_the_session_runs() -> None:
    arm = Arm()
    with learning() as learner:
        session = made(learner, arm, rate_hz=0, sync_seconds=0.01)

        def become_due() -> None:
            learner.history.takeover_is_due = True
            wait_for(lambda: not learner.takeover_is_due)
            session.stop()

        arm.on_step[20] = become_due
        status = session.run()
    assert status["trials"]["takeovers"] == 1
    assert status["champion"] > 1


def test_the_time_of_operation_adds_up() -> None:
    clock = FakeClock()
    for total in (1.5, 3.0):
        with learning() as learner:
            paced(learner, Arm(), clock).run(1.5)
            assert learner.counters.seconds == pytest.approx(total, abs=1e-3)
    with learning() as learner:
        assert learner.counters.seconds == pytest.approx(3.0, abs=1e-3)


def test_a_learner_without_a_state_folder_runs_as_well() -> None:
    with learning(state=None) as learner:
        assert paced(learner, Arm()).run(0.1)["steps"] == 10
        assert not learner.has_keeper
    assert sorted(os.listdir()) == ["learner.safetensors"]


# What is said about it.


def test_reports_come_at_an_interval_from_a_thread_of_low_priority() -> None:
    arm, reports = Arm(), []
    own = os.getpriority(os.PRIO_PROCESS, threading.get_native_id())

    def report(status: dict[str, Any]) -> None:
        reports.append((os.getpriority(os.PRIO_PROCESS, threading.get_native_id()), status))

    with learning() as learner:
        session = made(learner, arm, rate_hz=0, status_seconds=0.01)

        def wait() -> None:
            wait_for(lambda: len(reports) >= 3)
            session.stop()

        arm.on_step[20] = wait
        last = session.run(report=report)
    assert os.getpriority(os.PRIO_PROCESS, threading.get_native_id()) == own
    for priority, status in [*reports, (min(own + 10, 19), last)]:
        assert priority == (min(own + 10, 19) if sys.platform == "linux" else own)
        assert json.loads(json.dumps(status, allow_nan=False)).keys() == last.keys()
        assert status["connections"] == learner.connections()
    assert last["last_episode"] == {"return": 1 + 2 + 3 + 4 + 5, "steps": 5}
    assert last["updates"] == 19  # the last step ended it
    assert {"trials", "replay", "memory", "disk", "snapshots", "champion", "replaced_blocks"} <= last.keys()


def test_updates_per_second_are_since_the_status_before_and_at_the_end_of_the_whole_run() -> None:
    clock = FakeClock()
    with learning() as learner:
        session = paced(learner, Arm(), clock)
        first = session.run(2)
        assert first["updates_per_second"] == pytest.approx(first["updates"] / 2, rel=1e-2)
        clock.work(10**9)
        assert session.status()["updates_per_second"] == 0
        for _ in range(30):
            learner.observe([0, 0, 0], [0, 0], 1.0, [0, 0, 0])
        made_now = 0
        while learner.update():
            made_now += 1
        clock.work(10**9)
        assert session.status()["updates_per_second"] == pytest.approx(made_now, rel=1e-2)


def test_a_reader_of_reports_that_hangs_holds_up_nothing_but_the_end() -> None:
    arm, release = Arm(), threading.Event()
    with learning() as learner:
        session = made(learner, arm, rate_hz=0, sync_seconds=0.01, snapshot_seconds=0.02, status_seconds=1e-3)

        def wait() -> None:
            wait_for(lambda: learner.counters.snapshots >= 4)
            release.set()
            session.stop()

        arm.on_step[200] = wait
        session.run(report=lambda _: release.wait(PATIENCE))
    assert len(arm.sent) == 200


def test_a_reader_of_reports_that_hangs_for_good_is_left_behind(monkeypatch: pytest.MonkeyPatch) -> None:
    """With everything kept; and what it raises later on ends no other run."""
    monkeypatch.setattr(session_module, "REPORT_SECONDS", 0.05)
    arm, hanging, release = Arm(), threading.Event(), threading.Event()

    def report(_: object) -> None:
        hanging.set()
        release.wait(PATIENCE)
        raise OSError("gone")

    with learning() as learner:
        session = made(learner, arm, rate_hz=0, status_seconds=1e-3)
        arm.on_step[200] = lambda: hanging.wait(PATIENCE) and session.stop()
        session.run(report=report)
        assert len(arm.sent) == 200
        assert learner.counters.snapshots == 2
        release.set()
        wait_for(lambda: "edgerl-reports" not in {thread.name for thread in threading.enumerate()})
        arm.on_step[300] = session.stop
        session.run()
        assert len(arm.sent) == 300


def test_the_robot_rests_before_anything_is_kept() -> None:
    with learning() as learner:
        resting: list[int] = []
        arm = Arm()
        session = made(learner, arm, rate_hz=0)
        arm.on_step[20] = session.stop
        session.run(at_rest=lambda: resting.append(learner.counters.snapshots))
        assert (resting, learner.counters.snapshots) == ([1], 2)


def test_a_robot_that_cannot_rest_is_an_error_but_no_other_is_hidden_by_it() -> None:
    def fail() -> None:
        raise EnvironmentError("it hangs in the air")

    with learning() as learner:
        arm = Arm()
        session = made(learner, arm, rate_hz=0)
        arm.on_step[20] = session.stop
        with pytest.raises(EnvironmentError, match=r"^it hangs in the air$"):
            session.run(at_rest=fail)
        assert learner.counters.snapshots == 2
        arm.on_step[30] = lambda: 1 / 0
        with pytest.raises(EnvironmentError, match="division by zero"):
            session.run(at_rest=fail)
        assert learner.counters.snapshots == 3


def test_memory_of_the_process() -> None:
    resident, peak = resident_memory()
    assert resident is not None
    assert peak is not None
    assert 10 << 20 < resident <= peak
    held = np.ones(64 << 20, np.uint8)
    assert (resident_memory()[0] or 0) > resident + (32 << 20)
    del held


def test_a_system_without_proc_tells_no_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    class Absent:
        def __init__(self, *_: Any) -> None:
            pass

        def read_text(self) -> str:
            raise FileNotFoundError

    monkeypatch.setattr(memory_module, "Path", Absent)
    assert resident_memory() == (None, None)


def test_a_session_needs_numpy_and_safetensors_alone() -> None:
    assert not loaded_by("import edgerl.edge.continual.session") & (HEAVY | {"pandas"})
