"""A learner as C, here under sanitizers and on an emulated Cortex-M7, against the engine as Python has it."""

from __future__ import annotations

import ctypes
import re
import struct
import subprocess
import zlib
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import pytest

from edgerl.edge.continual import bundle
from edgerl.edge.continual.origin import Origin, read_origin
from edgerl.edge.continual.replay import Boundary
from edgerl.edge.continual.transitions import Transitions
from edgerl.edge.engine.arena import NETWORKS, LayerArrays, LearnerArena
from edgerl.edge.engine.library import CROSSQ, SAC, LearnerConfig, Progress, library
from edgerl.edge.engine.random import Draws, Purpose
from edgerl.errors import CheckFailed, ConfigError, OutputError
from edgerl.export.c_learner.sizes import Budget
from edgerl.export.c_learner.source import CLearner, chunk_bits, make_c_learner, without_zeros, write_c_learner
from edgerl.export.c_learner.text import comment_line, float_literal
from edgerl.files.tensors import TensorReader
from edgerl.policy.activation import ACTIVATIONS
from edgerl.policy.compact import action_scaling
from tests.edge.compiled import CHECKS_AS_CALLS, CORTEX_M7, HERE, SANITIZED, WARNINGS, compile_c, run
from tests.edge.learners import TD3, Step, learner_config, steps, write_bundle

Array = npt.NDArray[Any]

N, M, CAPACITY = 5, 3, 90
FIRST, COUNT, UPDATES, FURTHER, ACTED = 64, 120, 200, 50, 20
"""Transitions before and after a save; updates likewise, evolution every fiftieth; observations that are acted upon."""

TOLERANCE = 1e-6
"""Of weights and biases after 200 updates: another order of additions, and fused multiply-adds or none. They differed
by 9e-8 (GCC 12; AVX-512 against scalar code of an x86-64 and of an emulated Cortex-M7)."""

FIRMWARE = Path(__file__).with_name("learner_firmware.c")
QEMU = (
    *("qemu-system-arm", "-machine", "mps2-an500", "-nographic", "-monitor", "none", "-serial", "none"),
    *("-semihosting-config", "enable=on,target=native", "-kernel"),
)


ELU, SILU, TANH = (list(ACTIVATIONS).index(name) for name in ("elu", "silu", "tanh"))
"""Numbers of edgerl_activation."""


class Case(NamedTuple):
    """A learner to export."""

    block: int = 1
    precision: str = "fp32"
    normalise: bool = False
    n_step: int = 1
    widths: tuple[int, ...] = (16, 12)
    batch: int = 16
    percent: int = 50
    prefix: str = "edgerl_learner"
    norm: int = 0  # an edgerl_norm, of the critics
    clip: float = 0.0  # the norm of gradients
    algorithm: int = TD3
    activation: int = 0  # an edgerl_activation
    dropout: float = 0.0


CASES = [
    pytest.param(Case(), id="single-fp32"),
    pytest.param(Case(4, "fp16", normalise=True), id="block-4-fp16"),
    pytest.param(Case(1, "fp16", n_step=3, widths=(10, 16, 12)), id="single-fp16-n-step"),
    pytest.param(Case(4, norm=1, widths=(18, 12), clip=0.5), id="block-4-norm-clip"),
    pytest.param(Case(1, normalise=True, algorithm=SAC), id="sac-single"),
    pytest.param(Case(4, "fp16", norm=1, widths=(18, 12), algorithm=SAC), id="sac-block-4-norm"),
    pytest.param(Case(4, norm=1, widths=(18, 12), activation=SILU, dropout=0.1), id="block-4-norm-silu-dropout"),
    pytest.param(Case(1, widths=(10, 16, 12), activation=TANH, batch=13), id="single-tanh"),
    pytest.param(Case(1, activation=ELU, dropout=0.05, algorithm=SAC), id="sac-single-elu-dropout"),
    pytest.param(Case(1, normalise=True, algorithm=CROSSQ), id="crossq-single"),
    pytest.param(Case(4, "fp16", widths=(18, 12), n_step=3, algorithm=CROSSQ), id="crossq-block-4-n-step"),
]


