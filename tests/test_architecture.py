"""Who may import whom (DESIGN's arrows), what an import loads, and that every command is quick to ask for help."""

from __future__ import annotations

import ast
import resource
import subprocess
import sys
from graphlib import CycleError, TopologicalSorter
from pathlib import Path
from statistics import median

import pytest

import edgerl

ROOT = Path(__file__).parents[1]
SHARED = {f"edgerl.{name}" for name in ("errors", "options", "run_folder", "signals", "units")}
ROOMS: dict[str, set[str]] = {
    "files": {"numpy", "safetensors", "tomli"},
    "config": {"edgerl.environments.arguments"},
    "policy": {"numpy", "safetensors"},
    "edge": {"edgerl.policy", "numpy", "safetensors", "onnxruntime"},
    "export": {"edgerl.policy", "edgerl.edge", "numpy", "onnx", "onnxruntime"},
    "device_profiles": set(),
    "environments": {
        "edgerl.config",
        "edgerl.policy",
        "edgerl.edge",
        "numpy",
        "gymnasium",
        "mujoco",
        "PIL",
        "imageio_ffmpeg",
    },
    "algorithms": {"edgerl.config", "edgerl.policy", "edgerl.edge", "numpy", "torch"},
    "training": {
        *("edgerl.config", "edgerl.policy", "edgerl.edge", "edgerl.environments", "edgerl.algorithms"),
        *("edgerl.importers", "numpy", "torch", "tensorboard"),
    },
    "importers": {
        *("edgerl.config", "edgerl.policy", "edgerl.edge", "edgerl.environments", "numpy", "torch", "onnx"),
        *("onnxruntime", "h5py", "tensorstore", "yaml"),
    },
    "profiling": {
        *("edgerl.policy", "edgerl.edge", "edgerl.export", "edgerl.importers", "edgerl.device_profiles"),
        *("numpy", "onnx"),
    },
    "compression": {
        *("edgerl.config", "edgerl.policy", "edgerl.edge", "edgerl.environments", "edgerl.algorithms"),
        *("edgerl.training", "edgerl.profiling", "numpy", "torch", "matplotlib"),
    },
    "studies": {
        *("edgerl.config", "edgerl.policy", "edgerl.edge", "edgerl.environments", "edgerl.algorithms"),
        *("edgerl.training", "edgerl.profiling", "numpy", "scipy", "ray"),
    },
    "report": {
        *("edgerl.config", "edgerl.policy", "edgerl.edge", "edgerl.environments", "edgerl.algorithms"),
        *("edgerl.training", "edgerl.profiling", "edgerl.studies", "numpy", "plotly"),
    },
}
ROOMS["commands"] = {"numpy", "gymnasium", "onnx", "ray", "scipy", *(f"edgerl.{room}" for room in ROOMS)}
"""What each package may import beside the standard library, itself, `edgerl.files` and SHARED; data flows downwards."""


def _sources(room: str) -> list[Path]:
    folder = ROOT / room if room in ("export", "device_profiles") else ROOT / "edgerl" / room
    return [folder.with_suffix(".py")] if folder.with_suffix(".py").exists() else sorted(folder.rglob("*.py"))


def _imports(source: str) -> set[str]:
    found: set[str] = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "imports are absolute"
            assert node.module is not None
            found |= {f"{node.module}.{a.name}" for a in node.names} if node.module == "edgerl" else {node.module}
        elif isinstance(node, ast.Call) and getattr(node.func, "id", "") == "require":
            found |= {str(argument.value) for argument in node.args[:1] if isinstance(argument, ast.Constant)}
    return found


def _is_allowed(module: str, room: str) -> bool:
    if module in SHARED or module.split(".")[0] in sys.stdlib_module_names or module == "edgerl.__version__":
        return True
    mine = {f"edgerl.{room}", "edgerl.files", *ROOMS[room]}
    return any(module == own or module.startswith(own + ".") for own in mine)


@pytest.mark.parametrize("room", ROOMS)
def test_packages_import_only_what_lies_above_them(room: str) -> None:
    sources = _sources(room)
    assert sources
    for path in sources:
        for module in _imports(path.read_text()):
            assert _is_allowed(module, room), f"{path.relative_to(ROOT)} imports {module}"


