"""Beyond what is exact: a network loses what matters least, and what stays is fitted to what it computed before.

What a removed connection or unit carried, over recorded inputs, is a mean and a deviation from it. The mean is folded
into the next bias, which is exact arithmetic; what matters least is what deviates least, weighted by where it leads.
Then each layer's remaining weights are fitted, by least squares, to the sums that the layer had before (as layer-wise
reconstruction does after training: Hubara et al. 2021, Frantar and Alistarh 2022). No connection is added.

A network is a list of (weight [outputs, inputs], bias [outputs]), ReLU between layers and tanh at the end; exact zeros
are no connections. Inputs are rows of numbers as the first layer sees them, normalised.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from edgerl.policy.activation import HIDDEN
from edgerl.policy.compact import as_blocks
from edgerl.policy.pruning import Affine, keep_units, living_units, remove_dead_units, silence_dead_units

Array = npt.NDArray[Any]
Network = list[Affine]
Size = Callable[[Network], int]

CONNECTIONS_SHARE, UNITS_SHARE = 0.1, 0.05
"""Of what a layer still has: what one step may take away."""

QUICK_ROWS = 10
"""One recorded input in so many decides between the steps that could be next."""

QUICK_ITERATIONS, ITERATIONS = 5, 20
"""Of the conjugate gradient, before the choice of a step and after it."""

RIDGE = 1e-3
"""Of an input's mean square: how far weights are held to what they were."""

SMALLEST_GROWTH = 1e-7
"""Of the mean square difference: between steps that change nothing, the one that saves most is cheapest."""

SMALLEST_SQUARE = 1e-20
"""Of a residual, so that what is solved already divides nothing by zero."""


def layer_inputs(network: Sequence[Affine], inputs: Array) -> list[Array]:
    """What each layer is given, [rows, its inputs]."""
    found = [inputs]
    for weight, bias in network[:-1]:
        found.append(HIDDEN.forward(found[-1] @ weight.T + bias))
    return found


def unit_actions(network: Sequence[Affine], inputs: Array) -> Array:
    """The network's answer in [−1, 1], [rows, m]."""
    weight, bias = network[-1]
    answer: Array = np.tanh(layer_inputs(network, inputs)[-1] @ weight.T + bias)
    return answer


@np.errstate(invalid="ignore")  # see CompactPolicy
def replace_units(network: Sequence[Affine], layer: int, units: Array, constants: Array) -> Network:
    """The network in which each of `units` (bool) of hidden layer `layer` always gives its constant.

    The constants go into the next layer's bias, and the units are left as zeros, which `remove_dead_units` takes away.
    """
    (weight, bias), (next_weight, next_bias) = network[layer : layer + 2]
    heard = next_weight[:, units] @ constants[units]
    replaced = [
        (np.where(units[:, None], weight.dtype.type(0), weight), np.where(units, bias.dtype.type(0), bias)),
        (np.where(units, next_weight.dtype.type(0), next_weight), (next_bias + heard).astype(next_bias.dtype)),
    ]
    return [*network[:layer], *replaced, *network[layer + 2 :]]


@np.errstate(invalid="ignore")
def replace_connections(network: Sequence[Affine], layer: int, gone: Array, constants: Array) -> Network:
    """The network in which each connection of `gone` (bool [outputs, inputs]) sees its input's constant instead."""
    weight, bias = network[layer]
    carried = np.where(gone, weight, weight.dtype.type(0)) @ constants
    replaced = np.where(gone, weight.dtype.type(0), weight), (bias + carried).astype(bias.dtype)
    return [*network[:layer], replaced, *network[layer + 1 :]]


def unit_importance(activations: Array, next_weight: Array) -> Array:
    """Of each unit: the deviation of its activations [rows, units] × the norm of its weights outwards."""
    importance: Array = activations.std(axis=0) * np.linalg.norm(next_weight, axis=0)
    return importance


def connection_importance(weight: Array, inputs: Array) -> Array:
    """Of each connection [outputs, inputs]: its magnitude × the deviation of its input, from inputs [rows, inputs]."""
    importance: Array = np.abs(weight) * inputs.std(axis=0)
    return importance


def without_units(
    network: Sequence[Affine], layer: int, activations: Array, share: float, block: int
) -> Network | None:
    """Without that share of a hidden layer's least important units, in whole blocks; None where one block is left."""
    next_weight = network[layer + 1][0]
    starts = np.arange(0, next_weight.shape[1], block)
    heard: Array = np.logical_or.reduceat(next_weight.any(axis=0), starts)
    if heard.sum() <= 1:
        return None
    importance = np.add.reduceat(unit_importance(activations, next_weight) ** 2, starts)
    gone = np.repeat(_least(importance, heard, share), block)[: next_weight.shape[1]]
    return replace_units(network, layer, gone, activations.mean(axis=0))


