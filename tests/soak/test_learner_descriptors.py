"""A session of a million cycles has the same descriptors and memory as after a tenth of them.

1 000 000 cycles times EDGERL_SOAK (default 0.01), in a process of their own; a keeper and a reporter beside them, which
sync, take snapshots and report as often as they can.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.edge.learners import learner_config, write_bundle

ROOT = Path(__file__).parents[2]
CYCLES = round(1_000_000 * float(os.environ.get("EDGERL_SOAK", "0.01")))

LIVE = """
import ctypes, gc, json, os, sys
from pathlib import Path
from edgerl.cli.support.live import JsonLines
from edgerl.edge import Learner
from edgerl.edge.acting.robot import Robot
from edgerl.edge.continual.session import Schedule, Session
from edgerl.edge.continual.trials import TrialRule

def descriptors():
    return len(os.listdir("/proc/self/fd"))

def anonymous_bytes():
    # Exact, unlike VmRSS; memory that was freed but kept neither counts as growth nor hides it.
    gc.collect()
    ctypes.CDLL(None).malloc_trim(0)
    lines = Path("/proc/self/smaps").read_text().splitlines()
    return sum(1024 * int(line.split()[1]) for line in lines if line.startswith("Anonymous:"))

class Trivial:
    age = total = 0

    def reset(self, seed):
        self.age, self.at = 0, [0.1, 0.2, 0.3]
        return self.at

    def step(self, action):
        self.age += 1
        self.total += 1
        self.at = [0.9 * at + 0.1 * float(action[0]) for at in self.at]
        if self.total % (cycles // 20) == 0:
            samples.append((descriptors(), anonymous_bytes(), sys.getallocatedblocks()))
        if self.total == cycles:
            session.stop()
        return self.at, -abs(self.at[0]), False, self.age == 50, {}

cycles, samples = int(sys.argv[1]), []
rule = TrialRule(every=2, window_steps=250, recent=2, least=1, confidence=0.5)
learner = Learner.load("learner.safetensors", state="state", storage=sys.argv[2], rule=rule)
robot = Robot("trivial", Trivial(), learner.n_observations, learner.n_actions)
often = Schedule(0, "thread", sync_seconds=0.01, snapshot_seconds=0.05, status_seconds=0.02)
session = Session(learner, robot, often)
before = descriptors()
sys.stdout = open(os.devnull, "w")
status = session.run(report=JsonLines().report)
after = descriptors() - 1
learner.close()
print(json.dumps({
    "before": before, "after": after, "samples": samples, "steps": status["steps"], "snapshots": status["snapshots"],
    "updates": status["updates"], "size": status["replay"]["size"], "capacity": status["replay"]["capacity"],
}), file=sys.__stdout__)
"""


@pytest.mark.soak
@pytest.mark.parametrize("storage", ["ram", "mapped"])
def test_no_descriptor_and_no_page_is_lost(storage: str) -> None:
    write_bundle(config=learner_config(batch=4), memory=1 << 16)
    command = [sys.executable, "-c", LIVE, str(CYCLES), storage]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "MALLOC_ARENA_MAX": "1", "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    print(found)
    assert found["steps"] == CYCLES
    assert found["size"] == found["capacity"] < CYCLES
    assert found["snapshots"] > 2
    assert found["after"] == found["before"]
    descriptors, memory, objects = zip(*found["samples"][2:], strict=True)  # of twenty, the first see it warm up
    assert max(descriptors) <= found["before"] + 6, "files that are open for a moment"
    assert min(objects[9:]) <= min(objects[:9]) + 1000
    assert min(memory[9:]) <= min(memory[:9]) + (1 << 20), "once the table of Python's interned strings grows by 0.5 MB"
