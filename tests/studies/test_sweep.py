"""Sweeps: the same results here and on Ray, whatever is killed in the middle; what is finished is never done again."""

from __future__ import annotations

import contextlib
import csv
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

import edgerl
from edgerl.config import DEFAULT_EPISODE_STEPS, make_config
from edgerl.errors import CheckFailed, ConfigError, Interrupted, OutputError, RemoteError
from edgerl.signals import StopRequests
from edgerl.studies.cluster import check_node, probe_storage
from edgerl.studies.grid import PlannedRun, plan_runs
from edgerl.studies.runs import Progress
from edgerl.studies.study import load_study
from edgerl.studies.sweep import RESTARTS, Sweep, SweepStatus, makespan, open_study
from edgerl.studies.timing import Timing, expected_seconds
from edgerl.studies.worker import Outcome

ROOT = Path(__file__).parents[2]
OPTIONS: dict[str, Any] = {
    "preset": "quick",
    "steps": 1000,
    "start_steps": 100,
    "evaluation_interval": 200,
    "checkpoint_interval": 100,
    "evaluation_episodes": 1,
    "replay_capacity": 2000,
    "hidden": [16, 16],
}


def _write_study(name: str = "tiny", environment: str = "slow_robot", seeds: Sequence[int] = (0, 1)) -> Path:
    lines = [f"{key} = {json.dumps(value)}" for key, value in OPTIONS.items()]
    grid = f'[grid]\nenvironment = ["robots:{environment}"]\nmethod = ["ds-td3"]\nseed = {list(seeds)}\n'
    path = Path(f"{name}.toml")
    path.write_text("[run]\n" + "\n".join(lines) + "\n" + grid)
    return path


def _environment() -> dict[str, str]:
    return os.environ | {"PYTHONPATH": str(ROOT / "tests"), "OMP_NUM_THREADS": "1"}


@contextlib.contextmanager
def _sweep(*arguments: object) -> Iterator[subprocess.Popen[str]]:
    command = [sys.executable, "-m", "edgerl", "sweep", *map(str, arguments)]
    process = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=_environment(), start_new_session=True
    )
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


def _holder(folder: Path) -> int | None:
    """The process that has a run's replay open."""
    wanted = str((folder / "replay.bin").resolve())
    for maps in Path("/proc").glob("[0-9]*/maps"):
        with contextlib.suppress(OSError):
            if wanted in maps.read_text():
                return int(maps.parent.name)
    return None


def _rows(folder: Path) -> list[list[str]]:
    """The metrics without the times."""
    with (folder / "metrics.csv").open() as file:
        return [row[:-2] for row in csv.reader(file)]


def _wait(condition: Callable[[], object], seconds: float = 300) -> Any:
    limit = time.monotonic() + seconds
    while time.monotonic() < limit:
        if found := condition():
            return found
        time.sleep(0.01)
    raise AssertionError("waited in vain")


def _training(folder: Path) -> int | None:
    """The process that trains a run, once a checkpoint is there to go on from."""
    return _holder(folder) if (folder / "checkpoint.safetensors").exists() else None


@pytest.fixture(scope="module")
def expected(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The study's two runs, as `edgerl.train` makes them without any sweep."""
    folder = tmp_path_factory.mktemp("expected")
    sys.path.insert(0, str(ROOT / "tests"))
    try:
        for seed in (0, 1):
            name = folder / f"robots-slow_robot-ds-td3-seed{seed}"
            edgerl.train("robots:slow_robot", out=name, seed=seed, **OPTIONS)
    finally:
        sys.path.remove(str(ROOT / "tests"))
    return folder


def _assert_same(found: Path, expected: Path, runs: Sequence[str]) -> None:
    for run in runs:
        assert (found / run / "policy.safetensors").read_bytes() == (expected / run / "policy.safetensors").read_bytes()
        assert (found / run / "config.json").read_bytes() == (expected / run / "config.json").read_bytes()
        assert _rows(found / run) == _rows(expected / run)
        assert len(_rows(found / run)) == 1 + 1000 // 200


def test_a_sweep_that_is_stopped_and_killed_and_whose_run_is_killed_gives_the_same_bits(expected: Path) -> None:
    """Ctrl-C saves all runs; SIGKILL of the sweep lets its runs save; SIGKILL of a run starts it again."""
    study, folder = _write_study(), Path("runs/tiny")
    first = folder / "robots-slow_robot-ds-td3-seed0"
    with _sweep(study, "--seeds", 0) as process:
        _wait(lambda: _training(first))
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=300)
    assert (process.returncode, out) == (130, "")
    assert err.splitlines()[-1] == "edgerl: stopped; the same command goes on from every run's last checkpoint"
    assert _holder(first) is None
    with _sweep(study, "--seeds", 0) as process:
        _wait(lambda: _training(first))
        process.kill()
        _wait(lambda: _holder(first) is None)
    with _sweep(study, "--seeds", 0) as process:
        os.kill(_wait(lambda: _training(first)), signal.SIGKILL)
        out, err = process.communicate(timeout=300)
    assert process.returncode == 0, err
    assert "robots-slow_robot-ds-td3-seed0: killed by SIGKILL; started again" in err
    assert "1 runs finished in runs/tiny, " in out
    _assert_same(folder, expected, [first.name])


