"""`edgerl distill`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from edgerl.cli.support.command import in_flags
from edgerl.cli.support.options import whole_numbers
from edgerl.cli.support.output import Force, Json, OwnEnv, note, print_json, print_table
from edgerl.cli.support.precision import Dtype, Outliers, precision_of
from edgerl.commands.models import find_subject
from edgerl.run_folder import short
from edgerl.units import human_bytes

if TYPE_CHECKING:
    from edgerl.compression.distill import DistillResult, Progress


def command(
    context: typer.Context,
    teacher: Annotated[
        Path | None, typer.Argument(help="Run folder or policy.safetensors.", show_default="runs/latest")
    ] = None,
    output: Annotated[
        Path | None,
        typer.Option("-o", "--output", help="File to write.", show_default="student.safetensors beside it"),
    ] = None,
    env: OwnEnv = None,
    observations: Annotated[
        Path | None,
        typer.Option(
            help="Learn from these alone, with no return: a .npy, a .csv, a learner's transitions.log or a run folder."
        ),
    ] = None,
    method: Annotated[
        str,
        typer.Option(metavar="dagger|kd", help="dagger: the student acts; kd: the teacher does, in every round."),
    ] = "dagger",
    hidden: Annotated[
        str | None, typer.Option(metavar="N,N,…", help="Units of the hidden layers.", show_default="the teacher's")
    ] = None,
    topology: Annotated[
        str, typer.Option(metavar="dense|static|dynamic", help="dense, or sparse: static, or evolving.")
    ] = "dynamic",
    sparsity: Annotated[
        float | None, typer.Option(help="1 − connections / dense weights.", show_default="0.8; dense: none")
    ] = None,
    block: Annotated[int, typer.Option(help="Unit of topology, in outputs: 1 or 4.")] = 1,
    growth: Annotated[str, typer.Option(metavar="random|gradient", help="Where connections grow.")] = "gradient",
    rounds: Annotated[int, typer.Option(help="Rounds in the environment: in the first the teacher acts.")] = 10,
    updates: Annotated[int, typer.Option(help="Updates in all, shared out over the rounds.")] = 50_000,
    learning_rate: Annotated[float, typer.Option(help="Of Adam at the beginning; it falls to 0.")] = 3e-3,
    batch_size: Annotated[int, typer.Option(help="States in a batch.")] = 256,
    dtype: Dtype = "fp32",
    outliers: Outliers = None,
    seed: Annotated[int, typer.Option(help="Seed of every random draw.")] = 0,
    episodes: Annotated[int, typer.Option(help="Episodes that measure the returns.")] = 20,
    resume: Annotated[
        bool, typer.Option("--resume", help="Go on with what was interrupted, to the same bits.")
    ] = False,
    force: Force = False,
    as_json: Json = False,
) -> None:
    """Write a student that acts as a trained policy does: sparse from its first step, smaller, of fewer bits.

    Its hidden layers have ReLU; normalisation, head and bounds are the teacher's. Ctrl-C saves, for --resume.

    Example: edgerl distill --sparsity 0.9 --block 4 -o student.safetensors
    """
    from edgerl.compression.distill import distill

    result = distill(
        find_subject(teacher, note),
        output,
        env=env,
        observations=observations,
        method=method,  # type: ignore[arg-type]  # a word that the library checks, like two more below
        hidden=None if hidden is None else whole_numbers("hidden", hidden),
        topology=topology,  # type: ignore[arg-type]
        sparsity=sparsity,
        block=block,
        growth=growth,  # type: ignore[arg-type]
        rounds=rounds,
        updates=updates,
        learning_rate=learning_rate,
        batch_size=batch_size,
        precision=precision_of(dtype),
        outliers=outliers,
        seed=seed,
        episodes=episodes,
        resume=resume,
        force=force,
        report=_report,
        notice=lambda line: note(in_flags(line, context.command.params)),
    )
    if as_json:
        print_json(result.as_dict())
    else:
        _print(result)


def _report(progress: Progress) -> None:
    """A line for each round."""
    last, number = progress.rounds[-1], len(progress.rounds)
    returned = "" if last.mean_return is None else f"; the {last.actor} that met them returned {last.mean_return:.1f}"
    note(
        f"round {number}: {progress.updates} of {progress.of} updates, {last.observations} states, action error "
        f"{last.root_mean_square:.2%}{returned}".replace("%", " %")
    )


def _print(result: DistillResult) -> None:
    teacher, student = result.teacher, result.student
    rows = [
        ("layers", teacher.architecture, student.architecture),
        ("connections", str(teacher.connections), str(student.connections)),
        ("file", *map(human_bytes, result.file_bytes)),
    ]
    if result.returns is not None:
        rows.append(("return", *(f"{each.mean:.1f} [{each.low:.1f}, {each.high:.1f}]" for each in result.returns)))
    print_table(("", "teacher", "student"), rows)
    print(f"{result.difference.describe()}, {result.difference.root_mean_square:.2g} root mean square")
    if result.returns is None:
        print("no return was measured: it learnt from observations alone, without an environment")
    else:
        print(f"returns over the same {result.episodes} episodes, with 95 % bootstrap intervals")
    print(f"policy {short(result.path)}")
