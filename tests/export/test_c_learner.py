"""A learner as C: on this machine under sanitizers and on an emulated Cortex-M7, against the engine as Python has it."""

from __future__ import annotations

import re
import struct
import subprocess
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import pytest

from edgerl.compact.policy import action_scaling
from edgerl.edge import bundle
from edgerl.edge.arena import NETWORKS, LearnerArena
from edgerl.edge.learner import Origin, read_origin
from edgerl.edge.library import LearnerConfig, Progress, library
from edgerl.edge.replay import Boundary
from edgerl.edge.transitions import Transitions
from edgerl.errors import CheckFailed, ConfigError, OutputError
from edgerl.export.c_learner import Budget, CLearner, chunk_bits, make_c_learner, without_zeros, write_c_learner
from edgerl.export.c_learner.text import comment_line, float_literal
from edgerl.files import TensorReader
from tests.edge.compiled import CORTEX_M7, HERE, SANITIZED, WARNINGS, compile_c, run
from tests.edge.learners import Step, learner_config, steps, write_bundle

Array = npt.NDArray[Any]

N, M, CAPACITY, BATCH = 5, 3, 90, 16
FIRST, COUNT, UPDATES, FURTHER, ACTED = 64, 120, 200, 50, 20
"""Transitions before and after a save; updates likewise, evolution every fiftieth; observations that are acted upon."""

TOLERANCE = 2e-5
"""Of weights and biases after 200 updates: another order of additions, and fused multiply-adds or none. They differ by
less than 2e-6 (measured; gcc and qemu of Debian 12)."""

FIRMWARE = Path(__file__).with_name("learner_firmware.c")
QEMU = (
    *("qemu-system-arm", "-machine", "mps2-an500", "-nographic", "-monitor", "none", "-serial", "none"),
    *("-semihosting-config", "enable=on,target=native", "-kernel"),
)


class Case(NamedTuple):
    """A learner to export."""

    block: int
    precision: str
    normalise: bool
    n_step: int


CASES = [
    pytest.param(Case(1, "fp32", False, 1), id="single-fp32"),
    pytest.param(Case(4, "fp16", True, 1), id="block-4-fp16"),
    pytest.param(Case(1, "fp16", False, 3), id="single-fp16-n-step"),
]


def exported(case: Case, folder: Path, **options: Any) -> CLearner:
    """The C of a learner whose bundle is beside it."""
    config = learner_config(
        N, M, (16, 12), case.block, 50, batch=BATCH, evolution_interval=50, n_step=case.n_step, learning_rate=1e-3
    )
    path = write_bundle(folder / "learner.safetensors", config, precision=case.precision, normalise=case.normalise)
    learner = make_c_learner(path, **{"capacity": CAPACITY, **options})
    write_c_learner(learner, folder, force=True)
    return learner


def robot() -> list[Step]:
    return [s._replace(boundary=Boundary.CONTINUES if s.boundary == 3 else s.boundary) for s in steps(COUNT, 3, N, M)]


def write_transitions(folder: Path) -> None:
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
    lines = [f"#define {name} {value}" for name, value in
             {"FIRST": FIRST, "COUNT": COUNT, "UPDATES": UPDATES, "FURTHER": FURTHER, "ACTED": ACTED}.items()]  # fmt: skip
    for name, rows in arrays.items():
        text = ",\n".join("{" + ", ".join(float_literal(float(x)) for x in row) + "}" for row in rows)
        lines.append(f"static const float {name}[COUNT][{len(rows[0])}] = {{\n{text}}};")
    lines.append("static const float REWARDS[COUNT] = {" + ", ".join(float_literal(s.reward) for s in all_steps) + "};")
    lines.append("static const int ENDS[COUNT] = {" + ", ".join(str(int(s.boundary)) for s in all_steps) + "};")
    (folder / "transitions.h").write_text("\n".join(lines) + "\n")


def build(folder: Path, name: str, *options: str, arm: bool, sanitized: bool = False) -> Path:
    """The firmware around the C in `folder`."""
    binary = folder / name
    sources = (folder / "edgerl_learner.c", FIRMWARE)
    included = ("-I", folder, *WARNINGS, *options)
    if arm:
        linked = ("-nostdlib", "-T", HERE / "cortex_m7.ld", HERE / "cortex_m7.c", "-lgcc")
        compile_c("arm-none-eabi-gcc", *CORTEX_M7, "-ffreestanding", *included, *sources, *linked, "-o", binary)
    else:
        checks = (*SANITIZED, "-fno-sanitize=float-divide-by-zero") if sanitized else ()
        compile_c("gcc", "-Og", *checks, *included, *sources, "-o", binary)
    return binary


