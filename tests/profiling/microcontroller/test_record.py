"""`edgerl export --format c --measure`, the file that it leaves, and `edgerl profile --runtime c` that reads it."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgerl.errors import FileFormatError
from edgerl.export.c.form import in_precision
from edgerl.policy import format as policy_file
from edgerl.policy.compact import CompactPolicy, make_layer
from edgerl.profiling.budgets.report import BudgetPart, profile
from edgerl.profiling.microcontroller import toolchain
from edgerl.profiling.microcontroller.record import NAME, find_record

Command = Callable[..., tuple[int, str, str]]


@pytest.fixture
def policy(tmp_path: Path) -> Path:
    """A small policy file in a folder of its own."""
    generator = np.random.default_rng(0)
    weights = [generator.normal(size=(m, n)).astype(np.float32) for n, m in pairwise((5, 16, 16, 2))]
    weights[1][generator.random((16, 16)) < 0.8] = 0  # sparse: no published latency stands behind an estimate
    bound = np.ones(2, np.float32)
    layers = tuple(make_layer(weight, np.zeros(len(weight), np.float32), 1) for weight in weights)
    path = tmp_path / "policy.safetensors"
    policy_file.save(CompactPolicy(layers, -bound, bound).with_example(np.ones(5)), path)
    return path


@pytest.mark.needs("arm-none-eabi-gcc", "qemu-system-arm")
def test_export_measures_and_profile_uses_it(edgerl: Command, policy: Path) -> None:
    code, out, err = edgerl("export", policy, "--format", "c", "--target", "stm32f405", "--measure", "--json")
    assert (code, err) == (0, "")
    measured: dict[str, Any] = json.loads(out)["measured"]
    assert measured["core"] == "cortex-m4f"
    assert measured["largest_difference"] < 1e-5
    command = [toolchain.COMPILER, *toolchain.FLAGS, *toolchain.CORES["cortex-m4f"].flags, "-O2", "-c"]
    subprocess.run([*command, "edgerl_policy.c", "-o", "own.o"], cwd=policy.parent / "c", check=True)
    command = ["arm-none-eabi-size", str(policy.parent / "c" / "own.o")]
    sizes = subprocess.run(command, capture_output=True, text=True, check=True)
    text, data, bss = map(int, sizes.stdout.splitlines()[1].split()[:3])
    assert (measured["text_bytes"], measured["data_bytes"], measured["bss_bytes"]) == (text, data, bss)

    report = profile(policy, "stm32f405", runtime="c")
    assert (report.flash.used, report.memory_parts["activations"]) == (text, data + bss)
    measured_by = "measured by the cross compiler for cortex-m4f at -O2"
    estimated = profile(policy_file.load(policy), "stm32f405", runtime="c")
    assert report.flash.parts == (BudgetPart("code and constants", text, measured_by),)
    assert (report.flash.budget, report.flash.budget_source) == (estimated.flash.budget, estimated.flash.budget_source)
    assert report.memory.parts[-1].source == f"data and bss, {measured_by}"
    assert report.memory.used == 1024 + data + bss
    assert any(f"counted in QEMU: {measured['instructions_per_call']:.0f}" in note for note in report.notes)
    assert report.latency.used == pytest.approx(measured["modelled_cycles_per_call"] / 168)

    other_core = profile(policy, "stm32h743", runtime="c")
    assert [part.name for part in other_core.flash.parts] == ["c", "model"]
    source = policy.parent / "c" / "edgerl_policy.c"
    source.write_text(source.read_text() + "\n")
    assert profile(policy, "stm32f405", runtime="c").flash == estimated.flash


@pytest.mark.needs("arm-none-eabi-gcc", "qemu-system-arm")
def test_int8_is_compared_with_the_policy_of_the_same_weights(edgerl: Command, policy: Path) -> None:
    """What int8 weights lose of the policy is not an error of the code."""
    stored = policy_file.load(policy)
    weights = [layer.matrix() for layer in stored.layers]
    weights[0][:, 0] *= 400  # beside which others are rounded coarsely
    weights[-1] *= 0.05  # so that tanh hides nothing
    layers = tuple(make_layer(weight, layer.bias, 1) for weight, layer in zip(weights, stored.layers, strict=True))
    coarse = replace(stored, layers=layers)
    policy_file.save(coarse, policy)
    options = ("--dtype", "int8", "--target", "rp2040", "--measure", "--json")
    code, out, err = edgerl("export", policy, "--format", "c", "--force", *options)
    assert (code, err) == (0, "")
    assert json.loads(out)["dtype"] == "int8"
    assert json.loads(out)["measured"]["largest_difference"] < 1e-3
    observation = np.array([0, 1, -1, 1, -1])
    lost = in_precision(coarse, "int8")(observation, np.float64) - coarse(observation, np.float64)
    assert np.abs(lost).max() > 0.02  # of a range of 2


def test_measuring_that_was_asked_for_without_a_compiler_is_refused_before_anything_is_written(
    edgerl: Command, policy: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", "/nowhere")
    code, out, err = edgerl("export", policy, "--format", "c", "--target", "cortex-m7", "--measure")
    assert (code, out) == (2, "")
    assert err.startswith("edgerl: arm-none-eabi-gcc is not installed")
    assert err.count("\n") == 1
    assert not (policy.parent / "c").exists()
    assert edgerl("export", policy, "--format", "c", "--target", "cortex-m7")[0] == 0


def test_measuring_for_what_is_no_cortex_m_is_refused(edgerl: Command, policy: Path) -> None:
    code, _, err = edgerl("export", policy, "--format", "c", "--target", "esp32", "--measure")
    assert code == 2
    assert "--measure compiles for a Cortex-M, and the target is esp32; name one with --target: cortex-m4" in err


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[" * 100_000, r"is not a measurement \(it nests too deeply\); delete it"),
        ("[]", "is not an edgerl C measurement of version 1"),
        ('{"format": "edgerl C measurement", "version": 2}', "is not an edgerl C measurement of version 1"),
        (" " * (1 << 20) + " ", "has more than 1048576 bytes"),
    ],
)
def test_a_file_that_is_no_measurement_is_refused(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / NAME).write_text(text)
    with pytest.raises(FileFormatError, match=message):
        find_record(tmp_path, "0" * 64, "cortex-m4f")


@pytest.mark.parametrize("value", ["1" + 400 * "0", "-1", "1e300", "true", '"4"', "[]"])
def test_a_number_that_is_none_is_refused(tmp_path: Path, value: str) -> None:
    (tmp_path / "a.c").write_text("")
    empty = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"
    head = f'"format": "edgerl C measurement", "version": 1, "policy_sha256": "{"0" * 64}", "core": "cortex-m4f"'
    (tmp_path / NAME).write_text(f'{{{head}, "files": {{"a.c": "{empty}"}}, "text_bytes": {value}}}')
    with pytest.raises(FileFormatError, match=r"text_bytes is .*; expected a number from 0 to 1e"):
        find_record(tmp_path, "0" * 64, "cortex-m4f")


def test_a_measurement_never_reads_files_elsewhere(tmp_path: Path) -> None:
    head = f'"format": "edgerl C measurement", "version": 1, "policy_sha256": "{"0" * 64}", "core": "cortex-m4f"'
    (tmp_path / NAME).write_text(f'{{{head}, "files": {{"../../etc/passwd": "0"}}}}')
    assert find_record(tmp_path, "0" * 64, "cortex-m4f") is None
