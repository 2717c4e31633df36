"""Learning curves: runs of one setting together, with intervals."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import groupby
from typing import Any

import numpy as np
import numpy.typing as npt

from edgerl.config import Config, flat
from edgerl.errors import FileFormatError
from edgerl.report.sources import Columns, Run
from edgerl.studies.statistics import Interval, interquartile_mean, interquartile_means
from edgerl.training.returns import final_evaluations, mean_known

Array = npt.NDArray[np.float64]

NOT_A_SETTING = {"environment", "seed", "device", "threads", "network.topology", "algorithm"}
"""Fields that do not make another group: the task and the method, which names algorithm and topology, do already."""

NORMAL_QUANTILE = 1.96


@dataclass(frozen=True)
class Band:
    """The interquartile mean of several runs at each step that all have evaluated, and an interval of it."""

    steps: Array
    middle: Array
    low: Array
    high: Array


@dataclass(frozen=True)
class Curve:
    """The runs of one setting: their returns, and their success rates where the environment reports them.

    Every figure is of the same runs at the same steps: of the finished ones; where none is finished, of all runs up to
    the last step that all have evaluated.
    """

    task: str
    label: str
    runs: tuple[Run, ...]
    n_of_setting: int  # runs, those included that are left out
    n_finished: int
    start_steps: int  # random ones, before learning began
    returns: Band
    success: Band | None
    final: Interval | None  # of the runs' returns; None before learning began
    final_success: float | None  # mean over the runs, of the same evaluations
    evaluations: int  # that a run's return is the mean of; the fewest of the runs
    best: float  # of all evaluations
    seconds: float | None  # mean over the runs

    @property
    def interval_is_over_episodes(self) -> bool:
        """A single run has no other runs to differ from: its interval is over the episodes of each evaluation."""
        return len(self.runs) == 1


def evaluations(run: Run) -> Columns:
    """The rows of a run's metrics that have a return; no columns where none has."""
    returns = run.metrics.get("return_mean", np.zeros(0))
    there = ~np.isnan(returns)
    return {name: values[there] for name, values in run.metrics.items()} if there.any() else {}


def learning_curves(runs: Sequence[Run]) -> list[Curve]:
    """Curves of the runs with evaluations, grouped by task, method and every other setting that differs among them."""
    evaluated = [run for run in runs if evaluations(run)]
    labels = {id(run): (run.config.task, label) for run, label in zip(evaluated, group_labels(evaluated), strict=True)}
    ordered = sorted(evaluated, key=lambda run: labels[id(run)])
    return [_curve(*key, tuple(group)) for key, group in groupby(ordered, key=lambda run: labels[id(run)])]


def group_labels(runs: Sequence[Run]) -> list[str]:
    """Each run's method, and the settings that differ among the runs of its task and method."""
    settings = [readable(run.config) for run in runs]
    kinds = [(run.config.task, run.config.method_name) for run in runs]
    labels = []
    for own, kind in zip(settings, kinds, strict=True):
        others = [other for other, its_kind in zip(settings, kinds, strict=True) if its_kind == kind]
        differing = [
            f"{name.rpartition('.')[2].replace('_', ' ')} {f'{value:g}' if isinstance(value, float) else value}"
            for name, value in own.items()
            if name not in NOT_A_SETTING and value is not None and any(other[name] != value for other in others)
        ]
        labels.append(", ".join([kind[1], *differing]))
    return labels


def readable(config: Config) -> dict[str, Any]:
    """Every field of a configuration by its dotted name, lists as people write them: 256-256."""
    return {
        name: "-".join(map(str, value)) if isinstance(value, tuple) else value for name, value in flat(config).items()
    }


