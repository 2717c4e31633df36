"""The native engine against PyTorch and the oracle in float64, its kernels against each other, and its slices."""

from __future__ import annotations

import threading
from functools import lru_cache
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from edgerl.algorithms.crossq import CrossQ
from edgerl.algorithms.native import NativeAgent, NativeLayer, learner_config
from edgerl.algorithms.normalizer import Normalizer
from edgerl.algorithms.sac import SAC
from edgerl.algorithms.td3 import TD3
from edgerl.algorithms.topology import plan_networks
from edgerl.config import Config
from edgerl.edge.continual.replay import Replay
from edgerl.edge.engine.arena import NETWORKS, LearnerArena
from edgerl.edge.engine.library import ISAS, Isa, library
from edgerl.edge.engine.random import Draws, Purpose, below, normal
from edgerl.errors import ConfigError

from .engines import (
    HERE,
    Array,
    Arrays,
    M,
    N,
    differing,
    filled_replay,
    largest_difference,
    move,
    native_agent,
    small_config,
    transitions,
)
from .oracle import Oracle, OracleNetwork

# In double precision: every tensor to 1e-9, every topology and every target's support exactly. With batch
# norms to 1e-8: some gradients are zero there but for rounding, and Adam divides them by next to nothing.

# In which a twentieth of the weights of one sign is less than half a weight.
SMALL: dict[str, Any] = {"hidden": (8, 8), "sparsity": 0.6, "drop_fraction": 0.05, "evolution_interval": 5}

ALGORITHMS = {"td3": TD3, "sac": SAC, "crossq": CrossQ}

EVERYTHING_NEW: dict[str, Any] = {
    "critic_norm": "layer",
    "critic_hidden": (23, 14, 9),
    "optimiser": "adamw",
    "weight_decay": 0.01,
    "beta1": 0.5,
    "critic_learning_rate": 3e-4,
    "actor_topology": "static",
    "drop": "scaled-magnitude",
    "gradient_clip": 0.5,
    "n_step": 3,
}

SMALL_CROSSQ: dict[str, Any] = {"algorithm": "crossq", "batch_size": 9}

SMALL_SAC: dict[str, Any] = {"algorithm": "sac", "batch_size": 9, "learning_rate": 1e-3}

