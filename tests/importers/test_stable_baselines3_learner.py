"""SAC and TD3 of stable-baselines3 that learn on: values and actions are the model's, and so is what an update does."""

from __future__ import annotations

import io
import json
import zipfile
from collections.abc import Callable, Mapping
from contextlib import closing
from copy import deepcopy
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from stable_baselines3 import A2C, DDPG, PPO, SAC, TD3
from stable_baselines3.common.noise import NormalActionNoise, OrnsteinUhlenbeckActionNoise
from stable_baselines3.common.type_aliases import ReplayBufferSamples
from stable_baselines3.common.vec_env import DummyVecEnv, VecNormalize
from torch import nn

from edgerl.algorithms.agent import Agent
from edgerl.algorithms.native import NativeAgent
from edgerl.edge.continual.learner import Learner
from edgerl.edge.continual.replay import Replay
from edgerl.edge.engine.random import Purpose, below
from edgerl.errors import ConfigError, EdgerlError, UnsupportedModelError
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
    "SAC, ELU": (SAC, {"policy_kwargs": NETWORKS | {"activation_fn": nn.ELU}}),
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
    for number, (critic, target) in enumerate(
        zip(policy.critic.q_networks, policy.critic_target.q_networks, strict=True), 1
    ):
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
        activation = nn.ELU() if "ELU" in name else nn.ReLU()
        for layers, value in zip(learner.challenger.arena.layers[1:], values, strict=True):
            x = np.concatenate([OBSERVATIONS, ACTIONS], axis=1)
            for layer in layers:
                x = x @ layer.matrix().T + layer.bias[: layer.n_outputs]
                x = activation(torch.from_numpy(x)).numpy() if layer is not layers[-1] else x
            np.testing.assert_allclose(x[:, 0], value, rtol=1e-5, atol=1e-4)
        assert learner.about["imported_from"] == f"stable-baselines3 {'SAC' if 'SAC' in name else 'TD3'}"
        for x, y in pairwise(OBSERVATIONS[:41]):
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


def _train_once(
    model: Any, agent: NativeAgent, replay: Replay, monkeypatch: pytest.MonkeyPatch, rewards: float = 1.0
) -> None:
    """An update of the model, with the batch and the noise of the agent's next one; its rewards are divided by
    `rewards`."""
    batch = _samples(replay, agent)
    batch = batch._replace(rewards=batch.rewards / rewards)
    noises = iter(
        torch.from_numpy(Agent._noise(agent, purpose))  # type: ignore[arg-type]
        for purpose in (Purpose.POLICY, Purpose.TARGET_NOISE)
    )
    with monkeypatch.context() as patch:
        patch.setattr("stable_baselines3.common.policies.preprocess_obs", lambda observations, *_, **__: observations)
        patch.setattr("torch.distributions.normal._standard_normal", lambda *_, **__: next(noises))
        patch.setattr(model.replay_buffer, "sample", lambda *_, **__: batch)
        model.train(1, agent.config.learning.batch_size)


