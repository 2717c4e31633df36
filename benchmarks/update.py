"""What an update costs: DS-TD3 on the PyTorch engine against stable-baselines3's dense TD3, in one run on one core.

    taskset -c 0 python benchmarks/update.py [--json]

HalfCheetah's size (17 observations, 6 actions, 256-256), batch 100, the paper's half density. Median of interleaved
repeats, so that a slow moment of the machine hits both. The update of DS-TD3 is whole: sampling, critics, delayed
actor, soft updates with target pruning, and evolution steps, amortised over 1000 updates. Then the steps/s of a real
run, at its start and after 20 000 updates.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import torch
from rich.console import Console
from rich.table import Table
from stable_baselines3 import TD3
from stable_baselines3.common.logger import configure

from edgerl.edge.replay import Boundary, Replay
from edgerl.training.agent import Agent
from edgerl.training.config import make_config
from edgerl.training.environments import make
from edgerl.training.loop import Status, train
from edgerl.training.random import Purpose, below

REPEATS = 9
UPDATES = 200  # per repeat and engine
EVOLUTION_INTERVAL = 1000
LATER = 20_000  # updates after which a real run is timed again
WINDOW = 2000  # steps over which it is timed


def our_updates(method: str, block: int) -> Callable[[int], None]:
    """A function that makes n updates of our engine on random transitions."""
    agent = Agent(make_config(method=method, block=block), 17, 6)
    generator, replay = np.random.default_rng(0), Replay(None, 17, 6, 10_000)
    for _ in range(10_000):
        observation, following = generator.normal(size=(2, 17))
        replay.append(observation, generator.uniform(-1, 1, 6), generator.normal(), following, Boundary.CONTINUES)

    def run(updates: int) -> None:
        for _ in range(updates):
            words = agent.draws.stream(Purpose.REPLAY, agent.updates + 1, 100)
            agent.update(replay.sample(below(words, replay.size), 0.99))

    run(2 * EVOLUTION_INTERVAL)  # past two evolution steps: targets then have connections to lose
    return run


def their_updates() -> Callable[[int], None]:
    """A function that makes n updates of stable-baselines3's TD3 at the same sizes."""
    make("HalfCheetah-v5").close()  # silences MuJoCo
    environment = gymnasium.make("HalfCheetah-v5")
    model = TD3(
        "MlpPolicy",
        environment,
        policy_kwargs={"net_arch": [256, 256]},
        batch_size=100,
        learning_starts=100,
        device="cpu",
    )
    model.set_logger(configure(None, []))
    model.learn(300)

    def run(updates: int) -> None:
        model.train(updates, 100)

    run(100)
    return run


def time_updates() -> list[dict[str, Any]]:
    """Median microseconds of an update per engine, repeats interleaved."""
    engines = {
        ("stable-baselines3 TD3, dense", "stable-baselines3", 1): their_updates(),
        ("TD3, dense", "torch", 1): our_updates("td3", 1),
        ("Static-TD3, half density", "torch", 1): our_updates("static-td3", 1),
        ("DS-TD3, half density", "torch", 1): our_updates("ds-td3", 1),
        ("DS-TD3, half density, blocks of 4", "torch", 4): our_updates("ds-td3", 4),
    }
    times: dict[Any, list[float]] = {key: [] for key in engines}
    for _ in range(REPEATS):
        for key, run in engines.items():
            start = time.perf_counter()
            run(UPDATES)
            times[key].append((time.perf_counter() - start) / UPDATES * 1e6)
    medians = {key: statistics.median(values) for key, values in times.items()}
    peer = next(iter(medians.values()))
    return [
        {
            "what": what,
            "engine": engine,
            "block": block,
            "batch": 100,
            "microseconds": round(microseconds, 1),
            "ratio": round(microseconds / peer, 3),
            "against": "stable-baselines3",
        }
        for (what, engine, block), microseconds in medians.items()
    ]


def time_a_run() -> list[dict[str, Any]]:
    """Training steps/s of a real DS-TD3 run on HalfCheetah-v5, at its start and after 20 000 updates."""
    start_steps = 1000
    marks: dict[int, float] = {}

    def note(status: Status) -> None:
        marks[status.step] = time.perf_counter()

    with tempfile.TemporaryDirectory() as folder:
        steps = start_steps + LATER + WINDOW
        train(
            "HalfCheetah-v5",
            out=Path(folder) / "run",
            report=note,
            steps=steps,
            start_steps=start_steps,
            evaluation_interval=steps,
            evaluation_episodes=1,
            checkpoint_interval=steps,
        )
    rows = []
    for what, first in (("at its start", start_steps), (f"after {LATER} updates", start_steps + LATER)):
        last = min(first + WINDOW, steps - 100)  # the last report comes after the final evaluation
        rate = (last - first) / (marks[last] - marks[first])
        rows.append({"what": f"DS-TD3 run, {what}", "steps_per_second": round(rate)})
    return rows


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    torch.set_flush_denormal(True)
    updates, runs = time_updates(), time_a_run()
    if arguments.json:
        print(json.dumps(updates + runs, indent=2))
        return
    table = Table("one update, batch 100", "µs", "× stable-baselines3")
    for row in updates:
        table.add_row(row["what"], f"{row['microseconds']:.0f}", f"{row['ratio']:.2f}")
    Console().print(table)
    for row in runs:
        print(f"{row['what']}: {row['steps_per_second']} steps/s")


if __name__ == "__main__":
    main()
