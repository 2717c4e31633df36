"""`edgerl.distill`: what a student keeps of its teacher, where its states come from, and taking up what was left."""

from __future__ import annotations

import io
import json
import signal
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import edgerl as library
from edgerl.algorithms.imitation import Imitator
from edgerl.compression import finetune
from edgerl.compression.course import student_policy
from edgerl.compression.lessons import Units, read_observations, statistics
from edgerl.errors import CheckFailed, ConfigError, EdgerlError, FileFormatError, Interrupted, OutputError
from edgerl.policy import format as policy_file
from edgerl.policy.compact import CompactPolicy
from edgerl.policy.contract import Contract
from edgerl.policy.loss import action_span
from edgerl.policy.pruning import network_of, storage_of, stored
from tests.policy.policies import Array, random_policy

Run = Callable[..., tuple[int, str, str]]

QUICK: dict[str, Any] = {"env": "robots:robot", "rounds": 2, "updates": 300, "episodes": 2, "batch_size": 32}


@pytest.fixture
def teacher() -> Path:
    """A policy for `robots:robot`, in a file."""
    return _teacher()


def _teacher(**changes: Any) -> Path:
    policy = replace(
        random_policy(0, (4, 24, 16, 2), normalize=False, density=1.0),
        action_low=np.array([-1, -3], np.float32),
        action_high=np.array([2, 0.5], np.float32),
        metadata={"seed": 7},
    )
    policy_file.save(replace(policy, **changes).with_example(np.ones(4, np.float32)), Path("teacher.safetensors"))
    return Path("teacher.safetensors")


def _observations(count: int = 400) -> Array:
    return np.random.default_rng(1).normal(size=(count, 4)).astype(np.float32)


@pytest.mark.parametrize("head", ["tanh", "clip"])
def test_a_student_acts_as_its_teacher_does(head: str) -> None:
    """As measured here on observations that it never saw, not by its own report."""
    teacher = _teacher(head=head)
    np.save("seen.npy", _observations(4000))
    result = library.distill(teacher, observations="seen.npy", updates=3000, topology="dense", hidden=(32, 32))
    before, after = policy_file.load(teacher), policy_file.load("student.safetensors")
    x = np.random.default_rng(2).normal(size=(1000, 4)).astype(np.float32)
    errors = (after(x) - before(x)) / action_span(before)
    assert np.sqrt(np.square(errors).mean()) < 0.03
    assert result.returns is None
    assert after.head == head
    np.testing.assert_array_equal(after.action_high, before.action_high)


@pytest.mark.parametrize("block", [1, 4])
@pytest.mark.parametrize("topology", ["static", "dynamic"])
def test_a_sparse_student_has_no_more_connections_than_were_asked_for(topology: Any, block: int, teacher: Path) -> None:
    result = library.distill(teacher, topology=topology, sparsity=0.6, block=block, **QUICK)
    dense = 4 * 24 + 24 * 16 + 16 * 2
    assert 0 < result.student.connections <= round(0.4 * dense) + block
    assert result.student.connections > 0.25 * dense
    assert result.student.metadata["sparsity"] == pytest.approx(0.6, abs=0.02)
    assert result.student.architecture.startswith("4-")


def test_what_a_student_keeps_of_its_teacher() -> None:
    mean, scale = np.array([1, -2, 0, 3], np.float32), np.array([0.5, 2, 1, 1], np.float32)
    about = {"environment": "robots:robot", "seed": 7, "algorithm": "td3"}
    contract = Contract(observation_names=("joint_pos",))
    teacher = _teacher(
        observation_mean=mean, observation_scale=scale, observation_clip=4.0, contract=contract, metadata=about
    )
    result = library.distill(teacher, **QUICK)
    np.testing.assert_array_equal(result.student.observation_mean, mean)
    np.testing.assert_array_equal(result.student.observation_scale, scale)
    assert (result.student.observation_clip, result.student.contract) == (4.0, contract)
    assert result.student.metadata["environment"] == "robots:robot"
    assert "algorithm" not in result.student.metadata
    assert result.student.metadata["distilled"]["episodes"] == 2


