"""Measuring C for microcontrollers: sizes, stack, instructions counted in QEMU, modelled cycles.

What a processor executes is known here by hand: loops of assembly whose instructions can be counted by reading them.
"""

from __future__ import annotations

import subprocess
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest

from edgerl.errors import ConfigError, MissingExtraError, UnsupportedModelError
from edgerl.export.c import Options
from edgerl.export.c.source import Provenance, generate
from edgerl.profiling.microcontroller import toolchain
from edgerl.profiling.microcontroller.cycles import Block, cortex_m4_cycles, straight_runs
from edgerl.profiling.microcontroller.emulator import (
    Executed,
    build_measured,
    build_program,
    call_of,
    execute,
    firmware_file,
    instructions_by_clock,
    run_on_board,
)
from edgerl.profiling.microcontroller.measure import measure_policy
from edgerl.profiling.microcontroller.toolchain import CORES, Function, compile_sources, find_core, worst_stack
from tests.policy.policies import random_policy

OBSERVATIONS = np.array([[0.5, -2.0, 3.25], [-1.0, 0.125, 7.0]], np.float32)

LINEAR = """
int policy(const float *observation, float *action);
int policy(const float *observation, float *action) {
    static const float weight[2][3] = {{1.0f, 2.0f, -1.0f}, {0.5f, 0.0f, 4.0f}};
    for (int i = 0; i < 2; i++) {
        float sum = 0.0f;
        for (int j = 0; j < 3; j++) {
            sum += weight[i][j] * observation[j];
        }
        action[i] = sum;
    }
    return 0;
}
"""
WEIGHT = np.array([[1.0, 2.0, -1.0], [0.5, 0.0, 4.0]])

LOOP = """
int policy(const float *observation, float *action);
__attribute__((naked)) int policy(const float *observation, float *action) {
    __asm__ volatile(
        ".syntax unified\\n"
        "movs r2, #250\\n"
        "lsls r2, #4\\n"
        "1: subs r2, #1\\n"
        "bne 1b\\n"
        "movs r2, #0\\n"
        "str r2, [r1]\\n"
        "str r2, [r1, #4]\\n"
        "movs r0, #0\\n"
        "bx lr\\n");
}
"""
LOOP_INSTRUCTIONS = 2 + 4000 * 2 + 5


def _source(folder: Path, text: str) -> Path:
    path = folder / "policy.c"
    path.write_text(text)
    return path


# ------------------------------------------------------------------------------------------------ compiler, stack


def test_a_core_that_is_not_known_is_refused_with_those_that_are() -> None:
    with pytest.raises(ConfigError, match=r"cortex-m5'; expected one of cortex-m0plus, .*cortex-m33; did you mean"):
        find_core("cortex-m5")


def test_without_the_cross_compiler_one_line_names_the_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nowhere")
    with pytest.raises(MissingExtraError, match=r"arm-none-eabi-gcc is not installed.*apt install gcc-arm-none-eabi"):
        measure_policy([_source(tmp_path, LINEAR)], "policy", OBSERVATIONS, 2)


@pytest.mark.needs("arm-none-eabi-gcc")
def test_an_optimisation_that_is_not_known_and_c_that_does_not_compile_are_refused(tmp_path: Path) -> None:
    source = _source(tmp_path, "int policy(")
    with pytest.raises(ConfigError, match=r"the optimisation is '-O9'; expected one of -O2, -O3, -Os"):
        compile_sources([source], CORES["cortex-m7"], "-O9", tmp_path)
    with pytest.raises(
        UnsupportedModelError, match=r"policy.c: arm-none-eabi-gcc ended with code 1: .*error: expected"
    ):
        compile_sources([source], CORES["cortex-m7"], "-O2", tmp_path)


@pytest.mark.needs("arm-none-eabi-gcc")
def test_sizes_are_those_of_the_sections(tmp_path: Path) -> None:
    text = "const int constants[100] = {1};\nint data[10] = {1};\nint nothing[1000];\n"
    sizes = compile_sources([_source(tmp_path, text)], CORES["cortex-m4f"], "-O2", tmp_path).sizes
    assert (sizes.text, sizes.data, sizes.bss) == (400, 40, 4000)


def test_the_worst_stack_is_the_deepest_chain() -> None:
    functions = {
        "entry": Function(16, frozenset({"left", "right"}), True),
        "left": Function(100, frozenset({"deep"}), True),
        "right": Function(40, frozenset({"tanhf"}), True),
        "deep": Function(8, frozenset(), True),
    }
    stack = worst_stack(functions, "entry")
    assert (stack.bytes, stack.not_covered) == (16 + 100 + 8, ("tanhf",))