def execute(binary: Path, folder: Path, *, arm: bool) -> int:
    done = subprocess.run(
        [*(QEMU if arm else ()), str(binary)], cwd=folder, capture_output=True, text=True, timeout=300
    )
    assert done.stderr == ""
    return done.returncode


ON = [
    pytest.param(False, id="here"),
    pytest.param(True, id="cortex-m7", marks=pytest.mark.needs("arm-none-eabi-gcc", "qemu-system-arm")),
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
    return Save(remembered, rows, saves, progress, data[HEADER.size + 64 : rows_at])


def origin_in(folder: Path) -> Origin:
    path = folder / "learner.safetensors"
    with TensorReader(path, bundle.KIND, bundle.VERSION) as reader:
        return read_origin(reader, path)


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


def learnt_here(folder: Path) -> tuple[LearnerArena, Transitions, Origin]:
    """The same updates from the same state by this machine's own engine and its Python."""
    origin = origin_in(folder)
    shape = origin.constants.record_format(N, origin.replay.precision)
    memory = Transitions(shape, CAPACITY, 7)
    low, high = origin.constants.action_low, origin.constants.action_high
    centre, half_range = action_scaling(low, high)
    for s in robot()[:FIRST]:
        unit = np.clip((centre + half_range * s.action - centre) / half_range, -1, 1)
        memory.append(s.observation, unit, s.reward, s.following, s.boundary)
    decoding = shape.decoding(origin.constants.observation_mean, origin.constants.observation_scale)
    for _ in range(UPDATES):
        assert origin.arena.step(memory.structure(*decoding))
    return origin.arena, memory, origin


@pytest.fixture(scope="module", params=CASES)
def case(request: pytest.FixtureRequest) -> Case:
    found: Case = request.param
    return found


@pytest.fixture(scope="module", params=ON)
def life(request: pytest.FixtureRequest, case: Case, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, bool]:
    """(the folder of a firmware that ran once, whether on an emulated board); here under both sanitizers."""
    arm: bool = request.param
    folder = tmp_path_factory.mktemp("firmware")
    exported(case, folder)
    write_transitions(folder)
    assert execute(build(folder, "first", "-DLIFE=0", arm=arm, sanitized=True), folder, arm=arm) == 0
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
            assert np.abs(mine.matrix() - theirs.matrix()).max() < TOLERANCE
            assert np.abs(mine.bias - theirs.bias).max() < TOLERANCE
            assert np.abs(theirs.matrix() - before.matrix()).max() > 1000 * TOLERANCE, "it learnt something"
    offset = shape.row_offset
    mine_rows = memory._records.view(np.uint8).reshape(CAPACITY, -1)[:FIRST, offset:]
    assert there.remembered == FIRST
    assert np.array_equal(there.rows, mine_rows), "the same transitions, to the last bit"
    acted = np.fromfile(folder / "actions.bin", np.float32).reshape(ACTED, M)
    policy = bundle.actor_policy(here.layers[0], origin.constants, {})
    expected = policy(np.array([s.observation for s in robot()[:ACTED]]), np.float64)
    assert np.abs(acted - expected).max() < 10 * TOLERANCE
    assert (acted >= origin.constants.action_low).all()
    assert (acted <= origin.constants.action_high).all()


def test_after_a_reset_it_goes_on_to_the_same_bits(life: tuple[Path, bool]) -> None:
    folder, arm = life
    assert execute(build(folder, "resume", "-DLIFE=1", arm=arm, sanitized=True), folder, arm=arm) == 0
    assert (folder / "resumed.bin").read_bytes() == (folder / "uninterrupted.bin").read_bytes()
    assert read_save(folder / "resumed.bin", origin_row(folder)).progress.updates == UPDATES + FURTHER


def origin_row(folder: Path) -> int:
    origin = origin_in(folder)
    return origin.constants.record_format(N, origin.replay.precision).row_bytes


def test_a_damaged_save_is_refused_and_the_learner_is_as_at_first(life: tuple[Path, bool]) -> None:
    folder, arm = life
    binary = build(folder, "damaged", "-DLIFE=2", arm=arm, sanitized=True)
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