PARITY: dict[str, dict[str, Any]] = {
    "dense": {"topology": "dense"},
    "static": {"topology": "static", "normalize": True},
    "static, block 4": {"topology": "static", "block": 4},
    "block 1": {},
    "block 4": {"block": 4},
    "paper's lambdas": {"lambda1": 1.0, "lambda2": 2.0, "seed": (1 << 64) - 1},
    "gradient growth": {"sparsity": 0.6, "growth": "gradient"},
    "gradient growth, block 4": {"sparsity": 0.6, "growth": "gradient", "block": 4},
    "cosine": {"sparsity": 0.7, "drop_schedule": "cosine", "steps": 151, "drop_fraction": 0.4},
    "cosine, block 4": {"sparsity": 0.7, "drop_schedule": "cosine", "steps": 151, "drop_fraction": 0.4, "block": 4},
    "sparse output": {"output_layer": "sparse", "actor_sparsity": 0.7, "critic_sparsity": 0.3},
    "sparse output, block 4": {"output_layer": "sparse", "actor_sparsity": 0.3, "critic_sparsity": 0.8, "block": 4},
    "sparse output, gradient": {"output_layer": "sparse", "distribution": "uniform", "block": 4, "growth": "gradient"},
    "one dense network": {"actor_sparsity": 0.0, "critic_sparsity": 0.7, "target_noise": 0.0},
    "n-step after a delay": {"n_step": 3, "n_step_delay": 50},
    "n-step of a new memory": {"n_step": 7, "block": 4, "count": 20, "normalize": True},
    "policy delay 3": {"policy_delay": 3, "evolution_interval": 7},
    "delay above interval": {"policy_delay": 5, "evolution_interval": 3, "block": 4},
    "drop everything": {"sparsity": 0.3, "drop_fraction": 1.0, "evolution_interval": 10},
    "drop everything, block 4": {"sparsity": 0.3, "drop_fraction": 1.0, "block": 4, "evolution_interval": 10},
    "drop everything, gradient": {"drop_fraction": 1.0, "growth": "gradient", "evolution_interval": 4},
    "drop nothing": {"drop_fraction": 0.0, "evolution_interval": 5, "weight_decay": 0.0},
    "tiny layers, batch 1": {"hidden": (3, 17, 1), "sparsity": 0.2, "batch_size": 1, "evolution_interval": 5},
    "tiny layers, block 4": {"hidden": (1, 3, 17), "sparsity": 0.2, "batch_size": 7, "block": 4},
    "one of everything": {"hidden": (1,), "batch_size": 1, "n": 1, "m": 1, "sparsity": 0.0},
    "one action, many sensors": {"hidden": (17,), "batch_size": 7, "n": 31, "m": 1, "evolution_interval": 3},
    "layers too small for a share": SMALL,
    "too small, block 4": {
        "hidden": (9, 9),
        "sparsity": 0.6,
        "drop_fraction": 0.05,
        "evolution_interval": 5,
        "block": 4,
    },
    "too small, gradient": SMALL | {"growth": "gradient"},
    "too small, cosine": {
        "hidden": (8, 8),
        "sparsity": 0.6,
        "drop_fraction": 0.03,
        "drop_schedule": "cosine",
        "steps": 151,
    },
    "targets at once": {"soft_update": 1.0, "evolution_interval": 3},
    "slow targets": {"soft_update": 1e-4, "evolution_interval": 3, "block": 4},
    "layer norm": {"critic_norm": "layer"},
    "layer norm, block 4": {"critic_norm": "layer", "block": 4, "growth": "gradient"},
    "layer norm, dense": {"critic_norm": "layer", "topology": "dense", "policy_delay": 1},
    "layer norm of two units": {"critic_norm": "layer", "critic_hidden": (2, 3), "block": 4, "batch_size": 1},
    "wider critics": {"critic_hidden": (31, 22)},
    "deeper critics": {"critic_hidden": (12, 9, 7, 5), "block": 4, "critic_norm": "layer"},
    "deeper actor": {"hidden": (12, 9, 7), "critic_hidden": (6,), "critic_sparsity": 0.3},
    "decoupled decay": {"optimiser": "adamw", "weight_decay": 0.05},
    "first moment": {"beta1": 0.5, "actor_learning_rate": 3e-4, "critic_learning_rate": 2e-3},
    "clipped gradients": {"gradient_clip": 0.05},
    "clipped gradients, block 4, norms": {
        "gradient_clip": 0.3,
        "block": 4,
        "critic_norm": "layer",
        "growth": "gradient",
    },
    "clipped gradients, deeper critics": {"gradient_clip": 1.0, "hidden": (9,), "critic_hidden": (12, 9, 7)},
    "no gradient above the clip": {"gradient_clip": 1e6},
    "static actor": {"actor_topology": "static"},
    "static critics": {"critic_topology": "static", "block": 4},
    "dynamic critics of a static topology": {"topology": "static", "critic_topology": "dynamic"},
    "an early end of the evolution": {"evolution_steps": 61},
    "scaled magnitude": {"drop": "scaled-magnitude"},
    "scaled magnitude, block 4": {"drop": "scaled-magnitude", "block": 4, "growth": "gradient"},
    "scaled magnitude, too small": SMALL | {"drop": "scaled-magnitude"},
    "everything new": EVERYTHING_NEW,
    "sac": SMALL_SAC,
    "sac, dense": SMALL_SAC | {"topology": "dense", "initial_temperature": 0.1},
    "sac, block 4": SMALL_SAC | {"block": 4, "growth": "gradient", "target_entropy": -1.5},
    "sac, static actor": SMALL_SAC | {"actor_topology": "static", "policy_delay": 3},
    "sac, clipped gradients": SMALL_SAC | {"gradient_clip": 0.1, "topology": "dense"},
    "sac, sparse output, everything new": SMALL_SAC
    | {"output_layer": "sparse", "critic_norm": "layer", "drop": "scaled-magnitude", "optimiser": "adamw", "n_step": 3},
    "sac, one of everything": SMALL_SAC | {"hidden": (1,), "batch_size": 1, "n": 1, "m": 1, "sparsity": 0.0},
    "crossq": SMALL_CROSSQ,
    "crossq, dense": SMALL_CROSSQ | {"topology": "dense", "policy_delay": 1},
    "crossq, static": SMALL_CROSSQ | {"topology": "static", "normalize": True},
    "crossq, block 4": SMALL_CROSSQ | {"block": 4, "growth": "gradient", "critic_hidden": (23, 14, 9)},
    "crossq, gradient": SMALL_CROSSQ | {"growth": "gradient", "sparsity": 0.6, "output_layer": "sparse"},
    "crossq, scaled magnitude": SMALL_CROSSQ | {"drop": "scaled-magnitude", "n_step": 3, "optimiser": "adamw"},
    "crossq, actor without a norm": SMALL_CROSSQ | {"actor_norm": "none", "weight_decay": 2e-4},
    "crossq, layer norm": SMALL_CROSSQ
    | {"critic_norm": "layer", "drop": "scaled-magnitude", "block": 4, "growth": "gradient"},
    "crossq, no norm": SMALL_CROSSQ | {"critic_norm": "none", "actor_topology": "static"},
    "crossq, clipped gradients": SMALL_CROSSQ | {"gradient_clip": 0.1, "growth": "gradient"},
    "crossq, warm": SMALL_CROSSQ | {"updates": 299_900, "block": 4, "drop": "scaled-magnitude"},
    "crossq, critics warm": SMALL_CROSSQ | {"updates": 99_901, "growth": "gradient"},
    "crossq, one of everything": SMALL_CROSSQ | {"hidden": (1,), "batch_size": 2, "n": 1, "m": 1, "sparsity": 0.0},
    "elu": {"activation": "elu"},
    "silu": {"activation": "silu", "critic_hidden": (12, 9, 7)},
    "tanh, block 4": {"activation": "tanh", "block": 4, "growth": "gradient"},
    "silu, block 4, layer norm": {"activation": "silu", "block": 4, "critic_norm": "layer", "growth": "gradient"},
    "elu, layer norm": {"activation": "elu", "critic_norm": "layer", "gradient_clip": 0.3, "hidden": (9, 7, 5)},
    "tanh, layer norm, dense": {"activation": "tanh", "critic_norm": "layer", "topology": "dense", "policy_delay": 1},
    "sac, elu, layer norm": SMALL_SAC | {"activation": "elu", "critic_norm": "layer", "block": 4},
    "sac, silu": SMALL_SAC | {"activation": "silu", "drop": "scaled-magnitude", "output_layer": "sparse"},
    "sac, tanh": SMALL_SAC | {"activation": "tanh", "topology": "static"},
    "crossq, elu": SMALL_CROSSQ | {"activation": "elu", "drop": "scaled-magnitude"},
    "crossq, silu": SMALL_CROSSQ | {"activation": "silu", "block": 4, "growth": "gradient"},
    "crossq, silu, layer norm": SMALL_CROSSQ | {"activation": "silu", "critic_norm": "layer", "n_step": 3},
    "crossq, tanh": SMALL_CROSSQ | {"activation": "tanh", "gradient_clip": 0.1},
    "dropout": {"dropout": 0.1},
    "dropout, block 4, layer norm": {"dropout": 0.01, "block": 4, "critic_norm": "layer", "growth": "gradient"},
    "dropout, silu, deeper critics": {"dropout": 0.3, "activation": "silu", "critic_hidden": (12, 9, 7)},
    "dropout, elu, layer norm, batch 1": {"dropout": 0.2, "activation": "elu", "critic_norm": "layer", "batch_size": 1},
    "dropout, dense, tanh": {"dropout": 0.9, "topology": "dense", "activation": "tanh", "policy_delay": 1},
    "sac, dropout, layer norm": SMALL_SAC
    | {"dropout": 0.1, "critic_norm": "layer", "drop": "scaled-magnitude", "batch_size": 17},
    "crossq, dropout": SMALL_CROSSQ | {"dropout": 0.1, "block": 4, "drop": "scaled-magnitude"},
    "crossq, dropout, layer norm, silu": SMALL_CROSSQ
    | {"dropout": 0.05, "critic_norm": "layer", "activation": "silu", "growth": "gradient"},
    "everything new, block 4": EVERYTHING_NEW | {"block": 4, "drop_schedule": "cosine", "steps": 151},
}
WIDE: dict[str, dict[str, Any]] = {
    "255-257, batch 7": {"hidden": (255, 257), "batch_size": 7, "sparsity": 0.9},
    "257-255, batch 100, block 4": {"hidden": (257, 255), "batch_size": 100, "sparsity": 0.9, "block": 4},
    "crossq, 255-257, batch 100": {"algorithm": "crossq", "hidden": (255, 257), "batch_size": 100, "sparsity": 0.9},
    "257-129, batch 150, dropout": {
        "hidden": (257, 129),
        "batch_size": 150,
        "sparsity": 0.9,
        "dropout": 0.05,
        "activation": "silu",
        "critic_norm": "layer",
    },
    "257, batch 256, gradient": {"hidden": (257,), "batch_size": 256, "sparsity": 0.5, "growth": "gradient"},
}


