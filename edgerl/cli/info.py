"""`edgerl info`: what a file is."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import asdict
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from edgerl.cli.models import POLICY
from edgerl.cli.output import Json, human_bytes, print_json, print_table
from edgerl.errors import FileFormatError, UnsupportedModelError

if TYPE_CHECKING:
    from edgerl.compact.policy import CompactPolicy
    from edgerl.profiling.model import LayerRow

Description = dict[str, Any]


def command(
    file: Annotated[
        Path, typer.Argument(help="A policy, checkpoint, ONNX model, replay, device profile or run folder.")
    ],
    json: Json = False,
) -> None:
    """Say what a file is: kind, environment, sizes, sparsity, action contract, hash, versions.

    The whole file is checked on the way; a damaged one is named as such.

    Example: edgerl info runs/latest/policy.safetensors
    """
    description = describe(file)
    if json:
        print_json(description)
        return
    layers = description.pop("layers", None)
    for name, value in _flat(description):
        print(f"{name:<24} {value}")
    if layers:
        columns = ("layer", "connections", "density", "precision", "block", "stored", "bytes")
        print_table(columns, (_row(index, layer) for index, layer in enumerate(layers)))


def describe(path: Path) -> Description:
    """What `path` is, as a JSON object. Raises an EdgerlError where it is nothing known, or damaged."""
    if path.is_dir():
        return _run_folder(path)
    readers: dict[str, Callable[[Path, bytes], Description]] = {
        ".safetensors": _tensor_file,
        ".onnx": _onnx,
        ".toml": _device,
        ".bin": _replay,
    }
    if path.suffix not in readers:
        what = f"has the suffix {path.suffix!r}" if path.exists() else "is not there"
        raise FileFormatError(f"{path} {what}; expected a run folder or a file of {', '.join(readers)}")
    if path.suffix == ".bin":  # a replay may be larger than memory
        return _replay(path, b"")
    from edgerl.files import read_bytes

    data = read_bytes(path)
    file = {"file": str(path), "bytes": len(data), "sha256": sha256(data).hexdigest()}
    return readers[path.suffix](path, data) | file
