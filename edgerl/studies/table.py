"""The tables of a study: what its finished runs returned and cost, with the paper's figures beside them."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
import numpy.typing as npt

from edgerl.config import make_config
from edgerl.errors import ConfigError, FileFormatError
from edgerl.studies import paper
from edgerl.studies.grid import PlannedRun, shown
from edgerl.studies.runs import Curve, inspect, read_curve
from edgerl.studies.statistics import (
    Interval,
    final_return,
    final_success_rate,
    interquartile_mean,
    learning_curve_area,
    probability_of_improvement,
    steps_to_reach,
)
from edgerl.studies.study import Study
from edgerl.training.returns import FINAL_EVALUATIONS, mean_of

Format = Literal["markdown", "csv", "json"]
DENSE = "td3"
"""The method that others are compared with."""


@dataclass(frozen=True)
class Figure:
    """Mean and standard deviation (over n − 1) of runs; the deviation is None for one run."""

    mean: float
    deviation: float | None


@dataclass(frozen=True)
class Row:
    """The runs that differ in their seed alone. None: there is no such figure, or nothing to compare with."""

    environment: str  # with its arguments, where it has any
    method: str
    settings: dict[str, Any]
    runs: int  # finished
    planned: int
    evaluations: int | None  # that a run's final return is the mean of; the fewest of the runs
    final_return: Figure | None
    success_rate: Figure | None  # of the same evaluations, where the environment tells of success
    paper_return: Figure | None  # after a million steps
    interquartile_mean: Interval | None
    learning_curve_area: Figure | None
    better_than_dense: Interval | None  # probability
    steps_to_dense: float | None  # median over the runs; None where half of them or more never reached it
    reached_dense: int | None  # runs; None where one has fewer than ten evaluations since learning began
    connections: int
    paper_connections: int | None
    training_flops: int  # as the paper counts
    relative_flops: float  # to the dense networks' of the same hidden layers
    paper_relative_flops: float | None

    @property
    def label(self) -> str:
        """Method and settings: ds-td3, sparsity 0.9."""
        return _label(self.method, self.settings)


@dataclass(frozen=True)
class Overall:
    """One method and its settings over all environments, of which each counts by its share of dense TD3's return."""

    method: str
    settings: dict[str, Any]
    runs: int
    relative_return: Interval | None  # interquartile mean of final return / mean final return of dense TD3
    better_than_dense: Interval | None

    @property
    def label(self) -> str:
        """Method and settings: ds-td3, sparsity 0.9."""
        return _label(self.method, self.settings)


@dataclass(frozen=True)
class Table:
    """All of a study."""

    study: str
    title: str
    steps: tuple[int, ...]  # of its runs, each once
    finished: int
    planned: int
    rows: tuple[Row, ...]
    overall: tuple[Overall, ...]  # empty for one environment


@dataclass(frozen=True)
class _Group:
    run: PlannedRun  # any of them
    planned: int
    curves: list[Curve]

    @property
    def finals(self) -> npt.NDArray[np.float64]:
        """The returns of the runs that were evaluated since learning began."""
        return _known(map(final_return, self.curves))


def make_table(study: Study, runs: Sequence[PlannedRun], folder: Path) -> Table:
    """The table of the finished runs in a study's folder.

    Raises FileFormatError where none is finished or a file is damaged, ConfigError where a folder holds another run,
    MissingExtraError without scipy.
    """
    groups = _read(runs, folder)
    finished = sum(len(group.curves) for group in groups)
    if not finished:
        raise FileFormatError(
            f"{folder} holds no finished run of the study {study.name}; run edgerl sweep, or name its folder: `out`"
        )
    return Table(
        study=study.name,
        title=study.title,
        steps=tuple(sorted({run.config.schedule.steps for run in runs})),
        finished=finished,
        planned=len(runs),
        rows=tuple(_row(group, _dense_of(group, groups)) for group in groups),
        overall=_overall(groups) if len({run.config.task for run in runs}) > 1 else (),
    )


