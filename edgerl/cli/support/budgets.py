"""The budgets that commands take in place of a device's own."""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, Any, TypeVar

import typer

Number = TypeVar("Number", int, float)

_OF_THE_DEVICE = "the device's"

Memory = Annotated[
    str | None, typer.Option("--budget-memory", metavar="BYTES", help="As in 64KiB.", show_default=_OF_THE_DEVICE)
]
Flash = Annotated[
    str | None, typer.Option("--budget-flash", metavar="BYTES", help="As in 1MiB.", show_default=_OF_THE_DEVICE)
]
Flops = Annotated[
    str | None,
    typer.Option("--budget-flops", metavar="FLOPS", help="Per inference, as in 1e6.", show_default=_OF_THE_DEVICE),
]
Latency = Annotated[
    str | None, typer.Option("--budget-latency", metavar="TIME", help="As in 500us.", show_default=_OF_THE_DEVICE)
]
Rate = Annotated[float | None, typer.Option("--rate", metavar="HZ", help="Control rate.", show_default=_OF_THE_DEVICE)]


def budgets(
    memory: str | None, flash: str | None, flops: str | None, latency: str | None, rate: float | None
) -> dict[str, Any]:
    """As the library takes them. Raises ConfigError."""
    from edgerl.units import parse_bytes, parse_count, parse_seconds

    return {
        "budget_memory_bytes": _parsed(parse_bytes, memory, "--budget-memory"),
        "budget_flash_bytes": _parsed(parse_bytes, flash, "--budget-flash"),
        "budget_flops": _parsed(parse_count, flops, "--budget-flops"),
        "budget_latency_seconds": _parsed(parse_seconds, latency, "--budget-latency"),
        "rate_hz": rate,
    }


def _parsed(parse: Callable[[str, str], Number], text: str | None, name: str) -> Number | None:
    return None if text is None else parse(text, name)
