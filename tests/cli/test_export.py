"""`edgerl export`, as a user types it."""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

from edgerl.edge.acting.onnx_policy import OnnxPolicy
from edgerl.edge.continual.learner import Learner
from edgerl.policy.compact import CompactPolicy, make_layer
from edgerl.policy.format import load, save
from tests.edge.learners import write_bundle
from tests.foreign import write_actor

Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def policy(tmp_path: Path) -> Path:
    """The policy of a run folder, a tenth dense, that runs/latest points to."""
    folder = tmp_path / "runs" / "first"
    folder.mkdir(parents=True)
    (tmp_path / "runs" / "latest").symlink_to("first")
    rng = np.random.default_rng(0)
    weights = [(rng.normal(size=s) * (rng.random(s) < 0.1)).astype(np.float32) for s in ((64, 17), (6, 64))]
    layers = tuple(make_layer(weight, np.zeros(len(weight), np.float32), 1) for weight in weights)
    one = np.ones(6, np.float32)
    made = CompactPolicy(layers, -one, one, metadata={"environment": "HalfCheetah-v5"})
    save(made.with_example(np.zeros(17, np.float32)), folder / "policy.safetensors")
    (folder / "config.json").write_text("{}")
    return folder / "policy.safetensors"


def test_without_arguments_the_latest_run_is_exported_again_and_again(edgerl: Run, policy: Path) -> None:
    for _ in range(2):
        code, out, err = edgerl("export", "--format", "onnx")
        assert code == 0
        assert err == f"using {Path('runs/first/policy.safetensors')}\n"
        assert "17-64-6, opset 11" in out
        assert "of the action range" in out
    onnx.checker.check_model(onnx.load(policy.with_name("policy.onnx")), full_check=True)
    assert sorted(os.listdir(policy.parent)) == ["config.json", "policy.onnx", "policy.safetensors"]


def test_json_has_the_facts(edgerl: Run, policy: Path) -> None:
    code, out, _ = edgerl("export", str(policy), "-o", "a.onnx", "--json")
    report = json.loads(out)
    assert code == 0
    assert (report["path"], report["opset"], report["architecture"]) == ("a.onnx", 11, "17-64-6")
    assert report["n_bytes"] == Path("a.onnx").stat().st_size
    assert 0 <= report["largest_difference"] < 1e-5


def test_an_explicit_output_that_exists_needs_force(edgerl: Run, policy: Path) -> None:
    Path("a.onnx").write_text("precious")
    code, _, err = edgerl("export", str(policy), "-o", "a.onnx")
    assert (code, err) == (2, "edgerl: a.onnx exists already; pass --force to replace it, or write elsewhere\n")
    assert Path("a.onnx").read_text() == "precious"
    assert edgerl("export", str(policy), "-o", "a.onnx", "--force")[0] == 0


def test_a_default_output_of_another_name_needs_force_as_well(edgerl: Run, policy: Path) -> None:
    small = policy.rename(policy.with_name("small.safetensors"))
    assert edgerl("export", str(small))[0] == 0
    assert small.with_suffix(".onnx").is_file()
    code, _, err = edgerl("export", str(small))
    assert code == 2
    assert "small.onnx exists already; pass --force" in err


def test_sparse_initializers_say_whom_they_exclude(edgerl: Run, policy: Path) -> None:
    code, out, err = edgerl("export", "--sparse-initializers")
    assert code == 0
    assert "sparse initialisers in 2 layers; checked with onnxruntime" in out
    assert "not readable by: onnx.reference, OpenVINO, OpenCV, " in err
    assert len(onnx.load(policy.with_name("policy.onnx")).graph.sparse_initializer) == 2


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--format", "onx"], "'onx' is not an export format; did you mean onnx?"),
        (["no.safetensors"], "no.safetensors is not there; name a policy file or a run folder"),
        (["empty"], "empty holds no policy.safetensors; train one: edgerl train"),
        (["-o", "no/a.onnx"], "cannot write no/a.onnx: No such file or directory; choose an existing, writable folder"),
        (["garbage.safetensors"], "garbage.safetensors is a text file; expected a policy.safetensors, as edgerl train"),
    ],
)
def test_bad_input_is_one_line(edgerl: Run, policy: Path, arguments: list[str], message: str) -> None:
    Path("empty").mkdir()
    Path("garbage.safetensors").write_bytes(b"garbage")
    code, out, err = edgerl("export", *arguments)
    assert (code, out) == (2, "")
    last = err.splitlines()[-1]
    assert last.startswith(f"edgerl: {message}")
    assert "Traceback" not in err
    assert not policy.with_name("policy.onnx").exists()


def test_without_any_run_the_next_command_is_named(edgerl: Run) -> None:
    code, _, err = edgerl("export")
    assert code == 2
    assert "train one first: edgerl train" in err


