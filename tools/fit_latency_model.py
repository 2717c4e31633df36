"""How the latency model is made, and how far off it is: the fit to published points, and its cross-validation.

    python -m tools.fit_latency_model benchmarks/published_latencies.jsonl [-o edgerl/profiling/latency/model.json]

The logarithms of the factors minimise

    Σ over points  ((log latency − log prediction) / scatter of the class)²
    + Σ over factors ((log factor − prior) / spread)²

so a factor moves from its prior only as far as several points agree: those of a core or a device go back to 1, their
class's mean. A core or a device has factors where at least two points know it; no factor serves a single point.

Uncertainty: of a class and a level of knowledge (LEVELS), the 90 % quantile of |log error| among points left out, with
the correction of split conformal prediction for small numbers, rank ⌈0.9 (n + 1)⌉ of n, or the largest. Left out are:
only the point (level "device"); all points of its device ("core"); all of its core's class ("other").
"""

from __future__ import annotations

import argparse
import json
import math
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from edgerl.files.atomic import write_atomically
from edgerl.profiling.latency.cores import class_of_core
from edgerl.profiling.latency.model import (
    ITEMS,
    LEVELS,
    RUNTIME_CLASSES,
    LatencyModel,
    Level,
    RuntimeClass,
    factor_names,
)
from edgerl.profiling.latency.points import Point, read_points

Vector = npt.NDArray[np.float64]

SCATTER: dict[RuntimeClass, float] = {"interpreter": 0.08, "tuned-kernels": 0.3, "generated-c": 0.45}
"""Standard deviation of log latency within a class: one interpreter, many vendors' kernels, any compiler's output."""

CLASS_PRIORS: dict[RuntimeClass, tuple[float, float]] = {
    "interpreter": (1000, 1000),
    "tuned-kernels": (1000, 500),
    "generated-c": (100, 100),
}
"""Expected cycles of a call and of a layer: generated code neither walks a graph nor looks up kernels."""

MULTIPLY_ADD_PRIOR = 11.0
"""Cycles: two loads, a multiply-add and the loop around them on a scalar core, some wait states."""

OVERHEAD_SPREAD, CLASS_SPREAD, RATIO_SPREAD = 1.0, 0.5, 1.5
CORE_SPREADS, DEVICE_SPREADS = (0.4, 0.5), (0.25, 0.35)
"""Of log factors, for multiply-adds and for overheads: cores differ by half, boards with one core by a quarter."""

RATIO_PRIORS = {"multiply-adds per output": 2.0, "int8 in pairs": 0.35, "soft float": 20.0}

COVERAGE = 0.9
FEWEST_RESIDUALS = 4
"""A quantile of fewer says nothing: the level then has the next wider one's."""

FEWEST_POINTS = 2
MAXIMUM_STEPS = 100


@dataclass(frozen=True)
class _Term:
    """One point as the fit sees it: how often it has each item, and which factors each item takes."""

    counts: tuple[float, ...]
    indices: tuple[tuple[int, ...], ...]


@dataclass(frozen=True)
class Residual:
    """One point that was left out: log(prediction / latency), and what the others knew of its subject."""

    point: Point
    error: float
    level: Level


def usable(points: Sequence[Point]) -> list[Point]:
    """The points that a fit can take: of a stated core and clock, and not in doubt."""
    return [point for point in points if point.doubt is None and point.cpu and point.clock_mhz]


def fit(points: Sequence[Point]) -> LatencyModel:
    """The factors that suit `points`; about and uncertainty are empty."""
    priors = _priors(points)
    names = list(priors)
    means, spreads = np.array(list(priors.values())).T
    terms = [_term(point, names) for point in points]
    cycles = np.log([_cycles(point) for point in points])
    weights = np.array([1 / SCATTER[point.runtime_class] for point in points])

    def residuals(factors: Vector) -> tuple[Vector, Vector]:
        predictions, gradients = zip(*(_log_cycles(term, factors) for term in terms), strict=True)
        misfit = np.concatenate([(cycles - np.array(predictions)) * weights, (means - factors) / spreads])
        return misfit, np.vstack([np.array(gradients) * weights[:, None], np.diag(1 / spreads)])

    found = np.exp(_least_squares(residuals, means))
    counts = Counter(f"{point.device_id}: {point.runtime_class}" for point in points)
    return LatencyModel(
        about={},
        factors=dict(zip(names, found.tolist(), strict=True)),
        known=frozenset(name for name, count in counts.items() if count >= FEWEST_POINTS),
        uncertainty={},
    )


