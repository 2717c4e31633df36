"""The format `c-learner`: one header and one C file that act and go on learning on a microcontroller
(docs/c-learner.md)."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from edgerl.errors import FileFormatError
from edgerl.export import ExportReport, LearnerSource
from edgerl.export.c_learner.sizes import Budget, Sizes
from edgerl.options import Checked, option
from edgerl.run_folder import CHECKPOINT, LEARNER
from edgerl.units import human_bytes

if TYPE_CHECKING:
    from edgerl.policy.loss import ActionDifference

__all__ = ["OUTPUT", "REQUIRES", "SOURCE", "CLearnerReport", "Options", "describe", "export"]

SOURCE, OUTPUT, REQUIRES = "learner", "learner-c", ()

LARGEST_MEMORY = 1 << 40
"""Bytes that a handed-over learner may take: the device's own budget counts."""


@dataclass(frozen=True)
class Options(Checked):
    """How a learner becomes C."""

    replay: int | None = option(
        None,
        "Transitions that are kept.",
        range="[0, 4294967295]",
        unit="transitions",
        shown="what the device's budget leaves, else 1000",
    )
    memory: int | None = option(
        None,
        "All of its RAM instead, from which they follow.",
        range="[0, 1099511627776]",
        unit="bytes",
        shown="no limit but the device's budget",
    )
    replay_dtype: Literal["fp32", "fp16"] | None = option(
        None, "How observations and actions are kept.", shown="fp32, or as the learner.safetensors has it"
    )
    batch: int | None = option(
        None, "Transitions per update there.", range="[1, 65536]", unit="transitions", shown="the run's"
    )
    target: Literal["generic", "cortex-m4", "cortex-m7"] | None = option(
        None,
        "A core (cortex-m4, cortex-m7, generic), or a device, whose budgets are then kept.",
        shown="generic",
        other="device",
    )
    prefix: str = option("edgerl_learner", "Prefix of every name, and of the files.")


@dataclass(frozen=True)
class CLearnerReport(ExportReport):
    """The folder that was written: `path`."""

    paths: tuple[Path, Path]  # of header and C file
    sizes: Sizes
    budget: Budget | None  # of the device, where one was named
    replay_dtype: str | None  # where it was chosen
    action_difference: ActionDifference | None  # by how observations are kept, where that was decided here

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return {
            "path": str(self.path),
            "format": self.format,
            "paths": [str(path) for path in self.paths],
            **asdict(self.sizes),
            "ram": self.sizes.ram,
            "flash": self.sizes.flash,
            "budget": None if self.budget is None else asdict(self.budget),
            "action_difference": None if self.action_difference is None else asdict(self.action_difference),
        }


def export(source: LearnerSource, path: Path, options: Options, *, force: bool) -> CLearnerReport:
    """Write header and C file into the folder `path`.

    Raises ConfigError, FileFormatError, OutputError, and CheckFailed, writing nothing, where the device's budgets are
    exceeded.
    """
    from edgerl.export.c_learner.source import make_c_learner, write_c_learner

    device = source.device
    budget = None
    if device is not None:
        budget = Budget(device.id, device.memory_budget - device.base_memory, device.flash_budget)
    target = options.target if device is None else device.id
    with tempfile.TemporaryDirectory(prefix="edgerl-") as scratch:
        bundle, origin, kept = _bundle(source, options, Path(scratch) / LEARNER)
        learner = make_c_learner(
            bundle,
            capacity=options.replay,
            memory=options.memory,
            batch=options.batch,
            lanes=1 if device is None else device.lanes,
            budget=budget,
            prefix=options.prefix,
            precision=options.replay_dtype,
            about=f"Of {origin}, for {target}." if target else f"Of {origin}.",
        )
    paths = write_c_learner(learner, path, force=force)
    return CLearnerReport(path, "c-learner", paths, learner.sizes, budget, options.replay_dtype, kept)


def _bundle(source: LearnerSource, options: Options, scratch: Path) -> tuple[Path, str, ActionDifference | None]:
    """(the learner's file, what to call it, what is lost by how observations are kept, where that is decided here): a
    run hands its learner over anew, to the file `scratch`."""
    from edgerl.edge.runtimes import refuse_onnx

    if source.hand_over is None:
        refuse_onnx(source.path, "c", f"a {LEARNER}, or a run folder")
        return source.path, source.path.name, None
    if not (source.path / CHECKPOINT).is_file():
        raise FileFormatError(f"{source.path} holds no {CHECKPOINT}; name a run folder, or a {LEARNER}")
    precision = options.replay_dtype or "fp32"
    handed = source.hand_over(scratch, seed=0, memory=LARGEST_MEMORY, precision=precision)
    return scratch, f"the run {source.path.resolve().name}", handed.action_difference


def describe(report: CLearnerReport) -> Iterator[str]:
    """For people."""
    sizes, budget = report.sizes, report.budget
    of_ram = of_flash = ""
    if budget is not None:
        of_ram = f" of {human_bytes(budget.ram)} on {budget.device}"
        of_flash = f" of {human_bytes(budget.flash)}"
    yield (
        f"RAM {human_bytes(sizes.ram)} ({sizes.ram} bytes){of_ram}: networks {human_bytes(sizes.arena)}, "
        f"{sizes.capacity} transitions of {sizes.row} bytes {human_bytes(sizes.replay)}"
    )
    yield (
        f"flash {human_bytes(sizes.flash)}{of_flash}: initial state {human_bytes(sizes.state)}, code about "
        f"{human_bytes(sizes.code)} (Cortex-M7, -O2); a save takes {human_bytes(sizes.save)}, without transitions "
        f"{human_bytes(sizes.save - sizes.replay)}"
    )
    if report.replay_dtype == "fp16" and report.action_difference is not None:
        yield f"as they are kept: {report.action_difference.describe()}"
    header, source = report.paths
    yield f"{source} and {header.name}: compile it with -std=c11 -O2 -ffp-contract=fast"
