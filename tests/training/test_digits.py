"""Observations that float32 has no digits for: what is subtracted and said, and that no form of a policy loses them.

The oracle is the same robot beside the origin: whatever is learnt there must be learnt 5 800 km away, bit for bit.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

import edgerl
from edgerl.commands.export import export_policy
from edgerl.compression.prune import prune
from edgerl.edge import OnnxPolicy, Policy
from edgerl.edge.acting.robot import Robot
from edgerl.edge.continual.learner import Learner
from edgerl.edge.continual.replay import Replay
from edgerl.edge.continual.session import Schedule, Session
from edgerl.environments.make import Environment, made
from edgerl.environments.video import play
from edgerl.errors import EnvironmentError, UnsupportedModelError
from edgerl.export.c_learner.source import make_c_learner
from edgerl.policy import format as policy_file
from edgerl.profiling.budgets.model import read_model
from edgerl.profiling.measuring.bundle import policy_data
from edgerl.profiling.measuring.measure import Subject, measure_here
from edgerl.profiling.measuring.measurement import benchmark_observations, largest_difference
from edgerl.training import checkpoint as checkpoint_file
from edgerl.training import trainer
from edgerl.training.digits import DigitWatch, offset_for
from edgerl.training.handover import hand_over
from edgerl.training.logs import read_metrics
from edgerl.training.trainer import Status
from tests.export.compiled_c import Library
from tests.robots import SurveyedRobot

FAR = 5_800_000.0
ORIGIN = np.array([FAR, 0])
SMALL: dict[str, Any] = {
    "method": "td3",
    "hidden": (32, 32),
    "batch_size": 64,
    "steps": 2000,
    "start_steps": 600,
    "evaluation_interval": 1000,
    "evaluation_episodes": 5,
    "checkpoint_interval": 1000,
    "replay_capacity": 3000,
}


def _train(env: str, out: str | None = None, **options: Any) -> Path:
    return edgerl.train(f"robots:{env}", out=out or env, **({"normalize": True} | SMALL | options)).folder


# What an offset is.


def test_large_numbers_in_wide_types_get_a_whole_offset() -> None:
    first = np.array([5_800_000.3, -9999.4, 10_000.0, -10_000.6, 0.5, 1e300])
    offset = offset_for(first)
    assert offset is not None
    assert offset.dtype == np.float64
    assert offset.tolist() == [5_800_000, 0, 10_000, -10_001, 0, 0]
    counter = offset_for(np.array([3, 1 << 40]))
    assert counter is not None
    assert counter.tolist() == [0, 1 << 40]


@pytest.mark.parametrize("dtype", [np.float32, np.float16, np.int16, np.uint8, np.bool_])
def test_what_float32_holds_gets_none(dtype: Any) -> None:
    assert offset_for(np.array([60_000, 1]).astype(dtype)) is None
    assert offset_for(np.array([9999.0, -3.0])) is None


# What is said.


def _watched(values: npt.NDArray[Any], offset: npt.NDArray[Any] | None = None) -> DigitWatch:
    watch = DigitWatch(values.shape[1])
    for row in values:
        watch.observe(row, offset)
    return watch


def test_what_varies_by_less_than_float32_tells_is_named_with_what_to_do() -> None:
    values = np.random.default_rng(0).normal(size=(500, 3)) * [1, 0.2, 0.1] + [0, FAR, 1e9]
    assert _watched(values).notice(normalizes=False) == (
        f"observation 1 (and 1 more) varies by {values[:, 1].std():.2g} about 5.8e+06, where float32 has steps of 0.5: "
        "the policy can hardly see it; train with `normalize`, which subtracts an offset in float64"
    )
    still = _watched(values).notice(normalizes=True)
    assert still is not None
    assert still.endswith("; make the environment return it relative to a fixed point")
    narrow = _watched((values * [1, 20, 1]).astype(np.float32)).notice(normalizes=True)
    assert narrow is not None
    assert narrow.endswith("; make the environment return float64, and train with `normalize`")


def test_nothing_is_said_of_what_is_constant_or_seen_or_shifted() -> None:
    generator = np.random.default_rng(0)
    constant = FAR + 0.3 + 1e-9 * generator.normal(size=(500, 1))  # what rounding in float64 leaves
    seen = FAR + 3 * generator.normal(size=(500, 1))
    for values in (constant, seen, generator.normal(size=(500, 1)), np.full((500, 1), 1e300)):
        assert _watched(values).notice(normalizes=False) is None
    lost = FAR + 0.1 * generator.normal(size=(500, 1))
    assert _watched(lost).notice(normalizes=False)
    assert _watched(lost, np.array([FAR])).notice(normalizes=True) is None
    assert _watched(lost[:99]).notice(normalizes=False) is None, "a moment says nothing of a deviation"


@pytest.mark.parametrize(
    ("env", "normalize", "fix"),
    [
        ("surveyed_robot", False, "train with `normalize`, which subtracts an offset in float64"),
        ("surveyed_robot_in_float32", True, "make the environment return float64, and train with `normalize`"),
        ("surveyed_robot", True, None),
        ("near_robot", False, None),
    ],
)
def test_the_end_of_the_random_steps_tells_of_lost_digits_once(env: str, normalize: bool, fix: str | None) -> None:
    lines: list[str] = []
    _train(env, normalize=normalize, notice=lines.append, steps=640)
    found = [line for line in lines if "float32 has steps of 0.5" in line]
    assert len(found) == (fix is not None)
    assert all(line.startswith("observation 0 varies by 0.") and line.endswith(f"; {fix}") for line in found)


# What is learnt.


def _returns(folder: Path) -> list[float]:
    return [row["return_mean"] for row in read_metrics(folder)]


@pytest.mark.parametrize("engine", ["native", "torch"])
def test_far_away_the_same_is_learnt_as_beside_the_origin(engine: str) -> None:
    near, far = (_train(env, engine=engine, steps=1000) for env in ("near_robot", "surveyed_robot"))
    assert _returns(far) == _returns(near)
    states = [checkpoint_file.read(folder / "checkpoint.safetensors") for folder in (near, far)]
    for name, tensor in states[0].tensors.items():
        assert np.array_equal(states[1].tensors[name], tensor), name
    offset = states[1].policy.observation_offset
    assert offset is not None
    assert offset.tolist() == [FAR, 0]
    assert states[0].policy.observation_offset is None


def test_without_the_subtraction_the_robot_stands_where_float32_has_its_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    """What was learnt before there was an offset, and what is learnt now; a perfect return is about −0.8."""
    seen = _train("surveyed_robot", "seen")
    monkeypatch.setattr(trainer, "offset_for", lambda _: None)
    rounded, raw = _train("surveyed_robot", "rounded"), _train("surveyed_robot", "raw", normalize=False)
    assert _returns(seen)[-1] > -3
    assert _returns(rounded)[-1] < 2 * _returns(seen)[-1]
    assert _returns(raw)[-1] < 10 * _returns(seen)[-1]


def test_a_run_with_an_offset_resumes_to_the_same_bits() -> None:
    whole = _train("surveyed_robot", "whole")

    def stop(status: Status) -> None:
        if status.step == 1300:
            raise KeyboardInterrupt

    with pytest.raises(edgerl.errors.Interrupted, match=r"left at step 1300; go on from step 1000"):
        _train("surveyed_robot", "stopped", report=stop)
    resumed = edgerl.train("robots:surveyed_robot", resume="stopped").folder
    for name in ("policy.safetensors", "topology.csv"):
        assert (resumed / name).read_bytes() == (whole / name).read_bytes()
    assert _returns(resumed) == _returns(whole)


def test_an_environment_that_turns_to_float32_in_the_midst_is_refused() -> None:
    name, robot = made("robots:surveyed_robot")
    environment = Environment(name, robot)
    environment.reset(0)
    environment.offset = offset_for(environment.given)
    assert np.abs(environment.observation[0]) <= 1
    robot.dtype = np.float32
    with pytest.raises(
        EnvironmentError,
        match=r"returned float32 numbers as observation at step 1 .*; expected float64, since the policy",
    ):
        environment.step(np.zeros(1, np.float32))


# What is made of it: every form against the run beside the origin.


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """(near, far): the same run twice."""
    folder = tmp_path_factory.mktemp("runs")
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(Path(__file__).parents[1]))
        patch.chdir(folder)
        near, far = (_train(env, method="ds-td3", sparsity=0.5) for env in ("near_robot", "surveyed_robot"))
    return folder / near, folder / far


def _positions(count: int = 200) -> npt.NDArray[np.float64]:
    """Observations beside the origin, with 20 bits behind the point."""
    values: npt.NDArray[np.float64] = np.rint(np.random.default_rng(1).uniform(-1, 1, (count, 2)) * 2**20) / 2**20
    return values


def test_the_engine_onnx_and_c_act_far_away_as_beside_the_origin(runs: tuple[Path, Path], tmp_path: Path) -> None:
    near, far = (policy_file.load(folder) for folder in runs)
    seen = _positions()
    given = seen + ORIGIN
    expected = near(seen, np.float64)
    assert np.abs(expected).max() > 0.9
    assert np.abs(near(given.astype(np.float32).astype(np.float64) - ORIGIN, np.float64) - expected).max() > 0.3
    assert np.array_equal(far(given, np.float64), expected)
    export_policy(runs[1], "onnx", tmp_path / "far.onnx")
    library = Library(far, tmp_path)
    for act in (Policy.load(runs[1]), OnnxPolicy(tmp_path / "far.onnx"), lambda x: library.act(x)[1]):
        actions = np.stack([act(row) for row in given])
        assert np.abs(actions - expected).max() < 1e-5
    assert library.self_test() == 0


@pytest.mark.parametrize("precision", ["fp32", "int8"])
def test_what_is_pruned_keeps_the_offset_and_its_return(
    runs: tuple[Path, Path], precision: Any, tmp_path: Path
) -> None:
    results = [
        prune(
            folder,
            tmp_path / f"{folder.name}.safetensors",
            sparsity=0.6,
            precision=precision,
            episodes=5,
            env=f"robots:{folder.name}",
        )
        for folder in runs
    ]
    near, far = (policy_file.load(result.path) for result in results)
    assert far.observation_offset is not None
    assert np.array_equal(far(_positions() + ORIGIN), near(_positions()))
    assert results[0].returns == results[1].returns
    assert results[0].difference == results[1].difference


def test_the_file_says_what_is_subtracted(runs: tuple[Path, Path], edgerl: Callable[..., tuple[int, str, str]]) -> None:
    code, out, _ = edgerl("info", runs[1] / "policy.safetensors", "--json")
    description = json.loads(out)
    assert (code, description["observation_offset"], description["format_version"]) == (0, {"0": 5_800_000}, 2)
    _, out, _ = edgerl("info", runs[0] / "policy.safetensors", "--json")
    description = json.loads(out)
    assert (description["observation_offset"], description["format_version"]) == (None, 1)
    _, out, _ = edgerl("info", runs[1] / "policy.safetensors")
    assert re.search(r"^observation_offset\.0 +5800000$", out, re.MULTILINE)


@pytest.mark.parametrize("form", ["policy.safetensors", "policy.onnx"])
def test_run_gives_the_policy_every_digit(
    runs: tuple[Path, Path], form: str, edgerl: Callable[..., tuple[int, str, str]], tmp_path: Path
) -> None:
    """A float32 observation would be refused in every cycle, and the fallback sent."""
    export_policy(runs[1], "onnx", tmp_path / "policy.onnx")
    model = tmp_path / form if form.endswith("onnx") else runs[1] / form
    code, out, err = edgerl("run", model, "--env", "robots:surveyed_robot", "--rate", 20, "--seconds", 0.3, "--json")
    assert code == 0, err
    report = json.loads(out)
    assert report["cycles"] > 0
    assert report["fallbacks"]["inference_failed"] == 0
    assert report["last_error"] == ""


def test_profiles_price_both_forms_of_a_policy_with_an_offset(runs: tuple[Path, Path], tmp_path: Path) -> None:
    export_policy(runs[1], "onnx", tmp_path / "policy.onnx")
    near, far, graph = (read_model(path) for path in (*runs, tmp_path / "policy.onnx"))
    assert far.layers == near.layers == graph.layers
    assert far.constant_bytes == near.constant_bytes + 2 * 8
    policy = policy_file.load(runs[1])
    assert policy.observation_offset is not None
    observations = benchmark_observations(policy)
    assert np.abs(observations - policy.observation_offset).max() < 10 < observations.max()
    result = measure_here(Subject("far", "policy", "0" * 64, policy, None, tmp_path / "policy.onnx"))
    assert {one.runtime for one in result.measurements} == {"native", "onnxruntime"}
    for one in result.measurements:
        assert largest_difference(one, policy) < 1e-5
    assert policy_data(policy, "0" * 64) == policy_data(policy.without_offset, "0" * 64)


def test_a_film_shows_the_same_episode(runs: tuple[Path, Path]) -> None:
    films = [
        play(Policy.load(folder), f"robots:{folder.name}", f"{folder.name}.gif", steps=12, width=96, height=64, seed=2)
        for folder in runs
    ]
    assert films[0].episodes == films[1].episodes


def test_the_policy_that_fits_a_board_is_the_same(runs: tuple[Path, Path], tmp_path: Path) -> None:
    found = [
        edgerl.fit(
            folder,
            "stm32f405",
            tmp_path / f"{folder.name}.safetensors",
            max_loss=0.5,
            episodes=4,
            env=f"robots:{folder.name}",
        )
        for folder in runs
    ]
    near, far = (policy_file.load(tmp_path / f"{folder.name}.safetensors") for folder in runs)
    assert len(found) == 2
    assert far.observation_offset is not None
    assert near.metadata["fit"]["return"] == far.metadata["fit"]["return"]
    assert np.array_equal(far(_positions() + ORIGIN), near(_positions()))


def test_a_device_goes_on_learning_far_away_as_beside_the_origin(runs: tuple[Path, Path], tmp_path: Path) -> None:
    states = []
    for folder, far in zip(runs, (0.0, FAR), strict=True):
        bundle = tmp_path / f"{folder.name}.safetensors"
        report = hand_over(folder, bundle, memory=1 << 22)
        assert report.seed > 0
        learner = Learner.load(bundle)
        robot = Robot("cart", SurveyedRobot(far), 2, 1)
        session = Session(learner, robot, Schedule(rate_hz=0))
        count = 0

        def step(action: Any, _step: Any = robot.step, session: Session = session) -> Any:
            nonlocal count
            count += 1
            if count == 300:
                session.stop()
            return _step(action)

        robot.step = step  # type: ignore[method-assign]
        status = session.run()
        assert (status["refused_observations"], status["refused_transitions"]) == (0, 0)
        layers = [layer for network in learner.challenger.arena.layers for layer in network]
        states.append((status["steps"], status["updates"], [layer.weight.tobytes() for layer in layers]))
        learner.close()
    assert states[0] == states[1]
    assert states[0][1] > 300


def test_a_learner_in_c_refuses_an_offset_in_one_line(runs: tuple[Path, Path], tmp_path: Path) -> None:
    hand_over(runs[1], tmp_path / "learner.safetensors")
    with pytest.raises(
        UnsupportedModelError, match=r"learner\.safetensors has an observation offset, which a learner in C does not"
    ):
        make_c_learner(tmp_path / "learner.safetensors")


def test_the_replay_holds_what_is_left_after_the_subtraction(runs: tuple[Path, Path]) -> None:
    rows = []
    for folder in runs:
        count = checkpoint_file.read(folder / "checkpoint.safetensors").counters.replay_count
        replay = Replay.open_recorded(folder / "replay.bin", count)
        rows.append(replay.rows(np.arange(replay.size)).copy())
        replay.close()
    assert np.array_equal(rows[0], rows[1])
