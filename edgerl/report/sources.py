"""What a report is made of: run folders, folders of them, and model files. Nothing in them is trusted."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from edgerl import run_folder
from edgerl.config import Config, is_continued_by
from edgerl.environments.consent import resume_command
from edgerl.errors import ConfigError, FileFormatError, OutputError, quoted, reason
from edgerl.files.atomic import MAXIMUM_JSON_BYTES, read_text
from edgerl.files.kind import importing, what_is
from edgerl.files.strict_json import parse_json
from edgerl.policy import format as policy_file
from edgerl.policy.compact import CompactPolicy
from edgerl.profiling.budgets.model import policy_rows, read_model
from edgerl.profiling.budgets.rows import ModelRows
from edgerl.studies.study import RECORD
from edgerl.training import checkpoint as checkpoint_file
from edgerl.training.checkpoint import Checkpoint
from edgerl.training.folder import read_config
from edgerl.training.records import read_versions
from edgerl.training.returns import FINAL_EVALUATIONS, MAY_BE_EMPTY

Columns = dict[str, npt.NDArray[np.float64]]
"""A table of numbers by the name of its columns; NaN where a field is empty."""

MAXIMUM_POINTS = 1000
"""Of a curve: of more rows, evenly spread ones are read, and the last ten, of which the final return is the mean."""

LARGEST = 1e100
"""What lies beyond is not a measurement, and its sums and squares would overflow."""

MAXIMUM_RUNS = 500
"""Of one page."""


FILES_OF_A_RUN = (
    *(run_folder.CONFIG, run_folder.CHECKPOINT, run_folder.REPLAY, run_folder.METRICS, run_folder.TOPOLOGY),
    *(run_folder.VERSIONS, run_folder.POLICY, run_folder.ONNX, run_folder.LEARNER, run_folder.FIT_RECORDS),
    "events.out.tfevents.*",
)
"""Names and patterns of files that a page never replaces."""


@dataclass(frozen=True)
class Trial:
    """One measured policy of `edgerl fit`."""

    architecture: str
    precision: str
    connections: int
    bytes: float
    latency_us: float
    returns: tuple[float, float, float]  # mean, low, high
    fits: bool


@dataclass(frozen=True)
class Fit:
    """What `edgerl fit` left of one device."""

    device: str
    least_return: float
    latency_budget_us: float
    episodes: int
    trials: tuple[Trial, ...]
    chosen: Trial | None


@dataclass(frozen=True)
class Run:
    """One run folder; what it does not hold (yet) is empty or None."""

    name: str
    folder: Path
    config: Config
    metrics: Columns
    topology: Columns
    checkpoint: Checkpoint | None
    policy: CompactPolicy | None  # the file's, compact
    policy_bytes: int
    fits: tuple[Fit, ...]
    versions: tuple[dict[str, Any], ...]

    @property
    def rows(self) -> ModelRows | None:
        """The policy as profiling sees it."""
        return None if self.policy is None else policy_rows(self.policy, run_folder.POLICY, self.policy_bytes)


@dataclass(frozen=True)
class Model:
    """A model file that was named by itself."""

    name: str
    rows: ModelRows
    policy: CompactPolicy | None  # None: an ONNX file


@dataclass(frozen=True)
class Sources:
    """Everything that a page shows."""

    runs: tuple[Run, ...]
    models: tuple[Model, ...]


def find(paths: Sequence[Path]) -> tuple[list[Path], list[Path]]:
    """(run folders, model files) that the paths name, a study being every run folder in it; each once.

    Raises FileFormatError for a path that is neither, ConfigError for too many runs.
    """
    runs: dict[Path, Path] = {}
    models: dict[Path, Path] = {}
    for path in paths:
        if path.is_dir():
            runs |= {found.resolve(): found for found in _runs_in(path)}
        elif path.suffix in (".safetensors", ".onnx") and path.exists():
            models[path.resolve()] = path
        else:
            found = what_is(path)
            raise FileFormatError(
                f"{path} is {found}; expected a run folder, a folder of runs, or a policy file{importing(found, path)}"
            )
    if len(runs) > MAXIMUM_RUNS:
        raise ConfigError(f"{len(runs)} runs were named; expected at most {MAXIMUM_RUNS}; name fewer")
    return list(runs.values()), list(models.values())


def _runs_in(folder: Path) -> list[Path]:
    if (folder / run_folder.CONFIG).exists():
        return [folder]
    runs = sorted(path.parent for path in folder.glob(f"*/{run_folder.CONFIG}") if not path.parent.is_symlink())
    if not runs:
        how = importing(what_is(folder), folder) or "; name a run that train made"
        raise FileFormatError(f"{folder} holds no {run_folder.CONFIG} and no run folders{how}")
    return runs


def read(paths: Sequence[Path]) -> Sources:
    """Raises FileFormatError, ConfigError, UnsupportedModelError."""
    folders, files = find(paths)
    names = _names(folders)
    runs = tuple(_read_run(folder, name) for folder, name in zip(folders, names, strict=True))
    models = (
        Model(path.name, read_model(path), policy_file.load(path) if path.suffix == ".safetensors" else None)
        for path in files
    )
    return Sources(runs, tuple(models))


def watched(paths: Sequence[Path]) -> dict[Path, tuple[int, int]]:
    """The files that a page is made of, with what shows whether they changed: time (ns) and size."""
    folders, files = find(paths)
    names = (
        *(run_folder.CONFIG, run_folder.METRICS, run_folder.TOPOLOGY, run_folder.VERSIONS),
        *(run_folder.CHECKPOINT, run_folder.POLICY, run_folder.FIT_RECORDS),
    )
    every = [*files, *(path for folder in folders for name in names for path in folder.glob(name))]
    states = {}
    for path in every:
        try:
            status = path.stat()
        except FileNotFoundError:
            continue
        states[path] = (status.st_mtime_ns, status.st_size)
    return states


def _names(folders: Sequence[Path]) -> list[str]:
    """Folder names; with their parents' names where two are the same."""
    short = [folder.resolve().name for folder in folders]
    return [
        name if short.count(name) == 1 else f"{folder.resolve().parent.name}/{name}"
        for folder, name in zip(folders, short, strict=True)
    ]


