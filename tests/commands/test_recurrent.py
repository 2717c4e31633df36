"""Commands on a recurrent policy: an episode begins with the state at zero, and what cannot hold a cell says so."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import edgerl
from edgerl.errors import UnsupportedModelError
from edgerl.policy.format import save
from edgerl.policy.pruning import compact
from tests.policy.policies import recurrent_policy

Run = Callable[..., tuple[int, str, str]]

ROBOT = """
import numpy as np

LOG = []

class Robot:
    '''Two observations, one action; episodes of three steps, all alike but for what is done.'''
    def __init__(self):
        from gymnasium import spaces
        self.observation_space = spaces.Box(-np.inf, np.inf, (2,), np.float32)
        self.action_space = spaces.Box(-1, 1, (1,), np.float32)
        self.spec, self.metadata, self.render_mode = None, {}, None
        self.step_number = 0
    def reset(self, *, seed=None, options=None):
        self.step_number = 0
        LOG.append([])
        return np.array([0.5, -1.0], np.float32), {}
    def step(self, action):
        self.step_number += 1
        LOG[-1].append(float(action[0]))
        return np.array([0.1 * self.step_number, 1.0], np.float32), 0.0, self.step_number == 3, False, {}
    def close(self):
        pass

def make():
    return Robot()
"""
SEEN = np.array([[0.5, -1], [0.1, 1], [0.2, 1]], np.float32)


@pytest.mark.parametrize("is_onnx", [False, True])
def test_run_begins_each_episode_with_nothing_remembered(
    is_onnx: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    name = f"robot_of_{'onnx' if is_onnx else 'policy'}"
    Path(f"{name}.py").write_text(ROBOT)
    ones = np.ones(1, np.float32)
    policy = replace(recurrent_policy("gru", (2, 9, 7, 1), cells=2)[0], action_low=-ones, action_high=ones)
    policy = policy.with_example(policy.example_observation)
    save(policy, Path("policy.safetensors"))
    model = "policy.safetensors"
    if is_onnx:
        model = str(edgerl.export_policy(policy, "onnx", "policy.onnx").path)
    report = edgerl.run(model, env=f"{name}:make", rate=4, seconds=1.25)
    assert report.statistics.cycles == 5
    first, second = __import__(name).LOG
    expected = policy(SEEN, np.float64)[:, 0]
    np.testing.assert_allclose(first, expected, atol=1e-5)
    np.testing.assert_allclose(second, expected[:2], atol=1e-5)
    assert abs(expected[1] - policy(SEEN[1])[0]) > 1e-3, "a first step would act otherwise"


def test_pruning_says_that_it_takes_perceptrons() -> None:
    policy, _ = recurrent_policy("lstm")
    with pytest.raises(UnsupportedModelError, match=r"5-lstm9-7-3, is recurrent, and only perceptrons can be pruned"):
        compact(policy)


def test_a_recurrent_onnx_file_is_profiled_as_a_policy(request: pytest.FixtureRequest, tmp_path: Path) -> None:
    command: Run = request.getfixturevalue("edgerl")
    policy, _ = recurrent_policy("lstm")
    path: Any = edgerl.export_policy(policy, "onnx", tmp_path / "policy.onnx").path
    code, _, error = command("profile", path, "--device", "raspberry-pi-zero-2w")
    assert code == 2
    assert "it is recurrent, and is counted as a policy: edgerl import" in error
    save(policy, tmp_path / "policy.safetensors")
    code, said, _ = command("profile", tmp_path / "policy.safetensors", "--device", "raspberry-pi-zero-2w", "--json")
    assert code == 0
    assert '"architecture": "5-lstm9-7-3"' in said
