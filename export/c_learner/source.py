"""The text of a learner's header and C file, in memory chosen here.

The file holds the engine's learner (its names begin with `engine_` there, and are static), a configuration that is
known when it is compiled, so that code for no other is in it, the initial state in flash, and what surrounds them:
`learner.h` and `learner.c` of this package, whose names begin with a prefix of the user's.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from hashlib import sha256
from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np

from edgerl import __version__
from edgerl.edge.continual import bundle
from edgerl.edge.continual.bundle import MAXIMUM_MEMORY, Constants
from edgerl.edge.continual.origin import Origin, read_origin, refuse_for_c
from edgerl.edge.continual.transitions import MAXIMUM_CAPACITY, Precision
from edgerl.edge.engine.amalgamation import amalgamate, learner_parts
from edgerl.edge.engine.arena import LearnerArena
from edgerl.edge.engine.library import (
    ALIGNMENT,
    CROSSQ,
    SAC,
    TD3,
    LayerPlanStructure,
    LearnerConfig,
    NetworkPlan,
    Progress,
    library,
)
from edgerl.errors import CheckFailed, ConfigError, OutputError, quoted
from edgerl.export.c.text import NOTICE, SPDX, check_prefix
from edgerl.export.c_learner.sizes import Budget, Sizes
from edgerl.export.c_learner.text import comment_line, float_array, float_literal, word_array
from edgerl.files.atomic import read_bytes, refuse_existing, write_atomically
from edgerl.files.tensors import TensorReader
from edgerl.policy.compact import Array, action_scaling

PREFIX = "edgerl_learner"
"""What the names in learner.h and learner.c begin with, and those of a learner that nobody names."""

DEFAULT_CAPACITY = 1000
"""Transitions that are kept where neither they, nor a memory, nor a device's budget say how many."""

LARGEST_BATCH = 1 << 16

ALGORITHM_NAMES = {TD3: "DS-TD3", SAC: "SAC", CROSSQ: "CrossQ"}

LAYER_NORM, RELU = 1, 0
"""EDGERL_NORM_LAYER, EDGERL_RELU."""

BASELINE = 1
"""EDGERL_ISA_BASELINE."""

WORD = 4
COUNTER_BYTES = 8 + 6 * 4
"""Of the integers at the end of learner.c's memory."""

SAVE_HEADER, CHECKSUM = 136, 4
"""Bytes of a save beside networks and rows."""

WIDE_CHUNK, PANEL_CHUNK, BLOCK_CHUNK, PANEL = 8, 4, 2, 128
"""Of edgerl/edge/engine: numbers that are taken at once (kernels.c), and the width beyond which lines are cut."""

CODE_BYTES = {1: 36_500, 4: 33_500, 5: 39_500}
NORM_CODE_BYTES, CLIPPING_CODE_BYTES = 2_500, 1_200
ALGORITHM_CODE_BYTES = {TD3: 0, SAC: 5_500, CROSSQ: 10_500}
ACTIVATION_CODE_BYTES, DROPOUT_CODE_BYTES = 2_400, 1_800
"""Machine code of TD3 by the blocks that a learner's layers have (bits), and what norms, cut gradients, another
algorithm or activation than ReLU, and dropout add, rounded up: arm-none-eabi-gcc 12.2 -O2 for a Cortex-M7
(docs/c-learner.md); other processors and compilers differ."""


FEWER = "take fewer transitions (`replay`), rows of half the size (`replay_dtype` fp16), a smaller batch (`batch`)"
NETWORKS = "(edgerl train --hidden, --sparsity)"
"""What makes a learner smaller, and the options that say it."""


@dataclass(frozen=True)
class CLearner:
    """The two files, before they are written."""

    prefix: str
    header: str
    source: str
    sizes: Sizes


@dataclass(frozen=True)
class _Device:
    """A learner as the device has it: lanes, arena and constants are its own."""

    arena: LearnerArena
    constants: Constants
    precision: Precision
    noise: float
    row: int

    @property
    def config(self) -> LearnerConfig:
        return self.arena.config


