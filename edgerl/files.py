"""Files that are whole or absent, and the one container that holds tensors.

A write goes to a temporary file beside its goal, is synced, renamed over it, and the folder is synced: after a crash
the old file or the new one is there, never a part of one.

A tensor file is a safetensors file whose metadata has one key, `edgerl`: a JSON object with the file's `kind`, its
format `version`, whatever its kind adds, and `sha256` over all of that and over every tensor (docs/format.md).
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import secrets
import struct
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import safetensors
import safetensors.numpy

from edgerl.errors import FileFormatError, OutputError, quoted, reason

Tensors = dict[str, npt.NDArray[Any]]

HEADER_ALIGNMENT = 4096
"""Bytes. Tensors begin on a page, so that a device can map them; and a file's size follows from its tensors alone."""

MAXIMUM_BYTES = 1 << 31
"""A larger file is refused before it is read."""

MAXIMUM_NESTING = 32
"""Objects and lists of metadata inside each other: more would exhaust the stack of whoever prints them."""

_DTYPES = {
    "F64": np.float64,
    "F32": np.float32,
    "F16": np.float16,
    "I64": np.int64,
    "I32": np.int32,
    "I8": np.int8,
    "U64": np.uint64,
    "U32": np.uint32,
    "U16": np.uint16,
    "U8": np.uint8,
    "BOOL": np.bool_,
}


def sync_directory(path: Path) -> None:
    """Make a rename inside `path` survive a power cut."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def refuse_existing(path: Path, *, force: bool) -> None:
    """Raise OutputError where an explicit output path exists and may not be replaced, or is no ordinary file."""
    try:
        exists, is_file = path.exists(), path.is_file()
    except OSError as error:
        raise OutputError(f"cannot write {path}: {error.strerror}") from error
    if exists and not is_file:
        raise OutputError(f"{path} is no ordinary file; choose another -o")
    if exists and not force:
        raise OutputError(f"{path} exists already; pass --force to replace it, or another -o")


def write_atomically(path: Path, data: bytes, *, check: Callable[[Path], None] | None = None) -> None:
    """Write `data` to `path` so that a crash leaves the old file or the new one.

    `check` runs on the temporary file, synced and complete; when it raises, nothing is left under either name.

    Raises OutputError when the folder does not exist or cannot be written.
    """
    temporary = path.parent / f".edgerl-{secrets.token_hex(4)}.tmp"
    try:
        descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666)  # less the user's umask
    except OSError as error:
        raise OutputError(f"cannot write {path}: {error.strerror}; choose an existing, writable folder") from error
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        if check is not None:
            check(temporary)
        temporary.replace(path)
        sync_directory(path.parent)
    except OSError as error:
        raise OutputError(f"cannot write {path}: {error.strerror}") from error
    finally:
        with contextlib.suppress(FileNotFoundError):
            temporary.unlink()


def read_bytes(path: Path) -> bytes:
    """The bytes of a file of reasonable size; FileFormatError says why there are none."""
    try:
        if not path.is_file():
            raise FileFormatError(f"{path} is {'a folder' if path.is_dir() else 'not there'}; expected a file")
        if (size := path.stat().st_size) > MAXIMUM_BYTES:
            raise FileFormatError(f"{path} has {size} bytes; expected at most {MAXIMUM_BYTES}")
        return path.read_bytes()
    except OSError as error:
        raise FileFormatError(f"cannot read {path}: {error.strerror}") from error


def pack_tensors(
    kind: str, version: int, metadata: Mapping[str, Any], tensors: Mapping[str, npt.NDArray[Any]]
) -> bytes:
    """The bytes of a tensor file; the same input gives the same bytes."""
    described = {**metadata, "kind": kind, "version": version}
    described["sha256"] = _checksum(described, tensors)
    contiguous = {name: np.asarray(tensor, order="C") for name, tensor in tensors.items()}
    packed: bytes = safetensors.numpy.save(contiguous, metadata={"edgerl": _canonical(described)})
    (length,) = struct.unpack_from("<Q", packed)
    padding = -(8 + length) % HEADER_ALIGNMENT
    return b"".join((struct.pack("<Q", length + padding), packed[8 : 8 + length], b" " * padding, packed[8 + length :]))


def unpack_tensors(data: bytes, source: Path, kind: str, version: int) -> tuple[dict[str, Any], Tensors]:
    """Metadata and tensors of a tensor file of the given kind and version.

    Raises FileFormatError when the container, its kind, its version or its checksum is not what it must be. Names,
    shapes and values are for the caller to check.
    """
    metadata, tensors = _parse(data, source)
    if metadata.get("kind") != kind:
        raise FileFormatError(f"{source} holds {quoted(metadata.get('kind'))}; expected {kind!r}")
    found = metadata.get("version")
    if type(found) is not int or found != version:
        raise FileFormatError(f"{source} has format version {quoted(found)}; this edgerl reads version {version}")
    claimed = metadata.pop("sha256", None)
    if claimed != _checksum(metadata, tensors):
        raise FileFormatError(f"{source} has been altered: its SHA-256 does not match its content; make the file again")
    return {**metadata, "sha256": claimed}, tensors


def tensor_file_kind(data: bytes, source: Path) -> str:
    """The `kind` that a tensor file claims, unchecked."""
    return str(_parse(data, source)[0].get("kind"))


def _parse(data: bytes, source: Path) -> tuple[dict[str, Any], Tensors]:
    try:
        entries = safetensors.deserialize(data)  # type: ignore[no-untyped-call]
        (length,) = struct.unpack_from("<Q", data)
        header = data[8 : 8 + length]
        if not header.rstrip(b" ").endswith(b"}"):
            raise ValueError("its header is padded by something else than spaces")
        metadata = _read_canonical(json.loads(header)["__metadata__"]["edgerl"])
        tensors = {name: _tensor(entry) for name, entry in entries}
    except (safetensors.SafetensorError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise FileFormatError(f"{source} is no edgerl tensor file, or is truncated ({reason(error)})") from error
    return metadata, tensors


def _read_canonical(text: str) -> dict[str, Any]:
    """The JSON object in `text`, which must be written the one way that `_canonical` does: no altered byte passes."""
    metadata = json.loads(text)
    if not isinstance(metadata, dict):
        raise ValueError("its metadata is no JSON object")
    if _nests_deeper(metadata, MAXIMUM_NESTING):
        raise ValueError(f"its metadata nests deeper than {MAXIMUM_NESTING} levels")
    if _canonical(metadata) != text:
        raise ValueError("its metadata is no canonical JSON")
    return metadata


def _nests_deeper(value: object, levels: int) -> bool:
    if not isinstance(value, dict | list):
        return False
    inner = value.values() if isinstance(value, dict) else value
    return levels == 0 or any(_nests_deeper(part, levels - 1) for part in inner)


def _tensor(entry: Mapping[str, Any]) -> npt.NDArray[Any]:
    return np.frombuffer(entry["data"], dtype=_DTYPES[entry["dtype"]]).reshape(entry["shape"])


def _canonical(metadata: Mapping[str, Any]) -> str:
    return json.dumps(metadata, sort_keys=True, separators=(",", ":"), allow_nan=False)


def _checksum(metadata: Mapping[str, Any], tensors: Mapping[str, npt.NDArray[Any]]) -> str:
    digest = hashlib.sha256(_canonical(metadata).encode())
    for name in sorted(tensors):
        tensor = tensors[name]
        digest.update(f"\n{name} {tensor.dtype.str} {tensor.shape}\n".encode())
        digest.update(tensor.tobytes())
    return digest.hexdigest()
