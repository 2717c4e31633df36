"""From the compact form to what other runtimes read: a registry of formats, each with one exporter."""

from __future__ import annotations

import importlib
from collections.abc import Collection
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, overload

from edgerl.errors import ConfigError, nearest, require
from edgerl.files.atomic import read_bytes
from edgerl.policy.compact import Array, CompactPolicy
from edgerl.policy.format import from_bytes, to_bytes
from edgerl.run_folder import POLICY

if TYPE_CHECKING:
    from edgerl.export.c import COptions, CReport
    from edgerl.export.onnx import OnnxReport


@dataclass(frozen=True)
class ExportReport:
    """What was written, whatever the format; each format's report adds its own."""

    path: Path
    format: str
    architecture: str  # 17-256-256-6


FORMATS = {"onnx": ("edgerl.export.onnx", ("onnx", "onnxruntime")), "c": ("edgerl.export.c", ())}
"""Format → (module with a function `export`, what must be installed for it)."""


def check_format(format: str, known: Collection[str] = FORMATS) -> None:
    """Raise ConfigError unless `format` is a known one."""
    if format not in known:
        suggestion = nearest(format, known) or f"; expected {', '.join(known)}"
        raise ConfigError(f"{format[:40]!r} is no export format{suggestion}")


@overload
def export_policy(
    policy: CompactPolicy | str | Path,
    format: Literal["onnx"],
    path: str | Path,
    *,
    force: bool = False,
    sparse_initializers: bool = False,
) -> OnnxReport: ...


@overload
def export_policy(
    policy: CompactPolicy | str | Path,
    format: Literal["c"],
    path: str | Path,
    *,
    force: bool = False,
    options: COptions | None = None,
    command: str = ...,
    device: str | None = None,
    project: bool = False,
    observations: Array | None = None,
) -> CReport: ...


def export_policy(
    policy: CompactPolicy | str | Path, format: str, path: str | Path, *, force: bool = False, **choices: Any
) -> ExportReport:
    """Write `policy` (or the policy.safetensors, or the run folder that holds it) to `path` in `format`.

    onnx: `path` is a file; choices: sparse_initializers. c: `path` is a folder; choices: options (a
    edgerl.export.c.COptions), command and device, which the header names, project, and observations, recorded ones over
    which the loss of smaller weights is stated.

    Raises ConfigError for an unknown format, OutputError where a file exists and `force` is not given, FileFormatError
    for a damaged policy, MissingExtraError, UnsupportedModelError, and CheckFailed, leaving no file, where the written
    file acts differently.
    """
    check_format(format)
    module, requirements = FORMATS[format]
    for requirement in requirements:
        require(requirement, "export")
    if isinstance(policy, CompactPolicy):
        data = to_bytes(policy)
    else:
        source = Path(policy) / POLICY if Path(policy).is_dir() else Path(policy)
        data = read_bytes(source)
        policy = from_bytes(data, source)
    report: ExportReport = importlib.import_module(module).export(
        policy, sha256(data).hexdigest(), Path(path), force=force, **choices
    )
    return report