def test_a_teacher_without_normalisation_has_a_student_with_that_of_the_first_round(teacher: Path) -> None:
    seen = _observations() * [1, 10, 100, 0] + [0, 0, 5, 2]
    np.save("seen.npy", seen)
    result = library.distill(teacher, observations="seen.npy", updates=100)
    student = result.student
    np.testing.assert_allclose(student.observation_mean, seen[:360].mean(axis=0), rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(student.observation_scale[:3], 1 / seen[:360].std(axis=0)[:3], rtol=1e-4)
    assert student.observation_scale[3] == 1  # of what never varies


def test_statistics_are_those_of_float64() -> None:
    observations = _observations() * 1e3
    mean, scale = statistics(observations)
    np.testing.assert_allclose(mean, observations.astype(np.float64).mean(axis=0), rtol=1e-5)
    np.testing.assert_allclose(scale, 1 / observations.astype(np.float64).std(axis=0), rtol=1e-5)


def test_rounds_grow_the_set_and_the_student_acts_in_all_but_the_first(teacher: Path) -> None:
    shown: list[Any] = []
    result = library.distill(teacher, **QUICK, report=shown.append)
    assert [each.observations for each in result.rounds] == [5000, 10_000]
    assert [each.episodes for each in result.rounds] == [135, 135]  # of 37 steps each; the last one is cut
    assert [len(each.rounds) for each in shown] == [1, 2]
    assert [each.updates for each in shown] == [150, 300]
    assert [each.actor for each in result.rounds] == ["teacher", "student"]
    assert result.rounds[0].mean_return != result.rounds[1].mean_return


def test_in_policy_distillation_the_teacher_acts_in_every_round(teacher: Path) -> None:
    """So what is met does not depend on the student."""
    small, large = (library.distill(teacher, method="kd", hidden=h, force=True, **QUICK) for h in ((9, 9), (32, 32)))
    assert [each.actor for each in small.rounds] == ["teacher", "teacher"]
    assert [each.mean_return for each in small.rounds] == [each.mean_return for each in large.rounds]


def test_returns_are_those_of_the_policies_in_the_same_episodes(teacher: Path) -> None:
    from edgerl.environments.make import Environment
    from edgerl.training.evaluation import evaluate, evaluation_seeds
    from tests.robots import Robot

    result = library.distill(teacher, **{**QUICK, "episodes": 3})
    environment, seeds = Environment("robot", Robot()), evaluation_seeds(0, 3)
    assert result.returns is not None
    for policy, returns in zip((policy_file.load(teacher), policy_file.load(result.path)), result.returns, strict=True):
        assert returns.mean == pytest.approx(evaluate(environment, policy, seeds).mean())
    assert result.gain is not None
    assert result.gain.mean == pytest.approx(result.returns[1].mean - result.returns[0].mean)


def test_the_same_seed_gives_the_same_bytes(teacher: Path) -> None:
    files = []
    for seed in (0, 0, 1):
        library.distill(teacher, seed=seed, force=True, **QUICK)
        files.append(Path("student.safetensors").read_bytes())
    assert files[0] == files[1] != files[2]


@pytest.mark.parametrize("at", [0, 70, 150, 200])
def test_a_student_that_was_interrupted_becomes_the_same(
    at: int, teacher: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    library.distill(teacher, "whole.safetensors", **QUICK)
    learn = Imitator.learn

    def learn_until(self: Imitator, examples: Array, count: int) -> None:
        if self.updates >= at:
            signal.raise_signal(signal.SIGTERM)
        learn(self, examples, count)

    with monkeypatch.context() as patch:
        patch.setattr(Imitator, "learn", learn_until)
        with pytest.raises(Interrupted, match=r"stopped after \d+ of 300 updates; go on with the same and `resume`"):
            library.distill(teacher, **QUICK)
    assert not Path("student.safetensors").exists()
    again = library.distill(teacher, resume=True, **QUICK)
    assert Path("student.safetensors").read_bytes() == Path("whole.safetensors").read_bytes()
    assert len(again.rounds) == 2
    assert not Path("student.safetensors.part").exists()


@pytest.mark.parametrize("precision", ["fp16", "int8", "int4"])
def test_a_student_of_fewer_bits_acts_as_its_teacher_does(precision: Any) -> None:
    """As its file has it; and better than rounding alone would leave it, where there are few bits."""
    teacher = _teacher()
    np.save("seen.npy", _observations(4000))
    quick: dict[str, Any] = {"observations": "seen.npy", "updates": 3000, "topology": "dense"}
    result = library.distill(teacher, precision=precision, **quick)
    library.distill(teacher, "whole.safetensors", **quick)
    whole = policy_file.load("whole.safetensors")
    rounded = stored(whole, network_of(whole), storage_of(network_of(whole), precision, None))
    before, after = policy_file.load(teacher), policy_file.load(result.path)
    assert [layer.precision for layer in after.layers] == [layer.precision for layer in rounded.layers]
    x = np.random.default_rng(2).normal(size=(1000, 4)).astype(np.float32)

    def error(policy: Any) -> float:
        return float(np.sqrt(np.square((policy(x) - before(x)) / action_span(before)).mean()))

    assert error(after) < 0.03
    assert error(after) <= (0.9 if precision == "int4" else 1.01) * error(rounded)
    assert result.student.metadata["distilled"]["action_difference"]["root_mean_square"] == pytest.approx(
        result.difference.root_mean_square
    )


def test_fine_tuning_that_was_interrupted_becomes_the_same(teacher: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    quick = {**QUICK, "precision": "int8"}
    library.distill(teacher, "whole.safetensors", **quick)
    train = finetune.finetune

    def stopped(*arguments: Any) -> CompactPolicy:
        signal.raise_signal(signal.SIGTERM)
        return train(*arguments)  # which ends at its first step

    with monkeypatch.context() as patch:
        patch.setattr(finetune, "finetune", stopped)
        with pytest.raises(Interrupted, match="stopped after 300 of 300 updates"):
            library.distill(teacher, **quick)
    with pytest.raises(ConfigError, match=r"`precision` is 'fp32', and .* was begun with 'int8'"):
        library.distill(teacher, resume=True, **QUICK)
    library.distill(teacher, resume=True, **quick)
    assert Path("student.safetensors").read_bytes() == Path("whole.safetensors").read_bytes()


def test_what_was_interrupted_goes_on_only_as_it_was_begun(teacher: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    saved = Path("student.safetensors.part")
    with monkeypatch.context() as patch:
        patch.setattr(Imitator, "learn", lambda *_: signal.raise_signal(signal.SIGINT))
        with pytest.raises(Interrupted):
            library.distill(teacher, **QUICK)
    with pytest.raises(OutputError, match="is there, of a distillation that was interrupted; go on with `resume`"):
        library.distill(teacher, **QUICK)
    with pytest.raises(ConfigError, match=r"`updates` is 400, and .* was begun with 300; give it as it was"):
        library.distill(teacher, resume=True, **{**QUICK, "updates": 400})
    with pytest.raises(ConfigError, match=r"`seed` is 1, and .* was begun with 0"):
        library.distill(teacher, resume=True, seed=1, **QUICK)
    whole = saved.read_bytes()
    saved.write_bytes(whole[:-1])
    with pytest.raises(FileFormatError, match=r"student\.safetensors\.part"):
        library.distill(teacher, resume=True, **QUICK)
    saved.write_bytes(whole)
    library.distill(teacher, force=True, **QUICK)
    with pytest.raises(ConfigError, match=r"`resume` finds no other\.safetensors\.part"):
        library.distill(teacher, "other.safetensors", resume=True, **QUICK)


def test_observations_from_every_kind_of_file(teacher: Path) -> None:
    observations, policy = _observations(30), policy_file.load(teacher)
    np.save("a.npy", observations.astype(np.float64))
    np.savetxt("a.csv", observations, delimiter=",")
    named = "x,y,vx,vy\n" + Path("a.csv").read_text()
    Path("named.csv").write_text(named)
    for name in ("a.npy", "a.csv", "named.csv"):
        np.testing.assert_allclose(read_observations(Path(name), policy), observations, rtol=1e-6)


def test_observations_of_a_run() -> None:
    options = {"hidden": (16, 16), "sparsity": 0.5, "steps": 150, "start_steps": 30, "replay_capacity": 500}
    run = library.train("robots:robot", batch_size=8, evaluation_episodes=1, **options)
    result = library.distill(run.folder, observations=run.folder, updates=100, sparsity=0.7)
    assert result.path == run.folder / "student.safetensors"
    assert result.rounds[0].observations == 135
    assert result.difference.observations == 15
    assert library.distill(run.folder, **QUICK, force=True).rounds[0].episodes == 135


BAD: dict[str, tuple[dict[str, Any], str]] = {
    "widths of 0": ({"hidden": (0,)}, r"`hidden` is 0; expected a whole number in \[1, 65535\]"),
    "widths above indices": ({"hidden": (65536,)}, "`hidden` is 65536; expected"),
    "too large": ({"hidden": (65535, 65535)}, "is too large; expected layers of at most"),
    "topology": ({"topology": "sparse"}, "`topology` is 'sparse'; expected dense, static, dynamic"),
    "dense and sparse": ({"topology": "dense", "sparsity": 0.5}, "`topology` is dense, which has no sparsity"),
    "impossible": ({"sparsity": 0.999}, "sparsity 0.999 is impossible for 4-24-16-2"),
    "method": ({"method": "pops"}, "`method` is 'pops'; expected dagger or kd"),
    "block": ({"block": 3}, "`block` is 3; expected 1"),
    "growth": ({"growth": "none"}, "`growth` is 'none'; expected random, gradient"),
    "rounds": ({"rounds": 0}, "`rounds` is 0 and `updates` 300; expected at least one update in each round"),
    "more rounds than updates": ({"rounds": 301}, "`rounds` is 301 and `updates` 300"),
    "precision": ({"precision": "int2"}, "`precision` is 'int2'; expected fp32, fp16, int8, int4"),
    "outliers": ({"outliers": 0.1}, r"`outliers` is 0\.1 with fp32 weights; expected a share in"),
    "episodes": ({"episodes": 1}, "`episodes` is 1; expected at least 2, for an interval"),
    "rate": ({"learning_rate": 0.0}, "`learning_rate` is 0.0; expected"),
    "seed": ({"seed": -1}, "`seed` is -1; expected"),
    "environment": ({"env": "robots:surveyed_robot"}, "has 2 observations and 1 actions; expected those of the policy"),
    "no environment": ({"env": None}, "does not name its environment"),
    "no folder": ({"path": "no/student.safetensors"}, "cannot write no/student.safetensors: no is not a folder"),
    "there already": ({"path": "teacher.safetensors"}, "teacher.safetensors exists already; pass `force`"),
}


@pytest.mark.parametrize(("options", "message"), BAD.values(), ids=BAD)
def test_bad_input_is_one_line_and_nothing_is_written(options: dict[str, Any], message: str, teacher: Path) -> None:
    before = teacher.read_bytes()
    with pytest.raises(EdgerlError, match=message) as error:
        library.distill(teacher, **{**QUICK, **options})
    assert "\n" not in str(error.value)
    assert [path.name for path in Path().iterdir()] == ["teacher.safetensors"]
    assert teacher.read_bytes() == before


def _array(values: Any) -> bytes:
    file = io.BytesIO()
    np.save(file, values)
    return file.getvalue()


BAD_OBSERVATIONS: dict[str, tuple[bytes | None, str]] = {
    "another width": (_array(np.zeros((20, 3))), r"of shape \[20, 3\]; expected \[any, 4\]"),
    "empty array": (_array(np.zeros((0, 4))), "holds 0 observations; expected at least 10"),
    "NaN": (_array(np.full((20, 4), np.nan)), "not finite in observation 0"),
    "objects": (_array(np.array([{}])), "not a whole NumPy array of numbers"),
    "words": (_array(np.array([["a"] * 4] * 20)), "holds <U1; expected numbers"),
    "cut off": (_array(np.zeros((20, 4)))[:-1], "not a whole NumPy array of numbers"),
    "empty file": (b"", "is empty; expected observations"),
    "a table of words": (b"a,b,c,d\n1,2,3,x\n", "observation 0: '1,2,3,x' is not numbers"),
    "ragged": (b"1,2,3,4\n1,2\n", "has lines of different lengths"),
    "infinite": (b"1,2,3,4\n" * 12 + b"1,2,3,inf\n", "not finite in observation 12"),
    "a zip": (b"PK\x03\x04 and more", "is a zip archive; expected observations"),
    "too large for float32": (_array(np.full((20, 4), 1e300)), "not finite in observation 0"),
    "nothing": (None, "is not there; expected a file"),
}


@pytest.mark.parametrize(("data", "message"), BAD_OBSERVATIONS.values(), ids=BAD_OBSERVATIONS)
def test_bad_observations_are_one_line(data: bytes | None, message: str, teacher: Path) -> None:
    if data is not None:
        Path("seen.dat").write_bytes(data)
    with pytest.raises((ConfigError, FileFormatError), match=message):
        library.distill(teacher, observations="seen.dat", updates=10)
    assert not Path("student.safetensors").exists()


def test_a_recurrent_teacher_is_refused_with_what_would_be_lost() -> None:
    from tests.policy.policies import recurrent_policy

    policy_file.save(recurrent_policy("lstm")[0], Path("teacher.safetensors"))
    with pytest.raises(EdgerlError, match=r"is recurrent: it remembers .* numbers from step to step"):
        library.distill("teacher.safetensors", **QUICK)


def test_a_student_that_diverges_is_not_written(teacher: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Imitator, "abandoned", 1)
    with pytest.raises(CheckFailed, match="are not finite: it diverged; lower `learning_rate`"):
        library.distill(teacher, **QUICK)
    assert [path.name for path in Path().iterdir()] == ["teacher.safetensors"]


def test_units_of_actions_without_bounds() -> None:
    policy = replace(
        random_policy(0, (4, 8, 2), density=1.0),
        head="clip",
        action_low=np.array([-np.inf, 0], np.float32),
        action_high=np.array([np.inf, 4], np.float32),
    ).with_example(np.zeros(4, np.float32))
    units = Units.of(policy)
    assert (units.centre[0], units.centre[1], units.half[1]) == (0, 2, 2)
    actions = policy(_observations(), np.float64)
    shares = units.shares(actions)
    assert np.abs(shares).max() <= 1
    network = [(layer.matrix(), layer.bias) for layer in policy.layers]
    weight, bias = network[-1]
    network[-1] = (weight / units.half[:, None], (bias - units.centre) / units.half)
    np.testing.assert_allclose(student_policy(policy, network, 1)(_observations()), actions, rtol=1e-4, atol=1e-4)


def test_the_command_says_what_the_student_is(edgerl: Run, teacher: Path) -> None:
    quick = ("--env", "robots:robot", "--rounds", 2, "--updates", 200, "--episodes", 2)
    code, out, err = edgerl("distill", teacher, "--hidden", "8,8", "--topology", "dense", *quick)
    assert code == 0
    assert "round 2: 200 of 200 updates, 10000 states, action error" in err
    assert out.split()[3:6] == ["layers", "4-24-16-2", "4-8-8-2"] or "4-8-8-2" in out
    assert "returns over the same 2 episodes" in out
    assert "policy student.safetensors" in out
    code, out, _ = edgerl("distill", teacher, "--json", "--force", *quick)
    report = json.loads(out)
    assert code == 0
    assert report["architectures"][0] == "4-24-16-2"
    assert report["file_bytes"] == [teacher.stat().st_size, Path("student.safetensors").stat().st_size]
    assert report["connections"][1] == policy_file.load("student.safetensors").connections
    np.save("seen.npy", _observations())
    code, out, _ = edgerl("distill", teacher, "--force", "--observations", "seen.npy", "--updates", 50)
    assert "no return was measured" in out
    code, _, err = edgerl("distill", teacher, "--hidden", "8;8", *quick)
    assert (code, err.strip()) == (
        2,
        "edgerl: --hidden is '8;8'; expected whole numbers with commas, as in 256,256",
    )
