"""What arrives on stdout and stderr: every command in any encoding, and results for programs apart from the rest."""

from __future__ import annotations

import io
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import edgerl as library
from edgerl.cli import app, devices, main
from edgerl.cli.support.streams import READABLE, make_streams_safe
from tests import streams

Run = Callable[..., tuple[int, str, str]]
ROOT = Path(__file__).parents[2]
OWN = ("--env", "robots:painted_robot")
STUDY = """
[run]
preset = "quick"
steps = 60
start_steps = 30
evaluation_interval = 30
evaluation_episodes = 1
hidden = [8, 8]
[grid]
environment = ["robots:painted_robot"]
"""

COMMANDS: dict[str, list[tuple[object, ...]]] = {
    "train": [("train", *OWN, "--preset", "quick", "--steps", 60, "--hidden", "8,8", "--out", "new")],
    "cost": [("cost", *OWN)],
    "prune": [("prune", "run", *OWN, "--episodes", 2)],
    "export": [
        ("export", "run"),
        ("export", "run", "--format", "c", "--no-measure"),
        ("export", "run", "--format", "c", "--learn"),
        ("export", "run", "--format", "learner"),
    ],
    "profile": [
        ("profile", "run", "--device", "stm32f405"),
        ("profile", "run", "--device", "stm32f405", "--device", "jetson-nano"),
        ("profile", "run/learner.safetensors", "--device", "raspberry-pi-5", "--learn"),
        ("profile", "run/policy.onnx", "--measure"),
    ],
    "distill": [
        ("distill", "run", *OWN, "--sparsity", 0.5, "--rounds", 1, "--updates", 20, "--episodes", 2, "--force"),
    ],
    "fit": [("fit", "run", *OWN, "--device", "stm32f405", "--episodes", 2, "--max-loss", "50%")],
    "run": [("run", "run", *OWN, "--seconds", 0.1)],
    "play": [("play", "run", *OWN, "--video", "out.gif")],
    "learn": [("learn", "run", *OWN, "--rate", 0, "--hours", 0.0001)],
    "table": [("table", "own.toml")],
    "report": [("report", "run", "-o", "é.html")],
    "import": [("import", "run/policy.onnx", "-o", "ímport.safetensors", "--force")],
    "info": [("info", "run"), ("info", "λ.toml")],
    "sweep": [("sweep", "own.toml", "--dry-run", "--jobs", 1)],
    "devices list": [("devices", "list")],
    "devices show": [("devices", "show", "jetson-nano")],
    "devices validate": [("devices", "validate", "λ.toml")],
    "devices evaluate": [("devices", "evaluate", ROOT / "benchmarks/published_latencies.jsonl")],
    "devices calibrate": [("devices", "calibrate", "-o", "µ.toml")],
}


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a run and all that is made of one, a study with its run, and a profile."""
    from edgerl.training.handover import hand_over

    folder = tmp_path_factory.mktemp("made")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.syspath_prepend(str(ROOT / "tests"))
        options = {"hidden": (8, 8), "batch_size": 8, "evaluation_episodes": 1, "evaluation_interval": 30}
        for out in ("run", "runs/own/robots-painted_robot-ds-td3-seed0"):
            library.train(OWN[1], preset="quick", out=out, steps=60, start_steps=30, **options)
        library.export_policy("run", "onnx", "run/policy.onnx")
        hand_over("run", "run/learner.safetensors")
        Path("own.toml").write_text(STUDY.replace("[grid]", "batch_size = 8\n[grid]"))
        shutil.copy(ROOT / "device_profiles/jetson-nano.toml", "λ.toml")
    return folder


def _typed(encoding: str, *arguments: object) -> tuple[int, bytes, bytes]:
    """A command whose streams have that encoding and, as Python's own, raise where it lacks a character."""
    outputs = [io.BytesIO(), io.BytesIO()]
    with pytest.MonkeyPatch.context() as patch, streams.put_back():
        patch.setattr(sys, "argv", ["edgerl", *map(str, arguments)])
        for name, output in zip(("stdout", "stderr"), outputs, strict=True):
            patch.setattr(sys, name, io.TextIOWrapper(output, encoding, write_through=True))
        with pytest.raises(SystemExit) as left:
            main()
        return int(left.value.code or 0), outputs[0].getvalue(), outputs[1].getvalue()


