"""States of a learner as released versions wrote them, read as those of this version.

A state is the beginning of an arena: a header, with the configuration and the counters, and the arrays of the networks.
Version 2, of edgerl 0.1.0, has one number of layers and one learning rate for all networks, and no choice of optimiser,
norm or drop criterion; its arrays are today's.
"""

from __future__ import annotations

import ctypes
from ctypes import c_double, c_int32, c_uint32, c_uint64

import numpy as np

from edgerl.edge.engine.arena import LARGEST_HEADER, Array, ReadState
from edgerl.edge.engine.library import (
    MAXIMUM_LAYERS,
    BytesOf,
    LayerPlanStructure,
    LearnerConfig,
    NetworkPlan,
    Progress,
    library,
)

VERSION = 3
"""Of the states that the engine writes and reads."""


class _Config2(ctypes.Structure):
    """edgerl_learner_config of version 2."""

    _fields_ = (
        *((name, c_uint64) for name in ("seed", "evolution_interval", "last_update", "n_step_delay")),
        *((name, c_uint32) for name in ("n_observations", "n_actions", "n_layers", "batch", "policy_delay", "n_step")),
        ("lanes", c_uint32),
        *((name, c_int32) for name in ("isa", "growth", "drop_schedule")),
        *((name, c_double) for name in ("discount", "soft_update", "learning_rate", "weight_decay")),
        *((name, c_double) for name in ("target_noise", "target_noise_clip", "drop_fraction")),
        ("actor", LayerPlanStructure * MAXIMUM_LAYERS),
        ("critic", LayerPlanStructure * MAXIMUM_LAYERS),
    )


class _Progress2(ctypes.Structure):
    """edgerl_learner_progress of version 2: what it has is today's beginning."""

    _fields_ = Progress._fields_[:9]


def _header(config: type[ctypes.Structure], progress: type[ctypes.Structure]) -> type[ctypes.Structure]:
    """What a header begins with, up to where its update stands."""
    names = ("magic", "version", "sizeof_real", "is_abandoned")
    fields = (*((name, c_uint32) for name in names), ("config", config), ("bytes", BytesOf), ("progress", progress))
    return type("Header", (ctypes.Structure,), {"_fields_": (*fields, ("step_item_row", c_uint32 * 3))})


_Header2, _Header = _header(_Config2, _Progress2), _header(LearnerConfig, Progress)

_NETWORKS_OF_2 = 7488
"""Where the arrays of the networks begin in version 2."""


def current(n_bytes: int, read: ReadState) -> tuple[int, ReadState]:
    """(bytes, reader) of a state, whatever released version wrote it. Nothing in it is trusted; what is none is left to
    the engine to refuse. Raises ConfigError, ValueError."""
    if n_bytes < _NETWORKS_OF_2:
        return n_bytes, read
    beginning = np.zeros(ctypes.sizeof(_Header2), np.uint8)
    read(beginning, 0)
    old = _Header2.from_buffer(beginning.data)
    return (n_bytes, read) if old.version != 2 else _from_version_2(old, n_bytes - _NETWORKS_OF_2, read)


def _from_version_2(old: ctypes.Structure, networks: int, read: ReadState) -> tuple[int, ReadState]:
    config = _config_of(old.config)
    needed = BytesOf()
    library().call("the learner's state", "edgerl_learner_bytes", config, needed)
    progress = Progress(**{name: getattr(old.progress, name) for name, *_ in _Progress2._fields_})
    header = _Header(old.magic, VERSION, old.sizeof_real, old.is_abandoned, config, needed, progress, old.step_item_row)
    first = int(needed.state) - networks
    if not ctypes.sizeof(header) <= first <= LARGEST_HEADER:
        raise ValueError(f"its networks have {networks} bytes, which is not what its configuration needs")
    start = np.zeros(first, np.uint8)
    start[: ctypes.sizeof(header)] = np.frombuffer(bytes(header), np.uint8)

    def read_current(memory: Array, offset: int) -> None:
        own = start[offset : offset + len(memory)]
        memory[: len(own)] = own
        if len(memory) > len(own):
            read(memory[len(own) :], _NETWORKS_OF_2 + offset + len(own) - first)

    return int(needed.state), read_current


def _config_of(old: ctypes.Structure) -> LearnerConfig:
    same = {name for name, *_ in LearnerConfig._fields_} & {name for name, *_ in _Config2._fields_} - {
        "actor",
        "critic",
    }
    config = LearnerConfig(first_moment_decay=0.9, **{name: getattr(old, name) for name in same})
    for name in ("actor", "critic"):
        plan = NetworkPlan(learning_rate=old.learning_rate, n_layers=old.n_layers, evolves=1, layers=getattr(old, name))
        setattr(config, name, plan)
    return config
