"""The whole path, typed literally in an empty folder, twice: train, export, profile, run."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from edgerl.edge import OnnxPolicy
from edgerl.policy import format as policy_file

Run = Callable[..., tuple[int, str, str]]


def test_the_path_works_in_an_empty_folder_and_all_again(edgerl: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    from edgerl import config

    quick = config.PRESETS["quick"]
    shorter = {**quick, "steps": 700, "start_steps": 400, "evaluation_interval": 350, "evaluation_episodes": 1}
    monkeypatch.setitem(config.PRESETS, "quick", shorter)  # type: ignore[arg-type]
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
        assert f"using {run}/policy.safetensors" in err
        code, out, err = edgerl("run", "--rate", 100, "--seconds", 5, "--json")
        assert code == 0
        assert f"using {run}/policy.onnx" in err
        assert json.loads(out)["cycles"] + json.loads(out)["skipped_ticks"] == 500
        code, _, _ = edgerl("export", "--format", "onnx")
        assert code == 0, "a default inside a run folder is replaced"
    assert sorted(path.name for path in Path().iterdir()) == ["runs"]
    assert Path("runs/latest").resolve().name == "HalfCheetah-v5-ds-td3-seed0-2"


@pytest.mark.parametrize("engine", ["native", "torch"])
@pytest.mark.parametrize(
    ("algorithm", "connections"),
    [("td3", [56, 88, 32]), ("sac", [48, 80, 32])],  # of 352 and 384 weights, half; SAC's last layer has 64 of these
)
def test_a_run_of_either_engine_is_pruned_exported_and_profiled(
    edgerl: Run, engine: str, algorithm: str, connections: list[int]
) -> None:
    code, _, _ = edgerl(
        *("train", "--env", "robots:robot", "--preset", "quick", "--hidden", "16,16", "--steps", 120),
        *("--checkpoint-interval", 60, "--engine", engine, "--block", 4, "--out", "one"),
        *("--algorithm", algorithm),
    )
    assert code == 0
    assert json.loads(Path("one/config.json").read_text())["engine"] == engine
    about = policy_file.load(Path("one/policy.safetensors")).metadata
    assert (about["algorithm"], about["trained_connections"]) == (algorithm, connections)
    assert edgerl("prune", "one", "--env", "robots:robot")[0] == 0
    assert edgerl("export", "one", "--format", "onnx")[0] == 0
    policy, exported = policy_file.load(Path("one/policy.safetensors")), OnnxPolicy(Path("one/policy.onnx"))
    observation = np.linspace(-1, 1, 4, dtype=np.float32)
    np.testing.assert_allclose(exported(observation), policy(observation), rtol=0, atol=1e-5)
    code, out, _ = edgerl("profile", "one", "--device", "jetson-nano", "--json")
    assert code == 0
    assert json.loads(out)["architecture"] == policy.architecture
