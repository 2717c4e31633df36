"""Does a policy fit a device: what it uses, what the device allows, and the verdict."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

from edgerl import run_folder
from edgerl.edge.runtimes import RUN_BY, ModelKind, RuntimeName, why_not
from edgerl.errors import ConfigError, DeviceError, UnsupportedModelError
from edgerl.export.c.form import PolicyForm, policy_form, target_of
from edgerl.export.c.source import MAXIMUM_FLASH_BYTES
from edgerl.policy.compact import CompactPolicy, Precision
from edgerl.profiling.budgets.costs import FLOPS_PER_MULTIPLY_ADD
from edgerl.profiling.budgets.device import (
    LARGEST_NUMBER,
    SMALLEST_NUMBER,
    Device,
    Quantity,
    Runtime,
    RuntimeFigures,
    find_device,
)
from edgerl.profiling.budgets.memory import BytesByPart, memory_parts
from edgerl.profiling.budgets.model import policy_rows, read_model
from edgerl.profiling.budgets.rows import FLOAT_BYTES, ModelRows
from edgerl.profiling.latency.estimate import estimate_latency
from edgerl.profiling.measuring.measure import policy_identity
from edgerl.profiling.microcontroller import record as measured_c
from edgerl.profiling.microcontroller.record import CORE_OF_DEVICE

Unit = Literal["bytes", "FLOP", "us"]

BUDGETS = ("memory", "flash", "flops", "latency")

READS: dict[RuntimeName, tuple[ModelKind, ...]] = {"onnxruntime": ("onnx", "foreign onnx"), "native": ("policy",)}
"""The files that a runtime reads without conversion."""

C_LIMIT = f"edgerl export --format c writes at most {MAXIMUM_FLASH_BYTES} bytes of constants"

UNDECIDED = "the latency budget lies inside the estimate's interval: measure before you rely on the verdict"


@dataclass(frozen=True)
class BudgetPart:
    """One part of what a model uses; `source` is given where the number does not follow from the model."""

    name: str
    amount: int
    source: str | None = None


@dataclass(frozen=True)
class BudgetVerdict:
    """One budget: what the model uses of it, and where both numbers come from.

    `used` is the sum of its parts, or else a single number with a source.
    """

    used: float
    budget: float
    unit: Unit
    source: str | None  # of `used`; None: each part has its own
    budget_source: str
    parts: tuple[BudgetPart, ...] = field(default=(), kw_only=True)

    @property
    def fits(self) -> bool:
        """Whether the budget is kept; a use of exactly the budget keeps it."""
        return self.used <= self.budget

    def as_dict(self) -> dict[str, Any]:
        """Plain data, for JSON."""
        return {**asdict(self), "fits": self.fits}


@dataclass(frozen=True)
class Estimate(BudgetVerdict):
    """A budget whose use is estimated: the truth lies between used / (1 + x) and used · (1 + x), x the uncertainty."""

    uncertainty: float | None  # None: unvalidated

    @property
    def interval(self) -> tuple[float, float] | None:
        """(low, high), in the verdict's unit."""
        if self.uncertainty is None:
            return None
        return self.used / (1 + self.uncertainty), self.used * (1 + self.uncertainty)

    @property
    def is_decided(self) -> bool:
        """Whether the whole interval lies on one side of the budget."""
        return self.interval is not None and (self.interval[1] <= self.budget or self.interval[0] > self.budget)

    def as_dict(self) -> dict[str, Any]:
        """Plain data, for JSON."""
        return {**super().as_dict(), "interval": self.interval}


@dataclass(frozen=True)
class MeasuredLatency(BudgetVerdict):
    """The latency's verdict where it was measured on the device, and the estimate that it replaces."""

    estimate: Estimate

    def as_dict(self) -> dict[str, Any]:
        """Plain data, for JSON."""
        verdict = {key: value for key, value in super().as_dict().items() if key != "estimate"}
        return {**verdict, "estimated": self.estimate.used, "estimated_interval": self.estimate.interval}


