"""SAC and TD3 of stable-baselines3 that learn on: values and actions are the model's, and so is what an update does."""

from __future__ import annotations

import io
import json
import zipfile
from collections.abc import Callable, Mapping
from contextlib import closing
from copy import deepcopy
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from stable_baselines3 import A2C, DDPG, PPO, SAC, TD3
from stable_baselines3.common.noise import NormalActionNoise, OrnsteinUhlenbeckActionNoise, VectorizedActionNoise
from stable_baselines3.common.type_aliases import ReplayBufferSamples
from stable_baselines3.common.vec_env import DummyVecEnv, VecNormalize
from torch import nn

from edgerl.algorithms.native import NativeAgent
from edgerl.algorithms.sac import SAC as OurSAC
from edgerl.edge.continual.learner import Learner
from edgerl.edge.continual.replay import Replay
from edgerl.edge.engine.random import Purpose, below
from edgerl.errors import ConfigError, EdgerlError, FileFormatError, UnsupportedModelError
from edgerl.importers.options import Stated
from edgerl.importers.stable_baselines3_learner import LearningModel, read
from edgerl.training.handover import hand_over_model
from tests.algorithms.engines import filled_replay, native_agent

from .files import Task, mutated

N, M = 5, 2
OBSERVATIONS = np.random.default_rng(0).normal(1, 4, (100, N)).astype(np.float32)
ACTIONS = np.random.default_rng(1).uniform(-1, 1, (100, M)).astype(np.float32)
GOAL = Path("learner.safetensors")

Arrays = dict[str, np.ndarray[Any, Any]]


class Paying(Task):
    """With rewards, and an end now and then."""

    def step(self, action: Any) -> Any:
        observation = self._observed()
        return (
            observation,
            3 * float(observation[0]) - float(np.square(action).sum()),
            bool(observation[1] > 6),
            False,
            {},
        )


NETWORKS = {"net_arch": {"pi": [16, 12], "qf": [20, 9]}}
TRAINED: dict[str, Any] = {
    "learning_starts": 20,
    "batch_size": 16,
    "seed": 0,
    "device": "cpu",
    "policy_kwargs": NETWORKS,
}
NOISE = NormalActionNoise(np.zeros(M), np.full(M, 0.3))
MODELS: Mapping[str, tuple[Any, dict[str, Any]]] = {
    "SAC": (SAC, {}),
    "SAC with a fixed temperature": (SAC, {"ent_coef": 0.25, "gamma": 0.9, "tau": 0.02}),
    "SAC, AdamW": (
        SAC,
        {
            "target_entropy": -0.5,
            "policy_kwargs": NETWORKS
            | {"optimizer_class": torch.optim.AdamW, "optimizer_kwargs": {"betas": (0.8, 0.999)}},
        },
    ),
    "TD3": (TD3, {"action_noise": NOISE, "target_policy_noise": 0.0}),
    "TD3, delay 3": (TD3, {"policy_delay": 3, "learning_rate": 2e-3, "target_policy_noise": 0.0, "n_steps": 2}),
    "DDPG with two critics": (DDPG, {"policy_kwargs": NETWORKS | {"n_critics": 2}}),
}


def _trained(name: str, path: Path = Path("model.zip"), steps: int = 55, **more: Any) -> Any:
    """A model after some updates, in a file."""
    algorithm, options = MODELS[name]
    model = algorithm("MlpPolicy", Paying(), **deepcopy({**TRAINED, **options, **more}))
    model.learn(steps)
    model.save(path)
    return model


def _read(path: Path = Path("model.zip"), **options: Any) -> LearningModel:
    return read(path.read_bytes(), path, Stated(), **options)


def _modules(model: Any) -> dict[str, tuple[list[nn.Linear], Any]]:
    """Each of edgerl's networks as stable-baselines3 has it: its affine layers, and the optimiser that has them."""
    policy, actor = model.policy, model.policy.actor.optimizer

    def affine(module: nn.Module) -> list[nn.Linear]:
        return [layer for layer in module.modules() if isinstance(layer, nn.Linear)]

    networks = {"actor": (affine(policy.actor), actor)}
    for number, (critic, target) in enumerate(zip(policy.critic.q_networks, policy.critic_target.q_networks), 1):
        networks[f"critic_{number}"] = affine(critic), policy.critic.optimizer
        networks[f"critic_{number}.target"] = affine(target), None
    if isinstance(model, TD3):
        networks["actor.target"] = affine(policy.actor_target), None
    return networks


def _expected(model: Any) -> Arrays:
    """What stable-baselines3 has, under the names of edgerl's checkpoints, but for steps and counters."""
    arrays: Arrays = {}
    is_soft = isinstance(model, SAC)
    for network, (layers, optimiser) in _modules(model).items():
        name, _, target = network.partition(".")
        parts = [[layer] for layer in layers]
        if is_soft and name == "actor":
            parts[-2:] = [layers[-2:]]
        factor = 2 if is_soft and name != "actor" else 1  # its loss of the critics is half of ours
        for index, stacked in enumerate(parts):
            for kind in ("weight", "bias"):
                parameters = [getattr(layer, kind) for layer in stacked]
                here = f"{name}.{index}.{'target_' if target else ''}{kind}"
                arrays[here] = torch.cat([p.detach() for p in parameters]).numpy()
                if optimiser is not None:
                    first, second = (
                        torch.cat([optimiser.state[p][moment] for p in parameters]).numpy()
                        for moment in ("exp_avg", "exp_avg_sq")
                    )
                    arrays |= {f"{here}_first_moment": factor * first, f"{here}_second_moment": factor**2 * second}
    return arrays


