"""The whole path, typed literally in an empty folder, twice: train, export, profile, run."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

Run = Callable[..., tuple[int, str, str]]


def test_the_path_works_in_an_empty_folder_and_all_again(edgerl: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    from dataclasses import replace

    from edgerl.training import config

    shorter = replace(config.QUICK, steps=700, start_steps=400, evaluation_interval=350, evaluation_episodes=1)
    monkeypatch.setattr(config, "QUICK", shorter)
    for number in ("", "-2"):
        run = f"runs/HalfCheetah-v5-ds-td3-seed0{number}"
        code, _, err = edgerl("train", "--preset", "quick")
        assert code == 0
        assert f"run folder {run}" in err
        code, _, err = edgerl("export", "--format", "onnx")
        assert code == 0
        assert f"using {run}/policy.safetensors" in err
        code, _, err = edgerl("profile", "--device", "jetson-nano")
        assert code == 0
        assert f"using {run}/policy.onnx" in err
        code, out, err = edgerl("run", "--rate", 100, "--seconds", 5, "--json")
        assert code == 0
        assert f"using {run}/policy.onnx" in err
        assert json.loads(out)["cycles"] + json.loads(out)["skipped_ticks"] == 500
        code, _, _ = edgerl("export", "--format", "onnx")
        assert code == 0, "a default inside a run folder is replaced"
    assert sorted(path.name for path in Path().iterdir()) == ["runs"]
    assert Path("runs/latest").resolve().name == "HalfCheetah-v5-ds-td3-seed0-2"
