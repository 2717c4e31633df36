"""Whole runs: what they leave behind, that they resume to the same bits, and how they refuse what they cannot do."""

from __future__ import annotations

import csv
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import edgerl
from edgerl.edge.continual.replay import Replay
from edgerl.errors import CheckFailed, ConfigError, EnvironmentError, FileFormatError, MissingExtraError, OutputError
from edgerl.policy import format as policy_file
from edgerl.training import checkpoint as checkpoint_file
from edgerl.training.logs import read_metrics
from tests.processes import Processes

SMALL: dict[str, Any] = {
    "hidden": (16, 16),
    "batch_size": 8,
    "steps": 400,
    "start_steps": 30,
    "evaluation_interval": 100,
    "evaluation_episodes": 2,
    "checkpoint_interval": 60,
    "replay_capacity": 90,  # the replay wraps round four times
    "evolution_interval": 20,
}
ENGINES = ("native", "torch")
each_engine = pytest.mark.parametrize("engine", ENGINES)
TIMES = {"elapsed_seconds"}
PATHS = (Path(__file__).parents[2], Path(__file__).parents[1])
"""Where a child process finds edgerl and the robots."""


def _train(out: str, env: str = "robots:robot", **options: Any) -> Path:
    return edgerl.train(env, out=out, **(SMALL | options)).folder


def _state(folder: Path) -> tuple[dict[str, bytes], dict[str, Any], bytes, list[dict[str, float]]]:
    """Everything a run determines: tensors, counters, the policy file and topology.csv, metrics without times."""
    checkpoint = checkpoint_file.read(folder / "checkpoint.safetensors")
    tensors = {name: array.tobytes() for name, array in checkpoint.tensors.items()}
    counters = {k: v for k, v in vars(checkpoint.counters).items() if k not in TIMES}
    rows = [{k: v for k, v in row.items() if k not in TIMES} for row in read_metrics(folder)]
    files = b"".join((folder / name).read_bytes() for name in ("policy.safetensors", "topology.csv"))
    return tensors, counters, files, rows


def _replay_rows(folder: Path) -> bytes:
    count = checkpoint_file.read(folder / "checkpoint.safetensors").counters.replay_count
    replay = Replay.open_recorded(folder / "replay.bin", count)
    batch = replay.sample(np.arange(replay.size), 0.99)
    return b"".join(np.ascontiguousarray(part).tobytes() for part in vars(batch).values())


def _weights(folder: Path) -> list[bytes]:
    return [layer.values.tobytes() for layer in policy_file.load(folder / "policy.safetensors").layers]


def test_a_run_leaves_what_its_folder_promises() -> None:
    result = edgerl.train("robots:robot", **SMALL)
    assert sorted(p.name for p in result.folder.iterdir() if "tfevents" not in p.name) == [
        "checkpoint.safetensors",
        "config.json",
        "metrics.csv",
        "policy.safetensors",
        "replay.bin",
        "topology.csv",
        "versions.json",
    ]
    assert Path("runs/latest").resolve() == result.folder.resolve()
    assert result.steps == 400
    assert len(list(result.folder.glob("events.out.tfevents.*"))) == 1
    policy = policy_file.load(result.policy)
    assert (policy.n_observations, policy.n_actions) == (4, 2)
    assert policy.action_low.tolist() == [-1, -3]
    assert policy.action_high.tolist() == [2, 0.5]
    assert policy.metadata["environment"] == "robots:robot"
    assert policy.metadata["step"] == 400
    np.testing.assert_allclose(policy(policy.example_observation), policy.example_action, atol=1e-6)


