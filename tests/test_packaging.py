"""The wheel holds every package and every data file, and installs without the extras."""

from __future__ import annotations

import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A wheel built from a copy of the sources."""
    folder = tmp_path_factory.mktemp("wheel")
    sources = folder / "sources"
    ignored = shutil.ignore_patterns("__pycache__", "*.egg-info")
    for name in ("edgerl", "export", "device_profiles"):
        shutil.copytree(ROOT / name, sources / name, ignore=ignored)
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, sources)
    build = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--wheel-dir", str(folder), str(sources)]
    subprocess.run(build, check=True, capture_output=True)
    (built,) = folder.glob("*.whl")
    return built


def test_the_wheel_has_every_module_and_every_data_file(wheel: Path) -> None:
    packed = {name for name in zipfile.ZipFile(wheel).namelist() if ".dist-info/" not in name}
    expected = {
        str(Path(target) / path.relative_to(ROOT / source))
        for source, target in (("edgerl", "edgerl"), ("export", "edgerl/export"))
        for path in (ROOT / source).rglob("*.py")
    }
    expected |= {f"edgerl/device_profiles/{path.name}" for path in (ROOT / "device_profiles").glob("*.*")}
    assert packed == expected | {"edgerl/py.typed"}


def test_a_missing_extra_is_named_with_its_remedy(wheel: Path, tmp_path: Path) -> None:
    """The wheel on a path of its own, with the base dependencies only, as on a small board."""
    with zipfile.ZipFile(wheel) as file:
        file.extractall(tmp_path / "site")
    blocked = "torch gymnasium tensorboard onnx onnxruntime mujoco"
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
    (tmp_path / "policy.onnx").write_bytes(b"")

    def run(*arguments: str) -> tuple[int, str]:
        command = [sys.executable, "-c", runner, *arguments]
        done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path)
        return done.returncode, done.stderr.strip()

    assert run("train") == (2, "edgerl: torch is not installed; run: pip install 'edgerl[train]'")
    assert run("cost") == (2, "edgerl: gymnasium is not installed; run: pip install 'edgerl[train]'")
    assert run("run", "policy.onnx")[0] == 2
    assert "pip install 'edgerl[export]'" in run("run", "policy.onnx")[1]
    assert run("devices", "list")[0] == 0
    assert run("--help")[0] == 0