def config_of(case: Case) -> LearnerConfig:
    config = learner_config(
        N, M, case.widths, case.block, case.percent,
        batch=case.batch, evolution_interval=50, n_step=case.n_step, learning_rate=1e-3, algorithm=case.algorithm,
    )  # fmt: skip
    config.gradient_clip = case.clip
    config.critic.norm = case.norm or config.critic.norm
    config.activation, config.dropout = case.activation, case.dropout
    return config


def exported(case: Case, folder: Path, **options: Any) -> CLearner:
    """The C of a learner whose bundle is beside it."""
    config = config_of(case)
    path = write_bundle(folder / "learner.safetensors", config, precision=case.precision, normalise=case.normalise)
    learner = make_c_learner(path, **{"capacity": CAPACITY, **options})
    write_c_learner(learner, folder, force=True)
    return learner


def robot() -> list[Step]:
    return [s._replace(boundary=Boundary.CONTINUES if s.boundary == 3 else s.boundary) for s in steps(COUNT, 3, N, M)]


def write_transitions(folder: Path, updates: int = UPDATES) -> None:
    """transitions.h: what the robot senses."""
    low, high = np.resize([-1, -3], M).astype(np.float32), np.resize([2, 0.5], M).astype(np.float32)
    centre, half_range = action_scaling(low, high)
    all_steps = robot()
    own_units = [centre + half_range * s.action for s in all_steps]
    arrays = {
        "OBSERVATIONS": [s.observation for s in all_steps],
        "ACTIONS": own_units,
        "FOLLOWING": [s.following for s in all_steps],
    }
    counts = {"FIRST": FIRST, "COUNT": COUNT, "UPDATES": updates, "FURTHER": FURTHER, "ACTED": ACTED}
    lines = [f"#define {name} {value}" for name, value in counts.items()]
    for name, rows in arrays.items():
        text = ",\n".join("{" + ", ".join(float_literal(float(x)) for x in row) + "}" for row in rows)
        lines.append(f"static const float {name}[COUNT][{len(rows[0])}] = {{\n{text}}};")
    lines.append("static const float REWARDS[COUNT] = {" + ", ".join(float_literal(s.reward) for s in all_steps) + "};")
    lines.append("static const int ENDS[COUNT] = {" + ", ".join(str(int(s.boundary)) for s in all_steps) + "};")
    (folder / "transitions.h").write_text("\n".join(lines) + "\n")


ARM = (*CORTEX_M7, "-ffreestanding")
LINKED = ("-nostdlib", "-T", HERE / "cortex_m7.ld", HERE / "cortex_m7.c", "-lgcc")
CHECKS = (*SANITIZED, *CHECKS_AS_CALLS, "-fno-sanitize=float-divide-by-zero")


def compiled(folder: Path, *, arm: bool, options: Sequence[str] = ("-O2",)) -> Path:
    """The learner's object file; here with both sanitizers."""
    made = folder / "edgerl_learner.o"
    compiler, flags = ("arm-none-eabi-gcc", ARM) if arm else ("gcc", CHECKS)
    compile_c(compiler, *options, *flags, *WARNINGS, "-c", folder / "edgerl_learner.c", "-o", made)
    return made


def build(folder: Path, life: int, *, arm: bool) -> Path:
    """The firmware around it, for one of its lives."""
    binary = folder / f"life{life}"
    compiler, flags, linked = ("arm-none-eabi-gcc", ARM, LINKED) if arm else ("gcc", CHECKS, ())
    parts = (folder / "edgerl_learner.o", FIRMWARE)
    compile_c(compiler, "-O1", *flags, *WARNINGS, f"-DLIFE={life}", "-I", folder, *parts, *linked, "-o", binary)
    return binary


def execute(binary: Path, folder: Path, *, arm: bool) -> int:
    done = subprocess.run(
        [*(QEMU if arm else ()), str(binary)], cwd=folder, capture_output=True, text=True, timeout=300
    )
    assert done.stderr == ""
    return done.returncode


