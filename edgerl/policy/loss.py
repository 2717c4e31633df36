"""What a lossy step costs: how far it moves a policy's actions, over recorded or sampled observations.

Pruning, smaller weights, rounded inputs and rounded observations are all reported in this measure.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np

from edgerl.policy.compact import Array, CompactPolicy

Observed = Literal["recorded", "sampled"]

SAMPLED_OBSERVATIONS = 1000


@dataclass(frozen=True)
class ActionDifference:
    """Between actions before and after a step, in shares of each action's range."""

    largest: float
    root_mean_square: float
    observations: int
    observed: Observed

    def describe(self) -> str:
        """For people."""
        return (
            f"largest action difference over {self.observations} {self.observed} observations: {self.largest:.2g} of "
            "the action range"
        )


def action_difference(
    before: Array, after: Array, span: Array | float, observed: Observed = "recorded"
) -> ActionDifference:
    """Between two arrays of actions [count, m] for the same observations; span: their range, [m] or one for all."""
    shares = np.abs(np.subtract(before, after, dtype=np.float64)) / span
    return ActionDifference(
        largest=float(shares.max(initial=0)),
        root_mean_square=float(np.sqrt(np.mean(np.square(shares)))),
        observations=len(shares),
        observed=observed,
    )


def sampled_observations(policy: CompactPolicy, count: int = SAMPLED_OBSERVATIONS, magnitude: float = 1.0) -> Array:
    """Observations [count + 1, n], `magnitude` standard deviations wide, the policy's example first; less the offset,
    where the policy has one. Always the same."""
    deviations = np.random.default_rng(0).normal(size=(count, policy.n_observations)) * magnitude
    if policy.observation_mean is not None and policy.observation_scale is not None:
        scale = policy.observation_scale.astype(np.float64)
        deviations = policy.observation_mean + deviations / np.where(scale == 0, 1, scale)
    largest = np.finfo(np.float32).max
    drawn = np.clip(deviations, -largest, largest).astype(np.float32)
    example = policy.without_offset.example_observation
    return np.concatenate([example[None], drawn]) if example.size else drawn


def action_span(policy: CompactPolicy) -> Array:
    """The range of each action, float64 [m]."""
    span: Array = policy.action_high.astype(np.float64) - policy.action_low
    return span
