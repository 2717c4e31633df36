"""What shapes an episode and an evaluation, and what must not: intervals, stops, faults, how many robots there are."""

from __future__ import annotations

import os
import re
import shutil
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import edgerl
from edgerl.config import make_config
from edgerl.edge.continual.replay import Boundary, Replay
from edgerl.errors import ConfigError, EnvironmentError, Interrupted
from edgerl.training import checkpoint as checkpoint_file
from edgerl.training import trainer
from edgerl.training.logs import read_metrics

from .runs import SMALL, each_engine, replay_rows, state_of, train_small

Run = Callable[..., tuple[int, str, str]]


def _returns(folder: Path) -> list[tuple[float, float]]:
    return [(row["return_mean"], row["return_deviation"]) for row in read_metrics(folder)]


def _rows(folder: Path) -> Any:
    count = checkpoint_file.read(folder / "checkpoint.safetensors").counters.replay_count
    replay = Replay.open_recorded(folder / "replay.bin", count)
    return replay.rows(np.arange(replay.size))


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trainer, "GRACE_SECONDS", 0.2)


# Intervals.


def test_the_checkpoint_interval_changes_no_episode() -> None:
    folders = [train_small(f"run{interval}", checkpoint_interval=interval) for interval in (10, 25, 60, 100, 1000)]
    assert len({str(_returns(folder)) for folder in folders}) == 1
    assert len({replay_rows(folder) for folder in folders}) == 1
    episodes = {checkpoint_file.read(folder / "checkpoint.safetensors").counters.episode for folder in folders}
    assert episodes == {-(-400 // 37)}


def test_a_limit_cuts_episodes_in_training_and_evaluation_alike() -> None:
    folder = train_small("run", env="robots:robot", max_episode_steps=20, replay_capacity=400)
    boundaries = _rows(folder)[:, -1]
    assert np.flatnonzero(boundaries == Boundary.TRUNCATED).tolist() == list(range(19, 400, 20))
    longer = train_small("longer", env="robots:robot", max_episode_steps=37, replay_capacity=400)
    assert _returns(folder) != _returns(longer)
    assert _returns(longer) == _returns(train_small("own", replay_capacity=400)), "which is its own length"


def test_a_long_episode_is_saved_in_its_midst(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trainer, "LONGEST_WAIT", 50)
    saved: list[int] = []
    write = checkpoint_file.write

    def noted(path: Path, checkpoint: checkpoint_file.Checkpoint) -> None:
        saved.append(checkpoint.counters.step)
        write(path, checkpoint)

    monkeypatch.setattr(checkpoint_file, "write", noted)

    def quit_at_once(status: Any) -> None:
        if status.step == 300:
            os.kill(os.getpid(), signal.SIGTERM)
            os.kill(os.getpid(), signal.SIGTERM)

    with pytest.raises(Interrupted, match="left at step 300; go on from step 220 with"):
        edgerl.train("robots:endless_robot", out="run", report=quit_at_once, **SMALL)
    assert saved == [110, 220]  # intervals of 60, and 50 steps of waiting
    notices: list[str] = []
    edgerl.train("robots:endless_robot", resume="run", notice=notices.append)
    assert any("was saved within a long episode" in notice for notice in notices)
    assert checkpoint_file.read(Path("run/checkpoint.safetensors")).counters.episode == 2
    boundaries = _rows(Path("run"))[:, -1]  # the newest 90
    assert (boundaries[:-1] == Boundary.CONTINUES).all()


# One robot.


def test_an_environment_of_which_there_is_one_trains_evaluates_and_resumes() -> None:
    notices: list[str] = []

    def stop(status: Any) -> None:
        if status.step == 200:
            os.kill(os.getpid(), signal.SIGTERM)

    with pytest.raises(Interrupted, match="stopped at step"):
        edgerl.train("robots:lonely_robot", out="run", report=stop, notice=notices.append, **SMALL)
    assert any("evaluating between training episodes, in the same environment" in notice for notice in notices)
    edgerl.train("robots:lonely_robot", resume="run")
    rows = read_metrics(Path("run"))
    assert [row["step"] for row in rows] == [111, 222, 333, 400], "the ends of the episodes, of 37 steps each"
    assert all(np.isfinite(row["return_mean"]) for row in rows)
    whole = train_small("whole", env="robots:lonely_robot")
    assert state_of(Path("run")) == state_of(whole)


def test_two_are_asked_for_and_there_is_one() -> None:
    for name, problem in (
        ("lonely_robot", r"lonely_robot\(\) failed \(OSError: .*in use"),
        ("the_only_robot", "the_only_robot returns the same object each time"),
    ):
        with pytest.raises(EnvironmentError, match=f"{problem}.*`evaluation` between-episodes"):
            train_small("run", env=f"robots:{name}", evaluation="separate")
        assert not Path("run").exists()


@each_engine
@pytest.mark.parametrize("name", ["the_only_robot", "the_only_robot_wrapped"])
def test_a_factory_with_a_single_object_gives_the_replay_of_separate_ones(name: str, engine: str) -> None:
    notices: list[str] = []
    options = SMALL | {"replay_capacity": 400, "engine": engine}
    single = edgerl.train(f"robots:{name}", out="single", notice=notices.append, **options).folder
    assert any("returns the same object each time" in notice for notice in notices)
    separate = train_small("separate", **options)
    assert _rows(single).tobytes() == _rows(separate).tobytes()
    tensors = [checkpoint_file.read(f / "checkpoint.safetensors").tensors for f in (single, separate)]
    for key in tensors[0]:
        if "loss" not in key and key != "counters":  # of losses since the last evaluation
            assert tensors[0][key].tobytes() == tensors[1][key].tobytes(), key


@each_engine
def test_without_evaluation_the_metrics_tell_of_training(engine: str) -> None:
    made: list[int] = []
    import robots

    init = robots.Robot.__init__
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(robots.Robot, "__init__", lambda self, *a, **k: (made.append(1), init(self, *a, **k))[1])
        result = edgerl.train("robots:robot", out="run", evaluation="none", engine=engine, **SMALL)
    assert made == [1]
    assert (result.final_return, result.best_return) == (None, None)
    rows = read_metrics(result.folder)
    assert [row["step"] for row in rows] == [100, 200, 300, 400]
    assert all("return_mean" not in row and row["training_return_mean"] < 0 for row in rows)
    with pytest.raises(ConfigError, match="`policy` is best and `evaluation` is none; expected"):
        train_small("best", evaluation="none", policy="best")


def test_training_returns_are_those_of_the_episodes_in_the_replay() -> None:
    folder = train_small("run", replay_capacity=400)
    rows, metrics = _rows(folder), read_metrics(folder)
    ends = np.flatnonzero(rows[:, -1] != Boundary.CONTINUES)
    totals = {
        end + 1: rows[start : end + 1, -2].sum(dtype=float) for start, end in zip([0, *ends + 1], ends, strict=False)
    }
    for before, row in zip([0, 100, 200, 300], metrics, strict=True):
        expected = [total for end, total in totals.items() if before < end <= row["step"]]
        if row["step"] == 400:  # the row is written before the last episode counts
            expected = [total for end, total in totals.items() if 300 < end < 400]
        assert row["training_return_mean"] == pytest.approx(np.mean(expected), rel=1e-5)


# Stops.


@pytest.mark.usefixtures("impatient")
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_stop_cuts_an_episode_that_does_not_end(number: signal.Signals) -> None:
    notices: list[str] = []

    def stop(status: Any) -> None:
        if status.step == 100:
            os.kill(os.getpid(), number)

    options = SMALL | {"steps": 100_000, "max_episode_steps": 90_000, "evaluation_interval": 100_000}
    with pytest.raises(Interrupted, match=r"stopped at step \d+; go on with: edgerl train --resume run") as stopped:
        edgerl.train("robots:slow_endless_robot", out="run", report=stop, notice=notices.append, **options)
    assert stopped.value.exit_code == 128 + number
    assert any("the episode did not end within 0.2 s: it is recorded as truncated" in n for n in notices)
    step = checkpoint_file.read(Path("run/checkpoint.safetensors")).counters.step
    assert 100 < step < 90_000
    boundaries = _rows(Path("run"))[:, -1]
    assert boundaries[-1] == Boundary.TRUNCATED
    assert (boundaries[:-1] == Boundary.CONTINUES).all()


@pytest.mark.usefixtures("impatient")
@pytest.mark.parametrize("at", [100, 400], ids=["within the run", "at the end"])
@pytest.mark.parametrize("evaluation", ["separate", "between-episodes"])
def test_a_stop_leaves_an_evaluation_out_and_the_resumed_run_makes_it(
    at: int, evaluation: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = train_small("whole", env="robots:slow_robot", evaluation=evaluation)
    play = trainer.play

    def slow(environment: Any, act: Any, seeds: Any, on_fault: Any) -> Any:
        if len(read_metrics(Path("run"))) == at // 100 - 1:
            os.kill(os.getpid(), signal.SIGTERM)
            seeds = [*seeds] * 10_000
        return play(environment, act, seeds, on_fault)

    monkeypatch.setattr(trainer, "play", slow)
    with pytest.raises(Interrupted, match="stopped at step") as stopped:
        train_small("run", env="robots:slow_robot", evaluation=evaluation)
    assert stopped.value.exit_code == 143
    assert len(read_metrics(Path("run"))) == at // 100 - 1
    monkeypatch.setattr(trainer, "play", play)
    edgerl.train("robots:slow_robot", resume="run")
    rows, expected = read_metrics(Path("run")), read_metrics(whole)
    assert [row["step"] for row in rows][: at // 100] == [row["step"] for row in expected][: at // 100]
    assert _returns(Path("run"))[: at // 100] == _returns(whole)[: at // 100], "by the policy of that step"
    assert len(rows) == len(expected)


def test_a_second_signal_before_the_first_checkpoint_names_nothing_to_resume() -> None:
    def stop_twice(_: Any) -> None:
        os.kill(os.getpid(), signal.SIGINT)
        os.kill(os.getpid(), signal.SIGINT)

    options = SMALL | {"checkpoint_interval": 300}
    with pytest.raises(Interrupted, match=r"left at step 100; nothing is saved before the first checkpoint$"):
        edgerl.train("robots:robot", out="run", report=stop_twice, **options)
    assert not Path("run").exists()


# Faults.


def test_a_fault_says_when_and_where_and_what_to_do() -> None:
    expected = (
        r"robots:glitchy_robot returned nan in observation 1 at step 20 \(seed (\d+)\); expected finite numbers "
        r"\(step (\d+) of the run, in episode (\d+)\); to end the episode there and go on: `on_fault` truncate"
    )
    with pytest.raises(EnvironmentError, match=expected) as fault:
        train_small("run", env="robots:glitchy_robot")
    match = re.search(expected, str(fault.value))
    assert match is not None
    seed, step, episode = map(int, match.groups())
    assert seed % 3 == 0
    assert step == 37 * (episode - 1) + 20
    with pytest.raises(EnvironmentError, match=rf"seed {seed}\).*step {step} of the run"):
        train_small("again", env="robots:glitchy_robot")


@each_engine
def test_faults_are_outlived_counted_and_resumed_to_the_same_bits(engine: str) -> None:
    options = SMALL | {"on_fault": "truncate", "engine": engine, "replay_capacity": 400}
    notices: list[str] = []
    whole = edgerl.train("robots:glitchy_robot", out="whole", notice=notices.append, **options)
    assert whole.faults > 0
    assert read_metrics(whole.folder)[-1]["faults"] == whole.faults
    assert sum("counts further faults" in notice for notice in notices) == 1
    rows = _rows(whole.folder)
    assert np.isfinite(rows).all()
    assert len(rows) < 400, "what was faulty is not in the replay"
    lengths = np.diff([-1, *np.flatnonzero(rows[:, -1] != Boundary.CONTINUES)])
    assert set(lengths[:-1]) == {37, 19}

    def stop(status: Any) -> None:
        if status.step == 200:
            os.kill(os.getpid(), signal.SIGTERM)

    with pytest.raises(Interrupted, match="stopped"):
        edgerl.train("robots:glitchy_robot", out="stopped", report=stop, **options)
    assert edgerl.train("robots:glitchy_robot", resume="stopped").faults == whole.faults
    assert state_of(Path("stopped")) == state_of(whole.folder)
    assert replay_rows(Path("stopped")) == replay_rows(whole.folder)


def test_a_robot_that_always_fails_is_not_outlived() -> None:
    with pytest.raises(EnvironmentError, match=r"no motor\); so did the first steps of the 10 episodes before: fix"):
        train_small("run", env="robots:dead_robot", on_fault="truncate")
    assert not Path("run").exists()


# Too few steps.


def test_a_short_run_learns_all_the_same_and_says_so() -> None:
    assert make_config(steps=20_000).schedule.start_steps == 5000
    assert make_config(steps=25_001).schedule.start_steps == 25_000
    assert make_config("quick", steps=10_000).schedule.start_steps == 2500
    notices: list[str] = []
    options = {k: v for k, v in SMALL.items() if k != "start_steps"}
    folder = edgerl.train("robots:robot", out="run", notice=notices.append, **options).folder
    assert any(
        notice == "400 steps are too few for the usual 25000 random ones; this run starts with 100"
        for notice in notices
    )
    assert read_metrics(folder)[-1]["updates"] == 300


@pytest.mark.parametrize(("steps", "start_steps"), [(100, 100), (100, 500), (1, None)])
def test_a_run_that_would_learn_nothing_is_refused(steps: int, start_steps: int | None) -> None:
    with pytest.raises(
        ConfigError, match=rf"`steps` is {steps}, and the first \d+ \(`start_steps`\) are random, before"
    ):
        make_config(steps=steps, start_steps=start_steps)


# What an environment answers.

SHORT = ("--hidden", "16,16", "--steps", 120, "--checkpoint-interval", 40, "--out")


@pytest.mark.parametrize(
    ("robot", "problem"),
    [
        ("old_robot", "returned 4 values from step() at step 1 (seed"),
        ("wordy_robot", "returned a str as terminated at step 1 (seed"),
        ("vector_robot", "returned a ndarray as terminated at step 1 (seed"),
        ("leaving_robot", "failed at step 1 (seed"),
    ],
)
def test_one_checker_for_training_and_running(edgerl: Run, robot: str, problem: str) -> None:
    code, out, err = edgerl("train", "--env", f"robots:{robot}", *SHORT, "run")
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert err.startswith(f"edgerl: robots:{robot} {problem}")
    assert edgerl("train", "--env", "robots:robot", *SHORT, "good")[0] == 0
    code, out, err = edgerl("run", "good/policy.safetensors", "--env", f"robots:{robot}", "--seconds", 1)
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert problem in err


def test_answers_that_can_be_understood_are(edgerl: Run) -> None:
    for name in ("loose_robot", "robot"):
        assert edgerl("train", "--env", f"robots:{name}", *SHORT, name)[0] == 0
    assert replay_rows(Path("loose_robot")) == replay_rows(Path("robot"))


def test_a_close_that_fails_loses_nothing(edgerl: Run, caplog: pytest.LogCaptureFixture) -> None:
    assert edgerl("train", "--env", "robots:unclosable_robot", *SHORT, "run")[0] == 0
    assert Path("run/policy.safetensors").exists()
    assert {record.message for record in caplog.records} == {
        "robots:unclosable_robot failed to close (OSError: the bus is gone)"
    }
    code, _, _ = edgerl("run", "run/policy.safetensors", "--env", "robots:unclosable_robot", "--seconds", 0.1)
    assert code == 0


# Runs of earlier versions.


def test_a_run_of_0_1_0_goes_on(tmp_path: Path) -> None:
    """Of robots:endless_robot, 16-16, stopped at step 240 of 400: it cuts episodes at the checkpoint interval, 60."""
    folder = tmp_path / "run"
    shutil.copytree(Path(__file__).parent / "golden" / "run-0.1.0", folder)
    before = read_metrics(folder)
    result = edgerl.train("robots:endless_robot", resume=folder)
    counters = checkpoint_file.read(folder / "checkpoint.safetensors").counters
    assert (result.steps, counters.episode, counters.replay_count) == (400, 7, 400)
    rows = read_metrics(folder)
    assert [row["step"] for row in rows] == [100, 200, 300, 400]
    assert [row["return_mean"] for row in rows[:2]] == [row["return_mean"] for row in before]
    assert all("training_return_mean" not in row for row in rows[:2]), "which it did not record"
    assert all(row["faults"] == 0 for row in rows[2:])
