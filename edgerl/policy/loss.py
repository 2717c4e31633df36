"""What a lossy step costs: how far it moves a policy's actions, over recorded or sampled observations.

Pruning, smaller weights, rounded inputs and rounded observations are all reported in this measure.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np

from edgerl.policy.compact import Array, CompactPolicy, product, shifted

Observed = Literal["recorded", "sampled"]

SAMPLED_OBSERVATIONS = 1000

STEEPEST = 1.13
"""The largest slope of an activation: GELU's."""


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
    """The range of each action, float64 [m]: its bounds' or, where one is infinite, over sampled observations."""
    span: Array = policy.action_high.astype(np.float64) - policy.action_low
    if np.isfinite(span).all():
        return span
    seen = np.ptp(policy.without_offset(sampled_observations(policy), np.float64), axis=0)
    return np.where(np.isfinite(span), span, np.where(seen > 0, seen, 1))


def resolution(policy: CompactPolicy, observations: Array) -> Array:
    """What float32 rounding can change in each action [batch, m], as a share of its range.

    Four standard deviations of the rounding errors before the head, each operation's taken as independent, and the
    steps of the action itself; below TOLERANCE for ordinary observations, and up to 1 where huge terms cancel. Of a
    recurrent policy, whose observations are the steps of an episode, eight times what float32 changed up to each step.
    """
    if policy.is_recurrent:
        differences = np.abs(policy(observations) - policy(observations, np.float64)) / action_span(policy)
        return 8 * np.maximum.accumulate(differences)
    unit = float(np.finfo(np.float32).eps) / 2
    x = shifted(observations, policy.observation_offset).astype(np.float64)
    variance = np.square(unit * x)
    if policy.observation_mean is not None and policy.observation_scale is not None:
        mean, scale = policy.observation_mean.astype(np.float64), policy.observation_scale.astype(np.float64)
        variance = np.square(2 * unit * (np.abs(x) + np.abs(mean)) * scale)
        x = policy.normalised(x)
    for index, layer in enumerate(policy.layers):
        weight = layer.matrix(np.float64).T
        terms = product(np.square(x), np.square(weight)) + np.square(layer.bias.astype(np.float64))
        variance = product(variance, np.square(weight)) + np.square(unit) * layer.n_inputs * terms
        x = product(x, weight) + layer.bias
        if index + 1 == len(policy.layers):
            break
        if layer.norm is not None:
            variance *= np.square(layer.norm.scale) / (x.var(axis=-1, keepdims=True) + layer.norm.epsilon)
        x = layer.hidden(x)
        variance = STEEPEST**2 * variance + np.square(4 * unit * x)
    deviation, span = 4 * np.sqrt(variance), action_span(policy)
    if policy.head == "clip":
        return 2 * deviation / span
    share: Array = (np.tanh(x + deviation) - np.tanh(x - deviation)) / 2
    # Bounds far from zero: an action in [400, 401] has steps of 3e-5, whatever is computed.
    largest = np.maximum(np.abs(policy.action_low), np.abs(policy.action_high))
    return share + 2 * np.spacing(largest) / span
