"""A study's table as text: Markdown for people, CSV for programs."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Callable, Sequence
from dataclasses import asdict
from functools import partial
from typing import Any, Literal, get_args

from edgerl.errors import ConfigError
from edgerl.studies.grid import shown
from edgerl.studies.statistics import Interval
from edgerl.studies.table import MINUTE_MARKS, STEP_MARKS, Figure, Row, Table
from edgerl.training.returns import mean_of

Format = Literal["markdown", "csv", "json"]


def format_table(table: Table, form: str) -> str:
    """A table as text in one of the formats that are not JSON. Raises ConfigError for an unknown one."""
    if form == "csv":
        return to_csv(table)
    if form == "markdown":
        return to_markdown(table)
    raise ConfigError(f"`format` is {form!r}; expected {', '.join(get_args(Format))}")


def to_csv(table: Table) -> str:
    """One line per row, one column per number; empty where there is none."""
    text = io.StringIO()
    rows = [_flat(asdict(row)) for row in table.rows]
    writer = csv.DictWriter(text, list(dict.fromkeys(key for row in rows for key in row)), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()


_PARTS = {Figure: ("mean", "deviation"), Interval: ("value", "low", "high")}
_COMPOUND = {
    "final_return": Figure,
    "success_rate": Figure,
    "paper_return": Figure,
    "learning_curve_area": Figure,
    "cpu_minutes": Figure,
    "interquartile_mean": Interval,
    "better_than_dense": Interval,
}


_AT_MARKS = ("returns_after_steps", "returns_after_cpu_minutes")


def _flat(row: dict[str, Any]) -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in row.items():
        if key == "settings":
            flat |= {name: shown(setting) for name, setting in value.items()}
        elif key in _AT_MARKS:
            flat |= {f"{key}_{mark}_{part}": at[part] for mark, at in value.items() for part in _PARTS[Interval]}
        elif key in _COMPOUND:
            flat |= {f"{key}_{part}": None if value is None else value[part] for part in _PARTS[_COMPOUND[key]]}
        else:
            flat[key] = value
    return flat


def to_markdown(table: Table) -> str:
    """Tables of returns, of costs and, for several environments, of the methods over all; then how to read them."""
    counts = sorted({row.evaluations for row in table.rows if row.evaluations is not None}, reverse=True)
    evaluations = " or ".join(map(mean_of, counts)) or "none"
    steps = " and ".join(f"{count:,}".replace(",", " ") for count in table.steps)
    parts = [
        f"{table.title}: {table.finished} of {table.planned} runs, {steps} steps.",
        _grid(_RETURN_COLUMNS, table.rows),
        _grid(_COST_COLUMNS, table.rows),
    ]
    if any(row.returns_after_steps or row.returns_after_cpu_minutes for row in table.rows):
        parts.insert(2, _grid(_MARK_COLUMNS, table.rows))
    if any(overall.relative_return or overall.better_than_dense for overall in table.overall):
        parts.append(_grid(_OVERALL_COLUMNS, table.overall))
    parts.append(
        f"Return: {evaluations} since learning began, ± standard deviation over runs. Paper: after 1 000 000 steps, "
        "5 runs, gym v3. IQM: interquartile mean. LCA: sum of the evaluations / steps. Better: probability that a run "
        "returns more than one of TD3. In brackets: 95 % stratified bootstrap intervals. Steps to TD3's return: median "
        "of when the mean of 10 evaluations reaches TD3's final return, and how many did. FLOPs: as the paper counts. "
        "After steps and CPU minutes (of the processor, without evaluations): IQM of the last single evaluation."
    )
    return "\n\n".join(parts) + "\n"


Column = tuple[str, Callable[[Any], str]]


def _at_mark(key: str, mark: int, row: Row) -> str:
    return _bracketed(getattr(row, key).get(mark))


_RETURN_COLUMNS: tuple[Column, ...] = (
    ("environment", lambda row: row.environment),
    ("method", lambda row: row.label),
    ("runs", lambda row: f"{row.runs}" if row.runs == row.planned else f"{row.runs} of {row.planned}"),
    ("return", lambda row: _plus_minus(row.final_return)),
    ("success", lambda row: _plus_minus(row.success_rate, ".2f")),
    ("paper", lambda row: _plus_minus(row.paper_return)),
    ("IQM", lambda row: _bracketed(row.interquartile_mean)),
    ("LCA", lambda row: _plus_minus(row.learning_curve_area, ".3f")),
    ("better than TD3", lambda row: _bracketed(row.better_than_dense, ".2f")),
    ("steps to TD3's return", lambda row: _steps(row)),
)
_MARK_COLUMNS: tuple[Column, ...] = (
    ("environment", lambda row: row.environment),
    ("method", lambda row: row.label),
    *(
        (f"after {mark:,} steps".replace(",", " "), partial(_at_mark, "returns_after_steps", mark))
        for mark in STEP_MARKS
    ),
    *((f"{mark} CPU min", partial(_at_mark, "returns_after_cpu_minutes", mark)) for mark in MINUTE_MARKS),
    ("CPU min in all", lambda row: _plus_minus(row.cpu_minutes)),
)
_COST_COLUMNS: tuple[Column, ...] = (
    ("environment", lambda row: row.environment),
    ("method", lambda row: row.label),
    ("connections", lambda row: str(row.connections)),
    ("paper", lambda row: "" if row.paper_connections is None else str(row.paper_connections)),
    ("training FLOPs", lambda row: f"{row.training_flops:.3g}"),
    ("relative", lambda row: f"{row.relative_flops:.2f}×"),
    ("paper", lambda row: "" if row.paper_relative_flops is None else f"{row.paper_relative_flops:.2f}×"),
)
_OVERALL_COLUMNS: tuple[Column, ...] = (
    ("all environments", lambda row: row.label),
    ("runs", lambda row: str(row.runs)),
    ("IQM of return / TD3's mean", lambda row: _bracketed(row.relative_return, ".3f")),
    ("better than TD3", lambda row: _bracketed(row.better_than_dense, ".2f")),
)


def _grid(columns: Sequence[Column], rows: Sequence[Any]) -> str:
    """A Markdown table, without columns that are empty."""
    cells = [[name, *(cell(row) for row in rows)] for name, cell in columns]
    header, *lines = zip(*(column for column in cells if any(column[1:])), strict=True)
    return "\n".join(f"| {' | '.join(line)} |" for line in (header, ["---"] * len(header), *lines))


def _three_digits(number: float) -> str:
    """The format of a number, and of those beside it, with at least three digits: 7956, 60.4, 6.12, −0.250."""
    if number == 0 or abs(number) >= 1e12:
        return ".3g"
    return f".{min(9, max(0, 2 - math.floor(math.log10(abs(number)))))}f"


def _plus_minus(figure: Figure | None, form: str = "") -> str:
    if figure is None:
        return ""
    form = form or _three_digits(figure.mean)
    return f"{figure.mean:{form}}" + ("" if figure.deviation is None else f" ± {figure.deviation:{form}}")


def _bracketed(interval: Interval | None, form: str = "") -> str:
    if interval is None:
        return ""
    form = form or _three_digits(interval.value)
    return f"{interval.value:{form}}" + (
        "" if interval.low is None else f" [{interval.low:{form}}, {interval.high:{form}}]"
    )


def _steps(row: Row) -> str:
    if row.reached_dense is None:
        return ""
    share = f"{row.reached_dense} of {row.runs} runs"
    return f"– ({share})" if row.steps_to_dense is None else f"{row.steps_to_dense:.0f} ({share})"
