"""Exported C, compiled with the warnings that it promises to be silent under, and called or run."""

from __future__ import annotations

import ctypes
import subprocess
from pathlib import Path

import numpy as np

from edgerl.export.c import Options
from edgerl.export.c.source import CSource, Provenance, generate
from edgerl.policy.compact import Array, CompactPolicy

STRICT = (
    *("-std=c99", "-Wall", "-Wextra", "-Wconversion", "-Wdouble-promotion", "-Wshadow", "-Werror"),
    "-ffp-contract=fast",
)
PROVENANCE = Provenance("5d1f0cbb1b7e0a4f9a3c2d5e6f708192a3b4c5d6e7f8091a2b3c4d5e6f708192", "edgerl export --format c")


def write(policy: CompactPolicy, folder: Path, options: Options | None = None) -> CSource:
    """Generate into `folder`."""
    made = generate(policy, options=options or Options(), provenance=PROVENANCE)
    (folder / f"{made.prefix}.h").write_text(made.header)
    (folder / f"{made.prefix}.c").write_text(made.source)
    return made


def run(*command: object, folder: Path) -> str:
    """What a program prints; it says nothing else, and ends with 0."""
    done = subprocess.run([str(part) for part in command], cwd=folder, capture_output=True, text=True, timeout=300)
    assert (done.returncode, done.stderr) == (0, ""), f"{command[0]}: exit code {done.returncode}\n{done.stderr}"
    return done.stdout


class Library:
    """An exported policy as a shared library: `act` returns (code, action)."""

    def __init__(
        self, policy: CompactPolicy, folder: Path, options: Options | None = None, optimisation: str = "-O2"
    ) -> None:
        self.made = write(policy, folder, options)
        name = self.made.prefix
        binary = folder / f"lib{name}.so"
        run("gcc", *STRICT, optimisation, "-shared", "-fPIC", f"{name}.c", "-o", binary, folder=folder)
        library = ctypes.CDLL(str(binary))
        self._act, self.self_test = getattr(library, name), getattr(library, f"{name}_self_test")
        self.reset = getattr(library, f"{name}_reset") if policy.is_recurrent else lambda: None
        self._shape, self._n_actions = (policy.n_observations,), policy.n_actions
        self._dtype = policy.observation_dtype

    def act(self, observation: Array) -> tuple[int, Array]:
        observation = np.ascontiguousarray(observation, self._dtype)
        assert observation.shape == self._shape
        action = np.full(self._n_actions, np.nan, np.float32)
        code = self._act(observation.ctypes.data_as(ctypes.c_void_p), action.ctypes.data_as(ctypes.c_void_p))
        return code, action

    def actions(self, observations: Array) -> Array:
        results = [self.act(observation) for observation in observations]
        assert {code for code, _ in results} == {0}
        return np.stack([action for _, action in results])
