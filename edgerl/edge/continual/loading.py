"""How a learner starts from its bundle, and resumes from the newest snapshot in its state folder."""

from __future__ import annotations

import contextlib
import math
from dataclasses import dataclass, replace

from edgerl.edge.continual.archive import Archive
from edgerl.edge.continual.bundle import ReplayPlan
from edgerl.edge.continual.champion import Champion
from edgerl.edge.continual.experience import Experience
from edgerl.edge.continual.history import Counters, History
from edgerl.edge.continual.memory import MemoryPlan, check_memory, memory_of, plan_memory
from edgerl.edge.continual.origin import Origin, read_largest_reward, read_origin, state_of
from edgerl.edge.continual.transitions import KEEP_POLICIES, STORAGES, ForeignLogError, KeepPolicy, Storage
from edgerl.edge.continual.trials import TrialRule, Trials
from edgerl.edge.engine.library import library
from edgerl.errors import ConfigError, FileFormatError, quoted
from edgerl.files.tensors import TensorReader


@dataclass(frozen=True)
class Choices:
    """What is chosen where a learner is loaded; raises ConfigError for a value out of range."""

    memory: int | None  # bytes of the whole learner; None here and below: what the bundle says
    keep: KeepPolicy | None
    storage: Storage
    rule: TrialRule
    updates_per_step: float

    def __post_init__(self) -> None:
        if not 0 < self.updates_per_step <= 1000:
            raise ConfigError(f"`updates_per_step` is {self.updates_per_step:g}; expected a number in (0, 1000]")
        if self.memory is not None:
            check_memory(self.memory)
        for what, value, known in (
            ("replay policy", self.keep, (None, *KEEP_POLICIES)),
            ("storage", self.storage, STORAGES),
        ):
            if value not in known:
                raise ConfigError(f"the {what} is {quoted(value)}; expected {' or '.join(filter(None, known))}")

    def for_new(self, plan: ReplayPlan) -> ReplayPlan:
        """The plan of a new learner, from the bundle's own."""
        plan = replace(plan, keep=self.keep or plan.keep)
        if self.memory is not None:
            return replace(plan, memory_bytes=self.memory, capacity=None)  # which follows
        return plan if plan.capacity is not None else replace(plan, memory_bytes=memory_of(plan))

    def refuse_change(self, plan: ReplayPlan) -> None:
        """A learner keeps what it started with. Raises ConfigError."""
        for name, own, chosen in (
            ("memory", plan.memory_bytes, self.memory),
            ("replay policy", plan.keep, self.keep),
        ):
            if chosen is not None and chosen != own:
                raise ConfigError(
                    f"the state folder's {name} is {own}, not {chosen}; leave it out, or start in another folder"
                )


@dataclass(frozen=True)
class Parts:
    """What a learner is made of."""

    choices: Choices
    origin: Origin
    champion: Champion
    memory: MemoryPlan
    experience: Experience
    history: History
    archive: Archive
    is_new: bool


def from_bundle(archive: Archive, choices: Choices, files: contextlib.ExitStack) -> Parts:
    """A new learner. `files` closes what was opened. Raises FileFormatError, ConfigError, OutputError."""
    bundle, reader = archive.open_bundle()
    with reader:
        origin = read_origin(reader, bundle, choices.memory)
        origin = replace(origin, replay=choices.for_new(origin.replay))
        _refuse_reservoir_of_windows(origin)
        champion = _champion_of(origin)
        memory = _plan(origin, champion)
        experience = _open_experience(origin, memory, archive, choices, files)
        n_seed = math.prod(reader.shapes["seed"][1][:1]) if "seed" in reader.shapes else 0
        if archive.log is not None and experience.transitions.size and experience.transitions.number <= n_seed:
            experience.transitions.close()  # no snapshot counts it: a process was killed while it added the seed
            archive.remove_log()
            experience = _open_experience(origin, memory, archive, choices, files)
        history = History(Counters(), Trials(choices.rule, int(origin.arena.config.seed)))
        history.expect_rewards(experience.transitions.largest_reward())
        history.expect_rewards(read_largest_reward(origin, bundle))
        if not experience.transitions.size:
            history.expect_rewards(experience.plant_seed(reader, bundle))
    return Parts(choices, origin, champion, memory, experience, history, archive, is_new=True)