@each_engine
def test_metrics_have_the_connections_of_every_layer_and_they_stay_constant(engine: str) -> None:
    folder = _train("run", engine=engine)
    with (folder / "metrics.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [row["step"] for row in rows] == ["100", "200", "300", "400"]
    assert [row["updates"] for row in rows] == ["70", "170", "270", "370"]
    for name in ("actor", "critic_1", "critic_2"):
        for layer in range(3):
            online = {row[f"connections.{name}.{layer}"] for row in rows}
            target = {row[f"target_connections.{name}.{layer}"] for row in rows}
            assert len(online) == 1
            assert online == target
    shares = [float(row["share_ever_active.actor"]) for row in rows]
    assert shares == sorted(shares)
    assert shares[0] < shares[-1] <= 1


def test_a_layer_that_cannot_evolve_is_named_at_the_start() -> None:
    lines: list[str] = []
    options = {"hidden": (40, 1), "sparsity": 0.98, "distribution": "uniform", "output_layer": "sparse", "steps": 40}
    _train("tiny", notice=lines.append, **options)
    # The actor's 4-40-1-2 has 3 connections, 1 and 1 (rounded up from 0); the critics' 6-40-1-1 have 5, 1 and 1.
    found = [line for line in lines if "topology" in line]
    assert len(found) == 1
    assert found[0].startswith(
        "layer 2 of the actor, layer 3 of the actor, layer 2 of the critics keep their topology: drop and grow need "
    )
    for quiet in ({"method": "static-td3"}, {"drop_fraction": 0.0}, {"hidden": (16, 16), "sparsity": 0.5}):
        lines.clear()
        _train(f"quiet-{'-'.join(quiet)}", notice=lines.append, **(options | quiet))
        assert not any("topology" in line for line in lines)


@each_engine
def test_small_layers_evolve_in_a_run(engine: str) -> None:
    """At the paper's ζ a twentieth of so few weights rounds to none."""
    folder = _train("small", hidden=(8, 8), sparsity=0.6, evolution_interval=10, steps=300, engine=engine)
    tensors = checkpoint_file.read(folder / "checkpoint.safetensors").tensors
    for name, mask in tensors.items():
        if name.endswith(".mask"):
            assert not np.array_equal(mask, tensors[name.replace(".mask", ".ever_active")]), f"{name} never changed"


def test_events_hold_the_numbers_of_metrics() -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    folder = _train("run")
    events = EventAccumulator(str(folder)).Reload()
    expected = [(int(row["step"]), row["return_mean"]) for row in read_metrics(folder)]
    found = [(event.step, event.value) for event in events.Scalars("return_mean")]
    assert [step for step, _ in found] == [step for step, _ in expected]
    np.testing.assert_allclose([v for _, v in found], [v for _, v in expected], rtol=1e-6)


def test_success_rates_are_in_metrics_and_events_and_in_the_result() -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    result = edgerl.train("robots:goal_robot", out="goal", env_args={"near": 1e9}, **SMALL)
    assert [row["success_rate"] for row in read_metrics(result.folder)] == [1, 1, 1, 1]
    assert (result.final_success_rate, result.final_evaluations) == (1, 4)
    events = EventAccumulator(str(result.folder)).Reload()
    assert [(event.step, event.value) for event in events.Scalars("success_rate")] == [
        (100 * i, 1) for i in range(1, 5)
    ]
    never = edgerl.train("robots:goal_robot", out="never", env_args={"near": 0.0}, **SMALL)
    assert never.final_success_rate == 0
    silent = edgerl.train("robots:robot", out="silent", **SMALL)
    assert silent.final_success_rate is None
    assert all("success_rate" not in row for row in read_metrics(silent.folder))
    assert "success_rate" not in EventAccumulator(str(silent.folder)).Reload().Tags()["scalars"]


@each_engine
def test_the_same_seed_gives_the_same_bits_and_another_seed_does_not(engine: str) -> None:
    first, second, other = (_train(out, seed=seed, engine=engine) for out, seed in (("a", 0), ("b", 0), ("c", 1)))
    assert _state(first) == _state(second)
    assert _state(first)[0] != _state(other)[0]


@each_engine
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"normalize": True},
        {"n_step": 3, "env": "robots:terminating_robot"},
        {"block": 4, "growth": "gradient"},
        {"policy": "best"},
        {"method": "static-td3"},
        {"method": "td3"},
    ],
    ids=lambda options: "-".join(map(str, options)) or "paper",
)
def test_a_stopped_run_resumes_to_the_same_bits(options: dict[str, Any], engine: str) -> None:
    options = options | {"engine": engine}
    whole = _train("whole", **options)

    def stop(status: Any) -> None:
        if status.step == 200:
            os.kill(os.getpid(), signal.SIGTERM)

    environment = options.get("env", "robots:robot")
    own = {k: v for k, v in options.items() if k != "env"}
    with pytest.raises(
        edgerl.errors.Interrupted, match=f"go on with: edgerl train --resume stopped --env {environment}$"
    ) as stopped:
        edgerl.train(environment, out="stopped", report=stop, **(SMALL | own))
    assert stopped.value.exit_code == 128 + signal.SIGTERM
    edgerl.train(environment, resume="stopped")
    assert _state(Path("stopped")) == _state(whole)
    assert _replay_rows(Path("stopped")) == _replay_rows(whole)


