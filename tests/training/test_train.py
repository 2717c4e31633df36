"""Whole runs: what they leave behind, that they resume to the same bits, and how they refuse what they cannot do."""

from __future__ import annotations

import csv
import json
import os
import signal
import subprocess
import sys
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

from .runs import ENGINES, PATHS, SMALL, each_engine, kill_and_resume, replay_rows, state_of, train_small


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
    folder = train_small("run", engine=engine)
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
    train_small("tiny", notice=lines.append, **options)
    # The actor's 4-40-1-2 has 3 connections, 1 and 1 (rounded up from 0); the critics' 6-40-1-1 have 5, 1 and 1.
    found = [line for line in lines if "topology" in line]
    assert len(found) == 1
    assert found[0].startswith(
        "layer 2 of the actor, layer 3 of the actor, layer 2 of the critics keep their topology: drop and grow need "
    )
    unmoved: list[dict[str, Any]] = [
        {"topology": "static"},
        {"drop_fraction": 0.0},
        {"hidden": (16, 16), "sparsity": 0.5},
    ]
    for number, quiet in enumerate(unmoved):
        lines.clear()
        train_small(f"quiet{number}", notice=lines.append, **(options | quiet))
        assert not any("topology" in line for line in lines)


@each_engine
def test_small_layers_evolve_in_a_run(engine: str) -> None:
    """At the paper's ζ a twentieth of so few weights rounds to none."""
    folder = train_small("small", hidden=(8, 8), sparsity=0.6, evolution_interval=10, steps=300, engine=engine)
    tensors = checkpoint_file.read(folder / "checkpoint.safetensors").tensors
    for name, mask in tensors.items():
        if name.endswith(".mask"):
            assert not np.array_equal(mask, tensors[name.replace(".mask", ".ever_active")]), f"{name} never changed"


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
    first, second, other = (train_small(out, seed=seed, engine=engine) for out, seed in (("a", 0), ("b", 0), ("c", 1)))
    assert state_of(first) == state_of(second)
    assert state_of(first)[0] != state_of(other)[0]


@each_engine
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"normalize": True},
        {"n_step": 3, "env": "robots:terminating_robot"},
        {"block": 4, "growth": "gradient"},
        {"policy": "best"},
        {"topology": "static"},
        {"topology": "dense"},
        {"algorithm": "sac", "updates_per_step": 0.7, "critic_norm": "layer"},
        {"replay_distance": 0.1, "replay_check_interval": 15, "replay_minimum": 40, "gradient_clip": 0.5},
        {"algorithm": "crossq", "normalize": True},
        {"activation": "silu", "critic_norm": "layer", "dropout": 0.1},
    ],
    ids=lambda options: "-".join(map(str, options)) or "paper",
)
def test_a_stopped_run_resumes_to_the_same_bits(options: dict[str, Any], engine: str) -> None:
    options = options | {"engine": engine}
    whole = train_small("whole", **options)

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
    assert state_of(Path("stopped")) == state_of(whole)
    assert replay_rows(Path("stopped")) == replay_rows(whole)


def test_an_unfinished_run_resumes_through_the_link_to_the_newest() -> None:
    def stop(status: Any) -> None:
        if status.step == 200:
            os.kill(os.getpid(), signal.SIGINT)

    with pytest.raises(edgerl.errors.Interrupted, match="resume runs/robots-robot-ds-td3-seed0"):
        edgerl.train("robots:robot", report=stop, **SMALL)
    assert edgerl.train("robots:robot", resume="runs/latest").steps == 400
    assert Path("runs/latest").readlink() == Path("robots-robot-ds-td3-seed0")
    assert state_of(Path("runs/latest")) == state_of(train_small("whole"))


def test_a_signal_is_answered_at_once_in_words() -> None:
    notices: list[str] = []

    def stop(status: Any) -> None:
        if status.step == 100:
            os.kill(os.getpid(), signal.SIGINT)

    with pytest.raises(edgerl.errors.Interrupted, match="stopped at step"):
        edgerl.train("robots:robot", out="run", report=stop, notice=notices.append, **SMALL)
    assert notices[-1].startswith("stopping at the episode's end, in 25 s at the latest, with everything saved; press")


