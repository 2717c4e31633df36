"""The registry of export formats: each module has what edgerl.export.Format says, and the command knows it."""

from __future__ import annotations

import dataclasses
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from typer.main import get_command

from edgerl.cli import app
from edgerl.edge.continual.memory import DEFAULT_MEMORY
from edgerl.edge.continual.transitions import KEEP_POLICIES, MAXIMUM_CAPACITY, PRECISIONS
from edgerl.errors import ConfigError
from edgerl.export import find_format, formats
from edgerl.export.c_learner.source import PREFIX
from edgerl.options import options_of
from edgerl.policy import compact
from edgerl.policy.format import save
from tests.policy.policies import random_policy

ROOT = Path(__file__).parents[2]


def test_there_are_four() -> None:
    assert list(formats()) == ["c", "c-learner", "learner", "onnx"]
    with pytest.raises(ConfigError, match="'onx' is not an export format; did you mean onnx"):
        find_format("onx")


@pytest.mark.parametrize("name", formats())
def test_a_format_has_what_the_registry_asks_for(name: str) -> None:
    module = formats()[name]
    assert module.SOURCE in ("policy", "learner")
    assert not Path(module.OUTPUT).is_absolute()
    assert callable(module.export)
    assert callable(module.describe)
    assert dataclasses.is_dataclass(module.Options)
    flags = {flag for parameter in get_command(app).commands["export"].params for flag in parameter.opts}  # type: ignore[attr-defined]
    for option in options_of(module.Options).values():
        assert option.metadata["help"].endswith(".")
        assert "range" not in option.metadata or "unit" in option.metadata
        option.check(option.default)
        assert f"--{option.name.replace('_', '-')}" in flags


def test_options_of_one_name_are_of_one_kind() -> None:
    kinds: dict[str, set[type]] = {}
    for module in formats().values():
        for option in options_of(module.Options).values():
            kinds.setdefault(option.name, set()).add(option.kind)
    assert {name: len(each) for name, each in kinds.items()} == dict.fromkeys(kinds, 1)


def test_options_offer_what_the_library_takes() -> None:
    c, learner = (options_of(formats()[name].Options) for name in ("c", "learner"))
    assert c["dtype"].choices == tuple(compact.PRECISIONS)
    assert learner["replay_dtype"].choices == PRECISIONS
    assert learner["replay_policy"].choices == KEEP_POLICIES
    assert learner["memory"].default == DEFAULT_MEMORY
    assert options_of(formats()["c-learner"].Options)["prefix"].default == PREFIX
    assert learner["replay"].metadata["range"] == f"[0, {MAXIMUM_CAPACITY}]"


# ------------------------------------------------------------------------------------------- docs/extend.md

WITH_ONE_MORE = """
import edgerl.export
edgerl.export.__path__.append({folder!r})
"""


@pytest.fixture
def npz(tmp_path: Path) -> Path:
    """The folder that the page's example lies in, as if it were export/."""
    page = (ROOT / "docs/extend.md").read_text()
    (example,) = re.findall(r"```python\n(\"\"\"The format `npz`.*?)```", page, flags=re.DOTALL)
    folder = tmp_path / "added"
    folder.mkdir()
    (folder / "npz.py").write_text(example)
    return folder


def python(code: str, folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    program = WITH_ONE_MORE.format(folder=str(folder)) + code
    return subprocess.run([sys.executable, "-c", program, *arguments], capture_output=True, text=True, timeout=300)


def test_the_format_of_the_page_is_one_of_the_command(npz: Path, tmp_path: Path) -> None:
    policy = random_policy(0)
    save(policy, tmp_path / "policy.safetensors")
    main = "from edgerl.cli import main; main()"
    done = python(main, npz, "export", "policy.safetensors", "--format", "npz", "--half")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == f"policy.npz: {Path('policy.npz').stat().st_size} bytes\n"
    with np.load("policy.npz") as arrays:
        for index, layer in enumerate(policy.layers):
            np.testing.assert_array_equal(arrays[f"weight{index}"], layer.matrix().astype(np.float16))
    assert "--half " in python(main, npz, "export", "--help").stdout
    done = python(main, npz, "export", "policy.safetensors", "--format", "c", "--half")
    assert "--half was given, which --format c does not have; leave it out" in done.stderr


def test_the_format_of_the_page_is_one_of_python(npz: Path, tmp_path: Path) -> None:
    policy = random_policy(0)
    save(policy, tmp_path / "policy.safetensors")
    done = python("import edgerl; print(edgerl.export_policy('policy.safetensors', 'npz', 'a.npz').as_dict())", npz)
    assert done.stderr == ""
    assert done.stdout == f"{{'path': 'a.npz', 'format': 'npz', 'n_bytes': {Path('a.npz').stat().st_size}}}\n"
    with np.load("a.npz") as arrays:
        np.testing.assert_array_equal(arrays["weight0"], policy.layers[0].matrix())
