"""`edgerl info`, on every kind of file."""

from __future__ import annotations

import contextlib
import json
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from edgerl.commands.export import export_policy
from edgerl.config import make_config
from edgerl.edge.continual.learner import Learner
from edgerl.edge.continual.replay import Replay
from edgerl.files.tensors import TensorReader, write_tensors
from edgerl.policy.compact import CompactPolicy, make_layer
from edgerl.policy.format import save
from edgerl.training import checkpoint
from tests.edge.learners import steps, write_bundle

Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def policy() -> CompactPolicy:
    """4-8-2 with 10 + 16 connections: 1 − 26 / 48 sparse."""
    first = np.zeros((8, 4), np.float32)
    first.flat[:10] = 1
    layers = (
        make_layer(first, np.zeros(8, np.float32), 1),
        make_layer(np.ones((2, 8), np.float32), np.zeros(2, np.float32), 1),
    )
    low, high = np.array([-1, -2], np.float32), np.array([1, 3], np.float32)
    about = {"environment": "Anything-v0", "seed": 7}
    return CompactPolicy(layers, low, high, metadata=about).with_example(np.zeros(4, np.float32))


def test_a_policy(edgerl: Run, policy: CompactPolicy, tmp_path: Path) -> None:
    save(policy, tmp_path / "policy.safetensors")
    code, out, err = edgerl("info", "policy.safetensors", "--json")
    description = json.loads(out)
    data = (tmp_path / "policy.safetensors").read_bytes()
    assert (code, err) == (0, "")
    assert description["kind"] == "policy"
    assert description["environment"] == "Anything-v0"
    assert (description["architecture"], description["connections"]) == ("4-8-2", 26)
    assert description["sparsity"] == pytest.approx(1 - 26 / 48)
    assert (description["bytes"], description["sha256"]) == (len(data), sha256(data).hexdigest())
    assert description["action"] == {"low": [-1, -2], "high": [1, 3]}
    assert description["about"] == {"environment": "Anything-v0", "seed": 7}
    assert [layer["connections"] for layer in description["layers"]] == [10, 16]
    assert description["normalized_observations"] is False


def test_a_policy_for_people(edgerl: Run, policy: CompactPolicy, tmp_path: Path) -> None:
    save(policy, tmp_path / "policy.safetensors")
    code, out, _ = edgerl("info", "policy.safetensors")
    lines = {line.split("  ")[0].strip(): line.split("  ")[-1].strip() for line in out.splitlines() if "  " in line}
    assert code == 0
    assert lines["kind"] == "policy"
    assert lines["sparsity"] == "0.4583"
    assert lines["action.low"] == "-1, -2"
    assert lines["about.seed"] == "7"


def test_an_export(edgerl: Run, policy: CompactPolicy, tmp_path: Path) -> None:
    save(policy, tmp_path / "policy.safetensors")
    export_policy(tmp_path, "onnx", tmp_path / "policy.onnx")
    code, out, _ = edgerl("info", "policy.onnx", "--json")
    description = json.loads(out)
    assert code == 0
    assert (description["kind"], description["environment"]) == ("onnx", "Anything-v0")
    assert (description["ir_version"], description["opset"]) == (6, {"ai.onnx": 11})
    assert description["producer"].startswith("edgerl ")
    assert (description["architecture"], description["connections"]) == ("4-8-2", 26)
    assert description["policy_sha256"] == sha256((tmp_path / "policy.safetensors").read_bytes()).hexdigest()
    assert description["operators"] == "Gemm Relu Gemm Clip Tanh Clip Mul Add"
    assert description["action"] == {"low": [-1, -2], "high": [1, 3]}


def test_an_onnx_model_that_is_no_perceptron(edgerl: Run, tmp_path: Path) -> None:
    values = [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["b", 4]) for name in ("x", "y")]
    nodes = [helper.make_node("CumSum", ["x", "axis"], ["y"])]
    axis = onnx.numpy_helper.from_array(np.array(1), "axis")
    graph = helper.make_graph(nodes, "g", values[:1], values[1:], [axis])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    (tmp_path / "m.onnx").write_bytes(model.SerializeToString())
    code, out, _ = edgerl("info", "m.onnx", "--json")
    description = json.loads(out)
    assert code == 0
    assert (description["n_observations"], description["n_actions"]) == (4, 4)
    assert (description["operators"], description["architecture"], description["environment"]) == ("CumSum", None, None)


def write_checkpoint(path: Path, policy: CompactPolicy) -> None:
    config = make_config(environment="Hopper-v5")
    tensors = {"a": np.zeros(10, np.float32), "b": np.zeros((2, 3), np.float64)}
    counters = checkpoint.Counters(step=123)
    checkpoint.write(path, checkpoint.Checkpoint(config, counters, policy, checkpoint.Returns(), tensors))