def test_an_unfinished_run_resumes_through_the_link_to_the_newest() -> None:
    def stop(status: Any) -> None:
        if status.step == 200:
            os.kill(os.getpid(), signal.SIGINT)

    with pytest.raises(edgerl.errors.Interrupted, match="resume runs/robots-robot-ds-td3-seed0"):
        edgerl.train("robots:robot", report=stop, **SMALL)
    assert edgerl.train("robots:robot", resume="runs/latest").steps == 400
    assert Path("runs/latest").readlink() == Path("robots-robot-ds-td3-seed0")
    assert _state(Path("runs/latest")) == _state(_train("whole"))


def test_a_signal_is_answered_at_once_in_words() -> None:
    notices: list[str] = []

    def stop(status: Any) -> None:
        if status.step == 100:
            os.kill(os.getpid(), signal.SIGINT)

    with pytest.raises(edgerl.errors.Interrupted, match="stopped at step"):
        edgerl.train("robots:robot", out="run", report=stop, notice=notices.append, **SMALL)
    assert notices[-1].startswith("stopping at the episode's end, in 25 s at the latest, with everything saved; press")


def test_a_lost_policy_is_written_again() -> None:
    folder = _train("run")
    before = (folder / "policy.safetensors").read_bytes()
    (folder / "policy.safetensors").unlink()
    edgerl.train("robots:robot", resume=folder)
    assert (folder / "policy.safetensors").read_bytes() == before


@each_engine
def test_divergence_ends_a_run_and_keeps_the_last_good_checkpoint(engine: str, monkeypatch: pytest.MonkeyPatch) -> None:
    import robots

    monkeypatch.setattr(robots.BrokenRobot, "step", lambda self, action: (*_huge(robots.Robot.step(self, action)),))

    def _huge(result: tuple[Any, ...]) -> tuple[Any, ...]:
        return (result[0], 3e38, *result[2:])

    with pytest.raises(
        CheckFailed,
        match=r"training diverged: .* is not finite at step \d+; the checkpoint of step 74 is kept; rewards reach "
        r"3e\+38 and observations \S+: scale the rewards down",
    ):
        edgerl.train("robots:nan_reward_robot", out="run", engine=engine, **(SMALL | {"start_steps": 100}))
    assert checkpoint_file.read(Path("run/checkpoint.safetensors")).counters.step == 74


def test_a_real_folder_in_the_place_of_the_link_is_refused_before_training() -> None:
    done = edgerl.train("robots:robot", **SMALL).folder
    (done / "checkpoint.safetensors").unlink()
    Path("runs/latest").unlink()
    Path("runs/latest").mkdir()
    for arguments in ({"env": "robots:robot", **SMALL}, {"env": "robots:robot", "resume": done}):
        with pytest.raises(OutputError, match=r"runs/latest is a link to the newest run, and nothing else"):
            edgerl.train(**arguments)
    assert sorted(path.name for path in Path("runs").iterdir()) == ["latest", done.name]


def test_a_run_cannot_be_called_latest() -> None:
    with pytest.raises(OutputError, match=r"runs/latest is a link to the newest run, and nothing else"):
        _train("runs/latest")
    assert not Path("runs").exists()


def test_resuming_a_complete_run_changes_nothing() -> None:
    folder = _train("run")
    before = _state(folder)
    assert edgerl.train("robots:robot", resume=folder).steps == 400
    assert _state(folder) == before


@each_engine
def test_a_run_without_a_checkpoint_resumes_from_its_start(engine: str) -> None:
    whole = _train("whole", engine=engine)
    _train("early", engine=engine)
    (Path("early") / "checkpoint.safetensors").unlink()
    edgerl.train("robots:robot", resume="early")
    assert _state(Path("early")) == _state(whole)


def test_a_run_killed_outright_resumes_to_the_same_bits(processes: Processes) -> None:
    kill_and_resume(processes, kills=2, seed=1)


_SERVER = """
import json, os, sys, time
from pathlib import Path
import edgerl, edgerl.training.trainer

parent = os.getpid()

def report(status):
    while status.step >= 800 and Path("held").exists() and os.getppid() == parent:
        time.sleep(0.01)

print("ready", flush=True)
for line in sys.stdin:
    child = os.fork()
    if child == 0:
        os.write(1, b"pid %d\\n" % os.getpid())
        edgerl.train(**json.loads(line), report=report, notice=lambda text: os.write(1, text.encode() + b"\\n"))
        os._exit(0)
    _, status = os.waitpid(child, 0)
    print("end", os.waitstatus_to_exitcode(status), flush=True)
"""
"""A process that has all modules loaded and makes a new one for each piece of a run. However fast the machine is, the
run does not end as long as there is a file `held`."""


