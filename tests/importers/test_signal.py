"""Values of a network as affine functions: whatever the order of the steps, the policy is what numpy computes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgerl.importers.signal import Signal, Unfit
from edgerl.policy.activation import ACTIVATIONS
from edgerl.policy.compact import LayerNorm

Array = npt.NDArray[Any]
Step = tuple[Callable[[Signal], Signal], Callable[[Array], Array]]
"""The same on a signal and on numbers [batch, n]."""


def _scaling(rng: np.random.Generator, n: int) -> Step:
    factor, term = rng.normal(size=n), rng.normal(size=n)
    return lambda s: s.times(factor).plus(term), lambda x: x * factor + term


def _choice(rng: np.random.Generator, n: int) -> Step:
    rows = rng.permutation(n)
    return lambda s: s.chosen(rows), lambda x: x[:, rows]


def _doubling(rng: np.random.Generator, n: int) -> Step:
    rows = rng.integers(0, n, size=n)
    return lambda s: s.joined(s.chosen(rows)).chosen(np.arange(n)), lambda x: x


def _layer(rng: np.random.Generator, n: int) -> Step:
    weight, bias = rng.normal(size=(n, n)) / np.sqrt(n), rng.normal(size=n)
    return lambda s: s.linear(weight, bias), lambda x: x @ weight.T + bias


def _activated(rng: np.random.Generator, n: int) -> Step:
    weight, bias = rng.normal(size=(n, n)) / np.sqrt(n), rng.normal(size=n)
    name = str(rng.choice([name for name in ACTIVATIONS if name != "identity"]))
    return (
        lambda s: s.linear(weight, bias).activated(name),  # type: ignore[arg-type]
        lambda x: ACTIVATIONS[name].forward(x @ weight.T + bias),
    )


def _normed(rng: np.random.Generator, n: int) -> Step:
    weight, norm = rng.normal(size=(n, n)), LayerNorm(rng.normal(size=n), rng.normal(size=n), 1e-5)
    factor = rng.normal(size=n)
    return (
        lambda s: s.linear(weight).normed(norm).times(factor).plus(1.5).activated("tanh"),
        lambda x: np.tanh(norm(x @ weight.T) * factor + 1.5),
    )


STEPS = (_scaling, _choice, _doubling, _layer, _activated, _normed)


@given(st.integers(0, 2**32), st.lists(st.sampled_from(STEPS), min_size=1, max_size=6), st.booleans())
def test_any_order_of_steps_is_what_numpy_computes(seed: int, kinds: list[Any], clips: bool) -> None:
    rng = np.random.default_rng(seed)
    n = int(rng.integers(2, 7))
    signal, x = Signal.observation(n), rng.normal(size=(20, n)).astype(np.float32).astype(np.float64)
    expected = x
    for make in (*kinds, _layer):
        on_signal, on_numbers = make(rng, n)
        signal, expected = on_signal(signal), on_numbers(expected)
    if clips:
        low = rng.normal(size=n) - 1
        signal, expected = signal.clipped(low, low + 2).times(-2.0), np.clip(expected, low, low + 2) * -2.0
    policy = signal.policy()
    assert policy.head == "clip"
    np.testing.assert_allclose(policy(x, np.float64), expected, atol=2e-5 * np.abs(expected).max(initial=1))


@given(st.integers(0, 2**32))
def test_tanh_at_the_end_becomes_the_head(seed: int) -> None:
    rng = np.random.default_rng(seed)
    weight, x = rng.normal(size=(3, 4)), rng.normal(size=(9, 4))
    factor, term, order = rng.normal(size=3), rng.normal(size=3), rng.permutation(3)
    ended = Signal.observation(4).linear(weight).clipped(-20, 20).activated("tanh").clipped(-1, 1)
    policy = ended.times(factor).plus(term).chosen(order).policy()
    assert (policy.head, len(policy.layers)) == ("tanh", 1)
    assert np.allclose(policy.action_low, (term - np.abs(factor))[order], rtol=1e-6)
    assert np.allclose(policy.action_high, (term + np.abs(factor))[order], rtol=1e-6)
    expected = (np.tanh(x @ weight.T) * factor + term)[:, order]
    np.testing.assert_allclose(policy(x, np.float64), expected, rtol=1e-5, atol=1e-6)


def test_a_clip_that_narrows_tanh_is_kept() -> None:
    policy = Signal.observation(2).linear(np.eye(2)).activated("tanh").clipped(-0.5, 0.5).policy()
    assert (policy.head, [layer.activation for layer in policy.layers[:-1]]) == ("clip", ["tanh"])
    assert policy(np.array([3.0, -0.1])).tolist() == pytest.approx([0.5, np.tanh(-0.1)])


def test_a_normaliser_and_its_clip_stay_before_the_first_layer() -> None:
    mean, scale = np.array([1.0, -2, 0]), np.array([2.0, 0, -1])  # of the second input only a constant is left
    seen = Signal.observation(3).plus(-mean).times(scale).plus([0, 5.0, 0])
    weight = np.array([[1.0, 2, 3]])
    policy = seen.linear(weight).policy()
    assert policy.observation_mean is not None
    np.testing.assert_allclose(policy.observation_mean, [1, 0, 0])
    assert policy.observation_scale is not None
    np.testing.assert_allclose(policy.observation_scale, scale)
    assert policy(np.array([2.0, 7, 4])) == pytest.approx(1 * 2 + 2 * 5 + 3 * -4)
    half = Signal.observation(3).plus(-1.0).times(2.0).clipped(-np.inf, 1.5)  # as Min and Max are two nodes
    clipped = half.clipped(-1.5, np.inf).times(3.0).linear(weight).policy()
    assert clipped.observation_clip == 1.5
    assert clipped(np.array([9.0, -9, 1])) == pytest.approx(3 * (1.5 - 2 * 1.5 + 0))


REFUSED: dict[str, Callable[[Signal], object]] = {
    "an activation of the observation": lambda s: s.activated("elu"),
    "a norm of the observation": lambda s: s.normed(LayerNorm(np.ones(2), np.zeros(2), 1e-5)),
    "a clip between layers": lambda s: s.linear(np.eye(2)).clipped(-1, 1).linear(np.eye(2)),
    "an activation of a clip": lambda s: s.linear(np.eye(2)).clipped(-1, 1).activated("tanh"),
    "a clip of a norm": lambda s: s.linear(np.eye(2)).normed(LayerNorm(np.ones(2), np.zeros(2), 1e-5)).clipped(-1, 1),
    "unequal bounds of the observation": lambda s: s.clipped(-1, 2).linear(np.eye(2)),
    "one bound of the observation": lambda s: s.clipped(-np.inf, 2).linear(np.eye(2)),
    "two clips of the observation": lambda s: s.clipped(-1, 1).times(2.0).clipped(-1, 1).linear(np.eye(2)),
    "bounds that cross": lambda s: s.linear(np.eye(2)).clipped(1, -1),
    "other inputs": lambda s: s.linear(np.ones((2, 3))),
    "two layers joined": lambda s: s.joined(s.linear(np.eye(2)).activated("relu")),
    "no layer": lambda s: s.times(2.0).policy(),
}


@pytest.mark.parametrize("build", REFUSED.values(), ids=REFUSED)
def test_what_a_policy_cannot_hold_is_refused(build: Callable[[Signal], object]) -> None:
    with pytest.raises(Unfit, match=r"^\w"):
        build(Signal.observation(2))