ON_A_BOARD = {"single-fp32", "block-4-fp16", "sac-block-4-norm", "block-4-norm-silu-dropout", "crossq-single"}
"""Of the cases those that run on an emulated Cortex-M7, too: each kind of block, row, algorithm and part."""

LIVES = [pytest.param((case.values[0], False), id=f"here-{case.id}") for case in CASES] + [
    pytest.param(
        (case.values[0], True),
        id=f"cortex-m7-{case.id}",
        marks=pytest.mark.needs("arm-none-eabi-gcc", "qemu-system-arm"),
    )
    for case in CASES
    if case.id in ON_A_BOARD
]


# ------------------------------------------------------------------------------------------------ the same, in Python


HEADER = struct.Struct("<IIQQIIIIII")


class Save(NamedTuple):
    """A save, taken apart as docs/c-learner.md describes it."""

    remembered: int
    rows: Array  # uint8 [rows, bytes]
    saves: int
    progress: Progress
    networks: bytes


def read_save(path: Path, row_bytes: int) -> Save:
    data = path.read_bytes()
    magic, version, _, remembered, n_rows, saves, *_ = HEADER.unpack_from(data)
    assert (magic, version) == (0x53524C45, 1)
    assert zlib.crc32(data[:-4]) == int.from_bytes(data[-4:], "little")
    progress = Progress.from_buffer_copy(data, HEADER.size)
    rows_at = len(data) - 4 - n_rows * row_bytes
    rows = np.frombuffer(data, np.uint8, n_rows * row_bytes, rows_at).reshape(n_rows, row_bytes)
    return Save(remembered, rows, saves, progress, data[HEADER.size + ctypes.sizeof(Progress) : rows_at])


def origin_in(folder: Path) -> Origin:
    path = folder / "learner.safetensors"
    with TensorReader(path, bundle.KIND, bundle.VERSION) as reader:
        return read_origin(reader, path, 1 << 30)


def arena_of(save: Save, folder: Path) -> LearnerArena:
    """The networks of a save in an arena of this machine: the engine checks all of them."""
    state = origin_in(folder).arena.state.copy()
    state[len(state) - len(save.networks) :] = np.frombuffer(save.networks, np.uint8)

    def read(memory: Array, offset: int) -> None:
        memory[...] = state[offset : offset + len(memory)]

    def adapt(config: LearnerConfig) -> None:
        config.isa = library().isa()
        config.lanes = library().lanes(config.isa)

    return LearnerArena.from_state(library(), len(state), read, adapt)


def learnt_here(folder: Path, updates: int = UPDATES) -> tuple[LearnerArena, Transitions, Origin]:
    """The same updates from the same state by this machine's own engine and its Python."""
    origin = origin_in(folder)
    shape = origin.constants.record_format(N, origin.replay.precision)
    memory = Transitions(shape, CAPACITY, seed=7)
    low, high = origin.constants.action_low, origin.constants.action_high
    centre, half_range = action_scaling(low, high)
    for s in robot()[:FIRST]:
        unit = np.clip((centre + half_range * s.action - centre) / half_range, -1, 1)
        memory.append(s.observation, unit, s.reward, s.following, s.boundary)
    decoding = shape.decoding(origin.constants.observation_mean, origin.constants.observation_scale)
    for _ in range(updates):
        assert origin.arena.step(memory.structure(*decoding))
    return origin.arena, memory, origin


@pytest.fixture(scope="module", params=LIVES)
def life(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, bool]:
    """(the folder of a firmware that ran once, whether on an emulated board); here under both sanitizers."""
    case, arm = request.param
    folder = tmp_path_factory.mktemp("firmware")
    exported(case, folder)
    write_transitions(folder)
    compiled(folder, arm=arm)
    assert execute(build(folder, 0, arm=arm), folder, arm=arm) == 0
    return folder, arm


