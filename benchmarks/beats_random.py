"""Does an exported policy beat a random one? `python benchmarks/beats_random.py policy.onnx --by 500`

Ten episodes each in the policy's environment, with the same seeds; exit code 1 unless the difference of the means is
larger than `--by`.
"""

from __future__ import annotations

import argparse

import numpy as np

from edgerl.edge import OnnxPolicy
from edgerl.edge.acting.actions import adapted
from edgerl.environments.make import make
from edgerl.training.evaluation import evaluate, mean_interval

EPISODES = 10
EPISODE_LIMIT = 1000


def main() -> int:
    """Print both mean returns with their 95 % bootstrap intervals."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("policy")
    parser.add_argument("--by", type=float, default=0.0)
    arguments = parser.parse_args()
    policy = OnnxPolicy(arguments.policy)
    environment = make(policy.metadata["about"]["environment"], EPISODE_LIMIT)
    generator = np.random.default_rng(0)

    def act_at_random(_: np.ndarray) -> np.ndarray:
        return environment.scale(generator.uniform(-1, 1, environment.n_actions).astype(np.float32))

    seeds = range(EPISODES)
    trained = evaluate(environment, adapted(policy, environment, None), seeds)
    at_random = evaluate(environment, act_at_random, seeds)
    for name, returns in (("policy", trained), ("random", at_random)):
        mean, low, high = mean_interval(returns)
        print(f"{name}: return {mean:.1f} [{low:.1f}, {high:.1f}] over {EPISODES} episodes")
    difference = trained.mean() - at_random.mean()
    print(f"difference {difference:.1f}, {'more' if difference > arguments.by else 'NOT more'} than {arguments.by:g}")
    return 0 if difference > arguments.by else 1


if __name__ == "__main__":
    raise SystemExit(main())
