"""Return after 1, 3 and 10 minutes of one core: edgerl at a tenth of the connections against dense learners elsewhere.

    pip install --constraint constraints.txt --editable '.[train,benchmark]' sbx-rl
    pip install --constraint constraints.txt 'rltools[mkl]'
    OMP_NUM_THREADS=1 taskset -c 0 python benchmarks/ten_minutes.py [--env HalfCheetah-v5 …] [--seeds 0 1 2]
        [--learners NAME …] [--minutes 1 3 10] [--out runs/ten_minutes] [--json]

A minute is one of processor time in which the learner learns: the environment, Python and the updates count;
imports, evaluations and what JAX and RLtools compile do not (JAX's learners get their random steps for nothing). Each
has its own published defaults and learns in a process of its own. Returns are means of ten episodes of the policy
without noise: elsewhere at the very minute, for edgerl of the last evaluation before it, of which there is one each
2500 steps. One file per learner, environment and seed is written to the folder, so that the same command goes on after
whatever stopped it, and prints the table of what is there. A learner that cannot run is named on stderr.
"""

from __future__ import annotations

import argparse
import contextlib
import functools
import json
import multiprocessing
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

from edgerl.files.atomic import write_atomically

# No engine is imported up here: RLtools with MKL refuses a process that has PyTorch.

ENVIRONMENTS = ("HalfCheetah-v5", "Walker2d-v5")
MINUTES = (1.0, 3.0, 10.0)
EPISODES, FIRST_EVALUATION_SEED = 10, 1_000_000
INTERVAL = 2500  # environment steps from one of edgerl's evaluations to the next
STEPS = 5_000_000  # more than any learner makes in ten minutes
REPLAY = 1_000_000
START_STEPS = 5000  # random ones, of edgerl

COMPILED = 20  # updates, after which JAX compiles nothing more

Act = Callable[[Any], Any]
"""A policy without noise: one observation → the action in the environment's units."""


class OutOfTime(Exception):  # noqa: N818 — the ordinary end of a learner's loop
    """The last mark is reached."""


@dataclass
class Clock:
    """Processor time of learning alone; evaluates at each mark."""

    environment: str
    marks: list[float]  # seconds
    results: list[dict[str, float]] = field(default_factory=list)
    _start: float = field(default_factory=time.process_time)

    def restart(self) -> None:
        """From zero."""
        self._start = time.process_time()

    def __call__(self, step: int, act: Act) -> None:
        """After each environment step. Raises OutOfTime."""
        elapsed = time.process_time() - self._start
        if elapsed < self.marks[len(self.results)]:
            return
        self.results.append({"seconds": elapsed, "step": step, "return": mean_return(self.environment, act)})
        if len(self.results) == len(self.marks):
            raise OutOfTime
        self._start = time.process_time() - elapsed


def mean_return(environment: str, act: Act) -> float:
    """Of ten episodes."""
    import gymnasium

    returns = []
    robot = gymnasium.make(environment)
    for episode in range(EPISODES):
        observation, _ = robot.reset(seed=FIRST_EVALUATION_SEED + episode)
        total, over = 0.0, False
        while not over:
            observation, reward, terminated, truncated, _ = robot.step(act(observation))
            total += float(reward)
            over = terminated or truncated
        returns.append(total)
    robot.close()
    return statistics.fmean(returns)


def learn_edgerl(
    options: dict[str, Any], environment: str, seed: int, marks: list[float], folder: Path
) -> list[dict[str, float]]:
    """`edgerl train`; its run records the processor time of each evaluation."""
    from edgerl.training.logs import read_metrics
    from edgerl.training.train import train

    start = time.process_time()

    def report(status: Any) -> None:
        # Evaluations are in this time, so it is no less than the run's own: looked up from time to time.
        if status.step % INTERVAL == 0 and time.process_time() - start > marks[-1]:
            rows = read_metrics(folder / "run")
            if rows and rows[-1]["training_cpu_seconds"] > marks[-1]:
                raise OutOfTime

    with contextlib.suppress(OutOfTime):
        train(
            environment,
            seed=seed,
            out=folder / "run",
            report=report,
            steps=STEPS,
            start_steps=START_STEPS,
            replay_capacity=REPLAY,
            evaluation_interval=INTERVAL,
            evaluation_episodes=EPISODES,
            checkpoint_interval=STEPS,
            **options,
        )
    rows = read_metrics(folder / "run")
    latest = [
        max((row for row in rows if row["training_cpu_seconds"] <= mark), key=lambda row: row["step"]) for mark in marks
    ]
    return [
        {"seconds": row["training_cpu_seconds"], "step": row["step"], "return": row["return_mean"]} for row in latest
    ]


