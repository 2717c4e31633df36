"""The engine's shared library, loaded by ctypes: where it is found, its structures and functions, its instruction sets.

`edgerl/edge/engine/edgerl.h` documents what is declared here. The library needs no Python of its own: one file serves
every version.
"""

from __future__ import annotations

import ctypes
import os
from collections.abc import Callable
from ctypes import POINTER, c_double, c_float, c_int32, c_size_t, c_uint16, c_uint32, c_uint64, c_void_p
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
import numpy.typing as npt

from edgerl.errors import ConfigError, MissingExtraError, nearest, quoted

LIBRARY = Path(__file__).with_name("_engine.abi3.so")

ALIGNMENT = 64
"""Bytes; of an arena."""

Arena = npt.NDArray[np.uint8]
"""Memory of the engine, aligned; `new_arena` makes one."""

Isa = Literal["naive", "baseline", "avx2", "avx512"]
ISAS: tuple[Isa, ...] = get_args(Isa)
"""In the order of their numbers in C."""

ISA_VARIABLE = "EDGERL_ISA"

TD3, SAC, CROSSQ, IMITATION, CLIPPED_IMITATION = range(5)
"""Numbers of edgerl_algorithm."""

GAUSSIAN_HEAD = 2
"""EDGERL_HEAD_GAUSSIAN."""

MAXIMUM_LAYERS = 9
"""Affine layers of a learner's network."""


class LayerConfig(ctypes.Structure):
    """edgerl_layer."""

    _fields_ = (
        ("n_inputs", c_uint32),
        ("n_outputs", c_uint32),
        ("block", c_uint32),
        ("n_blocks", c_uint32),
        ("layout", c_int32),
        ("values", POINTER(c_float)),
        ("columns", POINTER(c_uint16)),
        ("row_starts", POINTER(c_uint32)),
        ("bias", POINTER(c_float)),
        ("norm_scale", POINTER(c_float)),
        ("norm_shift", POINTER(c_float)),
        ("norm_epsilon", c_float),
        ("activation", c_int32),
    )


class PolicyConfig(ctypes.Structure):
    """edgerl_policy_config."""

    _fields_ = (
        ("n_layers", c_uint32),
        ("isa", c_int32),
        ("layers", POINTER(LayerConfig)),
        ("mean", POINTER(c_float)),
        ("scale", POINTER(c_float)),
        ("centre", POINTER(c_float)),
        ("half_range", POINTER(c_float)),
        ("low", POINTER(c_float)),
        ("high", POINTER(c_float)),
        ("head", c_int32),
        ("clip", c_float),
    )


class LayerPlanStructure(ctypes.Structure):
    """edgerl_layer_plan."""

    _fields_ = tuple((name, c_uint32) for name in ("n_inputs", "n_outputs", "block", "full_blocks", "narrow_blocks"))

    @property
    def blocks(self) -> int:
        """Blocks that exist."""
        return int(self.full_blocks + self.narrow_blocks)

    @property
    def connections(self) -> int:
        """Weights that exist."""
        return int(self.full_blocks * self.block + self.narrow_blocks * (self.n_outputs % self.block))


class NetworkPlan(ctypes.Structure):
    """edgerl_network_plan."""

    _fields_ = (
        ("learning_rate", c_double),
        ("n_layers", c_uint32),
        ("norm", c_int32),
        ("evolves", c_uint32),
        ("layers", LayerPlanStructure * MAXIMUM_LAYERS),
    )

    @property
    def plans(self) -> list[LayerPlanStructure]:
        """Of the layers that it has."""
        return list(self.layers[: self.n_layers])


class LearnerConfig(ctypes.Structure):
    """edgerl_learner_config."""

    _fields_ = (
        ("seed", c_uint64),
        ("evolution_interval", c_uint64),
        ("last_update", c_uint64),
        ("n_step_delay", c_uint64),
        ("n_observations", c_uint32),
        ("n_actions", c_uint32),
        ("batch", c_uint32),
        ("policy_delay", c_uint32),
        ("n_step", c_uint32),
        ("lanes", c_uint32),
        ("isa", c_int32),
        ("growth", c_int32),
        ("drop_criterion", c_int32),
        ("drop_schedule", c_int32),
        ("optimiser", c_int32),
        ("algorithm", c_int32),
        ("activation", c_int32),
        ("discount", c_double),
        ("soft_update", c_double),
        ("weight_decay", c_double),
        ("first_moment_decay", c_double),
        ("dropout", c_double),
        ("gradient_clip", c_double),
        ("target_noise", c_double),
        ("target_noise_clip", c_double),
        ("initial_log_temperature", c_double),
        ("target_entropy", c_double),
        ("drop_fraction", c_double),
        ("actor", NetworkPlan),
        ("critic", NetworkPlan),
    )

    @property
    def is_stochastic(self) -> bool:
        """Whether the actor gives a distribution of actions, as SAC's does."""
        return self.algorithm in (SAC, CROSSQ)


