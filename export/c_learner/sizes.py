"""What a learner in C takes on a device."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Budget:
    """What a learner may take on a device, in bytes."""

    device: str
    ram: int
    flash: int


@dataclass(frozen=True)
class Sizes:
    """Bytes of a learner on the device; those of RAM are exact, and so is the state."""

    arena: int  # networks, targets, moments, topologies, an update's scratch
    replay: int
    own: int  # counters, and what aligns the whole
    capacity: int  # transitions
    row: int  # of one
    state: int  # in flash: the initial networks, and the constants around them
    code: int  # in flash: about
    save: int  # of a save with all transitions

    @property
    def ram(self) -> int:
        """All of it, static."""
        return self.arena + self.replay + self.own

    @property
    def flash(self) -> int:
        """State and code."""
        return self.state + self.code
