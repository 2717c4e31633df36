"""The long proof of resuming: SIGKILL at random moments, many times, then the same bits as the uninterrupted run."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tests.processes import Processes
from tests.training.test_loop import kill_and_resume

RUNS, KILLS = 20, 5


@pytest.mark.soak
def test_runs_killed_again_and_again_resume_to_the_same_bits(
    processes: Processes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for seed in range(max(1, round(RUNS * float(os.environ.get("EDGERL_SOAK", "0.1"))))):
        folder = tmp_path / f"run{seed}"
        folder.mkdir()
        monkeypatch.chdir(folder)
        kill_and_resume(processes, kills=KILLS, seed=seed)
