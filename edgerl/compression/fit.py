"""`edgerl fit`: the smallest policy that meets every budget of a device and keeps the return.

Candidates are made and priced without any episode (candidates.py), but for the students, which are trained first where
they are asked for (students.py). Those within the budgets with the least difference for their bytes form ladders;
returns are measured on a few of their rungs (search.py), over the same episodes as the reference's (returns.py). The
smallest that keeps the return must keep it again over other episodes, else the next one up is tried (choose.py).
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from dataclasses import asdict, dataclass, replace
from functools import cache
from itertools import count
from pathlib import Path
from typing import Any

import numpy.typing as npt

from edgerl import run_folder
from edgerl.compression.candidates import Candidate, Screening, Target
from edgerl.compression.choose import Measure, Selection, choose
from edgerl.compression.distill import Progress as Distillation
from edgerl.compression.lessons import met_by, read_observations
from edgerl.compression.picture import draw
from edgerl.compression.returns import Goal, compare
from edgerl.compression.search import SCANNED
from edgerl.compression.students import Student, students_of, trained
from edgerl.errors import ConfigError, OutputError, require
from edgerl.files.atomic import refuse_existing, write_atomically
from edgerl.files.paths import anchored, at_home, reachable
from edgerl.policy import format as policy_file
from edgerl.policy.compact import CompactPolicy
from edgerl.policy.pruning import compact, network_of
from edgerl.profiling.budgets.device import Device, find_device
from edgerl.training.evaluation import evaluate, evaluation_seeds
from edgerl.training.subject import acting, subject_of

Array = npt.NDArray[Any]
Progress = Callable[[str, float], None]
"""Called with what is being done, and about which share of it is done."""

RECORDED_OBSERVATIONS = 12_500
"""From the run's replay memory, spread from the oldest to the newest; of a policy in a file, from episodes."""

DEFAULT_LOSS = 0.03

EXPECTED_MEASUREMENTS = 2 * SCANNED + 10
"""Only for the progress."""


@dataclass(frozen=True)
class FitResult:
    """The result of `fit`, and its files: the policy only where one was chosen."""

    device: Device
    goal: Goal
    episodes: int
    candidates: int  # that were priced and screened
    selection: Selection
    policy_path: Path
    picture_path: Path

    def as_dict(self) -> dict[str, Any]:
        """Plain data, for JSON."""
        selection = self.selection
        named = {
            "chosen": selection.chosen,
            "best_in_budget": selection.best_in_budget,
            "nearest_to_budget": selection.nearest_to_budget,
        }
        return {
            "device": self.device.id,
            "least_return": self.goal.least_return(selection.reference.measurement.reference.mean),
            "episodes": self.episodes,
            "candidates": self.candidates,
            "reference": selection.reference.as_dict(),
            "front": [trial.as_dict() for trial in selection.front],
            "measured": [trial.as_dict() for trial in selection.trials],
            **{name: None if trial is None else trial.as_dict() for name, trial in named.items()},
            "refuted": [trial.as_dict() for trial in selection.refuted],
            "confirmed": None if selection.confirmed is None else asdict(selection.confirmed),
            "policy": None if selection.chosen is None else str(self.policy_path),
            "picture": str(self.picture_path),
        }