@pytest.mark.parametrize(
    ("function", "message"),
    [
        (Function(8, frozenset({"entry"}), True), "entry calls itself: its stack has no bound"),
        (Function(8, frozenset(), False), "the stack of entry grows with an argument: it has no bound"),
    ],
)
def test_a_stack_without_a_bound_is_said_to_have_none(function: Function, message: str) -> None:
    with pytest.raises(UnsupportedModelError, match=message):
        worst_stack({"entry": function}, "entry")


@pytest.mark.needs("arm-none-eabi-gcc", "qemu-system-arm")
def test_the_compilers_stack_and_the_stack_that_was_written_agree(tmp_path: Path) -> None:
    """A frame of 400 bytes, all written; the rest of both is a few saved registers."""
    text = """
    int policy(const float *observation, float *action);
    int policy(const float *observation, float *action) {
        volatile float frame[100];
        for (int i = 0; i < 100; i++) {
            frame[i] = observation[i % 3];
        }
        action[0] = action[1] = frame[7];
        return 0;
    }
    """
    measured = measure_policy([_source(tmp_path, text)], "policy", OBSERVATIONS, 2, "cortex-m4f")
    assert measured.stack is not None
    assert measured.counted is not None
    assert 400 <= measured.stack.bytes <= 416
    assert measured.stack.bytes <= measured.counted.stack_bytes <= measured.stack.bytes + 32
    assert measured.stack.not_covered == ()


# ------------------------------------------------------------------------------------------------ counting


@pytest.mark.needs("arm-none-eabi-gcc", "qemu-system-arm")
@pytest.mark.parametrize("core", CORES)
def test_counted_instructions_are_those_that_one_reads_and_agree_with_the_boards_clock(
    tmp_path: Path, core: str
) -> None:
    compiled = compile_sources([_source(tmp_path, LOOP)], CORES[core], "-O2", tmp_path)
    program = build_measured(compiled.objects, call_of("policy"), OBSERVATIONS, 2, CORES[core], tmp_path)
    execution = execute(program, CORES[core])
    assert execution.instructions.tolist() == [LOOP_INSTRUCTIONS, LOOP_INSTRUCTIONS]
    tick = 1e9 / CORES[core].clock_hz
    assert abs(instructions_by_clock(program, CORES[core]) - LOOP_INSTRUCTIONS) < 12 + tick  # calls around it; a tick
    loop = max(execution.executed, key=lambda each: each.left)
    assert (loop.executions, loop.left) == (8000, 7998)  # of two calls


@pytest.mark.needs("arm-none-eabi-gcc", "qemu-system-arm", "llvm-mca")
def test_the_emulated_core_computes_the_products(tmp_path: Path) -> None:
    measured = measure_policy([_source(tmp_path, LINEAR)], "policy", OBSERVATIONS, 2, "cortex-m7", "-O3")
    assert measured.counted is not None
    np.testing.assert_array_equal(measured.counted.actions, OBSERVATIONS @ WEIGHT.T)
    figures = measured.as_dict()
    assert figures["calls"] == 2
    assert figures["instructions_per_call"] < figures["modelled_cycles_per_call"] * 2  # it issues two at most
    assert "llvm-mca" in figures["cycle_model"]


@pytest.mark.needs("arm-none-eabi-gcc", "qemu-system-arm")
@pytest.mark.parametrize("core", ["cortex-m0plus", "cortex-m4f", "cortex-m7"])
def test_the_emulated_core_subtracts_an_offset_in_double(core: str, tmp_path: Path) -> None:
    """Two of them have no instruction for that: the compiler's own routines do it."""
    policy = random_policy(0, (3, 8, 2), offset=True)
    assert policy.observation_offset is not None
    made = generate(policy, options=Options(), provenance=Provenance("0" * 64))
    for name, text in (("edgerl_policy.h", made.header), ("edgerl_policy.c", made.source)):
        (tmp_path / name).write_text(text)
    observations = policy.observation_offset + np.random.default_rng(0).normal(size=(4, 3))
    measured = measure_policy([tmp_path / "edgerl_policy.c"], "edgerl_policy", observations, 2, core)
    assert measured.counted is not None
    seen = (observations.astype(np.longdouble) - policy.observation_offset).astype(np.float32)
    span = policy.action_high.astype(np.float64) - policy.action_low
    difference = measured.counted.actions - policy.without_offset(seen, np.float64)
    assert np.abs(difference / span).max() < 1e-5


@pytest.mark.needs("arm-none-eabi-gcc")
def test_without_the_emulator_the_sizes_remain_and_the_reason_is_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = toolchain.find_program
    monkeypatch.setattr(toolchain, "find_program", lambda name: None if name.startswith("qemu") else found(name))
    measured = measure_policy([_source(tmp_path, LINEAR)], "policy", OBSERVATIONS, 2)
    assert measured.counted is None
    assert measured.sizes.text > 24
    assert "qemu-system-arm is not installed" in measured.as_dict()["not_counted"]


