"""`edgerl distill`: a student that acts as a trained policy does, sparse from its first step, smaller, or both.

States and what the teacher does there are in lessons.py, the rounds in course.py, the updates in
edgerl.algorithms.imitation. Weights of 8 or 4 bits are fine-tuned by the teacher after the last round, in finetune.py.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal, get_args

from edgerl.algorithms.topology import plan_networks
from edgerl.compression.course import Course, Round
from edgerl.compression.lessons import Array, Judgement, Pause, Played, Recorded, Source, read_observations
from edgerl.compression.returns import MeanReturn
from edgerl.config import Growth, Topology, flat, make_config
from edgerl.environments.make import resumes_bit_for_bit
from edgerl.errors import CheckFailed, ConfigError, Interrupted, OutputError, UnsupportedModelError, quoted, require
from edgerl.files.atomic import refuse_existing
from edgerl.files.paths import anchored, at_home, reachable
from edgerl.policy import format as policy_file
from edgerl.policy.compact import CompactPolicy, Precision
from edgerl.policy.loss import ActionDifference, action_difference, action_span
from edgerl.policy.pruning import LARGEST_VALUES, describe_wide_rows, network_of, outlier_share, storage_of, stored
from edgerl.signals import leave_at_the_second, stop_requests
from edgerl.training.evaluation import evaluation_seeds
from edgerl.training.subject import Subject, subject_of

Method = Literal["dagger", "kd"]

DEFAULT_SPARSITY = 0.8

OF_STUDENTS: dict[str, Any] = {
    "drop_fraction": 0.3,
    "evolution_interval": 200,
    "drop_schedule": "cosine",
    "weight_decay": 0.0,
}
"""Options of a run that no student chooses: the first and the third are RigL's."""

ASKED = (
    *("network.topology", "network.sparsity", "network.block", "evolution.growth"),
    *("learning.learning_rate", "learning.batch_size", "seed"),
)
"""What an interrupted distillation must have been begun with."""

STUDENT = "student.safetensors"


@dataclass(frozen=True)
class DistillResult:
    """What `distill` wrote, and how it acts; pairs are (teacher, student)."""

    path: Path
    teacher: CompactPolicy
    student: CompactPolicy
    file_bytes: tuple[int, int]
    updates: int
    rounds: tuple[Round, ...]
    difference: ActionDifference  # over observations that it did not learn from
    episodes: int
    returns: tuple[MeanReturn, MeanReturn] | None  # None: learnt from a file of observations, and not measured
    gain: MeanReturn | None  # of the student over the teacher in the same episodes: a loss if negative

    def as_dict(self) -> dict[str, Any]:
        """Plain data, for JSON."""
        return {
            "policy": str(self.path),
            "architectures": [self.teacher.architecture, self.student.architecture],
            "connections": [self.teacher.connections, self.student.connections],
            "file_bytes": list(self.file_bytes),
            "updates": self.updates,
            "rounds": [asdict(each) for each in self.rounds],
            "action_difference": asdict(self.difference),
            "episodes": self.episodes,
            "returns": None if self.returns is None else [asdict(each) for each in self.returns],
            "gain": None if self.gain is None else asdict(self.gain),
        }


@dataclass(frozen=True)
class Progress:
    """Where a distillation is."""

    updates: int
    of: int
    rounds: tuple[Round, ...]


