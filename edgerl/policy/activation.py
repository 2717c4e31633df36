"""Activations: what is done with each sum of a layer before the next layer sees it.

A new one is an entry here, an enumerator and its cases in the native engine (edgerl/edge/engine/policy.c, policy.inc),
and an entry in the table of each exporter that can write it. Those that networks learn with are edgerl.config's.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]
ActivationName = Literal["relu", "identity", "leaky_relu", "elu", "silu", "tanh", "sigmoid", "gelu"]


@dataclass(frozen=True)
class Activation:
    """One function of a number, element by element, in the numbers' own type."""

    name: ActivationName  # in torch.nn.functional
    forward: Callable[[Array], Array]
    makes_zeros: bool = False  # so often that an engine passes over them


def _sigmoid(x: Array) -> Array:
    """1 / (1 + e^−x), by an exponential that never overflows."""
    small = np.exp(-np.abs(x))
    sigmoid: Array = np.where(x >= 0, 1, small) / (1 + small)
    return sigmoid


def _elu(x: Array) -> Array:
    return np.where(x > 0, x, np.expm1(np.minimum(x, 0)))


def _gelu(x: Array) -> Array:
    """x Φ(x), exactly, as PyTorch has it by default."""
    error_function = np.asarray(np.frompyfunc(math.erf, 1, 1)(x.astype(np.float64) / math.sqrt(2)), np.float64)
    gelu: Array = (x * 0.5 * (1 + error_function)).astype(x.dtype)
    return gelu


RELU = Activation("relu", lambda x: np.maximum(x, 0), makes_zeros=True)

LEAKY_SLOPE = 0.01
"""Of leaky ReLU below zero: PyTorch's default."""

ACTIVATIONS: Mapping[str, Activation] = {
    activation.name: activation
    for activation in (
        RELU,
        Activation("identity", lambda x: x),
        Activation("leaky_relu", lambda x: np.where(x > 0, x, x * x.dtype.type(LEAKY_SLOPE))),
        Activation("elu", _elu),
        Activation("silu", lambda x: x * _sigmoid(x)),
        Activation("tanh", np.tanh),
        Activation("sigmoid", _sigmoid),
        Activation("gelu", _gelu),
    )
}
"""By name, in the order of their numbers in C."""
