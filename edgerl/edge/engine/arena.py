"""A learner of the native engine, seen from Python: its configuration, its arrays as views, its updates.

Nothing is copied but observations and actions: the arrays are views of the arena that the engine works in. What they
mean is documented in `edgerl/edge/engine/edgerl.h`.
"""

from __future__ import annotations

from collections.abc import Callable
from ctypes import c_int32, c_void_p
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from edgerl.edge.engine.library import (
    BytesOf,
    LayerOffsets,
    LayerPlanStructure,
    LearnerConfig,
    Library,
    Progress,
    ReplayStructure,
    new_arena,
)
from edgerl.errors import ConfigError
from edgerl.policy.batch_norm import as_affine

Array = npt.NDArray[Any]

NETWORKS = ("actor", "critic_1", "critic_2")
"""In the order of their numbers in C."""

WHOLE_UPDATE = (1 << 64) - 1
"""Multiply-adds of a slice that is never cut."""

NORM_BATCH = 2
"""EDGERL_NORM_BATCH."""

LARGEST_HEADER = 1 << 14
"""Bytes at a state's beginning that hold its configuration, and more."""

ReadState = Callable[[Array, int], object]
"""Fills a uint8 array with the bytes of a state from an offset on."""


_OF_CONNECTIONS = ("weight", "first_moment", "second_moment", "target", "extra_target")
_OF_UNITS = ("bias", "bias_first_moment", "bias_second_moment", "bias_target")
_OF_NORMS = ("norm", "norm_first_moment", "norm_second_moment", "norm_target")


def rows_of(starts: Array) -> Array:
    """The row of each block, int64, where row r begins at starts[r]."""
    counts: Array = np.diff(starts.astype(np.int64))
    return np.repeat(np.arange(len(counts)), counts)


@dataclass(frozen=True)
class LayerArrays:
    """The arrays of one layer, views of the arena; N blocks in R rows of blocks.

    Layers that are dense have no `in_target` and no `extra_…`: their targets have every position too. Where a network
    has no target, nothing of one is there.
    """

    n_inputs: int
    n_outputs: int
    block: int
    starts: Array  # uint32 [R + 1]
    columns: Array  # uint16 [N]
    weight: Array  # [N, block], like the three below
    first_moment: Array
    second_moment: Array
    target: Array | None
    bias: Array  # [n_outputs, rounded up to blocks], like the three below
    bias_first_moment: Array
    bias_second_moment: Array
    bias_target: Array | None
    in_target: Array | None  # uint32 words, one bit per block
    extra_starts: Array | None  # uint32 [R + 1]: blocks that only the target has
    extra_columns: Array | None  # uint16 [N], of which the first extra_starts[R] are in use
    extra_target: Array | None  # [N, block], of those blocks
    norm: (
        Array | None
    )  # [2, n_outputs, rounded up to blocks], of a batch norm [2, n_inputs]: scales and shifts; or None
    norm_first_moment: Array | None
    norm_second_moment: Array | None
    norm_target: Array | None
    running: Array | None  # [2, n_inputs]: means and variances of a batch norm's inputs

    @property
    def is_dense(self) -> bool:
        """Whether it has every position."""
        return len(self.columns) == self.n_inputs * (len(self.starts) - 1)

    def block_rows(self) -> Array:
        """The row of each block, int64 [N]."""
        return rows_of(self.starts)

    def matrix(self) -> Array:
        """The weights, float32 [n_outputs, n_inputs]; a copy."""
        return self._matrix_of(self.weight)

    def folded(self) -> tuple[Array, Array]:
        """(weights [N, block], biases [R · block]) to act with: the layer's own, or copies into which its batch norm
        is folded."""
        if self.running is None or self.norm is None:
            return self.weight, self.bias
        slope, level = as_affine(*self.norm, *self.running)
        carried = np.zeros((len(self.starts) - 1, self.block))
        np.add.at(carried, self.block_rows(), self.weight * level[self.columns, None])
        weight, bias = self.weight * slope[self.columns, None], self.bias + carried.reshape(-1)
        return weight.astype(self.weight.dtype), bias.astype(self.bias.dtype)

    def affine(self) -> tuple[Array, Array]:
        """(weights [n_outputs, n_inputs], bias [n_outputs]) to act with, float32."""
        weight, bias = self.folded()
        return self._matrix_of(weight), bias[: self.n_outputs].astype(np.float32)

    def _matrix_of(self, weight: Array) -> Array:
        matrix = np.zeros((self.n_outputs, self.n_inputs), np.float32)
        rows = self.block_rows()
        for lane in range(self.block):
            outputs = rows * self.block + lane
            inside = outputs < self.n_outputs
            matrix[outputs[inside], self.columns[inside]] = weight[inside, lane]
        return matrix


class LearnerArena:
    """Actor, critics, targets, optimiser state and topologies in one block of memory.

    One thread may act while another one updates. Attributes: `config`; `memory`, all of its bytes; `bytes`, where they
    go; `layers`, per network the arrays of each layer.
    """

    def __init__(self, loaded: Library, config: LearnerConfig, dtype: npt.DTypeLike = np.float32) -> None:
        """Draw topologies and weights. Raises ConfigError where the engine refuses the configuration."""
        self._make_room(loaded, config, np.dtype(dtype))
        self._call("edgerl_learner_begin", config, self._address, len(self.memory))
        self._view()

    @classmethod
    def from_state(
        cls, loaded: Library, n_bytes: int, read: ReadState, adapt: Callable[[LearnerConfig], object]
    ) -> LearnerArena:
        """A learner from the `n_bytes` of its state, of which nothing is trusted, without a second copy of them.

        adapt: changes what may differ from the configuration that the state was written with, such as `lanes`.

        Raises ConfigError where the state is refused.
        """
        header = new_arena(min(n_bytes, LARGEST_HEADER))
        read(header, 0)
        config = LearnerConfig()
        address = c_void_p(header.ctypes.data)
        loaded.call("the learner's state", "edgerl_learner_config_in", address, len(header), config)
        adapt(config)
        arena = cls.__new__(cls)
        arena._make_room(loaded, config, np.dtype(np.float32))
        if arena.bytes.state != n_bytes:
            raise ConfigError(f"the learner's state has {n_bytes} bytes; its configuration needs {arena.bytes.state}")
        arena.load_state(read)
        arena._view()
        return arena

    def load_state(self, read: ReadState) -> None:
        """Load another state of the same networks; the configuration stays. Raises ConfigError where it is refused:
        after that the arena holds no learner."""
        read(self.memory[: self.bytes.state], 0)
        self._call("edgerl_learner_open", self._address, len(self.memory), self.config)

    @property
    def state(self) -> Array:
        """uint8: the bytes to save, a view; complete only between two updates."""
        return self.memory[: self.bytes.state]

    def _make_room(self, loaded: Library, config: LearnerConfig, dtype: np.dtype[Any]) -> None:
        self.config, self._library, self._dtype = config, loaded, dtype
        self.bytes = BytesOf()
        self._call("edgerl_learner_bytes", config, self.bytes)
        self.memory = new_arena(self.bytes.total)
        self._address = c_void_p(self.memory.ctypes.data)

    def _view(self) -> None:
        config = self.config
        self.layers = tuple(
            tuple(
                self._layer(network, index, plan, has_batch_norm=of.norm == NORM_BATCH)
                for index, plan in enumerate(of.plans)
            )
            for network, of in enumerate((config.actor, config.critic, config.critic))
        )
        self._act = self._library.quick("edgerl_learner_action")
        self._observation = np.zeros(config.n_observations, np.float32)
        self._action = np.zeros(config.n_actions, np.float32)
        self._addresses = c_void_p(self._observation.ctypes.data), c_void_p(self._action.ctypes.data)
        self._complete = c_int32()

    def _call(self, name: str, *arguments: Any) -> None:
        self._library.call("the learner", name, *arguments)

    def _layer(self, network: int, index: int, plan: LayerPlanStructure, *, has_batch_norm: bool) -> LayerArrays:
        offsets = LayerOffsets()
        self._call("edgerl_learner_layer_of", self._address, network, index, offsets)
        blocks, rows = plan.blocks, -(-plan.n_outputs // plan.block)

        def view(name: str, shape: tuple[int, ...], dtype: npt.DTypeLike) -> Array:
            kind, offset = np.dtype(dtype), getattr(offsets, name)
            n_bytes = int(np.prod(shape)) * kind.itemsize
            return self.memory[offset : offset + n_bytes].view(kind).reshape(shape)

        shapes: dict[str, tuple[tuple[int, ...], npt.DTypeLike]] = {
            "starts": ((rows + 1,), np.uint32),
            "columns": ((blocks,), np.uint16),
            "in_target": ((-(-blocks // 32),), np.uint32),
            "extra_starts": ((rows + 1,), np.uint32),
            "extra_columns": ((blocks,), np.uint16),
        }
        shapes |= dict.fromkeys(_OF_CONNECTIONS, ((blocks, plan.block), self._dtype))
        shapes |= dict.fromkeys(_OF_UNITS, ((rows * plan.block,), self._dtype))
        n_scales = plan.n_inputs if has_batch_norm else rows * plan.block
        shapes |= dict.fromkeys(_OF_NORMS, ((2, n_scales), self._dtype))
        shapes["running"] = ((2, plan.n_inputs), self._dtype)
        arrays: dict[str, Any] = {
            name: view(name, *shape) if getattr(offsets, name) else None for name, shape in shapes.items()
        }
        return LayerArrays(plan.n_inputs, plan.n_outputs, plan.block, **arrays)

    def act(self, observation: Array) -> Array:
        """The actor's action [m] in [−1, 1], float32, for an observation [n]. Raises ValueError for another shape."""
        if observation.shape != self._observation.shape:
            raise ValueError(f"the observation has shape {observation.shape}; expected {self._observation.shape}")
        self._observation[...] = observation
        if status := self._act(self._address, *self._addresses):
            self._library.check("the learner", status)
        return self._action.copy()

    def sample(self, observation: Array, noise: Array) -> Array:
        """An action [m] in [−1, 1], float32, drawn from the actor's distribution; noise [m]: standard normal."""
        self._observation[...] = observation
        normals = np.ascontiguousarray(noise, np.float32)
        where, action = self._addresses
        self._call("edgerl_learner_sample", self._address, where, c_void_p(normals.ctypes.data), action)
        return self._action.copy()

    def step(self, replay: ReplayStructure | None, work: int = WHOLE_UPDATE) -> bool:
        """About `work` multiply-adds of an update; whether it is complete. Only its first slice needs `replay`."""
        self._call("edgerl_learner_update", self._address, replay, work, self._complete)
        return bool(self._complete.value)

    @property
    def progress(self) -> Progress:
        """Counters and sums, a copy; assigning writes them back."""
        progress = Progress()
        self._call("edgerl_learner_progress_of", self._address, progress)
        return progress

    @progress.setter
    def progress(self, progress: Progress) -> None:
        self._call("edgerl_learner_set_progress", self._address, progress)

    def reopen(self) -> None:
        """Check everything that was written into the arrays, and use it. Raises ConfigError where it is refused."""
        self._call("edgerl_learner_open", self._address, len(self.memory), None)

    def reconfigure(self) -> None:
        """Apply what was changed in `config`. Raises ConfigError where it is refused, or is of other networks."""
        self._call("edgerl_learner_open", self._address, len(self.memory), self.config)
