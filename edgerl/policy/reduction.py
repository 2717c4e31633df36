"""Lossy reduction: a network loses what matters least, and the rest is fitted to what it computed before.

What a removed connection or unit carried, over recorded inputs, is a mean and a deviation from it. The mean is folded
into the next bias, which is exact; what matters least is what deviates least, weighted by where it leads. Then each
layer's remaining weights are fitted, by least squares, to the sums that the layer had before (as layer-wise
reconstruction does after training: Hubara et al. 2021, Frantar and Alistarh 2022). No connection is added.

A network is a list of (weight [outputs, inputs], bias [outputs]); exact zeros are not connections. Inputs are rows as
the first layer is given them, normalised.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from edgerl.policy.compact import as_blocks, product
from edgerl.policy.pruning import (
    PLAIN,
    Affine,
    Functions,
    keep_units,
    living_units,
    remove_dead_units,
    silence_dead_units,
)

Array = npt.NDArray[Any]
Network = list[Affine]
Size = Callable[[Network], int]

CONNECTIONS_SHARE, UNITS_SHARE = 0.1, 0.05
"""Of what a layer still has: what one step may remove."""

QUICK_ROWS = 10
"""One recorded input in ten decides between the possible next steps."""

QUICK_ITERATIONS, ITERATIONS = 5, 20
"""Of the conjugate gradient method, before the choice of a step and after it."""

RIDGE = 1e-3
"""Of an input's mean square: how strongly weights are held to what they were."""

SMALLEST_GROWTH = 1e-7
"""Of the mean square difference: of steps that change nothing, the one that saves most is cheapest."""

SMALLEST_SQUARE = 1e-20
"""Of a residual, so that a solved row is not divided by zero."""


def layer_inputs(network: Sequence[Affine], inputs: Array, functions: Functions = PLAIN) -> list[Array]:
    """What each layer is given, [rows, its inputs]."""
    by_layer = [inputs]
    for index, (weight, bias) in enumerate(network[:-1]):
        by_layer.append(functions.hidden(index, product(by_layer[-1], weight.T) + bias))
    return by_layer


def unit_actions(network: Sequence[Affine], inputs: Array, functions: Functions = PLAIN) -> Array:
    """The network's actions in shares of half their range, [rows, m]."""
    weight, bias = network[-1]
    return functions.head(product(layer_inputs(network, inputs, functions)[-1], weight.T) + bias)


def replace_units(network: Sequence[Affine], layer: int, units: Array, constants: Array) -> Network:
    """The network in which each of `units` (bool) of hidden layer `layer` always gives its constant.

    The constants are folded into the next layer's bias, and the units become zeros, which `remove_dead_units` removes.
    """
    (weight, bias), (next_weight, next_bias) = network[layer : layer + 2]
    folded = product(next_weight[:, units], constants[units])
    replaced = [
        (np.where(units[:, None], weight.dtype.type(0), weight), np.where(units, bias.dtype.type(0), bias)),
        (np.where(units, next_weight.dtype.type(0), next_weight), (next_bias + folded).astype(next_bias.dtype)),
    ]
    return [*network[:layer], *replaced, *network[layer + 2 :]]


def replace_connections(network: Sequence[Affine], layer: int, removed: Array, constants: Array) -> Network:
    """The network in which each connection of `removed` (bool [outputs, inputs]) has its input's constant instead."""
    weight, bias = network[layer]
    folded = product(np.where(removed, weight, weight.dtype.type(0)), constants)
    replaced = np.where(removed, weight.dtype.type(0), weight), (bias + folded).astype(bias.dtype)
    return [*network[:layer], replaced, *network[layer + 1 :]]


def unit_importance(activations: Array, next_weight: Array) -> Array:
    """Of each unit: the deviation of its activations [rows, units] × the norm of its outgoing weights."""
    importance: Array = activations.std(axis=0) * np.linalg.norm(next_weight, axis=0)
    return importance


