"""Policy: one observation to one action on the native engine, straight from a policy.safetensors.

The engine skips inputs that are zero, which ReLU makes of about half of all units. How it keeps a layer's weights is
chosen per layer (LAYOUTS), by default by measuring each way once, on this machine, with the activations of this policy.
Layouts and instruction sets add up in another order: actions differ by some 1e-6 of their range between them. Name a
layout and an instruction set where the same bits must come out in each run.
"""

from __future__ import annotations

import ctypes
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from statistics import median
from threading import get_ident, local
from typing import Any, Literal, get_args

import numpy as np
import numpy.typing as npt

from edgerl.edge.acting.terms import TermPolicy
from edgerl.edge.engine.library import ISAS, Arena, Isa, LayerConfig, Library, PolicyConfig, library, new_arena
from edgerl.errors import ConfigError, quoted
from edgerl.policy import format as file
from edgerl.policy.activation import ACTIVATIONS
from edgerl.policy.cell import CELLS
from edgerl.policy.compact import Array, CompactPolicy, Head, Layer, as_floats, shifted

Layout = Literal["dense", "sparse", "block"]
LAYOUTS: tuple[Layout, ...] = get_args(Layout)
"""In the order of their numbers in C: all weights by columns; the connections of each input; blocks of four outputs."""

LayoutChoice = Literal["auto"] | Layout | Sequence[Layout]
"""Measured, one for all layers, or one for each."""

ACTIVATION_NAMES = (*ACTIVATIONS, *CELLS)
HEADS: tuple[Head, ...] = get_args(Head)
"""Like the activations in the order of their numbers in C."""

DENSE_IS_SLOWER_BELOW = 1 / 64
"""A density; no dense copy is made to measure what is sparser, however small a file it came from."""

MEASURED_OBSERVATIONS = 32
"""More than a processor's branch prediction can memorise: a loop over an input's few connections is costly where its
end is mispredicted."""

REPEATS = 7
REPEAT_NS = 5_000_000
"""How long one measurement of one layer may take: where all observations take longer, fewer are run, at least one."""


class Policy:
    """observation [n] → action [m], in the environment's own units.

    Where the policy has an offset, observations must be float64: `observation_dtype` says so. One number of an
    observation that is not finite makes every action NaN. Threads may share a policy: each computes in a copy of its
    own, made at its first call. A recurrent policy has a state there, which each call moves on and `reset` puts back to
    zero: call that when an episode begins. An observation that is not finite leaves the state as it was.

    Attributes: `n_observations`, `n_actions`; `action_low` and `action_high`, float32 [m], which no action exceeds, or
    None where one of them is infinite; `metadata`, what the file says about itself, under `about` as in an export;
    `contract`, what it says of a robot; `observation_dtype`, float32 or float64; `layouts`, one per layer; `isa`, the
    instruction set; `n_bytes`, all the memory that the engine uses for it, in each thread that calls.
    """

    def __init__(
        self,
        policy: CompactPolicy,
        layout: LayoutChoice = "auto",
        isa: Isa | None = None,
    ) -> None:
        """`layout`: of each layer, or one for all; `isa`: else what EDGERL_ISA names, else the processor's best.

        Raises ConfigError for a layout or an instruction set that is unknown or unusable, or a policy that the engine
        refuses, and MissingExtraError where the engine was not built.
        """
        self.n_observations, self.n_actions = policy.n_observations, policy.n_actions
        self.action_low: Array | None = policy.action_low if policy.is_bounded else None
        self.action_high: Array | None = policy.action_high if policy.is_bounded else None
        self.metadata: dict[str, Any] = {"about": dict(policy.metadata)}
        self.contract = policy.contract
        self.observation_dtype, self._offset = policy.observation_dtype, policy.observation_offset
        loaded = library()
        level = loaded.isa(isa)
        self.isa: Isa = ISAS[level]
        self.layouts = _layouts(loaded, policy, layout, level)
        arena = _build(loaded, policy, self.layouts, level)
        self.n_bytes = len(arena)
        self._shape = (self.n_observations,)
        self._act, self._forget = (loaded.quick(f"edgerl_policy_{what}") for what in ("act_in_place", "reset"))
        self._own = _Workspace(loaded, arena, get_ident(), self.n_observations, self.n_actions)

    @classmethod
    def load(cls, path: str | Path, layout: LayoutChoice = "auto", isa: Isa | None = None) -> Policy:
        """The policy in a policy.safetensors or a run folder. Raises FileFormatError, and what `Policy` raises."""
        return cls(file.load(path), layout, isa)

    def __call__(self, observation: npt.ArrayLike) -> Array:
        """The action [m] for `observation` [n]; raises ValueError for another length, or where digits are lost."""
        if getattr(observation, "shape", None) != self._shape and np.shape(observation) != self._shape:
            raise ValueError(f"the observation has shape {np.shape(observation)}; expected {self._shape}")
        window, action, arena = self._own.parts
        window[...] = observation if self._offset is None else shifted(observation, self._offset)
        self._act(arena)  # an arena that was built once is never refused
        return action.copy()

    def of_terms(self) -> TermPolicy:
        """The policy for single steps as they were measured, which it clips, scales and stacks as its contract says.

        Raises UnsupportedModelError where the contract does not say how large the terms are.
        """
        return TermPolicy(self)

    def reset(self) -> None:
        """An episode begins in this thread: a recurrent policy forgets what it saw."""
        self._forget(self._own.parts[2])

    @property
    def restorable_state(self) -> Array:
        """What this thread's calls left of earlier observations, to be put back: a copy, empty unless recurrent."""
        return self._own.state.copy()

    @restorable_state.setter
    def restorable_state(self, kept: Array) -> None:
        self._own.state[...] = kept


