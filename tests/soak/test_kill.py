"""The long proof of resuming: SIGKILL at random moments, many times, then the same bits as the uninterrupted run."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

from tests.processes import Processes
from tests.training.runs import kill_and_resume

RUNS, KILLS = 40, 5

ALL: dict[str, Any] = {"n_step": 3, "growth": "gradient", "block": 4}
KINDS: list[dict[str, Any]] = [
    {"engine": "native", **ALL},
    {"engine": "torch", **ALL},
    {"engine": "native"},
    {"engine": "torch", "normalize": True, "drop_schedule": "cosine"},
]
"""The replay memory of each is full, and wraps round."""


@pytest.mark.soak
def test_runs_killed_again_and_again_resume_to_the_same_bits(
    processes: Processes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for seed in range(max(2, round(RUNS * float(os.environ.get("EDGERL_SOAK", "0.05"))))):
        folder = tmp_path / f"run{seed}"
        folder.mkdir()
        monkeypatch.chdir(folder)
        kill_and_resume(processes, kills=KILLS, seed=seed, **KINDS[seed % len(KINDS)])
