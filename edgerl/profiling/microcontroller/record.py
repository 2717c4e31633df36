"""The file `measured.json` beside exported C: what was measured of it, so that `edgerl profile` need not estimate that.

It names the SHA-256 of the policy and of each C file, and holds for these only. A reader treats it as hostile.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any

from edgerl.errors import FileFormatError, quoted, reason
from edgerl.files.atomic import read_bytes, write_atomically
from edgerl.files.strict_json import parse_json
from edgerl.profiling.microcontroller.measure import McuMeasurement

NAME = "measured.json"
FORMAT, VERSION = "edgerl C measurement", 1
LARGEST_FILE = 1 << 20
LARGEST_NUMBER = 10**12

CORE_OF_DEVICE = {
    "Cortex-M0+": "cortex-m0plus",
    "Cortex-M4F": "cortex-m4f",
    "Cortex-M7": "cortex-m7",
    "Cortex-M33F": "cortex-m33",
}
"""A device profile's core → the core that is measured for it."""

CORE_OF_TARGET = {"cortex-m4": "cortex-m4f", "cortex-m7": "cortex-m7", "rp2040": "cortex-m0plus"}
"""An export's target → the core that is measured for it."""


@dataclass(frozen=True)
class Record:
    """What a measured.json says that a profile uses. Bytes; None where it was not counted or modelled."""

    core: str
    optimisation: str
    text_bytes: int
    memory_bytes: int  # data and bss
    stack_bytes: int | None  # with libraries where it ran, else only of the functions
    instructions: float | None
    cycles: float | None


def write_record(folder: Path, policy_sha256: str, files: tuple[str, ...], measurement: McuMeasurement) -> None:
    """Write measured.json into the folder of the C files. Raises OutputError."""
    content = {
        "format": FORMAT,
        "version": VERSION,
        "policy_sha256": policy_sha256,
        "files": {name: _digest(folder / name) for name in sorted(files)},
        **measurement.as_dict(),
    }
    write_atomically(folder / NAME, (json.dumps(content, indent=2) + "\n").encode())


def find_record(folder: Path, policy_sha256: str, core: str) -> Record | None:
    """What was measured for `core` (toolchain.CORES) of the policy's C in `folder`.

    None where there is no measurement, or one of another policy, of another core, or of files that have changed since.
    Raises FileFormatError for a file that is not a measurement.
    """
    path = folder / NAME
    if not path.is_file():
        return None
    content = _content(path)
    if content.get("policy_sha256") != policy_sha256 or content.get("core") != core or not _has_files(folder, content):
        return None
    stack = content.get("stack_bytes_with_libraries", content.get("stack_bytes"))
    return Record(
        core=core,
        optimisation="-O2" if content.get("optimisation") == "-O2" else "-O3",
        text_bytes=int(_number(content, "text_bytes", path)),
        memory_bytes=int(_number(content, "data_bytes", path) + _number(content, "bss_bytes", path)),
        stack_bytes=None if stack is None else int(_number({"stack": stack}, "stack", path)),
        instructions=_optional(content, "instructions_per_call", path),
        cycles=_optional(content, "modelled_cycles_per_call", path),
    )


def _content(path: Path) -> dict[str, Any]:
    if path.stat().st_size > LARGEST_FILE:
        raise FileFormatError(f"{path} has more than {LARGEST_FILE} bytes; expected a measurement: export again")
    try:
        content = parse_json(read_bytes(path))
    except ValueError as error:
        raise FileFormatError(f"{path} is not a measurement ({reason(error)}); delete it, or export again") from error
    if not isinstance(content, dict) or content.get("format") != FORMAT or content.get("version") != VERSION:
        raise FileFormatError(f"{path} is not an {FORMAT} of version {VERSION}; delete it, or export again")
    return content


def _has_files(folder: Path, content: dict[str, Any]) -> bool:
    files = content.get("files")
    if not isinstance(files, dict) or not files or any("/" in name or name.startswith(".") for name in files):
        return False
    return all((folder / name).is_file() and _digest(folder / name) == digest for name, digest in files.items())


def _digest(path: Path) -> str:
    return sha256(read_bytes(path)).hexdigest()


def _optional(content: dict[str, Any], name: str, path: Path) -> float | None:
    return None if content.get(name) is None else _number(content, name, path)


def _number(content: dict[str, Any], name: str, path: Path) -> float:
    value = content.get(name)
    is_number = isinstance(value, (int, float)) and not isinstance(value, bool)
    if value is None or not is_number or not 0 <= value <= LARGEST_NUMBER:  # NaN is not, either
        raise FileFormatError(f"{path}: {name} is {quoted(value)}; expected a number from 0 to {LARGEST_NUMBER:.0e}")
    return float(value)