def test_a_lost_policy_is_written_again() -> None:
    folder = train_small("run")
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


def test_resuming_a_complete_run_changes_nothing() -> None:
    folder = train_small("run")
    before = state_of(folder)
    assert edgerl.train("robots:robot", resume=folder).steps == 400
    assert state_of(folder) == before


@each_engine
def test_a_run_without_a_checkpoint_resumes_from_its_start(engine: str) -> None:
    whole = train_small("whole", engine=engine)
    train_small("early", engine=engine)
    (Path("early") / "checkpoint.safetensors").unlink()
    edgerl.train("robots:robot", resume="early")
    assert state_of(Path("early")) == state_of(whole)


def test_a_run_killed_outright_resumes_to_the_same_bits(processes: Processes) -> None:
    kill_and_resume(processes, kills=2, seed=1)


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
    cuts = [notice for notice in notices if "are cut after 70 steps; for another limit: `max_episode_steps`" in notice]
    assert len(cuts) == 1, "it is said, once"


def test_actions_are_scaled_to_unequal_bounds_once(monkeypatch: pytest.MonkeyPatch) -> None:
    import robots

    seen: list[np.ndarray] = []
    step = robots.Robot.step
    monkeypatch.setattr(robots.Robot, "step", lambda self, action: (seen.append(action), step(self, action))[1])
    folder = train_small("run", steps=300, start_steps=250, evaluation_interval=1000)
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


NATIVE_RUNS = """
import sys
from edgerl.cli import main

for arguments in (
    "train --env Pendulum-v1 --preset quick --steps 40 --start-steps 20 --out run --evaluation-episodes 1",
    "export run --format learner --output learner.safetensors --memory 16MiB",
    "learn learner.safetensors --hours 0.0001 --rate 0",
):
    sys.argv[1:] = arguments.split()
    try:
        main()
    except SystemExit as ended:
        assert not ended.code, (arguments, ended.code)
print(sorted(name for name in sys.modules if name.split(".")[0] == "torch"))
"""


