"""Every file of a state folder, damaged at random places one at a time: only what no other file holds is lost.

A bit flipped, an end cut off, a page of zeros, a file that is empty or gone: 500 times EDGERL_SOAK (default 0.1) for
each file of each folder; with `-s` it is printed what that cost. And as often as 200 times that, a learner that finds a
damaged file is killed.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgerl.edge.continual.learner import Learner
from edgerl.edge.continual.store import LOG
from edgerl.edge.continual.transitions import RecordFormat, Storage
from edgerl.edge.continual.trials import TrialRule
from edgerl.files.disk import Disk
from tests.edge.learners import M, N, learner_config, steps, write_bundle

from . import test_learner_kill as killing

SOAK = float(os.environ.get("EDGERL_SOAK", "0.1"))
PLACES = max(1, round(500 * SOAK))
KILLS = max(4, round(200 * SOAK))
KILLS_IN_A_ROW = 10
BUNDLE = Path("learner.safetensors")
RULE = TrialRule(every=2, window_steps=8, recent=3, least=2)
CAPACITY = 200
RECORD = RecordFormat(N, M).record.itemsize
PAGE = 4096

Damage = Callable[[Path, np.random.Generator], object]


class _Careless(Disk):
    def sync(self, descriptor: int) -> None:
        pass

    def sync_folder(self, path: Path) -> None:
        pass


def _load(folder: Path, storage: Storage = "ram") -> Learner:
    return Learner.load(BUNDLE, state=folder, rule=RULE, storage=storage, disk=_Careless())


# What may happen to a file.


def _flip(path: Path, draw: np.random.Generator) -> None:
    data = bytearray(path.read_bytes())
    if data:
        data[draw.integers(len(data))] ^= 1 << draw.integers(8)
        path.write_bytes(data)


def _cut(path: Path, draw: np.random.Generator) -> None:
    os.truncate(path, draw.integers(path.stat().st_size + 1))


def _zero_page(path: Path, draw: np.random.Generator) -> None:
    data = bytearray(path.read_bytes())
    page = int(draw.integers(len(data) // PAGE + 1)) * PAGE
    data[page : page + PAGE] = bytes(len(data[page : page + PAGE]))
    path.write_bytes(data)


DAMAGE: dict[str, Damage] = {
    "bit": _flip,
    "cut": _cut,
    "page": _zero_page,
    "empty": lambda path, _: os.truncate(path, 0),
    "gone": lambda path, _: path.unlink(),
}
SHARES = [0.5, 0.2, 0.2, 0.05, 0.05]


# Folders.


def _drive(learner: Learner, count: int, *, worth: float = -1.0) -> None:
    """Episodes of four steps; worth: a reward of the learning policy's own."""
    for number, step in enumerate(steps(count, seed=learner.counters.steps)):
        action, reward = learner.act(step.observation), worth * learner.trials.challenger_drives
        learner.observe(step.observation, action, reward, step.following, terminated=number % 4 == 3)
        learner.update()


def _drive_until_a_takeover(learner: Learner) -> None:
    while not learner.status()["trials"]["takeovers"]:
        _drive(learner, 4, worth=1.0)


def _begun(learner: Learner) -> None:
    """One snapshot, its own champion."""
    _drive(learner, 12)


def _champion_of_before(learner: Learner) -> None:
    """Three snapshots: the champion's, and two that count on it."""
    _drive_until_a_takeover(learner)
    for _ in range(2):
        _drive(learner, 40)
        learner.snapshot()
    _drive(learner, 5)


def _champion_of_now(learner: Learner) -> None:
    """Three snapshots: the newest is its own champion, the one before counts on the first."""
    _drive(learner, 40)
    learner.snapshot()
    _drive_until_a_takeover(learner)


FOLDERS = {
    _begun: {1: [1]},
    _champion_of_before: {2: [2, 3, 4]},
    _champion_of_now: {1: [1, 2], 3: [3]},
}
"""How they grow, and what they have then: champions, and the snapshots that count on each."""


@dataclass(frozen=True)
class _Found:
    """What a start finds."""

    updates: int
    champion: bytes  # what it does
    numbers: set[int]  # of transitions
    is_new: bool


def _found(learner: Learner) -> _Found:
    return _Found(
        updates=learner.status()["updates"],
        champion=learner.champion(np.ones(N, np.float32)).tobytes(),
        numbers=set(learner.experience.transitions.numbers.tolist()),
        is_new=learner.is_new,
    )


def _start(folder: Path, storage: Storage) -> _Found:
    """And it goes on, and the next start finds nothing wrong."""
    with closing(_load(folder, storage)) as learner:
        found = _found(learner)
        _drive(learner, 9)
        learner.snapshot()
        learner.snapshot()
    with closing(_load(folder, storage)) as learner:
        assert (learner.rejected, learner.is_new) == ([], False)
    return found


# What is lost.


@dataclass
class _Losses:
    """The most that any damage to one file cost."""

    trials: int = 0
    updates: int = 0
    champions: int = 0
    transitions: dict[str, int] = field(default_factory=lambda: dict.fromkeys(DAMAGE, 0))

    def note(self, kind: str, whole: _Found, found: _Found) -> None:
        self.trials += 1
        self.updates = max(self.updates, whole.updates - found.updates)
        self.champions += found.champion != whole.champion
        self.transitions[kind] = max(self.transitions[kind], len(whole.numbers - found.numbers))


