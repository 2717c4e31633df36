"""`edgerl export`: a policy in a format that other runtimes read, or a learner that goes on learning on a device."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from edgerl.cli.models import find_model, find_run
from edgerl.cli.output import Force, Json, human_bytes, note, print_json
from edgerl.errors import ConfigError
from edgerl.run_folder import CONFIG, LEARNER, ONNX, POLICY

if TYPE_CHECKING:
    from edgerl.compact.policy import CompactPolicy
    from edgerl.export import ExportReport
    from edgerl.training.handover import HandoverReport

LEARNER_FORMAT, C_FORMAT = "learner", "c"


def command(
    policy: Annotated[
        Path | None,
        typer.Argument(
            help="Run folder, policy.safetensors or state folder of a learner; default: runs/latest.",
            show_default=False,
        ),
    ] = None,
    format: Annotated[str, typer.Option("--format", help="Format of the output: onnx, learner or c.")] = "onnx",
    output: Annotated[
        Path | None, typer.Option("-o", "--output", help="Output file; default: beside the policy.", show_default=False)
    ] = None,
    sparse_initializers: Annotated[
        bool,
        typer.Option("--sparse-initializers", help="Store sparse weights sparsely; onnxruntime reads it, few others."),
    ] = False,
    replay: Annotated[
        int | None,
        typer.Option(
            min=0,
            help="learner: transitions of the run to begin with; c: those kept.",
            show_default="10000, or what fits",
        ),
    ] = None,
    replay_dtype: Annotated[
        str | None,
        typer.Option(help="learner, c: how observations and actions are kept, fp32 or fp16.", show_default="fp32"),
    ] = None,
    replay_policy: Annotated[
        str | None,
        typer.Option(help="learner: transitions kept, ring (the newest) or reservoir (a sample).", show_default="ring"),
    ] = None,
    memory: Annotated[
        str | None,
        typer.Option(help="learner, c: bytes of networks and replay together on the device.", show_default="32MiB"),
    ] = None,
    learn: Annotated[
        bool, typer.Option("--learn", help="c: the learner, which goes on learning on a microcontroller.")
    ] = False,
    batch: Annotated[
        int | None, typer.Option(help="c --learn: transitions per update there.", show_default="(the run's)")
    ] = None,
    target: Annotated[
        str | None,
        typer.Option(help="c: device whose budgets count, or cortex-m4, cortex-m7, generic.", show_default="generic"),
    ] = None,
    prefix: Annotated[
        str | None, typer.Option(help="c: what all names begin with.", show_default="edgerl_learner")
    ] = None,
    force: Force = False,
    json: Json = False,
) -> None:
    """Write a policy as ONNX, and check the file before it gets its name; or a learner for a device.

    onnx: normalisation and action scaling are inside the graph. Of the state folder of `edgerl learn`, the policy that
    drives, without dead units. learner: everything that `edgerl learn` needs. c with --learn: the learner as one C
    file, from a run folder or a learner.safetensors.

    In a run or state folder, policy.onnx and learner.safetensors are replaced; any other output that exists needs
    --force.

    Example: edgerl export --format onnx
    """
    from edgerl.export import FORMATS, check_format

    check_format(format, (*FORMATS, LEARNER_FORMAT, C_FORMAT))
    choices = {"replay": replay, "replay-dtype": replay_dtype, "replay-policy": replay_policy, "memory": memory}
    if format == C_FORMAT:
        _refuse_options(format, {"sparse-initializers": sparse_initializers or None, "replay-policy": replay_policy})
        _export_c(policy, output, force, json, learn, replay, replay_dtype, memory, batch, target, prefix)
        return
    _refuse_options(format, {"learn": learn or None, "batch": batch, "target": target, "prefix": prefix})
    if format == LEARNER_FORMAT:
        _refuse_options(format, {"sparse-initializers": sparse_initializers or None})
        _print_handover(_export_learner(policy, output, force, **_chosen(choices)), json)
    else:
        _refuse_options(format, choices)
        _print(_export_policy(policy, format, output, force, sparse_initializers), sparse_initializers, json)


def _export_c(
    source: Path | None,
    output: Path | None,
    force: bool,
    json: bool,
    learn: bool,
    replay: int | None,
    replay_dtype: str | None,
    memory: str | None,
    batch: int | None,
    target: str | None,
    prefix: str | None,
) -> None:
    from edgerl.cli.c_learner import export_c_learner
    from edgerl.profiling.units import parse_bytes

    if not learn:
        raise ConfigError("--format c writes a learner; add --learn")
    export_c_learner(
        source,
        output,
        force=force,
        json=json,
        replay=replay,
        replay_dtype=replay_dtype,
        memory=None if memory is None else parse_bytes(memory, "--memory"),
        batch=batch,
        target=target,
        prefix=prefix,
    )


def _refuse_options(format: str, options: dict[str, Any]) -> None:
    for name, value in options.items():
        if value is not None:
            raise ConfigError(f"--{name} was given, which --format {format} does not have; leave it out")


def _chosen(choices: dict[str, Any]) -> dict[str, Any]:
    """The options of a learner as `hand_over` names them, those left out not among them."""
    from edgerl.profiling.units import parse_bytes

    names = {"replay": "seed", "replay-dtype": "precision", "replay-policy": "keep", "memory": "memory"}
    chosen = {names[option]: value for option, value in choices.items() if value is not None}
    if "memory" in chosen:
        chosen["memory"] = parse_bytes(chosen["memory"], "--memory")
    return chosen


def _export_learner(run: Path | None, output: Path | None, force: bool, **chosen: Any) -> HandoverReport:
    from edgerl.training.handover import hand_over

    folder = find_run(run)
    return hand_over(folder, output or folder / LEARNER, force=force or output is None, **chosen)


def _export_policy(
    model: Path | None, format: str, output: Path | None, force: bool, sparse_initializers: bool
) -> ExportReport:
    from edgerl.edge.store import Snapshots
    from edgerl.export import export_policy

    source: CompactPolicy | Path
    if model is not None and Snapshots(model).are_there:
        source, goal, is_ours = _champion(model), model / ONNX, True
    else:
        source = find_model(model, (POLICY,))
        goal, is_ours = source.with_suffix(f".{format}"), source.name == POLICY and source.with_name(CONFIG).exists()
    force = force or (output is None and is_ours)
    return export_policy(source, format, output or goal, force=force, sparse_initializers=sparse_initializers)


def _champion(state: Path) -> CompactPolicy:
    from edgerl.compact.pruning import compact
    from edgerl.edge.learner import champion_policy

    return compact(champion_policy(state))


def _print(report: ExportReport, sparse_initializers: bool, json: bool) -> None:
    if json:
        print_json({**asdict(report), "path": str(report.path)})
        return
    print(f"{report.path}: {human_bytes(report.n_bytes)}, {report.architecture}, opset {report.opset}")
    print(
        f"largest difference to the policy: {report.largest_difference:.1e} of the action range "
        f"(extreme observations: {report.largest_difference_extreme:.1e})"
    )
    if report.sparse_layers:
        print(f"sparse initialisers in {report.sparse_layers} layers; checked with onnxruntime")
        note(f"not readable by: {', '.join(report.excluded_readers)}")
    elif sparse_initializers:
        note("no layer is smaller with sparse initialisers; all are dense")


def _print_handover(report: HandoverReport, json: bool) -> None:
    memory = report.memory
    if json:
        described = {**asdict(report), "path": str(report.path)}
        print_json({**described, "memory": {**asdict(memory), "total": memory.total}})
        return
    connections = ", ".join(f"{name} {count}" for name, count in report.connections.items())
    print(f"{report.path}: {human_bytes(report.n_bytes)}, after {report.updates} updates; connections {connections}")
    print(
        f"memory on a device {human_bytes(memory.total)}: networks {human_bytes(memory.arena)}, champion "
        f"{human_bytes(memory.champion)}, replay {human_bytes(memory.replay)}"
    )
    print(
        f"replay {report.keep} of {memory.capacity} transitions, {memory.record} bytes each in {report.precision}; "
        f"{report.seed} of the run to begin with"
    )
