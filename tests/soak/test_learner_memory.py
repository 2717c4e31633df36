"""The long proof of bounded memory: millions of cycles of a learner without growth, and no byte beyond its word.

10 000 000 cycles in the full proof, 300 000 in the ordinary run, in a process of their own.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any, Literal

import pytest

from tests.edge.learners import learner_config, write_bundle

ROOT = Path(__file__).parents[2]
CYCLES = 10_000_000 if float(os.environ.get("EDGERL_SOAK", "0.1")) >= 1 else 300_000

PAGE = os.sysconf("SC_PAGE_SIZE")

LIVE = """
import ctypes, json, sys
import numpy as np
from edgerl.edge import Learner
from edgerl.edge.continual.trials import TrialRule

def resident_bytes():
    # Exact, page by page: VmRSS in /proc/self/status lags by up to 32 pages a processor. Of files the learner's own
    # alone: how much of the libraries is in memory depends on what else the system does.
    if is_trimmed:
        ctypes.CDLL(None).malloc_trim(0)
    total, is_own = 0, False
    with open("/proc/self/smaps") as maps:
        for line in maps:
            name, *rest = line.split()
            if not name.endswith(":"):
                is_own = name_of_state in line
            elif name == ("Rss:" if is_own else "Anonymous:"):
                total += 1024 * int(rest[0])
    return total

path, state, storage, cycles, is_trimmed = *sys.argv[1:4], int(sys.argv[4]), sys.argv[5] == "trimmed"
name_of_state = state.split("/")[-1]
rule = TrialRule(every=2, window_steps=250, recent=2, least=1, confidence=0.5)
learner = Learner.load(path, state=state, storage=storage, rule=rule)
draw = np.random.default_rng(0)
seen = draw.normal(size=(64, learner.n_observations)).astype(np.float32)
resident = []
# A Path interns its parts. The names of temporary files, each used once, fill Python's table of interned strings, which
# is then rebuilt, two or three times as large (half a mebibyte), and from then on in place: let it happen now.
for number in range(100_000):
    sys.intern(f"used once: {number}")
for cycle in range(cycles):
    now, following = seen[cycle % 64], seen[(cycle + 1) % 64]
    if cycle % 10 == 0:
        action = learner.act(now)
    # At times the learning policy is paid for driving: then it takes over, again and again.
    is_paid = cycle // 1000 % 9 == 1
    reward = (2.0 if is_paid else 0.0) if learner.trials.challenger_drives else 1.0
    learner.observe(now, action, reward, following, False, cycle % 100 == 99)
    learner.update()
    if cycle % max(cycles // 10, 1) == 0 and cycle >= cycles // 5:
        learner.snapshot()
        resident.append(resident_bytes())
status = learner.status()
learner.close()
print(json.dumps({
    "resident": resident, "announced": learner.memory.total,
    "takeovers": status["trials"]["takeovers"], "size": status["replay"]["size"],
    "capacity": status["replay"]["capacity"], "updates": status["updates"], "refused": status["refused_transitions"],
}))
"""


def live(bundle: Path, storage: str, cycles: int, freed: Literal["kept", "trimmed"] = "kept") -> dict[str, Any]:
    """What a process that learns for `cycles` reports of its memory, with or without what it freed before."""
    command = [sys.executable, "-c", LIVE, str(bundle), tempfile.mkdtemp(dir="."), storage, str(cycles), freed]
    # One arena of the C library: what threads and sizes leave in others is noise of kilobytes.
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "MALLOC_ARENA_MAX": "1", "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    assert done.returncode == 0, done.stderr
    result: dict[str, Any] = json.loads(done.stdout)
    return result


@pytest.mark.soak
@pytest.mark.parametrize(("storage", "cycles"), [("ram", CYCLES), ("mapped", CYCLES // 10)])
def test_resident_memory_does_not_grow(storage: str, cycles: int) -> None:
    """Snapshots and takeovers included; after half of the time the replay is full and everything has happened often."""
    found = live(write_bundle(memory=1 << 18), storage, cycles)
    assert found["size"] == found["capacity"]
    assert found["updates"] > cycles * 0.9
    assert found["takeovers"] > 2
    later = found["resident"][len(found["resident"]) // 2 :]
    assert max(later) - later[0] <= 8 * PAGE, found


@pytest.mark.soak
@pytest.mark.parametrize(("storage", "precision"), [("ram", "fp32"), ("mapped", "fp16")])
def test_the_memory_of_a_process_is_what_its_learner_announces(storage: str, precision: str) -> None:
    """Between a process with small networks and one with large ones lies what they announce, within 64 KiB and pages:
    Python and its libraries are the same. Of a mapped file the system counts the pages that were read."""
    small_bundle = write_bundle(Path("small.safetensors"), precision=precision, memory=1 << 18)
    config = learner_config(n=17, m=6, widths=(128, 128), percent=20, batch=16)
    large_bundle = write_bundle(Path("large.safetensors"), config, precision=precision, memory=9 << 17)
    small, large = (beside_what_is_announced(bundle, storage) for bundle in (small_bundle, large_bundle))
    assert abs(large - small) <= (64 << 10) + 4 * PAGE  # of each block the last page is half empty


def beside_what_is_announced(bundle: Path, storage: str) -> int:
    """Bytes of a process beside its learner's: the least of three, since what Python frees and keeps differs."""
    cycles, rests = 6000, []
    for _ in range(3):
        found = live(bundle, storage, cycles, "trimmed")
        assert found["size"] == found["capacity"] < cycles
        assert found["takeovers"] > 0
        rests.append(max(found["resident"]) - found["announced"])
    return min(rests)
