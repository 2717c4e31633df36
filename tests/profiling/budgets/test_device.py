"""Every shipped profile is valid, and every way of being invalid has its own line."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import pytest

from edgerl.errors import DeviceError
from edgerl.profiling.budgets.device import (
    ClassCosts,
    Quantity,
    RuntimeCosts,
    device_ids,
    find_device,
    load_device,
    parse_device,
)
from edgerl.profiling.latency.cores import class_of_core
from edgerl.profiling.latency.evaluate import predict
from edgerl.profiling.latency.points import Point, read_points

SHIPPED = Path(__file__).parents[3] / "device_profiles"
BOARDS = {
    *("beaglebone-ai-64", "beaglebone-black", "coral-dev-board", "jetson-nano", "jetson-orin-nano", "jetson-tx2"),
    *("raspberry-pi-3b-plus", "raspberry-pi-4b", "raspberry-pi-5", "raspberry-pi-zero-2w"),
}
POINTS = Path(__file__).parents[3] / "benchmarks/published_latencies.jsonl"
NANO = (SHIPPED / "jetson-nano.toml").read_text(encoding="utf-8")
STM32 = (SHIPPED / "stm32f405.toml").read_text(encoding="utf-8")
UNITS = (
    "_count",
    "_mhz",
    "_hz",
    "_bytes",
    "_gb_per_s",
    "_us",
    "_ns",
    "_share",
    "_ratio",
    "_per_cycle",
    "_per_multiply_add",
)


def changed(text: str, old: str, new: str) -> bytes:
    """`text` with the one line that begins with `old` replaced."""
    replaced, count = re.subn(rf"^{re.escape(old)}.*$", lambda _: new, text, count=1, flags=re.MULTILINE)
    assert count == 1
    return replaced.encode()


def test_every_board_and_every_device_with_a_published_latency_is_there() -> None:
    published = {point.device_id for point in read_points(POINTS)}
    assert set(device_ids()) == BOARDS | published | {"esp32-s3", "stm32f746", "teensy-4.1"}


def test_published_points_and_profiles_agree_on_the_core() -> None:
    for point in read_points(POINTS):
        assert class_of_core(find_device(point.device_id).cpu.core) == class_of_core(point.cpu or "")


@pytest.mark.parametrize("device_id", device_ids())
def test_shipped_profiles_are_valid(device_id: str) -> None:
    assert load_device(SHIPPED / f"{device_id}.toml").id == device_id


def test_shipped_names_and_aliases_are_distinct() -> None:
    names = [name for device_id in device_ids() for name in (device_id, *find_device(device_id).aliases)]
    assert len(set(names)) == len(names)


@pytest.mark.parametrize("device_id", device_ids())
def test_every_number_has_its_unit_in_its_key_and_a_source(device_id: str) -> None:
    text = (SHIPPED / f"{device_id}.toml").read_text(encoding="utf-8")
    keys = re.findall(r"^(\w+) = \{ value = [^,]+, source = \"[^\"]+\" \}$", text, flags=re.MULTILINE)
    numbers = re.findall(r"^(\w+) = .*\b\d.*$", re.sub(r'"[^"]*"', "", text), flags=re.MULTILINE)
    assert set(numbers) <= set(keys)
    assert all(key.endswith(UNITS) for key in keys)


@pytest.mark.parametrize("device_id", device_ids())
def test_the_default_runtime_is_available(device_id: str) -> None:
    device = find_device(device_id)
    assert device.runtime(device.default_runtime).available


def test_known_figures() -> None:
    nano, stm32 = find_device("jetson-nano"), find_device("stm32f405")
    assert nano.cpu.peak_flops("fp32") * nano.cpu.core_count.value == pytest.approx(
        47.3e9, rel=1e-3
    )  # FACTS.md, derived
    assert stm32.memory.ram_bytes == Quantity(192 * 1024, "vendor datasheet: 128 KiB SRAM and 64 KiB CCM")
    assert not nano.runtime("onnxruntime").available
    assert "sbc-bench" in find_device("jetson-orin-nano").caches[2].size_bytes.source  # L3: in no datasheet we checked
    assert stm32.cpu.peak_flops("fp32") == pytest.approx(2 * 168e6 / 9.495)
    assert find_device("raspberry-pi-5").cpu.peak_flops("int8") == pytest.approx(153.5e9, rel=1e-3)  # cpufp
    assert find_device("samd51").in_mode("overclocked").cpu.clock_mhz.value == 200  # the published points' clock


def test_what_prices_a_runtime() -> None:
    nano, stm32 = find_device("jetson-nano"), find_device("stm32f405")
    native, c = nano.runtime("native").figures, stm32.runtime("c").figures
    assert native is not None
    assert isinstance(native.costs, RuntimeCosts)
    assert native.costs.error_ratio is None
    assert c is not None
    assert isinstance(c.costs, ClassCosts)
    assert c.costs.latency_class == "generated-c"


def test_the_same_chip_has_the_same_latencies() -> None:
    """Both Teensies are an i.MX RT1062 at 600 MHz; latencies of the 4.0 alone are published."""
    point = Point("teensy-4.1", "tuned-kernels", (13, 64, 64, 4), "fp32", 50.0, "Cortex-M7", None, None)
    here, there = predict(point), predict(replace(point, device_id="teensy-4.0"))
    assert (here.predicted_us, here.uncertainty) == (there.predicted_us, there.uncertainty)
    other = predict(replace(point, device_id="stm32f746", clock_mhz=600))  # a core that no point ties to this chip
    assert other.predicted_us != here.predicted_us


def test_a_mode_that_is_not_there() -> None:
    with pytest.raises(DeviceError, match="jetson-nano has no mode '6W'; choose one of 5W; did you mean 5W"):
        find_device("jetson-nano").in_mode("6W")
    with pytest.raises(DeviceError, match="raspberry-pi-5 has no mode 'turbo'; it has only one; leave `mode` out"):
        find_device("raspberry-pi-5").in_mode("turbo")


def test_a_device_is_found_by_alias_and_by_file(tmp_path: Path) -> None:
    assert find_device("Pi5").id == "raspberry-pi-5"
    (tmp_path / "my-board.toml").write_text(STM32, encoding="utf-8")
    assert find_device(tmp_path / "my-board.toml").id == "my-board"


def test_an_unknown_device_suggests_the_nearest() -> None:
    with pytest.raises(DeviceError, match="there is no device 'jetson-nanno'; did you mean jetson-nano"):
        find_device("jetson-nanno")
    with pytest.raises(DeviceError, match="there is no device 'zzz'; list them: edgerl devices list"):
        find_device("zzz")
    with pytest.raises(DeviceError, match=r"missing\.toml is not there"):
        find_device("missing.toml")


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("clock_mhz", 'clock_mhz = { value = 1, source = "x" }\nbogomips = 7', "cpu.'bogomips' is an unknown key"),
        (
            "kind",
            'kind = "linux"\nsame_chip_as = "teensy-4"',
            "same_chip_as is 'teensy-4', which is not a device; did you",
        ),
        ("kind", 'kind = "linux"\naliasses = []', "'aliasses' is an unknown key; did you mean aliases"),
        ("clock_mhz", 'clock = { value = 1479, source = "x" }', "cpu.clock has no unit; expected the key clock_mhz"),
        ("clock_mhz", "", "cpu.clock_mhz is missing"),
        ("clock_mhz", "clock_mhz = 1479", "cpu.clock_mhz has no source; expected clock_mhz = "),
        ("clock_mhz", "clock_mhz = { value = 1479 }", "cpu.clock_mhz has no source"),
        ("clock_mhz", 'clock_mhz = { value = 1479, source = "" }', "cpu.clock_mhz.source is ''; expected one line"),
        ("clock_mhz", 'clock_mhz = { value = 1, source = "x", sauce = 1 }', "clock_mhz.'sauce' is an unknown key"),
        ("clock_mhz", 'clock_mhz = { value = "1479", source = "x" }', "cpu.clock_mhz is '1479'; expected a number"),
        ("clock_mhz", 'clock_mhz = { value = true, source = "x" }', "cpu.clock_mhz is True; expected a number"),
        ("clock_mhz", 'clock_mhz = { value = -1479, source = "x" }', "clock_mhz is -1479; it cannot be negative"),
        ("clock_mhz", 'clock_mhz = { value = 0, source = "x" }', "cpu.clock_mhz is 0; expected 1e-09 to"),
        ("clock_mhz", 'clock_mhz = { value = nan, source = "x" }', "cpu.clock_mhz is nan; expected a finite number"),
        ("clock_mhz", 'clock_mhz = { value = inf, source = "x" }', "cpu.clock_mhz is inf; expected a finite number"),
        ("clock_mhz", f'clock_mhz = {{ value = 1{"0" * 400}, source = "x" }}', "expected a finite number up to 1e.15"),
        ("core_count", 'core_count = { value = 1.5, source = "x" }', "cpu.core_count is 1.5; expected a whole number"),
        (
            "flops_share",
            'flops_share = { value = 1.1, source = "x" }',
            "flops_share is 1.1; expected 1e-09 to 1$",
        ),
        ("kind", 'kind = "phone"', "kind is 'phone'; expected one of linux, microcontroller"),
        ("aliases", 'aliases = "nano"', "aliases is 'nano'; expected a list of texts"),
        (
            "aliases",
            'aliases = ["a\\u001b[31m"]',
            r"aliases is \['a\\x1b\[31m'\]; expected a list of texts, each one line",
        ),
        ("aliases", 'aliases = ["a", " "]', r"aliases is \['a', ' '\]; expected a list of texts, each one line"),
        ("name", 'name = "two\\nlines"', "name is .*; expected one line of text"),
        ("available", 'available = "no"', "runtimes.onnxruntime.available is 'no'; expected true or false"),
        ("reason", "", "runtimes.onnxruntime.reason is missing"),
        (
            "default_runtime",
            'default_runtime = "tensorrt"',
            "default_runtime is 'tensorrt'; expected one of onnxruntime",
        ),
        (
            "usable_bytes",
            'usable_bytes = { value = 5_000_000_000, source = "x" }',
            "memory.usable_bytes is 5000000000; expected at most memory.ram_bytes, 4187593113",
        ),
        (
            "memory_bytes",
            'memory_bytes = { value = 8_000_000_000, source = "x" }',
            "budgets.memory_bytes is 8000000000; expected at most memory.usable_bytes",
        ),
        (
            "flash_bytes = { value = 1_000",
            'flash_bytes = { value = 17_000_000_000, source = "x" }',
            "budgets.flash_bytes is 17000000000; expected at most memory.flash_bytes",
        ),
        (
            "size_bytes",
            'size_bytes = { value = 9_000_000, source = "x" }',
            "caches list L1D before L2; expected the smal",
        ),
        ("[cpu]", "[processor]", "cpu is missing"),
        (
            "core_count = { value = 2",
            'core_count = { value = 5, source = "x" }',
            "modes.5W.core_count is 5; expected at most cpu.core_count, 4",
        ),
        ("[modes.5W]", "[modes.5W]\nvolts = 5", "modes.5W.'volts' is an unknown key"),
        ("[modes.5W]", '[modes."\\u001b[2J"]', r"modes\.'.x1b\[2J' is not a name; expected one line of text"),
        ("[modes.5W]", '[modes.""]', r"modes\.'' is not a name"),
        ("aliases", 'aliases = ["Nano"]', "aliases hold 'Nano'; expected lower case"),
        ("int8_flop_per_cycle", "", "cpu.int8_flop_per_cycle is missing"),
        ("dense_ns_per_multiply_add", "", "runtimes.onnxruntime.dense_ns_per_multiply_add is missing"),
        (
            "layer_overhead_us",
            'layer_overhead = { value = 1, source = "x" }',
            "has no unit; expected the key layer_over",
        ),
        (
            "call_overhead_us",
            'call_overhead_us = { value = 1, source = "x" }\nlatency_class = "generated-c"',
            "runtimes.onnxruntime.sparse_block_1_cost_ratio is missing",
        ),
    ],
)
def test_an_invalid_profile_is_one_clear_line(old: str, new: str, message: str) -> None:
    with pytest.raises(DeviceError, match=message) as caught:
        parse_device(changed(NANO, old, new), "board", "board.toml")
    assert str(caught.value).startswith("board.toml: ")
    assert "\n" not in str(caught.value)


def test_a_table_must_be_a_table_and_caches_a_list_of_them() -> None:
    with pytest.raises(DeviceError, match=r"budgets is 5; expected a table"):
        parse_device(
            (NANO[: NANO.index("[budgets]")]).replace("[cpu]", "budgets = 5\n[cpu]", 1).encode(), "b", "b.toml"
        )
    with pytest.raises(DeviceError, match=r"caches is \[\]; expected at least one \[\[caches\]\]"):
        parse_device(
            re.sub(r"\[\[caches\]\][^\[]*", "", NANO).replace("[cpu]", "caches = []\n[cpu]", 1).encode(), "b", "b"
        )


def test_the_default_runtime_must_have_figures() -> None:
    with pytest.raises(DeviceError, match="default_runtime is native, which has no figures; choose another"):
        parse_device(changed(STM32, "default_runtime", 'default_runtime = "native"'), "board", "board.toml")


def test_an_unknown_latency_class_and_two_modes_of_one_name_are_refused() -> None:
    with pytest.raises(DeviceError, match=r"runtimes\.c\.latency_class is 'fast'; expected one of interpreter"):
        parse_device(changed(STM32, "latency_class", 'latency_class = "fast"'), "board", "board.toml")
    mode = '\n[modes.5w]\ncore_count = { value = 1, source = "x" }\nclock_mhz = { value = 1, source = "x" }\n'
    with pytest.raises(DeviceError, match=r"board.toml: modes has the same name twice among \['5W', '5w'\]"):
        parse_device((NANO + mode).encode(), "board", "board.toml")


def test_a_microcontroller_has_no_linux_figures() -> None:
    line = 'flash_bytes = { value = 1_048_576, source = "x" }\nbandwidth_gb_per_s = { value = 1, source = "x" }'
    with pytest.raises(DeviceError, match=r"memory\.'bandwidth_gb_per_s' is an unknown key"):
        parse_device(changed(STM32, "flash_bytes", line), "board", "board.toml")


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"\xff\xfe", "board.toml is not a TOML file"),
        (b"name = ", "board.toml is not a TOML file"),
        (b"a = " + b"[" * 5000, "board.toml is not a TOML file"),
        (b"", "board.toml: kind is missing"),
        (b"#" * 70_000, "board.toml has 70000 bytes; expected at most 65536"),
    ],
)
def test_hostile_files_are_refused(data: bytes, message: str) -> None:
    with pytest.raises(DeviceError, match=message):
        parse_device(data, "board", "board.toml")


def test_an_unknown_runtime_suggests_the_nearest() -> None:
    with pytest.raises(DeviceError, match=r"there is no runtime 'onnxruntim'; choose .*; did you mean onnxruntime"):
        find_device("jetson-nano").runtime("onnxruntim")
