"""Clocks that jump: the wall clock by an hour ahead and back, and the monotonic one by an hour ahead, as where a laptop
that was suspended resumes."""

from __future__ import annotations

import json
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgerl.files.tensors import TensorReader
from edgerl.policy.compact import CompactPolicy, make_layer
from edgerl.policy.format import save
from tests.edge.compiled import run
from tests.edge.learners import learner_config, write_bundle

from .forked import Forked, forked

STEPS, HOUR = 1500, 3600

ROBOT = f'''"""A robot in whose life clocks jump; it ends the session itself, however fast that is."""

import ctypes
import os
import signal
import time

import gymnasium
import numpy as np


class Robot(gymnasium.Env):
    observation_space = gymnasium.spaces.Box(-np.inf, np.inf, (3,))
    action_space = gymnasium.spaces.Box(np.array([-1, -3], np.float32), np.array([2, 0.5], np.float32))
    jumps, end = {{}}, signal.SIGTERM

    def __init__(self):
        self.total = 0

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.age, self.state = 0, self.np_random.normal(size=3)
        return self.state.copy(), {{}}

    def step(self, action):
        self.total += 1
        self.age += 1
        self.state = 0.9 * self.state + 0.1 * float(action[0])
        if self.total in self.jumps:
            before = time.time(), time.monotonic()
            ctypes.CDLL(None).clock_jump(*map(ctypes.c_int64, self.jumps[self.total]))
            for earlier, now, jump in zip(before, (time.time(), time.monotonic()), self.jumps[self.total]):
                assert 0 <= now - earlier - jump < 1800, "it has jumped"
        if self.total == {STEPS}:
            os.kill(os.getpid(), self.end)
        return self.state.copy(), -float(abs(self.state[0])), False, self.age == 50, {{}}


class Wall(Robot):
    jumps = {{200: ({HOUR}, 0), 500: (-2 * {HOUR}, 0), 800: ({HOUR}, 0)}}


class Resumed(Robot):
    jumps = {{300: (0, {HOUR})}}


class Interrupted(Robot):
    end = signal.SIGINT


class InterruptedWall(Wall):
    end = signal.SIGINT


class InterruptedResumed(Resumed):
    end = signal.SIGINT
'''

WARM_UP = "import gymnasium, edgerl.edge.continual.session, edgerl.environments.make"


@pytest.fixture(scope="module")
def jumping(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Forked]:
    folder = tmp_path_factory.mktemp("clock")
    library = folder / "jumping_clock.so"
    run("gcc", "-shared", "-fPIC", "-O1", Path(__file__).with_name("jumping_clock.c"), "-o", library)
    with forked(WARM_UP, folder, library) as server:
        yield server


@pytest.fixture(autouse=True)
def robots() -> None:
    Path("jumpy.py").write_text(ROBOT)


def _learn(jumping: Forked, robot: str, *options: object) -> dict[str, Any]:
    """The last status of a session that the robot has ended."""
    write_bundle(config=learner_config(batch=8))
    ran = jumping.run(
        *("learn", "learner.safetensors", "--env", f"jumpy:{robot}", "--state", robot, "--hours", 0.5, "--json"),
        *("--trial-every", 1, "--sync-seconds", 1e5, "--snapshot-minutes", 1e4, *options),
    )
    assert (ran.code, ran.complaint.split()[1]) == (128 + signal.SIGTERM, "stopped"), ran.err
    last: dict[str, Any] = json.loads(ran.out.splitlines()[-1])
    assert (last["event"], last["reason"], last["steps"]) == ("stopped", "SIGTERM", STEPS)
    return last


def _learnt(folder: Path) -> tuple[dict[str, Any], bytes]:
    """All that the newest snapshot holds, but for the time that it took."""
    with TensorReader(max(folder.glob("snapshot-*")), "snapshot", 1) as reader:
        metadata = {name: value for name, value in reader.metadata.items() if name != "sha256"}
        del metadata["counters"]["seconds"]
        return metadata, b"".join(reader.read(name).tobytes() for name in sorted(reader.shapes))


@pytest.mark.soak
def test_jumps_of_a_clock_change_nothing_that_is_learnt(jumping: Forked) -> None:
    """Half an hour was requested: it would end at the first jump of the wall clock, if that were used."""
    _learn(jumping, "Robot", "--rate", 0)
    last = _learn(jumping, "Wall", "--rate", 0)
    assert 0 < last["seconds"] < HOUR / 2
    assert last["snapshots"] == 2, "the first, and the last one"
    resumed = _learn(jumping, "Resumed", "--rate", 0, "--hours", 100)
    assert HOUR < resumed["seconds"] < 2 * HOUR
    assert _learnt(Path("Wall")) == _learnt(Path("Resumed")) == _learnt(Path("Robot"))


@pytest.mark.soak
@pytest.mark.parametrize("robot", ["Wall", "Resumed"])
def test_at_a_rate_a_jump_is_no_burst(jumping: Forked, robot: str) -> None:
    last = _learn(jumping, robot, "--rate", 1000, "--hours", 100)
    control, hours = last["control"], robot == "Resumed"
    assert control["cycles"] == STEPS
    assert HOUR * 1000 * hours <= control["skipped_ticks"] + 2 < HOUR * 1000 * (hours + 0.5)
    assert control["jitter"]["maximum"] < HOUR / 2
    assert control["latency"]["maximum"] < HOUR / 2
    assert last["updates"] > 0


@pytest.mark.soak
@pytest.mark.parametrize("robot", ["Interrupted", "InterruptedWall", "InterruptedResumed"])
def test_a_policy_is_run_as_if_nothing_had_happened(jumping: Forked, robot: str) -> None:
    weight = np.random.default_rng(0).normal(size=(2, 3)).astype(np.float32)
    low, high = np.array([-1, -3], np.float32), np.array([2, 0.5], np.float32)
    policy = CompactPolicy((make_layer(weight, np.zeros(2, np.float32), 1),), low, high, metadata={})
    save(policy.with_example(np.ones(3, np.float32)), Path("policy.safetensors"))
    ran = jumping.run(
        "run", "policy.safetensors", "--env", f"jumpy:{robot}", "--rate", 1000, "--seconds", 1e5, "--json"
    )
    assert (ran.code, ran.complaint) == (130, "edgerl: interrupted"), ran.err
    report, hours = json.loads(ran.out), robot.endswith("Resumed")
    assert report["cycles"] in (STEPS - 1, STEPS)
    assert HOUR * hours <= report["seconds"] < HOUR * (hours + 0.5)
    assert HOUR * 1000 * hours <= report["skipped_ticks"] + 2 < HOUR * 1000 * (hours + 0.5)
    assert report["jitter"]["maximum"] < HOUR / 2
    assert report["latency"]["maximum"] < HOUR / 2
