"""Where exported C compiles and runs, and how far its actions are from the policy's in float64.

    python benchmarks/compilers.py

Each row is a compiler and a processor: policies with fp32, fp16 and int8 weights, dense and sparse, single connections
and blocks, are compiled with warnings as errors, and run on 20 observations where there is an emulator. What is not
installed is named. On Debian, apt-get install

    clang tcc gcc-arm-none-eabi libnewlib-arm-none-eabi gcc-riscv64-unknown-elf gcc-avr avr-libc simavr
    gcc-xtensa-lx106 gcc-aarch64-linux-gnu libc6-dev-arm64-cross gcc-arm-linux-gnueabihf libc6-dev-armhf-cross
    gcc-powerpc-linux-gnu libc6-dev-powerpc-cross gcc-s390x-linux-gnu libc6-dev-s390x-cross gcc-riscv64-linux-gnu
    libc6-dev-riscv64-cross gcc-i686-linux-gnu libc6-dev-i386-cross qemu-user qemu-system-arm
"""

from __future__ import annotations

import shutil
import subprocess
import tempfile
from dataclasses import dataclass
from itertools import pairwise, product
from pathlib import Path

import numpy as np

from edgerl.export.c import Options
from edgerl.export.c.source import Provenance, generate
from edgerl.policy.compact import Array, CompactPolicy, Precision, make_layer
from edgerl.policy.pruning import network_of, with_network

WIDTHS = (5, 40, 23, 3)
OBSERVATIONS = 20
PRECISIONS: tuple[Precision, ...] = ("fp32", "fp16", "int8")
SECONDS = 120
STRICT = ("-Wall", "-Wextra", "-Werror", "-O2")

MAIN = """\
#include "edgerl_policy.h"
#include "observations.h"
#if defined(__AVR__)
#include <avr/interrupt.h>
#include <avr/io.h>
#include <avr/sleep.h>
static void put(char c) { UDR0 = (unsigned char)c; }
static void begin(void) { UCSR0B = 1 << TXEN0; }
static void end(void) { cli(); sleep_mode(); }
#define FLASH __flash
#elif defined(__riscv) && __riscv_xlen == 32 /* Linux, as QEMU has it, without a C library */
static long call(long number, long a, long b, long c) {
    register long a0 __asm__("a0") = a, a1 __asm__("a1") = b, a2 __asm__("a2") = c, a7 __asm__("a7") = number;
    __asm__ volatile("ecall" : "+r"(a0) : "r"(a1), "r"(a2), "r"(a7) : "memory");
    return a0;
}
static void put(char c) { call(64, 1, (long)&c, 1); }
static void begin(void) {}
static void end(void) { call(93, 0, 0, 0); }
int main(void);
void _start(void) { main(); }
void *memset(void *at, int value, __SIZE_TYPE__ bytes) {
    for (volatile char *p = at; bytes > 0; bytes--) {
        *p++ = (char)value;
    }
    return at;
}
void *memcpy(void *to, const void *from, __SIZE_TYPE__ bytes) {
    const char *p = from;
    for (volatile char *q = to; bytes > 0; bytes--) {
        *q++ = *p++;
    }
    return to;
}
void *memmove(void *to, const void *from, __SIZE_TYPE__ bytes) { return memcpy(to, from, bytes); }
#define FLASH
#elif defined(__ARM_ARCH_PROFILE) && __ARM_ARCH_PROFILE == 'M'
#include "semihosting.h"
static void put(char c) { semihosting_print((const char[]){c, 0}); }
static void begin(void) {}
static void end(void) {}
#define FLASH
#else
#include <stdio.h>
static void put(char c) { putchar(c); }
static void begin(void) {}
static void end(void) {}
#define FLASH
#endif

static const FLASH float observations[COUNT][EDGERL_POLICY_OBSERVATIONS] = {NUMBERS};

static void word(uint32_t bits) { /* '=' and eight letters, a for 0 */
    put('=');
    for (int digit = 28; digit >= 0; digit -= 4) {
        put((char)('a' + (int)(bits >> digit & 15u)));
    }
}

int main(void) {
    begin();
    word((uint32_t)edgerl_policy_self_test());
    for (int k = 0; k < COUNT; k++) {
        float observation[EDGERL_POLICY_OBSERVATIONS], action[EDGERL_POLICY_ACTIONS];
        for (int i = 0; i < EDGERL_POLICY_OBSERVATIONS; i++) {
            observation[i] = observations[k][i];
        }
        word((uint32_t)edgerl_policy(observation, action));
        for (int j = 0; j < EDGERL_POLICY_ACTIONS; j++) {
            const union { float real; uint32_t bits; } number = {action[j]};
            word(number.bits);
        }
        put('\\n');
    }
    end();
    return 0;
}
"""


@dataclass(frozen=True)
class Target:
    """A compiler for a processor, and what runs its programs."""

    processor: str
    compiler: str
    options: tuple[str, ...] = ()
    runner: tuple[str, ...] | None = ()  # before the program; None: it cannot be run here
    linked: tuple[str, ...] = ("-static",)


