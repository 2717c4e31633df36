"""SIGKILL at random instants of a learner at full speed: each restart finds a snapshot no older than the last that
returned, the very bits that the same calls lead to, and every transition that `observe` returned from.

200 kills times EDGERL_SOAK (default 0.1).
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from itertools import cycle, islice
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgerl.edge.continual.learner import Learner
from edgerl.edge.continual.replay import Boundary
from edgerl.edge.continual.trials import TrialRule
from edgerl.edge.engine.arena import LearnerArena
from edgerl.files.disk import Disk
from tests.edge.learners import N, learner_config, write_bundle

KILLS = max(1, round(200 * float(os.environ.get("EDGERL_SOAK", "0.1"))))
KILLS_IN_A_ROW = 5
MOST_LINES, LONGEST_WAIT = 130, 0.004
"""A process is killed some lines after it began, two for each transition, and some seconds after that line."""

CAPACITY = 30
"""Transitions: the memory is full, and overwritten, after some milliseconds."""

BUNDLE = Path("learner.safetensors")
RULE = TrialRule(every=2, window_steps=8, recent=3, least=2)

LIVES: list[dict[str, Any]] = [
    {"storage": "ram", "keep": "ring", "precision": "fp32", "n_step": 3},
    {"storage": "mapped", "keep": "ring", "precision": "fp16", "n_step": 1},
    {"storage": "ram", "keep": "reservoir", "precision": "fp16", "n_step": 1},
    {"storage": "mapped", "keep": "reservoir", "precision": "fp32", "n_step": 1},
]


def live(learner: Learner, tell: Callable[[str, int], object], last: int | None = None) -> None:
    """Observe, update, sync and snapshot, all as a function of the transition's number; `tell` each that returned. It
    ends with transition number `last`, or when it is killed."""
    while last is None or learner.counters.steps <= last:
        number = learner.counters.steps
        x = np.sin(np.arange(N) + number).astype(np.float32)
        action = learner.act(x)
        reward = float(learner.trials.challenger_drives) + number % 1024 / 2048  # by which it is known
        learner.observe(x, action, reward, x + 1, terminated=number % 5 == 4, truncated=number % 5 == 2)
        tell("observed", number)
        for _ in range(3):
            learner.update(work=2000 + number % 7 * 300)
        if number % 6 == 5:
            learner.sync()
        if number % 9 == 8:
            learner.snapshot()
        tell("snapshots", learner.counters.snapshots)


class _Careless(Disk):
    def sync(self, descriptor: int) -> None:
        pass

    def sync_folder(self, path: Path) -> None:
        pass


def load(folder: Path, storage: str, disk: Disk | None = None) -> Learner:
    more: dict[str, Any] = {} if disk is None else {"disk": disk}
    return Learner.load(BUNDLE, state=folder, rule=RULE, storage=storage, **more)  # type: ignore[arg-type]


_SERVER = """
import os, sys
from pathlib import Path
from tests.soak.test_learner_kill import live, load

print("ready", flush=True)
for line in sys.stdin:
    folder, storage = line.split()
    child = os.fork()
    if child == 0:
        os.write(1, b"pid %d\\n" % os.getpid())
        learner = load(Path(folder), storage)
        os.write(1, b"loaded %d\\n" % learner.counters.steps)
        live(learner, lambda what, number: os.write(1, b"%s %d\\n" % (what.encode(), number)))
    os.waitpid(child, 0)
    os.write(1, b"end 0\\n")
