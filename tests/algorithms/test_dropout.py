"""Dropout in critics: what it leaves out, when, and that nothing but learning has it."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from edgerl.algorithms.native import NativeAgent
from edgerl.algorithms.sac import SAC
from edgerl.algorithms.td3 import TD3
from edgerl.edge.engine.random import Draws, Network, Purpose
from edgerl.errors import ConfigError

from .engines import Array, M, N, differing, filled_replay, native_agent, small_config

PURPOSES = (Purpose.DROPOUT, Purpose.TARGET_DROPOUT, Purpose.POLICY_DROPOUT)


def _factors(rate: float, batch: int, purpose: Purpose = Purpose.DROPOUT, update: int = 1) -> list[Array]:
    critic = TD3(small_config(hidden=(18, 13)), N, M).critics[0]
    return [factors.numpy() for factors in critic.dropout(rate, update, batch, purpose)]


@pytest.mark.parametrize("rate", [0.01, 0.3, 0.9])
def test_a_unit_is_left_out_so_often_and_else_scaled_so_that_the_mean_stays(rate: float) -> None:
    factors = np.concatenate([layer.ravel() for layer in _factors(rate, 4000)])
    n, left_out = len(factors), int((factors == 0).sum())
    assert abs(left_out - n * rate) < 5 * np.sqrt(n * rate * (1 - rate))
    assert np.unique(factors).tolist() == pytest.approx([0, 1 / (1 - rate)], rel=1e-3)
    assert (1 - np.ceil(rate * 65536) / 65536) * factors.max() == pytest.approx(1, rel=1e-7)


def test_one_word_decides_on_two_samples_of_a_unit() -> None:
    """The layout of the draws, word by word."""
    batch, rate = 11, 0.4
    n_words = 8  # of a unit: 16 halves, of which the last five are of no sample
    for layer, factors in enumerate(_factors(rate, batch, update=7)):
        units = factors.shape[1]
        words = Draws(3).words(Purpose.DROPOUT, 7, units * n_words, network=Network.CRITIC_1, layer=layer)
        for unit in range(units):
            for sample in range(batch):
                word = int(words[unit * n_words + sample % n_words])
                bits = word >> 16 if sample >= n_words else word & 0xFFFF
                assert (factors[sample, unit] == 0) == (bits < 0.4 * 65536)


def test_each_pass_and_update_leaves_out_others() -> None:
    drawn = [_factors(0.5, 40, purpose, update)[0] for purpose in PURPOSES for update in (1, 2)]
    for index, one in enumerate(drawn):
        for other in drawn[:index]:
            assert 0.3 < (one != other).mean() < 0.7


def test_the_smallest_rate_leaves_out_something_and_none_nothing() -> None:
    assert _factors(0.0, 9) == []
    assert np.unique(_factors(1e-9, 5000)[0]).max() == pytest.approx(65536 / 65535)


@pytest.mark.parametrize("algorithm", [TD3, SAC])
def test_the_critics_alone_have_it_and_only_in_learning(algorithm: type[Any]) -> None:
    """A critic's sums are multiplied before the activation; actions are what they were."""
    name = "td3" if algorithm is TD3 else "sac"
    with_it, without = (algorithm(small_config(dropout=d, algorithm=name), N, M) for d in (0.5, 0.0))
    observation = np.ones(N, np.float32)
    assert np.array_equal(with_it.act(observation), without.act(observation))
    critic, x = with_it.critics[0], torch.randn(9, N + M)
    factors = critic.dropout(0.5, 1, 9, Purpose.DROPOUT)
    first, second, last = critic.online.layers
    expected = torch.relu(first(x) * factors[0])
    expected = last(torch.relu(second(expected) * factors[1]))
    torch.testing.assert_close(critic.online(x, dropout=factors), expected)
    assert not torch.equal(critic.online(x), expected)


def test_it_changes_what_is_learnt_on_both_engines() -> None:
    for make in (native_agent, lambda config: TD3(config, N, M)):
        states = []
        for dropout in (0.0, 0.2):
            agent = make(small_config(dropout=dropout))
            agent.learn(filled_replay())
            states.append(agent.state())
        assert "critic_1.0.weight" in differing(*states)


def test_a_rate_out_of_range_is_one_clear_line() -> None:
    for rate in (-0.1, 0.95, 1.0, float("nan")):
        with pytest.raises(ConfigError, match=r"^`dropout` is .*; expected a number in \[0, 0.9\]"):
            small_config(dropout=rate)
    with pytest.raises(ConfigError, match=r"^`activation` is 'gelu'; expected .*tanh"):
        small_config(activation="gelu")


@pytest.mark.parametrize("activation", ["elu", "silu", "tanh"])
def test_memory_of_slopes_and_of_what_was_kept_is_only_where_it_is_needed(activation: str) -> None:
    def scratch(**options: Any) -> int:
        return int(NativeAgent(small_config(**options), N, M).arena.bytes.total)

    plain = scratch()
    assert (scratch(activation=activation) > plain) == (activation == "silu")
    assert scratch(dropout=0.1) > plain