def make_c_learner(
    path: Path,
    *,
    capacity: int | None = None,
    memory: int | None = None,
    batch: int | None = None,
    lanes: int = 1,
    budget: Budget | None = None,
    prefix: str = PREFIX,
    precision: str | None = None,
    about: str = "",
) -> CLearner:
    """The learner in the bundle at `path`, as C.

    capacity: transitions of its replay; memory: bytes of all its RAM instead, from which they follow; neither: what the
    budget leaves, else 1000. batch: transitions per update, instead of the bundle's. lanes: numbers in a vector of the
    device, 1 for microcontrollers. prefix: of all names. precision: what the bundle's replay must have, where it
    matters. about: a line for the header's comment.

    Raises ConfigError, FileFormatError, and CheckFailed where the budget is exceeded.
    """
    check_prefix(prefix)
    if capacity is not None and memory is not None:
        raise ConfigError("a number of transitions and a memory were both given; expected one of them")
    with TensorReader(path, bundle.KIND, bundle.VERSIONS) as reader:
        origin = read_origin(reader, path, MAXIMUM_MEMORY)  # here; the device's is counted below
    refuse_for_c(path, origin)
    if precision not in (None, origin.replay.precision):
        raise ConfigError(
            f"the replay of {path} is {origin.replay.precision}, not {quoted(precision)}; export from the run folder"
        )
    if batch is not None and not 1 <= batch <= LARGEST_BATCH:
        raise ConfigError(f"the batch is {batch}; expected 1 to {LARGEST_BATCH} transitions")
    device = _on_device(origin, lanes, batch)
    sizes = _sizes(device, _capacity(device, capacity, memory, budget))
    identity = _identity(device, sizes.capacity)
    sizes, constants = _with_state(sizes, device, identity)
    if budget is not None:
        _check_budget(sizes, budget)
    facts = _facts(device, sizes, _about(path, origin, about))
    source = "\n".join([
        _fill(_part("start.c"), facts),
        _configuration(device),
        _engine(),
        constants,
        _part("learner.c"),
        "#endif\n",
    ])  # fmt: skip
    header = _fill(_part("learner.h"), facts)
    return CLearner(prefix, _renamed(header, prefix), _renamed(source, prefix), sizes)


def write_c_learner(learner: CLearner, folder: Path, *, force: bool = False) -> tuple[Path, Path]:
    """Write both files into `folder`, which is made where it is missing. Raises OutputError."""
    paths = folder / f"{learner.prefix}.h", folder / f"{learner.prefix}.c"
    for path in paths:
        refuse_existing(path, force=force)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OutputError(f"cannot make {folder}: {error.strerror}; choose another folder with -o") from error
    for path, text in zip(paths, (learner.header, learner.source), strict=True):
        write_atomically(path, text.encode(), force=force)
    return paths


# ------------------------------------------------------------------------------------------------ what is asked for


def _on_device(origin: Origin, lanes: int, batch: int | None) -> _Device:
    state = origin.arena.state

    def adapt(config: LearnerConfig) -> None:
        config.lanes, config.isa = lanes, BASELINE
        config.batch = config.batch if batch is None else batch

    def read(memory: Array, offset: int) -> None:
        memory[...] = state[offset : offset + len(memory)]

    arena = LearnerArena.from_state(library(), len(state), read, adapt)
    _forget_what_is_unused(arena)
    constants, precision = origin.constants, origin.replay.precision
    row = constants.record_format(arena.config.n_observations, precision).row_bytes
    return _Device(arena, constants, precision, origin.exploration_noise, row)


def _forget_what_is_unused(arena: LearnerArena) -> None:
    """Room for connections that only a target has holds remains of former ones."""
    for layers in arena.layers:
        for layer in layers:
            if layer.extra_starts is not None and layer.extra_columns is not None and layer.extra_target is not None:
                layer.extra_columns[layer.extra_starts[-1] :] = 0
                layer.extra_target[layer.extra_starts[-1] :] = 0


def _capacity(device: _Device, capacity: int | None, memory: int | None, budget: Budget | None) -> int:
    least = max(int(device.config.batch), int(device.config.n_step) + 1)
    if capacity is not None:
        if not least <= capacity <= MAXIMUM_CAPACITY:
            raise ConfigError(f"the replay is {capacity} transitions; expected at least {least}, a batch")
        return capacity
    room = memory if memory is not None else None if budget is None else budget.ram
    if room is None:
        return max(DEFAULT_CAPACITY, least)
    fits = _fitting(device, room)
    if fits >= least:
        return min(fits, MAXIMUM_CAPACITY)
    needed = _sizes(device, least).ram
    if memory is None and budget is not None:
        return least  # over budget: which is said with its sizes
    raise ConfigError(
        f"the memory is {room} bytes; expected at least {needed}, for {least} transitions: give more (`memory`), or "
        "a smaller batch (`batch`)"
    )


