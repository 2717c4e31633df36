"""What Linux says about this machine, and a profile's text from it and from measured figures."""

from __future__ import annotations

import json
import os
import platform
import re
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from edgerl.errors import ConfigError
from edgerl.profiling.budgets.device import Quantity

CPU_INFO, MEMORY_INFO = Path("/proc/cpuinfo"), Path("/proc/meminfo")
CPU = Path("/sys/devices/system/cpu/cpu0")

ASSUMED_CACHES = ((1, 32 << 10), (2, 512 << 10))
"""(level, bytes) where the kernel does not say, as on many Arm boards."""


@dataclass(frozen=True)
class Host:
    """This machine; caches are of its first core, (name, bytes), nearest first."""

    core: str
    architecture: str
    core_count: Quantity
    clock_mhz: Quantity
    caches: tuple[tuple[str, Quantity], ...]
    ram_bytes: Quantity
    usable_bytes: Quantity
    disk_bytes: Quantity


def describe_host() -> Host:
    """This machine. Raises ConfigError where it does not run Linux."""
    if not (CPU_INFO.is_file() and MEMORY_INFO.is_file()):
        raise ConfigError("this machine has no /proc/cpuinfo; calibrate runs on Linux only")
    ram, usable = (_memory_bytes(key) for key in ("MemTotal", "MemAvailable"))
    return Host(
        core=_core(),
        architecture=platform.machine() or "unknown",
        core_count=Quantity(os.cpu_count() or 1, "measured: processors that Linux has online"),
        clock_mhz=_clock(),
        caches=_caches(),
        ram_bytes=Quantity(ram, "measured: MemTotal in /proc/meminfo"),
        usable_bytes=Quantity(min(ram, usable), "measured: MemAvailable in /proc/meminfo"),
        disk_bytes=Quantity(shutil.disk_usage("/").total, "measured: size of the root file system"),
    )


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8", errors="replace").strip()
    except OSError:
        return ""


def _core() -> str:
    """The processor's name; Arm kernels only give a part number."""
    text = _read(CPU_INFO)
    for key in ("model name", "Model", "CPU part"):
        if match := re.search(rf"^{key}\s*:\s*(\S.*)$", text, re.MULTILINE):
            name = match[1].strip()
            return name[:80] if name.isprintable() else ascii(name)[:80]
    return "unknown"


def _clock() -> Quantity:
    highest = _read(CPU / "cpufreq/cpuinfo_max_freq")  # kHz
    if highest.isdigit() and int(highest) > 0:
        return Quantity(int(highest) / 1000, "measured: cpuinfo_max_freq of the first core")
    if match := re.search(r"^cpu MHz\s*:\s*([0-9.]+)$", _read(CPU_INFO), re.MULTILINE):
        return Quantity(float(match[1]), "measured: cpu MHz in /proc/cpuinfo")
    return Quantity(1000, "assumed: Linux does not say; times were measured and do not depend on it")


def _caches() -> tuple[tuple[str, Quantity], ...]:
    sizes: dict[int, int] = {}
    for folder in CPU.glob("cache/index*"):
        size = re.fullmatch(r"([0-9]+)([KM])", _read(folder / "size"))
        level = _read(folder / "level")
        if size and level.isdigit() and _read(folder / "type") in ("Data", "Unified"):
            sizes[int(level)] = int(size[1]) << (10 if size[2] == "K" else 20)
    if not sizes:
        source = "assumed: Linux does not say"
        return tuple((f"L{level}", Quantity(size, source)) for level, size in ASSUMED_CACHES)
    rising = [(level, size) for level, size in sorted(sizes.items()) if size > sizes.get(level - 1, 0)]
    return tuple((f"L{level}", Quantity(size, "measured: /sys/devices/system/cpu")) for level, size in rising)


def _memory_bytes(key: str) -> int:
    match = re.search(rf"^{key}:\s+([0-9]+) kB$", _read(MEMORY_INFO), re.MULTILINE)
    if match is None:
        raise ConfigError(f"/proc/meminfo has no {key}; calibrate needs Linux 3.14 or newer")
    return 1024 * int(match[1])


# ------------------------------------------------------------------------------------------------ as a profile

MEASURED = "measured: edgerl devices calibrate, fitted to random networks of one to eight hidden layers"
CHECKED = "measured: edgerl devices calibrate, nine in ten of the networks outside the fit; at least 0.15"

BASE = {"native": (37_900_000, 77_000_000), "onnxruntime": (62_800_000, 146_000_000)}
"""(resident, installed) bytes without any model; see the shipped profiles."""


