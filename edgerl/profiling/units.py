"""Quantities as people type them: 64KiB, 500us, 1e6."""

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
    """Seconds in `text`, such as 500us, 2ms or 0.1s; a bare number is refused, for nobody knows its unit."""
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
