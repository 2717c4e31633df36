"""Training steps/s on HalfCheetah-v5: DS-TD3 on edgerl's engines against dense TD3 elsewhere, in one run on one core.

    pip install --constraint constraints.txt --editable '.[train,benchmark]'
    pip install --constraint constraints.txt 'rltools[mkl]'
    OMP_NUM_THREADS=1 taskset -c 0 python benchmarks/training.py [--engines native torch] [--windows 9] [--json]

256-256, batch 100, one update of both critics per step and of the actor every second step, exploration noise 0.1; no
evaluations, no checkpoints. Each contender is a process of its own that trains through its own loop: 1000 random steps,
2000 updates that are not timed, then windows of 1000 steps, each one whole episode and one evolution step. Only one of
them runs at a time and all take turns window by window, so that a slow moment of the machine affects all. Median of the
windows, in processor time: on an otherwise idle core it is clock time; stderr states the share of the core. All replay
memories have room for 100 000 transitions.

Half density is the paper's λ. Density .1 is that of each sparse layer (a uniform distribution, and the sparsities of
actor and critics that leave their output layers dense). stable-baselines3 has its defaults, but the paper's batch and
noise. RLtools has the same numbers; it compiles itself for them (half a minute, with Python's headers and the g++
or clang++ in PATH), and steps the same gymnasium environment. Where one of them cannot run, stderr says why in one
line, and the others continue.
"""

from __future__ import annotations

import argparse
import functools
import json
import multiprocessing
import os
import statistics
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table
from sizes import BATCH, Seconds, density_options

# No engine is imported up here: RLtools with MKL refuses a process that has PyTorch.

ENVIRONMENT = "HalfCheetah-v5"
START_STEPS = 1000  # random
WARM_UP = 2000  # updates: past two evolution steps, targets have connections to lose
WINDOW = 1000  # steps
WINDOWS = 9
LEAST_WINDOWS = 7
STEPS = 100_000  # more than any contender makes: each is stopped once it was measured
DENSITIES = (0.5, 0.1)
SB3, RLTOOLS = "stable-baselines3", "rltools"

Clock = Callable[[int], None]
"""Called by a contender's loop with its number of environment steps; returns when it may make the next."""


@dataclass(frozen=True)
class Contender:
    """One way to train."""

    engine: str
    block: int
    density: float
    learn: Callable[[Clock, Path], None]  # trains until the clock raises; the folder is its own

    @property
    def what(self) -> str:
        """The algorithm, as a row names it."""
        return f"training, {'TD3' if self.density == 1 else 'DS-TD3'}"


def sparsity_options(density: float) -> dict[str, Any]:
    """The options of `train` for this density of each sparse layer; at half density, the paper's λ."""
    if density == 0.5:
        return {}
    return density_options(density)


def contenders(engines: Sequence[str]) -> list[Contender]:
    """The peers, then edgerl's engines."""
    peers = [Contender(SB3, 1, 1.0, learn_stable_baselines3), Contender(RLTOOLS, 1, 1.0, learn_rltools)]
    ours = [
        Contender(engine, block, density, functools.partial(learn_edgerl, engine, block, density))
        for engine in engines
        for density in DENSITIES
        for block in (1, 4)
    ]
    return peers + ours


def learn_edgerl(engine: str, block: int, density: float, clock: Clock, folder: Path) -> None:
    """`edgerl train`, as the library runs it."""
    from edgerl.training.train import train

    train(
        ENVIRONMENT,
        out=folder / "run",
        report=lambda status: clock(status.step),
        engine=engine,
        block=block,
        **sparsity_options(density),
        steps=STEPS,
        start_steps=START_STEPS,
        replay_capacity=STEPS,
        evaluation_interval=STEPS,
        checkpoint_interval=STEPS,
    )


