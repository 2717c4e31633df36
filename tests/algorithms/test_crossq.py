"""CrossQ and its batch renormalisation: against PyTorch's batch norm, the authors' formula and arithmetic by hand."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from edgerl.algorithms.crossq import CrossQ
from edgerl.algorithms.networks import FOLLOWING, WARM_UP, BatchRenorm
from edgerl.algorithms.sac import SAC
from edgerl.config import make_config
from edgerl.edge.engine.library import Isa
from edgerl.edge.engine.random import Purpose, below
from edgerl.errors import ConfigError
from edgerl.policy.batch_norm import EPSILON
from edgerl.policy.compact import make_layer

from .engines import HERE, Array, M, N, differing, filled_replay, largest_difference, native_agent, small_config

BATCH = torch.tensor(np.random.default_rng(6).normal([1, -20, 0.1], [2, 0.1, 30], (11, 3)))


def _agent(**options: Any) -> CrossQ:
    return CrossQ(small_config(algorithm="crossq", batch_size=9, **options), N, M, dtype=torch.float64)


def _on(engine: str) -> Any:
    return _agent() if engine == "torch" else native_agent(small_config(algorithm="crossq", batch_size=9), double=True)


def _norm(*, is_warm: bool = False) -> BatchRenorm:
    norm = BatchRenorm(3).double()
    norm.weight.data, norm.bias.data = torch.tensor([0.5, 2, -1]).double(), torch.tensor([0, 1, -3]).double()
    norm.running_mean, norm.running_variance = torch.tensor([0.5, 0, 1]).double(), torch.tensor([1.0, 2, 600]).double()
    norm.passes = WARM_UP if is_warm else 0
    return norm


def _gradients(y: Tensor, *by: Tensor) -> tuple[Tensor, ...]:
    weights = torch.linspace(-1, 2, y.numel(), dtype=y.dtype).reshape(y.shape)
    return torch.autograd.grad((y * weights + y**2).sum(), by)


def test_before_the_warm_up_ends_it_is_a_batch_norm() -> None:
    ours, theirs = _norm(), nn.BatchNorm1d(3, eps=1e-3, momentum=0.01).double()
    theirs.weight.data, theirs.bias.data = ours.weight.data.clone(), ours.bias.data.clone()
    theirs.running_mean, theirs.running_var = ours.running_mean.clone(), ours.running_variance.clone()
    x = BATCH.clone().requires_grad_()
    found, expected = ours(x, train=True), theirs(x)
    torch.testing.assert_close(found, expected)
    torch.testing.assert_close(_gradients(found, x, *ours.parameters()), _gradients(expected, x, *theirs.parameters()))
    torch.testing.assert_close(ours.running_mean, theirs.running_mean)
    variance = BATCH.var(dim=0, correction=0)  # theirs follows the unbiased one
    torch.testing.assert_close(theirs.running_var - ours.running_variance, 0.01 * variance / 10)
    theirs.eval()
    theirs.running_var = ours.running_variance.clone()
    torch.testing.assert_close(ours(x, train=False), theirs(x))


def _renormalised(x: Array, scale: Array, shift: Array, mean: Array, variance: Array, epsilon: float) -> Array:
    """As the authors' code computes it, but with an ε of choice: for 0 it is Ioffe's Algorithm 1."""
    batch_mean, batch_variance = x.mean(axis=0), x.var(axis=0)
    deviation, running = np.sqrt(batch_variance + epsilon), np.sqrt(variance + epsilon)
    r, d = np.clip(deviation / running, 1 / 3, 3), np.clip((batch_mean - mean) / running, -5, 5)
    assert (r == 1 / 3).any()
    assert ((r > 1 / 3) & (r < 3)).any()
    assert (d == -5).any()
    assert (np.abs(d) < 5).any()
    own_mean, own_variance = batch_mean - d * np.sqrt(batch_variance) / r, batch_variance / r**2
    result: Array = (x - own_mean) / np.sqrt(own_variance + epsilon) * scale + shift
    return result


def test_behind_the_warm_up_it_is_the_authors_renormalisation_but_for_epsilon(monkeypatch: pytest.MonkeyPatch) -> None:
    for epsilon, limit in ((1e-14, 1e-9), (EPSILON, 0.2)):
        monkeypatch.setattr("edgerl.algorithms.networks.EPSILON", epsilon)
        norm = _norm(is_warm=True)
        parts = [part.detach().numpy().copy() for part in (*norm.parameters(), *norm.buffers())]
        expected = _renormalised(BATCH.numpy(), *parts, epsilon)
        assert largest_difference(norm(BATCH, train=True).detach().numpy(), expected) < limit


def test_no_gradient_passes_r_and_d() -> None:
    """They are constants: the gradient is that of (x − μ)/σ times r."""
    norm, x = _norm(is_warm=True), BATCH.clone().requires_grad_()
    running = (norm.running_variance + EPSILON).sqrt()
    r = ((BATCH.var(dim=0, correction=0) + EPSILON).sqrt() / running).clamp(1 / 3, 3)
    d = ((BATCH.mean(dim=0) - norm.running_mean) / running).clamp(-5, 5)
    found = norm(x, train=True)
    mean = x.mean(dim=0)
    plain = (x - mean) / ((x - mean).square().mean(dim=0) + EPSILON).sqrt()
    expected = (plain * r + d) * norm.weight + norm.bias
    torch.testing.assert_close(found, expected)
    torch.testing.assert_close(_gradients(found, x, *norm.parameters()), _gradients(expected, x, *norm.parameters()))


@pytest.mark.parametrize("engine", ["torch", "native"])
def test_the_warm_up_ends_with_pass_100_001_of_each_network(engine: str) -> None:
    """The two updates differ in nothing but in how many were made before."""
    steps = {}
    for passes in (WARM_UP - 1, WARM_UP):
        agent = _on(engine)
        state = agent.state()
        state["agent.counters"][0] = passes
        for name in (n for n in state if n.endswith("_steps")):
            state[name] = np.array(passes // 3 if name.startswith("actor") else passes, np.float32)
        agent.load_state(state)
        agent.learn(filled_replay())
        steps[passes] = agent.metrics["critic_loss"]
    assert abs(steps[WARM_UP - 1] - steps[WARM_UP]) > 1e-3


@pytest.mark.parametrize("engine", ["torch", "native"])
def test_running_statistics_follow_the_batches_of_learning_alone(engine: str) -> None:
    """The critics' those of the joint batch at every update, the actor's those of its own at every third."""
    agent, replay = _on(engine), filled_replay()
    for update in range(1, 7):
        before = agent.state()
        agent.learn(replay)
        after = agent.state()
        agent.act(np.ones(N, np.float32))
        agent.explore(np.ones(N, np.float32), np.zeros(M))
        assert differing(after, agent.state()) == []
        batch = replay.sample(_indices(agent, update), 0.99, 1)
        both = np.concatenate([batch.observations, batch.next_observations]).astype(np.float64)
        for network, rows, is_due in (("critic_1", both, True), ("actor", batch.observations, update % 3 == 0)):
            name = f"{network}.0.running_mean"
            expected = before[name][:N] + is_due * FOLLOWING * (rows.mean(axis=0, dtype=np.float64) - before[name][:N])
            assert largest_difference(after[name][:N], expected) < 1e-12
            name = f"{network}.0.running_variance"
            expected = before[name][:N] + is_due * FOLLOWING * (rows.astype(np.float64).var(axis=0) - before[name][:N])
            assert largest_difference(after[name][:N], expected) < 1e-12


def _indices(agent: Any, update: int) -> Array:
    return below(agent.draws.stream(Purpose.REPLAY, update, 9), 300)


def test_the_critics_learn_from_one_pass_over_both_halves_and_no_gradient_passes_the_target() -> None:
    agent, replay = _agent(), filled_replay()
    for _ in range(2):
        agent.learn(replay)
    batch = replay.sample(_indices(agent, 3), 0.99, 1)
    noise = torch.tensor(np.random.default_rng(1).normal(size=(9, M)))
    loss = agent._joint_loss(batch, noise)
    parameter = agent.critics[0].online.weights[0]
    found = torch.autograd.grad(loss, parameter)[0]
    next_observations = agent._tensor(batch.next_observations)
    with torch.no_grad():
        next_actions, density = agent._sample(next_observations, noise)
    x = torch.cat(
        [
            torch.cat([agent._tensor(batch.observations), agent._tensor(batch.actions)], dim=1),
            torch.cat([next_observations, next_actions], dim=1),
        ]
    )
    q1, q2 = (critic.online(x, train=True)[:, 0] for critic in agent.critics)
    target = torch.minimum(q1[9:], q2[9:]) - agent.temperature * density
    target = (agent._tensor(batch.returns) + agent._tensor(batch.discounts) * target).detach()
    expected = (q1[:9] - target).square().mean() + (q2[:9] - target).square().mean()
    torch.testing.assert_close(loss, expected)
    torch.testing.assert_close(found, torch.autograd.grad(expected, parameter)[0])
    alone = agent.critics[0].online(x[:9], train=True)[:, 0]
    assert not torch.allclose(alone, q1[:9]), "what follows moves the statistics of what was"


def test_the_policy_learns_by_its_batch_and_is_valued_by_running_statistics() -> None:
    agent, replay = _agent(), filled_replay()
    for _ in range(2):
        agent.learn(replay)
    before = {name: array for name, array in agent.state().items() if "critic" in name}
    observations = torch.tensor(np.random.default_rng(2).normal(size=(9, N)))
    noise = torch.tensor(np.random.default_rng(3).normal(size=(9, M)))
    mean, log_deviation = agent.actor.online(observations, train=True).chunk(2, dim=1)
    u = mean + log_deviation.clamp(-20, 2).exp() * noise
    x = torch.cat([observations, torch.tanh(u)], dim=1)
    q1, q2 = (critic.online(x, train=False)[:, 0] for critic in agent.critics)
    actions, density = agent._sample(observations, noise, train=True)
    expected = (agent.temperature * density - torch.minimum(q1, q2)).mean()
    torch.testing.assert_close(agent._actor_loss(observations, actions, density), expected)
    torch.testing.assert_close(actions, torch.tanh(u))
    agent._learn_policy(observations, noise)
    assert differing({name: array for name, array in agent.state().items() if "critic" in name}, before) == []


@pytest.mark.parametrize("options", [{}, {"block": 4, "sparsity": 0.6}, {"topology": "dense"}], ids=str)
def test_no_network_has_a_target_nor_memory_for_one(options: dict[str, Any]) -> None:
    config = small_config(algorithm="crossq", batch_size=9, **options)
    for agent in (CrossQ(config, N, M), native_agent(config)):
        assert not any("target" in name for name in agent.state())
        assert all(network.target_connections() == [0, 0, 0] for _, network in agent.networks)
    for layers in native_agent(config).arena.layers:
        assert all(getattr(layer, name) is None for layer in layers for name in vars(layer) if "target" in name)
    kept = [
        native_agent(small_config(algorithm=name, hidden=(64, 64), batch_size=9, **options)).arena.bytes.state
        for name in ("crossq", "sac")
    ]
    assert kept[0] < 0.9 * kept[1]


@pytest.mark.parametrize("isa", HERE)
@pytest.mark.parametrize("block", [1, 4])
def test_an_exported_policy_is_a_plain_network_that_acts_as_the_run_does(
    block: int, isa: Isa, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Folded in float64 here; the topology stays."""
    monkeypatch.setenv("EDGERL_ISA", isa)
    config = small_config(algorithm="crossq", batch_size=9, block=block)
    native, replay, observation = native_agent(config), filled_replay(), np.linspace(-2, 3, N).astype(np.float32)
    reference = CrossQ(config, N, M)
    for _ in range(45):
        native.learn(replay)
    reference.load_state(native.state() | {"agent.loss_sums": np.zeros(2, np.float32)})
    state = native.state()
    for agent in (native, reference):
        layers = agent.actor_layers()
        x = observation.astype(np.float64)
        for index, (weight, bias) in enumerate(layers):
            assert (weight.dtype, bias.dtype) == (np.float32, np.float32)
            own = state[f"actor.{index}.weight"]
            assert make_layer(weight, bias, block).connections == np.count_nonzero(own) // (2 if index == 2 else 1)
            x = weight @ x + bias
            x = np.maximum(x, 0) if index < 2 else np.tanh(x)
        np.testing.assert_allclose(agent.act(observation), x, rtol=0, atol=2e-6)
    x = observation.astype(np.float64)
    for index, part in enumerate(reference.actor.online.parameters_of(i) for i in range(3)):
        own = {name: tensor.detach().numpy().astype(np.float64) for name, tensor in part.items()}
        mean, variance = (state[f"actor.{index}.running_{name}"].astype(np.float64) for name in ("mean", "variance"))
        x = (x - mean) / np.sqrt(variance + 1e-3) * own["norm_scale"] + own["norm_shift"]
        x = own["weight"] @ x + own["bias"]
        x = np.maximum(x, 0) if index < 2 else np.tanh(x[:M])
    np.testing.assert_allclose(native.act(observation), x, rtol=0, atol=2e-6)


