"""Returns of a deterministic policy over episodes with given seeds."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from edgerl.training.environments import Environment
from edgerl.training.random import Draws, Purpose

Array = npt.NDArray[Any]

BOOTSTRAP_SAMPLES = 10_000


def evaluation_seeds(seed: int, episodes: int) -> list[int]:
    """The environment seeds of every evaluation of a run: the same ones each time, so that evaluations compare."""
    return [int(word) for word in Draws(seed).words(Purpose.EVALUATION, 0, episodes)]


def evaluate(environment: Environment, act: Callable[[Array], Array], seeds: Sequence[int]) -> Array:
    """The undiscounted return of one episode per seed, float64 [episodes].

    act: observation [n] → action [m] in the environment's units.
    """
    returns = []
    for seed in seeds:
        observation, total, done = environment.reset(seed), 0.0, False
        while not done:
            observation, reward, terminated, truncated = environment.step(act(observation))
            total += reward
            done = terminated or truncated
        returns.append(total)
    return np.array(returns)


def mean_interval(values: Array, level: float = 0.95) -> tuple[float, float, float]:
    """(mean, low, high): a percentile-bootstrap interval of the mean, from a fixed seed."""
    generator = np.random.default_rng(0)
    means = generator.choice(values, (BOOTSTRAP_SAMPLES, len(values))).mean(axis=1)
    low, high = np.quantile(means, [(1 - level) / 2, (1 + level) / 2])
    return float(values.mean()), float(low), float(high)
