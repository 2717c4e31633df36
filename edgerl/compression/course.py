"""A distillation under way: rounds of meeting states and learning from all that were met so far, saved and taken up.

DAgger (Ross, Gordon and Bagnell 2011): the teacher acts in the first round and the student in all others; the teacher
says everywhere what it would do. In policy distillation (Rusu et al. 2015) the teacher acts in all of them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from edgerl import __version__
from edgerl.algorithms.imitation import RATE_INTERVAL, Imitator
from edgerl.algorithms.state import take
from edgerl.algorithms.topology import LayerPlan
from edgerl.compression.lessons import Meeting, Pause, Source, Units, examples, statistics
from edgerl.config import Config
from edgerl.errors import ConfigError, FileFormatError, quoted, reason
from edgerl.files.atomic import read_bytes, write_atomically
from edgerl.files.tensors import pack_tensors, unpack_tensors
from edgerl.policy.compact import CompactPolicy, make_layer
from edgerl.policy.pruning import Affine, compact
from edgerl.policy.shape import architecture

Array = npt.NDArray[Any]

KIND, VERSION = "distillation", 1

KEPT = ("environment", "env_args")
"""What a student's file says as its teacher's does."""


@dataclass(frozen=True)
class Round:
    """One round: what was met, and how near the student is to the teacher in what it learns from."""

    actor: Literal["teacher", "student"]  # who met the new states; a student as it was before the round
    observations: int  # in all, so far
    episodes: int  # complete ones of this round
    mean_return: float | None  # of these, by whoever acted; None where there are none
    root_mean_square: float  # of the action error in the batches, as a share of the action range


def student_policy(teacher: CompactPolicy, network: Sequence[Affine], block: int) -> CompactPolicy:
    """The policy of a network that has learnt to give actions in shares: normalisation, head, bounds and contract are
    those of `teacher`, hidden activations ReLU, dead units removed."""
    *hidden, (weight, bias) = network
    if teacher.head == "clip":
        units = Units.of(teacher)
        weight = (weight * units.half[:, None]).astype(np.float32)
        bias = (bias * units.half + units.centre).astype(np.float32)
    layers = tuple(make_layer(*affine, block) for affine in (*hidden, (weight, bias)))
    return compact(replace(teacher, layers=layers).with_example(teacher.example_observation))


class Course:
    """A student on its way. Attributes: `teacher`; `planned`, updates in all; `rounds`, those that are complete."""

    def __init__(
        self,
        teacher: CompactPolicy,
        plans: Sequence[LayerPlan],
        config: Config,
        rounds: int,
        updates: int,
        asked: Mapping[str, Any],
        *,
        student_acts: bool,
    ) -> None:
        """student_acts: in all rounds but the first; else the teacher does. asked: what it was begun with, as JSON;
        only a course with the same is taken up."""
        self.teacher, self._config, self._asked = teacher, config, dict(asked)
        self._plans, self.planned, self._n_rounds = tuple(plans), updates, rounds
        self._student_acts = student_acts
        self._imitator = Imitator(config, plans, teacher.head, updates)
        self._observations: list[Array] = []  # of each round
        self._mean_returns: list[tuple[int, float | None]] = []
        self.rounds: list[Round] = []

    @property
    def _frame(self) -> CompactPolicy:
        """What the student has of its teacher; normalisation, where that has none, from the first round."""
        teacher = self.teacher
        if teacher.observation_mean is not None or teacher.observation_clip is not None or not self._observations:
            return teacher
        mean, scale = statistics(self._observations[0])
        return replace(teacher, observation_mean=mean, observation_scale=scale)

    @property
    def updates(self) -> int:
        """That were made."""
        return self._imitator.updates

    @property
    def diverged(self) -> bool:
        """Whether it met numbers that are not finite."""
        return self._imitator.abandoned > 0

    def student(self) -> CompactPolicy:
        """As it is now."""
        return student_policy(self._frame, self._imitator.layers(), self._config.network.block)

    @property
    def observations(self) -> Array:
        """All that were met [k, n], less the offset."""
        return np.concatenate(self._observations)

    def finished(self, student: CompactPolicy, about: Mapping[str, Any]) -> CompactPolicy:
        """What became of the student, with what its file says of it."""
        positions = sum(plan.n_inputs * plan.n_outputs for plan in self._plans)
        connections = [plan.connections for plan in self._plans]
        metadata = {name: self.teacher.metadata[name] for name in KEPT if name in self.teacher.metadata}
        metadata |= {
            "edgerl": __version__,
            "seed": self._config.seed,
            "sparsity": 1 - sum(connections) / positions,
            "trained_connections": connections,
            "trained_architecture": architecture([plan.shape for plan in self._plans]),
            "distilled": dict(about),
        }
        return replace(student, metadata=metadata)

    def run(self, source: Source, pause: Pause, report: Callable[[], None]) -> None:
        """All rounds that are left. pause: called often, and may raise to end it; report: called after each round."""
        for number in range(len(self.rounds), self._n_rounds):
            if number == len(self._observations):
                actor = self.student() if self._actor(number) == "student" else self.teacher
                self._take(source.meet(number, actor, pause))
            self._learn(number, pause)
            report()

    def _actor(self, number: int) -> Literal["teacher", "student"]:
        return "student" if number > 0 and self._student_acts else "teacher"

    def _take(self, meeting: Meeting) -> None:
        self._observations.append(meeting.observations)
        returns = meeting.returns
        self._mean_returns.append((len(returns), float(np.mean(returns)) if returns else None))
        self._imitator.reset_loss()

    def _learn(self, number: int, pause: Pause) -> None:
        known = self.observations
        shown, last = examples(self.teacher, self._frame, known), self.planned * (number + 1) // self._n_rounds
        while (left := last - self.updates) > 0:
            pause()
            self._imitator.learn(shown, min(left, RATE_INTERVAL - self.updates % RATE_INTERVAL))
        error = float(np.sqrt(self._imitator.loss) / 2)
        self.rounds.append(Round(self._actor(number), len(known), *self._mean_returns[number], error))

    def save(self, path: Path) -> None:
        """Write all that `take_up` goes on from."""
        metadata = {
            "asked": self._asked,
            "sizes": [len(part) for part in self._observations],
            "mean_returns": [list(pair) for pair in self._mean_returns],
            "rounds": [asdict(each) for each in self.rounds],
        }
        met = self.observations if self._observations else np.zeros((0, self.teacher.n_observations))
        tensors = {"observations": met.astype(np.float32), **self._imitator.state()}
        write_atomically(path, pack_tensors(KIND, VERSION, metadata, tensors))

    def take_up(self, path: Path) -> None:
        """Go on from what `save` wrote; nothing in it is trusted. Raises ConfigError where it was begun otherwise,
        FileFormatError."""
        metadata, tensors = unpack_tensors(read_bytes(path), path, KIND, VERSION)
        self._check_asked(metadata.get("asked"), path)
        try:
            sizes = [int(size) for size in metadata["sizes"]]
            observations = take(
                tensors, "observations", np.dtype(np.float32), (sum(sizes), self.teacher.n_observations)
            )
            rounds = [Round(**each) for each in metadata["rounds"]]
            means = [(int(episodes), mean) for episodes, mean in metadata["mean_returns"]]
            is_between = len(rounds) <= len(sizes) == len(means) <= min(len(rounds) + 1, self._n_rounds)
            if not is_between or min(sizes, default=1) < 1 or not np.isfinite(observations).all():
                raise ValueError("its rounds do not fit together")
            self._imitator.load_state(tensors)
        except (KeyError, TypeError, ValueError, ConfigError) as error:
            raise FileFormatError(f"{path} is not valid: {reason(error, 200)}; begin anew with `force`") from error
        self._observations = np.split(observations, np.cumsum(sizes)[:-1]) if sizes else []
        self._mean_returns, self.rounds = means, rounds

    def _check_asked(self, begun: Any, path: Path) -> None:
        for name, value in self._asked.items():
            before = begun.get(name) if isinstance(begun, dict) else None
            if before != value:
                raise ConfigError(
                    f"`{name}` is {quoted(value)}, and {path} was begun with {quoted(before)}; give it as it was, or "
                    "begin anew with `force`"
                )
