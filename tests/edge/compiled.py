"""C programs around the engine: compiled with each compiler, run here under sanitizers or on an emulated machine."""

from __future__ import annotations

import subprocess
from pathlib import Path
from typing import NamedTuple

import edgerl.edge

ENGINE = Path(edgerl.edge.__file__).parent / "engine"
HERE = Path(__file__).parent

SHIPPED = ("-std=c11", "-O3", "-ffp-contract=fast", "-fno-math-errno")
"""As pyproject.toml has them."""

WARNINGS = ("-Wall", "-Wextra", "-Wconversion", "-Wdouble-promotion", "-Wshadow", "-Werror")
CORTEX_M7 = ("-mcpu=cortex-m7", "-mthumb", "-mfpu=fpv5-d16", "-mfloat-abi=hard")

SANITIZED = ("-fsanitize=address,undefined", "-fno-sanitize-recover=all", "-g")
CHECKS_AS_CALLS = ("--param", "asan-instrumentation-with-call-threshold=0")
"""The checks of memory as calls: with that many instances, kernels compile in a third of the time."""


class Target(NamedTuple):
    """A machine that programs are compiled for, and run on in emulation."""

    compiler: str
    options: tuple[str, ...]
    linked: tuple[object, ...]
    emulator: tuple[str, ...]


ON_AARCH64 = Target("aarch64-linux-gnu-gcc", (), ("-static",), ("qemu-aarch64",))
"""64-bit Arm, with NEON."""

ON_CORTEX_M7 = Target(
    "arm-none-eabi-gcc",
    (*CORTEX_M7, "-ffreestanding"),
    ("-nostdlib", "-T", HERE / "cortex_m7.ld", HERE / "cortex_m7.c", "-lgcc"),
    (
        *("qemu-system-arm", "-machine", "mps2-an500", "-nographic", "-monitor", "none", "-serial", "none"),
        *("-semihosting-config", "enable=on,target=native", "-kernel"),
    ),
)
"""An emulated board; programs have no library but the compiler's own."""


def compile_c(compiler: str, *arguments: object) -> None:
    """Run a compiler in silence; what it has to say fails the test."""
    done = subprocess.run([compiler, *SHIPPED, "-I", ENGINE, *map(str, arguments)], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, ""), done.stderr


def run_sanitized(program: Path) -> None:
    """Compile and run on this machine under the address and the undefined-behaviour sanitizer."""
    binary = program.with_suffix(".sanitized")
    compile_c("gcc", "-O1", *SANITIZED, program, "-o", binary)
    run(binary)


def compile_for(target: Target, source: Path, folder: Path, *options: str) -> Path:
    """An object file for `run_on`, to be linked with several others in turn."""
    compiled = folder / f"{source.stem}.{target.compiler}.o"
    compile_c(target.compiler, *target.options, *options, "-c", source, "-o", compiled)
    return compiled


def run_on(target: Target, *parts: Path) -> None:
    """Link sources and objects, and run the program in emulation."""
    binary = parts[0].with_suffix(".elf")
    compile_c(target.compiler, *target.options, *parts, *target.linked, "-o", binary)
    run(*target.emulator, binary)


def run_on_aarch64(program: Path) -> None:
    """Compile for 64-bit Arm and run in emulation."""
    run_on(ON_AARCH64, program)


def run_on_cortex_m7(program: Path) -> None:
    """Compile for a Cortex-M7 and run on an emulated board."""
    run_on(ON_CORTEX_M7, program)


def run(*command: object) -> str:
    """What a program prints; its exit code is the verdict."""
    done = subprocess.run([str(part) for part in command], capture_output=True, text=True, timeout=900)
    assert done.returncode == 0, f"{command[0]}: exit code {done.returncode}\n{done.stdout}{done.stderr}"
    return done.stdout
