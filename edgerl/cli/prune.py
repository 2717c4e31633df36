"""`edgerl prune`."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from edgerl.cli.support.output import Force, Json, Met, OwnEnv, note, print_json, print_table
from edgerl.cli.support.precision import Dtype, Outliers, precision_of
from edgerl.commands.models import find_subject
from edgerl.run_folder import short
from edgerl.units import human_bytes

if TYPE_CHECKING:
    from edgerl.compression.prune import PruneResult


def command(
    run: Annotated[
        Path | None, typer.Argument(help="Run folder or policy.safetensors.", show_default="runs/latest")
    ] = None,
    output: Annotated[
        Path | None,
        typer.Option("-o", "--output", help="File to write; needed for a file.", show_default="that of the run"),
    ] = None,
    sparsity: Annotated[float | None, typer.Option(help="Prune further, to this share of absent weights.")] = None,
    criterion: Annotated[
        str,
        typer.Option(
            metavar="magnitude|sparsegpt",
            help="What goes then: the smallest weights, or what the others can best make up for, and they do.",
        ),
    ] = "magnitude",
    dtype: Dtype = "fp32",
    outliers: Outliers = None,
    finetune: Annotated[
        bool, typer.Option("--finetune", help="Train int8 or int4 weights to act as the policy did, in its own states.")
    ] = False,
    observations: Met = None,
    env: OwnEnv = None,
    episodes: Annotated[int, typer.Option(min=0, help="Evaluation episodes before and after; 0 for none.")] = 10,
    force: Force = False,
    as_json: Json = False,
) -> None:
    """Turn a run's masked policy, or one in a file, into its compact form: no masked weight, no dead unit.

    Of a file that names no environment, say it (--env), or --episodes 0.

    Example: edgerl prune --sparsity 0.9 --dtype fp16 -o small.safetensors
    """
    from edgerl.compression.prune import prune

    precision = precision_of(dtype)
    if finetune:
        note("fine-tuning: about ten seconds of a core for a hidden layer of 256 × 256")
    result = prune(
        find_subject(run, note),
        output,
        sparsity=sparsity,
        criterion=criterion,  # type: ignore[arg-type]  # a word that the library checks
        precision=precision,
        outliers=outliers,
        finetune=finetune,
        observations=observations,
        episodes=episodes,
        env=env,
        force=force,
    )
    for line in result.warnings:
        note(line)
    if not as_json:
        _print(result)
        return
    print_json(
        {
            "policy": str(short(result.path)),
            "architecture": result.policy.architecture,
            "layers": [asdict(layer) for layer in result.layers],
            "file_bytes": result.file_bytes,
            "action_difference": asdict(result.difference),
            "episodes": result.episodes,
            "warnings": list(result.warnings),
            "returns": None if result.returns is None else [asdict(returns) for returns in result.returns],
        }
    )


def _print(result: PruneResult) -> None:
    from edgerl.compression.returns import describe_returns

    rows = [
        (
            str(index + 1),
            f"{layer.inputs[0]}×{layer.outputs[0]} → {layer.inputs[1]}×{layer.outputs[1]}",
            f"{layer.connections[0]} → {layer.connections[1]}",
            f"{human_bytes(layer.bytes[0])} → {human_bytes(layer.bytes[1])}"
            + (f", {layer.outliers} outliers" if layer.outliers else ""),
        )
        for index, layer in enumerate(result.layers)
    ]
    print_table(("layer", "inputs × outputs", "connections", "stored"), rows)
    before, after = (human_bytes(count) for count in result.file_bytes)
    print(f"file {before} → {after}: {short(result.path)}")
    print(result.difference.describe())
    if result.returns is None:
        print("no return was measured: there were no episodes")
    else:
        print(describe_returns(result.returns, result.episodes))