class ReplayStructure(ctypes.Structure):
    """edgerl_replay."""

    _fields_ = (
        ("rows", c_void_p),
        ("room", c_uint64),
        ("capacity", c_uint64),
        ("count", c_uint64),
        ("mean", c_void_p),
        ("scale", c_void_p),
        ("format", c_int32),
        ("stride", c_uint32),
    )


class BytesOf(ctypes.Structure):
    """edgerl_learner_bytes_of."""

    _fields_ = (("total", c_uint64), ("state", c_uint64), ("connections", c_uint64))


_ARRAYS = (
    "starts",
    "columns",
    "weight",
    "first_moment",
    "second_moment",
    "target",
    "in_target",
    "extra_starts",
    "extra_columns",
    "extra_target",
    "bias",
    "bias_first_moment",
    "bias_second_moment",
    "bias_target",
    "norm",
    "norm_first_moment",
    "norm_second_moment",
    "norm_target",
    "running",
)


class LayerOffsets(ctypes.Structure):
    """edgerl_learner_layer."""

    _fields_ = tuple((name, c_uint64) for name in _ARRAYS)


class Progress(ctypes.Structure):
    """edgerl_learner_progress."""

    _fields_ = (
        ("updates", c_uint64),
        ("evolution_is_due", c_uint32),
        ("reserved", c_uint32),
        ("critic_loss_sum", c_double),
        ("actor_loss_sum", c_double),
        ("critic_losses", c_uint64),
        ("actor_losses", c_uint64),
        ("abandoned", c_uint64),
        ("replaced", c_uint64),
        ("log_temperature", c_double),
        ("temperature_first_moment", c_double),
        ("temperature_second_moment", c_double),
    )


FUNCTIONS: dict[str, tuple[Any, ...]] = {
    "edgerl_flush_denormals": (c_int32,),
    "edgerl_policy_bytes": (POINTER(PolicyConfig), POINTER(c_size_t)),
    "edgerl_policy_init": (POINTER(PolicyConfig), c_void_p, c_size_t),
    "edgerl_policy_reset": (c_void_p,),
    "edgerl_policy_act": (c_void_p, c_void_p, c_void_p),
    "edgerl_policy_sample": (c_void_p, c_void_p, c_void_p, c_void_p),
    "edgerl_policy_windows": (c_void_p, POINTER(c_size_t), POINTER(c_size_t)),
    "edgerl_policy_act_in_place": (c_void_p,),
    "edgerl_policy_state_window": (c_void_p, POINTER(c_size_t), POINTER(c_size_t)),
    "edgerl_policy_run_layer": (c_void_p, c_uint32, c_void_p, c_void_p, c_uint32),
    "edgerl_learner_bytes": (POINTER(LearnerConfig), POINTER(BytesOf)),
    "edgerl_learner_begin": (POINTER(LearnerConfig), c_void_p, c_size_t),
    "edgerl_learner_open": (c_void_p, c_size_t, POINTER(LearnerConfig)),
    "edgerl_learner_config_in": (c_void_p, c_size_t, POINTER(LearnerConfig)),
    "edgerl_learner_config_of": (c_void_p, POINTER(LearnerConfig)),
    "edgerl_learner_layer_of": (c_void_p, c_uint32, c_uint32, POINTER(LayerOffsets)),
    "edgerl_learner_progress_of": (c_void_p, POINTER(Progress)),
    "edgerl_learner_set_progress": (c_void_p, POINTER(Progress)),
    "edgerl_learner_update": (c_void_p, POINTER(ReplayStructure), c_uint64, POINTER(c_int32)),
    "edgerl_learner_action": (c_void_p, c_void_p, c_void_p),
    "edgerl_learner_sample": (c_void_p, c_void_p, c_void_p, c_void_p),
}
"""Those that return a status: name → types of their arguments."""