def learn_like_stable_baselines3(
    make_model: Callable[[str, int], Any], free_updates: int, environment: str, seed: int, marks: list[float], _: Path
) -> list[dict[str, float]]:
    """A model with stable-baselines3's interface. What comes before it made `free_updates` does not count."""
    model = make_model(environment, seed)
    first = model.learning_starts + free_updates if free_updates else 0
    clock = Clock(environment, marks)

    def count(its: dict[str, Any], _: dict[str, Any]) -> bool:
        step = its["self"].num_timesteps
        if step == first:
            clock.restart()
        elif step > first:
            clock(step, lambda observation: model.predict(observation, deterministic=True)[0])
        return True

    with contextlib.suppress(OutOfTime):
        model.learn(STEPS, callback=count)
    return clock.results


def stable_baselines3(name: str, environment: str, seed: int) -> Any:
    """SAC or TD3 with its defaults; TD3 with the zoo's noise for MuJoCo."""
    import gymnasium
    import stable_baselines3
    import torch
    from stable_baselines3.common.noise import NormalActionNoise

    torch.set_num_threads(1)
    options: dict[str, Any] = {"buffer_size": REPLAY, "seed": seed, "device": "cpu"}
    if name == "TD3":
        count = gymnasium.make(environment).action_space.shape[0]
        options |= {"action_noise": NormalActionNoise(np.zeros(count), np.full(count, 0.1)), "learning_starts": 10_000}
    return getattr(stable_baselines3, name)("MlpPolicy", environment, **options)


def sbx(name: str, options: dict[str, Any], environment: str, seed: int) -> Any:
    """One of sbx's, with its defaults and these options."""
    import sbx as library

    return getattr(library, name)("MlpPolicy", environment, buffer_size=REPLAY, seed=seed, **options)


DROQ = {
    "learning_rate": 3e-4,
    "learning_starts": 10_000,
    "gradient_steps": 20,
    "policy_delay": 20,
    "policy_kwargs": {"dropout_rate": 0.01, "layer_norm": True},
}
"""As sbx's documentation has it."""


def learn_rltools(environment: str, seed: int, marks: list[float], folder: Path) -> list[dict[str, float]]:
    """RLtools' SAC through its Python interface, 256-256; NUM_LAYERS counts the output layer."""
    tempfile.tempdir = str(folder)  # where it compiles
    from importlib.metadata import version

    import gymnasium
    from rltools import SAC

    for package in ("mkl", "mkl-include"):
        version(package)  # raises where it is missing, and RLtools would take another BLAS
    module = SAC(
        lambda: gymnasium.make(environment),
        force_blas=True,
        enable_evaluation=False,
        ACTOR_BATCH_SIZE=256,
        CRITIC_BATCH_SIZE=256,
        ACTOR_HIDDEN_DIM=256,
        ACTOR_NUM_LAYERS=3,
        CRITIC_HIDDEN_DIM=256,
        CRITIC_NUM_LAYERS=3,
        N_WARMUP_STEPS=10_000,
        STEP_LIMIT=STEPS,
        REPLAY_BUFFER_CAP=REPLAY,
    )
    state = module.State(seed)
    clock = Clock(environment, marks)
    with contextlib.suppress(OutOfTime):
        for step in range(1, STEPS):
            state.step()
            clock(step, state.action)
    return clock.results


Learn = Callable[[str, int, list[float], Path], list[dict[str, float]]]
"""(environment, seed, marks in seconds, a folder of its own) → at each mark: seconds, step, return."""

A_TENTH: dict[str, Any] = {"sparsity": 0.9}

