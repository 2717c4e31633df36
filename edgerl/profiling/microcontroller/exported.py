"""What exported C takes and executes on an emulated Cortex-M, and whether it acts like the policy."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from edgerl.errors import CheckFailed, ConfigError
from edgerl.export import TargetDevice
from edgerl.export.c import CReport
from edgerl.export.c.form import in_precision
from edgerl.policy.compact import CompactPolicy, Precision
from edgerl.policy.loss import action_span
from edgerl.profiling.measuring.measurement import benchmark_observations
from edgerl.profiling.microcontroller.measure import McuMeasurement, measure_policy
from edgerl.profiling.microcontroller.record import CORE_OF_DEVICE, CORE_OF_TARGET, write_record
from edgerl.profiling.microcontroller.toolchain import COMPILER, find_program, require_compiler
from edgerl.units import human_bytes

CALLS = 32
"""Observations that the emulated core acts on."""

LARGEST_DIFFERENCE: dict[Precision, float] = {"fp32": 1e-4, "fp16": 1e-4, "int8": 1e-2, "int4": 1e-2}
"""Of actions from those in float64 with the same weights, in shares of their range; int8 also rounds layers' inputs."""


@dataclass(frozen=True)
class MeasuredExport:
    """A measurement, and how far the emulated core's actions are from the policy's, in shares of their range."""

    measurement: McuMeasurement
    largest_difference: float | None

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return {**self.measurement.as_dict(), "largest_difference": self.largest_difference}

    def describe(self) -> Iterator[str]:
        """For people."""
        measurement, counted = self.measurement, self.measurement.counted
        sizes = measurement.sizes
        stack = "" if measurement.stack is None else f", stack {human_bytes(measurement.stack.bytes)} at most"
        yield (
            f"measured for {measurement.core} at {measurement.optimisation}: "
            f"code and constants {human_bytes(sizes.text)}, "
            f"data {human_bytes(sizes.data)}, bss {human_bytes(sizes.bss)}{stack}"
        )
        if counted is None:
            return
        yield (
            f"counted in QEMU: {counted.instructions:.0f} instructions per call, {counted.most_instructions} at most; "
            f"stack {human_bytes(counted.stack_bytes)} with libraries; actions differ by {self.largest_difference:.1e}"
        )
        if counted.cycles is not None:
            yield f"modelled cycles per call: {counted.cycles:.0f} ({counted.cycle_model})"

    @property
    def notes(self) -> tuple[str, ...]:
        """What could not be measured."""
        counted = self.measurement.counted
        if counted is None:
            return (f"instructions not counted: {self.measurement.not_counted}",)
        return () if counted.no_cycles is None else (f"cycles not modelled: {counted.no_cycles}",)


def core_to_measure(target: str, device: TargetDevice | None, measure: bool | None) -> str | None:
    """The core that an export is measured for, or None. measure: True requires it, None measures where it is possible.
    Raises ConfigError, MissingExtraError where it is required and impossible."""
    if measure is False or (measure is None and find_program(COMPILER) is None):
        return None
    core = CORE_OF_TARGET.get(target) if device is None else CORE_OF_DEVICE.get(device.core)
    if measure is None:
        return core
    if core is None:
        raise ConfigError(
            f"`measure` compiles for a Cortex-M, and the target is {target if device is None else device.id}; name one "
            f"with `target`: {', '.join(CORE_OF_TARGET)}, or a device that has one"
        )
    require_compiler()
    return core


def measure_export(report: CReport, given: CompactPolicy, sha256: str, core: str) -> MeasuredExport:
    """Compile and run what was exported of the policy `given`, compare its actions, and write measured.json beside it.

    Raises CheckFailed where the emulated core's actions differ from the policy's with the same weights.
    """
    policy = in_precision(given, report.dtype)
    sources = [report.path / name for name in report.files if name.endswith(".c")]
    observations = benchmark_observations(policy)[:CALLS]
    measurement = measure_policy(sources, sources[0].stem, observations, policy.n_actions, core)
    difference = None
    if measurement.counted is not None:
        expected = policy(observations, np.float64)
        difference = float(np.max(np.abs(measurement.counted.actions - expected) / action_span(policy)))
        largest = max(LARGEST_DIFFERENCE[layer.precision] for layer in policy.layers)
        if not difference <= largest:
            raise CheckFailed(
                f"{sources[0]} on an emulated {core} differs from the policy by {difference:.1e} of the action range, "
                f"expected at most {largest:g}: report this as a bug"
            )
    write_record(report.path, sha256, report.files, measurement)
    return MeasuredExport(measurement, difference)