def _read_run(folder: Path, name: str) -> Run:
    config = read_config(folder)
    repair = resume_command(folder, config.environment, config.env_args)
    policy_path, checkpoint_path = folder / run_folder.POLICY, folder / run_folder.CHECKPOINT
    has_policy = _is_named(policy_path)
    checkpoint = checkpoint_file.read(checkpoint_path) if _is_named(checkpoint_path) else None
    if checkpoint is not None and not is_continued_by(checkpoint.config, config):
        raise FileFormatError(
            f"{checkpoint_path} is of another configuration than {folder / run_folder.CONFIG}; restore that file"
        )
    return Run(
        name=name,
        folder=folder,
        config=config,
        metrics=read_table(folder / run_folder.METRICS, repair),
        topology=read_table(folder / run_folder.TOPOLOGY, repair),
        checkpoint=checkpoint,
        policy=policy_file.load(policy_path) if has_policy else None,
        policy_bytes=policy_path.stat().st_size if has_policy else 0,
        fits=tuple(_read_fit(path) for path in sorted(folder.glob(run_folder.FIT_RECORDS))),
        versions=_versions(folder),
    )


def _versions(folder: Path) -> tuple[dict[str, Any], ...]:
    """Of the run's sessions; none where the file cannot be read: a report can do without."""
    try:
        return tuple(read_versions(folder / run_folder.VERSIONS))
    except FileFormatError:
        return ()