def learn_stable_baselines3(clock: Clock, folder: Path) -> None:
    """stable-baselines3's TD3, one step and one update in turn."""
    import gymnasium
    import numpy as np
    import torch
    from stable_baselines3 import TD3
    from stable_baselines3.common.logger import configure
    from stable_baselines3.common.noise import NormalActionNoise

    def count(its: dict[str, Any], _: dict[str, Any]) -> bool:
        clock(its["self"].num_timesteps)
        return True

    torch.set_num_threads(1)
    environment = gymnasium.make(ENVIRONMENT)
    model = TD3(
        "MlpPolicy",
        environment,
        policy_kwargs={"net_arch": [256, 256]},
        batch_size=BATCH,
        buffer_size=STEPS,
        learning_starts=START_STEPS,
        train_freq=1,
        gradient_steps=1,
        action_noise=NormalActionNoise(np.zeros(6), np.full(6, 0.1)),
        device="cpu",
    )
    model.set_logger(configure(str(folder), []))
    model.learn(STEPS, callback=count)


def learn_rltools(clock: Clock, folder: Path) -> None:
    """RLtools' TD3 through its Python interface; NUM_LAYERS counts the output layer."""
    tempfile.tempdir = str(folder)  # where it compiles
    from importlib.metadata import version

    import gymnasium
    from rltools import TD3

    for package in ("mkl", "mkl-include"):
        version(package)  # raises where it is missing, and RLtools would take another BLAS
    module = TD3(
        lambda: gymnasium.make(ENVIRONMENT),
        force_blas=True,
        enable_evaluation=False,
        ACTOR_BATCH_SIZE=BATCH,
        CRITIC_BATCH_SIZE=BATCH,
        ACTOR_HIDDEN_DIM=256,
        ACTOR_NUM_LAYERS=3,
        CRITIC_HIDDEN_DIM=256,
        CRITIC_NUM_LAYERS=3,
        N_WARMUP_STEPS=START_STEPS,
        STEP_LIMIT=STEPS,
    )
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # it logs steps/s that count the others' turns
    state = module.State(0)
    for step in range(1, STEPS):
        state.step()
        clock(step)


class Windows:
    """The clock of a contender: sends its parent the seconds of each window, and waits to be let into the next."""

    def __init__(self, parent: Connection) -> None:
        """The first window is the warm-up."""
        self._parent, self._start, self._end = parent, Seconds.now(), START_STEPS + WARM_UP

    def __call__(self, step: int) -> None:
        """Raises EOFError once the parent needs no more windows."""
        if step < self._end:
            return
        self._parent.send(Seconds.now() - self._start)
        self._parent.recv()
        self._start, self._end = Seconds.now(), step + WINDOW


def work(contender: Contender, parent: Connection, folder: Path) -> None:
    """The process of one contender. Sends a string, the reason, where it cannot go on."""
    os.dup2(2, 1)  # what it prints is not part of our output
    try:
        from edgerl.environments.make import make

        make(ENVIRONMENT).close()  # silences MuJoCo
        contender.learn(Windows(parent), folder)
    except EOFError:
        return
    except Exception as error:
        parent.send(" ".join(f"{type(error).__name__}: {error}".split()))


class Worker:
    """A contender's process, from the parent's side."""

    def __init__(self, contender: Contender, folder: Path) -> None:
        """Start it; it warms up immediately."""
        self.contender = contender
        self.seconds: list[Seconds] = []  # of each window
        self.reason = ""  # why it is left out
        context = multiprocessing.get_context("spawn")
        self._pipe, its = context.Pipe()
        folder.mkdir()
        self._process = context.Process(target=work, args=(contender, its, folder), daemon=True)
        self._process.start()
        its.close()
        self._receive()

    def run_window(self) -> None:
        """One window, unless it is left out."""
        if not self.reason:
            self._pipe.send("go")
            if seconds := self._receive():
                self.seconds.append(seconds)

    def _receive(self) -> Seconds | None:
        try:
            answer = self._pipe.recv()
        except EOFError:
            self._process.join()
            answer = f"its process ended with exit code {self._process.exitcode}"
        if isinstance(answer, Seconds):
            return answer
        self.reason = str(answer)
        return None

    @property
    def microseconds(self) -> float:
        """Median of an environment step."""
        return statistics.median(window.processor for window in self.seconds) / WINDOW * 1e6

    def close(self) -> None:
        """End the process."""
        self._pipe.close()
        self._process.join()


