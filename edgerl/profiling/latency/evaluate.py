"""The latency model against published points: each predicted, and how far off the predictions are, by runtime class."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from statistics import median, quantiles
from typing import Any, Literal

from edgerl.edge.runtimes import RuntimeName
from edgerl.errors import DeviceError, FileFormatError
from edgerl.profiling.budgets.device import Device, Quantity, device_ids, find_device
from edgerl.profiling.budgets.rows import matrix_row
from edgerl.profiling.latency.cores import class_of_core, plain_words
from edgerl.profiling.latency.estimate import estimate_latency
from edgerl.profiling.latency.model import RUNTIME_CLASSES, RuntimeClass, latency_model
from edgerl.profiling.latency.points import Point

Basis = Literal["profile", "cpu"]

LINUX_RUNTIMES: dict[RuntimeClass, RuntimeName] = {
    "interpreter": "onnxruntime",
    "tuned-kernels": "native",
    "generated-c": "c",
}
"""The runtime that represents a class on a board with Linux, whose costs are by runtime."""


@dataclass(frozen=True)
class Prediction:
    """One point, what was predicted for it, and from what: a device's profile, or the point's own cpu and clock."""

    point: Point
    predicted_us: float
    uncertainty: float | None  # as LatencyEstimate's
    basis: Basis

    @property
    def error(self) -> float:
        """Signed, relative: 0.1 is a tenth too long."""
        return self.predicted_us / self.point.latency_us - 1

    @property
    def interval(self) -> tuple[float, float] | None:
        """(low, high) in µs, or None where nothing validates the prediction."""
        if self.uncertainty is None:
            return None
        return self.predicted_us / (1 + self.uncertainty), self.predicted_us * (1 + self.uncertainty)

    @property
    def is_inside(self) -> bool | None:
        """Whether the published latency is in the interval."""
        return None if self.interval is None else self.interval[0] <= self.point.latency_us <= self.interval[1]

    def as_dict(self) -> dict[str, Any]:
        """Plain data, for JSON."""
        point = self.point
        return {
            "device_id": point.device_id,
            "runtime_class": point.runtime_class,
            "net": point.net,
            "precision": point.precision,
            "predicted_us": self.predicted_us,
            "latency_us": point.latency_us,
            "error": self.error,
            "uncertainty": self.uncertainty,
            "interval": self.interval,
            "inside": self.is_inside,
            "predicted_from": self.basis,
            "left_out": point.doubt,
        }


@dataclass(frozen=True)
class ClassErrors:
    """Absolute relative errors of a class; `coverage` is the share of points inside their interval."""

    points: int
    median_error: float
    p90_error: float
    coverage: float | None  # None: no point has an interval


def predict(point: Point) -> Prediction:
    """The prediction of a point, from its device's profile where there is one, at the point's clock if it states it.

    Raises FileFormatError where there is neither a profile, nor a cpu and a clock.
    """
    if point.device_id.endswith(".toml"):  # no file is read for a point
        return _from_cpu(point)
    try:
        device = find_device(point.device_id)
    except DeviceError:
        return _from_cpu(point)
    if device.kind == "linux":
        return _from_linux(point, device)
    clock_mhz = point.clock_mhz or device.cpu.clock_mhz.value
    return _by_class(point, device.cpu.core, clock_mhz, device.chip, "profile")


def class_errors(predictions: Sequence[Prediction]) -> dict[RuntimeClass, ClassErrors]:
    """How far off each class's predictions are; points in doubt do not count."""
    errors_by_class = {}
    for runtime_class in RUNTIME_CLASSES:
        own = [p for p in predictions if p.point.runtime_class == runtime_class and p.point.doubt is None]
        if own:
            errors = [abs(p.error) for p in own]
            inside = [p.is_inside for p in own if p.is_inside is not None]
            errors_by_class[runtime_class] = ClassErrors(
                points=len(own),
                median_error=median(errors),
                p90_error=quantiles(errors, n=10, method="inclusive")[-1] if len(errors) > 1 else errors[0],
                coverage=sum(inside) / len(inside) if inside else None,
            )
    return errors_by_class


def _from_cpu(point: Point) -> Prediction:
    if point.cpu is None or point.clock_mhz is None:
        raise FileFormatError(
            f"{point.device_id[:40]!r} has no profile, and its point names no cpu and mhz; add them, or use an id of: "
            "edgerl devices list"
        )
    boards = (device for device in map(find_device, device_ids()) if device.kind == "linux")  # no core is in both kinds
    named = f"{plain_words(point.cpu)} "
    board = next((board for board in boards if f"{plain_words(board.cpu.core)} " in named), None)
    if board is not None:
        return replace(_from_linux(point, board), basis="cpu")
    return _by_class(point, point.cpu, point.clock_mhz, point.device_id, "cpu")


def _by_class(point: Point, cpu: str, clock_mhz: float, device_id: str, basis: Basis) -> Prediction:
    model, core = latency_model(), class_of_core(cpu)
    costs = model.cycle_costs(point.runtime_class, core, point.precision, device_id)
    layers = point.layers * costs.layer + point.outputs * costs.output + point.multiply_adds * costs.multiply_add
    uncertainty = model.widening(point.runtime_class, core, point.precision, device_id)
    return Prediction(point, (costs.call + layers) / clock_mhz, uncertainty, basis)


def _from_linux(point: Point, device: Device) -> Prediction:
    """A dense network in the runtime that represents the class; unvalidated unless the profile was measured."""
    if point.clock_mhz is not None and not math.isclose(point.clock_mhz, device.cpu.clock_mhz.value):
        device = device.at_clock(Quantity(point.clock_mhz, "the point's"))
    runtime = device.runtime(LINUX_RUNTIMES[point.runtime_class])
    if runtime.figures is None:
        runtime = device.runtime("c")
    layers = [matrix_row(n, m, n * m, point.precision) for n, m in pairwise(point.widths)]
    estimate = estimate_latency(device, runtime, layers)
    return Prediction(point, estimate.seconds * 1e6, estimate.uncertainty, "profile")
