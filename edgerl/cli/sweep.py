"""`edgerl sweep`."""

from __future__ import annotations

import contextlib
import json
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from edgerl.cli.support.command import Command
from edgerl.cli.support.output import note, print_document, print_table
from edgerl.cli.support.streams import give_up_results, keep_results_apart
from edgerl.environments.consent import may_be_code
from edgerl.errors import EdgerlError
from edgerl.files.paths import anchored
from edgerl.run_folder import short
from edgerl.units import human_seconds

if TYPE_CHECKING:
    from rich.table import Table

    from edgerl.studies.cluster import RayPool
    from edgerl.studies.grid import PlannedRun
    from edgerl.studies.runs import Progress
    from edgerl.studies.study import Study
    from edgerl.studies.sweep import RunStatus, SweepStatus

SHOWN_RUNS = 30
"""Rows of the live table; the summary above it counts all runs."""


class SweepCommand(Command):
    """`--ray` may stand alone, which the parser's options cannot."""

    def parse_args(self, context: Any, arguments: list[str]) -> list[str]:
        """Give a `--ray` without an address the one that means this machine."""
        return super().parse_args(context, with_address(arguments))


def with_address(arguments: Sequence[str]) -> list[str]:
    """['--ray'] → ['--ray', 'local'], unless auto or HOST:PORT follows."""
    completed = []
    for word, following in pairwise([*arguments, ""]):
        completed.append(word)
        if word == "--ray" and following not in ("auto", "local") and ":" not in following:
            completed.append("local")
    return completed


def command(
    study: Annotated[str, typer.Argument(metavar="STUDY", help="table1, schedule, sparsity, quick, or a .toml file.")],
    out: Annotated[Path | None, typer.Option(help="The study's folder.", show_default="runs/<study>")] = None,
    jobs: Annotated[
        int | None, typer.Option(min=1, help="Runs at the same time, a core each.", show_default="cores")
    ] = None,
    ray: Annotated[
        str | None,
        typer.Option(
            metavar="[ADDRESS]",
            help="On the Ray cluster at HOST:PORT; auto: the one of this machine; alone: begins one here.",
        ),
    ] = None,
    storage: Annotated[
        Path | None, typer.Option(help="Folder that every node of the cluster sees; the study's folder is in it.")
    ] = None,
    steps: Annotated[int | None, typer.Option(help="Environment steps of every run, instead of the study's.")] = None,
    env: Annotated[list[str] | None, typer.Option(help="One of the study's environments; may be repeated.")] = None,
    seeds: Annotated[
        str | None, typer.Option(metavar="N,N,…", help="As 0,1,2 or 0-2.", show_default="the study's")
    ] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Print the grid, its FLOPs and the hours expected, after a short timing.")
    ] = False,
    as_json: Annotated[
        bool,
        typer.Option("--json", callback=keep_results_apart, help="Print JSON, an object a line, for programs."),
    ] = False,
) -> None:
    """Run every run of a study: here, one core each, or on a Ray cluster.

    Finished runs are skipped and others go on from their checkpoints, so the same command continues after whatever
    stopped it: Ctrl-C, a kill, a lost node. A study is a TOML file, see docs/studies.md.

    Example: edgerl sweep table1 --steps 300000 --dry-run
    """
    from importlib.util import find_spec

    from edgerl.errors import ConfigError, quoted, require

    for module in ("torch", "gymnasium", "tensorboard"):
        if find_spec(module) is None:  # the runs' processes load it, this one need not
            require(module, "train")
    if ray is not None:
        require("ray", "sweep")
    elif storage is not None:
        raise ConfigError("--storage is for --ray; on this machine name the study's folder with --out")
    if out is not None and storage is not None:
        raise ConfigError("--out and --storage were both given; expected one of them")
    if storage is not None and not storage.is_dir():
        raise ConfigError(f"--storage is {quoted(str(storage), 80)}; expected a folder that is there, on every node")
    from edgerl.studies.grid import on_this_machine, plan_runs
    from edgerl.studies.local import available_cores
    from edgerl.studies.study import default_folder, load_study, narrowed

    loaded = narrowed(load_study(study), steps=steps, environments=env, seeds=parse_seeds(seeds))
    folder = default_folder(loaded.name) if out is None else out
    folder = anchored(folder if storage is None else storage / loaded.name)
    runs = on_this_machine(plan_runs(loaded), note)
    if dry_run:
        _dry_run(loaded, runs, folder, None if ray else len(available_cores(jobs)), as_json)
    else:
        _sweep(loaded, runs, folder, jobs, ray, _JsonLines() if as_json else _Screen())


