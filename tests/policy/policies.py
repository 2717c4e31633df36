"""Random policies for tests, with the numbers that they were made from."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F  # noqa: N812 — PyTorch's own convention

from edgerl.policy.activation import ActivationName
from edgerl.policy.cell import CellName, joined_weights
from edgerl.policy.compact import CompactPolicy, Head, Layer, LayerNorm, Precision, make_layer
from edgerl.policy.pruning import network_of, quantise_layer, storage_of, stored

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
    *,
    activation: ActivationName = "relu",
    norm: bool = False,
    head: Head = "tanh",
    clip: float | None = None,
) -> CompactPolicy:
    """A policy with weights on `density` of its blocks, and another precise bound for each action.

    offset: with one that leaves float32 no digit behind the point. head clip: the last action has no upper bound.
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
        layer = make_layer(weight.astype(dtype), rng.normal(size=m).astype(np.float32), block, scale)
        layers.append(replace(layer, activation=activation))
    if norm:
        layers[:-1] = [replace(layer, norm=_random_norm(rng, layer.n_outputs)) for layer in layers[:-1]]
    n, m = widths[0], widths[-1]
    policy = CompactPolicy(
        layers=tuple(layers),
        action_low=-np.exp(rng.normal(size=m)).astype(np.float32),
        action_high=np.exp(rng.normal(size=m)).astype(np.float32),
        observation_mean=rng.normal(size=n).astype(np.float32) if normalize else None,
        observation_scale=np.exp(rng.normal(size=n)).astype(np.float32) if normalize else None,
        metadata={"environment": "Anything-v0", "seed": seed, "return": -1.5},
        head=head,
        observation_clip=clip,
    )
    if head == "clip":
        policy.action_high[-1] = np.inf
    example = rng.normal(size=n).astype(np.float32)
    if offset:
        policy = replace(policy, observation_offset=np.rint(rng.uniform(2**24, 2**27, n) * rng.choice([-1, 1], n)))
    return policy.with_example(policy.observation_of(example))


def outlier_policy(
    seed: int,
    widths: tuple[int, ...] = (5, 9, 7, 3),
    block: int = 1,
    precision: Precision = "int8",
    **options: Any,
) -> CompactPolicy:
    """A random policy in int8 or int4, an eighth of whose weights are exact."""
    policy = random_policy(seed, widths, block, **options)
    network = network_of(policy)
    return stored(policy, network, storage_of(network, precision, 0.125))


def recurrent_policy(
    kind: CellName,
    widths: tuple[int, ...] = (5, 9, 7, 3),
    *,
    cells: int = 1,
    before: int = 0,
    seed: int = 0,
    precision: Precision = "fp32",
    block: int = 1,
    density: float = 1.0,
    activation: ActivationName = "elu",
    head: Head = "tanh",
) -> tuple[CompactPolicy, Any]:
    """A policy whose first hidden layers are `cells` cells of widths[1] units, and PyTorch's modules of these numbers:
    observations [steps, n], normalised → the last layer's outputs [steps, m].

    before: units of a ReLU layer in front of the cells, as in RLtools' RAPTOR; 0: none. The module is in float64.
    """
    n, h, *rest = widths
    torch.manual_seed(seed)
    rng = np.random.default_rng(seed)
    first = torch.nn.Linear(n, before) if before else torch.nn.Identity()
    network = getattr(torch.nn, kind.upper())(before or n, h, cells)
    linears = [torch.nn.Linear(a, b) for a, b in pairwise((h, *rest))]
    for parameter in network.parameters():
        parameter.data *= 2
        parameter.data *= torch.from_numpy(rng.random(parameter.shape) < density)

    def layer(weight: Array, bias: Array, named: Any) -> Layer:
        return replace(
            quantise_layer(weight.astype(np.float32), bias.astype(np.float32), block, precision), activation=named
        )

    layers = []
    if before:
        layers.append(layer(first.weight.detach().numpy(), first.bias.detach().numpy(), "relu"))
    for index in range(cells):
        parts = (getattr(network, f"{name}_l{index}").detach().numpy() for name in TORCH_PARTS)
        layers.append(layer(*joined_weights(kind, *parts), kind))
    layers += [layer(each.weight.detach().numpy(), each.bias.detach().numpy(), activation) for each in linears]
    layers[-1] = replace(layers[-1], activation="relu")
    m = widths[-1]
    policy = CompactPolicy(
        tuple(layers),
        -np.exp(rng.normal(size=m)).astype(np.float32),
        np.exp(rng.normal(size=m)).astype(np.float32),
        rng.normal(size=n).astype(np.float32),
        np.exp(rng.normal(size=n)).astype(np.float32),
        metadata={"environment": "Anything-v0"},
        head=head,
    )

    def outputs(x: Any) -> Any:
        x = network(torch.relu(first(x)) if before else x)[0]
        for linear in linears[:-1]:
            x = getattr(F, activation)(linear(x))
        return linears[-1](x)

    for module in (first, network, *linears):
        module.double()
    return policy.with_example(rng.normal(size=n).astype(np.float32)), outputs


