"""C for application processors: the actions of onnxruntime and float64 in every form, vectors where they are meant, and
what ReLU and rounding leave of the microcontroller's rules."""

from __future__ import annotations

import re
import subprocess
from dataclasses import replace
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pytest

from edgerl.commands.export import export_policy
from edgerl.edge.acting.onnx_policy import OnnxPolicy
from edgerl.export.c import Options
from edgerl.export.c.form import VECTOR_COSTS, DenseForm, RowForm, layer_form, policy_form, row_form, target_of
from edgerl.export.c.options import Layout, Precision, Target
from edgerl.policy.activation import ACTIVATIONS, ActivationName
from edgerl.policy.cell import CELLS, CellName
from edgerl.policy.compact import CompactPolicy, Head, make_layer
from edgerl.profiling.budgets.device import find_device
from edgerl.profiling.budgets.report import profile
from tests.policy.policies import episode, outlier_policy, random_policy, recurrent_policy, torch_actions, torch_episode

from .compiled_c import STRICT, Library, run, write
from .test_export_c import PROGRAM, half_cheetah, largest_difference, observations_of

X86: Target = "linux-x86-64"
WITHIN = 1e-5
"""Of the action range, in any precision: inputs are not rounded."""

LINUX = Path(__file__).parents[2] / "edgerl/profiling/microcontroller/firmware/linux.c"

ON_ARM = [
    pytest.param(compiler, emulator, target, marks=pytest.mark.needs(compiler, emulator), id=target)
    for compiler, emulator, target in (
        ("aarch64-linux-gnu-gcc", "qemu-aarch64", "linux-aarch64"),
        ("arm-linux-gnueabihf-gcc", "qemu-arm", "cortex-a"),
    )
]


@pytest.mark.parametrize("layout", get_args(Layout))
@pytest.mark.parametrize("block", [1, 4])
@pytest.mark.parametrize("precision", get_args(Precision))
def test_actions_are_those_of_onnxruntime(
    make_policy: Any, precision: Precision, block: int, layout: Layout, tmp_path: Path
) -> None:
    made = make_policy((17, 66, 300, 35, 6), precision, block)
    policy = made.policy
    export_policy(policy, "onnx", tmp_path / "policy.onnx")
    reference = OnnxPolicy(tmp_path / "policy.onnx")
    library = Library(policy, tmp_path, Options(layout=layout, target=X86), optimisation="-O3")
    observations = observations_of(policy, 1000)
    actions = library.actions(observations)
    expected = np.stack([reference(observation) for observation in observations])
    assert largest_difference(policy, actions, expected) < WITHIN
    x = (observations.astype(np.float64) - made.mean) * made.scale  # the oracle: the numbers it was made from
    for index, (weight, bias) in enumerate(zip(made.weights, made.biases, strict=True)):
        x = (x if index == 0 else np.maximum(x, 0)) @ weight.T + bias
    centre, half_range = policy.action_scaling
    assert largest_difference(policy, actions, centre + half_range * np.tanh(x)) < WITHIN
    assert np.all((actions >= policy.action_low) & (actions <= policy.action_high))
    assert library.self_test() == 0


@pytest.mark.parametrize("norm", [False, True])
@pytest.mark.parametrize(
    ("activation", "head"), [*((name, "clip") for name in ACTIVATIONS), ("relu", "tanh"), ("tanh", "tanh")]
)
def test_every_activation_norm_and_head_is_pytorchs(
    activation: ActivationName, head: Head, norm: bool, tmp_path: Path
) -> None:
    policy = random_policy(3, (7, 133, 20, 3), activation=activation, norm=norm, head=head, clip=1.5)
    library = Library(policy, tmp_path, Options(target=X86), optimisation="-O3")
    observations = observations_of(policy, 100)
    expected, actions = torch_actions(policy, observations), library.actions(observations)
    assert np.abs(actions - expected).max() < WITHIN * np.abs(expected).max(initial=1)
    assert np.all((actions >= policy.action_low) & (actions <= policy.action_high))
    assert library.self_test() == 0
    assert library.act(np.where(np.arange(7) == 3, np.nan, observations[0]))[0] == 1


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_an_activation_is_right_up_to_the_largest_sums_and_hides_no_overflow(
    activation: ActivationName, tmp_path: Path
) -> None:
    """One unit, whose value is the action: sums far beyond where exponentials are clipped, and what is not finite."""
    one, bound = np.ones((1, 1), np.float32), np.full(1, 1e30, np.float32)
    hidden = replace(make_layer(one * 2, np.zeros(1, np.float32), 1), activation=activation)
    policy = CompactPolicy((hidden, make_layer(one, np.zeros(1, np.float32), 1)), -bound, bound, head="clip")
    library = Library(policy, tmp_path, Options(target=X86, layout="dense"), optimisation="-O3")
    values = np.concatenate([np.linspace(-60, 60, 601), [-1e4, 1e4, -1e25, 1e25, 0, -1e-30]])[:, None]
    expected = torch_actions(policy, values.astype(np.float32))
    np.testing.assert_allclose(library.actions(values), expected, rtol=1e-6, atol=4e-7)
    assert library.act([3e38])[0] == 1
    assert library.act([-3e38])[0] == (activation != "relu")


