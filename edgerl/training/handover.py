"""From a run to a learner: the bundle with which a device goes on learning where training stopped."""

from __future__ import annotations

from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from edgerl import __version__, run_folder
from edgerl.algorithms.native import NativeAgent
from edgerl.algorithms.normalizer import Normalizer
from edgerl.edge.continual import bundle
from edgerl.edge.continual.bundle import Constants, ReplayPlan
from edgerl.edge.continual.champion import Champion
from edgerl.edge.continual.memory import DEFAULT_MEMORY, MemoryPlan, check_memory, plan_memory
from edgerl.edge.continual.replay import Replay
from edgerl.edge.continual.transitions import KEEP_POLICIES, PRECISIONS, KeepPolicy, Precision, RecordFormat
from edgerl.edge.engine.library import library
from edgerl.errors import ConfigError, FileFormatError
from edgerl.files.atomic import refuse_existing
from edgerl.files.tensors import write_tensors
from edgerl.policy.loss import ActionDifference, action_difference, action_span
from edgerl.training import checkpoint as checkpoint_file
from edgerl.training.checkpoint import Checkpoint
from edgerl.training.recorded import (
    RECORDED_OBSERVATIONS,
    first_transitions,
    largest_reward,
    recorded_observations,
    standardisation,
)

DEFAULT_SEED = 10_000
"""Transitions of the run that a device starts with."""

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

    seed: transitions of the run to start with, whole episodes spread from its first to its last (default 10 000, or as
    many as there are, or as many as fit). precision: how the device keeps transitions. keep: the newest ones (ring), or
    a sample of all (reservoir). memory: bytes that networks and replay may use together on the device. evolve: whether
    the topology goes on changing, where it did.

    Raises ConfigError, FileFormatError, OutputError, MissingExtraError.
    """
    folder, goal = Path(run), Path(path)
    _check_options(seed, precision, keep, memory)
    refuse_existing(goal, force=force)
    checkpoint = checkpoint_file.read(folder / run_folder.CHECKPOINT)
    if checkpoint.config.algorithm == "crossq":
        raise ConfigError(
            f"{folder} was trained with `algorithm` crossq; a learner on a device runs td3 or sac: export its policy, "
            "or train with one of these"
        )
    if checkpoint.config.evolution.drop == "global-threshold":
        raise ConfigError(
            f"{folder} was trained with `drop` global-threshold, and the layers of a learner on a device have a fixed "
            "number of connections: export its policy, or train with another `drop`"
        )
    if keep == "reservoir" and checkpoint.config.learning.n_step > 1:
        raise ConfigError(
            f"the run has returns of {checkpoint.config.learning.n_step} rewards; a reservoir needs 1 (use a ring, or "
            "train with `n_step` 1)"
        )
    agent, normalizer = _restore(checkpoint, folder, evolve)
    plan = ReplayPlan(precision, keep, memory)
    counters = checkpoint.counters
    path_of_replay = folder / run_folder.REPLAY
    with closing(Replay.open_recorded(path_of_replay, counters.replay_count, counters.replay_dropped)) as replay:
        if (replay.n_observations, replay.n_actions) != _sizes(checkpoint):
            raise FileFormatError(
                f"{folder} holds a replay of another task than its policy's; they are not from the same run"
            )
        constants = _constants(checkpoint, normalizer, replay, precision)
        shape = constants.record_format(replay.n_observations, precision)
        planned = _plan_memory(agent, constants, shape, plan)
        count = min(DEFAULT_SEED if seed is None else seed, planned.capacity, replay.size)
        rows = first_transitions(replay, count, shape)
        metadata = {
            "about": {**checkpoint.policy.metadata, "edgerl": __version__},
            "exploration_noise": checkpoint.config.learning.exploration_noise,
            "replay": plan.as_json(),
            "largest_reward": largest_reward(replay),
        }
    loss = _loss(checkpoint, shape, folder)
    tensors = {"state": agent.arena.state, "seed": rows, **constants.tensors()}
    write_tensors(goal, bundle.KIND, bundle.version_of(tensors), metadata, tensors, force=force)
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


def _check_options(seed: int | None, precision: str, keep: str, memory: int) -> None:
    for what, value, known in (("replay dtype", precision, PRECISIONS), ("replay policy", keep, KEEP_POLICIES)):
        if value not in known:
            raise ConfigError(f"the {what} is {value[:40]!r}; expected {' or '.join(known)}")
    if seed is not None and seed < 0:
        raise ConfigError(f"the seed is {seed}; expected 0 or more transitions")
    check_memory(memory)


def _sizes(checkpoint: Checkpoint) -> tuple[int, int]:
    return checkpoint.policy.n_observations, checkpoint.policy.n_actions


def _restore(checkpoint: Checkpoint, folder: Path, evolve: bool) -> tuple[NativeAgent, Normalizer | None]:
    """The run's agent on the native engine, whichever trained it, and its normaliser.

    On a device there is no last update, towards which a run's drop fraction could fall.
    """
    config = replace(checkpoint.config, engine="native", device="cpu")
    agent = NativeAgent(config, *_sizes(checkpoint))
    normalizer = Normalizer(checkpoint.policy.n_observations) if config.normalize else None
    state = checkpoint.agent_state
    if (sums := state.get("agent.loss_sums")) is not None and sums.dtype == np.float32:  # PyTorch's
        state["agent.loss_sums"] = sums.astype(np.float64)
    try:
        agent.load_state(state)
        if normalizer is not None:
            normalizer.load_state(checkpoint.normalizer_state)
    except ValueError as error:
        raise FileFormatError(f"{folder / run_folder.CHECKPOINT} is not valid: {error}; train again") from error
    agent.arena.config.last_update = NO_END
    agent.arena.config.drop_schedule = 0
    agent.arena.config.evolution_interval *= evolve
    agent.arena.reconfigure()
    return agent, normalizer


def _constants(
    checkpoint: Checkpoint, normalizer: Normalizer | None, replay: Replay, precision: Precision
) -> Constants:
    mean, scale = standardisation(replay) if precision == "fp16" else (None, None)
    return Constants(
        action_low=checkpoint.policy.action_low,
        action_high=checkpoint.policy.action_high,
        observation_mean=None if normalizer is None else normalizer.mean,
        observation_scale=None if normalizer is None else normalizer.scale,
        storage_mean=mean,
        storage_scale=scale,
        observation_offset=checkpoint.policy.observation_offset,
    )


def _plan_memory(agent: NativeAgent, constants: Constants, shape: RecordFormat, plan: ReplayPlan) -> MemoryPlan:
    """What the learner will need on this machine. Raises ConfigError where `plan` leaves too little."""
    arena = agent.arena
    champion = Champion(
        library(),
        arena,
        (constants.action_low, constants.action_high),
        (constants.observation_mean, constants.observation_scale),
    )
    return plan_memory(arena.config, int(arena.bytes.total), champion.n_bytes, shape.record.itemsize, plan)


def _loss(checkpoint: Checkpoint, shape: RecordFormat, folder: Path) -> ActionDifference:
    """What rounding recorded observations does to the policy's actions."""
    policy = checkpoint.policy.without_offset
    observations = recorded_observations(folder, checkpoint, RECORDED_OBSERVATIONS)
    before, after = policy(observations), policy(shape.remembered(observations))
    return action_difference(before, after, action_span(policy))
