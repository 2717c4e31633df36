"""`edgerl profile --learn`: which learner is meant, and what its part of the report looks like."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from edgerl.cli.support.output import note
from edgerl.commands.models import find_model
from edgerl.run_folder import CHECKPOINT, LATEST, LEARNER, RUNS, short
from edgerl.units import human_bytes, human_seconds

if TYPE_CHECKING:
    from edgerl.profiling.budgets.learning import LearningReport


def find_learner(model: Path | None) -> Path:
    """The bundle that `model` (a file or a run folder) names; without one, that in the current folder, or else that of
    the newest run that has one, printed."""
    from edgerl.edge.runtimes import refuse_onnx

    if model is None and (nearest := _nearest_bundle()):
        note(f"using {nearest}")
        return nearest
    found = find_model(model, note, (LEARNER,), fix="export one: edgerl export --format learner")
    refuse_onnx(found, "native", f"a {LEARNER}: edgerl export --format learner")
    return found


def _nearest_bundle() -> Path | None:
    for path in (Path(LEARNER), LATEST.resolve() / LEARNER):
        if path.is_file():
            return short(path)
    return max(RUNS.glob(f"*/{LEARNER}"), key=_trained_at, default=None)


def _trained_at(bundle: Path) -> int:
    """When its run was last trained, as far as that is known."""
    checkpoint = bundle.with_name(CHECKPOINT)
    return (checkpoint if checkpoint.exists() else bundle).stat().st_mtime_ns


def print_learning(report: LearningReport) -> None:
    """Where the learner's memory goes, and what fits beside the control rate."""
    memory, replay = report.memory, report.replay
    update, idle = human_seconds(report.update_us * 1e-6), human_seconds(report.idle_us * 1e-6)
    print(
        f"learner: networks {human_bytes(memory.arena)}, champion {human_bytes(memory.champion)}, replay {replay.keep} "
        f"of {memory.capacity} transitions, {memory.record} bytes each in {replay.precision}"
    )
    print(
        f"learning: ≈ {report.updates_per_second:.3g} updates/s fit beside {report.acting.rate_hz:g} Hz (estimate, "
        f"unvalidated): one takes ≈ {update}, and {idle} of each period are idle"
    )
    print(f"an update: {report.source}")
