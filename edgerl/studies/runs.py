"""Run folders of a study: which run a folder holds, its progress, and its evaluations."""

from __future__ import annotations

import csv
import dataclasses
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import numpy.typing as npt

from edgerl import run_folder
from edgerl.config import Config, flat
from edgerl.errors import ConfigError, FileFormatError, OutputError, quoted, reason
from edgerl.files.atomic import TEMPORARIES, read_bytes
from edgerl.studies.grid import PlannedRun
from edgerl.training import checkpoint as checkpoint_file
from edgerl.training.folder import read_config, write_config
from edgerl.training.returns import final_evaluations, since_learning

LARGEST_RETURN = 1e100
"""Sums and squares of smaller ones are finite."""

Stage = Literal["absent", "unfinished", "finished"]


@dataclass(frozen=True)
class Progress:
    """How far a run is, by its checkpoint."""

    stage: Stage
    step: int = 0
    metrics_rows: int = 0
    seconds: float = 0.0  # of training so far


@dataclass(frozen=True)
class Curve:
    """The metrics of one run, in order [n]."""

    steps: npt.NDArray[np.int64]  # increasing
    returns: npt.NDArray[np.float64]  # mean of an evaluation; NaN where there was none
    success_rates: npt.NDArray[np.float64]  # NaN where the environment does not report success
    seconds: npt.NDArray[np.float64]  # since the run began, while it ran
    cpu_minutes: npt.NDArray[np.float64]  # of the processor, without evaluations; NaN in runs of 0.1.0
    start_steps: int  # random ones, before learning began

    @property
    def since_learning(self) -> npt.NDArray[np.bool_]:
        """Which rows evaluate a policy after its first update."""
        return since_learning(self.steps, self.returns, self.start_steps)

    @property
    def final(self) -> npt.NDArray[np.intp]:
        """The rows whose mean is the run's return."""
        return final_evaluations(self.steps, self.returns, self.start_steps)


def inspect(folder: Path, run: PlannedRun) -> Progress:
    """How far the run in `folder` is; the folder may not exist yet, or be empty. A run planned for the engine `auto`
    may have been trained on any; one of 0.1.0 has no episode limit.

    Raises ConfigError where it holds another run, FileFormatError where it holds none or is damaged.
    """
    if not folder.exists() or (folder.is_dir() and all(path.match(TEMPORARIES) for path in folder.iterdir())):
        return Progress("absent")
    try:
        config = read_config(folder)
        checkpoint = folder / run_folder.CHECKPOINT
        counters = checkpoint_file.read(checkpoint).counters if checkpoint.exists() else None
    except (ConfigError, FileFormatError) as error:
        raise FileFormatError(f"{error}; {_retrain(folder)}") from error
    expected = run.config if run.config.engine != "auto" else dataclasses.replace(run.config, engine=config.engine)
    if config.schedule.max_episode_steps is None:
        schedule = dataclasses.replace(expected.schedule, max_episode_steps=None)
        expected = dataclasses.replace(expected, schedule=schedule)
    if config != expected:
        raise ConfigError(
            f"{folder} holds another run than the study's ({_difference(config, expected)}); choose another `out`, or "
            "move the folder away"
        )
    if counters is None:
        return Progress("unfinished")
    stage: Stage = "finished" if counters.step >= run.config.schedule.steps else "unfinished"
    return Progress(stage, counters.step, counters.metrics_rows, counters.elapsed_seconds)


def _retrain(folder: Path) -> str:
    """The way out where a run's folder is damaged."""
    return f"to train that run again, remove {folder} and sweep"


def _difference(config: Config, expected: Config) -> str:
    """The first value that differs: network.sparsity 0.5, expected 0.9."""
    own, other = flat(config), flat(expected)
    name = next(name for name in {**own, **other} if own.get(name) != other.get(name))
    return f"{name} {quoted(own.get(name))}, expected {quoted(other.get(name))}"


def prepare(folder: Path, run: PlannedRun) -> None:
    """Make the folder of a run that is absent, with its config.json: from then on it is resumed like any other.

    Raises OutputError.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OutputError(f"cannot make {folder}: {error.strerror}; choose another `out`") from error
    write_config(folder, run.config)


def read_curve(folder: Path, start_steps: int, *, rows: int | None = None) -> Curve:
    """The evaluations in a run's metrics.csv: the first `rows`, all of which must exist; or every complete one of a run
    that may still be going on.

    Raises FileFormatError.
    """
    path = folder / run_folder.METRICS
    try:
        text = read_bytes(path).decode(errors="replace")
    except FileFormatError as error:
        raise FileFormatError(f"{error}; {_retrain(folder)}") from error
    try:
        return _parsed(text, start_steps, rows)
    except (ValueError, OverflowError, csv.Error) as error:
        raise FileFormatError(f"{path} is damaged: {reason(error)}; restore the file, or {_retrain(folder)}") from error


def _parsed(text: str, start_steps: int, rows: int | None) -> Curve:
    """The curve in the complete lines of a metrics.csv. Raises ValueError, OverflowError, csv.Error."""
    header, *lines = list(csv.reader(text[: text.rfind("\n") + 1].splitlines())) or [[]]
    names = ("step", "elapsed_seconds", "return_mean")
    if missing := [name for name in names if name not in header]:
        raise ValueError(f"it has no column {missing[0]}")
    if rows is not None and len(lines) < rows:
        raise ValueError(f"it has {len(lines)} whole rows; expected the checkpoint's {rows}")
    kept = lines[:rows]
    if any(len(line) != len(header) for line in kept):
        raise ValueError("a row has more or fewer values than there are columns")

    def column(name: str) -> npt.NDArray[np.float64]:
        return np.array([_number(line[header.index(name)]) for line in kept], np.float64)

    steps, seconds, returns = map(column, names)
    if np.isnan([steps, seconds]).any():
        raise ValueError("a row has no step or no time")
    if (np.diff(steps) <= 0).any() or (steps >= 1 << 53).any():
        raise ValueError("its steps do not increase")
    rates, cpu_seconds = (  # absent in 0.1.0
        column(name) if name in header else np.full(len(kept), math.nan)
        for name in ("success_rate", "training_cpu_seconds")
    )
    return Curve(steps.astype(np.int64), returns, rates, seconds, cpu_seconds / 60, start_steps)


def _number(text: str) -> float:
    """NaN for an empty field: it was not measured."""
    value = float(text) if text else math.nan
    if text and not abs(value) < LARGEST_RETURN:
        raise ValueError("a value is not finite, or too large for a return")
    return value


@dataclass(frozen=True)
class Live:
    """A run by its metrics, also while it goes on."""

    step: int = 0  # of the last row
    evaluation_return: float | None = None  # the last one since learning began
    seconds_per_step: float | None = None  # of learning; None before it is known


def live(folder: Path, config: Config) -> Live:
    """The last evaluation of a run, and its pace; the defaults where there is none yet."""
    try:
        curve = read_curve(folder, config.schedule.start_steps)
    except FileFormatError:  # absent so far, or being rewritten
        return Live()
    if not len(curve.steps):
        return Live()
    learning = curve.steps >= config.schedule.start_steps
    steps, seconds = curve.steps[learning], curve.seconds[learning]
    pace = float((seconds[-1] - seconds[0]) / (steps[-1] - steps[0])) if len(steps) > 1 else None
    returns = curve.returns[curve.since_learning]
    return Live(int(curve.steps[-1]), float(returns[-1]) if len(returns) else None, pace)
