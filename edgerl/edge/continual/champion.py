"""The champion: a copy of the actor that drives while the learning policy is still on trial."""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from threading import Lock
from typing import Any

import numpy as np

from edgerl.edge.acting.policy import LAYOUTS, Layout
from edgerl.edge.engine.arena import LayerArrays, LearnerArena
from edgerl.edge.engine.library import GAUSSIAN_HEAD, LayerConfig, Library, PolicyConfig, new_arena
from edgerl.policy.compact import Array, action_scaling


class Champion:
    """observation [n] → action [m] in the robot's own units, by the actor as it was at the last `copy_actor`. With
    standard normal numbers [m] as noise, one drawn from the distribution of a stochastic actor.

    There are two copies, so that one can be made while the other drives; `n_bytes` is of both. Threads may share it.
    """

    def __init__(
        self,
        loaded: Library,
        learner: LearnerArena,
        bounds: tuple[Array, Array],
        normalisation: tuple[Array | None, Array | None],
    ) -> None:
        """bounds: (low, high), normalisation: (mean, scale) or None; float32. Raises ConfigError."""
        self._loaded = loaded
        self._learner = learner
        centre, half_range = action_scaling(*bounds)
        self._kept = tuple(None if part is None else part.copy() for part in (*normalisation, centre, half_range))
        n_bytes, full = ctypes.c_size_t(), [(_ones(layer), layer.bias) for layer in learner.layers[0]]
        loaded.call("the champion", "edgerl_policy_bytes", self._make_config(full), n_bytes)  # 0 would take no room
        self._arenas = [new_arena(n_bytes.value) for _ in range(2)]
        self.n_bytes = sum(len(arena) for arena in self._arenas)
        self._act, self._sample = loaded.quick("edgerl_policy_act"), loaded.quick("edgerl_policy_sample")
        self._observation = np.zeros(learner.config.n_observations, np.float32)
        self._noise, self._action = (np.zeros(learner.config.n_actions, np.float32) for _ in range(2))
        buffers = self._observation, self._noise, self._action
        self._addresses = tuple(ctypes.c_void_p(array.ctypes.data) for array in buffers)
        self._acting = Lock()  # held for one action; buffers for each thread would be memory that grows
        self._driving = 0
        self.copy_actor()

    def copy_actor(self) -> None:
        """Copy the learner's actor as it is now, between two updates."""
        spare, acting = self._arenas[1 - self._driving], [layer.folded() for layer in self._learner.layers[0]]
        config = self._make_config(acting)
        self._loaded.call("the champion", "edgerl_policy_init", config, spare.ctypes.data, len(spare))
        with self._acting:
            self._driving = 1 - self._driving

    def __call__(self, observation: Array, noise: Array | None = None) -> Array:
        """The action [m] for a finite observation [n]."""
        seen, drawn, action = self._addresses
        with self._acting:
            self._observation[...] = observation
            arena = self._arenas[self._driving].ctypes.data
            if noise is None:
                status = self._act(arena, seen, action)
            else:
                self._noise[...] = noise
                status = self._sample(arena, seen, drawn, action)
            self._loaded.check("the champion", status)
            return self._action.copy()

    def _make_config(self, acting: Sequence[tuple[Array, Array]]) -> PolicyConfig:
        """Pointers into the learner's arena, whose layers are laid out as those of a policy file, and to (weights,
        biases) like its own, which must outlive them."""
        layers = self._learner.layers[0]

        def pointer(array: Array | None, kind: Any = ctypes.c_float) -> Any:
            return None if array is None else array.ctypes.data_as(ctypes.POINTER(kind))

        described = (LayerConfig * len(layers))()
        for index, layer in enumerate(layers):
            described[index] = LayerConfig(
                n_inputs=layer.n_inputs,
                n_outputs=layer.n_outputs,
                block=layer.block,
                n_blocks=len(layer.columns),
                layout=LAYOUTS.index(champion_layout(layer.block, is_dense=layer.is_dense)),
                values=pointer(acting[index][0]),
                columns=pointer(layer.columns, ctypes.c_uint16),
                row_starts=pointer(layer.starts, ctypes.c_uint32),
                bias=pointer(acting[index][1]),
                activation=self._learner.config.activation,
            )
        mean, scale, centre, half_range = self._kept
        return PolicyConfig(
            n_layers=len(layers),
            isa=self._learner.config.isa,
            head=GAUSSIAN_HEAD if self._learner.config.is_stochastic else 0,
            layers=described,
            mean=pointer(mean),
            scale=pointer(scale),
            centre=pointer(centre),
            half_range=pointer(half_range),
        )


def _ones(layer: LayerArrays) -> Array:
    """Weights of 1 at every connection; 0 where a block reaches beyond the outputs."""
    outputs = layer.block * layer.block_rows()[:, None] + np.arange(layer.block)
    ones: Array = (outputs < layer.n_outputs).astype(layer.weight.dtype)
    return ones


def champion_layout(block: int, *, is_dense: bool) -> Layout:
    """A layer's layout in a champion: its size follows from the number of connections, which never changes."""
    if is_dense:
        return "dense"
    return "block" if block == 4 else "sparse"
