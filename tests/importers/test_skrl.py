"""Agents of skrl, in the layout that its model instantiators and its own agents write."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

import edgerl
from edgerl.errors import ConfigError, EdgerlError, UnsupportedModelError

from .files import perceptron_arrays, saved_skrl, statistics_of

OBSERVATIONS = np.random.default_rng(2).normal(0, 4, (100, 9)).astype(np.float32)


def _expected(*, normalise: bool = True) -> Any:
    """RunningStandardScaler, then the perceptron."""
    mean, deviation = (torch.from_numpy(values) for values in statistics_of())
    x = torch.from_numpy(OBSERVATIONS)
    x = ((x - mean) / (deviation + 1e-8)).clamp(-5, 5) if normalise else x
    *hidden, last = [tuple(torch.from_numpy(part) for part in layer) for layer in perceptron_arrays(outputs=4)]
    for layer in hidden:
        x = nn.functional.elu(nn.functional.linear(x, *layer))
    return nn.functional.linear(x, *last).numpy()


def test_a_ppo_as_isaac_lab_configures_it(tmp_path: Path) -> None:
    saved_skrl(tmp_path / "agent.pt")
    with pytest.raises(ConfigError, match="an agent of skrl, does not say its activation; name it: `activation` elu"):
        edgerl.import_policy(tmp_path / "agent.pt", tmp_path / "policy.safetensors")
    report = edgerl.import_policy(tmp_path / "agent.pt", tmp_path / "policy.safetensors", activation="elu")
    np.testing.assert_allclose(edgerl.load(tmp_path / "policy.safetensors")(OBSERVATIONS), _expected(), atol=5e-5)
    assert (report.kind, report.policy.is_bounded) == ("skrl PPO or A2C", False)
    assert "skrl's defaults" in report.notes[0]
    plain = edgerl.import_policy(tmp_path / "agent.pt", tmp_path / "p.safetensors", activation="elu", normalizer="none")
    np.testing.assert_allclose(plain.policy(OBSERVATIONS), _expected(normalise=False), atol=5e-5)


def test_version_2_has_another_normaliser_for_the_critic(tmp_path: Path) -> None:
    mean, deviation = (torch.from_numpy(values).double() for values in statistics_of())
    own = {"running_mean": mean, "running_variance": deviation**2, "current_count": torch.tensor(9.0)}
    critic = {name: torch.ones(20).double() for name in ("running_mean", "running_variance")}
    saved_skrl(tmp_path / "agent.pt", observation_preprocessor=own, state_preprocessor=critic)
    policy = edgerl.import_policy(tmp_path / "agent.pt", tmp_path / "p.safetensors", activation="elu").policy
    np.testing.assert_allclose(policy(OBSERVATIONS), _expected(), atol=5e-5)


@pytest.mark.parametrize("last", ["policy_layer", "mean_layer"])
def test_a_container_that_the_critic_shares(last: str, tmp_path: Path) -> None:
    *hidden, final = perceptron_arrays(outputs=4)
    policy = {
        f"net.{2 * i}.{part}": torch.from_numpy(values)
        for i, layer in enumerate(hidden)
        for part, values in zip(("weight", "bias"), layer, strict=True)
    }
    policy |= {f"{last}.{part}": torch.from_numpy(v) for part, v in zip(("weight", "bias"), final, strict=True)}
    policy |= {"value_layer.weight": torch.zeros(1, 12), "value_layer.bias": torch.zeros(1)}
    policy["log_std_parameter"] = torch.zeros(4)
    saved_skrl(tmp_path / "agent.pt", policy=policy, value=policy)
    read = edgerl.import_policy(tmp_path / "agent.pt", tmp_path / "p.safetensors", activation="elu").policy
    np.testing.assert_allclose(read(OBSERVATIONS), _expected(), atol=5e-5)


POLICY = {"net_container.0.weight": torch.zeros(2, 9), "net_container.0.bias": torch.zeros(2)}


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        (
            {"policy": {**POLICY, "lstm.weight_ih_l0": torch.zeros(8, 9)}},
            "has the tensor 'lstm.weight_ih_l0'",
        ),
        ({"policy": {**POLICY, "other.0.weight": torch.zeros(2, 9)}}, "has 2 containers of layers; expected one"),
        ({"policy": {"log_std_parameter": torch.zeros(2)}}, "has 0 containers of layers"),
        ({"policy": {**POLICY, "net_container.3.weight": torch.zeros(2, 2)}}, "with an activation between them"),
        ({"policy": {**POLICY, "net_container.0.weight": torch.full((2, 9), np.nan)}}, "is not finite"),
        ({"state_preprocessor": {"running_mean": torch.zeros(8)}}, r"running_mean has the shape .8.; expected .9."),
        (
            {"state_preprocessor": {"running_mean": torch.zeros(9), "running_variance": -torch.ones(9)}},
            "running_variance of its state_preprocessor holds a negative number",
        ),
    ],
)
def test_agents_that_are_refused_in_one_line(changes: dict[str, Any], problem: str, tmp_path: Path) -> None:
    saved_skrl(tmp_path / "agent.pt", **changes)
    with pytest.raises(EdgerlError, match=problem) as refused:
        edgerl.import_policy(tmp_path / "agent.pt", tmp_path / "p.safetensors", activation="elu")
    assert "\n" not in str(refused.value)


def test_what_bounds_the_actions_is_not_guessed(tmp_path: Path) -> None:
    content = {"policy": POLICY, "critic_1": POLICY, "policy_optimizer": {"state": {}, "param_groups": []}}
    torch.save(content, tmp_path / "agent.pt")
    with pytest.raises(UnsupportedModelError, match="does not say what bounds its actions; expected PPO or A2C"):
        edgerl.import_policy(tmp_path / "agent.pt", tmp_path / "p.safetensors", activation="relu")
    saved_skrl(tmp_path / "agent.pt")
    np.savez(tmp_path / "statistics.npz", mean=np.zeros(9), var=np.ones(9))
    with pytest.raises(ConfigError, match="has its own `normalizer`; leave that out, or name none"):
        edgerl.import_policy(
            tmp_path / "agent.pt", tmp_path / "p", activation="elu", normalizer=tmp_path / "statistics.npz"
        )
