"""Exported C on processors that are unlike the usual ones: it runs and is right there, or one sentence says why not."""

from __future__ import annotations

import os
import platform
import re
import subprocess
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgerl.commands.export import export_policy
from edgerl.edge.acting.onnx_policy import OnnxPolicy
from edgerl.export.c import Options
from edgerl.export.c.project import project_files
from edgerl.policy.compact import SMALLEST_WEIGHT, CompactPolicy, make_layer, without_denormals
from tests.policy.policies import random_policy

from .compiled_c import Library, run, write
from .test_c_learner import Case, exported
from .test_export_c import observations_of

ON_X86 = pytest.mark.skipif(platform.machine() != "x86_64", reason="GCC compiles for i386 on x86-64")


def complaints(compiler: str, *options: object, folder: Path) -> list[str]:
    """The errors of a compilation that fails."""
    done = subprocess.run(
        [compiler, *map(str, options)], cwd=folder, capture_output=True, text=True, env={**os.environ, "LC_ALL": "C"}
    )
    assert done.returncode != 0
    return re.findall(r"error: (.*)", done.stderr)


# ------------------------------------------------------------------------------------------------------------- AVR

AVR = ("-mmcu=atmega328p", "-std=gnu99", "-Wall", "-Wextra", "-Werror", "-Os")

ARDUINO = """
#include <avr/interrupt.h>
#include <avr/io.h>
#include <avr/sleep.h>
#include <stdio.h>
#include "edgerl_policy.h"
static int put(char c, FILE *stream) {
    (void)stream;
    UDR0 = (unsigned char)c;
    return 0;
}
static FILE out = FDEV_SETUP_STREAM(put, NULL, _FDEV_SETUP_WRITE);
int main(void) {
    UCSR0B = 1 << TXEN0;
    stdout = &out;
    static float observation[EDGERL_POLICY_OBSERVATIONS] = {OBSERVATION}, action[EDGERL_POLICY_ACTIONS];
    printf("self-test %d\\n", edgerl_policy_self_test());
    printf("status %d\\n", edgerl_policy(observation, action));
    for (int i = 0; i < EDGERL_POLICY_ACTIONS; i++) {
        union { float real; unsigned long bits; } number = {action[i]};
        printf("action %08lx\\n", number.bits);
    }
    cli();
    sleep_mode();
}
"""

PROGMEM = "-DEDGERL_POLICY_WEIGHTS=__attribute__((__progmem__))"


@pytest.mark.needs("avr-gcc", "simavr")
@pytest.mark.parametrize("placed", [(), (PROGMEM,)], ids=["as-it-is", "progmem"])
@pytest.mark.parametrize("precision", ["fp32", "fp16", "int8"])
def test_an_avr_reads_its_weights_from_flash(precision: Any, placed: tuple[str, ...], tmp_path: Path) -> None:
    """Emulated: constants read from the other address space, of which RAM holds none."""
    policy = random_policy(4, (5, 18, 7, 3), 1, precision)
    made = write(policy, tmp_path, Options(layout="sparse"))
    observation = observations_of(policy, 1)[0]
    numbers = ", ".join(f"{x:.9g}f" if "." in f"{x:.9g}" else f"{x}f" for x in observation.tolist())
    (tmp_path / "main.c").write_text(ARDUINO.replace("OBSERVATION}", numbers + "}"))
    run("avr-gcc", *AVR, *placed, "-c", "edgerl_policy.c", "-o", "policy.o", folder=tmp_path)
    sections = {line.split()[0]: int(line.split()[1]) for line in _sections("policy.o", tmp_path)}
    folded = observation.nbytes  # into the code: the example, where that is short
    assert made.flash_bytes - folded <= sections[".progmem.data"] <= made.flash_bytes
    assert sum(sections.get(name, 0) for name in (".data", ".rodata")) == 0
    assert sections[".bss"] == made.scratch_bytes
    run("avr-gcc", *AVR, "main.c", "policy.o", "-o", "program.elf", folder=tmp_path)
    said = subprocess.run(
        ["simavr", "-m", "atmega328p", "-f", "16000000", "program.elf"],
        cwd=tmp_path, capture_output=True, text=True, timeout=120,
    )  # fmt: skip
    printed = dict.fromkeys(re.findall(r"(self-test -?\d+|status \d|action [0-9a-f]{8})", said.stdout + said.stderr))
    lines = [line.split() for line in printed]
    assert [line for line in lines if line[0] != "action"] == [["self-test", "0"], ["status", "0"]]
    bits = np.array([int(line[1], 16) for line in lines if line[0] == "action"], np.uint32)
    expected = policy(observation, np.float64)
    span = policy.action_high.astype(np.float64) - policy.action_low
    assert np.max(np.abs(bits.view(np.float32) - expected) / span) < (1e-3 if precision == "int8" else 1e-5)