def _curve(task: str, label: str, every_run: tuple[Run, ...]) -> Curve:
    finished = tuple(run for run in every_run if run.metrics["step"][-1] >= run.config.schedule.steps)
    runs = finished or every_run
    schedule = runs[0].config.schedule
    whole = []
    for run in runs:
        table = evaluations(run)
        steps, interval, end = table["step"], run.config.schedule.evaluation_interval, run.config.schedule.steps
        due = np.where(steps >= end, steps, steps - steps % interval)  # later where a training episode had to end first
        whole.append({**table, "due": due})
    steps = _in_all([table["due"] for table in whole])
    if not len(steps):
        names = " and ".join(run.name for run in runs[:2])
        raise FileFormatError(f"{names} have no evaluation at the same step; make a report of each")
    tables = [{name: values[table["due"] <= steps[-1]] for name, values in table.items()} for table in whole]
    last = [final_evaluations(table["step"], table["return_mean"], schedule.start_steps) for table in tables]
    finals = [mean_known(table["return_mean"][rows]) for table, rows in zip(tables, last, strict=True)]
    successes = [mean_known(success_rates(table)[rows]) for table, rows in zip(tables, last, strict=True)]
    return Curve(
        task=task,
        label=label,
        runs=runs,
        n_of_setting=len(every_run),
        n_finished=len(finished),
        start_steps=schedule.start_steps,
        returns=_returns_band(tables, schedule.evaluation_episodes),
        success=_success_band(tables, schedule.evaluation_episodes),
        final=_final([value for value in finals if value is not None]),
        final_success=mean_known(np.array(successes, np.float64)),
        evaluations=min(map(len, last)),
        best=float(max(table["return_mean"].max() for table in tables)),
        seconds=_mean_seconds(tables),
    )


def _in_all(steps: Sequence[Array]) -> Array:
    common: Array = functools.reduce(np.intersect1d, steps)
    return common


@dataclass(frozen=True)
class _Points:
    """One run: steps at which evaluations fell due, each once, the values, and deviations over the episodes."""

    steps: Array
    values: Array
    deviations: Array  # which divide by n


def _points(table: Columns, values: Array, deviations: Array) -> _Points:
    known = ~np.isnan(values)
    steps, first = np.unique(table["due"][known], return_index=True)  # the end of a run that was extended may share one
    return _Points(steps, values[known][first], deviations[known][first])


def _band(runs: Sequence[_Points], episodes: int) -> Band:
    """Of runs with steps in common; of a single one, with the interval of the mean over an evaluation's episodes."""
    steps = _in_all([run.steps for run in runs])
    values = np.stack([run.values[np.searchsorted(run.steps, steps)] for run in runs])
    if len(runs) > 1:
        return Band(steps, *interquartile_means(values))
    margin = NORMAL_QUANTILE * runs[0].deviations / np.sqrt(max(episodes - 1, 1))
    return Band(steps, values[0], values[0] - margin, values[0] + margin)


def _returns_band(tables: Sequence[Columns], episodes: int) -> Band:
    deviations = [table.get("return_deviation", np.zeros(len(table["step"]))) for table in tables]
    pairs = zip(tables, deviations, strict=True)
    return _band([_points(table, table["return_mean"], deviation) for table, deviation in pairs], episodes)


def _success_band(tables: Sequence[Columns], episodes: int) -> Band | None:
    """Of the evaluations in which every run reports success; None where there are none."""
    rates = [success_rates(table) for table in tables]
    pairs = zip(tables, rates, strict=True)
    runs = [_points(table, own, np.sqrt(own * (1 - own))) for table, own in pairs]
    if not len(_in_all([run.steps for run in runs])):
        return None
    band = _band(runs, episodes)
    return replace(band, low=np.maximum(band.low, 0), high=np.minimum(band.high, 1))


def success_rates(table: Columns) -> Array:
    """Of each row, from 0 to 1; NaN where the environment does not report it, and in runs of earlier versions."""
    return np.clip(table.get("success_rate", np.full(len(table["step"]), np.nan)), 0, 1)


def _final(returns: Sequence[float]) -> Interval | None:
    if not returns:
        return None
    return Interval(returns[0], None, None) if len(returns) == 1 else interquartile_mean([np.array(returns)])


def _mean_seconds(tables: Sequence[Columns]) -> float | None:
    """None where a run does not say."""
    if not all("elapsed_seconds" in table for table in tables):
        return None
    return float(np.mean([table["elapsed_seconds"][-1] for table in tables]))
