"""The format `onnx`: one graph from an observation to an action, checked by running the file (docs/onnx.md)."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from edgerl.export import PolicySource
from edgerl.export.onnx.report import OnnxReport
from edgerl.options import Checked, option
from edgerl.units import human_bytes

__all__ = ["OUTPUT", "REQUIRES", "SOURCE", "OnnxReport", "Options", "describe", "export"]

SOURCE, OUTPUT, REQUIRES = "policy", "policy.onnx", ("onnx", "onnxruntime")


@dataclass(frozen=True)
class Options(Checked):
    """How a policy becomes ONNX."""

    sparse_initializers: bool = option(
        False, "Store sparse weights sparsely; onnxruntime reads it, most others refuse."
    )


def export(source: PolicySource, path: Path, options: Options, *, force: bool) -> OnnxReport:
    """Write the policy to the file `path`. Raises OutputError, UnsupportedModelError, and CheckFailed, leaving no file,
    where the written file acts differently."""
    from edgerl.export.onnx.graph import write_model

    return write_model(source.policy, source.sha256, path, force=force, sparse_initializers=options.sparse_initializers)


def describe(report: OnnxReport) -> Iterator[str]:
    """For people."""
    yield f"{report.path}: {human_bytes(report.n_bytes)}, {report.architecture}, opset {report.opset}"
    yield (
        f"largest difference to the policy: {report.largest_difference:.1e} of the action range "
        f"(extreme observations: {report.largest_difference_extreme:.1e})"
    )
    if report.sparse_layers:
        yield f"sparse initialisers in {report.sparse_layers} layers; checked with onnxruntime"
