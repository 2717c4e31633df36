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
from pathlib import Path
from typing import Any

import edgerl

STUDENTS: dict[str, dict[str, Any]] = {
    "80 % sparse": {"sparsity": 0.8},
    "90 % sparse, blocks of 4": {"sparsity": 0.9, "block": 4},
    "dense 64-64": {"topology": "dense", "hidden": (64, 64)},
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


def main() -> None:
    """Every student in turn, for each seed."""
    seeds = int(sys.argv[2]) if len(sys.argv) > 2 else 3
    with tempfile.TemporaryDirectory() as folder:
        teacher = Path(folder) / "policy.safetensors"
        edgerl.import_policy(sys.argv[1], teacher, env="HalfCheetah-v5")
        for seed in range(seeds):
            for name, options in STUDENTS.items():
                print(json.dumps({"student": name, "seed": seed, **measured(teacher, seed, **options)}), flush=True)


if __name__ == "__main__":
    main()