"""


@contextmanager
def serving() -> Iterator[subprocess.Popen[str]]:
    """A process that has all modules loaded and makes a new one for each life."""
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parents[2])}
    command = [sys.executable, "-c", _SERVER]
    pipes: dict[str, Any] = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True, "env": environment}
    with subprocess.Popen(command, **pipes) as server:
        assert server.stdout is not None
        assert server.stdout.readline() == "ready\n"
        yield server


@dataclass
class _Progress:
    """What a process said before it was killed; −1 for nothing."""

    observed: int = -1
    snapshots: int = -1
    loaded: int = -1
    pid: int = -1

    def note(self, lines: Iterable[str]) -> None:
        for line in lines:
            what, number = line.split()
            setattr(self, what, int(number))


def kill_one(server: subprocess.Popen[str], folder: Path, storage: str, draw: np.random.Generator) -> _Progress:
    assert server.stdin is not None
    assert server.stdout is not None
    server.stdin.write(f"{folder} {storage}\n")
    server.stdin.flush()
    lines = iter(server.stdout.readline, "end 0\n")
    progress = _Progress()
    progress.note(islice(lines, 1))
    if draw.random() < 0.8:
        progress.note(islice(lines, int(draw.integers(MOST_LINES))))
        time.sleep(draw.uniform(0, LONGEST_WAIT))
    else:  # while it is loading
        time.sleep(draw.uniform(0, 10 * LONGEST_WAIT))
    os.kill(progress.pid, signal.SIGKILL)
    progress.note(lines)
    return progress


def _bytes(arena: LearnerArena) -> bytes:
    """All that learns."""
    layers = [layer for network in arena.layers for layer in network]
    arrays = [array for layer in layers for array in vars(layer).values() if isinstance(array, np.ndarray)]
    return bytes(arena.progress) + b"".join(array.tobytes() for array in arrays)


class _Reference(Disk):
    """The same calls, undisturbed: what each snapshot holds."""

    def __init__(self) -> None:
        self.states: dict[int, bytes] = {}
        self.learner: Learner | None = None

    def replace(self, source: Path, goal: Path) -> None:
        super().replace(source, goal)
        if self.learner is not None:
            self.states[int(goal.stem[9:])] = _bytes(self.learner.challenger.arena)

    def sync(self, descriptor: int) -> None:
        pass

    def sync_folder(self, path: Path) -> None:
        pass


def _rows(learner: Learner) -> set[bytes]:
    """Transitions in memory; the end of an episode that a restart cut off is as good as none."""
    records = learner.experience.transitions.records[: learner.experience.transitions.size].copy()
    records["boundary"][records["boundary"] == Boundary.GAP] = Boundary.CONTINUES
    return {record.tobytes() for record in records}


def _check(killed: Path, before: Path, storage: str, progress: _Progress) -> tuple[int, int]:
    """(snapshots that the reference made, transitions) — asserts that what is found is what the reference leads to."""
    with closing(load(killed, storage, _Careless())) as found:
        steps, snapshots = found.counters.steps, found.counters.snapshots
        state, rows, champion = _bytes(found.challenger.arena), _rows(found), found.status()["champion"]
        assert found.rejected == []
        assert found.status()["replay"]["damaged"] == 0
    disk = _Reference()
    with closing(load(before, storage, disk)) as reference:
        earlier, known = reference.counters.snapshots, max(progress.observed + 1, reference.counters.steps)
        assert progress.loaded in (-1, reference.counters.steps)
        disk.states[earlier], disk.learner = _bytes(reference.challenger.arena), reference
        live(reference, lambda *_: None, known - 1)
        if _rows(reference) != rows:  # one may exist that was not reported
            live(reference, lambda *_: None, known)
        assert _rows(reference) == rows, "nothing is lost, nothing is invented"
        if reference.status()["replay"]["keep"] == "ring":  # what a reservoir did not take left no trace
            assert known <= steps <= known + 1
    assert snapshots >= progress.snapshots
    assert state == disk.states[snapshots], "not a bit is another"
    assert champion <= snapshots
    return snapshots - earlier, steps


@pytest.mark.soak
def test_a_learner_that_is_killed_loses_nothing_and_goes_on_to_the_bit() -> None:
    draw = np.random.default_rng(20220526)
    chains = cycle(LIVES)
    most_snapshots = most_steps = takeovers = 0
    with serving() as server:
        for chain, life in enumerate(islice(chains, -(-KILLS // KILLS_IN_A_ROW))):
            config = learner_config(widths=(7, 5), n_step=life["n_step"], batch=6, evolution_interval=3, seed=chain)
            replay = {"precision": life["precision"], "keep": life["keep"], "capacity": CAPACITY}
            write_bundle(BUNDLE, config, precision=life["precision"], replay=replay)
            folder = Path(f"chain{chain}")
            for kill in range(KILLS_IN_A_ROW):
                before, killed = Path(f"before{chain}-{kill}"), Path(f"killed{chain}-{kill}")
                shutil.copytree(folder, before) if folder.exists() else None
                progress = kill_one(server, folder, life["storage"], draw)
                if folder.exists() and any(folder.glob("snapshot-*")):
                    shutil.copytree(folder, killed)
                    snapshots, steps = _check(killed, before, life["storage"], progress)
                    most_snapshots, most_steps = max(most_snapshots, snapshots), max(most_steps, steps)
                else:
                    assert progress.loaded == -1, "it was killed before its first snapshot"
            with closing(load(folder, life["storage"])) as learner:
                takeovers += learner.status()["trials"]["takeovers"]
        assert server.stdin is not None
        server.stdin.close()
    assert most_snapshots > 2
    assert most_steps > 2 * CAPACITY
    assert takeovers > 0
