"""From a run to a learner: the bundle with which a device goes on learning where training stopped."""

from __future__ import annotations

from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from edgerl import __version__, run_folder
from edgerl.algorithms.native import NativeAgent
from edgerl.algorithms.normalizer import SMALLEST_DEVIATION, Normalizer
from edgerl.edge.continual import bundle
from edgerl.edge.continual.bundle import Constants, ReplayPlan
from edgerl.edge.continual.champion import Champion
from edgerl.edge.continual.memory import DEFAULT_MEMORY, MemoryPlan, check_memory, plan_memory
from edgerl.edge.continual.replay import Boundary, Replay
from edgerl.edge.continual.transitions import KEEP_POLICIES, PRECISIONS, KeepPolicy, Precision, RecordFormat
from edgerl.edge.engine.library import library
from edgerl.errors import ConfigError, FileFormatError
from edgerl.files.atomic import refuse_existing
from edgerl.files.tensors import write_tensors
from edgerl.policy.loss import ActionDifference, action_difference, action_span
from edgerl.training import checkpoint as checkpoint_file
from edgerl.training.checkpoint import Checkpoint
from edgerl.training.compaction import RECORDED_OBSERVATIONS, recorded_observations

Array = npt.NDArray[Any]

DEFAULT_SEED = 10_000
"""Transitions of the run that a device begins with."""

STANDARDISING = 100_000
"""Recorded transitions, at most, from which the mean and deviation of fp16 storage come."""

CHUNK = 10_000
"""Recorded transitions that are looked at together."""

NO_END = (1 << 64) - 1
"""A `last_update` that never comes."""


@dataclass(frozen=True)
class HandoverReport:
    """A bundle that was written."""

    path: Path
    n_bytes: int
    updates: int
    connections: dict[str, int]  # by network
    seed: int  # transitions
    precision: Precision
    keep: KeepPolicy
    memory: MemoryPlan  # on this machine
    action_difference: ActionDifference  # of the policy's actions, by how observations are kept


def hand_over(
    run: str | Path,
    path: str | Path,
    *,
    seed: int | None = None,
    precision: Precision = "fp32",
    keep: KeepPolicy = "ring",
    memory: int = DEFAULT_MEMORY,
    evolve: bool = True,
    force: bool = False,
) -> HandoverReport:
    """Write the learner of a run folder's checkpoint to `path`.

    seed: transitions of the run to begin with, whole episodes spread from its first to its last (default 10 000, or
    what there is, or what fits). precision: how the device keeps transitions. keep: the newest ones (ring), or a sample
    of all (reservoir). memory: bytes that networks and replay may take together on the device. evolve: whether the
    topology goes on changing, where it did.

    Raises ConfigError, FileFormatError, OutputError, MissingExtraError.
    """
    folder, goal = Path(run), Path(path)
    _check_choice("replay dtype", precision, PRECISIONS)
    _check_choice("replay policy", keep, KEEP_POLICIES)
    if seed is not None and seed < 0:
        raise ConfigError(f"the seed is {seed}; expected 0 or more transitions")
    check_memory(memory)
    refuse_existing(goal, force=force)
    checkpoint = checkpoint_file.read(folder / run_folder.CHECKPOINT)
    if keep == "reservoir" and checkpoint.config.td3.n_step > 1:
        raise ConfigError(
            f"the run has returns of {checkpoint.config.td3.n_step} rewards; a reservoir needs 1 (take a ring, or "
            "train with `n_step` 1)"
        )
    agent, normalizer = _restore(checkpoint, folder)
    _let_learning_go_on(agent, evolve)
    with closing(Replay.open_recorded(folder / run_folder.REPLAY, checkpoint.counters.replay_count)) as replay:
        if (replay.n_observations, replay.n_actions) != _sizes(checkpoint):
            raise FileFormatError(f"{folder} holds a replay of another task than its policy's; they are not of one run")
        constants = _constants(checkpoint, normalizer, replay, precision)
        champion = Champion(
            library(),
            agent.arena,
            (constants.action_low, constants.action_high),
            (constants.observation_mean, constants.observation_scale),
        )
        shape = constants.record_format(replay.n_observations, precision)
        plan = ReplayPlan(precision, keep, memory)
        arena = agent.arena
        planned = plan_memory(arena.config, int(arena.bytes.total), champion.n_bytes, shape.record.itemsize, plan)
        wanted = min(DEFAULT_SEED if seed is None else seed, planned.capacity, replay.size)
        chosen = _spread_episodes(replay, wanted)
        rows = _stored_rows(_with_gaps(replay.rows(chosen), chosen), shape)
        largest_reward = _largest_reward(replay)
    loss = _loss(checkpoint, shape, recorded_observations(folder, checkpoint, RECORDED_OBSERVATIONS))
    metadata = {
        "about": {**checkpoint.policy.metadata, "edgerl": __version__},
        "exploration_noise": checkpoint.config.td3.exploration_noise,
        "replay": plan.as_json(),
        "largest_reward": largest_reward,
    }
    tensors = {"state": agent.arena.state, "seed": rows, **constants.tensors()}
    write_tensors(
        goal,
        bundle.KIND,
        bundle.version_of(tensors),
        metadata,
        tensors,
        force=force,
    )
    return HandoverReport(
        path=goal,
        n_bytes=goal.stat().st_size,
        updates=agent.updates,
        connections={name: sum(network.connections()) for name, network in agent.networks},
        seed=len(rows),
        precision=precision,
        keep=keep,
        memory=planned,
        action_difference=loss,
    )


