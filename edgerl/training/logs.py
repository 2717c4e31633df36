"""metrics.csv, one row per evaluation, and the same numbers as TensorBoard events.

metrics.csv is the truth: a resumed run truncates it to the rows its checkpoint counts, and rewrites the events from it.
"""

from __future__ import annotations

import contextlib
import csv
import io
import math
import os
import socket
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from tensorboard.compat.proto.event_pb2 import Event
from tensorboard.compat.proto.summary_pb2 import Summary
from tensorboard.summary.writer.record_writer import RecordWriter

from edgerl import run_folder
from edgerl.errors import FileFormatError, OutputError, reason
from edgerl.files.atomic import read_text, write_atomically

EVENTS = "events.out.tfevents.*"

Row = Mapping[str, float | int]


class MetricsLog:
    """The metrics of one run folder."""

    def __init__(self, folder: Path, columns: Sequence[str], rows: int = 0) -> None:
        """Open the log with the first `rows` rows of the file; columns that are new since are empty in them.

        Raises FileFormatError where there are fewer rows, or columns that are not among `columns`.
        """
        self.path, self.columns = folder / run_folder.METRICS, list(columns)
        kept = _read(self.path, self.columns)[:rows] if rows else []
        if len(kept) < rows:
            raise FileFormatError(
                f"{self.path} has {len(kept)} whole rows; expected the checkpoint's {rows}; restore the file, or train "
                "again"
            )
        numbers = _numbers(kept, self.path)
        write_atomically(self.path, _format([self.columns, *kept]).encode())
        with self._writing():
            for events in folder.glob(EVENTS):
                events.unlink()
            self._events = _Events(folder)
            for values in numbers:
                self._add_events(dict(zip(self.columns, values, strict=True)))
        self.rows = rows
        self.last_step = int(numbers[-1][0]) if numbers else 0

    def append(self, row: Row) -> None:
        """Add one row, which survives the death of this process once this returns. A NaN is an empty field."""
        fields = ["" if math.isnan(row[column]) else f"{row[column]:.9g}" for column in self.columns]
        with self._writing():
            with self.path.open("a", newline="") as file:
                file.write(_format([fields]))
            self._add_events(row)
        self.rows += 1
        self.last_step = int(row["step"])

    def sync(self) -> None:
        """Return once every row is on the disk, where a checkpoint relies on it."""
        with self._writing(), self.path.open("rb") as file:
            os.fsync(file.fileno())

    @contextlib.contextmanager
    def _writing(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise OutputError(f"cannot write {self.path} or the events beside it: {error.strerror}") from error

    def _add_events(self, row: Row) -> None:
        numbers = {column.replace(".", "/"): row[column] for column in self.columns[1:] if not math.isnan(row[column])}
        self._events.add(int(row["step"]), numbers)


class _Events:
    """An event file of TensorBoard, whose own writer has a thread that prints a traceback where the disk is full."""

    def __init__(self, folder: Path) -> None:
        self._path = folder / EVENTS.replace("*", f"{time.time():.0f}.{socket.gethostname()}.{os.getpid()}")
        self._write(file_version="brain.Event:2")

    def add(self, step: int, numbers: Row) -> None:
        """Add numbers by their tags, which survive the death of this process once this returns."""
        values = [Summary.Value(tag=tag, simple_value=number) for tag, number in numbers.items()]
        self._write(step=step, summary=Summary(value=values))

    def _write(self, **fields: object) -> None:
        with self._path.open("ab") as file:
            RecordWriter(file).write(Event(wall_time=time.time(), **fields).SerializeToString())


def _numbers(rows: Sequence[Sequence[str]], path: Path) -> list[list[float]]:
    """Numbers, NaN for an empty field; the first of a row, its step, never is. Raises FileFormatError."""
    try:
        numbers = [[float(field or "nan") for field in row] for row in rows]
    except ValueError as error:
        raise FileFormatError(f"{path} holds something that is not a number ({error}); restore the file") from error
    if not all(math.isfinite(row[0]) for row in numbers):
        raise FileFormatError(f"{path} has a row without a step; restore the file, or train again")
    return numbers


def read_metrics(folder: Path) -> list[dict[str, float]]:
    """The rows of a run's metrics.csv, each without the columns that are empty in it. Raises FileFormatError."""
    path = folder / run_folder.METRICS
    header, *rows = _parse(path)
    try:
        return [{name: float(field) for name, field in zip(header, row, strict=True) if field} for row in rows]
    except ValueError as error:
        raise FileFormatError(f"{path} holds something that is not a number ({error})") from error


def _read(path: Path, columns: list[str]) -> list[list[str]]:
    """The whole rows, in the order of `columns`, of which an earlier version may have had fewer."""
    header, *rows = _parse(path)
    if "step" not in header or not set(header) <= set(columns) or len(set(header)) < len(header):
        raise FileFormatError(f"{path} has other columns than this run; restore the file, or train again")
    kept = (dict(zip(header, row, strict=True)) for row in rows if len(row) == len(header))
    return [[row.get(column, "") for column in columns] for row in kept]


def _parse(path: Path) -> list[list[str]]:
    """The lines that are whole: one without its end may have lost digits of its last number."""
    text = read_text(path)
    try:
        return list(csv.reader(text[: text.rfind("\n") + 1].splitlines())) or [[]]
    except csv.Error as error:
        raise FileFormatError(f"{path} is not a table ({reason(error)}); restore the file, or train again") from error


def _format(rows: Sequence[Sequence[str]]) -> str:
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows(rows)
    return text.getvalue()
