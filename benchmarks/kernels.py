"""The engine's kernels on a 256×256 layer, as shares of this core's peak; a part of benchmarks/update.py.

`kernels.c`, which includes the whole engine, is compiled with the flags that ship. The layer is a critic's second, in
the arena of a learner after some updates, and only work on its connections counts. The peak is that of twelve
independent sums in registers at the processor's widest vectors; numpy's matrix product, which must be below it,
confirms it. All of them are timed in turn, a few milliseconds each.
"""

from __future__ import annotations

import ctypes
import os
import statistics
import subprocess
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import tomllib
from rich.console import Console
from rich.table import Table
from sizes import N_ACTIONS, N_OBSERVATIONS, Seconds, density_options

from edgerl.algorithms.native import NativeAgent
from edgerl.config import make_config
from edgerl.edge.continual.replay import Replay
from edgerl.edge.engine.library import Library

HERE = Path(__file__).parent
KERNELS = ("forward", "input gradient", "weight gradient")
"""In the order of their numbers in C."""

BLOCKS = (1, 4)
BATCHES = (256, 112)
DENSITIES = (0.999, 0.5, 0.2, 0.1, 0.05)  # at 1, layers are always stored in blocks of 4
LAYER = 1  # of the critic: 256 × 256
FLOPS = 4e8  # per measurement
PEAK, PRODUCT = "multiply-adds in registers", "numpy's 512×512 product"


@dataclass
class Timed:
    """Something that can be run, and its floating-point operations."""

    what: str
    run: Callable[[], Any]
    flops: float  # once
    times: int  # per run
    block: int | None = None
    density: float | None = None
    batch: int | None = None
    seconds: list[float] = field(default_factory=list)  # per run

    @property
    def microseconds(self) -> float:
        """Of one execution, median of the runs."""
        return statistics.median(self.seconds) / self.times * 1e6

    @property
    def gflops(self) -> float:
        """10⁹ operations per second, median of the runs."""
        return self.flops / self.microseconds * 1e-3


def compiled(folder: Path) -> Path:
    """The shared library of kernels.c."""
    extensions = tomllib.loads((HERE.parent / "pyproject.toml").read_text())["tool"]["setuptools"]["ext-modules"]
    library = folder / "kernels.so"
    flags = [*extensions[0]["extra-compile-args"], "-fPIC", "-shared"]
    subprocess.run([os.environ.get("CC", "cc"), *flags, HERE / "kernels.c", "-o", library], check=True)
    return library


def layer_kernels(path: Path, replay: Replay, block: int, density: float, batch: int) -> list[Timed]:
    """The three kernels on a layer of this density and block."""
    config = make_config(engine="native", block=block, batch_size=batch, **density_options(density))
    agent = NativeAgent(config, N_OBSERVATIONS, N_ACTIONS, loaded=Library(path))
    agent.learn(replay)  # activations and gradients are now what they are in training
    kernel = ctypes.CDLL(os.fspath(path)).bench_kernel
    kernel.argtypes = (ctypes.c_void_p, ctypes.c_uint32, ctypes.c_uint32, ctypes.c_uint64)
    kernel.restype = None
    flops = 2.0 * dict(agent.networks)["critic_1"].connections()[LAYER] * batch
    times = int(FLOPS / flops)

    def timed(number: int) -> Timed:
        def run() -> None:
            kernel(agent.arena.memory.ctypes.data, number, LAYER, times)

        return Timed(KERNELS[number], run, flops, times, block, density, batch)

    return [timed(number) for number in range(len(KERNELS))]


def references(path: Path) -> list[Timed]:
    """The peak of this core, and numpy's matrix product."""
    peak = ctypes.CDLL(os.fspath(path)).bench_peak
    peak.argtypes, peak.restype = (ctypes.c_uint64,), ctypes.c_uint32
    flops = float(peak(1))
    times = int(FLOPS / flops)
    a, b = np.random.default_rng(0).normal(size=(2, 512, 512)).astype(np.float32)
    out = np.empty_like(a)
    return [
        Timed(PEAK, lambda: peak(times), flops, times),
        Timed(PRODUCT, lambda: np.matmul(a, b, out=out), 2.0 * 512**3, 1),
    ]


def measure(folder: Path, replay: Replay, repeats: int) -> list[Timed]:
    """The references first, then every kernel; repeats interleaved, with the references before each layer."""
    path = compiled(folder)
    known = references(path)
    layers = [
        layer_kernels(path, replay, block, density, batch)
        for batch in BATCHES
        for block in BLOCKS
        for density in DENSITIES
    ]
    for repeat in range(repeats + 1):
        for layer in layers:
            for timed in (*known, *layer):
                start = Seconds.now()
                timed.run()
                if repeat > 0:  # the first warms the caches
                    timed.seconds.append((Seconds.now() - start).processor)
    return [*known, *(timed for layer in layers for timed in layer)]


def make_rows(everything: list[Timed]) -> list[dict[str, Any]]:
    """One row per kernel; its speedup is its share of the peak."""
    peak = everything[0].gflops
    return [
        {
            "what": timed.what,
            "engine": "reference" if timed.block is None else "native",
            "block": timed.block,
            "density": timed.density,
            "batch": timed.batch,
            "microseconds": round(timed.microseconds, 3),
            "speedup": round(timed.gflops / peak, 3),
            "against": PEAK,
            "gflops": round(timed.gflops, 1),
            "share_of_peak": round(timed.gflops / peak, 3),
        }
        for timed in everything
    ]


def print_rows(rows: list[dict[str, Any]]) -> None:
    """Print a line per layer, the kernels side by side."""
    peak, product = (row["gflops"] for row in rows[:2])
    table = Table("batch", "block", "density", *KERNELS, title="256×256, GFLOP/s on the connections")
    for first in range(2, len(rows), len(KERNELS)):
        layer = rows[first : first + len(KERNELS)]
        cells = (f"{row['gflops']:.0f} ({row['share_of_peak']:.0%})" for row in layer)
        table.add_row(*(str(layer[0][name]) for name in ("batch", "block", "density")), *cells)
    Console().print(table)
    print(f"in brackets: of {peak:.0f} GFLOP/s, {PEAK}; {PRODUCT}: {product:.0f}")
