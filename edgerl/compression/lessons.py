"""What a student learns from: states, and what the teacher does in each."""

from __future__ import annotations

import csv
import io
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from edgerl import run_folder
from edgerl.algorithms.normalizer import SMALLEST_DEVIATION
from edgerl.compression.returns import MeanReturn
from edgerl.edge.continual.transitions import logged_observations
from edgerl.edge.engine.random import Draws, Purpose
from edgerl.environments.make import Environment
from edgerl.errors import ConfigError, FileFormatError, quoted
from edgerl.files.atomic import read_bytes, read_text
from edgerl.files.kind import TEXT, TRANSITIONS, kind_of
from edgerl.policy.compact import CompactPolicy, shifted
from edgerl.policy.loss import Observed, action_span
from edgerl.training import checkpoint as checkpoint_file
from edgerl.training.evaluation import mean_interval
from edgerl.training.recorded import evenly, recorded_observations
from edgerl.training.subject import Subject, acting

Array = npt.NDArray[Any]
Pause = Callable[[], None]

OBSERVATIONS_OF_A_ROUND = 5000
"""That an actor meets in the environment."""

LARGEST_SET = 1_000_000
"""Observations that are read from a run or a file, at most."""

HELD_OUT = 10
"""Of observations from a file the last tenth shows the action error, and is not learnt from."""

EPISODES_OF_A_ROUND = 1 << 20
"""Draws of seeds that belong to one round."""


@dataclass(frozen=True)
class Meeting:
    """The observations [k, n] that somebody met, less the policy's offset, and what the complete episodes among them
    returned."""

    observations: Array
    returns: tuple[float, ...] = ()


@dataclass(frozen=True)
class Judgement:
    """Observations [k, n] that a student did not learn from, and the mean returns of teacher and student in the same
    episodes, where any were played."""

    observations: Array
    returns: tuple[MeanReturn, MeanReturn] | None = None
    gain: MeanReturn | None = None  # of the student: a loss if negative


class Source(ABC):
    """Where the states come from."""

    environment: Environment | None  # in which it is played, where it is

    @abstractmethod
    def meet(self, number: int, actor: CompactPolicy, pause: Pause) -> Meeting:
        """The observations of a round; pause: called before every step, and may raise."""

    @abstractmethod
    def judge(self, teacher: CompactPolicy, student: CompactPolicy, pause: Pause) -> Judgement:
        """How the student does."""


@dataclass(frozen=True)
class Played(Source):
    """Episodes in an environment."""

    environment: Environment
    seed: int  # of the episodes that are learnt from
    evaluation: Sequence[int]  # seeds of those that judge

    def meet(self, number: int, actor: CompactPolicy, pause: Pause) -> Meeting:
        """Of episodes that no other round has."""
        draws, first, seen, returns = Draws(self.seed), number * EPISODES_OF_A_ROUND, list[Array](), list[float]()
        while len(seen) < OBSERVATIONS_OF_A_ROUND:
            episode = int(draws.words(Purpose.EPISODE, first, 1)[0])
            met, total = self._episode(actor, episode, OBSERVATIONS_OF_A_ROUND - len(seen), pause)
            seen, first = seen + met, first + 1
            returns += [] if total is None else [total]
        return Meeting(shifted(np.array(seen), actor.observation_offset), tuple(returns))

    def judge(self, teacher: CompactPolicy, student: CompactPolicy, pause: Pause) -> Judgement:
        """The returns of both, and what the student meets."""
        seen: list[Array] = []
        returns = np.zeros((2, len(self.evaluation)))
        for index, seed in enumerate(self.evaluation):
            _, returns[0, index] = self._episode(teacher, seed, None, pause)
            met, returns[1, index] = self._episode(student, seed, None, pause)
            seen += met
        before, after, gain = (MeanReturn(*mean_interval(part)) for part in (*returns, returns[1] - returns[0]))
        return Judgement(shifted(np.array(seen), student.observation_offset), (before, after), gain)

    def _episode(
        self, actor: CompactPolicy, seed: int, at_most: int | None, pause: Pause
    ) -> tuple[list[Array], float | None]:
        """(observations of an episode, at most so many; its return, None where it was cut)."""
        act, seen, total = acting(actor, self.environment), list[Array](), 0.0
        observation, is_over = self.environment.reset(seed), False
        while not is_over:
            if len(seen) == at_most:
                return seen, None
            pause()
            seen.append(observation)
            observation, reward, terminated, truncated = self.environment.step(act(observation))
            is_over, total = terminated or truncated, total + reward
        return seen, total


@dataclass(frozen=True)
class Recorded(Source):
    """Observations [k, n] of a file, less the offset; the last of them are held out."""

    observations: Array
    environment: None = None

    @property
    def _shown(self) -> int:
        return len(self.observations) - len(self.observations) // HELD_OUT

    def meet(self, _number: int, _actor: CompactPolicy, _pause: Pause) -> Meeting:
        """All but what is held out."""
        return Meeting(self.observations[: self._shown])

    def judge(self, _teacher: CompactPolicy, _student: CompactPolicy, _pause: Pause) -> Judgement:
        """What was held out; without an environment there is no return."""
        return Judgement(self.observations[self._shown :])


