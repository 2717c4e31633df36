"""Two groups of runs by their final returns: `python benchmarks/compare.py A=RUN,RUN,… B=RUN,RUN,… [--at STEP]`

Of each run, the mean of its last evaluations up to a step; of each group, the mean over its runs; and the difference
A − B with its 95 % interval, by resampling the runs of each group (a bootstrap: with few runs it is wide).
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import numpy.typing as npt

from edgerl.training.logs import read_metrics

RESAMPLES = 20_000


def final_return(run: Path, at: int, last: int) -> float:
    """Mean return of a run's last evaluations up to a step."""
    returns = [row["return_mean"] for row in read_metrics(run) if row["step"] <= at and "return_mean" in row]
    if len(returns) < last:
        raise SystemExit(f"{run} has {len(returns)} evaluations up to step {at}; expected at least {last}")
    return float(np.mean(returns[-last:]))


def difference(a: npt.NDArray[np.float64], b: npt.NDArray[np.float64]) -> tuple[float, float, float]:
    """(mean difference, lower, upper end of its 95 % interval)."""
    generator = np.random.default_rng(0)
    means = [generator.choice(group, (RESAMPLES, len(group))).mean(axis=1) for group in (a, b)]
    low, high = np.quantile(means[0] - means[1], (0.025, 0.975))
    return float(a.mean() - b.mean()), float(low), float(high)


def main() -> None:
    """Print each group and their difference."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("groups", nargs=2, metavar="NAME=RUN,RUN,…")
    parser.add_argument("--at", type=int, default=2**63, help="leave out what comes after this step")
    parser.add_argument("--last", type=int, default=5, help="evaluations that count (default 5)")
    arguments = parser.parse_args()
    groups = []
    for group in arguments.groups:
        name, _, runs = group.partition("=")
        groups.append(np.array([final_return(Path(run), arguments.at, arguments.last) for run in runs.split(",")]))
        print(f"{name}: {groups[-1].mean():.0f} ({', '.join(f'{value:.0f}' for value in groups[-1])})")
    mean, low, high = difference(*groups)
    print(f"difference: {mean:.0f} [{low:.0f}, {high:.0f}]")


if __name__ == "__main__":
    main()
