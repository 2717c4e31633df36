"""edgerl devices: profiles that come with edgerl, checking and making one's own, and how good estimates are."""

from __future__ import annotations

import textwrap
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from edgerl.cli.support.command import Command
from edgerl.cli.support.output import Force, Json, note, print_document, print_json, print_table, room
from edgerl.cli.support.streams import keep_results_apart
from edgerl.errors import ConfigError
from edgerl.units import UNCERTAINTY, human_bytes, human_estimate, human_uncertainty

if TYPE_CHECKING:
    from edgerl.profiling.budgets.device import Runtime
    from edgerl.profiling.latency.evaluate import Prediction

INDENT = 4 * " "

app = typer.Typer(
    help="List, show, check and make device profiles; evaluate the latency model.",
    no_args_is_help=True,
    rich_markup_mode=None,
    add_completion=False,
)


@app.command("list", cls=Command)
def list_(as_json: Json = False) -> None:
    """List the devices that come with edgerl.

    Example: edgerl devices list
    """
    from edgerl.commands.devices import list_devices

    profiles = list_devices()
    if as_json:
        print_json({"devices": [profile.as_dict() for profile in profiles]})
        return
    rows = [
        (
            device.id,
            device.cpu.core,
            f"{device.cpu.clock_mhz.value:g}",
            human_bytes(device.memory.usable_bytes.value),
            human_bytes(device.memory.flash_bytes.value),
        )
        for device in (profile.device for profile in profiles)
    ]
    print_table(("device", "core", "MHz", "memory", "flash"), rows)


@app.command(cls=Command)
def show(
    device: Annotated[str, typer.Argument(metavar="ID|FILE.toml", help="A device, or a profile of your own.")],
    as_toml: Annotated[
        bool,
        typer.Option(
            "--toml",
            callback=keep_results_apart,
            help="Print the profile itself, to be saved, changed and given to --device.",
        ),
    ] = False,
    as_json: Json = False,
) -> None:
    """Show every number of a device profile with its source, and the file that holds it.

    Example: edgerl devices show stm32f405 --toml > my-board.toml
    """
    from edgerl.commands.devices import show_device

    if as_toml and as_json:
        raise ConfigError("--toml and --json print one thing each; choose one")
    profile = show_device(device)
    if as_toml:
        print_document(profile.toml.rstrip("\n"))
        return
    if as_json:
        print_json({**profile.as_dict(), "path": str(profile.path)})
        return
    found, quantities = profile.device, profile.quantities
    print(f"{found.id}: {found.name}")
    print(f"also called {', '.join(found.aliases)}" if found.aliases else "it has no other name")
    print(f"{found.kind}, {found.cpu.core} ({found.cpu.architecture}), default runtime {found.default_runtime}")
    print(f"profile {profile.path}\n")
    width = max(map(len, quantities))
    for key, quantity in quantities.items():
        print(f"{key:<{width}} {quantity.value:>14}")
        print(textwrap.fill(quantity.source, room(), initial_indent=INDENT, subsequent_indent=INDENT))
    print()
    for runtime in found.runtimes:
        print(f"{runtime.name}: {_availability(runtime)}")


@app.command(cls=Command)
def validate(
    files: Annotated[list[Path], typer.Argument(metavar="FILE.toml...", help="Device profiles to check.")],
) -> None:
    """Check device profiles of your own.

    Example: edgerl devices validate my-board.toml
    """
    from edgerl.commands.devices import validate_device

    for path in files:
        print(f"{path}: valid, {validate_device(path).device.name}")


@app.command(cls=Command)
def calibrate(
    output: Annotated[Path, typer.Option("--output", "-o", metavar="FILE.toml", help="The profile to write.")],
    force: Force = False,
) -> None:
    """Make a profile of this machine: its runtimes timed with random networks, in half a minute.

    The result is checked; if other programs disturbed the measurement, nothing is written and the exit code is 1.

    Example: edgerl devices calibrate -o my-board.toml
    """
    from edgerl.commands.devices import calibrate_device, runtime_quantities

    device = calibrate_device(output, force=force, notice=note).device
    print(f"{output}: {device.name}")
    for runtime in device.runtimes:
        for key, quantity in runtime_quantities(runtime).items():
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
    from edgerl.commands.devices import evaluate_devices

    evaluation = evaluate_devices(points)
    if as_json:
        print_json(evaluation.as_dict())
        return
    print_table(
        ("", "device", "class", "network", "precision", "published", "predicted", "error"),
        [
            (f"{number}", *_predicted_row(prediction))
            for number, prediction in enumerate(evaluation.predictions, start=1)
        ],
    )
    print(UNCERTAINTY)
    print(f"the model was fitted to {evaluation.fitted_points} published points; of those it knows, errors flatter it")
    print_table(
        ("class", "points", "median error", "90 % below", "inside the interval"),
        [
            (
                name,
                f"{errors.points}",
                f"{errors.median_error:.1%}",
                f"{errors.p90_error:.1%}",
                "unvalidated" if errors.coverage is None else f"{errors.coverage:.0%}",
            )
            for name, errors in evaluation.classes.items()
        ],
    )
    for prediction in evaluation.predictions:
        if prediction.point.doubt is not None:
            print(f"left out: {prediction.point.device_id}, {prediction.point.net}: {prediction.point.doubt}")


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


def _availability(runtime: Runtime) -> str:
    """Whether it runs there; and where the latency comes from, if not from the numbers above."""
    from edgerl.profiling.budgets.device import ClassCosts

    text = "available" if runtime.available else f"not available: {runtime.reason}; instead: {runtime.instead}"
    if runtime.figures is None or not isinstance(runtime.figures.costs, ClassCosts):
        return text
    latency_class = runtime.figures.costs.latency_class
    return f"{text}; latency by the model of the class {latency_class}, fitted to published points"