def test_it_learns_what_the_engine_learns_here(life: tuple[Path, bool]) -> None:
    """200 updates in slices with four evolution steps of each critic, and the actor's."""
    folder, _ = life
    here, memory, origin = learnt_here(folder)
    shape = memory.shape
    there = read_save(folder / "saved.bin", shape.row_bytes)
    arena = arena_of(there, folder)
    assert there.progress.updates == here.progress.updates == UPDATES
    assert there.progress.replaced == here.progress.replaced > 0
    assert there.progress.abandoned == 0
    for network in range(len(NETWORKS)):
        for mine, theirs, before in zip(
            here.layers[network], arena.layers[network], origin_in(folder).arena.layers[network], strict=True
        ):
            assert len(mine.columns) == len(theirs.columns) == len(before.columns)
            assert np.array_equal(mine.starts, theirs.starts)
            assert np.array_equal(mine.columns, theirs.columns)
            if origin.arena.config.algorithm != CROSSQ:
                assert np.abs(mine.matrix() - theirs.matrix()).max() < TOLERANCE
                assert np.abs(mine.bias - theirs.bias).max() < TOLERANCE
            assert np.abs(theirs.matrix() - before.matrix()).max() > 1000 * TOLERANCE, "it learnt something"
        # A batch norm takes back what the bias of a unit without a kink before it adds: the gradient is rounding alone,
        # by which Adam moves that bias as far as by any other, and running means lag behind. What the network answers
        # is nearly the same.
        x = np.random.default_rng(5).normal(size=(50, here.layers[network][0].n_inputs))
        mine, theirs = (answers(own, network, x) for own in (here, arena))
        assert np.abs(mine - theirs).max() < 100 * TOLERANCE * max(1, np.abs(mine).max())
    offset = shape.row_offset
    mine_rows = memory.records.view(np.uint8).reshape(CAPACITY, -1)[:FIRST, offset:]
    assert there.remembered == FIRST
    assert np.array_equal(there.rows, mine_rows), "the same transitions, to the last bit"
    for name, noise in (("actions", np.zeros((ACTED, M))), ("explored", exploration(origin))):
        acted = np.fromfile(folder / f"{name}.bin", np.float32).reshape(ACTED, M)
        assert np.abs(acted - expected_actions(replace(origin, arena=arena), noise)).max() < 10 * TOLERANCE, name
        assert (acted >= origin.constants.action_low).all()
        assert (acted <= origin.constants.action_high).all()


def exploration(origin: Origin) -> Array:
    """The standard normal numbers of the first actions that are explored."""
    draws = Draws(int(origin.arena.config.seed))
    return np.array([draws.normals(Purpose.EXPLORATION, number, M) for number in range(ACTED)])


def behind_norm(layer: LayerArrays, x: Array) -> Array:
    """What a batch norm with its running statistics makes of a layer's inputs."""
    if layer.running is None or layer.norm is None:
        return x
    (scale, shift), (mean, variance) = layer.norm.astype(np.float64), layer.running.astype(np.float64)
    normed: Array = (x - mean) / np.sqrt(variance + 1e-3) * scale + shift
    return normed


def answers(arena: LearnerArena, network: int, x: Array) -> Array:
    """What a network makes of inputs [count, inputs], in float64; without LayerNorm."""
    for layer in arena.layers[network]:
        z = behind_norm(layer, x.astype(np.float64)) @ layer.matrix().astype(np.float64).T
        z += layer.bias[: layer.n_outputs]
        x = list(ACTIVATIONS.values())[arena.config.activation].forward(z)
    return z


def expected_actions(origin: Origin, noise: Array) -> Array:
    """By the actor of an arena, in float64."""
    constants = origin.constants
    z = answers(origin.arena, 0, constants.normalised(np.array([s.observation for s in robot()[:ACTED]])))
    centre, half_range = constants.scaling
    if origin.arena.config.is_stochastic:
        mean, log_deviation = np.split(z, 2, axis=1)
        return centre + half_range * np.tanh(mean + np.exp(np.clip(log_deviation, -20, 2)) * noise)
    explored = centre + half_range * (np.tanh(z) + origin.exploration_noise * noise)
    return np.clip(explored, constants.action_low, constants.action_high)


