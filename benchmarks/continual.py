"""Learning on after a drift: a frozen policy, and learners with SET, with a static topology, and dense.

A policy is trained on HalfCheetah-v5; then its body changes (edgerl.environments.drift, at the default strengths), and
for 150 000 steps a Learner with a replay of 50 000 transitions in fp16 goes on learning. Every run is a file in the
work folder, so that the script can be stopped and started again.

    python benchmarks/continual.py --work build/continual --workers 2
    python benchmarks/continual.py --table        # the tables of docs/lab/2026-11.md, from the finished runs
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]

TASK = "HalfCheetah-v5"
BASES = {
    "ds50": ("--method", "ds-td3"),
    "ds10": ("--method", "ds-td3", "--sparsity", "0.9"),
    "td3": ("--method", "td3"),
}
"""Trained policies: half of the connections (the paper's), a tenth, all."""

VARIANTS = {
    "frozen": ("ds50", "ds10", "td3"),
    "set": ("ds50", "ds10"),
    "static": ("ds50", "ds10"),
    "dense": ("td3",),
}
"""What acts or learns after the drift, and from which base."""

CAPACITY = 50_000
EVERY = 25_000
EPISODES = 10


@dataclass(frozen=True)
class Job:
    """One run after a drift. trials: one window in `trials` is the learning policy's; 1: it always drives."""

    base: str
    seed: int
    drift: str
    variant: str
    trials: int
    updates_per_step: float
    steps: int

    @property
    def name(self) -> str:
        """Of its file."""
        drift = self.drift.replace("/", "-").replace(":", "-")
        return f"{self.base}-{self.seed}-{drift}-{self.variant}-{self.trials}-{self.updates_per_step:g}"


def environment(drift: str | None) -> Any:
    """The raw task, drifted from its first step if a drift is named."""
    import gymnasium
    import mujoco

    from edgerl.environments.drift import DriftingEnvironment, parse_drift

    mujoco.set_mju_user_warning(lambda _: None)
    made = gymnasium.make(TASK)
    return made if drift is None else DriftingEnvironment(made, [parse_drift(drift)])


def mean_return(act: Callable[[Array], Array], task: Any, first_seed: int) -> float:
    """Over EPISODES episodes."""
    total = 0.0
    for episode in range(EPISODES):
        observation, _ = task.reset(seed=first_seed + episode)
        over = False
        while not over:
            observation, reward, terminated, truncated, _ = task.step(act(observation))
            total += reward
            over = terminated or truncated
    return total / EPISODES


def supports(learner: Any) -> list[Array]:
    """The connections of each layer that is not dense, bool [block rows, inputs]."""
    masks = []
    for layer in itertools.chain(*learner.challenger.arena.layers):
        if layer.in_target is not None:
            mask = np.zeros((len(layer.starts) - 1, layer.n_inputs), bool)
            mask[layer.block_rows(), layer.columns] = True
            masks.append(mask)
    return masks


def run(job: Job, work: Path) -> None:
    """Make one run, and write its file."""
    from edgerl.edge.continual.learner import Learner
    from edgerl.edge.continual.trials import TrialRule

    evolve = job.variant == "set"
    path = work / "bundles" / f"{job.base}-{job.seed}-{'set' if evolve else 'static'}.safetensors"
    learner = Learner.load(path, rule=TrialRule(every=job.trials), updates_per_step=job.updates_per_step)
    is_frozen = job.variant == "frozen"

    def champion(observation: Array) -> Array:
        return learner.champion(np.asarray(observation, np.float32))

    def challenger(observation: Array) -> Array:
        action = learner.challenger.act(np.asarray(observation, np.float32))
        return champion(observation) if action is None else np.clip(action, learner.action_low, learner.action_high)

    in_charge = challenger if job.trials == 1 else champion
    task, judge = environment(job.drift), environment(job.drift)
    result: dict[str, Any] = {"job": asdict(job), "before": mean_return(in_charge, environment(None), 10_000)}
    result["returns"] = [mean_return(in_charge, judge, 10_000)]
    result["challenger_returns"] = [result["returns"][0]]
    ever = supports(learner)
    update_seconds, updates = 0.0, 0
    observation, _ = task.reset(seed=job.seed)
    episode = 0
    interval = int(learner.challenger.arena.config.evolution_interval) or job.steps
    for step in range(1, job.steps + 1):
        if not is_frozen:
            action = learner.act(observation)
            following, reward, terminated, truncated, _ = task.step(action)
            learner.observe(observation, action, reward, following, terminated, truncated)
            observation = following
            if terminated or truncated:
                episode += 1
                observation, _ = task.reset(seed=job.seed + 1000 * episode)
            started = time.thread_time()
            for _ in range(max(1, int(job.updates_per_step))):
                updates += learner.update()
            update_seconds += time.thread_time() - started
            if step % interval == 0:
                ever = [before | now for before, now in zip(ever, supports(learner), strict=True)]
        if step % EVERY == 0:
            first_seed = 10_000 + EPISODES * step
            result["returns"].append(mean_return(in_charge, judge, first_seed))
            again = result["returns"][-1] if job.trials == 1 else mean_return(challenger, judge, first_seed)
            result["challenger_returns"].append(again)
    status = learner.status()
    result |= {
        "memory": status["memory"],
        "connections": learner.connections(),
        "ever_active": [int(sum(mask.sum() for mask in ever)), int(sum(mask.size for mask in ever))],
        "updates": updates,
        "updates_per_cpu_second": updates / max(update_seconds, 1e-9),
        "trials": {name: status["trials"][name] for name in ("windows", "trials_cut", "takeovers", "divergences")},
        "saturations": status["saturations"],
        "abandoned_updates": status["abandoned_updates"],
    }
    temporary = work / "results" / f".{job.name}.tmp"
    temporary.write_text(json.dumps(result, indent=1))
    temporary.replace(work / "results" / f"{job.name}.json")


def train(work: Path, base: str, seed: int, steps: int) -> Path:
    """The base policy's run folder, trained if it does not exist; a run that was stopped goes on."""
    folder = work / "runs" / f"{base}-{seed}"
    command = [sys.executable, "-m", "edgerl", "train"]
    if not (folder / "config.json").exists():
        command += ["--out", str(folder), "--steps", str(steps), "--seed", str(seed), "--env", TASK, *BASES[base]]
    else:
        command += ["--resume", str(folder)]
    folder.parent.mkdir(parents=True, exist_ok=True)
    subprocess.run(command, check=True, env={**os.environ, "OMP_NUM_THREADS": "1"})
    return folder


def bundle(work: Path, folder: Path, base: str, seed: int) -> None:
    """Export the run's learner, once evolving and once not, with a replay of CAPACITY transitions."""
    from edgerl.edge.continual.learner import Learner
    from edgerl.training.handover import hand_over

    for kind in ("set", "static"):
        path = work / "bundles" / f"{base}-{seed}-{kind}.safetensors"
        if path.exists():
            continue
        path.parent.mkdir(parents=True, exist_ok=True)
        generous = hand_over(folder, path, precision="fp16", evolve=kind == "set").memory
        memory = generous.arena + generous.champion + CAPACITY * generous.record
        hand_over(folder, path, precision="fp16", evolve=kind == "set", memory=memory, force=True)
        assert Learner.load(path).memory.capacity == CAPACITY


def jobs(arguments: argparse.Namespace) -> Iterator[Job]:
    """All runs, the longest first."""
    for base, variant, drift, trials, seed in itertools.product(
        ("td3", "ds50", "ds10"), arguments.variants, arguments.drifts, arguments.trials, range(arguments.seeds)
    ):
        if base in VARIANTS[variant] and base in arguments.bases:
            yield Job(base, seed, drift, variant, trials, arguments.updates_per_step, arguments.steps)


def pinned(job: Job, work: Path) -> str:
    """Make a run on this worker's core."""
    os.nice(5)
    run(job, work)
    return job.name


def main() -> None:
    """See the module."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, default=Path("build/continual"))
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=150_000)
    parser.add_argument("--training-steps", type=int, default=300_000)
    parser.add_argument("--drifts", nargs="+", default=["joint-friction", "gravity", "actuator-gain"])
    parser.add_argument("--bases", nargs="+", default=list(BASES), choices=list(BASES))
    parser.add_argument("--variants", nargs="+", default=list(VARIANTS), choices=list(VARIANTS))
    parser.add_argument("--trials", nargs="+", type=int, default=[1])
    parser.add_argument("--updates-per-step", type=float, default=1.0)
    parser.add_argument("--table", action="store_true", help="only print what is there")
    parser.add_argument("--picture", type=Path, help="an SVG of it")
    arguments = parser.parse_args()
    os.environ["OMP_NUM_THREADS"] = "1"
    (arguments.work / "results").mkdir(parents=True, exist_ok=True)
    if not arguments.table:
        for base, seed in itertools.product(arguments.bases, range(arguments.seeds)):
            if not (arguments.work / "bundles" / f"{base}-{seed}-static.safetensors").exists():
                bundle(arguments.work, train(arguments.work, base, seed, arguments.training_steps), base, seed)
        waiting = [job for job in jobs(arguments) if not (arguments.work / "results" / f"{job.name}.json").exists()]
        with ProcessPoolExecutor(arguments.workers) as pool:
            for done in pool.map(pinned, waiting, itertools.repeat(arguments.work)):
                print(done, flush=True)
    print_table(arguments.work)
    if arguments.picture:
        draw(arguments.work, arguments.picture)


def print_table(work: Path) -> None:
    """Markdown: one line per drift, base and variant, means over seeds."""
    results = [json.loads(path.read_text()) for path in sorted((work / "results").glob("*.json"))]
    groups: dict[tuple[str, ...], list[dict[str, Any]]] = {}
    for result in results:
        job = result["job"]
        key = (job["drift"], job["base"], job["variant"], str(job["trials"]), f"{job['updates_per_step']:g}")
        groups.setdefault(key, []).append(result)
    columns = ["drift", "policy", "then", "seeds", "before", "after", "50k", "100k", "150k", "recovered (each seed)"]
    print("| " + " | ".join([*columns, "MiB", "updates/s", "connections", "ever active"]) + " |")
    print("|" + "---|" * (len(columns) + 4))
    for key, rows in sorted(groups.items()):
        print("| " + " | ".join(table_row(key, rows)) + " |")


LABELS = {"ds50": "half of the connections", "ds10": "a tenth", "td3": "dense"}


def draw(work: Path, path: Path) -> None:
    """A picture: per drift, mean return over seeds after the drift; learners drive by themselves."""
    import matplotlib

    matplotlib.use("svg")
    import matplotlib.pyplot as plt

    results = [json.loads(path.read_text()) for path in sorted((work / "results").glob("*.json"))]
    results = [r for r in results if r["job"]["trials"] == 1 and r["job"]["updates_per_step"] == 1]
    drifts = sorted({r["job"]["drift"] for r in results})
    figure, axes = plt.subplots(1, len(drifts), figsize=(4.2 * len(drifts), 3.6), sharey=True, squeeze=False)
    for axis, drift in zip(axes[0], drifts, strict=True):
        for base, variant in itertools.product(BASES, VARIANTS):
            rows = [r for r in results if [r["job"][k] for k in ("drift", "base", "variant")] == [drift, base, variant]]
            if rows:
                returns = np.array([[row["before"], *row["returns"]] for row in rows])
                steps = np.concatenate([[-5], np.arange(returns.shape[1] - 1) * EVERY / 1000])
                style = {"frozen": ":", "set": "-", "static": "--", "dense": "-"}[variant]
                colour = f"C{list(BASES).index(base)}"
                label = LABELS[base] if variant == "dense" else f"{LABELS[base]}, {variant.replace('set', 'SET')}"
                axis.plot(steps, returns.mean(axis=0), style, color=colour, label=label, linewidth=1.3)
        axis.set_title(drift)
        axis.set_xlabel("thousand steps after the drift")
    axes[0][0].set_ylabel("mean return")
    axes[0][-1].legend(fontsize=7)
    figure.tight_layout()
    figure.savefig(path, metadata={"Date": None})


def recovered(result: dict[str, Any]) -> float:
    """(end − after the drift) / (before − after the drift)."""
    after = result["returns"][0]
    return float((result["returns"][-1] - after) / (result["before"] - after))


def table_row(key: tuple[str, ...], rows: list[dict[str, Any]]) -> list[str]:
    """The cells of a line."""
    drift, base, variant, trials, per_step = key
    then = variant + (f", on trial one window in {trials}" if trials != "1" else "")
    then += f", {per_step} updates a step" if per_step != "1" else ""
    returns = np.array([row["returns"] for row in rows])
    at = [returns[:, step // EVERY].mean() for step in (50_000, 100_000, 150_000) if step // EVERY < returns.shape[1]]
    shares = [recovered(row) for row in rows]
    active, positions = np.sum([row["ever_active"] for row in rows], axis=0)
    is_frozen = variant == "frozen"
    return [
        drift,
        base,
        then,
        str(len(rows)),
        f"{np.mean([row['before'] for row in rows]):.0f}",
        f"{returns[:, 0].mean():.0f}",
        *[f"{value:.0f}" for value in at],
        f"{np.mean(shares):.2f} ({', '.join(f'{share:.2f}' for share in shares)})",
        "" if is_frozen else f"{rows[0]['memory']['total'] / 2**20:.1f}",
        "" if is_frozen else f"{np.median([row['updates_per_cpu_second'] for row in rows]):.0f}",
        str(sum(rows[0]["connections"].values())),
        "" if is_frozen or not positions else f"{active / positions:.2f}",
    ]


if __name__ == "__main__":
    main()
