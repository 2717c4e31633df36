"""`edgerl export`: a policy in a format that other runtimes read, or a learner that goes on learning on a device."""

from __future__ import annotations

import sys
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from edgerl.cli.support.measuring_c import Measured, measure_export
from edgerl.cli.support.models import find_model, find_run
from edgerl.cli.support.output import Force, Json, described_difference, note, print_json
from edgerl.errors import CheckFailed, ConfigError, FileFormatError
from edgerl.run_folder import C_FOLDER, CHECKPOINT, CONFIG, LEARNER, ONNX, POLICY
from edgerl.units import human_bytes

if TYPE_CHECKING:
    from edgerl.edge.runtimes import RuntimeName
    from edgerl.export.c import COptions, CReport
    from edgerl.export.onnx import OnnxReport
    from edgerl.policy.compact import Array, CompactPolicy
    from edgerl.profiling.budgets.device import Device
    from edgerl.training.handover import HandoverReport

LEARNER_FORMAT = "learner"
C_LEARNER = "c --learn"

HAVE = {
    "onnx": {"sparse-initializers"},
    "c": {"dtype", "target", "layout", "prefix", "measure", "project"},
    C_LEARNER: {"learn", "target", "prefix", "replay", "replay-dtype", "memory", "batch"},
    LEARNER_FORMAT: {"replay", "replay-dtype", "replay-policy", "memory"},
}
"""Options of each format alone."""


def command(
    policy: Annotated[
        Path | None,
        typer.Argument(
            help="Run folder, policy.safetensors or state folder of a learner; default: runs/latest.",
            show_default=False,
        ),
    ] = None,
    format: Annotated[str, typer.Option("--format", help="Format of the output: onnx, c or learner.")] = "onnx",
    output: Annotated[
        Path | None,
        typer.Option(
            "-o", "--output", help="Output file, for c output folder; default: beside the policy.", show_default=False
        ),
    ] = None,
    sparse_initializers: Annotated[
        bool,
        typer.Option(
            "--sparse-initializers", help="Store sparse weights sparsely; onnxruntime reads it, most others refuse."
        ),
    ] = False,
    dtype: Annotated[
        str | None,
        typer.Option(help="c: weights as fp32, fp16 or int8.", show_default="as the policy stores them"),
    ] = None,
    target: Annotated[
        str | None,
        typer.Option(
            help="c: cortex-m4, cortex-m7, esp32, rp2040, generic, or a device, whose budgets are then kept.",
            show_default="generic",
        ),
    ] = None,
    layout: Annotated[
        str | None,
        typer.Option(help="c: dense, sparse, or auto, what is faster and not much larger.", show_default="auto"),
    ] = None,
    prefix: Annotated[
        str | None,
        typer.Option(
            help="c: of every name, and of the files.", show_default="edgerl_policy, or edgerl_learner with --learn"
        ),
    ] = None,
    learn: Annotated[
        bool, typer.Option("--learn", help="c: the learner, which goes on learning on a microcontroller.")
    ] = False,
    batch: Annotated[
        int | None, typer.Option(help="c --learn: transitions per update there.", show_default="(the run's)")
    ] = None,
    project: Annotated[
        bool,
        typer.Option("--project", help="c: with files for CMake, PlatformIO and Arduino, ESP-IDF, and Zephyr."),
    ] = False,
    measure: Annotated[
        bool | None,
        typer.Option(
            "--measure/--no-measure",
            help="c: compile it for the target's Cortex-M, and count its instructions in QEMU.",
            show_default="where the cross compiler is",
        ),
    ] = None,
    replay: Annotated[
        int | None,
        typer.Option(
            min=0,
            help="learner: transitions of the run to begin with; c --learn: those that are kept.",
            show_default="10000, or what fits",
        ),
    ] = None,
    replay_dtype: Annotated[
        str | None,
        typer.Option(
            help="learner, c --learn: how observations and actions are kept, fp32 or fp16.", show_default="fp32"
        ),
    ] = None,
    replay_policy: Annotated[
        str | None,
        typer.Option(help="learner: transitions kept, ring (the newest) or reservoir (a sample).", show_default="ring"),
    ] = None,
    memory: Annotated[
        str | None,
        typer.Option(
            help="learner, c --learn: bytes of networks and replay together on the device.", show_default="32MiB"
        ),
    ] = None,
    force: Force = False,
    json: Json = False,
) -> None:
    """Write a policy as ONNX, and check the file before it gets its name; as C; or a learner for a device.

    onnx and c: normalisation and action scaling are inside. Of the state folder of `edgerl learn`, the policy that
    drives, without dead units. c: a header and a C file for a firmware project; with --learn the
    learner, from a run folder or a learner.safetensors. learner: everything that `edgerl learn` needs.

    In a run or state folder, policy.onnx, the files in c/ and learner.safetensors are replaced; any other output that
    exists needs --force.

    Example: edgerl export --format onnx
    """
    from edgerl.export import FORMATS, check_format

    check_format(format, (*FORMATS, LEARNER_FORMAT))
    options: dict[str, Any] = {
        "sparse-initializers": sparse_initializers or None,
        "dtype": dtype,
        "layout": layout,
        "target": target,
        "prefix": prefix,
        "measure": measure,
        "project": project or None,
        "learn": learn or None,
        "batch": batch,
        "replay": replay,
        "replay-dtype": replay_dtype,
        "replay-policy": replay_policy,
        "memory": memory,
    }
    kind = C_LEARNER if learn and format == "c" else format
    _refuse_options(kind, {name: value for name, value in options.items() if name not in HAVE[kind]})
    if format == LEARNER_FORMAT:
        _print_handover(_export_learner(policy, output, force, **_chosen(options)), json)
    elif learn:
        _export_c_learner(policy, output, force, json, options)
    elif format == "c":
        core = _measured_core(target, measure)
        report, source = _export_c(policy, output, force, dtype, target, layout, prefix, project)
        _print_c(report, None if core is None else measure_export(report, source, core), json)
    else:
        _print(_export_onnx(policy, output, force, sparse_initializers), sparse_initializers, json)


