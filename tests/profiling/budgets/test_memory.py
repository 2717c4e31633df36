"""The memory model against the engine's arena, to the byte, and against the peak of real processes."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from edgerl.commands.export import export_policy
from edgerl.edge.acting.policy import LAYOUTS, Layout, Policy
from edgerl.edge.engine.library import ISAS, Isa, library
from edgerl.policy.cell import CELLS, CellName
from edgerl.policy.compact import CompactPolicy, Precision, as_blocks
from edgerl.policy.format import save
from edgerl.profiling.budgets.device import find_device
from edgerl.profiling.budgets.memory import BLOCK, LANES_BASELINE, Columns, arena_parts, memory_parts, native_parts
from edgerl.profiling.budgets.model import policy_rows
from edgerl.profiling.budgets.report import profile
from tests.policy.policies import outlier_policy, random_policy, recurrent_policy

SHAPES = ((3, 2), (5, 9, 7, 3), (17, 64, 33, 6), (40, 130, 4), (2, 16, 16, 16, 1))


def _columns(policy: CompactPolicy) -> list[Columns]:
    """Counted in the matrices."""
    return [
        Columns(
            layer.n_inputs,
            layer.n_outputs,
            int(np.count_nonzero(layer.matrix())),
            int(as_blocks(layer.matrix(), BLOCK).any(axis=2).sum()),
            layer.norm is not None,
            layer.n_fed,
            layer.n_state,
        )
        for layer in policy.layers
    ]


def _levels() -> dict[Isa, int]:
    """Numbers in a vector of each instruction set here; a policy's have four at least."""
    best = ISAS.index(library().best_isa)
    return {isa: max(library().lanes(level), LANES_BASELINE) for level, isa in enumerate(ISAS) if level <= best}


@pytest.mark.parametrize("widths", SHAPES)
@pytest.mark.parametrize("block", [1, 4])
@pytest.mark.parametrize("normalize", [True, False])
@pytest.mark.parametrize("norm", [True, False])
def test_the_arena_is_exact(widths: tuple[int, ...], block: int, normalize: bool, norm: bool) -> None:
    policy = random_policy(len(widths), widths, block, normalize=normalize, norm=norm)
    for isa, n_lanes in _levels().items():
        for layout in LAYOUTS:
            parts = arena_parts(_columns(policy), [layout] * len(policy.layers), n_lanes, normalises=normalize)
            assert sum(parts.values()) == Policy(policy, layout, isa).n_bytes


@pytest.mark.parametrize("kind", CELLS)
@pytest.mark.parametrize("before", [0, 6])
def test_the_arena_of_cells_is_exact(kind: CellName, before: int) -> None:
    policy, _ = recurrent_policy(kind, (7, 13, 9, 3), cells=2, before=before)
    for isa, n_lanes in _levels().items():
        for layout in LAYOUTS:
            parts = arena_parts(_columns(policy), [layout] * len(policy.layers), n_lanes, normalises=True)
            assert sum(parts.values()) == Policy(policy, layout, isa).n_bytes


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("block", [1, 4])
@pytest.mark.parametrize("precision", ["int8", "int4"])
def test_outliers_are_counted(precision: Precision, block: int, layout: Layout) -> None:
    policy = outlier_policy(3, (17, 64, 33, 6), block, precision, density=0.2)
    parts = arena_parts(_columns(policy), [layout] * 3, LANES_BASELINE, normalises=True)
    assert sum(parts.values()) == Policy(policy, layout, "naive").n_bytes
    rows = policy_rows(policy).layers
    assert [row.connections for row in rows] == [column.connections for column in _columns(policy)]
    if block == BLOCK:
        assert [row.stored_weights // BLOCK for row in rows if row.is_sparse] == [
            column.blocks for row, column in zip(rows, _columns(policy), strict=True) if row.is_sparse
        ]


