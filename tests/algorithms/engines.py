"""The native engine in tests: its build in double precision, and what it and PyTorch learn from."""

from __future__ import annotations

import tempfile
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from edgerl.algorithms.native import NativeAgent
from edgerl.config import Config, make_config
from edgerl.edge.continual.replay import Boundary, Replay
from edgerl.edge.engine.arena import LearnerArena
from edgerl.edge.engine.library import ISAS, Library, library, new_arena
from tests.edge.compiled import ENGINE, compile_c

from .oracle import Transition

Array = npt.NDArray[Any]
Arrays = dict[str, Array]

N, M = 5, 3
"""Observations and actions, where nothing else is said."""

HERE = [isa for isa in ISAS if ISAS.index(isa) <= ISAS.index(library().best_isa)]
"""Instruction sets that this processor has."""


DOUBLE = ("-O2", "-ffp-contract=off", "-DEDGERL_DOUBLE", "-fPIC", "-shared")
"""Naive kernels in double precision."""


@lru_cache(maxsize=1)
def double_library() -> Library:
    """The engine with naive kernels in double precision, which the shipped library does not have; compiled once."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "double.so"
        compile_c("gcc", *DOUBLE, ENGINE / "edgerl.c", "-lm", "-o", path)
        return Library(path)  # stays mapped without its file


def engine_with(folder: Path, edits: dict[str, dict[str, str]], *flags: str) -> Library:
    """The engine after edits of its parts (name → what is replaced), made in `folder`; without flags in double."""
    folder.mkdir()
    for part in ENGINE.iterdir():
        if part.suffix in (".c", ".h", ".inc"):
            text = part.read_text()
            for before, after in edits.get(part.name, {}).items():
                assert text.count(before) == 1, f"{part.name}: {before}"
                text = text.replace(before, after)
            (folder / part.name).write_text(text)
    compile_c(
        "gcc",
        *(flags or DOUBLE),
        "-Wall",
        "-Werror",
        "-fPIC",
        "-shared",
        folder / "edgerl.c",
        "-lm",
        "-o",
        folder / "engine.so",
    )
    return Library(folder / "engine.so")


def small_config(**options: Any) -> Config:
    """A small agent that evolves soon; options as in `edgerl.train`."""
    defaults: dict[str, Any] = {
        "hidden": (18, 13),
        "batch_size": 9,
        "evolution_interval": 20,
        "steps": 1_000_000,
        "start_steps": 1,
    }
    options = defaults | {"drop_fraction": 0.25, "seed": 3} | options
    if options.get("topology") != "dense" and "lambda1" not in options:
        options.setdefault("sparsity", 0.5)
    return make_config(environment="none", **options)


def native_agent(config: Config, n: int = N, m: int = M, *, double: bool = False) -> NativeAgent:
    """An agent on the shipped engine, or on its build in double precision."""
    return NativeAgent(config, n, m, loaded=double_library(), dtype=np.float64) if double else NativeAgent(config, n, m)


def transitions(count: int, n: int = N, m: int = M, seed: int = 0) -> list[Transition]:
    """With every kind of boundary, and rewards of eighths: their sums at a discount of ½ are exact in float32 too."""
    generator = np.random.default_rng(seed)
    kinds = [Boundary.CONTINUES] * 12 + [Boundary.TERMINATED, Boundary.TRUNCATED, Boundary.GAP]
    return [
        Transition(
            observation=generator.normal(size=n).astype(np.float32),
            action=generator.uniform(-1, 1, m).astype(np.float32),
            reward=int(generator.integers(-16, 17)) / 8,
            following=generator.normal(size=n).astype(np.float32),
            boundary=kinds[generator.integers(len(kinds))],
        )
        for _ in range(count)
    ]


def filled_replay(n: int = N, m: int = M, count: int = 700) -> Replay:
    """A memory of 300 transitions whose ring, with 40 rows more, has wrapped where count is above 340."""
    replay = Replay(None, n, m, 300, slack=40)
    for t in transitions(count, n, m):
        replay.append(t.observation, t.action, t.reward, t.following, t.boundary)
    return replay


def move(arena: LearnerArena) -> None:
    """Bring the arena to other memory, and spoil what was there: nothing may still look at it. Its views are lost."""
    memory = new_arena(len(arena.memory))
    memory[:] = arena.memory
    arena.memory[:] = 0xFF
    arena.memory, arena._address = memory, type(arena._address)(memory.ctypes.data)


def differing(left: Arrays, right: Arrays) -> list[str]:
    """The names of arrays that are not the same bits in both."""
    names = sorted(left.keys() | right.keys())
    return [n for n in names if n not in left or n not in right or not _same(left[n], right[n])]


def _same(left: Array, right: Array) -> bool:
    return (left.dtype, left.shape, left.tobytes()) == (right.dtype, right.shape, right.tobytes())


def largest_difference(left: Array, right: Array) -> float:
    """Of two arrays' numbers; 0 where there are none."""
    assert left.shape == right.shape
    return float(np.abs(left.astype(np.float64) - right.astype(np.float64)).max(initial=0))
