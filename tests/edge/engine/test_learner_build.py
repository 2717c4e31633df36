"""The learner's C: under sanitizers, against damaged arenas, and on other machines."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tests.edge.compiled import (
    CHECKS_AS_CALLS,
    HERE,
    ON_AARCH64,
    ON_CORTEX_M7,
    SANITIZED,
    Target,
    compile_c,
    compile_for,
    run,
    run_on,
)

MUTANTS = round(100_000 * float(os.environ.get("EDGERL_SOAK", "0.1")))
SEED = 20220526

ON_MACHINES = [
    pytest.param(ON_AARCH64, id="aarch64", marks=pytest.mark.needs("aarch64-linux-gnu-gcc", "qemu-aarch64")),
    pytest.param(ON_CORTEX_M7, id="cortex-m7", marks=pytest.mark.needs("arm-none-eabi-gcc", "qemu-system-arm")),
]


@pytest.fixture(scope="module")
def sanitized(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """learner_test.c with all kernels, under both sanitizers."""
    binary = tmp_path_factory.mktemp("sanitized") / "learner_test"
    compile_c("gcc", "-Og", *SANITIZED, *CHECKS_AS_CALLS, HERE / "learner_test.c", "-o", binary)
    return binary


@pytest.mark.parametrize("what", ["updates", "kernels", "arguments"])
def test_what_holds_for_every_learner(what: str, sanitized: Path) -> None:
    run(sanitized, what)


@pytest.mark.soak
def test_no_damage_leads_the_engine_astray(sanitized: Path) -> None:
    run(sanitized, "fuzz", MUTANTS, SEED)


def test_in_double_too(tmp_path: Path) -> None:
    binary = tmp_path / "learner_test"
    compile_c("gcc", "-Og", *SANITIZED, "-DEDGERL_DOUBLE", HERE / "learner_test.c", "-lm", "-o", binary)
    run(binary, "updates")
    run(binary, "arguments")


@pytest.fixture(scope="module")
def expected(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """expected.c: all that the naive kernels of this machine learn in learner_vectors.c."""
    folder = tmp_path_factory.mktemp("vectors")
    compile_c("gcc", "-O1", "-DWRITE", HERE / "learner_vectors.c", "-o", folder / "write")
    (folder / "expected.c").write_text(run(folder / "write"))
    return folder / "expected.c"


@pytest.mark.parametrize("target", ON_MACHINES)
def test_other_machines_learn_the_same(target: Target, expected: Path, tmp_path: Path) -> None:
    program = compile_for(target, HERE / "learner_vectors.c", tmp_path)
    run_on(target, program, expected)
    text = expected.read_text()
    words, numbers = text.index("WORDS[] = {"), text.index("NUMBERS[] = {")
    for array in (words, numbers):
        wrong = tmp_path / "wrong.c"
        wrong.write_text(_with_another_element(text, array))
        with pytest.raises(AssertionError, match="exit code"):
            run_on(target, program, wrong)


def _with_another_element(text: str, array: int) -> str:
    """The C source with the fifth element of the array that begins at `array` a little larger."""
    begin = array
    for _ in range(5):
        begin = text.index("\n", begin) + 1
    end = text.index(",", begin)
    return f"{text[:begin]}({text[begin:end]} + {'1e-5f' if 'f' in text[begin:end] else 1}){text[end:]}"
