"""`edgerl train`."""

from __future__ import annotations

import contextlib
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from edgerl.cli.support.output import Json, print_json
from edgerl.run_folder import short
from edgerl.units import human_seconds

if TYPE_CHECKING:
    from rich.progress import TaskID

    from edgerl.training.trainer import RunResult, Status


def command(
    env: Annotated[
        str | None, typer.Option(help="Gymnasium id, module:id, or module:factory.", show_default="HalfCheetah-v5")
    ] = None,
    env_arg: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME=VALUE",
            help="An argument of the environment: a number, true, false, or a text in quotes; repeatable.",
            show_default=False,
        ),
    ] = None,
    preset: Annotated[str, typer.Option(help="paper: its hyper-parameters for the task; quick: minutes.")] = "paper",
    method: Annotated[str | None, typer.Option(help="td3, static-td3 or ds-td3.", show_default="ds-td3")] = None,
    sparsity: Annotated[
        float | None, typer.Option(help="1 − connections / dense weights of each network; instead of λ1 and λ2.")
    ] = None,
    lambda1: Annotated[float | None, typer.Option(help="Erdős–Rényi factor of the first layer.")] = None,
    lambda2: Annotated[float | None, typer.Option(help="Erdős–Rényi factor of further hidden layers.")] = None,
    actor_sparsity: Annotated[
        float | None, typer.Option(help="1 − connections / dense weights of the actor.", show_default="--sparsity")
    ] = None,
    critic_sparsity: Annotated[
        float | None, typer.Option(help="1 − connections / dense weights of each critic.", show_default="--sparsity")
    ] = None,
    distribution: Annotated[
        str | None,
        typer.Option(help="Of connections at a sparsity: er (Erdős–Rényi) or uniform.", show_default="er"),
    ] = None,
    output_layer: Annotated[
        str | None, typer.Option(help="dense, or sparse as the other layers at a sparsity.", show_default="dense")
    ] = None,
    block: Annotated[
        int | None, typer.Option(help="Unit of topology: 1 (the paper's) or 4 outputs.", show_default="1")
    ] = None,
    growth: Annotated[str | None, typer.Option(help="random (SET) or gradient (RigL).", show_default="random")] = None,
    drop_schedule: Annotated[
        str | None,
        typer.Option(help="Share dropped: constant, or cosine: falls to 0 at the end (RigL).", show_default="constant"),
    ] = None,
    hidden: Annotated[str | None, typer.Option(help="Units of the hidden layers.", show_default="256,256")] = None,
    normalize: Annotated[
        bool | None, typer.Option("--normalize", help="Standardise observations by their running mean and variance.")
    ] = None,
    n_step: Annotated[int | None, typer.Option(help="Rewards per return.", show_default="1")] = None,
    n_step_delay: Annotated[
        int | None, typer.Option(help="Critic updates with 1 reward per return, before --n-step.", show_default="0")
    ] = None,
    steps: Annotated[int | None, typer.Option(help="Environment steps.", show_default="1000000, quick 30000")] = None,
    seed: Annotated[int | None, typer.Option(help="Every random draw follows from it.", show_default="0")] = None,
    policy: Annotated[
        str | None, typer.Option(help="Keep the last or the best evaluated policy for export.", show_default="last")
    ] = None,
    checkpoint_interval: Annotated[
        int | None, typer.Option(help="Steps from checkpoint to checkpoint.", show_default="10000, quick 5000")
    ] = None,
    max_episode_steps: Annotated[
        int | None,
        typer.Option(
            help="Steps after which an episode is cut.", show_default="the environment's own limit, or else 10000"
        ),
    ] = None,
    evaluation: Annotated[
        str | None,
        typer.Option(
            help="In a separate environment, between-episodes in the training's own, or none; auto: separate where the "
            "environment can be made twice.",
            show_default="auto",
        ),
    ] = None,
    on_fault: Annotated[
        str | None,
        typer.Option(
            help="Where a step fails or gives NaN: stop, or truncate the episode and go on.", show_default="stop"
        ),
    ] = None,
    device: Annotated[str | None, typer.Option(help="cpu or cuda.", show_default="cpu")] = None,
    engine: Annotated[
        str | None,
        typer.Option(
            help="native (sparse, in C, on the CPU), torch, or auto: native on the CPU, torch on CUDA.",
            show_default="auto",
        ),
    ] = None,
    threads: Annotated[int | None, typer.Option(help="PyTorch's threads; part of the run.", show_default="1")] = None,
    out: Annotated[
        Path | None, typer.Option(help="Run folder to make.", show_default="runs/<env>-<method>-seed<seed>")
    ] = None,
    resume: Annotated[
        Path | None,
        typer.Option(help="Go on with this run folder, to bit-identical results; with --steps to another end."),
    ] = None,
    as_json: Json = False,
) -> None:
    """Train a policy, sparse from the first step.

    Ctrl-C finishes the episode (for 25 seconds at most) and saves; a second Ctrl-C leaves at once, with the last
    checkpoint.

    Example: edgerl train --preset quick --sparsity 0.9
    """
    from edgerl.errors import require

    for module in ("torch", "gymnasium", "tensorboard"):
        require(module, "train")
    from edgerl.environments.arguments import parse
    from edgerl.training.trainer import train

    options: dict[str, Any] = {
        "env_args": parse(env_arg) if env_arg else None,
        "method": method,
        "sparsity": sparsity,
        "lambda1": lambda1,
        "lambda2": lambda2,
        "actor_sparsity": actor_sparsity,
        "critic_sparsity": critic_sparsity,
        "distribution": distribution,
        "output_layer": output_layer,
        "block": block,
        "growth": growth,
        "drop_schedule": drop_schedule,
        "hidden": None if hidden is None else parse_hidden(hidden),
        "normalize": normalize,
        "n_step": n_step,
        "n_step_delay": n_step_delay,
        "steps": steps,
        "seed": seed,
        "policy": policy,
        "checkpoint_interval": checkpoint_interval,
        "max_episode_steps": max_episode_steps,
        "evaluation": evaluation,
        "on_fault": on_fault,
        "device": device,
        "engine": engine,
        "threads": threads,
    }
    with _Progress() as progress:
        result = train(
            env,
            preset=preset,  # type: ignore[arg-type]
            out=out,
            resume=resume,
            report=progress.report,
            notice=progress.notice,
            **options,
        )
    _print(result, as_json)


def parse_hidden(text: str) -> tuple[int, ...]:
    """'256,256' → (256, 256). Raises ConfigError."""
    from edgerl.errors import ConfigError

    try:
        return tuple(int(part) for part in text.split(","))
    except ValueError as error:
        raise ConfigError(f"--hidden is {text!r}; expected whole numbers with commas, as in 256,256") from error


CLOSED_PIPE = contextlib.suppress(OSError, SystemExit)
"""Who reads our stderr may leave, as a `tee` that Ctrl-C ends; rich answers with SystemExit. Training goes on."""


class _Progress:
    """A progress bar with steps/s, ETA and the last return; nothing where stderr is no terminal."""

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