def kill_and_resume(processes: Processes, kills: int, seed: int, **options: Any) -> None:
    """SIGKILL a run at random moments, resume it each time, and compare it with the uninterrupted one."""
    generator = np.random.default_rng(seed)
    options = SMALL | {"steps": 900, "seed": seed} | options
    whole = _train("whole", **options)
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(map(str, PATHS)), "OMP_NUM_THREADS": "1"}
    pipes: dict[str, Any] = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True, "bufsize": 1}
    server = processes.start(sys.executable, "-c", _SERVER, env=environment, **pipes)
    assert server.stdin is not None
    assert server.stdout is not None
    lines = iter(server.stdout.readline, "")
    assert next(lines) == "ready\n"
    Path("held").touch()
    server.stdin.write(json.dumps({"env": "robots:slow_robot", "out": "killed", **options}) + "\n")
    for _ in range(kills):
        pid = int(next(lines).removeprefix("pid "))
        assert next(lines).startswith("run folder killed"), "it runs now"
        time.sleep(generator.uniform(0, 0.5))
        os.kill(pid, signal.SIGKILL)
        while not (line := next(lines)).startswith("end"):
            pass  # a notice
        assert line == f"end {-signal.SIGKILL}\n", "it was killed while it ran"
        server.stdin.write(json.dumps({"env": "robots:slow_robot", "resume": "killed"}) + "\n")
    Path("held").unlink()
    server.stdin.close()
    assert [*lines][-1] == "end 0\n"
    server.stdout.close()
    server.wait()
    tensors, counters, _, rows = _state(whole)
    killed_tensors, killed_counters, _, killed_rows = _state(Path("killed"))
    assert killed_tensors == tensors
    assert killed_counters == counters
    assert _weights(Path("killed")) == _weights(whole)
    assert killed_rows == rows
    assert _replay_rows(Path("killed")) == _replay_rows(whole)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_second_signal_leaves_at_once_with_the_last_checkpoint(number: signal.Signals) -> None:
    def stop_twice(status: Any) -> None:
        if status.step == 300:
            os.kill(os.getpid(), number)
            os.kill(os.getpid(), number)

    with pytest.raises(edgerl.errors.Interrupted, match=r"left at step 300; go on from step 296 with: ") as left:
        edgerl.train("robots:robot", out="run", report=stop_twice, **SMALL)
    assert left.value.exit_code == 128 + number
    assert checkpoint_file.read(Path("run/checkpoint.safetensors")).counters.step == 296
    assert edgerl.train("robots:robot", resume="run").steps == 400, "and its lock is free"


def test_an_endless_episode_is_cut_at_its_own_limit_alone() -> None:
    notices: list[str] = []
    options = SMALL | {"steps": 200, "max_episode_steps": 70}
    folder = edgerl.train("robots:endless_robot", out="run", notice=notices.append, **options).folder
    counters = checkpoint_file.read(folder / "checkpoint.safetensors").counters
    assert counters.episode == 3  # 70 + 70 + 60
    cuts = [notice for notice in notices if "are cut after 70 steps; another limit: `max_episode_steps`" in notice]
    assert len(cuts) == 1, "it is said, once"


def test_actions_are_scaled_to_unequal_bounds_once(monkeypatch: pytest.MonkeyPatch) -> None:
    import robots

    seen: list[np.ndarray] = []
    step = robots.Robot.step
    monkeypatch.setattr(robots.Robot, "step", lambda self, action: (seen.append(action), step(self, action))[1])
    folder = _train("run", steps=300, start_steps=250, evaluation_interval=1000)
    # 300 training steps; the probe and the final evaluation come before and after.
    actions = np.array(seen)
    low, high = np.array([-1, -3]), np.array([2, 0.5])
    assert (actions >= low).all()
    assert (actions <= high).all()
    first_random = np.array(seen[40:290])  # after the probe's 2 × 20
    assert (first_random.min(axis=0) < low + 0.05 * (high - low)).all()
    assert (first_random.max(axis=0) > high - 0.05 * (high - low)).all()
    replay = Replay.open_recorded(folder / "replay.bin", 300)
    stored = replay.sample(np.arange(replay.size), 0.99).actions
    assert np.abs(stored).max() <= 1
    expected = (np.array(seen[40:340])[-replay.size :] - low) / (high - low) * 2 - 1
    np.testing.assert_allclose(stored, expected, atol=1e-6)


