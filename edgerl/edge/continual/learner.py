"""Learner: a policy that acts at a fixed rate and keeps learning, in memory and time that never grow.

    learner = Learner.load("learner.safetensors", state="state")
    action = learner.act(observation)                      # the champion's, or the learning policy's on trial
    learner.observe(observation, action, reward, next_observation, terminated, truncated)
    learner.update(budget_us=2000)                         # in the idle time of a period, or from another thread
    learner.sync(), learner.snapshot()                     # now and then, from any thread

Guarantees (docs/continual.md has the reasons and the figures):

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
import math
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import numpy.typing as npt

from edgerl.edge.continual.archive import Archive
from edgerl.edge.continual.bundle import actor_policy
from edgerl.edge.continual.challenger import Challenger
from edgerl.edge.continual.history import Counters
from edgerl.edge.continual.loading import Choices, Parts, from_bundle, from_snapshot
from edgerl.edge.continual.origin import read_origin
from edgerl.edge.continual.replay import Boundary
from edgerl.edge.continual.status import LearnerStatus
from edgerl.edge.continual.store import Snapshots
from edgerl.edge.continual.transitions import KeepPolicy, Storage
from edgerl.edge.continual.trials import TrialRule, Trials
from edgerl.edge.continual.updates import Pace, Updates
from edgerl.edge.engine.arena import NETWORKS, WHOLE_UPDATE
from edgerl.edge.engine.random import Draws, Purpose
from edgerl.errors import ConfigError, FileFormatError, OutputError
from edgerl.files.disk import DISK, Disk
from edgerl.policy.compact import Array, CompactPolicy, observation_dtype


class Learner:
    """Acts, remembers, learns, and saves what it learnt; the module states the guarantees.

    Attributes: `n_observations`, `n_actions`; `action_low`, `action_high`, float32 [m]; `memory`, a MemoryPlan;
    `about`, what the bundle says about itself; `counters`; `trials`; `rejected`, lines about files that start-up
    refused; `is_new`, whether it started from the bundle; `observation_dtype`, what observations must be given in:
    float32, or float64 where the learner has an offset; `has_keeper`, whether another thread takes the snapshot
    where a takeover is due; otherwise `update` does.

    Its parts: `champion` and `challenger`, the two policies; `experience`, what it remembers; `updates` of the
    challenger; `history`; `archive`, its files.
    """

    def __init__(self, parts: Parts) -> None:
        """Use `load`."""
        self._origin = origin = parts.origin
        config, constants = origin.arena.config, origin.constants
        self.n_observations, self.n_actions = int(config.n_observations), int(config.n_actions)
        self.action_low, self.action_high = constants.action_low, constants.action_high
        self.observation_dtype = observation_dtype(constants.observation_offset)
        self.about, self.memory, self.is_new = origin.about, parts.memory, parts.is_new
        self.champion, self.experience = parts.champion, parts.experience
        self.history, self.archive = parts.history, parts.archive
        self.challenger = Challenger(origin.arena, constants, self.history, self.archive.open_champion)
        self.updates = Updates(origin.arena, self.experience, parts.choices.updates_per_step)
        self.has_keeper = False
        self._pace, self._draws, self._is_stochastic = Pace(), Draws(int(config.seed)), config.is_stochastic
        self._fallback = np.clip(np.float32(0), self.action_low, self.action_high)

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
        """The learner in a bundle, or in a state folder that holds one.

        path: a bundle, or the state folder itself. state: the folder that keeps what is learnt; without one nothing
        is kept. memory: bytes of the whole learner, from which the replay's capacity follows (default: what the
        bundle says). keep: ring or reservoir (default: the bundle's). storage: the replay in RAM, or in a mapped file.
        rule: how the learning policy is tried (default: one window in five). updates_per_step: updates that one
        transition allows.

        Raises FileFormatError, ConfigError, OutputError, MissingExtraError; a state folder that held no learner is then
        as it was.
        """
        path = Path(path)
        bundle, folder = (None, path) if path.is_dir() else (path, None if state is None else Path(state))
        choices = Choices(memory, keep, storage, rule or TrialRule(), updates_per_step)
        with contextlib.ExitStack() as files:
            archive = Archive(bundle, folder, disk)
            files.callback(archive.withdraw)
            found = archive.newest()
            learner = cls(
                from_bundle(archive, choices, files)
                if found is None
                else from_snapshot(archive, *found, choices, files)
            )
            if learner.is_new and folder is not None:
                learner.snapshot()
            files.pop_all()
        return learner

    @property
    def counters(self) -> Counters:
        """What happened since the learner started."""
        return self.history.counters

    @property
    def trials(self) -> Trials:
        """Who drives, and the scores of both."""
        return self.history.trials

    @property
    def rejected(self) -> list[str]:
        """Lines about files that start-up refused."""
        return self.archive.rejected

    @property
    def folder(self) -> Path | None:
        """The state folder, where there is one."""
        return None if self.archive.store is None else self.archive.store.folder

    @property
    def is_learning(self) -> bool:
        """Whether it does: not once the challenger diverged, and the champion to go back to could not be read."""
        return self.challenger.is_learning

    @property
    def takeover_is_due(self) -> bool:
        """Whether the next snapshot makes the learning policy the champion."""
        return self.history.takeover_is_due

    # ------------------------------------------------------------------------------------- acting and observing

    def act(self, observation: npt.ArrayLike, *, explore: bool = True) -> Array:
        """The action, float32 [m], for an observation [n]; explore: with the noise that training had, or with SAC drawn
        from the distribution of the policy that drives.

        An observation that is not finite gets the fallback action: zero, or the bound next to it. Raises ValueError for
        another length, or where an offset's digits are lost.
        """
        constants = self._origin.constants
        with np.errstate(over="ignore"):  # what is too large becomes infinite, and is refused
            x = constants.seen(observation)
            if x.shape != (self.n_observations,):
                raise ValueError(f"the observation has shape {x.shape}; expected {(self.n_observations,)}")
            noise = self._noise() if explore else None
            action: Array = self._drive(x, noise if self._is_stochastic else None) if np.isfinite(x).all() else x
            if not np.isfinite(action).all():  # a finite observation can be too large for the networks
                self.counters.refused_observations += 1
                return np.array(self._fallback)
            if noise is not None and not self._is_stochastic:
                action = action + constants.scaling[1] * (self._origin.exploration_noise * noise).astype(np.float32)
            return np.clip(action, self.action_low, self.action_high)

    def _noise(self) -> Array:
        """Standard normal numbers [m], of this step."""
        return self._draws.normals(Purpose.EXPLORATION, self.experience.transitions.number, self.n_actions)

    def _drive(self, observation: Array, noise: Array | None) -> Array:
        """The action of the policy that drives; the champion's where the challenger has none, until it restarts. noise:
        for one drawn from its distribution."""
        challenger_drives = self.trials.challenger_drives
        if challenger_drives and (answer := self.challenger.act(observation, noise)) is not None:
            return answer
        action = self.champion(observation, noise)
        if challenger_drives and np.isfinite(action).all():  # otherwise no policy could answer this observation
            self.challenger.is_sound = False
        return action

    def observe(
        self,
        observation: npt.ArrayLike,
        action: npt.ArrayLike,
        reward: float,
        next_observation: npt.ArrayLike,
        terminated: bool = False,
        truncated: bool = False,
    ) -> bool:
        """Remember what an action led to; whether the transition was taken. One with a number that is not finite is
        refused and counted, and the next one does not follow the last.

        observation, next_observation: [n]; action: [m], in the robot's own units. Raises ValueError for other lengths.
        """
        constants = self._origin.constants
        with np.errstate(over="ignore"):  # what is too large becomes infinite, and is refused
            x, y = constants.seen(observation), constants.seen(next_observation)
            done, paid = np.asarray(action, np.float32), np.float32(reward)
        if x.shape != (self.n_observations,) or y.shape != x.shape or done.shape != (self.n_actions,):
            raise ValueError(
                f"the transition has shapes {x.shape}, {done.shape}, {y.shape}; expected {(self.n_observations,)}, "
                f"{(self.n_actions,)}, {(self.n_observations,)}"
            )
        taken = bool(np.isfinite(x).all() and np.isfinite(y).all() and np.isfinite(done).all() and np.isfinite(paid))
        boundary = Boundary.TERMINATED if terminated else Boundary.TRUNCATED if truncated else Boundary.CONTINUES
        self.history.step(
            float(paid) if taken else None,
            boundary != Boundary.CONTINUES,
            challenger_is_sound=self.challenger.is_sound,
        )
        try:
            if taken:
                self.experience.add(x, done, float(paid), y, boundary)
            else:
                self.experience.transitions.skip()
        except OutputError as error:  # it is in RAM; the next sync tries again
            self.history.note(error)
        return taken

    # -------------------------------------------------------------------------------------------------- updating

    def update(self, budget_us: float | None = None, *, work: int | None = None) -> int:
        """Learn; how many updates were completed.

        budget_us: as many slices as fit into this time; the next call continues an update that is not complete.
        work: one slice of about this many multiply-adds, the same bits on every run. Neither: one whole update.

        Nothing happens before there is a batch of transitions, beyond `updates_per_step`, and while another thread
        updates or takes a snapshot. Raises ConfigError for both, or for less than nothing.
        """
        if budget_us is not None and work is not None:
            raise ConfigError("`budget_us` and `work` were both given; expected one of them")
        for name, given in (("budget_us", budget_us), ("work", work)):
            if given is not None and not 0 <= given < math.inf:
                raise ConfigError(f"`{name}` is {given}; expected a finite number, 0 or more")
        if not self.updates.lock.acquire(blocking=False):
            return 0
        try:
            works = [WHOLE_UPDATE if work is None else min(work, WHOLE_UPDATE)]
            completed = 0
            for slice_work in works if budget_us is None else self._pace.slices(budget_us):
                if not (self.challenger.is_learning and self.updates.may_continue):
                    break
                if self.updates.slice(slice_work):
                    completed += 1
                    self.challenger.judge_update()
                    self._take_over_if_due()
            return completed
        finally:
            self.updates.lock.release()

    def _take_over_if_due(self) -> None:
        if not self.takeover_is_due or self.has_keeper:
            return
        if self.folder is not None:
            with contextlib.suppress(OutputError):  # noted; it stays due
                self.snapshot()
            return
        self.challenger.judge_numbers()
        if self.takeover_is_due:
            self._take_over()

    def _take_over(self) -> None:
        self.champion.copy_actor()
        self.history.take_over()

    def policy(self) -> CompactPolicy:
        """The learning policy as it is now, for export; no unit removed. Completes the update under way.

        Raises OutputError where learning has stopped.
        """
        with self.updates.lock:
            self._complete_update()
            return actor_policy(self._origin.arena, self._origin.constants, self.about)

    def _complete_update(self) -> None:
        """The one that is under way. Raises OutputError where learning has stopped."""
        if self.updates.complete():
            self.challenger.judge_update()
        self.challenger.judge_numbers()
        if not self.challenger.is_sound:
            raise OutputError(f"there is nothing to save: {self.history.last_error}")

    # --------------------------------------------------------------------------------------------------- keeping

    def sync(self) -> None:
        """Return once every transition is on the disk. Raises OutputError, and the next call tries again; ConfigError
        without a state folder."""
        self.archive.need_store()
        with self._noted():
            self.experience.transitions.sync()

    def snapshot(self) -> int:
        """Complete the update that is under way, and put everything on the disk; the snapshot's number. A takeover that
        is due happens here. Updates wait meanwhile, acting does not.

        Raises OutputError, with the snapshots of before untouched, also where learning has stopped; ConfigError without
        a state folder.
        """
        self.archive.need_store()
        with self.updates.lock:
            self._complete_update()
            takes_over = self.takeover_is_due  # what is due from here on is for the next snapshot
            with self._noted():
                self.experience.transitions.sync()
                metadata = {
                    "about": self.about,
                    "exploration_noise": self._origin.exploration_noise,
                    "replay": replace(self._origin.replay, capacity=self.memory.capacity).as_json(),
                    **self.history.metadata(self.experience.transitions, takes_over=takes_over),
                }
                number = self.archive.write(self._origin, metadata, takes_over=takes_over)
            self.counters.snapshots += 1
            if takes_over:
                self._take_over()
            return number

    @contextlib.contextmanager
    def _noted(self) -> Iterator[None]:
        """Where the disk refuses, that is counted."""
        try:
            yield
        except OutputError as error:
            self.history.note(error)
            raise

    def close(self) -> None:
        """Release the state folder, without a snapshot. After that only `act` works."""
        with self.updates.lock, contextlib.ExitStack() as files:
            files.callback(self.archive.close)
            self.experience.transitions.close()

    def withdraw(self) -> None:
        """Close; a state folder in which this process started is left as it was found."""
        with self.updates.lock, contextlib.ExitStack() as files:
            files.callback(self.archive.withdraw)
            self.experience.transitions.close()

    # ---------------------------------------------------------------------------------------------------- status

    def connections(self) -> dict[str, int]:
        """How many weights of each network exist; that never changes."""
        config = self._origin.arena.config
        networks = zip(NETWORKS, (config.actor, config.critic, config.critic), strict=True)
        return {name: sum(plan.connections for plan in network.plans) for name, network in networks}

    def status(self) -> LearnerStatus:
        """The learner at this moment, as plain data."""
        values, transitions, replay = self.challenger.values, self.experience.transitions, self._origin.replay
        return {
            "updates": values.progress.updates,
            "abandoned_updates": values.progress.abandoned,
            "deferred_updates": self.updates.deferred,
            "replaced_blocks": values.progress.replaced,
            "critic_loss": values.critic_loss,
            "value": values.value,
            "value_bound": values.bound(self.counters.largest_reward),
            "is_learning": self.is_learning,
            "memory": self.memory.as_dict(),
            "replay": {
                "keep": replay.keep,
                "precision": replay.precision,
                "storage": transitions.storage,
                "capacity": transitions.capacity,
                "size": transitions.size,
                "seen": transitions.number,
                "damaged": transitions.damaged,
            },
            **self.history.status(transitions),
            "champion": self.archive.champion,
            "disk": {
                "bytes_written": transitions.bytes_written + self.archive.bytes_written,
                "errors": self.history.disk_errors,
                "rejected": list(self.rejected),
            },
            "last_error": self.history.last_error,
        }


def champion_policy(folder: str | Path) -> CompactPolicy:
    """The policy that drives, of the newest valid snapshot in a state folder, for export; no unit removed. Another
    process may be learning there.

    Raises FileFormatError where there is none, OutputError where the folder cannot be read, MissingExtraError.
    """
    snapshots = Snapshots(Path(folder))
    try:
        return _newest_champion(snapshots)
    except FileFormatError:  # the process that learns there may just have replaced it
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
    policy = actor_policy(origin.arena, origin.constants, about)
    mean = policy.observation_mean
    seen = np.zeros(policy.n_observations, np.float32) if mean is None else mean
    return policy.with_example(policy.observation_of(seen))
