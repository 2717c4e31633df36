"""Device profiles: data in TOML, one strict reader. device_profiles/README.md documents every key.

A number is written as `{ value = …, source = "…" }` under a key that ends in its unit. Nothing is optional unless the
README says so, and an unknown key is an error: people buy boards by these profiles.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cache
from importlib import resources
from itertools import pairwise
from pathlib import Path
from typing import Any, Literal, TypeGuard, TypeVar

from edgerl.edge.runtimes import RUNTIMES, RuntimeName
from edgerl.errors import DeviceError, FileFormatError, nearest, quoted
from edgerl.files.kind import what_is
from edgerl.files.toml import parse_toml, read_toml
from edgerl.policy.compact import PRECISIONS, Precision
from edgerl.profiling.latency.model import RUNTIME_CLASSES, RuntimeClass

Kind = Literal["linux", "microcontroller"]

KINDS: tuple[Kind, ...] = ("linux", "microcontroller")

SMALLEST_NUMBER = 1e-9
LARGEST_NUMBER = 1e15

_Choice = TypeVar("_Choice", bound=str)


@dataclass(frozen=True)
class Quantity:
    """A number and where it comes from: a citation, `derived: formula`, or `assumed: reasoning`."""

    value: float
    source: str


@dataclass(frozen=True)
class Cpu:
    """What computes. `peaks` is what one core reaches at best, by precision, in the unit of the device's kind."""

    core: str
    architecture: str
    core_count: Quantity
    clock_mhz: Quantity
    peaks: Mapping[Precision, Quantity]  # linux: FLOP per cycle; microcontroller: best published cycles/multiply-add
    peaks_are_cycles: bool

    def peak_flops(self, precision: Precision) -> float:
        """FLOP/s of one core, reached by tuned code."""
        peak = self.peaks[precision].value
        return self.clock_mhz.value * 1e6 * (2 / peak if self.peaks_are_cycles else peak)


@dataclass(frozen=True)
class Mode:
    """A power mode: fewer cores, another clock."""

    name: str
    core_count: Quantity
    clock_mhz: Quantity


@dataclass(frozen=True)
class Cache:
    """One cache level as one core sees it."""

    level: str
    size_bytes: Quantity
    bandwidth_gb_per_s: Quantity


@dataclass(frozen=True)
class Memory:
    """Memory for data and programs; `bandwidth_gb_per_s` only where there are caches in front of it (linux)."""

    ram_bytes: Quantity
    usable_bytes: Quantity
    flash_bytes: Quantity
    bandwidth_gb_per_s: Quantity | None


@dataclass(frozen=True)
class RuntimeCosts:
    """What executing takes on one core at the profile's clock, with one observation at a time (latency/estimate.py)."""

    call_overhead_us: Quantity
    layer_overhead_us: Quantity
    dense_ns_per_multiply_add: Quantity
    dense_input_overhead_ns: Quantity | None  # None, with what follows: the runtime executes dense matrices only
    sparse_input_overhead_ns: Quantity | None
    sparse_block_1_ns_per_multiply_add: Quantity | None
    sparse_block_4_ns_per_multiply_add: Quantity | None
    error_ratio: Quantity | None  # None: no estimate was compared with this device


@dataclass(frozen=True)
class ClassCosts:
    """Costs fitted to published points of one class (latency/model.py); ratios are to its dense multiply-add."""

    latency_class: RuntimeClass
    sparse_block_1_cost_ratio: Quantity
    sparse_block_4_cost_ratio: Quantity


@dataclass(frozen=True)
class RuntimeFigures:
    """What a runtime needs on this device."""

    costs: RuntimeCosts | ClassCosts
    base_memory_bytes: Quantity
    installed_bytes: Quantity


@dataclass(frozen=True)
class Runtime:
    """One way to execute a policy; `reason` and `instead` are texts where it is not available on the stock device."""

    name: RuntimeName
    available: bool
    reason: str | None
    instead: str | None
    figures: RuntimeFigures | None  # None: it can never run there

    def slowed(self, factor: float) -> Runtime:
        """The runtime where the core takes `factor` times as long; the costs of a class are in cycles, and stay."""
        if self.figures is None or isinstance(self.figures.costs, ClassCosts):
            return self
        times = {
            key: _scaled(value, factor)
            for key, value in vars(self.figures.costs).items()
            if value is not None and key != "error_ratio"
        }
        costs = replace(self.figures.costs, **times, error_ratio=None)
        return replace(self, figures=replace(self.figures, costs=costs))


