"""Executing a policy's C on an emulated board and counting its instructions.

QEMU translates what a Cortex-M would execute, without a pipeline, caches or wait states. So it says exactly how many
instructions a call takes, and nothing about time. A plugin (firmware/count.c, compiled when needed) counts each
instruction between two marks. `-icount shift=0`, where an instruction takes a nanosecond of the board's
time, is the check.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgerl.errors import UnsupportedModelError
from edgerl.profiling.microcontroller.toolchain import (
    FLAGS,
    Core,
    require_compiler,
    require_program,
    run_program,
)

QEMU = "qemu-system-arm"

HARNESS = ("main", "mark_begin", "mark_end", "measured_call")
"""Functions around the policy's, whose instructions do not count."""


@dataclass(frozen=True)
class Executed:
    """An instruction: its address, how often it was executed, and how often another than the next one followed."""

    address: int
    executions: int
    left: int


@dataclass(frozen=True)
class Execution:
    """The results of some calls on the emulated board, without the harness's own instructions.

    `instructions` [calls] are each call's; `actions` [calls, n_actions] what the policy returned, to the bit;
    `stack_bytes` is the deepest stack below the caller, libraries included.
    """

    program: Path
    instructions: NDArray[np.int64]
    executed: tuple[Executed, ...]
    actions: NDArray[np.float32]
    stack_bytes: int

    @cached_property
    def instructions_per_call(self) -> float:
        """Their mean."""
        return float(self.instructions.mean())


def firmware_file(name: str) -> str:
    """The text of a file of the firmware that programs here are built with."""
    return (resources.files(__package__) / "firmware" / name).read_text()


def build_program(
    sources: Sequence[Path | str],
    core: Core,
    folder: Path,
    *,
    optimisation: str = "-O2",
    objects: Sequence[Path] = (),
    includes: Sequence[Path] = (),
    name: str = "program.elf",
) -> Path:
    """Link start-up code, semihosting, `sources` (files, or names of firmware files) and objects for a core's board.

    Raises MissingExtraError without a cross compiler, UnsupportedModelError where something does not compile.
    """
    compiler = require_compiler()
    for file in ("startup.c", "semihosting.c", "semihosting.h", "mps2.ld"):
        (folder / file).write_text(firmware_file(file))
    paths = [folder / "startup.c", folder / "semihosting.c"]
    for source in sources:
        if isinstance(source, str):
            (folder / source).write_text(firmware_file(source))
        paths.append(folder / source if isinstance(source, str) else source)
    command: list[str | Path] = [compiler, *FLAGS, *core.flags, optimisation, "-I", folder]
    command += [part for include in includes for part in ("-I", include)]
    command += [*paths, *objects, "-nostartfiles", "-T", folder / "mps2.ld", "-Wl,--gc-sections", *core.link_flags]
    run_program([*command, "-lm", "-o", folder / name], folder, name)
    return folder / name


def run_on_board(program: Path, core: Core, more: Sequence[str | Path] = ()) -> str:
    """What a program prints on the emulated board. Raises UnsupportedModelError where its exit code is not 0."""
    qemu = require_program(QEMU, QEMU, "running a program for microcontrollers here")
    command = [qemu, "-M", core.board, "-nodefaults", "-display", "none", "-monitor", "none", "-serial", "none"]
    semihosting = ["-chardev", "stdio,id=out", "-semihosting-config", "enable=on,target=native,chardev=out"]
    return run_program([*command, *semihosting, *more, "-kernel", program], program.parent, program.name)


def build_plugin(folder: Path) -> Path:
    """Compile the counting plugin for this machine. Raises MissingExtraError without a C compiler."""
    compiler = require_program("cc", "gcc", "counting instructions")
    (folder / "count.c").write_text(firmware_file("count.c"))
    run_program([compiler, "-O2", "-shared", "-fPIC", "count.c", "-o", "count.so"], folder, "count.c")
    return folder / "count.so"


def build_measured(
    objects: Sequence[Path],
    call: str,
    observations: NDArray[np.floating[Any]],
    n_actions: int,
    core: Core,
    folder: Path,
) -> Path:
    """A program that calls a policy for each of `observations` [calls, n], and prints the actions.

    `call` is C that defines `int measured_call(const float *observation, float *action)`, or nothing where an object
    does; of observations in float64, with double.
    """
    (folder / "recorded.h").write_text(_recorded(observations, n_actions))
    (folder / "call.c").write_text(call or "typedef int nothing;\n")
    return build_program(
        [folder / "call.c", "measure.c"], core, folder, objects=objects, includes=[folder], name="measured.elf"
    )