def profile_text(host: Host, figures: Mapping[str, Mapping[str, float]], bandwidths: Sequence[float]) -> str:
    """The TOML text of a profile. `figures`: of native and, where installed, onnxruntime, by their keys; `bandwidths`:
    GB/s of each cache, and beyond."""
    lines = [
        "# Made by edgerl devices calibrate on this machine. The schema: device_profiles/README.md.",
        f"name = {_quoted(f'This machine, {host.core}')}",
        'kind = "linux"',
        "aliases = []",
        f'default_runtime = "{"onnxruntime" if "onnxruntime" in figures else "native"}"',
        *_cpu_lines(host, figures["native"]),
    ]
    for (level, size), bandwidth in zip(host.caches, bandwidths, strict=False):
        lines += ["", "[[caches]]", f'level = "{level}"', _line("size_bytes", size)]
        lines.append(
            _line("bandwidth_gb_per_s", Quantity(bandwidth, "measured: native, a dense layer that fits in it"))
        )
    lines += [
        *("", "[memory]", _line("ram_bytes", host.ram_bytes), _line("usable_bytes", host.usable_bytes)),
        _line("flash_bytes", host.disk_bytes),
        _line("bandwidth_gb_per_s", Quantity(bandwidths[-1], "measured: native, a dense layer of 16 MB")),
        *_onnxruntime_lines(figures.get("onnxruntime")),
        *_runtime_lines("native", figures["native"]),
        *_c_lines(figures["native"]),
        *_budget_lines(host),
    ]
    return "\n".join(lines) + "\n"


def _cpu_lines(host: Host, native: Mapping[str, float]) -> list[str]:
    flop_per_cycle = 4 / (native["dense_ns_per_multiply_add"] * host.clock_mhz.value / 1e3)
    peak = Quantity(
        flop_per_cycle,
        "derived: twice what native sustains; with one observation it is assumed to reach half of the peak",
    )
    return [
        *("", "[cpu]", f"core = {_quoted(host.core)}", f"architecture = {_quoted(host.architecture)}"),
        _line("core_count", host.core_count),
        _line("clock_mhz", host.clock_mhz),
        _line("fp32_flop_per_cycle", peak),
        _line("fp16_flop_per_cycle", Quantity(flop_per_cycle, "assumed: as fp32, which weights are converted to")),
        _line("int8_flop_per_cycle", Quantity(flop_per_cycle, "assumed: as fp32, which weights are converted to")),
    ]


def _runtime_lines(name: str, figures: Mapping[str, float]) -> list[str]:
    resident, installed = BASE[name]
    return [
        *("", f"[runtimes.{name}]", "available = true"),
        *(_line(key, Quantity(value, CHECKED if key == "error_ratio" else MEASURED)) for key, value in figures.items()),
        _line("base_memory_bytes", Quantity(resident, "measured on x86-64: Python, packages, the engine")),
        _line("installed_bytes", Quantity(installed, "measured: x86-64 wheels unpacked; Python not counted")),
    ]


def _onnxruntime_lines(figures: Mapping[str, float] | None) -> list[str]:
    if figures is not None:
        return _runtime_lines("onnxruntime", figures)
    return [
        *("", "[runtimes.onnxruntime]", "available = false", 'reason = "it was not installed when this was measured"'),
        "instead = \"the runtime native; or: pip install 'edgerl[export]', then calibrate again\"",
    ]


def _c_lines(native: Mapping[str, float]) -> list[str]:
    source = "derived: as native, the same engine called from C"
    costs = {key: value for key, value in native.items() if key not in ("call_overhead_us", "error_ratio")}
    return [
        *("", "[runtimes.c]", "available = true"),
        _line("call_overhead_us", Quantity(0, "assumed: a function call, below 0.1 µs")),
        *(_line(key, Quantity(value, source)) for key, value in costs.items()),
        _line("base_memory_bytes", Quantity(2_000_000, "assumed: a small C program with its C library")),
        _line("installed_bytes", Quantity(65_536, "assumed: a small C program; the C library is installed")),
    ]


def _budget_lines(host: Host) -> list[str]:
    flash = min(1_000_000_000, int(host.disk_bytes.value) // 2)
    return [
        *("", "[budgets]"),
        _line("memory_bytes", Quantity(int(host.usable_bytes.value) // 2, "assumed: half of the usable memory")),
        _line("flash_bytes", Quantity(flash, "assumed: 1 GB, at most half of the disk")),
        _line("rate_hz", Quantity(100, "assumed: a common rate of a locomotion or position controller")),
        _line("flops_share", Quantity(0.125, "assumed: a quarter of the period, at half of the peak")),
        _line("latency_share", Quantity(0.25, "assumed: a quarter of the period")),
    ]


def _line(key: str, quantity: Quantity) -> str:
    value = f"{quantity.value}" if isinstance(quantity.value, int) else f"{quantity.value:.4g}"
    return f"{key} = {{ value = {value}, source = {_quoted(quantity.source)} }}"


def _quoted(text: str) -> str:
    """A TOML basic string; JSON's is one."""
    return json.dumps(text, ensure_ascii=False)
