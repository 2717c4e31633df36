"""Mutated files of other programs: each is imported, or refused with one line; never another exception, a crash, or
memory and time that the file's size does not explain.

100 000 mutations times EDGERL_SOAK (default 0.01), spread over the kinds. Half of those of a zip archive are in a
member, whose checksum is right then. What the importers read in a process of its own is read in one here, too: a
forked one, which has the libraries already; a crash of a library ends that alone, and is a refusal.
"""

from __future__ import annotations

import contextlib
import io
import os
import resource
import time
import warnings
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from stable_baselines3 import PPO, SAC, TD3
from torch import nn

import edgerl
from edgerl.errors import EdgerlError
from edgerl.importers import bounded, normalizers, orbax, policy_file
from edgerl.policy.loss import sampled_observations
from tests.importers.files import (
    Actor,
    RecurrentActor,
    StatefulActor,
    exported,
    exported_cells,
    mutated,
    perceptron_arrays,
    saved_brax_folder,
    saved_brax_parameters,
    saved_checkpoint,
    saved_model,
    saved_rl_tools,
    saved_skrl,
    scripted,
)

SOAK = float(os.environ.get("EDGERL_SOAK", "0.01"))
LONGEST_SECONDS = 30.0
"""Of processor time."""
LARGEST_BYTES = 2 << 30
"""Beside what the process has."""
OBSERVATIONS = 20
"""That a file which is read is compared on."""
SEED = 20260717

Random = np.random.Generator
Make = Callable[[Path], object]


def _model(algorithm: Any) -> Make:
    def make(path: Path) -> None:
        saved_model(algorithm, path.parent, policy_kwargs={"net_arch": [8, 8]})
        (path.parent / "model.zip").rename(path)

    return make


def _brax(path: Path) -> None:
    (path.parent / "folder").mkdir()
    path.write_bytes(orbax.archived(saved_brax_folder(path.parent / "folder")))


def _rl_tools(path: Path) -> None:
    def fill(actor: Any, layer: Any) -> None:
        actor.attrs["type"] = "sequential"
        layers = actor.create_group("layers")
        for index, (weight, bias) in enumerate(perceptron_arrays()):
            layer(layers, str(index), "dense", "IDENTITY" if index == 2 else "RELU", weights=weight, biases=bias)
        layer(layers, "3", "sample_and_squash")

    saved_rl_tools(path, fill)


def _clean_rl(path: Path) -> None:
    layers = {
        f"actor_mean.{2 * i}.{part}": torch.from_numpy(values)
        for i, layer in enumerate(perceptron_arrays())
        for part, values in zip(("weight", "bias"), layer, strict=True)
    }
    torch.save({**layers, "actor_logstd": torch.zeros(1, 8)}, path)


KINDS: dict[str, tuple[Make, int, dict[str, Any]]] = {
    "ONNX": (lambda path: exported(Actor(nn.SiLU, norm=True, clip=2.0, is_distribution=True), path), 32_000, {}),
    "recurrent ONNX": (lambda path: exported_cells(RecurrentActor("lstm", 1), path), 1_000, {}),
    "PPO of stable-baselines3": (_model(PPO), 7_000, {}),
    "SAC of stable-baselines3": (_model(SAC), 7_000, {}),
    "TD3 of stable-baselines3": (_model(TD3), 7_000, {}),
    "rsl_rl": (saved_checkpoint, 12_000, {"activation": "elu"}),
    "CleanRL": (_clean_rl, 10_000, {"normalizer": "none"}),
    "skrl": (saved_skrl, 10_000, {"activation": "elu"}),
    "parameters of Brax": (saved_brax_parameters, 6_000, {"activation": "silu", "normalizer": "file"}),
    "folder of Brax": (_brax, 300, {}),
    "RLtools": (_rl_tools, 1_500, {}),
    "TorchScript": (lambda path: scripted(Actor(nn.ELU), path), 400, {}),
    "recurrent TorchScript": (lambda path: scripted(StatefulActor("lstm", 1), path), 300, {}),
}
"""Kind → what makes a file, how many mutations of it there are, options of its import."""