def read_table(path: Path, repair: str) -> Columns:
    """A CSV table with a `step` column, at most MAXIMUM_POINTS rows of it; empty where it does not exist yet.

    repair: the command that mends it. Raises FileFormatError where a row is cut off, or holds no finite number.
    """
    if not _is_named(path):
        return {}
    try:
        text = read_text(path)
    except FileFormatError as error:
        raise FileFormatError(f"{error}; restore the file, or train the run again") from error
    header, *lines = text.splitlines() or [""]
    names = header.split(",")
    mend = f"cut off or damaged; mend it with: {repair}"
    if not text.endswith("\n") or "step" not in names or len(set(names)) < len(names):
        raise FileFormatError(f"{path} does not end with a whole line of a table: it was {mend}")
    for number, line in enumerate(lines, 2):
        if line.count(",") != len(names) - 1:
            found = line.count(",") + 1
            raise FileFormatError(f"{path} has {found} of {len(names)} columns in line {number}: it was {mend}")
    first = max(0, len(lines) - FINAL_EVALUATIONS)
    chosen = [*_stride(first, MAXIMUM_POINTS - FINAL_EVALUATIONS), *range(first, len(lines))]
    cells = np.array([lines[index].split(",") for index in chosen], object).reshape(-1, len(names))
    is_empty = (cells == "") & np.isin(names, list(MAY_BE_EMPTY))
    try:
        numbers = np.where(is_empty, "nan", cells).astype(np.float64)
    except ValueError as error:
        raise FileFormatError(f"{path} holds something that is not a number ({error}): it was {mend}") from error
    is_possible = (np.abs(numbers) <= LARGEST) | is_empty
    if not is_possible.all() or (np.diff(numbers[:, names.index("step")]) <= 0).any():
        raise FileFormatError(
            f"{path} holds a number that is not finite, or beyond {LARGEST:g}, or steps that do not rise: it was {mend}"
        )
    return {name: numbers[:, index] for index, name in enumerate(names)}


def _is_named(path: Path) -> bool:
    """Whether there is a file of this name, or a link, even one that leads nowhere."""
    return path.exists() or path.is_symlink()


def _stride(count: int, at_most: int) -> range:
    """At most `at_most` of the indices below `count`, from the first one on, a power of two apart.

    So runs of different lengths keep steps in common.
    """
    step = 1
    while -(-count // step) > at_most:
        step *= 2
    return range(0, count, step)


def evenly(count: int, at_most: int) -> list[int]:
    """At most `at_most` of the indices below `count`, evenly spread, with the first and the last."""
    if count <= at_most:
        return list(range(count))
    chosen: list[int] = np.linspace(0, count - 1, at_most).round().astype(int).tolist()
    return chosen


def _read_fit(path: Path) -> Fit:
    try:
        data = parse_json(read_text(path, MAXIMUM_JSON_BYTES))
        chosen = data["chosen"]
        return Fit(
            device=_line(data["device"]),
            least_return=_number(data["least_return"]),
            latency_budget_us=_above_zero(data["reference"]["latency"]["budget"]),
            episodes=int(_number(data["episodes"])),
            trials=tuple(map(_trial, data["measured"])),
            chosen=None if chosen is None else _trial(chosen),
        )
    except (FileFormatError, ValueError, KeyError, TypeError, OverflowError) as error:
        raise FileFormatError(
            f"{path} is not a record of edgerl fit ({reason(error)}); run edgerl fit again, or remove it"
        ) from error


def _trial(data: Any) -> Trial:
    returns = data["returns"]
    return Trial(
        architecture=_line(data["architecture"]),
        precision=_line(data["precision"]),
        connections=sum(int(_number(layer["connections"])) for layer in data["layers"]),
        bytes=_above_zero(data["bytes"]),
        latency_us=_above_zero(data["latency"]["used"]),
        returns=(_number(returns["mean"]), _number(returns["low"]), _number(returns["high"])),
        fits=bool(data["fits"]),
    )


def _number(value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not abs(value) <= LARGEST:
        raise ValueError(f"{quoted(value)} where a number is expected")
    return float(value)


def _above_zero(value: Any) -> float:
    if (number := _number(value)) <= 0:
        raise ValueError(f"{quoted(value)} where a number above zero is expected")
    return number


def _line(value: Any) -> str:
    if not isinstance(value, str) or not value.isprintable():
        raise ValueError(f"{quoted(value)} where a line is expected")
    return value[:100]


def refuse_overwriting_a_source(output: Path, paths: Sequence[Path]) -> None:
    """Raise OutputError where the page would replace what it is made of, or another file of a run or a study."""
    if output.resolve() in {path.resolve() for path in watched(paths)}:
        raise OutputError(f"{output} is one of the files that the report reads; choose another -o")
    folder, name = output.resolve().parent, output.resolve().name
    is_of_a_run = (folder / run_folder.CONFIG).exists() and any(fnmatchcase(name, own) for own in FILES_OF_A_RUN)
    if is_of_a_run or name == RECORD:
        raise OutputError(f"{output} is a file of a {'run' if is_of_a_run else 'study'}; choose another -o")
