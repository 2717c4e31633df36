"""What is read back from a run's replay memory: observations, statistics, and the transitions a device starts with."""

from __future__ import annotations

from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from edgerl import run_folder
from edgerl.algorithms.normalizer import SMALLEST_DEVIATION
from edgerl.edge.continual.replay import Boundary, Replay
from edgerl.edge.continual.transitions import RecordFormat
from edgerl.errors import FileFormatError
from edgerl.training.checkpoint import Checkpoint

Array = npt.NDArray[Any]

RECORDED_OBSERVATIONS = 1000
"""How many show what a lossy step does to a policy's actions."""

STANDARDISING = 100_000
"""The most observations from which a mean and a deviation are taken."""

CHUNK = 10_000
"""Transitions that are read at a time."""


def recorded_observations(folder: Path, checkpoint: Checkpoint, count: int) -> Array:
    """Up to `count` observations [≤ count, n] of the run's replay memory, evenly spread from oldest to newest; less the
    offset, where the policy has one. Raises FileFormatError."""
    counters = checkpoint.counters
    with closing(
        Replay.open_recorded(folder / run_folder.REPLAY, counters.replay_count, counters.replay_dropped)
    ) as replay:
        if replay.n_observations != checkpoint.policy.n_observations:
            raise FileFormatError(
                f"{folder} holds a replay of {replay.n_observations} observations and a policy of "
                f"{checkpoint.policy.n_observations}; they are not from the same run"
            )
        recorded = _spread_observations(replay, count)
    if not np.isfinite(recorded).all():
        raise FileFormatError(f"{folder / run_folder.REPLAY} holds an observation that is not finite; it was altered")
    return recorded


def evenly(size: int, count: int) -> Array:
    """The numbers of up to `count` of `size` rows, from the first to the last."""
    return np.linspace(0, size - 1, min(count, size)).astype(np.int64)


def _spread_observations(replay: Replay, count: int) -> Array:
    return replay.observations(evenly(replay.size, count))


def standardisation(replay: Replay) -> tuple[Array, Array]:
    """(mean, 1 / standard deviation), float32 [n] each, of the run's observations."""
    recorded = _spread_observations(replay, STANDARDISING)
    deviation = np.maximum(recorded.std(axis=0, dtype=np.float64), SMALLEST_DEVIATION)
    return recorded.mean(axis=0, dtype=np.float64).astype(np.float32), (1 / deviation).astype(np.float32)


def largest_reward(replay: Replay) -> float:
    """The largest |reward| in the whole memory; 0 where it is empty."""
    chunks = (np.arange(first, min(first + CHUNK, replay.size)) for first in range(0, replay.size, CHUNK))
    return max((float(np.abs(replay.rows(chunk)[:, -2]).max()) for chunk in chunks), default=0.0)


def first_transitions(replay: Replay, count: int, shape: RecordFormat) -> Array:
    """`count` of the run's transitions as a device stores them, uint8 [count, row_bytes]: whole episodes, spread from
    the oldest to the newest, the last one cut. Raises FileFormatError."""
    indices = _spread_episodes(replay, count)
    rows = replay.rows(indices)
    if not np.isfinite(rows).all():
        raise FileFormatError("the run's replay holds a number that is not finite; it was altered")
    is_followed = np.append(np.diff(indices) == 1, False)
    rows[~is_followed & (rows[:, -1] == Boundary.CONTINUES), -1] = Boundary.GAP
    n, m = shape.n_observations, shape.n_actions
    records = np.zeros(len(rows), shape.record)
    shape.store(records, rows[:, :n], rows[:, n : n + m], rows[:, n + m : 2 * n + m])
    records["reward"], records["boundary"] = rows[:, -2], rows[:, -1]
    stored: Array = records.view(np.uint8).reshape(len(rows), shape.record.itemsize)[:, shape.row_offset :]
    return np.ascontiguousarray(stored)


def _spread_episodes(replay: Replay, count: int) -> Array:
    """The indices of `count` transitions, in order: of episodes that are spread over the memory, then of others."""
    if count < 1:
        return np.zeros(0, np.int64)
    ends = np.flatnonzero(replay.boundaries() != Boundary.CONTINUES)
    starts = np.concatenate([[0], ends + 1])
    starts = starts[starts < replay.size]
    lengths = np.diff(np.append(starts, replay.size))
    n_spread = max(1, round(len(starts) * count / replay.size))
    spread = np.unique(np.linspace(len(starts) - 1, 0, n_spread).round().astype(np.int64))[::-1]  # the newest first
    others = np.setdiff1d(np.arange(len(starts)), spread)[::-1]
    chosen: list[Array] = []
    missing = count
    for episode in (*spread, *others):
        length = min(int(lengths[episode]), missing)
        chosen.append(np.arange(starts[episode], starts[episode] + length))
        missing -= length
        if not missing:
            break
    return np.sort(np.concatenate(chosen))