def test_after_a_reset_it_goes_on_to_the_same_bits(life: tuple[Path, bool]) -> None:
    folder, arm = life
    assert execute(build(folder, 1, arm=arm), folder, arm=arm) == 0
    assert (folder / "resumed.bin").read_bytes() == (folder / "uninterrupted.bin").read_bytes()
    assert read_save(folder / "resumed.bin", origin_row(folder)).progress.updates == UPDATES + FURTHER


def origin_row(folder: Path) -> int:
    origin = origin_in(folder)
    return origin.constants.record_format(N, origin.replay.precision).row_bytes


def test_a_damaged_save_is_refused_and_the_learner_is_as_at_first(life: tuple[Path, bool]) -> None:
    folder, arm = life
    binary = build(folder, 2, arm=arm)
    whole = (folder / "saved.bin").read_bytes()
    origin = origin_in(folder)
    expected = origin.arena.state[-len(read_save(folder / "saved.bin", origin_row(folder)).networks) :].tobytes()
    places = (0, 5, 9, 17, 25, 60, 113, len(whole) // 2, len(whole) - 5, len(whole) - 1)
    damaged = [whole[:i] + bytes([whole[i] ^ 1]) + whole[i + 1 :] for i in places]
    try:
        for data in (*damaged, b"", whole[:50], whole[:-1], whole[: len(whole) // 2]):
            (folder / "saved.bin").write_bytes(data)
            assert execute(binary, folder, arm=arm) == 0
            initial = read_save(folder / "initial.bin", origin_row(folder))
            assert (initial.networks, initial.remembered, initial.saves) == (expected, 0, 1)
    finally:
        (folder / "saved.bin").write_bytes(whole)


@pytest.mark.needs("arm-none-eabi-gcc", "qemu-system-arm")
@pytest.mark.parametrize(("block", "batch"), [(1, 13), (4, 13), (1, 9), (4, 7)])
def test_what_was_left_out_is_not_missing(block: int, batch: int, tmp_path: Path) -> None:
    """Layers so wide that the engine cuts them, and batches that it takes in other pieces."""
    exported(Case(block, widths=(140, 136), batch=batch, percent=70), tmp_path)
    write_transitions(tmp_path, updates=4)
    compiled(tmp_path, arm=True)
    assert execute(build(tmp_path, 0, arm=True), tmp_path, arm=True) == 0
    here, memory, _ = learnt_here(tmp_path, 4)
    there = arena_of(read_save(tmp_path / "saved.bin", memory.shape.row_bytes), tmp_path)
    for mine, theirs in zip((x for y in here.layers for x in y), (x for y in there.layers for x in y), strict=True):
        assert np.abs(mine.matrix() - theirs.matrix()).max() < 10 * TOLERANCE  # Adam's first steps magnify


# ------------------------------------------------------------------------------------------------ what is announced


@pytest.mark.needs("arm-none-eabi-gcc")
@pytest.mark.parametrize("optimised", ["-Os", "-O2"])
@pytest.mark.parametrize(
    "case",
    [
        Case(),
        Case(4, "fp16", normalise=True),
        Case(1, "fp16", widths=(17, 9), batch=23),
        Case(4, widths=(13, 16)),
        Case(norm=1),
        Case(4, norm=1),
        Case(clip=0.5),
        Case(4, clip=0.5),
        Case(1, "fp16", normalise=True, n_step=3, algorithm=SAC),
        Case(4, "fp16", normalise=True, n_step=3, norm=1, algorithm=SAC),
        Case(activation=SILU),
        Case(4, activation=ELU),
        Case(activation=TANH, algorithm=SAC),
        Case(1, "fp16", normalise=True, n_step=3, algorithm=CROSSQ),
        Case(4, algorithm=CROSSQ),
        Case(dropout=0.1),
        Case(4, "fp16", normalise=True, n_step=3, norm=1, clip=0.5, algorithm=SAC, activation=SILU, dropout=0.1),
    ],
)
def test_ram_is_what_was_announced_and_flash_no_more(case: Case, optimised: str, tmp_path: Path) -> None:
    sizes = exported(case, tmp_path).sizes
    made = compiled(tmp_path, arm=True, options=(optimised,))
    text, data, bss = map(int, run("arm-none-eabi-size", made).splitlines()[1].split()[:3])
    assert data + bss == sizes.ram
    assert 0.6 * sizes.code < text - sizes.state < sizes.code
    symbols = [line.split()[-2:] for line in run("arm-none-eabi-nm", made).splitlines()]
    assert {name for kind, name in symbols if kind == "U"} <= {"memcpy", "memset", "__aeabi_uldivmod", "__aeabi_ul2d"}
    assert all(name.startswith("edgerl_learner_") for kind, name in symbols if kind == "T")


@pytest.mark.needs("clang", "arm-none-eabi-gcc", "aarch64-linux-gnu-gcc")
@pytest.mark.parametrize("standard", ["-std=c11", "-std=c99"])
@pytest.mark.parametrize("algorithm", [TD3, SAC, CROSSQ])
@pytest.mark.parametrize(
    ("compiler", "machine"),
    [("gcc", ()), ("clang", ()), ("aarch64-linux-gnu-gcc", ()), ("arm-none-eabi-gcc", CORTEX_M7)],
)
def test_it_compiles_without_a_warning(
    compiler: str, machine: Sequence[str], algorithm: int, standard: str, tmp_path: Path
) -> None:
    exported(Case(4, "fp16", normalise=True, algorithm=algorithm), tmp_path)
    options = (standard, "-O1", *WARNINGS, *machine, "-ffreestanding")
    compile_c(compiler, *options, "-c", tmp_path / "edgerl_learner.c", "-o", tmp_path / "a.o")


def test_two_learners_live_in_one_program(tmp_path: Path) -> None:
    for prefix in ("left_arm", "right_arm"):
        exported(Case(), tmp_path, prefix=prefix)
    (tmp_path / "main.c").write_text(
        '#include "left_arm.h"\n#include "right_arm.h"\n'
        "int main(void) { return left_arm_init() + right_arm_init() + (LEFT_ARM_RAM != RIGHT_ARM_RAM); }\n"
    )
    sources = [tmp_path / name for name in ("main.c", "left_arm.c", "right_arm.c")]
    compile_c("gcc", "-O1", *WARNINGS, *sources, "-o", tmp_path / "main")
    run(tmp_path / "main")


def test_exploration_is_normal_and_stays_within_the_bounds(tmp_path: Path) -> None:
    config = learner_config(N, M, (16, 12))
    path = write_bundle(tmp_path / "learner.safetensors", config, noise=0.05)
    write_c_learner(make_c_learner(path, capacity=CAPACITY), tmp_path)
    (tmp_path / "main.c").write_text("""
#include "edgerl_learner.h"
#include <stdio.h>
int main(void) {
    float observation[EDGERL_LEARNER_OBSERVATIONS] = {0.5f}, a[EDGERL_LEARNER_ACTIONS], b[EDGERL_LEARNER_ACTIONS];
    if (edgerl_learner_init() != 0 || edgerl_learner_act(observation, a) != 0) {
        return 1;
    }
    for (int i = 0; i < 4000; i++) {
        if (edgerl_learner_explore(observation, b) != 0) {
            return 2;
        }
        printf("%.9g %.9g %.9g\\n", (double)(b[0] - a[0]), (double)(b[1] - a[1]), (double)(b[2] - a[2]));
    }
    return 0;
}
""")
    compile_c("gcc", "-O1", *WARNINGS, tmp_path / "main.c", tmp_path / "edgerl_learner.c", "-o", tmp_path / "main")
    noise = np.array([line.split() for line in run(tmp_path / "main").splitlines()], float)
    half_range = np.resize([1.5, 1.75], M)
    assert noise.shape == (4000, M)
    assert np.abs(noise.std(axis=0) / (0.05 * half_range) - 1).max() < 0.05
    assert np.abs(noise.mean(axis=0) / (0.05 * half_range)).max() < 0.05
    assert np.abs(np.corrcoef(noise.T) - np.eye(M)).max() < 0.05


# ------------------------------------------------------------------------------------------------ the parts


@pytest.mark.parametrize(
    "words", [[], [0], [0, 0, 0], [1], [0, 0, 5, 0, 6, 0, 0, 0, 7, 0], [3] * 70000, [0] * 200000 + [1]]
)
def test_words_without_zeros_are_the_same_words(words: list[int]) -> None:
    original = np.array(words, np.uint32)
    restored = np.zeros_like(original)
    packed, at, i = without_zeros(original).tolist(), 0, 0
    while i < len(packed):
        at += packed[i] & 0xFFFF
        count = packed[i] >> 16
        restored[at : at + count] = packed[i + 1 : i + 1 + count]
        at, i = at + count, i + 1 + count
    assert np.array_equal(restored, original)
    assert len(packed) <= len(words) + 2 + len(words) // 0xFFFF


def test_chunks_by_hand() -> None:
    assert chunk_bits(32, 8) == 1 << 8
    assert chunk_bits(17, 8) == 1 << 6 | 1 << 5  # 6, 6, 5
    assert chunk_bits(13, 2) == 1 << 2 | 1 << 1
    assert chunk_bits(1, 8) == 1 << 1


def test_a_file_cannot_end_the_comment_that_names_it() -> None:
    assert comment_line("a*/ int x; /* \n\\ ü") == "a* / int x; / * ?? ?"


def test_floats_survive() -> None:
    for value in (0.1, 1.0, 1e30, -3.5e-41, 16777217.0, 0.0):
        number = np.float32(value)
        assert np.float32(float_literal(float(number)).removesuffix("f")) == number


# ------------------------------------------------------------------------------------------------ bad input


def test_over_budget_says_what_it_takes(tmp_path: Path) -> None:
    bundle_file = write_bundle(tmp_path / "learner.safetensors", learner_config(N, M))
    sizes = make_c_learner(bundle_file, capacity=50).sizes
    with pytest.raises(CheckFailed, match=rf"takes {sizes.ram} bytes of RAM .* budget on board is {sizes.ram - 1};"):
        make_c_learner(bundle_file, capacity=50, budget=Budget("board", sizes.ram - 1, 1 << 20))
    with pytest.raises(CheckFailed, match=rf"takes {sizes.flash} bytes of flash .* budget on board is 1000;"):
        make_c_learner(bundle_file, capacity=50, budget=Budget("board", sizes.ram, 1000))
    with pytest.raises(CheckFailed, match="bytes of RAM"):
        make_c_learner(bundle_file, budget=Budget("board", 1000, 1 << 20))


def test_a_memory_is_filled_and_never_exceeded(tmp_path: Path) -> None:
    path = write_bundle(tmp_path / "learner.safetensors", learner_config(N, M))
    row = make_c_learner(path, capacity=50).sizes.row
    for memory in range(40_000, 40_200, 7):
        for options in ({"memory": memory}, {"budget": Budget("board", memory, 1 << 20)}):
            sizes = make_c_learner(path, **options).sizes  # type: ignore[arg-type]
            assert memory - row - 64 < sizes.ram <= memory


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"capacity": 7}, "the replay is 7 transitions; expected at least 8, a batch"),
        (
            {"memory": 1000},
            "the memory is 1000 bytes; expected at least [0-9]+, .*\\(`memory`\\), .*\\(`batch`\\)",
        ),
        ({"memory": 1000, "capacity": 50}, "both given; expected one of them"),
        ({"batch": 0}, "the batch is 0; expected 1 to 65536 transitions"),
        ({"prefix": "a-b"}, "`prefix` is 'a-b'; expected a C identifier"),
        ({"prefix": "int*/"}, "expected a C identifier"),
        ({"precision": "fp16"}, "is fp32, not 'fp16'; export from the run folder"),
    ],
)
def test_bad_input_is_refused_in_one_line(options: dict[str, Any], message: str, tmp_path: Path) -> None:
    path = write_bundle(tmp_path / "learner.safetensors", learner_config(N, M))
    with pytest.raises(ConfigError, match=message):
        make_c_learner(path, **options)


