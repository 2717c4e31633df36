"""The distilled students that `edgerl fit` can choose: small dense ones, and sparse ones of the teacher's widths.

Each is trained once by `edgerl.distill` and kept in a folder that its teacher names, so that a search that was stopped,
or that is for another device, finds what is there.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

from edgerl.compression.distill import Progress, distill
from edgerl.errors import FileFormatError, Interrupted, OutputError
from edgerl.files.paths import anchored
from edgerl.policy import format as policy_file
from edgerl.policy.compact import CompactPolicy

SHARES = (1 / 2, 3 / 8, 1 / 4, 1 / 8)
"""Of its teacher's units that each hidden layer of a dense student has."""

SPARSE = ((0.8, 1), (0.9, 4))
"""(sparsity, block) of the students with the teacher's widths."""

NARROWEST = 4
"""Units of a hidden layer, at least, and what they are a multiple of: a block."""

OPTIONS: dict[str, Any] = {"episodes": 2}
"""Of every distillation; returns are measured by the search."""


@dataclass(frozen=True)
class Student:
    """One to be trained: the name of its file, what it is called, and what `edgerl.distill` is asked."""

    name: str
    method: str
    options: dict[str, Any]


def students_of(teacher: CompactPolicy) -> list[Student]:
    """Those with fewer connections than the teacher, the largest first."""
    widths = tuple(layer.n_outputs for layer in teacher.layers[:-1])
    if not widths:
        return []
    found, dense = [], _weights(teacher, widths)
    for sparsity, block in SPARSE:
        if dense * (1 - sparsity) < teacher.n_actions * widths[-1] + block * len(widths):
            continue  # less than the output layer, which stays dense, and a block for each hidden one
        method = f"distilled, {sparsity:.0%} sparse".replace("%", " %") + (
            f" in blocks of {block}" if block > 1 else ""
        )
        student = Student(f"sparse-{sparsity:g}-block-{block}", method, {"sparsity": sparsity, "block": block})
        found.append((dense * (1 - sparsity), student))
    for share in SHARES:
        hidden = tuple(max(NARROWEST, int(width * share) // NARROWEST * NARROWEST) for width in widths)
        name = f"dense-{'-'.join(map(str, hidden))}"
        student = Student(name, "distilled, dense", {"topology": "dense", "hidden": hidden})
        found.append((_weights(teacher, hidden), student))
    smaller = {student.name: (count, student) for count, student in found if count < teacher.connections}
    return [student for _, student in sorted(smaller.values(), key=lambda pair: -pair[0])]


def _weights(teacher: CompactPolicy, hidden: tuple[int, ...]) -> int:
    """Of a dense student with these hidden layers."""
    sizes = teacher.n_observations, *hidden, teacher.n_actions
    return sum(before * after for before, after in pairwise(sizes))


def trained(
    source: str | Path,
    teacher: CompactPolicy,
    folder: Path,
    env: str | None,
    report: Callable[[Student, Progress], None],
) -> Iterator[tuple[Student, CompactPolicy]]:
    """The students of the policy of `source`, from files below `folder`; those that are not there are trained.

    report: called after each round. Raises what `edgerl.distill` does; Interrupted, with all saved, after SIGINT or
    SIGTERM.
    """
    identity = hashlib.sha256(policy_file.to_bytes(teacher) + repr((env, OPTIONS)).encode()).hexdigest()
    home = anchored(folder) / f"students-{identity[:12]}"
    try:
        home.mkdir(exist_ok=True)
    except OSError as error:
        raise OutputError(f"cannot make {home}: {error.strerror}; make its folder writable") from error
    for student in students_of(teacher):
        path = home / f"{student.name}.safetensors"
        if not path.exists():
            _distil(source, path, env, student, report)
        policy = policy_file.load(path)
        if (policy.n_observations, policy.n_actions) != (teacher.n_observations, teacher.n_actions):
            raise FileFormatError(f"{path} is not a student of {source}; remove it")
        yield student, policy


def _distil(
    source: str | Path, path: Path, env: str | None, student: Student, report: Callable[[Student, Progress], None]
) -> None:
    part = path.with_name(f"{path.name}.part")
    try:
        distill(
            source,
            path,
            env=env,
            resume=part.exists(),
            report=lambda progress: report(student, progress),
            **student.options,
            **OPTIONS,
        )
    except Interrupted as stopped:
        done = "stopped while a student was trained; the same command goes on from there"
        raise Interrupted(done, stopped.exit_code - 128) from stopped
