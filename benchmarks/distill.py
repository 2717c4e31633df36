"""Students of a policy from elsewhere, in HalfCheetah-v5: what docs/compress.md says of `edgerl distill`.

Run: python benchmarks/distill.py sac_HalfCheetah-v3.zip [seeds]
The zip is that of DLR-RM/rl-trained-agents. One line of JSON for each student and seed; a student takes a minute of a
core or less.
"""

from __future__ import annotations

import json
import sys
import tempfile
import time
from contextlib import closing
from dataclasses import asdict
from pathlib import Path
from typing import Any

import edgerl
from edgerl.compression.lessons import Played
from edgerl.policy.pruning import functions_of, network_of, prune_by_magnitude, with_network
from edgerl.policy.reduction import ITERATIONS, count_positions, fitted, teacher_of
from edgerl.training.evaluation import evaluation_seeds
from edgerl.training.subject import subject_of

STUDENTS: dict[str, dict[str, Any]] = {
    "80 % sparse": {"sparsity": 0.8},
    "90 % sparse, blocks of 4": {"sparsity": 0.9, "block": 4},
    "dense 64-64": {"topology": "dense", "hidden": (64, 64)},
    "dense 64-64, int8": {"topology": "dense", "hidden": (64, 64), "precision": "int8"},
    "dense 64-64, int4": {"topology": "dense", "hidden": (64, 64), "precision": "int4"},
    "dense 32-32": {"topology": "dense", "hidden": (32, 32)},
    "95 % sparse": {"sparsity": 0.95},
    "80 % sparse, static": {"sparsity": 0.8, "topology": "static"},
    "80 % sparse, the teacher acts": {"sparsity": 0.8, "method": "kd"},
}


def measured(teacher: Path, seed: int, **options: Any) -> dict[str, Any]:
    """What a student of this seed is, and its processor seconds."""
    began = time.process_time()
    with tempfile.TemporaryDirectory() as folder:
        result = edgerl.distill(teacher, Path(folder) / "student.safetensors", seed=seed, **options)
    report = result.as_dict()
    teachers, students = (each["mean"] for each in report["returns"])
    return {
        "connections": report["connections"][1],
        "bytes": report["file_bytes"][1],
        "kept": students / teachers,
        "returns": report["returns"],
        "gain": report["gain"],
        "action_error": report["action_difference"]["root_mean_square"],
        "cpu_seconds": time.process_time() - began,
    }


def one_shot(teacher: Path, *, is_fitted: bool) -> dict[str, Any]:
    """The teacher at 80 % sparsity by magnitude alone, or with the other weights fitted to what its layers gave."""
    began, subject = time.process_time(), subject_of(teacher, None)
    policy = subject.policy
    network = network_of(policy)
    pruned = prune_by_magnitude(network, 0.8, 1, count_positions(network))
    with closing(subject.environment()) as environment:
        played = Played(environment, 0, evaluation_seeds(0, 20))
        if is_fitted:
            states = policy.normalised(played.meet(0, policy, lambda: None).observations)
            pruned = fitted(pruned, teacher_of(network, states, functions_of(policy)), ITERATIONS)
        student = with_network(policy, pruned, "fp32")
        returns = played.judge(policy, student, lambda: None).returns
    assert returns is not None
    return {
        "connections": student.connections,
        "kept": returns[1].mean / returns[0].mean,
        "returns": [asdict(each) for each in returns],
        "cpu_seconds": time.process_time() - began,
    }


def main() -> None:
    """One-shot pruning, then every student in turn, for each seed."""
    seeds = int(sys.argv[2]) if len(sys.argv) > 2 else 3
    with tempfile.TemporaryDirectory() as folder:
        teacher = Path(folder) / "policy.safetensors"
        edgerl.import_policy(sys.argv[1], teacher, env="HalfCheetah-v5")
        for name, is_fitted in (("80 % by magnitude", False), ("80 % by magnitude, least squares", True)):
            print(json.dumps({"student": name, **one_shot(teacher, is_fitted=is_fitted)}), flush=True)
        for seed in range(seeds):
            for name, options in STUDENTS.items():
                print(json.dumps({"student": name, "seed": seed, **measured(teacher, seed, **options)}), flush=True)


if __name__ == "__main__":
    main()