def test_a_checkpoint(edgerl: Run, policy: CompactPolicy, tmp_path: Path) -> None:
    write_checkpoint(tmp_path / "checkpoint.safetensors", policy)
    code, out, _ = edgerl("info", "checkpoint.safetensors", "--json")
    description = json.loads(out)
    assert code == 0
    assert (description["kind"], description["environment"]) == ("checkpoint", "Hopper-v5")
    assert (description["tensors"], description["tensor_bytes"]) == (2, 10 * 4 + 6 * 8)
    assert description["counters"]["step"] == 123
    assert description["policy"]["architecture"] == "4-8-2"


def test_info_needs_no_torch(policy: CompactPolicy, tmp_path: Path) -> None:
    write_checkpoint(tmp_path / "checkpoint.safetensors", policy)
    code = (
        "import sys; from pathlib import Path; from edgerl.commands.info import info as describe;"
        "describe(Path(sys.argv[1])); sys.exit('torch' in sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code, str(tmp_path / "checkpoint.safetensors")], check=True)


def test_a_replay(edgerl: Run, tmp_path: Path) -> None:
    Replay(tmp_path / "replay.bin", 4, 2, 100, slack=7).close()
    code, out, _ = edgerl("info", "replay.bin", "--json")
    description = json.loads(out)
    assert code == 0
    assert description == {
        "file": "replay.bin",
        "kind": "replay",
        "bytes": (tmp_path / "replay.bin").stat().st_size,
        "n_observations": 4,
        "n_actions": 2,
        "capacity": 100,
        "slack": 7,
    }


def test_a_device_profile(edgerl: Run) -> None:
    profile = Path(__file__).parents[2] / "device_profiles" / "esp32.toml"
    code, out, _ = edgerl("info", str(profile), "--json")
    description = json.loads(out)
    assert code == 0
    assert (description["kind"], description["id"]) == ("device profile", "esp32")


def test_a_run_folder(edgerl: Run, policy: CompactPolicy, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    folder.mkdir()
    save(policy, folder / "policy.safetensors")
    write_checkpoint(folder / "checkpoint.safetensors", policy)
    (folder / "metrics.csv").write_text("step\n")
    code, out, _ = edgerl("info", "run", "--json")
    description = json.loads(out)
    assert code == 0
    assert description["kind"] == "run folder"
    assert set(description["files"]) == {"policy.safetensors", "checkpoint.safetensors", "metrics.csv"}
    assert description["policy.safetensors"]["architecture"] == "4-8-2"
    assert edgerl("info", "run")[0] == 0


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("no.onnx", None, "no.onnx is not there; expected a file"),
        ("no.txt", None, "no.txt is not there; expected a run folder or a file of .safetensors"),
        ("a.txt", b"", "a.txt is empty; expected a run folder or a file of .safetensors"),
        ("a.safetensors", b"garbage", "a.safetensors is a text file; expected a tensor file of edgerl"),
        ("a.onnx", b"garbage", "a.onnx is a text file; expected an ONNX model, as edgerl export"),
        ("a.toml", b"\xff", "a.toml is not a TOML file"),
        ("a.bin", b"garbage", "a.bin is a text file; expected a replay memory, as edgerl train writes"),
    ],
)
def test_bad_input_is_one_line(edgerl: Run, tmp_path: Path, name: str, content: bytes | None, message: str) -> None:
    if content is not None:
        (tmp_path / name).write_bytes(content)
    code, out, err = edgerl("info", name)
    assert (code, out) == (2, "")
    assert err.startswith(f"edgerl: {message}")
    assert err.count("\n") == 1


