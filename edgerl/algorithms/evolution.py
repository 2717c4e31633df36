"""Which connections an evolution step drops and grows, how many, and what a target prunes. Pure functions on arrays.

Source: Sokar et al. (IJCAI 2022), Algorithm 1; what it leaves open is settled in docs/algorithm.md.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import numpy.typing as npt

from edgerl.algorithms.topology import LayerPlan, Mask, block_magnitude, round_half_up
from edgerl.config import Config, EvolutionConfig
from edgerl.edge.engine.growth import GROWTH_RULES, Absent
from edgerl.edge.engine.random import Draws, Network, Purpose

Array = npt.NDArray[Any]


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
) -> Mask:
    """As many blocks as were dropped: of those that were absent before the step the ones that the rule scores highest.

    growth: a name of GROWTH_RULES. gradient: of every position, [outputs, inputs]. Ties go by lower position.
    """
    magnitude = block_magnitude(gradient, plan.block)
    grow = np.zeros_like(mask)
    for rows, _, offset in plan.classes():
        absent, count = ~mask[rows], int(drop[rows].sum())
        words = draws.words(Purpose.GROWTH, update, count, network=network, layer=layer + offset)
        rank = np.zeros(absent.shape)
        rank[absent] = -GROWTH_RULES[growth].scores(Absent(magnitude[rows][absent], words))
        grow[rows] = _smallest(rank, absent, count)
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