@pytest.mark.parametrize("kind", CELLS)
@pytest.mark.parametrize(
    ("precision", "block", "layout"), [("fp32", 1, "auto"), ("fp16", 4, "sparse"), ("int8", 1, "dense")]
)
@pytest.mark.parametrize(("cells", "before"), [(2, 0), (1, 6)])
def test_an_episode_of_a_recurrent_policy_is_pytorchs(
    kind: CellName, precision: Precision, block: int, layout: Layout, cells: int, before: int, tmp_path: Path
) -> None:
    policy, outputs = recurrent_policy(
        kind, (11, 34, 19, 3), cells=cells, before=before, precision=precision, block=block, density=0.6
    )
    library = Library(policy, tmp_path, Options(layout=layout, target=X86), optimisation="-O3")
    seen = episode(policy, 1000)
    actions = library.actions(seen)
    assert largest_difference(policy, actions, policy(seen, np.float64)) < WITHIN
    if precision == "fp32":
        assert largest_difference(policy, actions, torch_episode(policy, outputs, seen)) < WITHIN


@pytest.mark.parametrize(("compiler", "emulator", "target"), ON_ARM)
@pytest.mark.parametrize("precision", get_args(Precision))
def test_it_computes_the_same_on_an_emulated_arm(
    compiler: str, emulator: str, target: Target, precision: Precision, tmp_path: Path
) -> None:
    for block, layout, activation in (
        (1, "auto", "elu"),
        (1, "sparse", "relu"),
        (4, "sparse", "silu"),
        (4, "dense", "relu"),
    ):
        policy = random_policy(4, (11, 60, 33, 5), block, precision, activation=activation)  # type: ignore[arg-type]
        write(policy, tmp_path, Options(layout=layout, target=target))  # type: ignore[arg-type]
        run(compiler, *STRICT, "-O3", "-static", "-I.", LINUX, "edgerl_policy.c", "-o", "policy", folder=tmp_path)
        observations = observations_of(policy, 50)
        lines = "".join(" ".join(f"{x:.9g}" for x in line) + "\n" for line in observations.tolist())
        done = subprocess.run(
            [emulator, tmp_path / "policy"], input=lines, capture_output=True, text=True, check=True, timeout=120
        )
        actions = np.array(done.stdout.split(), np.float64).reshape(50, 5)
        assert largest_difference(policy, actions, policy(observations, np.float64)) < WITHIN


@pytest.mark.needs("clang", "aarch64-linux-gnu-gcc", "arm-linux-gnueabihf-gcc")
@pytest.mark.parametrize("precision", get_args(Precision))
def test_it_compiles_in_silence_and_asks_for_no_more_than_the_header_says(precision: Precision, tmp_path: Path) -> None:
    compilers = ("gcc", "clang", "aarch64-linux-gnu-gcc", "arm-linux-gnueabihf-gcc")
    for block, layout, activation in ((1, "sparse", "elu"), (4, "sparse", "gelu"), (1, "dense", "relu")):
        policy = random_policy(0, (5, 18, 30, 7, 3), block, precision, activation=activation)  # type: ignore[arg-type]
        write(policy, tmp_path, Options(layout=layout, target=X86))  # type: ignore[arg-type]
        for compiler in compilers:
            for standard, level in (("-std=c99", "-O0"), ("-std=c11", "-O3")):
                options = (*STRICT, standard, level, "-fno-stack-protector", "-ffreestanding")
                run(compiler, *options, "-c", "edgerl_policy.c", "-o", "policy.o", folder=tmp_path)
                nm = "aarch64-linux-gnu-nm" if "aarch64" in compiler else "nm"
                if compiler != "arm-linux-gnueabihf-gcc":
                    undefined = {line.split()[-1] for line in run(nm, "-u", "policy.o", folder=tmp_path).splitlines()}
                    assert undefined <= {"memcpy", "memset", "memmove", "_GLOBAL_OFFSET_TABLE_"}


