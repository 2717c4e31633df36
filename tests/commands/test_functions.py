"""Each command through its function and through the command line: the same data."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
import tomllib

import edgerl as library
from edgerl.errors import ConfigError, OutputError
from edgerl.profiling.measuring import measure as measuring
from edgerl.studies.sweep import SweepStatus
from edgerl.studies.table import as_dict
from tests.profiling.machine import SERVER, KnownMachine, fake_linux

POINTS = Path(__file__).parents[2] / "benchmarks/published_latencies.jsonl"
Run = Callable[..., tuple[int, str, str]]
SMALL = {"hidden": (16, 16), "steps": 200, "start_steps": 100, "evaluation_interval": 100, "evaluation_episodes": 1}


@pytest.fixture
def run(edgerl: Run) -> Path:
    """A run that runs/latest points to."""
    words = ("--hidden", "16,16", "--steps", 200, "--start-steps", 100, "--evaluation-interval", 100)
    assert edgerl("train", "--env", "Pendulum-v1", *words, "--evaluation-episodes", 1)[0] == 0
    return Path("runs/Pendulum-v1-ds-td3-seed0")


def _printed(edgerl: Run, *arguments: object) -> Any:
    code, out, err = edgerl(*arguments)
    assert code in (0, 1), err
    return json.loads(out)


def _plain(value: Any) -> Any:
    """As JSON has it."""
    return json.loads(json.dumps(value, default=str))


def test_train(run: Path) -> None:
    again = library.train("Pendulum-v1", out="again", **SMALL)
    assert (again.folder, again.policy) == (Path("again"), Path("again/policy.safetensors"))
    assert (again.folder / "policy.safetensors").read_bytes() == (run / "policy.safetensors").read_bytes()


def test_cost(edgerl: Run) -> None:
    shown = _printed(edgerl, "cost", "--env", "Pendulum-v1", "--sparsity", "0.8", "--json")
    assert _plain(library.cost("Pendulum-v1", sparsity=0.8)) == shown


def test_info(edgerl: Run, run: Path) -> None:
    for path in (run, run / "policy.safetensors", run / "checkpoint.safetensors"):
        assert _plain(library.info(path)) == _printed(edgerl, "info", path, "--json")


def test_run(edgerl: Run, run: Path) -> None:
    notices: list[str] = []
    report = library.run(seconds=0.2, seed=3, notice=notices.append)
    assert notices == [f"using {run / 'policy.safetensors'}"]
    shown = _printed(edgerl, "run", "--seconds", "0.2", "--seed", "3", "--json")
    assert report.as_dict().keys() == shown.keys()
    assert (str(report.model), report.environment, report.statistics.rate_hz) == (
        shown["model"],
        shown["environment"],
        shown["rate_hz"],
    )
    steps = sum(episode.steps for episode in report.episodes) + report.unfinished_episode.steps
    assert steps == report.statistics.cycles


def test_learn(edgerl: Run, run: Path) -> None:
    library.export_policy(run, "learner", "learner.safetensors")
    options = ("learner.safetensors", "--rate", "0", "--state", "state", "--json")
    result = library.learn("learner.safetensors", rate=0, hours=0.0001, state="state")
    code, out, _ = edgerl("learn", *options, "--hours", "0.0002")
    start, *_, end = map(json.loads, out.splitlines())
    assert (code, start["is_new"], end["reason"]) == (0, False, result.reason)
    assert {"event": "stopped", **_plain(result.as_dict())}.keys() == end.keys()
    same = ("memory", "connections", "is_learning")
    assert [_plain(result.as_dict())[name] for name in same] == [end[name] for name in same]
    for name in ("steps", "updates", "seconds", "snapshots"):
        assert 0 < result.status[name] < end[name]  # type: ignore[literal-required]


def test_devices(edgerl: Run) -> None:
    listed = _printed(edgerl, "devices", "list", "--json")
    assert _plain([profile.as_dict() for profile in library.list_devices()]) == listed["devices"]
    shown = library.show_device("nano")
    assert _plain({**shown.as_dict(), "path": shown.path}) == _printed(edgerl, "devices", "show", "nano", "--json")
    copy = Path("my-board.toml")
    copy.write_bytes(shown.path.read_bytes())
    code, out, _ = edgerl("devices", "validate", copy)
    assert (code, out) == (0, f"my-board.toml: valid, {library.validate_device(copy).device.name}\n")
    assert library.validate_device(copy).quantities == shown.quantities
    assert vars(shown.quantities["memory.ram_bytes"]) == tomllib.loads(copy.read_text())["memory"]["ram_bytes"]
    evaluated = _printed(edgerl, "devices", "evaluate", POINTS, "--json")
    assert _plain(library.evaluate_devices(POINTS).as_dict()) == evaluated


def test_calibrate(edgerl: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    Path("linux").mkdir()
    fake_linux(Path("linux"), monkeypatch, SERVER)
    KnownMachine().install(monkeypatch)
    notices: list[str] = []
    made = library.calibrate_device("here.toml", notice=notices.append)
    assert (made.path, made.device.id) == (Path("here.toml"), "here")
    assert any("timing networks" in line for line in notices)
    with pytest.raises(OutputError, match=r"here\.toml exists already; pass `force` to replace it"):
        library.calibrate_device("here.toml")
    code, out, _ = edgerl("devices", "calibrate", "-o", "here.toml", "--force")
    assert (code, out.splitlines()[0]) == (0, f"here.toml: {made.device.name}")
    again = library.show_device("here.toml")
    assert again.quantities.keys() == made.quantities.keys()
    with pytest.raises(ConfigError, match=r"^`output` is 'here\.json'; expected a name that ends in \.toml"):
        library.calibrate_device("here.json")


def test_report(edgerl: Run, run: Path) -> None:
    made = library.write_report([run], "a.html")
    shown = _printed(edgerl, "report", run, "-o", "b.html", "--json")
    varies = {"path", "seconds", "bytes"}
    assert {k: v for k, v in _plain(asdict(made)).items() if k not in varies} == {
        k: v for k, v in shown.items() if k not in varies
    }


def test_sweep_and_table(edgerl: Run) -> None:
    Path("small.toml").write_text(
        "[run]\nhidden = [16, 16]\nsteps = 200\nstart_steps = 100\nevaluation_interval = 100\nevaluation_episodes = 1\n"
        '[grid]\nenvironment = ["Pendulum-v1"]\nmethod = ["td3", "ds-td3"]\n'
    )
    statuses: list[SweepStatus] = []
    assert library.plan_sweep("small.toml", jobs=1).finished == 0
    status = library.sweep("small.toml", jobs=1, report=statuses.append)
    assert status == statuses[-1]
    assert [run.state for run in status.runs] == ["finished", "finished"]
    plan = library.plan_sweep("small.toml", jobs=1)
    code, lines, _ = edgerl("sweep", "small.toml", "--jobs", 1, "--dry-run", "--json")
    assert (code, plan.finished, plan.seconds) == (0, 2, 0)
    assert [json.loads(line) for line in lines.splitlines()[:-1]] == [
        {"event": "planned", **_plain(run.as_dict())} for run in plan.runs
    ]
    assert _plain(as_dict(library.table("small.toml"))) == _printed(edgerl, "table", "small.toml", "--format", "json")


def test_prune_and_profile(edgerl: Run, run: Path) -> None:
    result = library.prune(run, "a.safetensors", precision="fp16", episodes=0)
    shown = _printed(edgerl, "prune", run, "-o", "b.safetensors", "--dtype", "fp16", "--episodes", 0, "--json")
    assert _plain((result.file_bytes, asdict(result.difference))) == [shown["file_bytes"], shown["action_difference"]]
    profiled = _printed(edgerl, "profile", "a.safetensors", "--device", "raspberry-pi-5", "--json")
    assert _plain(library.profile("a.safetensors", "raspberry-pi-5").as_dict()) == profiled


def test_profile_learner(edgerl: Run, run: Path) -> None:
    library.export_policy(run, "learner", "learner.safetensors")
    shown = _printed(edgerl, "profile", "learner.safetensors", "--learn", "--device", "raspberry-pi-5", "--json")
    report = library.profile_learner(Path("learner.safetensors"), "raspberry-pi-5")
    assert _plain({**report.acting.as_dict(), "learning": report.as_dict()}) == shown


def test_measure_and_write_benchmark(edgerl: Run, run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in (("WARM_UP_NS", 10**7), ("MEASURED_NS", 3 * 10**7), ("MOST_EVICTED", 8 << 20)):
        monkeypatch.setattr(measuring, name, value)
    notices: list[str] = []
    measured = library.measure(run, notice=notices.append).as_dict()
    assert notices == [f"using {run / 'policy.safetensors'}", "measuring here, some seconds"]
    shown = _printed(edgerl, "profile", run, "--measure", "--json")
    del shown["model"]
    assert measured.keys() == shown.keys()
    for name in ("policy_sha256", "machine", "not_measured", "counts_for"):
        assert _plain(measured[name]) == shown[name]
    for ours, theirs in zip(measured["measurements"], shown["measurements"], strict=True):
        assert (ours["runtime"], ours["engine"]) == (theirs["runtime"], theirs["engine"])
        assert max(ours["largest_difference"], theirs["largest_difference"]) <= 1e-5
    written = library.write_benchmark("a.tar", run)
    shown = _printed(edgerl, "profile", run, "--bundle", "b.tar", "--json")["bundle"]
    assert _plain(written.as_dict()) == {**shown, "file": "a.tar"}
    assert Path("a.tar").stat().st_size == written.bytes
    with pytest.raises(ConfigError, match=r"^`ssh` and `result` were both given"):
        library.measure(run, ssh="root@board", result="result.json")
    with pytest.raises(ConfigError, match=r"^`ssh_config` is for `ssh`"):
        library.measure(run, ssh_config="config")
