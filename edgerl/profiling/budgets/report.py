"""Does a policy fit a device: what it uses, what the device allows, and the verdict."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal, TypeVar

from edgerl import run_folder
from edgerl.edge.runtimes import RUN_BY, ModelKind, RuntimeName, why_not
from edgerl.errors import ConfigError, DeviceError, UnsupportedModelError
from edgerl.export.c.form import PolicyForm, policy_form, target_of_core
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
from edgerl.profiling.budgets.memory import Parts, memory_parts
from edgerl.profiling.budgets.model import FLOAT_BYTES, LayerRow, ModelRows, policy_rows, read_model
from edgerl.profiling.latency.estimate import estimate_latency
from edgerl.profiling.measuring.measure import policy_identity
from edgerl.profiling.microcontroller import record as measured_c
from edgerl.profiling.microcontroller.record import CORE_OF_DEVICE

Unit = Literal["bytes", "FLOP", "us"]

BUDGETS = ("memory", "flash", "flops", "latency")

READS: dict[RuntimeName, tuple[ModelKind, ...]] = {"onnxruntime": ("onnx", "foreign onnx"), "native": ("policy",)}
"""The files that a runtime reads as they are."""

UNDECIDED = "the latency budget lies inside the estimate's interval: measure before you rely on the verdict"


@dataclass(frozen=True)
class Verdict:
    """One budget: what the model uses of it, and where both numbers come from."""

    used: float
    budget: float
    unit: Unit
    source: str

    @property
    def fits(self) -> bool:
        """Whether the budget is kept; exactly the budget is."""
        return self.used <= self.budget

    def as_dict(self) -> dict[str, Any]:
        """Plain data, for JSON."""
        return {**asdict(self), "fits": self.fits}


@dataclass(frozen=True)
class Estimate(Verdict):
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
class MeasuredLatency(Verdict):
    """The latency's verdict where it was measured on the device, and the estimate that it stands in place of."""

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
    execution: Literal["dense", "connections"]
    rate_hz: float
    layers: tuple[LayerReport, ...]
    model_bytes: int  # in the form that the runtime reads
    memory_parts: Parts
    memory: Verdict
    flash: Verdict
    flops: Verdict
    latency: Estimate | MeasuredLatency
    notes: tuple[str, ...]

    @property
    def verdicts(self) -> dict[str, Verdict]:
        """The four budgets by name."""
        return {name: getattr(self, name) for name in BUDGETS}

    @property
    def exceeded(self) -> tuple[str, ...]:
        """Names of the budgets that are exceeded."""
        return tuple(name for name, verdict in self.verdicts.items() if not verdict.fits)

    @property
    def fits(self) -> bool:
        """Whether every budget is kept."""
        return not self.exceeded

    def as_dict(self) -> dict[str, Any]:
        """The report as plain data, for JSON."""
        verdicts = {name: verdict.as_dict() for name, verdict in self.verdicts.items()}
        return {**asdict(self), **verdicts, "layers": [asdict(layer) for layer in self.layers], "fits": self.fits}


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
    the device's. Latency is an estimate, unless the profile holds a measurement of this very model, runtime and mode;
    everything else follows from the model and the profile by arithmetic. Raises UnsupportedModelError where the runtime
    cannot run the model.
    """
    rows = _rows(model)
    profiled = device if isinstance(device, Device) else find_device(device)
    device = profiled if mode is None else profiled.in_mode(mode)
    chosen = device.runtime(device.default_runtime if runtime is None else runtime)
    _check_runtime(rows, device, chosen)
    figures = figures_of(device, chosen)
    form = _c_form(rows, device) if chosen.name == "c" else None
    works = [_work(layer, chosen) for layer in rows.layers] if form is None else _c_works(form)
    parts = memory_parts(rows, device, chosen.name, int(figures.base_memory_bytes.value), form)
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
        execution="dense" if chosen.name == "onnxruntime" else "connections",
        rate_hz=rate.value,
        layers=tuple(_layer_report(layer, work) for layer, work in zip(rows.layers, works, strict=True)),
        model_bytes=stored,
        memory_parts=parts,
        memory=_memory(parts, device, figures, budget_memory_bytes),
        flash=_flash(stored, device, chosen, figures, budget_flash_bytes),
        flops=_flops(rows, works, device, chosen, rate, budget_flops),
        latency=latency,
        notes=tuple(_notes(rows, device, chosen, latency)),
    )
    if chosen.name == "c" and isinstance(model, (str, Path)):
        report = _with_measured_c(report, Path(model), device, figures)
    if isinstance(model, ModelRows) or not profiled.measured:
        return report
    identity = policy_identity(model if isinstance(model, CompactPolicy) else Path(model))
    saved = profiled.saved(identity, chosen.name, mode)
    return report if saved is None else with_measured_latency(report, saved.latency_us)


def _with_measured_c(report: ProfileReport, model: Path, device: Device, figures: RuntimeFigures) -> ProfileReport:
    """The same with what was measured of the C that was exported beside the policy for this device's core, if
    anything.
    """
    folder = (model if model.is_dir() else model.parent) / run_folder.C_FOLDER
    core = CORE_OF_DEVICE.get(device.cpu.core)
    if core is None or not (folder / measured_c.NAME).is_file():
        return report
    found = measured_c.find_record(folder, policy_identity(model), core)
    return report if found is None else _with_record(report, found, device, figures)


def _with_record(
    report: ProfileReport, found: measured_c.Record, device: Device, figures: RuntimeFigures
) -> ProfileReport:
    measured = f"measured by the cross compiler for {found.core} at {found.optimisation}"
    parts = {"runtime": report.memory_parts["runtime"], "weights": 0, "activations": found.memory_bytes}
    stack = "" if found.stack_bytes is None else f", of which a call was measured to take {found.stack_bytes}"
    memory_source = (
        f"runtime {parts['runtime']} ({figures.base_memory_bytes.source}{stack}) + data and bss {parts['activations']} "
        f"({measured})"
    )
    report = replace(
        report,
        model_bytes=found.text_bytes,
        memory_parts=parts,
        memory=_replaced(report.memory, sum(parts.values()), memory_source),
        flash=_replaced(report.flash, found.text_bytes, f"code and constants {found.text_bytes} ({measured})"),
    )
    if found.instructions is None:
        return report
    cycles = "" if found.cycles is None else f", {found.cycles:.0f} modelled cycles"
    note = f"instructions per call, counted in QEMU: {found.instructions:.0f}{cycles}"
    if found.cycles is not None and estimated_latency(report).uncertainty is None:
        latency = found.cycles / device.cpu.clock_mhz.value
        source = f"modelled cycles of the counted instructions at {device.cpu.clock_mhz.value:g} MHz, no wait states"
        report = replace(report, latency=_replaced(estimated_latency(report), latency, source))
    return replace(report, notes=(*report.notes, note))


AnyVerdict = TypeVar("AnyVerdict", bound=Verdict)


def _replaced(verdict: AnyVerdict, used: float, source: str) -> AnyVerdict:
    """The verdict on another use of the same budget."""
    budget = Quantity(verdict.budget, verdict.source.partition(_BUDGET_FROM)[2])
    return replace(verdict, used=used, source=_sources(source, budget))


def with_measured_latency(report: ProfileReport, latency_us: Quantity) -> ProfileReport:
    """The same with a measured latency in place of the estimate."""
    estimate = estimated_latency(report)
    budget = Quantity(estimate.budget, estimate.source.partition(_BUDGET_FROM)[2])
    measured = MeasuredLatency(
        used=latency_us.value,
        budget=budget.value,
        unit="us",
        source=_sources(latency_us.source, budget),
        estimate=estimate,
    )
    return replace(report, latency=measured, notes=tuple(note for note in report.notes if note != UNDECIDED))


def estimated_latency(report: ProfileReport) -> Estimate:
    """What the model says of the latency, also where it was measured."""
    return report.latency.estimate if isinstance(report.latency, MeasuredLatency) else report.latency


def _rows(model: CompactPolicy | ModelRows | str | Path) -> ModelRows:
    if isinstance(model, ModelRows):
        return model
    return policy_rows(model) if isinstance(model, CompactPolicy) else read_model(Path(model))


def _check_runtime(rows: ModelRows, device: Device, runtime: Runtime) -> None:
    """Raise UnsupportedModelError where the runtime cannot run the model: the budgets that it keeps mean nothing."""
    problem = why_not(rows.name, rows.kind, runtime.name)
    if problem is None:
        return
    able = [other.name for other in device.runtimes if other.name in RUN_BY[rows.kind] and other.figures is not None]
    fix = (
        f"choose --runtime {' or '.join(able)}"
        if able
        else f"{device.id} has none; for a policy of edgerl of that size: --network {rows.architecture}"
    )
    raise UnsupportedModelError(f"{problem}; {fix}")


def figures_of(device: Device, runtime: Runtime) -> RuntimeFigures:
    """What the runtime needs on the device. Raises DeviceError where it cannot run there."""
    if runtime.figures is None:
        raise DeviceError(f"{runtime.name} cannot run on {device.id}: {runtime.reason}; use {runtime.instead}")
    return runtime.figures


@dataclass(frozen=True)
class _Work:
    """What one execution of a layer takes."""

    multiply_adds: int
    bytes_read: int


def _work(layer: LayerRow, runtime: Runtime) -> _Work:
    """onnxruntime makes every matrix dense, the others read what is stored."""
    if runtime.name == "onnxruntime":
        return _Work(layer.positions, _onnxruntime_bytes(layer))
    return _Work(layer.stored_weights, layer.stored_bytes)


def _c_form(rows: ModelRows, device: Device) -> PolicyForm | None:
    """The policy as `edgerl export --format c --target` this device writes it; None where its weights are not known."""
    if rows.policy is None:
        return None
    return policy_form(rows.policy, None, "auto", target_of_core(device.cpu.core))


def _c_works(form: PolicyForm) -> list[_Work]:
    pairs = zip(form.layers, form.layer_bytes, strict=True)
    return [_Work(layer.multiply_adds, n_bytes) for layer, n_bytes in pairs]


def _onnxruntime_bytes(layer: LayerRow) -> int:
    """Bytes that onnxruntime holds: floats for every position, whatever the file stores."""
    return FLOAT_BYTES * (layer.positions + layer.n_biases)


def _layer_report(layer: LayerRow, work: _Work) -> LayerReport:
    return LayerReport(
        inputs=layer.n_inputs,
        outputs=layer.n_outputs,
        connections=layer.connections,
        macs=work.multiply_adds,
        flops=FLOPS_PER_MULTIPLY_ADD * work.multiply_adds,
        bytes=work.bytes_read,
    )


def _memory(parts: Parts, device: Device, figures: RuntimeFigures, given: float | None) -> Verdict:
    """Constant weights lie in flash on a microcontroller and in memory elsewhere."""
    named = [f"{name} {n_bytes}" for name, n_bytes in parts.items()]
    named[0] += f" ({figures.base_memory_bytes.source})"
    budget = _limited("memory", given, device.budgets.memory_bytes, device.memory.usable_bytes)
    return _verdict(sum(parts.values()), budget, "bytes", " + ".join(named))


def _flash(stored: int, device: Device, runtime: Runtime, figures: RuntimeFigures, given: float | None) -> Verdict:
    """What runs the policy, and the policy in the form that it reads, `stored` bytes."""
    installed = int(figures.installed_bytes.value)
    source = f"{runtime.name} {installed} ({figures.installed_bytes.source}) + model {stored}"
    budget = _limited("flash", given, device.budgets.flash_bytes, device.memory.flash_bytes)
    return _verdict(installed + stored, budget, "bytes", source)


def _stored_bytes(rows: ModelRows, runtime: Runtime) -> int:
    """Bytes of the file where the runtime reads it, else of the weights that its own form would hold."""
    if rows.file_bytes is not None and rows.kind in READS.get(runtime.name, ()):
        return rows.file_bytes
    if runtime.name == "onnxruntime":
        return rows.constant_bytes + sum(layer.dense_bytes for layer in rows.layers)
    return rows.constant_bytes + sum(layer.stored_bytes for layer in rows.layers)


def _flops(
    rows: ModelRows,
    works: Sequence[_Work],
    device: Device,
    runtime: Runtime,
    rate: Quantity,
    given: float | None,
) -> Verdict:
    share, precision = device.budgets.flops_share, _arithmetic(rows, runtime)
    peak = device.cpu.peak_flops(precision)
    default = Quantity(
        share.value * peak / rate.value,
        f"{share.value:g} of one core's peak in {precision}, {peak / 1e9:.3g} GFLOP/s, / {rate.value:g} Hz "
        f"({share.source})",
    )
    used = FLOPS_PER_MULTIPLY_ADD * sum(work.multiply_adds for work in works)
    source = f"exact, {FLOPS_PER_MULTIPLY_ADD} per multiply-add that {runtime.name} executes"
    return _verdict(used, _given("the FLOP budget", given, default), "FLOP", source)


def _arithmetic(rows: ModelRows, runtime: Runtime) -> Precision:
    """What the runtime computes in: C in the precision of the weights, where all layers have one; else fp32."""
    precisions = {layer.precision for layer in rows.layers}
    return precisions.pop() if runtime.name == "c" and len(precisions) == 1 else "fp32"


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
        source=_sources(estimate.source, budget),
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


def _verdict(used: float, budget: Quantity, unit: Unit, source: str) -> Verdict:
    return Verdict(used=used, budget=budget.value, unit=unit, source=_sources(source, budget))


def _sources(used: str, budget: Quantity) -> str:
    return f"used: {used}{_BUDGET_FROM}{budget.source}"


_BUDGET_FROM = "; budget: "


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
            "the engine chooses on the device how it keeps each layer, and passes over inputs that are zero: the "
            "latency counts on that, the other figures are for the stored form"
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
