"""What a part adds to an update of the native engine, against the update without it: norms, activations, dropout, SAC,
CrossQ, a drop criterion, the norm of gradients.

    OMP_NUM_THREADS=1 taskset -c 0 python benchmarks/parts.py [--batch 100] [--repeats 12]

HalfCheetah's size (17 observations, 6 actions, 256-256), random transitions. All contenders take turns, 200 updates at
a time; median of the repeats, in processor time, and the ratio to DS-TD3 of the same density and block. SAC and CrossQ
update their actors at every second update here, as TD3 does; their own defaults are every and every third update.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Mapping
from typing import Any

from sizes import BATCH, N_ACTIONS, N_OBSERVATIONS, density_options, random_replay

from edgerl.algorithms.native import NativeAgent
from edgerl.config import make_config

UPDATES, WARM_UP = 200, 300
AS_TD3: dict[str, Any] = {"policy_delay": 2, "learning_rate": 1e-3, "weight_decay": 2e-4}
SAC, CROSSQ = {"algorithm": "sac"} | AS_TD3, {"algorithm": "crossq"} | AS_TD3
PARTS: dict[str, dict[str, Any]] = {
    "DS-TD3": {},
    "LayerNorm": {"critic_norm": "layer"},
    "scaled magnitude": {"drop": "scaled-magnitude"},
    "gradient clip": {"gradient_clip": 0.001},
    "ELU": {"activation": "elu"},
    "SiLU": {"activation": "silu"},
    "tanh": {"activation": "tanh"},
    "dropout": {"dropout": 0.01},
    "dropout, LayerNorm": {"dropout": 0.01, "critic_norm": "layer"},
    "SAC": SAC,
    "SAC, LayerNorm": SAC | {"critic_norm": "layer"},
    "SAC, LayerNorm, dropout, SiLU": SAC | {"critic_norm": "layer", "dropout": 0.01, "activation": "silu"},
    "CrossQ": CROSSQ,
    "CrossQ, no norm": CROSSQ | {"critic_norm": "none", "actor_norm": "none"},
}


def make_agents(
    parts: Mapping[str, dict[str, Any]], density: float, block: int, **common: Any
) -> dict[str, NativeAgent]:
    """An agent with each part."""
    made = {}
    for name, options in parts.items():
        outputs = N_ACTIONS * (2 if options.get("algorithm") == "sac" else 1)
        known = {"environment": "none", "start_steps": 1, "block": block, **density_options(density, outputs)}
        made[name] = NativeAgent(make_config(**known | common | options), N_OBSERVATIONS, N_ACTIONS)
    return made


def time_updates(agents: Mapping[str, NativeAgent], repeats: int) -> dict[str, float]:
    """Microseconds of an update of each."""
    replay = random_replay(20_000)
    seconds: dict[str, list[float]] = {name: [] for name in agents}
    for agent in agents.values():
        for _ in range(WARM_UP):
            agent.learn(replay)
    for _ in range(repeats):
        for name, agent in agents.items():
            started = time.process_time()
            for _ in range(UPDATES):
                agent.learn(replay)
            seconds[name].append(time.process_time() - started)
    return {name: statistics.median(taken) / UPDATES * 1e6 for name, taken in seconds.items()}


def main() -> None:
    """Print a Markdown table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--batch", type=int, default=BATCH)
    parser.add_argument("--repeats", type=int, default=12)
    arguments = parser.parse_args()
    print(f"| density, block | {' | '.join(PARTS)} |\n|---|{'---|' * len(PARTS)}")
    for density in (0.5, 0.1):
        for block in (1, 4):
            agents = make_agents(PARTS, density, block, batch_size=arguments.batch)
            found = time_updates(agents, arguments.repeats)
            cells = (f"{taken:.0f} µs, {taken / found['DS-TD3']:.2f} ×" for taken in found.values())
            print(f"| {density:g}, {block} | {' | '.join(cells)} |", flush=True)


if __name__ == "__main__":
    main()