@dataclass(frozen=True)
class LayerReport:
    """One layer as the runtime executes it; `bytes` is what its weights occupy there."""

    inputs: int
    outputs: int
    connections: int
    macs: int
    flops: int
    bytes: int


@dataclass(frozen=True)
class ProfileReport:
    """What `profile` returns and the command prints."""

    model: str
    architecture: str
    device: str
    device_name: str
    runtime: RuntimeName
    is_default_runtime: bool
    is_available: bool  # whether the runtime can be installed on the device as it is
    execution: Literal["dense", "connections"]
    rate_hz: float
    layers: tuple[LayerReport, ...]
    model_bytes: int  # in the form that the runtime reads
    memory: BudgetVerdict
    flash: BudgetVerdict
    flops: BudgetVerdict
    latency: Estimate | MeasuredLatency
    notes: tuple[str, ...]

    @property
    def verdicts(self) -> dict[str, BudgetVerdict]:
        """The four budgets by name."""
        return {name: getattr(self, name) for name in BUDGETS}

    @property
    def memory_parts(self) -> BytesByPart:
        """Bytes of memory by part."""
        return {part.name: part.amount for part in self.memory.parts}

    @property
    def exceeded(self) -> tuple[str, ...]:
        """Names of the budgets that are exceeded."""
        return tuple(name for name, verdict in self.verdicts.items() if not verdict.fits)

    @property
    def fits(self) -> bool:
        """Whether the runtime is available there, and every budget is kept."""
        return self.is_available and not self.exceeded

    def as_dict(self) -> dict[str, Any]:
        """The report as plain data, for JSON."""
        verdicts = {name: verdict.as_dict() for name, verdict in self.verdicts.items()}
        return {**asdict(self), **verdicts, "memory_parts": self.memory_parts, "fits": self.fits}


def profile(
    model: CompactPolicy | ModelRows | str | Path,
    device: Device | str | Path,
    *,
    runtime: str | None = None,
    mode: str | None = None,
    budget_memory_bytes: int | None = None,
    budget_flash_bytes: int | None = None,
    budget_flops: float | None = None,
    budget_latency_seconds: float | None = None,
    rate_hz: float | None = None,
) -> ProfileReport:
    """Compare a model with a device's budgets: a policy, or the path of a .safetensors, an .onnx file or a run folder.

    `device` is an id, the path of a .toml file, or a Device; `mode` one of its power modes. Budgets and rate default to
    the device's. Latency is an estimate, unless the profile holds a measurement of this model, runtime and mode;
    everything else follows from the model and the profile by arithmetic. Raises UnsupportedModelError where the runtime
    cannot run the model.
    """
    rows = _rows(model)
    profiled = device if isinstance(device, Device) else find_device(device)
    device = profiled if mode is None else profiled.in_mode(mode)
    chosen = device.runtime(device.default_runtime if runtime is None else runtime)
    _check_runtime(rows, device, chosen)
    figures = figures_of(device, chosen)
    form = None
    if chosen.name == "c" and rows.policy is not None:  # as `edgerl export --format c --target` this device writes it
        form = policy_form(rows.policy, None, "auto", target_of(device.cpu.core, device.cpu.architecture))
    layers = _layers(rows, chosen, form)
    sizes = memory_parts(rows, device, chosen.name, int(figures.base_memory_bytes.value), form)
    stored = _stored_bytes(rows, chosen) if form is None else form.flash_bytes
    rate = _given("the rate", rate_hz, device.budgets.rate_hz)
    budget_latency_us = None if budget_latency_seconds is None else budget_latency_seconds * 1e6
    latency = _latency(rows, device, chosen, rate, budget_latency_us)
    report = ProfileReport(
        model=rows.name,
        architecture=rows.architecture,
        device=device.id,
        device_name=device.name,
        runtime=chosen.name,
        is_default_runtime=chosen.name == device.default_runtime,
        is_available=chosen.available,
        execution="dense" if chosen.name == "onnxruntime" else "connections",
        rate_hz=rate.value,
        layers=layers,
        model_bytes=stored,
        memory=_memory(sizes, device, figures, budget_memory_bytes),
        flash=_flash(stored, device, chosen, figures, budget_flash_bytes),
        flops=_flops(rows, layers, device, chosen, rate, budget_flops),
        latency=latency,
        notes=tuple(_notes(rows, device, chosen, latency)),
    )
    if chosen.name == "c" and isinstance(model, (str, Path)):
        report = _with_measured_c(report, Path(model), device)
    if isinstance(model, ModelRows) or not profiled.measured:
        return report
    identity = policy_identity(model if isinstance(model, CompactPolicy) else Path(model))
    saved = profiled.saved(identity, chosen.name, mode)
    return report if saved is None else with_measured_latency(report, saved.latency_us)


