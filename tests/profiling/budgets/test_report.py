"""The report against sums done by hand."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

import edgerl
from edgerl.errors import ConfigError, DeviceError, UnsupportedModelError
from edgerl.policy.compact import CompactPolicy, Layer, make_layer
from edgerl.profiling.budgets.device import Quantity, find_device
from edgerl.profiling.budgets.model import network_rows
from edgerl.profiling.budgets.report import profile, with_measured_latency

HALF_CHEETAH = ((17, 256, 1911), (256, 256, 32768), (256, 6, 1536))


def layer(n_inputs: int, n_outputs: int, connections: int, block: int = 1) -> Layer:
    """The first inputs of each output are connected, as evenly as `connections` allows."""
    weight = np.zeros((n_outputs, n_inputs), np.float32)
    positions = np.arange(connections)
    weight[positions % n_outputs, positions // n_outputs] = 1
    return make_layer(weight, np.zeros(n_outputs, np.float32), block)


def policy(*shapes: tuple[int, int, int], block: int = 1) -> CompactPolicy:
    layers = tuple(layer(*shape, block) for shape in shapes)
    bound = np.ones(shapes[-1][1], np.float32)
    return CompactPolicy(layers, -bound, bound).with_example(np.zeros(shapes[0][0], np.float32))


def test_half_cheetah_keeps_every_budget_of_a_jetson_nano() -> None:
    report = edgerl.profile(policy(*HALF_CHEETAH), "jetson-nano", runtime="onnxruntime")
    assert report.exceeded == ()
    assert (report.runtime, report.execution, report.architecture) == ("onnxruntime", "dense", "17-256-256-6")
    assert report.flops.used == 142848
    assert [layer.connections for layer in report.layers] == [1911, 32768, 1536]
    assert [layer.macs for layer in report.layers] == [4352, 65536, 1536]
    assert report.memory.used == 62_800_000 + 3 * 4 * (71424 + 518) + 2 * 6 * 4 + 4 * 512
    assert report.flash.used == 146_000_000 + 4 * (71424 + 518) + 2 * 6 * 4
    assert report.latency.budget == 2500  # a quarter of the period at 100 Hz
    assert str(report.latency.source).startswith("estimate, unvalidated")
    assert report.latency.budget_source.startswith("0.25 of the period at 100 Hz (")
    assert [(part.name, part.amount) for part in report.flash.parts] == [
        ("onnxruntime", 146_000_000),
        ("model", 4 * (71424 + 518) + 2 * 6 * 4),
    ]
    assert report.memory.budget_source == find_device("jetson-nano").budgets.memory_bytes.source
    assert report.notes[0].startswith("onnxruntime cannot be installed on jetson-nano as it is: the stock image")
    assert report.notes[1].startswith("what can run there: an Ubuntu 22.04 container")


def test_a_runtime_that_the_board_cannot_install_does_not_fit() -> None:
    network = network_rows("17-64-64-6")
    for runtime in ("onnxruntime", "native"):
        report = profile(network, "jetson-nano", runtime=runtime)
        assert report.exceeded == ()
        assert (report.is_available, report.fits, report.as_dict()["fits"]) == (False, False, False)
    assert profile(network, "jetson-nano", runtime="c").fits


def test_a_runtime_that_was_measured_there_is_available() -> None:
    report = profile(network_rows("17-64-64-6"), "jetson-nano", runtime="onnxruntime")
    assert with_measured_latency(report, Quantity(50, "measured")).fits


def test_a_policy_too_large_for_c_does_not_fit(tmp_path: Path) -> None:
    """C of up to 16 MiB is exported: weights; a bias, two bounds and an example of each output, one of each input."""
    n, m = 61677, 67
    assert 4 * (n * m + 4 * m + n) == 1 << 24
    largest, larger = policy((n, m, n * m)), policy((n + 1, m, (n + 1) * m))
    assert "flash" not in profile(largest, "raspberry-pi-5", runtime="c").exceeded
    for model in (larger, network_rows("4096-1024-1")):
        report = profile(model, "raspberry-pi-5", runtime="c", budget_flash_bytes=1 << 30)
        assert "flash" in report.exceeded
        assert "--format c writes at most 16777216 bytes" in report.flash.budget_source
    with pytest.raises(UnsupportedModelError, match=f"{larger.architecture} would be .*; expected at most 16777216"):
        edgerl.export_policy(larger, "c", tmp_path / "c")


def test_a_microcontroller_keeps_weights_in_flash_and_executes_connections() -> None:
    report = profile(policy(*HALF_CHEETAH), "stm32f405", rate_hz=400)
    # a weight and a row for each; counts of 16 bits, for an input here has all 256 connections or none; biases
    sparse_bytes = [5 * n + 2 * i + 4 * 256 for n, i in ((1911, 17), (32768, 256))]
    assert (report.runtime, report.execution) == ("c", "connections")
    assert report.flops.used == 72430
    assert [layer.bytes for layer in report.layers] == [*sparse_bytes, 4 * (1536 + 6)]
    assert report.memory.used == 1024 + 4 * 512
    scaling_and_example = 4 * (2 * 6 + 17 + 6)
    assert report.flash.used == 4096 + sum(sparse_bytes) + 4 * (1536 + 6) + scaling_and_example
    assert report.latency.uncertainty is None  # no published point is sparse
    assert report.latency.interval is None
    assert report.exceeded == ("flops", "latency")


def test_stored_blocks_are_executed_whole() -> None:
    report = profile(policy((8, 8, 3), (8, 2, 16), block=4), "stm32f405")
    assert [layer.connections for layer in report.layers] == [3, 16]
    assert [layer.macs for layer in report.layers] == [4, 16]


def test_budgets_follow_the_rate() -> None:
    report = profile(policy((4, 4, 16)), "stm32f405", rate_hz=400)
    assert report.latency.budget == pytest.approx(0.5 / 400 * 1e6)
    assert report.flops.budget == pytest.approx(0.25 * 168e6 * 2 / 9.495 / 400)


def test_budgets_can_be_given_and_exactly_kept() -> None:
    model = policy((4, 4, 16))
    used = profile(model, "stm32f405")
    limits = {
        "budget_memory_bytes": int(used.memory.used),
        "budget_flash_bytes": int(used.flash.used),
        "budget_flops": used.flops.used,
    }
    assert profile(model, "stm32f405", **limits).fits
    for name, limit in limits.items():
        report = profile(model, "stm32f405", **{name: limit - 1})
        assert report.exceeded == (name.split("_")[1],)
        assert report.verdicts[report.exceeded[0]].budget_source == "given"
    assert profile(model, "stm32f405", budget_latency_seconds=1e-9).exceeded == ("latency",)


def test_an_estimate_has_an_interval_and_says_when_it_does_not_decide() -> None:
    latency = profile(network_rows("13-64-64-4"), "stm32h743").latency
    assert latency.uncertainty is not None
    low, high = latency.interval or (0, 0)
    assert (low, high) == (
        pytest.approx(latency.used / (1 + latency.uncertainty)),
        pytest.approx(latency.used * (1 + latency.uncertainty)),
    )
    assert low < 133 < high  # µs, published: RLtools generic C++
    for budget, is_decided in ((high * 1.01, True), (high * 0.99, False), (low * 1.01, False), (low * 0.99, True)):
        report = profile(network_rows("13-64-64-4"), "stm32h743", budget_latency_seconds=budget * 1e-6)
        assert report.latency.is_decided == is_decided
        assert any("measure before you rely on the verdict" in note for note in report.notes) != is_decided
    assert latency.as_dict()["interval"] == latency.interval


def test_a_mode_slows_the_core_and_shrinks_the_flop_budget() -> None:
    full, slow = (profile(network_rows("17-64-64-6"), "jetson-nano", mode=mode) for mode in (None, "5W"))
    assert slow.flops.budget / full.flops.budget == pytest.approx(918 / 1479)
    assert slow.latency.used / full.latency.used == pytest.approx(1479 / 918)
    assert slow.device_name.endswith("(4 GB), mode 5W")


def test_a_network_that_does_not_exist_yet() -> None:
    rows = network_rows("17-64-64-6", density=0.1, block=4)
    report = profile(rows, "stm32f405")
    blocks = [round(0.1 * 17 * 16), round(0.1 * 64 * 16)]
    assert [layer.macs for layer in report.layers] == [
        4 * blocks[0],
        4 * blocks[1],
        64 * 6,
    ]  # the output layer is dense
    stored = [16 * n + 2 * n + 4 * 17 + 4 * 64 for n in blocks]  # values, columns, row starts, biases
    assert [layer.bytes for layer in report.layers] == [*stored, 4 * (64 * 6 + 6)]
    assert report.model == "network 17-64-64-6 at density 0.1 in blocks of 4"


def test_a_network_is_stored_as_a_policy_of_its_shape_is() -> None:
    rows = network_rows("8-8-3", density=0.25)
    (hidden, _) = rows.layers
    like = policy((8, 8, hidden.connections), (8, 3, 24))
    assert profile(rows, "stm32f405").flash.used == profile(like, "stm32f405").flash.used


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("17",), "the network is '17'; expected layer widths, as in 13-64-64-4"),
        (("17-0-6",), "the network is '17-0-6'; expected layer widths"),
        (("17-64-6", 0), "the density is 0; expected a number above 0, at most 1"),
        (("17-64-6", float("nan")), "the density is nan; expected a number above 0"),
        (("17-64-6", 0.5, 2), "the block is 2; expected 1 or 4"),
    ],
)
def test_networks_that_cannot_be(arguments: tuple[Any, ...], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        network_rows(*arguments)


def test_c_computes_int8_where_all_weights_are() -> None:
    weight = np.ones((64, 64), np.int8)
    layers = (make_layer(weight, np.zeros(64, np.float32), 1, np.ones(64, np.float32)),)
    bound = np.ones(64, np.float32)
    report = profile(CompactPolicy(layers, -bound, bound), "stm32l4r5")
    assert report.flops.budget == pytest.approx(0.25 * 120e6 * 2 / 1.84 / 100)
    assert report.latency.used < profile(policy((64, 64, 4096)), "stm32l4r5").latency.used / 2


def test_a_runtime_can_be_chosen() -> None:
    model = policy(*HALF_CHEETAH)
    native = profile(model, "raspberry-pi-5", runtime="native")
    assert native.flops.used == 72430
    assert not native.is_default_runtime
    assert any("chooses each layer's layout on the device" in note for note in native.notes)
    with pytest.raises(DeviceError, match=r"onnxruntime cannot run on esp32: it needs Linux.*; use C code"):
        profile(model, "esp32", runtime="onnxruntime")


def test_the_exported_file_is_profiled_like_the_policy(tmp_path: Path) -> None:
    model = policy(*HALF_CHEETAH)
    path = tmp_path / "policy.onnx"
    edgerl.export_policy(model, "onnx", path)
    from_file, from_policy = (profile(each, "jetson-nano", runtime="onnxruntime") for each in (path, model))
    assert from_file.layers == from_policy.layers
    assert from_file.latency.used == from_policy.latency.used
    assert from_file.flash.used == 146_000_000 + path.stat().st_size
    on_chip = profile(path, "stm32f405")
    assert on_chip.flops.used == 72430
    assert any("an ONNX file does not say its block" in note for note in on_chip.notes)


def test_int8_in_onnxruntime_costs_what_fp32_costs_and_only_the_file_is_smaller() -> None:
    weight = np.ones((256, 256), np.int8)
    scale = np.ones(256, np.float32)
    layers = (make_layer(weight, np.zeros(256, np.float32), 1, scale),)
    bound = np.ones(256, np.float32)
    int8 = CompactPolicy(layers, -bound, bound)
    report, fp32 = (profile(each, "jetson-nano", runtime="onnxruntime") for each in (int8, policy((256, 256, 65536))))
    assert report.layers == fp32.layers
    assert report.layers[0].bytes == 4 * (65536 + 256)
    assert report.latency.used == fp32.latency.used
    kept = ("runtime", "weights", "activations")
    assert [report.memory_parts[name] for name in kept] == [fp32.memory_parts[name] for name in kept]
    assert fp32.flash.used - report.flash.used == 3 * 65536 - 4 * 256  # a byte for each float; a scale for each output
    assert any("float when it loads the model: only the file is smaller" in note for note in report.notes)
    assert not any("only the file is smaller" in note for note in fp32.notes)


@pytest.mark.parametrize(
    ("option", "message"),
    [
        ({"rate_hz": 0}, "the rate is 0; expected 1e-09 to 1e.15"),
        ({"rate_hz": float("nan")}, "the rate is nan; expected 1e-09 to 1e.15"),
        ({"budget_flops": -1}, "the FLOP budget is -1; expected 1e-09 to 1e.15"),
        ({"budget_latency_seconds": float("inf")}, "the latency budget is inf; expected 1e-09 to 1e.15"),
        (
            {"budget_memory_bytes": 1 << 20},
            "the memory budget is 1048576 bytes; the device has 131072; choose a smaller",
        ),
        ({"budget_flash_bytes": 1 << 30}, "the flash budget is 1073741824 bytes; the device has 1048576"),
    ],
)
def test_impossible_budgets(option: dict[str, float], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        profile(policy((4, 4, 16)), "stm32f405", **option)