def test_a_mismatch_is_exit_1_and_leaves_no_file(edgerl: Run, policy: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from edgerl.export.onnx import graph as exporter

    build_model = exporter.build_model

    def build_wrongly(*arguments: Any, **options: Any) -> Any:
        model = build_model(*arguments, **options)
        bias = next(tensor for tensor in model.graph.initializer if tensor.name == "layers.1.bias")
        bias.CopyFrom(onnx.numpy_helper.from_array(np.full(6, 5e-5, np.float32), bias.name))
        return model

    monkeypatch.setattr(exporter, "build_model", build_wrongly)
    code, _, err = edgerl("export")
    assert code == 1
    assert "was not written: its actions differ" in err
    assert sorted(os.listdir(policy.parent)) == ["config.json", "policy.safetensors"]


@pytest.mark.parametrize("format", ["", "a/b", "tflite"])
def test_an_unknown_format_is_refused_first(edgerl: Run, format: str) -> None:
    code, _, err = edgerl("export", "--format", format)
    assert code == 2
    assert "is not an export format" in err


def test_beside_a_policy_that_is_in_no_run_nothing_is_replaced(edgerl: Run, policy: Path, tmp_path: Path) -> None:
    policy.rename(tmp_path / "policy.safetensors")
    (tmp_path / "policy.onnx").write_bytes(b"precious")
    code, _, err = edgerl("export", "policy.safetensors")
    assert code == 2
    assert "policy.onnx exists already; pass --force to replace it" in err
    assert (tmp_path / "policy.onnx").read_bytes() == b"precious"


@pytest.mark.parametrize("command", ["export", "run", "info", "prune", "train --out", "train --resume"])
def test_a_name_that_is_too_long_is_one_line(edgerl: Run, command: str) -> None:
    code, _, err = edgerl(*command.split(), "x" * 300 + ".onnx")
    assert code == 2
    assert "File name too long" in err


# Learners.

SMALL_RUN = ("--env", "robots:robot", "--hidden", "16,16", "--preset", "quick", "--steps", "120")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((), "expected the policy.safetensors that it was made from, or one of it: edgerl import ppo.onnx"),
        (("--format", "c"), "c cannot run ppo.onnx: it was not written by edgerl, and only onnxruntime can"),
        (("--format", "c", "--learn"), "c cannot run ppo.onnx: it was not written by edgerl"),
    ],
)
def test_a_file_of_another_program_says_what_runs_it(edgerl: Run, arguments: tuple[str, ...], message: str) -> None:
    write_actor(Path("ppo.onnx"))
    code, out, err = edgerl("export", "ppo.onnx", *arguments)
    assert (code, out) == (2, "")
    assert message in err
    assert not list(Path().glob("*c*/"))


@pytest.fixture
def run(edgerl: Run) -> Path:
    """A run folder of 120 steps, that runs/latest points to."""
    assert edgerl("train", *SMALL_RUN)[0] == 0
    return Path("runs/robots-robot-ds-td3-seed0")


def test_a_learner_of_the_latest_run_again_and_again(edgerl: Run, run: Path) -> None:
    for _ in range(2):
        code, out, err = edgerl("export", "--format", "learner")
        assert code == 0
        assert err == f"using {run}\n"
    first, second, third = out.splitlines()
    assert first.startswith(f"{run}/learner.safetensors: ")
    trained = sum(load(run / "policy.safetensors").metadata["trained_connections"])
    assert f" after 90 updates; connections actor {trained}, critic_1 " in first
    assert second.startswith("memory on a device 32.0 MiB: networks ")
    assert third.startswith("replay ring of ")
    assert third.endswith(" transitions, 64 bytes each in fp32; 120 of the run to begin with")
    with contextlib.closing(Learner.load(run / "learner.safetensors")) as learner:
        assert learner.status()["replay"]["size"] == 120
        assert learner.about["environment"] == "robots:robot"