def test_a_sweep_on_ray_whose_worker_is_killed_gives_the_same_bits(expected: Path) -> None:
    """Two workers on a cluster of this machine; a finished run's files stay as they are."""
    study = _write_study()
    names = [f"robots-slow_robot-ds-td3-seed{seed}" for seed in (0, 1)]
    folder = Path("shared/tiny")
    folder.mkdir(parents=True)
    shutil.copytree(expected / names[1], folder / names[1])  # the finished one
    before = {path: path.stat().st_mtime_ns for path in (folder / names[1]).iterdir()}
    with _sweep(study, "--ray", "--jobs", 2, "--storage", "shared", "--json") as process:
        killed = _wait(lambda: _training(folder / names[0]))
        os.kill(killed, signal.SIGKILL)
        again = _wait(lambda: (holder := _holder(folder / names[0])) != killed and holder)
        out, err = process.communicate(timeout=300)
    assert process.returncode == 0, err
    assert again != killed
    assert {path: path.stat().st_mtime_ns for path in (folder / names[1]).iterdir()} == before
    events = [json.loads(line) for line in out.splitlines()]
    assert [events[0]["event"], events[-1]["event"]] == ["started", "finished"]
    assert {event["state"] for event in events if event.get("name") == names[1]} == {"finished"}
    assert not list(folder.glob("*.tmp*")), "the probe of the storage is gone"
    _assert_same(folder, expected, names)


def test_what_an_environment_prints_goes_to_its_log() -> None:
    """More than a pipe holds, and more after the end."""
    study = _write_study(environment="chatty_robot", seeds=[0])
    with _sweep(study, "--json") as process:
        out, err = process.communicate(timeout=300)
    assert (process.returncode, err) == (0, "goodbye\n"), "of this process, which made one to see its size"
    assert json.loads(out.splitlines()[-1])["event"] == "finished"
    log = Path("runs/tiny/robots-chatty_robot-ds-td3-seed0/train.log").read_text()
    assert log.count("a step of many words") >= 1000
    assert log.endswith("goodbye\n")


class _FakePool:
    """A pool in which every run ends at once, as its script says; when the script is over, it finishes."""

    capacity = 2

    def __init__(self, **scripts: list[Outcome]) -> None:
        self.scripts = scripts
        self.started: list[str] = []
        self.stops = 0
        self._ended: list[tuple[str, Outcome]] = []

    @property
    def running(self) -> int:
        return len(self._ended)

    def start(self, name: str, folder: Path, environment: str) -> None:
        assert (folder / "config.json").exists()
        assert environment == "robots:robot"
        self.started.append(name)
        script = self.scripts.get(name.rpartition("-")[2], [])
        self._ended.append((name, script.pop(0) if script else Outcome("finished")))

    def poll(self) -> list[tuple[str, Outcome]]:
        ended, self._ended = self._ended, []
        return ended

    def stop(self) -> None:
        self.stops += 1


def _planned() -> list[PlannedRun]:
    return plan_runs(load_study(_write_study(environment="robot", seeds=(0, 1, 2))))


def _run(pool: _FakePool, found: dict[str, Progress] | None = None, stops: int = 0) -> SweepStatus:
    runs = _planned()
    progress = {run.name: Progress("absent") for run in runs} | (found or {})
    statuses: list[SweepStatus] = []
    sweep = Sweep(runs, Path("here"), progress, pool, 2)
    try:
        return sweep.run(statuses.append, StopRequests(stops, signal.SIGTERM if stops else 0))
    finally:
        assert {run.state for run in statuses[-1].runs} <= {"finished", "failed", "stopped", "waiting"}


def test_finished_runs_are_skipped() -> None:
    pool = _FakePool()
    _run(pool, {"robots-robot-ds-td3-seed1": Progress("finished", 1000)})
    assert pool.started == ["robots-robot-ds-td3-seed0", "robots-robot-ds-td3-seed2"]


def test_a_run_that_is_killed_again_and_again_is_given_up_and_the_others_finish() -> None:
    pool = _FakePool(seed0=[Outcome("killed", "killed by SIGKILL")] * (RESTARTS + 1))
    with pytest.raises(
        CheckFailed, match=r"^1 of 3 runs failed; the first, robots-robot-ds-td3-seed0: killed by SIGKI"
    ):
        _run(pool)
    assert pool.started.count("robots-robot-ds-td3-seed0") == 1 + RESTARTS == 4
    assert {"robots-robot-ds-td3-seed1", "robots-robot-ds-td3-seed2"} < set(pool.started)


def test_a_run_that_was_killed_a_few_times_finishes() -> None:
    pool = _FakePool(seed2=[Outcome("killed"), Outcome("stopped"), Outcome("killed")])
    assert _run(pool).count("finished") == 3