@dataclass(frozen=True)
class Budgets:
    """What a policy may use by default; shares are of one core's peak FLOP/s and of the control period."""

    memory_bytes: Quantity
    flash_bytes: Quantity
    rate_hz: Quantity
    flops_share: Quantity
    latency_share: Quantity


@dataclass(frozen=True)
class SavedMeasurement:
    """A latency that was measured on this device, of one policy with one runtime; `model` is its architecture.

    `mode` is the power mode that the device was in; None: the one that the profile's own figures are for.
    """

    policy_sha256: str
    model: str
    runtime: RuntimeName
    mode: str | None
    latency_us: Quantity  # median
    latency_p99_us: Quantity
    latency_max_us: Quantity
    latency_cold_us: Quantity

    @property
    def key(self) -> tuple[str, str, str | None]:
        """What two measurements of a profile may not share."""
        return self.policy_sha256, self.runtime, self.mode


@dataclass(frozen=True)
class Device:
    """A device profile, valid in every respect that can be checked without the device."""

    id: str
    name: str
    kind: Kind
    aliases: tuple[str, ...]
    cpu: Cpu
    modes: tuple[Mode, ...]
    caches: tuple[Cache, ...]  # nearest to the core first
    memory: Memory
    runtimes: tuple[Runtime, ...]
    default_runtime: RuntimeName
    budgets: Budgets
    measured: tuple[SavedMeasurement, ...] = ()
    same_chip_as: str | None = None

    @property
    def chip(self) -> str:
        """The device id under which latencies of this chip were published."""
        return self.same_chip_as or self.id

    def runtime(self, name: str) -> Runtime:
        """The runtime called `name`; DeviceError where there is none."""
        for runtime in self.runtimes:
            if runtime.name == name:
                return runtime
        raise DeviceError(
            f"there is no runtime {name[:40]!r}; choose one of {', '.join(RUNTIMES)}{nearest(name, RUNTIMES)}"
        )

    def saved(self, policy_sha256: str, runtime: str, mode: str | None) -> SavedMeasurement | None:
        """What was measured of a policy with a runtime, in one of the modes or, None, in the default one."""
        wanted = policy_sha256, runtime, mode and self.mode(mode).name
        return next((saved for saved in self.measured if saved.key == wanted), None)

    def in_mode(self, name: str) -> Device:
        """The device in its power mode `name`; DeviceError where there is none."""
        mode = self.mode(name)
        slower = self.at_clock(mode.clock_mhz)
        cpu = replace(slower.cpu, core_count=mode.core_count)
        return replace(slower, name=f"{self.name}, mode {mode.name}", cpu=cpu)

    def mode(self, name: str) -> Mode:
        """The power mode called `name`, in any case; DeviceError where there is none."""
        for mode in self.modes:
            if mode.name.lower() == name.lower():
                return mode
        known = [mode.name for mode in self.modes]
        listed = f"choose one of {', '.join(known)}" if known else "it has only one; leave `mode` out"
        raise DeviceError(f"{self.id} has no mode {name[:40]!r}; {listed}{nearest(name, known)}")

    def at_clock(self, clock_mhz: Quantity) -> Device:
        """The device at another clock: what the core does takes as many cycles, memory keeps its pace."""
        slower = self.cpu.clock_mhz.value / clock_mhz.value
        return replace(
            self,
            cpu=replace(self.cpu, clock_mhz=clock_mhz),
            caches=tuple(
                replace(cache, bandwidth_gb_per_s=_scaled(cache.bandwidth_gb_per_s, 1 / slower))
                for cache in self.caches
            ),
            runtimes=tuple(runtime.slowed(slower) for runtime in self.runtimes),
            measured=(),
        )


def _scaled(quantity: Quantity, factor: float) -> Quantity:
    return Quantity(quantity.value * factor, f"{quantity.source}; × {factor:.3g}, another clock")


def device_ids() -> list[str]:
    """The ids of the devices that come with edgerl, sorted."""
    files = resources.files("edgerl.device_profiles").iterdir()
    return sorted(file.name.removesuffix(".toml") for file in files if file.name.endswith(".toml"))


def find_device(name: str | Path) -> Device:
    """The device that `name` means: an id, an alias, or the path of a .toml file.

    Raises DeviceError: unknown (the nearest is suggested), or not valid.
    """
    if str(name).endswith(".toml"):
        return load_device(Path(name))
    wanted, ids = str(name).lower(), device_ids()
    if wanted in ids:
        return _load_shipped(wanted)
    devices = [_load_shipped(device_id) for device_id in ids]
    for device in devices:
        if wanted in device.aliases:
            return device
    if (found := what_is(Path(name))) != "not there":
        raise DeviceError(
            f"{str(name)[:200]} is {found}; expected the id of a device (edgerl devices list), or a .toml file"
        )
    known = [*ids, *(alias for device in devices for alias in device.aliases)]
    help_ = nearest(wanted, known) or "; list them: edgerl devices list, or name a .toml file of your own"
    raise DeviceError(f"there is no device {str(name)[:40]!r}{help_}")


