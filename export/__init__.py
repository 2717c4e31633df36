"""From the compact form to what other runtimes read: a registry of formats, each with one exporter."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Collection
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path

from edgerl.compact.file import from_bytes, to_bytes
from edgerl.compact.policy import CompactPolicy
from edgerl.errors import ConfigError, nearest, require
from edgerl.files import read_bytes, refuse_existing
from edgerl.run_folder import POLICY


@dataclass(frozen=True)
class ExportReport:
    """A file that was written, and checked before it got its name."""

    path: Path
    format: str
    n_bytes: int
    architecture: str  # 17-256-256-6
    opset: int
    largest_difference: float  # to the CompactPolicy in float64, in shares of the action range
    largest_difference_extreme: float  # the same for extreme observations, where float32 itself rounds more
    sparse_layers: int  # layers written as sparse initialisers
    excluded_readers: tuple[str, ...]  # programs that cannot read this file because of them


Exporter = Callable[[CompactPolicy, str, Path, bool], ExportReport]
"""(policy, SHA-256 of its file, output path, sparse initialisers) → report."""

FORMATS = {"onnx": ("edgerl.export.onnx", ("onnx", "onnxruntime"))}
"""Format → (module with a function `export`, what must be installed for it)."""


def check_format(format: str, known: Collection[str] = FORMATS) -> None:
    """Raise ConfigError unless `format` is a known one."""
    if format not in known:
        suggestion = nearest(format, known) or f"; expected {', '.join(known)}"
        raise ConfigError(f"{format[:40]!r} is no export format{suggestion}")


def export_policy(
    policy: CompactPolicy | str | Path,
    format: str,
    path: str | Path,
    *,
    force: bool = False,
    sparse_initializers: bool = False,
) -> ExportReport:
    """Write `policy` (or the policy.safetensors, or the run folder that holds it) to `path` in `format`.

    Raises ConfigError for an unknown format, OutputError where `path` exists and `force` is not given, FileFormatError
    for a damaged policy, MissingExtraError, and CheckFailed, leaving no file, where the written file acts differently.
    """
    check_format(format)
    module, requirements = FORMATS[format]
    refuse_existing(Path(path), force=force)
    for requirement in requirements:
        require(requirement, "export")
    if isinstance(policy, CompactPolicy):
        data = to_bytes(policy)
    else:
        source = Path(policy) / POLICY if Path(policy).is_dir() else Path(policy)
        data = read_bytes(source)
        policy = from_bytes(data, source)
    exporter: Exporter = importlib.import_module(module).export
    return exporter(policy, sha256(data).hexdigest(), Path(path), sparse_initializers)
