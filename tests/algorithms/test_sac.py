"""SAC against PyTorch's own distributions, and its native engine against PyTorch."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch.distributions import Independent, Normal, TanhTransform, TransformedDistribution

from edgerl.algorithms.sac import SAC
from edgerl.config import make_config
from edgerl.edge.engine.library import Isa
from edgerl.edge.engine.random import Draws, Purpose

from .engines import HERE, M, N, differing, filled_replay, largest_difference, native_agent, small_config

OBSERVATIONS = np.random.default_rng(4).normal(size=(7, N)).astype(np.float32)
NOISE = np.random.default_rng(5).normal(size=(7, M))


def _agent(**options: Any) -> SAC:
    return SAC(small_config(algorithm="sac", batch_size=9, **options), N, M, dtype=torch.float64)


def test_actions_and_densities_are_those_of_a_squashed_gaussian() -> None:
    agent = _agent()
    observations, noise = torch.tensor(OBSERVATIONS, dtype=torch.float64), torch.tensor(NOISE)
    mean, log_deviation = agent.actor.online(observations).chunk(2, dim=1)
    gaussian = Normal(mean, log_deviation.exp())
    squashed = Independent(TransformedDistribution(gaussian, TanhTransform()), 1)
    actions, log_density = agent._sample(observations, noise)
    torch.testing.assert_close(actions, torch.tanh(mean + log_deviation.exp() * noise))
    torch.testing.assert_close(log_density, squashed.log_prob(actions))


def test_the_density_of_a_saturated_action_is_finite() -> None:
    agent = _agent()
    agent.actor.online.biases[-1].data[:M] = 60
    _, log_density = agent._sample(torch.tensor(OBSERVATIONS, dtype=torch.float64), torch.tensor(NOISE))
    assert log_density.isfinite().all()


def test_the_temperature_rises_while_the_entropy_is_below_its_aim_and_falls_above() -> None:
    for target_entropy, sign in ((50.0, 1), (-50.0, -1)):
        agent = _agent(target_entropy=target_entropy, initial_temperature=0.5)
        for _ in range(20):
            agent.learn(filled_replay())
        assert np.sign(float(agent.temperature) - 0.5) == sign
        assert agent.metrics["temperature"] == pytest.approx(float(agent.temperature))


def test_the_aim_is_minus_one_nat_per_action_unless_stated() -> None:
    assert _agent().target_entropy == -M
    assert _agent(target_entropy=0.0).target_entropy == 0


def test_runs_and_policies_are_named_by_topology_and_algorithm() -> None:
    topologies = ("dense", "static", "dynamic")
    names = [make_config(algorithm="sac", topology=topology).method_name for topology in topologies]
    assert names == ["sac", "static-sac", "ds-sac"]
    assert make_config(topology="static").method_name == "static-td3"


def test_defaults_are_those_of_its_authors_and_options_win() -> None:
    learning = make_config(algorithm="sac").learning
    assert (learning.learning_rate, learning.batch_size, learning.policy_delay, learning.weight_decay) == (
        3e-4,
        256,
        1,
        0,
    )
    assert make_config(algorithm="sac", batch_size=100).learning.batch_size == 100
    assert make_config().learning.batch_size == 100


@pytest.mark.parametrize("isa", HERE)
def test_what_is_tried_is_drawn_from_the_policy_on_both_engines(isa: Isa, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EDGERL_ISA", isa)
    reference, native = _agent(), native_agent(small_config(algorithm="sac", batch_size=9))
    for observation, noise in zip(OBSERVATIONS, NOISE, strict=True):
        found, expected = native.explore(observation, noise), reference.explore(observation, noise)
        assert found.dtype == expected.dtype == np.float32
        assert largest_difference(found, expected) <= 2e-6
        assert largest_difference(native.act(observation), reference.act(observation)) <= 2e-6
        assert not np.array_equal(native.explore(observation, noise), native.act(observation))


def test_draws_of_the_policys_actions_are_no_other_draws() -> None:
    draws = Draws(3)
    words = [tuple(draws.words(purpose, 5, 8)) for purpose in Purpose]
    assert len(set(words)) == len(Purpose)


def test_a_policy_has_the_actions_alone() -> None:
    for agent in (_agent(), native_agent(small_config(algorithm="sac", batch_size=9))):
        weight, bias = agent.actor_layers()[-1]
        assert (weight.shape[0], bias.shape) == (M, (M,))


@pytest.mark.parametrize("block", [1, 4])
def test_degrees_of_outputs_count_connections_that_are_still_zero(block: int) -> None:
    config = small_config(algorithm="sac", batch_size=9, block=block, output_layer="sparse", drop_fraction=0.9)
    reference, native, replay = SAC(config, N, M, dtype=torch.float64), native_agent(config), filled_replay()
    for _ in range(20):
        reference.learn(replay)
        native.learn(replay)
    for agent in (reference, native):
        packed = agent.state()["actor.2.mask"]
        rows = -(-2 * M // block)
        blocks = np.unpackbits(packed, count=rows * 13).reshape(rows, 13)
        expected = [int(blocks[output // block].sum()) for output in range(2 * M)]
        actor = next(network for name, network in agent.networks if name == "actor")
        assert actor.output_degrees().tolist() == expected
        assert sum(expected) == actor.connections()[-1]
        weight, _ = agent.actor_layers()[-1]
        assert np.count_nonzero(weight) < sum(expected[:M]), "what grew is still zero"


def test_degrees_of_dense_outputs_are_all_inputs() -> None:
    for agent in (_agent(), native_agent(small_config(algorithm="sac", batch_size=9))):
        actor = next(network for name, network in agent.networks if name == "actor")
        assert actor.output_degrees().tolist() == [13] * 2 * M


@pytest.mark.parametrize("options", [{}, {"block": 4, "critic_norm": "layer"}], ids=["block 1", "block 4, norms"])
def test_a_state_goes_on_to_the_same_bits_and_between_the_engines(options: dict[str, Any]) -> None:
    config = small_config(algorithm="sac", batch_size=9, policy_delay=2, **options)
    whole, first, replay = native_agent(config), native_agent(config), filled_replay()
    for _ in range(33):
        whole.learn(replay)
        first.learn(replay)
    second = native_agent(config)
    second.load_state(first.state())
    for _ in range(30):
        whole.learn(replay)
        second.learn(replay)
    assert differing(whole.state(), second.state()) == []
    reference = SAC(config, N, M)
    state = first.state()
    reference.load_state(state | {"agent.loss_sums": state["agent.loss_sums"].astype(np.float32)})
    reference.learn(replay)
    first.learn(replay)
    for name in ("actor.0.weight", "critic_2.1.target_weight", "agent.temperature"):
        assert largest_difference(first.state()[name], reference.state()[name]) <= 1e-5, name


def test_a_temperature_that_is_not_finite_is_refused() -> None:
    agent = native_agent(small_config(algorithm="sac", batch_size=9))
    for spoiled in ([np.nan, 0, 0], [0, np.inf, 0], [0, 0, -1]):
        with pytest.raises(ValueError, match=r"not finite|NaN|range"):
            agent.load_state(agent.state() | {"agent.temperature": np.array(spoiled, np.float64)})


def test_the_metric_of_a_temperature_beyond_a_floats_range_is_infinite() -> None:
    for agent in (native_agent(small_config(algorithm="sac", batch_size=9)), _agent()):
        agent.load_state(agent.state() | {"agent.temperature": np.array([800, 0, 0], np.float64)})
        assert agent.metrics["temperature"] == np.inf
