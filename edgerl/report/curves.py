"""Learning curves: runs of one setting together, with intervals."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any

import numpy as np
import numpy.typing as npt

from edgerl.errors import FileFormatError
from edgerl.report.sources import Run
from edgerl.studies.statistics import FINAL_EVALUATIONS, Interval, interquartile_mean, interquartile_means
from edgerl.training.config import Config, flat

Array = npt.NDArray[np.float64]

NOT_A_SETTING = {"environment", "seed", "device", "threads", "network.method"}
"""Fields that do not make another group: the first and the last name it already."""

NORMAL_QUANTILE = 1.96


@dataclass(frozen=True)
class Curve:
    """The runs of one setting: the interquartile mean of their returns at each step, and an interval of it.

    Every figure is of the same runs at the same steps: of those that are finished; where none is, of all of them up to
    the last step that all have evaluated.
    """

    environment: str
    label: str
    runs: tuple[Run, ...]
    n_of_setting: int  # runs, those included that are left out
    n_finished: int
    steps: Array
    middle: Array
    low: Array
    high: Array
    final: Interval  # of the runs' means of the last ten evaluations
    best: float  # of all evaluations
    seconds: float | None  # mean over the runs

    @property
    def interval_is_over_episodes(self) -> bool:
        """A single run has no other runs to differ from: its interval is over the episodes of each evaluation."""
        return len(self.runs) == 1


def learning_curves(runs: Sequence[Run]) -> list[Curve]:
    """Grouped by environment, method and whatever other setting differs among runs of these; those with evaluations."""
    evaluated = [run for run in runs if len(run.metrics.get("step", ())) and "return_mean" in run.metrics]
    labels = {
        id(run): (run.config.environment, label) for run, label in zip(evaluated, group_labels(evaluated), strict=True)
    }
    ordered = sorted(evaluated, key=lambda run: labels[id(run)])
    return [_curve(*key, tuple(group)) for key, group in groupby(ordered, key=lambda run: labels[id(run)])]


def group_labels(runs: Sequence[Run]) -> list[str]:
    """Of each run its method, and the settings that differ among runs of its environment and method."""
    settings = [readable(run.config) for run in runs]
    kinds = [(run.config.environment, run.config.network.method) for run in runs]
    labels = []
    for own, kind in zip(settings, kinds, strict=True):
        others = [other for other, its_kind in zip(settings, kinds, strict=True) if its_kind == kind]
        differing = [
            f"{name.rpartition('.')[2].replace('_', ' ')} {_shown(value)}"
            for name, value in own.items()
            if name not in NOT_A_SETTING and value is not None and any(other[name] != value for other in others)
        ]
        labels.append(", ".join([kind[1], *differing]))
    return labels


def _shown(value: Any) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)


def readable(config: Config) -> dict[str, Any]:
    """Every field of a configuration under its dotted name, lists as they are read: 256-256."""
    return {
        name: "-".join(map(str, value)) if isinstance(value, tuple) else value for name, value in flat(config).items()
    }


def _curve(environment: str, label: str, every_run: tuple[Run, ...]) -> Curve:
    finished = tuple(run for run in every_run if run.metrics["step"][-1] >= run.config.schedule.steps)
    runs = finished or every_run
    steps = functools.reduce(np.intersect1d, [run.metrics["step"] for run in runs])
    if not len(steps):
        names = " and ".join(run.name for run in runs[:2])
        raise FileFormatError(f"{names} have no evaluation at the same step; make a report of each")
    until = [int(np.searchsorted(run.metrics["step"], steps[-1], "right")) for run in runs]
    values = np.stack([run.metrics["return_mean"][np.searchsorted(run.metrics["step"], steps)] for run in runs])
    returns = [run.metrics["return_mean"][:end] for run, end in zip(runs, until, strict=True)]
    finals = np.array([own[-FINAL_EVALUATIONS:].mean() for own in returns])
    if len(runs) == 1:
        middle = values[0]
        episodes = runs[0].config.schedule.evaluation_episodes
        deviation = runs[0].metrics.get("return_deviation", np.zeros(len(steps)))
        margin = NORMAL_QUANTILE * deviation / np.sqrt(max(episodes - 1, 1))  # the logged deviation divides by n
        low, high = middle - margin, middle + margin
        final = Interval(float(finals[0]), None, None)
    else:
        middle, low, high = interquartile_means(values)
        final = interquartile_mean([finals])
    return Curve(
        environment=environment,
        label=label,
        runs=runs,
        n_of_setting=len(every_run),
        n_finished=len(finished),
        steps=steps,
        middle=middle,
        low=low,
        high=high,
        final=final,
        best=float(max(own.max() for own in returns)),
        seconds=_mean_seconds(runs, until),
    )


def _mean_seconds(runs: Sequence[Run], until: Sequence[int]) -> float | None:
    """Up to the evaluation before `until` of each; None where a run does not say."""
    if not all("elapsed_seconds" in run.metrics for run in runs):
        return None
    return float(np.mean([run.metrics["elapsed_seconds"][end - 1] for run, end in zip(runs, until, strict=True)]))
