"""The table of a study: what its finished runs returned and cost, with the paper's figures beside them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from edgerl.config import make_config
from edgerl.errors import FileFormatError
from edgerl.studies import paper
from edgerl.studies.grid import TINY_DENSE, PlannedRun, label
from edgerl.studies.runs import Curve, inspect, read_curve
from edgerl.studies.statistics import (
    Interval,
    final_return,
    final_success_rate,
    interquartile_mean,
    learning_curve_area,
    probability_of_improvement,
    return_after,
    steps_to_reach,
)
from edgerl.studies.study import VARIANT, Study
from edgerl.training.returns import FINAL_EVALUATIONS

STEP_MARKS, MINUTE_MARKS = (30_000, 100_000, 300_000, 1_000_000), (1, 3, 10, 30, 100)
"""After which the returns of runs are compared, as the field does."""

DENSE = "td3"
"""The method that others are compared with."""


@dataclass(frozen=True)
class Figure:
    """Mean and standard deviation (over n − 1) of runs; the deviation is None for one run."""

    mean: float
    deviation: float | None


@dataclass(frozen=True)
class Row:
    """The runs that differ only in their seed. None: there is no such figure, or nothing to compare with."""

    environment: str  # with its arguments, where it has any
    method: str
    settings: dict[str, Any]
    runs: int  # finished
    planned: int
    evaluations: int | None  # that a run's final return is the mean of; the fewest of the runs
    final_return: Figure | None
    success_rate: Figure | None  # of the same evaluations, where the environment reports success
    paper_return: Figure | None  # after a million steps
    interquartile_mean: Interval | None
    learning_curve_area: Figure | None
    cpu_minutes: Figure | None  # of the processor, without evaluations
    returns_after_steps: dict[int, Interval]  # interquartile means of single evaluations, where all runs came so far
    returns_after_cpu_minutes: dict[int, Interval]
    better_than_dense: Interval | None  # probability
    steps_to_dense: float | None  # median over the runs; None where at least half never reached it
    reached_dense: int | None  # runs; None where one has fewer than ten evaluations since learning began
    connections: int
    paper_connections: int | None
    training_flops: int  # as the paper counts
    relative_flops: float  # to the dense networks' of the same hidden layers
    paper_relative_flops: float | None

    @property
    def label(self) -> str:
        """Method and settings: ds-td3, sparsity 0.9."""
        return label(self.method, self.settings)


@dataclass(frozen=True)
class Overall:
    """One method and its settings over all environments, by its return in units of dense TD3's."""

    method: str
    settings: dict[str, Any]
    runs: int
    relative_return: Interval | None  # interquartile mean of final return / mean final return of dense TD3
    better_than_dense: Interval | None

    @property
    def label(self) -> str:
        """Method and settings: ds-td3, sparsity 0.9."""
        return label(self.method, self.settings)


@dataclass(frozen=True)
class Table:
    """All figures of a study."""

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
    """The dense TD3 of the same task with the group's settings, as far as it has any; of another variant where only one
    has it."""
    settings = group.run.settings
    dense = [other for other in groups if _is_dense(other.run) and other.run.config.task == group.run.config.task]
    same = [other for other in dense if other.run.settings.items() <= settings.items()]
    variant = {VARIANT: settings.get(VARIANT)}
    alike = [other for other in dense if {**other.run.settings, **variant}.items() <= settings.items()]
    found = same[0] if same else alike[0] if len(alike) == 1 else None
    return found if found is not None and len(found.finals) else None


def _is_dense(run: PlannedRun) -> bool:
    return run.config.method_name == DENSE and run.method != TINY_DENSE


def _row(group: _Group, dense: _Group | None) -> Row:
    run, finals = group.run, group.finals
    is_compared = dense is not None and dense is not group and len(finals) > 0
    of_paper = (run.config.environment.removesuffix("-v5"), run.config.method_name) if _is_papers(run) else ("", "")
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
        cpu_minutes=_figure(np.array([curve.cpu_minutes[-1] for curve in group.curves if is_timed(curve)])),
        returns_after_steps=_returns_after(STEP_MARKS, [(curve, curve.steps) for curve in group.curves]),
        returns_after_cpu_minutes=_returns_after(
            MINUTE_MARKS, [(curve, curve.cpu_minutes) for curve in group.curves if is_timed(curve)]
        ),
        better_than_dense=probability_of_improvement([(finals, dense.finals)]) if dense and is_compared else None,
        steps_to_dense=_median_steps(reached),
        reached_dense=None if reached is None else sum(step is not None for step in reached),
        connections=run.connections,
        paper_connections=None if costs is None else costs[0],
        training_flops=run.flops_paper,
        relative_flops=run.flops_paper / run.flops_paper_dense,
        paper_relative_flops=None if costs is None else costs[1],
    )


def is_timed(curve: Curve) -> bool:
    """Whether the run recorded its processor time from its start to its end."""
    return len(curve.cpu_minutes) > 0 and not np.isnan(curve.cpu_minutes).any()


def _returns_after(marks: Sequence[int], curves: Sequence[tuple[Curve, npt.NDArray[Any]]]) -> dict[int, Interval]:
    """The interquartile mean of the returns at each mark that every one of the runs reached."""
    found = {mark: _known(return_after(curve, spent, mark) for curve, spent in curves) for mark in marks}
    return {mark: interquartile_mean([returns]) for mark, returns in found.items() if 0 < len(returns) == len(curves)}


def _is_papers(run: PlannedRun) -> bool:
    """Whether the run is the paper's except for its length: task, networks, evolution, and TD3's options."""
    config = run.config
    papers = make_config(environment=config.environment, topology=config.network.topology)
    parts = ("algorithm", "network", "evolution", "learning", "normalize", "env_args")
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
    """The rows over all environments; without figures unless the method and dense TD3 have finished runs in each."""
    environments = {group.run.config.task for group in groups}
    by_method: dict[tuple[str, Any], list[_Group]] = {}
    for group in groups:
        by_method.setdefault(group.run.group[1:], []).append(group)
    rows = []
    for members in by_method.values():
        pairs = [(group, _dense_of(group, groups)) for group in members]
        compared = [(group.finals, dense.finals) for group, dense in pairs if dense is not None and len(group.finals)]
        is_complete = len(compared) == len(environments)
        is_positive = all(dense.mean() > 0 for _, dense in compared)
        is_dense = _is_dense(members[0].run)
        rows.append(
            Overall(
                method=members[0].run.method,
                settings=dict(members[0].run.settings),
                runs=sum(len(group.curves) for group in members),
                relative_return=interquartile_mean([own / dense.mean() for own, dense in compared])
                if is_complete and is_positive
                else None,
                better_than_dense=probability_of_improvement(compared) if is_complete and not is_dense else None,
            )
        )
    return tuple(rows)


def as_dict(table: Table) -> dict[str, Any]:
    """A table as plain data, for JSON."""
    return {"paper_steps": paper.STEPS, **asdict(table)}
