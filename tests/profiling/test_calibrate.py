"""Calibration: the fit on times that are known, and a whole one on this machine, small."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest

from edgerl.edge import Policy
from edgerl.errors import ConfigError
from edgerl.export import export_policy
from edgerl.profiling import calibrate as calibration
from edgerl.profiling import host as host_module
from edgerl.profiling.calibrate import _native_items, _positive_fit, calibrate, random_policy
from edgerl.profiling.device import parse_device
from edgerl.profiling.host import describe_host
from edgerl.profiling.report import profile


def test_costs_are_found_in_exact_times() -> None:
    generator = np.random.default_rng(0)
    items = generator.uniform(1, 100, (30, 4))
    costs = np.array([2.0, 0.5, 0.01, 3.0])
    assert _positive_fit(items, items @ costs) == pytest.approx(costs)


def test_no_cost_is_negative() -> None:
    items = np.array([[1.0, 1.0], [1.0, 2.0], [1.0, 3.0]])
    call, slope = _positive_fit(items, np.array([3.0, 2.0, 1.5]))
    assert call > 1
    assert slope == calibration.SMALLEST_COST


def test_what_an_inference_executes_by_hand() -> None:
    policy = random_policy((8, 4), 1.0, 1)
    # inputs 17, then half of 8 and of 4; multiply-adds 17·8, half of 8·4 and of 4·6, in blocks of four outputs 4·8
    assert _native_items(policy, ("dense",) * 3) == [1, 3, 23, 0, 136 + 16 + 12, 0, 0]
    assert _native_items(policy, ("dense", "sparse", "block")) == [1, 3, 17, 6, 136, 16, 16]


def test_random_policies_are_half_zero_behind_relu() -> None:
    policy = random_policy((256, 256), 0.5, 4)
    first = policy.layers[0]
    observations = np.random.default_rng(0).standard_normal((100, 17), np.float32)
    assert np.mean(observations @ first.matrix().T > 0) == pytest.approx(0.5, abs=0.05)


def test_a_profile_of_this_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in (("WIDTHS", (16, 64)), ("ROUNDS", 2), ("REPEATS", 1), ("WIDEST", 256), ("DENSITIES", (0.2,))):
        monkeypatch.setattr(calibration, name, value)
    monkeypatch.setattr(calibration, "SHAPES", ((16,), (16,) * 4, (64, 16)))
    monkeypatch.setattr(calibration, "CHECKED_WIDTHS", (24, 48))
    allowed, said = os.sched_getaffinity(0), []
    text = calibrate(lambda policy, path: export_policy(policy, "onnx", path, force=True), "here", said.append)
    assert os.sched_getaffinity(0) == allowed
    assert len(said) == 3
    device = parse_device(text.encode(), "here", "here.toml")
    for name in ("native", "onnxruntime"):
        report = profile(random_policy((32, 32), 1.0, 1), device, runtime=name)
        assert 0.05 < report.latency.used < 1000  # µs
        assert report.latency.uncertainty is not None
        assert report.latency.uncertainty >= 0.1
    assert profile(random_policy((32, 32), 1.0, 1), device, runtime="c").latency.uncertainty is None


def test_without_onnxruntime_the_profile_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in (("WIDTHS", (16,)), ("ROUNDS", 1), ("REPEATS", 1), ("WIDEST", 64), ("DENSITIES", (0.2,))):
        monkeypatch.setattr(calibration, name, value)
    monkeypatch.setattr(calibration, "CHECKED_WIDTHS", (24,))
    device = parse_device(calibrate(None, "here", lambda _: None).encode(), "here", "here.toml")
    assert device.default_runtime == "native"
    assert not device.runtime("onnxruntime").available


def fake_system(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, cpu: str, caches: list[tuple[str, str, str]]) -> None:
    """/proc and /sys as another machine would have them; caches are (level, type, size)."""
    (tmp_path / "cpuinfo").write_text(cpu)
    (tmp_path / "meminfo").write_text("MemTotal:  1000 kB\nMemFree: 1 kB\nMemAvailable:  600 kB\n")
    for index, files in enumerate(caches):
        folder = tmp_path / f"cpu0/cache/index{index}"
        folder.mkdir(parents=True)
        for name, content in zip(("level", "type", "size"), files, strict=True):
            (folder / name).write_text(content + "\n")
    monkeypatch.setattr(host_module, "CPU_INFO", tmp_path / "cpuinfo")
    monkeypatch.setattr(host_module, "MEMORY_INFO", tmp_path / "meminfo")
    monkeypatch.setattr(host_module, "CPU", tmp_path / "cpu0")


def test_a_server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    caches = [("1", "Data", "48K"), ("1", "Instruction", "64K"), ("2", "Unified", "2M"), ("3", "Unified", "480M")]
    fake_system(tmp_path, monkeypatch, 'model name\t: Some CPU "X"\ncpu MHz\t\t: 2599.998\n', caches)
    host = describe_host()
    assert [(level, cache.value) for level, cache in host.caches] == [
        ("L1", 48 << 10),
        ("L2", 2 << 20),
        ("L3", 480 << 20),
    ]
    assert (host.core, host.clock_mhz.value) == ('Some CPU "X"', 2599.998)
    assert (host.ram_bytes.value, host.usable_bytes.value) == (1_024_000, 614_400)


def test_a_small_board_tells_little(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fake_system(tmp_path, monkeypatch, "processor\t: 0\nCPU part\t: 0xd03\n", [])
    host = describe_host()
    assert host.core == "0xd03"
    assert [cache.source for _, cache in host.caches] == ["assumed: Linux does not tell"] * 2
    assert host.clock_mhz.source.startswith("assumed")
    (tmp_path / "cpu0/cpufreq").mkdir(parents=True)
    (tmp_path / "cpu0/cpufreq/cpuinfo_max_freq").write_text("1400000\n")
    assert describe_host().clock_mhz.value == 1400


def test_no_linux(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(host_module, "CPU_INFO", tmp_path / "absent")
    with pytest.raises(ConfigError, match=r"this machine has no /proc/cpuinfo; calibrate runs on Linux only"):
        describe_host()


def test_layouts_are_those_of_the_engine() -> None:
    policy = random_policy((32, 32), 0.2, 1)
    assert Policy(policy, "sparse").layouts == ("sparse",) * 3