def profile_path(name: str) -> Path:
    """The TOML file of the device that `name` means, as find_device takes it."""
    if name.endswith(".toml"):
        return Path(name)
    return Path(str(resources.files("edgerl.device_profiles") / f"{find_device(name).id}.toml"))


def load_device(path: Path) -> Device:
    """The profile in a TOML file. Raises DeviceError, saying what is wrong, unless all of it is valid."""
    try:
        document = read_toml(path)
    except FileFormatError as error:
        raise DeviceError(str(error)) from error
    return _device(_Table(str(path), "", document), path.stem)


def parse_device(data: bytes, device_id: str, source: str) -> Device:
    """The profile in the bytes of a TOML file; `source` names them in messages. Raises DeviceError."""
    try:
        document = parse_toml(data, source)
    except FileFormatError as error:
        raise DeviceError(str(error)) from error
    return _device(_Table(source, "", document), device_id)


@cache
def _load_shipped(device_id: str) -> Device:
    file = resources.files("edgerl.device_profiles") / f"{device_id}.toml"
    return parse_device(file.read_bytes(), device_id, f"{device_id}.toml")


class _Table:
    """A TOML table whose keys are read one by one, each checked; a key that is left at the end is unknown."""

    def __init__(self, source: str, name: str, content: dict[str, Any]) -> None:
        self.source = source
        self.name = name
        self.content = dict(content)
        self.known: list[str] = []  # keys that were read

    def fail(self, key: str, problem: str) -> DeviceError:
        return DeviceError(f"{self.source}: {self.name}{key} {problem}")

    def pop(self, key: str) -> Any:
        self.known.append(key)
        if key in self.content:
            return self.content.pop(key)
        for present in self.content:
            if key.startswith(f"{present}_"):
                raise self.fail(present[:60], f"has no unit; expected the key {key}")
        raise self.fail(key, "is missing; see device_profiles/README.md")

    def text(self, key: str) -> str:
        value = self.pop(key)
        if not _is_line(value):
            raise self.fail(key, f"is {quoted(value)}; expected one line of text")
        return value

    def choice(self, key: str, choices: tuple[_Choice, ...]) -> _Choice:
        value = self.pop(key)
        for choice in choices:
            if value == choice:
                return choice
        raise self.fail(key, f"is {quoted(value)}; expected one of {', '.join(choices)}")

    def flag(self, key: str) -> bool:
        value = self.pop(key)
        if not isinstance(value, bool):
            raise self.fail(key, f"is {quoted(value)}; expected true or false")
        return value

    def texts(self, key: str) -> tuple[str, ...]:
        value = self.pop(key)
        if not isinstance(value, list) or not all(_is_line(item) for item in value):
            raise self.fail(key, f"is {quoted(value)}; expected a list of texts, each one line")
        return tuple(value)

    def table(self, key: str) -> _Table:
        return self.as_table(key, self.pop(key))

    def tables(self, key: str) -> list[_Table]:
        value = self.pop(key)
        if not isinstance(value, list) or not value:
            raise self.fail(key, f"is {quoted(value)}; expected at least one [[{self.name}{key}]]")
        return [self.as_table(f"{key}[{index}]", item) for index, item in enumerate(value)]

    def as_table(self, key: str, value: Any) -> _Table:
        if not isinstance(value, dict):
            raise self.fail(key, f"is {quoted(value)}; expected a table")
        return _Table(self.source, f"{self.name}{key}.", value)

    def number(self, key: str, *, zero: bool = False, at_most: float = LARGEST_NUMBER, whole: bool = False) -> Quantity:
        entry = self.pop(key)
        if not isinstance(entry, dict) or "source" not in entry:
            raise self.fail(key, f'has no source; expected {key} = {{ value = …, source = "…" }}')
        inner = self.as_table(key, entry)
        value, source = inner.pop("value"), inner.text("source")
        inner.finish()
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise self.fail(key, f"is {quoted(value)}; expected a number")
        if not math.isfinite(value) if isinstance(value, float) else abs(value) > LARGEST_NUMBER:
            raise self.fail(key, f"is {quoted(value)}; expected a finite number up to {LARGEST_NUMBER:.0e}")
        if value < 0:
            raise self.fail(key, f"is {quoted(value)}; it cannot be negative")
        if (value < SMALLEST_NUMBER and not (zero and value == 0)) or value > at_most:
            raise self.fail(key, f"is {quoted(value)}; expected {SMALLEST_NUMBER:g} to {at_most:g}")
        if whole and value != int(value):
            raise self.fail(key, f"is {quoted(value)}; expected a whole number")
        return Quantity(value, source)

    def finish(self) -> None:
        for key in self.content:
            for known in self.known:
                if known.startswith(f"{key}_"):
                    raise self.fail(key[:60], f"has no unit; expected the key {known}")
            raise self.fail(f"{key!r}"[:60], f"is an unknown key{nearest(key, self.known)}")