def _sections(file: str, folder: Path) -> list[str]:
    return [line for line in run("avr-size", "-A", file, folder=folder).splitlines() if line.startswith(".")]


@pytest.mark.needs("avr-gcc")
def test_what_an_avr_cannot_read_is_refused(tmp_path: Path) -> None:
    write(random_policy(4), tmp_path)
    strict = complaints("avr-gcc", "-mmcu=atmega328p", "-std=c99", "-c", "edgerl_policy.c", folder=tmp_path)
    assert len(strict) == 1
    assert "by __flash, which GCC has with -std=gnu99 or gnu11" in strict[0]
    (tmp_path / "edgerl_policy.h").write_text(
        re.sub(r"(_FLASH_BYTES) \d+", r"\1 70000", (tmp_path / "edgerl_policy.h").read_text())
    )
    large = complaints("avr-gcc", *AVR, "-c", "edgerl_policy.c", folder=tmp_path)
    assert len(large) == 1
    assert "__flash reads constants from the first 64 KiB" in large[0]
    offset = np.full(random_policy(4).n_observations, 1e9)
    write(replace(random_policy(4), observation_offset=offset).with_example(offset), tmp_path)
    (wide,) = complaints("avr-gcc", *AVR, "-c", "edgerl_policy.c", folder=tmp_path)
    assert "takes observations in double of 64 bits, which this processor's compiler has not" in wide
    exported(Case(), tmp_path)
    (learner,) = complaints("avr-gcc", "-std=gnu11", "-c", "edgerl_learner.c", folder=tmp_path)
    assert "edgerl_learner.c needs int of 32 bits and double of 64" in learner


# ---------------------------------------------------------------------------------------- refused in one sentence


def test_c_that_is_compiled_as_cpp_or_c90_is_one_sentence(tmp_path: Path) -> None:
    write(random_policy(1), tmp_path)
    exported(Case(), tmp_path)
    for options in (("-x", "c++"), ("-std=c89",)):
        (said,) = complaints("gcc", *options, "-c", "edgerl_policy.c", folder=tmp_path)
        assert "edgerl_policy.c is C99: compile it as C; a program in C++ includes edgerl_policy.h and links it" in said
    (said,) = complaints("gcc", "-x", "c++", "-c", "edgerl_learner.c", folder=tmp_path)
    assert "edgerl_learner.c is C11: compile it as C; a program in C++ includes edgerl_learner.h" in said
    (said,) = complaints("gcc", "-std=c89", "-c", "edgerl_learner.c", folder=tmp_path)
    assert "edgerl_learner.c is C11 for GCC and Clang" in said


@ON_X86
def test_a_learner_on_i386_needs_three_options_and_says_so(tmp_path: Path) -> None:
    exported(Case(), tmp_path)
    i386 = ("-m32", "-ffreestanding", "-std=c11", "-c", "edgerl_learner.c")
    (said,) = complaints("gcc", *i386, folder=tmp_path)
    assert said.startswith('#error "for i386, compile edgerl_learner.c and what includes edgerl_learner.h with -malign')
    first, *_ = complaints("gcc", *i386, "-msse2", "-mfpmath=sse", folder=tmp_path)
    assert "needs 64-bit numbers on multiples of 8 bytes; for i386, compile with -malign-double" in first
    options = re.search(r"with (-malign-double -msse2 -mfpmath=sse)", said)
    assert options is not None
    run("gcc", *i386, *options[1].split(), "-Wall", "-Wextra", "-Werror", folder=tmp_path)