def test_a_folder_that_is_no_run(edgerl: Run, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    code, _, err = edgerl("info", "empty")
    assert code == 2
    assert "empty holds none of config.json" in err
    assert "expected a run folder" in err


def test_a_tensor_file_of_another_kind(edgerl: Run, tmp_path: Path) -> None:
    from edgerl.files.tensors import pack_tensors

    (tmp_path / "a.safetensors").write_bytes(pack_tensors("recipe", 1, {}, {"a": np.zeros(1)}))
    code, _, err = edgerl("info", "a.safetensors")
    assert (code, err) == (2, "edgerl: a.safetensors holds 'recipe'; expected 'policy'; name the file of a policy\n")


def test_a_file_does_not_steer_the_terminal(edgerl: Run, policy: CompactPolicy, tmp_path: Path) -> None:
    about = {"environment": "\x1b]0;owned\x07", "note\nsha256": "00"}
    save(replace(policy, metadata=about), tmp_path / "policy.safetensors")
    code, out, _ = edgerl("info", "policy.safetensors")
    assert code == 0
    assert "\x1b" not in out
    assert "\nsha256  00" not in out
    assert "owned" in out


def test_a_learner(edgerl: Run) -> None:
    path = write_bundle(learner_bundle := Path("learner.safetensors"), seed=steps(20), about={"environment": "Any-v0"})
    code, out, _ = edgerl("info", learner_bundle, "--json")
    description = json.loads(out)
    assert code == 0
    assert (description["kind"], description["format_version"], description["bytes"]) == (
        *("learner", 1),
        path.stat().st_size,
    )
    assert description["environment"] == "Any-v0"
    assert description["replay"] == {"precision": "fp32", "keep": "ring", "memory_bytes": 1 << 17}
    assert (description["seed_transitions"], description["updates"], description["exploration_noise"]) == (20, 0, 0.1)
    assert description["policy"]["architecture"] == "3-9-6-2"
    assert description["policy"]["action"] == {"low": [-1, -3], "high": [2, 0.5]}
    assert edgerl("info", "learner.safetensors")[0] == 0


def test_a_state_folder_and_its_snapshots(edgerl: Run) -> None:
    write_bundle()
    with contextlib.closing(Learner.load("learner.safetensors", state="state")) as learner:
        for _ in range(30):
            learner.observe([1, 2, 3], [0, 0], 1.5, [3, 2, 1])
        learner.snapshot()
        code, out, _ = edgerl("info", "state", "--json")  # beside whoever learns there
    description = json.loads(out)
    assert code == 0
    assert (description["kind"], description["rejected"]) == ("state folder", [])
    names = {
        "champion-00000001.safetensors",
        "lock",
        "transitions.log",
        "snapshot-00000001.safetensors",
        "snapshot-00000002.safetensors",
    }
    assert description["files"].keys() == names
    newest = description["newest"]
    assert (newest["file"], newest["kind"]) == ("state/snapshot-00000002.safetensors", "snapshot")
    assert newest["champion"] == 1
    assert (newest["counters"]["steps"], newest["counters"]["episodes"]) == (30, 0)
    assert newest["policy"]["architecture"] == "3-9-6-2"
    assert edgerl("info", newest["file"], "--json")[1] == json.dumps(newest, indent=2) + "\n"
    assert edgerl("info", "state")[0] == 0
    damage(Path(newest["file"]))
    description = json.loads(edgerl("info", "state", "--json")[1])
    assert description["newest"]["file"] == "state/snapshot-00000001.safetensors"
    assert description["rejected"][0].startswith(f"{newest['file']} has been altered")
    damage(Path("state/snapshot-00000001.safetensors"))  # the champion, of which there is a second file
    description = json.loads(edgerl("info", "state", "--json")[1])
    assert description["newest"]["file"] == "state/champion-00000001.safetensors"
    damage(Path("state/champion-00000001.safetensors"))
    code, _, err = edgerl("info", "state")
    assert code == 2
    assert err.startswith("edgerl: state holds no snapshot that is whole: state/snapshot-00000002.safetensors has been")
    assert err.count("\n") == 1


def damage(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)


@pytest.mark.parametrize(
    ("kind", "altered", "problem"),
    [
        ("learner", {"exploration_noise": -1}, "its exploration_noise is -1, expected 0 to 10"),
        ("learner", {"replay": {"precision": "fp8", "keep": "ring"}}, "the replay's precision is 'fp8'"),
        ("learner", {"version": 3}, "has format version 3; this edgerl reads version 1 or 2"),
        ("snapshot", {"about": "\x1b[2J"}, "its metadata 'about' is not a JSON object"),
        ("snapshot", {"counters": {"steps": 1}}, "its counters are of another version of edgerl"),
        ("snapshot", {"counters": None}, "its counters are of another version of edgerl"),
    ],
)
def test_learners_that_were_altered_are_one_line(edgerl: Run, kind: str, altered: dict[str, Any], problem: str) -> None:
    with contextlib.closing(Learner.load(write_bundle(), state="state")):
        pass
    source = {"learner": Path("learner.safetensors"), "snapshot": Path("state/snapshot-00000001.safetensors")}[kind]
    with TensorReader(source, kind, 1) as reader:
        tensors = {name: reader.read(name) for name in reader.shapes}
        metadata = {**reader.metadata, **altered}
    write_tensors(Path("altered.safetensors"), kind, altered.get("version", 1), metadata, tensors)
    code, out, err = edgerl("info", "altered.safetensors")
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert err.startswith("edgerl: altered.safetensors ")
    assert problem in err


def test_a_state_of_the_networks_that_was_altered_is_one_line(edgerl: Run) -> None:
    with TensorReader(write_bundle(), "learner", 1) as reader:
        tensors = {name: reader.read(name) for name in reader.shapes}
        metadata = reader.metadata
    for broken in (tensors["state"][:-1], tensors["state"][:100], np.zeros_like(tensors["state"]), np.zeros(3)):
        write_tensors(Path("altered.safetensors"), "learner", 1, metadata, {**tensors, "state": broken})
        code, _, err = edgerl("info", "altered.safetensors")
        assert (code, err.count("\n")) == (2, 1)
        assert err.startswith("edgerl: altered.safetensors is not valid: ")
