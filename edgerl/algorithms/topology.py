"""Sparse topologies: Erdős–Rényi counts and masks, drop and grow. Pure functions on arrays.

The unit of topology is a block: `block` consecutive outputs × one input; block 1 is the paper's unstructured topology.
A mask is bool [block rows, inputs] with block rows = ceil(outputs / block). Where outputs is no multiple of `block` the
last block row is narrower, and a narrow block is only ever replaced by another: the connection count stays constant.
Positions are numbered row by row: block row · inputs + input.

Source: Sokar et al. (IJCAI 2022), Algorithm 1 and §3.2; what it leaves open is settled in docs/algorithm.md.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from edgerl.edge.engine.random import Draws, Network, Purpose, sample_without_replacement
from edgerl.errors import ConfigError
from edgerl.policy.shape import LayerShape

Mask = npt.NDArray[np.bool_]
Array = npt.NDArray[Any]
Distribution = Literal["er", "uniform"]
OutputLayer = Literal["dense", "sparse"]

_NARROW = 1 << 16  # distinguishes the draws of a layer's narrow blocks from those of its full ones


@dataclass(frozen=True)
class LayerPlan:
    """How many blocks a layer has; dense layers have all of them and never evolve."""

    n_inputs: int
    n_outputs: int
    block: int
    full_blocks: int
    narrow_blocks: int

    @property
    def block_rows(self) -> int:
        """Rows of blocks, a narrower last one included."""
        return -(-self.n_outputs // self.block)

    @property
    def full_rows(self) -> int:
        """Rows of blocks of full width."""
        return self.n_outputs // self.block

    @property
    def narrow_width(self) -> int:
        """Outputs in the narrower last block row; 0 where there is none."""
        return self.n_outputs % self.block

    @property
    def connections(self) -> int:
        """Weights that exist."""
        return self.full_blocks * self.block + self.narrow_blocks * self.narrow_width

    @property
    def is_dense(self) -> bool:
        """Whether every position exists."""
        return self.connections == self.n_inputs * self.n_outputs

    @property
    def shape(self) -> LayerShape:
        """What costs are computed from."""
        return LayerShape(self.n_inputs, self.n_outputs, self.connections)

    def classes(self) -> tuple[tuple[slice, int, int], ...]:
        """(block rows, blocks, offset of the layer's draws) of the full class and, where there is one, the narrow."""
        full = (slice(0, self.full_rows), self.full_blocks, 0)
        narrow = (slice(self.full_rows, self.block_rows), self.narrow_blocks, _NARROW)
        return (full, narrow) if self.narrow_width else (full,)

    def growing_classes(self) -> tuple[tuple[slice, int], ...]:
        """(block rows, blocks) of the classes that lack a block, whose blocks can move."""
        return tuple((rows, n) for rows, n, _ in self.classes() if n < (rows.stop - rows.start) * self.n_inputs)

    @property
    def can_rewire(self) -> bool:
        """Whether evolution has a choice: at least two blocks that can move; a lone one stays."""
        return sum(blocks for _, blocks in self.growing_classes()) > 1


def round_half_up(x: float) -> int:
    """The nearest integer, halves upwards: the one rounding of counts, in every engine."""
    return math.floor(x + 0.5)


def plan_layer(n_inputs: int, n_outputs: int, density: float, block: int) -> LayerPlan:
    """A layer with round(density · positions) blocks of each width; density in [0, 1]."""
    full_rows, narrow_width = divmod(n_outputs, block)
    return LayerPlan(
        n_inputs,
        n_outputs,
        block,
        full_blocks=round_half_up(density * n_inputs * full_rows),
        narrow_blocks=round_half_up(density * n_inputs) if narrow_width else 0,
    )


def plan_by_lambdas(widths: Sequence[int], lambdas: tuple[float, float], block: int) -> tuple[LayerPlan, ...]:
    """Erdős–Rényi with a given λ: layer l has density λ_l (n_in + n_out) / (n_in n_out); the output layer is dense.

    widths: inputs, hidden units …, outputs. lambdas: λ1 for the first layer, λ2 for every further hidden one.

    Raises ConfigError where a λ asks for more connections than there are positions.
    """
    plans = []
    for index, (n_inputs, n_outputs) in enumerate(pairwise(widths[:-1])):
        value = lambdas[min(index, 1)]
        if (density := _erdos_renyi_density(value, n_inputs, n_outputs)) > 1:
            largest = n_inputs * n_outputs / (n_inputs + n_outputs)
            raise ConfigError(
                f"--lambda{min(index, 1) + 1} {value:g} asks for {density:.0%} of the positions of layer "
                f"{index + 1} ({n_inputs}×{n_outputs}); expected at most {math.floor(largest * 100) / 100:g}, "
                "or use --sparsity"
            )
        plan = plan_layer(n_inputs, n_outputs, density, block)
        if plan.connections == 0:
            raise ConfigError(f"--lambda{min(index, 1) + 1} {value:g} leaves layer {index + 1} no connection; raise it")
        plans.append(plan)
    return (*plans, plan_layer(widths[-2], widths[-1], 1.0, block))


def plan_by_sparsity(
    widths: Sequence[int],
    sparsity: float,
    block: int,
    *,
    distribution: Distribution = "er",
    output_layer: OutputLayer = "dense",
) -> tuple[LayerPlan, ...]:
    """The whole network, output layer included, has sparsity S = 1 − connections / dense weights; sparsity in [0, 1).

    distribution: er gives all sparse layers one ε, each the density ε (n_in + n_out) / (n_in n_out); layers whose
    density would exceed 1 are dense, and the rest takes what they cannot. uniform gives all sparse layers one density.
    output_layer: dense as in the paper, or sparse like the others. A sparse layer has at least one block.

    Raises ConfigError, with the highest possible S, where what must exist makes S impossible.
    """
    pairs = list(pairwise(widths))
    sparse = pairs[:-1] if output_layer == "dense" else pairs
    wanted = _connections_left(widths, sparsity, block, n_sparse=len(sparse))
    densities = _densities_of_one_epsilon(sparse, wanted) if distribution == "er" else _one_density(sparse, wanted)
    plans = [_with_a_block(plan_layer(*pair, density, block)) for pair, density in zip(sparse, densities, strict=True)]
    return (*plans, *(plan_layer(*pair, 1.0, block) for pair in pairs[len(sparse) :]))


def _connections_left(widths: Sequence[int], sparsity: float, block: int, *, n_sparse: int) -> float:
    """What sparsity S leaves to the first `n_sparse` layers, the others being dense."""
    sizes = [n_inputs * n_outputs for n_inputs, n_outputs in pairwise(widths)]
    total, dense = sum(sizes), sum(sizes[n_sparse:])
    wanted = (1 - sparsity) * total - dense
    least = sum(min(block, n_outputs) for n_outputs in widths[1 : n_sparse + 1])  # one block in each sparse layer
    if wanted < least:
        highest = math.floor((1 - (dense + least) / total) * 1e4) / 1e4
        reason, way_out = (
            (f"whose dense output layer alone has {dense} of {total} weights", ", or --output-layer sparse")
            if dense
            else (f"where one block in each layer makes {least} of {total} weights", "")
        )
        raise ConfigError(
            f"sparsity {sparsity:g} is impossible for {'-'.join(map(str, widths))}, {reason}; "
            f"expected at most {highest:g}{way_out}"
        )
    return wanted


def plan_dense(widths: Sequence[int]) -> tuple[LayerPlan, ...]:
    """The dense network of TD3."""
    return tuple(plan_layer(n, m, 1.0, 1) for n, m in pairwise(widths))


def _erdos_renyi_density(factor: float, n_inputs: int, n_outputs: int) -> float:
    return factor * (n_inputs + n_outputs) / (n_inputs * n_outputs)


def _with_a_block(plan: LayerPlan) -> LayerPlan:
    """A layer that was rounded down to nothing would cut the network in two: it has one block."""
    if plan.connections:
        return plan
    return replace(plan, full_blocks=1) if plan.full_rows else replace(plan, narrow_blocks=1)


def _one_density(pairs: Sequence[tuple[int, int]], connections: float) -> list[float]:
    return [connections / sum(n_inputs * n_outputs for n_inputs, n_outputs in pairs)] * len(pairs)


def _densities_of_one_epsilon(pairs: Sequence[tuple[int, int]], connections: float) -> list[float]:
    capped: set[int] = set()
    while True:
        rest = connections - sum(pairs[i][0] * pairs[i][1] for i in capped)
        spread = sum(sum(pair) for i, pair in enumerate(pairs) if i not in capped)
        epsilon = rest / spread if spread else 0.0
        densities = [1.0 if i in capped else _erdos_renyi_density(epsilon, *pair) for i, pair in enumerate(pairs)]
        over = {i for i, density in enumerate(densities) if density > 1}
        if not over:
            return densities
        capped |= over


def describe_fixed_layers(actor: Sequence[LayerPlan], critic: Sequence[LayerPlan]) -> str | None:
    """The line that names the sparse layers that evolution can't change; None where it can change all of them."""
    fixed = [
        f"layer {index} of the {network}"
        for network, plans in (("actor", actor), ("critics", critic))
        for index, plan in enumerate(plans, 1)
        if not plan.is_dense and not plan.can_rewire
    ]
    if not fixed:
        return None
    verb = "keep their topology" if len(fixed) > 1 else "keeps its topology"
    return (
        f"{', '.join(fixed)} {verb}: drop and grow need two connections (or blocks) to choose from; lower the sparsity "
        "or widen the network where it should evolve"
    )


def draw_mask(plan: LayerPlan, draws: Draws, network: Network, layer: int) -> Mask:
    """The initial topology: exactly the planned number of blocks, drawn without replacement."""
    mask = np.zeros((plan.block_rows, plan.n_inputs), bool)
    for rows, count, offset in plan.classes():
        words = draws.words(Purpose.TOPOLOGY, 0, count, network=network, layer=layer + offset)
        part = mask[rows].reshape(-1)
        part[sample_without_replacement(words, part.size)] = True
    return mask


def expand(mask: Mask, plan: LayerPlan) -> Mask:
    """A mask of blocks as a mask of weights [outputs, inputs]."""
    expanded: Mask = np.repeat(mask, plan.block, axis=0)[: plan.n_outputs]
    return expanded


def input_degrees(mask: Mask, plan: LayerPlan) -> Array:
    """How many outputs each input is connected with, [inputs]."""
    degrees: Array = np.count_nonzero(expand(mask, plan), axis=0)
    return degrees


def block_magnitude(weight: Array, block: int) -> Array:
    """Mean |w| of each block [block rows, inputs] of a weight matrix [outputs, inputs]."""
    if block == 1:
        return np.abs(weight)
    n_outputs, n_inputs = weight.shape
    block_rows = -(-n_outputs // block)
    magnitude = np.zeros((block_rows * block, n_inputs), weight.dtype)
    magnitude[:n_outputs] = np.abs(weight)
    total = magnitude.reshape(block_rows, block, n_inputs).sum(axis=1)
    width = np.minimum(block, n_outputs - block * np.arange(block_rows))
    result: Array = total / width[:, None].astype(weight.dtype)
    return result


def select_drop(weight: Array, mask: Mask, plan: LayerPlan, fraction: float, *, at_least_one: bool = False) -> Mask:
    """The blocks that an evolution step removes, as a mask of blocks.

    Block 1: every weight that is exactly zero (it never got a gradient, or was flushed), then the fraction ζ of the
    smallest positive and of the largest negative ones. Larger blocks: the fraction ζ with the smallest mean |w|. Ties
    go by lower position; never more are dropped than there are absent positions to grow into. Where nothing is left to
    drop and `at_least_one` says so, the block with the smallest mean |w| goes, if the layer can rewire at all.
    """
    magnitude = block_magnitude(weight, plan.block)
    if plan.block == 1:
        positive, negative = mask & (weight > 0), mask & (weight < 0)
        drop: Mask = mask & (weight == 0)
        drop |= _smallest(magnitude, positive, round_half_up(fraction * int(positive.sum())))
        drop |= _smallest(magnitude, negative, round_half_up(fraction * int(negative.sum())))
    else:
        drop = _smallest(magnitude, mask, round_half_up(fraction * int(mask.sum())))
    for rows, _, _ in plan.classes():
        drop[rows] = _smallest(magnitude[rows], drop[rows], int((~mask[rows]).sum()))
    if at_least_one and plan.can_rewire and not drop.any():
        movable = np.zeros_like(mask)
        for rows, _ in plan.growing_classes():
            movable[rows] = mask[rows]
        drop = _smallest(magnitude, movable, 1)
    return drop


def select_random_growth(
    mask: Mask, drop: Mask, plan: LayerPlan, draws: Draws, *, update: int, network: Network, layer: int
) -> Mask:
    """As many blocks as were dropped, uniformly among those that were absent before the step (SET)."""
    grow = np.zeros_like(mask)
    for rows, _, offset in plan.classes():
        absent = np.flatnonzero(~mask[rows])
        words = draws.words(Purpose.GROWTH, update, int(drop[rows].sum()), network=network, layer=layer + offset)
        grow[rows].reshape(-1)[absent[sample_without_replacement(words, len(absent))]] = True
    return grow


def select_gradient_growth(mask: Mask, drop: Mask, plan: LayerPlan, gradient: Array) -> Mask:
    """As many blocks as were dropped: the absent ones with the largest L1 norm of the gradient (RigL).

    Source: Evci et al. 2020. gradient: of every position, [outputs, inputs]. Ties go by lower position.
    """
    score = -block_magnitude(gradient, plan.block)
    grow = np.zeros_like(mask)
    for rows, _, _ in plan.classes():
        grow[rows] = _smallest(score[rows], ~mask[rows], int(drop[rows].sum()))
    return grow


def select_target_pruning(weight: Array, support: Mask, plan: LayerPlan) -> Mask:
    """The blocks of a target's support with the smallest mean |w| that it has beyond the planned number of blocks.

    Called at every soft update, hence a selection and not a sort.
    """
    magnitude = block_magnitude(weight, plan.block)
    pruned = np.zeros_like(support)
    for rows, planned, _ in plan.classes():
        surplus = int(np.count_nonzero(support[rows])) - planned
        pruned[rows] = _smallest(magnitude[rows], support[rows], surplus)
    return pruned


def _smallest(value: Array, among: Mask, count: int) -> Mask:
    """The `count` positions in `among` with the smallest value, ties by lower position; all where there are fewer."""
    if count <= 0:
        return np.zeros_like(among)
    positions = np.flatnonzero(among)
    if count >= len(positions):
        return among.copy()
    candidates = value.reshape(-1)[positions]
    threshold = np.partition(candidates, count - 1)[count - 1]
    low = np.flatnonzero(candidates <= threshold)
    below = candidates[low] < threshold
    ties = low[~below][: count - int(np.count_nonzero(below))]
    selected = np.zeros(among.shape, bool)
    selected.reshape(-1)[positions[np.concatenate([low[below], ties])]] = True
    return selected
