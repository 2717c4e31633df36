"""`edgerl prune`: the compact form of a run, and what it says about it."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

import edgerl as library
from edgerl.policy.format import load, save
from edgerl.training import checkpoint as checkpoint_file
from tests.policy.policies import random_policy

Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def run() -> Path:
    options = {"hidden": (16, 16), "sparsity": 0.5, "steps": 150, "start_steps": 30, "replay_capacity": 500}
    return library.train("robots:robot", batch_size=8, evaluation_episodes=1, **options).folder


def test_prune_replaces_the_runs_policy_and_says_what_changed(edgerl: Run, run: Path) -> None:
    code, out, err = edgerl("prune", "--env", "robots:robot", "--episodes", 3)
    assert code == 0
    assert f"using {run}" in err
    assert "largest action difference over 150 recorded observations: " in out
    assert "return over 3 episodes, 95 % bootstrap interval: " in out
    policy = load(run / "policy.safetensors")
    masked = checkpoint_file.read(run / "checkpoint.safetensors").policy
    observations = np.random.default_rng(0).normal(size=(100, 4))
    np.testing.assert_allclose(policy(observations, np.float64), masked(observations, np.float64), atol=1e-6)


def test_prune_as_json(edgerl: Run, run: Path) -> None:
    code, out, _ = edgerl(
        "prune", "--json", "--episodes", 0, "--sparsity", 0.7, "--dtype", "int8", "-o", "small.safetensors"
    )
    report = json.loads(out)
    assert code == 0
    assert report["policy"] == "small.safetensors"
    assert report["returns"] is None
    assert report["file_bytes"] == [len(_masked_bytes(run)), Path("small.safetensors").stat().st_size]
    policy = load("small.safetensors")
    # 4·16 + 16·16 + 16·2 weights if it were dense; a rounded int8 weight may vanish beyond the magnitude pruning.
    assert policy.connections <= round(352 * 0.3)
    assert {layer.precision for layer in policy.layers} == {"int8"}
    assert sum(layer["connections"][1] for layer in report["layers"]) == policy.connections
    masked = checkpoint_file.read(run / "checkpoint.safetensors").policy
    shares = np.abs(policy(_recorded(run)) - masked(_recorded(run))) / [3, 3.5]  # the robot's ranges
    loss = report["action_difference"]
    assert (loss["observations"], loss["observed"]) == (150, "recorded")
    assert loss["largest"] == pytest.approx(shares.max(), rel=1e-5)
    assert loss["root_mean_square"] == pytest.approx(np.sqrt((shares**2).mean()), rel=1e-5)


def test_int8_keeps_outliers_unless_told_otherwise(edgerl: Run, run: Path) -> None:
    counts = {}
    for share in (None, 0.1, 0):
        given = [] if share is None else ["--outliers", share]
        code, out, _ = edgerl(
            "prune", "--json", "--episodes", 0, "--dtype", "int8", *given, "--force", "-o", "small.safetensors"
        )
        assert code == 0
        policy, report = load("small.safetensors"), json.loads(out)
        counts[share] = sum(0 if layer.outliers is None else len(layer.outliers.values) for layer in policy.layers)
        assert sum(layer["outliers"] for layer in report["layers"]) == counts[share]
    connections = checkpoint_file.read(run / "checkpoint.safetensors").policy.connections
    assert counts[0] == 0 < counts[None] <= round(0.01 * connections) < counts[0.1] <= round(0.1 * connections)


@pytest.mark.usefixtures("run")
def test_fine_tuning_in_the_states_of_a_run(edgerl: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("edgerl.compression.finetune.STEPS", 100)
    options = ("--episodes", 0, "--dtype", "int8", "--outliers", 0, "--json", "--force")
    edgerl("prune", *options, "-o", "plain.safetensors")
    code, out, err = edgerl("prune", *options, "--finetune", "-o", "tuned.safetensors")
    assert code == 0
    assert "fine-tuning" in err
    assert json.loads(out)["action_difference"]["observed"] == "recorded"
    for before, after in zip(load("plain.safetensors").layers, load("tuned.safetensors").layers, strict=True):
        assert after.precision == "int8"
        assert not np.array_equal(after.values, before.values)


def test_fine_tuning_in_states_from_a_file(edgerl: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of a policy in a file, without any environment."""
    monkeypatch.setattr("edgerl.compression.finetune.STEPS", 100)
    save(random_policy(0, (4, 16, 16, 2), density=1), Path("policy.safetensors"))
    options = ("policy.safetensors", "--episodes", 0, "--dtype", "int4", "--finetune", "-o", "small.safetensors")
    code, _, err = edgerl("prune", *options)
    assert code == 2
    assert "--finetune needs states that the policy meets, and --episodes is 0; expected at least 1, or --obs" in err
    np.save("seen.npy", np.full((30, 4), np.nan))
    code, _, err = edgerl("prune", *options, "--observations", "seen.npy")
    assert code == 2
    assert "seen.npy holds a number that is not finite in observation 0; leave that one out" in err
    assert not Path("small.safetensors").exists()
    np.save("seen.npy", np.random.default_rng(0).normal(size=(2000, 4)))
    code, out, _ = edgerl("prune", *options, "--observations", "seen.npy", "--json")
    difference = json.loads(out)["action_difference"]
    assert code == 0
    assert (difference["observed"], difference["observations"]) == ("recorded", 1000)
    assert load("small.safetensors").layers[1].precision == "int4"


