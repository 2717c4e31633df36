"""Who may import whom (DESIGN's arrows), what an import loads, and that every command is quick to ask for help."""

from __future__ import annotations

import ast
import resource
import subprocess
import sys
from pathlib import Path
from statistics import median

import pytest

import edgerl

ROOT = Path(__file__).parents[1]
SHARED_NAMES = (
    "consent",
    "disk",
    "errors",
    "file_kind",
    "files",
    "paths",
    "run_folder",
    "signals",
    "strict_json",
    "toml",
    "units",
)
SHARED = {"edgerl"} | {f"edgerl.{name}" for name in SHARED_NAMES}
FOLDERS = {
    "edgerl.compact": "edgerl/compact",
    "edgerl.edge": "edgerl/edge",
    "edgerl.training": "edgerl/training",
    "edgerl.profiling": "edgerl/profiling",
    "edgerl.fitting": "edgerl/fitting",
    "edgerl.studies": "edgerl/studies",
    "edgerl.report": "edgerl/report",
    "edgerl.export": "export",
    "edgerl.device_profiles": "device_profiles",
}
MAY_IMPORT = {
    "edgerl.compact": {"numpy", "safetensors"},
    "edgerl.edge": {"numpy", "safetensors", "edgerl.compact", "onnxruntime"},
    "edgerl.training": {
        *("edgerl.compact", "edgerl.edge"),
        *("numpy", "torch", "gymnasium", "mujoco", "tensorboard", "PIL", "imageio_ffmpeg"),
    },
    "edgerl.profiling": {"edgerl.compact", "edgerl.edge", "edgerl.device_profiles", "numpy", "onnx"},
    "edgerl.fitting": {
        *("edgerl.compact", "edgerl.edge", "edgerl.training", "edgerl.profiling"),
        *("numpy", "matplotlib"),
    },
    "edgerl.studies": {
        *("edgerl.compact", "edgerl.edge", "edgerl.training", "edgerl.profiling"),
        *("numpy", "scipy", "ray"),
    },
    "edgerl.report": {
        *("edgerl.compact", "edgerl.edge", "edgerl.training", "edgerl.profiling", "edgerl.studies"),
        *("numpy", "plotly"),
    },
    "edgerl.export": {"edgerl.compact", "edgerl.edge", "numpy", "onnx", "onnxruntime"},
    "edgerl.device_profiles": set(),
}


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


def _is_allowed(module: str, package: str) -> bool:
    if module in SHARED or module.split(".")[0] in sys.stdlib_module_names or module == "edgerl.__version__":
        return True
    return any(module == own or module.startswith(own + ".") for own in (*MAY_IMPORT[package], package))


@pytest.mark.parametrize("package", FOLDERS)
def test_packages_import_only_what_lies_to_their_left(package: str) -> None:
    for path in (ROOT / FOLDERS[package]).rglob("*.py"):
        for module in _imports(path.read_text()):
            if module.startswith("edgerl.") and module.rpartition(".")[2] == "export_policy":
                continue
            assert _is_allowed(module, package), f"{path.relative_to(ROOT)} imports {module}"


@pytest.mark.parametrize(
    ("name", "allowed"),
    [
        ("errors", set()),
        ("disk", set()),
        ("consent", {"edgerl.errors"}),
        ("paths", {"edgerl.errors"}),
        ("run_folder", {"edgerl.errors", "edgerl.paths"}),
        ("strict_json", {"edgerl.errors"}),
        ("file_kind", {"edgerl.errors", "edgerl.strict_json"}),
        ("files", {"edgerl.disk", "edgerl.errors", "edgerl.file_kind", "edgerl.strict_json"}),
        ("toml", {"edgerl.errors", "edgerl.file_kind", "edgerl.files"}),
        ("edge/store", {"edgerl.disk", "edgerl.errors", "edgerl.files"}),
    ],
)
def test_shared_modules_and_the_store_import_little_of_edgerl(name: str, allowed: set[str]) -> None:
    assert {m for m in _imports((ROOT / f"edgerl/{name}.py").read_text()) if m.startswith("edgerl")} <= allowed


def test_the_only_onnxruntime_in_edge_is_in_onnx_policy() -> None:
    for path in (ROOT / "edgerl/edge").rglob("*.py"):
        assert ("onnxruntime" in _imports(path.read_text())) == (path.name == "onnx_policy.py")


@pytest.mark.parametrize(
    ("statement", "absent"),
    [
        ("import edgerl", {"numpy", "torch", "onnx", "gymnasium", "typer"}),
        ("import edgerl.edge", {"torch", "onnx", "onnxruntime", "gymnasium", "typer", "pandas"}),
        ("import edgerl; edgerl.load", {"torch", "onnx", "gymnasium", "typer"}),
        ("import edgerl.cli", {"numpy", "torch", "onnx", "onnxruntime", "gymnasium", "safetensors"}),
        ("import edgerl.training.checkpoint", {"torch", "gymnasium"}),
    ],
)
def test_an_import_loads_no_more_than_it_needs(statement: str, absent: set[str]) -> None:
    script = f"{statement}\nimport sys\nprint(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert absent.isdisjoint(done.stdout.split())


def test_the_public_names_are_there() -> None:
    for name in ("train", "prune", "profile", "fit", "write_report", "load", "export_policy"):
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
