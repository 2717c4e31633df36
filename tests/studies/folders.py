"""Run folders with evaluations that a test chooses, made without training."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from edgerl.config import to_json
from edgerl.studies.grid import PlannedRun
from edgerl.training import checkpoint
from edgerl.training.checkpoint import Checkpoint, Counters, Returns
from tests.policy.policies import random_policy


def write_run(
    folder: Path,
    run: PlannedRun,
    returns: Sequence[float | None],
    *,
    step: int | None = None,
    success_rates: Sequence[float] = (),
    cpu_seconds: Sequence[float] = (),
) -> None:
    """A run's folder: config, metrics with one row each `evaluation_interval` steps (None: nothing was evaluated),
    checkpoint at `step` (default: its end). success_rates, cpu_seconds: columns that earlier versions do not have."""
    folder.mkdir(parents=True)
    (folder / "config.json").write_text(to_json(run.config))
    interval = run.config.schedule.evaluation_interval
    more = {"success_rate": success_rates, "training_cpu_seconds": cpu_seconds}
    columns = ["step", "return_mean", "elapsed_seconds", *(name for name, values in more.items() if values)]
    rows = [
        [interval * (i + 1), "" if value is None else repr(value), 0.5 * (i + 1)]
        + [values[i] for values in more.values() if values]
        for i, value in enumerate(returns)
    ]
    (folder / "metrics.csv").write_text("".join(",".join(map(str, line)) + "\n" for line in (columns, *rows)))
    counters = Counters(step=run.config.schedule.steps if step is None else step, metrics_rows=len(returns))
    checkpoint.write(
        folder / "checkpoint.safetensors", Checkpoint(run.config, counters, random_policy(0), Returns(), {})
    )
