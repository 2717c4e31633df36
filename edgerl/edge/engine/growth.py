"""Growth rules by name: how the blocks that a layer lacks are ranked when an evolution step grows some of them.

A rule is one function, from the absent blocks to their scores, and its row in GROWTH_RULES, with its name in
`edgerl.config.Growth`; in the native engine it is a function, from a block's gradient to its score, its enumerator of
`edgerl_growth` (edgerl.h), and its case in `growth_rule_of` (topology.c).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from edgerl.edge.engine.random import Words, sample_without_replacement

Array = npt.NDArray[Any]

MULTIPLY_ADD_FLOPS = 2

RANKING_FLOPS = 4
"""Per weight: its magnitude, and three comparisons for a selection without a sort (quickselect's expectation)."""


@dataclass(frozen=True)
class Absent:
    """The blocks of one width that a layer lacked before the step, in the order of their positions."""

    gradients: Array  # float [absent]: mean |gradient| of each on this batch, before the optimiser's step
    words: Words  # uint32 [grown]: random words of this step


@dataclass(frozen=True)
class GrowthRule:
    """How to choose, and what it costs."""

    scores: Callable[[Absent], Array]  # [absent]; the largest grow, ties by lower position
    flops: Callable[[int], int]  # batch size → of an evolution step, per absent weight


def drawn(absent: Absent) -> Array:
    """Every set of as many blocks as grow is equally likely (SET: Mocanu et al. 2018)."""
    scores = np.zeros(len(absent.gradients))
    scores[sample_without_replacement(absent.words, len(scores))] = 1
    return scores


def by_gradient(absent: Absent) -> Array:
    """The largest gradients (RigL: Evci et al. 2020)."""
    return absent.gradients


GROWTH_RULES: dict[str, GrowthRule] = {
    "random": GrowthRule(drawn, flops=lambda _: 0),
    "gradient": GrowthRule(by_gradient, flops=lambda batch: MULTIPLY_ADD_FLOPS * batch + RANKING_FLOPS),
}
"""In the order of their numbers in C."""
