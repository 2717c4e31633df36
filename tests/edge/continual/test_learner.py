"""The learner on a device: what it is given and what it answers, numbers that must not get in, slices, threads,
takeovers, restarts, and a disk that fails."""

from __future__ import annotations

import contextlib
import errno
import json
import math
import os
import re
import resource
import shutil
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgerl.edge import Policy
from edgerl.edge.continual.challenger import STRIKES
from edgerl.edge.continual.learner import Learner, champion_policy
from edgerl.edge.continual.replay import Boundary
from edgerl.edge.continual.store import LOG
from edgerl.edge.continual.trials import TrialRule
from edgerl.edge.continual.updates import Pace
from edgerl.edge.engine.arena import LearnerArena
from edgerl.edge.engine.library import CROSSQ, SAC, library
from edgerl.edge.engine.random import Draws, Purpose
from edgerl.errors import ConfigError, FileFormatError, OutputError
from edgerl.files.disk import Disk
from edgerl.files.tensors import TensorReader, write_tensors
from tests.edge import learners
from tests.edge.learners import (
    HIGH,
    LOW,
    TD3,
    Array,
    M,
    N,
    Step,
    engine_rows,
    learner_config,
    seed_rows,
    steps,
    write_bundle,
)
from tests.faults import SHORT, FaultyDisk, PowerCut

BUNDLE, STATE = Path("learner.safetensors"), Path("state")
ALWAYS = TrialRule(every=1)
"""The learning policy drives all the time."""

QUICK_TRIALS = TrialRule(every=2, window_steps=8, recent=3, least=2)
EACH_ALGORITHM = pytest.mark.usefixtures("each_algorithm")
CENTRE, HALF = (LOW + HIGH) / 2, (HIGH - LOW) / 2


