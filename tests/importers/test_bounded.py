"""Programs within the permitted operators that take any memory or time."""

from __future__ import annotations

import warnings
from pathlib import Path

import pytest
import torch
from torch import nn

import edgerl
from edgerl.errors import UnsupportedModelError
from edgerl.importers import bounded

from .files import scripted


class Grows(nn.Module):
    """Makes 3 · 8^10 numbers, 13 GB."""

    def __init__(self) -> None:
        super().__init__()
        self.actor = nn.Linear(3, 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = torch.cat([x, x, x, x, x, x, x, x])
        y = torch.cat([y, y, y, y, y, y, y, y])
        y = torch.cat([y, y, y, y, y, y, y, y])
        y = torch.cat([y, y, y, y, y, y, y, y])
        y = torch.cat([y, y, y, y, y, y, y, y])
        y = torch.cat([y, y, y, y, y, y, y, y])
        y = torch.cat([y, y, y, y, y, y, y, y])
        y = torch.cat([y, y, y, y, y, y, y, y])
        y = torch.cat([y, y, y, y, y, y, y, y])
        y = torch.cat([y, y, y, y, y, y, y, y])
        return self.actor(x) + y.sum()


class Lasts(nn.Module):
    """Takes the error function of 100 000 numbers, 4000 times."""

    def __init__(self) -> None:
        super().__init__()
        self.actor = nn.Linear(3, 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = x.expand(32768, 3)
        for _ in range(4000):
            y = torch.erf(y)
        return self.actor(x) + y.sum()


def test_a_program_that_takes_all_memory_is_refused(tmp_path: Path) -> None:
    scripted(Grows(), tmp_path / "policy.pt")
    with pytest.raises(UnsupportedModelError, match="as far as PyTorch can tell") as error:
        edgerl.import_policy(tmp_path / "policy.pt", tmp_path / "policy.safetensors")
    assert "\n" not in str(error.value)


def test_a_program_that_takes_any_time_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.jit.trace(Lasts(), torch.zeros(1, 3), check_trace=False).save(str(tmp_path / "policy.pt"))  # unrolled
    monkeypatch.setattr(bounded, "MAXIMUM_SECONDS", 4)
    with pytest.raises(UnsupportedModelError, match="within 4 s and 2048 MiB: what reads it took too long"):
        edgerl.import_policy(tmp_path / "policy.pt", tmp_path / "policy.safetensors")


def test_what_crashes_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    scripted(nn.Sequential(nn.Linear(3, 2)), tmp_path / "policy.pt")
    monkeypatch.setattr(bounded, "MAXIMUM_MEMORY", 1 << 20)
    with pytest.raises(
        UnsupportedModelError, match="within 120 s and 1 MiB: what reads it ran out of memory or failed"
    ):
        edgerl.import_policy(tmp_path / "policy.pt", tmp_path / "policy.safetensors")


def test_no_module_of_the_current_folder_is_imported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    scripted(nn.Sequential(nn.Linear(3, 2)), tmp_path / "policy.pt")
    monkeypatch.chdir(tmp_path)
    for name in ("numpy", "torch"):
        Path(f"{name}.py").write_text("raise SystemExit('executed')")
    assert edgerl.import_policy("policy.pt").policy.architecture == "3-2"
