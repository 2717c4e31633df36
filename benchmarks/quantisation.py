"""What smaller weights cost policies of other programs: return, action error, bytes, and instructions of the C.

    python benchmarks/quantisation.py sac/HalfCheetah-v3.zip --env HalfCheetah-v5 [--finetune] [--episodes 20]

A row is a way to store the weights: its mean return, the gain over fp32 in the same episodes with its 95 % interval,
the root mean square difference of actions in shares of their range, over states that the policy meets, bytes of the
policy file and of its ONNX, and of the C flash (constants), memory and instructions of one call on an emulated
Cortex-M4F, where the cross compiler and QEMU are. The largest differences of ONNX (onnxruntime) and of the C (gcc -O2)
to the policy's own float64 actions follow. Statistics of a VecNormalize are taken from FILE.pkl beside FILE.zip.
"""

from __future__ import annotations

import argparse
import tempfile
from contextlib import closing
from pathlib import Path

import numpy as np
from imports import compiled
from rich.console import Console
from rich.table import Table

import edgerl
from edgerl.commands.export import export_policy
from edgerl.compression.finetune import finetune
from edgerl.compression.lessons import OBSERVATIONS_OF_A_ROUND
from edgerl.edge import OnnxPolicy, Policy
from edgerl.environments.make import Environment, make
from edgerl.policy import format as policy_file
from edgerl.policy.compact import Array, CompactPolicy, Precision
from edgerl.policy.loss import action_difference, action_span
from edgerl.policy.pruning import OUTLIERS, compact, network_of, storage_of, stored
from edgerl.profiling.microcontroller.exported import MeasuredExport
from edgerl.training.evaluation import evaluate, evaluation_seeds, mean_interval
from edgerl.training.subject import FileSubject

COLUMNS = (
    "weights",
    "return",
    "gain",
    "action error",
    "file",
    "ONNX",
    "flash",
    "memory",
    "instructions",
    "ONNX ≠",
    "C ≠",
)


def returns(policy: CompactPolicy, environment: Environment, seeds: list[int]) -> Array:
    """Of each episode, on the native engine."""
    native, low, high = Policy(policy), environment.action_low, environment.action_high
    return evaluate(environment, lambda observation: np.clip(native(observation), low, high), seeds)


def costs(policy: CompactPolicy, observations: Array) -> list[str]:
    """Bytes, instructions, and how far ONNX and C are from the policy."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        path = folder / "policy.safetensors"
        policy_file.save(policy, path)
        onnx = export_policy(path, "onnx", folder / "policy.onnx")
        c = export_policy(path, "c", folder / "measured", target="cortex-m4")
        counted = c.measured.measurement.counted if isinstance(c.measured, MeasuredExport) else None
        expected, span = policy(observations, np.float64), action_span(policy)
        acts = OnnxPolicy(folder / "policy.onnx"), compiled(path, policy.n_actions, folder)
        answers = (np.stack([act(seen) for seen in observations]) for act in acts)
        differences = [f"{np.max(np.abs(answer - expected) / span):.0e}" for answer in answers]
        figures = path.stat().st_size, onnx.n_bytes, c.flash_bytes, c.scratch_bytes, counted and counted.instructions
        return [*("" if figure is None else f"{figure:.0f}" for figure in figures), *differences]


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("file", type=Path)
    parser.add_argument("--env", required=True)
    parser.add_argument("--episodes", type=int, default=20)
    parser.add_argument("--finetune", action="store_true", help="also fine-tuned weights: a minute each")
    options = parser.parse_args()
    table = Table(*COLUMNS, box=None)
    with tempfile.TemporaryDirectory() as name, closing(make(options.env)) as environment:
        beside = options.file.with_suffix(".pkl")
        imported = Path(name) / "policy.safetensors"
        edgerl.import_policy(options.file, imported, normalizer=str(beside) if beside.is_file() else "none")
        teacher = policy_file.load(imported)
        states, _ = FileSubject(imported, teacher, options.env).observations(OBSERVATIONS_OF_A_ROUND, environment)
        seeds, whole = evaluation_seeds(0, options.episodes), compact(teacher)
        reference = returns(whole, environment, seeds)

        def row(title: str, policy: CompactPolicy) -> None:
            own = returns(policy, environment, seeds)
            gain = (f"{100 * part / abs(reference.mean()):+.1f} %" for part in mean_interval(own - reference))
            error = action_difference(teacher(states), policy(states), action_span(teacher)).root_mean_square
            mean, low, high = gain
            figures = f"{own.mean():.0f}", f"{mean} [{low}, {high}]", f"{error:.3f}"
            table.add_row(title, *figures, *costs(policy, states[:: len(states) // 200]))

        row("fp32", whole)
        row("fp16", compact(teacher, precision="fp16"))
        for title, precision, share in WAYS:
            storage = storage_of(network_of(whole), precision, share)
            row(title, stored(whole, network_of(whole), storage))
            if options.finetune:
                row(f"{title}, fine-tuned", finetune(teacher, whole, storage, states, environment))
    Console(width=200).print(table)


WAYS: tuple[tuple[str, Precision, float], ...] = (
    ("int8", "int8", 0.0),
    ("int8, 1 % outliers", "int8", OUTLIERS["int8"]),
    ("int4", "int4", 0.0),
    ("int4, 2 % outliers", "int4", OUTLIERS["int4"]),
)

if __name__ == "__main__":
    main()