@pytest.mark.usefixtures("run")
@pytest.mark.parametrize(
    ("given", "message"),
    [
        (("--dtype", "fp16", "--finetune"), "--finetune trains weights that are rounded, not fp16 ones"),
        (("--dtype", "fp16", "--outliers", 0.01), "--outliers is 0.01 with fp16 weights; expected a share in"),
        (("--dtype", "int8", "--outliers", 0.5), "--outliers is 0.5 with int8 weights; expected a share in"),
    ],
)
def test_what_cannot_be_quantised_so_is_one_line(edgerl: Run, given: tuple[object, ...], message: str) -> None:
    code, out, err = edgerl("prune", "--episodes", 0, "-o", "small.safetensors", *given)
    assert (code, out) == (2, "")
    assert message in err
    assert not Path("small.safetensors").exists()


def test_a_wide_row_is_warned_of(edgerl: Run) -> None:
    policy = random_policy(0, (300, 8, 2), density=1)
    policy.layers[0].values[3, 7] = 40.0
    save(policy, Path("wide.safetensors"))
    options = ("--episodes", 0, "--dtype", "int8", "--force", "-o", "small.safetensors")
    _, _, err = edgerl("prune", "wide.safetensors", *options, "--outliers", 0)
    assert "layer 0 has an int8 row whose largest weight is 17." in err
    _, out, err = edgerl("prune", "wide.safetensors", *options)
    assert "row" not in err
    assert "no return was measured" in out


def _recorded(run: Path) -> np.ndarray:
    from edgerl.edge.continual.replay import Replay

    with contextlib.closing(Replay.open_recorded(run / "replay.bin", 150)) as replay:
        return replay.observations(np.arange(150))


def _masked_bytes(run: Path) -> bytes:
    from edgerl.policy.format import to_bytes

    return to_bytes(checkpoint_file.read(run / "checkpoint.safetensors").policy)


