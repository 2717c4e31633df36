"""Sparse topologies: Erdős–Rényi counts of connections, and the masks that have them. Pure functions on arrays.

The unit of topology is a block: `block` consecutive outputs × one input; block 1 is the paper's unstructured topology.
A mask is bool [block rows, inputs] with block rows = ceil(outputs / block). Where outputs is not a multiple of `block`
the last block row is narrower, and a narrow block is only ever replaced by another: the connection count stays
constant.
Positions are numbered row by row: block row · inputs + input.

Source: Sokar et al. (IJCAI 2022), Algorithm 1 and §3.2; what it leaves open is settled in docs/algorithm.md.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any

import numpy as np
import numpy.typing as npt

from edgerl.config import Config, Distribution, NetworkConfig, OutputLayer
from edgerl.edge.engine.random import Draws, Network, Purpose, sample_without_replacement
from edgerl.errors import ConfigError
from edgerl.policy.compact import MAXIMUM_POSITIONS, MAXIMUM_UNITS
from edgerl.policy.format import MAXIMUM_NETWORK_POSITIONS
from edgerl.policy.shape import LayerShape

Mask = npt.NDArray[np.bool_]
Array = npt.NDArray[Any]

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
                f"`lambda{min(index, 1) + 1}` {value:g} asks for {density:.0%} of the positions of layer "
                f"{index + 1} ({n_inputs}×{n_outputs}); expected at most {math.floor(largest * 100) / 100:g}, "
                "or use `sparsity`"
            )
        plan = plan_layer(n_inputs, n_outputs, density, block)
        if plan.connections == 0:
            raise ConfigError(f"`lambda{min(index, 1) + 1}` {value:g} leaves layer {index + 1} no connection; raise it")
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
            (f"whose dense output layer alone has {dense} of {total} weights", ", or `output_layer` sparse")
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


def output_degrees(mask: Mask, plan: LayerPlan) -> Array:
    """How many inputs each output is connected with, [outputs]."""
    degrees: Array = np.count_nonzero(expand(mask, plan), axis=1)
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


def plan_networks(
    run: Config, n_observations: int, n_actions: int
) -> tuple[tuple[LayerPlan, ...], tuple[LayerPlan, ...]]:
    """The layers of the actor and of each critic. Raises ConfigError where the sparsity asked for is impossible."""
    config = run.network
    actor_hidden, critic_hidden = config.widths
    actor = (n_observations, *actor_hidden, run.actor_outputs(n_actions))
    critic = (n_observations + n_actions, *critic_hidden, 1)
    for widths in (actor, critic):
        _check_size(widths)
    if config.topology == "dense":
        return plan_dense(actor), plan_dense(critic)
    if config.lambda1 is not None and config.lambda2 is not None:
        lambdas = (config.lambda1, config.lambda2)
        return plan_by_lambdas(actor, lambdas, config.block), plan_by_lambdas(critic, lambdas, config.block)
    actor_plan, critic_plan = (
        _plan_by_sparsity(config, widths, sparsity)
        for widths, sparsity in zip((actor, critic), config.sparsities, strict=True)
    )
    return actor_plan, critic_plan


def _plan_by_sparsity(config: NetworkConfig, widths: tuple[int, ...], sparsity: float | None) -> tuple[LayerPlan, ...]:
    assert sparsity is not None  # make_config and from_json see to it
    return plan_by_sparsity(
        widths, sparsity, config.block, distribution=config.distribution, output_layer=config.output_layer
    )


def _check_size(widths: tuple[int, ...]) -> None:
    """Refuse at the start what no policy file could hold at the first checkpoint."""
    sizes = [n * m for n, m in pairwise(widths)]
    if max(widths) > MAXIMUM_UNITS or max(sizes) > MAXIMUM_POSITIONS or sum(sizes) > MAXIMUM_NETWORK_POSITIONS:
        raise ConfigError(
            f"a network {'-'.join(map(str, widths))} is too large; expected layers of at most {MAXIMUM_UNITS} units "
            f"and {MAXIMUM_POSITIONS} weights, {MAXIMUM_NETWORK_POSITIONS} in all"
        )


def notice_of_fixed_layers(config: Config, n_observations: int, n_actions: int) -> str | None:
    """The line that a person should read where a run is to evolve, and a sparse layer is too small for it."""
    if config.evolution.drop_fraction == 0:
        return None
    networks = zip(plan_networks(config, n_observations, n_actions), config.network.evolving, strict=True)
    return describe_fixed_layers(*(plans if evolves else () for plans, evolves in networks))