TORCH_PARTS = ("weight_ih", "weight_hh", "bias_ih", "bias_hh")


def torch_episode(policy: CompactPolicy, outputs: Any, observations: Array) -> Array:
    """What PyTorch computes in float64 along one episode [steps, n]: actions [steps, m]."""
    assert policy.observation_mean is not None
    assert policy.observation_scale is not None
    x = (torch.from_numpy(observations).double() - torch.from_numpy(policy.observation_mean)) * torch.from_numpy(
        policy.observation_scale
    )
    low, high = (torch.from_numpy(bound).double() for bound in (policy.action_low, policy.action_high))
    with torch.no_grad():
        x = outputs(x)
    actions: Array = (x.clamp(low, high) if policy.head == "clip" else low + (x.tanh() + 1) / 2 * (high - low)).numpy()
    return actions


def episode(policy: CompactPolicy, steps: int, seed: int = 1) -> Array:
    """Observations [steps, n], of about the policy's own mean and deviation."""
    drawn = np.random.default_rng(seed).normal(size=(steps, policy.n_observations))
    assert policy.observation_mean is not None
    assert policy.observation_scale is not None
    observations: Array = (policy.observation_mean + drawn / policy.observation_scale).astype(np.float32)
    return observations


def torch_actions(policy: CompactPolicy, observations: Array) -> Array:
    """What PyTorch computes in float64 from the policy's own numbers, [batch, m]; without an offset."""
    x = torch.from_numpy(observations).double()
    if policy.observation_mean is not None and policy.observation_scale is not None:
        x = (x - torch.from_numpy(policy.observation_mean)) * torch.from_numpy(policy.observation_scale)
    if policy.observation_clip is not None:
        x = x.clip(-policy.observation_clip, policy.observation_clip)
    for index, layer in enumerate(policy.layers):
        x = F.linear(x, torch.from_numpy(layer.matrix(np.float64)), torch.from_numpy(layer.bias).double())
        if index + 1 == len(policy.layers):
            break
        if layer.norm is not None:
            parts = (torch.from_numpy(part).double() for part in (layer.norm.scale, layer.norm.shift))
            x = F.layer_norm(x, (layer.n_outputs,), *parts, eps=layer.norm.epsilon)
        x = x if layer.activation == "identity" else getattr(F, layer.activation)(x)
    low, high = (torch.from_numpy(bound).double() for bound in (policy.action_low, policy.action_high))
    actions: Array = (x.clamp(low, high) if policy.head == "clip" else low + (x.tanh() + 1) / 2 * (high - low)).numpy()
    return actions


def _random_norm(rng: np.random.Generator, units: int) -> LayerNorm:
    scale, shift = rng.normal(1, 0.3, units), rng.normal(0, 0.3, units)
    return LayerNorm(scale.astype(np.float32), shift.astype(np.float32), 1e-5)


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
    assert (first.head, first.observation_clip) == (second.head, second.observation_clip)
    assert len(first.layers) == len(second.layers)
    for one, other in zip(first.layers, second.layers, strict=True):
        assert (one.n_inputs, one.n_outputs, one.block) == (other.n_inputs, other.n_outputs, other.block)
        for name in ("values", "bias", "columns", "row_starts", "scale"):
            _assert_same_array(getattr(one, name), getattr(other, name))
        assert one.is_int4 == other.is_int4
        assert (one.outliers is None) == (other.outliers is None)
        if one.outliers is not None and other.outliers is not None:
            for name in ("values", "columns", "row_starts"):
                _assert_same_array(getattr(one.outliers, name), getattr(other.outliers, name))
    for one, other in zip(first.layers[:-1], second.layers[:-1], strict=True):
        assert one.activation == other.activation
        norms = one.norm, other.norm
        assert (norms[0] is None) == (norms[1] is None)
        if norms[0] is not None and norms[1] is not None:
            assert norms[0].epsilon == norms[1].epsilon
            _assert_same_array(norms[0].scale, norms[1].scale)
            _assert_same_array(norms[0].shift, norms[1].shift)


def _assert_same_array(first: Array | None, second: Array | None) -> None:
    if first is None or second is None:
        assert first is second
        return
    assert first.dtype == second.dtype
    assert first.shape == second.shape
    assert first.tobytes() == second.tobytes()