def connection_importance(weight: Array, inputs: Array) -> Array:
    """Of each connection [outputs, inputs]: its magnitude × the deviation of its input, from inputs [rows, inputs]."""
    importance: Array = np.abs(weight) * inputs.std(axis=0)
    return importance


def without_units(
    network: Sequence[Affine], layer: int, activations: Array, share: float, block: int
) -> Network | None:
    """Without this share of a hidden layer's least important units, in whole blocks; None where one block is left."""
    next_weight = network[layer + 1][0]
    starts = np.arange(0, next_weight.shape[1], block)
    present: Array = np.logical_or.reduceat(next_weight.any(axis=0), starts)
    if present.sum() <= 1:
        return None
    importance = np.add.reduceat(unit_importance(activations, next_weight) ** 2, starts)
    removed = np.repeat(_least(importance, present, share), block)[: next_weight.shape[1]]
    return replace_units(network, layer, removed, activations.mean(axis=0))


def without_connections(
    network: Sequence[Affine], layer: int, inputs: Array, share: float, block: int
) -> Network | None:
    """Without this share of a layer's least important connections, in whole blocks; None where one block is left."""
    weight = network[layer][0]
    present = as_blocks(np.abs(weight), block).sum(axis=2) > 0
    if present.sum() <= 1:
        return None
    importance = (as_blocks(connection_importance(weight, inputs), block) ** 2).sum(axis=2)
    removed = np.repeat(_least(importance, present, share), block, axis=0)[: len(weight)]
    return replace_connections(network, layer, removed, inputs.mean(axis=0))


def _least(importance: Array, present: Array, share: float) -> Array:
    """The least important of those that are present: this share of them, at least one, and never all."""
    count = int(present.sum())
    chosen = min(max(1, round(share * count)), count - 1)
    order = np.argsort(np.where(present, importance, np.inf), axis=None, kind="stable")
    least = np.zeros(present.size, bool)
    least[order[:chosen]] = True
    return least.reshape(present.shape)


@dataclass(frozen=True)
class Teacher:
    """What a network computed on recorded inputs, before anything was removed; float32."""

    inputs: Array  # [rows, n]
    sums: tuple[Array, ...]  # per layer [rows, outputs]
    actions: Array  # [rows, m], in shares of half their range
    functions: Functions = PLAIN

    def thinned(self, step: int) -> Teacher:
        """Every `step`-th row."""
        sums = tuple(part[::step] for part in self.sums)
        return replace(self, inputs=self.inputs[::step], sums=sums, actions=self.actions[::step])

    def of_units(self, kept: Sequence[Array]) -> Teacher:
        """With only these units (bool) of each hidden layer."""
        hidden = (part[:, units] for part, units in zip(self.sums[:-1], kept, strict=True))
        return replace(self, sums=(*hidden, self.sums[-1]))

    def difference(self, network: Sequence[Affine]) -> float:
        """Mean square difference of another network's actions."""
        return float(np.mean((unit_actions(network, self.inputs, self.functions) - self.actions) ** 2))


def teacher_of(network: Sequence[Affine], inputs: Array, functions: Functions = PLAIN) -> Teacher:
    """What `network` computes on these inputs."""
    by_layer = layer_inputs(network, inputs, functions)
    sums = tuple(product(x, weight.T) + bias for x, (weight, bias) in zip(by_layer, network, strict=True))
    return Teacher(inputs, sums, functions.head(sums[-1]), functions)


def fitted(network: Sequence[Affine], teacher: Teacher, iterations: int) -> Network:
    """The same connections with other weights, layer after layer: those that come nearest to the teacher's sums."""
    inputs, layers = teacher.inputs, []
    for index, ((weight, bias), sums) in enumerate(zip(network, teacher.sums, strict=True)):
        layers.append(fit_layer(weight, bias, inputs, sums, iterations))
        if index + 1 < len(network):
            inputs = teacher.functions.hidden(index, product(inputs, layers[-1][0].T) + layers[-1][1])
    return layers


