"""What a policy's C takes and executes on a Cortex-M, measured here: sizes, stack, instructions; cycles by a model."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgerl.errors import MissingExtraError, UnsupportedModelError, reason
from edgerl.profiling.microcontroller.cycles import MODELS, modelled_cycles
from edgerl.profiling.microcontroller.emulator import Execution, build_measured, call_of, execute, kind_of
from edgerl.profiling.microcontroller.toolchain import (
    Compiled,
    SectionSizes,
    Stack,
    compile_sources,
    find_core,
    worst_stack,
)


@dataclass(frozen=True)
class Counted:
    """Calls on the emulated board.

    `instructions` is the mean of the calls and `most_instructions` the largest; `stack_bytes` is the deepest stack,
    libraries included; `cycles` are modelled (None: no model of the core, or `no_cycles` says what is missing).
    """

    calls: int
    instructions: float
    most_instructions: int
    stack_bytes: int
    cycles: float | None
    cycle_model: str | None
    no_cycles: str | None
    actions: NDArray[np.float32]  # [calls, n_actions], to the bit what the core computed


@dataclass(frozen=True)
class McuMeasurement:
    """A policy's C on one core. `sizes` are of its own objects: what it calls in libraries comes on top.

    `stack` is by the compiler, for the functions of these files; None where nothing bounds it. `counted` is None where
    something that counting needs is missing, and `not_counted` says what.
    """

    core: str
    optimisation: str
    compiler: str
    sizes: SectionSizes
    stack: Stack | None
    counted: Counted | None
    not_counted: str | None

    def as_dict(self) -> dict[str, Any]:
        """For JSON, with units in the keys."""
        counted = self.counted
        figures: dict[str, Any] = {
            "core": self.core,
            "optimisation": self.optimisation,
            "compiler": self.compiler,
            "text_bytes": self.sizes.text,
            "data_bytes": self.sizes.data,
            "bss_bytes": self.sizes.bss,
            "stack_bytes": None if self.stack is None else self.stack.bytes,
            "stack_without": None if self.stack is None else list(self.stack.not_covered),
        }
        if counted is None:
            return {**figures, "not_counted": self.not_counted}
        return {
            **figures,
            "calls": counted.calls,
            "instructions_per_call": round(counted.instructions, 1),
            "most_instructions_per_call": counted.most_instructions,
            "stack_bytes_with_libraries": counted.stack_bytes,
            "modelled_cycles_per_call": None if counted.cycles is None else round(counted.cycles, 1),
            "cycle_model": counted.cycle_model,
        }


def measure_policy(
    sources: Sequence[Path],
    entry: str,
    observations: NDArray[np.floating[Any]],
    n_actions: int,
    core: str = "cortex-m4f",
    optimisation: str = "-O2",
    *,
    flags: Sequence[str] = (),
) -> McuMeasurement:
    """Compile `sources`, which define `int entry(const float observation[n], float action[n_actions])`, and call it.

    `observations` is [calls, n], float32; where it is float64, the entry takes double. `core` is one of
    toolchain.CORES, `optimisation` one of OPTIMISATIONS. Raises ConfigError for others, MissingExtraError without a
    cross compiler, and UnsupportedModelError for sources that do not compile or run.
    """
    with tempfile.TemporaryDirectory(prefix="edgerl-") as name:
        folder = Path(name)
        compiled = compile_sources(sources, find_core(core), optimisation, folder, flags)
        try:
            stack = worst_stack(compiled.functions, entry)
        except UnsupportedModelError:
            stack = None
        counted, not_counted = _counted(compiled, entry, observations, n_actions, core, folder)
        return McuMeasurement(
            core=core,
            optimisation=optimisation,
            compiler=compiled.compiler,
            sizes=compiled.sizes,
            stack=stack,
            counted=counted,
            not_counted=not_counted,
        )


def _counted(
    compiled: Compiled, entry: str, observations: NDArray[np.floating[Any]], n_actions: int, core: str, folder: Path
) -> tuple[Counted | None, str | None]:
    """What the emulator counted, or why it did not."""
    try:
        board = find_core(core)
        call = call_of(entry, kind_of(observations))
        program = build_measured(compiled.objects, call, observations, n_actions, board, folder)
        return count(execute(program, board), core), None
    except MissingExtraError as error:
        return None, str(error)


def count(execution: Execution, core: str) -> Counted:
    """The figures of an execution, with the core's model of cycles where its program is there."""
    cycles, missing = None, None
    try:
        cycles = modelled_cycles(execution, core)
    except MissingExtraError as error:
        missing = reason(error)
    return Counted(
        calls=len(execution.instructions),
        instructions=execution.instructions_per_call,
        most_instructions=int(execution.instructions.max()),
        stack_bytes=execution.stack_bytes,
        cycles=cycles,
        cycle_model=None if cycles is None else MODELS[core],
        no_cycles=missing,
        actions=execution.actions,
    )
