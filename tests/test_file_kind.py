"""Files of other kinds, made by the programs that write them, are called what they are by whatever reads a file."""

from __future__ import annotations

import gzip
import io
import os
import pickle
import re
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import safetensors.numpy
import torch

from edgerl.commands.export import export_policy
from edgerl.edge.acting.onnx_policy import OnnxPolicy
from edgerl.edge.continual.replay import Replay
from edgerl.errors import EdgerlError, FileFormatError
from edgerl.files.atomic import read_text
from edgerl.files.kind import SAMPLE_BYTES, kind_of, what_is
from edgerl.files.tensors import TensorReader, pack_tensors
from edgerl.files.toml import read_toml
from edgerl.policy import format as policy_file
from edgerl.profiling.budgets.device import find_device
from edgerl.profiling.latency.points import read_points
from edgerl.profiling.measuring.measurement import parse_result
from edgerl.training import checkpoint
from tests.policy.policies import random_policy

Run = Callable[..., tuple[int, str, str]]
Make = Callable[[Path], object]


def _zip(path: Path, *names: str) -> None:
    with zipfile.ZipFile(path, "w") as archive:
        for name in names:
            archive.writestr(name, bytes(2 * SAMPLE_BYTES))


def _tar(path: Path) -> None:
    with tarfile.open(path, "w") as archive:
        archive.addfile(tarfile.TarInfo("a"), io.BytesIO())


def _saved(path: Path, save: Callable[..., None]) -> None:
    """numpy adds an ending to a name, but to no file."""
    with path.open("wb") as file:
        save(file, np.zeros(3))


KINDS: dict[str, tuple[Make, str]] = {
    "onnx": (lambda path: export_policy(random_policy(0), "onnx", path), "an ONNX model"),
    "policy": (lambda path: policy_file.save(random_policy(0), path), "a policy of edgerl"),
    "learner": (lambda path: path.write_bytes(pack_tensors("learner", 1, {}, {})), "a learner of edgerl"),
    "recipe": (lambda path: path.write_bytes(pack_tensors("recipe", 1, {}, {})), "a tensor file of edgerl"),
    "safetensors": (
        lambda path: safetensors.numpy.save_file({"weight": np.zeros(3)}, path),
        "a safetensors file that edgerl did not write",
    ),
    "stable-baselines3": (
        lambda path: _zip(path, "data", "policy.pth", "_stable_baselines3_version", "system_info.txt"),
        "a model of stable-baselines3 (a zip archive of PyTorch weights)",
    ),
    "zip": (lambda path: path.write_bytes(b"PK\x03\x04" + bytes(26) + b"a.txt"), "a zip archive"),
    "torch": (lambda path: torch.save({"a": torch.zeros(3)}, path), "a PyTorch file (a zip archive with a pickle)"),
    "old torch": (
        lambda path: torch.save({"a": torch.zeros(3)}, path, _use_new_zipfile_serialization=False),
        "a PyTorch file of pickles",
    ),
    "pickle": (lambda path: path.write_bytes(pickle.dumps({"a": [1, 2]})), "a pickle of Python"),
    "pickle of Brax": (
        lambda path: path.write_bytes(pickle.dumps("brax.training.acme")),
        "parameters of Brax (a pickle of Python)",
    ),
    "npz": (lambda path: _saved(path, np.savez), "a NumPy archive"),
    "npy": (lambda path: _saved(path, np.save), "a NumPy array"),
    "hdf5": (
        lambda path: path.write_bytes(b"\x89HDF\r\n\x1a\n" + bytes(99)),
        "an HDF5 file, as RLtools and Keras save",
    ),
    "tflite": (lambda path: path.write_bytes(b"\x1c\0\0\0TFL3" + bytes(99)), "a TFLite model"),
    "ort": (lambda path: path.write_bytes(b"\x1c\0\0\0ORTM" + bytes(99)), "a model in onnxruntime's own format"),
    "gzip": (lambda path: path.write_bytes(gzip.compress(b"a")), "a gzip archive"),
    "tar": (_tar, "a tar archive"),
    "replay": (lambda path: Replay(path, 3, 1, 10).close(), "a replay memory of edgerl"),
    "toml": (lambda path: path.write_text("# mine\n\n[cpu]\nclock_mhz = 3\n"), "TOML text"),
    "json": (lambda path: path.write_text('\n{"a": [1]}'), "JSON text"),
    "text": (lambda path: path.write_text("é" * SAMPLE_BYTES), "a text file"),
    "empty": (lambda path: path.write_bytes(b""), "empty"),
    "noise": (lambda path: path.write_bytes(np.random.default_rng(0).bytes(999)), "a file"),
    "folder": (lambda path: path.mkdir(), "a folder"),
    "run folder": (lambda path: (path.mkdir(), (path / "config.json").touch()), "a run folder"),
    "folder of Brax": (
        lambda path: (path.mkdir(), (path / "ppo_network_config.json").touch()),
        "the folder of a checkpoint of Brax",
    ),
    "nothing": (lambda path: path, "not there"),
    "pipe": (lambda path: os.mkfifo(path), "not a regular file"),
}