def without_connections(
    network: Sequence[Affine], layer: int, inputs: Array, share: float, block: int
) -> Network | None:
    """Without that share of a layer's least important connections, in whole blocks; None where one block is left."""
    weight = network[layer][0]
    present = as_blocks(np.abs(weight), block).sum(axis=2) > 0
    if present.sum() <= 1:
        return None
    importance = (as_blocks(connection_importance(weight, inputs), block) ** 2).sum(axis=2)
    gone = np.repeat(_least(importance, present, share), block, axis=0)[: len(weight)]
    return replace_connections(network, layer, gone, inputs.mean(axis=0))


def _least(importance: Array, present: Array, share: float) -> Array:
    """Which are the least important of those that are present: that share of them, at least one, and never all."""
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
    sums: tuple[Array, ...]  # per layer [rows, outputs], before the ReLU
    actions: Array  # [rows, m], in [−1, 1]

    def thinned(self, step: int) -> Teacher:
        """Every `step`-th row."""
        return Teacher(self.inputs[::step], tuple(part[::step] for part in self.sums), self.actions[::step])

    def of_units(self, kept: Sequence[Array]) -> Teacher:
        """With the sums of these units (bool) of each hidden layer alone."""
        hidden = (part[:, units] for part, units in zip(self.sums[:-1], kept, strict=True))
        return Teacher(self.inputs, (*hidden, self.sums[-1]), self.actions)

    def difference(self, network: Sequence[Affine]) -> float:
        """Mean square difference of another network's actions."""
        return float(np.mean((unit_actions(network, self.inputs) - self.actions) ** 2))


def teacher_of(network: Sequence[Affine], inputs: Array) -> Teacher:
    """The teacher that `network` is."""
    seen = layer_inputs(network, inputs)
    sums = tuple(x @ weight.T + bias for x, (weight, bias) in zip(seen, network, strict=True))
    return Teacher(inputs, sums, np.tanh(sums[-1]))


def fitted(network: Sequence[Affine], teacher: Teacher, iterations: int) -> Network:
    """The same connections with other weights: layer after layer, those that come nearest to the teacher's sums."""
    inputs, found = teacher.inputs, []
    for (weight, bias), sums in zip(network, teacher.sums, strict=True):
        found.append(fit_layer(weight, bias, inputs, sums, iterations))
        inputs = HIDDEN.forward(inputs @ found[-1][0].T + found[-1][1])
    return found


def fit_layer(weight: Array, bias: Array, inputs: Array, sums: Array, iterations: int) -> Affine:
    """The weights, on the connections there are, for which inputs [rows, n] give nearly `sums` [rows, outputs].

    Least squares with a ridge towards the present weights, by conjugate gradients for all outputs at once.
    """
    seen = np.column_stack([inputs, np.ones(len(inputs), inputs.dtype)])
    gram = seen.T @ seen / len(seen)
    ridge = RIDGE * gram.diagonal().mean()
    free = np.column_stack([weight != 0, np.ones(len(weight), bool)])
    present = np.column_stack([weight, bias])
    residual = np.where(free, sums.T @ seen / len(seen) - present @ gram, 0)
    scale = 1 / (gram.diagonal() + ridge)
    direction = residual * scale
    square = _row_products(residual, direction)
    for _ in range(iterations):
        image = np.where(free, direction @ gram + ridge * direction, 0)
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


def reductions(network: Sequence[Affine], inputs: Array, block: int, *, whole_units: bool) -> Iterator[Network]:
    """Ever smaller networks, as long as something can be removed; their dead units are gone.

    Each step removes a share of one hidden layer's units, or of its connections unless `whole_units`: what changes the
    actions on the recorded inputs [rows, n] least for what it saves, in positions where whole units go, else in
    connections. So every layer finds its own sparsity and width.
    """
    size = count_positions if whole_units else count_connections
    current = remove_dead_units(network, block)
    teacher = teacher_of(current, inputs)
    quick = teacher.thinned(QUICK_ROWS)
    while steps := list(_steps(current, quick, block, whole_units)):
        step = _cheapest(steps, current, quick, lambda each: size(remove_dead_units(each, block)))
        current = silence_dead_units(fitted(step, teacher, ITERATIONS))
        kept = living_units(current, block)
        current, teacher, quick = keep_units(current, kept), teacher.of_units(kept), quick.of_units(kept)
        yield current


def _steps(network: Network, teacher: Teacher, block: int, whole_units: bool) -> Iterator[Network]:
    """The steps that could be next, each fitted a little."""
    seen = layer_inputs(network, teacher.inputs)
    for layer in range(len(network) - 1):
        removed = [without_units(network, layer, seen[layer + 1], UNITS_SHARE, block)]
        if not whole_units:
            removed.append(without_connections(network, layer, seen[layer], CONNECTIONS_SHARE, block))
        for step in removed:
            if step is not None:
                yield fitted(step, teacher, QUICK_ITERATIONS)


def _cheapest(steps: Sequence[Network], current: Network, teacher: Teacher, size: Size) -> Network:
    """The step with the least growth of the difference per weight that it saves."""
    size_now, difference_now = size(current), teacher.difference(current)

    def price(step: Network) -> float:
        growth = max(teacher.difference(step) - difference_now, 0.0)
        return (growth + SMALLEST_GROWTH) / (size_now - size(step))

    return min(steps, key=price)