PACKED = {
    "gcc": r"\bv?mulps\b|\bvfn?m?madd\d+ps\b|\bvfmadd\d+ps\b",
    "clang": r"\bv?mulps\b|\bvfmadd\d+ps\b",
    "aarch64-linux-gnu-gcc": r"\bfml[as]\s+v\d+\.4s",
}
"""Instructions that multiply several floats."""

FUNCTIONS = ("eight_fp32", "rows4_fp32_column8_count8", "all_elu", "all_silu", "all_gelu", "all_tanh")


@pytest.mark.needs("clang", "aarch64-linux-gnu-gcc")
@pytest.mark.parametrize("compiler", PACKED)
def test_compilers_make_vectors_of_its_loops(compiler: str, tmp_path: Path) -> None:
    if compiler != "aarch64-linux-gnu-gcc" and "x86" not in run(compiler, "-dumpmachine", folder=tmp_path):
        pytest.skip("a machine without SSE")
    found = set()
    for activation, block, layout in (
        *(("elu", 1, "dense"), ("relu", 1, "dense"), ("silu", 4, "sparse")),
        *(("gelu", 4, "sparse"), ("tanh", 4, "sparse")),
    ):
        policy = random_policy(0, (40, 64, 64, 8), block, activation=activation)  # type: ignore[arg-type]
        made = write(policy, tmp_path, Options(layout=layout, target=X86))  # type: ignore[arg-type]
        alone = re.sub(r"^static (inline )?void edgerl_policy_", "void edgerl_policy_", made.source, flags=re.MULTILINE)
        (tmp_path / "alone.c").write_text(alone)  # so that each function is there under its name
        run(compiler, "-O3", "-S", "alone.c", folder=tmp_path)
        text = (tmp_path / "alone.s").read_text()
        for name in FUNCTIONS:
            body = re.search(rf"^edgerl_policy_{name}:(.*?)^\s*\.size", text, re.MULTILINE | re.DOTALL)
            if body and re.search(PACKED[compiler], body[1]):
                found.add(name)
    assert found == set(FUNCTIONS)


def test_the_form_is_the_fastest_of_those_that_were_measured() -> None:
    """On x86-64 single connections pay below a tenth of a dense layer's weights, blocks of four below two fifths; a
    layer of few outputs is held by rows of four, dense as it is."""

    def names(density: float, block: int, active: float, target: Target = X86) -> list[Any]:
        forms = (layer_form(layer, "auto", target, active) for layer in half_cheetah(density, block).layers)
        return [form.block if isinstance(form, RowForm) else "dense" for form in forms]

    assert names(1, 1, 1.0) == names(0.5, 1, 1.0) == names(0.5, 4, 1.0) == ["dense", "dense", 4]
    assert names(0.1, 4, 0.25)[1] == 4
    assert names(0.1, 1, 0.25)[1] == "dense"
    assert names(0.03, 1, 0.25)[1] == 1
    assert names(0.3, 1, 1.0, "cortex-a")[1] == 1
    assert [target for target in get_args(Target) if target in VECTOR_COSTS] == [X86, "linux-aarch64", "cortex-a"]


@pytest.mark.parametrize(("block", "n_inputs"), [(1, 9), (4, 9), (1, 300), (4, 7000)])
def test_rows_hold_the_layer(block: int, n_inputs: int) -> None:
    """Decoded again by hand."""
    rng = np.random.default_rng(0)
    weight = (rng.normal(size=(10, n_inputs)) * (rng.random((10, n_inputs)) < 0.3)).astype(np.float32)
    form = row_form(make_layer(weight, np.zeros(10, np.float32), 1), block)
    decoded, entry = np.zeros((12, n_inputs), np.float32), 0
    for row, count in enumerate(form.counts.tolist()):
        for _ in range(count):
            decoded[block * row : block * (row + 1), form.columns[entry]] = form.values[entry]
            entry += 1
    assert entry == len(form.columns)
    assert np.array_equal(decoded[:10], weight)
    assert not decoded[10:].any()