def _fitting(device: _Device, room: int) -> int:
    """Transitions in a memory of `room` bytes; 0 or less where there is room for none."""
    room -= room % ALIGNMENT
    return (room - int(device.arena.bytes.total) - _tail(device) - WORD) // device.row


def _tail(device: _Device) -> int:
    """Bytes behind the rows, what aligns the counters left out."""
    n, m = int(device.config.n_observations), int(device.config.n_actions)
    return WORD * (n + 2 * (m + m % 2)) + COUNTER_BYTES


def _sizes(device: _Device, capacity: int) -> Sizes:
    arena, replay = int(device.arena.bytes.total), capacity * device.row
    before = arena + replay + _tail(device) - COUNTER_BYTES
    ram = _up(_up(before, 8) + COUNTER_BYTES, ALIGNMENT)
    networks = int(device.arena.bytes.state) - _networks_at(device)
    save = SAVE_HEADER + networks + replay + CHECKSUM
    code = CODE_BYTES[_blocks(device)] + NORM_CODE_BYTES * _has_norm(device)
    code += CLIPPING_CODE_BYTES * (device.config.gradient_clip > 0)
    code += ACTIVATION_CODE_BYTES * (device.config.activation != RELU)
    code += DROPOUT_CODE_BYTES * (device.config.dropout > 0)
    code += ALGORITHM_CODE_BYTES[device.config.algorithm]
    return Sizes(arena, replay, ram - arena - replay, capacity, device.row, 0, code, save)


