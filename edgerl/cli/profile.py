"""edgerl profile: does a model fit a device."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TypeVar

import typer

from edgerl.cli.learning import find_learner, print_learning
from edgerl.cli.models import find_model
from edgerl.cli.output import Json, human_bytes, human_seconds, print_json, print_table
from edgerl.errors import CheckFailed

if TYPE_CHECKING:
    from edgerl.profiling.report import ProfileReport, Unit, Verdict

Number = TypeVar("Number", int, float)

LABELS = {"memory": "memory", "flash": "flash", "flops": "FLOPs per inference", "latency": "latency"}
SYMBOLS: dict[Unit, str] = {"bytes": " B", "FLOP": "", "us": " µs"}
SMALLEST_ROUNDED = {"FLOP": 1.0, "us": 0.1}
"""Below, rounding to the digits that people read would leave a zero."""


def command(
    device: Annotated[str, typer.Option("--device", metavar="ID|FILE.toml", help="As `edgerl devices list` names it.")],
    model: Annotated[
        Path | None, typer.Argument(help="A policy, an ONNX perceptron or a run folder; else the newest policy.")
    ] = None,
    runtime: Annotated[
        str | None, typer.Option("--runtime", help="onnxruntime, native or c; else the device's default.")
    ] = None,
    budget_memory: Annotated[
        str | None, typer.Option("--budget-memory", metavar="BYTES", help="As in 64KiB; else the device's.")
    ] = None,
    budget_flash: Annotated[
        str | None, typer.Option("--budget-flash", metavar="BYTES", help="As in 1MiB; else the device's.")
    ] = None,
    budget_flops: Annotated[
        str | None, typer.Option("--budget-flops", metavar="FLOPS", help="Per inference, as in 1e6; else the device's.")
    ] = None,
    budget_latency: Annotated[
        str | None, typer.Option("--budget-latency", metavar="TIME", help="As in 500us; else the device's.")
    ] = None,
    rate: Annotated[float | None, typer.Option("--rate", metavar="HZ", help="Control rate; else the device's.")] = None,
    learn: Annotated[
        bool, typer.Option("--learn", help="Of a learner.safetensors: networks and replay, and the updates that fit.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Compare a model's memory, flash, FLOPs and estimated latency with a device's budgets; exit 1 if it exceeds one.

    Example: edgerl profile --device stm32f405 --rate 200 --budget-memory 64KiB
    """
    from edgerl.profiling.device import find_device
    from edgerl.profiling.learning import profile_learner
    from edgerl.profiling.report import profile
    from edgerl.profiling.units import parse_bytes, parse_count, parse_seconds

    found = find_device(device)
    options: dict[str, Any] = {
        "runtime": runtime,
        "budget_memory_bytes": _parsed(parse_bytes, budget_memory, "--budget-memory"),
        "budget_flash_bytes": _parsed(parse_bytes, budget_flash, "--budget-flash"),
        "budget_flops": _parsed(parse_count, budget_flops, "--budget-flops"),
        "budget_latency_seconds": _parsed(parse_seconds, budget_latency, "--budget-latency"),
        "rate_hz": rate,
    }
    if learn:
        learning = profile_learner(find_learner(model), found, **options)
        report = learning.acting
    else:
        learning, report = None, profile(find_model(model), found, **options)
    if as_json:
        print_json({**report.as_dict(), **({} if learning is None else {"learning": learning.as_dict()})})
    else:
        _print_report(report)
    if learning is not None and not as_json:
        print_learning(learning)
    if not report.fits:
        excess = ", ".join(use_of_budget(LABELS[name], report.verdicts[name]) for name in report.exceeded)
        raise CheckFailed(f"{report.model} does not fit {report.device}: {excess}")


def _parsed(parse: Callable[[str, str], Number], text: str | None, name: str) -> Number | None:
    return None if text is None else parse(text, name)


def _print_report(report: ProfileReport) -> None:
    default = ", the default there" if report.is_default_runtime else ""
    executes = "executes dense matrices" if report.execution == "dense" else "executes what is stored"
    print(f"{report.model} ({report.architecture}) on {report.device_name}")
    print(f"runtime {report.runtime}{default}: {executes}; control rate {report.rate_hz:g} Hz\n")
    layers = [
        (
            f"{index}: {layer.inputs} → {layer.outputs}",
            f"{layer.connections}",
            f"{layer.macs}",
            f"{layer.flops}",
            f"{layer.bytes}",
        )
        for index, layer in enumerate(report.layers)
    ]
    total = [f"{sum(int(row[column]) for row in layers)}" for column in range(1, 5)]
    print_table(("layer", "connections", "MACs", "FLOPs", "bytes"), [*layers, ("total", *total)])
    rows = [
        (LABELS[name], *_used_and_budget(verdict), "fits" if verdict.fits else "EXCEEDED")
        for name, verdict in report.verdicts.items()
    ]
    print_table(("", "used", "budget", "verdict"), rows)
    for name, verdict in report.verdicts.items():
        print(f"{LABELS[name]}: {verdict.source}")
    for note in report.notes:
        print(f"note: {note}")


def _used_and_budget(verdict: Verdict) -> tuple[str, str]:
    """Both amounts rounded; exact where rounding would make an exceeded budget look kept."""
    used, budget = (_amount(amount, verdict.unit) for amount in (verdict.used, verdict.budget))
    if used == budget and not verdict.fits:
        used, budget = (f"{amount}{SYMBOLS[verdict.unit]}" for amount in (verdict.used, verdict.budget))
    return (f"≈ {used} (estimate, unvalidated)" if verdict.unit == "us" else used), budget


def _amount(amount: float, unit: Unit) -> str:
    if unit == "bytes":
        return human_bytes(amount)
    if 0 < amount < SMALLEST_ROUNDED[unit]:
        return f"{amount:.3g}{SYMBOLS[unit]}"
    return f"{amount:.0f}" if unit == "FLOP" else human_seconds(amount * 1e-6)


def use_of_budget(label: str, verdict: Verdict) -> str:
    """As in: memory 1.2 KiB of 1.0 KiB."""
    return f"{label} {' of '.join(_used_and_budget(verdict))}"
