"""`edgerl.learn`: what a caller in Python is given, and what is kept where it is stopped."""

from __future__ import annotations

import signal
from pathlib import Path
from typing import Any

import pytest

import edgerl
from edgerl.commands.learn import LearnResult, LearnStart
from edgerl.errors import ConfigError, EnvironmentError, Interrupted
from tests.edge.learners import learner_config, write_bundle

ROBOT = """
import signal
from pathlib import Path

class Robot:
    def reset(self, seed):
        self.age = 0
        return [0.1] * 4

    def step(self, action):
        self.age += 1
        if self.age == 20 and Path("interrupt").exists():
            signal.raise_signal(int(Path("interrupt").read_text()))
        if self.age == 20 and Path("fail").exists():
            raise OSError("bus off")
        return [0.1 * float(action[0])] * 4, -1.0, False, self.age == 30, {}

    def close(self):
        Path("at-rest").touch()
"""


@pytest.fixture(autouse=True)
def bundle() -> Path:
    Path("robot_20.py").write_text(ROBOT)
    return write_bundle(config=learner_config(n=4, m=2))


class Observer:
    """What a caller is told, in order."""

    def __init__(self) -> None:
        self.starts: list[LearnStart] = []
        self.reports: list[Any] = []
        self.results: list[LearnResult] = []
        self.notices: list[str] = []

    def learn(self, *arguments: Any, **options: Any) -> LearnResult:
        return edgerl.learn(
            *arguments,
            **{"env": "robot_20:Robot", "rate": 0, "hours": 0.0001, "status_seconds": 0.05} | options,
            started=self.starts.append,
            report=self.reports.append,
            stopped=self.results.append,
            notice=self.notices.append,
        )


@pytest.fixture
def observer() -> Observer:
    return Observer()


def test_it_is_told_how_it_starts_stands_and_ends(observer: Observer, bundle: Path) -> None:
    result = observer.learn(bundle)
    (start,) = observer.starts
    assert (start.environment, start.is_new, start.steps, start.rate_hz) == ("robot_20:Robot", True, 0, 0)
    assert start.state == result.state == Path("state").absolute()
    assert observer.results == [result]
    assert observer.notices == []
    assert (result.reason, result.status["seconds"]) == ("complete", pytest.approx(0.36, abs=0.2))
    assert result.status["last_episode"] == {"return": -30, "steps": 30}
    steps = [status["steps"] for status in [*observer.reports, result.status]]
    assert steps == sorted(steps)
    assert len(steps) > 1
    assert Path("at-rest").exists()


def test_the_same_call_continues_and_says_when_the_time_is_up(observer: Observer, bundle: Path) -> None:
    first = observer.learn(bundle)
    again = observer.learn(bundle)
    assert observer.starts[1].steps == first.status["steps"] == again.status["steps"]
    assert not observer.starts[1].is_new
    assert observer.notices == [
        f"ignoring {bundle}: resuming from {first.state}",
        f"{first.state} has run for the hours requested; request more to go on",
    ]
    assert observer.learn(hours=0.0002).status["steps"] > first.status["steps"]
    assert observer.results[1] == again


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_saves_everything(observer: Observer, bundle: Path, number: signal.Signals) -> None:
    Path("interrupt").write_text(str(int(number)))
    with pytest.raises(Interrupted, match=r"everything is in .*state") as stopped:
        observer.learn(bundle)
    assert stopped.value.exit_code == 128 + number
    (result,) = observer.results
    assert (result.reason, result.status["steps"], result.status["snapshots"]) == (number.name, 20, 2)
    Path("interrupt").unlink()
    observer.learn(hours=0.0001)
    assert observer.starts[1].steps == 20


def test_a_robot_that_fails_is_reported_and_raised(observer: Observer, bundle: Path) -> None:
    Path("fail").touch()
    with pytest.raises(EnvironmentError, match="bus off"):
        observer.learn(bundle)
    (result,) = observer.results
    assert "robot_20:Robot failed at step 20 (seed 0) (OSError: bus off)" in result.reason
    assert result.status["snapshots"] == 2
    assert Path("at-rest").exists()


def test_messages_name_parameters(bundle: Path) -> None:
    with pytest.raises(ConfigError, match=r"^`hours` is 0; expected a number in"):
        edgerl.learn(bundle, hours=0)
    with pytest.raises(ConfigError, match=r"^`window_seconds` is 0; expected a number in"):
        edgerl.learn(bundle, window_seconds=0)
    with pytest.raises(ConfigError, match=r"^`updates` is 'never'; expected idle or thread"):
        edgerl.learn(bundle, updates="never")  # type: ignore[arg-type]
