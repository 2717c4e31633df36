"""Learner: a policy that acts at a fixed rate and goes on learning, in memory and time that never grow.

    learner = Learner.load("learner.safetensors", state="state")
    action = learner.act(observation)                      # the champion's, or the learning policy's on trial
    learner.observe(observation, action, reward, next_observation, terminated, truncated)
    learner.update(budget_us=2000)                         # in the idle time of a period, or from another thread
    learner.sync(), learner.snapshot()                     # now and then, from any thread

What is promised (docs/continual.md has the reasons and the figures):

- All memory is taken at the start: `learner.memory` says how much, to the byte.
- `act` never waits, and answers with finite numbers inside the action's bounds whatever it is given.
- A number that is not finite enters neither the replay nor the networks.
- With a state folder: a transition that `observe` returned from survives SIGKILL, one that `sync` returned after
  survives a power cut; the networks are those of the last `snapshot` that returned, or of a later one.
- The same state folder and the same calls, with work given as `update(work=…)` and not as time, give the same bits.

Threads: one acts and observes; another may update; sync and snapshot may come from any.
"""

from __future__ import annotations

import contextlib
import copy
import math
import os
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from edgerl.edge.continual import bundle as bundle_file
from edgerl.edge.continual.bundle import (
    MAXIMUM_MEMORY,
    Constants,
    ReplayPlan,
    actor_policy,
    read_constants,
    read_replay_plan,
)
from edgerl.edge.continual.champion import Champion
from edgerl.edge.continual.replay import Boundary
from edgerl.edge.continual.store import LOG, Snapshots, Store
from edgerl.edge.continual.transitions import (
    KEEP_POLICIES,
    MAXIMUM_CAPACITY,
    STORAGES,
    ForeignLogError,
    KeepPolicy,
    RecordFormat,
    Storage,
    Transitions,
    row_is_sound,
)
from edgerl.edge.continual.trials import LARGEST_REWARD, TrialRule, Trials, Verdict
from edgerl.edge.engine.arena import NETWORKS, WHOLE_UPDATE, LearnerArena
from edgerl.edge.engine.library import BytesOf, LearnerConfig, library
from edgerl.edge.engine.random import Draws, Purpose
from edgerl.errors import ConfigError, EdgerlError, FileFormatError, OutputError, UnsupportedModelError, quoted
from edgerl.files.disk import DISK, Disk
from edgerl.files.tensors import TensorReader
from edgerl.policy.compact import Array, CompactPolicy, action_scaling, observation_dtype, shifted

DEFAULT_MEMORY = 32 << 20
"""Bytes of a learner: arena, champion and replay."""

SLICE_US = 50
"""About how long one slice of an update takes, or more on slow machines: after each, the time is looked at."""

OVERHEAD = 5
"""A slice takes so many times as long as the shortest one, which is hardly more than the call itself: 2 µs on a
desktop, a hundred on the smallest boards."""

LEAST_SLICE_WORK, LARGEST_SLICE_WORK = 256.0, 1e12
"""Multiply-adds."""

STRIKES = 50
"""Updates beyond the bounds, more than those within, after which learning has diverged."""

LONGEST_HORIZON = 1e4
"""Steps: 1 / (1 − discount) at most, for the bound on values."""

SEED_CHUNK = 64
"""Seed transitions that are read together."""


@dataclass(frozen=True)
class MemoryPlan:
    """Bytes of a learner, all taken at its start."""

    arena: int  # networks, targets, moments, topologies, activations of an update
    champion: int  # two copies of the actor
    replay: int  # capacity × record
    capacity: int  # transitions
    record: int  # bytes of one

    @property
    def total(self) -> int:
        """Of all."""
        return self.arena + self.champion + self.replay


def plan_memory(arena: LearnerArena, champion_bytes: int, record_bytes: int, plan: ReplayPlan) -> MemoryPlan:
    """Where the bytes go: the capacity that `plan` has, or that its memory leaves. Raises ConfigError where too little
    is left."""
    return plan_bytes(arena.config, int(arena.bytes.total), champion_bytes, record_bytes, plan)