def test_pruning_twice_starts_from_the_run_each_time(edgerl: Run, run: Path) -> None:
    edgerl("prune", "--episodes", 0)
    first = (run / "policy.safetensors").read_bytes()
    edgerl("prune", "--episodes", 0, "--dtype", "int8", "--sparsity", 0.8)
    edgerl("prune", "--episodes", 0)
    assert (run / "policy.safetensors").read_bytes() == first


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--sparsity", "0.2"], "sparsity is 0.2; expected more than the policy's 0.5"),
        (["--sparsity", "0.95"], "since the output layer is kept"),
        (["--sparsity", "1"], "sparsity is 1; expected more than"),
        (["--dtype", "fp8"], "--dtype is 'fp8'; expected fp32, fp16, int8"),
        (["--criterion", "obs"], "--criterion is 'obs'; expected magnitude or sparsegpt"),
        (["--criterion", "sparsegpt"], "--criterion is sparsegpt, and there is no --sparsity to prune to; give one"),
        (["nowhere"], "nowhere is not there; expected a run folder"),
        (["-o", "there"], "there exists already; pass --force to replace it, or write elsewhere"),
        (["-o", "no/folder/policy.safetensors"], "cannot write no/folder/policy.safetensors"),
        (["--episodes", "-1"], "Invalid value for '--episodes'"),
    ],
)
def test_bad_input_is_one_line_and_changes_nothing(edgerl: Run, run: Path, arguments: list[str], message: str) -> None:
    Path("there").write_text("mine")
    before = (run / "policy.safetensors").read_bytes()
    code, out, err = edgerl("prune", *(["--episodes", "0"] if "--episodes" not in arguments else []), *arguments)
    assert (code, out) == (2, "")
    assert message in err.splitlines()[-1]
    assert (run / "policy.safetensors").read_bytes() == before
    assert Path("there").read_text() == "mine"
    assert sorted(path.name for path in Path().iterdir()) == ["runs", "there"]


@pytest.mark.usefixtures("run")
def test_sparsegpt_mends_what_is_left_in_the_runs_own_states(edgerl: Run) -> None:
    losses = []
    for criterion in ("magnitude", "sparsegpt"):
        arguments = (
            "--json",
            "--episodes",
            0,
            "--sparsity",
            0.7,
            "--criterion",
            criterion,
            "-o",
            f"{criterion}.safetensors",
        )
        code, out, _ = edgerl("prune", *arguments)
        assert code == 0
        losses.append(json.loads(out)["action_difference"]["root_mean_square"])
        assert load(f"{criterion}.safetensors").connections <= round(352 * 0.3) + 1
    assert losses[1] < losses[0]


def test_sparsegpt_needs_states_of_a_file(edgerl: Run, run: Path) -> None:
    save(load(run / "policy.safetensors"), Path("file.safetensors"))
    arguments = ("--sparsity", 0.7, "--criterion", "sparsegpt", "--episodes", 0, "-o", "small.safetensors")
    code, _, err = edgerl("prune", "file.safetensors", *arguments)
    assert (code, "--criterion sparsegpt needs states that the policy meets, and --episodes is 0" in err) == (2, True)
    assert not Path("small.safetensors").exists()


def test_force_replaces_an_output(edgerl: Run, run: Path) -> None:
    Path("there").write_text("mine")
    assert edgerl("prune", run, "--episodes", 0, "-o", "there", "--force")[0] == 0
    assert load("there").n_actions == 2


def test_prune_without_any_run(edgerl: Run) -> None:
    code, _, err = edgerl("prune")
    assert code == 2
    assert "there is no runs/latest here; name a run folder, or train one: edgerl train" in err


def test_a_run_put_together_from_two_is_refused(edgerl: Run, run: Path) -> None:
    other = library.train("Pendulum-v1", steps=40, start_steps=39, replay_capacity=500, evaluation_episodes=1).folder
    (run / "replay.bin").write_bytes((other / "replay.bin").read_bytes())
    code, _, err = edgerl("prune", run, "--episodes", 0)
    assert code == 2
    assert "holds a replay of 3 observations and a policy of 4; they are not from the same run" in err


def test_a_replay_with_nan_is_refused(edgerl: Run, run: Path) -> None:
    rows = np.memmap(run / "replay.bin", np.float32, mode="r+", offset=4096)
    rows[0] = np.nan
    rows.flush()
    code, _, err = edgerl("prune", run, "--episodes", 0)
    assert code == 2
    assert "replay.bin holds an observation that is not finite; it was altered" in err