def _loss(checkpoint: Checkpoint, shape: RecordFormat, observations: Array) -> ActionDifference:
    """What rounding recorded observations does to the policy's actions."""
    policy = checkpoint.policy.without_offset
    before, after = policy(observations), policy(shape.remembered(observations))
    return action_difference(before, after, action_span(policy))


def _check_choice(what: str, value: str, known: tuple[str, ...]) -> None:
    if value not in known:
        raise ConfigError(f"the {what} is {value[:40]!r}; expected {' or '.join(known)}")


def _sizes(checkpoint: Checkpoint) -> tuple[int, int]:
    return checkpoint.policy.n_observations, checkpoint.policy.n_actions


def _restore(checkpoint: Checkpoint, folder: Path) -> tuple[NativeAgent, Normalizer | None]:
    """The run's agent on the native engine, whichever trained it, and its normaliser."""
    config = replace(checkpoint.config, engine="native", device="cpu")
    agent = NativeAgent(config, *_sizes(checkpoint))
    own = {name: a for name, a in checkpoint.tensors.items() if not name.startswith("normalizer.")}
    if (sums := own.get("agent.loss_sums")) is not None and sums.dtype == np.float32:  # as PyTorch has them
        own["agent.loss_sums"] = sums.astype(np.float64)
    rest = {name.removeprefix("normalizer."): a for name, a in checkpoint.tensors.items() if name not in own}
    normalizer = Normalizer(checkpoint.policy.n_observations) if config.normalize else None
    try:
        agent.load_state(own)
        if normalizer is not None:
            normalizer.load_state(rest)
    except ValueError as error:
        raise FileFormatError(f"{folder / run_folder.CHECKPOINT} is not valid: {error}; train again") from error
    return agent, normalizer


def _let_learning_go_on(agent: NativeAgent, evolve: bool) -> None:
    """On a device there is no last update, towards which a run's drop fraction could fall."""
    agent.arena.config.last_update = NO_END
    agent.arena.config.drop_schedule = 0
    agent.arena.config.evolution_interval *= evolve
    agent.arena.reconfigure()


def _constants(
    checkpoint: Checkpoint, normalizer: Normalizer | None, replay: Replay, precision: Precision
) -> Constants:
    mean = scale = None
    if precision == "fp16":
        recorded = replay.observations(
            np.linspace(0, replay.size - 1, min(STANDARDISING, replay.size)).astype(np.int64)
        )
        mean = recorded.mean(axis=0, dtype=np.float64).astype(np.float32)
        deviation = np.maximum(recorded.std(axis=0, dtype=np.float64), SMALLEST_DEVIATION)
        scale = (1 / deviation).astype(np.float32)
    return Constants(
        action_low=checkpoint.policy.action_low,
        action_high=checkpoint.policy.action_high,
        observation_mean=None if normalizer is None else normalizer.mean,
        observation_scale=None if normalizer is None else normalizer.scale,
        storage_mean=mean,
        storage_scale=scale,
        observation_offset=checkpoint.policy.observation_offset,
    )


def _largest_reward(replay: Replay) -> float:
    """In magnitude, of all that the run remembers."""
    chunks = (np.arange(first, min(first + CHUNK, replay.size)) for first in range(0, replay.size, CHUNK))
    return max((float(np.abs(replay.rows(chunk)[:, -2]).max()) for chunk in chunks), default=0.0)


def _spread_episodes(replay: Replay, count: int) -> Array:
    """The indices of `count` transitions: whole episodes, spread from the oldest to the newest, the last one cut."""
    if count < 1:
        return np.zeros(0, np.int64)
    ends = np.flatnonzero(replay.boundaries() != Boundary.CONTINUES)
    starts = np.concatenate([[0], ends + 1])
    starts = starts[starts < replay.size]
    lengths = np.diff(np.append(starts, replay.size))
    wanted = max(1, round(len(starts) * count / replay.size))
    order = np.unique(np.linspace(len(starts) - 1, 0, wanted).round().astype(np.int64))[::-1]  # the newest first
    rest = np.setdiff1d(np.arange(len(starts)), order)[::-1]
    chosen: list[Array] = []
    missing = count
    for episode in (*order, *rest):
        taken = min(int(lengths[episode]), missing)
        chosen.append(np.arange(starts[episode], starts[episode] + taken))
        missing -= taken
        if not missing:
            break
    return np.sort(np.concatenate(chosen))


def _with_gaps(rows: Array, indices: Array) -> Array:
    """Rows that go on, but not into the next one, end in a gap."""
    goes_on = np.append(np.diff(indices) == 1, False)
    rows[~goes_on & (rows[:, -1] == Boundary.CONTINUES), -1] = Boundary.GAP
    return rows


def _stored_rows(rows: Array, shape: RecordFormat) -> Array:
    """Rows of a run's replay as a device stores them, uint8 [count, row_bytes]."""
    if not np.isfinite(rows).all():
        raise FileFormatError("the run's replay holds a number that is not finite; it was altered")
    n, m = shape.n_observations, shape.n_actions
    records = np.zeros(len(rows), shape.record)
    shape.store(records, rows[:, :n], rows[:, n : n + m], rows[:, n + m : 2 * n + m])
    records["reward"], records["boundary"] = rows[:, -2], rows[:, -1]
    stored: Array = records.view(np.uint8).reshape(len(rows), shape.record.itemsize)[:, shape.row_offset :]
    return np.ascontiguousarray(stored)
