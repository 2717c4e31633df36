"""The time of an update: edgerl's engines against stable-baselines3's dense TD3; and the native engine's kernels.

    OMP_NUM_THREADS=1 taskset -c 0 python benchmarks/update.py [--parts updates kernels] [--repeats 9] [--json]

Everything at HalfCheetah's size (17 observations, 6 actions, 256-256), in one run on one core.

**Updates**, batch 100. An update is complete: sampling, critics, delayed actor, soft updates with target pruning, and
evolution steps: a repeat of DS-TD3 is exactly one evolution interval, 1000 updates, after two intervals that are not
timed (targets then have connections to lose). All contenders take turns, a tenth of a repeat each, so that a slow
moment of the machine affects all; median of the repeats. A density is that of each hidden layer; output layers are
dense. Time is processor time: on an otherwise idle core it is clock time; stderr states the share of the core.

**The line**: time = constant + slope × connections of the three networks, by least squares of the relative differences
over densities from 1 to .05. Dense layers are stored in blocks of 4: with single connections .999 stands for 1.

**Bytes**: those of the whole learner that depend on the connections, including targets of any support, without replay
memory and activations.

**Kernels**: benchmarks/kernels.py.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import gymnasium
import kernels
import numpy as np
import torch
from rich.console import Console
from rich.table import Table
from sizes import BATCH, HIDDEN, N_ACTIONS, N_OBSERVATIONS, Seconds, density_options, random_replay
from stable_baselines3 import TD3
from stable_baselines3.common.logger import configure

from edgerl.algorithms import td3
from edgerl.algorithms.native import NativeAgent
from edgerl.config import make_config
from edgerl.edge.continual.replay import Replay
from edgerl.environments.make import make

REPEATS, LEAST_REPEATS = 9, 7
TURNS = 10  # of each contender in a repeat
EVOLUTION_INTERVAL = 1000
WITHOUT_EVOLUTION = 200  # updates of a repeat
DENSITIES = {1: (0.999, 0.5, 0.2, 0.1, 0.05), 4: (0.5, 0.2, 0.1, 0.05)}  # by block; beside them, dense TD3
SB3 = "stable-baselines3"

Run = Callable[[int], None]
"""Makes this many updates."""


@dataclass
class Contender:
    """A way to learn, and how long its updates took."""

    what: str
    engine: str
    block: int
    density: float
    run: Run
    updates: int  # of a repeat
    connections: int | None = None  # of actor and critics; None where this is not ours
    n_bytes: int | None = None
    seconds: list[Seconds] = field(default_factory=list)  # per repeat

    @property
    def microseconds(self) -> float:
        """Of an update, median of the repeats."""
        return statistics.median(repeat.processor for repeat in self.seconds) / self.updates * 1e6


def stable_baselines3() -> Contender:
    """stable-baselines3's TD3 at the same sizes, on transitions of HalfCheetah-v5."""
    make("HalfCheetah-v5").close()  # silences MuJoCo
    model = TD3(
        "MlpPolicy",
        gymnasium.make("HalfCheetah-v5"),
        policy_kwargs={"net_arch": [HIDDEN, HIDDEN]},
        batch_size=BATCH,
        learning_starts=100,
        device="cpu",
    )
    model.set_logger(configure(None, []))
    model.learn(300)
    return Contender("TD3", SB3, 1, 1.0, lambda updates: model.train(updates, BATCH), WITHOUT_EVOLUTION)


def ours(replay: Replay, engine: str, method: str, block: int = 1, density: float = 1.0) -> Contender:
    """One of edgerl's engines."""
    options = {} if method == "td3" else density_options(density)
    config = make_config(engine=engine, method=method, block=block, batch_size=BATCH, **options)
    kind = NativeAgent if engine == "native" else td3.TD3
    agent = kind(config, N_OBSERVATIONS, N_ACTIONS)

    def run(updates: int) -> None:
        for _ in range(updates):
            agent.learn(replay)

    return Contender(
        what={"td3": "TD3", "static-td3": "Static-TD3", "ds-td3": "DS-TD3"}[method],
        engine=engine,
        block=4 if engine == "native" and method == "td3" else block,
        density=density,
        run=run,
        updates=EVOLUTION_INTERVAL if method == "ds-td3" else WITHOUT_EVOLUTION,
        connections=sum(sum(network.connections()) for _, network in agent.networks),
        n_bytes=agent.arena.bytes.connections if isinstance(agent, NativeAgent) else None,
    )


def contenders(replay: Replay) -> list[Contender]:
    """stable-baselines3 first, with which the rest is compared."""
    return [
        stable_baselines3(),
        ours(replay, "torch", "td3"),
        ours(replay, "torch", "static-td3", 1, 0.5),
        ours(replay, "torch", "ds-td3", 1, 0.5),
        ours(replay, "torch", "ds-td3", 4, 0.5),
        ours(replay, "native", "td3"),
        *(
            ours(replay, "native", "ds-td3", block, density)
            for block, densities in DENSITIES.items()
            for density in densities
        ),
    ]


