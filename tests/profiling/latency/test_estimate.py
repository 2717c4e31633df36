"""The latency estimate against sums done by hand."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise

import pytest

from edgerl.profiling.budgets.device import Device, Quantity, find_device
from edgerl.profiling.budgets.model import network_rows
from edgerl.profiling.budgets.rows import LayerRow, matrix_row
from edgerl.profiling.latency.estimate import LatencyEstimate, active_shares, estimate_latency
from edgerl.profiling.latency.model import latency_model


def dense(*widths: int) -> list[LayerRow]:
    return [matrix_row(n, m, n * m, "fp32") for n, m in pairwise(widths)]


def estimate(device: Device | str, runtime: str, layers: list[LayerRow]) -> LatencyEstimate:
    found = find_device(device) if isinstance(device, str) else device
    return estimate_latency(found, found.runtime(runtime), layers)


def cycles(*names: str) -> float:
    """The product of fitted factors."""
    product = 1.0
    for name in names:
        product *= latency_model().factors[name]
    return product


def test_a_class_by_hand() -> None:
    """13-64-64-4 in C on an STM32H743: a Cortex-M7, fp32, and a device that several points know."""
    overheads = ("Cortex-M7: overheads", "stm32h743: overheads")
    call = cycles("generated-c: cycles per call", *overheads)
    layer = cycles("generated-c: cycles per layer", *overheads)
    multiply_add = cycles(
        "generated-c: cycles per multiply-add", "Cortex-M7: multiply-adds", "stm32h743: multiply-adds"
    )
    per_output = cycles("multiply-adds per output")
    expected = call + 3 * layer + (13 * 64 + 64 * 64 + 64 * 4 + per_output * (64 + 64 + 4)) * multiply_add
    found = estimate("stm32h743", "c", dense(13, 64, 64, 4))
    assert found.seconds * 480e6 == pytest.approx(expected)
    assert found.uncertainty == latency_model().uncertainty["generated-c"]["core"]


def test_soft_float_int8_and_halves_by_hand() -> None:
    soft = estimate("rp2040", "c", dense(100, 100)).seconds - estimate("rp2040", "c", dense(10, 100)).seconds
    names = ("generated-c: cycles per multiply-add", "Cortex-M0+: multiply-adds", "rp2040: multiply-adds")
    assert soft * 133e6 == pytest.approx(9000 * cycles(*names, "soft float"))
    layers = {precision: [matrix_row(100, 100, 10_000, precision)] for precision in ("fp32", "fp16", "int8")}
    on_m0 = {precision: estimate("rp2040", "c", rows).seconds for precision, rows in layers.items()}
    assert on_m0["int8"] < on_m0["fp32"] / 10  # no soft float
    on_m4 = {precision: estimate("stm32l4r5", "c", rows) for precision, rows in layers.items()}
    pairs = latency_model().factors["int8 in pairs"]
    assert on_m4["int8"].seconds == pytest.approx(pairs * on_m4["fp32"].seconds, rel=0.05)
    assert on_m4["fp16"].seconds == pytest.approx(1.3 * on_m4["fp32"].seconds, rel=0.05)
    assert on_m4["fp16"].uncertainty is None  # no published point has 16-bit weights


def test_sparse_layers_of_a_class_multiply_by_their_ratio_and_are_unvalidated() -> None:
    sparse = matrix_row(100, 100, 1000, "fp32")
    assert sparse.is_sparse
    whole, part = (estimate("stm32f405", "c", rows) for rows in (dense(100, 100), [sparse]))
    multiply_add = cycles(
        "generated-c: cycles per multiply-add", "Cortex-M4F: multiply-adds", "stm32f405: multiply-adds"
    )
    assert (whole.seconds - part.seconds) * 168e6 == pytest.approx((10_000 - 1.3 * 1000) * multiply_add)
    assert part.uncertainty is None
    assert part.source.startswith("estimate, unvalidated")


def test_a_core_that_no_point_knows_takes_the_mean_of_its_class_and_the_widest_interval() -> None:
    found = estimate("esp32-s3", "c", dense(13, 64, 64, 4))
    assert found.uncertainty == latency_model().uncertainty["generated-c"]["other"]
    assert "none of this core" in found.source


def test_onnxruntime_in_the_second_cache_by_hand() -> None:
    # 30.0 µs a call, 2.5 a layer; 40 400 bytes lie beyond 32 KiB: at 11.8 GB/s longer than 10 000 · 0.3381 ns
    found = estimate("jetson-nano", "onnxruntime", dense(100, 100))
    assert found.seconds == pytest.approx(30e-6 + 2.5e-6 + 40_400 / 11.8e9)
    assert "11.8 GB/s from L2" in found.source
    assert found.uncertainty is None


def test_onnxruntime_in_the_first_cache_by_hand() -> None:
    found = estimate("jetson-nano", "onnxruntime", dense(30, 30, 30))
    assert found.seconds == pytest.approx(30e-6 + 2 * 2.5e-6 + 2 * 900 * 0.3381e-9)


def test_weights_beyond_every_cache_come_from_memory() -> None:
    found = estimate("raspberry-pi-zero-2w", "onnxruntime", dense(1000, 1000))
    assert found.seconds == pytest.approx(60e-6 + 5e-6 + 4_004_000 / 1.3e9)
    assert "1.3 GB/s from RAM" in found.source


def test_onnxruntime_multiplies_every_position() -> None:
    sparse = [matrix_row(100, 100, 500, "fp32")]
    assert estimate("raspberry-pi-5", "onnxruntime", sparse) == estimate(
        "raspberry-pi-5", "onnxruntime", dense(100, 100)
    )


def test_native_passes_over_inputs_that_relu_made_zero() -> None:
    assert active_shares(dense(17, 256, 256, 6)) == [1.0, 0.5, 0.5]
    # Jetson Nano: 4.9 µs a call, 0.091 a layer, 3.381 ns an input, 0.3381 ns a multiply-add; 20 480 bytes lie in L1
    found = estimate("jetson-nano", "native", dense(40, 64, 40))
    expected = 4.9e3 + 2 * 91 + (40 + 32) * 3.381 + (40 * 64 + 32 * 40) * 0.3381
    assert found.seconds * 1e9 == pytest.approx(expected)


def test_units_without_a_connection_are_never_active() -> None:
    first, *_ = network_rows("17-100-100-6", density=0.05).layers
    assert first.connected_outputs == round(100 * (1 - 0.95**17))  # 58
    assert active_shares(network_rows("17-100-100-6", density=0.05).layers)[1] == pytest.approx(0.29)


def test_native_takes_the_cheapest_of_its_layouts_by_hand() -> None:
    # 15 cycles an input and 3 a connection, against 5 an input and 0.5 a multiply-add, at 1.479 GHz
    sparse = [matrix_row(60, 60, 180, "fp32")]
    found = estimate("jetson-nano", "native", sparse)
    assert found.seconds * 1e9 == pytest.approx(4.9e3 + 91 + 60 * 10.14 + 180 * 2.028, rel=1e-3)
    half = [matrix_row(60, 60, 1800, "fp32")]
    assert estimate("jetson-nano", "native", half).seconds == estimate("jetson-nano", "native", dense(60, 60)).seconds


def test_native_prices_blocks_by_the_blocks_that_are_there() -> None:
    (layer, _) = network_rows("60-60-1", density=0.1, block=4).layers
    assert (layer.is_sparse, layer.stored_weights) == (True, 360)
    found = estimate("jetson-nano", "native", [layer])
    assert found.seconds * 1e9 == pytest.approx(4.9e3 + 91 + 60 * 10.14 + 360 * 0.6085, rel=1e-3)


def test_no_dense_layout_is_counted_on_below_its_density() -> None:
    """The engine does not try one below 1/64; wide vectors would make it the cheapest."""
    device = find_device("jetson-nano")
    native = device.runtime("native")
    assert native.figures is not None
    costs = replace(native.figures.costs, dense_ns_per_multiply_add=Quantity(1e-6, "x"))
    fast = replace(device, runtimes=(replace(native, figures=replace(native.figures, costs=costs)),))
    above, below = ([matrix_row(64, 64, count, "fp32")] for count in (64, 63))
    assert estimate(fast, "native", below).seconds > estimate(fast, "native", above).seconds


def test_c_on_linux_executes_what_is_stored() -> None:
    sparse = [matrix_row(60, 60, 180, "fp32")]
    assert estimate("jetson-nano", "c", sparse).seconds * 1e9 == pytest.approx(91 + 180 * 2.028, rel=1e-3)
    assert estimate("jetson-nano", "c", dense(60, 60)).seconds * 1e9 == pytest.approx(91 + 3600 * 1.352, rel=1e-3)


def test_a_slower_mode_takes_as_many_cycles() -> None:
    device = find_device("jetson-nano")
    layers = dense(40, 64, 40)
    normal, slow = estimate(device, "native", layers), estimate(device.in_mode("5w"), "native", layers)
    assert slow.seconds / normal.seconds == pytest.approx(1479 / 918)
    assert device.in_mode("5W").cpu.core_count.value == 2
    big = dense(1000, 1000)
    assert estimate(device.in_mode("5W"), "native", big).seconds < estimate(device, "native", big).seconds * 1479 / 918
    board = find_device("samd51")
    fast = board.in_mode("overclocked")
    assert estimate(fast, "c", layers).seconds / estimate(board, "c", layers).seconds == pytest.approx(120 / 200)


def test_a_measured_profile_says_how_far_off_it_was() -> None:
    device = find_device("raspberry-pi-5")
    native = device.runtime("native")
    assert native.figures is not None
    costs = replace(native.figures.costs, error_ratio=Quantity(0.12, "measured: eight networks"))
    measured = replace(device, runtimes=(replace(native, figures=replace(native.figures, costs=costs)),))
    found = estimate(measured, "native", dense(17, 64, 6))
    assert found.uncertainty == 0.12
    assert found.source.startswith("estimate, ±12 % (measured: eight networks)")
    other_clock = measured.at_clock(Quantity(1000, "x"))
    assert estimate(other_clock, "native", dense(17, 64, 6)).uncertainty is None  # measured at one clock only
