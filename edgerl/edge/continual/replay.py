"""The replay memory: one format, in a mapped file or in RAM, for every engine.

A file is a page of header and then rows of float32: observation [n], action [m] in [−1, 1], next observation [n],
reward, boundary. Rows are only ever appended, in a ring with `slack` rows of room beyond its capacity, so that a
checkpoint finds all rows it counts on although up to `slack` more were written after it.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import mmap
import os
from dataclasses import dataclass
from enum import IntEnum
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from edgerl.edge.engine.library import ReplayStructure
from edgerl.errors import FileFormatError, OutputError
from edgerl.files.kind import REPLAY, refuse_other_kinds, sample
from edgerl.files.strict_json import parse_json

Array = npt.NDArray[Any]

HEADER_BYTES = 4096
MAGIC = b"edgerl replay 1\n"
MAXIMUM_BYTES = 1 << 40


class Boundary(IntEnum):
    """What comes after a transition; n-step sums stop at everything but CONTINUES."""

    CONTINUES = 0
    TERMINATED = 1  # the task ended: nothing to bootstrap from
    TRUNCATED = 2  # the episode was cut: bootstrap from the next observation
    GAP = 3  # a transition is missing, as after a restart: bootstrap too


@dataclass(frozen=True)
class Batch:
    """Transitions, or n-step windows of them; all float32."""

    observations: Array  # [batch, n]
    actions: Array  # [batch, m], in [−1, 1]
    returns: Array  # [batch], Σ γ^i r_i over the window
    next_observations: Array  # [batch, n], at the window's end
    discounts: Array  # [batch], γ^k for a window of k steps, 0 where it terminated


_SIZES = ("observations", "actions", "capacity", "slack")


def _read_header(header: bytes) -> tuple[int, int, int, int]:
    """The sizes in a header, which is not trusted; ValueError says what is wrong."""
    if not header.startswith(MAGIC):
        raise ValueError(f"it does not begin with {MAGIC!r}")
    described = parse_json(header[len(MAGIC) :].rstrip(b"\0"))
    if not isinstance(described, dict) or set(described) != set(_SIZES):
        raise ValueError(f"its header does not have the keys {', '.join(_SIZES)}")
    n, m, capacity, slack = (described[name] for name in _SIZES)
    for value, least in ((n, 1), (m, 1), (capacity, 1), (slack, 0)):
        if type(value) is not int or not least <= value <= MAXIMUM_BYTES:
            raise ValueError("its header holds a size that is out of range")
    return n, m, capacity, slack


class Replay:
    """The last `capacity` transitions. Not thread-safe; one process at a time has the file."""

    def __init__(
        self,
        path: Path | None,
        n_observations: int,
        n_actions: int,
        capacity: int,
        *,
        slack: int = 0,
        count: int = 0,
        dropped: int = 0,
    ) -> None:
        """Create the file, or open it when it exists (in RAM where path is None).

        count: transitions ever appended that this memory starts with, a checkpoint's word; dropped: how many of the
        first of them are in use no more. slack: at least; a file that has more keeps it.

        Raises FileFormatError for another memory's file or a shortened one, OutputError where it cannot be written or
        another process holds it.
        """
        self.dropped = dropped
        self._set_sizes(n_observations, n_actions, capacity, slack, count)
        if path is not None:
            self._keep_recorded_slack(path)
        size = self._file_bytes
        if size > MAXIMUM_BYTES:
            raise OutputError(f"a replay of {capacity} transitions has {size} bytes; expected at most {MAXIMUM_BYTES}")
        try:
            self._map = mmap.mmap(-1, size) if path is None else self._map_file(path, size)
        except OSError as error:
            where = "memory" if path is None else path
            raise OutputError(f"cannot make room for {size} bytes in {where}: {error.strerror}") from error
        self._view_rows()

    def _set_sizes(self, n_observations: int, n_actions: int, capacity: int, slack: int, count: int) -> None:
        self.n_observations, self.n_actions = n_observations, n_actions
        self.capacity, self.slack, self.count = capacity, slack, count
        self._room = capacity + slack
        self._width = 2 * n_observations + n_actions + 2
        self._file_bytes = HEADER_BYTES + self._room * self._width * 4

    def _keep_recorded_slack(self, path: Path) -> None:
        """Use the slack of a complete file that has more, as some of 0.1.0 do: it decides where a row lies."""
        if not path.is_file():
            return
        try:
            with path.open("rb") as file:
                slack = _read_header(file.read(HEADER_BYTES))[3]
        except (OSError, ValueError):
            return
        bytes_then = HEADER_BYTES + (self.capacity + slack) * self._width * 4
        if slack > self.slack and path.stat().st_size == bytes_then:
            self._set_sizes(self.n_observations, self.n_actions, self.capacity, slack, self.count)

    def _view_rows(self) -> None:
        self._rows = np.frombuffer(self._map, np.float32, offset=HEADER_BYTES).reshape(self._room, self._width)
        self._rows_address = int(self._rows.ctypes.data)

    @classmethod
    def open_recorded(cls, path: Path, count: int, dropped: int = 0) -> Replay:
        """A file opened for reading, also while a run appends to it; count and dropped as in the constructor.

        Raises FileFormatError unless the file is a whole replay memory.
        """
        refuse_other_kinds(sample(path), path, "a replay memory, as edgerl train writes", REPLAY)
        try:
            with path.open("rb") as file:
                header, size = file.read(HEADER_BYTES), os.fstat(file.fileno()).st_size
                replay = cls.__new__(cls)
                replay.dropped = dropped
                replay._set_sizes(*_read_header(header), count)
                if replay._file_bytes != size:
                    raise ValueError(f"it has {size} bytes, expected {replay._file_bytes}")
                replay._map = mmap.mmap(file.fileno(), size, access=mmap.ACCESS_READ)
        except (OSError, ValueError) as error:
            raise FileFormatError(f"{path} is not a replay memory, or is truncated: {error}") from error
        replay._view_rows()
        return replay

    @property
    def size(self) -> int:
        """Transitions that can be sampled."""
        return min(self.count - self.dropped, self.capacity)

    def drop(self, number: int) -> None:
        """Sample the `number` oldest transitions no more, at most `size`; new ones take their room."""
        self.dropped = self.count - self.size + number

    def append(
        self, observation: Array, action: Array, reward: float, next_observation: Array, boundary: Boundary
    ) -> None:
        """Add one transition; the oldest leaves when the memory is full."""
        row = self._rows[self.count % self._room]
        n, m = self.n_observations, self.n_actions
        row[:n] = observation
        row[n : n + m] = action
        row[n + m : 2 * n + m] = next_observation
        row[-2] = reward
        row[-1] = boundary
        self.count += 1

    def cut(self) -> bool:
        """End the newest transition's episode where it would continue: nothing will follow it. Whether it would."""
        newest = self._rows[(self.count - 1) % self._room]
        continues = self.count > 0 and newest[-1] == Boundary.CONTINUES
        if continues:
            newest[-1] = Boundary.TRUNCATED
        return bool(continues)

    def largest(self) -> tuple[float, float]:
        """The largest |number| of the observations, and of the rewards, in the newest 10 000 rows; 0 without any."""
        rows = np.abs(self.rows(np.arange(max(0, self.size - 10_000), self.size)))
        n, m = self.n_observations, self.n_actions
        observations = max(rows[:, :n].max(initial=0), rows[:, n + m : -2].max(initial=0))
        return float(observations), float(rows[:, -2].max(initial=0))

    def observations(self, indices: npt.NDArray[np.int64]) -> Array:
        """Observations [len(indices), n] of transitions numbered from the oldest, 0 ≤ index < size."""
        return self._rows[self._slots(indices)][:, : self.n_observations].copy()

    def rows(self, indices: npt.NDArray[np.int64]) -> Array:
        """Whole rows [len(indices), 2 n + m + 2] of the transitions with these numbers; a copy."""
        rows: Array = self._rows[self._slots(indices)]
        return rows

    def boundaries(self) -> Array:
        """What comes after each transition, from the oldest on, float32 [size]; a copy."""
        boundaries: Array = self._rows[self._slots(np.arange(self.size)), -1]
        return boundaries

    def sample(self, indices: npt.NDArray[np.int64], discount: float, n_step: int = 1) -> Batch:
        """The transitions numbered `indices` from the oldest, each the start of a window of up to `n_step` steps.

        A window ends at a boundary and at the newest transition; γ^k is for the k steps it has.
        """
        rows = self._rows[self._slots(indices)]
        n, m = self.n_observations, self.n_actions
        returns, boundary = rows[:, -2].copy(), rows[:, -1]
        discounts = np.full(len(rows), discount, np.float32)
        next_observations = rows[:, n + m : 2 * n + m]
        for step in range(1, n_step):
            continues = (boundary == Boundary.CONTINUES) & (indices + step < self.size)
            if not continues.any():
                break
            later = self._rows[self._slots(np.minimum(indices + step, self.size - 1))]
            returns += np.where(continues, discounts * later[:, -2], np.float32(0))
            boundary = np.where(continues, later[:, -1], np.where(boundary == 0, Boundary.GAP, boundary))
            discounts = np.where(continues, discounts * np.float32(discount), discounts)
            next_observations = np.where(continues[:, None], later[:, n + m : 2 * n + m], next_observations)
        discounts = np.where(boundary == Boundary.TERMINATED, np.float32(0), discounts)
        return Batch(rows[:, :n], rows[:, n : n + m], returns, next_observations, discounts)

    def structure(self, mean: Array | None = None, scale: Array | None = None) -> ReplayStructure:
        """The memory as the engine reads it; `mean` and `scale`, float32 [n], normalise observations.

        Valid until the memory is closed, and as long as the arrays live; `count` is that of this moment.
        """
        return ReplayStructure(
            rows=self._rows_address,
            room=self.capacity + self.slack,
            capacity=self.size,
            count=self.count,
            mean=None if mean is None else mean.ctypes.data,
            scale=None if scale is None else scale.ctypes.data,
        )

    def sync(self) -> None:
        """Return once every row appended so far is on the disk."""
        self._map.flush()

    def close(self) -> None:
        """Unmap the memory and close its file."""
        del self._rows
        self._rows_address = 0  # which the engine refuses
        with contextlib.suppress(BufferError):  # a row is in use, as when Ctrl-C came while one was written
            self._map.close()
        if hasattr(self, "_file"):
            self._file.close()

    def _slots(self, indices: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
        return (self.count - self.size + indices) % self._room

    def _map_file(self, path: Path, size: int) -> mmap.mmap:
        exists = path.exists()
        if self.count and not exists:
            raise FileFormatError(f"{path} is not there; the checkpoint counts on {self.count} transitions in it")
        try:
            self._file = path.open("r+b" if exists else "w+b")
        except OSError as error:
            raise OutputError(f"cannot open {path}: {error.strerror}") from error
        try:
            try:
                fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError as error:
                raise OutputError(f"{path} is in use by another process; stop that one first") from error
            self._create_or_check(path, size)
            return mmap.mmap(self._file.fileno(), size)
        except BaseException:
            self._file.close()
            raise

    def _create_or_check(self, path: Path, size: int) -> None:
        described = dict(zip(_SIZES, (self.n_observations, self.n_actions, self.capacity, self.slack), strict=True))
        header = (MAGIC + json.dumps(described).encode()).ljust(HEADER_BYTES, b"\0")
        found = os.fstat(self._file.fileno()).st_size
        begins_with = self._file.read(HEADER_BYTES)
        if (
            self.count == 0 and found <= size and header.startswith(begins_with)
        ):  # new, or its process was killed while making it
            self._file.seek(0)
            self._file.write(header)
            self._file.flush()
            os.posix_fallocate(self._file.fileno(), 0, size)  # a disk that is full now says so, not SIGBUS later
            os.fsync(self._file.fileno())
        elif found != size or begins_with != header:
            raise FileFormatError(f"{path} is not this run's replay memory, or is truncated ({found} bytes of {size})")
