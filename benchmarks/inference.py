"""The time of an action: the native engine against onnxruntime, batch of one, called from Python, in one run on a core.

    taskset -c 0 python benchmarks/inference.py [--json]

HalfCheetah's size (17-256-256-6), the output layer dense, the other two as dense as given. Weights are random, and half
of all units are zero after ReLU, as about half are in a trained policy. All engines act on the same observations in
turn; the median of interleaved repeats, so that a slow moment of the machine affects all. onnxruntime has the session
options of `edgerl run` (docs/onnx.md) and is called as its users do, by `session.run`; the row `bound` is OnnxPolicy,
which spares it some of that. EDGERL_ISA limits the native engine.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
from rich.console import Console
from rich.table import Table

from edgerl.commands.export import export_policy
from edgerl.edge import OnnxPolicy, Policy
from edgerl.edge.acting.onnx_policy import SESSION_OPTIONS
from edgerl.policy.compact import Array, CompactPolicy, make_layer

WIDTHS = (17, 256, 256, 6)
BLOCKS = (1, 4)
DENSITIES = (1.0, 0.5, 0.2, 0.1, 0.05)
REPEATS = 31
ACTIONS = 64  # per repeat and engine: a millisecond or less, which often passes undisturbed

Act = Callable[[Array], Any]


def random_policy(block: int, density: float) -> CompactPolicy:
    """A policy half of whose units are zero after ReLU."""
    generator = np.random.default_rng(0)
    layers = []
    for index, (n, m) in enumerate(pairwise(WIDTHS)):
        share = 1.0 if index == len(WIDTHS) - 2 else density
        mask = np.repeat(generator.random((-(-m // block), n)) < share, block, axis=0)[:m]
        weight = generator.normal(size=(m, n)) * mask / np.sqrt(n * share)
        layers.append(make_layer(weight.astype(np.float32), np.zeros(m, np.float32), block))
    bound = np.ones(WIDTHS[-1], np.float32)
    return CompactPolicy(tuple(layers), -bound, bound).with_example(generator.normal(size=WIDTHS[0]))


def engines(policy: CompactPolicy, folder: Path) -> dict[str, Act]:
    """Each engine as a function from an observation to an action; the others are compared with the first."""
    path = folder / "policy.onnx"
    export_policy(policy, "onnx", path, force=True)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    for key, value in SESSION_OPTIONS.items():
        options.add_session_config_entry(key, value)
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    return {
        "onnxruntime": lambda observation: session.run(None, {"observation": observation[None]})[0][0],
        "onnxruntime, bound": OnnxPolicy(path),
        "native": Policy(policy),
    }


def microseconds(acts: dict[str, Act], observations: Array) -> dict[str, float]:
    """Median time of an action of each engine, repeats interleaved."""
    times: dict[str, list[float]] = {name: [] for name in acts}
    for repeat in range(REPEATS + 1):
        for name, act in acts.items():
            start = time.perf_counter()
            for observation in observations:
                act(observation)
            if repeat > 0:  # the first warms the caches
                times[name].append((time.perf_counter() - start) / len(observations) * 1e6)
    return {name: statistics.median(values) for name, values in times.items()}


def measure(block: int, density: float) -> list[dict[str, Any]]:
    """The rows of one policy."""
    policy = random_policy(block, density)
    observations = np.random.default_rng(1).normal(size=(ACTIONS, WIDTHS[0])).astype(np.float32)
    with tempfile.TemporaryDirectory() as folder:
        acts = engines(policy, Path(folder))
        medians = microseconds(acts, observations)
    peer = medians["onnxruntime"]
    native = acts["native"]
    assert isinstance(native, Policy)
    return [
        {
            "what": "act" if name != "native" else f"act ({native.isa}: {', '.join(native.layouts)})",
            "engine": name,
            "block": block,
            "density": density,
            "batch": 1,
            "microseconds": round(median, 2),
            "speedup": round(peer / median, 2),
            "against": "onnxruntime",
        }
        for name, median in medians.items()
    ]


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    rows = [row for block in BLOCKS for density in DENSITIES for row in measure(block, density)]
    if arguments.json:
        print(json.dumps(rows, indent=2))
        return
    table = Table("what", "engine", "block", "density", "µs", "× onnxruntime")
    for row in rows:
        cells = (row["what"], row["engine"], row["block"], row["density"], row["microseconds"], row["speedup"])
        table.add_row(*map(str, cells))
    Console().print(table)


if __name__ == "__main__":
    main()