def plan_bytes(
    config: LearnerConfig, arena_bytes: int, champion_bytes: int, record_bytes: int, plan: ReplayPlan
) -> MemoryPlan:
    """The same for a learner that need not exist here."""
    taken = arena_bytes + champion_bytes
    memory = _memory_of(plan)
    least = max(config.batch, config.n_step + 1)
    capacity = plan.capacity or min(max(memory - taken, 0) // record_bytes, MAXIMUM_CAPACITY)
    if capacity < least:
        raise ConfigError(
            f"the memory is {memory} bytes, of which the networks take {taken}; expected at least "
            f"{taken + least * record_bytes}, for {least} transitions of {record_bytes} bytes"
        )
    if capacity * record_bytes > memory:
        raise ConfigError(f"the memory is {memory} bytes, too few for {capacity} transitions of {record_bytes} bytes")
    return MemoryPlan(arena_bytes, champion_bytes, capacity * record_bytes, capacity, record_bytes)


def _memory_of(plan: ReplayPlan) -> int:
    """Bytes that a learner may take: what the plan says; where it has a capacity instead, all that this machine has."""
    if plan.memory_bytes is not None:
        return plan.memory_bytes
    return DEFAULT_MEMORY if plan.capacity is None else os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


@dataclass
class Counters:
    """What happened since the learner began, sessions before this one included, up to the last snapshot of each."""

    steps: int = 0  # transitions that were observed, refused ones too; those since the last snapshot are in the log
    refused_transitions: int = 0  # with a number that is not finite
    refused_observations: int = 0  # that `act` was given, likewise
    saturations: int = 0  # numbers that did not fit into fp16
    episodes: int = 0
    snapshots: int = 0
    seconds: float = 0.0  # of operation; for whoever runs a learner
    largest_reward: float = 0.0  # in magnitude


def read_counters(metadata: object) -> Counters:
    """The counters in a snapshot's metadata, which is not trusted. Raises ValueError."""
    known = Counters()
    if not isinstance(metadata, dict) or set(metadata) != set(vars(known)):
        raise ValueError("its counters are not those of this version of edgerl")
    for name, value in metadata.items():
        kinds = (int, float) if isinstance(getattr(known, name), float) else (int,)
        if type(value) not in kinds or not 0 <= value <= 2**128:
            raise ValueError(f"its {name} is {quoted(value)}, expected a count")
    return Counters(**metadata)


def _read_number(value: object) -> int:
    if type(value) is not int or not 0 <= value < 1 << 53:
        raise ValueError(f"its number of transitions is {quoted(value)}, expected a count")
    return value


def _read_largest_reward(metadata: Mapping[str, Any], source: Path) -> float:
    value: Any = metadata.get("largest_reward")
    if type(value) not in (int, float) or not 0 <= value <= LARGEST_REWARD:
        raise FileFormatError(f"{source} is not valid: its largest_reward is {quoted(value)}; export it again")
    return float(value)


@dataclass(frozen=True)
class Origin:
    """What a file says about a learner, checked."""

    arena: LearnerArena
    constants: Constants
    replay: ReplayPlan
    about: dict[str, Any]
    exploration_noise: float
    metadata: Mapping[str, Any]


def refuse_for_c(path: Path, origin: Origin) -> None:
    """Raise UnsupportedModelError or ConfigError where a learner can be none in C, that of the file `path`."""
    if origin.constants.observation_offset is not None:
        raise UnsupportedModelError(
            f"{path} has an observation offset, which a learner in C does not support; export its policy with --format "
            "c, which does, or make the observation relative to a fixed point and train anew"
        )
    if origin.replay.keep != "ring":
        raise ConfigError(f"the replay of {path} is a {origin.replay.keep}; in C it is a ring: export the learner so")


class _TooLittleMemoryError(ConfigError):
    """Which is not the file's fault."""


def _adapt_to_this_machine(memory: int) -> Callable[[LearnerConfig], None]:
    """Changes a configuration; raises where its networks alone take more than `memory`, before they have it."""

    def adapt(config: LearnerConfig) -> None:
        loaded, needed = library(), BytesOf()
        config.isa = loaded.isa()
        config.lanes = loaded.lanes(config.isa)
        loaded.call("the learner's state", "edgerl_learner_bytes", config, needed)
        if needed.total > memory:
            raise _TooLittleMemoryError(
                f"the memory is {memory} bytes, and the networks alone take {needed.total}; give more"
            )

    return adapt


def _state_of(reader: TensorReader) -> tuple[int, Callable[[Array, int], None]]:
    """(bytes, reader) of the engine's state in a file."""
    dtype, shape = reader.shapes.get("state", (None, ()))
    if dtype != np.uint8 or len(shape) != 1:
        raise ValueError("its state is no list of bytes")
    return shape[0], lambda memory, offset: reader.read_into("state", memory, offset)


def read_origin(reader: TensorReader, source: Path, memory: int | None = None) -> Origin:
    """The learner in a bundle or a snapshot, of which nothing is trusted; memory: instead of what it says. Raises
    FileFormatError, and ConfigError where the memory is too small."""
    metadata = reader.metadata
    try:
        about: Any = metadata.get("about")
        noise: Any = metadata.get("exploration_noise")
        if not isinstance(about, dict):
            raise ValueError("its metadata 'about' is no JSON object")
        if type(noise) not in (int, float) or not 0 <= noise <= 10:
            raise ValueError(f"its exploration_noise is {quoted(noise)}, expected 0 to 10")
        replay = read_replay_plan(metadata.get("replay"))
        adapt = _adapt_to_this_machine(_memory_of(replay) if memory is None else memory)
        arena = LearnerArena.from_state(library(), *_state_of(reader), adapt)
        constants = read_constants(reader, arena.config.n_observations, arena.config.n_actions)
        if replay.precision == "fp16" and constants.storage_mean is None:
            raise ValueError("its replay is fp16, and the constants of its storage are missing")
        return Origin(arena, constants, replay, about, float(noise), metadata)
    except _TooLittleMemoryError:
        raise
    except (ValueError, ConfigError) as error:
        raise FileFormatError(f"{source} is not valid: {error}; export it again") from error


class Learner:
    """Acts, remembers, learns, and keeps what it learnt; the module says what is promised.

    Attributes: `n_observations`, `n_actions`; `action_low`, `action_high`, float32 [m]; `memory`, a MemoryPlan;
    `about`, what the bundle says about itself; `counters`; `rejected`, lines about files that start-up refused;
    `is_new`, whether it began from the bundle; `observation_dtype`, what observations must be given in: float32, or
    float64 where the learner has an offset.
    """

    _disk: Disk
    _store: Store | None
    _storage: Storage
    _bundle: Path | None
    _updates_per_step: float

    @classmethod
    def load(
        cls,
        path: str | Path,
        *,
        state: str | Path | None = None,
        memory: int | None = None,
        keep: KeepPolicy | None = None,
        storage: Storage = "ram",
        rule: TrialRule | None = None,
        updates_per_step: float = 1.0,
        disk: Disk = DISK,
    ) -> Learner:
        """The learner in a bundle, or in a state folder where one has begun.

        path: a bundle, or the state folder itself. state: the folder in which what is learnt survives; without one
        nothing does. memory: bytes of the whole learner, from which the replay's capacity follows (default: what the
        bundle says). keep: ring or reservoir (default: likewise). storage: the replay in RAM, or in a mapped file.
        rule: how the learning policy is tried (default: one window in five). updates_per_step: updates that one
        transition allows.

        Raises FileFormatError, ConfigError, OutputError, MissingExtraError; where nothing had begun in the folder, it
        is then as it was.
        """
        path = Path(path)
        folder = path if path.is_dir() else None if state is None else Path(state)
        if not 0 < updates_per_step <= 1000:
            raise ConfigError(f"updates_per_step is {updates_per_step:g}; expected above 0, at most 1000")
        _check_choices(memory, keep, storage)
        with contextlib.ExitStack() as files:
            store = None
            if folder is not None:
                store = Store(folder, disk)
                files.callback(store.withdraw)
            learner = cls.__new__(cls)
            learner._disk, learner._store, learner._storage = disk, store, storage
            learner._bundle = None if path.is_dir() else path
            learner._updates_per_step = updates_per_step
            files.callback(learner._close_transitions)
            learner._begin(rule or TrialRule(), memory, keep)
            files.pop_all()
        return learner

    # ------------------------------------------------------------------------------------------------ beginning

    def _begin(self, rule: TrialRule, memory: int | None, keep: KeepPolicy | None) -> None:
        self.rejected: list[str] = []
        found = self._newest_snapshot()
        self.is_new = found is None
        if found is not None:
            number, reader = found
            with reader:
                origin = read_origin(reader, self._snapshot_path(number))
                _refuse_change(origin.replay, memory, keep)
                self._take(origin)
                self._champion_number = self._read_champion(number, reader)
            self._open_transitions()
            self._resume(rule, origin.metadata)
            if self._store is not None:
                self._store.mend(number)
            return
        bundle, reader = self._open_bundle()
        with reader:
            origin = read_origin(reader, bundle, memory)
            self._take(_with_choices(origin, memory, keep))
            self._champion_number = 0
            self._new_champion()
            self._open_new_transitions(reader)
            self._resume(rule, {})
            self._expect_rewards(_read_largest_reward(origin.metadata, bundle))
            if not self._transitions.size:
                self._plant_seed(reader, bundle)
        if self._store is not None:
            self.snapshot()

    def _newest_snapshot(self) -> tuple[int, TensorReader] | None:
        """The snapshot to go on from. One whose champion is lost gets the bundle's policy as its champion."""
        if self._store is None:
            return None
        found = self._store.newest()
        self.rejected += self._store.rejected
        if found is not None:
            return found
        if self._store.is_out_of_reach:
            reasons = "; ".join(self.rejected)
            raise OutputError(f"{self._store.folder} cannot be read: {reasons}; it was left as it is")
        if orphan := self._store.newest_orphan():
            number, reader = orphan
            with reader:
                self._replace_champion(reader, self._snapshot_path(number))
            self.rejected[-1] += f"; the policy in {self._bundle} is its champion again"
            found = self._store.newest()
        return found

    def _replace_champion(self, orphan: TensorReader, source: Path) -> None:
        """Write the bundle's learner in place of the champion that the snapshot `source` names."""
        assert self._store is not None
        bundle, reader = self._open_bundle()
        with reader:
            origin = read_origin(orphan, source)
            try:
                own = read_constants(reader, origin.arena.config.n_observations, origin.arena.config.n_actions)
                if not own.equals(origin.constants):
                    raise ValueError("its constants are others")
                origin.arena.load_state(_state_of(reader)[1])
            except (ConfigError, ValueError) as error:
                raise FileFormatError(f"{bundle} is not the bundle of {source} ({error}); name that one") from error
        tensors = {"state": origin.arena.state, **origin.constants.tensors()}
        self._store.replace_champion(origin.metadata, tensors, bundle_file.version_of(tensors))

    def _open_bundle(self) -> tuple[Path, TensorReader]:
        """The bundle. Raises FileFormatError where there is none, with what start-up has refused."""
        refused = ""
        if self._store is not None and self.rejected:
            refused = f"{self._store.folder} holds no snapshot that is whole: {'; '.join(self.rejected)}; "
        if self._bundle is None:
            assert self._store is not None
            problem = refused or f"{self._store.folder} holds no snapshot that is whole; "
            raise FileFormatError(f"{problem}name the bundle")
        try:
            return self._bundle, TensorReader(self._bundle, bundle_file.KIND, bundle_file.VERSIONS, disk=self._disk)
        except FileFormatError as error:
            raise FileFormatError(f"{refused}{error}") from error

    def _take(self, origin: Origin) -> None:
        self._arena, self._constants, self.about = origin.arena, origin.constants, origin.about
        config = origin.arena.config
        self.n_observations, self.n_actions = int(config.n_observations), int(config.n_actions)
        self.action_low, self.action_high = origin.constants.action_low, origin.constants.action_high
        self.observation_dtype = observation_dtype(origin.constants.observation_offset)
        self._centre, self._half_range = action_scaling(self.action_low, self.action_high)
        self._fallback = np.clip(np.float32(0), self.action_low, self.action_high)
        self._noise = origin.exploration_noise
        self._replay = origin.replay
        if origin.replay.keep == "reservoir" and config.n_step > 1:
            raise ConfigError(
                f"the replay is a reservoir, and returns have {config.n_step} rewards; expected 1, since a reservoir "
                "does not keep transitions that follow each other (take a ring, or train with --n-step 1)"
            )
        self._draws = Draws(int(config.seed))
        self._lock = threading.RLock()  # who holds it updates the networks
        self._watch = threading.Lock()  # who holds it changes trials and counters
        self._acting = threading.Lock()  # held while the learning policy acts, or to change the line below; never long
        self._is_whole = True  # the arena holds a learner that may act; until it does again, the champion drives

    def _new_champion(self) -> None:
        normalisation = self._constants.observation_mean, self._constants.observation_scale
        self._champion = Champion(library(), self._arena, (self.action_low, self.action_high), normalisation)

    def _read_champion(self, number: int, reader: TensorReader) -> int:
        """Make the champion of snapshot `number`, whose state is in the arena; its own number."""
        champion = int(reader.metadata["champion"])
        if champion == number or self._store is None:
            self._new_champion()
            return champion
        try:
            with self._store.open(champion) as other:
                self._arena.load_state(_state_of(other)[1])
            self._new_champion()
            self._arena.load_state(_state_of(reader)[1])
        except (ConfigError, ValueError) as error:
            raise FileFormatError(f"{self._snapshot_path(champion)} is not valid: {error}; name the bundle") from error
        return champion

    def _open_new_transitions(self, bundle: TensorReader) -> None:
        """Those of a log that no snapshot knows, if it has more than the bundle brings; else it is begun anew: somebody
        was killed while planting the seed."""
        self._open_transitions()
        n_seed = math.prod(bundle.shapes["seed"][1][:1]) if "seed" in bundle.shapes else 0
        if self._store is None or not self._transitions.size or self._transitions.number > n_seed:
            return
        self._transitions.close()
        try:
            self._disk.remove(log := self._store.folder / LOG)
        except OSError as error:
            raise OutputError(f"cannot remove {log}: {error.strerror}") from error
        self._open_transitions()

    def _open_transitions(self) -> None:
        shape = self._constants.record_format(self.n_observations, self._replay.precision)
        self.memory = plan_memory(self._arena, self._champion.n_bytes, shape.record.itemsize, self._replay)
        try:
            self._transitions = self._make_transitions(shape)
        except ForeignLogError as error:
            if self._store is None or not (error.is_log or self._store.next_number > 1):
                raise
            self._store.set_aside(self._store.folder / LOG)
            self.rejected.append(f"{self._store.folder / LOG} is {error.found}; another one is begun")
            self._transitions = self._make_transitions(shape)
        self._decoding = shape.decoding(self._constants.observation_mean, self._constants.observation_scale)
        if not all(part is None or np.isfinite(part).all() for part in self._decoding):
            raise FileFormatError("the learner's constants are too far apart for float32 numbers; export it again")

    def _make_transitions(self, shape: RecordFormat) -> Transitions:
        return Transitions(
            shape,
            self.memory.capacity,
            int(self._arena.config.seed),
            keep=self._replay.keep,
            storage=self._storage,
            path=None if self._store is None else self._store.folder / LOG,
            disk=self._disk,
        )

    def _resume(self, rule: TrialRule, metadata: Mapping[str, Any]) -> None:
        seed = int(self._arena.config.seed)
        try:
            self.counters = read_counters(metadata["counters"]) if metadata else Counters()
            self.trials = _resumed_trials(rule, seed, metadata["trials"]) if metadata else Trials(rule, seed)
            number = _read_number(metadata["number"]) if metadata else 0
        except (ValueError, KeyError, TypeError) as error:
            raise FileFormatError(f"a snapshot is not valid: {error}; name the bundle") from error
        if number > self.counters.refused_transitions and not self._transitions.size and self._store is not None:
            self.rejected.append(f"{self._store.folder / LOG} has none of the {number} transitions that there were")
        self.counters.steps += max(self._transitions.number - number, 0) if metadata else 0
        self._transitions.number = max(self._transitions.number, number)
        self._saturations_before = self.counters.saturations
        self._observed = self._started = 0  # transitions, and updates begun, since this process began
        self._is_updating = self._takeover_due = self.has_keeper = False
        self._slice_work, self._longest_slice_us, self._least_slice_us = LEAST_SLICE_WORK, 0.0, math.inf
        self._strikes = 0
        self._sums = self._arena.progress
        self._critic_loss = self._value = 0.0
        self.disk_errors, self.last_error, self._snapshot_bytes = 0, "", 0
        self.is_learning = True
        self._expect_rewards(self._transitions.largest_reward())

    def _expect_rewards(self, magnitude: float) -> None:
        self.counters.largest_reward = max(self.counters.largest_reward, magnitude)

    def _plant_seed(self, reader: TensorReader, bundle: Path) -> None:
        """Transitions that came with the bundle."""
        shape = self._transitions.shape
        row_bytes, offset = shape.row_bytes, shape.row_offset
        dtype, sizes = reader.shapes.get("seed", (np.dtype(np.uint8), (0, row_bytes)))
        if dtype != np.uint8 or len(sizes) != 2 or sizes[1] != row_bytes:
            raise FileFormatError(f"{bundle} is not valid: its seed is no list of rows; export it again")
        for first in range(0, sizes[0], SEED_CHUNK):
            records = np.zeros(min(SEED_CHUNK, sizes[0] - first), shape.record)
            rows = np.empty((len(records), row_bytes), np.uint8)
            reader.read_into("seed", rows.reshape(-1), first * row_bytes)
            records.view(np.uint8).reshape(len(records), -1)[:, offset:] = rows
            if not row_is_sound(records).all():
                raise FileFormatError(f"{bundle} is not valid: a seed transition is not finite; export it again")
            self._expect_rewards(float(np.abs(records["reward"]).max()))
            for row in rows:
                self._transitions.append_row(row)
        self._transitions.break_off()

    def _snapshot_path(self, number: int) -> Path:
        assert self._store is not None
        return self._store.folder / f"snapshot-{number:08d}.safetensors"

    # ---------------------------------------------------------------------------------------------------- acting

    def act(self, observation: npt.ArrayLike, *, explore: bool = True) -> Array:
        """The action, float32 [m], for an observation [n]; explore: with the noise that training had.

        An observation that is not finite gets the fallback action: zero, or the bound next to it. Raises ValueError for
        another length, or where an offset's digits are lost.
        """
        with np.errstate(over="ignore"):  # what is too large becomes infinite, and is refused
            x = self._seen(observation)
            if x.shape != (self.n_observations,):
                raise ValueError(f"the observation has shape {x.shape}; expected {(self.n_observations,)}")
            action: Array = self._drive(x) if np.isfinite(x).all() else x
            if not np.isfinite(action).all():  # a finite observation can be too large for the networks
                self.counters.refused_observations += 1
                return np.array(self._fallback)
            if explore:
                noise = self._draws.normals(Purpose.EXPLORATION, self._transitions.number, self.n_actions)
                action = action + self._half_range * (self._noise * noise).astype(np.float32)
            return np.clip(action, self.action_low, self.action_high)

    def _seen(self, observation: npt.ArrayLike) -> Array:
        """What replay and networks know of an observation: float32, less the offset."""
        return np.asarray(shifted(observation, self._constants.observation_offset), np.float32)

    def _drive(self, observation: Array) -> Array:
        return self._challenge(observation) if self.trials.challenger_drives else self._champion(observation)

    def _challenge(self, observation: Array) -> Array:
        mean, scale = self._constants.observation_mean, self._constants.observation_scale
        seen = observation
        if mean is not None and scale is not None:
            seen = (observation - mean) * scale
        with self._acting:
            if self._is_whole:
                action: Array = self._centre + self._half_range * self._arena.act(seen)
                if np.isfinite(action).all():
                    return action
        champions = self._champion(observation)
        if np.isfinite(champions).all():  # or else it is the observation that nobody can answer
            self._is_whole = False
        return champions

    # ------------------------------------------------------------------------------------------------- observing

    def observe(
        self,
        observation: npt.ArrayLike,
        action: npt.ArrayLike,
        reward: float,
        next_observation: npt.ArrayLike,
        terminated: bool = False,
        truncated: bool = False,
    ) -> bool:
        """Remember what an action led to; whether the transition was taken. One that holds a number that is not finite
        is not: it is counted, and the next one does not follow the last.

        observation, next_observation: [n]; action: [m], in the robot's own units. Raises ValueError for other lengths.
        """
        with np.errstate(over="ignore"):  # what is too large becomes infinite, and is refused
            x, y = self._seen(observation), self._seen(next_observation)
            done, paid = np.asarray(action, np.float32), np.float32(reward)
        over = bool(terminated or truncated)
        if x.shape != (self.n_observations,) or y.shape != x.shape or done.shape != (self.n_actions,):
            raise ValueError(
                f"the transition has shapes {x.shape}, {done.shape}, {y.shape}; expected {(self.n_observations,)}, "
                f"{(self.n_actions,)}, {(self.n_observations,)}"
            )
        taken = bool(np.isfinite(x).all() and np.isfinite(y).all() and np.isfinite(done).all() and np.isfinite(paid))
        with self._watch:
            self.counters.steps += 1
            self.counters.episodes += over
            has_failed = self.trials.challenger_drives and not self._is_whole
            if taken:
                self._expect_rewards(abs(float(paid)))
                self._takeover_due |= self.trials.step(float(paid), over) is Verdict.TAKE_OVER and self._is_whole
            else:
                self.counters.refused_transitions += 1
                self.trials.abandon()
            if has_failed:
                self.trials.forget_challenger()
        try:
            if taken:
                boundary = (
                    Boundary.TERMINATED if terminated else Boundary.TRUNCATED if truncated else Boundary.CONTINUES
                )
                with np.errstate(over="ignore"):
                    unit = np.clip((done - self._centre) / self._half_range, -1, 1)
                self._observed += 1
                self._transitions.append(x, unit, float(paid), y, boundary)
            else:
                self._transitions.skip()
        except OutputError as error:  # it is in RAM; the next sync tries again
            self._note(error)
        return taken

    def _note(self, error: EdgerlError) -> None:
        self.disk_errors += isinstance(error, OutputError)
        self.last_error = str(error)

    # -------------------------------------------------------------------------------------------------- updating

    def update(self, budget_us: float | None = None, *, work: int | None = None) -> int:
        """Learn; how many updates were completed.

        budget_us: as many slices as fit into so many microseconds; what is not complete is continued by the next call.
        work: one slice of about so many multiply-adds, the same bits on every run. Neither: one whole update.

        Nothing happens before there is a batch of transitions, beyond `updates_per_step`, and while another thread
        updates or takes a snapshot. Raises ConfigError for both, or for less than nothing.
        """
        if budget_us is not None and work is not None:
            raise ConfigError("a budget and a work were both given; expected one of them")
        for what, given in (("budget", budget_us), ("work", work)):
            if given is not None and not 0 <= given < math.inf:
                raise ConfigError(f"the {what} is {given}; expected 0 or more")
        if not self._lock.acquire(blocking=False):
            return 0
        try:
            if budget_us is None:
                return int(self._slice(WHOLE_UPDATE if work is None else min(work, WHOLE_UPDATE)))
            return self._update_for(budget_us)
        finally:
            self._lock.release()

    def _update_for(self, budget_us: float) -> int:
        """Slices until the next one might take too long, as the longest of late did, but no less than half of the
        budget."""
        end = time.perf_counter_ns() + int(budget_us * 1000)
        completed = 0
        while self._may_learn:
            begin = time.perf_counter_ns()
            if end - begin < 1000 * min(max(self._longest_slice_us, SLICE_US), budget_us / 2):
                break
            completed += self._slice(int(self._slice_work))
            taken_us = (time.perf_counter_ns() - begin) / 1000
            self._longest_slice_us = max(taken_us, self._longest_slice_us * 0.9999)
            self._least_slice_us = min(taken_us, self._least_slice_us)
            aim = max(SLICE_US, OVERHEAD * self._least_slice_us)  # where a call alone takes long, slices are longer
            if taken_us < aim / 2:
                self._slice_work = min(self._slice_work * 1.5, LARGEST_SLICE_WORK)
            elif taken_us > aim:
                self._slice_work = max(self._slice_work / 1.5, LEAST_SLICE_WORK)
        return completed

    @property
    def _may_learn(self) -> bool:
        if not self.is_learning or self._is_updating:
            return self.is_learning
        has_credit = self._started + 1 <= self._observed * self._updates_per_step
        return has_credit and self._transitions.size >= self._arena.config.batch

    def _slice(self, work: int) -> bool:
        """One slice; whether it completed an update."""
        if not self._may_learn:
            return False
        if not self._is_updating:
            with self._transitions.lock:  # the batch is drawn and copied in this slice, and it alone needs the replay
                self._arena.step(self._transitions.structure(*self._decoding), 1)
            self._started += 1
            self._is_updating = True
        if not self._arena.step(None, work):
            return False
        self._is_updating = False
        self._after_update()
        return True

    def _after_update(self) -> None:
        self._watch_for_divergence()
        if not self._takeover_due or self.has_keeper:
            return
        if self._store is None:
            self._restart_unless_finite()
            if self._takeover_due:
                self._take_over()
            return
        with contextlib.suppress(OutputError):  # noted; it stays due
            self.snapshot()

    @property
    def value_bound(self) -> float:
        """What no value can exceed in magnitude, twice over: the largest reward in every step to come."""
        horizon = 1 / max(1 - float(self._arena.config.discount), 1 / LONGEST_HORIZON)
        return 2 * max(self.counters.largest_reward, 0.5 / horizon) * horizon

    def _watch_for_divergence(self) -> None:
        """Strikes for updates that were abandoned, whose mean value is impossible, or whose error is as large."""
        now, before = self._arena.progress, self._sums
        bound = self.value_bound
        is_bad = now.abandoned > before.abandoned
        if now.critic_losses > before.critic_losses:
            self._critic_loss = now.critic_loss_sum - before.critic_loss_sum  # of both critics
            is_bad |= not self._critic_loss <= 2 * bound**2
        if now.actor_losses > before.actor_losses:
            self._value = before.actor_loss_sum - now.actor_loss_sum
            is_bad |= not abs(self._value) <= bound
        self._sums = now
        if now.critic_losses >= 1 << 20:  # sums stay small enough to be exact in their last digits
            now.critic_loss_sum = now.actor_loss_sum = 0.0
            now.critic_losses = now.actor_losses = 0
            self._arena.progress = self._sums = now
        self._strikes = max(self._strikes + (1 if is_bad else -1), 0)
        if self._strikes >= STRIKES or not self._is_whole:
            self._restart_from_champion()

    def _restart_from_champion(self) -> None:
        """Learning has diverged: go back to where the champion was made."""
        with self._acting:
            self._is_whole = False  # until then the champion drives
        with self._watch:
            self.trials.restart_challenger()
            self._takeover_due = False
        try:
            with self._champion_reader() as reader:
                self._arena.load_state(_state_of(reader)[1])
        except (EdgerlError, ValueError) as error:
            self.is_learning = False  # the champion drives on
            self.last_error = f"learning has stopped: {error}"
            return
        self._strikes, self._sums = 0, self._arena.progress
        self._is_whole = True

    def _champion_reader(self) -> TensorReader:
        if self._store is not None and self._champion_number:
            return self._store.open(self._champion_number)
        assert self._bundle is not None
        return TensorReader(self._bundle, bundle_file.KIND, bundle_file.VERSIONS, disk=self._disk)

    # --------------------------------------------------------------------------------------------------- keeping

    def sync(self) -> None:
        """Return once every transition is on the disk. Raises OutputError, and the next call tries again; ConfigError
        without a state folder."""
        self._need_store()
        try:
            self._transitions.sync()
        except OutputError as error:
            self._note(error)
            raise

    def snapshot(self) -> int:
        """Complete the update that is under way, and put everything on the disk; the snapshot's number. A takeover that
        is due happens here. Updates wait meanwhile, acting does not.

        Raises OutputError, with the snapshots of before untouched, also where learning has stopped; ConfigError without
        a state folder.
        """
        store = self._need_store()
        with self._lock:
            self._complete_update()
            takes_over = self._takeover_due  # what is due from here on is for the next snapshot
            number = self._write_snapshot(store, takes_over)
            if takes_over:
                self._take_over()
            return number

    def _complete_update(self) -> None:
        """The one that is under way. Raises OutputError where there is no learning policy any more."""
        if self._is_updating:
            self._arena.step(None, WHOLE_UPDATE)
            self._is_updating = False
            self._watch_for_divergence()
        self._restart_unless_finite()
        if not self._is_whole:
            raise OutputError(f"there is nothing to keep: {self.last_error}")

    def _restart_unless_finite(self) -> None:
        """Before anything is kept: the engine sees to it, but for numbers that no training leads to."""
        layers = (layer for network in self._arena.layers for layer in network)
        arrays = (array for layer in layers for array in vars(layer).values() if isinstance(array, np.ndarray))
        numbers = (array for array in arrays if array.dtype == np.float32 and array.size)
        extremes = (extreme for array in numbers for extreme in (array.min(), array.max()))  # no copy is made for them
        if self.is_learning and not (self._is_whole and all(np.isfinite(extreme) for extreme in extremes)):
            self._restart_from_champion()

    def _take_over(self) -> None:
        self._champion.take()
        with self._watch:
            self.trials.took_over()
            self._takeover_due = False

    def _write_snapshot(self, store: Store, takes_over: bool) -> int:
        try:
            self._transitions.sync()
            number = store.next_number
            champion = number if takes_over or not self._champion_number else self._champion_number
            metadata = self._metadata(champion, takes_over)
            tensors = {"state": self._arena.state, **self._constants.tensors()}
            store.write(metadata, tensors, bundle_file.version_of(tensors))
        except OutputError as error:
            self._note(error)
            raise
        self._champion_number = champion
        self.counters.snapshots += 1
        self._snapshot_bytes += len(self._arena.state) * (2 if champion == number else 1)  # a champion is there twice
        return number

    def _metadata(self, champion: int, takes_over: bool) -> dict[str, Any]:
        with self._watch:
            trials = copy.copy(self.trials)
            if takes_over:  # who starts up from here finds the new champion, of which nothing is known
                trials.took_over()
            self.counters.saturations = self._saturations_before + self._transitions.saturations
            return {
                "champion": champion,
                "about": self.about,
                "exploration_noise": self._noise,
                "replay": replace(self._replay, capacity=self.memory.capacity).as_json(),
                "number": self._transitions.number,
                "counters": vars(replace(self.counters, snapshots=self.counters.snapshots + 1)),
                "trials": trials.state(),
            }

    @property
    def folder(self) -> Path | None:
        """The state folder, where there is one."""
        return None if self._store is None else self._store.folder

    def _need_store(self) -> Store:
        if self._store is None:
            raise ConfigError("this learner has no state folder; load it with one, as in Learner.load(path, state=…)")
        return self._store

    @property
    def takeover_is_due(self) -> bool:
        """Whether the next snapshot makes the learning policy the champion."""
        return self._takeover_due

    def policy(self) -> CompactPolicy:
        """The learning policy as it is now, for export; no unit removed. Completes the update under way.

        Raises OutputError where learning has stopped.
        """
        with self._lock:
            self._complete_update()
            return actor_policy(self._arena.layers[0], self._constants, self.about)

    def close(self) -> None:
        """Let go of the state folder, without a snapshot. Nothing but `act` works any more."""
        with self._lock, contextlib.ExitStack() as files:
            if self._store is not None:
                files.callback(self._store.close)
            self._close_transitions()

    def withdraw(self) -> None:
        """Close, and where this process began in the state folder, leave it as it was found."""
        with self._lock, contextlib.ExitStack() as files:
            if self._store is not None:
                files.callback(self._store.withdraw)
            self._close_transitions()

    def _close_transitions(self) -> None:
        if hasattr(self, "_transitions"):
            self._transitions.close()

    # ---------------------------------------------------------------------------------------------------- status

    def connections(self) -> dict[str, int]:
        """Weights of each network that exist; their number never changes."""
        config = self._arena.config
        plans = (config.actor, config.critic, config.critic)
        return {
            name: sum(
                plan.full_blocks * plan.block + plan.narrow_blocks * (plan.n_outputs % plan.block)
                for plan in plans[index][: config.n_layers]
            )
            for index, name in enumerate(NETWORKS)
        }

    def status(self) -> dict[str, Any]:
        """Everything that can be said about the learner at this moment, as JSON."""
        progress, transitions = self._sums, self._transitions
        with self._watch:
            trials = self.trials.status()
            counters = dict(vars(self.counters))
        counters["saturations"] = self._saturations_before + transitions.saturations
        return {
            "updates": progress.updates,
            "abandoned_updates": progress.abandoned,
            "replaced_blocks": progress.replaced,
            "critic_loss": self._critic_loss,
            "value": self._value,
            "value_bound": self.value_bound,
            "is_learning": self.is_learning,
            "memory": {**vars(self.memory), "total": self.memory.total},
            "replay": {
                "keep": self._replay.keep,
                "precision": self._replay.precision,
                "storage": self._storage,
                "capacity": transitions.capacity,
                "size": transitions.size,
                "seen": transitions.number,
                "damaged": transitions.damaged,
            },
            **counters,
            "trials": trials,
            "champion": self._champion_number,
            "disk": {
                "bytes_written": self._transitions.bytes_written + self._snapshot_bytes,
                "errors": self.disk_errors,
                "rejected": list(self.rejected),
            },
            "last_error": self.last_error,
        }


def _resumed_trials(rule: TrialRule, seed: int, state: object) -> Trials:
    """The trials in a snapshot; under another rule they begin anew."""
    if isinstance(state, dict) and state.get("rule") != vars(rule):
        return Trials(rule, seed)
    return Trials.from_state(rule, seed, state)


def _with_choices(origin: Origin, memory: int | None, keep: KeepPolicy | None) -> Origin:
    plan = replace(origin.replay, keep=keep or origin.replay.keep)
    if memory is not None:
        plan = replace(plan, memory_bytes=memory, capacity=None)  # which follows
    elif plan.capacity is None:
        plan = replace(plan, memory_bytes=_memory_of(plan))
    return replace(origin, replay=plan)


def check_memory(memory: object) -> None:
    """Raise ConfigError unless a learner can be told to take so many bytes."""
    if type(memory) is not int or not 1 <= memory <= MAXIMUM_MEMORY:
        raise ConfigError(f"the memory is {quoted(memory)}; expected bytes, an integer from 1 to {MAXIMUM_MEMORY}")


def _check_choices(memory: object, keep: object, storage: object) -> None:
    if memory is not None:
        check_memory(memory)
    for what, value, known in (("replay policy", keep, (None, *KEEP_POLICIES)), ("storage", storage, STORAGES)):
        if value not in known:
            raise ConfigError(f"the {what} is {quoted(value)}; expected {' or '.join(filter(None, known))}")


def _refuse_change(plan: ReplayPlan, memory: int | None, keep: KeepPolicy | None) -> None:
    """What a learner began with stays."""
    for name, own, asked in (("memory", plan.memory_bytes, memory), ("replay policy", plan.keep, keep)):
        if asked is not None and asked != own:
            raise ConfigError(
                f"the state folder's {name} is {own}, not {asked}; leave it out, or begin in another folder"
            )


def champion_policy(folder: str | Path) -> CompactPolicy:
    """The policy that drives, of the newest valid snapshot in a state folder, for export; no unit removed. Another
    process may go on learning there.

    Raises FileFormatError where there is none, OutputError where the folder cannot be read, MissingExtraError.
    """
    snapshots = Snapshots(Path(folder))
    try:
        return _newest_champion(snapshots)
    except FileFormatError:  # whoever has the folder may have replaced it in this very moment
        return _newest_champion(snapshots)


def _newest_champion(snapshots: Snapshots) -> CompactPolicy:
    found = snapshots.newest()
    if found is None:
        reasons = f": {'; '.join(snapshots.rejected)}" if snapshots.rejected else ""
        raise FileFormatError(f"{snapshots.folder} holds no snapshot that is whole{reasons}")
    number, newest = found
    with newest, snapshots.open(newest.metadata["champion"]) as reader:
        origin = read_origin(reader, snapshots.path(newest.metadata["champion"]))
    known = {name: value for name, value in origin.about.items() if name != "evaluation_return"}  # of another policy
    about = {**known, "snapshot": number, "updates": origin.arena.progress.updates}
    policy = actor_policy(origin.arena.layers[0], origin.constants, about)
    mean = policy.observation_mean
    seen = np.zeros(policy.n_observations, np.float32) if mean is None else mean
    return policy.with_example(policy.observation_of(seen))
