"""Calibration, on a machine whose times are known."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from edgerl.commands.export import export_policy
from edgerl.edge import Policy
from edgerl.errors import CheckFailed, ConfigError
from edgerl.policy.compact import Array, CompactPolicy
from edgerl.profiling.budgets.device import Quantity, parse_device
from edgerl.profiling.budgets.report import profile
from edgerl.profiling.measuring import calibrate as calibration
from edgerl.profiling.measuring import host as host_module
from edgerl.profiling.measuring.calibrate import (
    LARGEST_ERROR_RATIO,
    NATIVE_COSTS,
    ONNXRUNTIME_COSTS,
    Act,
    _native_items,
    calibrate,
    random_policy,
)
from edgerl.profiling.measuring.host import describe_host
from tests.profiling.machine import BOARD, SERVER, SERVER_CACHES, KnownMachine, fake_linux


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


def export(policy: CompactPolicy, path: Path) -> object:
    return export_policy(policy, "onnx", path, force=True)


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch) -> KnownMachine:
    """This processor, by another clock."""
    known = KnownMachine()
    known.install(monkeypatch)
    return known


def test_the_costs_of_a_machine_are_found(machine: KnownMachine) -> None:
    allowed, said = os.sched_getaffinity(0), []
    text = calibrate(export, "here", said.append)
    assert os.sched_getaffinity(0) == allowed
    assert len(said) == 3
    device = parse_device(text.encode(), "here", "here.toml")
    assert device.default_runtime == "onnxruntime"
    for name, costs in (("native", machine.native), ("onnxruntime", machine.onnxruntime)):
        figures = device.runtime(name).figures
        assert figures is not None
        found = {key: quantity.value for key, quantity in vars(figures.costs).items() if isinstance(quantity, Quantity)}
        assert found.pop("error_ratio") == 0.15
        in_ns = {key: value * (1000 if key.endswith("_us") else 1) for key, value in found.items()}
        assert in_ns == pytest.approx(costs, rel=1e-3)
    report = profile(random_policy((32, 32), 1.0, 1), device, runtime="native")
    # a call, three layers, 17 + 16 + 16 inputs, 17·32 + half of 32·32 and of 32·6 multiply-adds
    by_hand = 800 + 3 * 15 + (17 + 16 + 16) * 1.5 + (17 * 32 + 16 * 32 + 16 * 6) * 0.03
    assert report.latency.used == pytest.approx(by_hand / 1000, rel=1e-3)
    assert report.latency.uncertainty == 0.15
    assert profile(random_policy((32, 32), 1.0, 1), device, runtime="c").latency.uncertainty is None


@pytest.mark.parametrize(
    ("runtime", "key"),
    [*(("native", key) for key in NATIVE_COSTS), *(("onnxruntime", key) for key in ONNXRUNTIME_COSTS[1:])],
)
def test_a_cost_of_nothing_makes_no_profile(machine: KnownMachine, runtime: str, key: str) -> None:
    """As where deep networks, say, were timed in quieter moments than shallow ones."""
    costs = machine.native if runtime == "native" else machine.onnxruntime
    if key == "call_overhead_us":
        costs["layer_overhead_us"] += costs[key]  # times stay above 0
    costs[key] *= -0.1
    with pytest.raises(
        CheckFailed,
        match=rf"^the times of {runtime}: {key} came out as zero: something disturbed them, and no profile was "
        r"written; end other programs, and run the same command again$",
    ):
        calibrate(export, "here", lambda _: None)


@pytest.mark.parametrize(("slowness", "error_ratio"), [(1.1, 0.15), (1.4, 0.4), (1 / 1.45, 0.45)])
def test_a_check_that_keeps_its_aim_is_what_the_profile_says(
    machine: KnownMachine, slowness: float, error_ratio: float
) -> None:
    assert error_ratio <= LARGEST_ERROR_RATIO
    device = parse_device(calibrate(export, "here", slower_when_checked(machine, slowness)).encode(), "here", "here")
    for name in ("native", "onnxruntime"):
        assert profile(random_policy((32,), 1.0, 1), device, runtime=name).latency.uncertainty == pytest.approx(
            error_ratio, rel=1e-2
        )


@pytest.mark.parametrize(("slowness", "error"), [(1.6, "60%"), (3.73, "273%"), (1 / 1.6, "60%")])
def test_a_check_that_misses_its_aim_makes_no_profile(machine: KnownMachine, slowness: float, error: str) -> None:
    with pytest.raises(
        CheckFailed,
        match=rf"^the times of native: estimates of networks outside the fit are off by up to {error}, "
        r"expected at most 50%: something disturbed them, and no profile was written; end other programs, and run the "
        r"same command again$",
    ):
        calibrate(export, "here", slower_when_checked(machine, slowness))


def slower_when_checked(machine: KnownMachine, slowness: float) -> Callable[[str], None]:
    """For `progress`: another clock of the processor as soon as the fit is made."""

    def progress(line: str) -> None:
        if line == "timing networks that are not part of the fit":
            machine.slowness = slowness

    return progress


@pytest.mark.usefixtures("machine")
def test_a_noisy_machine_gets_a_profile(monkeypatch: pytest.MonkeyPatch) -> None:
    """Up to a tenth more for each call; five times as much for one in ten, when another program emptied the caches."""
    generator = np.random.default_rng(0)

    def noisy(act: Act, observations: Array) -> float:
        return one_repeat(act, observations) * generator.uniform(1, 1.1) * generator.choice([1, 5], p=[0.9, 0.1])

    one_repeat = calibration._one_repeat
    monkeypatch.setattr(calibration, "_one_repeat", noisy)
    monkeypatch.setattr(calibration, "ROUNDS", 8)
    device = parse_device(calibrate(export, "here", lambda _: None).encode(), "here", "here")
    for name in ("native", "onnxruntime"):
        assert profile(random_policy((32,), 1.0, 1), device, runtime=name).latency.uncertainty == 0.15


def test_what_other_programs_take_is_not_measured() -> None:
    """As a thread that sleeps, one that waits for its processor takes none of its time."""

    def act(observation: Array) -> Array:
        time.sleep(0.1)
        return observation

    assert calibration._one_repeat(act, np.zeros((1, 1), np.float32)) < 50_000  # µs


def test_a_clock_that_stands_still(machine: KnownMachine) -> None:
    machine.slowness = 0
    with pytest.raises(CheckFailed, match=r"^the times of native: the clock of processor time stood still: "):
        calibrate(None, "here", lambda _: None)


@pytest.mark.usefixtures("machine")
def test_without_onnxruntime_the_profile_says_so() -> None:
    device = parse_device(calibrate(None, "here", lambda _: None).encode(), "here", "here.toml")
    assert device.default_runtime == "native"
    assert not device.runtime("onnxruntime").available


def test_a_server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fake_linux(tmp_path, monkeypatch, SERVER, SERVER_CACHES)
    host = describe_host()
    assert [(level, cache.value) for level, cache in host.caches] == [
        ("L1", 48 << 10),
        ("L2", 2 << 20),
        ("L3", 480 << 20),
    ]
    assert (host.core, host.clock_mhz.value) == ('Some CPU "X"', 2599.998)
    assert (host.ram_bytes.value, host.usable_bytes.value) == (1_024_000_000, 614_400_000)


def test_a_small_board_tells_little(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fake_linux(tmp_path, monkeypatch, BOARD)
    host = describe_host()
    assert host.core == "0xd03"
    assert [cache.source for _, cache in host.caches] == ["assumed: Linux does not say"] * 2
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