def _read(runs: Sequence[PlannedRun], folder: Path) -> list[_Group]:
    groups: dict[Any, tuple[list[PlannedRun], list[Curve]]] = {}
    for run in runs:
        members, curves = groups.setdefault(run.group, ([], []))
        members.append(run)
        progress = inspect(folder / run.name, run)
        if progress.stage == "finished":
            start_steps = run.config.schedule.start_steps
            curves.append(read_curve(folder / run.name, start_steps, rows=progress.metrics_rows))
    return [_Group(members[0], len(members), curves) for members, curves in groups.values()]


def _dense_of(group: _Group, groups: Sequence[_Group]) -> _Group | None:
    """The dense TD3 of the same task whose settings, where it has any, are the group's."""
    run = group.run
    for other in groups:
        same = other.run.settings.items() <= run.settings.items()
        if other.run.method == DENSE and other.run.config.task == run.config.task and same:
            return other if len(other.finals) else None
    return None


def _row(group: _Group, dense: _Group | None) -> Row:
    run, finals = group.run, group.finals
    is_compared = dense is not None and dense is not group and len(finals) > 0
    of_paper = (run.config.environment.removesuffix("-v5"), run.method) if _is_papers(run) else ("", "")
    returns, costs = paper.RETURNS.get(of_paper), paper.COSTS.get(of_paper)
    steps = run.config.schedule.steps
    evaluations = min((len(curve.final) for curve in group.curves), default=0)
    reached = None
    if dense is not None and evaluations == FINAL_EVALUATIONS:
        reached = [steps_to_reach(curve, float(dense.finals.mean())) for curve in group.curves]
    return Row(
        environment=run.config.task,
        method=run.method,
        settings=dict(run.settings),
        runs=len(group.curves),
        planned=group.planned,
        evaluations=evaluations or None,
        final_return=_figure(finals),
        success_rate=_figure(_known(map(final_success_rate, group.curves))),
        paper_return=None if returns is None else Figure(*returns),
        interquartile_mean=interquartile_mean([finals]) if len(finals) else None,
        learning_curve_area=_figure(_known(learning_curve_area(curve, steps) for curve in group.curves)),
        better_than_dense=probability_of_improvement([(finals, dense.finals)]) if dense and is_compared else None,
        steps_to_dense=_median_steps(reached),
        reached_dense=None if reached is None else sum(step is not None for step in reached),
        connections=run.connections,
        paper_connections=None if costs is None else costs[0],
        training_flops=run.flops_paper,
        relative_flops=run.flops_paper / run.flops_paper_dense,
        paper_relative_flops=None if costs is None else costs[1],
    )


def _is_papers(run: PlannedRun) -> bool:
    """Whether the run is the paper's but for its length: task, networks, evolution, and TD3's options."""
    config = run.config
    papers = make_config(environment=config.environment, method=config.network.method)
    parts = ("network", "evolution", "td3", "normalize", "env_args")
    return all(getattr(config, part) == getattr(papers, part) for part in parts)


def _median_steps(reached: Sequence[int | None] | None) -> float | None:
    """The median, where a run that never reached it counts as infinitely many steps."""
    if not reached:
        return None
    median = float(np.median([np.inf if step is None else step for step in reached]))
    return median if np.isfinite(median) else None


def _known(values: Iterable[float | None]) -> npt.NDArray[np.float64]:
    return np.array([value for value in values if value is not None], np.float64)


def _figure(values: npt.NDArray[np.float64]) -> Figure | None:
    if not len(values):
        return None
    return Figure(float(values.mean()), float(values.std(ddof=1)) if len(values) > 1 else None)