def _with_measured_c(report: ProfileReport, model: Path, device: Device) -> ProfileReport:
    """The same with what was measured of the C exported beside the policy for this device's core, if anything."""
    folder = (model if model.is_dir() else model.parent) / run_folder.C_FOLDER
    core = CORE_OF_DEVICE.get(device.cpu.core)
    if core is None or not (folder / measured_c.NAME).is_file():
        return report
    record = measured_c.find_record(folder, policy_identity(model), core)
    return report if record is None else _with_record(report, record, device)


def _with_record(report: ProfileReport, record: measured_c.Record, device: Device) -> ProfileReport:
    measured = f"measured by the cross compiler for {record.core} at {record.optimisation}"
    runtime = report.memory.parts[0]
    if record.stack_bytes is not None:
        stack = f"of which a call was measured to take {record.stack_bytes}"
        runtime = replace(runtime, source=f"{runtime.source}, {stack}")
    data = BudgetPart("activations", record.memory_bytes, f"data and bss, {measured}")
    report = replace(
        report,
        model_bytes=record.text_bytes,
        memory=with_parts(report.memory, (runtime, BudgetPart("weights", 0), data)),
        flash=with_parts(report.flash, (BudgetPart("code and constants", record.text_bytes, measured),)),
    )
    if record.instructions is None:
        return report
    cycles = "" if record.cycles is None else f", {record.cycles:.0f} modelled cycles"
    note = f"instructions per call, counted in QEMU: {record.instructions:.0f}{cycles}"
    if record.cycles is not None and estimated_latency(report).uncertainty is None:
        latency = record.cycles / device.cpu.clock_mhz.value
        source = f"modelled cycles of the counted instructions at {device.cpu.clock_mhz.value:g} MHz, no wait states"
        report = replace(report, latency=replace(estimated_latency(report), used=latency, source=source))
    return replace(report, notes=(*report.notes, note))


def with_parts(verdict: BudgetVerdict, parts: tuple[BudgetPart, ...]) -> BudgetVerdict:
    """The verdict on the same budget with other parts."""
    return replace(verdict, used=sum(part.amount for part in parts), parts=parts)


def with_measured_latency(report: ProfileReport, latency_us: Quantity) -> ProfileReport:
    """The same with a measured latency in place of the estimate; a runtime that was measured there is available."""
    estimate = estimated_latency(report)
    measured = MeasuredLatency(
        used=latency_us.value,
        budget=estimate.budget,
        unit="us",
        source=latency_us.source,
        budget_source=estimate.budget_source,
        estimate=estimate,
    )
    return replace(
        report, is_available=True, latency=measured, notes=tuple(note for note in report.notes if note != UNDECIDED)
    )


def estimated_latency(report: ProfileReport) -> Estimate:
    """The estimate of the latency, even where it was measured."""
    return report.latency.estimate if isinstance(report.latency, MeasuredLatency) else report.latency


def _rows(model: CompactPolicy | ModelRows | str | Path) -> ModelRows:
    if isinstance(model, ModelRows):
        return model
    return policy_rows(model) if isinstance(model, CompactPolicy) else read_model(Path(model))


