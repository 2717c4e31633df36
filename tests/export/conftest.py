"""Policies with every property that an export must keep."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from edgerl.policy.compact import CompactPolicy, make_layer

Array = npt.NDArray[Any]


@dataclass(frozen=True)
class Made:
    """A policy, and the dense float64 numbers that it was made from."""

    policy: CompactPolicy
    weights: list[Array]
    biases: list[Array]
    mean: Array
    scale: Array


@pytest.fixture
def make_policy() -> Callable[..., Made]:
    """A random policy: unequal bounds in each dimension, weights on `density` of the positions."""

    def make(
        widths: tuple[int, ...] = (17, 32, 32, 6),
        precision: str = "fp32",
        block: int = 1,
        normalize: bool = True,
        density: float = 0.3,
        seed: int = 0,
    ) -> Made:
        rng = np.random.default_rng(seed)
        layers, weights, biases = [], [], []
        for n, m in pairwise(widths):
            blocks = np.repeat(rng.random((-(-m // block), n)) < density, block, axis=0)[:m]
            weight = (rng.normal(size=(m, n)) * blocks / np.sqrt(n * density)).astype(np.float32)
            bias = rng.normal(scale=0.1, size=m).astype(np.float32)
            stored, scale = weight, None
            if precision == "fp16":
                stored = weight.astype(np.float16)
            if precision == "int8":
                scale = (np.maximum(np.abs(weight).max(axis=1), 1e-3) / 127).astype(np.float32)
                stored = np.round(weight / scale[:, None]).astype(np.int8)
            layers.append(make_layer(stored, bias, block, scale))
            weights.append(stored.astype(np.float64) * (1 if scale is None else scale.astype(np.float64)[:, None]))
            biases.append(bias.astype(np.float64))
        n, m = widths[0], widths[-1]
        mean = rng.normal(size=n).astype(np.float32) if normalize else np.zeros(n, np.float32)
        scale_in = np.exp(rng.normal(size=n)).astype(np.float32) if normalize else np.ones(n, np.float32)
        policy = CompactPolicy(
            layers=tuple(layers),
            action_low=-np.exp(rng.normal(size=m)).astype(np.float32),
            action_high=np.exp(rng.normal(size=m) + 1).astype(np.float32),
            observation_mean=mean if normalize else None,
            observation_scale=scale_in if normalize else None,
            metadata={"environment": "Anything-v0", "seed": seed},
        ).with_example(rng.normal(size=n).astype(np.float32))
        return Made(policy, weights, biases, mean.astype(np.float64), scale_in.astype(np.float64))

    return make
