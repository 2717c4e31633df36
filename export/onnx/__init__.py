"""The format `onnx`: one graph from an observation to an action, checked by running the file (docs/onnx.md)."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from edgerl.export import ExportReport, PolicySource
from edgerl.options import Checked, option
from edgerl.units import human_bytes

SOURCE, OUTPUT, REQUIRES = "policy", "policy.onnx", ("onnx", "onnxruntime")


@dataclass(frozen=True)
class Options(Checked):
    """How a policy becomes ONNX."""

    sparse_initializers: bool = option(
        False, "Store sparse weights sparsely; onnxruntime reads it, most others refuse."
    )


@dataclass(frozen=True)
class OnnxReport(ExportReport):
    """A file that was written, and checked before it got its name."""

    architecture: str  # 17-256-256-6
    n_bytes: int
    opset: int
    largest_difference: float  # to the CompactPolicy in float64, in shares of the action range
    largest_difference_extreme: float  # the same for extreme observations, where float32 itself rounds more
    sparse_layers: int  # layers written as sparse initialisers
    excluded_readers: tuple[str, ...]  # programs that cannot read this file because of them
    sparse_initializers: bool  # whether they were asked for

    @property
    def notes(self) -> tuple[str, ...]:
        """Who cannot read it; or that what was asked for makes nothing smaller."""
        if self.sparse_layers:
            return (f"not readable by: {', '.join(self.excluded_readers)}",)
        return ("no layer is smaller with sparse initialisers; all are dense",) if self.sparse_initializers else ()


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
