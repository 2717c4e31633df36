"""Latency of microcontrollers: cycles of a call, a layer, an output and a multiply-add, fitted to published latencies.

    cycles = call + layers · layer + outputs · output + multiply-adds · multiply-add

Each of the four is a product of factors: of the runtime class, of the core's class, of the device where several points
know it, and of the arithmetic. The factors are data, model.json beside this file, made by tools/fit_latency_model.py;
what none of them knows has the mean of its class.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from importlib import resources
from typing import Any, Literal

from edgerl.files.strict_json import parse_json
from edgerl.policy.compact import Precision
from edgerl.profiling.latency.cores import UNKNOWN, CoreClass

RuntimeClass = Literal["interpreter", "tuned-kernels", "generated-c"]
RUNTIME_CLASSES: tuple[RuntimeClass, ...] = ("interpreter", "tuned-kernels", "generated-c")

Level = Literal["device", "core", "other"]
LEVELS: tuple[Level, ...] = ("device", "core", "other")
"""What is known of a prediction's subject: points of this device and class; of its core; of neither."""

Item = Literal["call", "layer", "output", "multiply-add"]
ITEMS: tuple[Item, ...] = ("call", "layer", "output", "multiply-add")

FILE = "model.json"

HALF_PRECISION_RATIO = 1.3
"""Assumed: time of a multiply-add with a 16-bit weight over that of a 32-bit one. No published point has fp16; a core
of these classes computes in fp32, and one conversion comes to the two loads and the multiply-add."""


@dataclass(frozen=True)
class CycleCosts:
    """Cycles of each item on one core."""

    call: float
    layer: float
    output: float
    multiply_add: float


@dataclass(frozen=True)
class LatencyModel:
    """Fitted factors, how far cross-validation was off, and where both come from.

    `uncertainty` [class][level] is x in: the latency lies between estimate / (1 + x) and estimate · (1 + x).
    """

    about: Mapping[str, Any]
    factors: Mapping[str, float]
    known: frozenset[str]  # "device: class" of at least two points
    uncertainty: Mapping[RuntimeClass, Mapping[Level, float]]

    def cycle_costs(
        self, runtime_class: RuntimeClass, core: CoreClass, precision: Precision, device_id: str | None
    ) -> CycleCosts:
        """What one core of a device takes; `device_id` None where the device is in no published point."""

        def product(item: Item) -> float:
            names = factor_names(item, runtime_class, core, precision, device_id)
            return math.prod(self.factors.get(name, 1.0) for name in names)

        ratio = HALF_PRECISION_RATIO if precision == "fp16" else 1.0
        call, layer, output, multiply_add = (product(item) for item in ITEMS)
        return CycleCosts(call, layer, output, ratio * multiply_add)

    def level(self, runtime_class: RuntimeClass, core: CoreClass, device_id: str | None) -> Level:
        """What is known of such a prediction's subject."""
        if f"{device_id}: {runtime_class}" in self.known:
            return "device"
        return "core" if f"{core.name}: multiply-adds" in self.factors else "other"

    def widening(
        self, runtime_class: RuntimeClass, core: CoreClass, precision: Precision, device_id: str | None
    ) -> float | None:
        """`uncertainty` of a prediction for a dense network; None where no published point resembles it."""
        if core.name == UNKNOWN.name or precision in ("fp16", "int4"):
            return None
        return self.uncertainty[runtime_class][self.level(runtime_class, core, device_id)]


def factor_names(
    item: Item, runtime_class: RuntimeClass, core: CoreClass, precision: Precision, device_id: str | None
) -> tuple[str, ...]:
    """The factors whose product an item takes, in cycles. Overheads follow the core's integer speed."""
    if item in ("call", "layer"):
        return (f"{runtime_class}: cycles per {item}", f"{core.name}: overheads", f"{device_id}: overheads")
    names = [
        f"{runtime_class}: cycles per multiply-add",
        f"{core.name}: multiply-adds",
        f"{device_id}: multiply-adds",
    ]
    if precision in ("int8", "int4"):
        names += ["int8 in pairs"] * core.has_int8_pairs
    elif not core.has_fpu:
        names.append("soft float")
    return (*names, "multiply-adds per output") if item == "output" else tuple(names)


@cache
def latency_model() -> LatencyModel:
    """The model that comes with edgerl."""
    content = parse_json(resources.files(__package__).joinpath(FILE).read_text(encoding="utf-8"))
    return LatencyModel(
        about=content["about"],
        factors=content["factors"],
        known=frozenset(content["known"]),
        uncertainty=content["uncertainty"],
    )
