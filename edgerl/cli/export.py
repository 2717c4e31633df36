"""`edgerl export`: a policy in a format that other runtimes read, or a learner that keeps learning on a device."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from edgerl.cli.support.format_options import takes_options_of_formats
from edgerl.cli.support.output import Force, Json, note, print_json
from edgerl.errors import ConfigError
from edgerl.export import find_format, formats


@takes_options_of_formats
def command(
    policy: Annotated[
        Path | None,
        typer.Argument(
            help="Run folder, policy.safetensors or state folder of a learner; for a learner also a SAC or TD3 of "
            "stable-baselines3 (.zip). Default: runs/latest.",
            show_default=False,
        ),
    ] = None,
    format: Annotated[str, typer.Option("--format", help=f"Format of the output: {', '.join(formats())}.")] = "onnx",
    output: Annotated[
        Path | None,
        typer.Option(
            "-o", "--output", help="Output file, for C output folder; default: beside the policy.", show_default=False
        ),
    ] = None,
    learn: Annotated[bool, typer.Option("--learn", help="With --format c: the same as --format c-learner.")] = False,
    force: Force = False,
    json: Json = False,
    **options: Any,
) -> None:
    """Write a policy as ONNX, and check the file before it gets its name; as C; or a learner for a device.

    onnx and c: normalisation and action scaling are inside. Of the state folder of `edgerl learn`, the policy that
    drives, without dead units. c: a header and a C file for firmware, or for a program on Linux, as with
    `--format c --target linux-aarch64`. c-learner: the same of the learner, from a run folder or a
    learner.safetensors. learner: everything that `edgerl learn` needs, from a run folder, or a SAC or TD3 of
    stable-baselines3.

    In a run or state folder, policy.onnx, the files in c/ and learner.safetensors are replaced; any other output that
    exists needs --force.

    Example: edgerl export --format onnx
    """
    if learn:
        if format != "c":
            raise ConfigError(f"--learn was given, which --format {format} does not have; leave it out")
        format = "c-learner"
    from edgerl.commands.export import export_policy

    typed = " ".join(["edgerl", *sys.argv[1:]])
    report = export_policy(policy, format, output, force=force, command=typed, notice=note, **options)
    if json:
        print_json(report.as_dict())
        return
    for line in find_format(format).describe(report):
        print(line)
    for line in report.notes:
        note(line)
