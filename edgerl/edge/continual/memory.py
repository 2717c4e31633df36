"""The memory of a learner, all of it taken at the start: how much it is, where it goes, and what the process has."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from edgerl.edge.continual.bundle import MAXIMUM_MEMORY, ReplayPlan
from edgerl.edge.continual.transitions import MAXIMUM_CAPACITY
from edgerl.edge.engine.library import LearnerConfig
from edgerl.errors import ConfigError, quoted

DEFAULT_MEMORY = 32 << 20
"""Bytes of a learner: arena, champion and replay."""


@dataclass(frozen=True)
class MemoryPlan:
    """Bytes of a learner, all taken at its start."""

    arena: int  # networks, targets, moments, topologies, activations of an update
    champion: int  # two copies of the actor
    replay: int  # capacity × record
    capacity: int  # transitions
    record: int  # bytes of one

    @property
    def total(self) -> int:
        """Of all."""
        return self.arena + self.champion + self.replay

    def as_dict(self) -> dict[str, int]:
        """As plain data, with the total."""
        return {**vars(self), "total": self.total}


def plan_memory(
    config: LearnerConfig, arena_bytes: int, champion_bytes: int, record_bytes: int, plan: ReplayPlan
) -> MemoryPlan:
    """Where the bytes of a learner go, which need not exist here: the capacity that `plan` has, or that its memory
    leaves. Raises ConfigError where too little is left."""
    taken = arena_bytes + champion_bytes
    memory = memory_of(plan)
    least = max(config.batch, config.n_step + 1)
    capacity = plan.capacity or min(max(memory - taken, 0) // record_bytes, MAXIMUM_CAPACITY)
    if capacity < least:
        raise ConfigError(
            f"the memory is {memory} bytes, of which the networks take {taken}; expected at least "
            f"{taken + least * record_bytes}, for {least} transitions of {record_bytes} bytes"
        )
    if capacity * record_bytes > memory:
        raise ConfigError(f"the memory is {memory} bytes, too few for {capacity} transitions of {record_bytes} bytes")
    return MemoryPlan(arena_bytes, champion_bytes, capacity * record_bytes, capacity, record_bytes)


def memory_of(plan: ReplayPlan) -> int:
    """Bytes that a learner may take: what the plan says; where it has a capacity instead, all that this machine has."""
    if plan.memory_bytes is not None:
        return plan.memory_bytes
    return DEFAULT_MEMORY if plan.capacity is None else os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


def check_memory(memory: object) -> None:
    """Raise ConfigError unless it is a number of bytes that a learner can be given."""
    if type(memory) is not int or not 1 <= memory <= MAXIMUM_MEMORY:
        raise ConfigError(f"the memory is {quoted(memory)}; expected bytes, an integer in [1, {MAXIMUM_MEMORY}]")


def resident_memory() -> tuple[int | None, int | None]:
    """(bytes of this process in memory now, the most there ever were); None where the system has no /proc."""
    try:
        lines = Path("/proc/self/status").read_text().splitlines()
    except OSError:
        return None, None
    fields = dict(line.split(":", 1) for line in lines)
    return _kibibytes(fields.get("VmRSS")), _kibibytes(fields.get("VmHWM"))


def _kibibytes(text: str | None) -> int | None:
    return None if text is None else int(text.split()[0]) * 1024
