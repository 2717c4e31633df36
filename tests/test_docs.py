"""Docs cannot rot: every command has help with an example, and what the README shows is run."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
import typer.main

ROOT = Path(__file__).parents[1]
COMMANDS = (
    "train",
    "cost",
    "prune",
    "distill",
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


DOCUMENTS = sorted((*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md"), ROOT / "device_profiles/README.md"))
LINK = re.compile(r"\]\(([^()\s#:]*)(#[^()\s]*)?\)")


def _headings(path: Path) -> set[str]:
    """The anchors of a document's headings, as viewers of repositories make them."""
    prose = re.sub(r"^```.*?^```$", "", path.read_text(), flags=re.MULTILINE | re.DOTALL)
    titles = re.findall(r"^#+ (.*)$", prose, flags=re.MULTILINE)
    return {"#" + re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_links_lead_to_files_and_headings_that_exist(path: Path) -> None:
    for file, anchor in LINK.findall(path.read_text()):
        target = path.parent / file if file else path
        assert target.exists(), f"{path.name} links to {file}"
        if anchor and target.suffix == ".md" and target.name != "api.md":  # whose anchors are names in Python
            assert anchor in _headings(target), f"{path.name} links to {file}{anchor}"


def test_deviations_are_numbered_and_each_names_its_test() -> None:
    text = (ROOT / "docs/algorithm.md").read_text()
    rows = re.findall(r"^\| ([A-Z]?)(\d+) \|.*\| `(tests/[^`]+)` \|$", text, flags=re.MULTILINE)
    series = {letter: [int(number) for of, number, _ in rows if of == letter] for letter, _, _ in rows}
    assert {"", "S", "D", "R"} <= series.keys()
    for numbers in series.values():
        assert numbers == list(range(1, len(numbers) + 1))
    for _, _, reference in rows:
        file, _, name = reference.partition("::")
        assert f"def {name}(" in (ROOT / file).read_text(), reference


@pytest.mark.needs("shellcheck")
def test_shell_scripts_are_clean() -> None:
    done = subprocess.run(["shellcheck", str(ROOT / ".ci/run")], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout
