"""Policies that are given single steps: in a loop, in threads, from either kind of file, with a state besides."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from edgerl.commands.export import export_policy
from edgerl.edge import ControlLoop, OnnxPolicy, Policy
from edgerl.edge.acting.actions import AdaptedPolicy
from edgerl.errors import ConfigError, FileFormatError, UnsupportedModelError
from edgerl.policy.cell import CellName
from edgerl.policy.compact import Array, CompactPolicy
from edgerl.policy.contract import Contract
from edgerl.policy.format import save
from tests.policy.policies import random_policy, recurrent_policy
from tests.policy.test_terms import Queues

CONTRACT = Contract(
    step_dt=(0.02,),
    observation_names=("speed", "joint_pos", "command"),
    observation_terms_size=(3, 1, 2),
    observation_terms_history_length=(3, 0, 2),
    observation_terms_scale=((0.25,), (3.0,), (0.05, 7.0)),
    observation_terms_clip=((-1.0, 0.5), (-np.inf, np.inf), (-np.inf, 0.1)),
    action_scale=(0.5,),
)
"""Of 6 numbers in a step, and 14 in an observation."""

STEPS = np.random.default_rng(3).normal(size=(60, 6)).astype(np.float32)


def policy_of_terms() -> CompactPolicy:
    return replace(random_policy(0, (14, 9, 7, 3)), contract=CONTRACT)


def expected_actions(policy: CompactPolicy, steps: Array) -> Array:
    queues = Queues(policy.contract)
    return policy(np.stack([queues.observe(step) for step in steps]), np.float64)


@pytest.mark.parametrize("kind", ["policy", "onnx"])
def test_a_policy_stacks_what_its_file_says(kind: str, tmp_path: Path) -> None:
    made = policy_of_terms()
    policy = replace(made.with_example(np.zeros(14, np.float32)))
    if kind == "policy":
        save(policy, tmp_path / "policy.safetensors")
        loaded: Policy | OnnxPolicy = Policy.load(tmp_path / "policy.safetensors")
    else:
        loaded = OnnxPolicy(export_policy(policy, "onnx", tmp_path / "policy.onnx").path)
    assert loaded.contract == CONTRACT
    stepwise = loaded.of_terms()
    assert (stepwise.n_observations, stepwise.n_actions) == (6, 3)
    for _ in range(2):
        actions = np.stack([stepwise(step) for step in STEPS])
        np.testing.assert_allclose(actions, expected_actions(policy, STEPS), atol=1e-5)
        stepwise.reset()


def test_a_recurrent_policy_is_reset_with_its_history() -> None:
    policy = replace(recurrent_policy("lstm", (14, 9, 7, 3))[0], contract=CONTRACT)
    stepwise = Policy(policy).of_terms()
    for _ in range(2):
        actions = np.stack([stepwise(step) for step in STEPS])
        np.testing.assert_allclose(actions, expected_actions(policy, STEPS), atol=1e-5)
        stepwise.reset()


@pytest.mark.parametrize("kind", ["policy", "onnx"])
@pytest.mark.parametrize("cell", [None, "gru", "lstm"])
def test_history_and_state_are_put_back(cell: CellName | None, kind: str, tmp_path: Path) -> None:
    made = random_policy(0, (14, 9, 7, 3)) if cell is None else recurrent_policy(cell, (14, 9, 7, 3))[0]
    policy = replace(made, contract=CONTRACT).with_example(np.zeros(14, np.float32))
    onnx = tmp_path / "policy.onnx"
    loaded = Policy(policy) if kind == "policy" else OnnxPolicy(export_policy(policy, "onnx", onnx).path)
    stepwise = AdaptedPolicy(loaded.of_terms(), Task(policy), "clip")
    alone = [stepwise(step) for step in STEPS]
    stepwise.reset()
    for step, action in zip(STEPS, alone, strict=True):
        kept = stepwise.restorable_state
        for other in STEPS[:3]:
            stepwise(other)
        stepwise.restorable_state = kept
        np.testing.assert_array_equal(stepwise(step), action)


class Task:
    """What takes the actions of a policy as they are."""

    def __init__(self, policy: CompactPolicy) -> None:
        self.name, self.n_observations, self.n_actions = "task", 6, policy.n_actions
        self.action_low, self.action_high = policy.action_low, policy.action_high


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_a_step_that_is_not_finite_leaves_the_history(bad: float) -> None:
    policy = policy_of_terms()
    stepwise = Policy(policy).of_terms()
    for step, action in zip(STEPS, expected_actions(policy, STEPS), strict=True):
        broken = step.copy()
        broken[2] = bad  # where a clip would make a number of it
        assert np.isnan(stepwise(broken)).all()
        np.testing.assert_allclose(stepwise(step), action, atol=1e-5)


def test_what_overflows_is_not_finite() -> None:
    stepwise = Policy(policy_of_terms()).of_terms()
    step = np.zeros(6, np.float32)
    step[3] = 3e38
    assert np.isnan(stepwise(step)).all()


def test_each_thread_has_its_own_history() -> None:
    policy = policy_of_terms()
    stepwise, expected = Policy(policy).of_terms(), expected_actions(policy, STEPS)
    stepwise(STEPS[5])
    seen: list[Array] = []
    thread = threading.Thread(target=lambda: seen.extend(stepwise(step) for step in STEPS))
    thread.start()
    thread.join()
    np.testing.assert_allclose(np.stack(seen), expected, atol=1e-5)


def test_a_step_of_another_length_is_refused() -> None:
    with pytest.raises(ValueError, match=r"the step has shape \(14,\); expected \(6,\)"):
        Policy(policy_of_terms()).of_terms()(np.zeros(14, np.float32))


def test_terms_that_the_file_does_not_size_are_refused() -> None:
    with pytest.raises(UnsupportedModelError, match=r"import it again, with --contract deploy\.yaml"):
        Policy(random_policy(0)).of_terms()


def test_metadata_of_another_policy_is_refused(tmp_path: Path) -> None:
    path = export_policy(random_policy(0), "onnx", tmp_path / "policy.onnx").path
    import onnx

    model = onnx.load(path)
    model.metadata_props.add(key="observation_terms_size", value="2,2")
    onnx.save(model, path)
    with pytest.raises(FileFormatError, match=r"its metadata has terms of 4 numbers, .* for 5 observations"):
        OnnxPolicy(path)


class Instant:
    """A clock that only sleeping moves."""

    def __init__(self) -> None:
        self.now = 0

    def __call__(self) -> int:
        self.now += 10
        return self.now

    def sleep(self, seconds: float) -> None:
        self.now += round(seconds * 1e9)


def test_a_loop_stacks_what_the_robot_measures() -> None:
    policy = policy_of_terms()
    measured: Iterator[Array] = iter(STEPS)
    sent: list[Array] = []
    clock = Instant()
    stepwise = Policy(policy).of_terms()
    loop = ControlLoop(stepwise, lambda: next(measured), sent.append, 50, np.zeros(3), clock=clock, sleep=clock.sleep)
    statistics = loop.run(len(STEPS) / 50)
    assert sum(statistics.fallbacks.values()) == 0
    np.testing.assert_allclose(np.stack(sent), expected_actions(policy, STEPS), atol=1e-5)


@pytest.mark.parametrize("is_stepwise", [True, False])
def test_a_loop_keeps_the_policys_rate(is_stepwise: bool) -> None:
    policy = Policy(policy_of_terms())
    given = policy.of_terms() if is_stepwise else policy
    ControlLoop(given, list, print, 49.9, np.zeros(3))
    with pytest.raises(ConfigError, match=r"rate is 100 Hz, and the policy's contract says 50 Hz \(step_dt 0\.02 s"):
        ControlLoop(given, list, print, 100, np.zeros(3))


def test_a_loop_keeps_to_the_contracts_order_of_joints() -> None:
    named = Policy(replace(random_policy(0), contract=Contract(joint_names=("hip", "knee", "toe", "tail"))))
    ControlLoop(named, list, print, 100, np.zeros(3), joint_names=["hip", "knee", "toe"])
    with pytest.raises(ConfigError, match="joint 1 of the robot is 'toe', and 'knee' in the policy's contract"):
        ControlLoop(named, list, print, 100, np.zeros(3), joint_names=["hip", "toe", "knee"])
    with pytest.raises(ConfigError, match="the policy's contract names no joints; expected `joint_names` for one that"):
        ControlLoop(Policy(random_policy(0)), list, print, 100, np.zeros(3), joint_names=["hip", "toe", "knee"])


def test_a_fallback_of_another_length_than_the_policys_actions_is_refused() -> None:
    with pytest.raises(ConfigError, match="the fallback action has 2 numbers; expected 3, like the policy's"):
        ControlLoop(Policy(random_policy(0)), list, print, 100, np.zeros(2))