FIRMWARE = Path(__file__).parents[1] / "edgerl/profiling/microcontroller/firmware"


def cortex(name: str, cpu: str, board: str, *options: str, flash: int = 0, ram: int = 0x20000000) -> Target:
    """A Cortex-M on one of Arm's boards; programs talk by semihosting."""
    emulator = ("qemu-system-arm", "-M", board, "-nographic", "-semihosting-config", "enable=on,target=native")
    parts = tuple(str(FIRMWARE / file) for file in ("startup.c", "semihosting.c"))
    places = (f"-Wl,--defsym=flash_origin={flash}", f"-Wl,--defsym=ram_origin={ram}")
    return Target(
        name, "arm-none-eabi-gcc", ("-std=c99", f"-mcpu={cpu}", "-mthumb", *options), (*emulator, "-kernel"),
        (*parts, f"-I{FIRMWARE}", "-nostartfiles", "-T", str(FIRMWARE / "mps2.ld"), *places),
    )  # fmt: skip


HARD = "-mfloat-abi=hard"
TARGETS = (
    Target("x86-64", "gcc", ("-std=c99",)),
    Target("x86-64", "clang", ("-std=c99",)),
    Target("x86-64", "tcc", linked=()),
    Target("i386", "i686-linux-gnu-gcc", ("-std=c99",), ("qemu-i386",)),
    Target("aarch64", "aarch64-linux-gnu-gcc", ("-std=c99",), ("qemu-aarch64",)),
    Target("armv7 hard float", "arm-linux-gnueabihf-gcc", ("-std=c99",), ("qemu-arm",)),
    Target("aarch64", "clang", ("-std=c99", "--target=aarch64-linux-gnu"), ("qemu-aarch64",)),
    Target("ppc (big-endian)", "powerpc-linux-gnu-gcc", ("-std=c99",), ("qemu-ppc",)),
    Target("s390x (big-endian)", "s390x-linux-gnu-gcc", ("-std=c99",), ("qemu-s390x",)),
    Target("rv64gc", "riscv64-linux-gnu-gcc", ("-std=c99",), ("qemu-riscv64",)),
    *(
        Target(
            name, "riscv64-unknown-elf-gcc",
            ("-std=c99", f"-march={march}", f"-mabi={abi}", "-ffreestanding"),
            ("qemu-riscv32",), ("-nostdlib", "-lgcc", "-Wl,--no-relax"),
        )
        for name, march, abi in (("rv32imc", "rv32imc", "ilp32"), ("rv32imafc", "rv32imafc", "ilp32f"))
    ),
    cortex("Cortex-M0+", "cortex-m0plus", "mps2-an385"),
    cortex("Cortex-M3", "cortex-m3", "mps2-an385"),
    cortex("Cortex-M4F", "cortex-m4", "mps2-an386", "-mfpu=fpv4-sp-d16", HARD),
    cortex("Cortex-M7", "cortex-m7", "mps2-an500", "-mfpu=fpv5-d16", HARD),
    cortex("Cortex-M33F", "cortex-m33", "mps2-an505", "-mfpu=fpv5-sp-d16", HARD, flash=0x10000000, ram=0x38000000),
    cortex("Cortex-M55", "cortex-m55", "mps3-an547", HARD, ram=0x21000000),
    Target("ATmega2560 (AVR)", "avr-gcc", ("-std=gnu99", "-mmcu=atmega2560"),
           ("simavr", "-m", "atmega2560", "-f", "16000000"), ()),
    Target("ATtiny817 (AVR)", "avr-gcc", ("-std=gnu99", "-mmcu=avrxmega3"), None),
    Target("Xtensa LX106", "xtensa-lx106-elf-gcc", ("-std=c99", "-ffreestanding"), None),
)  # fmt: skip


def main() -> None:
    """Print the table."""
    print("| processor | compiler | compiled | ran | largest error: fp32 | fp16 | int8 |")
    print("|---|---|---|---|---|---|---|")
    for target in TARGETS:
        print(f"| {' | '.join(row(target))} |", flush=True)


def row(target: Target) -> tuple[str, ...]:
    """The cells of one line."""
    if shutil.which(target.compiler) is None:
        return target.processor, target.compiler, "not installed", "", "", "", ""
    largest: dict[Precision, float] = {}
    n_compiled = n_ran = 0
    for precision, block, layout in product(PRECISIONS, (1, 4), ("dense", "sparse")):
        policy = in_precision(random_policy(block), precision)
        with tempfile.TemporaryDirectory(prefix="edgerl-") as folder:
            options = Options(layout=layout)  # type: ignore[arg-type]
            write(policy, options, Path(folder))
            problem = compile_policy(target, Path(folder))
            if problem:
                return target.processor, name_of(target), f"no: {problem}", "", "", "", ""
            n_compiled += 1
            actions = run(target, policy, Path(folder))
        if actions is not None:
            n_ran += 1
            span = policy.action_high.astype(np.float64) - policy.action_low
            error = np.abs(actions - policy(observations(), np.float64)) / span
            largest[precision] = max(largest.get(precision, 0.0), float(error.max()))
    ran = "yes" if n_ran == n_compiled else "no" if n_ran == 0 else f"{n_ran} of {n_compiled}"
    figures = (f"{largest[p]:.1e}" if p in largest else "" for p in PRECISIONS)
    return (target.processor, name_of(target), "yes", ran, *figures)


