"""The latency estimate against sums done by hand and against the published points that calibrate it."""

from __future__ import annotations

from itertools import pairwise

import pytest

from edgerl.profiling.device import Device, RuntimeFigures, find_device
from edgerl.profiling.latency import LayerWork, estimate_latency, sustained_flops


def works(widths: list[int], cost_ratio: float = 1.0) -> list[LayerWork]:
    return [LayerWork(n * m, 4 * (n * m + m), cost_ratio) for n, m in pairwise(widths)]


def figures(device_id: str, runtime: str) -> tuple[Device, RuntimeFigures]:
    device = find_device(device_id)
    found = device.runtime(runtime).figures
    assert found is not None
    return device, found


@pytest.mark.parametrize(("device_id", "published_us"), [("stm32f405", 743), ("stm32h743", 133)])
def test_portable_c_is_calibrated_by_the_published_network(device_id: str, published_us: float) -> None:
    """13-64-64-4, RLtools generic C++."""
    estimate = estimate_latency(*figures(device_id, "c"), works([13, 64, 64, 4]))
    assert estimate.seconds * 1e6 == pytest.approx(published_us, rel=0.01)
    assert estimate.source.startswith("estimate, unvalidated")


def test_esp32_keeps_the_slope_of_an_interpreter() -> None:
    """TFLite Micro: 580 more multiply-adds took 38.55 µs more (TinyML-Benchmark-NNs-on-MCUs)."""
    device, runtime = figures("esp32", "c")
    small, large = ([LayerWork(n, 0, 1.0)] for n in (320, 900))
    slope = estimate_latency(device, runtime, large).seconds - estimate_latency(device, runtime, small).seconds
    assert slope * 1e6 == pytest.approx(74.86 - 36.31, rel=0.01)


def test_esp32_says_that_published_portable_c_is_far_slower() -> None:
    """13-64-64-4, RLtools generic C++: 4282 µs."""
    device, runtime = figures("esp32", "c")
    estimate = estimate_latency(device, runtime, works([13, 64, 64, 4]))
    assert estimate.seconds * 1e6 == pytest.approx(1 + 3 * 1 + 5184 * 12.917 / 0.81 / 240)
    assert 4282 / (estimate.seconds * 1e6) == pytest.approx(12.3, abs=0.05)
    assert "TFLite Micro" in runtime.sustained_share.source
    assert "4282 µs for 13-64-64-4" in runtime.sustained_share.source


def test_weights_in_the_second_cache_by_hand() -> None:
    device, runtime = figures("jetson-nano", "onnxruntime")
    layer = LayerWork(multiply_adds=10_000, bytes_read=40_000, cost_ratio=1.0)  # beyond 32 KiB: L2, 11.8 GB/s
    compute = 2 * 10_000 / (1.479e9 * 8 * 0.5)
    read = 40_000 / 11.8e9
    assert read > compute
    assert estimate_latency(device, runtime, [layer]).seconds == pytest.approx(32e-6 + 3.5e-6 + read)


def test_compute_bounds_what_lies_in_the_first_cache_by_hand() -> None:
    device, runtime = figures("jetson-nano", "onnxruntime")
    layer = LayerWork(multiply_adds=1000, bytes_read=4000, cost_ratio=1.0)
    assert sustained_flops(device, runtime) == pytest.approx(1.479e9 * 8 * 0.5)
    expected = 32e-6 + 2 * 3.5e-6 + 2 * 2000 / (1.479e9 * 8 * 0.5)
    assert estimate_latency(device, runtime, [layer, layer]).seconds == pytest.approx(expected)


def test_weights_beyond_every_cache_come_from_memory() -> None:
    device, runtime = figures("raspberry-pi-zero-2w", "onnxruntime")
    layer = LayerWork(multiply_adds=1_000_000, bytes_read=4_000_000, cost_ratio=1.0)
    estimate = estimate_latency(device, runtime, [layer])
    assert estimate.seconds == pytest.approx(63e-6 + 7e-6 + 4e6 / 1.3e9)
    assert "1.3 GB/s from RAM" in estimate.source


def test_a_cost_ratio_multiplies_compute() -> None:
    device, runtime = figures("stm32f405", "c")
    once, thrice = (estimate_latency(device, runtime, works([8, 8], ratio)).seconds for ratio in (1.0, 3.0))
    assert thrice == pytest.approx(3 * once)
