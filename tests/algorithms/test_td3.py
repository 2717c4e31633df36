"""The PyTorch engine against a float64 oracle written without it, and what must hold after any number of updates."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from edgerl import train
from edgerl.algorithms.agent import n_step_at
from edgerl.algorithms.td3 import TD3
from edgerl.algorithms.topology import expand
from edgerl.config import Config, make_config
from edgerl.edge.continual.replay import Batch, Boundary, Replay
from edgerl.errors import ConfigError

from .oracle import Oracle, Transition

N, M = 5, 3


def _config(**options: Any) -> Config:
    options = {"hidden": (17, 19), "sparsity": 0.5, "batch_size": 16, "evolution_interval": 7, "seed": 11} | options
    if options.get("topology") == "dense":
        options["sparsity"] = None
    return make_config(environment="none", **options)


def _batch(generator: np.random.Generator, size: int, scale: float = 1.0) -> Batch:
    return Batch(
        observations=(scale * generator.normal(size=(size, N))).astype(np.float32),
        actions=generator.uniform(-1, 1, (size, M)).astype(np.float32),
        returns=generator.normal(size=size).astype(np.float32),
        next_observations=(scale * generator.normal(size=(size, N))).astype(np.float32),
        discounts=np.where(generator.random(size) < 0.2, 0, 0.99).astype(np.float32),
    )


@pytest.mark.parametrize(
    "options",
    [
        {"topology": "dense"},
        {"topology": "static"},
        {"topology": "dynamic"},
        {"topology": "dynamic", "growth": "gradient"},
        {"topology": "dynamic", "block": 4},
        {"topology": "dynamic", "block": 4, "growth": "gradient"},
        {"topology": "dynamic", "policy_delay": 3, "evolution_interval": 4},
        {"topology": "dynamic", "sparsity": 0.8, "drop_fraction": 0.5, "hidden": (33, 7, 9)},
        {"drop_schedule": "cosine", "drop_fraction": 0.5, "steps": 100, "start_steps": 30},
        {
            "drop_schedule": "cosine",
            "steps": 90,
            "start_steps": 30,
            "block": 4,
            "policy_delay": 3,
            "drop_fraction": 0.9,
        },
        {"output_layer": "sparse", "drop_fraction": 0.3},
        {"output_layer": "sparse", "sparsity": 0.8, "block": 4, "drop_fraction": 0.3},
        {"output_layer": "sparse", "topology": "static"},
        {"distribution": "uniform", "sparsity": 0.7},
        {"distribution": "uniform", "output_layer": "sparse", "growth": "gradient", "drop_fraction": 0.3},
        {"distribution": "uniform", "output_layer": "sparse", "growth": "gradient", "block": 4, "drop_fraction": 0.3},
        {"actor_sparsity": 0.8, "critic_sparsity": 0.3},
        {"actor_sparsity": 0.0, "block": 4},
    ],
    ids=lambda options: "-".join(f"{name}={value}" for name, value in options.items()),
)
def test_sixty_updates_equal_the_oracle(options: dict[str, Any]) -> None:
    agent = TD3(_config(**options), N, M, dtype=torch.float64)
    oracle, generator = Oracle(agent), np.random.default_rng(1)
    for _ in range(60):
        batch, noise = _batch(generator, 16), agent.target_noise()
        agent.update(batch)
        oracle.update(batch, noise)
    _assert_equal(agent, oracle)


def _assert_equal(agent: TD3, oracle: Oracle) -> None:
    for (name, network), expected in zip(agent.networks, (oracle.actor, *oracle.critics), strict=True):
        for layer, parameter in enumerate(expected.weights):
            where = f"{name} layer {layer}"
            weight, target = network.online.weights[layer].detach().numpy(), network.target.weights[layer].numpy()
            plan = network.plans[layer]
            if layer in network.masks:
                assert np.array_equal(expand(network.masks[layer], plan), parameter.mask), where
                assert np.array_equal(expand(network.target_masks[layer], plan), parameter.support), where
            np.testing.assert_allclose(weight, parameter.value, rtol=0, atol=1e-9, err_msg=where)
            np.testing.assert_allclose(target, parameter.target, rtol=0, atol=1e-9, err_msg=where)
            bias, target_bias = network.online.biases[layer].detach().numpy(), network.target.biases[layer].numpy()
            np.testing.assert_allclose(bias, expected.biases[layer].value, rtol=0, atol=1e-9)
            np.testing.assert_allclose(target_bias, expected.biases[layer].target, rtol=0, atol=1e-9)


def _transitions(generator: np.random.Generator, count: int) -> list[Transition]:
    """With rewards of eighths: their sums at a discount of a half are the same in float32 and float64."""
    kinds = [Boundary.CONTINUES] * 7 + [Boundary.TERMINATED, Boundary.TRUNCATED, Boundary.GAP]
    return [
        Transition(
            observation=generator.normal(size=N).astype(np.float32),
            action=generator.uniform(-1, 1, M).astype(np.float32),
            reward=int(generator.integers(-16, 17)) / 8,
            following=generator.normal(size=N).astype(np.float32),
            boundary=kinds[generator.integers(len(kinds))],
        )
        for _ in range(count)
    ]


@pytest.mark.parametrize("delay", [0, 25, 1000])
def test_sixty_updates_on_n_step_returns_equal_the_oracle(delay: int) -> None:
    agent = TD3(_config(n_step=3, n_step_delay=delay, discount=0.5), N, M, dtype=torch.float64)
    oracle, generator = Oracle(agent), np.random.default_rng(12)
    transitions, replay = _transitions(generator, 70), Replay(None, N, M, 50)
    for t in transitions:
        replay.append(t.observation, t.action, t.reward, t.following, t.boundary)
    for update in range(1, 61):
        starts, noise = generator.integers(0, 50, 16), agent.target_noise()
        agent.update(replay.sample(starts, 0.5, n_step_at(agent.config.learning, update)))
        oracle.update(oracle.batch(transitions[-50:], starts.tolist()), noise)
    _assert_equal(agent, oracle)


def test_n_step_returns_begin_after_their_delay(monkeypatch: pytest.MonkeyPatch) -> None:
    lengths: list[int] = []
    sample = Replay.sample

    def recorded(self: Replay, indices: Any, discount: float, n_step: int = 1) -> Batch:
        lengths.append(n_step)
        return sample(self, indices, discount, n_step)

    monkeypatch.setattr(Replay, "sample", recorded)
    schedule = {"steps": 60, "start_steps": 40, "evaluation_episodes": 1, "replay_capacity": 100}
    train("robots:robot", engine="torch", hidden=(8,), batch_size=4, n_step=3, n_step_delay=5, **schedule)
    assert lengths == [1] * 5 + [3] * 15


def test_the_cosine_schedule_drops_less_and_less() -> None:
    options = {"drop_schedule": "cosine", "drop_fraction": 0.8, "evolution_interval": 1, "block": 4}
    agent = TD3(_config(hidden=(16, 20), sparsity=0.6, steps=120, start_steps=100, **options), N, M)
    generator, network = np.random.default_rng(13), agent.critics[0]
    for update in range(1, 20):
        before = network.masks[1].copy()
        agent.update(_batch(generator, 16))
        dropped = before & ~network.masks[1]
        assert dropped.sum() == int(before.sum() * 0.8 * (1 + np.cos(np.pi * update / 20)) / 2 + 0.5)


def test_a_sparse_output_layer_evolves_and_a_dense_one_does_not() -> None:
    generator = np.random.default_rng(14)
    for output_layer, layers in (("sparse", [0, 1, 2]), ("dense", [0, 1])):
        agent = TD3(_config(output_layer=output_layer, distribution="uniform", drop_fraction=0.3), N, M)
        assert all(network.sparse_layers == layers for _, network in agent.networks)
        before = {layer: mask.copy() for layer, mask in agent.actor.masks.items()}
        for _ in range(8):
            agent.update(_batch(generator, 16))
        assert all(not np.array_equal(before[layer], mask) for layer, mask in agent.actor.masks.items())


@pytest.mark.parametrize("block", [1, 4])
@pytest.mark.parametrize("growth", ["random", "gradient"])
@pytest.mark.parametrize("output_layer", ["dense", "sparse"])
def test_counts_stay_and_everything_absent_is_zero(block: int, growth: str, output_layer: str) -> None:
    agent = TD3(_config(block=block, growth=growth, output_layer=output_layer, drop_fraction=0.3), N, M)
    generator = np.random.default_rng(2)
    planned = {name: network.connections() for name, network in agent.networks}
    for _ in range(50):
        agent.update(_batch(generator, 16))
        for name, network in agent.networks:
            assert network.connections() == planned[name]
            assert all(t <= o for t, o in zip(network.target_connections(), network.connections(), strict=True))
            for layer, mask in network.masks.items():
                weight = network.online.weights[layer]
                moments = agent._optimiser_of(network).state[weight]
                absent = ~expand(mask, network.plans[layer])
                for tensor in (weight.detach(), moments["exp_avg"], moments["exp_avg_sq"]):
                    assert not tensor.numpy()[absent].any()
                support = expand(network.target_masks[layer], network.plans[layer])
                assert not network.target.weights[layer].numpy()[~support].any()
    assert agent.actor.share_ever_active() > 0.5


def test_a_grown_connection_starts_at_zero_with_zero_moments() -> None:
    agent, generator = TD3(_config(), N, M), np.random.default_rng(3)
    for _ in range(6):
        agent.update(_batch(generator, 16))
    before = {layer: mask.copy() for layer, mask in agent.critics[0].masks.items()}
    agent.update(_batch(generator, 16))  # the seventh evolves
    for layer, mask in agent.critics[0].masks.items():
        grown = mask & ~before[layer]
        assert grown.any()
        weight = agent.critics[0].online.weights[layer]
        moments = agent.critic_optimiser.state[weight]
        for tensor in (weight.detach(), moments["exp_avg"], moments["exp_avg_sq"]):
            assert not tensor.numpy()[grown].any()


def test_the_actor_evolves_at_its_own_next_update() -> None:
    agent, generator = TD3(_config(evolution_interval=3), N, M), np.random.default_rng(4)
    masks = []
    for _ in range(4):
        agent.update(_batch(generator, 16))
        masks.append((agent.critics[0].masks[1].copy(), agent.actor.masks[1].copy()))
    assert not np.array_equal(masks[1][0], masks[2][0]), "critics evolve at update 3"
    assert np.array_equal(masks[1][1], masks[2][1]), "the actor is not updated at 3"
    assert not np.array_equal(masks[2][1], masks[3][1]), "the actor evolves at update 4"


def test_the_last_update_does_not_evolve() -> None:
    agent, generator = TD3(_config(steps=114, start_steps=100, evolution_interval=7), N, M), np.random.default_rng(9)
    masks = []
    for _ in range(14):
        agent.update(_batch(generator, 16))
        masks.append([network.masks[1].copy() for _, network in agent.networks])
    assert any(not np.array_equal(a, b) for a, b in zip(masks[5], masks[7], strict=True)), "update 7 evolves"
    assert all(np.array_equal(a, b) for a, b in zip(masks[7], masks[13], strict=True)), "update 14, the last, does not"


def test_static_masks_never_change_and_dense_layers_have_none() -> None:
    static, dense = TD3(_config(topology="static"), N, M), TD3(_config(topology="dense"), N, M)
    before = {layer: mask.copy() for layer, mask in static.actor.masks.items()}
    generator = np.random.default_rng(5)
    for _ in range(20):
        batch = _batch(generator, 16)
        static.update(batch)
        dense.update(batch)
    assert all(np.array_equal(before[layer], mask) for layer, mask in static.actor.masks.items())
    assert dense.actor.sparse_layers == []


def test_initial_weights_are_pytorchs_uniform_distribution() -> None:
    agent = TD3(_config(hidden=(256, 256), sparsity=0.5), N, M)
    weights = agent.actor.online.weights[1].detach().numpy()
    values = weights[expand(agent.actor.masks[1], agent.actor.plans[1])] * np.sqrt(256)
    assert np.abs(values).max() <= 1
    assert abs(values.mean()) < 4 * np.sqrt(1 / 3 / len(values))
    assert abs(values.var() - 1 / 3) < 0.01
    assert torch.equal(agent.actor.online.weights[1], agent.actor.target.weights[1])


def test_a_terminated_transition_does_not_bootstrap_and_a_truncated_one_does() -> None:
    agent = TD3(_config(), N, M)
    batch = _batch(np.random.default_rng(6), 16)
    noise = torch.zeros(16, M)
    target = agent._target(batch, noise).numpy()
    ended = batch.discounts == 0
    assert ended.any()
    assert np.array_equal(target[ended], batch.returns[ended])
    assert (target[~ended] != batch.returns[~ended]).all()


def test_a_state_goes_through_arrays_unchanged() -> None:
    generator = np.random.default_rng(7)
    agent, other = TD3(_config(), N, M), TD3(_config(), N, M)
    for _ in range(10):
        agent.update(_batch(generator, 16))
    other.load_state(agent.state())
    for _ in range(10):
        batch = _batch(generator, 16)
        agent.update(batch)
        other.update(batch)
    left, right = agent.state(), other.state()
    assert left.keys() == right.keys()
    assert all(left[name].tobytes() == right[name].tobytes() for name in left)


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda arrays: arrays.pop("actor.0.weight"), r"0\.weight is missing"),
        (lambda arrays: arrays.update({"actor.9.weight": np.zeros(3)}), r"'9\.weight' does not belong"),
        (lambda arrays: arrays.update({"more": np.zeros(3)}), r"'more' does not belong"),
        (lambda arrays: arrays["actor.0.mask"].fill(255), r"connections are \["),
        (lambda arrays: arrays["critic_1.1.bias"].fill(np.nan), r"1\.bias holds a value that is not finite"),
        (lambda arrays: arrays.update({"critic_2.1.bias": np.zeros(3, np.float32)}), r"1\.bias is float32\[3\]"),
        (lambda arrays: arrays["agent.counters"].fill(-1), "agent.counters"),
    ],
)
def test_a_state_that_does_not_fit_is_refused(spoil: Any, message: str) -> None:
    agent = TD3(_config(), N, M)
    arrays = agent.state()
    spoil(arrays)
    with pytest.raises(ValueError, match=message):
        TD3(_config(), N, M).load_state(arrays)


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has a GPU")
def test_cuda_without_a_gpu_is_refused() -> None:
    with pytest.raises(ConfigError, match="`device` is cuda, but this PyTorch sees none; use `device` cpu"):
        TD3(_config(device="cuda"), N, M)


def test_losses_are_means_since_they_were_last_taken() -> None:
    agent, generator = TD3(_config(), N, M), np.random.default_rng(8)
    assert agent.metrics == {"critic_loss": 0.0, "actor_loss": 0.0}
    for _ in range(4):
        agent.update(_batch(generator, 16))
    critic, actor = agent.metrics.values()
    agent.reset_metrics()
    assert critic > 0
    assert actor != 0
    assert agent.metrics == {"critic_loss": 0.0, "actor_loss": 0.0}