def name_of(target: Target) -> str:
    """The compiler with its version."""
    output = subprocess.run([target.compiler, "--version"], capture_output=True, text=True, check=False).stdout
    output = output or subprocess.run([target.compiler, "-v"], capture_output=True, text=True, check=False).stdout
    version = next((word.rstrip("),") for word in output.split() if word[:1].isdigit() and "." in word), "")
    return f"{target.compiler} {version}".strip()


def random_policy(block: int) -> CompactPolicy:
    """A policy with a third of the blocks in its hidden layers."""
    rng, network = np.random.default_rng(block), []
    for n, m in pairwise(WIDTHS):
        there = np.repeat(rng.random((-(-m // block), n)) < 0.35, block, axis=0)[:m]
        network.append((rng.normal(size=(m, n)) * there / np.sqrt(n * 0.35), rng.normal(scale=0.1, size=m)))
    layers = tuple(make_layer(w.astype(np.float32), b.astype(np.float32), block) for w, b in network)
    bound = np.exp(rng.normal(size=WIDTHS[-1])).astype(np.float32)
    mean, scale = (rng.normal(size=WIDTHS[0]).astype(np.float32), np.full(WIDTHS[0], 0.7, np.float32))
    policy = CompactPolicy(layers, -bound, 2 * bound, observation_mean=mean, observation_scale=scale)
    return policy.with_example(rng.normal(size=WIDTHS[0]))


def in_precision(policy: CompactPolicy, precision: Precision) -> CompactPolicy:
    """The same policy with its weights stored as `precision`."""
    if precision == "fp32":
        return policy
    return with_network(policy, network_of(policy), precision)


def observations() -> Array:
    """Float32 [OBSERVATIONS, n], up to a few deviations."""
    drawn = np.random.default_rng(7).normal(scale=2, size=(OBSERVATIONS, WIDTHS[0]))
    return drawn.astype(np.float32)


def write(policy: CompactPolicy, options: Options, folder: Path) -> None:
    """The policy, the observations and the program that prints its actions."""
    made = generate(policy, options=options, provenance=Provenance("0" * 64))
    rows = ", ".join("{" + ", ".join(f"{x!r}f" for x in row) + "}" for row in observations().tolist())
    texts = {
        "edgerl_policy.h": made.header,
        "edgerl_policy.c": made.source,
        "main.c": MAIN,
        "observations.h": f"#define COUNT {OBSERVATIONS}\n#define NUMBERS {rows}\n",
    }
    for name, text in texts.items():
        (folder / name).write_text(text)


def compile_policy(target: Target, folder: Path) -> str:
    """The first error; empty where it compiles."""
    done = called([target.compiler, *STRICT, *target.options, "-c", "edgerl_policy.c", "-o", "policy.o"], folder)
    return first_error(done) if done is None or done.returncode else ""


def run(target: Target, policy: CompactPolicy, folder: Path) -> Array | None:
    """The actions [OBSERVATIONS, m], or None where it does not link or cannot be run here."""
    runner = target.runner
    if runner is None or (runner and shutil.which(runner[0]) is None):
        return None
    command = [target.compiler, *STRICT[-1:], *target.options, "main.c", "policy.o", *target.linked, "-o", "program"]
    linked = called(command, folder)
    if linked is None or linked.returncode:
        return None
    done = called([*runner, str(folder / "program")], folder)
    words = [] if done is None else decoded(done.stdout + done.stderr)
    if len(words) != 1 + OBSERVATIONS * (1 + policy.n_actions) or words[0] != 0:
        return None
    table = np.array(words[1:], np.uint32).reshape(OBSERVATIONS, 1 + policy.n_actions)
    return None if table[:, 0].any() else np.ascontiguousarray(table[:, 1:]).view(np.float32).astype(np.float64)


def decoded(printed: str) -> list[int]:
    """The words of the program, without what an emulator prints itself."""
    words = printed.replace("\n", "").split("=")[1:]
    return [int("".join(f"{ord(letter) - ord('a'):x}" for letter in word[:8]), 16) for word in words if is_word(word)]


def is_word(text: str) -> bool:
    """Whether it starts with eight letters from a to p."""
    return len(text) >= 8 and all("a" <= letter <= "p" for letter in text[:8])


def called(command: list[str], folder: Path) -> subprocess.CompletedProcess[str] | None:
    """The finished process; None where it did not end."""
    try:
        return subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=SECONDS, errors="replace")
    except subprocess.TimeoutExpired:
        return None


def first_error(done: subprocess.CompletedProcess[str] | None) -> str:
    """One line."""
    lines = [] if done is None else [line for line in done.stderr.splitlines() if "error" in line]
    return lines[0].partition("error: ")[2][:100] if lines else "no reason given"


if __name__ == "__main__":
    main()