def test_layouts_may_differ_from_layer_to_layer() -> None:
    policy = random_policy(9, (17, 64, 48, 6))
    layouts: list[Layout] = ["sparse", "block", "dense"]
    parts = arena_parts(_columns(policy), layouts, LANES_BASELINE, normalises=True)
    assert sum(parts.values()) == Policy(policy, layouts, "naive").n_bytes


@pytest.mark.parametrize("density", [0.02, 0.1, 0.5, 1])
@pytest.mark.parametrize("block", [1, 4])
def test_whatever_the_engine_chooses_fits(density: float, block: int) -> None:
    """Without the matrix the number of blocks of single connections is bounded, not known."""
    policy = random_policy(1, (17, 64, 64, 6), block, density=density)
    parts = native_parts(policy_rows(policy), library().lanes(library().isa()))
    announced = parts["weights"] + parts["activations"]
    assert Policy(policy).n_bytes <= announced
    assert announced < 1.4 * max(Policy(policy, layout).n_bytes for layout in LAYOUTS)


def test_parts_add_up_to_what_the_report_compares() -> None:
    policy = random_policy(2, (17, 64, 64, 6))
    for device, runtime in (("raspberry-pi-5", "native"), ("raspberry-pi-5", "onnxruntime"), ("stm32f405", "c")):
        report = profile(policy, device, runtime=runtime)
        assert report.memory.used == sum(report.memory_parts.values())
        assert list(report.memory_parts)[:3] == ["runtime", "weights", "activations"]
        assert {part.name: part.amount for part in report.memory.parts} == report.memory_parts
        assert [part.name for part in report.memory.parts if part.source is not None] == ["runtime"]
        assert report.flash.used == sum(part.amount for part in report.flash.parts)


def test_a_microcontroller_has_weights_in_flash_and_no_start() -> None:
    rows, device = policy_rows(random_policy(3, (17, 64, 32, 6))), find_device("stm32f405")
    assert memory_parts(rows, device, "c", 1024) == {"runtime": 1024, "weights": 0, "activations": 4 * (64 + 32)}


# The peak of a process.

PROBE = """
import sys
from pathlib import Path
kind, path = sys.argv[1:]
import numpy as np
if kind == "native":
    from edgerl.edge import Policy
    policy = Policy.load(path)
else:
    from edgerl.edge import OnnxPolicy
    policy = OnnxPolicy(path)
observation = np.zeros(policy.n_observations, np.float32)
for _ in range(100):
    policy(observation)
print(Path("/proc/self/status").read_text())
"""

SIZES = (64, 256, 1024)
CASES: list[tuple[int, float, Precision]] = [
    *((size, 1, "fp32") for size in SIZES),
    (1024, 0.1, "fp32"),
    (1024, 1, "int8"),
    (1024, 0.5, "fp16"),
    (2048, 1, "fp32"),
    (2048, 0.1, "int8"),
]


def peak_bytes(kind: str, path: Path) -> int:
    """Of a process that loads a policy and acts: of itself alone, which ru_maxrss after a fork is not."""
    done = subprocess.run([sys.executable, "-c", PROBE, kind, path], capture_output=True, text=True, check=True)
    match = re.search(r"VmHWM:\s+(\d+) kB", done.stdout)
    assert match is not None
    return 1024 * int(match[1])


@pytest.mark.parametrize(("width", "density", "precision"), CASES)
def test_python_takes_what_is_announced(tmp_path: Path, width: int, density: float, precision: Precision) -> None:
    """Within 10 % of the peak resident memory: of a board whose own figures were measured on x86-64."""
    policy = random_policy(4, (17, width, width, 6), 1, precision, density=2 if density == 1 else density)
    paths = {"native": tmp_path / "policy.safetensors", "onnxruntime": tmp_path / "policy.onnx"}
    save(policy, paths["native"])
    export_policy(policy, "onnx", paths["onnxruntime"])
    for runtime, path in paths.items():
        announced = profile(path, "raspberry-pi-5", runtime=runtime).memory.used
        assert announced == pytest.approx(peak_bytes(runtime, path), rel=0.1), runtime