def test_a_row_of_65536_connections_is_counted(tmp_path: Path) -> None:
    layer = make_layer(np.full((1, 65_536), 2.0**-16, np.float32), np.zeros(1, np.float32), 1)
    policy = CompactPolicy((layer,), -np.ones(1, np.float32), np.ones(1, np.float32))
    library = Library(policy, tmp_path, Options(layout="sparse", target=X86), optimisation="-O3")
    assert library.act(np.full(65_536, 0.5))[1] == pytest.approx(np.tanh([0.5]), abs=1e-6)


@pytest.mark.parametrize("precision", get_args(Precision))
def test_the_reentrant_form_is_the_same_under_sanitizers(precision: Precision, tmp_path: Path) -> None:
    for block, layout, widths in ((1, "sparse", (5, 301, 9, 3)), (4, "sparse", (5, 30, 9, 3)), (1, "dense", (5, 9, 3))):
        for activation in ("relu", "elu"):
            policy = random_policy(0, widths, block, precision, activation=activation)  # type: ignore[arg-type]
            write(policy, tmp_path, Options(layout=layout, target=X86))  # type: ignore[arg-type]
            (tmp_path / "main.c").write_text(PROGRAM)
            sanitized = ("-fsanitize=address,undefined,float-cast-overflow", "-fno-sanitize-recover=all", "-g", "-O1")
            run("gcc", "-std=c99", *sanitized, "edgerl_policy.c", "main.c", "-o", "main", folder=tmp_path)
            run(tmp_path / "main", folder=tmp_path)


@pytest.mark.parametrize("precision", get_args(Precision))
def test_announced_bytes_are_those_of_the_compiler_and_of_the_profile(precision: Precision, tmp_path: Path) -> None:
    policy = random_policy(5, (11, 300, 41, 6), 4, precision, density=0.1)
    made = write(policy, tmp_path, Options(target="linux-aarch64"))
    run("gcc", *STRICT, "-O1", "-fdata-sections", "-c", "edgerl_policy.c", "-o", "policy.o", folder=tmp_path)
    sections = [line.split() for line in run("size", "-A", "policy.o", folder=tmp_path).splitlines()]
    sizes = {words[0]: int(words[1]) for words in sections if len(words) == 3 and words[0].startswith(".")}
    folded = 16 * 6  # small constants, which the compiler may keep in code or add
    constants = sum(size for name, size in sizes.items() if name.startswith(".rodata"))
    assert made.flash_bytes - folded <= constants <= made.flash_bytes + folded
    assert sum(size for name, size in sizes.items() if name.startswith((".bss", ".data"))) == made.scratch_bytes
    assert profile(policy, "raspberry-pi-5", runtime="c").model_bytes == made.flash_bytes


def test_boards_have_their_target(tmp_path: Path) -> None:
    cpu = find_device("raspberry-pi-5").cpu
    assert target_of(cpu.core, cpu.architecture) == "linux-aarch64"
    cpu = find_device("beaglebone-black").cpu
    assert target_of(cpu.core, cpu.architecture) == "cortex-a"
    assert target_of("AMD EPYC", "x86_64") == X86
    assert target_of("Cortex-M7", "armv7e-m") == "cortex-m7"
    assert target_of("SiFive U74", "riscv64") == "generic"
    policy = half_cheetah(0.1, 4)
    report = export_policy(policy, "c", tmp_path / "c", device="jetson-nano", project=True)
    assert report.target == "linux-aarch64"  # type: ignore[attr-defined]
    assert "Target      jetson-nano (linux-aarch64)" in (tmp_path / "c/edgerl_policy.h").read_text()
    assert "PRIVATE -O3 -ffp-contract=fast" in (tmp_path / "c/CMakeLists.txt").read_text()
    assert any(isinstance(form, RowForm) for form in policy_form(policy, None, "auto", "linux-aarch64").layers)
    assert all(isinstance(form, DenseForm) for form in policy_form(policy, None, "dense", "linux-aarch64").layers)


@pytest.mark.parametrize("precision", ["int8", "int4"])
def test_outliers_and_int4_are_floats_there(precision: Any, tmp_path: Path) -> None:
    policy = outlier_policy(0, (17, 66, 30, 6), 1, precision)
    library = Library(policy, tmp_path, Options(target=X86), optimisation="-O3")
    observations = observations_of(policy, 300)
    assert largest_difference(policy, library.actions(observations), policy(observations, np.float64)) < WITHIN
    form = policy_form(policy, None, "auto", X86)
    assert {layer.precision for layer in form.policy.layers} <= {"fp32", "int8"}
    assert not any(layer.outliers is not None or layer.is_int4 for layer in form.policy.layers)