def _most_transitions(kind: str, whole: _Found) -> int:
    """That damage of one kind to the log may cost: those records that it reaches."""
    return {"bit": 1, "page": PAGE // RECORD + 2}.get(kind, len(whole.numbers))


def _check(name: str, losses: _Losses, whole: _Found, before: int, newest: str) -> None:
    """A snapshot held what was learnt since the one before, the log its transitions; all else is there twice."""
    assert losses.champions == 0
    assert losses.updates == (whole.updates - before if name == newest else 0)
    for kind, lost in losses.transitions.items():
        assert lost <= (_most_transitions(kind, whole) if name == LOG else 0), (name, kind)


@pytest.mark.soak
@pytest.mark.parametrize("storage", ["ram", "mapped"])
@pytest.mark.parametrize("grow", FOLDERS)
def test_a_damaged_file_loses_what_it_alone_held(grow: Callable[[Learner], None], storage: Storage) -> None:
    draw = np.random.default_rng(20220526)
    replay: dict[str, Any] = {"precision": "fp32", "keep": "ring", "capacity": CAPACITY}
    write_bundle(BUNDLE, learner_config(widths=(30, 20)), replay=replay, seed=steps(100))
    folder, damaged = Path("whole"), Path("damaged")
    with closing(_load(folder, storage)) as learner:
        grow(learner)
    with closing(_load(folder, storage)) as learner:
        whole, champion = _found(learner), learner.status()["champion"]
    assert sorted(os.listdir(folder)) == sorted([LOG, "lock", *_snapshots(FOLDERS[grow])])
    before, newest = _before_newest(folder, storage, champion)
    for name in sorted(os.listdir(folder)):
        losses = _Losses()
        for kind in draw.choice(list(DAMAGE), PLACES, p=SHARES):
            shutil.copytree(folder, damaged)
            DAMAGE[kind](damaged / name, draw)
            losses.note(kind, whole, _start(damaged, storage))
            shutil.rmtree(damaged)
        _check(name, losses, whole, before, newest)
        transitions = {kind: lost for kind, lost in losses.transitions.items() if lost}
        print(f"{grow.__name__}, {storage}, {name}: {losses.trials} × {losses.updates} updates, {transitions}")


def _snapshots(counting: dict[int, list[int]]) -> list[str]:
    """The names of their files."""
    numbers = [number for those in counting.values() for number in those]
    names = [("champion", number) for number in counting] + [("snapshot", number) for number in numbers]
    return [f"{kind}-{number:08d}.safetensors" for kind, number in names]


def _before_newest(folder: Path, storage: Storage, champion: int) -> tuple[int, str]:
    """(updates in the snapshot before the newest, the newest file if no other holds its content)"""
    paths = sorted(folder.glob("snapshot-*"))
    if paths[-1] == folder / f"snapshot-{champion:08d}.safetensors":
        return 0, ""
    shutil.copytree(folder, older := Path("older"))
    (older / paths[-1].name).unlink()
    with closing(_load(older, storage)) as learner:
        return learner.status()["updates"], paths[-1].name


# Kills.


def _snapshots_without(folder: Path, storage: Storage, name: str | None = None) -> int:
    """How many snapshots a start counts that does not find that file."""
    shutil.copytree(folder, probe := Path("probe"))
    if name is not None:
        (probe / name).unlink()
    with closing(killing.load(probe, storage, _Careless())) as learner:
        assert not learner.is_new
        found = learner.counters.snapshots
    shutil.rmtree(probe)
    return found


@pytest.mark.soak
def test_a_killed_learner_finds_no_less_than_without_the_damaged_file() -> None:
    draw, damages = np.random.default_rng(20220526), 0
    with killing.serving() as server:
        for chain in range(-(-KILLS // KILLS_IN_A_ROW)):
            life = killing.LIVES[chain % len(killing.LIVES)]
            folder, storage = Path(f"chain{chain}"), life["storage"]
            config = learner_config(widths=(7, 5), n_step=life["n_step"], batch=6, evolution_interval=3, seed=chain)
            replay = {"precision": life["precision"], "keep": life["keep"], "capacity": killing.CAPACITY}
            write_bundle(BUNDLE, config, precision=life["precision"], replay=replay)
            with closing(killing.load(folder, storage, _Careless())) as learner:
                killing.live(learner, lambda *_: None, 40)
            is_mended = True
            for _ in range(KILLS_IN_A_ROW):
                least = _snapshots_without(folder, storage)
                if is_mended:  # what was damaged before is not any more
                    name = draw.choice([name for name in os.listdir(folder) if name[0] != "." and name[:4] != "reje"])
                    least = _snapshots_without(folder, storage, name)
                    DAMAGE[draw.choice(list(DAMAGE), p=SHARES)](folder / name, draw)
                    damages += 1
                progress = killing.kill_one(server, folder, storage, draw)
                is_mended = progress.loaded >= 0
                assert _snapshots_without(folder, storage) >= max(least, progress.snapshots)
        assert server.stdin is not None
        server.stdin.close()
    assert damages > KILLS / 4
