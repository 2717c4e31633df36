"""What a bundle or a snapshot says about a learner; nothing in it is trusted."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from edgerl.edge.continual.bundle import Constants, ReplayPlan, read_constants, read_replay_plan, version_of
from edgerl.edge.continual.memory import memory_of
from edgerl.edge.continual.trials import LARGEST_REWARD
from edgerl.edge.engine.arena import LearnerArena, ReadState
from edgerl.edge.engine.library import BytesOf, LearnerConfig, library
from edgerl.edge.engine.released import current
from edgerl.errors import ConfigError, FileFormatError, UnsupportedModelError, quoted
from edgerl.files.tensors import TensorReader, Tensors


@dataclass(frozen=True)
class Origin:
    """What a file says about a learner, checked."""

    arena: LearnerArena
    constants: Constants
    replay: ReplayPlan
    about: dict[str, Any]
    exploration_noise: float
    metadata: Mapping[str, Any]

    @property
    def tensors(self) -> Tensors:
        """As a snapshot holds them, the state as it is now."""
        return {"state": self.arena.state, **self.constants.tensors()}

    @property
    def version(self) -> int:
        """Of the format that a snapshot needs."""
        return version_of(self.tensors)


def refuse_for_c(path: Path, origin: Origin) -> None:
    """Raise UnsupportedModelError or ConfigError where the learner of the file `path` cannot run in C."""
    if origin.constants.observation_offset is not None:
        raise UnsupportedModelError(
            f"{path} has an observation offset, which a learner in C does not support; export its policy, "
            "edgerl export --format c, or make the observation relative to a fixed point and train again"
        )
    if origin.replay.keep != "ring":
        raise ConfigError(f"the replay of {path} is a {origin.replay.keep}; in C it is a ring; export one with a ring")


class _TooLittleMemoryError(ConfigError):
    """Not a fault of the file."""


def read_origin(reader: TensorReader, source: Path, memory: int | None = None) -> Origin:
    """The learner in a bundle or a snapshot; memory: instead of what it says. Raises FileFormatError, and ConfigError
    where the memory is too small."""
    metadata = reader.metadata
    try:
        about: Any = metadata.get("about")
        noise: Any = metadata.get("exploration_noise")
        if not isinstance(about, dict):
            raise ValueError("its metadata 'about' is not a JSON object")
        if type(noise) not in (int, float) or not 0 <= noise <= 10:
            raise ValueError(f"its exploration_noise is {quoted(noise)}, expected 0 to 10")
        replay = read_replay_plan(metadata.get("replay"))
        adapt = _adapt_to_this_machine(memory_of(replay) if memory is None else memory)
        arena = LearnerArena.from_state(library(), *state_of(reader), adapt)
        constants = read_constants(reader, arena.config.n_observations, arena.config.n_actions)
        if replay.precision == "fp16" and constants.storage_mean is None:
            raise ValueError("its replay is fp16, and the constants of its storage are missing")
        return Origin(arena, constants, replay, about, float(noise), metadata)
    except _TooLittleMemoryError:
        raise
    except (ValueError, ConfigError) as error:
        raise FileFormatError(f"{source} is not valid: {error}; export it again") from error


def _adapt_to_this_machine(memory: int) -> Callable[[LearnerConfig], None]:
    """What sets a configuration's instruction set. It raises where the networks need more than `memory`, before they
    take it."""

    def adapt(config: LearnerConfig) -> None:
        loaded, needed = library(), BytesOf()
        config.isa = loaded.isa()
        config.lanes = loaded.lanes(config.isa)
        loaded.call("the learner's state", "edgerl_learner_bytes", config, needed)
        if needed.total > memory:
            raise _TooLittleMemoryError(
                f"the memory is {memory} bytes; expected more than the {needed.total} that the networks need"
            )

    return adapt


def state_of(reader: TensorReader) -> tuple[int, ReadState]:
    """(bytes, reader) of the engine's state in a file. Raises ValueError, ConfigError."""
    dtype, shape = reader.shapes.get("state", (None, ()))
    if dtype != np.uint8 or len(shape) != 1:
        raise ValueError("its state is not a list of bytes")
    return current(shape[0], lambda memory, offset: reader.read_into("state", memory, offset))


def read_largest_reward(origin: Origin, source: Path) -> float:
    """In magnitude, of the run that the bundle is from. Raises FileFormatError."""
    value: Any = origin.metadata.get("largest_reward")
    if type(value) not in (int, float) or not 0 <= value <= LARGEST_REWARD:
        raise FileFormatError(f"{source} is not valid: its largest_reward is {quoted(value)}; export it again")
    return float(value)
