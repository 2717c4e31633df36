"""Recurrent cells in numpy, against torch.nn.GRU and torch.nn.LSTM in float64."""

from __future__ import annotations

import numpy as np
import pytest

from edgerl.policy.cell import CELLS, CellName
from edgerl.policy.compact import Head
from tests.policy.policies import episode, recurrent_policy, torch_episode


@pytest.mark.parametrize("kind", CELLS)
@pytest.mark.parametrize(("cells", "before", "head"), [(1, 0, "tanh"), (3, 0, "clip"), (1, 6, "tanh"), (2, 4, "clip")])
def test_a_thousand_steps_are_those_of_pytorch(kind: CellName, cells: int, before: int, head: Head) -> None:
    policy, outputs = recurrent_policy(kind, cells=cells, before=before, head=head)
    seen = episode(policy, 1000)
    expected = torch_episode(policy, outputs, seen)
    np.testing.assert_allclose(policy(seen, np.float64), expected, atol=1e-6)  # the normaliser is float32's
    np.testing.assert_allclose(policy(seen), expected, atol=1e-5)
    assert np.abs(np.diff(expected, axis=0)).max() > 0.01


@pytest.mark.parametrize("kind", CELLS)
def test_steps_are_an_episode(kind: CellName) -> None:
    policy, _ = recurrent_policy(kind, cells=2)
    seen = episode(policy, 20)
    state, actions = policy.initial_state(), []
    for observation in seen:
        action, state = policy.step(observation, state)
        actions.append(action)
    assert state.shape == (policy.n_state,) == (2 * CELLS[kind].vectors * 9,)
    np.testing.assert_array_equal(policy(seen), actions)
    np.testing.assert_array_equal(policy(seen[0]), actions[0])
    again, _ = policy.step(seen[0], policy.initial_state())
    np.testing.assert_array_equal(again, actions[0])


def test_a_batch_of_states() -> None:
    policy, _ = recurrent_policy("lstm")
    seen, states = episode(policy, 6), np.random.default_rng(0).normal(size=(6, policy.n_state)).astype(np.float32)
    actions, following = policy.step(seen, states)
    for row in range(6):
        action, state = policy.step(seen[row], states[row])
        np.testing.assert_allclose(actions[row], action, atol=1e-6)
        np.testing.assert_allclose(following[row], state, atol=1e-6)


def test_several_episodes_at_once_are_refused() -> None:
    policy, _ = recurrent_policy("gru")
    with pytest.raises(ValueError, match=r"the observations have shape \(2, 3, 5\); expected the steps of one episode"):
        policy(np.zeros((2, 3, 5)))


def test_no_steps() -> None:
    policy, _ = recurrent_policy("gru")
    assert policy(np.zeros((0, 5))).shape == (0, 3)
