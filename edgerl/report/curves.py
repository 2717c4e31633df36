"""Learning curves: runs of one setting together, with intervals."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any

import numpy as np
import numpy.typing as npt

from edgerl.report.sources import Run
from edgerl.studies.statistics import FINAL_EVALUATIONS, Interval, interquartile_mean, interquartile_means
from edgerl.training.config import Config

Array = npt.NDArray[np.float64]

NOT_A_SETTING = {"environment", "seed", "device", "threads", "network.method"}
"""Fields that do not make another group: the first and the last name it already."""

NORMAL_QUANTILE = 1.96


@dataclass(frozen=True)
class Curve:
    """The runs of one setting: the interquartile mean of their returns at each step, and an interval of it."""

    environment: str
    label: str
    runs: tuple[Run, ...]
    steps: Array
    middle: Array
    low: Array
    high: Array
    counts: Array  # runs that have an evaluation at the step
    final: Interval  # of the runs' means of the last ten evaluations

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
    settings = [flat(run.config) for run in runs]
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


def flat(config: Config) -> dict[str, Any]:
    """Every field of a configuration under its dotted name."""
    fields: dict[str, Any] = {}
    for name, value in dataclasses.asdict(config).items():
        fields |= {f"{name}.{key}": inner for key, inner in value.items()} if isinstance(value, dict) else {name: value}
    return {name: "-".join(map(str, value)) if isinstance(value, tuple) else value for name, value in fields.items()}


def _curve(environment: str, label: str, runs: tuple[Run, ...]) -> Curve:
    steps = np.unique(np.concatenate([run.metrics["step"] for run in runs]))
    values = np.full((len(runs), len(steps)), np.nan)
    for row, run in zip(values, runs, strict=True):
        row[np.searchsorted(steps, run.metrics["step"])] = run.metrics["return_mean"]
    counts = np.count_nonzero(~np.isnan(values), axis=0)
    finals = np.array([run.metrics["return_mean"][-FINAL_EVALUATIONS:].mean() for run in runs])
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
    return Curve(environment, label, runs, steps, middle, low, high, counts.astype(np.float64), final)
