"""Measurements in a device profile: what is written is read back, and what is not valid is refused."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from edgerl import profile
from edgerl.errors import DeviceError
from edgerl.policy.format import save as save_policy
from edgerl.profiling.budgets.device import find_device, load_device, parse_device
from edgerl.profiling.budgets.report import MeasuredLatency
from edgerl.profiling.measuring.measure import find_subject, policy_identity
from edgerl.profiling.measuring.measured import compare, is_same_architecture, save
from edgerl.profiling.measuring.measurement import Result, benchmark_observations, parse_result
from tests.policy.policies import random_policy
from tests.profiling.measurements import DIGEST, ROOT, c_result, document

NANO = (ROOT / "device_profiles/jetson-nano.toml").read_text()
SECTION = f"""
[[measured]]
policy_sha256 = "{DIGEST}"
model = "5-9-7-3"
runtime = "c"
latency_us = {{ value = 5.0, source = "measured: by hand" }}
latency_p99_us = {{ value = 10.0, source = "measured: by hand" }}
latency_max_us = {{ value = 11, source = "measured: by hand" }}
latency_cold_us = {{ value = 0, source = "measured: by hand" }}
"""
POLICY = random_policy(0)


def result(**machine: object) -> Result:
    """What a machine measured of POLICY."""
    measured = c_result(POLICY, benchmark_observations(POLICY)[:8], **machine)
    return parse_result(document({**measured, "policy_sha256": policy_identity(POLICY)}), "it")


def saved(path: Path, found: Result) -> Path:
    """A profile made of jetson-nano's and a result of POLICY."""
    save_policy(POLICY, path.with_name("policy.safetensors"))
    device = find_device("jetson-nano")
    comparison = compare(found, find_subject(path.with_name("policy.safetensors")), device)
    save(comparison, "5-9-7-3", device, None, path)
    return path


def test_a_measurement_is_part_of_a_profile() -> None:
    (measured,) = parse_device((NANO + SECTION).encode(), "my", "my.toml").measured
    assert (measured.runtime, measured.latency_us.value, measured.latency_cold_us.value) == ("c", 5.0, 0)
    assert parse_device(NANO.encode(), "my", "my.toml").measured == ()


@pytest.mark.parametrize(
    ("old", "new", "problem"),
    [
        (
            'runtime = "c"',
            'runtime = "gpu"',
            r"measured\[0\]\.runtime is 'gpu'; expected one of onnxruntime, native, c",
        ),
        (DIGEST, "AB" * 32, r"measured\[0\]\.policy_sha256 is 'ABAB.*; expected 64 hexadecimal digits"),
        (DIGEST, "ab", r"policy_sha256 is 'ab'; expected 64 hexadecimal digits"),
        ("value = 5.0", "value = -5", "latency_us is -5; it cannot be negative"),
        (', source = "measured: by hand"', "", r"measured\[0\]\.latency_us has no source"),
        ("latency_p99_us", "latency_p99", r"latency_p99 has no unit; expected the key latency_p99_us"),
        ('model = "5-9-7-3"', 'modell = "5-9-7-3"', "measured.0..model is missing"),
        ('model = "5-9-7-3"', 'model = "5"\nnote = "x"', "'note' is an unknown key"),
        (
            'model = "5-9-7-3"',
            'model = "5"\nmode = "7W"',
            "measured names the mode '7W', which the device does not have",
        ),
        ("[[measured]]", "[measured]", r"measured is .*; expected at least one \[\[measured\]\]"),
        (
            "\n[[measured]]",
            SECTION + "\n[[measured]]",
            "measured holds two measurements of the same policy, runtime and mode; remove one",
        ),
    ],
)
def test_what_is_no_measurement_is_refused(old: str, new: str, problem: str) -> None:
    assert old in SECTION
    with pytest.raises(DeviceError, match=problem):
        parse_device((NANO + SECTION.replace(old, new, 1)).encode(), "my", "my.toml")


@pytest.mark.parametrize("board", ['a "quoted" \\ name', "Raspberry Pi 4 – 𝛑, café", "'''", "x = {"])
def test_whatever_a_board_calls_itself_is_written_and_read_back(board: str, tmp_path: Path) -> None:
    (measured,) = load_device(saved(tmp_path / "my.toml", result(board=board))).measured
    assert f", on {board} (aarch64, Linux 4.9.253-tegra" in measured.latency_us.source


def test_a_policy_that_lies_in_no_file_finds_its_measurement(tmp_path: Path) -> None:
    path = saved(tmp_path / "my.toml", result())
    latency = profile(POLICY, path, runtime="c").latency
    assert isinstance(latency, MeasuredLatency)
    assert latency.used == 5.0
    assert latency.estimate == profile(POLICY, "jetson-nano", runtime="c").latency
    assert not isinstance(profile(random_policy(1), path, runtime="c").latency, MeasuredLatency)


def test_a_profile_that_something_else_names_measured_is_kept_whole(tmp_path: Path) -> None:
    """The words in a comment or a text are not the section."""
    first = saved(tmp_path / "first.toml", result())
    text = first.read_text().replace("[budgets]", "# [[measured]] comes last\n[budgets]")
    (tmp_path / "second.toml").write_text(text)
    device = load_device(tmp_path / "second.toml")
    comparison = compare(result(), find_subject(tmp_path / "policy.safetensors"), device)
    assert save(comparison, "5-9-7-3", device, tmp_path / "second.toml", tmp_path / "second.toml") == 1
    assert "# [[measured]] comes last\n" in (tmp_path / "second.toml").read_text()
    assert len(load_device(tmp_path / "second.toml").measured) == 1


@pytest.mark.parametrize(
    ("profiled", "said", "same"),
    [
        ("aarch64", "aarch64", True),
        ("aarch64", "arm64", True),
        ("x86-64", "x86_64", True),
        ("armv7", "armv7l", True),
        ("armv7l", "armv8l", True),
        ("aarch64", "armv7l", False),  # a 32-bit system on a 64-bit board runs other code
        ("armv7e-m", "armv7l", False),
        ("aarch64", "x86_64", False),
    ],
)
def test_what_counts_for_which_device(profiled: str, said: str, same: bool) -> None:
    device = find_device("jetson-nano")
    device = replace(device, cpu=replace(device.cpu, architecture=profiled))
    assert is_same_architecture(device, result(architecture=said).machine) is same