def _device(table: _Table, device_id: str) -> Device:
    kind = table.choice("kind", KINDS)
    runtimes = table.table("runtimes")
    device = Device(
        id=device_id,
        name=table.text("name"),
        kind=kind,
        aliases=table.texts("aliases"),
        cpu=_cpu(table.table("cpu"), kind),
        modes=_modes(table.table("modes")) if "modes" in table.content else (),
        caches=tuple(_cache(entry) for entry in table.tables("caches")) if kind == "linux" else (),
        memory=_memory(table.table("memory"), kind),
        default_runtime=table.choice("default_runtime", RUNTIMES),
        runtimes=tuple(_runtime(name, runtimes.table(name)) for name in RUNTIMES),
        budgets=_budgets(table.table("budgets")),
        measured=tuple(_saved(entry) for entry in table.tables("measured")) if "measured" in table.content else (),
        same_chip_as=table.text("same_chip_as") if "same_chip_as" in table.content else None,
    )
    runtimes.finish()
    table.finish()
    _check_together(device, table)
    return device


def _cpu(table: _Table, kind: Kind) -> Cpu:
    unit = "flop_per_cycle" if kind == "linux" else "cycles_per_multiply_add"
    cpu = Cpu(
        core=table.text("core"),
        architecture=table.text("architecture"),
        core_count=table.number("core_count", whole=True),
        clock_mhz=table.number("clock_mhz"),
        peaks={precision: table.number(f"{precision}_{unit}") for precision in PRECISIONS},
        peaks_are_cycles=kind == "microcontroller",
    )
    table.finish()
    return cpu


def _modes(table: _Table) -> tuple[Mode, ...]:
    modes = []
    for name in list(table.content):
        if not _is_line(name):
            raise table.fail(quoted(name), "is not a name; expected one line of text, such as 5W")
        mode = table.table(name)
        modes.append(Mode(name, mode.number("core_count", whole=True), mode.number("clock_mhz")))
        mode.finish()
    return tuple(modes)


def _cache(table: _Table) -> Cache:
    cache = Cache(
        level=table.text("level"),
        size_bytes=table.number("size_bytes", whole=True),
        bandwidth_gb_per_s=table.number("bandwidth_gb_per_s"),
    )
    table.finish()
    return cache


def _memory(table: _Table, kind: Kind) -> Memory:
    memory = Memory(
        ram_bytes=table.number("ram_bytes", whole=True),
        usable_bytes=table.number("usable_bytes", whole=True),
        flash_bytes=table.number("flash_bytes", whole=True),
        bandwidth_gb_per_s=table.number("bandwidth_gb_per_s") if kind == "linux" else None,
    )
    table.finish()
    return memory


def _runtime(name: RuntimeName, table: _Table) -> Runtime:
    available = table.flag("available")
    runtime = Runtime(
        name=name,
        available=available,
        reason=None if available else table.text("reason"),
        instead=None if available else table.text("instead"),
        figures=_figures(name, table) if available or "base_memory_bytes" in table.content else None,
    )
    table.finish()
    return runtime


def _figures(name: RuntimeName, table: _Table) -> RuntimeFigures:
    return RuntimeFigures(
        costs=_costs(name, table),
        base_memory_bytes=table.number("base_memory_bytes", zero=True, whole=True),
        installed_bytes=table.number("installed_bytes", zero=True, whole=True),
    )