class _Workspace(local):
    """What a call computes in, one for each thread: Python calls `__init__` again at a thread's first use.

    `parts`: the windows for an observation [n] and an action [m], and the address of the arena that holds them. A lock
    instead would cost a tenth of a call. `state`: the window for that of a recurrent policy.
    """

    parts: tuple[Array, Array, ctypes.c_void_p]
    state: Array

    def __init__(self, loaded: Library, built: Arena, builder: int, n_observations: int, n_actions: int) -> None:
        """`builder` is the thread that computes in `built` itself; all others copy it."""
        arena = built
        if get_ident() != builder:
            arena = new_arena(len(built))
            arena[:] = built
            loaded.call("the policy", "edgerl_policy_reset", arena.ctypes.data)
        observation, action, state, n_state = (ctypes.c_size_t() for _ in range(4))
        loaded.call("the policy", "edgerl_policy_windows", arena.ctypes.data, observation, action)
        loaded.call("the policy", "edgerl_policy_state_window", arena.ctypes.data, state, n_state)
        self.state = arena[state.value :][: 4 * n_state.value].view(np.float32)
        self.parts = (
            arena[observation.value :][: 4 * n_observations].view(np.float32),
            arena[action.value :][: 4 * n_actions].view(np.float32),
            ctypes.c_void_p(arena.ctypes.data),
        )


def _layouts(loaded: Library, policy: CompactPolicy, layout: LayoutChoice, isa: int) -> tuple[Layout, ...]:
    """The layout of each layer. Raises ConfigError."""
    if layout == "auto":
        return _measured_layouts(loaded, policy, isa)
    names: list[Any] = [layout] * len(policy.layers) if isinstance(layout, str) else list(layout)
    for name in names:
        if name not in LAYOUTS:
            raise ConfigError(
                f"the layout is {quoted(name)}; expected auto, {', '.join(LAYOUTS)}, or one for each layer"
            )
    if len(names) != len(policy.layers):
        raise ConfigError(f"there are {len(names)} layouts for {len(policy.layers)} layers; expected one for each")
    return tuple(names)


def _measured_layouts(loaded: Library, policy: CompactPolicy, isa: int) -> tuple[Layout, ...]:
    """The fastest layout of each layer, measured on activations of this policy: a millisecond for a small layer."""
    activations = _typical_observations(policy)
    chosen: list[Layout] = []
    for layer in policy.layers:
        is_too_sparse = layer.connections < DENSE_IS_SLOWER_BELOW * layer.n_inputs * layer.n_outputs
        runs = {
            layout: _layer_run(loaded, layer, layout, isa)
            for layout in LAYOUTS
            if not (layout == "dense" and is_too_sparse)
        }
        if layer.cell is not None:
            state = np.random.default_rng(0).uniform(-1, 1, (len(activations), layer.n_state)).astype(np.float32)
            activations = np.concatenate([activations, state[:, : layer.units]], axis=1)
        chosen.append(_fastest(runs, activations))
        sums = runs[chosen[-1]](activations)
        activations = layer.hidden(sums) if layer.cell is None else layer.cell.forward(sums, state)[:, : layer.units]
    return tuple(chosen)


def _typical_observations(policy: CompactPolicy) -> Array:
    """[count, n], normalised: the example, where there is one, and standard normal ones."""
    shape = MEASURED_OBSERVATIONS, policy.n_observations
    drawn: Array = np.random.default_rng(0).standard_normal(shape, np.float32)
    example = policy.without_offset.example_observation
    if example.shape == shape[1:]:
        drawn[0] = example
        drawn[0] = policy.normalised(example)
    return drawn


LayerRun = Callable[[Array], Array]
"""inputs [count, n] → outputs [count, m] of one layer."""


def _layer_run(loaded: Library, layer: Layer, layout: Layout, isa: int) -> LayerRun:
    """A function that runs a single layer."""
    bound = np.ones(layer.n_outputs, np.float32)
    affine = replace(layer, norm=None, activation="identity")
    arena = _build(loaded, CompactPolicy((affine,), -bound, bound), (layout,), isa)
    function = loaded.quick("edgerl_policy_run_layer")

    def run(inputs: Array) -> Array:
        outputs = np.empty((len(inputs), layer.n_outputs), np.float32)
        pointers = inputs.ctypes.data, outputs.ctypes.data
        loaded.check("the layer", function(arena.ctypes.data, 0, *pointers, len(inputs)))
        return outputs

    return run


def _fastest(runs: Mapping[Layout, LayerRun], activations: Array) -> Layout:
    """The layout whose median time is the smallest; interleaved, so that a slow moment of the machine hits all."""
    _ = [run(activations[:1]) for run in runs.values()]  # into the caches
    slowest = max(_nanoseconds(run, activations[:1]) for run in runs.values())
    inputs = activations[: max(1, REPEAT_NS // slowest)]
    repeats = [{layout: _nanoseconds(run, inputs) for layout, run in runs.items()} for _ in range(REPEATS)]
    return min(runs, key=lambda layout: median(times[layout] for times in repeats))


def _nanoseconds(run: LayerRun, inputs: Array) -> int:
    start = time.perf_counter_ns()
    run(inputs)
    return max(1, time.perf_counter_ns() - start)


def _build(loaded: Library, policy: CompactPolicy, layouts: Sequence[Layout], isa: int) -> Arena:
    """The arena that holds the policy. Raises ConfigError."""
    config, kept = _policy_config(policy, layouts, isa)
    n_bytes = ctypes.c_size_t()
    loaded.call("the policy", "edgerl_policy_bytes", config, n_bytes)
    arena = new_arena(n_bytes.value)
    loaded.call("the policy", "edgerl_policy_init", config, arena.ctypes.data, len(arena))
    del kept  # until here the configuration points into these arrays
    return arena


def _policy_config(policy: CompactPolicy, layouts: Sequence[Layout], isa: int) -> tuple[PolicyConfig, list[Array]]:
    """The C structure, and the arrays that it points to."""
    kept: list[Array] = []

    def pointer(name: str, array: Array | None, shape: tuple[int, ...], kind: Any = ctypes.c_float) -> Any:
        """A pointer to a float32 (or another) copy of `array`, which must have `shape`: C cannot see it."""
        if array is None:
            return None
        if array.shape != shape:
            raise ConfigError(f"{name} of the policy has shape {array.shape}; expected {shape}")
        kept.append(np.ascontiguousarray(array, np.dtype(kind)))
        return kept[-1].ctypes.data_as(ctypes.POINTER(kind))

    layers = (LayerConfig * len(policy.layers))()
    for index, (stored_layer, layout) in enumerate(zip(policy.layers, layouts, strict=True)):
        layer = as_floats(stored_layer)
        name, n_blocks = f"layer {index}: ", 0 if layer.columns is None else len(layer.columns)
        stored = (n_blocks, layer.block) if layer.is_sparse else (layer.n_outputs, layer.n_inputs)
        layers[index] = LayerConfig(
            n_inputs=layer.n_inputs,
            n_outputs=layer.n_outputs,
            block=layer.block if layer.is_sparse else 1,
            n_blocks=n_blocks,
            layout=LAYOUTS.index(layout),
            values=pointer(name + "values", layer.values, stored),
            columns=pointer(name + "columns", layer.columns, (n_blocks,), ctypes.c_uint16),
            row_starts=pointer(
                name + "row_starts", layer.row_starts, (-(-layer.n_outputs // layer.block) + 1,), ctypes.c_uint32
            ),
            bias=pointer(name + "bias", layer.bias, (layer.n_outputs,)),
            activation=ACTIVATION_NAMES.index(layer.activation),
        )
        if layer.norm is not None:
            layers[index].norm_scale = pointer(name + "norm_scale", layer.norm.scale, (layer.n_outputs,))
            layers[index].norm_shift = pointer(name + "norm_shift", layer.norm.shift, (layer.n_outputs,))
            layers[index].norm_epsilon = layer.norm.epsilon
    n, m = (policy.n_observations,), (policy.n_actions,)
    is_tanh = policy.head == "tanh"
    centre, half_range = policy.action_scaling if is_tanh else (None, None)
    low, high = (None, None) if is_tanh else (policy.action_low, policy.action_high)
    return PolicyConfig(
        n_layers=len(layers),
        isa=isa,
        layers=layers,
        mean=pointer("observation_mean", policy.observation_mean, n),
        scale=pointer("observation_scale", policy.observation_scale, n),
        centre=pointer("action_low", centre, m),
        half_range=pointer("action_high", half_range, m),
        low=pointer("action_low", finite(low), m),
        high=pointer("action_high", finite(high), m),
        head=HEADS.index(policy.head),
        clip=policy.observation_clip or 0,
    ), kept


def finite(bound: Array | None) -> Array | None:
    """The bound [m] with the largest numbers of float32 in place of infinite ones."""
    return None if bound is None else np.nan_to_num(bound)
