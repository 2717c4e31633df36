"""`edgerl sweep`."""

from __future__ import annotations

import contextlib
import json
import sys
from collections.abc import Callable, Sequence
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
from edgerl.run_folder import short
from edgerl.units import human_seconds

if TYPE_CHECKING:
    from rich.table import Table

    from edgerl.commands.sweep import SweepPlan
    from edgerl.studies.grid import PlannedRun
    from edgerl.studies.study import Study
    from edgerl.studies.sweep import RunStatus, SweepStatus

SHOWN_RUNS = 30
"""Rows of the live table; the summary above it counts all runs."""


class SweepCommand(Command):
    """`--ray` needs no value, which the parser's options do."""

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
    study: Annotated[
        str, typer.Argument(metavar="STUDY", help="table1, schedule, sparsity, recipe, quick, or a .toml file.")
    ],
    out: Annotated[Path | None, typer.Option(help="The study's folder.", show_default="runs/<study>")] = None,
    jobs: Annotated[
        int | None, typer.Option(min=1, help="Runs at the same time, a core each.", show_default="cores")
    ] = None,
    ray: Annotated[
        str | None,
        typer.Option(
            metavar="[ADDRESS]",
            help="On the Ray cluster at HOST:PORT; auto: the one on this machine; no address: start one here.",
        ),
    ] = None,
    storage: Annotated[
        Path | None, typer.Option(help="Folder that every node of the cluster sees; the study's folder is in it.")
    ] = None,
    steps: Annotated[int | None, typer.Option(help="Environment steps of every run, instead of the study's.")] = None,
    env: Annotated[list[str] | None, typer.Option(help="One of the study's environments; may be repeated.")] = None,
    seeds: Annotated[
        str | None, typer.Option(metavar="N,N,…", help="Seeds, as in 0,1,2 or 0-2.", show_default="the study's")
    ] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Print the grid, its FLOPs and the expected hours, after a short timing.")
    ] = False,
    as_json: Annotated[
        bool,
        typer.Option("--json", callback=keep_results_apart, help="Print JSON, an object a line, for programs."),
    ] = False,
) -> None:
    """Run every run of a study: here, one core each, or on a Ray cluster.

    Finished runs are skipped and others resume from their checkpoints, so the same command continues after whatever
    stopped it: Ctrl-C, a kill, a lost node. A study is a TOML file, see docs/studies.md.

    Example: edgerl sweep table1 --steps 300000 --dry-run
    """
    from edgerl.commands.sweep import plan_sweep, sweep

    options: dict[str, Any] = {"out": out, "jobs": jobs, "ray": ray, "storage": storage, "steps": steps, "env": env}
    options |= {"seeds": parse_seeds(seeds), "notice": note}
    if dry_run:
        plan = plan_sweep(study, **options)
        if not as_json:
            _print_plan(plan)
            return
        for each in plan.runs:
            print_document(json.dumps({"event": "planned", **each.as_dict()}))
        print_document(json.dumps({"event": "total", **plan.as_dict()}))
        return
    display = _JsonLines() if as_json else _Screen()
    with display:
        try:
            status = sweep(study, started=display.started, report=display.report, **options)
        except EdgerlError as error:
            display.ended(error)
            raise
    display.finished(status)


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


def _print_plan(plan: SweepPlan) -> None:
    print_table(
        ("run", "state", "connections", "FLOPs", "expected"),
        [
            (
                each.run.name,
                each.progress.stage if each.progress.stage != "unfinished" else f"at step {each.progress.step}",
                str(each.run.connections),
                f"{each.run.flops_paper:.3g}",
                human_seconds(each.seconds) if each.seconds else "",
            )
            for each in plan.runs
        ],
        title=f"{plan.study.title}: {short(plan.folder)}",
    )
    paper, full = (sum(getattr(each.run, name) for each in plan.runs) for name in ("flops_paper", "flops_full"))
    finished = f"{len(plan.runs)} runs, {plan.finished} finished"
    print(f"{finished}; FLOPs in all: {paper:.3g} as the paper counts, {full:.3g} in full")
    hours = f"{plan.core_seconds / 3600:.2g} core hours"
    if plan.seconds is None:
        print(f"expected: {hours} at the pace of this machine; the cluster was not asked")
    else:
        cores = f"{plan.cores} core{'' if plan.cores == 1 else 's'}"
        print(f"expected: {human_seconds(plan.seconds)} on {cores} of this machine, {hours}")
    print("by a short timing of each kind of run, with the machine to itself and the longest episodes possible")