@pytest.fixture(params=KINDS)
def given(request: pytest.FixtureRequest) -> tuple[Path, str]:
    """(a file named after nothing, its kind)."""
    make, kind = KINDS[request.param]
    make(Path("given"))
    return Path("given"), kind


def test_kinds(given: tuple[Path, str]) -> None:
    path, kind = given
    assert what_is(path) == kind


def test_a_model_of_another_exporter_is_recognised() -> None:
    """IR version, producer, version of the producer, graph: the fields of ModelProto in the order of their numbers."""
    assert kind_of(b"\x08\x04\x12\x07pytorch\x1a\x031.9" + b"\x3a\x03\x0a\x01\x00") == "an ONNX model"
    assert kind_of(b"\x08\x07\x3a\x03\x0a\x01\x00") == "an ONNX model"
    assert kind_of(b"\x08\x01\x12\x90\x01" + bytes(99)) != "an ONNX model"  # a TensorFlow SavedModel


def test_damage_does_not_make_a_file_of_ours_another_programs() -> None:
    data = policy_file.to_bytes(random_policy(0))
    for altered in (data[:-1], data[:3000], b"\x01" + data[1:], data[:2000] + b"\0" + data[2001:]):
        assert kind_of(altered) in ("a policy of edgerl", "a tensor file of edgerl")


READERS: dict[str, tuple[Callable[[Path], object], str, tuple[str, ...]]] = {
    "policy": (
        policy_file.load,
        "a policy.safetensors, as edgerl train, prune and import write",
        ("policy", "learner", "recipe", "noise", "folder", "run folder"),
    ),
    "learner": (
        lambda path: TensorReader(path, "learner", 1).close(),
        "a learner.safetensors, as edgerl export --format learner writes",
        ("policy", "learner", "recipe", "noise", "folder", "run folder"),
    ),
    "checkpoint": (
        checkpoint.read,
        "a checkpoint.safetensors, as edgerl train writes",
        ("policy", "learner", "recipe", "noise", "folder", "run folder"),
    ),
    "onnx": (OnnxPolicy, "an ONNX model, as edgerl export --format onnx writes", ("onnx", "noise", "folder")),
    "replay": (
        lambda path: Replay.open_recorded(path, 0),
        "a replay memory, as edgerl train writes",
        ("replay", "noise"),
    ),
    "toml": (read_toml, "a TOML file", ("toml", "text", "noise", "stable-baselines3")),
    "text": (read_text, "a text in UTF-8", ("toml", "json", "text", "noise", "tflite", "ort", "tar", "replay", "zip")),
    "points": (read_points, "one JSON object a line", ("json", "text", "noise")),
    "result": (
        lambda path: parse_result(path.read_bytes(), str(path)),
        "the result of a benchmark bundle, JSON text",
        ("json", "text", "noise"),
    ),
}
IMPORTED = ("onnx", "torch", "old torch", "stable-baselines3", "pickle of Brax", "hdf5")
"""Kinds that can become a policy."""

NO_FILES = ("folder", "folder of Brax", "run folder", "nothing", "pipe", "empty")


@pytest.mark.parametrize("reader", READERS)
@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind not in NO_FILES])
def test_readers_say_what_they_got_and_what_they_need(reader: str, kind: str) -> None:
    read, expected, own = READERS[reader]
    make, said = KINDS[kind]
    path = Path("given")
    make(path)
    if kind in own or (kind == "safetensors" and reader == "text"):  # some binary files are UTF-8 by chance
        return
    with pytest.raises(FileFormatError) as caught:
        read(path)
    command = ": edgerl import given" if reader == "policy" and kind in IMPORTED else ""
    assert str(caught.value) == f"given is {said}; expected {expected}{command}"


