"""The time of an action of generated C on this processor: edgerl's against onnx2c's of the same network, and
onnxruntime's, in one run on one core.

    taskset -c 0 python benchmarks/c_code.py [--onnx2c PATH] [--json]

Networks: 48-512-256-128-12 with ELU, dense, as legged robots have them, and 17-256-256-6 with ReLU, dense and at two
densities in blocks of 1 and 4, its output layer dense. Weights are random, so behind ReLU every second unit is zero.
Both end in tanh, for onnx2c's C of the clip that a linear head ends with does not compile.

Every program is compiled by each compiler that is here at `-O3` and at `-O3 -march=native`, onnx2c's at `-O3` and at
`-O3 -ffast-math -march=native`, and called through one pointer. They take turns for REPEATS rounds, so that a slow
moment of the machine affects all. Where a large array lies in physical memory matters to the caches, so that is done in
PROCESSES processes, one after the other; a figure is the median over all rounds, a ratio the median of each round's.
onnxruntime is called from Python, as `edgerl run` does. Every program's actions are compared with the policy's.

onnx2c: a built one, docs/c.md; without it the rows are those of the others.
"""

from __future__ import annotations

import argparse
import ctypes
import json
import platform
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

from edgerl.commands.export import export_policy
from edgerl.edge import OnnxPolicy
from edgerl.export.c.form import target_of
from edgerl.policy.activation import ActivationName
from edgerl.policy.compact import Array, CompactPolicy, make_layer

PROCESSES, REPEATS = 5, 60
OBSERVATIONS = 32
TURN = 3e-4  # seconds at most, where that is two observations or more: so long often passes undisturbed
LARGEST_DIFFERENCE = 1e-4  # of actions: beyond it, it is another computation

PLAIN, NATIVE, FAST = ("-O3",), ("-O3", "-march=native"), ("-O3", "-ffast-math", "-march=native")

TIMER = """
#include <time.h>
double seconds(int (*act)(const float *, float *), const float *observations, int count, int n, float *action) {
    struct timespec start, end;
    clock_gettime(CLOCK_MONOTONIC, &start);
    for (int i = 0; i < count; i++) {
        act(observations + i * n, action);
    }
    clock_gettime(CLOCK_MONOTONIC, &end);
    return (double)(end.tv_sec - start.tv_sec) + 1e-9 * (double)(end.tv_nsec - start.tv_nsec);
}
"""


