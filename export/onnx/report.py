"""What is known of a policy.onnx that was written."""

from __future__ import annotations

from dataclasses import dataclass

from edgerl.export import ExportReport


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
