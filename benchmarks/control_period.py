"""Updates within half a core beside a control loop, by number of connections: measured here, estimated for a device.

    OMP_NUM_THREADS=1 taskset -c 0 python benchmarks/control_period.py [--rate 20] [--device raspberry-pi-5] [--batch N]

HalfCheetah's size, random transitions, processor time as in parts.py. TD3, SAC and CrossQ as `edgerl train` makes them:
batches of 100, 256 and 256, the actor at every second, every and every third update; --batch sets all three. Acting
takes some of the same core, a tenth of a millisecond of each period (docs/continual.md), which is not taken off.
"""

from __future__ import annotations

import argparse
from typing import Any

from parts import make_agents, time_updates

from edgerl.algorithms.native import NativeAgent
from edgerl.profiling.budgets.device import find_device
from edgerl.profiling.budgets.learning import update_us

CORE_SHARE = 0.5
NORM: dict[str, Any] = {"critic_norm": "layer"}
LEARNERS: dict[str, dict[str, Any]] = {
    "TD3": {},
    "TD3, LayerNorm": NORM,
    "SAC": {"algorithm": "sac"},
    "SAC, LayerNorm": {"algorithm": "sac", **NORM},
    "CrossQ": {"algorithm": "crossq"},
}


def connections(agent: NativeAgent) -> int:
    """Of actor and critics."""
    return sum(sum(network.connections()) for _, network in agent.networks)


def main() -> None:
    """Print a Markdown table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rate", type=float, default=20.0, help="control periods per second")
    parser.add_argument("--device", default="raspberry-pi-5", help="what the estimate is for")
    parser.add_argument("--batch", type=int, help="transitions per update (default: the algorithm's)")
    parser.add_argument("--repeats", type=int, default=9)
    arguments = parser.parse_args()
    device, budget_us = find_device(arguments.device), CORE_SHARE * 1e6 / arguments.rate
    print(f"Updates in {budget_us / 1000:g} ms: here (time of one) / {device.id}, an unvalidated estimate\n")
    print(f"| density, block | connections TD3, SAC | {' | '.join(LEARNERS)} |\n|---|---|{'---|' * len(LEARNERS)}")
    common = {} if arguments.batch is None else {"batch_size": arguments.batch}
    for density in (0.5, 0.2, 0.1, 0.05):
        for block in (1, 4):
            agents = make_agents(LEARNERS, density, block, **common)
            cells = []
            for name, taken_us in time_updates(agents, arguments.repeats).items():
                estimate_us = update_us(device, agents[name].arena.config)
                cells.append(f"{budget_us / taken_us:.1f} ({taken_us:.0f} µs) / ≈ {budget_us / estimate_us:.1f}")
            counts = ", ".join(str(connections(agents[name])) for name in ("TD3", "SAC"))
            print(f"| {density:g}, {block} | {counts} | {' | '.join(cells)} |", flush=True)


if __name__ == "__main__":
    main()
