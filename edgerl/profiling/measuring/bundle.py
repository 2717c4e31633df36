"""The benchmark bundle: a tar that measures one policy on a Linux board where nothing is installed.

It holds the policy, the engine's inference and a small `main` as one C file, that program for each architecture which a
compiler here can link statically, and a shell script that picks one or builds it there (benchmark/run.sh).
"""

from __future__ import annotations

import io
import platform
import shutil
import subprocess
import tarfile
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np

from edgerl.edge.acting.policy import ACTIVATION_NAMES, HEADS
from edgerl.edge.engine.amalgamation import amalgamate, engine_parts
from edgerl.edge.runtimes import why_not
from edgerl.errors import UnsupportedModelError
from edgerl.files.atomic import read_bytes
from edgerl.policy.compact import Array, CompactPolicy, as_floats
from edgerl.profiling.measuring.measure import Subject
from edgerl.profiling.measuring.measurement import benchmark_observations, checked_observations

FOLDER = "edgerl-benchmark"
"""What the tar unpacks to."""

SCRIPT = "run.sh"
"""The last file of the tar: where it is complete, all are."""

COMPILERS = {
    "x86_64": ("x86_64-linux-gnu-gcc", "gcc-x86-64-linux-gnu libc6-dev-amd64-cross"),
    "aarch64": ("aarch64-linux-gnu-gcc", "gcc-aarch64-linux-gnu libc6-dev-arm64-cross"),
    "armhf": ("arm-linux-gnueabihf-gcc", "gcc-arm-linux-gnueabihf libc6-dev-armhf-cross"),
}
"""Architecture, as run.sh names the programs → (its compiler, the compiler's Debian packages)."""

FLAGS = ("-std=c11", "-O3", "-ffp-contract=fast", "-fno-math-errno", "-static", "-s")
COMPILER_SECONDS = 120

MAGIC = b"edgerl policy 2\n"


@dataclass(frozen=True)
class Bundle:
    """A tar; `programs` are the architectures that it has a program for, `missing` says why not of the others."""

    data: bytes
    programs: tuple[str, ...]
    missing: Mapping[str, str]


def make_bundle(subject: Subject) -> Bundle:
    """The bundle of a policy. Raises UnsupportedModelError for an ONNX file whose policy is not there."""
    if subject.policy is None or subject.policy_path is None:
        why = why_not(subject.name, subject.kind, "native") or (
            f"{subject.name} is an ONNX file without the policy.safetensors that it was made from beside it"
        )
        raise UnsupportedModelError(f"{why}; a bundle measures policies of edgerl")
    source = program_source()
    made = {name: static_program(compiler, packages, source) for name, (compiler, packages) in COMPILERS.items()}
    programs = {name: program for name, program in made.items() if isinstance(program, bytes)}
    files: dict[str, tuple[int, bytes]] = {
        "README.txt": (0o644, _data("README.txt")),
        "benchmark.c": (0o644, source.encode()),
        "policy.bin": (0o644, policy_data(subject.policy, subject.policy_sha256)),
        "policy.safetensors": (0o644, read_bytes(subject.policy_path)),
    }
    if subject.onnx_path is not None:
        files["policy.onnx"] = 0o644, read_bytes(subject.onnx_path)
    files |= {f"benchmark-{name}": (0o755, program) for name, program in programs.items()}
    files[SCRIPT] = 0o755, _data("run.sh")
    missing = {name: reason for name, reason in made.items() if isinstance(reason, str)}
    return Bundle(_tar(files), tuple(programs), missing)


def _data(name: str) -> bytes:
    return (resources.files(__package__) / "benchmark" / name).read_bytes()


def _tar(files: Mapping[str, tuple[int, bytes]]) -> bytes:
    """The same files give the same bytes."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.USTAR_FORMAT) as tar:
        for name, (mode, data) in files.items():
            entry = tarfile.TarInfo(f"{FOLDER}/{name}")
            entry.size, entry.mode = len(data), mode
            tar.addfile(entry, io.BytesIO(data))
    return buffer.getvalue()


def program_source() -> str:
    """The measuring program as one C file, which includes only headers of the system."""
    return amalgamate(_data("benchmark.c").decode(), engine_parts())


@lru_cache
def static_program(compiler: str, packages: str, source: str) -> bytes | str:
    """The program, or why there is none. `compiler` links it, or this machine's own where that is the same."""
    path = shutil.which(compiler)
    if path is None and compiler.startswith(f"{platform.machine()}-linux"):
        path = shutil.which("cc")
    if path is None:
        return f"{compiler} is not installed: apt-get install {packages}"
    with tempfile.TemporaryDirectory(prefix="edgerl-") as folder:
        program, text = Path(folder) / "benchmark", Path(folder) / "benchmark.c"
        text.write_text(source, "utf-8")
        command = [path, *FLAGS, "-o", str(program), str(text)]
        try:
            subprocess.run(
                command, check=True, capture_output=True, timeout=COMPILER_SECONDS, encoding="utf-8", errors="replace"
            )
        except (OSError, subprocess.SubprocessError) as error:
            said = str(getattr(error, "stderr", None) or error).strip().splitlines()
            return f"{compiler} cannot link it statically ({said[-1][:80] if said else 'no reason given'})"
        return program.read_bytes()


def policy_data(policy: CompactPolicy, sha256: str) -> bytes:
    """The policy and its observations as benchmark.c reads them: little-endian, each array padded to four bytes.

    Of a policy with an offset the observations are shifted already: its n subtractions are not measured.
    """
    if policy.is_recurrent:
        raise UnsupportedModelError(f"{policy.architecture} is recurrent, which the benchmark program does not measure")
    policy = policy.without_offset
    observations = benchmark_observations(policy)
    normalises = policy.observation_mean is not None and policy.observation_scale is not None
    counts = len(policy.layers), normalises, len(observations), checked_observations(policy.n_actions)
    head = np.array(HEADS.index(policy.head), "<u4"), _floats(policy.observation_clip or 0)
    arrays: list[Array] = [np.array(counts, "<u4"), *head]
    for layer in map(as_floats, policy.layers):
        n_blocks = 0 if layer.columns is None else len(layer.columns)
        header = layer.n_inputs, layer.n_outputs, layer.block if layer.is_sparse else 1, n_blocks, layer.is_sparse
        arrays += [np.array((*header, ACTIVATION_NAMES.index(layer.activation)), "<u4")]
        arrays += [_floats(0 if layer.norm is None else layer.norm.epsilon), _floats(layer.values)]
        if layer.columns is not None and layer.row_starts is not None:
            arrays += [layer.columns.astype("<u2"), layer.row_starts.astype("<u4")]
        arrays.append(_floats(layer.bias))
        if layer.norm is not None:
            arrays += [_floats(layer.norm.scale), _floats(layer.norm.shift)]
    if normalises:
        arrays += [_floats(policy.observation_mean), _floats(policy.observation_scale)]
    bounds = (
        policy.action_scaling if policy.head == "tanh" else map(np.nan_to_num, (policy.action_low, policy.action_high))
    )
    arrays += [*map(_floats, bounds), _floats(observations)]
    parts = [array.tobytes() for array in arrays]
    return MAGIC + sha256.encode() + b"".join(part + bytes(-len(part) % 4) for part in parts)


def _floats(array: Any) -> Array:
    return np.ascontiguousarray(array, "<f4")