def parse_seeds(text: str | None) -> list[int] | None:
    """'0,1,5-7' → [0, 1, 5, 6, 7]. Raises ConfigError."""
    from edgerl.errors import ConfigError
    from edgerl.studies.study import MAXIMUM_RUNS

    if text is None:
        return None
    seeds: list[int] = []
    try:
        for part in text.split(","):
            first, _, last = part.partition("-")
            begin, end = int(first), int(last or first)
            if not 0 <= begin <= end or end - begin >= MAXIMUM_RUNS:
                raise ValueError
            seeds += range(begin, end + 1)
        if len(seeds) > MAXIMUM_RUNS:
            raise ValueError
    except ValueError as error:
        raise ConfigError(
            f"--seeds is {text[:80]!r}; expected at most {MAXIMUM_RUNS} whole numbers, as in 0,1,2 or 0-2"
        ) from error
    return seeds


def _dry_run(study: Study, runs: Sequence[PlannedRun], folder: Path, cores: int | None, as_json: bool) -> None:
    """cores: of this machine; None for a cluster, which is not asked."""
    from edgerl.studies.runs import inspect
    from edgerl.studies.sweep import makespan
    from edgerl.studies.timing import expected_seconds, like, timings

    found = [inspect(folder / run.name, run) for run in runs]
    left = [run for run, progress in zip(runs, found, strict=True) if progress.stage != "finished"]
    measured = timings(run.config for run in left)
    seconds = [
        0.0 if progress.stage == "finished" else expected_seconds(run.config, measured[like(run.config)], progress.step)
        for run, progress in zip(runs, found, strict=True)
    ]
    total = None if cores is None else makespan(seconds, cores)
    if as_json:
        for run, progress, expected in zip(runs, found, seconds, strict=True):
            print_document(json.dumps({"event": "planned", **_planned(run, progress, expected)}))
        summary = {
            "runs": len(runs),
            "finished": len(runs) - len(left),
            "cores": cores,
            "expected_seconds": total,
            "expected_core_seconds": sum(seconds),
        }
        print_document(json.dumps({"event": "total", "study": study.name, "folder": str(short(folder)), **summary}))
        return
    print_table(
        ("run", "state", "connections", "FLOPs", "expected"),
        [
            (
                run.name,
                progress.stage if progress.stage != "unfinished" else f"at step {progress.step}",
                str(run.connections),
                f"{run.flops_paper:.3g}",
                human_seconds(expected) if expected else "",
            )
            for run, progress, expected in zip(runs, found, seconds, strict=True)
        ],
        title=f"{study.title}: {short(folder)}",
    )
    paper, full = sum(run.flops_paper for run in runs), sum(run.flops_full for run in runs)
    finished = f"{len(runs)} runs, {len(runs) - len(left)} finished"
    print(f"{finished}; FLOPs in all: {paper:.3g} as the paper counts, {full:.3g} in full")
    hours = f"{sum(seconds) / 3600:.2g} core hours"
    if total is None:
        print(f"expected: {hours} at the pace of this machine; the cluster was not asked")
    else:
        print(f"expected: {human_seconds(total)} on {cores} core{'' if cores == 1 else 's'} of this machine, {hours}")
    print(
        "by a short timing of each kind of run, alone on the machine, with episodes as long as the environment allows"
    )


def _planned(run: PlannedRun, progress: Progress, expected: float) -> dict[str, Any]:
    return {
        "run": run.name,
        "state": progress.stage,
        "step": progress.step,
        "steps": run.config.schedule.steps,
        "method": run.method,
        "hidden": list(run.config.network.hidden),
        "connections": run.connections,
        "training_flops_paper": run.flops_paper,
        "training_flops_full": run.flops_full,
        "expected_seconds": expected,
    }


def _sweep(
    study: Study,
    runs: Sequence[PlannedRun],
    folder: Path,
    jobs: int | None,
    ray: str | None,
    display: _JsonLines | _Screen,
) -> None:
    from edgerl.signals import stop_requests
    from edgerl.studies.sweep import Sweep, open_study

    with contextlib.ExitStack() as stack:
        if ray is not None:
            stack.enter_context(contextlib.redirect_stdout(sys.stderr))  # where Ray says what has died
        pool, cores = stack.enter_context(_pool(jobs, ray))
        found = stack.enter_context(open_study(study, runs, folder))
        if (check := getattr(pool, "check_storage", None)) is not None:
            check(folder)
        requests = stack.enter_context(stop_requests())
        with display:
            display.started(study, runs, folder)
            try:
                status = Sweep(runs, folder, found, pool, cores).run(display.report, requests)
            except EdgerlError as error:
                display.ended(error)
                raise
    display.finished(folder, status)


@contextlib.contextmanager
def _pool(jobs: int | None, ray: str | None) -> Iterator[tuple[Any, int]]:
    """(where runs run, how many at a time)."""
    from edgerl.studies.local import LocalPool, available_cores

    if ray is None:
        local = LocalPool(available_cores(jobs))
        with contextlib.closing(local):
            yield local, local.capacity
        return
    from edgerl.studies.cluster import LOCAL, RayPool

    cluster: RayPool = RayPool(ray, (jobs or len(available_cores())) if ray == LOCAL else jobs)
    with contextlib.closing(cluster):
        yield cluster, cluster.cpus