@pytest.fixture(params=[TD3, SAC, CROSSQ], ids=["td3", "sac", "crossq"])
def each_algorithm(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of every learner that the test makes."""
    monkeypatch.setattr(learners, "DEFAULT_ALGORITHM", request.param)


class _Careless(Disk):
    """Waits for no disk."""

    def sync(self, descriptor: int) -> None:
        pass

    def sync_folder(self, path: Path) -> None:
        pass


def _load(state: Path | None = None, *, disk: Disk | None = None, path: Path = BUNDLE, **options: Any) -> Learner:
    if not path.exists():
        write_bundle(path)
    return Learner.load(path, state=state, disk=_Careless() if disk is None else disk, **options)


@contextmanager
def _learner(state: Path | None = None, **options: Any) -> Iterator[Learner]:
    with closing(_load(state, **options)) as learner:
        yield learner


def _observe(learner: Learner, step: Step) -> bool:
    """A transition of `steps`, its action in the robot's own units."""
    return learner.observe(
        step.observation,
        CENTRE + HALF * step.action,
        step.reward,
        step.following,
        step.boundary == Boundary.TERMINATED,
        step.boundary == Boundary.TRUNCATED,
    )


def _fill(learner: Learner, count: int = 40, seed: int = 0) -> None:
    for step in steps(count, seed, learner.n_observations, learner.n_actions):
        assert _observe(learner, step)


def _bytes(learner: Learner | LearnerArena) -> bytes:
    """All that learns and its counters: the rest of a state is one process's, such as how many actors it published."""
    arena = learner if isinstance(learner, LearnerArena) else learner.challenger.arena
    return bytes(arena.progress) + bytes(arena.config) + _weights(arena)


def _bytes_in(path: Path, kind: str = "snapshot") -> bytes:
    """The same of a file."""
    with TensorReader(path, kind, 1) as reader:
        n_bytes = reader.shapes["state"][1][0]
        read = partial(reader.read_into, "state")
        return _bytes(LearnerArena.from_state(library(), n_bytes, read, lambda _: None))


def _weights(learner: Learner | LearnerArena) -> bytes:
    """All numbers of all networks and topologies."""
    arena = learner if isinstance(learner, LearnerArena) else learner.challenger.arena
    layers = [layer for network in arena.layers for layer in network]
    arrays = [array for layer in layers for array in vars(layer).values() if isinstance(array, np.ndarray)]
    return b"".join(array.tobytes() for array in arrays)


def _assert_finite(learner: Learner) -> None:
    for network in learner.challenger.arena.layers:
        for layer in network:
            for name in ("weight", "first_moment", "second_moment", "target", "bias", "bias_target", "extra_target"):
                array = getattr(layer, name)
                assert array is None or np.isfinite(array).all(), name


# Acting.


HOSTILE = [np.nan, np.inf, -np.inf, 1e38, -3.4e38, 1e300, 1e-45, 0.0]


@EACH_ALGORITHM
@pytest.mark.parametrize("explore", [False, True])
@pytest.mark.parametrize("normalise", [False, True])
@pytest.mark.parametrize("rule", [TrialRule(), ALWAYS])
def test_every_action_is_finite_and_within_its_bounds(explore: bool, normalise: bool, rule: TrialRule) -> None:
    write_bundle(normalise=normalise, noise=10.0)
    draw = np.random.default_rng(0)
    with _learner(rule=rule) as learner:
        for _ in range(300):
            x = np.where(draw.random(N) < 0.5, draw.choice(HOSTILE, N), draw.normal(size=N) * 10 ** draw.uniform(-3, 9))
            action = learner.act(x, explore=explore)
            assert action.shape == (M,)
            assert action.dtype == np.float32
            assert (action >= LOW).all()
            assert (action <= HIGH).all()
            if not np.isfinite(x.astype(np.float64)).all() or np.abs(x).max() > 1e39:
                assert action.tolist() == [0, 0]
            _observe(learner, steps(1)[0]._replace(observation=x.clip(-1, 1)))
        assert 100 < learner.counters.refused_observations < 300


def test_the_fallback_is_the_bound_next_to_zero() -> None:
    reader_bounds = {"action.low": np.array([1, -3], np.float32), "action.high": np.array([2, -0.5], np.float32)}
    write_bundle()
    _rewrite(BUNDLE, "learner", reader_bounds)
    with _learner() as learner:
        action = learner.act([np.nan] * N)
        assert action.tolist() == [1, -0.5]
        action[:] = 7
        assert learner.act([np.nan] * N).tolist() == [1, -0.5], "a copy"


def test_bounds_as_wide_as_float32_are_kept_with_noise() -> None:
    write_bundle(noise=10.0)
    largest = np.full(M, np.finfo(np.float32).max)
    _rewrite(BUNDLE, "learner", {"action.low": -largest, "action.high": largest})
    with _learner() as learner:
        for step in steps(50):
            action = learner.act(step.observation)
            assert np.isfinite(action).all()
            learner.observe(step.observation, action, 0, step.following)
        assert learner.counters.refused_observations == 0, "it was not the observation that was too large"


def _rewrite(path: Path, kind: str, tensors: dict[str, Any], **metadata: Any) -> None:
    """The same file with other tensors or metadata, and a checksum that is right."""
    with TensorReader(path, kind, 1) as reader:
        kept = {name: value for name, value in reader.metadata.items() if name not in ("kind", "version", "sha256")}
        own = {name: reader.read(name) for name in reader.shapes}
    write_tensors(path, kind, 1, kept | metadata, own | tensors)


@pytest.mark.parametrize("bad", [[0.0] * (N + 1), [[0.0] * N], 0.0, [], ["a"] * N, [[1], [2, 3], 4], None])
def test_observations_of_another_shape_are_no_observations(bad: Any) -> None:
    with _learner() as learner:
        with pytest.raises(ValueError, match=r"shape|convert|inhomogeneous"):
            learner.act(bad)
        good, action = [0.0] * N, [0.0] * M
        for transition in ((bad, action, 0, good), (good, action, 0, bad), (good, bad, 0, good)):
            with pytest.raises(ValueError, match=r"shape|convert|inhomogeneous"):
                learner.observe(*transition)
        assert (learner.counters.steps, learner.status()["replay"]["seen"]) == (0, 0)


@EACH_ALGORITHM
@pytest.mark.parametrize("normalise", [False, True])
@pytest.mark.parametrize("block", [1, 4])
def test_whoever_drives_acts_like_a_policy_of_the_same_actor(normalise: bool, block: int) -> None:
    """The champion like the actor of the beginning, whatever was learnt since; the other like the present one."""
    write_bundle(config=learner_config(widths=(17, 14), block=block), normalise=normalise)
    with _learner(rule=TrialRule(every=50)) as champion, _learner(rule=ALWAYS) as challenger:
        initial = Policy(champion.policy())
        for learner in (champion, challenger):
            _fill(learner)
            assert sum(learner.update() for _ in range(30)) == 30
        now = Policy(challenger.policy())
        differences = []
        for step in steps(60, seed=5):
            x = step.observation
            assert np.abs(champion.act(x, explore=False) - initial(x)).max() < 3e-6
            assert np.abs(challenger.act(x, explore=False) - now(x)).max() < 3e-6
            differences.append(np.abs(now(x) - initial(x)).max())
        assert max(differences) > 1e-3, "it has learnt"


def test_noise_is_the_runs_and_new_at_every_step() -> None:
    with _learner() as learner:
        x, noises = np.zeros(N, np.float32), []
        plain = learner.act(x, explore=False)
        for step in steps(400):
            assert np.array_equal(learner.act(x), learner.act(x)), "of the step, not of the call"
            noises.append((learner.act(x) - plain) / HALF)
            _observe(learner, step._replace(boundary=Boundary.CONTINUES))
        noise = np.array(noises)
        inside = np.abs(plain + HALF * noise - CENTRE) < HALF * 0.999
        assert inside.mean() > 0.9
        assert abs(noise[inside.all(axis=1)].std() - 0.1) < 0.01
        assert len(np.unique(noise[:, 0])) > 350


def _gaussian(learner: Learner, observation: Array) -> tuple[Array, Array]:
    """(means, deviations) of tanh's argument, [m], by the actor in the arena, in float64."""
    x = observation.astype(np.float64)
    for layer in learner.challenger.arena.layers[0]:
        z = layer.matrix().astype(np.float64) @ x + layer.bias[: layer.n_outputs]
        x = np.maximum(z, 0)
    return z[:M], np.exp(np.clip(z[M:], -20, 2))


@pytest.mark.parametrize("block", [1, 4])
def test_with_sac_whoever_drives_explores_by_its_own_distribution(block: int) -> None:
    """The champion by that of the beginning, the learning policy by that of now; each step has its draw."""
    write_bundle(config=learner_config(widths=(17, 14), block=block, algorithm=SAC))
    draws, differences = Draws(7), []
    with _learner(rule=TrialRule(every=50)) as champion, _learner(rule=ALWAYS) as challenger, _learner() as initial:
        for learner in (champion, challenger):
            _fill(learner)
            assert sum(learner.update() for _ in range(30)) == 30
        for number, step in enumerate(steps(60, seed=5), 40):
            x, noise = step.observation, draws.normals(Purpose.EXPLORATION, number, M)
            actions = []
            for learner, source in ((champion, initial), (challenger, challenger)):
                mean, deviation = _gaussian(source, x)
                actions.append(CENTRE + HALF * np.tanh(mean + deviation * noise))
                assert np.abs(learner.act(x) - actions[-1]).max() < 1e-5
                assert np.abs(learner.act(x, explore=False) - CENTRE - HALF * np.tanh(mean)).max() < 3e-6
            differences.append(np.abs(actions[0] - actions[1]).max())
            for learner in (champion, challenger):
                _observe(learner, step)
        assert max(differences) > 1e-3, "it has learnt"


# Observing.


BAD_STEPS: dict[str, dict[str, Any]] = {
    "observation": {"observation": [0, np.nan, 0]},
    "infinite observation": {"observation": [0, 0, -np.inf]},
    "next observation": {"next_observation": [np.inf, 0, 0]},
    "too large for float32": {"next_observation": np.array([0, 1e39, 0])},
    "action": {"action": [np.nan, 0]},
    "reward": {"reward": np.nan},
    "infinite reward": {"reward": np.inf},
    "reward too large for float32": {"reward": -1e39},
}


@pytest.mark.parametrize("change", BAD_STEPS.values(), ids=BAD_STEPS)
def test_a_transition_that_is_not_finite_is_refused_and_counted(change: dict[str, Any]) -> None:
    good = {"observation": [0.0] * N, "action": [0.0] * M, "reward": 0.5, "next_observation": [1.0] * N}
    with _learner(STATE) as learner:
        assert learner.observe(**good)
        assert not learner.observe(**(good | change), truncated=True)
        assert learner.observe(**good)
        assert (learner.counters.refused_transitions, learner.counters.steps) == (1, 3)
        assert learner.counters.episodes == 1
        memory = learner.experience.transitions
        rows = engine_rows(memory.structure(None, None), memory.shape.row_bytes)
        boundaries = [float(np.frombuffer(row[-4:], np.float32)[0]) for row in rows]
        assert boundaries == [Boundary.GAP, Boundary.CONTINUES]
        assert learner.status()["refused_transitions"] == 1


def test_what_is_remembered_is_the_action_between_its_bounds() -> None:
    with _learner() as learner:
        actions = [LOW, HIGH, CENTRE, HIGH + 100, np.array([1e38, -3e38])]
        for action in actions:
            learner.observe([0.0] * N, action, 1, [0.0] * N)
        numbers = learner.experience.transitions.records["numbers"][: len(actions), N : N + M]
        assert np.abs(numbers - [[-1, -1], [1, 1], [0, 0], [1, 1], [1, -1]]).max() < 1e-6


# With an offset. A learner without one that sees what is left after the subtraction is the oracle: bit for bit.

OFFSET = (5_800_000.0, 0.0, -(2.0**40))


@pytest.mark.parametrize("precision", ["fp32", "fp16"])
def test_a_learner_with_an_offset_is_one_that_sees_the_rest_of_it(precision: str) -> None:
    for name, offset in (("plain", None), ("shifting", OFFSET)):
        write_bundle(Path(f"{name}.safetensors"), precision=precision, normalise=True, offset=offset)
    options = {"rule": TrialRule(every=2, window_steps=8)}
    for part in range(2):  # the second goes on in the folders of the first
        with (
            _learner(Path("plain"), path=Path("plain.safetensors"), **options) as plain,
            _learner(Path("shifting"), path=Path("shifting.safetensors"), **options) as shifting,
        ):
            assert (plain.observation_dtype, shifting.observation_dtype) == (np.float32, np.float64)
            for step in steps(60, seed=part):
                given, following = (np.array(OFFSET) + x.astype(np.float64) for x in (step.observation, step.following))
                seen, next_seen = ((x.astype(np.longdouble) - OFFSET).astype(np.float32) for x in (given, following))
                assert np.array_equal(shifting.act(given), plain.act(seen))
                assert _observe(plain, step._replace(observation=seen, following=next_seen))
                assert _observe(shifting, step._replace(observation=given.tolist(), following=following))
                assert plain.update() == shifting.update()
                assert _bytes(plain) == _bytes(shifting)
            assert plain.status()["trials"] == shifting.status()["trials"]
            policy = shifting.policy()
            assert np.array_equal(policy(given), plain.policy()(seen))
            for learner in (plain, shifting):
                learner.snapshot()
    with TensorReader(Path("shifting/snapshot-00000003.safetensors"), "snapshot", 2) as reader:
        assert reader.read("observation.offset").tolist() == list(OFFSET)
    champion = champion_policy(Path("shifting"))
    assert champion.observation_offset is not None
    assert champion.observation_offset.tolist() == list(OFFSET)
    assert np.array_equal(champion(champion.example_observation), champion.example_action)


def test_with_an_offset_lost_digits_are_refused() -> None:
    write_bundle(offset=OFFSET)
    with _learner() as learner:
        lost, action = np.zeros(N, np.float32), np.zeros(M)
        for call in (lambda: learner.act(lost), lambda: learner.observe(lost, action, 0, [0.0] * N)):
            with pytest.raises(ValueError, match=r"the observation is float32; expected float64"):
                call()
        assert learner.act([np.inf, 0, 0]).tolist() == learner.act([1e300, 0, 0]).tolist() == [0, 0], "the fallback"


@pytest.mark.parametrize(
    ("offset", "version", "problem"),
    [
        (np.full(N, 0.5), 2, r"observation\.offset holds a number that is not whole or beyond ±9\.0072e\+15"),
        (np.full(N, 2.0**54), 2, r"observation\.offset holds a number that is not whole or beyond"),
        (np.full(N, np.nan), 2, r"observation\.offset holds a value that is not finite"),
        (np.zeros(N, np.float32), 2, r"observation\.offset is float32\[3\], expected float64\[3\]"),
        (np.zeros(N + 1), 2, r"observation\.offset is float64\[4\], expected float64\[3\]"),
        (np.zeros(N), 1, r"observation\.offset belongs to version 2, and only to that"),
        (None, 2, r"observation\.offset belongs to version 2, and only to that"),
    ],
)
def test_a_bundle_with_a_bad_offset_is_refused(offset: Any, version: int, problem: str) -> None:
    with TensorReader(write_bundle(), "learner", 1) as reader:
        kept = {name: value for name, value in reader.metadata.items() if name not in ("kind", "version", "sha256")}
        tensors = {name: reader.read(name) for name in reader.shapes}
    tensors |= {} if offset is None else {"observation.offset": offset}
    write_tensors(BUNDLE, "learner", version, kept, tensors)
    with pytest.raises(FileFormatError, match=rf"is not valid: {problem}.*; export it again"):
        _load()


# Learning.


def test_updates_wait_for_a_batch_and_are_no_more_than_transitions_allow() -> None:
    with _learner() as learner:
        for number, step in enumerate(steps(20), 1):
            _observe(learner, step)
            assert learner.update() == (number >= 8), "the batch has 8"
        assert [learner.update() for _ in range(9)] == [1] * 7 + [0] * 2
        assert learner.status()["updates"] == 20
    with _learner(updates_per_step=0.25) as learner:
        _fill(learner, 21)
        assert sum(learner.update() for _ in range(20)) == 5
    with _learner(updates_per_step=3) as learner:
        _fill(learner, 10)
        assert sum(learner.update() for _ in range(60)) == 30


@EACH_ALGORITHM
def test_updates_that_do_not_fit_into_a_period_are_deferred_and_counted() -> None:
    """Four updates a step, with norms, and time for one and a half: what is left over is made up for when there is
    time."""
    config = learner_config(widths=(16, 12))
    config.critic.norm = 1
    write_bundle(config=config)
    with _learner(updates_per_step=4) as learner:
        _fill(learner, 7)
        assert learner.status()["deferred_updates"] == 0, "no batch yet"
        made = 0
        for number, step in enumerate(steps(20, seed=1), 8):
            _observe(learner, step)
            made += learner.update()
            learner.update(work=1)  # which begins another one
            status = learner.status()
            assert status["updates"] == made
            assert status["deferred_updates"] == 4 * number - made - 1
        while learner.update():
            made += 1
        assert (learner.status()["updates"], learner.status()["deferred_updates"]) == (4 * 27, 0)
        assert learner.status()["abandoned_updates"] == 0


@EACH_ALGORITHM
@pytest.mark.parametrize("most", [1, 300, 20_000])
def test_slices_make_no_difference(most: int) -> None:
    draw = np.random.default_rng(most)
    with _learner() as whole, _learner() as sliced:
        for learner in (whole, sliced):
            _fill(learner)
        calls = 0
        for _ in range(12 if most == 1 else 30):
            assert whole.update() == 1
            calls += 1
            while not sliced.update(work=int(draw.integers(most + 1))):
                calls += 1
            assert _bytes(sliced) == _bytes(whole)
            assert sliced.status()["critic_loss"] == whole.status()["critic_loss"] > 0
        assert calls > 50


def test_an_update_of_five_periods_is_completed_in_several(monkeypatch: pytest.MonkeyPatch) -> None:
    """By the clock of this thread, which other processes do not disturb."""
    monkeypatch.setattr(time, "perf_counter_ns", time.thread_time_ns)
    write_bundle(config=learner_config(widths=(256, 256), batch=100, percent=100), memory=1 << 26)
    with _learner() as learner:
        _fill(learner, 120)
        learner.update()
        seconds = []
        for _ in range(6):
            begin = time.thread_time()
            assert learner.update() == 1
            seconds.append(time.thread_time() - begin)
        budget = 1e6 * max(seconds) / 5
        periods, longest = [], []
        for _ in range(8):
            count = 0
            while True:
                begin, count = time.thread_time(), count + 1
                done = learner.update(budget)
                longest.append(1e6 * (time.thread_time() - begin))
                if done:
                    break
            periods.append(count)
        assert 4 <= np.median(periods) <= 12, periods
        assert np.median(longest) < 1.2 * budget


@pytest.mark.parametrize(("call_us", "speed"), [(2, 2000), (40, 100), (400, 10)])
def test_slices_are_long_enough_for_the_machine(call_us: float, speed: float, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the call itself takes longer than a slice should, most of the time is still spent on learning; and no slice
    is longer than it need be."""
    now, slices = 0.0, []

    def run(work: int) -> None:
        nonlocal now
        slices.append(call_us + work / speed)
        now += slices[-1]

    monkeypatch.setattr(time, "perf_counter_ns", lambda: int(now * 1000))
    pace = Pace()
    for _ in range(100):
        for work in pace.slices(20_000):
            run(work)
    later = slices[len(slices) // 2 :]
    assert sum(later) > 2 * call_us * len(later)
    assert max(later) < max(75, 12 * call_us)


def test_a_clock_that_stands_still_makes_no_slice_grow_beyond_all_bounds(monkeypatch: pytest.MonkeyPatch) -> None:
    """As with an update that is over before a slice should be: its size has doubled some thousand times."""
    with _learner() as learner:
        _fill(learner, 2000)
        monkeypatch.setattr(time, "perf_counter_ns", lambda: 0)
        assert learner.update(1000) == 2000


def test_a_budget_or_a_work_but_no_less_than_nothing() -> None:
    with _learner() as learner:
        _fill(learner)
        with pytest.raises(ConfigError, match=r"^`budget_us` and `work` were both given; expected one of them$"):
            learner.update(1, work=1)
        for bad in (-1, np.nan, np.inf):
            with pytest.raises(ConfigError, match=rf"^`budget_us` is {bad}; expected a finite number, 0 or more$"):
                learner.update(bad)
        with pytest.raises(ConfigError, match=r"^`work` is -1; expected a finite number, 0 or more$"):
            learner.update(work=-1)
        assert learner.update(0) == learner.update(work=0) == 0
        assert learner.update(work=1 << 70) == 1


POISON: dict[str, Callable[[Array], None]] = {
    "reward": lambda record: record["reward"].fill(np.nan),
    "infinite reward": lambda record: record["reward"].fill(-np.inf),
    "observation": lambda record: record["numbers"][:, 0].fill(np.nan),
    "action": lambda record: record["numbers"][:, N].fill(np.nan),
    "next observation": lambda record: record["numbers"][:, -1].fill(np.nan),
    "infinite observation": lambda record: record["numbers"][:, 1].fill(np.inf),
    "huge": lambda record: record["numbers"][:, :].fill(3e38),
    "huge reward": lambda record: record["reward"].fill(3e38),
}


@EACH_ALGORITHM
@pytest.mark.parametrize("poison", POISON.values(), ids=POISON)
@pytest.mark.parametrize("block", [1, 4])
@pytest.mark.parametrize("density", [50, 100])
def test_a_number_that_is_not_finite_abandons_the_update(
    poison: Callable[[Array], None], block: int, density: int
) -> None:
    """Put into the memory itself, past `observe`; in every row, so that every batch has it."""
    write_bundle(config=learner_config(widths=(13, 10), block=block, percent=density))
    with _learner() as learner:
        _fill(learner)
        assert sum(learner.update() for _ in range(6)) == 6
        kept = learner.experience.transitions.records[: learner.experience.transitions.size].copy()
        poison(learner.experience.transitions.records)
        before, acted = _weights(learner), learner.policy().layers[0].values.tobytes()
        for number in range(1, 8):
            assert learner.update() == 1
            assert _weights(learner) == before
            assert learner.status()["abandoned_updates"] == number
        assert learner.policy().layers[0].values.tobytes() == acted
        learner.experience.transitions.records[: learner.experience.transitions.size] = kept
        assert learner.update() == 1
        assert _weights(learner) != before
        _assert_finite(learner)
        assert learner.status()["abandoned_updates"] == 7


def test_one_row_that_is_not_finite_harms_nothing() -> None:
    with _learner() as learner:
        _fill(learner, 300)
        learner.experience.transitions.records["reward"][17] = np.nan
        before, abandoned = _weights(learner), 0
        for _ in range(300):
            assert learner.update() == 1
            was, abandoned = abandoned, learner.status()["abandoned_updates"]
            assert (_weights(learner) == before) == (abandoned > was)
            before = _weights(learner)
        assert 0 < abandoned < 60, "300 batches of 8 of 300: seven are expected"
        _assert_finite(learner)


@EACH_ALGORITHM
@pytest.mark.parametrize("reward", [1e10, 1e25, 3e38])
def test_rewards_beyond_all_measure_end_with_finite_networks(reward: float) -> None:
    draw = np.random.default_rng(0)
    with _learner(rule=ALWAYS) as learner:
        for step in steps(200):
            _observe(learner, step._replace(reward=reward * draw.uniform(-1, 1)))
            learner.act(step.observation)
            learner.update()
        _assert_finite(learner)
        assert learner.is_learning
        for step in steps(50):
            assert (learner.act(step.observation) <= HIGH).all()
        json.dumps(learner.status(), allow_nan=False)


@EACH_ALGORITHM
def test_learning_that_diverges_begins_anew_from_the_champion() -> None:
    """Values that no reward explains: after 50 strikes all that learns is what it was when the champion was made."""
    with _learner(STATE, updates_per_step=1000, rule=ALWAYS) as learner:
        _fill(learner)
        initial = _bytes(learner)
        for _ in range(10):
            learner.update()
        for_entropy = 20 * M * math.exp(learner.challenger.values.progress.log_temperature)
        paid = 2 + (0 if learners.DEFAULT_ALGORITHM == TD3 else for_entropy)
        assert learner.status()["value_bound"] == pytest.approx(2 * paid / (1 - 0.9)), "rewards are at most 2"
        for network in (1, 2):
            last = learner.challenger.arena.layers[network][-1]
            last.bias[:] = 1e6
            if last.bias_target is not None:
                last.bias_target[:] = 1e6
        acted = _bytes(learner)
        for strike in range(1, STRIKES):
            learner.update()
            assert (learner.trials.status()["divergences"], learner.challenger.values.strikes) == (0, strike)
        assert _bytes(learner) != initial
        learner.update()
        assert (learner.trials.status()["divergences"], learner.challenger.values.strikes) == (1, 0)
        assert _bytes(learner) == initial != acted
        assert learner.status()["updates"] == 0
        for _ in range(5):
            assert learner.update() == 1
        x = steps(1)[0].observation
        assert np.abs(learner.act(x, explore=False) - Policy(learner.policy())(x)).max() < 3e-6


def test_values_are_judged_by_the_rewards_of_the_run_and_of_the_log() -> None:
    """Also where a small seed does not show them, and after a process was killed."""
    write_bundle(largest_reward=50.0)
    with _learner(STATE) as learner:
        assert learner.status()["value_bound"] == pytest.approx(1000)
        _observe(learner, steps(1)[0]._replace(reward=-80))
        shutil.copytree(STATE, "killed")
    with closing(Learner.load("killed")) as learner:
        assert learner.status()["value_bound"] == pytest.approx(1600)
    write_bundle(seed=[step._replace(reward=-3) for step in steps(5)])
    with _learner() as learner:
        assert learner.status()["value_bound"] == pytest.approx(60)
    write_bundle()
    with _learner() as learner:
        assert learner.status()["value_bound"] == pytest.approx(1), "where nothing is known yet: half a unit, twice"


@pytest.mark.parametrize("log_temperature", [-1e300, 0.0, 3.0, 1e300])
def test_with_sac_values_are_judged_by_what_entropy_is_paid_too(log_temperature: float) -> None:
    """Whatever temperature a file names."""
    arena = LearnerArena(library(), learner_config(algorithm=SAC))
    progress = arena.progress
    progress.log_temperature = log_temperature
    arena.progress = progress
    write_bundle(config=arena.config)
    _rewrite(BUNDLE, "learner", {"state": arena.state})
    with _learner() as learner:
        temperature = math.exp(min(log_temperature, 88))
        expected = 2 * max(20 * M * temperature, 0.05) / (1 - 0.9)
        assert learner.status()["value_bound"] == pytest.approx(expected)
        _fill(learner)
        for _ in range(5):
            assert learner.update() == 1
        _assert_finite(learner)
        json.dumps(learner.status(), allow_nan=False)


# Threads.


@EACH_ALGORITHM
def test_acting_beside_updates_gives_actions_of_one_published_actor_or_the_next() -> None:
    x = steps(1)[0].observation
    write_bundle(config=learner_config(widths=(64, 64), batch=32), memory=1 << 22)
    updates = 150
    with _learner(rule=ALWAYS) as reference:
        _fill(reference, updates)
        published = {reference.act(x, explore=False).tobytes()}
        for _ in range(updates):
            reference.update()
            published.add(reference.act(x, explore=False).tobytes())
    assert updates // 3 < len(published) <= updates // 2 + 1
    with _learner(rule=ALWAYS) as learner:
        _fill(learner, updates)

        def learn() -> None:
            while learner.status()["updates"] < updates:
                learner.update(work=40_000)

        thread, seen = threading.Thread(target=learn), set()
        thread.start()
        while thread.is_alive():
            seen.add(learner.act(x, explore=False).tobytes())
        thread.join()
    assert seen <= published
    assert len(seen) > 3


@contextmanager
def _noted(failures: list[BaseException]) -> Iterator[None]:
    try:
        yield
    except BaseException as error:
        failures.append(error)


@EACH_ALGORITHM
def test_everything_at_once() -> None:
    """One thread drives, one updates, one keeps, one asks; with restarts from the champion and takeovers in between."""
    failures: list[BaseException] = []
    with _learner(STATE, rule=QUICK_TRIALS) as learner:
        done = threading.Event()

        def forever(action: Callable[[], object]) -> threading.Thread:
            def run() -> None:
                while not done.is_set() and not failures:
                    with _noted(failures):
                        action()

            thread = threading.Thread(target=run)
            thread.start()
            return thread

        def keep() -> None:
            learner.sync()
            learner.snapshot()

        def diverge() -> None:
            with learner.updates.lock:
                learner.updates.complete()  # the learner itself restarts only between two updates
                learner.challenger.restart()
            time.sleep(0.01)

        learner.has_keeper = True
        threads = [
            forever(action)
            for action in (lambda: learner.update(500), keep, learner.status, diverge, lambda: learner.policy())
        ]

        def is_enough() -> bool:
            status = learner.status()
            return bool(status["trials"]["divergences"] > 2 and status["snapshots"] > 2)

        end, count = time.monotonic() + 3, 0
        while not failures and (time.monotonic() < end or not is_enough()):
            step = steps(1, seed=count)[0]
            action = learner.act(step.observation)
            assert (action >= LOW).all()
            assert (action <= HIGH).all()
            _observe(learner, step)
            count += 1
        done.set()
        for thread in threads:
            thread.join()
        assert failures == []
        _assert_finite(learner)
        learner.snapshot()
        expected = _bytes(learner)
    with _learner(STATE, rule=QUICK_TRIALS) as learner:
        assert _bytes(learner) == expected
        assert learner.counters.steps == count


def test_a_learner_that_is_closed_beside_its_updates_stops_learning() -> None:
    for _ in range(10):
        learner = _load(STATE)
        _fill(learner)
        thread = threading.Thread(target=lambda learner=learner: [learner.update(work=2000) for _ in range(3000)])  # type: ignore[misc]
        thread.start()
        learner.close()
        thread.join()
        assert learner.act([0.0] * N).shape == (M,)
        shutil.rmtree(STATE)


def test_nobody_acts_in_an_arena_that_is_being_replaced(monkeypatch: pytest.MonkeyPatch) -> None:
    with _learner(rule=ALWAYS) as learner:
        act, acted = learner.challenger.arena.act, []

        def watched(observation: Array) -> Array:
            acted.append(learner.challenger.acting.locked())
            return act(observation)

        monkeypatch.setattr(learner.challenger.arena, "act", watched)
        learner.act([0.0] * N)
        assert acted == [True]
        _fill(learner)
        learner.update()
        before = _bytes(learner)
        thread = threading.Thread(target=learner.challenger.restart)
        with learner.challenger.acting:  # as long as an action is on its way
            thread.start()
            thread.join(0.1)
            assert thread.is_alive()
            assert _bytes(learner) == before
        thread.join()
        assert _bytes(learner) != before
        learner.challenger.is_sound = False
        assert learner.act([0.0] * N).shape == (M,)
        assert len(acted) == 1


def test_a_learner_is_closed_after_the_update_that_is_under_way() -> None:
    learner, started, done = _load(), threading.Event(), threading.Event()
    _fill(learner)

    def update() -> None:
        with learner.updates.lock:
            started.set()
            done.wait(9)

    updating, closing_ = threading.Thread(target=update), threading.Thread(target=learner.close)
    updating.start()
    started.wait(9)
    closing_.start()
    closing_.join(0.1)
    assert closing_.is_alive()
    assert learner.experience.transitions.size == 40
    done.set()
    updating.join()
    closing_.join()
    assert learner.update() == 0


# Memory.


@EACH_ALGORITHM
@pytest.mark.parametrize("precision", ["fp32", "fp16"])
@pytest.mark.parametrize("keep", ["ring", "reservoir"])
def test_the_announced_memory_is_what_is_allocated(precision: str, keep: str) -> None:
    write_bundle(precision=precision, keep=keep, memory=200_000)
    for memory in (None, 150_000, 3_000_000):
        with _learner(memory=memory) as learner:
            plan = learner.memory
            assert plan.arena == len(learner.challenger.arena.memory)
            assert plan.champion == learner.champion.n_bytes
            assert plan.replay == learner.experience.transitions.records.nbytes == plan.capacity * plan.record
            asked = memory or 200_000
            assert asked - plan.record < plan.total <= asked
            assert learner.status()["memory"]["total"] == plan.total
            assert learner.status()["replay"]["capacity"] == plan.capacity


def test_memory_that_does_not_do_is_refused() -> None:
    write_bundle()
    with _learner() as learner:
        plan, least = learner.memory, 8
    networks = plan.arena + plan.champion
    smallest = networks + least * plan.record
    with _learner(memory=smallest) as learner:
        assert learner.memory.capacity == least
    with pytest.raises(
        ConfigError,
        match=rf"^the memory is {smallest - 1} bytes, of which the networks take {networks}; expected at least "
        rf"{smallest}, for 8 transitions of {plan.record} bytes$",
    ):
        _load(memory=smallest - 1)
    with pytest.raises(ConfigError, match=rf"^the memory is 99 bytes; expected more than the {plan.arena} that"):
        _load(memory=99)
    for bad in (0, -1, 32e6, True, "32MiB", (1 << 40) + 1, np.int64(1 << 20)):
        with pytest.raises(
            ConfigError, match=r"^the memory is .*; expected bytes, an integer in \[1, 1099511627776\]$"
        ):
            _load(memory=bad)
    with pytest.raises(
        ConfigError, match=r"^\d+ transitions need \d+ bytes of memory, and this machine has \d+; give it less"
    ):
        _load(memory=1 << 40)


def test_a_capacity_in_the_bundle_is_taken_unless_memory_is_asked_for() -> None:
    write_bundle(replay={"precision": "fp32", "keep": "ring", "capacity": 33})
    with _learner() as learner:
        assert learner.memory.capacity == 33
    with _learner(STATE) as learner:
        _fill(learner, 50)
    with _learner(STATE) as learner:
        assert (learner.memory.capacity, learner.status()["replay"]["size"]) == (33, 33)
    with _learner(memory=100_000) as learner:
        assert learner.memory.capacity > 500
    write_bundle(replay={"precision": "fp32", "keep": "ring", "capacity": 33_000, "memory_bytes": 1 << 17})
    with pytest.raises(ConfigError, match=r"^the memory is 131072 bytes, too few for 33000 transitions of 56 bytes$"):
        _load()


def test_choices_that_do_not_exist_are_refused() -> None:
    for options, problem in (
        ({"keep": "newest"}, r"^the replay policy is 'newest'; expected ring or reservoir$"),
        ({"storage": "disk"}, r"^the storage is 'disk'; expected ram or mapped$"),
        ({"updates_per_step": 0}, r"^`updates_per_step` is 0; expected a number in \(0, 1000\]$"),
        ({"updates_per_step": np.nan}, r"^`updates_per_step` is nan; expected a number in \(0, 1000\]$"),
        ({"storage": "mapped"}, r"^a mapped replay needs a file; name a state folder, or keep it in RAM$"),
    ):
        with pytest.raises(ConfigError, match=problem):
            _load(**options)


def test_a_reservoir_and_returns_of_several_rewards_do_not_go_together() -> None:
    write_bundle(config=learner_config(n_step=3))
    with pytest.raises(
        ConfigError, match=r"^the replay is a reservoir, and returns have 3 rewards; expected 1, since a"
    ):
        _load(keep="reservoir")
    with _learner() as learner:
        _fill(learner)
        assert learner.update() == 1


# Trials and takeovers.


def _drive(learner: Learner, count: int, reward_of: Callable[[bool], float], *, update: bool = True) -> list[bool]:
    """Episodes of four steps; who drove each step: True for the learning policy."""
    drove = []
    for number, step in enumerate(steps(count, seed=len(learner.trials.status()["champion"]["scores"]))):
        drove.append(learner.trials.challenger_drives)
        action = learner.act(step.observation)
        reward = reward_of(drove[-1]) + 1e-3 * step.reward
        learner.observe(step.observation, action, reward, step.following, terminated=number % 4 == 3)
        if update:
            learner.update()
    return drove


@EACH_ALGORITHM
def test_a_better_learning_policy_becomes_the_champion() -> None:
    with _learner(STATE, rule=QUICK_TRIALS) as learner:
        initial, x = Policy(learner.policy()), steps(1, 9)[0].observation
        assert _drive(learner, 8, float) == [False] * 4 + [True] * 4
        assert np.abs(learner.act(x, explore=False) - initial(x)).max() < 3e-6
        assert _drive(learner, 8, float, update=False) == [False] * 4 + [True] * 4
        assert np.abs(learner.act(x, explore=False) - initial(x)).max() < 3e-6
        assert learner.takeover_is_due
        assert learner.status()["champion"] == 1
        assert learner.update() == 1, "which completes the update, and takes over"
        assert not learner.takeover_is_due
        status = learner.status()
        assert (status["champion"], status["trials"]["takeovers"], status["snapshots"]) == (2, 1, 2)
        assert status["trials"]["challenger"]["scores"] == status["trials"]["champion"]["scores"] == []
        now = Policy(learner.policy())
        assert not learner.trials.challenger_drives
        assert np.abs(learner.act(x, explore=False) - now(x)).max() < 3e-6
        assert np.abs(now(x) - initial(x)).max() > 1e-4
        for step in steps(7):
            _observe(learner, step._replace(boundary=Boundary.CONTINUES))
            assert learner.update() == 1
        assert np.abs(Policy(learner.policy())(x) - now(x)).max() > 1e-4
        assert np.abs(learner.act(x, explore=False) - now(x)).max() < 3e-6, "the champion stays as it is"
        expected = learner.act(x, explore=False)
    with _learner(STATE, rule=QUICK_TRIALS) as learner:
        assert np.array_equal(learner.act(x, explore=False), expected)
        resumed = learner.status()
        assert (resumed["champion"], resumed["trials"]["takeovers"]) == (2, 1)
        assert resumed["trials"]["challenger"]["scores"] == resumed["trials"]["champion"]["scores"] == []


@EACH_ALGORITHM
def test_a_worse_one_never_does() -> None:
    with _learner(STATE, rule=QUICK_TRIALS) as learner:
        initial, x = Policy(learner.policy()), steps(1, 9)[0].observation
        _drive(learner, 200, lambda is_challenger: -float(is_challenger))
        status = learner.status()
        assert (status["champion"], status["trials"]["takeovers"], status["snapshots"]) == (1, 0, 1)
        assert status["trials"]["share"] < 0.1
        if not learner.trials.challenger_drives:
            assert np.abs(learner.act(x, explore=False) - initial(x)).max() < 3e-6


def test_a_takeover_waits_for_its_keeper() -> None:
    with _learner(STATE, rule=QUICK_TRIALS) as learner:
        learner.has_keeper = True
        _drive(learner, 24, float)
        assert learner.takeover_is_due
        assert learner.status()["champion"] == 1
        assert learner.snapshot() == 2
        assert not learner.takeover_is_due
        assert learner.status()["champion"] == 2
        assert learner.snapshot() == 3
        assert learner.status()["champion"] == 2


def test_a_takeover_without_a_state_folder() -> None:
    with _learner(rule=QUICK_TRIALS) as learner:
        _drive(learner, 24, float)
        assert learner.status()["trials"]["takeovers"] == 1
        assert not learner.takeover_is_due
        with pytest.raises(
            ConfigError, match=r"^this learner has no state folder; load it with one, as in Learner\.load"
        ):
            learner.snapshot()
        with pytest.raises(ConfigError, match=r"^this learner has no state folder"):
            learner.sync()


@EACH_ALGORITHM
def test_nobody_takes_over_with_numbers_that_are_not_finite() -> None:
    with _learner(rule=QUICK_TRIALS) as learner:
        initial, x = Policy(learner.policy()), steps(1, 9)[0].observation
        _drive(learner, 16, float, update=False)
        assert learner.takeover_is_due
        for network in learner.challenger.arena.layers:
            network[0].weight[0] = np.inf
        for _ in range(3):
            learner.update()
        assert not learner.takeover_is_due
        assert learner.status()["trials"]["takeovers"] == 0
        assert np.abs(learner.act(x, explore=False) - initial(x)).max() < 3e-6
        _assert_finite(learner)


def test_a_takeover_that_becomes_due_while_a_snapshot_is_written_waits_for_the_next() -> None:
    """The champion that drives is the one that the snapshot names."""

    class Slow(_Careless):
        def replace(self, source: Path, goal: Path) -> None:
            super().replace(source, goal)
            if hooks:
                hooks.pop()()

    hooks: list[Callable[[], None]] = []
    with _learner(STATE, rule=QUICK_TRIALS, disk=Slow()) as learner:
        learner.has_keeper = True
        x = steps(1, 9)[0].observation
        initial = learner.act(x, explore=False)
        _drive(learner, 12, float)
        hooks.append(lambda: _drive(learner, 4, float, update=False) and None)
        assert learner.snapshot() == 2
        assert learner.takeover_is_due
        assert learner.status()["champion"] == 1
        assert learner.status()["trials"]["takeovers"] == 0
        assert np.array_equal(learner.act(x, explore=False), initial)
        assert learner.snapshot() == 3
        assert not learner.takeover_is_due
        assert (learner.status()["champion"], learner.status()["trials"]["takeovers"]) == (3, 1)


def test_a_takeover_on_a_disk_that_fails_stays_due_until_it_is_kept() -> None:
    disk = FaultyDisk()
    with _learner(STATE, rule=QUICK_TRIALS, disk=disk) as learner:
        x = steps(1, 9)[0].observation
        initial = learner.act(x, explore=False)
        _drive(learner, 16, float, update=False)
        disk.fail(len(disk.operations), errno.ENOSPC, lasting=True)
        assert learner.update() == 1
        assert learner.takeover_is_due
        assert learner.status()["champion"] == 1
        assert learner.status()["disk"]["errors"] == 1
        assert "No space left" in learner.status()["last_error"]
        assert np.array_equal(learner.act(x, explore=False), initial)
        disk.fail(-1, 0)
        assert learner.update() == 1
        assert learner.status()["champion"] == 2
        assert learner.status()["trials"]["takeovers"] == 1


@EACH_ALGORITHM
def test_divergence_after_a_takeover_goes_back_to_the_new_champion() -> None:
    with _learner(STATE, rule=QUICK_TRIALS) as learner:
        _drive(learner, 24, float)
        assert learner.status()["champion"] == 2
        champion = _bytes_in(STATE / "snapshot-00000002.safetensors")
        for step in steps(20):
            _observe(learner, step._replace(boundary=Boundary.CONTINUES))
            assert learner.update() == 1
        assert _bytes(learner) != champion
        assert learner.status()["champion"] == 2
        learner.challenger.restart()
        assert _bytes(learner) == champion


@pytest.mark.parametrize("name", ["weight", "second_moment", "target", "bias"])
def test_what_is_not_finite_is_never_kept(name: str) -> None:
    """However it came about: the snapshot holds the champion's state, from which learning goes on."""
    with _learner(STATE) as learner:
        initial = _bytes(learner)
        _fill(learner)
        for _ in range(9):
            learner.update()
        getattr(learner.challenger.arena.layers[2][1], name).reshape(-1)[3] = np.inf
        learner.snapshot()
        assert _bytes(learner) == initial
        assert learner.status()["trials"]["divergences"] == 1
        assert learner.update() == 1
    with _learner(STATE) as learner:
        assert _bytes(learner) == initial
        assert learner.rejected == []


def test_a_bundle_whose_numbers_overflow_is_kept_as_it_was() -> None:
    """Weights that are finite, and whose decay squared is not."""
    write_bundle(config=learner_config(weight_decay=1.0))
    with TensorReader(BUNDLE, "learner", 1) as reader:
        n_bytes, read = reader.shapes["state"][1][0], partial(reader.read_into, "state")
        arena = LearnerArena.from_state(library(), n_bytes, read, lambda _: None)
    arena.layers[0][0].weight[:] = 1e25
    _rewrite(BUNDLE, "learner", {"state": arena.state})
    with _learner(STATE) as learner:
        initial = _bytes(learner)
        for number, step in enumerate(steps(80)):
            _observe(learner, step)
            assert learner.update() == (number >= 7)
            if number % 30 == 29:
                learner.snapshot()
    with _learner(STATE) as learner:
        _assert_finite(learner)
        assert _weights(learner) in initial
        assert learner.status()["trials"]["divergences"] > 0


@EACH_ALGORITHM
@pytest.mark.parametrize("every", [1, 2])
@pytest.mark.parametrize("state", [STATE, None])
def test_a_learning_policy_whose_answer_is_no_number_drives_no_further(state: Path | None, every: int) -> None:
    """Its weights are finite, and their sums are not: the champion drives on, the trial is over at once, and learning
    restarts from the champion with the next update."""
    with _learner(state, rule=TrialRule(every=every, window_steps=8, recent=3, least=3)) as learner:
        initial, champion, x = _bytes(learner), Policy(learner.policy()), np.array([1, -2, 3], np.float32)
        _fill(learner, 8)
        overflowing = LearnerArena(library(), learner_config())
        for layer in overflowing.layers[0]:
            layer.weight[:] = np.copysign(3e38, layer.weight)
        arena = learner.challenger.arena
        arena.load_state(lambda memory, offset: np.copyto(memory, overflowing.state[offset:][: len(memory)]))
        assert np.isnan(arena.act(x)).any()
        trials = []
        for _ in range(40):
            assert np.abs(learner.act(x, explore=False) - champion(x)).max() < 3e-6
            trials.append(learner.trials.challenger_drives)
            assert learner.observe(x, champion(x), 5.0, x)
        assert sum(trials) == (40 if every == 1 else 5), "eight steps of the champion, then one"
        status = learner.status()
        assert (status["refused_observations"], status["trials"]["takeovers"]) == (0, 0)
        assert status["trials"]["challenger"]["scores"] == []
        learner.update()
        assert learner.status()["trials"]["divergences"] == 1
        assert _bytes(learner) == initial
        while not learner.trials.challenger_drives:
            assert learner.observe(x, champion(x), 5.0, x)
        assert np.abs(learner.act(x, explore=False) - champion(x)).max() < 3e-6
        assert learner.update() == 1
        assert learner.trials.challenger_drives, "it is tried again"


def test_a_snapshot_begins_anew_from_the_champion_where_the_learning_policy_has_no_answer() -> None:
    with _learner(STATE, rule=ALWAYS) as learner:
        initial = _bytes(learner)
        _fill(learner)
        while learner.update():
            pass
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(learner.challenger.arena, "act", lambda _: np.full(2, np.nan, np.float32))
            learner.act(np.ones(3))
        learner.snapshot()
        assert _bytes(learner) == initial
        assert learner.status()["trials"]["divergences"] == 1


def test_where_the_champion_cannot_be_read_it_drives_on_and_nothing_is_overwritten() -> None:
    with _learner(STATE, rule=ALWAYS) as learner:
        initial, x = Policy(learner.policy()), steps(1, 9)[0].observation
        _fill(learner)
        for _ in range(9):
            learner.update()
        number = learner.snapshot()
        kept = _bytes(learner)
        for kind in ("snapshot", "champion"):
            os.truncate(STATE / f"{kind}-00000001.safetensors", 5000)
        learner.challenger.restart()
        assert not learner.is_learning
        status = learner.status()
        assert status["last_error"].startswith("learning has stopped: state/snapshot-00000001.safetensors ")
        assert status["updates"] == 9
        assert learner.update() == 0
        for step in steps(30):
            assert np.abs(learner.act(x, explore=False) - initial(x)).max() < 3e-6
            assert _observe(learner, step._replace(reward=5.0))
        files = sorted(os.listdir(STATE))
        for action in (learner.snapshot, learner.policy):
            with pytest.raises(
                OutputError, match=r"^there is nothing to save: learning has stopped: state/snapshot-00000001"
            ):
                action()
        learner.sync()
        assert sorted(os.listdir(STATE)) == files
        assert learner.status()["trials"]["takeovers"] == 0
    assert _bytes_in(STATE / f"snapshot-{number:08d}.safetensors") == kept


# Restarts.


def _episode(learner: Learner, episode: int, *, length: int = 5, ends: bool = True) -> bytes:
    """One episode and as many updates; every action and all that learns afterwards, in one string of bytes."""
    log = []
    for number, step in enumerate(steps(length, seed=episode)):
        action = learner.act(step.observation)
        log.append(action.tobytes())
        learner.observe(step.observation, action, step.reward, step.following, terminated=ends and number == length - 1)
        while learner.update(work=3000):
            pass
        learner.update()
    return b"".join([*log, _bytes(learner)])


EPISODES = 12


def _metadata_in(path: Path) -> dict[str, Any]:
    with TensorReader(path, "snapshot", 1) as reader:
        return {name: value for name, value in reader.metadata.items() if name != "sha256"}


@EACH_ALGORITHM
@pytest.mark.parametrize("storage", ["ram", "mapped"])
@pytest.mark.parametrize(
    ("precision", "keep", "n_step", "normalise"),
    [
        ("fp32", "ring", 1, False),
        ("fp16", "ring", 3, True),
        ("fp32", "reservoir", 1, True),
        ("fp16", "reservoir", 1, False),
    ],
)
def test_a_restart_after_a_snapshot_between_two_episodes_changes_nothing_at_all(
    precision: str, keep: str, n_step: int, normalise: bool, storage: str
) -> None:
    """The definition: where every allowed update was made, and the last transition ended an episode, what a learner
    does after snapshot, close (or SIGKILL) and load is to the bit what it would have done without them: every action,
    every number that learns and is counted, every byte of the log."""
    config = learner_config(n_step=n_step, seed=5)
    replay = {"precision": precision, "keep": keep, "capacity": 33}
    write_bundle(config=config, precision=precision, normalise=normalise, replay=replay)
    options: dict[str, Any] = {"rule": TrialRule(every=2, window_steps=8, recent=3, least=3), "storage": storage}
    with _learner(Path("reference"), **options) as learner:
        expected = []
        for episode in range(EPISODES):
            expected.append(_episode(learner, episode))
            learner.snapshot()
    for restarts in ({1}, {6}, {11}, set(range(EPISODES)), {4, 5, 9}):
        shutil.rmtree(STATE, ignore_errors=True)
        learner = _load(STATE, **options)
        for episode in range(EPISODES):
            assert _episode(learner, episode) == expected[episode], (restarts, episode)
            learner.snapshot()
            if episode in restarts:
                learner.close()
                learner = _load(STATE, **options)
        learner.close()
        assert (STATE / LOG).read_bytes() == (Path("reference") / LOG).read_bytes()
        for path in Path("reference").glob("snapshot-*"):
            assert _metadata_in(STATE / path.name) == _metadata_in(path)
            assert _bytes_in(STATE / path.name) == _bytes_in(path)


def test_a_restart_in_the_midst_of_an_episode_ends_it_in_a_gap_and_its_window() -> None:
    """What learns is the same all the same (returns of one reward look at no boundary but the end)."""
    write_bundle(config=learner_config(seed=5))
    with _learner(Path("reference"), rule=ALWAYS) as learner:
        expected = []
        for episode in range(6):
            expected.append(_episode(learner, episode, ends=False))
            learner.snapshot()
        assert learner.status()["trials"]["windows"] == 0
    learner = _load(STATE, rule=ALWAYS)
    for episode in range(6):
        assert (
            _episode(learner, episode, ends=False)[-len(_bytes(learner)) :]
            == expected[episode][-len(_bytes(learner)) :]
        )
        learner.snapshot()
        learner.close()
        learner = _load(STATE, rule=ALWAYS)
    boundaries = learner.experience.transitions.records["boundary"][: learner.experience.transitions.size]
    assert boundaries.reshape(6, 5).tolist() == [[0, 0, 0, 0, 3]] * 6
    assert learner.status()["trials"]["windows"] == 6
    assert learner.counters.steps == 30
    learner.close()


@EACH_ALGORITHM
@pytest.mark.parametrize("storage", ["ram", "mapped"])
def test_a_learner_that_is_killed_goes_on_from_its_last_snapshot_with_every_transition(storage: str) -> None:
    """Killed after any call: the networks are those of the last snapshot, the memory has all that `observe` returned
    from, and two restarts from there do the same."""
    write_bundle(config=learner_config(n_step=2))
    calls = 0
    with _learner(STATE, storage=storage) as learner:
        snapshot = _bytes(learner)
        for number, step in enumerate(steps(30)):
            for call in (
                lambda step=step: _observe(learner, step),
                lambda number=number: learner.update(work=500 + 97 * number),
                *([learner.sync] if number % 7 == 6 else []),
                *([learner.snapshot] if number % 11 == 10 else []),
            ):
                call()
                if call == learner.snapshot:
                    snapshot = _bytes(learner)
                calls += 1
                after = []
                for folder in (Path("a"), Path("b")):
                    shutil.copytree(STATE, folder)
                    with _learner(folder, storage=storage) as resumed:
                        assert _bytes(resumed) == snapshot
                        assert resumed.counters.steps == number + 1
                        assert not resumed.is_new
                        assert resumed.rejected == []
                        rows = resumed.experience.transitions.records["reward"][: resumed.experience.transitions.size]
                        assert rows.tolist() == [s.reward for s in steps(30)[: number + 1]]
                        if calls % 5 == 0:
                            after.append((_episode(resumed, 3), resumed.snapshot(), (folder / LOG).read_bytes()))
                    shutil.rmtree(folder)
                assert len(set(after)) <= 1
    assert calls > 60


def test_a_restart_without_anything_new_changes_nothing() -> None:
    with _learner(STATE) as learner:
        _episode(learner, 0)
        learner.observe([np.nan] * N, [0.0] * M, 0, [0.0] * N)
        learner.act([np.nan] * N)
        learner.snapshot()
        expected, state = learner.status(), _bytes(learner)
        expected["disk"].update(bytes_written=0)
        expected |= {"critic_loss": 0, "value": 0}
    log = (STATE / LOG).read_bytes()
    for _ in range(3):
        with _learner(STATE) as learner:
            found = learner.status()
            found["disk"].update(bytes_written=0)
            assert found == expected
            assert _bytes(learner) == state
            assert not learner.is_new
        assert (STATE / LOG).read_bytes() == log
    with closing(Learner.load(STATE)) as learner:
        assert _bytes(learner) == state, "the folder is enough"


def test_saturations_and_other_counts_survive() -> None:
    write_bundle(precision="fp16")
    with _learner(STATE) as learner:
        for reward in (1.0, -4.0):
            learner.observe([1e6, 0, 0], [0.0] * M, reward, [0, -1e6, 1e7], truncated=True)
        learner.counters.seconds += 12.5
        assert learner.status()["saturations"] == 6
        learner.snapshot()
    with _learner(STATE) as learner:
        learner.observe([1e6, 0, 0], [0.0] * M, 0, [0.0] * N)
        status = learner.status()
        assert (status["saturations"], status["episodes"], status["seconds"]) == (7, 2, 12.5)
        assert (status["largest_reward"], status["steps"]) == (4, 3)


def test_the_bundles_transitions_are_there_from_the_start() -> None:
    seed = steps(30)
    for precision in ("fp32", "fp16"):
        write_bundle(seed=seed, precision=precision)
        with _learner(Path(precision)) as learner:
            memory = learner.experience.transitions
            rows = engine_rows(memory.structure(None, None), memory.shape.row_bytes)
            expected = seed_rows(seed, half=precision == "fp16")
            last = np.array([seed[-1].boundary or Boundary.GAP], np.float32).tobytes()
            assert rows == [*(row.tobytes() for row in expected[:-1]), expected[-1][:-4].tobytes() + last]
            assert learner.status()["replay"]["size"] == 30
            assert learner.counters.steps == 0
            assert learner.update() == 0, "they allow no update"
            learner.observe([0.0] * N, [0.0] * M, 0, [0.0] * N)
            assert learner.update() == 1
        with _learner(Path(precision)) as learner:
            assert learner.status()["replay"]["size"] == 31
    write_bundle(seed=steps(900), memory=40_000)
    with _learner() as learner:
        assert learner.status()["replay"]["size"] == learner.memory.capacity < 900


def _lose_snapshots(state: Path) -> None:
    for kind in ("snapshot", "champion"):
        for path in state.glob(f"{kind}-*"):
            path.unlink()


@pytest.mark.parametrize("count", [1, 20, 30])
def test_a_log_whose_seed_was_not_planted_to_its_end_is_begun_anew(count: int) -> None:
    """Somebody was killed meanwhile."""
    write_bundle(seed=steps(30)[:count])
    with _learner(STATE):
        pass
    _lose_snapshots(STATE)
    write_bundle(seed=steps(30))
    with _learner(STATE) as learner, _learner() as expected:
        assert learner.is_new
        assert learner.experience.transitions.records.tobytes() == expected.experience.transitions.records.tobytes()
        assert learner.status()["replay"]["size"] == 30


def test_a_log_that_no_snapshot_knows_is_kept() -> None:
    write_bundle(seed=steps(30))
    with _learner(STATE) as learner:
        _fill(learner, 3)
        rows = learner.experience.transitions.records.copy()
    _lose_snapshots(STATE)
    with _learner(STATE) as learner:
        assert learner.is_new
        assert learner.status()["replay"]["size"] == 33
        assert np.array_equal(learner.experience.transitions.records["number"], rows["number"])


def test_what_a_learner_began_with_stays() -> None:
    write_bundle()
    _load(STATE, memory=100_000, keep="reservoir").close()
    with _learner(STATE, memory=100_000, keep="reservoir", storage="mapped", updates_per_step=2) as learner:
        assert learner.memory.total <= 100_000
    for options, problem in (
        (
            {"memory": 99_000},
            r"^the state folder's memory is 100000, not 99000; leave it out, or start in another folder$",
        ),
        (
            {"keep": "ring"},
            r"^the state folder's replay policy is reservoir, not ring; leave it out, or start in another",
        ),
    ):
        with pytest.raises(ConfigError, match=problem):
            _load(STATE, **options)


def test_another_rule_begins_the_trials_anew() -> None:
    with _learner(STATE, rule=QUICK_TRIALS) as learner:
        _drive(learner, 12, float, update=False)
        learner.snapshot()
        windows = learner.status()["trials"]["windows"]
    with _learner(STATE, rule=QUICK_TRIALS) as learner:
        assert learner.status()["trials"]["windows"] == windows == 3
    with _learner(STATE) as learner:
        assert learner.status()["trials"]["windows"] == 0


def test_a_folder_is_one_learners_and_a_failed_start_lets_go_of_it() -> None:
    files = len(os.listdir("/proc/self/fd"))
    with (
        _learner(STATE),
        pytest.raises(OutputError, match=r"^state is in use by another process; stop that one first$"),
    ):
        _load(STATE)
    write_bundle(Path("other.safetensors"), seed=steps(3))
    _rewrite(Path("other.safetensors"), "learner", {"seed": np.full((3, 40), 255, np.uint8)})
    for path, options in ((Path("other.safetensors"), {}), (BUNDLE, {"memory": 10_000, "keep": "ring"})):
        with pytest.raises((FileFormatError, ConfigError), match=r"seed transition is not finite|the memory is"):
            _load(Path("fresh"), path=path, **options)
        assert len(os.listdir("/proc/self/fd")) == files
    with _learner(Path("fresh")) as learner:
        assert learner.is_new
    assert len(os.listdir("/proc/self/fd")) == files


def test_no_snapshot_that_is_whole_is_said() -> None:
    with _learner(STATE):
        pass
    for kind in ("snapshot", "champion"):
        os.truncate(STATE / f"{kind}-00000001.safetensors", 100)
    reasons = r"^state holds no snapshot that is whole: \S+00000001\.safetensors .*; \S+00000001\.safetensors .*; "
    with pytest.raises(FileFormatError, match=reasons + "name the bundle$"):
        Learner.load(STATE)
    with pytest.raises(FileFormatError, match=reasons + "other is not there; expected a file$"):
        Learner.load("other", state=STATE)
    with _learner(STATE) as learner:
        assert learner.is_new
        assert len(learner.rejected) == 2
    with _learner(STATE) as learner:
        assert not learner.is_new
        assert learner.rejected == []
    assert len(list(STATE.glob("rejected-*"))) == 2


# Files that are damaged.


def _grown(folder: Path) -> tuple[bytes, bytes]:
    """A state folder with a takeover, and a snapshot after it: what learns, and what the champion does."""
    with _learner(folder, rule=QUICK_TRIALS) as learner:
        _drive(learner, 24, float)
        assert learner.status()["champion"] == 2
        for step in steps(9):
            _observe(learner, step)
            assert learner.update() == 1
        assert learner.snapshot() == 3
        return _bytes(learner), learner.act(np.ones(N), explore=False).tobytes()


def test_one_bit_of_the_champions_file_loses_nothing() -> None:
    """The champion drives on, what was learnt goes on, and divergence leads back to where the champion was made."""
    state, action = _grown(STATE)
    champion = _bytes_in(STATE / "snapshot-00000002.safetensors")
    for kind in ("snapshot", "champion"):
        shutil.copytree(STATE, folder := Path(f"{kind}-damaged"))
        path = folder / f"{kind}-00000002.safetensors"
        data = bytearray(path.read_bytes())
        data[-1] ^= 1
        path.write_bytes(data)
        with _learner(folder, rule=QUICK_TRIALS) as learner:
            assert not learner.is_new
            assert learner.rejected == [
                f"{path} has been altered: its SHA-256 does not match its content; make the file again"
            ]
            assert (_bytes(learner), learner.status()["champion"]) == (state, 2)
            assert learner.act(np.ones(N), explore=False).tobytes() == action
            learner.challenger.restart()
            assert learner.is_learning
            assert _bytes(learner) == champion
            learner.snapshot()
        assert (folder / f"rejected-00000001-{path.name}").read_bytes() == data
        assert _bytes_in(path) == champion


def test_where_the_champion_is_lost_the_bundles_policy_drives_and_what_was_learnt_goes_on() -> None:
    with _learner() as learner:
        bundles, initial = learner.act(np.ones(N), explore=False).tobytes(), _bytes(learner)
    state, action = _grown(STATE)
    assert action != bundles
    for kind in ("snapshot", "champion"):
        os.truncate(STATE / f"{kind}-00000002.safetensors", 100)
    files = {path: path.read_bytes() for path in STATE.iterdir()}
    with pytest.raises(FileFormatError, match=r"^state holds no snapshot that is whole: .*; name the bundle$"):
        Learner.load(STATE)
    write_bundle(Path("other.safetensors"), learner_config(widths=(5, 4)))
    write_bundle(Path("normalised.safetensors"), normalise=True)
    for name in ("other", "normalised"):
        with pytest.raises(
            FileFormatError, match=rf"^{name}\.safetensors is not the bundle of state/snapshot-00000003\.s"
        ):
            _load(STATE, path=Path(f"{name}.safetensors"))
    assert {path: path.read_bytes() for path in STATE.iterdir()} == files, "a refusal changes nothing"
    for expected in ("; the policy in learner.safetensors is its champion again", None):
        with _learner(STATE, rule=QUICK_TRIALS) as learner:
            assert not learner.is_new
            assert (learner.rejected[-1][-len(expected) :] if learner.rejected else None) == expected
            assert _bytes(learner) == state
            assert learner.act(np.ones(N), explore=False).tobytes() == bundles
            learner.challenger.restart()
            assert _bytes(learner) == initial
    assert len(list(STATE.glob("rejected-*"))) == 2


def test_a_folder_that_cannot_be_read_for_a_moment_is_left_as_it_is() -> None:
    _grown(STATE)
    files = sorted(os.listdir(STATE))

    class OutOfReach(_Careless):
        def _read_some(self, *_: Any) -> int:
            raise OSError(errno.EIO, os.strerror(errno.EIO))

    with pytest.raises(
        OutputError, match=r"^state cannot be read: cannot read state/snapshot-00000003\.s.*; it was left a"
    ):
        _load(STATE, disk=OutOfReach())
    assert sorted(os.listdir(STATE)) == files
    with _learner(STATE) as learner:
        assert not learner.is_new
        assert learner.rejected == []


def test_a_log_that_is_lost_is_said() -> None:
    state, _ = _grown(STATE)
    (STATE / LOG).unlink()
    with _learner(STATE, rule=QUICK_TRIALS) as learner:
        assert learner.rejected == ["state/transitions.log lost all of its 33 transitions"]
        assert _bytes(learner) == state
        assert (learner.status()["replay"]["size"], learner.status()["replay"]["seen"]) == (0, 33)
        _fill(learner, 9)
        assert learner.update() == 1
    write_bundle(Path("fresh.safetensors"))
    with _learner(Path("refused"), path=Path("fresh.safetensors")) as learner:
        for _ in range(3):
            learner.observe([np.nan] * N, [0.0] * M, 0, [0.0] * N)
        learner.snapshot()
    with _learner(Path("refused")) as learner:
        assert learner.rejected == [], "there never was one"


@pytest.mark.parametrize("content", [b"To do: buy milk.\n", b"edgerl transitions 1\n{}".ljust(5000, b"\0")])
def test_a_log_that_is_not_this_learners_is_not_overwritten(content: bytes) -> None:
    """Where the folder holds a learner it is set aside, and a file that is not a log at all is refused before that."""
    state, _ = _grown(STATE)
    (STATE / LOG).write_bytes(content)
    found = "the log of another learner" if content.startswith(b"edgerl") else "not a log of a learner"
    with _learner(STATE, rule=QUICK_TRIALS) as learner:
        assert learner.rejected == [
            f"state/transitions.log is {found}; a new one was started",
            "state/transitions.log lost all of its 33 transitions",
        ]
        assert _bytes(learner) == state
    assert (STATE / "rejected-00000001-transitions.log").read_bytes() == content
    (fresh := Path("fresh")).mkdir()
    (fresh / LOG).write_bytes(content)
    if content.startswith(b"edgerl"):  # somebody began with another memory, and was killed
        with _learner(fresh) as learner:
            assert learner.is_new
        assert (fresh / "rejected-00000001-transitions.log").read_bytes() == content
        return
    with pytest.raises(FileFormatError, match=r"^fresh/transitions\.log is not a log of a learner; move it away"):
        _load(fresh)
    assert os.listdir(fresh) == [LOG]
    assert (fresh / LOG).read_bytes() == content


@pytest.mark.parametrize("has_learner", [False, True])
def test_a_log_that_is_a_link_is_refused_and_what_it_leads_to_is_not_touched(has_learner: bool) -> None:
    target = Path("precious")
    target.write_bytes(b"precious")
    STATE.mkdir()
    if has_learner:
        _grown(STATE)
        (STATE / LOG).rename("log")
    (STATE / LOG).symlink_to(target.absolute())
    files = sorted(os.listdir(STATE))
    with pytest.raises(OutputError, match=r"^cannot open state/transitions\.log: transitions\.log is a link, and"):
        _load(STATE)
    assert sorted(os.listdir(STATE)) == files
    assert target.read_bytes() == b"precious"


# Refusals.


def _refuse_bundle() -> None:
    Path("x.onnx").write_bytes(b"no bundle")
    with pytest.raises(FileFormatError, match=r"^x\.onnx is a text file; expected a learner\.safetensors"):
        _load(Path("deep", "state"), path=Path("x.onnx"))


def _refuse_memory() -> None:
    with pytest.raises(ConfigError, match=r"^the memory is 99 bytes"):
        _load(Path("deep", "state"), memory=99)


def _refuse_seed() -> None:
    write_bundle()
    _rewrite(BUNDLE, "learner", {"seed": np.full((3, 40), 255, np.uint8)})
    with pytest.raises(FileFormatError, match=r"seed transition is not finite"):
        _load(Path("deep", "state"))


def _fail_at_every_operation() -> None:
    _load(Path("whole"), disk=(whole := FaultyDisk())).close()
    shutil.rmtree("whole")
    for number in range(len(whole.operations)):
        for code in (errno.ENOSPC, errno.EROFS):
            disk = FaultyDisk()
            disk.fail(number, code)
            with contextlib.suppress(OutputError, FileFormatError):
                _load(Path("deep", "state"), disk=disk).withdraw()
            assert not Path("deep").exists(), (number, whole.operations[number])


def _withdraw() -> None:
    learner = _load(Path("deep", "state"))
    _fill(learner)
    assert {LOG, "lock", "snapshot-00000001.safetensors"} < set(os.listdir("deep/state"))
    learner.withdraw()


REFUSALS = [_refuse_bundle, _refuse_memory, _refuse_seed, _fail_at_every_operation, _withdraw]


@pytest.mark.parametrize("refuse", REFUSALS)
def test_a_refusal_leaves_nothing(refuse: Callable[[], None]) -> None:
    write_bundle()
    refuse()
    assert not Path("deep").exists()
    if refuse is not _fail_at_every_operation:  # it counts on folders that are new
        Path("deep/state").mkdir(parents=True)
        Path("deep/state/notes").write_bytes(b"mine")
        refuse()
        assert os.listdir("deep/state") == ["notes"]


def test_a_refusal_where_a_learner_has_begun_leaves_all_of_it() -> None:
    _grown(STATE)
    _load(STATE, rule=QUICK_TRIALS).close()  # which ends the episode that was under way
    files = {path: path.read_bytes() for path in STATE.iterdir()}
    with pytest.raises(ConfigError, match=r"^the state folder's memory is 131072, not 99999"):
        _load(STATE, memory=99_999)
    _load(STATE, rule=QUICK_TRIALS).withdraw()
    assert {path: path.read_bytes() for path in STATE.iterdir()} == files


# Power cuts and disks that fail.


class _Life:
    """Observes, updates, syncs and snapshots, with a takeover on the way; what must be there whenever it ends."""

    def __init__(self, storage: str) -> None:
        self.options: dict[str, Any] = {"rule": QUICK_TRIALS, "storage": storage}
        self.returned = 0  # the number of the last snapshot that returned
        self.observed = self.synced = 0  # transitions; those before the last sync that returned
        self.refusals = 0

    def run(self, disk: Disk, *, count: int = 18) -> None:
        bundle = Path.cwd().parent / BUNDLE
        with closing(Learner.load(bundle, state=STATE, disk=disk, **self.options)) as learner:
            self._note(learner)
            for number, step in enumerate(steps(count)):
                action = learner.act(step.observation)
                reward = float(learner.trials.challenger_drives) + number * 2.0**-10  # by which it is known
                self.observed += 1
                learner.observe(step.observation, action, reward, step.following, terminated=number % 3 == 2)
                learner.update(work=100_000)
                self._note(learner)
                if number % 5 == 4 and self._is_done(learner.sync):
                    self.synced = self.observed
                if number % 9 == 8 and self._is_done(learner.snapshot):
                    self._note(learner)
            self.after(learner)

    def after(self, learner: Learner) -> None:
        """What a life ends with."""

    def _is_done(self, action: Callable[[], object]) -> bool:
        try:
            action()
        except OutputError:
            self.refusals += 1
            return False
        return True

    def _note(self, learner: Learner) -> None:
        if learner.counters.snapshots > self.returned:
            self.returned, self.synced = learner.counters.snapshots, self.observed


class _Watched(_Careless):
    """Notes the state in every snapshot that is written."""

    def __init__(self) -> None:
        self.states: list[bytes] = []

    def replace(self, source: Path, goal: Path) -> None:
        if goal.name.startswith("snapshot-"):
            self.states.append(_bytes_in(source))
        super().replace(source, goal)


def _reference(tmp_path: Path, storage: str) -> list[bytes]:
    """The state of each snapshot of a life that nothing disturbs."""
    write_bundle(tmp_path / BUNDLE)
    (tmp_path / "reference").mkdir()
    os.chdir(tmp_path / "reference")
    life, disk = _Life(storage), _Watched()
    life.run(disk)
    assert (life.returned, life.synced, len(disk.states)) == (4, 18, 4), "at the start, two, and a takeover"
    return disk.states


def _check_found(learner: Learner, life: _Life, states: list[bytes]) -> None:
    """A snapshot no older than the last that returned, and every transition that was synced."""
    assert _bytes(learner) in states[max(life.returned - 1, 0) :] or (learner.is_new and not life.returned)
    assert learner.rejected == []
    rewards = learner.experience.transitions.records["reward"][: learner.experience.transitions.size]
    found = {round(float(reward % 1) * 1024) for reward in rewards}
    assert set(range(life.synced)) <= found <= set(range(life.observed))
    assert len(rewards) >= len(found)
    assert life.synced <= learner.counters.steps <= life.observed


@pytest.mark.parametrize("storage", ["ram", "mapped"])
def test_a_power_cut_at_any_operation_loses_nothing_that_was_kept(storage: str, tmp_path: Path) -> None:
    states = _reference(tmp_path, storage)
    (tmp_path / "whole").mkdir()
    os.chdir(tmp_path / "whole")
    _Life(storage).run(whole := FaultyDisk())
    for cut in range(len(whole.operations) + 1):
        (folder := tmp_path / str(cut)).mkdir()
        os.chdir(folder)
        life, disk = _Life(storage), FaultyDisk()
        disk.power_cut(cut, seed=cut)
        with contextlib.suppress(PowerCut):
            life.run(disk)
        disk.after_power_cut(folder)
        with closing(Learner.load(tmp_path / BUNDLE, state=STATE, disk=_Careless(), **life.options)) as learner:
            _check_found(learner, life, states)
            _fill(learner, 9)
            assert learner.update() == 1
            learner.snapshot()
    assert life.returned == 4


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EIO, SHORT])
@pytest.mark.parametrize("lasting", [False, True])
def test_a_disk_that_fails_stops_neither_acting_nor_learning(lasting: bool, code: int, tmp_path: Path) -> None:
    """And what could not be kept is, by the first snapshot that succeeds."""
    _reference(tmp_path, "ram")
    with _learner(Path("start"), disk=(start := FaultyDisk()), **_Life("ram").options):
        first = len(start.operations)
    (tmp_path / "whole").mkdir()
    os.chdir(tmp_path / "whole")
    _Life("ram").run(whole := FaultyDisk())

    class Mended(_Life):
        def after(self, learner: Learner) -> None:
            disk.fail(-1, 0)
            learner.snapshot()
            self.state, self.champion = _bytes(learner), learner.status()["champion"]
            assert learner.status()["updates"] == 11
            disk.after_power_cut(Path.cwd())

    for number in range(first, len(whole.operations) - 1):
        (folder := tmp_path / str(number)).mkdir()
        os.chdir(folder)
        life, disk = Mended("ram"), FaultyDisk()
        disk.fail(number, code, lasting=lasting)
        with contextlib.suppress(PowerCut):  # when it is closed
            life.run(disk)
        with closing(Learner.load(STATE, disk=_Careless(), **life.options)) as learner:
            assert _bytes(learner) == life.state
            assert learner.status()["champion"] == life.champion
            assert learner.counters.steps == learner.experience.transitions.size == 18
            assert learner.status()["replay"]["damaged"] == 0