BY_EXPORT = r"a learner.safetensors: edgerl export model(\.zip)? --format learner makes one of a SAC or TD3"
COMMANDS = [
    ("export {} --format c", "a policy.safetensors, as edgerl train, prune and import write"),
    ("export {} --format onnx", "a policy.safetensors, as edgerl train, prune and import write"),
    ("export {} --format c --learn", "a learner.safetensors, as edgerl export --format learner writes"),
    ("learn {}", BY_EXPORT),
    ("run {}", r"a policy.safetensors \(edgerl import makes one\), or an ONNX model"),
    ("play {} --video v.mp4", r"a policy.safetensors \(edgerl import makes one\), or an ONNX model"),
    ("profile {} --device jetson-nano", r"a policy.safetensors \(edgerl import makes one\), or an ONNX model"),
    ("profile {} --measure", r"a policy.safetensors \(edgerl import makes one\), or an ONNX model"),
    ("profile {} --device jetson-nano --learn", BY_EXPORT),
    ("profile --network 3-1 --device {}", r"the id of a device \(edgerl devices list\), or a \.toml file"),
    ("prune {}", "a policy.safetensors, as edgerl train, prune and import write"),
    ("fit {} --device jetson-nano", "a policy.safetensors, as edgerl train, prune and import write"),
    ("train --resume {}", "a run folder, as edgerl train makes"),
    ("report {}", "a run folder, a folder of runs, or a policy file"),
    ("table {}", "a study: a folder that was swept, a file that ends in .toml, or one of .*"),
    ("sweep {}", "a study: a folder that was swept, a file that ends in .toml, or one of .*"),
    ("info {}", "a run folder or a file of .safetensors, .onnx, .toml, .bin"),
    ("devices validate {}", "at most 65536"),
    ("devices evaluate {}", "one JSON object a line"),
]


@pytest.mark.parametrize("name", ["model.zip", "model"])
@pytest.mark.parametrize(("command", "expected"), COMMANDS)
def test_commands_say_what_they_got_and_what_they_need(edgerl: Run, command: str, expected: str, name: str) -> None:
    make, kind = KINDS["stable-baselines3"]
    make(Path(name))
    code, out, err = edgerl(*command.format(name).split())
    assert (code, out) == (2, "")
    expected += (
        f": edgerl import {name}" if expected.startswith("a policy") or command in ("report {}", "info {}") else ""
    )
    assert re.fullmatch(rf"edgerl: {name} is {re.escape(kind)}( of \d+ bytes)?; expected {expected}\n", err), err


@pytest.mark.parametrize(
    "command", ["export {} --format c", "learn {}", "prune {}", "profile {} --device jetson-nano --learn"]
)
def test_an_onnx_model_is_called_one(edgerl: Run, command: str) -> None:
    KINDS["onnx"][0](Path("x.onnx"))
    code, _, err = edgerl(*command.format("x.onnx").split())
    assert code == 2
    assert err.startswith("edgerl: x.onnx is an ONNX model")
    assert "; expected " in err


def test_a_policy_is_read_whatever_its_name(edgerl: Run) -> None:
    KINDS["onnx"][0](Path("one"))
    KINDS["policy"][0](Path("two.bin"))
    for name in ("one", "two.bin"):
        assert edgerl("profile", name, "--device", "jetson-nano")[0] == 0
        assert edgerl("info", name)[0] == 0


def test_a_folder_without_a_policy_is_called_what_it_is(edgerl: Run) -> None:
    Path("state").mkdir()
    Path("state/snapshot-00000001.safetensors").touch()
    code, _, err = edgerl("run", "state")
    assert (code, err) == (
        2,
        "edgerl: state, a learner's state folder, holds no policy.safetensors or policy.onnx; train one: edgerl train"
        "\n",
    )


def test_a_device_that_is_a_file_of_another_kind() -> None:
    Path("board").write_text("hello")
    with pytest.raises(EdgerlError, match=r"^board is a text file; expected the id of a device"):
        find_device("board")


@pytest.mark.parametrize("command", ["info", "run", "profile", "prune", "fit", "export", "report"])
def test_every_command_says_how_a_folder_of_brax_becomes_a_policy(edgerl: Run, command: str) -> None:
    Path("000200540160").mkdir()
    Path("000200540160/ppo_network_config.json").write_text("{}")
    device = ["--device", "esp32"] if command in ("profile", "fit") else []
    code, out, err = edgerl(command, "000200540160", *device)
    assert (code, out) == (2, "")
    assert err.endswith(": edgerl import 000200540160\n")
