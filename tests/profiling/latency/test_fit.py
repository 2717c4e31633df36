"""The latency model: made from the published points, as good as it says when points are left out."""

from __future__ import annotations

import math
import re
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from edgerl.profiling.latency.cores import UNKNOWN, class_of_core
from edgerl.profiling.latency.model import LEVELS, RUNTIME_CLASSES, RuntimeClass, latency_model
from edgerl.profiling.latency.points import Point, read_points
from tools.fit_latency_model import Residual, fit, leave_one_out, made_model, predict_us, summary, to_json, usable

POINTS = Path(__file__).parents[3] / "benchmarks/published_latencies.jsonl"


@pytest.fixture(scope="module")
def points() -> list[Point]:
    return read_points(POINTS)


@pytest.fixture(scope="module")
def left_out(points: list[Point]) -> list[Residual]:
    return leave_one_out(usable(points))


def test_the_model_that_comes_with_edgerl_is_what_the_points_give(points: list[Point]) -> None:
    made, shipped = made_model(points), latency_model()
    assert dict(made.about) == dict(shipped.about)
    assert made.known == shipped.known
    assert {name: pytest.approx(factor, rel=2e-3) for name, factor in made.factors.items()} == shipped.factors
    for runtime_class in RUNTIME_CLASSES:
        assert made.uncertainty[runtime_class] == pytest.approx(dict(shipped.uncertainty[runtime_class]), rel=0.05)


def test_the_documented_uncertainty_is_the_models() -> None:
    page = (POINTS.parents[1] / "docs/devices.md").read_text()
    table = page.partition("| class | two points or more of this very device")[2].partition("\n\n")[0]
    rows = re.findall(r"^\| (\S+) \| ±(\d+) % \| ±(\d+) % \| ±(\d+) % \|$", table, re.MULTILINE)
    said = {name: [int(percent) for percent in percents] for name, *percents in rows}
    shipped = latency_model().uncertainty
    assert said == {name: [round(100 * shipped[name][level]) for level in LEVELS] for name in RUNTIME_CLASSES}


def test_three_points_are_left_out_and_each_says_why(points: list[Point]) -> None:
    assert len(points) == 75
    doubted = {(p.device_id, p.runtime_class, p.latency_us): p.doubt for p in points if p.doubt}
    assert set(doubted) == {
        ("esp32", "generated-c", 4282),  # RLtools generic
        ("stm32f411", "tuned-kernels", 490),  # Cube.AI
        ("stm32h743", "interpreter", 18.5),  # its note says SUSPECT
    }
    cycles = {(p.device_id, p.latency_us): p.latency_us * (p.clock_mhz or 0) / p.multiply_adds for p in points}
    assert cycles["esp32", 4282] / cycles["stm32f405", 743] == pytest.approx(8, abs=0.3)
    assert cycles["stm32f411", 490] / cycles["stm32l476", 74] == pytest.approx(8, abs=0.1)
    assert len(latency_model().about["left_out"]) == 3


@pytest.mark.parametrize(
    ("runtime_class", "most"), [("interpreter", 0.15), ("tuned-kernels", 0.25), ("generated-c", 0.4)]
)
def test_the_median_error_of_points_left_out(
    left_out: list[Residual], runtime_class: RuntimeClass, most: float
) -> None:
    errors = [abs(math.expm1(r.error)) for r in left_out if r.point.runtime_class == runtime_class]
    assert np.median(errors) <= most


def test_no_point_left_out_is_off_by_more_than_three_and_a_half(left_out: list[Residual]) -> None:
    assert max(abs(r.error) for r in left_out) < math.log(3.5)


def test_intervals_hold_four_in_five_of_the_points_left_out(left_out: list[Residual]) -> None:
    uncertainty = latency_model().uncertainty
    for runtime_class in RUNTIME_CLASSES:
        own = [r for r in left_out if r.point.runtime_class == runtime_class]
        inside = [abs(r.error) <= math.log1p(uncertainty[runtime_class][r.level]) for r in own]
        assert np.mean(inside) >= 0.8


