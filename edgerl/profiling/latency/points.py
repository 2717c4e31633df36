"""Published latencies, one JSON object a line: a device, a network, a runtime's class, and how long it took.

    {"device_id": "stm32f405", "cpu": "Cortex-M4F", "mhz": 168, "net": "13-64-64-4", "precision": "fp32",
     "runtime_class": "generated-c", "latency_us": 743}

`runtime`, `source` and `note` say more to people. A note with SUSPECT in it takes a point out of every statistic.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any, TypeVar

from edgerl.errors import FileFormatError, quoted, reason
from edgerl.files.atomic import read_bytes
from edgerl.files.kind import JSON, TEXT, refuse_other_kinds
from edgerl.files.strict_json import parse_json
from edgerl.policy.compact import MAXIMUM_UNITS, PRECISIONS, Precision
from edgerl.profiling.latency.model import RUNTIME_CLASSES, RuntimeClass

MAXIMUM_POINTS = 10_000
MAXIMUM_LAYERS = 256
SMALLEST_NUMBER, LARGEST_NUMBER = 1e-6, 1e12
_Name = TypeVar("_Name", bound=str)

LONGEST_NOTE = 200
"""Characters of a note that are repeated."""

CONTRADICTED = {
    (
        "esp32",
        "RLtools generic C++",
    ): "8 times an STM32F405's cycles with the same runtime, as if its FPU did not exist",
    ("stm32f411", "STM32Cube.AI"): "8 times an STM32L476's cycles with the same runtime, network and core",
}
"""(device, runtime) of points that contradict all others, and how: no model of this form can hold both."""


@dataclass(frozen=True)
class Point:
    """One published latency of a dense network, batch of one. `cpu` and `clock_mhz` may be unknown."""

    device_id: str
    runtime_class: RuntimeClass
    widths: tuple[int, ...]
    precision: Precision
    latency_us: float
    cpu: str | None
    clock_mhz: float | None
    doubt: str | None  # why it is in no statistic

    @property
    def layers(self) -> int:
        """Affine layers."""
        return len(self.widths) - 1

    @property
    def outputs(self) -> int:
        """Outputs of all layers."""
        return sum(self.widths[1:])

    @property
    def multiply_adds(self) -> int:
        """Weights of the dense network."""
        return sum(n * m for n, m in pairwise(self.widths))

    @property
    def net(self) -> str:
        """Layer widths, as in 13-64-64-4."""
        return "-".join(map(str, self.widths))


def read_points(path: Path) -> list[Point]:
    """The points of a file, in its order. Raises FileFormatError, which names the line."""
    data = read_bytes(path)
    refuse_other_kinds(data, path, "one JSON object a line", JSON, TEXT)
    try:
        lines = data.decode("utf-8-sig").split("\n")
    except UnicodeDecodeError as error:
        raise FileFormatError(f"{path} is not UTF-8 text; expected one JSON object a line") from error
    numbered = [(number, line) for number, line in enumerate(lines, 1) if line.strip()]
    if not 1 <= len(numbered) <= MAXIMUM_POINTS:
        raise FileFormatError(f"{path} has {len(numbered)} points; expected 1 to {MAXIMUM_POINTS}")
    return [_point(line, f"{path}, line {number}") for number, line in numbered]


def parse_net(text: str) -> tuple[int, ...] | None:
    """The layer widths in a text such as 13-64-64-4; None where it is not one."""
    parts = text.split("-")
    if not 2 <= len(parts) <= MAXIMUM_LAYERS + 1 or not all(p.isascii() and p.isdigit() and len(p) < 6 for p in parts):
        return None
    widths = tuple(map(int, parts))
    return widths if all(1 <= width <= MAXIMUM_UNITS for width in widths) else None


def _point(line: str, where: str) -> Point:
    try:
        row = parse_json(line)
    except ValueError as error:
        raise FileFormatError(f"{where} is not a JSON object ({reason(error)}); expected one a line") from error
    if not isinstance(row, dict):
        raise FileFormatError(f"{where}: {quoted(row)} is not a JSON object; expected one a line")
    device_id = _text(row, "device_id", where)
    widths = parse_net(_text(row, "net", where))
    if widths is None:
        raise FileFormatError(f"{where}: net is {quoted(row['net'])}; expected layer widths, as in 13-64-64-4")
    return Point(
        device_id=device_id,
        runtime_class=_choice(row, "runtime_class", RUNTIME_CLASSES, where),
        widths=widths,
        precision=_choice(row, "precision", tuple(PRECISIONS), where),
        latency_us=_number(row, "latency_us", where),
        cpu=_text(row, "cpu", where) if row.get("cpu") is not None else None,
        clock_mhz=_number(row, "mhz", where) if row.get("mhz") is not None else None,
        doubt=_doubt(row, device_id),
    )


def _text(row: dict[str, Any], key: str, where: str) -> str:
    value = row.get(key)
    if not isinstance(value, str) or not value.isprintable() or not 0 < len(value) <= 2000:
        raise FileFormatError(f"{where}: {key} is {quoted(value)}; expected a text on one line")
    return value


def _choice(row: dict[str, Any], key: str, choices: tuple[_Name, ...], where: str) -> _Name:
    """One of the choices; what follows it, as in "fp32 soft", is a remark: the core decides."""
    text = _text(row, key, where)
    for choice in choices:
        if text.split()[:1] == [choice]:
            return choice
    raise FileFormatError(f"{where}: {key} is {quoted(text)}; expected one of {', '.join(choices)}")


def _number(row: dict[str, Any], key: str, where: str) -> float:
    value = row.get(key)
    if isinstance(value, bool) or not isinstance(value, int | float) or not SMALLEST_NUMBER <= value <= LARGEST_NUMBER:
        expected = f"a number from {SMALLEST_NUMBER:g} to {LARGEST_NUMBER:g}"
        raise FileFormatError(f"{where}: {key} is {quoted(value)}; expected {expected}")
    return float(value)


def _doubt(row: dict[str, Any], device_id: str) -> str | None:
    note = str(row.get("note", ""))
    if "SUSPECT" in note:
        line = " ".join(note.split())[:LONGEST_NOTE]
        return f"its note says {line if line.isprintable() else ascii(line)}"
    return CONTRADICTED.get((device_id, str(row.get("runtime"))))
