"""ControlLoop on a clock that the tests own: when each action is sent, and which."""

from __future__ import annotations

import dataclasses
import gc
import math
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from edgerl.edge import ControlLoop, ControlStatistics
from edgerl.edge.acting.control import Histogram, Spread
from edgerl.errors import ConfigError

Array = npt.NDArray[Any]

FALLBACK = np.array([9.0, -9.0], np.float32)
PERIOD = 10_000_000  # ns, at 100 Hz
READING = 1_000  # ns that each look at the clock takes


class FakeClock:
    """Time that passes only when someone looks, sleeps or works."""

    def __init__(self, oversleeps: int = 0) -> None:
        self.now = 5_000_000_000_000
        self.oversleeps = oversleeps

    def __call__(self) -> int:
        self.now += READING
        return self.now

    def sleep(self, seconds: float) -> None:
        assert seconds > 0
        self.now += round(seconds * 1e9) + self.oversleeps

    def work(self, nanoseconds: int) -> None:
        self.now += nanoseconds


class Robot:
    """Records what was sent and when; each part can be made to misbehave in one cycle."""

    def __init__(self, clock: FakeClock, inference: int = 100_000) -> None:
        self.clock = clock
        self.inference = inference  # ns
        self.sent: list[tuple[int, Array]] = []
        self.reads = 0
        self.calls = 0
        self.on_read: dict[int, Callable[[], Any]] = {}
        self.on_call: dict[int, Callable[[], Any]] = {}
        self.on_send: dict[int, Callable[[], Any]] = {}

    def read(self) -> Any:
        self.reads += 1
        return self.on_read.get(self.reads - 1, lambda: [0.0, 1.0, 2.0])()

    def policy(self, observation: Array) -> Any:
        assert observation.dtype == np.float32
        self.calls += 1
        self.clock.work(self.inference)
        return self.on_call.get(self.calls - 1, lambda: np.array([self.calls - 1, 0.5], np.float32))()

    def send(self, action: Array) -> None:
        self.sent.append((self.clock.now, action))
        self.on_send.get(len(self.sent) - 1, lambda: None)()

    def loop(self, rate_hz: float = 100.0, idle: Callable[[int], object] | None = None) -> ControlLoop:
        return ControlLoop(
            self.policy, self.read, self.send, rate_hz, FALLBACK, idle=idle, clock=self.clock, sleep=self.clock.sleep
        )

    def fallbacks(self) -> list[int]:
        """Which of the sent actions were the fallback."""
        return [index for index, (_, action) in enumerate(self.sent) if np.array_equal(action, FALLBACK)]


@pytest.fixture
def robot() -> Robot:
    return Robot(FakeClock())


def later(robot: Robot, nanoseconds: int, then: Any = None) -> Callable[[], Any]:
    def work() -> Any:
        robot.clock.work(nanoseconds)
        return np.zeros(2, np.float32) if then is None else then

    return work


def raising(error: BaseException) -> Callable[[], Any]:
    def fail() -> Any:
        raise error

    return fail


def test_every_tick_gets_its_action(robot: Robot) -> None:
    statistics = robot.loop().run(1.0)
    assert statistics.cycles == len(robot.sent) == 100
    assert [action[0] for _, action in robot.sent] == list(range(100))
    assert (statistics.missed_deadlines, statistics.skipped_ticks) == (0, 0)
    assert set(statistics.fallbacks.values()) == {0}
    assert statistics.seconds == pytest.approx(1.0, abs=1e-4)


@pytest.mark.parametrize("rate_hz", [100.0, 300.0, 7.0, 333.3])
def test_ticks_do_not_drift(rate_hz: float) -> None:
    clock = FakeClock(oversleeps=30_000)
    robot = Robot(clock)
    start = clock.now
    robot.loop(rate_hz).run(1000 / rate_hz)
    moments = np.array([moment for moment, _ in robot.sent])
    ideal = start + np.arange(1000) * 1e9 / rate_hz + robot.inference
    assert len(moments) == 1000
    assert np.ptp(moments - ideal) < 30_000  # constant lateness within a few looks at the clock, no slope
    assert abs(moments - ideal).max() < 50_000


