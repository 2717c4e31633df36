"""Compiling C for a Cortex-M, and what the compiler says about it: sizes, and the stack of each function."""

from __future__ import annotations

import re
import shutil
import subprocess
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from edgerl.errors import ConfigError, MissingExtraError, UnsupportedModelError, nearest, quoted, reason

COMPILER = "arm-none-eabi-gcc"
PACKAGE = "gcc-arm-none-eabi libnewlib-arm-none-eabi"

FLAGS = ("-mthumb", "-std=c99", "-ffp-contract=fast", "-ffunction-sections", "-fdata-sections")
"""For all that is compiled here; -std=c99 by itself would switch fused multiply-adds off."""

OPTIMISATIONS = ("-O2", "-O3", "-Os")

LONGEST_WAIT = 300
"""Seconds for one program."""


@dataclass(frozen=True)
class Core:
    """A processor core that programs are compiled for, and QEMU's board that executes them.

    `clock_hz` is the emulated board's. A Cortex-M0+ has no board of its own: its instructions are a subset of the
    Cortex-M3's.
    """

    name: str
    flags: tuple[str, ...]
    board: str
    clock_hz: int = 25_000_000
    link_flags: tuple[str, ...] = ()


CORES = {
    core.name: core
    for core in (
        Core("cortex-m0plus", ("-mcpu=cortex-m0plus",), "mps2-an385"),
        Core("cortex-m4f", ("-mcpu=cortex-m4", "-mfpu=fpv4-sp-d16", "-mfloat-abi=hard"), "mps2-an386"),
        Core("cortex-m7", ("-mcpu=cortex-m7", "-mfpu=fpv5-d16", "-mfloat-abi=hard"), "mps2-an500"),
        Core(
            "cortex-m33",
            ("-mcpu=cortex-m33", "-mfpu=fpv5-sp-d16", "-mfloat-abi=hard"),
            "mps2-an505",
            clock_hz=20_000_000,
            link_flags=("-Wl,--defsym=flash_origin=0x10000000", "-Wl,--defsym=ram_origin=0x38000000"),
        ),
    )
}


def find_core(name: str) -> Core:
    """The core of that name. Raises ConfigError."""
    if name not in CORES:
        raise ConfigError(f"the core is {quoted(name)}; expected one of {', '.join(CORES)}{nearest(name, CORES)}")
    return CORES[name]


def find_program(program: str) -> str | None:
    """Where a program is; None where it is not."""
    return shutil.which(program)


def require_program(program: str, package: str, purpose: str) -> str:
    """Where a program is. Raises MissingExtraError, which names the Debian package that has it."""
    path = find_program(program)
    if path is None:
        raise MissingExtraError(f"{program} is not installed, and {purpose} needs it; on Debian: apt install {package}")
    return path


def require_compiler() -> str:
    """Where the cross compiler is. Raises MissingExtraError."""
    return require_program(COMPILER, PACKAGE, "measuring C for microcontrollers")


def run_program(command: Sequence[str | Path], folder: Path, what: str) -> str:
    """The standard output of a program that runs in `folder`. Raises UnsupportedModelError with its first error."""
    try:
        done = subprocess.run(
            command, cwd=folder, capture_output=True, text=True, errors="replace", timeout=LONGEST_WAIT
        )
    except subprocess.TimeoutExpired:
        raise UnsupportedModelError(f"{what}: {Path(command[0]).name} took more than {LONGEST_WAIT} s") from None
    if done.returncode:
        complaints = [line for line in done.stderr.splitlines() if "error" in line or "undefined" in line]
        line = (complaints or done.stderr.splitlines() or ["it printed nothing"])[0]
        said = reason(ValueError(line), 200)
        raise UnsupportedModelError(f"{what}: {Path(command[0]).name} ended with code {done.returncode}: {said}")
    return done.stdout


@dataclass(frozen=True)
class SectionSizes:
    """Bytes of sections: `text` is code and constants in flash, `data` flash and RAM, `bss` RAM."""

    text: int
    data: int
    bss: int


@dataclass(frozen=True)
class Function:
    """What the compiler says of one function: its own stack, and what it calls."""

    stack_bytes: int
    calls: frozenset[str]
    is_bounded: bool  # False: its stack grows with an argument