def _export_c_learner(
    source: Path | None, output: Path | None, force: bool, json: bool, options: dict[str, Any]
) -> None:
    from edgerl.cli.support.c_learner import export_c_learner
    from edgerl.units import parse_bytes

    memory = options["memory"]
    export_c_learner(
        source,
        output,
        force=force,
        json=json,
        replay=options["replay"],
        replay_dtype=options["replay-dtype"],
        memory=None if memory is None else parse_bytes(memory, "--memory"),
        batch=options["batch"],
        target=options["target"],
        prefix=options["prefix"],
    )


def _refuse_options(kind: str, options: dict[str, Any]) -> None:
    for name, value in options.items():
        if value is not None:
            raise ConfigError(f"--{name} was given, which --format {kind} does not have; leave it out")


def _chosen(choices: dict[str, Any]) -> dict[str, Any]:
    """The options of a learner as `hand_over` names them, those left out not among them."""
    from edgerl.units import parse_bytes

    names = {"replay": "seed", "replay-dtype": "precision", "replay-policy": "keep", "memory": "memory"}
    chosen = {names[option]: choices[option] for option in names if choices[option] is not None}
    if "memory" in chosen:
        chosen["memory"] = parse_bytes(chosen["memory"], "--memory")
    return chosen


def _export_learner(run: Path | None, output: Path | None, force: bool, **chosen: Any) -> HandoverReport:
    from edgerl.training.handover import hand_over

    folder = find_run(run)
    return hand_over(folder, output or folder / LEARNER, force=force or output is None, **chosen)


def _export_onnx(model: Path | None, output: Path | None, force: bool, sparse_initializers: bool) -> OnnxReport:
    from edgerl.export import export_policy

    source, folder, is_ours = _source(model, "onnxruntime")
    goal = source.with_suffix(".onnx") if isinstance(source, Path) else folder / ONNX
    force = force or (output is None and is_ours)
    return export_policy(source, "onnx", output or goal, force=force, sparse_initializers=sparse_initializers)


def _source(model: Path | None, runtime: RuntimeName) -> tuple[CompactPolicy | Path, Path, bool]:
    """(the policy or its file, the folder that exports of it go to, whether what is there is ours to replace).

    Raises UnsupportedModelError for an .onnx file. `runtime` is the one that the export is for.
    """
    from edgerl.edge.continual.store import Snapshots
    from edgerl.edge.runtimes import refuse_onnx

    if model is not None and Snapshots(model).are_there:
        return _champion(model), model, True
    source = find_model(model, (POLICY,))
    refuse_onnx(source, runtime, f"the {POLICY} of a policy that edgerl trained")
    return source, source.parent, source.name == POLICY and source.with_name(CONFIG).exists()