def read_observations(source: Path, policy: CompactPolicy) -> Array:
    """The observations [k, n] of a run folder, a .npy, a text file of numbers or a learner's log of transitions,
    float32, less the policy's offset.

    Raises ConfigError where they are not the policy's, FileFormatError.
    """
    if source.is_dir():
        checkpoint = checkpoint_file.read(source / run_folder.CHECKPOINT)
        found = recorded_observations(source, checkpoint, LARGEST_SET)
        found = checkpoint.policy.observation_of(found)
    else:
        kind = kind_of(read_bytes(source))
        if kind not in READERS:
            raise FileFormatError(
                f"{source} is {kind or 'a file'}; expected observations: a .npy, a .csv, a learner's log of "
                "transitions, or the folder of a run"
            )
        found = READERS[kind](source)
        if kind == TRANSITIONS and found.shape[1] == policy.n_observations:
            found = policy.observation_of(found)
    n = policy.n_observations
    if found.ndim != 2 or found.shape[1] != n:
        raise ConfigError(
            f"{source} holds numbers of shape {list(found.shape)}; expected [any, {n}], as the policy has"
        )
    if len(found) < HELD_OUT:
        raise ConfigError(f"{source} holds {len(found)} observations; expected at least {HELD_OUT}, one to be held out")
    with np.errstate(over="ignore"):  # what is too large for float32 becomes infinite
        observations = shifted(found.astype(policy.observation_dtype), policy.observation_offset)
    if not (finite := np.isfinite(observations).all(axis=1)).all():
        raise ConfigError(
            f"{source} holds a number that is not finite in observation {int(np.argmin(finite))}; leave that one out"
        )
    return observations[-LARGEST_SET:]


def _array(source: Path) -> Array:
    try:
        found: Array = np.load(io.BytesIO(read_bytes(source)), allow_pickle=False)
    except (ValueError, OSError, EOFError) as error:
        raise FileFormatError(f"{source} is not a whole NumPy array of numbers; save one with numpy.save") from error
    if found.dtype.kind not in "fiu":
        raise FileFormatError(f"{source} holds {found.dtype}; expected numbers")
    return found


def _table(source: Path) -> Array:
    """Numbers between commas, one observation a line; a first line of names is passed over."""
    rows = [row for row in csv.reader(read_text(source).splitlines()) if row]
    if rows and _numbers_in(rows[0]) is None:
        rows = rows[1:]
    numbers = [_numbers_in(row) for row in rows]
    if None in numbers:
        number = numbers.index(None)
        line = ",".join(rows[number])[:60]
        raise FileFormatError(f"{source}, observation {number}: {quoted(line)} is not numbers between commas")
    if len(set(map(len, rows))) > 1:
        raise FileFormatError(f"{source} has lines of different lengths; expected a whole observation on each")
    return np.array(numbers, np.float64).reshape(len(numbers), -1)


def _numbers_in(row: Sequence[str]) -> list[float] | None:
    try:
        return list(map(float, row))
    except ValueError:
        return None


READERS: dict[str | None, Callable[[Path], Array]] = {
    "a NumPy array": _array,
    TEXT: _table,
    TRANSITIONS: logged_observations,
}
"""By the kind of a file."""


def met_by(
    subject: Subject, known: Array | None, count: int, environment: Environment | None
) -> tuple[Array, Observed]:
    """(up to `count` observations [k, n] that a policy meets, where they are from): of those that are known, else as
    the subject finds them."""
    if known is None:
        return subject.observations(count, environment)
    return known[evenly(len(known), count)], "recorded"


@dataclass(frozen=True)
class Units:
    """A policy's actions as the student learns them: in shares of half their range, from the middle.

    Where an action has no bounds, the range is twice that over sampled observations, and the middle 0.
    """

    centre: Array  # float64 [m]
    half: Array  # float64 [m]

    @classmethod
    def of(cls, policy: CompactPolicy) -> Units:
        """Those of a policy."""
        if policy.head == "tanh":
            centre, half = (part.astype(np.float64) for part in policy.action_scaling)
            return cls(centre, half)
        low, high = policy.action_low.astype(np.float64), policy.action_high.astype(np.float64)
        is_bounded, span = np.isfinite(low) & np.isfinite(high), action_span(policy)
        middle = np.where(is_bounded, np.where(is_bounded, low, 0) / 2 + np.where(is_bounded, high, 0) / 2, 0)
        return cls(middle, np.where(is_bounded, span / 2, span))

    def shares(self, actions: Array) -> Array:
        """Actions [k, m] in [−1, 1], float32."""
        shares: Array = np.clip((actions - self.centre) / np.where(self.half > 0, self.half, 1), -1, 1)
        return shares.astype(np.float32)


def examples(teacher: CompactPolicy, student: CompactPolicy, observations: Array) -> Array:
    """Rows of what the student's first layer is given for observations less the offset, and the teacher's action in
    shares, float32 [k, n + m]."""
    wanted = Units.of(teacher).shares(teacher.without_offset(observations, np.float64))
    return np.concatenate([student.normalised(observations), wanted], axis=1)


def statistics(observations: Array) -> tuple[Array, Array]:
    """(mean, 1 / standard deviation), float32 [n] each; of what does not vary, 1."""
    deviation = observations.std(axis=0, dtype=np.float64)
    scale = np.where(deviation > SMALLEST_DEVIATION, 1 / np.maximum(deviation, SMALLEST_DEVIATION), 1)
    return observations.mean(axis=0, dtype=np.float64).astype(np.float32), scale.astype(np.float32)