def test_a_reservoir_is_refused(tmp_path: Path) -> None:
    path = write_bundle(tmp_path / "learner.safetensors", learner_config(N, M), keep="reservoir")
    with pytest.raises(ConfigError, match="is a reservoir; in C it is a ring"):
        make_c_learner(path)


def test_files_that_exist_need_force(tmp_path: Path) -> None:
    learner = make_c_learner(write_bundle(tmp_path / "learner.safetensors", learner_config(N, M)))
    (tmp_path / "edgerl_learner.c").write_text("precious")
    with pytest.raises(OutputError, match=r"edgerl_learner.c exists already; pass `force`"):
        write_c_learner(learner, tmp_path)
    assert not (tmp_path / "edgerl_learner.h").exists()
    write_c_learner(learner, tmp_path, force=True)
    with pytest.raises(OutputError, match="cannot make "):
        write_c_learner(learner, tmp_path / "learner.safetensors" / "folder")


# ------------------------------------------------------------------------------------------------ the document


DOCUMENT = Path(__file__).parents[2] / "docs/c-learner.md"

POWER_CUTS = """
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static unsigned char slots[2][EDGERL_LEARNER_SAVE];
static long power = -1; /* bytes until it is cut; -1: it stays */

int flash_erase(int slot) {
    memset(slots[slot], 0xff, sizeof slots[slot]);
    return 0;
}
int flash_write(int slot, size_t at, const void *data, size_t bytes) {
    const size_t written = power >= 0 && (size_t)power < bytes ? (size_t)power : bytes;
    memcpy(slots[slot] + at, data, written);
    power -= power >= 0 ? (long)written : 0;
    return written < bytes;
}
int flash_read(int slot, size_t at, void *data, size_t bytes) {
    memcpy(data, slots[slot] + at, bytes);
    return 0;
}

static void observe(int count) {
    const float x[EDGERL_LEARNER_OBSERVATIONS] = {0.5f}, a[EDGERL_LEARNER_ACTIONS] = {0.25f};
    while (count-- > 0) {
        (void)edgerl_learner_observe(x, a, 1.0f, x, EDGERL_LEARNER_GOES_ON);
    }
}

/* Exit code: 0, or which check failed. */
int main(void) {
    edgerl_learner_counters now;
    flash_erase(0), flash_erase(1);
    resume();
    if (edgerl_learner_count(&now) != 0 || now.saves != 0 || now.transitions != 0) {
        return 1;
    }
    for (uint32_t number = 1; number <= 4; number++) { /* each save: cut at many places, then whole */
        for (power = 0; power < CUT_BEFORE; power += power < 200 ? 13 : 997) {
            const long cut = power;
            observe(3);
            if (keep() != EDGERL_LEARNER_FAILED) {
                return 2;
            }
            power = -1;
            resume();
            if (edgerl_learner_count(&now) != 0 || now.saves != number - 1 || now.transitions != 3 * (number - 1)) {
                return 3;
            }
            power = cut;
        }
        power = -1;
        observe(3);
        if (keep() != EDGERL_LEARNER_OK) {
            return 4;
        }
        resume();
        if (edgerl_learner_count(&now) != 0 || now.saves != number || now.transitions != 3 * number) {
            return 5;
        }
    }
    return 0;
}
"""


def test_two_slots_survive_power_cuts(tmp_path: Path) -> None:
    """The document's code, on a flash that loses its power."""
    (code,) = re.findall(r"```c\n(#include.*?)```", DOCUMENT.read_text(), flags=re.DOTALL)
    sizes = exported(Case(), tmp_path).sizes
    (tmp_path / "main.c").write_text(code + POWER_CUTS)
    least = f"-DCUT_BEFORE={sizes.save - sizes.replay}"
    compile_c(
        "gcc", "-O1", least, *WARNINGS, tmp_path / "main.c", tmp_path / "edgerl_learner.c", "-o", tmp_path / "main"
    )
    run(tmp_path / "main")