def predict_us(model: LatencyModel, point: Point) -> float:
    """The model's latency of a point, at the point's own clock."""
    assert point.cpu is not None
    assert point.clock_mhz is not None
    costs = model.cycle_costs(point.runtime_class, class_of_core(point.cpu), point.precision, point.device_id)
    counts = (1, point.layers, point.outputs, point.multiply_adds)
    items = (costs.call, costs.layer, costs.output, costs.multiply_add)
    return sum(count * item for count, item in zip(counts, items, strict=True)) / point.clock_mhz


def leave_out(points: Sequence[Point], group: Callable[[Point], object]) -> list[Residual]:
    """Each point predicted by a fit that saw no point of its group."""
    models = {key: fit([p for p in points if group(p) != key]) for key in dict.fromkeys(map(group, points))}
    return [_residual(models[group(point)], point) for point in points]


def leave_one_out(points: Sequence[Point]) -> list[Residual]:
    """Each point predicted by a fit to all others."""
    place = {id(point): index for index, point in enumerate(points)}
    return leave_out(points, lambda point: place[id(point)])


def uncertainties(points: Sequence[Point]) -> dict[RuntimeClass, dict[Level, float]]:
    """`LatencyModel.uncertainty`, by class and level; a level never has less than a nearer one."""
    left_out = {
        "device": [r for r in leave_one_out(points) if r.level == "device"],
        "core": [r for r in leave_out(points, lambda p: p.device_id) if r.level == "core"],
        "other": leave_out(points, _core_name),
    }
    found: dict[RuntimeClass, dict[Level, float]] = {}
    for runtime_class in RUNTIME_CLASSES:
        errors = {
            level: [abs(r.error) for r in left_out[level] if r.point.runtime_class == runtime_class] for level in LEVELS
        }
        found[runtime_class] = _widening(errors)
    return found


def made_model(points: Sequence[Point]) -> LatencyModel:
    """The whole model: factors, uncertainty, and where they come from."""
    kept = usable(points)
    model = fit(kept)
    about = {
        "made_by": "python -m tools.fit_latency_model benchmarks/published_latencies.jsonl",
        "points": len(kept),
        "left_out": [
            f"{p.device_id}, {p.net}, {p.runtime_class}, {p.latency_us:g} µs: {p.doubt}" for p in points if p.doubt
        ],
    }
    return LatencyModel(about, model.factors, model.known, uncertainties(kept))


def to_json(model: LatencyModel) -> str:
    """The model as the text of its file, factors with four digits."""
    content: dict[str, Any] = {
        "about": dict(model.about),
        "factors": {name: float(f"{factor:.4g}") for name, factor in model.factors.items()},
        "known": sorted(model.known),
        "uncertainty": {name: dict(levels) for name, levels in model.uncertainty.items()},
    }
    return json.dumps(content, indent=2, ensure_ascii=False) + "\n"


def summary(residuals: Sequence[Residual], model: LatencyModel) -> list[str]:
    """Lines for people: median, 90 % quantile and largest relative error of each class, and what its intervals hold."""
    lines = [f"{'class':<15}{'points':>7}{'median':>9}{'p90':>9}{'largest factor':>16}{'inside':>9}"]
    for runtime_class in RUNTIME_CLASSES:
        own = [r for r in residuals if r.point.runtime_class == runtime_class]
        errors = np.abs(np.expm1([r.error for r in own]))
        inside = [abs(r.error) <= math.log1p(model.uncertainty[runtime_class][r.level]) for r in own]
        largest = math.exp(max(abs(r.error) for r in own))
        lines.append(
            f"{runtime_class:<15}{len(own):>7}{np.median(errors):>9.1%}{np.quantile(errors, 0.9):>9.1%}"
            f"{largest:>16.2f}{np.mean(inside):>9.1%}"
        )
    return lines