@pytest.mark.needs("arm-none-eabi-gcc", "qemu-system-arm")
def test_a_program_that_faults_ends_with_one_line(tmp_path: Path) -> None:
    text = "int policy(const float *o, float *a);\nint policy(const float *o, float *a) {"
    text += " (void)o; *(volatile float *)0xf0000000u = *a; return 0; }\n"
    compiled = compile_sources([_source(tmp_path, text)], CORES["cortex-m4f"], "-O2", tmp_path)
    program = build_measured(compiled.objects, call_of("policy"), OBSERVATIONS, 2, CORES["cortex-m4f"], tmp_path)
    with pytest.raises(UnsupportedModelError, match=r"measured.elf: qemu-system-arm ended with code 3"):
        run_on_board(program, CORES["cortex-m4f"])


# ------------------------------------------------------------------------------------------------ cycles


def test_cycles_of_a_cortex_m4_are_the_manuals() -> None:
    """By hand, from DDI 0439: VLDM 1 + 4, VFMA 3, SUBS 1, BNE 1 + 2 where taken; the loop runs ten times."""
    loop = ["vldmia r3!, {s12-s15}", "vfma.f32 s0, s12, s8", "subs r2, #1", "bne.n 100 <loop>"]
    text = {0x100 + 4 * i: line for i, line in enumerate(loop)}
    executed = [Executed(address, 10, 9 if line.startswith("b") else 0) for address, line in text.items()]
    assert cortex_m4_cycles(executed, text) == 10 * (5 + 3 + 1 + 1) + 9 * 2


@pytest.mark.parametrize(
    ("line", "cycles"),
    [
        ("vldr s15, [r3, #4]", 2),
        ("vldr d8, [r3, #4]", 3),
        ("vstr s15, [r3]", 2),
        ("vpush {d8-d9}", 5),
        ("push {r4, r5, lr}", 4),
        ("ldmia.w r0!, {r1-r4, r9}", 6),
        ("vadd.f32 s0, s1, s2", 1),
        ("vfnms.f32 s0, s1, s2", 3),
        ("vmrs APSR_nzcv, fpscr", 1),
        ("vmov.f32 s0, s1", 1),
        ("vmov r0, r1, s0, s1", 2),
        ("vdiv.f32 s0, s1, s2", 14),
        ("ldr r3, [r2, #4]", 2),
        ("ldrd r2, r3, [r1]", 3),
        ("str r3, [r2, #4]", 1),
        ("str.w r3, [r2, r4]", 2),
        ("ldrb.w r3, [r2], #1", 2),
        ("mla r0, r1, r2, r3", 2),
        ("muls r0, r1", 1),
        ("sdiv r0, r1, r2", 12),
        ("add.w r3, r3, r2, lsl #2", 1),
    ],
)
def test_an_instruction_costs_what_the_manual_says(line: str, cycles: int) -> None:
    assert cortex_m4_cycles([Executed(0, 1, 0)], {0: line}) == cycles


@pytest.mark.parametrize(
    ("first", "second", "cycles"),
    [
        ("ldr r3, [r2]", "ldr r4, [r2, #4]", 2 + 1),  # pipelined
        ("ldr r2, [r2]", "ldr r4, [r2, #4]", 2 + 2),  # its address waits
        ("vmul.f32 s0, s1, s2", "vadd.f32 s3, s0, s4", 1 + 1 + 1),  # the result is used at once
        ("vmul.f32 s0, s1, s2", "vadd.f32 s0, s3, s4", 1 + 1),
        ("vfma.f32 s0, s1, s2", "vfma.f32 s0, s3, s4", 3 + 3 + 1),  # it adds to it
    ],
)
def test_neighbours_of_a_cortex_m4(first: str, second: str, cycles: int) -> None:
    executed = [Executed(0, 1, 0), Executed(4, 1, 0)]
    assert cortex_m4_cycles(executed, {0: first, 4: second}) == cycles


def test_straight_runs_end_at_branches_and_where_counts_change() -> None:
    text = {0: "movs r0, #1", 2: "subs r0, #1", 4: "bne.n 2", 6: "nop", 8: "bx lr"}
    executed = [Executed(0, 1, 0), Executed(2, 10, 0), Executed(4, 10, 9), Executed(6, 1, 0), Executed(8, 1, 1)]
    expected = [Block(("movs r0, #1",), 1), Block(("subs r0, #1", "bne.n 2"), 10), Block(("nop", "bx lr"), 1)]
    assert straight_runs(executed, text) == expected