def test_the_choices_of_a_learner(edgerl: Run, run: Path) -> None:
    options = ("--replay", "50", "--replay-dtype", "fp16", "--replay-policy", "reservoir", "--memory", "200kB")
    code, out, _ = edgerl("export", run, "--format", "learner", *options, "-o", "other.safetensors", "--json")
    report = json.loads(out)
    assert code == 0
    assert (report["path"], report["n_bytes"]) == ("other.safetensors", Path("other.safetensors").stat().st_size)
    assert (report["seed"], report["precision"], report["keep"]) == (50, "fp16", "reservoir")
    assert report["action_difference"]["observed"] == "recorded"
    assert 0 < report["action_difference"]["largest"] < 1e-2
    _, out, _ = edgerl("export", run, "--format", "learner", "--replay-dtype", "fp16")
    assert "as they are kept: largest action difference over 120 recorded observations: " in out
    memory = report["memory"]
    assert memory["record"] == 16 + 2 * (4 + 2 + 4) + 8  # numbers in two bytes each
    assert memory["total"] == memory["arena"] + memory["champion"] + memory["capacity"] * memory["record"]
    assert 200_000 - memory["record"] < memory["total"] <= 200_000
    with contextlib.closing(Learner.load("other.safetensors")) as learner:
        assert asdict(learner.memory) == {name: memory[name] for name in asdict(learner.memory)}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--format", "lerner"], "'lerner' is not an export format; did you mean learner?"),
        (["--replay", "5"], "--replay was given, which --format onnx does not have; leave it out"),
        (["--memory", "1MiB"], "--memory was given, which --format onnx does not have; leave it out"),
        (["--format", "learner", "--sparse-initializers"], "--sparse-initializers was given, which --format learner"),
        (["--format", "learner", "--replay-dtype", "int8"], "--replay-dtype is 'int8'; expected fp32, fp16"),
        (["--format", "learner", "--replay-policy", "lake"], "--replay-policy is 'lake'; expected ring, reservoir"),
        (["--format", "learner", "--memory", "lots"], "--memory is 'lots'; expected a number of bytes"),
        (["--format", "learner", "--memory", "1kB"], "the memory is 1000 bytes"),
        (["--format", "learner", "-o", "precious"], "precious exists already; pass --force to replace it"),
    ],
)
def test_choices_that_do_not_fit_are_one_line(edgerl: Run, run: Path, arguments: list[str], message: str) -> None:
    Path("precious").write_text("precious")
    code, out, err = edgerl("export", run, *arguments)
    assert (code, out) == (2, "")
    assert err.splitlines()[-1].startswith(f"edgerl: {message}")
    assert "Traceback" not in err
    assert Path("precious").read_text() == "precious"
    assert not (run / "learner.safetensors").exists()


def test_c_says_what_smaller_weights_cost_over_what_the_run_recorded(edgerl: Run, run: Path) -> None:
    code, out, _ = edgerl("export", "--format", "c", "--dtype", "int8", "--no-measure")
    assert code == 0
    assert "largest action difference over 120 recorded observations: " in out
    _, out, _ = edgerl("export", "--format", "c", "--dtype", "int8", "--no-measure", "--json")
    loss = json.loads(out)["action_difference"]
    assert (loss["observations"], loss["observed"]) == (120, "recorded")
    assert 1e-5 < loss["root_mean_square"] < loss["largest"] < 0.1
    (run / "replay.bin").unlink()
    _, out, _ = edgerl("export", "--format", "c", "--dtype", "int8", "--no-measure")
    assert " sampled observations: " in out


def test_a_learner_needs_a_run_folder(edgerl: Run, policy: Path) -> None:
    code, _, err = edgerl("export", policy, "--format", "learner")
    assert (code, err) == (
        2,
        "edgerl: runs/first/policy.safetensors is a policy of edgerl; expected a run folder, as edgerl train makes, or "
        "a SAC or TD3 of stable-baselines3: learning on takes critics, which no policy holds\n",
    )
    code, _, err = edgerl("export", "--format", "learner")
    assert code == 2
    assert "runs/first/checkpoint.safetensors" in err


def test_the_champion_of_a_state_folder(edgerl: Run) -> None:
    """Also while another process learns there: the snapshots are read without its lock."""
    write_bundle(normalise=True, about={"environment": "none", "evaluation_return": 3.0})
    with contextlib.closing(Learner.load("learner.safetensors", state="state")) as learner:
        champion = [learner.act(x, explore=False) for x in np.eye(3)]
        for step in range(50):
            learner.observe(np.eye(3)[step % 3], [0, 0], float(step), np.eye(3)[(step + 1) % 3])
            learner.update()
        learner.snapshot()
        for _ in range(2):
            code, out, _ = edgerl("export", "state")
            assert code == 0
            assert out.startswith("state/policy.onnx: ")
        code, _, err = edgerl("export", "state", "-o", "state/policy.onnx")
        assert code == 2
        assert "state/policy.onnx exists already; pass --force to replace it" in err
    exported = OnnxPolicy("state/policy.onnx")
    np.testing.assert_allclose([exported(x) for x in np.eye(3, dtype=np.float32)], champion, atol=1e-5)
    assert exported.metadata["about"] == {"environment": "none", "snapshot": 2, "updates": 0}


def test_a_state_folder_without_a_whole_snapshot_is_one_line(edgerl: Run) -> None:
    Path("state").mkdir()
    Path("state/snapshot-00000003.safetensors").write_bytes(b"garbage")
    code, _, err = edgerl("export", "state")
    assert code == 2
    assert err.startswith(
        "edgerl: state holds no snapshot that is whole: state/snapshot-00000003.safetensors is a text file"
    )
    assert err.count("\n") == 1