def main() -> None:
    """Print the leave-one-out errors; with -o, write the model."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("points", type=Path)
    parser.add_argument("-o", "--output", type=Path)
    arguments = parser.parse_args()
    points = read_points(arguments.points)
    model, residuals = made_model(points), leave_one_out(usable(points))
    for residual in residuals:
        point = residual.point
        print(
            f"{point.device_id:<14}{point.runtime_class:<15}{point.precision:<6}{point.net:<40}"
            f"{point.latency_us:>10.1f} µs{math.expm1(residual.error):>+9.1%}  known by its {residual.level}"
        )
    print("\n".join(summary(residuals, model)))
    print("\n".join(f"left out: {line}" for line in model.about["left_out"]))
    if arguments.output is not None:
        write_atomically(arguments.output, to_json(model).encode())


def _priors(points: Sequence[Point]) -> dict[str, tuple[float, float]]:
    """(log of what it is expected to be, spread) of every factor."""
    priors: dict[str, tuple[float, float]] = {}
    for runtime_class, (call, layer) in CLASS_PRIORS.items():
        priors[f"{runtime_class}: cycles per call"] = math.log(call), OVERHEAD_SPREAD
        priors[f"{runtime_class}: cycles per layer"] = math.log(layer), OVERHEAD_SPREAD
        priors[f"{runtime_class}: cycles per multiply-add"] = math.log(MULTIPLY_ADD_PRIOR), CLASS_SPREAD
    priors |= {name: (math.log(ratio), RATIO_SPREAD) for name, ratio in RATIO_PRIORS.items()}
    for names, spreads in (
        (Counter(_core_name(point) for point in points), CORE_SPREADS),
        (Counter(point.device_id for point in points), DEVICE_SPREADS),
    ):
        for name in sorted(name for name, count in names.items() if count >= FEWEST_POINTS):
            priors[f"{name}: multiply-adds"] = 0.0, spreads[0]
            priors[f"{name}: overheads"] = 0.0, spreads[1]
    return priors


def _core_name(point: Point) -> str:
    return class_of_core(point.cpu or "").name


def _cycles(point: Point) -> float:
    assert point.clock_mhz is not None
    return point.latency_us * point.clock_mhz


def _term(point: Point, names: list[str]) -> _Term:
    core = class_of_core(point.cpu or "")
    places = {name: index for index, name in enumerate(names)}
    indices = (factor_names(item, point.runtime_class, core, point.precision, point.device_id) for item in ITEMS)
    return _Term(
        counts=(1.0, point.layers, point.outputs, point.multiply_adds),
        indices=tuple(tuple(places[name] for name in item if name in places) for item in indices),
    )


def _log_cycles(term: _Term, log_factors: Vector) -> tuple[float, Vector]:
    """Log of the predicted cycles, and its gradient by the log factors."""
    gradient = np.zeros_like(log_factors)
    total = 0.0
    for count, indices in zip(term.counts, term.indices, strict=True):
        cycles = count * math.exp(sum(log_factors[index] for index in indices))
        total += cycles
        for index in indices:
            gradient[index] += cycles
    return math.log(total), gradient / total


def _least_squares(residuals: Callable[[Vector], tuple[Vector, Vector]], start: Vector) -> Vector:
    """Levenberg's and Marquardt's method; `residuals` gives r(x) and −dr/dx."""
    x, damping = start, 1e-3
    r, jacobian = residuals(x)
    for _ in range(MAXIMUM_STEPS):
        normal = jacobian.T @ jacobian
        step = np.linalg.solve(normal + damping * np.diag(np.diag(normal)), jacobian.T @ r)
        new_r, new_jacobian = residuals(x + step)
        gain = float(r @ r - new_r @ new_r)
        if gain > 0:
            x, r, jacobian, damping = x + step, new_r, new_jacobian, damping / 3
        else:
            damping *= 4
        if 0 <= gain < 1e-10:
            break
    return x


def _residual(model: LatencyModel, point: Point) -> Residual:
    error = math.log(predict_us(model, point) / point.latency_us)
    return Residual(point, error, model.level(point.runtime_class, class_of_core(point.cpu or ""), point.device_id))


def _widening(errors: dict[Level, list[float]]) -> dict[Level, float]:
    """x of each level from |log errors|, from the widest level inwards."""
    found: dict[Level, float] = {}
    for level in reversed(LEVELS):
        if len(errors[level]) >= FEWEST_RESIDUALS or not found:
            found[level] = _rounded_up(math.expm1(_quantile(errors[level])))
        else:
            found[level] = next(iter(reversed(found.values())))
    for nearer, wider in pairwise(LEVELS):
        found[wider] = max(found[nearer], found[wider])
    return {level: found[level] for level in LEVELS}


def _quantile(errors: list[float]) -> float:
    """The conformal quantile."""
    rank = math.ceil(COVERAGE * (len(errors) + 1))
    return sorted(errors)[min(rank, len(errors)) - 1]


def _rounded_up(value: float) -> float:
    """With two digits, never less than `value`."""
    unit = 10.0 ** (math.floor(math.log10(value)) - 1)
    return float(f"{math.ceil(value / unit) * unit:.2g}")


if __name__ == "__main__":
    main()