@pytest.mark.parametrize("options", PARITY.values(), ids=PARITY)
def test_two_hundred_updates_in_double_equal_pytorch(options: dict[str, Any]) -> None:
    _assert_parity(options, updates=200)


@pytest.mark.parametrize("options", WIDE.values(), ids=WIDE)
def test_wide_layers_and_large_batches_in_double_equal_pytorch(options: dict[str, Any]) -> None:
    _assert_parity({"evolution_interval": 8, "drop_fraction": 0.3} | options, updates=32)


def _assert_parity(options: dict[str, Any], updates: int) -> None:
    own = {name: value for name, value in options.items() if name not in ("n", "m", "count", "updates")}
    config, n, m = small_config(**own), options.get("n", N), options.get("m", M)
    native, reference = (
        native_agent(config, n, m, double=True),
        ALGORITHMS[config.algorithm](config, n, m, dtype=torch.float64),
    )
    replay, normalizer = filled_replay(n, m, options.get("count", 700)), _normalizer(n) if config.normalize else None
    if made := options.get("updates"):
        for agent in (native, reference):
            agent.load_state(_after(made, agent.state(), config.learning.policy_delay))
    first = state = native.state()
    _assert_same_states(first, reference.state(), "at the beginning")
    changed, own_supports = set[str](), set[str]()
    for update in range(1, updates + 1):
        native.learn(replay, normalizer)
        reference.learn(replay, normalizer)
        if update < 6 or update % 10 == 0 or update == updates:
            state = native.state()
            _assert_same_states(state, reference.state(), f"update {update}")
            for name, mask in _masks(state).items():
                changed |= set() if np.array_equal(mask, first[name]) else {name.split(".")[0]}
                target = state.get(name.replace("mask", "target_mask"))
                own_supports |= set() if target is None or np.array_equal(mask, target) else {name.split(".")[0]}
    evolving = dict(zip(NETWORKS, (config.network.evolving[0], *[config.network.evolving[1]] * 2), strict=True))
    sparse = {network for name in _masks(first) if evolving[network := name.split(".")[0]]}
    expected = sparse if config.evolution.drop_fraction > 0 else set()
    with_targets = {name.split(".")[0] for name in first if name.endswith(".target_mask")}
    assert own_supports == expected & with_targets
    assert changed == expected, "or neither evolution nor the supports of targets were tested"
    observation = np.random.default_rng(1).normal(size=n).astype(np.float32)
    np.testing.assert_allclose(native.act(observation), reference.act(observation), rtol=0, atol=1e-6)


@pytest.mark.parametrize("double", [True, False])
def test_what_a_memory_dropped_is_learnt_from_no_more(double: bool) -> None:
    """The same bits as from a memory that never had it; on PyTorch too."""
    config = small_config(n_step=3)
    dropping, without = filled_replay(count=400), Replay(None, N, M, 300)
    dropping.drop(180)
    for t in transitions(400)[-120:]:
        without.append(t.observation, t.action, t.reward, t.following, t.boundary)
    for make in (lambda: native_agent(config, double=double), lambda: TD3(config, N, M)):
        agents = make(), make()
        for _ in range(30):
            for agent, replay in zip(agents, (dropping, without), strict=True):
                agent.learn(replay)
        assert not differing(agents[0].state(), agents[1].state())