def fit_layer(weight: Array, bias: Array, inputs: Array, sums: Array, iterations: int) -> Affine:
    """The weights, on the existing connections, with which inputs [rows, n] give nearly `sums` [rows, outputs].

    Least squares with a ridge towards the present weights, by conjugate gradients for all outputs at once.
    """
    augmented = np.column_stack([inputs, np.ones(len(inputs), inputs.dtype)])
    gram = product(augmented.T, augmented) / len(augmented)
    ridge = RIDGE * gram.diagonal().mean()
    free = np.column_stack([weight != 0, np.ones(len(weight), bool)])
    present = np.column_stack([weight, bias])
    residual = np.where(free, product(sums.T, augmented) / len(augmented) - product(present, gram), 0)
    scale = 1 / (gram.diagonal() + ridge)
    direction = residual * scale
    square = _row_products(residual, direction)
    for _ in range(iterations):
        image = np.where(free, product(direction, gram) + ridge * direction, 0)
        step = (square / np.maximum(_row_products(direction, image), SMALLEST_SQUARE))[:, None]
        present = present + step * direction
        residual = residual - step * image
        before, square = square, _row_products(residual, residual * scale)
        direction = residual * scale + (square / np.maximum(before, SMALLEST_SQUARE))[:, None] * direction
    return np.ascontiguousarray(present[:, :-1]), np.ascontiguousarray(present[:, -1])


def _row_products(first: Array, second: Array) -> Array:
    products: Array = np.einsum("ij,ij->i", first, second)
    return products


def count_connections(network: Network) -> int:
    """Weights that are not zero."""
    return sum(int(np.count_nonzero(weight)) for weight, _ in network)


def count_positions(network: Network) -> int:
    """Weights of the dense matrices."""
    return sum(weight.size for weight, _ in network)


def reductions(
    network: Sequence[Affine], inputs: Array, block: int, functions: Functions = PLAIN, *, whole_units: bool
) -> Iterator[Network]:
    """Smaller and smaller networks without dead units, as long as something can be removed.

    Each step removes a share of one hidden layer's units, or of its connections unless `whole_units`: what changes the
    actions on the recorded inputs [rows, n] least for what it saves, in positions for whole units, else in connections.
    So every layer finds its own sparsity and width.
    """
    size = count_positions if whole_units else count_connections
    current = remove_dead_units(network, block, functions)
    teacher = teacher_of(current, inputs, functions)
    quick = teacher.thinned(QUICK_ROWS)
    while steps := list(_steps(current, quick, block, whole_units)):
        step = _cheapest(steps, current, quick, lambda each: size(remove_dead_units(each, block, functions)))
        current = silence_dead_units(fitted(step, teacher, ITERATIONS), functions)
        kept = living_units(current, block, functions)
        current, teacher, quick = keep_units(current, kept), teacher.of_units(kept), quick.of_units(kept)
        yield current


def _steps(network: Network, teacher: Teacher, block: int, whole_units: bool) -> Iterator[Network]:
    """The possible next steps, each fitted a little."""
    inputs = layer_inputs(network, teacher.inputs, teacher.functions)
    for layer in range(len(network) - 1):
        has_norm = layer in teacher.functions.normed
        steps = [] if has_norm else [without_units(network, layer, inputs[layer + 1], UNITS_SHARE, block)]
        if not whole_units:
            steps.append(without_connections(network, layer, inputs[layer], CONNECTIONS_SHARE, block))
        yield from (fitted(step, teacher, QUICK_ITERATIONS) for step in steps if step is not None)


def _cheapest(steps: Sequence[Network], current: Network, teacher: Teacher, size: Size) -> Network:
    """The step with the least growth of the difference per weight that it saves."""
    size_now, difference_now = size(current), teacher.difference(current)

    def price(step: Network) -> float:
        growth = max(teacher.difference(step) - difference_now, 0.0)
        return (growth + SMALLEST_GROWTH) / (size_now - size(step))

    return min(steps, key=price)