class _JsonLines:
    """An object a line: the start, every change of a run, the end."""

    def __init__(self) -> None:
        self._before: dict[str, RunStatus] = {}
        self._folder: Path | None = None  # once it has started

    def __enter__(self) -> None:
        pass

    def __exit__(self, *_: object) -> None:
        pass

    def started(self, study: Study, runs: Sequence[PlannedRun], folder: Path) -> None:
        """What starts or resumes."""
        self._folder = folder
        self._print({"event": "started", "study": study.name, "folder": str(short(folder)), "runs": len(runs)})

    def report(self, status: SweepStatus) -> None:
        """The runs of which something is new."""
        for run in status.runs:
            before = self._before.get(run.name)
            if before is None or (before.state, before.step, before.message) != (run.state, run.step, run.message):
                self._before[run.name] = run
                self._print({"event": "run", **asdict(run)})

    def finished(self, status: SweepStatus) -> None:
        """The end."""
        assert self._folder is not None
        self._print(
            {
                "event": "finished",
                "folder": str(short(self._folder)),
                "runs": len(status.runs),
                "seconds": status.seconds,
            }
        )

    def ended(self, error: EdgerlError) -> None:
        """An end before all are finished; a study that was refused has not started."""
        if self._folder is not None:
            self._print({"event": "ended", "error": str(error)})

    def _print(self, line: dict[str, Any]) -> None:
        try:
            print_document(json.dumps(line, allow_nan=False))
        except OSError:  # the reader may leave; the runs continue
            give_up_results()


class _Screen:
    """A live table on a terminal; elsewhere only runs that were restarted or failed."""

    def __init__(self) -> None:
        from rich.console import Console
        from rich.live import Live

        console = Console(stderr=True, highlight=False, markup=False)
        self._live = Live(console=console, auto_refresh=False) if sys.stderr.isatty() else None
        self._say: Callable[[str], object] = note if self._live is None else console.print
        self._said: set[str] = set()
        self._folder = Path()
        self._named = ""  # environments that are code, as `edgerl table` asks for them

    def __enter__(self) -> None:
        pass

    def __exit__(self, *_: object) -> None:
        if self._live is not None:
            self._live.stop()

    def started(self, study: Study, runs: Sequence[PlannedRun], folder: Path) -> None:
        """What starts or resumes."""
        if self._live is not None:
            self._live.start()
        self._folder = folder
        if any(may_be_code(*task) for task in study.tasks):
            self._named = "".join(f" --env {name}" for name in study.grid["environment"])
        self._say(f"{study.title}: {len(runs)} runs in {short(folder)}; Ctrl-C saves all, the same command continues")

    def report(self, status: SweepStatus) -> None:
        """The present status."""
        with contextlib.suppress(OSError, SystemExit):  # the reader of stderr may leave; rich answers with SystemExit
            for run in status.runs:
                line = f"{run.name}: {run.message}"
                if run.message and line not in self._said:
                    self._said.add(line)
                    self._say(line)
            if self._live is not None:
                self._live.update(live_table(status), refresh=True)

    def finished(self, status: SweepStatus) -> None:
        """The end."""
        folder = short(self._folder)
        print(f"{len(status.runs)} runs finished in {folder}, {human_seconds(status.seconds)} this time")
        print(f"their table: edgerl table {folder}{self._named}")

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