def _after(updates: int, state: Arrays, policy_delay: int) -> Arrays:
    """The state as if so many updates had been made and had changed nothing."""
    state["agent.counters"][0] = updates
    for name in (n for n in state if n.endswith("_steps")):
        state[name] = np.array(updates // policy_delay if name.startswith("actor") else updates, np.float32)
    return state


def _normalizer(n: int) -> Normalizer:
    normalizer = Normalizer(n)
    for observation in np.random.default_rng(5).normal(1, 2, (20, n)):
        normalizer.observe(observation)
    return normalizer


def _masks(state: Arrays) -> Arrays:
    return {name: array for name, array in state.items() if name.endswith(".mask")}


def _assert_same_states(found: Arrays, expected: Arrays, when: str) -> None:
    assert found.keys() == expected.keys()
    for name, array in expected.items():
        if array.dtype.kind != "f":
            assert np.array_equal(found[name], array), f"{when}: {name}"
        else:
            limit = 1e-8 if any(name.endswith("running_mean") for name in expected) else 1e-9
            scale = max(np.abs(array).max(), 1) if name == "agent.loss_sums" else 1
            assert largest_difference(found[name], array) <= limit * scale, f"{when}: {name}"


ORACLE: dict[str, dict[str, Any]] = {
    "dense": {"topology": "dense"},
    "block 1": {},
    "block 4, gradient": {"block": 4, "growth": "gradient"},
    "cosine": {"drop_schedule": "cosine", "steps": 90, "policy_delay": 3},
    "sparse output, block 4": {"output_layer": "sparse", "sparsity": 0.7, "block": 4},
    "n-step": {"n_step": 3, "n_step_delay": 25, "growth": "gradient"},
    "layers too small for a share": SMALL,
    "too small, block 4": {
        "hidden": (9, 9),
        "sparsity": 0.6,
        "drop_fraction": 0.05,
        "block": 4,
        "output_layer": "sparse",
    },
    "too small, cosine": {
        "hidden": (8, 8),
        "sparsity": 0.6,
        "drop_fraction": 0.03,
        "drop_schedule": "cosine",
        "steps": 61,
    },
}


@pytest.mark.parametrize("options", ORACLE.values(), ids=ORACLE)
def test_sixty_updates_in_double_equal_the_oracle(options: dict[str, Any]) -> None:
    config = small_config(**{"discount": 0.5, "evolution_interval": 7} | options)
    native, oracle = native_agent(config, double=True), Oracle(TD3(config, N, M, dtype=torch.float64))
    replay = filled_replay()
    for _ in range(60):
        native.learn(replay)
        _update(oracle)
    _assert_equals_oracle(native, oracle)


def _update(oracle: Oracle) -> None:
    """One update on what the engine draws out of `filled_replay`; nothing of either engine is used."""
    learning, draws, update = oracle.config.learning, Draws(oracle.config.seed), oracle.updates + 1
    starts = below(draws.words(Purpose.REPLAY, update, learning.batch_size), 300)
    count = learning.batch_size * M
    noise = normal(draws.words(Purpose.TARGET_NOISE, update, count + count % 2))[:count].reshape(-1, M)
    noise = np.clip(learning.target_noise * noise, -learning.target_noise_clip, learning.target_noise_clip)
    oracle.update(oracle.batch(transitions(700)[-300:], starts.tolist()), noise)


def _networks(oracle: Oracle) -> dict[str, OracleNetwork]:
    return dict(zip(("actor", "critic_1", "critic_2"), (oracle.actor, *oracle.critics), strict=True))


def _assert_equals_oracle(native: NativeAgent, oracle: Oracle) -> None:
    state = native.state()
    for name, network in _networks(oracle).items():
        for index, (weight, bias) in enumerate(zip(network.weights, network.biases, strict=True)):
            layer = dict(native.networks)[name].layers[index]
            if layer.is_sparse:
                assert np.array_equal(_by_weight(layer.mask, layer), weight.mask)
                assert np.array_equal(_by_weight(layer.target_mask, layer), weight.support)
            for part, expected in (
                ("weight", weight.value[weight.mask]),
                ("weight_first_moment", weight.first[weight.mask]),
                ("weight_second_moment", weight.second[weight.mask]),
                ("target_weight", weight.target[weight.support]),
                ("bias", bias.value),
                ("bias_first_moment", bias.first),
                ("bias_second_moment", bias.second),
                ("target_bias", bias.target),
            ):
                assert largest_difference(state[f"{name}.{index}.{part}"].reshape(-1), expected) <= 1e-9, part


def _by_weight(mask: Array, layer: NativeLayer) -> Array:
    return np.repeat(mask, layer.plan.block, axis=0)[: layer.plan.n_outputs]


# In single precision: each instruction set's kernels against float64, against the naive ones, against themselves.

SIZES: dict[str, dict[str, Any]] = {
    "255-257, batch 256": {"hidden": (255, 257), "batch_size": 256},
    "270-390, batch 100": {"hidden": (270, 390), "batch_size": 100, "sparsity": 0.2},
    "255-257, batch 100, block 4": {"hidden": (255, 257), "batch_size": 100, "block": 4},
    "3-257, batch 100, block 4": {"hidden": (3, 257), "batch_size": 100, "block": 4, "sparsity": 0.2},
    "1-3-17, batch 7": {"hidden": (1, 3, 17), "batch_size": 7, "sparsity": 0.2},
    "17, batch 1": {"hidden": (17,), "batch_size": 1},
    "64-64, dense, batch 33": {"hidden": (64, 64), "batch_size": 33, "topology": "dense"},
}


NORMALISED: dict[str, dict[str, Any]] = {
    "255-257, batch 256": {"hidden": (255, 257), "batch_size": 256},
    "6-3, batch 100, block 4": {"hidden": (6, 3), "batch_size": 100, "block": 4, "sparsity": 0.2},
    "33-3, batch 1": {"hidden": (33, 3), "batch_size": 1},
    "SAC, 33-17, batch 100": {"algorithm": "sac", "hidden": (33, 17), "batch_size": 100},
    "CrossQ, 255-257, batch 256": {"algorithm": "crossq", "hidden": (255, 257), "batch_size": 256},
    "CrossQ, 33-17, batch 2": {"algorithm": "crossq", "hidden": (33, 17), "batch_size": 2},
    "CrossQ, 6-3, batch 101, block 4": {"algorithm": "crossq", "hidden": (6, 3), "batch_size": 101, "block": 4},
    "CrossQ, 33-17, batch 100, dense": {
        "algorithm": "crossq",
        "hidden": (33, 17),
        "batch_size": 100,
        "topology": "dense",
    },
    "CrossQ, warm": {"algorithm": "crossq", "hidden": (33, 17), "batch_size": 100, "updates": 300_000},
}


@pytest.mark.parametrize("isa", HERE)
@pytest.mark.parametrize("options", NORMALISED.values(), ids=NORMALISED)
def test_gradients_through_norms_are_those_of_double(
    options: dict[str, Any], isa: Isa, monkeypatch: pytest.MonkeyPatch
) -> None:
    updates, norm = options.get("updates", 0), "batch" if options.get("algorithm") == "crossq" else "layer"
    config = _only_gradients(critic_norm=norm, **{name: value for name, value in options.items() if name != "updates"})
    moments = _assert_gradients_of_double(config, isa, monkeypatch, updates)
    assert any("norm_shift" in name for name in moments)


BETWEEN_LAYERS: dict[str, dict[str, Any]] = {
    "elu, 255-257, batch 256": {"activation": "elu", "hidden": (255, 257), "batch_size": 256},
    "silu, 33-17, batch 7": {"activation": "silu", "hidden": (33, 17), "batch_size": 7},
    "tanh, 6-3, batch 101, block 4": {"activation": "tanh", "hidden": (6, 3), "batch_size": 101, "block": 4},
    "silu, LayerNorm": {"activation": "silu", "critic_norm": "layer", "hidden": (33, 17), "batch_size": 100},
    "elu, LayerNorm, SAC": {"activation": "elu", "critic_norm": "layer", "hidden": (6, 30), "algorithm": "sac"},
    "tanh, CrossQ": {"activation": "tanh", "hidden": (33, 17), "batch_size": 100, "algorithm": "crossq"},
    "dropout, 33-17, batch 100": {"dropout": 0.2, "hidden": (33, 17), "batch_size": 100},
    "dropout, batch 257, block 4": {"dropout": 0.1, "hidden": (6, 30), "batch_size": 257, "block": 4},
    "dropout, batch 1": {"dropout": 0.3, "hidden": (6, 3), "batch_size": 1},
    "dropout, silu, LayerNorm, SAC": {
        "dropout": 0.05,
        "activation": "silu",
        "critic_norm": "layer",
        "hidden": (33, 17),
        "batch_size": 130,
        "algorithm": "sac",
    },
    "dropout, CrossQ": {"dropout": 0.1, "hidden": (33, 17), "batch_size": 37, "algorithm": "crossq"},
}


@pytest.mark.parametrize("isa", HERE)
@pytest.mark.parametrize("options", BETWEEN_LAYERS.values(), ids=BETWEEN_LAYERS)
def test_gradients_through_activations_and_dropout_are_those_of_double(
    options: dict[str, Any], isa: Isa, monkeypatch: pytest.MonkeyPatch
) -> None:
    _assert_gradients_of_double(_only_gradients(**options), isa, monkeypatch)


def _assert_gradients_of_double(
    config: Config, isa: Isa, monkeypatch: pytest.MonkeyPatch, updates: int = 0
) -> list[str]:
    """The names of the moments that were compared, after so many updates and one more."""
    single, double = _on(isa, config, monkeypatch), native_agent(config, double=True)
    for agent in (single, double):
        agent.load_state(_after(updates, agent.state(), config.learning.policy_delay))
        agent.learn(filled_replay())
    state, expected = single.state(), double.state()
    moments = [name for name in expected if name.endswith("_first_moment")]
    for name in moments:
        of_layer = [other for other in moments if other.rpartition(".")[0] == name.rpartition(".")[0]]
        limit = 2e-5 * max(np.abs(expected[other]).max() for other in of_layer)
        assert largest_difference(state[name], expected[name]) <= limit, name
    return moments


def _only_gradients(**options: Any) -> Config:
    """One update whose first moments are a tenth of the gradients, since it leaves the weights as they are."""
    return small_config(discount=0.5, policy_delay=1, weight_decay=0.0, learning_rate=1e-8, **options)


def _on(isa: Isa, config: Config, monkeypatch: pytest.MonkeyPatch) -> NativeAgent:
    monkeypatch.setenv("EDGERL_ISA", isa)
    agent = native_agent(config)
    assert agent.arena.config.isa == ISAS.index(isa)
    return agent


@pytest.mark.parametrize("isa", HERE)
@pytest.mark.parametrize("options", SIZES.values(), ids=SIZES)
def test_gradients_are_those_of_float64(options: dict[str, Any], isa: Isa, monkeypatch: pytest.MonkeyPatch) -> None:
    reference, oracle = _first_gradients(options["hidden"], options["batch_size"])
    native = _on(isa, reference.config, monkeypatch)
    same = {name for name in native.state() if name != "agent.loss_sums"}  # which PyTorch has in float32
    assert same.isdisjoint(differing(native.state(), reference.state())), "both begin with the same bits"
    native.learn(filled_replay())
    state = native.state()
    for name, network in _networks(oracle).items():
        for index, (weight, bias) in enumerate(zip(network.weights, network.biases, strict=True)):
            limit = 5e-6 * max(np.abs(weight.first).max(), np.abs(bias.first).max())  # a sum may cancel
            for part, expected in (("weight", weight.first[weight.mask]), ("bias", bias.first)):
                found = state[f"{name}.{index}.{part}_first_moment"].reshape(-1)
                assert largest_difference(found, expected) <= limit, f"{name}.{index}.{part}"


@lru_cache
def _first_gradients(hidden: tuple[int, ...], batch_size: int) -> tuple[TD3, Oracle]:
    """An agent of SIZES before its first update, and the oracle after it: computed once for all instruction sets."""
    options = next(o for o in SIZES.values() if (o["hidden"], o["batch_size"]) == (hidden, batch_size))
    agent = TD3(_only_gradients(**options), N, M)
    oracle = Oracle(agent)
    _update(oracle)
    return agent, oracle


@pytest.mark.parametrize("isa", HERE[1:])
@pytest.mark.parametrize("options", SIZES.values(), ids=SIZES)
def test_one_update_on_any_instruction_set_is_near_the_naive_one(
    options: dict[str, Any], isa: Isa, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Adam's first step is the sign of a gradient: only where that is clear beyond rounding, two can agree."""
    config = small_config(policy_delay=1, **options)
    replay = filled_replay()
    agents = [_on("naive", config, monkeypatch), _on(isa, config, monkeypatch)]
    for agent in agents:
        agent.learn(replay)
    naive, found = (agent.state() for agent in agents)
    np.testing.assert_allclose(found["agent.loss_sums"], naive["agent.loss_sums"], rtol=1e-5)
    for name, expected in naive.items():
        if expected.dtype.kind != "f":
            assert np.array_equal(found[name], expected), name
        elif name.endswith("first_moment"):
            assert largest_difference(found[name], expected) <= 1e-4 * np.abs(expected).max(initial=0), name
        elif name.endswith((".weight", ".bias")):
            clear = np.abs(naive[f"{name}_first_moment"]) > 1e-6
            np.testing.assert_allclose(found[name][clear], expected[clear], rtol=0, atol=1e-6, err_msg=name)


@pytest.mark.parametrize("isa", HERE)
@pytest.mark.parametrize("block", [1, 4])
def test_adam_and_the_moving_average_are_their_formulas_at_any_step(
    block: int, isa: Isa, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = small_config(topology="static", block=block, policy_delay=1, hidden=(33, 30))
    native, replay = _on(isa, config, monkeypatch), filled_replay()
    rate, share = config.learning.learning_rate, config.learning.soft_update
    for updates in (0, 1, 2, 9, 999, 123_456, 1_000_000_000):
        progress = native.arena.progress
        progress.updates = updates
        native.arena.progress = progress
        before = {name: array.astype(np.float64) for name, array in native.state().items()}
        native.learn(replay)
        after = {name: array.astype(np.float64) for name, array in native.state().items()}
        for name in (n for n in after if n.endswith((".weight", ".bias"))):
            first, second = after[f"{name}_first_moment"], after[f"{name}_second_moment"]
            gradient = 10 * first - 9 * before[f"{name}_first_moment"]
            expected = 0.999 * before[f"{name}_second_moment"] + 0.001 * gradient**2
            np.testing.assert_allclose(second, expected, rtol=1e-4, atol=1e-12)
            root = np.sqrt(second / (1 - 0.999 ** (updates + 1)))
            step = rate * first / (1 - 0.9 ** (updates + 1)) / (root + 1e-8)
            np.testing.assert_array_less(np.abs(after[name] - before[name] + step), 1.5e-7 + 3e-6 * np.abs(step))
            target = f"{name.rpartition('.')[0]}.target_{name.rpartition('.')[2]}"
            expected = before[target] + share * (after[name] - before[target])
            np.testing.assert_allclose(after[target], expected, rtol=0, atol=1.5e-7)


@pytest.mark.parametrize("isa", HERE)
@pytest.mark.parametrize("options", [{"growth": "gradient"}, {"block": 4}, {"topology": "dense"}], ids=str)
def test_the_same_seed_gives_the_same_bits(options: dict[str, Any], isa: Isa, monkeypatch: pytest.MonkeyPatch) -> None:
    replay = filled_replay()
    agents = [_on(isa, small_config(seed=seed, **options), monkeypatch) for seed in (3, 3, 4)]
    for agent in agents:
        for _ in range(50):
            agent.learn(replay)
    first, second, other = (bytes(agent.arena.memory) for agent in agents)
    assert first == second
    assert first != other


@pytest.mark.parametrize("isa", HERE)
@pytest.mark.parametrize("options", [{"critic_norm": "layer"}, {"block": 4, "hidden": (33, 30)}], ids=str)
def test_the_gradient_of_a_network_is_cut_to_the_norm_that_is_allowed(
    options: dict[str, Any], isa: Isa, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Adam's first moments are a tenth of the first gradients, whose sum of squares is counted here."""
    clip, replay, gradients = 0.5, filled_replay(), []
    for allowed in (None, clip):
        agent = _on(isa, _only_gradients(gradient_clip=allowed, **options), monkeypatch)
        agent.learn(replay)
        gradients.append(_first_moments(agent.state()))
    whole, cut = gradients
    norms = [{name: float(10 * np.linalg.norm(x)) for name, x in found.items()} for found in gradients]
    assert max(norms[0].values()) > clip
    assert min(norms[0].values()) < clip, "one network is to keep its gradient"
    for name, norm in norms[0].items():
        assert norms[1][name] == pytest.approx(min(norm, clip), rel=1e-5)
        np.testing.assert_allclose(cut[name], whole[name] * min(1, clip / norm), rtol=1e-4, atol=1e-9)


def _first_moments(state: Arrays) -> Arrays:
    """Of each network, all in one vector of float64."""
    return {
        network: np.concatenate(
            [
                array.reshape(-1).astype(np.float64)
                for name, array in state.items()
                if name.startswith(f"{network}.") and name.endswith("first_moment")
            ]
        )
        for network in NETWORKS
    }


def _arena(config: Config, isa: Isa, lanes: int) -> LearnerArena:
    plans = plan_networks(config, N, M)
    return LearnerArena(library(), learner_config(config, plans, M, ISAS.index(isa), lanes))


def test_wider_vectors_than_the_machines_own_change_the_size_and_not_the_result() -> None:
    """So the workstation can say what a device will need, and try it."""
    config, replay = _only_gradients(hidden=(33, 31), batch_size=21), filled_replay()
    for lanes in (4, 8, 16):
        arenas = [_arena(config, isa, lanes) for isa in HERE]
        assert len({arena.bytes.total for arena in arenas}) == 1
        for arena in arenas:
            assert arena.step(replay.structure())
            for found, expected in zip(arena.layers, arenas[0].layers, strict=True):
                for ours, naive in zip(found, expected, strict=True):
                    limit = 5e-6 * np.abs(naive.first_moment).max()
                    assert largest_difference(ours.first_moment, naive.first_moment) <= limit
    totals = [_arena(config, HERE[0], lanes).bytes.total for lanes in (1, 4, 8, 16)]
    assert totals == sorted(totals)
    assert totals[0] < totals[-1]


# Slices.

SLICED: dict[str, dict[str, Any]] = {
    "block 1": {"hidden": (33, 20), "batch_size": 40},
    "block 1, gradient": {"hidden": (33, 20), "growth": "gradient", "n_step": 3},
    "block 4, gradient": {"hidden": (30, 33), "growth": "gradient", "block": 4, "output_layer": "sparse"},
    "dense": {"hidden": (16,), "topology": "dense", "policy_delay": 1},
    "clipped gradients": {"hidden": (33, 20), "gradient_clip": 0.2, "critic_norm": "layer", "growth": "gradient"},
    "crossq": {"algorithm": "crossq", "hidden": (33, 20), "batch_size": 37, "policy_delay": 2, "growth": "gradient"},
    "silu, norm, dropout": {"hidden": (33, 20), "activation": "silu", "critic_norm": "layer", "dropout": 0.1},
    "crossq, elu, dropout": {"algorithm": "crossq", "hidden": (20, 9), "activation": "elu", "dropout": 0.1, "block": 4},
    "crossq, block 4": {"algorithm": "crossq", "hidden": (30, 33), "batch_size": 9, "policy_delay": 1, "block": 4},
}


@pytest.mark.parametrize("options", SLICED.values(), ids=SLICED)
@pytest.mark.parametrize("isa", [HERE[0], HERE[-1]])
def test_updates_in_random_slices_give_the_same_bits(
    options: dict[str, Any], isa: Isa, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Over evolution steps, in an arena that moves between two slices, while another thread could act."""
    config = small_config(evolution_interval=3, **options)
    whole, sliced = _on(isa, config, monkeypatch), _on(isa, config, monkeypatch)
    generator, replay, other = np.random.default_rng(2), filled_replay(), filled_replay(count=340)
    observation = generator.normal(size=N).astype(np.float32)
    n_slices = 0
    for _ in range(14):
        assert whole.arena.step(replay.structure())
        policies, memory = (sliced.act(observation).tobytes(), whole.act(observation).tobytes()), replay
        while not sliced.arena.step(memory.structure(), int(10 ** generator.uniform(0, 4.5))):
            n_slices += 1
            memory = other  # the batch was drawn in the first slice
            assert sliced.act(observation).tobytes() in policies
            if generator.random() < 0.1:
                move(sliced.arena)
        assert sliced.act(observation).tobytes() == policies[1]
        kept = whole.arena.bytes.connections
        assert np.array_equal(sliced.arena.memory[:kept], whole.arena.memory[:kept])
    assert n_slices > 14 * 5


def test_the_policy_changes_when_an_update_is_complete_and_not_a_slice_before() -> None:
    native, replay, observation = native_agent(small_config()), filled_replay(), np.ones(N, np.float32)
    for _ in range(4):
        before, actions = native.act(observation), []
        while not native.arena.step(replay.structure(), 1):
            actions.append(native.act(observation))
        assert all(np.array_equal(action, before) for action in actions)


@settings(max_examples=20)
@given(works=st.lists(st.integers(1, 3000), min_size=1, max_size=20), block=st.sampled_from([1, 4]))
def test_any_budget_of_slices_gives_the_same_bits(works: list[int], block: int) -> None:
    config, replay = small_config(evolution_interval=2, block=block), filled_replay()
    whole, sliced = native_agent(config), native_agent(config)
    for _ in range(4):
        whole.learn(replay)
        calls = 0
        while not sliced.arena.step(replay.structure(), works[calls % len(works)]):
            calls += 1
    assert np.array_equal(whole.arena.memory, sliced.arena.memory)


def test_a_slice_does_about_as_much_as_it_was_asked_to() -> None:
    """One layer's Adam is the largest part that is never cut."""
    native, replay = native_agent(small_config(hidden=(64, 64), batch_size=64)), filled_replay()
    counts = []
    for work in (1 << 12, 1 << 14, 1 << 16, 1 << 40):
        slices = 1
        while not native.arena.step(replay.structure(), work):
            slices += 1
        counts.append(slices)
    assert counts[0] > counts[1] > counts[2] > counts[3] == 1


def test_nothing_happens_without_a_budget_or_without_transitions() -> None:
    native = native_agent(small_config())
    before = bytes(native.arena.memory)
    assert not native.arena.step(filled_replay().structure(), 0)
    with pytest.raises(ConfigError, match=r"^the learner: a pointer is null, or a number is"):
        native.learn(Replay(None, N, M, 10))
    assert bytes(native.arena.memory) == before


# Acting.


def _float64_action(state: Arrays, observation: Array, layers: int) -> Array:
    x = observation.astype(np.float64)
    for index in range(layers):
        weight, bias = (state[f"actor.{index}.{part}"].astype(np.float64) for part in ("weight", "bias"))
        name = f"actor.{index}.mask"
        matrix = weight
        if name in state:
            block = 4 if state[name].size * 8 < len(bias) * len(x) else 1
            rows = -(-len(bias) // block)
            mask = np.unpackbits(state[name], count=rows * len(x)).astype(bool).reshape(rows, len(x))
            matrix = np.zeros((len(bias), len(x)))
            matrix[np.repeat(mask, block, axis=0)[: len(bias)]] = weight
        x = matrix @ x + bias
        x = np.maximum(x, 0) if index < layers - 1 else np.tanh(x)
    return x


@pytest.mark.parametrize("isa", HERE)
@pytest.mark.parametrize("options", SIZES.values(), ids=SIZES)
def test_actions_are_those_of_float64(options: dict[str, Any], isa: Isa, monkeypatch: pytest.MonkeyPatch) -> None:
    config = small_config(evolution_interval=2, policy_delay=1, **options)
    native, replay = _on(isa, config, monkeypatch), filled_replay()
    for _ in range(5):
        native.learn(replay)
    for observation in np.random.default_rng(4).normal(size=(20, N)).astype(np.float32):
        expected = _float64_action(native.state(), observation, len(config.network.hidden) + 1)
        np.testing.assert_allclose(native.act(observation), expected, rtol=0, atol=1e-6)


def test_actions_of_hostile_observations_are_in_range_or_nan() -> None:
    native = native_agent(small_config())
    for value in (3e38, -3e38, 1e30, 1e-40):
        action = native.act(np.full(N, value, np.float32))
        assert (np.isnan(action) | (np.abs(action) <= 1)).all()
    assert np.isnan(native.act(np.full(N, np.nan, np.float32))).all()


@pytest.mark.parametrize("block", [1, 4])
def test_every_action_seen_by_another_thread_is_one_published_policys(block: int) -> None:
    config = small_config(hidden=(64, 64), batch_size=64, block=block, policy_delay=1, evolution_interval=2)
    observation, replay, updates = np.ones(N, np.float32), filled_replay(), 150
    reference, native = native_agent(config), native_agent(config)
    policies = [reference.act(observation).tobytes()]
    for _ in range(updates):
        reference.learn(replay)
        policies.append(reference.act(observation).tobytes())
    assert len(set(policies)) == updates + 1
    seen: list[bytes] = []
    is_done = threading.Event()

    def act() -> None:
        while not is_done.is_set():
            seen.append(native.act(observation).tobytes())

    thread = threading.Thread(target=act)
    thread.start()
    for _ in range(updates):
        native.learn(replay)
    is_done.set()
    thread.join()
    assert len(seen) > 20
    numbers = [policies.index(action) for action in seen]  # ValueError: of no policy
    assert numbers == sorted(numbers)


# The caller's floating-point mode.


def _denormal_product() -> float:
    return float(np.float32(1e-30) * np.float32(1e-12))


@pytest.mark.parametrize("isa", HERE)
def test_denormals_are_flushed_in_updates_and_the_callers_mode_is_restored(
    isa: Isa, monkeypatch: pytest.MonkeyPatch
) -> None:
    native, replay = _on(isa, small_config(topology="static", policy_delay=1), monkeypatch), filled_replay()
    for layers in native.arena.layers:
        layers[0].bias[:] = -1000  # every unit is dead: nothing but weight decay moves its weights
        layers[0].weight[:] = np.float32(1e-40)
    native.arena.reopen()
    assert _denormal_product() > 0
    native.learn(replay)
    assert _denormal_product() > 0
    native.act(np.full(N, 1e-40, np.float32))
    assert _denormal_product() > 0
    assert all(not layers[0].weight.any() for layers in native.arena.layers)
    torch.set_flush_denormal(True)
    try:
        native.learn(replay)
        native.act(np.ones(N, np.float32))
        assert _denormal_product() == 0
    finally:
        torch.set_flush_denormal(False)
