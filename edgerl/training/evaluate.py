"""Returns of a deterministic policy over episodes with given seeds."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from edgerl.edge.random import Draws, Purpose
from edgerl.training.config import ScheduleConfig
from edgerl.training.environments import Environment

Array = npt.NDArray[Any]

BOOTSTRAP_SAMPLES = 10_000


def evaluation_seeds(seed: int, episodes: int) -> list[int]:
    """The environment seeds of every evaluation of a run: the same ones each time, so that evaluations compare."""
    return [int(word) for word in Draws(seed).words(Purpose.EVALUATION, 0, episodes)]


def evaluate(
    environment: Environment, act: Callable[[Array], Array], seeds: Sequence[int], longest_episode: int
) -> Array:
    """The undiscounted return of one episode per seed, float64 [episodes].

    act: observation [n] → action [m] in the environment's units. longest_episode: steps after which one is cut.
    """
    returns = []
    for seed in seeds:
        observation, total = environment.reset(seed), 0.0
        for _ in range(longest_episode):
            observation, reward, terminated, truncated = environment.step(act(observation))
            total += reward
            if terminated or truncated:
                break
        returns.append(total)
    return np.array(returns)


def longest_episode(environment: Environment, schedule: ScheduleConfig) -> int:
    """Steps after which an episode is cut: the environment's own limit, and no less than the checkpoint interval."""
    return max(schedule.checkpoint_interval, environment.maximum_episode_steps or 0)


def mean_interval(values: Array, level: float = 0.95) -> tuple[float, float, float]:
    """(mean, low, high): a percentile-bootstrap interval of the mean, from a fixed seed."""
    generator = np.random.default_rng(0)
    means = generator.choice(values, (BOOTSTRAP_SAMPLES, len(values))).mean(axis=1)
    low, high = np.quantile(means, [(1 - level) / 2, (1 + level) / 2])
    return float(values.mean()), float(low), float(high)
