"""`edgerl train`."""

from __future__ import annotations

import contextlib
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from edgerl.cli.support.command import in_flags
from edgerl.cli.support.options import takes_options_of_a_run
from edgerl.cli.support.output import Json, print_json
from edgerl.run_folder import short
from edgerl.units import human_seconds

if TYPE_CHECKING:
    from rich.progress import TaskID

    from edgerl.training.trainer import RunResult, Status


@takes_options_of_a_run
def command(
    *,
    context: typer.Context,
    preset: str | None,
    config: Path | None,
    out: Annotated[
        Path | None,
        typer.Option(help="Output folder for the run.", show_default="runs/<env>-<method>-seed<seed>"),
    ] = None,
    resume: Annotated[
        Path | None,
        typer.Option(help="Continue this run, to bit-identical results; with --steps to another end."),
    ] = None,
    as_json: Json = False,
    **options: Any,
) -> None:
    """Train a policy, sparse from the first step.

    Ctrl-C finishes the episode (for 25 seconds at most) and saves; press it again to quit without saving.

    Example: edgerl train --preset quick --sparsity 0.9
    """
    from edgerl.errors import require

    for module in ("gymnasium", "tensorboard"):
        require(module, "train")
    from edgerl.training.train import train

    with _Progress() as progress:
        result = train(
            options.pop("environment", None),
            preset=preset,
            config=config,
            out=out,
            resume=resume,
            report=progress.report,
            notice=lambda line: progress.notice(in_flags(line, context.command.params)),
            **options,
        )
    _print(result, as_json)


CLOSED_PIPE = contextlib.suppress(OSError, SystemExit)
"""The reader of stderr may leave, as a `tee` that Ctrl-C ends; rich answers with SystemExit. Training continues."""


class _Progress:
    """A progress bar with steps/s, ETA and the last return; nothing where stderr is not a terminal."""

    def __enter__(self) -> _Progress:
        from rich.console import Console
        from rich.progress import BarColumn, Progress, TextColumn

        self._console = Console(stderr=True, highlight=False, soft_wrap=True)
        columns = TextColumn("training"), BarColumn(), TextColumn("{task.fields[numbers]}")
        self._progress = Progress(*columns, console=self._console, disable=not sys.stderr.isatty())
        self._task: TaskID | None = None
        return self

    def __exit__(self, *_: object) -> None:
        self._progress.stop()

    def notice(self, text: str) -> None:
        """A line above the bar."""
        with CLOSED_PIPE:
            self._console.print(text, markup=False)

    def report(self, status: Status) -> None:
        """Move the bar."""
        shown = described(status)
        with CLOSED_PIPE:
            if self._task is None:
                self._task = self._progress.add_task("", total=status.steps, numbers=shown)
                self._progress.start()
            self._progress.update(self._task, completed=status.step, numbers=shown)


def described(status: Status) -> str:
    """What stands beside the bar."""
    rate = status.session_steps / max(status.session_seconds, 1e-9)
    numbers = [f"{status.step}/{status.steps}", f"{rate:.0f} steps/s"]
    numbers.append(f"ETA {human_seconds((status.steps - status.step) / max(rate, 1e-9))}")
    if status.step < status.start_steps:
        numbers.append(f"random steps until {status.start_steps}")
    elif status.evaluation_return is not None:
        numbers.append(f"return {status.evaluation_return:.1f}")
    elif status.training_return is not None:
        numbers.append(f"return in training {status.training_return:.1f}")
    return "  ".join(numbers)


def _returned(result: RunResult) -> str:
    from edgerl.training.returns import mean_of

    rate = result.final_success_rate
    success = "" if rate is None else f", success {rate:.0%}"
    which = mean_of(result.final_evaluations)
    return f"return {result.final_return:.1f}{success}: {which}; of the best {result.best_return:.1f}"


def _print(result: RunResult, as_json: bool) -> None:
    if as_json:
        print_json(
            {
                "run": str(short(result.folder)),
                "policy": str(short(result.policy)),
                "steps": result.steps,
                "final_return": result.final_return,
                "final_evaluations": result.final_evaluations,
                "final_success_rate": result.final_success_rate,
                "best_return": result.best_return,
                "elapsed_seconds": result.elapsed_seconds,
                "faults": result.faults,
            }
        )
        return
    print(f"{result.steps} steps in {human_seconds(result.elapsed_seconds)}")
    if result.final_return is not None:
        print(_returned(result))
    if result.faults:
        print(f"faults of the environment: {result.faults}")
    print(f"policy {short(result.policy)}")
