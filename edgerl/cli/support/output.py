"""What commands share for printing: JSON for programs, tables and numbers for people."""

from __future__ import annotations

import json
import re
import shutil
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from edgerl.cli.support.streams import keep_results_apart, results, shown
from edgerl.files.paths import shortened

WIDTH = 80
"""Columns of a table in a file or a pipe, where COLUMNS says nothing else."""

NARROWEST = 15
"""Of a table's first column, which folds; a narrower terminal breaks the lines itself."""

Json = Annotated[bool, typer.Option("--json", callback=keep_results_apart, help="Print one JSON object, for programs.")]
OwnEnv = Annotated[
    str | None,
    typer.Option("--env", help="Environment of a file; of a run its own, where it is code.", show_default=False),
]
Met = Annotated[
    Path | None,
    typer.Option(
        help="What the policy meets, as `edgerl distill` takes it.", show_default="the run's replay, or episodes"
    ),
]
Actions = Annotated[
    str | None,
    typer.Option(
        metavar="scale|clip",
        help="Where the policy's bounds differ from the environment's: scale its actions, or clip what is beyond.",
        show_default=False,
    ),
]
Force = Annotated[bool, typer.Option("--force", help="Replace an output file that exists.")]


def print_json(report: dict[str, Any]) -> None:
    """One JSON object on stdout."""
    print_document(json.dumps(report, indent=2, allow_nan=False))


def print_document(text: str) -> None:
    """A result for programs, on stdout, flushed."""
    print(text, file=results(), flush=True)


def note(text: str) -> None:
    """A line for people that is not part of the result (stderr)."""
    print(shortened(text), file=sys.stderr, flush=True)


def room() -> int:
    """Columns of the terminal, or the value of COLUMNS; WIDTH where there is neither."""
    return shutil.get_terminal_size((WIDTH, 0)).columns


def print_table(columns: Sequence[str], rows: Iterable[Sequence[str]], *, title: str | None = None) -> None:
    """A plain table: the first column to the left, the others to the right.

    Where there is too little room, columns move together and their names fold; then the first column folds, at spaces
    and hyphens; columns that still do not fit follow in another table, which repeats the first. Numbers never
    fold.
    """
    cells = [tuple(map(shown, row)) for row in (columns, *rows)]
    gap = 3
    if _table_width(_widths(cells), gap) > room():
        gap = 2
        cells[0] = (cells[0][0], *(name.replace(" ", "\n") for name in cells[0][1:]))
    for part in _split(_widths(cells), gap):
        _print_part([[row[column] for column in part] for row in cells], gap, title)
        title = None


def _split(widths: Sequence[int], gap: int) -> list[list[int]]:
    """Which columns each table has."""
    first = min(NARROWEST, widths[0])
    tables: list[list[int]] = [[0]]
    for column in range(1, len(widths)):
        taken = [first, *(widths[other] for other in tables[-1][1:])]
        if len(taken) > 1 and _table_width([*taken, widths[column]], gap) > room():
            tables.append([0])
        tables[-1].append(column)
    return tables


def _print_part(cells: Sequence[Sequence[str]], gap: int, title: str | None) -> None:
    from rich import box
    from rich.console import Console
    from rich.table import Table

    first, *others = _widths(cells)
    first = min(first, max(NARROWEST, room() - _table_width([0, *others], gap)))
    table = Table(
        title=title,
        title_justify="left",
        title_style="",
        box=box.SIMPLE_HEAD,
        padding=(0, 1, 0, gap - 2),
        pad_edge=False,
    )
    for index, name in enumerate(cells[0]):
        table.add_column(name, justify="left" if index == 0 else "right", no_wrap=index > 0, overflow="fold")
    for name, *rest in cells[1:]:
        table.add_row(_folded(name, first), *rest)
    console = Console(highlight=False, markup=False, width=max(room(), _table_width([first, *others], gap)))
    console.print(table)


def _folded(text: str, width: int) -> str:
    """The text in lines of at most `width`, broken behind spaces and hyphens where there are any."""
    lines = [""]
    for piece in re.findall(r".+?(?:[-\s]+|$)", text, flags=re.DOTALL):
        if lines[-1] and len(lines[-1]) + len(piece.rstrip()) > width:
            lines.append("")
        lines[-1] += piece
    return "\n".join(line.rstrip() for line in lines)


def _table_width(widths: Sequence[int], gap: int) -> int:
    """As printed, with a place at each side."""
    return sum(widths) + gap * (len(widths) - 1) + 2


def _widths(cells: Sequence[Sequence[str]]) -> list[int]:
    return [max(len(line) for cell in column for line in cell.split("\n")) for column in zip(*cells, strict=True)]
