"""The return of a policy as C: the compiled export in the loop, against the policy itself, over the same episodes.

    python benchmarks/c_return.py RUN… [--episodes 50]

For each run folder and each data type: the mean return of the policy in float64 and of the C (gcc -O2, a shared
library), and the mean difference with its 95 % bootstrap interval. Exit code 1 where a difference is neither inside an
interval around zero nor within 1 % (fp32, fp16) or 3 % (int8) of the return.
"""

from __future__ import annotations

import argparse
import ctypes
import subprocess
import sys
import tempfile
from contextlib import closing
from pathlib import Path

import numpy as np

from edgerl.commands.export import export_policy
from edgerl.environments.make import make_for_run
from edgerl.policy.compact import Array, CompactPolicy, Precision
from edgerl.policy.format import load
from edgerl.training import checkpoint as checkpoint_file
from edgerl.training.evaluation import evaluate, evaluation_seeds, mean_interval

ALLOWED: dict[Precision, float] = {"fp32": 0.01, "fp16": 0.01, "int8": 0.03}
"""Of the policy's mean return."""


class Compiled:
    """The exported C as `evaluate` calls a policy."""

    def __init__(self, policy: CompactPolicy, dtype: Precision, folder: Path) -> None:
        export_policy(policy, "c", folder, force=True, dtype=dtype, target="cortex-m4")
        library = folder / f"{dtype}.so"
        options = ("-std=c99", "-O2", "-ffp-contract=fast", "-shared", "-fPIC")
        subprocess.run(["gcc", *options, folder / "edgerl_policy.c", "-o", library], check=True)
        self._act = ctypes.CDLL(str(library)).edgerl_policy
        self._n_actions = policy.n_actions

    def __call__(self, observation: Array) -> Array:
        window = np.ascontiguousarray(observation, np.float32)
        action = np.empty(self._n_actions, np.float32)
        code = self._act(window.ctypes.data_as(ctypes.c_void_p), action.ctypes.data_as(ctypes.c_void_p))
        if code != 0:
            raise RuntimeError(f"the C policy refused an observation: {code}")
        return action


def main() -> int:
    """Print a table; the exit code, 1 where a difference is too large."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", nargs="+", type=Path)
    parser.add_argument("--episodes", type=int, default=50)
    arguments = parser.parse_args()
    print("| run | weights | policy | C | difference [95 % interval] | share |\n| --- | --- | --- | --- | --- | --- |")
    verdicts = [compare(run, arguments.episodes) for run in arguments.runs]
    return 0 if all(verdicts) else 1


def compare(run: Path, episodes: int) -> bool:
    """Print one line per data type; whether all differences are small enough."""
    checkpoint, policy = checkpoint_file.read(run / "checkpoint.safetensors"), load(run / "policy.safetensors")
    seeds = evaluation_seeds(checkpoint.config.seed, episodes)
    is_fine = True
    with closing(make_for_run(checkpoint.config)) as environment, tempfile.TemporaryDirectory() as folder:
        original = evaluate(environment, policy, seeds)
        for dtype, allowed in ALLOWED.items():
            returns = evaluate(environment, Compiled(policy, dtype, Path(folder)), seeds)
            mean, low, high = mean_interval(returns - original)
            share = abs(mean) / abs(original.mean())
            is_fine &= low <= 0 <= high or share <= allowed
            print(
                f"| {run.name} | {dtype} | {original.mean():.0f} | {returns.mean():.0f} "
                f"| {mean:+.0f} [{low:.0f}, {high:.0f}] | {share:.2%} |",
                flush=True,
            )
    return is_fine


if __name__ == "__main__":
    sys.exit(main())