def test_sleep_ends_before_the_tick_and_the_rest_is_waited_awake() -> None:
    clock = FakeClock(oversleeps=150_000)  # as Linux does; less than a loop assumes at first
    robot = Robot(clock)
    assert robot.loop().run(1.0).jitter.maximum < 10e-6
    learnt = Robot(FakeClock(oversleeps=400_000)).loop().run(1.0).jitter
    assert learnt.median < 10e-6
    assert learnt.maximum == pytest.approx(200e-6, rel=0.05)  # once
    late = Robot(FakeClock(oversleeps=700_000)).loop().run(1.0).jitter
    assert late.median == pytest.approx(200e-6, rel=0.05)  # beyond a twentieth of a period


class Rehearsing(Robot):
    """Whose policy counts its calls, as recurrent ones do, and can be put back; `calls` is that count."""

    def __init__(self, clock: FakeClock, inference: int = 50_000) -> None:
        super().__init__(clock, inference)
        self.slept, self.seen = 0, []

    @property
    def restorable_state(self) -> int:
        return self.calls

    @restorable_state.setter
    def restorable_state(self, kept: int) -> None:
        self.calls = kept

    def __call__(self, observation: Array) -> Any:
        self.seen.append(observation[0])
        return self.policy(observation)

    def read(self) -> Any:
        super().read()
        return [float(self.reads), 1.0, 2.0]

    def sleep(self, seconds: float) -> None:
        self.slept += round(seconds * 1e9)
        self.clock.sleep(seconds)

    def rehearsing(self, rate_hz: float = 100.0, *, warm: bool = True) -> ControlLoop:
        return ControlLoop(self, self.read, self.send, rate_hz, FALLBACK, warm=warm, clock=self.clock, sleep=self.sleep)


def test_actions_are_rehearsed_before_each_tick_and_nothing_of_it_stays() -> None:
    robot = Rehearsing(FakeClock(oversleeps=80_000))
    statistics = robot.rehearsing().run(1.0)
    assert [action[0] for _, action in robot.sent] == list(range(100))  # the count of calls, rehearsals put back
    assert statistics.latency.count == 100
    assert statistics.cold.count == 99  # one for each tick but the first, before which nothing was observed
    assert statistics.hot.count > 99
    assert len(robot.seen) == 100 + statistics.cold.count + statistics.hot.count
    assert statistics.jitter.maximum < 10e-6
    assert robot.slept + 100 * (80_000 + 50_000) > 0.95 * 1e9  # awake for a twentieth at most, acting aside


def test_a_rehearsal_begins_with_the_last_observation_and_goes_through_those_before_it() -> None:
    robot = Rehearsing(FakeClock(), inference=10_000)
    robot.rehearsing().run(0.05)
    last = robot.seen.index(5.0)  # the observation of the last tick; before it come that tick's rehearsals
    begin = robot.seen.index(4.0) + 1
    assert robot.seen[begin : begin + 6] == [4.0, 3.0, 2.0, 1.0, 4.0, 3.0]
    assert robot.seen[last + 1 :] == []


def test_without_warmth_or_a_state_that_can_be_restored_nothing_is_rehearsed(robot: Robot) -> None:
    cold = Rehearsing(FakeClock())
    for statistics in (cold.rehearsing(warm=False).run(0.1), robot.loop().run(0.1)):
        assert statistics.cold == statistics.hot == Spread(0, 0.0, 0.0, 0.0, 0.0)
    assert len(cold.seen) == robot.calls == 10


def test_what_does_not_fit_before_a_tick_is_not_rehearsed() -> None:
    robot = Rehearsing(FakeClock(), inference=600_000)  # more than a twentieth of a period
    statistics = robot.rehearsing().run(1.0)
    assert (statistics.cold.count, len(robot.seen)) == (0, 100)
    assert statistics.jitter.maximum < 10e-6


class Refilling(Rehearsing):
    """Reads into one buffer, which between ticks holds anything."""

    buffer = np.zeros(3, np.float32)

    def read(self) -> Any:
        self.buffer[:] = super().read()
        return self.buffer

    def send(self, action: Array) -> None:
        super().send(action)
        self.buffer[:] = np.nan


def test_a_robot_that_fills_one_buffer_again_and_again_is_rehearsed_with_what_it_read() -> None:
    robot = Refilling(FakeClock(), inference=10_000)
    robot.rehearsing().run(0.05)
    assert set(robot.seen) == {1.0, 2.0, 3.0, 4.0, 5.0}


def test_a_call_that_took_long_once_is_rehearsed_again_later() -> None:
    robot = Rehearsing(FakeClock())
    robot.on_call[0] = later(robot, 2_000_000)
    statistics = robot.rehearsing().run(3.0)
    assert 100 < statistics.cold.count < 299
    assert statistics.jitter.maximum < 10e-6


def test_a_rehearsal_that_fails_sends_no_fallback() -> None:
    robot = Rehearsing(FakeClock())
    robot.on_read = {}
    fails = iter([False, True])  # the first action, and its first rehearsal

    def fail_once() -> Any:
        if next(fails, False):
            raise RuntimeError("in rehearsal")
        return np.zeros(2, np.float32)

    robot.on_call = dict.fromkeys(range(100), fail_once)
    statistics = robot.rehearsing().run(0.1)
    assert robot.fallbacks() == []
    assert statistics.last_error == "RuntimeError: in rehearsal"


def test_a_stop_ends_a_rehearsal() -> None:
    robot = Rehearsing(FakeClock())
    loop = robot.rehearsing()
    robot.on_call = {1: lambda: loop.stop() or np.zeros(2, np.float32)}
    assert loop.run(1.0).cycles == 1
    assert len(robot.seen) == 2


def test_a_late_action_is_discarded_for_the_fallback(robot: Robot) -> None:
    robot.on_call[3] = later(robot, int(1.2 * PERIOD))
    statistics = robot.loop().run(0.1)
    assert robot.fallbacks() == [3]
    assert statistics.fallbacks["missed_deadline"] == statistics.missed_deadlines == 1
    # It goes out as soon as the policy returns; the tick that is due then runs at once, none is skipped.
    start = robot.sent[0][0]
    assert robot.sent[3][0] - start == pytest.approx(4.2 * PERIOD, abs=0.02 * PERIOD)
    assert robot.sent[4][0] - start == pytest.approx(4.2 * PERIOD, abs=0.05 * PERIOD)
    assert robot.sent[5][0] - start == pytest.approx(5.0 * PERIOD, abs=0.02 * PERIOD)
    assert (statistics.cycles, statistics.skipped_ticks) == (10, 0)


def test_ticks_that_passed_wholly_are_skipped_not_made_up_for(robot: Robot) -> None:
    robot.on_call[3] = later(robot, int(3.5 * PERIOD))  # from tick 3 to 6.5: ticks 4 and 5 passed, 6 is due
    statistics = robot.loop().run(0.1)
    assert (statistics.cycles, statistics.skipped_ticks, statistics.missed_deadlines) == (8, 2, 1)
    start = robot.sent[0][0]
    assert robot.sent[4][0] - start == pytest.approx(6.5 * PERIOD, abs=0.05 * PERIOD)
    assert robot.sent[5][0] - start == pytest.approx(7 * PERIOD, abs=0.02 * PERIOD)
    assert statistics.jitter.maximum == pytest.approx(0.5 * PERIOD / 1e9, rel=0.05)


def test_a_policy_that_is_always_late_only_ever_sends_the_fallback(robot: Robot) -> None:
    robot.inference = int(1.5 * PERIOD)
    statistics = robot.loop().run(0.3)
    assert robot.fallbacks() == list(range(len(robot.sent)))
    assert statistics.missed_deadlines == statistics.cycles
    assert statistics.cycles + statistics.skipped_ticks == 30


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf, 1e300])
def test_an_observation_that_is_not_finite_never_reaches_the_policy(robot: Robot, value: float) -> None:
    robot.on_read[2] = lambda: [0.0, value, 0.0]
    statistics = robot.loop().run(0.05)
    assert robot.fallbacks() == [2]
    assert robot.calls == 4
    assert statistics.fallbacks["observation_not_finite"] == 1
    assert statistics.latency.count == 4


def test_a_failed_inference_sends_the_fallback_and_is_named(robot: Robot) -> None:
    robot.on_call[1] = raising(RuntimeError("no memory"))
    statistics = robot.loop().run(0.05)
    assert robot.fallbacks() == [1]
    assert statistics.fallbacks["inference_failed"] == 1
    assert statistics.last_error == "RuntimeError: no memory"


@pytest.mark.parametrize("answer", [np.zeros(3), np.float32(0), [[0.0, 0.0]], None, "left"])
def test_an_action_of_another_shape_is_a_failed_inference(robot: Robot, answer: Any) -> None:
    robot.on_call[1] = lambda: answer
    statistics = robot.loop().run(0.05)
    assert robot.fallbacks() == [1]
    assert statistics.fallbacks["inference_failed"] == 1


@pytest.mark.parametrize("value", [math.nan, math.inf, 1e300])
def test_an_action_that_is_not_finite_is_not_sent(robot: Robot, value: float) -> None:
    robot.on_call[4] = lambda: np.array([0.0, value])
    statistics = robot.loop().run(0.05)
    assert robot.fallbacks() == [4]
    assert statistics.fallbacks["action_not_finite"] == 1


def test_a_fallback_has_one_cause_and_a_deadline_counts_whatever_was_sent(robot: Robot) -> None:
    robot.on_call[1] = later(robot, int(1.2 * PERIOD), then=np.array([math.nan, 0]))
    statistics = robot.loop().run(0.05)
    assert statistics.fallbacks["action_not_finite"] == 1
    assert statistics.fallbacks["missed_deadline"] == 0
    assert statistics.missed_deadlines == 1


def test_the_fallback_cannot_be_changed_by_who_receives_it(robot: Robot) -> None:
    for cycle in (1, 2):
        robot.on_call[cycle] = raising(ValueError())
    robot.on_send[1] = lambda: robot.sent[1][1].fill(0)
    robot.loop().run(0.05)
    assert np.array_equal(robot.sent[2][1], FALLBACK)


def test_latency_is_that_of_the_policy_alone(robot: Robot) -> None:
    robot.on_call[7] = later(robot, 2_000_000)
    statistics = robot.loop().run(0.5)
    assert statistics.latency.median == pytest.approx(100e-6, rel=0.03)
    assert statistics.latency.maximum == pytest.approx(2.1e-3, rel=0.01)
    assert statistics.latency.count == 50


@pytest.mark.parametrize("error", [OSError("sensor"), KeyboardInterrupt("signal")])
def test_where_a_sensor_fails_the_fallback_is_sent_last(robot: Robot, error: BaseException) -> None:
    robot.on_read[3] = raising(error)
    loop = robot.loop()
    with pytest.raises(type(error), match=str(error)):
        loop.run(1.0)
    assert robot.fallbacks() == [3]
    assert loop.statistics().cycles == 3


def test_where_the_actuator_fails_its_own_error_is_reported(robot: Robot) -> None:
    robot.on_send[2] = raising(OSError("bus off"))
    robot.on_send[3] = raising(OSError("bus still off"))
    with pytest.raises(OSError, match="bus off"):
        robot.loop().run(1.0)
    assert robot.fallbacks() == [3]


def test_stop_ends_the_run_after_the_cycle(robot: Robot) -> None:
    loop = robot.loop()
    robot.on_send[4] = loop.stop
    assert loop.run().cycles == 5
    assert robot.fallbacks() == []


def test_a_stop_before_the_run_counts_once(robot: Robot) -> None:
    loop = robot.loop()
    loop.stop()
    assert loop.run().cycles == 0
    assert loop.run(0.05).cycles == 5


def test_a_second_run_begins_its_statistics_anew(robot: Robot) -> None:
    loop = robot.loop()
    robot.on_call[0] = raising(ValueError("once"))
    assert loop.run(0.1).fallbacks["inference_failed"] == 1
    again = loop.run(0.1)
    assert (again.cycles, again.fallbacks["inference_failed"], again.last_error) == (10, 0, "")


def test_statistics_are_frozen(robot: Robot) -> None:
    with pytest.raises(dataclasses.FrozenInstanceError, match="cannot assign"):
        robot.loop().run(0.05).cycles = 0  # type: ignore[misc]


@pytest.mark.parametrize("enabled", [True, False])
@pytest.mark.parametrize("fails", [True, False])
def test_the_garbage_collector_is_left_as_found(robot: Robot, enabled: bool, fails: bool) -> None:
    seen = []
    robot.on_send[1] = lambda: seen.append((gc.isenabled(), gc.get_freeze_count() > 0))
    if fails:
        robot.on_send[2] = raising(OSError("stop here"))
    gc.unfreeze()  # what tests/conftest.py froze
    was_enabled = gc.isenabled()
    (gc.enable if enabled else gc.disable)()
    try:
        try:
            robot.loop().run(0.05)
        except OSError:
            assert fails
        assert seen == [(False, True)]
        assert gc.isenabled() == enabled
        assert gc.get_freeze_count() == 0
    finally:
        (gc.enable if was_enabled else gc.disable)()


def test_cycles_of_references_do_not_pile_up(robot: Robot) -> None:
    class Node:
        alive = 0

        def __init__(self) -> None:
            self.me = self
            Node.alive += 1

        def __del__(self) -> None:
            Node.alive -= 1

    largest = []

    def litter() -> list[float]:
        Node()
        largest.append(Node.alive)
        return [0.0]

    ControlLoop(robot.policy, litter, robot.send, 100.0, FALLBACK, clock=robot.clock, sleep=robot.clock.sleep).run(20)
    assert max(largest) <= 256 + 1


@pytest.mark.parametrize("rate", [0, -1, math.nan, math.inf, 1e7])
def test_an_impossible_rate_is_refused(robot: Robot, rate: float) -> None:
    with pytest.raises(ConfigError, match=r"the rate is .* Hz; expected a number in "):
        robot.loop(rate)


@pytest.mark.parametrize("seconds", [0, -1, math.nan, math.inf])
def test_an_impossible_duration_is_refused(robot: Robot, seconds: float) -> None:
    with pytest.raises(ConfigError, match=r"^`seconds` is .*; expected a number in "):
        robot.loop().run(seconds)


@pytest.mark.parametrize("fallback", [[math.nan], 0.0, [[0.0]]])
def test_an_impossible_fallback_is_refused(robot: Robot, fallback: Any) -> None:
    with pytest.raises(ConfigError, match=r"the fallback action is .*; expected a vector of finite numbers"):
        ControlLoop(robot.policy, robot.read, robot.send, 100.0, fallback)


def test_a_histogram_agrees_with_sorting() -> None:
    values = np.random.default_rng(0).lognormal(10, 3, 20_000).astype(np.int64)
    histogram = Histogram()
    for value in values.tolist():
        histogram.add(value)
    for share in (0.001, 0.1, 0.5, 0.99, 0.999, 1.0):
        exact = int(np.sort(values)[math.ceil(share * len(values)) - 1])
        assert exact <= histogram.quantile(share) <= exact * (1 + 1 / 64)
    assert histogram.spread().maximum == values.max() / 1e9


def test_a_histogram_takes_every_number_without_growing() -> None:
    histogram = Histogram()
    assert histogram.spread() == Spread(0, 0.0, 0.0, 0.0, 0.0)
    size = len(histogram._counts)
    for value in (-1, 0, 1, 63, 64, 65, 127, 128, (1 << 62) - 1, 1 << 62, (1 << 63) - 1, 1 << 80):
        histogram.add(value)
    assert len(histogram._counts) == size
    assert histogram.quantile(1.0) == (1 << 63) - 1
    assert histogram.quantile(0.25) == 1


def test_in_real_time(robot: Robot) -> None:
    begin = time.monotonic()
    loop = ControlLoop(lambda _: np.zeros(2, np.float32), lambda: np.zeros(3), robot.send, 200.0, FALLBACK)
    statistics = loop.run(0.2)
    assert time.monotonic() - begin >= 0.2
    assert statistics.cycles + statistics.skipped_ticks == 40
    assert statistics.cycles == len(robot.sent)
    assert statistics.latency.median <= statistics.latency.p99 <= statistics.latency.maximum < 0.2


def test_nothing_is_sent_after_a_stop_in_the_wait(robot: Robot) -> None:
    loop = robot.loop()
    sleep = robot.clock.sleep

    def stop_in_the_fourth_wait(seconds: float) -> None:
        if len(robot.sent) == 3:
            loop.stop()
        sleep(seconds)

    loop._sleep = stop_in_the_fourth_wait
    assert loop.run(1.0).cycles == 3
    assert len(robot.sent) == 3


@pytest.mark.parametrize(
    ("rate_hz", "seconds", "cycles"), [(0.1, 1.0, 1), (0.01, 1.0, 1), (0.3, 5.0, 2), (100, 0.05, 5), (3, 1, 3)]
)
def test_the_time_asked_for_is_kept(robot: Robot, rate_hz: float, seconds: float, cycles: int) -> None:
    statistics = robot.loop(rate_hz).run(seconds)
    assert statistics.seconds == pytest.approx(seconds, abs=1e-3)
    assert statistics.cycles == cycles


def test_a_stop_is_seen_within_a_tenth_of_a_second_of_a_long_period(robot: Robot) -> None:
    loop = robot.loop(0.01)
    sleep, slept = robot.clock.sleep, []

    def stop_after_a_second(seconds: float) -> None:
        slept.append(seconds)
        if sum(slept) >= 1:
            loop.stop()
        sleep(seconds)

    loop._sleep = stop_after_a_second
    assert loop.run(1000.0).seconds < 1.2
    assert max(slept) <= 0.1


@pytest.mark.parametrize("observation", [[[1.0, 2.0], [3.0]], "text", {"a": 1}])
def test_what_is_no_vector_of_numbers_gets_the_fallback(robot: Robot, observation: Any) -> None:
    robot.on_read[2] = lambda: observation
    statistics = robot.loop().run(0.1)
    assert robot.fallbacks() == [2]
    assert statistics.fallbacks["observation_not_finite"] == 1


def test_what_callbacks_keep_is_frozen_after_each_collection(robot: Robot) -> None:
    import gc

    kept: list[list[int]] = []
    young: list[int] = []

    def keep() -> list[float]:
        kept.extend([n] for n in range(100))
        young.append(len(gc.get_objects()))
        return [0.0, 1.0, 2.0]

    robot.on_read = dict.fromkeys((255, 511, 767, 999), keep)
    robot.loop().run(10.0)
    assert len(kept) == 400
    assert max(young) < 100_000, "what was there before, and what was kept, is frozen and not listed"


# The idle time.


def test_idle_is_told_what_each_cycle_left_of_its_period(robot: Robot) -> None:
    left: list[int] = []
    robot.on_call[3] = later(robot, 4_000_000)
    statistics = robot.loop(idle=left.append).run(0.1)
    assert len(left) == statistics.cycles == 10
    assert left[3] == pytest.approx(5.9e6, abs=2e4)
    assert [*left[:3], *left[4:]] == pytest.approx([9.9e6] * 9, abs=2e4)


