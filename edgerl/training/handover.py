"""From a run, or a model of stable-baselines3, to a learner: the bundle with which a device goes on learning where
training stopped."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np

from edgerl import __version__, run_folder
from edgerl.algorithms.native import NativeAgent, learner_config
from edgerl.algorithms.normalizer import Normalizer
from edgerl.algorithms.state import Arrays
from edgerl.algorithms.topology import plan_networks
from edgerl.config import OPTIONS, Config
from edgerl.edge.continual import bundle
from edgerl.edge.continual.bundle import Constants, ReplayPlan
from edgerl.edge.continual.champion import Champion
from edgerl.edge.continual.memory import DEFAULT_MEMORY, MemoryPlan, check_memory, plan_memory
from edgerl.edge.continual.replay import Replay
from edgerl.edge.continual.transitions import KEEP_POLICIES, PRECISIONS, KeepPolicy, Precision, RecordFormat
from edgerl.edge.engine.library import BytesOf, library
from edgerl.errors import ConfigError, FileFormatError
from edgerl.files.atomic import read_bytes, refuse_existing
from edgerl.files.tensors import write_tensors
from edgerl.importers import stable_baselines3_learner
from edgerl.importers.options import Stated
from edgerl.importers.state_dict import MAXIMUM_BYTES
from edgerl.policy.compact import Array, CompactPolicy
from edgerl.policy.loss import ActionDifference, Observed, action_difference, action_span, sampled_observations
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


Statistics = tuple[Array | None, Array | None]
"""(mean, 1 / standard deviation) of observations, float32 [n] each; None where there are none."""


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
    notes: tuple[str, ...] = ()  # what a person should know


@dataclass(frozen=True)
class _Trained:
    """What a learner is made of, whoever trained it."""

    agent: NativeAgent
    policy: CompactPolicy  # bounds and offset, and what it says about itself
    normalisation: Statistics  # of what the networks are given
    standardisation: Statistics  # of what is kept in halves
    largest_reward: float  # in magnitude
    transitions: Callable[[int, RecordFormat], Array]  # at most so many to begin with, as a device stores them
    observations: Callable[[], Array]  # some that it may be given [count, n], less the offset
    observed: Observed


def hand_over(
    run: str | Path,
    path: str | Path,
    *,
    seed: int | None = None,
    precision: Precision = "fp32",
    keep: KeepPolicy = "ring",
    memory: int = DEFAULT_MEMORY,
    evolve: bool = True,
    learning_rate: float | None = None,
    force: bool = False,
) -> HandoverReport:
    """Write the learner of a run folder's checkpoint to `path`.

    seed: transitions of the run to start with, whole episodes spread from its first to its last (default 10 000, or as
    many as there are, or as many as fit). precision: how the device keeps transitions. keep: the newest ones (ring), or
    a sample of all (reservoir). memory: bytes that networks and replay may use together on the device. evolve: whether
    the topology goes on changing, where it did. learning_rate: of all networks (default: the run's).

    Raises ConfigError, FileFormatError, OutputError, MissingExtraError.
    """
    folder, goal = Path(run), Path(path)
    _check_options(seed, precision, keep, memory)
    refuse_existing(goal, force=force)
    checkpoint = checkpoint_file.read(folder / run_folder.CHECKPOINT)
    policy, counters = checkpoint.policy, checkpoint.counters
    config = _with_learning_rate(checkpoint.config, learning_rate)
    _check_run(config, folder)
    _check_keep(keep, config, "the run")
    try:
        agent = _agent(config, policy, checkpoint.agent_state, evolve)
        normalisation = _normalisation(checkpoint)
    except ValueError as error:
        raise FileFormatError(f"{folder / run_folder.CHECKPOINT} is not valid: {error}; train again") from error
    path_of_replay = folder / run_folder.REPLAY
    with closing(Replay.open_recorded(path_of_replay, counters.replay_count, counters.replay_dropped)) as replay:
        if (replay.n_observations, replay.n_actions) != (policy.n_observations, policy.n_actions):
            raise FileFormatError(
                f"{folder} holds a replay of another task than its policy's; they are not from the same run"
            )
        trained = _Trained(
            agent=agent,
            policy=policy,
            normalisation=normalisation,
            standardisation=standardisation(replay) if precision == "fp16" else (None, None),
            largest_reward=largest_reward(replay),
            transitions=lambda most, shape: first_transitions(replay, min(most, replay.size), shape),
            observations=partial(recorded_observations, folder, checkpoint, RECORDED_OBSERVATIONS),
            observed="recorded",
        )
        most = DEFAULT_SEED if seed is None else seed
        return _write(trained, goal, ReplayPlan(precision, keep, memory), most, force=force)


def hand_over_model(
    model: str | Path,
    path: str | Path,
    *,
    normalizer: str | Path | None = None,
    seed: int | None = None,
    precision: Precision = "fp32",
    keep: KeepPolicy = "ring",
    memory: int = DEFAULT_MEMORY,
    learning_rate: float | None = None,
    force: bool = False,
) -> HandoverReport:
    """Write the learner of a SAC or TD3 that stable-baselines3 saved, which has no transitions, to `path`.

    normalizer: the file with the statistics of its observations, as `edgerl.import_policy` takes it. learning_rate: of
    all networks (default: the model's). The others are those of `hand_over`.

    Raises ConfigError, FileFormatError, UnsupportedModelError, OutputError, MissingExtraError.
    """
    source, goal = Path(model), Path(path)
    _check_options(seed, precision, keep, memory)
    refuse_existing(goal, force=force)
    if seed:
        raise ConfigError(f"`replay` is {seed}, and {source} has no transitions to begin with; leave it out")
    data = read_bytes(source, MAXIMUM_BYTES)
    found = stable_baselines3_learner.read(data, source, Stated(normalizer=normalizer), learning_rate)
    config, policy = found.config, found.policy
    normalisation = policy.observation_mean, policy.observation_scale
    _check_keep(keep, config, str(source))
    if precision == "fp16" and policy.observation_mean is None:
        raise ConfigError(
            f"`replay_dtype` is fp16, in which observations are kept standardised, and nothing is known of those of "
            f"{source}; name their statistics, `normalizer` vecnormalize.pkl, or keep them in fp32"
        )
    _check_room(config, policy, memory, source)
    try:
        agent = _agent(config, policy, dict(found.state), evolve=False)
    except ValueError as error:
        raise FileFormatError(f"{source} is not valid: {error}; save it again") from error
    trained = _Trained(
        agent=agent,
        policy=policy,
        normalisation=normalisation,
        standardisation=normalisation if precision == "fp16" else (None, None),
        largest_reward=found.expected_reward,
        transitions=lambda _, shape: np.zeros((0, shape.row_bytes), np.uint8),
        observations=partial(sampled_observations, policy),
        observed="sampled",
    )
    report = _write(trained, goal, ReplayPlan(precision, keep, memory), 0, force=force)
    return replace(report, notes=found.notes)


def _write(trained: _Trained, goal: Path, plan: ReplayPlan, most: int, *, force: bool) -> HandoverReport:
    """most: transitions to begin with, where there is room for them."""
    agent, policy = trained.agent, trained.policy
    constants = Constants(
        policy.action_low,
        policy.action_high,
        *trained.normalisation,
        *trained.standardisation,
        observation_offset=policy.observation_offset,
    )
    shape = constants.record_format(policy.n_observations, plan.precision)
    planned = _plan_memory(agent, constants, shape, plan)
    rows = trained.transitions(min(most, planned.capacity), shape)
    metadata = {
        "about": {**policy.metadata, "edgerl": __version__},
        "exploration_noise": agent.config.learning.exploration_noise,
        "replay": plan.as_json(),
        "largest_reward": trained.largest_reward,
    }
    loss = _loss(trained, shape)
    tensors = {"state": agent.arena.state, "seed": rows, **constants.tensors()}
    write_tensors(goal, bundle.KIND, bundle.version_of(tensors), metadata, tensors, force=force)
    return HandoverReport(
        path=goal,
        n_bytes=goal.stat().st_size,
        updates=agent.updates,
        connections={name: sum(network.connections()) for name, network in agent.networks},
        seed=len(rows),
        precision=plan.precision,
        keep=plan.keep,
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


def _check_run(config: Config, folder: Path) -> None:
    if config.evolution.drop == "global-threshold":
        raise ConfigError(
            f"{folder} was trained with `drop` global-threshold, and the layers of a learner on a device have a fixed "
            "number of connections: export its policy, or train with another `drop`"
        )


def _check_keep(keep: KeepPolicy, config: Config, source: str) -> None:
    if keep == "reservoir" and config.learning.n_step > 1:
        raise ConfigError(
            f"{source} has returns of {config.learning.n_step} rewards; a reservoir needs 1 (use a ring, or train with "
            "`n_step` 1)"
        )


def _check_room(config: Config, policy: CompactPolicy, memory: int, source: Path) -> None:
    """Raise ConfigError, before anything is allocated, where a model's networks and batches need more."""
    loaded, needed = library(), BytesOf()
    n, m, isa = policy.n_observations, policy.n_actions, loaded.isa()
    planned = learner_config(config, plan_networks(config, n, m), m, isa, loaded.lanes(isa))
    loaded.call(f"the learner of {source}", "edgerl_learner_bytes", planned, needed)
    if needed.total > memory:
        raise ConfigError(
            f"the memory is {memory} bytes; expected more than the {needed.total} that the networks of {source} need "
            f"for batches of {config.learning.batch_size}"
        )


def _with_learning_rate(config: Config, rate: float | None) -> Config:
    if rate is None:
        return config
    OPTIONS["learning_rate"].check(rate)
    learning = replace(config.learning, learning_rate=rate, actor_learning_rate=None, critic_learning_rate=None)
    return replace(config, learning=learning)


def _agent(config: Config, policy: CompactPolicy, state: Arrays, evolve: bool) -> NativeAgent:
    """The agent on the native engine, whichever trained it. Raises ValueError where the state is not its own.

    On a device there is no last update, towards which a run's drop fraction could fall.
    """
    agent = NativeAgent(replace(config, engine="native", device="cpu"), policy.n_observations, policy.n_actions)
    if (sums := state.get("agent.loss_sums")) is not None and sums.dtype == np.float32:  # PyTorch's
        state["agent.loss_sums"] = sums.astype(np.float64)
    agent.load_state(state)
    agent.arena.config.last_update = NO_END
    agent.arena.config.drop_schedule = 0
    agent.arena.config.evolution_interval *= evolve
    agent.arena.reconfigure()
    return agent


def _normalisation(checkpoint: Checkpoint) -> Statistics:
    """Of a run. Raises ValueError."""
    if not checkpoint.config.normalize:
        return None, None
    normalizer = Normalizer(checkpoint.policy.n_observations)
    normalizer.load_state(checkpoint.normalizer_state)
    return normalizer.mean, normalizer.scale


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


def _loss(trained: _Trained, shape: RecordFormat) -> ActionDifference:
    """What rounding observations does to the policy's actions."""
    policy, observations = trained.policy.without_offset, trained.observations()
    with np.errstate(over="ignore"):  # of sums beyond float32, which tanh bounds
        before, after = policy(observations), policy(shape.remembered(observations))
    return action_difference(before, after, action_span(policy), trained.observed)