@each_engine
def test_denormals_are_flushed_while_a_run_lasts_and_not_after(engine: str) -> None:
    import torch

    def product(_: Any = None) -> float:
        return float(torch.tensor([1e-20]) * torch.tensor([1e-20]))

    during: list[float] = []
    edgerl.train("robots:robot", engine=engine, report=lambda status: during.append(product(status)), **SMALL)
    assert during
    assert set(during) == {0.0}
    assert product() > 0


def test_every_evaluation_uses_the_same_episodes() -> None:
    """A policy that never learns is evaluated to the same return each time."""
    rows = read_metrics(_train("run", start_steps=399))
    assert len({row["return_mean"] for row in rows}) == 1


def test_normalisation_is_part_of_the_policy() -> None:
    policy = policy_file.load(_train("run", normalize=True) / "policy.safetensors")
    assert policy.observation_mean is not None
    assert policy.observation_scale is not None
    assert (policy.observation_scale > 0).all()


@each_engine
def test_the_best_policy_is_kept_when_asked_for(engine: str) -> None:
    folder = _train("run", policy="best", engine=engine)
    rows = read_metrics(folder)
    best = max(rows, key=lambda row: row["return_mean"])
    policy = policy_file.load(folder / "policy.safetensors")
    assert policy.metadata["step"] == best["step"]
    assert policy.metadata["evaluation_return"] == pytest.approx(best["return_mean"], rel=1e-8)


@pytest.mark.parametrize("task", ["HalfCheetah-v5", "Hopper-v5", "Walker2d-v5", "Ant-v5", "Humanoid-v5"])
def test_the_five_tasks_train_at_the_papers_setting(task: str, capfd: pytest.CaptureFixture[str]) -> None:
    expected = {
        "HalfCheetah-v5": 106169,
        "Hopper-v5": 105233,
        "Walker2d-v5": 106169,
        "Ant-v5": 144824,
        "Humanoid-v5": 215774,
    }
    options = {"steps": 60, "start_steps": 50, "evaluation_episodes": 1, "replay_capacity": 1000}
    result = edgerl.train(task, **options)
    row = read_metrics(result.folder)[-1]
    assert sum(value for name, value in row.items() if name.startswith("connections.")) == expected[task]
    assert not Path("MUJOCO_LOG.TXT").exists()
    assert capfd.readouterr().err == ""


def test_an_environment_that_its_seed_does_not_determine_is_named() -> None:
    notices: list[str] = []
    edgerl.train("robots:forgetful_robot", notice=notices.append, **SMALL)
    assert any("robots:forgetful_robot does not restart from its seed alone" in notice for notice in notices)


@pytest.mark.parametrize(
    ("environment", "message"),
    [
        (
            "robots:nan_reward_robot",
            r"robots:nan_reward_robot returned reward nan at step 5 \(seed \d+\); expected a finite number",
        ),
        (
            "robots:infinite_observation_robot",
            r"returned inf in observation 2 at step 5 \(seed \d+\); expected finite numbers",
        ),
    ],
)
def test_an_environment_that_breaks_is_named_and_leaves_no_run(environment: str, message: str) -> None:
    with pytest.raises(EnvironmentError, match=message):
        edgerl.train(environment, **SMALL)
    assert not Path("runs").exists()


@pytest.mark.parametrize("out", [None, "a/b/c"])
def test_an_environment_that_breaks_before_the_first_checkpoint_leaves_nothing(out: str | None) -> None:
    Path("mine").mkdir()
    with pytest.raises(
        EnvironmentError,
        match=r"robots:late_robot returned reward nan at step 6 .* \(step 6 of the run, in episode 1\); to end",
    ):
        edgerl.train("robots:late_robot", out=out, **SMALL)
    assert [path.name for path in Path().iterdir()] == ["mine"]


def test_an_empty_folder_of_the_users_is_left(monkeypatch: pytest.MonkeyPatch) -> None:
    del monkeypatch
    Path("runs").mkdir()
    with pytest.raises(EnvironmentError, match="returned reward nan"):
        edgerl.train("robots:late_robot", **SMALL)
    assert list(Path("runs").iterdir()) == []


