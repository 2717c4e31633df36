"""What a learner remembers: transitions, in the terms of its networks."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from edgerl.edge.continual.bundle import Constants, ReplayPlan
from edgerl.edge.continual.replay import Boundary
from edgerl.edge.continual.transitions import Storage, Transitions, row_is_sound
from edgerl.edge.engine.library import LearnerConfig, ReplayStructure
from edgerl.errors import FileFormatError
from edgerl.files.disk import DISK, Disk
from edgerl.files.tensors import TensorReader
from edgerl.policy.compact import Array

SEED_CHUNK = 64
"""Seed transitions that are read together."""


class Experience:
    """The transitions of a robot, which its learner samples from.

    Attributes: `transitions`; `observed`, how many were added since this process started.
    """

    def __init__(
        self,
        config: LearnerConfig,
        constants: Constants,
        plan: ReplayPlan,
        capacity: int,
        *,
        storage: Storage = "ram",
        log: Path | None = None,
        disk: Disk = DISK,
    ) -> None:
        """Open the log, or create it; without a path, in RAM only. Raises FileFormatError for unsuitable
        constants, and what `Transitions` raises."""
        self._constants = constants
        shape = constants.record_format(config.n_observations, plan.precision)
        self._decoding = shape.decoding(constants.observation_mean, constants.observation_scale)
        if not all(part is None or np.isfinite(part).all() for part in self._decoding):
            raise FileFormatError("the learner's constants are too far apart for float32 numbers; export it again")
        seed = int(config.seed)
        self.transitions = Transitions(shape, capacity, seed, keep=plan.keep, storage=storage, path=log, disk=disk)
        self.observed = 0

    def add(
        self, observation: Array, action: Array, reward: float, next_observation: Array, boundary: Boundary
    ) -> None:
        """Remember a transition of finite numbers, observations as they are `seen`, the action [m] in the robot's own
        units. Raises OutputError where the disk refuses it: then it is in RAM."""
        centre, half_range = self._constants.scaling
        with np.errstate(over="ignore"):
            unit = np.clip((action - centre) / half_range, -1, 1)
        self.observed += 1
        self.transitions.append(observation, unit, reward, next_observation, boundary)

    def structure(self) -> ReplayStructure:
        """The transitions as the engine reads them, at this moment; hold their lock while it draws its batch."""
        return self.transitions.structure(*self._decoding)

    def resume_from(self, number: int, saturations: int) -> int:
        """Resume after a snapshot with these counts of transitions and saturated numbers; how many more the log has."""
        newer = max(self.transitions.number - number, 0)
        self.transitions.number = max(self.transitions.number, number)
        self.transitions.saturations = saturations
        return newer

    def plant_seed(self, reader: TensorReader, bundle: Path) -> float:
        """Add the transitions that came with the bundle; their largest reward, in magnitude. Raises FileFormatError,
        OutputError."""
        shape, largest = self.transitions.shape, 0.0
        row_bytes, offset = shape.row_bytes, shape.row_offset
        dtype, sizes = reader.shapes.get("seed", (np.dtype(np.uint8), (0, row_bytes)))
        if dtype != np.uint8 or len(sizes) != 2 or sizes[1] != row_bytes:
            raise FileFormatError(f"{bundle} is not valid: its seed is not a list of rows; export it again")
        for first in range(0, sizes[0], SEED_CHUNK):
            records = np.zeros(min(SEED_CHUNK, sizes[0] - first), shape.record)
            rows = np.empty((len(records), row_bytes), np.uint8)
            reader.read_into("seed", rows.reshape(-1), first * row_bytes)
            records.view(np.uint8).reshape(len(records), -1)[:, offset:] = rows
            if not row_is_sound(records).all():
                raise FileFormatError(f"{bundle} is not valid: a seed transition is not finite; export it again")
            largest = max(largest, float(np.abs(records["reward"]).max()))
            for row in rows:
                self.transitions.append_row(row)
        self.transitions.break_off()
        return largest