@contextmanager
def started(everyone: Sequence[Contender]) -> Iterator[list[Worker]]:
    """Their processes, warmed up one after the other."""
    workers: list[Worker] = []
    with tempfile.TemporaryDirectory() as folder:
        try:
            for index, contender in enumerate(everyone):
                workers.append(Worker(contender, Path(folder) / str(index)))
            yield workers
        finally:
            for worker in workers:
                worker.close()


def measure(everyone: Sequence[Contender], windows: int) -> list[Worker]:
    """Those that ran to the end, with the seconds of their windows, which were interleaved."""
    with started(everyone) as workers:
        for _ in range(windows):
            for worker in workers:
                worker.run_window()
    for worker in workers:
        if worker.reason:
            print(f"{worker.contender.engine} is left out: {worker.reason}", file=sys.stderr)
    ran = [worker for worker in workers if not worker.reason]
    seconds = [window for worker in ran for window in worker.seconds]
    if clock := sum(window.clock for window in seconds):
        share = sum(window.processor for window in seconds) / clock
        print(f"the contenders had {share:.0%} of the core while they ran", file=sys.stderr)
    return ran


def make_row(worker: Worker, peer: Worker) -> dict[str, Any]:
    """One line of the results."""
    contender = worker.contender
    return {
        "what": contender.what,
        "engine": contender.engine,
        "block": contender.block,
        "density": contender.density,
        "batch": BATCH,
        "microseconds": round(worker.microseconds, 1),
        "steps_per_second": round(1e6 / worker.microseconds, 1),
        "speedup": round(peer.microseconds / worker.microseconds, 2),
        "against": peer.contender.engine,
    }


def make_rows(workers: Sequence[Worker]) -> list[dict[str, Any]]:
    """Each against stable-baselines3; blocks of 4 against RLtools too."""
    named = {worker.contender.engine: worker for worker in workers}
    rows = [make_row(worker, named[SB3]) for worker in workers if SB3 in named]
    if RLTOOLS in named:
        rows += [make_row(worker, named[RLTOOLS]) for worker in workers if worker.contender.block == 4]
    return rows


def print_table(rows: Sequence[dict[str, Any]]) -> None:
    """Print one line per contender."""
    speedups: dict[Any, dict[str, str]] = {}
    for row in rows:
        key = tuple(str(row[name]) for name in ("engine", "block", "density", "microseconds", "steps_per_second"))
        speedups.setdefault(key, {})[row["against"]] = f"{row['speedup']:.2f}"
    columns = ("engine", "block", "density", "µs/step", "steps/s", "× SB3", f"× {RLTOOLS}")
    table = Table(*columns, title=f"{ENVIRONMENT}, batch {BATCH}")
    for key, against in speedups.items():
        table.add_row(*key, against.get(SB3, ""), against.get(RLTOOLS, ""))
    Console().print(table)


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--engines", nargs="+", choices=["native", "torch"], default=["native", "torch"])
    parser.add_argument("--windows", type=int, default=WINDOWS, help=f"at least {LEAST_WINDOWS}")
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    if arguments.windows < LEAST_WINDOWS:
        parser.error(f"--windows is {arguments.windows}; expected at least {LEAST_WINDOWS}")
    os.environ.update(OMP_NUM_THREADS="1", MKL_NUM_THREADS="1")
    os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
    rows = make_rows(measure(contenders(arguments.engines), arguments.windows))
    if arguments.json:
        print(json.dumps(rows, indent=2))
    else:
        print_table(rows)


if __name__ == "__main__":
    main()
