"""Returns of a deterministic policy over episodes with given seeds."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from edgerl.edge.engine.random import Draws, Purpose
from edgerl.environments.make import Environment
from edgerl.errors import EnvironmentFault

Array = npt.NDArray[Any]

BOOTSTRAP_SAMPLES = 10_000


def evaluation_seeds(seed: int, episodes: int) -> list[int]:
    """The environment seeds of every evaluation of a run: the same ones each time, so that evaluations compare."""
    return [int(word) for word in Draws(seed).words(Purpose.EVALUATION, 0, episodes)]


def _raise(fault: EnvironmentFault) -> None:
    raise fault


@dataclass(frozen=True)
class Episodes:
    """The outcomes of episodes."""

    returns: Array  # undiscounted, float64 [episodes]
    successes: Array  # bool, of those whose last step reported it

    @property
    def success_rate(self) -> float:
        """NaN where the environment does not report success."""
        return float(self.successes.mean()) if len(self.successes) else math.nan


NO_EPISODES = Episodes(np.empty(0, np.float64), np.empty(0, bool))


def play(
    environment: Environment,
    act: Callable[[Array], Array],
    seeds: Sequence[int],
    on_fault: Callable[[EnvironmentFault], None] = _raise,
) -> Episodes:
    """One episode per seed.

    act: observation [n] → action [m] in the environment's units; what it raises ends the evaluation. on_fault: called
    with a step's failure; unless it raises, the episode ends there.
    """
    returns, successes = [], []
    for seed in seeds:
        observation, total, is_over = environment.reset(seed), 0.0, False
        while not is_over:
            action = act(observation)
            try:
                observation, reward, terminated, truncated = environment.step(action)
            except EnvironmentFault as fault:
                on_fault(fault)
                break
            total += reward
            is_over = terminated or truncated
        returns.append(total)
        successes.append(environment.success)
    return Episodes(np.array(returns, np.float64), np.array([s for s in successes if s is not None], bool))


def evaluate(environment: Environment, act: Callable[[Array], Array], seeds: Sequence[int]) -> Array:
    """The undiscounted return of one episode per seed, float64 [episodes]; act as in `play`."""
    return play(environment, act, seeds).returns


def mean_interval(values: Array, level: float = 0.95) -> tuple[float, float, float]:
    """(mean, low, high): a percentile-bootstrap interval of the mean, from a fixed seed."""
    generator = np.random.default_rng(0)
    means = generator.choice(values, (BOOTSTRAP_SAMPLES, len(values))).mean(axis=1)
    low, high = np.quantile(means, [(1 - level) / 2, (1 + level) / 2])
    return float(values.mean()), float(low), float(high)