def layout_number() -> int:
    """What edgerl_layout_number is where the library has the structures that are declared here."""
    number = 0
    for structure in (LayerConfig, PolicyConfig, LearnerConfig, ReplayStructure, LayerOffsets, Progress, BytesOf):
        number = (number * 1009 + ctypes.sizeof(structure)) & 0xFFFFFFFF
    return number


class Library:
    """The functions of one shared library; most release the GIL while they run.

    Raises OSError where `path` is not a library that this machine can load, AttributeError where it lacks a function.
    """

    def __init__(self, path: Path) -> None:
        self._releasing = ctypes.CDLL(os.fspath(path))
        self._holding = ctypes.PyDLL(os.fspath(path))
        for name, types in FUNCTIONS.items():
            for handle in (self._releasing, self._holding):
                function = getattr(handle, name)
                function.argtypes, function.restype = types, c_int32
        self._releasing.edgerl_status_text.argtypes = (c_int32,)
        self._releasing.edgerl_status_text.restype = ctypes.c_char_p
        self._releasing.edgerl_isa_best.restype = c_int32
        self._releasing.edgerl_layout_number.restype = c_uint32
        if self._releasing.edgerl_layout_number() != layout_number():
            raise OSError(f"{path} was built for another version")
        self._releasing.edgerl_lanes.argtypes = (c_int32,)
        self._releasing.edgerl_lanes.restype = c_uint32

    def call(self, what: str, name: str, *arguments: Any) -> None:
        """Call a function of FUNCTIONS without the GIL; ConfigError, which begins with `what`, where it refuses."""
        self.check(what, getattr(self._releasing, name)(*arguments))

    def check(self, what: str, status: int) -> None:
        """Raise ConfigError, which begins with `what`, unless `status` is EDGERL_OK."""
        if status:
            raise ConfigError(f"{what}: {self.status_text(status)}")

    def quick(self, name: str) -> Callable[..., int]:
        """A function of FUNCTIONS that keeps the GIL, which is faster for a few microseconds; returns a status."""
        function: Callable[..., int] = getattr(self._holding, name)
        return function

    def status_text(self, status: int) -> str:
        """What a status means."""
        return bytes(self._releasing.edgerl_status_text(status)).decode()

    @property
    def best_isa(self) -> Isa:
        """The best instruction set of this processor."""
        return ISAS[int(self._releasing.edgerl_isa_best())]

    def lanes(self, isa: int) -> int:
        """Numbers in a vector of an instruction set, by its number."""
        return int(self._releasing.edgerl_lanes(isa))

    def isa(self, name: str | None = None) -> int:
        """The number of an instruction set: `name`, else what EDGERL_ISA names, else the best. Raises ConfigError."""
        chosen = os.environ.get(ISA_VARIABLE) if name is None else name
        source = f"{ISA_VARIABLE} is" if name is None else "the instruction set is"
        if not chosen:
            return ISAS.index(self.best_isa)
        if chosen not in ISAS:
            raise ConfigError(f"{source} {quoted(chosen)}; expected {', '.join(ISAS)}{nearest(chosen, ISAS)}")
        if ISAS.index(chosen) > ISAS.index(self.best_isa):
            raise ConfigError(f"{source} {chosen}, which this processor lacks; choose {self.best_isa} or less")
        return ISAS.index(chosen)


@lru_cache(maxsize=1)
def library() -> Library:
    """The engine, loaded once. Raises MissingExtraError where it was not built, or not for this machine."""
    remedy = "install a C compiler (apt-get install gcc), then edgerl again (pip install --force-reinstall --no-deps)"
    if not LIBRARY.is_file():
        raise MissingExtraError(f"the native engine is missing: edgerl was installed without a C compiler; {remedy}")
    try:
        return Library(LIBRARY)
    except (OSError, AttributeError) as error:
        raise MissingExtraError(
            f"the native engine, {LIBRARY}, was not built for this version or machine; {remedy}"
        ) from error


def new_arena(n_bytes: int) -> Arena:
    """[n_bytes] zeros, aligned as the engine needs it. Raises ConfigError where this machine has too little memory."""
    installed = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    if n_bytes > installed:  # the system would promise it, and end the process when it is used
        raise ConfigError(
            f"the engine needs {n_bytes} bytes of memory for these networks and this batch, and this machine has "
            f"{installed}; choose smaller ones"
        )
    memory = np.zeros(n_bytes + ALIGNMENT, np.uint8)
    offset = -memory.ctypes.data % ALIGNMENT
    return memory[offset : offset + n_bytes]