# Snapshots that cannot be.


HOSTILE_METADATA: dict[str, tuple[dict[str, Any], str]] = {
    "counters": ({"counters": {}}, "its counters are of another version of edgerl"),
    "a count": ({"counters": "steps=-1"}, "its steps is -1, expected a count"),
    "a count that is none": ({"counters": "steps=true"}, "its steps is True, expected a count"),
    "number": ({"number": -1}, "its number of transitions is -1, expected a count"),
    "large number": ({"number": 1 << 53}, "its number of transitions is 9007199254740992, expected a count"),
    "trials": ({"trials": []}, "the trials' state does not have the keys"),
    "about": ({"about": []}, "its metadata 'about' is not a JSON object"),
    "noise": ({"exploration_noise": 11}, "its exploration_noise is 11, expected 0 to 10"),
    "no noise": ({"exploration_noise": None}, "its exploration_noise is None, expected 0 to 10"),
    "replay": (
        {"replay": {"precision": "fp8", "keep": "ring"}},
        "the replay's precision is 'fp8', expected fp32, fp16",
    ),
    "no replay": ({"replay": None}, "its replay is not described by precision, keep, memory_bytes and capacity"),
    "constants": (
        {"replay": {"precision": "fp16", "keep": "ring"}},
        "its replay is fp16, and the constants of its storage are missing",
    ),
}