def _export_c(
    model: Path | None,
    output: Path | None,
    force: bool,
    dtype: str | None,
    target: str | None,
    layout: str | None,
    prefix: str | None,
    project: bool,
) -> tuple[CReport, CompactPolicy | Path]:
    """What was written, and of what."""
    from edgerl.export import export_policy
    from edgerl.export.c import COptions
    from edgerl.export.c.form import TARGETS, target_of_core
    from edgerl.profiling.budgets.device import find_device

    device = None if target is None or target in TARGETS else find_device(target)
    chosen: dict[str, Any] = {"dtype": dtype, "layout": layout, "prefix": prefix}
    chosen["target"] = target if device is None else target_of_core(device.cpu.core)
    options = COptions(**{name: value for name, value in chosen.items() if value is not None})
    source, folder, is_ours = _source(model, "c")
    if device is not None:
        _check_budgets(source, options, device)
    report = export_policy(
        source,
        "c",
        output or folder / C_FOLDER,
        force=force or (output is None and is_ours),
        options=options,
        command=" ".join(["edgerl", *sys.argv[1:]]),
        device=None if device is None else device.id,
        project=project,
        observations=_recorded(folder) if is_ours else None,
    )
    return report, source


def _recorded(run: Path) -> Array | None:
    """Observations that the run recorded, less the offset; None where it has none that can be read."""
    from edgerl.training import checkpoint
    from edgerl.training.compaction import RECORDED_OBSERVATIONS, recorded_observations

    try:
        return recorded_observations(run, checkpoint.read(run / CHECKPOINT), RECORDED_OBSERVATIONS)
    except FileFormatError:
        return None


def _check_budgets(source: CompactPolicy | Path, options: COptions, device: Device) -> None:
    """Raise CheckFailed where the C of the policy takes more flash or memory than the device's budgets allow."""
    from edgerl.export.c.form import policy_form
    from edgerl.policy import format as policy_file
    from edgerl.profiling.budgets.report import profile

    policy = policy_file.load(source) if isinstance(source, Path) else source
    form = policy_form(policy, options.dtype, options.layout, options.target)
    report = profile(form.policy, device, runtime="c")
    constants_in_memory = form.flash_bytes if report.memory_parts["weights"] else 0
    uses = {
        "flash": (report.flash.used - report.model_bytes + form.flash_bytes, report.flash.budget),
        "memory": (report.memory_parts["runtime"] + constants_in_memory + form.scratch_bytes, report.memory.budget),
    }
    for name, (used, budget) in uses.items():
        if used > budget:
            raise CheckFailed(
                f"the C of {policy.architecture[:60]} takes {human_bytes(used)} of {name} on {device.id}, expected at "
                f"most {human_bytes(budget)}: choose a smaller --dtype or --layout sparse, or prune it (edgerl fit)"
            )


def _champion(state: Path) -> CompactPolicy:
    from edgerl.edge.continual.learner import champion_policy
    from edgerl.policy.pruning import compact

    return compact(champion_policy(state))


def _measured_core(target: str | None, measure: bool | None) -> str | None:
    """The core to measure for, or None. Raises where measuring was asked for and cannot be done."""
    from edgerl.export.c.form import TARGETS
    from edgerl.profiling.budgets.device import find_device
    from edgerl.profiling.microcontroller.record import CORE_OF_DEVICE, CORE_OF_TARGET
    from edgerl.profiling.microcontroller.toolchain import COMPILER, find_program, require_compiler

    if measure is False or (measure is None and find_program(COMPILER) is None):
        return None
    if target is None or target in TARGETS:
        core = CORE_OF_TARGET.get(target or "generic")
    else:
        core = CORE_OF_DEVICE.get(find_device(target).cpu.core)
    if measure is None:
        return core
    if core is None:
        raise ConfigError(
            f"--measure compiles for a Cortex-M, and the target is {(target or 'generic')[:60]}; name one with "
            f"--target: {', '.join(CORE_OF_TARGET)}, or a device that has one"
        )
    require_compiler()
    return core


def _print_c(report: CReport, measured: Measured | None, json: bool) -> None:
    if json:
        figures = {} if measured is None else {"measured": measured.as_dict()}
        print_json({**asdict(report), "path": str(report.path), **figures})
        return
    print(f"{report.path}: {' and '.join(report.files)}, {report.architecture}, for {report.target}")
    if report.project:
        print(f"for other build systems: {', '.join(report.project)}")
    for index, layer in enumerate(report.layers):
        print(f"layer {index}: {layer}")
    print(
        f"flash {human_bytes(report.flash_bytes)} of constants, code not counted; scratch memory "
        f"{human_bytes(report.scratch_bytes)}; self-test to {report.tolerance:g} of the action range"
    )
    print(described_difference(report.action_difference))
    if measured is not None:
        measured.print()


def _print(report: OnnxReport, sparse_initializers: bool, json: bool) -> None:
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
    if report.precision == "fp16":
        print(f"as they are kept: {described_difference(report.action_difference)}")
