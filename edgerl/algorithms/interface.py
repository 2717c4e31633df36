"""What the trainer, its checkpoints, its metrics and the handover know of an algorithm, on whichever engine."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from importlib import import_module
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from edgerl.algorithms.normalizer import Normalizer
from edgerl.algorithms.state import Arrays
from edgerl.algorithms.topology import LayerPlan
from edgerl.config import Config
from edgerl.edge.continual.replay import Replay
from edgerl.edge.engine.random import Draws
from edgerl.errors import require

Array = npt.NDArray[Any]


class SparseNetwork(Protocol):
    """One network of an algorithm, with its target."""

    plans: Sequence[LayerPlan]

    def connections(self) -> list[int]:
        """Of each layer."""
        ...

    def target_connections(self) -> list[int]:
        """Of each layer of the target network."""
        ...

    def share_ever_active(self) -> float:
        """The share of its positions that ever held a connection."""
        ...

    def shares_ever_active(self) -> list[float]:
        """The same of each layer."""
        ...

    def input_degrees(self) -> Array:
        """How many connections each input has, [inputs]."""
        ...

    def output_degrees(self) -> Array:
        """How many connections each output has, [outputs]."""
        ...


class Algorithm(Protocol):
    """An algorithm that learns from a replay buffer; actions are in [−1, 1]."""

    config: Config
    draws: Draws
    updates: int  # of the critics, since the run began

    @property
    def networks(self) -> Iterable[tuple[str, SparseNetwork]]:
        """The networks by name; one is called actor."""
        ...

    @property
    def abandoned_updates(self) -> int:
        """How many updates the engine gave up, since a number was not finite."""
        ...

    def act(self, observation: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
        """The deterministic action [m] for an observation [n]."""
        ...

    def explore(self, observation: npt.NDArray[np.float32], noise: npt.NDArray[np.float64]) -> npt.NDArray[np.float32]:
        """The action [m] that is tried in training; noise: standard normal numbers [m]."""
        ...

    def learn(self, replay: Replay, normalizer: Normalizer | None = None) -> None:
        """One update, on a batch from `replay`, whose observations `normalizer` standardises."""
        ...

    def actor_layers(self) -> list[tuple[Array, Array]]:
        """(weights [outputs, inputs], bias [outputs]) of the policy: its last layer gives the actions."""
        ...

    @property
    def metrics(self) -> dict[str, float]:
        """Numbers of the updates since `reset_metrics`, such as mean losses, for a column of metrics.csv each."""
        ...

    def reset_metrics(self) -> None:
        """Begin the means of `metrics` again."""
        ...

    def state(self) -> Arrays:
        """Everything that the next update depends on, by name: the same names on each engine."""
        ...

    def load_state(self, arrays: Arrays) -> None:
        """Go on from a state. Raises ValueError where it is not one of this configuration."""
        ...


ALGORITHMS = {
    "td3": ("edgerl.algorithms.td3", "TD3"),
    "sac": ("edgerl.algorithms.sac", "SAC"),
    "crossq": ("edgerl.algorithms.crossq", "CrossQ"),
}
"""On PyTorch, per algorithm the module and the class, which is loaded when a run needs it."""

NATIVE = ("edgerl.algorithms.native", "NativeAgent")
"""The same of the native engine, for all algorithms."""


def make_algorithm(config: Config, n_observations: int, n_actions: int) -> Algorithm:
    """The algorithm on the engine that the configuration names. Raises ConfigError, MissingExtraError."""
    module, name = NATIVE
    if config.engine == "torch":
        require("torch", "train")
        module, name = ALGORITHMS[config.algorithm]
    made: Algorithm = getattr(import_module(module), name)(config, n_observations, n_actions)
    return made
