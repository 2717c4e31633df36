"""What `edgerl export --format c` measures of what it wrote, and how it prints that."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgerl.cli.support.output import note
from edgerl.errors import CheckFailed
from edgerl.units import human_bytes

if TYPE_CHECKING:
    from edgerl.export.c import CReport
    from edgerl.policy.compact import CompactPolicy, Precision
    from edgerl.profiling.microcontroller.measure import McuMeasurement

CALLS = 32
"""Observations that the emulated core acts on."""


@dataclass(frozen=True)
class Measured:
    """A measurement, and how far the emulated core's actions are from the policy's, in shares of their range."""

    measurement: McuMeasurement
    largest_difference: float | None

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return {**self.measurement.as_dict(), "largest_difference": self.largest_difference}

    def print(self) -> None:
        """For people."""
        measurement, counted = self.measurement, self.measurement.counted
        sizes = measurement.sizes
        stack = "" if measurement.stack is None else f", stack {human_bytes(measurement.stack.bytes)} at most"
        print(
            f"measured for {measurement.core} at {measurement.optimisation}: "
            f"code and constants {human_bytes(sizes.text)}, "
            f"data {human_bytes(sizes.data)}, bss {human_bytes(sizes.bss)}{stack}"
        )
        if counted is None:
            note(f"instructions not counted: {measurement.not_counted}")
            return
        print(
            f"counted in QEMU: {counted.instructions:.0f} instructions per call, {counted.most_instructions} at most; "
            f"stack {human_bytes(counted.stack_bytes)} with libraries; actions differ by {self.largest_difference:.1e}"
        )
        if counted.cycles is not None:
            print(f"modelled cycles per call: {counted.cycles:.0f} ({counted.cycle_model})")
        elif counted.no_cycles is not None:
            note(f"cycles not modelled: {counted.no_cycles}")


def measure_export(report: CReport, source: CompactPolicy | Path, core: str) -> Measured:
    """Compile and run what was exported, compare its actions, and leave measured.json beside it.

    Raises CheckFailed where the emulated core computes something else than the policy with the same weights.
    """
    import numpy as np

    from edgerl.export.c.form import in_precision
    from edgerl.policy import format as policy_file
    from edgerl.profiling.measuring.measure import policy_identity
    from edgerl.profiling.measuring.measurement import benchmark_observations
    from edgerl.profiling.microcontroller.measure import measure_policy
    from edgerl.profiling.microcontroller.record import write_record

    policy = in_precision(policy_file.load(source) if isinstance(source, Path) else source, report.dtype)
    sources = [report.path / name for name in report.files if name.endswith(".c")]
    observations = benchmark_observations(policy)[:CALLS]
    measurement = measure_policy(sources, sources[0].stem, observations, policy.n_actions, core)
    difference = None
    if measurement.counted is not None:
        expected = np.array([policy(observation, np.float64) for observation in observations])
        span = policy.action_high.astype(np.float64) - policy.action_low.astype(np.float64)
        difference = float(np.max(np.abs(measurement.counted.actions - expected) / span))
        largest = max(LARGEST_DIFFERENCE[layer.precision] for layer in policy.layers)
        if not difference <= largest:
            raise CheckFailed(
                f"{sources[0]} on an emulated {core} differs from the policy by {difference:.1e} of the action range, "
                f"expected at most {largest:g}: report this as a bug"
            )
    write_record(report.path, policy_identity(source), report.files, measurement)
    return Measured(measurement, difference)


LARGEST_DIFFERENCE: dict[Precision, float] = {"fp32": 1e-4, "fp16": 1e-4, "int8": 1e-2}
"""Of actions, in their range, to the policy with the same weights in float64; int8 rounds each layer's inputs, too."""