def test_a_run_that_fails_is_not_tried_again() -> None:
    pool = _FakePool(seed1=[Outcome("failed", "training diverged")])
    with pytest.raises(
        CheckFailed, match=r"^1 of 3 runs failed; the first, robots-robot-ds-td3-seed1: training diverge"
    ):
        _run(pool)
    assert len(pool.started) == 3


def test_a_stop_starts_nothing_new_and_asks_the_pool_once() -> None:
    pool = _FakePool(seed0=[Outcome("stopped")], seed1=[Outcome("stopped")])
    with pytest.raises(
        Interrupted, match=r"^stopped; the same command goes on from every run's last checkpoint$"
    ) as stopped:
        _run(pool, stops=1)
    assert stopped.value.exit_code == 143
    assert pool.started == ["robots-robot-ds-td3-seed0", "robots-robot-ds-td3-seed1"]


def test_one_sweep_at_a_time_has_a_studys_folder() -> None:
    study = load_study(_write_study(environment="robot"))
    runs = plan_runs(study)
    with (
        open_study(study, runs, Path("here")),
        pytest.raises(OutputError, match=r"^another sweep is running in here; wait for it, or choose another `out`$"),
        open_study(study, runs, Path("here")),
    ):
        pass


def test_a_folder_with_another_run_is_refused_before_anything_is_written() -> None:
    study = load_study(_write_study(environment="robot"))
    runs = plan_runs(study)
    edgerl.train("robots:robot", out=Path("here") / runs[0].name, **{**OPTIONS, "steps": 200})
    with (
        pytest.raises(ConfigError, match=r"holds another run than the study's \(schedule\.steps 200, expected 1000\)"),
        open_study(study, runs, Path("here")),
    ):
        pass
    assert [path.name for path in Path("here").iterdir()] == [runs[0].name]


def test_the_time_expected_is_the_sum_of_a_runs_steps() -> None:
    config = make_config(steps=100_000, engine="native")  # 25 000 random; 20 evaluations of 10 episodes
    timing = Timing(random=1e-5, acting=2e-5, update=1e-3, episode_steps=1000)
    whole = 25_000 * 1e-5 + 75_000 * (2e-5 + 1e-3) + 20 * 10 * 1000 * 2e-5
    assert expected_seconds(config, timing) == pytest.approx(whole)
    half = 50_000 * (2e-5 + 1e-3) + 10 * 10 * 1000 * 2e-5
    assert expected_seconds(config, timing, 50_000) == pytest.approx(half)
    assert expected_seconds(config, timing, 100_000) == 0


def test_runs_are_spread_over_cores_in_their_order() -> None:
    assert makespan([3, 1, 1, 1, 4], 2) == 7  # 3, 4 on one core; 1, 1, 1 on the other, then the 4 on the one free first
    assert makespan([3, 1, 1, 1], 1) == 6
    assert makespan([], 2) == 0


def test_a_node_says_what_it_sees_in_the_storage() -> None:
    token = Path(".edgerl-token.tmp")
    token.write_text("another")
    assert probe_storage(token)[2] == "it reads other content there"
    token.write_text(token.name)
    version, written, problem = probe_storage(token)
    assert (version, problem, Path(written).exists()) == (edgerl.__version__, "", True)
    assert "No such file" in probe_storage(Path("absent/token"))[2]


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        (("0.0.1", "there", ""), r"^node 10\.0\.0\.3 has edgerl 0\.0\.1, this machine .*; install the same on all$"),
        (
            (edgerl.__version__, "absent", ""),
            r"does not share here \(what it writes there does not appear here\); name a fol",
        ),
        ((edgerl.__version__, "there", "No such file"), r"does not share here \(No such file\); .*: `storage`$"),
    ],
)
def test_a_node_that_does_not_share_the_storage_is_refused(answer: tuple[str, str, str], message: str) -> None:
    Path("here").mkdir()
    Path("here/there").touch()
    with pytest.raises(RemoteError, match=message):
        check_node("10.0.0.3", Path("here"), *answer)


def test_a_run_is_planned_as_edgerl_train_configures_it() -> None:
    study = load_study(_write_study(environment="robot"))
    options = {key: value for key, value in OPTIONS.items() if key != "preset"}
    options |= {"max_episode_steps": DEFAULT_EPISODE_STEPS}  # which the robot leaves to us
    expected = make_config("quick", environment="robots:robot", seed=1, **options)
    assert plan_runs(study)[1].config == expected


def test_what_another_sweep_recorded_meanwhile_stays_in_the_record(monkeypatch: pytest.MonkeyPatch) -> None:
    """It ends between the look at the folder and the lock."""
    from edgerl.studies import sweep
    from edgerl.studies.study import narrowed, read_record

    study, folder, inspect = load_study(_write_study(environment="robot", seeds=(0,))), Path("runs/tiny"), sweep.inspect

    def end(*arguments: Any) -> Progress:
        monkeypatch.setattr(sweep, "inspect", inspect)
        other = narrowed(study, seeds=[7])
        with open_study(other, plan_runs(other), folder):
            pass
        return inspect(*arguments)

    monkeypatch.setattr(sweep, "inspect", end)
    with open_study(study, plan_runs(study), folder):
        assert read_record(folder).grid["seed"] == (7, 0)