@pytest.mark.parametrize("isa", HERE)
def test_what_is_tried_is_drawn_from_the_policy_on_both_engines(isa: Isa, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EDGERL_ISA", isa)
    native, reference = native_agent(small_config(algorithm="crossq", batch_size=9)), _agent()
    for seed in range(7):
        generator = np.random.default_rng(seed)
        observation, noise = generator.normal(size=N).astype(np.float32), generator.normal(size=M)
        found, expected = native.explore(observation, noise), reference.explore(observation, noise)
        assert largest_difference(found, expected) <= 2e-6


def test_defaults_are_those_of_its_authors_and_options_win() -> None:
    config = make_config(algorithm="crossq")
    learning, network = config.learning, config.network
    assert (learning.learning_rate, learning.beta1, learning.weight_decay) == (1e-3, 0.5, 0)
    assert (learning.batch_size, learning.policy_delay) == (256, 3)
    assert (network.actor_norm, network.critic_norm) == ("batch", "batch")
    assert make_config(algorithm="crossq", actor_norm="none").network.actor_norm == "none"
    assert (make_config().network.actor_norm, make_config(algorithm="sac").network.critic_norm) == ("none", "none")


def test_its_temperature_is_sacs() -> None:
    assert CrossQ._step_temperature is SAC._step_temperature


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"critic_norm": "batch"}, "^`critic_norm` is batch and `algorithm` td3, and batch norms need one without"),
        (
            {"algorithm": "sac", "actor_norm": "batch"},
            "^`actor_norm` is 'batch', which means nothing to `algorithm` sac",
        ),
        ({"algorithm": "crossq", "batch_size": 1}, "^`critic_norm` is batch and `batch_size` 1, which has no variance"),
        ({"actor_norm": "layer"}, "^`actor_norm` is 'layer'; expected none, batch"),
    ],
    ids=["td3", "sac", "batch of one", "layer norm of an actor"],
)
def test_a_batch_norm_that_cannot_be_is_refused_in_one_line(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message) as caught:
        make_config(**options)
    assert "\n" not in str(caught.value)