def _costs(name: RuntimeName, table: _Table) -> RuntimeCosts | ClassCosts:
    if "latency_class" in table.content:
        return ClassCosts(
            latency_class=table.choice("latency_class", RUNTIME_CLASSES),
            sparse_block_1_cost_ratio=table.number("sparse_block_1_cost_ratio"),
            sparse_block_4_cost_ratio=table.number("sparse_block_4_cost_ratio"),
        )

    def number_of_sparse(key: str, *, zero: bool = False) -> Quantity | None:
        return None if name == "onnxruntime" else table.number(key, zero=zero)

    return RuntimeCosts(
        call_overhead_us=table.number("call_overhead_us", zero=True),
        layer_overhead_us=table.number("layer_overhead_us", zero=True),
        dense_ns_per_multiply_add=table.number("dense_ns_per_multiply_add"),
        dense_input_overhead_ns=number_of_sparse("dense_input_overhead_ns", zero=True),
        sparse_input_overhead_ns=number_of_sparse("sparse_input_overhead_ns", zero=True),
        sparse_block_1_ns_per_multiply_add=number_of_sparse("sparse_block_1_ns_per_multiply_add"),
        sparse_block_4_ns_per_multiply_add=number_of_sparse("sparse_block_4_ns_per_multiply_add"),
        error_ratio=table.number("error_ratio") if "error_ratio" in table.content else None,
    )


def _budgets(table: _Table) -> Budgets:
    budgets = Budgets(
        memory_bytes=table.number("memory_bytes", whole=True),
        flash_bytes=table.number("flash_bytes", whole=True),
        rate_hz=table.number("rate_hz"),
        flops_share=table.number("flops_share", at_most=1),
        latency_share=table.number("latency_share", at_most=1),
    )
    table.finish()
    return budgets


def _saved(table: _Table) -> SavedMeasurement:
    saved = SavedMeasurement(
        policy_sha256=table.text("policy_sha256"),
        model=table.text("model"),
        runtime=table.choice("runtime", RUNTIMES),
        mode=table.text("mode") if "mode" in table.content else None,
        latency_us=table.number("latency_us", zero=True),
        latency_p99_us=table.number("latency_p99_us", zero=True),
        latency_max_us=table.number("latency_max_us", zero=True),
        latency_cold_us=table.number("latency_cold_us", zero=True),
    )
    if len(saved.policy_sha256) != 64 or not set(saved.policy_sha256) <= set("0123456789abcdef"):
        raise table.fail("policy_sha256", f"is {quoted(saved.policy_sha256)}; expected 64 hexadecimal digits")
    table.finish()
    return saved


def _check_together(device: Device, table: _Table) -> None:
    """What no single key shows: limits that contradict each other."""
    memory, budgets = device.memory, device.budgets
    limits = (
        ("memory.usable_bytes", memory.usable_bytes, "memory.ram_bytes", memory.ram_bytes),
        ("budgets.memory_bytes", budgets.memory_bytes, "memory.usable_bytes", memory.usable_bytes),
        ("budgets.flash_bytes", budgets.flash_bytes, "memory.flash_bytes", memory.flash_bytes),
    )
    for key, quantity, limit_key, limit in limits:
        if quantity.value > limit.value:
            raise table.fail(key, f"is {quantity.value}; expected at most {limit_key}, {limit.value}")
    for alias in device.aliases:
        if alias != alias.lower():
            raise table.fail("aliases", f"hold {quoted(alias)}; expected lower case, in which names are compared")
    if device.same_chip_as is not None and device.same_chip_as not in device_ids():
        known = nearest(device.same_chip_as, device_ids()) or "; expected an id of: edgerl devices list"
        raise table.fail("same_chip_as", f"is {quoted(device.same_chip_as)}, which is not a device{known}")
    names = [mode.name for mode in device.modes]
    if len({name.lower() for name in names}) < len(names):
        raise table.fail("modes", f"has the same name twice among {quoted(names)}; rename one")
    for mode in device.modes:
        if mode.core_count.value > device.cpu.core_count.value:
            raise table.fail(
                f"modes.{mode.name}.core_count",
                f"is {mode.core_count.value}; expected at most cpu.core_count, {device.cpu.core_count.value}",
            )
    for nearer, farther in pairwise(device.caches):
        if nearer.size_bytes.value >= farther.size_bytes.value:
            raise table.fail("caches", f"list {nearer.level} before {farther.level}; expected the smallest first")
    keys = [saved.key for saved in device.measured]
    if len(set(keys)) != len(keys):
        raise table.fail("measured", "holds two measurements of the same policy, runtime and mode; remove one")
    modes = [None, *(mode.name for mode in device.modes)]
    for unknown in (saved.mode for saved in device.measured if saved.mode not in modes):
        raise table.fail("measured", f"names the mode {quoted(unknown)}, which the device does not have")
    if device.runtime(device.default_runtime).figures is None:
        raise table.fail("default_runtime", f"is {device.default_runtime}, which has no figures; choose another")


def _is_line(value: object) -> TypeGuard[str]:
    """Whether it is a text that can be printed as it is, without control characters for the terminal."""
    return isinstance(value, str) and bool(value.strip()) and value.isprintable()