# ------------------------------------------------------------------------------------------------------- licences


def test_everything_that_is_generated_says_its_licence(tmp_path: Path) -> None:
    write(random_policy(1), tmp_path)
    exported(Case(), tmp_path)
    texts = {path.name: path.read_text() for path in tmp_path.glob("edgerl_*.[ch]")} | project_files("leg")
    assert len(texts) == 10
    for name, text in texts.items():
        if name in ("library.json", "idf_component.yml"):
            assert re.search(r'"?license"?: "MIT"', text), name
        else:
            assert "SPDX-License-Identifier: MIT" in text[:500], name
        if name.endswith(".h"):
            assert "SPDX-FileCopyrightText: 2026 The edgerl authors" in text
            assert "the numbers in it, which your training found, are yours" in text
    source = texts["edgerl_learner.c"]
    for part in re.findall(r"^/\* (\w+\.[ch]) \*/$", source, re.M):
        assert f"/* {part} */\n/* SPDX-License-Identifier: MIT */\n" in source, part


def test_sources_that_are_handed_out_say_it() -> None:
    root = Path(__file__).parents[2] / "edgerl"
    handed_out = [
        *(path for path in (root / "edge/engine").iterdir() if path.suffix in (".c", ".h", ".inc")),
        *(root / "profiling/measuring/benchmark").glob("*.[cs]*"),
        *(root / "profiling/microcontroller/firmware").iterdir(),
    ]
    assert len(handed_out) > 20
    for path in handed_out:
        assert "SPDX-License-Identifier: MIT" in path.read_text()[:200], path.name


# ------------------------------------------------------------------------------------------------------- denormals


def _with_denormals() -> CompactPolicy:
    """Weights, biases and a scale of int8 weights from 1e-45 to 1e-29 amid ordinary ones."""
    rng = np.random.default_rng(0)
    tiny = np.float32(10) ** rng.uniform(-44, -29, size=(12, 7)).astype(np.float32)
    first = np.where(rng.random((12, 7)) < 0.5, tiny, rng.normal(size=(12, 7))).astype(np.float32)
    scale = np.array([0.01, 1e-40, 0.02], np.float32)
    second = make_layer(rng.integers(-127, 128, (3, 12)).astype(np.int8), np.array([1e-38, 0.5, -1e-44]), 1, scale)
    bound = np.ones(3, np.float32)
    return CompactPolicy((make_layer(first, np.full(12, 1e-39), 1), second), -bound, bound).with_example(np.ones(7))


def test_weights_below_1e_30_are_zeros_in_every_export(tmp_path: Path) -> None:
    onnx = pytest.importorskip("onnx")
    policy = _with_denormals()
    library = Library(policy, tmp_path)
    text = (tmp_path / "edgerl_policy.c").read_text()
    constants = text[text.index("_values0") : text.index("_centre")]
    exponents = [int(power) for power in re.findall(r"\de-(\d+)f", constants)]
    assert max(exponents) == 30, "1e-30 itself stays, nothing below it"
    export_policy(policy, "onnx", tmp_path / "policy.onnx")
    model = onnx.load(tmp_path / "policy.onnx")
    floats = [onnx.numpy_helper.to_array(tensor) for tensor in model.graph.initializer]
    sizes = np.concatenate([np.abs(array[array != 0]).ravel() for array in floats if array.dtype == np.float32])
    assert sizes.min() >= SMALLEST_WEIGHT
    observations = observations_of(policy, 100)
    expected = policy(observations, np.float64)  # with every one of them
    assert np.abs(library.actions(observations) - expected).max() < 2e-3
    runtime = OnnxPolicy(tmp_path / "policy.onnx")
    assert np.abs(np.stack([runtime(o) for o in observations]) - expected).max() < 2e-5


def test_nothing_else_is_changed() -> None:
    policy = random_policy(3)
    for before, after in zip(policy.layers, without_denormals(policy).layers, strict=True):
        assert np.array_equal(before.matrix(), after.matrix())
        assert np.array_equal(before.bias, after.bias)
    half = random_policy(3, precision="fp16")
    kept = replace(half, layers=tuple(half.layers))
    assert without_denormals(kept).layers[0].values.dtype == np.float16
