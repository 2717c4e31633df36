"""Docs cannot rot: every command has help with an example, and what the README shows is run."""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import pytest
import typer.main

from edgerl.edge.acting.onnx_policy import OnnxPolicy

from .edge.compiled import ENGINE, WARNINGS, compile_c
from .processes import Processes

ROOT = Path(__file__).parents[1]
COMMANDS = (
    "train",
    "cost",
    "prune",
    "export",
    "profile",
    "fit",
    "report",
    "run",
    "play",
    "learn",
    "sweep",
    "table",
    "info",
    "devices list",
    "devices show",
    "devices validate",
    "devices calibrate",
    "devices evaluate",
)
Run = Callable[..., tuple[int, str, str]]


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_has_help_that_ends_with_an_example(edgerl: Run, command: str) -> None:
    code, out, _ = edgerl(*command.split(), "--help")
    assert code == 0
    description = out.split("Options:")[0]
    assert f"Example: edgerl {command}" in " ".join(description.split())


def test_every_option_has_help() -> None:
    from edgerl.cli import app

    root = typer.main.get_command(app)
    commands = [root, *root.commands.values(), *root.commands["devices"].commands.values()]  # type: ignore[attr-defined]
    for command in commands:
        for parameter in command.params:
            assert parameter.help, f"{command.name} {parameter.name}"


def test_every_command_is_in_the_list_of_commands(edgerl: Run) -> None:
    listed = (ROOT / "docs/commands.md").read_text()
    assert edgerl()[0] == 0
    for command in COMMANDS:
        assert f"edgerl {command.split()[0]}" in listed, command


def _snippets(path: Path, language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", path.read_text(), flags=re.DOTALL)


def test_the_readme_is_short() -> None:
    prose = re.sub(r"```.*?```", "", (ROOT / "README.md").read_text(), flags=re.DOTALL)
    assert len(prose.split()) <= 700


def test_the_readmes_python_example_runs() -> None:
    (example,) = _snippets(ROOT / "README.md", "python")
    assert len([line for line in example.splitlines() if line.strip()]) <= 6, "an import and five lines"
    shortened = example.replace('preset="quick"', 'preset="quick", steps=600, start_steps=500, evaluation_episodes=1')
    assert shortened != example
    exec(compile(shortened, "README.md", "exec"), {})
    assert Path("policy.onnx").exists()


CONTINUAL = ROOT / "docs/continual.md"


def _shortened(commands: str, changes: Mapping[str, str]) -> list[str]:
    """The lines of commands, changed where a document's would take minutes."""
    for long, short in changes.items():
        assert long in commands, long
        commands = commands.replace(long, short)
    return commands.splitlines()


def test_the_robot_of_the_continual_page_is_trained_for_and_learns(edgerl: Run) -> None:
    (robot,), commands = _snippets(CONTINUAL, "python"), _snippets(CONTINUAL, "bash")[0]
    Path("arm.py").write_text(robot)
    changes = {"--preset quick": "--preset quick --steps 600 --hidden 16,16", "--hours 0.1": "--hours 0.0004"}
    for line in _shortened(commands, changes):
        code, out, err = edgerl(*shlex.split(line)[1:])
        assert code == 0, err
    assert "arm:Arm at 50 Hz; state folder runs/arm-simulation-ds-td3-seed0/state: begun" in err
    assert "missed deadlines" in out


SECOND_SNAPSHOT = "snapshot-00000002.safetensors"


def _kill_while_it_learns(processes: Processes, command: Sequence[str]) -> None:
    """`edgerl learn`, as soon as it has taken a second snapshot."""
    process = processes.start(sys.executable, "-m", *command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
    while max((path.name for path in Path("state").glob("snapshot-*.safetensors")), default="") < SECOND_SNAPSHOT:
        assert process.poll() is None
        time.sleep(0.05)
    process.kill()
    _, err = process.communicate()
    assert b"state folder state: begun" in err


def test_the_tour_of_the_continual_page(edgerl: Run, processes: Processes) -> None:
    """Train, export, learn under drift, kill, continue, export."""
    changes = {
        "--preset quick": "--preset quick --steps 600",
        "--hours 0.05": "--hours 0.002",
        "--snapshot-minutes 0.25": "--snapshot-minutes 0.02",
        "@20000": "@500",
    }
    said = []
    for line in _shortened(_snippets(CONTINUAL, "bash")[1], changes):
        if line.startswith(timeout := "timeout --signal=KILL 60 "):
            _kill_while_it_learns(processes, shlex.split(line.removeprefix(timeout)))
        else:
            code, out, err = edgerl(*shlex.split(line)[1:])
            assert code == 0, err
            said.append(out + err)
    _, _, learnt, described, exported, profiled = said
    assert "HalfCheetah-v5 as fast as possible; state folder state: goes on after " in learnt
    assert "state folder\n" in described
    assert "state/policy.onnx: " in exported
    assert "fits" in profiled
    assert OnnxPolicy("state/policy.onnx").metadata["about"]["environment"] == "HalfCheetah-v5"


def test_the_service_of_the_continual_page_uses_options_that_exist(edgerl: Run) -> None:
    (unit,) = _snippets(CONTINUAL, "ini")
    (command,) = re.findall(r"^ExecStart=(.*)$", unit, flags=re.MULTILINE)
    _, out, _ = edgerl("learn", "--help")
    words = shlex.split(command)
    assert words[1] == "learn"
    for option in [word for word in words if word.startswith("--")]:
        assert f"{option} " in out
    for line in ("Restart=always", "SuccessExitStatus=143", "MemoryMax=", "CPUQuota="):
        assert line in unit


def test_the_c_program_of_the_engines_page_learns_and_acts(tmp_path: Path) -> None:
    (program,) = _snippets(ROOT / "docs/engine.md", "c")
    source, binary = tmp_path / "program.c", tmp_path / "program"
    source.write_text(program)
    compile_c("gcc", *WARNINGS, source, ENGINE / "edgerl.c", "-o", binary)
    done = subprocess.run([binary], capture_output=True, text=True, timeout=300)
    assert (done.returncode, done.stderr) == (0, "")
    match = re.fullmatch(r"done: action (\S+)\n", done.stdout)
    assert match is not None, done.stdout
    assert 0 < abs(float(match[1])) < 1


def test_links_between_documents_lead_somewhere() -> None:
    for path in (*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md"), ROOT / "device_profiles/README.md"):
        for target in re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", path.read_text()):
            assert (path.parent / target).exists(), f"{path.name} links to {target}"


def test_deviations_are_numbered_and_each_names_its_test() -> None:
    text = (ROOT / "docs/algorithm.md").read_text()
    rows = re.findall(r"^\| (\d+) \|.*\| `(tests/[^`]+)` \|$", text, flags=re.MULTILINE)
    assert [int(number) for number, _ in rows] == list(range(1, len(rows) + 1))
    assert rows
    for _, reference in rows:
        file, _, name = reference.partition("::")
        assert f"def {name}(" in (ROOT / file).read_text(), reference


@pytest.mark.needs("shellcheck")
def test_shell_scripts_are_clean() -> None:
    done = subprocess.run(["shellcheck", str(ROOT / ".ci/run")], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout
