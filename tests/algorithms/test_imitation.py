"""Imitation on the native engine against PyTorch's autograd in double: matching losses, Adam, the rate, evolution."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F  # noqa: N812 — PyTorch's own convention

from edgerl.algorithms.evolution import drop_fraction_at, drops_at_least_one
from edgerl.algorithms.imitation import RATE_INTERVAL, Imitator
from edgerl.algorithms.networks import SparseNetwork
from edgerl.algorithms.topology import plan_networks
from edgerl.config import Config, make_config
from edgerl.edge.engine.random import Draws, Network, Purpose, below
from edgerl.errors import ConfigError
from edgerl.policy.compact import Head

from .engines import Array, double_library

N, M, UPDATES, LAST = 5, 3, 250, 188  # the last three quarters of the updates

CASES: dict[str, dict[str, Any]] = {
    "dense": {"topology": "dense"},
    "static": {"topology": "static", "sparsity": 0.6},
    "dynamic": {"sparsity": 0.6, "drop_fraction": 0.3},
    "gradient": {"sparsity": 0.6, "drop_fraction": 0.3, "growth": "gradient", "drop_schedule": "cosine"},
    "gradient, block 4": {"sparsity": 0.6, "drop_fraction": 0.3, "growth": "gradient", "block": 4},
    "clipped gradients": {"sparsity": 0.6, "gradient_clip": 0.05, "batch_size": 1},
    "one unit": {"topology": "dense", "hidden": (1,)},
}


def _config(**options: Any) -> Config:
    return make_config(**{"hidden": (13, 9), "batch_size": 7, "evolution_interval": 20, "weight_decay": 0.0, **options})


def _examples(count: int = 60) -> Array:
    draw = np.random.default_rng(3)
    rows = draw.normal(size=(count, N + M))
    rows[:, N:] = np.tanh(2 * rows[:, N:])
    return rows.astype(np.float32)


def _tanh_loss(sums: torch.Tensor, wanted: torch.Tensor) -> torch.Tensor:
    """Whose derivative by a sum u is 2 (tanh(u) − a) / numbers."""
    return 2 * (torch.log(torch.cosh(sums)) - wanted * sums).mean()


def _clip_loss(sums: torch.Tensor, wanted: torch.Tensor) -> torch.Tensor:
    return 2 * (F.huber_loss(sums, torch.zeros_like(sums), reduction="none") - wanted * sums).mean()


LOSSES: dict[Head, Callable[[torch.Tensor, torch.Tensor], torch.Tensor]] = {"tanh": _tanh_loss, "clip": _clip_loss}


def _learnt_by_pytorch(config: Config, head: Head, examples: Array) -> SparseNetwork:
    """What UPDATES updates make of it in double."""
    plans, _ = plan_networks(config, N, M)
    draws, learning, interval = Draws(config.seed), config.learning, config.evolution.evolution_interval
    torch.set_default_dtype(torch.float64)
    try:
        network = SparseNetwork(plans, draws, Network.ACTOR, torch.device("cpu"), has_target=False)
    finally:
        torch.set_default_dtype(torch.float32)
    adam = torch.optim.Adam(network.online.parameters(), lr=learning.learning_rate)
    rows = torch.from_numpy(examples).double()
    for update in range(1, UPDATES + 1):
        begun = (update - 1) // RATE_INTERVAL * RATE_INTERVAL
        adam.param_groups[0]["lr"] = learning.learning_rate * (1 - begun / UPDATES)
        words = draws.stream(Purpose.REPLAY, update, learning.batch_size)
        batch = rows[below(words, len(rows)).astype(np.int64)]
        adam.zero_grad()
        LOSSES[head](network.online(batch[:, :N]), batch[:, N:]).backward()
        gradients = network.dense_gradients()
        network.mask_gradients()
        if learning.gradient_clip is not None:
            torch.nn.utils.clip_grad_norm_(network.online.parameters(), learning.gradient_clip)
        adam.step()
        if config.network.topology == "dynamic" and update % interval == 0 and update < LAST:
            when = config.evolution, update, LAST
            fraction, at_least_one = drop_fraction_at(*when), drops_at_least_one(*when)
            network.evolve(adam, fraction, update, gradients, config.evolution, at_least_one=at_least_one)
    return network


@pytest.mark.parametrize("head", LOSSES)
@pytest.mark.parametrize("options", CASES.values(), ids=CASES)
def test_updates_in_double_equal_pytorch(options: dict[str, Any], head: Head) -> None:
    config, examples = _config(**options), _examples()
    plans, _ = plan_networks(config, N, M)
    imitator = Imitator(config, plans, head, UPDATES, loaded=double_library(), dtype=np.float64)
    imitator.learn(examples, UPDATES)
    expected = _learnt_by_pytorch(config, head, examples)
    assert imitator.abandoned == 0
    for (weight, bias), own, own_bias in zip(
        imitator.layers(), expected.online.weights, expected.online.biases, strict=True
    ):
        assert ((weight != 0) == (own.detach().numpy() != 0)).all()
        np.testing.assert_allclose(weight, own.detach().numpy(), rtol=0, atol=1e-6)  # float32 of both
        np.testing.assert_allclose(bias, own_bias.detach().numpy(), rtol=0, atol=1e-6)


def test_the_loss_is_the_mean_square_difference_of_the_actions() -> None:
    config, examples = _config(topology="dense", batch_size=60), _examples(1)
    imitator = Imitator(config, plan_networks(config, N, M)[0], "tanh", 10)
    imitator.learn(examples, 1)
    x = examples[0, :N].astype(np.float64)
    first = Imitator(config, plan_networks(config, N, M)[0], "tanh", 10)
    for index, (weight, bias) in enumerate(first.layers()):
        x = weight @ x + bias
        x = np.maximum(x, 0) if index < 2 else np.tanh(x)
    assert imitator.loss == pytest.approx(np.square(x - examples[0, N:]).mean(), rel=1e-5)
    imitator.reset_loss()
    assert imitator.loss == 0


def test_it_acts_as_its_layers_do() -> None:
    for head, squash in (("tanh", np.tanh), ("clip", lambda sums: np.clip(sums, -1, 1))):
        config, examples = _config(sparsity=0.5), _examples()
        imitator = Imitator(config, plan_networks(config, N, M)[0], head, 100)  # type: ignore[arg-type]
        imitator.learn(examples, 100)
        x = 9 * examples[0, :N].astype(np.float64)
        expected = x
        for index, (weight, bias) in enumerate(imitator.layers()):
            expected = weight.astype(np.float64) @ expected + bias
            expected = np.maximum(expected, 0) if index < 2 else squash(expected)
        np.testing.assert_allclose(imitator.arena.act(x.astype(np.float32)), expected, atol=1e-5)


def test_a_state_goes_on_to_the_same_bits() -> None:
    config, examples = _config(sparsity=0.6, drop_fraction=0.3, growth="gradient"), _examples()
    plans, _ = plan_networks(config, N, M)
    whole, first, second = (Imitator(config, plans, "tanh", 200) for _ in range(3))
    whole.learn(examples, 200)
    first.learn(examples, 130)  # between two learning rates
    second.load_state(first.state())
    second.learn(examples, 70)
    for own, expected in zip(second.arena.layers[0], whole.arena.layers[0], strict=True):
        for name in ("columns", "weight", "first_moment", "second_moment", "bias"):
            np.testing.assert_array_equal(getattr(own, name), getattr(expected, name))


def test_a_state_of_another_student_is_refused() -> None:
    def made(**options: Any) -> Imitator:
        config = _config(**options)
        return Imitator(config, plan_networks(config, N, M)[0], "tanh", 100)

    with pytest.raises(ValueError, match="engine is uint8"):
        made(sparsity=0.5).load_state(made(sparsity=0.7).state())
    damaged = made(sparsity=0.5).state()
    damaged["engine"][:4] = 0
    with pytest.raises(ConfigError, match="the learner: the arena holds no policy, or no learner"):
        made(sparsity=0.5).load_state(damaged)


def test_examples_that_are_not_finite_change_nothing() -> None:
    config = _config(topology="dense")
    imitator = Imitator(config, plan_networks(config, N, M)[0], "tanh", 100)
    before = imitator.layers()
    imitator.learn(np.full((4, N + M), np.nan, np.float32), 3)
    assert imitator.abandoned == 3
    for (weight, _), (own, _) in zip(imitator.layers(), before, strict=True):
        np.testing.assert_array_equal(weight, own)