def _check_runtime(rows: ModelRows, device: Device, runtime: Runtime) -> None:
    """Raise UnsupportedModelError where the runtime cannot run the model: its budgets would mean nothing."""
    problem = why_not(rows.name, rows.kind, runtime.name)
    if problem is None:
        return
    able = [other.name for other in device.runtimes if other.name in RUN_BY[rows.kind] and other.figures is not None]
    fix = (
        f"choose `runtime` {' or '.join(able)}"
        if able
        else f"{device.id} has none; for a policy of edgerl of that size: `network` {rows.architecture}"
    )
    if rows.kind == "foreign onnx":
        fix += f"; or make a policy of it, which all can run: edgerl import {rows.name}"
    raise UnsupportedModelError(f"{problem}; {fix}")


def figures_of(device: Device, runtime: Runtime) -> RuntimeFigures:
    """What the runtime needs on the device. Raises DeviceError where it cannot run there."""
    if runtime.figures is None:
        raise DeviceError(f"{runtime.name} cannot run on {device.id}: {runtime.reason}; use {runtime.instead}")
    return runtime.figures


def _layers(rows: ModelRows, runtime: Runtime, form: PolicyForm | None) -> tuple[LayerReport, ...]:
    """What one execution of each layer takes: C has a form of its own, onnxruntime makes every matrix dense floats,
    the others execute what is stored."""
    if form is not None:
        works = [(layer.multiply_adds, n_bytes) for layer, n_bytes in zip(form.layers, form.layer_bytes, strict=True)]
    elif runtime.name == "onnxruntime":
        works = [(layer.positions, FLOAT_BYTES * (layer.positions + layer.n_biases)) for layer in rows.layers]
    else:
        works = [(layer.stored_weights, layer.stored_bytes) for layer in rows.layers]
    return tuple(
        LayerReport(
            inputs=layer.n_inputs,
            outputs=layer.n_outputs,
            connections=layer.connections,
            macs=multiply_adds,
            flops=FLOPS_PER_MULTIPLY_ADD * multiply_adds,
            bytes=n_bytes,
        )
        for layer, (multiply_adds, n_bytes) in zip(rows.layers, works, strict=True)
    )


def _memory(sizes: BytesByPart, device: Device, figures: RuntimeFigures, given: float | None) -> BudgetVerdict:
    """Constant weights are in flash on a microcontroller and in memory elsewhere."""
    runtime = BudgetPart("runtime", sizes["runtime"], figures.base_memory_bytes.source)
    others = (BudgetPart(name, n_bytes) for name, n_bytes in sizes.items() if name != "runtime")
    budget = _limited("memory", given, device.budgets.memory_bytes, device.memory.usable_bytes)
    return _sum_verdict((runtime, *others), budget)


def _flash(
    stored: int, device: Device, runtime: Runtime, figures: RuntimeFigures, given: float | None
) -> BudgetVerdict:
    """What runs the policy, and the policy in the form that it reads, `stored` bytes; C is exported up to a limit."""
    installed = figures.installed_bytes
    budget = _limited("flash", given, device.budgets.flash_bytes, device.memory.flash_bytes)
    if runtime.name == "c" and stored > MAXIMUM_FLASH_BYTES:
        exported = Quantity(MAXIMUM_FLASH_BYTES + installed.value, C_LIMIT)
        budget = min(budget, exported, key=lambda limit: limit.value)
    parts = BudgetPart(runtime.name, int(installed.value), installed.source), BudgetPart("model", stored)
    return _sum_verdict(parts, budget)


def _sum_verdict(parts: tuple[BudgetPart, ...], budget: Quantity) -> BudgetVerdict:
    used = sum(part.amount for part in parts)
    return BudgetVerdict(used, budget.value, "bytes", source=None, budget_source=budget.source, parts=parts)


def _stored_bytes(rows: ModelRows, runtime: Runtime) -> int:
    """Bytes of the file where the runtime reads it, else of the weights that its own form would hold."""
    if rows.file_bytes is not None and rows.kind in READS.get(runtime.name, ()):
        return rows.file_bytes
    if runtime.name == "onnxruntime":
        return rows.constant_bytes + sum(layer.dense_bytes for layer in rows.layers)
    return rows.constant_bytes + sum(layer.stored_bytes for layer in rows.layers)