@pytest.mark.needs("arm-none-eabi-gcc", "qemu-system-arm", "llvm-mca")
def test_llvm_models_what_this_compiler_makes_of_a_policys_loops(tmp_path: Path) -> None:
    """A chain of dependent multiply-adds: LLVM's model of the Cortex-M7 says 3 cycles for each."""
    text = """
    int policy(const float *observation, float *action);
    int policy(const float *observation, float *action) {
        float x = observation[0], y = observation[1];
        for (int i = 0; i < 10; i++) {
            __asm__ volatile(".rept 100\\n vfma.f32 %0, %1, %1\\n .endr" : "+t"(x) : "t"(y));
        }
        action[0] = action[1] = x;
        return 0;
    }
    """
    measured = measure_policy([_source(tmp_path, text)], "policy", OBSERVATIONS, 2, "cortex-m7")
    assert measured.counted is not None
    assert measured.counted.cycles == pytest.approx(3000, rel=0.03)


# ------------------------------------------------------------------------------------------------ firmware examples


@pytest.fixture
def exported(tmp_path: Path) -> Path:
    """A tiny policy's C."""
    from edgerl.export.c import Options
    from edgerl.export.c.source import Provenance, generate
    from edgerl.policy.compact import CompactPolicy, make_layer

    generator = np.random.default_rng(0)
    widths = (3, 8, 8, 2)
    layers = tuple(
        make_layer(generator.normal(size=(m, n)).astype(np.float32), np.zeros(m, np.float32), 1)
        for n, m in pairwise(widths)
    )
    bound = np.ones(2, np.float32)
    policy = CompactPolicy(layers, -bound, bound).with_example(OBSERVATIONS[0])
    made = generate(policy, options=Options(), provenance=Provenance("0" * 64))
    (tmp_path / "edgerl_policy.h").write_text(made.header)
    (tmp_path / "edgerl_policy.c").write_text(made.source)
    return tmp_path


@pytest.mark.needs("arm-none-eabi-gcc", "qemu-system-arm")
@pytest.mark.parametrize("core", CORES)
def test_the_firmware_example_runs_the_self_test_and_a_loop(exported: Path, core: str) -> None:
    program = build_program(
        ["example.c", exported / "edgerl_policy.c"], CORES[core], exported, includes=[exported], name="example.elf"
    )
    assert run_on_board(program, CORES[core]).splitlines() == ["self-test: passed", "steps 100"]


@pytest.mark.needs("arm-none-eabi-gcc", "qemu-system-arm")
def test_the_firmware_example_notices_a_board_that_computes_something_else(exported: Path) -> None:
    source = (exported / "edgerl_policy.c").read_text()
    broken = exported / "broken.c"
    broken.write_text("#define edgerl_policy_self_test self_test_of_another\n" + source)
    (exported / "fails.c").write_text(
        "int edgerl_policy_self_test(void);\nint edgerl_policy_self_test(void) { return 1; }\n"
    )
    core = CORES["cortex-m4f"]
    program = build_program(["example.c", broken, exported / "fails.c"], core, exported, includes=[exported])
    with pytest.raises(UnsupportedModelError, match=r"qemu-system-arm ended with code 1"):
        run_on_board(program, core)


@pytest.mark.needs("aarch64-linux-gnu-gcc", "qemu-aarch64")
def test_the_linux_example_answers_as_the_example_pair_does(exported: Path) -> None:
    (exported / "linux.c").write_text(firmware_file("linux.c"))
    command = [
        "aarch64-linux-gnu-gcc",
        "-std=c99",
        "-O3",
        "-static",
        "linux.c",
        "edgerl_policy.c",
        "-lm",
        "-o",
        "policy",
    ]
    subprocess.run(command, cwd=exported, check=True)
    lines = " ".join(map(str, OBSERVATIONS[0])) + "\n"
    done = subprocess.run(
        ["qemu-aarch64", exported / "policy"], input=lines, capture_output=True, text=True, check=True
    )
    assert len(done.stdout.split()) == 2
    assert all(-1 <= float(word) <= 1 for word in done.stdout.split())


@pytest.mark.needs("arm-none-eabi-gcc", "qemu-system-arm", "aarch64-linux-gnu-gcc")
def test_the_makefile_builds_and_runs_them(exported: Path) -> None:
    firmware = exported / "firmware"
    firmware.mkdir()
    for name in ("Makefile", "startup.c", "semihosting.c", "semihosting.h", "mps2.ld", "example.c", "linux.c"):
        (firmware / name).write_text(firmware_file(name))
    done = subprocess.run(
        ["make", "-s", "POLICY=..", "run-m4f", "run-m7", "linux"],
        cwd=firmware,
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.count("self-test: passed") == 2
    assert (firmware / "build" / "policy-aarch64").is_file()
