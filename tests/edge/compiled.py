"""C programs around the engine: compiled with each compiler, run here under sanitizers or on an emulated machine."""

from __future__ import annotations

import subprocess
from pathlib import Path

import edgerl.edge

ENGINE = Path(edgerl.edge.__file__).parent / "engine"
HERE = Path(__file__).parent

SHIPPED = ("-std=c11", "-O3", "-ffp-contract=fast", "-fno-math-errno")
"""As pyproject.toml has them."""

WARNINGS = ("-Wall", "-Wextra", "-Wconversion", "-Wdouble-promotion", "-Wshadow", "-Werror")
CORTEX_M7 = ("-mcpu=cortex-m7", "-mthumb", "-mfpu=fpv5-d16", "-mfloat-abi=hard")


def compile_c(compiler: str, *arguments: object) -> None:
    """Run a compiler in silence; what it has to say fails the test."""
    done = subprocess.run([compiler, *SHIPPED, "-I", ENGINE, *map(str, arguments)], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, ""), done.stderr


def run_sanitized(program: Path) -> None:
    """Compile and run on this machine under the address and the undefined-behaviour sanitizer."""
    binary = program.with_suffix(".sanitized")
    sanitizers = ("-fsanitize=address,undefined", "-fno-sanitize-recover=all")
    compile_c("gcc", "-O1", "-g", *sanitizers, program, "-o", binary)
    _run(str(binary))


def run_on_aarch64(program: Path) -> None:
    """Compile for 64-bit Arm, with NEON, and run in emulation."""
    binary = program.with_suffix(".aarch64")
    compile_c("aarch64-linux-gnu-gcc", "-static", program, "-o", binary)
    _run("qemu-aarch64", str(binary))


def run_on_cortex_m7(program: Path) -> None:
    """Compile for a Cortex-M7 without any library but the compiler's own, and run on an emulated board."""
    binary = program.with_suffix(".elf")
    bare = ("-ffreestanding", "-nostdlib", "-T", HERE / "cortex_m7.ld")
    compile_c("arm-none-eabi-gcc", *CORTEX_M7, *bare, program, HERE / "cortex_m7.c", "-lgcc", "-o", binary)
    _run(
        *("qemu-system-arm", "-machine", "mps2-an500", "-nographic", "-monitor", "none", "-serial", "none"),
        *("-semihosting-config", "enable=on,target=native", "-kernel", str(binary)),
    )


def _run(*command: str) -> None:
    """The exit code is the verdict."""
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, f"{command[0]}: exit code {done.returncode}\n{done.stdout}{done.stderr}"