@at_home()
def distill(
    teacher: str | Path,
    path: str | Path | None = None,
    *,
    env: str | None = None,
    observations: str | Path | None = None,
    method: Method = "dagger",
    hidden: tuple[int, ...] | None = None,
    topology: Topology = "dynamic",
    sparsity: float | None = None,
    block: int = 1,
    growth: Growth = "gradient",
    rounds: int = 10,
    updates: int = 50_000,
    learning_rate: float = 3e-3,
    batch_size: int = 256,
    precision: Precision = "fp32",
    outliers: float | None = None,
    seed: int = 0,
    episodes: int = 20,
    resume: bool = False,
    force: bool = False,
    report: Callable[[Progress], None] = lambda _: None,
    notice: Callable[[str], None] = lambda _: None,
) -> DistillResult:
    """Write a student of a run's policy, or of one in a file, to `path`.

    path: default student.safetensors beside the teacher. env: as in `edgerl.prune`. observations: a .npy [any, n], a
    .csv, a learner's log of transitions or a run folder to learn from, without an environment; no return is measured
    then. method: dagger, where the student acts in all rounds but the first, or kd, policy distillation, where the
    teacher does. hidden: widths, default the teacher's. sparsity: 1 − connections / dense weights, default 0.8 unless
    `topology` is dense. block, growth: as in training. rounds: of meeting states, each followed by its share of the
    `updates`. precision, outliers: how weights are stored, as `edgerl.prune` has it; those of 8 and 4 bits are
    fine-tuned. episodes: in which the returns of both are measured. resume: go on with what was interrupted. report:
    called after each round.

    Raises ConfigError, EnvironmentError, FileFormatError, MissingExtraError, OutputError, UnsupportedModelError;
    CheckFailed where the student diverged; Interrupted, with all saved beside `path`, after SIGINT or SIGTERM.
    """
    subject = subject_of(teacher, env)
    policy = subject.policy
    _check(policy, method, episodes, rounds, updates)
    if precision not in get_args(Precision):
        raise ConfigError(f"`precision` is {quoted(precision)}; expected {', '.join(get_args(Precision))}")
    share = outlier_share(precision, outliers)
    if precision in LARGEST_VALUES:
        require("torch", "train")
    config = make_config(
        hidden=tuple(layer.n_outputs for layer in policy.layers[:-1]) if hidden is None else hidden,
        topology=topology,
        sparsity=DEFAULT_SPARSITY if topology != "dense" and sparsity is None else sparsity,
        block=block,
        growth=growth,
        learning_rate=learning_rate,
        batch_size=batch_size,
        seed=seed,
        **OF_STUDENTS,
    )
    plans, _ = plan_networks(config, policy.n_observations, policy.n_actions)
    folder = Path(teacher) if Path(teacher).is_dir() else Path(teacher).parent
    given = folder / STUDENT if path is None else Path(path)
    goal, state = _outputs(given, resume=resume, force=force)
    known = None if observations is None else read_observations(anchored(observations), policy)
    asked = {
        "teacher": hashlib.sha256(policy_file.to_bytes(policy)).hexdigest(),
        "observations": None if known is None else hashlib.sha256(known.tobytes()).hexdigest(),
        "env": env,
        "method": method,
        "rounds": rounds if known is None else 1,
        "updates": updates,
        "hidden": list(config.network.hidden),
        "precision": precision,
        "outliers": share,
        **{name.rpartition(".")[2]: flat(config)[name] for name in ASKED},
    }
    course = Course(policy, plans, config, asked["rounds"], updates, asked, student_acts=method == "dagger")
    if resume:
        course.take_up(state)
    with _source(known, subject, seed, episodes, notice) as source:
        student, judgement = _taught(course, source, state, precision, share, report, notice)
    result = _result(reachable(given), course, student, judgement, method, episodes)
    policy_file.save(result.student, goal, force=force)
    state.unlink()
    return result


def _check(teacher: CompactPolicy, method: str, episodes: int, rounds: int, updates: int) -> None:
    if method not in get_args(Method):
        raise ConfigError(f"`method` is {quoted(method)}; expected {' or '.join(get_args(Method))}")
    if teacher.is_recurrent:
        raise UnsupportedModelError(
            f"the teacher, {teacher.architecture}, is recurrent: it remembers {teacher.n_state} numbers from step to "
            "step, and a student, which has no state, would lose all that depends on them; expected a perceptron"
        )
    if episodes < 2:
        raise ConfigError(f"`episodes` is {episodes}; expected at least 2, for an interval")
    if not 1 <= rounds <= updates:
        raise ConfigError(f"`rounds` is {rounds} and `updates` {updates}; expected at least one update in each round")


