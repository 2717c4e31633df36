"""A measurement beside the estimate: in a report, and kept in the user's own device profile."""

from __future__ import annotations

import json
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import Any

from edgerl.errors import DeviceError, FileFormatError
from edgerl.files.atomic import read_bytes, write_atomically
from edgerl.files.toml import parse_toml
from edgerl.profiling.budgets.device import Device, Quantity, SavedMeasurement, parse_device, profile_path
from edgerl.profiling.budgets.report import Estimate, ProfileReport, estimated_latency, profile, with_measured_latency
from edgerl.profiling.measuring.measure import Subject
from edgerl.profiling.measuring.measurement import LatencyMeasurement, Machine, Result, largest_difference

MEASURED = "measured"
"""The key of the profile's list of measurements, which is at its end."""

SAME_MACHINE = {"x86-64": "x86_64", "amd64": "x86_64", "arm64": "aarch64", "armv8l": "armv7"}
"""Other names of an architecture."""


@dataclass(frozen=True)
class ComparisonRow:
    """One runtime: what was measured, and what had been estimated."""

    measurement: LatencyMeasurement
    largest_difference: float | None  # of the actions, in shares of their range; None without a policy to compare with
    estimate: Estimate | None  # None without a device, or where it has no figures for this runtime


@dataclass(frozen=True)
class Comparison:
    """A result beside a device's estimates; `counts` says whether it was measured on such a device.

    `mode` is the power mode that the user says the device was in; None: its default one.
    """

    result: Result
    rows: tuple[ComparisonRow, ...]
    device: str | None
    mode: str | None
    counts: bool

    def as_dict(self) -> dict[str, Any]:
        """As plain data, for JSON: the result, with what it was compared with."""
        document = self.result.as_dict()
        for entry, row in zip(document["measurements"], self.rows, strict=True):
            entry["largest_difference"] = row.largest_difference
            entry["estimated_us"] = row.estimate and row.estimate.used
            entry["estimated_interval_us"] = row.estimate and row.estimate.interval
        return {**document, "counts_for": self.device if self.counts else None}


def compare(result: Result, subject: Subject, device: Device | None, mode: str | None = None) -> Comparison:
    """A result of `subject`, checked, beside the estimates for a device in one of its modes.

    Raises FileFormatError where it is of another policy, and CheckFailed where its actions are wrong.
    """
    if result.policy_sha256 != subject.policy_sha256:
        raise FileFormatError(
            f"the result is of another policy: its SHA-256 is {result.policy_sha256[:12]}…, that of {subject.name} "
            f"{subject.policy_sha256[:12]}…; name the model that the bundle was made from"
        )
    return Comparison(
        result=result,
        rows=tuple(
            ComparisonRow(
                measurement=measurement,
                largest_difference=largest_difference(measurement, subject.policy) if subject.policy else None,
                estimate=_estimate(subject, device, measurement.runtime, mode) if device else None,
            )
            for measurement in result.measurements
        ),
        device=device.id if device else None,
        mode=device.mode(mode).name if device and mode else None,
        counts=device is not None and is_same_architecture(device, result.machine),
    )


def is_same_architecture(device: Device, machine: Machine) -> bool:
    """Whether what was measured on the machine can be a figure of the device."""
    return _family(device.cpu.architecture) == _family(machine.architecture)


def _family(architecture: str) -> str:
    name = SAME_MACHINE.get(architecture.lower(), architecture.lower())
    return "armv7" if name.startswith("armv7") and not name.startswith("armv7e") else name


def _estimate(subject: Subject, device: Device, runtime: str, mode: str | None) -> Estimate | None:
    files = (subject.onnx_path, subject.policy_path)
    model = next(file for file in (files if runtime == "onnxruntime" else reversed(files)) if file is not None)
    try:
        return estimated_latency(profile(model, device, runtime=runtime, mode=mode))
    except DeviceError:  # by its profile, the device cannot run it
        return None


def with_comparison(report: ProfileReport, comparison: Comparison) -> ProfileReport:
    """The report with the measured latency of its runtime, where there is one and it counts."""
    measurement = comparison.result.measurement(report.runtime)
    if measurement is None or not comparison.counts:
        return report
    source = describe(measurement, comparison.result.machine)
    return with_measured_latency(report, Quantity(measurement.p50_ns / 1e3, source))