def test_batch_norms_are_not_asked_of_one_transition_where_there_are_none() -> None:
    config = small_config(algorithm="crossq", batch_size=1, critic_norm="none", actor_norm="none")
    native_agent(config).learn(filled_replay())


@pytest.mark.parametrize("options", [{}, {"block": 4, "drop": "scaled-magnitude"}], ids=["block 1", "block 4"])
def test_a_state_goes_on_to_the_same_bits_and_between_the_engines(options: dict[str, Any]) -> None:
    config = small_config(algorithm="crossq", batch_size=9, **options)
    whole, first, replay = native_agent(config), native_agent(config), filled_replay()
    for _ in range(31):
        whole.learn(replay)
        first.learn(replay)
    second = native_agent(config)
    second.load_state(first.state())
    for _ in range(30):
        whole.learn(replay)
        second.learn(replay)
    assert differing(whole.state(), second.state()) == []
    reference, state = CrossQ(config, N, M), first.state()
    reference.load_state(state | {"agent.loss_sums": state["agent.loss_sums"].astype(np.float32)})
    reference.learn(replay)
    first.learn(replay)
    for name in ("critic_2.1.weight_first_moment", "critic_2.1.running_mean", "critic_1.0.running_variance"):
        assert largest_difference(first.state()[name], reference.state()[name]) <= 1e-5, name


@pytest.mark.parametrize("values", [[np.nan], [np.inf], [-1e-3]], ids=["NaN", "infinite", "negative"])
def test_running_statistics_that_cannot_be_are_refused(values: list[float]) -> None:
    agent = native_agent(small_config(algorithm="crossq", batch_size=9))
    state = agent.state()
    state["critic_1.1.running_variance"][:1] = values
    with pytest.raises(ValueError, match=r"not finite|a number is out of"):
        agent.load_state(state)


def test_observations_whose_variance_is_not_finite_change_nothing() -> None:
    agent, replay = native_agent(small_config(algorithm="crossq", batch_size=9)), filled_replay()
    agent.learn(replay)
    before = agent.state()
    for _ in range(340):
        replay.append(np.full(N, 3e30, np.float32), np.zeros(M, np.float32), 0.0, np.full(N, -3e30, np.float32), 0)
    agent.learn(replay)
    after = agent.state()
    assert agent.abandoned_updates == 1
    counted = {name for name in after if name.endswith("_steps") and name.startswith("critic")}
    assert set(differing(before, after)) == counted | {"agent.counters"}
