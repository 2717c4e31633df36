"""`edgerl.sweep` and `edgerl.plan_sweep`: every run of a study, or what they would cost."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgerl.commands.models import Notice, no_notice
from edgerl.errors import ConfigError, quoted, require
from edgerl.files.paths import anchored
from edgerl.run_folder import short
from edgerl.signals import stop_requests
from edgerl.studies.grid import PlannedRun, on_this_machine, plan_runs
from edgerl.studies.local import LocalPool, available_cores
from edgerl.studies.runs import Progress, inspect
from edgerl.studies.study import Study, default_folder, load_study, narrowed
from edgerl.studies.sweep import Report, Sweep, SweepStatus, makespan, open_study
from edgerl.studies.timing import expected_seconds, like, timings

if TYPE_CHECKING:
    from edgerl.studies.cluster import RayPool


@dataclass(frozen=True)
class Expected:
    """A run that a sweep would make."""

    run: PlannedRun
    progress: Progress  # how far an earlier sweep came
    seconds: float  # what is left of it, by a short timing; 0 where it is finished

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        config = self.run.config
        return {
            "run": self.run.name,
            "state": self.progress.stage,
            "step": self.progress.step,
            "steps": config.schedule.steps,
            "method": self.run.method,
            "hidden": list(config.network.hidden),
            "connections": self.run.connections,
            "training_flops_paper": self.run.flops_paper,
            "training_flops_full": self.run.flops_full,
            "expected_seconds": self.seconds,
        }


@dataclass(frozen=True)
class SweepPlan:
    """What a sweep would do."""

    study: Study
    folder: Path
    runs: tuple[Expected, ...]
    cores: int | None  # of this machine; None for a cluster, which is not asked

    @property
    def finished(self) -> int:
        """Runs that are finished already."""
        return sum(each.progress.stage == "finished" for each in self.runs)

    @property
    def core_seconds(self) -> float:
        """What is left, on one core."""
        return sum(each.seconds for each in self.runs)

    @property
    def seconds(self) -> float | None:
        """What is left, on all cores; None for a cluster."""
        return None if self.cores is None else makespan([each.seconds for each in self.runs], self.cores)

    def as_dict(self) -> dict[str, Any]:
        """For JSON; without the runs, which have their own."""
        return {
            "study": self.study.name,
            "folder": str(short(self.folder)),
            "runs": len(self.runs),
            "finished": self.finished,
            "cores": self.cores,
            "expected_seconds": self.seconds,
            "expected_core_seconds": self.core_seconds,
        }


def plan_sweep(
    study: str | Path,
    *,
    out: str | Path | None = None,
    jobs: int | None = None,
    ray: str | None = None,
    storage: str | Path | None = None,
    steps: int | None = None,
    env: Sequence[str] | None = None,
    seeds: Sequence[int] | None = None,
    notice: Notice = no_notice,
) -> SweepPlan:
    """The runs of a study with their costs, and the expected time, after a short timing of each kind; writes nothing.

    Takes what `sweep` takes, and raises the same.
    """
    loaded, folder = _study(study, out, ray, storage, steps, env, seeds)
    runs = on_this_machine(plan_runs(loaded), notice)
    found = [inspect(folder / run.name, run) for run in runs]
    left = [run for run, progress in zip(runs, found, strict=True) if progress.stage != "finished"]
    measured = timings(run.config for run in left)
    expected = (
        0.0 if progress.stage == "finished" else expected_seconds(run.config, measured[like(run.config)], progress.step)
        for run, progress in zip(runs, found, strict=True)
    )
    return SweepPlan(
        loaded, folder, tuple(map(Expected, runs, found, expected)), None if ray else len(available_cores(jobs))
    )


def sweep(
    study: str | Path,
    *,
    out: str | Path | None = None,
    jobs: int | None = None,
    ray: str | None = None,
    storage: str | Path | None = None,
    steps: int | None = None,
    env: Sequence[str] | None = None,
    seeds: Sequence[int] | None = None,
    started: Callable[[Study, Sequence[PlannedRun], Path], None] = lambda *_: None,
    report: Report = lambda _: None,
    notice: Notice = no_notice,
) -> SweepStatus:
    """Run every run of a study: here, one core each, or on a Ray cluster.

    Finished runs are skipped and others resume from their checkpoints. study: its name or file. out: its folder
    (default one of its name in `runs`). jobs: runs at the same time (default a run a core). ray: the cluster's
    HOST:PORT, auto for the one of this machine, local to start one. storage: the folder that every node sees. steps,
    env, seeds: narrow the study. started: called once with the study, its runs and its folder. report: called while
    they run. notice: called with lines that a person should read.

    Raises ConfigError, FileFormatError, MissingExtraError, OutputError; CheckFailed where a run failed; Interrupted,
    with everything saved, after SIGINT or SIGTERM.
    """
    loaded, folder = _study(study, out, ray, storage, steps, env, seeds)
    runs = on_this_machine(plan_runs(loaded), notice)
    with contextlib.ExitStack() as stack:
        if ray is not None:
            stack.enter_context(contextlib.redirect_stdout(sys.stderr))  # where Ray says what has died
        pool, cores = stack.enter_context(_pool(jobs, ray))
        found = stack.enter_context(open_study(loaded, runs, folder))
        if (check := getattr(pool, "check_storage", None)) is not None:
            check(folder)
        requests = stack.enter_context(stop_requests())
        started(loaded, runs, folder)
        return Sweep(runs, folder, found, pool, cores).run(report, requests)


def _study(
    study: str | Path,
    out: str | Path | None,
    ray: str | None,
    storage: str | Path | None,
    steps: int | None,
    env: Sequence[str] | None,
    seeds: Sequence[int] | None,
) -> tuple[Study, Path]:
    for module in ("torch", "gymnasium", "tensorboard"):
        if find_spec(module) is None:  # the runs' processes load it, this one need not
            require(module, "train")
    if ray is not None:
        require("ray", "sweep")
    elif storage is not None:
        raise ConfigError("`storage` is for `ray`; on this machine name the study's folder with `out`")
    if out is not None and storage is not None:
        raise ConfigError("`out` and `storage` were both given; expected one of them")
    if storage is not None and not Path(storage).is_dir():
        raise ConfigError(f"`storage` is {quoted(str(storage), 80)}; expected a folder that is there, on every node")
    loaded = narrowed(load_study(study), steps=steps, environments=env, seeds=seeds)
    if storage is not None:
        return loaded, anchored(Path(storage) / loaded.name)
    return loaded, anchored(default_folder(loaded.name) if out is None else Path(out))


@contextlib.contextmanager
def _pool(jobs: int | None, ray: str | None) -> Iterator[tuple[Any, int]]:
    """(where runs run, how many at a time)."""
    if ray is None:
        local = LocalPool(available_cores(jobs))
        with contextlib.closing(local):
            yield local, local.capacity
        return
    from edgerl.studies.cluster import LOCAL, RayPool

    cluster: RayPool = RayPool(ray, (jobs or len(available_cores())) if ray == LOCAL else jobs)
    with contextlib.closing(cluster):
        yield cluster, cluster.cpus
