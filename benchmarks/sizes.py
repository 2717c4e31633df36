"""What the benchmarks share: HalfCheetah's size, the density of its hidden layers, transitions, and time."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Any

import numpy as np

from edgerl.edge.continual.replay import Boundary, Replay

N_OBSERVATIONS, N_ACTIONS, HIDDEN = 17, 6, 256
BATCH = 100


def density_options(density: float, actor_outputs: int = N_ACTIONS) -> dict[str, Any]:
    """The options of `train` and `make_config` for one density of each hidden layer; output layers stay dense.
    actor_outputs: of SAC twice as many as there are actions."""

    def sparsity(n_inputs: int, n_outputs: int) -> float:
        hidden, output = (n_inputs + HIDDEN) * HIDDEN, HIDDEN * n_outputs
        return (1 - density) * hidden / (hidden + output)

    return {
        "distribution": "uniform",
        "actor_sparsity": sparsity(N_OBSERVATIONS, actor_outputs),
        "critic_sparsity": sparsity(N_OBSERVATIONS + N_ACTIONS, 1),
    }


def random_replay(count: int) -> Replay:
    """Random transitions of one endless episode."""
    generator, replay = np.random.default_rng(0), Replay(None, N_OBSERVATIONS, N_ACTIONS, count)
    for _ in range(count):
        observation, following = generator.normal(size=(2, N_OBSERVATIONS))
        action, reward = generator.uniform(-1, 1, N_ACTIONS), generator.normal()
        replay.append(observation, action, reward, following, Boundary.CONTINUES)
    return replay


@dataclass(frozen=True)
class Seconds:
    """A duration: in processor time, which other processes do not lengthen, and in clock time."""

    processor: float = 0.0
    clock: float = 0.0

    @classmethod
    def now(cls) -> Seconds:
        """Of this process."""
        return cls(time.process_time(), time.perf_counter())

    def __sub__(self, start: Seconds) -> Seconds:
        return Seconds(self.processor - start.processor, self.clock - start.clock)

    def __add__(self, other: Seconds) -> Seconds:
        return Seconds(self.processor + other.processor, self.clock + other.clock)