def _flops(
    rows: ModelRows,
    layers: Sequence[LayerReport],
    device: Device,
    runtime: Runtime,
    rate: Quantity,
    given: float | None,
) -> BudgetVerdict:
    precision: Precision = "fp32"  # which runtimes compute in, but C in that of the weights, where they have one
    if runtime.name == "c" and len({layer.precision for layer in rows.layers}) == 1:
        precision = rows.layers[0].precision
        precision = "int8" if precision == "int4" else precision  # which C multiplies as such
    share = device.budgets.flops_share
    peak = device.cpu.peak_flops(precision)
    default = Quantity(
        share.value * peak / rate.value,
        f"{share.value:g} of one core's peak in {precision}, {peak / 1e9:.3g} GFLOP/s, / {rate.value:g} Hz "
        f"({share.source})",
    )
    used = sum(layer.flops for layer in layers)
    source = f"exact, {FLOPS_PER_MULTIPLY_ADD} per multiply-add that {runtime.name} executes"
    budget = _given("the FLOP budget", given, default)
    return BudgetVerdict(used, budget.value, "FLOP", source, budget.source)


def _latency(rows: ModelRows, device: Device, runtime: Runtime, rate: Quantity, given_us: float | None) -> Estimate:
    share, estimate = device.budgets.latency_share, estimate_latency(device, runtime, rows.layers)
    default = Quantity(
        share.value * 1e6 / rate.value, f"{share.value:g} of the period at {rate.value:g} Hz ({share.source})"
    )
    budget = _given("the latency budget", given_us, default)
    return Estimate(
        used=estimate.seconds * 1e6,
        budget=budget.value,
        unit="us",
        source=estimate.source,
        budget_source=budget.source,
        uncertainty=estimate.uncertainty,
    )


def _given(name: str, value: float | None, default: Quantity) -> Quantity:
    if value is None:
        return default
    if not SMALLEST_NUMBER <= value <= LARGEST_NUMBER:
        raise ConfigError(f"{name} is {value}; expected {SMALLEST_NUMBER:g} to {LARGEST_NUMBER:g}")
    return Quantity(value, "given")


def _limited(name: str, value: float | None, default: Quantity, limit: Quantity) -> Quantity:
    budget = _given(f"the {name} budget", value, default)
    if budget.value > limit.value:
        raise ConfigError(
            f"the {name} budget is {budget.value:.0f} bytes; the device has {limit.value:.0f}; choose a smaller one"
        )
    return budget


def _notes(rows: ModelRows, device: Device, runtime: Runtime, latency: Estimate) -> Sequence[str]:
    notes = []
    if not runtime.available:
        notes.append(f"{runtime.name} cannot be installed on {device.id} as it is: {runtime.reason}")
        notes.append(f"what can run there: {runtime.instead}")
    if runtime.name == "c" and rows.policy is None:
        notes.append("the weights are not known: the figures of C are for its compact form, its layouts may take more")
    if latency.interval is not None and not latency.is_decided:
        notes.append(UNDECIDED)
    if runtime.name == "native":
        notes.append(
            "the engine chooses each layer's layout on the device, and skips inputs that are zero: the latency counts "
            "on that, the other figures are for the stored form"
        )
    is_sparse = any(layer.connections < layer.positions for layer in rows.layers)
    if runtime.name == "onnxruntime" and is_sparse:
        notes.append("onnxruntime makes sparse weights dense: absent connections save neither time nor memory")
    if runtime.name == "onnxruntime" and any(layer.precision != "fp32" for layer in rows.layers):
        notes.append("onnxruntime makes smaller weights float when it loads the model: only the file is smaller")
    if runtime.name == "native" and any(layer.precision != "fp32" for layer in rows.layers):
        notes.append("native makes smaller weights float when it loads the model: only the file is smaller")
    if runtime.name == "c" and device.kind == "linux" and any(layer.precision != "fp32" for layer in rows.layers):
        notes.append("the estimate prices C in fp32 on this device: smaller weights save bytes only")
    if runtime.name != "onnxruntime" and rows.kind == "onnx" and any(layer.is_sparse for layer in rows.layers):
        notes.append("an ONNX file does not say its block: priced as single connections; profile the .safetensors")
    return notes