@at_home()
def fit(
    run: str | Path,
    device: Device | str | Path,
    path: str | Path | None = None,
    *,
    max_loss: float | None = None,
    min_return: float | None = None,
    budget_memory_bytes: int | None = None,
    budget_flash_bytes: int | None = None,
    budget_flops: float | None = None,
    budget_latency_seconds: float | None = None,
    rate_hz: float | None = None,
    distill: bool = False,
    observations: str | Path | None = None,
    episodes: int = 20,
    env: str | None = None,
    force: bool = False,
    progress: Progress = lambda _what, _share: None,
) -> FitResult:
    """Write the smallest policy that meets a device's budgets and keeps its return, and a picture beside it.

    run: a run folder, or a policy.safetensors. Of a run the measurements are kept in its folder as `fit-<device>.json`,
    for reports. path: default `policy-<device>.safetensors` in the run folder, replaced, or beside the file. max_loss:
    share of the return that may be lost (default 3 %); or min_return: what it must reach; both by the low end of the
    95 % interval over `episodes` episodes. budget_memory_bytes and what follows, rate_hz: as in `edgerl.profile`.
    distill: choose among students, too, which are trained first and kept beside `run`. observations: what the policy
    meets, as `edgerl.distill` takes them, in place of the run's replay and of episodes. Where no policy does, none is
    written, and the result has the nearest. env: as in `edgerl.prune`.

    Raises ConfigError, DeviceError, EnvironmentError, FileFormatError, MissingExtraError, OutputError,
    UnsupportedModelError; Interrupted, after SIGINT or SIGTERM while a student is trained.
    """
    require("matplotlib", "report")
    require("torch", "train")
    if episodes < 2:
        raise ConfigError(f"the number of episodes is {episodes}; expected at least 2, for an interval")
    goal = Goal(DEFAULT_LOSS if max_loss is None and min_return is None else max_loss, min_return)
    budgets = {
        "budget_memory_bytes": budget_memory_bytes,
        "budget_flash_bytes": budget_flash_bytes,
        "budget_flops": budget_flops,
        "budget_latency_seconds": budget_latency_seconds,
        "rate_hz": rate_hz,
    }
    target = Target(device if isinstance(device, Device) else find_device(device), budgets)
    subject, is_run = subject_of(run, env), Path(run).is_dir()
    folder = Path(run) if is_run else Path(run).parent
    outputs = _outputs(folder, target.device, None if path is None else Path(path), force=force, replaces=is_run)
    reference = compact(subject.policy)
    target.price(reference)  # what cannot be priced is refused before it takes time
    known = None if observations is None else read_observations(anchored(observations), reference)
    students = list(_students(run, subject.policy, folder, env, progress)) if distill else []
    with closing(subject.environment()) as environment:
        met, _ = met_by(subject, known, RECORDED_OBSERVATIONS, environment)
        screening = Screening(reference, met, target)
        candidates = screening.reduced(lambda share: progress("reducing", share))
        for student, policy in students:
            candidates += screening.candidates(policy, network_of(policy), student.method, is_student=True)
        number = count()

        def returns(policy: CompactPolicy, seeds: Sequence[int]) -> Array:
            progress("measuring returns", min(next(number) / EXPECTED_MEASUREMENTS, 1))
            return evaluate(environment, acting(policy, environment), seeds)

        def measure(seeds: Sequence[int]) -> Measure:
            """Compare policies with the reference over these episodes."""
            before = cache(lambda: returns(reference, seeds))
            return lambda policy: compare(returns(policy, seeds), before(), goal)

        def finished(candidate: Candidate) -> Candidate:
            return screening.finetuned(candidate, environment)

        seeds = evaluation_seeds(subject.seed, 2 * episodes)
        selection = choose(candidates, measure(seeds[:episodes]), measure(seeds[episodes:]), finished)
    policy_path, picture_path = map(anchored, outputs)
    force = force or (is_run and path is None)
    result = FitResult(target.device, goal, episodes, len(candidates), selection, *map(reachable, outputs))
    write_atomically(picture_path, draw(result.device, goal, selection), force=force)
    if is_run:
        record = json.dumps(result.as_dict(), indent=2, allow_nan=False) + "\n"
        write_atomically(anchored(folder) / run_folder.fit_record(result.device.id), record.encode())
    if selection.chosen is not None:
        policy_file.save(_described(result), policy_path, force=force)
    return result


def _students(
    run: str | Path, teacher: CompactPolicy, folder: Path, env: str | None, progress: Progress
) -> Iterator[tuple[Student, CompactPolicy]]:
    """Trained ones, or those that are there."""
    names = [student.name for student in students_of(teacher)]

    def report(student: Student, done: Distillation) -> None:
        number, share = names.index(student.name), done.updates / done.of
        progress(f"training student {number + 1} of {len(names)}, {student.name}", (number + share) / len(names))

    return trained(run, teacher, folder, env, report)


def _outputs(folder: Path, device: Device, path: Path | None, *, force: bool, replaces: bool) -> tuple[Path, Path]:
    """(policy, picture), checked before any work; replaces: those of an earlier fit, too. Raises OutputError."""
    policy = folder / f"policy-{device.id}.safetensors" if path is None else path
    picture = policy.with_suffix(".png")
    if picture == policy:
        raise OutputError(f"{policy} is also the picture's name; choose another -o, such as policy.safetensors")
    if not policy.parent.is_dir():
        raise OutputError(f"cannot write {policy}: {policy.parent} is not a folder; choose a folder that exists")
    for output in (policy, picture):
        refuse_existing(output, force=force or (replaces and path is None))
    return policy, picture


def _described(result: FitResult) -> CompactPolicy:
    """The chosen policy, with its device and its returns in its metadata."""
    chosen, confirmed = result.selection.chosen, result.selection.confirmed
    assert chosen is not None
    assert confirmed is not None
    about = {
        "device": result.device.id,
        "runtime": chosen.candidate.report.runtime,
        "method": chosen.candidate.method,
        "episodes": result.episodes,
        "return": asdict(confirmed.returns),
        "gain": asdict(confirmed.gain),
    }
    policy = chosen.candidate.policy
    return replace(policy, metadata={**policy.metadata, "fit": about})