@pytest.mark.parametrize("name", ["SAC", "SAC, AdamW", "SAC, ELU", "TD3", "TD3, delay 3"])
def test_updates_in_double_are_those_of_stable_baselines3(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """With its batches and its noise, once what docs/bring-your-own.md numbers is undone: ε in SAC's density, and
    Adam's ε beside half a gradient."""
    model = _trained(name)
    agent, replay = _double_agent(_read()), filled_replay(N, M, 300)
    _in_double(model)
    if isinstance(model, SAC):
        model.actor.action_dist.epsilon = 0.0
        model.critic.optimizer.param_groups[0]["eps"] /= 2
    for _ in range(6):
        _train_once(model, agent, replay, monkeypatch)
        agent.learn(replay)
        found = agent.state()
        for key, array in _expected(model).items():
            np.testing.assert_allclose(found[key], array, rtol=0, atol=1e-9, err_msg=f"{agent.updates}: {key}")
        if isinstance(model, SAC):
            assert found["agent.temperature"][0] == pytest.approx(model.log_ent_coef.item(), abs=1e-9)
    assert agent.updates == model._n_updates


# ------------------------------------------------------------------------------------------------ VecNormalize


def _normalised(name: str, **options: Any) -> tuple[Any, VecNormalize]:
    """A model that was trained with normalised observations and rewards, and its statistics, in files."""
    environment = VecNormalize(DummyVecEnv([Paying]), clip_obs=2.0, **options)
    algorithm, own = MODELS[name]
    model = algorithm("MlpPolicy", environment, **deepcopy({**TRAINED, **own}))
    model.learn(55)
    model.save("model.zip")
    environment.save("vecnormalize.pkl")
    return model, environment


@pytest.mark.parametrize("name", ["SAC", "TD3", "SAC with a fixed temperature"])
def test_statistics_of_observations_and_rewards(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """What the learner is given are observations and rewards as they are; its values are of such rewards. That the
    moments are of its loss is shown by an update: they follow stable-baselines3's, for rewards that are divided."""
    model, environment = _normalised(name)
    deviation = float(np.sqrt(environment.ret_rms.var + environment.epsilon))
    assert deviation > 2
    found = read(Path("model.zip").read_bytes(), Path("model.zip"), Stated(normalizer="vecnormalize.pkl"))
    assert [line[:40] for line in found.notes[-2:]] == [
        "the model clipped normalised observation",
        f"the model's rewards were divided by {deviation:.4g}"[:40],
    ]
    inside = OBSERVATIONS[(np.abs(environment.normalize_obs(OBSERVATIONS)) < 2).all(axis=1)]
    assert len(inside) > 10
    hand_over_model("model.zip", GOAL, normalizer="vecnormalize.pkl", precision="fp16")
    with closing(Learner.load(GOAL)) as learner:
        expected = model.predict(environment.normalize_obs(inside), deterministic=True)[0]
        actions = [learner.act(x, explore=False) for x in inside]
        np.testing.assert_allclose(actions, expected, atol=1e-5)
    agent, replay = _double_agent(found), filled_replay(N, M, 300)
    _in_double(model)
    if isinstance(model, SAC):
        model.actor.action_dist.epsilon = 0.0
        temperature = 0.25 if model.log_ent_coef is None else float(model.log_ent_coef.detach().exp())
        assert np.exp(found.state["agent.temperature"][0]) == pytest.approx(deviation * temperature, rel=1e-6)
    model.actor.optimizer.param_groups[0]["lr"] = 0.0
    for after in (False, True):
        if after:
            _train_once(model, agent, replay, monkeypatch, deviation)
            agent.learn(replay)
        state, expected_state = agent.state(), _expected(model)
        for key, array in expected_state.items():
            network, index, part = key.split(".")
            is_critic, is_last = network != "actor", index == "2"
            if after and (not is_critic or "moment" not in part):
                continue  # Adam's steps do not depend on the unit of a loss, but weights of the last layer do
            unit = deviation if is_critic and is_last else 1.0
            factor = deviation**2 / unit if is_critic else deviation
            scale = factor**2 if "second" in part else factor if "first" in part else unit
            np.testing.assert_allclose(state[key], scale * array, rtol=1e-6, atol=1e-9 * scale, err_msg=key)


def test_what_is_expected_of_rewards_explains_the_values() -> None:
    model, environment = _normalised("TD3", norm_obs=False)
    found = read(Path("model.zip").read_bytes(), Path("model.zip"), Stated(normalizer="vecnormalize.pkl"))
    assert found.policy.observation_mean is None
    x = np.random.default_rng(0).normal(size=(1000, N)).astype(np.float32)
    with torch.no_grad():
        values = model.critic(torch.from_numpy(x), model.actor(torch.from_numpy(x)))
    largest = max(float(value.abs().max()) for value in values)
    deviation = float(np.sqrt(environment.ret_rms.var + environment.epsilon))
    assert found.expected_reward == pytest.approx(0.01 * deviation * largest, rel=1e-4)
    hand_over_model("model.zip", GOAL, normalizer="vecnormalize.pkl")
    with closing(Learner.load(GOAL)) as learner:
        assert learner.counters.largest_reward == found.expected_reward


def test_rewards_that_were_left_as_they_are() -> None:
    _normalised("SAC", norm_reward=False)
    notes = read(Path("model.zip").read_bytes(), Path("model.zip"), Stated(normalizer="vecnormalize.pkl")).notes
    assert len(notes) == 1
    assert notes[0].startswith("the model clipped normalised observations to ±2; ")


# ------------------------------------------------------------------------------------------------ options


def test_options_are_the_models() -> None:
    _trained("TD3, delay 3", target_policy_noise=0.3, target_noise_clip=0.6, gamma=0.97, tau=0.01, action_noise=NOISE)
    found = _read()
    learning = found.config.learning
    assert (found.config.algorithm, found.config.network.topology) == ("td3", "dense")
    assert (found.config.network.hidden, found.config.network.critic_hidden) == ((16, 12), (20, 9))
    assert (learning.discount, learning.soft_update, learning.batch_size) == (0.97, 0.01, 16)
    assert (learning.policy_delay, learning.target_noise, learning.target_noise_clip) == (3, 0.3, 0.6)
    assert (learning.learning_rate, learning.n_step, learning.exploration_noise) == (2e-3, 2, 0.3)
    assert (learning.optimiser, learning.beta1, learning.weight_decay) == ("adam", 0.9, 0)
    assert len(found.notes) == 1
    assert found.notes[0].startswith("observations are taken as they are; ")
    _trained("SAC, AdamW")
    learning = _read().config.learning
    assert (learning.optimiser, learning.beta1, learning.weight_decay) == ("adamw", 0.8, 0.01)
    assert (learning.learning_rate, learning.target_entropy) == (3e-4, -0.5)


NOTED: dict[str, tuple[str, dict[str, Any], str, dict[str, Any]]] = {
    "a schedule": (
        "SAC",
        {"learning_rate": lambda _: 2.5e-4},
        "its learning rate as a schedule, which is pickled; the learner keeps the last one, 0.00025: --learning-rate ",
        {"learning_rate": 2.5e-4},
    ),
    "no noise": ("TD3", {"action_noise": None}, "explored without action noise", {"exploration_noise": 0.0}),
    "unequal noise": (
        "TD3",
        {"action_noise": NormalActionNoise(np.zeros(M), np.array([0.1, 0.2]))},
        "does not state one deviation of normal action noise; the learner has edgerl's default",
        {"exploration_noise": 0.1},
    ),
    "other noise": (
        "TD3",
        {"action_noise": OrnsteinUhlenbeckActionNoise(np.zeros(M), np.full(M, 0.3))},
        "does not state one deviation of normal action noise; the learner has edgerl's default",
        {"exploration_noise": 0.1},
    ),
    "fixed temperature": ("SAC with a fixed temperature", {}, "the fixed entropy coefficient 0.25; the learner ad", {}),
    "slow targets": (
        "SAC",
        {"target_update_interval": 4},
        "target_update_interval 4; the learner's targets follow",
        {},
    ),
    "Adam's constants": (
        "SAC",
        {"policy_kwargs": NETWORKS | {"optimizer_kwargs": {"betas": (0.9, 0.99), "eps": 1e-5}}},
        "Adam has β₂ 0.99, ε 1e-05 and amsgrad False; the learner's has 0.999, 1e-08 and none",
        {"beta1": 0.9},
    ),
}


@pytest.mark.parametrize("case", NOTED)
def test_what_a_model_does_not_state_or_a_learner_does_not_have_is_said(case: str) -> None:
    name, options, said, expected = NOTED[case]
    _trained(name, steps=24, **options)
    found = _read()
    assert any(said in line for line in found.notes), found.notes
    assert {option: getattr(found.config.learning, option) for option in expected} == expected


def test_a_learning_rate_that_is_stated_wins_and_an_ended_schedule_needs_one() -> None:
    _trained("SAC", steps=24, learning_rate=lambda _: 0.0)
    with pytest.raises(ConfigError, match=r"the last one is 0\.0; state one to go on with: `learning_rate` 3e-4$"):
        _read()
    assert _read(learning_rate=1e-4).config.learning.learning_rate == 1e-4
    hand_over_model("model.zip", GOAL, learning_rate=1e-4)
    with closing(Learner.load(GOAL)) as learner:
        config = learner.challenger.arena.config
        assert config.actor.learning_rate == config.critic.learning_rate == np.float32(1e-4)


def test_a_model_without_steps_begins_with_zero_moments() -> None:
    for steps in (10, 21):  # none; or one of the critics, and none yet of the actor
        model, found = _trained("TD3", steps=steps), _read()
        assert found.state["agent.counters"][0] == model._n_updates == max(0, steps - 20)
        assert not found.state["actor.0.weight_first_moment"].any()
        assert found.state["critic_1.0.weight_first_moment"].any() == (steps > 20)
        NativeAgent(found.config, N, M).load_state(dict(found.state))


# ------------------------------------------------------------------------------------------------ refusals


REFUSED: dict[str, tuple[Any, dict[str, Any], str]] = {
    "PPO": (PPO, {}, r"is of PPO or A2C, whose critic values observations without actions, so that there is nothing "),
    "A2C": (A2C, {}, r"is of PPO or A2C, .* train SAC or TD3, or take the policy as it is: edgerl import$"),
    "DDPG": (DDPG, {}, r"was trained with n_critics 1, which is 1 in DDPG; expected 2, since a learner goes"),
    "three critics": (SAC, {"policy_kwargs": {"n_critics": 3}}, r"was trained with n_critics 3, which"),
    "leaky ReLU": (
        TD3,
        {"policy_kwargs": {"activation_fn": nn.LeakyReLU}},
        r"has the activation leaky_relu; a learner has relu, elu, silu, tanh: train with one of them",
    ),
    "SGD": (SAC, {"policy_kwargs": {"optimizer_class": torch.optim.SGD}}, r"was trained with .*SGD.*; a learner has"),
    "use_sde": (SAC, {"use_sde": True}, r"was trained with use_sde"),
    "nine layers": (SAC, {"policy_kwargs": {"net_arch": [8] * 9}}, r"cannot become a learner: hidden has 9 layers"),
    "a batch too large": (SAC, {"batch_size": 1 << 20}, r"cannot become a learner: batch_size is 1048576; exp"),
}  # fmt: skip


@pytest.mark.parametrize("case", REFUSED)
def test_what_cannot_learn_on_is_refused_with_the_reason(case: str) -> None:
    algorithm, options, problem = REFUSED[case]
    algorithm("MlpPolicy", Paying(), device="cpu", **deepcopy(options)).save("model.zip")
    with pytest.raises(UnsupportedModelError, match=problem) as refused:
        hand_over_model("model.zip", GOAL)
    assert "\n" not in str(refused.value)
    assert not GOAL.exists()


def test_quantiles_are_refused() -> None:
    def change(members: dict[str, bytes]) -> None:
        def widened(state: Any) -> None:
            state |= {f"critic.qf{i}.4.weight": torch.zeros(25, 9) for i in range(2)}

        _tensors(members, "policy.pth", widened)

    _trained("SAC", steps=24)
    with pytest.raises(
        UnsupportedModelError, match=r"critics that give 25 quantiles, as TQC's do; a learner has critics"
    ):
        hand_over_model(_changed(change), GOAL)


@pytest.mark.parametrize(
    ("options", "problem"),
    [
        ({"seed": 5}, r"^`replay` is 5, and model\.zip has no transitions to begin with; leave it out$"),
        (
            {"precision": "fp16"},
            r"^`replay_dtype` is fp16, .* nothing is known of those of model\.zip; name their stat",
        ),
        (
            {"memory": 1 << 14},
            r"^the memory is 16384 bytes; expected more than the \d+ that the networks of model\.zip ",
        ),
        ({"learning_rate": 2.0}, r"learning_rate is 2\.0; expected a number in \(0, 1\]"),
    ],
)
def test_options_that_cannot_be(options: dict[str, Any], problem: str) -> None:
    _trained("SAC", steps=24)
    with pytest.raises(EdgerlError, match=problem):
        hand_over_model("model.zip", GOAL, **options)
    assert not GOAL.exists()


def test_a_reservoir_of_windows() -> None:
    _trained("TD3, delay 3", steps=24)
    with pytest.raises(ConfigError, match=r"^model\.zip has returns of 2 rewards; a reservoir needs 1 \(use a ring"):
        hand_over_model("model.zip", GOAL, keep="reservoir")


def test_batches_that_need_more_than_the_memory_are_refused_before_they_take_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    _trained("SAC", steps=24, batch_size=16)
    path = _changed(lambda members: _data(members, batch_size=65536))
    monkeypatch.setattr("edgerl.training.handover.NativeAgent", None)
    with pytest.raises(ConfigError, match=r"^the memory is 33554432 bytes; .* need for batches of 65536$"):
        hand_over_model(path, GOAL)


# ------------------------------------------------------------------------------------------------ hostile files


def _changed(change: Callable[[dict[str, bytes]], object]) -> Path:
    """The model with other members."""
    with zipfile.ZipFile("model.zip") as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    change(members)
    with zipfile.ZipFile("changed.zip", "w") as archive:
        for name, data in members.items():
            archive.writestr(name, data)
    return Path("changed.zip")


def _data(members: dict[str, bytes], **changed: Any) -> None:
    members["data"] = json.dumps(json.loads(members["data"]) | changed).encode()


def _tensors(members: dict[str, bytes], name: str, change: Callable[[Any], object]) -> None:
    state, buffer = torch.load(io.BytesIO(members[name]), weights_only=True), io.BytesIO()
    change(state)
    torch.save(state, buffer)
    members[name] = buffer.getvalue()


class _Bomb:
    def __reduce__(self) -> Any:
        return (Path.touch, (Path("executed"),))


def _executable(members: dict[str, bytes], name: str) -> None:
    buffer = io.BytesIO()
    torch.save({"state": {0: {"exp_avg": _Bomb()}}, "param_groups": []}, buffer)
    members[name] = buffer.getvalue()


def _entry(members: dict[str, bytes], network: str = "critic", **changed: Any) -> None:
    _tensors(members, f"{network}.optimizer.pth", lambda saved: saved["state"][0].update(changed))


def _group(members: dict[str, bytes], **changed: Any) -> None:
    _tensors(members, "actor.optimizer.pth", lambda saved: saved["param_groups"][0].update(changed))


def _weights(members: dict[str, bytes], **changed: Any) -> None:
    _tensors(members, "policy.pth", lambda state: state.update({n.replace("__", "."): t for n, t in changed.items()}))


VARIABLES, FIRST = "pytorch_variables.pth", (20, N + M)
NAN = torch.full(FIRST, float("nan"))
HOSTILE: dict[str, tuple[Callable[[dict[str, bytes]], object], str]] = {
    "an optimiser that executes": (lambda m: _executable(m, "critic.optimizer.pth"), "holds more than tensors"),
    "an optimiser that is torn": (
        lambda m: m.update({"actor.optimizer.pth": m["actor.optimizer.pth"][:500]}),
        "is not a PyTorch file",
    ),
    "an optimiser that is a list": (
        lambda m: m.update({"actor.optimizer.pth": m[VARIABLES]}),
        "actor.optimizer.pth is not the state of an Adam for these networks",
    ),
    "two groups": (
        lambda m: _tensors(m, "actor.optimizer.pth", lambda saved: saved["param_groups"].append({})),
        "actor.optimizer.pth is not the state of an Adam",
    ),
    "too few parameters": (lambda m: _group(m, params=[0, 1]), "actor.optimizer.pth is not the state of an Adam"),
    "moments of another shape": (lambda m: _entry(m, exp_avg=torch.zeros(3, 3)), r"has the shape \[3, 3\]; expected"),
    "moments that are not finite": (lambda m: _entry(m, exp_avg=NAN), "holds a number that is not finite"),
    "moments too large": (lambda m: _entry(m, exp_avg_sq=torch.full(FIRST, 1e38)), "not finite; save it again"),
    "moments below 0": (lambda m: _entry(m, exp_avg_sq=torch.full(FIRST, -1.0)), "is not valid: .*; save it again"),
    "moments without numbers": (lambda m: _entry(m, exp_avg=torch.zeros(FIRST, dtype=torch.int64)), "is missing"),
    "moments that are huge": (lambda m: _entry(m, exp_avg=torch.zeros(1).expand(10**9, 99)), "numbers in critic.opt"),
    "steps below 0": (lambda m: _entry(m, step=-1), r"an Adam for these networks \(-1 steps\)"),
    "steps without end": (lambda m: _entry(m, step=1 << 60), "1152921504606846976 steps"),
    "steps that are no number": (lambda m: _entry(m, step=torch.tensor(float("nan"))), "is not the state of an Adam"),
    "betas": (lambda m: _group(m, betas=3), "the betas of its optimiser are 3"),
    "a decay": (lambda m: _group(m, betas=("a", 0.999)), "cannot become a learner: beta1 is a; expected a number"),
    "a weight decay": (lambda m: _group(m, weight_decay=-1.0), "cannot become a learner: weight_decay is -1.0"),
    "a rate": (lambda m: _data(m, learning_rate=1e9), "cannot become a learner: learning_rate is 1000000000.0; exp"),
    "no number for n": (lambda m: _data(m, n_steps={}), "cannot become a learner: n_step is {}; expected a whole"),
    "an endless discount": (lambda m: m.update(data=m["data"].replace(b'"gamma": 0.99', b'"gamma": NaN')), "not JSON"),
    "other targets": (lambda m: _weights(m, critic_target__qf0__0__weight=torch.zeros(20, 9)), "has the shape"),
    "other critics": (lambda m: _weights(m, critic__qf1__0__weight=torch.zeros(20, 9)), "has the shape"),
    "other deviations": (lambda m: _weights(m, actor__log_std__weight=torch.zeros(2, 9)), "has the shape"),
    "a critic that is not finite": (lambda m: _weights(m, critic__qf0__0__weight=NAN), "that is not finite"),
    "a critic too large": (lambda m: _weights(m, critic__qf0__0__weight=1e38 * torch.ones(FIRST)), "are not finite$"),
    "a critic of 3 dimensions": (lambda m: _weights(m, critic__qf0__4__weight=torch.zeros(1, 9, 1)), "has the shape"),
    "something between": (lambda m: _weights(m, critic__qf0__1__weight=torch.zeros(1)), "expected affine layers"),
    "no temperature": (lambda m: m.pop(VARIABLES), f"has no member '{VARIABLES}'"),
    "a temperature of 0": (
        lambda m: _tensors(m, VARIABLES, lambda v: (v.clear(), v.update(ent_coef_tensor=torch.zeros(1)))),
        "has the entropy coefficient 0; expected more than 0",
    ),
    "two temperatures": (
        lambda m: _tensors(m, VARIABLES, lambda v: v.update(log_ent_coef=torch.zeros(2))),
        "log_ent_coef is missing, or not 1 finite numbers",
    ),
}  # fmt: skip


@pytest.fixture(scope="module")
def sac(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    path = tmp_path_factory.mktemp("sac") / "model.zip"
    _trained("SAC", path)
    return path.read_bytes()


@pytest.mark.parametrize("case", HOSTILE)
def test_hostile_models_are_refused_in_one_line(case: str, sac: bytes) -> None:
    Path("model.zip").write_bytes(sac)
    change, problem = HOSTILE[case]
    with pytest.raises(EdgerlError, match=problem) as refused:
        hand_over_model(_changed(change), GOAL)
    assert "\n" not in str(refused.value)
    assert not GOAL.exists()
    assert not Path("executed").exists()


def test_a_model_without_optimisers_begins_anew(sac: bytes) -> None:
    Path("model.zip").write_bytes(sac)
    names = ("actor.optimizer.pth", "critic.optimizer.pth", "ent_coef_optimizer.pth")
    found = _read(_changed(lambda members: [members.pop(name) for name in names]))
    assert "the model has no state of its optimisers; Adam begins anew" in found.notes
    assert found.state["agent.counters"][0] == 0
    assert not any(array.any() for name, array in found.state.items() if name.endswith("_moment"))


def test_an_actor_beyond_float32_is_bounded_by_tanh(sac: bytes) -> None:
    Path("model.zip").write_bytes(sac)
    hand_over_model(_changed(lambda m: _weights(m, actor__mu__weight=3e38 * torch.ones(2, 12))), GOAL)
    with closing(Learner.load(GOAL)) as learner:
        action, bounds = learner.act(OBSERVATIONS[0], explore=False), (learner.action_low, learner.action_high)
        assert np.minimum(*(np.abs(action - bound) for bound in bounds)).max() < 1e-5


def test_mutated_models_are_read_or_refused(sac: bytes) -> None:
    rng, path, refused = np.random.default_rng(0), Path("mutated.zip"), 0
    for _ in range(200):
        path.write_bytes(mutated(sac, rng))
        try:
            hand_over_model(path, GOAL, force=True)
        except EdgerlError:
            refused += 1
    assert refused > 50