@pytest.mark.parametrize("name", MODELS)
def test_weights_targets_and_moments_are_the_models(name: str) -> None:
    model, found = _trained(name), _read()
    expected = _expected(model)
    assert not expected.keys() - found.state.keys()
    for key, array in expected.items():
        np.testing.assert_array_equal(found.state[key], array, err_msg=key)
    assert found.state["agent.counters"].tolist() == [model._n_updates, 0, 0, 0]
    assert any(array.any() for key, array in found.state.items() if key.startswith("actor.0.weight_first"))
    agent = NativeAgent(found.config, N, M)
    agent.load_state(dict(found.state))
    assert all(np.array_equal(array, found.state[key]) for key, array in agent.state().items())


@pytest.mark.parametrize("name", MODELS)
def test_the_learner_acts_and_values_as_the_model(name: str) -> None:
    model = _trained(name)
    report = hand_over_model("model.zip", GOAL)
    assert (report.seed, report.updates) == (0, model._n_updates)
    with closing(Learner.load(GOAL)) as learner:
        expected = model.predict(OBSERVATIONS, deterministic=True)[0]
        actions = np.array([learner.act(x, explore=False) for x in OBSERVATIONS])
        np.testing.assert_allclose(actions, expected, atol=1e-5)
        inputs = torch.from_numpy(OBSERVATIONS), torch.from_numpy(ACTIONS)
        with torch.no_grad():
            values = [value.numpy()[:, 0] for value in model.critic(*inputs)]
        for layers, value in zip(learner.challenger.arena.layers[1:], values, strict=True):
            x = np.concatenate([OBSERVATIONS, ACTIONS], axis=1)
            for layer in layers:
                x = x @ layer.matrix().T + layer.bias[: layer.n_outputs]
                x = np.maximum(x, 0) if layer is not layers[-1] else x
            np.testing.assert_allclose(x[:, 0], value, rtol=1e-5, atol=1e-4)
        assert learner.about["imported_from"] == f"stable-baselines3 {'SAC' if 'SAC' in name else 'TD3'}"
        for x, y in zip(OBSERVATIONS[:40], OBSERVATIONS[1:41], strict=True):
            learner.observe(x, learner.act(x), 1.0, y)
        assert [learner.update() for _ in range(24)] == [1] * 24
        assert learner.status()["abandoned_updates"] == learner.trials.status()["divergences"] == 0


# ------------------------------------------------------------------------------------------------ one update


def _in_double(model: Any) -> None:
    """The model and its optimisers compute in float64 from now on."""
    model.policy.double()
    optimisers = [model.actor.optimizer, model.critic.optimizer]
    if getattr(model, "log_ent_coef", None) is not None:
        model.log_ent_coef.data = model.log_ent_coef.data.double()
        optimisers.append(model.ent_coef_optimizer)
    for optimiser in optimisers:
        for entry in optimiser.state.values():
            entry |= {part: entry[part].double() for part in ("exp_avg", "exp_avg_sq")}


def _double_agent(found: LearningModel) -> NativeAgent:
    agent = native_agent(found.config, N, M, double=True)
    is_real = {key: array.dtype == np.float32 and not key.endswith("_steps") for key, array in found.state.items()}
    agent.load_state({key: array.astype(np.float64) if is_real[key] else array for key, array in found.state.items()})
    return agent


def _samples(replay: Replay, agent: NativeAgent) -> ReplayBufferSamples:
    """The batch of the agent's next update, as stable-baselines3 has it."""
    learning = agent.config.learning
    words = agent.draws.stream(Purpose.REPLAY, agent.updates + 1, learning.batch_size)
    batch = replay.sample(below(words, replay.size), learning.discount, learning.n_step)
    column = [torch.from_numpy(np.asarray(part, np.float64))[:, None] for part in (batch.returns, batch.discounts)]
    parts = [batch.observations, batch.actions, batch.next_observations]
    observations, actions, following = (torch.from_numpy(np.asarray(part, np.float64)) for part in parts)
    return ReplayBufferSamples(observations, actions, following, torch.zeros_like(column[0]), column[0], column[1])


@pytest.mark.parametrize("name", ["SAC", "SAC, AdamW", "TD3", "TD3, delay 3"])
def test_updates_in_double_are_those_of_stable_baselines3(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """With its batches and its noise, once what is numbered in docs/bring-your-own.md is undone: ε in SAC's density, and
    Adam's ε beside half a gradient."""
    model = _trained(name)
    agent, replay = _double_agent(_read()), filled_replay(N, M, 300)
    _in_double(model)
    monkeypatch.setattr("stable_baselines3.common.policies.preprocess_obs", lambda observations, *_, **__: observations)
    if isinstance(model, SAC):
        model.actor.action_dist.epsilon = 0.0
        model.critic.optimizer.param_groups[0]["eps"] /= 2
    for _ in range(6):
        batch = _samples(replay, agent)
        monkeypatch.setattr(model.replay_buffer, "sample", lambda *_, batch=batch, **__: batch)
        noises = [OurSAC._noise(agent, purpose) for purpose in (Purpose.POLICY, Purpose.TARGET_NOISE)]  # type: ignore[arg-type]
        drawn = iter(map(torch.from_numpy, noises))
        monkeypatch.setattr("torch.distributions.normal._standard_normal", lambda *_, drawn=drawn, **__: next(drawn))
        model.train(1, agent.config.learning.batch_size)
        agent.learn(replay)
        found = agent.state()
        for key, array in _expected(model).items():
            np.testing.assert_allclose(found[key], array, rtol=0, atol=1e-9, err_msg=f"{agent.updates}: {key}")
        if isinstance(model, SAC):
            assert found["agent.temperature"][0] == pytest.approx(model.log_ent_coef.item(), abs=1e-9)
    assert agent.updates == model._n_updates
