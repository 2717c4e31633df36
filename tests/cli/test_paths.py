"""An environment that moves the process to another folder, at any time, moves no file and breaks no relative path."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import edgerl as library
from edgerl.errors import OutputError
from edgerl.files.paths import anchored, at_home, reachable, shortened
from edgerl.run_folder import short

Run = Callable[..., tuple[int, str, str]]
ROOT = Path(__file__).parents[2]

MOVER = """
import os
import numpy as np
from robots import Robot

def move():
    if os.getcwd().count("/sim") < 20:
        os.makedirs("sim", exist_ok=True)
        os.chdir("sim")  # deeper each time

{at_import}

class Mover(Robot):
    metadata = {{"render_modes": ["rgb_array"], "render_fps": 10}}
    def __init__(self, render_mode=None):
        super().__init__(length=9)
        {in_constructor}
    def reset(self, **options):
        {in_reset}
        return super().reset(**options)
    def step(self, action):
        {in_step}
        return super().step(action)
    def render(self):
        return np.zeros((64, 96, 3), np.uint8)
"""

WHEN = ("at_import", "in_constructor", "in_reset", "in_step")
SMALL: dict[str, Any] = {"hidden": (8, 8), "steps": 60, "start_steps": 30, "evaluation_interval": 30, "batch_size": 8}
OWN = ("--env", "mover:Mover")
TRAIN = ("train", *OWN, "--preset", "quick", "--steps", 60, "--hidden", "8,8", "--checkpoint-interval", 30)


def _mover(when: str) -> None:
    moves = {moment: "move()" if when in (moment, "always") else "pass" for moment in WHEN}
    Path("mover.py").write_text(MOVER.format(**moves))


@pytest.fixture(params=WHEN)
def mover(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """mover.py in the current folder."""
    _mover(request.param)
    monkeypatch.delitem(sys.modules, "mover", raising=False)
    monkeypatch.setenv("PYTHONPATH", str(ROOT / "tests"))
    yield tmp_path
    sys.modules.pop("mover", None)


@pytest.fixture
def typed(edgerl: Run, mover: Path) -> Run:
    """Each command is typed in the same folder, and moves away from it; it does whatever it says."""

    def run(*arguments: object) -> tuple[int, str, str]:
        os.chdir(mover)
        sys.modules.pop("mover", None)
        answer = edgerl(*arguments)
        assert (answer[0] == 2) == (arguments[-1] == "refused"), answer
        moved = Path.cwd()
        os.chdir(mover)
        assert moved != mover, "the environment does what it is for"
        assert [path for path in Path("sim").rglob("*") if not path.is_dir()] == [], "nothing of ours is where it went"
        return answer

    return run


def test_training_stays_where_it_began(typed: Run) -> None:
    _, out, err = typed(*TRAIN)
    run = Path("runs/mover-Mover-ds-td3-seed0")
    assert f"run folder {run}; live curves: tensorboard --logdir {run}\n" in err
    assert f"policy {run}/policy.safetensors\n" in out
    names = {path.name.partition(".")[0] for path in run.iterdir()}
    assert names == {"config", "metrics", "topology", "versions", "checkpoint", "policy", "replay", "events"}
    assert Path("runs/latest").resolve() == run.resolve()
    _, out, _ = typed("train", "--resume", "runs/latest", *OWN, "--steps", 90, "--json")
    assert (json.loads(out)["run"], json.loads(out)["steps"]) == (str(run), 90)
    assert json.loads(typed(*TRAIN, "--json")[1])["policy"] == f"{run}-2/policy.safetensors"
    assert json.loads(typed(*TRAIN, "--json", "--out", "a/b")[1])["policy"] == "a/b/policy.safetensors"
    Path("refused").write_text("mine")
    err = typed(*TRAIN, "--out", "refused")[2]
    assert err == "edgerl: refused exists already; go on with --resume refused, or choose another --out\n"


@pytest.mark.parametrize("mover", ["always"], indirect=True)
def test_every_command_with_an_environment_writes_where_it_was_told_to(typed: Run, mover: Path) -> None:
    typed(*TRAIN, "--out", "run")
    _, out, _ = typed("prune", "run", *OWN, "--episodes", 1, "-o", "small.safetensors")
    assert out.count(": small.safetensors\n") == 1
    assert typed("prune", "run", *OWN, "--episodes", 1)[1].count(": run/policy.safetensors\n") == 1
    _, out, _ = typed("fit", "run", *OWN, "--device", "stm32f405", "--episodes", 2, "--max-loss", "90%")
    assert out.endswith("policy run/policy-stm32f405.safetensors\npicture run/policy-stm32f405.png\n")
    typed("fit", "run", *OWN, "--device", "stm32f405", "--episodes", 2, "--max-loss", "90%", "-o", "fit.safetensors")
    assert json.loads(typed("play", "run", *OWN, "--video", "out.gif", "--json")[1])["path"] == "out.gif"
    typed("run", "run", *OWN, "--seconds", 0.05)
    typed("cost", *OWN)
    assert library.export_policy("run", "onnx", "run/policy.onnx").n_bytes
    from edgerl.training.handover import hand_over

    hand_over("run", "run/learner.safetensors")
    learning = (*OWN, "--rate", 0, "--hours", 0.00005, "--status-seconds", 0.01, "--json")
    for arguments, state in ((("run",), "run/state"), (("run", "--state", "mine"), "mine")):
        events = [json.loads(line) for line in typed("learn", *arguments, *learning)[1].splitlines()]
        assert (events[0]["state"], events[-1]["disk"]["errors"]) == (state, 0)
        assert {"lock", "transitions.log"} < set(os.listdir(state))
    found = {path.name for path in mover.iterdir()}
    assert found - {"__pycache__"} == {
        *("mover.py", "sim", "run", "small.safetensors", "fit.safetensors", "fit.png", "out.gif", "mine")
    }


@pytest.mark.parametrize("mover", ["always"], indirect=True)
def test_a_study_and_its_runs_stay_where_they_began(typed: Run) -> None:
    Path("own.toml").write_text(
        '[run]\npreset = "quick"\nsteps = 60\nstart_steps = 30\nhidden = [8]\nevaluation_interval = 30\n'
        '[grid]\nenvironment = ["mover:Mover"]\n'
    )
    _, out, _ = typed("sweep", "own.toml", "--dry-run", "--json")
    assert json.loads(out.splitlines()[-1])["folder"] == "runs/own"
    _, out, _ = typed("sweep", "own.toml", "--jobs", 1)
    assert "1 runs finished in runs/own, " in out
    assert Path("runs/own/mover-Mover-ds-td3-seed0/policy.safetensors").is_file()
    assert "1 of 1 runs" in typed("table", "own.toml")[1]


def test_a_python_callers_paths_lead_there_from_wherever_it_is_now(mover: Path) -> None:
    result = library.train("mover:Mover", out="run", **SMALL)
    assert Path.cwd() != mover
    assert result.folder == mover / "run"
    assert library.load(result.policy).n_actions == 2
    os.chdir(mover)
    sys.modules.pop("mover", None)
    assert library.prune("run", "small.safetensors", episodes=1, env="mover:Mover").path == mover / "small.safetensors"
    assert (mover / "small.safetensors").is_file()


def test_what_a_python_caller_gave_is_what_it_gets_where_nobody_moved() -> None:
    assert library.train("robots:robot", out="run", **SMALL).folder == Path("run")
    assert library.train("robots:robot", out=Path.cwd() / "other", **SMALL).folder == Path.cwd() / "other"
    assert library.train("robots:robot", **SMALL).policy == Path("runs/robots-robot-ds-td3-seed0/policy.safetensors")


# The functions themselves.


def test_paths_lead_from_where_the_outermost_began(tmp_path: Path) -> None:
    Path("inner").mkdir()
    with at_home():
        os.chdir("inner")
        with at_home():
            assert anchored("x") == tmp_path / "x"
            assert (reachable(Path("x")), reachable(tmp_path / "y")) == (tmp_path / "x", tmp_path / "y")
            assert short(tmp_path / "x") == Path("x")
            os.chdir(tmp_path)
            assert reachable(Path("x")) == Path("x")
        os.chdir("inner")
    assert anchored("x") == tmp_path / "inner/x"


def test_lines_for_people_are_short(tmp_path: Path) -> None:
    line = f"{tmp_path}/a and '{tmp_path}/b': not /other{tmp_path}/c, {tmp_path}-2/d, {tmp_path} or {tmp_path}/"
    assert shortened(line) == line
    with at_home():
        assert shortened(line) == f"a and 'b': not /other{tmp_path}/c, {tmp_path}-2/d, {tmp_path} or {tmp_path}/"


def test_a_folder_that_was_removed_is_one_line(edgerl: Run, tmp_path: Path) -> None:
    gone = tmp_path / "gone"
    gone.mkdir()
    os.chdir(gone)
    gone.rmdir()
    try:
        assert edgerl("devices", "list") == (2, "", "edgerl: the current folder was removed; change to another one\n")
        with pytest.raises(OutputError, match="the current folder was removed"):
            anchored("x")
    finally:
        os.chdir(tmp_path)
