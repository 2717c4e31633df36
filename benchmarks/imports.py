"""Policies of other programs: each imported, exported to ONNX and to C, and all of it compared with the original.

    python benchmarks/imports.py policy.onnx sac/HalfCheetah-v3.zip … [--activation elu] [--env HalfCheetah-v5]

A row is a file, or the folder of a checkpoint; the figures are the largest differences of actions to the original's,
run by onnxruntime or PyTorch, over 1001 observations drawn from the file's own statistics, in shares of the action
range: of the imported policy on the native engine, of its ONNX file in onnxruntime, and of its C, compiled by gcc -O2.
With an environment, of all files then, they are followed by mean returns over 20 episodes with their 95 % intervals: of
the original, the native engine and the C. Statistics of a VecNormalize are taken from FILE.pkl or
FILE/vecnormalize.pkl where FILE.zip has one beside it, those of parameters of Brax, FILE.pickle, from themselves. What
cannot be imported is named with the reason.
"""

from __future__ import annotations

import argparse
import ctypes
import subprocess
import tempfile
from collections.abc import Callable, Sequence
from contextlib import closing
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.table import Table

import edgerl
from edgerl.edge import OnnxPolicy, Policy
from edgerl.environments.make import make
from edgerl.errors import EdgerlError
from edgerl.importers.options import Stated
from edgerl.importers.policy_file import content_of, read
from edgerl.policy.activation import ActivationName
from edgerl.policy.compact import Array
from edgerl.policy.loss import action_span, sampled_observations
from edgerl.training.evaluation import evaluate, evaluation_seeds, mean_interval

Act = Callable[[Array], Array]

EPISODES = 20


def compiled(policy: Path, n_actions: int, folder: Path) -> Act:
    """observation [n] → action [m] of the exported C."""
    edgerl.export_policy(policy, "c", folder / "c", prefix="imported", measure=False)
    library = folder / "imported.so"
    command = ["gcc", "-O2", "-std=c99", "-shared", "-fPIC", "-o", library, folder / "c" / "imported.c"]
    subprocess.run(command, check=True)
    function = ctypes.CDLL(str(library)).imported

    def act(observation: Array) -> Array:
        given, action = np.ascontiguousarray(observation, np.float32), np.zeros(n_actions, np.float32)
        assert function(given.ctypes.data_as(ctypes.c_void_p), action.ctypes.data_as(ctypes.c_void_p)) == 0
        return action

    return act


def returns(acts: Sequence[Act], env: str) -> list[str]:
    """Mean return of each in the same episodes, with its interval."""
    with closing(make(env)) as environment:
        each = [evaluate(environment, act, evaluation_seeds(0, EPISODES)) for act in acts]
    return ["{:.0f} [{:.0f}, {:.0f}]".format(*mean_interval(values)) for values in each]


def row(file: Path, activation: ActivationName | None, env: str | None) -> list[str]:
    """What the table has of one file."""
    beside = [file.with_suffix(".pkl"), file.with_suffix("") / "vecnormalize.pkl"]
    otherwise = {".zip": "none", ".pickle": str(file)}.get(file.suffix)
    normalizer = next((str(path) for path in beside if path.is_file()), otherwise)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        path = folder / "policy.safetensors"
        try:
            report = edgerl.import_policy(file, path, activation=activation, normalizer=normalizer)
        except EdgerlError as error:
            return [file.name, str(error).replace(str(file), "it")]
        policy, original = report.policy, read(content_of(file), file, Stated(activation, normalizer)).act
        edgerl.export_policy(path, "onnx", folder / "policy.onnx")
        native, c = Policy(policy), compiled(path, policy.n_actions, folder)
        observations = sampled_observations(policy)
        expected, span = original(observations), action_span(policy)
        answers = [
            np.stack([act(seen) for seen in observations]) for act in (native, OnnxPolicy(folder / "policy.onnx"), c)
        ]
        figures = [f"{np.max(np.abs(answer - expected) / span):.1e}" for answer in answers]
        names = "+".join(sorted({layer.activation for layer in policy.layers[:-1]}))
        played = [] if env is None else returns([lambda seen: original(seen[None])[0], native, c], env)
        return [file.name, report.kind, f"{policy.architecture} {names}", *figures, *played]


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("files", type=Path, nargs="+")
    parser.add_argument("--activation", help="of files that do not say it")
    parser.add_argument("--env", help="measure returns there")
    options = parser.parse_args()
    played = [] if options.env is None else ["return of the original", "native", "C"]
    table = Table("file", "kind", "network", "native", "ONNX", "C", *played, box=None)
    for file in options.files:
        table.add_row(*row(file, options.activation, options.env))
    Console(width=200).print(table)


if __name__ == "__main__":
    main()
