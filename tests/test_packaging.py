"""The wheel holds every package and every data file, and installs without the extras and without a C compiler."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
import tomllib

from edgerl.commands.export import export_policy
from edgerl.policy.format import save
from tests.policy.policies import random_policy

ROOT = Path(__file__).parents[1]


ENGINE = ROOT / "edgerl/edge/engine"
BENCHMARK = ROOT / "edgerl/profiling/measuring/benchmark"
FIRMWARE = ROOT / "edgerl/profiling/microcontroller/firmware"
C_LEARNER = ROOT / "export/c_learner"
LIBRARY = "edgerl/edge/engine/_engine.abi3.so"


@pytest.fixture(scope="module")
def sources(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the sources, as a clean clone has them."""
    sources = tmp_path_factory.mktemp("wheel") / "sources"
    ignored = shutil.ignore_patterns("__pycache__", "*.egg-info", "*.so")
    for name in ("edgerl", "export", "device_profiles"):
        shutil.copytree(ROOT / name, sources / name, ignore=ignored)
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, sources)
    return sources


def build_wheel(sources: Path, name: str, **environment: str) -> Path:
    folder = sources.parent / name
    command = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--wheel-dir", str(folder), str(sources)]
    subprocess.run(command, check=True, capture_output=True, env={**os.environ, **environment})
    shutil.rmtree(sources / "build", ignore_errors=True)  # else the next build finds this one's library
    (built,) = folder.glob("*.whl")
    return built


def packed(wheel: Path) -> set[str]:
    """The wheel's files, its own description left out."""
    return {name for name in zipfile.ZipFile(wheel).namelist() if ".dist-info/" not in name}


def sources_of_the_packages() -> set[str]:
    """What the wheel must hold, but for the compiled engine."""
    expected = {
        str(Path(target) / path.relative_to(ROOT / source))
        for source, target in (("edgerl", "edgerl"), ("export", "edgerl/export"))
        for path in (ROOT / source).rglob("*.py")
    }
    expected |= {f"edgerl/device_profiles/{path.name}" for path in (ROOT / "device_profiles").glob("*.*")}
    expected |= {f"edgerl/edge/engine/{path.name}" for path in ENGINE.iterdir() if path.suffix in (".c", ".h", ".inc")}
    expected |= {f"edgerl/profiling/measuring/benchmark/{path.name}" for path in BENCHMARK.iterdir()}
    expected |= {f"edgerl/profiling/microcontroller/firmware/{path.name}" for path in FIRMWARE.iterdir()}
    expected |= {f"edgerl/export/c_learner/{path.name}" for path in C_LEARNER.glob("*.[ch]")}
    expected |= {f"edgerl/studies/{path.name}" for path in (ROOT / "edgerl/studies").glob("*.toml")}
    expected |= {f"edgerl/report/{path.name}" for path in (ROOT / "edgerl/report").glob("page.*")}
    return expected | {"edgerl/py.typed", "edgerl/profiling/latency/model.json", "edgerl/export/c/reserved_names.txt"}


@pytest.fixture(scope="module")
def wheel(sources: Path) -> Path:
    return build_wheel(sources, "compiled")


def test_the_wheel_has_every_module_and_every_data_file(wheel: Path) -> None:
    assert packed(wheel) == sources_of_the_packages() | {LIBRARY}


def test_one_wheel_serves_every_python(wheel: Path) -> None:
    assert "-cp310-abi3-" in wheel.name


def test_the_engine_is_rebuilt_when_any_of_its_sources_changes() -> None:
    """setuptools knows of no #include: pyproject.toml lists them."""
    (extension,) = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]["ext-modules"]
    listed = {*extension["sources"], *extension["depends"]}
    parts = [path.name for path in ENGINE.iterdir() if path.suffix in (".c", ".h", ".inc")]
    assert listed == {f"edgerl/edge/engine/{name}" for name in parts}


def test_without_a_compiler_the_install_succeeds_and_the_engine_says_what_is_missing(
    sources: Path, tmp_path: Path
) -> None:
    """What `/bin/false` compiles is nothing; the command that wants the engine ends with one line."""
    without = build_wheel(sources, "without", CC="/bin/false")
    assert packed(without) == sources_of_the_packages()
    with zipfile.ZipFile(without) as file:
        file.extractall(tmp_path / "site")
    runner = f"import sys; sys.path.insert(0, {str(tmp_path / 'site')!r}); import edgerl.cli; edgerl.cli.main()"
    save(random_policy(0), tmp_path / "policy.safetensors")

    def run(*arguments: str) -> tuple[int, str]:
        command = [sys.executable, "-c", runner, *arguments]
        done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path)
        return done.returncode, done.stderr

    assert run("info", "policy.safetensors") == (0, "")
    assert run("run", "policy.safetensors") == (
        2,
        "edgerl: the native engine is missing: edgerl was installed without a C compiler; install a C compiler "
        "(apt-get install gcc), then edgerl again (pip install --force-reinstall --no-deps)\n",
    )


def test_a_missing_extra_is_named_with_its_remedy(wheel: Path, tmp_path: Path) -> None:
    """The wheel on a path of its own, with the base dependencies only, as on a small board."""
    with zipfile.ZipFile(wheel) as file:
        file.extractall(tmp_path / "site")
    blocked = "ray scipy torch gymnasium tensorboard onnx onnxruntime mujoco"
    runner = (
        "import sys\n"
        "class Absent:\n"
        "    def find_spec(self, name, path=None, target=None):\n"
        f"        if name.split('.')[0] in {blocked!r}.split():\n"
        "            raise ModuleNotFoundError(f'No module named {name!r}', name=name)\n"
        "sys.meta_path.insert(0, Absent())\n"
        f"sys.path.insert(0, {str(tmp_path / 'site')!r})\n"
        "import edgerl.cli\n"
        f"assert edgerl.__file__.startswith({str(tmp_path)!r})\n"
        "edgerl.cli.main()\n"
    )
    export_policy(random_policy(0), "onnx", tmp_path / "policy.onnx")

    def run(*arguments: str) -> tuple[int, str]:
        command = [sys.executable, "-c", runner, *arguments]
        done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path)
        return done.returncode, done.stderr.strip()

    assert run("train") == (2, "edgerl: gymnasium is not installed; run: pip install 'edgerl[train]'")
    assert run("cost") == (2, "edgerl: gymnasium is not installed; run: pip install 'edgerl[train]'")
    assert run("run", "policy.onnx")[0] == 2
    assert "pip install 'edgerl[export]'" in run("run", "policy.onnx")[1]
    assert run("devices", "list")[0] == 0
    assert run("--help")[0] == 0