def describe(measurement: LatencyMeasurement, machine: Machine) -> str:
    """The source of a measured number."""
    return (
        f"measured: median of {measurement.calls} calls, {measurement.runtime} ({measurement.engine}), "
        f"{measurement.built_with}, on {describe_machine(machine)}"
    )


def describe_machine(machine: Machine) -> str:
    """As reports and sources name it."""
    where = machine.board or machine.cpu or "an unnamed processor"
    pinned = f", processor {machine.pinned_to}" if machine.pinned_to >= 0 else ""
    clock = f" at {machine.mhz} MHz" if machine.mhz else ""
    governor = f", governor {machine.governor}" if machine.governor else ""
    return f"{where} ({machine.architecture}, {machine.system} {machine.release}{pinned}{clock}{governor})"


def save(comparison: Comparison, architecture: str, device: Device, base: Path | None, goal: Path) -> int:
    """Write the device's profile with these measurements of a policy to `goal`; how many it holds then.

    `architecture` are the policy's layer widths; `base` is the profile's file, None for one that comes with edgerl.
    Older measurements of the same policy and runtime are replaced. Raises DeviceError where the result does not count
    for the device, and OutputError.
    """
    machine = comparison.result.machine
    if not comparison.counts:
        raise DeviceError(
            f"what was measured on {machine.architecture} is not a figure of {device.id}, which is "
            f"{device.cpu.architecture}; name the device that it was measured on"
        )
    text = read_bytes(base or profile_path(device.id)).decode()
    today = date.today().isoformat()
    new = [_saved(row.measurement, comparison, architecture, today) for row in comparison.rows]
    keys = {saved.key for saved in new}
    kept = [saved for saved in device.measured if saved.key not in keys]
    data = (_without_measured(text, str(base or device.id)) + "".join(map(_section, [*kept, *new]))).encode()
    parse_device(data, goal.stem, str(goal))  # nothing is written that could not be read back
    write_atomically(goal, data)
    return len(kept) + len(new)


def _without_measured(text: str, source: str) -> str:
    """A profile's text, comments and all, without its measurements; DeviceError where they are not at its end."""
    kept = text.partition(f"\n[[{MEASURED}]]")[0].rstrip() + "\n"
    content = parse_toml(text.encode(), source)
    content.pop(MEASURED, None)
    if parse_toml(kept.encode(), source) != content:
        raise DeviceError(f"{source}: something follows its [[{MEASURED}]]; move these to the end of the file")
    return kept


def _saved(measurement: LatencyMeasurement, comparison: Comparison, architecture: str, today: str) -> SavedMeasurement:
    source = f"{describe(measurement, comparison.result.machine)}, {today}"
    calls = f"of {measurement.calls} calls, as latency_us"
    cold = f"measured: median of calls that each follow {measurement.evicted_bytes} bytes of other data, as latency_us"
    return SavedMeasurement(
        policy_sha256=comparison.result.policy_sha256,
        model=architecture,
        runtime=measurement.runtime,
        mode=comparison.mode,
        latency_us=Quantity(measurement.p50_ns / 1e3, source),
        latency_p99_us=Quantity(measurement.p99_ns / 1e3, f"measured: 99th percentile {calls}"),
        latency_max_us=Quantity(measurement.max_ns / 1e3, f"measured: the longest {calls}"),
        latency_cold_us=Quantity(measurement.cold_ns / 1e3, cold),
    )


def _section(saved: SavedMeasurement) -> str:
    """As TOML."""
    lines = (f"{key} = {_value(value)}\n" for key, value in vars(saved).items() if value is not None)
    return f"\n[[{MEASURED}]]\n" + "".join(lines)


def _value(value: str | Quantity) -> str:
    if isinstance(value, Quantity):
        return f"{{ value = {value.value}, source = {_value(value.source)} }}"
    return json.dumps(value, ensure_ascii=False)  # TOML escapes as JSON does; nothing unprintable comes here
