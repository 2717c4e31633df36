"""What commands share for printing: JSON for programs, tables and numbers for people."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

WIDE = 200
"""Columns of a table where no terminal limits it."""

Json = Annotated[bool, typer.Option("--json", help="Print one JSON object, for programs.")]
Force = Annotated[bool, typer.Option("--force", help="Replace an output file that exists.")]


def print_json(report: dict[str, Any]) -> None:
    """One JSON object on stdout."""
    print(json.dumps(report, indent=2, allow_nan=False))


def printable(path: Path) -> str:
    """A path as text: bytes of a name that are no UTF-8 as \\xff."""
    return os.fsencode(path).decode(errors="backslashreplace")


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
