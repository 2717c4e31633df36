"""The observation that a policy takes, made of what was measured in single steps, as its contract says.

One step is the terms of an observation one behind the other. Each term is clipped, multiplied by its scale, and stacked
with what it was in the steps before, from the oldest to the newest; the stacks lie one behind the other. In an
episode's first step a stack is filled with that step alone. This is what the observation managers of Isaac Lab and of
mjlab do in training, and Unitree's on the robot.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np

from edgerl.errors import UnsupportedModelError
from edgerl.policy.compact import Array
from edgerl.policy.contract import Contract

LARGEST = np.finfo(np.float32).max
"""A bound of what has none, which no finite number exceeds."""


@dataclass(frozen=True)
class Terms:
    """The terms of a contract, in their order; k numbers in a step, n in what the policy takes."""

    sizes: tuple[int, ...]  # numbers of each term
    lengths: tuple[int, ...]  # steps of each term that are stacked, from 1 on
    scale: Array  # float32 [k]
    low: Array  # float32 [k]
    high: Array  # float32 [k]

    @property
    def n_step(self) -> int:
        """k."""
        return len(self.scale)

    @cached_property
    def _places(self) -> tuple[Array, Array]:
        """For each number of a stack [n]: where it comes from in what the stack was, and the step behind that; and
        where in the first step."""
        n = sum(size * length for size, length in zip(self.sizes, self.lengths, strict=True))
        moved, repeated = [], []
        past, measured = 0, 0
        for size, length in zip(self.sizes, self.lengths, strict=True):
            step = np.arange(measured, measured + size)
            moved += [np.arange(past + size, past + size * length), n + step]
            repeated += [step] * length
            past, measured = past + size * length, measured + size
        return np.concatenate(moved), np.concatenate(repeated)

    def scaled(self, step: Array) -> Array:
        """One step [k], clipped and scaled, in its own type."""
        with np.errstate(over="ignore"):  # what is too large becomes infinite, which policies refuse
            clipped = np.clip(step, self.low.astype(step.dtype), self.high.astype(step.dtype))
            scaled: Array = clipped * self.scale.astype(step.dtype)
        return scaled

    def stacked(self, step: Array, before: Array | None) -> Array:
        """The policy's observation [n], from a step [k] that is scaled and what it was one step ago [n]; None: the
        episode begins."""
        moved, repeated = self._places
        following: Array = step[repeated] if before is None else np.concatenate([before, step])[moved]
        return following


def terms_of(contract: Contract, name: str = "the policy") -> Terms:
    """The terms that a contract states. Raises UnsupportedModelError where it does not say how large they are."""
    sizes = contract.observation_terms_size
    if not sizes:
        raise UnsupportedModelError(
            f"{name} does not say how many numbers the terms of its observation have (observation_terms_size); "
            "import it again, with --contract deploy.yaml"
        )
    scales = contract.observation_terms_scale or ((1.0,),) * len(sizes)
    clips = contract.observation_terms_clip or ((-np.inf, np.inf),) * len(sizes)
    low, high = np.repeat(np.array(clips), sizes, axis=0).clip(-LARGEST, LARGEST).astype(np.float32).T
    return Terms(
        sizes,
        contract.stacked_steps,
        np.concatenate([np.broadcast_to(scale, size) for scale, size in zip(scales, sizes, strict=True)]).astype(
            np.float32
        ),
        low,
        high,
    )
