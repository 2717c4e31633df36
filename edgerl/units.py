"""Quantities as people type and read them: 64KiB, 500us, 1e6; 41.2 KiB, 2.1 ms, 4 min 10 s."""

from __future__ import annotations

import math
import re

from edgerl.errors import ConfigError

BYTE_UNITS = {
    "B": 1,
    "kB": 10**3,
    "KB": 10**3,
    "MB": 10**6,
    "GB": 10**9,
    "KiB": 1 << 10,
    "MiB": 1 << 20,
    "GiB": 1 << 30,
}
SECOND_UNITS = {"ns": 1e-9, "us": 1e-6, "µs": 1e-6, "ms": 1e-3, "s": 1.0}

_QUANTITY = re.compile(r"\s*(?P<number>[0-9.]+(?:[eE][+-]?[0-9]+)?)\s*(?P<unit>[A-Za-zµμ%]*)\s*", re.ASCII)


def parse_bytes(text: str, name: str) -> int:
    """Bytes in `text`, such as 64KiB, 1.5MB or 65536; `name` is what the message calls it."""
    return round(_parse(text, name, {"": 1, **BYTE_UNITS}, "a number of bytes, such as 64KiB, 2MB or 65536"))


def parse_seconds(text: str, name: str) -> float:
    """Seconds in `text`, such as 500us, 2ms or 0.1s; a bare number is refused, since its unit is unknown."""
    return _parse(text, name, SECOND_UNITS, "a time with its unit, such as 500us, 2ms or 0.1s")


def parse_count(text: str, name: str) -> float:
    """A number such as 1e6 or 250000."""
    return _parse(text, name, {"": 1}, "a number, such as 1e6")


def parse_share(text: str, name: str) -> float:
    """A share such as 3% or 0.03."""
    return _parse(text, name, {"": 1, "%": 0.01}, "a share, such as 3% or 0.03")


def _parse(text: str, name: str, units: dict[str, float] | dict[str, int], expected: str) -> float:
    match = _QUANTITY.fullmatch(text)
    unit = match["unit"].replace("μ", "µ") if match else ""
    try:
        value = float(match["number"]) * units[unit] if match else math.nan
    except (ValueError, KeyError):
        value = math.nan
    if not (math.isfinite(value) and value > 0):
        raise ConfigError(f"{name} is {text[:40]!r}; expected {expected}, above zero")
    return value


def human_bytes(count: float) -> str:
    """Bytes in binary units: 512 B, 41.2 KiB, 1.1 MiB."""
    if count < 1024:
        return f"{count:.0f} B"
    for unit in ("KiB", "MiB"):
        count /= 1024
        if count < 1024:
            return f"{count:.1f} {unit}"
    return f"{count / 1024:.2f} GiB"


def human_seconds(seconds: float) -> str:
    """A duration: 41.3 µs, 2.1 ms, 3.2 s, 4 min 10 s, 2 h 05 min."""
    if 0 < seconds < 1e-3:
        return f"{seconds * 1e6:.1f} µs"
    if 0 < seconds < 1:
        return f"{seconds * 1e3:.1f} ms"
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes} min {rest:02d} s"
    return f"{minutes // 60} h {minutes % 60:02d} min"


def human_estimate(seconds: float) -> str:
    """An estimated duration, with as many digits as an estimate has: 0.41 µs, 4.1 µs, 41 µs, 410 µs, 4.1 ms, 4.1 s."""
    seconds = float(f"{seconds:.2g}")
    for unit, size in (("s", 1.0), ("ms", 1e-3)):
        if seconds >= size:
            return f"{_plain(seconds / size)} {unit}"
    return f"{_plain(seconds * 1e6)} µs"


UNCERTAINTY = "±x %: nine in ten latencies lie between estimate / (1 + x) and estimate · (1 + x)"
"""What `human_uncertainty` means, printed wherever it is."""


def human_uncertainty(uncertainty: float | None) -> str:
    """How far off an estimate may be: ±25 %, or `unvalidated` where that is not known."""
    return "unvalidated" if uncertainty is None else f"±{uncertainty * 100:.0f} %"


def _plain(number: float) -> str:
    """Two digits, without an exponent where people need none."""
    return f"{number:.2g}" if number < 100 else f"{float(f'{number:.2g}'):.0f}"
