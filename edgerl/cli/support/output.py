"""What commands share for printing: JSON for programs, tables and numbers for people."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Sequence
from typing import Annotated, Any

import typer

from edgerl.cli.support.streams import keep_results_apart, results, shown
from edgerl.files.paths import shortened

WIDE = 200
"""Columns of a table where no terminal limits it."""

NARROWEST = 15
"""Of a table's first column, which folds; a terminal that has not even that room breaks the lines itself."""

Json = Annotated[bool, typer.Option("--json", callback=keep_results_apart, help="Print one JSON object, for programs.")]
OwnEnv = Annotated[
    str | None,
    typer.Option("--env", help="The run's environment, where it is code: module:factory.", show_default=False),
]
Actions = Annotated[
    str | None,
    typer.Option(
        metavar="scale|clip",
        help="Of a policy with other bounds than the environment's: stretch its range to them, or cut what is beyond.",
        show_default=False,
    ),
]
Force = Annotated[bool, typer.Option("--force", help="Replace an output file that exists.")]


def print_json(report: dict[str, Any]) -> None:
    """One JSON object on stdout."""
    print_document(json.dumps(report, indent=2, allow_nan=False))


def print_document(text: str) -> None:
    """A result that programs read, on stdout; on its way when this returns."""
    print(text, file=results(), flush=True)


def note(text: str) -> None:
    """A line for people that is no part of the result (stderr)."""
    print(shortened(text), file=sys.stderr, flush=True)


def print_table(columns: Sequence[str], rows: Iterable[Sequence[str]], *, title: str | None = None) -> None:
    """A plain table: the first column to the left, the others to the right."""
    from rich import box
    from rich.console import Console
    from rich.table import Table

    cells = [tuple(map(shown, row)) for row in (columns, *rows)]
    terminal = Console().width if sys.stdout.isatty() else WIDE  # no terminal, no fold
    if sum(_widths(cells)) > terminal:  # the names of columns fold first, then the first column; numbers never do
        cells[0] = (columns[0], *(name.replace(" ", "\n") for name in columns[1:]))
    width = max(terminal, NARROWEST + sum(_widths(cells)[1:]))
    table = Table(title=title, title_justify="left", title_style="", box=box.SIMPLE_HEAD, pad_edge=False)
    for index, column in enumerate(cells[0]):
        table.add_column(column, justify="left" if index == 0 else "right", no_wrap=index > 0, overflow="fold")
    for row in cells[1:]:
        table.add_row(*row)
    Console(highlight=False, markup=False, width=width).print(table)


def _widths(cells: Sequence[Sequence[str]]) -> list[int]:
    """Of each column with the three places between two, as printed."""
    return [3 + max(len(line) for cell in column for line in cell.split("\n")) for column in zip(*cells, strict=True)]