@pytest.mark.parametrize(("part", "others"), [("engine", ("acting", "continual")), ("acting", ("continual",))])
def test_parts_of_edge_import_only_what_lies_above_them(part: str, others: tuple[str, ...]) -> None:
    for path in (ROOT / "edgerl/edge" / part).rglob("*.py"):
        for module in _imports(path.read_text()):
            assert not module.startswith(tuple(f"edgerl.edge.{other}" for other in others)), f"{path} imports {module}"


def test_the_only_onnxruntime_in_edge_is_in_onnx_policy() -> None:
    for path in (ROOT / "edgerl/edge").rglob("*.py"):
        assert ("onnxruntime" in _imports(path.read_text())) == (path.name == "onnx_policy.py")


def test_policies_multiply_in_one_place_which_knows_of_false_alarms() -> None:
    """A warning of OpenBLAS's, on some processors, fails nothing here that the user would not see."""
    products = [
        (path.name, node.name)
        for path in (ROOT / "edgerl/policy").glob("*.py")
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.FunctionDef)
        and any(isinstance(part, ast.BinOp) and isinstance(part.op, ast.MatMult) for part in ast.walk(node))
    ]
    assert products == [("compact.py", "product")]


def test_no_import_cycle() -> None:
    """Of modules, whether at import or inside functions; imports only for types load nothing."""
    sources = {_module(path): path for room in ("", "export", "device_profiles") for path in _sources(room)}
    assert {"edgerl", "edgerl.profiling.budgets.model", "edgerl.export.c.form"} <= set(sources)
    imported = {name: _modules_of_edgerl(path.read_text(), set(sources)) for name, path in sources.items()}
    try:
        TopologicalSorter(imported).prepare()
    except CycleError as error:
        pytest.fail(" imports ".join(error.args[1][::-1]))


def _module(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    parts = parts if parts[0] == "edgerl" else ("edgerl", *parts)
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def _modules_of_edgerl(source: str, known: set[str]) -> set[str]:
    """What a module imports, but for types."""
    tree = ast.parse(source)
    for node in ast.walk(tree):
        if isinstance(node, ast.If) and getattr(node.test, "id", "") == "TYPE_CHECKING":
            node.body.clear()
    found: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            members = {f"{node.module}.{alias.name}" for alias in node.names}
            found |= (members & known) | ({str(node.module)} if members - known else set())
    return found & known


@pytest.mark.parametrize(
    ("statement", "absent"),
    [
        ("import edgerl", {"numpy", "torch", "onnx", "gymnasium", "typer"}),
        ("import edgerl.edge", {"torch", "onnx", "onnxruntime", "gymnasium", "typer", "pandas"}),
        ("import edgerl; edgerl.load", {"torch", "onnx", "gymnasium", "typer"}),
        ("import edgerl.cli", {"numpy", "torch", "onnx", "onnxruntime", "gymnasium", "safetensors"}),
        ("import edgerl.commands.export", {"torch", "onnx", "onnxruntime", "gymnasium", "typer"}),
        ("import edgerl.training.checkpoint", {"torch", "gymnasium"}),
    ],
)
def test_an_import_loads_no_more_than_it_needs(statement: str, absent: set[str]) -> None:
    script = f"{statement}\nimport sys\nprint(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert absent.isdisjoint(done.stdout.split())


def test_the_public_names_are_there() -> None:
    for name in edgerl.__all__[1:]:
        assert callable(getattr(edgerl, name))
        assert name in dir(edgerl)
    with pytest.raises(AttributeError, match="module 'edgerl' has no attribute 'nothing'"):
        edgerl.nothing  # noqa: B018


def test_help_is_there_at_once() -> None:
    """In twice the processor time that its parser needs to load (0.15 s), so whatever the machine is and does."""

    def seconds(*arguments: str) -> float:
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        subprocess.run([sys.executable, *arguments], capture_output=True, check=True)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime

    pairs = [(seconds("-m", "edgerl", "--help"), seconds("-c", "import typer")) for _ in range(5)]
    assert median(ours / theirs for ours, theirs in pairs) < 4