@pytest.mark.parametrize(("change", "problem"), HOSTILE_METADATA.values(), ids=HOSTILE_METADATA)
def test_snapshots_that_say_what_cannot_be(change: dict[str, Any], problem: str) -> None:
    """Their checksum is right."""
    with _learner(STATE):
        pass
    path = STATE / "snapshot-00000001.safetensors"
    if isinstance(change.get("counters"), str):
        with TensorReader(path, "snapshot", 1) as reader:
            name, _, value = change["counters"].partition("=")
            change = {"counters": reader.metadata["counters"] | {name: json.loads(value)}}
    _rewrite(path, "snapshot", {}, **change)
    with pytest.raises(FileFormatError, match=rf"is not valid: {re.escape(problem)}.*"):
        _load(STATE)


HOSTILE_TENSORS: dict[str, tuple[dict[str, Any], str]] = {
    "state of floats": ({"state": np.zeros(9, np.float32)}, "its state is not a list of bytes"),
    "no state": ({"state": np.zeros(0, np.uint8)}, "the learner's state: the arena"),
    "zeros": ({"state": np.zeros(1 << 15, np.uint8)}, "the learner's state: the arena holds no policy, or no learner"),
    "bounds": ({"action.low": HIGH, "action.high": LOW}, "an action bound's low is not below its high"),
    "bounds a step apart, upside down": (
        {"action.low": np.ones(M, np.float32), "action.high": np.full(M, 1 - 2**-24, np.float32)},
        "an action bound's low is not below its high",
    ),
    "equal bounds": ({"action.high": LOW}, "an action bound's low is not below its high"),
    "infinite bounds": ({"action.high": HIGH + np.float32(np.inf)}, "action.high holds a value that is not finite"),
    "long bounds": ({"action.high": np.ones(M + 1, np.float32)}, "action.high is float32[3], expected float32[2]"),
    "halves": ({"action.low": LOW.astype(np.float16)}, "action.low is float16[2], expected float32[2]"),
    "only a mean": (
        {"observation.mean": np.zeros(N, np.float32)},
        "observation_mean and observation_scale are not both",
    ),
    "scale of 0": (
        {"storage.mean": np.zeros(N, np.float32), "storage.scale": np.zeros(N, np.float32)},
        "a scale is not between 1e-30 and 1e30",
    ),
}


