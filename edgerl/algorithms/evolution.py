"""Which connections an evolution step drops and grows, how many, and what a target prunes. Pure functions on arrays.

Source: Sokar et al. (IJCAI 2022), Algorithm 1; of `reallocate` Mostafa and Wang (ICML 2019), Algorithm 1. What they
leave open is settled in docs/algorithm.md.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from edgerl.algorithms.topology import LayerPlan, Mask, block_magnitude, round_half_up
from edgerl.config import Config, EvolutionConfig
from edgerl.edge.engine.growth import GROWTH_RULES, Absent
from edgerl.edge.engine.random import Draws, Network, Purpose

Array = npt.NDArray[Any]

INITIAL_THRESHOLD = 1e-3
"""The magnitude below which the first step of DSR drops connections."""

TOLERANCE_DIVISOR = 10
"""DSR keeps its threshold where what is below it misses its aim by a tenth of that at most."""


def last_update(config: Config) -> int:
    """The critic update from which on the topology stays as it is: the run's last, or the end of a cosine schedule."""
    steps = config.evolution.evolution_steps or config.schedule.steps
    return max(config.learning.updates_after(steps - config.schedule.start_steps), 1)


def drop_fraction_at(config: EvolutionConfig, update: int, last_update: int) -> float:
    """The share ζ of a layer's blocks that the evolution step of critic update `update` drops.

    update: in [1, last_update]. last_update: as the function of that name says; the cosine ends there.

    Source of the cosine: Evci et al. (2020), f(t) = ζ/2 · (1 + cos(π t / T)).
    """
    if config.drop_schedule == "constant":
        return config.drop_fraction
    return config.drop_fraction * 0.5 * (1 + math.cos(math.pi * update / last_update))


def drops_at_least_one(config: EvolutionConfig, update: int, last_update: int) -> bool:
    """Whether a layer whose share rounds to nothing drops one block nevertheless.

    It does unless ζ is 0; under the cosine as long as at least half of ζ is left, which of one block rounds to one.
    """
    return config.drop_fraction > 0 and (config.drop_schedule == "constant" or 2 * update <= last_update)


def input_scales(inputs: Array) -> Array:
    """The root mean square of each input over a batch [batch, inputs], by which the criterion scaled-magnitude measures
    the weights [outputs, inputs] behind it.

    Source: Sun et al. (2023), who prune language models by |w| times the norm of its input: a weight's size alone
    depends on the unit in which its input is measured.
    """
    scales: Array = np.sqrt(np.mean(np.square(inputs), axis=0))
    return scales


def select_drop(
    weight: Array,
    mask: Mask,
    plan: LayerPlan,
    fraction: float,
    *,
    at_least_one: bool = False,
    scales: Array | None = None,
) -> Mask:
    """The blocks that an evolution step removes, as a mask of blocks.

    scales: of the inputs, by which the magnitudes are multiplied; None: the criterion is the magnitude itself.

    Block 1: every weight that is exactly zero (it never got a gradient, or was flushed), then the fraction ζ of the
    smallest positive and of the largest negative ones. Larger blocks: the fraction ζ with the smallest mean |w|. Ties
    go by lower position; never more are dropped than there are absent positions to grow into. Where nothing is left to
    drop and `at_least_one` says so, the block with the smallest mean |w| goes, if the layer can rewire at all.
    """
    magnitude = block_magnitude(weight, plan.block)
    if scales is not None:
        magnitude = magnitude * scales
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


@dataclass(frozen=True)
class Reallocation:
    """What a step of DSR does to the sparse layers of a network, in their order."""

    drops: list[Mask]  # of blocks
    moved: list[int]  # blocks of full width that a layer grows beyond those that it drops; all together 0
    threshold: float  # of the next step


