"""Small runs, what they determine, and the proof that a killed one resumes."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import edgerl
from edgerl.edge.continual.replay import Replay
from edgerl.policy import format as policy_file
from edgerl.training import checkpoint as checkpoint_file
from edgerl.training.logs import read_metrics
from tests.processes import Processes

SMALL: dict[str, Any] = {
    "hidden": (16, 16),
    "batch_size": 8,
    "steps": 400,
    "start_steps": 30,
    "evaluation_interval": 100,
    "evaluation_episodes": 2,
    "checkpoint_interval": 60,
    "replay_capacity": 90,  # the replay wraps round four times
    "evolution_interval": 20,
}
ENGINES = ("native", "torch")
each_engine = pytest.mark.parametrize("engine", ENGINES)
TIMES = {"elapsed_seconds", "training_cpu_seconds"}
PATHS = (Path(__file__).parents[2], Path(__file__).parents[1])
"""Where a child process finds edgerl and the robots."""


def train_small(out: str, env: str = "robots:robot", **options: Any) -> Path:
    return edgerl.train(env, out=out, **(SMALL | options)).folder


def state_of(folder: Path) -> tuple[dict[str, bytes], dict[str, Any], bytes, list[dict[str, float]]]:
    """Everything a run determines: tensors, counters, the policy file and topology.csv, metrics without times."""
    checkpoint = checkpoint_file.read(folder / "checkpoint.safetensors")
    tensors = {name: array.tobytes() for name, array in checkpoint.tensors.items()}
    counters = {k: v for k, v in vars(checkpoint.counters).items() if k not in TIMES}
    rows = [{k: v for k, v in row.items() if k not in TIMES} for row in read_metrics(folder)]
    files = b"".join((folder / name).read_bytes() for name in ("policy.safetensors", "topology.csv"))
    return tensors, counters, files, rows


def replay_rows(folder: Path) -> bytes:
    count = checkpoint_file.read(folder / "checkpoint.safetensors").counters.replay_count
    replay = Replay.open_recorded(folder / "replay.bin", count)
    batch = replay.sample(np.arange(replay.size), 0.99)
    return b"".join(np.ascontiguousarray(part).tobytes() for part in vars(batch).values())


def weights_of(folder: Path) -> list[bytes]:
    return [layer.values.tobytes() for layer in policy_file.load(folder / "policy.safetensors").layers]


_SERVER = """
import json, os, sys, time
from pathlib import Path
import edgerl, edgerl.training.trainer

parent = os.getpid()

def report(status):
    while status.step >= 800 and Path("held").exists() and os.getppid() == parent:
        time.sleep(0.01)

print("ready", flush=True)
for line in sys.stdin:
    child = os.fork()
    if child == 0:
        os.write(1, b"pid %d\\n" % os.getpid())
        edgerl.train(**json.loads(line), report=report, notice=lambda text: os.write(1, text.encode() + b"\\n"))
        os._exit(0)
    _, status = os.waitpid(child, 0)
    print("end", os.waitstatus_to_exitcode(status), flush=True)
"""
"""A process that has all modules loaded and makes a new one for each piece of a run. However fast the machine is, the
run does not end as long as there is a file `held`."""


def kill_and_resume(processes: Processes, kills: int, seed: int, **options: Any) -> None:
    """SIGKILL a run at random moments, resume it each time, and compare it with the uninterrupted one."""
    generator = np.random.default_rng(seed)
    options = SMALL | {"steps": 900, "seed": seed} | options
    whole = train_small("whole", **options)
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(map(str, PATHS)), "OMP_NUM_THREADS": "1"}
    pipes: dict[str, Any] = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True, "bufsize": 1}
    server = processes.start(sys.executable, "-c", _SERVER, env=environment, **pipes)
    assert server.stdin is not None
    assert server.stdout is not None
    lines = iter(server.stdout.readline, "")
    assert next(lines) == "ready\n"
    Path("held").touch()
    server.stdin.write(json.dumps({"env": "robots:slow_robot", "out": "killed", **options}) + "\n")
    for _ in range(kills):
        pid = int(next(lines).removeprefix("pid "))
        assert next(lines).startswith("run folder killed"), "it runs now"
        time.sleep(generator.uniform(0, 0.5))
        os.kill(pid, signal.SIGKILL)
        while not (line := next(lines)).startswith("end"):
            pass  # a notice
        assert line == f"end {-signal.SIGKILL}\n", "it was killed while it ran"
        server.stdin.write(json.dumps({"env": "robots:slow_robot", "resume": "killed"}) + "\n")
    Path("held").unlink()
    server.stdin.close()
    assert [*lines][-1] == "end 0\n"
    server.stdout.close()
    server.wait()
    tensors, counters, _, rows = state_of(whole)
    killed_tensors, killed_counters, _, killed_rows = state_of(Path("killed"))
    assert killed_tensors == tensors
    assert killed_counters == counters
    assert weights_of(Path("killed")) == weights_of(whole)
    assert killed_rows == rows
    assert replay_rows(Path("killed")) == replay_rows(whole)
