"""What commands share for printing: JSON for programs, tables and numbers for people."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Sequence
from typing import Annotated, Any

import typer

WIDE = 200
"""Columns of a table where no terminal limits it."""

Json = Annotated[bool, typer.Option("--json", help="Print one JSON object, for programs.")]
Force = Annotated[bool, typer.Option("--force", help="Replace an output file that exists.")]


def print_json(report: dict[str, Any]) -> None:
    """One JSON object on stdout."""
    print(json.dumps(report, indent=2, allow_nan=False))


def note(text: str) -> None:
    """A line for people that is no part of the result (stderr)."""
    typer.echo(text, err=True)


def print_table(columns: Sequence[str], rows: Iterable[Sequence[str]], *, title: str | None = None) -> None:
    """A plain table: the first column to the left, the others to the right."""
    from rich import box
    from rich.console import Console
    from rich.table import Table

    table = Table(title=title, title_justify="left", title_style="", box=box.SIMPLE_HEAD, pad_edge=False)
    for index, column in enumerate(columns):
        table.add_column(column, justify="left" if index == 0 else "right", no_wrap=index == 0)
    for row in rows:
        table.add_row(*row)
    width = None if sys.stdout.isatty() else WIDE  # no terminal, no fold
    Console(highlight=False, markup=False, width=width).print(table)


def human_bytes(count: float) -> str:
    """Bytes in binary units: 512 B, 41.2 KiB, 1.1 MiB."""
    if count < 1024:
        return f"{count:.0f} B"
    for unit in ("KiB", "MiB"):
        count /= 1024
        if count < 1024:
            return f"{count:.1f} {unit}"
    return f"{count / 1024:.2f} GiB"


def human_seconds(seconds: float) -> str:
    """A duration: 41.3 µs, 2.1 ms, 3.2 s, 4 min 10 s, 2 h 05 min."""
    if 0 < seconds < 1e-3:
        return f"{seconds * 1e6:.1f} µs"
    if 0 < seconds < 1:
        return f"{seconds * 1e3:.1f} ms"
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes} min {rest:02d} s"
    return f"{minutes // 60} h {minutes % 60:02d} min"


def human_estimate(seconds: float) -> str:
    """An estimated duration, no more digits than an estimate has: 0.41 µs, 4.1 µs, 41 µs, 410 µs, 4.1 ms, 4.1 s."""
    seconds = float(f"{seconds:.2g}")
    for unit, size in (("s", 1.0), ("ms", 1e-3)):
        if seconds >= size:
            return f"{_plain(seconds / size)} {unit}"
    return f"{_plain(seconds * 1e6)} µs"


def _plain(number: float) -> str:
    """Two digits, without an exponent where people need none."""
    return f"{number:.2g}" if number < 100 else f"{float(f'{number:.2g}'):.0f}"
