"""The format `learner`: the learner of a run, or of a model of stable-baselines3, in one file, with which
`edgerl learn` continues on a device (docs/continual.md). edgerl.training.handover writes it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from edgerl.errors import ConfigError, FileFormatError
from edgerl.export import ExportReport, LearnerSource
from edgerl.files.kind import what_is
from edgerl.options import Checked, option
from edgerl.units import human_bytes

if TYPE_CHECKING:
    from edgerl.edge.continual.memory import MemoryPlan
    from edgerl.policy.loss import ActionDifference

SOURCE, OUTPUT, REQUIRES = "learner", "learner.safetensors", ()

Precision = Literal["fp32", "fp16"]
KeepPolicy = Literal["ring", "reservoir"]


EXPECTED = (
    "a run folder, as edgerl train makes, or a SAC or TD3 of stable-baselines3: learning on takes critics, which no "
    "policy holds"
)


@dataclass(frozen=True)
class Options(Checked):
    """How a learner leaves its run."""

    replay: int | None = option(
        None,
        "Transitions of the run to begin with.",
        range="[0, 4294967295]",
        unit="transitions",
        shown="10000, or what fits",
    )
    replay_dtype: Precision = option("fp32", "How observations and actions are kept.")
    replay_policy: KeepPolicy = option("ring", "Transitions kept: the newest (ring), or a sample (reservoir).")
    memory: int = option(
        32 << 20,
        "Of networks and replay together on the device.",
        range="[0, 1099511627776]",
        unit="bytes",
        shown="32MiB",
    )
    learning_rate: float | None = option(
        None,
        "Learning rate on the device.",
        range="(0, 1]",
        unit="per update",
        shown="the run's, or the model's",
    )
    normalizer: str | None = option(
        None,
        "Statistics of a model's observations: vecnormalize.pkl, an .npz with mean and var, or none.",
        shown="none",
    )


@dataclass(frozen=True)
class LearnerReport(ExportReport):
    """A learner that was handed over."""

    n_bytes: int
    updates: int
    connections: dict[str, int]  # by network
    seed: int  # transitions of the run to begin with
    precision: Precision
    keep: KeepPolicy
    memory: MemoryPlan  # on this machine
    action_difference: ActionDifference  # of the policy's actions, by how observations are kept
    notes: tuple[str, ...] = ()

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        figures = ExportReport.as_dict(self)
        return {**figures, "memory": self.memory.as_dict()}


def export(source: LearnerSource, path: Path, options: Options, *, force: bool) -> LearnerReport:
    """Write the learner of a run, or of a model, to the file `path`.

    Raises ConfigError, FileFormatError, UnsupportedModelError, OutputError.
    """
    if source.hand_over is None:
        raise FileFormatError(f"{source.path} is {what_is(source.path)}; expected {EXPECTED}")
    own = {} if options.normalizer is None else {"normalizer": options.normalizer}
    if own and source.path.is_dir():
        raise ConfigError(f"`normalizer` was given, and {source.path} is a run, which has its own; leave it out")
    handed = source.hand_over(
        path,
        seed=options.replay,
        precision=options.replay_dtype,
        keep=options.replay_policy,
        memory=options.memory,
        learning_rate=options.learning_rate,
        force=force,
        **own,
    )
    return LearnerReport(format="learner", **vars(handed))


def describe(report: LearnerReport) -> Iterator[str]:
    """For people."""
    memory = report.memory
    connections = ", ".join(f"{name} {count}" for name, count in report.connections.items())
    yield f"{report.path}: {human_bytes(report.n_bytes)}, after {report.updates} updates; connections {connections}"
    yield (
        f"memory on a device {human_bytes(memory.total)}: networks {human_bytes(memory.arena)}, champion "
        f"{human_bytes(memory.champion)}, replay {human_bytes(memory.replay)}"
    )
    yield (
        f"replay {report.keep} of {memory.capacity} transitions, {memory.record} bytes each in {report.precision}; "
        f"{report.seed} of the run to begin with"
    )
    if report.precision == "fp16":
        yield f"as they are kept: {report.action_difference.describe()}"
