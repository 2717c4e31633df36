"""A run folder, a policy, a learner or a study's folder from elsewhere does not choose the code that runs."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import edgerl as library
from edgerl.environments.consent import check_consent, resume_command
from edgerl.errors import ConfigError
from edgerl.studies.grid import plan_runs
from edgerl.studies.study import load_study, to_record
from tests.studies.folders import write_run

Run = Callable[..., tuple[int, str, str]]
SMALL: dict[str, Any] = {"hidden": (8, 8), "sparsity": 0.5, "steps": 60, "start_steps": 30, "evaluation_interval": 30}
CODE = "from pathlib import Path\nfrom robots import robot as make\nPath('ran').touch()\n"
STUDY = '[run]\nsteps = 60\n[grid]\nenvironment = ["theirs:make", "Pendulum-v1"]\nseed = [0]\n'


@pytest.fixture(scope="module")
def foreign(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a run, its exports, and a study, all of `theirs:make`, as they might be sent by somebody."""
    folder = tmp_path_factory.mktemp("foreign")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.syspath_prepend(str(Path(__file__).parents[1]))
        patch.syspath_prepend(str(folder))
        Path("theirs.py").write_text(CODE)
        library.train("theirs:make", out="run", batch_size=8, evaluation_episodes=1, **SMALL)
        library.export_policy("run", "onnx", "run/policy.onnx")
        from edgerl.training.handover import hand_over

        hand_over("run", "run/learner.safetensors")
        Path("own.toml").write_text(STUDY)
        study = load_study("own.toml")
        for run in plan_runs(study):
            write_run(Path("study") / run.name, run, [1.0])
        Path("study/study.json").write_text(to_record(study))
        Path("ran").unlink()
    return folder


@pytest.fixture(autouse=True)
def _received(foreign: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shutil.copytree(foreign, ".", dirs_exist_ok=True)
    monkeypatch.delitem(sys.modules, "theirs", raising=False)


NAMED = "names the environment 'theirs:make', which is code; to run it, add --env theirs:make\n"

REFUSED = {
    "train": ("--resume", "run"),
    "prune": ("run",),
    "fit": ("run", "--device", "stm32f405", "--episodes", 2),
    "run": ("run/policy.onnx",),
    "play": ("run/policy.safetensors", "--video", "out.gif"),
    "learn": ("run",),
    "table": ("study",),
}

TAKEN = {
    "prune": ("run", "--episodes", 0),
    "report": ("run",),
    "info": ("run",),
    "export": ("run",),
    "profile": ("run", "--device", "stm32f405"),
    "table": ("study", "--env", "Pendulum-v1"),
}


@pytest.mark.parametrize("command", REFUSED)
def test_a_file_does_not_choose_the_code_that_runs(edgerl: Run, command: str) -> None:
    code, out, err = edgerl(command, *REFUSED[command])
    assert (code, out) == (2, "")
    assert err.endswith(NAMED)
    assert not Path("ran").exists()


@pytest.mark.parametrize("command", TAKEN)
def test_what_needs_no_environment_needs_no_consent(edgerl: Run, command: str) -> None:
    code, _, err = edgerl(command, *TAKEN[command])
    assert code == 0, err
    assert not Path("ran").exists()


@pytest.mark.parametrize(
    "arguments",
    [
        ("train", "--resume", "run", "--env", "theirs:make"),
        ("prune", "run", "--env", "theirs:make", "--episodes", 1),
        ("fit", "run", "--device", "stm32f405", "--episodes", 2, "--max-loss", 0.5, "--env", "theirs:make"),
        ("table", "study", "--env", "theirs:make"),
        ("table", "own.toml", "--out", "study"),
    ],
    ids=lambda arguments: arguments[0],
)
def test_who_names_it_or_a_study_that_does_has_it_run(edgerl: Run, arguments: tuple[object, ...]) -> None:
    code, _, err = edgerl(*arguments)
    assert code == 0, err
    assert Path("ran").exists()


@pytest.mark.parametrize("other", ["theirs:other", "Pendulum-v1"])
@pytest.mark.parametrize("command", ["train", "prune", "fit"])
def test_a_run_has_no_other_environment_than_its_own(edgerl: Run, command: str, other: str) -> None:
    code, _, err = edgerl(command, *REFUSED[command], "--env", other)
    assert code == 2
    assert err.endswith(f"run has the environment 'theirs:make', and --env is '{other}'; name the same\n")
    assert not Path("ran").exists()


def test_the_same_holds_in_python() -> None:
    for call in (
        lambda **own: library.train(resume="run", **own),
        lambda **own: library.prune("run", episodes=1, **own),
        lambda **own: library.fit("run", "stm32f405", episodes=2, max_loss=0.5, **own),
    ):
        with pytest.raises(ConfigError, match=r"'theirs:make', which is code; to run it, add --env theirs:make$"):
            call()
        assert not Path("ran").exists()
        call(env="theirs:make")
        assert Path("ran").exists()
        Path("ran").unlink()
        del sys.modules["theirs"]


def test_a_sweep_goes_on_with_what_its_own_study_names(edgerl: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parents[1]))  # where theirs.py finds its robot
    Path("mine.toml").write_text(
        '[run]\npreset = "quick"\nsteps = 60\nstart_steps = 30\nhidden = [8]\nevaluation_episodes = 1\n'
        '[grid]\nenvironment = ["theirs:make"]\n'
    )
    code, out, err = edgerl("sweep", "mine.toml", "--jobs", 1)
    assert code == 0, err
    assert "their table: edgerl table runs/mine --env theirs:make\n" in out
    assert edgerl("table", "runs/mine", "--env", "theirs:make")[0] == 0


def test_a_name_that_nobody_should_type_is_not_suggested() -> None:
    with pytest.raises(ConfigError, match=r"which is code; no environment can have such a name$"):
        check_consent("a:b; rm -r .", {}, None, "file")
    assert resume_command("run", "a:b; rm -r .", {}) == "edgerl train --resume run"
    assert resume_command("run", "a.b:c", {}) == "edgerl train --resume run --env a.b:c"
    assert resume_command("run", "a.b:d/C-v0", {}) == "edgerl train --resume run --env a.b:d/C-v0"
    assert resume_command("run", "Hopper-v5", {"weight": 2.0}) == "edgerl train --resume run"


def test_a_text_as_an_argument_is_as_good_as_code() -> None:
    arguments = {"weight": 2.0, "xml_file": "/tmp/theirs.xml"}
    message = r"names the environment 'Ant-v5', with \{'xml_file': '/tmp/theirs.xml'\}, which can name files and code"
    with pytest.raises(ConfigError, match=message + "; to run it, add --env Ant-v5$"):
        check_consent("Ant-v5", arguments, None, "file")
    check_consent("Ant-v5", arguments, "Ant-v5", "file")
    check_consent("Ant-v5", {"weight": 2.0}, None, "file")
    assert resume_command("run", "Ant-v5", arguments) == "edgerl train --resume run --env Ant-v5"