class _JsonLines:
    """An object a line: what begins, every change of a run, the end."""

    def __init__(self) -> None:
        self._before: dict[str, RunStatus] = {}

    def __enter__(self) -> None:
        pass

    def __exit__(self, *_: object) -> None:
        pass

    def started(self, study: Study, runs: Sequence[PlannedRun], folder: Path) -> None:
        """What begins or goes on."""
        self._print({"event": "started", "study": study.name, "folder": str(short(folder)), "runs": len(runs)})

    def report(self, status: SweepStatus) -> None:
        """The runs of which something is new."""
        for run in status.runs:
            before = self._before.get(run.name)
            if before is None or (before.state, before.step, before.message) != (run.state, run.step, run.message):
                self._before[run.name] = run
                self._print({"event": "run", **asdict(run)})

    def finished(self, folder: Path, status: SweepStatus) -> None:
        """The end."""
        self._print(
            {
                "event": "finished",
                "folder": str(short(folder)),
                "runs": len(status.runs),
                "seconds": status.seconds,
            }
        )

    def ended(self, error: EdgerlError) -> None:
        """An end before all are finished."""
        self._print({"event": "ended", "error": str(error)})

    def _print(self, line: dict[str, Any]) -> None:
        try:
            print_document(json.dumps(line, allow_nan=False))
        except OSError:  # who reads may leave; the runs go on
            give_up_results()


class _Screen:
    """A live table on a terminal; elsewhere nothing but runs that were started again or failed."""

    def __init__(self) -> None:
        from rich.console import Console
        from rich.live import Live

        console = Console(stderr=True, highlight=False, markup=False)
        self._live = Live(console=console, auto_refresh=False) if sys.stderr.isatty() else None
        self._say: Callable[[str], object] = note if self._live is None else console.print
        self._said: set[str] = set()
        self._named = ""  # environments that are code, as `edgerl table` asks for them

    def __enter__(self) -> None:
        if self._live is not None:
            self._live.start()

    def __exit__(self, *_: object) -> None:
        if self._live is not None:
            self._live.stop()

    def started(self, study: Study, runs: Sequence[PlannedRun], folder: Path) -> None:
        """What begins or goes on."""
        if any(may_be_code(*task) for task in study.tasks):
            self._named = "".join(f" --env {name}" for name in study.grid["environment"])
        self._say(f"{study.title}: {len(runs)} runs in {short(folder)}; Ctrl-C saves all, the same command goes on")

    def report(self, status: SweepStatus) -> None:
        """How it stands."""
        with contextlib.suppress(OSError, SystemExit):  # who reads our stderr may leave; rich answers with SystemExit
            for run in status.runs:
                line = f"{run.name}: {run.message}"
                if run.message and line not in self._said:
                    self._said.add(line)
                    self._say(line)
            if self._live is not None:
                self._live.update(live_table(status), refresh=True)

    def finished(self, folder: Path, status: SweepStatus) -> None:
        """The end."""
        print(f"{len(status.runs)} runs finished in {short(folder)}, {human_seconds(status.seconds)} this time")
        print(f"their table: edgerl table {short(folder)}{self._named}")

    def ended(self, error: EdgerlError) -> None:
        """An end before all are finished: the error itself is all there is to say."""


def live_table(status: SweepStatus) -> Table:
    """The runs that matter most now: running, failed, waiting, then those that are over."""
    from rich import box
    from rich.table import Table

    order = ("running", "failed", "stopped", "waiting", "finished")
    counts = ", ".join(f"{status.count(state)} {state}" for state in order if status.count(state))  # type: ignore[arg-type]
    left = "" if not status.seconds_left else f"; about {human_seconds(status.seconds_left)} left"
    title = f"{counts}; {human_seconds(status.seconds)} so far{left}"
    table = Table(title=title, title_justify="left", title_style="", box=box.SIMPLE_HEAD, pad_edge=False)
    for index, column in enumerate(("run", "state", "step", "return", "left")):
        table.add_column(column, justify="left" if index < 2 else "right", no_wrap=index > 0, overflow="fold")
    runs = sorted(status.runs, key=lambda run: order.index(run.state))
    for run in runs[:SHOWN_RUNS]:
        table.add_row(
            run.name,
            run.state,
            f"{run.step}/{run.steps}",
            "" if run.evaluation_return is None else f"{run.evaluation_return:.1f}",
            human_seconds(run.seconds_left) if run.seconds_left else "",
        )
    if len(runs) > SHOWN_RUNS:
        table.caption = f"and {len(runs) - SHOWN_RUNS} more"
    return table
