"""The error of a calibrated profile: estimates of networks against their times, on the machine that was calibrated.

    taskset -c 0 edgerl devices calibrate -o my-board.toml
    taskset -c 0 python benchmarks/calibration.py my-board.toml [--json]

Networks 17-H-H-6, the output layer dense and sparse, the others as dense as given, with random weights and zero biases.
Each is timed as a control loop calls it, `Policy` with the layouts that it chooses and `OnnxPolicy`, in rounds, so that
a slow moment of the machine affects all; estimates are of the policy itself, and of the network as in `edgerl profile
--network`.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from collections.abc import Callable
from itertools import pairwise, product
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np

from edgerl.commands.export import export_policy
from edgerl.edge import OnnxPolicy, Policy
from edgerl.policy.compact import Array, CompactPolicy, make_layer
from edgerl.profiling.budgets.device import load_device
from edgerl.profiling.budgets.model import network_rows, policy_rows
from edgerl.profiling.latency.estimate import estimate_latency

WIDTHS = (16, 32, 64, 128, 256, 512)
DENSITIES = (1.0, 0.5, 0.2, 0.1, 0.05)
ROUNDS, CALLS = 25, 64

Act = Callable[[Array], Any]


def random_policy(width: int, density: float, block: int, output_density: float) -> CompactPolicy:
    """A policy of 17-H-H-6 with zero biases."""
    generator = np.random.default_rng(7)
    layers = []
    for (n, m), share in zip(pairwise((17, width, width, 6)), (density, density, output_density), strict=True):
        mask = np.repeat(generator.random((-(-m // block), n)) < share, block, axis=0)[:m]
        weight = generator.normal(size=(m, n)) * mask / np.sqrt(n * share)
        layers.append(make_layer(weight.astype(np.float32), np.zeros(m, np.float32), block))
    bound = np.ones(6, np.float32)
    return CompactPolicy(tuple(layers), -bound, bound).with_example(generator.normal(size=17))


def microseconds(acts: list[Act]) -> list[float]:
    """The median time of a call of each, in µs."""
    observations = list(np.random.default_rng(3).normal(size=(CALLS, 17)).astype(np.float32))
    times: list[list[float]] = [[] for _ in acts]
    for round_ in range(1 + ROUNDS):
        for act, own in zip(acts, times, strict=True):
            act(observations[0])
            start = time.perf_counter()
            for observation in observations:
                act(observation)
            if round_ > 0:
                own.append((time.perf_counter() - start) / CALLS * 1e6)
    return [median(own) for own in times]


def onnx_act(policy: CompactPolicy, folder: Path) -> OnnxPolicy:
    """The policy in onnxruntime."""
    export_policy(policy, "onnx", folder / "policy.onnx", force=True)
    return OnnxPolicy(folder / "policy.onnx")


def rows(profile: Path) -> list[dict[str, Any]]:
    """A row for each runtime and network."""
    device = load_device(profile)
    cases = []
    with tempfile.TemporaryDirectory() as folder:
        for width, density, block, output in product(WIDTHS, DENSITIES, (1, 4), ("dense", "sparse")):
            policy = random_policy(width, density, block, 1.0 if output == "dense" else density)
            case = {"width": width, "density": density, "block": block, "output": output}
            cases.append(({**case, "runtime": "native"}, policy, Policy(policy)))
            if block == 1 and output == "dense":
                cases.append(({**case, "runtime": "onnxruntime"}, policy, onnx_act(policy, Path(folder))))
    found = []
    for (case, policy, _), measured in zip(cases, microseconds([act for *_, act in cases]), strict=True):
        runtime = device.runtime(case["runtime"])
        network = network_rows(f"17-{case['width']}-{case['width']}-6", case["density"], case["block"])
        estimates = [estimate_latency(device, runtime, model.layers) for model in (policy_rows(policy), network)]
        errors = [estimate.seconds * 1e6 / measured - 1 for estimate in estimates]
        uncertainty = estimates[0].uncertainty or 0.0
        inside = 1 / (1 + uncertainty) <= 1 + errors[0] <= 1 + uncertainty
        times = {"measured_us": measured, "error": errors[0], "error_by_network": errors[1], "inside": inside}
        found.append({**case, **times})
    return found


def main() -> None:
    """Print the errors."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("profile", type=Path)
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    found = rows(arguments.profile)
    if arguments.json:
        print(json.dumps(found, indent=2))
        return
    for runtime in ("onnxruntime", "native"):
        own = [row for row in found if row["runtime"] == runtime]
        for key in ("error", "error_by_network"):
            errors = np.abs([row[key] for row in own])
            print(
                f"{runtime:<12} {key:<17} {len(own):>4} networks: median {np.median(errors):.1%}, "
                f"90 % {np.quantile(errors, 0.9):.1%}, worst {errors.max():.1%}"
            )
        print(f"{runtime:<12} inside the printed interval: {np.mean([row['inside'] for row in own]):.0%}")
        for row in sorted(own, key=lambda row: -abs(row["error"]))[:5]:
            print(f"    {row['width']}, density {row['density']}, block {row['block']}, output {row['output']}: "
                  f"{row['measured_us']:.2f} µs, {row['error']:+.0%}")  # fmt: skip


if __name__ == "__main__":
    main()
