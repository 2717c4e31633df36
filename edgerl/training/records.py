"""What a run keeps for its report and does not need to resume: topology.csv and versions.json (docs/format.md)."""

from __future__ import annotations

import contextlib
import csv
import json
import os
import platform
from collections.abc import Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from edgerl import __version__, run_folder
from edgerl.algorithms.interface import Algorithm
from edgerl.config import ScheduleConfig
from edgerl.errors import OutputError
from edgerl.files.atomic import MAXIMUM_JSON_BYTES, MAXIMUM_TEXT_BYTES, read_bytes, write_atomically
from edgerl.files.strict_json import parse_json

Array = npt.NDArray[Any]

MAXIMUM_ROWS = 200
MAXIMUM_NUMBERS = 1_000_000
"""Of topology.csv, however long the run and however many its sensors: about 10 MB."""

PACKAGES = ("numpy", "torch", "gymnasium", "mujoco")


class TopologyLog:
    """topology.csv: per layer the share ever active; per sensor its connections in the actor and their Σ |weight|.

    Rows are functions of the run's state, so a resumed run truncates the file at its checkpoint's step and goes on. In
    runs of earlier versions, which have none, it starts with the next evaluation.
    """

    def __init__(self, folder: Path, agent: Algorithm, schedule: ScheduleConfig, step: int) -> None:
        """Open the log at `step`; a new run's starts with the topology before any update.

        Raises OutputError; FileFormatError where the file cannot be read.
        """
        self.path, self._agent, self._schedule = folder / run_folder.TOPOLOGY, agent, schedule
        self._columns = list(self._row(0))
        evaluations = -(-schedule.steps // schedule.evaluation_interval)
        rows = min(MAXIMUM_ROWS, max(1, MAXIMUM_NUMBERS // len(self._columns)))
        # A power of two: whatever row an extended run would have, the shorter one has written.
        self._every = 1 << (-(-evaluations // rows) - 1).bit_length()
        kept = [row for row in _rows_up_to(self.path, self._columns, step) if self._is_due(int(row[0]))] if step else []
        lines = [self._columns, *kept, *([] if step else [self._numbers(0)])]
        write_atomically(self.path, "".join(map(_line, lines)).encode())

    def evaluated(self, step: int) -> None:
        """Add a row after the evaluation at `step`, where it is due. Raises OutputError."""
        if not self._is_due(step):
            return
        try:
            with self.path.open("a", newline="") as file:
                file.write(_line(self._numbers(step)))
        except OSError as error:
            raise OutputError(f"cannot write {self.path}: {error.strerror}") from error

    def _is_due(self, step: int) -> bool:
        number = step // self._schedule.evaluation_interval
        return step >= self._schedule.steps or number % self._every == 0

    def sync(self) -> None:
        """Return once every row is on the disk. Raises OutputError."""
        try:
            with self.path.open("rb") as file:
                os.fsync(file.fileno())
        except OSError as error:
            raise OutputError(f"cannot write {self.path}: {error.strerror}") from error

    def _numbers(self, step: int) -> list[str]:
        return [f"{number:.9g}" for number in self._row(step).values()]

    def _row(self, step: int) -> dict[str, float]:
        row: dict[str, float] = {"step": step}
        for name, network in self._agent.networks:
            row |= {f"share_ever_active.{name}.{i}": share for i, share in enumerate(network.shares_ever_active())}
        degrees = next(network.input_degrees() for name, network in self._agent.networks if name == "actor")
        masses = np.abs(self._agent.actor_layers()[0][0]).sum(axis=0, dtype=np.float64)
        row |= {f"degree.{sensor}": int(degree) for sensor, degree in enumerate(degrees)}
        return row | {f"mass.{sensor}": float(mass) for sensor, mass in enumerate(masses)}


def _line(fields: Sequence[str]) -> str:
    return ",".join(fields) + "\n"


def _rows_up_to(path: Path, columns: list[str], step: int) -> list[list[str]]:
    """The rows of an earlier session up to `step`; none where the file is not such a log. Raises FileFormatError."""
    try:
        header, *rows = list(csv.reader(_text(path, MAXIMUM_TEXT_BYTES).splitlines())) or [[]]
    except csv.Error:
        return []
    if header != columns:
        return []
    return [row for row in rows if len(row) == len(columns) and row[0].isdecimal() and int(row[0]) <= step]


def _text(path: Path, at_most: int) -> str:
    """The content of a record; empty where it does not exist, or is not text.

    Raises FileFormatError where it cannot be read now, so that it is not replaced.
    """
    if not path.exists():
        return ""
    with contextlib.suppress(UnicodeDecodeError):
        return read_bytes(path, at_most).decode()
    return ""


def versions() -> dict[str, str]:
    """What a run's numbers may depend on, by name."""
    packages: dict[str, str] = {}
    for name in PACKAGES:
        with contextlib.suppress(metadata.PackageNotFoundError):  # MuJoCo is optional
            packages[name] = metadata.version(name)
    system = f"{platform.system()} {platform.machine()}"
    return {"edgerl": __version__, "python": platform.python_version(), **packages, "system": system}


def record_versions(folder: Path, step: int) -> None:
    """Note in versions.json the versions that the run uses from `step` on, where they differ from those before.

    Raises OutputError, FileFormatError.
    """
    path = folder / run_folder.VERSIONS
    sessions = [session for session in read_versions(path) if session["from_step"] < step]
    if not sessions or sessions[-1]["versions"] != versions():
        sessions.append({"from_step": step, "versions": versions()})
    write_atomically(path, (json.dumps({"sessions": sessions}, indent=2) + "\n").encode())


def read_versions(path: Path) -> list[dict[str, Any]]:
    """The sessions in versions.json, in order; none where the file does not exist or is not valid.

    Raises FileFormatError where it cannot be read.
    """
    text = _text(path, MAXIMUM_JSON_BYTES)
    try:
        data = parse_json(text)
        sessions = [
            {
                "from_step": int(session["from_step"]),
                "versions": {str(k): str(v) for k, v in session["versions"].items()},
            }
            for session in data["sessions"]
        ]
    except (ValueError, KeyError, TypeError, AttributeError, OverflowError):
        return []
    return sessions
