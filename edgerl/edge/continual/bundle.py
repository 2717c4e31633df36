"""What a learner consists of besides its networks, and how files hold it: the bundle that `edgerl export --format
learner` writes on the workstation, and the snapshots that a device writes (docs/format.md)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from functools import cached_property
from itertools import pairwise
from typing import Any

import numpy as np
import numpy.typing as npt

from edgerl.edge.continual.transitions import (
    KEEP_POLICIES,
    MAXIMUM_CAPACITY,
    PRECISIONS,
    KeepPolicy,
    Precision,
    RecordFormat,
)
from edgerl.edge.engine.arena import LearnerArena
from edgerl.errors import quoted
from edgerl.files.tensors import TensorReader, Tensors
from edgerl.policy.activation import ACTIVATIONS
from edgerl.policy.compact import Array, CompactPolicy, action_scaling, make_layer, shifted, with_activation
from edgerl.policy.format import LARGEST_OFFSET, is_offset

KIND = "learner"
VERSION = 1
VERSION_WITH_OFFSET = 2
"""Of bundles and snapshots with an observation offset, which programs that know none must refuse."""
VERSIONS = (VERSION, VERSION_WITH_OFFSET)
_OFFSET = "observation.offset"

MAXIMUM_MEMORY = 1 << 40
"""Bytes."""


@dataclass(frozen=True)
class Constants:
    """What a robot's numbers mean to a learner; fixed for its life. float32 but for the offset; None where there is
    none."""

    action_low: Array  # [m], the robot's own units
    action_high: Array
    observation_mean: Array | None = None  # [n]: the networks see (x − mean) · scale
    observation_scale: Array | None = None
    storage_mean: Array | None = None  # [n]: fp16 records hold (x − mean) · scale
    storage_scale: Array | None = None
    observation_offset: Array | None = None  # float64 [n], whole: subtracted before all else

    def tensors(self) -> Tensors:
        """As a file holds them, by name."""
        present = ((name, getattr(self, name)) for name in _NAMES)
        return {name.replace("_", "."): array for name, array in present if array is not None}

    def equals(self, other: Constants) -> bool:
        """Whether all numbers are the same."""
        own, others = self.tensors(), other.tensors()
        return own.keys() == others.keys() and all(np.array_equal(own[name], others[name]) for name in own)

    def record_format(self, n_observations: int, precision: Precision) -> RecordFormat:
        """How a transition is stored."""
        constants = (self.storage_mean, self.storage_scale) if precision == "fp16" else (None, None)
        return RecordFormat(n_observations, len(self.action_low), precision, *constants)

    @cached_property
    def scaling(self) -> tuple[Array, Array]:
        """(centre, half of the range) of the actions, [m]."""
        return action_scaling(self.action_low, self.action_high)

    def seen(self, observation: npt.ArrayLike) -> Array:
        """What replay and networks know of an observation: float32, less the offset. Raises ValueError where an
        offset's digits are lost."""
        return np.asarray(shifted(observation, self.observation_offset), np.float32)

    def normalised(self, observation: Array) -> Array:
        """What the networks get of an observation that was `seen`."""
        if self.observation_mean is None or self.observation_scale is None:
            return observation
        normalised: Array = (observation - self.observation_mean) * self.observation_scale
        return normalised


_NAMES = tuple(field.name for field in fields(Constants))


def version_of(tensors: Mapping[str, Any]) -> int:
    """Of the format that a bundle or a snapshot with these tensors needs."""
    return VERSION_WITH_OFFSET if _OFFSET in tensors else VERSION


def read_constants(reader: TensorReader, n_observations: int, n_actions: int) -> Constants:
    """The constants in a file, which is not trusted. Raises ValueError."""
    lengths = {"action": n_actions, "observation": n_observations, "storage": n_observations}
    found = {
        name: _read_vector(reader, name.replace("_", "."), lengths[name.partition("_")[0]])
        for name in _NAMES
        if name.startswith("action") or name.replace("_", ".") in reader.shapes
    }
    if reader.metadata["version"] != version_of(reader.shapes):
        raise ValueError(f"{_OFFSET} belongs to version {VERSION_WITH_OFFSET}, and only to that")
    constants = Constants(**found)
    if constants.observation_offset is not None and not is_offset(constants.observation_offset):
        raise ValueError(f"{_OFFSET} holds a number that is not whole or beyond ±{LARGEST_OFFSET:g}")
    low, high = constants.action_low, constants.action_high
    if not (low < high).all() or not (action_scaling(low, high)[1] > 0).all():  # other bounds are refused before
        raise ValueError("an action bound's low is not below its high")
    for first, second in pairwise(_NAMES[2:]):
        if first.partition("_")[0] == second.partition("_")[0] and (first in found) != (second in found):
            raise ValueError(f"{first} and {second} are not both there")
    for scale in (constants.observation_scale, constants.storage_scale):
        if scale is not None and not ((scale > 1e-30) & (scale < 1e30)).all():
            raise ValueError("a scale is not between 1e-30 and 1e30")
    return constants


def _read_vector(reader: TensorReader, name: str, length: int) -> Array:
    dtype, shape = reader.shapes.get(name, (None, None))
    expected = np.dtype(np.float64 if name == _OFFSET else np.float32)
    if dtype != expected or shape != (length,):
        raise ValueError(f"{name} is {dtype}{list(shape or ())}, expected {expected}[{length}]")
    array: Array = reader.read(name)
    if not np.isfinite(array).all():
        raise ValueError(f"{name} holds a value that is not finite")
    return array


@dataclass(frozen=True)
class ReplayPlan:
    """How transitions are kept."""

    precision: Precision
    keep: KeepPolicy
    memory_bytes: int | None = None  # of the whole learner, where `capacity` is to follow from it
    capacity: int | None = None  # transitions; of a learner that has started

    def as_json(self) -> dict[str, Any]:
        """As metadata of a file."""
        return {name: value for name, value in vars(self).items() if value is not None}


def read_replay_plan(metadata: object) -> ReplayPlan:
    """The plan in a file's metadata, which is not trusted. Raises ValueError."""
    if not isinstance(metadata, dict) or not set(metadata) <= {field.name for field in fields(ReplayPlan)}:
        raise ValueError("its replay is not described by precision, keep, memory_bytes and capacity")
    for name, known in (("precision", PRECISIONS), ("keep", KEEP_POLICIES)):
        if metadata.get(name) not in known:
            raise ValueError(f"the replay's {name} is {quoted(metadata.get(name))}, expected {', '.join(known)}")
    for name, largest in (("memory_bytes", MAXIMUM_MEMORY), ("capacity", MAXIMUM_CAPACITY)):
        value = metadata.get(name)
        if value is not None and (type(value) is not int or not 1 <= value <= largest):
            raise ValueError(f"the replay's {name} is {quoted(value)}, expected 1 to {largest}")
    return ReplayPlan(**metadata)


def actor_policy(arena: LearnerArena, constants: Constants, about: dict[str, Any]) -> CompactPolicy:
    """The actor in a learner's arena as a policy; no unit removed but the deviations of a stochastic one."""
    layers = arena.layers[0]
    block = max((layer.block for layer in layers if not layer.is_dense), default=1)
    outputs = [layer.n_outputs for layer in layers[:-1]] + [len(constants.action_low)]
    affine = (
        make_layer(weight[:count], bias[:count], block)
        for (weight, bias), count in zip((layer.affine() for layer in layers), outputs, strict=True)
    )
    return CompactPolicy(
        layers=with_activation(affine, list(ACTIVATIONS.values())[arena.config.activation].name),
        action_low=constants.action_low,
        action_high=constants.action_high,
        observation_mean=constants.observation_mean,
        observation_scale=constants.observation_scale,
        metadata=about,
        observation_offset=constants.observation_offset,
    )
