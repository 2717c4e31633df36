"""edgerl devices: the device profiles that come with edgerl, and checking one's own."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from edgerl.cli.output import Json, human_bytes, print_json, print_table

if TYPE_CHECKING:
    from edgerl.profiling.device import Device, Quantity, Runtime

app = typer.Typer(
    help="List, show and check device profiles.", no_args_is_help=True, rich_markup_mode=None, add_completion=False
)


@app.command("list")
def list_devices(as_json: Json = False) -> None:
    """List the devices that come with edgerl.

    Example: edgerl devices list
    """
    from edgerl.profiling.device import device_ids, find_device

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


@app.command()
def show(
    device: Annotated[str, typer.Argument(metavar="ID|FILE.toml", help="A device, or a profile of your own.")],
    as_json: Json = False,
) -> None:
    """Show every number of a device profile with its source.

    Example: edgerl devices show jetson-nano
    """
    from edgerl.profiling.device import find_device

    found = find_device(device)
    if as_json:
        print_json(_described(found))
        return
    print(f"{found.id}: {found.name}")
    print(f"also called {', '.join(found.aliases)}" if found.aliases else "it has no other name")
    print(f"{found.kind}, {found.cpu.core} ({found.cpu.architecture}), default runtime {found.default_runtime}\n")
    for key, quantity in _quantities(found):
        print(f"{key:<48} {quantity.value:>14}  {quantity.source}")
    print()
    for runtime in found.runtimes:
        print(f"{runtime.name}: {_availability(runtime)}")


@app.command()
def validate(
    files: Annotated[list[Path], typer.Argument(metavar="FILE.toml...", help="Device profiles to check.")],
) -> None:
    """Check device profiles of your own.

    Example: edgerl devices validate my-board.toml
    """
    from edgerl.profiling.device import load_device

    for path in files:
        print(f"{path}: valid, {load_device(path).name}")


def _quantities(device: Device) -> list[tuple[str, Quantity]]:
    """Every number of a profile under its dotted key."""
    from edgerl.profiling.device import Quantity

    groups: dict[str, object] = {"cpu": device.cpu, "memory": device.memory, "budgets": device.budgets}
    groups |= {f"caches.{cache.level}": cache for cache in device.caches}
    groups |= {f"runtimes.{runtime.name}": runtime.figures for runtime in device.runtimes if runtime.figures}
    groups |= {f"measured.{saved.policy_sha256[:8]}.{saved.runtime}": saved for saved in device.measured}
    return [
        (f"{name}.{key}", value)
        for name, group in groups.items()
        for key, value in vars(group).items()
        if isinstance(value, Quantity)
    ]


def _described(device: Device) -> dict[str, Any]:
    return {
        "id": device.id,
        "name": device.name,
        "kind": device.kind,
        "aliases": list(device.aliases),
        "core": device.cpu.core,
        "architecture": device.cpu.architecture,
        "default_runtime": device.default_runtime,
        "runtimes": {runtime.name: _runtime(runtime) for runtime in device.runtimes},
        "quantities": {key: vars(quantity) for key, quantity in _quantities(device)},
    }


def _runtime(runtime: Runtime) -> dict[str, Any]:
    return {"available": runtime.available, "reason": runtime.reason, "instead": runtime.instead}


def _availability(runtime: Runtime) -> str:
    return "available" if runtime.available else f"not available: {runtime.reason}; instead: {runtime.instead}"