@pytest.mark.parametrize(("change", "problem"), HOSTILE_TENSORS.values(), ids=HOSTILE_TENSORS)
def test_bundles_that_hold_what_cannot_be(change: dict[str, Any], problem: str) -> None:
    write_bundle()
    _rewrite(BUNDLE, "learner", change)
    with pytest.raises(
        FileFormatError, match=rf"^learner\.safetensors is not valid: {re.escape(problem)}.*; export it"
    ):
        _load()


def test_constants_too_far_apart_are_refused() -> None:
    write_bundle(precision="fp16", normalise=True)
    _rewrite(BUNDLE, "learner", {"storage.mean": np.full(N, 1e38, "f4"), "storage.scale": np.full(N, 1e29, "f4")})
    with pytest.raises(
        FileFormatError, match=r"^the learner's constants are too far apart for float32 numbers; export it"
    ):
        _load()


@pytest.mark.parametrize("value", [None, -1, "1", True, 1e39, 1 << 200])
def test_a_largest_reward_that_cannot_be(value: Any) -> None:
    write_bundle(largest_reward=value)
    with pytest.raises(
        FileFormatError, match=r"^learner\.safetensors is not valid: its largest_reward is .*; export it"
    ):
        _load()


@pytest.mark.parametrize(
    "rows",
    [
        np.zeros((2, 41), np.uint8),
        np.zeros(40, np.uint8),
        np.zeros((2, 10), np.float32),
        np.full((2, 40), 0xFF, np.uint8),
        seed_rows([steps(1)[0]._replace(reward=np.inf)]),
        np.array([[0] * 39 + [0x80]], np.uint8) + np.array([[0] * 38 + [1, 0]], np.uint8),
    ],
)
def test_seeds_that_are_no_transitions(rows: Array) -> None:
    write_bundle()
    _rewrite(BUNDLE, "learner", {"seed": rows})
    with pytest.raises(
        FileFormatError, match=r"^learner\.safetensors is not valid: (its seed is not a list|a seed transition)"
    ):
        _load()


def test_networks_that_need_more_than_they_may_take_are_refused_before_they_take_it() -> None:
    """A state of a few KiB whose batch needs a hundred MiB."""
    config = learner_config(n=3, batch=65536, widths=(64, 9), percent=1)
    write_bundle(config=config, memory=1 << 22)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(
        ConfigError, match=r"^the memory is 4194304 bytes; expected more than the \d{8,} that the networks need$"
    ):
        _load()
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 32 << 10