def test_no_command_is_forgotten_here() -> None:
    named = {str(command.name) for command in app.registered_commands}
    named |= {f"devices {command.name or command.callback.__name__}" for command in devices.app.registered_commands}  # type: ignore[union-attr]
    assert named == set(COMMANDS)


@pytest.mark.parametrize("encoding", ["ascii", "latin-1"])
@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_in_a_narrow_encoding(
    made: Path, command: str, encoding: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    from edgerl.profiling.measuring import calibrate

    monkeypatch.setattr(calibrate, "calibrate", lambda *_: Path("λ.toml").read_text("utf-8"))
    shutil.copytree(made, ".", dirs_exist_ok=True)
    for arguments in COMMANDS[command]:
        code, out, err = _typed(encoding, *arguments)
        assert code == 0, err.decode(encoding)
        assert out.decode(encoding)
        assert b"\\u" not in out + err or command in ("report", "devices validate", "info", "devices calibrate")


def test_what_an_encoding_lacks_is_spelled_out_or_escaped() -> None:
    make_streams_safe()
    text = "2×8 → 2×7, ≈ 3 µs ± 1, – and −1 … λ1 é \udcff"
    assert text.encode("ascii", READABLE) == rb"2x8 -> 2x7, ~ 3 us +- 1, - and -1 ... lambda1 \xe9 \xff"
    assert text.encode("latin-1", READABLE).decode("latin-1") == "2×8 -> 2×7, ~ 3 µs ± 1, - and -1 ... lambda1 é \\xff"
    assert "1 µs → é λ".encode("utf-8", READABLE).decode() == "1 µs → é λ"


@pytest.mark.parametrize("form", ["markdown", "junit"])
def test_what_goes_into_a_file_is_utf_8(made: Path, form: str) -> None:
    shutil.copytree(made, ".", dirs_exist_ok=True)
    command = [sys.executable, "-m", "edgerl", "profile", "run", "--device", "stm32f405", "--budget-latency", "1us"]
    environment = {**os.environ, "PYTHONIOENCODING": "latin-1"}
    done = subprocess.run([*command, "--format", form], capture_output=True, env=environment)
    assert done.returncode == 1
    assert " µs" in done.stdout.decode()
    assert " µs" in done.stderr.decode("latin-1")


LOUD = """
import atexit, ctypes, os, sys
from robots import Robot
print("imported")
libc = ctypes.CDLL(None)
class Loud(Robot):
    def __init__(self):
        super().__init__()
        atexit.register(print, "at exit")
        sys.__stdout__.write("to the first stdout")
        libc.printf(b"buffered in C")
        os.system("echo of a child")
    def reset(self, **options):
        print("reset")
        return super().reset(**options)
    def step(self, action):
        os.write(1, b"written to 1\\n")
        return super().step(action)
"""

SAID = ("imported", "at exit", "to the first stdout", "buffered in C", "of a child", "reset", "written to 1")


def _loud(*arguments: object, **options: Any) -> subprocess.CompletedProcess[str]:
    Path("loud.py").write_text(LOUD)
    environment = {**os.environ, "PYTHONPATH": str(ROOT / "tests"), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "edgerl", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, env=environment, **options)


def test_whatever_an_environment_prints_json_has_stdout_alone() -> None:
    done = _loud("train", "--env", "loud:Loud", "--preset", "quick", "--steps", 60, "--hidden", "8,8", "--json")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["steps"] == 60
    assert [text for text in SAID if text not in done.stderr] == []


@pytest.mark.parametrize(
    "arguments",
    [
        ("cost", "--env", "loud:Loud", "--json"),
        ("prune", "run", "--env", "loud:Loud", "--episodes", 1, "--json"),
        ("fit", "run", "--env", "loud:Loud", "--device", "stm32f405", "--episodes", 2, "--max-loss", "50%", "--json"),
        ("run", "run", "--env", "loud:Loud", "--seconds", 0.1, "--json"),
        ("learn", "run", "--env", "loud:Loud", "--rate", 0, "--hours", 0.0001, "--json"),
        ("sweep", "loud.toml", "--dry-run", "--json"),
        ("sweep", "loud.toml", "--jobs", 1, "--json"),
        ("table", "loud.toml", "--format", "json"),
    ],
    ids=lambda arguments: arguments[0],
)
def test_json_of_every_command_that_makes_an_environment(
    edgerl: Run, made: Path, arguments: tuple[object, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(made, ".", dirs_exist_ok=True)
    Path("loud.py").write_text(LOUD.replace('atexit.register(print, "at exit")', "pass"))
    monkeypatch.delitem(sys.modules, "loud", raising=False)
    monkeypatch.setenv("PYTHONPATH", str(ROOT / "tests"))
    for path in ("run/config.json", "own.toml"):
        text = Path(path).read_text().replace("robots:painted_robot", "loud:Loud")
        Path(path.replace("own", "loud")).write_text(text)
    _rename_environment(Path("run"), "loud:Loud")
    if arguments[0] == "table":
        shutil.copytree("runs/own/robots-painted_robot-ds-td3-seed0", run := Path("runs/loud/loud-Loud-ds-td3-seed0"))
        _rename_environment(run, "loud:Loud")
    code, out, err = edgerl(*arguments)
    assert code == 0, err
    if arguments[0] in ("sweep", "learn"):
        assert all(isinstance(json.loads(line), dict) for line in out.splitlines())
    else:
        assert isinstance(json.loads(out), dict)
    assert "imported" in err


def _rename_environment(run: Path, environment: str) -> None:
    """As if the run had been trained in it."""
    import dataclasses

    from edgerl.config import to_json
    from edgerl.training import checkpoint as file

    checkpoint = file.read(run / "checkpoint.safetensors")
    config = dataclasses.replace(checkpoint.config, environment=environment)
    file.write(run / "checkpoint.safetensors", dataclasses.replace(checkpoint, config=config))
    (run / "config.json").write_text(to_json(config))


def test_a_reader_that_leaves_and_a_full_disk() -> None:
    """As `edgerl … --json | head -c 0`: the end is in order, and silent; a full disk is one line."""
    for arguments in (("devices", "list"), ("devices", "list", "--json")):
        reading, writing = os.pipe()
        os.close(reading)
        done = subprocess.run(
            [sys.executable, "-m", "edgerl", *arguments], stdout=writing, stderr=subprocess.PIPE, text=True
        )
        os.close(writing)
        assert (done.returncode, done.stderr) == (0, "")
        with open("/dev/full", "w") as full:
            done = subprocess.run(
                [sys.executable, "-m", "edgerl", *arguments], stdout=full, stderr=subprocess.PIPE, text=True
            )
        assert done.returncode == 2
        assert done.stderr.endswith("No space left on device; choose another place, or free this one\n")
        assert done.stderr.count("\n") == 1


@pytest.mark.parametrize(("closed", "says"), [("<&-", True), (">&-", False), ("2>&-", True), ("<&- >&- 2>&-", False)])
def test_streams_that_whoever_started_it_closed(closed: str, says: bool) -> None:
    """No file that the command opens becomes its stdout, and what belongs to one stream does not go to the other."""
    command = f"{sys.executable} -m edgerl cost --env Pendulum-v1 --json {closed}"
    done = subprocess.run(["sh", "-c", command], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
    assert bool(done.stdout) == says
    refused = subprocess.run(["sh", "-c", f"{sys.executable} -m edgerl nonsense {closed}"], capture_output=True)
    assert (refused.returncode, refused.stdout) == (2, b"")


def test_a_system_that_is_not_posix_is_one_line(edgerl: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "fcntl", None)
    assert edgerl("devices", "list") == (
        2,
        "",
        "edgerl: edgerl needs Linux or another POSIX system, and this is none; on Windows, use WSL 2\n",
    )