def _up(count: int, unit: int) -> int:
    return -(-count // unit) * unit


def _networks_at(device: _Device) -> int:
    """Where in the arena the header ends and the networks begin."""
    first = device.arena.layers[0][0].starts
    return int(first.ctypes.data - device.arena.memory.ctypes.data)


def _check_budget(sizes: Sizes, budget: Budget) -> None:
    for name, used, most, fix in (
        ("RAM", sizes.ram, budget.ram, f"{FEWER}, or networks that are smaller or sparser {NETWORKS}"),
        ("flash", sizes.flash, budget.flash, f"take networks that are smaller or sparser {NETWORKS}"),
    ):
        if used > most:
            raise CheckFailed(
                f"the learner takes {used} bytes of {name} ({_where(sizes, name)}), and the budget on {budget.device} "
                f"is {most}; nothing was written: {fix}"
            )


def _where(sizes: Sizes, name: str) -> str:
    if name == "flash":
        return f"state {sizes.state}, code about {sizes.code}"
    return f"networks {sizes.arena}, {sizes.capacity} transitions {sizes.replay}"


# ------------------------------------------------------------------------------------------------ its text


def _about(path: Path, origin: Origin, about: str) -> str:
    digest = sha256(read_bytes(path)).hexdigest()
    environment = origin.about.get("environment")
    task = f", {comment_line(environment)}" if isinstance(environment, str) else ""
    made = f" {comment_line(about)}" if about else ""
    return f"Made by edgerl {__version__} from {comment_line(path.name)} (SHA-256 {digest[:16]}{task}).{made}"


def _facts(device: _Device, sizes: Sizes, about: str) -> dict[str, str]:
    return {
        "ABOUT": about,
        "SPDX": SPDX,
        "NOTICE": NOTICE,
        "OBSERVATIONS": f"{device.config.n_observations}u",
        "ACTIONS": f"{device.config.n_actions}u",
        "BATCH": f"{device.config.batch}u",
        "CAPACITY": f"{sizes.capacity}u",
        "ROW": str(sizes.row),
        "PRECISION": device.precision,
        "RAM": f"{sizes.ram}u",
        "ARENA": str(sizes.arena),
        "REPLAY": str(sizes.replay),
        "SAVE": f"{sizes.save}u",
        "SAVE_ALONE": str(sizes.save - sizes.replay),
        "ALGORITHM": ALGORITHM_NAMES[device.config.algorithm],
        "EXPLORATION": _exploration(device),
    }


def _exploration(device: _Device) -> str:
    if device.config.is_stochastic:
        return "The same, drawn from the policy's distribution, without which nothing new is tried."
    return (
        "The same with the noise that training had, without which nothing new is tried: a normal deviation of "
        f"{device.noise:.9g} of\n * half the action's range."
    )


def _part(name: str) -> str:
    return (resources.files(__package__) / name).read_text("utf-8")


def _fill(template: str, facts: dict[str, str]) -> str:
    return re.sub(r"@([A-Z_]+)@", lambda match: facts[match[1]], template)


def _renamed(text: str, prefix: str) -> str:
    return text.replace(PREFIX, prefix).replace(PREFIX.upper(), prefix.upper())


def _blocks(device: _Device) -> int:
    """Bits: whether a layer has blocks of 1, of 4."""
    config = device.config
    plans = [*config.actor.plans, *config.critic.plans]
    return sum({int(plan.block) for plan in plans})


def _has_norm(device: _Device) -> bool:
    return bool(device.config.critic.norm == LAYER_NORM)


def chunk_bits(width: int, at_most: int) -> int:
    """Bits of the counts in which CHUNKS of kernels.c takes a batch of `width` numbers, one a vector."""
    bits = 0
    while width > 0:
        chunks = -(-width // at_most)
        count = -(-width // chunks)
        bits |= 1 << count
        width -= count
    return bits


def _configuration(device: _Device) -> str:
    """What the engine's macros leave out: code for another instruction set, batch or block than this learner's."""
    config = device.config
    lines = [
        "#define ENGINE_API static",
        "#define ENGINE_INTERNAL static",
        "#define ENGINE_BASELINE_ONLY",
        f"#define ENGINE_BLOCKS {_blocks(device)}u",
        f"#define ENGINE_ALGORITHMS {1 << config.algorithm}u",
        f"#define ENGINE_NORMS {int(_has_norm(device))}",
        f"#define ENGINE_CLIPPING {int(device.config.gradient_clip > 0)}",
        f"#define ENGINE_ACTIVATIONS {1 << config.activation}u",
        f"#define ENGINE_DROPOUT {int(config.dropout > 0)}",
    ]
    if config.lanes == 1:  # what a vector is elsewhere, the device's compiler decides
        widths = [int(plan.n_inputs) for plan in (*config.actor.plans, *config.critic.plans)]
        widths += [int(plan.n_outputs) for plan in config.actor.plans]
        panels = chunk_bits(config.batch, PANEL_CHUNK) if max(widths) > PANEL else 0
        lines += [
            "#if !defined(__ARM_NEON) && !defined(__x86_64__)",
            f"#define ENGINE_CHUNKS 0x{chunk_bits(config.batch, WIDE_CHUNK) | panels:x}u",
            f"#define ENGINE_BLOCK_CHUNKS 0x{chunk_bits(config.batch, BLOCK_CHUNK):x}u",
            "#endif",
        ]
    return "\n".join(lines) + "\n"


def _engine() -> str:
    """The engine's learner, its names static; what it does not need here is not a mistake."""
    text = amalgamate(*learner_parts())
    text = re.sub(r"\bedgerl_", "engine_", re.sub(r"\bEDGERL_", "ENGINE_", text))
    return f'#pragma GCC diagnostic ignored "-Wunused-function" /* not all of the engine is needed here */\n\n{text}'


def _identity(device: _Device, capacity: int) -> int:
    """A number of this very export, which its saves carry."""
    digest = sha256(device.arena.state.tobytes())
    for array in device.constants.tensors().values():
        digest.update(array.tobytes())
    digest.update(f"{device.precision} {capacity} {device.noise!r} {__version__}".encode())
    return int.from_bytes(digest.digest()[:8], "little")


def _with_state(sizes: Sizes, device: _Device, identity: int) -> tuple[Sizes, str]:
    """(the sizes with the state's, the constants as C)."""
    networks_at = _networks_at(device)
    initial = without_zeros(device.arena.state[networks_at:].view("<u4"))
    arrays = _constant_arrays(device)
    n_bytes = WORD * len(initial) + sum(array.nbytes for array in arrays.values())
    n_bytes += len(bytes(device.config)) + len(bytes(device.arena.progress))
    uses_mean, _ = device.constants.record_format(device.config.n_observations, device.precision).decoding(
        device.constants.observation_mean, device.constants.observation_scale
    )
    lines = [
        f"#define ARENA_BYTES {sizes.arena}u",
        f"#define STATE_BYTES {int(device.arena.bytes.state)}u",
        f"#define NETWORKS_AT {networks_at}u",
        f"#define ROW_WORDS {sizes.row // WORD}u",
        f"#define ROWS_ARE_HALVES {int(device.precision == 'fp16')}",
        f"#define IDENTITY UINT64_C(0x{identity:016x})",
        f"#define NOISE {float_literal(device.noise)} /* of half the action's range */",
        "#define ROWS_MEAN " + ("NULL" if uses_mean is None else "STORED_MEAN"),
        "#define ROWS_SCALE " + ("NULL" if uses_mean is None else "STORED_SCALE"),
        _normalisation(device),
        "",
        *(float_array(name, array) for name, array in arrays.items()),
        f"static const engine_learner_config CONFIG = {_config_text(device.config)};",
        f"static const engine_learner_progress PROGRESS = {_progress_text(device.arena.progress)};",
        "/* The networks: how many words are zero, and in the upper half how many follow; those; and so on. */",
        word_array("INITIAL", initial),
    ]
    return Sizes(**{**vars(sizes), "state": n_bytes}), "\n".join(lines)


def _normalisation(device: _Device) -> str:
    if device.constants.observation_mean is None:
        return "#define NORMALISED(x, i) (x)"
    return "#define NORMALISED(x, i) (((x) - OBSERVATION_MEAN[i]) * OBSERVATION_SCALE[i])"


def _constant_arrays(device: _Device) -> dict[str, Array]:
    """What a robot's numbers mean, by the name in C."""
    constants = device.constants
    centre, half_range = action_scaling(constants.action_low, constants.action_high)
    stored = device.precision == "fp16"
    shape = constants.record_format(device.config.n_observations, device.precision)
    mean, scale = shape.decoding(constants.observation_mean, constants.observation_scale)
    arrays: dict[str, Array | None] = {
        "ACTION_LOW": constants.action_low,
        "ACTION_HIGH": constants.action_high,
        "ACTION_CENTRE": centre,
        "ACTION_HALF_RANGE": half_range,
        "OBSERVATION_MEAN": constants.observation_mean,
        "OBSERVATION_SCALE": constants.observation_scale,
        "STORAGE_MEAN": constants.storage_mean if stored else None,
        "STORAGE_SCALE": constants.storage_scale if stored else None,
        "STORED_MEAN": mean,  # rows hold something else than the networks see
        "STORED_SCALE": scale,
    }
    found = {name: array for name, array in arrays.items() if array is not None}
    if not all(np.isfinite(array).all() for array in found.values()):
        raise ConfigError("the learner's constants are too far apart for float32 numbers; export it again")
    return found


def without_zeros(words: Array) -> Array:
    """uint32 words, runs of zeros left out: a word with their number and, in its upper half, that of the words that
    follow as they are; these; and so on. What is left at the end is zero."""
    found = np.flatnonzero(words)
    written: list[Array] = []
    done = 0
    # A single zero amid other words costs as much as a new run: it is kept.
    runs = [] if not len(found) else np.split(found, np.flatnonzero(np.diff(found) > 2) + 1)
    for run in runs:
        first, last = int(run[0]), int(run[-1]) + 1
        while first - done > 0xFFFF:
            written.append(np.array([0xFFFF], np.uint32))
            done += 0xFFFF
        for begin in range(first, last, 0xFFFF):
            end = min(begin + 0xFFFF, last)
            written += [np.array([begin - done | (end - begin) << 16], np.uint32), words[begin:end]]
            done = end
    return np.concatenate(written) if written else np.zeros(1, np.uint32)


def _config_text(config: LearnerConfig) -> str:
    numbers = {
        name: _number(getattr(config, name)) for name, *_ in LearnerConfig._fields_ if name not in ("actor", "critic")
    }
    plans = {name: _plan_text(getattr(config, name)) for name in ("actor", "critic")}
    return _struct({**numbers, **plans})


def _plan_text(plan: NetworkPlan) -> str:
    numbers = [f".{name} = {_number(getattr(plan, name))}" for name, *_ in NetworkPlan._fields_ if name != "layers"]
    layers = ", ".join(
        "{" + ", ".join(f"{getattr(layer, name)}u" for name, *_ in LayerPlanStructure._fields_) + "}"
        for layer in plan.plans
    )
    return "{" + ", ".join([*numbers, ".layers = {" + layers + "}"]) + "}"


def _progress_text(progress: Progress) -> str:
    return _struct({name: _number(getattr(progress, name)) for name, *_ in Progress._fields_})


def _struct(fields: dict[str, str]) -> str:
    return "{\n" + "".join(f"    .{name} = {value},\n" for name, value in fields.items()) + "}"


def _number(value: Any) -> str:
    if isinstance(value, float):
        return repr(value)
    return f"UINT64_C({value})" if value > 0x7FFFFFFF else str(value)