def test_a_native_run_loads_no_torch() -> None:
    done = subprocess.run([sys.executable, "-c", NATIVE_RUNS], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == "[]"


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
    rows = read_metrics(train_small("run", start_steps=399))
    assert len({row["return_mean"] for row in rows}) == 1


def test_normalisation_is_part_of_the_policy() -> None:
    policy = policy_file.load(train_small("run", normalize=True) / "policy.safetensors")
    assert policy.observation_mean is not None
    assert policy.observation_scale is not None
    assert (policy.observation_scale > 0).all()


@each_engine
def test_the_best_policy_is_kept_when_asked_for(engine: str) -> None:
    folder = train_small("run", policy="best", engine=engine)
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
    assert any("robots:forgetful_robot is not determined by its seed" in notice for notice in notices)


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
    from edgerl.algorithms.td3 import TD3

    kind: Any = NativeAgent if engine == "native" else TD3
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
    assert state_of(folder) == state_of(train_small("same", engine="native"))
    assert state_of(folder)[0] != state_of(train_small("other", engine="torch"))[0]


@pytest.mark.usefixtures("_without_the_native_engine")
def test_auto_is_torch_without_the_native_engine_and_says_so_in_one_line() -> None:
    notices: list[str] = []
    folder = edgerl.train("robots:robot", notice=notices.append, **SMALL).folder
    assert _engine_of(folder) == "torch"
    (notice,) = (notice for notice in notices if "PyTorch" in notice)
    assert notice.startswith("training with PyTorch instead, which is slower: the native engine is missing:")
    assert "apt-get install gcc" in notice
    assert "\n" not in notice
    assert state_of(folder) == state_of(train_small("same", engine="torch"))


@pytest.mark.usefixtures("_without_the_native_engine")
def test_the_native_engine_asked_for_and_missing_is_refused_and_leaves_nothing() -> None:
    with pytest.raises(MissingExtraError, match=r"^the native engine is missing: edgerl was installed without a C"):
        train_small("run", engine="native")
    assert not Path("run").exists()


def test_a_native_run_resumed_without_the_native_engine_is_refused_and_stays_as_it_is(
    request: pytest.FixtureRequest,
) -> None:
    folder = train_small("run", engine="native", steps=200)
    before = state_of(folder)
    request.getfixturevalue("_without_the_native_engine")
    with pytest.raises(MissingExtraError, match="the native engine is missing"):
        edgerl.train("robots:robot", resume=folder)
    assert state_of(folder) == before


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
        train_small("run")
    assert not Path("run").exists()
    assert _engine_of(train_small("run", engine="torch")) == "torch", "which has no instruction set to choose"


def test_a_damaged_native_state_is_refused() -> None:
    """Its checksum is right: the damage is deliberate."""
    from dataclasses import replace

    path = train_small("run", engine="native") / "checkpoint.safetensors"
    checkpoint = checkpoint_file.read(path)
    moment = checkpoint.tensors["critic_1.1.weight_second_moment"].copy()
    moment[3] = -1
    spoiled = checkpoint.tensors | {"critic_1.1.weight_second_moment": moment}
    checkpoint_file.write(path, replace(checkpoint, tensors=spoiled))
    with pytest.raises(FileFormatError, match=r"checkpoint\.safetensors is not valid: the learner: .*; train again$"):
        edgerl.train("robots:robot", resume="run")


def test_the_engines_begin_and_evaluate_alike() -> None:
    """The same weights before the first update: the same returns."""
    rows = {engine: read_metrics(train_small(engine, engine=engine, start_steps=399)) for engine in ENGINES}
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


def test_a_checkpoint_that_fails_leaves_the_link_at_the_last_good_run(monkeypatch: pytest.MonkeyPatch) -> None:
    good = edgerl.train("robots:robot", **SMALL).folder

    def fail(*_: Any) -> None:
        raise OutputError("disk full")

    monkeypatch.setattr(checkpoint_file, "write", fail)
    with pytest.raises(OutputError, match="disk full"):
        edgerl.train("robots:robot", **SMALL)
    assert Path("runs/latest").resolve() == good.resolve()
    assert sorted(path.name for path in Path("runs").iterdir()) == ["latest", good.name]


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
    with pytest.raises(ConfigError, match="`resume` goes only with `steps` and `env`"):
        edgerl.train(resume="run", seed=3)


def test_a_folder_that_is_no_run_cannot_be_resumed() -> None:
    Path("run").mkdir()
    with pytest.raises(FileFormatError, match=r"run is not a run folder .*expected one that train wrote"):
        edgerl.train("robots:robot", resume="run")


@pytest.mark.parametrize("damage", ["truncate", "flip"])
def test_a_damaged_checkpoint_is_refused(damage: str) -> None:
    path = train_small("run") / "checkpoint.safetensors"
    data = bytearray(path.read_bytes())
    if damage == "flip":
        data[-100] ^= 1
    path.write_bytes(data[:-1] if damage == "truncate" else data)
    with pytest.raises(FileFormatError, match=r"(has been altered|is not an edgerl tensor file)"):
        edgerl.train("robots:robot", resume="run")


def test_a_changed_configuration_is_refused() -> None:
    path = train_small("run") / "config.json"
    path.write_text(path.read_text().replace('"seed": 0', '"seed": 1'))
    with pytest.raises(FileFormatError, match=r"has another configuration than .*config\.json; restore that file"):
        edgerl.train("robots:robot", resume="run")


def test_a_shortened_replay_is_refused() -> None:
    path = train_small("run", steps=200) / "replay.bin"
    with path.open("r+b") as file:
        file.truncate(path.stat().st_size - 4)
    with pytest.raises(FileFormatError, match=r"replay\.bin is not this run's replay memory, or is truncated"):
        edgerl.train("robots:robot", resume="run")


def test_a_run_is_in_one_process_at_a_time() -> None:
    folder = train_small("run")
    held = Replay(folder / "replay.bin", 4, 2, 90, slack=120, count=400)
    try:
        with pytest.raises(OutputError, match=r"replay\.bin is in use by another process"):
            edgerl.train("robots:robot", resume="run")
    finally:
        held.close()
