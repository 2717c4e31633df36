"""Random policies for tests, with the numbers that they were made from."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise
from typing import Any

import numpy as np
import numpy.typing as npt

from edgerl.policy.compact import CompactPolicy, Precision, make_layer

Array = npt.NDArray[Any]
Network = list[tuple[Array, Array]]


def random_policy(
    seed: int,
    widths: tuple[int, ...] = (5, 9, 7, 3),
    block: int = 1,
    precision: Precision = "fp32",
    normalize: bool = True,
    density: float = 0.4,
    offset: bool = False,
) -> CompactPolicy:
    """A policy with weights on `density` of its blocks, and another precise bound for each action.

    offset: with one that leaves float32 no digit behind the point.
    """
    rng = np.random.default_rng(seed)
    layers = []
    for n, m in pairwise(widths):
        mask = np.repeat(rng.random((-(-m // block), n)) < density, block, axis=0)[:m]
        weight = rng.normal(size=(m, n)) * mask / np.sqrt(n)
        scale = None
        if precision == "int8":
            scale = (np.abs(weight).max(axis=1) / 127 + 1e-6).astype(np.float32)
            weight = np.rint(weight / scale[:, None])
        dtype = {"fp32": np.float32, "fp16": np.float16, "int8": np.int8}[precision]
        layers.append(make_layer(weight.astype(dtype), rng.normal(size=m).astype(np.float32), block, scale))
    n, m = widths[0], widths[-1]
    policy = CompactPolicy(
        layers=tuple(layers),
        action_low=-np.exp(rng.normal(size=m)).astype(np.float32),
        action_high=np.exp(rng.normal(size=m)).astype(np.float32),
        observation_mean=rng.normal(size=n).astype(np.float32) if normalize else None,
        observation_scale=np.exp(rng.normal(size=n)).astype(np.float32) if normalize else None,
        metadata={"environment": "Anything-v0", "seed": seed, "return": -1.5},
    )
    example = rng.normal(size=n).astype(np.float32)
    if offset:
        policy = replace(policy, observation_offset=np.rint(rng.uniform(2**24, 2**27, n) * rng.choice([-1, 1], n)))
    return policy.with_example(policy.observation_of(example))


def masked_network(rng: np.random.Generator, widths: tuple[int, ...], block: int, density: float) -> Network:
    """A float64 network of which many hidden units are dead: no way in, no way out, or both, some with a zero bias."""
    network = []
    for index, (n, m) in enumerate(pairwise(widths)):
        mask = np.repeat(rng.random((-(-m // block), n)) < density, block, axis=0)[:m]
        if index < len(widths) - 2:
            mask &= rng.random((m, 1)) > 0.3
        if index > 0:
            mask &= rng.random((1, n)) > 0.3
        bias = np.where(rng.random(m) < 0.3, 0, rng.normal(size=m))
        network.append((rng.normal(size=(m, n)) * mask, bias))
    return network


def assert_same(first: CompactPolicy, second: CompactPolicy) -> None:
    """Equal to the last bit."""
    for name in ("action_low", "action_high", "observation_mean", "observation_scale", "example_observation"):
        _assert_same_array(getattr(first, name), getattr(second, name))
    _assert_same_array(first.example_action, second.example_action)
    _assert_same_array(first.observation_offset, second.observation_offset)
    assert first.metadata == second.metadata
    assert len(first.layers) == len(second.layers)
    for one, other in zip(first.layers, second.layers, strict=True):
        assert (one.n_inputs, one.n_outputs, one.block) == (other.n_inputs, other.n_outputs, other.block)
        for name in ("values", "bias", "columns", "row_starts", "scale"):
            _assert_same_array(getattr(one, name), getattr(other, name))


def _assert_same_array(first: Array | None, second: Array | None) -> None:
    if first is None or second is None:
        assert first is second
        return
    assert first.dtype == second.dtype
    assert first.shape == second.shape
    assert first.tobytes() == second.tobytes()