STATISTICS = 5_500
"""Mutations of a VecNormalize; 100 000 in all."""


def _changed(rng: Random, whole: bytes) -> bytes:
    """A mutation; half of those of an archive are in one member."""
    if not whole.startswith(b"PK") or rng.random() < 0.5:
        return mutated(whole, rng)
    buffer, names = io.BytesIO(), zipfile.ZipFile(io.BytesIO(whole)).namelist()
    which = names[rng.integers(len(names))]
    with zipfile.ZipFile(io.BytesIO(whole)) as old, zipfile.ZipFile(buffer, "w") as new:
        for name in names:
            data = old.read(name)
            new.writestr(name, mutated(data, rng) if name == which and len(data) > 1 else data)
    return buffer.getvalue()


_RUN = bounded._run


def _forked(function: str, path: Path, request: bytes) -> bytes:
    """As `bounded` runs it, in a fork of this process; tensorstore, whose threads do not outlive that, anew."""
    if function.startswith("orbax"):
        return _RUN(function, path, request)
    read, write = os.pipe()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that a process with threads forks
        pid = os.fork()
    if pid == 0:
        try:
            os.close(read)
            bounded.limit(LARGEST_BYTES + _data_bytes(), int(LONGEST_SECONDS))
            with os.fdopen(write, "wb") as pipe:
                pipe.write(bounded.answered(function, path, request))
            os._exit(0)
        except BaseException:
            os._exit(1)
    os.close(write)
    with os.fdopen(read, "rb") as pipe:
        answer = pipe.read()
    code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    if code:
        raise bounded.excess(path, code)
    return answer


def _data_bytes() -> int:
    """That this process may have allocated: private memory that is writable."""
    return int(Path("/proc/self/statm").read_text().split()[5]) * resource.getpagesize()


@pytest.fixture(autouse=True)
def within_limits(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Memory beyond the limit is an error, here as in the forks."""
    import h5py  # noqa: F401

    monkeypatch.setattr(bounded, "_run", _forked)
    monkeypatch.setattr(policy_file, "sampled_observations", lambda policy: sampled_observations(policy)[:OBSERVATIONS])
    torch.set_num_threads(1)
    before = resource.getrlimit(resource.RLIMIT_DATA)
    resource.setrlimit(resource.RLIMIT_DATA, (_data_bytes() + LARGEST_BYTES, before[1]))
    yield
    resource.setrlimit(resource.RLIMIT_DATA, before)


@contextlib.contextmanager
def _refused_in_one_line(case: str) -> Iterator[None]:
    start = time.process_time()
    try:
        yield
    except EdgerlError as error:
        said = str(error)
        assert said.isprintable(), f"{case}: {said!r}"
        assert len(said) < 1000, f"{case}: {said!r}"
    except BaseException as error:
        raise AssertionError(f"{case}: {type(error).__name__}: {error}") from error
    assert time.process_time() - start < LONGEST_SECONDS, case


@pytest.mark.soak
@pytest.mark.parametrize("kind", KINDS)
def test_files(kind: str, capfd: pytest.CaptureFixture[str]) -> None:
    make, count, options = KINDS[kind]
    file, goal = Path("file").absolute(), Path("policy.safetensors")
    make(file)
    whole, file = file.read_bytes(), Path("file")
    edgerl.import_policy(file, goal, **options)
    read = 0
    for case in range(round(count * SOAK)):
        file.write_bytes(_changed(np.random.default_rng([SEED, case]), whole))
        with _refused_in_one_line(f"{kind} {case}"):
            edgerl.import_policy(file, goal, force=True, **options)
            read += 1
    assert capfd.readouterr() == ("", "")
    with capfd.disabled():
        print(f"\n{kind}: {read} of {round(count * SOAK)} read", end="")


@pytest.mark.soak
def test_statistics() -> None:
    saved_model(PPO, Path().absolute())
    whole, file = Path("vecnormalize.pkl").read_bytes(), Path("file")
    for case in range(round(STATISTICS * SOAK)):
        file.write_bytes(mutated(whole, np.random.default_rng([SEED, case])))
        with _refused_in_one_line(f"statistics {case}"):
            normalizers.read(file)