@each_engine
def test_a_critic_that_diverges_before_a_checkpoint_is_not_saved(engine: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """And a policy that hides it: the state itself is looked at."""
    from edgerl.algorithms.native import NativeAgent
    from edgerl.algorithms.td3 import Agent

    kind: Any = NativeAgent if engine == "native" else Agent
    learn = kind.learn

    def spoil(self: Any, *arguments: Any) -> None:
        learn(self, *arguments)
        if self.updates == 100 and engine == "native":
            self.arena.layers[2][1].bias[0] = np.nan
        elif self.updates == 100:
            self.critics[1].online.biases[1].data[0] = np.nan

    monkeypatch.setattr(kind, "learn", spoil)
    monkeypatch.setattr(kind, "act", lambda *_: np.zeros(2, np.float32))
    with pytest.raises(CheckFailed, match=r"diverged: (\w+\.\d.*|a loss or a gradient) is not finite at step 148"):
        edgerl.train("robots:robot", out="run", engine=engine, **SMALL)
    assert checkpoint_file.read(Path("run/checkpoint.safetensors")).counters.step == 74


# Which engine trains.


def _engine_of(folder: Path) -> str:
    return str(json.loads((folder / "config.json").read_text())["engine"])


@pytest.fixture
def _without_the_native_engine(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[None]:
    from edgerl.edge.engine import library

    library.library.cache_clear()
    monkeypatch.setattr(library, "LIBRARY", tmp_path / "absent.so")
    yield
    library.library.cache_clear()


def test_auto_is_the_native_engine_on_the_cpu() -> None:
    notices: list[str] = []
    folder = edgerl.train("robots:robot", notice=notices.append, **SMALL).folder
    assert _engine_of(folder) == "native"
    assert not any("PyTorch" in notice for notice in notices)
    assert _state(folder) == _state(_train("same", engine="native"))
    assert _state(folder)[0] != _state(_train("other", engine="torch"))[0]


@pytest.mark.usefixtures("_without_the_native_engine")
def test_auto_is_torch_without_the_native_engine_and_says_so_in_one_line() -> None:
    notices: list[str] = []
    folder = edgerl.train("robots:robot", notice=notices.append, **SMALL).folder
    assert _engine_of(folder) == "torch"
    told = [notice for notice in notices if "PyTorch" in notice]
    assert len(told) == 1
    assert told[0].startswith("training with PyTorch instead, which is slower: the native engine is missing:")
    assert "apt-get install gcc" in told[0]
    assert "\n" not in told[0]
    assert _state(folder) == _state(_train("same", engine="torch"))


@pytest.mark.usefixtures("_without_the_native_engine")
def test_the_native_engine_asked_for_and_missing_is_refused_and_leaves_nothing() -> None:
    with pytest.raises(MissingExtraError, match=r"^the native engine is missing: edgerl was installed without a C"):
        _train("run", engine="native")
    assert not Path("run").exists()


def test_a_native_run_resumed_without_the_native_engine_is_refused_and_stays_as_it_is(
    request: pytest.FixtureRequest,
) -> None:
    folder = _train("run", engine="native", steps=200)
    before = _state(folder)
    request.getfixturevalue("_without_the_native_engine")
    with pytest.raises(MissingExtraError, match="the native engine is missing"):
        edgerl.train("robots:robot", resume=folder)
    assert _state(folder) == before


def test_auto_is_torch_on_cuda() -> None:
    from edgerl.algorithms.engine import with_engine
    from edgerl.config import make_config

    notices: list[str] = []
    assert with_engine(make_config(device="cuda"), notices.append).engine == "torch"
    assert with_engine(make_config(), notices.append).engine == "native"
    assert with_engine(make_config(engine="torch"), notices.append).engine == "torch"
    assert notices == []


@pytest.mark.parametrize(
    ("isa", "message"),
    [
        ("avx3", r"^EDGERL_ISA is 'avx3'; expected naive, baseline, avx2, avx512; did you mean avx2\?$"),
        ("AVX2\n", r"^EDGERL_ISA is 'AVX2\\n'; expected naive, baseline, avx2, avx512"),
    ],
)
def test_an_instruction_set_that_does_not_exist_is_refused_and_leaves_nothing(
    isa: str, message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("EDGERL_ISA", isa)
    with pytest.raises(ConfigError, match=message):
        _train("run")
    assert not Path("run").exists()
    assert _engine_of(_train("run", engine="torch")) == "torch", "which has no instruction set to choose"


def test_a_damaged_native_state_is_refused() -> None:
    """Its checksum is right: whoever made the file meant it."""
    from dataclasses import replace

    path = _train("run", engine="native") / "checkpoint.safetensors"
    checkpoint = checkpoint_file.read(path)
    moment = checkpoint.tensors["critic_1.1.weight_second_moment"].copy()
    moment[3] = -1
    spoiled = checkpoint.tensors | {"critic_1.1.weight_second_moment": moment}
    checkpoint_file.write(path, replace(checkpoint, tensors=spoiled))
    with pytest.raises(FileFormatError, match=r"checkpoint\.safetensors is not valid: the learner: .*; train again$"):
        edgerl.train("robots:robot", resume="run")


def test_the_engines_begin_and_evaluate_alike() -> None:
    """The same weights before the first update: the same returns."""
    rows = {engine: read_metrics(_train(engine, engine=engine, start_steps=399)) for engine in ENGINES}
    for native, torch in zip(rows["native"], rows["torch"], strict=True):
        assert native["return_mean"] == pytest.approx(torch["return_mean"], rel=1e-5)
        assert native["connections.critic_2.1"] == torch["connections.critic_2.1"]


def test_a_disk_too_small_for_the_replay_says_so_before_training() -> None:
    script = (
        "import resource, edgerl\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))\n"
        "try:\n    edgerl.train('robots:robot', replay_capacity=1_000_000, steps=50)\n"
        "except edgerl.errors.OutputError as error:\n    print(error)\n"
    )
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(map(str, PATHS))}
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, env=environment)
    assert "cannot" in done.stdout, done.stderr
    assert "replay.bin" in done.stdout
    assert not Path("runs").exists()


def test_metrics_on_a_full_disk_are_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    from edgerl.training.logs import MetricsLog

    def full(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(MetricsLog, "_add_events", full)
    with pytest.raises(OutputError, match=r"cannot write .*metrics\.csv or the events beside it: No space left"):
        _train("run")


def test_events_on_a_full_disk_are_one_line(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> None:
    """TensorBoard's own writer has a thread, which prints a traceback of its own."""
    opened = Path.open

    def open_on_full_disk(self: Path, *arguments: Any, **options: Any) -> Any:
        return opened(Path("/dev/full") if "tfevents" in self.name else self, *arguments, **options)

    monkeypatch.setattr(Path, "open", open_on_full_disk)
    with pytest.raises(
        OutputError, match=r"^cannot write \S*run/metrics\.csv or the events beside it: No space left on"
    ):
        _train("run")
    assert capfd.readouterr().err == ""


def test_what_a_killed_write_left_is_swept() -> None:
    folder = _train("run")
    (folder / ".edgerl-0123abcd.tmp").write_bytes(b"half")
    edgerl.train("robots:robot", resume=folder)
    assert not list(folder.glob(".*"))


def test_a_checkpoint_that_fails_leaves_the_link_at_the_last_good_run(monkeypatch: pytest.MonkeyPatch) -> None:
    good = edgerl.train("robots:robot", **SMALL).folder

    def fail(*_: Any) -> None:
        raise OutputError("disk full")

    monkeypatch.setattr(checkpoint_file, "write", fail)
    with pytest.raises(OutputError, match="disk full"):
        edgerl.train("robots:robot", **SMALL)
    assert Path("runs/latest").resolve() == good.resolve()
    assert sorted(path.name for path in Path("runs").iterdir()) == ["latest", good.name]


def test_an_existing_folder_is_never_written_into() -> None:
    Path("there").mkdir()
    with pytest.raises(OutputError, match="there exists already; go on with `resume` there, or choose another `out`"):
        _train("there")
    assert list(Path("there").iterdir()) == []


def test_default_folders_never_collide() -> None:
    folders = [edgerl.train("robots:robot", **(SMALL | {"steps": 40})).folder for _ in range(2)]
    assert [f.name for f in folders] == ["robots-robot-ds-td3-seed0", "robots-robot-ds-td3-seed0-2"]


def test_an_environment_whose_bounds_were_changed_since_is_not_the_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    import gymnasium
    import robots

    edgerl.train("robots:robot", out="run", **SMALL)
    wider = gymnasium.spaces.Box(np.array([-1, -3], np.float32), np.array([4, 0.5], np.float32))
    monkeypatch.setattr(robots.Robot, "action_space", wider)
    found = r"gives actions number 0 from -1 to 2, and robots:robot takes actions number 0 from -1 to 4"
    with pytest.raises(EnvironmentError, match=found):
        edgerl.train("robots:robot", resume="run", steps=SMALL["steps"] + 50)
    with pytest.raises(EnvironmentError, match=found):
        edgerl.prune("run", env="robots:robot", episodes=1)
    edgerl.prune("run", episodes=0)


def test_resume_takes_no_other_option() -> None:
    with pytest.raises(
        ConfigError, match="`resume` takes everything from the run but `steps` and `env`; leave out all"
    ):
        edgerl.train(resume="run", seed=3)


def test_a_folder_that_is_no_run_cannot_be_resumed() -> None:
    Path("run").mkdir()
    with pytest.raises(FileFormatError, match=r"run is not a run folder .*name one that train made"):
        edgerl.train("robots:robot", resume="run")


@pytest.mark.parametrize("damage", ["truncate", "flip"])
def test_a_damaged_checkpoint_is_refused(damage: str) -> None:
    path = _train("run") / "checkpoint.safetensors"
    data = bytearray(path.read_bytes())
    if damage == "flip":
        data[-100] ^= 1
    path.write_bytes(data[:-1] if damage == "truncate" else data)
    with pytest.raises(FileFormatError, match=r"(has been altered|is not an edgerl tensor file)"):
        edgerl.train("robots:robot", resume="run")


def test_a_changed_configuration_is_refused() -> None:
    path = _train("run") / "config.json"
    path.write_text(path.read_text().replace('"seed": 0', '"seed": 1'))
    with pytest.raises(FileFormatError, match=r"is of another configuration than .*config\.json; restore that file"):
        edgerl.train("robots:robot", resume="run")


def test_a_shortened_replay_is_refused() -> None:
    path = _train("run", steps=200) / "replay.bin"
    with path.open("r+b") as file:
        file.truncate(path.stat().st_size - 4)
    with pytest.raises(FileFormatError, match=r"replay\.bin is not this run's replay memory, or is truncated"):
        edgerl.train("robots:robot", resume="run")


def test_lost_metrics_are_refused() -> None:
    path = _train("run") / "metrics.csv"
    whole = path.read_text()
    path.write_text(whole[:-2])  # of the last number, a digit
    with pytest.raises(FileFormatError, match=r"metrics\.csv has 3 whole rows; the checkpoint counts on 4"):
        edgerl.train("robots:robot", resume="run")
    path.write_text("".join(whole.splitlines(keepends=True)[:2]))
    with pytest.raises(FileFormatError, match=r"metrics\.csv has 1 whole rows; the checkpoint counts on 4; restore"):
        edgerl.train("robots:robot", resume="run")


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("step,", "steps,", r"metrics\.csv has other columns than this run"),
        ("step,", "faults,", r"metrics\.csv has other columns than this run"),
        ("100,", "a,", r"metrics\.csv holds something that is not a number \(could not convert string to float: 'a'\)"),
        ("100,", ",", r"metrics\.csv has a row without a step; restore the file"),
        ("100,", "inf,", r"metrics\.csv has a row without a step; restore the file"),
    ],
)
def test_damaged_metrics_are_refused(old: str, new: str, message: str) -> None:
    path = _train("run", steps=200) / "metrics.csv"
    text = path.read_text()
    path.write_text(text.replace(old, new, 1))
    with pytest.raises(FileFormatError, match=message):
        edgerl.train("robots:robot", resume="run")


def test_metrics_of_an_earlier_version_go_on_with_the_columns_of_this_one() -> None:
    """0.1.0 had three columns less, and in another order: its rows are kept, empty where it did not measure."""
    whole = _train("whole")

    def stop(status: Any) -> None:
        if status.step == 200:
            os.kill(os.getpid(), signal.SIGINT)

    with pytest.raises(edgerl.errors.Interrupted, match="go on with"):
        edgerl.train("robots:robot", out="run", report=stop, **SMALL)
    new = ("success_rate", "training_return_mean", "faults")
    path = Path("run/metrics.csv")
    with path.open(newline="") as file:
        rows = list(csv.DictReader(file))
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, [name for name in sorted(rows[0]) if name not in new])
        writer.writeheader()
        writer.writerows({name: value for name, value in row.items() if name not in new} for row in rows)
    edgerl.train("robots:robot", resume="run")
    expected = [
        {name: value for name, value in row.items() if row["step"] > 200 or name not in new} for row in _state(whole)[3]
    ]
    assert _state(Path("run"))[3] == expected
    header = (whole / "metrics.csv").read_text().splitlines()[0]
    assert path.read_text().splitlines()[0] == header
    from edgerl.report import sources

    table = sources.read([Path("run")]).runs[0].metrics
    assert np.isnan(table["faults"]).tolist() == [True, True, False, False]


def test_a_run_is_in_one_process_at_a_time() -> None:
    folder = _train("run")
    held = Replay(folder / "replay.bin", 4, 2, 90, slack=120, count=400)
    try:
        with pytest.raises(OutputError, match=r"replay\.bin is in use by another process"):
            edgerl.train("robots:robot", resume="run")
    finally:
        held.close()