def time_updates(everyone: Sequence[Contender], repeats: int) -> None:
    """Time the contenders; the first repeats are the warm-up."""
    for contender in everyone:
        contender.run(2 * contender.updates)
    for _ in range(repeats):
        for contender in everyone:
            contender.seconds.append(Seconds())
        for _ in range(TURNS):
            for contender in everyone:
                start = Seconds.now()
                contender.run(contender.updates // TURNS)
                contender.seconds[-1] += Seconds.now() - start
    total = sum((repeat for contender in everyone for repeat in contender.seconds), Seconds())
    print(f"the contenders had {total.processor / total.clock:.0%} of the core while they ran", file=sys.stderr)


def make_row(contender: Contender, peer: Contender) -> dict[str, Any]:
    """One line of the results."""
    row = {
        "what": f"update, {contender.what}",
        "engine": contender.engine,
        "block": contender.block,
        "density": contender.density,
        "batch": BATCH,
        "microseconds": round(contender.microseconds, 1),
        "speedup": round(peer.microseconds / contender.microseconds, 2),
        "against": SB3,
        "connections": contender.connections,
    }
    if contender.n_bytes is not None and contender.connections is not None:
        row |= {"bytes_per_connection": round(contender.n_bytes / contender.connections, 2)}
    return row


def fit(everyone: Sequence[Contender], block: int) -> dict[str, Any]:
    """The line through the native engine's updates with this block, from density 1 to .05."""
    points = [c for c in everyone if c.engine == "native" and c.block == block]
    times = np.array([contender.microseconds for contender in points])
    design = np.array([[1.0, contender.connections or 0] for contender in points])
    constant, slope = np.linalg.lstsq(design / times[:, None], np.ones(len(points)), rcond=None)[0]
    deviations = design @ [constant, slope] / times - 1
    return {
        "what": "constant part of an update",
        "engine": "native",
        "block": block,
        "density": None,
        "batch": BATCH,
        "microseconds": round(float(constant), 1),
        "speedup": None,
        "against": None,
        "nanoseconds_per_connection": round(float(slope) * 1e3, 3),
        "largest_deviation": round(float(np.abs(deviations).max()), 3),
    }


def measure_updates(replay: Replay, repeats: int) -> list[dict[str, Any]]:
    """The rows of the updates, then those of the lines."""
    everyone = contenders(replay)
    time_updates(everyone, repeats)
    rows = [make_row(contender, everyone[0]) for contender in everyone]
    return rows + [fit(everyone, block) for block in DENSITIES]


def print_updates(rows: Sequence[dict[str, Any]]) -> None:
    """Print a line per contender, then the two fitted lines in words."""
    table = Table("update", "engine", "block", "density", "µs", "× SB3", "connections", "bytes each")
    lines = [row for row in rows if row["speedup"] is None]
    for row in rows:
        if row not in lines:
            names = ("engine", "block", "density", "microseconds", "speedup", "connections", "bytes_per_connection")
            cells = ("" if row.get(name) is None else str(row[name]) for name in names)
            table.add_row(row["what"].removeprefix("update, "), *cells)
    Console(width=100).print(table)
    for row in lines:
        print(
            f"block {row['block']}: {row['microseconds']:.0f} µs + {row['nanoseconds_per_connection']:.2f} ns per "
            f"connection, within {row['largest_deviation']:.0%}"
        )


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parts = ("updates", "kernels")
    parser.add_argument("--parts", nargs="+", choices=parts, default=parts)
    parser.add_argument("--repeats", type=int, default=REPEATS, help=f"at least {LEAST_REPEATS}")
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    if arguments.repeats < LEAST_REPEATS:
        parser.error(f"--repeats is {arguments.repeats}; expected at least {LEAST_REPEATS}")
    if len(os.sched_getaffinity(0)) > 1:
        parser.error("this process may use several cores; expected one: taskset -c 0 python benchmarks/update.py")
    torch.set_num_threads(1)
    torch.set_flush_denormal(True)
    replay = random_replay(10_000)
    updates = measure_updates(replay, arguments.repeats) if "updates" in arguments.parts else []
    with tempfile.TemporaryDirectory() as folder:
        timed = kernels.measure(Path(folder), replay, arguments.repeats) if "kernels" in arguments.parts else []
    layers = kernels.make_rows(timed) if timed else []
    if arguments.json:
        print(json.dumps(updates + layers, indent=2))
        return
    if updates:
        print_updates(updates)
    if layers:
        kernels.print_rows(layers)


if __name__ == "__main__":
    main()