def reallocate(
    weights: Sequence[Array],
    masks: Sequence[Mask],
    plans: Sequence[LayerPlan],
    fraction: float,
    threshold: float,
    *,
    at_least_one: bool = False,
) -> Reallocation:
    """What an evolution step of DSR (dynamic sparse reparameterisation) drops, and in which layers it grows as much.

    weights [outputs, inputs], masks and plans are those of the sparse layers.

    In all layers the blocks are dropped whose mean |w| is below `threshold` or exactly 0, but for the largest of each
    layer. As many grow, in each layer in proportion to those that survive there; a narrower last block is replaced in
    its own layer. The next threshold is twice this one where fewer than the fraction ζ of all blocks (`at_least_one`:
    fewer than one) were below it, and half of it where more were. No more are dropped than there are absent positions
    to grow into: then the smallest go. Where ζ rounds to nothing, nothing happens.
    """
    aim = max(round_half_up(fraction * sum(int(mask.sum()) for mask in masks)), int(at_least_one))
    if not masks or aim == 0:
        return Reallocation([np.zeros_like(mask) for mask in masks], [0] * len(masks), threshold)
    magnitudes = [block_magnitude(weight, plan.block) for weight, plan in zip(weights, plans, strict=True)]
    drops = [mask & ((size < threshold) | (size == 0)) for size, mask in zip(magnitudes, masks, strict=True)]
    missed = TOLERANCE_DIVISOR * (aim - sum(int(drop.sum()) for drop in drops))
    factor = 2.0 if missed > aim else 0.5 if missed < -aim else 1.0
    for drop, size, mask in zip(drops, magnitudes, masks, strict=True):
        drop.reshape(-1)[np.argmax(np.where(mask, size, -1))] = False
    # Blocks that can take each other's place: those of full width of all layers; narrower ones of a layer.
    full = [(layer, slice(0, plan.full_rows)) for layer, plan in enumerate(plans)]
    narrow = [[(layer, rows)] for layer, plan in enumerate(plans) for rows, _, _ in plan.classes()[1:]]
    moved = [0] * len(masks)
    for pool in (full, *narrow):
        sizes, dropping, there = ([of[layer][rows] for layer, rows in pool] for of in (magnitudes, drops, masks))
        room = [int((~mask).sum()) for mask in there]
        _keep_smallest(sizes, dropping, sum(room))
        dropped = [int(drop.sum()) for drop in dropping]
        survivors = [int(mask.sum()) - n for mask, n in zip(there, dropped, strict=True)]
        grown = shared_out(sum(dropped), survivors, room)
        for (layer, _), more, fewer in zip(pool, grown, dropped, strict=True):
            moved[layer] += more - fewer
    return Reallocation(drops, moved, max(threshold * factor, float(np.finfo(np.float32).tiny)))


def _keep_smallest(sizes: Sequence[Array], drops: Sequence[Mask], at_most: int) -> None:
    """Clear all but the `at_most` smallest of some layers' blocks that are to be dropped."""
    flat = [np.concatenate([array.reshape(-1) for array in arrays]) for arrays in (sizes, drops)]
    kept = _smallest(flat[0], flat[1], at_most)
    for drop, part in zip(drops, np.split(kept, np.cumsum([drop.size for drop in drops])[:-1]), strict=True):
        drop[...] = part.reshape(drop.shape)


def shared_out(number: int, shares: Sequence[int], room: Sequence[int]) -> list[int]:
    """`number` things, at most the sum of `room`, shared out in proportion to `shares` (0 counts as 1): to each at most
    what it has room for. What rounding leaves goes to the largest remainders, of equal ones to the first."""
    counts = [0] * len(room)
    while (left := number - sum(counts)) > 0:
        takers = [i for i, most in enumerate(room) if counts[i] < most]
        total = sum(max(shares[i], 1) for i in takers)
        exact = {i: divmod(left * max(shares[i], 1), total) for i in takers}
        rest = left - sum(whole for whole, _ in exact.values())
        favoured = sorted(takers, key=lambda i: -exact[i][1])[:rest]
        for i in takers:
            counts[i] = min(room[i], counts[i] + exact[i][0] + (i in favoured))
    return counts


def select_growth(
    mask: Mask,
    drop: Mask,
    plan: LayerPlan,
    growth: str,
    draws: Draws,
    gradient: Array,
    *,
    update: int,
    network: Network,
    layer: int,
    moved: int = 0,
) -> Mask:
    """As many blocks as were dropped: of those that were absent before the step the ones that the rule scores highest.

    growth: a name of GROWTH_RULES. gradient: of every position, [outputs, inputs]. moved: so many more of full width,
    which other layers gave. Ties go by lower position.
    """
    magnitude = block_magnitude(gradient, plan.block)
    grow = np.zeros_like(mask)
    for (rows, _, offset), more in zip(plan.classes(), (moved, 0), strict=False):
        absent, count = ~mask[rows], int(drop[rows].sum()) + more
        words = draws.words(Purpose.GROWTH, update, count, network=network, layer=layer + offset)
        rank = np.zeros(absent.shape)
        rank[absent] = -GROWTH_RULES[growth].scores(Absent(magnitude[rows][absent], words))
        grow[rows] = _smallest(rank, absent, count)
    return grow


def select_target_pruning(weight: Array, support: Mask, online: Mask, plan: LayerPlan) -> Mask:
    """The blocks of a target's support with the smallest mean |w| that it has beyond as many as the online network.

    Called at every soft update, hence a selection and not a sort.
    """
    magnitude = block_magnitude(weight, plan.block)
    pruned = np.zeros_like(support)
    for rows, _, _ in plan.classes():
        surplus = int(np.count_nonzero(support[rows])) - int(np.count_nonzero(online[rows]))
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