@dataclass(frozen=True)
class Network:
    """One network of the benchmark."""

    widths: tuple[int, ...]
    activation: ActivationName
    density: float = 1.0
    block: int = 1

    @property
    def name(self) -> str:
        """For a table."""
        held = "dense" if self.density == 1 else f"density {self.density:g}, blocks of {self.block}"
        return f"{'-'.join(map(str, self.widths))} {self.activation}, {held}"

    def policy(self) -> CompactPolicy:
        """With random weights."""
        generator = np.random.default_rng(0)
        layers = []
        for index, (n, m) in enumerate(pairwise(self.widths)):
            share = 1.0 if index == len(self.widths) - 2 else self.density
            mask = np.repeat(generator.random((-(-m // self.block), n)) < share, self.block, axis=0)[:m]
            weight = (generator.normal(size=(m, n)) * mask / np.sqrt(n * share)).astype(np.float32)
            layer = make_layer(weight, np.zeros(m, np.float32), self.block)
            layers.append(replace(layer, activation=self.activation))
        bound = np.ones(self.widths[-1], np.float32)
        return CompactPolicy(tuple(layers), -bound, bound).with_example(generator.normal(size=self.widths[0]))


NETWORKS = (
    Network((48, 512, 256, 128, 12), "elu"),
    *(Network((17, 256, 256, 6), "relu", *case) for case in ((1.0, 1), (0.5, 1), (0.5, 4), (0.1, 1), (0.1, 4))),
)

Time = Callable[[Array], float]
"""Seconds of an action, over observations [count, n]."""


# ------------------------------------------------------------------------------------------------ programs


def build(network: Network, folder: Path, onnx2c: str | None) -> dict[str, tuple[str, str]]:
    """Name → library and function of each program; onnx2c's first, which the others are compared with."""
    policy = network.policy()
    export_policy(policy, "onnx", folder / "policy.onnx")
    export_policy(policy, "c", folder / "c", target=target_of("", platform.machine()))
    export_policy(policy, "c", folder / "generic", target="generic")
    sources = {"edgerl": (folder / "c/edgerl_policy.c", "edgerl_policy", (PLAIN, NATIVE))}
    sources["edgerl, generic"] = (folder / "generic/edgerl_policy.c", "edgerl_policy", (NATIVE,))
    if onnx2c is not None:
        source = _written(folder / "onnx2c.c", onnx2c_source(onnx2c, folder, network))
        sources = {"onnx2c": (source, "call", (FAST, PLAIN)), **sources}
    made = {}
    for name, (source, function, all_flags) in sources.items():
        for flags in all_flags:
            for compiler in filter(shutil.which, ("gcc", "clang")):
                library = compiled(compiler, flags, source)
                compare(name, policy, getattr(ctypes.CDLL(str(library)), function))
                made[f"{name}, {compiler} {' '.join(flags)}"] = str(library), function
    compiled("cc", PLAIN, _written(folder / "timer.c", TIMER)).rename(folder / "timer.so")
    return made


def _written(path: Path, text: str) -> Path:
    path.write_text(text)
    return path


def onnx2c_source(onnx2c: str, folder: Path, network: Network) -> str:
    """onnx2c's C of the policy's ONNX file, with a function that is called as edgerl's is."""
    command = [onnx2c, "-d", "batch:1", "policy.onnx"]
    text = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=True).stdout
    n, m = network.widths[0], network.widths[-1]
    call = f"    entry((const float (*)[{n}])o, (float (*)[{m}])a);\n    return 0;\n"
    return f"{text}\nint call(const float *o, float *a) {{\n{call}}}\n"


def compiled(compiler: str, flags: Sequence[str], source: Path) -> Path:
    """A shared library of one C file."""
    library = source.with_name(f"{source.stem}-{compiler}{''.join(flags)}.so")
    subprocess.run([compiler, *flags, "-w", "-shared", "-fPIC", source, "-o", library, "-lm"], check=True)
    return library


def compare(name: str, policy: CompactPolicy, act: Any) -> None:
    """Stop where a program's actions are not the policy's."""
    action = np.zeros(policy.n_actions, np.float32)
    for observation in observations_of(policy.n_observations):
        act(observation.ctypes.data_as(ctypes.c_void_p), action.ctypes.data_as(ctypes.c_void_p))
        difference = np.abs(action - policy(observation, np.float64)).max()
        if not difference < LARGEST_DIFFERENCE:
            sys.exit(f"{name} differs from the policy by {difference:g}")


def observations_of(n: int) -> Array:
    """[OBSERVATIONS, n]"""
    return np.random.default_rng(1).normal(size=(OBSERVATIONS, n)).astype(np.float32)


def _timed(timer: Any, act: Any, network: Network) -> Time:
    action = (ctypes.c_float * network.widths[-1])()

    def seconds(observations: Array) -> float:
        count, n = observations.shape
        total: float = timer(act, observations.ctypes.data_as(ctypes.c_void_p), count, n, action)
        return total / count

    return seconds


def _seconds_of(act: OnnxPolicy, observations: Array) -> float:
    start = time.perf_counter()
    for observation in observations:
        act(observation)
    return (time.perf_counter() - start) / len(observations)


# ------------------------------------------------------------------------------------------------ the run


def rounds(network: Network, folder: Path, built: dict[str, tuple[str, str]]) -> dict[str, list[float]]:
    """Microseconds of every program in every round, of one process."""
    timer = ctypes.CDLL(str(folder / "timer.so")).seconds
    timer.restype = ctypes.c_double
    made = {name: _timed(timer, getattr(ctypes.CDLL(library), act), network) for name, (library, act) in built.items()}
    runtime = OnnxPolicy(folder / "policy.onnx")
    made["onnxruntime, from Python"] = lambda observations: _seconds_of(runtime, observations)
    observations = observations_of(network.widths[0])
    counts = {
        name: max(2, int(TURN / min(seconds(observations[:2]) for _ in range(5)))) for name, seconds in made.items()
    }
    times: dict[str, list[float]] = {name: [] for name in made}
    for _ in range(REPEATS):
        for name, seconds in made.items():
            times[name].append(1e6 * seconds(observations[: counts[name]]))
    return times


def measure(network: Network, onnx2c: str | None) -> list[dict[str, Any]]:
    """The rows of one network, over all processes."""
    times: dict[str, list[float]] = {}
    with tempfile.TemporaryDirectory() as folder:
        built = json.dumps(build(network, Path(folder), onnx2c))
        command = [sys.executable, __file__, "--rounds", str(NETWORKS.index(network)), folder, built]
        for _ in range(PROCESSES):
            done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
            for name, taken in json.loads(done.stdout).items():
                times.setdefault(name, []).extend(taken)
    peer = next(iter(times))
    return [
        {
            "network": network.name,
            "program": name,
            "microseconds": round(median(taken), 2),
            "speedup": round(median(other / own for other, own in zip(times[peer], taken, strict=True)), 2),
            "against": peer,
        }
        for name, taken in times.items()
    ]


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--onnx2c", help="the program, built as docs/c.md says")
    parser.add_argument("--rounds", nargs=3, help=argparse.SUPPRESS)  # of one network, in this process
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    if arguments.rounds is not None:
        index, folder, built = arguments.rounds
        print(json.dumps(rounds(NETWORKS[int(index)], Path(folder), json.loads(built))))
        return
    if arguments.onnx2c is None:
        print(
            "onnx2c is absent: name it with --onnx2c; without it × is against edgerl's own first row", file=sys.stderr
        )
    rows = [row for network in NETWORKS for row in measure(network, arguments.onnx2c)]
    if arguments.json:
        print(json.dumps(rows, indent=2))
        return
    for network in NETWORKS:
        mine = [row for row in rows if row["network"] == network.name]
        table = Table("program", "µs", f"× {mine[0]['program']}", title=network.name)
        for row in mine:
            table.add_row(row["program"], str(row["microseconds"]), str(row["speedup"]))
        Console(width=110).print(table)


if __name__ == "__main__":
    main()