def test_a_level_is_never_better_known_than_a_nearer_one() -> None:
    for levels in latency_model().uncertainty.values():
        assert levels["device"] <= levels["core"] <= levels["other"]


def test_no_factor_serves_a_single_point(points: list[Point]) -> None:
    kept = usable(points)
    devices = Counter(p.device_id for p in kept)
    cores = Counter(class_of_core(p.cpu or "").name for p in kept)
    classes = Counter(p.runtime_class for p in kept)
    special = {
        "multiply-adds per output": len(kept),
        "int8 in pairs": sum(p.precision == "int8" and class_of_core(p.cpu or "").has_int8_pairs for p in kept),
        "soft float": sum(p.precision != "int8" and not class_of_core(p.cpu or "").has_fpu for p in kept),
    }
    for name in latency_model().factors:
        owner = name.split(":")[0]
        assert max(count.get(owner, 0) for count in (devices, cores, classes, special)) >= 2, name


def test_an_exact_law_is_found_again(points: list[Point]) -> None:
    """Points made from a law of this form, no noise: the fit predicts them, though priors pull at its factors."""
    kept = [p for p in usable(points) if p.runtime_class == "interpreter"]

    def law(p: Point) -> float:
        cycles = 1500 + 1000 * p.layers + 12 * (p.multiply_adds + 2 * p.outputs)
        core = class_of_core(p.cpu or "")
        return cycles * (0.5 if core.name == "Cortex-M7" else 1) / (p.clock_mhz or 1)

    made = [
        Point(p.device_id, p.runtime_class, p.widths, "int8", law(p), p.cpu, p.clock_mhz, None)
        for p in kept
        if class_of_core(p.cpu or "").has_fpu and class_of_core(p.cpu or "").has_int8_pairs
    ]
    model = fit(made)
    assert max(abs(predict_us(model, p) / p.latency_us - 1) for p in made) < 0.03


def test_the_summary_names_every_class(left_out: list[Residual]) -> None:
    lines = summary(left_out, latency_model())
    assert [line.split()[0] for line in lines[1:]] == list(RUNTIME_CLASSES)
    assert '"points": 72' in to_json(latency_model())


@pytest.mark.parametrize(
    ("text", "name", "has_fpu", "has_int8_pairs"),
    [
        ("Cortex-M4F", "Cortex-M4F", True, True),
        ("Cortex-M0+ no FPU", "Cortex-M0+", False, False),
        ("Cortex-M3", "Cortex-M3", False, False),
        ("Cortex-M33F", "Cortex-M33F", True, True),
        ("ARM Cortex-M7 (RT1062)", "Cortex-M7", True, True),
        ("Cortex-M85", "Cortex-M55", True, True),
        ("Cortex-M4 no FPU", "Cortex-M4F", False, True),
        ("Xtensa LX7", "Xtensa LX7", True, True),
        ("RV32IMC no FPU", "RV32IMC", False, False),
        ("RV32IMAC", "RV32IMC", False, False),
        ("RV32IMAFC", "RV32F", True, False),
        ("Arm® Cortex®-M4", "Cortex-M4F", True, True),
        ("ARM Cortex M7", "Cortex-M7", True, True),
        ("cortex_m0plus", "Cortex-M0+", False, False),
        ("M33", "Cortex-M33F", True, True),
        ("Cortex-M4 without FPU", "Cortex-M4F", False, True),
        ("Cortex-M4, soft-float", "Cortex-M4F", False, True),
        ("RISC-V", "RV32IMC", False, False),
        ("riscv32imac_zicsr", "RV32IMC", False, False),
        ("RISC-V with FPU", "RV32F", True, False),
        ("RV64GC", "RV32F", True, False),
        ("RX65N", UNKNOWN.name, True, False),
    ],
)
def test_cores_are_found_in_what_people_write(text: str, name: str, has_fpu: bool, has_int8_pairs: bool) -> None:
    core = class_of_core(text)
    assert (core.name, core.has_fpu, core.has_int8_pairs) == (name, has_fpu, has_int8_pairs)