def from_snapshot(
    archive: Archive, number: int, reader: TensorReader, choices: Choices, files: contextlib.ExitStack
) -> Parts:
    """The learner of snapshot `number`; its reader is closed."""
    store = archive.need_store()
    with reader:
        origin = read_origin(reader, store.path(number))
        choices.refuse_change(origin.replay)
        _refuse_reservoir_of_windows(origin)
        champion = _read_champion(archive, origin, number, reader)
    memory = _plan(origin, champion)
    experience = _open_experience(origin, memory, archive, choices, files)
    try:
        history = History.from_metadata(origin.metadata, choices.rule, int(origin.arena.config.seed))
        known = origin.metadata["number"]
        if type(known) is not int or not 0 <= known < 1 << 53:
            raise ValueError(f"its number of transitions is {quoted(known)}, expected a count")
    except (ValueError, KeyError, TypeError) as error:
        raise FileFormatError(f"a snapshot is not valid: {error}; name the bundle") from error
    counters = history.counters
    if known > counters.refused_transitions and not experience.transitions.size:
        archive.rejected.append(f"{archive.log} lost all of its {known} transitions")
    counters.steps += experience.resume_from(known, counters.saturations)
    history.expect_rewards(experience.transitions.largest_reward())
    store.mend(number)
    return Parts(choices, origin, champion, memory, experience, history, archive, is_new=False)


def _refuse_reservoir_of_windows(origin: Origin) -> None:
    n_step = origin.arena.config.n_step
    if origin.replay.keep == "reservoir" and n_step > 1:
        raise ConfigError(
            f"the replay is a reservoir, and returns have {n_step} rewards; expected 1, since a reservoir does not "
            "keep transitions that follow each other (use a ring, or train with `n_step` 1)"
        )


def _champion_of(origin: Origin) -> Champion:
    constants = origin.constants
    normalisation = constants.observation_mean, constants.observation_scale
    return Champion(library(), origin.arena, (constants.action_low, constants.action_high), normalisation)


def _read_champion(archive: Archive, origin: Origin, number: int, reader: TensorReader) -> Champion:
    """The champion of snapshot `number`; the arena holds that snapshot's state before and after."""
    archive.champion = int(reader.metadata["champion"])
    if archive.champion == number:
        return _champion_of(origin)
    store, arena = archive.need_store(), origin.arena
    try:
        with archive.open_champion() as other:
            arena.load_state(state_of(other)[1])
        champion = _champion_of(origin)
        arena.load_state(state_of(reader)[1])
    except (ConfigError, ValueError) as error:
        path = store.path(archive.champion)
        raise FileFormatError(f"{path} is not valid: {error}; name the bundle") from error
    return champion


def _plan(origin: Origin, champion: Champion) -> MemoryPlan:
    config, plan = origin.arena.config, origin.replay
    record = origin.constants.record_format(config.n_observations, plan.precision).record
    return plan_memory(config, int(origin.arena.bytes.total), champion.n_bytes, record.itemsize, plan)


def _open_experience(
    origin: Origin, memory: MemoryPlan, archive: Archive, choices: Choices, files: contextlib.ExitStack
) -> Experience:
    def opened() -> Experience:
        return Experience(
            origin.arena.config,
            origin.constants,
            origin.replay,
            memory.capacity,
            storage=choices.storage,
            log=archive.log,
            disk=archive.disk,
        )

    try:
        experience = opened()
    except ForeignLogError as error:
        archive.set_log_aside(error)
        experience = opened()
    files.callback(experience.transitions.close)
    return experience