def test_idle_comes_after_the_action_and_the_collection(robot: Robot) -> None:
    events: list[str] = []
    robot.on_send = dict.fromkeys(range(300), lambda: events.append("send"))

    def collecting(phase: str, _: dict[str, int]) -> None:
        if phase == "stop":
            events.append("collect")

    gc.callbacks.append(collecting)
    try:
        robot.loop(idle=lambda _: events.append("idle")).run(3.0)
    finally:
        gc.callbacks.remove(collecting)
    begin = events.index("send")  # before it: the collection that a run begins with
    assert events[begin:] == ["send", "idle"] * 255 + ["send", "collect", "idle"] + ["send", "idle"] * 44


def test_what_idle_does_in_its_time_shows_nowhere(robot: Robot) -> None:
    statistics = robot.loop(idle=lambda left: robot.clock.work(left - 300_000)).run(1.0)
    assert (statistics.cycles, statistics.missed_deadlines, statistics.skipped_ticks) == (100, 0, 0)
    assert statistics.jitter.maximum < 10e-6
    assert robot.fallbacks() == []


def test_an_idle_that_overruns_shows_in_the_jitter_and_skips_ticks(robot: Robot) -> None:
    overruns = {2: 3_000_000, 5: 25_000_000}  # ns beyond its time: less than a period, and two and a half
    calls: list[int] = []

    def idle(left: int) -> None:
        calls.append(left)
        robot.clock.work(left + overruns.get(len(calls) - 1, -left))

    statistics = robot.loop(idle=idle).run(0.2)
    assert statistics.jitter.maximum == pytest.approx(5e-3, rel=0.02)  # of 25 ms two periods are skipped
    assert (statistics.cycles, statistics.skipped_ticks, statistics.missed_deadlines) == (18, 2, 0)
    start = robot.sent[0][0]
    assert robot.sent[3][0] - start == pytest.approx(3.3 * PERIOD, abs=0.02 * PERIOD)
    assert robot.sent[4][0] - start == pytest.approx(4 * PERIOD, abs=0.02 * PERIOD)


def test_a_cycle_that_leaves_no_time_has_no_idle(robot: Robot) -> None:
    left: list[int] = []
    robot.on_call[3] = later(robot, int(1.2 * PERIOD))
    robot.on_send[5] = later(robot, 2 * PERIOD)
    assert robot.loop(idle=left.append).run(0.1).cycles == 9
    assert len(left) == 7
    assert min(left) > 0


def test_idle_ends_with_the_run(robot: Robot) -> None:
    left: list[int] = []
    robot.loop(0.1, idle=left.append).run(1.0)  # a period of ten seconds
    assert left == [pytest.approx(1e9, abs=1e6)]


def test_there_is_no_idle_after_a_stop(robot: Robot) -> None:
    left: list[int] = []
    loop = robot.loop(idle=left.append)
    robot.on_send[4] = loop.stop
    assert loop.run().cycles == 5
    assert len(left) == 4


@pytest.mark.parametrize("error", [OSError("no memory"), KeyboardInterrupt("signal")])
def test_where_idle_fails_the_fallback_is_sent_last(robot: Robot, error: BaseException) -> None:
    loop = robot.loop(idle=lambda _: raising(error)() if len(robot.sent) == 3 else None)
    with pytest.raises(type(error), match=str(error)):
        loop.run(1.0)
    assert robot.fallbacks() == [3]
    assert loop.statistics().cycles == 3


def test_the_statistics_of_a_run_so_far_are_those_of_its_cycles(robot: Robot) -> None:
    seen: list[ControlStatistics] = []
    loop = robot.loop(idle=lambda _: seen.append(loop.statistics()))
    final = loop.run(0.5)
    assert [statistics.cycles for statistics in seen] == list(range(1, 51))
    assert [statistics.latency.count for statistics in seen] == list(range(1, 51))
    assert seen[9].seconds == pytest.approx(0.0901, abs=1e-4)
    assert seen[-1].jitter == final.jitter