def _outputs(given: Path, *, resume: bool, force: bool) -> tuple[Path, Path]:
    """(the student's file, what an interrupted distillation leaves), absolute, checked before any work."""
    if not given.parent.is_dir():
        raise OutputError(f"cannot write {given}: {given.parent} is not a folder; choose a folder that exists")
    refuse_existing(given, force=force)
    state = given.with_name(f"{given.name}.part")
    if resume and not state.is_file():
        raise ConfigError(f"`resume` finds no {state}, which an interrupted distillation leaves; leave `resume` out")
    if state.exists() and not (resume or force):
        raise OutputError(
            f"{state} is there, of a distillation that was interrupted; go on with `resume`, or begin anew with `force`"
        )
    return anchored(given), anchored(state)


@contextmanager
def _source(
    known: Array | None, subject: Subject, seed: int, episodes: int, notice: Callable[[str], None]
) -> Iterator[Source]:
    """Where the states come from: what is known, else episodes in the subject's environment."""
    if known is not None:
        yield Recorded(known)
        return
    with closing(subject.environment()) as environment:
        if not resumes_bit_for_bit(environment):
            notice(f"{environment.name} is not determined by its seed: what is resumed will not be bit-identical")
        yield Played(environment, seed, evaluation_seeds(subject.seed, episodes))


def _taught(
    course: Course,
    source: Source,
    state: Path,
    precision: Precision,
    outliers: float,
    report: Callable[[Progress], None],
    notice: Callable[[str], None],
) -> tuple[CompactPolicy, Judgement]:
    """The course to its end, saved in `state` after each round and at a request to stop; its student, stored as is
    asked, and how that does.

    Raises CheckFailed, Interrupted.
    """
    with stop_requests(leave_at_the_second) as stop:

        def pause() -> None:
            if stop.count:
                course.save(state)
                done = f"{course.updates} of {course.planned} updates"
                raise Interrupted(f"stopped after {done}; go on with the same and `resume`", stop.signal)

        def save_and_report() -> None:
            course.save(state)
            report(Progress(course.updates, course.planned, tuple(course.rounds)))

        course.run(source, pause, save_and_report)
        if course.diverged:
            state.unlink()
            raise CheckFailed("the student met numbers that are not finite: it diverged; lower `learning_rate`")
        student = _stored(course, source, precision, outliers, pause, notice)
        return student, source.judge(course.teacher, student, pause)


def _stored(
    course: Course,
    source: Source,
    precision: Precision,
    outliers: float,
    pause: Pause,
    notice: Callable[[str], None],
) -> CompactPolicy:
    """The student, its weights stored so; those of 8 and 4 bits are fine-tuned in the states that were met, and in
    those that it meets itself."""
    student = course.student()
    storage = storage_of(network_of(student), precision, outliers)
    if precision not in LARGEST_VALUES:
        return stored(student, network_of(student), storage)
    from edgerl.compression.finetune import finetune

    notice("fine-tuning the rounded weights: about ten seconds of a core for a hidden layer of 256 × 256")
    smaller = finetune(course.teacher, student, storage, course.observations, source.environment, pause)
    for line in describe_wide_rows(student, smaller):
        notice(line)
    return smaller


def _result(
    path: Path, course: Course, student: CompactPolicy, judgement: Judgement, method: Method, episodes: int
) -> DistillResult:
    """The student with what its file says of it, and the report."""
    seen, returns, gain = judgement.observations, judgement.returns, judgement.gain
    teacher = course.teacher
    actions = teacher.without_offset(seen), student.without_offset(seen)
    difference = action_difference(*actions, action_span(teacher))
    about = {
        "method": method,
        "updates": course.updates,
        "action_difference": asdict(difference),
        "episodes": 0 if returns is None else episodes,
        "returns": None if returns is None else [asdict(each) for each in returns],
        "gain": None if gain is None else asdict(gain),
    }
    student = course.finished(student, about)
    return DistillResult(
        path=path,
        teacher=teacher,
        student=student,
        file_bytes=(len(policy_file.to_bytes(teacher)), len(policy_file.to_bytes(student))),
        updates=course.updates,
        rounds=tuple(course.rounds),
        difference=difference,
        episodes=0 if returns is None else episodes,
        returns=returns,
        gain=gain,
    )
