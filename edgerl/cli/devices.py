"""edgerl devices: profiles that come with edgerl, checking and making one's own, and how good estimates are."""

from __future__ import annotations

import textwrap
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from edgerl.cli.support.command import Command
from edgerl.cli.support.output import Force, Json, note, print_json, print_table, room
from edgerl.units import UNCERTAINTY, human_bytes, human_estimate, human_uncertainty

if TYPE_CHECKING:
    from edgerl.profiling.budgets.device import Device, Quantity, Runtime
    from edgerl.profiling.latency.evaluate import ClassErrors, Prediction
    from edgerl.profiling.measuring.calibrate import WriteOnnx

INDENT = 4 * " "

app = typer.Typer(
    help="List, show, check and make device profiles; evaluate the latency model.",
    no_args_is_help=True,
    rich_markup_mode=None,
    add_completion=False,
)


@app.command("list", cls=Command)
def list_devices(as_json: Json = False) -> None:
    """List the devices that come with edgerl.

    Example: edgerl devices list
    """
    from edgerl.profiling.budgets.device import device_ids, find_device

    devices = [find_device(device_id) for device_id in device_ids()]
    if as_json:
        print_json({"devices": [_described(device) for device in devices]})
        return
    rows = [
        (
            device.id,
            device.cpu.core,
            f"{device.cpu.clock_mhz.value:g}",
            human_bytes(device.memory.usable_bytes.value),
            human_bytes(device.memory.flash_bytes.value),
        )
        for device in devices
    ]
    print_table(("device", "core", "MHz", "memory", "flash"), rows)


@app.command(cls=Command)
def show(
    device: Annotated[str, typer.Argument(metavar="ID|FILE.toml", help="A device, or a profile of your own.")],
    as_json: Json = False,
) -> None:
    """Show every number of a device profile with its source, and the file that holds it.

    Example: edgerl devices show jetson-nano
    """
    from edgerl.profiling.budgets.device import find_device, profile_path

    found = find_device(device)
    if as_json:
        print_json({**_described(found), "path": str(profile_path(device))})
        return
    print(f"{found.id}: {found.name}")
    print(f"also called {', '.join(found.aliases)}" if found.aliases else "it has no other name")
    print(f"{found.kind}, {found.cpu.core} ({found.cpu.architecture}), default runtime {found.default_runtime}")
    print(f"profile {profile_path(device)}\n")
    quantities = _quantities(found)
    width = max(len(key) for key, _ in quantities)
    for key, quantity in quantities:
        print(f"{key:<{width}} {quantity.value:>14}")
        print(textwrap.fill(quantity.source, room(), initial_indent=INDENT, subsequent_indent=INDENT))
    print()
    for runtime in found.runtimes:
        print(f"{runtime.name}: {_availability(runtime)}{_latency_class(runtime)}")


@app.command(cls=Command)
def validate(
    files: Annotated[list[Path], typer.Argument(metavar="FILE.toml...", help="Device profiles to check.")],
) -> None:
    """Check device profiles of your own.

    Example: edgerl devices validate my-board.toml
    """
    from edgerl.profiling.budgets.device import load_device

    for path in files:
        print(f"{path}: valid, {load_device(path).name}")


@app.command(cls=Command)
def calibrate(
    output: Annotated[Path, typer.Option("--output", "-o", metavar="FILE.toml", help="The profile to write.")],
    force: Force = False,
) -> None:
    """Make a profile of this machine: its runtimes timed with random networks, in half a minute.

    What it measured is checked; where other programs disturbed it, nothing is written, with exit code 1.

    Example: edgerl devices calibrate -o my-board.toml
    """
    from edgerl.errors import ConfigError
    from edgerl.files.atomic import refuse_existing, write_atomically
    from edgerl.profiling.budgets.device import parse_device
    from edgerl.profiling.measuring.calibrate import calibrate as measure

    if output.suffix != ".toml":
        raise ConfigError(f"-o is {str(output)[:60]!r}; expected a name that ends in .toml, as --device takes")
    refuse_existing(output, force=force)
    text = measure(_onnx_writer(), output.stem, note)
    device = parse_device(text.encode(), output.stem, str(output))
    write_atomically(output, text.encode(), force=force)
    print(f"{output}: {device.name}")
    for runtime in device.runtimes:
        for key, quantity in _runtime_quantities(runtime):
            if quantity.source.startswith("measured: edgerl"):
                print(f"{runtime.name:<12} {key:<36} {quantity.value:.4g}")