def _overall(groups: Sequence[_Group]) -> tuple[Overall, ...]:
    """Only environments in which the group and dense TD3 both have finished runs count, and all must have them."""
    environments = {group.run.config.task for group in groups}
    found: dict[tuple[str, Any], list[_Group]] = {}
    for group in groups:
        found.setdefault(group.run.group[1:], []).append(group)
    rows = []
    for members in found.values():
        pairs = [(group, _dense_of(group, groups)) for group in members]
        compared = [(group.finals, dense.finals) for group, dense in pairs if dense is not None and len(group.finals)]
        is_whole = len(compared) == len(environments)
        is_positive = all(dense.mean() > 0 for _, dense in compared)
        is_dense = members[0].run.method == DENSE
        rows.append(
            Overall(
                method=members[0].run.method,
                settings=dict(members[0].run.settings),
                runs=sum(len(group.curves) for group in members),
                relative_return=interquartile_mean([own / dense.mean() for own, dense in compared])
                if is_whole and is_positive
                else None,
                better_than_dense=probability_of_improvement(compared) if is_whole and not is_dense else None,
            )
        )
    return tuple(rows)


def _label(method: str, settings: dict[str, Any]) -> str:
    return ", ".join([method, *(f"{key} {shown(value)}" for key, value in settings.items())])


def as_dict(table: Table) -> dict[str, Any]:
    """A table as JSON has it."""
    return {"paper_steps": paper.STEPS, **asdict(table)}


def format_table(table: Table, form: str) -> str:
    """A table as text in one of the formats that are not JSON. Raises ConfigError for an unknown one."""
    if form == "csv":
        return _csv(table)
    if form == "markdown":
        return _markdown(table)
    raise ConfigError(f"`format` is {form!r}; expected {', '.join(get_args(Format))}")


def _csv(table: Table) -> str:
    """One line a row, one column a number; empty where there is none."""
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
    "interquartile_mean": Interval,
    "better_than_dense": Interval,
}


def _flat(row: dict[str, Any]) -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in row.items():
        if key == "settings":
            flat |= {name: shown(setting) for name, setting in value.items()}
        elif key in _COMPOUND:
            flat |= {f"{key}_{part}": None if value is None else value[part] for part in _PARTS[_COMPOUND[key]]}
        else:
            flat[key] = value
    return flat


def _markdown(table: Table) -> str:
    steps = " and ".join(f"{count:,}".replace(",", " ") for count in table.steps)
    parts = [
        f"{table.title}: {table.finished} of {table.planned} runs, {steps} steps.",
        _grid(_RETURN_COLUMNS, table.rows),
        _grid(_COST_COLUMNS, table.rows),
    ]
    if any(overall.relative_return or overall.better_than_dense for overall in table.overall):
        parts.append(_grid(_OVERALL_COLUMNS, table.overall))
    parts.append(
        f"Return: {_of_which(table.rows)}, ± standard deviation over runs. Paper: after 1 000 000 steps, "
        "5 runs, gym v3. IQM: interquartile mean. LCA: sum of the evaluations / steps. Better: probability that a run "
        "returns more than one of TD3. In brackets: 95 % stratified bootstrap intervals. Steps to TD3's return: median "
        "of when the mean of 10 evaluations reaches TD3's final return, and how many did. FLOPs: as the paper counts."
    )
    return "\n\n".join(parts) + "\n"


def _of_which(rows: Sequence[Row]) -> str:
    """What the returns are the mean of, each number of evaluations once."""
    counts = sorted({row.evaluations for row in rows if row.evaluations is not None}, reverse=True)
    return f"{' or '.join(map(mean_of, counts)) or 'none'} since learning began"


Column = tuple[str, Callable[[Any], str]]

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
    """A Markdown table; columns that have nothing to say are left out."""
    cells = [[name, *(cell(row) for row in rows)] for name, cell in columns]
    header, *lines = zip(*(column for column in cells if any(column[1:])), strict=True)
    return "\n".join(f"| {' | '.join(line)} |" for line in (header, ["---"] * len(header), *lines))


def _three_digits(number: float) -> str:
    """The format of a number, and of what stands beside it, with at least three digits: 7956, 60.4, 6.12, −0.250."""
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
