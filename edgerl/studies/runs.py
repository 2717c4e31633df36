"""Run folders as a study sees them: which run a folder holds, how far it is, and its evaluations."""

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
    """How far a run folder is, by its checkpoint."""

    stage: Stage
    step: int = 0
    metrics_rows: int = 0
    seconds: float = 0.0  # of training so far


@dataclass(frozen=True)
class Curve:
    """The metrics of one run, in order [n]."""

    steps: npt.NDArray[np.int64]  # increasing
    returns: npt.NDArray[np.float64]  # mean of an evaluation; NaN where there was none
    success_rates: npt.NDArray[np.float64]  # NaN where the environment tells of no success
    seconds: npt.NDArray[np.float64]  # of training so far
    start_steps: int  # random ones, before learning began

    @property
    def since_learning(self) -> npt.NDArray[np.bool_]:
        """Which rows are evaluations of a policy that has learnt."""
        return since_learning(self.steps, self.returns, self.start_steps)

    @property
    def final(self) -> npt.NDArray[np.intp]:
        """The rows whose mean is the run's return."""
        return final_evaluations(self.steps, self.returns, self.start_steps)


def inspect(folder: Path, run: PlannedRun) -> Progress:
    """How far the run in `folder` is; the folder may not be there yet, or be empty. A run planned for the engine `auto`
    may have been trained on any; one of 0.1.0 has no limit of episodes.

    Raises ConfigError where it holds another run, FileFormatError where it holds none or is damaged.
    """
    if not folder.exists() or (folder.is_dir() and all(path.match(TEMPORARIES) for path in folder.iterdir())):
        return Progress("absent")
    try:
        found = read_config(folder)
        checkpoint = folder / run_folder.CHECKPOINT
        counters = checkpoint_file.read(checkpoint).counters if checkpoint.exists() else None
    except (ConfigError, FileFormatError) as error:
        raise FileFormatError(f"{error}; {_anew(folder)}") from error
    expected = run.config if run.config.engine != "auto" else dataclasses.replace(run.config, engine=found.engine)
    if found.schedule.max_episode_steps is None:
        schedule = dataclasses.replace(expected.schedule, max_episode_steps=None)
        expected = dataclasses.replace(expected, schedule=schedule)
    if found != expected:
        raise ConfigError(
            f"{folder} holds another run than the study's ({_difference(found, expected)}); choose another `out`, or "
            "move the folder away"
        )
    if counters is None:
        return Progress("unfinished")
    stage: Stage = "finished" if counters.step >= run.config.schedule.steps else "unfinished"
    return Progress(stage, counters.step, counters.metrics_rows, counters.elapsed_seconds)


def _anew(folder: Path) -> str:
    """What helps where a run's folder is damaged."""
    return f"to train that run anew, remove {folder} and sweep"


def _difference(found: Config, expected: Config) -> str:
    """The first value that differs: network.sparsity 0.5, expected 0.9."""
    own, wanted = flat(found), flat(expected)
    name = next(name for name in {**own, **wanted} if own.get(name) != wanted.get(name))
    return f"{name} {quoted(own.get(name))}, expected {quoted(wanted.get(name))}"


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
    """The evaluations in a run's metrics.csv: the first `rows`, a checkpoint's word, of which none may be missing; or
    all of a run that is going on, without a last line that is only half written.

    Raises FileFormatError.
    """
    path = folder / run_folder.METRICS
    try:
        text = read_bytes(path).decode(errors="replace")
    except FileFormatError as error:
        raise FileFormatError(f"{error}; {_anew(folder)}") from error
    whole = text[: text.rfind("\n") + 1]
    header, *lines = list(csv.reader(whole.splitlines())) or [[]]
    try:
        columns = [_column(header, name) for name in ("step", "elapsed_seconds", "return_mean")]
        kept = lines if rows is None else lines[:rows]
        if rows is not None and len(kept) < rows:
            raise ValueError(f"it has {len(kept)} whole rows, and the checkpoint counts on {rows}")
        if any(len(line) != len(header) for line in kept):
            raise ValueError("a row has not as many values as there are columns")
        values = np.array([[_number(line[column]) for column in columns] for line in kept]).reshape(-1, len(columns))
        steps, seconds, returns = values.T
        if np.isnan([steps, seconds]).any():
            raise ValueError("a row has no step or no time")
        if (np.diff(steps) <= 0).any() or (steps >= 1 << 53).any():
            raise ValueError("its steps do not increase")
        rates = np.full(len(kept), math.nan)
        if "success_rate" in header:  # as earlier versions have it not
            rates = np.array([_number(line[header.index("success_rate")]) for line in kept], np.float64)
    except (ValueError, OverflowError, csv.Error) as error:
        raise FileFormatError(f"{path} is damaged: {reason(error)}; restore the file, or {_anew(folder)}") from error
    return Curve(steps.astype(np.int64), returns, rates, seconds, start_steps)


def _column(header: list[str], name: str) -> int:
    if name not in header:
        raise ValueError(f"it has no column {name}")
    return header.index(name)


def _number(text: str) -> float:
    """NaN for an empty field: it was not measured."""
    value = float(text) if text else math.nan
    if text and not abs(value) < LARGEST_RETURN:
        raise ValueError("a value is not finite, or beyond any return")
    return value


@dataclass(frozen=True)
class Live:
    """A run as its metrics show it, also while it goes on."""

    step: int = 0  # of the last row
    evaluation_return: float | None = None  # the last one since learning began
    seconds_per_step: float | None = None  # of learning; None before it is known


def live(folder: Path, config: Config) -> Live:
    """The last evaluation of a run, and its pace; of a run that has none yet, what is known, which is nothing."""
    try:
        curve = read_curve(folder, config.schedule.start_steps)
    except FileFormatError:  # not there yet, or about to be rewritten
        return Live()
    if not len(curve.steps):
        return Live()
    learning = curve.steps >= config.schedule.start_steps
    steps, seconds = curve.steps[learning], curve.seconds[learning]
    pace = float((seconds[-1] - seconds[0]) / (steps[-1] - steps[0])) if len(steps) > 1 else None
    returns = curve.returns[curve.since_learning]
    return Live(int(curve.steps[-1]), float(returns[-1]) if len(returns) else None, pace)
