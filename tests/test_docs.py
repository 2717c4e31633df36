"""Docs cannot rot: every command has help with an example, and what the README shows is run."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from .edge.compiled import ENGINE, WARNINGS, compile_c

ROOT = Path(__file__).parents[1]
COMMANDS = (
    "train",
    "cost",
    "prune",
    "export",
    "profile",
    "fit",
    "run",
    "info",
    "devices list",
    "devices show",
    "devices validate",
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

    for command in (*app.registered_commands, *app.registered_groups[0].typer_instance.registered_commands):
        assert command.callback is not None
        name = command.name or command.callback.__name__
        for parameter, annotation in command.callback.__annotations__.items():
            if parameter != "return":
                assert "help=" in str(annotation) or str(annotation) in ("Json", "Force"), f"{name} {parameter}"


def test_every_command_is_in_the_readme(edgerl: Run) -> None:
    readme = (ROOT / "README.md").read_text()
    assert edgerl()[0] == 0
    for command in COMMANDS:
        assert f"edgerl {command.split()[0]}" in readme, command


def _snippets(path: Path, language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", path.read_text(), flags=re.DOTALL)


def test_the_readmes_python_example_runs() -> None:
    (example,) = _snippets(ROOT / "README.md", "python")
    assert len([line for line in example.splitlines() if line.strip()]) <= 6, "an import and five lines"
    shortened = example.replace('preset="quick"', 'preset="quick", steps=600, start_steps=500, evaluation_episodes=1')
    assert shortened != example
    exec(compile(shortened, "README.md", "exec"), {})
    assert Path("policy.onnx").exists()


def test_the_c_program_of_the_engines_page_learns_and_acts(tmp_path: Path) -> None:
    (program,) = _snippets(ROOT / "docs/engine.md", "c")
    source, binary = tmp_path / "program.c", tmp_path / "program"
    source.write_text(program)
    compile_c("gcc", *WARNINGS, source, ENGINE / "edgerl.c", "-o", binary)
    done = subprocess.run([binary], capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stderr) == (0, "")
    match = re.fullmatch(r"done: action (\S+)\n", done.stdout)
    assert match is not None, done.stdout
    assert 0 < abs(float(match[1])) < 1


def test_links_between_documents_lead_somewhere() -> None:
    for path in (*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md"), ROOT / "device_profiles/README.md"):
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
