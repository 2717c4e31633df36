"""What a board must hold: edgerl.edge loads numpy and safetensors, and onnxruntime only for a file."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from edgerl.policy import format as file
from tests.edge.learners import write_bundle
from tests.policy.policies import random_policy

HEAVY = {"torch", "onnx", "onnxruntime", "gymnasium", "mujoco", "typer", "rich", "tensorboard", "pandas", "scipy"}

LARGEST_MEGABYTES = 45
"""Resident memory of a process that acts."""


def loaded_by(code: str) -> set[str]:
    """Top-level names in sys.modules of a fresh interpreter that ran `code`."""
    script = f"{code}\nimport json, sys\nprint(json.dumps(sorted({{name.split('.')[0] for name in sys.modules}})))"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    return set(json.loads(done.stdout))


def test_the_package_itself_loads_nothing() -> None:
    assert not loaded_by("import edgerl.edge") & (HEAVY | {"numpy", "safetensors"})


@pytest.mark.parametrize(
    "name", ["ControlLoop", "ControlStatistics", "Learner", "OnnxPolicy", "Policy", "Robot", "Session"]
)
def test_its_names_load_no_more_than_numpy_and_safetensors(name: str) -> None:
    loaded = loaded_by(f"from edgerl.edge import {name}")
    assert not loaded & HEAVY
    assert "numpy" in loaded


ACTING = {
    "policy": "from edgerl.edge import Policy\nact = Policy.load('policy.safetensors')\nn = act.n_observations",
    "learner": (
        "from edgerl.edge import Learner\nlearner = Learner.load('learner.safetensors')\n"
        "act, n = learner.act, learner.n_observations\n"
        "for _ in range(300): learner.observe([0] * n, [0] * learner.n_actions, 1, [0] * n); learner.update()"
    ),
}


@pytest.mark.parametrize("code", ACTING.values(), ids=ACTING)
def test_a_process_that_acts_stays_small_and_loads_nothing_heavy(code: str) -> None:
    """Of HalfCheetah's size; a learner with 4 MiB."""
    Path("policy.safetensors").write_bytes(file.to_bytes(random_policy(0, (17, 256, 256, 6), density=0.2)))
    write_bundle(memory=4 << 20)
    script = (
        f"{code}\nfor _ in range(1000): act([0.5] * n)\n"
        "import json, sys\nstatus = dict(line.split(':', 1) for line in open('/proc/self/status'))\n"
        "names = sorted({name.split('.')[0] for name in sys.modules})\n"
        "print(json.dumps([int(status['VmHWM'].split()[0]), names]))"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    kilobytes, loaded = json.loads(done.stdout)
    assert kilobytes < LARGEST_MEGABYTES * 1000, f"{kilobytes} kB at its peak"
    assert not set(loaded) & HEAVY
    assert {"numpy", "edgerl"} <= set(loaded)


def test_an_unknown_name_is_an_attribute_error() -> None:
    import edgerl.edge

    with pytest.raises(AttributeError, match=r"module 'edgerl\.edge' has no attribute 'Nothing'"):
        _ = edgerl.edge.Nothing
    assert {"ControlLoop", "OnnxPolicy", "Policy"} <= set(dir(edgerl.edge))
