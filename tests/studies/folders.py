"""Run folders with evaluations that a test chooses, made without training."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from edgerl.studies.grid import PlannedRun
from edgerl.training import checkpoint
from edgerl.training.checkpoint import Checkpoint, Counters, Returns
from edgerl.training.config import to_json
from tests.compact.policies import random_policy


def write_run(folder: Path, run: PlannedRun, returns: Sequence[float], *, step: int | None = None) -> None:
    """A run's folder: config, metrics with one evaluation each `evaluation_interval` steps, checkpoint at `step`
    (default: its end)."""
    folder.mkdir(parents=True)
    (folder / "config.json").write_text(to_json(run.config))
    interval = run.config.schedule.evaluation_interval
    rows = [f"{interval * (i + 1)},{value!r},{0.5 * (i + 1)}" for i, value in enumerate(returns)]
    (folder / "metrics.csv").write_text("\n".join(["step,return_mean,elapsed_seconds", *rows]) + "\n")
    counters = Counters(step=run.config.schedule.steps if step is None else step, metrics_rows=len(returns))
    checkpoint.write(
        folder / "checkpoint.safetensors", Checkpoint(run.config, counters, random_policy(0), Returns(), {})
    )