def call_of(entry: str, kind: str = "float") -> str:
    """C of a measured_call that calls `entry(observation, action)`, whose observation is of `kind`: float or double."""
    return (
        f"int {entry}(const {kind} *observation, float *action);\n"
        f"int measured_call(const {kind} *observation, float *action);\n"
        f"int measured_call(const {kind} *observation, float *action) {{ return {entry}(observation, action); }}\n"
    )


def kind_of(observations: NDArray[np.floating[Any]]) -> str:
    """The C type of the observations."""
    return "double" if observations.dtype == np.float64 else "float"


def _recorded(observations: NDArray[np.floating[Any]], n_actions: int) -> str:
    kind = kind_of(observations)
    rows = ",\n".join("{" + ", ".join(_literal(value) for value in row) + "}" for row in observations)
    sizes = f"CALLS = {len(observations)}, N_OBSERVATIONS = {observations.shape[1]}, N_ACTIONS = {n_actions}"
    table = f"static const number recorded[CALLS][N_OBSERVATIONS] = {{\n{rows}}};\n"
    return f"enum {{ {sizes} }};\ntypedef {kind} number;\n{table}"


def _literal(value: np.floating[Any]) -> str:
    """A C literal, exact to the bit."""
    if isinstance(value, np.float64):
        return repr(float(value))
    text = f"{value:.9g}"
    return f"{text}f" if "." in text or "e" in text else f"{text}.0f"


def execute(program: Path, core: Core) -> Execution:
    """Run a measured program with the counting plugin. Raises what run_on_board raises."""
    folder = program.parent
    symbols = read_symbols(program)
    plugin, counts = build_plugin(folder), folder / "counts.txt"
    marks = f"begin={symbols['mark_begin'].begin:x},end={symbols['mark_end'].begin:x}"
    skipped = ",".join(f"skip={each.begin:x}-{each.begin + each.size:x}" for each in map(symbols.__getitem__, HARNESS))
    printed = run_on_board(program, core, ["-plugin", f"{plugin},out={counts},{marks},{skipped}"])
    lines = [line.split() for line in counts.read_text().splitlines()]
    return Execution(
        program=program,
        instructions=np.array([int(words[1]) for words in lines if words[0] == "call"], np.int64),
        executed=tuple(Executed(int(w[0], 16), int(w[1]), int(w[2])) for w in lines if w[0] != "call"),
        actions=_actions(printed),
        stack_bytes=_number(printed, "stack"),
    )


def instructions_by_clock(program: Path, core: Core) -> float:
    """Instructions of a measured call, with the harness's few, by the board's clock: QEMU's own count, as a check."""
    ticks = _number(run_on_board(program, core, ["-icount", "shift=0"]), "ticks")
    observations = re.search(r"CALLS = (\d+)", (program.parent / "recorded.h").read_text())
    assert observations is not None
    return ticks * (1e9 / core.clock_hz) / int(observations[1])


def _number(printed: str, name: str) -> int:
    match = re.search(rf"^{name} (\d+)$", printed, re.MULTILINE)
    if match is None:
        raise UnsupportedModelError(f"the emulated program did not print its {name}: {printed[:80]!r}")
    return int(match[1])


def _actions(printed: str) -> NDArray[np.float32]:
    """[calls, n_actions], from the bits that the program printed."""
    rows = [line.split()[1:] for line in printed.splitlines() if line.startswith("action ")]
    return np.array([[int(bits, 16) for bits in row] for row in rows], np.uint32).view(np.float32)


@dataclass(frozen=True)
class Symbol:
    """Where a function is: its address and size in bytes."""

    begin: int
    size: int


def read_symbols(program: Path) -> dict[str, Symbol]:
    """The functions of a program, by arm-none-eabi-nm."""
    listing = run_program(["arm-none-eabi-nm", "--print-size", program], program.parent, program.name)
    rows = [row for line in listing.splitlines() if len(row := line.split()) == 4 and row[2] in "tTwW"]
    return {row[3]: Symbol(int(row[0], 16) & ~1, int(row[1], 16)) for row in rows}


def disassemble(program: Path) -> dict[int, str]:
    """Instructions of a program by address, as arm-none-eabi-objdump writes them, without comments."""
    command: list[str | Path] = ["arm-none-eabi-objdump", "--disassemble", "--no-show-raw-insn", program]
    listing = run_program(command, program.parent, program.name)
    instructions: dict[int, str] = {}
    for line in listing.splitlines():
        address, colon, text = line.partition(":\t")
        if colon:
            instructions[int(address, 16)] = re.split(r"\s+[@;]", text.strip())[0].replace("\t", " ")
    return instructions