LEARNERS: dict[str, Learn] = {
    "edgerl CrossQ, a tenth": functools.partial(learn_edgerl, A_TENTH | {"algorithm": "crossq"}),
    "edgerl CrossQ, a tenth, blocks of 4": functools.partial(
        learn_edgerl, A_TENTH | {"algorithm": "crossq", "block": 4}
    ),
    "edgerl DS-TD3, a tenth": functools.partial(learn_edgerl, A_TENTH),
    "stable-baselines3 TD3": functools.partial(
        learn_like_stable_baselines3, functools.partial(stable_baselines3, "TD3"), 0
    ),
    "stable-baselines3 SAC": functools.partial(
        learn_like_stable_baselines3, functools.partial(stable_baselines3, "SAC"), 0
    ),
    "sbx SAC": functools.partial(learn_like_stable_baselines3, functools.partial(sbx, "SAC", {}), COMPILED),
    "sbx DroQ": functools.partial(learn_like_stable_baselines3, functools.partial(sbx, "SAC", DROQ), COMPILED),
    "sbx CrossQ": functools.partial(learn_like_stable_baselines3, functools.partial(sbx, "CrossQ", {}), COMPILED),
    "RLtools SAC": learn_rltools,
}


def work(name: str, environment: str, seed: int, marks: list[float], output: Path) -> None:
    """The process of one learner: writes its file."""
    os.dup2(2, 1)  # what it prints is not part of our output
    with tempfile.TemporaryDirectory() as folder:
        try:
            results = LEARNERS[name](environment, seed, marks, Path(folder))
        except Exception as error:  # a peer may fail in any way
            print(f"{name} is left out: {type(error).__name__}: {' '.join(str(error).split())}", file=sys.stderr)
            return
    result = {"learner": name, "environment": environment, "seed": seed, "marks": results}
    write_atomically(output, json.dumps(result).encode(), force=True)


def missing(
    names: Sequence[str], environments: Sequence[str], seeds: Sequence[int], folder: Path
) -> Iterator[tuple[str, str, int, Path]]:
    """The runs without a file, all learners before the next seed."""
    for seed in seeds:
        for environment in environments:
            for name in names:
                output = folder / f"{environment}-{name.replace(' ', '-').replace(',', '')}-seed{seed}.json"
                if not output.exists():
                    yield name, environment, seed, output


def print_table(folder: Path, minutes: Sequence[float]) -> None:
    """One line per environment and learner: the mean over its seeds, and the least and the most."""
    found = [json.loads(path.read_text()) for path in sorted(folder.glob("*.json"))]
    columns = [f"after {mark:g} min" for mark in minutes]
    table = Table("environment", "learner", "seeds", *columns, "steps in the last")
    for environment, name in sorted({(run["environment"], run["learner"]) for run in found}):
        runs = [run["marks"] for run in found if (run["environment"], run["learner"]) == (environment, name)]
        cells = []
        for index in range(len(minutes)):
            returns = [marks[index]["return"] for marks in runs]
            cells.append(f"{statistics.fmean(returns):.0f} ({min(returns):.0f} to {max(returns):.0f})")
        steps = statistics.fmean(marks[-1]["step"] for marks in runs)
        table.add_row(environment, name, str(len(runs)), *cells, f"{steps:.0f}")
    Console(width=140).print(table)


def main() -> None:
    """Run what is missing, one after the other; print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--env", nargs="+", default=list(ENVIRONMENTS))
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--learners", nargs="+", choices=list(LEARNERS), default=list(LEARNERS))
    parser.add_argument("--minutes", nargs="+", type=float, default=list(MINUTES))
    parser.add_argument("--out", type=Path, default=Path("runs/ten_minutes"))
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    if not all(first < second for first, second in pairwise([0.0, *arguments.minutes])):
        parser.error(f"--minutes is {arguments.minutes}; expected rising numbers above 0")
    os.environ.update(OMP_NUM_THREADS="1", MKL_NUM_THREADS="1", XLA_FLAGS="--xla_cpu_multi_thread_eigen=false")
    os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
    arguments.out.mkdir(parents=True, exist_ok=True)
    context = multiprocessing.get_context("spawn")
    marks = [60 * mark for mark in arguments.minutes]
    for name, environment, seed, output in missing(arguments.learners, arguments.env, arguments.seeds, arguments.out):
        print(f"{environment}, seed {seed}: {name}", file=sys.stderr)
        process = context.Process(target=work, args=(name, environment, seed, marks, output))
        process.start()
        process.join()
    if arguments.json:
        print(json.dumps([json.loads(path.read_text()) for path in sorted(arguments.out.glob("*.json"))], indent=2))
    else:
        print_table(arguments.out, arguments.minutes)


if __name__ == "__main__":
    main()
