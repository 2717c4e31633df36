"""What a board must hold: edgerl.edge loads numpy and safetensors, and onnxruntime only for a file."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

HEAVY = {"torch", "onnx", "onnxruntime", "gymnasium", "mujoco", "typer", "rich", "tensorboard"}


def loaded_by(code: str) -> set[str]:
    """Top-level names in sys.modules of a fresh interpreter that ran `code`."""
    script = f"{code}\nimport json, sys\nprint(json.dumps(sorted({{name.split('.')[0] for name in sys.modules}})))"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    return set(json.loads(done.stdout))


def test_the_package_itself_loads_nothing() -> None:
    assert not loaded_by("import edgerl.edge") & (HEAVY | {"numpy", "safetensors"})


@pytest.mark.parametrize("name", ["ControlLoop", "ControlStatistics", "OnnxPolicy", "Policy"])
def test_its_names_load_no_more_than_numpy_and_safetensors(name: str) -> None:
    loaded = loaded_by(f"from edgerl.edge import {name}")
    assert not loaded & HEAVY
    assert "numpy" in loaded


def test_an_unknown_name_is_an_attribute_error() -> None:
    import edgerl.edge

    with pytest.raises(AttributeError, match=r"module 'edgerl\.edge' has no attribute 'Nothing'"):
        _ = edgerl.edge.Nothing
    assert {"ControlLoop", "OnnxPolicy", "Policy"} <= set(dir(edgerl.edge))
