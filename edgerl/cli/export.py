"""`edgerl export`: a policy in a format that other runtimes read."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from edgerl.cli.models import find_model
from edgerl.cli.output import Force, Json, human_bytes, note, print_json
from edgerl.run_folder import CONFIG, POLICY


def command(
    policy: Annotated[
        Path | None, typer.Argument(help="Run folder or policy.safetensors; default: runs/latest.", show_default=False)
    ] = None,
    format: Annotated[str, typer.Option("--format", help="Format of the output: onnx.")] = "onnx",
    output: Annotated[
        Path | None, typer.Option("-o", "--output", help="Output file; default: beside the policy.", show_default=False)
    ] = None,
    sparse_initializers: Annotated[
        bool,
        typer.Option("--sparse-initializers", help="Store sparse weights sparsely; onnxruntime reads it, few others."),
    ] = False,
    force: Force = False,
    json: Json = False,
) -> None:
    """Write a policy as ONNX, and check the file before it gets its name.

    Normalisation and action scaling are inside the graph. In a run folder, policy.onnx is replaced; any other output
    that exists needs --force.

    Example: edgerl export --format onnx
    """
    from edgerl import export_policy
    from edgerl.export import check_format

    check_format(format)
    source = find_model(policy, (POLICY,))
    goal = output or source.with_suffix(f".{format}")
    replaces = output is None and source.name == POLICY and source.with_name(CONFIG).exists()
    report = export_policy(source, format, goal, force=force or replaces, sparse_initializers=sparse_initializers)
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
