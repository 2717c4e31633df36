"""Learning curves of run folders as a picture and a table: `python benchmarks/curves.py NAME=RUN … -o curves.svg`

The table (Markdown, on stdout) has the mean return of the evaluations at every tenth of the run, and over the last ten.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import matplotlib

matplotlib.use("svg")
import matplotlib.pyplot as plt

from edgerl.training.logs import read_metrics

LAST = 10


def main() -> None:
    """Write the picture, print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("runs", nargs="+", metavar="NAME=RUN")
    parser.add_argument("-o", "--output", type=Path, required=True)
    arguments = parser.parse_args()
    figure, axes = plt.subplots(figsize=(7, 4), layout="constrained")
    rows = []
    for argument in arguments.runs:
        name, _, folder = argument.partition("=")
        metrics = read_metrics(Path(folder))
        steps, returns = [row["step"] for row in metrics], [row["return_mean"] for row in metrics]
        axes.plot(steps, returns, label=name)
        tenths = returns[len(returns) // 10 - 1 :: len(returns) // 10]
        last = sum(returns[-LAST:]) / len(returns[-LAST:])
        rows.append([name, *(f"{value:.0f}" for value in tenths), f"{last:.0f}"])
    axes.set(xlabel="environment steps", ylabel="return, mean of an evaluation")
    axes.grid(alpha=0.3)
    axes.legend()
    plt.rcParams["svg.hashsalt"] = "edgerl"
    figure.savefig(arguments.output, metadata={"Date": None})
    marks = steps[len(steps) // 10 - 1 :: len(steps) // 10]
    header = ["run", *(f"{step / 1000:.0f}k" for step in marks), f"last {LAST} evaluations"]
    for row in (header, ["---"] * len(header), *rows):
        print(f"| {' | '.join(row)} |")


if __name__ == "__main__":
    main()
