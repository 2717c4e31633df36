"""checkpoint.safetensors: everything that a resumed run needs, in one file (docs/format.md).

Reading one needs no torch: `edgerl prune` and `edgerl info` work without it.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from edgerl.config import Config, from_json
from edgerl.errors import ConfigError, FileFormatError, reason
from edgerl.files.atomic import read_bytes, write_atomically
from edgerl.files.tensors import Tensors, pack_tensors, unpack_tensors
from edgerl.policy import format as policy_file
from edgerl.policy.compact import CompactPolicy

KIND = "checkpoint"
VERSION = 1
LARGEST_COUNTER = 1 << 53
NORMALIZER = "normalizer."
"""How the names of the normaliser's tensors start."""


@dataclass(frozen=True)
class Counters:
    """Where a run is, at an episode's end, or within one that is very long."""

    step: int = 0
    episode: int = 0
    replay_count: int = 0  # transitions ever appended, all of them synced before the checkpoint was written
    metrics_rows: int = 0
    elapsed_seconds: float = 0.0
    training_cpu_seconds: float = 0.0
    faults: int = 0  # steps that failed in the environment
    replay_dropped: int = 0  # the first of the transitions, which are in use no more

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> Counters:
        """Counters that are not trusted. Raises ValueError, TypeError."""
        counters = cls(**data)
        for known in dataclasses.fields(cls):
            value = getattr(counters, known.name)
            kinds = (int,) if known.type == "int" else (int, float)
            if type(value) not in kinds or not 0 <= value <= LARGEST_COUNTER:
                raise ValueError(f"{known.name} is {repr(value)[:40]}; expected a number in [0, {LARGEST_COUNTER}]")
        if counters.replay_dropped > counters.replay_count:
            raise ValueError(f"replay_dropped is above replay_count, {counters.replay_count}")
        return counters


@dataclass(frozen=True)
class Returns:
    """Mean returns of evaluations, None before the first; and of the training episodes since."""

    last: float | None = None
    best: float | None = None
    training_sum: float = 0.0  # over the training episodes that ended since the last row of metrics
    training_episodes: int = 0

    @property
    def training(self) -> float | None:
        """Mean of the training episodes that ended since the last row of metrics."""
        return self.training_sum / self.training_episodes if self.training_episodes else None

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> Returns:
        """Returns that are not trusted. Raises ValueError, TypeError."""
        returns = cls(**data)
        for value in (returns.last, returns.best, returns.training_sum):
            if value is not None and not isinstance(value, float):
                raise ValueError(f"a return is {repr(value)[:40]}; expected a number")
        episodes = returns.training_episodes
        if type(episodes) is not int or episodes < 0:
            raise ValueError(f"training_episodes is {repr(episodes)[:40]}; expected a number of at least 0")
        return returns


@dataclass(frozen=True)
class Checkpoint:
    """A run at one moment."""

    config: Config
    counters: Counters
    policy: CompactPolicy  # the masked actor that `--policy` chose, dead units and all
    returns: Returns
    tensors: Tensors  # of the agent and, where there is one, the normaliser

    @property
    def agent_state(self) -> Tensors:
        """What `Algorithm.load_state` expects."""
        return {name: array for name, array in self.tensors.items() if not name.startswith(NORMALIZER)}

    @property
    def normalizer_state(self) -> Tensors:
        """What `Normalizer.load_state` expects."""
        return {n.removeprefix(NORMALIZER): a for n, a in self.tensors.items() if n.startswith(NORMALIZER)}


def write(path: Path, checkpoint: Checkpoint) -> None:
    """Write a checkpoint atomically."""
    metadata = {
        "config": dataclasses.asdict(checkpoint.config),
        "counters": dataclasses.asdict(checkpoint.counters),
        "returns": dataclasses.asdict(checkpoint.returns),
    }
    policy = np.frombuffer(policy_file.to_bytes(checkpoint.policy), np.uint8)
    write_atomically(path, pack_tensors(KIND, VERSION, metadata, {**checkpoint.tensors, "policy": policy}))


def read(path: Path) -> Checkpoint:
    """Read a checkpoint; nothing in it is trusted. The agent checks its own tensors when it loads them.

    Raises FileFormatError.
    """
    metadata, tensors = unpack_tensors(read_bytes(path), path, KIND, VERSION)
    policy = tensors.pop("policy", None)
    try:
        if policy is None or policy.dtype != np.uint8 or policy.ndim != 1:
            raise ValueError("its policy is not a tensor of bytes")
        return Checkpoint(
            config=from_json(_object(metadata, "config"), str(path)),
            counters=Counters.from_json(_object(metadata, "counters")),
            policy=policy_file.from_bytes(policy.tobytes(), path.with_name(f"{path.name}, its policy,")),
            returns=Returns.from_json(_object(metadata, "returns")),
            tensors=tensors,
        )
    except (ConfigError, ValueError, TypeError, OverflowError) as error:
        problem = reason(error, 300)
        raise FileFormatError(f"{path} is not valid: {problem}; resume from another run, or train again") from error


def _object(metadata: dict[str, Any], name: str) -> dict[str, Any]:
    value = metadata.get(name)
    if not isinstance(value, dict):
        raise ValueError(f"its {name} is not a JSON object")
    return value
