"""The format `c`: a policy as one header and one C file that a firmware project takes in (docs/c.md)."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from edgerl.errors import CheckFailed
from edgerl.export import ExportReport, PolicySource, TargetDevice
from edgerl.export.c.options import Options, Precision, Target
from edgerl.units import human_bytes

if TYPE_CHECKING:
    from edgerl.export.c.source import CSource
    from edgerl.policy.loss import ActionDifference

__all__ = ["OUTPUT", "REQUIRES", "SOURCE", "CReport", "Options", "describe", "export"]

SOURCE, OUTPUT, REQUIRES = "policy", "c", ()


class Returns(Protocol):
    """What edgerl.export_policy measured of smaller weights."""

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        ...

    def describe(self) -> str:
        """For people."""
        ...


class Measured(Protocol):
    """What edgerl.export_policy measured of the code, as edgerl.profiling.microcontroller.exported does."""

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        ...

    def describe(self) -> Iterator[str]:
        """For people."""
        ...

    @property
    def notes(self) -> tuple[str, ...]:
        """What could not be measured."""
        ...


@dataclass(frozen=True)
class CReport(ExportReport):
    """The folder that was written: `path`."""

    architecture: str  # 17-256-256-6
    files: tuple[str, ...]
    project: tuple[str, ...]  # of other build systems
    dtype: Precision | None  # None: as the policy stores its weights
    target: Target
    layers: tuple[str, ...]
    flash_bytes: int
    scratch_bytes: int
    state_bytes: int  # of cells; 0 where the policy is not recurrent
    history_bytes: int  # of steps that are stacked; 0 where its contract does not say how
    tolerance: float
    action_difference: ActionDifference  # of the code's actions to those of the policy that was given
    wide_rows: tuple[str, ...]  # warnings of int8 rows
    returns: Returns | None = None  # of a policy whose weights became smaller
    measured: Measured | None = None

    @property
    def notes(self) -> tuple[str, ...]:
        """Warnings, and what could not be measured."""
        return self.wide_rows if self.measured is None else (*self.wide_rows, *self.measured.notes)

    def as_dict(self) -> dict[str, Any]:
        """For JSON; `returns` and `measured` where there is something."""
        parts = {"returns": self.returns, "measured": self.measured}
        figures = ExportReport.as_dict(replace(self, returns=None, measured=None))
        there = {name: part.as_dict() for name, part in parts.items() if part is not None}
        return {name: value for name, value in figures.items() if name not in parts} | there


def export(source: PolicySource, path: Path, options: Options, *, force: bool) -> CReport:
    """Write header and C file of the policy into the folder `path`, which is made where its parent is there.

    With a device, for its core. Raises OutputError, UnsupportedModelError, and CheckFailed, writing nothing, where the
    device's budgets are exceeded.
    """
    from edgerl.export.c.files import write_files
    from edgerl.export.c.form import ON_APPLICATION_PROCESSORS, target_of
    from edgerl.export.c.project import FLAGS, project_files
    from edgerl.export.c.source import Provenance, generate, loss
    from edgerl.policy.pruning import describe_wide_rows

    device = source.device
    if device is not None:
        options = replace(options, target=target_of(device.core, device.architecture))
    provenance = Provenance(source.sha256, source.command, None if device is None else device.id)
    made = generate(source.policy, options=options, provenance=provenance)
    if device is not None:
        _check_budgets(made, device)
    texts = {f"{made.prefix}.c": made.source, f"{made.prefix}.h": made.header}
    flags = ("-O3", *FLAGS) if options.target in ON_APPLICATION_PROCESSORS else FLAGS
    around = project_files(made.prefix, flags) if options.project else {}
    write_files(path, {**texts, **around}, force=force)
    return CReport(
        path=path,
        format="c",
        architecture=source.policy.architecture,
        files=tuple(texts),
        project=tuple(around),
        dtype=options.dtype,
        target=options.target,
        layers=made.layers,
        flash_bytes=made.flash_bytes,
        scratch_bytes=made.scratch_bytes,
        state_bytes=made.state_bytes,
        history_bytes=made.history_bytes,
        tolerance=made.tolerance,
        action_difference=loss(source.policy, made, source.recorded()),
        wide_rows=describe_wide_rows(source.policy, made.policy),
    )


def _check_budgets(made: CSource, device: TargetDevice) -> None:
    """Raise CheckFailed where the code takes more flash or memory than the device's budgets allow."""
    in_memory = made.flash_bytes if device.constants_in_memory else 0
    kept = made.scratch_bytes + made.state_bytes + made.history_bytes
    for name, used, budget in (
        ("flash", device.installed + made.flash_bytes, device.flash_budget),
        ("memory", device.base_memory + in_memory + kept, device.memory_budget),
    ):
        if used > budget:
            raise CheckFailed(
                f"the C of {made.policy.architecture[:60]} takes {human_bytes(used)} of {name} on {device.id}, "
                f"expected at most {human_bytes(budget)}: choose a smaller `dtype` or `layout` sparse, or prune it "
                "(edgerl fit)"
            )


def describe(report: CReport) -> Iterator[str]:
    """For people."""
    yield f"{report.path}: {' and '.join(report.files)}, {report.architecture}, for {report.target}"
    if report.project:
        yield f"for other build systems: {', '.join(report.project)}"
    for index, layer in enumerate(report.layers):
        yield f"layer {index}: {layer}"
    yield (
        f"flash {human_bytes(report.flash_bytes)} of constants, code not counted; scratch memory "
        f"{human_bytes(report.scratch_bytes)}; self-test to {report.tolerance:g} of the action range"
    )
    yield report.action_difference.describe()
    if report.returns is not None:
        yield report.returns.describe()
    if report.measured is not None:
        yield from report.measured.describe()