@app.command(cls=Command)
def evaluate(
    points: Annotated[Path, typer.Argument(metavar="POINTS.jsonl", help="Published latencies, a JSON object a line.")],
    as_json: Json = False,
) -> None:
    """Predict published latencies, and say how far off the predictions are.

    Example: edgerl devices evaluate benchmarks/published_latencies.jsonl
    """
    from dataclasses import asdict

    from edgerl.profiling.latency.evaluate import class_errors, predict
    from edgerl.profiling.latency.model import latency_model
    from edgerl.profiling.latency.points import read_points

    predictions = [predict(point) for point in read_points(points)]
    classes = class_errors(predictions)
    if as_json:
        print_json(
            {
                "classes": {name: asdict(errors) for name, errors in classes.items()},
                "points": [prediction.as_dict() for prediction in predictions],
            }
        )
        return
    print_table(
        ("", "device", "class", "network", "precision", "published", "predicted", "error"),
        [(f"{number}", *_predicted_row(prediction)) for number, prediction in enumerate(predictions, start=1)],
    )
    print(UNCERTAINTY)
    fitted = latency_model().about["points"]
    print(f"the model was fitted to {fitted} published points; of those it knows, errors flatter it")
    print_table(
        ("class", "points", "median error", "90 % below", "inside the interval"),
        [(name, *_error_row(errors)) for name, errors in classes.items()],
    )
    for prediction in predictions:
        if prediction.point.doubt is not None:
            print(f"left out: {prediction.point.device_id}, {prediction.point.net}: {prediction.point.doubt}")


def _onnx_writer() -> WriteOnnx | None:
    """What writes an .onnx file, or None, with a line, where onnxruntime or onnx is not installed."""
    from edgerl.errors import MissingExtraError, require

    try:
        require("onnxruntime", "export")
        require("onnx", "export")
    except MissingExtraError as error:
        note(f"{error}; the profile says that onnxruntime is not available")
        return None
    from edgerl.commands.export import export_policy

    return lambda policy, path: export_policy(policy, "onnx", path, force=True)


def _predicted_row(prediction: Prediction) -> tuple[str, ...]:
    point = prediction.point
    remark = "" if prediction.basis == "profile" else " (no profile)"
    return (
        f"{point.device_id}{remark}",
        point.runtime_class,
        point.net if len(point.net) <= 30 else f"{point.net[:29]}…",
        point.precision,
        human_estimate(point.latency_us * 1e-6),
        f"≈ {human_estimate(prediction.predicted_us * 1e-6)} ({human_uncertainty(prediction.uncertainty)})",
        f"{prediction.error:+.0%}",
    )


def _error_row(errors: ClassErrors) -> tuple[str, ...]:
    coverage = "unvalidated" if errors.coverage is None else f"{errors.coverage:.0%}"
    return f"{errors.points}", f"{errors.median_error:.1%}", f"{errors.p90_error:.1%}", coverage


def _quantities(device: Device) -> list[tuple[str, Quantity]]:
    """Every number of a profile under its dotted key."""
    unit = "cycles_per_multiply_add" if device.cpu.peaks_are_cycles else "flop_per_cycle"
    found = [(f"cpu.{key}", quantity) for key, quantity in _numbers(device.cpu)]
    found += [(f"cpu.{precision}_{unit}", quantity) for precision, quantity in device.cpu.peaks.items()]
    groups: dict[str, object] = {f"modes.{mode.name}": mode for mode in device.modes}
    groups |= {"memory": device.memory, **{f"caches.{cache.level}": cache for cache in device.caches}}
    found += [(f"{name}.{key}", quantity) for name, group in groups.items() for key, quantity in _numbers(group)]
    for runtime in device.runtimes:
        found += [(f"runtimes.{runtime.name}.{key}", quantity) for key, quantity in _runtime_quantities(runtime)]
    found += [(f"budgets.{key}", quantity) for key, quantity in _numbers(device.budgets)]
    for saved in device.measured:
        name = f"measured.{saved.policy_sha256[:8]}.{saved.runtime}"
        found += [(f"{name}.{key}", quantity) for key, quantity in _numbers(saved)]
    return found


def _runtime_quantities(runtime: Runtime) -> list[tuple[str, Quantity]]:
    if runtime.figures is None:
        return []
    return [*_numbers(runtime.figures.costs), *_numbers(runtime.figures)]


def _numbers(group: object) -> list[tuple[str, Quantity]]:
    from edgerl.profiling.budgets.device import Quantity

    return [(key, value) for key, value in vars(group).items() if isinstance(value, Quantity)]


def _described(device: Device) -> dict[str, Any]:
    return {
        "id": device.id,
        "name": device.name,
        "kind": device.kind,
        "aliases": list(device.aliases),
        "same_chip_as": device.same_chip_as,
        "core": device.cpu.core,
        "architecture": device.cpu.architecture,
        "default_runtime": device.default_runtime,
        "runtimes": {runtime.name: _runtime(runtime) for runtime in device.runtimes},
        "quantities": {key: vars(quantity) for key, quantity in _quantities(device)},
    }


def _runtime(runtime: Runtime) -> dict[str, Any]:
    return {"available": runtime.available, "reason": runtime.reason, "instead": runtime.instead}


def _latency_class(runtime: Runtime) -> str:
    """Where the latency comes from, if not from the numbers above."""
    from edgerl.profiling.budgets.device import ClassCosts

    if runtime.figures is None or not isinstance(runtime.figures.costs, ClassCosts):
        return ""
    return f"; latency by the model of the class {runtime.figures.costs.latency_class}, fitted to published points"


def _availability(runtime: Runtime) -> str:
    return "available" if runtime.available else f"not available: {runtime.reason}; instead: {runtime.instead}"