@dataclass(frozen=True)
class Compiled:
    """C sources as objects, and what is known of them. `compiler` is its version."""

    objects: tuple[Path, ...]
    compiler: str
    sizes: SectionSizes
    functions: Mapping[str, Function]


def compile_sources(
    sources: Sequence[Path], core: Core, optimisation: str, folder: Path, more_flags: Sequence[str] = ()
) -> Compiled:
    """Compile C files, each with its own folder for includes, into `folder`.

    Raises MissingExtraError without a cross compiler, ConfigError for an optimisation that is none of OPTIMISATIONS,
    and UnsupportedModelError where a file does not compile.
    """
    if optimisation not in OPTIMISATIONS:
        raise ConfigError(f"the optimisation is {quoted(optimisation)}; expected one of {', '.join(OPTIMISATIONS)}")
    compiler = require_compiler()
    flags = [*FLAGS, *core.flags, optimisation, *more_flags, "-fstack-usage", "-fcallgraph-info=su"]
    objects = []
    for index, source in enumerate(sources):
        goal = folder / f"{index}-{source.stem}.o"
        files: list[str | Path] = ["-I", source.parent.resolve(), "-c", source.resolve(), "-o", goal]
        command = [compiler, *flags, *files]
        run_program(command, folder, source.name)
        objects.append(goal)
    return Compiled(
        objects=tuple(objects),
        compiler=run_program([compiler, "--version"], folder, COMPILER).splitlines()[0],
        sizes=_sizes(objects, folder),
        functions=_functions(folder.glob("*.ci")),
    )


def _sizes(objects: Sequence[Path], folder: Path) -> SectionSizes:
    """The sums over objects, by arm-none-eabi-size."""
    rows = run_program(["arm-none-eabi-size", *objects], folder, "sizes").splitlines()[1:]
    columns = [[int(number) for number in row.split()[:3]] for row in rows]
    return SectionSizes(*(sum(column) for column in zip(*columns, strict=True)))


# A line of GCC's call graph: node: { title: "file.c:name" label: "name\nfile.c:1:5\n16 bytes (static)\n…" }
_NODE = re.compile(r'node: \{ title: "([^"]*)" label: "[^"]*?\\n(\d+) bytes \((static|dynamic[^)]*)\)')
_EDGE = re.compile(r'edge: \{ sourcename: "([^"]*)" targetname: "([^"]*)"')


def _functions(files: Iterable[Path]) -> dict[str, Function]:
    """Functions by name, from GCC's call graphs; a static function's title has its file before it."""
    functions: dict[str, Function] = {}
    for file in files:
        text = file.read_text()
        calls: dict[str, set[str]] = {}
        for caller, callee in _EDGE.findall(text):
            calls.setdefault(caller, set()).add(_name(callee))
        for title, stack, kind in _NODE.findall(text):
            bounded = kind == "static" or "bounded" in kind
            functions[_name(title)] = Function(int(stack), frozenset(calls.get(title, ())), bounded)
    return functions


def _name(title: str) -> str:
    return title.rpartition(":")[2]


@dataclass(frozen=True)
class Stack:
    """The deepest stack below a function, and the functions that it does not cover (libraries, the compiler's own)."""

    bytes: int
    not_covered: tuple[str, ...]


def worst_stack(functions: Mapping[str, Function], entry: str) -> Stack:
    """The largest sum of stack frames along a chain of calls that begins with `entry`.

    Raises UnsupportedModelError where there is no such sum: recursion, a stack that grows with an argument, no entry.
    """
    if entry not in functions:
        raise UnsupportedModelError(f"no function {quoted(entry)} was compiled; expected the entry point")
    uncovered: set[str] = set()
    known: dict[str, int] = {}

    def deepest(name: str, chain: tuple[str, ...]) -> int:
        if name in chain:
            raise UnsupportedModelError(f"{name} calls itself: its stack has no bound")
        if name not in functions:
            uncovered.add(name)
            return 0
        if not functions[name].is_bounded:
            raise UnsupportedModelError(f"the stack of {name} grows with an argument: it has no bound")
        if name not in known:
            below = (deepest(callee, (*chain, name)) for callee in sorted(functions[name].calls))
            known[name] = functions[name].stack_bytes + max(below, default=0)
        return known[name]

    return Stack(deepest(entry, ()), tuple(sorted(uncovered)))
